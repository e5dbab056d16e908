/*
 * direct_set.c - the byte ranges of direct writes that no commit covers yet.
 *
 *   now        direct writes that ended since the last commit was issued
 *   moved      those of the commit that runs: they return to `now` if it fails
 *   reported   bytes of both whose loss was reported already
 *
 * Contract 2.10, 2.17. Locks: leaf lock.
 */
#include "state/state.h"

/* If there are too many ranges, the bytes up to the next one, or since the last one, join it: outward rounding. */
static void add(struct pc_inode *i, struct pc_rangemap *m, u64 pos, u64 end)
{
	struct pc_range next;
	bool added = pc_map_add(i->cache, m, pos, end, PC_DIRECT_RANGES);
	if (!added && pc_map_next(m, end, &next))
		added = pc_map_add(i->cache, m, pos, next.pos, PC_DIRECT_RANGES);
	else if (!added)
		added = pc_map_add(i->cache, m, pc_map_end(m), end, PC_DIRECT_RANGES);
	PC_ASSERT(added); /* without a few KiB for the first range the process is at its end */
}

static void add_all(struct pc_inode *i, struct pc_rangemap *m, const struct pc_rangemap *from)
{
	struct pc_range r;
	for (u64 at = 0; pc_map_next(from, at, &r); at = r.end)
		add(i, m, r.pos, r.end);
}

/* A direct write of [pos, end) has ended: the range that it is part of now is lost anew if it is lost. Leaf lock held. */
void pc_direct_add(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_range r;
	add(i, &i->direct.now, pos, end);
	pc_map_next(&i->direct.now, pos, &r);
	pc_map_cut(i->cache, &i->direct.reported, r.pos, r.end);
}

/* Truncate, punch: drop the ranges of [pos, end). Leaf lock held. */
void pc_direct_cut(struct pc_inode *i, u64 pos, u64 end)
{
	pc_map_cut(i->cache, &i->direct.now, pos, end);
	pc_map_cut(i->cache, &i->direct.moved, pos, end);
}

/* A commit is about to be issued. Leaf lock held. */
void pc_direct_move(struct pc_inode *i)
{
	i->direct.moved = i->direct.now;
	i->direct.now = (struct pc_rangemap){0};
}

/* It has ended. Until one succeeds, the next failure may forget the same bytes as well. Leaf lock held. */
void pc_direct_committed(struct pc_inode *i, bool ok, bool kept)
{
	i->commits_failed += !ok && !kept;
	if (!ok)
		add_all(i, &i->direct.now, &i->direct.moved);
	pc_map_clear(i->cache, &i->direct.moved);
}

/* Leaf lock held, or no other thread can reach the inode. */
void pc_direct_clear(struct pc_inode *i)
{
	pc_map_clear(i->cache, &i->direct.now);
	pc_map_clear(i->cache, &i->direct.moved);
	pc_map_clear(i->cache, &i->direct.reported);
}

/* Pairs (offset, length); @all: those that were reported as lost, too. Leaf lock held. */
static size_t list(struct pc_inode *i, uint64_t *ranges, size_t n, bool all)
{
	const struct pc_rangemap *maps[] = {&i->direct.moved, &i->direct.now};
	struct pc_ranges out = {.out = ranges, .n = n};
	struct pc_range r;
	for (int k = 0; k < 2; k++) {
		for (u64 at = 0, stop; pc_map_next(maps[k], at, &r); at = all ? r.end : stop) {
			u64 pos = pc_max(at, r.pos);
			bool reported = pc_map_at(&i->direct.reported, pos, r.end, &stop);
			if (all || !reported)
				pc_ranges_add(&out, pos, all ? r.end : stop);
		}
		pc_ranges_flush(&out);
	}
	return out.used;
}

/* (offset, length) pairs that no commit covers, including those of a running commit. Return: how many there are, which
 * may exceed n. */
size_t pc_direct_ranges(struct pc_inode *i, uint64_t *ranges, size_t n)
{
	pc_inode_leaf_lock(i);
	size_t found = list(i, ranges, n, true);
	pc_inode_leaf_unlock(i);
	return found;
}

/* A commit has failed, or the store is gone: take the (offset, length) pairs that were not reported as lost; now they are.
 * A write that ends later is sent again. It is one section, or a write that ends in between would be neither. @forget:
 * the backend that had them is gone. Return: how many there are; more than n: nothing has changed. */
size_t pc_direct_lost(struct pc_inode *i, uint64_t *ranges, size_t n, bool forget)
{
	pc_inode_leaf_lock(i);
	size_t found = list(i, ranges, n, false);
	if (found <= n) {
		i->commits_failed++;
		add_all(i, &i->direct.reported, &i->direct.now);
		add_all(i, &i->direct.reported, &i->direct.moved);
		if (forget)
			pc_direct_clear(i);
	}
	pc_inode_leaf_unlock(i);
	return found;
}
