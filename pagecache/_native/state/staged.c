/*
 * staged.c - S of one inode: acknowledged, uncommitted bytes that are in the file's spool, so that memory need not have them.
 *
 *   file       |··········████████████████··········██······████████████|      S, disjoint ranges of bytes (rangemap.c)
 *   folios            [ V  ]      [ V |D ]          [D]                         memory need not have any of it
 *
 * A write request that stages (`stage`) writes its bytes to the spool, and then to the backend. Its bytes leave W for S in one
 * section (E13). They are readable, so memory need not keep them: as far as its folio is concerned such a byte is clean, is
 * evicted like clean bytes, and is read again from the spool. But it is uncommitted: wherever the contract asks for unstable
 * bytes, S counts as U. If the backend forgets acknowledged bytes, the engine sends S again from the spool
 * (engine/commit/staging.py); nothing changes here.
 *
 * Invariants (pc_staged_check):
 *   S lies in [0, remote_size): what storage keeps has been acknowledged                      [I-1]
 *   `stamp`, the oldest epoch of a byte that was put in, is PC_STAMP_NONE iff S is empty      [I-3]
 * S and V may overlap: such a byte is as new in memory as in S, or newer and then in L. A byte of S that was written again
 * stays in S: it is dirty or in flight in memory, so no read takes it from S before it is staged again, committed or given up,
 * and giving up cuts S as well. So S only grows until a commit, truncate, punch or discard, and a byte that is not in memory
 * does not come into S while a fill of it runs.
 *
 * The number of ranges is bounded: a file that would need more keeps its bytes in U, where they were without this.
 *
 * Locks: the inode's leaf lock for everything but the question whether S is empty.
 */
#include "state/state.h"

enum { PC_STAGED_RANGES_MAX = 1 << 16 };

/* S has changed; it had so many bytes before. */
static void changed(struct pc_inode *i, u64 before)
{
	u64 delta = pc_staged_bytes(i) - before;
	pc_sum(&i->volume->sums.staged, delta);
	pc_aside_changed(i, delta);
	if (!i->staged.map.nr_ranges)
		i->staged.stamp = PC_STAMP_NONE;
	pc_dirty_list_update(i);
}

/* [pos, end) is in the spool; its oldest byte was written in epoch @stamp. Context: leaf lock. Return: false: no room
 * to remember it, nothing has changed; the bytes have to stay in U. */
bool pc_staged_add(struct pc_inode *i, u64 pos, u64 end, u64 stamp)
{
	u64 before = pc_staged_bytes(i);
	if (!pc_map_add(i->cache, &i->staged.map, pos, end, PC_STAGED_RANGES_MAX))
		return false;
	i->staged.stamp = pc_min(i->staged.stamp, stamp);
	changed(i, before);
	return true;
}

/* [pos, end) leaves S: truncate, punch, discard. Context: leaf lock. Return: whether any of it was there. */
bool pc_staged_cut(struct pc_inode *i, u64 pos, u64 end)
{
	u64 before = pc_staged_bytes(i);
	bool any = pc_map_cut(i->cache, &i->staged.map, pos, end);
	changed(i, before);
	return any;
}

/* [pos, end) is about to enter S beside a commit, which does not have it. Context: leaf lock. Return: false: no memory. */
bool pc_staged_beside(struct pc_inode *i, u64 pos, u64 end, u64 stamp)
{
	struct pc_staged *s = &i->beside;
	s->stamp = s->map.nr_ranges ? pc_min(s->stamp, stamp) : stamp;
	return pc_map_add(i->cache, &s->map, pos, end, PC_STAGED_RANGES_MAX);
}

/* A commit has ended; if it is @ok, S has only what was spilled beside it. Context: leaf lock. */
void pc_staged_end_commit(struct pc_inode *i, bool ok)
{
	u64 before = pc_staged_bytes(i);
	if (!ok) {
		pc_map_clear(i->cache, &i->beside.map);
		return;
	}
	pc_map_clear(i->cache, &i->staged.map);
	pc_map_move(&i->staged.map, &i->beside.map);
	i->staged.stamp = i->beside.stamp;
	changed(i, before);
}

