/*
 * cache.h - all that the volumes of one cache share: memory, pools, reclaim queues, limits, tables of inodes and volumes.
 */
#ifndef PC_CACHE_H
#define PC_CACHE_H

#include "memory/memory.h"
#include "state/reclaim.h"
#include "state/shadow.h"
#include "state/waits.h"

enum { PC_EXT_CLASSES = 4 };
enum { PC_INODES_MAX = 1 << 24, PC_INODES_MIN = 1 << 20, PC_INODE_SLOT_BITS = 24 };
enum { PC_FOLIO_EVENTS = 256 };

/* A transition of a folio or file (trace.c). */
enum { PC_TRACE_RECORDS = 4096 };
struct pc_trace_record {
	_Atomic(const char *) what;
	_Atomic u64 number, inode, index, value;
};

struct pc_cache {
	struct pc_arena arena;
	struct pc_pool folios, leaves, nodes, exts[PC_EXT_CLASSES], requests, shadows;
	struct pc_pool waits; /* records of sleeping threads (waits.c) */
	u64 wait_number; /* the lock of `waits` */
	u32 page_shift, page_size, max_order;
	u32 cow_pages;
	_Atomic u64 local;                      /* blocks of L in the whole cache, those of P aside */
	_Atomic u64 unstable;                   /* blocks of U */
	_Atomic u64 write_pinned;               /* blocks of P */
	_Atomic u64 range_bytes;                /* memory that the maps of S and B take */
	_Atomic u64 dirty_limit, dirty_background; /* blocks */
	_Atomic u64 dirty_free;                    /* blocks: the midpoint between these two */
	_Atomic u64 reserved;                      /* blocks, of all volumes */
	struct pc_leaf_lock room_lock;             /* level 7: reservations, lines */
	_Atomic u64 now_ns;
	_Atomic u32 poison;
	_Atomic u32 flusher_wanted;
	struct pc_event event;         /* room */
	struct pc_event flusher_event; /* the engine's flusher sleeps here */
	struct pc_event folio_events[PC_FOLIO_EVENTS];
	struct pc_leaf_lock queue_lock; /* level 7: queues, ghost */
	struct pc_fifo small, main;
	u64 inserted;  /* pages put on the queues as new ones so far */
	u64 probation; /* wanted pages of `small`; see probation_of */
	bool filling;  /* main takes what leaves probation */
	u32 *ghost;    /* fingerprint << 16 | time of the last use; 0: none */
	u32 ghost_mask;
	size_t ghost_reserved;
	_Atomic u64 evicted, evict_examined_max, evict_calls, evict_examined;
	_Atomic u64 ahead; /* pages of requests that run or wait before their reader (readahead.c) */
	struct pc_leaf_lock shadow_lock; /* level 8 */
	u64 held_pages; /* of the frames in the table */
	u32 shadow_heads[PC_SHADOW_BUCKETS];
	struct pc_leaf_lock table_lock; /* level 7: inode slots, volumes */
	_Atomic(struct pc_inode *) *inodes; /* written under the lock, like the number of slots; read without */
	u32 inodes_max; /* room in `inodes`: a cached object has a page at least */
	struct pc_inode *free_inodes;
	_Atomic u32 inode_slots;
	_Atomic u32 nr_inodes;
	_Atomic u32 nr_hollow;
	u32 checks; /* pc_check's own, like `checked` in a volume */
	struct pc_leaf_lock
		hollow_lock; /* level 8: the lists of hollow inodes; reclaim takes it under its queue lock */
	u64 inode_generation;
	struct pc_volume *volumes[PC_VOLUMES_MAX], *free_volumes;
	u16 next_tag;
	_Alignas(16) u32 fork_epoch; /* every verb reads it */
	_Atomic u8 closed;
	_Atomic u32
		copies; /* optimistic copies that run without the interpreter lock: frames stay mapped until they end */
	_Atomic u64 frames_allocated, frames_freed, cow_copies, staged_copies, quarantined;
	struct pc_trace_record *trace;
	_Atomic u64 trace_next;
	void *tracer; /* an object of the extension, which gets the events of a trace (spans.c); the GIL */
	u64 traced; /* events so far */
};

/* trace.c */
void pc_trace_add(struct pc_cache *c, const char *what, u64 inode, u64 index, u64 value);

/* end.c */
void pc_cache_unmap(struct pc_cache *c);

/* Behind the last page that a file can have. */
static inline u64 pc_last_index(const struct pc_cache *c)
{
	return UINT64_MAX >> c->page_shift;
}

/* Whether this is the child of a fork, where the cache has none of its threads. */
static inline bool pc_is_forked(const struct pc_cache *c)
{
	return c->fork_epoch != atomic_load_explicit(&pc_fork_epoch, memory_order_relaxed);
}

static inline u64 pc_now(const struct pc_cache *c)
{
	return atomic_load_explicit(&((struct pc_cache *)c)->now_ns, memory_order_relaxed);
}

#endif
