/*
 * The scope of a commit: awaited bytes go first, work under the token starts no commit, and bytes read after a discard
 * of acknowledged ones do not outlast it (T-18, T-75b).
 */
#include "staging.h"

static void begin(void)
{
	rig_open(&rig, 1 << 20, PAGE);
	file = file_open(&rig, 2 * PAGE, ROOM);
}

/* The commit has the token. Return: whether it begins. */
static bool commit_begins(void)
{
	struct pc_work w;
	for (pc_work_next(rig.volume, &w); w.kind != PC_WORK_COMMITTING; pc_work_next(rig.volume, &w)) {
		CHECK(w.kind != PC_WORK_NONE);
		do_work(rig.volume, &w);
	}
	bool begins = pc_commit_begin(file->inode);
	pc_inode_user_put(w.inode);
	pc_work_end(rig.volume, &w);
	return begins;
}

static void commit_fails(void)
{
	memcpy(file->store.bytes, file->store.stable, ROOM);
	pc_commit_end(file->inode, false, PC_COMMIT_AGAIN);
}

/* ---------------------------------------------------------------- bytes first */

/* Acknowledged bytes, and something to commit that no byte carries. Return: the epoch of a waiter for both. */
static u64 bytes_and_more(void)
{
	begin();
	pc_inode_set_uncommitted(file->inode, true, UINT64_MAX);
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
	rig_close(&rig);
}

/* The commit fails after a sync has seen that nothing is dirty, and before it asks for its own. */
static void check_bytes_that_came_back_before_a_commit_is_asked_for_go_first(void)
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
static void check_bytes_that_came_back_before_the_token_came_go_first(void)
{
	u64 stamp = bytes_and_more();
	take_token(file);
	pc_commit_start(file->inode, stamp);
	pc_uncommit(file->inode);
	pc_token_release(file->inode);
	CHECK(!commit_begins());
	end_in_order();
}

