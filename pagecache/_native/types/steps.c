/*
 * steps.c - one read or write of a task, in steps: pread, pread_into, pwrite or append of an AsyncCachedFile (aio.py).
 *
 * A hit is complete when `_begin_*` of the handle returns (handle_begin.c): the coroutine is not suspended. Otherwise
 * the result is a Steps object, and the coroutine does what each `step` answers. A Steps object owns nothing of CORE: no
 * lock, no operation, no request. So an interrupt, a cancellation or a closed loop leaves nothing behind, and queued
 * work continues.
 *
 *   step ─► None                            done: the coroutine returns result()
 *    ▲  ├► a Ticket                         a fill is queued, or runs: await the folio
 *    │  ├► "turn"                           a long copy gives the loop a turn after each piece
 *    │  ├► "aside"                          anything else that takes time (room, a busy inode lock, no memory):
 *    │  │                                   finish() on one of the volume's threads for this
 *    │  └► "through"                        a write-through handle: wait until `extent` is written back
 *    └──┘
 *
 * Fills are queued as work of the volume; the error of one returns to the read that requested it (struct pc_reader).
 *
 * The interpreter lock guards everything here.
 */
#include "types/async.h"
#include "types/handle.h"

#include <stdlib.h>

enum step { STEP_ERROR = -1, STEP_DONE, STEP_WAIT, STEP_TURN, STEP_ASIDE, STEP_THROUGH };

struct steps {
	PyObject_HEAD struct pc_reader reader; /* of the fill that it requested */
	PyObject *file;   /* CachedFile */
	PyObject *target; /* buffer of the caller */
	PyObject *bytes;  /* PREAD: the result */
	PyObject *ticket; /* STEP_WAIT: the result of the step */
	Py_buffer view;
	u8 *memory; /* to read into, or write from */
	void *bounce;
	u64 pos, len, done;
	int rounds;
	u8 verb, over, missed, through;
	u8 whole; /* `finish` has done everything */
	u8 lent; /* `finish` runs in another thread, which uses the memory until it returns */
};

static PyTypeObject *steps_type;
static PyObject *str_turn, *str_aside, *str_through;

/* ---------------------------------------------------------------- memory */

static int get_buffer(struct steps *s, struct handle *h, int flags)
{
	if (PyObject_GetBuffer(s->target, &s->view, flags)) {
		if (PyErr_ExceptionMatches(PyExc_BufferError)) {
			PyErr_Clear();
			PyErr_Format(PyExc_TypeError, "a %scontiguous bytes-like object is required",
				     flags & PyBUF_WRITABLE ? "writable, " : "");
		}
		return -1;
	}
	bool reads = flags & PyBUF_WRITABLE;
	s->memory = s->view.buf;
	s->len = (u64)s->view.len;
	u64 pos = s->verb == APPEND ? pc_inode_size(h->inode) : s->pos;
	if (PC_LIKELY(!pc_may_fault(h, s->target) && !pc_view_overlaps(h->inode, pos, s->len, s->memory, !reads)))
		return 0;
	s->bounce = pc_bounce_new(h, s->len);
	if (!s->bounce || (!reads && pc_copy_in(h, s->bounce, s->view.buf, s->len)))
		return -1;
	s->memory = s->bounce;
	return 0;
}

static int prepare(struct steps *s)
{
	struct handle *h = handle_of(s->file);
	bool reads = s->verb == PREAD || s->verb == PREAD_INTO;
	if (reads ? check_readable(h) : check_writable(h))
		return -1;
	if (s->verb == PREAD) {
		s->memory = (u8 *)PyBytes_AsString(s->bytes);
		return 0;
	}
	if (get_buffer(s, h, reads ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_SIMPLE))
		return -1;
	if (reads)
		s->len = clip(h, s->pos, s->len);
	return 0;
}

/* Release everything except memory that a thread still uses. */
static void settle(struct steps *s)
{
	s->over = 1;
	pc_reader_close(&s->reader);
	Py_CLEAR(s->ticket);
	if (s->lent)
		return;
	if (s->view.obj)
		PyBuffer_Release(&s->view);
	free(s->bounce);
	s->bounce = NULL;
	Py_CLEAR(s->target);
	Py_CLEAR(s->bytes);
}

