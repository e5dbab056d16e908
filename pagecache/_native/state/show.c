/*
 * show.c - the numbers of an inode or a volume, one at a time, and the lengths of the queues.
 *
 * Nothing here changes anything, and no caller waits for it longer than for any other section under a leaf lock. Hits take no leaf
 * lock and never notice.
 */
#include "state/state.h"

/* Bytes in a running call are as old as when they were dirty; a running commit is as old as its call. Leaf lock held. */
static u64 unsaved_since(const struct pc_inode *i)
{
	u64 dirty = i->nr_dirty || i->nr_writeback ? i->dirtied_ns : 0;
	u64 committing = i->commit_running && i->commit_due ? i->commit_ns : 0;
	return dirty && committing ? pc_min(dirty, committing) : dirty + committing;
}

/* Is the file in the hands of a call that an abort, an interrupt or a deadline left behind? Leaf lock held. */
static bool in_old_hands(const struct pc_inode *i)
{
	return i->token == PC_TOKEN_STRAY || i->token_lent || i->nr_direct_left ||
	       (i->pass.active && pc_stopped(i, i->pass.generation)) ||
	       (i->commit_running && pc_stopped(i, i->commit_generation));
}

/* Is the stored version known, and no call about to change it? Leaf lock held. */
static bool is_quiet(const struct pc_inode *i)
{
	return !i->version_stale && !i->pass.active && !i->pass_wanted && !i->commit_due;
}

/* Is nothing local that the store may lack? Leaf lock held. */
static bool is_unchanged(struct pc_inode *i)
{
	return !pc_unsaved(i) && !i->nr_dirty && !i->nr_writeback;
}

/* Leaf lock held. */
static u64 number_of(struct pc_inode *i, u32 which)
{
	const struct pc_pass *p = &i->pass;
	u32 shift = i->cache->page_shift;
	switch (which) {
	case PC_BY_DIRTY: return i->nr_dirty << shift;
	case PC_BY_CACHED: return i->nr_pages << shift;
	case PC_BY_FAILED: return i->nr_failed << shift;
	case PC_BY_UNSTABLE: return i->nr_unstable << shift;
	case PC_BY_AGE: return unsaved_since(i);
	case PC_BY_HITS: return pc_inode_hits(i);
	case PC_BY_UNSTORED: return (i->nr_dirty + i->nr_writeback) << shift;
	case PC_BY_TAKEN: return i->counters.handed_over + (i->nr_dirty << shift);
	case PC_BY_ACKNOWLEDGED: return i->counters.acknowledged;
	case PC_BY_SIZE: return pc_inode_size(i);
	case PC_BY_REMOTE_SIZE: return pc_inode_remote_size(i);
	case PC_BY_SAVED_SIZE: return (pc_durable(i) ? pc_inode_remote_size(i) : i->committed_size) + 1;
	case PC_BY_SENT_END: return pc_sent_end(i);
	case PC_BY_STAGED: return pc_staged_bytes(i);
	case PC_BY_WRITE_PINNED: return i->nr_write_pinned << shift;
	case PC_BY_UNLOGGED: return i->unlogged_whole ? 2 : i->unlogged.nr_ranges != 0;
	case PC_BY_STAGED_END: return pc_map_end(&i->staged.map);
	case PC_BY_EVENT: return atomic_load(&i->event.seq);
	case PC_BY_DIRTIED: return i->nr_dirty ? i->dirtied_ns : 0;
	case PC_BY_UNSAVED: return pc_unsaved(i);
	case PC_BY_WRITTEN_WHOLE: return i->written_whole;
	case PC_BY_CHANGING: return atomic_load(&i->lock_word) != 0;
	case PC_BY_OLD_HANDS: return in_old_hands(i);
	case PC_BY_CHANGES: return i->changes;
	case PC_BY_QUIET: return is_quiet(i) ? i->changes + 1 : 0;
	case PC_BY_UNCHANGED: return is_unchanged(i) ? pc_min(i->nr_pages << shift, pc_inode_size(i)) : UINT64_MAX;
	case PC_BY_AT_REST: return is_quiet(i) && is_unchanged(i) && !i->limits.commit_on_close ? i->changes + 1 : 0;
	case PC_BY_STALE: return i->version_stale;
	case PC_BY_STORAGE_BUSY: return i->token != PC_TOKEN_FREE || i->nr_direct;
	case PC_BY_STORAGE_SEEN: return atomic_load(&i->inval_x) ? 0 : atomic_load(&i->inval_seq);
	case PC_BY_COMMITTING: return i->commit_running;
	case PC_BY_COMMIT_DUE: return i->commit_due;
	case PC_BY_COMMIT_PLAIN: return i->commit_plain;
	case PC_BY_COMMIT_ASKED: return i->commit_asked;
	case PC_BY_COMMITS_ENDED: return i->commit_seq;
	case PC_BY_PASS_IDLE: return !p->active && !i->pass_wanted;
	case PC_BY_PASS_ENDING: return p->active && p->inflight == 0 && pc_list_empty(&p->ready);
	case PC_BY_DIRECT: return i->nr_direct;
	case PC_BY_TAIL: return pc_tail_noted(i) ? i->tails : 0;
	default: return pc_gate_is_closed(i);
	}
}

/* One of PC_BY_x. */
uint64_t pc_inode_number(struct pc_inode *i, uint32_t which)
{
	pc_inode_leaf_lock(i);
	u64 number = number_of(i, which);
	pc_inode_leaf_unlock(i);
	return number;
}

/* One of PC_VOLUME_x. */
uint64_t pc_volume_number(struct pc_volume *v, uint32_t which)
{
	u64 blocks = atomic_load(&v->local), aside = atomic_load_explicit(&v->sums.aside, memory_order_relaxed), all;
	switch (which) {
	case PC_VOLUME_LOCAL: return blocks << v->cache->page_shift;
	case PC_VOLUME_UNSAVED:
		blocks += atomic_load_explicit(&v->sums.write_pinned, memory_order_relaxed);
		all = (blocks << v->cache->page_shift) + atomic_load_explicit(&v->sums.staged, memory_order_relaxed);
		return all > aside ? all - aside : 0;
	case PC_VOLUME_INFLIGHT: return pc_volume_inflight(v);
	case PC_VOLUME_CALLING: return (u32)atomic_load(&v->calling);
	case PC_VOLUME_CLOSING: return atomic_load(&v->closing);
	default: return atomic_load(&v->event.seq);
	}
}

/* Pieces of work that no thread has taken yet, by class. */
void pc_show_queue(struct pc_volume *v, uint32_t *waiting)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	for (u32 cls = 0; cls < PC_WORK_CLASSES; cls++)
		waiting[cls] = v->nr_work[cls] + v->jobs[cls];
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
}
