/*
 * list.h - doubly linked rings whose links lie in the members. The owner of the head defines its lock.
 */
#ifndef PC_LIST_H
#define PC_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct pc_list {
	struct pc_list *next, *prev;
};

static inline void pc_list_init(struct pc_list *l)
{
	l->next = l->prev = l;
}
static inline bool pc_list_empty(const struct pc_list *l)
{
	return l->next == l;
}
static inline void pc_list_add_tail(struct pc_list *head, struct pc_list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}
static inline void pc_list_del(struct pc_list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	pc_list_init(l);
}

/* A list of which each turn takes a few members: the next turn begins at `next`. */
struct pc_ring {
	struct pc_list list, *next;
};

static inline void pc_ring_init(struct pc_ring *r)
{
	pc_list_init(&r->list);
	r->next = &r->list;
}
static inline void pc_ring_del(struct pc_ring *r, struct pc_list *l)
{
	if (r->next == l)
		r->next = l->next;
	pc_list_del(l);
}
/* The member after this one in the circle; after none (NULL) the one whose turn it is. NULL: there are none. */
static inline struct pc_list *pc_ring_after(struct pc_ring *r, struct pc_list *l)
{
	l = l ? l->next : r->next;
	l = l == &r->list ? l->next : l;
	return l == &r->list ? NULL : l;
}
#define PC_ENTRY(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#endif
