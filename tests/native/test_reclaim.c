/* Eviction when memory is short: bounded work, never local or pinned folios, never waiting; hits survive a scan. */
#include "rig.h"

static u8 bytes[8 << 20];

static void start(u64 pages, u64 size)
{
	rig_open(&rig, pages * PAGE, PAGE);
	pc_cache_configure(rig.cache, pages * PAGE, pages * PAGE, PAGE, false);
	file = file_open(&rig, size, size);
}

static void touch(u64 page)
{
	EQUAL(file_read(file, page * PAGE, bytes, PAGE), PAGE);
}

static void touch_all(u64 from, u64 to)
{
	for (u64 k = from; k < to; k++)
		touch(k);
}

/* Write some bytes of the first pages. */
static void dirty(u64 pages, u64 len)
{
	for (u64 k = 0; k < pages; k++)
		EQUAL(file_write(file, k * PAGE, bytes, len), 0);
}

static u32 nr_cached(u64 from, u64 to)
{
	u32 nr = 0;
	for (u64 k = from; k < to; k++)
		nr += cached(k);
	return nr;
}

/* Hit pages four times, then pass once over more than fits. Return: how many of the first are still cached. */
static u32 hit_and_scan(u64 hit, u64 from, u64 to)
{
	for (int times = 0; times < 4; times++)
		touch_all(0, hit);
	touch_all(from, to);
	return nr_cached(0, hit);
}

/* P13: whatever was hit, is dirty or pinned, one call examines at most 64 folios. */
TEST(check_the_work_of_a_call_is_bounded)
{
	enum { N = 1500 };
	for (int state = 0; state < 5; state++) {
		start(N, 8 << 20);
		struct pc_pin pins[N];
		for (u64 k = 0; k < N; k++) {
			touch(k);
			for (int hit = 0; state == 1 && hit < 4; hit++)
				touch(k);
			if (state == 2 || (state == 4 && k % 10))
				EQUAL(file_write(file, k * PAGE, bytes, PAGE), 0);
			if (state == 3)
				pins[k] = read_pin(k * PAGE, 1);
		}
		EQUAL(cache_usage().used, N * PAGE);
		for (int again = 0; again <= 1; again++) {
			u64 before = cache_usage().evict_examined;
			bool freed = pc_reclaim(rig.cache, 1) > 0;
			EQUAL(freed, state != 2 && state != 3);
			if (again || state < 2) /* even when everything was hit; local or pinned folios are met once */
				CHECK(cache_usage().evict_examined - before <= 64);
		}
		CHECK(cache_usage().evict_examined_max <= 64);
		SOUND(&rig);
		for (u64 k = 0; state == 3 && k < N; k++)
			pc_unpin(rig.cache, &pins[k]);
	}
}

/* A page that becomes clean while reclaim takes it off its queue is not lost. */
THREAD(clean_all, EQUAL(file_sync(file), 0))

TEST(check_pages_that_become_clean_are_found_again)
{
	for (int round = 0; round < 150; round++) {
		start(256, 1 << 20);
		dirty(200, PAGE);
		pthread_t t;
		pthread_create(&t, NULL, clean_all, NULL);
		u32 freed = 0;
		for (int k = 0; k < 200; k++)
			freed += pc_reclaim(rig.cache, 1);
		pthread_join(t, NULL);
		while (pc_reclaim(rig.cache, 64))
			;
		EQUAL(usage(file, NULL).folios, 0);
	}
}

/* T-14: everything of one file is in flight on a stuck backend, its locks held: another file goes on. Reclaim has to
 * skip bytes in flight: if it waited for them, this check would hang. */
