/*
 * written.h - the bytes of local blocks that this program has written since the last commit (written.c).
 */
#ifndef PC_WRITTEN_H
#define PC_WRITTEN_H

#include "state/folio.h"
#include "state/rangemap.h"
#include "state/ranges.h"

struct pc_inode;

void pc_written_add(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_written_nothing(struct pc_inode *i, struct pc_folio *f, u32 block);
void pc_written_zeroed(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_written_hole(struct pc_inode *i, u64 pos, u64 end);
void pc_written_sent(struct pc_inode *i, struct pc_folio *f);
void pc_written_back(struct pc_inode *i, struct pc_folio *f, enum pc_set set, u32 b0, u32 b1);
void pc_written_saved(struct pc_inode *i, const struct pc_folio *f, u32 b0, u32 b1);
void pc_written_forget(struct pc_inode *i, struct pc_folio *f, u32 b0, u32 b1);
bool pc_written_next(const struct pc_inode *i, const struct pc_folio *f, bool written, u64 at, u64 end, u64 *pos,
		     u64 *stop);
bool pc_sent_next(const struct pc_inode *i, u64 at, u64 end, u64 *pos, u64 *stop);
void pc_written_end_commit(struct pc_inode *i, bool ok);
void pc_written_clear(struct pc_inode *i);
bool pc_written_check_block(const struct pc_inode *i, const struct pc_folio *f, u32 b, struct pc_violation *out);

#endif
