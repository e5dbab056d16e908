/* Direct writes in the core: locks, invalidation, the gate, the ranges that no commit covers (T-26, T-75a). */
#include "rig.h"

enum { PAGES = 16, ROOM = 64 * PAGE };

static void start(bool durable)
{
	open_one(1 << 20, 4 * PAGE, PAGES * PAGE, ROOM, LIMITS(.durable_writes = durable));
}

struct write {
	u64 pos, end, failed;
	int mode;
};

static struct write begin(u64 pos, u64 end, int mode)
{
	struct write w = {.pos = pos, .end = end, .mode = mode};
	lock_inode(file, mode);
	CHECK(pc_direct_begin(file->inode, &w.failed));
	pc_invalidate_range(file->inode, pos, end);
	return w;
}

static void send(const struct write *w, u8 value)
{
	static _Thread_local u8 bytes[4 * PAGE];
	struct pc_part part = {.memory = bytes, .len = w->end - w->pos};
	memset(bytes, value, w->end - w->pos);
	int64_t n = store_write(&file->store, w->pos, &part, 1);
	pc_direct_answer(file->inode, w->pos, w->pos + (n > 0 ? (u64)n : 0), w->end);
}

static bool end_write(struct write *w)
{
	bool over = pc_direct_end(file->inode, w->pos, w->end, &w->failed, false);
	if (over)
		pc_inode_lock_release(file->inode, w->mode);
	return over;
}

static void direct_write(u64 pos, u64 end, u8 value, int mode)
{
	struct write w = begin(pos, end, mode);
	do
		send(&w, value);
	while (!end_write(&w));
}

static size_t ranges(u64 *out)
{
	return pc_direct_ranges(file->inode, out, 32);
}

static size_t lost(u64 *out)
{
	return pc_direct_lost(file->inode, out, 32, false);
}

/* A fill that begins after the first invalidation reads bytes that are not replaced yet: it goes with the second one,
 * also if the answer got lost. [T-26, T-75a] */
TEST_OF_FIX("direct_write_invalidates_again", check_a_fill_beside_a_write_leaves_no_old_bytes)
{
	start(false);
	struct write w = begin(2 * PAGE, 3 * PAGE, PC_SHARED);
	EQUAL(byte_at(2 * PAGE), first_byte(2 * PAGE));
	file->store.bytes[2 * PAGE] = 9;
	pc_direct_answer(file->inode, w.pos, w.pos, w.end);
	CHECK(pc_direct_end(file->inode, w.pos, w.end, &w.failed, true));
	pc_inode_lock_release(file->inode, PC_SHARED);
	EQUAL(byte_at(2 * PAGE), 9);
	CHECK(pc_commit_needed(file->inode, ALL));
}

/* A pass runs when the tail is left, and bytes dirtied behind it are wanted: they wait for the cut. [2.10, 2.17] */
TEST(check_no_pass_goes_past_the_tail_of_a_write)
{
	start(false);
	put(0, PAGE, 7);
	struct pc_request *r = hand_over();
	struct write w = begin(PAGES * PAGE, (PAGES + 2) * PAGE, PC_EXCLUSIVE);
	send(&w, 9);
	pc_direct_answer(file->inode, w.pos, w.pos, w.end);
	EQUAL(NUMBER(file->inode, TAIL), 0); /* all of it is acknowledged */
	w.end += PAGE;
	file->store.bytes[w.end - 1] = 9; /* stored, and not acknowledged */
	file->store.size = w.end;
	CHECK(pc_direct_end(file->inode, w.pos, w.end, &w.failed, true));
	CHECK(NUMBER(file->inode, TAIL));
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	put((PAGES + 6) * PAGE, PAGE, 7);
	pc_flush_start(file->inode, ALL, (PAGES + 6) * PAGE, ALL);
	pass_is_over();
	CHECK(run_write(file, r));
	u32 writes = file->store.writes;
	while (NUMBER(file->inode, TAIL))
		CHECK(work(rig.volume));
	EQUAL(file->store.writes, writes);
	EQUAL(file->store.size, (PAGES + 2) * PAGE);
	SAVES({(PAGES + 3) * PAGE - 1, 0}, {(PAGES + 6) * PAGE, 7});
	EQUAL(file->store.size, (PAGES + 7) * PAGE);
	SEES({(PAGES + 3) * PAGE - 1, 0});
}

