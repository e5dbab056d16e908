/*
 * unlogged.c - the bytes of a file that were written since they were last appended to the journal of the disk tier.
 *
 *   write, pin to store     add      under the inode lock X
 *   append to the journal   cut      under the same lock: no writer is between its copy and its addition
 *   truncate, hole, discard cut      the journal has a record of each; a hole beside a view leaves the whole file to append
 *
 * Only volumes whose fsync may end at the journal keep the map. If it has no room, all local bytes count as unlogged.
 */
#include "state/state.h"

enum { PC_UNLOGGED_MAX = 1 << 16 }; /* ranges */

void pc_volume_set_logged(struct pc_volume *v)
{
	atomic_store(&v->logged, 1);
}

static void whole(struct pc_inode *i)
{
	pc_map_clear(i->cache, &i->unlogged);
	i->unlogged_whole = 1;
}

/* Context: no leaf lock. */
void pc_unlogged_add(struct pc_inode *i, u64 pos, u64 end)
{
	pc_inode_leaf_lock(i);
	if (!i->unlogged_whole && !pc_map_add(i->cache, &i->unlogged, pos, end, PC_UNLOGGED_MAX))
		whole(i);
	pc_inode_leaf_unlock(i);
}

/* Nothing that is local counts as appended. */
void pc_unlogged_all(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	whole(i);
	pc_inode_leaf_unlock(i);
}

void pc_unlogged_cut(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	pc_inode_leaf_lock(i);
	pc_map_cut(i->cache, &i->unlogged, pos, end);
	if (!pos && end == UINT64_MAX)
		i->unlogged_whole = 0;
	pc_inode_leaf_unlock(i);
}
