/* planted.h - the switch of the planted bugs: included before every source with some, and in tests of such builds. */
#ifndef PLANTED_H
#define PLANTED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

/* The fix that is taken out, or NULL: one at a time, for a process that is expected to fail. */
__attribute__((weak, visibility("default"))) const char *_Atomic pc_fix_removed;

static inline bool PC_FIX(const char *fix)
{
	const char *removed = atomic_load_explicit(&pc_fix_removed, memory_order_relaxed);
	return !removed || strcmp(removed, fix) != 0;
}

#endif
