/*
 * loopwork.c - work of a volume whose backend is asynchronous: calls that carry bytes run as tasks of the cache's event
 * loop.
 *
 * The loop takes work as a thread does (worker.c), but only starts it: the engine makes a task of the Op, which is
 * settled with its last reference when the task ends. So a thousand requests can be in flight without a thousand
 * threads. Commits, names and everything else that may block stay with the threads of the volume.
 */
#include "types/async.h"

static PyObject *str_start_fill, *str_start_write, *str_start_units;

PyObject *pc_enter_loop(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	pc_tls_loop = true;
	Py_RETURN_NONE;
}

/* Return work that cannot be started. */
static void drop(struct pc_volume *v, struct pc_work *w)
{
	pc_credit_put(v, w->credit);
	pc_work_end(v, w);
}

static int start(PyObject *core, struct pc_inode *i, struct pc_request *r, struct pc_work *w)
{
	bool fill = r->kind == PC_REQ_FILL;
	r->credit = w->credit;
	bool gone = fill && atomic_load(&i->volume->aborted);
	struct op *op = gone ? NULL : pc_op_new(core, i, fill ? PC_OP_FILL : PC_OP_WRITE, r);
	if (!op) {
		pc_request_settle(r);
		pc_work_end(i->volume, w);
		return gone ? 0 : -1;
	}
	*loop_work_of(op) = *w;
	return pc_op_start(op, fill ? str_start_fill : r->gather ? str_start_units : str_start_write);
}

/* start_work(core, volume) -> True: something was started; False: there is nothing to do; "later": a writer is in the
 * way; None: the volume stops. */
PyObject *pc_start_work(PyObject *module, PyObject *args)
{
	PyObject *core;
	unsigned long long address;
	struct pc_work w;
	(void)module;
	if (!PyArg_ParseTuple(args, "O!K", pc_core_type, &core, &address))
		return NULL;
	struct pc_volume *v = (struct pc_volume *)(uintptr_t)address;
	if (pc_is_forked(v->cache))
		Py_RETURN_NONE;
	pc_work_next_carried(v, &w);
	if (w.kind == PC_WORK_STOP)
		Py_RETURN_NONE;
	if (w.kind == PC_WORK_NONE)
		Py_RETURN_FALSE;
	struct pc_request *r = w.request;
	int got = 1;
	if (w.kind == PC_WORK_PASS)
		got = pc_write_next(w.inode, &r);
	if (got <= 0) {
		drop(v, &w);
		if (got == -EAGAIN)
			pc_pass_again(w.inode);
	} else if (start(core, w.inode, r, &w)) {
		PyErr_WriteUnraisable(engine_of(w.inode));
	}
	pc_inode_user_put(w.inode);
	if (got == -EAGAIN)
		return PyUnicode_FromString("later");
	Py_RETURN_TRUE;
}

int pc_install_loopwork(void)
{
	str_start_fill = PyUnicode_InternFromString("start_fill");
	str_start_write = PyUnicode_InternFromString("start_write");
	str_start_units = PyUnicode_InternFromString("start_write_units");
	return str_start_fill && str_start_write && str_start_units ? 0 : -1;
}
