/*
 * latency.h - how long the backend's calls take: a histogram per volume and kind of call (latency.c).
 */
#ifndef PC_LATENCY_H
#define PC_LATENCY_H

#include "base/base.h"

/* counts[k]: at most 2^k µs and more than half of that; the last count: more than any bound. */
/* Without a lock: each number is right by itself. */
struct pc_latency {
	_Atomic u64 counts[PC_LATENCY_BOUNDS + 1];
	_Atomic u64 sum_ns;
};

#endif
