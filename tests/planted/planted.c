/* planted.c - the switch of the planted bugs. */
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "planted.h"

static const char *_Atomic fix_removed;

bool pc_fix_present(const char *fix)
{
	const char *removed = atomic_load_explicit(&fix_removed, memory_order_relaxed);
	return !removed || strcmp(removed, fix) != 0;
}

void pc_fix_remove(const char *fix)
{
	atomic_store(&fix_removed, fix);
}
