/*
 * pin.c - pins: memory that a view looks at, or may store to at any moment.
 *
 *   folio ── frame ── pin, pin, ...        a pinned folio is not evicted, its frame not exchanged; a pin names both
 *     P  |··████··|                        blocks that a view may store to at any moment, unseen by CORE
 *     D  |·██████·|                        P ⊆ D, always: bytes of P in flight stay dirty (snapshot.c)
 *
 * A pin survives truncate, discard and invalidation. A folio that goes as a whole is detached and takes its pins along: out of
 * the index, alive until the last of them. A folio of which a part stays in the file gets another frame, and the pins keep the
 * old one (views.c): from then on they hold a frame by its number (shadow.c), and no folio.
 *
 * Locks: pins are counted under the leaf lock. Pinning for storing takes the folio lock too, and comes with the inode lock X.
 * Unpinning is for any thread at any moment: leaf locks and nothing else. Contract 2.21.
 */
#include "state/state.h"

enum { PC_WRITE_PINNED_SHARE = 4 }; /* one part in so many of the memory may be pinned for storing */

/* One pin more. Leaf lock held; the folio has an extension. */
void pc_ext_pin(struct pc_inode *i, struct pc_folio *f)
{
	bool got = pc_folio_get(f);
	PC_ASSERT(got);
	if (pc_folio_ext(i->cache, f)->pins++ == 0) {
		atomic_fetch_or(&f->state, PC_F_PINNED);
		pc_pinned_changed(i, 1u << pc_folio_order(f));
	}
}

/* Pins that are gone. Leaf lock held. */
static void unpinned(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_ext *e = pc_folio_ext(i->cache, f);
	if (e->write_pins == 0) {
		e->write_end = 0;
		pc_folio_unpin_blocks(i, f);
	}
	if (e->pins)
		return;
	atomic_fetch_and(&f->state, ~(u32)PC_F_PINNED);
	pc_pinned_changed(i, -(i64)(1u << pc_folio_order(f)));
	pc_folio_ext_drop(i, f);
	if (!(pc_folio_state(f) & PC_F_LOCAL))
		pc_reclaim_clean(i->cache, f);
}

/* One pin less. Leaf lock held; the folio is in the index. The reference is the caller's to put. */
void pc_ext_unpin(struct pc_inode *i, struct pc_folio *f)
{
	pc_folio_ext(i->cache, f)->pins--;
	unpinned(i, f);
}

/* What views may store to stays in P until the other call, though they end. Leaf lock held; the caller has the folio locked. */
void pc_ext_pin_stores(struct pc_inode *i, struct pc_folio *f)
{
	pc_ext_pin(i, f);
	pc_folio_ext(i->cache, f)->write_pins++;
}

void pc_ext_unpin_stores(struct pc_inode *i, struct pc_folio *f)
{
	pc_folio_ext(i->cache, f)->write_pins--;
	pc_ext_unpin(i, f);
	pc_folio_put(i->cache, f);
}

static void pin_folio(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to, bool writable, struct pc_pin *out)
{
	struct pc_ext *e = pc_folio_ext(i->cache, f);
	pc_ext_pin(i, f);
	if (writable) {
		e->write_pins++;
		e->write_end = (u32)pc_max(e->write_end, to);
		pc_folio_reached(f, pc_folio_state(f));
		pc_folio_pin_blocks(i, f, from, to);
	}
	*out = (struct pc_pin){
		.folio = pc_folio_id(i->cache, f),
		.frame = atomic_load_explicit(&f->frame, memory_order_relaxed),
		.cuts = atomic_load(&e->cuts),
		.memory = pc_folio_memory(i->cache, f) + from,
		.len = to - from,
		.writable = writable,
	};
}

/* Whether blocks of P more would pass the limit. */
static bool beyond_limit(const struct pc_inode *i, const struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	u32 b0 = from >> c->page_shift, b1 = (to + c->page_size - 1) >> c->page_shift;
	u64 more = b1 - b0 - pc_set_count(c, f, PC_P, b0, b1);
	return atomic_load(&c->write_pinned) + more > atomic_load(&c->arena.capacity) / PC_WRITE_PINNED_SHARE;
}

static int pin_checked(struct pc_inode *i, struct pc_folio *f, u64 pos, u64 len, bool writable, struct pc_pin *out)
{
	struct pc_cache *c = i->cache;
	u32 from = (u32)(pos - pc_folio_pos(c, f)), to = (u32)pc_min(from + len, pc_folio_bytes(c, f));
	u32 st = pc_folio_state(f);
	/* A discard or another version moves the end beside the lock of the inode. [I-9] */
	if (writable && pc_folio_pos(c, f) + to > atomic_load(&i->size))
		return -ENXIO;
	if (st & PC_F_STALE || !(writable ? st & PC_F_UPTODATE : pc_valid_covers(c, f, from, to)))
		return -EAGAIN;
	if (pc_folio_ext_ensure(c, f))
		return -ENOMEM;
	if (pc_folio_ext(c, f)->pins >= PC_PINS_MAX)
		return -EMLINK;
	if (writable && beyond_limit(i, f, from, to))
		return -ENOBUFS;
	pin_folio(i, f, from, to, writable, out);
	return 0;
}

