/*
 * commit.c - whether everything up to an epoch is committed, when a commit begins, and the effect of its answer.
 *
 * Commits run under the token, so nothing is acknowledged while one runs: it covers the bytes that are unstable when it
 * begins. The engine's own work under the token (settle) uses the same queue.
 *
 * Contract 1.3, 2.15, 2.17; transition E7. Locks: leaf lock; walks release it every 64 folios.
 */
#include "io/io.h"

/* Whether anything acknowledged or done up to @stamp is uncommitted. */
bool pc_commit_needed(struct pc_inode *i, uint64_t stamp)
{
	stamp = pc_min(stamp, PC_STAMP_NONE - 1);
	struct pc_walk walk = {i, 0, pc_last_index(i->cache), 1 << PC_MARK_UNSTABLE, 0};
	pc_inode_leaf_lock(i);
	bool needed = i->stamp_m <= stamp || i->stamp_m_moved <= stamp || i->staged.stamp <= stamp;
	pc_inode_leaf_unlock(i);
	for (struct pc_folio *f; !needed && (f = pc_walk_next(&walk));)
		if ((needed = pc_stamp_get(&f->u) <= stamp))
			pc_walk_stop(&walk);
	return needed;
}

/* Whether everything dirtied or done up to @stamp is committed. Bytes move from D to W to U to clean unless a failure
 * puts them back. Therefore D and W are checked before U, and the result is valid only if nothing went back during the
 * checks: if a commit failed between two separate checks, both would find nothing. A running commit of later bytes is
 * not waited for; the walk of a commit that ends is, so that all its effects are there together. Context: no leaf lock.
 * Contract: 2.15. */
bool pc_sync_done(struct pc_inode *i, uint64_t stamp)
{
	for (;;) {
		pc_inode_leaf_lock(i);
		u64 seq = i->regress_seq;
		pc_inode_leaf_unlock(i);
		bool left = pc_flush_pending(i, stamp, 0, UINT64_MAX, NULL) != 0;
		PC_SYNC("sync_between");
		left = left || pc_commit_needed(i, stamp);
		pc_inode_leaf_lock(i);
		bool same = seq == i->regress_seq, ending = i->commit_ending;
		pc_inode_leaf_unlock(i);
		if (left || ending)
			return false;
		if (same)
			return true;
	}
}

/* Leaf lock held. */
static void queue_for_commit(struct pc_inode *i)
{
	if (i->dead || (pc_commit_waits(i) && pc_direct_runs(i) && !i->settle))
		return;
	if (!i->commit_queued && !i->commit_running && !atomic_load(&i->volume->aborted)) {
		i->commit_queued = 1;
		if (pc_token_take(i, &i->commit_waiter, PC_TOKEN_COMMIT))
			pc_work_push_commit(i);
	}
}

static void request(struct pc_inode *i, u64 stamp, bool unasked)
{
	pc_inode_leaf_lock(i);
	if (!i->commit_running && !atomic_load(&i->volume->aborted)) {
		i->commit_unasked = unasked && (i->commit_unasked || !i->commit_requested);
		i->commit_requested = 1;
		i->commit_stamp = pc_max(i->commit_stamp, stamp);
	}
	queue_for_commit(i);
	pc_inode_leaf_unlock(i);
}

/* Request a commit by the volume's threads as soon as the token is free. @stamp: the caller has seen that everything
 * dirtied up to there was written back. If any of it is dirty again when the token is granted, no commit runs, and the
 * caller requests again. 0: commit whatever is acknowledged. Has no effect while a commit runs. */
void pc_commit_start(struct pc_inode *i, uint64_t stamp)
{
	request(i, stamp, false);
}

/* Request a commit for which no caller waits: of a whole object it begins only if nothing has changed since @stamp, as it
 * would publish what its writer has not saved (contract 2.22). */
void pc_commit_try(struct pc_inode *i, uint64_t stamp)
{
	request(i, stamp, true);
}

/* Make the engine run its own work under the token, in place of a commit unless one is wanted. Leaf lock held. */
void pc_settle_wanted(struct pc_inode *i)
{
	i->settle = 1;
	queue_for_commit(i);
}

void pc_settle_start(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	pc_settle_wanted(i);
	pc_inode_leaf_unlock(i);
}

/* Whether a write, truncate or hole came after @stamp, or a view may be changing the file. */
bool pc_changed_since(struct pc_inode *i, uint64_t stamp)
{
	pc_inode_leaf_lock(i);
	bool changed = i->changed > stamp || i->nr_write_pinned;
	pc_inode_leaf_unlock(i);
	return changed;
}

/* Whether bytes that a caller waits for are dirty again: a failed commit or a rollback sent them back after the
 * caller's check and before the token was granted. Changes without bytes (m) must not become visible without those
 * bytes. The token is held, so no more bytes go back from here on. Or nobody asks for it, and the file has changed. */
static bool too_early(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	u64 stamp = i->commit_stamp;
	bool unasked = i->commit_unasked && i->limits.commit_on_close;
	pc_inode_leaf_unlock(i);
	if (unasked && pc_changed_since(i, stamp))
		return true;
	return stamp && pc_flush_pending(i, stamp, 0, UINT64_MAX, NULL);
}

/* Direct writes may have ended: begin a commit that waits for that. Leaf lock held. */
void pc_commit_resume(struct pc_inode *i)
{
	if (pc_commit_waits(i))
		queue_for_commit(i);
}

