/*
 * worker.c - the threads that make a backend's calls: a caller's thread for its own fill, and for all work of its own
 * file if the backend is prompt; threads of the volume for all others.
 *
 * pc_run_fill is the slow path of every read. pc_work is the loop body of a volume's threads: take the most urgent work
 * from CORE, wrap it in an Op, call the engine. After any exception of the engine the Op is settled. A fill's error is
 * dropped, since each waiter retries and gets its own; any other error goes to the unraisable hook. pc_sync_go does the
 * same work for a caller that would wait for it; an exception is that of a signal handler.
 */
#include "types/types.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- reads that wait, and results of fills for them */

/* A read that waits for bytes; guarded by the GIL. */
struct reading {
	struct pc_list link;
	struct pc_inode *inode;
	struct pc_readahead *ra;
	u64 pos, len;
	u32 report;      /* number of the fill that it has requested from another thread, 0: none */
	bool stale;      /* the bytes of that fill cannot stay in the cache */
	PyObject *error; /* of that fill; NULL: none so far */
	struct pc_readahead none; /* of a caller that has no state of its own */
};

static struct pc_list readings = {&readings, &readings};
static u32 last_report;

static struct reading *reading_of(u32 report)
{
	for (struct pc_list *l = readings.next; report && l != &readings; l = l->next) {
		struct reading *read = PC_ENTRY(l, struct reading, link);
		if (read->report == report)
			return read;
	}
	return NULL;
}

/* The fill requested under this number has failed; its requester gets the exception that is set, which stays set. */
void pc_report_failure(u32 report)
{
	PyObject *error = report ? pc_take_exception() : NULL; /* first: this may run code, and the read may end meanwhile */
	struct reading *read = reading_of(report);
	if (read && error && !read->error && PyErr_GivenExceptionMatches(error, PyExc_Exception))
		read->error = Py_NewRef(error);
	if (report)
		pc_put_exception(error);
}

/* The bytes of this fill were invalidated again and again: its requester has to read past the cache. */
void pc_report_stale(u32 report)
{
	struct reading *read = reading_of(report);
	if (read)
		read->stale = true;
}

/* A fill of the file has ended: the line takes more for the reads that wait. */
static void go_on(struct pc_inode *i)
{
	for (struct pc_list *l = readings.next; l != &readings; l = l->next) {
		struct reading *read = PC_ENTRY(l, struct reading, link);
		if (read->inode == i)
			pc_readahead_waits(i, read->ra, read->pos, read->len);
	}
}

/* Queue fills for [pos, end), at most `windows` requests, as far as memory allows. */
void pc_submit_fills(struct pc_inode *i, u64 pos, u64 end, u32 cls, int windows)
{
	u32 shift = i->cache->page_shift;
	u64 index = pos >> shift, stop, last = (pc_min(end, pc_inode_size(i)) + (1ull << shift) - 1) >> shift;
	u64 piece = pc_max(i->limits.max_read >> shift, 1);
	for (int k = 0; k < windows && index < last; k++, index = stop) {
		struct pc_request *r = pc_fill_window(i, index, pc_min(last, index + piece), false, &stop);
		if (r)
			pc_fill_submit(r, cls);
		if (stop == UINT64_MAX || stop <= index)
			break;
	}
}

/* Refuse to call the backend for missing bytes from inside another call of the volume. Return: 0, -1. */
static int check_missing(struct pc_inode *i, PyObject *core)
{
	return pc_check_reentry(i, core,
				"bytes that are not cached were read from inside a backend call of the same volume");
}

/* Whether a caller may call the backend itself: it is prompt, or the call is a coroutine on the cache's loop, whose
 * waiter can leave. */
bool pc_may_call(const struct pc_volume *v)
{
	return atomic_load_explicit(&((struct pc_volume *)v)->reads_here, memory_order_relaxed);
}

/* A read ended without bytes; nothing is held. Wait for the work of the file that it may have been refused for. Return:
 * PC_TRY_AGAIN; PC_UNCACHED: no such work ran; PC_FAILED. */
