/*
 * turns.c - requests for the same bytes of a file are served in the order in which they came, where one of them is a write.
 *
 * The kernel has the bytes of a write in its pages before anybody here has heard of them, and may drop such a page while the write is
 * on its way. A read of that page which overtook the write would bring the old bytes back, and they would stay: a store through a
 * mapping would then write them over the new ones. (pagecache/fuse/ordering.py tells the same of pyfuse3's loop.) So:
 *
 *   one worker       where the kernel keeps pages: requests are looked at in the order in which they come (session.c)
 *   a turn           a write that was asked of a handler, until its call is over
 *   held             what touches the bytes of an earlier turn; it is no hit either
 *
 * With direct I/O nobody keeps what such a read finds: no turns, and many workers.
 *
 * All is under `lock`, but for the number of turns, which the worker may look at: it alone adds to it.
 */
#include "state.h"

static bool touches(const struct slot *turn, u64 number, u64 start, u64 end)
{
	u64 turn_end = turn->asked.offset + turn->asked.size;
	return turn->asked.number == number && turn->asked.offset < end && start < turn_end;
}

/* Whether bytes [start, end) have an earlier turn. @order: of who asks. */
static bool has_turn_before(const struct pc_loop *l, u64 number, u64 start, u64 end, u64 order)
{
	for (const struct slot *t = l->turns; t && t->order < order; t = t->next_turn)
		if (touches(t, number, start, end))
			return true;
	return false;
}

/* Whether a read or write that is being looked at has to wait. Context: the worker, no lock. */
bool pc_turn_before(struct pc_loop *l, u64 number, u64 start, u64 end)
{
	if (!atomic_load_explicit(&l->nr_turns, memory_order_acquire))
		return false;
	pthread_mutex_lock(&l->lock);
	bool before = has_turn_before(l, number, start, end, UINT64_MAX);
	pthread_mutex_unlock(&l->lock);
	return before;
}

/* A request is about to be queued: a write takes its turn. Return: whether it is held instead, until pc_turn_end(). */
bool pc_turn_begin(struct pc_loop *l, struct slot *s)
{
	u64 start = s->asked.offset, end = start + s->asked.size;
	if (l->options.direct_io || (s->asked.op != PC_ASK_READ && s->asked.op != PC_ASK_WRITE))
		return false;
	s->order = ++l->last_order;
	bool before = has_turn_before(l, s->asked.number, start, end, s->order);
	if (s->asked.op == PC_ASK_WRITE) {
		struct slot **at = &l->turns;
		while (*at)
			at = &(*at)->next_turn;
		s->turn = 1;
		s->next_turn = NULL;
		*at = s;
		atomic_fetch_add(&l->nr_turns, 1);
	}
	if (before) {
		struct slot **at = &l->held;
		while (*at)
			at = &(*at)->next;
		s->state = SLOT_HELD;
		s->next = NULL;
		*at = s;
	}
	return before;
}

/* The call of a request is over. Return: those that were held for it and no other, linked by `next`, in their order. */
struct slot *pc_turn_end(struct pc_loop *l, struct slot *s)
{
	struct slot *free = NULL, **last = &free;
	if (!s->turn)
		return NULL;
	struct slot **at = &l->turns;
	while (*at != s)
		at = &(*at)->next_turn;
	*at = s->next_turn;
	s->turn = 0;
	atomic_fetch_sub(&l->nr_turns, 1);
	for (at = &l->held; *at;) {
		struct slot *h = *at;
		u64 end = h->asked.offset + h->asked.size;
		if (has_turn_before(l, h->asked.number, h->asked.offset, end, h->order)) {
			at = &h->next;
			continue;
		}
		*at = h->next;
		h->next = NULL;
		*last = h;
		last = &h->next;
	}
	return free;
}
