/*
 * ranges.c - which bytes of a folio are valid, and which blocks are dirty, in flight, unstable, failed.
 *
 *   V of one folio:   whole valid blocks (a bitmap)      + up to 9 ragged extents of bytes inside single blocks
 *                     |████|    |████|████|    |           |  ▒▒▒ |     |▒▒|
 *
 * V rounds inward, the other sets mean "the valid bytes of this block" [M6]. A ragged extent never crosses a block and
 * touches no other of its block; extents that meet are merged, an extent that fills its block becomes a bit. For one-page folios
 * UPTODATE is the only block bit and the other sets are the flags themselves; larger folios keep bitmaps in their
 * extension; no extension means that V is all (UPTODATE) or nothing, and the other sets are empty.
 *
 * Callers: readers without any lock (the valid_* questions: each extent and each word is one atomic, and a thread that shrinks
 * V advances the folio's sequence); everything that changes a set holds the inode's leaf lock, and the folio lock for V.
 * No function here touches marks, stamps or counters: that is folio.c.
 */
#include "state/state.h"

static const u32 flag_of[PC_SETS] = {PC_F_UPTODATE, PC_F_DIRTY,  PC_F_WRITEBACK,
				     PC_F_UNSTABLE, PC_F_FAILED, PC_F_WRITE_PINNED};

static u32 nr_words(const struct pc_ext *e)
{
	return atomic_load_explicit(&((struct pc_ext *)e)->words, memory_order_relaxed);
}

static _Atomic u64 *words_of(struct pc_ext *e, enum pc_set s)
{
	return &e->sets[(u32)s * nr_words(e)];
}

static bool block_valid(const struct pc_folio *f, struct pc_ext *e, u32 block)
{
	if (pc_folio_order(f) == 0)
		return false;
	u64 word = atomic_load_explicit(&words_of(e, PC_V)[(block / 64) % nr_words(e)], memory_order_acquire);
	return word >> (block % 64) & 1;
}

/* Bits [b0, b1) of word k. */
static u64 mask_of(u32 k, u32 b0, u32 b1)
{
	u32 lo = k * 64, hi = lo + 64;
	if (b1 <= lo || b0 >= hi)
		return 0;
	u64 mask = ~0ull;
	if (b0 > lo)
		mask &= ~0ull << (b0 - lo);
	if (b1 < hi)
		mask &= (1ull << (b1 - lo)) - 1;
	return mask;
}

/* End of the valid bytes that start at `from`; `from` itself when that byte is not valid. */
u32 pc_valid_until(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to)
{
	if (pc_folio_state(f) & PC_F_UPTODATE)
		return to;
	struct pc_ext *e = pc_folio_ext(c, f);
	if (!e || nr_words(e) == 0)
		return from;
	while (from < to) {
		u32 block = from >> c->page_shift;
		if (block_valid(f, e, block)) {
			from = (block + 1) << c->page_shift;
			continue;
		}
		u32 end = from;
		for (u32 k = 0; k < PC_RAGGED_SLOTS; k++) {
			u64 r = atomic_load_explicit(&e->ragged[k], memory_order_acquire);
			if ((u32)(r >> 32) <= from && from < (u32)r)
				end = (u32)r;
		}
		if (end == from)
			return from;
		from = end;
	}
	return to;
}

bool pc_valid_covers(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to)
{
	return pc_valid_until(c, f, from, to) >= to;
}

/* End of the missing bytes that start at `from`. */
u32 pc_missing_until(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to)
{
	if (pc_folio_state(f) & PC_F_UPTODATE)
		return from;
	struct pc_ext *e = pc_folio_ext(c, f);
	if (!e || nr_words(e) == 0)
		return to;
	u32 end = to;
	for (u32 k = 0; k < PC_RAGGED_SLOTS; k++) {
		u64 r = atomic_load_explicit(&e->ragged[k], memory_order_relaxed);
		if ((u32)r > from && (u32)(r >> 32) < end)
			end = (u32)(r >> 32) > from ? (u32)(r >> 32) : from;
	}
	for (u32 b = from >> c->page_shift; b << c->page_shift < end; b++)
		if (block_valid(f, e, b)) {
			u32 at = b << c->page_shift;
			return at > from ? at : from;
		}
	return end;
}

