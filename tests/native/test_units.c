/* Write-back in whole write units: the bytes sent, left dirty, and read for it. Contract 2.12. */
#include "content.h"

/* A file of that size over a backend that takes whole units. */
static void start_in_units(u64 size, u64 folio, u64 unit)
{
	start_with(size, 1 << 20, folio, LIMITS(.write_unit = unit));
}

/* One small write into each kind of unit: the request is the unit, only one block stays dirty. */
TEST(check_a_change_is_sent_as_its_units)
{
	struct {
		u64 unit, pos, len, from, to;
	} rows[] = {
		{512, 600, 1000, 512, 2048},          {512, 4000, 200, 3584, 4608},    {4096, 5000, 10, 4096, 8192},
		{5000, 4990, 20, 0, 10000},           {12288, 20000, 5, 12288, 24576}, {65536, 70000, 1, 65536, 131072},
		{65536, 199990, 100, 196608, 200090}, {262144, 10, 10, 0, 200000},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++)
		for (u64 folio = PAGE; folio <= 65536; folio *= 16) {
			start_in_units(200000, folio, rows[k].unit);
			put_random(rows[k].pos, rows[k].len);
			CHECK(usage(file, NULL).dirty <= 2 * PAGE);
			struct pc_request *r = hand_over();
			EQUAL(r->start, rows[k].from);
			EQUAL(r->end, rows[k].to);
			struct pc_usage u = usage(file, NULL);
			CHECK(u.writeback <= 2 * PAGE && u.dirty == 0);
			CHECK(!next_write());
			run_write(file, r);
			CHECK(!next_write());
			EQUAL(file->store.write_bytes, rows[k].to - rows[k].from);
			EQUAL(usage(file, NULL).unstable, u.writeback);
			synced();
		}
}

/* Bytes read for a write-back are there for the next one. */
TEST(check_neighbours_are_read_once)
{
	start_in_units(262144, PAGE, 65536);
	put_random(70000, 10);
	EQUAL(flush(file), 0);
	u64 bytes = file->store.read_bytes;
	CHECK(bytes >= 65536 - PAGE && bytes <= 65536);
	put_random(70010, 10);
	EQUAL(flush(file), 0);
	EQUAL(file->store.read_bytes, bytes);
	compare(65536, 65536);
	EQUAL(file->store.read_bytes, bytes);
	synced();
}

/* Its last byte is cached, so a read would help nobody. */
TEST(check_growth_without_memory_for_the_sets_of_the_old_end_waits_for_room)
{
	struct pc_need need = {0};
	start_in_units(8 * PAGE - 100, 8 * PAGE, 8 * PAGE);
	compare(0, 8 * PAGE);
	struct pc_pool *sets = &rig.cache->exts[0];
	u32 max = sets->max, head = sets->free_head;
	sets->max = sets->fresh - 1;
	sets->free_head = 0;
	CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
	EQUAL(pc_write(file->inode, 16 * PAGE + 5, "new", 3, &need), 0);
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	EQUAL(need.kind, PC_NEED_ROOM);
	sets->max = max;
	sets->free_head = head;
	put_random(20 * PAGE, 10);
	compare(0, ROOM);
	synced();
}

/* Failed bytes in a unit keep their retry time when the unit is sent for other bytes. */
TEST(check_back_off_of_a_neighbour_goes_on)
{
	start_in_units(262144, PAGE, 65536);
	put_random(70000, 10);
	file->store.write_error = -EIO;
	CHECK(flush(file) & PC_PENDING_BACKOFF);
	file->store.write_error = 0;
	put_random(80000, 10);
	EQUAL(flush(file), PC_PENDING_BACKOFF);
	CHECK(memcmp(file->store.bytes + 65536, want + 65536, 65536) == 0);
	EQUAL(usage(file, NULL).dirty, PAGE);
	pc_retry(file->inode, 0, ALL, true);
	synced();
}

/* Bytes that changed in storage while they were read are read again. */
TEST(check_an_invalidated_unit_is_read_again)
{
	start_in_units(262144, PAGE, 65536);
	compare(131072, 65536); /* all of the unit is cached */
	put_random(140000, 10);
	struct pc_request *r = hand_over();
	file->store.bytes[131072] = want[131072] = 99;
	pc_invalidate_range(file->inode, 131072, 131073);
	struct call c = next_call(r);
	EQUAL(pc_gather_answer(r, read_call(&c)), 0);
	file->store.bytes[131073] = want[131073] = 98;
	pc_invalidate_range(file->inode, 131072, 131074);
	u32 reads = file->store.reads;
	run_write(file, r);
	CHECK(file->store.reads > reads);
	synced();
}

/* A read that began before the file was cut leaves zeros cached behind the end. A write there needs the last byte of
 * the short unit first; if that cannot be read nothing of the write shows, whatever makes the file longer later. */
TEST(check_a_write_behind_a_short_unit_that_fails_leaves_zeros)
{
	u8 bytes[PAGE];
	memset(bytes, 7, PAGE);
	start_in_units(1000, PAGE, 2 * PAGE);
	EQUAL(fill_range(file, 5 * PAGE, PAGE), 0);
	file->store.read_error = -EIO;
	EQUAL(file_write(file, 5 * PAGE, bytes, PAGE), -EIO);
	EQUAL(pc_inode_size(file->inode), 1000);
	SOUND(&rig);
	file->store.read_error = 0;
	put_random(8 * PAGE, 10);
	compare(5 * PAGE, PAGE);
	synced();
}

enum { U = 65536 };

