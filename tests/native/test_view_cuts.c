/* Memory that views may store to: the calls that cut it off from the file, and the races around a pin. */
#include "views.h"

/* T-44, T-47: the end of the file moves in front of a view, behind it, into its folio. */
TEST(check_truncate_cuts_off_views_behind_the_end)
{
	start(64 << 10, 64 << 10);
	struct pc_pin low = pin(100, 1000), high = pin(20000, 1000);
	store(&low, 1);
	store(&high, 2);
	file_truncate(file, 30000);
	CHECK(!pc_pin_detached(rig.cache, &low) && !pc_pin_detached(rig.cache, &high));
	SOUND(&rig);
	file_truncate(file, 20500);
	CHECK(pc_pin_detached(rig.cache, &high));
	EQUAL(high.memory[999], 2);
	SOUND(&rig);
	store(&high, 3); /* lost */
	file_truncate(file, 60000);
	SEES({20499, 2}, {20500, 0}, {100, 1});
	SAVES({20499, 2}, {20500, 0}, {100, 1});
	EQUAL(usage(file, NULL).pinned, 0);
	EQUAL(pc_cache_held(rig.cache), 64 << 10);
	pc_unpin(rig.cache, &high);
	pc_unpin(rig.cache, &low);
	EQUAL(pc_cache_held(rig.cache), 0);
	struct pc_pin gone = pin(50000, 10);
	file_truncate(file, 0);
	CHECK(pc_pin_detached(rig.cache, &gone));
	store(&gone, 5);
	file_truncate(file, 60000);
	EQUAL(byte_at(50000), 0);
	pc_unpin(rig.cache, &gone);
}

/* Without memory for a copy nothing is cut, and nothing is truncated. */
TEST(check_truncate_is_refused_without_memory)
{
	struct pc_pin all[16];
	start_with(64 * PAGE, 16 * PAGE, PAGE, limits_wide());
	struct pc_pin p = pin(0, PAGE);
	for (u64 k = 1; k < 16; k++) {
		byte_at(k * PAGE);
		all[k] = read_pin(k * PAGE, 1);
	}
	stop_the_file(file, 0, ALL);
	EQUAL(pc_views_reserve(file->inode, 100), (u64)-ENOMEM);
	EQUAL(pc_views_cut(file->inode, 0, ALL, false), (u64)-ENOMEM);
	pc_unpin(rig.cache, &all[1]);
	EQUAL(pc_views_reserve(file->inode, 100), 0);
	SOUND(&rig);
	pc_views_unreserve(file->inode);
	let_the_file_go(file);
	CHECK(!pc_pin_detached(rig.cache, &p));
	for (u64 k = 2; k < 16; k++)
		pc_unpin(rig.cache, &all[k]);
	pc_unpin(rig.cache, &p);
}

TEST(check_punch)
{
	start(64 << 10, 16 << 10);
	struct pc_pin p = pin(0, 8192), whole = pin(16384, 100);
	store(&p, 1);
	stop_the_file(file, 4096, 40000);
	memset(file->store.bytes + 4096, 0, 40000 - 4096);
	pc_punch(file->inode, 4096, 40000, true);
	let_the_file_go(file);
	SOUND(&rig);
	CHECK(pc_pin_detached(rig.cache, &whole));
	CHECK(!pc_pin_detached(rig.cache, &p));
	EQUAL(p.memory[8191], 0);
	EQUAL(p.memory[0], 1);
	EQUAL(usage(file, NULL).dirty, 8192);
	store(&p, 2);
	store(&whole, 3);
	SAVES({8191, 2}, {16384, 0});
	pc_unpin(rig.cache, &p);
	pc_unpin(rig.cache, &whole);
}

