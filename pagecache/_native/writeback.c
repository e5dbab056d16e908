/*
 * writeback.c - passes: which dirty bytes go to the backend next, and as which requests.
 *
 *   marks   DIRTY    x x . x x x . . x         background passes pick DIRTY, integrity and range passes TOWRITE
 *           TOWRITE  x x . . . x . . .         set in one sweep: folios dirtied later are not visited
 *   folios  [##][#..][    ][####]              D → W for all of a folio in one section
 *   requests |---------|    |-max_write-|--|   contiguous bytes; end at gaps, limits, boundaries, the end of the file
 *
 * A pass belongs to the inode, not to a thread: while it holds the writeback token, whoever takes the inode from the
 * volume's queue gets the next request, and the completion of the last one ends the pass. New TOWRITE marks are taken along.
 * A pass gives the token up early when somebody queues for it.
 *
 * A folio that a fill owns is handed over all the same: the fill touches only bytes that are missing, the hand-over only
 * valid ones, and fills unlock under the leaf lock. So no pass ever waits for a fill. A folio in the hands of a writer is
 * tried again; his section is short.
 *
 * Each block's dirty bytes go into one request (ragged extents of one block are several calls of it), so an answer for a
 * request is an answer for whole blocks. Locks: leaf lock. Contract 2.11, 2.12; transition E4.
 */
#include <stdlib.h>

#include "internal.h"

enum { PC_SWEEP = 64, PC_INTEGRITY_TURN = 64 };

static u64 last_index(const struct pc_inode *i, u64 end)
{
	u64 max = UINT64_MAX >> i->cache->page_shift;
	return end >= max ? max : (end + i->cache->page_size - 1) >> i->cache->page_shift;
}

static u64 after(const struct pc_folio *f)
{
	return pc_folio_index(f) + (1ull << pc_folio_order(f));
}

static bool aborted(const struct pc_inode *i)
{
	return atomic_load(&i->volume->aborted);
}

/* The volume was aborted, or was since `generation`: what belongs to that time only waits for its answers. */
bool pc_stopped(const struct pc_inode *i, u64 generation)
{
	return aborted(i) || generation != atomic_load(&i->volume->generation);
}

/* After an abort nobody will write what was wanted: no mark without a live pass [I-14]. Leaf lock held. */
static void forget_marks(struct pc_inode *i)
{
	u64 index = 0;
	for (u32 id;
	     (id = pc_index_next_marked(i, index, UINT64_MAX >> i->cache->page_shift, PC_MARK_TOWRITE, NULL));) {
		struct pc_folio *f = pc_folio_at(i->cache, id);
		pc_index_mark(i, pc_folio_index(f), pc_folio_order(f), PC_MARK_TOWRITE, false);
		index = after(f);
	}
}

/* The pass has the token. Leaf lock held. */
void pc_pass_begin(struct pc_inode *i)
{
	i->pass_wanted = 0;
	i->pass.active = 1;
	i->pass.generation = atomic_load(&i->volume->generation);
	pc_work_push_pass(i);
}

/* Take the token for a pass, or queue for it; a pass that runs takes the new marks along. Leaf lock held. */
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

/**
 * pc_flush_start() - mark what was dirtied up to @stamp in [pos, end) and get it written.
 *
 * Folios in back-off are left out: the caller waits for their time and asks again. Return: bytes marked (by folio).
 */