/* The first run of valid bytes at or after *from: [*from, *end). Return: false: there is none before @to. */
bool pc_valid_run(const struct pc_cache *c, const struct pc_folio *f, u32 *from, u32 to, u32 *end)
{
	if (*from < to)
		*from = pc_missing_until(c, f, *from, to);
	*end = *from < to ? pc_valid_until(c, f, *from, to) : *from;
	return *from < to;
}

/* What adding [from, to) comes to: the extent after merging, and which ragged slots it swallows. */
struct merge {
	u32 from, to;
	u32 swallowed; /* bit per slot */
	u32 pieces;    /* ragged pieces that remain: 0, 1 or 2 */
	u32 head_end, tail_start; /* pieces [from, head_end) and [tail_start, to) */
};

static void merge_plan(const struct pc_cache *c, const struct pc_folio *f, struct pc_ext *e, u32 from, u32 to,
		       struct merge *m)
{
	m->swallowed = 0;
	for (bool again = true; again;) {
		again = false;
		for (u32 k = 0; k < PC_RAGGED_SLOTS; k++) {
			u64 r = atomic_load_explicit(&e->ragged[k], memory_order_relaxed);
			u32 start = (u32)(r >> 32), end = (u32)r;
			if (!r || m->swallowed >> k & 1 || start > to || end < from)
				continue;
			m->swallowed |= 1u << k;
			from = start < from ? start : from;
			to = end > to ? end : to;
			again = true;
		}
	}
	u32 size = c->page_size, first = from / size, last = (to - 1) / size;
	bool head = from % size && !block_valid(f, e, first);
	bool tail = to % size && !block_valid(f, e, last);
	m->from = from;
	m->to = to;
	m->head_end = head ? (u32)pc_min(to, (first + 1) * size) : from;
	m->tail_start = tail ? (u32)pc_max(from, last * size) : to;
	if (head && tail && first == last)
		m->tail_start = to;
	m->pieces = (m->head_end > m->from) + (m->to > m->tail_start);
}

static u32 used_slots(struct pc_ext *e)
{
	u32 n = 0;
	for (u32 k = 0; k < PC_RAGGED_SLOTS; k++)
		n += atomic_load_explicit(&e->ragged[k], memory_order_relaxed) != 0;
	return n;
}

/* Whether the extents after a merge are at most `slots`, or no more than before. */
static bool merge_fits(struct pc_ext *e, const struct merge *m, u32 slots)
{
	u32 swallowed = (u32)__builtin_popcount(m->swallowed);
	return m->pieces <= swallowed || used_slots(e) + m->pieces <= slots + swallowed;
}

/* Whether [from, to) can become valid without a fill (cases d and e of the method table). */
bool pc_valid_can_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to)
{
	if (pc_folio_state(f) & PC_F_UPTODATE)
		return true;
	struct pc_ext *e = pc_folio_ext(c, f);
	if (!e)
		return true;
	struct merge m;
	merge_plan(c, f, e, from, to, &m);
	return merge_fits(e, &m, PC_RAGGED);
}

static bool all_valid(const struct pc_folio *f, struct pc_ext *e)
{
	u32 blocks = 1u << pc_folio_order(f);
	for (u32 k = 0; k < nr_words(e); k++) {
		u64 all = mask_of(k, 0, blocks);
		if ((atomic_load_explicit(&words_of(e, PC_V)[k], memory_order_relaxed) & all) != all)
			return false;
	}
	return true;
}

static void ragged_put(struct pc_ext *e, u32 from, u32 to)
{
	for (u32 k = 0; k < PC_RAGGED_SLOTS; k++)
		if (atomic_load_explicit(&e->ragged[k], memory_order_relaxed) == 0) {
			atomic_store_explicit(&e->ragged[k], (u64)from << 32 | to, memory_order_release);
			return;
		}
	PC_ASSERT(!"a free ragged slot was promised by pc_valid_can_add");
}

