/*
 * async_handle.c - the hot verbs of an AsyncCachedFile: each call only makes an awaitable (awaitable.c).
 *
 * The type holds the CachedFile that does the I/O; AsyncCachedFile (aio.py) subclasses it and adds the other methods.
 */
#include "types/async.h"
#include "types/handle.h"

static PyObject *async_pread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	u64 size, pos;
	if (check_nargs("pread", nargs, 2) || to_u64(args[0], "size", &size) || to_u64(args[1], "offset", &pos))
		return NULL;
	return pc_awaitable_new(self, PREAD, NULL, size, pos);
}

static PyObject *async_pread_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	u64 pos;
	if (check_nargs("pread_into", nargs, 2) || to_offset(args, "pread_into(buffer, offset)", &pos))
		return NULL;
	return pc_awaitable_new(self, PREAD_INTO, args[0], 0, pos);
}

static PyObject *async_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
	u64 pos;
	if (check_nargs("pwrite", nargs, 2) || to_offset(args, "pwrite(data, offset)", &pos))
		return NULL;
	return pc_awaitable_new(self, PWRITE, args[0], 0, pos);
}

static PyObject *async_append(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"data", NULL};
	PyObject *data;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:append", names, &data))
		return NULL;
	return pc_awaitable_new(self, APPEND, data, 0, 0);
}

/* _bind(file): the handle that does the I/O. */
static PyObject *async_bind(PyObject *self, PyObject *file)
{
	struct async_handle *h = (struct async_handle *)self;
	if (!PyObject_TypeCheck(file, pc_handle_type)) {
		PyErr_SetString(PyExc_TypeError, "a CachedFile is required");
		return NULL;
	}
	if (!h->file)
		h->file = Py_NewRef(file);
	Py_RETURN_NONE;
}

static int async_traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(((struct async_handle *)self)->file);
	return 0;
}

/* The handle must stay while its verbs can be called: nothing is cleared before deallocation. */
static void async_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	Py_CLEAR(((struct async_handle *)self)->file);
	PyObject_GC_Del(self);
	Py_DECREF(type);
}

static PyMethodDef async_methods[] = {
	{"pread", (PyCFunction)(void (*)(void))async_pread, METH_FASTCALL,
	 "pread($self, size, offset, /)\n--\n\nRead size bytes at offset; fewer only at the end of the file."},
	{"pread_into", (PyCFunction)(void (*)(void))async_pread_into, METH_FASTCALL,
	 "pread_into($self, buffer, offset, /)\n--\n\nRead into a writable buffer; returns the number of bytes."},
	{"pwrite", (PyCFunction)(void (*)(void))async_pwrite, METH_FASTCALL,
	 "pwrite($self, data, offset, /)\n--\n\nWrite all of data at offset; returns its length."},
	{"append", (PyCFunction)(void (*)(void))async_append, METH_VARARGS | METH_KEYWORDS,
	 "append($self, data)\n--\n\nWrite atomically at the end; returns the offset."},
	{"_bind", async_bind, METH_O, NULL},
	{NULL, NULL, 0, NULL},
};
static PyType_Slot async_slots[] = {
	{Py_tp_dealloc, async_dealloc},
	{Py_tp_traverse, async_traverse},
	{Py_tp_methods, async_methods},
	{Py_tp_doc, "The hot verbs of an open cached file, to be awaited."},
	{0, NULL},
};
static PyType_Spec async_spec = {"pagecache._native._core.AsyncHandle", sizeof(struct async_handle), 0,
				 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, async_slots};

int pc_install_async_handle(PyObject *module)
{
	PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(&async_spec);
	return type ? PyModule_AddObjectRef(module, "AsyncHandle", (PyObject *)type) : -1;
}
