/*
 * index.c - the radix index of an inode: where its folios are, and which of them are dirty, in flight, unstable, wanted.
 *
 *   root (slot, levels)
 *     └ node: 64 slots, one 64-bit word per mark           each slot: 64^k * 16 pages
 *         └ node: 64 slots of 16 pages                      a folio of 16 pages is one slot, of 512 pages 32 slots
 *             └ leaf: 16 slots of one page, one 16-bit word per mark
 *
 * A slot is an id with a tag in its low two bits: empty, leaf, folio, node. A folio of more than one slot fills all its
 * slots and carries its marks on all of them, so a range question needs no look to the left. A mark of an interior slot is
 * the OR of the marks below it [I-2]: "is anything of this range in flight?" looks at one node per level, whatever is in
 * flight (index_walk.c). This is the only registry of requests: there is no list of ranges beside it.
 *
 * Locks: everything but pc_index_lookup needs the inode's leaf lock. Lookups take none: slots, root and ids are atomic,
 * nodes are type-stable, and the caller compares the folio's identity. A negative answer without the lock may be stale and
 * is good only for taking the slow path (contract 1.4).
 *
 * Idea of marks in the tree: the Linux XArray. Fixed bounds: at most 8 levels, no recursion.
 */
#include "state/index_tree.h"

static u32 slot_make(u32 id, u32 tag)
{
	return id << 2 | tag;
}

/* The folio at `index`, without a lock. Context: any thread. Return: folio id whose identity the caller must check, or
 * 0 (which proves nothing). GIL: kept; O(levels). */
u32 pc_index_lookup(const struct pc_inode *i, u64 index)
{
	u64 root = atomic_load_explicit(&((struct pc_inode *)i)->root, memory_order_acquire);
	u32 levels = root & 255, slot = (u32)(root >> 8), shift = shift_of(levels);
	if (PC_UNLIKELY(levels == 0 || index >> shift))
		return 0;
	/* The types, not pc_pool_at: constant sizes are worth some twenty instructions of a hit. */
	struct pc_node *nodes = (struct pc_node *)(void *)i->cache->nodes.base;
	do {
		PC_POINT("lookup_descends");
		shift -= PC_NODE_SHIFT;
		slot = atomic_load_explicit(&nodes[slot >> 2].slots[index >> shift & (PC_NODE_SLOTS - 1)],
					    memory_order_acquire);
	} while ((slot & 3) == PC_TAG_NODE && shift > PC_LEAF_SHIFT); /* a recycled node may lead in a circle */
	if ((slot & 3) == PC_TAG_LEAF) {
		struct pc_leaf *leaves = (struct pc_leaf *)(void *)i->cache->leaves.base;
		slot = atomic_load_explicit(&leaves[slot >> 2].slots[index & (PC_LEAF_SLOTS - 1)],
					    memory_order_acquire);
	}
	return (slot & 3) == PC_TAG_FOLIO ? slot >> 2 : 0;
}

static void slots_set(_Atomic u32 *slots, u32 nr, u32 slot)
{
	for (u32 k = 0; k < nr; k++)
		atomic_store_explicit(&slots[k], slot, memory_order_release);
}

static bool slots_empty(const _Atomic u32 *slots, u32 nr)
{
	for (u32 k = 0; k < nr; k++)
		if (atomic_load_explicit(&((_Atomic u32 *)slots)[k], memory_order_relaxed))
			return false;
	return true;
}

static u32 node_new(struct pc_inode *i, u32 parent, u32 offset, u32 shift)
{
	u32 id = pc_pool_alloc(&i->cache->nodes);
	if (id) {
		struct pc_node *n = node_at(i, id);
		n->parent = parent;
		n->offset = (u8)offset;
		n->shift = (u8)shift;
		n->count = 0;
	}
	return id;
}

static u32 leaf_new(struct pc_inode *i, u32 parent, u32 offset)
{
	u32 id = pc_pool_alloc(&i->cache->leaves);
	if (id) {
		struct pc_leaf *l = leaf_at(i, id);
		l->parent = parent;
		l->offset = (u8)offset;
		l->count = 0;
	}
	return id;
}

/* Make the tree tall enough for `index`: new roots above the old one, which becomes their slot 0. An empty tree gets its
 * root at that height at once: a chain below it would be nodes without a slot in use, which is never freed. */
