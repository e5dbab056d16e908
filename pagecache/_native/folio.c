/*
 * folio.c - one folio's life: every state change is one function here, and nobody else writes flags, stamps or marks.
 *
 *   E1  absent → present, locked, V = ∅      pc_folio_create
 *   E2  R → V, unlock                         pc_valid_add + pc_folio_unlock (fill.c)
 *   E3  clean → dirty                         pc_folio_dirty
 *   E4  D → W                                 pc_folio_begin_writeback
 *   E5  W → U, W → clean                      pc_folio_end_writeback (PC_WB_UNSTABLE, PC_WB_STABLE)
 *   E6  W → D (+ X)                           pc_folio_end_writeback (PC_WB_AGAIN, PC_WB_FAILED)
 *   E7  U → clean, U → D                      pc_folio_committed, pc_folio_uncommitted
 *   E8  any → zeroed part, removed, detached  pc_folio_forget_local, pc_folio_remove
 *   E9  clean → removed                       reclaim.c, through pc_folio_detach
 *   E10 clean → removed                       truncate.c (invalidate), through pc_folio_remove
 *   E12 L → ∅, recorded as loss               pc_folio_forget_local
 *
 * Invariants kept by each function: flags are the summaries of the sets and the leaf marks equal the flags [I-2]; a stamp
 * is PC_STAMP_NONE iff its set is empty [I-3]; the counts of inode, volume and cache follow the sets; a clean folio is on a
 * reclaim queue or will be put there by pc_reclaim_clean.
 *
 * Locks: transitions run under the inode's leaf lock; create allocates before it takes it. Sequence: odd while identity,
 * frame or a shrinking V changes (a seqlock; H.-J. Boehm, "Can seqlocks get along with programming language memory
 * models?", 2012).
 */
#include "internal.h"

static const enum pc_mark mark_of[PC_SETS] = {
	[PC_D] = PC_MARK_DIRTY, [PC_W] = PC_MARK_WRITEBACK, [PC_U] = PC_MARK_UNSTABLE};

static u32 blocks_of(const struct pc_folio *f)
{
	return 1u << pc_folio_order(f);
}

static void seq_begin(struct pc_folio *f)
{
	atomic_fetch_add_explicit(&f->seq, 1, memory_order_acq_rel);
	atomic_thread_fence(memory_order_release);
}

static void seq_end(struct pc_folio *f)
{
	atomic_fetch_add_explicit(&f->seq, 1, memory_order_release);
}

/* ---------------------------------------------------------------- lock, references, identity */

bool pc_folio_trylock(struct pc_folio *f)
{
	return !(atomic_fetch_or_explicit(&f->state, PC_F_LOCKED, memory_order_acquire) & PC_F_LOCKED);
}

/* Lock the folio if it is page `index` of the inode. The reference keeps the descriptor from being recycled meanwhile, so
 * nobody else's lock can be undone. Return: 0; -EAGAIN somebody holds it; -ENOENT it is another folio: look again. */
int pc_folio_trylock_at(struct pc_inode *i, struct pc_folio *f, u64 index)
{
	int err = 0;
	if (!pc_folio_get(f))
		return -ENOENT;
	if (!pc_folio_trylock(f)) {
		err = pc_folio_is(i, f, index) ? -EAGAIN : -ENOENT;
	} else if (!pc_folio_is(i, f, index)) {
		pc_folio_unlock(i->cache, f);
		err = -ENOENT;
	}
	pc_folio_put(i->cache, f);
	return err;
}

void pc_folio_unlock(struct pc_cache *c, struct pc_folio *f)
{
	atomic_store_explicit(&f->owner, 0, memory_order_relaxed);
	u32 old = atomic_fetch_and(&f->state, ~(u32)(PC_F_LOCKED | PC_F_WAITERS));
	PC_DEBUG_ASSERT(old & PC_F_LOCKED);
	if (PC_UNLIKELY(old & PC_F_WAITERS))
		pc_event_wake(pc_folio_event(c, pc_folio_id(c, f)));
}

