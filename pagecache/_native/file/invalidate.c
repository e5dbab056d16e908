/*
 * invalidate.c - bytes that are older than storage: another version of the object, invalidation, clean folios dropped.
 *
 * L always stays: what is local lies over whatever storage has now. The rest goes with its folio, or is cut out of V where the
 * folio is local too (pc_folio_refresh). A folio that a fill holds is marked STALE and cut when the fill unlocks it, so nothing
 * here waits for a backend. Clean folios come and go alone (pc_drop_clean), without a change of the object.
 *
 * Contract 2.19; transitions E10, E11, and E7 where another version lies under L. Locks: leaf lock.
 */
#include "internal.h"

/* Whether bytes of the folio lie on both sides of an end of the file. */
static bool holds_end(const struct pc_cache *c, const struct pc_folio *f, u64 size)
{
	u64 start = pc_folio_pos(c, f);
	return start < size && size < start + pc_folio_bytes(c, f);
}

/* The zeros behind the old end of the file were nobody's bytes: what another version has there is newer. A block is cut as a
 * whole, so what is valid before the end is put back; the block stays as it was where no extent is left for that. */
static void cut_behind(struct pc_inode *i, struct pc_folio *f, u64 size)
{
	struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	if (!holds_end(c, f, size) || pc_folio_ext_ensure(c, f))
		return;
	u32 eof = (u32)(size - start), block = eof / c->page_size * c->page_size, n = 0;
	u32 from[PC_RAGGED + 1], to[PC_RAGGED + 1];
	for (u32 at = block; at < eof && n <= PC_RAGGED; at = to[n++]) {
		from[n] = pc_missing_until(c, f, at, eof);
		to[n] = pc_valid_until(c, f, from[n], eof);
		if (from[n] == to[n])
			break;
	}
	pc_seq_begin(f);
	pc_valid_cut(c, f, block, pc_folio_bytes(c, f));
	for (u32 k = 0; k < n; k++)
		if (!pc_valid_add(c, f, from[k], to[k]))
			pc_valid_add(c, f, block, block + c->page_size);
	pc_seq_end(f);
}

/* V shrinks to the blocks of L: the rest is older than storage now. Folio lock and leaf lock held. */
void pc_folio_refresh(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f);
	if (pc_local_count(c, f, 0, blocks) < blocks && pc_folio_ext_ensure(c, f))
		return; /* no memory to say what is left: it stays stale */
	atomic_fetch_and(&f->state, ~(u32)PC_F_STALE);
	if (PC_UNLIKELY(i->old_end) && holds_end(c, f, i->old_end)) {
		cut_behind(i, f, i->old_end);
		i->old_end = 0;
	}
	if (pc_local_count(c, f, 0, blocks) == blocks)
		return;
	pc_seq_begin(f);
	for (u32 b = 0; b < blocks; b++)
		if (!pc_local_count(c, f, b, b + 1))
			pc_valid_cut(c, f, b << c->page_shift, (b + 1) << c->page_shift);
	pc_seq_end(f);
}

/* ---------------------------------------------------------------- another version in storage */

/* End of the last byte of L in a folio, cut at the size; 0: there is none. What a block has in L are its valid bytes [M6]. */
u64 pc_local_end(const struct pc_cache *c, const struct pc_folio *f, u64 size)
{
	u32 block = 1u << pc_folio_order(f);
	while (block > 0 && !pc_local_count(c, f, block - 1, block))
		block--;
	u32 to = block << c->page_shift, at = block ? to - c->page_size : 0,
	    end = PC_FIX("a_local_end_is_a_byte") ? at : to;
	while (at < to) {
		u32 valid = pc_valid_until(c, f, at, to);
		end = valid > at ? (u32)pc_max(end, valid) : end;
		at = valid > at ? valid : pc_missing_until(c, f, at, to);
	}
	return block ? pc_min(pc_folio_pos(c, f) + end, size) : 0;
}

/* Storage is about to be asked how long the other version is: what a direct write puts behind that is part of it, too. */
void pc_base_asked(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	i->direct_end = 0;
	pc_inode_leaf_unlock(i);
}

