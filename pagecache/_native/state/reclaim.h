/*
 * reclaim.h - the reclaim queues, and allocation of frames with eviction (reclaim.c).
 */
#ifndef PC_RECLAIM_H
#define PC_RECLAIM_H

#include "base/base.h"

struct pc_cache;
struct pc_folio;
struct pc_inode;

struct pc_fifo {
	u32 head, tail; /* folio ids; evicted from the head */
	u64 pages;
};

void pc_reclaim_insert(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_remove(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_clean(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_soon(struct pc_inode *i, u64 pos, u64 end);
u32 pc_reclaim(struct pc_cache *c, u32 order);
u32 pc_frame_get(struct pc_cache *c, u32 *order, u32 min_order);

#endif
