/*
 * gil.h - the places at which CORE releases and takes the interpreter lock.
 *
 * Simulated threads (simulated.c) run in one thread of the system, which has the interpreter lock for all of them, so
 * none of them would ever wait for it. So their scheduler is called when one releases the lock and before one takes it
 * back; the latter waits there for a thread that stands still with the lock. A thread that is not simulated has no
 * scheduler, at no cost.
 *
 * Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS mean this in all of CORE, and in the functions that cffi makes
 * (_native/build.py).
 */
#ifndef PC_GIL_H
#define PC_GIL_H

#include <Python.h>

#include "base/scheduler.h"

static inline PyThreadState *pc_gil_release(void)
{
	PyThreadState *thread = PyEval_SaveThread();
	if (PC_UNLIKELY(pc_scheduler))
		pc_scheduler->gil_released();
	return thread;
}

static inline void pc_gil_take(PyThreadState *thread)
{
	if (PC_UNLIKELY(pc_scheduler))
		pc_scheduler->gil_wanted();
	PyEval_RestoreThread(thread);
}

/* Between two byte codes the interpreter lock may change hands. A function that Python calls in a loop begins with this
 * unless a call inside releases the lock. Otherwise a simulated thread would keep it indefinitely. */
static inline void pc_gil_point(const char *point)
{
	if (PC_UNLIKELY(pc_scheduler))
		pc_scheduler->gil_point(point);
}

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS                                                                                         \
	{                                                                                                              \
		PyThreadState *released = pc_gil_release();
#define Py_END_ALLOW_THREADS                                                                                           \
	pc_gil_take(released);                                                                                         \
	}

#endif
