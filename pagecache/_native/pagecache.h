/*
 * pagecache.h - interface of CORE: a write-back page cache as a state machine without I/O.
 *
 * CORE never sleeps (the waits of wait.c are separate calls), never calls out, reads no clock and draws no random
 * numbers. Calls come in five kinds (docs/architecture.md): *do* (pc_read, pc_write, ...: the work is done, or `need`
 * has the next step), *next* (pc_fill_begin, pc_write_next, pc_call_next: requests for a backend whose segments point
 * into the arena), *report* (pc_write_done, pc_commit_end: a backend's answer), *wake* (events) and *time* (pc_tick).
 *
 * Units: `pos`, `len`, `end` are bytes, `index` pages, `nr_x` counts, `_ns` nanoseconds. Ranges are half-open. Errors
 * are negative errno values. This header is the only source of declarations: cffi reads the part between the markers, the
 * C files and their tests all of it.
 */
#ifndef PAGECACHE_H
#define PAGECACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* cdef-begin */

struct pc_cache;
struct pc_volume;
struct pc_inode;
struct pc_request;
struct pc_place;

/* Classes of work of a volume, most urgent first (contract 2.1.2). */
enum {
	PC_WORK_COMMIT,
	PC_WORK_NAMES,
	PC_WORK_FILL,
	PC_WORK_INTEGRITY,
	PC_WORK_BACKGROUND,
	PC_WORK_READAHEAD,
	PC_WORK_CLASSES
};

/* Limits of a backend, per object. Sizes are bytes; `boundary` 0: none. */
struct pc_limits {
	uint64_t max_read, max_write, read_unit, write_unit, boundary;
	uint32_t max_vectors;
	uint8_t durable_writes, commit_on_close, ordered_writes;
	uint8_t parallel_direct_writes; /* they may run beside each other, and beside a commit */
	uint8_t stages; /* the file has a spool: uncommitted bytes may leave memory */
};

/* Counters of an inode; its volume adds them when the inode is freed. Bytes unless the name says otherwise. */
struct pc_counters {
	uint64_t hits, misses, evicted, lock_waits;
	uint64_t read_requests, read_bytes, write_requests, write_bytes, commits, failed_commits, retries, short_writes;
	uint64_t cow_copies, staged_copies, throttled_ns;
	uint64_t mirror_requests, mirror_bytes;
	uint64_t handed_over, acknowledged, returned; /* I-25 */
	uint64_t fill_requested, fill_validated, fill_reread, fill_dropped, fill_zeroed; /* I-26 */
};

/* What needs a commit and is no folio (contract 2.17): what a reconnect has to repeat, or to report as lost. */
struct pc_undone {
	uint64_t lowest; /* smallest size that a truncate gave it; UINT64_MAX: none */
	uint64_t hole_pos, hole_end; /* hull of the holes; empty: none */
	uint64_t gone_pos, gone_end; /* hull of bytes given up that may be stored: nothing read of it outlasts a commit */
	uint8_t created;
	uint8_t resized; /* of a report: its size differs from that of the last commit */
};

/* Holders of an inode's token. STRAY: the caller has left, its backend call still runs. */
enum pc_token { PC_TOKEN_FREE, PC_TOKEN_PASS, PC_TOKEN_COMMIT, PC_TOKEN_CALLER, PC_TOKEN_STRAY };

/* Kinds of operations, and the logical locks that one can hold. */
enum pc_op_kind { PC_OP_FILL, PC_OP_UNCACHED, PC_OP_WRITE, PC_OP_COMMIT, PC_OP_CALLER };
enum { PC_HOLD_LOCK_X = 1, PC_HOLD_TOKEN = 2, PC_HOLD_INVALIDATE = 4, PC_HOLD_LOCK_S = 8, PC_HOLD_DIRECT = 16 };

/* Byte counts of an inode or a volume at one moment. */
struct pc_usage {
	uint64_t cached, clean, dirty, writeback, unstable, failed, local, staged, pinned, write_pinned, folios, size,
		remote_size;
};