TEST(check_discard)
{
	start(64 << 10, 16 << 10);
	struct pc_pin p = pin(0, 8192), whole = pin(16384, 100);
	put(12288, PAGE, 9);
	store(&p, 1);
	discard(4096, 8192, 4096); /* the first page, and the writer's bytes, stay local */
	SOUND(&rig);
	CHECK(pc_pin_detached(rig.cache, &p));
	CHECK(!pc_pin_detached(rig.cache, &whole));
	EQUAL(p.memory[8191], 1);
	store(&p, 2);
	SEES({0, 1}, {4096, first_byte(4096)}, {12288, 9});
	discard(8192, 12288, 0);
	discard(0, ALL, 4096 + 4096 + 4096);
	CHECK(pc_pin_detached(rig.cache, &whole));
	SEES({0, first_byte(0)}, {16384, first_byte(16384)});
	EQUAL(usage(file, NULL).local, 0);
	SOUND(&rig);
	pc_unpin(rig.cache, &p);
	pc_unpin(rig.cache, &whole);
}

/* A view that comes between the two steps of a discard is later than it, and keeps its memory. */
TEST(check_a_view_comes_while_a_part_is_discarded)
{
	start(64 << 10, 16 << 10);
	put(0, 3 * PAGE, 9);
	take_token(file);
	EQUAL(pc_views_cut(file->inode, PAGE, 3 * PAGE, true), 0);
	struct pc_pin p = pin(PAGE, 100);
	u64 ranges[8];
	RANGES(ranges, pc_discard(file->inode, PAGE, 3 * PAGE, ranges, 4, true), 2 * PAGE, 3 * PAGE);
	pc_token_release(file->inode);
	SOUND(&rig);
	CHECK(!pc_pin_detached(rig.cache, &p));
	store(&p, 1);
	SAVES({0, 9}, {PAGE, 1}, {2 * PAGE, first_byte(2 * PAGE)});
	pc_unpin(rig.cache, &p);
}

/* Another version in storage, longer than this one: the memory of writable views is laid over it, and stays in use. */
TEST(check_a_new_version_under_a_view)
{
	start(5000, 16 << 10);
	struct pc_pin p = pin(4500, 400);
	store(&p, 1);
	memset(file->store.bytes, 8, ROOM);
	file->store.size = 10000;
	WITH_TOKEN(pc_rebase(file->inode, 10000, true));
	SOUND(&rig);
	CHECK(!pc_pin_detached(rig.cache, &p));
	SEES({0, 8}, {4500, 1}, {9999, 8});
	store(&p, 2);
	SAVES({4899, 2}, {9999, 8});
	file_truncate(file, 4600);
	CHECK(pc_pin_detached(rig.cache, &p));
	SOUND(&rig);
	pc_unpin(rig.cache, &p);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.stable_size, 4600);
}

/* All of them, at the end of a volume: the file goes on in copies. */
TEST(check_cutting_all_keeps_what_was_stored)
{
	start(64 << 10, 16 << 10);
	struct pc_pin pins[3] = {pin(0, 100), pin(50, 100), pin(40000, 5000)};
	for (u8 k = 0; k < 3; k++)
		store(&pins[k], (u8)(k + 1));
	WITH_TOKEN(EQUAL(pc_views_cut(file->inode, 0, ALL, false), 0));
	for (u8 k = 0; k < 3; k++) {
		CHECK(pc_pin_detached(rig.cache, &pins[k]));
		store(&pins[k], 9);
	}
	EQUAL(usage(file, NULL).write_pinned, 0);
	SAVES({49, 1}, {149, 2}, {44999, 3});
	EQUAL(usage(file, NULL).local, 0);
	SOUND(&rig);
	for (u8 k = 0; k < 3; k++)
		pc_unpin(rig.cache, &pins[k]);
	EQUAL(pc_cache_held(rig.cache), 0);
}

static struct pc_pin raced;

THREAD(pin_once, raced = pin(0, 100))
THREAD(read_pin_once, raced = read_pin(0, 100))
THREAD(put_once, put(0, 50, 2))
THREAD(cut_once, file_truncate(file, 50))

