/*
 * signals.c - a call that no signal handler of Python interrupts.
 *
 * Python runs handlers between any two bytecodes of the main thread, and their exceptions strike there. During such a
 * call each handler has ours in its place, which notes the signal. At the end they come back, and those of the noted
 * signals run. The kernel's actions, and their flags, stay as they are.
 *
 *   note   [thread, handlers by signal, noted signals], the `self` of ours; thread 0: the call is over
 *
 * A child that another thread forks meanwhile has ours, and no such call: there, as after the call, ours passes each
 * signal on.
 *
 * Context: GIL. On another thread than the main one, the call is just made.
 */
#include "types/types.h"

#include <pythread.h>
#include <signal.h>

enum { THREAD, HANDLERS, NOTED, EXCHANGES_MAX = 64 };

static PyObject *signals, *set_handler; /* the module _signal, whose functions run no bytecode, but pending handlers */
static PyCFunction get_handler;

static PyObject *note_signal(PyObject *note, PyObject *args)
{
	PyObject *number = PyTuple_GetItem(args, 0), *noted = PyList_GetItem(note, NOTED), *handler;
	if (!number)
		return NULL;
	if (PyLong_AsUnsignedLong(PyList_GetItem(note, THREAD)) != PyThread_get_thread_ident()) {
		handler = PyDict_GetItemWithError(PyList_GetItem(note, HANDLERS), number);
		return handler ? PyObject_Call(handler, args, NULL) : NULL;
	}
	int known = PySequence_Contains(noted, number);
	return known < 0 || (!known && PyList_Append(noted, number)) ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef note_method = {"note_signal", note_signal, METH_VARARGS, NULL};

/* Take the exception that is set, which came after @error. Steals @error. */
static PyObject *take_next(PyObject *error)
{
	PyObject *next = pc_take_exception(), *context = PyException_GetContext(next);
	if (context)
		Py_XDECREF(error);
	else if (error)
		PyException_SetContext(next, error);
	Py_XDECREF(context);
	return next;
}

/* Call a noted handler, as Python would. Return: 0, -1. */
static int call_handler(PyObject *handler, PyObject *number)
{
	PyObject *frame = (PyObject *)PyEval_GetFrame();
	PyObject *result = PyObject_CallFunctionObjArgs(handler, number, frame ? frame : Py_None, NULL);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* Set the handler of a signal, and leave the kernel's action. Return: 0; -1: a pending handler has raised. */
static int set(PyObject *number, PyObject *handler)
{
	struct sigaction action;
	int n = (int)PyLong_AsLong(number), err = sigaction(n, NULL, &action);
	PyObject *before = PyObject_CallFunctionObjArgs(set_handler, number, handler, NULL);
	if (before && !err)
		sigaction(n, &action, NULL);
	Py_XDECREF(before);
	return before ? 0 : -1;
}

/* Return whether set() has failed because handlers never run on this thread, and clear the error. It comes at each
 * try, and that of a pending handler does not. */
static bool is_elsewhere(PyObject *number, PyObject *ours)
{
	if (!PyErr_ExceptionMatches(PyExc_ValueError))
		return false;
	PyObject *error = pc_take_exception();
	if (!set(number, ours)) {
		pc_put_exception(error);
		return false;
	}
	bool elsewhere = PyErr_ExceptionMatches(PyExc_ValueError);
	Py_DECREF(error);
	if (elsewhere)
		PyErr_Clear();
	return elsewhere;
}

/* Put ours in the place of all handlers, and note them. Return: 0, -1. */
static int take_handlers(PyObject *ours, PyObject *handlers)
{
	int err = 0;
	for (int n = 1; n < NSIG && !err; n++) {
		PyObject *number = PyLong_FromLong(n);
		PyObject *handler = number ? get_handler(signals, number) : NULL;
		err = handler ? 0 : -1;
		if (handler && PyCallable_Check(handler))
			err = PyDict_SetItem(handlers, number, handler) || set(number, ours) ? -1 : 0;
		bool elsewhere = err && handler && is_elsewhere(number, ours);
		Py_XDECREF(handler);
		Py_XDECREF(number);
		if (elsewhere)
			return 0;
	}
	return err;
}

/* Put the handlers back, except where the call has set others. Steals @error, and returns the last one. */
static PyObject *put_back(PyObject *ours, PyObject *handlers, PyObject *error)
{
	PyObject *number, *handler, *found;
	Py_ssize_t pos = 0;
	while (PyDict_Next(handlers, &pos, &number, &handler)) {
		found = get_handler(signals, number);
		if (!found)
			error = take_next(error);
		for (int tries = 0; found == ours && tries < EXCHANGES_MAX && set(number, handler); tries++)
			error = take_next(
				error); /* each try runs pending handlers; without success ours passes signals on */
		Py_XDECREF(found);
	}
	return error;
}

/* uninterrupted(call) -> its result. */
PyObject *pc_uninterrupted(PyObject *module, PyObject *call)
{
	PyObject *handlers = PyDict_New(), *noted = PyList_New(0), *result = NULL, *error = NULL;
	PyObject *note =
		handlers && noted ? Py_BuildValue("[kOO]", PyThread_get_thread_ident(), handlers, noted) : NULL;
	PyObject *ours = note ? PyCFunction_NewEx(&note_method, note, NULL) : NULL;
	PyObject *over = ours ? PyLong_FromLong(0) : NULL;
	if (over) {
		if (!take_handlers(ours, handlers))
			result = PyObject_CallNoArgs(call);
		if (!result)
			error = pc_take_exception();
		PyList_SetItem(note, THREAD, over);
		error = put_back(ours, handlers, error);
		for (Py_ssize_t k = 0; k < PyList_Size(noted); k++) {
			PyObject *number = PyList_GetItem(noted, k);
			if (call_handler(PyDict_GetItemWithError(handlers, number), number))
				error = take_next(error);
		}
		if (error)
			Py_CLEAR(result);
		pc_put_exception(error);
	}
	Py_XDECREF(ours);
	Py_XDECREF(note);
	Py_XDECREF(noted);
	Py_XDECREF(handlers);
	return result;
}

int pc_install_signals(PyObject *module)
{
	signals = PyImport_ImportModule("_signal");
	PyObject *get = signals ? PyObject_GetAttrString(signals, "getsignal") : NULL;
	set_handler = get ? PyObject_GetAttrString(signals, "signal") : NULL;
	if (set_handler && PyCFunction_GetFlags(get) != METH_O)
		PyErr_SetString(PyExc_SystemError, "_signal.getsignal does not take one argument");
	else if (set_handler)
		get_handler = PyCFunction_GetFunction(get);
	Py_XDECREF(get);
	return get_handler ? 0 : -1;
}
