/*
 * op_state.c - the life of an operation: its states, every transition between them, and its end.
 *
 *   open ◄──► in call            one backend call after the other
 *    ├──────► ended ────┐        a write whose request has ended
 *    ├──────► left ─────┤        a direct write without a caller
 *    └──────────────────┴──────► settled, revoked
 *
 *   open → in call      begin_call, begin_uncached (op_calls.c), pc_op_read   the backend has buffers of the operation
 *   in call → open      pc_op_end_call, pc_op_read                            its call was answered, or is given up
 *   open → ended        op_finish (op.c)                                      a write gave its request back
 *   open → left         pc_op_direct_settle (op_direct.c)                     its caller has gone, its calls still run
 *   open → settled      pc_op_settle; of a commit also op_finish              it owns nothing any longer
 *   ended, left → settled    pc_op_settle
 *   open, ended → revoked    pc_op_end       another thread settled it: its own thread notices and starts again
 *   in call → settled, revoked    the same, in a forked child: there the call is not ended
 *
 * pc_op_move() makes each of them, and is the only writer of `state`; the table below says for which kinds it may. A
 * token that is lent (op_call) is no state: the call that has it may outlive the operation.
 *
 * Context: GIL.
 */
#include "types/types.h"

#ifdef PC_DEBUG
#include <stdio.h>
#include <stdlib.h>

enum {
	FILL = 1 << PC_OP_FILL,
	UNCACHED = 1 << PC_OP_UNCACHED,
	WRITE = 1 << PC_OP_WRITE,
	COMMIT = 1 << PC_OP_COMMIT,
	CALLER = 1 << PC_OP_CALLER,
	CALLS = FILL | UNCACHED | WRITE | CALLER,
	REVOCABLE = FILL | UNCACHED | WRITE | COMMIT,
};

/* Kinds that may go from the first state to the second. */
static const u8 allowed[OP_STATES][OP_STATES] = {
	[OP_OPEN] = {[OP_IN_CALL] = CALLS,
		     [OP_ENDED] = WRITE,
		     [OP_LEFT] = CALLER,
		     [OP_SETTLED] = CALLS | COMMIT,
		     [OP_REVOKED] = REVOCABLE},
	[OP_IN_CALL] = {[OP_OPEN] = CALLS, [OP_SETTLED] = CALLS, [OP_REVOKED] = REVOCABLE},
	[OP_ENDED] = {[OP_SETTLED] = WRITE, [OP_REVOKED] = WRITE},
	[OP_LEFT] = {[OP_SETTLED] = CALLER},
};

/* Check the transition, and that the fields fit the new state. */
static void check_move(const struct op *op, enum op_state to)
{
	if (!(allowed[op->state][to] >> op->kind & 1)) {
		fprintf(stderr, "pagecache: an operation of kind %d went from state %d to state %d\n", op->kind,
			op->state, (int)to);
		abort();
	}
	if (to == OP_IN_CALL && op->kind != PC_OP_CALLER)
		PC_DEBUG_ASSERT(transfer_of(op)->views || transfer_of(op)->buf);
	if (to == OP_ENDED)
		PC_DEBUG_ASSERT(!transfer_of(op)->request && !transfer_of(op)->views);
	if (to == OP_LEFT)
		PC_DEBUG_ASSERT(caller_of(op)->calls && caller_of(op)->holds & PC_HOLD_DIRECT);
}

/* A settled operation owns nothing. */
static void check_settled(const struct op *op)
{
	PC_DEBUG_ASSERT(op_is_settled(op) && !request_of(op) && !holds_of(op));
	PC_DEBUG_ASSERT(op->listed.next == &op->listed);
	if (op_transfers(op))
		PC_DEBUG_ASSERT(!transfer_of(op)->views && !transfer_of(op)->buf && !transfer_of(op)->io.began_ns);
}
#else
static void check_move(const struct op *op, enum op_state to)
{
}

static void check_settled(const struct op *op)
{
}
#endif

/* Change the state. A debug build aborts on a transition that the table does not have. */
void pc_op_move(struct op *op, enum op_state to)
{
	check_move(op, to);
	op->state = (u8)to;
}

/* Whether the volume was aborted since the operation began: it makes no more calls, and its answers only end its
 * holds. */
bool pc_op_stopped(const struct op *op)
{
	const struct pc_request *r = request_of(op);
	u64 generation = op->kind == PC_OP_WRITE && r ? r->generation
			 : op->kind == PC_OP_COMMIT   ? op->inode->commit_generation
						      : op->generation;
	return op_is_settled(op) || pc_stopped(op->inode, generation);
}

