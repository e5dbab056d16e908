/*
 * awaitable_step.c - the work of an awaitable: memory to read into or write from, one step of a read or write, the slow
 * path on a thread, and the errors of fills that it requested.
 *
 * A step goes as far as possible without waiting. Its result is the next action: done, wait for `ticket`, a turn of the
 * loop, or aside. Fills are queued as work of the volume. The error of a fill that a read requested returns to the read
 * by its number (pc_report_failure), since the thread or task that ran the fill has no reference to the read. Long
 * copies are split into pieces with a turn of the loop between them.
 *
 * The interpreter lock guards everything here.
 */
#include "types/awaitable.h"

#include <stdlib.h>

enum { LOOP_PIECE = 256 << 10 };

static struct pc_list reading = {&reading, &reading}; /* awaitables that have requested a fill */
static u32 last_report;

/* ---------------------------------------------------------------- errors of fills */

/* The fill requested under this number has failed; its requester gets the exception that is set, which stays set. */
void pc_report_failure(u32 report)
{
	PyObject *type, *value, *traceback;
	if (!report)
		return;
	for (struct pc_list *l = reading.next; l != &reading; l = l->next) {
		struct awaitable *a = PC_ENTRY(l, struct awaitable, reading);
		if (a->report != report)
			continue;
		PyErr_Fetch(&type, &value, &traceback);
		PyErr_NormalizeException(&type, &value, &traceback);
		if (value && PyErr_GivenExceptionMatches(value, PyExc_Exception))
			a->error = Py_NewRef(value);
		PyErr_Restore(type, value, traceback);
		return;
	}
}

/* ---------------------------------------------------------------- memory */

static int get_buffer(struct awaitable *a, struct handle *h, int flags)
{
	if (PyObject_GetBuffer(a->target, &a->view, flags)) {
		if (PyErr_ExceptionMatches(PyExc_BufferError)) {
			PyErr_Clear();
			PyErr_Format(PyExc_TypeError, "a %scontiguous bytes-like object is required",
				     flags & PyBUF_WRITABLE ? "writable, " : "");
		}
		return -1;
	}
	bool reads = flags & PyBUF_WRITABLE;
	a->memory = a->view.buf;
	a->len = (u64)a->view.len;
	u64 pos = a->verb == APPEND ? pc_inode_size(h->inode) : a->pos;
	if (PC_LIKELY(!pc_may_fault(h, a->target) && !pc_view_overlaps(h->inode, pos, a->len, a->memory, !reads)))
		return 0;
	a->bounce = pc_bounce_new(h, a->len);
	if (!a->bounce || (!reads && pc_copy_in(h, a->bounce, a->view.buf, a->len)))
		return -1;
	a->memory = a->bounce;
	return 0;
}

static u64 clip(struct handle *h, u64 pos, u64 len)
{
	u64 size = pc_inode_size(h->inode);
	return pos >= size ? 0 : pc_min(len, size - pos);
}

int pc_await_prepare(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	bool reads = a->verb == PREAD || a->verb == PREAD_INTO;
	if (reads ? check_readable(h) : check_writable(h))
		return -1;
	if (a->verb == PREAD) {
		a->len = clip(h, a->pos, a->len);
		a->bytes = pc_new_bytes(a->len, a->pos);
		a->memory = a->bytes ? (u8 *)PyBytes_AsString(a->bytes) : NULL;
		return a->bytes ? 0 : -1;
	}
	if (get_buffer(a, h, reads ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_SIMPLE))
		return -1;
	if (reads)
		a->len = clip(h, a->pos, a->len);
	return 0;
}

/* While a trace runs: the call gets an id, which its writes carry on every thread. */
void pc_await_traced(struct awaitable *a)
{
	static const u8 verbs[] = {[PREAD] = PC_CALL_PREAD,
				   [PREAD_INTO] = PC_CALL_PREAD_INTO,
				   [PWRITE] = PC_CALL_PWRITE,
				   [APPEND] = PC_CALL_APPEND};
	pc_call_awaited(&a->call, handle_of_owner(a)->inode, verbs[a->verb]);
}

/* The call is about to be suspended, perhaps indefinitely. */
void pc_await_announce(struct awaitable *a)
{
	struct pc_inode *i = handle_of_owner(a)->inode;
	if (i)
		pc_record_announce(i->cache, &a->call, i->id, a->pos, a->len, 0);
}

