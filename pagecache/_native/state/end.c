/*
 * end.c - the end of inodes and caches, in steps, and the memory that stays mapped.
 *
 * A volume that has ended is freed with its last inode (pc_volume_destroy). Both are type-stable.
 *
 * A cache gives its address space back in three steps:
 *
 *   pc_cache_close    tables that were never used: nothing points there, and nothing new is handed out from here on
 *   pc_cache_release  the frames, once none is in use and no optimistic copy runs: views, running calls and kept buffers
 *                     use theirs, so the last of them to end is the last reader
 *   pc_cache_destroy  descriptors, index, inodes: when no object refers to the owner of the memory. Until then the calls of
 *                     closed handles, files and volumes find them, empty
 *
 * Locks: leaf lock; the volume's leaf lock and the table lock (level 7) for lists and slots.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "state/state.h"

enum { PC_TRIM = 64 << 10 };

static void leave_table(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	c->inodes[i->slot] = NULL;
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
	atomic_fetch_sub_explicit(&c->nr_inodes, 1, memory_order_relaxed);
}

/* The inode is about to go: a pass that ended may still be queued. Return: false when a thread works on it, or is about to:
 * threads take work and count themselves as users under the same lock. Context: inode leaf lock. */
static bool forget_work(struct pc_inode *i)
{
	struct pc_volume *v = i->volume;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	bool idle = atomic_load(&i->users) == 0;
	if (idle && i->pass.queued) {
		pc_list_del(&i->work_pass);
		v->nr_work[i->pass.queued]--;
		i->pass.queued = 0;
	}
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	return idle;
}

/* Drop clean folios and end the inode: a late call finds it empty, until pc_inode_free. The caller promises that no handle,
 * operation or view refers to it; pinned memory lives on, detached. Return: 0, also at a repetition; -EBUSY: it has local bytes,
 * something uncommitted, or a thread works on it; nothing has changed then but that clean pages may be gone. */
int pc_inode_destroy(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	pc_drop_clean(i, 0, UINT64_MAX);
	pc_inode_leaf_lock(i);
	bool busy = pc_unsaved(i) || i->token != PC_TOKEN_FREE || !pc_list_empty(&i->token_queue) ||
		    !pc_list_empty(&i->lock_queue) || atomic_load(&i->lock_word) || !forget_work(i);
	for (u32 id, tries = 0; !busy && (id = pc_index_next(i, 0, pc_last_index(c)));) {
		struct pc_folio *f = pc_folio_at(c, id);
		if (pc_folio_trylock(f)) {
			pc_folio_remove(i, f);
			continue;
		}
		/* No thread works on the inode, so only a passing reclaim can have it. */
		pc_inode_leaf_unlock(i);
		pc_pause(tries++);
		pc_inode_leaf_lock(i);
	}
	bool gone = i->dead;
	if (!busy) {
		i->dead = true;
		i->id = 0;
		pc_hollow_update(i);
		pc_set_size(i, 0);
		pc_set_remote_size(i, 0);
		pc_written_clear(i);
	}
	pc_inode_leaf_unlock(i);
	if (busy)
		return -EBUSY;
	pc_direct_clear(i);
	pc_map_clear(c, &i->lost);
	pc_unlogged_cut(i, 0, UINT64_MAX);
	if (!gone)
		leave_table(i);
	return 0;
}

/* Give the memory of a destroyed inode to the next one. The caller promises that nothing refers to it. */
void pc_inode_free(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	PC_ASSERT(i->dead);
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	bool last = --v->nr_inodes == 0 && v->ended;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	i->next_free = c->free_inodes;
	c->free_inodes = i;
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
	if (last)
		pc_volume_free(v);
}

/* Unmap all address space of a cache; parts that were never mapped are skipped. */
void pc_cache_unmap(struct pc_cache *c)
{
	pc_pool_destroy(&c->folios);
	pc_pool_destroy(&c->leaves);
	pc_pool_destroy(&c->nodes);
	pc_pool_destroy(&c->requests);
	pc_pool_destroy(&c->shadows);
	pc_pool_destroy(&c->waits);
	for (u32 k = 0; k < PC_EXT_CLASSES; k++)
		pc_pool_destroy(&c->exts[k]);
	if (c->ghost)
		munmap(c->ghost, c->ghost_reserved);
	if (c->inodes)
		munmap(c->inodes, c->inodes_max * sizeof(struct pc_inode *));
	c->ghost = NULL;
	c->inodes = NULL;
	pc_arena_destroy(&c->arena);
}