bool pc_folio_get(struct pc_folio *f)
{
	u16 refs = atomic_load_explicit(&f->refs, memory_order_relaxed);
	do {
		if (refs == 0)
			return false;
		PC_ASSERT(refs < 0xfff0);
	} while (!atomic_compare_exchange_weak_explicit(&f->refs, &refs, (u16)(refs + 1), memory_order_acquire,
							memory_order_relaxed));
	return true;
}

void pc_folio_put(struct pc_cache *c, struct pc_folio *f)
{
	if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) == 1)
		pc_folio_freed(c, f);
}

/* Whether the folio is page `index` of the inode; with the folio locked or referenced the answer stands. */
bool pc_folio_is(const struct pc_inode *i, const struct pc_folio *f, u64 index)
{
	return atomic_load_explicit(&((struct pc_folio *)f)->inode_id, memory_order_acquire) == i->id &&
	       index - pc_folio_index(f) < (1ull << pc_folio_order(f));
}

/* ---------------------------------------------------------------- extensions */

static u32 ext_new(struct pc_cache *c, u32 order)
{
	u32 cls = pc_ext_class(order), id = pc_pool_alloc(&c->exts[cls]);
	if (!id)
		return 0;
	struct pc_ext *e = pc_pool_at(&c->exts[cls], id);
	e->pins = 0;
	e->calls = 0;
	atomic_store_explicit(&e->words, 1u << cls, memory_order_relaxed);
	for (u32 k = 0; k < PC_RAGGED; k++)
		atomic_store_explicit(&e->ragged[k], 0, memory_order_relaxed);
	for (u32 k = 0; k < PC_SETS * (1u << cls); k++)
		atomic_store_explicit(&e->sets[k], 0, memory_order_relaxed);
	return id;
}

/* Return: 0, -ENOMEM. Context: leaf lock, or a folio that nobody else can see. */
int pc_folio_ext_ensure(struct pc_cache *c, struct pc_folio *f)
{
	if (atomic_load_explicit(&f->ext, memory_order_relaxed))
		return 0;
	u32 id = ext_new(c, pc_folio_order(f));
	if (!id)
		return -ENOMEM;
	struct pc_ext *e = pc_pool_at(&c->exts[pc_ext_class(pc_folio_order(f))], id);
	if (pc_folio_order(f) > 0 && pc_folio_state(f) & PC_F_UPTODATE)
		for (u32 k = 0; k < 1u << pc_ext_class(pc_folio_order(f)); k++)
			atomic_store_explicit(&e->sets[k], ~0ull, memory_order_relaxed);
	atomic_store_explicit(&f->ext, id, memory_order_release);
	return 0;
}

/* Give the extension back where it says nothing any more. V is all then, so a reader with a stale pointer cannot be misled
 * into bytes that are not valid. */
void pc_folio_ext_drop(struct pc_inode *i, struct pc_folio *f)
{
	u32 st = pc_folio_state(f), id = atomic_load_explicit(&f->ext, memory_order_relaxed);
	if (!id || !(st & PC_F_UPTODATE) || st & (PC_F_PINNED | PC_F_WRITEBACK))
		return;
	if (pc_folio_order(f) > 0 && st & (PC_F_LOCAL | PC_F_FAILED))
		return;
	atomic_store_explicit(&f->ext, 0, memory_order_release);
	pc_pool_free(&i->cache->exts[pc_ext_class(pc_folio_order(f))], id);
}

/* ---------------------------------------------------------------- counts */

static void local_changed(struct pc_inode *i, i64 delta)
{
	if (!delta)
		return;
	i->nr_local += (u64)delta;
	atomic_fetch_add_explicit(&i->volume->local, (u64)delta, memory_order_relaxed);
	u64 local = atomic_fetch_add_explicit(&i->cache->local, (u64)delta, memory_order_relaxed) + (u64)delta;
	if (delta > 0 && local > atomic_load_explicit(&i->cache->dirty_background, memory_order_relaxed) &&
	    !atomic_exchange(&i->cache->flusher_wanted, 1))
		pc_event_wake(&i->cache->flusher_event);
	pc_dirty_list_update(i);
}

