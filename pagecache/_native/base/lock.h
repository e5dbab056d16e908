/*
 * lock.h - leaf locks, events and places in fair queues (wait.c, lock.c). The table of all locks is in internal.h.
 */
#ifndef PC_LOCK_H
#define PC_LOCK_H

#include "base/base.h"
#include "base/list.h"

struct pc_cache;
struct pc_inode;

/* ---------------------------------------------------------------- leaf locks */

enum { PC_LEVEL_INODE = 6, PC_LEVEL_QUEUE = 7, PC_LEVEL_FRAME = 8, PC_LEVEL_WATCH = 9 };

struct pc_leaf_lock {
	_Atomic u32 word; /* 0 free, 1 held, 2 held and somebody sleeps */
};

void pc_leaf_lock_slow(struct pc_leaf_lock *l);
void pc_leaf_wake(struct pc_leaf_lock *l);

static inline bool pc_leaf_trylock(struct pc_leaf_lock *l, int level)
{
	u32 free_word = 0;
	(void)level;
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
	(void)level;
	PC_POINT("leaf_lock");
	if (PC_UNLIKELY(!atomic_compare_exchange_strong_explicit(&l->word, &free_word, 1, memory_order_acquire,
								 memory_order_relaxed)))
		pc_leaf_lock_slow(l);
	pc_debug_lock(level);
}

static inline void pc_leaf_unlock(struct pc_leaf_lock *l, int level)
{
	(void)level;
	pc_debug_unlock(level);
	if (PC_UNLIKELY(atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2))
		pc_leaf_wake(l);
}

/* ---------------------------------------------------------------- events */

/* An eventcount: a waiter reads `seq`, looks at its condition, and sleeps only while `seq` stands. */
struct pc_event {
	_Atomic u32 seq;
	_Atomic u32 waiters; /* threads that sleep */
	_Atomic u32 watched; /* watches of event loops (watch.c) */
};

extern _Atomic u32 pc_fork_epoch;

void pc_event_wake(struct pc_event *e);
void pc_watch_notify(struct pc_event *e);
struct pc_event *pc_folio_event(struct pc_cache *c, u32 folio);
int pc_futex_wait(_Atomic u32 *word, u32 value, i64 timeout_ns);
void pc_futex_wake(_Atomic u32 *word, int n);
void pc_yield(void);

/* ---------------------------------------------------------------- inode lock, token */

/* A place in a fair queue (inode lock, token). In the operation of the waiting call, or embedded in the inode for work that
 * belongs to the volume. */
struct pc_waiter {
	struct pc_list link;
	_Atomic u32 word; /* PC_WAITING, PC_GRANTED */
	u8 mode;          /* PC_SHARED, PC_EXCLUSIVE; for the token: enum pc_token */
};
enum { PC_WAITING = 0, PC_GRANTED = 1 };
enum { PC_SHARED = 1, PC_EXCLUSIVE = 2 };
/* STRAY: the caller has left, his backend call still runs. */
enum pc_token { PC_TOKEN_FREE, PC_TOKEN_PASS, PC_TOKEN_COMMIT, PC_TOKEN_CALLER, PC_TOKEN_STRAY };

bool pc_inode_lock_try(struct pc_inode *i, int mode);
void pc_inode_lock_enqueue(struct pc_inode *i, struct pc_waiter *w, int mode);
bool pc_inode_lock_cancel(struct pc_inode *i, struct pc_waiter *w);
void pc_inode_lock_release(struct pc_inode *i, int mode);
bool pc_inode_is_locked(const struct pc_inode *i);
bool pc_token_take(struct pc_inode *i, struct pc_waiter *w, int kind);
bool pc_token_cancel(struct pc_inode *i, struct pc_waiter *w);
void pc_token_release_locked(struct pc_inode *i);
void pc_token_release(struct pc_inode *i);

#endif