static bool valid_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to, u32 slots)
{
	if (pc_folio_state(f) & PC_F_UPTODATE || from >= to)
		return true;
	if (from == 0 && to == pc_folio_bytes(c, f)) {
		atomic_fetch_or_explicit(&f->state, PC_F_UPTODATE, memory_order_release);
		return true;
	}
	struct pc_ext *e = pc_folio_ext(c, f);
	PC_ASSERT(e);
	struct merge m;
	merge_plan(c, f, e, from, to, &m);
	if (!merge_fits(e, &m, slots))
		return false;
	u32 b0 = (m.from + c->page_size - 1) / c->page_size, b1 = m.to / c->page_size;
	if (pc_folio_order(f) > 0)
		for (u32 k = 0; k < nr_words(e) && b0 < b1; k++)
			atomic_fetch_or_explicit(&words_of(e, PC_V)[k], mask_of(k, b0, b1), memory_order_release);
	if (pc_folio_order(f) == 0 ? b0 == 0 && b1 == 1 : all_valid(f, e))
		atomic_fetch_or_explicit(&f->state, PC_F_UPTODATE, memory_order_release);
	for (u32 k = 0; k < PC_RAGGED_SLOTS; k++)
		if (m.swallowed >> k & 1)
			atomic_store_explicit(&e->ragged[k], 0, memory_order_relaxed);
	if (m.head_end > m.from)
		ragged_put(e, m.from, m.head_end);
	if (m.to > m.tail_start)
		ragged_put(e, m.tail_start, m.to);
	return true;
}

/* Publish [from, to) as valid; the bytes are stored already [M3]. The extension must exist unless the range is the
 * whole folio. Context: folio lock and leaf lock. Return: false when the ragged slots do not suffice; nothing has
 * changed then. */
bool pc_valid_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to)
{
	return valid_add(c, f, from, to, PC_RAGGED);
}

/* pc_valid_add() of a part of a block that was valid before: it may take the last slot. */
bool pc_valid_keep(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to)
{
	return valid_add(c, f, from, to, PC_RAGGED_SLOTS);
}

/* Take whole blocks [from, to) out of V. The caller makes the sequence odd around this and has an extension in place. */
void pc_valid_cut(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_ext *e = pc_folio_ext(c, f);
	u32 blocks = 1u << pc_folio_order(f);
	u32 b0 = from / c->page_size, b1 = (to + c->page_size - 1) / c->page_size;
	PC_ASSERT(e);
	bool whole = pc_folio_state(f) & PC_F_UPTODATE;
	if (pc_folio_order(f) > 0) {
		for (u32 k = 0; k < nr_words(e); k++) {
			if (whole)
				atomic_store_explicit(&words_of(e, PC_V)[k], mask_of(k, 0, blocks),
						      memory_order_relaxed);
			atomic_fetch_and_explicit(&words_of(e, PC_V)[k], ~mask_of(k, b0, b1), memory_order_relaxed);
		}
	}
	atomic_fetch_and_explicit(&f->state, ~(u32)PC_F_UPTODATE, memory_order_release);
	for (u32 k = 0; k < PC_RAGGED_SLOTS; k++) {
		u64 r = atomic_load_explicit(&e->ragged[k], memory_order_relaxed);
		/* While V was all, the extents said nothing: those from before are old. */
		if (r && (whole || ((u32)(r >> 32) / c->page_size >= b0 && (u32)(r >> 32) / c->page_size < b1)))
			atomic_store_explicit(&e->ragged[k], 0, memory_order_relaxed);
	}
}

/* ---- block sets D, W, U, X */

u32 pc_set_add(struct pc_cache *c, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	u32 added = 0;
	if (b0 >= b1)
		return 0;
	if (pc_folio_order(f) == 0) {
		added = !(pc_folio_state(f) & flag_of[s]);
	} else {
		struct pc_ext *e = pc_folio_ext(c, f);
		PC_ASSERT(e);
		for (u32 k = 0; k < nr_words(e); k++) {
			u64 mask = mask_of(k, b0, b1);
			u64 old = atomic_fetch_or_explicit(&words_of(e, s)[k], mask, memory_order_relaxed);
			added += (u32)__builtin_popcountll(mask & ~old);
		}
	}
	if (added)
		atomic_fetch_or_explicit(&f->state, flag_of[s], memory_order_release);
	return added;
}

u32 pc_set_del(struct pc_cache *c, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	u32 removed = 0;
	u64 left = 0;
	if (b0 >= b1 || !(pc_folio_state(f) & flag_of[s]))
		return 0;
	if (pc_folio_order(f) == 0) {
		removed = 1;
	} else {
		struct pc_ext *e = pc_folio_ext(c, f);
		PC_ASSERT(e);
		for (u32 k = 0; k < nr_words(e); k++) {
			u64 mask = mask_of(k, b0, b1);
			u64 old = atomic_fetch_and_explicit(&words_of(e, s)[k], ~mask, memory_order_relaxed);
			removed += (u32)__builtin_popcountll(old & mask);
			left |= old & ~mask;
		}
	}
	if (!left)
		atomic_fetch_and_explicit(&f->state, ~flag_of[s], memory_order_release);
	return removed;
}

