/*
 * sync.c - how far a flush or fsync of one file has come.
 *
 * Everything changed before the call has a stamp up to the sync's. Bytes move from dirty over in flight and unstable to
 * clean, and back only by a failure. So a poll asks in this order, and says what the caller has to do next:
 *
 *   dirty      -> SEND, once for each mark of the pass; then WAIT for the inode's event
 *   in flight  -> WAIT
 *   unstable   -> COMMIT, then WAIT
 *   nothing    -> DONE, seen at one moment
 *
 * A commit that the sync waits for is judged before anything is sent again: bytes that it made dirty are a failure of
 * the commit, and the caller's retry policy decides about it. Failed bytes are reported when nothing else is left to be
 * sent.
 *
 * Contract 1.3, 2.15. Context: no leaf lock. A sync belongs to one thread at a time.
 */
#include "io/io.h"

#include <string.h>

static u64 failed_commits(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	u64 failed = i->counters.failed_commits;
	pc_inode_leaf_unlock(i);
	return failed;
}

/* Whether the commit that it waited for has failed. */
static bool commit_failed(struct pc_inode *i, struct pc_sync *s)
{
	if (!s->waits_for_commit || pc_inode_number(i, PC_BY_COMMITS_ENDED) == s->commit_seq)
		return false;
	s->waits_for_commit = 0;
	return failed_commits(i) != s->failed_commits;
}

static u32 pending(struct pc_inode *i, struct pc_sync *s, u64 *cursor)
{
	return pc_flush_pending(i, s->stamp, s->pos, s->end, cursor);
}

/* Whether the dirty bytes still need a pass: they were not marked, a failure has sent some back, or the pass is over. */
static bool to_be_sent(struct pc_inode *i, const struct pc_sync *s)
{
	return s->sent != s->cursor[1] + 1 || pc_inode_number(i, PC_BY_PASS_IDLE);
}

static enum pc_sync_next poll_flush(struct pc_inode *i, struct pc_sync *s)
{
	const u32 moving = PC_PENDING_DIRTY | PC_PENDING_WRITEBACK;
	u32 found = pending(i, s, s->cursor);
	if (commit_failed(i, s))
		return PC_SYNC_COMMIT_FAILED;
	if (!(found & moving)) {
		memset(s->cursor, 0, sizeof(s->cursor));
		s->sent = 0;
		found = pending(i, s, NULL);
		if (commit_failed(i, s))
			return PC_SYNC_COMMIT_FAILED;
		if (found & PC_PENDING_FAILED && !(found & moving))
			return PC_SYNC_FAILED;
	}
	s->backoff = (found & PC_PENDING_BACKOFF) != 0;
	if (found & PC_PENDING_DIRTY && to_be_sent(i, s))
		return PC_SYNC_SEND;
	return found ? PC_SYNC_WAIT : PC_SYNC_DONE;
}

/* Begin a sync: up to the present epoch, unless the caller has set another. Return: whether bytes have failed. */
bool pc_sync_begin(struct pc_inode *i, struct pc_sync *s)
{
	s->stamp = s->stamp ? s->stamp : pc_epoch_take(i->volume);
	pc_inode_leaf_lock(i);
	bool failed = i->nr_failed != 0;
	pc_inode_leaf_unlock(i);
	return failed;
}

/* What a sync has to do next. Sets `event` to the inode's event of before the poll; `backoff` if bytes wait for the
 * time of a retry; and `stale` if the sync is done but for the version that its requests have made, which is not
 * known. */
enum pc_sync_next pc_sync_poll(struct pc_inode *i, struct pc_sync *s)
{
	s->event = atomic_load(&i->event.seq);
	s->backoff = s->stale = 0;
	if (s->flush) {
		enum pc_sync_next next = poll_flush(i, s);
		if (next != PC_SYNC_DONE)
			return next;
	}
	PC_SYNC("sync_flushed");
	if (s->commit) {
		bool needed = pc_commit_needed(i, s->stamp);
		if (commit_failed(i, s)) /* none is needed because it failed */
			return PC_SYNC_COMMIT_FAILED;
		if (needed)
			return PC_SYNC_COMMIT;
		/* Not done: a commit is ending, bytes are being given up, or a commit failed between two checks. */
		if (s->flush && !pc_sync_done(i, s->stamp))
			return PC_SYNC_WAIT;
	}
	if (s->version && pc_inode_number(i, PC_BY_PASS_ENDING))
		return PC_SYNC_WAIT;
	s->stale = s->version && pc_inode_number(i, PC_BY_STALE);
	return PC_SYNC_DONE;
}

/* Start the pass that it has to SEND, or request the COMMIT, and wait for the next one that ends. */
void pc_sync_start(struct pc_inode *i, struct pc_sync *s, enum pc_sync_next next)
{
	if (next == PC_SYNC_SEND) {
		s->sent = s->cursor[1] + 1;
		pc_flush_start(i, s->stamp, s->pos, s->end);
		return;
	}
	if (!s->waits_for_commit) {
		s->failed_commits = failed_commits(i); /* first: a failure in between counts */
		s->commit_seq = pc_inode_number(i, PC_BY_COMMITS_ENDED);
		s->waits_for_commit = 1;
	}
	if (s->unasked)
		pc_commit_try(i, s->stamp);
	else
		pc_commit_start(i, s->flush ? s->stamp : 0);
}
