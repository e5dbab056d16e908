/*
 * handle_direct.c - C functions of a direct handle (file/direct.py): copy memory that may fault, with nothing held and
 * without the GIL [K11].
 */
#include "types/handle.h"

#include <stdlib.h>

/* _may_fault(buffer) -> whether touching it might wait for this process itself. */
PyObject *handle_may_fault(PyObject *self, PyObject *object)
{
	return PyBool_FromLong(pc_may_fault(handle_of(self), object));
}

/* _copy_aside(to, from): `from` to the beginning of `to`. */
PyObject *handle_copy_aside(PyObject *self, PyObject *args)
{
	Py_buffer to, from;
	if (!PyArg_ParseTuple(args, "w*y*", &to, &from))
		return NULL;
	bool fits = from.len <= to.len;
	int err = fits ? pc_copy_outside(handle_of(self), to.buf, from.buf, (u64)from.len, false) : 0;
	PyBuffer_Release(&to);
	PyBuffer_Release(&from);
	if (err)
		return NULL;
	if (fits)
		Py_RETURN_NONE;
	PyErr_SetString(PyExc_ValueError, "the source is longer");
	return NULL;
}

/* _steady(data) -> data, or a copy of it if it may fault. */
PyObject *handle_steady(PyObject *self, PyObject *data)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	if (!PyObject_CheckBuffer(data) || !pc_may_fault(h, data))
		return Py_NewRef(data);
	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)) {
		if (PyErr_ExceptionMatches(PyExc_BufferError))
			PyErr_SetString(PyExc_TypeError, "a contiguous bytes-like object is required");
		return NULL;
	}
	PyObject *copy = PyBytes_FromStringAndSize(NULL, view.len);
	if (copy && pc_copy_outside(h, PyBytes_AsString(copy), view.buf, (u64)view.len, true))
		Py_CLEAR(copy);
	if (copy)
		pc_count(h->inode, &h->inode->counters.staged_copies, 1);
	PyBuffer_Release(&view);
	return copy;
}