/* Byte counts of a cache; exact numbers of metadata. */
struct pc_cache_usage {
	uint64_t capacity, used, local, folios, leaves, nodes, exts, requests, shadows, inodes, hollow;
	uint64_t metadata_bytes, folio_bytes, index_bytes, ext_bytes, arena_bytes, ghost_bytes, staged_map_bytes,
		inode_bytes;
	uint64_t evicted, evict_calls, evict_examined, evict_examined_max;
	uint64_t frames_allocated, frames_freed, cow_copies, quarantined;
};

/* Conditions that a call may need before it can continue. */
enum {
	PC_NEED_NOTHING,
	PC_NEED_FILL,
	PC_NEED_FOLIO,
	PC_NEED_FLIGHT,
	PC_NEED_ROOM,
	PC_NEED_INVALIDATE,
	PC_NEED_OPEN     /* the volume is ending: nothing new is accepted */
};
struct pc_need {
	uint32_t kind;
	uint32_t folio;  /* FOLIO (locked), FLIGHT (a call uses it): id to wait for */
	uint32_t owner;  /* FOLIO: request that owns the lock, 0: a section of C code */
	uint64_t pos, len; /* FILL */
	uint32_t readahead; /* READ: nonzero if the read touched a marker, at `marker` */
	uint32_t goes_on; /* READ, set before: it goes on where the last one of its handle ended */
	uint64_t marker;
};

/* Readahead state of a handle (contract 2.6), in pages: the stream that it follows, its beginning and the end of its
 * requests; prev_end: of the last read, in bytes. */
struct pc_readahead {
	uint64_t from, end, prev_end;
	uint64_t calm; /* where its window last halved, or grew after that */
	uint32_t max;
	uint32_t evicted,
		shrink; /* evicted pages of the file so far that nobody had read; how often that halved the window */
};

/* One contiguous part of a backend call, in memory. */
struct pc_part {
	uint8_t *memory;
	uint64_t len;
	uint32_t frame; /* 0xffffffff: a sink, not cache memory */
	uint32_t order;
};

struct pc_violation {
	char invariant[8];
	char text[248];
};

/* ---- cache */
bool pc_is_debug(void);
void pc_cache_configure(struct pc_cache *c, uint64_t dirty_background, uint64_t dirty_limit, uint64_t cow_limit,
			bool poison);
int pc_cache_resize(struct pc_cache *c, uint64_t capacity);
void pc_cache_usage_get(struct pc_cache *c, struct pc_cache_usage *out);
void pc_tick(struct pc_cache *c, uint64_t now_ns);
uint64_t pc_cache_held(struct pc_cache *c);
uint32_t pc_cache_event_seq(struct pc_cache *c);
void pc_cache_wake_all(struct pc_cache *c);
uint32_t pc_flusher_seq(struct pc_cache *c);
void pc_flusher_wake(struct pc_cache *c);
int pc_check(struct pc_cache *c, struct pc_violation *out);
size_t pc_trace_text(struct pc_cache *c, char *out, size_t size);
void pc_forked(void);

/* ---- volume */
enum { PC_VOLUMES_MAX = 4096 }; /* at one time */
int pc_volume_create(struct pc_cache *c, uint32_t max_inflight, bool sticky, struct pc_volume **out);
void pc_volume_destroy(struct pc_volume *v);
void pc_volume_set_calls(struct pc_volume *v, bool reads_here, bool on_loop);
void pc_volume_set_logged(struct pc_volume *v);
void pc_volume_set_inflight(struct pc_volume *v, uint32_t max_inflight);
void pc_volume_set_dirty_limit(struct pc_volume *v, uint64_t bytes, uint64_t floor);
enum {
	PC_VOLUME_LOCAL,   /* bytes */
	PC_VOLUME_UNSAVED, /* bytes that a sync would save now, by page */
	PC_VOLUME_INFLIGHT, /* calls that carry bytes */
	PC_VOLUME_CALLING, /* calls that carry none, and jobs of the engine */
	PC_VOLUME_CLOSING, /* is its backend about to be closed? */
	PC_VOLUME_EVENT
};
uint64_t pc_volume_number(struct pc_volume *v, uint32_t which);
uint64_t pc_epoch_take(struct pc_volume *v);
void pc_volume_abort(struct pc_volume *v, bool left);
void pc_volume_resume(struct pc_volume *v);
void pc_volume_seal(struct pc_volume *v, bool sealed);
void pc_volume_close(struct pc_volume *v);
void pc_volume_stop(struct pc_volume *v);
void pc_volume_counters(struct pc_volume *v, struct pc_counters *counters, struct pc_usage *usage);
size_t pc_volume_dirty_inodes(struct pc_volume *v, uint64_t *ids, size_t n);
enum { PC_LIST_DIRTY, PC_LIST_AGED, PC_LIST_HOLLOW };
size_t pc_volume_some(struct pc_volume *v, uint32_t which, uint64_t *ids, size_t n);
size_t pc_volume_aged(struct pc_volume *v, uint64_t before_ns, uint64_t *ids, size_t n, uint64_t *next_ns);
uint32_t pc_cache_hollow(struct pc_cache *c);
void pc_work_wake(struct pc_volume *v);
void pc_job_push(struct pc_volume *v, uint32_t cls);

