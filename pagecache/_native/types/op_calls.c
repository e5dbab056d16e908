/*
 * op_calls.c - the backend calls of an operation: assign buffers to the next call, process its answer, revoke the
 * buffers.
 *
 *   begin    ─► offset and memoryviews over cache memory: of a fill, of a write request, of an uncached read
 *   answer   ─► bytes into CORE; 1 all done, 0 go on with begin, a negative errno: an error for the engine
 *   end      ─► the views are released; an exported buffer keeps its memory, and the cache gets other memory
 *
 * Of a file without trouble a fill, a write request and a commit make their calls here, and enter the engine after a
 * failure. Otherwise the engine makes the calls of writes, by the methods begin and complete of the Op, and those of
 * commits.
 */
#include "types/types.h"

#include <stdlib.h>

/* Begin a call, just before it is made. */
static void call_begins(struct op *op, u64 pos, u64 len)
{
	struct op_transfer *t = transfer_of(op);
	const struct pc_request *r = t->request;
	bool reads = op->kind != PC_OP_WRITE || r->gather; /* a write whose units lack bytes reads them first */
	u32 timed = reads ? PC_TIMED_READ : PC_TIMED_WRITE;
	pc_io_begin(&t->io, op->inode, (u32)op->kind, timed, pos, len);
	op->since_ns = t->io.began_ns;
}

static void call_raised(struct op *op)
{
	if (op_transfers(op) && !op_is_settled(op))
		pc_io_end(&transfer_of(op)->io, true);
}

/* ended(): report that the backend call raised. For Python callers that clean up before they settle. */
PyObject *pc_op_ended(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	call_raised(op);
	Py_RETURN_NONE;
}

static void release_views(PyObject *views)
{
	for (Py_ssize_t k = 0, n = PyTuple_Size(views); k < n; k++) {
		PyObject *view = PyTuple_GetItem(views, k);
		if (Py_REFCNT(views) == 1 && Py_REFCNT(view) == 1)
			continue; /* freed with the tuple */
		PyObject *done = PyObject_CallMethodObjArgs(view, pc_str_release, NULL);
		if (!done)
			PyErr_Clear();
		Py_XDECREF(done);
	}
	Py_DECREF(views);
}

/* End a call: revoke its memoryviews; one that is still exported keeps its memory (contract 2.1.3), as does a call of C that
 * runs. */
void pc_op_end_call(struct op *op)
{
	if (op->state == OP_IN_CALL)
		pc_op_move(op, OP_OPEN);
	if (!op_transfers(op))
		return;
	struct op_transfer *t = transfer_of(op);
	PyObject *views = t->views;
	pc_io_leave(&t->io); /* the end of a call that outlives its operation is not observed: it has no duration */
	t->views = NULL;
	if (views)
		release_views(views);
	if (op->kind == PC_OP_UNCACHED)
		return; /* its buffer is a bytearray: references keep it alive */
	if (t->buf && pc_buf_exported(t->buf)) {
		struct pc_request *r = t->request;
		u8 *memory = r->scratch ? pc_scratch_leave(r) : r->sink ? pc_sink_leave(r) : NULL;
		u32 *kept = malloc((r->nr_owned + r->nr_segs + 1) * sizeof(*kept));
		PC_ASSERT(kept);
		u32 n = op->kind == PC_OP_FILL ? pc_fill_quarantine(r, kept) : pc_call_hold(r, kept);
		pc_buf_keep(t->buf, kept, n, memory);
		Py_CLEAR(t->buf);
	}
}

/* Begin a call of a request: from now on its memory is in use, whatever revokes the operation, until release_memory.
 * Return: the exporter, NULL. */
static PyObject *hold_memory(struct op *op)
{
	struct op_transfer *t = transfer_of(op);
	if (!t->buf)
		t->buf = pc_buf_new(op->core, op->kind != PC_OP_FILL && !t->request->gather);
	if (!t->buf)
		return NULL;
	pc_buf_export(t->buf);
	pc_op_move(op, OP_IN_CALL);
	return Py_NewRef(t->buf);
}

static void release_memory(PyObject *buf)
{
	if (buf)
		pc_buf_release(buf);
	Py_XDECREF(buf);
}

/* Make the views of a call. An allocation may collect garbage, whose finalisers may revoke the operation. Return: 1, -1
 * exception. */
