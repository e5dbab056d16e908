/*
 * waits.c - the register of waits: each sleeping caller, its condition and its start.
 *
 *   waiter    begin ─► record of the pool, numbered ─► sleeps, slice after slice ─► end ─► the record is free
 *   reader    goes over all ids that were ever allocated, and copies those with a number
 *
 * A caller writes a record before it sleeps and removes it afterwards, whatever ended the wait: begin and end stand in C around
 * the sleep, where no exception passes. A caller that need not sleep writes none, so a hit, and a miss that its
 * thread fills itself, cost nothing here. Records are memory of the cache and not of the waiter's stack: a daemon thread that
 * the interpreter kills in its sleep leaves a record behind, and no pointer into freed memory.
 *
 * There is no list, and no lock but the pool's (level 8), under which a record is written and copied as a whole. A wait that
 * begins or ends during a report is in it or not.
 *
 * The child of a fork has none of them: its threads are gone, and the pool's lock may have been held.
 */
#include <pthread.h>

#include "state/state.h"

u64 pc_thread_id(void)
{
	return (u64)pthread_self();
}

static struct pc_wait *record_at(const struct pc_cache *c, u32 id)
{
	return pc_pool_at(&c->waits, id);
}

/* This thread is about to sleep. Return: the record, to be ended by pc_wait_end; 0: there is no place for it, and the
 * wait is not reported. Context: any thread, no leaf lock. */
u32 pc_wait_begin(struct pc_cache *c, const struct pc_wait *w)
{
	u32 id = pc_is_forked(c) ? 0 : pc_pool_alloc(&c->waits);
	if (!id)
		return 0;
	struct pc_wait *record = record_at(c, id);
	pc_leaf_lock(&c->waits.lock, PC_LEVEL_FRAME);
	*record = *w;
	record->number = ++c->wait_number;
	pc_leaf_unlock(&c->waits.lock, PC_LEVEL_FRAME);
	return id;
}

/* It sleeps no more. 0: no record. */
void pc_wait_end(struct pc_cache *c, u32 id)
{
	if (!id || pc_is_forked(c))
		return;
	pc_leaf_lock(&c->waits.lock, PC_LEVEL_FRAME);
	record_at(c, id)->number = 0;
	pc_leaf_unlock(&c->waits.lock, PC_LEVEL_FRAME);
	pc_pool_free(&c->waits, id);
}

/* Ids below this may have a record. */
u32 pc_waits_bound(struct pc_cache *c)
{
	return pc_is_forked(c) ? 0 : atomic_load(&c->waits.fresh);
}

/* Return: the number of the record, and its content; 0: no wait is recorded there. */
u64 pc_wait_read(struct pc_cache *c, u32 id, struct pc_wait *out)
{
	pc_leaf_lock(&c->waits.lock, PC_LEVEL_FRAME);
	*out = *record_at(c, id);
	pc_leaf_unlock(&c->waits.lock, PC_LEVEL_FRAME);
	return out->number;
}
