/*
 * index_tree.h - the nodes of an index, for changes of an index (index.c) and walks over it (index_walk.c).
 */
#ifndef PC_INDEX_TREE_H
#define PC_INDEX_TREE_H

#include "state/state.h"

/* 16 * 64^8 pages are 2^64 bytes of the smallest pages. */
enum { PC_LEVELS_MAX = 8 };
_Static_assert(PC_LEAF_SHIFT + PC_NODE_SHIFT * PC_LEVELS_MAX + 12 >= 64, "every byte offset has a page");

/* Pages covered by a tree of `levels` interior levels: 16 * 64^levels. */
static inline u32 shift_of(u32 levels)
{
	return PC_LEAF_SHIFT + PC_NODE_SHIFT * levels;
}

static inline struct pc_node *node_at(const struct pc_inode *i, u32 id)
{
	return pc_pool_at(&i->cache->nodes, id);
}

static inline struct pc_leaf *leaf_at(const struct pc_inode *i, u32 id)
{
	return pc_pool_at(&i->cache->leaves, id);
}

#endif
