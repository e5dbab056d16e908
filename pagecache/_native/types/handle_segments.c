/*
 * handle_segments.c - several buffers that are memory of the same file.
 *
 * preadv and pwritev process one buffer after the other, and a program cannot see into how many pieces a view is split.
 * So if a buffer lies in memory that an earlier one changes (or that a later one is read from), all of them go through
 * one copy: their bytes move as if all were read before the first is stored (contract 2.7).
 */
#include "types/handle.h"

int pc_get_segment(PyObject *buffers, Py_ssize_t k, int flags, Py_buffer *view)
{
	PyObject *buffer = PySequence_GetItem(buffers, k);
	int err = buffer ? PyObject_GetBuffer(buffer, view, flags) : -1;
	Py_XDECREF(buffer);
	return err;
}

/* Whether one of several buffers would change the bytes of another. @pos: file offset of the first one. @s: result of
 * pc_check_segments. Return: 1, 0, -1 exception. Context: GIL; buffers are examined only if one is memory of the cache,
 * none is touched. */
int pc_segments_tangled(struct handle *h, PyObject *buffers, u64 pos, bool reads, const struct segments *s)
{
	if (!s->cached || pos + s->total > INT64_MAX)
		return 0;
	struct pc_inode *i = h->inode;
	Py_ssize_t n = PySequence_Size(buffers);
	int tangled = 0, flags = reads ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_SIMPLE;
	Py_buffer view;
	for (u64 k = 0, done = 0; k < (u64)n && n > 1 && !tangled; k++) {
		if (pc_get_segment(buffers, (Py_ssize_t)k, flags, &view))
			return -1;
		u64 after = done + (u64)view.len, from = reads ? pos + after : pos,
		    len = reads ? s->total - after : done;
		tangled = pc_view_meets(i, from, len, view.buf, (u64)view.len, false);
		done = after;
		PyBuffer_Release(&view);
	}
	return n < 0 ? -1 : tangled;
}

/* Join all buffers into a bytes object, copied with nothing held. */
PyObject *pc_segments_join(struct handle *h, PyObject *buffers, u64 total)
{
	PyObject *joined = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
	Py_ssize_t n = joined ? PySequence_Size(buffers) : 0;
	u64 done = 0;
	for (Py_ssize_t k = 0; k < n && joined; k++) {
		Py_buffer view;
		if (pc_get_segment(buffers, k, PyBUF_SIMPLE, &view)) {
			Py_CLEAR(joined);
			break;
		}
		u64 part = pc_min((u64)view.len, total - done);
		if (part && pc_copy_outside(h, PyBytes_AsString(joined) + done, view.buf, part, true))
			Py_CLEAR(joined);
		done += part;
		PyBuffer_Release(&view);
	}
	if (joined && done < total) /* the list changed during the calls */
		joined = pc_shorten(joined, (i64)done);
	if (joined)
		pc_count(h->inode, &h->inode->counters.staged_copies, 1);
	return joined;
}

/* Copy bytes read into all buffers one after another. Return: 0, -1. */
int pc_segments_spread(struct handle *h, PyObject *buffers, const u8 *from, u64 len)
{
	Py_ssize_t n = PySequence_Size(buffers);
	for (Py_ssize_t k = 0; k < n && len; k++) {
		Py_buffer view;
		if (pc_get_segment(buffers, k, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS, &view))
			return -1;
		u64 part = pc_min((u64)view.len, len);
		int err = part ? pc_copy_outside(h, view.buf, from, part, false) : 0;
		PyBuffer_Release(&view);
		if (err)
			return -1;
		from += part;
		len -= part;
	}
	return n < 0 ? -1 : 0;
}

/* ---------------------------------------------------------------- methods of direct handles (file/direct.py) */

/* _steady(data) -> data, or a copy of it if it may fault, or if it is memory of the cache: beside a direct write a read may fill
 * that anew, with bytes that have moved already, or in place of bytes that were given up and that a view still shows. */
PyObject *handle_steady(PyObject *self, PyObject *data)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	if (get_buffer(data, false, &view))
		return NULL;
	PyObject *copy = NULL;
	if (!pc_may_fault(h, data) && !pc_arena_has(&h->inode->cache->arena, view.buf))
		copy = Py_NewRef(data);
	else if ((copy = PyBytes_FromStringAndSize(NULL, view.len))) {
		if (pc_copy_outside(h, PyBytes_AsString(copy), view.buf, (u64)view.len, true))
			Py_CLEAR(copy);
		else
			pc_count(h->inode, &h->inode->counters.staged_copies, 1);
	}
	PyBuffer_Release(&view);
	return copy;
}

/* The arguments of a method: buffers, and the offset of the first. Return: as pc_segments_tangled. */
static int tangled_arguments(struct handle *h, PyObject *args, bool reads, PyObject **buffers, struct segments *s)
{
	unsigned long long pos;
	if (check_open(h) || !PyArg_ParseTuple(args, "OK", buffers, &pos) ||
	    pc_check_segments(h, *buffers, reads ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_SIMPLE, s))
		return -1;
	return pc_segments_tangled(h, *buffers, pos, reads, s);
}

/* _joined(buffers, offset) -> bytes to be written instead of the buffers, or None if they may be written one by one. */
PyObject *handle_joined(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	PyObject *buffers;
	struct segments s;
	int tangled = tangled_arguments(h, args, false, &buffers, &s);
	if (tangled > 0)
		return pc_segments_join(h, buffers, s.total);
	return tangled < 0 ? NULL : Py_NewRef(Py_None);
}

/* _tangled(buffers, offset) -> number of bytes to read at once and pass to _spread; 0: read into one buffer after
 * another. */
PyObject *handle_tangled(PyObject *self, PyObject *args)
{
	PyObject *buffers;
	struct segments s;
	int tangled = tangled_arguments(handle_of(self), args, true, &buffers, &s);
	return tangled < 0 ? NULL : PyLong_FromUnsignedLongLong(tangled ? s.total : 0);
}

/* _spread(buffers, data): copy data into the buffers, one after another. */
PyObject *handle_spread(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	PyObject *buffers;
	Py_buffer from;
	if (check_open(h) || !PyArg_ParseTuple(args, "Oy*", &buffers, &from))
		return NULL;
	int err = pc_segments_spread(h, buffers, from.buf, (u64)from.len);
	PyBuffer_Release(&from);
	return err ? NULL : Py_NewRef(Py_None);
}
