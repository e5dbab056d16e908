/*
 * reclaim.h - the reclaim queues, and allocation of frames with eviction (reclaim.c).
 */
#ifndef PC_RECLAIM_H
#define PC_RECLAIM_H

#include "base/base.h"

struct pc_cache;
struct pc_folio;
struct pc_inode;

enum { PC_PUSHES = 64 };

struct pc_fifo {
	u32 head, tail; /* folio ids; evicted from the head */
	u64 pages;
	u64 pushed; /* pages put at the tail so far */
	struct pc_push {
		u64 pushed, inserted; /* of the queue, of the cache */
	} pushes[PC_PUSHES]; /* a ring, at most a mark for each 32nd of the cache */
	u32 nr_pushes;
};

void pc_reclaim_insert(struct pc_cache *c, struct pc_folio *f, bool sticky);
void pc_reclaim_remove(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_clean(struct pc_cache *c, struct pc_folio *f);
void pc_reclaim_soon(struct pc_inode *i, u64 pos, u64 end);
u32 pc_reclaim(struct pc_cache *c, u32 order);
u32 pc_frame_get(struct pc_cache *c, u32 *order, u32 min_order);

#endif
