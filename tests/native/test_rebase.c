/* Another version in storage: local bytes lie over it, and zeros behind the old end do not (contract 2.19). */
#include "rig.h"

enum { BLOCKS = 16, ROOM = BLOCKS * PAGE };

static void start(u64 size, u64 max_folio)
{
	open_one(1 << 20, max_folio, size, ROOM, limits_wide());
	memset(file->store.bytes, 1, size);
	memset(file->store.stable, 1, size);
}

static void rebase(u64 remote, bool forgotten)
{
	WITH_TOKEN(pc_rebase(file->inode, remote, forgotten));
}

static void replace_storage(u8 value, u64 size)
{
	memset(file->store.bytes, value, ROOM);
	file->store.size = size;
}

/* All extents of the folio are taken: the cut needs one more. */
TEST(check_the_zeros_are_cut_off_beside_a_full_set_of_extents)
{
	start(15 * PAGE + 100, 16 * PAGE);
	EQUAL(fill_range(file, 0, 15 * PAGE + 100), 0);
	put(15 * PAGE, 100, 2);
	replace_storage(8, 15 * PAGE + 100);
	rebase(15 * PAGE + 100, false);
	for (u64 block = 0; block < PC_RAGGED; block++)
		put(block * PAGE + 50, 1, 3);
	replace_storage(9, 16 * PAGE);
	rebase(16 * PAGE, false);
	SEES({15 * PAGE + 99, 2}, {15 * PAGE + 100, 9});
	put(50 * 2, 1, 4); /* with a fill, since no writer has an extent */
	SAVES({15 * PAGE + 99, 2}, {15 * PAGE + 100, 9}, {50, 3}, {51, 9});
}

/* A fill holds the folio: it cuts the zeros off when it unlocks. */
TEST(check_zeros_that_a_fill_held_are_not_local_either)
{
	start(PAGE + 100, 8 * PAGE);
	EQUAL(fill_range(file, 0, PAGE + 100), 0);
	put(PAGE + 10, 20, 2);
	pc_invalidate_range(file->inode, 0, PAGE);
	struct pc_request *r = begin_fill(file, 0, PAGE);
	replace_storage(9, 5 * PAGE);
	rebase(5 * PAGE, false);
	EQUAL(run_fill(file, r), 0);
	SAVES({PAGE + 10, 2}, {PAGE + 99, 1}, {PAGE + 100, 9});
	SEES({PAGE + 100, 9}, {3 * PAGE, 9});
}

/* The fill fails and its folio goes: a later folio of that place has no zeros to cut off, and keeps written bytes. */
TEST(check_zeros_are_forgotten_with_the_fill_that_held_them)
{
	start(100, 8 * PAGE);
	struct pc_request *r = begin_fill(file, 0, 100);
	replace_storage(9, 5 * PAGE);
	rebase(5 * PAGE, false);
	pc_request_settle(r);
	EQUAL(fill_range(file, 0, 5 * PAGE), 0);
	put(3 * PAGE, PAGE, 2);
	pc_invalidate_range(file->inode, 0, 5 * PAGE);
	SEES({3 * PAGE, 2}, {0, 9});
	SAVES({3 * PAGE, 2});
}

THREAD(write_beyond_the_end, put(2 * PAGE, 2 * PAGE + 100, 7))
THREAD(rebase_to_two_pages, rebase(2 * PAGE, false))

/* The rebase reads the size, meets a writer's folio, and finds the file longer when it comes back: writers do not
 * wait for it. [I-10] */
TEST_OF_FIX("rebase_sees_extension", check_a_rebase_keeps_what_was_extended_beside_it)
{
	start(3 * PAGE, PAGE);
	pthread_t writer = held_at("write_before_copy", write_beyond_the_end, NULL);
	replace_storage(9, 2 * PAGE);
	pthread_t rebaser = held_at("passer_by_met", rebase_to_two_pages, NULL);
	let_go("write_before_copy", writer);
	let_go("passer_by_met", rebaser);
	EQUAL(pc_inode_size(file->inode), 4 * PAGE + 100);
	SAVES({4 * PAGE, 7}, {2 * PAGE, 7}, {PAGE, 9});
	EQUAL(file->store.size, 4 * PAGE + 100);
}

THREAD(rebase_to_three_pages, rebase(3 * PAGE, false))

/* The rebase has passed the page of the old end, and waits for a writer's folio: a fill begins there. [I-17] */
TEST(check_a_fill_that_begins_beside_a_rebase_ends_where_the_new_version_does)
{
	for (int local = 0; local < 2; local++) {
		start(PAGE + 100, PAGE);
		if (local)
			put(PAGE + 10, 20, 2);
		pthread_t writer = held_at("write_before_copy", write_beyond_the_end, NULL);
		replace_storage(9, 3 * PAGE);
		pthread_t rebaser = held_at("passer_by_met", rebase_to_three_pages, NULL);
		struct pc_request *r = begin_fill(file, PAGE, 100);
		EQUAL(run_fill(file, r), 0);
		let_go("write_before_copy", writer);
		let_go("passer_by_met", rebaser);
		SEES({PAGE + 99, 9}, {PAGE + 100, 9}, {2 * PAGE - 1, 9});
		SAVES({PAGE + 100, 9}, {2 * PAGE, 7});
	}
}

