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
#include <structmember.h>
#include <sys/uio.h>

struct local_file {
	struct descriptor descriptor;
	bool writable;
	bool changed; /* since the owner has cleared it */
};

enum { CALL_PARTS = IOV_MAX < PC_PARTS_MAX ? IOV_MAX : PC_PARTS_MAX };

static PyObject *os_preadv, *os_pwritev;

/* Move bytes of cache memory by one call; the caller holds it. Return: bytes, or -errno. Context: no GIL needed. */
i64 pc_driver_move(const struct pc_driver *driver, u64 pos, const struct pc_part *parts, size_t n)
{
	struct local_file *f = driver->file;
	struct iovec vector[CALL_PARTS];
	int count = n < CALL_PARTS ? (int)n : CALL_PARTS;
	for (int k = 0; k < count; k++)
		vector[k] = (struct iovec){parts[k].memory, parts[k].len};
	ssize_t moved = driver->write ? pwritev(f->descriptor.fd, vector, count, (off_t)pos)
				      : preadv(f->descriptor.fd, vector, count, (off_t)pos);
	if (moved < 0)
		return -errno;
	if (driver->write)
		__atomic_store_n(&f->changed, true, __ATOMIC_RELAXED);
	return moved;
}

/* The result of a call: a number of bytes, or -errno; unless an exception is set. */
PyObject *pc_moved(i64 moved)
{
	if (PyErr_Occurred())
		return NULL;
	errno = moved < 0 ? (int)-moved : 0;
	return moved < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLongLong(moved);
}

/* A call from Python, by a function of os. */
static PyObject *move_buffers(PyObject *self, PyObject *args, PyObject *function)
{
	PyObject *buffers;
	long long offset;
	if (!PyArg_ParseTuple(args, "LO", &offset, &buffers))
		return NULL;
	if (offset < 0)
		return pc_moved(-EINVAL); /* to these functions -1 is the position of the descriptor */
	PyObject *few = PySequence_GetSlice(buffers, 0, CALL_PARTS), *moved = NULL;
	if (few)
		moved = PyObject_CallFunction(function, "iOL", ((struct local_file *)self)->descriptor.fd, few, offset);
	Py_XDECREF(few);
	return moved;
}

static PyObject *read_into(PyObject *self, PyObject *args)
{
	return move_buffers(self, args, os_preadv);
}

static PyObject *write_from(PyObject *self, PyObject *args)
{
	struct local_file *f = (struct local_file *)self;
	if (f->writable) {
		PyObject *moved = move_buffers(self, args, os_pwritev);
		if (moved)
			__atomic_store_n(&f->changed, true, __ATOMIC_RELAXED);
		return moved;
	}
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
	PyObject *os = PyImport_ImportModule("os");
	os_preadv = os ? PyObject_GetAttrString(os, "preadv") : NULL;
	os_pwritev = os_preadv ? PyObject_GetAttrString(os, "pwritev") : NULL;
	PyObject *type = os_pwritev ? PyType_FromSpecWithBases(&spec, descriptor) : NULL;
	int err = type ? PyModule_AddObjectRef(module, "LocalFile", type) : -1;
	Py_XDECREF(type);
	Py_XDECREF(os);
	return err;
}
