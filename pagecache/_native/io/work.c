/*
 * work.c - the next work for the threads of a volume, or for a caller that does the work of one file.
 *
 * One queue per class, most urgent first: commits, names, fills with a waiter, integrity passes, background passes,
 * readahead. A queue holds requests (fills), inodes (passes and commits) or just a count of jobs that the engine keeps
 * itself. An inode in a queue is work, not a request: the thread that takes it builds the next request. Calls that
 * carry bytes take a credit of `max_inflight`; background and readahead together use all credits but one.
 *
 * An inode with a pass goes back to the end of its queue each time a request is taken from it, so files share the
 * threads and several threads serve one file.
 *
 * Each piece of work wakes one thread. A caller whose backend is prompt takes the passes and commits of its file
 * (pc_work_own_begin); work that it queues wakes no thread, unless a pass has more than one request.
 *
 * Locks: the volume's leaf lock (level 7).
 */
#include "io/io.h"

static _Thread_local struct pc_inode *own; /* this thread does the work of this inode */

static bool low(u32 cls)
{
	return cls == PC_WORK_BACKGROUND || cls == PC_WORK_READAHEAD;
}

static bool carries_bytes(u32 cls)
{
	return cls >= PC_WORK_FILL;
}

/* Whether work is queued that this thread does not do itself. Context: the volume's leaf lock. */
static bool is_queued_for_others(const struct pc_volume *v)
{
	u32 n = 0;
	for (u32 cls = 0; cls < PC_WORK_CLASSES; cls++)
		n += v->nr_work[cls] + v->jobs[cls];
	if (own && own->volume == v)
		n -= (own->pass.queued != 0) + !pc_list_empty(&own->work_commit);
	return n != 0;
}

/* There is a piece of work, or a credit for one; or a thread that was woken leaves without having looked for work. */
void pc_work_wake(struct pc_volume *v)
{
	pc_event_wake_one(&v->workers);
}

static void push(struct pc_volume *v, struct pc_list *l, u32 cls)
{
	pc_list_add_tail(&v->work[cls], l);
	v->nr_work[cls]++;
}

/* Queue a fill. */
void pc_fill_submit(struct pc_request *r, uint32_t cls)
{
	struct pc_volume *v = r->inode->volume;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	r->cls = (u8)cls;
	atomic_store_explicit(&r->queue, v, memory_order_relaxed);
	push(v, &r->link, cls);
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	pc_work_wake(v);
}

/* Whether fewer fills wait for a thread than may run: more of them would only take memory. */
bool pc_work_has_room(struct pc_volume *v)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	bool room = v->nr_work[PC_WORK_FILL] + v->nr_work[PC_WORK_READAHEAD] < v->max_inflight;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	return room;
}

/* Let a waiter take over the fill that owns a folio of the inode, if no thread has started it. Requests are
 * type-stable, and the id may be stale: only `queue` may be read before it shows that this volume's lock guards the
 * other fields. Return: the request, which the caller must run; NULL: too late. */
struct pc_request *pc_work_take_owner(struct pc_inode *i, u32 id)
{
	struct pc_volume *v = i->volume;
	struct pc_request *r = pc_request_at(i->cache, id);
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	bool mine = id && atomic_load_explicit(&r->queue, memory_order_relaxed) == v && r->inode == i;
	if (mine) {
		pc_list_del(&r->link);
		v->nr_work[r->cls]--;
		atomic_store_explicit(&r->queue, NULL, memory_order_relaxed);
	}
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	return mine ? r : NULL;
}

/* Queue a pass or move it up. @anew: false: only move it up, do not queue it. Context: inode leaf lock. */
static void queue_pass(struct pc_inode *i, u32 cls, bool anew)
{
	struct pc_volume *v = i->volume;
	PC_DEBUG_ASSERT(!i->dead);
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	if (i->pass.queued && i->pass.queued != cls) {
		pc_list_del(&i->work_pass);
		v->nr_work[i->pass.queued]--;
		i->pass.queued = 0;
		anew = true;
	}
	bool pushed = anew && !i->pass.queued;
	if (pushed) {
		i->pass.queued = (u8)cls;
		push(v, &i->work_pass, cls);
	}
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	if (pushed && (i != own || i->pass.nr_issued > 1 || !pc_list_empty(&i->pass.ready)))
		pc_work_wake(v);
}

/* Queue the inode's pass, or move it up when it became urgent or its token has waiters. Context: inode leaf lock. */
void pc_work_push_pass(struct pc_inode *i)
{
	bool waited_for = !pc_list_empty(&i->token_queue);
	queue_pass(i, i->pass.integrity || waited_for ? PC_WORK_INTEGRITY : PC_WORK_BACKGROUND, true);
}

/* Move the pass up because the token has a waiter: a pass that holds the token gives way only when it is taken once
 * more, however busy other passes are. Context: inode leaf lock. */
void pc_work_raise_pass(struct pc_inode *i)
{
	if (i->pass.active)
		queue_pass(i, PC_WORK_INTEGRITY, false);
}

/* Queue the pass again: a writer held its only remaining folio. */
void pc_pass_again(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	if (i->pass.active)
		pc_work_push_pass(i);
	pc_inode_leaf_unlock(i);
}