/* It tries again, and finds it pinned. For the other order see above. */
TEST(check_a_pass_meets_a_folio_that_is_being_pinned)
{
	struct pc_request *r;
	start(0, PAGE);
	put(0, PAGE, 1);
	pthread_t t = held_at("pin_before_dirty", pin_once, NULL);
	EQUAL(pc_flush_start(file->inode, ALL, 0, ALL), PAGE);
	EQUAL(pc_write_next(file->inode, &r), (u64)-EAGAIN);
	let_go("pin_before_dirty", t);
	for (int tries = 0; pc_write_next(file->inode, &r) != 1; tries++)
		CHECK(tries < 3); /* the pass ends, and begins again for the rest */
	store(&raced, 2);
	run_write(file, r);
	CHECK(state_at(file, 0) & PC_F_DIRTY);
	pc_unpin(rig.cache, &raced);
	SAVES({0, 2});
}

static struct pc_need unmet;

THREAD_OF(pin_the_second_page, pc_pin(file->inode, PAGE, 100, true, &raced, &unmet))

/* A discard of the file's local end moves the end before a view that is being made, or meets the view. [I-9, I-10] */
TEST(check_a_view_comes_while_a_discard_moves_the_end)
{
	for (int made = 0; made <= 1; made++) {
		u64 end = made ? 2 * PAGE : PAGE;
		start(PAGE, PAGE);
		put(2 * PAGE, PAGE, 1);
		EQUAL(byte_at(PAGE), 0);
		lock_inode(file, PC_EXCLUSIVE);
		if (made)
			CHECK(!pin_the_second_page(NULL));
		pthread_t t = made ? 0 : held_at("pin_before_dirty", pin_the_second_page, NULL);
		EQUAL(file_discard(file, 2 * PAGE, 3 * PAGE, NULL, 0), 1);
		if (!made)
			EQUAL((intptr_t)let_go("pin_before_dirty", t), -ENXIO);
		pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		EQUAL(pc_inode_size(file->inode), end);
		SOUND(&rig);
		if (made)
			pc_unpin(rig.cache, &raced);
		EQUAL(file_sync(file), 0);
		EQUAL(file->store.stable_size, end);
	}
}

/* A writer copies on conflict while a view comes: the view keeps the memory, the writer waits for the call. */
TEST(check_a_view_comes_while_the_folio_gets_other_memory)
{
	start(0, PAGE);
	put(0, PAGE, 1);
	struct pc_request *r = hand_over();
	check_threads = true;
	pthread_t t = held_at("exchange_copied", put_once, NULL);
	read_pin_once(NULL);
	pc_sync_release("exchange_copied");
	while (!(state_at(file, 0) & PC_F_WRITER_WAITS))
		usleep(200);
	run_write(file, r);
	pthread_join(t, NULL);
	check_threads = false;
	SOUND(&rig);
	EQUAL(raced.memory[0], 2);
	CHECK(!pc_pin_detached(rig.cache, &raced));
	pc_unpin(rig.cache, &raced);
}

/* A view is released while a truncate cuts it off, and after it. */
TEST(check_a_release_meets_a_cut)
{
	for (int after = 0; after <= 1; after++) {
		start(PAGE, PAGE);
		byte_at(0);
		struct pc_pin p = pin(0, 100);
		store(&p, 7);
		pthread_t t = held_at("exchange_copied", cut_once, NULL);
		if (!after)
			pc_unpin(rig.cache, &p);
		let_go("exchange_copied", t);
		if (after) {
			CHECK(pc_pin_detached(rig.cache, &p));
			pc_unpin(rig.cache, &p);
		}
		EQUAL(pc_cache_held(rig.cache), 0);
		EQUAL(byte_at(49), 7);
		EQUAL(file_sync(file), 0);
		EQUAL(file->store.stable_size, 50);
	}
}
