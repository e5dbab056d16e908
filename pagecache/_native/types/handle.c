/*
 * handle.c - the hot verbs of a handle as METH_FASTCALL methods of a C type.
 *
 * A hit is one C call: arguments, optimistic copy, result; no Python frame runs and the result is the only object made.
 * The type derives from the C base of io.RawIOBase, whose size is read at run time; the fields of the handle follow it.
 * CachedFile (file/cached.py) subclasses this type and io.RawIOBase, and adds all other methods. The metaclass of
 * io.RawIOBase itself is ABCMeta, which has its own tp_new: Python 3.12 warns about a type spec with such a base, and
 * Python 3.14 refuses it.
 *
 * Short calls keep the GIL (a released short call starves beside a busy thread), copies of `gil_release` bytes and more
 * release it. Memory that may fault (maps, unknown exporters) is copied through a bounce buffer: touching it with a
 * folio locked or the GIL held could wait for this process itself [K11].
 *
 * All or raise [K13]: a read is short only at the end of the file; a write that cannot take everything raises with
 * `characters_written`.
 */
#include "types/handle.h"

#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define FAULTED "the buffer's memory is not there: a map behind the end of its file, or of a device that failed"

PyTypeObject *pc_handle_type;
Py_ssize_t pc_handle_base;
PyObject *pc_unsupported;

/* ---------------------------------------------------------------- checks */

/* Raise `error` with a message that names the object. Return: -1. */
int pc_refuse(struct handle *h, PyObject *error, const char *why)
{
	PyObject *key = PyObject_GetAttrString((PyObject *)((char *)h - pc_handle_base), "key");
	if (key)
		PyErr_Format(error, "%s: %R", why, key);
	else
		PyErr_SetString(error, why);
	Py_XDECREF(key);
	return -1;
}

/* An offset was refused: if the arguments are in the wrong order, report that. Return: -1. */
int pc_swapped(PyObject *const *args, const char *verb, const char *what)
{
	if (PyErr_ExceptionMatches(PyExc_TypeError) && PyIndex_Check(args[0]) && !PyIndex_Check(args[1]))
		PyErr_Format(PyExc_TypeError, "the arguments are swapped, the offset is the second: %s(%s, offset)",
			     verb, what);
	return -1;
}

/* Allocate the result of a read; the error names its size. */
PyObject *pc_new_bytes(u64 len, u64 pos)
{
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
	if (PC_UNLIKELY(!bytes)) {
		PyErr_Clear();
		PyErr_Format(PyExc_MemoryError,
			     "no memory for a read of %llu bytes at offset %llu; read smaller pieces",
			     (unsigned long long)len, (unsigned long long)pos);
	}
	return bytes;
}

/* The first n bytes of a result, which is freed. Return: NULL: n is negative, or there is no memory. */
PyObject *pc_shorten(PyObject *bytes, i64 n)
{
	PyObject *shorter = n < 0 ? NULL : PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)n);
	Py_DECREF(bytes);
	return shorter;
}

/* Report why a handle cannot be used. Return: -1 with the exception. */
int pc_refused(struct handle *h)
{
	if (h->inode && h->closed == HANDLE_SHUT)
		return pc_raise(h->core, NULL, "shutdown", "the volume of this file is detached");
	if (h->inode && h->closed == HANDLE_REPLACED)
		return pc_raise(h->core, h->inode->user, "replaced",
				"the version that this handle reads was replaced; open the object again");
	if (!h->inode || h->closed)
		return pc_refuse(h, PyExc_ValueError, "I/O operation on closed file");
	return pc_raise(h->core, h->inode->user, "forked",
			"the cache was created before fork() and is used in the child");
}

/* Convert any value but a plain int in range: an index, or an error that names value and rule. */
int pc_to_u64_slow(PyObject *value, const char *what, u64 *out)
{
	int overflow;
	PyObject *index = PyLong_Check(value) ? (Py_INCREF(value), value) : PyNumber_Index(value);
	if (!index) {
		if (!PyIndex_Check(value)) {
			PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(value), "__name__");
			PyErr_Format(PyExc_TypeError, "%s must be an int, not %V", what, type, "this");
			Py_XDECREF(type);
		}
		return -1;
	}
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

