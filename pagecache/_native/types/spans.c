/*
 * spans.c - beginning and end of activities with a duration: a wait, and a backend call that carries bytes.
 *
 *            at the beginning            in progress                     at the end
 *   wait     a record (waits.c)          reports of waits read it        the record is freed; a trace gets an event
 *   call     the operation notes when    reports of calls read it        latency (latency.c); a trace gets an event
 *
 * A trace is a deque of the observer (observe/trace.py), and `tracer` its method append: a call of C that runs no Python
 * code. Without a trace a wait needs no clock at its end. Waits of tasks have records, and no events.
 *
 * Context: GIL.
 */
#include "types/types.h"

/* ---------------------------------------------------------------- waits */

/* Describe a wait of this thread. */
struct pc_wait pc_wait_of(struct pc_inode *i, u32 kind, u64 pos, u64 end)
{
	return (struct pc_wait){.kind = kind,
				.since_ns = (u64)pc_clock_ns(),
				.thread = pc_thread_id(),
				.volume = (uintptr_t)i->volume,
				.inode = i->id,
				.pos = pos,
				.end = end};
}

/* ---------------------------------------------------------------- traces */

/* trace_into(core, append): `append` gets a tuple for each event from here on; None: no more. Return: how many there were
 * since the last call. `append` must be one of C, such as that of a deque: it is called where no exception may pass. */
PyObject *pc_trace_into(PyObject *module, PyObject *args)
{
	PyObject *core, *append;
	if (!PyArg_ParseTuple(args, "O!O", pc_core_type, &core, &append))
		return NULL;
	struct pc_cache *c = ((struct core *)core)->cache;
	PyObject *before = c->tracer;
	u64 count = c->traced;
	c->tracer = append == Py_None ? NULL : Py_NewRef(append);
	c->traced = 0;
	Py_XDECREF(before);
	return PyLong_FromUnsignedLongLong(count);
}

/* Steals the event. Keeps the exception that is set. */
static void add_event(struct pc_cache *c, PyObject *event)
{
	PyObject *error, *append = c->tracer, *done = NULL;
	if (append && event) {
		Py_INCREF(append);
		c->traced++;
		error = pc_take_exception();
		done = PyObject_CallFunctionObjArgs(append, event, NULL);
		if (!done)
			PyErr_WriteUnraisable(append);
		pc_put_exception(error);
		Py_DECREF(append);
	}
	Py_XDECREF(done);
	Py_XDECREF(event);
}

static void trace_span(struct pc_cache *c, bool waits, u32 kind, PyObject *reason, u64 thread, i64 began, u64 file,
		       u64 pos, u64 end, bool failed)
{
	PyObject *error = pc_take_exception();
	PyObject *event = Py_BuildValue("OIOKLLKKKO", waits ? Py_True : Py_False, (unsigned int)kind,
					reason ? reason : Py_None, (unsigned long long)thread, (long long)began,
					(long long)pc_clock_ns(), (unsigned long long)file, (unsigned long long)pos,
					(unsigned long long)end, failed ? Py_True : Py_False);
	if (!event)
		PyErr_WriteUnraisable(NULL);
	add_event(c, event);
	pc_put_exception(error);
}

/* trace_event(core, event): add an event of the engine, while a trace runs. */
PyObject *pc_trace_event(PyObject *module, PyObject *args)
{
	PyObject *core, *event;
	if (!PyArg_ParseTuple(args, "O!O", pc_core_type, &core, &event))
		return NULL;
	add_event(((struct core *)core)->cache, Py_NewRef(event));
	Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- sleeps */

/* Begin a wait, just before the thread sleeps. */
void pc_sleep_begin(struct pc_sleep *s, struct pc_cache *c, const struct pc_wait *w)
{
	*s = (struct pc_sleep){.cache = c, .wait = *w, .record = pc_wait_begin(c, w)};
}

/* End a wait, if it began. */
void pc_sleep_end(struct pc_sleep *s, bool failed)
{
	const struct pc_wait *w = &s->wait;
	if (!s->cache)
		return;
	pc_wait_end(s->cache, s->record);
	if (PC_UNLIKELY(s->cache->tracer))
		trace_span(s->cache, true, (u32)w->kind, (PyObject *)(uintptr_t)w->reason, w->thread, (i64)w->since_ns,
			   w->inode, w->pos, w->end, failed);
	s->cache = NULL;
}

/* ---------------------------------------------------------------- calls of the backend */

/* Begin a call, just before it is made. @what: PC_IO_*. */
void pc_io_begin(struct pc_io *io, struct pc_inode *i, u32 what, u32 timed, u64 pos, u64 len)
{
	*io = (struct pc_io){.began_ns = pc_clock_ns(),
			     .volume = i->volume,
			     .file = i->id,
			     .pos = pos,
			     .len = len,
			     .what = what,
			     .timed = timed,
			     .thread = pc_thread_id()};
	if (timed == PC_TIMED_READ)
		io->pace = pc_pace_begin(io->volume, len, (u64)io->began_ns);
}

/* A call is left behind: its end will not be observed. */
void pc_io_leave(struct pc_io *io)
{
	if (io->began_ns && io->timed == PC_TIMED_READ)
		pc_pace_end(io->volume, &io->pace, 0, 0);
	io->began_ns = 0;
}

/* End a call that has returned, or raised. */
void pc_io_end(struct pc_io *io, bool failed)
{
	if (!io->began_ns)
		return;
	i64 now = pc_clock_ns(), ns = now - io->began_ns;
	pc_latency_add(io->volume, io->timed, (u64)ns);
	if (io->timed == PC_TIMED_READ)
		pc_pace_end(io->volume, &io->pace, failed ? 0 : (u64)ns + 1, (u64)now);
	if (PC_UNLIKELY(io->volume->cache->tracer))
		trace_span(io->volume->cache, false, io->what, NULL, io->thread, io->began_ns, io->file, io->pos,
			   io->pos + io->len, failed);
	io->began_ns = 0;
}
