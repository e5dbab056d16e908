/*
 * write.c - bytes from the caller into folios.
 *
 * Per folio, locked: the method table of contract 2.7 decides.
 *
 *   a  range ⊆ V                              copy over
 *   b  folio at or after remote_size, empty   zero the rest, copy, V = all
 *   c  range is the whole folio               copy, V = all
 *   d  touches valid bytes                    copy, extend the extent
 *   e  a free extent slot                     copy, new ragged extent
 *   f  else                                   the caller fills the bytes that make a or d true, then starts again
 *
 * Then V, D with stamp and marks, and the size are published, in that order, before the folio is unlocked: a size
 * published later would let a write-back crop the tail. Bytes that a running call still reads are never touched: the
 * folio gets a fresh frame and the call keeps the old one (copy on conflict); only above cow_limit, for pinned memory,
 * or when no memory is left does the writer wait for the call.
 *
 * The caller holds the inode lock X, has room for dirty data, and passes memory that cannot fault. Nothing here waits:
 * after a short count `need` has the condition to wait for.
 */
#include "file/file.h"

/* The source may be a view of this folio's memory. */
static void move(u8 *to, const u8 *from, size_t n)
{
	if (PC_LIKELY((uintptr_t)to - (uintptr_t)from >= n && (uintptr_t)from - (uintptr_t)to >= n))
		memcpy(to, from, n); /* the sanitizers' memmove copies bytes, which concurrent readers see */
	else
		memmove(to, from, n);
}

/* Order of a new folio, which covers only bytes to be written: 4 KiB writes get 4 KiB folios. */
static u32 write_order(struct pc_cache *c, u64 index, u64 pos, u64 end)
{
	return pos & (c->page_size - 1) ? 0 : pc_order_within(c, index, end >> c->page_shift);
}

/* Of a folio that this write has created; `pc_write_whole` keeps them beside its number, which is below PC_FRAMES_MAX. */
#define MADE_NEW   0x40000000u
#define MADE_ZEROS 0x80000000u /* its other bytes are zeros */

/* Find or create the folio of page `index`, and lock it. Return: 0; -EAGAIN see need. */
static int folio_for_write(struct pc_inode *i, u64 index, u64 pos, u64 end, struct pc_folio **out, u32 *made,
			   struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	*made = 0;
	for (;;) {
		u32 id = pc_index_lookup(i, index);
		struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
		if (f && pc_folio_is(i, f, index)) {
			int err = pc_folio_trylock_at(i, f, index);
			if (err == -ENOENT)
				continue;
			if (err)
				pc_need_folio(need, PC_NEED_FOLIO, c, f);
			*out = f;
			return err;
		}
		int err = pc_folio_create(i, index, write_order(c, index, pos, end), 0, 0, out);
		if (!err) {
			*made = MADE_NEW;
			return 0;
		}
		if (err != -EEXIST) {
			need->kind = PC_NEED_ROOM;
			return -EAGAIN;
		}
	}
}

/* Cases a to e: return whether the range can be written without a fill; zero the other bytes of the folio in case b. */
static bool make_writable(struct pc_inode *i, struct pc_folio *f, u32 *made, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	u32 size = pc_folio_bytes(c, f);
	if (pc_folio_state(f) & PC_F_UPTODATE || (from == 0 && to == size) || pc_valid_covers(c, f, from, to))
		return true;
	if (*made & MADE_NEW && pc_folio_pos(c, f) >= atomic_load(&i->remote_size)) {
		memset(pc_folio_memory(c, f), 0, from);
		memset(pc_folio_memory(c, f) + to, 0, size - to);
		*made |= MADE_ZEROS;
		return true;
	}
	return pc_valid_can_add(c, f, from, to);
}

/* Before the file grows beyond the unit of its old end, which may be short in storage: make that unit dirty again. Leaf
 * lock held. Return: 0; -ENOMEM, or -ENODATA: its last byte is not cached and must be read first. */
