/* Passes: which of them gets the token when, which pages are marked and for how long, and the order of files. */
#include "rig.h"

enum { ROOM = 4 << 20 };

static void start(u64 max_folio, struct pc_limits l)
{
	open_one(16 << 20, max_folio, 0, ROOM, l);
}

/* A page behind the cursor is found; one requested while it is in flight goes again as soon as its answer is there,
 * whatever else of the file still runs. */
TEST(check_a_running_pass_takes_new_marks_along)
{
	start(PAGE, limits_wide());
	put(20480, PAGE, 7);
	struct pc_request *first = hand_over();
	for (int again = 0; again <= 1; again++) {
		put(0, PAGE, 7);
		struct pc_request *r = hand_over();
		EQUAL(r->start, 0);
		put(0, PAGE, 7);
		pc_flush_start(file->inode, ALL, 0, ALL);
		CHECK(!next_write()); /* it is in flight */
		run_write(file, r);
	}
	struct pc_request *last = next_write();
	EQUAL(last->start, 0);
	run_write(file, last);
	run_write(file, first);
	work_all(rig.volume);
	EQUAL(usage(file, NULL).dirty, 0);
}

TEST(check_a_background_pass_keeps_its_budget_and_gives_way)
{
	start(PAGE, LIMITS(.max_write = PAGE));
	for (u32 k = 0; k < 20; k++)
		put(k * 2 * PAGE, PAGE, 7);
	CHECK(pc_pass_background(file->inode, 3 * PAGE, false));
	CHECK(!pc_pass_background(file->inode, PAGE, false)); /* one at a time */
	work_all(rig.volume);
	EQUAL(file->store.writes, 3);
	CHECK(pc_pass_background(file->inode, 1, false)); /* at least one folio */
	struct pc_request *r = next_write();
	EQUAL(file->inode->token, PC_TOKEN_PASS);
	struct pc_waiter w = {0};
	CHECK(!queue_for_token(file, &w));
	CHECK(!next_write()); /* another thread waits for the token */
	run_write(file, r);
	CHECK(!next_write());
	CHECK(granted(&w));
	CHECK(!pc_pass_background(file->inode, ALL >> 1, false));
	pc_token_release(file->inode);
	EQUAL(file->store.writes, 4);
}

/* Another budget before the last answer goes to the running pass: it does not wait for its slowest request. */
TEST(check_a_running_background_pass_takes_another_budget)
{
	struct pc_request *r[3];
	struct pc_waiter w = {0};
	start(PAGE, LIMITS(.max_write = PAGE));
	put(0, 4 * PAGE, 7);
	CHECK(pc_pass_background(file->inode, 2 * PAGE, false));
	CHECK((r[0] = next_write()) && (r[1] = next_write()));
	CHECK(!next_write()); /* the budget is used up */
	CHECK(!pc_pass_background(file->inode, PAGE, true)); /* of another kind */
	CHECK(!next_write());
	CHECK(!pc_pass_background(file->inode, PAGE, false));
	CHECK((r[2] = next_write()) && !next_write());
	CHECK(!queue_for_token(file, &w));
	CHECK(!pc_pass_background(file->inode, PAGE, false));
	CHECK(!next_write()); /* another thread waits for the token */
	for (u32 k = 0; k < 3; k++)
		run_write(file, r[k]);
	CHECK(!next_write() && granted(&w));
	pc_token_release(file->inode);
	EQUAL(file->store.writes, 3);
}

TEST(check_an_integrity_pass_gives_way_after_its_turn_and_comes_back)
{
	start(PAGE, LIMITS(.max_write = PAGE));
	put(0, 200 * PAGE, 7);
	struct pc_request *r = hand_over();
	struct pc_waiter w = {0};
	CHECK(!queue_for_token(file, &w));
	u32 issued = 0;
	for (; r; r = next_write(), issued++)
		run_write(file, r);
	EQUAL(issued, 64);
	CHECK(granted(&w));
	SOUND(&rig);
	pc_token_release(file->inode);
	work_all(rig.volume);
	EQUAL(usage(file, NULL).dirty, 0);
	EQUAL(file->store.writes, 200);
}

