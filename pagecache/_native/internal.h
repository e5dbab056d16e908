/*
 * internal.h - the private data structures of CORE and the one table of its locks.
 *
 * Everything that a folio can be is one 32-bit state word, six block sets and a list of byte extents; everything that a
 * file can be is one inode with one radix index. All memory here is type-stable: descriptors, index nodes and extensions
 * come from pools that are never unmapped while the cache lives, so a reader without a lock may follow a stale id and
 * find out by comparing identities (contract 1.4).
 *
 * Locks, outer to inner (contract section 3). Logical locks are states with an owner; leaf locks are short spin-then-sleep
 * sections in which nothing allocates, reclaims, copies content or calls Python.
 *
 *   level  name              kind     guards / edge taken in
 *   1      inode lock        logical  content order of writers, truncate     lock.c pc_inode_lock_*
 *   3      token             logical  the right to create requests, commit   lock.c pc_token_*
 *   4      invalidate        logical  `inval_x`: no fill may start           truncate.c
 *   5      folio lock        logical  PC_F_LOCKED: V, identity, membership   folio.c pc_folio_trylock
 *   6      inode leaf        leaf     sets, stamps, marks, sizes, index, token queue, pass state
 *   7      reclaim queue     leaf     S3-FIFO links, queue bits, ghost       reclaim.c (trylocks 5 and 6 of a victim)
 *   7      volume leaf       leaf     work queues, dirty list
 *   8      shadow, arena, pool  leaf  frames held by calls; free blocks; free ids
 *
 * Waits and who ends them:
 *   folio event (hashed)   a locked or in-flight folio    pc_folio_unlock, pc_complete; abort wakes all
 *   inode event            stamps, commits, token         pc_complete, pc_commit_end, pc_token_release, abort
 *   volume event           work, credits                  whoever queues work or gives a credit back; abort
 *   cache event            room for dirty data            completions, commits, discards, limit changes; abort
 *   fair queues            inode lock, token              the holder's release, granted in order; cancel answers GRANTED
 */
#ifndef PC_INTERNAL_H
#define PC_INTERNAL_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "pagecache.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

#define PC_LIKELY(x)   __builtin_expect(!!(x), 1)
#define PC_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* ---------------------------------------------------------------- assertions, sync points */

void pc_fail_assert(const char *file, int line, const char *text) __attribute__((noreturn, cold));

/* PC_ASSERT guards memory safety and stays on; PC_DEBUG_ASSERT states what the transition table allows. */
#define PC_ASSERT(c) ((void)(PC_LIKELY(c) || (pc_fail_assert(__FILE__, __LINE__, #c), 0)))
#ifdef PC_DEBUG
#define PC_DEBUG_ASSERT(c) PC_ASSERT(c)
void pc_sync_reached(const char *point);
#define PC_SYNC(point) pc_sync_reached(point)
void pc_debug_lock(int level);
void pc_debug_trylock(int level);
void pc_debug_unlock(int level);
void pc_debug_unlocked(const char *where);
#else
#define PC_DEBUG_ASSERT(c)       ((void)0)
#define PC_SYNC(point)           ((void)0)
#define pc_debug_lock(level)     ((void)0)
#define pc_debug_trylock(level)  ((void)0)
#define pc_debug_unlock(level)   ((void)0)
#define pc_debug_unlocked(where) ((void)0)
#endif

/* ---------------------------------------------------------------- leaf locks and events */

enum { PC_LEVEL_INODE = 6, PC_LEVEL_QUEUE = 7, PC_LEVEL_FRAME = 8 };

struct pc_leaf_lock {
	_Atomic u32 word; /* 0 free, 1 held, 2 held and somebody sleeps */
};

void pc_leaf_lock_slow(struct pc_leaf_lock *l);
void pc_leaf_wake(struct pc_leaf_lock *l);

static inline bool pc_leaf_trylock(struct pc_leaf_lock *l, int level)
{
	u32 free_word = 0;
	(void)level;
	if (!atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
						     memory_order_relaxed))
		return false;
	pc_debug_trylock(level); /* out of order is allowed: it cannot wait */
	return true;
}

static inline void pc_leaf_lock(struct pc_leaf_lock *l, int level)
{
	u32 free_word = 0;
	(void)level;
	if (PC_UNLIKELY(!atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
								 memory_order_relaxed)))
		pc_leaf_lock_slow(l);
	pc_debug_lock(level);
}

