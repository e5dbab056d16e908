/*
 * written.c - which bytes of a local block this program has written since the last commit.
 *
 *   dirty block      |····▒▒▒▒········|          ▒ written   · borrowed: read from storage, zeros of a gap or a hole
 *   another version  |████▒▒▒▒████████|          laid over it are the written bytes alone (2.19)
 *
 * Sets and write-back work by block, so a partly written block takes its borrowed bytes along. That is harmless while the version
 * below is the one that they come from.
 *
 * A block in D has a word, beside its frame:
 *   0              all of it is written, which is the rule; also every word of other blocks
 *   begin, end     one range of the block is written; an empty one: nothing
 *   PC_APART       several ranges: the map `apart` of the inode has them
 * A write into a clean block stores its range; one that touches the range extends it; only a second, separate one needs the map.
 * The words do not depend on V: bytes that are read or zeroed later are borrowed without a change here.
 *
 * Blocks in W or U, and S, which may be in D again, have a second layer: the map `unwritten` of the inode has the bytes that were
 * not written when they were sent. It says nothing about blocks that are neither in W nor U and have no byte of S. A block that is
 * sent moves its word there; bytes that come back are united with the writes since then. A commit forgets the layer.
 *
 * Invariant (pc_written_check_block): a word of a block outside D is 0; a range lies in valid bytes before the end of the file,
 * and is neither empty in any other spelling nor all of the block [I-1].
 *
 * A map has up to PC_WRITTEN_MAX ranges, and memory may run out: bytes that cannot be remembered count as written.
 *
 * Locks: the inode's leaf lock. Changes need the folio lock too, except that bytes come back without it, which only adds written
 * ones. So a writer with the folio lock may ask a word without the leaf lock whether its bytes are written already; and while the
 * folio has neither W nor U, from where bytes come back, it may extend a range.
 */
#include "state/state.h"

#define PC_ALL  0ull
#define PC_NONE (1ull << 32 | 1)

enum { PC_WRITTEN_MAX = 1 << 20 };

static u64 word_of(const struct pc_inode *i, const struct pc_folio *f, u32 b)
{
	return atomic_load_explicit(pc_written_word(i->cache, f, b), memory_order_relaxed);
}

static void word_set(struct pc_inode *i, struct pc_folio *f, u32 b, u64 word)
{
	struct pc_arena *a = &i->cache->arena;
	u32 frame = atomic_load_explicit(&f->frame, memory_order_relaxed) + b;
	u32 end = atomic_load_explicit(&a->written_end, memory_order_relaxed);
	while (PC_UNLIKELY(frame >= end) && !atomic_compare_exchange_weak(&a->written_end, &end, frame + 1))
		;
	atomic_store_explicit(&a->written[frame], word, memory_order_relaxed);
}

static u64 range_word(const struct pc_inode *i, u32 begin, u32 end)
{
	return begin == end ? PC_NONE : begin == 0 && end == i->cache->page_size ? PC_ALL : (u64)begin << 32 | end;
}

static u64 block_pos(const struct pc_inode *i, const struct pc_folio *f, u32 b)
{
	return pc_folio_pos(i->cache, f) + ((u64)b << i->cache->page_shift);
}

static bool in_set(const struct pc_inode *i, const struct pc_folio *f, enum pc_set set, u32 b)
{
	return pc_set_count(i->cache, f, set, b, b + 1) != 0;
}

static void map_add(struct pc_inode *i, u64 pos, u64 end)
{
	if (pos < end)
		pc_map_add(i->cache, &i->unwritten, pos, end, PC_WRITTEN_MAX);
}

static void map_cut(struct pc_inode *i, u64 pos, u64 end)
{
	if (i->unwritten.nr_ranges)
		pc_map_cut(i->cache, &i->unwritten, pos, end);
}

/* ---------------------------------------------------------------- one block */

/* The first bytes of [at, end) of the file that the map does not have. Return: false: it has all. */
bool pc_sent_next(const struct pc_inode *i, u64 at, u64 end, u64 *pos, u64 *stop)
{
	for (*pos = at; *pos < end; *pos = *stop)
		if (!pc_map_at(&i->unwritten, *pos, end, stop))
			return true;
	return false;
}

/* The first run of written bytes of [at, end), inside one block in D. */
static bool next_written(const struct pc_inode *i, const struct pc_folio *f, u32 b, u64 at, u64 end, u64 *pos,
			 u64 *stop)
{
	u64 word = word_of(i, f, b), start = block_pos(i, f, b);
	u32 from = (u32)(at - start), to = (u32)(end - start);
	if (word == PC_APART) {
		struct pc_range r = {end, end};
		pc_map_next(&i->apart, at, &r);
		from = (u32)(pc_min(pc_max(at, r.pos), end) - start);
		to = (u32)(pc_min(end, r.end) - start);
	} else if (word != PC_ALL) {
		from = (u32)pc_max(from, word >> 32);
		to = (u32)pc_min(to, (u32)word);
	}
	*pos = start + from;
	*stop = start + to;
	return from < to;
}

