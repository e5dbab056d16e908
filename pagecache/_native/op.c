/*
 * op.c - operations: the one mechanism that gives everything back.
 *
 * A C entry that needs something from CORE (folio locks of a fill, the inode lock, the token, a request for a backend) makes
 * an Op, records it there, and calls the engine. When the engine returns, by whatever exception, the entry settles the Op:
 * KeyboardInterrupt can strike between any two bytecodes, but not between two C statements. The engine sees the Op as an
 * object with begin() and complete(); used too late it says that it is settled.
 *
 *   caller's thread   pread ─► Op(FILL) ─► engine.fill(op): begin → backend.read_into → complete ─► settle ─► copy
 *   volume's thread   work  ─► Op(WRITE) ─► engine.write(op): begin → backend.write_from → complete, finish ─► settle
 *
 * Ops that run in a thread form a chain (pc_tls_op): a backend that comes back to its own volume for bytes that are not
 * there could only wait for itself, and gets DeadlockError (contract 2.25).
 *
 * Waits happen here, outside CORE: without the GIL, in slices, with signals checked in between.
 */
#include "types.h"

#include <stdlib.h>
#include <time.h>

PyTypeObject *pc_core_type, *pc_op_type;
_Thread_local struct op *pc_tls_op;
PyObject *pc_str_fill, *pc_str_write, *pc_str_write_units, *pc_str_commit, *pc_str_room, *pc_str_release, *pc_str_write_back, *pc_str_write_through;

