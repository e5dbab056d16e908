/*
 * direct.c - direct writes: bytes that go to the backend past the cache, and their effects on the cache.
 *
 * A direct write holds the inode lock, shared or exclusive. It counts in `nr_direct` from before its first backend call
 * until the last one has returned, even if its caller has given up. So an exclusive holder of the lock (truncate,
 * punch, buffered write) finds the count drained. Its range is invalidated before the first call and again with every
 * answer, since a concurrent fill may have read the old bytes.
 *
 * The holder of the token closes the *gate* while it changes what direct writes build on: the name, the stored end, the
 * base, what is acknowledged. None begins then, and the holder waits for those that run; a counted one waits for
 * nothing. A commit closes it unless the backend takes direct writes beside one (parallel_direct_writes); it does not
 * hold the token while it waits for them, so write-back goes on beside a call that hangs.
 *
 *   answer of a call   remote_size, size (of bytes taken), inval_seq and the folios of the range: in one section
 *   the write ends     stamp m and its range: uncommitted until a commit that was issued afterwards succeeds
 *   it failed beyond   bytes that it may have stored there are a *tail*: no more bytes are sent until the engine, with the
 *   remote_size        token and so with nothing in flight, owes the backend the cut (engine/commit/tails.py)
 *   a commit fails     the ranges may be lost; a write that ends after the look at them notices that, and is sent again
 *
 * Contract 2.10, 2.17. Locks: leaf lock.
 */
#include "io/io.h"

/* ---------------------------------------------------------------- cached bytes of a range */

/* Whether [pos, end) may be written under the shared lock: it does not extend the file, and no byte of the file is
 * local. Checked before that lock is taken, and again with it held (contract 2.10). */
bool pc_direct_may_share(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	pc_inode_leaf_lock(i);
	bool may = pos < end && end <= atomic_load(&i->size) && !i->nr_local && !pc_staged_bytes(i);
	pc_inode_leaf_unlock(i);
	return may;
}

/* Sets that have local bytes in the blocks of [pos, end): PC_PENDING_DIRTY, PC_PENDING_WRITEBACK,
 * PC_PENDING_UNSTABLE. */
uint32_t pc_range_local(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	static const struct {
		u32 set, says;
	} sets[] = {{PC_D, PC_PENDING_DIRTY}, {PC_W, PC_PENDING_WRITEBACK}, {PC_U, PC_PENDING_UNSTABLE}};
	u32 shift = i->cache->page_shift, found = 0;
	pc_inode_leaf_lock(i);
	for (u32 k = 0; k < 3; k++)
		if (pos < end && pc_any_block(i, sets[k].set, pos >> shift, ((end - 1) >> shift) + 1))
			found |= sets[k].says;
	pc_inode_leaf_unlock(i);
	return found;
}

enum { PC_WALK = 64 };

/* Whether the byte at `at` is local; *until: end of the range with this answer, at most `end`. Leaf lock held. */
static bool is_local(struct pc_inode *i, u64 at, u64 end, u64 *until)
{
	struct pc_cache *c = i->cache;
	u32 shift = c->page_shift, id = i->nr_local ? pc_index_next(i, at >> shift, ((end - 1) >> shift) + 1) : 0;
	struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
	u64 start = f ? pc_folio_pos(c, f) : end;
	if (start > at) {
		*until = pc_min(start, end);
		return false;
	}
	u32 from = (u32)(at - start), block = from >> shift, to = (u32)pc_min((u64)(block + 1) << shift, end - start);
	bool local = pc_local_count(c, f, block, block + 1);
	u32 valid = local ? pc_valid_until(c, f, from, to) : from;
	*until = start + (valid > from ? valid : local ? pc_missing_until(c, f, from, to) : to);
	return valid > from;
}

/* Split the front of a direct read of [pos, end): [pos, *local) is local, the backend reads [*local, *stop). Either may
 * be empty; the next call covers the rest. Context: any thread, no lock. */
void pc_direct_split(struct pc_inode *i, uint64_t pos, uint64_t end, uint64_t *local, uint64_t *stop)
{
	u64 at = pos, until = pos;
	u32 steps = 0;
	pc_inode_leaf_lock(i);
	for (; at < end && steps < PC_WALK && is_local(i, at, end, &until); steps++)
		at = until;
	*local = at;
	for (; at < end && steps < PC_WALK && !is_local(i, at, end, &until); steps++)
		at = until;
	*stop = at;
	pc_inode_leaf_unlock(i);
}

