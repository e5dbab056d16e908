/* Passes and requests: what goes into one call, who gets the token when, what is marked and for how long. */
#include "rig.h"

enum { ROOM = 4 << 20 };

static struct rig rig;
static struct file *file;
static u8 want[ROOM];

static void start(u64 max_folio, struct pc_limits l)
{
	rig_open(&rig, 16 << 20, max_folio);
	file = file_open_in(&rig, rig.volume, 0, ROOM, l);
	for (u32 k = 0; k < ROOM; k++)
		want[k] = (u8)(k % 251 + k / 4096);
}

static void put(u64 pos, u64 len)
{
	EQUAL(file_write(file, pos, want + pos, len), 0);
}

static struct pc_request *next(void)
{
	struct pc_request *r;
	pc_write_next(file->inode, &r);
	return r;
}

/* ---------------------------------------------------------------- building requests */

/* T-08: calls for a MiB of 4 KiB pages, in order and scattered in memory. */
static void check_contiguous_dirty_pages_are_one_call(void)
{
	struct {
		u64 max_write, max_folio;
		u32 calls;
	} rows[] = {{1 << 20, PAGE, 1},
		    {64 << 10, PAGE, 16},
		    {PAGE, PAGE, 256},
		    {1 << 20, 64 << 10, 1},
		    {100000, 64 << 10, 11}};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		struct pc_limits l = limits_wide();
		l.max_write = rows[k].max_write;
		start(rows[k].max_folio, l);
		for (u32 n = 0; n < 256; n++) {
			u64 page = (n * 77) % 256;
			if (rows[k].max_folio == PAGE)
				put(page * PAGE, PAGE);
		}
		if (rows[k].max_folio > PAGE)
			put(0, 1 << 20);
		EQUAL(flush(file), 0);
		EQUAL(file->store.writes, rows[k].calls);
		EQUAL(file->store.write_bytes, 1 << 20);
		CHECK(memcmp(file->store.bytes, want, 1 << 20) == 0);
		rig_close(&rig);
	}
}

/* T-09 */
static void check_a_request_ends_where_it_must(void)
{
	struct {
		const char *why;
		u64 max_write, boundary;
		u32 max_vectors;
		u64 writes[4][2];
		u32 requests, calls;
	} rows[] = {
		{"a gap", 1 << 20, 0, 64, {{0, 8192}, {12288, 4096}}, 2, 2},
		{"max_write", 8192, 0, 64, {{0, 20480}}, 3, 3},
		{"a max_write of no whole page", 5000, 0, 64, {{0, 12288}}, 3, 3},
		{"a max_write below a page", 1000, 0, 64, {{0, 4096}}, 1, 5},
		{"a boundary", 1 << 20, 8192, 64, {{4096, 16384}}, 3, 3},
		{"a boundary within pages", 1 << 20, 6000, 64, {{0, 12288}}, 1, 3}, /* the calls end there */
		{"vectors", 1 << 20, 0, 2, {{12288, 4096}, {0, 4096}, {8192, 4096}, {4096, 4096}}, 2, 2},
		{"a partly dirty head and tail", 1 << 20, 0, 64, {{1000, 8192}}, 1, 1},
		{"extents in one block", 1 << 20, 0, 64, {{16384 + 100, 10}, {16384 + 200, 10}}, 1, 2},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		struct pc_limits l = limits_wide();
		l.max_write = rows[k].max_write;
		l.boundary = rows[k].boundary;
		l.max_vectors = rows[k].max_vectors;
		rig_open(&rig, 16 << 20, PAGE);
		file = file_open_in(&rig, rig.volume, 32768, ROOM, l); /* uncached pages stay ragged */
		u64 bytes = 0;
		for (u32 n = 0; n < 4 && rows[k].writes[n][1]; n++) {
			put(rows[k].writes[n][0], rows[k].writes[n][1]);
			bytes += rows[k].writes[n][1];
		}
		EQUAL(flush(file), 0);
		struct pc_counters c;
		usage(file, &c);
		if (c.write_requests != rows[k].requests || file->store.writes != rows[k].calls)
			check_failed(__FILE__, __LINE__, rows[k].why, c.write_requests, file->store.writes);
		EQUAL(file->store.write_bytes, bytes);
		for (u32 n = 0; n < 4; n++)
			CHECK(memcmp(file->store.bytes + rows[k].writes[n][0], want + rows[k].writes[n][0],
				     rows[k].writes[n][1]) == 0);
		rig_close(&rig);
	}
}

