/*
 * exporters.c - cache memory exported to Python code, counted until its last slice is gone.
 *
 * A memoryview made from a bare pointer can be released while a slice, a cast or an array still points into the memory
 * (tried). So buffers come from exporter types: Buf for the calls of a backend, Pin for the segments of a view. Both
 * count exports; memory is reused only after the last one. A Buf whose buffers outlive their call gets the frames and
 * the plain memory that it needs: pc_buf_keep.
 *
 * Locks: `releasebuffer` may run in any thread at any moment, also inside calls of this module: leaf locks only, no
 * Python code.
 */
#include "types/types.h"

#include <stdlib.h>

PyTypeObject *pc_buf_type, *pc_pin_type;

struct buf {
	PyObject_HEAD PyObject *core;
	u8 *memory; /* set only while pc_buf_view makes a view: no other code can export */
	Py_ssize_t len;
	_Atomic Py_ssize_t exports;
	u32 *kept; /* frames */
	void *adopted; /* memory freed with the last export */
	u32 nr_kept;
	u8 readonly;
};

static void give_back(struct buf *b)
{
	struct pc_cache *c = ((struct core *)b->core)->cache;
	u32 *kept = b->kept;
	u32 n = b->nr_kept;
	b->kept = NULL;
	b->nr_kept = 0;
	if (!pc_is_forked(c))
		for (u32 k = 0; k < n; k++)
			pc_shadow_put(c, kept[k]);
	free(kept);
	pc_scratch_free(b->adopted);
	b->adopted = NULL;
	if (!pc_is_forked(c))
		pc_core_release(b->core);
}

static int buf_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
	struct buf *b = (struct buf *)self;
	if (!b->memory) {
		view->obj = NULL;
		PyErr_SetString(PyExc_BufferError, "this buffer belongs to a backend call that is over");
		return -1;
	}
	if (PyBuffer_FillInfo(view, self, b->memory, b->len, b->readonly, flags))
		return -1;
	atomic_fetch_add(&b->exports, 1);
	return 0;
}

/* A call of C uses the memory, from now on until pc_buf_release. */
void pc_buf_export(PyObject *buf)
{
	atomic_fetch_add(&((struct buf *)buf)->exports, 1);
}

void pc_buf_release(PyObject *buf)
{
	struct buf *b = (struct buf *)buf;
	if (atomic_fetch_sub(&b->exports, 1) == 1 && b->kept)
		give_back(b);
}

static void buf_releasebuffer(PyObject *self, Py_buffer *view)
{
	pc_buf_release(self);
}

static void buf_dealloc(PyObject *self)
{
	struct buf *b = (struct buf *)self;
	PyTypeObject *type = Py_TYPE(self);
	if (b->kept)
		give_back(b);
	Py_XDECREF(b->core);
	PyObject_Free(self);
	Py_DECREF(type);
}

PyObject *pc_buf_new(PyObject *core, bool readonly)
{
	struct buf *b = PyObject_New(struct buf, pc_buf_type);
	if (!b)
		return NULL;
	memset((char *)b + sizeof(PyObject), 0, sizeof(*b) - sizeof(PyObject));
	b->core = Py_NewRef(core);
	b->readonly = readonly;
	return (PyObject *)b;
}

PyObject *pc_buf_view(PyObject *buf, u8 *memory, u64 len)
{
	struct buf *b = (struct buf *)buf;
	b->memory = memory;
	b->len = (Py_ssize_t)len;
	PyObject *view = PyMemoryView_FromObject(buf);
	b->memory = NULL;
	return view;
}

bool pc_buf_exported(PyObject *buf)
{
	return atomic_load(&((struct buf *)buf)->exports) > 0;
}

/* The call has ended with exports left: the last release returns the frames, and frees the array and plain memory. */
void pc_buf_keep(PyObject *buf, u32 *frames, u32 n, void *memory)
{
	struct buf *b = (struct buf *)buf;
	b->adopted = memory;
	b->kept = frames;
	b->nr_kept = n;
	if (!pc_buf_exported(buf))
		give_back(b);
}

/* ---------------------------------------------------------------- pins of views */

struct pin {
	PyObject_HEAD PyObject *core;
	struct pc_pin held;
};

static int pin_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
	struct pc_pin *held = &((struct pin *)self)->held;
	return PyBuffer_FillInfo(view, self, held->memory, (Py_ssize_t)held->len, !held->writable, flags);
}

/* Exports hold references to the exporter: when it dies, the last slice is gone. */
static void pin_dealloc(PyObject *self)
{
	struct pin *p = (struct pin *)self;
	PyTypeObject *type = Py_TYPE(self);
	struct pc_cache *c = ((struct core *)p->core)->cache;
	if (!pc_is_forked(c)) {
		pc_unpin(c, &p->held);
		pc_core_release(p->core);
	}
	Py_DECREF(p->core);
	PyObject_Free(self);
	Py_DECREF(type);
}

static PyObject *pin_detached(PyObject *self, void *closure)
{
	struct pin *p = (struct pin *)self;
	return PyBool_FromLong(pc_pin_detached(((struct core *)p->core)->cache, &p->held));
}