/* [begin, end) of a block is written, beside what the map has of it. Return: PC_APART; PC_ALL: it cannot be remembered. */
static u64 apart_with(struct pc_inode *i, u64 start, u32 begin, u32 end)
{
	if (pc_map_add(i->cache, &i->apart, start + begin, start + end, PC_WRITTEN_MAX))
		return PC_APART;
	pc_map_cut(i->cache, &i->apart, start, start + i->cache->page_size);
	return PC_ALL;
}

/* The word of a block in D, with [begin, end) of it. */
static u64 with(struct pc_inode *i, u64 word, u64 start, u32 begin, u32 end)
{
	u32 from = (u32)(word >> 32), to = (u32)word;
	if (word == PC_NONE)
		return range_word(i, begin, end);
	if (word != PC_ALL && word != PC_APART) {
		if (begin <= to && from <= end)
			return range_word(i, (u32)pc_min(begin, from), (u32)pc_max(end, to));
		word = apart_with(i, start, from, to);
	}
	return word == PC_APART ? apart_with(i, start, begin, end) : word;
}

/* The same without these bytes. */
static u64 without(struct pc_inode *i, u64 word, u64 start, u32 begin, u32 end)
{
	u32 from = word == PC_ALL ? 0 : (u32)(word >> 32), to = word == PC_ALL ? i->cache->page_size : (u32)word;
	if (word == PC_APART)
		pc_map_cut(i->cache, &i->apart, start + begin, start + end);
	if (word == PC_APART || word == PC_NONE || end <= from || to <= begin)
		return word;
	if (begin <= from)
		return range_word(i, (u32)pc_min(end, to), to);
	if (to <= end)
		return range_word(i, from, begin);
	word = apart_with(i, start, from, begin);
	return word == PC_APART ? apart_with(i, start, end, to) : word;
}

/* The block leaves D, or nothing of it is written. */
static void reset(struct pc_inode *i, struct pc_folio *f, u32 b, u64 to)
{
	u64 word = word_of(i, f, b);
	if (word == PC_APART)
		pc_map_cut(i->cache, &i->apart, block_pos(i, f, b), block_pos(i, f, b + 1));
	if (word != to)
		word_set(i, f, b, to);
}

static bool any_staged(const struct pc_inode *i, u64 start)
{
	u64 end = start + i->cache->page_size, stop;
	return pc_staged_bytes(i) && (pc_map_at(&i->staged.map, start, end, &stop) || stop < end);
}

/* ---------------------------------------------------------------- writers, and bytes without one */

bool pc_written_has_blocks(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to)
{
	bool has = true;
	for (u32 at = from, end; has && at < to; at = end) {
		end = (u32)pc_min(to, (at | (c->page_size - 1)) + 1);
		has = pc_written_has(c, f, at, end);
	}
	return has;
}

/* [from, to) is written: before it comes into D. Context: leaf lock, folio lock. */
void pc_written_add(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	const struct pc_cache *c = i->cache;
	for (u32 b = from >> c->page_shift, first; (first = b << c->page_shift) < to; b++) {
		u32 begin = from > first ? from - first : 0, end = (u32)pc_min(to - first, c->page_size);
		u64 word = word_of(i, f, b);
		if (word != PC_ALL)
			word_set(i, f, b, with(i, word, block_pos(i, f, b), begin, end));
		else if (end - begin < c->page_size && !in_set(i, f, PC_D, b))
			word_set(i, f, b, range_word(i, begin, end));
	}
}

/* A block is in D to be sent again; nothing of it is written. Context: leaf lock, folio lock. */
void pc_written_nothing(struct pc_inode *i, struct pc_folio *f, u32 block)
{
	reset(i, f, block, PC_NONE);
}

/* [from, to) are zeros of a cut or a hole by now. Context: leaf lock, folio lock. */
void pc_written_zeroed(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	const struct pc_cache *c = i->cache;
	for (u32 b = from >> c->page_shift, first; (first = b << c->page_shift) < to; b++) {
		u32 begin = from > first ? from - first : 0, end = (u32)pc_min(to - first, c->page_size);
		if (in_set(i, f, PC_D, b))
			word_set(i, f, b, without(i, word_of(i, f, b), block_pos(i, f, b), begin, end));
	}
}

/* The same for sent bytes, which memory need not have: whole blocks of [pos, end) leave U and S. Context: leaf lock, token. */
void pc_written_hole(struct pc_inode *i, u64 pos, u64 end)
{
	u64 mask = i->cache->page_size - 1, first = pos & ~mask, last = end & ~mask;
	if (!i->nr_unstable && !pc_staged_bytes(i))
		return;
	if (first < pos)
		map_add(i, pos, pc_min(end, first + mask + 1));
	if (last < end && (last > first || first == pos) && end <= UINT64_MAX - mask)
		map_add(i, last, end);
}