static u64 *count_of(struct pc_inode *i, enum pc_set s)
{
	switch (s) {
	case PC_D: return &i->nr_dirty;
	case PC_W: return &i->nr_writeback;
	case PC_U: return &i->nr_unstable;
	case PC_X: return &i->nr_failed;
	default: return &i->nr_staged;
	}
}

/* Add to or take from a set, with its count and its mark. Return: blocks that changed. */
static u32 set_add(struct pc_inode *i, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	bool was = pc_set_count(i->cache, f, s, 0, blocks_of(f)) != 0;
	u32 n = pc_set_add(i->cache, f, s, b0, b1);
	*count_of(i, s) += n;
	if (n && !was && s <= PC_U)
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), mark_of[s], true);
	return n;
}

static u32 set_del(struct pc_inode *i, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	u32 n = pc_set_del(i->cache, f, s, b0, b1);
	*count_of(i, s) -= n;
	if (n && s <= PC_U && pc_set_count(i->cache, f, s, 0, blocks_of(f)) == 0)
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), mark_of[s], false);
	return n;
}

static void stamp_lower(struct pc_stamp *s, u64 v)
{
	if (v < pc_stamp_get(s))
		pc_stamp_set(s, v);
}

/* ---------------------------------------------------------------- E1, removal */

static void folio_discard_new(struct pc_cache *c, struct pc_folio *f, u32 order)
{
	u32 ext = atomic_load_explicit(&f->ext, memory_order_relaxed);
	if (ext)
		pc_pool_free(&c->exts[pc_ext_class(order)], ext);
	pc_arena_free(&c->arena, atomic_load_explicit(&f->frame, memory_order_relaxed), order);
	atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
	atomic_store_explicit(&f->ext, 0, memory_order_relaxed);
	pc_pool_free(&c->folios, pc_folio_id(c, f));
}

/* Identity and memory of a folio that is in no structure yet. */
static struct pc_folio *folio_new(struct pc_inode *i, u64 index, u32 order, u32 frame, u32 owner)
{
	struct pc_cache *c = i->cache;
	u32 id = pc_pool_alloc(&c->folios);
	if (!id) {
		pc_arena_free(&c->arena, frame, order);
		return NULL;
	}
	struct pc_folio *f = pc_folio_at(c, id);
	seq_begin(f);
	atomic_store_explicit(&f->state, PC_F_LOCKED, memory_order_relaxed);
	atomic_store_explicit(&f->key, (index >> order << order) << 4 | order, memory_order_relaxed);
	atomic_store_explicit(&f->frame, frame, memory_order_relaxed);
	atomic_store_explicit(&f->ext, 0, memory_order_relaxed);
	atomic_store_explicit(&f->owner, owner, memory_order_relaxed);
	f->next = f->prev = 0;
	pc_stamp_set(&f->d, PC_STAMP_NONE);
	pc_stamp_set(&f->w, PC_STAMP_NONE);
	pc_stamp_set(&f->u, PC_STAMP_NONE);
	atomic_store_explicit(&f->inode_id, i->id, memory_order_relaxed);
	seq_end(f);
	atomic_fetch_add_explicit(&c->frames_allocated, 1u << order, memory_order_relaxed);
	if (order > 0 && pc_folio_ext_ensure(c, f)) {
		folio_discard_new(c, f, order);
		return NULL;
	}
	return f;
}

/**
 * pc_folio_create() - [E1] insert a new folio that holds page @index, locked by request @owner (0: a section of C code).
 *
 * @order: wanted size; less where the neighbourhood is taken or memory is short.
 * Frames that carried another volume are zeroed before anybody can see them.
 * Context: no leaf lock. May reclaim; never waits.
 * Return: 0; -EEXIST somebody was faster: look again; -ENOMEM nothing can be freed now; -EBUSY invalidate lock held
 * (fills only).
 */
