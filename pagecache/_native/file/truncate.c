/*
 * truncate.c - remove bytes: truncate, punch, discard.
 *
 * The caller of truncate and punch holds the inode lock X, the token (nothing is in flight) and the invalidate lock X
 * (no fill may start; the caller has waited for running ones, pc_range_busy). So only a reclaim can hold a folio here,
 * for moments, and nothing after the backend's call can wait: size, remote_size and inval_seq are published together,
 * then the folios go.
 *
 * Pinned folios are detached: the view keeps its memory, separate from the file (views.c).
 *
 * Contract 2.17, 2.18; transitions E8, E10, E12. Locks: leaf lock; content is zeroed with the folio locked.
 */
#include "file/file.h"

/* The first folio with a page in [*index, end), locked; *index moves past it. @locked: whether this call locked it: a fill may
 * keep its folio, as it touches only missing bytes and unlocks under the leaf lock, so that it holds the folio until this
 * section ends. NULL: no fill may. Leaf lock held, released while waiting. */
struct pc_folio *pc_next_claimed(struct pc_inode *i, u64 *index, u64 end, bool *locked)
{
	for (u32 id, tries = 0; (id = pc_index_next(i, *index, end));) {
		struct pc_folio *f = pc_folio_at(i->cache, id);
		bool mine = pc_folio_trylock(f);
		if (locked)
			*locked = mine;
		if (mine || (locked && atomic_load(&f->owner))) {
			*index = pc_folio_after(f);
			return f;
		}
		pc_inode_leaf_unlock(i); /* a reclaim has it, for moments */
		PC_SYNC("passer_by_met");
		pc_pause(tries++);
		pc_inode_leaf_lock(i);
	}
	return NULL;
}

int pc_invalidate_lock(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	int err = atomic_load(&i->inval_x) ? -EBUSY : 0;
	atomic_store(&i->inval_x, 1);
	pc_inode_leaf_unlock(i);
	return err;
}

void pc_invalidate_unlock(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	atomic_store(&i->inval_x, 0);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
}

/* Whether a folio of [pos, end) is owned by a fill. Return: 1 and need (FOLIO), 0. */
uint32_t pc_range_busy(struct pc_inode *i, uint64_t pos, uint64_t end, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1;
	u32 busy = 0;
	pc_inode_leaf_lock(i);
	for (struct pc_folio *f; !busy && (f = pc_next_folio(i, &index, last >> c->page_shift));) {
		pc_need_folio(need, PC_NEED_FOLIO, c, f);
		busy = pc_folio_state(f) & PC_F_LOCKED && need->owner;
	}
	pc_inode_leaf_unlock(i);
	return busy;
}

/* Uncommitted bytes go: what was sent as their neighbours may be stored all the same (pc_may_be_stored). */
static void neighbours_came_back(struct pc_inode *i)
{
	i->regress_seq += i->limits.write_unit > 1;
}

/* Stamp m covers the uncommitted ones of the bytes to remove (contract 2.17). */
static void cover(struct pc_inode *i, const struct pc_folio *f)
{
	if (pc_folio_state(f) & PC_F_UNSTABLE)
		neighbours_came_back(i);
	i->stamp_m = pc_min(i->stamp_m, pc_min(pc_stamp_get(&f->d), pc_stamp_get(&f->u)));
}

static void uncommitted_now(struct pc_inode *i)
{
	u64 epoch = atomic_load(&i->volume->epoch);
	__atomic_store_n(&i->changed, epoch, __ATOMIC_RELAXED);
	i->stamp_m = pc_min(i->stamp_m, epoch);
}

/* Remove staged bytes. The backend drops them with its own truncate or hole. */
static void cut_staged(struct pc_inode *i, u64 pos, u64 end)
{
	u64 stamp = i->staged.stamp;
	if (!pc_staged_cut(i, pos, end))
		return;
	neighbours_came_back(i);
	i->stamp_m = pc_min(i->stamp_m, stamp);
}

