/*
 * inode.h - all that one file can be: sizes, locks, index, pass, counts (inode.c).
 */
#ifndef PC_INODE_H
#define PC_INODE_H

#include "state/cache.h"
#include "state/folio.h"
#include "state/staged.h"
#include "state/volume.h"
#include "state/written.h"

enum { PC_INVAL_RING = 8 }; /* a fill beside more of them reads again */

struct pc_inval {
	u64 pos, end;
};

/* Bytes of direct writes without a commit (direct_set.c). */
enum { PC_DIRECT_RANGES = 128 };
struct pc_direct {
	struct pc_rangemap now, moved, reported;
};

/* A write-back pass (io/writeback.c). */
struct pc_pass {
	u64 cursor; /* next page index to look at */
	i64 budget; /* bytes a background pass may still take */
	u64 generation; /* volume generation at its start: after an abort it only waits for its answers */
	u64 short_unit; /* write_unit > 1: one more than the start of the last unit that was short */
	struct pc_list ready; /* requests built and not yet taken */
	u32 inflight; /* requests taken and not yet completed */
	u32 nr_issued;
	u8 active, integrity, background, queued, wrapped;
	u8 partial; /* background on commit_on_close: write units that are not wholly dirty too */
};

/* A block of memory for a change that must not fail (pc_views_reserve). */
struct pc_spare {
	u32 frame, order;
	bool full;
};

struct pc_inode {
	struct pc_leaf_lock leaf; /* level 6: guards all below unless a line says otherwise */
	struct pc_cache *cache; /* as long as the struct is there, which may be many inodes */
	u32 slot; /* its place in the cache's table, as long */
	_Atomic u32 lock_word; /* inode lock: fast path by compare-and-swap, queue under the leaf lock */
	_Atomic u64 root; /* slot << 8 | levels, one word for lock-free readers */
	_Atomic u64 size; /* writers: leaf lock and inode lock X */
	_Atomic u64 remote_size;
	u64 id;
	struct pc_inode *next_free;
	void *user; /* the engine's object, for the C types; under the GIL */
	struct pc_volume *volume;
	struct pc_event event;
	struct pc_list lock_queue, token_queue;
	struct pc_waiter pass_waiter, commit_waiter;
	u8 token, commit_running, commit_queued, dead;
	_Atomic u8 inval_x; /* invalidate lock held exclusively: set and cleared under the leaf lock */
	u8 on_dirty_list, pass_wanted;
	u8 on_aged_list; /* volume leaf */
	u8 on_hollow_list; /* the cache's hollow_lock */
	u8 unused; /* the engine says: no handle has it open */
	u8 aside; /* the same: enum pc_aside */
	u8 settle; /* the engine wants the token for work without a commit: pc_settle_start */
	u8 commit_requested; /* a commit is wanted, not only work of the engine */
	u8 commit_unasked; /* ... and no caller waits for it */
	u8 commit_due; /* the one that runs is to commit */
	u8 commit_plain; /* ... and nothing else */
	u8 gate; /* closed by the holder of the token, until it releases it: no direct write begins */
	u8 commit_ending; /* the one that runs has its answer, and its effects are being applied */
	u64 commit_stamp; /* largest epoch that a caller wants committed and has seen in flight; 0: none */
	u64 commit_asked; /* the same, of the last commit that began */
	u64 commit_ns; /* when it began */
	u64 changed; /* epoch of the last change, or end of a view to store to; written under the leaf lock, an overwrite reads it without */
	u64 changes; /* calls of this cache that change the stored object, counted before each */
	u8 unlogged_whole; /* all local bytes count as unlogged */
	u8 written_whole; /* some pages count as written as a whole (written.c), until all is saved */
	u8 version_stale; /* one of them may have made another stored version than the one that the engine knows */
	_Atomic u32 users; /* requests, workers and hits that hold a pointer */
	_Atomic u32 hits_open; /* of these: hits (hit.c) */
	_Atomic u64 hits_apart; /* counted by them, apart from counters.hits, which is the interpreter lock's */
	struct pc_pass pass;
	_Atomic u64 inval_seq; /* changed under the leaf lock */
	struct pc_inval inval_ring[PC_INVAL_RING];
	u64 stamp_m, stamp_m_moved;
	struct pc_undone undone, undone_moved; /* since the last commit; in the hands of the commit that runs */
	struct pc_rangemap lost; /* by discards, and not listed yet */
	struct pc_direct direct; /* direct writes since the last commit */
	u32 nr_direct; /* the direct-I/O count: direct writes that run */
	u32 nr_direct_left; /* of these, whose caller has gone */
	u64 direct_generation; /* of the volume, when the latest of them began */
	u64 commit_waits; /* of the volume, while the requested commit waits for direct writes and none begins; 0: it does not */
	u32 tails; /* left in storage behind remote_size by direct writes */
	u32 tails_owed; /* of these, which the engine owes a cut */
	u64 commits_failed; /* and may have forgotten acknowledged bytes */
	u64 committed_size; /* remote_size at the last successful commit */
	u64 direct_end; /* of what direct writes have stored since pc_base_requested() */
	u64 commit_size; /* the same at the start of the one that runs */
	u64 commit_generation; /* of the volume, when the running commit began */
	u8 token_lent; /* a backend call runs under the token on another thread than its holder's */
	u32 token_turn; /* advanced by a fence: what an older turn lent is not taken back */
	u64 dirtied_ns; /* when the oldest dirty byte was written, as far as known: leaf lock and volume leaf */
	u64 regress_seq; /* transitions that made a stamp smaller: flush cursors start again */
	u64 commit_seq;
	struct pc_spare spare; /* of the holder of the token */
	u32 nr_folios;
	_Atomic u32 unread_evicted; /* read ahead and evicted unread (thrash rule, 2.6) */
	/* blocks; nr_failed is read without the lock (pc_some_failed) */
	u64 nr_pages, nr_dirty, nr_writeback, nr_unstable, nr_failed, nr_local, nr_pinned, nr_write_pinned;
	struct pc_rangemap borrowed; /* bytes of dirty blocks that were not written (written.c) */
	struct pc_rangemap unwritten; /* bytes of W, U and S that were not written when they were sent (written.c) */
	struct pc_rangemap unlogged; /* unlogged.c */
	struct pc_staged beside; /* of S: spilled since the running commit began (spill.c) */
	struct pc_rangemap beside_unwritten; /* bytes of it that were not written (written.c) */
	struct pc_staged staged; /* S; whether it is empty is read without the lock */
	struct pc_list work_pass, work_commit; /* volume leaf */
	struct pc_list dirty_link; /* volume leaf */
	struct pc_list aged_link; /* volume leaf */
	struct pc_list hollow_link; /* hollow_lock */
	struct pc_limits limits;
	struct pc_counters counters;
};

