/* Memory that views may store to: the bytes sent of it, the bytes left dirty, and its maximum. */
#include "views.h"

/* T-76 in one thread: the call's bytes stand still, the fsync ends, later stores are dirty. [1.3, 2.11] */
TEST(check_a_call_gets_a_copy)
{
	for (u64 folio = PAGE; folio <= 64 << 10; folio *= 16) {
		start(64 << 10, folio);
		struct pc_pin p = pin(100, 200);
		store(&p, 1);
		u64 stamp = pc_epoch_take(rig.volume);
		struct pc_request *r = hand_over();
		struct call c = next_call(r);
		EQUAL(c.parts[0].len, PAGE); /* the block, not the folio */
		CHECK(c.parts[0].memory + 100 != p.memory);
		store(&p, 2);
		put(50, 10, 3); /* nor does a writer wait for the call, or get other memory */
		EQUAL(c.parts[0].memory[100], 1);
		EQUAL(c.parts[0].memory[50], first_byte(50));
		SOUND(&rig);
		CHECK(run_write(file, r));
		CHECK(state_at(file, 100) & PC_F_DIRTY);
		EQUAL(fsync_stamp(file, stamp), 0);
		EQUAL(file->store.stable[100], 1);
		EQUAL(byte_at(100), 2);
		struct pc_counters counters;
		EQUAL(usage(file, &counters).write_pinned, PAGE);
		EQUAL(counters.staged_copies, 1);
		EQUAL(counters.cow_copies, 0);
		store(&p, 4);
		pc_unpin(rig.cache, &p);
		EQUAL(usage(file, NULL).pinned, 0);
		SAVES({299, 4}, {50, 3});
		EQUAL(usage(file, NULL).local, 0);
	}
}

TEST(check_background_passes_skip_it)
{
	start(64 << 10, PAGE);
	struct pc_pin p = pin(0, PAGE);
	put(PAGE, PAGE, 1);
	for (int released = 0; released <= 1; released++) {
		CHECK(pc_pass_background(file->inode, 1 << 20, false));
		struct pc_request *r = next_write();
		EQUAL(r->start, released ? 0 : PAGE);
		EQUAL(r->end, r->start + PAGE);
		run_write(file, r);
		pass_is_over();
		CHECK(NUMBER(file->inode, PASS_IDLE));
		if (!released)
			pc_unpin(rig.cache, &p);
	}
}

/* Whole units, with neighbours from the cache and from storage; blocks that lie in two units. */
TEST(check_units_are_sent_as_copies)
{
	u64 units[] = {512, PAGE, 12288, 5000, 65536};
	for (u32 k = 0; k < 5; k++) {
		start_with(100000, 4 << 20, 16 << 10, LIMITS(.write_unit = units[k], .max_write = 2 * units[k]));
		struct pc_pin p = pin(20000, 200), q = pin(99000, 1000);
		put(40000, 3000, 9);
		store(&p, 1);
		store(&q, 2);
		SAVES({20000, 1}, {19999, first_byte(19999)}, {99999, 2}, {42999, 9});
		store(&p, 3);
		pc_unpin(rig.cache, &p);
		pc_unpin(rig.cache, &q);
		SAVES({20199, 3});
		EQUAL(usage(file, NULL).local, 0);
	}
}

/* In a unit too the bytes of a call stand still, and no writer waits for it. */
TEST(check_a_unit_in_flight_stands_still)
{
	start_with(64 << 10, 4 << 20, 16 << 10, LIMITS(.write_unit = 4 * PAGE));
	struct pc_pin p = pin(100, 200);
	put(2 * PAGE, PAGE, 5);
	store(&p, 1);
	struct pc_request *r = hand_over();
	EQUAL(run_gather(file, r), 0);
	struct call c = next_call(r);
	u64 sum = sum_of(c.parts, c.n);
	store(&p, 2);
	put(120, 10, 3);
	EQUAL(sum_of(c.parts, c.n), sum);
	SOUND(&rig);
	CHECK(run_write(file, r));
	BYTES_OF(file->store.bytes, {100, 1}, {2 * PAGE, 5});
	pc_unpin(rig.cache, &p);
	SAVES({100, 2}, {120, 3});
}