static void check_later_bytes_do_not_delay_a_commit(void)
{
	u64 stamp = bytes_and_more();
	put(PAGE, PAGE, 3);
	pc_commit_start(file->inode, stamp);
	CHECK(commit_begins());
	EQUAL(store_commit(&file->store), 0);
	pc_commit_end(file->inode, true, 0);
	CHECK(pc_sync_done(file->inode, stamp));
	put(0, PAGE, 4);
	pc_inode_set_uncommitted(file->inode, true, UINT64_MAX);
	pc_commit_start(file->inode, 0); /* of a caller that wants the acknowledged bytes, whatever is dirty */
	CHECK(commit_begins());
	pc_commit_end(file->inode, true, 0);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- work under the token */

/* A flag that a rebase within a commit left behind: its work is done, and half of the bytes may be acknowledged. */
static void check_work_under_the_token_commits_nothing_of_itself(void)
{
	begin();
	put(0, PAGE, 2);
	EQUAL(flush(file), 0);
	CHECK(begin_commit(file));
	CHECK(pc_commit_due(file->inode));
	pc_settle_start(file->inode);
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	u64 commits = file->inode->counters.commits;
	CHECK(commit_begins());
	CHECK(!pc_commit_due(file->inode));
	EQUAL(file->inode->counters.commits, commits);
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	pc_settle_start(file->inode);
	pc_commit_start(file->inode, 0); /* a caller does want one */
	CHECK(commit_begins());
	CHECK(pc_commit_due(file->inode));
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	EQUAL(usage(file, NULL).unstable, PAGE);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- discarded bytes */

static u8 first(void)
{
	u8 byte = 0;
	EQUAL(file_read(file, 0, &byte, 1), 1);
	return byte;
}

/* Stored 1, acknowledged 2, discarded. */
static void acknowledged_and_given_up(void)
{
	u64 lost[2];
	begin();
	put(0, 2 * PAGE, 1);
	EQUAL(file_sync(file), 0);
	put(0, PAGE, 2);
	EQUAL(flush(file), 0);
	EQUAL(file_discard(file, 0, PAGE, lost, 1), 1);
}

static void check_bytes_read_after_a_discard_go_with_a_failed_commit(void)
{
	acknowledged_and_given_up();
	for (int again = 0; again < 2; again++) { /* it is unknown which bytes the first one has forgotten */
		file->store.bytes[0] = 2;
		pc_invalidate_range(file->inode, 0, PAGE);
		EQUAL(first(), 2);
		CHECK(begin_commit(file));
		commit_fails();
		EQUAL(first(), 1);
	}
	u32 reads = file->store.reads;
	EQUAL(file_sync(file), 0);
	EQUAL(first(), 1);
	EQUAL(file->store.reads, reads + 1);
	CHECK(!pc_inode_has_local(file->inode));
	rig_close(&rig);
}

static void check_a_fill_after_a_discard_reads_again_when_the_commit_fails(void)
{
	struct pc_need need;
	struct pc_request *r;
	struct pc_part parts[PARTS];
	size_t n;
	u64 pos;
	acknowledged_and_given_up();
	EQUAL(pc_fill_begin(file->inode, 0, PAGE, &need, &r), 0);
	EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
	int64_t got = store_read(&file->store, pos, parts, n);
	CHECK(begin_commit(file));
	commit_fails();
	EQUAL(pc_fill_answer(r, got), 0);
	EQUAL(run_fill(file, r), 0);
	EQUAL(first(), 1);
	rig_close(&rig);
}

static void check_a_commit_that_keeps_everything_leaves_what_was_read(void)
{
	acknowledged_and_given_up();
	EQUAL(first(), 2);
	CHECK(begin_commit(file));
	u32 reads = file->store.reads;
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	EQUAL(first(), 2);
	EQUAL(file->store.reads, reads);
	rig_close(&rig);
}

/* A backend that cannot roll back publishes its staged bytes; reads show that only when it is in the object. */
static void check_bytes_read_after_a_discard_go_with_the_commit_that_publishes(void)
{
	u64 lost[2];
	start(2 * PAGE);
	u8 old = first();
	stage(0, PAGE, 2);
	EQUAL(file_discard(file, 0, PAGE, lost, 1), 1);
	EQUAL(staged(), 0);
	EQUAL(first(), old);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.bytes[0], 2);
	EQUAL(first(), 2);
	rig_close(&rig);
}

static void check_with_the_fixes_removed_the_checks_fail(void)
{
	check_fails_without("commit_follows_its_bytes",
			    check_bytes_that_came_back_before_a_commit_is_asked_for_go_first);
	check_fails_without("commit_follows_its_bytes", check_bytes_that_came_back_before_the_token_came_go_first);
	check_fails_without("settling_commits_nothing", check_work_under_the_token_commits_nothing_of_itself);
	check_fails_without("discarded_bytes_are_not_kept", check_bytes_read_after_a_discard_go_with_a_failed_commit);
	check_fails_without("discarded_bytes_are_not_kept",
			    check_a_fill_after_a_discard_reads_again_when_the_commit_fails);
	check_fails_without("discarded_bytes_are_not_kept",
			    check_bytes_read_after_a_discard_go_with_the_commit_that_publishes);
}

int main(void)
{
	RUN(check_bytes_that_came_back_before_a_commit_is_asked_for_go_first);
	RUN(check_bytes_that_came_back_before_the_token_came_go_first);
	RUN(check_later_bytes_do_not_delay_a_commit);
	RUN(check_work_under_the_token_commits_nothing_of_itself);
	RUN(check_bytes_read_after_a_discard_go_with_a_failed_commit);
	RUN(check_a_fill_after_a_discard_reads_again_when_the_commit_fails);
	RUN(check_a_commit_that_keeps_everything_leaves_what_was_read);
	RUN(check_bytes_read_after_a_discard_go_with_the_commit_that_publishes);
	RUN(check_with_the_fixes_removed_the_checks_fail);
	return 0;
}
