/*
 * collect.c - results of write calls: acknowledged bytes become unstable or clean, the others become dirty again.
 *
 * W ends only when a call returns [K7]. Completions take the leaf lock, no folio lock, and never wait. A request that
 * failed half way keeps its acknowledged blocks; the others are dirty again, in backoff until the engine retries. Order
 * of effects (contract 2.14): the engine records the error, then sets, marks and stamps change, then waiters wake up,
 * then references end.
 *
 * Transitions E5, E6, E13. Walks release the leaf lock every 64 folios.
 */
#include "io/io.h"

enum { PC_ZEROS = 3 };

/* Process the result of the call of pc_write_call. Return: 1 all bytes of the request are acknowledged; 0 make the next
 * call; -EPROTO n is impossible; -EIO no progress three times. */
int pc_write_answer(struct pc_request *r, int64_t n)
{
	struct pc_inode *i = r->inode;
	if (n < 0 || (u64)n > r->call_len)
		return -EPROTO;
	if (r->unit && (u64)n < r->call_len)
		n -= n % (int64_t)r->unit; /* so that the next call begins at a unit */
	if (n == 0)
		return ++r->zeros >= PC_ZEROS ? -EIO : 0;
	r->zeros = 0;
	pc_inode_leaf_lock(i);
	pc_counted(i, &i->counters.write_bytes, (u64)n);
	pc_counted(i, &i->counters.short_writes, (u64)n < r->call_len);
	pc_inode_leaf_unlock(i);
	while (n > 0) {
		struct pc_seg *g = &r->segs[r->seg];
		u32 part = (u32)pc_min((u64)n, g->len - r->seg_off);
		r->seg_off += part;
		n -= part;
		if (r->seg_off == g->len) {
			r->seg++;
			r->seg_off = 0;
		}
	}
	return r->seg == r->nr_segs;
}

/* Blocks of a segment: [*b0, *b1) are the acknowledged ones if `acked`, else the others. */
static void seg_blocks(const struct pc_request *r, u32 s, bool acked, u32 shift, u32 *b0, u32 *b1)
{
	const struct pc_seg *g = &r->segs[s];
	u32 first = g->off >> shift, end = (g->off + g->len + (1u << shift) - 1) >> shift, mid;
	if (s < r->seg)
		mid = end;
	else if (s > r->seg)
		mid = first;
	else
		mid = (g->off + r->seg_off) >> shift;
	mid = mid < first ? first : mid;
	*b0 = acked ? first : mid;
	*b1 = acked ? mid : end;
}

/* Add the bytes of the segments [s, end) of one folio to S, which the backend keeps. All or none: the segments of a
 * block end together. Leaf lock held. */
static bool stage_folio(struct pc_request *r, u32 s, u32 end)
{
	struct pc_inode *i = r->inode;
	const struct pc_folio *f = pc_folio_at(i->cache, r->segs[s].folio);
	bool all = r->stage;
	for (; r->stage && s < end && s <= r->seg; s++) {
		const struct pc_seg *g = &r->segs[s];
		u32 len = s < r->seg ? g->len : r->seg_off;
		all = (len == 0 || pc_staged_add(i, g->pos, g->pos + len, pc_stamp_get(&f->w))) && all;
	}
	return all;
}

/*
 * End W for the segments [s, end) of one folio. The first of them keeps its frame if that has left the folio and the last
 * of W ends here: the caller ends the hold of W on it. Failed segments come first: a block with several ragged extents
 * is acknowledged only if all of them were. Leaf lock held.
 */
static void end_folio(struct pc_request *r, u32 s, u32 end, bool ok, int failure)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	struct pc_folio *f = pc_folio_at(c, r->segs[s].folio);
	int success = pc_durable(i) ? PC_WB_STABLE : stage_folio(r, s, end) ? PC_WB_STAGED : PC_WB_UNSTABLE;
	u32 b0, b1;
	bool copied = pc_folio_state(f) & PC_F_COPIED;
	for (int acked = ok; acked <= 1; acked++)
		for (u32 k = s; k < end; k++) {
			seg_blocks(r, k, acked, c->page_shift, &b0, &b1);
			if (b0 < b1)
				pc_folio_end_writeback(i, f, b0, b1, acked ? success : failure);
		}
	if (!copied)
		pc_folio_ext_drop(i, f);
	if (!copied || pc_folio_state(f) & PC_F_WRITEBACK)
		r->segs[s].frame = PC_NO_FRAME;
}

/* End the whole request in this order: sets, marks and stamps; holds on frames that left their folios; references. */
static void end_segs(struct pc_request *r, bool ok, int failure)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	for (u32 s = 0, end; s < r->nr_segs; s = end) {
		for (end = s + 1; end < r->nr_segs && r->segs[end].folio == r->segs[s].folio;)
			end++;
		pc_inode_leaf_lock(i);
		end_folio(r, s, end, ok, failure);
		pc_inode_leaf_unlock(i);
	}
	PC_SYNC("completed_sets");
	for (u32 s = 0; s < r->nr_segs; s++) {
		bool first = s == 0 || r->segs[s - 1].folio != r->segs[s].folio;
		if (first && r->segs[s].frame != PC_NO_FRAME)
			pc_shadow_put(c, r->segs[s].frame);
	}
	for (u32 s = 0; s < r->nr_segs; s++)
		pc_folio_put(c, pc_folio_at(c, r->segs[s].folio));
}