static enum pc_result outlast_refusal(struct pc_inode *i)
{
	PyObject *waited = PyObject_CallMethodObjArgs(engine_of(i), pc_str_outlast_refusal, NULL);
	enum pc_result result = !waited ? PC_FAILED : waited == Py_True ? PC_TRY_AGAIN : PC_UNCACHED;
	Py_XDECREF(waited);
	return result;
}

/* Have a thread of the volume run the fill, and wait for its first folio. The result comes by a number, since that thread has no
 * reference to the read. An abort or a signal handler ends the wait. Return: as pc_run_fill. */
static enum pc_result run_queued(PyObject *core, struct pc_request *r, struct reading *read)
{
	struct pc_inode *i = r->inode;
	struct pc_need need = {.kind = PC_NEED_FOLIO, .folio = r->first, .owner = r->id};
	u64 end = r->end;
	read->report = r->report = ++last_report ? last_report : ++last_report;
	pc_fill_submit(r, PC_WORK_FILL);
	pc_readahead_miss(i, read->ra, read->pos, read->len, end);
	enum pc_result result = pc_wait_folio(i, core, &need);
	if (result != PC_FAILED && read->error) {
		PyErr_SetObject((PyObject *)Py_TYPE(read->error), read->error);
		result = PC_FAILED;
	} else if (result != PC_FAILED && read->stale) {
		result = outlast_refusal(i);
	}
	return result;
}

/* Fill the missing part of a read, at most one request; the caller then tries again. If the backend is prompt, the calling
 * thread runs the part it waits for, otherwise a thread of the volume does. The rest of a long range and the readahead
 * window are queued for the volume's threads first. Return: PC_TRY_AGAIN; PC_UNCACHED: there is no memory, or the bytes
 * are invalidated again and again; PC_FAILED. */
static enum pc_result fill_part(PyObject *core, struct reading *read)
{
	struct pc_inode *i = read->inode;
	struct pc_need need = {.kind = PC_NEED_NOTHING};
	struct pc_request *r = NULL;
	u32 credit = 0;
	bool here = pc_may_call(i->volume);
	if (check_missing(i, core) || (here && pc_wait_credit(i, core, &credit)))
		return PC_FAILED;
	int err = pc_fill_begin(i, read->pos, read->len, &need, &r);
	if (!r) {
		if (here)
			pc_credit_put(i->volume, credit);
		if (err == -ENOMEM)
			return PC_UNCACHED;
		if (need.kind == PC_NEED_FOLIO) {
			pc_readahead_rest(i, read->ra, read->pos, read->len);
			return pc_wait_folio(i, core, &need);
		}
		return need.kind == PC_NEED_INVALIDATE ? pc_wait_invalidate(i, core) : PC_TRY_AGAIN;
	}
	if (!here)
		return run_queued(core, r, read);
	r->credit = credit;
	struct op *op = pc_op_new(core, i, PC_OP_FILL, r);
	if (!op) {
		pc_request_settle(r);
		return PC_FAILED;
	}
	pc_readahead_miss(i, read->ra, read->pos, read->len, r->end);
	enum pc_result ran = pc_op_run(op, pc_str_fill, NULL);
	if (ran == PC_UNCACHED)
		return outlast_refusal(i);
	return ran == PC_DONE ? PC_TRY_AGAIN : ran;
}

/* @ra: the handle's readahead state, or NULL. Return: as fill_part(). */
enum pc_result pc_run_fill(PyObject *core, struct pc_inode *i, u64 pos, u64 len, struct pc_readahead *ra)
{
	struct reading *read = calloc(1, sizeof *read); /* not on the stack: a fork leaves those of other threads in the list */
	if (!read) {
		PyErr_NoMemory();
		return PC_FAILED;
	}
	*read = (struct reading){.inode = i, .ra = ra ? ra : &read->none, .pos = pos, .len = len};
	pc_list_add_tail(&readings, &read->link);
	enum pc_result result = fill_part(core, read);
	pc_list_del(&read->link);
	Py_CLEAR(read->error);
	free(read);
	return result;
}

/* Provide bytes that a folio lacks, or wait for a folio: the next step of a call that changes the file or its memory. Return:
 * PC_TRY_AGAIN, PC_UNCACHED, PC_FAILED. */