/* Convert an int that fits 64 bits, negative or not. */
int pc_to_i64(PyObject *value, const char *what, i64 *out)
{
	int overflow;
	PyObject *index = PyNumber_Index(value);
	if (!index)
		return -1;
	*out = PyLong_AsLongLongAndOverflow(index, &overflow);
	if (overflow)
		PyErr_Format(PyExc_ValueError, "%s %S is not in the range -2**63 to 2**63 - 1", what, index);
	Py_DECREF(index);
	return overflow || (*out == -1 && PyErr_Occurred()) ? -1 : 0;
}

/* Check that every segment is a buffer before the first one is touched: one that is not refuses the whole call. */
int pc_check_segments(struct handle *h, PyObject *buffers, int flags, struct segments *s)
{
	*s = (struct segments){0};
	if (!PySequence_Check(buffers) || PyBytes_Check(buffers) || PyByteArray_Check(buffers) ||
	    PyUnicode_Check(buffers)) {
		PyObject *type = PyObject_GetAttrString((PyObject *)Py_TYPE(buffers), "__name__");
		PyErr_Format(PyExc_TypeError, "buffers must be a list of bytes-like objects, not %V", type, "this");
		Py_XDECREF(type);
		return -1;
	}
	Py_ssize_t n = PySequence_Size(buffers);
	for (Py_ssize_t k = 0; k < n; k++) {
		Py_buffer view;
		if (pc_get_segment(buffers, k, flags, &view)) {
			if (PyErr_ExceptionMatches(PyExc_BufferError))
				PyErr_Format(PyExc_TypeError, "segment %zd is not a %scontiguous bytes-like object", k,
					     flags & PyBUF_WRITABLE ? "writable, " : "");
			return -1;
		}
		s->total += (u64)view.len;
		s->cached |= view.len && pc_arena_has(&h->inode->cache->arena, view.buf);
		PyBuffer_Release(&view);
	}
	return n < 0 ? -1 : 0;
}

/* ---------------------------------------------------------------- memory that may fault */

static bool has_name(PyObject *object, const char *module, const char *name)
{
	PyObject *m = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__module__");
	PyObject *n = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
	bool same = m && n && PyUnicode_Check(m) && PyUnicode_Check(n) &&
		    PyUnicode_CompareWithASCIIString(m, module) == 0 && PyUnicode_CompareWithASCIIString(n, name) == 0;
	Py_XDECREF(m);
	Py_XDECREF(n);
	PyErr_Clear();
	return same;
}

/* Whether memory cannot fault: bytes, bytearray, BytesIO, arrays that own theirs, cache memory, and memoryviews of these. */
static bool is_plain(PyObject *object)
{
	bool plain = false;
	if (PyBytes_Check(object) || PyByteArray_Check(object) || Py_TYPE(object) == pc_buf_type ||
	    Py_TYPE(object) == pc_pin_type)
		return true;
	if (Py_IS_TYPE(object, &PyMemoryView_Type)) {
		PyObject *base = PyObject_GetAttrString(object, "obj");
		plain = base && base != object && is_plain(base);
		Py_XDECREF(base);
	} else if (has_name(object, "array", "array") || has_name(object, "_io", "_BytesIOBuffer")) {
		plain = true;
	} else if (has_name(object, "numpy", "ndarray")) {
		PyObject *base = PyObject_GetAttrString(object, "base");
		plain = base && (base == Py_None || is_plain(base));
		Py_XDECREF(base);
	}
	PyErr_Clear();
	return plain;
}

bool pc_may_fault(const struct handle *h, PyObject *object)
{
	if (PC_LIKELY(PyBytes_CheckExact(object) || PyByteArray_CheckExact(object)))
		return h->may_fault == FAULT_ALWAYS;
	return h->may_fault == FAULT_ALWAYS || (h->may_fault == FAULT_AUTO && !is_plain(object));
}