/* The write unit around a cut at @pos is sent again as a whole: the backend may be unable to keep a part of what it was
 * sent. So its acknowledged bytes are dirty again; staged ones are sent from the spool (engine/commit/staging.py). Leaf
 * lock held. */
static void cut_unit(struct pc_inode *i, u64 pos)
{
	struct pc_cache *c = i->cache;
	u64 unit = pc_max(i->limits.write_unit, 1), start = pos - pos % unit, index = start >> c->page_shift;
	if (pos == start || !i->limits.commit_on_close)
		return;
	u64 end = (start + unit + c->page_size - 1) >> c->page_shift;
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, end, PC_MARK_UNSTABLE));)
		pc_folio_end_unstable(i, f, false, false);
}

/* Zero [from, to) of a locked folio and take its whole blocks out of L. Leaf lock held, released while zeroing. */
static void zero_part(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	bool views = pc_folio_state(f) & PC_F_WRITE_PINNED;
	if (views)
		pc_ext_pin_stores(i, f); /* one may store behind the zeros, and end before they count */
	pc_inode_leaf_unlock(i);
	PC_POINT("cut_before_zeros");
	if (pc_folio_state(f) & PC_F_HELD)
		pc_folio_copy_on_conflict(i, f); /* exporters keep the old bytes, if that is possible */
	memset(pc_folio_memory(c, f) + from, 0, to - from);
	PC_SYNC("cut_zeroed");
	pc_inode_leaf_lock(i);
	u32 b0 = (from + c->page_size - 1) >> c->page_shift, b1 = to >> c->page_shift;
	if (b0 < b1)
		pc_folio_forget_local(i, f, b0, b1);
	pc_written_zeroed(i, f, from, to);
	if (views)
		pc_ext_unpin_stores(i, f);
}

/* The file ends in the locked folio. Leaf lock held, released in between. */
static void end_inside(struct pc_inode *i, struct pc_folio *f, u64 size)
{
	struct pc_cache *c = i->cache;
	u32 end = (u32)(size - pc_folio_pos(c, f)), block = end >> c->page_shift, from = block << c->page_shift;
	pc_inode_leaf_unlock(i);
	pc_views_end_at(i, f, size);
	pc_inode_leaf_lock(i);
	zero_part(i, f, end, pc_folio_bytes(c, f));
	/* A block with dirty bytes only beyond the new end has no byte left to write back. */
	if (from < end && pc_missing_until(c, f, from, end) == end)
		pc_folio_forget_local(i, f, block, block + 1);
}

/* [pos, end) is gone in storage: remove folios inside, zero the parts of others. @undone: a commit has to cover the change,
 * or NULL. Leaf lock held. */
static void remove_bytes(struct pc_inode *i, u64 pos, u64 end, const struct pc_undone *undone)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_index_behind(i, end);
	if (undone) {
		uncommitted_now(i);
		pc_undone_merge(&i->undone, undone);
	}
	pc_written_hole(i, pos, end);
	cut_staged(i, pos, end);
	cut_unit(i, pos);
	if (end != UINT64_MAX)
		cut_unit(i, end);
	pc_direct_cut(i, pos, end);
	for (struct pc_folio *f; (f = pc_next_claimed(i, &index, last, NULL));) {
		u64 start = pc_folio_pos(c, f), stop = start + pc_folio_bytes(c, f);
		if (undone)
			cover(i, f);
		if (start >= pos && stop <= end) {
			pc_folio_unpin_blocks(i, f);
			pc_folio_forget_local(i, f, 0, 1u << pc_folio_order(f));
			pc_folio_remove(i, f);
			continue;
		}
		if (end == UINT64_MAX)
			end_inside(i, f, pos);
		else
			zero_part(i, f, (u32)(pc_max(pos, start) - start), (u32)(pc_min(end, stop) - start));
		pc_folio_ext_drop(i, f);
		pc_folio_unlock(c, f);
	}
}