/**
 * pc_rebase() - L lies over another version from here on, which has @remote bytes; what is not L is that version's.
 *
 * @remote was asked for after pc_base_asked(). All of U is dirty again: it was sent with the old version around it. @forgotten: the backend has let go of everything that
 * it had acknowledged and not committed, truncates included. Context: token. Contract 2.19.
 */
void pc_rebase(struct pc_inode *i, uint64_t remote, bool forgotten)
{
	struct pc_cache *c = i->cache;
	u64 index = 0, end, began, size;
	pc_uncommit(i);
	pc_inode_leaf_lock(i);
	began = atomic_load(&i->size);
	pc_invalidated(i, 0, UINT64_MAX);
	bool locked;
	for (struct pc_folio *f; (f = pc_next_claimed(i, &index, pc_last_index(c), &locked));) {
		size = atomic_load(&i->size); /* the leaf lock was given back: a writer may have extended the file */
		if (!locked) {
			atomic_fetch_or(&f->state, PC_F_STALE); /* the fill cuts V when it unlocks */
			if (remote > size && atomic_load(&f->owner) && holds_end(c, f, size))
				i->old_end = size;
		} else if (pc_folio_state(f) & PC_F_LOCAL) {
			pc_folio_refresh(i, f);
			if (remote > size)
				cut_behind(i, f, size);
			pc_folio_unlock(c, f);
		} else {
			pc_folio_remove(i, f);
		}
	}
	/* All of L is in D by now, also what writers put behind the folios that were looked at. */
	size = PC_FIX("rebase_sees_what_grew") ? atomic_load(&i->size) : began;
	if (!forgotten)
		remote = pc_max(remote, i->direct_end);
	index = 0;
	end = remote;
	for (u32 id; (id = pc_index_next_marked(i, index, pc_last_index(c), PC_MARK_DIRTY, NULL));) {
		struct pc_folio *f = pc_folio_at(c, id);
		index = pc_folio_after(f);
		end = pc_max(end, pc_local_end(c, f, size));
	}
	pc_set_remote_size(i, remote);
	pc_set_size(i, end);
	if (forgotten) {
		i->stamp_m = i->stamp_m_moved = PC_STAMP_NONE;
		i->undone = i->undone_moved = (struct pc_undone){.lowest = UINT64_MAX};
		pc_direct_cut(i, 0, UINT64_MAX);
	}
	i->committed_size = remote;
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
	pc_event_wake(&c->event);
}

static bool all_staged(const struct pc_inode *i, u64 pos, u64 end)
{
	for (u64 stop; pos < end; pos = stop)
		if (!pc_staged_at(i, pos, end, &stop))
			return false;
	return true;
}

/* Whether every byte of [0, len) of a folio is valid, or staged where @staged. */
static bool whole(const struct pc_inode *i, const struct pc_folio *f, u32 len, bool staged)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	for (u32 at = pc_valid_until(c, f, 0, len), end; at < len; at = pc_valid_until(c, f, end, len)) {
		end = pc_missing_until(c, f, at, len);
		if (!staged || !all_staged(i, start + at, start + end))
			return false;
	}
	return true;
}

/**
 * pc_dirty_all() - every byte of the file is to be handed over again, the clean ones too.
 *
 * @staged: but for those that the backend keeps, and goes on to keep.
 * Context: token. Return: whether that is so; false: some are not cached, or somebody holds a folio: nothing has changed.
 */
