/*
 * handle.c - the hot verbs of a handle as METH_FASTCALL methods of a C type.
 *
 * A hit is one C call: arguments, optimistic copy, result; no Python frame runs and the result is the only object made. The
 * type derives from io.RawIOBase, whose size is read at run time; our fields lie behind it. CachedFile (file.py) subclasses
 * it and adds everything that is not hot.
 *
 * Short calls keep the GIL (a released short call starves beside a busy thread), copies of `gil_release` bytes and more
 * release it. Memory that may fault (maps, unknown exporters) is copied through a bounce buffer: touching it with a folio
 * locked or the GIL held could wait for this very process [K11].
 *
 * All or raise [K13]: a read is short only at the end of the file; a write that cannot take everything raises with
 * `characters_written`.
 */
#include "types.h"

#include <stdlib.h>

PyTypeObject *pc_handle_type;
static Py_ssize_t handle_base;
static PyObject *unsupported; /* io.UnsupportedOperation */
static PyObject *str_characters_written;

enum { PC_PIECE = 4 << 20, PC_ROUNDS_CACHED = 16 };

struct handle {
	struct pc_inode *inode;
	PyObject *core; /* borrowed: the subclass keeps it (and the inode's object) alive in its attributes */
	u64 position;
	u64 gil_release;
	struct pc_readahead ra;
	u8 readable, writable, appends, through, closed, may_fault;
};

enum { HANDLE_OPEN, HANDLE_CLOSED, HANDLE_SHUT };
enum { FAULT_AUTO, FAULT_ALWAYS, FAULT_NEVER };

static struct handle *handle_of(PyObject *self)
{
	return (struct handle *)((char *)self + handle_base);
}

/* ---------------------------------------------------------------- checks */

static int check_open(struct handle *h)
{
	if (PC_UNLIKELY(h->inode && h->closed == HANDLE_SHUT))
		return pc_raise(h->core, NULL, "shutdown", "the volume of this file is detached");
	if (PC_UNLIKELY(!h->inode || h->closed)) {
		PyErr_SetString(PyExc_ValueError, "I/O operation on closed file");
		return -1;
	}
	if (PC_UNLIKELY(pc_is_forked(h->inode->cache)))
		return pc_raise(h->core, h->inode->user, "forked", "the cache was created before fork() and is used in the child");
	return 0;
}

static int check_readable(struct handle *h)
{
	if (check_open(h))
		return -1;
	if (PC_LIKELY(h->readable))
		return 0;
	PyErr_SetString(unsupported, "File not open for reading");
	return -1;
}

static int check_writable(struct handle *h)
{
	if (check_open(h))
		return -1;
	if (PC_LIKELY(h->writable))
		return 0;
	PyErr_SetString(unsupported, "File not open for writing");
	return -1;
}

/* A byte count or offset: an int that is not negative and fits 63 bits. */
static int to_u64(PyObject *value, const char *what, u64 *out)
{
	int overflow;
	PyObject *index = PyLong_Check(value) ? (Py_INCREF(value), value) : PyNumber_Index(value);
	if (!index)
		return -1;
	long long n = PyLong_AsLongLongAndOverflow(index, &overflow);
	if (PC_UNLIKELY(overflow > 0))
		PyErr_Format(PyExc_ValueError, "%s %S is larger than 2**63 - 1", what, index);
	else if (PC_UNLIKELY(n < 0 && !PyErr_Occurred()))
		PyErr_Format(PyExc_ValueError, "%s %S is negative; it must be 0 or more", what, index);
	Py_DECREF(index);
	if (PC_UNLIKELY(n < 0 || overflow))
		return -1;
	*out = (u64)n;
	return 0;
}

static int check_nargs(const char *name, Py_ssize_t nargs, Py_ssize_t wanted)
{
	if (PC_LIKELY(nargs == wanted))
		return 0;
	PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd arguments (%zd given)", name, wanted, nargs);
	return -1;
}

/* ---------------------------------------------------------------- memory that may fault */

static bool has_name(PyObject *object, const char *module, const char *name)
{
	PyObject *m = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__module__");
	PyObject *n = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
	bool same = m && n && PyUnicode_Check(m) && PyUnicode_Check(n) && PyUnicode_CompareWithASCIIString(m, module) == 0 &&
		    PyUnicode_CompareWithASCIIString(n, name) == 0;
	Py_XDECREF(m);
	Py_XDECREF(n);
	PyErr_Clear();
	return same;
}

