/*
 * awaitable.h - one read or write of a task: its life as a coroutine (awaitable.c) and its steps (awaitable_step.c).
 * Start reading at awaitable.c.
 */
#ifndef PC_AWAITABLE_H
#define PC_AWAITABLE_H

#include "types/async.h"
#include "types/handle.h"

enum state { NEW, RUNNING, SUSPENDED, OVER };
enum step { STEP_ERROR = -1, STEP_DONE, STEP_WAIT, STEP_TURN, STEP_ASIDE };

struct awaitable {
	PyObject_HEAD struct pc_list reading;
	PyObject *owner;  /* AsyncCachedFile */
	PyObject *target; /* buffer of the caller */
	PyObject *bytes;  /* PREAD: the result */
	PyObject *ticket; /* the awaited ticket */
	PyObject *sub;    /* the engine's coroutine for the slow path */
	PyObject *error;  /* of the fill that it requested */
	Py_buffer view;
	u8 *memory; /* to read into, or write from */
	void *bounce;
	u64 pos, len, done;
	struct pc_span call; /* of a trace */
	u32 report;
	int rounds;
	u8 verb, state, missed, asking, through;
	u8 lent; /* `rest` runs in another thread, which uses the memory until it returns */
};

static inline struct handle *handle_of_owner(const struct awaitable *a)
{
	return handle_of(((struct async_handle *)a->owner)->file);
}

int pc_await_prepare(struct awaitable *a);
int pc_await_step(struct awaitable *a);
int pc_await_rest(struct awaitable *a);
PyObject *pc_await_result(struct awaitable *a);
void pc_await_settle(struct awaitable *a);
void pc_await_traced(struct awaitable *a);
void pc_await_announce(struct awaitable *a);

#endif
