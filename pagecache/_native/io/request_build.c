/*
 * request_build.c - turn dirty folios into requests, and requests into calls.
 *
 *   marks    x x . x x x . . x                 DIRTY or TOWRITE, depending on the pass
 *   folios  [##][#..][    ][####]              D → W for all of a folio in one section
 *   requests |---------|    |-max_write-|--|   contiguous bytes; end at gaps, limits, boundaries, the end of the file
 *
 * A folio that a fill owns is written back all the same: the fill touches only missing bytes, write-back only valid
 * ones, and fills unlock under the leaf lock. So no pass ever waits for a fill. A folio that a writer holds is tried
 * again; the writer's section is short.
 *
 * All dirty bytes of a block go into one request (ragged extents of one block are several calls of it), so an answer
 * for a request is an answer for whole blocks. Locks: leaf lock. Contract 2.12; transition E4.
 */
#include <stdlib.h>

#include "io/io.h"

/* The request under construction, and the complete ones. */
struct build {
	struct pc_inode *inode;
	struct pc_request *r;
	u64 bytes;  /* in r */
	u64 limit;  /* bytes per request, whole blocks */
	bool failed;
};

static void build_finish(struct build *b)
{
	if (b->r) {
		pc_list_add_tail(&b->inode->pass.ready, &b->r->link);
		b->r = NULL;
		b->bytes = 0;
	}
}

/* Add a segment [from, to) of a folio whose blocks are in W. Return: whether a copy of it is sent. Leaf lock held. */
bool pc_seg_add(struct pc_request *r, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	bool snapshot = pc_folio_state(f) & PC_F_WRITE_PINNED;
	bool got = pc_folio_get(f);
	PC_ASSERT(got);
	r->segs[r->nr_segs++] = (struct pc_seg){
		.pos = pc_folio_pos(c, f) + from,
		.len = to - from,
		.folio = pc_folio_id(c, f),
		.frame = atomic_load_explicit(&f->frame, memory_order_relaxed),
		.off = from,
	};
	if (snapshot)
		pc_seg_snapshot(i, r, r->nr_segs - 1);
	return snapshot;
}

/* Whether bytes at `pos` may join the request: if they are contiguous and within the limits, or in its last block. */
static bool may_join(const struct build *b, u64 pos, bool same_block)
{
	const struct pc_limits *l = &b->inode->limits;
	const struct pc_request *r = b->r;
	if (!r)
		return false;
	if (same_block)
		return true;
	return r->end == pos && b->bytes < b->limit && r->nr_segs < l->max_vectors &&
	       !(l->boundary && pos % l->boundary == 0);
}

/* Length of the part of [pos, pos + len) that fits: whole blocks up to the limit or a boundary; a larger block fits
 * whole. */
static u64 fitting(const struct build *b, u64 pos, u64 len)
{
	const struct pc_limits *l = &b->inode->limits;
	u64 page = b->inode->cache->page_size;
	u64 most = b->limit > b->bytes ? b->limit - b->bytes : 0;
	most = pc_min(most, pc_boundary_after(l, pos) - pos);
	if (most >= len)
		return len;
	u64 cut = (pos + most) / page * page;
	if (cut > pos)
		return cut - pos;
	return pc_min(len, (pos / page + 1) * page - pos);
}

/* Add one contiguous run [*at, to) of valid dirty bytes of a folio and advance *at. Return: false without memory for
 * segments. */
static bool build_run(struct build *b, struct pc_folio *f, u32 *at, u32 to, bool same_block)
{
	struct pc_inode *i = b->inode;
	u64 start = pc_folio_pos(i->cache, f);
	for (u32 from = *at; from < to; *at = from) {
		if (!may_join(b, start + from, same_block)) {
			build_finish(b);
			b->r = pc_request_new(i, PC_REQ_WRITE);
			if (!b->r)
				return false;
			b->r->start = start + from;
		}
		/* Run out of memory only between blocks: a request has all of a block or none of it. */
		if (!same_block && !pc_seg_reserve(b->r, PC_RAGGED_SLOTS + 1))
			return false;
		u32 n = (u32)fitting(b, start + from, to - from);
		if (same_block) {
			u32 block_end = (from / i->cache->page_size + 1) * i->cache->page_size;
			n = (u32)pc_min(to - from, block_end - from);
		}
		pc_seg_add(b->r, f, from, from + n);
		b->r->end = start + from + n;
		b->bytes += n;
		from += n;
		same_block = false;
	}
	return true;
}

/* Move all of the folio's D to W and its valid bytes into requests. No writer has the folio; leaf lock held. */
static void hand_over(struct build *b, struct pc_folio *f)
{
	struct pc_inode *i = b->inode;
	struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f), size = c->page_size, last_block = UINT32_MAX;
	u64 start = pc_folio_pos(c, f), eof = atomic_load(&i->size);
	pc_folio_begin_writeback(i, f);
	for (u64 pos = start, end; !b->failed && pc_set_run(c, f, PC_W, pos, eof, &pos, &end); pos = end) {
		u32 from = (u32)(pos - start), to = (u32)(end - start);
		b->failed = !build_run(b, f, &from, to, from / size == last_block);
		last_block = (to - 1) / size;
		if (b->failed) {
			/* Out of memory for segments: bytes in no request become dirty again. */
			pc_folio_end_writeback(i, f, from / size, blocks, PC_WB_AGAIN);
			atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
		}
	}
}

