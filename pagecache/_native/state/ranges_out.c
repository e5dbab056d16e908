/*
 * ranges_out.c - lists of byte ranges of a file, for a caller with room for n of them.
 *
 *   struct pc_ranges   | (offset, length) | (offset, length) | ...      ascending; ranges that meet are one
 */
#include "state/state.h"

void pc_ranges_flush(struct pc_ranges *r)
{
	if (r->end > r->pos) {
		if (r->used < r->n) {
			r->out[r->used * 2] = r->pos;
			r->out[r->used * 2 + 1] = r->end - r->pos;
		}
		r->used++;
	}
	r->pos = r->end = 0;
}

/* Ranges come ascending by `pos`; those that meet become one. */
void pc_ranges_add(struct pc_ranges *r, u64 pos, u64 end)
{
	if (pos > r->end || r->end == r->pos) {
		pc_ranges_flush(r);
		r->pos = pos;
	}
	r->end = pc_max(r->end, end);
}

/* What S has of [*from, upto), in between; @written: only bytes that this program has written. Leaf lock held. */
void pc_ranges_staged(const struct pc_inode *i, struct pc_ranges *r, u64 *from, u64 upto, bool written)
{
	struct pc_range s;
	while (*from < upto && pc_map_next(&i->staged.map, *from, &s) && s.pos < upto) {
		u64 at = pc_max(s.pos, *from), end = pc_min(s.end, upto);
		if (!written)
			pc_ranges_add(r, at, end);
		for (u64 pos, stop; written && pc_sent_next(i, at, end, &pos, &stop); at = stop)
			pc_ranges_add(r, pos, stop);
		*from = end;
	}
	*from = pc_max(*from, upto);
}

/* The first run of valid bytes of [at, end), inside one block, that this program has written since the last commit. */
static bool next_own(const struct pc_inode *i, const struct pc_folio *f, u32 b, u64 at, u64 end, u64 *pos, u64 *stop)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	bool sent = pc_set_count(c, f, PC_W, b, b + 1) || pc_set_count(c, f, PC_U, b, b + 1);
	bool found = pc_set_count(c, f, PC_D, b, b + 1) && pc_written_next(i, f, true, at, end, pos, stop);
	for (u64 first, last; sent && pc_sent_next(i, at, found ? *pos : end, &first, &last); at = last) {
		u32 from = (u32)(first - start), to;
		if (pc_valid_run(c, f, &from, (u32)(last - start), &to)) {
			*pos = start + from;
			*stop = start + to;
			return true;
		}
	}
	return found;
}

/* The first run of bytes of [at, end), inside one block, that a list has. */
static bool next_run(const struct pc_inode *i, const struct pc_folio *f, u32 b, u32 which, u64 at, u64 end, u64 *pos,
		     u64 *stop)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	u32 from = (u32)(at - start), to;
	bool failed = which == PC_RANGES_FAILED;
	if (which == PC_RANGES_WRITTEN)
		return next_own(i, f, b, at, end, pos, stop);
	if (which == PC_RANGES_BORROWED)
		return pc_set_count(c, f, PC_D, b, b + 1) && pc_written_next(i, f, false, at, end, pos, stop);
	if (!(failed ? pc_set_count(c, f, PC_X, b, b + 1) : pc_local_count(c, f, b, b + 1)) ||
	    !pc_valid_run(c, f, &from, (u32)(end - start), &to))
		return false;
	*pos = start + from;
	*stop = start + to;
	return true;
}

/* Return (offset, length) pairs of a list PC_RANGES_x, cropped at the size; their number may exceed n. */
size_t pc_ranges(struct pc_inode *i, uint32_t which, uint64_t *ranges, size_t n)
{
	const struct pc_cache *c = i->cache;
	struct pc_ranges out = {.out = ranges, .n = n};
	bool written = which == PC_RANGES_WRITTEN, staged_too = written || which == PC_RANGES_LOCAL;
	u64 index = 0, staged = 0, last = pc_last_index(c);
	pc_inode_leaf_lock(i);
	u64 size = pc_inode_size(i);
	for (struct pc_folio *f;
	     (f = staged_too ? pc_next_folio(i, &index, last) : pc_next_marked(i, &index, last, PC_MARK_DIRTY));) {
		u32 blocks = pc_folio_state(f) & (PC_F_LOCAL | PC_F_FAILED) ? 1u << pc_folio_order(f) : 0;
		for (u32 b = 0; b < blocks; b++) {
			u64 at = pc_folio_pos(c, f) + ((u64)b << c->page_shift), end = pc_min(at + c->page_size, size);
			for (u64 pos, stop; at < end && next_run(i, f, b, which, at, end, &pos, &stop); at = stop) {
				if (staged_too)
					pc_ranges_staged(i, &out, &staged, pos, written);
				pc_ranges_add(&out, pos, stop);
			}
		}
	}
	if (staged_too)
		pc_ranges_staged(i, &out, &staged, size, written);
	pc_ranges_flush(&out);
	pc_inode_leaf_unlock(i);
	return out.used;
}
