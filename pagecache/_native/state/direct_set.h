/*
 * direct_set.h - the byte ranges of direct writes that a commit has yet to cover (direct_set.c).
 */
#ifndef PC_DIRECT_SET_H
#define PC_DIRECT_SET_H

#include "base/base.h"

struct pc_inode;

enum { PC_DIRECT_RANGES = 16 };

struct pc_direct_range {
	u64 pos, end;
	u64 reported; /* its loss was reported already */
};

/* Ascending, disjoint. If there are too many, those with the smallest gap become one: outward rounding. */
struct pc_direct_set {
	struct pc_direct_range r[PC_DIRECT_RANGES];
	u32 n;
};

/* Made with a file's first direct write. Under the leaf lock. */
struct pc_direct {
	struct pc_direct_set now;   /* returned since the last commit */
	struct pc_direct_set moved; /* in the hands of the commit that runs */
};

void pc_direct_add(struct pc_inode *i, u64 pos, u64 end);
void pc_direct_move(struct pc_inode *i);
void pc_direct_committed(struct pc_inode *i, bool ok, bool kept);
void pc_direct_cut(struct pc_inode *i, u64 pos, u64 end);
void pc_direct_free(struct pc_inode *i);

#endif
