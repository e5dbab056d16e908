/*
 * staged.c - S of one inode: acknowledged, uncommitted bytes that are in the file's spool, so that memory need not have them.
 *
 *   file       |··········████████████████··········██······████████████|      S, disjoint ranges of bytes
 *   folios            [ V  ]      [ V |D ]          [D]                         memory need not have any of it
 *   directory  chunk 0          chunk 1            ...                          ascending
 *                [pos,end)[pos,end)... up to 128    [pos,end)...
 *
 * A write request that stages (`stage`) writes its bytes to the spool, and then to the backend. Its bytes leave W for S in one
 * section (E13). They are readable, so memory need not keep them: as far as its folio is concerned such a byte is clean, is
 * evicted like clean bytes, and is read again from the spool. But it is uncommitted: wherever the contract asks for unstable
 * bytes, S counts as U. If the backend forgets acknowledged bytes, the engine sends S again from the spool
 * (engine/commit/staging.py); nothing changes here.
 *
 * Invariants (pc_staged_check):
 *   ranges ascend, are not empty and do not touch; `bytes` is their sum                       [I-2]
 *   S lies in [0, remote_size): what storage keeps has been acknowledged                      [I-1]
 *   `stamp`, the oldest epoch of a byte that was put in, is PC_STAMP_NONE iff S is empty      [I-3]
 * S and V may overlap: such a byte is as new in memory as in S, or newer and then in L. A byte of S that was written again
 * stays in S: it is dirty or in flight in memory, so no read takes it from S before it is staged again, committed or given up,
 * and giving up cuts S as well. So S only grows until a commit, truncate, punch or discard, and a byte that is not in memory
 * does not come into S while a fill of it runs.
 *
 * Two levels of sorted arrays keep a change to some 2 KiB of moving. The number of ranges is bounded: a file that would need
 * more keeps its bytes in U, where they were without this.
 *
 * Locks: the inode's leaf lock for everything but the question whether S is empty. malloc in here never reclaims.
 */
#include <stdlib.h>

#include "state/state.h"

enum { PC_CHUNK_RANGES = 128, PC_STAGED_RANGES_MAX = 1 << 16 };

struct pc_staged_chunk {
	u32 nr;
	struct pc_range ranges[PC_CHUNK_RANGES];
};

/* A place in S: a range, or the end. */
struct place {
	u32 chunk, slot;
};

static struct pc_range *range_at(const struct pc_staged *s, struct place at)
{
	return at.chunk < s->nr_chunks ? &s->chunks[at.chunk]->ranges[at.slot] : NULL;
}

static struct place after(const struct pc_staged *s, struct place at)
{
	return at.slot + 1 < s->chunks[at.chunk]->nr ? (struct place){at.chunk, at.slot + 1}
						     : (struct place){at.chunk + 1, 0};
}

/* The first range that ends behind `pos`. */
static struct place find(const struct pc_staged *s, u64 pos)
{
	u32 low = 0, high = s->nr_chunks;
	while (low < high) {
		u32 mid = (low + high) / 2;
		const struct pc_staged_chunk *c = s->chunks[mid];
		if (c->ranges[c->nr - 1].end > pos)
			high = mid;
		else
			low = mid + 1;
	}
	struct place at = {low, 0};
	high = low < s->nr_chunks ? s->chunks[low]->nr : 0;
	while (at.slot < high) {
		u32 mid = (at.slot + high) / 2;
		if (s->chunks[low]->ranges[mid].end > pos)
			high = mid;
		else
			at.slot = mid + 1;
	}
	return at;
}

static void memory_changed(struct pc_inode *i, i64 delta)
{
	atomic_fetch_add_explicit(&i->cache->staged_bytes, (u64)delta, memory_order_relaxed);
}

static void bytes_changed(struct pc_inode *i, u64 delta)
{
	atomic_fetch_add_explicit(&i->staged.bytes, delta, memory_order_release);
	pc_sum(&i->volume->sums.staged, delta);
	pc_aside_changed(i, delta);
}

