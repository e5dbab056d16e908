/*
 * waiting.c - the contents of a report of waits: the records of waiters (waits.c), and the operations that run or hold
 * a resource that they may wait for.
 *
 *   waits(core)   a record each: thread, purpose and begin
 *   calls(core)   operations with a backend call, a request, or a lock: their thread, range and begin
 *   waiting(...)  a wait of the engine: its record lasts while a function runs, however that ends
 *
 * Nothing is kept only for a report: operations are on one list from creation to end, and note their thread, and the begin of
 * their last backend call (spans.c).
 *
 * Context: GIL. It guards the list. Records whose `reason` is an object begin and end with it held, so the
 * objects of a live record may be referenced. Making objects may run the collector, and with it any code. Therefore
 * both reports first copy the data, and then make objects of the copy.
 */
#include "types/types.h"

#include <stdlib.h>

struct pc_list pc_operations = {&pc_operations, &pc_operations};

/* The calling thread now owns the operation: it runs it, or holds its resources. A commit is a call from now on. */
void pc_op_claims(struct op *op)
{
	op->thread = pc_thread_id();
	op->helper = pc_tls_inside && pc_tls_inside->helper;
	if (op->kind == PC_OP_COMMIT)
		op->since_ns = pc_clock_ns();
}

/* waiting(core, volume, inode, kind, pos, end, reason, call, inside) -> the result of `call`. `inside`: the call is one of the volume's backend. */
PyObject *pc_waiting(PyObject *module, PyObject *args)
{
	PyObject *core, *reason, *call;
	unsigned long long volume, inode, pos, end;
	unsigned int kind;
	int inside;
	if (!PyArg_ParseTuple(args, "O!KKIKKOOp", pc_core_type, &core, &volume, &inode, &kind, &pos, &end, &reason,
			      &call, &inside))
		return NULL;
	struct pc_cache *c = ((struct core *)core)->cache;
	struct pc_sleep sleep;
	struct pc_wait w = {.kind = kind,
			    .since_ns = (u64)pc_clock_ns(),
			    .thread = pc_thread_id(),
			    .volume = volume,
			    .inode = inode,
			    .pos = pos,
			    .end = end,
			    .reason = (uintptr_t)reason};
	struct pc_volume *v = (struct pc_volume *)(uintptr_t)volume;
	struct pc_inside in = {.volume = v, .outer = pc_tls_inside};
	PyObject *result = NULL;
	u32 era = 0;
	if (inside) {
		pc_tls_inside = &in;
		era = pc_call_begins(v);
	}
	if (inside && atomic_load(&v->closing)) {
		pc_raise(core, NULL, "shutdown", "the volume is detached");
	} else {
		pc_sleep_begin(&sleep, c, &w);
		result = PyObject_CallNoArgs(call);
		pc_sleep_end(&sleep, result == NULL);
	}
	if (inside)
		pc_call_ends(v, era);
	pc_tls_inside = in.outer;
	return result;
}

/* ---------------------------------------------------------------- waits */

/* Each has its own reference to its reason, if it has one. Return: number of waits. Must not make an object. */
static size_t copy_waits(struct pc_cache *c, struct pc_wait *out, size_t n)
{
	size_t found = 0;
	u32 bound = pc_waits_bound(c);
	for (u32 id = 1; id < bound && found < n; id++) {
		if (!pc_wait_read(c, id, &out[found]))
			continue;
		Py_XINCREF((PyObject *)(uintptr_t)out[found].reason);
		found++;
	}
	return found;
}

static PyObject *wait_item(const struct pc_wait *p)
{
	return Py_BuildValue("KKKKKKKKO", (unsigned long long)p->number, (unsigned long long)p->kind,
			     (unsigned long long)p->thread, (unsigned long long)p->since_ns,
			     (unsigned long long)p->volume, (unsigned long long)p->inode, (unsigned long long)p->pos,
			     (unsigned long long)p->end, p->reason ? (PyObject *)(uintptr_t)p->reason : Py_None);
}

