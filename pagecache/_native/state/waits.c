/*
 * waits.c - the register of waits: each sleeping caller, its condition and its start.
 *
 *   waiter    begin ─► record of the pool, numbered ─► sleeps, slice after slice ─► end ─► the record is free
 *   reader    goes over all ids that were ever allocated; a record whose number stands while it is copied is whole
 *
 * A caller writes a record before it sleeps and removes it afterwards, whatever ended the wait: begin and end stand in C around
 * the sleep, where no exception passes. A caller that need not sleep writes none, so a hit, and a miss that its
 * thread fills itself, cost nothing here. Records are memory of the cache and not of the waiter's stack: a daemon thread that
 * the interpreter kills in its sleep leaves a record behind, and no pointer into freed memory.
 *
 * There is no list and no lock but the pool's: writers publish a number last, readers compare it before and after they copy
 * (a seqlock whose numbers are never reused). So readers and waiters never stop each other; a wait that begins or ends during a
 * report is in it or not.
 *
 * The child of a fork has none of them: its threads are gone, and the pool's lock may have been held.
 */
#include <pthread.h>

#include "state/state.h"

u64 pc_thread_id(void)
{
	return (u64)pthread_self();
}

static struct pc_wait_record *record_at(const struct pc_cache *c, u32 id)
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
	struct pc_wait_record *r = record_at(c, id);
	u64 words[PC_WAIT_WORDS];
	memcpy(words, w, sizeof(words));
	/* A reader that still copies the previous record must not accept a mixture: it finds another number. */
	atomic_thread_fence(memory_order_release);
	for (int k = 0; k < PC_WAIT_WORDS; k++)
		atomic_store_explicit(&r->words[k], words[k], memory_order_relaxed);
	u64 number = atomic_fetch_add_explicit(&c->wait_number, 1, memory_order_relaxed) + 1;
	atomic_store_explicit(&r->number, number, memory_order_release);
	return id;
}

/* It sleeps no more. 0: no record. */
void pc_wait_end(struct pc_cache *c, u32 id)
{
	if (!id || pc_is_forked(c))
		return;
	atomic_store_explicit(&record_at(c, id)->number, 0, memory_order_relaxed);
	PC_SYNC("wait_ended_before_free");
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
	struct pc_wait_record *r = record_at(c, id);
	u64 words[PC_WAIT_WORDS], number = atomic_load_explicit(&r->number, memory_order_acquire);
	if (!number)
		return 0;
	for (int k = 0; k < PC_WAIT_WORDS; k++)
		words[k] = atomic_load_explicit(&r->words[k], memory_order_relaxed);
	PC_SYNC("wait_copied_before_check");
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&r->number, memory_order_relaxed) != number)
		return 0;
	memcpy(out, words, sizeof(*out));
	return number;
}

/* When the wait that has lasted longest began; 0: there is none. */
u64 pc_waits_oldest_ns(struct pc_cache *c)
{
	u64 oldest = 0;
	u32 bound = pc_waits_bound(c);
	struct pc_wait w;
	for (u32 id = 1; id < bound; id++)
		if (pc_wait_read(c, id, &w) && (!oldest || w.since_ns < oldest))
			oldest = w.since_ns;
	return oldest;
}
