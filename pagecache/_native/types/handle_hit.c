/*
 * handle_hit.c - hits of a handle, for threads without a Python thread state (hit.c).
 *
 * These threads get an address, and leave one job to the handle: moving its readahead window. A hit is closed here and
 * not by its address alone, since the memory of a closed cache may be freed with it: that needs the interpreter's lock.
 */
#include "types/handle.h"

/* _open_hit(): an address, to be given to _close_hit while the handle still exists. */
PyObject *handle_open_hit(PyObject *self, PyObject *unused)
{
	struct handle *h = handle_of(self);
	struct pc_hit *hit;
	if (check_open(h))
		return NULL;
	h->wrote |= h->writable; /* from now on maybe without this handle */
	/* A write-through handle waits for the backend. */
	if (pc_hit_open(h->inode, (uintptr_t)&h->closed, (uintptr_t)&h->ra, h->readable, h->writable && !h->through,
			&hit))
		return PyErr_NoMemory();
	return PyLong_FromUnsignedLongLong((uintptr_t)hit);
}

PyObject *handle_close_hit(PyObject *self, PyObject *address)
{
	unsigned long long hit = PyLong_AsUnsignedLongLong(address);
	if (PyErr_Occurred())
		return NULL;
	pc_hit_close((struct pc_hit *)(uintptr_t)hit);
	Py_RETURN_NONE;
}

/* _move_window(page): one of those threads has read the page that starts the next window. */
PyObject *handle_move_window(PyObject *self, PyObject *page)
{
	struct handle *h = handle_of(self);
	struct pc_need need = {.readahead = 1, .marker = PyLong_AsUnsignedLongLong(page)};
	if (PyErr_Occurred() || check_open(h))
		return NULL;
	pc_met_marker(h, &need);
	Py_RETURN_NONE;
}
