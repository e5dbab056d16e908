/*
 * staged.h - S: the byte ranges of one file that its spool has until a commit (staged.c).
 */
#ifndef PC_STAGED_H
#define PC_STAGED_H

#include "state/rangemap.h"

struct pc_inode;
struct pc_violation;

struct pc_staged {
	struct pc_rangemap map;
	u64 stamp;
};

/* (offset, length) pairs for a caller that has room for n; `used` is their number. */
struct pc_ranges {
	u64 *out;
	size_t n, used;
	u64 pos, end;
};

bool pc_staged_add(struct pc_inode *i, u64 pos, u64 end, u64 stamp);
bool pc_staged_cut(struct pc_inode *i, u64 pos, u64 end);
u64 pc_sent_end(struct pc_inode *i);
bool pc_staged_beside(struct pc_inode *i, u64 pos, u64 end, u64 stamp);
void pc_staged_end_commit(struct pc_inode *i, bool ok);
bool pc_staged_source(struct pc_inode *i, u64 pos, u64 end, u64 *stop);
bool pc_may_be_stored(const struct pc_inode *i, u64 pos, u64 end);
bool pc_staged_check(const struct pc_inode *i, struct pc_violation *out);

/* ranges_out.c */
void pc_ranges_add(struct pc_ranges *r, u64 pos, u64 end);
void pc_ranges_flush(struct pc_ranges *r);
void pc_ranges_staged(const struct pc_inode *i, struct pc_ranges *r, u64 *from, u64 upto, bool written);

#endif
