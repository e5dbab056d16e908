/* Requests: the bytes of one call, and the effect of an answer on it. */
#include "rig.h"

enum { ROOM = 4 << 20 };

static u8 want[ROOM];

/* T-10: the buffers given to a backend lie in the arena. */
static void in_the_arena(struct call c)
{
	for (size_t k = 0; k < c.n; k++) {
		CHECK(c.parts[k].memory >= rig.cache->arena.base);
		CHECK(c.parts[k].memory + c.parts[k].len <= rig.cache->arena.base + (16 << 20));
	}
}

/* T-09, T-33: the requests, as [start, end), and the number of their calls; folios of both sizes side by side. */
TEST(check_requests_cross_and_split_folios)
{
	enum { K = 1 << 10 };
	struct {
		const char *why;
		u64 folio, size;
		struct pc_limits limits;
		u32 calls;
		u64 writes[5][2], requests[8][2];
	} rows[] = {
		/* clang-format off */
		{"one request over folios of all sizes", 64 * K, 0, {.max_vectors = 64}, 1,
		 {{0, 64 * K}, {64 * K, 4 * K}, {68 * K, 4 * K}, {72 * K, 8 * K}, {80 * K, 48 * K}}, {{0, 128 * K}}},
		{"max_write splits a folio", 64 * K, 0, {.max_write = 40 * K}, 4,
		 {{0, 128 * K}}, {{0, 40 * K}, {40 * K, 80 * K}, {80 * K, 120 * K}, {120 * K, 128 * K}}},
		{"max_write of no whole page", 64 * K, 0, {.max_write = 30000}, 3,
		 {{0, 64 * K}}, {{0, 28 * K}, {28 * K, 56 * K}, {56 * K, 64 * K}}},
		{"a boundary inside a folio", 64 * K, 0, {.boundary = 24 * K}, 3,
		 {{0, 64 * K}}, {{0, 24 * K}, {24 * K, 48 * K}, {48 * K, 64 * K}}},
		{"the nearer of max_write and boundary", 64 * K, 0, {.max_write = 20 * K, .boundary = 32 * K}, 4,
		 {{0, 64 * K}}, {{0, 20 * K}, {20 * K, 32 * K}, {32 * K, 52 * K}, {52 * K, 64 * K}}},
		{"segments are counted, not folios", 64 * K, 0, {.max_vectors = 2}, 2,
		 {{0, 64 * K}, {64 * K, 4 * K}, {68 * K, 4 * K}, {72 * K, 4 * K}}, {{0, 68 * K}, {68 * K, 76 * K}}},
		{"the end of the file inside a folio", 64 * K, 0, {.max_vectors = 64}, 1,
		 {{0, 64 * K}, {64 * K, 5}}, {{0, 64 * K + 5}}},
		{"clean blocks inside a folio", 64 * K, 64 * K, {.max_vectors = 64}, 2,
		 {{8 * K, 4 * K}, {16 * K, 12 * K}}, {{8 * K, 12 * K}, {16 * K, 28 * K}}},
		{"a ragged head and tail join their neighbours", 4 * K, 64 * K, {.max_vectors = 64}, 1,
		 {{3 * K, 2 * K}, {5 * K, 5 * K}}, {{3 * K, 10 * K}}},
		{"extents of one block stay together, in two calls", 4 * K, 64 * K, {.max_vectors = 64}, 2,
		 {{3 * K, 2 * K}, {6 * K, 5 * K}}, {{3 * K, 11 * K}}},
		{"a gap", 4 * K, 32 * K, {.max_vectors = 64}, 2,
		 {{0, 8 * K}, {12 * K, 4 * K}}, {{0, 8 * K}, {12 * K, 16 * K}}},
		{"max_write", 4 * K, 32 * K, {.max_write = 8 * K}, 3,
		 {{0, 20 * K}}, {{0, 8 * K}, {8 * K, 16 * K}, {16 * K, 20 * K}}},
		{"a max_write below a page", 4 * K, 32 * K, {.max_write = 1000}, 5, {{0, 4 * K}}, {{0, 4 * K}}},
		{"a boundary", 4 * K, 32 * K, {.boundary = 8 * K}, 3,
		 {{4 * K, 16 * K}}, {{4 * K, 8 * K}, {8 * K, 16 * K}, {16 * K, 20 * K}}},
		{"calls end at a boundary within pages", 4 * K, 32 * K, {.boundary = 6000}, 3, {{0, 12 * K}}, {{0, 12 * K}}},
		{"vectors, of pages scattered in memory", 4 * K, 32 * K, {.max_vectors = 2}, 2,
		 {{12 * K, 4 * K}, {0, 4 * K}, {8 * K, 4 * K}, {4 * K, 4 * K}}, {{0, 8 * K}, {8 * K, 16 * K}}},
		{"a partly dirty head and tail", 4 * K, 32 * K, {.max_vectors = 64}, 1, {{1000, 8 * K}}, {{1000, 1000 + 8 * K}}},
		/* clang-format on */
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		open_one(16 << 20, rows[k].folio, rows[k].size, ROOM, limits_with(rows[k].limits));
		memcpy(want, file->store.bytes, rows[k].size);
		if (rows[k].size && rows[k].folio > PAGE)
			EQUAL(file_read(file, 0, want, rows[k].size), rows[k].size); /* in large folios */
		u64 bytes = 0;
		for (u32 n = 0; n < 5 && rows[k].writes[n][1]; n++) {
			u64 pos = rows[k].writes[n][0], len = rows[k].writes[n][1];
			for (u64 b = 0; b < len; b++)
				want[pos + b] ^= 0x55;
			EQUAL(file_write(file, pos, want + pos, len), 0);
			bytes += len;
		}
		pc_flush_start(file->inode, ALL, 0, ALL);
		struct pc_request *r;
		for (u32 n = 0; (r = next_write()); n++) {
			in_the_arena(next_call(r));
			if (n >= 8 || r->start != rows[k].requests[n][0] || r->end != rows[k].requests[n][1])
				check_failed(__FILE__, __LINE__, rows[k].why, r->start, r->end);
			CHECK(rows[k].requests[n][1]);
			run_write(file, r);
		}
		EQUAL(usage(file, NULL).dirty, 0);
		u64 size = pc_inode_size(file->inode);
		if (file->store.writes != rows[k].calls || file->store.write_bytes != bytes)
			check_failed(__FILE__, __LINE__, rows[k].why, file->store.writes, file->store.write_bytes);
		EQUAL(file->store.size, size);
		EQUAL(file_sync(file), 0);
		CHECK(memcmp(file->store.bytes, want, size) == 0);
	}
}

TEST(check_impossible_answers_are_refused)
{
	open_one(16 << 20, PAGE, 0, ROOM, limits_wide());
	put(0, 5000, 1);
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
	for (u64 b = 0; b < 61440; b++)
		want[b] = first_byte(b);
	for (u32 k = 0; k < 3; k++) {
		open_one(16 << 20, 16 << 10, 0, ROOM, LIMITS(.max_write = 20480));
		EQUAL(file_write(file, 0, want, 61440), 0);
		file->store.write_error = -EIO;
		file->store.write_fails_at = 40960; /* two requests get through */
		EQUAL(flush(file), PC_PENDING_BACKOFF);
		EQUAL(file->store.write_bytes, 40960);
		file->store.write_error = 0;
		set_limits(LIMITS(.max_write = limits[k]));
		EQUAL(flush(file), PC_PENDING_BACKOFF); /* not before its time */
		pc_retry(file->inode, 0, ALL, false);
		u32 calls = file->store.writes;
		EQUAL(flush(file), 0);
		EQUAL(file->store.write_bytes, 40960 + 20480);
		EQUAL(file->store.writes - calls, k == 0 ? 3 : 1);
		CHECK(memcmp(file->store.bytes, want, 61440) == 0);
	}
}
