/*
 * planted.h - included before every source with planted bugs, and in tests of such builds. A bug is a fix taken out.
 */
#ifndef PLANTED_H
#define PLANTED_H

#include <stdbool.h>

#define PC_FIX(fix) pc_fix_present(fix)

/* Return: whether the fix is in. All are, except the one that a test has taken out. */
bool pc_fix_present(const char *fix);

/* One at a time, for a process that is expected to fail; NULL: all are in again. @fix stays valid as long as it is out. */
void pc_fix_remove(const char *fix) __attribute__((visibility("default")));

#endif
