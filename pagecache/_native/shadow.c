/*
 * shadow.c - frames that left their folio while calls or exporters still hold them.
 *
 *   folio ── frame A ── call          the folio gets frame B, frame A becomes a shadow
 *   folio ── frame B                  with as many holds as there are holders
 *   shadow ─ frame A ── call          the last hold frees it
 *
 * A shadow is known by the number of its frame, in a small hash table. Who ends a hold need not know whether the frame left
 * its folio meanwhile: he asks here first. A frame between two owners counts as in transit, so that the checker can account
 * for every one.
 *
 * Locks: `shadow_lock` (level 8) for the table and the holds; a folio's frame changes under folio lock and inode leaf lock.
 */
#include "internal.h"

static u32 *shadow_bucket(struct pc_cache *c, u32 frame)
{
	return &c->shadow_heads[frame % PC_SHADOW_BUCKETS];
}

/* The frames count as owned by the shadow from here on; they must be in transit. */
void pc_shadow_add(struct pc_cache *c, u32 frame, u32 order, u32 holds)
{
	u32 id = pc_pool_alloc(&c->shadows);
	PC_ASSERT(id); /* as many as frames are reserved */
	struct pc_shadow *s = pc_pool_at(&c->shadows, id);
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	s->frame = frame;
	s->order = (u8)order;
	s->holds = holds;
	s->link = *shadow_bucket(c, frame);
	*shadow_bucket(c, frame) = id;
	atomic_fetch_sub_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
}

/* One hold less. Return: false when the frame is no shadow. */
bool pc_shadow_put(struct pc_cache *c, u32 frame)
{
	bool found = false;
	u32 gone = 0, order = 0;
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	for (u32 *at = shadow_bucket(c, frame); *at; at = &((struct pc_shadow *)pc_pool_at(&c->shadows, *at))->link) {
		struct pc_shadow *s = pc_pool_at(&c->shadows, *at);
		if (s->frame != frame)
			continue;
		found = true;
		if (--s->holds == 0) {
			gone = *at;
			order = s->order;
			*at = s->link;
			atomic_fetch_add_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
		}
		break;
	}
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
	if (gone) {
		pc_pool_free(&c->shadows, gone);
		if (atomic_load_explicit(&c->poison, memory_order_relaxed))
			memset(pc_arena_at(&c->arena, frame), 0xdb, (size_t)c->page_size << order);
		pc_arena_free(&c->arena, frame, order);
		atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
	}
	return found;
}

/**
 * pc_folio_replace_frame() - give the folio fresh memory; running calls (and @extra_holds exporters) keep the old frame.
 *
 * @copy: carry the content over. Context: folio lock, no leaf lock; may reclaim.
 * Return: false when no memory of that size can be had; nothing has changed then.
 */
bool pc_folio_replace_frame(struct pc_inode *i, struct pc_folio *f, bool copy, u32 extra_holds)
{
	struct pc_cache *c = i->cache;
	u32 order = pc_folio_order(f), got = order;
	u32 new_frame = pc_frame_get(c, &got, order);
	if (new_frame == PC_NO_FRAME)
		return false;
	pc_arena_claim(&c->arena, new_frame, order, i->volume->tag);
	u32 old_frame = atomic_load_explicit(&f->frame, memory_order_relaxed);
	if (copy)
		memcpy(pc_arena_at(&c->arena, new_frame), pc_arena_at(&c->arena, old_frame),
		       (size_t)c->page_size << order);
	else
		memset(pc_arena_at(&c->arena, new_frame), 0, (size_t)c->page_size << order);
	atomic_fetch_add_explicit(&c->frames_allocated, 1u << order, memory_order_relaxed);
	pc_inode_leaf_lock(i);
	struct pc_ext *e = pc_folio_ext(c, f);
	u32 st = pc_folio_state(f);
	u32 calls = order > 0 ? (e ? e->calls : 0) : (st & (PC_F_WRITEBACK | PC_F_COPIED)) == PC_F_WRITEBACK;
	u32 holds = extra_holds + calls;
	if (order > 0 && e)
		e->calls = 0;
	if (order == 0 && calls)
		atomic_fetch_or(&f->state, PC_F_COPIED);
	pc_seq_begin(f);
	atomic_store_explicit(&f->frame, new_frame, memory_order_relaxed);
	pc_seq_end(f);
	/* Transit: the new frame left it, the old one is in it until the shadow or the free list has it. */
	if (holds)
		pc_shadow_add(c, old_frame, order, holds);
	pc_inode_leaf_unlock(i);
	if (!holds) {
		pc_arena_free(&c->arena, old_frame, order);
		atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
	}
	return true;
}
