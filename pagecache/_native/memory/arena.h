/*
 * arena.h - frames: one reserved mapping, a buddy allocator over ten orders.
 */
#ifndef PC_ARENA_H
#define PC_ARENA_H

#include "base/base.h"

/* A bitmap has at most 64 ** PC_SUMMARIES bits; an arena rounds up its reserve by less than 2048 frames. */
enum { PC_ORDERS = 10, PC_SUMMARIES = 5, PC_FRAMES_MAX = (1 << 30) - 2048 };

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
	_Atomic u32 transit;  /* handed out or taken back, and at this moment in no structure */
	struct pc_bitmap free[PC_ORDERS];
	u16 *owner_tag; /* per 16 frames: volume tag whose bytes lie there; 0 untouched, 0xffff mixed */
	void *tables;
	size_t tables_size;
	u8 closed; /* no frame is handed out from here on */
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
bool pc_arena_claim(struct pc_arena *a, u32 frame, u32 order, u16 tag);
size_t pc_arena_metadata(const struct pc_arena *a);

enum { PC_NO_FRAME = 0xffffffff };

static inline u8 *pc_arena_at(const struct pc_arena *a, u32 frame)
{
	return a->base + ((size_t)frame << a->page_shift);
}

/* Whether an address lies in the arena. */
static inline bool pc_arena_has(const struct pc_arena *a, const void *at)
{
	return (uintptr_t)at - (uintptr_t)a->base < a->reserved;
}

#endif