/* Plain memory: bytes, bytearray, arrays that own theirs, cache memory of our own, and memoryviews of these. */
static bool is_plain(PyObject *object)
{
	bool plain = false;
	if (PyBytes_Check(object) || PyByteArray_Check(object) || Py_TYPE(object) == pc_buf_type || Py_TYPE(object) == pc_pin_type)
		return true;
	if (Py_IS_TYPE(object, &PyMemoryView_Type)) {
		PyObject *base = PyObject_GetAttrString(object, "obj");
		plain = base && base != object && is_plain(base);
		Py_XDECREF(base);
	} else if (has_name(object, "array", "array")) {
		plain = true;
	} else if (has_name(object, "numpy", "ndarray")) {
		PyObject *base = PyObject_GetAttrString(object, "base");
		plain = base && (base == Py_None || is_plain(base));
		Py_XDECREF(base);
	}
	PyErr_Clear();
	return plain;
}

static bool may_fault(const struct handle *h, PyObject *object)
{
	if (PC_LIKELY(PyBytes_CheckExact(object) || PyByteArray_CheckExact(object)))
		return h->may_fault == FAULT_ALWAYS;
	return h->may_fault == FAULT_ALWAYS || (h->may_fault == FAULT_AUTO && !is_plain(object));
}

static void *bounce_new(struct handle *h, u64 len)
{
	void *p = malloc(len ? len : 1);
	if (!p)
		PyErr_NoMemory();
	else
		h->inode->counters.staged_copies++;
	return p;
}

static void copy_released(void *to, const void *from, u64 len)
{
	Py_BEGIN_ALLOW_THREADS
	memcpy(to, from, len);
	Py_END_ALLOW_THREADS
}

/* ---------------------------------------------------------------- reading */

static i64 core_read(struct handle *h, u64 pos, u8 *to, u64 len, struct pc_need *need)
{
	i64 n;
	if (PC_LIKELY(len < h->gil_release))
		return pc_read(h->inode, pos, to, len, need);
	Py_BEGIN_ALLOW_THREADS
	n = pc_read(h->inode, pos, to, len, need);
	Py_END_ALLOW_THREADS
	return n;
}

static void met_marker(struct handle *h, struct pc_need *need)
{
	if (need->readahead && pc_readahead_marker(h->inode, &h->ra, need->marker))
		pc_readahead_submit(h->inode, &h->ra);
	need->readahead = 0;
}

/* What pc_read needs before it can go on at pos. Return: 0 look again, 1 read uncached, -1 exception. */
static int provide(struct handle *h, u64 pos, u64 len, const struct pc_need *need, int round)
{
	if (need->kind == PC_NEED_FOLIO)
		return pc_wait_folio(h->inode, h->core, need);
	if (round > PC_ROUNDS_CACHED)
		return 1; /* what is read is evicted before it is copied */
	return pc_run_fill(h->core, h->inode, pos, len, &h->ra);
}

/* The read was not a plain hit: `got` bytes are there and need says why. Return: bytes of [pos, pos + len), -1. */
static i64 read_slow(struct handle *h, u64 pos, u8 *to, u64 len, i64 got, struct pc_need *need)
{
	struct pc_inode *i = h->inode;
	u64 done = (u64)got;
	bool missed = false;
	met_marker(h, need);
	for (int round = 0; done < len && need->kind != PC_NEED_NOTHING; round++) {
		missed |= need->kind == PC_NEED_FILL;
		int next = provide(h, pos + done, len - done, need, round);
		if (next < 0)
			return -1;
		if (next > 0) {
			u64 size = pc_inode_size(i), rest = size > pos + done ? pc_min(len - done, size - pos - done) : 0;
			u64 part = pc_min(rest, PC_PIECE);
			if (part && pc_run_uncached(h->core, i, pos + done, part, to + done))
				return -1;
			done += part;
			if (!part)
				break;
			round = 0;
		}
		if (done == len)
			break;
		got = core_read(h, pos + done, to + done, len - done, need);
		met_marker(h, need);
		done += (u64)got;
		if (got)
			round = 0;
	}
	if (missed)
		i->counters.misses++;
	else
		i->counters.hits++;
	pc_readahead_seen(&h->ra, pos, done, i->cache->page_shift);
	return (i64)done;
}

static i64 read_into(struct handle *h, u64 pos, u8 *to, u64 len)
{
	struct pc_need need;
	i64 got = core_read(h, pos, to, len, &need);
	if (PC_LIKELY(need.kind == PC_NEED_NOTHING && !need.readahead)) {
		h->inode->counters.hits++;
		pc_readahead_seen(&h->ra, pos, (u64)got, h->inode->cache->page_shift);
		return got;
	}
	return read_slow(h, pos, to, len, got, &need);
}

static u64 clip(struct handle *h, u64 pos, u64 len)
{
	u64 size = pc_inode_size(h->inode);
	return pos >= size ? 0 : pc_min(len, size - pos);
}

static PyObject *read_bytes(struct handle *h, u64 pos, u64 len)
{
	len = clip(h, pos, len);
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
	if (PC_UNLIKELY(!bytes))
		return NULL;
	i64 n = read_into(h, pos, (u8 *)PyBytes_AsString(bytes), len);
	if (PC_LIKELY(n == (i64)len))
		return bytes;
	PyObject *shorter = n < 0 ? NULL : PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)n);
	Py_DECREF(bytes);
	return shorter;
}

