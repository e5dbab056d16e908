/*
 * awaitable.c - pread, pread_into, pwrite and append of an AsyncCachedFile.
 *
 * Each call makes one object, a coroutine in C. A hit is done in its first step: nothing else is made, no thread is asked, the
 * task is not suspended. What is missing is queued as work of the volume, as read-ahead is, and the task awaits the folio; then
 * it looks again. An awaitable owns nothing of CORE: no lock, no operation, no request. So an interrupt, a cancellation or a loop
 * that is closed leaves nothing behind, and what was queued goes on.
 *
 *   try ─► done                                     hit
 *    ▲  └► missing: queue a fill, await the folio ─┐
 *    └─────────────────────────────────────────────┘
 *       └► anything else that takes time (room, a busy inode lock, no memory): `rest` on a thread of the volume's own for
 *          this, awaited by the engine's coroutine (`_aside`)
 *
 * An error of the fill that a read asked for comes back to it by its number (pc_report_failure): the thread or task that ran it
 * knows nobody. Long copies are done in pieces with a turn of the loop between them.
 *
 * The interpreter lock guards everything here.
 */
#include "async.h"
#include "handle.h"

#include <stdlib.h>

enum { LOOP_PIECE = 256 << 10 };
enum state { NEW, RUNNING, SUSPENDED, OVER };
enum step { STEP_ERROR = -1, STEP_DONE, STEP_WAIT, STEP_TURN, STEP_ASIDE };

static PyTypeObject *awaitable_type;
static PyObject *str_aside_read, *str_aside_write, *str_through, *str_throw, *str_close;
static struct pc_list reading = {&reading, &reading}; /* awaitables that have asked for a fill */
static u32 last_report;

struct awaitable {
	PyObject_HEAD struct pc_list reading;
	PyObject *owner;  /* AsyncCachedFile */
	PyObject *target; /* buffer of the caller */
	PyObject *bytes;  /* PREAD: the result */
	PyObject *ticket; /* what is awaited */
	PyObject *sub;    /* coroutine of the engine that does the rest */
	PyObject *error;  /* of the fill that was asked for */
	Py_buffer view;
	u8 *memory; /* to read into, or write from */
	void *bounce;
	u64 pos, len, done;
	u32 report;
	int rounds;
	u8 verb, state, missed, asking, through;
	u8 lent; /* `rest` runs in another thread: the memory is its until it returns */
};

static struct handle *handle_of_owner(const struct awaitable *a)
{
	return handle_of(((struct async_handle *)a->owner)->file);
}

/* ---------------------------------------------------------------- errors of fills */

/* The fill that was asked for under this number has failed; the exception that is set is its asker's, and stays set. */
void pc_report_failure(u32 report)
{
	PyObject *type, *value, *traceback;
	if (!report)
		return;
	for (struct pc_list *l = reading.next; l != &reading; l = l->next) {
		struct awaitable *a = PC_ENTRY(l, struct awaitable, reading);
		if (a->report != report)
			continue;
		PyErr_Fetch(&type, &value, &traceback);
		PyErr_NormalizeException(&type, &value, &traceback);
		if (value && PyErr_GivenExceptionMatches(value, PyExc_Exception))
			a->error = Py_NewRef(value);
		PyErr_Restore(type, value, traceback);
		return;
	}
}

/* ---------------------------------------------------------------- memory */

static int get_buffer(struct awaitable *a, struct handle *h, int flags)
{
	if (PyObject_GetBuffer(a->target, &a->view, flags)) {
		if (PyErr_ExceptionMatches(PyExc_BufferError)) {
			PyErr_Clear();
			PyErr_Format(PyExc_TypeError, "a %scontiguous bytes-like object is required",
				     flags & PyBUF_WRITABLE ? "writable, " : "");
		}
		return -1;
	}
	bool reads = flags & PyBUF_WRITABLE;
	a->memory = a->view.buf;
	a->len = (u64)a->view.len;
	u64 pos = a->verb == APPEND ? pc_inode_size(h->inode) : a->pos;
	if (PC_LIKELY(!pc_may_fault(h, a->target) && !pc_view_overlaps(h->inode, pos, a->len, a->memory, !reads)))
		return 0;
	a->bounce = pc_bounce_new(h, a->len);
	if (!a->bounce || (!reads && pc_copy_in(h, a->bounce, a->view.buf, a->len)))
		return -1;
	a->memory = a->bounce;
	return 0;
}

