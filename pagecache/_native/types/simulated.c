/*
 * simulated.c - CORE under a scheduler in Python, which handles every sleep, wake-up and point of one thread of the
 * system.
 *
 * The stress tester can run all threads of a cache as greenlets of one thread (pagecache/stress/deterministic). That
 * thread calls simulate(handle). From then on CORE, when it runs in this thread,
 *
 *   sleeps        handle(WAIT, None, address of the word, timeout in ns or -1): 0 woken, else the errno
 *   wakes         handle(WAKE, None, address, how many), perhaps with a leaf lock: no other thread runs before a point
 *   gives way     handle(YIELD, None, 0, 0): another thread has to run first
 *   passes points counts them; after `left` of them handle(POINT, name, 0, 0): here another thread may continue
 *   reads clocks  sees the virtual one: `now_ns`, and `tick_ns` for each point
 *
 * The interpreter lock is simulated too, as parts of the product rely on it. `handle` receives the thread's state of the
 * lock (enum simulated_gil). A thread that stops within CORE with the lock keeps it. Until it resumes, only threads
 * that have released the lock run, each until it takes the lock back (gil.h). While Python code runs, the lock may
 * change hands at any point.
 *
 * In `handle` the scheduler switches to another greenlet, and returns when this one is chosen again. CORE's state of a
 * thread (its operations, its volume) is put aside during the switch; each thread restores its own. Greenlets share the
 * stack of their thread, copied out and in, so no thread may write to the stack of another one. Operations, their
 * places in queues and the records of waits are outside of stacks for other reasons, which also serves this one.
 *
 * Context: `handle` is called with the interpreter lock, which is taken if CORE has released it, and without a leaf lock
 * except for WAKE.
 */
#include "types/types.h"

static _Thread_local PyObject *handler; /* the scheduler, borrowed from the caller of simulate(); NULL: none */
static _Thread_local struct pc_simulation simulation;

static _Thread_local bool without_gil; /* the running simulated thread has released the interpreter lock */
static _Thread_local bool gil_kept;    /* a thread that stands still within CORE has it */

enum { SIMULATED_POINT, SIMULATED_WAIT, SIMULATED_WAKE, SIMULATED_YIELD };
/* States of a thread: continues without the interpreter lock; has it and keeps it; continues once the lock is free. */
enum simulated_gil { GIL_WITHOUT, GIL_KEPT, GIL_WANTED };

struct pc_simulation *pc_simulation(void)
{
	return &simulation;
}

/* CORE's thread-local state. */
struct thread_state {
	struct op *op;
	const struct pc_inside *inside;
	struct pc_inode *own;
	u64 thread;
	bool loop, without_gil;
};

static struct thread_state put_aside(void)
{
	struct thread_state s = {pc_tls_op,	    pc_tls_inside, pc_work_own_begin(NULL),
				 simulation.thread, pc_tls_loop,   without_gil};
	pc_tls_op = NULL;
	pc_tls_inside = NULL;
	pc_tls_loop = false;
	without_gil = false;
	return s;
}

static void take_up(const struct thread_state *s)
{
	pc_tls_op = s->op;
	pc_tls_inside = s->inside;
	pc_work_own_begin(s->own);
	pc_tls_loop = s->loop;
	without_gil = s->without_gil;
	simulation.thread = s->thread;
}

static int call_handler_as(enum simulated_gil how, int what, const char *point, const void *word, i64 number)
{
	PyObject *type, *value, *traceback;
	PyGILState_STATE gil = PyGILState_Ensure();
	PC_DEBUG_ASSERT((gil == PyGILState_UNLOCKED) == without_gil);
	PyErr_Fetch(&type, &value, &traceback);
	struct thread_state s = put_aside();
	if (how == GIL_KEPT)
		gil_kept = true;
	PyObject *answer = PyObject_CallFunction(handler, "izKLi", what, point, (unsigned long long)(uintptr_t)word,
						 (long long)number, (int)how);
	if (how == GIL_KEPT)
		gil_kept = false;
	take_up(&s);
	long result = answer ? PyLong_AsLong(answer) : -1;
	Py_XDECREF(answer);
	if (PyErr_Occurred())
		PyErr_WriteUnraisable(handler);
	PyErr_Restore(type, value, traceback);
	PyGILState_Release(gil);
	return (int)result;
}

