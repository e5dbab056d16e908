/* dirtied.h - one file over a store that takes all bytes, and the steps of the tests about requests and passes. */
#ifndef DIRTIED_H
#define DIRTIED_H

#include "rig.h"

enum { ROOM = 4 << 20 };

static MAYBE u8 want[ROOM];

static MAYBE void start(u64 max_folio, struct pc_limits l)
{
	open_one(16 << 20, max_folio, 0, ROOM, l);
	for (u32 k = 0; k < ROOM; k++)
		want[k] = (u8)(k % 251 + k / 4096);
}

static MAYBE void dirty(u64 pos, u64 len)
{
	EQUAL(file_write(file, pos, want + pos, len), 0);
}

#endif
