/*
 * readahead.c - how far to read beyond a request.
 *
 *   from            marker            marker          end
 *   |-- read so far --|--- request ---|--- request ---|
 *                     ^ reading this folio extends the stream again
 *
 * Each handle has one state (struct pc_readahead, in pages): the stream that it follows. A miss at the start of the
 * file or right after the last read begins one. Its requests carry markers: reading one means that this request has
 * arrived, and the stream is extended until the pace of the volume's line (pace.c) is in flight behind it, but to no
 * more than a multiple of what was read. Any other read is random access and reads exactly the requested bytes. A long
 * read is extended in the same way up to its end, and then without a waiter.
 *
 * All streams of a cache together have an eighth of it in flight. A stream takes at most eight times the rest of that,
 * so many streams get equal parts and one gets nearly all. Windows are best effort: they stop at the memory limit, skip
 * cached pages, and their errors are not reported. A window whose pages are evicted unread halves.
 *
 * Called by the C entry of a read, with no lock. Threads of the volume run the requests.
 */
#include "io/io.h"

enum { FIRST = 4, NEXT = 16, SHARE = 8, SHRINK_MAX = 3 };
enum { LONG = 4 << 20 }; /* bytes of the parts of a long read at least */
enum { SMALL = 128 << 10 }; /* bytes of a first read up to which FIRST times as many are read, otherwise twice */
#define NO_STREAM UINT64_MAX

static bool cached(struct pc_inode *i, u64 index, u64 *next)
{
	u64 start, stop;
	if (!pc_folio_spanning(i, index, &start, &stop))
		return false;
	*next = stop >> i->cache->page_shift;
	return true;
}

/* Number of consecutive cached pages just before `index`, at most `most`. */
static u64 run_before(struct pc_inode *i, u64 index, u64 most)
{
	u64 n = 0, next;
	while (n < most && index > n && cached(i, index - n - 1, &next))
		n++;
	return n;
}

/* Bytes of one request of `size`, within the limits of the store. */
static u64 within_limits(const struct pc_inode *i, u64 size)
{
	u64 most = pc_max(i->limits.max_read, i->cache->page_size), unit = pc_max(i->limits.read_unit, 1);
	if (!size || size >= most)
		return most;
	return pc_max(pc_max(size - size % unit, unit), i->cache->page_size);
}

/* Bytes of one request of a read of `len`: as many side by side as pay, none longer than the line carries in a
 * moment, if that is known. */
u64 pc_request_size(const struct pc_inode *i, u64 len)
{
	struct pc_pace *p = &i->volume->pace;
	u64 beside = atomic_load_explicit(&p->beside, memory_order_relaxed);
	u64 part = atomic_load_explicit(&p->part, memory_order_relaxed);
	beside = pc_max(pc_min(beside, i->volume->max_inflight), 1);
	len = pc_max(len / beside, LONG) + i->cache->page_size + i->limits.read_unit; /* no rest is left */
	return within_limits(i, part ? pc_min(len, part) : len);
}

/* The line may carry more than was measured. */
static bool grows(const struct pc_volume *v)
{
	return !atomic_load_explicit(&v->pace.part, memory_order_relaxed);
}

/* Pages that may be in flight before their reader, for all streams of a cache. */
static u64 budget(const struct pc_cache *c)
{
	return atomic_load(&c->arena.capacity) / 8;
}

/* Pages that the reader at `at` wants in flight before it. */
static u64 window(struct pc_inode *i, struct pc_readahead *ra, u64 at)
{
	struct pc_cache *c = i->cache;
	u64 most = budget(c), used = atomic_load_explicit(&c->ahead, memory_order_relaxed);
	u64 pages = pc_min(pc_min(most, (most - pc_min(most, used)) * SHARE), ra->max);
	pages = pc_min(pages, pc_pace_window(i->volume) >> c->page_shift);
	u32 evicted = atomic_load_explicit(&i->unread_evicted, memory_order_relaxed);
	if (evicted != ra->evicted) {
		ra->evicted = evicted;
		ra->shrink = pc_min(ra->shrink + 1, SHRINK_MAX);
		ra->calm = at;
	} else if (ra->shrink && (at < ra->calm || at - ra->calm > 4 * (pages >> ra->shrink))) {
		ra->shrink--;
		ra->calm = at;
	}
	return pages >> ra->shrink;
}