static int call_handler(int what, const char *point, const void *word, i64 number)
{
	return call_handler_as(without_gil ? GIL_WITHOUT : GIL_KEPT, what, point, word, number);
}

static int simulated_wait(_Atomic u32 *word, i64 timeout_ns)
{
	simulation.points++;
	return -call_handler(SIMULATED_WAIT, NULL, word, timeout_ns);
}

static void simulated_wake(_Atomic u32 *word, int n)
{
	simulation.points++;
	call_handler(SIMULATED_WAKE, NULL, word, n);
}

static void simulated_yield(void)
{
	simulation.points++;
	call_handler(SIMULATED_YIELD, NULL, NULL, 0);
}

static void simulated_point(const char *point)
{
	simulation.points++;
	if (--simulation.left <= 0 && (without_gil || simulation.others || simulation.left < -simulation.most))
		call_handler(SIMULATED_POINT, point, NULL, 0);
}

static void simulated_gil_released(void)
{
	without_gil = true;
	simulation.points++;
	if (--simulation.left <= 0 || simulation.again)
		call_handler(SIMULATED_POINT, "gil_released", NULL, 0);
}

static void simulated_gil_wanted(void)
{
	simulation.points++;
	if (--simulation.left <= 0 || simulation.again || gil_kept)
		call_handler_as(GIL_WANTED, SIMULATED_POINT, "gil_wanted", NULL, 0);
	without_gil = false;
}

static void simulated_gil_point(const char *point)
{
	simulation.points++;
	if (--simulation.left <= 0 || simulation.again)
		call_handler_as(GIL_WANTED, SIMULATED_POINT, point, NULL, 0);
}

static i64 simulated_now_ns(void)
{
	return simulation.now_ns + (i64)simulation.points * simulation.tick_ns;
}

static u64 simulated_thread(void)
{
	return simulation.thread;
}

static const struct pc_scheduler scheduler = {.wait = simulated_wait,
					      .wake = simulated_wake,
					      .yield = simulated_yield,
					      .point = simulated_point,
					      .gil_released = simulated_gil_released,
					      .gil_wanted = simulated_gil_wanted,
					      .gil_point = simulated_gil_point,
					      .now_ns = simulated_now_ns,
					      .thread = simulated_thread};

/* simulate(handle): simulate this thread from now on; None: no longer. The caller keeps a reference to `handle`. */
PyObject *pc_simulate(PyObject *module, PyObject *callable)
{
	(void)module;
	handler = callable == Py_None ? NULL : callable;
	pc_scheduler = handler ? &scheduler : NULL;
	simulation = (struct pc_simulation){.left = 1};
	without_gil = gil_kept = false;
	Py_RETURN_NONE;
}

/* point(): a point of Python code. */
PyObject *pc_simulated_point(PyObject *module, PyObject *name)
{
	(void)module;
	if (pc_scheduler) {
		simulation.points++;
		if (--simulation.left <= 0 || simulation.again) {
			PyObject *text = PyUnicode_AsUTF8String(name);
			if (!text)
				return NULL;
			call_handler_as(GIL_WANTED, SIMULATED_POINT, PyBytes_AsString(text), NULL, 0);
			Py_DECREF(text);
		}
	}
	Py_RETURN_NONE;
}

/* away(call): call a function that switches to another simulated thread, and returns when this one runs again. */
PyObject *pc_simulated_away(PyObject *module, PyObject *callable)
{
	(void)module;
	struct thread_state s = put_aside();
	PyObject *result = PyObject_CallNoArgs(callable);
	take_up(&s);
	return result;
}