/* Given up before its first call: nothing was copied, everything is dirty as before. */
TEST(check_a_request_without_a_call)
{
	u64 units[] = {0, 4 * PAGE};
	for (u32 k = 0; k < 2; k++) {
		start_with(64 << 10, 4 << 20, 16 << 10, LIMITS(.write_unit = units[k]));
		struct pc_pin p = pin(0, 2 * PAGE);
		put(2 * PAGE, PAGE, 1);
		pc_request_settle(hand_over());
		SOUND(&rig);
		EQUAL(usage(file, NULL).writeback, 0);
		EQUAL(usage(file, NULL).dirty, 3 * PAGE);
		pc_unpin(rig.cache, &p);
		EQUAL(usage(file, NULL).pinned, 0);
		pc_retry(file->inode, 0, ALL, true);
		EQUAL(file_sync(file), 0);
		EQUAL(usage(file, NULL).local, 0);
	}
}

/* Released while a call has its copy. */
TEST(check_a_release_while_a_call_runs)
{
	for (u64 folio = PAGE; folio <= 16 << 10; folio *= 4) {
		start(64 << 10, folio);
		struct pc_pin p = pin(0, 100);
		store(&p, 1);
		struct pc_request *r = hand_over();
		store(&p, 2);
		pc_unpin(rig.cache, &p);
		SOUND(&rig);
		put(10, 10, 3);
		EQUAL(usage(file, NULL).write_pinned, 0);
		run_write(file, r);
		SOUND(&rig);
		EQUAL(usage(file, NULL).pinned, 0);
		SAVES({99, 2}, {10, 3});
	}
}

/* A folio in flight gets other memory, or the pin waits for the call if that is impossible. */
TEST(check_a_pin_never_changes_what_a_call_sends)
{
	for (int wait = 0; wait <= 1; wait++) {
		start(0, PAGE);
		if (wait)
			pc_cache_configure(rig.cache, 1 << 20, 2 << 20, 0, true);
		put(0, PAGE, 1);
		struct pc_request *r = hand_over();
		struct pc_need need = {0};
		struct pc_pin p;
		struct call c = next_call(r);
		lock_inode(file, PC_EXCLUSIVE);
		int err = pc_pin(file->inode, 0, 100, true, &p, &need);
		if (wait) {
			EQUAL(err, (u64)-EAGAIN);
			EQUAL(need.kind, PC_NEED_FLIGHT);
			CHECK(!(state_at(file, 0) & PC_F_LOCKED));
			run_write(file, r);
			err = pc_pin(file->inode, 0, 100, true, &p, &need);
		}
		EQUAL(err, 0);
		pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		store(&p, 2);
		if (!wait) {
			EQUAL(c.parts[0].memory[0], 1);
			run_write(file, r);
		}
		EQUAL(file->store.bytes[0], 1);
		SEES({0, 2});
		SAVES({0, 2});
		pc_unpin(rig.cache, &p);
	}
}

TEST(check_a_quarter_of_the_memory_may_be_pinned)
{
	struct pc_need need = {0};
	struct pc_pin pins[16], p;
	start_with(64 * PAGE, 64 * PAGE, PAGE, limits_wide());
	for (u64 k = 0; k < 16; k++)
		pins[k] = pin(k * PAGE, 10);
	lock_inode(file, PC_EXCLUSIVE);
	while ((u64)pc_pin(file->inode, 20 * PAGE, 10, true, &p, &need) == (u64)-EAGAIN)
		EQUAL(provide(file, &need), 0);
	EQUAL(pc_pin(file->inode, 20 * PAGE, 10, true, &p, &need), (u64)-ENOBUFS);
	EQUAL(pc_pin(file->inode, 3 * PAGE, 10, true, &p, &need), 0); /* one block more than once */
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	CHECK(pc_dirty_room(file->inode, PAGE)); /* no writer waits for views */
	EQUAL(pc_volume_number(rig.volume, PC_VOLUME_LOCAL), 0);
	SOUND(&rig);
	pc_unpin(rig.cache, &p);
	EQUAL(usage(file, NULL).write_pinned, 16 * PAGE);
	for (u64 k = 0; k < 16; k++)
		pc_unpin(rig.cache, &pins[k]);
	EQUAL(pc_volume_number(rig.volume, PC_VOLUME_LOCAL), 16 * PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(usage(file, NULL).local, 0);
}