static struct pc_cache *cache_of(PyObject *core)
{
	if (Py_IS_TYPE(core, pc_core_type))
		return ((struct core *)core)->cache;
	PyErr_SetString(PyExc_TypeError, "a Core is required");
	return NULL;
}

static int append_new(PyObject *list, PyObject *item)
{
	int err = item ? PyList_Append(list, item) : -1;
	Py_XDECREF(item);
	return err;
}

/* waits(core) -> [(number, kind, thread, since_ns, volume, inode, pos, end, reason)] */
PyObject *pc_waits(PyObject *module, PyObject *core)
{
	struct pc_cache *c = cache_of(core);
	if (!c)
		return NULL;
	size_t room = pc_waits_bound(c) + 1u;
	struct pc_wait *found = malloc(room * sizeof(*found));
	if (!found)
		return PyErr_NoMemory();
	size_t n = copy_waits(c, found, room);
	PyObject *list = PyList_New(0);
	for (size_t k = 0; k < n; k++) {
		if (list && append_new(list, wait_item(&found[k])))
			Py_CLEAR(list);
		Py_XDECREF((PyObject *)(uintptr_t)found[k].reason);
	}
	free(found);
	return list;
}

/* ---------------------------------------------------------------- operations */

struct call {
	u64 thread, volume, inode, pos, end;
	i64 since_ns;
	u8 kind, in_call, helper, staged;
};

static void copy_call(const struct op *op, struct call *to)
{
	const struct pc_request *r = request_of(op);
	*to = (struct call){.thread = op->thread,
			    .volume = (uintptr_t)op->inode->volume,
			    .inode = op->inode_id,
			    .since_ns = op->since_ns,
			    .kind = op->kind,
			    .in_call = op->state == OP_IN_CALL,
			    .helper = op->helper,
			    .staged = op_reads_staged(op) || (r && r->stage)};
	pc_op_extent(op, &to->pos, &to->end);
	if (r && op->state == OP_IN_CALL) {
		to->pos = pc_request_pos(r);
		to->end = to->pos + pc_request_len(r);
	}
}

/* Whether the operation runs, or holds a resource that others may wait for. */
static bool is_of_interest(const struct op *op, const struct pc_cache *c)
{
	bool works = op->kind == PC_OP_COMMIT || request_of(op) || op->state == OP_IN_CALL;
	return op->inode->cache == c && ((works && op->since_ns) || holds_of(op));
}

/* Return: number of operations, of which the first n are in `out`. Must not make an object. */
static size_t copy_calls(const struct pc_cache *c, struct call *out, size_t n)
{
	size_t found = 0;
	for (struct pc_list *l = pc_operations.next; l != &pc_operations; l = l->next) {
		const struct op *op = PC_ENTRY(l, struct op, listed);
		if (!is_of_interest(op, c))
			continue;
		if (found < n)
			copy_call(op, &out[found]);
		found++;
	}
	return found;
}

static PyObject *call_item(const struct call *p)
{
	return Py_BuildValue("iKLKKKKiii", p->kind, (unsigned long long)p->thread, (long long)p->since_ns,
			     (unsigned long long)p->volume, (unsigned long long)p->inode, (unsigned long long)p->pos,
			     (unsigned long long)p->end, p->in_call, p->helper, p->staged);
}

/* calls(core) -> [(kind, thread, since_ns, volume, inode, pos, end, in call, on a thread of the volume, staged)]; [pos, end) of
 * the running call. */
PyObject *pc_calls(PyObject *module, PyObject *core)
{
	const struct pc_cache *c = cache_of(core);
	if (!c)
		return NULL;
	size_t n = pc_is_forked(c) ? 0 : copy_calls(c, NULL, 0);
	struct call *found = malloc((n + 1) * sizeof(*found));
	if (!found)
		return PyErr_NoMemory();
	copy_calls(c, found, n);
	PyObject *list = PyList_New(0);
	for (size_t k = 0; k < n && list; k++)
		if (append_new(list, call_item(&found[k])))
			Py_CLEAR(list);
	free(found);
	return list;
}