static int make_views(struct op *op, PyObject *buf, const struct pc_part *parts, size_t n)
{
	PyObject *views = PyTuple_New((Py_ssize_t)n);
	for (size_t k = 0; views && k < n; k++) {
		PyObject *view = pc_buf_view(buf, parts[k].memory, parts[k].len);
		if (!view || PyTuple_SetItem(views, (Py_ssize_t)k, view))
			Py_CLEAR(views);
	}
	if (views && pc_op_check(op))
		Py_CLEAR(views);
	if (!views)
		return -1;
	transfer_of(op)->views = views;
	return 1;
}

/* The memory of a request's next call. Return: 1; 0 none; -1 exception. */
static int next_parts(struct op *op, u64 *pos, struct pc_part *parts, size_t *n)
{
	int more = pc_call_next(request_of(op), pos, parts, PC_PARTS_MAX, n);
	if (more == -ESTALE) {
		errno = EAGAIN;
		PyErr_SetFromErrno(PyExc_OSError);
		return -1;
	}
	if (more < 0) {
		PyErr_NoMemory();
		return -1;
	}
	if (!more)
		Py_CLEAR(transfer_of(op)->buf);
	return more > 0;
}

static int begin_uncached(struct op *op, u64 *at, u64 *requested)
{
	struct op_transfer *t = transfer_of(op);
	struct op_uncached *own = uncached_of(op);
	/* First: a cut after it explains an empty answer. */
	own->seen = pc_inode_number(op->inode, PC_BY_STORAGE_SEEN);
	own->inval_seq = atomic_load_explicit(&op->inode->inval_seq, memory_order_acquire);
	u64 max = pc_max(op->inode->limits.max_read, 1), remote = pc_inode_remote_size(op->inode);
	u64 pos = own->pos + own->got, end = pc_min(own->pos + own->len, remote);
	if (pos >= end)
		return 0;
	own->staged = pc_staged_source(op->inode, pos, end, &end);
	end = pc_min(end, pc_boundary_after(&op->inode->limits, pos));
	u64 unit = own->staged ? 1 : pc_max(op->inode->limits.read_unit, 1), head = pos % unit;
	u64 len = pc_min(max, (end - pos + head + unit - 1) / unit * unit);
	PyObject *memory = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)len);
	PyObject *view = memory ? PyMemoryView_FromObject(memory) : NULL;
	PyObject *views = view ? PyTuple_Pack(1, view) : NULL;
	Py_XDECREF(view);
	Py_CLEAR(t->buf);
	t->buf = memory;
	if (!views)
		return -1;
	t->views = views;
	pc_op_move(op, OP_IN_CALL);
	own->head = head;
	own->most = end - pos;
	pc_count(op->inode, &op->inode->counters.read_requests, 1);
	*at = pos - head;
	*requested = len;
	return 1;
}

/* Begin the next call; the operation has its credit. The memory of a request's call is *parts, held by *buf until release_memory.
 * Return: 1; 0 none; -1 exception. */
static int prepare(struct op *op, u64 *pos, u64 *len, struct pc_part *parts, size_t *n, PyObject **buf)
{
	*buf = NULL;
	if (pc_op_check(op) || pc_op_refused(op))
		return -1;
	if (op->state == OP_IN_CALL)
		pc_op_end_call(op);
	if (op->kind == PC_OP_UNCACHED)
		return begin_uncached(op, pos, len);
	if (!request_of(op)) {
		PyErr_SetString(PyExc_ValueError, "this operation has no backend call");
		return -1;
	}
	int more = next_parts(op, pos, parts, n);
	if (more <= 0)
		return more;
	*len = pc_request_len(request_of(op));
	*buf = hold_memory(op);
	return *buf ? 1 : -1;
}

/* begin() -> (offset, buffers) of the next backend call, or None. */
PyObject *pc_op_begin(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	struct pc_part parts[PC_PARTS_MAX];
	PyObject *buf;
	size_t n = 0;
	u64 pos, len = 0;
	int more = prepare(op, &pos, &len, parts, &n, &buf);
	if (buf)
		more = make_views(op, buf, parts, n);
	release_memory(buf);
	if (more > 0)
		call_begins(op, pos, len);
	if (more < 0)
		return NULL;
	if (!more)
		Py_RETURN_NONE;
	return Py_BuildValue("KO", (unsigned long long)pos, transfer_of(op)->views);
}