/* ---------------------------------------------------------------- the gate */

/* Let no direct write begin until the token, which the caller holds, is released. Return: whether some run that can still
 * change what the present backend has. */
bool pc_gate_close(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	PC_DEBUG_ASSERT(i->token != PC_TOKEN_FREE);
	i->gate = 1;
	bool some = pc_direct_runs(i);
	pc_inode_leaf_unlock(i);
	return some;
}

/* ---------------------------------------------------------------- a direct write */

/* Count a direct write; @failed: receives the number of failed commits, for pc_direct_end(). Context: inode lock, no
 * leaf lock. Return: false: the gate is closed, and the inode's event says when to try again. */
bool pc_direct_begin(struct pc_inode *i, uint64_t *failed)
{
	pc_inode_leaf_lock(i);
	bool open = !pc_gate_is_closed(i);
	if (open) {
		i->nr_direct++;
		i->direct_generation = atomic_load(&i->volume->generation);
		*failed = i->commits_failed;
	}
	pc_inode_leaf_unlock(i);
	return open;
}

/* A backend call over [pos, end) has returned, and took [pos, taken); taken == pos: nothing, or unknown. Readers see
 * the larger size only after the folios of the range are gone, since those have zeros beyond the old end. */
void pc_direct_answer(struct pc_inode *i, uint64_t pos, uint64_t taken, uint64_t end)
{
	pc_inode_leaf_lock(i);
	PC_DEBUG_ASSERT(i->nr_direct);
	if (taken > pos && taken > atomic_load(&i->remote_size))
		pc_set_remote_size(i, taken);
	pc_invalidate_folios(i, pos, end);
	if (taken > pos && taken > atomic_load(&i->size))
		pc_set_size(i, taken);
	if (taken > pos)
		i->direct_end = pc_max(i->direct_end, taken);
	pc_counted(i, &i->counters.write_requests, 1);
	pc_counted(i, &i->counters.write_bytes, taken - pos);
	pc_inode_leaf_unlock(i);
	atomic_fetch_add_explicit(&i->volume->answers, 1, memory_order_relaxed);
}

/* Leaf lock held. */
static void note_tail(struct pc_inode *i)
{
	i->tails++;
	/* A commit must follow, which waits for the cut. */
	i->stamp_m = pc_min(i->stamp_m, atomic_load(&i->volume->epoch));
	pc_dirty_list_update(i);
	pc_settle_wanted(i);
}

/* A running direct write may have left a tail on a disconnected backend, and its end is not awaited. */
void pc_tail_left(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	note_tail(i);
	pc_inode_leaf_unlock(i);
}

/* The cut of all tails up to this one is owed: it precedes the next request of any kind. Token: nothing of the file is
 * in flight. */
void pc_tail_owed(struct pc_inode *i, uint32_t tail)
{
	pc_inode_leaf_lock(i);
	i->tails_owed = tail;
	pc_inode_leaf_unlock(i);
}

/* End a write that may have stored some bytes of [pos, end). @failed: from pc_direct_begin. If a commit has failed
 * since then, it may have lost bytes of this write: nothing happens, *failed is updated, and the caller sends
 * everything again, unless @give_up. Return: whether the write has ended. */
bool pc_direct_end(struct pc_inode *i, uint64_t pos, uint64_t end, uint64_t *failed, bool give_up)
{
	pc_inode_leaf_lock(i);
	bool over = give_up || *failed == i->commits_failed;
	*failed = i->commits_failed;
	if (over && pos < end && !pc_durable(i)) {
		i->stamp_m = pc_min(i->stamp_m, atomic_load(&i->volume->epoch));
		pc_direct_add(i, pos, end);
		pc_dirty_list_update(i);
	}
	if (over && pos < end && end > atomic_load(&i->remote_size))
		note_tail(i); /* here, while the caller still has its lock, so no later operation has missed the tail */
	i->nr_direct -= over;
	if (over)
		pc_commit_resume(i);
	pc_inode_leaf_unlock(i);
	if (over)
		pc_event_wake(&i->event);
	return over;
}

/* The caller of direct writes has given up while their calls still run, by an old call. */
void pc_direct_left(struct pc_inode *i, int n)
{
	pc_inode_leaf_lock(i);
	i->nr_direct_left += (u32)n;
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
}
