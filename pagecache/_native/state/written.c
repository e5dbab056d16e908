/*
 * written.c - which bytes of a local block this program has written since the last commit.
 *
 *   dirty block      |····▒▒▒▒········|          ▒ written   · borrowed: read from storage, zeros of a gap or a hole
 *   another version  |████▒▒▒▒████████|          laid over it are the written bytes alone (2.19)
 *
 * Sets and write-back work by block, so a partly written block takes its borrowed bytes along. That is harmless while the version
 * below is the one that they come from.
 *
 * The map `borrowed` of the inode has the bytes of blocks in D that are not written: none of most blocks, which are written as a
 * whole. It does not depend on V: bytes that are read or zeroed later are borrowed without a change here.
 *
 * Blocks in W or U, and S, which may be in D again, have a second layer: the map `unwritten` of the inode has the bytes that were
 * not written when they were sent. It says nothing about blocks that are neither in W nor U and have no byte of S. A block that is
 * sent moves its borrowed bytes there; bytes that come back are united with the writes since then. A commit forgets the layer.
 * What is spilled beside one is also in a layer of its own, `beside_unwritten`, which takes the place of the other when the commit
 * has succeeded: the bytes of the commit are not written any more.
 *
 * Invariant (pc_written_check_block): a block outside D has no borrowed bytes; if one in D has some, its other bytes are valid and
 * lie before the end of the file [I-1].
 *
 * A map has up to PC_WRITTEN_MAX ranges beside two of each local block, as many as one has that is written in one piece; and memory
 * may run out. Blocks of which that would be too many count as written, and a rebase says so (`written_whole`).
 *
 * Locks: the inode's leaf lock. Bytes of a block that is in D become borrowed under the folio lock only. So a writer that holds it
 * may see without the leaf lock that no byte of the file is borrowed.
 */
#include "state/state.h"

enum { PC_WRITTEN_MAX = 1 << 22 };

static u64 block_pos(const struct pc_inode *i, const struct pc_folio *f, u32 b)
{
	return pc_folio_pos(i->cache, f) + ((u64)b << i->cache->page_shift);
}

static bool in_set(const struct pc_inode *i, const struct pc_folio *f, enum pc_set set, u32 b)
{
	return pc_set_count(i->cache, f, set, b, b + 1) != 0;
}

static u32 most_ranges(const struct pc_inode *i)
{
	return (u32)pc_min(PC_WRITTEN_MAX + 2 * i->nr_local, UINT32_MAX);
}

/* All bytes of the blocks count as written. */
static void map_cut_whole(struct pc_inode *i, struct pc_rangemap *m, u64 pos, u64 end)
{
	u64 mask = i->cache->page_size - 1;
	i->written_whole = 1;
	pc_map_cut(i->cache, m, pos & ~mask, (end + mask) & ~mask);
}

/* A cut inside of a range makes one more. */
static void map_cut(struct pc_inode *i, struct pc_rangemap *m, u64 pos, u64 end)
{
	if (!m->nr_ranges)
		return;
	if ((pos | end) & (i->cache->page_size - 1) && m->nr_ranges >= most_ranges(i))
		map_cut_whole(i, m, pos, end);
	else
		pc_map_cut(i->cache, m, pos, end);
}

static void map_add(struct pc_inode *i, struct pc_rangemap *m, u64 pos, u64 end)
{
	if (pos < end && !pc_map_add(i->cache, m, pos, end, most_ranges(i)))
		map_cut_whole(i, m, pos, end);
}

/* The first bytes of [at, end) of the file that a map does not have. Return: false: it has all. */
static bool next_absent(const struct pc_rangemap *m, u64 at, u64 end, u64 *pos, u64 *stop)
{
	for (*pos = at; *pos < end; *pos = *stop)
		if (!pc_map_at(m, *pos, end, stop))
			return true;
	return false;
}

/* Whether a map has a byte of [pos, end). */
static bool has_any(const struct pc_rangemap *m, u64 pos, u64 end)
{
	u64 stop;
	return pc_map_at(m, pos, end, &stop) || stop < end;
}

/* ---------------------------------------------------------------- writers, and bytes without one */

