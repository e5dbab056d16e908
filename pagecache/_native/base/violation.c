/*
 * violation.c - the report of a broken invariant: its name and a sentence.
 */
#include <stdio.h>

#include "base/base.h"

bool pc_violated_by(struct pc_violation *out, const char *invariant, const char *text, const u64 *numbers, size_t n)
{
	size_t at = 0, room = sizeof(out->text);
	snprintf(out->invariant, sizeof(out->invariant), "%s", invariant);
	for (const char *c = text; *c && at < room; c++) {
		if (*c != '%') {
			at += (size_t)snprintf(out->text + at, room - at, "%c", *c);
			continue;
		}
		PC_ASSERT(n--);
		bool hex = c[1] == 'x';
		at += (size_t)snprintf(out->text + at, room - at, hex ? "%llx" : "%llu",
				       (unsigned long long)*numbers++);
		c += hex;
	}
	return false;
}