/* ---- inode */
int pc_inode_create(struct pc_volume *v, uint64_t size, const struct pc_limits *limits, struct pc_inode **out);
int pc_inode_destroy(struct pc_inode *i);
void pc_inode_free(struct pc_inode *i);
uint64_t pc_inode_id(const struct pc_inode *i);
void pc_inode_set_limits(struct pc_inode *i, const struct pc_limits *limits);
bool pc_inode_set_sizes(struct pc_inode *i, uint64_t size, uint64_t remote_size);
void pc_inode_usage(struct pc_inode *i, struct pc_usage *out, struct pc_counters *counters);
size_t pc_events_moved(const uintptr_t *inodes, uint32_t *seen, size_t n, uint32_t *moved);
void pc_inode_wake(struct pc_inode *i);
/* Numbers of an inode: bytes, unless a line says otherwise; those that ask a question are 1 or 0. */
enum {
	PC_BY_DIRTY,
	PC_BY_CACHED,
	PC_BY_FAILED,
	PC_BY_UNSTABLE,
	PC_BY_AGE,         /* ns: when the oldest byte was written that is dirty or in a running call; 0: none is */
	PC_BY_HITS,        /* reads */
	PC_BY_UNSTORED,    /* dirty or in flight: the backend may not have them */
	PC_BY_TAKEN,       /* written back so far, or dirty: grows with each byte that becomes dirty */
	PC_BY_ACKNOWLEDGED, /* bytes that the backend has taken so far, by page */
	PC_BY_SIZE,
	PC_BY_REMOTE_SIZE,
	PC_BY_SAVED_SIZE,  /* of the stored object as of the last commit, + 1; 0: the inode is gone */
	PC_BY_SENT_END,    /* of the remote size and of bytes in flight, which the backend may have already */
	PC_BY_STAGED,
	PC_BY_WRITE_PINNED, /* that writable views show */
	PC_BY_UNLOGGED,    /* 0 nothing, 1 some ranges, 2 all that is local: not in the journal as it is now */
	PC_BY_STAGED_END,  /* of the last staged byte; 0: there is none */
	PC_BY_EVENT,       /* the number of its event */
	PC_BY_DIRTIED,     /* ns: when the oldest dirty byte was written; 0: nothing is dirty */
	PC_BY_UNSAVED,     /* is anything local, staged or uncommitted? */
	PC_BY_WRITTEN_WHOLE, /* do pages of it count as written as a whole, for want of memory or of ranges? */
	PC_BY_CHANGING,    /* is the inode lock held or queued for? */
	PC_BY_OLD_HANDS,   /* is a call left behind by an abort, an interrupt or a deadline? */
	PC_BY_CHANGES,     /* changes of the stored object that have begun */
	PC_BY_QUIET,       /* changes + 1; 0: the stored version is not known, or a call is about to change it */
	PC_BY_UNCHANGED,   /* cached bytes inside the file; UINT64_MAX: some are local, or the store may lack some */
	PC_BY_AT_REST,     /* PC_BY_QUIET if no commit publishes the object and PC_BY_UNCHANGED is a number; or 0 */
	PC_BY_STALE,       /* may one of them have made another version than the known one? */
	PC_BY_STORAGE_BUSY, /* may this cache be changing the stored object: a holder of the token, or a direct write? */
	PC_BY_STORAGE_SEEN, /* the same before and after a read past the cache, unless a truncate or hole came between; 0: in one */
	PC_BY_COMMITTING,
	PC_BY_COMMIT_DUE, /* is the running commit to commit, and not only to settle? */
	PC_BY_COMMIT_PLAIN, /* ... and has the engine nothing else to do under its token? */
	PC_BY_COMMIT_ASKED, /* largest epoch that a caller wanted of the last commit that began; 0: it began without one */
	PC_BY_COMMITS_ENDED, /* commits */
	PC_BY_PASS_IDLE, /* does no pass run or wait? Marked dirty bytes then need another pc_flush_start */
	PC_BY_PASS_ENDING, /* are all its requests answered, and no thread has checked for more? That takes no backend call */
	PC_BY_DIRECT, /* direct writes that run, including those without a waiter */
	PC_BY_TAIL, /* latest tail without an owed cut; 0: none */
	PC_BY_GATE_CLOSED /* does a direct write have to wait for the end of work under the token? */
};
uint64_t pc_inode_number(struct pc_inode *i, uint32_t which);
void pc_inode_age_anew(struct pc_inode *i);
void pc_inode_set_unused(struct pc_inode *i, bool unused);
enum pc_aside { PC_ASIDE_UNSYNCED = 1, PC_ASIDE_KEPT_BACK = 2 }; /* no sync saves it; nor does age or pressure */
void pc_inode_set_aside(struct pc_inode *i, uint32_t aside);
void pc_inode_set_uncommitted(struct pc_inode *i, bool created, uint64_t lowest, uint64_t hole, uint64_t hole_end);
void pc_inode_cut_paid(struct pc_inode *i, uint64_t size);
void pc_inode_undone(struct pc_inode *i, struct pc_undone *out);
void pc_inode_fence(struct pc_inode *i);
void pc_inode_set_user(struct pc_inode *i, uintptr_t object);
void pc_change_begins(struct pc_inode *i, bool another_version);
void pc_version_known(struct pc_inode *i, bool known);
enum { PC_FORGET_CUTS = 1, PC_FORGET_HOLES = 2, PC_FORGET_ALL = 7 };
void pc_inode_forget(struct pc_inode *i, uint32_t what);
void pc_counter_add(struct pc_inode *i, uint32_t which, uint64_t n);
bool pc_version_committed(struct pc_inode *i, uint64_t changes, bool known);
bool pc_version_settle(struct pc_inode *i, uint64_t changes);

