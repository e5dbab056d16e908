/* Watches: the wait objects of event loops. Fired once and listed until ended, and no wake-up is lost [T-56]. */
#include <poll.h>

#include "rig.h"

static struct pc_waker waker;
static struct pc_event event;

static bool readable(const struct pc_waker *k)
{
	struct pollfd p = {.fd = k->fd, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

static size_t fired(struct pc_waker *k)
{
	struct pc_watch *found[16];
	return pc_waker_fired(k, found, 16);
}

/* ---------------------------------------------------------------- one thread */

static void check_an_event_fires_its_watches_and_nothing_else(void)
{
	struct pc_watch mine, other;
	struct pc_event elsewhere = {0};
	EQUAL(pc_waker_init(&waker), 0);
	pc_watch_init(&mine, &waker);
	pc_watch_init(&other, &waker);
	pc_watch_arm(&mine, &event, atomic_load(&event.seq));
	pc_watch_arm(&other, &elsewhere, 0);
	CHECK(!readable(&waker));
	pc_event_wake(&event);
	CHECK(readable(&waker));
	EQUAL(fired(&waker), 1);
	EQUAL(mine.state, PC_WATCH_FIRED);
	EQUAL(other.state, PC_WATCH_ARMED);
	EQUAL(atomic_load(&event.watched), 0);
	pc_event_wake(&event); /* no watch: nothing happens */
	pc_watch_end(&other);
	pc_watch_end(&mine);
	EQUAL(atomic_load(&elsewhere.watched), 0);
	CHECK(!readable(&waker));
	pc_waker_close(&waker);
}

/* The waker's thread may be interrupted after its check: so checking takes nothing away. */
static void check_a_fired_watch_stays_readable_until_the_waiter_ends_it(void)
{
	struct pc_watch w[3];
	EQUAL(pc_waker_init(&waker), 0);
	for (int k = 0; k < 3; k++) {
		pc_watch_init(&w[k], &waker);
		pc_watch_arm(&w[k], &event, atomic_load(&event.seq));
	}
	pc_event_wake(&event);
	for (int k = 0; k < 3; k++) {
		EQUAL(fired(&waker), 3 - k);
		EQUAL(fired(&waker), 3 - k);
		CHECK(readable(&waker));
		pc_watch_end(&w[k]);
		pc_watch_end(&w[k]);
	}
	CHECK(!readable(&waker));
	pc_waker_close(&waker);
}

static void check_an_event_that_moved_before_fires_at_once(void)
{
	struct pc_watch w;
	EQUAL(pc_waker_init(&waker), 0);
	u32 seq = atomic_load(&event.seq);
	pc_event_wake(&event);
	pc_watch_init(&w, &waker);
	pc_watch_arm(&w, &event, seq);
	EQUAL(w.state, PC_WATCH_FIRED);
	CHECK(readable(&waker));
	pc_watch_end(&w);
	pc_watch_fire(&w); /* a completion: no event */
	pc_watch_fire(&w);
	EQUAL(fired(&waker), 1);
	pc_watch_end(&w);
	CHECK(!readable(&waker));
	pc_waker_close(&waker);
}

/* A child has none of its parent's watches, and reads none of its eventfds. */
static void check_a_child_leaves_the_parents_watches_alone(void)
{
	struct pc_watch w;
	EQUAL(pc_waker_init(&waker), 0);
	pc_watch_init(&w, &waker);
	pc_watch_fire(&w);
	pc_forked();
	EQUAL(fired(&waker), 0);
	pc_watch_end(&w);
	CHECK(readable(&waker));
	pc_waker_close(&waker);
}

/* ---------------------------------------------------------------- threads */

enum { LOOPS = 3, ROUNDS = 4000 };

static _Atomic bool over;

static void *advance(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		pc_event_wake(&event);
		if (draw(8) == 0)
			sched_yield();
	}
	return NULL;
}

/* A loop: check, arm, sleep on the eventfd, end. The event goes on forever, so a sleep that does not end is a lost
 * wake-up. */
static void *read_repeatedly(void *arg)
{
	struct pc_waker own;
	struct pc_watch w;
	(void)arg;
	EQUAL(pc_waker_init(&own), 0);
	for (int k = 0; k < ROUNDS; k++) {
		u32 seq = atomic_load(&event.seq);
		pc_watch_init(&w, &own);
		pc_watch_arm(&w, &event, seq);
		if (k % 3 != 0) {
			struct pollfd p = {.fd = own.fd, .events = POLLIN};
			EQUAL(poll(&p, 1, 20000), 1);
		}
		pc_watch_end(&w);
		CHECK(!readable(&own));
	}
	pc_waker_close(&own);
	return NULL;
}

static void check_no_wake_up_of_a_loop_is_lost(void)
{
	pthread_t wakers[2], loops[LOOPS];
	for (int k = 0; k < 2; k++)
		pthread_create(&wakers[k], NULL, advance, NULL);
	for (int k = 0; k < LOOPS; k++)
		pthread_create(&loops[k], NULL, read_repeatedly, NULL);
	for (int k = 0; k < LOOPS; k++)
		pthread_join(loops[k], NULL);
	atomic_store(&over, true);
	for (int k = 0; k < 2; k++)
		pthread_join(wakers[k], NULL);
	EQUAL(atomic_load(&event.watched), 0);
}

int main(void)
{
	RUN(check_an_event_fires_its_watches_and_nothing_else);
	RUN(check_a_fired_watch_stays_readable_until_the_waiter_ends_it);
	RUN(check_an_event_that_moved_before_fires_at_once);
	RUN(check_no_wake_up_of_a_loop_is_lost);
	RUN(check_a_child_leaves_the_parents_watches_alone);
	return 0;
}
