/*
 * pass.h - the state of a write-back pass over one inode (io/writeback.c).
 */
#ifndef PC_PASS_H
#define PC_PASS_H

#include "base/base.h"

struct pc_pass {
	u64 cursor;         /* next page index to look at */
	i64 budget;         /* bytes a background pass may still take */
	u64 generation;     /* volume generation at its start: after an abort it only waits for its answers */
	u64 short_unit;     /* write_unit > 1: one more than the start of the last unit that was short */
	struct pc_list ready; /* requests built and not yet taken */
	u32 inflight;       /* requests taken and not yet completed */
	u32 nr_issued;
	u8 active, integrity, background, queued, wrapped;
	u8 partial; /* background on commit_on_close: write units that are not wholly dirty too */
};

#endif
