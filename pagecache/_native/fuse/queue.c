/*
 * queue.c - requests that wait for a handler: the queue's two ends, deadlines, interrupts. slots.c has the states of a
 * request's slot.
 *
 * A request is answered by its handler, or early: at its deadline, at the end of the loop, or because its program dies.
 * A token is a slot and its generation, so a late answer never reaches another request. The answering thread takes
 * `req` out of the slot under the lock, so each request is answered once.
 *
 * An interrupt means that a program has received a signal. Programs do not expect EINTR from files, so an interrupt has
 * no effect unless the signal kills the program; then the request ends at once. The kernel does not report later signals,
 * so the program is looked at again every half second. One of another pid namespace has no number here and cannot be
 * looked at: it waits. libfuse reports interrupts with its own locks held, so the clock thread answers.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

enum { LOOK_NS = 500000000 };

/* When the clock thread has to check a slot. */
static i64 check_ns(const struct slot *s)
{
	return s->look_ns < s->due_ns ? s->look_ns : s->due_ns;
}

/* libfuse calls this with the request's lock held: nothing may be answered here. */
static void interrupted(fuse_req_t req, void *data)
{
	struct pc_loop *l = fuse_req_userdata(req);
	pthread_mutex_lock(&l->lock);
	struct slot *s = pc_slot_of(l, (u64)(uintptr_t)data);
	if (s && s->req == req && s->request.thread) {
		s->look_ns = l->due_ns = 0;
		pthread_cond_signal(&l->clock);
	}
	pthread_mutex_unlock(&l->lock);
}

/* Pass the request to the handlers. */
void pc_submit(struct pc_loop *l, struct slot *s)
{
	s->request.tick = pc_change(l, s, 1);
	if (s->req)
		fuse_req_interrupt_func(s->req, interrupted, (void *)(uintptr_t)s->request.token);
	pthread_mutex_lock(&l->lock);
	count(&l->counts.submitted);
	pc_turn_begin(l, s);
	pc_slot_queue(l, s);
	if (check_ns(s) < l->due_ns) { /* an interrupt is missed by the clock thread while the slot is made */
		l->due_ns = check_ns(s);
		pthread_cond_signal(&l->clock);
	}
	pthread_mutex_unlock(&l->lock);
}

/* Queue a request that needs no answer. Return: false: no memory, or the loop has ended; nothing is done. */
bool pc_post(struct pc_loop *l, struct pc_fuse_request request)
{
	struct slot *s = pc_slot_new(l, NULL, request);
	if (s)
		pc_submit(l, s);
	return s != NULL;
}

enum { FORGOTTEN_MIN = 256 };

/* Record that the kernel forgot a node. After rm -r there are many, so one request stands for all. Without memory
 * handlers keep the node. */
void pc_submit_forget(struct pc_loop *l, u64 number, u64 times)
{
	pthread_mutex_lock(&l->lock);
	if (l->nr_forgotten == l->room_forgotten) {
		u64 room = l->room_forgotten ? 2 * l->room_forgotten : FORGOTTEN_MIN;
		struct pc_forgotten *forgotten = realloc(l->forgotten, room * sizeof(*forgotten));
		if (forgotten) {
			l->forgotten = forgotten;
			l->room_forgotten = room;
		}
	}
	if (l->nr_forgotten < l->room_forgotten)
		l->forgotten[l->nr_forgotten++] = (struct pc_forgotten){number, times};
	bool send = !l->forget_queued;
	l->forget_queued = 1;
	pthread_mutex_unlock(&l->lock);
	if (send && !pc_post(l, REQUEST(PC_FUSE_FORGET, 0, PC_NO_FH))) {
		pthread_mutex_lock(&l->lock);
		l->forget_queued = 0; /* the next forget sends another request */
		pthread_mutex_unlock(&l->lock);
	}
}

/* Return nodes that the kernel has forgotten. The handler of PC_FUSE_FORGET calls it until there are none. Return:
 * number of nodes in `out`; 0: the next forget sends another request. */
uint64_t pc_loop_forgotten(struct pc_loop *l, struct pc_forgotten *out, uint64_t n)
{
	pthread_mutex_lock(&l->lock);
	n = n < l->nr_forgotten ? n : l->nr_forgotten;
	l->nr_forgotten -= n;
	if (n)
		memcpy(out, l->forgotten + l->nr_forgotten, n * sizeof(*out));
	else
		l->forget_queued = 0;
	if (!l->nr_forgotten && l->room_forgotten > FORGOTTEN_MIN) {
		free(l->forgotten);
		l->forgotten = NULL;
		l->room_forgotten = 0;
	}
	pthread_mutex_unlock(&l->lock);
	return n;
}

/* ---------------------------------------------------------------- handlers */

/* Register a thread that will wait for requests. Return: false: the loop has stopped. */
bool pc_loop_enter(struct pc_loop *l)
{
	pthread_mutex_lock(&l->lock);
	bool open = !l->stopped;
	l->handlers += open;
	pthread_mutex_unlock(&l->lock);
	return open;
}