static PyObject *pin_new(PyObject *core, const struct pc_pin *held)
{
	struct pin *p = PyObject_New(struct pin, pc_pin_type);
	if (!p)
		return NULL;
	Py_INCREF(core);
	p->core = core;
	p->held = *held;
	return (PyObject *)p;
}

/* Handle a failure of pc_pin. Return: PC_TRY_AGAIN, PC_FAILED. */
static enum pc_result pin_later(PyObject *core, struct pc_inode *i, int err, const struct pc_need *need)
{
	if (err == -ENOMEM) {
		PyErr_NoMemory();
		return PC_FAILED;
	}
	if (err == -EMLINK)
		return pc_raise(core, engine_of(i), "pins", "60000 views of one folio are open: release some first");
	if (err == -ENOBUFS)
		return pc_raise(core, engine_of(i), "pins",
				"a quarter of the cache is held by writable views: release some first");
	enum pc_result result = pc_provide(core, i, need);
	if (result != PC_UNCACHED)
		return result;
	return pc_engine_room(i, 0, 0, NULL, false) == PC_FAILED ? PC_FAILED : PC_TRY_AGAIN;
}

/* Collect pins of [start, start + bytes), ascending. Return: a list, NULL. */
static PyObject *pin_range(PyObject *core, struct pc_inode *i, u64 start, u64 bytes, bool writable)
{
	u64 pos = start, len = bytes;
	PyObject *list = PyList_New(0);
	while (list && len) {
		struct pc_pin held;
		struct pc_need need;
		int err = pc_pin(i, pos, len, writable, &held, &need);
		if (err == -ENXIO) {
			PyErr_Format(PyExc_ValueError, "view [%llu, %llu) is not inside the file of %llu bytes",
				     (unsigned long long)start, (unsigned long long)(start + bytes),
				     (unsigned long long)pc_inode_size(i));
			Py_CLEAR(list);
		} else if (err) {
			if (pin_later(core, i, err, &need) == PC_FAILED)
				Py_CLEAR(list);
		}
		if (err)
			continue;
		PyObject *pin = pin_new(core, &held);
		if (!pin)
			pc_unpin(i->cache, &held);
		if (!pin || PyList_Append(list, pin))
			Py_CLEAR(list);
		Py_XDECREF(pin);
		pos += held.len;
		len -= held.len;
	}
	return list;
}

/* Pin with the inode lock, which blocks writers and truncates. */
static PyObject *pin_to_store(PyObject *core, struct pc_inode *i, u64 pos, u64 len)
{
	PyObject *list = NULL;
	u64 size = pc_inode_size(i), end = pos < size ? pos + pc_min(len, size - pos) : pos;
	/* Missing bytes are filled before the lock is taken, as far as possible, so that writers need not wait for it. */
	if (pc_check_reentry(i, core, "a writable view from inside a backend call of the same volume") ||
	    pc_fill_all(core, i, pos, end, 1) == PC_FAILED)
		return NULL;
	struct op *op = pc_op_caller(core, i);
	if (!op)
		return NULL;
	if (pc_op_acquire(op, PC_HOLD_LOCK_X, -1) == 0)
		list = pin_range(core, i, pos, len, true);
	pc_op_settle(op);
	Py_DECREF(op);
	return list;
}

/* pin(core, inode, pos, len, writable) -> list of Pin, ascending, together the range; fills missing bytes. */
PyObject *pc_view_open(PyObject *module, PyObject *args)
{
	PyObject *core;
	struct pc_inode *i;
	unsigned long long pos, len;
	int writable;
	if (!PyArg_ParseTuple(args, "O!O&KKp", pc_core_type, &core, pc_to_pointer, &i, &pos, &len, &writable))
		return NULL;
	return writable ? pin_to_store(core, i, pos, len) : pin_range(core, i, pos, len, false);
}

static PyType_Slot buf_slots[] = {
	{Py_tp_dealloc, buf_dealloc},
	{Py_bf_getbuffer, buf_getbuffer},
	{Py_bf_releasebuffer, buf_releasebuffer},
	{Py_tp_doc, "Exporter of cache memory for one backend call."},
	{0, NULL},
};
static PyType_Spec buf_spec = {"pagecache._native._core.Buf", sizeof(struct buf), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, buf_slots};

static PyGetSetDef pin_getset[] = {
	{"detached", pin_detached, NULL, "True when the memory is no longer the file's.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot pin_slots[] = {
	{Py_tp_dealloc, pin_dealloc},
	{Py_bf_getbuffer, pin_getbuffer},
	{Py_tp_getset, pin_getset},
	{Py_tp_doc, "Exporter of one pinned folio's memory."},
	{0, NULL},
};
static PyType_Spec pin_spec = {"pagecache._native._core.Pin", sizeof(struct pin), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, pin_slots};

int pc_install_exporters(PyObject *module)
{
	pc_buf_type = (PyTypeObject *)PyType_FromSpec(&buf_spec);
	pc_pin_type = (PyTypeObject *)PyType_FromSpec(&pin_spec);
	if (!pc_buf_type || !pc_pin_type)
		return -1;
	return PyModule_AddObjectRef(module, "Buf", (PyObject *)pc_buf_type) ||
	       PyModule_AddObjectRef(module, "Pin", (PyObject *)pc_pin_type);
}