void *pc_bounce_new(struct handle *h, u64 len)
{
	void *p = malloc(len ? len : 1);
	if (!p)
		PyErr_NoMemory();
	else
		pc_count(h->inode, &h->inode->counters.staged_copies, 1);
	return p;
}

/* Let the system copy, so that memory that is not there (a map of a file that was cut) is an error and no SIGBUS. If
 * the system refuses, copy here. Return: bytes copied. */
static u64 copy_checked(void *to, const void *from, u64 len, bool in)
{
	u64 done = 0;
	while (done < len) {
		struct iovec local = {in ? (u8 *)to + done : (u8 *)(uintptr_t)from + done, len - done};
		struct iovec remote = {in ? (u8 *)(uintptr_t)from + done : (u8 *)to + done, len - done};
		ssize_t n = in ? process_vm_readv(getpid(), &local, 1, &remote, 1, 0)
			       : process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
		if (n < 0 && (errno == ENOSYS || errno == EPERM)) {
			memcpy((u8 *)to + done, (const u8 *)from + done, len - done);
			return len;
		}
		if (n <= 0)
			break;
		done += (u64)n;
	}
	return done;
}

/* Copy from memory that may fault, or to it, with nothing held. Return: 0; -1: a fault, and nothing was copied beyond it. */
int pc_copy_outside(struct handle *h, void *to, const void *from, u64 len, bool in)
{
	u64 done;
	Py_BEGIN_ALLOW_THREADS done = copy_checked(to, from, len, in);
	Py_END_ALLOW_THREADS return done == len ? 0 : pc_raise(h->core, h->inode->user, "fault", FAULTED);
}

/* ---------------------------------------------------------------- position */

/* Seek to the next data or hole, which CachedFile finds. */
static PyObject *seek_data(PyObject *self, i64 offset, long whence)
{
	PyObject *found = PyObject_CallMethod(self, "_find_data", "Ll", (long long)offset, whence);
	i64 position;
	if (found && pc_to_i64(found, "position", &position)) {
		Py_DECREF(found);
		return NULL;
	}
	if (found)
		handle_of(self)->position = (u64)position;
	return found;
}

static PyObject *handle_seek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	struct handle *h = handle_of(self);
	long whence = 0;
	if (nargs < 1 || nargs > 2)
		return PyErr_Format(PyExc_TypeError, "seek() takes 1 or 2 arguments (%zd given)", nargs);
	if (check_open(h))
		return NULL;
	i64 offset;
	if (pc_to_i64(args[0], "offset", &offset))
		return NULL;
	if (nargs == 2 && (whence = PyLong_AsLong(args[1])) == -1 && PyErr_Occurred())
		return NULL;
	if (whence == SEEK_DATA || whence == SEEK_HOLE)
		return seek_data(self, offset, whence);
	if (whence < 0 || whence > 2)
		return PyErr_Format(PyExc_ValueError, "whence %ld is not 0, 1, 2, %d (SEEK_DATA) or %d (SEEK_HOLE)",
				    whence, SEEK_DATA, SEEK_HOLE);
	u64 base = whence == 0 ? 0 : whence == 1 ? h->position : pc_inode_size(h->inode);
	if (offset < 0 && (u64)-offset > base)
		return PyErr_Format(PyExc_ValueError, "seek to negative position (offset %lld from %llu)",
				    (long long)offset, (unsigned long long)base);
	if (offset > 0 && (u64)offset > (u64)INT64_MAX - base)
		return PyErr_Format(PyExc_ValueError, "seek beyond 2**63 - 1 (offset %lld from %llu)",
				    (long long)offset, (unsigned long long)base);
	h->position = base + (u64)offset;
	return PyLong_FromUnsignedLongLong(h->position);
}

static PyObject *handle_tell(PyObject *self, PyObject *unused)
{
	struct handle *h = handle_of(self);
	return check_open(h) ? NULL : PyLong_FromUnsignedLongLong(h->position);
}