/* A new, empty chunk as number `index` of the directory. Return: false: out of memory, nothing has changed. */
static bool chunk_insert(struct pc_inode *i, u32 index)
{
	struct pc_staged *s = &i->staged;
	if (s->nr_chunks == s->cap_chunks) {
		u32 cap = s->cap_chunks ? s->cap_chunks * 2 : 4;
		struct pc_staged_chunk **chunks = realloc(s->chunks, cap * sizeof(struct pc_staged_chunk *));
		if (!chunks)
			return false;
		memory_changed(i, (i64)((cap - s->cap_chunks) * sizeof(struct pc_staged_chunk *)));
		s->chunks = chunks;
		s->cap_chunks = cap;
	}
	struct pc_staged_chunk *c = malloc(sizeof(*c));
	if (!c)
		return false;
	memory_changed(i, sizeof(*c));
	c->nr = 0;
	memmove(s->chunks + index + 1, s->chunks + index, (s->nr_chunks - index) * sizeof(struct pc_staged_chunk *));
	s->chunks[index] = c;
	s->nr_chunks++;
	return true;
}

static void chunk_remove(struct pc_inode *i, u32 index)
{
	struct pc_staged *s = &i->staged;
	free(s->chunks[index]);
	memory_changed(i, -(i64)sizeof(struct pc_staged_chunk));
	s->nr_chunks--;
	memmove(s->chunks + index, s->chunks + index + 1, (s->nr_chunks - index) * sizeof(struct pc_staged_chunk *));
}

static void erase(struct pc_inode *i, struct place at)
{
	struct pc_staged *s = &i->staged;
	struct pc_staged_chunk *c = s->chunks[at.chunk];
	bytes_changed(i, c->ranges[at.slot].pos - c->ranges[at.slot].end);
	c->nr--;
	s->nr_ranges--;
	memmove(c->ranges + at.slot, c->ranges + at.slot + 1, (c->nr - at.slot) * sizeof(struct pc_range));
	if (c->nr == 0)
		chunk_remove(i, at.chunk);
}

