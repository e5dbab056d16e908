/*
 * descriptor.c - folio descriptors: creation and end, lock, references, identity.
 *
 * A descriptor is never unmapped while the cache lives, so a thread with a stale id finds a descriptor, takes the
 * lock or a reference by compare-and-swap, and only then asks whether it is still the page that was meant [contract 1.4].
 *
 *   new       in no structure: locked, no reference, frame in transit       pc_descriptor_new
 *   indexed   one reference is the index's, others are calls' and pins'     folio.c
 *   freed     the last reference is gone: frame, extension, id go back      pc_folio_freed, pc_descriptor_free
 *
 * Sequence: odd while identity, frame or a shrinking V changes (a seqlock; H.-J. Boehm, "Can seqlocks get along with
 * programming language memory models?", 2012).
 *
 * Locks: the folio lock (level 5) is a bit of the state word, taken here and released by its owner. Sets, marks and
 * counts are not touched here: that is folio.c.
 */
#include "state/state.h"

/* Around a change that optimistic readers must not miss: they look again. Context: folio lock, or the folio is in no structure. */
void pc_seq_begin(struct pc_folio *f)
{
	atomic_fetch_add_explicit(&f->seq, 1, memory_order_acq_rel);
	atomic_thread_fence(memory_order_release);
	PC_POINT("seq_odd");
}

void pc_seq_end(struct pc_folio *f)
{
	PC_POINT("seq_changed");
	atomic_fetch_add_explicit(&f->seq, 1, memory_order_release);
}

/* ---------------------------------------------------------------- memory */

/* Frame, extension and id of a descriptor that is in no structure; the frame is in transit. */
void pc_descriptor_free(struct pc_cache *c, struct pc_folio *f)
{
	u32 order = pc_folio_order(f), ext = atomic_load_explicit(&f->ext, memory_order_relaxed);
	if (ext)
		pc_pool_free(&c->exts[pc_ext_class(order)], ext);
	u32 frame = atomic_load_explicit(&f->frame, memory_order_relaxed);
	if (!pc_shadow_leave(c, f, frame, order, 0))
		pc_frame_free(c, frame, order);
	atomic_store_explicit(&f->ext, 0, memory_order_relaxed);
	/* A reader that has found the descriptor does not take the next folio in it for this one. */
	atomic_store_explicit(&f->inode_id, 0, memory_order_release);
	pc_pool_free(&c->folios, pc_folio_id(c, f));
}

/* Identity and memory of a folio that is in no structure yet, locked by request `owner`; the frame is its own from here on.
 * Return: NULL without memory; the frame is free then. */
struct pc_folio *pc_descriptor_new(struct pc_inode *i, u64 index, u32 order, u32 frame, u32 owner)
{
	struct pc_cache *c = i->cache;
	u32 id = pc_pool_alloc(&c->folios);
	if (!id) {
		pc_arena_free(&c->arena, frame, order);
		return NULL;
	}
	struct pc_folio *f = pc_folio_at(c, id);
	pc_seq_begin(f);
	atomic_store_explicit(&f->state, PC_F_LOCKED, memory_order_relaxed);
	atomic_store_explicit(&f->key, (index >> order << order) << 4 | order, memory_order_relaxed);
	atomic_store_explicit(&f->frame, frame, memory_order_relaxed);
	atomic_store_explicit(&f->ext, 0, memory_order_relaxed);
	atomic_store_explicit(&f->owner, owner, memory_order_relaxed);
	f->next = f->prev = 0;
	pc_stamp_set(&f->d, PC_STAMP_NONE);
	pc_stamp_set(&f->w, PC_STAMP_NONE);
	pc_stamp_set(&f->u, PC_STAMP_NONE);
	atomic_store_explicit(&f->inode_id, i->id, memory_order_release);
	pc_seq_end(f);
	atomic_fetch_add_explicit(&c->frames_allocated, 1u << order, memory_order_relaxed);
	if (order > 0 && pc_folio_ext_ensure(c, f)) {
		pc_descriptor_free(c, f);
		return NULL;
	}
	return f;
}

/* The last reference is gone: memory and descriptor go back. */
void pc_folio_freed(struct pc_cache *c, struct pc_folio *f)
{
	u32 order = pc_folio_order(f);
	PC_DEBUG_ASSERT(!(pc_folio_state(f) & PC_F_LOCAL));
	atomic_fetch_add_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
	pc_reclaim_remove(c, f);
	pc_descriptor_free(c, f);
}