/* ---------------------------------------------------------------- transitions */

/* [E4] All of D is about to go to W; what views may store to stays in D as well, and keeps its word. Context: leaf lock, folio
 * lock. */
void pc_written_sent(struct pc_inode *i, struct pc_folio *f)
{
	const struct pc_cache *c = i->cache;
	for (u32 b = 0; b < 1u << pc_folio_order(f); b++) {
		u64 word = word_of(i, f, b), start = block_pos(i, f, b), end = start + c->page_size;
		if (word == PC_ALL && (!i->unwritten.nr_ranges || !in_set(i, f, PC_D, b)))
			continue;
		if (word != PC_ALL && !in_set(i, f, PC_U, b) && !any_staged(i, start))
			map_add(i, start, end);
		for (u64 at = start, pos, stop; next_written(i, f, b, at, end, &pos, &stop); at = stop)
			map_cut(i, pos, stop);
		if (!in_set(i, f, PC_P, b))
			reset(i, f, b, PC_ALL);
	}
}

/* The second layer says nothing about a block that is neither in W nor U, and has no byte of S. */
static void sent_end(struct pc_inode *i, const struct pc_folio *f, u32 b, enum pc_set other)
{
	u64 start = block_pos(i, f, b);
	if (!in_set(i, f, other, b) && !pc_staged_bytes(i))
		map_cut(i, start, start + i->cache->page_size);
}

/* [E6, E7] Blocks of a set, W or U, are about to come back to D, with the bytes that memory has: others are in S alone.
 * Context: leaf lock. */
void pc_written_back(struct pc_inode *i, struct pc_folio *f, enum pc_set set, u32 b0, u32 b1)
{
	const struct pc_cache *c = i->cache;
	u64 first = pc_folio_pos(c, f);
	for (u32 b = b0; (b = pc_set_next(c, f, set, b, b1)) < b1; b++) {
		u64 start = block_pos(i, f, b), end = start + c->page_size;
		u64 word = in_set(i, f, PC_D, b) ? word_of(i, f, b) : PC_NONE;
		for (u64 at = start, pos, stop; pc_sent_next(i, at, end, &pos, &stop); at = stop)
			for (u32 v = (u32)(pos - first), to; pc_valid_run(c, f, &v, (u32)(stop - first), &to); v = to)
				word = with(i, word, start, (u32)(first + v - start), (u32)(first + to - start));
		if (word != word_of(i, f, b))
			word_set(i, f, b, word);
		sent_end(i, f, b, set == PC_W ? PC_U : PC_W);
	}
}

/* [E5] Blocks of W are about to be clean. Context: leaf lock. */
void pc_written_saved(struct pc_inode *i, const struct pc_folio *f, u32 b0, u32 b1)
{
	for (u32 b = b0; i->unwritten.nr_ranges && (b = pc_set_next(i->cache, f, PC_W, b, b1)) < b1; b++)
		sent_end(i, f, b, PC_U);
}

/* [E8, E12] Blocks have left D without I/O, except those that views may store to. Context: leaf lock; the folio is locked. */
void pc_written_forget(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1)
{
	for (u32 b = b0; (b = pc_set_next_clear(i->cache, f, PC_D, b, b1)) < b1; b++)
		reset(i, f, b, PC_ALL);
}

/* The folio goes on in another frame by now. Context: leaf lock, folio lock. */
void pc_written_moved(struct pc_inode *i, struct pc_folio *f, u32 old_frame)
{
	u32 blocks = pc_folio_state(f) & PC_F_DIRTY ? 1u << pc_folio_order(f) : 0;
	for (u32 b = 0; b < blocks; b++) {
		u64 word = atomic_load_explicit(&i->cache->arena.written[old_frame + b], memory_order_relaxed);
		if (word == PC_ALL)
			continue;
		word_set(i, f, b, word);
		atomic_store_explicit(&i->cache->arena.written[old_frame + b], PC_ALL, memory_order_relaxed);
	}
}

/* Nothing is sent and not committed. Context: leaf lock, or an inode that no other thread can reach. */
void pc_written_clear(struct pc_inode *i)
{
	if (i->unwritten.nr_ranges)
		pc_map_clear(i->cache, &i->unwritten);
}

/* ---------------------------------------------------------------- another version below */