bool pc_dirty_all(struct pc_inode *i, bool staged)
{
	struct pc_cache *c = i->cache;
	u64 size = pc_inode_size(i), index = 0, at = 0;
	bool ok = true;
	pc_inode_leaf_lock(i);
	for (u32 id; ok && at < size && (id = pc_index_next(i, index, pc_last_index(c)));) {
		struct pc_folio *f = pc_folio_at(c, id);
		u64 start = pc_folio_pos(c, f), stop = pc_min(start + pc_folio_bytes(c, f), size);
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		if (start >= size)
			break;
		ok = (start <= at || (staged && all_staged(i, at, start))) &&
		     !(pc_folio_state(f) & (PC_F_STALE | PC_F_LOCKED)) && whole(i, f, (u32)(stop - start), staged) &&
		     (pc_folio_order(f) == 0 || !pc_folio_ext_ensure(c, f));
		at = stop;
	}
	ok = ok && (at >= size || (staged && all_staged(i, at, size)));
	index = 0;
	for (u32 id; ok && index << c->page_shift < size && (id = pc_index_next(i, index, pc_last_index(c)));) {
		struct pc_folio *f = pc_folio_at(c, id);
		u64 start = pc_folio_pos(c, f);
		u32 len = start < size ? (u32)(pc_min(start + pc_folio_bytes(c, f), size) - start) : 0;
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		for (u32 from = 0, to; from < len; from = pc_missing_until(c, f, to, len)) {
			to = pc_valid_until(c, f, from, len);
			if (to > from)
				pc_folio_dirty(i, f, from, to);
		}
	}
	pc_inode_leaf_unlock(i);
	return ok;
}

/* ---------------------------------------------------------------- invalidation */

/* Drop clean folios wholly inside [pos, end) that nobody holds. Never blocks. Return: bytes freed. */
uint64_t pc_drop_clean(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	struct pc_cache *c = i->cache;
	u64 index = (pos + c->page_size - 1) >> c->page_shift, freed = 0;
	u64 last = end >= UINT64_MAX - c->page_size ? pc_last_index(c) : (end + c->page_size - 1) >> c->page_shift;
	u64 size = pc_inode_size(i);
	for (bool more = true; more;) {
		pc_inode_leaf_lock(i);
		for (u32 k = 0; k < 64; k++) {
			u32 id = pc_index_next(i, index, last);
			more = id != 0;
			if (!more)
				break;
			struct pc_folio *f = pc_folio_at(c, id);
			u64 start = pc_folio_pos(c, f), stop = start + pc_folio_bytes(c, f);
			u16 one = 1;
			index = stop >> c->page_shift;
			if (start < pos || (stop > end && end < size) || pc_folio_state(f) & PC_F_UNEVICTABLE ||
			    !pc_folio_trylock(f))
				continue;
			if (!(pc_folio_state(f) & PC_F_UNEVICTABLE) &&
			    atomic_compare_exchange_strong(&f->refs, &one, 0)) {
				freed += pc_folio_bytes(c, f);
				pc_folio_detach(i, f);
				pc_folio_freed(c, f);
			} else {
				pc_folio_unlock(c, f);
			}
		}
		pc_inode_leaf_unlock(i);
	}
	return freed;
}

/* pc_invalidate_range() with the leaf lock held. */
int pc_invalidate_folios(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1;
	int err = 0;
	pc_invalidated(i, pos, end);
	for (u32 id; (id = pc_index_next(i, index, last >> c->page_shift));) {
		struct pc_folio *f = pc_folio_at(c, id);
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		if (!pc_folio_trylock(f)) {
			/* A fill reads again by inval_seq; a writer's section ends soon and leaves dirty bytes. */
			if (PC_FIX("fill_sees_invalidations"))
				atomic_fetch_or(&f->state, PC_F_STALE);
			continue;
		}
		if (!PC_FIX("invalidation_keeps_local_bytes") &&
		    !(pc_folio_state(f) & (PC_F_WRITEBACK | PC_F_WRITE_PINNED)))
			pc_folio_forget_local(i, f, 0, 1u << pc_folio_order(f));
		if (pc_folio_state(f) & PC_F_LOCAL) {
			err = -EBUSY;
			pc_folio_refresh(i, f);
			pc_folio_unlock(c, f);
		} else {
			pc_folio_remove(i, f);
		}
	}
	return err;
}

/* Drop everything clean of [pos, end), pinned folios detached. Return: 0; -EBUSY: bytes of L are left. */
int pc_invalidate_range(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	pc_inode_leaf_lock(i);
	int err = pc_invalidate_folios(i, pos, end);
	pc_inode_leaf_unlock(i);
	return err;
}

/* [E11] The stored object changed: nothing outside L of [pos, end) may satisfy a read from here on. Never blocks [K8]. */
void pc_invalidate_remote(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	if (!PC_FIX("direct_write_invalidates") && pc_direct_count(i))
		return;
	pc_invalidate_range(i, pos, end);
}