enum pc_result pc_provide(PyObject *core, struct pc_inode *i, const struct pc_need *need)
{
	switch (need->kind) {
	case PC_NEED_FILL: return pc_run_fill(core, i, need->pos, need->len, NULL);
	case PC_NEED_FOLIO:
	case PC_NEED_FLIGHT: return pc_wait_folio(i, core, need);
	case PC_NEED_OPEN: return pc_raise(core, engine_of(i), "shutdown", "the volume is being detached");
	case PC_NEED_NOTHING: return PC_TRY_AGAIN;
	default: return PC_UNCACHED;
	}
}

/* Fill the missing bytes of [pos, end), until so many tries at one place did not keep a byte. Return: PC_FAILED, or not. */
enum pc_result pc_fill_all(PyObject *core, struct pc_inode *i, u64 pos, u64 end, int tries)
{
	enum pc_result filled = PC_TRY_AGAIN;
	struct pc_readahead rest = {0};
	u64 missing;
	for (int again = 0; filled == PC_TRY_AGAIN && (missing = pc_first_missing(i, pos, end)) < end; pos = missing) {
		again = missing == pos ? again + 1 : 0;
		if (again > tries)
			break; /* new bytes are evicted at once */
		filled = pc_run_fill(core, i, missing, end - missing, &rest);
	}
	return filled;
}

/* One uncached read. @last: see struct op_uncached. Return: as pc_op_run. */
static enum pc_result read_past(PyObject *core, struct pc_inode *i, u64 pos, u64 len, u8 *to, bool last)
{
	u32 credit;
	if (pc_wait_credit(i, core, &credit))
		return PC_FAILED;
	struct op *op = pc_op_new(core, i, PC_OP_UNCACHED, NULL);
	if (!op) {
		pc_credit_put(i->volume, credit);
		return PC_FAILED;
	}
	struct op_uncached *own = uncached_of(op);
	own->credit = credit;
	own->pos = pos;
	own->len = len;
	own->last = last;
	PyObject *method = pc_may_call(i->volume) ? pc_str_fill : pc_str_read_aside;
	PyObject *memory = own->memory = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)len);
	if (!memory) {
		Py_DECREF(op);
		return PC_FAILED;
	}
	Py_INCREF(memory);
	memset(PyByteArray_AsString(memory), 0, len);
	enum pc_result ran = pc_op_run(op, method, NULL);
	if (ran == PC_DONE)
		memcpy(to, PyByteArray_AsString(memory), len);
	Py_DECREF(memory);
	return ran;
}

static void lay_over(u8 *to, const u8 *from, const u8 *which, u64 len)
{
	for (u64 k = 0; k < len; k++)
		if (which[k])
			to[k] = from[k];
}

/* Read past the cache into `to`, since no memory is free. Cached bytes are copied over the backend's answer, both as of
 * before the call and as of after it: local bytes may be stored and evicted while the call runs, and the call may have
 * read the range before they were stored. Return: PC_DONE, PC_FAILED. */
enum pc_result pc_run_uncached(PyObject *core, struct pc_inode *i, u64 pos, u64 len, u8 *to)
{
	enum pc_result result = PC_TRY_AGAIN;
	u8 *before = malloc(len), *which = calloc(len, 1);
	u32 reads = 0;
	if (!before || !which) {
		PyErr_NoMemory();
		result = PC_FAILED;
	}
	while (result == PC_TRY_AGAIN || result == PC_UNCACHED) {
		/* After PC_UNCACHED a truncate may be in progress: sizes change after storage. */
		if (check_missing(i, core) || (result == PC_UNCACHED && (pc_wait_invalidate(i, core) == PC_FAILED ||
									 outlast_refusal(i) == PC_FAILED))) {
			result = PC_FAILED;
			break;
		}
		pc_read_local(i, pos, before, len, which);
		PC_SYNC("uncached_before_read");
		result = read_past(core, i, pos, len, to, reads++ >= PC_REREADS);
	}
	if (result == PC_DONE) {
		lay_over(to, before, which, len);
		pc_read_local(i, pos, to, len, NULL);
	}
	free(before);
	free(which);
	return result;
}

/* ---------------------------------------------------------------- work of the volume's threads */