/* Whether the bytes of a call may be of another object, or of before a change. */
static bool moved_beside(struct pc_inode *i, const struct op_uncached *own, u64 fresh)
{
	u64 pos = own->pos + own->got;
	pc_inode_leaf_lock(i);
	bool moved = !own->last && pc_inval_since(i, own->inval_seq, pos, pos + fresh);
	pc_inode_leaf_unlock(i);
	return moved;
}

static int answer_uncached(struct op *op, int64_t n)
{
	struct op_transfer *t = transfer_of(op);
	struct op_uncached *own = uncached_of(op);
	PyObject *memory = t->buf;
	t->buf = NULL;
	Py_ssize_t requested = PyByteArray_Size(memory);
	u64 head = own->head;
	int result = -EPROTO;
	if (n >= 0 && n <= requested) {
		u64 fresh = (u64)n > head ? pc_min((u64)n - head, own->most) : 0;
		bool moved = fresh ? moved_beside(op->inode, own, fresh)
				   : !own->seen || own->seen != pc_inode_number(op->inode, PC_BY_STORAGE_SEEN);
		memcpy(PyByteArray_AsString(own->memory) + own->got, PyByteArray_AsString(memory) + head, fresh);
		own->got += fresh;
		pc_count(op->inode, &op->inode->counters.read_bytes, (u64)n);
		if (fresh)
			own->zeros = 0;
		else
			own->zeros += n ? 1 : 16;
		t->stale = moved;
		result = t->stale ? -ESTALE
			 : own->zeros >= 32
				 ? -EPROTO
				 : own->pos + own->got >= pc_min(own->pos + own->len, pc_inode_remote_size(op->inode));
	}
	Py_DECREF(memory);
	return result;
}

static int answer(struct op *op, int64_t n)
{
	struct op_transfer *t = transfer_of(op);
	pc_io_end(&t->io, n < 0);
	atomic_fetch_add_explicit(&op->inode->volume->answers, 1, memory_order_relaxed);
	struct pc_request *r = t->request;
	bool scratch = r && r->scratch;
	pc_op_end_call(op);
	if (op->kind == PC_OP_UNCACHED)
		return answer_uncached(op, n);
	if (scratch && !r->scratch)
		return -ENOMEM;
	if (op->kind == PC_OP_WRITE)
		return r->gather ? pc_gather_answer(r, n) : pc_write_answer(r, n);
	int result = pc_fill_answer(r, n);
	t->stale = result == -ESTALE;
	return result == 0 && r->nr_owned == 0 ? 1 : result;
}

/* Keep an impossible answer for the error message; the reference goes to the operation. */
void pc_op_impossible(struct op *op, PyObject *answer)
{
	PyObject *last = op->answer;
	op->answer = answer;
	Py_XDECREF(last);
}

/* Process a backend's answer; only an int can be one. An impossible one is kept for the error message. */
static int answer_object(struct op *op, PyObject *value)
{
	int overflow = 0;
	int64_t n = -1;
	if (PyLong_Check(value))
		n = PyLong_AsLongLongAndOverflow(value, &overflow);
	int result = answer(op, overflow ? -1 : n);
	if (result == -EPROTO) {
		Py_INCREF(value);
		pc_op_impossible(op, value);
	}
	return result;
}

/* complete(n) -> 1 all done; 0 go on with begin(); a negative errno: the answer is impossible, or no progress is made. */
PyObject *pc_op_complete(PyObject *self, PyObject *value)
{
	struct op *op = (struct op *)self;
	if (pc_op_check(op))
		return NULL;
	if (op->state != OP_IN_CALL || !op_transfers(op))
		return PyErr_Format(PyExc_ValueError, "no backend call has begun");
	return PyLong_FromLong(answer_object(op, value));
}

enum step { STEP_ON, STEP_DONE, STEP_MET, STEP_RAISED, STEP_FAILED };

/* Make a call by a method of C, without the interpreter lock. A signal does not end it, unless the volume was aborted
 * meanwhile: then it is not made again. Return: bytes, or -errno; an exception is set if a signal handler has raised. */
i64 pc_call_driver(struct op *op, const struct pc_driver *driver, u64 pos, const struct pc_part *parts, size_t n)
{
	i64 moved;
	do {
		Py_BEGIN_ALLOW_THREADS moved = pc_driver_move(driver, pos, parts, n);
		Py_END_ALLOW_THREADS
	} while (moved == -EINTR && !PyErr_CheckSignals() && !pc_op_stopped(op));
	return moved;
}

