/*
 * writeback.c - passes: which dirty bytes go to the backend next, and when.
 *
 *   marks   DIRTY    x x . x x x . . x         background passes pick DIRTY, integrity and range passes TOWRITE
 *           TOWRITE  x x . . . x . . .         set in one sweep: folios dirtied later are not visited
 *
 * A pass belongs to the inode, not to a thread. While the pass holds the writeback token, each thread that takes the
 * inode from the volume's queue gets the next request, and the completion of the last request ends the pass. New
 * TOWRITE marks join the pass. A pass releases the token early when there are waiters for it.
 *
 * request_build.c turns folios into requests; units.c does so for backends that take whole units. Locks: leaf lock.
 * Contract 2.11.
 */
#include "io/io.h"

enum { PC_SWEEP = 64, PC_INTEGRITY_TURN = 64 };

static bool aborted(const struct pc_inode *i)
{
	return atomic_load(&i->volume->aborted);
}

/* Clear TOWRITE marks after an abort: nothing will be written, and no mark may remain without a live pass [I-14]. Leaf
 * lock held. */
static void forget_marks(struct pc_inode *i)
{
	u64 index = 0;
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, pc_last_index(i->cache), PC_MARK_TOWRITE));)
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
}

/* The pass has the token. Leaf lock held. */
void pc_pass_begin(struct pc_inode *i)
{
	i->pass_wanted = 0;
	i->pass.active = 1;
	i->pass.generation = atomic_load(&i->volume->generation);
	pc_work_push_pass(i);
}

/* Take the token for a pass, or queue for it; a running pass includes the new marks. Leaf lock held. */
static void pass_kick(struct pc_inode *i)
{
	if (aborted(i) && !i->pass.active)
		forget_marks(i);
	if (aborted(i))
		return;
	if (i->pass.active) {
		i->pass.wrapped = 0;
		pc_work_push_pass(i);
	} else if (!i->pass_wanted) {
		if (pc_token_take(i, &i->pass_waiter, PC_TOKEN_PASS)) {
			pc_pass_begin(i);
		} else {
			i->pass_wanted = 1;
		}
	}
}

/* Mark folios dirtied up to @stamp in [pos, end) and start writing them. Folios in backoff are left out: the caller
 * waits for their time and calls again. Return: bytes marked (by folio). */
uint64_t pc_flush_start(struct pc_inode *i, uint64_t stamp, uint64_t pos, uint64_t end)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_index_behind(i, end), marked = 0;
	bool more = true;
	while (more) {
		pc_inode_leaf_lock(i);
		u32 ids[PC_SWEEP], n = pc_index_collect(i, index, last, PC_MARK_DIRTY, ids, PC_SWEEP);
		more = n == PC_SWEEP;
		for (u32 k = 0; k < n; k++) {
			struct pc_folio *f = pc_folio_at(c, ids[k]);
			index = pc_folio_after(f);
			if (pc_stamp_get(&f->d) > stamp || pc_folio_state(f) & PC_F_BACKOFF)
				continue;
			pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, true);
			marked += pc_folio_bytes(c, f);
		}
		if (!more && marked) {
			i->pass.integrity = 1;
			pass_kick(i);
		}
		pc_inode_leaf_unlock(i);
	}
	return marked;
}

/* Start a background pass of at most `budget` bytes if the token is free and has no waiter. A running one of the same
 * kind may send as much from here on: a new one would wait for its slowest request. If bytes become visible only by a
 * commit, the pass sends only wholly dirty write units; @partial: the others too, since no other memory can be freed. Return:
 * whether it started. */
bool pc_pass_background(struct pc_inode *i, uint64_t budget, bool partial)
{
	pc_inode_leaf_lock(i);
	bool alone = !aborted(i) && i->nr_dirty && pc_list_empty(&i->token_queue);
	bool start = alone && !i->pass.active && i->token == PC_TOKEN_FREE;
	if (alone && i->pass.active && i->pass.background && i->pass.partial == partial &&
	    i->pass.budget < (i64)budget) {
		i->pass.budget = (i64)budget;
		pass_kick(i);
	} else if (start) {
		i->pass.background = 1;
		i->pass.partial = partial;
		i->pass.budget = (i64)budget;
		pass_kick(i);
	}
	pc_inode_leaf_unlock(i);
	return start;
}

/* Whether anything dirtied up to @stamp in [pos, end) is unacknowledged. @cursor: where to continue; the caller's pair
 * (page, regression count), zero at first. Folios before it can become dirty again only by a failure, which restarts
 * the walk. NULL: check everything. Return: bits PC_PENDING_x. With a cursor the walk stops at the first folio that is
 * dirty or in flight. */
