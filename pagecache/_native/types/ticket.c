/*
 * ticket.c - awaitables of a task: an event of CORE that advances, or a call on another thread that ends.
 *
 * A Ticket is a future of asyncio, reduced to the parts that a Task uses (`_asyncio_future_blocking`,
 * `add_done_callback`, `result`, `cancel`, `get_loop`). A Waker is one event loop: the loop's reader callback is its
 * `dispatch`, which schedules `Ticket.wake` for every watch that has fired. Both are C and `wake` runs no bytecode
 * before the task does, so an interrupt strikes before all of it or after. If before, the watch is still listed and the
 * eventfd still readable (watch.c), and `dispatch` runs again. Scheduling `wake` twice does no harm.
 *
 * Tickets own nothing of CORE: when a waiter is cancelled, interrupted or left by a closed loop, only its watch has to
 * be removed. The interpreter lock guards everything here but the watch.
 */
#include "types/async.h"

#include <stddef.h>

PyTypeObject *pc_ticket_type, *pc_waker_type;
static PyObject *pc_str_call_soon, *pc_str_run, *pc_str_wake, *pc_cancelled_error;

struct waker {
	PyObject_HEAD struct pc_waker waker;
};

struct ticket {
	PyObject_HEAD struct pc_watch watch;
	PyObject *waker, *loop, *core; /* core: owner of the memory in which the event lies, or NULL */
	PyObject *callback, *context;  /* the waiter: one task */
	PyObject *value, *error, *message;
	PyObject *reason;     /* why the task waits, for reports; or NULL */
	struct pc_wait wait;  /* also the reason; kind 0: the wait is not recorded */
	u32 record;           /* while a task awaits this (waits.c) */
	u8 blocking, done, cancelled;
};

static void replace(PyObject **slot, PyObject *value)
{
	PyObject *old = *slot;
	*slot = Py_XNewRef(value);
	Py_XDECREF(old);
}

/* ---------------------------------------------------------------- wakers */

static PyObject *waker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	(void)args;
	(void)kwargs;
	struct waker *k = (struct waker *)PyType_GenericAlloc(type, 0);
	int err = k ? pc_waker_init(&k->waker) : 0;
	if (err) {
		Py_DECREF(k);
		errno = -err;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	return (PyObject *)k;
}

static void waker_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	pc_waker_close(&((struct waker *)self)->waker);
	PyObject_Free(self);
	Py_DECREF(type);
}

static PyObject *waker_fileno(PyObject *self, PyObject *unused)
{
	(void)unused;
	return PyLong_FromLong(((struct waker *)self)->waker.fd);
}

/* Schedule Ticket.wake of all fired watches. The list stays as it is: the waiter removes its watch. */
static PyObject *waker_dispatch(PyObject *self, PyObject *unused)
{
	struct pc_watch *fired[256];
	PyObject *tickets[256];
	(void)unused;
	size_t n = pc_waker_fired(&((struct waker *)self)->waker, fired, 256);
	for (size_t k = 0; k < n; k++)
		tickets[k] = Py_NewRef((PyObject *)PC_ENTRY(fired[k], struct ticket, watch));
	bool ok = true;
	for (size_t k = 0; k < n; k++) {
		struct ticket *t = (struct ticket *)tickets[k];
		PyObject *wake = ok ? PyObject_GetAttr(tickets[k], pc_str_wake) : NULL;
		PyObject *handle = wake ? PyObject_CallMethodObjArgs(t->loop, pc_str_call_soon, wake, NULL) : NULL;
		ok = handle != NULL;
		Py_XDECREF(wake);
		Py_XDECREF(handle);
		Py_DECREF(tickets[k]);
	}
	if (!ok)
		return NULL;
	Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- tickets */

/* A task begins to await the ticket: record its wait, until the wait ends or is given up. */
static void wait_begins(struct ticket *t)
{
	if (!t->core || !t->wait.kind || t->record)
		return;
	t->wait.thread = pc_thread_id();
	t->wait.waiter = (uintptr_t)t;
	t->wait.reason = (uintptr_t)t->reason;
	t->record = pc_wait_begin(((struct core *)t->core)->cache, &t->wait);
}

static void wait_ends(struct ticket *t)
{
	if (t->record)
		pc_wait_end(((struct core *)t->core)->cache, t->record);
	t->record = 0;
}

/* Return new references to the callback that wakes the awaiting task, and to its loop; NULL if none. Makes no
 * object. */
void pc_ticket_waiter(PyObject *self, PyObject **wakes, PyObject **loop)
{
	struct ticket *t = (struct ticket *)self;
	*wakes = Py_XNewRef(t->callback);
	*loop = Py_XNewRef(t->loop);
}

/* Create a ticket of the running loop. `event`: the ticket ends when the event advances beyond `seq`; NULL: when it is
 * finished explicitly. `wait`, `reason`: purpose of the wait, or NULL. */
PyObject *pc_ticket_new(PyObject *core, struct pc_event *event, u32 seq, const struct pc_wait *wait, PyObject *reason)
{
	PyObject *pair = pc_running_loop ? PyObject_CallNoArgs(pc_running_loop) : NULL, *loop, *waker;
	if (!pair) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_RuntimeError, "pagecache.aio is not imported");
		return NULL;
	}
	struct ticket *t = NULL;
	if (PyArg_ParseTuple(pair, "OO!", &loop, pc_waker_type, &waker))
		t = (struct ticket *)PyType_GenericAlloc(pc_ticket_type, 0);
	if (t) {
		pc_watch_init(&t->watch, &((struct waker *)waker)->waker);
		t->waker = Py_NewRef(waker);
		t->loop = Py_NewRef(loop);
		t->core = Py_XNewRef(core);
		t->reason = Py_XNewRef(reason);
		if (wait)
			t->wait = *wait;
		if (event)
			pc_watch_arm(&t->watch, event, seq);
	}
	Py_DECREF(pair);
	return (PyObject *)t;
}

