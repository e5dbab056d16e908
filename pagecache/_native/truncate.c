/*
 * truncate.c - bytes that go: truncate, punch, discard, invalidation; and pins, which survive all of them.
 *
 * Truncate and punch come with the inode lock X, the token (nothing is in flight) and the invalidate lock X (no fill may
 * start; the caller has waited for those that ran, pc_range_busy). So nobody but a passing reclaim holds a folio here, and
 * nothing after the backend's call can wait: size, remote_size and inval_seq are published together, then the folios go.
 *
 * Pinned folios are detached: the view keeps its memory, the file does not see it any more.
 *
 * Contract 2.17, 2.18, 2.19; transitions E8, E10, E11, E12, and E7 where another version lies under L. Locks: leaf lock; content is zeroed with the folio locked.
 */
#include <sched.h>

#include "internal.h"

static u64 last_index(const struct pc_cache *c)
{
	return UINT64_MAX >> c->page_shift;
}

static void wait_for_passer_by(struct pc_inode *i)
{
	pc_inode_leaf_unlock(i);
	sched_yield();
	pc_inode_leaf_lock(i);
}

/* The first folio with a page in [*index, end), locked; *index moves behind it. Leaf lock held (given back in between). */
static struct pc_folio *next_locked(struct pc_inode *i, u64 *index, u64 end)
{
	for (;;) {
		u32 id = pc_index_next(i, *index, end);
		if (!id)
			return NULL;
		struct pc_folio *f = pc_folio_at(i->cache, id);
		if (pc_folio_trylock(f)) {
			*index = pc_folio_index(f) + (1ull << pc_folio_order(f));
			return f;
		}
		wait_for_passer_by(i);
	}
}

int pc_invalidate_lock(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	int err = atomic_load(&i->inval_x) ? -EBUSY : 0;
	atomic_store(&i->inval_x, 1);
	pc_inode_leaf_unlock(i);
	return err;
}

void pc_invalidate_unlock(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	atomic_store(&i->inval_x, 0);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
}

/* Is a folio of [pos, end) still owned by a fill? Return: 1 and need (FOLIO), 0. */
uint32_t pc_range_busy(struct pc_inode *i, uint64_t pos, uint64_t end, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1;
	u32 busy = 0;
	pc_inode_leaf_lock(i);
	for (u32 id; !busy && (id = pc_index_next(i, index, last >> c->page_shift));) {
		struct pc_folio *f = pc_folio_at(c, id);
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		need->owner = atomic_load(&f->owner);
		if (pc_folio_state(f) & PC_F_LOCKED && need->owner) {
			need->kind = PC_NEED_FOLIO;
			need->folio = id;
			busy = 1;
		}
	}
	pc_inode_leaf_unlock(i);
	return busy;
}

/* Stamp m covers what was uncommitted of the bytes that go (contract 2.17). */
static void cover(struct pc_inode *i, const struct pc_folio *f)
{
	i->stamp_m = pc_min(i->stamp_m, pc_min(pc_stamp_get(&f->d), pc_stamp_get(&f->u)));
}

static void uncommitted_now(struct pc_inode *i)
{
	i->stamp_m = pc_min(i->stamp_m, atomic_load(&i->volume->epoch));
}

/* The same for bytes that the backend keeps. It drops them with its own truncate or hole. */
static void cut_staged(struct pc_inode *i, u64 pos, u64 end)
{
	u64 stamp = i->staged.stamp;
	if (pc_staged_cut(i, pos, end))
		i->stamp_m = pc_min(i->stamp_m, stamp);
}

/* Zero [from, to) of a locked folio and take its whole blocks out of L. Leaf lock held, given back while zeroing. */
static void zero_part(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to, bool forget)
{
	struct pc_cache *c = i->cache;
	pc_inode_leaf_unlock(i);
	if (pc_folio_state(f) & PC_F_HELD)
		pc_mirror_leave(i, f);
	memset(pc_folio_memory(c, f) + from, 0, to - from);
	pc_inode_leaf_lock(i);
	u32 b0 = (from + c->page_size - 1) >> c->page_shift, b1 = to >> c->page_shift;
	if (forget && b0 < b1)
		pc_folio_forget_local(i, f, b0, b1);
}

/**
 * pc_truncate() - the file now ends at @size, here and in storage.
 *
 * @uncommitted: the backend's truncate needs a commit to be durable. Return when everything is published.
 */