static int pin_to_read(struct pc_inode *i, u64 pos, u64 len, struct pc_pin *out)
{
	int err = -EAGAIN;
	pc_inode_leaf_lock(i);
	struct pc_folio *f = pc_folio_cached(i, pos >> i->cache->page_shift);
	if (f)
		err = pin_checked(i, f, pos, len, false, out);
	pc_inode_leaf_unlock(i);
	return err;
}

/* The whole folio is valid, and no call reads bytes that may change from here on: then it is pinned. */
static int pin_to_store(struct pc_inode *i, u64 pos, u64 len, struct pc_pin *out, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	struct pc_folio *f = pc_folio_cached(i, pos >> c->page_shift);
	if (!f)
		return -EAGAIN;
	int err = pc_folio_trylock_at(i, f, pos >> c->page_shift);
	if (err) {
		pc_need_folio(need, err == -EAGAIN ? PC_NEED_FOLIO : PC_NEED_NOTHING, c, f);
		return -EAGAIN;
	}
	u32 from = (u32)(pos - pc_folio_pos(c, f)), to = (u32)pc_min(from + len, pc_folio_bytes(c, f));
	if (!pc_free_to_change(i, f, from, to)) {
		pc_need_folio(need, PC_NEED_FLIGHT, c, f);
		err = -EAGAIN;
	}
	PC_SYNC("pin_before_dirty");
	pc_inode_leaf_lock(i);
	if (!err && pc_folio_state(f) & PC_F_STALE)
		pc_folio_refresh(i, f);
	if (!err)
		err = pin_checked(i, f, pos, len, true, out);
	pc_inode_leaf_unlock(i);
	if (!err)
		pc_note_unlogged(i, pos, to - from);
	need->pos = pc_folio_pos(c, f);
	need->len = pc_folio_bytes(c, f);
	pc_folio_unlock(c, f);
	return err;
}

/* Hold the memory of the folio at @pos for a view. @writable: its owner may store to it until it is unpinned; comes
 * with the inode lock X. Return: 0 with out->memory at @pos and out->len bytes of it (at most len); -EAGAIN: see need
 * (FILL, FOLIO, FLIGHT, OPEN; NOTHING: look again); -ENOMEM; -EMLINK: PC_PINS_MAX pins hold the folio; -ENOBUFS: too
 * much is pinned for storing; -ENXIO: a range to store to is not inside the file. */
int pc_pin(struct pc_inode *i, uint64_t pos, uint64_t len, bool writable, struct pc_pin *out, struct pc_need *need)
{
	*need = (struct pc_need){.kind = PC_NEED_FILL, .pos = pos, .len = len};
	if (writable && atomic_load_explicit(&i->volume->sealed, memory_order_relaxed)) {
		need->kind = PC_NEED_OPEN;
		return -EAGAIN;
	}
	return writable ? pin_to_store(i, pos, len, out, need) : pin_to_read(i, pos, len, out);
}

/* Any thread, any moment: leaf locks and nothing else. */
void pc_unpin(struct pc_cache *c, const struct pc_pin *pin)
{
	struct pc_folio *f = pc_folio_at(c, pin->folio);
	bool cut = false;
	for (;;) {
		u64 id = atomic_load(&f->inode_id);
		struct pc_inode *i = id ? c->inodes[id & (PC_INODES_MAX - 1)] : NULL;
		if (i)
			pc_inode_leaf_lock(i);
		/* The pin keeps the folio, the folio in the index keeps the inode: it can only become detached. A held frame is
		 * not reused: if the folio has another frame, whichever object has the folio now, the pin was cut off. */
		bool attached = i && atomic_load(&f->inode_id) == i->id;
		cut = atomic_load(&f->frame) != pin->frame;
		if (attached && !cut) {
			struct pc_ext *e = pc_folio_ext(c, f);
			e->pins--;
			e->write_pins -= pin->writable;
			unpinned(i, f);
		}
		if (i)
			pc_inode_leaf_unlock(i);
		if (!i || attached)
			break;
	}
	if (cut)
		pc_shadow_put(c, pin->frame);
	else
		pc_folio_put(c, f);
}

/* Whether the memory is no longer the file's. Blocks that a view may store to are local and stay valid. If clean bytes of
 * a folio with local ones were dropped, all its other pins say so: it is not known which of them show these bytes. */
bool pc_pin_detached(struct pc_cache *c, const struct pc_pin *pin)
{
	struct pc_folio *f = pc_folio_at(c, pin->folio);
	u32 st = pc_folio_state(f);
	if (atomic_load(&f->frame) != pin->frame || st & PC_F_DETACHED)
		return true;
	const struct pc_ext *e = pc_folio_ext(c, f);
	return !pin->writable && (st & PC_F_STALE || (e && atomic_load(&e->cuts) != pin->cuts));
}

/* The folio has another frame: its pins hold the old one by number now, and nothing else. Leaf lock held.
 * Return: how many. */
u32 pc_pins_leave(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_ext *e = pc_folio_ext(i->cache, f);
	u32 n = e ? e->pins : 0;
	if (!n)
		return 0;
	e->pins = e->write_pins = 0;
	unpinned(i, f);
	u16 before = atomic_fetch_sub_explicit(&f->refs, (u16)n, memory_order_acq_rel);
	PC_ASSERT(before > n);
	return n;
}
