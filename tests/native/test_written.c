/* Which bytes of local blocks this program has written, and which are borrowed from the version below. [2.19] */
#include "staging.h"

enum { BLOCKS = 8 };

static u64 spans[64];

/* The local bytes that were written since the last commit are these ranges, [pos, end). */
#define WRITTEN(...) (SOUND(&rig), RANGES(spans, pc_ranges(file->inode, PC_RANGES_WRITTEN, spans, 32), __VA_ARGS__))

static void open_clean(u64 max_folio)
{
	start_with(BLOCKS * PAGE, max_folio, 64, limits_wide());
	EQUAL(fill_range(file, 0, BLOCKS * PAGE), 0);
}

static void end(struct pc_request *r, bool ok)
{
	while (ok && send_call(file, r) == 0)
		;
	pc_write_done(r, ok, false);
	pc_retry(file->inode, 0, ALL, true);
}

static u64 map_bytes(void)
{
	return cache_usage().staged_map_bytes;
}

/* Saved by the write alone: no commit follows that would drop it. */
static void check_bytes_saved_by_their_write(u64 max_folio)
{
	start_with(BLOCKS * PAGE, max_folio, 64, LIMITS(.durable_writes = true));
	EQUAL(fill_range(file, 0, BLOCKS * PAGE), 0);
	put(PAGE + 10, 20, 2);
	struct pc_request *r = hand_over();
	CHECK(map_bytes() > 0);
	end(r, true);
	EQUAL(map_bytes(), 0);
	WRITTEN();
}

/* A block is written again while it is sent: bytes that were written earlier are forgotten by their commit, and unite with
 * the later ones if they come back. */
static void check_a_block_that_is_sent_and_dirty(u64 max_folio, bool ok)
{
	open_clean(max_folio);
	put(PAGE + 10, 10, 2);
	struct pc_request *r = hand_over();
	WRITTEN(PAGE + 10, PAGE + 20);
	put(PAGE + 15, 10, 3);
	WRITTEN(PAGE + 10, PAGE + 25);
	end(r, ok);
	WRITTEN(PAGE + 10, PAGE + 25);
	if (!ok)
		return;
	pc_uncommit(file->inode);
	WRITTEN(PAGE + 10, PAGE + 25);
	r = hand_over();
	put(PAGE + 1, 1, 3);
	end(r, true);
	CHECK(begin_commit(file));
	pc_commit_end(file->inode, true, PC_COMMIT_AGAIN);
	WRITTEN(PAGE + 1, PAGE + 2);
	EQUAL(file_sync(file), 0);
	WRITTEN();
}

/* Bytes around the written ones are staged with them, and only the latter are kept over another version. */
TEST(check_staged_bytes)
{
	start(4 * PAGE);
	EQUAL(fill_range(file, 0, 4 * PAGE), 0);
	send_bytes(PAGE + 10, 10, 2);
	EQUAL(staged(), PAGE);
	put(PAGE + 30, 10, 3);
	WRITTEN(PAGE + 10, PAGE + 20, PAGE + 30, PAGE + 40);
	EQUAL(flush(file), 0);
	EQUAL(staged(), PAGE);
	evict_all();
	take_token(file);
	WRITTEN(PAGE + 10, PAGE + 20, PAGE + 30, PAGE + 40);
	pc_staged_keep_written(file->inode);
	pc_token_release(file->inode);
	SOUND(&rig);
	EQUAL(staged(), 20);
	CHECK(is_staged(file, PAGE + 10) && is_staged(file, PAGE + 30));
}

