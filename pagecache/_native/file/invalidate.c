/*
 * invalidate.c - drop bytes that are older than storage: another version of the object, invalidation.
 *
 * L always stays: local bytes overlay the version in storage. Other bytes leave the cache with their folio, or leave V
 * if the folio also has local bytes (pc_folio_refresh). A folio that a fill holds is marked STALE and cut when the fill
 * unlocks it, so no function here waits for a backend.
 *
 * Contract 2.19; transitions E10, E11, and E7 if another version lies under L. Locks: leaf lock.
 */
#include "file/file.h"

/* ---------------------------------------------------------------- another version in storage */

/* After a reconnect: bytes that the old backend acknowledged and never committed become dirty again, with their stamps.
 * The volume is aborted: nothing is acknowledged, and a commit that still runs will count as failed. */
void pc_uncommit(struct pc_inode *i)
{
	struct pc_walk walk = {i, 0, pc_last_index(i->cache), 1 << PC_MARK_UNSTABLE, 0};
	for (struct pc_folio *f; (f = pc_walk_next(&walk));)
		pc_folio_end_unstable(i, f, false, false);
}

/* The caller is about to request the size of the other version: bytes that a direct write stores beyond that belong to
 * it too. */
void pc_base_requested(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	i->direct_end = 0;
	pc_inode_leaf_unlock(i);
}

/* Where the other version of pc_rebase() ends, or what is put over it without being in memory. Leaf lock held. */
static u64 stored_end(const struct pc_inode *i, u64 remote, bool forgotten)
{
	return pc_max(forgotten ? remote : pc_max(remote, i->direct_end), pc_map_end(&i->staged.map));
}

/* Put L over another version, of @remote bytes; bytes outside L are that version's. @remote was requested after
 * pc_base_requested(). All of U becomes dirty again, since it was sent as part of the old version; S stays, and the
 * engine sends it again: the object that it goes to is at least as long as S. @forgotten: the backend has dropped
 * everything that it had acknowledged and not committed, truncates included. Context: token. Contract 2.19. */
void pc_rebase(struct pc_inode *i, uint64_t remote, bool forgotten)
{
	struct pc_cache *c = i->cache;
	u64 index = 0, end, size;
	pc_uncommit(i);
	pc_unlogged_all(i); /* the bytes below them are others now */
	pc_inode_leaf_lock(i);
	pc_invalidated(i, 0, UINT64_MAX);
	/* For fills that begin while the walk waits; others may still ask for bytes of the longer version. */
	pc_set_remote_size(i, pc_max(atomic_load(&i->remote_size), stored_end(i, remote, forgotten)));
	bool locked;
	for (struct pc_folio *f; (f = pc_next_claimed(i, &index, pc_last_index(c), &locked));) {
		size = atomic_load(&i->size); /* the leaf lock was released: a writer may have extended the file */
		if (!locked) {
			atomic_fetch_or(&f->state, PC_F_STALE); /* the fill cuts V when it unlocks */
			if (remote > size && pc_folio_holds_end(c, f, size))
				pc_request_at(c, atomic_load(&f->owner))->old_end = size;
		} else if (pc_folio_state(f) & PC_F_LOCAL) {
			pc_folio_refresh(i, f);
			if (remote > size)
				pc_folio_cut_behind(i, f, size);
			pc_folio_unlock(c, f);
		} else {
			pc_folio_remove(i, f);
		}
	}
	/* All of L is in D by now, also bytes that writers put after the folios already visited. */
	size = atomic_load(&i->size);
	i->committed_size = forgotten ? remote : pc_max(remote, i->direct_end);
	index = 0;
	end = stored_end(i, remote, forgotten);
	pc_set_remote_size(i, end);
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, pc_last_index(c), PC_MARK_DIRTY));)
		end = pc_max(end, pc_local_end(c, f, size));
	pc_set_size(i, end);
	if (forgotten)
		pc_forget_uncommitted(i);
	pc_section_end(i);
}

/* Whether a block has no valid byte before @end. */
static bool ends_before(const struct pc_cache *c, const struct pc_folio *f, u32 block, u64 end)
{
	u64 start = pc_folio_pos(c, f), from = (u64)block << c->page_shift, to = pc_min(from + c->page_size, end - start);
	return start + from >= end || pc_missing_until(c, f, (u32)from, (u32)to) == to;
}

/* After a rebase: the file ends with the version below, or with the last written byte. Bytes behind that are borrowed,
 * and zeros by now. Context: token. */
void pc_end_at_written(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	u64 remote = pc_inode_remote_size(i), index = remote >> c->page_shift, end = remote, pos, stop;
	bool locked;
	pc_inode_leaf_lock(i);
	for (struct pc_folio *f; (f = pc_next_claimed(i, &index, pc_last_index(c), &locked));) {
		u32 blocks = 1u << pc_folio_order(f);
		for (u32 b = 0; (b = pc_set_next(c, f, PC_D, b, blocks)) < blocks; b++) {
			u64 at = pc_folio_pos(c, f) + ((u64)b << c->page_shift);
			if (ends_before(c, f, b, remote) && !pc_set_count(c, f, PC_P, b, b + 1) &&
			    !pc_written_next(i, f, true, at, at + c->page_size, &pos, &stop))
				pc_folio_forget_local(i, f, b, b + 1);
		}
		if (locked)
			pc_folio_unlock(c, f);
	}
	/* The leaf lock was released: later writes are in D as well. */
	index = remote >> c->page_shift;
	for (struct pc_folio *f; (f = pc_next_marked(i, &index, pc_last_index(c), PC_MARK_DIRTY));) {
		u32 blocks = 1u << pc_folio_order(f);
		for (u32 b = 0; (b = pc_set_next(c, f, PC_D, b, blocks)) < blocks; b++)
			for (u64 at = pc_folio_pos(c, f) + ((u64)b << c->page_shift), last = at + c->page_size;
			     pc_written_next(i, f, true, at, last, &pos, &stop); at = stop)
				end = pc_max(end, stop);
	}
	pc_set_size(i, pc_min(atomic_load(&i->size), end));
	pc_section_end(i);
}