/* Undo pc_loop_enter(). */
void pc_loop_leave(struct pc_loop *l, struct pc_fuse_request *request)
{
	free(request->memory);
	request->memory = NULL;
	pthread_mutex_lock(&l->lock);
	l->handlers--;
	pthread_cond_broadcast(&l->sent);
	pthread_mutex_unlock(&l->lock);
}

/* Lock held: the request was answered while it was queued, or the loop has ended, so its call is skipped. Calls that
 * end opens are always made: a release publishes a file that its program has closed. */
static bool needs_no_call(const struct pc_loop *l, const struct slot *s)
{
	u32 op = s->request.op;
	return op != PC_FUSE_RELEASE && op != PC_FUSE_RELEASEDIR && (l->closed || (!s->req && op < PC_FUSE_FORGET));
}

/* The slot's call has ended: it changes nothing from here on. */
static void call_over(struct pc_loop *l, struct slot *s)
{
	if (s->changes)
		pc_change(l, s, -1);
	pthread_mutex_lock(&l->lock);
	pc_slot_free(l, s);
	pthread_mutex_unlock(&l->lock);
}

/* Lock held. Return: the first request in the queue that no earlier turn holds (turns.c); NULL: none. */
static struct slot *unqueue(struct pc_loop *l)
{
	struct slot **at = &l->first, *s;
	while (*at && pc_turn_holds(l, *at))
		at = &(*at)->next;
	s = *at;
	if (s) {
		*at = s->next;
		if (!*at)
			l->last = at;
		pc_slot_move(s, SLOT_TAKEN);
	}
	return s;
}

/* Lock held. Return: the next request for a handler; NULL: the loop has ended, and no release is left. */
static struct slot *take(struct pc_loop *l)
{
	for (;;) {
		struct slot *s = NULL;
		l->idle++;
		while (!(s = unqueue(l)) && !l->closed)
			pthread_cond_wait(&l->queued, &l->lock);
		l->idle--;
		if (!s)
			return NULL;
		if (!needs_no_call(l, s))
			return s;
		pthread_mutex_unlock(&l->lock);
		call_over(l, s);
		pthread_mutex_lock(&l->lock);
	}
}

/* Wait for a request. @request: receives the request; memory of an earlier one is freed. The caller must call
 * pc_loop_done() afterwards. GIL: released. Return: false: the loop has stopped. */
bool pc_loop_next(struct pc_loop *l, struct pc_fuse_request *request)
{
	free(request->memory);
	request->memory = NULL;
	pthread_mutex_lock(&l->lock);
	struct slot *s = take(l);
	if (s) {
		*request = s->request;
		request->idle = l->idle;
		s->request.memory = NULL; /* now owned by the handler */
	}
	pthread_mutex_unlock(&l->lock);
	return s != NULL;
}

/* The handler's call has ended. A request that it did not answer gets EIO. Return: false: there is no such call. */
bool pc_loop_done(struct pc_loop *l, uint64_t token)
{
	pthread_mutex_lock(&l->lock);
	struct slot *s = pc_slot_of(l, token);
	bool taken = s && s->state == SLOT_TAKEN;
	bool silent = taken && s->req;
	pthread_mutex_unlock(&l->lock);
	if (silent)
		pc_reply_error(l, token, EIO);
	if (taken)
		call_over(l, s);
	return taken;
}

/* ---------------------------------------------------------------- answering */

/* Lock held. The session is not freed until the sender leaves. */
static bool sender_enter(struct pc_loop *l)
{
	if (l->closed)
		return false;
	l->senders++;
	return true;
}

bool pc_sender_enter(struct pc_loop *l)
{
	pthread_mutex_lock(&l->lock);
	bool open = sender_enter(l);
	pthread_mutex_unlock(&l->lock);
	return open;
}

void pc_sender_leave(struct pc_loop *l)
{
	pthread_mutex_lock(&l->lock);
	if (--l->senders == 0)
		pthread_cond_broadcast(&l->sent);
	pthread_mutex_unlock(&l->lock);
}

/* Claim the right to answer a request, once. @kinds: bits 1 << PC_FUSE_* of the requests that this kind of answer fits.
 * @copy: receives the slot. Return: the request, and the caller must call pc_answer_end(); NULL: *error is -ENOENT if
 * the request was already answered, -EPROTO if the kind of answer does not fit. */
fuse_req_t pc_answer_begin(struct pc_loop *l, u64 token, u64 kinds, struct slot *copy, int *error)
{
	fuse_req_t req = NULL;
	pthread_mutex_lock(&l->lock);
	struct slot *s = pc_slot_submitted(l, token);
	bool right = s && (kinds >> s->request.op & 1);
	if (right && s->req && sender_enter(l)) {
		*copy = *s;
		req = s->req;
		s->req = NULL;
	}
	pthread_mutex_unlock(&l->lock);
	if (!req) {
		*error = s && !right ? -EPROTO : -ENOENT;
		count(*error == -EPROTO ? &l->counts.refused : &l->counts.late);
	}
	return req;
}

/* Return: 0; -ENOENT: the kernel did not take it. */
int pc_answer_end(struct pc_loop *l, int sent)
{
	pc_sender_leave(l);
	return sent ? -ENOENT : 0;
}

