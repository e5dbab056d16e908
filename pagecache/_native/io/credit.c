/*
 * credit.c - credits of a volume: one for each call that carries bytes, `max_inflight` of them; and the other calls.
 *
 *   word   era << 32 | credits taken         a reconnect begins a new era; returned credits of an older era are dropped
 *   word   era << 32 | other calls
 *
 * Context: any thread, no lock.
 */
#include "io/io.h"

/* Take one from a word, unless its era is over. */
static void drop(_Atomic u64 *word, u32 era)
{
	u64 seen = atomic_load_explicit(word, memory_order_relaxed);
	while ((u32)(seen >> 32) == era && !atomic_compare_exchange_weak(word, &seen, seen - 1))
		;
}

/* Take a credit. Threads that run their own fill take one too. Return: its era; 0: none free. */
u32 pc_credit_try(struct pc_volume *v)
{
	u64 word = atomic_load_explicit(&v->credits, memory_order_relaxed);
	while ((u32)word < v->max_inflight)
		if (atomic_compare_exchange_weak(&v->credits, &word, word + 1))
			return (u32)(word >> 32);
	return 0;
}

/* Return a credit: it wakes one caller that waits for one, and a thread of the volume if work is queued. A waiter that
 * leaves without looking passes its wake-up on (pc_credit_pass). Context: no leaf lock of level 7. */
void pc_credit_put(struct pc_volume *v, u32 credit)
{
	drop(&v->credits, credit);
	pc_credit_pass(v);
	pc_work_resume(v);
}

/* Count a call that carries no bytes. Return: its era. */
u32 pc_call_begins(struct pc_volume *v)
{
	return (u32)(atomic_fetch_add(&v->calling, 1) >> 32);
}

void pc_call_ends(struct pc_volume *v, u32 era)
{
	drop(&v->calling, era);
}

void pc_credit_pass(struct pc_volume *v)
{
	pc_event_wake_one(&v->returned); /* always: a waiter reads the sequence before it is counted */
}
