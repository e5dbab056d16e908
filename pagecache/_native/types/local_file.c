/*
 * local_file.c - the bytes of a local file: preadv and pwritev, for Python and for the core.
 *
 *   a method of Python    backend.read_into(offset, views)   the core makes views, and calls it with the interpreter lock
 *   a method of C         read_into of a LocalFile           the core compares its address, and moves the bytes without both
 *
 * A subclass that overrides the method is called like any other backend.
 */
#include "types/types.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <structmember.h>
#include <sys/uio.h>

struct local_file {
	struct descriptor descriptor;
	bool writable;
	bool changed; /* since the owner has cleared it */
};

enum { CALL_PARTS = IOV_MAX < PC_PARTS_MAX ? IOV_MAX : PC_PARTS_MAX };

/* Return: bytes, or -errno. No interpreter lock is needed. */
static i64 move(struct local_file *f, bool write, u64 pos, const struct iovec *parts, int n)
{
	ssize_t moved = write ? pwritev(f->descriptor.fd, parts, n, (off_t)pos)
			      : preadv(f->descriptor.fd, parts, n, (off_t)pos);
	if (moved < 0)
		return -errno;
	if (write)
		__atomic_store_n(&f->changed, true, __ATOMIC_RELAXED);
	return moved;
}

/* Move bytes of cache memory by one call; the caller holds it. Return: bytes, or -errno. Context: no GIL needed. */
i64 pc_driver_move(const struct pc_driver *driver, u64 pos, const struct pc_part *parts, size_t n)
{
	struct iovec vector[CALL_PARTS];
	size_t count = n < CALL_PARTS ? n : CALL_PARTS;
	for (size_t k = 0; k < count; k++)
		vector[k] = (struct iovec){parts[k].memory, parts[k].len};
	return move(driver->file, driver->write, pos, vector, (int)count);
}

/* The result of a call: a number of bytes, or -errno; unless an exception is set. */
PyObject *pc_moved(i64 moved)
{
	if (PyErr_Occurred())
		return NULL;
	errno = moved < 0 ? (int)-moved : 0;
	return moved < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLongLong(moved);
}

/* The part of a call from Python: the buffers are exported until it returns. */
static PyObject *move_buffers(PyObject *self, PyObject *args, bool write)
{
	struct local_file *f = (struct local_file *)self;
	PyObject *buffers, *offset;
	struct iovec vector[CALL_PARTS];
	i64 moved = -1;
	int n = 0;
	if (!PyArg_ParseTuple(args, "OO", &offset, &buffers))
		return NULL;
	long long pos = PyLong_AsLongLong(offset);
	Py_ssize_t count = PyErr_Occurred() ? -1 : PySequence_Size(buffers);
	if (count < 0)
		return NULL;
	count = count < CALL_PARTS ? count : CALL_PARTS;
	Py_buffer *held = malloc(((size_t)count + 1) * sizeof(*held));
	if (!held)
		return PyErr_NoMemory();
	for (; n < count; n++) {
		PyObject *buffer = PySequence_GetItem(buffers, n);
		int err = buffer ? PyObject_GetBuffer(buffer, &held[n], write ? PyBUF_SIMPLE : PyBUF_WRITABLE) : -1;
		Py_XDECREF(buffer);
		if (err)
			break;
		vector[n] = (struct iovec){held[n].buf, (size_t)held[n].len};
	}
	if (!PyErr_Occurred()) {
		do {
			Py_BEGIN_ALLOW_THREADS moved = move(f, write, (u64)pos, vector, n);
			Py_END_ALLOW_THREADS
		} while (moved == -EINTR && !PyErr_CheckSignals());
	}
	while (n)
		PyBuffer_Release(&held[--n]);
	free(held);
	return pc_moved(moved);
}

static PyObject *read_into(PyObject *self, PyObject *args)
{
	return move_buffers(self, args, false);
}

static PyObject *write_from(PyObject *self, PyObject *args)
{
	if (((struct local_file *)self)->writable)
		return move_buffers(self, args, true);
	PyObject *done = PyObject_CallMethod(self, "need_writable", NULL); /* its error has the key */
	Py_XDECREF(done);
	errno = EBADF;
	return done ? PyErr_SetFromErrno(PyExc_OSError) : NULL;
}

/* Return whether C makes the calls of a bound method. The driver is valid as long as the method. Context: GIL. */
bool pc_driver_of(PyObject *method, struct pc_driver *driver)
{
	PyCFunction function = PyCFunction_Check(method) ? PyCFunction_GetFunction(method) : NULL;
	driver->write = function == write_from;
	if (function != read_into && function != write_from)
		return false;
	driver->file = (struct local_file *)PyCFunction_GetSelf(method);
	return driver->file->writable || !driver->write;
}

/* LocalFile(directory, name, flags): see Descriptor. */
static PyObject *local_file_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	PyObject *self = pc_fd_new(type, args, kwargs);
	if (self)
		((struct local_file *)self)->writable = PyLong_AsLong(PyTuple_GetItem(args, 2)) & (O_RDWR | O_WRONLY);
	return self;
}

int pc_install_local_file(PyObject *module, PyObject *descriptor)
{
	static PyMethodDef methods[] = {
		{"read_into", read_into, METH_VARARGS,
		 "read_into($self, offset, buffers, /)\n--\n\nRead into the buffers; the number of bytes."},
		{"write_from", write_from, METH_VARARGS,
		 "write_from($self, offset, buffers, /)\n--\n\nWrite the buffers; the number of bytes."},
		{NULL, NULL, 0, NULL},
	};
	static PyMemberDef members[] = {
		{"writable", T_BOOL, offsetof(struct local_file, writable), READONLY, NULL},
		{"changed", T_BOOL, offsetof(struct local_file, changed), 0, NULL},
		{NULL, 0, 0, 0, NULL},
	};
	static PyType_Slot slots[] = {
		{Py_tp_new, local_file_new},
		{Py_tp_methods, methods},
		{Py_tp_members, members},
		{Py_tp_doc, "An open file."},
		{0, NULL},
	};
	static PyType_Spec spec = {"pagecache._native._core.LocalFile", sizeof(struct local_file), 0,
				   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
	PyObject *type = PyType_FromSpecWithBases(&spec, descriptor);
	int err = type ? PyModule_AddObjectRef(module, "LocalFile", type) : -1;
	Py_XDECREF(type);
	return err;
}