static int ticket_traverse(PyObject *self, visitproc visit, void *arg)
{
	struct ticket *t = (struct ticket *)self;
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(t->loop);
	Py_VISIT(t->callback);
	Py_VISIT(t->context);
	Py_VISIT(t->value);
	Py_VISIT(t->error);
	Py_VISIT(t->message);
	Py_VISIT(t->reason);
	return 0;
}

static int ticket_clear(PyObject *self)
{
	struct ticket *t = (struct ticket *)self;
	wait_ends(t); /* first of all: a record refers to objects cleared here */
	pc_watch_end(&t->watch);
	t->done = 1;
	Py_CLEAR(t->loop);
	Py_CLEAR(t->callback);
	Py_CLEAR(t->context);
	Py_CLEAR(t->value);
	Py_CLEAR(t->error);
	Py_CLEAR(t->message);
	Py_CLEAR(t->reason);
	return 0;
}

static void ticket_dealloc(PyObject *self)
{
	struct ticket *t = (struct ticket *)self;
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	ticket_clear(self);
	Py_CLEAR(t->waker);
	Py_CLEAR(t->core);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

/* End the ticket and resume the task, in its own context. Scheduled by dispatch, by cancel and by timers;
 * idempotent. */
static PyObject *ticket_wake(PyObject *self, PyObject *unused)
{
	struct ticket *t = (struct ticket *)self;
	(void)unused;
	PyObject *callback = t->callback, *context = t->context, *reason = t->reason, *ran;
	wait_ends(t);
	t->callback = t->context = t->reason = NULL;
	t->done = 1;
	pc_watch_end(&t->watch);
	if (!callback)
		ran = Py_NewRef(Py_None);
	else if (context)
		ran = PyObject_CallMethodObjArgs(context, pc_str_run, callback, self, NULL);
	else
		ran = PyObject_CallFunctionObjArgs(callback, self, NULL);
	Py_XDECREF(callback);
	Py_XDECREF(context);
	Py_XDECREF(reason); /* its owner may have made the ticket: a reference cycle until here */
	return ran;
}

static PyObject *wake_soon(struct ticket *t)
{
	PyObject *wake = t->loop ? PyObject_GetAttr((PyObject *)t, pc_str_wake) : NULL;
	PyObject *handle = wake ? PyObject_CallMethodObjArgs(t->loop, pc_str_call_soon, wake, NULL) : NULL;
	Py_XDECREF(wake);
	return handle;
}

/* add_done_callback(callback, *, context=None) */
static PyObject *ticket_add_done_callback(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"callback", "context", NULL};
	struct ticket *t = (struct ticket *)self;
	PyObject *callback, *context = Py_None;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:add_done_callback", names, &callback, &context))
		return NULL;
	if (t->callback) {
		PyErr_SetString(PyExc_RuntimeError, "a ticket is awaited by one task");
		return NULL;
	}
	t->callback = Py_NewRef(callback);
	t->context = context == Py_None ? NULL : Py_NewRef(context);
	if (!t->done) {
		wait_begins(t);
		Py_RETURN_NONE;
	}
	return wake_soon(t);
}

static PyObject *ticket_remove_done_callback(PyObject *self, PyObject *callback)
{
	struct ticket *t = (struct ticket *)self;
	int same = t->callback ? PyObject_RichCompareBool(t->callback, callback, Py_EQ) : 0;
	if (same < 0)
		return NULL;
	if (same) {
		wait_ends(t);
		Py_CLEAR(t->callback);
		Py_CLEAR(t->context);
	}
	return PyLong_FromLong(same);
}

