/*
 * op_direct.c - the operations of direct I/O: of a write, how long it owns its lock and its count; of a read, its calls.
 *
 * The engine decides (engine/io/direct.py); everything it takes is recorded in the Op that the C entry settles. The
 * backend's calls run on threads of the volume, and may still run when the caller has gone (interrupt, abort): then the
 * operation is *left*. It keeps the lock and its place in the count until the last of its calls has returned, so that
 * no other operation meets bytes that may still land. Only a reconnect whose fence guarantees that they cannot land
 * ends it before [K7].
 *
 *   acquire(holds) ─► direct_begin() ─► carry(piece) ... send(call) ... ─► direct_end() ─► settled by the entry
 *                                        └ on threads of the volume, several at once
 *
 * Context: GIL.
 */
#include "types/types.h"

#define INSIDE "direct I/O from inside a backend call of the same volume"

/* Return: 0; -1 with an exception: it is settled, or left, or of another kind. */
static int not_running(struct op *op)
{
	bool over = op_is_settled(op) || op->state == OP_LEFT;
	if (!over && op->kind == PC_OP_CALLER)
		return 0;
	PyErr_SetString(PyExc_ValueError, over ? "the operation is settled" : "not the operation of a caller");
	return -1;
}

/* The number of bytes that a backend returned; -1 if it is no such number, or there is no answer. */
static long long answer_of(PyObject *answer, Py_ssize_t len)
{
	int overflow = 0;
	long long n = answer && PyLong_Check(answer) ? PyLong_AsLongLongAndOverflow(answer, &overflow) : -1;
	return overflow || n < 0 || n > len ? -1 : n;
}

/* acquire(holds): take logical locks of the inode, in their order; a wait like any other. */
PyObject *pc_op_take(PyObject *self, PyObject *holds)
{
	struct op *op = (struct op *)self;
	unsigned long wanted = PyLong_AsUnsignedLong(holds);
	return (wanted == (unsigned long)-1 && PyErr_Occurred()) || not_running(op) ||
			       pc_op_acquire(op, (u32)wanted & ~caller_of(op)->holds, -1)
		       ? NULL
		       : Py_NewRef(Py_None);
}

/* release_lock(): release the inode lock before the end. */
PyObject *pc_op_release_lock(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	if (not_running(op))
		return NULL;
	pc_op_unlock(op);
	Py_RETURN_NONE;
}

/* direct_share(pos, end) -> whether a direct write of this range may go on with the shared inode lock, which it holds: no
 * other one that does overlaps it. A write that was left keeps its range with the lock. */
PyObject *pc_op_direct_share(PyObject *self, PyObject *args)
{
	struct op *op = (struct op *)self;
	unsigned long long pos, end;
	if (!PyArg_ParseTuple(args, "KK", &pos, &end) || not_running(op))
		return NULL;
	for (struct pc_list *l = pc_operations.next; l != &pc_operations; l = l->next) {
		struct op *other = PC_ENTRY(l, struct op, listed);
		if (other == op || other->inode != op->inode || other->kind != PC_OP_CALLER)
			continue;
		const struct op_caller *its = caller_of(other);
		if (its->holds & PC_HOLD_LOCK_S && its->shared < end && pos < its->shared_end)
			Py_RETURN_FALSE;
	}
	caller_of(op)->shared = pos;
	caller_of(op)->shared_end = end;
	Py_RETURN_TRUE;
}

/* direct_begin() -> whether it counts as a direct write from now on; False: the gate is closed. The inode lock is held. */
PyObject *pc_op_direct_begin(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	if (not_running(op) || pc_op_refused(op))
		return NULL;
	struct op_caller *own = caller_of(op);
	if (!(own->holds & (PC_HOLD_LOCK_S | PC_HOLD_LOCK_X)) || own->holds & PC_HOLD_DIRECT)
		return PyErr_Format(PyExc_ValueError, "a direct write begins once, with the inode lock");
	if (!pc_direct_begin(op->inode, &own->failed))
		Py_RETURN_FALSE;
	own->holds |= PC_HOLD_DIRECT;
	own->pos = UINT64_MAX;
	Py_RETURN_TRUE;
}