/* ---- do */
enum { PC_LOOP_PIECE = 262144 }; /* most bytes that are copied between two turns of an event loop */
int64_t pc_read(struct pc_inode *i, uint64_t pos, void *to, uint64_t len, struct pc_need *need);
int64_t pc_read_local(struct pc_inode *i, uint64_t pos, void *to, uint64_t len, uint8_t *which);
enum { PC_WHOLE_MAX = 4194304 }; /* most bytes of a pc_write_whole */

/* ---- reads and writes by threads without a Python thread state (hit.c) */
struct pc_hit;
/* Functions of hits for another extension (fuse/loop.h). */
struct pc_hit_calls {
	uint64_t size; /* of this struct */
	int64_t (*read)(struct pc_hit *h, uint64_t pos, void *to, uint64_t len, uint64_t *marker);
	int64_t (*write)(struct pc_hit *h, uint64_t pos, const void *from, uint64_t len);
	uint64_t (*length)(const struct pc_hit *h);
	uint64_t (*taken)(const struct pc_hit *h);
};
const struct pc_hit_calls *pc_hit_calls(void);

/* ---- dirty budget: the caller of a slow write owns a place */
/* Load of a volume. Bytes unless the name says otherwise. */
struct pc_pressure {
	uint64_t local, limit, acked, answers;
	uint32_t position; /* of its writers between midpoint (0) and limit (1000), of the nearest limit */
	uint32_t over_background, throttled, running;
};
bool pc_room_take(struct pc_inode *i, struct pc_place *p, bool paused);
bool pc_room_fits(struct pc_inode *i, struct pc_place *p);
bool pc_line_first(struct pc_inode *i, struct pc_place *p);
void pc_room_grant(struct pc_volume *v, uint64_t bytes);
void pc_volume_pressure(struct pc_volume *v, struct pc_pressure *out);
uint64_t pc_drop_clean(struct pc_inode *i, uint64_t pos, uint64_t end);
int pc_invalidate_range(struct pc_inode *i, uint64_t pos, uint64_t end);
void pc_read_anew(struct pc_inode *i);

