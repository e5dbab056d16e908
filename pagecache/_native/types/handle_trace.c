/*
 * handle_trace.c - the verbs of handles while a trace runs, and other records of the C types (record.c).
 *
 * A verb checks once whether a trace runs. If so it takes the path here: its call gets an id, which its writes carry,
 * and one record when it ends. A call refused before that (a closed handle, an offset that is no number) gets no
 * record.
 */
#include "types/handle.h"

static PyObject *seen; /* callable(thread): called at the first record of a thread in a trace, to get its name */
static _Atomic u32 traces;
static _Thread_local u32 named;

/* Call Python at most once a thread and trace. Not in the main thread, whose name is known: a signal handler could
 * raise. */
void pc_name_thread(void)
{
	PyObject *type, *value, *traceback;
	u32 now = atomic_load_explicit(&traces, memory_order_relaxed), thread = pc_record_thread();
	if (PC_LIKELY(named == now) || thread == 1 || !seen)
		return;
	named = now;
	PyErr_Fetch(&type, &value, &traceback);
	PyObject *done = PyObject_CallFunction(seen, "I", thread);
	if (!done)
		PyErr_WriteUnraisable(seen);
	Py_XDECREF(done);
	PyErr_Restore(type, value, traceback);
}

/* name_threads(callable): a trace begins. */
PyObject *pc_name_threads(PyObject *module, PyObject *function)
{
	(void)module;
	PyObject *before = seen;
	seen = Py_NewRef(function);
	Py_XDECREF(before);
	atomic_fetch_add(&traces, 1);
	Py_RETURN_NONE;
}

void pc_call_begin(struct pc_call *call, struct pc_inode *i, int verb, u64 pos, u64 len)
{
	pc_name_thread();
	pc_record_begin(i->cache, &call->span, PC_R_CALL, (u16)verb, pc_record_call(), 0);
	call->cache = i->cache;
	call->file = i->id;
	call->pos = pos;
	call->len = len;
	call->outer = pc_record_enter(call->span.id);
}

static i64 value_of(PyObject *result)
{
	if (!result || result == Py_None)
		return -1;
	return PyBytes_Check(result)  ? (i64)PyBytes_Size(result)
	       : PyLong_Check(result) ? (i64)PyLong_AsLongLong(result)
				      : 0;
}

void pc_call_over(struct pc_call *call, int flags, i64 value)
{
	pc_record_enter(call->outer);
	pc_record_end(call->cache, &call->span, flags, call->file, call->pos, call->len, (u64)value);
}

/* Record the end of a call. Return: its result, or NULL. */
PyObject *pc_call_end(struct pc_call *call, PyObject *result)
{
	pc_call_over(call, result ? 0 : PC_R_FAILED, value_of(result));
	return result;
}

/* Begin the record of an awaited call. */
void pc_call_awaited(struct pc_span *s, struct pc_inode *i, int verb)
{
	pc_name_thread();
	pc_record_begin(i->cache, s, PC_R_CALL, (u16)verb, pc_record_call(), 0);
}
