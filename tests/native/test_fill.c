/* Filling: the requested and published bytes, and the effect of a short, failing, late or overtaken answer. */
#include "rig.h"

static u8 got[1 << 20];

static void start(u64 size, u64 max_folio, struct pc_limits limits)
{
	open_one(4 << 20, max_folio, size, 1 << 20, limits);
}

static void reads_right(u64 pos, u64 len)
{
	u64 n = pc_inode_size(file->inode) - pos < len ? pc_inode_size(file->inode) - pos : len;
	EQUAL(file_read(file, pos, got, len), n);
	CHECK(memcmp(got, file->store.bytes + pos, n) == 0);
}

TEST(check_units_and_limits_shape_the_calls)
{
	struct {
		struct pc_limits l;
		u64 pos, len;
		u32 calls;
	} rows[] = {
		{{0}, 0, 65536, 1},
		{{.max_read = 16384}, 0, 65536, 4},
		{{.boundary = 10000}, 0, 65536, 7},
		{{.read_unit = 65536}, 70000, 100, 1},
		{{.max_read = 1000}, 0, 4096, 5},
		{{.read_unit = 10000}, 4096, 40000, 1},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		rows[k].l.max_vectors = 64;
		start(300001, PAGE, limits_with(rows[k].l));
		reads_right(rows[k].pos, rows[k].len);
		EQUAL(file->store.reads, rows[k].calls);
		reads_right(290000, 20000); /* across the end */
	}
}

TEST(check_eight_extents_around_the_end_of_storage_do_not_stop_a_fill)
{
	start(5000, 8192, limits_wide());
	reads_right(0, 5000);
	EQUAL(usage(file, NULL).folios, 1);
	EQUAL(file_write(file, 0, "X", 1), 0);
	pc_invalidate_range(file->inode, 0, ALL); /* only the first block is left */
	for (u32 k = 0; k < 8; k++)
		EQUAL(file_write(file, 5100 + k * 300, "0123456789", 10), 0);
	struct pc_counters n;
	usage(file, &n);
	EQUAL(n.read_requests, 1);
	EQUAL(file_read(file, 0, got, 8192), 5100 + 7 * 300 + 10);
	EQUAL(file->store.reads, 2);
	CHECK(memcmp(got + 4096, file->store.bytes + 4096, 904) == 0);
	for (u32 k = 5000; k < 7210; k++)
		EQUAL(got[k], k < 5100 || (k - 5100) % 300 >= 10 ? 0 : '0' + (k - 5100) % 300);
}

TEST(check_no_answer_below_the_end_is_an_error_twice)
{
	start(8192, PAGE, limits_wide());
	struct pc_request *r = begin_fill(file, 0, 8192);
	next_call(r);
	EQUAL(pc_fill_answer(r, 8193), (u64)-EPROTO);
	EQUAL(pc_fill_answer(r, -1), (u64)-EPROTO);
	EQUAL(pc_fill_answer(r, 0), 0);
	next_call(r);
	EQUAL(pc_fill_answer(r, 0), (u64)-EPROTO);
	pc_request_settle(r);
	EQUAL(usage(file, NULL).folios, 0); /* a folio that got nothing is gone */
}

/* T-46, K12: the object changes while a fill reads it. The fill reads again, unless the change was elsewhere; the ring has
 * room for eight changes, and one that it has forgotten counts. */
TEST(check_an_invalidation_during_a_fill_makes_it_read_again)
{
	struct {
		u64 from, to;
		int elsewhere; /* changes behind the fill, after it */
		u32 reads;
	} rows[] = {{0, ALL, 0, 2}, {0, 0, 7, 1}, {0, 16384, 8, 2}};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		start(65536, PAGE, limits_wide());
		struct pc_request *r = begin_fill(file, 0, 16384);
		struct call c = next_call(r);
		int64_t answer = read_call(&c);
		memset(file->store.bytes, 0x77, rows[k].to ? 65536 : 0);
		if (rows[k].to) /* from inside read_into, for example */
			pc_invalidate_range(file->inode, rows[k].from, rows[k].to);
		for (int n = 0; n < rows[k].elsewhere; n++)
			pc_invalidate_range(file->inode, 32768, ALL);
		EQUAL(pc_fill_answer(r, answer), 0);
		EQUAL(usage(file, NULL).clean, 16384); /* owned by the fill, whether it is valid or not */
		run_fill(file, r);
		EQUAL(file->store.reads, rows[k].reads);
		reads_right(0, 65536);
	}
}