static inline void pc_inode_leaf_lock(struct pc_inode *i)
{
	pc_leaf_lock(&i->leaf, PC_LEVEL_INODE);
}
static inline void pc_inode_leaf_unlock(struct pc_inode *i)
{
	pc_leaf_unlock(&i->leaf, PC_LEVEL_INODE);
}

static inline u64 pc_inode_size(const struct pc_inode *i)
{
	return atomic_load_explicit(&((struct pc_inode *)i)->size, memory_order_acquire);
}
static inline u64 pc_inode_remote_size(const struct pc_inode *i)
{
	return atomic_load_explicit(&((struct pc_inode *)i)->remote_size, memory_order_acquire);
}

/* Direct writes have left something in storage behind remote_size, and the engine does not owe the cut yet. Leaf lock held. */
static inline bool pc_tail_noted(const struct pc_inode *i)
{
	return i->tails != i->tails_owed;
}

/* Add to one of the inode's counters, and to the same one of its volume. Leaf lock held. */
static inline void pc_counted(struct pc_inode *i, u64 *counter, u64 n)
{
	*counter += n;
	u64 *all = (u64 *)&i->volume->counted + (counter - (u64 *)&i->counters);
	__atomic_fetch_add(all, n, __ATOMIC_RELAXED);
}

/* The same off the hot path. Context: no leaf lock. */
static inline void pc_count(struct pc_inode *i, u64 *counter, u64 n)
{
	pc_inode_leaf_lock(i);
	pc_counted(i, counter, n);
	pc_inode_leaf_unlock(i);
}

/* The volume's counter of hits without the interpreter lock: threads in different files seldom share a line of it. */
static inline _Atomic u64 *pc_hits_of(struct pc_inode *i)
{
	return &i->volume->hits[i->slot % PC_HIT_LINES].n;
}

/* Sizes change through these two only, which keep the sums of the volume. Leaf lock held. */
static inline void pc_set_size(struct pc_inode *i, u64 size)
{
	pc_sum(&i->volume->sums.size, size - atomic_load_explicit(&i->size, memory_order_relaxed));
	atomic_store_explicit(&i->size, size, memory_order_release);
}
static inline void pc_set_remote_size(struct pc_inode *i, u64 size)
{
	pc_sum(&i->volume->sums.remote_size, size - atomic_load_explicit(&i->remote_size, memory_order_relaxed));
	atomic_store_explicit(&i->remote_size, size, memory_order_release);
}

