/*
 * scheduler.h - the calls that replace those of the system in a thread with simulated threads (types/simulated.c).
 *
 * The deterministic scheduler of the stress tester plays all threads of a cache in one thread of the system. CORE sleeps, wakes,
 * yields and reads the clock through this table, and calls it at its points. A thread without simulated threads has no table. It
 * checks for one when it sleeps, wakes or reads the clock; only debug builds check at points.
 */
#ifndef PC_SCHEDULER_H
#define PC_SCHEDULER_H

#include "base/words.h"

struct pc_scheduler {
	int (*wait)(_Atomic u32 *word, i64 timeout_ns); /* 0 woken, -ETIMEDOUT */
	void (*wake)(_Atomic u32 *word, int n);
	void (*yield)(void); /* another thread runs first */
	void (*point)(const char *point);
	void (*gil_released)(void); /* the interpreter lock was let go */
	void (*gil_wanted)(void);   /* it is about to be taken back */
	/* It may change hands: CORE is about to begin, and has done nothing yet. */
	void (*gil_point)(const char *point);
	i64 (*now_ns)(void);
	u64 (*thread)(void);
};

extern _Thread_local const struct pc_scheduler *pc_scheduler;

#endif