/* direct_end() -> whether the write is over; False: a commit has failed since it began, and all of it has to be sent
 * again. */
PyObject *pc_op_direct_end(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	if (not_running(op))
		return NULL;
	struct op_caller *own = caller_of(op);
	if (!(own->holds & PC_HOLD_DIRECT) || own->calls)
		return PyErr_Format(PyExc_ValueError, "no direct write, or its calls still run");
	bool over = pc_direct_end(op->inode, own->pos, own->end, &own->failed, false);
	if (over)
		own->holds &= ~(u32)PC_HOLD_DIRECT;
	return PyBool_FromLong(over);
}

/* First step of pc_op_settle. Return: whether the operation stays as it is, since calls of it still run. */
bool pc_op_direct_settle(struct op *op)
{
	struct op_caller *own = caller_of(op);
	if (own->calls && op->generation >= op->inode->volume->fenced) {
		if (op->state != OP_LEFT) {
			pc_op_move(op, OP_LEFT);
			pc_direct_left(op->inode, 1);
		}
		return true;
	}
	if (op->state == OP_LEFT)
		pc_direct_left(op->inode, -1);
	/* Fenced off: its calls cannot land, and the caller got an error. */
	bool nothing = op->state == OP_LEFT && own->calls && !own->acknowledged;
	if (own->holds & PC_HOLD_DIRECT)
		pc_direct_end(op->inode, own->pos, nothing ? own->pos : own->end, &own->failed, true);
	own->holds &= ~(u32)PC_HOLD_DIRECT;
	return false;
}

static struct op *first_fenced(const struct pc_volume *v)
{
	for (struct pc_list *l = pc_operations.next; l != &pc_operations; l = l->next) {
		struct op *op = PC_ENTRY(l, struct op, listed);
		if (op->state == OP_LEFT && op->inode->volume == v && op->generation < v->fenced)
			return op;
	}
	return NULL;
}

/* After a reconnect whose fence guarantees that earlier calls cannot land: operations that are or will be left hold
 * nothing. */
void pc_op_direct_fence(struct pc_volume *v)
{
	struct op *op;
	v->fenced = atomic_load(&v->generation);
	while ((op = first_fenced(v))) {
		Py_INCREF((PyObject *)op);
		pc_op_settle(op);
		Py_DECREF((PyObject *)op);
	}
}

/* carry(function) -> its result: run a part of the write on a thread of the volume; send() makes its calls. */
PyObject *pc_op_carry(PyObject *self, PyObject *function)
{
	struct op *op = (struct op *)self;
	if (not_running(op) || pc_op_refused(op))
		return NULL;
	struct op_caller *own = caller_of(op);
	if (!(own->holds & PC_HOLD_DIRECT))
		return PyErr_Format(PyExc_ValueError, "no direct write has begun");
	struct op frame = {.inode = op->inode, .outer = pc_tls_op}; /* this thread is in a call of the volume */
	own->calls++;
	pc_tls_op = &frame;
	PyObject *result = PyObject_CallNoArgs(function);
	pc_tls_op = frame.outer;
	own->calls--;
	if (op->state == OP_LEFT && !own->calls)
		pc_op_settle(op);
	return result;
}

/* Make a call of the backend, which returns a number of bytes. *n: that number; -1: the answer is no such number, and is kept
 * for the error message; or there is none. Return: whether there is an answer. */
static bool call_backend(struct op *op, struct pc_io *io, PyObject *method, PyObject *buffer, long long *n)
{
	PyObject *answer = PyObject_CallFunction(method, "K(O)", (unsigned long long)io->pos, buffer);
	*n = answer_of(answer, (Py_ssize_t)io->len);
	pc_io_end(io, !answer);
	if (answer && *n < 0)
		pc_op_impossible(op, Py_NewRef(answer));
	Py_XDECREF(answer);
	return answer != NULL;
}

