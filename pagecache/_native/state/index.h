/*
 * index.h - one radix index per inode: folio ids in the slots, one bitmap a mark and node (index.c, index_walk.c).
 */
#ifndef PC_INDEX_H
#define PC_INDEX_H

#include "base/base.h"

struct pc_folio;
struct pc_inode;

enum pc_mark { PC_MARK_DIRTY, PC_MARK_WRITEBACK, PC_MARK_UNSTABLE, PC_MARK_TOWRITE, PC_MARKS };
enum { PC_LEAF_SLOTS = 16, PC_LEAF_SHIFT = 4, PC_NODE_SLOTS = 64, PC_NODE_SHIFT = 6 };
enum { PC_TAG_EMPTY = 0, PC_TAG_LEAF = 1, PC_TAG_FOLIO = 2, PC_TAG_NODE = 3 };

/* Bottom level: 16 pages. A 64 KiB folio is one slot of the level above, so it costs no leaf at all. */
struct pc_leaf {
	_Atomic u32 slots[PC_LEAF_SLOTS];
	_Atomic u16 marks[PC_MARKS];
	u32 parent; /* also the free link */
	u8 offset, count;
};

struct pc_node {
	_Atomic u32 slots[PC_NODE_SLOTS];
	_Atomic u64 marks[PC_MARKS];
	u32 parent; /* also the free link */
	u8 offset, count, shift;
};

/* All but lookup under the inode leaf lock. */
u32 pc_index_lookup(const struct pc_inode *i, u64 index);
int pc_index_insert(struct pc_inode *i, u64 index, u32 order, u32 folio);
void pc_index_erase(struct pc_inode *i, u64 index, u32 order);
void pc_index_mark(struct pc_inode *i, u64 index, u32 order, enum pc_mark mark, bool set);
bool pc_index_marked(const struct pc_inode *i, u64 index, enum pc_mark mark);
u32 pc_index_next(const struct pc_inode *i, u64 from, u64 to);
u32 pc_index_next_marked(const struct pc_inode *i, u64 from, u64 to, enum pc_mark mark, u32 *visited);
struct pc_folio *pc_next_folio(const struct pc_inode *i, u64 *index, u64 to);
struct pc_folio *pc_next_marked(const struct pc_inode *i, u64 *index, u64 to, enum pc_mark mark);
/* A walk that releases the leaf lock now and then. @marks: bits 1 << PC_MARK_x: folios with any of them; 0: all folios. */
struct pc_walk {
	struct pc_inode *i;
	u64 index, last;
	u32 marks, n;
};
struct pc_folio *pc_next_of(const struct pc_inode *i, u64 index, u64 to, u32 marks);
struct pc_folio *pc_walk_next(struct pc_walk *w);
void pc_walk_stop(struct pc_walk *w);
u64 pc_index_behind(const struct pc_inode *i, u64 end);
u32 pc_index_collect(const struct pc_inode *i, u64 from, u64 to, enum pc_mark mark, u32 *ids, u32 n);
bool pc_index_empty(const struct pc_inode *i, u64 index, u32 order);
bool pc_index_check(const struct pc_inode *i, struct pc_violation *out);

#endif