uint64_t pc_flush_start(struct pc_inode *i, uint64_t stamp, uint64_t pos, uint64_t end)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = last_index(i, end), marked = 0;
	bool more = true;
	while (more) {
		pc_inode_leaf_lock(i);
		u32 ids[PC_SWEEP], n = pc_index_collect(i, index, last, PC_MARK_DIRTY, ids, PC_SWEEP);
		more = n == PC_SWEEP;
		for (u32 k = 0; k < n; k++) {
			struct pc_folio *f = pc_folio_at(c, ids[k]);
			index = after(f);
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

static bool pass_background(struct pc_inode *i, u64 budget, bool partial)
{
	pc_inode_leaf_lock(i);
	bool start = !aborted(i) && i->nr_dirty && !i->pass.active && i->token == PC_TOKEN_FREE &&
		     pc_list_empty(&i->token_queue);
	if (start) {
		i->pass.background = 1;
		i->pass.partial = partial;
		i->pass.budget = (i64)budget;
		pass_kick(i);
	}
	pc_inode_leaf_unlock(i);
	return start;
}

/* A background pass of at most `budget` bytes, if nobody has or wants the token; where bytes become visible by a commit alone it
 * takes wholly dirty write units only. Return: whether it started. */
bool pc_pass_background(struct pc_inode *i, uint64_t budget)
{
	return pass_background(i, budget, false);
}

/* The same, and partly dirty units too: no other memory can be freed. */
bool pc_pass_partial(struct pc_inode *i, uint64_t budget)
{
	return pass_background(i, budget, true);
}

/**
 * pc_flush_pending() - is anything dirtied up to @stamp in [pos, end) not acknowledged yet?
 *
 * @cursor: where to go on; a pair (page, regression count) of the caller's, zero at first. What lies behind it can only come
 * back by a failure, which starts the walk again. NULL: look at everything.
 * Return: bits PC_PENDING_x. With a cursor the walk stops at the first folio that is dirty or in flight.
 */
uint32_t pc_flush_pending(struct pc_inode *i, uint64_t stamp, uint64_t pos, uint64_t end, uint64_t *cursor)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = last_index(i, end);
	u32 bits = 0;
	bool more = true;
	for (bool first = true; more; first = false) {
		pc_inode_leaf_lock(i);
		if (cursor && first) {
			index = cursor[1] == i->regress_seq && cursor[0] > index ? cursor[0] : index;
			cursor[1] = i->regress_seq;
		}
		for (u32 k = 0; more && k < PC_SWEEP; k++) {
			u32 d = pc_index_next_marked(i, index, last, PC_MARK_DIRTY, NULL);
			u32 w = pc_index_next_marked(i, index, last, PC_MARK_WRITEBACK, NULL);
			struct pc_folio *fd = d ? pc_folio_at(c, d) : NULL, *fw = w ? pc_folio_at(c, w) : NULL;
			struct pc_folio *f = !fw || (fd && pc_folio_index(fd) < pc_folio_index(fw)) ? fd : fw;
			more = f != NULL;
			if (!more)
				break;
			u32 st = pc_folio_state(f), found = 0;
			if (st & PC_F_DIRTY && pc_stamp_get(&f->d) <= stamp)
				found |= st & PC_F_FAILED    ? PC_PENDING_FAILED
					 : st & PC_F_BACKOFF ? PC_PENDING_BACKOFF
							     : PC_PENDING_DIRTY;
			if (st & PC_F_WRITEBACK && pc_stamp_get(&f->w) <= stamp)
				found |= PC_PENDING_WRITEBACK;
			bits |= found;
			if (cursor && found & (PC_PENDING_DIRTY | PC_PENDING_WRITEBACK)) {
				cursor[0] = pc_folio_index(f);
				more = false;
				break;
			}
			index = after(f);
			if (cursor)
				cursor[0] = index;
		}
		pc_inode_leaf_unlock(i);
	}
	return bits;
}

/* ---------------------------------------------------------------- building requests */

/* The request under construction, and those that are complete. */
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

/* Room for `more` segments. */
bool pc_seg_reserve(struct pc_request *r, u32 more)
{
	if (r->nr_segs + more <= r->cap_segs)
		return true;
	u32 cap = r->cap_segs * 4;
	while (cap < r->nr_segs + more)
		cap *= 4;
	struct pc_seg *segs = malloc(cap * sizeof(*segs));
	if (!segs)
		return false;
	memcpy(segs, r->segs, r->nr_segs * sizeof(*segs));
	if (r->segs != r->inline_segs)
		free(r->segs);
	r->segs = segs;
	r->cap_segs = cap;
	return true;
}

static void seg_add(struct build *b, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_request *r = b->r;
	struct pc_cache *c = b->inode->cache;
	u32 id = pc_folio_id(c, f);
	struct pc_ext *e = pc_folio_ext(c, f);
	if (pc_folio_order(f) > 0 && (r->nr_segs == 0 || r->segs[r->nr_segs - 1].folio != id))
		e->calls++;
	bool got = pc_folio_get(f);
	PC_ASSERT(got);
	r->segs[r->nr_segs++] = (struct pc_seg){
		.pos = pc_folio_pos(c, f) + from,
		.len = to - from,
		.folio = id,
		.frame = atomic_load_explicit(&f->frame, memory_order_relaxed),
		.off = from,
	};
	r->end = pc_folio_pos(c, f) + to;
	b->bytes += to - from;
}

/* Whether bytes at `pos` may join the request: contiguous and within the limits; bytes of its last block always do. */
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

/* How much of [pos, pos + len) fits: whole blocks up to the limit or a boundary; a block that is larger goes in whole. */
static u64 fitting(const struct build *b, u64 pos, u64 len)
{
	const struct pc_limits *l = &b->inode->limits;
	u64 page = b->inode->cache->page_size;
	u64 most = b->limit > b->bytes ? b->limit - b->bytes : 0;
	if (l->boundary)
		most = pc_min(most, (pos / l->boundary + 1) * l->boundary - pos);
	if (most >= len)
		return len;
	u64 cut = (pos + most) / page * page;
	if (cut > pos)
		return cut - pos;
	return pc_min(len, (pos / page + 1) * page - pos);
}

/* One contiguous run [*at, to) of valid dirty bytes of a folio; *at moves on. Return: false when memory for segments ran out. */
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
		/* Where memory runs out it does so between blocks: a block is in a request whole or not at all. */
		if (!same_block && !pc_seg_reserve(b->r, PC_RAGGED + 1))
			return false;
		u32 n = (u32)fitting(b, start + from, to - from);
		if (same_block) {
			u32 block_end = (from / i->cache->page_size + 1) * i->cache->page_size;
			n = (u32)pc_min(to - from, block_end - from);
		}
		seg_add(b, f, from, from + n);
		from += n;
		same_block = false;
	}
	return true;
}

