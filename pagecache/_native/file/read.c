/*
 * read.c - read cached bytes.
 *
 * The hot path takes no lock and no reference: find the descriptor, note its sequence, compare identity, check that the
 * requested bytes are valid, copy, and check that the sequence is unchanged. The sequence changes if identity or memory
 * changes or V shrinks. A writer that changes content during the copy is a race of values, not of memory (contract 2.4,
 * 2.5). Bytes of a failed attempt are wiped from the caller's buffer.
 *
 * The size is read after the copy: a truncate publishes the new size before it zeroes the tail, so a copy that saw the
 * zeros sees the new size as well.
 *
 * The caller fetches missing bytes: `need` has their range. Nothing here waits.
 */
#include "file/file.h"

/* Record a touch: first one after insertion, readahead marker, S3-FIFO counter. One try: a lost count is harmless.
 *
 * @more: the folio continues after the read. The marker's folio is still being read while room is made for the next
 * window. It counts twice then, as otherwise it would be evicted next from probation. need->readahead: number of
 * counts. */
static void touched(struct pc_folio *f, u32 st, struct pc_need *need, bool more)
{
	u32 hits = 1;
	if (st & (PC_F_READAHEAD | PC_F_UNREAD)) {
		u32 old = pc_folio_reached(f, st);
		if (old & PC_F_READAHEAD && need) {
			need->readahead = 1 + more;
			need->marker = pc_folio_index(f);
			hits += more;
		}
		st = pc_folio_state(f);
	}
	hits = (u32)pc_min(hits, PC_ACCESS_MAX - pc_folio_hits(st));
	if (hits)
		atomic_compare_exchange_strong_explicit(&f->state, &st, st + hits * PC_F_ACCESS_ONE,
							memory_order_relaxed, memory_order_relaxed);
}

static bool usable(const struct pc_cache *c, const struct pc_folio *f, u32 st, u32 from, u32 to)
{
	if (PC_UNLIKELY(st & PC_F_STALE)) {
		u32 b0 = from >> c->page_shift, b1 = (to + c->page_size - 1) >> c->page_shift;
		if (pc_local_count(c, f, b0, b1) < b1 - b0)
			return false;
	}
	return PC_LIKELY(st & PC_F_UPTODATE) || pc_valid_covers(c, f, from, to);
}

enum copy_result { COPY_DONE, COPY_MISSING, COPY_CHANGED };

/* Copy up to `len` bytes at `pos` from one folio; *n: their number. */
static enum copy_result copy_folio(struct pc_inode *i, struct pc_folio *f, u64 pos, u8 *to, u64 len, u64 *n,
				   struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	u32 seq = atomic_load_explicit(&f->seq, memory_order_acquire);
	if (PC_UNLIKELY(seq & 1))
		return COPY_CHANGED;
	PC_POINT("read_before_key");
	u64 key = pc_key(f);
	u64 start = (key >> 4) << c->page_shift;
	u32 size = c->page_size << (key & 15);
	u32 st = pc_folio_state(f);
	if (PC_UNLIKELY(atomic_load_explicit(&f->inode_id, memory_order_relaxed) != i->id || pos - start >= size))
		return COPY_MISSING;
	u32 from = (u32)(pos - start);
	u32 part = (u32)pc_min(len, size - from);
	if (PC_UNLIKELY(!usable(c, f, st, from, from + part)))
		return COPY_MISSING;
	const u8 *memory = pc_folio_memory(c, f) + from;
	PC_SYNC("read_before_copy");
	pc_copy_racy(to, memory, part); /* the sequence decides whether the copy is valid */
	PC_POINT("read_copied");
	atomic_thread_fence(memory_order_acquire);
	if (PC_UNLIKELY(atomic_load_explicit(&f->seq, memory_order_relaxed) != seq)) {
		memset(to, 0, part);
		return COPY_CHANGED;
	}
	/* Small reads one after another are one use of a folio. */
	if ((st & (PC_F_READAHEAD | PC_F_UNREAD)) ||
	    ((st & PC_F_ACCESS) != PC_F_ACCESS && !(from && need && need->goes_on)))
		touched(f, st, need, from + part < size);
	*n = part;
	return COPY_DONE;
}

static void prefetch_next(struct pc_inode *i, u64 pos)
{
	u32 id = pc_index_lookup(i, pos >> i->cache->page_shift);
	if (id) {
		const u8 *memory = pc_folio_memory(i->cache, pc_folio_at(i->cache, id));
		for (int line = 0; line < 4; line++)
			__builtin_prefetch(memory + line * 64);
	}
}