/* End a request whose last call has returned, or that needs no further call. @ok: everything was acknowledged.
 * Otherwise acknowledged blocks are kept and the others become dirty again, in backoff; @parked: the failure is
 * permanent (X). After an abort an answer only ends W. */
void pc_write_done(struct pc_request *r, bool ok, bool parked)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	bool late = pc_stopped(i, r->generation);
	u64 acked_end = r->seg ? r->segs[r->seg - 1].pos + r->segs[r->seg - 1].len : 0;
	if (r->seg < r->nr_segs && r->seg_off)
		acked_end = r->segs[r->seg].pos + r->seg_off;
	if (late) {
		r->seg = r->seg_off = 0;
		acked_end = 0;
		ok = false;
	}
	ok = ok && r->seg == r->nr_segs;
	PC_SYNC("complete_before_sets");
	pc_inode_leaf_lock(i);
	if (acked_end > atomic_load(&i->remote_size))
		pc_set_remote_size(i, acked_end);
	pc_inode_leaf_unlock(i);
	if (r->unit || r->snapshot)
		pc_unit_collect(r);
	pc_snapshot_end(r);
	end_segs(r, ok, parked ? PC_WB_FAILED : PC_WB_AGAIN);
	pc_inode_leaf_lock(i);
	PC_ASSERT(i->pass.inflight > 0);
	i->pass.inflight--;
	pc_pass_turn(i);
	pc_event_wake(&i->event);
	pc_inode_leaf_unlock(i);
	PC_SYNC("write_ended");
	pc_request_delete(r);
	pc_event_wake(&c->event);
}

/* ---------------------------------------------------------------- retry, reports */

/* Take dirty folios of [pos, end) out of backoff, on request failed ones too. Return: bytes (by folio). */
uint64_t pc_retry(struct pc_inode *i, uint64_t pos, uint64_t end, bool failed_too)
{
	struct pc_cache *c = i->cache;
	struct pc_walk walk = {i, pos >> c->page_shift, pc_index_behind(i, end), 1 << PC_MARK_DIRTY, 0};
	u64 n = 0;
	for (struct pc_folio *f; (f = pc_walk_next(&walk));) {
		u32 st = pc_folio_state(f);
		if (!(st & PC_F_BACKOFF) || (st & PC_F_FAILED && !failed_too))
			continue;
		pc_folio_clear_failed(i, f);
		n += pc_folio_bytes(c, f);
	}
	return n;
}

/* The first block of [b0, b1) of a folio that is in one of the sets; b1: none. Leaf lock held. */
static u32 pending_block(const struct pc_cache *c, const struct pc_folio *f, u32 b0, u32 b1, u32 which)
{
	bool waits = which & PC_PENDING_BACKOFF && pc_folio_state(f) & PC_F_BACKOFF;
	u32 at = b1;
	if (which & PC_PENDING_DIRTY || waits)
		at = pc_min(at, pc_set_next(c, f, PC_D, b0, b1));
	if (which & PC_PENDING_WRITEBACK)
		at = pc_min(at, pc_set_next(c, f, PC_W, b0, b1));
	if (which & PC_PENDING_FAILED)
		at = pc_min(at, pc_set_next(c, f, PC_X, b0, b1));
	return at;
}

/* Return the first position of [pos, end) in a block of one of the sets @which; UINT64_MAX: none. PC_PENDING_DIRTY,
 * PC_PENDING_WRITEBACK and PC_PENDING_FAILED are D, W and X; PC_PENDING_BACKOFF is D of folios that passes skip.
 * Context: no leaf lock; which it releases now and then. */
uint64_t pc_range_next(struct pc_inode *i, uint64_t pos, uint64_t end, uint32_t which)
{
	struct pc_cache *c = i->cache;
	u32 marks = (which & PC_PENDING_WRITEBACK ? 1u << PC_MARK_WRITEBACK : 0) |
		    (which & ~(u32)PC_PENDING_WRITEBACK ? 1u << PC_MARK_DIRTY : 0);
	u64 from = pos >> c->page_shift, last = pc_index_behind(i, end);
	struct pc_walk walk = {i, from, last, marks, 0};
	for (struct pc_folio *f; pos < end && marks && (f = pc_walk_next(&walk));) {
		u64 first = pc_folio_index(f);
		u32 b0 = (u32)(pc_max(first, from) - first), b1 = (u32)(pc_min(pc_folio_after(f), last) - first);
		u32 at = pending_block(c, f, b0, b1, which);
		if (at < b1) {
			pc_walk_stop(&walk);
			return pc_max(pos, (first + at) << c->page_shift);
		}
	}
	return UINT64_MAX;
}
