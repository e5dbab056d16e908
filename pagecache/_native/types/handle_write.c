/*
 * handle_write.c - the writing verbs of a handle.
 *
 * A short write without obstacles is one try of the inode lock and one call of CORE. handle_claim.c does all others.
 * All or raise [K13]: the exception has the number of accepted bytes (`characters_written`).
 */
#include "types/handle.h"

#include <stdlib.h>

/* Add the number of accepted bytes to the current exception, which stays set. */
void pc_characters_written(u64 done)
{
	PyObject *error = pc_take_exception(), *n = PyLong_FromUnsignedLongLong(done);
	if (error && n && PyObject_IsInstance(error, PyExc_OSError) == 1 &&
	    PyObject_SetAttrString(error, "characters_written", n))
		PyErr_Clear();
	Py_XDECREF(n);
	pc_put_exception(error);
}

/* Return the number of accepted bytes that the current exception, which stays set, has; 0 if it has none. */
static u64 characters_written(void)
{
	PyObject *error = pc_take_exception();
	PyObject *n = error ? PyObject_GetAttrString(error, "characters_written") : NULL;
	u64 written = n ? PyLong_AsUnsignedLongLong(n) : 0;
	written = PyErr_Occurred() ? 0 : written;
	Py_XDECREF(n);
	pc_put_exception(error);
	return written;
}

/* Whether a short write may be tried at once: it needs no wait unless CORE finds one. A write that releases the GIL
 * while it copies must reserve its budget, so that many at once do not exceed the limit. Return: 1, 0, -1 exception. */
static int may_try(struct handle *h, u64 len)
{
	struct pc_inode *i = h->inode;
	int inside = PC_UNLIKELY(i->volume->on_loop) ? pc_inside_call(i->volume) : 0;
	if (PC_UNLIKELY(inside))
		return inside < 0 ? -1 : 0; /* the path of waiting writes finds and reports the mistake */
	return !pc_tls_op && !pc_tls_inside && !pc_tls_loop && len < h->gil_release && len <= PC_PIECE &&
	       pc_dirty_room(i, len) && !pc_some_failed(i) &&
	       !atomic_load_explicit(&i->volume->aborted, memory_order_relaxed);
}

/* All bytes of the range are accepted, whatever the write-back of it answers. Return: PC_DONE, PC_FAILED. */
static enum pc_result write_through(struct handle *h, u64 pos, u64 len)
{
	if (PC_LIKELY(!h->through) || !len)
		return PC_DONE;
	PyObject *written = PyObject_CallMethod(h->inode->user, "write_through", "KK", (unsigned long long)pos,
						(unsigned long long)len);
	Py_XDECREF(written);
	if (!written)
		pc_characters_written(len);
	return written ? PC_DONE : PC_FAILED;
}

/* Writes keep the interpreter lock, so a thread that only writes keeps it for a whole switch interval (5 ms), once for
 * each step of the calls that carry its data to the backend. While such calls run, a writer yields now and then. */
static void step_aside(struct handle *h)
{
	static _Thread_local i64 last;
	if (PC_LIKELY(pc_volume_inflight(h->inode->volume) == 0))
		return;
	i64 now = pc_clock_ns();
	if (now - last < PC_TURN_NS)
		return;
	Py_BEGIN_ALLOW_THREADS pc_nap(PC_ASIDE_NS);
	Py_END_ALLOW_THREADS last = pc_clock_ns();
}

/* Refuse a range whose end no offset can name. Return: 0, -1. */
static int check_end(struct handle *h, u64 pos, u64 len)
{
	if (PC_LIKELY(pos + len <= INT64_MAX))
		return 0;
	pc_raise(h->core, h->inode->user, "too large", "the write would end beyond 2**63 - 1");
	pc_characters_written(0);
	return -1;
}

/* Accept all bytes of a write at *pos, or of an append, whose offset *pos receives. Inlined: a write costs nothing for appends.
 * Return: PC_DONE, PC_FAILED. */
