/*
 * violation.c - the report of a broken invariant: its name and a sentence.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/base.h"

bool pc_violated(struct pc_violation *out, const char *invariant, const char *format, ...)
{
	va_list args;
	snprintf(out->invariant, sizeof(out->invariant), "%s", invariant);
	va_start(args, format);
	vsnprintf(out->text, sizeof(out->text), format, args);
	va_end(args);
	return false;
}