/* The marked pages of the fsync are issued; the rest of the background work is not, once another request queues. */
TEST(check_background_work_ends_with_its_turn_though_an_fsync_joined_it)
{
	struct pc_request *r[3];
	struct pc_waiter w = {0};
	start(PAGE, LIMITS(.max_write = PAGE));
	put(0, 6 * PAGE, 7);
	CHECK(pc_pass_background(file->inode, ALL >> 1, false));
	CHECK(r[0] = next_write());
	pc_flush_start(file->inode, ALL, 4 * PAGE, 6 * PAGE);
	CHECK(!queue_for_token(file, &w));
	for (u64 k = 1; k < 3; k++)
		CHECK((r[k] = next_write()) && r[k]->start == (3 + k) * PAGE);
	CHECK(!next_write());
	for (u32 k = 0; k < 3; k++)
		run_write(file, r[k]);
	CHECK(!next_write() && granted(&w));
	EQUAL(usage(file, NULL).dirty, 3 * PAGE);
	pc_token_release(file->inode);
}

static u64 first_with(u64 pos, u64 end, u32 states)
{
	return pc_range_next(file->inode, pos, end, states);
}

/* A question about a range ends at the first block with the state, of many folios or in the middle of one. */
TEST(check_the_first_byte_with_a_state_is_found)
{
	const u64 from = 300 * PAGE;
	for (u32 pages = 1; pages <= 16; pages *= 16) {
		start(pages * PAGE, limits_wide());
		EQUAL(first_with(0, ALL, PC_PENDING_DIRTY), ALL);
		put(0, 400 * PAGE, 7);
		EQUAL(flush(file), 0);
		put(from, 2 * PAGE, 7);
		EQUAL(first_with(0, ALL, PC_PENDING_WRITEBACK | PC_PENDING_BACKOFF | PC_PENDING_FAILED), ALL);
		u64 rows[][3] = {{0, ALL, from}, {from + 5, ALL, from + 5}, {from + 2 * PAGE, ALL, ALL},
				 {0, from, ALL}, {0, from + 1, from},       {from, from, ALL}};
		for (u32 k = 0; k < 6; k++)
			EQUAL(first_with(rows[k][0], rows[k][1], PC_PENDING_DIRTY), rows[k][2]);
		struct pc_request *r = hand_over();
		EQUAL(first_with(0, ALL, PC_PENDING_DIRTY), ALL);
		EQUAL(first_with(0, ALL, PC_PENDING_DIRTY | PC_PENDING_WRITEBACK), from);
		file->store.write_error = -ENOSPC;
		file->store.parked = true;
		CHECK(!run_write(file, r));
		put(from - PAGE, PAGE, 7); /* dirty, and it waits only in the folio of failed bytes */
		EQUAL(first_with(0, ALL, PC_PENDING_WRITEBACK), ALL);
		EQUAL(first_with(0, ALL, PC_PENDING_DIRTY), from - PAGE);
		EQUAL(first_with(0, ALL, PC_PENDING_FAILED), from);
		EQUAL(first_with(0, ALL, PC_PENDING_BACKOFF), pages == 1 ? from : from - PAGE);
		file->store.write_error = 0;
		CHECK(!next_write());
	}
}

/* The share of a file is below the volume's limit of calls in flight. */
TEST(check_a_file_never_has_all_of_the_volumes_calls)
{
	u32 rows[][2] = {{1, 1}, {2, 1}, {3, 2}, {8, 7}, {64, 63}};
	struct pc_request *r[80];
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		start(PAGE, LIMITS(.max_write = PAGE));
		pc_volume_set_inflight(rig.volume, rows[k][0]);
		put(0, 70 * PAGE, 7);
		pc_flush_start(file->inode, ALL, 0, ALL);
		u32 n = 0;
		while ((r[n] = next_write()))
			n++;
		EQUAL(n, rows[k][1]);
		while (n)
			run_write(file, r[--n]);
	}
}