void pc_truncate(struct pc_inode *i, uint64_t size, bool uncommitted)
{
	struct pc_cache *c = i->cache;
	u64 index = size >> c->page_shift;
	pc_inode_leaf_lock(i);
	PC_ASSERT(i->token == PC_TOKEN_CALLER);
	u64 old = atomic_load(&i->size);
	if (size < old)
		atomic_store_explicit(&i->size, size, memory_order_release);
	atomic_store_explicit(&i->remote_size, size, memory_order_release);
	pc_invalidated(i, pc_min(size, old), UINT64_MAX);
	if (uncommitted) {
		uncommitted_now(i);
		i->undone.lowest = pc_min(i->undone.lowest, size);
	}
	cut_staged(i, size, UINT64_MAX);
	pc_trace_add(c, PC_T_TRUNCATE, i->id, size, old);
	for (struct pc_folio *f; (f = next_locked(i, &index, last_index(c)));) {
		u64 start = pc_folio_pos(c, f);
		if (uncommitted)
			cover(i, f);
		if (start >= size) {
			pc_folio_forget_local(i, f, 0, 1u << pc_folio_order(f));
			pc_folio_remove(i, f);
		} else {
			u32 end = (u32)(size - start), block = end >> c->page_shift, from = block << c->page_shift;
			zero_part(i, f, end, pc_folio_bytes(c, f), true);
			/* A block that is dirty only behind the new end would be handed over without a byte. */
			if (from < end && pc_missing_until(c, f, from, end) == end)
				pc_folio_forget_local(i, f, block, block + 1);
			pc_folio_ext_drop(i, f);
			pc_folio_unlock(c, f);
		}
	}
	if (size > old)
		atomic_store_explicit(&i->size, size, memory_order_release);
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
	pc_event_wake(&c->event);
}

/* [pos, end), all of it below remote_size, is zeros now, in storage too. Folios wholly inside go, parts are zeroed. */
void pc_punch(struct pc_inode *i, uint64_t pos, uint64_t end, bool uncommitted)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift;
	pc_inode_leaf_lock(i);
	PC_ASSERT(i->token == PC_TOKEN_CALLER);
	pc_invalidated(i, pos, end);
	if (uncommitted) {
		uncommitted_now(i);
		pc_undone_merge(&i->undone, &(struct pc_undone){UINT64_MAX, pos, end, 0});
	}
	cut_staged(i, pos, end);
	for (struct pc_folio *f; (f = next_locked(i, &index, (end + c->page_size - 1) >> c->page_shift));) {
		u64 start = pc_folio_pos(c, f), stop = start + pc_folio_bytes(c, f);
		if (uncommitted)
			cover(i, f);
		if (start >= pos && stop <= end) {
			pc_folio_forget_local(i, f, 0, 1u << pc_folio_order(f));
			pc_folio_remove(i, f);
		} else {
			zero_part(i, f, (u32)(pc_max(pos, start) - start), (u32)(pc_min(end, stop) - start), true);
			pc_folio_ext_drop(i, f);
			pc_folio_unlock(c, f);
		}
	}
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
	pc_event_wake(&c->event);
}

/* V shrinks to the blocks of L: the rest is older than storage now. Folio lock and leaf lock held. */
void pc_folio_refresh(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f);
	if (pc_local_count(c, f, 0, blocks) < blocks && pc_folio_ext_ensure(c, f))
		return; /* no memory to say what is left: it stays stale */
	atomic_fetch_and(&f->state, ~(u32)PC_F_STALE);
	if (pc_local_count(c, f, 0, blocks) == blocks)
		return;
	pc_seq_begin(f);
	for (u32 b = 0; b < blocks; b++)
		if (!pc_local_count(c, f, b, b + 1))
			pc_valid_cut(c, f, b << c->page_shift, (b + 1) << c->page_shift);
	pc_seq_end(f);
}

/* As next_locked, but a fill may keep its folio: it touches only what is missing, and unlocks under the leaf lock, so it has
 * the folio until this section ends. *locked: this call locked it. */
static struct pc_folio *next_claimed(struct pc_inode *i, u64 *index, u64 end, bool *locked)
{
	for (u32 id; (id = pc_index_next(i, *index, end));) {
		struct pc_folio *f = pc_folio_at(i->cache, id);
		*locked = pc_folio_trylock(f);
		if (*locked || atomic_load(&f->owner)) {
			*index = pc_folio_index(f) + (1ull << pc_folio_order(f));
			return f;
		}
		wait_for_passer_by(i);
	}
	return NULL;
}

