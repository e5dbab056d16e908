/*
 * record.c - the ring of a trace: user calls, waits, backend calls and changes of bytes, with times and threads.
 *
 * There is one only while a trace runs (PageCache.trace). The fixed ring of trace.c stays beside it: that one is always there,
 * has no times, and shows the last moments before a failed check.
 *
 *   slots   | n-2 | n-1 |  n  | n+1 | ...      `next` gives each record its number, by one atomic add; the slot is number & mask
 *   state   number << 1 | being written       a writer that finds a slot being written, or a newer record, drops its record
 *
 * A span (a call, a wait) is one record, made when it ends, with the time of its beginning. A sleep is also announced by a
 * separate record before it begins, so that a trace shows waits that never end. A call has an id before it has a record: the
 * number of the thread and a count of that thread.
 *
 * The numbers are an order, which makes the arrows of a trace exact (pagecache/observe/tracing/flows.py): a change of bytes is
 * recorded inside the section that orders the change, so of two records of one byte the one with the smaller number happened
 * first.
 *
 *   WROTE      folio lock, after the copy: a hand-over locks the folio, or needs the leaf lock that the writer's blocks wait for
 *   ISSUED     leaf lock, when a request is complete
 *   ACKED      before W ends, and so before the pass gives the token to a commit; AGAIN, GONE, BACK in the section of the change
 *   COMMIT     under the token, which nothing is acknowledged without
 *
 * Memory: rings are mapped, given back to the system when a trace was written, and unmapped with the cache, because a thread may
 * still be on its way into one. CORE reads the clock here alone, and only while a trace runs; callers that have read it for other
 * reasons pass the time (spans.c).
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "state/state.h"

enum { RINGS_MAX = 26, FIELDS = 8 };

struct slot {
	_Atomic u64 state;
	_Atomic u64 fields[FIELDS]; /* those of struct pc_record behind its number */
};
_Static_assert(sizeof(struct pc_record) == sizeof(struct slot), "a slot is a record, its number the state");

struct ring {
	u64 mask;
	struct slot *slots;
};

struct pc_recorder {
	_Atomic u64 next; /* numbers begin at 1 */
	_Atomic u64 lost;
	_Atomic(struct ring *) ring; /* of the trace that runs */
	struct ring rings[RINGS_MAX]; /* one of each size used so far; one thread at a time starts and stops traces */
	struct ring *read;
	u64 first;
};

static _Atomic u32 threads = 1; /* 1 is the main thread of the process */
static _Thread_local u32 thread;
static _Thread_local u64 calls, running, stamp;

struct pc_recorder *pc_recorder_create(void)
{
	struct pc_recorder *r = calloc(1, sizeof(*r));
	if (r)
		atomic_init(&r->next, 1);
	return r;
}

static size_t ring_bytes(const struct ring *g)
{
	return (g->mask + 1) * sizeof(struct slot);
}

void pc_recorder_destroy(struct pc_recorder *r)
{
	for (u32 k = 0; r && k < RINGS_MAX; k++)
		if (r->rings[k].slots)
			munmap(r->rings[k].slots, ring_bytes(&r->rings[k]));
	free(r);
}

/* ---------------------------------------------------------------- start, stop, read */

/**
 * pc_record_start() - record from here on.
 *
 * @records: how many are kept, a power of two.
 * Return: 0; -EBUSY a trace runs; -EINVAL; -ENOMEM. Context: one at a time, as stop and free.
 */
int pc_record_start(struct pc_cache *c, uint64_t records)
{
	struct pc_recorder *r = c->recorder;
	if (records < 2 || records & (records - 1) || records >> RINGS_MAX)
		return -EINVAL;
	if (atomic_load(&r->ring) || r->read)
		return -EBUSY;
	struct ring *g = &r->rings[__builtin_ctzll(records)];
	if (!g->slots) {
		g->mask = records - 1;
		void *p = mmap(NULL, ring_bytes(g), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			       -1, 0);
		if (p == MAP_FAILED)
			return -ENOMEM;
		g->slots = p;
	}
	r->first = atomic_load(&r->next);
	atomic_store(&r->lost, 0);
	r->read = g;
	atomic_store(&r->ring, g);
	atomic_store(&c->recording, 1);
	return 0;
}

