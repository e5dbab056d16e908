/*
 * request.h - the object of a request: what a fill or a write owns until it is settled. Its functions are in io/.
 */
#ifndef PC_REQUEST_H
#define PC_REQUEST_H

#include "state/cache.h"

struct pc_inode;
struct pc_volume;

/* A piece of one folio in the hands of a call. */
struct pc_seg {
	u64 pos;   /* byte offset in the file */
	u32 len;   /* bytes */
	u32 folio; /* id; the request holds a reference */
	u32 frame; /* the folio's first frame at hand-over; none where the call sends a copy of what a view may store to */
	u32 off; /* byte offset in the folio; PC_SEG_SCRATCH of units.c above it */
};

enum pc_request_kind { PC_REQ_FILL = 1, PC_REQ_WRITE = 2 };
enum { PC_REQ_INLINE = 4 };
enum { PC_SEG_SCRATCH = 1u << 31 }; /* in `off`: sent from the request's scratch, not from the frame */

/* Work handed to a backend. A fill owns the locks of the folios in [start, end) whose `owner` is its id; a write owns
 * references to the folios of its segments. */
struct pc_request {
	struct pc_list link; /* volume work queue (fill) or the inode's ready list (write) */
	struct pc_inode *inode;
	u32 id;
	u32 link_free;
	u8 kind, cls, rereads, zeros;
	u8 quiet; /* fill: the bytes come from memory, no call is counted */
	u8 run_new; /* fill: the run is not counted yet [I-26] */
	u8 gather; /* write of units: 1 neighbours are missing, 2 some were read */
	u8 sunk; /* the read that runs or comes next has one buffer, for a read unit that is missing in part */
	u8 staged; /* the read that runs or comes next asks for bytes of S, and for nothing else */
	u8 snapshot; /* write: segments without a frame are copied to scratch before the first call; their folios are pinned */
	u8 stage; /* write: the backend is asked to keep the bytes readable */
	u32 credit; /* era of the volume's credit that it has, 0: none */
	u64 generation; /* volume generation at creation: an answer after an abort only ends W */
	u64 inval_seq; /* fill: sampled before its first call */
	u64 start, end; /* fill: page-aligned range of owned folios; write: first byte, end of the last segment */
	u64 cursor; /* fill: next byte to look at */
	u64 run_end; /* fill: the missing run [cursor, run_end) that is being read */
	u64 run_got; /* fill: bytes of it that are stored and not yet published */
	u64 old_end; /* fill: zeros behind it are cut off when the folio that holds it is unlocked; 0: none */
	u32 report; /* fill: number of the asynchronous read that asked for it and gets its error, 0: none */
	u64 call_pos, call_len; /* the backend call that runs or comes next */
	u64 call_stop; /* fill: end of what that call stores; behind it the sink takes the rest of a read unit */
	u32 nr_owned; /* fill: folios still locked */
	u32 ahead; /* fill: pages of it that count in the cache's `ahead` */
	u32 first; /* fill: id of the first one, before it runs */
	u32 recent; /* fill: id of the folio that was looked at last */
	u32 nr_segs, cap_segs, gather_seg;
	u32 seg, seg_off; /* write: first segment not wholly acknowledged, and how much of it is */
	u8 *sink; /* fill: surplus bytes of whole read units */
	u64 sink_size;
	u64 unit; /* write: whole units of so many bytes; 0: single bytes */
	u8 *scratch; /* write: neighbours in units, and copies of unstable bytes; laid out like [start, end) */
	struct pc_seg *segs;
	struct pc_seg inline_segs[PC_REQ_INLINE];
	/* The volume in whose queue a fill waits: set and cleared under that volume's lock, read by callers with a stale id. */
	_Atomic(struct pc_volume *) queue;
};

static inline struct pc_request *pc_request_at(const struct pc_cache *c, u32 id)
{
	return pc_pool_at(&c->requests, id);
}

#endif