/* ---- truncate, punch, discard: the caller holds the token (and, but for discard, the inode lock X and invalidate X) */
uint32_t pc_range_busy(struct pc_inode *i, uint64_t pos, uint64_t end, struct pc_need *need);
void pc_truncate(struct pc_inode *i, uint64_t size, bool uncommitted);
void pc_punch(struct pc_inode *i, uint64_t pos, uint64_t end, bool uncommitted);
void pc_discard(struct pc_inode *i, uint64_t pos, uint64_t end, bool cut_size);
size_t pc_discarded(struct pc_inode *i, uint64_t *ranges, size_t n);

void pc_base_requested(struct pc_inode *i);
void pc_rebase(struct pc_inode *i, uint64_t remote, bool forgotten);
int pc_borrowed_put(struct pc_inode *i, uint64_t pos, const void *bytes);
void pc_end_at_written(struct pc_inode *i);
void pc_staged_keep_written(struct pc_inode *i);
bool pc_dirty_all(struct pc_inode *i);
void pc_own_all(struct pc_inode *i);

/* ---- write-back: passes, requests, commits */
enum {
	PC_PENDING_DIRTY = 1,
	PC_PENDING_WRITEBACK = 2,
	PC_PENDING_BACKOFF = 4,
	PC_PENDING_FAILED = 8,
	PC_PENDING_UNSTABLE = 16
};
uint64_t pc_flush_start(struct pc_inode *i, uint64_t stamp, uint64_t pos, uint64_t end);
uint32_t pc_flush_pending(struct pc_inode *i, uint64_t stamp, uint64_t pos, uint64_t end, uint64_t *cursor);
uint64_t pc_unsaved_bytes(struct pc_inode *i, uint64_t stamp, uint64_t *unsent);
bool pc_pass_background(struct pc_inode *i, uint64_t budget, bool partial);
bool pc_commit_needed(struct pc_inode *i, uint64_t stamp);
bool pc_sync_done(struct pc_inode *i, uint64_t stamp);
/* A flush, a commit, or both: an fsync. The caller sets the first part, the rest is 0 at first. */
struct pc_sync {
	uint64_t stamp, pos, end;
	uint8_t flush, commit;
	uint8_t unasked; /* no caller waits: see pc_commit_try() */
	uint8_t version; /* its requests have ended too, so that the version that they made can be read */
	uint8_t stale; /* it is to be read */
	uint8_t backoff; /* bytes wait for the time of a retry */
	uint8_t waits_for_commit;
	uint32_t event; /* the inode's, before the last poll */
	uint64_t cursor[2]; /* of pc_flush_pending() */
	uint64_t sent; /* cursor[1] + 1 when a pass was last started; 0: none was */
	uint64_t commit_seq, failed_commits; /* before the commit that it waits for */
};
enum pc_sync_next {
	PC_SYNC_DONE,
	PC_SYNC_WAIT, /* for the inode's event, or a time */
	PC_SYNC_SEND, /* start a pass */
	PC_SYNC_COMMIT, /* request a commit */
	PC_SYNC_COMMIT_FAILED, /* the one that it waited for */
	PC_SYNC_FAILED, /* bytes have failed, and nothing else is left to be sent */
};
bool pc_sync_begin(struct pc_inode *i, struct pc_sync *s);
void pc_commit_start(struct pc_inode *i, uint64_t stamp);
void pc_commit_try(struct pc_inode *i, uint64_t stamp);
void pc_settle_start(struct pc_inode *i);
enum { PC_COMMIT_AGAIN, PC_COMMIT_KEPT, PC_COMMIT_PARKED };
bool pc_changed_since(struct pc_inode *i, uint64_t stamp);
void pc_uncommit(struct pc_inode *i);
void pc_inode_aborted(struct pc_inode *i);
enum {
	PC_RANGES_LOCAL, /* local and staged bytes */
	PC_RANGES_FAILED,
	PC_RANGES_WRITTEN, /* those that this program has written since the last commit */
	PC_RANGES_BORROWED /* the other valid bytes of blocks in D */
};
size_t pc_ranges(struct pc_inode *i, uint32_t which, uint64_t *ranges, size_t n);
bool pc_bytes_find(struct pc_inode *i, bool unlogged, uint64_t from, uint64_t *pos, uint64_t *end);
uint32_t pc_spill_find(struct pc_inode *i, uint64_t from, uint64_t most, bool sending, uint64_t *runs, uint32_t max);
uint64_t pc_spill(struct pc_inode *i, const uint64_t *runs, uint32_t n, bool sending);
void pc_unlogged_cut(struct pc_inode *i, uint64_t pos, uint64_t end);
void pc_unlogged_all(struct pc_inode *i);
bool pc_acknowledged(struct pc_inode *i, uint64_t pos, uint64_t end);
uint64_t pc_retry(struct pc_inode *i, uint64_t pos, uint64_t end, bool failed_too);
uint64_t pc_range_next(struct pc_inode *i, uint64_t pos, uint64_t end, uint32_t which);