/* Record no more. *first, *end: the numbers that may be read; *lost: records that found no slot in between. Return: records made. */
uint64_t pc_record_stop(struct pc_cache *c, uint64_t *first, uint64_t *end, uint64_t *lost)
{
	struct pc_recorder *r = c->recorder;
	atomic_store(&c->recording, 0);
	atomic_store(&r->ring, NULL);
	*end = atomic_load(&r->next);
	*lost = atomic_load(&r->lost);
	u64 made = *end - r->first, size = r->read ? r->read->mask + 1 : 0;
	*first = *end - pc_min(made, size);
	return made;
}

/* Records with the numbers [*at, end), as far as there is room for n; *at moves on. Return: how many there are in `out`. */
size_t pc_record_read(struct pc_cache *c, uint64_t *at, uint64_t end, struct pc_record *out, size_t n)
{
	struct ring *g = c->recorder->read;
	size_t k = 0;
	for (; g && k < n && *at < end; ++*at) {
		struct slot *s = &g->slots[*at & g->mask];
		u64 fields[FIELDS];
		if (atomic_load_explicit(&s->state, memory_order_acquire) != *at << 1)
			continue;
		for (u32 f = 0; f < FIELDS; f++)
			fields[f] = atomic_load_explicit(&s->fields[f], memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&s->state, memory_order_relaxed) != *at << 1)
			continue; /* overwritten while it was read */
		out[k].seq = *at;
		memcpy((u8 *)&out[k++] + sizeof(u64), fields, sizeof(fields));
	}
	return k;
}

/* The trace was written: its memory goes back to the system. */
void pc_record_free(struct pc_cache *c)
{
	struct ring *g = c->recorder->read;
	if (g)
		madvise(g->slots, ring_bytes(g), MADV_DONTNEED);
	c->recorder->read = NULL;
}

/* ---------------------------------------------------------------- records */

