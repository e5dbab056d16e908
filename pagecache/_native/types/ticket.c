/*
 * ticket.c - waits of a task: for an event of CORE that advances, or a call on another thread that ends.
 *
 * A Ticket joins a watch (watch.c) and a future of the running loop: the coroutine awaits the future and then ends the
 * ticket (`ended` in engine/tasks.py). A Waker is one event loop: the loop's reader callback is its `dispatch`, which
 * sets the result of the future of every watch that has fired. Until then the watch stays listed and the eventfd
 * readable, so an interrupt that strikes before loses nothing: `dispatch` runs again.
 *
 * Tickets own nothing of CORE: when a waiter is cancelled, interrupted or left by a closed loop, only its watch has to
 * be removed. The interpreter lock guards everything here but the watch.
 */
#include "types/async.h"

#include <stddef.h>

PyTypeObject *pc_ticket_type, *pc_waker_type;
static PyObject *str_done, *str_set_result;

struct waker {
	PyObject_HEAD struct pc_waker waker;
};

struct ticket {
	PyObject_HEAD struct pc_watch watch;
	PyObject *waker, *core; /* core: owner of the memory in which the event lies, or NULL */
	PyObject *future, *loop, *task; /* the waiter; task: the future if a coroutine runs without a task */
	PyObject *reason;     /* why the task waits, for reports; or NULL */
	struct pc_wait wait;  /* also the reason; kind 0: the wait is not recorded */
	u32 record;           /* until the wait ends (waits.c) */
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

/* ---------------------------------------------------------------- tickets */

/* Record the wait, until it ends or is given up. */
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

/* Return new references to the waiting task and to its loop. Makes no object. */
void pc_ticket_waiter(PyObject *self, PyObject **task, PyObject **loop)
{
	struct ticket *t = (struct ticket *)self;
	*task = Py_XNewRef(t->task);
	*loop = Py_XNewRef(t->loop);
}

/* Create a ticket of the running task. `event`: the ticket ends when the event advances beyond `seq`; NULL: when it is
 * fired explicitly. `wait`, `reason`: purpose of the wait, or NULL. */
PyObject *pc_ticket_new(PyObject *core, struct pc_event *event, u32 seq, const struct pc_wait *wait, PyObject *reason)
{
	PyObject *waiter = pc_new_waiter ? PyObject_CallNoArgs(pc_new_waiter) : NULL, *future, *loop, *task, *waker;
	struct ticket *t = NULL;
	if (!waiter && !PyErr_Occurred())
		PyErr_SetString(PyExc_RuntimeError, "pagecache.aio is not imported");
	if (waiter && PyArg_ParseTuple(waiter, "OOOO!", &future, &loop, &task, pc_waker_type, &waker))
		t = (struct ticket *)PyType_GenericAlloc(pc_ticket_type, 0);
	if (t) {
		pc_watch_init(&t->watch, &((struct waker *)waker)->waker);
		t->waker = Py_NewRef(waker);
		t->future = Py_NewRef(future);
		t->loop = Py_NewRef(loop);
		t->task = Py_NewRef(task);
		t->core = Py_XNewRef(core);
		t->reason = Py_XNewRef(reason);
		if (wait)
			t->wait = *wait;
		if (event)
			pc_watch_arm(&t->watch, event, seq);
	}
	Py_XDECREF(waiter);
	return (PyObject *)t;
}

static int ticket_traverse(PyObject *self, visitproc visit, void *arg)
{
	struct ticket *t = (struct ticket *)self;
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(t->future);
	Py_VISIT(t->loop);
	Py_VISIT(t->task);
	Py_VISIT(t->reason);
	return 0;
}

static int ticket_clear(PyObject *self)
{
	struct ticket *t = (struct ticket *)self;
	wait_ends(t); /* first of all: a record refers to objects cleared here */
	pc_watch_end(&t->watch);
	Py_CLEAR(t->future);
	Py_CLEAR(t->loop);
	Py_CLEAR(t->task);
	Py_CLEAR(t->reason); /* its owner may have made the ticket: a reference cycle until here */
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

/* Resume the task. Idempotent. Return: 0, -1: the watch is still listed. */
static int wake(struct ticket *t)
{
	wait_ends(t);
	PyObject *future = Py_XNewRef(t->future);
	PyObject *done = future ? PyObject_CallMethodObjArgs(future, str_done, NULL) : Py_NewRef(Py_None);
	if (done == Py_False) { /* it is not cancelled */
		Py_DECREF(done);
		done = PyObject_CallMethodObjArgs(future, str_set_result, Py_None, NULL);
	}
	Py_XDECREF(future);
	if (!done)
		return -1;
	Py_DECREF(done);
	pc_watch_end(&t->watch);
	return 0;
}

/* Wake the tasks of all watches that have fired; on the loop. */
static PyObject *waker_dispatch(PyObject *self, PyObject *unused)
{
	struct pc_watch *fired[256];
	PyObject *tickets[256];
	(void)unused;
	size_t n = pc_waker_fired(&((struct waker *)self)->waker, fired, 256);
	for (size_t k = 0; k < n; k++)
		tickets[k] = Py_NewRef((PyObject *)PC_ENTRY(fired[k], struct ticket, watch));
	int err = 0;
	for (size_t k = 0; k < n; k++) {
		err = err || wake((struct ticket *)tickets[k]);
		Py_DECREF(tickets[k]);
	}
	if (err)
		return NULL;
	Py_RETURN_NONE;
}

/* wake(): called by timers, on the loop. */
static PyObject *ticket_wake(PyObject *self, PyObject *unused)
{
	(void)unused;
	if (wake((struct ticket *)self))
		return NULL;
	Py_RETURN_NONE;
}

/* fire(): the awaited call has ended; from any thread. */
static PyObject *ticket_fire(PyObject *self, PyObject *unused)
{
	struct ticket *t = (struct ticket *)self;
	(void)unused;
	if (t->future)
		pc_watch_fire(&t->watch);
	Py_RETURN_NONE;
}

/* end(): the task goes on, or gives up. Idempotent. */
static PyObject *ticket_end(PyObject *self, PyObject *unused)
{
	(void)unused;
	ticket_clear(self);
	Py_RETURN_NONE;
}

/* begin() -> the future to await. The caller ends the ticket, however the wait ends. */
static PyObject *ticket_begin(PyObject *self, PyObject *unused)
{
	struct ticket *t = (struct ticket *)self;
	(void)unused;
	if (!t->future) {
		PyErr_SetString(PyExc_RuntimeError, "the wait is over");
		return NULL;
	}
	wait_begins(t);
	return Py_NewRef(t->future);
}

static PyMethodDef ticket_methods[] = {
	{"begin", ticket_begin, METH_NOARGS, "begin($self, /)\n--\n\nBegin the wait; return the future to await."},
	{"wake", ticket_wake, METH_NOARGS, "wake($self, /)\n--\n\nResume the task; on its loop."},
	{"fire", ticket_fire, METH_NOARGS, "fire($self, /)\n--\n\nLet the loop wake the task, from any thread."},
	{"end", ticket_end, METH_NOARGS, "end($self, /)\n--\n\nEnd the wait: the task goes on, or gives up."},
	{NULL, NULL, 0, NULL},
};
static PyType_Slot ticket_slots[] = {
	{Py_tp_dealloc, ticket_dealloc}, {Py_tp_traverse, ticket_traverse},    {Py_tp_clear, ticket_clear},
	{Py_tp_methods, ticket_methods}, {Py_tp_doc, "One wait of one task."}, {0, NULL},
};
static PyType_Spec ticket_spec = {"pagecache._native._core.Ticket", sizeof(struct ticket), 0,
				  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				  ticket_slots};

static PyMethodDef waker_methods[] = {
	{"fileno", waker_fileno, METH_NOARGS, "fileno($self, /)\n--\n\nThe eventfd that the loop reads from."},
	{"dispatch", waker_dispatch, METH_NOARGS, "dispatch($self, /)\n--\n\nWake the tasks of fired tickets."},
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
	str_done = PyUnicode_InternFromString("done");
	str_set_result = PyUnicode_InternFromString("set_result");
	pc_ticket_type = (PyTypeObject *)PyType_FromSpec(&ticket_spec);
	pc_waker_type = (PyTypeObject *)PyType_FromSpec(&waker_spec);
	if (!str_done || !str_set_result || !pc_ticket_type || !pc_waker_type)
		return -1;
	return PyModule_AddObjectRef(module, "Ticket", (PyObject *)pc_ticket_type) ||
	       PyModule_AddObjectRef(module, "Waker", (PyObject *)pc_waker_type);
}

PyObject *pc_new_waiter; /* callable: (future, loop, task, waker), all of the running task */
PyObject *
	pc_inside_calls; /* callable: addresses of volumes, of calls on the cache's loop; NULL: there is no such loop */

/* use_loops(waiter, inside): register the engine's functions for event loops. */
PyObject *pc_use_loops(PyObject *module, PyObject *args)
{
	PyObject *waiter, *inside;
	(void)module;
	if (!PyArg_ParseTuple(args, "OO", &waiter, &inside))
		return NULL;
	replace(&pc_new_waiter, waiter);
	replace(&pc_inside_calls, inside == Py_None ? NULL : inside);
	Py_RETURN_NONE;
}

/* ticket(core, kind, address, seq, volume, inode, reason, since_ns): ends when the event advances; with address 0 when
 * fire() is called. reason: None if the wait is not recorded. */
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
