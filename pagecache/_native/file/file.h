/*
 * file.h - interface of file/ for io/ and types/ beyond pagecache.h: reads, views and folios of one file. No backend
 * calls.
 */
#ifndef PC_FILE_H
#define PC_FILE_H

#include "state/state.h"

/* read.c */
u64 pc_first_missing(struct pc_inode *i, u64 pos, u64 end);

/* write.c */
bool pc_write_try(struct pc_inode *i, u64 pos, const void *from, u64 len, bool reserve, const u8 *closed);

/* invalidate.c */
int pc_invalidate_folios(struct pc_inode *i, u64 pos, u64 end);

/* truncate.c */
struct pc_folio *pc_next_claimed(struct pc_inode *i, u64 *index, u64 end, bool *locked);
void pc_section_end(struct pc_inode *i);
int pc_inode_end(struct pc_inode *i);

/* views.c */
enum pc_views_hit { PC_VIEWS_MISSED, PC_VIEWS_PART, PC_VIEWS_WHOLE };
enum pc_views_hit pc_views_hit(const struct pc_inode *i, const struct pc_folio *f, u64 pos, u64 end);
void pc_views_end_at(struct pc_inode *i, struct pc_folio *f, u64 size);

/* Whether a read goes on where the last one of its handle ended. */
static inline bool pc_goes_on(const struct pc_readahead *ra, u64 pos)
{
	return pos == __atomic_load_n(&ra->prev_end, __ATOMIC_RELAXED);
}

#endif
