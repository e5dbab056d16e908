/*
 * op.c - operations: make, run and start them, and their methods for the engine. They are the one mechanism that
 * releases everything.
 *
 * A C entry that needs resources of CORE (folio locks of a fill, the inode lock, the token, a request for a backend)
 * makes an Op, records them there, and calls the engine. When the engine returns, or raises, the entry settles the Op:
 * KeyboardInterrupt can strike between any two bytecodes, but not between two C statements. The engine sees the Op as
 * an object with begin() and complete() (op_calls.c), which raise once it is settled. Its fields are in op.h, its states
 * in op_state.c.
 *
 *   caller's thread   pread ─► Op(FILL) ─► backend.read_into, answer ─► settle ─► copy
 *   volume's thread   work  ─► Op(WRITE) ─► engine.write(op): begin → backend.write_from → complete, finish ─► settle
 *
 * Ops that run in a thread form a chain (pc_tls_op): a backend that reads missing bytes of its own volume could only
 * wait for itself, and gets DeadlockError (contract 2.25).
 */
#include "types/types.h"

PyTypeObject *pc_op_type;
_Thread_local struct op *pc_tls_op;
_Thread_local const struct pc_inside *pc_tls_inside;
#define DEFINE(name) PyObject *pc_str_##name;
PC_STRINGS(DEFINE)

struct op *pc_op_new(PyObject *core, struct pc_inode *i, int kind, struct pc_request *r)
{
	struct op *op = PyObject_New(struct op, pc_op_type);
	if (!op)
		return NULL;
	memset((char *)op + sizeof(PyObject), 0, sizeof(*op) - sizeof(PyObject));
	Py_INCREF(core);
	op->core = core;
	op->inode = i;
	op->kind = (u8)kind;
	if (op_transfers(op))
		transfer_of(op)->request = r;
	if (kind == PC_OP_CALLER)
		pc_list_init(&caller_of(op)->waiter.link);
	op->generation = atomic_load(&i->volume->generation);
	op->inode_id = i->id;
	pc_list_add_tail(&pc_operations, &op->listed);
	atomic_fetch_add(&i->users, 1);
	return op;
}

/* The operation of a caller: a verb, or a method of the engine. */
struct op *pc_op_caller(PyObject *core, struct pc_inode *i)
{
	struct op *op = pc_op_new(core, i, PC_OP_CALLER, NULL);
	if (op)
		pc_op_claims(op);
	return op;
}

/* The call returned: the token belongs to the operation again, or is released if the operation is settled. After a
 * fence the operation has lost it. */
static void take_back(struct op *op)
{
	struct pc_inode *i = op->inode;
	pc_inode_leaf_lock(i);
	bool same = i->id == op->inode_id && caller_of(op)->turn == i->token_turn;
	caller_of(op)->lent = 0;
	if (same)
		i->token_lent = 0;
	if (same && op_is_settled(op))
		pc_token_release_locked(i);
	pc_inode_leaf_unlock(i);
}

static void op_dealloc(PyObject *self)
{
	struct op *op = (struct op *)self;
	PyTypeObject *type = Py_TYPE(self);
	pc_op_settle(op);
	if (op_transfers(op)) { /* NULL, unless it was settled in a forked child */
		Py_XDECREF(transfer_of(op)->views);
		Py_XDECREF(transfer_of(op)->buf);
	}
	if (op->kind == PC_OP_UNCACHED)
		Py_XDECREF(uncached_of(op)->memory);
	Py_XDECREF(op->answer);
	Py_XDECREF(op->core);
	PyObject_Free(self);
	Py_DECREF(type);
}

/* Run a fill, or call engine.<method>(op[, argument]), with the operation on this thread's chain; then settle it.
 * Steals the reference. Return: PC_DONE; PC_FAILED; PC_TRY_AGAIN: another thread settled it; PC_UNCACHED: a fill whose
 * bytes cannot stay, or an uncached read that a truncate interrupted. */
