/*
 * written.h - the bytes of local blocks that this program has written since the last commit (written.c).
 */
#ifndef PC_WRITTEN_H
#define PC_WRITTEN_H

#include "state/folio.h"
#include "state/rangemap.h"
#include "state/ranges.h"

struct pc_inode;

#define PC_APART (1ull << 63)

static inline _Atomic u64 *pc_written_word(const struct pc_cache *c, const struct pc_folio *f, u32 block)
{
	return &c->arena.written[atomic_load_explicit(&((struct pc_folio *)f)->frame, memory_order_relaxed) + block];
}

bool pc_written_has_blocks(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);

/* Whether one range has all of [from, to), in each block of it; false for several ranges. Context: folio lock; all of it is in D. */
static inline bool pc_written_has(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to)
{
	u32 b = from >> c->page_shift;
	if (PC_UNLIKELY((to - 1) >> c->page_shift != b))
		return pc_written_has_blocks(c, f, from, to);
	u64 word = atomic_load_explicit(pc_written_word(c, f, b), memory_order_relaxed);
	u32 first = b << c->page_shift;
	return !word || ((u32)(word >> 32) <= from - first && to - first <= (u32)word);
}

/* The word of a block whose range touches [from, to), extended by that. Return: false: it has no such range; else the block is in
 * D. Context: folio lock, and until the word is stored leaf lock too, unless neither W nor U has any block of the folio. */
static inline bool pc_written_extended(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to, u64 *word)
{
	u32 b = from >> c->page_shift, begin = from & (c->page_size - 1), end = begin + (to - from);
	u64 old = atomic_load_explicit(pc_written_word(c, f, b), memory_order_relaxed);
	u32 first = (u32)(old >> 32), last = (u32)old;
	if (end > c->page_size || begin > last || first > end || first == last) /* or several */
		return false;
	first = first < begin ? first : begin;
	last = last > end ? last : end;
	*word = first || last < c->page_size ? (u64)first << 32 | last : 0;
	return true;
}

static inline void pc_written_store(const struct pc_cache *c, const struct pc_folio *f, u32 from, u64 word)
{
	atomic_store_explicit(pc_written_word(c, f, from >> c->page_shift), word, memory_order_relaxed);
}

void pc_written_add(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_written_nothing(struct pc_inode *i, struct pc_folio *f, u32 block);
void pc_written_zeroed(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_written_hole(struct pc_inode *i, u64 pos, u64 end);
void pc_written_sent(struct pc_inode *i, struct pc_folio *f);
void pc_written_back(struct pc_inode *i, struct pc_folio *f, enum pc_set set, u32 b0, u32 b1);
void pc_written_saved(struct pc_inode *i, const struct pc_folio *f, u32 b0, u32 b1);
void pc_written_forget(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1);
void pc_written_moved(struct pc_inode *i, struct pc_folio *f, u32 old_frame);
bool pc_written_next(const struct pc_inode *i, const struct pc_folio *f, u32 b, bool written, u64 at, u64 end, u64 *pos,
		     u64 *stop);
bool pc_sent_next(const struct pc_inode *i, u64 at, u64 end, u64 *pos, u64 *stop);
void pc_written_all(struct pc_inode *i, struct pc_folio *f);
void pc_written_clear(struct pc_inode *i);
bool pc_written_check_block(const struct pc_inode *i, const struct pc_folio *f, u32 b, struct pc_violation *out);

#endif
