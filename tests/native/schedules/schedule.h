/*
 * schedule.h - simulated threads over the C core: one OS thread, and a seed that decides which one runs next.
 *
 * A simulated thread is a coroutine. The core built with PC_SCHEDULED calls schedule_point() wherever another thread
 * could come in between, and sleeps and wakes through schedule_wait() and schedule_wake(). Outside of schedule_run()
 * all of them do nothing, or are errors: the host prepares and checks a world while no thread runs.
 *
 *   choice   at its n-th point a thread goes on, or another one does; all but "goes on, or the next in turn" is recorded
 *   policy   how choices are drawn: a walk (switch now and then), PCT (priorities, and a few points at which they change;
 *            S. Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding bugs", 2010), or a record
 *
 * Time is virtual: it moves to the next deadline when no thread can run. If there is no deadline either, the schedule
 * has failed, with a list of the threads and their waits. A schedule that never ends has failed too.
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCHEDULE_THREADS = 12, SCHEDULE_CHOICES = 1 << 15, SCHEDULE_STEPS = 200000 };

/* ---- for the core */
void schedule_point(const char *point);
int schedule_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns);
void schedule_wake(_Atomic uint32_t *word, int n);
void schedule_yield(void);
uint32_t *schedule_held(void);

/* ---- for the world */
void schedule_add(const char *name, void (*body)(void *), void *arg);
void schedule_run(void);
uint64_t
schedule_draw(uint64_t n); /* of the running thread, or of the host: drawn from its seed, whichever other threads run */
uint64_t schedule_now_ns(void);
void *schedule_arg(void); /* of the running thread; NULL: the host */

/* ---- for the search */
enum schedule_policy { SCHEDULE_WALK, SCHEDULE_PCT, SCHEDULE_RECORD };

struct schedule_choice {
	uint32_t at; /* points that the thread had passed */
	uint8_t from, to;
	const char *point;
};

struct schedule_log {
	uint32_t nr_choices;
	uint64_t steps, switches;
	char reason[1024]; /* the reason of a failure that the scheduler itself found */
	struct schedule_choice choices[SCHEDULE_CHOICES];
};

struct schedule_plan {
	enum schedule_policy policy;
	uint64_t seed;
	uint32_t changes; /* PCT: d - 1 */
	uint32_t length; /* PCT: approximate number of points of a schedule */
	const struct schedule_choice *choices; /* RECORD */
	uint32_t nr_choices;
};

void schedule_begin(const struct schedule_plan *plan, struct schedule_log *log);
void schedule_describe(const char *(*what)(const void *word)); /* names the word of a wait */
void schedule_print(const struct schedule_log *log);

#endif