/* send(write_from, offset, buffer) -> bytes that one backend call took; -1: the answer is no such number. */
PyObject *pc_op_send(PyObject *self, PyObject *args)
{
	struct op *op = (struct op *)self;
	PyObject *write_from, *buffer;
	unsigned long long pos;
	if (!PyArg_ParseTuple(args, "OKO", &write_from, &pos, &buffer))
		return NULL;
	Py_ssize_t len = PyObject_Size(buffer);
	if (len < 0 || not_running(op) || pc_op_refused(op))
		return NULL;
	struct op_caller *own = caller_of(op);
	if (!own->calls)
		return PyErr_Format(PyExc_ValueError, "send() belongs into carry()");
	u64 end = pos + (u64)len;
	own->pos = pc_min(own->pos, pos);
	own->end = pc_max(own->end, end);
	struct pc_io io;
	pc_io_begin(&io, op->inode, PC_IO_DIRECT, PC_TIMED_WRITE, pos, (u64)len);
	long long n;
	bool answered = call_backend(op, &io, write_from, buffer, &n);
	/* After an abort an answer means nothing, and after a fence another operation may own the file. */
	own->acknowledged |= n > 0 && !pc_stopped(op->inode, op->generation);
	if (!op_is_settled(op))
		pc_direct_answer(op->inode, pos, n > 0 && !pc_stopped(op->inode, op->generation) ? pos + (u64)n : pos,
				 end);
	if (!answered ||
	    pc_op_refused(op)) /* otherwise a caller that has not noticed the abort would count it as done */
		return NULL;
	return PyLong_FromLongLong(n);
}

/* ---------------------------------------------------------------- reads */

/* Begin a call of a read. @credit: its era; NULL: the thread is one of the volume's, and has one. Return: 0, -1 exception. */
static int read_begins(struct op *op, struct pc_io *io, u64 pos, u64 len, u32 *credit)
{
	struct pc_inode *i = op->inode;
	if (not_running(op) || (credit && pc_wait_credit(i, op->core, credit)))
		return -1;
	if (pc_op_refused(op)) {
		if (credit)
			pc_credit_put(i->volume, *credit);
		return -1;
	}
	op->outer = pc_tls_op;
	pc_tls_op = op;
	caller_of(op)->pos = pos;
	caller_of(op)->end = pos + len;
	pc_op_move(op, OP_IN_CALL);
	pc_op_claims(op);
	pc_io_begin(io, i, PC_IO_DIRECT, PC_TIMED_READ, pos, len);
	op->since_ns = io->began_ns;
	return 0;
}

/* @n: bytes stored, or negative. */
static void read_ends(struct op *op, i64 n, const u32 *credit)
{
	struct pc_inode *i = op->inode;
	if (op->state == OP_IN_CALL)
		pc_op_move(op, OP_OPEN);
	pc_tls_op = op->outer;
	op->outer = NULL;
	if (credit)
		pc_credit_put(i->volume, *credit);
	atomic_fetch_add_explicit(&i->volume->answers, 1, memory_order_relaxed);
	pc_inode_leaf_lock(i);
	pc_counted(i, &i->counters.read_requests, 1);
	pc_counted(i, &i->counters.read_bytes, n > 0 ? (u64)n : 0);
	pc_inode_leaf_unlock(i);
}

/* read(read_into, offset, buffer, aside=False) -> bytes that one backend call stored, in this thread; -1: no such number.
 * `aside`: the thread is one of the volume's, and has a credit. */
PyObject *pc_op_read(PyObject *self, PyObject *args)
{
	struct op *op = (struct op *)self;
	PyObject *read_into, *buffer;
	unsigned long long pos;
	struct pc_io io;
	u32 credit = 0;
	int aside = 0;
	if (!PyArg_ParseTuple(args, "OKO|p", &read_into, &pos, &buffer, &aside))
		return NULL;
	Py_ssize_t len = PyObject_Size(buffer);
	if (len < 0 || read_begins(op, &io, pos, (u64)len, aside ? NULL : &credit))
		return NULL;
	long long n;
	bool answered = call_backend(op, &io, read_into, buffer, &n);
	read_ends(op, n, aside ? NULL : &credit);
	return answered ? PyLong_FromLongLong(n) : NULL;
}

/* Make one call of a read by a method of C. Return: bytes; 0: the engine has to make it again, after the exception *met or
 * NULL; -1 exception. */
