/*
 * pool.h - fixed-size, type-stable objects named by 32-bit ids; id 0 is "none".
 */
#ifndef PC_POOL_H
#define PC_POOL_H

#include "base/base.h"

/* The free link lives in a field of the object that no lock-free reader follows (`link_at`). */
struct pc_pool {
	struct pc_leaf_lock lock;
	u8 *base;
	u32 size, link_at, max;
	_Atomic u32 fresh; /* ids below this were handed out once */
	u32 free_head;     /* ids given back */
	_Atomic u32 used;  /* written under the lock, read without */
	size_t committed, reserved; /* bytes */
};

int pc_pool_init(struct pc_pool *p, u32 size, u32 link_at, u32 max);
void pc_pool_destroy(struct pc_pool *p);
u32 pc_pool_alloc(struct pc_pool *p);
void pc_pool_free(struct pc_pool *p, u32 id);
u32 pc_pool_close(struct pc_pool *p);
void pc_pool_trim(struct pc_pool *p, u32 ids);

static inline void *pc_pool_at(const struct pc_pool *p, u32 id)
{
	return p->base + (size_t)id * p->size;
}

#endif