static inline __attribute__((always_inline)) enum pc_result accept_all(struct handle *h, const u8 *from, u64 len,
								       u64 *pos, bool append)
{
	struct pc_inode *i = h->inode;
	u64 done = 0;
	bool locked = false;
	if (append)
		*pos = pc_inode_size(i);
	if (len == 0)
		return PC_DONE;
	if (check_end(h, *pos, len))
		return PC_FAILED;
	int at_once = may_try(h, len);
	if (PC_UNLIKELY(at_once < 0)) {
		pc_characters_written(0);
		return PC_FAILED;
	}
	if (PC_LIKELY(at_once && pc_inode_lock_try(i, PC_EXCLUSIVE))) {
		struct pc_need need;
		if (append)
			*pos = pc_inode_size(i);
		if (PC_LIKELY(!append || *pos + len <= INT64_MAX))
			done = (u64)pc_core_write(h, *pos, from, len, &need);
		locked = append && done > 0 && done < len; /* bytes of other writers must not come in between */
		if (PC_LIKELY(!locked))
			pc_inode_lock_release(i, PC_EXCLUSIVE);
	}
	if (PC_UNLIKELY(done < len) && pc_write_slow(h, pos, from, len, done, append, locked) == PC_FAILED)
		return PC_FAILED;
	step_aside(h);
	return PC_DONE;
}

/* Copy a source that may fault first, with nothing held; likewise a view of the range being written, so that its bytes
 * move as if all were read before the first is stored. */
static const u8 *source(struct handle *h, PyObject *object, u64 pos, Py_buffer *view, void **bounce)
{
	*bounce = NULL;
	if (get_buffer(object, false, view))
		return NULL;
	if (PC_LIKELY(!pc_may_fault(h, object) &&
		      !pc_view_meets(h->inode, pos, (u64)view->len, view->buf, (u64)view->len, true)))
		return view->buf ? view->buf : (const u8 *)"";
	*bounce = pc_bounce_new(h, (u64)view->len);
	if (!*bounce || pc_copy_outside(h, *bounce, view->buf, (u64)view->len, true) || check_writable(h)) {
		pc_characters_written(0);
		free(*bounce);
		PyBuffer_Release(view);
		return NULL;
	}
	return *bounce;
}

/* Write or append a whole buffer to the cache; an append sets its offset. Return: bytes accepted (all of them), -1. */
static i64 accept_buffer(struct handle *h, PyObject *object, u64 *pos, bool append)
{
	Py_buffer view;
	void *bounce;
	const u8 *from = source(h, object, append ? pc_inode_size(h->inode) : *pos, &view, &bounce);
	if (!from)
		return -1;
	i64 len = view.len;
	enum pc_result result =
		append ? accept_all(h, from, (u64)len, pos, true) : accept_all(h, from, (u64)len, pos, false);
	free(bounce);
	PyBuffer_Release(&view);
	return result == PC_FAILED ? -1 : len;
}

/* Write or append a whole buffer; an append sets its offset. Return: bytes written (all of them), -1. */
static i64 write_buffer(struct handle *h, PyObject *object, u64 *pos, bool append)
{
	i64 n = accept_buffer(h, object, pos, append);
	return n > 0 && write_through(h, *pos, (u64)n) == PC_FAILED ? -1 : n;
}

PyObject *handle_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos;
	if (offset_arguments(h, "pwrite", "data", true, args, nargs, &pos))
		return NULL;
	i64 n = write_buffer(h, args[0], &pos, false);
	return n < 0 ? NULL : PyLong_FromLongLong(n);
}

/* Write from buffers that are memory of the range being written. */
static PyObject *pwritev_at_once(struct handle *h, PyObject *buffers, u64 pos, u64 total)
{
	PyObject *data = pc_segments_join(h, buffers, total);
	i64 got = data ? write_buffer(h, data, &pos, false) : -1;
	if (!data)
		pc_characters_written(0);
	Py_XDECREF(data);
	return got < 0 ? NULL : PyLong_FromLongLong(got);
}

