/*
 * blocking.c - where callers sleep: for folios, truncates, credits, and logical locks.
 *
 * CORE never waits; what it says has to happen first is waited for here, on the caller's thread, without the GIL, in slices,
 * with signal handlers run in between and an aborted volume as a way out [K9]. A fill that nobody has started is run by who
 * waits for it. A wait that could only wait for the call it was made from is a DeadlockError (contract 2.25).
 *
 * Before its first sleep each wait writes a record of itself, and takes it back when it is over (waits.c): what has not to be waited
 * for leaves none. Pauses of some microseconds (pc_nap, and the one between looks at a writer's section) are no waits.
 */
#include "types.h"

#include <time.h>

_Thread_local bool pc_tls_loop;

i64 pc_clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (i64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Context: without the interpreter lock. */
void pc_nap(i64 ns)
{
	struct timespec ts = {.tv_sec = 0, .tv_nsec = ns};
	nanosleep(&ts, NULL);
}

bool pc_is_forked(const struct pc_cache *c)
{
	return c->fork_epoch != atomic_load_explicit(&pc_fork_epoch, memory_order_relaxed);
}

/* Raise what the engine's factory makes of (kind, engine object, message). Return: -1. */
int pc_raise(PyObject *core, PyObject *engine, const char *kind, const char *message)
{
	PyObject *factory = ((struct core *)core)->error;
	PyObject *error =
		factory ? PyObject_CallFunction(factory, "sOs", kind, engine ? engine : Py_None, message) : NULL;
	if (error) {
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
		Py_DECREF(error);
	} else if (!PyErr_Occurred()) {
		PyErr_Format(PyExc_OSError, "%s: %s", kind, message);
	}
	return -1;
}

/* Sleep while the event stands at `seq`, at most timeout_ns. Return: 0, -1 with an exception (a signal handler raised). */
int pc_wait_event(struct pc_event *e, u32 seq, i64 timeout_ns)
{
	if (timeout_ns > PC_WAIT_SLICE_NS)
		timeout_ns = PC_WAIT_SLICE_NS;
	Py_BEGIN_ALLOW_THREADS atomic_fetch_add(&e->waiters, 1);
	pc_futex_wait(&e->seq, seq, timeout_ns);
	atomic_fetch_sub(&e->waiters, 1);
	Py_END_ALLOW_THREADS return PyErr_CheckSignals();
}

static int check_alive(struct pc_inode *i, PyObject *core)
{
	if (atomic_load(&i->volume->aborted))
		return pc_raise(core, engine_of(i), "shutdown", "the volume was aborted");
	return 0;
}

/* Whether this is a call from within a call of an asynchronous backend of the volume. Return: 1, 0, -1 exception. */
int pc_inside_call(struct pc_volume *v)
{
	if (PC_LIKELY(!v->on_loop || !pc_inside_calls))
		return 0;
	PyObject *list = PyObject_CallNoArgs(pc_inside_calls);
	int inside = list ? 0 : -1;
	for (Py_ssize_t k = 0, n = list ? PyList_Size(list) : 0; k < n && !inside; k++)
		inside = PyLong_AsVoidPtr(PyList_GetItem(list, k)) == v;
	Py_XDECREF(list);
	return inside;
}

/* From inside a backend call of the same volume nothing may fill, write or wait. */
int pc_check_inside(struct pc_inode *i, PyObject *core, const char *what)
{
	int inside = pc_tls_worker == i->volume ? 1 : pc_inside_call(i->volume);
	for (struct op *op = pc_tls_op; op && !inside; op = op->outer)
		inside = op->inode->volume == i->volume;
	if (inside < 0)
		return -1;
	return inside ? pc_raise(core, engine_of(i), "deadlock", what) : check_alive(i, core);
}

/* The same for a call that may block: on the thread of the event loop nothing that the loop itself has to do is waited for. */
int pc_check_reentry(struct pc_inode *i, PyObject *core, const char *what)
{
	if (pc_tls_loop && i->volume->on_loop)
		return pc_raise(core, engine_of(i), "deadlock",
				"a call that blocks on the event loop that it waits for; use pagecache.aio there");
	return pc_check_inside(i, core, what);
}

static bool folio_busy(struct pc_folio *f, u32 kind)
{
	u32 flag = kind == PC_NEED_FLIGHT ? PC_F_WRITER_WAITS : PC_F_WAITERS;
	u32 busy = kind == PC_NEED_FLIGHT ? PC_F_WRITEBACK : PC_F_LOCKED;
	return atomic_fetch_or(&f->state, flag) & busy;
}

/* A queued fill of the folio's owner, with a credit of the volume like every call that carries bytes. */
static struct pc_request *take_over(struct pc_inode *i, const struct pc_need *need)
{
	u32 credit;
	if (need->kind != PC_NEED_FOLIO || !need->owner || !(credit = pc_credit_try(i->volume)))
		return NULL;
	struct pc_request *r = pc_work_take_owner(i, need->owner);
	if (r)
		r->credit = credit;
	else
		pc_credit_put(i->volume, credit);
	return r;
}

static int run_taken(PyObject *core, struct pc_request *r)
{
	struct op *op = pc_op_new(core, r->inode, OP_FILL, r);
	if (!op) {
		pc_request_settle(r);
		return -1;
	}
	if (pc_op_run(op, pc_str_fill, NULL) >= 0)
		return 0;
	if (!PyErr_ExceptionMatches(PyExc_OSError))
		return -1;
	PyErr_Clear(); /* somebody else's fill: this caller tries for himself and gets his own error (contract 2.3) */
	return 0;
}

/* A wait of this thread: what it says of itself. */
struct pc_wait pc_wait_of(struct pc_inode *i, u32 kind, u64 pos, u64 end)
{
	return (struct pc_wait){.kind = kind,
				.since_ns = (u64)pc_clock_ns(),
				.thread = pc_thread_id(),
				.volume = (uintptr_t)i->volume,
				.inode = i->id,
				.pos = pos,
				.end = end};
}

static u32 begin(struct pc_inode *i, u32 kind)
{
	struct pc_wait w = pc_wait_of(i, kind, 0, 0);
	return pc_wait_begin(i->cache, &w);
}

struct pc_wait pc_wait_for_folio(struct pc_inode *i, const struct pc_folio *f, const struct pc_need *need)
{
	u64 pos = pc_folio_index(f) << i->cache->page_shift, len = (u64)i->cache->page_size << pc_folio_order(f);
	struct pc_wait w = pc_wait_of(i, need->kind == PC_NEED_FLIGHT ? PC_WAIT_FLIGHT : PC_WAIT_FOLIO, pos, pos + len);
	w.request = need->owner;
	return w;
}

static u32 begin_folio(struct pc_inode *i, const struct pc_folio *f, const struct pc_need *need)
{
	struct pc_wait w = pc_wait_for_folio(i, f, need);
	return pc_wait_begin(i->cache, &w);
}

/* Wait until the folio may be unlocked (or out of flight); a fill that no thread has started is run here. */
int pc_wait_folio(struct pc_inode *i, PyObject *core, const struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	struct pc_folio *f = pc_folio_at(c, need->folio);
	struct pc_event *e = pc_folio_event(c, need->folio);
	if (pc_check_reentry(i, core, "this call could only wait for the backend call that it was made from"))
		return -1;
	int err = 0;
	u32 record = 0;
	struct pc_request *taken = NULL;
	if (!pc_folio_get(f))
		return 0;
	struct pc_span wait;
	u64 pos = pc_folio_pos(c, f), len = pc_folio_bytes(c, f);
	pc_slow_begin(&wait, i, PC_R_WAIT, PC_WAITED_FOLIO, pos, len, 0);
	pc_count(i, &i->counters.lock_waits, 1);
	while (!err) {
		u32 seq = atomic_load(&e->seq);
		if (!folio_busy(f, need->kind) || (taken = take_over(i, need)))
			break;
		if (!record)
			record = begin_folio(i, f, need);
		err = pc_wait_event(e, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	pc_wait_end(c, record);
	pc_folio_put(c, f);
	pc_record_end(c, &wait, err ? PC_R_FAILED : 0, i->id, pos, len, 0);
	return taken ? run_taken(core, taken) : err;
}

int pc_wait_invalidate(struct pc_inode *i, PyObject *core)
{
	struct pc_span wait;
	int err = pc_check_reentry(i, core, "a truncate of this file waits for the call that this one was made from");
	u32 record = 0;
	pc_slow_begin(&wait, i, PC_R_WAIT, PC_WAITED_INVALIDATE, 0, 0, 0);
	while (!err) {
		u32 seq = atomic_load(&i->event.seq);
		if (!atomic_load(&i->inval_x))
			break;
		record = record ? record : begin(i, PC_WAIT_INVALIDATE);
		err = pc_wait_event(&i->event, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	pc_wait_end(i->cache, record);
	pc_record_end(i->cache, &wait, err ? PC_R_FAILED : 0, i->id, 0, 0, 0);
	return err;
}

int pc_wait_credit(struct pc_inode *i, PyObject *core, u32 *credit)
{
	struct pc_volume *v = i->volume;
	struct pc_span wait;
	int err = 0;
	u32 seq = atomic_load(&v->event.seq);
	if ((*credit = pc_credit_try(v)))
		return 0;
	u32 record = begin(i, PC_WAIT_CREDIT);
	pc_slow_begin(&wait, i, PC_R_WAIT, PC_WAITED_CREDIT, 0, 0, 0);
	while (!err) {
		err = pc_wait_event(&v->event, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
		seq = atomic_load(&v->event.seq);
		if (!err && (*credit = pc_credit_try(v)))
			break;
	}
	pc_wait_end(i->cache, record);
	pc_record_end(i->cache, &wait, err ? PC_R_FAILED : 0, i->id, 0, 0, 0);
	return err;
}

/* Queued in a fair queue: sleep until granted. Return: 0, -1 exception, 1 deadline; then the place in line is given up. */
static int wait_granted(struct op *op, u32 kind, i64 deadline_ns, bool (*cancel)(struct pc_inode *, struct pc_waiter *))
{
	struct pc_inode *i = op->inode;
	struct pc_span wait;
	int err = 0;
	u32 record = atomic_load(&op->waiter.word) == PC_GRANTED ? 0 : begin(i, kind);
	pc_slow_begin(&wait, i, PC_R_WAIT, kind == PC_WAIT_TOKEN ? PC_WAITED_TOKEN : PC_WAITED_LOCK, 0, 0, 0);
	while (!err && atomic_load(&op->waiter.word) != PC_GRANTED) {
		i64 left = PC_WAIT_SLICE_NS;
		if (deadline_ns >= 0) {
			i64 rest = deadline_ns - pc_clock_ns();
			left = rest < left ? rest : left;
			if (left <= 0) {
				err = 1;
				break;
			}
		}
		Py_BEGIN_ALLOW_THREADS pc_futex_wait(&op->waiter.word, PC_WAITING, left);
		Py_END_ALLOW_THREADS err = PyErr_CheckSignals();
		err = err ? err : check_alive(i, op->core);
	}
	bool late = err && cancel(i, &op->waiter);
	pc_wait_end(i->cache, record);
	pc_record_end(i->cache, &wait, err ? PC_R_FAILED : 0, i->id, 0, 0, 0);
	if (late)
		return err < 0 ? -2 : 2; /* granted in the last moment: the caller holds it and passes it on */
	return err;
}

static int timed_out(struct op *op)
{
	return pc_raise(op->core, engine_of(op->inode), "timeout",
			"the deadline passed while waiting for the file's lock");
}

static int acquire_lock(struct op *op, int mode, u32 hold, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	int err = 0;
	if (!pc_inode_lock_try(i, mode)) {
		pc_inode_lock_enqueue(i, &op->waiter, mode);
		err = wait_granted(op, mode == PC_SHARED ? PC_WAIT_SHARED : PC_WAIT_LOCK, deadline_ns,
				   pc_inode_lock_cancel);
		if (err == 2 || err == -2)
			pc_inode_lock_release(i, mode);
	}
	if (!err)
		op->holds |= hold;
	return err > 0 ? timed_out(op) : err < 0 ? -1 : 0;
}

static int acquire_token(struct op *op, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	pc_inode_leaf_lock(i);
	bool got = pc_token_take(i, &op->waiter, PC_TOKEN_CALLER);
	pc_inode_leaf_unlock(i);
	int err = got ? 0 : wait_granted(op, PC_WAIT_TOKEN, deadline_ns, pc_token_cancel);
	if (err == 2 || err == -2)
		pc_token_release(i);
	if (!err)
		op->holds |= HOLD_TOKEN;
	return err > 0 ? timed_out(op) : err < 0 ? -1 : 0;
}

static int acquire_invalidate(struct op *op)
{
	int err = 0;
	u32 record = 0;
	while (!err) {
		u32 seq = atomic_load(&op->inode->event.seq);
		if (!pc_invalidate_lock(op->inode)) {
			op->holds |= HOLD_INVALIDATE;
			break;
		}
		record = record ? record : begin(op->inode, PC_WAIT_INVALIDATE);
		err = pc_wait_event(&op->inode->event, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(op->inode, op->core);
	}
	pc_wait_end(op->inode->cache, record);
	return err;
}

/* Take logical locks in their order (contract section 3). Return: 0, -1 with an exception; what was taken is settled later. */
int pc_op_acquire(struct op *op, u32 holds, i64 deadline_ns)
{
	int err = 0;
	if (holds & HOLD_LOCK_X)
		err = acquire_lock(op, PC_EXCLUSIVE, HOLD_LOCK_X, deadline_ns);
	if (!err && holds & HOLD_LOCK_S)
		err = acquire_lock(op, PC_SHARED, HOLD_LOCK_S, deadline_ns);
	if (!err && holds & HOLD_TOKEN)
		err = acquire_token(op, deadline_ns);
	if (!err && holds & HOLD_INVALIDATE)
		err = acquire_invalidate(op);
	if (!err)
		pc_op_claims(op);
	return err;
}
