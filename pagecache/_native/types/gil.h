/*
 * gil.h - where CORE lets the interpreter lock go, and takes it back.
 *
 * Simulated threads (simulated.c) are played in one thread of the system, which has the interpreter lock for all of them: none of
 * them would ever wait for it. So their scheduler is told when one lets it go, and asked before one takes it back: there it
 * waits for whoever stands still with it. A thread that simulates nobody has no scheduler, and loses nothing.
 *
 * Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS mean this in all of CORE, and in the functions that cffi makes (build.py).
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

/* Between two byte codes the interpreter lock may change hands. What Python calls again and again begins with this, where no call in
 * between lets the lock go: or a simulated thread would keep it for ever. */
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