enum pc_result pc_op_run(struct op *op, PyObject *method, PyObject *argument)
{
	PyObject *engine = engine_of(op->inode), *result = NULL;
	if (engine) {
		Py_INCREF(engine);
		pc_op_claims(op);
		op->outer = pc_tls_op;
		pc_tls_op = op;
		if (method == pc_str_fill)
			result = pc_op_fill(op, engine);
		else if (method == pc_str_write)
			result = pc_op_write(op, engine);
		else if (op->kind == PC_OP_COMMIT)
			result = pc_op_commit(op, engine, method);
		else
			result = PyObject_CallMethodObjArgs(engine, method, (PyObject *)op, argument, NULL);
		pc_tls_op = op->outer;
		op->outer = NULL;
	} else {
		PyErr_SetString(PyExc_RuntimeError, "the file has no engine");
	}
	enum pc_result ran = result ? PC_DONE : PC_FAILED;
	if (!result && request_of(op))
		pc_report_failure(request_of(op)->report);
	if (op->state == OP_REVOKED && (result || PyErr_ExceptionMatches(PyExc_Exception))) {
		PyErr_Clear();
		ran = PC_TRY_AGAIN;
	}
	if (ran == PC_DONE && op_transfers(op) && transfer_of(op)->stale) {
		ran = PC_UNCACHED;
		if (request_of(op))
			pc_report_stale(request_of(op)->report);
	}
	pc_op_settle(op);
	Py_DECREF(op);
	Py_XDECREF(engine);
	Py_XDECREF(result);
	return ran;
}

/* End a write request: acknowledged bytes are kept, the others are dirty again. */
void pc_op_end_write(struct op *op, bool ok, bool parked)
{
	struct pc_request *r = request_of(op);
	pc_op_end_call(op);
	transfer_of(op)->request = NULL;
	pc_op_move(op, OP_ENDED);
	pc_write_done(r, ok, parked);
}

/* finish(ok, parked) ends a write request: acknowledged bytes are kept, the others are dirty again. finish(ok, how)
 * ends a commit. */
static PyObject *op_finish(PyObject *self, PyObject *args)
{
	struct op *op = (struct op *)self;
	int ok, flag;
	if (!PyArg_ParseTuple(args, "pi", &ok, &flag) || pc_op_check(op))
		return NULL;
	pc_op_end_call(op);
	if (op->kind == PC_OP_COMMIT) {
		pc_list_del(&op->listed);
		pc_op_move(op, OP_SETTLED);
		ok = pc_commit_end(op->inode, ok, flag);
		pc_inode_user_put(op->inode);
	} else if (op->state == OP_ENDED) {
		return PyErr_Format(PyExc_ValueError, "the operation is settled: its request has ended");
	} else if (op->kind == PC_OP_WRITE) {
		pc_op_end_write(op, ok, flag != 0);
	} else {
		return PyErr_Format(PyExc_ValueError, "only write-back and commits are finished");
	}
	return PyBool_FromLong(ok);
}

/* call(function) -> its result: a backend call under this operation's token, on another thread. If the operation ends
 * first the call keeps the token until it returns. */
static PyObject *op_call(PyObject *self, PyObject *function)
{
	struct op *op = (struct op *)self;
	if (pc_op_check(op))
		return NULL;
	if (op->kind != PC_OP_CALLER)
		return PyErr_Format(PyExc_ValueError, "only the operation of a caller lends its token");
	if (pc_op_stopped(op)) {
		pc_raise(op->core, engine_of(op->inode), "shutdown", "the volume was aborted");
		return NULL;
	}
	struct op frame = {.inode = op->inode, .outer = pc_tls_op}; /* this thread is in a call of the volume */
	pc_inode_leaf_lock(op->inode);
	caller_of(op)->lent = op->inode->token_lent = 1;
	caller_of(op)->turn = op->inode->token_turn;
	pc_inode_leaf_unlock(op->inode);
	pc_tls_op = &frame;
	PyObject *result = PyObject_CallNoArgs(function);
	pc_tls_op = frame.outer;
	take_back(op);
	return result;
}

