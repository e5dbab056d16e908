/*
 * reclaim.c - which clean folio goes when memory is short: two queues over clean folios, bounded, never waiting.
 *
 *   new ──► probation ──(hit twice)──► main ──(hit: round again)──┐
 *           │    └─(once: round again)   ▲ └───────────────────────┘
 *           └─(not hit)─► evicted ───────┘ a remembered identity (ghost) goes straight to main, if it was away for a
 *                                          shorter time than the head of main was not hit
 *
 * A hit only advances a two-bit counter in the folio's state; queues move when something is evicted (J. Yang et al., "FIFO
 * queues are all you need for cache eviction", SOSP 2023). The ghost is a table of fingerprints in small sets, in which
 * new ones overwrite old ones.
 *
 * Epochs: a program reads more than fits again and again, in order or not. Then each page is away for longer than main was
 * not hit, and any exchange only loses: main keeps what it has (the comparison is that of LIRS: S. Jiang and X. Zhang,
 * SIGMETRICS 2002), and probation, of no use there, shrinks from a tenth to a hundredth. Time is the number of pages
 * inserted. The ghost has that of the last use, with a margin of a half; a queue marks every 32nd of the cache that it took.
 * What comes back too late needs one hit less on probation. While main is small, what leaves probation fills it.
 *
 * A sticky volume keeps what it has: hits on probation do not count, and a page of main goes when two rounds passed it by.
 *
 * One call is bounded: after PC_REPRIEVES folios that were spared for their hits the next goes whatever its counter says, so
 * that a cache full of hit folios does not cost one call a walk over all of them.
 *
 * An unread readahead folio is spared up to three times on probation; main evicts one folio instead each time, until main is
 * down to half of the cache. Otherwise windows larger than a tenth of the cache were evicted before use. Until the reader
 * arrives the access counter counts these rounds; then it restarts with hits.
 *
 * A page that a NOREUSE handle has read to its end goes to the front of probation, marked, and before all others from there.
 *
 * Folios with local bytes, pinned folios and held frames are taken off their queue when they are met, and come back when they are clean
 * or released (pc_reclaim_clean): no scan meets the same dirty folio twice, so the work stays bounded whatever is dirty.
 *
 * Locks: the queue lock (level 7) over links and queue bits. A victim's folio lock and leaf lock are only tried; a folio
 * with a holder goes to the back. Nothing here waits, calls a backend or runs Python [2.23]; one call looks at no more
 * than PC_EXAMINE folios.
 */
#include <sys/mman.h>

#include "state/state.h"

enum { PC_EXAMINE = 64, PC_REPRIEVES = 56, PC_MERGES = 4, PC_LOOKS = 2, PC_GROWS = 4, PC_GHOST_SET = 4 };

static u64 identity_hash(u64 inode_id, u64 index)
{
	u64 h = (inode_id * 0x9e3779b97f4a7c15ull) ^ (index * 0xc2b2ae3d27d4eb4full);
	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9ull;
	return h ^ h >> 32;
}

/* Times in the ghost have 16 bits: sixteen times the cache, in steps of a 4096th. A changed capacity changes the step, which
 * is harmless. */
static u32 step_shift(struct pc_cache *c)
{
	u32 capacity = atomic_load_explicit(&c->arena.capacity, memory_order_relaxed), shift = 0;
	while (capacity >> shift > 8191)
		shift++;
	return shift;
}

static u32 fingerprint(u64 h)
{
	return ((u32)(h >> 32) | 1) << 16;
}

/* Return: where the identity is in its set of the ghost; where it would be put, if it is not there. In a full set that is
 * any place: pages that a program reads in turn would replace each other for ever in any order. */
static u32 *ghost_slot(struct pc_cache *c, u64 h)
{
	u32 *set = &c->ghost[h & c->ghost_mask & ~(u64)(PC_GHOST_SET - 1)];
	u32 *slot = set + (c->inserted * 0x9e3779b97f4a7c15ull >> 62);
	for (int k = 0; k < PC_GHOST_SET; k++) {
		if ((set[k] & ~0xffffu) == fingerprint(h))
			return &set[k];
		if (!set[k])
			slot = &set[k];
	}
	return slot;
}