int pc_folio_create(struct pc_inode *i, u64 index, u32 order, u32 owner, struct pc_folio **out)
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
	struct pc_folio *f = folio_new(i, index, order, frame, owner);
	if (!f)
		return -ENOMEM;
	index = pc_folio_index(f);
	pc_inode_leaf_lock(i);
	int err = owner && i->inval_x ? -EBUSY : pc_index_insert(i, index, order, pc_folio_id(c, f));
	if (!err) {
		atomic_store_explicit(&f->refs, 1, memory_order_release);
		i->nr_folios++;
		i->nr_pages += 1u << order;
		atomic_fetch_sub_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
		pc_trace_add(c, PC_T_INSERT, i->id, index, order);
	}
	pc_inode_leaf_unlock(i);
	if (err) {
		folio_discard_new(c, f, order);
		return err;
	}
	pc_reclaim_insert(c, f);
	*out = f;
	return 0;
}

/* The last reference is gone: memory and descriptor go back. */
void pc_folio_freed(struct pc_cache *c, struct pc_folio *f)
{
	u32 order = pc_folio_order(f), frame = atomic_load_explicit(&f->frame, memory_order_relaxed);
	u32 ext = atomic_load_explicit(&f->ext, memory_order_relaxed);
	PC_DEBUG_ASSERT(!(pc_folio_state(f) & PC_F_LOCAL));
	atomic_fetch_add_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
	pc_reclaim_remove(c, f);
	if (ext)
		pc_pool_free(&c->exts[pc_ext_class(order)], ext);
	if (atomic_load_explicit(&c->poison, memory_order_relaxed))
		memset(pc_arena_at(&c->arena, frame), 0xdb, (size_t)c->page_size << order);
	atomic_store_explicit(&f->ext, 0, memory_order_relaxed);
	pc_arena_free(&c->arena, frame, order);
	atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
	pc_pool_free(&c->folios, pc_folio_id(c, f));
}

/**
 * pc_folio_detach() - [E8, E9, E10] take the folio out of the index; the reference of the index stays with the caller.
 *
 * Context: leaf lock, folio lock (which ends here). L must be empty [I-8].
 */
void pc_folio_detach(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 st = pc_folio_state(f);
	PC_ASSERT(!(st & PC_F_LOCAL));
	if (pc_index_marked(i, pc_folio_index(f), PC_MARK_TOWRITE))
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
	set_del(i, f, PC_X, 0, blocks_of(f));
	set_del(i, f, PC_T, 0, blocks_of(f));
	pc_index_erase(i, pc_folio_index(f), pc_folio_order(f));
	i->nr_folios--;
	i->nr_pages -= blocks_of(f);
	if (st & PC_F_PINNED)
		i->nr_pinned -= blocks_of(f);
	pc_trace_add(c, PC_T_REMOVE, i->id, pc_folio_index(f), pc_folio_order(f));
	pc_reclaim_remove(c, f);
	seq_begin(f);
	atomic_store_explicit(&f->inode_id, 0, memory_order_relaxed);
	u32 old = atomic_exchange(&f->state, PC_F_DETACHED | (st & PC_F_PINNED));
	atomic_store_explicit(&f->owner, 0, memory_order_relaxed);
	seq_end(f);
	if (old & PC_F_WAITERS)
		pc_event_wake(pc_folio_event(c, pc_folio_id(c, f)));
}

void pc_folio_remove(struct pc_inode *i, struct pc_folio *f)
{
	pc_folio_detach(i, f);
	pc_folio_put(i->cache, f);
}

/* ---------------------------------------------------------------- E3 */

/**
 * pc_folio_dirty() - [E3] the valid bytes of [from, to) are newer than storage.
 *
 * Context: leaf lock, folio lock. Blocks of U that are written again stay in U as well [M5].
 */
