/*
 * fill.c - read bytes from a backend into folios.
 *
 *   owned                    [======][========]          folios that this request has locked (fill_begin.c)
 *   runs                     |-miss-||mi|  |ss|          calls: contiguous missing bytes, at most max_read
 *
 * Calls cover the missing runs one after another. A run is published when it is complete, folio by folio if it spans
 * several. Bytes at or above remote_size are zeros and need no call. A folio is unlocked as soon as none of its bytes
 * is missing. After a remote change or truncate during the call (inval_seq) the run is read again [K12].
 *
 * Contract 2.3; transition E2. Locks: leaf lock to validate. No waiting here.
 */
#include "io/io.h"

enum { PC_ZEROS = 2, PC_NO_PROGRESS_MAX = 32 };
enum { PC_FILL_PARTS = 3 }; /* a call whose range begins and ends inside read units: surplus, memory, surplus */

static bool owns(const struct pc_request *r, const struct pc_folio *f, u64 index)
{
	return atomic_load_explicit(&f->owner, memory_order_relaxed) == r->id && pc_folio_is(r->inode, f, index);
}

/* The folio at index belongs to r. Owned folios stay in the index, so a lookup without lock finds them. Most lookups
 * are for the folio found last. */
static struct pc_folio *owned_at(struct pc_request *r, u64 index)
{
	struct pc_cache *c = r->inode->cache;
	if (r->recent && owns(r, pc_folio_at(c, r->recent), index))
		return pc_folio_at(c, r->recent);
	u32 id = pc_index_lookup(r->inode, index);
	if (!id || !owns(r, pc_folio_at(c, id), index))
		return NULL;
	r->recent = id;
	return pc_folio_at(c, id);
}

/* Return x mod unit. Most units are 1 and a division costs as much as a lookup. */
static u64 beyond(u64 x, u64 unit)
{
	return unit <= 1 ? 0 : x % unit;
}

/* ---------------------------------------------------------------- runs and calls */

/* A fill unlocks under the leaf lock: if write-back finds a folio owned by a fill, no writer can get the folio before
 * the section ends. A remote change during the fill takes effect now. Leaf lock held. */
static void unlock_owned(struct pc_request *r, struct pc_folio *f)
{
	if (PC_UNLIKELY(r->old_end) && pc_folio_holds_end(r->inode->cache, f, r->old_end))
		pc_folio_cut_behind(r->inode, f, r->old_end);
	if (PC_UNLIKELY(pc_folio_state(f) & PC_F_STALE))
		pc_folio_refresh(r->inode, f);
	r->nr_owned--;
	pc_folio_unlock(r->inode->cache, f);
}

/* Publish [from, to) of an owned folio as valid, zeros from `zeros` on, and unlock the folio if it is complete. Return:
 * 0; -ENOMEM. A completely closed gap always fits: it merges with the valid bytes at its ends. */
static int publish(struct pc_request *r, struct pc_folio *f, u64 from, u64 zeros, u64 to)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f);
	memset(pc_folio_memory(c, f) + (zeros - start), 0, to - zeros);
	pc_inode_leaf_lock(i);
	bool ok = (from == start && to == start + pc_folio_bytes(c, f)) || !pc_folio_ext_ensure(c, f);
	ok = ok && pc_valid_add(c, f, (u32)(from - start), (u32)(to - start));
	if (ok) {
		pc_counted(i, &i->counters.fill_validated, zeros - from);
		pc_counted(i, &i->counters.fill_requested, to - zeros);
		pc_counted(i, &i->counters.fill_zeroed, to - zeros);
		pc_folio_ext_drop(i, f);
		pc_trace_add(c, "filled", i->id, from >> c->page_shift, to - from);
		if (pc_folio_state(f) & PC_F_UPTODATE)
			unlock_owned(r, f);
	}
	pc_inode_leaf_unlock(i);
	return ok ? 0 : -ENOMEM;
}

/* Publish missing bytes at or above remote_size, from @pos on, as zeros without a call. The run that reads the head of
 * a gap that begins below remote_size also zeroes its rest (publish_run): half a gap could need one ragged slot too
 * many. Return: 1 some bytes are still missing (and owned), 0, -ENOMEM. */