static PyObject *write_segments(struct handle *h, PyObject *buffers, u64 pos, const struct segments *s)
{
	u64 done = 0;
	int tangled = pc_segments_tangled(h, buffers, pos, false, s);
	if (tangled)
		return tangled < 0 ? NULL : pwritev_at_once(h, buffers, pos, s->total);
	Py_ssize_t n = PySequence_Size(buffers);
	for (Py_ssize_t k = 0; k < n; k++) {
		PyObject *buffer = PySequence_GetItem(buffers, k);
		u64 at = pos + done;
		i64 got = buffer && !check_writable(h) ? accept_buffer(h, buffer, &at, false) : -1;
		Py_XDECREF(buffer);
		if (got < 0) {
			pc_characters_written(done + characters_written()); /* earlier buffers were accepted whole */
			return NULL;
		}
		done += (u64)got;
	}
	if (write_through(h, pos, done) == PC_FAILED)
		return NULL;
	return n < 0 ? NULL : PyLong_FromUnsignedLongLong(done);
}

PyObject *handle_pwritev(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	struct segments s;
	u64 pos;
	if (offset_arguments(h, "pwritev", "buffers", true, args, nargs, &pos) ||
	    pc_check_segments(h, args[0], PyBUF_SIMPLE, &s))
		return NULL;
	return write_segments(h, args[0], pos, &s);
}

/* Return: whether all was written; otherwise nothing was. A write that releases the GIL while it copies reserves budget. */
static bool try_write(struct handle *h, u64 pos, const u8 *from, u64 len)
{
	bool written;
	if (len > PC_WHOLE_MAX || h->through || pc_some_failed(h->inode))
		return false;
	h->wrote = 1;
	if (PC_LIKELY(len < h->gil_release))
		return pc_write_try(h->inode, pos, from, len, false, &h->closed);
	Py_BEGIN_ALLOW_THREADS written = pc_write_try(h->inode, pos, from, len, true, &h->closed);
	Py_END_ALLOW_THREADS return written;
}

/* Refuse a pwrite that could not succeed after any wait. Return: 0, -1. */
static int check_try(struct handle *h, u64 pos, u64 len)
{
	if (check_end(h, pos, len))
		return -1;
	if (PC_LIKELY(!atomic_load_explicit(&h->inode->volume->aborted, memory_order_relaxed)))
		return 0;
	return pc_check_reentry(h->inode, h->core, "a write from inside a backend call of the same volume");
}

/* Return: len; None: not all was written; NULL. */
PyObject *pc_try_write(struct handle *h, u64 pos, const u8 *from, u64 len)
{
	if (PC_UNLIKELY(len && check_try(h, pos, len)))
		return NULL;
	if (PC_LIKELY(len == 0 || try_write(h, pos, from, len)))
		return PyLong_FromUnsignedLongLong(len);
	Py_RETURN_NONE;
}

PyObject *handle_try_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	Py_buffer view;
	void *bounce;
	u64 pos;
	if (offset_arguments(h, "try_pwrite", "data", true, args, nargs, &pos))
		return NULL;
	const u8 *from = source(h, args[0], pos, &view, &bounce);
	if (!from)
		return NULL;
	PyObject *result = pc_try_write(h, pos, from, (u64)view.len);
	free(bounce);
	PyBuffer_Release(&view);
	return result;
}

PyObject *handle_append(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"data", NULL};
	struct handle *h = handle_of(self);
	PyObject *data;
	u64 pos = 0;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:append", names, &data) || check_writable(h) ||
	    write_buffer(h, data, &pos, true) < 0)
		return NULL;
	return PyLong_FromUnsignedLongLong(pos);
}

PyObject *handle_write(PyObject *self, PyObject *data)
{
	struct handle *h = handle_of(self);
	u64 pos;
	if (check_writable(h))
		return NULL;
	if (PyUnicode_Check(data))
		return PyErr_Format(PyExc_TypeError, "a bytes-like object is required, not 'str'");
	pos = h->position;
	i64 n = write_buffer(h, data, &pos, h->appends);
	u64 accepted = n < 0 ? characters_written() : (u64)n;
	if (accepted)
		h->position = pos + accepted;
	return n < 0 ? NULL : PyLong_FromLongLong(n);
}