/* All local bytes count as written by this program. Context: token; W and U are empty. */
void pc_own_all(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	pc_map_clear(i->cache, &i->borrowed);
	pc_written_clear(i);
	pc_section_end(i);
}

static bool all_staged(const struct pc_inode *i, u64 pos, u64 end)
{
	for (u64 stop; pos < end; pos = stop)
		if (!pc_map_at(&i->staged.map, pos, end, &stop))
			return false;
	return true;
}

/* Whether every byte of [0, len) of a folio is valid or staged. */
static bool whole(const struct pc_inode *i, const struct pc_folio *f, u32 len)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	for (u32 at = pc_valid_until(c, f, 0, len), end; at < len; at = pc_valid_until(c, f, end, len)) {
		end = pc_missing_until(c, f, at, len);
		if (!all_staged(i, start + at, start + end))
			return false;
	}
	return true;
}

/* Make every byte of the file dirty, the clean ones too, except staged bytes that are not in memory. The blocks that
 * were not are borrowed until pc_own_all: if that does not come, a rebase lays nothing of them over the other version. Context: token.
 * Return: whether it did; false: some bytes are neither cached nor staged, or a folio is locked: nothing has changed. */
bool pc_dirty_all(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	u64 size = pc_inode_size(i), index = 0, at = 0;
	bool ok = true;
	pc_unlogged_all(i);
	pc_inode_leaf_lock(i);
	for (struct pc_folio *f; ok && at < size && (f = pc_next_folio(i, &index, pc_last_index(c)));) {
		u64 start = pc_folio_pos(c, f), stop = pc_min(start + pc_folio_bytes(c, f), size);
		if (start >= size)
			break;
		ok = all_staged(i, at, start) && !(pc_folio_state(f) & (PC_F_STALE | PC_F_LOCKED)) &&
		     whole(i, f, (u32)(stop - start)) && (pc_folio_order(f) == 0 || !pc_folio_ext_ensure(c, f));
		at = stop;
	}
	ok = ok && all_staged(i, at, size);
	index = 0;
	for (struct pc_folio *f;
	     ok && index << c->page_shift < size && (f = pc_next_folio(i, &index, pc_last_index(c)));) {
		u64 start = pc_folio_pos(c, f);
		u32 len = start < size ? (u32)(pc_min(start + pc_folio_bytes(c, f), size) - start) : 0;
		for (u32 from = 0, to; pc_valid_run(c, f, &from, len, &to); from = to)
			for (u32 b = from >> c->page_shift; b << c->page_shift < to; b++)
				if (!pc_set_count(c, f, PC_D, b, b + 1))
					pc_folio_dirty_borrowed(i, f, b);
	}
	pc_inode_leaf_unlock(i);
	return ok;
}

/* ---------------------------------------------------------------- invalidation */

/* pc_invalidate_range() with the leaf lock held. */
int pc_invalidate_folios(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1;
	int err = 0;
	pc_invalidated(i, pos, end);
	for (struct pc_folio *f; (f = pc_next_folio(i, &index, last >> c->page_shift));) {
		if (!pc_folio_trylock(f)) {
			/* A fill reads again by inval_seq; a writer's section soon ends with dirty bytes. */
			atomic_fetch_or(&f->state, PC_F_STALE);
			continue;
		}
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

/* [E11] Nothing outside L of [pos, end) may satisfy a read after this, as when the stored object has changed: drop the clean bytes;
 * pinned folios are detached. Never blocks [K8]. Return: 0; -EBUSY: bytes of L are left. */
int pc_invalidate_range(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	pc_inode_leaf_lock(i);
	int err = pc_invalidate_folios(i, pos, end);
	pc_inode_leaf_unlock(i);
	return err;
}

/* After an open found another version, with nothing local: both sizes are storage's. Looked at and done in one section, since
 * writers do not wait for an open. No page of the version before is left: its last one has zeros behind its end. Return:
 * false: something is local, and nothing has changed. */
bool pc_inode_set_sizes(struct pc_inode *i, uint64_t size, uint64_t remote_size)
{
	pc_inode_leaf_lock(i);
	bool local = pc_unsaved(i);
	if (!local) {
		pc_set_remote_size(i, remote_size);
		pc_invalidate_folios(i, 0, UINT64_MAX);
		pc_set_size(i, size);
		i->committed_size = remote_size;
	}
	pc_inode_leaf_unlock(i);
	return !local;
}

/* The name that the backend finds the object by changes: no answer of a read that runs becomes valid [K12]. Valid bytes
 * stay. */
void pc_read_anew(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	pc_invalidated(i, 0, UINT64_MAX);
	pc_inode_leaf_unlock(i);
}
