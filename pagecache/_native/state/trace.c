/*
 * trace.c - a fixed ring of the last state transitions, for the analysis of a failed check.
 *
 * One record is 40 bytes and costs one atomic add and five plain stores; readers may see a record half written, which is
 * good enough for a picture of the last moments. No lock.
 */
#include <stdio.h>

#include "state/state.h"

/* @what: a constant. */
void pc_trace_add(struct pc_cache *c, const char *what, u64 inode, u64 index, u64 value)
{
	u64 n = atomic_fetch_add_explicit(&c->trace_next, 1, memory_order_relaxed);
	struct pc_trace_record *r = &c->trace[n % PC_TRACE_RECORDS];
	atomic_store_explicit(&r->number, n, memory_order_relaxed);
	atomic_store_explicit(&r->what, what, memory_order_relaxed);
	atomic_store_explicit(&r->inode, inode, memory_order_relaxed);
	atomic_store_explicit(&r->index, index, memory_order_relaxed);
	atomic_store_explicit(&r->value, value, memory_order_relaxed);
}

/* The newest records, oldest first, as text. Return: bytes written without the final zero. */
size_t pc_trace_text(struct pc_cache *c, char *out, size_t size)
{
	enum { LINE = 80 };
	u64 end = atomic_load(&c->trace_next), n = pc_min(pc_min(end, PC_TRACE_RECORDS), size / LINE);
	size_t at = 0;
	if (size)
		out[0] = 0;
	for (u64 k = end - n; k < end; k++) {
		struct pc_trace_record *r = &c->trace[k % PC_TRACE_RECORDS];
		const char *what = atomic_load_explicit(&r->what, memory_order_relaxed);
		int len = snprintf(out + at, size - at, "%llu %s inode %llu page %llu: %llu\n",
				   (unsigned long long)atomic_load_explicit(&r->number, memory_order_relaxed),
				   what ? what : "?",
				   (unsigned long long)atomic_load_explicit(&r->inode, memory_order_relaxed),
				   (unsigned long long)atomic_load_explicit(&r->index, memory_order_relaxed),
				   (unsigned long long)atomic_load_explicit(&r->value, memory_order_relaxed));
		if (len < 0 || at + (size_t)len >= size)
			break;
		at += (size_t)len;
	}
	return at;
}