/* ---- direct I/O */
bool pc_direct_may_share(struct pc_inode *i, uint64_t pos, uint64_t end);
uint32_t pc_range_local(struct pc_inode *i, uint64_t pos, uint64_t end);
void pc_direct_split(struct pc_inode *i, uint64_t pos, uint64_t end, uint64_t *local, uint64_t *stop);
bool pc_gate_close(struct pc_inode *i);
void pc_tail_left(struct pc_inode *i);
void pc_tail_owed(struct pc_inode *i, uint32_t tail);
size_t pc_direct_ranges(struct pc_inode *i, uint64_t *ranges, size_t n);
size_t pc_direct_lost(struct pc_inode *i, uint64_t *ranges, size_t n, bool forget);

/* ---- pins of views */
/* Memory of one folio that a view holds. */
struct pc_pin {
	uint8_t *memory;
	uint64_t len;
	uint32_t folio, frame, cuts;
	bool writable;
};
bool pc_view_meets(struct pc_inode *i, uint64_t pos, uint64_t bytes, const void *memory, uint64_t len, bool elsewhere);
int pc_views_cut(struct pc_inode *i, uint64_t pos, uint64_t end, bool parts);
int pc_views_reserve(struct pc_inode *i, uint64_t size);
void pc_views_unreserve(struct pc_inode *i);

/* ---- for display: latencies of backend calls, lengths of queues */
enum { PC_TIMED_READ, PC_TIMED_WRITE, PC_TIMED_COMMIT, PC_TIMED };
enum { PC_LATENCY_BOUNDS = 28 }; /* 1 µs, 2 µs, ... 2^27 µs = 134 s */
void pc_latency_add(struct pc_volume *v, uint32_t call, uint64_t ns);
uint64_t pc_latency_get(struct pc_volume *v, uint32_t call, uint64_t *counts);
void pc_show_queue(struct pc_volume *v, uint32_t *waiting);

/* Kinds of waits, in the register of waits (waits.c) and in a trace. */
enum {
	PC_WAIT_FOLIO = 1, /* a folio that another thread has locked, usually for a fill */
	PC_WAIT_FLIGHT, /* a folio that is in flight and cannot be copied */
	PC_WAIT_INVALIDATE, /* the invalidate lock */
	PC_WAIT_LOCK, /* the inode lock, exclusive */
	PC_WAIT_LOCK_SHARED,
	PC_WAIT_TOKEN,
	PC_WAIT_CREDIT, /* one of the volume's `max_inflight` */
	PC_WAIT_ROOM, /* dirty budget; for this and later kinds the engine waits, and has a Reason */
	PC_WAIT_MEMORY,
	PC_WAIT_SYNC, /* until nothing up to the epoch of an fsync, flush or commit is left */
	PC_WAIT_REASON, /* anything else, described by the Reason */
	PC_WAITS
};
enum { PC_IO_FILL, PC_IO_UNCACHED, PC_IO_WRITE, PC_IO_COMMIT, PC_IO_CALLER, PC_IO_DIRECT, PC_IOS };

/* ---- the C types of the hot verbs: adds Handle, Op, Buf, Pin to the module; takes the GIL */
int pc_install_types(void);

