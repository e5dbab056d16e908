/* The fair inode lock, the token, credits: exclusion, order, cancellation. Wake-ups are found lost by schedules. */
#include "rig.h"

static void start(void)
{
	open_one(1 << 20, PAGE, 0, 1 << 20, limits_wide());
}

/* T-23: in the order of arrival, neighbours that share together; no waiter overtakes. */
TEST(check_the_queue_is_served_in_order)
{
	start();
	struct pc_inode *i = file->inode;
	struct pc_waiter s1 = {0}, s2 = {0}, x1 = {0}, s3 = {0}, x2 = {0};
	CHECK(pc_inode_lock_try(i, PC_SHARED) && pc_inode_lock_try(i, PC_SHARED));
	CHECK(!pc_inode_lock_try(i, PC_EXCLUSIVE));
	pc_inode_lock_release(i, PC_SHARED);
	CHECK(!pc_inode_lock_try(i, PC_EXCLUSIVE));
	pc_inode_lock_release(i, PC_SHARED);
	CHECK(pc_inode_lock_try(i, PC_EXCLUSIVE));
	CHECK(!pc_inode_lock_try(i, PC_SHARED) && !pc_inode_lock_try(i, PC_EXCLUSIVE));
	pc_inode_lock_enqueue(i, &s1, PC_SHARED);
	pc_inode_lock_enqueue(i, &s2, PC_SHARED);
	pc_inode_lock_enqueue(i, &x1, PC_EXCLUSIVE);
	pc_inode_lock_enqueue(i, &s3, PC_SHARED);
	pc_inode_lock_enqueue(i, &x2, PC_EXCLUSIVE);
	CHECK(!granted(&s1));
	SOUND(&rig);
	pc_inode_lock_release(i, PC_EXCLUSIVE);
	CHECK(granted(&s1) && granted(&s2) && !granted(&x1) && !granted(&s3));
	CHECK(!pc_inode_lock_try(i, PC_SHARED)); /* an endless stream of readers would starve x1 */
	pc_inode_lock_release(i, PC_SHARED);
	CHECK(!granted(&x1));
	pc_inode_lock_release(i, PC_SHARED);
	CHECK(granted(&x1) && !granted(&s3));
	pc_inode_lock_release(i, PC_EXCLUSIVE);
	CHECK(granted(&s3) && !granted(&x2));
	pc_inode_lock_release(i, PC_SHARED);
	CHECK(granted(&x2));
	pc_inode_lock_release(i, PC_EXCLUSIVE);
	EQUAL(atomic_load(&i->lock_word), 0);
}

TEST(check_giving_up_answers_whether_the_lock_had_come)
{
	start();
	struct pc_inode *i = file->inode;
	struct pc_waiter x = {0}, s = {0};
	CHECK(pc_inode_lock_try(i, PC_SHARED));
	pc_inode_lock_enqueue(i, &x, PC_EXCLUSIVE);
	pc_inode_lock_enqueue(i, &s, PC_SHARED);
	CHECK(!granted(&s));
	CHECK(!pc_waiter_cancel(i, &x)); /* it stood before s, which fits now */
	CHECK(granted(&s));
	CHECK(pc_waiter_cancel(i, &s)); /* too late: the caller has it */
	pc_inode_lock_release(i, PC_SHARED);
	pc_inode_lock_release(i, PC_SHARED);
	pc_inode_lock_enqueue(i, &x, PC_EXCLUSIVE); /* may be granted at once */
	CHECK(granted(&x));
	pc_inode_lock_release(i, PC_EXCLUSIVE);
}

TEST(check_the_token_goes_round_in_order)
{
	start();
	struct pc_waiter a = {0}, b = {0}, c = {0};
	EQUAL(file_write(file, 0, "abc", 3), 0);
	CHECK(queue_for_token(file, &a));
	pc_flush_start(file->inode, ALL, 0, ALL); /* a pass in line */
	CHECK(!queue_for_token(file, &b));
	pc_commit_start(file->inode, 0); /* a commit in line */
	CHECK(!queue_for_token(file, &c));
	CHECK(!pc_waiter_cancel(file->inode, &b));
	CHECK(!work(rig.volume)); /* nothing may run before its turn */
	pc_token_release(file->inode);
	EQUAL(file->inode->token, PC_TOKEN_PASS);
	while (!granted(&c))
		CHECK(work(rig.volume));
	EQUAL(file->store.commits, 1);
	EQUAL(file->store.stable[2], 'c');
	CHECK(pc_waiter_cancel(file->inode, &c)); /* granted: the caller passes it on */
	pc_token_release(file->inode);
	EQUAL(file->inode->token, PC_TOKEN_FREE);
}

static void *borrow_credits(void *arg MAYBE)
{
	struct pc_volume *v = rig.volume;
	for (int k = 0; k < 20000; k++) {
		for (;;) {
			u32 seq = atomic_load(&v->returned.seq);
			if (pc_credit_try(v))
				break;
			wait_event(&v->returned, seq);
		}
		if (k % 16 == 0)
			sched_yield();
		pc_credit_put(v, 1);
	}
	return NULL;
}

