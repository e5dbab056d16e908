/*
 * io.h - interface of io/: requests and their backend calls, work of a volume, passes and commits.
 */
#ifndef PC_IO_H
#define PC_IO_H

#include "file/file.h"

enum { PC_REREADS = 3 }; /* of bytes that were invalidated while they were read */

/* request.c */
struct pc_request *pc_request_new(struct pc_inode *i, int kind);
void pc_request_delete(struct pc_request *r);
bool pc_seg_reserve(struct pc_request *r, u32 more);
const u8 *pc_seg_memory(const struct pc_cache *c, const struct pc_seg *g);

/* work.c */
struct pc_work {
	int kind;
	u32 cls;
	struct pc_request *request;
	struct pc_inode *inode;
	u32 credit; /* era */
};
enum { PC_WORK_NONE, PC_WORK_STOP, PC_WORK_REQUEST, PC_WORK_PASS, PC_WORK_COMMITTING, PC_WORK_JOB };

struct pc_request *pc_work_take_owner(struct pc_inode *i, u32 id);
bool pc_work_has_room(struct pc_volume *v);
void pc_work_push_pass(struct pc_inode *i);
void pc_work_raise_pass(struct pc_inode *i);
void pc_work_push_commit(struct pc_inode *i);
void pc_pass_again(struct pc_inode *i);
void pc_work_next(struct pc_volume *v, struct pc_work *w);
void pc_work_end(struct pc_volume *v, const struct pc_work *w);
void pc_work_resume(struct pc_volume *v);
struct pc_inode *pc_work_own_begin(struct pc_inode *i);
void pc_work_own_end(struct pc_inode *i, struct pc_inode *outer);
bool pc_work_next_own(struct pc_inode *i, struct pc_work *w);

/* credit.c */
u32 pc_credit_try(struct pc_volume *v);
void pc_credit_put(struct pc_volume *v, u32 credit);
void pc_credit_pass(struct pc_volume *v);
u32 pc_call_begins(struct pc_volume *v);
void pc_call_ends(struct pc_volume *v, u32 era);

/* token.c */
bool pc_token_take(struct pc_inode *i, struct pc_waiter *w, int kind);
void pc_commit_resume(struct pc_inode *i);
void pc_token_release_locked(struct pc_inode *i);
void pc_token_release(struct pc_inode *i);

/* Where a call that begins at @pos ends at the latest. Read once: limits may change. */
static inline u64 pc_boundary_after(const struct pc_limits *l, u64 pos)
{
	u64 boundary = __atomic_load_n(&l->boundary, __ATOMIC_RELAXED);
	return boundary ? (pos / boundary + 1) * boundary : UINT64_MAX;
}

/* fill_begin.c */
struct pc_request *pc_fill_window(struct pc_inode *i, u64 index, u64 end, bool marked, u64 *stop);

/* readahead.c */
u64 pc_request_size(const struct pc_inode *i, u64 len);

/* fill.c */
int pc_fill_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts);
void pc_fill_settle(struct pc_request *r);
u32 pc_fill_quarantine(struct pc_request *r, u32 *frames);
u8 *pc_sink_leave(struct pc_request *r);

/* snapshot.c */
void pc_seg_snapshot(struct pc_inode *i, struct pc_request *r, u32 s);
bool pc_snapshot_make(struct pc_request *r);
void pc_snapshot_end(struct pc_request *r);

/* writeback.c: passes, the next request to write */
void pc_pass_begin(struct pc_inode *i);
void pc_pass_turn(struct pc_inode *i);

/* request_build.c */
u64 pc_flight_share(const struct pc_inode *i);
bool pc_request_build(struct pc_inode *i, enum pc_mark mark);
bool pc_seg_add(struct pc_request *r, struct pc_folio *f, u32 from, u32 to);
bool pc_pass_claim(struct pc_inode *i, struct pc_folio *f, bool *locked, bool *busy);
int pc_write_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts);
u32 pc_call_hold(struct pc_request *r, u32 *frames);

/* units.c, gather.c: write_unit > 1 */
bool pc_units_build(struct pc_inode *i, enum pc_mark mark);
int pc_gather_call(struct pc_request *r, struct pc_part *parts, size_t *nr_parts);
void pc_unit_collect(struct pc_request *r);
u64 pc_gather_pos(const struct pc_request *r);
int pc_gather_answer(struct pc_request *r, int64_t n);
u8 *pc_scratch_leave(struct pc_request *r);

/* commit.c */
void pc_settle_wanted(struct pc_inode *i);

#endif
