/*
 * fill_begin.c - the folios that a fill owns: those of a range with missing bytes, or a readahead window.
 *
 *   range         |---------------------------|
 *   folios        [  valid  ][ none ][ part.. ][ locked by another fill ...
 *   owned                    [======][========]          each locked, owner = this request
 *
 * A fill is one request that owns the locks of all folios it will touch; it stops before a folio that another request
 * owns and never waits for it [K10]. fill.c reads the bytes.
 *
 * Contract 2.3; transition E1. Locks: leaf lock to show an owner. No waiting here.
 */
#include "io/io.h"

enum { PC_RETRIES = 8 };

enum own_result { OWN_TAKEN, OWN_VALID, OWN_LOCKED, OWN_AGAIN, OWN_FULL };

/* Own an existing folio if any byte of [from, to) is missing in it. */
static enum own_result own_present(struct pc_request *r, struct pc_folio *f, u64 index, u64 pos, u64 end, u64 *next)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	u64 start, stop;
	if (pc_folio_spanning(i, index, &start, &stop) != f)
		return OWN_AGAIN;
	u32 from = (u32)(pc_max(pos, start) - start), to = (u32)(pc_min(end, stop) - start);
	*next = stop >> c->page_shift;
	if (!(pc_folio_state(f) & PC_F_STALE) && pc_valid_covers(c, f, from, to) && pc_folio_is(i, f, index))
		return OWN_VALID;
	int err = pc_folio_trylock_at(i, f, index);
	if (err)
		return err == -EAGAIN ? OWN_LOCKED : OWN_AGAIN;
	PC_SYNC("fill_locked");
	if (PC_UNLIKELY(pc_folio_state(f) & PC_F_KEPT) && !pc_folio_unkeep(i, f)) {
		pc_folio_unlock(c, f);
		return OWN_FULL;
	}
	pc_inode_leaf_lock(i);
	if (pc_folio_state(f) & PC_F_STALE)
		pc_folio_refresh(i, f);
	bool invalidating = atomic_load(&i->inval_x), valid = pc_valid_covers(c, f, from, to);
	/* After a pass can see an owner, the folio may be unlocked only in a leaf section (see unlock_owned). */
	if (!invalidating && !valid)
		atomic_store_explicit(&f->owner, r->id, memory_order_relaxed);
	pc_inode_leaf_unlock(i);
	if (invalidating || valid) {
		pc_folio_unlock(c, f);
		return invalidating ? OWN_AGAIN : OWN_VALID;
	}
	r->first = r->nr_owned++ ? r->first : pc_folio_id(c, f);
	return OWN_TAKEN;
}

/* Own the folio with missing bytes at `index`, or create one. Return: 0 (see *next), or the reason to stop: -EEXIST
 * locked, -ENOMEM, -EBUSY, -EAGAIN. */
static int own(struct pc_request *r, u64 index, u64 pos, u64 end, u64 *next, struct pc_need *need)
{
	struct pc_inode *i = r->inode;
	struct pc_cache *c = i->cache;
	u64 last = (end + c->page_size - 1) >> c->page_shift;
	for (int tries = 0; tries < PC_RETRIES; tries++) {
		u32 id = pc_index_lookup(i, index);
		if (id) {
			switch (own_present(r, pc_folio_at(c, id), index, pos, end, next)) {
			case OWN_LOCKED:
				need->folio = id;
				need->owner = atomic_load(&pc_folio_at(c, id)->owner);
				return -EEXIST;
			case OWN_AGAIN:
				if (atomic_load(&i->inval_x))
					return -EBUSY;
				break;
			case OWN_FULL: return -ENOMEM;
			default: return 0;
			}
		}
		struct pc_folio *f;
		int err = pc_folio_create(i, index, pc_order_within(c, index, last), r->id, 0, &f);
		if (!err) {
			r->first = r->nr_owned++ ? r->first : pc_folio_id(c, f);
			*next = pc_folio_after(f);
			return 0;
		}
		if (err != -EEXIST)
			return err;
	}
	return -EAGAIN;
}

static struct pc_request *fill_new(struct pc_inode *i, u64 pos)
{
	struct pc_request *r = pc_request_new(i, PC_REQ_FILL);
	if (!r)
		return NULL;
	r->start = r->end = pos >> i->cache->page_shift << i->cache->page_shift;
	r->cursor = r->start;
	r->inval_seq = atomic_load_explicit(&i->inval_seq, memory_order_acquire);
	return r;
}

/* Begin a fill within the limit of one request. Return: as pc_fill_begin. */
static int begin_within(struct pc_inode *i, u64 pos, u64 end, struct pc_need *need, struct pc_request **out)
{
	struct pc_cache *c = i->cache;
	struct pc_request *r = fill_new(i, pos);
	if (!r)
		return -ENOMEM;
	int err = 0;
	for (u64 index = pos >> c->page_shift, next = index; index << c->page_shift < end; index = next) {
		err = own(r, index, pos, end, &next, need);
		if (err)
			break;
		r->end = next << c->page_shift;
	}
	if (r->nr_owned) {
		*out = r;
		return 0;
	}
	pc_request_settle(r);
	need->kind = err == -EEXIST ? PC_NEED_FOLIO : err == -EBUSY ? PC_NEED_INVALIDATE : PC_NEED_NOTHING;
	return err == -EEXIST || err == -EBUSY ? -EAGAIN : err == -EAGAIN ? 0 : err;
}

/* Take ownership of missing bytes in [pos, pos + len), as far as possible without waiting. One request covers at most
 * pc_request_size bytes, from the first missing one. A caller that needs all of a large folio repeats the call with the same
 * range until nothing is missing. Return: 0 and a request; 0 and NULL: nothing is missing now, check again; -EAGAIN:
 * wait as need says (FOLIO, INVALIDATE); -ENOMEM: no memory can be freed: read uncached. Context: no leaf lock; may
 * reclaim. */
int pc_fill_begin(struct pc_inode *i, uint64_t pos, uint64_t len, struct pc_need *need, struct pc_request **out)
{
	u64 most = pc_request_size(i, len), end = pos + len;
	*out = NULL;
	int err = 0;
	for (u64 stop; !err && !*out && pos < end; pos = stop) {
		stop = pos + pc_min(end - pos, most);
		err = begin_within(i, pos, stop, need, out);
	}
	return err;
}

/* Begin a fill of pages [index, end) of a readahead window: like pc_fill_begin, but existing folios are skipped, whatever
 * their state. @marked: reading its first folio extends the window. */
struct pc_request *pc_fill_window(struct pc_inode *i, u64 index, u64 end, bool marked, u64 *stop)
{
	struct pc_cache *c = i->cache;
	struct pc_request *r = fill_new(i, index << c->page_shift);
	*stop = index;
	if (!r)
		return NULL;
	while (index < end) {
		u64 begin, behind;
		if (pc_folio_spanning(i, index, &begin, &behind)) {
			index = behind >> c->page_shift;
			continue;
		}
		struct pc_folio *f;
		u32 state = PC_F_UNREAD | (marked && !r->nr_owned ? PC_F_READAHEAD : 0);
		int err = pc_folio_create(i, index, pc_order_within(c, index, end), r->id, state, &f);
		if (err == -EEXIST)
			continue;
		if (err) {
			*stop = UINT64_MAX;
			break;
		}
		r->nr_owned++;
		index = pc_folio_after(f);
		r->end = index << c->page_shift;
	}
	if (*stop != UINT64_MAX)
		*stop = index;
	if (!r->nr_owned) {
		pc_request_settle(r);
		return NULL;
	}
	return r;
}
