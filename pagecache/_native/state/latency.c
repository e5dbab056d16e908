/*
 * latency.c - how long the backend's calls take.
 *
 *   µs     0   1   2   4   8   ...  2^26  2^27
 *   count  |_0_|_1_|_2_|_3_|   ...   |_27_|_28_ ...        count k: up to and with 2^k µs
 *
 * Two relaxed additions a call. The caller reads the clock before and after a call and reports here: spans.c for what
 * carries bytes, the engine for commits.
 *
 * Context: any thread, no lock.
 */
#include <time.h>

#include "state/state.h"

int64_t pc_clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (i64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static u32 bucket_of(u64 ns)
{
	u64 us = (ns + 999) / 1000;
	u32 k = us <= 1 ? 0 : 64 - (u32)__builtin_clzll(us - 1);
	return k < PC_LATENCY_BOUNDS ? k : PC_LATENCY_BOUNDS;
}

/* A call of the backend has ended, well or not, after `ns`. */
void pc_latency_add(struct pc_volume *v, uint32_t call, uint64_t ns)
{
	PC_ASSERT(call < PC_TIMED);
	struct pc_latency *l = &v->latency[call];
	atomic_fetch_add_explicit(&l->counts[bucket_of(ns)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->sum_ns, ns, memory_order_relaxed);
}

/* PC_LATENCY_BOUNDS + 1 counts. Return: the sum of all durations, nanoseconds. */
uint64_t pc_latency_get(struct pc_volume *v, uint32_t call, uint64_t *counts)
{
	PC_ASSERT(call < PC_TIMED);
	struct pc_latency *l = &v->latency[call];
	for (u32 k = 0; k <= PC_LATENCY_BOUNDS; k++)
		counts[k] = atomic_load_explicit(&l->counts[k], memory_order_relaxed);
	return atomic_load_explicit(&l->sum_ns, memory_order_relaxed);
}