TEST_OF_FIX("reclaim_never_waits", check_a_stuck_file_stops_no_other_file)
{
	start(256, 1 << 20);
	struct pc_volume *v = volume_open(&rig);
	struct file *other = file_open_in(&rig, v, 4 << 20, 4 << 20, limits_wide());
	dirty(200, PAGE);
	struct pc_request *r = hand_over(); /* its answer does not come */
	for (u64 k = 0; k < 1000; k++)
		EQUAL(file_read(other, k * PAGE, bytes, PAGE), PAGE);
	run_write(file, r);
	EQUAL(file_sync(file), 0);
	/* Another thread holds its leaf lock: its pages are skipped. */
	CHECK(pc_leaf_trylock(&file->inode->leaf, PC_LEVEL_INODE));
	for (int k = 0; k < 20; k++)
		pc_reclaim(rig.cache, 1);
	pc_inode_leaf_unlock(file->inode);
	for (u64 k = 0; k < 200; k++) {
		struct pc_folio *f = cached(k) ? folio_at(file, k * PAGE) : NULL;
		CHECK(!f || pc_folio_trylock(f));
	}
	for (int k = 0; k < 50; k++)
		pc_reclaim(rig.cache, 1); /* locked folios are skipped too */
	for (u64 k = 0; k < 200; k++)
		if (cached(k))
			pc_folio_unlock(rig.cache, folio_at(file, k * PAGE));
}

TEST(check_large_blocks_do_not_cost_the_whole_cache)
{
	rig_open(&rig, 4096 * PAGE, 2 << 20);
	pc_cache_configure(rig.cache, 4096 * PAGE, 4096 * PAGE, 2 << 20, false);
	file = file_open(&rig, 8 << 20, 8 << 20);
	for (u64 k = 0; k < 2048; k += 2) /* every second page: no larger block is free */
		touch(k);
	for (u64 k = 1; k < 2048; k += 2)
		touch(k);
	for (u64 k = 0; k < 2048; k += 2)
		pc_drop_clean(file->inode, k * PAGE, (k + 1) * PAGE);
	u64 evicted = cache_usage().evicted;
	u32 order = 9, frame = pc_frame_get(rig.cache, &order, 9);
	CHECK(cache_usage().evicted - evicted <= 4 * 512 + 512);
	if (frame != PC_NO_FRAME)
		pc_arena_free(&rig.cache->arena, frame, 9);
}

/* All of the probation queue is being filled: the other queue is examined too. */
TEST_OF_FIX("a_stuck_queue_gives_way", check_folios_being_filled_do_not_hide_the_rest)
{
	enum { N = 40 };
	start(N, 4 << 20);
	for (u64 k = 0; k < 60; k++) /* folios read more than once are kept, on the main queue */
		touch(k % 20);
	touch_all(60, 100);
	pc_drop_clean(file->inode, 20 * PAGE, ALL);
	EQUAL(rig.cache->main.pages, 20);
	EQUAL(rig.cache->small.pages, 0);
	struct pc_request *r = begin_fill(file, 200 * PAGE, 20 * PAGE);
	EQUAL(cache_usage().used, N * PAGE);
	EQUAL(pc_reclaim(rig.cache, 5), 5);
	EQUAL(run_fill(file, r), 0);
}

/* NOREUSE: folios read only once go first; small reads of a page are one use; others' use counts. */
TEST(check_folios_read_once_go_first)
{
	start(100, 4 << 20);
	touch_all(0, 80);
	for (u64 k = 80; k < 100; k++)
		for (u64 part = 0; part < 4; part++) {
			EQUAL(file_read(file, k * PAGE + part * 1024, bytes, 1024), 1024);
			pc_reclaim_soon(file->inode, k * PAGE + part * 1024, k * PAGE + (part + 1) * 1024);
		}
	for (int hit = 0; hit < 3; hit++)
		touch_all(90, 95); /* another reader uses these */
	touch_all(200, 215);
	for (u64 k = 0; k < 100; k++)
		EQUAL(cached(k), k < 80 || (k >= 90 && k < 95));
	pc_reclaim_soon(file->inode, 0, 10); /* not read to the end of the page */
	pc_reclaim_soon(file->inode, 500 * PAGE, 600 * PAGE); /* not cached */
	touch(300);
}

static void read_ahead(u64 from, u64 to)
{
	for (u64 stop; from < to; from = stop) {
		struct pc_request *r = pc_fill_window(file->inode, from, to, false, &stop);
		CHECK(r && stop > from);
		pc_fill_submit(r, PC_WORK_READAHEAD);
		work_all(rig.volume);
	}
}