/* Whether `pos` is in S, and in *stop how far, up to `end`, the answer holds; for callers without a lock. Bytes enter S only before they leave memory, so a fill that
 * has seen them missing sees them here. */
bool pc_staged_source(struct pc_inode *i, u64 pos, u64 end, u64 *stop)
{
	*stop = end;
	if (PC_LIKELY(!pc_staged_bytes(i)))
		return false;
	pc_inode_leaf_lock(i);
	bool in = pc_map_at(&i->staged.map, pos, end, stop);
	pc_inode_leaf_unlock(i);
	return in;
}

/* The first bytes at `from` or behind it that are staged, or unlogged: [*pos, *end). Return: false: there are none. */
bool pc_bytes_find(struct pc_inode *i, bool unlogged, uint64_t from, uint64_t *pos, uint64_t *end)
{
	struct pc_range r;
	pc_inode_leaf_lock(i);
	bool found = pc_map_next(unlogged ? &i->unlogged : &i->staged.map, from, &r);
	pc_inode_leaf_unlock(i);
	if (found) {
		*pos = pc_max(r.pos, from);
		*end = r.end;
	}
	return found;
}

/* ---------------------------------------------------------------- acknowledged bytes */

/* May the backend have bytes of local blocks of [pos, end), uncommitted? They were acknowledged, came back from a call that failed, or
 * were sent as neighbours of such bytes of their write units (io/units.c). Leaf lock held. */
bool pc_may_be_stored(const struct pc_inode *i, u64 pos, u64 end)
{
	u64 unit = pc_max(i->limits.write_unit, 1), page = i->cache->page_size;
	struct pc_range r;
	pos -= pos % unit;
	end = pc_min(end, UINT64_MAX - unit - page) + unit - 1;
	end -= end % unit;
	return pc_came_back(i) || (pc_map_next(&i->staged.map, pos, &r) && r.pos < end) ||
	       pc_any_block(i, PC_U, pos / page, (end + page - 1) / page);
}

/* The same of whole blocks of [pos, end), if there is anything of L or S. */
bool pc_acknowledged(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	u64 page = i->cache->page_size, index = pos / page, last = (pc_min(end, UINT64_MAX - page) + page - 1) / page;
	struct pc_range r;
	pc_inode_leaf_lock(i);
	bool any = pc_map_next(&i->staged.map, index * page, &r) && r.pos < last * page;
	any = any || pc_any_block(i, PC_U, index, last) || pc_any_block(i, PC_D, index, last);
	any = any && pc_may_be_stored(i, index * page, last * page);
	pc_inode_leaf_unlock(i);
	return any;
}

/* ---------------------------------------------------------------- checking */

bool pc_staged_check(const struct pc_inode *i, struct pc_violation *out)
{
	const struct pc_staged *s = &i->staged;
	u64 end = pc_map_end(&i->staged.map);
	if (!pc_map_check(&s->map, i->id, out))
		return false;
	if (end > pc_inode_remote_size(i))
		return pc_violated(out, "I-1", "inode %: staged up to %, in storage %", i->id, end,
				   pc_inode_remote_size(i));
	u32 nr = s->map.nr_ranges;
	struct pc_range r;
	for (u64 at = 0, stop; pc_map_next(&i->beside.map, at, &r); at = r.end)
		if (!i->commit_running || !pc_map_at(&s->map, r.pos, r.end, &stop) || stop < r.end)
			return pc_violated(out, "I-1", "inode %: [%, %) was spilled beside a commit, and is not staged",
					   i->id, r.pos, r.end);
	if ((s->stamp == PC_STAMP_NONE) != (nr == 0) || (nr && s->stamp > atomic_load(&i->volume->epoch)))
		return pc_violated(out, "I-3", "inode %: % staged ranges, their stamp %", i->id, nr, s->stamp);
	return true;
}