void pc_work_push_commit(struct pc_inode *i)
{
	struct pc_volume *v = i->volume;
	PC_DEBUG_ASSERT(!i->dead);
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	push(v, &i->work_commit, PC_WORK_COMMIT);
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	if (i != own)
		pc_work_wake(v);
}

void pc_job_push(struct pc_volume *v, uint32_t cls)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	v->jobs[cls]++;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	pc_work_wake(v);
}

static void take(struct pc_volume *v, u32 cls, struct pc_work *w)
{
	struct pc_list *l = v->work[cls].next;
	pc_list_del(l);
	v->nr_work[cls]--;
	w->cls = cls;
	if (cls == PC_WORK_COMMIT) {
		w->kind = PC_WORK_COMMITTING;
		w->inode = PC_ENTRY(l, struct pc_inode, work_commit);
	} else if (cls == PC_WORK_INTEGRITY || cls == PC_WORK_BACKGROUND) {
		w->kind = PC_WORK_PASS;
		w->inode = PC_ENTRY(l, struct pc_inode, work_pass);
		w->inode->pass.queued = 0;
	} else {
		w->kind = PC_WORK_REQUEST;
		w->request = PC_ENTRY(l, struct pc_request, link);
		atomic_store_explicit(&w->request->queue, NULL, memory_order_relaxed);
		w->inode = w->request->inode;
	}
	atomic_fetch_add(&w->inode->users, 1);
}

/* Take the most urgent work that may run now on a thread of the volume. Work that carries bytes comes with a credit
 * (returned by the end of the request, or pc_credit_put). The caller ends low classes with pc_work_end and the inode's
 * use with pc_inode_user_put. w->kind PC_WORK_NONE: sleep on the volume's event. */
void pc_work_next(struct pc_volume *v, struct pc_work *w)
{
	*w = (struct pc_work){.kind = PC_WORK_NONE};
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	for (u32 cls = 0; cls < PC_WORK_CLASSES && w->kind == PC_WORK_NONE; cls++) {
		bool work = v->nr_work[cls];
		if (v->jobs[cls] && !(work && v->turn)) {
			if (carries_bytes(cls) && !(w->credit = pc_credit_try(v)))
				break;
			v->jobs[cls]--;
			v->turn = 1;
			w->kind = PC_WORK_JOB;
			w->cls = cls;
		} else if (work) {
			if (low(cls) && v->low_running >= pc_max(v->max_inflight - 1, 1))
				continue; /* of two calls, one: the other is for other files */
			if (carries_bytes(cls) && !(w->credit = pc_credit_try(v)))
				break;
			take(v, cls, w);
			v->turn = 0;
			if (low(cls))
				v->low_running++;
		}
	}
	if (w->kind == PC_WORK_NONE && v->stopping)
		w->kind = PC_WORK_STOP;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
}

void pc_work_end(struct pc_volume *v, const struct pc_work *w)
{
	if (!low(w->cls))
		return;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	if (w->credit == (u32)(atomic_load(&v->credits) >> 32))
		v->low_running--;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	pc_work_resume(v);
}

/* A credit was returned: one thread of the volume takes the next piece of work, if there is any. A thread that has found
 * no credit for it looked under the lock, so either it sees this credit, or its work is seen here. */
void pc_work_resume(struct pc_volume *v)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	bool queued = is_queued_for_others(v);
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	if (queued)
		pc_work_wake(v);
}

/* ---------------------------------------------------------------- work of a caller's own file */

/* This thread is about to do the passes and commits of an inode. Until pc_work_own_end() the work of the inode that
 * this thread queues wakes no other thread. Return: the inode of an outer call, for pc_work_own_end. */
struct pc_inode *pc_work_own_begin(struct pc_inode *i)
{
	struct pc_inode *outer = own;
	own = i;
	return outer;
}

static bool queued(const struct pc_inode *i)
{
	return i->pass.queued || !pc_list_empty(&i->work_commit);
}

/* The thread does no further work of the inode; the threads of the volume do the rest. */
void pc_work_own_end(struct pc_inode *i, struct pc_inode *outer)
{
	struct pc_volume *v = i->volume;
	own = outer;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	bool left = queued(i);
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	if (left)
		pc_work_wake(v);
}

/* Take the queued commit or pass of the inode, like pc_work_next(). Return: false: there is none, or no credit. */
bool pc_work_next_own(struct pc_inode *i, struct pc_work *w)
{
	struct pc_volume *v = i->volume;
	*w = (struct pc_work){.kind = PC_WORK_NONE};
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	if (!pc_list_empty(&i->work_commit)) {
		pc_list_del(&i->work_commit);
		v->nr_work[PC_WORK_COMMIT]--;
		*w = (struct pc_work){.kind = PC_WORK_COMMITTING, .cls = PC_WORK_COMMIT};
	} else if (i->pass.queued && (w->credit = pc_credit_try(v))) {
		w->kind = PC_WORK_PASS;
		w->cls = i->pass.queued;
		pc_list_del(&i->work_pass);
		v->nr_work[w->cls]--;
		i->pass.queued = 0;
		v->low_running += low(w->cls);
	}
	if (w->kind != PC_WORK_NONE) {
		w->inode = i;
		atomic_fetch_add(&i->users, 1);
	}
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	return w->kind != PC_WORK_NONE;
}
