/*
 * nodes.c - two hash tables: nodes by number, and entries by directory and name. An entry leads to its node, and the
 * entries of a node form a list. A table has as many buckets as members.
 */
#include <stdlib.h>
#include <string.h>

#include "nodes.h"

enum { HASH_MIN = 1024, ROOT_NUMBER = 1 };

static u64 mixed(u64 x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

u64 pc_entry_hash(u64 parent, const char *name)
{
	u64 h = mixed(parent + 0x9e3779b97f4a7c15ull);
	for (; *name; name++)
		h = (h ^ (u8)*name) * 0x100000001b3ull;
	return mixed(h);
}

/* ---------------------------------------------------------------- nodes; `names` held */

struct node *pc_node_of(struct pc_loop *l, u64 number)
{
	struct node *n = l->nodes[mixed(number) & l->node_mask];
	while (n && n->number != number)
		n = n->next;
	return n;
}

/* Return the mask of a table of `count` entries: as many buckets as entries; shrunk to a quarter when few are used. */
static u64 mask_for(u64 count, u64 mask)
{
	if (count > mask)
		return 2 * mask + 1;
	return mask / 4 >= HASH_MIN - 1 && count < mask / 8 ? mask / 4 : mask;
}

static void resize_nodes(struct pc_loop *l)
{
	u64 mask = mask_for(l->nr_nodes, l->node_mask);
	struct node **nodes = mask != l->node_mask ? calloc(mask + 1, sizeof(*nodes)) : NULL;
	for (u64 k = 0; nodes && k <= l->node_mask; k++)
		for (struct node *n = l->nodes[k], *next; n; n = next) {
			next = n->next;
			n->next = nodes[mixed(n->number) & mask];
			nodes[mixed(n->number) & mask] = n;
		}
	if (nodes) {
		free(l->nodes);
		l->nodes = nodes;
		l->node_mask = mask;
	}
}

struct node *pc_node_make(struct pc_loop *l, u64 number)
{
	struct node *n = pc_node_of(l, number);
	if (n || !(n = calloc(1, sizeof(*n))))
		return n;
	resize_nodes(l);
	struct node **bucket = &l->nodes[mixed(number) & l->node_mask];
	n->number = number;
	n->next = *bucket;
	*bucket = n;
	l->nr_nodes++;
	return n;
}

/* ---------------------------------------------------------------- entries; `names` held */

static void resize_entries(struct pc_loop *l)
{
	u64 mask = mask_for(l->nr_entries, l->entry_mask);
	struct name **entries = mask != l->entry_mask ? calloc(mask + 1, sizeof(*entries)) : NULL;
	for (u64 k = 0; entries && k <= l->entry_mask; k++)
		for (struct name *e = l->entries[k], *next; e; e = next) {
			next = e->next;
			e->next = entries[e->hash & mask];
			entries[e->hash & mask] = e;
		}
	if (entries) {
		free(l->entries);
		l->entries = entries;
		l->entry_mask = mask;
	}
}

/* Return the link to the entry in its bucket, or the place to link it. */
struct name **pc_entry_at(struct pc_loop *l, u64 parent, const char *name, u64 hash)
{
	struct name **at = &l->entries[hash & l->entry_mask];
	while (*at && !((*at)->hash == hash && (*at)->parent == parent && !strcmp((*at)->text, name)))
		at = &(*at)->next;
	return at;
}

void pc_entry_drop(struct pc_loop *l, struct name **at)
{
	struct name *e = *at, **of = &e->node->names;
	while (*of != e)
		of = &(*of)->other;
	*of = e->other;
	*at = e->next;
	free(e);
	l->nr_entries--;
}

/* Add or replace an entry; without memory the name is not cached. */
void pc_entry_set(struct pc_loop *l, u64 parent, const char *name, struct node *node, i64 until_ns)
{
	u64 hash = pc_entry_hash(parent, name);
	struct name **at = pc_entry_at(l, parent, name, hash), *e = *at;
	if (e && e->node != node) {
		pc_entry_drop(l, at);
		e = NULL;
	}
	if (!e) {
		size_t n = strlen(name) + 1;
		if (!(e = malloc(sizeof(*e) + n)))
			return;
		resize_entries(l);
		at = &l->entries[hash & l->entry_mask];
		*e = (struct name){.next = *at, .other = node->names, .node = node, .parent = parent, .hash = hash};
		memcpy(e->text, name, n);
		*at = node->names = e;
		l->nr_entries++;
	}
	e->until_ns = until_ns;
}

/* ---------------------------------------------------------------- both; `names` held */

/* Remove a node that has no lookup count, no open file and no running change. */
void pc_node_settle(struct pc_loop *l, struct node *n)
{
	if (n->lookups)
		return;
	while (n->names)
		pc_entry_drop(l, pc_entry_at(l, n->names->parent, n->names->text, n->names->hash));
	if (n->opened || n->changing || n->number == ROOT_NUMBER)
		return;
	if (n->changed > l->forgotten_changed)
		l->forgotten_changed = n->changed;
	struct node **at = &l->nodes[mixed(n->number) & l->node_mask];
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	free(n);
	l->nr_nodes--;
	resize_nodes(l);
	resize_entries(l);
}

/* The root has no lookup count. */
int pc_names_init(struct pc_loop *l)
{
	l->nodes = calloc(HASH_MIN, sizeof(struct node *));
	l->entries = calloc(HASH_MIN, sizeof(struct name *));
	l->node_mask = l->entry_mask = HASH_MIN - 1;
	return l->nodes && l->entries && pc_node_make(l, ROOT_NUMBER) ? 0 : -ENOMEM;
}

void pc_names_free(struct pc_loop *l)
{
	for (u64 k = 0; l->entries && k <= l->entry_mask; k++)
		for (struct name *e = l->entries[k], *next; e; e = next) {
			next = e->next;
			free(e);
		}
	for (u64 k = 0; l->nodes && k <= l->node_mask; k++)
		for (struct node *n = l->nodes[k], *next; n; n = next) {
			next = n->next;
			free(n);
		}
	free(l->entries);
	free(l->nodes);
}

/* ---------------------------------------------------------------- invariants */

/**
 * pc_loop_check() - check the table of names: only counted nodes have attributes, entries lead to nodes with a lookup
 * count, counts are right. It cannot see Python's counts; pc_loop_counts() has the sum. Also check the slots (slots.c).
 *
 * Return: false: `text` describes the mistake.
 */
bool pc_loop_check(struct pc_loop *l, char *text, size_t size)
{
	u64 nodes = 0, entries = 0;
	pthread_mutex_lock(&l->lock);
	const char *wrong = pc_slots_check(l);
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_lock(&l->names);
	for (u64 k = 0; k <= l->node_mask; k++)
		for (struct node *n = l->nodes[k]; n; n = n->next) {
			nodes++;
			if (n->by_table > n->lookups)
				wrong = "the table counts more lookups than there are";
			if (!n->lookups && n->names)
				wrong = "a name of a node that the kernel has forgotten";
			if (!n->lookups && !n->opened && !n->changing && n->number != ROOT_NUMBER)
				wrong = "a node without lookups, opens or changes";
			for (struct name *e = n->names; e; e = e->other) {
				entries++;
				if (*pc_entry_at(l, e->parent, e->text, e->hash) != e || e->node != n)
					wrong = "a name that is not found, or leads elsewhere";
			}
		}
	if (nodes != l->nr_nodes || entries != l->nr_entries)
		wrong = "numbers of nodes and names";
	pthread_mutex_unlock(&l->names);
	if (wrong && size) {
		strncpy(text, wrong, size - 1);
		text[size - 1] = 0;
	}
	return !wrong;
}

void pc_names_count(struct pc_loop *l, struct pc_loop_counts *out)
{
	pthread_mutex_lock(&l->names);
	out->nodes = l->nr_nodes - 1; /* without the root */
	out->names = l->nr_entries;
	out->lookup_counts = 0;
	for (u64 k = 0; k <= l->node_mask; k++)
		for (struct node *n = l->nodes[k]; n; n = n->next)
			out->lookup_counts += n->lookups;
	pthread_mutex_unlock(&l->names);
}