static int unit_grow(struct pc_inode *i, u64 pos)
{
	struct pc_cache *c = i->cache;
	u64 size = atomic_load(&i->size), unit = i->limits.write_unit;
	if (size % unit == 0 || pos / unit <= size / unit)
		return 0; /* whole, or sent again with this write */
	struct pc_folio *f = pc_folio_cached(i, (size - 1) >> c->page_shift);
	if (!f)
		return -ENODATA;
	u32 at = (u32)(size - 1 - pc_folio_pos(c, f)), block = at >> c->page_shift;
	if (pc_set_count(c, f, PC_D, block, block + 1))
		return 0;
	bool local = pc_local_count(c, f, block, block + 1);
	if ((pc_folio_state(f) & PC_F_STALE && !local) || !pc_valid_covers(c, f, at, at + 1))
		return -ENODATA;
	if (pc_folio_order(f) > 0 && pc_folio_ext_ensure(c, f))
		return -ENOMEM;
	pc_folio_dirty_borrowed(i, f, block);
	return 0;
}

/* Make the written bytes valid, dirty and part of the file. Zeros beside them are valid too, unless storage has grown
 * since; valid ones that are older than storage by now are not. Return: 0; nothing is published: -ENOMEM; -ENODATA, -EAGAIN: the
 * last byte of the file, or the folio, must be read first. */
static int publish(struct pc_inode *i, struct pc_folio *f, u32 made, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	u32 size = pc_folio_bytes(c, f), v_from = from, v_to = to;
	pc_inode_leaf_lock(i);
	if (PC_UNLIKELY(pc_folio_state(f) & PC_F_STALE))
		pc_folio_refresh(i, f);
	if (made & MADE_ZEROS && start >= atomic_load(&i->remote_size)) {
		v_from = 0;
		v_to = size;
	}
	bool all = v_from == 0 && v_to == size, whole = all || pc_folio_state(f) & PC_F_UPTODATE;
	int err = PC_UNLIKELY(pc_folio_state(f) & PC_F_STALE && !all) ? -ENOMEM : 0;
	if (!err && (!whole || pc_folio_order(f) > 0))
		err = pc_folio_ext_ensure(c, f);
	if (!err && start + to > atomic_load_explicit(&i->size, memory_order_relaxed) && i->limits.write_unit > 1)
		err = unit_grow(i, start + from);
	if (!err && !pc_valid_add(c, f, v_from, v_to))
		err = -EAGAIN;
	if (!err) {
		pc_folio_reached(f, pc_folio_state(f));
		pc_folio_dirty(i, f, from, to);
		if (start + to > atomic_load_explicit(&i->size, memory_order_relaxed))
			pc_set_size(i, start + to);
		pc_folio_ext_drop(i, f);
	}
	pc_inode_leaf_unlock(i);
	return err;
}

/* Overwriting bytes that are valid, dirty and in no call changes only content: no leaf lock (2.4: sequences do not
 * change with content). The folio lock excludes write-back. */
static bool already_dirty(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	u32 st = pc_folio_state(f);
	if ((st & (PC_F_UPTODATE | PC_F_DIRTY | PC_F_WRITEBACK | PC_F_STALE | PC_F_FAILED)) !=
	    (PC_F_UPTODATE | PC_F_DIRTY))
		return false;
	if (pc_folio_order(f) > 0) {
		u32 b0 = from >> c->page_shift, b1 = (to + c->page_size - 1) >> c->page_shift;
		if (pc_set_next_clear(c, f, PC_D, b0, b1) < b1)
			return false;
	}
	return pc_folio_pos(c, f) + to <= atomic_load_explicit(&i->size, memory_order_relaxed);
}

/* The content of dirty bytes has changed. No leaf lock if all of the file's are written and it has changed since the last
 * sync began: what was written after that is saved by its writer alone (pc_changed_since). */
static void overwritten(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	u64 epoch = atomic_load_explicit(&i->volume->epoch, memory_order_acquire);
	bool borrowed = pc_map_bytes(&i->borrowed) != 0;
	if (PC_LIKELY(!borrowed && __atomic_load_n(&i->changed, __ATOMIC_RELAXED) == epoch))
		return;
	pc_inode_leaf_lock(i);
	if (borrowed)
		pc_written_add(i, f, from, to);
	__atomic_store_n(&i->changed, pc_max(i->changed, epoch), __ATOMIC_RELAXED); /* a view may have ended later */
	pc_inode_leaf_unlock(i);
}

static void refresh(struct pc_inode *i, struct pc_folio *f)
{
	if (PC_LIKELY(!(pc_folio_state(f) & PC_F_STALE)))
		return;
	pc_inode_leaf_lock(i);
	pc_folio_refresh(i, f);
	pc_inode_leaf_unlock(i);
}

