/*
 * gather.c - the reads of a request of whole units: its missing bytes, before it is sent.
 *
 *   request   |--unit--|--unit--|--unit--|     built by units.c; neighbours are segments without a folio
 *   scratch   |~~~~~~  |        | ~~~~~~~|     laid out like the request; used only for neighbours
 *   reads       |==|              |=|          uncached bytes of neighbours, and small gaps; the surplus of read units
 *                                              goes behind the scratch
 *
 * Neighbours are copied first and uncached ones then read, each byte as of the time of its check. A missing byte that
 * is written concurrently is dirty, and is sent again after this request. A remote change since the first check
 * (inval_seq) means that everything is checked again [K12].
 *
 * Contract 2.12. Locks: none, except the leaf lock for moments. Runs on the thread that sends the request.
 */
#include "io/io.h"

enum { PC_NO_PROGRESS_MAX = 32, PC_ZEROS = 2, PC_READ_OVER = 256 << 10 };

/* ---------------------------------------------------------------- neighbours */

static u8 *scratch_at(const struct pc_request *r, u64 pos)
{
	return r->scratch + (pos - r->start);
}

/* Two read units behind the bytes of the request take the surplus that the backend reads before and after the missing
 * bytes. */
static u64 scratch_size(const struct pc_request *r)
{
	return r->end - r->start + 2 * r->sink_size;
}

/* An exporter still holds buffers of a call that has ended: it must free the memory, and the request goes on with a
 * copy. Without memory for a copy the request gathers again once there is some. */
u8 *pc_scratch_leave(struct pc_request *r)
{
	u8 *old = r->scratch, *copy = pc_scratch_new(scratch_size(r));
	if (copy)
		memcpy(copy, old, scratch_size(r));
	else if (r->unit)
		r->gather = 1, r->gather_seg = 0, r->cursor = r->run_end = 0;
	r->scratch = copy;
	return old;
}

/* Return the end of the uncached bytes at `pos`. */
static u64 missing_end(const struct pc_inode *i, u64 pos, u64 end)
{
	const struct pc_cache *c = i->cache;
	while (pos < end) {
		u64 base, stop;
		struct pc_folio *f = pc_folio_spanning(i, pos >> c->page_shift, &base, &stop);
		if (!f) {
			pos = ((pos >> c->page_shift) + 1) << c->page_shift;
			continue;
		}
		u32 from = (u32)(pos - base), to = (u32)(stop - base);
		u32 until = pc_folio_state(f) & PC_F_STALE ? to : pc_missing_until(c, f, from, to);
		pos = base + until;
		if (until < to)
			break;
	}
	return pc_min(pos, end);
}

/* Return the end of the bytes to read together with the missing bytes at the cursor. A call to a store of whole objects
 * costs as much as reading some hundred KiB more, so gaps between two missing runs of neighbours are read too. They go
 * to unused scratch, or are overwritten when their segment is copied; local bytes are copied over every answer. */
static u64 together_end(const struct pc_request *r, u64 end, u64 remote)
{
	struct pc_inode *i = r->inode;
	if (!i->limits.commit_on_close)
		return end;
	for (u32 s = r->gather_seg; s < r->nr_segs && r->segs[s].pos <= end + PC_READ_OVER; s++) {
		const struct pc_seg *g = &r->segs[s];
		u64 stop = pc_min(g->pos + g->len, remote), at = pc_max(end, g->pos);
		if (g->folio || !(g->off & PC_SEG_SCRATCH))
			continue;
		while (at < stop && (at = pc_first_missing(i, at, stop)) < stop && at - end <= PC_READ_OVER)
			end = at = missing_end(i, at, stop);
	}
	return end;
}

/* Continue copying neighbours. Return: whether [cursor, run_end) has to be read from the backend. */
static bool gather_run(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	for (; r->gather_seg < r->nr_segs; r->gather_seg++) {
		const struct pc_seg *g = &r->segs[r->gather_seg];
		u64 end = g->pos + g->len;
		if (!(g->off & PC_SEG_SCRATCH))
			continue;
		if (g->folio) {
			pc_copy_racy(scratch_at(r, g->pos), pc_seg_memory(i->cache, g), g->len);
			continue;
		}
		r->cursor = pc_max(r->cursor, g->pos);
		while (r->cursor < end) {
			u64 remote = atomic_load(&i->remote_size),
			    part = pc_first_missing(i, r->cursor, end) - r->cursor;
			if (part) {
				/* Look again for bytes that were evicted in between. */
				if (pc_read_local(i, r->cursor, scratch_at(r, r->cursor), part, NULL) == (int64_t)part)
					r->cursor += part;
				continue;
			}
			r->run_end = missing_end(i, r->cursor, end);
			if (r->cursor < remote) {
				r->run_end = together_end(r, pc_min(r->run_end, remote), remote);
				return true;
			}
			memset(scratch_at(r, r->cursor), 0, r->run_end - r->cursor);
			pc_read_local(i, r->cursor, scratch_at(r, r->cursor), r->run_end - r->cursor, NULL);
			r->cursor = r->run_end;
		}
	}
	return false;
}

/* Keep the bytes read in the cache, for the next change in the unit: only if there is room, no other operation is in
 * the way and nothing was invalidated since. The unit is in flight, so no newer bytes can have reached storage. */