/* [from, to) is written: before it comes into D. Context: leaf lock, folio lock. */
void pc_written_add(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	u32 mask = c->page_size - 1, first = from >> c->page_shift, last = (to - 1) >> c->page_shift;
	if (from & mask && !in_set(i, f, PC_D, first))
		map_add(i, &i->borrowed, block_pos(i, f, first), block_pos(i, f, first + 1));
	if (to & mask && !in_set(i, f, PC_D, last))
		map_add(i, &i->borrowed, block_pos(i, f, last), block_pos(i, f, last + 1));
	map_cut(i, &i->borrowed, start + from, start + to);
}

/* A block is in D to be sent again; nothing of it is written. Context: leaf lock. */
void pc_written_nothing(struct pc_inode *i, struct pc_folio *f, u32 block)
{
	map_add(i, &i->borrowed, block_pos(i, f, block), block_pos(i, f, block + 1));
}

/* [from, to) are zeros of a cut or a hole by now. What views may store to counts as written, the zeros too. Context: leaf lock,
 * folio lock. */
void pc_written_zeroed(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	for (u32 at = from, end; at < to; at = end) {
		end = (u32)pc_min(to, (at | (c->page_size - 1)) + 1);
		u64 free = in_set(i, f, PC_P, at >> c->page_shift) ? pc_max(at, pc_folio_ext(c, f)->write_end) : at;
		if (in_set(i, f, PC_D, at >> c->page_shift))
			map_add(i, &i->borrowed, start + free, start + end);
	}
}

/* The same for sent bytes, which memory need not have: whole blocks of [pos, end) leave U and S. Context: leaf lock, token. */
void pc_written_hole(struct pc_inode *i, u64 pos, u64 end)
{
	u64 mask = i->cache->page_size - 1, first = pos & ~mask, last = end & ~mask;
	if (!i->nr_unstable && !pc_staged_bytes(i))
		return;
	if (first < pos)
		map_add(i, &i->unwritten, pos, pc_min(end, first + mask + 1));
	if (last < end && (last > first || first == pos) && end <= UINT64_MAX - mask)
		map_add(i, &i->unwritten, last, end);
}

/* ---------------------------------------------------------------- transitions */

/* The first bytes of [at, end) of the file that were written when they were sent. Return: false: none were. */
bool pc_sent_next(const struct pc_inode *i, u64 at, u64 end, u64 *pos, u64 *stop)
{
	return next_absent(&i->unwritten, at, end, pos, stop);
}

/* What a block in D has written is written in a layer, too; @alone: nothing else of the block is. */
static void layer_add(struct pc_inode *i, struct pc_rangemap *layer, u64 start, u64 end, bool alone)
{
	if (alone && has_any(&i->borrowed, start, end))
		map_add(i, layer, start, end);
	for (u64 at = start, pos, stop; next_absent(&i->borrowed, at, end, &pos, &stop); at = stop)
		map_cut(i, layer, pos, stop);
}

/* [E4] All of D is about to go to W; what views may store to stays in D as well, and keeps its borrowed bytes. Beside a commit
 * only bytes that are spilled go there. Context: leaf lock, folio lock. */
void pc_written_sent(struct pc_inode *i, struct pc_folio *f)
{
	const struct pc_cache *c = i->cache;
	bool any = i->borrowed.nr_ranges || i->unwritten.nr_ranges || i->beside_unwritten.nr_ranges;
	u32 blocks = any ? 1u << pc_folio_order(f) : 0;
	for (u32 b = 0; (b = pc_set_next(c, f, PC_D, b, blocks)) < blocks; b++) {
		u64 start = block_pos(i, f, b), end = start + c->page_size;
		bool alone = !in_set(i, f, PC_U, b) && !has_any(&i->staged.map, start, end);
		layer_add(i, &i->unwritten, start, end, alone);
		if (i->token == PC_TOKEN_COMMIT)
			layer_add(i, &i->beside_unwritten, start, end, !has_any(&i->beside.map, start, end));
		if (!in_set(i, f, PC_P, b))
			map_cut(i, &i->borrowed, start, end);
	}
}

