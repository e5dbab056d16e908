/*
 * turns.c - requests for the same bytes of a file are served in their order of arrival if one of them is a write.
 *
 * The kernel has the bytes of a write in its pages before the request arrives here, and may drop such a page while the
 * write is in flight. A read of that page that overtook the write would bring back the old bytes for good, and a store
 * through a mapping would then write them over the new ones. (pagecache/fuse/ordering.py describes this for pyfuse3's
 * loop.) Therefore:
 *
 *   one worker       if the kernel caches pages: requests are received in their order (session.c)
 *   a turn           a write that a handler does, until its call ends
 *   held             a request that touches the bytes of an earlier turn: it stays in the queue, and is no hit
 *
 * With direct I/O the kernel caches nothing: many workers, and a turn only for a write that was answered early, which
 * would land over the bytes of a later one.
 *
 * A truncate, or an open that truncates, has the bytes from its size on. The kernel makes it beside no write, but calls
 * that were answered early go on: it waits for their turns alone, and has a turn itself only if it is one of them. Reads
 * do not wait for it: those of cached data go on while the store is silent.
 *
 * `lock` guards all data here. Workers also read the number of turns without it: it has grown before they receive a
 * request that has to wait.
 */
#include "state.h"

static bool truncates(const struct pc_fuse_request *a)
{
	return (a->op == PC_FUSE_SETATTR && a->fields & PC_SET_SIZE) || (a->op == PC_FUSE_OPEN && a->flags & O_TRUNC);
}

static u64 start_of(const struct pc_fuse_request *a)
{
	return a->op == PC_FUSE_SETATTR ? a->size : a->offset;
}

static u64 end_of(const struct pc_fuse_request *a)
{
	return truncates(a) ? UINT64_MAX : a->offset + a->size;
}

static bool touches(const struct pc_fuse_request *a, const struct pc_fuse_request *b)
{
	return a->number == b->number && start_of(a) < end_of(b) && start_of(b) < end_of(a);
}

/* Whether a request has an earlier turn to wait for. @order: of the request. */
static bool has_turn_before(const struct pc_loop *l, const struct pc_fuse_request *a, u64 order)
{
	for (const struct slot *t = l->turns; t && t->order < order; t = t->next_turn) {
		bool passes = a->op == PC_FUSE_READ ? truncates(&t->request) : truncates(a) && t->req;
		if (!passes && touches(&t->request, a))
			return true;
	}
	return false;
}

/* Whether a newly received read or write has to wait. Context: the worker, no lock. */
bool pc_turn_before(struct pc_loop *l, u32 op, u64 number, u64 offset, u64 size)
{
	if (!atomic_load_explicit(&l->nr_turns, memory_order_acquire))
		return false;
	struct pc_fuse_request a = REQUEST(op, number, PC_NO_FH, .offset = offset, .size = size);
	pthread_mutex_lock(&l->lock);
	bool before = has_turn_before(l, &a, UINT64_MAX);
	pthread_mutex_unlock(&l->lock);
	return before;
}

/* A write or truncate takes its turn: by its order. Lock held. */
static void turn_take(struct pc_loop *l, struct slot *s)
{
	struct slot **at = &l->turns;
	if (s->turn)
		return;
	while (*at && (*at)->order < s->order)
		at = &(*at)->next_turn;
	s->turn = 1;
	s->next_turn = *at;
	*at = s;
	atomic_fetch_add(&l->nr_turns, 1);
}

/* Before a request is queued. Lock held. */
void pc_turn_begin(struct pc_loop *l, struct slot *s)
{
	s->order = l->counts.submitted;
	if (!l->options.direct_io && s->request.op == PC_FUSE_WRITE)
		turn_take(l, s);
}

/* Before a request is answered early: its program may make the next one. In the queue it is over: no call is made. */
void pc_turn_early(struct pc_loop *l, u64 token)
{
	pthread_mutex_lock(&l->lock);
	struct slot *s = pc_slot_of(l, token);
	if (s && s->state == SLOT_TAKEN && (s->request.op == PC_FUSE_WRITE || truncates(&s->request)))
		turn_take(l, s);
	pthread_mutex_unlock(&l->lock);
}

/* Whether an earlier turn of its bytes holds a queued request. */
bool pc_turn_holds(const struct pc_loop *l, const struct slot *s)
{
	const struct pc_fuse_request *a = &s->request;
	return (a->op == PC_FUSE_READ || a->op == PC_FUSE_WRITE || truncates(a)) && has_turn_before(l, a, s->order);
}

/* The call of a request has ended: handlers may take those that it held. */
void pc_turn_end(struct pc_loop *l, struct slot *s)
{
	if (!s->turn)
		return;
	struct slot **at = &l->turns;
	while (*at != s)
		at = &(*at)->next_turn;
	*at = s->next_turn;
	s->turn = 0;
	atomic_fetch_sub(&l->nr_turns, 1);
	for (const struct slot *q = l->first; q; q = q->next)
		if (touches(&s->request, &q->request))
			pthread_cond_signal(&l->queued);
}
