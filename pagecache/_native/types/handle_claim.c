/*
 * handle_claim.c - the slow path of a write: claim resources piece by piece, and wait for those that are taken.
 *
 *   room     dirty budget for the piece; the engine waits for it (engine/throttle.py)
 *   lock     the inode lock; no thread waits for it while it holds budget
 *   copy     pc_write, with the lock; fill missing bytes, wait for folios that are locked or in flight
 *   memory   without the lock, which only appends and zeros keep over all their pieces
 *
 * take_piece() does the first three for writes, appends and zeros; its caller says whether the lock is held already.
 * An Op owns the inode lock, and releases it in any case.
 */
#include "types/handle.h"

/* ---------------------------------------------------------------- a write that may wait */

/* The operation owns the inode lock, and has the place of the dirty budget. */
struct writing {
	struct handle *h;
	struct op *op;       /* NULL: could not be made */
	u64 pos, done;       /* accepted bytes: [pos, pos + done) */
	struct pc_need need; /* of the last copy */
};

/* Begin a write that may wait. Return: PC_DONE, PC_FAILED; end_writing() in any case. */
static enum pc_result begin_writing(struct writing *w, struct handle *h, u64 pos, u64 done)
{
	struct op *op = pc_op_caller(h->core, h->inode);
	*w = (struct writing){.h = h, .op = op, .pos = pos, .done = done};
	if (!op)
		return PC_FAILED;
	int err = pc_check_reentry(h->inode, h->core, "a write from inside a backend call of the same volume");
	return err ? PC_FAILED : PC_DONE;
}

/* Release everything; the exception of a failure gets the number of accepted bytes. Return: the result. */
static enum pc_result end_writing(struct writing *w, enum pc_result result)
{
	if (w->op) {
		pc_op_settle(w->op);
		Py_DECREF(w->op);
	}
	if (result == PC_FAILED)
		pc_characters_written(w->done);
	return result;
}

/* ---------------------------------------------------------------- the inode lock */

static bool try_lock(struct op *op)
{
	if (!pc_inode_lock_try(op->inode, PC_EXCLUSIVE))
		return false;
	caller_of(op)->holds |= PC_HOLD_LOCK_X;
	return true;
}

static enum pc_result lock_inode(struct op *op)
{
	return PC_LIKELY(try_lock(op)) || !pc_op_acquire(op, PC_HOLD_LOCK_X, -1) ? PC_DONE : PC_FAILED;
}

/* Take the inode lock for a whole write. A file that was closed during the wait gets no bytes. */
static enum pc_result lock_throughout(struct writing *w)
{
	enum pc_result result = lock_inode(w->op);
	return result == PC_DONE && check_writable(w->h) ? PC_FAILED : result;
}

/* ---------------------------------------------------------------- dirty budget and memory */

/* Wait until [pos, pos + len) has dirty budget, which the place then holds. Return: PC_DONE, PC_FAILED; close the place
 * in any case. */
static enum pc_result wait_for_room(struct writing *w, u64 pos, u64 len)
{
	struct pc_inode *i = w->h->inode;
	struct pc_place *place = &caller_of(w->op)->place;
	pc_place_open(i, place, pos, len);
	if (PC_LIKELY(pc_room_take(i, place, false) && !pc_some_failed(i)))
		return PC_DONE;
	place->thread = w->op->thread;
	atomic_fetch_add(&i->volume->room.throttled, 1);
	enum pc_result result = pc_engine_room(i, pos, len, place, caller_of(w->op)->holds & PC_HOLD_LOCK_X);
	atomic_fetch_sub(&i->volume->room.throttled, 1);
	return result;
}

/* Claim dirty budget for [pos, pos + len), and the inode lock. No thread waits for the lock while it holds budget: the
 * lock's holder may itself wait for budget (an append, zeros), and both would wait forever. Return: PC_DONE, PC_FAILED;
 * close the place in any case. */
static enum pc_result claim(struct writing *w, u64 pos, u64 len)
{
	struct pc_inode *i = w->h->inode;
	struct op *op = w->op;
	struct pc_place *place = &caller_of(op)->place;
	for (int round = 0;; round++) {
		enum pc_result result = wait_for_room(w, pos, len);
		if (PC_LIKELY(result == PC_FAILED || try_lock(op)))
			return result;
		pc_place_close(i, place);
		if (lock_inode(op) == PC_FAILED)
			return PC_FAILED;
		pc_place_open(i, place, pos, len);
		if (pc_room_take(i, place, true))
			return PC_DONE;
		if (round == PC_ROUNDS_BUDGET)
			return wait_for_room(w, pos, len);
		pc_op_unlock(op);
	}
}

