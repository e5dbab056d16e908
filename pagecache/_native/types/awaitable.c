/*
 * awaitable.c - pread, pread_into, pwrite and append of an AsyncCachedFile.
 *
 * Each call makes one object, a coroutine in C. A hit completes in its first step: it makes no other object, uses no
 * other thread and does not suspend the task. For missing bytes it queues work of the volume, as readahead does; the
 * task awaits the folio and then tries again. An awaitable owns nothing of CORE: no lock, no operation, no request. So
 * an interrupt, a cancellation or a closed loop leaves nothing behind, and queued work continues.
 *
 *   try ─► done                                     hit
 *    ▲  └► missing: queue a fill, await the folio ─┐
 *    └─────────────────────────────────────────────┘
 *       └► anything else that takes time (room, a busy inode lock, no memory): `rest` on one of the volume's
 *          threads for this, awaited by the engine's coroutine (`_aside`)
 *
 * awaitable_step.c has the steps. This file has the protocol of coroutines (send, throw, close) and the types.
 *
 * The interpreter lock guards everything here.
 */
#include "types/awaitable.h"

static PyTypeObject *awaitable_type;
static PyObject *str_aside_read, *str_aside_write, *str_through, *str_throw, *str_close;

/* ---------------------------------------------------------------- slow path, on another thread */

/* rest(): do all remaining work on the calling thread; the task awaits it in `_aside`. */
static PyObject *awaitable_rest(PyObject *self, PyObject *unused)
{
	struct awaitable *a = (struct awaitable *)self;
	(void)unused;
	if (a->state != OVER && pc_await_rest(a)) /* over: it was cancelled before it began */
		return NULL;
	Py_RETURN_NONE;
}

/* Start the engine's coroutine for the slow path, or for writing through. */
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
	pc_await_settle(a);
	*result = value;
	return value ? PYGEN_RETURN : PYGEN_ERROR;
}

/* Run a step of the engine's coroutine. Return: whether the coroutine is done and there is more to do; otherwise *sent
 * and *result. */
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
	*sent = over(a, *sent == PYGEN_RETURN ? pc_await_result(a) : NULL, result);
	return false;
}

/* Run steps until there is something to await. */
static PySendResult advance(struct awaitable *a, PyObject **result)
{
	PySendResult sent;
	for (;;) {
		int step = pc_await_step(a);
		if (PC_LIKELY(step == STEP_DONE))
			return over(a, pc_await_result(a), result);
		if (PC_UNLIKELY(a->call.began))
			pc_await_announce(a);
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
		if (handle_of_owner(a)->inode && pc_recording(handle_of_owner(a)->inode->cache))
			pc_await_traced(a);
		if (pc_await_prepare(a))
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

/* throw(type[, value[, traceback]]): started work continues without a waiter. */
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
		pc_await_settle(a);
		return NULL;
	}
	if (a->state != OVER)
		pc_await_settle(a);
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
		pc_await_settle(a);
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
	pc_await_settle(a);
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
		pc_await_settle(a);
	Py_CLEAR(a->owner);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

/* Create the awaitable of a verb, before its first step. */
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
	{"rest", awaitable_rest, METH_NOARGS, "rest($self, /)\n--\n\nDo the remaining work on this thread."},
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