/* Pages of one request ahead of a reader: as many as pay fit into the budget, two at least, unless that is small, and more
 * the less of what the line wants in flight does. */
static u64 request_pages(const struct pc_inode *i, u64 most)
{
	u32 shift = i->cache->page_shift;
	u64 request = atomic_load_explicit(&i->volume->pace.request, memory_order_relaxed);
	u64 pages = within_limits(i, request) >> shift, room = budget(i->cache);
	u64 least = pc_max(pc_min(room, 2 * SMALL >> shift), pc_min(room / 2, 8 * SMALL >> shift));
	u64 calls = atomic_load_explicit(&i->volume->pace.beside, memory_order_relaxed);
	if (!grows(i->volume))
		calls = pc_max(calls, 2 * (pc_pace_window(i->volume) >> shift) / pc_max(room, 1) + 1);
	calls = pc_min(calls, pc_min(i->volume->max_inflight, SHARE));
	u64 fit = pc_max(room / pc_max(calls, 2), least);
	return pc_max(pc_min(pc_min(pages, most), fit), 1);
}

/* Requests of one size that begin together share the line, end together, and leave it idle until the next ones are
 * under way: the sizes of several differ by a half. Each of them begins when another one ends, and keeps their distance.
 * While the rate grows a quarter is enough, and fewer requests. */
static u64 uneven(const struct pc_volume *v, u64 piece, u64 index)
{
	return piece - (index * 0x9e3779b97f4a7c15ull >> 32) % (piece / (grows(v) ? 4 : 2) + 1);
}

/* Create and queue requests of `piece` pages up to `target`, as far as memory, the budget and the queue of the volume
 * allow. Return: requests queued. */
static u32 extend(struct pc_inode *i, struct pc_readahead *ra, u64 target, u64 piece, u32 cls, bool even)
{
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	u64 stop, most = budget(c);
	u32 queued = 0;
	target = pc_min(target, (pc_inode_size(i) + c->page_size - 1) >> c->page_shift);
	while (ra->end < target && pc_work_has_room(v)) {
		u64 used = atomic_load_explicit(&c->ahead, memory_order_relaxed);
		u64 left = target - ra->end;
		u64 n = pc_min(even || left < 2 * piece ? piece : uneven(v, piece, ra->end), left);
		if (queued && left < piece / 2 && cls == PC_WORK_READAHEAD)
			break; /* part of the next request */
		if (used + n > most)
			break;
		struct pc_request *r = pc_fill_window(i, ra->end, ra->end + n, true, &stop);
		if (r) {
			r->ahead = (u32)((r->end - r->start) >> c->page_shift);
			atomic_fetch_add_explicit(&c->ahead, r->ahead, memory_order_relaxed);
			atomic_fetch_add_explicit(&v->ahead, r->ahead, memory_order_relaxed);
			pc_fill_submit(r, cls);
			queued++;
		}
		if (stop == UINT64_MAX || stop <= ra->end)
			break;
		ra->end = stop;
	}
	return queued;
}

/* Queue more of a long read that waits for its first bytes, those at `pos`. Return: requests queued. */
uint32_t pc_readahead_rest(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len)
{
	u32 shift = i->cache->page_shift;
	u64 index = pos >> shift, end = ((pos + len - 1) >> shift) + 1;
	if (index >= ra->end || end <= ra->end)
		return 0;
	u64 most = budget(i->cache), piece = pc_max(pc_min(pc_request_size(i, len) >> shift, most / 2), 1);
	most = pc_min(piece * i->volume->max_inflight, most);
	bool even = i->volume->reads_here || end - index <= most; /* none begins later */
	return extend(i, ra, pc_min(end, index + most), piece, PC_WORK_FILL, even);
}