/* Define a method that answers a question about an open handle. */
#define HANDLE_FLAG(name, expression)                                                                                  \
	static PyObject *handle_##name(PyObject *self, PyObject *unused)                                               \
	{                                                                                                              \
		struct handle *h = handle_of(self);                                                                    \
		return check_open(h) ? NULL : PyBool_FromLong(expression);                                             \
	}

HANDLE_FLAG(readable, h->readable)
HANDLE_FLAG(writable, h->writable)
HANDLE_FLAG(seekable, h->inode != NULL)

/* ---------------------------------------------------------------- for the subclass */

/* _bind(core, inode, readable, writable, appends, through, direct, may_fault, read_ahead_pages, gil_release) */
static PyObject *handle_bind(PyObject *self, PyObject *args)
{
	struct handle *h = handle_of(self);
	PyObject *core;
	unsigned long long address, gil_release;
	int readable, writable, appends, through, direct, fault;
	unsigned int pages;
	if (!PyArg_ParseTuple(args, "O!KpppppiIK", pc_core_type, &core, &address, &readable, &writable, &appends,
			      &through, &direct, &fault, &pages, &gil_release))
		return NULL;
	h->core = core;
	h->readable = (u8)readable;
	h->writable = (u8)writable;
	h->appends = (u8)appends;
	h->through = (u8)through;
	h->direct = (u8)direct;
	h->may_fault = (u8)fault;
	h->noreuse = 0;
	h->wrote = 0;
	h->gil_release = gil_release;
	h->ra = (struct pc_readahead){.max = pages};
	h->closed = 0;
	h->inode = (struct pc_inode *)(uintptr_t)address;
	Py_RETURN_NONE;
}

/* Define a method after which the handle can only be closed, if the condition on its state holds: it is closed; the
 * volume is detached; the pinned version that it reads is gone, and it never reads another one. */
#define HANDLE_END(name, condition, end)                                                                               \
	static PyObject *handle_##name(PyObject *self, PyObject *unused)                                               \
	{                                                                                                              \
		u8 *closed = &handle_of(self)->closed;                                                                 \
		*closed = (condition) ? end : *closed;                                                                 \
		Py_RETURN_NONE;                                                                                        \
	}

HANDLE_END(unbind, true, HANDLE_CLOSED)
HANDLE_END(shut, *closed != HANDLE_CLOSED, HANDLE_SHUT)
HANDLE_END(replace, *closed == HANDLE_OPEN, HANDLE_REPLACED)

static PyObject *handle_check_usable(PyObject *self, PyObject *unused)
{
	return check_open(handle_of(self)) ? NULL : Py_NewRef(Py_None);
}

static PyObject *handle_set_readahead(PyObject *self, PyObject *pages)
{
	unsigned long n = PyLong_AsUnsignedLong(pages);
	if (n == (unsigned long)-1 && PyErr_Occurred())
		return NULL;
	handle_of(self)->ra.max = (u32)n;
	Py_RETURN_NONE;
}

/* Data read through this handle will not be read again. */
static PyObject *handle_set_noreuse(PyObject *self, PyObject *value)
{
	int noreuse = PyObject_IsTrue(value);
	if (noreuse < 0)
		return NULL;
	handle_of(self)->noreuse = (u8)noreuse;
	Py_RETURN_NONE;
}

/* Whether bytes may have been written through this handle. */
static PyObject *handle_wrote(PyObject *self, PyObject *unused)
{
	return PyBool_FromLong(handle_of(self)->wrote);
}