/* Copy from one folio at `pos`; again if it changes meanwhile. Return: bytes, 0: see need. */
static u64 read_part(struct pc_inode *i, u64 pos, u8 *to, u64 len, struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	u64 n = 0;
	for (u32 id, tries = 0; (id = pc_index_lookup(i, pos >> c->page_shift));) {
		PC_POINT("read_found");
		enum copy_result got = copy_folio(i, pc_folio_at(c, id), pos, to, len, &n, need);
		if (PC_LIKELY(got == COPY_DONE))
			return n;
		if (got == COPY_MISSING)
			break;
		pc_pause(tries++);
	}
	need->kind = PC_NEED_FILL;
	need->pos = pos;
	need->len = len;
	return 0;
}

/* Copy the valid bytes of [pos, pos + len). Return: bytes copied from `pos` on. Fewer than len and need->kind NOTHING:
 * the end of the file. Otherwise need has what the next byte waits for: FILL. need->readahead: the read touched a
 * marker. Context: any thread, no lock. GIL: kept; the caller releases it for large copies. Contract: 2.4,
 * 2.5. */
int64_t pc_read(struct pc_inode *i, uint64_t pos, void *to, uint64_t len, struct pc_need *need)
{
	u64 done = 0;
	need->kind = PC_NEED_NOTHING;
	need->readahead = 0;
	u64 size = atomic_load_explicit(&i->size, memory_order_acquire);
	if (PC_UNLIKELY(pos >= size))
		return 0;
	len = pc_min(len, size - pos);
	while (done < len) {
		u64 n = read_part(i, pos + done, (u8 *)to + done, len - done, need);
		if (!n)
			break;
		done += n;
		if (done < len)
			prefetch_next(i, pos + done);
	}
	PC_SYNC("read_before_size");
	size = atomic_load_explicit(&i->size, memory_order_acquire);
	if (PC_UNLIKELY(pos + done >= size)) {
		need->kind = PC_NEED_NOTHING;
		return size > pos ? (int64_t)(size - pos) : 0;
	}
	return (int64_t)done;
}

/* Copy the valid bytes of one folio over `to`, from `pos` on. Return: bytes checked; *laid: how many of them were
 * copied. */
static u64 overlay(struct pc_inode *i, u64 pos, u8 *to, u64 len, u64 *laid)
{
	struct pc_cache *c = i->cache;
	u8 keep[4096];
	u64 n = 0, start, stop;
	*laid = 0;
	/* If a copy fails, another thread is exchanging the folio's frame and will soon have finished. */
	for (u32 tries = 0;;) {
		struct pc_folio *f = pc_folio_spanning(i, pos >> c->page_shift, &start, &stop);
		if (!f)
			return len;
		u32 from = (u32)(pos - start);
		u32 until = pc_valid_until(c, f, from, from + (u32)len);
		if (until == from) {
			until = pc_missing_until(c, f, from, from + (u32)len);
			return until > from ? until - from : len;
		}
		u64 chunk = pc_min(until - from, sizeof(keep));
		enum copy_result got = copy_folio(i, f, pos, keep, chunk, &n, NULL);
		if (got == COPY_CHANGED) {
			pc_pause(tries++);
			continue;
		}
		if (got == COPY_MISSING)
			return chunk; /* stale: storage has newer bytes */
		memcpy(to, keep, n);
		*laid = n;
		return n;
	}
}

/* Copy the valid bytes of [pos, pos + len) over the result of an uncached read. Storage may have returned older bytes
 * than the cache has. @which: NULL, or receives 1 for each byte copied. Return: bytes copied. Context: any thread, no
 * lock. */
int64_t pc_read_local(struct pc_inode *i, uint64_t pos, void *to, uint64_t len, uint8_t *which)
{
	struct pc_cache *c = i->cache;
	u64 total = 0, laid;
	for (u64 done = 0, checked; done < len; done += checked) {
		u64 at = pos + done, page_end = ((at >> c->page_shift) + 1) << c->page_shift;
		u64 part = pc_min(page_end - at, len - done);
		checked = overlay(i, at, (u8 *)to + done, part, &laid);
		if (which)
			memset(which + done, 1, laid);
		total += laid;
	}
	return (int64_t)total;
}

/* Return the first byte of [pos, end) that is not cached and valid; `end` if all are. Context: any thread, no lock. */
u64 pc_first_missing(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_cache *c = i->cache;
	while (pos < end) {
		u64 start, stop;
		struct pc_folio *f = pc_folio_spanning(i, pos >> c->page_shift, &start, &stop);
		if (!f)
			return pos;
		u32 to = (u32)(pc_min(end, stop) - start), from = (u32)(pos - start);
		u32 until = pc_folio_state(f) & PC_F_STALE ? from : pc_valid_until(c, f, from, to);
		pos = start + until;
		if (until < to)
			break;
	}
	return pos;
}

void pc_readahead_seen(struct pc_readahead *ra, uint64_t pos, uint64_t len)
{
	/* Threads without a Python thread state do this, too (hit.c). */
	__atomic_store_n(&ra->prev_end, pos + len, __ATOMIC_RELAXED);
}