static void work_fill(PyObject *core, struct pc_request *r, u32 credit)
{
	struct pc_inode *i = r->inode;
	r->credit = credit;
	bool gone = atomic_load(&i->volume->aborted);
	struct op *op = gone ? NULL : pc_op_new(core, i, PC_OP_FILL, r);
	if (!op)
		pc_request_settle(r);
	enum pc_result ran = op ? pc_op_run(op, pc_str_fill, NULL) : PC_FAILED;
	if (!gone && ran != PC_FAILED)
		go_on(i);
	if (gone || ran != PC_FAILED)
		return;
	/* Each waiter for these bytes retries and gets its own error (contract 2.3). */
	if (PyErr_ExceptionMatches(PyExc_OSError))
		PyErr_Clear();
	else
		PyErr_WriteUnraisable(engine_of(i));
}

/* Send the next request of a pass. Return: 0, -1 exception. */
static int work_pass(PyObject *core, struct pc_inode *i, u32 credit)
{
	struct pc_request *r;
	int got = pc_write_next(i, &r);
	if (got <= 0) {
		pc_credit_put(i->volume, credit);
		if (got == -EAGAIN) {
			/* A writer's section is short; sleeping lets it run. */
			Py_BEGIN_ALLOW_THREADS _Atomic u32 word = 0;
			pc_futex_wait(&word, 0, 50 * 1000);
			Py_END_ALLOW_THREADS pc_pass_again(i);
		}
		return 0;
	}
	r->credit = credit;
	struct op *op = pc_op_new(core, i, PC_OP_WRITE, r);
	if (!op)
		pc_request_settle(r);
	return !op || pc_op_run(op, r->gather ? pc_str_write_units : pc_str_write, NULL) == PC_FAILED ? -1 : 0;
}

/* Make the commit that has begun. Return: 0, -1 exception. */
static int run_commit(PyObject *core, struct pc_inode *i, PyObject *method)
{
	struct op *op = pc_op_new(core, i, PC_OP_COMMIT, NULL);
	if (!op)
		pc_commit_end(i, false, false);
	return !op || pc_op_run(op, method, NULL) == PC_FAILED ? -1 : 0;
}

/* work(core, volume, job, timeout_ns) -> True: did something; False: nothing to do in time; None: the volume stops. */
PyObject *pc_work(PyObject *module, PyObject *args)
{
	PyObject *core, *job;
	struct pc_volume *v;
	long long timeout_ns;
	struct pc_work w;
	if (!PyArg_ParseTuple(args, "O!O&OL", pc_core_type, &core, pc_to_pointer, &v, &job, &timeout_ns))
		return NULL;
	if (pc_is_forked(v->cache))
		Py_RETURN_NONE;
	u32 seq = atomic_load(&v->workers.seq);
	pc_work_next(v, &w);
	if (w.kind == PC_WORK_STOP)
		Py_RETURN_NONE;
	if (w.kind == PC_WORK_NONE) {
		Py_BEGIN_ALLOW_THREADS atomic_fetch_add(&v->workers.waiters, 1);
		pc_futex_wait(&v->workers.seq, seq, timeout_ns);
		atomic_fetch_sub(&v->workers.waiters, 1);
		Py_END_ALLOW_THREADS Py_RETURN_FALSE;
	}
	struct pc_inside in = {.volume = v, .outer = pc_tls_inside, .helper = true};
	pc_tls_inside = &in;
	if (w.kind == PC_WORK_JOB) {
		u32 era = pc_call_begins(v);
		PyObject *done = PyObject_CallFunction(job, "I", w.cls);
		if (!done)
			PyErr_WriteUnraisable(job);
		Py_XDECREF(done);
		pc_call_ends(v, era);
		if (w.credit)
			pc_credit_put(v, w.credit);
	} else if (w.kind == PC_WORK_REQUEST) {
		work_fill(core, w.request, w.credit);
	} else if (w.kind == PC_WORK_PASS) {
		if (work_pass(core, w.inode, w.credit))
			PyErr_WriteUnraisable(engine_of(w.inode));
	} else if (pc_commit_begin(w.inode, false) && run_commit(core, w.inode, pc_str_commit)) {
		PyErr_WriteUnraisable(engine_of(w.inode));
	}
	pc_tls_inside = in.outer;
	if (w.inode)
		pc_inode_user_put(w.inode);
	pc_work_end(v, &w);
	Py_RETURN_TRUE;
}