void pc_folio_dirty(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	u32 b0 = from >> c->page_shift, b1 = (to + c->page_size - 1) >> c->page_shift;
	u32 before = pc_local_count(c, f, b0, b1);
	if (i->nr_dirty == 0)
		i->dirtied_ns = pc_now(c);
	set_add(i, f, PC_D, b0, b1);
	stamp_lower(&f->d, atomic_load_explicit(&i->volume->epoch, memory_order_acquire));
	local_changed(i, (i64)pc_local_count(c, f, b0, b1) - before);
	pc_trace_add(c, PC_T_DIRTY, i->id, pc_folio_index(f), pc_stamp_get(&f->d));
}

/* ---------------------------------------------------------------- E4, E5, E6 */

/* [E4] All of D to W in one section. W must be empty: bytes are in at most one call. Return: blocks handed over. */
u32 pc_folio_begin_writeback(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 blocks = blocks_of(f), n = 0;
	PC_ASSERT(!(pc_folio_state(f) & PC_F_WRITEBACK));
	for (u32 b = pc_set_next(c, f, PC_D, 0, blocks); b < blocks; b = pc_set_next(c, f, PC_D, b, blocks)) {
		u32 end = pc_set_next_clear(c, f, PC_D, b, blocks);
		n += set_add(i, f, PC_W, b, end);
		b = end;
	}
	set_del(i, f, PC_D, 0, blocks);
	set_del(i, f, PC_X, 0, blocks);
	stamp_lower(&f->w, pc_stamp_get(&f->d));
	pc_stamp_set(&f->d, PC_STAMP_NONE);
	if (pc_index_marked(i, pc_folio_index(f), PC_MARK_TOWRITE))
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
	i->counters.handed_over += (u64)n << c->page_shift;
	pc_trace_add(c, PC_T_HANDOVER, i->id, pc_folio_index(f), pc_stamp_get(&f->w));
	return n;
}

/**
 * pc_folio_end_writeback() - [E5, E6] the call that carried blocks [b0, b1) returned.
 *
 * @how: PC_WB_STABLE, PC_WB_UNSTABLE: acknowledged; PC_WB_AGAIN: to be sent again; PC_WB_FAILED: for good.
 * Context: leaf lock; no folio lock: completions never wait for one.
 */
void pc_folio_end_writeback(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1, int how)
{
	struct pc_cache *c = i->cache;
	u32 before = pc_local_count(c, f, b0, b1);
	u64 w = pc_stamp_get(&f->w);
	u64 bytes = (u64)pc_set_count(c, f, PC_W, b0, b1) << c->page_shift;
	if (!bytes)
		return; /* another extent of the same block ended it: no stamp without bytes [I-3] */
	for (u32 b = pc_set_next(c, f, PC_W, b0, b1); b < b1; b = pc_set_next(c, f, PC_W, b, b1)) {
		u32 end = pc_set_next_clear(c, f, PC_W, b, b1);
		if (how == PC_WB_UNSTABLE)
			set_add(i, f, PC_U, b, end);
		if (how == PC_WB_AGAIN || how == PC_WB_FAILED) {
			if (i->nr_dirty == 0)
				i->dirtied_ns = pc_now(c);
			set_add(i, f, PC_D, b, end);
		}
		if (how == PC_WB_FAILED)
			set_add(i, f, PC_X, b, end);
		b = end;
	}
	if (how == PC_WB_UNSTABLE)
		stamp_lower(&f->u, w);
	if (how == PC_WB_AGAIN || how == PC_WB_FAILED) {
		stamp_lower(&f->d, w);
		atomic_fetch_or(&f->state, PC_F_BACKOFF);
		i->regress_seq++;
		i->counters.returned += bytes;
	} else {
		i->counters.acknowledged += bytes;
	}
	set_del(i, f, PC_W, b0, b1);
	if (!(pc_folio_state(f) & PC_F_WRITEBACK)) {
		pc_stamp_set(&f->w, PC_STAMP_NONE);
		if (atomic_fetch_and(&f->state, ~(u32)(PC_F_WRITER_WAITS | PC_F_COPIED)) & PC_F_WRITER_WAITS)
			pc_event_wake(pc_folio_event(c, pc_folio_id(c, f)));
	}
	local_changed(i, (i64)pc_local_count(c, f, b0, b1) - before);
	pc_trace_add(c, how <= PC_WB_UNSTABLE ? PC_T_ACK : PC_T_AGAIN, i->id, pc_folio_index(f), w);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(c, f);
}

