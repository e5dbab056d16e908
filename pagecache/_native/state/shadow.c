/*
 * shadow.c - frames that calls and exporters hold by number.
 *
 *   folio ── frame A ── call          the folio gets frame B, frame A becomes a shadow
 *   folio ── frame B                  with as many holds as there are holders
 *   shadow ─ frame A ── call          the last hold frees it
 *
 *   folio ── frame C ── exporter      a held frame that is still its folio's is not evicted (PC_F_HELD);
 *                                     when it leaves the folio, by copy or with it, it becomes a shadow
 *
 * Holds are kept in a small hash table by frame. The one call that reads a folio's current frame is not in it: that
 * recorded by W. The end of a hold finds here whether the frame has left its folio. A frame between two owners counts as in
 * transit, so that the checker can account for every one.
 *
 * Locks: `shadow_lock` (level 8) for the table and the holds; a folio's frame changes under folio lock and inode leaf lock.
 */
#include "state/state.h"

static u32 *shadow_bucket(struct pc_cache *c, u32 frame)
{
	return &c->shadow_heads[frame % PC_SHADOW_BUCKETS];
}

/* The link that leads to the frame's entry, or to the end of its chain. Shadow lock held. */
static u32 *shadow_find(struct pc_cache *c, u32 frame)
{
	u32 *at = shadow_bucket(c, frame);
	while (*at && ((struct pc_shadow *)pc_pool_at(&c->shadows, *at))->frame != frame)
		at = &((struct pc_shadow *)pc_pool_at(&c->shadows, *at))->link;
	return at;
}

/* Shadow lock held. @folio: the folio that has the frame, 0: none. */
static void shadow_new(struct pc_cache *c, u32 id, u32 frame, u32 order, u32 holds, u32 folio)
{
	struct pc_shadow *s = pc_pool_at(&c->shadows, id);
	s->frame = frame;
	s->order = (u8)order;
	s->holds = holds;
	s->folio = folio;
	s->link = *shadow_bucket(c, frame);
	*shadow_bucket(c, frame) = id;
	c->held_pages += 1u << order;
}

/* The frame, in transit, leaves its folio; @holds: the calls and exporters that keep it from now on. Return: whether a
 * reference holds it: it is a shadow then, and the table owns it. */
bool pc_shadow_leave(struct pc_cache *c, struct pc_folio *f, u32 frame, u32 order, u32 holds)
{
	bool held = pc_folio_state(f) & PC_F_HELD;
	if (!holds && !held)
		return false;
	u32 id = pc_pool_alloc(&c->shadows);
	PC_ASSERT(id); /* as many as frames are reserved */
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	u32 *at = held ? shadow_find(c, frame) : &(u32){0};
	if (*at) {
		struct pc_shadow *s = pc_pool_at(&c->shadows, *at);
		s->holds += holds;
		s->folio = 0;
		holds = s->holds;
	} else if (holds) {
		shadow_new(c, id, frame, order, holds, 0);
		id = 0;
	}
	atomic_fetch_and(&f->state, ~(u32)(PC_F_HELD | PC_F_KEPT));
	if (holds)
		atomic_fetch_sub_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
	if (id)
		pc_pool_free(&c->shadows, id);
	return holds != 0;
}

/* One hold more on a frame that is the folio's, or a shadow with holds. Context: the inode's leaf lock. Ended by
 * pc_shadow_put. */
void pc_frame_hold(struct pc_cache *c, struct pc_folio *f, u32 frame)
{
	u32 id = pc_pool_alloc(&c->shadows);
	PC_ASSERT(id);
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	u32 *at = shadow_find(c, frame);
	if (*at) {
		((struct pc_shadow *)pc_pool_at(&c->shadows, *at))->holds++;
	} else {
		PC_ASSERT(atomic_load_explicit(&f->frame, memory_order_relaxed) == frame);
		shadow_new(c, id, frame, pc_folio_order(f), 1, pc_folio_id(c, f));
		atomic_fetch_or(&f->state, PC_F_HELD);
		id = 0;
	}
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
	if (id)
		pc_pool_free(&c->shadows, id);
}

/* Free a frame without an owner, which is in transit. */
void pc_frame_free(struct pc_cache *c, u32 frame, u32 order)
{
	if (atomic_load_explicit(&c->poison, memory_order_relaxed))
		memset(pc_arena_at(&c->arena, frame), 0xdb, (size_t)c->page_size << order);
	pc_arena_free(&c->arena, frame, order);
	atomic_fetch_add_explicit(&c->frames_freed, 1u << order, memory_order_relaxed);
}

/* One hold less. Any thread, any moment: leaf locks and nothing else. While the frame is a folio's own, the inode of that is
 * locked too, so that the folio cannot leave the index here: after the last hold it may change and go again. Return: false
 * when the frame has no hold by number. */
bool pc_shadow_put(struct pc_cache *c, u32 frame)
{
	bool found, done;
	u32 folio = 0;
	do {
		struct pc_folio *f = folio ? pc_folio_at(c, folio) : NULL;
		u64 id = f ? atomic_load(&f->inode_id) : 0;
		struct pc_inode *i = id ? c->inodes[id & (PC_INODES_MAX - 1)] : NULL;
		u32 gone = 0, order = 0;
		if (i)
			pc_inode_leaf_lock(i);
		pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
		u32 *at = shadow_find(c, frame);
		struct pc_shadow *s = *at ? pc_pool_at(&c->shadows, *at) : NULL;
		found = s != NULL;
		/* Otherwise it was another's: look again. A detached folio has no inode. */
		done = !s || (s->folio == folio && (!f || atomic_load(&f->inode_id) == (i ? i->id : 0)));
		folio = s ? s->folio : 0;
		if (s && done && --s->holds == 0) {
			gone = *at;
			order = s->order;
			*at = s->link;
			c->held_pages -= 1u << order;
			if (f)
				atomic_fetch_and(&f->state, ~(u32)(PC_F_HELD | PC_F_KEPT));
			else
				atomic_fetch_add_explicit(&c->arena.transit, 1u << order, memory_order_relaxed);
		}
		pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
		if (gone)
			pc_pool_free(&c->shadows, gone);
		if (gone && !f)
			pc_frame_free(c, frame, order);
		else if (gone && i && !(pc_folio_state(f) & (PC_F_LOCAL | PC_F_PINNED)))
			pc_reclaim_clean(c, f);
		if (i)
			pc_inode_leaf_unlock(i);
	} while (!done);
	return found;
}

/* Bytes of frames that are held by number, in a folio or out of it. */
uint64_t pc_cache_held(struct pc_cache *c)
{
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	u64 pages = c->held_pages;
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
	return pages << c->page_shift;
}