THREAD(write_to_the_first_page, put(10, 20, 7))
THREAD(rebase_to_one_page, rebase(PAGE, false))

/* A fill behind the end of a shorter version asks the store, as long as the file is longer. [I-17] */
TEST(check_a_fill_beside_a_rebase_to_a_shorter_version_makes_up_no_zeros)
{
	start(3 * PAGE, PAGE);
	pthread_t writer = held_at("write_before_copy", write_to_the_first_page, NULL);
	replace_storage(9, PAGE);
	pthread_t rebaser = held_at("passer_by_met", rebase_to_one_page, NULL);
	EQUAL(pc_inode_size(file->inode), 3 * PAGE);
	EQUAL(pc_inode_remote_size(file->inode), 3 * PAGE);
	let_go("write_before_copy", writer);
	let_go("passer_by_met", rebaser);
	EQUAL(pc_inode_size(file->inode), PAGE);
	EQUAL(pc_inode_remote_size(file->inode), PAGE);
}

/* An open takes a longer version, beside a fill or not: nobody sees the zeros behind the old end. */
TEST(check_no_zeros_behind_the_old_end_of_a_version_that_is_taken)
{
	for (int fills = 0; fills <= 1; fills++) {
		start(100, 4 * PAGE);
		struct pc_request *r = begin_fill(file, 0, 100);
		if (!fills)
			EQUAL(run_fill(file, r), 0);
		replace_storage(9, 3 * PAGE);
		WITH_TOKEN(CHECK(pc_inode_set_sizes(file->inode, 3 * PAGE, 3 * PAGE)));
		if (fills)
			EQUAL(run_fill(file, r), 0);
		SEES({100, 9}, {2 * PAGE, 9}, {0, 9});
	}
}

THREAD(put_ten_bytes, put(100, 10, 2))

/* A write has found its page valid when another version is taken: it sends nothing of the version before. */
TEST(check_a_write_beside_an_open_sends_no_bytes_of_the_version_before)
{
	for (int order = 0; order <= 2; order += 2) {
		start(PAGE << order, PAGE << order);
		EQUAL(fill_range(file, 0, PAGE << order), 0);
		pthread_t t = held_at("write_before_copy", put_ten_bytes, NULL);
		replace_storage(9, PAGE << order);
		WITH_TOKEN(CHECK(pc_inode_set_sizes(file->inode, PAGE << order, PAGE << order)));
		let_go("write_before_copy", t);
		SEES({99, 9}, {100, 2}, {110, 9}, {(PAGE << order) - 1, 9});
		SAVES({99, 9}, {100, 2}, {110, 9}, {(PAGE << order) - 1, 9});
	}
}

THREAD(write_a_part, put(PAGE + 100, 50, 7))

/* The writer has found its page valid, and holds it: the rest of it is of the older version, and is not stored over the newer one.
 * @full: all extents of the folio are taken. */
TEST(check_a_write_beside_an_invalidation_makes_no_older_bytes_local)
{
	for (int full = 0; full < 2; full++) {
		start(4 * PAGE, 4 * PAGE);
		EQUAL(fill_range(file, 0, 4 * PAGE), 0);
		put(3 * PAGE, PAGE, 2);
		pc_invalidate_range(file->inode, 0, ALL);
		for (u64 k = 0; full && k < PC_RAGGED; k++)
			put(10 + 20 * k, 1, 3);
		EQUAL(fill_range(file, PAGE, PAGE), 0);
		pthread_t writer = held_at("write_before_copy", write_a_part, NULL);
		replace_storage(9, 4 * PAGE);
		pc_invalidate_range(file->inode, 0, ALL);
		let_go("write_before_copy", writer);
		SEES({PAGE, 9}, {PAGE + 99, 9}, {PAGE + 100, 7}, {PAGE + 149, 7}, {PAGE + 150, 9}, {3 * PAGE, 2});
		SAVES({PAGE, 9}, {PAGE + 99, 9}, {PAGE + 100, 7}, {PAGE + 149, 7}, {PAGE + 150, 9}, {3 * PAGE, 2});
	}
}

static struct pc_need met;
static int64_t written;

static void write_once(void)
{
	CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
	written = pc_write(file->inode, 100, "new", 3, &met);
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
}

THREAD(write_ten_bytes_once, write_once())

/* Without memory for the extents of a page that is older by now, the write waits for room: no byte of the version before is sent. */
TEST(check_a_write_beside_an_open_waits_for_room_if_its_page_cannot_be_cut)
{
	start(PAGE, PAGE);
	EQUAL(fill_range(file, 0, PAGE), 0);
	struct pc_pool *sets = &rig.cache->exts[0];
	u32 max = sets->max, head = sets->free_head;
	pthread_t writer = held_at("write_before_copy", write_ten_bytes_once, NULL);
	sets->max = sets->fresh - 1;
	sets->free_head = 0;
	replace_storage(9, PAGE);
	WITH_TOKEN(CHECK(pc_inode_set_sizes(file->inode, PAGE, PAGE)));
	let_go("write_before_copy", writer);
	EQUAL(written, 0);
	EQUAL(met.kind, PC_NEED_ROOM);
	sets->max = max;
	sets->free_head = head;
	put(100, 10, 2);
	SEES({99, 9}, {100, 2}, {110, 9}, {PAGE - 1, 9});
	SAVES({99, 9}, {100, 2}, {110, 9}, {PAGE - 1, 9});
}
