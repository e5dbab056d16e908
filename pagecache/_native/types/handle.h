/*
 * handle.h - the fields of a handle, and the checks at the start of every verb (handle.c, handle_read.c,
 * handle_write.c, handle_claim.c).
 */
#ifndef PC_HANDLE_H
#define PC_HANDLE_H

#include "types/types.h"

enum {
	PC_PIECE = 4 << 20,
	PC_ROUNDS_CACHED = 16,
	PC_ROUNDS_BUDGET = 4,
	PC_TURN_NS = 1000 * 1000,
	PC_ASIDE_NS = 20 * 1000
};

struct handle {
	struct pc_inode *inode;
	PyObject *core; /* borrowed: the subclass keeps it (and the inode's object) alive in its attributes */
	u64 position;
	u64 gil_release;
	struct pc_readahead ra;
	u8 readable, writable, appends, through, closed, may_fault, noreuse, direct;
	u8 wrote; /* bytes may have been written through it */
};

enum { HANDLE_OPEN, HANDLE_CLOSED, HANDLE_SHUT, HANDLE_REPLACED };
enum { FAULT_AUTO, FAULT_ALWAYS, FAULT_NEVER };

extern Py_ssize_t pc_handle_base; /* offset of the handle's fields, after the base type's */
extern PyObject *pc_unsupported;  /* io.UnsupportedOperation */

int pc_refused(struct handle *h);
int pc_to_u64_slow(PyObject *value, const char *what, u64 *out);
int pc_to_i64(PyObject *value, const char *what, i64 *out);
/* Size of the buffers of one call, and whether any of them is memory of the cache. */
struct segments {
	u64 total;
	bool cached;
};

int pc_check_segments(struct handle *h, PyObject *buffers, int flags, struct segments *s);
bool pc_may_fault(const struct handle *h, PyObject *object);
void *pc_bounce_new(struct handle *h, u64 len);
int pc_copy_outside(struct handle *h, void *to, const void *from, u64 len, bool in);

int pc_refuse(struct handle *h, PyObject *error, const char *why);
int pc_swapped(PyObject *const *args, const char *verb, const char *what);
PyObject *pc_new_bytes(u64 len, u64 pos);
PyObject *pc_shorten(PyObject *bytes, i64 n);

static inline struct handle *handle_of(PyObject *self)
{
	return (struct handle *)((char *)self + pc_handle_base);
}

static inline int check_open(struct handle *h)
{
	return PC_LIKELY(h->inode && !h->closed && !pc_is_forked(h->inode->cache)) ? 0 : pc_refused(h);
}

static inline int check_readable(struct handle *h)
{
	if (check_open(h))
		return -1;
	if (PC_LIKELY(h->readable))
		return 0;
	return pc_refuse(h, pc_unsupported, "File not open for reading");
}

static inline int check_writable(struct handle *h)
{
	if (check_open(h))
		return -1;
	if (PC_LIKELY(h->writable))
		return 0;
	return pc_refuse(h, pc_unsupported, "File not open for writing");
}

static inline int check_nargs(const char *name, Py_ssize_t nargs, Py_ssize_t wanted)
{
	if (PC_LIKELY(nargs == wanted))
		return 0;
	PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd arguments (%zd given)", name, wanted, nargs);
	return -1;
}

/* A byte count or offset: an int that is not negative and fits 63 bits. */
static inline int to_u64(PyObject *value, const char *what, u64 *out)
{
	if (PC_LIKELY(PyLong_Check(value))) {
		int overflow;
		long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
		*out = (u64)n;
		if (PC_LIKELY(n >= 0 && !overflow))
			return 0;
	}
	return pc_to_u64_slow(value, what, out);
}

/* Get the buffer that a read fills, or a write takes. Return: 0, -1. */
static inline int get_buffer(PyObject *object, bool fills, Py_buffer *view)
{
	if (!PyObject_GetBuffer(object, view, fills ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_SIMPLE))
		return 0;
	if (PyErr_ExceptionMatches(PyExc_BufferError))
		PyErr_Format(PyExc_TypeError, "a %scontiguous bytes-like object is required%s",
			     fills ? "writable, " : "", fills ? ", not one that is read-only or strided" : "");
	return -1;
}

/* The part of a read that lies before the end of the file. */
static inline u64 clip(struct handle *h, u64 pos, u64 len)
{
	u64 size = pc_inode_size(h->inode);
	return pos >= size ? 0 : pc_min(len, size - pos);
}

/* The arguments of a verb that takes data or buffers, and an offset. @what: the first one. Return: 0, -1. */
static inline int offset_arguments(struct handle *h, const char *verb, const char *what, bool writes,
				   PyObject *const *args, Py_ssize_t nargs, u64 *pos)
{
	if (check_nargs(verb, nargs, 2) || (writes ? check_writable(h) : check_readable(h)))
		return -1;
	return PC_LIKELY(!to_u64(args[1], "offset", pos)) ? 0 : pc_swapped(args, verb, what);
}

/* The arguments of a verb that reads a number of bytes at an offset. Return: 0, -1. */
static inline int read_arguments(struct handle *h, const char *verb, PyObject *const *args, Py_ssize_t nargs, u64 *size,
				 u64 *pos)
{
	bool wrong = check_nargs(verb, nargs, 2) || check_readable(h) || to_u64(args[0], "size", size) ||
		     to_u64(args[1], "offset", pos);
	return wrong ? -1 : 0;
}

/* handle_read.c, handle_write.c, handle_claim.c */
PyObject *pc_try_read(struct handle *h, u64 pos, u64 size);
void pc_read_seen(struct handle *h, u64 pos, u64 len);
void pc_met_marker(struct handle *h, struct pc_need *need);
PyObject *pc_try_write(struct handle *h, u64 pos, const u8 *from, u64 len);
PyObject *handle_append(PyObject *self, PyObject *args, PyObject *kwargs);
pc_fast handle_pread, handle_pread_into, handle_preadv, handle_try_pread, handle_read, handle_pwrite, handle_pwritev,
	handle_try_pwrite;
pc_method handle_readall, handle_readinto, handle_zero, handle_write;

/* handle_write.c */
void pc_characters_written(u64 done);

/* handle_claim.c */
enum pc_result pc_write_slow(struct handle *h, u64 *pos, const u8 *from, u64 len, u64 done, bool append, bool locked);

static inline i64 pc_core_write(struct handle *h, u64 pos, const u8 *from, u64 len, struct pc_need *need)
{
	i64 n;
	h->wrote = 1;
	if (PC_LIKELY(len < h->gil_release))
		return pc_write(h->inode, pos, from, len, need);
	Py_BEGIN_ALLOW_THREADS n = pc_write(h->inode, pos, from, len, need);
	Py_END_ALLOW_THREADS return n;
}

/* handle_segments.c */
int pc_get_segment(PyObject *buffers, Py_ssize_t k, int flags, Py_buffer *view);
int pc_segments_tangled(struct handle *h, PyObject *buffers, u64 pos, bool reads, const struct segments *s);
PyObject *pc_segments_join(struct handle *h, PyObject *buffers, u64 total);
int pc_segments_spread(struct handle *h, PyObject *buffers, const u8 *from, u64 len);
pc_method handle_joined, handle_tangled, handle_spread, handle_steady;
/* handle_task.c */
pc_fast handle_hit_pread, handle_hit_pread_into, handle_hit_pwrite;
pc_method handle_open_hit, handle_close_hit, handle_move_window;

#endif
