/*
 * rangemap.h - a set of byte ranges of one file (rangemap.c).
 */
#ifndef PC_RANGEMAP_H
#define PC_RANGEMAP_H

#include "base/base.h"

struct pc_cache;
struct pc_violation;
struct pc_range_chunk;

struct pc_range {
	u64 pos, end;
};

struct pc_rangemap {
	struct pc_range_chunk **chunks;
	u32 nr_chunks, cap_chunks, nr_ranges;
	_Atomic u64 bytes;
};

/* Context: any; without the leaf lock the answer may be old. */
static inline u64 pc_map_bytes(const struct pc_rangemap *m)
{
	return atomic_load_explicit(&((struct pc_rangemap *)m)->bytes, memory_order_acquire);
}

bool pc_map_add(struct pc_cache *cache, struct pc_rangemap *m, u64 pos, u64 end, u32 max);
bool pc_map_cut(struct pc_cache *cache, struct pc_rangemap *m, u64 pos, u64 end);
void pc_map_clear(struct pc_cache *cache, struct pc_rangemap *m);
void pc_map_move(struct pc_rangemap *to, struct pc_rangemap *from);
bool pc_map_at(const struct pc_rangemap *m, u64 pos, u64 end, u64 *stop);
bool pc_map_next(const struct pc_rangemap *m, u64 pos, struct pc_range *out);
u64 pc_map_end(const struct pc_rangemap *m);
bool pc_map_check(const struct pc_rangemap *m, u64 id, struct pc_violation *out);

#endif
