/*
 * folio.h - descriptors: the state word, the stamps, and every transition (descriptor.c, folio.c).
 */
#ifndef PC_FOLIO_H
#define PC_FOLIO_H

#include "state/cache.h"

enum pc_folio_flag {
	PC_F_LOCKED = 1 << 0,
	PC_F_WAITERS = 1 << 1,
	PC_F_UPTODATE = 1 << 2,   /* V is everything */
	PC_F_DIRTY = 1 << 3,      /* D is not empty */
	PC_F_WRITEBACK = 1 << 4,  /* W is not empty */
	PC_F_UNSTABLE = 1 << 5,   /* U is not empty */
	PC_F_FAILED = 1 << 6,     /* X is not empty */
	PC_F_BACKOFF = 1 << 8,    /* passes skip it until the engine clears this (2.14) */
	PC_F_RECLAIM = 1 << 9,    /* met by reclaim while local, or not to be used again: evict soon */
	PC_F_READAHEAD = 1 << 10, /* reading it triggers the next window */
	PC_F_UNREAD = 1 << 11, /* read ahead and not yet used (thrash rule, 2.6) */
	PC_F_STALE = 1 << 12, /* remote change pending: bytes outside L must not satisfy reads */
	PC_F_DETACHED = 1 << 13, /* out of the index, alive through pins or calls */
	PC_F_PINNED = 1 << 14, /* a view holds its memory */
	PC_F_WRITER_WAITS = 1 << 15, /* a writer waits for the end of the call that has its frame */
	PC_F_COPIED = 1 << 16, /* the running calls have an old frame, or copies */
	PC_F_HELD = 1 << 17, /* its frame is held by number (shadow.c): valid bytes do not change in place */
	PC_F_KEPT = 1 << 18, /* a backend may still store to missing bytes: they need another frame first */
	PC_F_WRITE_PINNED = 1 << 19, /* P is not empty: a view may store to it at any moment */
	PC_F_ACCESS_SHIFT = 20, /* bits 20 and 21: pc_folio_hits or pc_folio_spared */
	PC_F_SMALL = 1 << 22, /* on the probation queue */
	PC_F_MAIN = 1 << 23, /* on the main queue */
	PC_F_STICKY = 1 << 24, /* hits on probation keep it there */
};

