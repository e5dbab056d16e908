/*
 * units.c - write-back in whole write units, for backends that accept nothing smaller.
 *
 *   D           ····██···|·█·······|·········|···██····|      dirty blocks
 *   requests    |=================|           |=========|      whole units around them, cut at the end of the file
 *   segments    |~~~||~~~~~||~~~~~|           |~~||~~~~~|      | from the folios' frames, ~ from the request's scratch
 *
 * Only the dirty blocks go to W, as everywhere. The other bytes of a unit, its neighbours, are copied into memory of
 * the request (scratch, laid out like the request): from the cache if valid there, else read from the backend by the
 * thread that will send the request. So the added bytes never enter D, W or U, and need no folio, reference or
 * protection from writers. Write-back never needs cache memory: a cache full of dirty bytes can always be written. A
 * failed read is a failed call of this request, and is handled as such. Bytes that were read stay in the cache if it
 * has room (cache_neighbours).
 *
 * A neighbour may itself be dirty: a writer holds its folio, it is in backoff, or its folio begins before the unit. Its
 * newest bytes are sent too and it stays dirty, to be sent later. So an answer for the unit says nothing about the
 * neighbour's own failure (engine/io/collector.py), and what is dirty beside acknowledged bytes may be stored
 * (pc_may_be_stored). A unit with any byte in W is in no second request. Every unit in
 * flight has a block in W, and W ends after the call, so the marks remain the only registry of bytes in flight.
 *
 * All of a folio's D moves to W in one section, so a folio that extends beyond its unit draws the next unit in. After
 * PC_CHAIN bytes that chain ends and the folio counts as a neighbour. If the unit is a power of two there is no chain.
 *
 * Blocks that lie in two units keep these in one request: an answer for a request is an answer for whole blocks.
 *
 * gather.c reads missing bytes of a request and makes its calls. Contract 2.12. Locks: leaf lock.
 */
#include "io/io.h"

enum { PC_CHAIN = 2 << 20 };

struct units {
	struct pc_inode *inode;
	struct pc_request *r; /* under construction */
	struct pc_folio *last; /* last folio moved to W, may extend beyond the unit */
	enum pc_mark mark;
	u64 unit, limit, eof;
	u64 taken; /* bytes of folios of this chain */
	bool failed, busy;
};

static u64 unit_start(const struct units *b, u64 pos)
{
	return pos - pos % b->unit;
}

static u64 unit_end(const struct units *b, u64 pos)
{
	return pc_min(unit_start(b, pos) + b->unit, b->eof);
}

static u64 folio_end(const struct pc_cache *c, const struct pc_folio *f)
{
	return pc_folio_pos(c, f) + pc_folio_bytes(c, f);
}

static u64 pages_end(const struct pc_cache *c, u64 end)
{
	return ((end - 1) >> c->page_shift) + 1;
}

/* The first run of valid bytes in blocks of a set, at or after `from`, before the end of the file. */
static bool run_of(const struct units *b, const struct pc_folio *f, enum pc_set s, u64 from, u64 *start, u64 *end)
{
	return pc_set_run(b->inode->cache, f, s, from, b->eof, start, end);
}

/* ---------------------------------------------------------------- units that may be sent */

static bool in_flight(const struct pc_inode *i, u64 pos, u64 end)
{
	return pc_any_block(i, PC_W, pos >> i->cache->page_shift, pages_end(i->cache, end));
}

/* Whether `pos` follows a last unit that was short when sent and is still in flight. The file has grown since; bytes
 * after that unit must not arrive before it, or it would be a short piece in the middle. */
static bool behind_short(const struct units *b, u64 pos)
{
	u64 at = b->inode->pass.short_unit;
	return at && pos >= at && in_flight(b->inode, at - 1, at - 1 + b->unit);
}

/* Whether a pass that sends what nobody has marked would leave the folio dirty (pc_pass_claim). */
static bool held_back(const struct pc_folio *f)
{
	u32 st = pc_folio_state(f);
	bool writer = st & PC_F_LOCKED && !atomic_load(&f->owner);
	return writer || st & (PC_F_BACKOFF | PC_F_WRITER_WAITS | PC_F_WRITE_PINNED);
}

