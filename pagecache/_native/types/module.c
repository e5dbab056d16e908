/*
 * module.c - functions of the extension that are not cffi's: the owner of a cache's memory, and calls for the engine.
 */
#include "types/types.h"

PyTypeObject *pc_core_type;

/* run(core, inode, holds, deadline_ns, method, argument): engine.<method>(op, argument) with logical locks held. */
static PyObject *run_holding(PyObject *module, PyObject *args)
{
	PyObject *core, *method, *argument;
	struct pc_inode *i;
	unsigned int holds;
	long long deadline_ns;
	if (!PyArg_ParseTuple(args, "O!O&ILOO", pc_core_type, &core, pc_to_pointer, &i, &holds, &deadline_ns, &method,
			      &argument))
		return NULL;
	/* With a deadline of 0 it waits for nothing: the token is free, or the time is up. */
	if (deadline_ns &&
	    pc_check_reentry(i, core, "this call could only wait for the backend call that it was made from"))
		return NULL;
	struct op *op = pc_op_caller(core, i);
	if (!op)
		return NULL;
	if (pc_op_acquire(op, holds, deadline_ns)) {
		pc_op_settle(op);
		Py_DECREF(op);
		return NULL;
	}
	return pc_op_run(op, method, argument) == PC_FAILED ? NULL : Py_NewRef(Py_None);
}

/* run_both(core, inode, other, deadline_ns, method, argument): engine.<method>(op, (op of the other, argument)) of
 * `inode` with both tokens held, taken in the order of the inodes. No other operation waits for a second one (contract
 * 2.20). */
static PyObject *run_both(PyObject *module, PyObject *args)
{
	PyObject *core, *method, *argument;
	unsigned long long address, other;
	long long deadline_ns;
	if (!PyArg_ParseTuple(args, "O!KKLOO", pc_core_type, &core, &address, &other, &deadline_ns, &method, &argument))
		return NULL;
	struct pc_inode *i = (struct pc_inode *)(uintptr_t)address, *j = (struct pc_inode *)(uintptr_t)other;
	const char *why = "this call could only wait for the backend call that it was made from";
	if (pc_check_reentry(i, core, why) || pc_check_reentry(j, core, why))
		return NULL;
	struct op *op = pc_op_caller(core, i), *second = pc_op_caller(core, j);
	bool i_first = i->id < j->id;
	PyObject *both = op && second ? Py_BuildValue("(OO)", second, argument) : NULL;
	int err = !both || pc_op_acquire(i_first ? op : second, PC_HOLD_TOKEN, deadline_ns) ||
		  pc_op_acquire(i_first ? second : op, PC_HOLD_TOKEN, deadline_ns);
	if (!err)
		err = pc_op_run(op, method, both) == PC_FAILED;
	else if (op)
		Py_DECREF(op); /* settled with its last reference */
	if (second)
		pc_op_settle(second); /* the caller of a call under its token may still have it */
	Py_XDECREF(both);
	Py_XDECREF((PyObject *)second);
	return err ? NULL : Py_NewRef(Py_None);
}

/* settle_fills(core, inode, pos, end): wait until no fill owns a folio of the range (under the invalidate lock). */
static PyObject *settle_fills(PyObject *module, PyObject *args)
{
	PyObject *core;
	struct pc_inode *i;
	unsigned long long pos, end;
	struct pc_need need;
	if (!PyArg_ParseTuple(args, "O!O&KK", pc_core_type, &core, pc_to_pointer, &i, &pos, &end))
		return NULL;
	enum pc_result result = PC_TRY_AGAIN;
	while (result == PC_TRY_AGAIN && pc_range_busy(i, pos, end, &need))
		result = pc_wait_fill(i, core, &need);
	return result == PC_FAILED ? NULL : Py_NewRef(Py_None);
}

/* prefetch(core, inode, pos, end, wait): read a range into the cache. Without `wait` the volume's threads do it, as far
 * as memory allows. */
static PyObject *prefetch(PyObject *module, PyObject *args)
{
	PyObject *core;
	struct pc_inode *i;
	unsigned long long pos, end;
	int wait;
	if (!PyArg_ParseTuple(args, "O!O&KKp", pc_core_type, &core, pc_to_pointer, &i, &pos, &end, &wait))
		return NULL;
	end = pc_min(end, pc_inode_size(i));
	if (!wait) {
		pc_submit_fills(i, pos, end, PC_WORK_READAHEAD, 256);
		Py_RETURN_NONE;
	}
	return pc_fill_all(core, i, pos, end, 16) == PC_FAILED ? NULL : Py_NewRef(Py_None);
}