static int zero_tail(struct pc_request *r, struct pc_folio *f, u64 pos, u64 remote)
{
	struct pc_cache *c = r->inode->cache;
	u64 start = pc_folio_pos(c, f), first = pc_max(pos, remote);
	u32 from = first > start ? (u32)(first - start) : 0, to = pc_folio_bytes(c, f);
	if (pos < remote && from > 0 && from < to && !pc_valid_covers(c, f, from - 1, from))
		from = pc_missing_until(c, f, from, to);
	while (from < to) {
		from = pc_valid_until(c, f, from, to);
		u32 end = from < to ? pc_missing_until(c, f, from, to) : to;
		if (from == end)
			break;
		u32 owned = r->nr_owned;
		int err = publish(r, f, start + from, start + from, start + end);
		if (err || r->nr_owned < owned)
			return err;
		from = end;
	}
	return 1;
}

/* Find the next missing run of owned folios at or after the cursor, as one contiguous range: [cursor, run_end). Return:
 * 1; 0 none; -ENOMEM. */
static int next_run(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	u64 max = pc_max(i->limits.max_read, 1), pos = r->cursor;
	u64 remote = atomic_load(&i->remote_size), run = 0, run_end = 0;
	while (pos < r->end) {
		struct pc_folio *f = owned_at(r, pos >> c->page_shift);
		if (!f) {
			if (run_end)
				break;
			pos = ((pos >> c->page_shift) + 1) << c->page_shift;
			continue;
		}
		u64 start = pc_folio_pos(c, f), stop = start + pc_folio_bytes(c, f);
		int left = stop > remote && !run_end ? zero_tail(r, f, pos, remote) : 1;
		if (left < 0)
			return left;
		if (left == 0) {
			r->cursor = pos = stop;
			continue;
		}
		u32 size = (u32)(stop - start);
		u32 from = pc_valid_until(c, f, (u32)(pos - start), size);
		if (run_end && from != pos - start)
			break; /* valid bytes end the run */
		if (from == size) {
			/* Bytes before `pos` may still be missing, but this request has no more to do for the folio. */
			pc_inode_leaf_lock(i);
			unlock_owned(r, f);
			pc_inode_leaf_unlock(i);
			r->cursor = pos = stop;
			continue;
		}
		u32 end = pc_missing_until(c, f, from, size);
		u64 run_stop = pc_min(start + end, pc_max(remote, start));
		if (!run_end)
			run = r->cursor = start + from;
		run_end = run_stop;
		pos = start + end;
		if (run_stop != stop || run_end - run >= max)
			break;
	}
	r->run_end = pc_max(run_end, r->cursor);
	r->run_got = 0;
	r->run_new = r->run_end > r->cursor;
	return r->run_new;
}

/* Give up the rest of the run; *why counts its bytes [I-26]. Leaf lock held. */
static void run_drop(struct pc_request *r, u64 *why)
{
	if (r->run_end > r->cursor)
		pc_counted(r->inode, why, r->run_end - r->cursor);
	r->run_end = r->cursor;
	r->run_got = 0;
}

static int sink_ensure(struct pc_request *r, u64 size)
{
	if (r->sink_size >= size)
		return 0;
	u8 *p = pc_scratch_new(size);
	if (!p)
		return -ENOMEM;
	pc_scratch_free(r->sink);
	r->sink = p;
	r->sink_size = size;
	return 0;
}

static size_t part_add(struct pc_part *parts, size_t k, u8 *memory, u64 len, u32 frame, u32 order)
{
	if (len == 0)
		return k;
	if (k && frame != PC_NO_FRAME && parts[k - 1].frame != PC_NO_FRAME &&
	    parts[k - 1].memory + parts[k - 1].len == memory) {
		parts[k - 1].len += len; /* neighbours in the arena too */
		return k;
	}
	parts[k] = (struct pc_part){memory, len, frame, order};
	return k + 1;
}

/* Collect buffers for [pos, pos + len) of owned folios. Return: parts; *covered may be less than len if n parts do not
 * suffice. */