/* The table is sized by the number of folios; growing forgets, which is harmless. @used: the time of the last use. */
static void ghost_add(struct pc_cache *c, u64 h, u64 used)
{
	while (c->ghost_mask + 1 < c->folios.used && c->ghost_mask < c->arena.frames_max / 2)
		c->ghost_mask = c->ghost_mask * 2 + 1;
	*ghost_slot(c, h) = fingerprint(h) | (u16)(used >> step_shift(c));
}

/* Return: pages inserted since the last use of an evicted page; 0: it is not known. */
static u64 ghost_take(struct pc_cache *c, u64 h)
{
	u32 *slot = ghost_slot(c, h), shift = step_shift(c);
	if ((*slot & ~0xffffu) != fingerprint(h))
		return 0;
	u64 away = (u64)(u16)((u16)(c->inserted >> shift) - (u16)*slot) << shift;
	*slot = 0;
	return pc_max(away, 1);
}

static struct pc_fifo *fifo_of(struct pc_cache *c, u32 state)
{
	return state & PC_F_SMALL ? &c->small : &c->main;
}

static void note_push(struct pc_cache *c, struct pc_fifo *q, u32 pages)
{
	struct pc_push *last = &q->pushes[(q->nr_pushes - 1) % PC_PUSHES];
	u64 capacity = atomic_load_explicit(&c->arena.capacity, memory_order_relaxed);
	if (!q->nr_pushes || q->pushed - last->pushed > capacity / (PC_PUSHES / 2))
		q->pushes[q->nr_pushes++ % PC_PUSHES] = (struct pc_push){q->pushed, c->inserted};
	q->pushed += pages;
}

/* Return: the time at which the head was put on the queue, as of the last mark before it. What left from the middle makes it
 * look later. */
static u64 head_time(struct pc_fifo *q)
{
	u64 first = q->pushed > q->pages ? q->pushed - q->pages : 0, time = 0;
	u32 kept = pc_min(q->nr_pushes, PC_PUSHES);
	for (u32 k = q->nr_pushes - kept; k != q->nr_pushes; k++) {
		struct pc_push *m = &q->pushes[k % PC_PUSHES];
		if (k != q->nr_pushes - kept && m->pushed > first)
			break;
		time = m->inserted;
	}
	return time;
}

/* Links only; the queue bits say which queue, and are cleared last and set first: pc_reclaim_remove may look at them without
 * the lock, and must never see a folio off the queues that is about to be linked again. */
static void link_in(struct pc_cache *c, struct pc_fifo *q, struct pc_folio *f, bool soon)
{
	u32 id = pc_folio_id(c, f);
	if (soon) {
		f->prev = 0;
		f->next = q->head;
		if (q->head)
			pc_folio_at(c, q->head)->prev = id;
		else
			q->tail = id;
		q->head = id;
	} else {
		note_push(c, q, 1u << pc_folio_order(f));
		f->next = 0;
		f->prev = q->tail;
		if (q->tail)
			pc_folio_at(c, q->tail)->next = id;
		else
			q->head = id;
		q->tail = id;
	}
	q->pages += 1u << pc_folio_order(f);
}

static void link_out(struct pc_cache *c, struct pc_fifo *q, struct pc_folio *f)
{
	if (f->prev)
		pc_folio_at(c, f->prev)->next = f->next;
	else
		q->head = f->next;
	if (f->next)
		pc_folio_at(c, f->next)->prev = f->prev;
	else
		q->tail = f->prev;
	f->next = f->prev = 0;
	q->pages -= 1u << pc_folio_order(f);
}

static void fifo_push(struct pc_cache *c, struct pc_folio *f, u32 which, bool soon)
{
	atomic_fetch_or_explicit(&f->state, which, memory_order_relaxed);
	link_in(c, fifo_of(c, which), f, soon);
}

static void fifo_unlink(struct pc_cache *c, struct pc_folio *f)
{
	link_out(c, fifo_of(c, pc_folio_state(f)), f);
	atomic_fetch_and_explicit(&f->state, ~(u32)(PC_F_SMALL | PC_F_MAIN), memory_order_relaxed);
}