/* Bytes are written and spilled beside a commit. The bytes of the commit are laid over another version only if it fails. */
TEST(check_bytes_that_are_spilled_beside_a_commit)
{
	u64 runs[4];
	for (int stages = 0; stages <= 1; stages++)
		for (int ok = 0; ok <= 1; ok++) {
			start_with(BLOCKS * PAGE, PAGE, stages ? 1 : 64, limits_wide());
			EQUAL(fill_range(file, 0, BLOCKS * PAGE), 0);
			send_bytes(PAGE, PAGE, 2);
			send_bytes(2 * PAGE, PAGE, 2);
			EQUAL(staged(), stages ? 2 * PAGE : 0);
			CHECK(begin_commit(file));
			put(PAGE + 30, 10, 3);
			put(2 * PAGE, PAGE, 3);
			put(4 * PAGE + 30, 10, 3);
			EQUAL(pc_spill_find(file->inode, 0, ALL, true, runs, 2), 2);
			EQUAL(runs[0], PAGE);
			EQUAL(pc_spill(file->inode, runs, 2, true), 3 * PAGE);
			put(PAGE + 50, 10, 3);
			put(4 * PAGE + 50, 10, 3);
			EQUAL(pc_spill_find(file->inode, 0, ALL, true, runs, 2), 2);
			EQUAL(pc_spill(file->inode, runs, 2, true), 2 * PAGE);
			SOUND(&rig);
			pc_commit_end(file->inode, ok, PC_COMMIT_AGAIN);
			if (ok)
				WRITTEN(PAGE + 30, PAGE + 40, PAGE + 50, PAGE + 60, 2 * PAGE, 3 * PAGE, 4 * PAGE + 30,
					4 * PAGE + 40, 4 * PAGE + 50, 4 * PAGE + 60);
			else
				WRITTEN(PAGE, 3 * PAGE, 4 * PAGE + 30, 4 * PAGE + 40, 4 * PAGE + 50, 4 * PAGE + 60);
			if (!ok)
				continue;
			put(PAGE + 70, 10, 4); /* the next one begins anew */
			CHECK(begin_commit(file));
			pc_commit_end(file->inode, true, PC_COMMIT_AGAIN);
			WRITTEN(PAGE + 70, PAGE + 80);
		}
}

/* A write into a page whose other bytes are staged fails: it brings none of them back to the page, which does not have them. */
TEST(check_sent_bytes_come_back_beside_staged_ones)
{
	start(4 * PAGE);
	send_bytes(PAGE + 10, 10, 2);
	evict_all();
	put(PAGE + 30, 10, 3);
	end(hand_over(), false);
	WRITTEN(PAGE + 10, PAGE + 20, PAGE + 30, PAGE + 40);
	CHECK(begin_commit(file));
	pc_commit_end(file->inode, true, PC_COMMIT_AGAIN);
	EQUAL(staged(), 0);
	EQUAL(fill_range(file, PAGE, PAGE), 0);
	WRITTEN(PAGE + 30, PAGE + 40);
}

/* The hole and the writes after it are sent as well; its zeros are nobody's. */
static void check_a_hole_in_sent_bytes(bool stages, u64 from, u64 to)
{
	if (stages)
		start(4 * PAGE);
	else
		start_with(4 * PAGE, 4 * PAGE, 64, limits_wide());
	EQUAL(fill_range(file, 0, 4 * PAGE), 0);
	send_bytes(PAGE, PAGE, 2);
	EQUAL(staged(), stages ? PAGE : 0);
	WITH_TOKEN(pc_punch(file->inode, PAGE + from, PAGE + to, false));
	send_bytes(PAGE + from + 20, 10, 3);
	pc_uncommit(file->inode);
	if (from)
		WRITTEN(PAGE, PAGE + from, PAGE + from + 20, PAGE + from + 30, PAGE + to, 2 * PAGE);
	else
		WRITTEN(PAGE + 20, PAGE + 30, PAGE + to, 2 * PAGE);
}

TEST(check_holes_in_sent_bytes)
{
	for (int stages = 0; stages <= 1; stages++) {
		check_a_hole_in_sent_bytes(stages, 0, 50);
		check_a_hole_in_sent_bytes(stages, 100, 150);
	}
}