/* ---------------------------------------------------------------- deadlines, interrupts, the end */

/* Whether the thread of a program is about to end. It then has SIGKILL pending, as every thread that a signal ends. */
static bool is_dying(u32 thread)
{
	char path[64], line[256];
	bool dying = false;
	snprintf(path, sizeof(path), "/proc/%u/status", thread);
	FILE *file = fopen(path, "re");
	if (!file) /* it has ended, or /proc hides threads of other users */
		return errno == ENOENT && kill((pid_t)thread, 0) && errno == ESRCH;
	while (!dying && fgets(line, sizeof(line), file)) {
		bool pending = !strncmp(line, "SigPnd:", 7) || !strncmp(line, "ShdPnd:", 7);
		dying = pending && strtoull(line + 7, NULL, 16) >> (9 - 1) & 1;
	}
	fclose(file);
	return dying;
}

/* Lock held. Return: the first request that has to be checked by now. *due: NULL is returned: time of the next check. */
static struct slot *overdue(struct pc_loop *l, i64 now, i64 *due)
{
	*due = INT64_MAX;
	for (u32 k = 0; k < l->nr_slots; k++) {
		struct slot *s = l->slots[k];
		if (s->state < SLOT_QUEUED || !s->req)
			continue;
		if (check_ns(s) <= now)
			return s;
		if (check_ns(s) < *due)
			*due = check_ns(s);
	}
	return NULL;
}

/* Answer a request in place of its handler. */
static void give_up(struct pc_loop *l, u64 token, bool killed)
{
	struct slot s;
	struct stat known;
	double timeout;
	int error;
	fuse_req_t req = pc_answer_begin(l, token, UINT64_MAX, &s, &error);
	if (!req)
		return;
	pc_turn_early(l, token);
	count(killed ? &l->counts.interrupted : &l->counts.expired);
	if (killed)
		fuse_reply_err(req, EINTR);
	else if (s.known && pc_known_attributes(l, s.request.number, true, &known, &timeout)) {
		l->silent_until_ns = now_ns(CLOCK_MONOTONIC) + l->options.silence_ns;
		fuse_reply_attr(req, &known, timeout);
	} else
		fuse_reply_err(req, EIO);
	pc_answer_end(l, 0);
}

/* Answer all requests that are overdue or whose program dies. Lock held, released while answering. */
static void answer_overdue(struct pc_loop *l)
{
	i64 due, now = now_ns(CLOCK_MONOTONIC); /* of all: those that were looked at come again after the others */
	struct slot *s;
	while ((s = overdue(l, now, &due))) {
		u64 token = s->request.token;
		u32 thread = s->request.thread;
		bool looks = s->look_ns <= now;
		if (!looks && s->known &&
		    !pc_known_attributes(l, s->request.number, true, NULL, NULL)) { /* it has been closed since */
			s->known = false;
			s->due_ns = pc_slot_due(l, s);
			continue;
		}
		if (looks)
			s->look_ns = now_ns(CLOCK_MONOTONIC) + LOOK_NS;
		pthread_mutex_unlock(&l->lock);
		if (!looks || is_dying(thread))
			give_up(l, token, looks);
		pthread_mutex_lock(&l->lock);
	}
	l->due_ns = due;
}

void *pc_clock_main(void *loop)
{
	struct pc_loop *l = loop;
	pthread_mutex_lock(&l->lock);
	while (!l->closed) {
		/* Checked before each sleep, the first one too: an interrupt may come before this thread has begun. */
		if (now_ns(CLOCK_MONOTONIC) >= l->due_ns) {
			answer_overdue(l);
		} else if (l->due_ns == INT64_MAX) {
			pthread_cond_wait(&l->clock, &l->lock);
		} else {
			struct timespec until = {l->due_ns / 1000000000, l->due_ns % 1000000000};
			pthread_cond_timedwait(&l->clock, &l->lock, &until);
		}
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* Wait until all requested calls have ended, or those that save files, up to a timeout; also after the stop. GIL:
 * released. Return: whether they have. */
bool pc_loop_drain(struct pc_loop *l, int64_t timeout_ns, bool only_saving)
{
	const u32 *left = only_saving ? &l->saving : &l->busy;
	i64 until_ns = now_ns(CLOCK_MONOTONIC) + timeout_ns;
	struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
	pthread_mutex_lock(&l->lock);
	while (*left && !pthread_cond_timedwait(&l->sent, &l->lock, &until))
		;
	bool over = !*left;
	pthread_mutex_unlock(&l->lock);
	return over;
}

/* End all requests: each one without an answer gets EIO. Workers have ended. */
void pc_requests_end(struct pc_loop *l)
{
	pthread_mutex_lock(&l->lock);
	for (u32 k = 0; k < l->nr_slots; k++) {
		struct slot *s = l->slots[k];
		u64 token = s->request.token;
		bool waits = s->state != SLOT_FREE && s->req;
		pthread_mutex_unlock(&l->lock);
		if (waits)
			pc_reply_error(l, token, EIO);
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
}