/* Build the result after the last step. */
static PyObject *take_result(struct steps *s)
{
	if (s->verb == PREAD_INTO && s->bounce && pc_copy_out(handle_of(s->file), s->view.buf, s->bounce, s->done))
		return NULL;
	if (s->verb == PWRITE)
		return PyLong_FromUnsignedLongLong(s->len);
	if (s->verb == APPEND)
		return PyLong_FromUnsignedLongLong(s->pos);
	if (s->verb == PREAD_INTO)
		return PyLong_FromUnsignedLongLong(s->done);
	if (PC_LIKELY(s->done == s->len)) {
		PyObject *bytes = s->bytes;
		s->bytes = NULL;
		return bytes;
	}
	return PyBytes_FromStringAndSize(PyBytes_AsString(s->bytes), (Py_ssize_t)s->done);
}

/* ---------------------------------------------------------------- reading */

static int await_event(struct steps *s, struct handle *h, struct pc_event *e, u32 seq, const struct pc_wait *w)
{
	s->ticket = pc_ticket_new(h->core, e, seq, w, NULL);
	return s->ticket ? STEP_WAIT : STEP_ERROR;
}

/* Return: STEP_WAIT; STEP_DONE: the folio is free, try again; STEP_ERROR. */
static int await_folio(struct steps *s, struct handle *h, const struct pc_need *need)
{
	struct pc_cache *c = h->inode->cache;
	struct pc_folio *f = pc_folio_at(c, need->folio);
	if (!pc_folio_get(f))
		return STEP_DONE;
	struct pc_event *e = pc_folio_event(c, need->folio);
	u32 seq = atomic_load(&e->seq);
	bool busy = atomic_fetch_or(&f->state, PC_F_WAITERS) & PC_F_LOCKED;
	struct pc_wait w = pc_wait_for_folio(h->inode, f, need);
	pc_folio_put(c, f);
	if (!busy)
		return STEP_DONE;
	pc_count(h->inode, &h->inode->counters.lock_waits, 1);
	return await_event(s, h, e, seq, &w);
}

static int await_invalidate(struct steps *s, struct handle *h)
{
	u32 seq = atomic_load(&h->inode->event.seq);
	if (!atomic_load(&h->inode->inval_x))
		return STEP_DONE;
	struct pc_wait w = pc_wait_of(h->inode, PC_WAIT_INVALIDATE, 0, 0);
	return await_event(s, h, &h->inode->event, seq, &w);
}

/* Request a fill of [pos, pos + len). Return: STEP_DONE try again; STEP_WAIT; STEP_ASIDE: no memory for it;
 * STEP_ERROR. */
static int request_fill(struct steps *s, struct handle *h, u64 pos, u64 len)
{
	struct pc_need need = {.kind = PC_NEED_NOTHING};
	struct pc_request *r = NULL;
	if (s->rounds++ > PC_ROUNDS_CACHED || s->reader.stale)
		return STEP_ASIDE; /* bytes are evicted before they are copied, or their fill was given back */
	int err = pc_fill_begin(h->inode, pos, len, &need, &r);
	if (!r) {
		if (err == -ENOMEM)
			return STEP_ASIDE;
		if (need.kind == PC_NEED_FOLIO)
			return await_folio(s, h, &need);
		return need.kind == PC_NEED_INVALIDATE ? await_invalidate(s, h) : STEP_DONE;
	}
	pc_reader_open(&s->reader, r);
	u64 end = r->end;
	pc_fill_submit(r, PC_WORK_FILL);
	if (end < pos + len)
		pc_submit_fills(h->inode, end, pos + len, PC_WORK_FILL, 16);
	if (pc_readahead_miss(h->inode, &h->ra, pos, len))
		pc_readahead_submit(h->inode, &h->ra);
	return STEP_DONE;
}

static void seen(struct steps *s, struct handle *h)
{
	if (PC_UNLIKELY(s->missed))
		pc_count(h->inode, &h->inode->counters.misses, 1);
	else
		pc_count_hit(h->inode);
	pc_read_seen(h, s->pos, s->done);
}