/* So many blocks more are pinned. Leaf lock held. */
static inline void pc_pinned_changed(struct pc_inode *i, i64 blocks)
{
	i->nr_pinned += (u64)blocks;
	pc_sum(&i->volume->sums.pinned, (u64)blocks);
}

/* The local or staged bytes changed by @delta: those of an inode aside are counted apart. Leaf lock held. */
static inline void pc_aside_changed(struct pc_inode *i, u64 delta)
{
	if (i->aside)
		pc_sum(&i->volume->sums.aside, delta);
}

/* Whether anything of it failed for good. Context: any; without the leaf lock the answer may be old. */
static inline bool pc_some_failed(const struct pc_inode *i)
{
	return __atomic_load_n(&i->nr_failed, __ATOMIC_RELAXED) != 0;
}

static inline u64 pc_staged_bytes(const struct pc_inode *i)
{
	return pc_map_bytes(&i->staged.map);
}

/* Anything that a commit has yet to cover, or a hand-over. Leaf lock held. */
static inline bool pc_unsaved(const struct pc_inode *i)
{
	return i->nr_local || pc_staged_bytes(i) || i->stamp_m != PC_STAMP_NONE || i->stamp_m_moved != PC_STAMP_NONE;
}

/* Whether a dirty byte may be stored all the same, uncommitted: it came back from a hand-over or commit that failed. What of the
 * file came back is not known by block. Leaf lock held. */
static inline bool pc_came_back(const struct pc_inode *i)
{
	return i->regress_seq && !i->limits.durable_writes;
}

/* unlogged.c */
void pc_unlogged_add(struct pc_inode *i, u64 pos, u64 end);

static inline void pc_note_unlogged(struct pc_inode *i, u64 pos, u64 len)
{
	if (PC_UNLIKELY(atomic_load_explicit(&i->volume->logged, memory_order_relaxed)) && len)
		pc_unlogged_add(i, pos, pos + len);
}

/* direct_set.c */
void pc_direct_add(struct pc_inode *i, u64 pos, u64 end);
void pc_direct_move(struct pc_inode *i);
void pc_direct_committed(struct pc_inode *i, bool ok, bool kept);
void pc_direct_cut(struct pc_inode *i, u64 pos, u64 end);
void pc_direct_clear(struct pc_inode *i);

void pc_forget_uncommitted(struct pc_inode *i);
void pc_invalidated(struct pc_inode *i, u64 pos, u64 end);
void pc_undone_merge(struct pc_undone *to, const struct pc_undone *from);
bool pc_durable(const struct pc_inode *i);
bool pc_inval_since(const struct pc_inode *i, u64 seq, u64 pos, u64 end);
void pc_inode_user_put(struct pc_inode *i);
void pc_counters_add(struct pc_counters *to, const struct pc_counters *from);
void pc_usage_of(struct pc_usage *u, const struct pc_inode *i);

/* Whether the volume is aborted, or was since `generation`: work of that time only waits for its answers. */
static inline bool pc_stopped(const struct pc_inode *i, u64 generation)
{
	const struct pc_volume *v = i->volume;
	return atomic_load(&((struct pc_volume *)v)->aborted) ||
	       generation != atomic_load(&((struct pc_volume *)v)->generation);
}

/* Whether a success of the running commit counts: also at the end of a volume that leaves to the disk tier what is
 * unsaved, as no other backend can have lost anything. */
static inline bool pc_commit_counts(const struct pc_inode *i)
{
	struct pc_volume *v = (struct pc_volume *)i->volume;
	return !pc_stopped(i, i->commit_generation) ||
	       (atomic_load(&v->aborted) == PC_ABORT_LEFT && atomic_load(&v->generation) - i->commit_generation <= 1);
}

/* Whether direct writes to the present backend run. Leaf lock held. */
static inline bool pc_direct_runs(const struct pc_inode *i)
{
	return i->nr_direct && !pc_stopped(i, i->direct_generation);
}

/* Whether the requested commit waits for them. Leaf lock held. */
static inline bool pc_commit_waits(const struct pc_inode *i)
{
	return i->commit_waits && !pc_stopped(i, i->commit_waits);
}

/* Whether no direct write may begin. Leaf lock held. */
static inline bool pc_gate_is_closed(const struct pc_inode *i)
{
	return i->gate || pc_commit_waits(i);
}

static inline u64 pc_inode_hits(const struct pc_inode *i)
{
	return __atomic_load_n(&i->counters.hits, __ATOMIC_RELAXED) +
	       atomic_load_explicit(&((struct pc_inode *)i)->hits_apart, memory_order_relaxed);
}

#endif