i64 pc_clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (i64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

bool pc_is_forked(const struct pc_cache *c)
{
	return c->fork_epoch != atomic_load_explicit(&pc_fork_epoch, memory_order_relaxed);
}

/* Raise what the engine's factory makes of (kind, engine object, message). Return: -1. */
int pc_raise(PyObject *core, PyObject *engine, const char *kind, const char *message)
{
	PyObject *factory = ((struct core *)core)->error;
	PyObject *error = factory ? PyObject_CallFunction(factory, "sOs", kind, engine ? engine : Py_None, message) : NULL;
	if (error) {
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
		Py_DECREF(error);
	} else if (!PyErr_Occurred()) {
		PyErr_Format(PyExc_OSError, "%s: %s", kind, message);
	}
	return -1;
}

/* ---------------------------------------------------------------- waits */

/* Sleep while the event stands at `seq`, at most timeout_ns. Return: 0, -1 with an exception (a signal handler raised). */
int pc_wait_event(struct pc_event *e, u32 seq, i64 timeout_ns)
{
	if (timeout_ns > PC_WAIT_SLICE_NS)
		timeout_ns = PC_WAIT_SLICE_NS;
	Py_BEGIN_ALLOW_THREADS
	atomic_fetch_add(&e->waiters, 1);
	pc_futex_wait(&e->seq, seq, timeout_ns);
	atomic_fetch_sub(&e->waiters, 1);
	Py_END_ALLOW_THREADS
	return PyErr_CheckSignals();
}

static PyObject *engine_of(struct pc_inode *i)
{
	return (PyObject *)i->user;
}

static int check_alive(struct pc_inode *i, PyObject *core)
{
	if (atomic_load(&i->volume->aborted))
		return pc_raise(core, engine_of(i), "shutdown", "the volume was aborted");
	return 0;
}

/* From inside a backend call of the same volume nothing may fill, write or wait. */
int pc_check_reentry(struct pc_inode *i, PyObject *core, const char *what)
{
	for (struct op *op = pc_tls_op; op; op = op->outer)
		if (op->inode->volume == i->volume)
			return pc_raise(core, engine_of(i), "deadlock", what);
	return check_alive(i, core);
}

static bool folio_busy(struct pc_folio *f, u32 kind)
{
	u32 flag = kind == PC_NEED_FLIGHT ? PC_F_WRITER_WAITS : PC_F_WAITERS;
	u32 busy = kind == PC_NEED_FLIGHT ? PC_F_WRITEBACK : PC_F_LOCKED;
	return atomic_fetch_or(&f->state, flag) & busy;
}

static int run_taken(PyObject *core, struct pc_request *r)
{
	struct op *op = pc_op_new(core, r->inode, OP_FILL, r);
	if (!op) {
		pc_request_settle(r);
		return -1;
	}
	if (pc_op_run(op, pc_str_fill, NULL) == 0)
		return 0;
	if (!PyErr_ExceptionMatches(PyExc_OSError))
		return -1;
	PyErr_Clear(); /* somebody else's fill: this caller tries for himself and gets his own error (contract 2.3) */
	return 0;
}

/* Wait until the folio may be unlocked (or out of flight); a fill that no thread has started is run here. */
int pc_wait_folio(struct pc_inode *i, PyObject *core, const struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	struct pc_folio *f = pc_folio_at(c, need->folio);
	struct pc_event *e = pc_folio_event(c, need->folio);
	if (pc_check_reentry(i, core, "this call could only wait for the backend call that it was made from"))
		return -1;
	if (need->kind == PC_NEED_FOLIO && need->owner) {
		struct pc_request *r = pc_work_take_owner(i, need->owner);
		if (r)
			return run_taken(core, r);
	}
	int err = 0;
	if (!pc_folio_get(f))
		return 0;
	i->counters.lock_waits++;
	while (!err) {
		u32 seq = atomic_load(&e->seq);
		if (!folio_busy(f, need->kind))
			break;
		err = pc_wait_event(e, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	pc_folio_put(c, f);
	return err;
}

int pc_wait_invalidate(struct pc_inode *i, PyObject *core)
{
	int err = pc_check_reentry(i, core, "a truncate of this file waits for the call that this one was made from");
	while (!err) {
		u32 seq = atomic_load(&i->event.seq);
		if (!atomic_load(&i->inval_x))
			break;
		err = pc_wait_event(&i->event, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	return err;
}

int pc_wait_credit(struct pc_inode *i, PyObject *core)
{
	struct pc_volume *v = i->volume;
	int err = 0;
	while (!err) {
		u32 seq = atomic_load(&v->event.seq);
		if (pc_credit_try(v))
			return 0;
		err = pc_wait_event(&v->event, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	return err;
}

/* Queued in a fair queue: sleep until granted. Return: 0, -1 exception, 1 deadline; then the place in line is given up. */
static int wait_granted(struct op *op, i64 deadline_ns, bool (*cancel)(struct pc_inode *, struct pc_waiter *))
{
	struct pc_inode *i = op->inode;
	int err = 0;
	while (!err && atomic_load(&op->waiter.word) != PC_GRANTED) {
		i64 left = PC_WAIT_SLICE_NS;
		if (deadline_ns >= 0) {
			i64 rest = deadline_ns - pc_clock_ns();
			left = rest < left ? rest : left;
			if (left <= 0) {
				err = 1;
				break;
			}
		}
		Py_BEGIN_ALLOW_THREADS
		pc_futex_wait(&op->waiter.word, PC_WAITING, left);
		Py_END_ALLOW_THREADS
		err = PyErr_CheckSignals();
		err = err ? err : check_alive(i, op->core);
	}
	if (err && cancel(i, &op->waiter))
		return err < 0 ? -2 : 2; /* granted in the last moment: the caller holds it and passes it on */
	return err;
}

static int timed_out(struct op *op)
{
	return pc_raise(op->core, engine_of(op->inode), "timeout", "the deadline passed while waiting for the file's lock");
}

static int acquire_lock(struct op *op, int mode, u32 hold, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	int err = 0;
	if (!pc_inode_lock_try(i, mode)) {
		pc_inode_lock_enqueue(i, &op->waiter, mode);
		err = wait_granted(op, deadline_ns, pc_inode_lock_cancel);
		if (err == 2 || err == -2)
			pc_inode_lock_release(i, mode);
	}
	if (!err)
		op->holds |= hold;
	return err > 0 ? timed_out(op) : err < 0 ? -1 : 0;
}

static int acquire_token(struct op *op, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	pc_inode_leaf_lock(i);
	bool got = pc_token_take(i, &op->waiter, PC_TOKEN_CALLER);
	pc_inode_leaf_unlock(i);
	int err = got ? 0 : wait_granted(op, deadline_ns, pc_token_cancel);
	if (err == 2 || err == -2)
		pc_token_release(i);
	if (!err)
		op->holds |= HOLD_TOKEN;
	return err > 0 ? timed_out(op) : err < 0 ? -1 : 0;
}

static int acquire_invalidate(struct op *op)
{
	int err = 0;
	while (!err) {
		u32 seq = atomic_load(&op->inode->event.seq);
		if (!pc_invalidate_lock(op->inode)) {
			op->holds |= HOLD_INVALIDATE;
			return 0;
		}
		err = pc_wait_event(&op->inode->event, seq, PC_WAIT_SLICE_NS);
	}
	return err;
}

/* Take logical locks in their order (contract section 3). Return: 0, -1 with an exception; what was taken is settled later. */
int pc_op_acquire(struct op *op, u32 holds, i64 deadline_ns)
{
	int err = 0;
	if (holds & HOLD_LOCK_X)
		err = acquire_lock(op, PC_EXCLUSIVE, HOLD_LOCK_X, deadline_ns);
	if (!err && holds & HOLD_LOCK_S)
		err = acquire_lock(op, PC_SHARED, HOLD_LOCK_S, deadline_ns);
	if (!err && holds & HOLD_TOKEN)
		err = acquire_token(op, deadline_ns);
	if (!err && holds & HOLD_INVALIDATE)
		err = acquire_invalidate(op);
	return err;
}

/* ---------------------------------------------------------------- the object */

struct op *pc_op_new(PyObject *core, struct pc_inode *i, int kind, struct pc_request *r)
{
	struct op *op = PyObject_New(struct op, pc_op_type);
	if (!op)
		return NULL;
	memset((char *)op + sizeof(PyObject), 0, sizeof(*op) - sizeof(PyObject));
	Py_INCREF(core);
	op->core = core;
	op->inode = i;
	op->kind = (u8)kind;
	op->request = r;
	pc_list_init(&op->waiter.link);
	atomic_fetch_add(&i->users, 1);
	return op;
}

/* The call is over: its memoryviews are revoked; what somebody still exports keeps its memory (contract 2.1.3). */
static void end_call(struct op *op)
{
	PyObject *views = op->views;
	op->views = NULL;
	op->in_call = 0;
	if (!views)
		return;
	for (Py_ssize_t k = 0, n = PyTuple_Size(views); k < n; k++) {
		PyObject *done = PyObject_CallMethodObjArgs(PyTuple_GetItem(views, k), pc_str_release, NULL);
		if (!done)
			PyErr_Clear();
		Py_XDECREF(done);
	}
	Py_DECREF(views);
	if (op->buf && pc_buf_exported(op->buf)) {
		if (op->request->scratch)
			pc_buf_adopt(op->buf, pc_scratch_leave(op->request));
		u32 kept[PC_PARTS_MAX];
		int n = op->kind == OP_FILL ? pc_fill_quarantine(op->request, kept, PC_PARTS_MAX)
					    : pc_write_hold(op->request, kept, PC_PARTS_MAX);
		pc_buf_keep(op->buf, kept, n, op->kind == OP_WRITE);
		Py_CLEAR(op->buf);
	}
}

static void release_holds(struct op *op)
{
	struct pc_inode *i = op->inode;
	if (op->holds & HOLD_INVALIDATE)
		pc_invalidate_unlock(i);
	if (op->holds & HOLD_TOKEN)
		pc_token_release(i);
	if (op->holds & HOLD_LOCK_S)
		pc_inode_lock_release(i, PC_SHARED);
	if (op->holds & HOLD_LOCK_X)
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	op->holds = 0;
}

/* Give back whatever the operation still owns. Idempotent; keeps the exception that is set; a no-op in a forked child. */
void pc_op_settle(struct op *op)
{
	PyObject *type, *value, *traceback;
	if (op->settled)
		return;
	if (pc_is_forked(((struct core *)op->core)->cache)) {
		op->settled = 1;
		return;
	}
	PyErr_Fetch(&type, &value, &traceback);
	end_call(op);
	op->settled = 1;
	struct pc_request *r = op->request;
	op->request = NULL;
	if (op->kind == OP_COMMIT)
		pc_commit_end(op->inode, false, false);
	else if (r)
		pc_request_settle(r);
	release_holds(op);
	Py_CLEAR(op->buf);
	Py_CLEAR(op->memory);
	pc_inode_user_put(op->inode);
	PyErr_Restore(type, value, traceback);
}

static void op_dealloc(PyObject *self)
{
	struct op *op = (struct op *)self;
	PyTypeObject *type = Py_TYPE(self);
	pc_op_settle(op);
	Py_XDECREF(op->views);
	Py_XDECREF(op->buf);
	Py_XDECREF(op->memory);
	Py_XDECREF(op->core);
	PyObject_Free(self);
	Py_DECREF(type);
}

/* Call engine.<method>(op[, argument]) with the operation on this thread's chain, then settle it. Steals the reference.
 * Return: 0, -1 with an exception. */
int pc_op_run(struct op *op, PyObject *method, PyObject *argument)
{
	PyObject *engine = engine_of(op->inode), *result = NULL;
	if (engine) {
		Py_INCREF(engine);
		op->outer = pc_tls_op;
		pc_tls_op = op;
		result = PyObject_CallMethodObjArgs(engine, method, (PyObject *)op, argument, NULL);
		pc_tls_op = op->outer;
		op->outer = NULL;
	} else {
		PyErr_SetString(PyExc_RuntimeError, "the file has no engine");
	}
	pc_op_settle(op);
	Py_DECREF(op);
	Py_XDECREF(engine);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

static int not_settled(struct op *op)
{
	if (!op->settled)
		return 0;
	PyErr_SetString(PyExc_ValueError, "the operation is settled");
	return -1;
}

static PyObject *begin_request(struct op *op)
{
	struct pc_part parts[PC_PARTS_MAX];
	size_t n = 0;
	uint64_t pos;
	int more = pc_call_next(op->request, &pos, parts, PC_PARTS_MAX, &n);
	if (more == -ESTALE) {
		errno = EAGAIN;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	if (more < 0)
		return PyErr_NoMemory();
	if (!more) {
		Py_CLEAR(op->buf);
		Py_RETURN_NONE;
	}
	if (!op->buf)
		op->buf = pc_buf_new(op->core, op->kind == OP_WRITE && !op->request->gather);
	PyObject *views = op->buf ? PyTuple_New((Py_ssize_t)n) : NULL;
	for (size_t k = 0; views && k < n; k++) {
		PyObject *view = pc_buf_view(op->buf, parts[k].memory, parts[k].len);
		if (!view || PyTuple_SetItem(views, (Py_ssize_t)k, view))
			Py_CLEAR(views);
	}
	if (!views)
		return NULL;
	PyObject *offset = PyLong_FromUnsignedLongLong(pos);
	PyObject *result = offset ? PyTuple_Pack(2, offset, views) : NULL;
	Py_XDECREF(offset);
	if (!result) {
		Py_DECREF(views);
		return NULL;
	}
	op->views = views;
	op->in_call = 1;
	return result;
}

static PyObject *begin_uncached(struct op *op)
{
	u64 max = pc_max(op->inode->limits.max_read, 1), remote = pc_inode_remote_size(op->inode);
	u64 pos = op->pos + op->got, end = pc_min(op->pos + op->len, remote);
	u64 unit = pc_max(op->inode->limits.read_unit, 1), head = pos % unit;
	if (pos >= end)
		Py_RETURN_NONE;
	u64 len = pc_min(max, (end - pos + head + unit - 1) / unit * unit);
	PyObject *memory = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)len);
	PyObject *view = memory ? PyMemoryView_FromObject(memory) : NULL;
	PyObject *views = view ? PyTuple_Pack(1, view) : NULL;
	Py_XDECREF(view);
	Py_CLEAR(op->buf);
	op->buf = memory;
	if (!views)
		return NULL;
	op->views = views;
	op->in_call = 1;
	op->inode->counters.read_requests++;
	return Py_BuildValue("KO", (unsigned long long)(pos - head), views);
}

/* begin() -> (offset, buffers) of the next backend call, or None. */
static PyObject *op_begin(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	(void)unused;
	if (not_settled(op))
		return NULL;
	if (op->in_call)
		end_call(op);
	if (op->kind == OP_UNCACHED)
		return begin_uncached(op);
	if (!op->request) {
		PyErr_SetString(PyExc_ValueError, "this operation has no backend call");
		return NULL;
	}
	return begin_request(op);
}

static int answer_uncached(struct op *op, int64_t n)
{
	PyObject *memory = op->buf;
	op->buf = NULL;
	Py_ssize_t asked = PyByteArray_Size(memory);
	u64 pos = op->pos + op->got, head = pos % pc_max(op->inode->limits.read_unit, 1);
	int result = -EPROTO;
	if (n >= 0 && n <= asked) {
		u64 fresh = (u64)n > head ? pc_min((u64)n - head, op->len - op->got) : 0;
		memcpy(PyByteArray_AsString(op->memory) + op->got, PyByteArray_AsString(memory) + head, fresh);
		op->got += fresh;
		op->inode->counters.read_bytes += (u64)n;
		if (fresh)
			op->zeros = 0;
		else
			op->zeros += n ? 1 : 16;
		result = op->zeros >= 32 ? -EPROTO : op->pos + op->got >= pc_min(op->pos + op->len, pc_inode_remote_size(op->inode));
	}
	Py_DECREF(memory);
	return result;
}

static int answer(struct op *op, int64_t n)
{
	if (op->kind == OP_UNCACHED) {
		Py_CLEAR(op->views);
		op->in_call = 0;
		return answer_uncached(op, n);
	}
	end_call(op);
	if (op->kind == OP_WRITE)
		return op->request->gather ? pc_gather_answer(op->request, n) : pc_write_answer(op->request, n);
	int result = pc_fill_answer(op->request, n);
	return result == 0 && op->request->nr_owned == 0 ? 1 : result;
}

/* complete(n) -> 1 all done; 0 go on with begin(); a negative errno: the answer is impossible, or no progress is made. */
static PyObject *op_complete(PyObject *self, PyObject *value)
{
	struct op *op = (struct op *)self;
	int overflow = 0;
	int64_t n = -1;
	if (not_settled(op))
		return NULL;
	if (!op->in_call) {
		PyErr_SetString(PyExc_ValueError, "no backend call has begun");
		return NULL;
	}
	if (PyLong_Check(value))
		n = PyLong_AsLongLongAndOverflow(value, &overflow);
	return PyLong_FromLong(answer(op, overflow ? -1 : n));
}

/* finish(ok, parked) ends a write request: what was acknowledged is kept, the rest is dirty again. finish(ok, kept) a commit. */
static PyObject *op_finish(PyObject *self, PyObject *args)
{
	struct op *op = (struct op *)self;
	int ok, flag;
	if (!PyArg_ParseTuple(args, "pp", &ok, &flag) || not_settled(op))
		return NULL;
	end_call(op);
	if (op->kind == OP_COMMIT) {
		op->settled = 1;
		pc_commit_end(op->inode, ok, flag);
		pc_inode_user_put(op->inode);
	} else if (op->kind == OP_WRITE) {
		struct pc_request *r = op->request;
		op->request = NULL;
		pc_write_done(r, ok, flag);
	} else {
		PyErr_SetString(PyExc_ValueError, "only write-back and commits are finished");
		return NULL;
	}
	Py_RETURN_NONE;
}

static PyObject *op_offset(PyObject *self, void *closure)
{
	struct op *op = (struct op *)self;
	(void)closure;
	return PyLong_FromUnsignedLongLong(op->request ? op->request->call_pos : op->pos);
}

static PyObject *op_length(PyObject *self, void *closure)
{
	struct op *op = (struct op *)self;
	(void)closure;
	return PyLong_FromUnsignedLongLong(op->request ? op->request->call_len : op->len);
}

static PyObject *op_extent(PyObject *self, void *closure)
{
	struct op *op = (struct op *)self;
	(void)closure;
	if (!op->request)
		return Py_BuildValue("KK", (unsigned long long)op->pos, (unsigned long long)(op->pos + op->len));
	return Py_BuildValue("KK", (unsigned long long)op->request->start, (unsigned long long)op->request->end);
}

static PyObject *op_ahead(PyObject *self, void *closure)
{
	struct op *op = (struct op *)self;
	(void)closure;
	return PyBool_FromLong(op->request && op->request->kind == PC_REQ_FILL && op->request->cls == PC_WORK_READAHEAD);
}

static PyObject *op_is_settled(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(((struct op *)self)->settled);
}

static PyMethodDef op_methods[] = {
	{"begin", op_begin, METH_NOARGS, "begin($self, /)\n--\n\nThe next backend call: (offset, buffers), or None."},
	{"complete", op_complete, METH_O, "complete($self, n, /)\n--\n\nReport its answer: 1 done, 0 go on, -errno impossible."},
	{"finish", op_finish, METH_VARARGS, "finish($self, ok, flag, /)\n--\n\nEnd a write request or a commit."},
	{NULL, NULL, 0, NULL},
};
static PyGetSetDef op_getset[] = {
	{"offset", op_offset, NULL, "First byte of the current call.", NULL},
	{"length", op_length, NULL, "Bytes of the current call.", NULL},
	{"extent", op_extent, NULL, "(first byte, end) of the whole operation.", NULL},
	{"ahead", op_ahead, NULL, "True for read-ahead: nobody waits for it yet.", NULL},
	{"settled", op_is_settled, NULL, "True when it owns nothing any more.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot op_slots[] = {
	{Py_tp_dealloc, op_dealloc}, {Py_tp_methods, op_methods},
	{Py_tp_getset, op_getset},   {Py_tp_doc, "Owner of what one operation holds in the core."},
	{0, NULL},
};
static PyType_Spec op_spec = {"pagecache._native._core.Op", sizeof(struct op), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, op_slots};

/* ---------------------------------------------------------------- fills */

/* Queue fills for [pos, end), at most `windows` requests, as far as memory goes. */
static void submit(struct pc_inode *i, u64 pos, u64 end, u32 cls, int windows)
{
	u32 shift = i->cache->page_shift;
	u64 index = pos >> shift, stop, last = (pc_min(end, pc_inode_size(i)) + (1ull << shift) - 1) >> shift;
	for (int k = 0; k < windows && index < last; k++, index = stop) {
		struct pc_request *r = pc_fill_window(i, index, last, i->limits.max_read, &stop);
		if (r)
			pc_fill_submit(r, cls);
		if (stop == UINT64_MAX || stop <= index)
			break;
	}
}

/**
 * pc_run_fill() - get the missing part of [pos, pos + len) in, as far as one request goes; the caller then looks again.
 *
 * The calling thread runs the part it waits for; the rest of a long range and the read-ahead window go to the volume's
 * threads first. @ra: the handle's read-ahead state, or NULL. Return: 0 look again; 1 no memory: read uncached; -1 exception.
 */
int pc_run_fill(PyObject *core, struct pc_inode *i, u64 pos, u64 len, struct pc_readahead *ra)
{
	struct pc_need need = {.kind = PC_NEED_NOTHING};
	struct pc_request *r = NULL;
	if (pc_check_reentry(i, core, "bytes that are not cached were read from inside a backend call of the same volume") ||
	    pc_wait_credit(i, core))
		return -1;
	int err = pc_fill_begin(i, pos, len, &need, &r);
	if (!r) {
		pc_credit_put(i->volume);
		if (err == -ENOMEM)
			return 1;
		if (need.kind == PC_NEED_FOLIO)
			return pc_wait_folio(i, core, &need);
		return need.kind == PC_NEED_INVALIDATE ? pc_wait_invalidate(i, core) : 0;
	}
	r->credit = 1;
	struct op *op = pc_op_new(core, i, OP_FILL, r);
	if (!op) {
		pc_request_settle(r);
		return -1;
	}
	if (r->end < pos + len)
		submit(i, r->end, pos + len, PC_WORK_FILL, 16);
	/* Bytes that somebody else is fetching are no miss: only what this call fetches itself moves the window. */
	if (ra && pc_readahead_miss(i, ra, pos, len))
		pc_readahead_submit(i, ra);
	return pc_op_run(op, pc_str_fill, NULL);
}

/* Read past the cache into `to`, with what is cached laid over it: no memory can be had for it. Return: 0, -1. */
int pc_run_uncached(PyObject *core, struct pc_inode *i, u64 pos, u64 len, u8 *to)
{
	if (pc_check_reentry(i, core, "bytes that are not cached were read from inside a backend call of the same volume"))
		return -1;
	struct op *op = pc_op_new(core, i, OP_UNCACHED, NULL);
	if (!op)
		return -1;
	op->pos = pos;
	op->len = len;
	op->memory = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)len);
	if (!op->memory) {
		Py_DECREF(op);
		return -1;
	}
	PyObject *memory = op->memory;
	Py_INCREF(memory);
	memset(PyByteArray_AsString(memory), 0, len);
	int err = pc_op_run(op, pc_str_fill, NULL);
	if (!err) {
		memcpy(to, PyByteArray_AsString(memory), len);
		pc_read_local(i, pos, to, len);
	}
	Py_DECREF(memory);
	return err;
}

/* ---------------------------------------------------------------- work of the volume's threads */

static void unraisable(struct pc_inode *i)
{
	PyErr_WriteUnraisable(engine_of(i));
}

static void work_fill(PyObject *core, struct pc_request *r)
{
	struct pc_inode *i = r->inode;
	r->credit = 1;
	struct op *op = pc_op_new(core, i, OP_FILL, r);
	if (!op)
		pc_request_settle(r);
	if (op && pc_op_run(op, pc_str_fill, NULL) == 0)
		return;
	/* Whoever waits for these bytes tries for himself and gets his own error (contract 2.3). */
	if (PyErr_ExceptionMatches(PyExc_OSError))
		PyErr_Clear();
	else
		unraisable(i);
}

static void work_pass(PyObject *core, struct pc_inode *i)
{
	struct pc_request *r;
	int got = pc_write_next(i, &r);
	if (got <= 0) {
		pc_credit_put(i->volume);
		if (got == -EAGAIN) {
			/* A writer's section is short; sleeping lets it run. */
			Py_BEGIN_ALLOW_THREADS
			_Atomic u32 word = 0;
			pc_futex_wait(&word, 0, 50 * 1000);
			Py_END_ALLOW_THREADS
			pc_pass_again(i);
		}
		return;
	}
	r->credit = 1;
	struct op *op = pc_op_new(core, i, OP_WRITE, r);
	if (!op)
		pc_request_settle(r);
	if (!op || pc_op_run(op, r->gather ? pc_str_write_units : pc_str_write, NULL))
		unraisable(i);
}

static void work_commit(PyObject *core, struct pc_inode *i)
{
	if (!pc_commit_begin(i))
		return;
	struct op *op = pc_op_new(core, i, OP_COMMIT, NULL);
	if (!op)
		pc_commit_end(i, false, false);
	if (!op || pc_op_run(op, pc_str_commit, NULL))
		unraisable(i);
}

/* work(core, volume, job, timeout_ns) -> True: did something; False: nothing to do in time; None: the volume stops. */
PyObject *pc_work(PyObject *module, PyObject *args)
{
	PyObject *core, *job;
	unsigned long long address;
	long long timeout_ns;
	struct pc_work w;
	(void)module;
	if (!PyArg_ParseTuple(args, "O!KOL", pc_core_type, &core, &address, &job, &timeout_ns))
		return NULL;
	struct pc_volume *v = (struct pc_volume *)(uintptr_t)address;
	if (pc_is_forked(v->cache))
		Py_RETURN_NONE;
	u32 seq = atomic_load(&v->event.seq);
	pc_work_next(v, &w);
	if (w.kind == PC_WORK_STOP)
		Py_RETURN_NONE;
	if (w.kind == PC_WORK_NONE) {
		Py_BEGIN_ALLOW_THREADS
		atomic_fetch_add(&v->event.waiters, 1);
		pc_futex_wait(&v->event.seq, seq, timeout_ns);
		atomic_fetch_sub(&v->event.waiters, 1);
		Py_END_ALLOW_THREADS
		Py_RETURN_FALSE;
	}
	if (w.kind == PC_WORK_JOB) {
		PyObject *done = PyObject_CallFunction(job, "I", w.cls);
		if (!done)
			PyErr_WriteUnraisable(job);
		Py_XDECREF(done);
		Py_RETURN_TRUE;
	}
	if (w.kind == PC_WORK_REQUEST)
		work_fill(core, w.request);
	else if (w.kind == PC_WORK_PASS)
		work_pass(core, w.inode);
	else
		work_commit(core, w.inode);
	pc_inode_user_put(w.inode);
	pc_work_end(v, w.cls);
	Py_RETURN_TRUE;
}

/* ---------------------------------------------------------------- functions for the engine */

/* run(core, inode, holds, deadline_ns, method, argument): engine.<method>(op, argument) with logical locks held. */
static PyObject *run_holding(PyObject *module, PyObject *args)
{
	PyObject *core, *method, *argument;
	unsigned long long address;
	unsigned int holds;
	long long deadline_ns;
	(void)module;
	if (!PyArg_ParseTuple(args, "O!KILOO", pc_core_type, &core, &address, &holds, &deadline_ns, &method, &argument))
		return NULL;
	struct pc_inode *i = (struct pc_inode *)(uintptr_t)address;
	if (pc_check_reentry(i, core, "this call could only wait for the backend call that it was made from"))
		return NULL;
	struct op *op = pc_op_new(core, i, OP_CALLER, NULL);
	if (!op)
		return NULL;
	if (pc_op_acquire(op, holds, deadline_ns)) {
		pc_op_settle(op);
		Py_DECREF(op);
		return NULL;
	}
	if (pc_op_run(op, method, argument))
		return NULL;
	Py_RETURN_NONE;
}

/* settle_fills(core, inode, pos, end): wait until no fill owns a folio of the range (under the invalidate lock). */
static PyObject *settle_fills(PyObject *module, PyObject *args)
{
	PyObject *core;
	unsigned long long address, pos, end;
	struct pc_need need;
	(void)module;
	if (!PyArg_ParseTuple(args, "O!KKK", pc_core_type, &core, &address, &pos, &end))
		return NULL;
	struct pc_inode *i = (struct pc_inode *)(uintptr_t)address;
	struct op *chain = pc_tls_op;
	pc_tls_op = chain ? chain->outer : NULL; /* the caller's own operation is no backend call yet */
	int err = 0;
	while (!err && pc_range_busy(i, pos, end, &need))
		err = pc_wait_folio(i, core, &need);
	pc_tls_op = chain;
	if (err)
		return NULL;
	Py_RETURN_NONE;
}

/* prefetch(core, inode, pos, end, wait): get a range in. Without `wait` the volume's threads do it, as far as memory goes. */
static PyObject *prefetch(PyObject *module, PyObject *args)
{
	PyObject *core;
	unsigned long long address, pos, end;
	int wait, again = 0;
	(void)module;
	if (!PyArg_ParseTuple(args, "O!KKKp", pc_core_type, &core, &address, &pos, &end, &wait))
		return NULL;
	struct pc_inode *i = (struct pc_inode *)(uintptr_t)address;
	end = pc_min(end, pc_inode_size(i));
	if (!wait) {
		submit(i, pos, end, PC_WORK_READAHEAD, 256);
		Py_RETURN_NONE;
	}
	while (pos < end) {
		u64 missing = pc_first_missing(i, pos, end);
		again = missing == pos ? again + 1 : 0;
		pos = missing;
		if (pos >= end || again > 16)
			break; /* what comes in is evicted at once: there is no point in going on */
		int err = pc_run_fill(core, i, pos, end - pos, NULL);
		if (err < 0)
			return NULL;
		if (err > 0)
			break;
	}
	Py_RETURN_NONE;
}

static struct pc_event *event_of(char kind, unsigned long long address)
{
	switch (kind) {
	case 'i': return &((struct pc_inode *)(uintptr_t)address)->event;
	case 'v': return &((struct pc_volume *)(uintptr_t)address)->event;
	case 'c': return &((struct pc_cache *)(uintptr_t)address)->event;
	default: return &((struct pc_cache *)(uintptr_t)address)->flusher_event;
	}
}

/* wait(kind, address, seq, timeout_ns): sleep while the event ("inode", "volume", "cache", "flusher") stands at seq. */
static PyObject *wait_for_event(PyObject *module, PyObject *args)
{
	const char *kind;
	unsigned long long address;
	unsigned int seq;
	long long timeout_ns;
	(void)module;
	if (!PyArg_ParseTuple(args, "sKIL", &kind, &address, &seq, &timeout_ns))
		return NULL;
	if (timeout_ns > 0 && pc_wait_event(event_of(kind[0], address), seq, timeout_ns))
		return NULL;
	Py_RETURN_NONE;
}

/* in_backend(volume): is this thread inside a backend call of the volume? */
static PyObject *in_backend(PyObject *module, PyObject *arg)
{
	(void)module;
	void *volume = PyLong_AsVoidPtr(arg);
	if (!volume && PyErr_Occurred())
		return NULL;
	for (struct op *op = pc_tls_op; op; op = op->outer)
		if (op->inode->volume == volume)
			Py_RETURN_TRUE;
	Py_RETURN_FALSE;
}

static PyMethodDef functions[] = {
	{"work", pc_work, METH_VARARGS, "work($module, core, volume, job, timeout_ns, /)\n--\n\nDo the next piece of a volume's work."},
	{"run", run_holding, METH_VARARGS,
	 "run($module, core, inode, holds, deadline_ns, method, argument, /)\n--\n\nCall the engine with logical locks held."},
	{"settle_fills", settle_fills, METH_VARARGS,
	 "settle_fills($module, core, inode, pos, end, /)\n--\n\nWait until no fill owns a folio of the range."},
	{"prefetch", prefetch, METH_VARARGS, "prefetch($module, core, inode, pos, end, wait, /)\n--\n\nGet a range into the cache."},
	{"wait", wait_for_event, METH_VARARGS, "wait($module, kind, address, seq, timeout_ns, /)\n--\n\nSleep while an event stands."},
	{"in_backend", in_backend, METH_O, "in_backend($module, volume, /)\n--\n\nWhether this thread is inside a call of the volume."},
	{"pin", pc_view_open, METH_VARARGS, "pin($module, core, inode, pos, len, /)\n--\n\nPins of the folios that hold the range."},
	{NULL, NULL, 0, NULL},
};

/* ---------------------------------------------------------------- Core */

static PyObject *core_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	unsigned long long capacity, max_folio;
	unsigned int page_size;
	PyObject *error;
	(void)kwargs;
	if (!PyArg_ParseTuple(args, "KIKO", &capacity, &page_size, &max_folio, &error))
		return NULL;
	struct core *core = PyObject_New(struct core, type);
	if (!core)
		return NULL;
	core->cache = NULL;
	Py_INCREF(error);
	core->error = error;
	int err = pc_cache_create(capacity, page_size, max_folio, &core->cache);
	if (err) {
		Py_DECREF(core);
		return err == -ENOMEM ? PyErr_NoMemory() : PyErr_Format(PyExc_ValueError, "capacity %llu with pages of %u bytes", capacity, page_size);
	}
	return (PyObject *)core;
}

static void core_dealloc(PyObject *self)
{
	struct core *core = (struct core *)self;
	PyTypeObject *type = Py_TYPE(self);
	if (core->cache && !pc_is_forked(core->cache))
		pc_cache_destroy(core->cache);
	Py_XDECREF(core->error);
	PyObject_Free(self);
	Py_DECREF(type);
}

static PyObject *core_address(PyObject *self, void *closure)
{
	(void)closure;
	return PyLong_FromVoidPtr(((struct core *)self)->cache);
}

static PyObject *core_forked(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(pc_is_forked(((struct core *)self)->cache));
}

static PyGetSetDef core_getset[] = {
	{"address", core_address, NULL, "Address of the struct pc_cache.", NULL},
	{"forked", core_forked, NULL, "True in a child process that inherited the cache.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot core_slots[] = {
	{Py_tp_new, core_new},	     {Py_tp_dealloc, core_dealloc},
	{Py_tp_getset, core_getset}, {Py_tp_doc, "Owner of one cache's memory: it is unmapped when nobody refers to this."},
	{0, NULL},
};
static PyType_Spec core_spec = {"pagecache._native._core.Core", sizeof(struct core), 0, Py_TPFLAGS_DEFAULT, core_slots};

int pc_install_core(PyObject *module)
{
	pc_core_type = (PyTypeObject *)PyType_FromSpec(&core_spec);
	return pc_core_type ? PyModule_AddObjectRef(module, "Core", (PyObject *)pc_core_type) : -1;
}

int pc_install_op(PyObject *module)
{
	pc_str_fill = PyUnicode_InternFromString("fill");
	pc_str_write = PyUnicode_InternFromString("write");
	pc_str_write_units = PyUnicode_InternFromString("write_units");
	pc_str_commit = PyUnicode_InternFromString("commit");
	pc_str_room = PyUnicode_InternFromString("room");
	pc_str_release = PyUnicode_InternFromString("release");
	pc_str_write_back = PyUnicode_InternFromString("write_back");
	pc_str_write_through = PyUnicode_InternFromString("write_through");
	pc_op_type = (PyTypeObject *)PyType_FromSpec(&op_spec);
	if (!pc_op_type || !pc_str_write_through)
		return -1;
	return PyModule_AddObjectRef(module, "Op", (PyObject *)pc_op_type) || PyModule_AddFunctions(module, functions);
}