TEST(check_an_endless_stream_of_invalidations_ends_the_fill)
{
	start(65536, PAGE, limits_wide());
	struct pc_request *r = begin_fill(file, 0, 4096);
	int err = 0, answers = 0;
	while (!err) {
		struct call c = next_call(r);
		for (int k = 0; k < 9; k++) /* more than the ring remembers */
			pc_invalidate_range(file->inode, 0, 1);
		err = pc_fill_answer(r, read_call(&c));
		answers++;
	}
	EQUAL(err, (u64)-ESTALE);
	EQUAL(answers, 4);
	pc_request_settle(r);
	reads_right(0, 4096);
}

TEST(check_a_queued_fill_can_be_taken_over_by_its_waiter)
{
	start(65536, PAGE, limits_wide());
	struct pc_request *r = begin_fill(file, 0, 4096);
	pc_fill_submit(r, PC_WORK_READAHEAD);
	reads_right(0, 4096); /* wait_folio takes it over: no other thread runs */
	EQUAL(file->store.reads, 1);
	CHECK(!work(rig.volume));
}

TEST(check_kept_buffers_never_see_the_folio_again)
{
	u32 left[PARTS];
	start(65536, PAGE, limits_wide());
	struct pc_request *r = begin_fill(file, 0, 8192);
	struct call c = next_call(r);
	u8 *kept = c.parts[0].memory;
	EQUAL(pc_fill_answer(r, 0), 0); /* no bytes came, but slices are left */
	EQUAL(pc_fill_quarantine(r, left), 2);
	memset(kept, 0xcc, PAGE);
	SOUND(&rig);
	run_fill(file, r);
	memset(kept, 0xdd, PAGE);
	reads_right(0, 8192);
	EQUAL(cache_usage().shadows, 2);
	for (u32 k = 0; k < 2; k++)
		pc_shadow_put(rig.cache, left[k]);
	CHECK(!pc_shadow_put(rig.cache, left[0]));
}

/* A partly dirty page whose buffers a backend keeps, and no frame for a copy: its missing bytes are read past the
 * cache and written only into another frame, the late bytes go nowhere. */
TEST(check_kept_buffers_of_local_pages_without_memory)
{
	struct pc_pin pins[15], view;
	u8 bytes[100];
	u32 left[PARTS];
	struct pc_need need = {0};
	struct pc_request *none;
	memset(bytes, 0xaa, 100);
	for (u32 pinned = 0; pinned < 2; pinned++) {
		start(1 << 20, PAGE, limits_wide());
		EQUAL(pc_cache_resize(rig.cache, 16 * PAGE), 0);
		put(0, 100, 0xaa);
		struct pc_request *r = begin_fill(file, 0, PAGE);
		for (u64 k = 0; k < 15; k++) {
			reads_right((k + 1) * PAGE, PAGE);
			pins[k] = read_pin((k + 1) * PAGE, 1);
		}
		if (pinned)
			view = read_pin(0, 100);
		struct call c = next_call(r);
		int64_t answer = store_read(&file->store, c.pos, c.parts, 1);
		EQUAL(pc_fill_quarantine(r, left), 1);
		EQUAL(pc_fill_answer(r, answer), 0);
		EQUAL(r->nr_owned, 0);
		run_fill(file, r);
		SOUND(&rig);
		EQUAL(pc_fill_begin(file->inode, 0, PAGE, &need, &none), (u64)-ENOMEM);
		EQUAL(pc_write(file->inode, 2000, bytes, 100, &need), 0);
		EQUAL(need.kind, PC_NEED_ROOM);
		put(50, 50, 0xaa); /* no other call stores there */
		for (u32 k = 1; k < 15; k++)
			pc_unpin(rig.cache, &pins[k]);
		if (pinned) {
			EQUAL(pc_fill_begin(file->inode, 0, PAGE, &need, &none), (u64)-ENOMEM);
			pc_unpin(rig.cache, &view);
		}
		memcpy(file->store.bytes, bytes, 100);
		reads_right(0, PAGE);
		memset(c.parts[0].memory, 0xdd, c.parts[0].len); /* late */
		reads_right(0, PAGE);
		SOUND(&rig);
		pc_shadow_put(rig.cache, left[0]);
		pc_unpin(rig.cache, &pins[0]);
	}
}