/* The folio leaves the index or dies; its queue bits change under the queue lock only, and no thread can push it again. */
void pc_reclaim_remove(struct pc_cache *c, struct pc_folio *f)
{
	if (!(pc_folio_state(f) & (PC_F_SMALL | PC_F_MAIN)))
		return;
	pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE);
	if (pc_folio_state(f) & (PC_F_SMALL | PC_F_MAIN))
		fifo_unlink(c, f);
	pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
}

/* The folio became clean, or lost its last pin: back on a queue, in front if reclaim had wanted it. Context: leaf lock. */
void pc_reclaim_clean(struct pc_cache *c, struct pc_folio *f)
{
	u32 st = pc_folio_state(f);
	if (!(st & (PC_F_SMALL | PC_F_MAIN)) && !(st & (PC_F_PINNED | PC_F_DETACHED))) {
		pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE);
		if (!(pc_folio_state(f) & (PC_F_SMALL | PC_F_MAIN)))
			fifo_push(c, f, PC_F_MAIN, st & PC_F_RECLAIM && !(st & PC_F_ACCESS));
		atomic_fetch_and_explicit(&f->state, ~(u32)PC_F_RECLAIM, memory_order_relaxed);
		pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
	}
}

/* Return: pages that probation is to have at least. */
static u64 probation_of(struct pc_cache *c)
{
	u64 total = c->small.pages + c->main.pages;
	return pc_max(pc_min(c->probation, total / 10), total / 100 + 1);
}

static bool has_room(struct pc_cache *c)
{
	return c->main.pages + probation_of(c) < c->small.pages + c->main.pages;
}

static void move(struct pc_cache *c, struct pc_folio *f, u32 which, bool soon)
{
	u32 old = pc_folio_state(f) & (PC_F_SMALL | PC_F_MAIN);
	link_out(c, fifo_of(c, old), f);
	if (old != which) {
		atomic_fetch_or_explicit(&f->state, which, memory_order_relaxed);
		atomic_fetch_and_explicit(&f->state, ~old, memory_order_relaxed);
	}
	link_in(c, fifo_of(c, which), f, soon);
}

/* Hits may race; a lost one is harmless, a borrow is not: only the value seen is lowered. */
static void forget_hits(struct pc_folio *f, u32 hits)
{
	u32 seen = pc_folio_state(f);
	if (pc_folio_hits(seen) >= hits)
		atomic_compare_exchange_strong_explicit(&f->state, &seen, seen - hits * PC_F_ACCESS_ONE,
							memory_order_relaxed, memory_order_relaxed);
}

static void set_aside(struct pc_cache *c, struct pc_folio *f);

/* Return whether a page that was away for so long takes the place of the head of main: that was not hit for longer. A head
 * that was hit goes round. */
static bool is_admitted(struct pc_cache *c, u64 away, u32 pages, bool sticky)
{
	if (has_room(c))
		return true;
	for (int k = 0; k < PC_LOOKS && c->main.head; k++) {
		struct pc_folio *f = pc_folio_at(c, c->main.head);
		u32 st = pc_folio_state(f);
		if ((c->inserted - head_time(&c->main)) * 2 < away * (sticky ? 4 : 3))
			break;
		if (!(st & PC_F_UNEVICTABLE) && !pc_folio_hits(st))
			return true;
		if (st & PC_F_UNEVICTABLE) {
			set_aside(c, f);
			continue;
		}
		move(c, f, PC_F_MAIN, false);
		forget_hits(f, 1);
	}
	u64 wanted = probation_of(c);
	c->probation = wanted > pages ? wanted - pages : 0;
	return false;
}

/* A new folio, locked by its creator. A readahead folio is not yet wanted, so its ghost does not count. */
void pc_reclaim_insert(struct pc_cache *c, struct pc_folio *f, bool sticky)
{
	u64 h = identity_hash(atomic_load_explicit(&f->inode_id, memory_order_relaxed), pc_folio_index(f));
	u32 pages = 1u << pc_folio_order(f);
	pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE);
	u64 away = ghost_take(c, h);
	bool wanted = away && !(pc_folio_state(f) & PC_F_UNREAD);
	bool soon = wanted && is_admitted(c, away, pages, sticky);
	if (sticky)
		atomic_fetch_or_explicit(&f->state, PC_F_STICKY, memory_order_relaxed);
	else if (wanted && !soon)
		atomic_fetch_or_explicit(&f->state, PC_F_ACCESS_ONE, memory_order_relaxed);
	c->inserted += pages;
	fifo_push(c, f, soon ? PC_F_MAIN : PC_F_SMALL, false);
	pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
}