uint32_t pc_flush_pending(struct pc_inode *i, uint64_t stamp, uint64_t pos, uint64_t end, uint64_t *cursor)
{
	struct pc_walk walk = {i, pos >> i->cache->page_shift, pc_index_behind(i, end),
			       1 << PC_MARK_DIRTY | 1 << PC_MARK_WRITEBACK, 0};
	u32 bits = 0;
	if (cursor) {
		pc_inode_leaf_lock(i);
		if (cursor[1] == i->regress_seq)
			walk.index = pc_max(cursor[0], walk.index);
		cursor[1] = i->regress_seq;
		pc_inode_leaf_unlock(i);
	}
	for (struct pc_folio *f; (f = pc_walk_next(&walk));) {
		u32 st = pc_folio_state(f), found = 0;
		if (st & PC_F_DIRTY && pc_stamp_get(&f->d) <= stamp)
			found |= st & PC_F_FAILED    ? PC_PENDING_FAILED
				 : st & PC_F_BACKOFF ? PC_PENDING_BACKOFF
						     : PC_PENDING_DIRTY;
		if (st & PC_F_WRITEBACK && pc_stamp_get(&f->w) <= stamp)
			found |= PC_PENDING_WRITEBACK;
		bits |= found;
		bool stops = cursor && found & (PC_PENDING_DIRTY | PC_PENDING_WRITEBACK);
		if (cursor)
			cursor[0] = stops ? pc_folio_index(f) : walk.index;
		if (stops) {
			pc_walk_stop(&walk);
			break;
		}
	}
	return bits;
}

/* Bytes of the file that are uncommitted and were dirtied up to @stamp: an upper bound. @unsent: NULL, or receives how
 * many of them are unacknowledged. The count is by folio: it includes the other local bytes of a folio that has such
 * bytes, and all staged bytes. Context: no leaf lock; releases it every PC_SWEEP folios. */
uint64_t pc_unsaved_bytes(struct pc_inode *i, uint64_t stamp, uint64_t *unsent)
{
	struct pc_cache *c = i->cache;
	u64 blocks = 0, unsent_blocks = 0;
	struct pc_walk walk = {.i = i, .last = pc_last_index(c)};
	walk.marks = 1 << PC_MARK_DIRTY | 1 << PC_MARK_WRITEBACK | 1 << PC_MARK_UNSTABLE;
	for (struct pc_folio *f; (f = pc_walk_next(&walk));) {
		u32 st = pc_folio_state(f), all = 1u << pc_folio_order(f);
		bool d = st & PC_F_DIRTY && pc_stamp_get(&f->d) <= stamp;
		bool w = st & PC_F_WRITEBACK && pc_stamp_get(&f->w) <= stamp;
		bool u = st & PC_F_UNSTABLE && pc_stamp_get(&f->u) <= stamp;
		u32 local = d || w || u ? pc_local_count(c, f, 0, all) : 0;
		u32 unsent_count =
			(d ? pc_set_count(c, f, PC_D, 0, all) : 0) + (w ? pc_set_count(c, f, PC_W, 0, all) : 0);
		blocks += local;
		unsent_blocks += pc_min(local, unsent_count);
	}
	if (unsent)
		*unsent = unsent_blocks << c->page_shift;
	return (blocks << c->page_shift) + pc_staged_bytes(i);
}

static void pass_end(struct pc_inode *i)
{
	struct pc_pass *p = &i->pass;
	PC_DEBUG_ASSERT(p->inflight == 0 && pc_list_empty(&p->ready));
	p->active = p->integrity = p->background = p->wrapped = p->partial = 0;
	p->cursor = 0;
	p->nr_issued = 0;
	pc_trace_add(i->cache, "pass ends", i->id, 0, 0);
	if (aborted(i))
		forget_marks(i);
	if (pc_index_next_marked(i, 0, pc_last_index(i->cache), PC_MARK_TOWRITE, NULL)) {
		/* It gave way to a waiter: queue it again. */
		p->integrity = 1;
		i->pass_wanted = 1;
		pc_token_take(i, &i->pass_waiter, PC_TOKEN_PASS);
	}
	pc_token_release_locked(i);
}

/* A request ended: continue the pass. After an abort no thread takes its work, so the last answer ends it and releases
 * the token. Leaf lock held. */
void pc_pass_turn(struct pc_inode *i)
{
	struct pc_pass *p = &i->pass;
	if (p->active && pc_stopped(i, p->generation) && p->inflight == 0 && pc_list_empty(&p->ready)) {
		pass_end(i);
	} else if (p->active) {
		if (p->integrity)
			p->wrapped = 0; /* folios marked while it was in flight are behind the cursor */
		pc_work_push_pass(i);
	}
}

/* Requests of one file in flight: fewer than the volume may have, so that no file blocks all others. */
static u32 file_share(const struct pc_inode *i)
{
	u32 n = i->volume->max_inflight;
	return i->limits.ordered_writes || n < 3 ? 1 : n - 1;
}

/* Bytes of one file that may be in flight at a time. A volume with a journal goes on while the store hangs: bytes in flight stay in
 * memory then, and must not fill what writers may have there. */