/* cancel(msg=None): the task gets CancelledError; work elsewhere continues. */
static PyObject *ticket_cancel(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"msg", NULL};
	struct ticket *t = (struct ticket *)self;
	PyObject *message = Py_None;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &message))
		return NULL;
	if (t->done)
		Py_RETURN_FALSE;
	t->cancelled = 1;
	replace(&t->message, message == Py_None ? NULL : message);
	PyObject *handle = wake_soon(t);
	if (!handle)
		return NULL;
	Py_DECREF(handle);
	Py_RETURN_TRUE;
}

/* Result of the ticket. Return: new reference, NULL with the exception. */
static PyObject *outcome(struct ticket *t)
{
	if (t->cancelled) {
		PyObject *e = t->message ? PyObject_CallFunctionObjArgs(pc_cancelled_error, t->message, NULL)
					 : PyObject_CallNoArgs(pc_cancelled_error);
		if (e)
			PyErr_SetObject(pc_cancelled_error, e);
		Py_XDECREF(e);
		return NULL;
	}
	if (t->error) {
		PyErr_SetObject((PyObject *)Py_TYPE(t->error), t->error);
		return NULL;
	}
	return Py_NewRef(t->value ? t->value : Py_None);
}

static PyObject *ticket_result(PyObject *self, PyObject *unused)
{
	struct ticket *t = (struct ticket *)self;
	(void)unused;
	if (t->done)
		return outcome(t);
	PyErr_SetString(PyExc_RuntimeError, "the result is not ready");
	return NULL;
}

/* finish(value, error): from any thread; only the first call counts. */
static PyObject *ticket_finish(PyObject *self, PyObject *args)
{
	struct ticket *t = (struct ticket *)self;
	PyObject *value, *error;
	if (!PyArg_ParseTuple(args, "OO:finish", &value, &error))
		return NULL;
	if (!t->done && !t->value && !t->error) {
		if (error == Py_None)
			t->value = Py_NewRef(value);
		else
			t->error = Py_NewRef(error);
		pc_watch_fire(&t->watch);
	}
	Py_RETURN_NONE;
}

static PyObject *ticket_done(PyObject *self, PyObject *unused)
{
	(void)unused;
	return PyBool_FromLong(((struct ticket *)self)->done);
}

static PyObject *ticket_get_loop(PyObject *self, PyObject *unused)
{
	struct ticket *t = (struct ticket *)self;
	(void)unused;
	return Py_NewRef(t->loop ? t->loop : Py_None);
}

/* Mark the ticket to be yielded to the task, which checks the mark. Return: new reference. */
PyObject *pc_ticket_yield(PyObject *self)
{
	((struct ticket *)self)->blocking = 1;
	return Py_NewRef(self);
}

/* Result of a ticket that is no longer awaited. Return: 0, -1 with the exception. */
int pc_ticket_outcome(PyObject *self)
{
	struct ticket *t = (struct ticket *)self;
	PyObject *value = t->cancelled || t->error ? outcome(t) : Py_NewRef(Py_None);
	Py_XDECREF(value);
	return value ? 0 : -1;
}

static PyObject *ticket_next(PyObject *self)
{
	struct ticket *t = (struct ticket *)self;
	if (!t->done)
		return pc_ticket_yield(self);
	PyObject *value = outcome(t);
	if (value && value != Py_None)
		pc_return_value(value);
	Py_XDECREF(value);
	return NULL;
}

/* Return a value from an iterator that ends. */
void pc_return_value(PyObject *value)
{
	PyObject *stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, value, NULL);
	if (stop)
		PyErr_SetObject(PyExc_StopIteration, stop);
	Py_XDECREF(stop);
}

static PyObject *ticket_blocking(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(((struct ticket *)self)->blocking);
}

static int ticket_set_blocking(PyObject *self, PyObject *value, void *closure)
{
	(void)closure;
	int on = value ? PyObject_IsTrue(value) : 0;
	if (on < 0)
		return -1;
	((struct ticket *)self)->blocking = (u8)on;
	return 0;
}

