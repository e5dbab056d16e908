/*
 * op.h - the operation object: a part that all kinds have, and a union of the parts that only some have.
 *
 *   kind                  part                       its operation
 *   FILL, WRITE           transfer                   has a request, and makes its backend calls
 *   UNCACHED              transfer, with `uncached`  reads past the cache, into memory of its own
 *   CALLER                caller                     holds logical locks for a verb, or for a method of the engine
 *   COMMIT                none                       holds the commit, which the inode describes
 *
 * The parts are reached by their accessors, which assert the kind in debug builds. The states are in op_state.c.
 */
#ifndef PC_OP_H
#define PC_OP_H

/* A call of the backend that carries bytes (spans.c). */
struct pc_io {
	i64 began_ns; /* 0: none runs */
	struct pc_volume *volume;
	u64 file, pos, len;
	u64 thread;
	u32 what; /* PC_IO_* */
	u32 timed; /* PC_TIMED_READ, PC_TIMED_WRITE */
	struct pc_pace_call pace; /* of a read */
};

enum op_state { OP_OPEN, OP_IN_CALL, OP_ENDED, OP_LEFT, OP_SETTLED, OP_REVOKED, OP_STATES };

struct op_uncached {
	PyObject *memory; /* a bytearray of `len` bytes, the result */
	u64 pos, len, got;
	u64 seen; /* PC_BY_STORAGE_SEEN before the call */
	u64 inval_seq; /* sampled before the call */
	u64 head; /* surplus bytes that the call reads first; limits may change while it runs */
	u64 most; /* bytes that the call reads for the result; surplus bytes come before and after them */
	u32 credit; /* era of its credit of the volume, 0: none */
	u32 zeros;
	u8 staged; /* this call reads bytes of S */
	u8 last; /* its bytes count whatever came between: it was made again often enough */
};

struct op_transfer {
	struct pc_request *request; /* NULL: UNCACHED, or the request has ended */
	PyObject *buf;    /* exporter of the current call's buffers; UNCACHED: a bytearray */
	PyObject *views;  /* tuple of the current call's memoryviews */
	struct pc_io io;  /* the running call */
	u8 stale; /* FILL: its bytes were invalidated again and again; UNCACHED: a truncate or another object came between */
	struct op_uncached uncached;
};

struct op_caller {
	u64 pos, end; /* of a direct write: first byte and end of the bytes sent; of a direct read: of the call */
	struct pc_waiter waiter;
	struct pc_place place; /* of a write that may wait for dirty budget */
	u64 failed; /* direct write: failed commits when it began */
	u64 shared, shared_end; /* its range, while it has the inode lock shared */
	u32 calls; /* running calls of a direct write, on threads of the volume */
	u32 holds; /* PC_HOLD_* */
	u32 wants; /* the one that it waits for */
	u32 turn; /* of the token, when `lent` was set */
	u8 lent; /* a backend call runs on another thread under its token */
	u8 acknowledged; /* a byte of a direct write was acknowledged */
};

/* The owner of everything that a call holds in CORE. Python code may keep it; once settled it owns nothing, and its
 * methods report that. */
struct op {
	PyObject_HEAD struct pc_inode *inode;
	PyObject *core;
	PyObject *answer; /* the last impossible answer, for the error message; or NULL */
	struct op *outer; /* the operation whose backend call this one was made from (thread-local chain) */
	struct pc_list listed; /* all operations that are not settled (waiting.c); under the GIL */
	u64 thread; /* thread that runs it, or owns its resources; 0: none yet */
	i64 since_ns; /* begin of its current call, or of the operation */
	u64 generation; /* the volume's, at creation */
	u64 inode_id;
	u8 kind; /* enum pc_op_kind */
	u8 state; /* enum op_state; changed by pc_op_move only */
	u8 helper; /* its thread is one of the volume's: no caller of the cache waits in it */
	u8 commit_failed; /* COMMIT: the backend's call has raised an error, even if an interrupt has taken its place */
	union {
		struct op_transfer transfer;
		struct op_caller caller;
	};
};

/* ---------------------------------------------------------------- its parts */

static inline bool op_transfers(const struct op *op)
{
	return op->kind != PC_OP_CALLER && op->kind != PC_OP_COMMIT;
}

static inline struct op_transfer *transfer_of(const struct op *op)
{
	PC_DEBUG_ASSERT(op_transfers(op));
	return (struct op_transfer *)&op->transfer;
}

static inline struct op_uncached *uncached_of(const struct op *op)
{
	PC_DEBUG_ASSERT(op->kind == PC_OP_UNCACHED);
	return (struct op_uncached *)&op->transfer.uncached;
}

static inline struct op_caller *caller_of(const struct op *op)
{
	PC_DEBUG_ASSERT(op->kind == PC_OP_CALLER);
	return (struct op_caller *)&op->caller;
}

/* Of any kind. Return: NULL: it has none, or no longer. */
static inline struct pc_request *request_of(const struct op *op)
{
	return op_transfers(op) ? op->transfer.request : NULL;
}

/* Of any kind: the logical locks that it holds. */
static inline u32 holds_of(const struct op *op)
{
	return op->kind == PC_OP_CALLER ? op->caller.holds : 0;
}

/* Those, and the one that it waits for: others wait behind it. */
static inline u32 claims_of(const struct op *op)
{
	return op->kind == PC_OP_CALLER ? op->caller.holds | op->caller.wants : 0;
}

/* Of any kind: whether the current read requests bytes of S. */
static inline bool op_reads_staged(const struct op *op)
{
	const struct pc_request *r = request_of(op);
	return r ? r->staged : op->kind == PC_OP_UNCACHED && op->transfer.uncached.staged;
}

/* ---------------------------------------------------------------- op_state.c */

static inline bool op_is_settled(const struct op *op)
{
	return op->state >= OP_SETTLED;
}

void pc_op_move(struct op *op, enum op_state to);
void pc_op_settle(struct op *op);
void pc_op_unlock(struct op *op);
void pc_op_end(struct op *op, enum op_state end);
bool pc_op_stopped(const struct op *op);
int pc_op_refused(struct op *op);
int pc_op_check(struct op *op);
bool pc_op_holds_here(const struct pc_inode *i, u32 holds);

#endif
