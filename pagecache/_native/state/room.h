/*
 * room.h - dirty budget of a volume: its share, its writers in line (room.c).
 */
#ifndef PC_ROOM_H
#define PC_ROOM_H

#include "base/base.h"

struct pc_inode;

/* Numbers of blocks. Fields that are no atomics are under the cache's room lock. */
struct pc_room {
	_Atomic u64 limit;      /* the volume's share of the cache's */
	_Atomic u64 background; /* above it the flusher works */
	_Atomic u64 free; /* up to here a write needs no grant: the midpoint, or 0 while a writer stands in line */
	u64 midpoint;
	u64 floor; /* it may always have so much, whatever other volumes hold */
	struct pc_list line; /* writers that wait at the limit, in order */
	_Atomic u32 throttled; /* writers that the engine slows down */
	_Atomic u64 reserved; /* promised to writers and not dirty yet */
	_Atomic i64 grant; /* may be dirtied above the midpoint before a writer has to pause again */
};

/* What a writer owns while it asks: of the C entry, which closes it whatever happened. In its operation, and on its stack only
 * where it will not stand in line: others write to the links of places in line. */
struct pc_place {
	struct pc_list link; /* in its volume's line; to itself: not in it */
	u64 want; /* blocks */
	u64 reserved; /* blocks: 0, or want */
	u64 thread; /* that waits; 0: not known */
};

void pc_room_init(struct pc_room *m);
void pc_room_counted(struct pc_inode *i, i64 delta, u64 all, u64 own);

#endif