/* A read that counts for nothing. A counter that is full stays: it was counted by others. @done: with the last byte read,
 * the folio is the next to go, unless another reader has used it. */
static void used_once(struct pc_inode *i, struct pc_folio *f, u64 index, bool done)
{
	struct pc_cache *c = i->cache;
	pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE);
	u32 st = pc_folio_state(f), hits = pc_folio_hits(st);
	/* On a queue: it is not freed while the lock is held, so the identity stands. */
	bool here =
		st & (PC_F_SMALL | PC_F_MAIN) && pc_folio_is(i, f, index) && !(st & (PC_F_UNEVICTABLE | PC_F_UNREAD));
	if (here && (hits == 1 || hits == 2)) {
		u32 less = st - PC_F_ACCESS_ONE;
		atomic_compare_exchange_strong_explicit(&f->state, &st, less, memory_order_relaxed,
							memory_order_relaxed);
	}
	if (here && hits <= 1 && done) {
		atomic_fetch_or_explicit(&f->state, PC_F_RECLAIM, memory_order_relaxed);
		move(c, f, PC_F_SMALL, true);
	}
	pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
}

/* [pos, end) was read for the only time: its folios go before all others when memory is short. Only folios of which the
 * last byte was read: a reader that goes on finds the rest. The access that the read counted is taken back, so that
 * many small reads do not look like use. Context: no leaf lock. GIL: kept; O(folios). */
void pc_reclaim_soon(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_cache *c = i->cache;
	u64 size = pc_inode_size(i);
	for (u64 at = pos, start, next; at < end; at = next) {
		u64 index = at >> c->page_shift;
		struct pc_folio *f = pc_folio_spanning(i, index, &start, &next);
		if (f)
			used_once(i, f, index, next <= end || end >= size);
		else
			next = (index + 1) << c->page_shift;
	}
}

/* Off the queues while it is local or pinned; pc_reclaim_clean brings it back. Both change the same word, so either that call
 * finds the bits cleared or this one finds the folio clean: it is never lost. */
static void set_aside(struct pc_cache *c, struct pc_folio *f)
{
	u32 st = atomic_fetch_or_explicit(&f->state, PC_F_RECLAIM, memory_order_acq_rel) | PC_F_RECLAIM;
	struct pc_fifo *q = fifo_of(c, st);
	link_out(c, q, f);
	PC_POINT("set_aside");
	while (st & PC_F_UNEVICTABLE)
		if (atomic_compare_exchange_weak(&f->state, &st, st & ~(u32)(PC_F_SMALL | PC_F_MAIN)))
			return;
	link_in(c, q, f, false);
}

/* [E9] Under the queue lock, everything else only tried. Return: pages freed. */
static u32 evict(struct pc_cache *c, struct pc_folio *f)
{
	u16 one = 1;
	if (!pc_folio_trylock(f))
		return 0;
	PC_SYNC("evict_locked");
	/* On a queue and locked: it cannot leave the index, and an inode with a folio cannot go. */
	u64 id = atomic_load_explicit(&f->inode_id, memory_order_acquire);
	struct pc_inode *i = id ? c->inodes[id & (PC_INODES_MAX - 1)] : NULL;
	if (!i || !pc_leaf_trylock(&i->leaf, PC_LEVEL_INODE)) {
		pc_folio_unlock(c, f);
		return 0;
	}
	PC_DEBUG_ASSERT(i->id == id);
	u32 freed = 0, st = pc_folio_state(f);
	PC_POINT("evict_examined");
	if (!(st & PC_F_UNEVICTABLE) &&
	    atomic_compare_exchange_strong_explicit(&f->refs, &one, 0, memory_order_acq_rel, memory_order_relaxed)) {
		freed = 1u << pc_folio_order(f);
		if (st & PC_F_UNREAD)
			atomic_fetch_add_explicit(&i->unread_evicted, 1, memory_order_relaxed);
		pc_counted(i, &i->counters.evicted, 1);
		atomic_fetch_add_explicit(&c->evicted, 1, memory_order_relaxed);
		ghost_add(c, identity_hash(id, pc_folio_index(f)), head_time(fifo_of(c, st)));
		pc_trace_add(c, "evicted", id, pc_folio_index(f), freed);
		fifo_unlink(c, f);
		pc_folio_detach(i, f);
	} else {
		pc_folio_unlock(c, f);
	}
	pc_inode_leaf_unlock(i);
	if (freed)
		pc_folio_freed(c, f);
	return freed;
}

