/*
 * writeback.h - passes: what is written next (writeback.c), as which requests (request_build.c; units.c, gather.c).
 */
#ifndef PC_WRITEBACK_H
#define PC_WRITEBACK_H

#include "state/index.h"
#include "base/list.h"
#include "io/request.h"

struct pc_folio;

struct pc_pass {
	u64 cursor;         /* next page index to look at */
	i64 budget;         /* bytes a background pass may still take */
	u64 generation;     /* volume generation at its start: after an abort it only waits for its answers */
	u64 short_unit;     /* write_unit > 1: one more than the start of the last unit that was short */
	struct pc_list ready; /* requests built and not yet taken */
	u32 inflight;       /* requests taken and not yet completed */
	u32 nr_issued;
	u8 active, integrity, background, queued, wrapped;
	u8 partial; /* background on commit_on_close: write units that are not wholly dirty too */
};

/* writeback.c */
void pc_pass_turn(struct pc_inode *i);

/* request_build.c */
bool pc_request_build(struct pc_inode *i, enum pc_mark mark);
bool pc_pass_claim(struct pc_inode *i, struct pc_folio *f, bool *locked, bool *busy);
bool pc_seg_reserve(struct pc_request *r, u32 more);
int pc_write_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts);
u32 pc_call_hold(struct pc_request *r, u32 *frames);

/* mirror.c */
struct pc_request *pc_mirror_take(struct pc_request *r, struct pc_request *last);
void pc_mirror_leave(struct pc_inode *i, struct pc_folio *f);
void pc_mirror_end(struct pc_request *r);

/* units.c, gather.c: write_unit > 1 */
bool pc_units_build(struct pc_inode *i, enum pc_mark mark);
int pc_unit_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts, u64 *pos);
int64_t pc_unit_acked(const struct pc_request *r, int64_t n);
void pc_unit_collect(struct pc_request *r);
bool pc_unit_grow(struct pc_inode *i, u64 pos);
int pc_gather_answer(struct pc_request *r, int64_t n);
u8 *pc_scratch_leave(struct pc_request *r);

#endif
