/* staging.h - one file with a spool, and the steps of the tests about it. */
#ifndef STAGING_H
#define STAGING_H

#include "rig.h"

enum { ROOM = 64 * PAGE };

/* A cache in which everything above `limit` pages of local data is staged from the first write-back that passes half
 * of it. */
static MAYBE void start_with(u64 size, u64 max_folio, u32 limit, struct pc_limits l)
{
	rig_open(&rig, 1 << 20, max_folio);
	pc_cache_configure(rig.cache, PAGE, (u64)limit * PAGE, max_folio, true);
	l.stages = 1;
	file = file_open_in(&rig, rig.volume, size, ROOM, l);
	store_stages(&file->store);
}

static MAYBE void start(u64 size)
{
	start_with(size, 4 * PAGE, 1, limits_wide()); /* everything */
}

static MAYBE u64 staged(void)
{
	return usage(file, NULL).staged;
}

static MAYBE void evict_all(void)
{
	pc_drop_clean(file->inode, 0, ALL);
}

#endif