static size_t fill_parts(struct pc_request *r, u64 pos, u64 len, struct pc_part *parts, size_t k, size_t n,
			 u64 *covered)
{
	struct pc_cache *c = r->inode->cache;
	u64 at = pos;
	while (at < pos + len && k < n) {
		struct pc_folio *f = owned_at(r, at >> c->page_shift);
		PC_ASSERT(f);
		u64 start = pc_folio_pos(c, f), stop = pc_min(start + pc_folio_bytes(c, f), pos + len);
		k = part_add(parts, k, pc_folio_memory(c, f) + (at - start), stop - at,
			     atomic_load_explicit(&f->frame, memory_order_relaxed), pc_folio_order(f));
		at = stop;
	}
	*covered = at - pos;
	return k;
}

/* Prepare a call for [from, to) that has no buffers for the surplus of read units: whole units go to the folios, and
 * one unit that is missing in part goes to the sink, from which pc_fill_answer copies. Return: parts; 0: no memory. */
static size_t few_parts(struct pc_request *r, u64 from, u64 to, u64 unit, struct pc_part *parts, size_t n)
{
	u64 head = beyond(from, unit), whole = 0;
	if (!head)
		fill_parts(r, from, to - from, parts, 0, n, &whole);
	whole -= beyond(whole, unit);
	r->sunk = !whole;
	r->call_pos = from - head;
	r->call_len = whole ? whole : unit;
	r->call_stop = pc_min(r->call_pos + r->call_len, to);
	if (whole)
		return fill_parts(r, from, whole, parts, 0, n, &whole);
	return sink_ensure(r, unit) ? 0 : part_add(parts, 0, r->sink, unit, PC_NO_FRAME, 0);
}

/* Prepare a call for [from, to) with a buffer at each end for the surplus of read units. Return: parts; 0: no memory. */
static size_t many_parts(struct pc_request *r, u64 from, u64 to, u64 unit, struct pc_part *parts, size_t n)
{
	u64 head = beyond(from, unit), tail = beyond(to, unit) ? unit - beyond(to, unit) : 0, covered;
	if (sink_ensure(r, head + tail))
		return 0;
	size_t k = part_add(parts, 0, r->sink, head, PC_NO_FRAME, 0);
	/* A call that ends early for lack of parts may need one for the rest of its read unit. */
	k = fill_parts(r, from, to - from, parts, k, n - (unit > 1), &covered);
	if (covered < to - from)
		tail = beyond(from + covered, unit) ? unit - beyond(from + covered, unit) : 0;
	if (sink_ensure(r, head + tail))
		return 0;
	if (head)
		parts[0].memory = r->sink;
	r->sunk = 0;
	r->call_pos = from - head;
	r->call_len = head + covered + tail;
	r->call_stop = from + covered;
	return part_add(parts, k, r->sink + head, tail, PC_NO_FRAME, 0);
}

/* Prepare the next backend call of a fill. The call requests whole read units; bytes outside the missing ones go to a
 * sink [M2]. Staged bytes (S) need separate calls (r->staged), so a run may take calls of both kinds. Return: 1 and
 * parts; 0: nothing is missing; -ENOMEM. */
int pc_fill_call(struct pc_request *r, struct pc_part *parts, size_t n, size_t *nr_parts)
{
	struct pc_inode *i = r->inode;
	if (r->run_end <= r->cursor) {
		int found = next_run(r);
		if (found <= 0)
			return found;
	}
	u64 from = r->cursor + r->run_got, stop;
	r->staged = pc_staged_source(i, from, r->run_end, &stop);
	/* Reads of S are exact; reads of the object cover whole units. */
	u64 unit = r->staged ? 1 : pc_max(i->limits.read_unit, 1), max = pc_max(i->limits.max_read, 1);
	u64 head = beyond(from, unit);
	u64 to = pc_min(stop, from - head + pc_max(max - beyond(max, unit), unit));
	to = pc_min(to, pc_boundary_after(&i->limits, from));
	size_t most = pc_min(n, pc_max(i->limits.max_vectors, 1));
	size_t k = unit > 1 && most < PC_FILL_PARTS ? few_parts(r, from, to, unit, parts, most)
						    : many_parts(r, from, to, unit, parts, most);
	if (!k)
		return -ENOMEM;
	*nr_parts = k;
	pc_inode_leaf_lock(i);
	if (r->run_new)
		pc_counted(i, &i->counters.fill_requested, r->run_end - r->cursor);
	r->run_new = 0;
	pc_counted(i, &i->counters.read_requests, !r->quiet);
	pc_inode_leaf_unlock(i);
	return 1;
}