/* Put a range that touches no other in front of the one at `at`. Return: false: out of memory, nothing has changed. */
static bool insert(struct pc_inode *i, struct place at, u64 pos, u64 end)
{
	struct pc_staged *s = &i->staged;
	if (at.slot == 0 && at.chunk > 0) {
		/* Behind the last of the chunk before: ascending writes fill their chunks. */
		at.chunk--;
		at.slot = s->chunks[at.chunk]->nr;
	}
	if (s->nr_chunks == 0 && !chunk_insert(i, 0))
		return false;
	struct pc_staged_chunk *c = s->chunks[at.chunk];
	if (c->nr == PC_CHUNK_RANGES) {
		u32 keep = at.slot == c->nr ? c->nr : c->nr / 2;
		if (!chunk_insert(i, at.chunk + 1))
			return false;
		struct pc_staged_chunk *next = s->chunks[at.chunk + 1];
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
	s->nr_ranges++;
	bytes_changed(i, end - pos);
	return true;
}

/**
 * pc_staged_add() - [pos, end) is in the spool; its oldest byte was written in epoch @stamp.
 *
 * Context: leaf lock. Return: false: no room to remember it, nothing has changed; the bytes have to stay in U.
 */
bool pc_staged_add(struct pc_inode *i, u64 pos, u64 end, u64 stamp)
{
	struct pc_staged *s = &i->staged;
	struct place at = find(s, pos ? pos - 1 : 0); /* one that only touches is extended, too */
	struct pc_range *r = range_at(s, at);
	if (r && r->pos <= end) {
		u64 first = pc_min(r->pos, pos), last = pc_max(r->end, end);
		bytes_changed(i, last - first - (r->end - r->pos));
		*r = (struct pc_range){first, last};
		struct place next = after(s, at);
		for (const struct pc_range *n; (n = range_at(s, next)) && n->pos <= last; next = after(s, at)) {
			u64 more = pc_max(n->end, last);
			erase(i, next);
			r = range_at(s, at);
			bytes_changed(i, more - last);
			r->end = last = more;
		}
	} else if (s->nr_ranges >= PC_STAGED_RANGES_MAX || !insert(i, at, pos, end)) {
		return false;
	}
	s->stamp = pc_min(s->stamp, stamp);
	pc_dirty_list_update(i);
	return true;
}

static void ended(struct pc_inode *i)
{
	struct pc_staged *s = &i->staged;
	if (s->nr_ranges)
		return;
	memory_changed(i, -(i64)(s->cap_chunks * sizeof(struct pc_staged_chunk *)));
	free(s->chunks);
	s->chunks = NULL;
	s->cap_chunks = 0;
	s->stamp = PC_STAMP_NONE;
	pc_dirty_list_update(i);
}

/* [pos, end) leaves S: truncate, punch, discard. Context: leaf lock. Return: whether any of it was there. */
bool pc_staged_cut(struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_staged *s = &i->staged;
	bool any = false;
	struct place at = find(s, pos);
	for (struct pc_range *r; (r = range_at(s, at)) && r->pos < end; at = find(s, pos)) {
		u64 last = r->end;
		any = true;
		if (r->pos >= pos && last <= end) {
			erase(i, at);
			continue;
		}
		bytes_changed(i, pc_max(r->pos, pos) - pc_min(last, end));
		if (r->pos >= pos) {
			r->pos = end;
			break;
		}
		r->end = pos;
		if (last > end) {
			/* Counted above; a few KiB more are a few that were freed somewhere before, or the process is at its end. */
			bool inserted = insert(i, after(s, at), end, last);
			PC_ASSERT(inserted);
			bytes_changed(i, end - last);
			break;
		}
	}
	ended(i);
	return any;
}

/* S is empty: committed. Context: leaf lock, or an inode that no other thread can reach. */
void pc_staged_clear(struct pc_inode *i)
{
	struct pc_staged *s = &i->staged;
	while (s->nr_chunks)
		chunk_remove(i, s->nr_chunks - 1);
	s->nr_ranges = 0;
	bytes_changed(i, -pc_staged_bytes(i));
	ended(i);
}

/* The end of the last range; 0: S is empty. Context: leaf lock. */
u64 pc_staged_end(const struct pc_inode *i)
{
	const struct pc_staged *s = &i->staged;
	if (!s->nr_chunks)
		return 0;
	const struct pc_staged_chunk *c = s->chunks[s->nr_chunks - 1];
	return c->ranges[c->nr - 1].end;
}

/* Whether `pos` is in S, and in *stop how far, up to `end`, the answer holds. Context: leaf lock. */
bool pc_staged_at(const struct pc_inode *i, u64 pos, u64 end, u64 *stop)
{
	const struct pc_range *r = range_at(&i->staged, find(&i->staged, pos));
	bool in = r && r->pos <= pos;
	*stop = !r ? end : pc_min(in ? r->end : r->pos, end);
	return in;
}

/* The first range that ends behind `pos`. Return: false: there is none. Context: leaf lock. */
bool pc_staged_next(const struct pc_inode *i, u64 pos, struct pc_range *out)
{
	const struct pc_range *r = range_at(&i->staged, find(&i->staged, pos));
	if (r)
		*out = *r;
	return r != NULL;
}

/* As pc_staged_at, for callers without a lock. Bytes enter S only before they leave memory, so a fill that
 * has seen them missing sees them here. */
bool pc_staged_source(struct pc_inode *i, u64 pos, u64 end, u64 *stop)
{
	*stop = end;
	if (PC_LIKELY(!pc_staged_bytes(i)))
		return false;
	pc_inode_leaf_lock(i);
	bool in = pc_staged_at(i, pos, end, stop);
	pc_inode_leaf_unlock(i);
	return in;
}

/* The first staged bytes at `from` or behind it: [*pos, *end). Return: false: there are none. */
bool pc_staged_find(struct pc_inode *i, uint64_t from, uint64_t *pos, uint64_t *end)
{
	struct pc_range r;
	pc_inode_leaf_lock(i);
	bool found = pc_staged_next(i, from, &r);
	pc_inode_leaf_unlock(i);
	if (found) {
		*pos = pc_max(r.pos, from);
		*end = r.end;
	}
	return found;
}

uint64_t pc_inode_staged_end(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	u64 end = pc_staged_end(i);
	pc_inode_leaf_unlock(i);
	return end;
}

/* ---------------------------------------------------------------- acknowledged bytes */

/* Whether a block of the pages [index, last) is in a set. Leaf lock held. */
static bool any_block(struct pc_inode *i, enum pc_set set, enum pc_mark mark, u64 index, u64 last)
{
	struct pc_cache *c = i->cache;
	bool any = false;
	for (u32 id; !any && (id = pc_index_next_marked(i, index, last, mark, NULL));) {
		const struct pc_folio *f = pc_folio_at(c, id);
		u64 first = pc_folio_index(f), stop = first + (1ull << pc_folio_order(f));
		u32 b0 = index > first ? (u32)(index - first) : 0, b1 = (u32)(pc_min(stop, last) - first);
		any = pc_set_next(c, f, set, b0, b1) < b1;
		index = stop;
	}
	return any;
}

/* May the backend have anything of L or S in [pos, end), to whole blocks, that is not committed: acknowledged, or back from a call
 * that failed? */
bool pc_acknowledged(struct pc_inode *i, uint64_t pos, uint64_t end)
{
	u64 page = i->cache->page_size, index = pos / page, last = (pc_min(end, UINT64_MAX - page) + page - 1) / page;
	struct pc_range r;
	pc_inode_leaf_lock(i);
	bool any = pc_staged_next(i, index * page, &r) && r.pos < last * page;
	any = any || any_block(i, PC_U, PC_MARK_UNSTABLE, index, last);
	any = any || (pc_came_back(i) && any_block(i, PC_D, PC_MARK_DIRTY, index, last));
	pc_inode_leaf_unlock(i);
	return any;
}

/* ---------------------------------------------------------------- checking */

bool pc_staged_check(const struct pc_inode *i, struct pc_violation *out)
{
	const struct pc_staged *s = &i->staged;
	u64 bytes = 0, end = 0;
	u32 nr = 0;
	for (u32 k = 0; k < s->nr_chunks; k++) {
		const struct pc_staged_chunk *c = s->chunks[k];
		if (c->nr == 0 || c->nr > PC_CHUNK_RANGES)
			return pc_violated(out, "I-2", "inode %llu: %u staged ranges in a chunk",
					   (unsigned long long)i->id, c->nr);
		for (u32 j = 0; j < c->nr; j++, nr++) {
			const struct pc_range *r = &c->ranges[j];
			if (r->pos >= r->end || (nr && r->pos <= end))
				return pc_violated(out, "I-2", "inode %llu: staged [%llu, %llu) after %llu",
						   (unsigned long long)i->id, (unsigned long long)r->pos,
						   (unsigned long long)r->end, (unsigned long long)end);
			end = r->end;
			bytes += r->end - r->pos;
		}
	}
	if (nr != s->nr_ranges || bytes != pc_staged_bytes(i))
		return pc_violated(out, "I-2", "inode %llu: %u staged ranges of %llu bytes, counted %u of %llu",
				   (unsigned long long)i->id, nr, (unsigned long long)bytes, s->nr_ranges,
				   (unsigned long long)pc_staged_bytes(i));
	if (end > pc_inode_remote_size(i))
		return pc_violated(out, "I-1", "inode %llu: staged up to %llu, in storage %llu",
				   (unsigned long long)i->id, (unsigned long long)end,
				   (unsigned long long)pc_inode_remote_size(i));
	if ((s->stamp == PC_STAMP_NONE) != (nr == 0) || (nr && s->stamp > atomic_load(&i->volume->epoch)))
		return pc_violated(out, "I-3", "inode %llu: %u staged ranges, their stamp %llu",
				   (unsigned long long)i->id, nr, (unsigned long long)s->stamp);
	return true;
}
