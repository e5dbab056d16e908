/* Readahead: the size and growth of windows, markers, interleaved streams, and forbidden effects. */
#include "rig.h"

enum { PAGES = 4096 };

static u8 bytes[1 << 20];

static void start(u64 pages, u64 max_folio)
{
	open_one(64 << 20, max_folio, pages * PAGE, pages * PAGE, limits_wide());
}

/* Read as the C entry does. Return: number of backend calls it waited for. */
static u32 read_pages(struct pc_readahead *ra, u64 index, u64 nr)
{
	struct pc_need need = {0};
	u32 waited = 0;
	u64 pos = index * PAGE, len = nr * PAGE, done = 0;
	while (done < len) {
		done += (u64)pc_read(file->inode, pos + done, bytes, len - done, &need);
		if (need.readahead && pc_readahead_marker(file->inode, ra, need.marker))
			pc_readahead_submit(file->inode, ra);
		if (done == len || need.kind == PC_NEED_NOTHING)
			break;
		u32 before = file->store.reads;
		bool more = pc_readahead_miss(file->inode, ra, pos + done, len - done);
		EQUAL(provide(file, &need), 0);
		if (more)
			pc_readahead_submit(file->inode, ra);
		waited += file->store.reads - before;
	}
	pc_readahead_seen(ra, pos, len);
	return waited;
}

static void read_meanwhile(void)
{
	work_all(rig.volume);
}

/* Contract 2.6: n = next power of two; n <= max/32: 4n, n <= max/4: 2n, else max. */
TEST(check_the_first_window)
{
	struct {
		u32 max;
		u64 nr, size, async;
	} rows[] = {{128, 1, 4, 3},     {128, 4, 16, 12}, {128, 5, 16, 11}, {128, 32, 64, 32}, {128, 33, 128, 95},
		    {128, 200, 200, 0}, {32, 1, 4, 3},    {32, 2, 4, 2},    {8, 1, 2, 1},      {1, 1, 1, 0}};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		start(PAGES, PAGE);
		struct pc_readahead ra = {.max = rows[k].max};
		EQUAL(pc_readahead_miss(file->inode, &ra, 0, rows[k].nr * PAGE), rows[k].async > 0);
		EQUAL(ra.start, 0);
		EQUAL(ra.size, rows[k].size);
		EQUAL(ra.async_size, rows[k].async);
	}
}

/* current c: c <= max/4: 4c, else max: a far store is busy after few round trips. */
TEST(check_windows_grow_on_their_marker)
{
	u64 sizes[] = {4, 16, 64, 128, 128};
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 128};
	EQUAL(read_pages(&ra, 0, 1), 1);
	u64 from = 0;
	for (u32 k = 0; k < 4; k++) {
		EQUAL(ra.start, from);
		EQUAL(ra.size, sizes[k]);
		read_meanwhile();
		u64 marker = ra.start + ra.size - ra.async_size;
		CHECK(state_at(file, marker * PAGE) & PC_F_READAHEAD);
		from += ra.size;
		for (u64 page = k ? ra.start : 1; page < from; page++)
			EQUAL(read_pages(&ra, page, 1), 0); /* never waits again */
	}
}

TEST(check_a_sequential_reader_waits_once)
{
	u64 folios[] = {PAGE, 64 << 10};
	for (u32 k = 0; k < 2; k++) {
		start(PAGES, folios[k]);
		struct pc_readahead ra = {.max = 128};
		u32 waited = 0;
		for (u64 page = 0; page < PAGES; page += 2) {
			waited += read_pages(&ra, page, 2);
			read_meanwhile();
		}
		EQUAL(waited, 1);
		EQUAL(file->store.read_bytes, (u64)PAGES * PAGE); /* nothing twice, nothing beyond the end */
		CHECK(file->store.reads < 60);
	}
}

TEST(check_random_reads_fetch_what_was_asked)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 128};
	for (u64 k = 1; k < 200; k++) {
		read_pages(&ra, k * 1237 % 4000 + 10, 1);
		read_meanwhile();
	}
	EQUAL(file->store.read_bytes, usage(file, NULL).cached);
	CHECK(usage(file, NULL).cached <= 200 * PAGE);
	struct pc_readahead off = {.max = 0};
	CHECK(!pc_readahead_miss(file->inode, &off, 0, PAGE));
	CHECK(!pc_readahead_marker(file->inode, &off, 0));
}

/* A miss behind a cached run that is longer than the request: window of run + request, one page of it asynchronous. */
TEST(check_a_run_before_the_miss_is_taken_for_a_stream)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 128, .prev_end = 3001 * PAGE};
	EQUAL(fill_range(file, 100 * PAGE, 10 * PAGE), 0);
	CHECK(pc_readahead_miss(file->inode, &ra, 110 * PAGE, 2 * PAGE));
	EQUAL(ra.start, 110);
	EQUAL(ra.size, 12);
	EQUAL(ra.async_size, 1);
	struct pc_readahead short_run = {.max = 128, .prev_end = 3001 * PAGE, .start = 5};
	CHECK(!pc_readahead_miss(file->inode, &short_run, 110 * PAGE, 10 * PAGE));
	EQUAL(short_run.start, 5);
}

