/*
 * schedule.c - the scheduler: which thread runs, which ones wait, how choices are drawn and recorded.
 *
 * A choice is named by its thread and the number of points that thread had passed, not by a global step. So a record
 * with some choices left out still means the same places for all threads that ran identically up to there. Shrinking
 * needs this, and therefore each thread has a separate random sequence.
 *
 * Futexes behave as in Linux: a waiter sleeps if the word has the value, and wakes when a thread wakes the word, not
 * when the word changes. So a lost wake-up leaves a waiter that no thread wakes: when no thread can run, the schedule
 * has failed.
 */
#include "schedule.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fiber.h"

/* STREAK: points in a row after which a thread yields whatever its priority, for it may spin while it waits for
 * another one. A wait of AGES or longer is a hang if nothing else ends it. */
enum { STREAK = 3000, CHANGES = 16, SHOWN = 40 };
static const uint64_t AGES = 10000000000ull;

struct thread {
	struct fiber fiber;
	const char *name, *where;
	void (*body)(void *);
	void *arg;
	uint64_t random;
	uint32_t points;
	int priority;
	const _Atomic uint32_t *word; /* waits for it; NULL: runs, or is done */
	uint64_t deadline, order;
	bool timed_out, done;
	uint32_t held[16];
	uint32_t cursor; /* RECORD: next choice of this thread, in the plan */
};

static struct thread threads[SCHEDULE_THREADS];
static struct fiber host;
static struct thread *current; /* NULL: the host */
static uint32_t nr_threads, alive, runnable, host_held[16];
static struct schedule_plan plan;
static struct schedule_log *record;
static uint64_t draws, host_random, now_ns, waits, streak, steps;
static uint32_t switch_below; /* WALK: of 1024 */
static uint64_t changes[CHANGES];
static int lowest;
static const char *(*describe_word)(const void *);
static const struct fiber *came_from;

/* ---------------------------------------------------------------- random numbers */

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = a + (b + 1) * 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	x ^= x >> 31;
	return x ? x : 1;
}

uint64_t schedule_draw(uint64_t n)
{
	return (next_random(current ? &current->random : &host_random) >> 16) % n;
}

uint64_t schedule_now_ns(void)
{
	return now_ns;
}

uint32_t *schedule_held(void)
{
	return current ? current->held : host_held;
}

/* ---------------------------------------------------------------- failures */

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	size_t used = strlen(record->reason);
	va_list args;
	va_start(args, format);
	vsnprintf(record->reason + used, sizeof(record->reason) - used, format, args);
	va_end(args);
}

static void fail(const char *why)
{
	say("%s\n", why);
	for (uint32_t k = 0; k < nr_threads; k++) {
		const struct thread *t = &threads[k];
		if (t->done)
			continue;
		say("  %s, at %s", t->name, t->where);
		if (t->word)
			say(", waits for %s", describe_word ? describe_word((const void *)t->word) : "a word");
		say("\n");
	}
	abort();
}

/* ---------------------------------------------------------------- the next thread */

/* In the order of the threads, starting behind `id`. */
static uint32_t next_in_turn(uint32_t id)
{
	uint32_t behind = runnable & ~((2u << id) - 1);
	return (uint32_t)__builtin_ctz(behind ? behind : runnable);
}

static uint32_t any_but(uint32_t id)
{
	uint32_t others = runnable & ~(1u << id), n;
	if (!others)
		return id;
	n = (uint32_t)(next_random(&draws) >> 16) % (uint32_t)__builtin_popcount(others);
	while (n--)
		others &= others - 1;
	return (uint32_t)__builtin_ctz(others);
}

static uint32_t most_urgent(void)
{
	uint32_t best = (uint32_t)__builtin_ctz(runnable);
	for (uint32_t left = runnable & (runnable - 1); left; left &= left - 1)
		if (threads[__builtin_ctz(left)].priority > threads[best].priority)
			best = (uint32_t)__builtin_ctz(left);
	return best;
}

static uint32_t recorded(struct thread *t, uint32_t id, uint32_t otherwise)
{
	const struct schedule_choice *all = plan.choices;
	while (t->cursor < plan.nr_choices && (all[t->cursor].from != id || all[t->cursor].at < t->points))
		t->cursor++;
	if (t->cursor == plan.nr_choices || all[t->cursor].at != t->points)
		return otherwise;
	uint32_t to = all[t->cursor++].to;
	return runnable >> to & 1 ? to : otherwise;
}

/* @stays: whether `t` could go on. */
static uint32_t choose(struct thread *t, uint32_t id, bool stays, uint32_t otherwise)
{
	if (plan.policy == SCHEDULE_RECORD)
		return recorded(t, id, otherwise);
	if (plan.policy == SCHEDULE_PCT) {
		for (uint32_t k = 0; k < plan.changes; k++)
			if (changes[k] <= steps) {
				changes[k] = UINT64_MAX;
				t->priority = --lowest;
			}
		return most_urgent();
	}
	if (stays && (next_random(&draws) >> 20 & 1023) >= switch_below)
		return id;
	return any_but(id);
}

static void go_to(struct thread *t, uint32_t to)
{
	struct thread *next = &threads[to];
	if (next == t)
		return;
	record->switches++;
	streak = 0;
	current = next;
	came_from = &t->fiber;
	fiber_switch(&t->fiber, &next->fiber, t->done);
	fiber_arrived(&t->fiber, came_from);
}