TEST(check_bytes_that_a_direct_read_takes_from_memory)
{
	enum { END = PAGES * PAGE };
	u64 rows[][4] = {
		/* of this range: the end of its local beginning, and of the stored bytes behind that */
		{0, END, 0, 2 * PAGE + 50}, /* one page is clean: the backend has it */
		{2 * PAGE + 60, END, 2 * PAGE + 150, 4 * PAGE - 10},
		{4 * PAGE - 10, END, 4 * PAGE + 10, END},
		{4 * PAGE, 4 * PAGE + 4, 4 * PAGE + 4, 4 * PAGE + 4},
	};
	u64 local, stop;
	start(false);
	pc_direct_split(file->inode, 0, END, &local, &stop);
	EQUAL(local, 0);
	EQUAL(stop, END);
	EQUAL(byte_at(PAGE), first_byte(PAGE));
	put(2 * PAGE + 50, 100, 5);
	put(4 * PAGE - 10, 20, 5);
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		pc_direct_split(file->inode, rows[k][0], rows[k][1], &local, &stop);
		EQUAL(local, rows[k][2]);
		EQUAL(stop, rows[k][3]);
	}
}

/* A commit takes the writes that returned before it. One that fails may have taken all that returned, unless it kept all. */
TEST(check_a_commit_takes_writes_that_returned_before_it)
{
	enum { SUCCEEDS, FAILS, KEEPS };
	u64 r[64];
	for (int how = SUCCEEDS; how <= KEEPS; how++) {
		start(false);
		direct_write(0, PAGE, 1, PC_SHARED);
		CHECK(begin_commit(file));
		direct_write(2 * PAGE, 3 * PAGE, 2, PC_SHARED);
		struct write running = begin(5 * PAGE, 6 * PAGE, PC_SHARED);
		send(&running, 3);
		EQUAL(ranges(r), 2);
		if (how == SUCCEEDS)
			EQUAL(store_commit(&file->store), 0);
		pc_commit_end(file->inode, how == SUCCEEDS, how == KEEPS ? PC_COMMIT_KEPT : PC_COMMIT_AGAIN);
		if (how == FAILS) {
			EQUAL(lost(r), 2);
			EQUAL(lost(r), 0);
			EQUAL(ranges(r), 2);
			CHECK(!end_write(&running)); /* it may have taken this as well */
			send(&running, 3);
		}
		CHECK(end_write(&running));
		if (how == SUCCEEDS)
			RANGES(r, ranges(r), 2 * PAGE, 3 * PAGE, 5 * PAGE, 6 * PAGE);
		if (how == FAILS)
			RANGES(r, lost(r), 5 * PAGE, 6 * PAGE);
		CHECK(pc_commit_needed(file->inode, ALL));
		EQUAL(file_sync(file), 0);
		if (how == SUCCEEDS)
			EQUAL(ranges(r), 0);
	}
}

/* A write that ends beside the report of a loss is in it, or is sent again. */
TEST(check_a_write_that_ends_beside_a_report_is_in_it_or_is_sent_again)
{
	u64 r[64];
	start(false);
	direct_write(0, PAGE, 1, PC_SHARED);
	CHECK(begin_commit(file));
	struct write earlier = begin(5 * PAGE, 6 * PAGE, PC_SHARED), later = begin(2 * PAGE, 3 * PAGE, PC_SHARED);
	send(&earlier, 1);
	send(&later, 2);
	CHECK(end_write(&earlier));
	EQUAL(pc_direct_lost(file->inode, r, 1, false), 2); /* no room for both: nothing has changed */
	RANGES(r, lost(r), 0, PAGE, 5 * PAGE, 6 * PAGE);
	CHECK(!end_write(&later));
	send(&later, 2);
	CHECK(end_write(&later));
	RANGES(r, lost(r), 2 * PAGE, 3 * PAGE);
	pc_commit_end(file->inode, false, PC_COMMIT_AGAIN);
	EQUAL(lost(r), 0);
	EQUAL(file_sync(file), 0);
}