/* End a section that has changed the file, and wake all who wait for that. Leaf lock held; it is free then. */
void pc_section_end(struct pc_inode *i)
{
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
	pc_event_wake(&i->cache->event);
}

/* End the file at @size, in the cache as in storage. @uncommitted: the backend's truncate needs a commit to be durable.
 * Returns after everything is published. */
void pc_truncate(struct pc_inode *i, uint64_t size, bool uncommitted)
{
	pc_inode_leaf_lock(i);
	PC_ASSERT(i->token == PC_TOKEN_CALLER);
	u64 old = atomic_load(&i->size);
	if (size < old)
		pc_set_size(i, size);
	pc_set_remote_size(i, size);
	pc_invalidated(i, pc_min(size, old), UINT64_MAX);
	pc_trace_add(i->cache, "truncate", i->id, size, old);
	remove_bytes(i, size, UINT64_MAX, uncommitted ? &(struct pc_undone){.lowest = size} : NULL);
	if (size > old)
		pc_set_size(i, size);
	pc_section_end(i);
}

/* [pos, end), all of it below remote_size, is now zeros in storage. */
void pc_punch(struct pc_inode *i, uint64_t pos, uint64_t end, bool uncommitted)
{
	const struct pc_undone hole = {.lowest = UINT64_MAX, .hole_pos = pos, .hole_end = end};
	pc_inode_leaf_lock(i);
	PC_ASSERT(i->token == PC_TOKEN_CALLER);
	pc_invalidated(i, pos, end);
	remove_bytes(i, pos, end, uncommitted ? &hole : NULL);
	pc_section_end(i);
}

/* Put [pos, end) on the list. Without memory for one more range, the bytes up to the first one, or since it, join it. */
static void list_lost(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_range first;
	bool added = pos >= end || pc_map_add(i->cache, &i->lost, pos, end, UINT32_MAX);
	if (!added && pc_map_next(&i->lost, 0, &first))
		added = pc_map_add(i->cache, &i->lost, pc_min(first.pos, pos), pc_max(first.end, end), UINT32_MAX);
	PC_ASSERT(added); /* without a few KiB for the first range the process is at its end */
}

/* Put the valid bytes of [from, to) of a folio on the list. */
static void list_valid(struct pc_inode *i, const struct pc_folio *f, u64 from, u64 to)
{
	u64 start = pc_folio_pos(i->cache, f);
	u32 at = (u32)(from - start);
	for (u32 end; from < to && pc_valid_run(i->cache, f, &at, (u32)(to - start), &end); at = end)
		list_lost(i, start + at, start + end);
}

/* Record that [pos, end) is given up and may be on the backend, uncommitted: the next commit may or may not store it.
 * Therefore bytes read from there are dropped when that commit ends (pc_commit_end). */
static void note_given_up(struct pc_inode *i, u64 pos, u64 end)
{
	uncommitted_now(i);
	pc_undone_merge(&i->undone, &(struct pc_undone){.lowest = UINT64_MAX, .gone_pos = pos, .gone_end = end});
}

/* [E12] Give up L and S of [pos, end), to whole blocks, for the list of pc_discarded(). @cut_size: reduce the size if a local
 * tail goes. Context: token. */
