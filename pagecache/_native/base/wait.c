/*
 * wait.c - leaf locks, events and the only sleeps.
 *
 * A leaf lock spins a little and then sleeps on its word. An event is a sequence number. A waiter announces itself, reads
 * the sequence, checks its condition and sleeps only while the sequence is unchanged. A thread that changes the condition
 * advances the sequence first and then wakes announced waiters. Both sides pass a full fence between their store and their
 * load (sequentially consistent operations on `seq` and `waiters`), so no wake-up is lost.
 *
 * Called with no leaf lock held. Sleeping happens without the GIL, in slices that the caller chooses.
 */
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

_Atomic u32 pc_fork_epoch;

void pc_forked(void)
{
	atomic_fetch_add(&pc_fork_epoch, 1);
}

void pc_fail_assert(const char *file, int line, const char *text)
{
	fprintf(stderr, "pagecache: %s:%d: assertion failed: %s\n", file, line, text);
	fflush(stderr);
	abort();
}

#ifdef PC_SCHEDULED
enum { SPINS = 0 }; /* no other thread runs */

static int futex_wait(_Atomic u32 *word, u32 value, i64 timeout_ns)
{
	return schedule_wait(word, value, timeout_ns);
}

void pc_futex_wake(_Atomic u32 *word, int n)
{
	schedule_wake(word, n);
}

void pc_yield(void)
{
	schedule_yield();
}

void pc_pause(u32 tries)
{
	schedule_yield();
}
#else
enum { SPINS = 100, YIELDS = 100, NAP_US = 50 };

static int futex_wait(_Atomic u32 *word, u32 value, i64 timeout_ns)
{
	struct timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
	if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &ts, NULL, 0) == 0)
		return 0;
	return errno == EINTR ? -EINTR : errno == ETIMEDOUT ? -ETIMEDOUT : 0;
}

void pc_futex_wake(_Atomic u32 *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Let another thread run: the holder of a lock is about to release it, without a wake-up. */
void pc_yield(void)
{
	sched_yield();
}

/* The same after so many tries. A yield runs no thread of a lower priority, which the holder may be; a sleep does. */
void pc_pause(u32 tries)
{
	if (tries < YIELDS)
		pc_yield();
	else
		usleep(NAP_US);
}
#endif

/* Return: 0 woken or the value differed, -EINTR, -ETIMEDOUT. */
int pc_futex_wait(_Atomic u32 *word, u32 value, i64 timeout_ns)
{
	pc_debug_unlocked("futex wait");
	return futex_wait(word, value, timeout_ns);
}

void pc_leaf_lock_slow(struct pc_leaf_lock *l)
{
	for (int spin = 0; spin < SPINS; spin++) {
		u32 free_word = 0;
		if (atomic_load_explicit(&l->word, memory_order_relaxed) == 0 &&
		    atomic_compare_exchange_weak_explicit(&l->word, &free_word, 1, memory_order_acquire,
							  memory_order_relaxed))
			return;
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#endif
	}
	while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
		futex_wait(&l->word, 2, -1);
}

static void event_wake(struct pc_event *e, int n)
{
	atomic_fetch_add(&e->seq, 1);
	PC_POINT("event_advanced");
	if (atomic_load(&e->waiters))
		pc_futex_wake(&e->seq, n);
}

void pc_event_wake(struct pc_event *e)
{
	event_wake(e, INT_MAX);
}

/* Like pc_event_wake(), for an event whose waiters all do the same: one of them does what there is to do. */
void pc_event_wake_one(struct pc_event *e)
{
	event_wake(e, 1);
}

#ifdef PC_DEBUG
/*
 * Debug builds: the leaf levels a thread holds, and named points at which a test can hold a thread.
 */
#include <pthread.h>

#ifdef PC_SCHEDULED
#define held schedule_held() /* of the simulated thread */
#else
static _Thread_local u32 held[16];
#endif

void pc_debug_lock(int level)
{
	for (int l = level + 1; l < 16; l++)
		if (held[l])
			pc_fail_assert(__FILE__, __LINE__, "lock order (I-15): an inner lock is held");
	held[level]++;
}

void pc_debug_trylock(int level)
{
	held[level]++;
}

void pc_debug_unlock(int level)
{
	PC_ASSERT(held[level] > 0);
	held[level]--;
}

void pc_debug_unlocked(const char *where)
{
	for (int l = 0; l < 16; l++)
		if (held[l]) {
			fprintf(stderr, "pagecache: %s with a leaf lock of level %d held\n", where, l);
			pc_fail_assert(__FILE__, __LINE__, "no leaf lock held (I-15)");
		}
}

enum { PC_SYNC_POINTS = 16 };
struct sync_point {
	char name[32];
	u32 skip;
	bool armed, arrived, released;
};
static struct sync_point sync_points[PC_SYNC_POINTS];
static pthread_mutex_t sync_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sync_cond = PTHREAD_COND_INITIALIZER;
static _Atomic u32 sync_armed;

static struct sync_point *sync_find(const char *name)
{
	for (int k = 0; k < PC_SYNC_POINTS; k++)
		if (sync_points[k].armed && strcmp(sync_points[k].name, name) == 0)
			return &sync_points[k];
	return NULL;
}

void pc_sync_reached(const char *point)
{
	if (!atomic_load_explicit(&sync_armed, memory_order_relaxed))
		return;
	pthread_mutex_lock(&sync_mutex);
	struct sync_point *s = sync_find(point);
	if (s && s->skip) {
		s->skip--;
	} else if (s && !s->arrived) {
		s->arrived = true;
		pthread_cond_broadcast(&sync_cond);
		while (!s->released)
			pthread_cond_wait(&sync_cond, &sync_mutex);
		s->armed = false;
		atomic_fetch_sub(&sync_armed, 1);
	}
	pthread_mutex_unlock(&sync_mutex);
}

void pc_sync_arm(const char *point, uint32_t skip)
{
	pthread_mutex_lock(&sync_mutex);
	for (int k = 0; k < PC_SYNC_POINTS; k++)
		if (!sync_points[k].armed) {
			sync_points[k] = (struct sync_point){.skip = skip, .armed = true};
			snprintf(sync_points[k].name, sizeof(sync_points[k].name), "%s", point);
			atomic_fetch_add(&sync_armed, 1);
			break;
		}
	pthread_mutex_unlock(&sync_mutex);
}

bool pc_sync_arrived(const char *point)
{
	pthread_mutex_lock(&sync_mutex);
	struct sync_point *s = sync_find(point);
	bool arrived = s && s->arrived;
	pthread_mutex_unlock(&sync_mutex);
	return arrived;
}

void pc_sync_release(const char *point)
{
	pthread_mutex_lock(&sync_mutex);
	struct sync_point *s = sync_find(point);
	if (s && s->arrived) {
		s->released = true;
		pthread_cond_broadcast(&sync_cond);
	} else if (s) {
		s->armed = false;
		atomic_fetch_sub(&sync_armed, 1);
	}
	pthread_mutex_unlock(&sync_mutex);
}
#endif