/* Whether every byte of [pos, end) is dirty and may be sent now, and it is no short last unit. A unit whose last writer
 * still has a folio is not sent yet: that folio would stay dirty, and the unit would be sent twice. */
static bool wholly_dirty(const struct units *b, u64 pos, u64 end)
{
	struct pc_inode *i = b->inode;
	const struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, start, stop;
	if (end % b->unit)
		return false;
	while (pos < end) {
		u32 id = pc_index_next_marked(i, index, pages_end(c, end), PC_MARK_DIRTY, NULL);
		const struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
		if (!f || held_back(f) || !run_of(b, f, PC_D, pos, &start, &stop) || start != pos)
			return false;
		pos = stop;
		index = pos < folio_end(c, f) ? pc_folio_index(f) : pc_folio_after(f);
	}
	return true;
}

/* Whether the units of the folio's dirty bytes from `from` on may be sent now. If bytes become visible only by a
 * commit, sending a unit that may still change protects nothing: background work sends only whole units, and a short
 * last one is sent with the commit. *skip: end of the first unit that waits for that. */
static bool sendable(const struct units *b, const struct pc_folio *f, u64 from, u64 *skip)
{
	struct pc_inode *i = b->inode;
	bool whole = b->mark == PC_MARK_DIRTY && i->limits.commit_on_close && !i->pass.partial;
	for (u64 start, end, at = from; run_of(b, f, PC_D, at, &start, &end); at = end) {
		if (in_flight(i, unit_start(b, start), unit_end(b, end - 1)) || behind_short(b, end - 1))
			return false;
		for (u64 unit = unit_start(b, start); whole && unit < end; unit += b->unit)
			if (!wholly_dirty(b, unit, unit_end(b, unit))) {
				*skip = pc_max(*skip, unit_end(b, unit));
				return false;
			}
	}
	return true;
}

/* Move D to W if nothing is in the way. The folio lock may be released at once: to change bytes in W a writer needs the
 * leaf lock, which is held until the segments exist. */
static bool take(struct units *b, struct pc_folio *f, u64 from, bool *busy, u64 *skip)
{
	struct pc_inode *i = b->inode;
	bool locked;
	if (!sendable(b, f, from, skip) || !pc_pass_claim(i, f, &locked, busy))
		return false;
	pc_folio_begin_writeback(i, f);
	if (locked)
		pc_folio_unlock(i->cache, f);
	i->pass.budget -= pc_folio_bytes(i->cache, f);
	b->taken += pc_folio_bytes(i->cache, f);
	if (!b->last || pc_folio_index(f) > pc_folio_index(b->last))
		b->last = f;
	return true;
}

/* Also take the other dirty bytes of the unit. */
static void take_unit(struct units *b, u64 pos, u64 end)
{
	struct pc_inode *i = b->inode;
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, start, stop, nowhere = 0;
	bool ignored;
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, pages_end(c, end), PC_MARK_DIRTY));) {
		if (pc_folio_pos(c, f) < pos || !run_of(b, f, PC_D, 0, &start, &stop) || start >= end)
			continue;
		bool inside = pc_min(folio_end(c, f), b->eof) <= end;
		if (inside || (b->taken < PC_CHAIN && pc_index_marked(i, pc_folio_index(f), b->mark)))
			take(b, f, end, &ignored, &nowhere);
	}
}

/* ---------------------------------------------------------------- requests */

static void finish(struct units *b)
{
	if (b->r)
		pc_list_add_tail(&b->inode->pass.ready, &b->r->link);
	b->r = NULL;
}

static bool may_join(const struct units *b, u64 pos, u64 end)
{
	const struct pc_limits *l = &b->inode->limits;
	const struct pc_request *r = b->r;
	return r && r->end == pos && end - r->start <= b->limit && r->nr_segs < l->max_vectors &&
	       !(l->boundary && pos % l->boundary == 0);
}