/* ---------------------------------------------------------------- E7 */

static void unstable_end(struct pc_inode *i, struct pc_folio *f, bool committed)
{
	struct pc_cache *c = i->cache;
	u32 blocks = blocks_of(f), before = pc_local_count(c, f, 0, blocks);
	if (!committed) {
		for (u32 b = pc_set_next(c, f, PC_U, 0, blocks); b < blocks; b = pc_set_next(c, f, PC_U, b, blocks)) {
			u32 end = pc_set_next_clear(c, f, PC_U, b, blocks);
			if (i->nr_dirty == 0)
				i->dirtied_ns = pc_now(c);
			set_add(i, f, PC_D, b, end);
			b = end;
		}
		stamp_lower(&f->d, pc_stamp_get(&f->u));
		i->regress_seq++;
	}
	set_del(i, f, PC_U, 0, blocks);
	set_del(i, f, PC_T, 0, blocks);
	pc_stamp_set(&f->u, PC_STAMP_NONE);
	local_changed(i, (i64)pc_local_count(c, f, 0, blocks) - before);
	pc_trace_add(c, committed ? PC_T_COMMIT : PC_T_UNCOMMIT, i->id, pc_folio_index(f), 0);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(c, f);
}

void pc_folio_committed(struct pc_inode *i, struct pc_folio *f)
{
	unstable_end(i, f, true);
}

void pc_folio_uncommitted(struct pc_inode *i, struct pc_folio *f)
{
	unstable_end(i, f, false);
}

/* A retry was asked for: the bytes are plain dirty again. */
void pc_folio_clear_failed(struct pc_inode *i, struct pc_folio *f)
{
	set_del(i, f, PC_X, 0, blocks_of(f));
	atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
}

/**
 * pc_folio_forget_local() - [E8, E12] blocks [b0, b1) leave D, U, X and T without I/O: truncate, punch, discard.
 *
 * Context: leaf lock, token (so W is empty). The stamps go when their sets are empty; what remains keeps them.
 */
void pc_folio_forget_local(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1)
{
	struct pc_cache *c = i->cache;
	u32 before = pc_local_count(c, f, b0, b1);
	PC_ASSERT(pc_set_count(c, f, PC_W, b0, b1) == 0);
	i->counters.cut_off += (u64)pc_set_count(c, f, PC_D, b0, b1) << c->page_shift;
	set_del(i, f, PC_D, b0, b1);
	set_del(i, f, PC_U, b0, b1);
	set_del(i, f, PC_X, b0, b1);
	set_del(i, f, PC_T, b0, b1);
	u32 st = pc_folio_state(f);
	if (!(st & PC_F_DIRTY)) {
		pc_stamp_set(&f->d, PC_STAMP_NONE);
		atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
		if (pc_index_marked(i, pc_folio_index(f), PC_MARK_TOWRITE))
			pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
	}
	if (!(st & PC_F_UNSTABLE))
		pc_stamp_set(&f->u, PC_STAMP_NONE);
	local_changed(i, (i64)pc_local_count(c, f, b0, b1) - before);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(c, f);
}

/* ---------------------------------------------------------------- frames that calls or exporters still hold */

static u32 *shadow_bucket(struct pc_cache *c, u32 frame)
{
	return &c->shadow_heads[frame % PC_SHADOW_BUCKETS];
}

/* The frames count as owned by the shadow from here on; they must be in transit. */
void pc_shadow_add(struct pc_cache *c, u32 frame, u32 order, u32 holds)
{
	u32 id = pc_pool_alloc(&c->shadows);
	PC_ASSERT(id); /* as many as frames are reserved */
	struct pc_shadow *s = pc_pool_at(&c->shadows, id);
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	s->frame = frame;
	s->order = (u8)order;
	s->holds = holds;
	s->link = *shadow_bucket(c, frame);
	*shadow_bucket(c, frame) = id;
	atomic_fetch_sub_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
}

