/*
 * slots.c - the slot of a request: its states, and every transition between them.
 *
 *   free ──> made ──> queued ──> taken ──> free
 *
 *   free → made       pc_slot_new      a request has arrived, from the kernel or from the loop itself
 *   made → queued     pc_submit        a handler may take it once no earlier turn of the same bytes runs (turns.c)
 *   queued → taken    unqueue          a handler makes its call, or skips it if the request was answered early
 *   taken → free      pc_slot_free     the call has ended
 *
 * pc_slot_move() makes and asserts each of them; no other function writes `state`. An answer changes no state: it takes
 * `req` out of the slot. Invariants, which tests/native/fuse/tables.h checks:
 *
 *   busy counts the slots that are not free, saving those of them whose calls save files
 *   the queue has the queued slots, and the free list the free ones
 *   a free slot has no request and no memory
 *   `turns` has the slots with a turn, and each of them is queued or taken
 *
 * Locks: `lock` for all functions except pc_slot_new(), which takes it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

/* Move a slot to its next state. A debug build aborts if that is not @to. */
void pc_slot_move(struct slot *s, enum slot_state to)
{
#ifdef PC_DEBUG
	if (to != (s->state + 1u) % SLOT_STATES) {
		fprintf(stderr, "pagecache: a slot of the loop went from state %d to state %d\n", s->state, (int)to);
		abort();
	}
#endif
	s->state = (u8)to;
}

static struct slot *slot_take(struct pc_loop *l)
{
	struct slot *s = l->free;
	if (s) {
		l->free = s->next;
		return s;
	}
	if (l->nr_slots == PC_SLOTS_MAX)
		return NULL;
	if ((l->nr_slots & (l->nr_slots - 1)) == 0) {
		size_t room = l->nr_slots ? 2ul * l->nr_slots : 1;
		struct slot **slots = realloc(l->slots, room * sizeof(*slots));
		if (!slots)
			return NULL;
		l->slots = slots;
	}
	s = calloc(1, sizeof(*s));
	if (s) {
		s->index = l->nr_slots;
		l->slots[l->nr_slots++] = s;
	}
	return s;
}

/* Let handlers take the request. Lock held. */
void pc_slot_queue(struct pc_loop *l, struct slot *s)
{
	pc_slot_move(s, SLOT_QUEUED);
	s->next = NULL;
	*l->last = s;
	l->last = &s->next;
	pthread_cond_signal(&l->queued);
}

/* End a request. Lock held. */
void pc_slot_free(struct pc_loop *l, struct slot *s)
{
	pc_turn_end(l, s);
	bool last = saves(s) && --l->saving == 0;
	free(s->request.memory);
	s->request.memory = NULL;
	s->req = NULL;
	pc_slot_move(s, SLOT_FREE);
	s->generation++;
	s->next = l->free;
	l->free = s;
	if (--l->busy == 0 || last)
		pthread_cond_broadcast(&l->sent);
}

/* Lock held. Return: the slot; NULL: the request no longer exists. */
struct slot *pc_slot_of(struct pc_loop *l, u64 token)
{
	u64 index = token & UINT32_MAX;
	struct slot *s = index < l->nr_slots ? l->slots[index] : NULL;
	return s && s->state != SLOT_FREE && s->generation == (u32)(token >> 32) ? s : NULL;
}

/* The slot of a request that was queued. Lock held. Return: NULL: none, or a made-up token of a slot that is still
 * being filled. */
struct slot *pc_slot_submitted(struct pc_loop *l, u64 token)
{
	struct slot *s = pc_slot_of(l, token);
	return s && s->state != SLOT_MADE ? s : NULL;
}

/* Until when a handler may answer. */
i64 pc_slot_due(const struct pc_loop *l, const struct slot *s)
{
	return s->req && l->options.timeout_ns ? s->request.arrived_ns + l->options.timeout_ns : INT64_MAX;
}

/* Copy the request's data, which libfuse frees when this call returns. Return: 0, -ENOMEM. */
static int keep(struct pc_fuse_request *a)
{
	struct worker *w = pc_worker;
	size_t n = a->name ? strlen(a->name) + 1 : 0, n2 = a->name2 ? strlen(a->name2) + 1 : 0;
	size_t nd = a->data ? a->size : 0;
	if (nd >= PC_STEAL_MIN && w && !n) {
		a->memory = w->buf.mem; /* libfuse allocates another one */
		w->buf.mem = NULL;
		return 0;
	}
	if (!(n + n2 + nd))
		return 0;
	char *memory = a->memory = malloc(n + n2 + nd);
	if (!memory)
		return -ENOMEM;
	if (n)
		a->name = memcpy(memory, a->name, n);
	if (n2)
		a->name2 = memcpy(memory + n, a->name2, n2);
	if (nd)
		a->data = memcpy(memory + n + n2, a->data, nd);
	return 0;
}

/* Allocate a slot for a request; the caller passes it to pc_submit(). @req: NULL: it needs no answer. Return: NULL: no
 * memory, or the loop has ended; the request is answered then. */
struct slot *pc_slot_new(struct pc_loop *l, fuse_req_t req, struct pc_fuse_request request)
{
	request.arrived_ns = now_ns(CLOCK_MONOTONIC);
	if (req) {
		const struct fuse_ctx *caller = fuse_req_ctx(req);
		request.thread = (u32)caller->pid;
		request.uid = caller->uid;
		request.gid = caller->gid;
	}
	int err = keep(&request);
	pthread_mutex_lock(&l->lock);
	struct slot *s = err || l->closed ? NULL : slot_take(l);
	if (s) {
		u32 generation = s->generation, index = s->index;
		l->busy++;
		*s = (struct slot){.generation = generation, .index = index, .req = req, .request = request};
		l->saving += saves(s);
		pc_slot_move(s, SLOT_MADE);
		s->request.token = (u64)generation << 32 | index;
		s->due_ns = pc_slot_due(l, s);
		s->look_ns = INT64_MAX;
	}
	pthread_mutex_unlock(&l->lock);
	if (!s) {
		free(request.memory);
		if (req)
			fuse_reply_err(req, ENOMEM);
	}
	return s;
}