/* Refuse a call of the backend if the volume has ended. Return: 0, -1 exception. */
int pc_op_refused(struct op *op)
{
	if (pc_op_stopped(op))
		return pc_raise(op->core, engine_of(op->inode), "shutdown", "the volume was aborted");
	if (atomic_load(&op->inode->volume->closing))
		return pc_raise(op->core, engine_of(op->inode), "shutdown", "the volume of this file is detached");
	return 0;
}

/* Return: 0; -1 with an exception: it is settled and owns nothing. */
int pc_op_check(struct op *op)
{
	if (!op_is_settled(op))
		return 0;
	PyErr_SetString(PyExc_ValueError, "the operation is settled");
	return -1;
}

/* Whether an operation of this thread has one of these holds of the inode, or waits for it, and ends no sooner than what
 * the thread does now: in a signal handler it must not wait for that. One that was left ends without it. */
bool pc_op_holds_here(const struct pc_inode *i, u32 holds)
{
	u64 here = pc_thread_id();
	for (struct pc_list *l = pc_operations.next; l != &pc_operations; l = l->next) {
		const struct op *op = PC_ENTRY(l, struct op, listed);
		if (op->inode == i && op->thread == here && op->state != OP_LEFT && claims_of(op) & holds)
			return true;
	}
	return false;
}

/* ---------------------------------------------------------------- the end */

/* Release the token of an operation. If its backend call still runs elsewhere, that call keeps the token, unless a
 * fence cut it off. */
static void leave_token(struct op *op)
{
	struct pc_inode *i = op->inode;
	pc_inode_leaf_lock(i);
	if (caller_of(op)->lent && caller_of(op)->turn == i->token_turn) {
		i->token = PC_TOKEN_STRAY;
		pc_event_wake(&i->event);
	} else {
		pc_token_release_locked(i);
	}
	pc_inode_leaf_unlock(i);
}

/* Release the inode lock, if the operation has it. */
void pc_op_unlock(struct op *op)
{
	u32 *holds = &caller_of(op)->holds;
	if (*holds & PC_HOLD_LOCK_S)
		pc_inode_lock_release(op->inode, PC_SHARED);
	if (*holds & PC_HOLD_LOCK_X)
		pc_inode_lock_release(op->inode, PC_EXCLUSIVE);
	*holds &= ~(u32)(PC_HOLD_LOCK_S | PC_HOLD_LOCK_X);
}

static void release_holds(struct op *op)
{
	if (holds_of(op) & PC_HOLD_INVALIDATE)
		pc_invalidate_unlock(op->inode);
	if (holds_of(op) & PC_HOLD_TOKEN)
		leave_token(op);
	pc_op_unlock(op);
	caller_of(op)->holds = 0;
}

static void settle_transfer(struct op *op)
{
	struct op_transfer *t = transfer_of(op);
	struct pc_request *r = t->request;
	t->request = NULL;
	if (r)
		pc_request_settle(r);
	if (op->kind == PC_OP_UNCACHED && uncached_of(op)->credit)
		pc_credit_put(op->inode->volume, uncached_of(op)->credit);
	Py_CLEAR(t->buf);
	if (op->kind == PC_OP_UNCACHED)
		Py_CLEAR(uncached_of(op)->memory);
}

/* End the operation: release everything that it still owns. Idempotent; keeps the exception that is set; a no-op in a forked
 * child. @end: OP_REVOKED: another thread ends it, while its own may still be in a backend call. */
void pc_op_end(struct op *op, enum op_state end)
{
	if (op_is_settled(op))
		return;
	if (pc_is_forked(((struct core *)op->core)->cache)) {
		pc_list_del(&op->listed);
		pc_op_move(op, end);
		return;
	}
	if (holds_of(op) & PC_HOLD_DIRECT && pc_op_direct_settle(op))
		return;
	PyObject *error = pc_take_exception();
	pc_op_end_call(op);
	pc_list_del(&op->listed);
	pc_op_move(op, end);
	if (op->kind == PC_OP_COMMIT)
		pc_commit_end(op->inode, false, false);
	else if (op->kind == PC_OP_CALLER)
		release_holds(op);
	else
		settle_transfer(op);
	check_settled(op);
	pc_inode_user_put(op->inode);
	pc_core_release(op->core);
	pc_put_exception(error);
}

void pc_op_settle(struct op *op)
{
	pc_op_end(op, OP_SETTLED);
}