static struct op *first_to_revoke(const struct pc_volume *v, bool fenced)
{
	for (struct pc_list *l = pc_operations.next; l != &pc_operations; l = l->next) {
		struct op *op = PC_ENTRY(l, struct op, listed);
		bool reads = op->kind == PC_OP_FILL || op->kind == PC_OP_UNCACHED;
		if (op->inode->volume == v && pc_op_stopped(op) && (reads || (fenced && op->kind != PC_OP_CALLER)))
			return op;
	}
	return NULL;
}

/* revoke(volume, fenced): end operations of an aborted volume now and settle their holds; running calls keep their
 * buffers. Fills always; writes and commits only if those calls can no longer land. */
PyObject *pc_revoke(PyObject *module, PyObject *args)
{
	unsigned long long address;
	int fenced;
	struct op *op;
	if (!PyArg_ParseTuple(args, "Kp", &address, &fenced))
		return NULL;
	while ((op = first_to_revoke((struct pc_volume *)(uintptr_t)address, fenced))) {
		Py_INCREF((PyObject *)op);
		pc_op_end(op, OP_REVOKED);
		Py_DECREF((PyObject *)op);
	}
	if (fenced)
		pc_op_direct_fence((struct pc_volume *)(uintptr_t)address);
	Py_RETURN_NONE;
}

/* stragglers(volume) -> number of callers in an operation of a volume that was aborted since: their waits have ended,
 * but they have not noticed, and would publish state from before the abort. Callers whose own backend call runs are not
 * counted. */
PyObject *pc_stragglers(PyObject *module, PyObject *address)
{
	struct pc_volume *v = PyLong_AsVoidPtr(address);
	long n = 0;
	if (!v && PyErr_Occurred())
		return NULL;
	for (struct pc_list *l = pc_operations.next; l != &pc_operations; l = l->next) {
		struct op *op = PC_ENTRY(l, struct op, listed);
		n += op->inode->volume == v && op->kind == PC_OP_CALLER && op->state == OP_OPEN && pc_op_stopped(op);
	}
	return PyLong_FromLong(n);
}

/* The range of the whole operation, of any kind; empty if it has none, or its request has ended. */
void pc_op_extent(const struct op *op, u64 *start, u64 *end)
{
	const struct pc_request *r = request_of(op);
	*start = *end = 0;
	if (r) {
		*start = r->start;
		*end = r->end;
	} else if (op->kind == PC_OP_UNCACHED) {
		*start = uncached_of(op)->pos;
		*end = *start + uncached_of(op)->len;
	} else if (op->kind == PC_OP_CALLER && caller_of(op)->pos <= caller_of(op)->end) {
		*start = caller_of(op)->pos; /* otherwise a direct write that has sent nothing yet */
		*end = caller_of(op)->end;
	}
}

/* The offset of the running or next call, or its length: the getter of the second has a closure. */
static PyObject *op_position(PyObject *self, void *length)
{
	const struct op *op = (struct op *)self;
	const struct pc_request *r = request_of(op);
	u64 start, end;
	pc_op_extent(op, &start, &end);
	u64 pos = r ? pc_request_pos(r) : start, len = r ? pc_request_len(r) : end - start;
	return PyLong_FromUnsignedLongLong(length ? len : pos);
}

static PyObject *op_extent(PyObject *self, void *closure)
{
	struct op *op = (struct op *)self;
	u64 start, end;
	pc_op_extent(op, &start, &end);
	return Py_BuildValue("KK", (unsigned long long)start, (unsigned long long)end);
}

/* Define the getter of an attribute that is true or false. */
#define OP_FLAG(name, expression)                                                                                      \
	static PyObject *op_##name(PyObject *self, void *closure)                                                      \
	{                                                                                                              \
		struct op *op = (struct op *)self;                                                                     \
		return PyBool_FromLong(expression);                                                                    \
	}

