/*
 * rangemap.c - a set of byte ranges of one file, which memory need not have.
 *
 *   file       |··········████████████████··········██······████████████|      disjoint ranges
 *   directory  chunk 0          chunk 1            ...                          ascending
 *                [pos,end)[pos,end)... up to 128    [pos,end)...
 *
 * Invariant (pc_map_check): ranges ascend, are not empty and do not touch; `bytes` is their sum [I-2].
 *
 * Two levels of sorted arrays keep a change to some 2 KiB of moving. Users: the staged bytes (staged.c), and the bytes of
 * local blocks that this program has not written (written.c).
 *
 * Locks: the inode's leaf lock for everything but the question whether a map is empty. malloc in here never reclaims.
 */
#include <stdlib.h>

#include "state/state.h"

enum { PC_CHUNK_RANGES = 128 };

struct pc_range_chunk {
	u32 nr;
	struct pc_range ranges[PC_CHUNK_RANGES];
};

/* A place in a map: a range, or the end. */
struct place {
	u32 chunk, slot;
};

static struct pc_range *range_at(const struct pc_rangemap *m, struct place at)
{
	return at.chunk < m->nr_chunks ? &m->chunks[at.chunk]->ranges[at.slot] : NULL;
}

static struct place after(const struct pc_rangemap *m, struct place at)
{
	return at.slot + 1 < m->chunks[at.chunk]->nr ? (struct place){at.chunk, at.slot + 1}
						     : (struct place){at.chunk + 1, 0};
}

/* The first range that ends behind `pos`. */
static struct place find(const struct pc_rangemap *m, u64 pos)
{
	u32 low = 0, high = m->nr_chunks;
	while (low < high) {
		u32 mid = (low + high) / 2;
		const struct pc_range_chunk *c = m->chunks[mid];
		if (c->ranges[c->nr - 1].end > pos)
			high = mid;
		else
			low = mid + 1;
	}
	struct place at = {low, 0};
	high = low < m->nr_chunks ? m->chunks[low]->nr : 0;
	while (at.slot < high) {
		u32 mid = (at.slot + high) / 2;
		if (m->chunks[low]->ranges[mid].end > pos)
			high = mid;
		else
			at.slot = mid + 1;
	}
	return at;
}

static void memory_changed(struct pc_cache *c, i64 delta)
{
	atomic_fetch_add_explicit(&c->range_bytes, (u64)delta, memory_order_relaxed);
}

static void bytes_changed(struct pc_rangemap *m, u64 delta)
{
	atomic_fetch_add_explicit(&m->bytes, delta, memory_order_release);
}

/* A new, empty chunk as number `index` of the directory. Return: false: out of memory, nothing has changed. */
static bool chunk_insert(struct pc_cache *cache, struct pc_rangemap *m, u32 index)
{
	if (m->nr_chunks == m->cap_chunks) {
		u32 cap = m->cap_chunks ? m->cap_chunks * 2 : 4;
		struct pc_range_chunk **chunks = realloc(m->chunks, cap * sizeof(struct pc_range_chunk *));
		if (!chunks)
			return false;
		memory_changed(cache, (i64)((cap - m->cap_chunks) * sizeof(struct pc_range_chunk *)));
		m->chunks = chunks;
		m->cap_chunks = cap;
	}
	struct pc_range_chunk *c = malloc(sizeof(*c));
	if (!c)
		return false;
	memory_changed(cache, sizeof(*c));
	c->nr = 0;
	memmove(m->chunks + index + 1, m->chunks + index, (m->nr_chunks - index) * sizeof(struct pc_range_chunk *));
	m->chunks[index] = c;
	m->nr_chunks++;
	return true;
}

static void chunk_remove(struct pc_cache *cache, struct pc_rangemap *m, u32 index)
{
	free(m->chunks[index]);
	memory_changed(cache, -(i64)sizeof(struct pc_range_chunk));
	m->nr_chunks--;
	memmove(m->chunks + index, m->chunks + index + 1, (m->nr_chunks - index) * sizeof(struct pc_range_chunk *));
}

static void erase(struct pc_cache *cache, struct pc_rangemap *m, struct place at)
{
	struct pc_range_chunk *c = m->chunks[at.chunk];
	bytes_changed(m, c->ranges[at.slot].pos - c->ranges[at.slot].end);
	c->nr--;
	m->nr_ranges--;
	memmove(c->ranges + at.slot, c->ranges + at.slot + 1, (c->nr - at.slot) * sizeof(struct pc_range));
	if (c->nr == 0)
		chunk_remove(cache, m, at.chunk);
}

/* Put a range that touches no other in front of the one at `at`. Return: false: out of memory, nothing has changed. */
static bool insert(struct pc_cache *cache, struct pc_rangemap *m, struct place at, u64 pos, u64 end)
{
	if (at.slot == 0 && at.chunk > 0) {
		/* Behind the last of the chunk before: ascending writes fill their chunks. */
		at.chunk--;
		at.slot = m->chunks[at.chunk]->nr;
	}
	if (m->nr_chunks == 0 && !chunk_insert(cache, m, 0))
		return false;
	struct pc_range_chunk *c = m->chunks[at.chunk];
	if (c->nr == PC_CHUNK_RANGES) {
		u32 keep = at.slot == c->nr ? c->nr : c->nr / 2;
		if (!chunk_insert(cache, m, at.chunk + 1))
			return false;
		struct pc_range_chunk *next = m->chunks[at.chunk + 1];
		next->nr = c->nr - keep;
		memcpy(next->ranges, c->ranges + keep, next->nr * sizeof(struct pc_range));
		c->nr = keep;
		if (at.slot > keep || keep == PC_CHUNK_RANGES) {
			at.slot -= keep;
			c = next;
		}
	}
	memmove(c->ranges + at.slot + 1, c->ranges + at.slot, (c->nr - at.slot) * sizeof(struct pc_range));
	c->ranges[at.slot] = (struct pc_range){pos, end};
	c->nr++;
	m->nr_ranges++;
	bytes_changed(m, end - pos);
	return true;
}