static PyMethodDef ticket_methods[] = {
	{"wake", ticket_wake, METH_NOARGS, "wake($self, /)\n--\n\nEnd it: its task resumes."},
	{"finish", ticket_finish, METH_VARARGS, "finish($self, value, error, /)\n--\n\nEnd it, from any thread."},
	{"cancel", (PyCFunction)(void (*)(void))ticket_cancel, METH_VARARGS | METH_KEYWORDS, NULL},
	{"result", ticket_result, METH_NOARGS, NULL},
	{"done", ticket_done, METH_NOARGS, NULL},
	{"get_loop", ticket_get_loop, METH_NOARGS, NULL},
	{"add_done_callback", (PyCFunction)(void (*)(void))ticket_add_done_callback, METH_VARARGS | METH_KEYWORDS,
	 NULL},
	{"remove_done_callback", ticket_remove_done_callback, METH_O, NULL},
	{NULL, NULL, 0, NULL},
};
static PyGetSetDef ticket_getset[] = {
	{"_asyncio_future_blocking", ticket_blocking, ticket_set_blocking, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot ticket_slots[] = {
	{Py_tp_dealloc, ticket_dealloc},      {Py_tp_traverse, ticket_traverse},
	{Py_tp_clear, ticket_clear},          {Py_tp_iter, PyObject_SelfIter},
	{Py_tp_iternext, ticket_next},        {Py_am_await, PyObject_SelfIter},
	{Py_tp_methods, ticket_methods},      {Py_tp_getset, ticket_getset},
	{Py_tp_doc, "One wait of one task."}, {0, NULL},
};
static PyType_Spec ticket_spec = {"pagecache._native._core.Ticket", sizeof(struct ticket), 0,
				  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				  ticket_slots};

static PyMethodDef waker_methods[] = {
	{"fileno", waker_fileno, METH_NOARGS, "fileno($self, /)\n--\n\nThe eventfd that the loop reads from."},
	{"dispatch", waker_dispatch, METH_NOARGS, "dispatch($self, /)\n--\n\nSchedule the fired tickets."},
	{NULL, NULL, 0, NULL},
};
static PyType_Slot waker_slots[] = {
	{Py_tp_new, waker_new},
	{Py_tp_dealloc, waker_dealloc},
	{Py_tp_methods, waker_methods},
	{Py_tp_doc, "What wakes the tasks of one event loop."},
	{0, NULL},
};
static PyType_Spec waker_spec = {"pagecache._native._core.Waker", sizeof(struct waker), 0, Py_TPFLAGS_DEFAULT,
				 waker_slots};

int pc_install_ticket(PyObject *module)
{
	pc_str_call_soon = PyUnicode_InternFromString("call_soon");
	pc_str_run = PyUnicode_InternFromString("run");
	pc_str_wake = PyUnicode_InternFromString("wake");
	pc_ticket_type = (PyTypeObject *)PyType_FromSpec(&ticket_spec);
	pc_waker_type = (PyTypeObject *)PyType_FromSpec(&waker_spec);
	if (!pc_str_call_soon || !pc_str_run || !pc_str_wake || !pc_ticket_type || !pc_waker_type)
		return -1;
	return PyModule_AddObjectRef(module, "Ticket", (PyObject *)pc_ticket_type) ||
	       PyModule_AddObjectRef(module, "Waker", (PyObject *)pc_waker_type);
}

PyObject *pc_running_loop; /* callable: (running loop, its Waker) */
PyObject *
	pc_inside_calls; /* callable: addresses of volumes, of calls on the cache's loop; NULL: there is no such loop */

/* use_loops(running, inside, cancelled): register the engine's functions for event loops. */
PyObject *pc_use_loops(PyObject *module, PyObject *args)
{
	PyObject *running, *inside, *cancelled;
	(void)module;
	if (!PyArg_ParseTuple(args, "OOO", &running, &inside, &cancelled))
		return NULL;
	replace(&pc_running_loop, running);
	replace(&pc_inside_calls, inside == Py_None ? NULL : inside);
	replace(&pc_cancelled_error, cancelled);
	Py_RETURN_NONE;
}

/* ticket(core, kind, address, seq, volume, inode, reason, since_ns): ends when the event advances; with address 0 when
 * finish() is called. reason: None if the wait is not recorded. */
PyObject *pc_make_ticket(PyObject *module, PyObject *args)
{
	PyObject *core, *reason;
	const char *kind;
	unsigned long long address, volume, inode, since_ns;
	unsigned int seq;
	(void)module;
	if (!PyArg_ParseTuple(args, "OsKIKKOK", &core, &kind, &address, &seq, &volume, &inode, &reason, &since_ns))
		return NULL;
	struct pc_wait w = {.kind = PC_WAIT_REASON, .since_ns = since_ns, .volume = volume, .inode = inode};
	bool recorded = reason != Py_None && Py_IS_TYPE(core, pc_core_type);
	return pc_ticket_new(core, address ? pc_event_at(kind[0], address) : NULL, seq, recorded ? &w : NULL,
			     recorded ? reason : NULL);
}
