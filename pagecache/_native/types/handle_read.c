/*
 * handle_read.c - the reading verbs of a handle.
 *
 * A hit is one optimistic copy. The calling thread fetches missing bytes through the engine (op.c); a read that touched
 * the marker of a readahead window starts the next one. A read is short only at the end of the file [K13].
 *
 * A direct handle reads past the cache: what pc_direct_read leaves is for CachedFile's subclass, _read_rest.
 */
#include "types/handle.h"

#include <stdlib.h>

static i64 core_read(struct handle *h, u64 pos, u8 *to, u64 len, struct pc_need *need)
{
	i64 n;
	need->goes_on = pc_goes_on(&h->ra, pos) && !h->noreuse;
	if (PC_LIKELY(len < h->gil_release))
		return pc_read(h->inode, pos, to, len, need);
	struct pc_cache *c = h->inode->cache;
	atomic_fetch_add(&c->copies, 1);
	Py_BEGIN_ALLOW_THREADS n = pc_read(h->inode, pos, to, len, need);
	Py_END_ALLOW_THREADS if (atomic_fetch_sub(&c->copies, 1) == 1) pc_core_release(h->core);
	return n;
}

void pc_met_marker(struct handle *h, struct pc_need *need)
{
	if (need->readahead > 1 && h->noreuse) { /* other folios of this reader are evicted first */
		u64 marker = need->marker << h->inode->cache->page_shift;
		pc_reclaim_soon(h->inode, marker, marker + 1);
	}
	if (need->readahead)
		pc_readahead_marker(h->inode, &h->ra, need->marker);
	need->readahead = 0;
}

/* Record a read for the next readahead; a NOREUSE handle is done with its bytes. */
void pc_read_seen(struct handle *h, u64 pos, u64 len)
{
	pc_readahead_seen(&h->ra, pos, len);
	if (PC_UNLIKELY(h->noreuse))
		pc_reclaim_soon(h->inode, pos, pos + len);
}

/* The read was not a plain hit: `got` bytes are copied and need has the reason. Return: bytes of [pos, pos + len),
 * -1. */
static i64 read_slow(struct handle *h, u64 pos, u8 *to, u64 len, i64 got, struct pc_need *need)
{
	struct pc_inode *i = h->inode;
	u64 done = (u64)got;
	bool missed = false;
	pc_met_marker(h, need);
	for (int round = 0; done < len && need->kind != PC_NEED_NOTHING; round++) {
		missed = true;
		enum pc_result next = PC_UNCACHED; /* bytes are evicted before they are copied */
		if (round <= PC_ROUNDS_CACHED)
			next = pc_run_fill(h->core, i, pos + done, len - done, &h->ra);
		if (next == PC_FAILED)
			return -1;
		if (next == PC_UNCACHED) {
			u64 part = clip(h, pos + done, pc_min(len - done, PC_PIECE));
			if (part && pc_run_uncached(h->core, i, pos + done, part, to + done) == PC_FAILED)
				return -1;
			part = clip(h, pos + done, part); /* a concurrent truncate left zeros beyond the end */
			done += part;
			if (!part)
				break;
			round = 0;
		}
		if (done == len)
			break;
		got = core_read(h, pos + done, to + done, len - done, need);
		pc_met_marker(h, need);
		done += (u64)got;
		if (got)
			round = 0;
	}
	if (missed)
		pc_count(i, &i->counters.misses, 1);
	else
		pc_count_hit(i);
	pc_read_seen(h, pos, done);
	return (i64)done;
}

/* Return: bytes read, fewer only at the end of the file; -1. */
static i64 read_range(struct handle *h, u64 pos, u8 *to, u64 len)
{
	struct pc_need need;
	i64 got = core_read(h, pos, to, len, &need);
	if (PC_LIKELY(need.kind == PC_NEED_NOTHING && !(need.readahead | h->noreuse))) {
		pc_count_hit(h->inode);
		pc_readahead_seen(&h->ra, pos, (u64)got);
		return got;
	}
	return read_slow(h, pos, to, len, got, &need);
}

/* Whether a direct handle reads through the cache: a commit or a write unit completes bytes, or the spool has some. */
static bool reads_cached(struct handle *h)
{
	const struct pc_limits *l = &h->inode->limits;
	return !h->direct || l->write_unit > 1 || l->commit_on_close || pc_staged_bytes(h->inode);
}

/* Have the engine read the bytes from `done` on of a buffer for [pos, pos + len); NULL: into a new bytes object. Return: the
 * bytes, their number if they are in the buffer, NULL. */
