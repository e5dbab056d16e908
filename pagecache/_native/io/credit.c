/*
 * credit.c - credits of a volume: one for each call that carries bytes, `max_inflight` of them.
 *
 *   word   era << 32 | credits taken         a reconnect begins a new era; returned credits of an older era are dropped
 *
 * Context: any thread, no lock.
 */
#include "io/io.h"

/* Take a credit. Threads that run their own fill take one too. Return: its era; 0: none free. */
u32 pc_credit_try(struct pc_volume *v)
{
	u64 word = atomic_load_explicit(&v->credits, memory_order_relaxed);
	while ((u32)word < v->max_inflight)
		if (atomic_compare_exchange_weak(&v->credits, &word, word + 1))
			return (u32)(word >> 32);
	return 0;
}

void pc_credit_put(struct pc_volume *v, u32 credit)
{
	u64 word = atomic_load_explicit(&v->credits, memory_order_relaxed);
	while ((u32)(word >> 32) == credit && !atomic_compare_exchange_weak(&v->credits, &word, word - 1))
		;
	/* Always: a waiter reads the sequence before it is counted. */
	pc_event_wake(&v->event);
	pc_event_wake_one(&v->workers);
}
