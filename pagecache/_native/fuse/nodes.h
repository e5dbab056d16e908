/* nodes.h - a node that the kernel refers to, and its entries; for nodes.c (their tables) and names.c (answers). */
#ifndef PC_FUSE_NODES_H
#define PC_FUSE_NODES_H

#include "state.h"

struct node {
	struct node *next; /* of its bucket */
	u64 number, lookups, by_table;
	u64 changed;  /* tick */
	u32 changing; /* calls that run */
	bool seen;    /* attributes were returned once */
	u64 seen_tick;
	i64 until_ns; /* attributes are valid until then; 0: invalid */
	struct pc_attributes attributes;
	struct pc_opened *opened;
	struct name *names;
};

struct name {
	struct name *next; /* of its bucket */
	struct name *other; /* of its node */
	struct node *node;
	u64 parent, hash;
	i64 until_ns;
	char text[];
};

/* The caller holds `names` for all of them, except for the hash. */
struct node *pc_node_of(struct pc_loop *l, u64 number);
struct node *pc_node_make(struct pc_loop *l, u64 number);
void pc_node_settle(struct pc_loop *l, struct node *n);
u64 pc_entry_hash(u64 parent, const char *name);
struct name **pc_entry_at(struct pc_loop *l, u64 parent, const char *name, u64 hash);
void pc_entry_set(struct pc_loop *l, u64 parent, const char *name, struct node *node, i64 until_ns);
void pc_entry_drop(struct pc_loop *l, struct name **at);

#endif
