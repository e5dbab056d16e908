/*
 * handle_claim.c - the slow path of a write: claim resources piece by piece, and wait for those that are taken.
 *
 *   room     dirty budget for the piece; the engine waits for it (engine/throttle.py)
 *   lock     the inode lock; no thread waits for it while it holds budget
 *   copy     pc_write, with the lock; fill missing bytes, wait for folios that are locked or in flight
 *   memory   without the lock, which only appends and zeros keep over all their pieces
 *
 * An Op owns the inode lock, and releases it in any case.
 */
#include "types/handle.h"
#include "types/handle_write.h"

/* Length of the pieces of a long write: several writers can each have room for one below the dirty limit. */
static u64 piece_of(struct pc_inode *i, u64 len)
{
	struct pc_cache *c = i->cache;
	u64 limit = pc_min(atomic_load_explicit(&c->dirty_limit, memory_order_relaxed),
			   atomic_load_explicit(&i->volume->room.limit, memory_order_relaxed));
	u64 share = limit / 4 << c->page_shift;
	return pc_min(len, pc_min(PC_PIECE, pc_max(share, c->page_size)));
}

/* engine.write_back(pos, len), engine.write_through(pos, len). Return: 0, -1. */
int pc_call_engine(struct handle *h, PyObject *method, u64 a, u64 b)
{
	PyObject *engine = h->inode->user, *x = PyLong_FromUnsignedLongLong(a), *y = PyLong_FromUnsignedLongLong(b);
	PyObject *result = x && y ? PyObject_CallMethodObjArgs(engine, method, x, y, NULL) : NULL;
	Py_XDECREF(x);
	Py_XDECREF(y);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* engine.room(pos, length, place), which may wait. Return: 0, -1. */
static int engine_room(struct handle *h, u64 pos, u64 len, const struct pc_place *place)
{
	PyObject *engine = h->inode->user, *where = PyLong_FromUnsignedLongLong(pos);
	PyObject *length = PyLong_FromUnsignedLongLong(len), *address = PyLong_FromUnsignedLongLong((uintptr_t)place);
	PyObject *result = where && length && address
				   ? PyObject_CallMethodObjArgs(engine, pc_str_room, where, length, address, NULL)
				   : NULL;
	Py_XDECREF(where);
	Py_XDECREF(length);
	Py_XDECREF(address);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* Wait until the piece has dirty budget, which the place then holds. Return: 0, -1 exception; close the place in any
 * case. */
static int wait_for_room(struct handle *h, struct pc_place *place, u64 pos, u64 len)
{
	struct pc_inode *i = h->inode;
	pc_place_open(i, place, pos, len);
	if (PC_LIKELY(pc_room_take(i, place, false) && !pc_some_failed(i)))
		return 0;
	atomic_fetch_add(&i->volume->room.asking, 1);
	int err = engine_room(h, pos, len, place);
	atomic_fetch_sub(&i->volume->room.asking, 1);
	return err;
}

/* Wait until memory may be free. */
static int wait_for_memory(struct handle *h)
{
	return engine_room(h, 0, 0, NULL);
}

/* Provide bytes that a folio lacks, or wait for a folio, with the inode lock held. Return: 0, -1; 1: needs the lock
 * released. */
static int provide_locked(struct handle *h, const struct pc_need *need)
{
	if (need->kind == PC_NEED_FILL) {
		int next = pc_run_fill(h->core, h->inode, need->pos, need->len, NULL);
		return next > 0 ? 1 : next;
	}
	if (need->kind == PC_NEED_FOLIO || need->kind == PC_NEED_FLIGHT)
		return pc_wait_folio(h->inode, h->core, need);
	if (need->kind == PC_NEED_OPEN)
		return pc_raise(h->core, h->inode->user, "shutdown", "the volume is being detached");
	return 1;
}

/* Write the piece [pos, pos + len) with the inode lock held. Return: bytes taken; *err: exception set. */
static u64 write_locked(struct handle *h, u64 pos, const u8 *from, u64 len, struct pc_need *need, int *err)
{
	u64 done = 0;
	*err = 0;
	while (done < len && *err == 0) {
		i64 n = pc_core_write(h, pos + done, from + done, len - done, need);
		done += (u64)n;
		if (done < len)
			*err = provide_locked(h, need);
	}
	return done;
}

static int lock_inode(struct op *op, struct handle *h)
{
	if (PC_LIKELY(pc_inode_lock_try(h->inode, PC_EXCLUSIVE))) {
		caller_of(op)->holds |= PC_HOLD_LOCK_X;
		pc_op_claims(op);
		return 0;
	}
	return pc_op_acquire(op, PC_HOLD_LOCK_X, -1);
}

/* Claim dirty budget for a piece, and the inode lock. No thread waits for the lock while it holds budget: the lock's
 * holder may itself wait for budget (an append, zeros), and both would wait forever. Return: 0, -1 exception; close the
 * place in any case. */
static int claim(struct handle *h, struct op *op, struct pc_place *place, u64 pos, u64 len)
{
	struct pc_inode *i = h->inode;
	for (int round = 0;; round++) {
		int err = wait_for_room(h, place, pos, len);
		if (PC_LIKELY(err || pc_inode_lock_try(i, PC_EXCLUSIVE))) {
			if (!err) {
				caller_of(op)->holds |= PC_HOLD_LOCK_X;
				pc_op_claims(op);
			}
			return err;
		}
		pc_place_close(i, place);
		if (lock_inode(op, h))
			return -1;
		pc_place_open(i, place, pos, len);
		if (pc_room_take(i, place, true))
			return 0;
		if (round == PC_ROUNDS_BUDGET)
			return wait_for_room(h, place, pos, len);
		pc_inode_lock_release(i, PC_EXCLUSIVE);
		caller_of(op)->holds &= ~(u32)PC_HOLD_LOCK_X;
	}
}

/* Describe an operation, for reports about waits for its locks. */
static void describe(struct op *op, PyObject *verb, u64 pos, u64 len)
{
	struct op_caller *own = caller_of(op);
	own->what = Py_NewRef(verb);
	own->pos = pos;
	own->end = pos + len;
	pc_op_claims(op);
}

/* Write with all waits that may be needed before and in between. append_pos: NULL, or an append: receives the offset;
 * `done` bytes of it are already written, with the inode lock, which this call owns then. */
int pc_write_slow(struct handle *h, u64 pos, const u8 *from, u64 len, u64 done, u64 *append_pos)
{
	struct pc_inode *i = h->inode;
	struct pc_need need;
	struct op *op = pc_op_new(h->core, i, PC_OP_CALLER, NULL);
	int err = op ? pc_check_reentry(i, h->core, "a write from inside a backend call of the same volume") : -1;
	bool append = append_pos != NULL;
	if (op)
		describe(op, append ? pc_str_append : pc_str_write, pos, len);
	if (append && done && op)
		caller_of(op)->holds |= PC_HOLD_LOCK_X;
	else if (append && done)
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	while (!err && done < len) {
		u64 piece = piece_of(i, len - done);
		struct pc_place *place = &caller_of(op)->place;
		pc_place_open(i, place, 0, 0);
		bool locked = caller_of(op)->holds & PC_HOLD_LOCK_X;
		if (!append)
			err = claim(h, op, place, pos + done, piece);
		else if (!locked)
			err = lock_inode(op, h);
		if (!err && !locked && check_writable(h))
			err = -1; /* closed during a wait: no more bytes enter the file */
		if (!err && append && done == 0) {
			*append_pos = caller_of(op)->pos = pos = pc_inode_size(i);
			caller_of(op)->end = pos + len;
		}
		if (!err && append)
			err = wait_for_room(h, place, pos + done, piece);
		if (!err && pos + len > INT64_MAX) {
			pc_raise(h->core, i->user, "too large", "the write would end beyond 2**63 - 1");
			err = -1;
		}
		if (!err)
			done += write_locked(h, pos + done, from + done, piece, &need, &err);
		pc_place_close(i, place);
		if (err < 0)
			break;
		if (!append && caller_of(op)->holds & PC_HOLD_LOCK_X) {
			pc_inode_lock_release(i, PC_EXCLUSIVE);
			caller_of(op)->holds &= ~(u32)PC_HOLD_LOCK_X;
		}
		if (err == 1) {
			/* Wait for memory, or write the folio back: without the lock, which only appends need. */
			bool back = need.kind == PC_NEED_WRITEBACK;
			err = back ? pc_call_engine(h, pc_str_write_back, need.pos, need.len) : wait_for_memory(h);
		}
	}
	if (op) {
		pc_op_settle(op);
		Py_DECREF(op);
	}
	if (err)
		pc_characters_written(done);
	return err;
}

/* Write zeros over [pos, pos + len) of the file as it is now; the size stays. As for an append, keep the lock over all
 * pieces. */
static int write_zeros(struct handle *h, struct op *op, u64 pos, u64 len, u64 *done)
{
	static const u8 zeros[64 << 10];
	struct pc_inode *i = h->inode;
	struct pc_need need;
	int err = pc_check_reentry(i, h->core, "a write from inside a backend call of the same volume");
	err = err ? err : lock_inode(op, h);
	err = err ? err : check_writable(h);
	u64 size = pc_inode_size(i), total = pos < size ? pc_min(len, size - pos) : 0;
	while (!err && *done < total) {
		u64 piece = pc_min(piece_of(i, total - *done), sizeof(zeros));
		err = wait_for_room(h, &caller_of(op)->place, pos + *done, piece);
		if (!err)
			*done += write_locked(h, pos + *done, zeros, piece, &need, &err);
		pc_place_close(i, &caller_of(op)->place);
		if (err == 1)
			err = wait_for_memory(h);
	}
	return err;
}

PyObject *handle_zero(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	unsigned long long pos, len;
	if (!PyArg_ParseTuple(args, "KK", &pos, &len) || check_writable(h))
		return NULL;
	struct op *op = pc_op_new(h->core, h->inode, PC_OP_CALLER, NULL);
	if (!op)
		return NULL;
	describe(op, pc_str_zero, pos, len);
	u64 done = 0;
	struct pc_call call;
	bool traced = pc_recording(h->inode->cache);
	if (traced)
		pc_call_begin(&call, h->inode, PC_CALL_ZERO, pos, len);
	int err = write_zeros(h, op, pos, len, &done);
	if (traced)
		pc_call_over(&call, err ? PC_R_FAILED : 0, (i64)done);
	pc_op_settle(op);
	Py_DECREF(op);
	if (err) {
		pc_characters_written(done);
		return NULL;
	}
	Py_RETURN_NONE;
}