/* Whether there are sets for the folio's dirty blocks. They come before the bytes: a reader sees these, published or not. */
static bool has_sets(struct pc_inode *i, struct pc_folio *f)
{
	if (PC_LIKELY(pc_folio_order(f) == 0 || pc_folio_ext(i->cache, f)))
		return true;
	pc_inode_leaf_lock(i);
	int err = pc_folio_ext_ensure(i->cache, f);
	pc_inode_leaf_unlock(i);
	return !err;
}

/* Whether the locked folio can take bytes at [a, b): cases a to e, in memory that no call reads. The file stays
 * unchanged. */
static bool ready(struct pc_inode *i, struct pc_folio *f, u32 *made, u32 a, u32 b, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	refresh(i, f);
	if (!pc_free_to_change(i, f, a, b)) {
		pc_need_folio(need, PC_NEED_FLIGHT, c, f);
	} else if (PC_UNLIKELY(pc_folio_state(f) & PC_F_KEPT) && !pc_valid_covers(c, f, a, b) &&
		   !pc_folio_unkeep(i, f)) {
		need->kind = PC_NEED_ROOM;
	} else if (!make_writable(i, f, made, a, b)) {
		need->kind = PC_NEED_FILL;
		need->pos = pc_folio_pos(c, f);
		need->len = pc_folio_bytes(c, f);
	} else if (!has_sets(i, f)) {
		need->kind = PC_NEED_ROOM;
	} else {
		return true;
	}
	return false;
}

/* Copy to a folio that is ready, and publish. Return: whether the bytes were written; false: see need. */
static bool take(struct pc_inode *i, struct pc_folio *f, u32 made, u32 a, u32 b, const u8 *from, struct pc_need *need)
{
	PC_SYNC("write_before_copy");
	move(pc_folio_memory(i->cache, f) + a, from, b - a);
	int err = publish(i, f, made, a, b);
	if (err && pc_folio_pos(i->cache, f) + a >= pc_inode_size(i)) /* zeros, as before [M8] */
		memset(pc_folio_memory(i->cache, f) + a, 0, b - a);
	if (err == -ENODATA || err == -EAGAIN) {
		need->kind = PC_NEED_FILL;
		need->pos = err == -EAGAIN ? pc_folio_pos(i->cache, f) : pc_inode_size(i) - 1;
		need->len = err == -EAGAIN ? pc_folio_bytes(i->cache, f) : 1;
	} else if (err) {
		need->kind = PC_NEED_ROOM;
	}
	PC_SYNC("write_published");
	return !err;
}

/* Unlock the folio; remove it if it was created for bytes that were not written. */
static void leave(struct pc_inode *i, struct pc_folio *f, bool unused)
{
	if (PC_UNLIKELY(unused)) {
		pc_inode_leaf_lock(i);
		pc_folio_remove(i, f);
		pc_inode_leaf_unlock(i);
	} else {
		refresh(i, f);
		pc_folio_unlock(i->cache, f);
	}
}

/* Write one folio's part. Return: bytes taken, 0: see need. */
static u64 write_folio(struct pc_inode *i, u64 pos, const u8 *from, u64 len, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	struct pc_folio *f;
	u32 made;
	if (folio_for_write(i, pos >> c->page_shift, pos, pos + len, &f, &made, need))
		return 0;
	u64 start = pc_folio_pos(c, f);
	u32 a = (u32)(pos - start), b = (u32)pc_min(a + len, pc_folio_bytes(c, f));
	bool taken = true;
	bool dirty = already_dirty(i, f, a, b);
	PC_POINT("write_locked");
	if (PC_LIKELY(dirty)) {
		move(pc_folio_memory(c, f) + a, from, b - a);
		overwritten(i, f, a, b);
	} else {
		taken = ready(i, f, &made, a, b, need) && take(i, f, made, a, b, from, need);
	}
	leave(i, f, made && !taken);
	PC_SYNC("write_left_folio");
	return taken ? b - a : 0;
}

/* Copy [from, from + len) to `pos`. Return: bytes accepted, all of them visible and dirty. Fewer than len: need has the
 * condition to wait for: FILL of [need->pos, +len), FOLIO, ROOM (no memory can be freed now), OPEN (the volume is
 * sealed). Context: inode lock X; no leaf lock. GIL: kept; the caller releases it for large copies. Contract: 2.7. */