/* end_inode(core, inode): free a destroyed inode, or one of an ended volume; for a finalizer. The interpreter lock is held
 * throughout, so the cache is not closed in between. */
static PyObject *end_inode(PyObject *module, PyObject *args)
{
	PyObject *core;
	unsigned long long address;
	if (!PyArg_ParseTuple(args, "O!K", pc_core_type, &core, &address))
		return NULL;
	struct pc_cache *c = ((struct core *)core)->cache;
	if (!pc_is_forked(c))
		pc_inode_end((struct pc_inode *)(uintptr_t)address);
	Py_RETURN_NONE;
}

static struct pc_event *event_at(char kind, unsigned long long address)
{
	switch (kind) {
	case 'i': return &((struct pc_inode *)(uintptr_t)address)->event;
	case 'v': return &((struct pc_volume *)(uintptr_t)address)->event;
	case 'c': return &((struct pc_cache *)(uintptr_t)address)->event;
	default: return &((struct pc_cache *)(uintptr_t)address)->flusher_event;
	}
}

/* wait(kind, address, seq, timeout_ns): sleep while the event ("inode", "volume", "cache", "flusher") stands at seq. */
static PyObject *wait_for_event(PyObject *module, PyObject *args)
{
	const char *kind;
	unsigned long long address;
	unsigned int seq;
	long long timeout_ns;
	if (!PyArg_ParseTuple(args, "sKIL", &kind, &address, &seq, &timeout_ns))
		return NULL;
	return timeout_ns > 0 && pc_wait_event(event_at(kind[0], address), seq, timeout_ns) ? NULL : Py_NewRef(Py_None);
}

static int add_address(PyObject *list, struct pc_volume *v)
{
	PyObject *address = PyLong_FromVoidPtr(v);
	int err = address ? PyList_Append(list, address) : -1;
	Py_XDECREF(address);
	return err;
}

/* inside(): addresses of the volumes in whose backend calls this thread is, innermost first. */
PyObject *pc_inside_volumes(PyObject *module, PyObject *unused)
{
	PyObject *list = PyList_New(0);
	int err = list ? 0 : -1;
	for (struct op *op = pc_tls_op; !err && op; op = op->outer)
		err = add_address(list, op->inode->volume);
	for (const struct pc_inside *in = pc_tls_inside; !err && in; in = in->outer)
		err = add_address(list, in->volume);
	PyObject *calls = !err && pc_inside_calls ? PyObject_CallNoArgs(pc_inside_calls) : NULL;
	if (calls)
		err = PyList_SetSlice(list, PyList_Size(list), PyList_Size(list), calls);
	else if (!err && pc_inside_calls)
		err = -1;
	Py_XDECREF(calls);
	if (err)
		Py_CLEAR(list);
	return list;
}

/* holds_here(inode, holds) -> whether an operation of this thread has one of these holds of the file, or waits for it. */
static PyObject *holds_here(PyObject *module, PyObject *args)
{
	unsigned long long address;
	unsigned int holds;
	if (!PyArg_ParseTuple(args, "KI", &address, &holds))
		return NULL;
	return PyBool_FromLong(pc_op_holds_here((const struct pc_inode *)(uintptr_t)address, holds));
}

/* wake(future): end a future of asyncio, unless it has ended. On the thread of its loop. It is in C because an interrupt that
 * strikes before the end would leave its task waiting forever. */
static PyObject *wake(PyObject *module, PyObject *future)
{
	PyObject *done = PyObject_CallMethod(future, "done", NULL);
	PyObject *result = done == Py_False ? PyObject_CallMethod(future, "set_result", "O", Py_None) : NULL;
	bool ended = result || done == Py_True;
	Py_XDECREF(done);
	Py_XDECREF(result);
	return ended ? Py_NewRef(Py_None) : NULL;
}

