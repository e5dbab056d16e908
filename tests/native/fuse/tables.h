/*
 * tables.h - the invariants of the loop's tables (slots.c, attributes.c).
 */
#ifndef TABLES_H
#define TABLES_H

#include "kernel.h"

#include "state.h"

static u64 length_of(const struct slot *s, enum slot_state state, const char **wrong)
{
	u64 n = 0;
	for (; s; s = s->next, n++)
		if (s->state != state)
			*wrong = "a slot in a list of another state";
	return n;
}

/* Check slots, lists and turns. Return: NULL; else a description of the mistake. */
static const char *pc_slots_check(struct pc_loop *l)
{
	const char *wrong = NULL;
	u64 in_state[SLOT_STATES] = {0}, turns = 0, saving = 0;
	for (u32 k = 0; k < l->nr_slots; k++) {
		const struct slot *s = l->slots[k];
		in_state[s->state]++;
		turns += s->turn;
		saving += s->state != SLOT_FREE && saves(s);
		if (s->state == SLOT_FREE && (s->req || s->request.memory || s->turn))
			wrong = "a free slot with a request";
	}
	if (l->busy != l->nr_slots - in_state[SLOT_FREE] || l->saving != saving)
		wrong = "number of busy slots";
	if (length_of(l->first, SLOT_QUEUED, &wrong) != in_state[SLOT_QUEUED] ||
	    length_of(l->free, SLOT_FREE, &wrong) != in_state[SLOT_FREE])
		wrong = "lengths of the lists of slots";
	for (const struct slot *t = l->turns; t; t = t->next_turn, turns--)
		if (!t->turn || t->state < SLOT_QUEUED)
			wrong = "a turn of a slot without one";
	if (turns)
		wrong = "number of turns";
	return wrong;
}

/* Return a mistake in the table, or NULL. */
static const char *pc_nodes_check(struct pc_loop *l)
{
	u64 count = 0;
	const char *wrong = NULL;
	pthread_mutex_lock(&l->nodes_lock);
	for (u64 k = 0; k < PC_NODES; k++)
		for (struct node *n = l->nodes[k]; n; n = n->next) {
			count++;
			if (!n->opened && !n->changing)
				wrong = "a node without open files and changes";
		}
	if (count != l->nr_nodes)
		wrong = "the number of nodes";
	pthread_mutex_unlock(&l->nodes_lock);
	return wrong;
}

/* Check the tables of the loop. */
static void check_loop(struct pc_loop *l)
{
	pthread_mutex_lock(&l->lock);
	const char *wrong = pc_slots_check(l);
	pthread_mutex_unlock(&l->lock);
	wrong = wrong ? wrong : pc_nodes_check(l);
	if (wrong)
		check_failed(__FILE__, __LINE__, wrong, 0, 0);
}

#endif
