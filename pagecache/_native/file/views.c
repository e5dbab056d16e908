/*
 * views.c - views of a file that changes: cut off from it, or in the way as source and destination.
 *
 *   folio ── frame A ── pins               a part of the folio is removed (truncate, discard)
 *   folio ── frame B                       the file continues in a copy
 *   shadow ─ frame A ── pins               the views keep their content; later stores are lost
 *
 * A writable view never extends beyond the end of the file: it is cut off if the end moves before its last byte. So
 * only the core's own writers make the bytes beyond the end anything other than zeros [M8].
 *
 * Locks: the folio's lock while it gets the other frame, and the leaf lock for moments. Contract 2.17, 2.18, 2.21.
 */
#include "file/file.h"

/* How removing [pos, end) affects views that may store to the folio. Leaf lock held. */
enum pc_views_hit pc_views_hit(const struct pc_inode *i, const struct pc_folio *f, u64 pos, u64 end)
{
	const struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	u32 blocks = 1u << pc_folio_order(f), size = pc_folio_bytes(c, f);
	u32 b0 = (u32)(pos > start ? pc_min(pos - start, size) >> c->page_shift : 0);
	u32 b1 = end > start ? (u32)((pc_min(end - start, size) + c->page_size - 1) >> c->page_shift) : 0;
	if (b0 >= b1 || !pc_set_count(c, f, PC_P, b0, b1))
		return PC_VIEWS_MISSED;
	return pc_local_count(c, f, 0, b0) + pc_local_count(c, f, b1, blocks) ? PC_VIEWS_PART : PC_VIEWS_WHOLE;
}

/* pc_views_cut() for the folio at the index of the walk. Leaf lock held, released in between. */
static int cut_next(struct pc_walk *walk, u64 pos, u64 end, bool parts)
{
	struct pc_inode *i = walk->i;
	struct pc_cache *c = i->cache;
	bool locked;
	int err = 0;
	struct pc_folio *f = pc_next_claimed(i, &walk->index, walk->last, &locked);
	bool pinned = f && pc_folio_state(f) & PC_F_WRITE_PINNED;
	if (!f || !locked)
		return pinned ? -EBUSY : 0;
	if (pinned && (!parts || pc_views_hit(i, f, pos, end) == PC_VIEWS_PART)) {
		pc_inode_leaf_unlock(i);
		u32 order = pc_folio_order(f), frame = pc_frame_get(c, &order, order);
		if (frame != PC_NO_FRAME)
			pc_folio_cut_views(i, f, frame);
		else
			err = -ENOMEM;
		pc_inode_leaf_lock(i);
	}
	pc_folio_unlock(c, f);
	return err;
}

/* Separate views that may store to [pos, end) from the file, which continues in a copy of their content. @parts: only
 * if [pos, end) is about to be removed and a part of the folio stays. Context: token; no leaf lock. Return: 0; -ENOMEM;
 * -EBUSY: a fill owns a folio: wait for it and call again. */
int pc_views_cut(struct pc_inode *i, uint64_t pos, uint64_t end, bool parts)
{
	u64 index = pos >> i->cache->page_shift;
	struct pc_walk walk = {i, index, pc_index_behind(i, end), 1 << PC_MARK_DIRTY, 0}; /* P ⊆ D */
	int err = 0;
	for (struct pc_folio *f; (f = pc_walk_next(&walk));) {
		if (pc_folio_state(f) & PC_F_WRITE_PINNED) {
			walk.index = pc_folio_index(f);
			err = cut_next(&walk, pos, end, parts);
		}
		if (err || !i->nr_write_pinned) {
			pc_walk_stop(&walk);
			break;
		}
	}
	return err;
}

/* Whether the end of the file moves before the end of a view that may store to the folio. Leaf lock held. */
static bool crosses(const struct pc_inode *i, struct pc_folio *f, u64 size)
{
	u64 start = pc_folio_pos(i->cache, f);
	return pc_folio_state(f) & PC_F_WRITE_PINNED && start < size &&
	       start + pc_folio_ext(i->cache, f)->write_end > size;
}

/* Reserve memory for pc_truncate(@size) to separate views, so that it cannot fail. Context: inode lock X, token.
 * Return: 0, -ENOMEM. Released with pc_views_unreserve. */
int pc_views_reserve(struct pc_inode *i, uint64_t size)
{
	struct pc_cache *c = i->cache;
	u32 order = UINT32_MAX;
	pc_inode_leaf_lock(i);
	u32 id = pc_index_lookup(i, size >> c->page_shift);
	if (id && crosses(i, pc_folio_at(c, id), size))
		order = pc_folio_order(pc_folio_at(c, id));
	pc_inode_leaf_unlock(i);
	if (order == UINT32_MAX)
		return 0;
	u32 frame = pc_frame_get(c, &order, order);
	if (frame == PC_NO_FRAME)
		return -ENOMEM;
	i->spare = (struct pc_spare){.frame = frame, .order = order, .full = true};
	return 0;
}

void pc_views_unreserve(struct pc_inode *i)
{
	if (i->spare.full)
		pc_arena_free(&i->cache->arena, i->spare.frame, i->spare.order);
	i->spare.full = false;
}

/* The end of the file moves into a locked folio: cut off views that extend beyond it. No leaf lock held. */
void pc_views_end_at(struct pc_inode *i, struct pc_folio *f, u64 size)
{
	pc_inode_leaf_lock(i);
	bool cut = crosses(i, f, size);
	pc_inode_leaf_unlock(i);
	if (!cut)
		return;
	PC_ASSERT(i->spare.full && i->spare.order == pc_folio_order(f));
	i->spare.full = false;
	pc_folio_cut_views(i, f, i->spare.frame);
}

/* ---------------------------------------------------------------- views as sources and destinations */

/* Whether memory[0..len) has a byte of [pos, pos + bytes) of the file, as memory of a view may. @elsewhere: ignore
 * memory that is that of [pos, ...) itself, where a copy would change nothing. Context: no lock; the memory is pinned,
 * so its place in the file does not change. */
bool pc_view_meets(struct pc_inode *i, uint64_t pos, uint64_t bytes, const void *memory, uint64_t len, bool elsewhere)
{
	struct pc_cache *c = i->cache;
	const u8 *from = memory;
	if (!len || !pc_arena_has(&c->arena, memory))
		return false;
	for (u64 at = pos, start, stop; at < pos + bytes; at = stop) {
		const struct pc_folio *f = pc_folio_spanning(i, at >> c->page_shift, &start, &stop);
		if (!f) {
			stop = ((at >> c->page_shift) + 1) << c->page_shift;
			continue;
		}
		const u8 *here = pc_folio_memory(c, f) + (at - start);
		bool same = here - (at - pos) == from;
		if (here < from + len && from < here + (pc_min(stop, pos + bytes) - at) && !(same && elsewhere))
			return true;
	}
	return false;
}