/* Begin a commit under the token. @own: a caller makes the commit of its file itself. Return: 1; 0: there is nothing to
 * commit or to settle, it is too early, or the volume was aborted: the token is released; -EAGAIN, with @own: the
 * engine's own work under the token is due too, which an interrupt of the caller would leave in the middle; it is
 * queued for a thread of the volume. */
int pc_commit_begin(struct pc_inode *i, bool own)
{
	bool early = too_early(i);
	pc_inode_leaf_lock(i);
	if (own && i->settle) {
		pc_work_push_commit(i);
		pc_inode_leaf_unlock(i);
		return -EAGAIN;
	}
	u64 generation = atomic_load(&i->volume->generation);
	bool some = i->nr_unstable || i->stamp_m != PC_STAMP_NONE || pc_staged_bytes(i);
	bool alone = !i->limits.parallel_direct_writes;
	bool due = some && !early && i->commit_requested;
	bool commits = due && !(alone && pc_direct_runs(i));
	bool wanted = (commits || i->settle) && !pc_stopped(i, generation);
	u64 stamp = i->commit_stamp;
	i->commit_queued = 0;
	i->commit_waits = due && !commits ? generation : 0;
	if (!i->commit_waits) {
		i->commit_requested = 0;
		i->commit_stamp = 0;
	}
	i->commit_due = wanted && commits;
	i->commit_plain = i->commit_due && !i->settle;
	if (wanted) {
		i->settle = 0;
		i->gate = commits && alone;
		i->commit_running = 1;
		i->commit_asked = stamp;
		i->commit_ns = pc_now(i->cache);
		i->commit_generation = generation;
		i->commit_size = atomic_load(&i->remote_size);
		i->undone_moved = i->undone;
		i->undone = (struct pc_undone){.lowest = UINT64_MAX};
		atomic_fetch_add_explicit(&i->volume->committing, 1, memory_order_relaxed);
		i->stamp_m_moved = i->stamp_m;
		i->stamp_m = PC_STAMP_NONE;
		pc_direct_move(i);
	} else {
		pc_token_release_locked(i);
	}
	pc_inode_leaf_unlock(i);
	PC_SYNC("commit_begun");
	return wanted;
}

/* [E7] The commit succeeded, or failed and unstable bytes become dirty again. @how: kind of failure. PC_COMMIT_KEPT:
 * the backend still has all acknowledged bytes, which stay unstable. PC_COMMIT_PARKED: permanent; the bytes are failed
 * and nothing sends them until requested. Any answer after an abort counts as a plain failure: the server may have
 * lost acknowledged bytes before it made the others durable. A success at the end of a volume may count:
 * pc_commit_counts. Return: whether it counts as a success. Staged bytes stay staged until a commit succeeds: the
 * spool has them. A concurrent read of them may find that their spool has gone with the commit, and then plans its
 * call again (engine/commit/staging.py). If acknowledged bytes were given up, reads showed either them or the bytes
 * before them. The commit decided which of the two is stored, and only the backend knows which: clean bytes of that
 * range leave the cache. */
bool pc_commit_end(struct pc_inode *i, bool ok, int how)
{
	ok = ok && pc_commit_counts(i);
	if (pc_stopped(i, i->commit_generation))
		how = PC_COMMIT_AGAIN;
	pc_inode_leaf_lock(i);
	i->commit_ending = 1;
	pc_inode_leaf_unlock(i);
	struct pc_walk walk = {i, 0, pc_last_index(i->cache), 1 << PC_MARK_UNSTABLE, 0};
	for (struct pc_folio *f; (ok || how != PC_COMMIT_KEPT) && (f = pc_walk_next(&walk));) {
		pc_folio_end_unstable(i, f, ok, how == PC_COMMIT_PARKED);
		pc_folio_ext_drop(i, f);
	}
	pc_inode_leaf_lock(i);
	u64 gone_pos = i->undone_moved.gone_pos, gone_end = i->undone_moved.gone_end;
	pc_inode_leaf_unlock(i);
	if (gone_pos < gone_end && (ok || how != PC_COMMIT_KEPT))
		pc_invalidate_range(i, gone_pos, gone_end);
	pc_inode_leaf_lock(i);
	if (ok) {
		i->committed_size = i->commit_size;
		pc_counted(i, &i->counters.commits, 1);
	} else {
		i->stamp_m = pc_min(i->stamp_m, i->stamp_m_moved);
		pc_undone_merge(&i->undone, &i->undone_moved);
		i->regress_seq++;
	}
	pc_staged_end_commit(i, ok);
	pc_written_end_commit(i, ok);
	pc_direct_committed(i, ok, how == PC_COMMIT_KEPT);
	i->undone_moved = (struct pc_undone){.lowest = UINT64_MAX};
	i->stamp_m_moved = PC_STAMP_NONE;
	i->commit_running = i->commit_ending = i->commit_due = 0;
	atomic_fetch_sub_explicit(&i->volume->committing, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&i->volume->answers, 1, memory_order_relaxed);
	i->commit_seq++;
	pc_dirty_list_update(i);
	pc_token_release_locked(i);
	if (i->settle) /* requested while this commit ran */
		queue_for_commit(i);
	pc_commit_resume(i);
	pc_inode_leaf_unlock(i);
	PC_SYNC("commit_ended");
	pc_event_wake(&i->cache->event);
	return ok;
}