static void cache_part(struct pc_request *r, const struct pc_seg *g, struct pc_request *fill)
{
	struct pc_part parts[4];
	size_t n;
	int err = 0;
	fill->inval_seq = r->inval_seq;
	fill->quiet = 1;
	while (!err && pc_fill_call(fill, parts, 4, &n) > 0) {
		u64 at = fill->call_pos, end = pc_min(g->pos + g->len, at + fill->call_len);
		for (size_t k = 0; k < n; at += parts[k++].len) {
			u64 from = pc_max(at, g->pos), to = pc_min(at + parts[k].len, end);
			if (from < to)
				memcpy(parts[k].memory + (from - at), scratch_at(r, from), to - from);
		}
		bool has = fill->cursor + fill->run_got >= g->pos && fill->call_pos < end;
		u64 got = has ? end - fill->call_pos : 0;
		err = got < fill->call_len ? 1 : 0;
		int answer = pc_fill_answer(fill, (int64_t)got);
		err = err || answer || fill->rereads; /* invalidated bytes are of no use */
	}
	pc_request_settle(fill);
}

static void cache_neighbours(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	struct pc_need need;
	struct pc_request *fill;
	u64 step = pc_max(i->limits.max_read, i->cache->page_size);
	for (u32 s = 0; s < r->nr_segs; s++) {
		const struct pc_seg *g = &r->segs[s];
		for (u64 at = g->pos; !g->folio && at < g->pos + g->len; at += step)
			if (pc_fill_begin(i, at, pc_min(step, g->pos + g->len - at), &need, &fill) == 0 && fill)
				cache_part(r, g, fill);
	}
}

/* Prepare the next read of a request of units. Return: 1 and a read, 0: nothing is missing, and writes follow; -ENOMEM;
 * -ESTALE: invalidated again and again. */
int pc_gather_call(struct pc_request *r, struct pc_part *parts, size_t *nr_parts)
{
	struct pc_inode *i = r->inode;
	if (!r->scratch) {
		r->sink_size = pc_max(i->limits.read_unit, 1);
		r->scratch = pc_scratch_new(scratch_size(r));
		if (!r->scratch)
			return -ENOMEM;
		pc_inode_leaf_lock(i);
		r->inval_seq = i->inval_seq;
		pc_inode_leaf_unlock(i);
	}
	while (r->run_end <= r->cursor && !gather_run(r)) {
		pc_inode_leaf_lock(i);
		bool moved = pc_inval_since(i, r->inval_seq, r->start, r->end);
		r->inval_seq = moved ? i->inval_seq : r->inval_seq;
		pc_inode_leaf_unlock(i);
		if (moved && ++r->rereads > PC_REREADS)
			return -ESTALE;
		r->gather_seg = 0;
		r->cursor = r->run_end = 0;
		if (moved)
			continue;
		if (r->gather > 1)
			cache_neighbours(r);
		r->gather = r->zeros = r->staged = 0;
		return 0;
	}
	u64 stop, len = r->end - r->start;
	r->staged = pc_staged_source(i, r->cursor, r->run_end, &stop);
	u64 unit = r->staged ? 1 : r->sink_size, head = r->cursor % unit;
	u64 to = pc_min(stop, r->cursor - head + pc_max(i->limits.max_read / unit * unit, unit));
	to = pc_min(to, pc_boundary_after(&i->limits, r->cursor));
	u64 tail = to % unit ? unit - to % unit : 0;
	size_t k = 0, most = pc_max(i->limits.max_vectors, 1);
	r->sunk = 0;
	if ((head > 0) + 1u + (tail > 0) > most) {
		/* Too few buffers: read whole units, or one unit behind the scratch, from which pc_gather_answer copies. */
		r->sunk = head || to - r->cursor < unit;
		to = r->sunk ? pc_min(to, r->cursor - head + unit) : to - to % unit;
		tail = 0;
	}
	r->run_end = to;
	/* length of the read; call_pos and call_len are those of writes */
	r->run_got = r->sunk ? unit : head + (to - r->cursor) + tail;
	if (head || r->sunk)
		parts[k++] = (struct pc_part){r->scratch + len, r->sunk ? unit : head, PC_NO_FRAME, 0};
	if (!r->sunk)
		parts[k++] = (struct pc_part){scratch_at(r, r->cursor), to - r->cursor, PC_NO_FRAME, 0};
	if (tail)
		parts[k++] = (struct pc_part){r->scratch + len + unit, tail, PC_NO_FRAME, 0};
	r->gather = 2;
	*nr_parts = k;
	pc_count(i, &i->counters.read_requests, 1);
	return 1;
}

/* Position of the read that was prepared last. */
u64 pc_gather_pos(const struct pc_request *r)
{
	return r->cursor - (r->staged ? 0 : r->cursor % r->sink_size);
}

/* Process the result of a read of pc_call_next. Return: 0 make the next call; -EPROTO n is impossible, or 0 below the
 * end of the file twice. */
int pc_gather_answer(struct pc_request *r, int64_t n)
{
	struct pc_inode *i = r->inode;
	u64 head = r->staged ? 0 : r->cursor % r->sink_size;
	if (n < 0 || (u64)n > r->run_got)
		return -EPROTO;
	u64 got = (u64)n > head ? pc_min((u64)n - head, r->run_end - r->cursor) : 0;
	pc_count(i, &i->counters.read_bytes, (u64)n);
	r->zeros = (u8)(got ? 0 : r->zeros + (n ? 1 : PC_NO_PROGRESS_MAX / PC_ZEROS)); /* counted as in fill.c */
	if (r->zeros >= PC_NO_PROGRESS_MAX)
		return -EPROTO;
	if (got) {
		if (r->sunk)
			memcpy(scratch_at(r, r->cursor), r->scratch + (r->end - r->start) + head, got);
		/* Copy concurrent writes over the answer, and the local bytes of a stale folio. */
		pc_read_local(i, r->cursor, scratch_at(r, r->cursor), got, NULL);
		r->cursor += got;
	}
	r->run_end = r->cursor;
	return 0;
}