TEST(check_many_ranges_become_few_and_cover_all)
{
	enum { SLOT = 256, SLOTS = ROOM / SLOT };
	static u64 r[2 * PC_DIRECT_RANGES + 2];
	bool dirty[SLOTS] = {false};
	start(false);
	store_truncate(&file->store, ROOM);
	pc_inode_set_sizes(file->inode, ROOM, ROOM);
	for (int k = 0; k < 500; k++) {
		u64 slot = draw(SLOTS), covered = 0;
		direct_write(slot * SLOT, slot * SLOT + SLOT / 2, 1, PC_SHARED);
		dirty[slot] = true;
		size_t n = pc_direct_ranges(file->inode, r, PC_DIRECT_RANGES + 1);
		CHECK(n <= PC_DIRECT_RANGES);
		for (size_t j = 0; j < n; j++) {
			CHECK(!j || r[2 * j] > r[2 * j - 2] + r[2 * j - 1]);
			for (u64 s = r[2 * j] / SLOT; s * SLOT + SLOT / 2 <= r[2 * j] + r[2 * j + 1]; s++)
				covered += dirty[s];
		}
		for (u64 s = 0; s < SLOTS; s++)
			covered -= dirty[s];
		EQUAL(covered, 0);
	}
}

/* Check that the checker finds it. */
TEST(check_a_count_without_a_lock_is_found)
{
	struct pc_violation v;
	start(false);
	struct write w = begin(0, PAGE, PC_SHARED);
	pc_inode_lock_release(file->inode, PC_SHARED);
	EQUAL(pc_check(rig.cache, &v), 1);
	EQUAL(strcmp(v.invariant, "I-16"), 0);
	lock_inode(file, PC_SHARED);
	CHECK(end_write(&w));
}

static bool begins(void)
{
	u64 failed;
	lock_inode(file, PC_EXCLUSIVE);
	bool begun = pc_direct_begin(file->inode, &failed);
	if (begun)
		CHECK(pc_direct_end(file->inode, 0, 0, &failed, true));
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	return begun;
}

/* On a backend that takes no direct write beside a commit: the commit waits without the token, and is next. [2.26] */
TEST(check_a_commit_and_a_direct_write_alternate)
{
	start(false);
	pc_inode_leaf_lock(file->inode);
	file->inode->limits.parallel_direct_writes = 0;
	pc_inode_leaf_unlock(file->inode);
	send_bytes(0, PAGE, 7);
	struct write d = begin(2 * PAGE, 3 * PAGE, PC_EXCLUSIVE);
	CHECK(!begin_commit(file));
	SOUND(&rig);
	pc_commit_start(file->inode, 0); /* a waiter that asks again queues nothing, and does not spin */
	next_work(PC_WORK_NONE);
	take_token(file);
	pc_token_release(file->inode);
	send(&d, 9);
	CHECK(end_write(&d));
	CHECK(!begins());
	SOUND(&rig);
	CHECK(commit_begins(file));
	CHECK(!begins());
	pc_commit_end(file->inode, store_commit(&file->store) == 0, PC_COMMIT_AGAIN);
	CHECK(begins());
	EQUAL(file->store.stable[2 * PAGE], 9);
}

THREAD(discard_all, file_discard(file, 0, UINT64_MAX, NULL, 0))

/* The discard waits for a folio that a writer holds. In between a direct append is acknowledged. [2.10, 2.18] */
TEST(check_a_discard_keeps_an_append_that_was_acknowledged_beside_it)
{
	start(true);
	put(PAGES * PAGE, PAGE, 1);
	struct pc_folio *f = folio_at(file, PAGES * PAGE);
	CHECK(pc_folio_trylock(f));
	pthread_t t = held_at("passer_by_met", discard_all, NULL);
	pc_folio_unlock(file->inode->cache, f);
	direct_write((PAGES + 1) * PAGE, (PAGES + 2) * PAGE, 9, PC_EXCLUSIVE);
	let_go("passer_by_met", t);
	EQUAL(pc_inode_size(file->inode), (PAGES + 2) * PAGE);
	SEES({(PAGES + 2) * PAGE - 1, 9}, {PAGES * PAGE, 0});
}
