/*
 * types.h - shared by the Python types of CORE: op*.c, exporters.c and handle*.c.
 *
 * They are compiled into the cffi module against the limited API of 3.11 and derive everything from heap types, so that
 * one wheel serves all versions. Rules of these files: no Python call under a leaf lock; everything that a call owns in
 * CORE is in an Op, which the C entry holds and settles on every return, also after any exception from the engine
 * (contract 2.1.3).
 */
#ifndef PC_TYPES_H
#define PC_TYPES_H

#if !defined(Py_GIL_DISABLED) && !defined(Py_LIMITED_API)
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "io/io.h"
#include "types/op.h"

enum { PC_PARTS_MAX = 1024, PC_WAIT_SLICE_NS = 100 * 1000 * 1000 };

/* Methods and functions of the module. */
typedef PyObject *pc_method(PyObject *self, PyObject *argument);
typedef PyObject *pc_fast(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

/* The result of a step of a call that may wait: for locks, memory, or the backend. */
enum pc_result {
	PC_FAILED = -1, /* an exception is set; pc_raise() returns it */
	PC_DONE,
	PC_TRY_AGAIN, /* the condition that was in the way may be gone */
	PC_UNCACHED,  /* bytes cannot be cached now: a read goes past the cache, a write waits for memory */
};

/* A sleep of a thread (spans.c): begun before the first sleep, if there is one; ended in any case. */
struct pc_sleep {
	struct pc_cache *cache; /* NULL: not begun */
	struct pc_wait wait;
	u32 record; /* of the register, 0: none */
};

/* Cache, frames and exporters share one owner of the mapping. */
struct core {
	PyObject_HEAD struct pc_cache *cache;
	PyObject *error; /* callable(kind, engine object or None, message) -> exception */
};

extern PyTypeObject *pc_core_type, *pc_op_type, *pc_buf_type, *pc_pin_type, *pc_handle_type;
extern _Thread_local struct op *pc_tls_op;
extern _Thread_local bool
	pc_tls_loop; /* this is the thread of a cache's event loop, which must not wait for its volumes */
extern PyObject *pc_inside_calls; /* blocking.c */

/* A backend call of a volume, or work of a thread of the volume, that runs in this thread; innermost first. */
struct pc_inside {
	struct pc_volume *volume;
	const struct pc_inside *outer;
	bool helper; /* the thread is one of the volume's */
};
extern _Thread_local const struct pc_inside *pc_tls_inside;

/* blocking.c: the exception that is set, or NULL, taken and set again */
PyObject *pc_take_exception(void);
void pc_put_exception(PyObject *error);
int pc_to_pointer(PyObject *value, void *out);
int pc_raise(PyObject *core, PyObject *engine, const char *kind, const char *message);
int pc_wait_event(struct pc_event *e, u32 seq, i64 timeout_ns);
int pc_check_reentry(struct pc_inode *i, PyObject *core, const char *what);
int pc_inside_call(struct pc_volume *v);
enum pc_result pc_wait_folio(struct pc_inode *i, PyObject *core, const struct pc_need *need);
enum pc_result pc_wait_fill(struct pc_inode *i, PyObject *core, const struct pc_need *need);
enum pc_result pc_wait_invalidate(struct pc_inode *i, PyObject *core);
int pc_wait_credit(struct pc_inode *i, PyObject *core, u32 *credit);
enum pc_result pc_engine_room(struct pc_inode *i, u64 pos, u64 len, const struct pc_place *place, bool locked);

/* waiting.c: waits and operations */
extern struct pc_list pc_operations; /* the unsettled ones; under the GIL */
void pc_op_claims(struct op *op);
pc_method pc_waits, pc_calls, pc_waiting, pc_uninterrupted;

struct op *pc_op_new(PyObject *core, struct pc_inode *i, int kind, struct pc_request *r);
struct op *pc_op_caller(PyObject *core, struct pc_inode *i);
enum pc_result pc_op_run(struct op *op, PyObject *method, PyObject *argument);
int pc_op_acquire(struct op *op, u32 holds, i64 deadline_ns);
bool pc_may_call(const struct pc_volume *v);
enum pc_result pc_run_fill(PyObject *core, struct pc_inode *i, u64 pos, u64 len, struct pc_readahead *ra);
enum pc_result pc_provide(PyObject *core, struct pc_inode *i, const struct pc_need *need);
enum pc_result pc_fill_all(PyObject *core, struct pc_inode *i, u64 pos, u64 end, int tries);
void pc_op_extent(const struct op *op, u64 *start, u64 *end);
enum pc_result pc_run_uncached(PyObject *core, struct pc_inode *i, u64 pos, u64 len, u8 *to);

/* spans.c */
struct pc_wait pc_wait_of(struct pc_inode *i, u32 kind, u64 pos, u64 end);
void pc_sleep_begin(struct pc_sleep *s, struct pc_cache *c, const struct pc_wait *w);
void pc_sleep_end(struct pc_sleep *s, bool failed);
void pc_io_begin(struct pc_io *io, struct pc_inode *i, u32 what, u32 timed, u64 pos, u64 len);
void pc_io_end(struct pc_io *io, bool failed);
void pc_io_leave(struct pc_io *io);
pc_method pc_trace_into, pc_trace_event;

/* op_calls.c */
void pc_op_impossible(struct op *op, PyObject *answer);
PyObject *pc_op_fill(struct op *op, PyObject *engine);
PyObject *pc_op_write(struct op *op, PyObject *engine);
PyObject *pc_op_commit(struct op *op, PyObject *engine, PyObject *method);
void pc_op_end_write(struct op *op, bool ok, bool parked);
void pc_op_end_call(struct op *op);
pc_method pc_op_begin, pc_op_complete, pc_op_send_commit, pc_op_ended;
struct pc_driver;
i64 pc_call_driver(struct op *op, const struct pc_driver *driver, u64 pos, const struct pc_part *parts, size_t n);

PyObject *pc_buf_new(PyObject *core, bool readonly);
PyObject *pc_buf_view(PyObject *buf, u8 *memory, u64 len);
bool pc_buf_exported(PyObject *buf);
void pc_buf_export(PyObject *buf);
void pc_buf_release(PyObject *buf);
void pc_buf_keep(PyObject *buf, u32 *frames, u32 n, void *memory);
pc_method pc_view_open, pc_work;

void pc_report_stale(u32 report);
pc_method pc_sync_go, pc_revoke, pc_stragglers;

/* blocking.c: event loops */
void pc_report_failure(u32 report);
pc_method pc_enter_loop, pc_use_inside, pc_inside_volumes;

/* op_direct.c */
bool pc_op_direct_settle(struct op *op);
void pc_op_direct_fence(struct pc_volume *v);
i64 pc_direct_read(PyObject *core, struct pc_inode *i, u64 pos, u8 *to, u64 len, PyObject **met);
pc_method pc_op_take, pc_op_release_lock, pc_op_direct_share, pc_op_direct_begin, pc_op_direct_end, pc_op_carry,
	pc_op_send, pc_op_read, pc_run_owning;

void pc_submit_fills(struct pc_inode *i, u64 pos, u64 end, u32 cls, int windows);

/* The engine's object of a file; borrowed. Context: GIL. */
static inline PyObject *engine_of(struct pc_inode *i)
{
	return (PyObject *)i->user;
}

/* A frame, a view or an operation of a closed cache was released: it may have been the last. Context: GIL, no leaf
 * lock. */
static inline void pc_core_release(PyObject *core)
{
#ifndef Py_GIL_DISABLED
	pc_cache_release(((struct core *)core)->cache);
#else
	(void)core;
#endif
}

/* Count a hit, in the only counter that every hit changes: under the interpreter's lock, or without one as an atomic.
 * Other counters change under the leaf lock (pc_count). */
static inline void pc_count_hit(struct pc_inode *i)
{
#ifdef Py_GIL_DISABLED
	__atomic_fetch_add(&i->counters.hits, 1, __ATOMIC_RELAXED);
	pc_sum(pc_hits_of(i), 1);
#else
	u64 *all = &i->volume->counted.hits;
	__atomic_store_n(&i->counters.hits, i->counters.hits + 1, __ATOMIC_RELAXED);
	__atomic_store_n(all, *all + 1, __ATOMIC_RELAXED);
#endif
}

int pc_install_core(PyObject *module);
int pc_install_op(PyObject *module);
int pc_install_exporters(PyObject *module);
int pc_install_handle(PyObject *module);
int pc_install_names(PyObject *module);
int pc_install_signals(PyObject *module);

/* names.c */
struct descriptor { /* owns it from the system call on: no signal handler runs in between */
	PyObject_HEAD int fd;
	bool is_path; /* its close does nothing that may take long */
};
PyObject *pc_fd_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);

/* local_file.c: a file of a backend whose bytes C moves */
struct pc_driver {
	struct local_file *file;
	bool write;
};
bool pc_driver_of(PyObject *method, struct pc_driver *driver);
i64 pc_driver_move(const struct pc_driver *driver, u64 pos, const struct pc_part *parts, size_t n);
PyObject *pc_moved(i64 moved);
int pc_install_local_file(PyObject *module, PyObject *descriptor);

/* Names of the engine's methods, and of verbs. */
#define PC_STRINGS(X)                                                                                                  \
	X(fill)                                                                                                        \
	X(write)                                                                                                       \
	X(write_units)                                                                                                 \
	X(commit)                                                                                                      \
	X(commit_here)                                                                                                 \
	X(release)                                                                                                     \
	X(read_into)                                                                                                   \
	X(write_from)                                                                                                  \
	X(write_met)                                                                                                   \
	X(written)                                                                                                     \
	X(bound_commit)                                                                                                \
	X(committed)                                                                                                   \
	X(commit_met) X(read_staged) X(read_aside) X(outlast_refusal)
#define PC_STRING(name) extern PyObject *pc_str_##name;
PC_STRINGS(PC_STRING)

void pc_nap(i64 ns);

#endif