static inline void pc_leaf_unlock(struct pc_leaf_lock *l, int level)
{
	(void)level;
	pc_debug_unlock(level);
	if (PC_UNLIKELY(atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2))
		pc_leaf_wake(l);
}

/* An eventcount: a waiter reads `seq`, looks at its condition, and sleeps only while `seq` stands. */
struct pc_event {
	_Atomic u32 seq;
	_Atomic u32 waiters;
};

/* ---------------------------------------------------------------- pools */

/* Fixed-size, type-stable objects named by 32-bit ids; id 0 is "none". The free link lives in a field of the object that
 * no lock-free reader follows (`link_at`). */
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
u32 pc_pool_close(struct pc_pool *p);
void pc_pool_trim(struct pc_pool *p, u32 ids);
u32 pc_pool_alloc(struct pc_pool *p);
void pc_pool_free(struct pc_pool *p, u32 id);

static inline void *pc_pool_at(const struct pc_pool *p, u32 id)
{
	return p->base + (size_t)id * p->size;
}

/* ---------------------------------------------------------------- arena */

enum { PC_ORDERS = 10, PC_SUMMARIES = 5 };

/* Free blocks of one order: a bitmap with 64-way summaries, so that the lowest free block is found in a few steps and a
 * buddy is one bit test. Lowest first keeps low addresses dense, which is what large folios and huge pages need. */
struct pc_bitmap {
	u64 *words[PC_SUMMARIES];
	u32 bits;
	u32 levels;
	u32 set;
};

struct pc_arena {
	struct pc_leaf_lock lock;
	u8 *base;
	size_t reserved;      /* bytes of address space */
	u32 page_shift;
	u32 frames;           /* committed: usable frame numbers are below this */
	u32 frames_max;       /* reserved */
	_Atomic u32 capacity; /* frames that may be in use at once */
	_Atomic u32 used;
	_Atomic u32 transit;  /* handed out or taken back, and at this moment in nobody's structure */
	struct pc_bitmap free[PC_ORDERS];
	u16 *owner_tag; /* per 16 frames: volume tag whose bytes lie there; 0 untouched, 0xffff mixed */
	void *tables;
	size_t tables_size;
	u8 closed; /* no frame is handed out any more */
};

