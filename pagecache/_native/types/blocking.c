/*
 * blocking.c - waits of callers: for folios, truncates, credits, and logical locks.
 *
 * CORE never waits. The caller's thread waits here for the conditions that CORE needs, without the GIL, in slices, with
 * signal handlers run in between, and leaves when the volume is aborted [K9]. If no thread has started a fill of a
 * prompt backend, its waiter runs it. A wait that could only wait for the call that contains it is a DeadlockError (contract 2.25).
 *
 * A wait begins (spans.c) before its first sleep, and ends however it is left; a condition that already holds leaves no
 * record. Pauses of some microseconds (pc_nap, and the one between checks of a writer's section) are no waits.
 */
#include "types/types.h"

#include <time.h>

_Thread_local bool pc_tls_loop;

/* Callable: the addresses of the volumes whose calls the running coroutine is in; NULL: there is no such loop. */
PyObject *pc_inside_calls;

/* use_inside(function): register the engine's function for `pc_inside_calls`. */
PyObject *pc_use_inside(PyObject *module, PyObject *function)
{
	PyObject *old = pc_inside_calls;
	pc_inside_calls = Py_NewRef(function);
	Py_XDECREF(old);
	Py_RETURN_NONE;
}

PyObject *pc_enter_loop(PyObject *module, PyObject *unused)
{
	pc_tls_loop = true;
	Py_RETURN_NONE;
}

/* Context: without the interpreter lock. */
void pc_nap(i64 ns)
{
	struct timespec ts = {.tv_sec = 0, .tv_nsec = ns};
	nanosleep(&ts, NULL);
}

/* Return the exception that is set, with its traceback, or NULL; none is set any longer. */
PyObject *pc_take_exception(void)
{
	PyObject *type, *error, *traceback;
	PyErr_Fetch(&type, &error, &traceback);
	if (type)
		PyErr_NormalizeException(&type, &error, &traceback);
	if (traceback)
		PyException_SetTraceback(error, traceback);
	Py_XDECREF(type);
	Py_XDECREF(traceback);
	return error;
}

/* Set an exception again, or none. Steals the reference. */
void pc_put_exception(PyObject *error)
{
	PyErr_Restore(error ? Py_NewRef((PyObject *)Py_TYPE(error)) : NULL, error,
		      error ? PyException_GetTraceback(error) : NULL);
}

/* Convert the address of an object of CORE, for PyArg_ParseTuple. Return: 1, 0. */
int pc_to_pointer(PyObject *value, void *out)
{
	*(void **)out = PyLong_AsVoidPtr(value);
	return !PyErr_Occurred();
}

/* Raise the exception that the engine's factory makes of (kind, engine object, message). Return: -1, PC_FAILED. */
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

/* Whether this call is made from inside a call of an asynchronous backend of the volume. Return: 1, 0, -1 exception. */
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

/* Refuse fills, writes and waits from inside a backend call of the same volume; on the thread of the event loop, which must not
 * wait for work that the loop itself has to do; and after an abort. */
int pc_check_reentry(struct pc_inode *i, PyObject *core, const char *what)
{
	if (pc_tls_loop && i->volume->on_loop)
		return pc_raise(core, engine_of(i), "deadlock",
				"a call that blocks on the event loop that it waits for; use pagecache.aio there");
	int inside = pc_inside_call(i->volume);
	for (const struct pc_inside *in = pc_tls_inside; in && !inside; in = in->outer)
		inside = in->volume == i->volume;
	for (struct op *op = pc_tls_op; op && !inside; op = op->outer)
		inside = op->inode->volume == i->volume;
	if (inside < 0)
		return -1;
	return inside ? pc_raise(core, engine_of(i), "deadlock", what) : check_alive(i, core);
}

static bool folio_busy(struct pc_folio *f, u32 kind)
{
	u32 flag = kind == PC_NEED_FLIGHT ? PC_F_WRITER_WAITS : PC_F_WAITERS;
	u32 busy = kind == PC_NEED_FLIGHT ? PC_F_WRITEBACK : PC_F_LOCKED;
	return atomic_fetch_or(&f->state, flag) & busy;
}

/* Take a queued fill of the folio's owner, with a credit of the volume, as every call that carries bytes needs. */
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

static enum pc_result run_taken(PyObject *core, struct pc_request *r)
{
	struct op *op = pc_op_new(core, r->inode, PC_OP_FILL, r);
	if (!op) {
		pc_request_settle(r);
		return PC_FAILED;
	}
	if (pc_op_run(op, pc_str_fill, NULL) != PC_FAILED)
		return PC_TRY_AGAIN;
	if (!PyErr_ExceptionMatches(PyExc_OSError))
		return PC_FAILED;
	PyErr_Clear(); /* another caller's fill: this caller retries and gets its own error (contract 2.3) */
	return PC_TRY_AGAIN;
}

/* Begin the record of a wait, before its first sleep. */
static void begin(struct pc_sleep *s, struct pc_inode *i, u32 kind)
{
	struct pc_wait w = pc_wait_of(i, kind, 0, 0);
	pc_sleep_begin(s, i->cache, &w);
}

