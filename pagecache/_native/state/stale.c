/*
 * stale.c - the part of a folio that is older than storage, and the end of its local bytes.
 *
 * Local bytes lie over the version in storage, so V shrinks to the blocks of L. A folio that a fill holds is only marked STALE,
 * and the fill shrinks V when it unlocks the folio.
 *
 * Contract 2.19; transition E11. Locks: folio lock and leaf lock.
 */
#include "state/state.h"

/* Whether bytes of the folio lie on both sides of an end of the file. */
bool pc_folio_holds_end(const struct pc_cache *c, const struct pc_folio *f, u64 size)
{
	u64 start = pc_folio_pos(c, f);
	return start < size && size < start + pc_folio_bytes(c, f);
}

/* The zeros behind the old end are not part of the file: bytes of another version there are newer. A block is cut as a
 * whole, then its valid bytes before the end are put back. That takes one extent more at most. A folio keeps one for this: if
 * an earlier cut has taken it and all others are in use, the block stays as it was. */
void pc_folio_cut_behind(struct pc_inode *i, struct pc_folio *f, u64 size)
{
	struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	if (!pc_folio_holds_end(c, f, size) || pc_folio_ext_ensure(c, f))
		return;
	u32 eof = (u32)(size - start), block = eof / c->page_size * c->page_size, n = 0;
	u32 from[PC_RAGGED_SLOTS], to[PC_RAGGED_SLOTS];
	for (u32 at = block; n < PC_RAGGED_SLOTS && pc_valid_run(c, f, &at, eof, &to[n]); at = to[n++])
		from[n] = at;
	pc_seq_begin(f);
	pc_valid_cut(c, f, block, pc_folio_bytes(c, f));
	for (u32 k = 0; k < n; k++)
		if (!pc_valid_keep(c, f, from[k], to[k]))
			pc_valid_add(c, f, block, block + c->page_size);
	pc_seq_end(f);
}

/* Shrink V to the blocks of L: its other blocks are older than storage now. Folio lock and leaf lock held. */
void pc_folio_refresh(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f);
	if (pc_local_count(c, f, 0, blocks) < blocks && pc_folio_ext_ensure(c, f))
		return; /* no memory for the extents that are left: it stays stale */
	atomic_fetch_and(&f->state, ~(u32)PC_F_STALE);
	if (pc_local_count(c, f, 0, blocks) == blocks)
		return;
	bool cut = false;
	pc_seq_begin(f);
	for (u32 b = 0; b < blocks; b++) {
		u32 from = b << c->page_shift, to = (b + 1) << c->page_shift;
		if (pc_local_count(c, f, b, b + 1))
			continue;
		cut = cut || pc_missing_until(c, f, from, to) < to;
		pc_valid_cut(c, f, from, to);
	}
	pc_seq_end(f);
	if (cut && pc_folio_state(f) & PC_F_PINNED)
		atomic_fetch_add(&pc_folio_ext(c, f)->cuts, 1);
}

/* End of the last byte of L in a folio, cut at the size; 0: there is none. What a block has in L are its valid bytes [M6]. */
u64 pc_local_end(const struct pc_cache *c, const struct pc_folio *f, u64 size)
{
	u32 block = 1u << pc_folio_order(f);
	while (block > 0 && !pc_local_count(c, f, block - 1, block))
		block--;
	u32 to = block << c->page_shift, at = block ? to - c->page_size : 0, end = at;
	for (u32 valid; pc_valid_run(c, f, &at, to, &valid); at = valid)
		end = valid;
	return block ? pc_min(pc_folio_pos(c, f) + end, size) : 0;
}
