/*
 * folio.c - one folio's life: every transition is one function here; no other file writes stamps or marks.
 *
 *   E1  absent → present, locked, V = ∅      pc_folio_create
 *   E2  R → V, unlock                         pc_valid_add + pc_folio_unlock (fill.c)
 *   E3  clean → dirty                         pc_folio_dirty, pc_folio_dirty_borrowed, pc_folio_pin_blocks
 *   E4  D → W                                 pc_folio_begin_writeback
 *   E5  W → U, W → clean                      pc_folio_end_writeback (PC_WB_UNSTABLE, PC_WB_STABLE)
 *   E6  W → D (+ X)                           pc_folio_end_writeback (PC_WB_AGAIN, PC_WB_FAILED)
 *   E7  U → clean, U → D                      pc_folio_end_unstable
 *   E8  any → zeroed part, removed, detached  pc_folio_forget_local, pc_folio_remove
 *   E9  clean → removed                       reclaim.c, through pc_folio_detach
 *   E10 clean → removed                       truncate.c and invalidate.c, through pc_folio_remove
 *   E12 L → ∅, recorded as loss               pc_folio_forget_local
 *   E13 W → S                                 pc_folio_end_writeback (PC_WB_STAGED)
 *   E14 D → S                                 E4 and E13 in one section (spill.c)
 *
 * Invariants kept by each function: flags are the summaries of the sets and the leaf marks equal the flags [I-2]; a stamp
 * is PC_STAMP_NONE iff its set is empty [I-3]; the counts of inode, volume and cache follow the sets; a clean folio is on a
 * reclaim queue or will be put there by pc_reclaim_clean.
 *
 * Locks: transitions run under the inode's leaf lock; create allocates before it takes it. The folio lock, references and
 * memory of a descriptor are in descriptor.c, the sets themselves in ranges.c, the exchange of a frame in frames.c.
 */
#include "state/state.h"

static const enum pc_mark mark_of[PC_SETS] = {
	[PC_D] = PC_MARK_DIRTY, [PC_W] = PC_MARK_WRITEBACK, [PC_U] = PC_MARK_UNSTABLE};

static u32 blocks_of(const struct pc_folio *f)
{
	return 1u << pc_folio_order(f);
}

/* ---------------------------------------------------------------- counts */

static void local_changed(struct pc_inode *i, i64 delta)
{
	if (!delta)
		return;
	i->nr_local += (u64)delta;
	pc_aside_changed(i, (u64)delta << i->cache->page_shift);
	u64 own = atomic_fetch_add_explicit(&i->volume->local, (u64)delta, memory_order_relaxed) + (u64)delta;
	u64 all = atomic_fetch_add_explicit(&i->cache->local, (u64)delta, memory_order_relaxed) + (u64)delta;
	if (delta > 0 && (all > atomic_load_explicit(&i->cache->dirty_background, memory_order_relaxed) ||
			  own > atomic_load_explicit(&i->volume->room.background, memory_order_relaxed)))
		pc_room_counted(i, delta, all, own);
	pc_dirty_list_update(i);
}

/* A set has n blocks more. The inode's count is written under the leaf lock; one of them is read without (pc_some_failed). */
static void count(struct pc_inode *i, enum pc_set s, u64 n)
{
	struct pc_sums *v = &i->volume->sums;
	u64 *own = s == PC_D   ? &i->nr_dirty
		   : s == PC_W ? &i->nr_writeback
		   : s == PC_U ? &i->nr_unstable
			       : &i->nr_failed;
	_Atomic u64 *sum = s == PC_D ? &v->dirty : s == PC_W ? &v->writeback : s == PC_U ? &v->unstable : &v->failed;
	if (!n)
		return;
	__atomic_store_n(own, *own + n, __ATOMIC_RELAXED);
	pc_sum(sum, n);
	if (s == PC_D && *own == n)
		i->dirtied_ns = pc_now(i->cache);
	if (s == PC_D && (*own == 0 || *own == n))
		pc_aged_update(i);
}

/* Add to or take from a set, with its count and its mark; the first dirty block starts the inode's age. Return: blocks that
 * changed. */