void pc_discard(struct pc_inode *i, uint64_t pos, uint64_t end, bool cut_size)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1, tail = 0;
	u64 first = index << c->page_shift, staged_end = last >> c->page_shift << c->page_shift;
	pc_inode_leaf_lock(i);
	u64 size = atomic_load(&i->size);
	struct pc_range kept;
	for (u64 from = first; pc_map_next(&i->staged.map, from, &kept) && kept.pos < staged_end; from = kept.end) {
		note_given_up(i, pc_max(kept.pos, first), pc_min(kept.end, staged_end));
		list_lost(i, pc_max(kept.pos, first), pc_min(pc_min(kept.end, staged_end), size));
	}
	cut_staged(i, first, staged_end);
	pc_invalidate_folios(i, pos, end); /* a write beside the walk would keep what a page has of S */
	bool locked;
	for (struct pc_folio *f; (f = pc_next_claimed(i, &index, last >> c->page_shift, &locked));) {
		size = atomic_load(&i->size); /* the leaf lock was released: the file may have grown */
		u64 start = pc_folio_pos(c, f);
		u32 blocks = 1u << pc_folio_order(f);
		if (locked && pc_views_hit(i, f, pos, end) == PC_VIEWS_WHOLE)
			pc_folio_unpin_blocks(i, f);
		for (u32 b = 0; b < blocks; b++) {
			u64 from = start + ((u64)b << c->page_shift), to = from + c->page_size;
			if (!pc_local_count(c, f, b, b + 1))
				continue;
			/* A view that pc_views_cut did not cut: its stores are later writes. */
			if (to <= pos || from >= end || pc_set_count(c, f, PC_P, b, b + 1))
				continue;
			list_valid(i, f, from, pc_min(to, size));
			if (pc_may_be_stored(i, from, to)) {
				note_given_up(i, from, to);
				cover(i, f);
			}
			pc_folio_forget_local(i, f, b, b + 1);
		}
		if (!locked) {
			atomic_fetch_or(&f->state, PC_F_STALE); /* the fill cuts V when it unlocks */
		} else if (pc_folio_state(f) & PC_F_LOCAL) {
			pc_folio_refresh(i, f);
			pc_folio_unlock(c, f);
		} else {
			pc_folio_remove(i, f);
		}
	}
	u64 remote = atomic_load(&i->remote_size); /* both are read now: they may have grown since the last folio */
	size = atomic_load(&i->size);
	if (cut_size && size > remote && last - last % c->page_size >= size) { /* whole blocks were given up */
		index = 0;
		for (struct pc_folio *f; (f = pc_next_marked(i, &index, pc_last_index(c), PC_MARK_DIRTY));)
			tail = pc_max(tail, pc_local_end(c, f, size));
		pc_set_size(i, pc_min(size, pc_max(remote, tail)));
	}
	pc_section_end(i);
}

/* Take the (offset, length) pairs of all bytes given up since the last list. Context: token. Return: how many there are; more than
 * n: they stay. */
size_t pc_discarded(struct pc_inode *i, uint64_t *ranges, size_t n)
{
	struct pc_ranges out = {.out = ranges, .n = n};
	struct pc_range r;
	pc_inode_leaf_lock(i);
	for (u64 at = 0; pc_map_next(&i->lost, at, &r); at = r.end)
		pc_ranges_add(&out, r.pos, r.end);
	pc_ranges_flush(&out);
	if (out.used <= n)
		pc_map_clear(i->cache, &i->lost);
	pc_inode_leaf_unlock(i);
	return out.used;
}

/* Free an inode that was destroyed, or one of an ended volume, with all that is local of it. The caller promises that nothing
 * refers to it. Return: 0; -EBUSY, nothing has changed: a call that was left behind has it, or the closed cache frees it. */
int pc_inode_end(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	bool used = i->token != PC_TOKEN_FREE || !pc_list_empty(&i->token_queue) || i->nr_direct ||
		    atomic_load(&i->users) || (!i->dead && atomic_load(&i->cache->closed));
	bool give_up = !used && pc_unsaved(i);
	if (give_up)
		i->token = PC_TOKEN_CALLER;
	pc_inode_leaf_unlock(i);
	if (used)
		return -EBUSY;
	if (give_up) {
		pc_discard(i, 0, UINT64_MAX, true);
		pc_inode_forget(i, PC_FORGET_ALL);
		pc_inode_leaf_lock(i);
		pc_token_pass_on(i);
		pc_inode_leaf_unlock(i);
	}
	int err = pc_inode_destroy(i);
	if (!err)
		pc_inode_free(i);
	return err;
}
