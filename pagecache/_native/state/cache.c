/*
 * cache.c - a cache, its volumes, and its numbers.
 *
 * A cache is one arena, the pools of descriptors, and the limits that all volumes share. Its end is in end.c.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "state/state.h"

bool pc_is_debug(void)
{
#ifdef PC_DEBUG
	return true;
#else
	return false;
#endif
}

static int init_pools(struct pc_cache *c)
{
	u32 n = c->arena.frames_max > 0x3ffffff0u ? 0x3ffffff0u : c->arena.frames_max;
	int err = pc_pool_init(&c->folios, sizeof(struct pc_folio), offsetof(struct pc_folio, next), n);
	err = err ? err : pc_pool_init(&c->leaves, sizeof(struct pc_leaf), offsetof(struct pc_leaf, parent), n);
	err = err ? err : pc_pool_init(&c->nodes, sizeof(struct pc_node), offsetof(struct pc_node, parent), n);
	err = err ? err
		  : pc_pool_init(&c->requests, sizeof(struct pc_request), offsetof(struct pc_request, link_free),
				 n < 1 << 20 ? n : 1 << 20); /* each holds a folio at least */
	err = err ? err : pc_pool_init(&c->shadows, sizeof(struct pc_shadow), offsetof(struct pc_shadow, link), n);
	err = err ? err
		  : pc_pool_init(&c->waits, sizeof(struct pc_wait), offsetof(struct pc_wait, link_free), PC_WAITS_MAX);
	for (u32 k = 0; k < PC_EXT_CLASSES && !err; k++)
		err = pc_pool_init(&c->exts[k], (u32)(sizeof(struct pc_ext) + PC_SETS * 8 * (1u << k)),
				   offsetof(struct pc_ext, link), n);
	return err;
}

