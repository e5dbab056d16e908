/*
 * handle_begin.c - the verbs of an AsyncCachedFile, as far as they are possible at once.
 *
 * `_begin_*` does a hit completely and returns its result. Otherwise it returns a Steps object (steps.c), which goes on
 * from there. None of them waits. Long calls are left to the steps, which give the loop its turns.
 */
#include "types/async.h"
#include "types/handle.h"

/* Whether the bytes are there; *got: fewer than len only at the end of the file. */
static bool hit(struct handle *h, u64 pos, u8 *to, u64 len, u64 *got)
{
	struct pc_need need;
	if (PC_UNLIKELY(len > PC_LOOP_PIECE))
		return false;
	*got = (u64)pc_read(h->inode, pos, to, len, &need);
	if (PC_UNLIKELY(need.readahead))
		pc_met_marker(h, &need);
	if (PC_UNLIKELY(need.kind != PC_NEED_NOTHING))
		return false;
	pc_count_hit(h->inode);
	pc_read_seen(h, pos, *got);
	return true;
}

PyObject *handle_begin_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size, pos, got;
	if (check_nargs("pread", nargs, 2) || to_u64(args[0], "size", &size) || to_u64(args[1], "offset", &pos) ||
	    check_readable(h))
		return NULL;
	u64 len = clip(h, pos, size);
	PyObject *bytes = pc_new_bytes(len, pos);
	if (PC_UNLIKELY(!bytes))
		return NULL;
	if (PC_UNLIKELY(!hit(h, pos, (u8 *)PyBytes_AsString(bytes), len, &got)))
		return pc_steps_new(self, PREAD, NULL, bytes, len, pos, 0);
	if (PC_LIKELY(got == len))
		return bytes;
	PyObject *shorter = PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)got);
	Py_DECREF(bytes);
	return shorter;
}

PyObject *handle_begin_pread_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	u64 pos, got;
	bool done = false;
	if (check_nargs("pread_into", nargs, 2) || to_offset(args, "pread_into(buffer, offset)", &pos) ||
	    check_readable(h))
		return NULL;
	if (PC_LIKELY(!PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS))) {
		u64 len = clip(h, pos, (u64)view.len);
		done = !pc_may_fault(h, args[0]) && !pc_view_overlaps(h->inode, pos, (u64)view.len, view.buf, false) &&
		       hit(h, pos, view.buf, len, &got);
		PyBuffer_Release(&view);
	} else {
		PyErr_Clear(); /* reported by the steps */
	}
	return PC_LIKELY(done) ? PyLong_FromUnsignedLongLong(got)
			       : pc_steps_new(self, PREAD_INTO, args[0], NULL, 0, pos, 0);
}

PyObject *handle_begin_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	u64 pos, len = 1, done = 0;
	if (check_nargs("pwrite", nargs, 2) || to_offset(args, "pwrite(data, offset)", &pos) || check_writable(h))
		return NULL;
	if (PC_LIKELY(!PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE))) {
		len = (u64)view.len;
		if (PC_LIKELY(len <= PC_LOOP_PIECE && !pc_may_fault(h, args[0]) &&
			      !pc_view_overlaps(h->inode, pos, len, view.buf, true)))
			done = pc_write_try(h, pos, view.buf, len);
		PyBuffer_Release(&view);
	} else {
		PyErr_Clear(); /* reported by the steps */
	}
	return PC_LIKELY(done == len && !h->through) ? PyLong_FromUnsignedLongLong(len)
						     : pc_steps_new(self, PWRITE, args[0], NULL, 0, pos, done);
}

PyObject *handle_begin_append(PyObject *self, PyObject *data)
{
	if (check_writable(handle_of(self)))
		return NULL;
	return pc_steps_new(self, APPEND, data, NULL, 0, 0, 0);
}