static i64 read_part(struct op *op, PyObject *engine, PyObject *method, u64 pos, u8 *to, u64 len, PyObject **met)
{
	struct pc_part part = {.memory = to, .len = len};
	struct pc_driver driver;
	struct pc_io io;
	u32 credit;
	pc_driver_of(method, &driver);
	if (read_begins(op, &io, pos, len, &credit))
		return -1;
	i64 n = pc_call_driver(op, &driver, pos, &part, 1);
	pc_io_end(&io, n < 0);
	read_ends(op, n, &credit);
	if (PyErr_Occurred() || (pc_op_stopped(op) && pc_op_refused(op)))
		return -1;
	PyObject *now = PyObject_GetAttr(engine, pc_str_read_into);
	int same = now ? PyObject_RichCompareBool(now, method, Py_EQ) : -1;
	Py_XDECREF(now);
	if (same <= 0) /* the object has lost the name, or has another one, that the backend has found it by */
		return same;
	if (n < 0 && !pc_moved(n))
		*met = pc_take_exception();
	return n < 0 ? 0 : n;
}

/* Return the length of the next call of a read of [pos, end); 0: the engine has to make it, or its bytes are in memory. */
static u64 next_part(struct pc_inode *i, u64 pos, u64 end)
{
	const struct pc_limits *l = &i->limits;
	u64 local, stop, unit = pc_max(l->read_unit, 1);
	pc_direct_split(i, pos, end, &local, &stop);
	stop = pc_min(pc_min(stop, pc_inode_remote_size(i)), pc_boundary_after(l, pos));
	u64 len = local == pos && pos < stop ? pc_min(stop - pos, pc_max(l->max_read, 1)) : 0;
	return pos % unit || len % unit ? 0 : len;
}

/* Read the front of [pos, pos + len) past the cache, by a file whose bytes C moves; the rest is for the engine, after the
 * exception *met or NULL. Return: bytes, -1 exception. */
i64 pc_direct_read(PyObject *core, struct pc_inode *i, u64 pos, u8 *to, u64 len, PyObject **met)
{
	struct pc_driver driver;
	struct op *op = NULL;
	i64 n = -1;
	u64 done = 0, part;
	*met = NULL;
	if (pc_check_reentry(i, core, INSIDE))
		return -1;
	PyObject *engine = Py_NewRef(engine_of(i)), *method = PyObject_GetAttr(engine, pc_str_read_into);
	if (method && !(pc_may_call(i->volume) && pc_driver_of(method, &driver)))
		n = 0;
	else if (method)
		op = pc_op_caller(core, i);
	while (op && (n = 0, part = next_part(i, pos + done, pos + len))) {
		n = read_part(op, engine, method, pos + done, to + done, part, met);
		n = n > 0 && PyErr_CheckSignals() ? -1 : n;
		if (n <= 0)
			break;
		done += (u64)n;
		u64 size = pc_inode_size(i);
		len = size < pos ? 0 : pc_min(len, size - pos);
		done = pc_min(done, len);
	}
	if (op)
		pc_op_settle(op);
	Py_XDECREF((PyObject *)op);
	Py_XDECREF(method);
	Py_DECREF(engine);
	return n < 0 ? -1 : (i64)done;
}

/* ---------------------------------------------------------------- the entry of the engine */

/* run_owning(core, inode, method, argument): engine.<method>(op, argument) with an operation that owns nothing yet, and
 * that is no backend call. Everything that the method takes is released in any case. */
PyObject *pc_run_owning(PyObject *module, PyObject *args)
{
	PyObject *core, *method, *argument;
	struct pc_inode *i;
	if (!PyArg_ParseTuple(args, "O!O&OO", pc_core_type, &core, pc_to_pointer, &i, &method, &argument))
		return NULL;
	if (pc_check_reentry(i, core, INSIDE))
		return NULL;
	struct op *op = pc_op_caller(core, i);
	if (!op)
		return NULL;
	PyObject *engine = Py_XNewRef(engine_of(i));
	PyObject *result = PyObject_CallMethodObjArgs(engine, method, (PyObject *)op, argument, NULL);
	pc_op_settle(op);
	Py_DECREF((PyObject *)op);
	Py_XDECREF(engine);
	return result;
}
