/* Frames that exporters hold, in their folio and out of it: which calls change or free one, and when. */
#include "rig.h"

enum { ROOM = 1 << 20, SEGS = 32 };

/* Holds on the frames of a call, as of exporters that a backend keeps. */
struct hold {
	u32 n, frames[SEGS];
	u64 each; /* bytes of a frame */
};

static void start(u64 max_folio)
{
	rig_open(&rig, 4 << 20, max_folio);
	file = file_open(&rig, 0, ROOM);
}

static struct hold last;

/* Hold the frames of the running call of a write. */
static void hold_call(struct pc_request *r)
{
	last.n = pc_call_hold(r, last.frames);
	CHECK(last.n && last.n <= SEGS);
	last.each = r->call_len / last.n;
}

/* Write that many bytes, and hold them in the call that sends them. */
static struct hold hold_bytes(u64 max_folio, u64 len, struct pc_request **r)
{
	start(max_folio);
	put(0, len, 'a');
	*r = hand_over();
	next_call(*r);
	hold_call(*r);
	return last;
}

static void put_back(const struct hold *h)
{
	for (u32 k = 0; k < h->n; k++)
		CHECK(pc_shadow_put(rig.cache, h->frames[k]));
}

static void expect_held(const struct hold *h, u8 byte)
{
	for (u32 k = 0; k < h->n; k++)
		for (u64 b = 0; b < h->each; b++)
			EQUAL(pc_arena_at(&rig.cache->arena, h->frames[k])[b], byte);
}

static u64 held(void)
{
	SOUND(&rig);
	return pc_cache_held(rig.cache);
}

/* Test both orders: the holds end before the upload, and after it. A truncate removes folios beyond the end and zeros the one
 * with the end; held bytes stay unchanged. */
TEST(check_a_hold_outlives_the_upload_and_a_truncate)
{
	for (int order = 0; order < 4; order++) {
		struct pc_request *r;
		struct hold h = hold_bytes(order & 2 ? 64 << 10 : PAGE, 64 << 10, &r);
		EQUAL(held(), 64 << 10);
		CHECK(state_at(file, 0) & PC_F_HELD);
		if (order & 1) {
			put_back(&h);
			EQUAL(held(), 0);
			run_write(file, r);
		} else {
			run_write(file, r);
			EQUAL(held(), 64 << 10);
			file_truncate(file, PAGE + 10);
			file_truncate(file, 64 << 10);
			put(8 * PAGE, PAGE, 'b');
			CHECK(held() >= 64 << 10);
			expect_held(&h, 'a');
			put_back(&h);
			EQUAL(held(), 0);
		}
	}
}

/* Held bytes stand still: while the upload runs, and after it. */
TEST(check_a_writer_gets_fresh_memory)
{
	for (int k = 0; k < 4; k++) {
		struct pc_request *r;
		struct hold h = hold_bytes(k & 2 ? 64 << 10 : PAGE, 64 << 10, &r);
		if (k & 1)
			run_write(file, r);
		put(PAGE, 100, 'b');
		put(PAGE, 100, 'c');
		EQUAL(cache_usage().cow_copies, 1);
		if (!(k & 1))
			run_write(file, r);
		expect_held(&h, 'a');
		CHECK(held() > 0);
		put_back(&h);
		EQUAL(held(), 0);
		SAVES({PAGE, 'c'}, {PAGE + 100, 'a'});
	}
}

TEST(check_no_writer_waits_for_memory_that_cannot_be_replaced)
{
	struct pc_request *r;
	struct hold h = hold_bytes(PAGE, PAGE, &r);
	run_write(file, r);
	struct pc_pin pin = read_pin(0, PAGE);
	put(0, PAGE, 'b');
	EQUAL(pin.memory[0], 'b');
	put_back(&h);
	pc_unpin(rig.cache, &pin);
	EQUAL(held(), 0);
}

TEST(check_held_memory_is_no_victim_and_comes_back)
{
	static u8 bytes[PAGE];
	for (u64 folio = PAGE; folio <= 64 << 10; folio *= 16) {
		struct pc_request *r;
		struct hold h = hold_bytes(folio, 16 * PAGE, &r);
		run_write(file, r);
		EQUAL(pc_drop_clean(file->inode, 0, ALL), 0);
		EQUAL(file_sync(file), 0);
		EQUAL(pc_drop_clean(file->inode, 0, ALL), 0);
		struct file *other = file_open(&rig, 8 << 20, 8 << 20);
		for (u64 pos = 0; pos < 8 << 20; pos += PAGE)
			EQUAL(file_read(other, pos, bytes, PAGE), PAGE);
		EQUAL(held(), 16 * PAGE);
		expect_held(&h, 'a');
		CHECK(!(state_at(file, 0) & (PC_F_SMALL | PC_F_MAIN)));
		put_back(&h);
		CHECK(state_at(file, 0) & (PC_F_SMALL | PC_F_MAIN)); /* evictable like any other */
		CHECK(!(state_at(file, 0) & PC_F_HELD));
		EQUAL(pc_drop_clean(file->inode, 0, ALL), 16 * PAGE);
	}
}

static _Atomic bool stop;

static void *writer(void *unused MAYBE)
{
	for (u32 k = 0; !atomic_load(&stop); k++)
		put(draw(8) * PAGE, PAGE, (u8)k);
	return NULL;
}

static void *truncater(void *unused MAYBE)
{
	while (!atomic_load(&stop)) {
		file_truncate(file, draw(8) * PAGE + 5);
		put(8 * PAGE - 1, 1, 'z');
		sched_yield();
	}
	return NULL;
}

static u64 sum_held(const struct hold *h)
{
	struct pc_part parts[SEGS];
	for (u32 k = 0; k < h->n; k++)
		parts[k] = (struct pc_part){.memory = pc_arena_at(&rig.cache->arena, h->frames[k]), .len = h->each};
	return sum_of(parts, h->n);
}

/* Held bytes stay unchanged until the holds end, whatever is written in that time. */
static void expect_still(const struct hold *h)
{
	u64 sum = sum_held(h);
	for (int k = 0; k < 20; k++)
		sched_yield();
	EQUAL(sum_held(h), sum);
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
	keep_buffers = hold_call;
	for (u32 turn = 0; taken < 400 && turn < 400000; turn++) {
		last.n = 0;
		pc_flush_start(file->inode, ALL, 0, ALL);
		if (!work(rig.volume))
			sched_yield();
		if (last.n) {
			expect_still(&last);
			put_back(&last);
			taken++;
		}
	}
	keep_buffers = NULL;
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
