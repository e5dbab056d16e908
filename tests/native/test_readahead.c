/* Readahead: how far a stream is extended, markers, interleaved streams, budgets, and forbidden effects. */
#include "rig.h"

enum { PAGES = 4096 };

static u8 bytes[1 << 20];

static void start(u64 pages, u64 max_folio)
{
	open_one(64 << 20, max_folio, pages * PAGE, pages * PAGE, limits_wide());
	pc_volume_set_calls(rig.volume, true, false); /* requests of one size */
}

/* Read as the C entry does. Return: number of backend calls it waited for. */
static u32 read_pages(struct pc_readahead *ra, u64 index, u64 nr)
{
	struct pc_need need = {0};
	u32 waited = 0;
	u64 pos = index * PAGE, len = nr * PAGE, done = 0;
	while (done < len) {
		done += (u64)pc_read(file->inode, pos + done, bytes, len - done, &need);
		if (need.readahead)
			pc_readahead_marker(file->inode, ra, need.marker);
		if (done == len || need.kind == PC_NEED_NOTHING)
			break;
		u32 before = file->store.reads;
		EQUAL(provide(file, &need), 0);
		waited += file->store.reads - before;
		if (need.kind == PC_NEED_FILL)
			pc_readahead_miss(file->inode, ra, pos + done, len - done, pos + len);
	}
	pc_readahead_seen(ra, pos, len);
	return waited;
}

static u32 miss(struct pc_readahead *ra, u64 index, u64 nr)
{
	return pc_readahead_miss(file->inode, ra, index * PAGE, nr * PAGE, (index + nr) * PAGE);
}

/* Contract 2.6: at the start of a stream four times a small read, twice a large one, at most the window. */
TEST(check_the_first_extension)
{
	struct {
		u32 max;
		u64 nr, end;
	} rows[] = {{128, 1, 4},  {128, 4, 16}, {128, 32, 128}, {128, 40, 80}, {32, 1, 4},
		    {32, 16, 48}, {8, 4, 12},   {1, 1, 2},      {0, 1, 1}};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		start(PAGES, PAGE);
		struct pc_readahead ra = {.max = rows[k].max};
		EQUAL(miss(&ra, 0, rows[k].nr), rows[k].max > 0);
		EQUAL(ra.from, rows[k].max ? 0 : UINT64_MAX);
		EQUAL(ra.end, rows[k].end);
	}
}

/* Each marker takes a stream to sixteen times what its reader has read, and to the window in flight at most. */
TEST(check_streams_grow_on_their_markers)
{
	u64 ends[] = {4, 16, 64, 64 + 128, 64 + 256, 64 + 384};
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 128};
	EQUAL(read_pages(&ra, 0, 1), 1);
	u64 page = 1;
	for (u32 k = 0; k < 6; k++) {
		EQUAL(ra.end, ends[k]);
		work_all(rig.volume);
		for (; page < (k ? ends[k - 1] : 1); page++)
			EQUAL(read_pages(&ra, page, 1), 0); /* never waits again */
		CHECK(state_at(file, page * PAGE) & PC_F_READAHEAD);
		EQUAL(read_pages(&ra, page++, 1), 0);
	}
}

TEST(check_random_reads_fetch_what_was_asked)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 128};
	for (u64 k = 1; k < 200; k++) {
		read_pages(&ra, k * 1237 % 4000 + 10, 1);
		work_all(rig.volume);
	}
	EQUAL(file->store.read_bytes, usage(file, NULL).cached);
	CHECK(usage(file, NULL).cached <= 200 * PAGE);
	struct pc_readahead off = {.max = 0};
	EQUAL(miss(&off, 0, 1), 0);
	EQUAL(pc_readahead_marker(file->inode, &off, 0), 0);
}

/* A miss behind a cached run that is longer than the request: a stream that began where the run does. */
TEST(check_a_run_before_the_miss_is_taken_for_a_stream)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 128, .prev_end = 3001 * PAGE};
	EQUAL(fill_range(file, 100 * PAGE, 10 * PAGE), 0);
	EQUAL(miss(&ra, 110, 2), 1);
	EQUAL(ra.from, 100);
	EQUAL(ra.end, 240);
	struct pc_readahead short_run = {.max = 128, .prev_end = 3001 * PAGE};
	EQUAL(miss(&short_run, 300, 10), 0);
	EQUAL(short_run.from, UINT64_MAX);
}

TEST(check_two_streams_on_one_handle_both_get_on)
{
	start(PAGES, PAGE);
	struct pc_readahead ra = {.max = 64};
	u32 waited = 0;
	for (u64 page = 0; page < 500; page++) {
		waited += read_pages(&ra, page, 1);
		work_all(rig.volume);
		waited += read_pages(&ra, 2000 + page, 1);
		work_all(rig.volume);
	}
	CHECK(waited < 60); /* 1000 without readahead */
}