static u32 set_add(struct pc_inode *i, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	bool was = pc_set_count(i->cache, f, s, 0, blocks_of(f)) != 0;
	u32 n = pc_set_add(i->cache, f, s, b0, b1);
	count(i, s, n);
	if (s == PC_U)
		atomic_fetch_add_explicit(&i->cache->unstable, n, memory_order_relaxed);
	if (n && !was && s <= PC_U)
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), mark_of[s], true);
	return n;
}

static u32 set_del(struct pc_inode *i, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	u32 n = pc_set_del(i->cache, f, s, b0, b1);
	count(i, s, -(u64)n);
	if (s == PC_U)
		atomic_fetch_sub_explicit(&i->cache->unstable, n, memory_order_relaxed);
	if (n && s <= PC_U && pc_set_count(i->cache, f, s, 0, blocks_of(f)) == 0)
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), mark_of[s], false);
	return n;
}

/* What set `from` has of [b0, b1) is in set `to` as well from here on. Return: blocks that `to` gained. */
static u32 set_copy(struct pc_inode *i, struct pc_folio *f, enum pc_set from, enum pc_set to, u32 b0, u32 b1)
{
	const struct pc_cache *c = i->cache;
	u32 n = 0;
	for (u32 b = pc_set_next(c, f, from, b0, b1), end; b < b1; b = pc_set_next(c, f, from, end, b1)) {
		end = pc_set_next_clear(c, f, from, b, b1);
		n += set_add(i, f, to, b, end);
	}
	return n;
}

/* Whether a block of the pages [index, last) is in D, W or U. Leaf lock held. */
bool pc_any_block(const struct pc_inode *i, enum pc_set set, u64 index, u64 last)
{
	u64 next = index;
	for (const struct pc_folio *f; (f = pc_next_marked(i, &next, last, mark_of[set]));) {
		u64 first = pc_folio_index(f);
		u32 b0 = index > first ? (u32)(index - first) : 0, b1 = (u32)(pc_min(next, last) - first);
		if (pc_set_next(i->cache, f, set, b0, b1) < b1)
			return true;
	}
	return false;
}

static void towrite_clear(struct pc_inode *i, struct pc_folio *f)
{
	if (pc_index_marked(i, pc_folio_index(f), PC_MARK_TOWRITE))
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
}

static void stamp_lower(struct pc_stamp *s, u64 v)
{
	if (v < pc_stamp_get(s))
		pc_stamp_set(s, v);
}

/* ---------------------------------------------------------------- E1, removal */

/* [E1] Insert a new folio that holds page @index, locked by request @owner (0: a section of C code). @order: wanted
 * size; less where the neighbourhood is taken or memory is short. @state: bits that it has from its beginning, as
 * PC_F_UNREAD. Frames that carried another volume are zeroed before a caller can see them. Context: no leaf lock. May
 * reclaim; never waits. Return: 0; -EEXIST another thread was faster: look again; -ENOMEM nothing can be freed now;
 * -EBUSY invalidate lock held (fills only). */
int pc_folio_create(struct pc_inode *i, u64 index, u32 order, u32 owner, u32 state, struct pc_folio **out)
{
	struct pc_cache *c = i->cache;
	if (order > 0) {
		pc_inode_leaf_lock(i);
		while (order > 0 && !pc_index_empty(i, index >> order << order, order))
			order--;
		pc_inode_leaf_unlock(i);
	}
	u32 frame = pc_frame_get(c, &order, 0);
	if (frame == PC_NO_FRAME)
		return -ENOMEM;
	if (pc_arena_claim(&c->arena, frame, order, i->volume->tag))
		memset(pc_arena_at(&c->arena, frame), 0, (size_t)c->page_size << order);
	struct pc_folio *f = pc_descriptor_new(i, index, order, frame, owner);
	if (!f)
		return -ENOMEM;
	atomic_fetch_or_explicit(&f->state, state, memory_order_relaxed);
	index = pc_folio_index(f);
	pc_inode_leaf_lock(i);
	int err = owner && i->inval_x ? -EBUSY : pc_index_insert(i, index, order, pc_folio_id(c, f));
	if (!err) {
		atomic_store_explicit(&f->refs, 1, memory_order_release);
		pc_folios_changed(i, 1, 1u << order);
		atomic_fetch_sub_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
		pc_trace_add(c, "insert", i->id, index, order);
	}
	pc_inode_leaf_unlock(i);
	if (err) {
		pc_descriptor_free(c, f);
		return err;
	}
	pc_reclaim_insert(c, f, i->volume->sticky);
	*out = f;
	return 0;
}

