/*
 * request.c - requests to a backend: one object of a pool, its segments and the resources it owns until it is deleted; the next
 * call and the end of any kind of them.
 *
 * A request counts as a user of its inode. Ids are reused.
 *
 * Context: the thread that owns the request; no lock.
 */
#include <stdlib.h>

#include "io/io.h"

struct pc_request *pc_request_new(struct pc_inode *i, int kind)
{
	struct pc_cache *c = i->cache;
	u32 id = pc_pool_alloc(&c->requests);
	if (!id)
		return NULL;
	struct pc_request *r = pc_request_at(c, id);
	memset(r, 0, offsetof(struct pc_request, inline_segs));
	pc_list_init(&r->link);
	r->inode = i;
	r->id = id;
	r->kind = (u8)kind;
	r->generation = atomic_load(&i->volume->generation);
	r->segs = r->inline_segs;
	r->cap_segs = PC_REQ_INLINE;
	atomic_fetch_add(&i->users, 1);
	return r;
}

void pc_request_delete(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	atomic_fetch_add_explicit(&i->volume->answers, 1, memory_order_relaxed);
	if (r->segs != r->inline_segs)
		free(r->segs);
	pc_scratch_free(r->sink);
	pc_scratch_free(r->scratch);
	if (r->ahead) {
		atomic_fetch_sub_explicit(&i->cache->ahead, r->ahead, memory_order_relaxed);
		atomic_fetch_sub_explicit(&i->volume->ahead, r->ahead, memory_order_relaxed);
	}
	if (r->credit)
		pc_credit_put(i->volume, r->credit);
	pc_pool_free(&i->cache->requests, r->id);
	pc_inode_user_put(i);
}

/* Position and length of the running call; a request of units also reads (gather.c). */
uint64_t pc_request_pos(const struct pc_request *r)
{
	return r->gather > 1 ? pc_gather_pos(r) : r->call_pos;
}

uint64_t pc_request_len(const struct pc_request *r)
{
	return r->gather > 1 ? r->run_got : r->call_len;
}

/* Make room for `more` segments. */
bool pc_seg_reserve(struct pc_request *r, u32 more)
{
	if (r->nr_segs + more <= r->cap_segs)
		return true;
	u32 cap = r->cap_segs * 4;
	while (cap < r->nr_segs + more)
		cap *= 4;
	struct pc_seg *segs = malloc(cap * sizeof(*segs));
	if (!segs)
		return false;
	memcpy(segs, r->segs, r->nr_segs * sizeof(*segs));
	if (r->segs != r->inline_segs)
		free(r->segs);
	r->segs = segs;
	r->cap_segs = cap;
	return true;
}

/* The memory that a segment of a folio is sent from or copied from. */
const u8 *pc_seg_memory(const struct pc_cache *c, const struct pc_seg *g)
{
	const u8 *frame = g->frame == PC_NO_FRAME ? pc_folio_memory(c, pc_folio_at(c, g->folio))
						  : pc_arena_at(&c->arena, g->frame);
	return frame + (g->off & ~PC_SEG_SCRATCH);
}

/* The next backend call of a request of any kind. */
int pc_call_next(struct pc_request *r, uint64_t *pos, struct pc_part *parts, size_t n, size_t *nr_parts)
{
	int more = r->gather                ? pc_gather_call(r, parts, nr_parts)
		   : r->kind == PC_REQ_FILL ? pc_fill_call(r, parts, n, nr_parts)
					    : pc_write_call(r, parts, n, nr_parts);
	*pos = pc_request_pos(r);
	return more;
}

/* Release a finished or abandoned request: a fill's folios are unlocked, a write's bytes are dirty again. */
void pc_request_settle(struct pc_request *r)
{
	if (r->kind == PC_REQ_WRITE) {
		pc_write_done(r, false, false);
	} else {
		pc_fill_settle(r);
		pc_request_delete(r);
	}
}