#define PC_F_ACCESS      (3u << PC_F_ACCESS_SHIFT)
#define PC_F_ACCESS_ONE  (1u << PC_F_ACCESS_SHIFT)
#define PC_F_LOCAL       (PC_F_DIRTY | PC_F_WRITEBACK | PC_F_UNSTABLE)
#define PC_F_UNEVICTABLE (PC_F_LOCAL | PC_F_PINNED | PC_F_HELD)

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
	_Atomic u32 ext; /* extension id, 0: none */
	u32 next, prev; /* reclaim queue; `next` is the free link */
	_Atomic u32 owner; /* folio lock: id of the fill request that owns it, 0: a section of C code */
	_Atomic u16 refs; /* index, running calls, pins, passers-by */
	struct pc_stamp d, w, u;
};
enum { PC_PINS_MAX = 60000 }; /* of one folio: leaves room in `refs` for calls and passers-by */
_Static_assert(sizeof(struct pc_folio) == 64, "a folio descriptor is one cache line");

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
/* The access counter of a state: hits, or rounds in which an unread readahead folio was spared. At most PC_ACCESS_MAX. */
enum { PC_ACCESS_MAX = 3 };
static inline u32 pc_folio_hits(u32 st)
{
	return st & PC_F_UNREAD ? 0 : (st & PC_F_ACCESS) >> PC_F_ACCESS_SHIFT;
}
static inline u32 pc_folio_spared(u32 st)
{
	return st & PC_F_UNREAD ? (st & PC_F_ACCESS) >> PC_F_ACCESS_SHIFT : 0;
}
/* The reader has reached a readahead folio: the counter is of hits from here on. Return: the state before. */
static inline u32 pc_folio_reached(struct pc_folio *f, u32 st)
{
	u32 spared = st & PC_F_UNREAD ? PC_F_ACCESS : 0;
	return atomic_fetch_and_explicit(&f->state, ~(PC_F_READAHEAD | PC_F_UNREAD | spared), memory_order_relaxed);
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
static inline u64 pc_folio_after(const struct pc_folio *f)
{
	return pc_folio_index(f) + (1ull << pc_folio_order(f));
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

/* The largest order of a folio that begins at page @index and ends at page @end at the latest. */
static inline u32 pc_order_within(const struct pc_cache *c, u64 index, u64 end)
{
	u32 order = 0;
	while (order < c->max_order && (index & ((2ull << order) - 1)) == 0 && index + (2ull << order) <= end)
		order++;
	return order;
}

/* The next step of a call is to wait for a folio. @kind: PC_NEED_FOLIO, PC_NEED_FLIGHT. */
static inline void pc_need_folio(struct pc_need *need, u32 kind, const struct pc_cache *c, const struct pc_folio *f)
{
	need->kind = kind;
	need->folio = pc_folio_id(c, f);
	need->owner = atomic_load(&((struct pc_folio *)f)->owner);
}

/* descriptor.c: sequence, memory, lock, references, identity */
void pc_seq_begin(struct pc_folio *f);
void pc_seq_end(struct pc_folio *f);
struct pc_folio *pc_descriptor_new(struct pc_inode *i, u64 index, u32 order, u32 frame, u32 owner);
void pc_descriptor_free(struct pc_cache *c, struct pc_folio *f);
bool pc_folio_trylock(struct pc_folio *f);
int pc_folio_trylock_at(struct pc_inode *i, struct pc_folio *f, u64 index);
void pc_folio_unlock(struct pc_cache *c, struct pc_folio *f);
bool pc_folio_get(struct pc_folio *f);
bool pc_folio_get_of(const struct pc_inode *i, struct pc_folio *f);
void pc_folio_put(struct pc_cache *c, struct pc_folio *f);
bool pc_folio_is(const struct pc_inode *i, const struct pc_folio *f, u64 index);
struct pc_folio *pc_folio_cached(const struct pc_inode *i, u64 index);
struct pc_folio *pc_folio_spanning(const struct pc_inode *i, u64 index, u64 *start, u64 *stop);
bool pc_folio_unkeep(struct pc_inode *i, struct pc_folio *f);
void pc_folio_freed(struct pc_cache *c, struct pc_folio *f);
struct pc_event *pc_folio_event(struct pc_cache *c, u32 folio);

/* folio.c: every transition */
enum { PC_WB_STABLE, PC_WB_UNSTABLE, PC_WB_STAGED, PC_WB_AGAIN, PC_WB_FAILED };
int pc_folio_create(struct pc_inode *i, u64 index, u32 order, u32 owner, u32 state, struct pc_folio **out);
void pc_folio_dirty(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_folio_dirty_borrowed(struct pc_inode *i, struct pc_folio *f, u32 block);
u32 pc_folio_begin_writeback(struct pc_inode *i, struct pc_folio *f);
void pc_folio_end_writeback(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1, int how);
void pc_folio_end_unstable(struct pc_inode *i, struct pc_folio *f, bool committed, bool parked);
void pc_folio_clear_failed(struct pc_inode *i, struct pc_folio *f);
void pc_folio_forget_local(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1);
void pc_folio_pin_blocks(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_folio_unpin_blocks(struct pc_inode *i, struct pc_folio *f);
void pc_folio_detach(struct pc_inode *i, struct pc_folio *f);
void pc_folio_remove(struct pc_inode *i, struct pc_folio *f);

/* pin.c */
void pc_ext_pin(struct pc_inode *i, struct pc_folio *f);
void pc_ext_unpin(struct pc_inode *i, struct pc_folio *f);
void pc_ext_pin_stores(struct pc_inode *i, struct pc_folio *f);
void pc_ext_unpin_stores(struct pc_inode *i, struct pc_folio *f);
u32 pc_pins_leave(struct pc_inode *i, struct pc_folio *f);

/* stale.c */
bool pc_folio_holds_end(const struct pc_cache *c, const struct pc_folio *f, u64 size);
void pc_folio_cut_behind(struct pc_inode *i, struct pc_folio *f, u64 size);
void pc_folio_refresh(struct pc_inode *i, struct pc_folio *f);
u64 pc_local_end(const struct pc_cache *c, const struct pc_folio *f, u64 size);

#endif
