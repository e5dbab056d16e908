/*
 * direct_set.c - the byte ranges of direct writes that no commit covers yet.
 *
 *   now      direct writes that ended since the last commit was issued
 *   moved    those of the commit that runs: they return to `now` if it fails
 *
 * At most PC_DIRECT_RANGES ranges: more are joined across the smallest gap. Contract 2.10, 2.17. Locks: leaf lock.
 */
#include <stdlib.h>

#include "state/state.h"

static void remove_range(struct pc_direct_set *s, u32 k)
{
	memmove(&s->r[k], &s->r[k + 1], (--s->n - k) * sizeof(s->r[0]));
}

/* Make room for one more: the two with the smallest gap between them become one. */
static void join_nearest(struct pc_direct_set *s)
{
	u32 best = 0;
	for (u32 k = 1; k + 1 < s->n; k++)
		if (s->r[k + 1].pos - s->r[k].end < s->r[best + 1].pos - s->r[best].end)
			best = k;
	s->r[best].end = s->r[best + 1].end;
	s->r[best].reported &= s->r[best + 1].reported;
	remove_range(s, best + 1);
}

static void add_range(struct pc_direct_set *s, struct pc_direct_range add)
{
	u32 k = 0;
	while (k < s->n && s->r[k].end < add.pos)
		k++;
	while (k < s->n && s->r[k].pos <= add.end) {
		add.pos = pc_min(add.pos, s->r[k].pos);
		add.end = pc_max(add.end, s->r[k].end);
		add.reported &= s->r[k].reported;
		remove_range(s, k);
	}
	if (s->n == PC_DIRECT_RANGES) {
		join_nearest(s);
		add_range(s, add);
		return;
	}
	memmove(&s->r[k + 1], &s->r[k], (s->n++ - k) * sizeof(s->r[0]));
	s->r[k] = add;
}

static void cut_range(struct pc_direct_set *s, u64 pos, u64 end)
{
	for (u32 k = 0; k < s->n;) {
		struct pc_direct_range *r = &s->r[k], behind = {end, r->end, r->reported};
		bool meets = r->pos < end && pos < r->end, goes_on = meets && end < r->end;
		if (meets && pos <= r->pos)
			remove_range(s, k);
		else if (meets)
			r->end = pos;
		if (goes_on) {
			add_range(s, behind);
			return;
		}
		k += !meets || pos > r->pos;
	}
}

/* A direct write of [pos, end) has ended. Leaf lock held. */
void pc_direct_add(struct pc_inode *i, u64 pos, u64 end)
{
	add_range(&i->direct->now, (struct pc_direct_range){pos, end, 0});
}

/* Truncate, punch: drop the ranges of [pos, end). Leaf lock held. */
void pc_direct_cut(struct pc_inode *i, u64 pos, u64 end)
{
	if (!i->direct)
		return;
	cut_range(&i->direct->now, pos, end);
	cut_range(&i->direct->moved, pos, end);
}

/* A commit is about to be issued. Leaf lock held. */
void pc_direct_move(struct pc_inode *i)
{
	if (!i->direct)
		return;
	i->direct->moved = i->direct->now;
	i->direct->now.n = 0;
}

/* It has ended. Until one succeeds, the next failure may forget the same bytes as well. Leaf lock held. */
void pc_direct_committed(struct pc_inode *i, bool ok, bool kept)
{
	i->commits_failed += !ok && !kept;
	if (!i->direct)
		return;
	for (u32 k = 0; !ok && k < i->direct->moved.n; k++)
		add_range(&i->direct->now, i->direct->moved.r[k]);
	i->direct->moved.n = 0;
}

void pc_direct_free(struct pc_inode *i)
{
	free(i->direct);
	i->direct = NULL;
}

static size_t list_ranges(const struct pc_direct_set *s, bool all, uint64_t *ranges, size_t n, size_t used)
{
	for (u32 k = 0; k < s->n; k++) {
		if (!all && s->r[k].reported)
			continue;
		if (used < n) {
			ranges[used * 2] = s->r[k].pos;
			ranges[used * 2 + 1] = s->r[k].end - s->r[k].pos;
		}
		used++;
	}
	return used;
}

/* (offset, length) pairs that no commit covers, including those of a running commit; not @all: only those not reported as lost.
 * Return: how many there are, which may exceed n. */
size_t pc_direct_ranges(struct pc_inode *i, uint64_t *ranges, size_t n, bool all)
{
	size_t used = 0;
	pc_inode_leaf_lock(i);
	if (i->direct) {
		used = list_ranges(&i->direct->moved, all, ranges, n, 0);
		used = list_ranges(&i->direct->now, all, ranges, n, used);
	}
	pc_inode_leaf_unlock(i);
	return used;
}

/* They were reported as lost. @forget: and the backend that had them is gone. */
void pc_direct_reported(struct pc_inode *i, bool forget)
{
	pc_inode_leaf_lock(i);
	for (u32 k = 0; i->direct && k < i->direct->now.n; k++)
		i->direct->now.r[k].reported = 1;
	for (u32 k = 0; i->direct && k < i->direct->moved.n; k++)
		i->direct->moved.r[k].reported = 1;
	if (forget && i->direct)
		i->direct->now.n = i->direct->moved.n = 0;
	pc_inode_leaf_unlock(i);
}