/* Decide at a point of `t` where another thread may run. */
static void decide(struct thread *t, bool stays)
{
	uint32_t id = (uint32_t)(t - threads);
	if (++steps > SCHEDULE_STEPS)
		fail("it does not end");
	t->points++;
	if (runnable == 1u << id)
		return;
	if (stays && ++streak > STREAK) { /* regardless of the policy, because a record must do it too */
		stays = false;
		t->priority = --lowest;
	}
	uint32_t otherwise = stays ? id : next_in_turn(id), to = choose(t, id, stays, otherwise);
	if (to != otherwise && record->nr_choices < SCHEDULE_CHOICES)
		record->choices[record->nr_choices++] = (struct schedule_choice){
			.at = t->points, .from = (uint8_t)id, .to = (uint8_t)to, .point = t->where};
	go_to(t, to);
}

void schedule_point(const char *point)
{
	struct thread *t = current;
	if (!t)
		return;
	t->where = point;
	decide(t, true);
}

void schedule_yield(void)
{
	struct thread *t = current;
	if (!t)
		return;
	t->where = "yield";
	t->priority = --lowest;
	decide(t, false);
}

/* ---------------------------------------------------------------- waits */

static void make_runnable(struct thread *t, bool timed_out)
{
	t->word = NULL;
	t->timed_out = timed_out;
	runnable |= 1u << (t - threads);
}

/* No thread can run: advance to the next deadline. */
static void pass_time(void)
{
	uint64_t next = UINT64_MAX;
	for (uint32_t k = 0; k < nr_threads; k++)
		if (threads[k].word && threads[k].deadline < next)
			next = threads[k].deadline;
	if (next == UINT64_MAX)
		fail("no thread can run");
	now_ns = next;
	for (uint32_t k = 0; k < nr_threads; k++)
		if (threads[k].word && threads[k].deadline <= next)
			make_runnable(&threads[k], true);
}

int schedule_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns)
{
	struct thread *t = current;
	if (!t) {
		if (atomic_load(word) != value)
			return 0;
		fail("the host would have to wait: a thread left a lock taken");
	}
	schedule_point("before_sleep");
	if (atomic_load(word) != value)
		return 0;
	t->where = "asleep";
	t->word = word;
	t->order = ++waits;
	t->deadline = timeout_ns < 0 || (uint64_t)timeout_ns >= AGES ? UINT64_MAX : now_ns + (uint64_t)timeout_ns;
	runnable &= ~(1u << (t - threads));
	if (!runnable)
		pass_time();
	decide(t, false);
	return t->timed_out ? -ETIMEDOUT : 0;
}

void schedule_wake(_Atomic uint32_t *word, int n)
{
	while (n-- > 0) {
		struct thread *first = NULL;
		for (uint32_t k = 0; k < nr_threads; k++)
			if (threads[k].word == word && (!first || threads[k].order < first->order))
				first = &threads[k];
		if (!first)
			return;
		make_runnable(first, false);
	}
}

/* ---------------------------------------------------------------- a schedule */

static void entry(void)
{
	struct thread *t = current;
	fiber_arrived(&t->fiber, came_from);
	schedule_point("start");
	t->body(t->arg);
	t->done = true;
	t->where = "done";
	runnable &= ~(1u << (t - threads));
	if (--alive == 0) {
		current = NULL;
		came_from = &t->fiber;
		fiber_switch(&t->fiber, &host, 1);
	}
	if (!runnable)
		pass_time();
	decide(t, false);
	abort(); /* it is done */
}

void schedule_begin(const struct schedule_plan *p, struct schedule_log *log)
{
	plan = *p;
	record = log;
	log->nr_choices = 0;
	log->steps = log->switches = 0;
	log->reason[0] = 0;
	nr_threads = alive = runnable = 0;
	now_ns = waits = streak = steps = 0;
	lowest = 0;
	draws = mix(p->seed, 1);
	host_random = mix(p->seed, 2);
	switch_below = 1024u >> (1 + next_random(&draws) % 7);
	for (uint32_t k = 0; k < p->changes; k++)
		changes[k] = 1 + next_random(&draws) % p->length;
	memset(host_held, 0, sizeof(host_held));
}

void schedule_add(const char *name, void (*body)(void *), void *arg)
{
	struct thread *t = &threads[nr_threads];
	struct fiber fiber = t->fiber;
	if (nr_threads == SCHEDULE_THREADS)
		abort();
	*t = (struct thread){.fiber = fiber, .name = name, .where = "start", .body = body, .arg = arg};
	t->random = mix(plan.seed, 16 + nr_threads);
	t->priority = 1 + (int)(next_random(&draws) % 1000000);
	fiber_reset(&t->fiber, entry);
	runnable |= 1u << nr_threads++;
	alive++;
}

/* Run until all threads have ended. */
void schedule_run(void)
{
	current = &threads[0];
	came_from = &host;
	fiber_switch(&host, &threads[0].fiber, 0);
	fiber_arrived(&host, came_from);
	record->steps = steps;
}

void schedule_describe(const char *(*what)(const void *word))
{
	describe_word = what;
}

void *schedule_arg(void)
{
	return current ? current->arg : NULL;
}

void schedule_print(const struct schedule_log *log)
{
	for (uint32_t k = 0; k < log->nr_choices && k < SHOWN; k++) {
		const struct schedule_choice *c = &log->choices[k];
		fprintf(stderr, "  %s, at its point %" PRIu32 " (%s): %s goes on\n", threads[c->from].name, c->at,
			c->point, threads[c->to].name);
	}
	if (log->nr_choices > SHOWN)
		fprintf(stderr, "  ... and %u more\n", log->nr_choices - SHOWN);
}