static PyObject *handle_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size, pos;
	if (check_nargs("pread", nargs, 2) || check_readable(h) || to_u64(args[0], "size", &size) ||
	    to_u64(args[1], "offset", &pos))
		return NULL;
	return read_bytes(h, pos, size);
}

/* Return: bytes read into the buffer, -1. */
static i64 read_buffer(struct handle *h, PyObject *object, u64 pos)
{
	Py_buffer view;
	if (PyObject_GetBuffer(object, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)) {
		if (PyErr_ExceptionMatches(PyExc_BufferError)) {
			PyErr_Clear();
			PyErr_Format(PyExc_TypeError, "a writable, contiguous bytes-like object is required, not '%s'",
				     PyObject_CheckBuffer(object) ? "a read-only or strided one" : "this object");
		}
		return -1;
	}
	u64 len = clip(h, pos, (u64)view.len);
	i64 n = -1;
	if (PC_LIKELY(!may_fault(h, object))) {
		n = read_into(h, pos, view.buf, len);
	} else {
		void *bounce = bounce_new(h, len);
		if (bounce)
			n = read_into(h, pos, bounce, len);
		if (n > 0)
			copy_released(view.buf, bounce, (u64)n);
		free(bounce);
	}
	PyBuffer_Release(&view);
	return n;
}

static PyObject *handle_pread_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos;
	if (check_nargs("pread_into", nargs, 2) || check_readable(h) || to_u64(args[1], "offset", &pos))
		return NULL;
	i64 n = read_buffer(h, args[0], pos);
	return n < 0 ? NULL : PyLong_FromLongLong(n);
}

/* Every segment must be a buffer before the first one is touched: a bad one refuses the whole call. */
static int check_segments(PyObject *buffers, int flags)
{
	Py_ssize_t n = PySequence_Size(buffers);
	for (Py_ssize_t k = 0; k < n; k++) {
		PyObject *buffer = PySequence_GetItem(buffers, k);
		Py_buffer view;
		int err = buffer ? PyObject_GetBuffer(buffer, &view, flags) : -1;
		if (err && buffer && PyErr_ExceptionMatches(PyExc_BufferError))
			PyErr_Format(PyExc_TypeError, "segment %zd is not a %scontiguous bytes-like object", k,
				     flags & PyBUF_WRITABLE ? "writable, " : "");
		Py_XDECREF(buffer);
		if (err)
			return -1;
		PyBuffer_Release(&view);
	}
	return n < 0 ? -1 : 0;
}

static PyObject *handle_preadv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos, done = 0;
	if (check_nargs("preadv", nargs, 2) || check_readable(h) || to_u64(args[1], "offset", &pos) ||
	    check_segments(args[0], PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS))
		return NULL;
	Py_ssize_t n = PySequence_Size(args[0]);
	for (Py_ssize_t k = 0; k < n; k++) {
		PyObject *buffer = PySequence_GetItem(args[0], k);
		if (!buffer)
			return NULL;
		i64 got = read_buffer(h, buffer, pos + done);
		Py_DECREF(buffer);
		if (got < 0)
			return NULL;
		done += (u64)got;
	}
	return n < 0 ? NULL : PyLong_FromUnsignedLongLong(done);
}

static PyObject *handle_try_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size, pos;
	struct pc_need need;
	if (check_nargs("try_pread", nargs, 2) || check_readable(h) || to_u64(args[0], "size", &size) ||
	    to_u64(args[1], "offset", &pos))
		return NULL;
	u64 len = clip(h, pos, size);
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
	if (!bytes)
		return NULL;
	i64 n = core_read(h, pos, (u8 *)PyBytes_AsString(bytes), len, &need);
	if (n == (i64)len) {
		h->inode->counters.hits++;
		return bytes;
	}
	bool eof = need.kind == PC_NEED_NOTHING;
	PyObject *shorter = eof ? PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)n) : NULL;
	Py_DECREF(bytes);
	if (eof)
		return shorter;
	Py_RETURN_NONE;
}

static PyObject *handle_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 size = INT64_MAX;
	if (nargs > 1) {
		PyErr_Format(PyExc_TypeError, "read() takes at most 1 argument (%zd given)", nargs);
		return NULL;
	}
	if (check_readable(h))
		return NULL;
	if (nargs == 1 && args[0] != Py_None) {
		PyObject *index = PyNumber_Index(args[0]);
		long long n = index ? PyLong_AsLongLong(index) : -1;
		Py_XDECREF(index);
		if (n == -1 && PyErr_Occurred())
			return NULL;
		size = n < 0 ? INT64_MAX : (u64)n;
	}
	PyObject *bytes = read_bytes(h, h->position, size);
	if (PC_LIKELY(bytes != NULL))
		h->position += (u64)PyBytes_Size(bytes);
	return bytes;
}