static PyObject *handle_closed(PyObject *self, void *closure)
{
	struct handle *h = handle_of(self);
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
	 "try_pread($self, size, offset, /)\n--\n\nLike pread, or None if it would wait or call the backend."},
	{"pwrite", (PyCFunction)(void (*)(void))handle_pwrite, METH_FASTCALL,
	 "pwrite($self, data, offset, /)\n--\n\nWrite all of data at offset; returns its length."},
	{"pwritev", (PyCFunction)(void (*)(void))handle_pwritev, METH_FASTCALL,
	 "pwritev($self, buffers, offset, /)\n--\n\nWrite several buffers, one after another."},
	{"try_pwrite", (PyCFunction)(void (*)(void))handle_try_pwrite, METH_FASTCALL,
	 "try_pwrite($self, data, offset, /)\n--\n\nLike pwrite, or None if it would wait or call the backend. A first "
	 "part may be written then if memory runs out or storage changes meanwhile."},
	{"append", (PyCFunction)(void (*)(void))handle_append, METH_VARARGS | METH_KEYWORDS,
	 "append($self, data)\n--\n\nWrite atomically at the end; returns the offset."},
	{"read", (PyCFunction)(void (*)(void))handle_read, METH_FASTCALL,
	 "read($self, size=-1, /)\n--\n\nRead at the file position; to the end if size is negative."},
	{"readall", handle_readall, METH_NOARGS, "readall($self, /)\n--\n\nRead from the file position to the end."},
	{"readinto", handle_readinto, METH_O,
	 "readinto($self, buffer, /)\n--\n\nRead into buffer at the file position."},
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
	{"_replace", handle_replace, METH_NOARGS, NULL},
	{"_check_usable", handle_check_usable, METH_NOARGS, NULL},
	{"_set_readahead", handle_set_readahead, METH_O, NULL},
	{"_set_noreuse", handle_set_noreuse, METH_O, NULL},
	{"_wrote", handle_wrote, METH_NOARGS, NULL},
	{"_open_hit", handle_open_hit, METH_NOARGS, NULL},
	{"_close_hit", handle_close_hit, METH_O, NULL},
	{"_move_window", handle_move_window, METH_O, NULL},
	{"_steady", handle_steady, METH_O, NULL},
	{"_hit_pread", (PyCFunction)(void (*)(void))handle_hit_pread, METH_FASTCALL, NULL},
	{"_hit_pread_into", (PyCFunction)(void (*)(void))handle_hit_pread_into, METH_FASTCALL, NULL},
	{"_hit_pwrite", (PyCFunction)(void (*)(void))handle_hit_pwrite, METH_FASTCALL, NULL},
	{"_joined", handle_joined, METH_VARARGS, NULL},
	{"_tangled", handle_tangled, METH_VARARGS, NULL},
	{"_spread", handle_spread, METH_VARARGS, NULL},
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
	static PyType_Spec spec = {"pagecache._native._core.Handle", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
				   slots};
	PyObject *io = PyImport_ImportModule("io");
	PyObject *public = io ? PyObject_GetAttrString(io, "RawIOBase") : NULL;
	PyObject *raw = public ? PyObject_GetAttrString(public, "__base__") : NULL;
	PyObject *size = raw ? PyObject_GetAttrString(raw, "__basicsize__") : NULL;
	pc_unsupported = io ? PyObject_GetAttrString(io, "UnsupportedOperation") : NULL;
	if (!size || !pc_unsupported)
		return -1;
	pc_handle_base = (PyLong_AsSsize_t(size) + 7) & ~(Py_ssize_t)7;
	spec.basicsize = (int)(pc_handle_base + (Py_ssize_t)sizeof(struct handle));
	PyObject *bases = PyTuple_Pack(1, raw);
	pc_handle_type = bases ? (PyTypeObject *)PyType_FromSpecWithBases(&spec, bases) : NULL;
	Py_XDECREF(bases);
	Py_XDECREF(size);
	Py_XDECREF(raw);
	Py_XDECREF(public);
	Py_XDECREF(io);
	return pc_handle_type ? PyModule_AddObjectRef(module, "Handle", (PyObject *)pc_handle_type) : -1;
}

/* cffi calls this without the GIL. Return: 0; -1 with the exception printed. */
int pc_install_types(void)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *module = PyImport_ImportModule("pagecache._native._core");
	int err = !module || pc_install_core(module) || pc_install_op(module) || pc_install_exporters(module) ||
		  pc_install_handle(module) || pc_install_names(module) || pc_install_signals(module);
	if (err)
		PyErr_Print();
	Py_XDECREF(module);
	PyGILState_Release(gil);
	return err ? -1 : 0;
}
