/*
 * pool.c - type-stable objects named by 32-bit ids.
 *
 * Address space for `max` objects is reserved once and made usable 64 KiB at a time, so an id is one multiplication away
 * from its object as long as the pool lives, and memory follows the number of objects used. Freed objects keep their bytes
 * except the free link: a lock-free reader with a stale id reads old or new content of the same type.
 *
 * A closed pool hands out freed objects and no fresh ones, so the unused end of its reserve can be unmapped.
 *
 * Lock: the pool's own (level 8). Growing is the only system call. Fresh objects are zero.
 */
#include <sys/mman.h>

#include "memory/memory.h"

enum { PC_POOL_STEP = 64 << 10 };

int pc_pool_init(struct pc_pool *p, u32 size, u32 link_at, u32 max)
{
	memset(p, 0, sizeof(*p));
	p->size = size;
	p->link_at = link_at;
	p->max = max;
	atomic_store(&p->fresh, 1); /* id 0 is "none" */
	p->reserved = ((size_t)size * ((size_t)max + 1) + PC_POOL_STEP - 1) / PC_POOL_STEP * PC_POOL_STEP;
	/* Readable as zeros from the start: a lock-free reader may pair a stale id with the pool of another size class. */
	p->base = mmap(NULL, p->reserved, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->base != MAP_FAILED)
		return 0;
	p->reserved = 0;
	return -ENOMEM;
}

void pc_pool_destroy(struct pc_pool *p)
{
	if (p->reserved)
		munmap(p->base, p->reserved);
	p->reserved = 0;
}

/* Hand out no fresh object from here on. Return: ids below this were handed out. */
u32 pc_pool_close(struct pc_pool *p)
{
	pc_leaf_lock(&p->lock, PC_LEVEL_FRAME);
	u32 fresh = p->fresh;
	p->max = fresh - 1;
	pc_leaf_unlock(&p->lock, PC_LEVEL_FRAME);
	return fresh;
}

/* Unmap the address space behind `ids` objects of a closed pool; these objects stay readable. */
void pc_pool_trim(struct pc_pool *p, u32 ids)
{
	pc_leaf_lock(&p->lock, PC_LEVEL_FRAME);
	size_t keep = ((size_t)p->size * ids + PC_POOL_STEP - 1) / PC_POOL_STEP * PC_POOL_STEP;
	keep = keep < p->committed ? p->committed : keep;
	if (keep < p->reserved) {
		munmap(p->base + keep, p->reserved - keep);
		p->reserved = keep;
	}
	pc_leaf_unlock(&p->lock, PC_LEVEL_FRAME);
}

static u32 *link_of(struct pc_pool *p, u32 id)
{
	return (u32 *)((u8 *)pc_pool_at(p, id) + p->link_at);
}

/* Return: id of an object, 0 when neither a free one nor memory for a fresh one is left. */
u32 pc_pool_alloc(struct pc_pool *p)
{
	u32 id = 0;
	pc_leaf_lock(&p->lock, PC_LEVEL_FRAME);
	if (p->free_head) {
		id = p->free_head;
		p->free_head = *link_of(p, id);
	} else if (p->fresh <= p->max) {
		size_t end = (size_t)p->size * (p->fresh + 1);
		bool fits = end <= p->committed;
		if (!fits) {
			size_t step = PC_POOL_STEP;
			while (p->committed + step < end)
				step += PC_POOL_STEP;
			fits = mprotect(p->base + p->committed, step, PROT_READ | PROT_WRITE) == 0;
			if (fits)
				p->committed += step;
		}
		if (fits)
			id = atomic_fetch_add_explicit(&p->fresh, 1, memory_order_relaxed);
	}
	if (id)
		atomic_store_explicit(&p->used, p->used + 1, memory_order_relaxed);
	pc_leaf_unlock(&p->lock, PC_LEVEL_FRAME);
	return id;
}

void pc_pool_free(struct pc_pool *p, u32 id)
{
	pc_leaf_lock(&p->lock, PC_LEVEL_FRAME);
	PC_ASSERT(id && id < p->fresh);
	*link_of(p, id) = p->free_head;
	p->free_head = id;
	atomic_store_explicit(&p->used, p->used - 1, memory_order_relaxed);
	pc_leaf_unlock(&p->lock, PC_LEVEL_FRAME);
}