static PyObject *handle_readall(PyObject *self, PyObject *unused)
{
	(void)unused;
	return handle_read(self, NULL, 0);
}

static PyObject *handle_readinto(PyObject *self, PyObject *buffer)
{
	struct handle *h = handle_of(self);
	if (check_readable(h))
		return NULL;
	i64 n = read_buffer(h, buffer, h->position);
	if (n < 0)
		return NULL;
	h->position += (u64)n;
	return PyLong_FromLongLong(n);
}

/* ---------------------------------------------------------------- writing */

/* The exception that ends a write says how much was accepted (and is kept). */
static void set_characters_written(u64 done)
{
	PyObject *type, *value, *traceback;
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	PyObject *n = PyLong_FromUnsignedLongLong(done);
	if (value && n && PyObject_IsInstance(value, PyExc_OSError) == 1 && PyObject_SetAttr(value, str_characters_written, n))
		PyErr_Clear();
	Py_XDECREF(n);
	PyErr_Restore(type, value, traceback);
}

static i64 core_write(struct handle *h, u64 pos, const u8 *from, u64 len, struct pc_need *need)
{
	i64 n;
	if (PC_LIKELY(len < h->gil_release))
		return pc_write(h->inode, pos, from, len, need);
	Py_BEGIN_ALLOW_THREADS
	n = pc_write(h->inode, pos, from, len, need);
	Py_END_ALLOW_THREADS
	return n;
}

/* Pieces of a long write: each can have room below the dirty limit beside others. */
static u64 piece_of(struct pc_inode *i, u64 len)
{
	struct pc_cache *c = i->cache;
	u64 share = atomic_load_explicit(&c->dirty_limit, memory_order_relaxed) / 4 << c->page_shift;
	return pc_min(len, pc_min(PC_PIECE, pc_max(share, c->page_size)));
}