void pc_cache_destroy(struct pc_cache *c)
{
	for (u32 k = 0; k < c->inode_slots; k++) {
		if (c->inodes[k]) {
			pc_map_clear(c, &c->inodes[k]->staged.map);
			pc_map_clear(c, &c->inodes[k]->beside.map);
			pc_written_clear(c->inodes[k]);
			pc_map_clear(c, &c->inodes[k]->beside_unwritten);
			pc_direct_clear(c->inodes[k]);
			pc_map_clear(c, &c->inodes[k]->lost);
			pc_map_clear(c, &c->inodes[k]->unlogged);
			pc_map_clear(c, &c->inodes[k]->borrowed);
		}
		free(c->inodes[k]);
	}
	for (struct pc_inode *i = c->free_inodes, *next; i; i = next) {
		next = i->next_free;
		free(i);
	}
	for (u32 k = 0; k < PC_VOLUMES_MAX; k++)
		free(c->volumes[k]);
	for (struct pc_volume *v = c->free_volumes, *next; v; v = next) {
		next = v->next_free;
		free(v);
	}
	pc_cache_unmap(c);
	free(c->trace);
	free(c);
}

/* The end of a table: whole pages behind the first `used` bytes. Return: bytes that are left. */
static size_t trim(void *base, size_t used, size_t reserved)
{
	size_t keep = (used + PC_TRIM - 1) / PC_TRIM * PC_TRIM;
	if (keep >= reserved)
		return reserved;
	munmap((u8 *)base + keep, reserved - keep);
	return keep;
}

/* Address space that only growth needs. An id of one extension pool may be looked up in another by a reader with a stale
 * descriptor: all of them stay as long as the longest. */
static void trim_tables(struct pc_cache *c)
{
	struct pc_pool *pools[] = {&c->folios, &c->leaves, &c->nodes, &c->requests, &c->shadows, &c->waits};
	u32 exts = 0, fresh;
	for (size_t k = 0; k < sizeof(pools) / sizeof(*pools); k++)
		pc_pool_trim(pools[k], pc_pool_close(pools[k]));
	for (u32 k = 0; k < PC_EXT_CLASSES; k++)
		if ((fresh = pc_pool_close(&c->exts[k])) > exts)
			exts = fresh;
	for (u32 k = 0; k < PC_EXT_CLASSES; k++)
		pc_pool_trim(&c->exts[k], exts);
	pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE); /* grows with frames_max, which is final */
	c->ghost_reserved = trim(c->ghost, ((size_t)c->arena.frames_max + c->ghost_mask + 1) * 4, c->ghost_reserved);
	pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
	pc_leaf_lock(&c->table_lock, PC_LEVEL_QUEUE);
	size_t slots = trim(c->inodes, c->inode_slots * sizeof(*c->inodes), c->inodes_max * sizeof(*c->inodes));
	c->inodes_max = (u32)(slots / sizeof(*c->inodes));
	pc_leaf_unlock(&c->table_lock, PC_LEVEL_QUEUE);
}

/* The last volume is detached: nothing is handed out, and address space that was never used goes. Idempotent. A call
 * that a hung backend still runs keeps what it uses. Context: any thread, no leaf lock. */
void pc_cache_close(struct pc_cache *c)
{
	if (atomic_exchange(&c->closed, 1))
		return;
	pc_arena_close(&c->arena);
	trim_tables(c);
}

/* Unmap the frames of a closed cache, if none is in use. Called after a frame was freed by a view, a buffer or an
 * operation. Context: no leaf lock; the interpreter's lock, which every optimistic copy holds too, or counts itself in
 * `copies`. Without one (free-threaded builds) frames stay until pc_cache_destroy. */
void pc_cache_release(struct pc_cache *c)
{
	if (PC_LIKELY(!atomic_load_explicit(&c->closed, memory_order_relaxed)) || atomic_load(&c->copies))
		return;
	for (u32 k = 0; k < c->inode_slots && atomic_load(&c->arena.used); k++)
		if (c->inodes[k])
			pc_drop_clean(c->inodes[k], 0, UINT64_MAX);
	pc_arena_release(&c->arena);
}