static u64 clip(struct handle *h, u64 pos, u64 len)
{
	u64 size = pc_inode_size(h->inode);
	return pos >= size ? 0 : pc_min(len, size - pos);
}

static int prepare(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	bool reads = a->verb == PREAD || a->verb == PREAD_INTO;
	if (reads ? check_readable(h) : check_writable(h))
		return -1;
	if (a->verb == PREAD) {
		a->len = clip(h, a->pos, a->len);
		a->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)a->len);
		a->memory = a->bytes ? (u8 *)PyBytes_AsString(a->bytes) : NULL;
		return a->bytes ? 0 : -1;
	}
	if (get_buffer(a, h, reads ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_SIMPLE))
		return -1;
	if (reads)
		a->len = clip(h, a->pos, a->len);
	return 0;
}

/* Give everything back but what a thread still works with. */
static void settle(struct awaitable *a)
{
	a->state = OVER;
	pc_list_del(&a->reading);
	Py_CLEAR(a->ticket);
	Py_CLEAR(a->sub);
	Py_CLEAR(a->error);
	if (a->lent)
		return;
	if (a->view.obj)
		PyBuffer_Release(&a->view);
	free(a->bounce);
	a->bounce = NULL;
	Py_CLEAR(a->target);
	Py_CLEAR(a->bytes);
}

/* The result, once everything is there. */
static PyObject *result_of(struct awaitable *a)
{
	if (a->verb == PREAD_INTO && a->bounce && pc_copy_out(handle_of_owner(a), a->view.buf, a->bounce, a->done))
		return NULL;
	if (a->verb == PWRITE)
		return PyLong_FromUnsignedLongLong(a->len);
	if (a->verb == APPEND)
		return PyLong_FromUnsignedLongLong(a->pos);
	if (a->verb == PREAD_INTO)
		return PyLong_FromUnsignedLongLong(a->done);
	if (PC_LIKELY(a->done == a->len)) {
		PyObject *bytes = a->bytes;
		a->bytes = NULL;
		return bytes;
	}
	return PyBytes_FromStringAndSize(PyBytes_AsString(a->bytes), (Py_ssize_t)a->done);
}

/* ---------------------------------------------------------------- reading */

static int await_event(struct awaitable *a, struct handle *h, struct pc_event *e, u32 seq)
{
	a->ticket = pc_ticket_new(h->core, e, seq);
	return a->ticket ? STEP_WAIT : STEP_ERROR;
}

/* Return: STEP_WAIT; STEP_DONE: it is free, look again; STEP_ERROR. */
static int await_folio(struct awaitable *a, struct handle *h, const struct pc_need *need)
{
	struct pc_cache *c = h->inode->cache;
	struct pc_folio *f = pc_folio_at(c, need->folio);
	if (!pc_folio_get(f))
		return STEP_DONE;
	struct pc_event *e = pc_folio_event(c, need->folio);
	u32 seq = atomic_load(&e->seq);
	bool busy = atomic_fetch_or(&f->state, PC_F_WAITERS) & PC_F_LOCKED;
	pc_folio_put(c, f);
	if (!busy)
		return STEP_DONE;
	pc_count(h->inode, &h->inode->counters.lock_waits, 1);
	return await_event(a, h, e, seq);
}

static int await_invalidate(struct awaitable *a, struct handle *h)
{
	u32 seq = atomic_load(&h->inode->event.seq);
	return atomic_load(&h->inode->inval_x) ? await_event(a, h, &h->inode->event, seq) : STEP_DONE;
}

/* Have [pos, pos + len) fetched. Return: STEP_DONE look again; STEP_WAIT; STEP_ASIDE: no memory for it; STEP_ERROR. */
static int ask_for(struct awaitable *a, struct handle *h, u64 pos, u64 len)
{
	struct pc_need need = {.kind = PC_NEED_NOTHING};
	struct pc_request *r = NULL;
	if (a->rounds++ > PC_ROUNDS_CACHED)
		return STEP_ASIDE; /* what is read is evicted before it is copied */
	int err = pc_fill_begin(h->inode, pos, len, &need, &r);
	if (!r) {
		if (err == -ENOMEM)
			return STEP_ASIDE;
		if (need.kind == PC_NEED_FOLIO)
			return await_folio(a, h, &need);
		return need.kind == PC_NEED_INVALIDATE ? await_invalidate(a, h) : STEP_DONE;
	}
	a->report = r->report = ++last_report ? last_report : ++last_report;
	if (!a->asking)
		pc_list_add_tail(&reading, &a->reading);
	a->asking = 1;
	u64 end = r->end;
	pc_fill_submit(r, PC_WORK_FILL);
	if (end < pos + len)
		pc_submit_fills(h->inode, end, pos + len, PC_WORK_FILL, 16);
	if (pc_readahead_miss(h->inode, &h->ra, pos, len))
		pc_readahead_submit(h->inode, &h->ra);
	return STEP_DONE;
}

