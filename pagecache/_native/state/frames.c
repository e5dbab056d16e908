/*
 * frames.c - a folio gets another frame: because a writer, a truncate or a fill changes bytes that others still read.
 *
 *   folio ── frame A ── call, exporter, view               before
 *   folio ── frame B                                       after: its content, or zeros
 *   shadow ─ frame A ── call, exporter, view               freed with the last hold (shadow.c)
 *
 * Only folios up to `cow_limit` are copied for a writer. A writer of a larger one waits for the call.
 *
 * Context: folio lock, no leaf lock; may reclaim.
 */
#include "state/state.h"

/* The folio's content goes on in `new_frame`, which is in transit; calls and @extra_holds exporters keep the old one, and with
 * @cut so do its views. Return: false: a view has pinned it since, nothing has changed. */
static bool exchange(struct pc_inode *i, struct pc_folio *f, u32 new_frame, bool copy, u32 extra_holds, bool cut)
{
	struct pc_cache *c = i->cache;
	u32 order = pc_folio_order(f);
	pc_arena_claim(&c->arena, new_frame, order, i->volume->tag);
	u32 old_frame = atomic_load_explicit(&f->frame, memory_order_relaxed);
	if (copy)
		memcpy(pc_arena_at(&c->arena, new_frame), pc_arena_at(&c->arena, old_frame),
		       (size_t)c->page_size << order);
	else
		memset(pc_arena_at(&c->arena, new_frame), 0, (size_t)c->page_size << order);
	PC_SYNC("exchange_copied");
	pc_inode_leaf_lock(i);
	u32 st = pc_folio_state(f);
	if (st & PC_F_PINNED && !cut) {
		pc_inode_leaf_unlock(i);
		return false;
	}
	/* The calls of W have one hold together, which ends with W. */
	u32 calls = (st & (PC_F_WRITEBACK | PC_F_COPIED)) == PC_F_WRITEBACK;
	if (calls)
		atomic_fetch_or(&f->state, PC_F_COPIED);
	pc_seq_begin(f);
	atomic_store_explicit(&f->frame, new_frame, memory_order_relaxed);
	pc_seq_end(f);
	/* Transit: the new frame left it, the old one is in it until the shadow or the free list has it. */
	bool held = pc_shadow_leave(c, f, old_frame, order, extra_holds + calls + pc_pins_leave(i, f));
	pc_inode_leaf_unlock(i);
	atomic_fetch_add_explicit(&c->frames_allocated, 1u << order, memory_order_relaxed);
	if (!held)
		pc_frame_free(c, old_frame, order);
	return true;
}

/* Give the folio fresh memory; running calls (and @extra_holds exporters) keep the old frame. @copy: carry the content
 * over. Context: folio lock, no leaf lock; may reclaim. Return: false when no memory of that size can be had, or a view
 * has pinned what there is; nothing has changed then. */
bool pc_folio_replace_frame(struct pc_inode *i, struct pc_folio *f, bool copy, u32 extra_holds)
{
	struct pc_cache *c = i->cache;
	u32 order = pc_folio_order(f), got = order;
	u32 frame = pc_folio_state(f) & PC_F_PINNED ? PC_NO_FRAME : pc_frame_get(c, &got, order);
	if (frame == PC_NO_FRAME)
		return false;
	bool done = exchange(i, f, frame, copy, extra_holds, false);
	if (!done)
		pc_arena_free(&c->arena, frame, order);
	return done;
}

/* Bytes that another holder still reads are about to change in place: the folio goes on in a copy, where it is small enough
 * (`cow_limit`). Context: folio lock, no leaf lock; may reclaim. Return: false: nothing has changed. */
bool pc_folio_copy_on_conflict(struct pc_inode *i, struct pc_folio *f)
{
	struct pc_cache *c = i->cache;
	if (1u << pc_folio_order(f) > c->cow_pages || !pc_folio_replace_frame(i, f, true, 0))
		return false;
	atomic_fetch_add_explicit(&c->cow_copies, 1, memory_order_relaxed);
	pc_count(i, &i->counters.cow_copies, 1);
	return true;
}

/* The folio goes on in a copy in `frame`, of its size and in transit; its views keep the old one. Context: folio lock, no leaf
 * lock. */
void pc_folio_cut_views(struct pc_inode *i, struct pc_folio *f, u32 frame)
{
	exchange(i, f, frame, true, 0, true);
	atomic_fetch_add_explicit(&i->cache->cow_copies, 1, memory_order_relaxed);
	pc_count(i, &i->counters.cow_copies, 1);
}

/* Bytes that are missing are about to become valid: not in memory to which a backend may still store. Context: folio lock, no
 * leaf lock; may reclaim. Return: false: no memory can be had, or a view looks at what the folio has. */
bool pc_folio_unkeep(struct pc_inode *i, struct pc_folio *f)
{
	u32 st = pc_folio_state(f);
	return !(st & PC_F_KEPT) || pc_folio_replace_frame(i, f, true, 0);
}

/* Whether a running call reads the blocks of [from, to) in the frame that the folio has now. */
static bool in_flight(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	if (!(pc_folio_state(f) & PC_F_WRITEBACK))
		return false;
	pc_inode_leaf_lock(i);
	u32 b0 = from >> c->page_shift, b1 = (to + c->page_size - 1) >> c->page_shift;
	bool held = !(pc_folio_state(f) & PC_F_COPIED) && pc_set_count(c, f, PC_W, b0, b1) != 0;
	pc_inode_leaf_unlock(i);
	return held;
}

/* Make the folio's memory free to change. Context: folio lock, no leaf lock. Return: false: wait for its call. */
bool pc_free_to_change(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to)
{
	struct pc_cache *c = i->cache;
	PC_SYNC("write_before_conflict");
	if (!in_flight(i, f, from, to)) {
		if (PC_UNLIKELY(pc_folio_state(f) & PC_F_HELD))
			pc_folio_copy_on_conflict(i, f); /* exporters keep the old bytes, if that is possible */
		if (PC_UNLIKELY(pc_folio_state(f) & PC_F_WRITER_WAITS))
			atomic_fetch_and_explicit(&f->state, ~(u32)PC_F_WRITER_WAITS, memory_order_relaxed);
		return true;
	}
	if (pc_folio_copy_on_conflict(i, f)) {
		pc_trace_add(c, "copied on conflict", i->id, pc_folio_index(f), 0);
		return true;
	}
	atomic_fetch_or(&f->state, PC_F_WRITER_WAITS);
	PC_POINT("writer_waits");
	return !(pc_folio_state(f) & PC_F_WRITEBACK);
}