enum { STEP_STUCK, STEP_MOVED, STEP_FREED };

/* Read ahead on probation, not reached, and not spared often enough: a round is a tenth of the cache or more, and a reader has
 * two windows of an eighth ahead. */
static bool is_awaited(u32 st)
{
	return (st & (PC_F_SMALL | PC_F_UNREAD | PC_F_UNEVICTABLE)) == (PC_F_SMALL | PC_F_UNREAD) &&
	       pc_folio_spared(st) < PC_ACCESS_MAX;
}

static void spare(struct pc_cache *c, struct pc_folio *f, u32 st)
{
	move(c, f, PC_F_SMALL, false);
	/* Unless the reader has just arrived: then the counter has restarted. */
	atomic_compare_exchange_strong_explicit(&f->state, &st, st + PC_F_ACCESS_ONE, memory_order_relaxed,
						memory_order_relaxed);
}

/* @force: no more reprieves for hits in this call. */
static int examine(struct pc_cache *c, struct pc_folio *f, bool force, u32 *freed)
{
	u32 st = pc_folio_state(f), hits = pc_folio_hits(st);
	if (st & PC_F_UNEVICTABLE) {
		set_aside(c, f);
		return STEP_MOVED;
	}
	bool counts = st & PC_F_SMALL && !(st & PC_F_STICKY) && !force;
	/* The first hit was the read that brought it. Folios of readahead may need more of the cache than these. */
	if (counts && hits == PC_ACCESS_MAX - 1 && c->small.pages * 4 < c->main.pages) {
		move(c, f, PC_F_SMALL, false);
		forget_hits(f, 1);
		return STEP_MOVED;
	}
	if (counts && hits == PC_ACCESS_MAX) {
		c->probation = probation_of(c) + PC_GROWS * (1u << pc_folio_order(f));
		move(c, f, PC_F_MAIN, false);
		atomic_fetch_and_explicit(&f->state, ~(u32)(PC_F_ACCESS | PC_F_RECLAIM), memory_order_relaxed);
		return STEP_MOVED;
	}
	if (st & PC_F_MAIN && hits > 0 && !force) {
		move(c, f, PC_F_MAIN, false);
		forget_hits(f, hits);
		return STEP_MOVED;
	}
	if (st & PC_F_SMALL && c->filling && !(st & (PC_F_RECLAIM | PC_F_UNREAD)) && !force) {
		move(c, f, PC_F_MAIN, false);
		forget_hits(f, pc_min(hits, 1)); /* the read that brought it */
		c->filling = has_room(c);
		return STEP_MOVED;
	}
	u32 n = evict(c, f);
	if (n) {
		*freed += n;
		return STEP_FREED;
	}
	move(c, f, st & (PC_F_SMALL | PC_F_MAIN), false);
	return STEP_STUCK;
}