/* One hold less. Return: false when the frame is no shadow. */
bool pc_shadow_put(struct pc_cache *c, u32 frame)
{
	bool found = false;
	u32 gone = 0, order = 0;
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	for (u32 *at = shadow_bucket(c, frame); *at; at = &((struct pc_shadow *)pc_pool_at(&c->shadows, *at))->link) {
		struct pc_shadow *s = pc_pool_at(&c->shadows, *at);
		if (s->frame != frame)
			continue;
		found = true;
		if (--s->holds == 0) {
			gone = *at;
			order = s->order;
			*at = s->link;
			atomic_fetch_add_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
		}
		break;
	}
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
	if (gone) {
		pc_pool_free(&c->shadows, gone);
		if (atomic_load_explicit(&c->poison, memory_order_relaxed))
			memset(pc_arena_at(&c->arena, frame), 0xdb, (size_t)c->page_size << order);
		pc_arena_free(&c->arena, frame, order);
		atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
	}
	return found;
}

/**
 * pc_folio_replace_frame() - give the folio fresh memory; running calls (and @extra_holds exporters) keep the old frame.
 *
 * @copy: carry the content over. Context: folio lock, no leaf lock; may reclaim.
 * Return: false when no memory of that size can be had; nothing has changed then.
 */
bool pc_folio_replace_frame(struct pc_inode *i, struct pc_folio *f, bool copy, u32 extra_holds)
{
	struct pc_cache *c = i->cache;
	u32 order = pc_folio_order(f), got = order;
	u32 new_frame = pc_frame_get(c, &got, order);
	if (new_frame == PC_NO_FRAME)
		return false;
	pc_arena_claim(&c->arena, new_frame, order, i->volume->tag);
	u32 old_frame = atomic_load_explicit(&f->frame, memory_order_relaxed);
	if (copy)
		memcpy(pc_arena_at(&c->arena, new_frame), pc_arena_at(&c->arena, old_frame),
		       (size_t)c->page_size << order);
	else
		memset(pc_arena_at(&c->arena, new_frame), 0, (size_t)c->page_size << order);
	atomic_fetch_add_explicit(&c->frames_allocated, 1u << order, memory_order_relaxed);
	pc_inode_leaf_lock(i);
	struct pc_ext *e = pc_folio_ext(c, f);
	u32 st = pc_folio_state(f);
	u32 calls = order > 0 ? (e ? e->calls : 0) : (st & (PC_F_WRITEBACK | PC_F_COPIED)) == PC_F_WRITEBACK;
	u32 holds = extra_holds + calls + (st & PC_F_KEPT ? 1 : 0);
	if (order > 0 && e)
		e->calls = 0;
	if (order == 0 && calls)
		atomic_fetch_or(&f->state, PC_F_COPIED);
	if (st & PC_F_KEPT)
		atomic_fetch_and(&f->state, ~(u32)PC_F_KEPT);
	seq_begin(f);
	atomic_store_explicit(&f->frame, new_frame, memory_order_relaxed);
	seq_end(f);
	/* Transit: the new frame left it, the old one is in it until the shadow or the free list has it. */
	if (holds)
		pc_shadow_add(c, old_frame, order, holds);
	pc_inode_leaf_unlock(i);
	if (!holds) {
		pc_arena_free(&c->arena, old_frame, order);
		atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
	}
	return true;
}

/* Bytes that are missing are about to become valid: not in memory to which a backend may still store. Context: folio lock, no
 * leaf lock; may reclaim. Return: false: no memory can be had, or a view looks at what the folio has. */
bool pc_folio_unkeep(struct pc_inode *i, struct pc_folio *f)
{
	u32 st = pc_folio_state(f);
	return !(st & PC_F_KEPT) || (!(st & PC_F_PINNED) && pc_folio_replace_frame(i, f, true, 0));
}