int64_t pc_clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (i64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* A number of the calling thread that no other ever has: the system gives its own numbers again. */
uint32_t pc_record_thread(void)
{
	if (PC_UNLIKELY(!thread))
		thread = syscall(SYS_gettid) == getpid() ? 1 : atomic_fetch_add(&threads, 1) + 1;
	return thread;
}

static void add(struct pc_cache *c, struct pc_record *record)
{
	struct pc_recorder *r = c->recorder;
	struct ring *g = atomic_load_explicit(&r->ring, memory_order_acquire);
	u64 fields[FIELDS];
	if (!g)
		return;
	if (!record->at)
		record->at = (u64)pc_clock_ns();
	if (!record->thread)
		record->thread = pc_record_thread();
	memcpy(fields, (u8 *)record + sizeof(u64), sizeof(fields));
	u64 n = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
	struct slot *s = &g->slots[n & g->mask];
	u64 old = atomic_load_explicit(&s->state, memory_order_relaxed);
	if (old & 1 || old >> 1 > n ||
	    !atomic_compare_exchange_strong_explicit(&s->state, &old, n << 1 | 1, memory_order_acquire,
						     memory_order_relaxed)) {
		atomic_fetch_add_explicit(&r->lost, 1, memory_order_relaxed);
		return;
	}
	atomic_thread_fence(memory_order_release);
	for (u32 f = 0; f < FIELDS; f++)
		atomic_store_explicit(&s->fields[f], fields[f], memory_order_relaxed);
	atomic_store_explicit(&s->state, n << 1, memory_order_release);
}

void pc_record_event(struct pc_cache *c, int kind, u16 what, u64 file, u64 pos, u64 len, u64 id, u64 value)
{
	add(c, &(struct pc_record){
		       .file = file, .pos = pos, .len = len, .id = id, .value = value, .what = what, .kind = (u8)kind});
}

/* The id of a call, or of anything else that takes time. */
uint64_t pc_record_call(void)
{
	return (u64)pc_record_thread() << 40 | ++calls;
}

/* What this thread writes from here on is the call's. Return: whose it was. */
uint64_t pc_record_enter(uint64_t call)
{
	u64 outer = running;
	running = call;
	return outer;
}

/* @id: 0: that of the call that this thread is in. @now: the clock; 0: it was not read yet. */
void pc_record_begin(struct pc_cache *c, struct pc_span *s, int kind, u16 what, u64 id, i64 now)
{
	s->began = 0;
	if (!pc_recording(c))
		return;
	*s = (struct pc_span){.id = id ? id : running,
			      .began = (u64)(now ? now : pc_clock_ns()),
			      .thread = pc_record_thread(),
			      .what = what,
			      .kind = (u8)kind};
}

static void add_span(struct pc_cache *c, const struct pc_span *s, int flags, u64 file, u64 pos, u64 len, u64 value)
{
	add(c, &(struct pc_record){.at = flags & PC_R_BEGINS ? s->began : s->ended,
				   .began = s->began,
				   .file = file,
				   .pos = pos,
				   .len = len,
				   .id = s->id,
				   .value = value,
				   .thread = s->thread,
				   .what = s->what,
				   .kind = s->kind,
				   .flags = (u8)flags});
}

/* It may take long, or never end. */
void pc_record_announce(struct pc_cache *c, const struct pc_span *s, u64 file, u64 pos, u64 len, u64 value)
{
	if (s->began)
		add_span(c, s, PC_R_BEGINS, file, pos, len, value);
}

void pc_record_end(struct pc_cache *c, struct pc_span *s, int flags, u64 file, u64 pos, u64 len, u64 value)
{
	if (!s->began)
		return;
	if (s->thread != pc_record_thread())
		flags |= PC_R_ELSEWHERE;
	add_span(c, s, flags, file, pos, len, value);
	s->began = 0;
}

/* For the engine: a span that began at `began`, in this thread. */
void pc_record_span(struct pc_cache *c, const struct pc_record *r)
{
	struct pc_record copy = *r;
	copy.at = 0;
	if (pc_recording(c))
		add(c, &copy);
}

/* ---------------------------------------------------------------- changes of bytes */

/* The stamp of bytes written now: the epoch before the copy, or later that of the section that made it dirty. */
void pc_record_stamp(u64 value)
{
	stamp = value;
}

/* A piece of what a call writes is in the folio, which is locked. */
void pc_record_wrote(struct pc_inode *i, u64 pos, u64 len)
{
	pc_record_event(i->cache, PC_R_WROTE, 0, i->id, pos, len, running, stamp);
}

/* A request is complete: these bytes of it came out of D, neighbours in its units did not. Leaf lock held. */
void pc_record_issued(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	u64 pos = 0, end = 0;
	pc_record_event(i->cache, PC_R_REQUEST, r->kind, i->id, r->start, r->end - r->start, r->serial,
			i->pass.integrity ? PC_WORK_INTEGRITY : PC_WORK_BACKGROUND);
	for (u32 s = 0; s < r->nr_segs; s++) {
		const struct pc_seg *g = &r->segs[s];
		if (!g->folio)
			continue;
		if (g->pos != end) {
			if (end > pos)
				pc_record_event(i->cache, PC_R_ISSUED, 0, i->id, pos, end - pos, r->serial, 0);
			pos = g->pos;
		}
		end = g->pos + g->len;
	}
	if (end > pos)
		pc_record_event(i->cache, PC_R_ISSUED, 0, i->id, pos, end - pos, r->serial, 0);
}

/* W is about to end for blocks [b0, b1) of the folio of a segment; b1 0: for all of the request, which was taken whole. */
void pc_record_answered(struct pc_request *r, u32 seg, u32 b0, u32 b1, int how)
{
	struct pc_inode *i = r->inode;
	u32 shift = i->cache->page_shift;
	u64 pos = r->start, end = r->end;
	if (b1) {
		u64 start = pc_folio_pos(i->cache, pc_folio_at(i->cache, r->segs[seg].folio));
		pos = start + ((u64)b0 << shift);
		end = start + ((u64)b1 << shift);
	}
	int kind = how <= PC_WB_STAGED ? PC_R_ACKED : PC_R_AGAIN;
	pc_record_event(i->cache, kind, (u16)how, i->id, pos, end - pos, r->serial, 0);
}

/* BACK: acknowledged bytes are dirty again; GONE: local bytes were given up. Leaf lock held. */
void pc_record_moved(struct pc_inode *i, int kind, u64 pos, u64 len)
{
	pc_record_event(i->cache, kind, 0, i->id, pos, len, 0, 0);
}