static void seen(struct awaitable *a, struct handle *h)
{
	if (PC_UNLIKELY(a->missed))
		pc_count(h->inode, &h->inode->counters.misses, 1);
	else
		pc_count_hit(h->inode);
	pc_read_seen(h, a->pos, a->done);
}

static int step_read(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	struct pc_need need;
	if (check_readable(h))
		return STEP_ERROR;
	for (;;) {
		u64 rest = a->len - a->done, piece = pc_min(rest, LOOP_PIECE);
		i64 got = pc_read(h->inode, a->pos + a->done, a->memory + a->done, piece, &need);
		if (PC_UNLIKELY(need.readahead))
			pc_met_marker(h, &need);
		a->done += (u64)got;
		if (PC_LIKELY(need.kind == PC_NEED_NOTHING)) {
			if (PC_LIKELY(a->done == a->len || (u64)got < piece)) {
				seen(a, h);
				return STEP_DONE;
			}
			return STEP_TURN;
		}
		if (got)
			a->rounds = 0;
		if (a->error) {
			PyErr_SetObject((PyObject *)Py_TYPE(a->error), a->error);
			return STEP_ERROR;
		}
		if (pc_check_inside(
			    h->inode, h->core,
			    "bytes that are not cached were read from inside a backend call of the same volume"))
			return STEP_ERROR;
		a->missed |= need.kind == PC_NEED_FILL;
		int next = need.kind == PC_NEED_FOLIO ? await_folio(a, h, &need)
						      : ask_for(a, h, a->pos + a->done, a->len - a->done);
		if (next != STEP_DONE)
			return next;
	}
}

/* ---------------------------------------------------------------- writing */

static int step_write(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	if (check_writable(h))
		return STEP_ERROR;
	if (a->done == a->len)
		return a->through && a->len ? STEP_ASIDE : STEP_DONE;
	if (a->verb == APPEND)
		return STEP_ASIDE; /* keeps the inode lock over all of it, which a task must not */
	u64 piece = pc_min(a->len - a->done, LOOP_PIECE);
	u64 n = pc_write_try(h, a->pos + a->done, a->memory + a->done, piece);
	a->done += n;
	if (a->done == a->len)
		return a->through ? STEP_ASIDE : STEP_DONE;
	return n == piece ? STEP_TURN : STEP_ASIDE;
}

/* ---------------------------------------------------------------- the rest, elsewhere */

/* rest(): everything that is left, on the thread that calls this; awaited by the task in `_aside`. */
static PyObject *awaitable_rest(PyObject *self, PyObject *unused)
{
	struct awaitable *a = (struct awaitable *)self;
	struct handle *h = handle_of_owner(a);
	int err;
	(void)unused;
	if (a->state == OVER)
		Py_RETURN_NONE; /* cancelled before it began */
	bool reads = a->verb == PREAD || a->verb == PREAD_INTO;
	if (reads ? check_readable(h) : check_writable(h))
		return NULL;
	a->lent = 1;
	if (reads) {
		i64 n = pc_read_rest(h, a->pos + a->done, a->memory + a->done, a->len - a->done);
		a->done += n < 0 ? 0 : (u64)n;
		err = n < 0;
	} else {
		err = pc_write_rest(h, &a->pos, a->memory, a->len, &a->done, a->verb == APPEND);
	}
	a->lent = 0;
	if (a->state == OVER)
		settle(a); /* nobody waits any more */
	if (err)
		return NULL;
	Py_RETURN_NONE;
}

/* The engine's coroutine that does the rest, or hands over what was written. */
static int go_aside(struct awaitable *a)
{
	bool written = a->verb >= PWRITE && a->done == a->len;
	PyObject *name = written ? str_through : a->verb >= PWRITE ? str_aside_write : str_aside_read;
	if (written) {
		a->through = 0;
		PyObject *pos = PyLong_FromUnsignedLongLong(a->pos), *len = PyLong_FromUnsignedLongLong(a->len);
		a->sub = pos && len ? PyObject_CallMethodObjArgs(a->owner, name, pos, len, NULL) : NULL;
		Py_XDECREF(pos);
		Py_XDECREF(len);
	} else {
		a->sub = PyObject_CallMethodObjArgs(a->owner, name, (PyObject *)a, NULL);
	}
	return a->sub ? 0 : -1;
}

