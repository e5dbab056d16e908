/*
 * hit.c - reads and writes by threads without a Python thread state, such as those of a loop that serves a mount.
 *
 * These threads have no interpreter lock, no Op and no record of waits, so they do only what needs none of these: they
 * copy cached bytes, and write if there is free room. Everything else is -EAGAIN, and a Python thread does it.
 *
 *   handle (Python) ── closed?, window ──> hit ── users ──> inode      is not freed
 *                                           └──── copies ─> cache      keeps its frames mapped
 *
 * Invariant [I-28]: memory that such a thread touches outlives its call. An open hit counts in `users` of its inode and
 * in `copies` of the cache, so neither pc_inode_destroy nor pc_cache_release frees that memory during a concurrent
 * close or detach. Its opener closes the hit under the interpreter's lock when none of its calls runs; the memory of a
 * closed cache may be freed then. The checker (check.c) compares open hits with both numbers.
 *
 * A handle that is closed, detached or replaced sets `closed`, which is checked before and after each copy. While a
 * trace is recorded Python makes all calls, so that the trace has them. Readahead belongs to the handle: `marker` is
 * for it.
 *
 * Locks: a read takes none, a write tries the inode lock and takes the leaf locks of pc_write_whole. Nothing here
 * waits.
 */
#include <stdlib.h>

#include "file/file.h"

struct pc_hit {
	struct pc_inode *inode;
	const u8 *closed; /* the handle's, which outlives this */
	struct pc_readahead *ra; /* the handle's; of it only the place of the last read is set */
	bool readable, writable;
};

/* Let threads without a Python thread state read and write through a handle. @closed: address of the handle's byte that
 * becomes nonzero when the handle is unusable. @ra: address of its readahead state. Both stay valid until
 * pc_hit_close(). Context: any thread. Return: 0; -ENOMEM. */
int pc_hit_open(struct pc_inode *i, uintptr_t closed, uintptr_t ra, bool readable, bool writable, struct pc_hit **out)
{
	struct pc_hit *h = malloc(sizeof(*h));
	if (!h)
		return -ENOMEM;
	*h = (struct pc_hit){i, (const u8 *)closed, (struct pc_readahead *)ra, readable, writable};
	atomic_fetch_add(&i->users, 1);
	atomic_fetch_add(&i->cache->copies, 1);
	atomic_fetch_add(&i->hits_open, 1);
	*out = h;
	return 0;
}

/* Close a hit; none of its calls runs or will run. Context: the interpreter's lock, if there is one: frames of a closed
 * cache may be freed with the last copy (pc_cache_release). */
void pc_hit_close(struct pc_hit *h)
{
	struct pc_inode *i = h->inode;
	struct pc_cache *c = i->cache;
	atomic_fetch_sub(&i->hits_open, 1);
	atomic_fetch_sub(&i->users, 1);
	if (atomic_fetch_sub(&c->copies, 1) == 1)
		pc_cache_release(c);
	free(h);
}

static bool is_open(const struct pc_hit *h)
{
	return !__atomic_load_n(h->closed, __ATOMIC_ACQUIRE);
}

/* Copy [pos, pos + len) if all of it is cached. @marker: receives the page at which the handle must advance its
 * readahead window, or UINT64_MAX. Return: bytes, fewer than len only at the end of the file; -EAGAIN. Context: any
 * thread, no lock. */
int64_t pc_hit_read(struct pc_hit *h, uint64_t pos, void *to, uint64_t len, uint64_t *marker)
{
	struct pc_inode *i = h->inode;
	struct pc_need need;
	*marker = UINT64_MAX;
	if (PC_UNLIKELY(!h->readable || !is_open(h) || len > INT64_MAX || pos > INT64_MAX - len))
		return -EAGAIN;
	need.goes_on = pc_goes_on(h->ra, pos);
	i64 n = pc_read(i, pos, to, len, &need);
	if (PC_UNLIKELY(need.readahead))
		*marker = need.marker;
	PC_SYNC("hit_copied");
	if (PC_UNLIKELY(((u64)n < len && need.kind != PC_NEED_NOTHING) || !is_open(h)))
		return -EAGAIN;
	atomic_fetch_add_explicit(&i->hits_apart, 1, memory_order_relaxed);
	pc_sum(pc_hits_of(i), 1);
	pc_readahead_seen(h->ra, pos, (u64)n);
	return n;
}

static bool may_write(const struct pc_hit *h)
{
	const struct pc_inode *i = h->inode;
	return h->writable && is_open(h) && !pc_some_failed(i) &&
	       !atomic_load_explicit(&i->volume->aborted, memory_order_relaxed);
}

/* Write all of [pos, pos + len), or nothing. Dirty budget is reserved first, since many threads may write at once.
 * While any byte of the file has failed nothing is written, since the handle may have to report the failure. Return:
 * len; -EAGAIN. Context: any thread, no lock. */
int64_t pc_hit_write(struct pc_hit *h, uint64_t pos, const void *from, uint64_t len)
{
	if (PC_UNLIKELY(!may_write(h) || len == 0 || len > PC_WHOLE_MAX || pos > INT64_MAX - len))
		return -EAGAIN;
	return pc_write_try(h->inode, pos, from, len, true, h->closed) ? (i64)len : -EAGAIN;
}

uint64_t pc_hit_size(const struct pc_hit *h)
{
	return pc_inode_size(h->inode);
}

/* The value of PC_BY_TAKEN. Context: takes the leaf lock; any thread. */
uint64_t pc_hit_taken(const struct pc_hit *h)
{
	return pc_inode_number(h->inode, PC_BY_TAKEN);
}

/* Functions for another extension, which cannot link to these by name. */
const struct pc_hit_calls *pc_hit_calls(void)
{
	static const struct pc_hit_calls calls = {sizeof(struct pc_hit_calls), pc_hit_read, pc_hit_write, pc_hit_size,
						  pc_hit_taken};
	return &calls;
}