/* The valid bytes of [from, to) of a folio, and what is staged before them. */
static void list_valid(const struct pc_inode *i, const struct pc_folio *f, u64 from, u64 to, struct pc_ranges *out,
		       u64 *staged)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	while (from < to) {
		u64 end = start + pc_valid_until(c, f, (u32)(from - start), (u32)(to - start));
		if (end == from) {
			from = start + pc_missing_until(c, f, (u32)(from - start), (u32)(to - start));
			continue;
		}
		pc_ranges_staged(i, out, staged, from);
		pc_ranges_add(out, from, end);
		from = end;
	}
}

/* Whether a local block may be on the backend, uncommitted: acknowledged now, or it came back from a failed hand-over or commit,
 * which may have stored it. What of the file came back is not known by block. */
static bool may_be_stored(const struct pc_inode *i, const struct pc_folio *f, u32 b)
{
	return pc_set_count(i->cache, f, PC_U, b, b + 1) || (i->regress_seq && !i->limits.durable_writes);
}

/**
 * pc_discard() - [E12] give up L and S of [pos, end), to whole blocks; @ranges receives (offset, length) pairs of what was
 * lost.
 *
 * @cut_size: a local tail that goes takes the size with it. Context: token. Return: number of pairs, which may exceed n.
 */
size_t pc_discard(struct pc_inode *i, uint64_t pos, uint64_t end, uint64_t *ranges, size_t n, bool cut_size)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1, tail = 0;
	struct pc_ranges out = {.out = ranges, .n = n};
	u64 staged = pos & ~(u64)(c->page_size - 1), staged_end = last >> c->page_shift << c->page_shift;
	pc_inode_leaf_lock(i);
	u64 size = atomic_load(&i->size), remote = atomic_load(&i->remote_size);
	bool locked;
	for (struct pc_folio *f; (f = next_claimed(i, &index, last >> c->page_shift, &locked));) {
		u64 start = pc_folio_pos(c, f);
		u32 blocks = 1u << pc_folio_order(f);
		for (u32 b = 0; b < blocks; b++) {
			u64 from = start + ((u64)b << c->page_shift), to = from + c->page_size;
			if (!pc_local_count(c, f, b, b + 1))
				continue;
			if (to <= pos || from >= end) {
				tail = pc_max(tail, to);
				continue;
			}
			list_valid(i, f, from, pc_min(to, size), &out, &staged);
			if (may_be_stored(i, f, b)) {
				uncommitted_now(i);
				cover(i, f);
			}
			pc_folio_forget_local(i, f, b, b + 1);
		}
		if (!locked) {
			atomic_fetch_or(&f->state, PC_F_STALE); /* the fill cuts V when it unlocks */
		} else if (pc_folio_state(f) & PC_F_LOCAL) {
			pc_folio_refresh(i, f);
			pc_folio_unlock(c, f);
		} else {
			pc_folio_remove(i, f);
		}
	}
	pc_ranges_staged(i, &out, &staged, pc_min(staged_end, size));
	pc_ranges_flush(&out);
	if (pc_staged_cut(i, pos & ~(u64)(c->page_size - 1), staged_end))
		uncommitted_now(i);
	pc_invalidated(i, pos, end);
	if (cut_size && size > remote && last - last % c->page_size >= size) { /* whole blocks were given up */
		u32 id;
		for (u64 at = 0; (id = pc_index_next_marked(i, at, last_index(c), PC_MARK_DIRTY, NULL));) {
			struct pc_folio *f = pc_folio_at(c, id);
			at = pc_folio_index(f) + (1ull << pc_folio_order(f));
			for (u32 b = 0; b < 1u << pc_folio_order(f); b++)
				if (pc_local_count(c, f, b, b + 1))
					tail = pc_max(tail, pc_folio_pos(c, f) + ((u64)(b + 1) << c->page_shift));
		}
		atomic_store_explicit(&i->size, pc_min(size, pc_max(remote, tail)), memory_order_release);
	}
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
	pc_event_wake(&c->event);
	return out.used;
}

/* ---------------------------------------------------------------- another version in storage */