/* [E8, E9, E10] Take the folio out of the index; the reference of the index stays with the caller. Context: leaf lock,
 * folio lock (which ends here). L must be empty [I-8]. */
void pc_folio_detach(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 st = pc_folio_state(f);
	PC_ASSERT(!(st & (PC_F_LOCAL | PC_F_WRITE_PINNED)));
	towrite_clear(i, f);
	set_del(i, f, PC_X, 0, blocks_of(f));
	pc_index_erase(i, pc_folio_index(f), pc_folio_order(f));
	pc_folios_changed(i, -1, -(i64)blocks_of(f));
	if (st & PC_F_PINNED)
		pc_pinned_changed(i, -(i64)blocks_of(f));
	pc_trace_add(c, "remove", i->id, pc_folio_index(f), pc_folio_order(f));
	pc_reclaim_remove(c, f);
	pc_seq_begin(f);
	atomic_store_explicit(&f->inode_id, 0, memory_order_relaxed);
	u32 old = pc_folio_state(f);
	while (!atomic_compare_exchange_weak(&f->state, &old, PC_F_DETACHED | (old & (PC_F_PINNED | PC_F_HELD))))
		;
	atomic_store_explicit(&f->owner, 0, memory_order_relaxed);
	pc_seq_end(f);
	if (old & PC_F_WAITERS)
		pc_event_wake(pc_folio_event(c, pc_folio_id(c, f)));
}

void pc_folio_remove(struct pc_inode *i, struct pc_folio *f)
{
	pc_folio_detach(i, f);
	pc_folio_put(i->cache, f);
}

/* ---------------------------------------------------------------- E3 */

/* As many bytes are dirty as make another unit: the flusher looks whether one is whole (contract 2.11). */
static void unit_filled(struct pc_inode *i, u64 fresh)
{
	u64 unit = pc_max(i->limits.write_unit >> i->cache->page_shift, 1);
	if (i->nr_dirty / unit != (i->nr_dirty - fresh) / unit)
		pc_event_wake(&i->cache->flusher_event);
}

static void dirty(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1)
{
	struct pc_cache *c = i->cache;
	u32 before = pc_local_count(c, f, b0, b1);
	u64 fresh = set_add(i, f, PC_D, b0, b1);
	u64 stamp = atomic_load_explicit(&i->volume->epoch, memory_order_acquire);
	stamp_lower(&f->d, stamp);
	__atomic_store_n(&i->changed, stamp, __ATOMIC_RELAXED);
	if (fresh && i->limits.commit_on_close && i->limits.write_unit > 1)
		unit_filled(i, fresh);
	local_changed(i, (i64)pc_local_count(c, f, b0, b1) - before);
	pc_trace_add(c, "dirty", i->id, pc_folio_index(f), pc_stamp_get(&f->d));
}

/* [E3] The valid bytes of [from, to) are newer than storage. Context: leaf lock, folio lock. Blocks of U that are
 * written again stay in U as well [M5]. */
void pc_folio_dirty(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	u32 mask = i->cache->page_size - 1, shift = i->cache->page_shift;
	if ((from | to) & mask || i->borrowed.nr_ranges)
		pc_written_add(i, f, from, to);
	dirty(i, f, from >> shift, (to + mask) >> shift);
}

/* [E3] A block is to be sent again, and nothing of it is written. Context: leaf lock: a writer that finds it dirty beside this
 * finds it borrowed, too. */
void pc_folio_dirty_borrowed(struct pc_inode *i, struct pc_folio *f, u32 block)
{
	pc_written_nothing(i, f, block);
	dirty(i, f, block, block + 1);
}