static void trace_over(struct awaitable *a)
{
	struct pc_inode *i = handle_of_owner(a)->inode;
	int flags = PC_R_AWAITED | (a->done < a->len && a->verb >= PWRITE ? PC_R_FAILED : 0);
	if (i)
		pc_record_end(i->cache, &a->call, flags, i->id, a->pos, a->len, a->done);
}

/* Release everything except memory that a thread still uses. */
void pc_await_settle(struct awaitable *a)
{
	if (PC_UNLIKELY(a->call.began))
		trace_over(a);
	a->state = OVER;
	pc_list_del(&a->reading);
	Py_CLEAR(a->ticket);
	Py_CLEAR(a->sub);
	Py_CLEAR(a->error);
	if (a->lent)
		return;
	if (a->view.obj)
		PyBuffer_Release(&a->view);
	free(a->bounce);
	a->bounce = NULL;
	Py_CLEAR(a->target);
	Py_CLEAR(a->bytes);
}

/* Build the result after the last step. */
PyObject *pc_await_result(struct awaitable *a)
{
	if (a->verb == PREAD_INTO && a->bounce && pc_copy_out(handle_of_owner(a), a->view.buf, a->bounce, a->done))
		return NULL;
	if (a->verb == PWRITE)
		return PyLong_FromUnsignedLongLong(a->len);
	if (a->verb == APPEND)
		return PyLong_FromUnsignedLongLong(a->pos);
	if (a->verb == PREAD_INTO)
		return PyLong_FromUnsignedLongLong(a->done);
	if (PC_LIKELY(a->done == a->len)) {
		PyObject *bytes = a->bytes;
		a->bytes = NULL;
		return bytes;
	}
	return PyBytes_FromStringAndSize(PyBytes_AsString(a->bytes), (Py_ssize_t)a->done);
}

/* ---------------------------------------------------------------- reading */

static int await_event(struct awaitable *a, struct handle *h, struct pc_event *e, u32 seq, const struct pc_wait *w)
{
	a->ticket = pc_ticket_new(h->core, e, seq, w, NULL);
	return a->ticket ? STEP_WAIT : STEP_ERROR;
}

/* Return: STEP_WAIT; STEP_DONE: the folio is free, try again; STEP_ERROR. */
static int await_folio(struct awaitable *a, struct handle *h, const struct pc_need *need)
{
	struct pc_cache *c = h->inode->cache;
	struct pc_folio *f = pc_folio_at(c, need->folio);
	if (!pc_folio_get(f))
		return STEP_DONE;
	struct pc_event *e = pc_folio_event(c, need->folio);
	u32 seq = atomic_load(&e->seq);
	bool busy = atomic_fetch_or(&f->state, PC_F_WAITERS) & PC_F_LOCKED;
	struct pc_wait w = pc_wait_for_folio(h->inode, f, need);
	pc_folio_put(c, f);
	if (!busy)
		return STEP_DONE;
	pc_count(h->inode, &h->inode->counters.lock_waits, 1);
	return await_event(a, h, e, seq, &w);
}

static int await_invalidate(struct awaitable *a, struct handle *h)
{
	u32 seq = atomic_load(&h->inode->event.seq);
	if (!atomic_load(&h->inode->inval_x))
		return STEP_DONE;
	struct pc_wait w = pc_wait_of(h->inode, PC_WAIT_INVALIDATE, 0, 0);
	return await_event(a, h, &h->inode->event, seq, &w);
}

/* Request a fill of [pos, pos + len). Return: STEP_DONE try again; STEP_WAIT; STEP_ASIDE: no memory for it;
 * STEP_ERROR. */
static int request_fill(struct awaitable *a, struct handle *h, u64 pos, u64 len)
{
	struct pc_need need = {.kind = PC_NEED_NOTHING};
	struct pc_request *r = NULL;
	if (a->rounds++ > PC_ROUNDS_CACHED)
		return STEP_ASIDE; /* bytes are evicted before they are copied */
	int err = pc_fill_begin(h->inode, pos, len, &need, &r);
	if (!r) {
		if (err == -ENOMEM)
			return STEP_ASIDE;
		if (need.kind == PC_NEED_FOLIO)
			return await_folio(a, h, &need);
		return need.kind == PC_NEED_INVALIDATE ? await_invalidate(a, h) : STEP_DONE;
	}
	a->report = r->report = ++last_report ? last_report : ++last_report;
	if (!a->asking)
		pc_list_add_tail(&reading, &a->reading);
	a->asking = 1;
	u64 end = r->end;
	pc_fill_submit(r, PC_WORK_FILL);
	if (end < pos + len)
		pc_submit_fills(h->inode, end, pos + len, PC_WORK_FILL, 16);
	if (pc_readahead_miss(h->inode, &h->ra, pos, len))
		pc_readahead_submit(h->inode, &h->ra);
	return STEP_DONE;
}