/* End of the last byte of L in a folio; 0: there is none. */
static u64 local_end(const struct pc_cache *c, const struct pc_folio *f, u64 size)
{
	for (u32 b = 1u << pc_folio_order(f); b > 0; b--)
		if (pc_local_count(c, f, b - 1, b))
			return pc_min(pc_folio_pos(c, f) + ((u64)b << c->page_shift), size);
	return 0;
}

/* The zeros behind the old end of the file were nobody's bytes: what another version has there is newer. A block is cut as a
 * whole, so what is valid before the end is put back; the block stays as it was where no extent is left for that. */
static void cut_behind(struct pc_inode *i, struct pc_folio *f, u64 size)
{
	struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	if (size <= start || size >= start + pc_folio_bytes(c, f) || pc_folio_ext_ensure(c, f))
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

/**
 * pc_rebase() - L lies over another version from here on, which has @remote bytes; what is not L is that version's.
 *
 * All of U is dirty again: it was sent with the old version around it. @forgotten: the backend has let go of everything that
 * it had acknowledged and not committed, truncates included. Context: token. Contract 2.19.
 */
void pc_rebase(struct pc_inode *i, uint64_t remote, bool forgotten)
{
	struct pc_cache *c = i->cache;
	u64 index = 0, size, end = remote;
	pc_uncommit(i);
	pc_inode_leaf_lock(i);
	size = atomic_load(&i->size);
	pc_invalidated(i, 0, UINT64_MAX);
	bool locked;
	for (struct pc_folio *f; (f = next_claimed(i, &index, last_index(c), &locked));) {
		if (!locked) {
			atomic_fetch_or(&f->state, PC_F_STALE); /* the fill cuts V when it unlocks */
			end = pc_max(end, local_end(c, f, size));
		} else if (pc_folio_state(f) & PC_F_LOCAL) {
			end = pc_max(end, local_end(c, f, size));
			pc_folio_refresh(i, f);
			if (remote > size)
				cut_behind(i, f, size);
			pc_folio_unlock(c, f);
		} else {
			pc_folio_remove(i, f);
		}
	}
	atomic_store_explicit(&i->remote_size, remote, memory_order_release);
	atomic_store_explicit(&i->size, end, memory_order_release);
	if (forgotten) {
		i->stamp_m = i->stamp_m_moved = PC_STAMP_NONE;
		i->undone = i->undone_moved = (struct pc_undone){.lowest = UINT64_MAX};
	}
	i->committed_size = remote;
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
	pc_event_wake(&c->event);
}

/**
 * pc_dirty_all() - every byte of the file is to be handed over again, the clean ones too.
 *
 * Context: token. Return: whether that is so; false: some are not cached, or somebody holds a folio: nothing has changed.
 */
bool pc_dirty_all(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	u64 size = pc_inode_size(i), index = 0, at = 0;
	bool ok = true;
	pc_inode_leaf_lock(i);
	for (u32 id; ok && at < size && (id = pc_index_next(i, index, last_index(c)));) {
		struct pc_folio *f = pc_folio_at(c, id);
		u64 start = pc_folio_pos(c, f), stop = pc_min(start + pc_folio_bytes(c, f), size);
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		ok = start <= at && !(pc_folio_state(f) & (PC_F_STALE | PC_F_LOCKED)) &&
		     pc_valid_covers(c, f, 0, (u32)(stop - start)) &&
		     (pc_folio_order(f) == 0 || !pc_folio_ext_ensure(c, f));
		at = stop;
	}
	ok = ok && at >= size;
	index = 0;
	for (u32 id; ok && index << c->page_shift < size && (id = pc_index_next(i, index, last_index(c)));) {
		struct pc_folio *f = pc_folio_at(c, id);
		u64 start = pc_folio_pos(c, f);
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		pc_folio_dirty(i, f, 0, (u32)(pc_min(start + pc_folio_bytes(c, f), size) - start));
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
	u64 last = end >= UINT64_MAX - c->page_size ? last_index(c) : (end + c->page_size - 1) >> c->page_shift;
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

/* Drop everything clean of [pos, end), pinned folios detached. Return: 0; -EBUSY: bytes of L are left. */
int pc_invalidate_range(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	struct pc_cache *c = i->cache;
	u64 index = pos >> c->page_shift, last = pc_min(end, UINT64_MAX - c->page_size) + c->page_size - 1;
	int err = 0;
	pc_inode_leaf_lock(i);
	pc_invalidated(i, pos, end);
	for (u32 id; (id = pc_index_next(i, index, last >> c->page_shift));) {
		struct pc_folio *f = pc_folio_at(c, id);
		index = pc_folio_index(f) + (1ull << pc_folio_order(f));
		if (!pc_folio_trylock(f)) {
			/* A fill reads again by inval_seq; a writer's section ends soon and leaves dirty bytes. */
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
	pc_inode_leaf_unlock(i);
	return err;
}

/* [E11] The stored object changed: nothing outside L of [pos, end) may satisfy a read from here on. Never blocks [K8]. */
void pc_invalidate_remote(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	pc_invalidate_range(i, pos, end);
}

/* ---------------------------------------------------------------- pins */

/**
 * pc_pin() - hold the memory of the folio at @pos for a view.
 *
 * Return: 0 with *memory at @pos and *n bytes of it (at most len); -EAGAIN: need says what is missing (FILL); -ENOMEM;
 * -EMLINK: PC_PINS_MAX pins hold the folio.
 */
int pc_pin(struct pc_inode *i, uint64_t pos, uint64_t len, uint32_t *folio, uint8_t **memory, uint64_t *n,
	   struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	int err = -EAGAIN;
	*need = (struct pc_need){.kind = PC_NEED_FILL, .pos = pos, .len = len};
	pc_inode_leaf_lock(i);
	u32 id = pc_index_lookup(i, pos >> c->page_shift);
	struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
	if (f && pc_folio_is(i, f, pos >> c->page_shift)) {
		u32 from = (u32)(pos - pc_folio_pos(c, f)), to = (u32)pc_min(from + len, pc_folio_bytes(c, f));
		if (!(pc_folio_state(f) & PC_F_STALE) && pc_valid_covers(c, f, from, to))
			err = pc_folio_ext_ensure(c, f);
		if (!err && pc_folio_ext(c, f)->pins >= PC_PINS_MAX)
			err = -EMLINK;
		if (!err) {
			bool got = pc_folio_get(f);
			PC_ASSERT(got);
			struct pc_ext *e = pc_folio_ext(c, f);
			if (e->pins++ == 0) {
				atomic_fetch_or(&f->state, PC_F_PINNED);
				i->nr_pinned += 1u << pc_folio_order(f);
			}
			*folio = id;
			*memory = pc_folio_memory(c, f) + from;
			*n = to - from;
		}
	}
	pc_inode_leaf_unlock(i);
	return err;
}

/* Any thread, any moment: a leaf lock and nothing else. */
void pc_unpin(struct pc_cache *c, uint32_t folio)
{
	struct pc_folio *f = pc_folio_at(c, folio);
	for (;;) {
		u64 id = atomic_load(&f->inode_id);
		struct pc_inode *i = id ? c->inodes[id & (PC_INODES_MAX - 1)] : NULL;
		if (!i)
			break;
		/* The pin keeps the folio, the folio in the index keeps the inode: it can only be detached meanwhile. */
		pc_inode_leaf_lock(i);
		bool attached = atomic_load(&f->inode_id) == i->id;
		if (attached) {
			struct pc_ext *e = pc_folio_ext(c, f);
			if (--e->pins == 0) {
				atomic_fetch_and(&f->state, ~(u32)PC_F_PINNED);
				i->nr_pinned -= 1u << pc_folio_order(f);
				pc_folio_ext_drop(i, f);
				if (!(pc_folio_state(f) & PC_F_LOCAL))
					pc_reclaim_clean(c, f);
			}
		}
		pc_inode_leaf_unlock(i);
		if (attached)
			break;
	}
	pc_folio_put(c, f);
}

bool pc_pin_detached(struct pc_cache *c, uint32_t folio)
{
	return pc_folio_state(pc_folio_at(c, folio)) & PC_F_DETACHED;
}

/* Tests and tools: is anything of [pos, end) under writeback? *visited counts index nodes. */
bool pc_any_writeback(struct pc_inode *i, uint64_t pos, uint64_t end, uint32_t *visited)
{
	struct pc_cache *c = i->cache;
	*visited = 0;
	pc_inode_leaf_lock(i);
	u32 id = pc_index_next_marked(i, pos >> c->page_shift, (end + c->page_size - 1) >> c->page_shift,
				      PC_MARK_WRITEBACK, visited);
	pc_inode_leaf_unlock(i);
	return id != 0;
}
