/*
 * snapshot.c - what a call sends of memory that a view may store to at any moment: a copy.
 *
 *   folio    |  stored to without a lock  |        stays dirty, with the epoch of the hand-over
 *               │ copied when the first call begins, by the thread that makes it
 *   scratch  |~~~~~~~~~~~~~~~~~~~~~~~~~~~~|        what the backend sees does not change any more
 *
 * The copy is made after the hand-over, so it has all that was stored before the fsync that wanted it; what it has of later
 * stores does no harm, they are dirty still [contract 1.3]. It is memory of the request, not of the cache: a cache full of
 * views can be written back. A pin keeps the folio's frame in place until the request has ended.
 *
 * Writers need not wait for such a call, nor exchange the frame: no call has it. Locks: none while copying.
 */
#include "io/io.h"

/* The segment of a folio that views may store to is sent from a copy. Leaf lock held. */
void pc_seg_snapshot(struct pc_inode *i, struct pc_request *r, u32 s)
{
	struct pc_seg *g = &r->segs[s];
	pc_ext_pin(i, pc_folio_at(i->cache, g->folio));
	g->frame = PC_NO_FRAME;
	g->off |= PC_SEG_SCRATCH;
	r->snapshot = 1;
}

/* Copy what may change, unless that is done. Return: false without memory. */
bool pc_snapshot_make(struct pc_request *r)
{
	struct pc_cache *c = r->inode->cache;
	u64 bytes = 0;
	if (r->scratch)
		return true;
	r->scratch = pc_scratch_new(r->end - r->start);
	if (!r->scratch)
		return false;
	for (u32 s = 0; s < r->nr_segs; s++) {
		const struct pc_seg *g = &r->segs[s];
		if (!(g->off & PC_SEG_SCRATCH))
			continue;
		memcpy(r->scratch + (g->pos - r->start), pc_seg_memory(c, g), g->len);
		bytes += g->len;
	}
	pc_count(r->inode, &r->inode->counters.staged_copies, bytes != 0);
	return true;
}

/* The request ends: the pins of its segments do too. Context: no leaf lock. */
void pc_snapshot_end(struct pc_request *r)
{
	struct pc_cache *c = r->inode->cache;
	for (u32 s = 0; r->snapshot && s < r->nr_segs; s++) {
		struct pc_seg *g = &r->segs[s];
		if (!g->folio || g->frame != PC_NO_FRAME)
			continue;
		struct pc_folio *f = pc_folio_at(c, g->folio);
		pc_unpin(c, &(struct pc_pin){.folio = g->folio, .frame = atomic_load(&f->frame)});
	}
	r->snapshot = 0;
}
