/*
 * shadow.h - frames that are held by number, in their folio or out of it (shadow.c), and the exchange of a frame (frames.c).
 */
#ifndef PC_SHADOW_H
#define PC_SHADOW_H

#include "memory/memory.h"

struct pc_cache;
struct pc_folio;
struct pc_inode;

enum { PC_SHADOW_BUCKETS = 64 };

struct pc_shadow {
	u32 link; /* free link, or next in the hash chain */
	u32 frame;
	u32 holds;
	u32 folio; /* whose frame it still is; 0: the table owns it */
	u8 order;
};

bool pc_shadow_leave(struct pc_cache *c, struct pc_folio *f, u32 frame, u32 order, u32 holds);
void pc_frame_free(struct pc_cache *c, u32 frame, u32 order);
void pc_frame_hold(struct pc_cache *c, struct pc_folio *f, u32 frame);
bool pc_shadow_put(struct pc_cache *c, u32 frame);
bool pc_folio_replace_frame(struct pc_inode *i, struct pc_folio *f, bool copy, u32 extra_holds);
bool pc_folio_copy_on_conflict(struct pc_inode *i, struct pc_folio *f);
bool pc_free_to_change(struct pc_inode *i, struct pc_folio *f, u32 from, u32 to);
void pc_folio_cut_views(struct pc_inode *i, struct pc_folio *f, u32 frame);

#endif