/* Add [pos, end); ranges that meet become one. @max: of ranges. Context: leaf lock. Return: false: no room, nothing has
 * changed. */
bool pc_map_add(struct pc_cache *cache, struct pc_rangemap *m, u64 pos, u64 end, u32 max)
{
	struct place at = find(m, pos ? pos - 1 : 0); /* one that only touches is extended, too */
	struct pc_range *r = range_at(m, at);
	if (!r || r->pos > end)
		return m->nr_ranges < max && insert(cache, m, at, pos, end);
	u64 first = pc_min(r->pos, pos), last = pc_max(r->end, end);
	bytes_changed(m, last - first - (r->end - r->pos));
	*r = (struct pc_range){first, last};
	struct place next = after(m, at);
	for (const struct pc_range *n; (n = range_at(m, next)) && n->pos <= last; next = after(m, at)) {
		u64 more = pc_max(n->end, last);
		erase(cache, m, next);
		r = range_at(m, at);
		bytes_changed(m, more - last);
		r->end = last = more;
	}
	return true;
}

static void ended(struct pc_cache *cache, struct pc_rangemap *m)
{
	if (m->nr_ranges || !m->chunks)
		return;
	memory_changed(cache, -(i64)(m->cap_chunks * sizeof(struct pc_range_chunk *)));
	free(m->chunks);
	m->chunks = NULL;
	m->cap_chunks = 0;
}

/* Remove [pos, end). Context: leaf lock. Return: whether any of it was there. */
bool pc_map_cut(struct pc_cache *cache, struct pc_rangemap *m, u64 pos, u64 end)
{
	bool any = false;
	struct place at = find(m, pos);
	for (struct pc_range *r; (r = range_at(m, at)) && r->pos < end; at = find(m, pos)) {
		u64 last = r->end;
		any = true;
		if (r->pos >= pos && last <= end) {
			erase(cache, m, at);
			continue;
		}
		bytes_changed(m, pc_max(r->pos, pos) - pc_min(last, end));
		if (r->pos >= pos) {
			r->pos = end;
			break;
		}
		r->end = pos;
		if (last > end) {
			/* Counted above; a few KiB more are a few that were freed somewhere before, or the process is at its end. */
			bool inserted = insert(cache, m, after(m, at), end, last);
			PC_ASSERT(inserted);
			bytes_changed(m, end - last);
			break;
		}
	}
	ended(cache, m);
	return any;
}

/* Context: leaf lock, or an inode that no other thread can reach. */
void pc_map_clear(struct pc_cache *cache, struct pc_rangemap *m)
{
	while (m->nr_chunks)
		chunk_remove(cache, m, m->nr_chunks - 1);
	m->nr_ranges = 0;
	bytes_changed(m, -pc_map_bytes(m));
	ended(cache, m);
}

/* Context: the destination is empty; the source is afterwards. */
void pc_map_move(struct pc_rangemap *to, struct pc_rangemap *from)
{
	PC_ASSERT(!to->nr_chunks);
	to->chunks = from->chunks;
	to->nr_chunks = from->nr_chunks;
	to->cap_chunks = from->cap_chunks;
	to->nr_ranges = from->nr_ranges;
	atomic_store_explicit(&to->bytes, pc_map_bytes(from), memory_order_release);
	*from = (struct pc_rangemap){0};
}

/* Whether `pos` is in a range, and in *stop how far, up to `end`, the answer holds. Context: leaf lock. */
bool pc_map_at(const struct pc_rangemap *m, u64 pos, u64 end, u64 *stop)
{
	const struct pc_range *r = range_at(m, find(m, pos));
	bool in = r && r->pos <= pos;
	*stop = !r ? end : pc_min(in ? r->end : r->pos, end);
	return in;
}

/* The first range that ends behind `pos`. Return: false: there is none. Context: leaf lock. */
bool pc_map_next(const struct pc_rangemap *m, u64 pos, struct pc_range *out)
{
	const struct pc_range *r = range_at(m, find(m, pos));
	if (r)
		*out = *r;
	return r != NULL;
}

/* The end of the last range; 0: there is none. Context: leaf lock. */
u64 pc_map_end(const struct pc_rangemap *m)
{
	if (!m->nr_chunks)
		return 0;
	const struct pc_range_chunk *c = m->chunks[m->nr_chunks - 1];
	return c->ranges[c->nr - 1].end;
}

bool pc_map_check(const struct pc_rangemap *m, u64 id, struct pc_violation *out)
{
	u64 bytes = 0, end = 0;
	u32 nr = 0;
	for (u32 k = 0; k < m->nr_chunks; k++) {
		const struct pc_range_chunk *c = m->chunks[k];
		if (c->nr == 0 || c->nr > PC_CHUNK_RANGES)
			return pc_violated(out, "I-2", "inode %: % ranges in a chunk", id, c->nr);
		for (u32 j = 0; j < c->nr; j++, nr++) {
			const struct pc_range *r = &c->ranges[j];
			if (r->pos >= r->end || (nr && r->pos <= end))
				return pc_violated(out, "I-2", "inode %: range [%, %) after %", id, r->pos, r->end,
						   end);
			end = r->end;
			bytes += r->end - r->pos;
		}
	}
	if (nr != m->nr_ranges || bytes != pc_map_bytes(m))
		return pc_violated(out, "I-2", "inode %: % ranges of % bytes, counted % of %", id, nr, bytes,
				   m->nr_ranges, pc_map_bytes(m));
	return true;
}