/* T-09, T-33: the requests themselves, as [start, end); folios of both sizes side by side. */
static void check_requests_cross_and_split_folios(void)
{
	enum { K = 1 << 10 };
	struct {
		const char *why;
		u64 max_folio, size, max_write, boundary;
		u32 max_vectors;
		u64 writes[5][2];
		u64 requests[8][2];
	} rows[] = {
		{"one request over folios of all sizes",
		 64 * K,
		 0,
		 1 << 20,
		 0,
		 64,
		 {{0, 64 * K}, {64 * K, 4 * K}, {68 * K, 4 * K}, {72 * K, 8 * K}, {80 * K, 48 * K}},
		 {{0, 128 * K}}},
		{"max_write splits a folio",
		 64 * K,
		 0,
		 40 * K,
		 0,
		 64,
		 {{0, 128 * K}},
		 {{0, 40 * K}, {40 * K, 80 * K}, {80 * K, 120 * K}, {120 * K, 128 * K}}},
		{"max_write of no whole page",
		 64 * K,
		 0,
		 30000,
		 0,
		 64,
		 {{0, 64 * K}},
		 {{0, 28 * K}, {28 * K, 56 * K}, {56 * K, 64 * K}}},
		{"a boundary inside a folio",
		 64 * K,
		 0,
		 1 << 20,
		 24 * K,
		 64,
		 {{0, 64 * K}},
		 {{0, 24 * K}, {24 * K, 48 * K}, {48 * K, 64 * K}}},
		{"the nearer of max_write and boundary",
		 64 * K,
		 0,
		 20 * K,
		 32 * K,
		 64,
		 {{0, 64 * K}},
		 {{0, 20 * K}, {20 * K, 32 * K}, {32 * K, 52 * K}, {52 * K, 64 * K}}},
		{"segments are counted, not folios",
		 64 * K,
		 0,
		 1 << 20,
		 0,
		 2,
		 {{0, 64 * K}, {64 * K, 4 * K}, {68 * K, 4 * K}, {72 * K, 4 * K}},
		 {{0, 68 * K}, {68 * K, 76 * K}}},
		{"the end of the file inside a folio",
		 64 * K,
		 0,
		 1 << 20,
		 0,
		 64,
		 {{0, 64 * K}, {64 * K, 5}},
		 {{0, 64 * K + 5}}},
		{"clean blocks inside a folio",
		 64 * K,
		 64 * K,
		 1 << 20,
		 0,
		 64,
		 {{8 * K, 4 * K}, {16 * K, 12 * K}},
		 {{8 * K, 12 * K}, {16 * K, 28 * K}}},
		{"a ragged head and tail join their neighbours",
		 4 * K,
		 64 * K,
		 1 << 20,
		 0,
		 64,
		 {{3 * K, 2 * K}, {5 * K, 5 * K}},
		 {{3 * K, 10 * K}}},
		{"extents of one block stay together, in two calls",
		 4 * K,
		 64 * K,
		 1 << 20,
		 0,
		 64,
		 {{3 * K, 2 * K}, {6 * K, 5 * K}},
		 {{3 * K, 11 * K}}},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		struct pc_limits l = limits_wide();
		l.max_write = rows[k].max_write;
		l.boundary = rows[k].boundary;
		l.max_vectors = rows[k].max_vectors;
		rig_open(&rig, 16 << 20, rows[k].max_folio);
		file = file_open_in(&rig, rig.volume, rows[k].size, ROOM, l);
		memcpy(want, file->store.bytes, rows[k].size);
		if (rows[k].size && rows[k].max_folio > PAGE)
			EQUAL(file_read(file, 0, want, rows[k].size), rows[k].size); /* in large folios */
		for (u32 n = 0; n < 5 && rows[k].writes[n][1]; n++)
			put(rows[k].writes[n][0], rows[k].writes[n][1]);
		pc_flush_start(file->inode, ALL, 0, ALL);
		struct pc_request *r;
		for (u32 n = 0; (r = next()); n++) {
			if (n >= 8 || r->start != rows[k].requests[n][0] || r->end != rows[k].requests[n][1])
				check_failed(__FILE__, __LINE__, rows[k].why, r->start, r->end);
			CHECK(rows[k].requests[n][1]);
			run_write(file, r);
			if (n + 1 == 8 || !rows[k].requests[n + 1][1])
				CHECK(usage(file, NULL).dirty == 0);
		}
		u64 size = pc_inode_size(file->inode);
		EQUAL(file->store.size, size);
		EQUAL(file_sync(file), 0);
		CHECK(memcmp(file->store.bytes, want, size) == 0);
		rig_close(&rig);
	}
}