static int step_read(struct steps *s)
{
	struct handle *h = handle_of(s->file);
	struct pc_need need;
	if (check_readable(h))
		return STEP_ERROR;
	for (;;) {
		u64 rest = s->len - s->done, piece = pc_min(rest, PC_LOOP_PIECE);
		i64 got = pc_read(h->inode, s->pos + s->done, s->memory + s->done, piece, &need);
		if (PC_UNLIKELY(need.readahead))
			pc_met_marker(h, &need);
		s->done += (u64)got;
		if (PC_LIKELY(need.kind == PC_NEED_NOTHING)) {
			if (PC_LIKELY(s->done == s->len || (u64)got < piece)) {
				seen(s, h);
				return STEP_DONE;
			}
			return STEP_TURN;
		}
		if (got)
			s->rounds = 0;
		if (s->reader.error) {
			PyErr_SetObject((PyObject *)Py_TYPE(s->reader.error), s->reader.error);
			return STEP_ERROR;
		}
		if (pc_check_inside(
			    h->inode, h->core,
			    "bytes that are not cached were read from inside a backend call of the same volume"))
			return STEP_ERROR;
		s->missed |= need.kind == PC_NEED_FILL;
		int next = need.kind == PC_NEED_FOLIO ? await_folio(s, h, &need)
						      : request_fill(s, h, s->pos + s->done, s->len - s->done);
		if (next != STEP_DONE)
			return next;
	}
}

/* ---------------------------------------------------------------- writing */

/* All bytes are accepted. */
static int written(struct steps *s)
{
	bool through = s->through && s->len;
	s->through = 0;
	return through ? STEP_THROUGH : STEP_DONE;
}

static int step_write(struct steps *s)
{
	struct handle *h = handle_of(s->file);
	if (check_writable(h))
		return STEP_ERROR;
	if (s->done == s->len) {
		if (s->verb == APPEND && !s->len)
			s->pos = pc_inode_size(h->inode);
		return written(s);
	}
	if (s->verb == APPEND)
		return STEP_ASIDE; /* keeps the inode lock throughout, which a task must not */
	u64 piece = pc_min(s->len - s->done, PC_LOOP_PIECE);
	u64 n = pc_write_try(h, s->pos + s->done, s->memory + s->done, piece);
	s->done += n;
	if (s->done == s->len)
		return written(s);
	return n == piece ? STEP_TURN : STEP_ASIDE;
}

/* ---------------------------------------------------------------- the object */

/* step() -> the next action of the coroutine, see the top of this file. */
static PyObject *steps_step(PyObject *self, PyObject *unused)
{
	struct steps *s = (struct steps *)self;
	(void)unused;
	if (s->over || s->whole)
		Py_RETURN_NONE;
	int step = s->verb >= PWRITE ? step_write(s) : step_read(s);
	if (step == STEP_DONE)
		Py_RETURN_NONE;
	if (step == STEP_WAIT) {
		PyObject *ticket = s->ticket;
		s->ticket = NULL;
		return ticket;
	}
	return step == STEP_TURN      ? Py_NewRef(str_turn)
	       : step == STEP_ASIDE   ? Py_NewRef(str_aside)
	       : step == STEP_THROUGH ? Py_NewRef(str_through)
				      : NULL;
}

/* finish(): do all remaining work on the calling thread, unless the task no longer waits. */
static PyObject *steps_finish(PyObject *self, PyObject *unused)
{
	struct steps *s = (struct steps *)self;
	bool reads = s->verb < PWRITE;
	int err;
	(void)unused;
	if (s->over)
		Py_RETURN_NONE;
	struct handle *h = handle_of(s->file);
	if (reads ? check_readable(h) : check_writable(h))
		return NULL;
	s->lent = 1;
	if (reads) {
		i64 n = pc_read_remainder(h, s->pos + s->done, s->memory + s->done, s->len - s->done);
		s->done += n < 0 ? 0 : (u64)n;
		s->whole = n >= 0;
		err = n < 0;
	} else {
		err = pc_write_remainder(h, &s->pos, s->memory, s->len, &s->done, s->verb == APPEND) == PC_FAILED;
	}
	s->lent = 0;
	if (s->over)
		settle(s);
	if (err)
		return NULL;
	Py_RETURN_NONE;
}

