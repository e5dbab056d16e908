/*
 * readahead.c - how far to read beyond a request.
 *
 *   window  start          start + size - async_size        start + size
 *           |-- requested --|---- read in the background ----|
 *                           ^ marker: reading this folio starts the next window
 *
 * Each handle has one state (struct pc_readahead, in pages): a window, the length of its asynchronous part, and the
 * last page read. A miss at the start of the file or right after the last read opens a window. A hit on the marker
 * moves the window on and lets it grow. Any other read is random access and reads exactly the requested bytes. Windows
 * are best effort: they stop at the memory limit, skip cached pages, and their errors are not reported. Modelled on
 * Linux mm/readahead.c; constants from contract 2.6.
 *
 * Called by the C entry of a read, with no lock. pc_readahead_submit creates the requests; threads of the volume run
 * them.
 */
#include "io/io.h"

static u64 initial_size(u64 nr, u32 max)
{
	u32 pages = (u32)pc_min(nr, max);
	u64 n = pages <= 1 ? 1 : 1u << (32 - __builtin_clz(pages - 1)); /* the next power of two */
	if (n <= max / 32)
		return n * 4;
	if (n <= max / 4)
		return n * 2;
	return max;
}

static u64 grown_size(u64 size, u32 max)
{
	return size <= max / 4 ? size * 4 : max; /* each step takes a round trip to the store */
}

static bool cached(struct pc_inode *i, u64 index, u64 *next)
{
	struct pc_folio *f = pc_folio_cached(i, index);
	if (!f)
		return false;
	*next = pc_folio_after(f);
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

static u32 window_max(struct pc_inode *i, struct pc_readahead *ra)
{
	u32 evicted = atomic_load_explicit(&i->unread_evicted, memory_order_relaxed);
	u32 max = ra->max;
	if (evicted != ra->thrashed) {
		ra->thrashed = evicted;
		max = max / 2;
	}
	/* A window larger than an eighth of the cache would evict itself. */
	return (u32)pc_min(max, atomic_load(&i->cache->arena.capacity) / 8);
}

/* Record a miss of a read of [pos, pos + len). Return: whether a window was opened or moved; the caller submits its
 * async part. */
bool pc_readahead_miss(struct pc_inode *i, struct pc_readahead *ra, uint64_t pos, uint64_t len)
{
	u32 shift = i->cache->page_shift;
	u64 index = pos >> shift, last = (pos + len - 1) >> shift, nr = last - index + 1;
	u32 max = window_max(i, ra);
	if (max == 0)
		return false;
	u64 prev = (__atomic_load_n(&ra->prev_end, __ATOMIC_RELAXED) - 1) >> shift; /* of none: far away */
	bool sequential = index == 0 || index == prev + 1 || index == prev;
	if (sequential) {
		ra->start = index;
		ra->size = pc_max(initial_size(nr, max), 1);
		ra->async_size = ra->size > nr ? ra->size - nr : 0;
		if (ra->size < nr) {
			ra->size = nr;
			ra->async_size = 0;
		}
		return ra->async_size > 0;
	}
	u64 before = run_before(i, index, max);
	if (before <= nr)
		return false;
	ra->start = index;
	ra->size = pc_max(pc_min(before + nr, max), nr + 1);
	ra->async_size = 1;
	return true;
}

/* Record a read of the marker of a window. Return: whether there is a next window to submit. */
bool pc_readahead_marker(struct pc_inode *i, struct pc_readahead *ra, uint64_t marker)
{
	u32 max = window_max(i, ra);
	if (max == 0)
		return false;
	u64 expected = ra->start + ra->size - ra->async_size;
	u64 slack = 1ull << (PC_ORDERS - 1);
	if (ra->size && (marker == expected || (marker <= expected && expected - marker < slack))) {
		ra->start += ra->size;
		ra->size = grown_size(ra->size, max);
	} else {
		/* Another stream's marker: start at the next hole after it. */
		u64 hole = marker, next;
		while (hole - marker <= max && cached(i, hole, &next))
			hole = next;
		if (hole - marker > max)
			return false;
		ra->start = hole;
		ra->size = grown_size(pc_max(hole - marker, 1), max);
	}
	ra->size = pc_min(ra->size, max);
	ra->async_size = ra->size;
	return true;
}

static void set_marker(struct pc_inode *i, u64 index, u64 end)
{
	for (; index < end; index++) {
		struct pc_folio *f = pc_folio_cached(i, index);
		if (!f)
			continue;
		if (pc_folio_state(f) & PC_F_UNREAD) {
			atomic_fetch_or_explicit(&f->state, PC_F_READAHEAD, memory_order_relaxed);
			return;
		}
		index = pc_folio_after(f) - 1;
	}
}

/* Create and queue the requests for the asynchronous part of the window. Stops rather than wait for memory, and while
 * three quarters of the volume's calls are in flight. Return: requests queued. */
uint32_t pc_readahead_submit(struct pc_inode *i, struct pc_readahead *ra)
{
	struct pc_cache *c = i->cache;
	struct pc_volume *v = i->volume;
	u64 pages = (pc_inode_size(i) + c->page_size - 1) >> c->page_shift;
	u64 from = ra->start + ra->size - ra->async_size, end = pc_min(ra->start + ra->size, pages);
	u32 queued = 0;
	if (pc_volume_inflight(v) * 4 > v->max_inflight * 3 && v->max_inflight > 1)
		return 0;
	u64 marker = from;
	struct pc_request *window[8];
	while (from < end && queued < 8) {
		u64 stop;
		struct pc_request *r = pc_fill_window(i, from, end, i->limits.max_read, &stop);
		if (r)
			window[queued++] = r;
		if (stop == UINT64_MAX || stop <= from)
			break;
		from = stop;
	}
	if (queued)
		set_marker(i, marker, end);
	for (u32 k = 0; k < queued; k++)
		pc_fill_submit(window[k], PC_WORK_READAHEAD);
	return queued;
}