/* All of the folio's D to W, its valid bytes into requests. Folio excluded from writers, leaf lock held. */
static void hand_over(struct build *b, struct pc_folio *f)
{
	struct pc_inode *i = b->inode;
	struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f), size = c->page_size, last_block = UINT32_MAX;
	u64 start = pc_folio_pos(c, f), eof = atomic_load(&i->size);
	pc_folio_begin_writeback(i, f);
	for (u32 k = pc_set_next(c, f, PC_W, 0, blocks); k < blocks; k = pc_set_next(c, f, PC_W, k, blocks)) {
		u32 end = pc_set_next_clear(c, f, PC_W, k, blocks), from = k * size;
		u32 to = (u32)pc_min((u64)end * size, eof > start ? eof - start : 0);
		k = end;
		while (from < to && !b->failed) {
			u32 valid = pc_valid_until(c, f, from, to);
			if (valid == from) {
				from = pc_missing_until(c, f, from, to);
				continue;
			}
			b->failed = !build_run(b, f, &from, valid, from / size == last_block);
			last_block = (valid - 1) / size;
		}
		if (b->failed) {
			/* Out of memory for segments: what is in no request is simply dirty again. */
			pc_folio_end_writeback(i, f, from / size, blocks, PC_WB_AGAIN);
			atomic_fetch_and(&f->state, ~(u32)PC_F_BACKOFF);
			break;
		}
	}
}

/* Whether the folio may be handed over now. *locked: this call locked it. */
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
	if (st & PC_F_WRITER_WAITS && !wanted)
		return false; /* a writer waited for it to land: background work lets him in first */
	if (pc_folio_trylock(f)) {
		*locked = true;
		return true;
	}
	if (atomic_load(&f->owner))
		return true; /* a fill: it keeps the lock at least until this section ends */
	*busy = true;
	return false;
}