static u64 set_word(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 k)
{
	if (!(pc_folio_state(f) & flag_of[s]))
		return 0;
	if (pc_folio_order(f) == 0)
		return k == 0;
	struct pc_ext *e = pc_folio_ext(c, f);
	return e && k < nr_words(e) ? atomic_load_explicit(&words_of(e, s)[k], memory_order_relaxed) : 0;
}

u32 pc_set_count(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	u32 n = 0;
	for (u32 k = b0 / 64; k * 64 < b1; k++)
		n += (u32)__builtin_popcountll(set_word(c, f, s, k) & mask_of(k, b0, b1));
	return n;
}

/* Blocks of L = D ∪ W ∪ U in [b0, b1). */
u32 pc_local_count(const struct pc_cache *c, const struct pc_folio *f, u32 b0, u32 b1)
{
	u32 n = 0;
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		return 0;
	if (pc_folio_order(f) == 0)
		return b0 == 0 && b1 > 0;
	for (u32 k = b0 / 64; k * 64 < b1; k++) {
		u64 word = set_word(c, f, PC_D, k) | set_word(c, f, PC_W, k) | set_word(c, f, PC_U, k);
		n += (u32)__builtin_popcountll(word & mask_of(k, b0, b1));
	}
	return n;
}

u32 pc_set_next(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	for (u32 k = b0 / 64; k * 64 < b1; k++) {
		u64 word = set_word(c, f, s, k) & mask_of(k, b0, b1);
		if (word)
			return k * 64 + (u32)__builtin_ctzll(word);
	}
	return b1;
}

u32 pc_set_next_clear(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1)
{
	for (u32 k = b0 / 64; k * 64 < b1; k++) {
		u64 word = ~set_word(c, f, s, k) & mask_of(k, b0, b1);
		if (word)
			return k * 64 + (u32)__builtin_ctzll(word);
	}
	return b1;
}

/* The first run of valid bytes in blocks of a set, at position `from` of the file or behind it, before @eof: [*start, *end).
 * Return: false: there is none. */
bool pc_set_run(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u64 from, u64 eof, u64 *start,
		u64 *end)
{
	u64 base = pc_folio_pos(c, f);
	u32 shift = c->page_shift, blocks = 1u << pc_folio_order(f), valid;
	u32 to = eof > base ? (u32)pc_min(eof - base, pc_folio_bytes(c, f)) : 0;
	u32 at = from > base ? (u32)pc_min(from - base, to) : 0;
	for (u32 b = at >> shift, last; (b = pc_set_next(c, f, s, b, blocks)) < blocks; b = last) {
		last = pc_set_next_clear(c, f, s, b, blocks);
		at = (u32)pc_max(at, b << shift);
		if (pc_valid_run(c, f, &at, (u32)pc_min((u64)last << shift, to), &valid)) {
			*start = base + at;
			*end = base + valid;
			return true;
		}
	}
	return false;
}

/* ---- extensions */

static u32 ext_new(struct pc_cache *c, u32 order)
{
	u32 cls = pc_ext_class(order), id = pc_pool_alloc(&c->exts[cls]);
	if (!id)
		return 0;
	struct pc_ext *e = pc_pool_at(&c->exts[cls], id);
	e->pins = e->write_pins = e->write_end = 0;
	atomic_store_explicit(&e->words, 1u << cls, memory_order_relaxed);
	for (u32 k = 0; k < PC_RAGGED_SLOTS; k++)
		atomic_store_explicit(&e->ragged[k], 0, memory_order_relaxed);
	for (u32 k = 0; k < PC_SETS * (1u << cls); k++)
		atomic_store_explicit(&e->sets[k], 0, memory_order_relaxed);
	return id;
}

/* Return: 0, -ENOMEM. Context: leaf lock, or a folio that no other thread can see. */
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

/* Free the extension if it holds no information. V is all then, so a reader with a stale pointer cannot be misled
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