/* result(): after the last step. */
static PyObject *steps_result(PyObject *self, PyObject *unused)
{
	struct steps *s = (struct steps *)self;
	(void)unused;
	if (!s->over)
		return take_result(s);
	PyErr_SetString(PyExc_RuntimeError, "the steps are over");
	return NULL;
}

/* settle(): the task no longer waits. Idempotent. */
static PyObject *steps_settle(PyObject *self, PyObject *unused)
{
	struct steps *s = (struct steps *)self;
	(void)unused;
	if (!s->over)
		settle(s);
	Py_RETURN_NONE;
}

static PyObject *steps_extent(PyObject *self, void *closure)
{
	struct steps *s = (struct steps *)self;
	(void)closure;
	return Py_BuildValue("KK", (unsigned long long)s->pos, (unsigned long long)s->len);
}

static int steps_traverse(PyObject *self, visitproc visit, void *arg)
{
	struct steps *s = (struct steps *)self;
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(s->file);
	Py_VISIT(s->target);
	Py_VISIT(s->reader.error);
	return 0;
}

static int steps_clear(PyObject *self)
{
	settle((struct steps *)self);
	return 0;
}

static void steps_dealloc(PyObject *self)
{
	struct steps *s = (struct steps *)self;
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	settle(s);
	Py_CLEAR(s->file);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

/* Create the steps of a call of which `done` bytes are moved. `bytes`: the result of a PREAD, or NULL; it is taken. */
PyObject *pc_steps_new(PyObject *file, int verb, PyObject *target, PyObject *bytes, u64 len, u64 pos, u64 done)
{
	struct steps *s = (struct steps *)PyType_GenericAlloc(steps_type, 0);
	if (!s) {
		Py_XDECREF(bytes);
		return NULL;
	}
	struct handle *h = handle_of(file);
	pc_list_init(&s->reader.link);
	s->file = Py_NewRef(file);
	s->target = Py_XNewRef(target);
	s->bytes = bytes;
	s->verb = (u8)verb;
	s->len = len;
	s->pos = pos;
	s->done = done;
	s->through = h->through;
	if (prepare(s)) {
		Py_DECREF(s);
		return NULL;
	}
	return (PyObject *)s;
}

static PyMethodDef steps_methods[] = {
	{"step", steps_step, METH_NOARGS, "step($self, /)\n--\n\nGo on without waiting; return the next action."},
	{"finish", steps_finish, METH_NOARGS, "finish($self, /)\n--\n\nDo the remaining work on this thread."},
	{"result", steps_result, METH_NOARGS, "result($self, /)\n--\n\nReturn the result after the last step."},
	{"settle", steps_settle, METH_NOARGS, "settle($self, /)\n--\n\nEnd the call: its task no longer waits."},
	{NULL, NULL, 0, NULL},
};
static PyGetSetDef steps_getset[] = {
	{"extent", steps_extent, NULL, "Offset and length of a write.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot steps_slots[] = {
	{Py_tp_dealloc, steps_dealloc},
	{Py_tp_traverse, steps_traverse},
	{Py_tp_clear, steps_clear},
	{Py_tp_methods, steps_methods},
	{Py_tp_getset, steps_getset},
	{Py_tp_doc, "One read or write of a task that could not be done at once."},
	{0, NULL},
};
static PyType_Spec steps_spec = {"pagecache._native._core.Steps", sizeof(struct steps), 0,
				 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				 steps_slots};

int pc_install_steps(PyObject *module)
{
	str_turn = PyUnicode_InternFromString("turn");
	str_aside = PyUnicode_InternFromString("aside");
	str_through = PyUnicode_InternFromString("through");
	steps_type = (PyTypeObject *)PyType_FromSpec(&steps_spec);
	if (!str_turn || !str_aside || !str_through || !steps_type)
		return -1;
	return PyModule_AddObjectRef(module, "Steps", (PyObject *)steps_type);
}
