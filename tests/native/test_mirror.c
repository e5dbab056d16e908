/* The second stream: holds on frames, in their folio and out of it; which calls change or free a held frame, and
 * when. */
#include "rig.h"

enum { ROOM = 1 << 20 };

static void start(u64 max_folio)
{
	rig_open(&rig, 4 << 20, max_folio);
	struct pc_limits l = limits_wide();
	pc_volume_set_mirror(rig.volume, &l);
	file = file_open(&rig, 0, ROOM);
}

/* A request of stream 0 in flight and its bytes in the mirror. */
static struct pc_request *hand_over_mirrored(struct pc_request **mirrored, struct pc_request *last)
{
	struct pc_request *r = hand_over();
	*mirrored = pc_mirror_take(r, last);
	CHECK(*mirrored);
	return r;
}

static void expect_mirror(struct pc_request *m, u64 pos, u8 byte, u64 len)
{
	struct pc_part parts[PARTS];
	size_t n;
	u64 at, sent = 0;
	int done = 0;
	while (!done) {
		EQUAL(pc_call_next(m, &at, parts, PARTS, &n), 1);
		EQUAL(at, pos + sent);
		for (size_t k = 0; k < n; k++) {
			for (u64 b = 0; b < parts[k].len; b++)
				EQUAL(parts[k].memory[b], byte);
			sent += parts[k].len;
		}
		done = pc_write_answer(m, (int64_t)m->call_len);
	}
	EQUAL(sent, len);
}

static u64 held(void)
{
	SOUND(&rig);
	return pc_cache_held(rig.cache);
}

/* Test both orders: the mirror ends before the upload, and after it. */
TEST(check_a_hold_outlives_the_upload_and_ends_with_the_request)
{
	for (int order = 0; order < 4; order++) {
		start(order & 2 ? 64 << 10 : PAGE);
		put(0, 64 << 10, 'a');
		struct pc_request *m, *r = hand_over_mirrored(&m, NULL);
		EQUAL(held(), 64 << 10);
		CHECK(state_at(file, 0) & PC_F_HELD);
		if (order & 1) {
			pc_request_settle(m);
			EQUAL(held(), 0);
			run_write(file, r);
		} else {
			run_write(file, r);
			EQUAL(held(), 64 << 10);
			EQUAL(pc_drop_clean(file->inode, 0, ALL), 0);
			EQUAL(file_sync(file), 0);
			EQUAL(pc_drop_clean(file->inode, 0, ALL), 0); /* held memory is not evicted */
			expect_mirror(m, 0, 'a', 64 << 10);
			pc_request_settle(m);
			EQUAL(held(), 0);
			CHECK(!(state_at(file, 0) & PC_F_HELD));
			EQUAL(pc_drop_clean(file->inode, 0, ALL), 64 << 10);
		}
	}
}

/* The bytes of the mirror stand still: while the upload runs, and after it. */
TEST(check_a_writer_gets_fresh_memory_and_the_mirror_keeps_the_old)
{
	for (int k = 0; k < 4; k++) {
		start(k & 2 ? 64 << 10 : PAGE);
		put(0, 64 << 10, 'a');
		struct pc_request *m, *r = hand_over_mirrored(&m, NULL);
		if (k & 1)
			run_write(file, r);
		put(PAGE, 100, 'b');
		put(PAGE, 100, 'c');
		struct pc_counters n;
		usage(file, &n);
		EQUAL(n.cow_copies, 1);
		if (!(k & 1))
			run_write(file, r);
		expect_mirror(m, 0, 'a', 64 << 10);
		CHECK(held() > 0);
		pc_request_settle(m);
		EQUAL(held(), 0);
		CHECK(!pc_mirror_spoiled(file->inode));
		EQUAL(file_sync(file), 0);
		EQUAL(file->store.bytes[PAGE], 'c');
		EQUAL(file->store.bytes[PAGE + 100], 'a');
	}
}

TEST(check_memory_that_cannot_be_replaced_spoils_the_copy_and_no_writer_waits)
{
	start(PAGE);
	put(0, PAGE, 'a');
	struct pc_request *m, *r = hand_over_mirrored(&m, NULL);
	run_write(file, r);
	struct pc_pin pin = read_pin(0, PAGE);
	put(0, PAGE, 'b');
	EQUAL(pin.memory[0], 'b');
	CHECK(pc_mirror_spoiled(file->inode));
	CHECK(!pc_mirror_spoiled(file->inode));
	pc_request_settle(m);
	pc_unpin(rig.cache, &pin);
	EQUAL(held(), 0);
}

/* Truncate: folios beyond the end go, the one with the end is zeroed; held bytes stay unchanged. */
TEST(check_truncate_leaves_the_mirror_its_bytes)
{
	for (int k = 0; k < 2; k++) {
		start(k ? 64 << 10 : PAGE);
		put(0, 64 << 10, 'a');
		struct pc_request *m, *r = hand_over_mirrored(&m, NULL);
		run_write(file, r);
		file_truncate(file, PAGE + 10);
		file_truncate(file, 64 << 10);
		put(8 * PAGE, PAGE, 'b');
		CHECK(held() >= 64 << 10);
		expect_mirror(m, 0, 'a', 64 << 10);
		pc_request_settle(m);
		EQUAL(held(), 0);
		CHECK(!pc_mirror_spoiled(file->inode));
	}
}

