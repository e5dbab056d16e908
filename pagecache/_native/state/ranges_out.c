/*
 * ranges_out.c - a list of byte ranges for a caller with room for n of them.
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

/* What S has of [*from, upto), in between. Leaf lock held. */
void pc_ranges_staged(const struct pc_inode *i, struct pc_ranges *r, u64 *from, u64 upto)
{
	struct pc_range s;
	while (*from < upto && pc_staged_next(i, *from, &s) && s.pos < upto) {
		pc_ranges_add(r, pc_max(s.pos, *from), pc_min(s.end, upto));
		*from = pc_min(s.end, upto);
	}
	*from = upto;
}