static PyObject *call_method(struct op *op, PyObject *method, u64 pos)
{
	PyObject *offset = PyLong_FromUnsignedLongLong(pos);
	PyObject *n = offset ? PyObject_CallFunctionObjArgs(method, offset, transfer_of(op)->views, NULL) : NULL;
	Py_XDECREF(offset);
	return n;
}

/* Make the next call, and process its answer. @method: NULL: read_into, or read_staged. *made: a call was made. Return:
 * STEP_ON; STEP_DONE; STEP_MET: *met is a negative errno of an impossible answer; STEP_RAISED: the call has raised;
 * STEP_FAILED: something else has. */
static enum step make_call(struct op *op, PyObject *engine, PyObject *method, bool *made, PyObject **met)
{
	struct pc_part parts[PC_PARTS_MAX];
	struct pc_driver driver;
	PyObject *answered = NULL, *buf;
	size_t n = 0;
	u64 pos, len = 0;
	bool native = false;
	int more = prepare(op, &pos, &len, parts, &n, &buf);
	if (more <= 0)
		return more < 0 ? STEP_FAILED : STEP_DONE;
	method = method ? Py_NewRef(method)
			: PyObject_GetAttr(engine, op_reads_staged(op) ? pc_str_read_staged : pc_str_read_into);
	bool begun = method && !pc_op_check(op);
	if (begun && buf) {
		native = pc_driver_of(method, &driver);
		begun = native || make_views(op, buf, parts, n) > 0;
	}
	if (begun) {
		*made = true;
		call_begins(op, pos, len);
		answered = native ? pc_moved(pc_call_driver(op, &driver, pos, parts, n)) : call_method(op, method, pos);
	}
	Py_XDECREF(method);
	release_memory(buf);
	if (!answered)
		return begun ? STEP_RAISED : STEP_FAILED;
	int result = pc_op_check(op) ? 1 : answer_object(op, answered);
	Py_DECREF(answered);
	if (PyErr_Occurred())
		return STEP_FAILED;
	*met = result < 0 ? PyLong_FromLong(result) : NULL;
	return result < 0 ? STEP_MET : result ? STEP_DONE : STEP_ON;
}

/* Make one call of a fill. STEP_MET: the engine must handle *met, an exception or a negative errno. */
static enum step fill_step(struct op *op, PyObject *engine, PyObject **met)
{
	bool made = false;
	enum step step = make_call(op, engine, NULL, &made, met);
	if (PC_LIKELY(step != STEP_RAISED))
		return step;
	call_raised(op);
	/* On a thread of the volume no signal handler raises: whatever comes is the backend's, and has a waiter. */
	if (!PyErr_ExceptionMatches(PyExc_Exception) && !(pc_tls_inside && pc_tls_inside->helper))
		return STEP_FAILED;
	*met = pc_take_exception();
	return STEP_MET;
}

/* Run a fill; only after a failed call or an impossible answer call the engine: engine.fill(op, met). */
PyObject *pc_op_fill(struct op *op, PyObject *engine)
{
	PyObject *met = NULL;
	enum step step = fill_step(op, engine, &met);
	while (step == STEP_ON)
		step = PyErr_CheckSignals() ? STEP_FAILED : fill_step(op, engine, &met);
	if (step == STEP_DONE)
		Py_RETURN_NONE;
	PyObject *result = NULL;
	if (step == STEP_MET && met)
		result = PyObject_CallMethodObjArgs(engine, pc_str_fill, (PyObject *)op, met, NULL);
	Py_XDECREF(met);
	return result;
}

/* Send a write request by the bound method of a file without trouble; otherwise the engine does: engine.write(op). It
 * handles what a call has met, an exception or an impossible answer: engine.write_met(op, met, sent); and the result of a
 * request that an abort has left behind: engine.written(op). Trouble that comes beside the calls changes nothing for bytes
 * that were acknowledged. */
