/*
 * fill.h - fills: what is missing becomes requests (fill_begin.c) that read it (fill.c).
 */
#ifndef PC_FILL_H
#define PC_FILL_H

#include "io/request.h"

/* fill_begin.c */
struct pc_request *pc_fill_window(struct pc_inode *i, u64 index, u64 end, u64 max_bytes, u64 *stop);

/* fill.c */
int pc_fill_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts);
void pc_fill_settle(struct pc_request *r);
u32 pc_kept_max(const struct pc_request *r);
u32 pc_fill_quarantine(struct pc_request *r, u32 *frames);
u8 *pc_sink_leave(struct pc_request *r);

/* read.c */
u64 pc_first_missing(struct pc_inode *i, u64 pos, u64 end);

#endif