/* A reader with two windows ahead, of a quarter of the cache together, and that many reads of each folio: nothing is
 * evicted before it gets there. */
static void read_in_windows(u64 from, u64 to, u64 window, u32 reads)
{
	read_ahead(from, from + window);
	for (u64 k = from; k < to; k++) {
		if ((k - from) % window == 0 && k + window < to)
			read_ahead(k + window, k + 2 * window);
		for (u32 n = 0; n < reads; n++)
			touch(k);
	}
	EQUAL(atomic_load(&file->inode->unread_evicted), 0);
}

/* Probation is a tenth beside pages that are hit, and as large as the windows need while they are read. 2.23 */
TEST(check_readahead_folios_stay_until_they_are_read)
{
	start(1000, 32 << 20);
	u32 hit = hit_and_scan(850, 1000, 1300);
	CHECK(hit >= 800);
	read_in_windows(2000, 4000, 125, 1);
	CHECK(nr_cached(0, 850) + 2 * 125 >= hit);
}

TEST(check_readahead_folios_stay_however_often_others_are_read)
{
	for (u32 reads = 1; reads <= 3; reads++) {
		/* Earlier caching is no use of a readahead folio: on the main queue it would go before folios that were
		 * read twice. */
		start(1000, 16 << 20);
		for (int hit = 0; hit < 2; hit++)
			touch_all(0, 1500);
		read_in_windows(0, 1500, 125, reads);
		read_in_windows(0, 1500, 125, reads);
		/* There is no main queue yet, and read folios move there, so probation holds only the readahead ones. */
		start(1000, 32 << 20);
		read_in_windows(0, 4000, 125, reads);
	}
}

/* A reader that never comes costs others at most half of the cache, and only until its folios have been round once. */
TEST(check_folios_without_a_reader_go)
{
	start(1000, 32 << 20);
	CHECK(hit_and_scan(850, 1000, 1300) >= 800);
	for (u64 k = 2000; k < 6000; k += 100)
		read_ahead(k, k + 100);
	CHECK(nr_cached(0, 850) >= 420);
	touch_all(6000, 8000);
	EQUAL(nr_cached(2000, 6000), 0);
	CHECK(nr_cached(0, 850) >= 420);
}

/* Read all pages once, in order or shuffled. Return: hits. */
static u32 epoch(u64 pages, u64 seed)
{
	static u32 order[8 << 20 >> 12];
	for (u32 k = 0; k < pages; k++)
		order[k] = k;
	for (u32 k = (u32)pages - 1; seed && k > 0; k--) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		u32 other = (u32)(seed >> 33) % (k + 1), page = order[k];
		order[k] = order[other];
		order[other] = page;
	}
	u32 hits = 0;
	for (u32 k = 0; k < pages; k++) {
		hits += cached(order[k]);
		touch(order[k]);
	}
	return hits;
}

/* Twice as much as fits, again and again: a page less at most in ten of those that could be hit. 2.23 */
TEST(check_epochs_hit_what_fits)
{
	for (u32 shuffled = 0; shuffled < 2; shuffled++) {
		start(1000, 8 << 20);
		u32 hits = 0;
		for (u64 n = 1; n <= 8; n++)
			hits = epoch(2000, shuffled ? n : 0);
		CHECK(hits >= 900 && hits <= 1000);
		/* What follows is cached as ever: pages that are hit take the place of those that no longer are. */
		for (int times = 0; times < 6; times++)
			touch_all(2040, 2048);
		EQUAL(nr_cached(2040, 2048), 8);
	}
}

/* A program that reads something else from now on: its pages replace those of the epochs. 2.23 */
TEST(check_the_pages_of_ended_epochs_go)
{
	start(500, 8 << 20);
	for (int n = 0; n < 6; n++)
		epoch(1000, 0);
	for (int times = 0; times < 12; times++)
		touch_all(1200, 1600);
	CHECK(nr_cached(1200, 1600) >= 380);
}