/* Extend a stream whose reader has reached `at` up to `times` as much as it has read, and to what the line needs in
 * flight. Requests that end out of order take memory without a reader: at most as much again. */
static u32 follow(struct pc_inode *i, struct pc_readahead *ra, u64 at, u32 times)
{
	u64 pages = window(i, ra, at), piece = request_pages(i, ra->max >> ra->shrink);
	u64 flying = atomic_load_explicit(&i->volume->ahead, memory_order_relaxed);
	u64 room = pages > flying ? pages - flying : 0, far = at + 2 * pc_max(pages, piece),
	    grown = ra->from + times * (at - ra->from);
	if (!pages)
		return 0;
	if (!flying || ra->end < at + piece / 4) /* beside other streams that have filled the line */
		room = pc_max(room, piece);
	if (room % piece * 2 >= piece)
		room += piece; /* less than half of a request is left to the next one */
	if (grown < far && grown < ra->end + pc_min(piece, ra->end - ra->from) / 2)
		return 0; /* it is worth a request when more was read */
	bool even = i->volume->reads_here || (u64)ra->max << i->cache->page_shift <= 2 * SMALL; /* no line is shared */
	return extend(i, ra, pc_min(pc_min(grown, far), ra->end + room / piece * piece), piece, PC_WORK_READAHEAD,
		      even);
}

/* Another request has arrived while the reader waits for the bytes at `pos`. Return: requests queued. */
uint32_t pc_readahead_waits(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len)
{
	u64 index = pos >> i->cache->page_shift;
	u32 queued = pc_readahead_rest(i, ra, pos, len);
	bool streams = ra->max && ra->from <= index && index < ra->end;
	return streams ? queued + follow(i, ra, index, NEXT) : queued;
}

/* Record a miss of a read of [pos, pos + len), whose bytes up to `stop` are requested. Queue the rest, and readahead.
 * Return: requests queued. */
uint32_t pc_readahead_miss(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len, uint64_t stop)
{
	u32 shift = i->cache->page_shift;
	u64 index = pos >> shift, last = (pos + len - 1) >> shift, nr = last - index + 1, from = index;
	u64 prev = (__atomic_load_n(&ra->prev_end, __ATOMIC_RELAXED) - 1) >> shift; /* of none: far away */
	bool known = ra->from <= index && index <= ra->end;
	bool sequential = ra->max && (index == 0 || index == prev + 1 || index == prev || (known && index == ra->end));
	if (!sequential && ra->max) {
		u64 before = run_before(i, index, pc_min(ra->max, budget(i->cache)));
		sequential = before > nr;
		from = index - before;
	}
	ra->end = pc_max(stop >> shift, index + 1); /* whatever was requested behind it may be gone too */
	if (!sequential || !known || index == 0)
		ra->from = sequential ? from : NO_STREAM;
	u32 queued = pc_readahead_rest(i, ra, pos, len);
	if (!sequential || ra->end <= last)
		return queued;
	bool first = ra->from == index;
	return queued + follow(i, ra, last + 1, !first ? NEXT : nr << shift <= SMALL ? FIRST : 2);
}

/* Record a read of a marker, and extend its stream. Return: requests queued. */
uint32_t pc_readahead_marker(struct pc_inode *i, struct pc_readahead *ra, uint64_t marker)
{
	u64 most = pc_min(ra->max, budget(i->cache)), hole = marker, next;
	if (!most || ra->from == NO_STREAM)
		return 0; /* of a long read, or of a reader that follows no stream */
	if (marker < ra->from || marker >= ra->end) {
		/* Another stream's marker: go on at the next hole after it. */
		while (hole - marker <= most && cached(i, hole, &next))
			hole = next;
		if (hole - marker > most)
			return 0;
		ra->end = hole;
		ra->from = marker - pc_min(marker, hole - marker);
	}
	return follow(i, ra, marker, NEXT);
}