/* @may_call: see pc_wait_folio(). */
static enum pc_result wait_folio(struct pc_inode *i, PyObject *core, const struct pc_need *need, bool may_call)
{
	struct pc_cache *c = i->cache;
	struct pc_folio *f = pc_folio_at(c, need->folio);
	struct pc_event *e = pc_folio_event(c, need->folio);
	if (pc_check_reentry(i, core, "this call could only wait for the backend call that it was made from"))
		return PC_FAILED;
	int err = 0;
	struct pc_sleep sleep = {.cache = NULL};
	struct pc_request *taken = NULL;
	if (!pc_folio_get_of(i, f)) {
		pc_core_release(core);
		return PC_TRY_AGAIN;
	}
	pc_count(i, &i->counters.lock_waits, 1);
	while (!err) {
		u32 seq = atomic_load(&e->seq);
		if (!folio_busy(f, need->kind) || (may_call && (taken = take_over(i, need))))
			break;
		if (!sleep.cache) {
			u32 kind = need->kind == PC_NEED_FLIGHT ? PC_WAIT_FLIGHT : PC_WAIT_FOLIO;
			u64 pos = pc_folio_pos(c, f);
			struct pc_wait w = pc_wait_of(i, kind, pos, pos + pc_folio_bytes(c, f));
			pc_sleep_begin(&sleep, c, &w);
		}
		err = pc_wait_event(e, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	pc_sleep_end(&sleep, err);
	pc_folio_put(c, f);
	pc_core_release(core); /* the reference of the waiter may have kept a frame of a closed cache */
	if (taken)
		return run_taken(core, taken);
	return err ? PC_FAILED : PC_TRY_AGAIN;
}

/* Wait until the folio may be unlocked (or out of flight); run its fill here if no thread has started it, and callers
 * may make calls. Return: PC_TRY_AGAIN, PC_FAILED. */
enum pc_result pc_wait_folio(struct pc_inode *i, PyObject *core, const struct pc_need *need)
{
	return wait_folio(i, core, need, pc_may_call(i->volume));
}

/* Like pc_wait_folio(), for the engine's own work on a file, under its token: that has not called the backend yet. A
 * thread of the volume may do it, and then runs a queued fill itself: all threads of the volume may be in this call. */
enum pc_result pc_wait_fill(struct pc_inode *i, PyObject *core, const struct pc_need *need)
{
	const struct pc_inside *inside = pc_tls_inside;
	struct op *chain = pc_tls_op;
	bool helper = inside && inside->helper;
	pc_tls_op = chain ? chain->outer : NULL;
	pc_tls_inside = helper ? inside->outer : inside;
	enum pc_result result = wait_folio(i, core, need, helper || pc_may_call(i->volume));
	pc_tls_inside = inside;
	pc_tls_op = chain;
	return result;
}

static int no_truncate_runs(struct pc_inode *i)
{
	return !atomic_load(&i->inval_x);
}

static int takes_invalidate_lock(struct pc_inode *i)
{
	return !pc_invalidate_lock(i);
}

/* Wait for the end of a truncate. Return: 0, -1 exception. */
static int wait_truncate(struct pc_inode *i, PyObject *core, int (*is_over)(struct pc_inode *))
{
	struct pc_sleep sleep = {.cache = NULL};
	int err = 0;
	while (!err) {
		u32 seq = atomic_load(&i->event.seq);
		if (is_over(i))
			break;
		if (!sleep.cache)
			begin(&sleep, i, PC_WAIT_INVALIDATE);
		err = pc_wait_event(&i->event, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
	}
	pc_sleep_end(&sleep, err);
	return err;
}

/* Wait until no truncate of the file is in progress. Return: PC_TRY_AGAIN, PC_FAILED. */
enum pc_result pc_wait_invalidate(struct pc_inode *i, PyObject *core)
{
	int err = pc_check_reentry(i, core, "a truncate of this file waits for the call that this one was made from");
	return err || wait_truncate(i, core, no_truncate_runs) ? PC_FAILED : PC_TRY_AGAIN;
}

int pc_wait_credit(struct pc_inode *i, PyObject *core, u32 *credit)
{
	struct pc_volume *v = i->volume;
	struct pc_sleep sleep;
	int err = 0;
	u32 seq = atomic_load(&v->returned.seq);
	if ((*credit = pc_credit_try(v)))
		return 0;
	begin(&sleep, i, PC_WAIT_CREDIT);
	while (!err) {
		err = pc_wait_event(&v->returned, seq, PC_WAIT_SLICE_NS);
		err = err ? err : check_alive(i, core);
		seq = atomic_load(&v->returned.seq);
		if (!err && (*credit = pc_credit_try(v)))
			break;
	}
	if (err)
		pc_credit_pass(v); /* a wake-up for this caller may be the only one */
	pc_sleep_end(&sleep, err);
	return err;
}

/* engine.room(pos, length, place, locked): wait for dirty budget, or with no length until memory may be free. @locked: the caller has
 * the inode lock. Return: PC_DONE, PC_FAILED. */
enum pc_result pc_engine_room(struct pc_inode *i, u64 pos, u64 len, const struct pc_place *place, bool locked)
{
	PyObject *room =
		PyObject_CallMethod(engine_of(i), "room", "KKKO", (unsigned long long)pos, (unsigned long long)len,
				    (unsigned long long)(uintptr_t)place, locked ? Py_True : Py_False);
	Py_XDECREF(room);
	return room ? PC_DONE : PC_FAILED;
}

/* Queued in a fair queue: sleep until granted @hold. Return: 0, -1 exception, 1 deadline; on failure leave the queue. */
static int wait_granted(struct op *op, u32 kind, u32 hold, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	struct pc_waiter *w = &caller_of(op)->waiter;
	struct pc_sleep sleep = {.cache = NULL};
	int err = 0;
	caller_of(op)->wants = hold;
	if (atomic_load(&w->word) != PC_GRANTED)
		begin(&sleep, i, kind);
	while (!err && atomic_load(&w->word) != PC_GRANTED) {
		i64 left = PC_WAIT_SLICE_NS;
		if (deadline_ns >= 0) {
			i64 until_deadline = deadline_ns - pc_clock_ns();
			left = until_deadline < left ? until_deadline : left;
			if (left <= 0) {
				err = 1;
				break;
			}
		}
		Py_BEGIN_ALLOW_THREADS pc_futex_wait(&w->word, PC_WAITING, left);
		Py_END_ALLOW_THREADS err = PyErr_CheckSignals();
		err = err ? err : check_alive(i, op->core);
	}
	if (err && pc_waiter_cancel(i, w)) { /* granted at the last moment: pass it on */
		if (kind == PC_WAIT_TOKEN)
			pc_token_release(i);
		else
			pc_inode_lock_release(i, w->mode);
	}
	caller_of(op)->wants = 0;
	pc_sleep_end(&sleep, err);
	return err;
}

/* Refuse a wait for a hold that an operation of this thread has, or waits for. Return: -1 exception. */
static int refuse_own(struct op *op)
{
	return pc_raise(op->core, engine_of(op->inode), "deadlock",
			"this call could only wait for the one that a signal handler made it in");
}

/* The result of an attempt to take a lock, which is recorded if it is held. Return: 0, -1 exception. */
static int taken(struct op *op, int err, u32 hold)
{
	if (!err)
		caller_of(op)->holds |= hold;
	return err > 0   ? pc_raise(op->core, engine_of(op->inode), "timeout",
				    "the deadline passed while waiting for the file's lock")
	       : err < 0 ? -1
			 : 0;
}

static int acquire_lock(struct op *op, int mode, u32 hold, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	int err = 0;
	if (!pc_inode_lock_try(i, mode)) {
		/* who has the lock may wait for the token */
		if (deadline_ns && pc_op_holds_here(i, PC_HOLD_LOCK_X | PC_HOLD_LOCK_S | PC_HOLD_TOKEN))
			return refuse_own(op);
		pc_inode_lock_enqueue(i, &caller_of(op)->waiter, mode);
		err = wait_granted(op, mode == PC_SHARED ? PC_WAIT_LOCK_SHARED : PC_WAIT_LOCK, hold, deadline_ns);
	}
	return taken(op, err, hold);
}

static int acquire_token(struct op *op, i64 deadline_ns)
{
	struct pc_inode *i = op->inode;
	pc_inode_leaf_lock(i);
	/* a free token is nobody's: no walk over operations then */
	bool own = deadline_ns && i->token != PC_TOKEN_FREE && pc_op_holds_here(i, PC_HOLD_TOKEN);
	bool got = !own && pc_token_take(i, &caller_of(op)->waiter, PC_TOKEN_CALLER);
	pc_inode_leaf_unlock(i);
	if (own)
		return refuse_own(op);
	return taken(op, got ? 0 : wait_granted(op, PC_WAIT_TOKEN, PC_HOLD_TOKEN, deadline_ns), PC_HOLD_TOKEN);
}

/* Take logical locks in their order (contract section 3). Return: 0, -1 with an exception; the caller's settle releases
 * the locks already taken. */
int pc_op_acquire(struct op *op, u32 holds, i64 deadline_ns)
{
	int err = 0;
	if (holds & PC_HOLD_LOCK_X)
		err = acquire_lock(op, PC_EXCLUSIVE, PC_HOLD_LOCK_X, deadline_ns);
	if (!err && holds & PC_HOLD_LOCK_S)
		err = acquire_lock(op, PC_SHARED, PC_HOLD_LOCK_S, deadline_ns);
	if (!err && holds & PC_HOLD_TOKEN)
		err = acquire_token(op, deadline_ns);
	if (!err && holds & PC_HOLD_INVALIDATE)
		err = taken(op, wait_truncate(op->inode, op->core, takes_invalidate_lock), PC_HOLD_INVALIDATE);
	return err;
}