/* ---------------------------------------------------------------- lock, references, identity */

bool pc_folio_trylock(struct pc_folio *f)
{
	PC_POINT("folio_trylock");
	return !(atomic_fetch_or_explicit(&f->state, PC_F_LOCKED, memory_order_acquire) & PC_F_LOCKED);
}

/* Lock the folio if it is page `index` of the inode. The reference keeps the descriptor from being recycled, so no other
 * holder's lock can be undone. Return: 0; -EAGAIN it is locked; -ENOENT it is another folio: look again. */
int pc_folio_trylock_at(struct pc_inode *i, struct pc_folio *f, u64 index)
{
	int err = 0;
	PC_SYNC("found_before_lock");
	if (!pc_folio_get(f))
		return -ENOENT;
	if (!pc_folio_trylock(f)) {
		err = pc_folio_is(i, f, index) ? -EAGAIN : -ENOENT;
	} else if (!pc_folio_is(i, f, index)) {
		pc_folio_unlock(i->cache, f);
		err = -ENOENT;
	}
	pc_folio_put(i->cache, f);
	return err;
}

void pc_folio_unlock(struct pc_cache *c, struct pc_folio *f)
{
	atomic_store_explicit(&f->owner, 0, memory_order_relaxed);
	u32 old = atomic_fetch_and(&f->state, ~(u32)(PC_F_LOCKED | PC_F_WAITERS));
	PC_DEBUG_ASSERT(old & PC_F_LOCKED);
	PC_POINT("folio_unlocked");
	if (PC_UNLIKELY(old & PC_F_WAITERS))
		pc_event_wake(pc_folio_event(c, pc_folio_id(c, f)));
}

bool pc_folio_get(struct pc_folio *f)
{
	u16 refs = atomic_load_explicit(&f->refs, memory_order_relaxed);
	do {
		if (refs == 0)
			return false;
		PC_ASSERT(refs < 0xfff0);
	} while (!atomic_compare_exchange_weak_explicit(&f->refs, &refs, (u16)(refs + 1), memory_order_acquire,
							memory_order_relaxed));
	return true;
}

/* The same of a folio of the inode, found earlier: another may have its descriptor by now. */
bool pc_folio_get_of(const struct pc_inode *i, struct pc_folio *f)
{
	bool got = pc_folio_get(f), own = got && atomic_load(&f->inode_id) == i->id;
	if (got && !own)
		pc_folio_put(i->cache, f);
	return own;
}

void pc_folio_put(struct pc_cache *c, struct pc_folio *f)
{
	PC_POINT("folio_put");
	if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) == 1)
		pc_folio_freed(c, f);
}

/* Whether the folio is page `index` of the inode; with the folio locked or referenced the answer stands. */
bool pc_folio_is(const struct pc_inode *i, const struct pc_folio *f, u64 index)
{
	return atomic_load_explicit(&((struct pc_folio *)f)->inode_id, memory_order_acquire) == i->id &&
	       index - pc_folio_index(f) < (1ull << pc_folio_order(f));
}

/* The folio of a page, found without a lock: it may be removed at any moment. Return: NULL: the page is not cached. */
struct pc_folio *pc_folio_cached(const struct pc_inode *i, u64 index)
{
	u32 id = pc_index_lookup(i, index);
	struct pc_folio *f = id ? pc_folio_at(i->cache, id) : NULL;
	return f && pc_folio_is(i, f, index) ? f : NULL;
}

/* The same, and in [*start, *stop) its bytes of the file at one moment, at which it had the page. */
struct pc_folio *pc_folio_spanning(const struct pc_inode *i, u64 index, u64 *start, u64 *stop)
{
	const struct pc_cache *c = i->cache;
	for (u32 id; (id = pc_index_lookup(i, index));) {
		struct pc_folio *f = pc_folio_at(c, id);
		u32 seq = atomic_load_explicit(&f->seq, memory_order_acquire);
		bool is = pc_folio_is(i, f, index);
		*start = pc_folio_pos(c, f);
		*stop = *start + pc_folio_bytes(c, f);
		PC_SYNC("span_read");
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&f->seq, memory_order_relaxed) == seq)
			return is ? f : NULL;
	}
	return NULL;
}

struct pc_event *pc_folio_event(struct pc_cache *c, u32 folio)
{
	return &c->folio_events[(folio * 2654435761u) >> 24];
}
