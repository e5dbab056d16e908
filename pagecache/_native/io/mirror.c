/*
 * mirror.c - stream 1: bytes that are written back to the backend also go to a second place, best effort.
 *
 *   stream 0   |----request----|----request----|      W, token, stamps, commits: all of them follow stream 0
 *   frames      [  A  ][  B  ]  [  C  ][  D  ]
 *   stream 1   |-------------request-----------|      only holds on frames (shadow.c); own limits, own calls
 *
 * A request of the mirror is made from one of stream 0 while that is in flight, so its bytes do not change. Afterwards
 * the holds protect them: a writer that changes a held frame gets a fresh one (copy on conflict). If that is impossible
 * (a view has pinned the memory, the folio is too large, no memory is left) the writer does not wait for a mirror. It
 * changes the bytes in place, which spoils the mirror's copy of the file; the engine then gives that copy up.
 *
 * Contract 2.13. Locks: leaf lock. No waiting here.
 */
#include "io/io.h"

/* Copy bytes that views may store to, as the request of stream 0 does. Return: false without memory. */
static bool take_copies(struct pc_request *m, const struct pc_request *r)
{
	u8 *scratch = pc_scratch_grow(m->scratch, r->end - m->start);
	if (!scratch)
		return false;
	m->scratch = scratch;
	for (u32 s = 0; s < r->nr_segs; s++) {
		const struct pc_seg *g = &r->segs[s];
		if (g->folio && g->frame == PC_NO_FRAME)
			pc_copy_racy(scratch + (g->pos - m->start), pc_seg_memory(m->inode->cache, g), g->len);
	}
	return true;
}

static bool joins(const struct pc_request *m, const struct pc_request *r)
{
	const struct pc_limits *l = &r->inode->volume->mirror_limits;
	return m && m->kind == PC_REQ_MIRROR && m->inode == r->inode && m->end == r->start && m->seg == 0 &&
	       m->seg_off == 0 && r->end - m->start <= l->max_write;
}

/* Make a request of stream 1 for the bytes of @r, a request of stream 0 that is in flight. @last: a request of the
 * mirror that has made no call yet, or NULL; the bytes join it if they follow its bytes. Return: the request that has
 * the bytes now (@last or a new one); NULL without memory. Context: the caller owns @r, which cannot complete during
 * the call. */
struct pc_request *pc_mirror_take(struct pc_request *r, struct pc_request *last)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	struct pc_request *m = joins(last, r) ? last : pc_request_new(i, PC_REQ_MIRROR);
	if (m && m != last)
		m->start = r->start;
	if (!m || !pc_seg_reserve(m, r->nr_segs) || ((m->scratch || r->snapshot) && !take_copies(m, r))) {
		if (m && m != last)
			pc_request_delete(m);
		return NULL;
	}
	pc_inode_leaf_lock(i);
	for (u32 s = 0; s < r->nr_segs; s++) {
		const struct pc_seg *g = &r->segs[s];
		if (!g->folio)
			continue; /* a neighbour that is sent only to fill its unit */
		m->segs[m->nr_segs] = *g;
		if (g->frame == PC_NO_FRAME)
			m->segs[m->nr_segs].folio = 0; /* nothing is held for it */
		else
			pc_frame_hold(c, pc_folio_at(c, g->folio), g->frame);
		m->segs[m->nr_segs++].off &= g->frame == PC_NO_FRAME ? ~0u : ~PC_SEG_SCRATCH;
	}
	m->end = r->end;
	pc_inode_leaf_unlock(i);
	return m;
}

/* End a request that was sent or given up: release its holds. */
void pc_mirror_end(struct pc_request *r)
{
	struct pc_cache *c = r->inode->cache;
	for (u32 s = 0; s < r->nr_segs; s++)
		if (r->segs[s].frame != PC_NO_FRAME)
			pc_shadow_put(c, r->segs[s].frame);
	pc_request_delete(r);
	pc_event_wake(&c->event);
}