static void *reserve(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

/* All address space of a cache whose arena may grow to `reserve` bytes. Return: 0, -ENOMEM; nothing is mapped then. */
static int map(struct pc_cache *c, u64 capacity, u64 reserved)
{
	int err = pc_arena_init(&c->arena, capacity, c->page_shift, reserved);
	if (err)
		return err;
	c->ghost_mask = 1023;
	c->probation = UINT64_MAX;
	c->ghost_reserved = (size_t)c->arena.frames_max * sizeof(u32) * 2 + 8192;
	c->ghost = reserve(c->ghost_reserved);
	c->inodes_max = pc_min(pc_max(c->arena.frames_max, PC_INODES_MIN), PC_INODES_MAX);
	c->inodes = reserve(c->inodes_max * sizeof(struct pc_inode *));
	err = init_pools(c);
	if (!err && c->ghost && c->inodes)
		return 0;
	pc_cache_unmap(c);
	return -ENOMEM;
}

/* Address space is free where it is not limited. If it is limited, a quarter of it is reserved as head-room for
 * resize: threads and other caches need some too. */
static int map_most(struct pc_cache *c, u64 capacity)
{
	u64 want = pc_min(pc_max(capacity * 4, 64ull << 30), (u64)PC_FRAMES_MAX << c->page_shift);
	if (!map(c, capacity, want))
		return 0;
	while ((want /= 2) >= capacity && map(c, capacity, want))
		;
	if (want < capacity)
		return -ENOMEM;
	pc_cache_unmap(c);
	return map(c, capacity, pc_max(want / 4, capacity));
}

/* A cache of `capacity` bytes. @page_size: power of two, >= 4096. @max_folio: largest folio in bytes; rounded down to a
 * power of two of pages. Return: 0, -ENOMEM, -EINVAL. */
int pc_cache_create(uint64_t capacity, uint32_t page_size, uint64_t max_folio, struct pc_cache **out)
{
	if (page_size < 4096 || page_size & (page_size - 1) || capacity / page_size < 16 ||
	    capacity / page_size > PC_FRAMES_MAX)
		return -EINVAL;
	struct pc_cache *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->page_size = page_size;
	c->page_shift = (u32)__builtin_ctz(page_size);
	while (c->max_order < PC_ORDERS - 1 && (u64)page_size << (c->max_order + 1) <= max_folio)
		c->max_order++;
	c->fork_epoch = atomic_load(&pc_fork_epoch);
	c->trace = calloc(PC_TRACE_RECORDS, sizeof(*c->trace));
	int err = c->trace ? map_most(c, capacity) : -ENOMEM;
	if (err) {
		free(c->trace);
		free(c);
		return err;
	}
	pc_cache_configure(c, capacity / 4, capacity / 2, max_folio, false);
	*out = c;
	return 0;
}

void pc_cache_configure(struct pc_cache *c, uint64_t dirty_background, uint64_t dirty_limit, uint64_t cow_limit,
			bool poison)
{
	atomic_store(&c->dirty_background, dirty_background >> c->page_shift);
	atomic_store(&c->dirty_limit, pc_max(dirty_limit >> c->page_shift, 1));
	atomic_store(&c->dirty_free, (dirty_background + pc_max(dirty_limit, dirty_background)) >> c->page_shift >> 1);
	c->cow_pages = (u32)pc_min(cow_limit >> c->page_shift, 1u << (PC_ORDERS - 1));
	atomic_store(&c->poison, poison);
	pc_event_wake(&c->event);
}

/* Return: 0; -EBUSY: more is in use than `capacity`, after everything clean was evicted; -EINVAL, -ENOMEM: cannot grow. */
int pc_cache_resize(struct pc_cache *c, uint64_t capacity)
{
	u64 old = (u64)atomic_load(&c->arena.capacity) << c->page_shift;
	if (capacity >> c->page_shift > c->arena.frames_max)
		return -EINVAL;
	/* First the new bound, so that no call takes the frames that are freed for it. */
	int err = pc_arena_resize(&c->arena, capacity);
	for (u32 used; !err && (used = atomic_load(&c->arena.used)) > capacity >> c->page_shift;)
		if (!pc_reclaim(c, (u32)(used - (capacity >> c->page_shift))))
			err = -EBUSY;
	if (err == -EBUSY)
		pc_arena_resize(&c->arena, old);
	else if (!err && capacity < old)
		pc_arena_give_back(&c->arena);
	pc_event_wake(&c->event);
	return err;
}

void pc_tick(struct pc_cache *c, uint64_t now_ns)
{
	atomic_store_explicit(&c->now_ns, now_ns, memory_order_relaxed);
}

uint32_t pc_cache_event_seq(struct pc_cache *c)
{
	return atomic_load(&c->event.seq);
}

void pc_cache_wake_all(struct pc_cache *c)
{
	for (u32 k = 0; k < PC_FOLIO_EVENTS; k++)
		pc_event_wake(&c->folio_events[k]);
	pc_event_wake(&c->event);
	pc_event_wake(&c->flusher_event);
}

/* The flusher checks everything after this call: crossing a threshold from here on wakes it again. */
uint32_t pc_flusher_seq(struct pc_cache *c)
{
	atomic_store(&c->flusher_wanted, 0);
	return atomic_load(&c->flusher_event.seq);
}

void pc_flusher_wake(struct pc_cache *c)
{
	pc_event_wake(&c->flusher_event);
}

void pc_cache_usage_get(struct pc_cache *c, struct pc_cache_usage *u)
{
	memset(u, 0, sizeof(*u));
	u->capacity = (u64)atomic_load(&c->arena.capacity) << c->page_shift;
	u->used = (u64)atomic_load(&c->arena.used) << c->page_shift;
	u->local = atomic_load(&c->local) << c->page_shift;
	u->folios = c->folios.used;
	u->leaves = c->leaves.used;
	u->nodes = c->nodes.used;
	u->requests = c->requests.used;
	u->shadows = c->shadows.used;
	u->folio_bytes = (u64)c->folios.used * sizeof(struct pc_folio);
	u->index_bytes = (u64)c->leaves.used * sizeof(struct pc_leaf) + (u64)c->nodes.used * sizeof(struct pc_node);
	for (u32 k = 0; k < PC_EXT_CLASSES; k++) {
		u->exts += c->exts[k].used;
		u->ext_bytes += (u64)c->exts[k].used * c->exts[k].size;
	}
	u->arena_bytes = pc_arena_metadata(&c->arena);
	u->ghost_bytes = pc_min(atomic_load(&c->evicted) * 4, ((u64)c->ghost_mask + 1) * 4);
	u->staged_map_bytes = atomic_load(&c->range_bytes);
	u->inodes = atomic_load(&c->nr_inodes);
	u->hollow = atomic_load(&c->nr_hollow);
	u->inode_bytes = u->inodes * sizeof(struct pc_inode);
	u->metadata_bytes = u->folio_bytes + u->index_bytes + u->ext_bytes + u->arena_bytes + u->ghost_bytes +
			    u->staged_map_bytes + u->inode_bytes;
	u->evicted = atomic_load(&c->evicted);
	u->evict_calls = atomic_load(&c->evict_calls);
	u->evict_examined = atomic_load(&c->evict_examined);
	u->evict_examined_max = atomic_load(&c->evict_examined_max);
	u->frames_allocated = atomic_load(&c->frames_allocated);
	u->frames_freed = atomic_load(&c->frames_freed);
	u->cow_copies = atomic_load(&c->cow_copies);
	u->quarantined = atomic_load(&c->quarantined);
}

/* ---------------------------------------------------------------- volumes */

/* Volumes are type-stable like inodes: the struct of an inode that is gone still points to its volume. */
static struct pc_volume *volume_alloc(struct pc_cache *c)
{
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	struct pc_volume *v = c->free_volumes;
	if (v)
		c->free_volumes = v->next_free;
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
	return v ? memset(v, 0, sizeof(*v)) : calloc(1, sizeof(*v));
}

/* Its place and its struct are the next volume's. */
void pc_volume_free(struct pc_volume *v)
{
	struct pc_cache *c = v->cache;
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	if (c->volumes[v->slot] == v)
		c->volumes[v->slot] = NULL;
	v->next_free = c->free_volumes;
	c->free_volumes = v;
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
}

int pc_volume_create(struct pc_cache *c, uint32_t max_inflight, bool sticky, struct pc_volume **out)
{
	struct pc_volume *v = volume_alloc(c);
	if (!v)
		return -ENOMEM;
	v->cache = c;
	v->max_inflight = max_inflight ? max_inflight : 1;
	v->sticky = sticky;
	atomic_store(&v->epoch, 1);
	atomic_store(&v->generation, 1);
	pc_room_init(&v->room);
	atomic_store(&v->credits, 1ull << 32);
	for (u32 k = 0; k < PC_WORK_CLASSES; k++)
		pc_list_init(&v->work[k]);
	pc_ring_init(&v->dirty);
	pc_ring_init(&v->aged);
	pc_ring_init(&v->hollow);
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	u32 slot = 0;
	while (slot < PC_VOLUMES_MAX && c->volumes[slot])
		slot++;
	if (slot < PC_VOLUMES_MAX) {
		c->volumes[slot] = v;
		v->slot = slot;
		/* Tags are never used again but for the last, which never matches: those frames are always zeroed. */
		v->tag = c->next_tag < 0xfffe ? ++c->next_tag : 0xffff;
	}
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
	if (slot == PC_VOLUMES_MAX) {
		pc_volume_free(v);
		return -ENFILE;
	}
	*out = v;
	return 0;
}

/* Free the volume when its last inode is destroyed. The caller promises that no thread of the volume runs, and no call for it follows
 * but pc_inode_end and pc_inode_destroy. */
void pc_volume_destroy(struct pc_volume *v)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	PC_ASSERT(!v->ended);
	v->ended = true;
	bool last = v->nr_inodes == 0;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	if (last)
		pc_volume_free(v);
}

