/*
 * trace.c - a fixed ring of the last state transitions, for the analysis of a failed check.
 *
 * One record is 32 bytes and costs one atomic add and four plain stores; readers may see a record half written, which is
 * good enough for a picture of the last moments. No lock.
 */
#include <stdio.h>
#include <stdlib.h>

#include "state/state.h"

enum { PC_TRACE_RECORDS = 4096 };

struct pc_trace_record {
	_Atomic u64 seq_kind; /* sequence << 8 | kind */
	_Atomic u64 inode, index, value;
};

struct pc_trace {
	_Atomic u64 next;
	struct pc_trace_record records[PC_TRACE_RECORDS];
};

static const char *const names[] = {
	[PC_T_INSERT] = "insert",
	[PC_T_REMOVE] = "remove",
	[PC_T_DIRTY] = "dirty",
	[PC_T_HANDOVER] = "hand-over",
	[PC_T_ACK] = "acknowledged",
	[PC_T_AGAIN] = "again",
	[PC_T_COMMIT] = "committed",
	[PC_T_UNCOMMIT] = "commit failed",
	[PC_T_FILL] = "filled",
	[PC_T_EVICT] = "evicted",
	[PC_T_COW] = "copied on conflict",
	[PC_T_TRUNCATE] = "truncate",
	[PC_T_PASS] = "pass",
	[PC_T_PASS_END] = "pass ends",
	[PC_T_ABORT] = "abort",
	[PC_T_QUARANTINE] = "quarantined",
};

struct pc_trace *pc_trace_create(void)
{
	return calloc(1, sizeof(struct pc_trace));
}

void pc_trace_destroy(struct pc_trace *t)
{
	free(t);
}

void pc_trace_add(struct pc_cache *c, int kind, u64 inode, u64 index, u64 value)
{
	u64 n = atomic_fetch_add_explicit(&c->trace->next, 1, memory_order_relaxed);
	struct pc_trace_record *r = &c->trace->records[n % PC_TRACE_RECORDS];
	atomic_store_explicit(&r->seq_kind, n << 8 | (u64)kind, memory_order_relaxed);
	atomic_store_explicit(&r->inode, inode, memory_order_relaxed);
	atomic_store_explicit(&r->index, index, memory_order_relaxed);
	atomic_store_explicit(&r->value, value, memory_order_relaxed);
}

/* The newest records, oldest first, as text. Return: bytes written without the final zero. */
size_t pc_trace_text(struct pc_cache *c, char *out, size_t size)
{
	enum { LINE = 80 };
	u64 end = atomic_load(&c->trace->next);
	u64 n = pc_min(pc_min(end, PC_TRACE_RECORDS), size / LINE);
	size_t at = 0;
	if (size)
		out[0] = 0;
	for (u64 k = end - n; k < end; k++) {
		struct pc_trace_record *r = &c->trace->records[k % PC_TRACE_RECORDS];
		u64 sk = atomic_load_explicit(&r->seq_kind, memory_order_relaxed);
		int len = snprintf(
			out + at, size - at, "%llu %s inode %llu page %llu: %llu\n", (unsigned long long)(sk >> 8),
			(sk & 255) < sizeof(names) / sizeof(*names) && names[sk & 255] ? names[sk & 255] : "?",
			(unsigned long long)atomic_load_explicit(&r->inode, memory_order_relaxed),
			(unsigned long long)atomic_load_explicit(&r->index, memory_order_relaxed),
			(unsigned long long)atomic_load_explicit(&r->value, memory_order_relaxed));
		if (len < 0 || at + (size_t)len >= size)
			break;
		at += (size_t)len;
	}
	return at;
}