/* engine.room(length, memory): wait for dirty budget, or for memory; engine.write_back(pos, len). */
static int ask_engine(struct handle *h, PyObject *method, u64 a, u64 b)
{
	PyObject *engine = h->inode->user, *x = PyLong_FromUnsignedLongLong(a), *y = PyLong_FromUnsignedLongLong(b);
	PyObject *result = x && y ? PyObject_CallMethodObjArgs(engine, method, x, y, NULL) : NULL;
	Py_XDECREF(x);
	Py_XDECREF(y);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* What the write needs with the inode lock held: bytes that the folio lacks, or a folio. Return: 0, -1; 1: without it. */
static int provide_locked(struct handle *h, const struct pc_need *need)
{
	if (need->kind == PC_NEED_FILL) {
		int next = pc_run_fill(h->core, h->inode, need->pos, need->len, NULL);
		return next > 0 ? 1 : next;
	}
	if (need->kind == PC_NEED_FOLIO || need->kind == PC_NEED_FLIGHT)
		return pc_wait_folio(h->inode, h->core, need);
	return 1;
}

/* Take the piece [pos, pos + len) with the inode lock held. Return: bytes taken; *err: exception set. */
static u64 write_locked(struct handle *h, u64 pos, const u8 *from, u64 len, struct pc_need *need, int *err)
{
	u64 done = 0;
	*err = 0;
	while (done < len && *err == 0) {
		i64 n = core_write(h, pos + done, from + done, len - done, need);
		done += (u64)n;
		if (done < len)
			*err = provide_locked(h, need);
	}
	return done;
}

static int lock_inode(struct op *op, struct handle *h)
{
	if (PC_LIKELY(pc_inode_lock_try(h->inode, PC_EXCLUSIVE))) {
		op->holds |= HOLD_LOCK_X;
		return 0;
	}
	return pc_op_acquire(op, HOLD_LOCK_X, -1);
}

/* Whether a short write may be tried at once: nothing to wait for but what CORE itself finds out. */
static bool may_try(struct pc_inode *i, u64 len)
{
	return !pc_tls_op && len <= PC_PIECE && pc_dirty_room(i, len) && !i->nr_failed &&
	       !atomic_load_explicit(&i->volume->aborted, memory_order_relaxed);
}

/* Write with everything that may have to happen before and in between. append_pos: NULL, or an append: receives the offset;
 * `done` bytes of it are written already, with the inode lock, which is this call's then. */
static int write_slow(struct handle *h, u64 pos, const u8 *from, u64 len, u64 done, u64 *append_pos)
{
	struct pc_inode *i = h->inode;
	struct pc_need need;
	struct op *op = pc_op_new(h->core, i, OP_CALLER, NULL);
	int err = op ? pc_check_reentry(i, h->core, "a write from inside a backend call of the same volume") : -1;
	bool append = append_pos != NULL;
	if (append && done && op)
		op->holds |= HOLD_LOCK_X;
	else if (append && done)
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	while (!err && done < len) {
		u64 piece = piece_of(i, len - done);
		if (!(op->holds & HOLD_LOCK_X) && !append && (!pc_dirty_room(i, piece) || i->nr_failed))
			err = ask_engine(h, pc_str_room, piece, 0);
		if (!err && !(op->holds & HOLD_LOCK_X)) {
			err = lock_inode(op, h);
			if (!err && append && done == 0)
				*append_pos = pos = pc_inode_size(i);
		}
		if (!err && append && (!pc_dirty_room(i, piece) || i->nr_failed))
			err = ask_engine(h, pc_str_room, piece, 0);
		if (!err && pos + len > INT64_MAX) {
			pc_raise(h->core, i->user, "too large", "the write would end beyond 2**63 - 1");
			err = -1;
		}
		if (err)
			break;
		done += write_locked(h, pos + done, from + done, piece, &need, &err);
		if (!append && op->holds & HOLD_LOCK_X) {
			pc_inode_lock_release(i, PC_EXCLUSIVE);
			op->holds &= ~(u32)HOLD_LOCK_X;
		}
		if (err == 1) {
			/* Memory, or the folio written back: not with the lock held, which appends alone need. */
			bool back = need.kind == PC_NEED_WRITEBACK;
			err = back ? ask_engine(h, pc_str_write_back, need.pos, need.len) : ask_engine(h, pc_str_room, 0, 1);
		}
	}
	if (op) {
		pc_op_settle(op);
		Py_DECREF(op);
	}
	if (err)
		set_characters_written(done);
	return err;
}

static int write_through(struct handle *h, u64 pos, u64 len)
{
	return PC_UNLIKELY(h->through) && len ? ask_engine(h, pc_str_write_through, pos, len) : 0;
}

/* Return: 0 and everything is accepted, -1. */
static int write_all(struct handle *h, u64 pos, const u8 *from, u64 len)
{
	struct pc_inode *i = h->inode;
	u64 done = 0;
	if (len == 0)
		return 0;
	if (PC_UNLIKELY(pos + len > INT64_MAX)) {
		pc_raise(h->core, i->user, "too large", "the write would end beyond 2**63 - 1");
		set_characters_written(0);
		return -1;
	}
	if (PC_LIKELY(may_try(i, len) && pc_inode_lock_try(i, PC_EXCLUSIVE))) {
		struct pc_need need;
		done = (u64)core_write(h, pos, from, len, &need);
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	}
	if (PC_UNLIKELY(done < len) && write_slow(h, pos, from, len, done, NULL))
		return -1;
	return write_through(h, pos, len);
}

/* A source that may fault is copied first, with nothing held. */
static const u8 *source(struct handle *h, PyObject *object, Py_buffer *view, void **bounce)
{
	*bounce = NULL;
	if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE)) {
		if (PyErr_ExceptionMatches(PyExc_BufferError)) {
			PyErr_Clear();
			PyErr_SetString(PyExc_TypeError, "a contiguous bytes-like object is required");
		}
		return NULL;
	}
	if (PC_LIKELY(!may_fault(h, object)))
		return view->buf ? view->buf : (const u8 *)"";
	*bounce = bounce_new(h, (u64)view->len);
	if (!*bounce) {
		PyBuffer_Release(view);
		return NULL;
	}
	copy_released(*bounce, view->buf, (u64)view->len);
	return *bounce;
}

/* Return: bytes written (all of them), -1. */
static i64 write_buffer(struct handle *h, PyObject *object, u64 pos)
{
	Py_buffer view;
	void *bounce;
	const u8 *from = source(h, object, &view, &bounce);
	if (!from)
		return -1;
	i64 len = view.len;
	int err = write_all(h, pos, from, (u64)len);
	free(bounce);
	PyBuffer_Release(&view);
	return err ? -1 : len;
}

static int append_bytes(struct handle *h, const u8 *from, u64 len, u64 *pos)
{
	struct pc_inode *i = h->inode;
	struct pc_need need;
	u64 done = 0;
	*pos = pc_inode_size(i);
	if (len == 0)
		return 0;
	if (may_try(i, len) && pc_inode_lock_try(i, PC_EXCLUSIVE)) {
		*pos = pc_inode_size(i);
		if (PC_LIKELY(*pos + len <= INT64_MAX))
			done = (u64)core_write(h, *pos, from, len, &need);
		if (done == len || done == 0)
			pc_inode_lock_release(i, PC_EXCLUSIVE);
	}
	if (done < len && write_slow(h, *pos, from, len, done, pos))
		return -1;
	return write_through(h, *pos, len);
}

static i64 append_buffer(struct handle *h, PyObject *object, u64 *pos)
{
	Py_buffer view;
	void *bounce;
	const u8 *from = source(h, object, &view, &bounce);
	if (!from)
		return -1;
	i64 len = view.len;
	int err = append_bytes(h, from, (u64)len, pos);
	free(bounce);
	PyBuffer_Release(&view);
	return err ? -1 : len;
}

