/*
 * room.c - dirty budget: the bytes that each writer may dirty, and the order in which writers go on.
 *
 *   0 ─────── background ─────── midpoint ─────── limit
 *   |        free run           | as granted     | a line, first come first served
 *
 * Counted per block of L, of the cache and of each volume against its share. Below the midpoint a write costs one comparison.
 * Above it the engine slows writers: one pauses and is granted an amount that all writers of its volume may dirty before one
 * of them has to pause again. At the limit writers of a volume stand in line. While the line is not empty `free` is 0, so
 * no writer overtakes. A volume that holds no more than its floor may go on whatever other volumes hold: data of a dead
 * backend stops no other volume.
 *
 * A writer that had to ask, or that copies without the GIL, reserves the bytes that it will dirty, so that concurrent writers
 * do not pass the limit together. Place and reservation are one object on the stack of the C entry, so an exception leaves
 * nothing in line.
 *
 * Locks: the cache's room lock (level 7) over lines and reservations; counters are read without. Contract 2.24.
 */
#include "state/state.h"

static void room_lock(struct pc_cache *c)
{
	pc_leaf_lock(&c->room_lock, PC_LEVEL_QUEUE);
}

static void room_unlock(struct pc_cache *c)
{
	pc_leaf_unlock(&c->room_lock, PC_LEVEL_QUEUE);
}

/* Blocks that are local or promised. */
static u64 used_of_cache(const struct pc_cache *c)
{
	return atomic_load_explicit(&((struct pc_cache *)c)->local, memory_order_relaxed) +
	       atomic_load_explicit(&((struct pc_cache *)c)->reserved, memory_order_relaxed);
}

static u64 used_of(const struct pc_volume *v)
{
	return atomic_load_explicit(&((struct pc_volume *)v)->local, memory_order_relaxed) +
	       atomic_load_explicit(&((struct pc_volume *)v)->room.reserved, memory_order_relaxed);
}

void pc_room_init(struct pc_room *m)
{
	pc_list_init(&m->line);
	m->midpoint = UINT64_MAX;
	atomic_store(&m->limit, UINT64_MAX);
	atomic_store(&m->free, UINT64_MAX);
	atomic_store(&m->background, UINT64_MAX);
}

/* The volume's share of the dirty limit, and its floor, which it may hold whatever other volumes hold. */
void pc_volume_set_dirty_limit(struct pc_volume *v, uint64_t bytes, uint64_t floor)
{
	struct pc_cache *c = v->cache;
	u64 limit = pc_max(bytes >> c->page_shift, 1), all = atomic_load(&c->dirty_limit);
	room_lock(c);
	/* In proportion to those of the cache. */
	v->room.midpoint = (u64)((unsigned __int128)limit * atomic_load(&c->dirty_free) / all);
	atomic_store(&v->room.background, (u64)((unsigned __int128)limit * atomic_load(&c->dirty_background) / all));
	v->room.floor = floor >> c->page_shift;
	atomic_store(&v->room.limit, limit);
	if (pc_list_empty(&v->room.line))
		atomic_store(&v->room.free, v->room.midpoint);
	room_unlock(c);
	pc_event_wake(&c->event);
}

/* May `len` bytes be dirtied now, without asking? Context: any. Nothing is reserved: for callers that keep the GIL
 * until the bytes are dirty. */
bool pc_dirty_room(struct pc_inode *i, uint64_t len)
{
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	u64 blocks = (len + 2 * (u64)c->page_size - 2) >> c->page_shift; /* wherever it begins */
	u64 all = used_of_cache(c) + blocks, own = used_of(v) + blocks;
	u64 free = atomic_load_explicit(&v->room.free, memory_order_relaxed);
	if (PC_LIKELY(all <= atomic_load_explicit(&c->dirty_free, memory_order_relaxed) && own <= free))
		return true;
	return free && atomic_load_explicit(&v->room.grant, memory_order_relaxed) > 0 &&
	       all <= atomic_load_explicit(&c->dirty_limit, memory_order_relaxed) &&
	       own <= atomic_load_explicit(&v->room.limit, memory_order_relaxed);
}

/* Blocks became local above a background threshold: the grant gets smaller, the flusher works. Context: leaf lock. */
void pc_room_counted(struct pc_inode *i, i64 delta, u64 all, u64 own)
{
	struct pc_cache *c = i->cache;
	if (all > atomic_load_explicit(&c->dirty_free, memory_order_relaxed) ||
	    own > atomic_load_explicit(&i->volume->room.free, memory_order_relaxed))
		atomic_fetch_sub_explicit(&i->volume->room.grant, delta, memory_order_relaxed);
	if (!atomic_exchange(&c->flusher_wanted, 1))
		pc_event_wake(&c->flusher_event);
}

/* ---------------------------------------------------------------- asking */

/* A writer is about to ask for the blocks of [pos, pos + len). */
void pc_place_open(struct pc_inode *i, struct pc_place *p, uint64_t pos, uint64_t len)
{
	u32 shift = i->cache->page_shift;
	pc_list_init(&p->link);
	p->want = ((pos + len + (1ull << shift) - 1) >> shift) - (pos >> shift);
	p->reserved = p->thread = 0;
}