/* Build requests from the cursor on until one is full or a gap comes. A folio that cannot join the request under construction
 * waits for the next turn: handed over now it would make a small request of its own. Return: whether a writer held one back. */
static bool build_next(struct pc_inode *i, enum pc_mark mark)
{
	struct pc_cache *c = i->cache;
	struct pc_pass *p = &i->pass;
	u64 page = c->page_size, limit = i->limits.max_write / page * page;
	struct build b = {.inode = i, .limit = limit ? limit : page};
	u64 last = UINT64_MAX >> c->page_shift;
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
		p->cursor = after(f);
		if (mark == PC_MARK_DIRTY && p->budget <= 0)
			break;
	}
	if (b.r && b.r->nr_segs == 0)
		pc_request_delete(b.r);
	else
		build_finish(&b);
	return busy;
}

static void pass_end(struct pc_inode *i)
{
	struct pc_pass *p = &i->pass;
	PC_DEBUG_ASSERT(p->inflight == 0 && pc_list_empty(&p->ready));
	p->active = p->integrity = p->background = p->wrapped = p->partial = 0;
	p->cursor = 0;
	p->nr_issued = 0;
	pc_trace_add(i->cache, PC_T_PASS_END, i->id, 0, 0);
	if (aborted(i))
		forget_marks(i);
	if (pc_index_next_marked(i, 0, UINT64_MAX >> i->cache->page_shift, PC_MARK_TOWRITE, NULL)) {
		/* It gave way to somebody: back in line. */
		p->integrity = 1;
		i->pass_wanted = 1;
		pc_token_take(i, &i->pass_waiter, PC_TOKEN_PASS);
	}
	pc_token_release_locked(i);
}

/* A request ended: on with the pass. After an abort nobody takes its work, so the last answer ends it and frees the token.
 * Leaf lock held. */
void pc_pass_turn(struct pc_inode *i)
{
	struct pc_pass *p = &i->pass;
	if (p->active && pc_stopped(i, p->generation) && p->inflight == 0 && pc_list_empty(&p->ready)) {
		pass_end(i);
	} else if (p->active) {
		if (p->integrity)
			p->wrapped = 0; /* what was marked while it was in flight is behind the cursor */
		pc_work_push_pass(i);
	}
}

/* Requests of one file in flight: fewer than the volume may have, so that no file keeps all others out. */
static u32 file_share(const struct pc_inode *i)
{
	u32 n = i->volume->max_inflight;
	return i->limits.ordered_writes || n < 3 ? 1 : n - 1;
}

/* Leaf lock held. Return: a request, or NULL; *busy: only a writer's section stands in the way. */
static struct pc_request *next_request(struct pc_inode *i, bool *busy)
{
	struct pc_pass *p = &i->pass;
	bool queued = !pc_list_empty(&i->token_queue);
	*busy = false;
	if (pc_list_empty(&p->ready)) {
		bool (*build)(struct pc_inode *, enum pc_mark) = i->limits.write_unit > 1 ? pc_units_build : build_next;
		if (p->integrity && !(queued && p->nr_issued >= PC_INTEGRITY_TURN))
			*busy = build(i, PC_MARK_TOWRITE);
		if (pc_list_empty(&p->ready) && p->background && p->budget > 0 && !queued && !*busy) {
			p->wrapped = 1; /* once over the file is enough */
			build(i, PC_MARK_DIRTY);
		}
	}
	if (pc_list_empty(&p->ready))
		return NULL;
	struct pc_request *r = PC_ENTRY(p->ready.next, struct pc_request, link);
	pc_list_del(&r->link);
	return r;
}

/* Whether the backend is asked to keep the bytes readable: unstable data fills its half of the limit, and this file has more of
 * it than its share, or all have. What is acknowledged so leaves memory's accounts at once (contract 2.23). What meets staged
 * bytes is staged too, the neighbours in a unit among them: a backend never gets one byte in both ways and the older one last. */