static void check_the_end_of_the_file_ends_the_last_request(void)
{
	start(64 << 10, limits_wide());
	put(0, 10001);
	EQUAL(flush(file), 0);
	EQUAL(file->store.write_bytes, 10001);
	EQUAL(file->store.size, 10001);
	EQUAL(pc_inode_remote_size(file->inode), 10001);
	rig_close(&rig);
}

/* T-10: what a backend is given lies in the arena. */
static void check_buffers_are_the_frames_themselves(void)
{
	struct pc_part parts[PARTS];
	size_t n;
	u64 pos;
	start(16 << 10, limits_wide());
	put(0, 100000);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r = next();
	EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
	for (size_t k = 0; k < n; k++) {
		CHECK(parts[k].memory >= rig.cache->arena.base);
		CHECK(parts[k].memory + parts[k].len <= rig.cache->arena.base + (16 << 20));
	}
	run_write(file, r);
	struct pc_cache_usage u;
	pc_cache_usage_get(rig.cache, &u);
	EQUAL(u.cow_copies, 0);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- answers */

static void check_short_answers_arrive_whole(void)
{
	u64 most[] = {1, 13, 4095, 4097, 50000, 99999};
	for (u32 k = 0; k < 6; k++) {
		start(k % 2 ? PAGE : 64 << 10, limits_wide());
		put(0, k ? 100000 : 5000);
		file->store.write_max = most[k];
		EQUAL(flush(file), 0);
		EQUAL(file->store.write_bytes, k ? 100000 : 5000);
		CHECK(memcmp(file->store.bytes, want, k ? 100000 : 5000) == 0);
		rig_close(&rig);
	}
}

static void check_impossible_answers_are_refused(void)
{
	struct pc_part parts[PARTS];
	size_t n;
	u64 pos;
	start(PAGE, limits_wide());
	put(0, 5000);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r = next();
	EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
	EQUAL(pc_write_answer(r, -5), (u64)-EPROTO);
	EQUAL(pc_write_answer(r, 5001), (u64)-EPROTO);
	EQUAL(pc_write_answer(r, 0), 0);
	EQUAL(pc_write_answer(r, 0), 0);
	EQUAL(pc_write_answer(r, 0), (u64)-EIO); /* no progress three times */
	pc_write_done(r, false, true);
	EQUAL(usage(file, NULL).failed, 2 * PAGE);
	CHECK(!next());
	rig_close(&rig);
}

/* T-32: limits of the moment count, acknowledged parts are not sent again. */
static void check_a_retry_is_divided_anew_and_sends_only_what_is_left(void)
{
	u64 limits[] = {8192, 1 << 20, 20480};
	for (u32 k = 0; k < 3; k++) {
		struct pc_limits l = limits_wide();
		l.max_write = 20480;
		start(16 << 10, l);
		put(0, 61440);
		file->store.write_error = -EIO;
		file->store.write_fails_at = 40960; /* two requests get through */
		EQUAL(flush(file), PC_PENDING_BACKOFF);
		EQUAL(file->store.write_bytes, 40960);
		u64 bytes = file->store.write_bytes;
		file->store.write_error = 0;
		l.max_write = limits[k];
		pc_inode_set_limits(file->inode, &l);
		EQUAL(flush(file), PC_PENDING_BACKOFF); /* not before its time */
		pc_retry(file->inode, 0, ALL, false);
		u32 calls = file->store.writes;
		EQUAL(flush(file), 0);
		EQUAL(file->store.write_bytes - bytes, 20480);
		EQUAL(file->store.writes - calls, k == 0 ? 3 : 1);
		CHECK(memcmp(file->store.bytes, want, 61440) == 0);
		rig_close(&rig);
	}
}

/* ---------------------------------------------------------------- passes */

static void check_a_flush_takes_what_was_dirty_and_nothing_later(void)
{
	start(PAGE, limits_wide());
	put(0, PAGE);
	u64 s = pc_epoch_take(rig.volume);
	put(8192, PAGE);
	EQUAL(pc_flush_start(file->inode, s, 0, ALL), PAGE);
	struct pc_request *r = next();
	EQUAL(r->start, 0);
	EQUAL(r->end, PAGE);
	put(16384, PAGE);
	run_write(file, r);
	CHECK(!next());
	EQUAL(usage(file, NULL).dirty, 2 * PAGE);
	EQUAL(pc_flush_pending(file->inode, s, 0, ALL, NULL), 0);
	EQUAL(pc_flush_start(file->inode, ALL, 8192, 12288), PAGE); /* a range */
	EQUAL(flush_range(file, ALL, 8192, 12288), 0);
	EQUAL(usage(file, NULL).dirty, PAGE);
	rig_close(&rig);
}

static void check_a_running_pass_takes_new_marks_along(void)
{
	start(PAGE, limits_wide());
	put(20480, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *first = next();
	put(0, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *second = next(); /* behind the cursor, and found all the same */
	EQUAL(second->start, 0);
	put(0, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL); /* in flight: after its answer */
	CHECK(!next());
	run_write(file, second);
	struct pc_request *third = next();
	CHECK(!third || third->start == 0);
	if (third)
		run_write(file, third);
	run_write(file, first);
	while (work(rig.volume))
		;
	EQUAL(usage(file, NULL).dirty, 0);
	SOUND(&rig);
	rig_close(&rig);
}

static void check_a_background_pass_keeps_its_budget_and_gives_way(void)
{
	struct pc_limits l = limits_wide();
	l.max_write = PAGE;
	start(PAGE, l);
	for (u32 k = 0; k < 20; k++)
		put(k * 2 * PAGE, PAGE);
	CHECK(pc_pass_background(file->inode, 3 * PAGE));
	CHECK(!pc_pass_background(file->inode, PAGE)); /* one at a time */
	while (work(rig.volume))
		;
	EQUAL(file->store.writes, 3);
	CHECK(pc_pass_background(file->inode, 1)); /* at least one folio */
	struct pc_request *r = next();
	EQUAL(file->inode->token, PC_TOKEN_PASS);
	struct pc_waiter w = {0};
	pc_inode_leaf_lock(file->inode);
	CHECK(!pc_token_take(file->inode, &w, PC_TOKEN_CALLER));
	pc_inode_leaf_unlock(file->inode);
	CHECK(!next()); /* somebody waits for the token */
	run_write(file, r);
	CHECK(!next());
	EQUAL(atomic_load(&w.word), PC_GRANTED);
	CHECK(!pc_pass_background(file->inode, ALL >> 1));
	pc_token_release(file->inode);
	EQUAL(file->store.writes, 4);
	rig_close(&rig);
}

static void check_an_integrity_pass_gives_way_after_its_turn_and_comes_back(void)
{
	struct pc_limits l = limits_wide();
	l.max_write = PAGE;
	start(PAGE, l);
	put(0, 200 * PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r = next();
	struct pc_waiter w = {0};
	pc_inode_leaf_lock(file->inode);
	CHECK(!pc_token_take(file->inode, &w, PC_TOKEN_CALLER));
	pc_inode_leaf_unlock(file->inode);
	u32 issued = 0;
	for (; r; r = next(), issued++)
		run_write(file, r);
	EQUAL(issued, 64);
	EQUAL(atomic_load(&w.word), PC_GRANTED);
	SOUND(&rig);
	pc_token_release(file->inode);
	while (work(rig.volume))
		;
	EQUAL(usage(file, NULL).dirty, 0);
	EQUAL(file->store.writes, 200);
	rig_close(&rig);
}

/* An fsync joins a background pass: what it marked is issued, the rest of the background work is not once somebody queues. */
static void check_background_work_ends_with_its_turn_though_an_fsync_joined_it(void)
{
	struct pc_limits l = limits_wide();
	l.max_write = PAGE;
	start(PAGE, l);
	put(0, 6 * PAGE);
	CHECK(pc_pass_background(file->inode, ALL >> 1));
	struct pc_request *r[8];
	CHECK(r[0] = next());
	pc_flush_start(file->inode, ALL, 4 * PAGE, 6 * PAGE);
	struct pc_waiter w = {0};
	pc_inode_leaf_lock(file->inode);
	CHECK(!pc_token_take(file->inode, &w, PC_TOKEN_CALLER));
	pc_inode_leaf_unlock(file->inode);
	CHECK((r[1] = next()) && r[1]->start == 4 * PAGE);
	CHECK((r[2] = next()) && r[2]->start == 5 * PAGE);
	CHECK(!next());
	for (u32 k = 0; k < 3; k++)
		run_write(file, r[k]);
	CHECK(!next());
	EQUAL(atomic_load(&w.word), PC_GRANTED);
	EQUAL(usage(file, NULL).dirty, 3 * PAGE);
	pc_token_release(file->inode);
	rig_close(&rig);
}

/* Wanted while it is in flight: it goes again as soon as its answer is there, whatever else of the file still runs. */
static void check_a_page_marked_in_flight_follows_its_answer(void)
{
	start(PAGE, limits_wide());
	put(0, PAGE);
	put(40960, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *first = next(), *hung = next();
	CHECK(first && hung);
	put(0, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	CHECK(!next());
	run_write(file, first);
	struct pc_request *again = next();
	CHECK(again && again->start == 0);
	run_write(file, again);
	run_write(file, hung);
	CHECK(!next());
	rig_close(&rig);
}

static u32 marked(void)
{
	u32 n = 0;
	pc_inode_leaf_lock(file->inode);
	for (u64 k = 0; k < ROOM / PAGE; k++)
		n += pc_index_marked(file->inode, k, PC_MARK_TOWRITE);
	pc_inode_leaf_unlock(file->inode);
	return n;
}

/* Marks bound the work of a pass: each ends with a hand-over, a failure, a cut or an abort, and none outlives the last pass. */
static void check_no_mark_outlives_its_pass(void)
{
	start(PAGE, limits_wide());
	put(0, 10 * PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	EQUAL(marked(), 10);
	stop_the_file(file, 8 * PAGE, ALL); /* waits for the pass */
	EQUAL(marked(), 0);
	let_the_file_go(file);
	put(0, 10 * PAGE);
	file->store.write_error = -EIO;
	file->store.write_fails_at = 0;
	CHECK(flush(file) & PC_PENDING_BACKOFF);
	EQUAL(marked(), 0);
	pc_flush_start(file->inode, ALL, 0, ALL);
	EQUAL(marked(), 0); /* in back-off: nothing to wait for here */
	file->store.write_error = 0;
	pc_retry(file->inode, 0, ALL, true);
	pc_flush_start(file->inode, ALL, 0, 3 * PAGE);
	pc_volume_abort(rig.volume);
	pc_inode_aborted(file->inode);
	while (work(rig.volume))
		;
	EQUAL(marked(), 0);
	pc_flush_start(file->inode, ALL, 0, ALL);
	EQUAL(marked(), 0);
	SOUND(&rig);
	pc_volume_resume(rig.volume);
	rig_close(&rig);
}

/* Per-file share: below all of what the volume may have in flight. */
static void check_a_file_never_has_all_of_the_volumes_calls(void)
{
	u32 rows[][2] = {{1, 1}, {2, 1}, {3, 2}, {8, 7}, {64, 63}};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		struct pc_limits l = limits_wide();
		struct pc_request *r[80];
		l.max_write = PAGE;
		start(PAGE, l);
		pc_volume_set_inflight(rig.volume, rows[k][0]);
		put(0, 70 * PAGE);
		pc_flush_start(file->inode, ALL, 0, ALL);
		u32 n = 0;
		while ((r[n] = next()))
			n++;
		EQUAL(n, rows[k][1]);
		while (n)
			run_write(file, r[--n]);
		rig_close(&rig);
	}
}

/* While a big file's pass has all that it may have, a small file gets what is left, and its turn after that. */
static void check_a_big_file_does_not_starve_a_small_one(void)
{
	struct pc_limits l = limits_wide();
	struct pc_work w;
	struct pc_request *r[8];
	l.max_write = PAGE;
	start(PAGE, l);
	struct file *small = file_open_in(&rig, rig.volume, 0, ROOM, l);
	put(0, 1000 * PAGE);
	EQUAL(file_write(small, 0, want, 2 * PAGE), 0);
	pc_flush_start(file->inode, ALL, 0, ALL);
	u32 n = 0;
	for (pc_work_next(rig.volume, &w); w.kind != PC_WORK_NONE; pc_work_next(rig.volume, &w)) {
		CHECK(w.inode == file->inode);
		if (pc_write_next(w.inode, &r[n]) == 1)
			r[n++]->credit = 1;
		else
			pc_credit_put(rig.volume);
		pc_inode_user_put(w.inode);
	}
	EQUAL(n, 7);
	pc_flush_start(small->inode, ALL, 0, ALL);
	pc_work_next(rig.volume, &w);
	CHECK(w.kind == PC_WORK_PASS && w.inode == small->inode);
	CHECK(pc_write_next(w.inode, &r[n]) == 1);
	r[n++]->credit = 1;
	pc_inode_user_put(w.inode);
	for (u32 k = 0; k < n; k++)
		run_write(k < 7 ? file : small, r[k]);
	for (u32 k = 0; k < 4; k++) /* in turn: two of the small file's among the next four */
		work(rig.volume);
	EQUAL(usage(small, NULL).dirty + usage(small, NULL).writeback, 0);
	CHECK(usage(file, NULL).dirty > 900 * PAGE);
	rig_close(&rig);
}

/* ordered_writes: from low to high, the next after the answer of the one before; what comes behind waits for the next round. */
static void check_ordered_writes_ascend(void)
{
	struct pc_limits l = limits_wide();
	l.max_write = 2 * PAGE;
	l.ordered_writes = 1;
	start(PAGE, l);
	u64 pages[] = {9, 3, 20, 4, 30, 11}, at = 0;
	for (u32 k = 0; k < 6; k++)
		put(pages[k] * PAGE, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	u32 n = 0;
	for (struct pc_request *r; (r = next()); n++) {
		CHECK(r->start >= at);
		at = r->end;
		CHECK(!next());
		if (n == 1) {
			put(0, PAGE); /* behind: after the last */
			pc_flush_start(file->inode, ALL, 0, ALL);
		}
		run_write(file, r);
		if (at == 31 * PAGE)
			at = 0;
	}
	EQUAL(n, 6); /* 3+4, 9, 11, 20, 30, then 0 */
	rig_close(&rig);
}

static void check_requests_in_flight_are_bounded_per_file(void)
{
	struct pc_limits l = limits_wide();
	l.max_write = PAGE;
	start(PAGE, l);
	put(0, 20 * PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r[20];
	u32 n = 0;
	while ((r[n] = next()))
		n++;
	EQUAL(n, 7); /* max_inflight 8: one is left for others */
	l.ordered_writes = 1;
	pc_inode_set_limits(file->inode, &l);
	for (u32 k = 0; k < 6; k++) {
		run_write(file, r[k]);
		CHECK(!next());
	}
	run_write(file, r[6]);
	CHECK((r[0] = next()) && !next());
	run_write(file, r[0]);
	while (work(rig.volume))
		;
	EQUAL(usage(file, NULL).dirty, 0);
	rig_close(&rig);
}

/* A folio that a fill owns is handed over all the same; one in a writer's hands is tried again. */
static void check_no_pass_waits_for_a_fill(void)
{
	struct pc_need need;
	struct pc_request *fill;
	struct pc_part parts[PARTS];
	size_t n;
	u64 pos;
	rig_open(&rig, 4 << 20, PAGE);
	file = file_open(&rig, PAGE, PAGE);
	memset(want, 7, PAGE);
	put(100, 50);
	EQUAL(pc_fill_begin(file->inode, 0, PAGE, &need, &fill), 0);
	EQUAL(pc_call_next(fill, &pos, parts, PARTS, &n), 1);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r = next();
	EQUAL(r->start, 100);
	run_write(file, r);
	EQUAL(pc_fill_answer(fill, store_read(&file->store, pos, parts, n)), 0);
	run_fill(file, fill);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.write_bytes, 50);
	rig_close(&rig);
}

/* The window in which a fill had shown itself as owner and then unlocked without the leaf lock: a writer could slip in while
 * the pass took the folio for a fill's. */
static void *fill_once(void *arg)
{
	struct pc_need need;
	struct pc_request *r;
	(void)arg;
	EQUAL(pc_fill_begin(file->inode, 0, 10, &need, &r), 0);
	CHECK(!r); /* everything asked for became valid meanwhile */
	return NULL;
}

static void check_a_fill_that_wants_nothing_never_looks_like_an_owner(void)
{
	rig_open(&rig, 4 << 20, PAGE);
	file = file_open(&rig, PAGE, PAGE);
	put(5, 50);
	pc_sync_arm("fill_locked", 0);
	pthread_t t;
	pthread_create(&t, NULL, fill_once, NULL);
	while (!pc_sync_arrived("fill_locked"))
		usleep(200);
	struct pc_folio *f = folio_at(file, 0);
	CHECK(pc_folio_state(f) & PC_F_LOCKED);
	pc_inode_leaf_lock(file->inode);
	CHECK(pc_valid_add(rig.cache, f, 0, 5)); /* as another fill's last answer would */
	pc_inode_leaf_unlock(file->inode);
	EQUAL(pc_flush_start(file->inode, ALL, 0, ALL), PAGE);
	struct pc_request *r;
	EQUAL(pc_write_next(file->inode, &r), (u64)-EAGAIN);
	pc_sync_release("fill_locked");
	pthread_join(t, NULL);
	EQUAL(atomic_load(&f->owner), 0);
	EQUAL(flush(file), 0);
	rig_close(&rig);
}

static void check_an_inode_can_go_while_its_ended_pass_is_queued(void)
{
	start(PAGE, limits_wide());
	put(0, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	run_write(file, next());
	CHECK(!next()); /* the pass has ended, the inode is still in the volume's queue */
	EQUAL(file_sync(file), 0);
	put(0, PAGE);
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r = next();
	run_write(file, r);
	CHECK(!next());
	CHECK(begin_commit(file));
	pc_commit_end(file->inode, true, false);
	EQUAL(pc_inode_destroy(file->inode), 0);
	CHECK(!work(rig.volume));
	file_forget(file);
	rig.nr_files = 0;
	rig_close(&rig);
}

int main(void)
{
	RUN(check_contiguous_dirty_pages_are_one_call);
	RUN(check_a_request_ends_where_it_must);
	RUN(check_requests_cross_and_split_folios);
	RUN(check_the_end_of_the_file_ends_the_last_request);
	RUN(check_buffers_are_the_frames_themselves);
	RUN(check_short_answers_arrive_whole);
	RUN(check_impossible_answers_are_refused);
	RUN(check_a_retry_is_divided_anew_and_sends_only_what_is_left);
	RUN(check_a_flush_takes_what_was_dirty_and_nothing_later);
	RUN(check_a_running_pass_takes_new_marks_along);
	RUN(check_a_background_pass_keeps_its_budget_and_gives_way);
	RUN(check_an_integrity_pass_gives_way_after_its_turn_and_comes_back);
	RUN(check_background_work_ends_with_its_turn_though_an_fsync_joined_it);
	RUN(check_a_page_marked_in_flight_follows_its_answer);
	RUN(check_no_mark_outlives_its_pass);
	RUN(check_a_file_never_has_all_of_the_volumes_calls);
	RUN(check_a_big_file_does_not_starve_a_small_one);
	RUN(check_ordered_writes_ascend);
	RUN(check_requests_in_flight_are_bounded_per_file);
	RUN(check_no_pass_waits_for_a_fill);
	RUN(check_a_fill_that_wants_nothing_never_looks_like_an_owner);
	RUN(check_an_inode_can_go_while_its_ended_pass_is_queued);
	return 0;
}