/* Return: pages freed. *moved: whether the queues are nearer to a victim than before. */
static u32 reclaim_some(struct pc_cache *c, u32 wanted, bool *moved)
{
	u32 freed = 0, examined = 0, spared = 0, stuck = 0;
	u32 given = 0; /* main goes on until so much is freed */
	*moved = false;
	pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE);
	while (freed < wanted && examined < PC_EXAMINE && (c->small.head || c->main.head)) {
		if (c->main.pages < c->small.pages)
			c->filling = true;
		u32 head = c->small.head ? pc_folio_state(pc_folio_at(c, c->small.head)) : 0;
		u64 least = is_awaited(head) ? (c->small.pages + c->main.pages) / 10 : probation_of(c);
		bool small = c->small.head && (!c->main.head || c->small.pages >= least || head & PC_F_RECLAIM);
		/* What fills own cannot go, and may be all there is on a queue: the other one has a turn. */
		if (stuck && c->small.head && c->main.head)
			small = stuck == PC_F_MAIN;
		else if (given > freed && c->main.head)
			small = false;
		struct pc_folio *f = pc_folio_at(c, small ? c->small.head : c->main.head);
		u32 st = pc_folio_state(f);
		bool local = st & PC_F_UNEVICTABLE;
		examined++;
		if (is_awaited(st) && c->small.pages < c->main.pages) {
			spare(c, f, st);
			given = freed + (1u << pc_folio_order(f));
			*moved = true;
			continue;
		}
		int step = examine(c, f, spared >= PC_REPRIEVES, &freed);
		*moved |= step != STEP_STUCK;
		stuck = step != STEP_STUCK ? 0 : small ? PC_F_SMALL : PC_F_MAIN;
		spared += step == STEP_MOVED && !local;
	}
	pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
	atomic_fetch_add_explicit(&c->evict_calls, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->evict_examined, examined, memory_order_relaxed);
	if (examined > atomic_load_explicit(&c->evict_examined_max, memory_order_relaxed))
		atomic_store_explicit(&c->evict_examined_max, examined, memory_order_relaxed);
	return freed;
}

/* Free memory of clean folios, as many calls of bounded work as bring the queues nearer to a victim. Context: no leaf
 * lock. Return: pages freed; 0: everything is local, pinned or held, and the flusher was asked. */
u32 pc_reclaim(struct pc_cache *c, u32 wanted)
{
	u32 freed = 0;
	bool moved = true;
	while (freed < wanted && moved)
		freed += reclaim_some(c, wanted - freed, &moved);
	if (freed < wanted && !atomic_exchange(&c->flusher_wanted, 1))
		pc_event_wake(&c->flusher_event);
	return freed;
}

/* A block of *order, or of less down to min_order, reclaiming where needed. */
u32 pc_frame_get(struct pc_cache *c, u32 *order, u32 min_order)
{
	int merges = 0;
	for (;;) {
		u32 frame = pc_arena_alloc(&c->arena, *order);
		if (PC_LIKELY(frame != PC_NO_FRAME))
			return frame;
		u32 used = atomic_load_explicit(&c->arena.used, memory_order_relaxed);
		u32 capacity = atomic_load_explicit(&c->arena.capacity, memory_order_relaxed);
		u32 pages = 1u << *order;
		/* Short of frames: free some. Only fragmented: a smaller block costs less than evicting more. */
		if (used + pages > capacity && pc_reclaim(c, used + pages - capacity) > 0)
			continue;
		if (*order > min_order) {
			(*order)--;
			continue;
		}
		/* Only fragmented, and smaller will not do: some tries, not the whole cache for one large block. */
		if (used + pages <= capacity && merges++ < PC_MERGES && pc_reclaim(c, pages) > 0)
			continue;
		return PC_NO_FRAME;
	}
}

/* Drop clean folios wholly inside [pos, end) that have no holder. Never blocks. Return: bytes freed. */
uint64_t pc_drop_clean(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	struct pc_cache *c = i->cache;
	u64 index = (pos + c->page_size - 1) >> c->page_shift, freed = 0;
	u64 last = end >= UINT64_MAX - c->page_size ? pc_last_index(c) : (end + c->page_size - 1) >> c->page_shift;
	u64 size = pc_inode_size(i);
	struct pc_walk walk = {.i = i, .index = index, .last = last};
	for (struct pc_folio *f; (f = pc_walk_next(&walk));) {
		u64 start = pc_folio_pos(c, f), stop = start + pc_folio_bytes(c, f);
		u16 one = 1;
		if (start < pos || (stop > end && end < size) || pc_folio_state(f) & PC_F_UNEVICTABLE ||
		    !pc_folio_trylock(f))
			continue;
		if (!(pc_folio_state(f) & PC_F_UNEVICTABLE) && atomic_compare_exchange_strong(&f->refs, &one, 0)) {
			freed += pc_folio_bytes(c, f);
			pc_folio_detach(i, f);
			pc_folio_freed(c, f);
		} else {
			pc_folio_unlock(c, f);
		}
	}
	return freed;
}