static bool should_stage(const struct pc_inode *i, const struct pc_request *r)
{
	struct pc_range staged;
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	u64 limit = pc_min(atomic_load(&c->dirty_limit), atomic_load(&v->room.limit));
	u64 half = limit > 2 ? limit / 2 : 0; /* the rest has room for a write that straddles two pages */
	u64 pending = i->nr_unstable + i->nr_writeback;
	if (!i->limits.stages || i->limits.durable_writes)
		return false;
	if (pc_staged_next(i, r->start, &staged) && staged.pos < r->end)
		return true;
	if (pc_max(atomic_load(&c->local), atomic_load(&v->local)) <= half)
		return false;
	u32 files = atomic_load_explicit(&v->nr_dirty, memory_order_relaxed);
	return pending > half / pc_max(files, 1) || atomic_load(&c->unstable) + i->nr_writeback > half;
}

/**
 * pc_write_next() - the next request of the inode's pass.
 *
 * Return: 1 and a request; 0: nothing for this caller now (other requests run, or the pass has ended); -EAGAIN: a writer
 * holds the only folio left: try again soon.
 */
int pc_write_next(struct pc_inode *i, struct pc_request **out)
{
	struct pc_pass *p = &i->pass;
	bool busy = false;
	*out = NULL;
	pc_inode_leaf_lock(i);
	bool stopped = pc_stopped(i, p->generation);
	if (p->active && !stopped && p->inflight < file_share(i)) {
		*out = next_request(i, &busy);
		if (*out) {
			(*out)->stage = should_stage(i, *out);
			p->inflight++;
			p->nr_issued++;
			i->counters.write_requests++;
			pc_trace_add(i->cache, PC_T_PASS, i->id, (*out)->start >> i->cache->page_shift, p->inflight);
			pc_work_push_pass(i); /* another thread may take the next one */
		} else if (p->inflight == 0 && !busy) {
			pass_end(i);
		}
	} else if (p->active && stopped && p->inflight == 0 && pc_list_empty(&p->ready)) {
		pass_end(i); /* it got the token after the abort, or the last answer came */
	}
	pc_inode_leaf_unlock(i);
	PC_SYNC("hand_over_done");
	return *out ? 1 : busy ? -EAGAIN : 0;
}

/* No pass runs or waits for its turn: what is dirty and wanted needs another pc_flush_start. */
bool pc_pass_idle(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	bool idle = !i->pass.active && !i->pass_wanted;
	pc_inode_leaf_unlock(i);
	return idle;
}

/* The volume was aborted: requests that no thread has taken go back, an idle pass ends. */
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

/* Buffers of the next call: contiguous bytes from the first that is not acknowledged, within the limits of this moment. */
int pc_write_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	const struct pc_limits *l = r->kind == PC_REQ_MIRROR ? &i->volume->mirror_limits : &i->limits;
	u64 max = pc_max(l->max_write, 1), len = 0;
	size_t k = 0, most = pc_min(n, pc_max(l->max_vectors, 1));
	if (r->seg >= r->nr_segs)
		return 0;
	u32 off = r->seg_off;
	r->call_pos = r->segs[r->seg].pos + off;
	if (l->boundary)
		max = pc_min(max, (r->call_pos / l->boundary + 1) * l->boundary - r->call_pos);
	for (u32 s = r->seg; s < r->nr_segs && len < max; s++, off = 0) {
		struct pc_seg *g = &r->segs[s];
		if (g->pos + off != r->call_pos + len)
			break;
		u8 *memory = pc_arena_at(&c->arena, g->frame) + g->off + off;
		u64 part = pc_min(g->len - off, max - len);
		if (k && parts[k - 1].memory + parts[k - 1].len == memory)
			parts[k - 1].len += part;
		else if (k == most)
			break;
		else
			parts[k++] = (struct pc_part){memory, part, g->frame, 0};
		len += part;
	}
	r->call_len = len;
	*nr_parts = k;
	return 1;
}

/* Exporters still hold the buffers of the call that just ended: they hold its frames, in their folios or out of them, so that
 * the memory is not used again. @frames: room for pc_kept_max numbers. Return: how many, each to be given back with
 * pc_shadow_put. */
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
