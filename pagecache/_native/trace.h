/*
 * trace.h - the ring of the last transitions (trace.c).
 */
#ifndef PC_TRACE_H
#define PC_TRACE_H

#include "base.h"

struct pc_cache;
struct pc_trace;

enum pc_trace_kind {
	PC_T_INSERT = 1,
	PC_T_REMOVE,
	PC_T_DIRTY,
	PC_T_HANDOVER,
	PC_T_ACK,
	PC_T_AGAIN,
	PC_T_COMMIT,
	PC_T_UNCOMMIT,
	PC_T_FILL,
	PC_T_EVICT,
	PC_T_COW,
	PC_T_TRUNCATE,
	PC_T_PASS,
	PC_T_PASS_END,
	PC_T_ABORT,
	PC_T_QUARANTINE
};

struct pc_trace *pc_trace_create(void);
void pc_trace_destroy(struct pc_trace *t);
void pc_trace_add(struct pc_cache *c, int kind, u64 inode, u64 index, u64 value);

#endif