/* Blocks that views may store to have a separate limit, and do not count against that of writers. */
static void pinned_changed(struct pc_inode *i, i64 delta)
{
	i->nr_write_pinned += (u64)delta;
	pc_sum(&i->volume->sums.write_pinned, (u64)delta);
	atomic_fetch_add_explicit(&i->cache->write_pinned, (u64)delta, memory_order_relaxed);
	atomic_fetch_sub_explicit(&i->volume->local, (u64)delta, memory_order_relaxed);
	atomic_fetch_sub_explicit(&i->cache->local, (u64)delta, memory_order_relaxed);
}

/* [E3] A view may store to [from, to) from here on: the blocks are dirty until the last one is released. Context: leaf lock,
 * folio lock; all of it is valid, and in no call's hands. */
void pc_folio_pin_blocks(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	pc_folio_dirty(i, f, from, to);
	pinned_changed(i, pc_set_add(c, f, PC_P, from >> c->page_shift, (to + c->page_size - 1) >> c->page_shift));
}

/* The last view that may store to it is gone: its bytes are dirty like those of a writer, who has written them just now. Context:
 * leaf lock. */
void pc_folio_unpin_blocks(struct pc_inode *i, struct pc_folio *f)
{
	u64 n = pc_set_del(i->cache, f, PC_P, 0, blocks_of(f));
	if (!n)
		return;
	pinned_changed(i, -(i64)n);
	__atomic_store_n(&i->changed, atomic_load_explicit(&i->volume->epoch, memory_order_acquire), __ATOMIC_RELAXED);
}

/* Whatever became of D: what a view may store to is in it, and its content from here on is a later write (contract 1.3). */
static void stay_dirty(struct pc_inode *i, struct pc_folio *f)
{
	if (pc_folio_state(f) & PC_F_WRITE_PINNED && set_copy(i, f, PC_P, PC_D, 0, blocks_of(f)))
		stamp_lower(&f->d, atomic_load_explicit(&i->volume->epoch, memory_order_acquire));
}

/* ---------------------------------------------------------------- E4, E5, E6, E13 */

/* [E4] All of D to W in one section. W must be empty: bytes are in at most one call. What views may store to stays in D; the
 * call gets a copy of that (pc_seg_snapshot). Return: blocks now in flight. */
u32 pc_folio_begin_writeback(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 blocks = blocks_of(f);
	PC_ASSERT(!(pc_folio_state(f) & PC_F_WRITEBACK));
	atomic_fetch_and_explicit(&f->state, ~(u32)PC_F_WRITER_WAITS,
				  memory_order_relaxed); /* left by a caller that gave up */
	pc_written_sent(i, f);
	u32 n = set_copy(i, f, PC_D, PC_W, 0, blocks);
	set_del(i, f, PC_D, 0, blocks);
	set_del(i, f, PC_X, 0, blocks);
	stamp_lower(&f->w, pc_stamp_get(&f->d));
	pc_stamp_set(&f->d, PC_STAMP_NONE);
	stay_dirty(i, f);
	if (pc_folio_state(f) & PC_F_WRITE_PINNED)
		atomic_fetch_or(&f->state, PC_F_COPIED);
	towrite_clear(i, f);
	pc_counted(i, &i->counters.handed_over, (u64)n << c->page_shift);
	pc_trace_add(c, "hand-over", i->id, pc_folio_index(f), pc_stamp_get(&f->w));
	return n;
}

/* [E5, E6, E13] The call that carried blocks [b0, b1) returned. @how: PC_WB_STABLE, PC_WB_UNSTABLE: acknowledged;
 * PC_WB_STAGED: acknowledged, and the caller has put the bytes into S in this section; PC_WB_AGAIN: to be sent again;
 * PC_WB_FAILED: for good. Context: leaf lock; no folio lock: completions never wait for one. */
