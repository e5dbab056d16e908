/* Writing: the method table, partial pages without reads, and the writers that wait. */
#include "content.h"

/* T-01, T-02, T-03: which writes into an uncached page need a read. */
TEST(check_the_method_table)
{
	struct {
		u64 stored;            /* the size of the file in storage */
		u64 writes[10][2];     /* position, length */
		u32 reads_for_writing, reads_after;
		bool uptodate;
	} rows[] = {
		{PAGE, {{0, PAGE}}, 0, 0, true},                   /* c: the whole page */
		{PAGE, {{100, 50}}, 0, 2, false},                  /* e: a ragged extent; the gaps are read later */
		{PAGE, {{100, 50}, {150, 50}}, 0, 2, false},       /* d: extends it */
		{PAGE, {{0, 50}, {4000, 96}, {50, 3950}}, 0, 0, true},
		{0, {{100, 50}}, 0, 0, true},                      /* b: behind the end of storage: zeros around it */
		/* clang-format off */
		{PAGE, {{100, 1}, {300, 1}, {500, 1}, {700, 1}, {900, 1}, {1100, 1}, {1300, 1}, {1500, 1}}, 0, 9, false},
		{PAGE, {{100, 1}, {300, 1}, {500, 1}, {700, 1}, {900, 1}, {1100, 1}, {1300, 1}, {1500, 1}, {1700, 1}}, 9, 9, true},
		/* clang-format on */
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		start(rows[k].stored, PAGE);
		for (u32 n = 0; n < 10 && rows[k].writes[n][1]; n++)
			change(rows[k].writes[n][0], rows[k].writes[n][1], (u8)(n + 1));
		EQUAL(file->store.reads, rows[k].reads_for_writing);
		EQUAL((state_at(file, 0) & PC_F_UPTODATE) != 0, rows[k].uptodate);
		compare(0, ROOM);
		EQUAL(file->store.reads, rows[k].reads_after);
	}
}

TEST(check_large_writes_make_large_folios_and_small_ones_small)
{
	start(0, 2 << 20);
	change(0, 3 << 20, 1);
	EQUAL(usage(file, NULL).folios, 2);
	EQUAL(pc_folio_order(folio_at(file, 0)), 9);
	EQUAL(pc_folio_order(folio_at(file, 2 << 20)), 8);
	change(3 << 20, 100, 2);
	EQUAL(pc_folio_order(folio_at(file, 3 << 20)), 0);
	compare(0, ROOM);
}

/* Above cow_limit the writer waits for the call instead. Background work then lets it in before it takes the folio
 * again; awaited work does not, nor does the work for writers that wait for room. */
TEST(check_above_cow_limit_the_writer_waits)
{
	enum { BACKGROUND, AWAITED, PARTIAL };
	for (int work_for = BACKGROUND; work_for <= PARTIAL; work_for++) {
		int wanted = work_for != BACKGROUND;
		struct pc_need need = {0};
		start(0, 64 << 10);
		pc_cache_configure(rig.cache, 4 << 20, 8 << 20, 32 << 10, true);
		change(0, 64 << 10, 1);
		set_limits(LIMITS(.max_write = 32 << 10));
		struct pc_request *r = hand_over(), *other = next_write();
		CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
		EQUAL(pc_write(file->inode, 100, "x", 1, &need), 0);
		EQUAL(need.kind, PC_NEED_FLIGHT);
		CHECK(!(state_at(file, 0) & PC_F_LOCKED)); /* K10: no thread waits while holding it */
		EQUAL(need.folio, pc_folio_id(rig.cache, folio_at(file, 0)));
		EQUAL(cache_usage().cow_copies, 0);
		run_write(file, r);
		/* Its call has ended, another of the folio has not. */
		EQUAL(pc_write(file->inode, 100, "x", 1, &need), 1);
		want[100] = 'x';
		EQUAL(pc_write(file->inode, 40000, "y", 1, &need), 0);
		run_write(file, other);
		CHECK(state_at(file, 0) & PC_F_WRITER_WAITS); /* until the writer comes */
		SOUND(&rig);
		EQUAL(pc_write_next(file->inode, &r), 0); /* that pass has ended */
		CHECK(pc_pass_background(file->inode, 1 << 20, work_for == PARTIAL));
		if (work_for == AWAITED)
			pc_flush_start(file->inode, ALL, 0, ALL);
		EQUAL(pc_write_next(file->inode, &r), wanted);
		if (wanted)
			run_write(file, r);
		EQUAL(pc_write(file->inode, 40000, "y", 1, &need), 1);
		want[40000] = 'y';
		CHECK(!(state_at(file, 0) & PC_F_WRITER_WAITS));
		pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		work_all(rig.volume);
		pc_pass_background(file->inode, 1 << 20, false);
		work_all(rig.volume);
		EQUAL(usage(file, NULL).dirty, 0);
		synced();
	}
}

TEST(check_memory_of_another_volume_is_never_shown)
{
	start(0, PAGE);
	struct pc_volume *other = volume_open(&rig);
	change(0, ROOM, 0xaa);
	EQUAL(file_sync(file), 0);
	pc_drop_clean(file->inode, 0, ALL);
	pc_cache_configure(rig.cache, 1 << 20, 2 << 20, 0, false); /* no poison: the remaining bytes are the other's */
	struct file *second = file_open_in(&rig, other, 1 << 20, 1 << 20, limits_wide());
	for (u32 k = 0; k < 64; k++) {
		struct pc_request *r = begin_fill(second, k * 16384, 4096);
		struct call c = next_call(r);
		for (u64 b = 0; b < c.parts[0].len; b++)
			EQUAL(c.parts[0].memory[b], 0);
		run_fill(second, r);
	}
}

/* A page that needs a read stops it: no byte of the others changes, and none stays locked. */
TEST(check_a_whole_write_is_all_or_nothing)
{
	struct pc_need need = {0};
	u8 data[3 * PAGE];
	memset(data, 0xee, sizeof(data));
	start(8 * PAGE, PAGE);
	for (u64 k = 0; k < 8; k++)
		change(2 * PAGE + 400 + 200 * k, 1, 5);
	CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
	EQUAL(pc_write_whole(file->inode, 100, data, 2 * PAGE + 50, &need), 0);
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	EQUAL(need.kind, PC_NEED_FILL);
	EQUAL(usage(file, NULL).dirty, PAGE);
	SOUND(&rig);
	compare(0, ROOM);
}

/* A reader sees memory that is valid, whether or not the write is published. */
TEST(check_a_write_without_memory_for_sets_harms_no_valid_byte)
{
	struct pc_need need = {0};
	for (u32 whole = 0; whole < 2; whole++) {
		start(8 * PAGE, 8 * PAGE);
		compare(0, 8 * PAGE); /* one clean folio without sets */
		struct pc_pool *sets = &rig.cache->exts[0];
		u32 max = sets->max, head = sets->free_head;
		sets->max = sets->fresh - 1;
		sets->free_head = 0;
		CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
		EQUAL((whole ? pc_write_whole : pc_write)(file->inode, 100, "new", 3, &need), 0);
		pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		EQUAL(need.kind, PC_NEED_ROOM);
		compare(0, 8 * PAGE);
		EQUAL(usage(file, NULL).dirty, 0);
		sets->max = max;
		sets->free_head = head;
		change(100, 3, 0xee);
		compare(0, 8 * PAGE);
		SOUND(&rig);
	}
}