/* ---------------------------------------------------------------- pieces */

/* Length of the pieces of a long write: several writers can each have room for one below the dirty limit. */
static u64 piece_of(struct pc_inode *i, u64 len)
{
	struct pc_cache *c = i->cache;
	u64 limit = pc_min(atomic_load_explicit(&c->dirty_limit, memory_order_relaxed),
			   atomic_load_explicit(&i->volume->room.limit, memory_order_relaxed));
	u64 share = limit / 4 << c->page_shift;
	return pc_min(len, pc_min(PC_PIECE, pc_max(share, c->page_size)));
}

/* Copy a piece, with budget and the inode lock held; count accepted bytes. Return: PC_DONE: all; PC_UNCACHED,
 * PC_FAILED: some. */
static enum pc_result copy_piece(struct writing *w, const u8 *from, u64 len)
{
	enum pc_result result = PC_TRY_AGAIN;
	for (u64 copied = 0; result == PC_TRY_AGAIN;) {
		u64 n = (u64)pc_core_write(w->h, w->pos + w->done, from + copied, len - copied, &w->need);
		copied += n;
		w->done += n;
		result = copied == len ? PC_DONE : pc_provide(w->h->core, w->h->inode, &w->need);
	}
	return result;
}

/* Take one piece: budget and lock, then the bytes, and wait for memory if some were left over. @locked: the caller holds
 * the inode lock, and keeps it; otherwise it is held during the copy only. Return: PC_DONE: go on from w->done, which may
 * have advanced by less than a piece; PC_FAILED. */
static enum pc_result take_piece(struct writing *w, const u8 *from, u64 len, bool locked)
{
	u64 pos = w->pos + w->done;
	enum pc_result result = locked ? wait_for_room(w, pos, len) : claim(w, pos, len);
	if (result == PC_DONE && !locked && check_writable(w->h))
		result = PC_FAILED; /* closed during a wait: no more bytes enter the file */
	if (result == PC_DONE)
		result = copy_piece(w, from, len);
	pc_place_close(w->h->inode, &caller_of(w->op)->place);
	if (!locked && result != PC_FAILED)
		pc_op_unlock(w->op); /* after a failure the end of the operation does it */
	return result == PC_UNCACHED ? pc_engine_room(w->h->inode, 0, 0, NULL, locked)
				     : result; /* until memory may be free */
}

/* Write the bytes of [from, from + len) after the first `done`, with all waits that may be needed before and in between. The
 * inode lock is free while it waits; an append, whose offset *pos receives, keeps it throughout. @locked: the caller holds
 * that lock, and wrote the first bytes of an append at *pos; this call owns it then. Return: PC_DONE, PC_FAILED. */
enum pc_result pc_write_slow(struct handle *h, u64 *pos, const u8 *from, u64 len, u64 done, bool append, bool locked)
{
	struct pc_inode *i = h->inode;
	struct writing w;
	enum pc_result result = begin_writing(&w, h, *pos, done);
	if (locked && w.op)
		caller_of(w.op)->holds |= PC_HOLD_LOCK_X;
	else if (locked)
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	else if (append && result == PC_DONE)
		result = lock_throughout(&w);
	while (result == PC_DONE && w.done < len) {
		if (append && w.done == 0)
			*pos = w.pos = pc_inode_size(i);
		if (PC_UNLIKELY(w.pos + len > INT64_MAX))
			result = pc_raise(h->core, i->user, "too large", "the write would end beyond 2**63 - 1");
		else
			result = take_piece(&w, from + w.done, piece_of(i, len - w.done), append);
	}
	return end_writing(&w, result);
}

/* Write zeros over [pos, pos + len) of the file as it is now; the size stays. As for an append, keep the lock over all
 * pieces. */
static enum pc_result write_zeros(struct writing *w, u64 len)
{
	static const u8 zeros[64 << 10];
	struct pc_inode *i = w->h->inode;
	enum pc_result result = lock_throughout(w);
	u64 size = pc_inode_size(i), total = w->pos < size ? pc_min(len, size - w->pos) : 0;
	while (result == PC_DONE && w->done < total)
		result = take_piece(w, zeros, pc_min(piece_of(i, total - w->done), sizeof(zeros)), true);
	return result;
}

PyObject *handle_zero(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	unsigned long long pos, len;
	if (!PyArg_ParseTuple(args, "KK", &pos, &len) || check_writable(h))
		return NULL;
	struct writing w;
	enum pc_result result = begin_writing(&w, h, pos, 0);
	if (result == PC_DONE)
		result = write_zeros(&w, len);
	return end_writing(&w, result) == PC_FAILED ? NULL : Py_NewRef(Py_None);
}
