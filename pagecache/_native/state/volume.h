/*
 * volume.h - a volume: the work queues, credits and dirty list of one backend (cache.c, census.c, io/work.c).
 */
#ifndef PC_VOLUME_H
#define PC_VOLUME_H

#include "state/lock.h"
#include "state/room.h"

struct pc_inode;
struct pc_request;

/* Sums over all inodes of a volume, updated with each change of an inode. Each number is right by itself; all agree while nothing
 * goes on (check.c). */
struct pc_sums {
	_Atomic u64 folios, pages, dirty, writeback, unstable, failed, pinned,
		write_pinned; /* blocks, but for folios */
	_Atomic u64 staged, size, remote_size; /* bytes */
	_Atomic u64 aside; /* bytes, local or staged, of inodes aside */
};

enum { PC_HIT_LINES = 8 };
struct pc_hit_line {
	_Alignas(64) _Atomic u64 n;
};

/* Durations of the backend's calls (latency.c). */
/* counts[k]: at most 2^k µs and more than half of that; the last count: more than any bound. */
struct pc_latency {
	_Atomic u64 counts[PC_LATENCY_BOUNDS + 1];
	_Atomic u64 sum_ns;
};

/* The line to the store, as the reads of the volume measure it (pace.c). */
struct pc_pace {
	u64 delivered, flying;       /* bytes so far, and of calls that run */
	u64 running;                 /* these calls */
	u64 calls, crowded;          /* numbers: of the last call, and of the last one that began beside another */
	u64 span_ns, span_delivered; /* when this span began, and the bytes then */
	u64 longest_ns;              /* of the calls that ended in it */
	bool idle;                   /* in this span less was in flight than the line needs */
	u64 drains_ns,
		shortest_ns; /* since when nothing is sent until a call has measured the duration, 0: it is not; shortest since */
	u64 rates[2]; /* bytes per second: of the last two spans that count */
	u64 grown; /* the rate when it last grew by a quarter */
	u32 flat; /* spans since */
	u64 call_ns, call_len; /* of a call without a queue: duration, 0: none measured; bytes */
	u64 least_ns, least_len; /* of the shortest call: duration, bytes */
	u64 each; /* bytes per second of one call beyond that, the most; 0: none measured */
	u64 drained_ns, ended_ns; /* when that was measured; when the last call ended */
	_Atomic u64 window, request; /* bytes: in flight, of one request; 0: nothing is measured */
	_Atomic u64 part, beside; /* of a long read: bytes of a call at most, calls at once; 0: not measured */
};

struct pc_pace_call {
	u64 len, number;
	u64 flying, beside; /* when it began: bytes, calls */
};

enum { PC_ABORT_LEFT = 2 };

struct pc_volume {
	struct pc_leaf_lock leaf; /* level 7 */
	struct pc_cache *cache;
	struct pc_volume *next_free; /* the table lock */
	u32 slot;
	u16 tag;
	_Atomic u64 epoch;
	_Atomic u64 local; /* blocks */
	struct pc_room room;
	_Atomic u64 acked; /* blocks acknowledged so far */
	_Atomic u64 answers; /* calls that ended, one way or another */
	_Atomic u32 committing; /* commits that run */
	_Atomic u64 generation;
	u64 fenced; /* calls of an older generation can no longer land; under the GIL */
	_Atomic u32 aborted; /* 0, 1, PC_ABORT_LEFT */
	_Atomic u32 sealed; /* ending: looked at with the inode lock held, by all changes of a file */
	struct pc_event event; /* times and the end of waits; the event loop's work */
	struct pc_event returned; /* callers that wait for a credit */
	struct pc_event workers; /* the volume's threads: there is work, or a credit for it */
	struct pc_list work[PC_WORK_CLASSES]; /* requests (fills), inodes (passes, commits) */
	u32 nr_work[PC_WORK_CLASSES];
	u32 jobs[PC_WORK_CLASSES]; /* the engine's own jobs, counted here, kept there */
	u8 turn; /* of a class that has both: 0 its jobs, 1 its requests and passes */
	_Atomic u64 credits; /* era << 32 | calls that carry bytes; a reconnect begins a new era */
	u32 low_running; /* background passes and read-ahead */
	_Atomic u32 max_inflight; /* written under the lock, read without */
	_Atomic u64 calling; /* era << 32 | calls that carry no bytes, and the engine's jobs */
	_Atomic u8 closing; /* its backend is about to be closed: a call looks at this once it is counted */
	u8 stopping;
	u8 ended; /* freed with its last inode */
	_Atomic u8 reads_here; /* callers make the reads that they wait for themselves */
	_Atomic u8 logged; /* fsync may end at the journal: unlogged.c */
	bool sticky; /* its pages stay: reclaim.c */
	_Atomic u8 on_loop; /* the backend's calls are coroutines on the cache's event loop */
	struct pc_ring dirty; /* [I-13] inodes with anything unsaved, as they became so */
	struct pc_ring aged; /* [I-13] inodes with dirty bytes that age, the oldest first */
	struct pc_ring hollow; /* [I-13] inodes without handles, pages and unsaved data; hollow_lock */
	_Atomic u32 nr_dirty; /* inodes on the dirty list */
	u32 nr_inodes;
	u32 checked;
	struct pc_sums sums;
	struct pc_counters counted; /* of all inodes, those that are gone included */
	struct pc_hit_line hits[PC_HIT_LINES]; /* more of them, counted without the interpreter lock */
	struct pc_latency latency[PC_TIMED];
	struct pc_pace pace;
	_Atomic u64 ahead; /* pages, as in the cache */
};

/* Calls that carry bytes. */
static inline u32 pc_volume_inflight(struct pc_volume *v)
{
	return (u32)atomic_load(&v->credits);
}

/* pace.c */
struct pc_pace_call pc_pace_begin(struct pc_volume *v, u64 len, u64 now);
void pc_pace_end(struct pc_volume *v, const struct pc_pace_call *call, u64 ns, u64 now);
u64 pc_pace_window(struct pc_volume *v);

/* cache.c */
void pc_volume_free(struct pc_volume *v);

/* census.c */
void pc_dirty_list_update(struct pc_inode *i);
void pc_aged_update(struct pc_inode *i);
void pc_hollow_update(struct pc_inode *i);
void pc_folios_changed(struct pc_inode *i, i64 folios, i64 blocks);

static inline void pc_sum(_Atomic u64 *sum, u64 delta)
{
	atomic_fetch_add_explicit(sum, delta, memory_order_relaxed);
}

#endif