TEST(check_requests_that_follow_join_until_the_mirrors_limit)
{
	rig_open(&rig, 4 << 20, PAGE);
	struct pc_limits wide = LIMITS(.max_write = 3 * PAGE);
	pc_volume_set_mirror(rig.volume, &wide);
	file = file_open_in(&rig, rig.volume, 0, ROOM, LIMITS(.max_write = 2 * PAGE));
	put(0, 5 * PAGE, 'a');
	struct pc_request *first, *second, *third, *r;
	r = hand_over_mirrored(&first, NULL);
	run_write(file, r);
	r = hand_over_mirrored(&second, first);
	CHECK(second != first); /* four pages would be more than three */
	run_write(file, r);
	r = hand_over_mirrored(&third, second);
	EQUAL(third, second);
	run_write(file, r);
	expect_mirror(first, 0, 'a', 2 * PAGE);
	expect_mirror(second, 2 * PAGE, 'a', 3 * PAGE);
	pc_request_settle(first);
	pc_request_settle(second);
	EQUAL(held(), 0);
}

TEST(check_held_memory_is_no_victim_and_comes_back)
{
	start(PAGE);
	put(0, 16 * PAGE, 'a');
	struct pc_request *m, *r = hand_over_mirrored(&m, NULL);
	run_write(file, r);
	EQUAL(file_sync(file), 0);
	static u8 bytes[PAGE];
	struct file *other = file_open_in(&rig, rig.volume, 8 << 20, 8 << 20, limits_wide());
	for (u64 pos = 0; pos < 8 << 20; pos += PAGE)
		EQUAL(file_read(other, pos, bytes, PAGE), PAGE);
	EQUAL(held(), 16 * PAGE);
	expect_mirror(m, 0, 'a', 16 * PAGE);
	CHECK(!(state_at(file, 0) & (PC_F_SMALL | PC_F_MAIN)));
	pc_request_settle(m);
	CHECK(state_at(file, 0) & (PC_F_SMALL | PC_F_MAIN)); /* evictable like any other */
}

/* ---------------------------------------------------------------- threads: holds end while frames leave their folios */

static _Atomic bool stop;

static void *writer(void *unused MAYBE)
{
	for (u32 k = 0; !atomic_load(&stop); k++)
		put(draw(8) * PAGE, PAGE, (u8)k);
	return NULL;
}

static void *truncater(void *unused MAYBE)
{
	static u8 byte = 'z';
	while (!atomic_load(&stop)) {
		file_truncate(file, draw(8) * PAGE + 5);
		EQUAL(file_write(file, 8 * PAGE - 1, &byte, 1), 0);
		sched_yield();
	}
	return NULL;
}

static u32 bytes_of(const struct pc_request *m)
{
	u32 sum = 0;
	for (u32 s = 0; s < m->nr_segs; s++) {
		const u8 *memory = pc_arena_at(&rig.cache->arena, m->segs[s].frame) + m->segs[s].off;
		for (u32 b = 0; b < m->segs[s].len; b++)
			sum = sum * 31 + memory[b];
	}
	return sum;
}

/* The bytes of a request stay unchanged until it ends, whatever is written in that time. */
static void expect_still(const struct pc_request *m)
{
	u32 sum = bytes_of(m);
	for (int k = 0; k < 20; k++)
		sched_yield();
	EQUAL(bytes_of(m), sum);
}

TEST(check_holds_end_in_any_thread_while_writers_and_truncates_go_on)
{
	start(PAGE);
	check_threads = true;
	pthread_t threads[2];
	atomic_store(&stop, false);
	put(0, 8 * PAGE, 'a');
	pthread_create(&threads[0], NULL, writer, NULL);
	pthread_create(&threads[1], NULL, truncater, NULL);
	u32 taken = 0;
	for (u32 turn = 0; taken < 400 && turn < 400000; turn++) {
		struct pc_work w;
		pc_flush_start(file->inode, ALL, 0, ALL);
		pc_work_next(rig.volume, &w);
		if (w.kind == PC_WORK_NONE) {
			sched_yield();
			continue;
		}
		if (w.kind != PC_WORK_PASS) {
			do_work(rig.volume, &w);
			continue;
		}
		struct pc_request *r, *m = NULL;
		if (pc_write_next(w.inode, &r) == 1) {
			r->credit = w.credit;
			m = pc_mirror_take(r, NULL);
			run_write(file, r);
		} else {
			pc_credit_put(rig.volume, w.credit);
			pc_pass_again(w.inode);
			sched_yield();
		}
		end_work(&w);
		if (m) {
			expect_still(m);
			pc_request_settle(m);
			taken++;
		}
	}
	CHECK(taken > 20);
	atomic_store(&stop, true);
	/* Waiters for the end of work are served until both have seen the flag. */
	for (u32 k = 0; k < 2; k++)
		while (pthread_tryjoin_np(threads[k], NULL))
			if (!work(rig.volume))
				sched_yield();
	check_threads = false;
	EQUAL(held(), 0);
}