/* ---------------------------------------------------------------- steps */

static PySendResult over(struct awaitable *a, PyObject *value, PyObject **result)
{
	settle(a);
	*result = value;
	return value ? PYGEN_RETURN : PYGEN_ERROR;
}

/* A step of the engine's coroutine. Return: whether that is over and there is more to do; else *sent and *result. */
static bool drive(struct awaitable *a, PyObject *value, PyObject **result, PySendResult *sent)
{
	*sent = PyIter_Send(a->sub, value, result);
	if (*sent == PYGEN_NEXT) {
		a->state = SUSPENDED;
		return false;
	}
	Py_CLEAR(a->sub);
	if (*sent == PYGEN_RETURN)
		Py_CLEAR(*result);
	if (*sent == PYGEN_RETURN && a->verb >= PWRITE)
		return true;
	*sent = over(a, *sent == PYGEN_RETURN ? result_of(a) : NULL, result);
	return false;
}

/* Look until there is something to await. */
static PySendResult advance(struct awaitable *a, PyObject **result)
{
	PySendResult sent;
	for (;;) {
		int step = a->verb >= PWRITE ? step_write(a) : step_read(a);
		if (PC_LIKELY(step == STEP_DONE))
			return over(a, result_of(a), result);
		if (step == STEP_ERROR || (step == STEP_ASIDE && go_aside(a)))
			return over(a, NULL, result);
		if (step == STEP_WAIT) {
			a->state = SUSPENDED;
			*result = pc_ticket_yield(a->ticket);
			return PYGEN_NEXT;
		}
		if (step == STEP_TURN) {
			a->state = SUSPENDED;
			*result = Py_NewRef(Py_None);
			return PYGEN_NEXT;
		}
		if (step == STEP_ASIDE && !drive(a, Py_None, result, &sent))
			return sent;
	}
}

static PySendResult awaitable_send(PyObject *self, PyObject *value, PyObject **result)
{
	struct awaitable *a = (struct awaitable *)self;
	*result = NULL;
	if (PC_LIKELY(a->state == NEW)) {
		a->state = RUNNING;
		a->through = 0;
		if (prepare(a))
			return over(a, NULL, result);
		a->through = handle_of_owner(a)->through;
		return advance(a, result);
	}
	if (a->state != SUSPENDED) {
		PyErr_SetString(a->state == OVER ? PyExc_RuntimeError : PyExc_ValueError,
				a->state == OVER ? "cannot reuse already awaited coroutine"
						 : "coroutine already executing");
		return PYGEN_ERROR;
	}
	a->state = RUNNING;
	PySendResult sent;
	if (a->sub && !drive(a, value, result, &sent))
		return sent;
	Py_CLEAR(a->ticket);
	return advance(a, result);
}

static PyObject *as_iterator(PySendResult sent, PyObject *value)
{
	if (sent == PYGEN_NEXT)
		return value;
	if (sent == PYGEN_RETURN) {
		pc_return_value(value);
		Py_DECREF(value);
	}
	return NULL;
}

static PyObject *awaitable_next(PyObject *self)
{
	PyObject *value;
	PySendResult sent = awaitable_send(self, Py_None, &value);
	return as_iterator(sent, value);
}

static PyObject *awaitable_send_method(PyObject *self, PyObject *argument)
{
	PyObject *value;
	PySendResult sent = awaitable_send(self, argument, &value);
	return as_iterator(sent, value);
}

static int raise_given(PyObject *type, PyObject *value, PyObject *traceback)
{
	if (PyExceptionInstance_Check(type)) {
		value = type;
		type = (PyObject *)Py_TYPE(type);
	} else if (!PyExceptionClass_Check(type)) {
		PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
		return -1;
	}
	Py_INCREF(type);
	Py_XINCREF(value == Py_None ? NULL : value);
	Py_XINCREF(traceback == Py_None ? NULL : traceback);
	PyErr_Restore(type, value == Py_None ? NULL : value, traceback == Py_None ? NULL : traceback);
	return 0;
}