/* Bytes with checksums, as a disk tier keeps them (memory/checked.c). */
uint64_t pc_checked_size(uint64_t len);
void pc_checked_pack(uint8_t *out, const struct pc_part *parts, size_t n, uint64_t len, uint64_t id, uint64_t offset);
int64_t pc_checked_read(int fd, uint64_t pos, uint64_t len, uint64_t id, uint64_t offset, uint64_t skip,
			const struct pc_part *parts, size_t n, bool aligned);

/* cdef-end */

/* ---- for the C files and their tests: nothing here is called through cffi */
int pc_cache_create(uint64_t capacity, uint32_t page_size, uint64_t max_folio, struct pc_cache **out);
void pc_cache_close(struct pc_cache *c);
void pc_cache_release(struct pc_cache *c);
void pc_cache_destroy(struct pc_cache *c);
int64_t pc_write(struct pc_inode *i, uint64_t pos, const void *from, uint64_t len, struct pc_need *need);
int64_t pc_write_whole(struct pc_inode *i, uint64_t pos, const void *from, uint64_t len, struct pc_need *need);
int pc_hit_open(struct pc_inode *i, uintptr_t closed, uintptr_t ra, bool readable, bool writable, struct pc_hit **out);
void pc_hit_close(struct pc_hit *h);
int64_t pc_hit_read(struct pc_hit *h, uint64_t pos, void *to, uint64_t len, uint64_t *marker);
int64_t pc_hit_write(struct pc_hit *h, uint64_t pos, const void *from, uint64_t len);
uint64_t pc_hit_size(const struct pc_hit *h);
uint64_t pc_hit_taken(const struct pc_hit *h);
bool pc_dirty_room(struct pc_inode *i, uint64_t len);
void pc_place_open(struct pc_inode *i, struct pc_place *p, uint64_t pos, uint64_t len);
void pc_place_close(struct pc_inode *i, struct pc_place *p);
int pc_invalidate_lock(struct pc_inode *i);
void pc_invalidate_unlock(struct pc_inode *i);
int pc_fill_begin(struct pc_inode *i, uint64_t pos, uint64_t len, struct pc_need *need, struct pc_request **out);
uint32_t pc_readahead_miss(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len, uint64_t stop);
uint32_t pc_readahead_rest(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len);
uint32_t pc_readahead_waits(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len);
uint32_t pc_readahead_marker(struct pc_inode *i, struct pc_readahead *ra, uint64_t marker);
void pc_readahead_seen(struct pc_readahead *ra, uint64_t pos, uint64_t len);
int pc_fill_answer(struct pc_request *r, int64_t n);
bool pc_fill_anew(struct pc_request *r);
void pc_fill_submit(struct pc_request *r, uint32_t cls);
int pc_write_next(struct pc_inode *i, struct pc_request **out);
int pc_write_answer(struct pc_request *r, int64_t n);
void pc_write_done(struct pc_request *r, bool ok, bool parked);
enum pc_sync_next pc_sync_poll(struct pc_inode *i, struct pc_sync *s);
void pc_sync_start(struct pc_inode *i, struct pc_sync *s, enum pc_sync_next next);
int pc_commit_begin(struct pc_inode *i, bool own);
bool pc_commit_end(struct pc_inode *i, bool ok, int how);
bool pc_direct_begin(struct pc_inode *i, uint64_t *failed);
void pc_direct_answer(struct pc_inode *i, uint64_t pos, uint64_t taken, uint64_t end);
bool pc_direct_end(struct pc_inode *i, uint64_t pos, uint64_t end, uint64_t *failed, bool give_up);
void pc_direct_left(struct pc_inode *i, int n);
int pc_call_next(struct pc_request *r, uint64_t *pos, struct pc_part *parts, size_t n, size_t *nr_parts);
void pc_request_settle(struct pc_request *r);
uint64_t pc_request_pos(const struct pc_request *r);
uint64_t pc_request_len(const struct pc_request *r);
int pc_pin(struct pc_inode *i, uint64_t pos, uint64_t len, bool writable, struct pc_pin *out, struct pc_need *need);
void pc_unpin(struct pc_cache *c, const struct pc_pin *pin);
bool pc_pin_detached(struct pc_cache *c, const struct pc_pin *pin);
int64_t pc_clock_ns(void);
void pc_sync_arm(const char *point, uint32_t skip);
bool pc_sync_arrived(const char *point);
void pc_sync_release(const char *point);

#endif