/* Zeros over [pos, pos + len) of the file as it is now; the size stays. Like append, with the lock over all its pieces. */
static int write_zeros(struct handle *h, struct op *op, u64 pos, u64 len)
{
	static const u8 zeros[64 << 10];
	struct pc_inode *i = h->inode;
	struct pc_need need;
	int err = pc_check_reentry(i, h->core, "a write from inside a backend call of the same volume");
	err = err ? err : lock_inode(op, h);
	u64 size = pc_inode_size(i), end = pos < size ? pos + pc_min(len, size - pos) : pos;
	while (!err && pos < end) {
		u64 piece = pc_min(piece_of(i, end - pos), sizeof(zeros));
		if (!pc_dirty_room(i, piece) || i->nr_failed)
			err = ask_engine(h, pc_str_room, piece, 0);
		if (!err)
			pos += write_locked(h, pos, zeros, piece, &need, &err);
		if (err == 1)
			err = ask_engine(h, pc_str_room, 0, 1);
	}
	return err;
}

static PyObject *handle_zero(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	unsigned long long pos, len;
	if (!PyArg_ParseTuple(args, "KK", &pos, &len) || check_writable(h))
		return NULL;
	struct op *op = pc_op_new(h->core, h->inode, OP_CALLER, NULL);
	if (!op)
		return NULL;
	int err = write_zeros(h, op, pos, len);
	pc_op_settle(op);
	Py_DECREF(op);
	if (err)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *handle_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos;
	if (check_nargs("pwrite", nargs, 2) || check_writable(h) || to_u64(args[1], "offset", &pos))
		return NULL;
	i64 n = write_buffer(h, args[0], pos);
	return n < 0 ? NULL : PyLong_FromLongLong(n);
}

static PyObject *handle_pwritev(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos, done = 0;
	if (check_nargs("pwritev", nargs, 2) || check_writable(h) || to_u64(args[1], "offset", &pos) ||
	    check_segments(args[0], PyBUF_SIMPLE))
		return NULL;
	Py_ssize_t n = PySequence_Size(args[0]);
	for (Py_ssize_t k = 0; k < n; k++) {
		PyObject *buffer = PySequence_GetItem(args[0], k);
		i64 got = buffer ? write_buffer(h, buffer, pos + done) : -1;
		Py_XDECREF(buffer);
		if (got < 0)
			return NULL;
		done += (u64)got;
	}
	return n < 0 ? NULL : PyLong_FromUnsignedLongLong(done);
}

static PyObject *handle_try_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	u64 pos;
	if (check_nargs("try_pwrite", nargs, 2) || check_writable(h) || to_u64(args[1], "offset", &pos))
		return NULL;
	struct pc_inode *i = h->inode;
	Py_buffer view;
	void *bounce;
	const u8 *from = source(h, args[0], &view, &bounce);
	if (!from)
		return NULL;
	u64 len = (u64)view.len, done = 0;
	struct pc_need need;
	bool room = len <= PC_PIECE && pos + len <= INT64_MAX && !h->through && pc_dirty_room(i, len) && !i->nr_failed;
	if (room && pc_inode_lock_try(i, PC_EXCLUSIVE)) {
		/* All or nothing: every folio must take its part at once. What was taken of a write that stops half way is
		 * bytes that the caller meant to write: they stay, and the call says that it would wait. */
		done = (u64)core_write(h, pos, from, len, &need);
		pc_inode_lock_release(i, PC_EXCLUSIVE);
	}
	free(bounce);
	PyBuffer_Release(&view);
	if (len && done < len)
		Py_RETURN_NONE;
	return PyLong_FromUnsignedLongLong(len);
}

static PyObject *handle_append(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"data", NULL};
	struct handle *h = handle_of(self);
	PyObject *data;
	u64 pos;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:append", names, &data) || check_writable(h) ||
	    append_buffer(h, data, &pos) < 0)
		return NULL;
	return PyLong_FromUnsignedLongLong(pos);
}

static PyObject *handle_write(PyObject *self, PyObject *data)
{
	struct handle *h = handle_of(self);
	u64 pos;
	if (check_writable(h))
		return NULL;
	if (PyUnicode_Check(data)) {
		PyErr_SetString(PyExc_TypeError, "a bytes-like object is required, not 'str'");
		return NULL;
	}
	pos = h->position;
	i64 n = h->appends ? append_buffer(h, data, &pos) : write_buffer(h, data, pos);
	if (n < 0)
		return NULL;
	if (n)
		h->position = pos + (u64)n;
	return PyLong_FromLongLong(n);
}

/* ---------------------------------------------------------------- position */