/* Add a segment. f: the bytes are in W of this folio; NULL: neighbours. */
static void seg_add(struct units *b, struct pc_folio *f, u64 pos, u64 end)
{
	struct pc_request *r = b->r;
	if (!f) {
		r->segs[r->nr_segs++] = (struct pc_seg){
			.pos = pos, .len = (u32)(end - pos), .frame = PC_NO_FRAME, .off = PC_SEG_SCRATCH};
		r->gather = 1;
		return;
	}
	u64 start = pc_folio_pos(b->inode->cache, f);
	if (pc_seg_add(r, f, (u32)(pos - start), (u32)(end - start)))
		r->gather = 1;
}

/* Walk the segments of a unit: W of its folios, neighbours between. Return: number of segments; `add`: put them into
 * the request. */
static u32 unit_segs(struct units *b, u64 pos, u64 end, bool add)
{
	struct pc_inode *i = b->inode;
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, at = pos, start, stop;
	u32 n = 0;
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, pages_end(c, end), PC_MARK_WRITEBACK));) {
		while (at < end && run_of(b, f, PC_W, at, &start, &stop) && start < end) {
			stop = pc_min(stop, end);
			n += 1 + (start > at);
			if (add && start > at)
				seg_add(b, NULL, at, start);
			if (add)
				seg_add(b, f, start, stop);
			at = stop;
		}
	}
	if (add && at < end)
		seg_add(b, NULL, at, end);
	return n + (at < end);
}

/* A segment of pc_seg_snapshot goes before its request begins. */
static void drop_snapshot(struct pc_inode *i, struct pc_folio *f)
{
	pc_ext_unpin(i, f);
	pc_folio_put(i->cache, f);
}

/* If the unit has more pieces than a call may have buffers, send it from scratch as a whole. Otherwise merge its first
 * piece with the previous unit's last one if they are contiguous. */
static void unit_settle(struct units *b, u32 first)
{
	struct pc_request *r = b->r;
	struct pc_seg *g = &r->segs[first];
	u32 n = r->nr_segs - first;
	if (n > pc_max(b->inode->limits.max_vectors, 1)) {
		for (u32 k = 0; k < n; k++)
			g[k].off |= PC_SEG_SCRATCH;
		r->gather = 1;
	} else if (first && g->folio && g[-1].folio == g->folio && g[-1].frame == g->frame &&
		   !((g[-1].off ^ g->off) & PC_SEG_SCRATCH) && g[-1].pos + g[-1].len == g->pos) {
		struct pc_folio *f = pc_folio_at(b->inode->cache, g->folio);
		g[-1].len += g->len;
		if (g->frame == PC_NO_FRAME)
			drop_snapshot(b->inode, f);
		pc_folio_put(b->inode->cache, f); /* `refs` has no room for one of each unit of a large folio */
		memmove(g, g + 1, (n - 1) * sizeof(*g));
		r->nr_segs--;
	}
}

/* Out of memory for a request: bytes in no request become dirty again. */
static void dirty_again(struct units *b, u64 pos)
{
	struct pc_inode *i = b->inode;
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, start, stop;
	b->failed = true;
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, pc_folio_after(b->last), PC_MARK_WRITEBACK));) {
		if (!run_of(b, f, PC_W, pos, &start, &stop))
			continue;
		pc_folio_end_writeback(i, f, (u32)((start - pc_folio_pos(c, f)) >> c->page_shift),
				       1u << pc_folio_order(f), PC_WB_AGAIN);
		atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
	}
}

/* Out of memory within a block of two units, whose first is already in the request: the request is given up. */
static void drop_request(struct units *b)
{
	struct pc_request *r = b->r;
	struct pc_cache *c = b->inode->cache;
	dirty_again(b, r->start);
	for (u32 s = 0; s < r->nr_segs; s++) {
		if (!r->segs[s].folio)
			continue;
		struct pc_folio *f = pc_folio_at(c, r->segs[s].folio);
		if (r->segs[s].frame == PC_NO_FRAME)
			drop_snapshot(b->inode, f);
		pc_folio_put(c, f);
	}
	pc_request_delete(r);
	b->r = NULL;
}

