/*
 * index_walk.c - questions about a range of an index: the next folios, the next with a mark; and the checker of its tree.
 *
 * A walk goes down where the summary bit of a mark says so, a word of marks at a time, and skips slots without the mark:
 * a question about a range visits a node per level, and a walk over dirty pages costs as much as there are dirty pages.
 *
 * Locks: the inode's leaf lock. Only the checker recurses: the tree has at most PC_LEVELS_MAX levels.
 */
#include "state/index_tree.h"

enum { PC_WALK = 64 };

/* Bits of a word for the slots [from, to) of a node, where `first` and `last` are the pages wanted. */
static u64 window(u64 base, u32 shift, u32 slots, u64 from, u64 last)
{
	u32 lo = from > base ? (u32)((from - base) >> shift) : 0;
	u64 hi = (last - base) >> shift;
	u64 mask = hi >= slots - 1 ? ~0ull : (1ull << (hi + 1)) - 1;
	return lo >= 64 ? 0 : mask & (~0ull << lo);
}

/* Bits of the slots in use. */
static u64 used_slots(const _Atomic u32 *slots, u32 n)
{
	u64 word = 0;
	for (u32 k = 0; k < n; k++)
		word |= (u64)(atomic_load_explicit(&((_Atomic u32 *)slots)[k], memory_order_relaxed) != 0) << k;
	return word;
}

static u64 node_word(const struct pc_node *n, int mark)
{
	return mark < 0 ? used_slots(n->slots, PC_NODE_SLOTS)
			: atomic_load_explicit(&((struct pc_node *)n)->marks[mark], memory_order_relaxed);
}

static u64 leaf_word(const struct pc_leaf *l, int mark)
{
	return mark < 0 ? used_slots(l->slots, PC_LEAF_SLOTS)
			: atomic_load_explicit(&((struct pc_leaf *)l)->marks[mark], memory_order_relaxed);
}

/* The leaf after next: in a sparse file each costs two misses of the processor's cache, and nothing else does. */
static void prefetch_leaf(const struct pc_inode *i, const struct pc_node *at, u64 word)
{
	word &= word - 1;
	word &= word - 1;
	if (!word)
		return;
	u32 slot = atomic_load_explicit(&((struct pc_node *)at)->slots[__builtin_ctzll(word)], memory_order_relaxed);
	struct pc_leaf *l = leaf_at(i, slot >> 2);
	__builtin_prefetch(l);
	__builtin_prefetch(l->marks);
}

/* The first n folios, ascending, with a page in [from, to) and the mark (-1: any folio). Down where a summary bit says so, up
 * and right where a subtree is used up; a word of marks is used up before anything else is looked at. Each step consumes
 * a bit, so it ends. Return: how many. */
static inline u32 walk(const struct pc_inode *i, u64 from, u64 to, int mark, u32 *visited, u32 *ids, u32 n)
{
	u64 root = atomic_load_explicit(&((struct pc_inode *)i)->root, memory_order_relaxed);
	u32 levels = root & 255;
	if (levels == 0 || from >= to)
		return 0;
	if (to > 1ull << shift_of(levels))
		to = 1ull << shift_of(levels);
	if (from >= to)
		return 0;
	u64 last = to - 1;
	u32 k = 0;
	struct pc_node *at = node_at(i, (u32)(root >> 8) >> 2);
	u64 base = 0; /* first page of the node */
	if (visited)
		(*visited)++;
	for (;;) {
		u64 word = node_word(at, mark) & window(base, at->shift, PC_NODE_SLOTS, from, last);
		if (!word) {
			/* On to the right of this subtree. */
			u64 end = base + ((u64)PC_NODE_SLOTS << at->shift);
			if (!at->parent || end > last)
				return k;
			from = pc_max(from, end);
			at = node_at(i, at->parent);
			base &= ~(((u64)PC_NODE_SLOTS << at->shift) - 1);
			continue;
		}
		u32 offset = (u32)__builtin_ctzll(word);
		u32 slot = atomic_load_explicit(&at->slots[offset], memory_order_relaxed);
		u64 start = base + ((u64)offset << at->shift);
		if ((slot & 3) == PC_TAG_NODE) {
			if (visited)
				(*visited)++;
			at = node_at(i, slot >> 2);
			base = start;
			continue;
		}
		if ((slot & 3) == PC_TAG_FOLIO) {
			if (!k || ids[k - 1] != slot >> 2) /* a large folio fills several slots */
				ids[k++] = slot >> 2;
			if (k == n)
				return k;
		} else {
			if (visited)
				(*visited)++;
			struct pc_leaf *l = leaf_at(i, slot >> 2);
			if (n > 1)
				prefetch_leaf(i, at, word);
			word = leaf_word(l, mark) & window(start, 0, PC_LEAF_SLOTS, from, last) & 0xffff;
			for (; word; word &= word - 1) {
				u32 id = atomic_load_explicit(&l->slots[__builtin_ctzll(word)], memory_order_relaxed) >>
					 2;
				if (!k || ids[k - 1] != id)
					ids[k++] = id;
				if (k == n)
					return k;
			}
		}
		from = pc_max(from, start + (1ull << at->shift));
		if (from > last)
			return k;
	}
}

u32 pc_index_next(const struct pc_inode *i, u64 from, u64 to)
{
	u32 id;
	return walk(i, from, to, -1, NULL, &id, 1) ? id : 0;
}

u32 pc_index_next_marked(const struct pc_inode *i, u64 from, u64 to, enum pc_mark mark, u32 *visited)
{
	u32 id;
	return walk(i, from, to, (int)mark, visited, &id, 1) ? id : 0;
}