TEST(check_no_wake_up_of_a_credit_is_lost)
{
	pthread_t t[4];
	start();
	u32 seq = atomic_load(&rig.volume->returned.seq);
	CHECK(pc_credit_try(rig.volume));
	pc_credit_put(rig.volume, 1);
	CHECK(atomic_load(&rig.volume->returned.seq) != seq); /* a waiter that has read it may not count as one yet */
	pc_volume_set_inflight(rig.volume, 1);
	start_threads(t, 4, borrow_credits);
	join_threads(t, 4);
	EQUAL(pc_volume_inflight(rig.volume), 0);
}

TEST(check_urgent_work_goes_first_and_low_work_leaves_a_credit)
{
	u32 classes[] = {PC_WORK_READAHEAD, PC_WORK_READAHEAD, PC_WORK_FILL};
	struct pc_work w;
	start();
	struct file *f = file_open(&rig, 1 << 20, 1 << 20);
	pc_volume_set_inflight(rig.volume, 2);
	for (u64 k = 0; k < 3; k++)
		pc_fill_submit(begin_fill(f, k * PAGE, PAGE), classes[k]);
	EQUAL(file_write(file, 0, "x", 1), 0);
	CHECK(pc_pass_background(file->inode, PAGE, false));
	pc_job_push(rig.volume, PC_WORK_NAMES);
	next_work(PC_WORK_JOB);
	w = next_work(PC_WORK_REQUEST);
	EQUAL(w.cls, PC_WORK_FILL);
	do_work(rig.volume, &w);
	pc_work_next(rig.volume, &w);
	EQUAL(w.cls, PC_WORK_BACKGROUND);
	next_work(PC_WORK_NONE); /* the last credit is for more urgent work */
	do_work(rig.volume, &w);
	work_all(rig.volume);
	EQUAL(rig.volume->low_running, 0);
	pc_volume_stop(rig.volume);
	next_work(PC_WORK_STOP);
	rig.volume->stopping = 0;
}

static u32 woken(void)
{
	return atomic_load(&rig.volume->workers.seq);
}

/* A caller that does the work of its own file wakes a thread for a second request, and for what it leaves. */
TEST(check_work_of_a_callers_own_file_wakes_no_thread_unless_some_is_left)
{
	struct pc_work w;
	open_one(1 << 20, PAGE, 0, 1 << 20, LIMITS(.max_write = PAGE));
	struct file *other = file_open(&rig, 0, 1 << 20);
	EQUAL(file_write(file, 0, "x", 1), 0);
	EQUAL(file_write(other, 0, "x", 1), 0);

	u32 before = woken();
	struct pc_inode *outer = pc_work_own_begin(file->inode);
	EQUAL((uintptr_t)outer, 0);
	pc_flush_start(file->inode, ALL, 0, ALL);
	EQUAL(woken(), before);
	pc_flush_start(other->inode, ALL, 0, ALL); /* not its own */
	CHECK(woken() != before);
	CHECK(pc_work_next_own(file->inode, &w));
	EQUAL(w.kind, PC_WORK_PASS);
	EQUAL((uintptr_t)w.inode, (uintptr_t)file->inode);
	do_work(rig.volume, &w);
	EQUAL(file->store.bytes[0], 'x');
	pc_commit_start(file->inode, 0); /* in line behind the pass */
	while (pc_work_next_own(file->inode, &w))
		do_work(rig.volume, &w);
	EQUAL(file->store.commits, 1);
	EQUAL(file->store.stable[0], 'x');
	before = woken();
	pc_work_own_end(file->inode, outer);
	EQUAL(woken(), before);

	static u8 bytes[3 * PAGE]; /* three requests */
	EQUAL(file_write(file, 0, bytes, sizeof(bytes)), 0);
	outer = pc_work_own_begin(file->inode);
	pc_flush_start(file->inode, ALL, 0, ALL);
	before = woken();
	CHECK(pc_work_next_own(file->inode, &w));
	do_work(rig.volume, &w);
	CHECK(woken() != before);
	before = woken();
	pc_work_own_end(file->inode, outer);
	CHECK(woken() != before); /* two requests are left */
	work_all(rig.volume);
	EQUAL(file->store.writes, 4);
}

/* The engine's own work under the token is for a thread of the volume, which no interrupt strikes. */
TEST(check_a_caller_leaves_a_commit_with_other_work_to_a_thread)
{
	struct pc_work w;
	start();
	EQUAL(file_write(file, 0, "x", 1), 0);
	EQUAL(flush(file), 0);
	work_all(rig.volume);
	pc_settle_start(file->inode);
	u32 before = woken();
	struct pc_inode *outer = pc_work_own_begin(file->inode);
	pc_commit_start(file->inode, 0);
	CHECK(pc_work_next_own(file->inode, &w));
	EQUAL(w.kind, PC_WORK_COMMITTING);
	EQUAL(pc_commit_begin(file->inode, true), -EAGAIN);
	end_work(&w);
	pc_work_own_end(file->inode, outer);
	CHECK(woken() != before);
	EQUAL(file->store.commits, 0);
	work_all(rig.volume);
	EQUAL(file->store.commits, 1);
}