/* Whether the folio may be written back now. *locked: this call locked it. */
bool pc_pass_claim(struct pc_inode *i, struct pc_folio *f, bool *locked, bool *busy)
{
	u32 st = pc_folio_state(f);
	bool wanted = pc_index_marked(i, pc_folio_index(f), PC_MARK_TOWRITE);
	*locked = false;
	if (st & PC_F_WRITEBACK)
		return false;
	if (st & PC_F_BACKOFF) {
		if (wanted)
			pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
		return false;
	}
	/* A writer waits until its call returns: background work goes second. A writer that gave up leaves the flag,
	 * and one that now waits for room would wait for this pass. */
	if (st & PC_F_WRITER_WAITS && !wanted && !i->pass.partial)
		return false;
	if (st & PC_F_WRITE_PINNED && !wanted)
		return false; /* it would be dirty again at once */
	if (pc_folio_trylock(f)) {
		*locked = true;
		return true;
	}
	if (atomic_load(&f->owner))
		return true; /* a fill: it keeps the lock until this section ends, or longer */
	*busy = true;
	return false;
}

/* Build requests from the cursor on until one is full or there is a gap. A folio that cannot join the request under
 * construction waits for the next turn, since now it would start a small request. Return: whether a writer held one
 * back. */
bool pc_request_build(struct pc_inode *i, enum pc_mark mark)
{
	struct pc_cache *c = i->cache;
	struct pc_pass *p = &i->pass;
	u64 page = c->page_size, limit = pc_min(i->limits.max_write, pc_flight_share(i)) / page * page;
	struct build b = {.inode = i, .limit = limit ? limit : page};
	u64 last = pc_last_index(c);
	bool busy = false;
	while (!b.failed && (b.r || pc_list_empty(&p->ready))) {
		u32 id = pc_index_next_marked(i, p->cursor, last, mark, NULL);
		struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
		if (!f || (b.r && !may_join(&b, pc_folio_pos(c, f), false))) {
			if (b.r || p->wrapped)
				break;
			p->wrapped = 1;
			p->cursor = 0;
			continue;
		}
		bool locked;
		if (pc_pass_claim(i, f, &locked, &busy)) {
			hand_over(&b, f);
			p->budget -= pc_folio_bytes(c, f);
			if (locked)
				pc_folio_unlock(c, f);
		} else if (b.r) {
			break;
		}
		p->cursor = pc_folio_after(f);
		if (mark == PC_MARK_DIRTY && p->budget <= 0)
			break;
	}
	if (b.r && b.r->nr_segs == 0)
		pc_request_delete(b.r);
	else
		build_finish(&b);
	return busy;
}

/* Most bytes of the next call: whole units, if the backend takes nothing smaller. */
static u64 call_max(const struct pc_request *r, const struct pc_limits *l)
{
	u64 max = pc_min(pc_max(l->max_write, 1), pc_boundary_after(l, r->call_pos) - r->call_pos);
	return r->unit ? pc_max(max / r->unit * r->unit, r->unit) : max;
}

/* Collect the buffers of the next call: contiguous bytes, in whole units, from the first unacknowledged one, within the
 * current limits. */
int pc_write_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts)
{
	struct pc_inode *i = r->inode;
	const struct pc_limits *l = &i->limits;
	u64 unit = r->unit, len = 0, whole = 0, whole_part = 0;
	size_t k = 0, whole_k = 0, most = pc_min(n, pc_max(l->max_vectors, 1));
	if (r->seg >= r->nr_segs)
		return 0;
	if (r->snapshot && !pc_snapshot_make(r))
		return -ENOMEM;
	u32 s = r->seg, off = r->seg_off;
	r->call_pos = r->segs[s].pos + off;
	u64 max = call_max(r, l);
	while (s < r->nr_segs && len < max && r->segs[s].pos + off == r->call_pos + len) {
		const struct pc_seg *g = &r->segs[s];
		u64 at = g->pos + off, part = pc_min(g->len - off, max - len);
		part = unit ? pc_min(part, unit - at % unit) : part;
		u8 *memory = g->off & PC_SEG_SCRATCH ? r->scratch + (at - r->start)
						     : pc_arena_at(&i->cache->arena, g->frame) + g->off + off;
		PC_ASSERT(k < n || whole || !unit); /* no unit has more pieces than one call: unit_settle */
		if (k && parts[k - 1].memory + parts[k - 1].len == memory)
			parts[k - 1].len += part;
		else if (k == most && (whole || !unit))
			break;
		else
			parts[k++] = (struct pc_part){memory, part, g->frame, 0};
		len += part;
		off += (u32)part;
		if (off == g->len) {
			s++;
			off = 0;
		}
		if (unit && (at + part) % unit == 0) {
			whole = len;
			whole_k = k;
			whole_part = parts[k - 1].len;
		}
	}
	if (unit && (r->call_pos + len) % unit && s < r->nr_segs && r->segs[s].pos + off == r->call_pos + len) {
		len = whole; /* the call ends inside a unit */
		k = whole_k;
		parts[k - 1].len = whole_part;
	}
	r->call_len = len;
	*nr_parts = k;
	return 1;
}

/* Exporters still hold the buffers of the call that just ended: give them holds on its frames, inside their folios or
 * outside, so that the memory is not reused. @frames: room for as many numbers as there are segments. Return: number of frames, each to
 * be released with pc_shadow_put. */
u32 pc_call_hold(struct pc_request *r, u32 *frames)
{
	struct pc_cache *c = r->inode->cache;
	u32 k = 0;
	pc_inode_leaf_lock(r->inode);
	for (u32 s = 0; s < r->nr_segs; s++) {
		const struct pc_seg *g = &r->segs[s];
		bool called = g->pos < r->call_pos + r->call_len && r->call_pos < g->pos + g->len;
		if (!g->folio || g->off & PC_SEG_SCRATCH || !called)
			continue;
		pc_frame_hold(c, pc_folio_at(c, g->folio), g->frame);
		frames[k++] = g->frame;
	}
	pc_inode_leaf_unlock(r->inode);
	return k;
}
