/*
 * waits.h - a record for each sleeping caller, with its condition, as long as it sleeps (waits.c).
 */
#ifndef PC_WAITS_H
#define PC_WAITS_H

#include "memory/memory.h"

struct pc_cache;

enum { PC_WAITS_MAX = 1 << 16 };

/* One wait. `reason` is an object of the writer and the readers of records; CORE only keeps it. */
struct pc_wait {
	u32 kind; /* PC_WAIT_* */
	u32 link_free; /* of a record: the pool's */
	u64 since_ns;
	u64 thread; /* as pthread_self() says */
	u64 volume; /* address, 0: of none */
	u64 inode;  /* id, 0: of none */
	u64 pos, end;
	u64 reason;
	u64 number; /* of the record: never used twice in a cache; 0: free */
};

u64 pc_thread_id(void);
u32 pc_wait_begin(struct pc_cache *c, const struct pc_wait *w);
void pc_wait_end(struct pc_cache *c, u32 id);
u64 pc_wait_read(struct pc_cache *c, u32 id, struct pc_wait *out);
u32 pc_waits_bound(struct pc_cache *c);

#endif