int64_t pc_write(struct pc_inode *i, uint64_t pos, const void *from, uint64_t len, struct pc_need *need)
{
	u64 done = 0;
	need->kind = PC_NEED_NOTHING;
	if (PC_UNLIKELY(atomic_load_explicit(&i->volume->sealed, memory_order_relaxed))) {
		need->kind = PC_NEED_OPEN;
		return 0;
	}
	while (done < len) {
		u64 n = write_folio(i, pos + done, (const u8 *)from + done, len - done, need);
		if (!n)
			break;
		done += n;
	}
	pc_note_unlogged(i, pos, done);
	return (int64_t)done;
}

/* ---------------------------------------------------------------- all or nothing */

enum { PC_WHOLE_FOLIOS = (PC_WHOLE_MAX >> 12) + 1 };

/* Lock the folios of [pos, pos + len) and make them ready, in ascending order; if not all: see need. Return: number of
 * locked folios. */
static u32 lock_ready(struct pc_inode *i, u64 pos, u64 len, u32 *ids, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	u32 n = 0;
	for (u64 done = 0; done < len;) {
		struct pc_folio *f;
		u32 made;
		if (folio_for_write(i, (pos + done) >> c->page_shift, pos + done, pos + len, &f, &made, need))
			break;
		u32 a = (u32)(pos + done - pc_folio_pos(c, f)), waits = pc_folio_state(f) & PC_F_WRITER_WAITS;
		u32 b = (u32)pc_min(a + len - done, pc_folio_bytes(c, f));
		bool dirty = already_dirty(i, f, a, b), can = dirty || ready(i, f, &made, a, b, need);
		ids[n++] = pc_folio_id(c, f) | made;
		if (!can) {
			if (!waits) /* no writer waits: passes need not skip it */
				atomic_fetch_and_explicit(&f->state, ~(u32)PC_F_WRITER_WAITS, memory_order_relaxed);
			break;
		}
		done += b - a;
	}
	return n;
}

/* pc_write() of all of [from, from + len), or of nothing: then no byte of the file changes. All folios are locked
 * before the first byte is copied, in ascending order and without waiting. If the last byte of the old end is missing,
 * the first folio that grows the file, which is the first of all, stops the write. @len: at most PC_WHOLE_MAX. Return:
 * len; 0: need has the reason; a number in between only if a commit has freed the sets of a folio meanwhile, and memory ran
 * out, or if a folio with other local bytes became older than storage. Context: as pc_write(). Contract: 2.7. */
int64_t pc_write_whole(struct pc_inode *i, uint64_t pos, const void *from, uint64_t len, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	u32 ids[PC_WHOLE_FOLIOS];
	u64 done = 0;
	PC_ASSERT(len <= PC_WHOLE_MAX);
	need->kind = PC_NEED_NOTHING;
	if (PC_UNLIKELY(atomic_load_explicit(&i->volume->sealed, memory_order_relaxed))) {
		need->kind = PC_NEED_OPEN;
		return 0;
	}
	u32 n = lock_ready(i, pos, len, ids, need);
	PC_SYNC("whole_locked");
	bool go = need->kind == PC_NEED_NOTHING;
	for (u32 k = 0; k < n; k++) {
		u32 made = ids[k] & (MADE_NEW | MADE_ZEROS);
		struct pc_folio *f = pc_folio_at(c, ids[k] & ~made);
		bool taken = false;
		if (go) {
			u32 a = (u32)(pos + done - pc_folio_pos(c, f));
			u32 b = (u32)pc_min(a + len - done, pc_folio_bytes(c, f));
			taken = go = take(i, f, made, a, b, (const u8 *)from + done, need);
			done += taken ? b - a : 0;
		}
		leave(i, f, made && !taken);
	}
	pc_note_unlogged(i, pos, done);
	return (int64_t)done;
}

/* pc_write_whole() without a wait. @reserve: other threads may write beside the copy, so dirty budget is reserved first. @closed:
 * the handle's byte, which becomes nonzero when it is unusable. Return: whether all was written. */
bool pc_write_try(struct pc_inode *i, u64 pos, const void *from, u64 len, bool reserve, const u8 *closed)
{
	struct pc_need need;
	struct pc_place place;
	u64 done = 0;
	if (reserve)
		pc_place_open(i, &place, pos, len);
	if ((reserve ? pc_room_take(i, &place, false) : pc_dirty_room(i, len)) && pc_inode_lock_try(i, PC_EXCLUSIVE)) {
		if (!__atomic_load_n(closed, __ATOMIC_ACQUIRE))
			done = (u64)pc_write_whole(i, pos, from, len, &need);
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	}
	if (reserve)
		pc_place_close(i, &place);
	return done == len;
}