void pc_folio_end_writeback(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1, int how)
{
	struct pc_cache *c = i->cache;
	u32 before = pc_local_count(c, f, b0, b1);
	u64 w = pc_stamp_get(&f->w);
	u64 bytes = (u64)pc_set_count(c, f, PC_W, b0, b1) << c->page_shift;
	if (!bytes)
		return; /* another extent of the same block ended it: no stamp without bytes [I-3] */
	if (how == PC_WB_STABLE)
		pc_written_saved(i, f, b0, b1);
	if (how == PC_WB_UNSTABLE) {
		set_copy(i, f, PC_W, PC_U, b0, b1);
		stamp_lower(&f->u, w);
	}
	if (how == PC_WB_FAILED)
		set_copy(i, f, PC_W, PC_X, b0, b1);
	if (how == PC_WB_AGAIN || how == PC_WB_FAILED) {
		pc_written_back(i, f, PC_W, b0, b1);
		set_copy(i, f, PC_W, PC_D, b0, b1);
		stamp_lower(&f->d, w);
		atomic_fetch_or(&f->state, PC_F_BACKOFF);
		i->regress_seq++;
		pc_counted(i, &i->counters.returned, bytes);
	} else {
		pc_counted(i, &i->counters.acknowledged, bytes);
		atomic_fetch_add_explicit(&i->volume->acked, bytes >> c->page_shift, memory_order_relaxed);
	}
	set_del(i, f, PC_W, b0, b1);
	if (!(pc_folio_state(f) & PC_F_WRITEBACK)) {
		pc_stamp_set(&f->w, PC_STAMP_NONE);
		if (atomic_fetch_and(&f->state, ~(u32)PC_F_COPIED) & PC_F_WRITER_WAITS)
			pc_event_wake(pc_folio_event(c, pc_folio_id(c, f)));
	}
	local_changed(i, (i64)pc_local_count(c, f, b0, b1) - before);
	pc_trace_add(c, how <= PC_WB_STAGED ? "acknowledged" : "again", i->id, pc_folio_index(f), w);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(c, f);
}

/* ---------------------------------------------------------------- E7 */

/* U ends: the bytes are @committed, or dirty again. @parked: failed for good (X). Context: leaf lock. */
void pc_folio_end_unstable(struct pc_inode *i, struct pc_folio *f, bool committed, bool parked)
{
	struct pc_cache *c = i->cache;
	u32 blocks = blocks_of(f), before = pc_local_count(c, f, 0, blocks);
	if (!committed) {
		pc_written_back(i, f, PC_U, 0, blocks);
		set_copy(i, f, PC_U, PC_D, 0, blocks);
		if (parked) {
			set_copy(i, f, PC_U, PC_X, 0, blocks);
			atomic_fetch_or(&f->state, PC_F_BACKOFF);
		}
		stamp_lower(&f->d, pc_stamp_get(&f->u));
		i->regress_seq++;
	}
	set_del(i, f, PC_U, 0, blocks);
	pc_stamp_set(&f->u, PC_STAMP_NONE);
	local_changed(i, (i64)pc_local_count(c, f, 0, blocks) - before);
	pc_trace_add(c, committed ? "committed" : "commit failed", i->id, pc_folio_index(f), 0);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(c, f);
}

/* A retry was asked for: the bytes are plain dirty again. */
void pc_folio_clear_failed(struct pc_inode *i, struct pc_folio *f)
{
	set_del(i, f, PC_X, 0, blocks_of(f));
	atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
}

/* [E8, E12] Blocks [b0, b1) leave D, U and X without I/O: truncate, punch, discard. What a view may store to stays
 * dirty: pc_folio_unpin_blocks comes first where that is to go. Context: leaf lock, token (so W is empty). The stamps
 * go when their sets are empty; what remains keeps them. */
void pc_folio_forget_local(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1)
{
	struct pc_cache *c = i->cache;
	u32 before = pc_local_count(c, f, b0, b1);
	PC_ASSERT(pc_set_count(c, f, PC_W, b0, b1) == 0);
	set_del(i, f, PC_D, b0, b1);
	set_del(i, f, PC_U, b0, b1);
	set_del(i, f, PC_X, b0, b1);
	stay_dirty(i, f);
	pc_written_forget(i, f, b0, b1);
	u32 st = pc_folio_state(f);
	if (!(st & PC_F_DIRTY)) {
		pc_stamp_set(&f->d, PC_STAMP_NONE);
		atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
		towrite_clear(i, f);
	}
	if (!(st & PC_F_UNSTABLE))
		pc_stamp_set(&f->u, PC_STAMP_NONE);
	local_changed(i, (i64)pc_local_count(c, f, b0, b1) - before);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(c, f);
}