u64 pc_flight_share(const struct pc_inode *i)
{
	u64 limit = pc_min(atomic_load(&i->cache->dirty_limit), atomic_load(&i->volume->room.limit));
	return atomic_load(&i->volume->logged) ? (limit << i->cache->page_shift) / 2 : UINT64_MAX;
}

/* Leaf lock held. Return: a request, or NULL; *busy: only a writer's section is in the way. */
static struct pc_request *next_request(struct pc_inode *i, bool *busy)
{
	struct pc_pass *p = &i->pass;
	bool queued = !pc_list_empty(&i->token_queue);
	*busy = false;
	if (pc_list_empty(&p->ready) && pc_tail_noted(i)) {
		pc_settle_wanted(i); /* the pass ends with its last answer, and resumes after the cut */
		return NULL;
	}
	if (pc_list_empty(&p->ready)) {
		bool (*build)(struct pc_inode *, enum pc_mark) =
			i->limits.write_unit > 1 ? pc_units_build : pc_request_build;
		if (p->integrity && !(queued && p->nr_issued >= PC_INTEGRITY_TURN))
			*busy = build(i, PC_MARK_TOWRITE);
		if (pc_list_empty(&p->ready) && p->background && p->budget > 0 && !queued && !*busy) {
			p->wrapped = 1; /* one walk over the file is enough */
			build(i, PC_MARK_DIRTY);
		}
	}
	if (pc_list_empty(&p->ready))
		return NULL;
	struct pc_request *r = PC_ENTRY(p->ready.next, struct pc_request, link);
	pc_list_del(&r->link);
	return r;
}

/* Whether to make the backend keep the bytes readable until a commit: if local bytes fill more than half of the limit,
 * and the unsettled bytes of this file exceed its share of that half or those of all files exceed it. Bytes
 * acknowledged in this way leave the memory limit at once (contract 2.23). A request that touches staged bytes is
 * staged too, including neighbours in a unit: a backend must never get a byte in both ways with the older one last. */
static bool should_stage(const struct pc_inode *i, const struct pc_request *r)
{
	struct pc_range staged;
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	u64 limit = pc_min(atomic_load(&c->dirty_limit), atomic_load(&v->room.limit));
	u64 half = limit > 2 ? limit / 2 : 0; /* the other half has room for a write that straddles two pages */
	u64 pending = i->nr_unstable + i->nr_writeback;
	if (!i->limits.stages || i->limits.durable_writes)
		return false;
	if (pc_map_next(&i->staged.map, r->start, &staged) && staged.pos < r->end)
		return true;
	if (pc_max(atomic_load(&c->local), atomic_load(&v->local)) <= half)
		return false;
	u32 files = atomic_load_explicit(&v->nr_dirty, memory_order_relaxed);
	return pending > half / pc_max(files, 1) || atomic_load(&c->unstable) + i->nr_writeback > half;
}

/* Return the next request of the inode's pass. Return: 1 and a request; 0: nothing for this caller now (other requests
 * run, or the pass has ended); -EAGAIN: a writer holds the only folio left: retry soon. */
int pc_write_next(struct pc_inode *i, struct pc_request **out)
{
	struct pc_pass *p = &i->pass;
	bool busy = false;
	*out = NULL;
	pc_inode_leaf_lock(i);
	bool stopped = pc_stopped(i, p->generation);
	bool fits = !p->inflight || i->nr_writeback << i->cache->page_shift < pc_flight_share(i);
	if (p->active && !stopped && p->inflight < file_share(i) && fits) {
		*out = next_request(i, &busy);
		if (*out) {
			(*out)->stage = should_stage(i, *out);
			p->inflight++;
			p->nr_issued++;
			pc_counted(i, &i->counters.write_requests, 1);
			pc_trace_add(i->cache, "pass", i->id, (*out)->start >> i->cache->page_shift, p->inflight);
			pc_work_push_pass(i); /* another thread may take the next request */
		} else if (p->inflight == 0 && !busy) {
			pass_end(i);
		}
	} else if (p->active && stopped && p->inflight == 0 && pc_list_empty(&p->ready)) {
		pass_end(i); /* it got the token after the abort, or the last answer arrived */
	}
	pc_inode_leaf_unlock(i);
	PC_SYNC("hand_over_done");
	return *out ? 1 : busy ? -EAGAIN : 0;
}

/* Clean up after an abort of the volume: untaken requests go back, an idle pass ends. */
void pc_inode_aborted(struct pc_inode *i)
{
	for (;;) {
		struct pc_request *r = NULL;
		pc_inode_leaf_lock(i);
		struct pc_pass *p = &i->pass;
		if (p->active && !pc_list_empty(&p->ready)) {
			r = PC_ENTRY(p->ready.next, struct pc_request, link);
			pc_list_del(&r->link);
			p->inflight++;
		} else if (p->active && p->inflight == 0) {
			pass_end(i);
		}
		pc_inode_leaf_unlock(i);
		if (!r)
			break;
		pc_write_done(r, false, false);
	}
	pc_inode_wake(i);
}
