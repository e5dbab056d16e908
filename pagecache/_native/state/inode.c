/*
 * inode.c - one cached object: sizes, limits, counts, the ring of recent invalidations.
 *
 * An inode is named by a 64-bit id that is never used again: slot in the cache's table (low 24 bits) and a generation. A
 * folio carries that id, so a caller with a stale pointer to a folio sees that it belongs to another inode.
 *
 * inval_seq advances with every event that makes storage differ from what a running fill may have read (truncate, punch,
 * remote change); the ring remembers the last ranges, so that a fill elsewhere in the file need not be repeated [K12].
 *
 * Locks: leaf lock of the inode for all counts; the table lock (level 7) for slots. Sizes are atomic: readers sample them
 * without a lock.
 */
#include <stdlib.h>

#include "state/state.h"

enum { PC_NO_SLOT = UINT32_MAX };

/* Inodes are type-stable like folios: unpinning memory of a destroyed file may still take its lock, and a view of a destroyed
 * file checks its id and its cache. Return: with the leaf lock held, or NULL. */
static struct pc_inode *inode_alloc(struct pc_cache *c)
{
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	struct pc_inode *i = c->free_inodes;
	if (i)
		c->free_inodes = i->next_free;
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
	if (!i && (i = calloc(1, sizeof(*i)))) {
		i->cache = c;
		i->slot = PC_NO_SLOT;
	}
	if (!i)
		return NULL;
	pc_inode_leaf_lock(i);
	u32 slot = i->slot;
	size_t kept = offsetof(struct pc_inode, lock_word);
	memset((char *)i + kept, 0, sizeof(*i) - kept);
	i->slot = slot;
	return i;
}

/* The place in the table: the one of the struct, or the next fresh one. Return: false: the table is full. */
static bool take_slot(struct pc_cache *c, struct pc_inode *i)
{
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	if (i->slot == PC_NO_SLOT && c->inode_slots < c->inodes_max)
		i->slot = c->inode_slots++;
	bool found = i->slot != PC_NO_SLOT;
	if (found) {
		i->id = ++c->inode_generation << PC_INODE_SLOT_BITS | i->slot;
		c->inodes[i->slot] = i;
	}
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
	return found;
}

int pc_inode_create(struct pc_volume *v, uint64_t size, const struct pc_limits *limits, struct pc_inode **out)
{
	struct pc_cache *c = v->cache;
	PC_DEBUG_ASSERT(!v->ended);
	struct pc_inode *i = inode_alloc(c);
	if (!i)
		return -ENOMEM;
	i->volume = v;
	atomic_store(&i->size, size);
	atomic_store(&i->remote_size, size);
	i->limits = *limits;
	i->stamp_m = i->stamp_m_moved = i->staged.stamp = PC_STAMP_NONE;
	i->undone.lowest = i->undone_moved.lowest = UINT64_MAX;
	i->committed_size = size;
	i->inval_seq = 1;
	struct pc_list *lists[] = {&i->lock_queue, &i->token_queue, &i->pass_waiter.link, &i->commit_waiter.link,
				   &i->pass.ready, &i->work_pass,   &i->work_commit,      &i->dirty_link,
				   &i->aged_link,  &i->hollow_link};
	for (size_t k = 0; k < sizeof(lists) / sizeof(*lists); k++)
		pc_list_init(lists[k]);
	bool placed = take_slot(c, i);
	if (placed) {
		atomic_fetch_add_explicit(&c->nr_inodes, 1, memory_order_relaxed);
		pc_sum(&v->sums.size, size);
		pc_sum(&v->sums.remote_size, size);
	}
	pc_inode_leaf_unlock(i);
	if (!placed) {
		free(i);
		return -ENFILE;
	}
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	v->nr_inodes++;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	*out = i;
	return 0;
}

void pc_inode_user_put(struct pc_inode *i)
{
	atomic_fetch_sub_explicit(&i->users, 1, memory_order_release);
}

uint64_t pc_inode_id(const struct pc_inode *i)
{
	return i->id;
}

void pc_inode_set_limits(struct pc_inode *i, const struct pc_limits *limits)
{
	pc_inode_leaf_lock(i);
	i->limits = *limits;
	pc_inode_leaf_unlock(i);
}