/* A writer extends a range of a page whose sent bytes have come back, or come back afterwards. */
TEST(check_bytes_come_back_before_or_after_a_write)
{
	for (int after = 0; after <= 1; after++) {
		open_clean(PAGE);
		put(PAGE + 10, 10, 2);
		end(hand_over(), true);
		put(PAGE + 30, 10, 3);
		if (!after)
			pc_uncommit(file->inode);
		put(PAGE + 40, 10, 4);
		if (after)
			pc_uncommit(file->inode);
		WRITTEN(PAGE + 10, PAGE + 20, PAGE + 30, PAGE + 50);
	}
}

/* The file has as many borrowed ranges as are remembered: pages that would need more count as written, also dirty ones. A page
 * written in one piece never needs more. */
TEST(check_more_ranges_than_are_remembered)
{
	enum { MAX = 1 << 22 };
	open_clean(PAGE);
	struct pc_rangemap *borrowed = &file->inode->borrowed;
	put(PAGE + 10, 10, 2);
	for (u64 at = 64 * PAGE; borrowed->nr_ranges < MAX; at += 2)
		pc_map_add(rig.cache, borrowed, at, at + 1, MAX);
	put(5 * PAGE + 10, 10, 2);
	EQUAL(borrowed->nr_ranges, MAX + 2);
	put(PAGE + 30, 10, 3);
	put(PAGE + 50, 10, 3);
	EQUAL(borrowed->nr_ranges, MAX + 4);
	EQUAL(NUMBER(file->inode, WRITTEN_WHOLE), 0);
	put(3 * PAGE + 10, 10, 4);
	EQUAL(borrowed->nr_ranges, MAX + 4);
	EQUAL(NUMBER(file->inode, WRITTEN_WHOLE), 1);
	put(PAGE + 70, 10, 3);
	put(PAGE + 90, 10, 3);
	put(PAGE + 110, 10, 3);
	EQUAL(borrowed->nr_ranges, MAX);
	pc_map_cut(rig.cache, borrowed, 64 * PAGE, ALL);
	WRITTEN(PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 5 * PAGE + 10, 5 * PAGE + 20);
	EQUAL(file_sync(file), 0);
	EQUAL(NUMBER(file->inode, WRITTEN_WHOLE), 0);
}

static void check_a_folio_gets_another_frame(u64 max_folio)
{
	open_clean(max_folio);
	put(PAGE + 10, 10, 2);
	put(PAGE + 30, 10, 2);
	put(2 * PAGE + 30, 10, 2);
	for (u32 page = 1; page <= 2; page++) {
		struct pc_folio *f = folio_at(file, page * PAGE);
		CHECK(pc_folio_trylock(f) && pc_folio_copy_on_conflict(file->inode, f));
		pc_folio_unlock(rig.cache, f);
	}
	WRITTEN(PAGE + 10, PAGE + 20, PAGE + 30, PAGE + 40, 2 * PAGE + 30, 2 * PAGE + 40);
}

TEST(check_many_ranges_of_a_page)
{
	open_clean(PAGE);
	for (u64 pos = 0; pos < PAGE; pos += 8)
		put((pos * 5) % PAGE, 3, 2);
	SOUND(&rig);
	EQUAL(pc_ranges(file->inode, PC_RANGES_WRITTEN, spans, 32), PAGE / 8);
	for (u64 pos = 0; pos < PAGE; pos += 8)
		put(pos, 8, 3);
	WRITTEN(0, PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(map_bytes(), 0);
}

TEST(check_one_page_and_large_folios)
{
	for (u64 max_folio = PAGE; max_folio <= 8 * PAGE; max_folio *= 8) {
		check_bytes_saved_by_their_write(max_folio);
		check_a_block_that_is_sent_and_dirty(max_folio, true);
		check_a_block_that_is_sent_and_dirty(max_folio, false);
		check_a_folio_gets_another_frame(max_folio);
	}
}