/* ---------------------------------------------------------------- work of a caller's own file */

/* Do the queued passes and commits of the inode. Return: 0, -1 exception. */
static int work_own(PyObject *core, struct pc_inode *i)
{
	struct pc_work w;
	int err = 0, begun = 1;
	while (!err && begun != -EAGAIN && pc_work_next_own(i, &w)) {
		if (w.kind == PC_WORK_PASS)
			err = work_pass(core, i, w.credit);
		else if ((begun = pc_commit_begin(i, true)) > 0)
			err = run_commit(core, i, pc_str_commit_here);
		pc_inode_user_put(i);
		pc_work_end(i->volume, &w);
		err = err ? err : PyErr_CheckSignals();
	}
	return err;
}

/* Start what a sync has to do next; `here`: and make the calls that this queues. Return: 0, -1 exception. */
static int sync_start(PyObject *core, struct pc_inode *i, struct pc_sync *s, enum pc_sync_next next, bool here)
{
	struct pc_inode *outer = here ? pc_work_own_begin(i) : NULL;
	Py_BEGIN_ALLOW_THREADS pc_sync_start(i, s, next);
	Py_END_ALLOW_THREADS if (!here) return 0;
	int err = work_own(core, i);
	pc_work_own_end(i, outer);
	return err ? err : PyErr_CheckSignals();
}

/* Whether the engine lets C make the calls of the file: no trouble has come. */
static bool is_bound(struct pc_inode *i)
{
	PyObject *write_from = PyObject_GetAttr(engine_of(i), pc_str_write_from);
	bool bound = write_from && write_from != Py_None;
	Py_XDECREF(write_from);
	if (!write_from)
		PyErr_Clear();
	return bound;
}

/* Advance a sync by a step. `here`: this thread makes the calls itself; with `on` it goes on until the sync waits
 * or trouble comes: with a pass, a commit, and one more if a failure has made bytes dirty. Return: 0, -1
 * exception. */
static int sync_go(PyObject *core, struct pc_inode *i, struct pc_sync *s, u32 allowed, u32 here, bool on,
		   enum pc_sync_next *next)
{
	for (int starts = 0; starts < 3; starts++) {
		enum pc_sync_next found;
		Py_BEGIN_ALLOW_THREADS found = pc_sync_poll(i, s);
		Py_END_ALLOW_THREADS *next = found;
		u32 bit = 1u << found;
		if ((found != PC_SYNC_SEND && found != PC_SYNC_COMMIT) || !(allowed & bit))
			return 0;
		*next = PC_SYNC_WAIT; /* for the event of before the start; the caller looks whether more is allowed by now */
		if (sync_start(core, i, s, found, here & bit))
			return -1;
		if (!on || !(here & bit) || !is_bound(i))
			return 0;
	}
	return 0;
}

/* sync(core, inode, sync, allowed, here, what) -> PC_SYNC_*: advance a sync, without waiting for other threads.
 *
 * `allowed`, `here`: bits 1 << SEND and 1 << COMMIT: the steps that may begin, and those that this thread makes itself. One
 * that may not begin is the result. `what`: words for the wait in reports, of a caller without a deadline; or None: the wait is on
 * record, and the caller looks around after each step. */
PyObject *pc_sync_go(PyObject *module, PyObject *args)
{
	PyObject *core, *what;
	struct pc_inode *i;
	unsigned long long sync;
	unsigned int allowed, here;
	if (!PyArg_ParseTuple(args, "O!O&KIIO", pc_core_type, &core, pc_to_pointer, &i, &sync, &allowed, &here, &what))
		return NULL;
	enum pc_sync_next next;
	struct pc_sleep sleep = {0};
	if (here && what != Py_None) {
		struct pc_wait w = pc_wait_of(i, PC_WAIT_SYNC, 0, 0);
		w.reason = (uintptr_t)what;
		pc_sleep_begin(&sleep, i->cache, &w);
	}
	int err = sync_go(core, i, (struct pc_sync *)(uintptr_t)sync, allowed, here, what != Py_None, &next);
	pc_sleep_end(&sleep, err != 0);
	return err ? NULL : PyLong_FromLong(next);
}
