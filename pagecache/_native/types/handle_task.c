/*
 * handle_task.c - hits of tasks: reads and writes that a task makes on its event loop (aio.py).
 *
 * A hit of at most one piece is complete when the verb returns. None means that a thread has to make the call: it would
 * wait, it is longer than a piece, or its buffer may fault or is memory of the range itself. aio.py makes a longer call
 * in pieces, with a turn of the loop after each.
 */
#include "types/handle.h"

/* Whether the buffer may be moved in pieces, or on a loop at all. */
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
	if (offset_arguments(h, "pread_into", "buffer", false, args, nargs, &pos) || pc_get_target(args[0], &view))
		return NULL;
	u64 len = clip(h, pos, (u64)view.len);
	if (PC_LIKELY(len <= PC_LOOP_PIECE && may_copy_here(h, args[0], &view, pos, false))) {
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

/* Return: 1: the calling coroutine is in a call of this volume's backend, where a write is refused; 0, -1. */
static int is_inside(struct handle *h)
{
	return PC_UNLIKELY(h->inode->volume->on_loop) ? pc_inside_call(h->inode->volume) : 0;
}

/* _hit_pwrite(data, offset) -> bytes written, None */
PyObject *handle_hit_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	u64 pos;
	if (offset_arguments(h, "pwrite", "data", true, args, nargs, &pos))
		return NULL;
	int inside = is_inside(h);
	if (inside < 0 || pc_get_source(args[0], &view))
		return NULL;
	bool may_hit = !inside && view.len <= PC_LOOP_PIECE && may_copy_here(h, args[0], &view, pos, true);
	PyObject *written = PC_LIKELY(may_hit) ? pc_try_write(h, pos, view.buf, (u64)view.len) : Py_NewRef(Py_None);
	PyBuffer_Release(&view);
	return written;
}

/* _in_pieces(buffer, offset, writes) -> whether a read or write of the buffer is longer than a piece, and is done in
 * pieces. A write-through is one call of the backend. */
PyObject *handle_in_pieces(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	u64 pos;
	if (check_nargs("_in_pieces", nargs, 3) || check_open(h) || to_u64(args[1], "offset", &pos) ||
	    PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE))
		return NULL;
	bool writes = args[2] == Py_True, fits = pos + (u64)view.len <= INT64_MAX;
	bool pieces = view.len > PC_LOOP_PIECE && fits && !(writes && h->through) &&
		      may_copy_here(h, args[0], &view, pos, writes);
	PyBuffer_Release(&view);
	return PyBool_FromLong(pieces);
}