static int grow(struct pc_inode *i, u64 index)
{
	u64 root = atomic_load_explicit(&i->root, memory_order_relaxed);
	u32 levels = root & 255, slot = (u32)(root >> 8), empty = levels == 0;
	while (empty && index >> shift_of(levels + 1))
		levels++;
	while (empty || index >> shift_of(levels)) {
		u32 id = node_new(i, 0, 0, shift_of(levels));
		if (!id)
			return -ENOMEM;
		struct pc_node *n = node_at(i, id);
		if (!empty) {
			struct pc_node *old = node_at(i, slot >> 2);
			old->parent = id;
			old->offset = 0;
			n->count = 1;
			for (int m = 0; m < PC_MARKS; m++)
				atomic_store_explicit(&n->marks[m],
						      atomic_load_explicit(&old->marks[m], memory_order_relaxed) != 0,
						      memory_order_relaxed);
			atomic_store_explicit(&n->slots[0], slot, memory_order_release);
		}
		slot = slot_make(id, PC_TAG_NODE);
		levels++;
		empty = false;
		atomic_store_explicit(&i->root, (u64)slot << 8 | levels, memory_order_release);
	}
	return 0;
}

/* Where a walk down ended: the node (or leaf) that holds the slot(s) of a page. */
struct place {
	struct pc_node *node;
	struct pc_leaf *leaf;
	u32 id; /* of node or leaf */
	u32 at; /* slot */
};

/* Down to the slot of `index`: the leaf's where there is one, else the node slot where the walk ends. */
static bool descend(const struct pc_inode *i, u64 index, struct place *p)
{
	u64 root = atomic_load_explicit(&((struct pc_inode *)i)->root, memory_order_relaxed);
	u32 levels = root & 255, slot = (u32)(root >> 8);
	p->node = NULL;
	p->leaf = NULL;
	if (levels == 0 || index >> shift_of(levels))
		return false;
	while ((slot & 3) == PC_TAG_NODE) {
		p->id = slot >> 2;
		p->node = node_at(i, p->id);
		p->at = index >> p->node->shift & (PC_NODE_SLOTS - 1);
		slot = atomic_load_explicit(&p->node->slots[p->at], memory_order_relaxed);
	}
	if ((slot & 3) == PC_TAG_LEAF) {
		p->id = slot >> 2;
		p->leaf = leaf_at(i, p->id);
		p->at = index & (PC_LEAF_SLOTS - 1);
	}
	return true;
}

/* Free empty nodes upward from `id`; the root stays while anything else does. */
static void prune(struct pc_inode *i, u32 id)
{
	while (id) {
		struct pc_node *n = node_at(i, id);
		if (n->count)
			return;
		u32 parent = n->parent, offset = n->offset;
		if (parent) {
			struct pc_node *up = node_at(i, parent);
			atomic_store_explicit(&up->slots[offset], 0, memory_order_release);
			up->count--;
		} else {
			atomic_store_explicit(&i->root, 0, memory_order_release);
		}
		pc_pool_free(&i->cache->nodes, id);
		id = parent;
	}
}

/* Return: 0; -EEXIST where a slot is taken; -ENOMEM. Nothing has changed after an error but the tree's height. */
int pc_index_insert(struct pc_inode *i, u64 index, u32 order, u32 folio)
{
	PC_DEBUG_ASSERT((index & ((1ull << order) - 1)) == 0);
	int err = grow(i, index + (1ull << order) - 1);
	if (err)
		return err;
	if (!pc_index_empty(i, index, order))
		return -EEXIST;
	u32 id = (u32)(atomic_load_explicit(&i->root, memory_order_relaxed) >> 8) >> 2;
	struct pc_node *n = node_at(i, id);
	for (;;) {
		u32 at = index >> n->shift & (PC_NODE_SLOTS - 1);
		if (n->shift == PC_LEAF_SHIFT && order >= PC_LEAF_SHIFT) {
			u32 nr = 1u << (order - PC_LEAF_SHIFT);
			slots_set(n->slots + at, nr, slot_make(folio, PC_TAG_FOLIO));
			n->count = (u8)(n->count + nr);
			return 0;
		}
		u32 slot = atomic_load_explicit(&n->slots[at], memory_order_relaxed);
		bool last = n->shift == PC_LEAF_SHIFT;
		if ((slot & 3) == PC_TAG_EMPTY) {
			u32 child = last ? leaf_new(i, id, at) : node_new(i, id, at, n->shift - PC_NODE_SHIFT);
			if (!child) {
				prune(i, id);
				return -ENOMEM;
			}
			slot = slot_make(child, last ? PC_TAG_LEAF : PC_TAG_NODE);
			n->count++;
			atomic_store_explicit(&n->slots[at], slot, memory_order_release);
		}
		id = slot >> 2;
		if (last)
			break;
		n = node_at(i, id);
	}
	struct pc_leaf *l = leaf_at(i, id);
	u32 at = index & (PC_LEAF_SLOTS - 1), nr = 1u << order;
	slots_set(l->slots + at, nr, slot_make(folio, PC_TAG_FOLIO));
	l->count = (u8)(l->count + nr);
	return 0;
}