/* Wake all threads and loops of the volume. */
static void wake_all(struct pc_volume *v)
{
	pc_event_wake(&v->event);
	pc_event_wake(&v->returned);
	pc_event_wake(&v->workers);
}

void pc_volume_set_inflight(struct pc_volume *v, uint32_t max_inflight)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	v->max_inflight = max_inflight ? max_inflight : 1;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	wake_all(v);
}

/* How calls are made from here on. @reads_here: by a caller that waits for the read; @on_loop: as coroutines on the
 * cache's event loop. */
void pc_volume_set_calls(struct pc_volume *v, bool reads_here, bool on_loop)
{
	atomic_store(&v->reads_here, reads_here);
	atomic_store(&v->on_loop, on_loop);
}

/* s = epoch++ : everything dirtied before the call is stamped <= s, everything after it > s (contract 1.3). */
uint64_t pc_epoch_take(struct pc_volume *v)
{
	return atomic_fetch_add(&v->epoch, 1);
}

/* Waiters of other volumes look again, too. */
static void wake_all_waiters(struct pc_volume *v)
{
	struct pc_cache *c = v->cache;
	for (u32 k = 0; k < c->inode_slots; k++) {
		struct pc_inode *i = c->inodes[k];
		if (i)
			pc_inode_wake(i);
	}
	wake_all(v);
	pc_cache_wake_all(c);
}

/* The backend is gone: late answers only end W; waiters check again and find `aborted`. @left: the volume ends, and the disk
 * tier has what is unsaved. Context: engine's volume lock. */
void pc_volume_abort(struct pc_volume *v, bool left)
{
	atomic_store(&v->aborted, left ? PC_ABORT_LEFT : 1);
	atomic_fetch_add(&v->generation, 1);
	pc_trace_add(v->cache, "abort", 0, 0, v->slot);
	wake_all_waiters(v);
}

/* Another backend: calls that still run on the old one take nothing from its limits. */
void pc_volume_resume(struct pc_volume *v)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	atomic_store(&v->credits, ((atomic_load(&v->credits) >> 32) + 1) << 32);
	v->low_running = 0;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	atomic_store(&v->calling, ((atomic_load(&v->calling) >> 32) + 1) << 32);
	atomic_fetch_add(&v->generation, 1);
	atomic_store(&v->aborted, 0);
	wake_all_waiters(v);
}

/* Accept nothing new, or again. Every change of a file checks `sealed` with the inode lock held. So a holder of that
 * lock after the sealing sees the last change of the file. */
void pc_volume_seal(struct pc_volume *v, bool sealed)
{
	atomic_store(&v->sealed, sealed);
	wake_all_waiters(v);
}

/* The backend is about to be closed: calls that are not counted yet, by a credit or by `calling`, do not begin. */
void pc_volume_close(struct pc_volume *v)
{
	atomic_store(&v->closing, 1);
}

void pc_volume_stop(struct pc_volume *v)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	v->stopping = 1;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	wake_all(v);
}
