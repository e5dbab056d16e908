/*
 * handle_task.c - hits of tasks, which read and write on their event loop (aio.py), and of threads without a Python thread
 * state (hit.c).
 *
 * A hit of at most one piece is complete when the verb returns. None means that a thread has to make the call: it would
 * wait, it is longer than a piece, or its buffer may fault or is memory of the range itself.
 *
 * Threads get an address, and leave one job to the handle: moving its readahead window. A hit is closed here and not by its
 * address alone, since the memory of a closed cache may be freed with it: that needs the interpreter's lock.
 */
#include "types/handle.h"

/* Whether the buffer may be moved on a loop. */
static bool may_copy_here(struct handle *h, PyObject *object, const Py_buffer *view, u64 pos, bool writes)
{
	return PC_LIKELY(!pc_may_fault(h, object) &&
			 !pc_view_meets(h->inode, pos, (u64)view->len, view->buf, (u64)view->len, writes));
}

/* _hit_pread(size, offset) -> bytes, None */
PyObject *handle_hit_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size, pos;
	if (read_arguments(h, "pread", args, nargs, &size, &pos))
		return NULL;
	if (PC_LIKELY(clip(h, pos, size) <= PC_LOOP_PIECE))
		return pc_try_read(h, pos, size);
	Py_RETURN_NONE;
}

/* _hit_pread_into(buffer, offset) -> bytes read, None */
PyObject *handle_hit_pread_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	struct pc_need need = {.kind = PC_NEED_FILL};
	Py_buffer view;
	u64 pos, got = 0;
	if (offset_arguments(h, "pread_into", "buffer", false, args, nargs, &pos) || get_buffer(args[0], true, &view))
		return NULL;
	u64 len = clip(h, pos, (u64)view.len);
	if (PC_LIKELY(len <= PC_LOOP_PIECE && may_copy_here(h, args[0], &view, pos, false))) {
		need.goes_on = pc_goes_on(&h->ra, pos) && !h->noreuse;
		got = (u64)pc_read(h->inode, pos, view.buf, len, &need);
		pc_met_marker(h, &need);
	}
	PyBuffer_Release(&view);
	if (need.kind != PC_NEED_NOTHING)
		Py_RETURN_NONE;
	pc_count_hit(h->inode);
	pc_read_seen(h, pos, got);
	return PyLong_FromUnsignedLongLong(got);
}

/* _hit_pwrite(data, offset) -> bytes written, None */
PyObject *handle_hit_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	u64 pos;
	if (offset_arguments(h, "pwrite", "data", true, args, nargs, &pos))
		return NULL;
	int inside = pc_inside_call(h->inode->volume); /* of this volume's backend, where a write is refused */
	if (inside < 0 || get_buffer(args[0], false, &view))
		return NULL;
	bool may_hit = !inside && view.len <= PC_LOOP_PIECE && may_copy_here(h, args[0], &view, pos, true);
	PyObject *written = PC_LIKELY(may_hit) ? pc_try_write(h, pos, view.buf, (u64)view.len) : Py_NewRef(Py_None);
	PyBuffer_Release(&view);
	return written;
}

/* ---------------------------------------------------------------- threads */

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