/* A stream whose reader has reached `marker` of what was requested up to `end`, with `max` pages before it. */
static u32 extend(struct pc_readahead *ra, u64 marker, u64 end, u32 max)
{
	*ra = (struct pc_readahead){.end = end, .max = max};
	return pc_readahead_marker(file->inode, ra, marker);
}

TEST(check_valid_bytes_are_skipped)
{
	start(PAGES, PAGE);
	EQUAL(file_write(file, 110 * PAGE + 5, "x", 1), 0); /* partly valid, dirty */
	struct pc_request *r = begin_fill(file, 120 * PAGE, PAGE); /* locked by another thread */
	struct pc_readahead ra;
	EQUAL(extend(&ra, 99, 100, 32), 1);
	u32 reads = file->store.reads;
	work_all(rig.volume);
	CHECK(file->store.reads > reads);
	EQUAL(file->store.read_bytes, 30 * PAGE);
	CHECK(!(state_at(file, 110 * PAGE) & PC_F_UPTODATE));
	CHECK(state_at(file, 100 * PAGE) & PC_F_READAHEAD);
	run_fill(file, r);
}

TEST(check_it_never_reaches_beyond_the_end_or_into_the_last_memory)
{
	start(110, PAGE);
	struct pc_readahead ra;
	EQUAL(extend(&ra, 99, 108, 32), 1);
	work_all(rig.volume);
	EQUAL(usage(file, NULL).cached, 2 * PAGE);
	EQUAL(extend(&ra, 99, 110, 32), 0);
	CHECK(!cached(110));

	start(PAGES, PAGE);
	EQUAL(pc_cache_resize(rig.cache, 256 * PAGE), 0);
	EQUAL(extend(&ra, 99, 100, 4096), 1); /* an eighth of the cache */
	EQUAL(atomic_load(&rig.cache->ahead), 256 / 8);
	work_all(rig.volume);
	EQUAL(atomic_load(&rig.cache->ahead), 0);
	for (u64 k = 0; k < 256; k++)
		EQUAL(file_write(file, (1000 + k) * PAGE, bytes, PAGE), 0); /* nothing can be evicted */
	EQUAL(extend(&ra, 199, 200, 4096), 0);
	SOUND(&rig);
	EQUAL(pc_cache_resize(rig.cache, 64 << 20), 0);
}

/* Requests that wait for a thread would only take memory: no more of them than may run. */
TEST(check_a_busy_backend_gets_no_more_read_ahead)
{
	start(PAGES, PAGE);
	pc_volume_set_inflight(rig.volume, 2);
	struct pc_readahead ra;
	EQUAL(extend(&ra, 99, 100, 4096) + extend(&ra, 999, 1000, 4096), 2);
	EQUAL(extend(&ra, 1999, 2000, 4096), 0);
	work_all(rig.volume);
	EQUAL(extend(&ra, 1999, 2000, 4096), 1);
}

/* All streams of a cache together have an eighth of it in flight; one that comes later gets its part. */
TEST(check_streams_share_an_eighth_of_the_cache)
{
	start(PAGES, PAGE);
	pc_volume_set_inflight(rig.volume, 64);
	EQUAL(pc_cache_resize(rig.cache, 2048 * PAGE), 0);
	struct pc_readahead ra[9];
	for (u32 k = 0; k < 9; k++) {
		extend(&ra[k], 100 + 300 * k, 101 + 300 * k, 4096);
		CHECK(atomic_load(&rig.cache->ahead) <= 256);
	}
	EQUAL(atomic_load(&rig.cache->ahead), 256);
	EQUAL(atomic_load(&rig.volume->ahead), 256);
	work_all(rig.volume);
	EQUAL(atomic_load(&rig.cache->ahead), 0);
	EQUAL(atomic_load(&rig.volume->ahead), 0);
	EQUAL(pc_cache_resize(rig.cache, 64 << 20), 0);
}

TEST(check_pages_evicted_unread_halve_the_window)
{
	start(PAGES, PAGE);
	struct pc_readahead ra;
	EQUAL(extend(&ra, 99, 100, 64), 1);
	EQUAL(ra.end, 164);
	work_all(rig.volume);
	while (pc_reclaim(rig.cache, 64))
		;
	EQUAL(atomic_load(&file->inode->unread_evicted), 64);
	pc_readahead_marker(file->inode, &ra, 163);
	EQUAL(ra.end, 164 + 32);
	work_all(rig.volume);
	EQUAL(ra.shrink, 1);
	pc_readahead_marker(file->inode, &ra, 195);
	EQUAL(ra.end, 196 + 32);
	work_all(rig.volume);
	u64 ends[] = {163 + 4 * 32 + 1, 300}; /* four windows later, and behind that */
	for (u32 k = 0; k < 2; k++) {
		ra.end = ends[k];
		pc_readahead_marker(file->inode, &ra, ends[k] - 1);
		EQUAL(ra.shrink, !k);
	}
}
