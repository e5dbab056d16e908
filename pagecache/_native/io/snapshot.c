/*
 * snapshot.c - a copy of memory that a view may store to at any moment, for a call to send.
 *
 *   folio    |  stored to without a lock  |        stays dirty, with the epoch of its write-back
 *               │ copied when the first call begins, by the thread that makes it
 *   scratch  |~~~~~~~~~~~~~~~~~~~~~~~~~~~~|        constant bytes for the backend
 *
 * The copy is made after the folio moved to W, so it has everything that was stored before the fsync that caused it.
 * Later stores in it do no harm, since they are still dirty [contract 1.3]. The copy is memory of the request, not of
 * the cache, so a cache full of views can be written back. A pin keeps the folio's frame in place until the request has
 * ended.
 *
 * Writers need not wait for such a call, nor exchange the frame, since no call uses it: bytes that they write beside the copy
 * are dirty, and sent again. Locks: none while copying.
 */
#include "io/io.h"

/* Send a segment of a folio that views may store to from a copy. Leaf lock held. */
void pc_seg_snapshot(struct pc_inode *i, struct pc_request *r, u32 s)
{
	struct pc_seg *g = &r->segs[s];
	pc_ext_pin(i, pc_folio_at(i->cache, g->folio));
	g->frame = PC_NO_FRAME;
	g->off |= PC_SEG_SCRATCH;
	r->snapshot = 1;
}

/* Copy segments that views may change, unless already done. Return: false without memory. */
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
		pc_copy_racy(r->scratch + (g->pos - r->start), pc_seg_memory(c, g), g->len);
		bytes += g->len;
	}
	pc_count(r->inode, &r->inode->counters.staged_copies, bytes != 0);
	return true;
}

/* The request ends: release the pins of its segments. Context: no leaf lock. */
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