/* throw(type[, value[, traceback]]): what was started goes on, nobody waits for it. */
static PyObject *awaitable_throw(PyObject *self, PyObject *args)
{
	struct awaitable *a = (struct awaitable *)self;
	PyObject *type, *value = Py_None, *traceback = Py_None;
	if (!PyArg_ParseTuple(args, "O|OO:throw", &type, &value, &traceback))
		return NULL;
	if (a->state == SUSPENDED && a->sub) {
		a->state = RUNNING;
		PyObject *throw = PyObject_GetAttr(a->sub, str_throw);
		PyObject *yielded = throw ? PyObject_CallObject(throw, args) : NULL;
		Py_XDECREF(throw);
		if (yielded) {
			a->state = SUSPENDED;
			return yielded;
		}
		settle(a);
		return NULL;
	}
	if (a->state != OVER)
		settle(a);
	raise_given(type, value, traceback);
	return NULL;
}

static PyObject *awaitable_close(PyObject *self, PyObject *unused)
{
	struct awaitable *a = (struct awaitable *)self;
	(void)unused;
	if (a->sub) {
		PyObject *closed = PyObject_CallMethodObjArgs(a->sub, str_close, NULL);
		if (!closed)
			return NULL;
		Py_DECREF(closed);
	}
	if (a->state != OVER)
		settle(a);
	Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- types */

static int awaitable_traverse(PyObject *self, visitproc visit, void *arg)
{
	struct awaitable *a = (struct awaitable *)self;
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(a->owner);
	Py_VISIT(a->target);
	Py_VISIT(a->ticket);
	Py_VISIT(a->sub);
	Py_VISIT(a->error);
	return 0;
}

static int awaitable_clear(PyObject *self)
{
	struct awaitable *a = (struct awaitable *)self;
	settle(a);
	return 0;
}

static void warn_never_awaited(const struct awaitable *a)
{
	static const char *const names[] = {"pread", "pread_into", "pwrite", "append"};
	PyObject *type, *value, *traceback;
	PyErr_Fetch(&type, &value, &traceback);
	if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine 'AsyncCachedFile.%s' was never awaited",
			     names[a->verb]))
		PyErr_WriteUnraisable(a->owner);
	PyErr_Restore(type, value, traceback);
}

static void awaitable_dealloc(PyObject *self)
{
	struct awaitable *a = (struct awaitable *)self;
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	if (PC_UNLIKELY(a->state == NEW && a->owner))
		warn_never_awaited(a);
	if (a->state != OVER)
		settle(a);
	Py_CLEAR(a->owner);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

/* A call of a verb, before its first step. */
PyObject *pc_awaitable_new(PyObject *owner, int verb, PyObject *target, u64 len, u64 pos)
{
	struct awaitable *a = (struct awaitable *)PyType_GenericAlloc(awaitable_type, 0);
	if (!a)
		return NULL;
	pc_list_init(&a->reading);
	a->owner = Py_NewRef(owner);
	a->target = Py_XNewRef(target);
	a->verb = (u8)verb;
	a->len = len;
	a->pos = pos;
	return (PyObject *)a;
}

static PyMethodDef awaitable_methods[] = {
	{"send", awaitable_send_method, METH_O, NULL},
	{"throw", awaitable_throw, METH_VARARGS, NULL},
	{"close", awaitable_close, METH_NOARGS, NULL},
	{"rest", awaitable_rest, METH_NOARGS, "rest($self, /)\n--\n\nDo what is left, on this thread."},
	{NULL, NULL, 0, NULL},
};
static PyType_Slot awaitable_slots[] = {
	{Py_tp_dealloc, awaitable_dealloc},
	{Py_tp_traverse, awaitable_traverse},
	{Py_tp_clear, awaitable_clear},
	{Py_tp_iter, PyObject_SelfIter},
	{Py_tp_iternext, awaitable_next},
	{Py_am_await, PyObject_SelfIter},
	{Py_am_send, awaitable_send},
	{Py_tp_methods, awaitable_methods},
	{Py_tp_doc, "One read or write, to be awaited."},
	{0, NULL},
};
static PyType_Spec awaitable_spec = {"pagecache._native._core.Awaitable", sizeof(struct awaitable), 0,
				     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				     awaitable_slots};

int pc_install_awaitable(void)
{
	str_aside_read = PyUnicode_InternFromString("_aside_read");
	str_aside_write = PyUnicode_InternFromString("_aside_write");
	str_through = PyUnicode_InternFromString("_through");
	str_throw = PyUnicode_InternFromString("throw");
	str_close = PyUnicode_InternFromString("close");
	awaitable_type = (PyTypeObject *)PyType_FromSpec(&awaitable_spec);
	if (!str_aside_read || !str_aside_write || !str_through || !str_throw || !str_close || !awaitable_type)
		return -1;
	return 0;
}