static void seen(struct awaitable *a, struct handle *h)
{
	if (PC_UNLIKELY(a->missed))
		pc_count(h->inode, &h->inode->counters.misses, 1);
	else
		pc_count_hit(h->inode);
	pc_read_seen(h, a->pos, a->done);
}

static int step_read(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	struct pc_need need;
	if (check_readable(h))
		return STEP_ERROR;
	for (;;) {
		u64 rest = a->len - a->done, piece = pc_min(rest, LOOP_PIECE);
		i64 got = pc_read(h->inode, a->pos + a->done, a->memory + a->done, piece, &need);
		if (PC_UNLIKELY(need.readahead))
			pc_met_marker(h, &need);
		a->done += (u64)got;
		if (PC_LIKELY(need.kind == PC_NEED_NOTHING)) {
			if (PC_LIKELY(a->done == a->len || (u64)got < piece)) {
				seen(a, h);
				return STEP_DONE;
			}
			return STEP_TURN;
		}
		if (got)
			a->rounds = 0;
		if (a->error) {
			PyErr_SetObject((PyObject *)Py_TYPE(a->error), a->error);
			return STEP_ERROR;
		}
		if (pc_check_inside(
			    h->inode, h->core,
			    "bytes that are not cached were read from inside a backend call of the same volume"))
			return STEP_ERROR;
		a->missed |= need.kind == PC_NEED_FILL;
		int next = need.kind == PC_NEED_FOLIO ? await_folio(a, h, &need)
						      : request_fill(a, h, a->pos + a->done, a->len - a->done);
		if (next != STEP_DONE)
			return next;
	}
}

/* ---------------------------------------------------------------- writing */

static int step_write(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	if (check_writable(h))
		return STEP_ERROR;
	if (a->done == a->len) {
		if (a->verb == APPEND && !a->len)
			a->pos = pc_inode_size(h->inode);
		return a->through && a->len ? STEP_ASIDE : STEP_DONE;
	}
	if (a->verb == APPEND)
		return STEP_ASIDE; /* keeps the inode lock throughout, which a task must not */
	u64 piece = pc_min(a->len - a->done, LOOP_PIECE);
	u64 outer = PC_UNLIKELY(a->call.began) ? pc_record_enter(a->call.id) : 0;
	u64 n = pc_write_try(h, a->pos + a->done, a->memory + a->done, piece);
	if (PC_UNLIKELY(a->call.began))
		pc_record_enter(outer);
	a->done += n;
	if (a->done == a->len)
		return a->through ? STEP_ASIDE : STEP_DONE;
	return n == piece ? STEP_TURN : STEP_ASIDE;
}

/* ---------------------------------------------------------------- steps */

int pc_await_step(struct awaitable *a)
{
	return a->verb >= PWRITE ? step_write(a) : step_read(a);
}

/* Do all remaining work on the calling thread. Return: 0 or -1 with an exception. */
int pc_await_rest(struct awaitable *a)
{
	struct handle *h = handle_of_owner(a);
	int err;
	bool reads = a->verb == PREAD || a->verb == PREAD_INTO;
	if (reads ? check_readable(h) : check_writable(h))
		return -1;
	a->lent = 1;
	u64 outer = pc_record_enter(a->call.began ? a->call.id : 0);
	if (reads) {
		i64 n = pc_read_rest(h, a->pos + a->done, a->memory + a->done, a->len - a->done);
		a->done += n < 0 ? 0 : (u64)n;
		err = n < 0;
	} else {
		err = pc_write_rest(h, &a->pos, a->memory, a->len, &a->done, a->verb == APPEND) == PC_FAILED;
	}
	pc_record_enter(outer);
	a->lent = 0;
	if (a->state == OVER)
		pc_await_settle(a); /* the task no longer waits */
	return err ? -1 : 0;
}