/* A view shows a page while a backend that keeps buffers reads the rest of it: the view keeps its memory, detached. */
TEST(check_kept_buffers_of_pinned_pages)
{
	u32 left[PARTS];
	start(65536, PAGE, limits_wide());
	put(0, 100, 7);
	EQUAL(file_sync(file), 0);
	struct pc_pin view = read_pin(0, 100);
	struct pc_request *r = begin_fill(file, 0, PAGE);
	next_call(r);
	EQUAL(pc_fill_quarantine(r, left), 1);
	run_fill(file, r);
	CHECK(pc_pin_detached(rig.cache, &view));
	reads_right(0, PAGE);
	pc_shadow_put(rig.cache, left[0]);
	pc_drop_clean(file->inode, 0, ALL);
	BYTES_OF(view.memory, {0, 7}, {99, 7});
	SOUND(&rig);
	pc_unpin(rig.cache, &view);
}

static u64 window_stop;

THREAD_OF(fill_from_page_8, ({
		  struct pc_need need = {0};
		  struct pc_request *r = NULL;
		  EQUAL(pc_fill_begin(file->inode, 8 * PAGE, 4 * PAGE, &need, &r), 0);
		  r;
	  }))
THREAD_OF(fill_a_window, pc_fill_window(file->inode, 8, 12, false, &window_stop))

/* A fill finds a folio, whose descriptor gets another place in the file before it has read where the folio ends: it owns nothing
 * outside its range. */
TEST(check_a_fill_beside_the_end_of_a_folio_stays_in_its_range)
{
	for (int window = 0; window <= 1; window++) {
		u64 from = window ? 8 : 0, then = window ? 0 : 8;
		start(64 * PAGE, 16 * PAGE, limits_wide());
		reads_right(from * PAGE, window ? PAGE : 16 * PAGE);
		struct pc_folio *before = folio_at(file, 8 * PAGE);
		pthread_t t = held_at("span_read", window ? fill_a_window : fill_from_page_8, NULL);
		CHECK(pc_drop_clean(file->inode, 0, 64 * PAGE));
		reads_right(then * PAGE, PAGE);
		EQUAL((uintptr_t)folio_at(file, then * PAGE), (uintptr_t)before);
		struct pc_request *r = let_go("span_read", t);
		for (u64 page = 1; page < 8; page++)
			CHECK(!cached(page));
		EQUAL(run_fill(file, r), 0);
		for (u64 page = 8; page < 12; page++)
			CHECK(!(state_at(file, page * PAGE) & PC_F_LOCKED));
		SOUND(&rig);
	}
}

/* A caller is to wait for a folio, of which another file has the descriptor before the wait begins: it looks again, and does not
 * wait for that file. */
TEST(check_no_caller_waits_for_the_folio_of_another_file)
{
	struct pc_need need = {0};
	struct pc_request *r;
	start(PAGE, PAGE, limits_wide());
	struct file *other = file_open(&rig, PAGE, PAGE);
	struct pc_request *first = begin_fill(file, 0, PAGE);
	EQUAL(pc_fill_begin(file->inode, 0, PAGE, &need, &r), (u64)-EAGAIN);
	EQUAL(need.kind, PC_NEED_FOLIO);
	EQUAL(run_fill(file, first), 0);
	EQUAL(pc_drop_clean(file->inode, 0, PAGE), PAGE);
	struct pc_request *second = begin_fill(other, 0, PAGE);
	EQUAL(pc_folio_id(rig.cache, folio_at(other, 0)), need.folio);
	wait_folio(file, &need);
	EQUAL(run_fill(other, second), 0);
}