/* Leaf lock held. */
void pc_usage_of(struct pc_usage *u, const struct pc_inode *i)
{
	u32 shift = i->cache->page_shift;
	u->cached += i->nr_pages << shift;
	u->clean += (i->nr_pages - i->nr_local) << shift;
	u->dirty += i->nr_dirty << shift;
	u->writeback += i->nr_writeback << shift;
	u->unstable += i->nr_unstable << shift;
	u->failed += i->nr_failed << shift;
	u->local += i->nr_local << shift;
	u->staged += pc_staged_bytes(i);
	u->pinned += i->nr_pinned << shift;
	u->write_pinned += i->nr_write_pinned << shift;
	u->folios += i->nr_folios;
	u->size += pc_inode_size(i);
	u->remote_size += pc_inode_remote_size(i);
}

void pc_counters_add(struct pc_counters *to, const struct pc_counters *from)
{
	u64 *t = (u64 *)to;
	const u64 *f = (const u64 *)from;
	for (size_t k = 0; k < sizeof(*to) / sizeof(u64); k++)
		t[k] += __atomic_load_n(&f[k], __ATOMIC_RELAXED); /* hits are counted without the lock */
}

void pc_inode_usage(struct pc_inode *i, struct pc_usage *out, struct pc_counters *counters)
{
	memset(out, 0, sizeof(*out));
	memset(counters, 0, sizeof(*counters));
	pc_inode_leaf_lock(i);
	pc_usage_of(out, i);
	pc_counters_add(counters, &i->counters);
	counters->hits = pc_inode_hits(i);
	pc_inode_leaf_unlock(i);
}

/* Find those of n inodes (addresses; 0: none) whose event differs from @seen; store their places in @moved and the new numbers in
 * @seen. Inodes are type-stable, so an inode that is gone may be found, and nothing worse. Return: how many. */
size_t pc_events_moved(const uintptr_t *inodes, uint32_t *seen, size_t n, uint32_t *moved)
{
	size_t found = 0;
	for (size_t k = 0; k < n; k++) {
		struct pc_inode *i = (struct pc_inode *)inodes[k];
		u32 seq = i ? atomic_load(&i->event.seq) : seen[k];
		if (seq == seen[k])
			continue;
		seen[k] = seq;
		moved[found++] = (u32)k;
	}
	return found;
}

void pc_inode_wake(struct pc_inode *i)
{
	pc_event_wake(&i->event);
}

/* Something that is no folio waits for a commit (contract 2.17, stamp m): a creation, or what a backend is owed again.
 * @lowest: a size that storage was or will be cut to; UINT64_MAX: none. [@hole, @hole_end): a hole; empty: none. */
void pc_inode_set_uncommitted(struct pc_inode *i, bool created, uint64_t lowest, uint64_t hole, uint64_t hole_end)
{
	const struct pc_undone more = {.created = created, .lowest = lowest, .hole_pos = hole, .hole_end = hole_end};
	pc_inode_leaf_lock(i);
	pc_undone_merge(&i->undone, &more);
	i->stamp_m = pc_min(i->stamp_m, atomic_load(&i->volume->epoch));
	pc_dirty_list_update(i);
	pc_inode_leaf_unlock(i);
}

/* A cut to @size that was owed was made. It belongs to a running commit, which makes its call when nothing is owed any longer: after
 * a success nothing repeats the cut, since that would cut off committed bytes. */
void pc_inode_cut_paid(struct pc_inode *i, uint64_t size)
{
	pc_inode_leaf_lock(i);
	if (size < pc_min(i->undone.lowest, i->undone_moved.lowest)) {
		struct pc_undone *undone = i->commit_running ? &i->undone_moved : &i->undone;
		u64 *stamp = i->commit_running ? &i->stamp_m_moved : &i->stamp_m;
		undone->lowest = size;
		*stamp = pc_min(*stamp, atomic_load(&i->volume->epoch));
		pc_dirty_list_update(i);
	}
	pc_inode_leaf_unlock(i);
}

/* Changes that are no bytes and are not known to be committed, including those of a running commit. */
void pc_inode_undone(struct pc_inode *i, struct pc_undone *out)
{
	pc_inode_leaf_lock(i);
	*out = i->undone;
	pc_undone_merge(out, &i->undone_moved);
	out->resized = out->lowest != UINT64_MAX || atomic_load(&i->remote_size) != i->committed_size;
	pc_inode_leaf_unlock(i);
}

/* Whether bytes acknowledged now need no commit. Limits may change at any time: while an earlier creation or cut waits for a commit,
 * later bytes wait too, because a repeated creation or cut would destroy them. Leaf lock held. */
bool pc_durable(const struct pc_inode *i)
{
	const struct pc_undone *now = &i->undone, *moved = &i->undone_moved;
	return i->limits.durable_writes && now->lowest == UINT64_MAX && moved->lowest == UINT64_MAX && !now->created &&
	       !moved->created;
}

