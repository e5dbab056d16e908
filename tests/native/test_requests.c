/* Requests: the bytes of one call, and the effect of an answer on it. */
#include "dirtied.h"

/* ---------------------------------------------------------------- building requests */

/* T-08: calls for a MiB of 4 KiB pages, in order and scattered in memory. */
TEST(check_contiguous_dirty_pages_are_one_call)
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
		start(rows[k].max_folio, LIMITS(.max_write = rows[k].max_write));
		for (u32 n = 0; n < 256; n++) {
			u64 page = (n * 77) % 256;
			if (rows[k].max_folio == PAGE)
				dirty(page * PAGE, PAGE);
		}
		if (rows[k].max_folio > PAGE)
			dirty(0, 1 << 20);
		EQUAL(flush(file), 0);
		EQUAL(file->store.writes, rows[k].calls);
		EQUAL(file->store.write_bytes, 1 << 20);
		CHECK(memcmp(file->store.bytes, want, 1 << 20) == 0);
	}
}

/* T-09 */
TEST(check_a_request_ends_where_it_must)
{
	struct {
		const char *why;
		struct pc_limits limits;
		u64 writes[4][2];
		u32 requests, calls;
	} rows[] = {
		{"a gap", {.max_vectors = 64}, {{0, 8192}, {12288, 4096}}, 2, 2},
		{"max_write", {.max_write = 8192}, {{0, 20480}}, 3, 3},
		{"a max_write of no whole page", {.max_write = 5000}, {{0, 12288}}, 3, 3},
		{"a max_write below a page", {.max_write = 1000}, {{0, 4096}}, 1, 5},
		{"a boundary", {.boundary = 8192}, {{4096, 16384}}, 3, 3},
		{"a boundary within pages", {.boundary = 6000}, {{0, 12288}}, 1, 3}, /* the calls end there */
		{"vectors", {.max_vectors = 2}, {{12288, 4096}, {0, 4096}, {8192, 4096}, {4096, 4096}}, 2, 2},
		{"a partly dirty head and tail", {.max_vectors = 64}, {{1000, 8192}}, 1, 1},
		{"extents in one block", {.max_vectors = 64}, {{16384 + 100, 10}, {16384 + 200, 10}}, 1, 2},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		open_one(16 << 20, PAGE, 32768, ROOM, limits_with(rows[k].limits)); /* uncached pages stay ragged */
		u64 bytes = 0;
		for (u32 n = 0; n < 4 && rows[k].writes[n][1]; n++) {
			dirty(rows[k].writes[n][0], rows[k].writes[n][1]);
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
	}
}

/* T-09, T-33: the requests themselves, as [start, end); folios of both sizes side by side. */
TEST(check_requests_cross_and_split_folios)
{
	enum { K = 1 << 10 };
	struct {
		const char *why;
		u64 folio, size;
		struct pc_limits limits;
		u64 writes[5][2], requests[8][2];
	} rows[] = {
		/* clang-format off */
		{"one request over folios of all sizes", 64 * K, 0, {.max_vectors = 64},
		 {{0, 64 * K}, {64 * K, 4 * K}, {68 * K, 4 * K}, {72 * K, 8 * K}, {80 * K, 48 * K}}, {{0, 128 * K}}},
		{"max_write splits a folio", 64 * K, 0, {.max_write = 40 * K},
		 {{0, 128 * K}}, {{0, 40 * K}, {40 * K, 80 * K}, {80 * K, 120 * K}, {120 * K, 128 * K}}},
		{"max_write of no whole page", 64 * K, 0, {.max_write = 30000},
		 {{0, 64 * K}}, {{0, 28 * K}, {28 * K, 56 * K}, {56 * K, 64 * K}}},
		{"a boundary inside a folio", 64 * K, 0, {.boundary = 24 * K},
		 {{0, 64 * K}}, {{0, 24 * K}, {24 * K, 48 * K}, {48 * K, 64 * K}}},
		{"the nearer of max_write and boundary", 64 * K, 0, {.max_write = 20 * K, .boundary = 32 * K},
		 {{0, 64 * K}}, {{0, 20 * K}, {20 * K, 32 * K}, {32 * K, 52 * K}, {52 * K, 64 * K}}},
		{"segments are counted, not folios", 64 * K, 0, {.max_vectors = 2},
		 {{0, 64 * K}, {64 * K, 4 * K}, {68 * K, 4 * K}, {72 * K, 4 * K}}, {{0, 68 * K}, {68 * K, 76 * K}}},
		{"the end of the file inside a folio", 64 * K, 0, {.max_vectors = 64},
		 {{0, 64 * K}, {64 * K, 5}}, {{0, 64 * K + 5}}},
		{"clean blocks inside a folio", 64 * K, 64 * K, {.max_vectors = 64},
		 {{8 * K, 4 * K}, {16 * K, 12 * K}}, {{8 * K, 12 * K}, {16 * K, 28 * K}}},
		{"a ragged head and tail join their neighbours", 4 * K, 64 * K, {.max_vectors = 64},
		 {{3 * K, 2 * K}, {5 * K, 5 * K}}, {{3 * K, 10 * K}}},
		{"extents of one block stay together, in two calls", 4 * K, 64 * K, {.max_vectors = 64},
		 {{3 * K, 2 * K}, {6 * K, 5 * K}}, {{3 * K, 11 * K}}},
		/* clang-format on */
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		open_one(16 << 20, rows[k].folio, rows[k].size, ROOM, limits_with(rows[k].limits));
		memcpy(want, file->store.bytes, rows[k].size);
		if (rows[k].size && rows[k].folio > PAGE)
			EQUAL(file_read(file, 0, want, rows[k].size), rows[k].size); /* in large folios */
		for (u32 n = 0; n < 5 && rows[k].writes[n][1]; n++)
			dirty(rows[k].writes[n][0], rows[k].writes[n][1]);
		pc_flush_start(file->inode, ALL, 0, ALL);
		struct pc_request *r;
		for (u32 n = 0; (r = next_write()); n++) {
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
	}
}

/* T-10: the buffers given to a backend lie in the arena. */
TEST(check_buffers_are_the_frames_themselves)
{
	start(16 << 10, limits_wide());
	dirty(0, 100000);
	struct pc_request *r = hand_over();
	struct call c = next_call(r);
	for (size_t k = 0; k < c.n; k++) {
		CHECK(c.parts[k].memory >= rig.cache->arena.base);
		CHECK(c.parts[k].memory + c.parts[k].len <= rig.cache->arena.base + (16 << 20));
	}
	run_write(file, r);
	EQUAL(cache_usage().cow_copies, 0);
}

/* ---------------------------------------------------------------- answers */

TEST(check_impossible_answers_are_refused)
{
	start(PAGE, limits_wide());
	dirty(0, 5000);
	struct pc_request *r = hand_over();
	next_call(r);
	EQUAL(pc_write_answer(r, -5), (u64)-EPROTO);
	EQUAL(pc_write_answer(r, 5001), (u64)-EPROTO);
	EQUAL(pc_write_answer(r, 0), 0);
	EQUAL(pc_write_answer(r, 0), 0);
	EQUAL(pc_write_answer(r, 0), (u64)-EIO); /* no progress three times */
	pc_write_done(r, false, true);
	EQUAL(usage(file, NULL).failed, 2 * PAGE);
	CHECK(!next_write());
}

/* T-32: the current limits count, acknowledged parts are not sent again. */
TEST(check_a_retry_is_divided_anew_and_sends_only_what_is_left)
{
	u64 limits[] = {8192, 1 << 20, 20480};
	for (u32 k = 0; k < 3; k++) {
		struct pc_limits l = LIMITS(.max_write = 20480);
		start(16 << 10, l);
		dirty(0, 61440);
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
	}
}