static u64 sent_in_background(bool partial)
{
	u64 bytes = file->store.write_bytes;
	bool started = pc_pass_background(file->inode, 1 << 30, partial);
	EQUAL(started, usage(file, NULL).dirty != 0);
	work_all(rig.volume);
	EQUAL(file->inode->token, PC_TOKEN_FREE);
	return file->store.write_bytes - bytes;
}

static void start_published(u64 size)
{
	start_with(size, 4 << 20, PAGE, LIMITS(.write_unit = U, .commit_on_close = 1));
}

/* Background work takes fully dirty units, and the others if no other memory can be freed; a commit takes all. */
TEST(check_background_work_takes_wholly_dirty_units)
{
	struct {
		const char *why;
		u64 size, writes[3][2], whole, partial;
	} rows[] = {
		{"a whole unit", 0, {{0, U}}, U, 0},
		{"two, and the beginning of a third", 0, {{0, 2 * U + 5000}}, 2 * U, 5000},
		{"one page is missing", 4 * U, {{0, 30000}, {36864, U - 36864}}, 0, U},
		{"one byte is missing at the end", 4 * U, {{0, U - 1}}, 0, U},
		{"the file goes on behind a whole unit", 4 * U, {{U, U}, {3 * U, 10}}, U, U},
		{"a short last unit, all of it dirty", U + 10000, {{U, 10000}}, 0, 10000},
		{"only a part of a page, and the file ends there", 0, {{0, 100}}, 0, 100},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++)
		for (u64 folio = PAGE; folio <= U; folio *= 16) {
			start_with(rows[k].size, 4 << 20, folio, LIMITS(.write_unit = U, .commit_on_close = 1));
			for (u32 n = 0; n < 3 && rows[k].writes[n][1]; n++)
				put_random(rows[k].writes[n][0], rows[k].writes[n][1]);
			u64 bytes = sent_in_background(false);
			if (bytes != rows[k].whole)
				check_failed(__FILE__, __LINE__, rows[k].why, bytes, rows[k].whole);
			EQUAL(sent_in_background(false), 0);
			EQUAL(sent_in_background(true), rows[k].partial);
			EQUAL(usage(file, NULL).dirty, 0);
			synced();
		}
}

/* A unit counts when its last byte is written, in whatever order: only then a thread that waits for whole units is woken.
 * Without commit_on_close a background pass takes the dirty bytes. */
TEST(check_a_unit_goes_when_it_is_full)
{
	start_published(4 * U);
	for (u32 n = 0; n < 16; n++) {
		u32 seq = pc_flusher_seq(rig.cache);
		put_random(U + (n * 7 % 16) * PAGE, PAGE);
		EQUAL(pc_flusher_seq(rig.cache) != seq, n == 15);
		EQUAL(sent_in_background(false), n == 15 ? U : 0);
	}
	put_random(0, 10);
	set_limits(LIMITS(.write_unit = U));
	EQUAL(sent_in_background(false), U);
	synced();
}

/* A unit whose last byte is dirty, and whose writer still has the folio, waits: it is sent once. */
TEST(check_a_unit_waits_for_its_writer)
{
	start_published(0);
	put_random(0, 2 * U);
	struct pc_folio *f = folio_at(file, U - 1);
	CHECK(pc_folio_trylock(f));
	EQUAL(sent_in_background(false), U);
	pc_folio_unlock(rig.cache, f);
	EQUAL(sent_in_background(false), U);
	EQUAL(usage(file, NULL).dirty, 0);
	EQUAL(file->store.write_bytes, 2 * U);
	synced();
}

static size_t refused_from = SIZE_MAX, refused_after;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void *__libc_malloc(size_t size);
void *malloc(size_t size)
{
	return size >= refused_from && refused_after-- == 0 ? (refused_after = 0, NULL) : __libc_malloc(size);
}
#define CAN_REFUSE true
#else
#define CAN_REFUSE false
#endif

/* Units that end inside a block, many pieces each: the request cannot grow for the second unit of a block. */
TEST(check_no_memory_for_the_second_unit_of_a_block)
{
	for (u64 folio = PAGE; CAN_REFUSE && folio <= 65536; folio *= 16)
		for (u32 after = 0; after < 3; after++) {
			start_in_units(200000, folio, 5000);
			for (u64 pos = 0; pos < 60000; pos += 700)
				put_random(pos, 100);
			u64 dirty = usage(file, NULL).dirty;
			refused_from = 8 * sizeof(struct pc_seg);
			refused_after = after;
			pc_flush_start(file->inode, ALL, 0, ALL);
			struct pc_request *r = next_write();
			refused_from = SIZE_MAX;
			SOUND(&rig);
			struct pc_usage u = usage(file, NULL);
			EQUAL(u.dirty + u.writeback, dirty);
			if (r)
				run_write(file, r);
			work_all(rig.volume);
			synced();
		}
}

/* A backend keeps buffers of a unit, and there is no memory for a copy: the request starts over or fails. */
TEST(check_no_memory_for_a_copy_of_what_a_backend_keeps)
{
	start_in_units(262144, PAGE, 65536);
	put_random(70000, 10);
	struct pc_request *r = hand_over();
	EQUAL(run_gather(file, r), 0);
	struct call c = next_call(r);
	refused_from = CAN_REFUSE ? 65536 : SIZE_MAX;
	refused_after = 0;
	u8 *kept = pc_scratch_leave(r);
	CHECK(!CAN_REFUSE || (!r->scratch && r->gather));
	EQUAL(call_next(r, &c) == -ENOMEM, CAN_REFUSE);
	refused_from = SIZE_MAX;
	EQUAL(run_gather(file, r), 0);
	memset(kept, 0xdd, 65536);
	run_write(file, r);
	pc_scratch_free(kept);
	work_all(rig.volume);
	synced();
}