/* Leave the line; the next writer may check for room. Room lock held. */
static void line_leave(struct pc_volume *v, struct pc_place *p)
{
	pc_list_del(&p->link);
	if (pc_list_empty(&v->room.line))
		atomic_store(&v->room.free, v->room.midpoint);
}

/* The promised blocks are dirty by now, or no longer wanted. */
void pc_place_close(struct pc_inode *i, struct pc_place *p)
{
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	if (pc_list_empty(&p->link) && !p->reserved)
		return;
	room_lock(c);
	if (!pc_list_empty(&p->link))
		line_leave(v, p);
	atomic_fetch_sub(&c->reserved, p->reserved);
	atomic_fetch_sub(&v->room.reserved, p->reserved);
	p->reserved = 0;
	room_unlock(c);
	pc_event_wake(&c->event);
}

/* Below both limits, or within what the volume always may have; the first page always. Room lock held, or just a look. */
static bool fits(const struct pc_volume *v, u64 want)
{
	struct pc_cache *c = v->cache;
	u64 own = used_of(v), all = used_of_cache(c);
	if (own == 0)
		return true;
	return own + want <= atomic_load(&((struct pc_volume *)v)->room.limit) &&
	       (all + want <= atomic_load(&c->dirty_limit) || own + want <= v->room.floor);
}

bool pc_room_fits(struct pc_inode *i, struct pc_place *p)
{
	struct pc_volume *v = i->volume;
	room_lock(v->cache);
	bool fit = fits(v, p->want) && (pc_list_empty(&v->room.line) || v->room.line.next == &p->link);
	room_unlock(v->cache);
	return fit;
}

/* Reserve what the place asks for, if it is this writer's turn and there is room. Above the midpoint only granted
 * blocks, unless the writer has paused or stood in line. @paused: it has paused. Return: whether it is reserved; then
 * the writer is out of line, and pc_place_close returns unused blocks. */
bool pc_room_take(struct pc_inode *i, struct pc_place *p, bool paused)
{
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	if (p->reserved)
		return true;
	room_lock(c);
	bool first = v->room.line.next == &p->link;
	bool low =
		used_of_cache(c) + p->want <= atomic_load(&c->dirty_free) && used_of(v) + p->want <= v->room.midpoint;
	bool turn = first || (pc_list_empty(&v->room.line) && (paused || low || atomic_load(&v->room.grant) > 0));
	bool taken = turn && fits(v, p->want);
	if (taken) {
		if (first)
			line_leave(v, p);
		p->reserved = p->want;
		atomic_fetch_add(&c->reserved, p->want);
		atomic_fetch_add(&v->room.reserved, p->want);
	}
	room_unlock(c);
	if (taken && first)
		pc_event_wake(&c->event);
	return taken;
}

/* Stand in line, at its end when not in it yet; before a writer that a signal handler of this thread has interrupted, and that
 * would keep both waiting. Return: whether this writer is the first. */
bool pc_line_first(struct pc_inode *i, struct pc_place *p)
{
	struct pc_volume *v = i->volume;
	room_lock(v->cache);
	if (pc_list_empty(&p->link)) {
		struct pc_list *l = v->room.line.next;
		while (l != &v->room.line && !(p->thread && PC_ENTRY(l, struct pc_place, link)->thread == p->thread))
			l = l->next;
		pc_list_add_tail(l, &p->link);
		atomic_store(&v->room.free, 0);
	}
	bool first = v->room.line.next == &p->link;
	room_unlock(v->cache);
	return first;
}

/* A writer paused: so much may be dirtied before the next pause. */
void pc_room_grant(struct pc_volume *v, uint64_t bytes)
{
	atomic_store(&v->room.grant, (i64)((bytes + v->cache->page_size - 1) >> v->cache->page_shift));
}

/* ---------------------------------------------------------------- how a volume is doing */

static u32 position(u64 used, u64 midpoint, u64 limit)
{
	if (used <= midpoint)
		return 0;
	return used >= limit ? 1000 : (u32)((used - midpoint) * 1000 / (limit - midpoint));
}

void pc_volume_pressure(struct pc_volume *v, struct pc_pressure *out)
{
	struct pc_cache *c = v->cache;
	u32 shift = c->page_shift;
	room_lock(c);
	u64 limit = atomic_load(&v->room.limit);
	u32 own = position(used_of(v), v->room.midpoint, limit);
	u32 all = position(used_of_cache(c), atomic_load(&c->dirty_free), atomic_load(&c->dirty_limit));
	room_unlock(c);
	*out = (struct pc_pressure){
		.local = atomic_load(&v->local) << shift,
		.limit = pc_min(limit, UINT64_MAX >> shift) << shift,
		.acked = atomic_load(&v->acked) << shift,
		.answers = atomic_load(&v->answers),
		.position = own > all ? own : all,
		.over_background = atomic_load(&v->local) > atomic_load(&v->room.background) ||
				   atomic_load(&c->local) > atomic_load(&c->dirty_background),
		.throttled = atomic_load(&v->room.throttled),
		.running = pc_volume_inflight(v) + atomic_load(&v->committing),
	};
}