/* Publish the bytes read so far of the current run, folio by folio: only complete parts. If remote_size ended the run
 * inside a gap, the rest of the gap is zeros. Return: 0, -ENOMEM. */
static int publish_run(struct pc_request *r)
{
	struct pc_cache *c = r->inode->cache;
	u64 got = r->cursor + r->run_got;
	int err = 0;
	while (r->cursor < got && !err) {
		struct pc_folio *f = owned_at(r, r->cursor >> c->page_shift);
		PC_ASSERT(f);
		u64 start = pc_folio_pos(c, f), stop = pc_min(start + pc_folio_bytes(c, f), r->run_end);
		if (got < stop)
			break;
		u32 gap = pc_missing_until(c, f, (u32)(r->cursor - start), pc_folio_bytes(c, f));
		err = publish(r, f, r->cursor, stop, pc_max(start + gap, stop));
		if (!err)
			r->cursor = stop;
	}
	r->run_got = got - r->cursor;
	return err;
}

/* Copy [from, from + len), read into the sink, to the folios. */
static void copy_from_sink(struct pc_request *r, u64 from, u64 len)
{
	struct pc_cache *c = r->inode->cache;
	for (u64 at = from, stop; at < from + len; at = stop) {
		struct pc_folio *f = owned_at(r, at >> c->page_shift);
		PC_ASSERT(f);
		u64 start = pc_folio_pos(c, f);
		stop = pc_min(start + pc_folio_bytes(c, f), from + len);
		memcpy(pc_folio_memory(c, f) + (at - start), r->sink + (at - r->call_pos), stop - at);
	}
}

/* Process the result of the call of pc_fill_call. @n: bytes, counted from call_pos. Return: 0 make the next call (after
 * a short read it requests the rest); -EPROTO n is impossible, or 0 below the end of the file twice; -ESTALE the range
 * was invalidated again and again; -ENOMEM. */
int pc_fill_answer(struct pc_request *r, int64_t n)
{
	struct pc_inode *i = r->inode;
	if (n < 0 || (u64)n > r->call_len)
		return -EPROTO;
	if (r->run_end <= r->cursor)
		return 0; /* its buffers were kept, and there is no memory for a copy */
	u64 from = r->cursor + r->run_got;
	u64 got = r->call_pos + (u64)n > from ? pc_min(r->call_pos + (u64)n, r->call_stop) - from : 0;
	pc_inode_leaf_lock(i);
	pc_counted(i, &i->counters.read_bytes, r->quiet ? 0 : (u64)n);
	bool moved = pc_inval_since(i, r->inval_seq, r->cursor, r->run_end);
	bool ended = got == 0 && from >= atomic_load(&i->remote_size);
	if (moved) {
		r->inval_seq = i->inval_seq;
		run_drop(r, &i->counters.fill_reread); /* plan again: the size may have changed */
	} else if (ended) {
		run_drop(r, &i->counters.fill_dropped);
	}
	pc_inode_leaf_unlock(i);
	if (moved)
		return ++r->rereads > PC_REREADS ? -ESTALE : 0;
	if (ended)
		return 0;
	if (got == 0) {
		/* Less than the head of a read unit is allowed too, but not indefinitely. */
		r->zeros = (u8)(r->zeros + (n ? 1 : PC_NO_PROGRESS_MAX / PC_ZEROS));
		return r->zeros >= PC_NO_PROGRESS_MAX ? -EPROTO : 0;
	}
	r->zeros = 0;
	if (r->sunk)
		copy_from_sink(r, from, got);
	r->run_got += got;
	return publish_run(r);
}

/* After an error or an impossible answer: if the range was invalidated since the request, drop the answer and plan the
 * run again. Context: the call has ended. Return: whether it was; limited as often as late answers may cause
 * rereads. */
bool pc_fill_anew(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	pc_inode_leaf_lock(i);
	bool moved = r->run_end > r->cursor && r->rereads < PC_REREADS &&
		     pc_inval_since(i, r->inval_seq, r->cursor, r->run_end);
	if (moved) {
		r->inval_seq = i->inval_seq;
		run_drop(r, &i->counters.fill_reread);
		r->rereads++;
		r->zeros = 0;
	}
	pc_inode_leaf_unlock(i);
	return moved;
}

