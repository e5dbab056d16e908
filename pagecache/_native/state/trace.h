/*
 * trace.h - the ring of the last transitions (trace.c).
 */
#ifndef PC_TRACE_H
#define PC_TRACE_H

#include "base/base.h"

struct pc_cache;
struct pc_trace;

struct pc_trace *pc_trace_create(void);
void pc_trace_destroy(struct pc_trace *t);
void pc_trace_add(struct pc_cache *c, int kind, u64 inode, u64 index, u64 value);

#endif
