/*
 * slots.c - the slot of a request: its states, and every transition between them.
 *
 *   free ──> made ──> queued ──> taken ──> free
 *              └────> free
 *
 *   free → made       pc_slot_new      a request has arrived, from the kernel or from the loop itself
 *   made → queued     pc_submit        a handler may take it once no earlier write of the same bytes runs (turns.c)
 *   made → free       pc_submit        there is no memory for its data
 *   queued → taken    unqueue          a handler makes its call, or skips it if the request was answered early
 *   taken → free      pc_slot_free     the call has ended
 *
 * pc_slot_move() makes and asserts each of them; no other function writes `state`. An answer changes no state: it takes
 * `req` out of the slot. Invariants, which pc_slots_check() checks:
 *
 *   busy counts the slots that are not free
 *   the queue has the queued slots, and the free list the free ones
 *   a free slot has no request and no memory
 *   `turns` has the slots with a turn, and each of them is queued or taken
 *
 * Locks: `lock` for all functions except pc_slot_new(), which takes it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "state.h"

#ifdef PC_DEBUG
/* Bits 1 << state of the states that may follow. */
static const u8 following[SLOT_STATES] = {
	[SLOT_FREE] = 1 << SLOT_MADE,
	[SLOT_MADE] = 1 << SLOT_QUEUED | 1 << SLOT_FREE,
	[SLOT_QUEUED] = 1 << SLOT_TAKEN,
	[SLOT_TAKEN] = 1 << SLOT_FREE,
};

static void check_move(const struct slot *s, enum slot_state to)
{
	if (following[s->state] >> to & 1)
		return;
	fprintf(stderr, "pagecache: a slot of the loop went from state %d to state %d\n", s->state, (int)to);
	abort();
}
#else
static void check_move(const struct slot *s, enum slot_state to)
{
}
#endif

/* Change the state of a slot. A debug build aborts on a transition that the table does not have. */
void pc_slot_move(struct slot *s, enum slot_state to)
{
	check_move(s, to);
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
	free(s->request.memory);
	s->request.memory = NULL;
	s->req = NULL;
	pc_slot_move(s, SLOT_FREE);
	s->generation++;
	s->next = l->free;
	l->free = s;
	if (--l->busy == 0)
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
	pthread_mutex_lock(&l->lock);
	struct slot *s = l->closed ? NULL : slot_take(l);
	if (s) {
		u32 generation = s->generation, index = s->index;
		l->busy++;
		*s = (struct slot){.generation = generation, .index = index, .req = req, .request = request};
		pc_slot_move(s, SLOT_MADE);
		s->request.token = (u64)generation << 32 | index;
		s->due_ns = pc_slot_due(l, s);
	}
	pthread_mutex_unlock(&l->lock);
	if (!s && req)
		fuse_reply_err(req, ENOMEM);
	return s;
}

/* ---------------------------------------------------------------- invariants */

static u64 length_of(const struct slot *s, enum slot_state state, const char **wrong)
{
	u64 n = 0;
	for (; s; s = s->next, n++)
		if (s->state != state)
			*wrong = "a slot in a list of another state";
	return n;
}

/* Check slots, lists and turns. Return: NULL; else a description of the mistake. */
const char *pc_slots_check(struct pc_loop *l)
{
	const char *wrong = NULL;
	u64 in_state[SLOT_STATES] = {0}, turns = 0;
	for (u32 k = 0; k < l->nr_slots; k++) {
		const struct slot *s = l->slots[k];
		in_state[s->state]++;
		turns += s->turn;
		if (s->state == SLOT_FREE && (s->req || s->request.memory || s->turn))
			wrong = "a free slot with a request";
	}
	if (l->busy != l->nr_slots - in_state[SLOT_FREE])
		wrong = "number of busy slots";
	if (length_of(l->first, SLOT_QUEUED, &wrong) != in_state[SLOT_QUEUED] ||
	    length_of(l->free, SLOT_FREE, &wrong) != in_state[SLOT_FREE])
		wrong = "lengths of the lists of slots";
	for (const struct slot *t = l->turns; t; t = t->next_turn, turns--)
		if (!t->turn || t->state < SLOT_QUEUED)
			wrong = "a turn of a slot without one";
	if (turns)
		wrong = "number of turns";
	return wrong;
}
