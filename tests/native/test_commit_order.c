/* The scope of a commit: awaited bytes go first, work under the token starts no commit, and bytes read after a discard
 * of acknowledged ones do not outlast it (T-18, T-75b). */
#include "staging.h"

static void begin(void)
{
	open_one(1 << 20, PAGE, 2 * PAGE, ROOM, limits_wide());
}

/* The commit has the token. Return: whether it begins. */
static bool commit_begins(void)
{
	struct pc_work w;
	for (pc_work_next(rig.volume, &w); w.kind != PC_WORK_COMMITTING; pc_work_next(rig.volume, &w)) {
		CHECK(w.kind != PC_WORK_NONE);
		do_work(rig.volume, &w);
	}
	bool begins = pc_commit_begin(file->inode, false);
	end_work(&w);
	return begins;
}

static void commit_fails(void)
{
	memcpy(file->store.bytes, file->store.stable, ROOM);
	pc_commit_end(file->inode, false, PC_COMMIT_AGAIN);
}

/* Acknowledged bytes, and something to commit that no byte carries. Return: the epoch of a waiter for both. */
static u64 bytes_and_more(void)
{
	begin();
	pc_inode_set_uncommitted(file->inode, true, UINT64_MAX, 0, 0);
	put(0, PAGE, 2);
	u64 stamp = pc_epoch_take(rig.volume);
	EQUAL(flush(file), 0);
	return stamp;
}

static void end_in_order(void)
{
	EQUAL(file->inode->token, PC_TOKEN_FREE);
	u32 writes = file->store.writes;
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.writes, writes + 1);
	EQUAL(file->store.commits, 1); /* one, and it had the bytes */
	EQUAL(file->store.stable[0], 2);
}

/* The commit fails after a sync has seen that nothing is dirty, and before it asks for its own. */
TEST_OF_FIX("commit_follows_its_bytes", check_bytes_that_came_back_before_a_commit_is_asked_for_go_first)
{
	u64 stamp = bytes_and_more();
	CHECK(begin_commit(file));
	EQUAL(pc_flush_pending(file->inode, stamp, 0, ALL, NULL), 0);
	commit_fails();
	CHECK(pc_commit_needed(file->inode, stamp)); /* the creation */
	pc_commit_start(file->inode, stamp);
	CHECK(!commit_begins());
	end_in_order();
}

/* In the other order, a commit is requested, and while it waits for the token a rollback sends the bytes back. */
TEST_OF_FIX("commit_follows_its_bytes", check_bytes_that_came_back_before_the_token_came_go_first)
{
	u64 stamp = bytes_and_more();
	take_token(file);
	pc_commit_start(file->inode, stamp);
	pc_uncommit(file->inode);
	pc_token_release(file->inode);
	CHECK(!commit_begins());
	end_in_order();
}

TEST(check_later_bytes_do_not_delay_a_commit)
{
	u64 stamp = bytes_and_more();
	put(PAGE, PAGE, 3);
	pc_commit_start(file->inode, stamp);
	CHECK(commit_begins());
	EQUAL(store_commit(&file->store), 0);
	pc_commit_end(file->inode, true, 0);
	CHECK(pc_sync_done(file->inode, stamp));
	put(0, PAGE, 4);
	pc_inode_set_uncommitted(file->inode, true, UINT64_MAX, 0, 0);
	pc_commit_start(file->inode, 0); /* of a caller that wants the acknowledged bytes, whatever is dirty */
	CHECK(commit_begins());
	pc_commit_end(file->inode, true, 0);
}

/* A flag that a rebase within a commit left behind: its work is done, and half of the bytes may be acknowledged. */
TEST_OF_FIX("settling_commits_nothing", check_work_under_the_token_commits_nothing_of_itself)
{
	begin();
	pc_settle_start(file->inode); /* there is nothing to commit */
	CHECK(commit_begins());
	CHECK(!NUMBER(file->inode, COMMIT_DUE));
	EQUAL(file->inode->counters.commits, 0);
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	send_bytes(0, PAGE, 2);
	CHECK(begin_commit(file));
	CHECK(NUMBER(file->inode, COMMIT_DUE));
	pc_settle_start(file->inode); /* while it runs: not lost */
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	u64 commits = file->inode->counters.commits;
	CHECK(commit_begins());
	CHECK(!NUMBER(file->inode, COMMIT_DUE));
	EQUAL(file->inode->counters.commits, commits);
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	pc_settle_start(file->inode);
	pc_commit_start(file->inode, 0); /* a caller does want one */
	CHECK(commit_begins());
	CHECK(NUMBER(file->inode, COMMIT_DUE));
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	EQUAL(usage(file, NULL).unstable, PAGE);
}

/* Stored 1, acknowledged 2, discarded. */
static void acknowledged_and_given_up(void)
{
	begin();
	put(0, 2 * PAGE, 1);
	EQUAL(file_sync(file), 0);
	send_bytes(0, PAGE, 2);
	EQUAL(file_discard(file, 0, PAGE, NULL, 0), 1);
}

TEST_OF_FIX("discarded_bytes_are_not_kept", check_bytes_read_after_a_discard_go_with_a_failed_commit)
{
	acknowledged_and_given_up();
	for (int again = 0; again < 2; again++) { /* it is unknown which bytes the first one has forgotten */
		file->store.bytes[0] = 2;
		pc_invalidate_range(file->inode, 0, PAGE);
		EQUAL(byte_at(0), 2);
		CHECK(begin_commit(file));
		commit_fails();
		EQUAL(byte_at(0), 1);
	}
	u32 reads = file->store.reads;
	EQUAL(file_sync(file), 0);
	EQUAL(byte_at(0), 1);
	EQUAL(file->store.reads, reads + 1);
	CHECK(!NUMBER(file->inode, UNSAVED));
}

TEST_OF_FIX("discarded_bytes_are_not_kept", check_a_fill_after_a_discard_reads_again_when_the_commit_fails)
{
	acknowledged_and_given_up();
	struct pc_request *r = begin_fill(file, 0, PAGE);
	struct call c = next_call(r);
	int64_t got = read_call(&c);
	CHECK(begin_commit(file));
	commit_fails();
	EQUAL(pc_fill_answer(r, got), 0);
	EQUAL(run_fill(file, r), 0);
	EQUAL(byte_at(0), 1);
}

TEST(check_a_commit_that_keeps_everything_leaves_what_was_read)
{
	acknowledged_and_given_up();
	EQUAL(byte_at(0), 2);
	CHECK(begin_commit(file));
	u32 reads = file->store.reads;
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	EQUAL(byte_at(0), 2);
	EQUAL(file->store.reads, reads);
}

/* A backend that cannot roll back publishes its staged bytes; reads show that only when it is in the object. */
TEST_OF_FIX("discarded_bytes_are_not_kept", check_bytes_read_after_a_discard_go_with_the_commit_that_publishes)
{
	start(2 * PAGE);
	u8 old = byte_at(0);
	send_bytes(0, PAGE, 2);
	EQUAL(file_discard(file, 0, PAGE, NULL, 0), 1);
	EQUAL(staged(), 0);
	EQUAL(byte_at(0), old);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.bytes[0], 2);
	EQUAL(byte_at(0), 2);
}