/* The folio's marks must be clear: a folio that is dirty, in flight or unstable never leaves the index. */
void pc_index_erase(struct pc_inode *i, u64 index, u32 order)
{
	struct place p;
	bool found = descend(i, index, &p);
	PC_ASSERT(found);
	if (p.leaf) {
		u32 nr = 1u << order;
		slots_set(p.leaf->slots + p.at, nr, 0);
		p.leaf->count = (u8)(p.leaf->count - nr);
		if (p.leaf->count)
			return;
		u32 parent = p.leaf->parent;
		struct pc_node *up = node_at(i, parent);
		atomic_store_explicit(&up->slots[p.leaf->offset], 0, memory_order_release);
		up->count--;
		pc_pool_free(&i->cache->leaves, p.id);
		prune(i, parent);
		return;
	}
	u32 nr = 1u << (order - PC_LEAF_SHIFT);
	slots_set(p.node->slots + p.at, nr, 0);
	p.node->count = (u8)(p.node->count - nr);
	prune(i, p.id);
}

static void node_mark(struct pc_inode *i, u32 id, u64 bits, enum pc_mark mark, bool set)
{
	while (id) {
		struct pc_node *n = node_at(i, id);
		u64 old = atomic_load_explicit(&n->marks[mark], memory_order_relaxed);
		u64 new = set ? old | bits : old & ~bits;
		atomic_store_explicit(&n->marks[mark], new, memory_order_relaxed);
		if (set ? old != 0 : new != 0)
			return; /* the parent's bit stands as it is */
		bits = 1ull << n->offset;
		id = n->parent;
	}
}

void pc_index_mark(struct pc_inode *i, u64 index, u32 order, enum pc_mark mark, bool set)
{
	struct place p;
	bool found = descend(i, index, &p);
	PC_ASSERT(found);
	if (!p.leaf) {
		u32 nr = 1u << (order - PC_LEAF_SHIFT);
		node_mark(i, p.id, (nr == 64 ? ~0ull : (1ull << nr) - 1) << p.at, mark, set);
		return;
	}
	u16 bits = (u16)(((1u << (1u << order)) - 1) << p.at);
	u16 old = atomic_load_explicit(&p.leaf->marks[mark], memory_order_relaxed);
	u16 new = set ? old | bits : old & (u16)~bits;
	atomic_store_explicit(&p.leaf->marks[mark], new, memory_order_relaxed);
	if (set ? old != 0 : new != 0)
		return;
	node_mark(i, p.leaf->parent, 1ull << p.leaf->offset, mark, set);
}

bool pc_index_marked(const struct pc_inode *i, u64 index, enum pc_mark mark)
{
	struct place p;
	if (!descend(i, index, &p))
		return false;
	if (p.leaf)
		return atomic_load_explicit(&p.leaf->marks[mark], memory_order_relaxed) >> p.at & 1;
	return atomic_load_explicit(&p.node->marks[mark], memory_order_relaxed) >> p.at & 1;
}

bool pc_index_empty(const struct pc_inode *i, u64 index, u32 order)
{
	struct place p;
	bool found = descend(i, index, &p);
	if (!found || atomic_load_explicit((p.leaf ? p.leaf->slots : p.node->slots) + p.at, memory_order_relaxed))
		return !found;
	if (p.leaf)
		return order < PC_LEAF_SHIFT && slots_empty(p.leaf->slots + (p.at & ~((1u << order) - 1)), 1u << order);
	if (p.node->shift > PC_LEAF_SHIFT || order <= PC_LEAF_SHIFT)
		return true;
	return slots_empty(p.node->slots + p.at, 1u << (order - PC_LEAF_SHIFT));
}