TEST(check_two_streams_on_one_handle_both_get_on)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 64};
	u32 waited = 0;
	for (u64 page = 0; page < 500; page++) {
		waited += read_pages(&ra, page, 1);
		read_meanwhile();
		waited += read_pages(&ra, 2000 + page, 1);
		read_meanwhile();
	}
	CHECK(waited < 60); /* 1000 without readahead */
}

TEST(check_valid_bytes_are_skipped)
{
	start(PAGES, PAGE);
	EQUAL(file_write(file, 10 * PAGE + 5, "x", 1), 0); /* partly valid, dirty */
	struct pc_request *r = begin_fill(file, 20 * PAGE, PAGE); /* locked by another thread */
	struct pc_readahead ra = {.start = 0, .size = 32, .async_size = 32, .max = 32};
	CHECK(pc_readahead_submit(file->inode, &ra) > 0);
	u32 reads = file->store.reads;
	read_meanwhile();
	CHECK(file->store.reads > reads);
	EQUAL(file->store.read_bytes, 30 * PAGE);
	CHECK(!(state_at(file, 10 * PAGE) & PC_F_UPTODATE));
	CHECK(state_at(file, 0) & PC_F_READAHEAD);
	run_fill(file, r);
}

TEST(check_it_never_reaches_beyond_the_end_or_into_the_last_memory)
{
	start(10, PAGE);
	struct pc_readahead ra = {.start = 8, .size = 32, .async_size = 32, .max = 32};
	pc_readahead_submit(file->inode, &ra);
	read_meanwhile();
	EQUAL(usage(file, NULL).cached, 2 * PAGE);
	ra = (struct pc_readahead){.start = 10, .size = 32, .async_size = 32, .max = 32};
	EQUAL(pc_readahead_submit(file->inode, &ra), 0);
	CHECK(!cached(10));

	start(PAGES, PAGE);
	EQUAL(pc_cache_resize(rig.cache, 256 * PAGE), 0);
	ra = (struct pc_readahead){.max = 4096};
	CHECK(pc_readahead_miss(file->inode, &ra, 0, PAGE));
	CHECK(ra.size <= 256 / 8); /* it would evict itself */
	for (u64 k = 0; k < 256; k++)
		EQUAL(file_write(file, (1000 + k) * PAGE, bytes, PAGE), 0); /* nothing can be evicted */
	EQUAL(pc_readahead_submit(file->inode, &ra), 0);
	SOUND(&rig);
	EQUAL(pc_cache_resize(rig.cache, 64 << 20), 0);
}

TEST(check_a_busy_backend_gets_no_read_ahead)
{
	start(PAGES, PAGE);
	for (int k = 0; k < 7; k++)
		CHECK(pc_credit_try(rig.volume));
	struct pc_readahead ra = {.start = 0, .size = 32, .async_size = 32, .max = 32};
	EQUAL(pc_readahead_submit(file->inode, &ra), 0); /* 7 of 8 in flight */
	for (int k = 0; k < 7; k++)
		pc_credit_put(rig.volume, 1);
	CHECK(pc_readahead_submit(file->inode, &ra) > 0);
}

TEST(check_pages_evicted_unread_halve_the_next_window)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.start = 0, .size = 32, .async_size = 32, .max = 64};
	pc_readahead_submit(file->inode, &ra);
	read_meanwhile();
	while (pc_reclaim(rig.cache, 64))
		;
	EQUAL(atomic_load(&file->inode->unread_evicted), 32);
	ra = (struct pc_readahead){.max = 64};
	pc_readahead_miss(file->inode, &ra, 0, 40 * PAGE);
	EQUAL(ra.size, 40); /* of at most 32 */
	ra.prev_end = 100 * PAGE;
	pc_readahead_miss(file->inode, &ra, 100 * PAGE, 40 * PAGE);
	EQUAL(ra.size, 64); /* once */
}

TEST(check_a_failed_window_raises_no_error)
{
	start(PAGES, PAGE);
	file->store.read_error = -EIO;
	struct pc_readahead ra = {.start = 0, .size = 32, .async_size = 32, .max = 32};
	CHECK(pc_readahead_submit(file->inode, &ra) > 0);
	read_meanwhile();
	EQUAL(usage(file, NULL).folios, 0);
	file->store.read_error = 0;
	EQUAL(file_read(file, 0, bytes, 32 * PAGE), 32 * PAGE);
}