/* From low to high, each after the answer of the one before; pages behind the cursor wait for the next round. */
TEST(check_ordered_writes_ascend)
{
	start(PAGE, LIMITS(.max_write = 2 * PAGE, .ordered_writes = 1));
	u64 pages[] = {9, 3, 20, 4, 30, 11}, at = 0;
	for (u32 k = 0; k < 6; k++)
		put(pages[k] * PAGE, PAGE, 7);
	pc_flush_start(file->inode, ALL, 0, ALL);
	u32 n = 0;
	for (struct pc_request *r; (r = next_write()); n++) {
		CHECK(r->start >= at);
		at = r->end;
		CHECK(!next_write());
		if (n == 1) {
			put(0, PAGE, 7); /* behind: after the last */
			pc_flush_start(file->inode, ALL, 0, ALL);
		}
		run_write(file, r);
		if (at == 31 * PAGE)
			at = 0;
	}
	EQUAL(n, 6); /* 3+4, 9, 11, 20, 30, then 0 */
}

/* A folio that a fill owns is still written back; one that a writer owns is tried again. */
TEST(check_no_pass_waits_for_a_fill)
{
	open_one(4 << 20, PAGE, PAGE, PAGE, limits_wide());
	put(100, 50, 7);
	struct pc_request *fill = begin_fill(file, 0, PAGE);
	struct call c = next_call(fill);
	struct pc_request *r = hand_over();
	EQUAL(r->start, 100);
	run_write(file, r);
	EQUAL(pc_fill_answer(fill, read_call(&c)), 0);
	run_fill(file, fill);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.write_bytes, 50);
}

THREAD(fill_once, CHECK(!begin_fill(file, 0, 10))) /* all requested bytes became valid at the same time */

/* The fill had shown itself as owner and then unlocked without the leaf lock: a writer could slip in while the pass
 * treated the folio as a fill's. */
TEST(check_a_fill_that_wants_nothing_never_looks_like_an_owner)
{
	open_one(4 << 20, PAGE, PAGE, PAGE, limits_wide());
	put(5, 50, 7);
	pthread_t t = held_at("fill_locked", fill_once, NULL);
	struct pc_folio *f = folio_at(file, 0);
	CHECK(pc_folio_state(f) & PC_F_LOCKED);
	pc_inode_leaf_lock(file->inode);
	CHECK(pc_valid_add(rig.cache, f, 0, 5)); /* as another fill's last answer would */
	pc_inode_leaf_unlock(file->inode);
	EQUAL(pc_flush_start(file->inode, ALL, 0, ALL), PAGE);
	struct pc_request *r;
	EQUAL(pc_write_next(file->inode, &r), (u64)-EAGAIN);
	let_go("fill_locked", t);
	EQUAL(atomic_load(&f->owner), 0);
	EQUAL(flush(file), 0);
}

/* A background pass has the token, and more urgent work keeps all threads busy: a queued request moves the pass up. */
TEST_OF_FIX("a_pass_waited_for_moves_up", check_a_pass_that_is_waited_for_moves_up)
{
	start(PAGE, limits_wide());
	struct file *busy = file_open_in(&rig, rig.volume, 0, ROOM, LIMITS(.max_write = PAGE));
	put(0, PAGE, 7);
	static u8 bytes[64 * PAGE];
	EQUAL(file_write(busy, 0, bytes, sizeof(bytes)), 0);
	CHECK(pc_pass_background(file->inode, PAGE, false));
	pc_flush_start(busy->inode, ALL, 0, ALL);
	pc_commit_start(file->inode, 0);
	bool met = false;
	for (u32 k = 0; k < 4 && !met; k++) {
		struct pc_work w = next_work(PC_WORK_PASS);
		met = w.inode == file->inode;
		do_work(rig.volume, &w);
	}
	CHECK(met);
	EQUAL(flush(busy), 0);
}