/* End a fill, successful or not: unlock the folios it still owns, and remove those that never became valid from the
 * index. */
void pc_fill_settle(struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	if (r->run_end > r->cursor && !r->run_new) {
		pc_inode_leaf_lock(i);
		run_drop(r, &i->counters.fill_dropped);
		pc_inode_leaf_unlock(i);
	}
	for (u64 pos = r->start; r->nr_owned && pos < r->end;) {
		struct pc_folio *f = owned_at(r, pos >> c->page_shift);
		if (!f) {
			pos = ((pos >> c->page_shift) + 1) << c->page_shift;
			continue;
		}
		pos = pc_folio_pos(c, f) + pc_folio_bytes(c, f);
		pc_inode_leaf_lock(i);
		u32 st = pc_folio_state(f);
		bool empty = !(st & (PC_F_UPTODATE | PC_F_LOCAL | PC_F_PINNED)) &&
			     pc_missing_until(c, f, 0, pc_folio_bytes(c, f)) == pc_folio_bytes(c, f);
		if (empty) {
			r->nr_owned--;
			pc_folio_remove(i, f);
		} else {
			unlock_owned(r, f);
		}
		pc_inode_leaf_unlock(i);
	}
	PC_DEBUG_ASSERT(r->nr_owned == 0);
}

/* ---------------------------------------------------------------- buffers that outlive their call */

/* Hand over the buffer for the surplus of read units too: the exporter must free the memory. Missing bytes in it are
 * copied; without memory for the copy they are read again. */
u8 *pc_sink_leave(struct pc_request *r)
{
	u8 *sink = r->sink;
	u64 size = r->sink_size;
	r->sink = NULL;
	r->sink_size = 0;
	if (r->sunk && !sink_ensure(r, size)) {
		memcpy(r->sink, sink, size);
	} else if (r->sunk) {
		pc_inode_leaf_lock(r->inode);
		run_drop(r, &r->inode->counters.fill_dropped);
		pc_inode_leaf_unlock(r->inode);
	}
	return sink;
}

/* There is no fresh memory for the folio, or a view maps its memory: the exporter holds its frame. A clean folio leaves
 * the file with the frame. Local bytes stay, and until the frame is replaced no missing byte beside them becomes valid
 * (PC_F_KEPT). */
static void keep_in_place(struct pc_request *r, struct pc_folio *f, u32 frame)
{
	struct pc_inode *i = r->inode;
	pc_inode_leaf_lock(i);
	run_drop(r, &i->counters.fill_dropped); /* bytes read for the run are dropped */
	pc_frame_hold(i->cache, f, frame);
	if (pc_folio_state(f) & PC_F_LOCAL) {
		atomic_fetch_or(&f->state, PC_F_KEPT);
		unlock_owned(r, f);
	} else {
		r->nr_owned--;
		pc_folio_remove(i, f);
	}
	pc_inode_leaf_unlock(i);
}

/* Give old frames to exporters that still hold the buffers of the call that just ended. Each owned folio that the call
 * touched gets fresh memory with equal content; if that is impossible, see keep_in_place. @frames: room for as many
 * numbers as the fill owns folios; release each with pc_shadow_put when the last exporter goes. Return: number of
 * entries. Context: the fill owns the folios. */
u32 pc_fill_quarantine(struct pc_request *r, u32 *frames)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	u32 k = 0;
	for (u64 pos = r->call_pos; !r->sunk && pos < r->call_pos + r->call_len;) {
		struct pc_folio *f = owned_at(r, pos >> c->page_shift);
		if (!f) {
			pos = ((pos >> c->page_shift) + 1) << c->page_shift;
			continue;
		}
		pos = pc_folio_pos(c, f) + pc_folio_bytes(c, f);
		u32 frame = atomic_load_explicit(&f->frame, memory_order_relaxed);
		if (pc_folio_state(f) & PC_F_PINNED || !pc_folio_replace_frame(i, f, true, 1))
			keep_in_place(r, f, frame);
		frames[k++] = frame;
		atomic_fetch_add_explicit(&c->quarantined, 1, memory_order_relaxed);
		pc_trace_add(c, "quarantined", i->id, pos >> c->page_shift, frame);
	}
	return k;
}
