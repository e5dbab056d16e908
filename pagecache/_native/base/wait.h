/*
 * wait.h - leaf locks, events and the only sleeps (wait.c). The table of all locks is in docs/architecture.md.
 */
#ifndef PC_WAIT_H
#define PC_WAIT_H

#include "base/words.h"

/* ---------------------------------------------------------------- leaf locks */

enum { PC_LEVEL_INODE = 6, PC_LEVEL_QUEUE = 7, PC_LEVEL_FRAME = 8 };

struct pc_leaf_lock {
	_Atomic u32 word; /* 0 free, 1 held, 2 held and a thread sleeps */
};

void pc_leaf_lock_slow(struct pc_leaf_lock *l);
void pc_futex_wake(_Atomic u32 *word, int n);

static inline bool pc_leaf_trylock(struct pc_leaf_lock *l, int level)
{
	u32 free_word = 0;
	PC_POINT("leaf_trylock");
	if (!atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
						     memory_order_relaxed))
		return false;
	pc_debug_trylock(level); /* out of order is allowed: it cannot wait */
	return true;
}

static inline void pc_leaf_lock(struct pc_leaf_lock *l, int level)
{
	u32 free_word = 0;
	PC_POINT("leaf_lock");
	if (PC_UNLIKELY(!atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
								 memory_order_relaxed)))
		pc_leaf_lock_slow(l);
	pc_debug_lock(level);
}

static inline void pc_leaf_unlock(struct pc_leaf_lock *l, int level)
{
	pc_debug_unlock(level);
	if (PC_UNLIKELY(atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2))
		pc_futex_wake(&l->word, 1);
}

/* ---------------------------------------------------------------- events */

/* An eventcount: a waiter reads `seq`, looks at its condition, and sleeps only while `seq` stands. */
struct pc_event {
	_Atomic u32 seq;
	_Atomic u32 waiters; /* threads that sleep */
};

extern _Atomic u32 pc_fork_epoch;

void pc_event_wake(struct pc_event *e);
void pc_event_wake_one(struct pc_event *e);
int pc_futex_wait(_Atomic u32 *word, u32 value, i64 timeout_ns);
void pc_yield(void);
void pc_pause(u32 tries);

#endif