static PyObject *read_rest(struct handle *h, PyObject *buffer, u64 done, u64 pos, u64 len, PyObject *met)
{
	PyObject *self = (PyObject *)((char *)h - pc_handle_base);
	PyObject *rest = PyObject_CallMethod(self, "_read_rest", "OKKKO", buffer ? buffer : Py_None,
					     (unsigned long long)done, (unsigned long long)(pos + done),
					     (unsigned long long)(len - done), met ? met : Py_None);
	Py_XDECREF(met);
	return rest;
}

/* Read past the cache into `to`; the rest into the buffer that has this memory, or NULL. Return: bytes, -1. */
static i64 direct_range(struct handle *h, PyObject *buffer, u64 pos, u8 *to, u64 len)
{
	PyObject *met = NULL;
	i64 n = 0, done = pc_direct_read(h->core, h->inode, pos, to, len, &met);
	if (done < 0 || (u64)done == len)
		return done;
	PyObject *rest = read_rest(h, buffer, (u64)done, pos, len, met);
	if (!rest)
		return -1;
	if (PyBytes_Check(rest)) {
		n = (i64)pc_min((u64)PyBytes_Size(rest), len - (u64)done);
		memcpy(to + done, PyBytes_AsString(rest), (size_t)n);
	} else if (pc_to_i64(rest, "the number of bytes", &n)) {
		done = -1;
	}
	Py_DECREF(rest);
	return done < 0 ? -1 : done + n;
}

/* Read past the cache. @bytes: memory for the result, which is consumed. Return: the result, NULL. */
static PyObject *direct_bytes(struct handle *h, PyObject *bytes, u64 pos, u64 len)
{
	PyObject *met = NULL, *rest = NULL;
	u8 *to = (u8 *)PyBytes_AsString(bytes);
	i64 done = pc_direct_read(h->core, h->inode, pos, to, len, &met);
	if ((u64)done == len)
		return bytes;
	if (done <= 0)
		Py_CLEAR(bytes);
	if (done >= 0)
		rest = read_rest(h, NULL, (u64)done, pos, len, met);
	if (!bytes)
		return rest;
	u64 n = rest ? pc_min((u64)PyBytes_Size(rest), len - (u64)done) : 0;
	if (n)
		memcpy(to + done, PyBytes_AsString(rest), n);
	if (!rest || (u64)done + n < len)
		bytes = pc_shorten(bytes, rest ? done + (i64)n : -1);
	Py_XDECREF(rest);
	return bytes;
}

static PyObject *read_bytes(struct handle *h, u64 pos, u64 len)
{
	len = clip(h, pos, len);
	PyObject *bytes = pc_new_bytes(len, pos);
	if (PC_UNLIKELY(!bytes))
		return NULL;
	if (PC_UNLIKELY(h->direct && len && !reads_cached(h)))
		return direct_bytes(h, bytes, pos, len);
	i64 n = read_range(h, pos, (u8 *)PyBytes_AsString(bytes), len);
	return PC_LIKELY(n == (i64)len) ? bytes : pc_shorten(bytes, n);
}

PyObject *handle_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size, pos;
	return read_arguments(h, "pread", args, nargs, &size, &pos) ? NULL : read_bytes(h, pos, size);
}

/* *wanted: the length of the buffer. Return: bytes read into it, -1. */
static i64 read_buffer(struct handle *h, PyObject *object, u64 pos, u64 *wanted)
{
	Py_buffer view;
	if (get_buffer(object, true, &view))
		return -1;
	*wanted = (u64)view.len;
	u64 len = clip(h, pos, *wanted);
	i64 n = -1;
	bool aside = pc_may_fault(h, object), met = pc_view_meets(h->inode, pos, len, view.buf, len, false);
	bool direct = PC_UNLIKELY(h->direct && len && !reads_cached(h));
	if (PC_UNLIKELY(direct && met)) {
		pc_raise(h->core, engine_of(h->inode), "deadlock",
			 "a direct read into a view of the same bytes of the file");
	} else if (PC_LIKELY(!aside && !met)) {
		n = direct ? direct_range(h, object, pos, view.buf, len) : read_range(h, pos, view.buf, len);
	} else {
		void *bounce = pc_bounce_new(h, len);
		if (bounce)
			n = direct ? direct_range(h, NULL, pos, bounce, len) : read_range(h, pos, bounce, len);
		if (n > 0 && pc_copy_outside(h, view.buf, bounce, (u64)n, false))
			n = -1;
		free(bounce);
	}
	PyBuffer_Release(&view);
	return n;
}

