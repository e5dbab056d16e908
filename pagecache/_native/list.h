/*
 * list.h - doubly linked rings whose links lie in the members. Who owns the head says which lock guards it.
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
#define PC_ENTRY(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#endif