static PyObject *handle_seek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	long whence = 0;
	if (nargs < 1 || nargs > 2) {
		PyErr_Format(PyExc_TypeError, "seek() takes 1 or 2 arguments (%zd given)", nargs);
		return NULL;
	}
	if (check_open(h))
		return NULL;
	PyObject *index = PyNumber_Index(args[0]);
	long long offset = index ? PyLong_AsLongLong(index) : -1;
	Py_XDECREF(index);
	if (offset == -1 && PyErr_Occurred())
		return NULL;
	if (nargs == 2 && (whence = PyLong_AsLong(args[1])) == -1 && PyErr_Occurred())
		return NULL;
	if (whence < 0 || whence > 2) {
		PyErr_Format(PyExc_ValueError, "whence %ld is not 0, 1 or 2", whence);
		return NULL;
	}
	u64 base = whence == 0 ? 0 : whence == 1 ? h->position : pc_inode_size(h->inode);
	if (offset < 0 && (u64)-offset > base) {
		PyErr_Format(PyExc_ValueError, "seek to negative position (offset %lld from %llu)", offset, (unsigned long long)base);
		return NULL;
	}
	if (offset > 0 && (u64)offset > (u64)INT64_MAX - base) {
		PyErr_Format(PyExc_ValueError, "seek beyond 2**63 - 1 (offset %lld from %llu)", offset, (unsigned long long)base);
		return NULL;
	}
	h->position = base + (u64)offset;
	return PyLong_FromUnsignedLongLong(h->position);
}

static PyObject *handle_tell(PyObject *self, PyObject *unused)
{
	struct handle *h = handle_of(self);
	(void)unused;
	return check_open(h) ? NULL : PyLong_FromUnsignedLongLong(h->position);
}

static PyObject *handle_readable(PyObject *self, PyObject *unused)
{
	(void)unused;
	return check_open(handle_of(self)) ? NULL : PyBool_FromLong(handle_of(self)->readable);
}

static PyObject *handle_writable(PyObject *self, PyObject *unused)
{
	(void)unused;
	return check_open(handle_of(self)) ? NULL : PyBool_FromLong(handle_of(self)->writable);
}

static PyObject *handle_seekable(PyObject *self, PyObject *unused)
{
	(void)unused;
	return check_open(handle_of(self)) ? NULL : Py_NewRef(Py_True);
}

/* ---------------------------------------------------------------- for the subclass */

/* _bind(core, inode, readable, writable, appends, through, may_fault, read_ahead_pages, gil_release) */
static PyObject *handle_bind(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	PyObject *core;
	unsigned long long address, gil_release;
	int readable, writable, appends, through, fault;
	unsigned int pages;
	if (!PyArg_ParseTuple(args, "O!KppppiIK", pc_core_type, &core, &address, &readable, &writable, &appends, &through, &fault,
			      &pages, &gil_release))
		return NULL;
	h->core = core;
	h->readable = (u8)readable;
	h->writable = (u8)writable;
	h->appends = (u8)appends;
	h->through = (u8)through;
	h->may_fault = (u8)fault;
	h->gil_release = gil_release;
	h->ra = (struct pc_readahead){.max = pages, .prev_index = UINT64_MAX - 1};
	h->closed = 0;
	h->inode = (struct pc_inode *)(uintptr_t)address;
	Py_RETURN_NONE;
}

static PyObject *handle_unbind(PyObject *self, PyObject *unused)
{
	(void)unused;
	handle_of(self)->closed = HANDLE_CLOSED;
	Py_RETURN_NONE;
}

/* The volume is detached: the handle is still to be closed, but leads nowhere. */
static PyObject *handle_shut(PyObject *self, PyObject *unused)
{
	(void)unused;
	if (handle_of(self)->closed == HANDLE_OPEN)
		handle_of(self)->closed = HANDLE_SHUT;
	Py_RETURN_NONE;
}

static PyObject *handle_set_readahead(PyObject *self, PyObject *pages)
{
	unsigned long n = PyLong_AsUnsignedLong(pages);
	if (n == (unsigned long)-1 && PyErr_Occurred())
		return NULL;
	handle_of(self)->ra.max = (u32)n;
	Py_RETURN_NONE;
}

static PyObject *handle_closed(PyObject *self, void *closure)
{
	struct handle *h = handle_of(self);
	(void)closure;
	return PyBool_FromLong(!h->inode || h->closed == HANDLE_CLOSED);
}