static struct pc_folio *step(const struct pc_inode *i, u64 *index, u64 to, int mark)
{
	u32 id;
	if (!walk(i, *index, to, mark, NULL, &id, 1))
		return NULL;
	struct pc_folio *f = pc_folio_at(i->cache, id);
	*index = pc_folio_after(f);
	return f;
}

/* The first folio with a page in [*index, to), and with the mark; *index moves behind it. Return: NULL: there is none. */
struct pc_folio *pc_next_folio(const struct pc_inode *i, u64 *index, u64 to)
{
	return step(i, index, to, -1);
}

struct pc_folio *pc_next_marked(const struct pc_inode *i, u64 *index, u64 to, enum pc_mark mark)
{
	return step(i, index, to, (int)mark);
}

/* The first folio with a page in [index, to) and any of the marks; 0: any folio. */
struct pc_folio *pc_next_of(const struct pc_inode *i, u64 index, u64 to, u32 marks)
{
	u32 id = marks ? 0 : pc_index_next(i, index, to);
	struct pc_folio *f = id ? pc_folio_at(i->cache, id) : NULL;
	for (u32 mark = 0; marks >> mark; mark++) {
		id = marks >> mark & 1 ? pc_index_next_marked(i, index, to, (enum pc_mark)mark, NULL) : 0;
		if (id && (!f || pc_folio_index(pc_folio_at(i->cache, id)) < pc_folio_index(f)))
			f = pc_folio_at(i->cache, id);
	}
	return f;
}

/* The next folio, with the leaf lock held. Return: NULL: there is none, and the lock is free. */
struct pc_folio *pc_walk_next(struct pc_walk *w)
{
	if (w->n && w->n % PC_WALK == 0)
		pc_inode_leaf_unlock(w->i);
	if (w->n++ % PC_WALK == 0)
		pc_inode_leaf_lock(w->i);
	struct pc_folio *f = pc_next_of(w->i, w->index, w->last, w->marks);
	if (f)
		w->index = pc_folio_after(f);
	else
		pc_inode_leaf_unlock(w->i);
	return f;
}

/* Leave a walk before its end. */
void pc_walk_stop(struct pc_walk *w)
{
	pc_inode_leaf_unlock(w->i);
	w->n = 0;
}

/* The index behind the last page with a byte before `end`. */
u64 pc_index_behind(const struct pc_inode *i, u64 end)
{
	u64 more = i->cache->page_size - 1;
	return (pc_min(end, UINT64_MAX - more) + more) >> i->cache->page_shift;
}

/* The first n folios with the mark and a page in [from, to), ascending; a walk goes on behind the last of them. Return: how many. */
u32 pc_index_collect(const struct pc_inode *i, u64 from, u64 to, enum pc_mark mark, u32 *ids, u32 n)
{
	return walk(i, from, to, (int)mark, NULL, ids, n);
}

/* ---- checker: I-2 for interior marks, and the shape of the tree */

static bool check_marks(const struct pc_inode *i, const struct pc_node *n, u32 at, u32 slot, struct pc_violation *out)
{
	for (int m = 0; m < PC_MARKS; m++) {
		bool here = node_word(n, m) >> at & 1, below = false;
		if ((slot & 3) == PC_TAG_FOLIO)
			continue; /* compared with the folio's flags elsewhere */
		if ((slot & 3) == PC_TAG_NODE)
			below = node_word(node_at(i, slot >> 2), m) != 0;
		if ((slot & 3) == PC_TAG_LEAF)
			below = leaf_word(leaf_at(i, slot >> 2), m) != 0;
		if (here != below)
			return pc_violated(out, "I-2", "inode %: mark % of slot % at shift % is %, below it is %",
					   i->id, m, at, n->shift, here, below);
	}
	return true;
}

/* A node, and all below it: each has one parent, so this ends whatever the tree has become. */
static bool check_node(const struct pc_inode *i, u32 id, struct pc_violation *out)
{
	struct pc_node *n = node_at(i, id);
	u32 count = 0;
	for (u32 at = 0; at < PC_NODE_SLOTS; at++) {
		u32 slot = atomic_load_explicit(&n->slots[at], memory_order_relaxed);
		count += slot != 0;
		if (!check_marks(i, n, at, slot, out))
			return false;
		u32 parent = id, offset = at;
		if ((slot & 3) == PC_TAG_NODE) {
			parent = node_at(i, slot >> 2)->parent;
			offset = node_at(i, slot >> 2)->offset;
		} else if ((slot & 3) == PC_TAG_LEAF) {
			const struct pc_leaf *l = leaf_at(i, slot >> 2);
			parent = l->parent;
			offset = l->offset;
			if (l->count != __builtin_popcountll(leaf_word(l, -1)) || l->count == 0)
				return pc_violated(out, "I-4", "leaf % counts % slots", slot >> 2, l->count);
		}
		if (parent != id || offset != at)
			return pc_violated(out, "I-4", "child at slot % of node % points to %, slot %", at, id, parent,
					   offset);
		if ((slot & 3) == PC_TAG_NODE && !check_node(i, slot >> 2, out))
			return false;
	}
	if (count != n->count || count == 0)
		return pc_violated(out, "I-4", "node % counts % slots and has %", id, n->count, count);
	return true;
}

/* Every node. Leaf lock held. */
bool pc_index_check(const struct pc_inode *i, struct pc_violation *out)
{
	u64 root = atomic_load_explicit(&((struct pc_inode *)i)->root, memory_order_relaxed);
	return (root & 255) == 0 || check_node(i, (u32)(root >> 8) >> 2, out);
}