int pc_arena_init(struct pc_arena *a, u64 capacity, u32 page_shift, u64 reserve);
void pc_arena_destroy(struct pc_arena *a);
void pc_arena_close(struct pc_arena *a);
void pc_arena_release(struct pc_arena *a);
int pc_arena_resize(struct pc_arena *a, u64 capacity);
void pc_arena_give_back(struct pc_arena *a);
u32 pc_arena_alloc(struct pc_arena *a, u32 order);
void pc_arena_free(struct pc_arena *a, u32 frame, u32 order);
bool pc_arena_is_free(const struct pc_arena *a, u32 frame);
bool pc_arena_check(const struct pc_arena *a, struct pc_violation *out);
bool pc_violated(struct pc_violation *out, const char *invariant, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
bool pc_arena_claim(struct pc_arena *a, u32 frame, u32 order, u16 tag);
size_t pc_arena_metadata(const struct pc_arena *a);

enum { PC_NO_FRAME = 0xffffffff };

static inline u8 *pc_arena_at(const struct pc_arena *a, u32 frame)
{
	return a->base + ((size_t)frame << a->page_shift);
}

/* ---------------------------------------------------------------- folios */

enum pc_folio_flag {
	PC_F_LOCKED = 1 << 0,
	PC_F_WAITERS = 1 << 1,
	PC_F_UPTODATE = 1 << 2,   /* V is everything */
	PC_F_DIRTY = 1 << 3,      /* D is not empty */
	PC_F_WRITEBACK = 1 << 4,  /* W is not empty */
	PC_F_UNSTABLE = 1 << 5,   /* U is not empty */
	PC_F_FAILED = 1 << 6,     /* X is not empty */
	PC_F_STAGED = 1 << 7,     /* T is not empty */
	PC_F_BACKOFF = 1 << 8,    /* passes skip it until the engine clears this (2.14) */
	PC_F_RECLAIM = 1 << 9,    /* met by reclaim while local: evict soon after it is clean */
	PC_F_READAHEAD = 1 << 10, /* reading it triggers the next window */
	PC_F_UNREAD = 1 << 11,    /* read ahead and not yet used (thrash rule, 2.6) */
	PC_F_STALE = 1 << 12,     /* remote change pending: bytes outside L must not satisfy reads */
	PC_F_DETACHED = 1 << 13,  /* out of the index, alive through pins or calls */
	PC_F_PINNED = 1 << 14,    /* a view holds its memory */
	PC_F_WRITER_WAITS = 1 << 15,
	PC_F_COPIED = 1 << 16,    /* one-page folio: the running call has the old frame */
	PC_F_KEPT = 1 << 17,      /* a backend may still store to what is missing: that needs another frame first */
	PC_F_ACCESS_SHIFT = 20, /* two bits */
	PC_F_SMALL = 1 << 22,   /* on the probation queue */
	PC_F_MAIN = 1 << 23,    /* on the main queue */
};

#define PC_F_ACCESS (3u << PC_F_ACCESS_SHIFT)
#define PC_F_LOCAL  (PC_F_DIRTY | PC_F_WRITEBACK | PC_F_UNSTABLE)

/* Block sets. For one-page folios all but V are the flags themselves; larger folios keep bitmaps in their extension. */
enum pc_set { PC_V, PC_D, PC_W, PC_U, PC_X, PC_T, PC_SETS };

/* Epochs are stored in 48 bits: at a million fsyncs a second they last for nine years. */
struct pc_stamp {
	u16 part[3];
};
#define PC_STAMP_NONE ((1ull << 48) - 1)

struct pc_folio {
	_Atomic u32 state;
	_Atomic u32 seq; /* odd while identity, frame or a shrinking V changes; optimistic readers re-check it */
	_Atomic u64 inode_id;
	_Atomic u64 key; /* index << 4 | order */
	_Atomic u32 frame;
	_Atomic u32 ext;   /* extension id, 0: none */
	u32 next, prev;    /* reclaim queue; `next` is the free link */
	_Atomic u32 owner; /* folio lock: id of the fill request that owns it, 0: a section of C code */
	_Atomic u16 refs;  /* index, running calls, pins, passers-by */
	struct pc_stamp d, w, u;
};
_Static_assert(sizeof(struct pc_folio) == 64, "a folio descriptor is one cache line");

enum { PC_RAGGED = 8, PC_EXT_CLASSES = 4 };
enum { PC_PINS_MAX = 60000 }; /* of one folio: leaves room in `refs` for calls and passers-by */

/* Extension of a folio: exists iff the folio is not uptodate, is pinned, or has more than one page and local bytes. */
struct pc_ext {
	u32 link; /* free link */
	u32 pins;
	u32 calls; /* order > 0: running calls whose buffers lie in the current frame */
	_Atomic u32 words; /* per set; 0 in memory never used */
	_Atomic u64 ragged[PC_RAGGED]; /* valid bytes outside whole valid blocks: start << 32 | end; 0: unused */
	_Atomic u64 sets[];            /* PC_SETS times `words` */
};

/* ---------------------------------------------------------------- index */

enum pc_mark { PC_MARK_DIRTY, PC_MARK_WRITEBACK, PC_MARK_UNSTABLE, PC_MARK_TOWRITE, PC_MARKS };
enum { PC_LEAF_SLOTS = 16, PC_LEAF_SHIFT = 4, PC_NODE_SLOTS = 64, PC_NODE_SHIFT = 6 };
enum { PC_TAG_EMPTY = 0, PC_TAG_LEAF = 1, PC_TAG_FOLIO = 2, PC_TAG_NODE = 3 };

/* Bottom level: 16 pages. A 64 KiB folio is one slot of the level above, so it costs no leaf at all. */
struct pc_leaf {
	_Atomic u32 slots[PC_LEAF_SLOTS];
	_Atomic u16 marks[PC_MARKS];
	u32 parent; /* also the free link */
	u8 offset, count;
};

struct pc_node {
	_Atomic u32 slots[PC_NODE_SLOTS];
	_Atomic u64 marks[PC_MARKS];
	u32 parent; /* also the free link */
	u8 offset, count, shift;
};

/* ---------------------------------------------------------------- queues, requests */

struct pc_list {
	struct pc_list *next, *prev;
};

static inline void pc_list_init(struct pc_list *l)
{
	l->next = l->prev = l;
}
static inline bool pc_list_empty(const struct pc_list *l)
{
	return l->next == l;
}
static inline void pc_list_add_tail(struct pc_list *head, struct pc_list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}
static inline void pc_list_del(struct pc_list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	pc_list_init(l);
}
#define PC_ENTRY(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* A place in a fair queue (inode lock, token). On the stack of the waiting call, or embedded in the inode for work that
 * belongs to the volume. */
struct pc_waiter {
	struct pc_list link;
	_Atomic u32 word; /* PC_WAITING, PC_GRANTED */
	u8 mode;          /* PC_SHARED, PC_EXCLUSIVE; for the token: enum pc_token */
};
enum { PC_WAITING = 0, PC_GRANTED = 1 };
enum { PC_SHARED = 1, PC_EXCLUSIVE = 2 };
enum pc_token { PC_TOKEN_FREE, PC_TOKEN_PASS, PC_TOKEN_COMMIT, PC_TOKEN_CALLER };

/* A piece of one folio in the hands of a call. */
struct pc_seg {
	u64 pos;   /* byte offset in the file */
	u32 len;   /* bytes */
	u32 folio; /* id; the request holds a reference */
	u32 frame; /* the folio's first frame at hand-over */
	u32 off;   /* byte offset in the folio; PC_SEG_SCRATCH of units.c above it */
};

enum pc_request_kind { PC_REQ_FILL = 1, PC_REQ_WRITE = 2 };
enum { PC_REQ_INLINE = 4 };
enum { PC_SEG_SCRATCH = 1u << 31 }; /* in `off`: sent from the request's scratch, not from the frame */

/* Work handed to a backend. A fill owns the locks of the folios in [start, end) whose `owner` is its id; a write owns
 * references to the folios of its segments. */
struct pc_request {
	struct pc_list link; /* volume work queue (fill) or the inode's ready list (write) */
	struct pc_inode *inode;
	u32 id;
	u32 link_free;
	u8 kind, cls, rereads, zeros, credit;
	u8 quiet;  /* fill: the bytes come from memory, no call is counted */
	u8 gather; /* write of units: 1 neighbours are missing, 2 some were read */
	_Atomic u8 settled;
	u64 generation;  /* volume generation at creation: an answer after an abort only ends W */
	u64 inval_seq;   /* fill: sampled before its first call */
	u64 start, end;  /* fill: page-aligned range of owned folios; write: first byte, end of the last segment */
	u64 cursor;      /* fill: next byte to look at */
	u64 run_end;     /* fill: the missing run [cursor, run_end) that is being read */
	u64 run_got;     /* fill: bytes of it that are stored and not yet published */
	u64 call_pos, call_len; /* the backend call that runs or comes next */
	u64 call_stop; /* fill: end of what that call stores; behind it the sink takes the rest of a read unit */
	u32 nr_owned;    /* fill: folios still locked */
	u32 nr_segs, cap_segs, gather_seg;
	u32 seg, seg_off; /* write: first segment not wholly acknowledged, and how much of it is */
	u8 *sink;         /* fill: surplus bytes of whole read units */
	u64 sink_size;
	u64 unit;    /* write: whole units of so many bytes; 0: single bytes */
	u8 *scratch; /* write of units: neighbours, laid out like [start, end) */
	struct pc_seg *segs;
	struct pc_seg inline_segs[PC_REQ_INLINE];
	/* The volume in whose queue a fill waits: set and cleared under that volume's lock, read by who has a stale id. */
	_Atomic(struct pc_volume *) queue;
};

/* A frame that left its folio while calls or exporters still hold it. */
struct pc_shadow {
	u32 link; /* free link, or next in the hash chain */
	u32 frame;
	u32 holds;
	u8 order;
};

/* ---------------------------------------------------------------- inode */

enum { PC_INVAL_RING = 8 };

struct pc_inval {
	u64 seq, pos, end;
};

struct pc_pass {
	u64 cursor;         /* next page index to look at */
	i64 budget;         /* bytes a background pass may still take */
	u64 short_unit;     /* write_unit > 1: one more than the start of the last unit that was short */
	struct pc_list ready; /* requests built and not yet taken */
	u32 inflight;       /* requests taken and not yet completed */
	u32 nr_issued;
	u8 active, integrity, background, queued, wrapped;
};

struct pc_inode {
	struct pc_leaf_lock leaf; /* level 6: guards all below unless a line says otherwise */
	_Atomic u32 lock_word;    /* inode lock: fast path by compare-and-swap, queue under the leaf lock */
	_Atomic u64 root;         /* slot << 8 | levels, one word for lock-free readers */
	_Atomic u64 size;         /* writers: leaf lock and inode lock X */
	_Atomic u64 remote_size;
	u64 id;
	u32 slot;
	struct pc_inode *next_free;
	void *user; /* the engine's object, for the C types; under the GIL */
	struct pc_cache *cache;
	struct pc_volume *volume;
	struct pc_event event;
	struct pc_list lock_queue, token_queue;
	struct pc_waiter pass_waiter, commit_waiter;
	u8 token, commit_running, commit_queued, dead, readable;
	_Atomic u8 inval_x; /* invalidate lock held exclusively: set and cleared under the leaf lock */
	u8 on_dirty_list, pass_wanted;
	_Atomic u32 users; /* requests and workers that hold a pointer */
	struct pc_pass pass;
	u64 inval_seq;
	struct pc_inval inval_ring[PC_INVAL_RING];
	u64 stamp_m, stamp_m_moved;
	u64 dirtied_ns;  /* when the oldest dirty byte was written, as far as known */
	u64 fail_seq;    /* permanent failures so far */
	u64 regress_seq; /* transitions that made a stamp smaller: flush cursors start again */
	u64 commit_seq;
	u32 nr_folios;
	_Atomic u32 unread_evicted; /* read ahead and evicted unread (thrash rule, 2.6) */
	u64 nr_pages, nr_dirty, nr_writeback, nr_unstable, nr_failed, nr_local, nr_pinned, nr_staged; /* blocks */
	struct pc_list work_pass, work_commit; /* volume leaf */
	struct pc_list dirty_link;             /* volume leaf */
	struct pc_list volume_link;            /* volume leaf */
	struct pc_limits limits;
	struct pc_counters counters;
};

static inline void pc_inode_leaf_lock(struct pc_inode *i)
{
	pc_leaf_lock(&i->leaf, PC_LEVEL_INODE);
}
static inline void pc_inode_leaf_unlock(struct pc_inode *i)
{
	pc_leaf_unlock(&i->leaf, PC_LEVEL_INODE);
}

/* ---------------------------------------------------------------- volume, cache */

struct pc_volume {
	struct pc_leaf_lock leaf; /* level 7 */
	struct pc_cache *cache;
	u32 slot;
	u16 tag;
	_Atomic u64 epoch;
	_Atomic u64 local;         /* blocks */
	_Atomic u64 dirty_limit;   /* blocks: its share of the cache's */
	_Atomic u64 generation;
	_Atomic u32 aborted;
	struct pc_event event;
	struct pc_list work[PC_WORK_CLASSES]; /* requests (fills), inodes (passes, commits) */
	u32 nr_work[PC_WORK_CLASSES];
	u32 jobs[PC_WORK_CLASSES]; /* the engine's own jobs, counted here, kept there */
	_Atomic u32 inflight;      /* calls that carry bytes */
	u32 low_running;           /* background passes and read-ahead */
	u32 max_inflight;
	u8 stopping;
	struct pc_list inodes, dirty;
	u32 nr_inodes;
	struct pc_counters retired; /* of inodes that are gone */
};

enum { PC_INODES_MAX = 1 << 20, PC_INODE_SLOT_BITS = 20 };
enum { PC_FOLIO_EVENTS = 256, PC_SHADOW_BUCKETS = 64, PC_VOLUMES_MAX = 4096 };

struct pc_fifo {
	u32 head, tail; /* folio ids; evicted from the head */
	u64 pages;
};

struct pc_cache {
	struct pc_arena arena;
	struct pc_pool folios, leaves, nodes, exts[PC_EXT_CLASSES], requests, shadows;
	u32 page_shift, page_size, max_order;
	u32 cow_pages;
	_Atomic u64 local;                      /* blocks of L in the whole cache */
	_Atomic u64 dirty_limit, dirty_background; /* blocks */
	_Atomic u64 now_ns;
	_Atomic u32 poison;
	_Atomic u32 flusher_wanted;
	struct pc_event event;         /* room */
	struct pc_event flusher_event; /* the engine's flusher sleeps here */
	struct pc_event folio_events[PC_FOLIO_EVENTS];
	struct pc_leaf_lock queue_lock; /* level 7: queues, ghost */
	struct pc_fifo small, main;
	u32 *ghost;
	u32 ghost_mask;
	size_t ghost_reserved;
	_Atomic u64 evicted, evict_examined_max, evict_calls, evict_examined;
	struct pc_leaf_lock shadow_lock; /* level 8 */
	u32 shadow_heads[PC_SHADOW_BUCKETS];
	struct pc_leaf_lock table_lock; /* level 7: inode slots, volumes */
	struct pc_inode **inodes;
	u32 inodes_max; /* room in `inodes` */
	struct pc_inode *free_inodes;
	u32 inode_slots, inode_hint;
	u64 inode_generation;
	struct pc_volume *volumes[PC_VOLUMES_MAX];
	u32 nr_volumes;
	u16 next_tag;
	u32 fork_epoch;
	_Atomic u32
		copies; /* optimistic copies that run without the interpreter's lock: frames stay mapped meanwhile */
	_Atomic u8 closed;
	_Atomic u64 frames_allocated, frames_freed, cow_copies, staged_copies, quarantined;
	struct pc_trace *trace;
};

extern _Atomic u32 pc_fork_epoch;

/* ---------------------------------------------------------------- small accessors */

static inline u64 pc_stamp_get(const struct pc_stamp *s)
{
	return (u64)s->part[0] | (u64)s->part[1] << 16 | (u64)s->part[2] << 32;
}
static inline void pc_stamp_set(struct pc_stamp *s, u64 v)
{
	s->part[0] = (u16)v;
	s->part[1] = (u16)(v >> 16);
	s->part[2] = (u16)(v >> 32);
}
static inline u64 pc_min(u64 a, u64 b)
{
	return a < b ? a : b;
}
static inline u64 pc_max(u64 a, u64 b)
{
	return a > b ? a : b;
}

static inline struct pc_folio *pc_folio_at(const struct pc_cache *c, u32 id)
{
	return pc_pool_at(&c->folios, id);
}
static inline u32 pc_folio_id(const struct pc_cache *c, const struct pc_folio *f)
{
	return (u32)(((const u8 *)f - c->folios.base) / sizeof(struct pc_folio));
}
static inline u32 pc_folio_state(const struct pc_folio *f)
{
	return atomic_load_explicit(&((struct pc_folio *)f)->state, memory_order_acquire);
}
static inline u64 pc_key(const struct pc_folio *f)
{
	return atomic_load_explicit(&((struct pc_folio *)f)->key, memory_order_relaxed);
}
static inline u64 pc_folio_index(const struct pc_folio *f)
{
	return pc_key(f) >> 4;
}
static inline u32 pc_folio_order(const struct pc_folio *f)
{
	return (u32)(pc_key(f) & 15);
}
static inline u64 pc_folio_pos(const struct pc_cache *c, const struct pc_folio *f)
{
	return pc_folio_index(f) << c->page_shift;
}
static inline u32 pc_folio_bytes(const struct pc_cache *c, const struct pc_folio *f)
{
	return 1u << (c->page_shift + pc_folio_order(f));
}
static inline u8 *pc_folio_memory(const struct pc_cache *c, const struct pc_folio *f)
{
	return pc_arena_at(&c->arena, atomic_load_explicit(&((struct pc_folio *)f)->frame, memory_order_relaxed));
}
static inline u32 pc_ext_class(u32 order)
{
	return order <= 6 ? 0 : order - 6;
}
static inline struct pc_ext *pc_folio_ext(const struct pc_cache *c, const struct pc_folio *f)
{
	u32 id = atomic_load_explicit(&((struct pc_folio *)f)->ext, memory_order_acquire);
	return id ? pc_pool_at(&c->exts[pc_ext_class(pc_folio_order(f))], id) : NULL;
}
static inline u64 pc_now(const struct pc_cache *c)
{
	return atomic_load_explicit(&((struct pc_cache *)c)->now_ns, memory_order_relaxed);
}

/* ---------------------------------------------------------------- between the files */

/* wait.c */
void pc_event_wake(struct pc_event *e);
struct pc_event *pc_folio_event(struct pc_cache *c, u32 folio);
int pc_futex_wait(_Atomic u32 *word, u32 value, i64 timeout_ns);
void pc_futex_wake(_Atomic u32 *word, int n);

/* lock.c */
bool pc_inode_lock_try(struct pc_inode *i, int mode);
void pc_inode_lock_enqueue(struct pc_inode *i, struct pc_waiter *w, int mode);
bool pc_inode_lock_cancel(struct pc_inode *i, struct pc_waiter *w);
void pc_inode_lock_release(struct pc_inode *i, int mode);
bool pc_token_take(struct pc_inode *i, struct pc_waiter *w, int kind);
bool pc_token_cancel(struct pc_inode *i, struct pc_waiter *w);
void pc_token_release_locked(struct pc_inode *i);
void pc_token_release(struct pc_inode *i);

/* index.c; all but lookup under the inode leaf lock */
u32 pc_index_lookup(const struct pc_inode *i, u64 index);
int pc_index_insert(struct pc_inode *i, u64 index, u32 order, u32 folio);
void pc_index_erase(struct pc_inode *i, u64 index, u32 order);
void pc_index_mark(struct pc_inode *i, u64 index, u32 order, enum pc_mark mark, bool set);
bool pc_index_marked(const struct pc_inode *i, u64 index, enum pc_mark mark);
u32 pc_index_next(const struct pc_inode *i, u64 from, u64 to);
u32 pc_index_next_marked(const struct pc_inode *i, u64 from, u64 to, enum pc_mark mark, u32 *visited);
bool pc_index_empty(const struct pc_inode *i, u64 index, u32 order);
bool pc_index_check(const struct pc_inode *i, struct pc_violation *out);

/* ranges.c: block sets and byte extents of one folio */
bool pc_valid_covers(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);
u32 pc_valid_until(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);
u32 pc_missing_until(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);
bool pc_valid_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
bool pc_valid_can_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
void pc_valid_cut(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
u32 pc_set_add(struct pc_cache *c, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_del(struct pc_cache *c, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_count(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_next(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_next_clear(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_local_count(const struct pc_cache *c, const struct pc_folio *f, u32 b0, u32 b1);

/* folio.c: every transition */
int pc_folio_create(struct pc_inode *i, u64 index, u32 order, u32 owner, struct pc_folio **out);
bool pc_folio_trylock(struct pc_folio *f);
int pc_folio_trylock_at(struct pc_inode *i, struct pc_folio *f, u64 index);
void pc_folio_unlock(struct pc_cache *c, struct pc_folio *f);
bool pc_folio_get(struct pc_folio *f);
void pc_folio_put(struct pc_cache *c, struct pc_folio *f);
bool pc_folio_is(const struct pc_inode *i, const struct pc_folio *f, u64 index);
int pc_folio_ext_ensure(struct pc_cache *c, struct pc_folio *f);
void pc_folio_ext_drop(struct pc_inode *i, struct pc_folio *f);
void pc_folio_dirty(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
u32 pc_folio_begin_writeback(struct pc_inode *i, struct pc_folio *f);
void pc_folio_end_writeback(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1, int how);
void pc_folio_committed(struct pc_inode *i, struct pc_folio *f);
void pc_folio_uncommitted(struct pc_inode *i, struct pc_folio *f);
void pc_folio_clear_failed(struct pc_inode *i, struct pc_folio *f);
void pc_folio_forget_local(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1);
void pc_folio_detach(struct pc_inode *i, struct pc_folio *f);
void pc_folio_remove(struct pc_inode *i, struct pc_folio *f);
bool pc_folio_replace_frame(struct pc_inode *i, struct pc_folio *f, bool copy, u32 extra_holds);
bool pc_folio_unkeep(struct pc_inode *i, struct pc_folio *f);
void pc_folio_freed(struct pc_cache *c, struct pc_folio *f);
enum { PC_WB_STABLE, PC_WB_UNSTABLE, PC_WB_AGAIN, PC_WB_FAILED };

/* shadow frames (folio.c) */
void pc_shadow_add(struct pc_cache *c, u32 frame, u32 order, u32 holds);
bool pc_shadow_put(struct pc_cache *c, u32 frame);

/* reclaim.c */
void pc_reclaim_insert(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_remove(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_clean(struct pc_cache *c, struct pc_folio *f);
u32 pc_reclaim(struct pc_cache *c, u32 order);
u32 pc_frame_get(struct pc_cache *c, u32 *order, u32 min_order);

/* writeback.c, work.c, inode.c */
void pc_work_push_request(struct pc_volume *v, struct pc_request *r, int cls);
struct pc_request *pc_work_take_owner(struct pc_inode *i, u32 id);
void pc_pass_again(struct pc_inode *i);
struct pc_work {
	int kind;
	u32 cls;
	struct pc_request *request;
	struct pc_inode *inode;
};
enum { PC_WORK_NONE, PC_WORK_STOP, PC_WORK_REQUEST, PC_WORK_PASS, PC_WORK_COMMITTING, PC_WORK_JOB };
void pc_work_next(struct pc_volume *v, struct pc_work *w);
void pc_work_end(struct pc_volume *v, u32 cls);
bool pc_credit_try(struct pc_volume *v);
bool pc_pass_claim(struct pc_inode *i, struct pc_folio *f, bool *locked, bool *busy);
bool pc_seg_reserve(struct pc_request *r, u32 more);
u64 pc_first_missing(struct pc_inode *i, u64 pos, u64 end);
void pc_credit_put(struct pc_volume *v);
void pc_work_push_pass(struct pc_inode *i);
void pc_pass_turn(struct pc_inode *i);
void pc_work_push_commit(struct pc_inode *i);
bool pc_work_forget(struct pc_inode *i);
void pc_dirty_list_update(struct pc_inode *i);
void pc_invalidated(struct pc_inode *i, u64 pos, u64 end);
bool pc_inval_since(const struct pc_inode *i, u64 seq, u64 pos, u64 end);
struct pc_request *pc_request_new(struct pc_inode *i, int kind);
void pc_request_delete(struct pc_request *r);
int pc_write_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts);
int pc_fill_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts);

/* units.c, gather.c: write_unit > 1 */
bool pc_units_build(struct pc_inode *i, enum pc_mark mark);
int pc_unit_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts, u64 *pos);
int64_t pc_unit_acked(const struct pc_request *r, int64_t n);
void pc_unit_collect(struct pc_request *r);
bool pc_unit_grow(struct pc_inode *i, u64 pos);
int pc_gather_answer(struct pc_request *r, int64_t n);
u8 *pc_scratch_leave(struct pc_request *r);

void pc_fill_settle(struct pc_request *r);
struct pc_request *pc_fill_window(struct pc_inode *i, u64 index, u64 end, u64 max_bytes, u64 *stop);
void pc_folio_refresh(struct pc_inode *i, struct pc_folio *f);
void pc_counters_add(struct pc_counters *to, const struct pc_counters *from);

/* Count what happens off the hot path; `counter` is one of the inode's. Context: no leaf lock. */
static inline void pc_count(struct pc_inode *i, u64 *counter, u64 n)
{
	pc_inode_leaf_lock(i);
	*counter += n;
	pc_inode_leaf_unlock(i);
}

static inline struct pc_request *pc_request_at(const struct pc_cache *c, u32 id)
{
	return pc_pool_at(&c->requests, id);
}

/* trace.c */
enum pc_trace_kind {
	PC_T_INSERT = 1,
	PC_T_REMOVE,
	PC_T_DIRTY,
	PC_T_HANDOVER,
	PC_T_ACK,
	PC_T_AGAIN,
	PC_T_COMMIT,
	PC_T_UNCOMMIT,
	PC_T_FILL,
	PC_T_EVICT,
	PC_T_COW,
	PC_T_TRUNCATE,
	PC_T_PASS,
	PC_T_PASS_END,
	PC_T_ABORT,
	PC_T_QUARANTINE
};
void pc_inode_user_put(struct pc_inode *i);

/* What the exporter of a buffer holds once its call is over: a pin, a folio, the frame that was left to it, or (a folio and
 * its frame) both, as PC_F_KEPT says. */
struct pc_kept {
	u32 folio, frame; /* 0, PC_NO_FRAME: none */
	bool pin;
};
u32 pc_kept_max(const struct pc_request *r);
u32 pc_fill_quarantine(struct pc_request *r, struct pc_kept *kept);
u8 *pc_sink_leave(struct pc_request *r);
u32 pc_write_hold(struct pc_request *r, struct pc_kept *kept);
void pc_kept_put(struct pc_cache *c, const struct pc_kept *k);
struct pc_trace *pc_trace_create(void);
void pc_trace_destroy(struct pc_trace *t);
void pc_trace_add(struct pc_cache *c, int kind, u64 inode, u64 index, u64 value);

#endif