PyObject *pc_op_write(struct op *op, PyObject *engine)
{
	PyObject *write_from = PyObject_GetAttr(engine, pc_str_write_from), *met = NULL, *result;
	if (!write_from)
		return NULL;
	if (write_from == Py_None || request_of(op)->stage) {
		Py_DECREF(write_from);
		return PyObject_CallMethodObjArgs(engine, pc_str_write, (PyObject *)op, NULL);
	}
	pc_change_begins(op->inode, !op->inode->limits.commit_on_close);
	bool sent = false;
	enum step step = make_call(op, engine, write_from, &sent, &met);
	while (step == STEP_ON)
		step = PyErr_CheckSignals() ? STEP_FAILED : make_call(op, engine, write_from, &sent, &met);
	if (step == STEP_DONE && !pc_op_stopped(op)) {
		pc_op_end_write(op, true, false);
		result = Py_NewRef(Py_None);
	} else if (step == STEP_DONE) {
		result = PyObject_CallMethodObjArgs(engine, pc_str_written, (PyObject *)op, NULL);
	} else {
		met = met ? met : pc_take_exception();
		result = PyObject_CallMethodObjArgs(engine, pc_str_write_met, (PyObject *)op, met,
						    sent ? Py_True : Py_False, NULL);
	}
	Py_XDECREF(met);
	Py_DECREF(write_from);
	return result;
}

/* Whether the exception that is set, or one that it has replaced meanwhile, is an error and no interrupt. */
static bool is_error(void)
{
	PyObject *type, *outer, *traceback, *error = pc_take_exception(), *next;
	PyErr_GetExcInfo(&type, &outer, &traceback); /* the program handles that: it is of before */
	bool found = false;
	for (PyObject *one = Py_XNewRef(error); one; one = next) {
		found |= one != outer && PyErr_GivenExceptionMatches(one, PyExc_Exception);
		next = found || one == outer ? NULL : PyException_GetContext(one);
		Py_DECREF(one);
	}
	Py_XDECREF(type);
	Py_XDECREF(outer);
	Py_XDECREF(traceback);
	pc_put_exception(error);
	return found;
}

/* send_commit(call) -> what the backend's commit has returned. */
PyObject *pc_op_send_commit(PyObject *self, PyObject *call)
{
	struct op *op = (struct op *)self;
	struct pc_io io;
	pc_io_begin(&io, op->inode, (u32)op->kind, PC_TIMED_COMMIT, 0, 0);
	PyObject *version = PyObject_CallNoArgs(call);
	pc_io_end(&io, !version);
	op->commit_failed |= !version && is_error();
	return version;
}

/* Call engine.commit_met(op, error) for the exception that is set. A signal handler that raises may strike before the engine
 * has recorded anything: it does that first, and then the handler's exception is set. */
static PyObject *met_by_commit(struct op *op, PyObject *engine)
{
	PyObject *met = pc_take_exception(), *struck = NULL, *result;
	int left = 8;
	do {
		if (PyErr_Occurred()) {
			Py_XDECREF(struck);
			struck = pc_take_exception();
		}
		result = PyObject_CallMethodObjArgs(engine, pc_str_commit_met, (PyObject *)op, met, NULL);
	} while (!result && !op_is_settled(op) && --left);
	Py_XDECREF(met);
	if (result && struck) {
		Py_CLEAR(result);
		pc_put_exception(struck);
	} else {
		Py_XDECREF(struck);
	}
	return result;
}

/* Make a commit by the bound method of a file without trouble; otherwise the engine does: engine.<method>(op). It takes
 * the result: engine.committed(op, version, changes), or engine.commit_met(op, error). `changes`: this cache's changes
 * that had begun before the call; None: some may have run beside it. */
PyObject *pc_op_commit(struct op *op, PyObject *engine, PyObject *method)
{
	struct pc_inode *i = op->inode;
	PyObject *commit = PyObject_GetAttr(engine, pc_str_bound_commit);
	if (!commit)
		return NULL;
	if (commit == Py_None || !pc_inode_number(i, PC_BY_COMMIT_PLAIN)) {
		Py_DECREF(commit);
		return PyObject_CallMethodObjArgs(engine, method, (PyObject *)op, NULL);
	}
	pc_change_begins(i, true); /* first: an interrupt may end the engine's call before it has begun */
	u64 begun = pc_inode_number(i, PC_BY_CHANGES); /* a direct write that begins after this changes the number */
	PyObject *changes = pc_inode_number(i, PC_BY_DIRECT) ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(begun);
	PyObject *version = changes ? pc_op_send_commit((PyObject *)op, commit) : NULL, *result;
	if (version) {
		result = PyObject_CallMethodObjArgs(engine, pc_str_committed, (PyObject *)op, version, changes, NULL);
	} else {
		result = met_by_commit(op, engine);
	}
	Py_XDECREF(version);
	Py_XDECREF(changes);
	Py_DECREF(commit);
	return result;
}