/* A commit has ended. Context: leaf lock. */
void pc_written_end_commit(struct pc_inode *i, bool ok)
{
	if (ok) {
		pc_written_clear(i);
		pc_map_move(&i->unwritten, &i->beside_unwritten);
	} else {
		pc_map_clear(i->cache, &i->beside_unwritten);
	}
}

/* The second layer says nothing about a block that is neither in W nor U, and has no byte of S. */
static void sent_end(struct pc_inode *i, const struct pc_folio *f, u32 b, enum pc_set other)
{
	if (!in_set(i, f, other, b) && !pc_staged_bytes(i))
		map_cut(i, &i->unwritten, block_pos(i, f, b), block_pos(i, f, b + 1));
}

/* [E6, E7] Blocks of a set, W or U, are about to come back to D, with the bytes that memory has: others are in S alone.
 * Context: leaf lock. */
void pc_written_back(struct pc_inode *i, struct pc_folio *f, enum pc_set set, u32 b0, u32 b1)
{
	const struct pc_cache *c = i->cache;
	u64 first = pc_folio_pos(c, f);
	for (u32 b = b0; (b = pc_set_next(c, f, set, b, b1)) < b1; b++) {
		u64 start = block_pos(i, f, b), end = start + c->page_size;
		if (!in_set(i, f, PC_D, b))
			map_add(i, &i->borrowed, start, end);
		for (u64 at = start, pos, stop; pc_sent_next(i, at, end, &pos, &stop); at = stop)
			for (u32 v = (u32)(pos - first), to; pc_valid_run(c, f, &v, (u32)(stop - first), &to); v = to)
				map_cut(i, &i->borrowed, first + v, first + to);
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
	for (u32 b = b0; i->borrowed.nr_ranges && (b = pc_set_next_clear(i->cache, f, PC_D, b, b1)) < b1; b++)
		map_cut(i, &i->borrowed, block_pos(i, f, b), block_pos(i, f, b + 1));
}

/* Nothing is sent and not committed. Context: leaf lock, or an inode that no other thread can reach. */
void pc_written_clear(struct pc_inode *i)
{
	if (i->unwritten.nr_ranges)
		pc_map_clear(i->cache, &i->unwritten);
}

/* ---------------------------------------------------------------- another version below */

/* The first run of valid bytes of [at, end), inside one block in D, that are written, or borrowed. Context: leaf lock. */
bool pc_written_next(const struct pc_inode *i, const struct pc_folio *f, bool written, u64 at, u64 end, u64 *pos,
		     u64 *stop)
{
	u64 start = pc_folio_pos(i->cache, f);
	for (u32 v = (u32)(at - start), to; pc_valid_run(i->cache, f, &v, (u32)(end - start), &to); v = to)
		for (*pos = start + v; *pos < start + to; *pos = *stop)
			if (pc_map_at(&i->borrowed, *pos, start + to, stop) != written)
				return true;
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

/* The first borrowed bytes of [at, end), inside one block, that S does not have. */
static bool next_borrowed(struct pc_inode *i, const struct pc_folio *f, u32 b, u64 at, u64 end, u64 *pos, u64 *stop)
{
	bool found = false;
	u64 last;
	pc_inode_leaf_lock(i);
	bool dirty = in_set(i, f, PC_D, b);
	while (dirty && !found && pc_written_next(i, f, false, at, end, pos, &last)) {
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
	u64 first = pc_folio_pos(i->cache, f), start = block_pos(i, f, b), end = start + i->cache->page_size;
	if (!has_any(&i->borrowed, start, end))
		return true;
	if (!in_set(i, f, PC_D, b))
		return pc_violated(out, "I-1", "inode % byte %: the block is not dirty, and has borrowed bytes", i->id, start);
	for (u64 at = start, pos, stop; next_absent(&i->borrowed, at, end, &pos, &stop); at = stop) {
		if (!pc_valid_covers(i->cache, f, (u32)(pos - first), (u32)(stop - first)))
			return pc_violated(out, "I-1", "inode %: written [%, %) is not valid", i->id, pos, stop);
		if (stop > pc_inode_size(i) && i->token != PC_TOKEN_CALLER)
			return pc_violated(out, "I-1", "inode %: written up to %, the file ends at %", i->id, stop,
					   pc_inode_size(i));
	}
	return true;
}