static PyObject *into_buffer(struct handle *h, PyObject *object, u64 pos, u64 *wanted)
{
	i64 n = read_buffer(h, object, pos, wanted);
	return n < 0 ? NULL : PyLong_FromLongLong(n);
}

PyObject *handle_pread_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos, wanted;
	if (offset_arguments(h, "pread_into", "buffer", false, args, nargs, &pos))
		return NULL;
	return into_buffer(h, args[0], pos, &wanted);
}

/* Read into buffers that are memory of the range being read. */
static PyObject *preadv_at_once(struct handle *h, PyObject *buffers, u64 pos, u64 total)
{
	PyObject *data = read_bytes(h, pos, total);
	u64 len = data ? (u64)PyBytes_Size(data) : 0;
	int err = data ? pc_segments_spread(h, buffers, (const u8 *)PyBytes_AsString(data), len) : -1;
	Py_XDECREF(data);
	if (!err)
		pc_count(h->inode, &h->inode->counters.staged_copies, 1);
	return err ? NULL : PyLong_FromUnsignedLongLong(len);
}

static PyObject *read_segments(struct handle *h, PyObject *buffers, u64 pos, const struct segments *s)
{
	u64 wanted, done = 0;
	int tangled = pc_segments_tangled(h, buffers, pos, true, s);
	if (tangled)
		return tangled < 0 ? NULL : preadv_at_once(h, buffers, pos, s->total);
	Py_ssize_t n = PySequence_Size(buffers);
	for (Py_ssize_t k = 0; k < n; k++) {
		PyObject *buffer = PySequence_GetItem(buffers, k);
		if (!buffer)
			return NULL;
		i64 got = read_buffer(h, buffer, pos + done, &wanted);
		Py_DECREF(buffer);
		if (got < 0)
			return NULL;
		done += (u64)got;
		if ((u64)got < wanted)
			break; /* the end: bytes appended after it now do not belong in the next segment */
	}
	return n < 0 ? NULL : PyLong_FromUnsignedLongLong(done);
}

PyObject *handle_preadv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	struct segments s;
	u64 pos;
	if (offset_arguments(h, "preadv", "buffers", false, args, nargs, &pos) ||
	    pc_check_segments(h, args[0], PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS, &s))
		return NULL;
	return read_segments(h, args[0], pos, &s);
}

/* Return: bytes; None: that would wait; NULL. */
PyObject *pc_try_read(struct handle *h, u64 pos, u64 size)
{
	struct pc_need need;
	u64 len = clip(h, pos, size);
	PyObject *bytes = pc_new_bytes(len, pos);
	if (!bytes)
		return NULL;
	i64 n = core_read(h, pos, (u8 *)PyBytes_AsString(bytes), len, &need);
	pc_met_marker(h, &need); /* threads of the volume read the next window without a wait here */
	if (n == (i64)len) {
		pc_count_hit(h->inode);
		pc_read_seen(h, pos, len);
	} else if (need.kind == PC_NEED_NOTHING) { /* the end of the file */
		bytes = pc_shorten(bytes, n);
	} else {
		Py_DECREF(bytes);
		Py_RETURN_NONE;
	}
	return bytes;
}

PyObject *handle_try_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size, pos;
	return read_arguments(h, "try_pread", args, nargs, &size, &pos) ? NULL : pc_try_read(h, pos, size);
}

PyObject *handle_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size = INT64_MAX;
	if (nargs > 1)
		return PyErr_Format(PyExc_TypeError, "read() takes at most 1 argument (%zd given)", nargs);
	if (check_readable(h))
		return NULL;
	if (nargs == 1 && args[0] != Py_None) {
		i64 n;
		if (pc_to_i64(args[0], "size", &n))
			return NULL;
		size = n < 0 ? INT64_MAX : (u64)n;
	}
	PyObject *bytes = read_bytes(h, h->position, size);
	if (PC_LIKELY(bytes != NULL))
		h->position += (u64)PyBytes_Size(bytes);
	return bytes;
}

PyObject *handle_readall(PyObject *self, PyObject *unused)
{
	return handle_read(self, NULL, 0);
}

PyObject *handle_readinto(PyObject *self, PyObject *buffer)
{
	struct handle *h = handle_of(self);
	u64 wanted;
	if (check_readable(h))
		return NULL;
	PyObject *n = into_buffer(h, buffer, h->position, &wanted);
	if (n)
		h->position += (u64)PyLong_AsLongLong(n);
	return n;
}