/* The first run of valid bytes of [at, end), inside one block in D, that are written, or borrowed. Context: leaf lock. */
bool pc_written_next(const struct pc_inode *i, const struct pc_folio *f, u32 b, bool written, u64 at, u64 end, u64 *pos,
		     u64 *stop)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f), from, to;
	for (u32 v = (u32)(at - start), v_end; pc_valid_run(c, f, &v, (u32)(end - start), &v_end);) {
		u64 first = start + v, valid = start + v_end;
		bool any = next_written(i, f, b, first, valid, &from, &to);
		*pos = written && any ? from : first;
		*stop = !any ? valid : written ? to : from;
		if (written ? any : *pos < *stop)
			return true;
		v = any ? (u32)(to - start) : v_end;
	}
	return false;
}

/* Keep the written bytes of S; the others are those of the version below. Context: token; W and U are empty. */
void pc_staged_keep_written(struct pc_inode *i)
{
	struct pc_range r;
	pc_inode_leaf_lock(i);
	for (u64 pos = 0; pc_staged_bytes(i) && pc_map_next(&i->unwritten, pos, &r); pos = r.end)
		pc_staged_cut(i, r.pos, r.end);
	pc_inode_leaf_unlock(i);
}

/* All of the folio's blocks counts as written. Context: leaf lock; the folio is locked, by this caller or for a fill. */
void pc_written_all(struct pc_inode *i, struct pc_folio *f)
{
	for (u32 b = 0; b < 1u << pc_folio_order(f); b++)
		reset(i, f, b, PC_ALL);
}

/* The first borrowed bytes of [at, end), inside one block, that S does not have. */
static bool next_borrowed(struct pc_inode *i, const struct pc_folio *f, u32 b, u64 at, u64 end, u64 *pos, u64 *stop)
{
	bool found = false;
	u64 last;
	pc_inode_leaf_lock(i);
	bool dirty = in_set(i, f, PC_D, b);
	while (dirty && !found && pc_written_next(i, f, b, false, at, end, pos, &last)) {
		found = !pc_map_at(&i->staged.map, *pos, last, stop);
		at = *stop;
	}
	pc_inode_leaf_unlock(i);
	return found;
}

/* The borrowed bytes of the page at @pos are these, of another version. @bytes: a whole page, zeros where that version
 * has ended. Context: token; may reclaim. Return: 0; -EAGAIN: a fill has the folio: wait for it, and call again. */
int pc_borrowed_put(struct pc_inode *i, uint64_t pos, const void *bytes)
{
	struct pc_cache *c = i->cache;
	u64 from, to;
	struct pc_folio *f = pc_folio_cached(i, pos >> c->page_shift);
	if (!f)
		return 0; /* it was given up */
	if (pc_folio_trylock_at(i, f, pos >> c->page_shift))
		return -EAGAIN;
	u64 start = pc_folio_pos(c, f);
	u32 at = (u32)(pos - start), b = at >> c->page_shift;
	bool may = pc_free_to_change(i, f, at, at + c->page_size);
	PC_ASSERT(may); /* nothing is in flight */
	for (u64 next = pos; next_borrowed(i, f, b, next, pos + c->page_size, &from, &to); next = to)
		memcpy(pc_folio_memory(c, f) + (from - start), (const u8 *)bytes + (from - pos), to - from);
	pc_folio_unlock(c, f);
	return 0;
}

/* ---------------------------------------------------------------- checking */

/* [I-1] of one block. Leaf lock held. */
bool pc_written_check_block(const struct pc_inode *i, const struct pc_folio *f, u32 b, struct pc_violation *out)
{
	const struct pc_cache *c = i->cache;
	u64 word = word_of(i, f, b), start = block_pos(i, f, b), last = start + c->page_size;
	u32 begin = (u32)(word >> 32), end = (u32)word, first = b << c->page_shift;
	u64 id = i->id, at = start, stop;
	if (word != PC_APART && (pc_map_at(&i->apart, start, last, &stop) || stop < last))
		return pc_violated(out, "I-1", "inode % byte %: the block has written ranges apart, and the word %x",
				   id, at, word);
	if (word == PC_ALL)
		return true;
	if (!in_set(i, f, PC_D, b))
		return pc_violated(out, "I-1",
				   "inode % byte %: the block is not dirty, and has the word %x of written bytes", id,
				   at, word);
	if (word != PC_APART && word != PC_NONE &&
	    (begin >= end || end > c->page_size || (begin == 0 && end == c->page_size)))
		return pc_violated(out, "I-1", "inode % byte %: written %..%", id, at, begin, end);
	for (u64 from = start, pos; next_written(i, f, b, from, last, &pos, &stop); from = stop) {
		if (!pc_valid_covers(c, f, first + (u32)(pos - start), first + (u32)(stop - start)))
			return pc_violated(out, "I-1", "inode %: written [%, %) is not valid", id, pos, stop);
		if (stop > pc_inode_size(i) && i->token != PC_TOKEN_CALLER)
			return pc_violated(out, "I-1", "inode %: written up to %, the file ends at %", id, stop,
					   pc_inode_size(i));
	}
	return true;
}