/* Documented in native/extension.py. */
static PyMethodDef functions[] = {
	{"work", pc_work, METH_VARARGS, NULL},
	{"sync", pc_sync_go, METH_VARARGS, NULL},
	{"run", run_holding, METH_VARARGS, NULL},
	{"run_both", run_both, METH_VARARGS, NULL},
	{"run_owning", pc_run_owning, METH_VARARGS, NULL},
	{"settle_fills", settle_fills, METH_VARARGS, NULL},
	{"end_inode", end_inode, METH_VARARGS, NULL},
	{"prefetch", prefetch, METH_VARARGS, NULL},
	{"revoke", pc_revoke, METH_VARARGS, NULL},
	{"stragglers", pc_stragglers, METH_O, NULL},
	{"waiting", pc_waiting, METH_VARARGS, NULL},
	{"waits", pc_waits, METH_O, NULL},
	{"calls", pc_calls, METH_O, NULL},
	{"uninterrupted", pc_uninterrupted, METH_O, NULL},
	{"wait", wait_for_event, METH_VARARGS, NULL},
	{"trace_into", pc_trace_into, METH_VARARGS, NULL},
	{"trace_event", pc_trace_event, METH_VARARGS, NULL},
	{"inside", pc_inside_volumes, METH_NOARGS, NULL},
	{"holds_here", holds_here, METH_VARARGS, NULL},
	{"enter_loop", pc_enter_loop, METH_NOARGS, NULL},
	{"use_inside", pc_use_inside, METH_O, NULL},
	{"wake", wake, METH_O, NULL},
	{"pin", pc_view_open, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};

/* ---------------------------------------------------------------- Core */

static PyObject *core_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	unsigned long long capacity, max_folio;
	unsigned int page_size;
	PyObject *error;
	if (!PyArg_ParseTuple(args, "KIKO", &capacity, &page_size, &max_folio, &error))
		return NULL;
	struct core *core = PyObject_New(struct core, type);
	if (!core)
		return NULL;
	core->cache = NULL;
	Py_INCREF(error);
	core->error = error;
	int err = pc_cache_create(capacity, page_size, max_folio, &core->cache);
	if (err) {
		Py_DECREF(core);
		return err == -ENOMEM ? PyErr_NoMemory()
				      : PyErr_Format(PyExc_ValueError, "capacity %llu with pages of %u bytes", capacity,
						     page_size);
	}
	return (PyObject *)core;
}

static void core_dealloc(PyObject *self)
{
	struct core *core = (struct core *)self;
	PyTypeObject *type = Py_TYPE(self);
	if (core->cache && !pc_is_forked(core->cache))
		pc_cache_destroy(core->cache);
	Py_XDECREF(core->error);
	PyObject_Free(self);
	Py_DECREF(type);
}

static PyObject *core_address(PyObject *self, void *closure)
{
	return PyLong_FromVoidPtr(((struct core *)self)->cache);
}

static PyObject *core_forked(PyObject *self, void *closure)
{
	return PyBool_FromLong(pc_is_forked(((struct core *)self)->cache));
}

/* close(): end all use of the cache; parts of its address space without exports are freed now. */
static PyObject *core_close(PyObject *self, PyObject *unused)
{
	struct core *core = (struct core *)self;
	if (!pc_is_forked(core->cache)) {
		pc_cache_close(core->cache);
		pc_core_release(self);
	}
	Py_RETURN_NONE;
}

static PyMethodDef core_methods[] = {
	{"close", core_close, METH_NOARGS, "close($self, /)\n--\n\nRelease memory that is no longer exported."},
	{NULL, NULL, 0, NULL},
};
static PyGetSetDef core_getset[] = {
	{"address", core_address, NULL, "Address of the struct pc_cache.", NULL},
	{"forked", core_forked, NULL, "True in a child process that inherited the cache.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot core_slots[] = {
	{Py_tp_new, core_new},
	{Py_tp_dealloc, core_dealloc},
	{Py_tp_methods, core_methods},
	{Py_tp_getset, core_getset},
	{Py_tp_doc,
	 "Owner of one cache's memory: close() leaves exported parts mapped until the last reference is gone."},
	{0, NULL},
};
static PyType_Spec core_spec = {"pagecache._native._core.Core", sizeof(struct core), 0, Py_TPFLAGS_DEFAULT, core_slots};

int pc_install_core(PyObject *module)
{
	pc_core_type = (PyTypeObject *)PyType_FromSpec(&core_spec);
	return !pc_core_type || PyModule_AddObjectRef(module, "Core", (PyObject *)pc_core_type) ||
			       PyModule_AddFunctions(module, functions)
		       ? -1
		       : 0;
}