/* Add the unit of W byte `at` to a request. Return: its end, 0: out of memory. */
static u64 unit_add(struct units *b, u64 at)
{
	struct pc_inode *i = b->inode;
	u64 pos = unit_start(b, at), end = unit_end(b, at);
	bool same_block = b->r && (b->r->end - 1) >> i->cache->page_shift == at >> i->cache->page_shift;
	take_unit(b, pos, end);
	u32 n = unit_segs(b, pos, end, false);
	if (!same_block && !may_join(b, pos, end))
		finish(b);
	if (!b->r) {
		b->r = pc_request_new(i, PC_REQ_WRITE);
		if (b->r) {
			b->r->start = b->r->end = pos;
			b->r->unit = b->unit;
		}
	}
	if (!b->r || !pc_seg_reserve(b->r, n)) {
		if (same_block)
			drop_request(b);
		else
			dirty_again(b, pos);
		return 0;
	}
	u32 first = b->r->nr_segs;
	unit_segs(b, pos, end, true);
	b->r->end = end;
	if (end % b->unit)
		i->pass.short_unit = pos + 1;
	unit_settle(b, first);
	return end;
}

/* Build requests for the next marked folio and the units after it, as build_next does for single bytes. Context: leaf
 * lock, token. Return: whether a writer held a folio back. */
bool pc_units_build(struct pc_inode *i, enum pc_mark mark)
{
	struct pc_cache *c = i->cache;
	struct pc_pass *p = &i->pass;
	u64 unit = i->limits.write_unit, last = pc_last_index(c);
	struct units b = {.inode = i, .mark = mark, .unit = unit, .eof = atomic_load(&i->size)};
	b.limit = pc_max(i->limits.max_write / unit * unit, unit);
	while (!b.failed && (b.r || pc_list_empty(&p->ready))) {
		u32 id = pc_index_next_marked(i, p->cursor, last, mark, NULL);
		struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
		u64 at = 0, stop, end, skip = 0;
		bool any = f && run_of(&b, f, PC_D, 0, &at, &stop);
		if (!f || (b.r && any && !may_join(&b, unit_start(&b, at), unit_end(&b, at)))) {
			if (b.r || p->wrapped)
				break;
			p->wrapped = 1;
			p->cursor = 0;
			continue;
		}
		b.taken = 0;
		b.last = NULL;
		if (any && take(&b, f, 0, &b.busy, &skip)) {
			do
				end = unit_add(&b, at);
			while (end && run_of(&b, b.last, PC_W, end, &at, &stop));
			f = b.last;
		} else if (b.r) {
			break;
		}
		/* No byte of a unit that waits can be sent: skip the unit as a whole, not folio by folio. */
		p->cursor = pc_max(pc_folio_after(f), skip >> c->page_shift);
		if (mark == PC_MARK_DIRTY && p->budget <= 0)
			break;
	}
	if (b.r && b.r->nr_segs == 0) {
		pc_request_delete(b.r);
		b.r = NULL;
	}
	finish(&b);
	return b.busy;
}

/* ---------------------------------------------------------------- collecting */

/* Remove the neighbours from the request: only bytes in W are collected. */
void pc_unit_collect(struct pc_request *r)
{
	u32 kept = 0, seg = r->nr_segs;
	for (u32 s = 0; s < r->nr_segs; s++) {
		if (s == r->seg) {
			seg = kept;
			r->seg_off = r->segs[s].folio ? r->seg_off : 0;
		}
		if (!r->segs[s].folio)
			continue;
		r->segs[kept] = r->segs[s];
		r->segs[kept++].off &= ~PC_SEG_SCRATCH;
	}
	r->seg = r->seg < r->nr_segs ? seg : kept;
	r->nr_segs = kept;
}