/* [*pos, *end) becomes the hull of itself and [from, to); either may be empty. */
static void hull(u64 *pos, u64 *end, u64 from, u64 to)
{
	if (from >= to)
		return;
	bool empty = *pos >= *end;
	*pos = empty ? from : pc_min(*pos, from);
	*end = empty ? to : pc_max(*end, to);
}

/* Changes without bytes need no commit any longer, and are not repeated. PC_FORGET_CUTS: they were repeated on a
 * backend whose acknowledged writes are durable; later writes stay. PC_FORGET_HOLES: they were reported as lost.
 * PC_FORGET_ALL: the file is no longer wanted; also direct writes. Context: token. */
void pc_inode_forget(struct pc_inode *i, uint32_t what)
{
	pc_inode_leaf_lock(i);
	if (what & PC_FORGET_CUTS)
		i->undone.lowest = i->undone_moved.lowest = UINT64_MAX;
	if (what & PC_FORGET_HOLES)
		i->undone.hole_pos = i->undone.hole_end = i->undone_moved.hole_pos = i->undone_moved.hole_end = 0;
	if (what == PC_FORGET_ALL)
		pc_forget_uncommitted(i);
	pc_inode_leaf_unlock(i);
	pc_event_wake(&i->event);
}

/* Leaf lock held. */
void pc_forget_uncommitted(struct pc_inode *i)
{
	i->stamp_m = i->stamp_m_moved = PC_STAMP_NONE;
	i->undone = i->undone_moved = (struct pc_undone){.lowest = UINT64_MAX};
	pc_direct_cut(i, 0, UINT64_MAX);
	pc_dirty_list_update(i);
}

void pc_undone_merge(struct pc_undone *to, const struct pc_undone *from)
{
	to->lowest = pc_min(to->lowest, from->lowest);
	to->created |= from->created;
	hull(&to->hole_pos, &to->hole_end, from->hole_pos, from->hole_end);
	hull(&to->gone_pos, &to->gone_end, from->gone_pos, from->gone_end);
}

/* A call begins that changes the stored object. @another_version: whatever its result, it may make one. */
void pc_change_begins(struct pc_inode *i, bool another_version)
{
	pc_inode_leaf_lock(i);
	i->changes++;
	i->version_stale |= another_version;
	pc_inode_leaf_unlock(i);
}

void pc_version_known(struct pc_inode *i, bool known)
{
	pc_inode_leaf_lock(i);
	i->version_stale = !known;
	pc_inode_leaf_unlock(i);
}

/* A commit has ended: one more change. @known: with the version that it has made; other changes than the first @changes
 * may have made another one of an object in place. Return: whether the known version is stale. */
bool pc_version_committed(struct pc_inode *i, uint64_t changes, bool known)
{
	pc_inode_leaf_lock(i);
	if (known)
		i->version_stale = i->changes != changes && !i->limits.commit_on_close;
	i->changes++;
	bool stale = i->version_stale;
	pc_inode_leaf_unlock(i);
	return stale;
}

/* The engine has read the stored version after so many changes. Return: whether that is the version now. */
bool pc_version_settle(struct pc_inode *i, uint64_t changes)
{
	pc_inode_leaf_lock(i);
	bool same = i->changes == changes;
	if (same)
		i->version_stale = 0;
	pc_inode_leaf_unlock(i);
	return same;
}

/* Add to a counter; @which: its place in struct pc_counters. */
void pc_counter_add(struct pc_inode *i, uint32_t which, uint64_t n)
{
	pc_count(i, (u64 *)&i->counters + which, n);
}

void pc_inode_set_user(struct pc_inode *i, uintptr_t object)
{
	i->user = (void *)object;
}

/* Leaf lock held. */
void pc_invalidated(struct pc_inode *i, u64 pos, u64 end)
{
	i->inval_seq++;
	i->inval_ring[i->inval_seq % PC_INVAL_RING] = (struct pc_inval){pos, end};
}

/* Whether anything in [pos, end) was invalidated after `seq`; a ring that has turned over says yes. Leaf lock held. */
bool pc_inval_since(const struct pc_inode *i, u64 seq, u64 pos, u64 end)
{
	if (i->inval_seq - seq > PC_INVAL_RING)
		return true;
	for (u64 s = seq + 1; s <= i->inval_seq; s++) {
		const struct pc_inval *r = &i->inval_ring[s % PC_INVAL_RING];
		if (r->pos < end && pos < r->end)
			return true;
	}
	return false;
}