OP_FLAG(ahead, op->kind == PC_OP_FILL && request_of(op) && request_of(op)->cls == PC_WORK_READAHEAD)
OP_FLAG(staged, op_reads_staged(op))
OP_FLAG(stage, request_of(op) && request_of(op)->stage)
OP_FLAG(settled, op_is_settled(op) || op->state == OP_LEFT)
OP_FLAG(left, op->state == OP_LEFT)
OP_FLAG(stopped, pc_op_stopped(op))
OP_FLAG(late, op_is_settled(op) || !pc_commit_counts(op->inode))
OP_FLAG(commit_failed, op->commit_failed)

static PyObject *op_answer(PyObject *self, void *closure)
{
	PyObject *answer = ((struct op *)self)->answer;
	return Py_NewRef(answer ? answer : Py_None);
}

static PyObject *op_anew(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	return PyBool_FromLong(op->kind == PC_OP_FILL && request_of(op) && pc_fill_anew(request_of(op)));
}

/* give_back(): the fill, or the read past the cache, ends without bytes: its caller checks again. */
static PyObject *op_give_back(PyObject *self, PyObject *unused)
{
	struct op *op = (struct op *)self;
	if (op->kind != PC_OP_FILL && op->kind != PC_OP_UNCACHED)
		return PyErr_Format(PyExc_ValueError, "only a read gives its folios back");
	transfer_of(op)->stale = 1;
	if (request_of(op))
		pc_report_stale(request_of(op)->report);
	Py_RETURN_NONE;
}

/* Documented in native/extension.py. */
static PyMethodDef op_methods[] = {
	{"begin", pc_op_begin, METH_NOARGS, NULL},
	{"complete", pc_op_complete, METH_O, NULL},
	{"ended", pc_op_ended, METH_NOARGS, NULL},
	{"anew", op_anew, METH_NOARGS, NULL},
	{"give_back", op_give_back, METH_NOARGS, NULL},
	{"finish", op_finish, METH_VARARGS, NULL},
	{"acquire", pc_op_take, METH_O, NULL},
	{"release_lock", pc_op_release_lock, METH_NOARGS, NULL},
	{"direct_share", pc_op_direct_share, METH_VARARGS, NULL},
	{"direct_begin", pc_op_direct_begin, METH_NOARGS, NULL},
	{"direct_end", pc_op_direct_end, METH_NOARGS, NULL},
	{"carry", pc_op_carry, METH_O, NULL},
	{"send", pc_op_send, METH_VARARGS, NULL},
	{"read", pc_op_read, METH_VARARGS, NULL},
	{"send_commit", pc_op_send_commit, METH_O, NULL},
	{"call", op_call, METH_O, NULL},
	{NULL, NULL, 0, NULL},
};
static PyGetSetDef op_getset[] = {
	{"offset", op_position, NULL, NULL, NULL},
	{"length", op_position, NULL, NULL, &pc_op_type},
	{"extent", op_extent, NULL, NULL, NULL},
	{"ahead", op_ahead, NULL, NULL, NULL},
	{"staged", op_staged, NULL, NULL, NULL},
	{"stage", op_stage, NULL, NULL, NULL},
	{"settled", op_settled, NULL, NULL, NULL},
	{"commit_failed", op_commit_failed, NULL, NULL, NULL},
	{"left", op_left, NULL, NULL, NULL},
	{"answer", op_answer, NULL, NULL, NULL},
	{"stopped", op_stopped, NULL, NULL, NULL},
	{"late", op_late, NULL, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot op_slots[] = {
	{Py_tp_dealloc, op_dealloc},
	{Py_tp_methods, op_methods},
	{Py_tp_getset, op_getset},
	{Py_tp_doc, "Owner of what one operation holds in the core."},
	{0, NULL},
};
static PyType_Spec op_spec = {"pagecache._native._core.Op", sizeof(struct op), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, op_slots};

int pc_install_op(PyObject *module)
{
#define INTERN(name) &&(pc_str_##name = PyUnicode_InternFromString(#name))
	bool interned = true PC_STRINGS(INTERN);
	pc_op_type = (PyTypeObject *)PyType_FromSpec(&op_spec);
	if (!pc_op_type || !interned)
		return -1;
	return PyModule_AddObjectRef(module, "Op", (PyObject *)pc_op_type);
}
