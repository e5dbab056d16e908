/*
 * watch.c - events of CORE for waiters that cannot sleep: tasks of event loops.
 *
 * A thread sleeps on the word of an event; a loop sleeps in select, on an eventfd. So a task arms a watch on the event, and
 * the thread that advances the event fires it: the watch goes to the list of its loop, whose eventfd becomes readable. That is
 * level-triggered: a fired watch stays listed and the eventfd readable until the waiter ends its watch. An interrupt
 * that strikes in the loop's callback, or between the callback and the task, therefore loses nothing: the callback comes again.
 *
 *   IDLE ──arm──► ARMED ──event advances──► FIRED ──end──► IDLE        fire(), of a completion: IDLE ──► FIRED
 *
 * No wake-up is lost: arming counts the watch in the event before it looks whether the sequence still stands, the waker advances
 * the sequence before it looks at the count, both sequentially consistent.
 *
 * Lock: one for all watches, innermost of all (level 9): an event may be advanced with any other leaf lock held. Under it
 * nothing but lists change, and one word is written to or read from an eventfd. A forked child starts with no watches.
 */
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"

enum { PC_WATCH_BUCKETS = 64 };

static struct pc_leaf_lock lock;
static struct pc_list watched[PC_WATCH_BUCKETS]; /* armed ones, by the address of their event */

static struct pc_list *bucket_of(const struct pc_event *e)
{
	struct pc_list *l = &watched[((uintptr_t)e >> 3) * 2654435761u >> 7 & (PC_WATCH_BUCKETS - 1)];
	if (!l->next)
		pc_list_init(l);
	return l;
}

int pc_waker_init(struct pc_waker *k)
{
	pc_list_init(&k->fired);
	k->epoch = atomic_load(&pc_fork_epoch);
	k->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return k->fd < 0 ? -errno : 0;
}

/* The caller promises that no watch of it is left. */
void pc_waker_close(struct pc_waker *k)
{
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
}

static bool inherited(const struct pc_waker *k)
{
	return k->epoch != atomic_load_explicit(&pc_fork_epoch, memory_order_relaxed);
}

/* Up to n watches that have fired and are not ended, oldest first. They stay listed. Return: how many. */
size_t pc_waker_fired(struct pc_waker *k, struct pc_watch **out, size_t n)
{
	size_t found = 0;
	if (inherited(k))
		return 0;
	pc_leaf_lock(&lock, PC_LEVEL_WATCH);
	for (struct pc_list *l = k->fired.next; l != &k->fired && found < n; l = l->next)
		out[found++] = PC_ENTRY(l, struct pc_watch, link);
	pc_leaf_unlock(&lock, PC_LEVEL_WATCH);
	return found;
}

void pc_watch_init(struct pc_watch *w, struct pc_waker *k)
{
	*w = (struct pc_watch){.waker = k, .state = PC_WATCH_IDLE};
	pc_list_init(&w->link);
}

/* Context: the lock. */
static void fire(struct pc_watch *w)
{
	u64 one = 1;
	struct pc_waker *k = w->waker;
	if (w->state == PC_WATCH_ARMED)
		atomic_fetch_sub(&w->event->watched, 1);
	pc_list_del(&w->link);
	bool first = pc_list_empty(&k->fired);
	pc_list_add_tail(&k->fired, &w->link);
	w->state = PC_WATCH_FIRED;
	if (first && write(k->fd, &one, sizeof(one)) < 0)
		PC_ASSERT(errno == EAGAIN); /* readable already */
}

/* Fire when the event advances beyond `seq`, at once if it has. */
void pc_watch_arm(struct pc_watch *w, struct pc_event *e, u32 seq)
{
	if (inherited(w->waker))
		return;
	pc_leaf_lock(&lock, PC_LEVEL_WATCH);
	PC_ASSERT(w->state == PC_WATCH_IDLE);
	w->event = e;
	w->state = PC_WATCH_ARMED;
	pc_list_add_tail(bucket_of(e), &w->link);
	atomic_fetch_add(&e->watched, 1);
	PC_SYNC("watch_armed_before_check");
	if (atomic_load(&e->seq) != seq)
		fire(w);
	pc_leaf_unlock(&lock, PC_LEVEL_WATCH);
}

/* The watched condition holds, whichever it is. */
void pc_watch_fire(struct pc_watch *w)
{
	if (inherited(w->waker))
		return;
	pc_leaf_lock(&lock, PC_LEVEL_WATCH);
	if (w->state != PC_WATCH_FIRED)
		fire(w);
	pc_leaf_unlock(&lock, PC_LEVEL_WATCH);
}

/* The waiter goes on, or gives up. Idempotent. */
void pc_watch_end(struct pc_watch *w)
{
	u64 count;
	if (!w->waker || inherited(w->waker))
		return;
	pc_leaf_lock(&lock, PC_LEVEL_WATCH);
	if (w->state == PC_WATCH_ARMED)
		atomic_fetch_sub(&w->event->watched, 1);
	bool was_fired = w->state == PC_WATCH_FIRED;
	pc_list_del(&w->link);
	w->state = PC_WATCH_IDLE;
	if (was_fired && pc_list_empty(&w->waker->fired) && read(w->waker->fd, &count, sizeof(count)) < 0)
		PC_ASSERT(errno == EAGAIN);
	pc_leaf_unlock(&lock, PC_LEVEL_WATCH);
}

/* The event advanced, and it is watched. Context: any leaf lock but ours. */
void pc_watch_notify(struct pc_event *e)
{
	pc_leaf_lock(&lock, PC_LEVEL_WATCH);
	struct pc_list *head = bucket_of(e), *next;
	for (struct pc_list *l = head->next; l != head; l = next) {
		next = l->next;
		if (PC_ENTRY(l, struct pc_watch, link)->event == e)
			fire(PC_ENTRY(l, struct pc_watch, link));
	}
	pc_leaf_unlock(&lock, PC_LEVEL_WATCH);
}

/* In the child: the watches are the parent's, and the lock may have been held. Their owners find out by the epoch. */
void pc_watch_forked(void)
{
	atomic_store(&lock.word, 0);
	memset(watched, 0, sizeof(watched));
}
