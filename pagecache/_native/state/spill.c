/*
 * spill.c - dirty bytes leave the memory limit without a call of the backend: D → S.
 *
 *   folios   ··[##][##][##][#·]··      D
 *   spool       ████████████           a copy, made by the caller under the inode lock X: no writer changes them meanwhile
 *   S           ████████████           in one section, if they are as they were found
 *
 * The engine has them sent before the next commit, like staged bytes that the backend has forgotten (engine/commit/staging.py):
 * the state is that after an acknowledgement and a rollback.
 *
 *   beside it                 so
 *   commit                    only while it sends and commits: it leaves what is spilled beside it (staged.c)
 *   truncate, discard, ...    a token that is neither free, nor a pass's or such a commit's: nothing is spilled
 *   pass                      bytes in flight stay; so does a write unit of which the backend may have a part
 *   fill                      it has the folio's lock; or its bytes joined the block, which is not copied as a whole then
 *
 * Locks: leaf lock. Transition E14.
 */
#include "state/state.h"

enum { PC_KEEPS = PC_F_WRITEBACK | PC_F_BACKOFF | PC_F_FAILED | PC_F_WRITE_PINNED | PC_F_STALE };

static bool may_spill(const struct pc_folio *f)
{
	return (pc_folio_state(f) & (PC_F_DIRTY | PC_KEEPS)) == PC_F_DIRTY;
}

/* Whether the token admits spills. @sending: a commit that has it sends or commits, and does nothing else. Leaf lock held. */
static bool admits(const struct pc_inode *i, bool sending)
{
	bool commits = i->token == PC_TOKEN_COMMIT && i->commit_due && sending;
	return (commits || i->token == PC_TOKEN_FREE || i->token == PC_TOKEN_PASS) && i->limits.stages && !pc_durable(i) &&
	       !atomic_load(&i->volume->aborted);
}

/* Bytes at @from or behind it that may be spilled, of whole folios, and @most or not many more: ascending @runs, [runs[0], runs[1])
 * first. @max: runs that have room there; a folio with more of them stays. Return: how many there are. */
uint32_t pc_spill_find(struct pc_inode *i, uint64_t from, uint64_t most, bool sending, uint64_t *runs, uint32_t max)
{
	struct pc_cache *c = i->cache;
	struct pc_walk walk = {i, from >> c->page_shift, pc_last_index(c), 1 << PC_MARK_DIRTY, 0};
	u64 bytes = 0, size = atomic_load(&i->size), to;
	u32 n = 0;
	for (struct pc_folio *f; (f = pc_walk_next(&walk));) {
		u32 before = n;
		u64 end = n ? runs[2 * n - 1] : 0;
		bool fits = true;
		if (!admits(i, sending)) { /* else each try of a writer would fill the spool in vain */
			pc_walk_stop(&walk);
			return 0;
		}
		for (u64 at = from; may_spill(f) && pc_set_run(c, f, PC_D, at, size, &at, &to); at = to) {
			if (n && runs[2 * n - 1] == at)
				n--;
			else if ((fits = n < max))
				runs[2 * n] = at;
			else
				break;
			runs[2 * n++ + 1] = to;
			bytes += to - at;
		}
		if (!fits && (n = before))
			runs[2 * n - 1] = end;
		if (n && (!fits || bytes >= most)) {
			pc_walk_stop(&walk);
			break;
		}
	}
	return n;
}

/* The end of what the backend has, or may have: bytes in flight count. Leaf lock held. */
u64 pc_sent_end(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	u64 end = atomic_load(&i->remote_size), index = end >> c->page_shift, last = pc_last_index(c);
	u64 size = atomic_load(&i->size);
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, last, PC_MARK_WRITEBACK));)
		for (u64 at = 0, to; pc_set_run(c, f, PC_W, at, size, &at, &to); at = to)
			end = pc_max(end, to);
	return end;
}

/* Whether the backend may have a part of a write unit of [pos, end). Leaf lock held. */
static bool unit_busy(const struct pc_inode *i, u64 pos, u64 end)
{
	u64 unit = i->limits.write_unit, page = i->cache->page_size;
	if (unit <= 1)
		return false;
	u64 first = (pos - pos % unit) / page, last = ((end + unit - 1) / unit * unit + page - 1) / page;
	return pc_next_of(i, first, last, 1 << PC_MARK_UNSTABLE | 1 << PC_MARK_WRITEBACK) != NULL;
}

/* Move D of a folio to S, if all of it lies in runs from *@run, which moves on, to @stop. Leaf lock held. Return: bytes. */
static u64 spill_folio(struct pc_inode *i, struct pc_folio *f, const u64 **run, const u64 *stop)
{
	bool beside = i->token == PC_TOKEN_COMMIT;
	struct pc_cache *c = i->cache;
	u64 size = atomic_load(&i->size), moved = 0, last = 0;
	bool fits = may_spill(f);
	for (u64 at = 0; fits && pc_set_run(c, f, PC_D, at, size, &at, &last); at = last) {
		while (*run < stop && (*run)[1] <= at)
			*run += 2;
		fits = *run < stop && (*run)[0] <= at && last <= (*run)[1];
	}
	if (!fits || !last || unit_busy(i, pc_folio_pos(c, f), last) || !pc_folio_trylock(f))
		return 0;
	pc_folio_begin_writeback(i, f);
	if (last > atomic_load(&i->remote_size))
		pc_set_remote_size(i, last);
	for (u64 at = 0, to; fits && pc_set_run(c, f, PC_W, at, size, &at, &to); at = to) {
		u64 stamp = pc_stamp_get(&f->w);
		fits = !beside || pc_staged_beside(i, at, to, stamp);
		fits = fits && pc_staged_add(i, at, to, stamp);
		moved += to - at;
	}
	/* Bytes that are in S and stay dirty do no harm: memory has the same ones. */
	pc_folio_end_writeback(i, f, 0, 1u << pc_folio_order(f), fits ? PC_WB_STAGED : PC_WB_AGAIN);
	if (!fits)
		atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
	pc_folio_unlock(c, f);
	return fits ? moved : 0;
}

/* The caller has copied @n runs, as pc_spill_find() has found them, to the spool, and has had the inode lock X since before that.
 * @sending: see admits(), until this returns. Return: bytes that are in S now, and no longer in D. */
uint64_t pc_spill(struct pc_inode *i, const uint64_t *runs, uint32_t n, bool sending)
{
	struct pc_cache *c = i->cache;
	const u64 *run = runs, *stop = runs + 2 * n;
	u64 moved = 0, index = n ? runs[0] >> c->page_shift : 0, last = n ? pc_index_behind(i, stop[-1]) : 0;
	pc_inode_leaf_lock(i);
	bool may = admits(i, sending);
	for (struct pc_folio *f; may && (f = pc_next_marked(i, &index, last, PC_MARK_DIRTY));)
		moved += spill_folio(i, f, &run, stop);
	pc_inode_leaf_unlock(i);
	if (moved) {
		pc_event_wake(&i->event);
		pc_event_wake(&c->event);
	}
	return moved;
}