static PyMethodDef methods[] = {
	{"pread", (PyCFunction)(void (*)(void))handle_pread, METH_FASTCALL,
	 "pread($self, size, offset, /)\n--\n\nRead size bytes at offset; fewer only at the end of the file."},
	{"pread_into", (PyCFunction)(void (*)(void))handle_pread_into, METH_FASTCALL,
	 "pread_into($self, buffer, offset, /)\n--\n\nRead into a writable buffer; returns the number of bytes."},
	{"preadv", (PyCFunction)(void (*)(void))handle_preadv, METH_FASTCALL,
	 "preadv($self, buffers, offset, /)\n--\n\nRead into several buffers, one after another."},
	{"try_pread", (PyCFunction)(void (*)(void))handle_try_pread, METH_FASTCALL,
	 "try_pread($self, size, offset, /)\n--\n\nLike pread, or None where it would wait or call the backend."},
	{"pwrite", (PyCFunction)(void (*)(void))handle_pwrite, METH_FASTCALL,
	 "pwrite($self, data, offset, /)\n--\n\nWrite all of data at offset; returns its length."},
	{"pwritev", (PyCFunction)(void (*)(void))handle_pwritev, METH_FASTCALL,
	 "pwritev($self, buffers, offset, /)\n--\n\nWrite several buffers, one after another."},
	{"try_pwrite", (PyCFunction)(void (*)(void))handle_try_pwrite, METH_FASTCALL,
	 "try_pwrite($self, data, offset, /)\n--\n\nLike pwrite, or None where it would wait or call the backend."},
	{"append", (PyCFunction)(void (*)(void))handle_append, METH_VARARGS | METH_KEYWORDS, "append($self, data)\n--\n\nWrite atomically at the end; returns the offset."},
	{"read", (PyCFunction)(void (*)(void))handle_read, METH_FASTCALL,
	 "read($self, size=-1, /)\n--\n\nRead at the file position; all that is left when size is negative."},
	{"readall", handle_readall, METH_NOARGS, "readall($self, /)\n--\n\nRead from the file position to the end."},
	{"readinto", handle_readinto, METH_O, "readinto($self, buffer, /)\n--\n\nRead into buffer at the file position."},
	{"write", handle_write, METH_O, "write($self, data, /)\n--\n\nWrite all of data at the file position."},
	{"seek", (PyCFunction)(void (*)(void))handle_seek, METH_FASTCALL,
	 "seek($self, offset, whence=0, /)\n--\n\nMove the file position; returns it."},
	{"tell", handle_tell, METH_NOARGS, "tell($self, /)\n--\n\nThe file position."},
	{"readable", handle_readable, METH_NOARGS, "readable($self, /)\n--\n\nWhether the handle can be read."},
	{"writable", handle_writable, METH_NOARGS, "writable($self, /)\n--\n\nWhether the handle can be written."},
	{"seekable", handle_seekable, METH_NOARGS, "seekable($self, /)\n--\n\nAlways True."},
	{"_bind", handle_bind, METH_VARARGS, NULL},
	{"_zero", handle_zero, METH_VARARGS, NULL},
	{"_unbind", handle_unbind, METH_NOARGS, NULL},
	{"_shut", handle_shut, METH_NOARGS, NULL},
	{"_set_readahead", handle_set_readahead, METH_O, NULL},
	{NULL, NULL, 0, NULL},
};
static PyGetSetDef getset[] = {
	{"closed", handle_closed, NULL, "True once the handle is closed.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

int pc_install_handle(PyObject *module)
{
	static PyType_Slot slots[] = {
		{Py_tp_methods, methods},
		{Py_tp_getset, getset},
		{Py_tp_doc, "The hot verbs of an open cached file."},
		{0, NULL},
	};
	static PyType_Spec spec = {"pagecache._native._core.Handle", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
	PyObject *io = PyImport_ImportModule("io");
	PyObject *raw = io ? PyObject_GetAttrString(io, "RawIOBase") : NULL;
	PyObject *size = raw ? PyObject_GetAttrString(raw, "__basicsize__") : NULL;
	unsupported = io ? PyObject_GetAttrString(io, "UnsupportedOperation") : NULL;
	str_characters_written = PyUnicode_InternFromString("characters_written");
	if (!size || !unsupported || !str_characters_written)
		return -1;
	handle_base = (PyLong_AsSsize_t(size) + 7) & ~(Py_ssize_t)7;
	spec.basicsize = (int)(handle_base + (Py_ssize_t)sizeof(struct handle));
	PyObject *bases = PyTuple_Pack(1, raw);
	pc_handle_type = bases ? (PyTypeObject *)PyType_FromSpecWithBases(&spec, bases) : NULL;
	Py_XDECREF(bases);
	Py_XDECREF(size);
	Py_XDECREF(raw);
	Py_XDECREF(io);
	return pc_handle_type ? PyModule_AddObjectRef(module, "Handle", (PyObject *)pc_handle_type) : -1;
}

/* cffi calls this without the GIL. Return: 0; -1 with the exception printed. */
int pc_install_types(void)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *module = PyImport_ImportModule("pagecache._native._core");
	int err = !module || pc_install_core(module) || pc_install_op(module) || pc_install_exporters(module) ||
		  pc_install_handle(module);
	if (err)
		PyErr_Print();
	Py_XDECREF(module);
	PyGILState_Release(gil);
	return err ? -1 : 0;
}
