/*
 * async.h - shared by the types for event loops: tickets (ticket.c), awaitables (awaitable*.c, async_handle.c), a
 * volume's work (loopwork.c).
 */
#ifndef PC_ASYNC_H
#define PC_ASYNC_H

#include "types/types.h"

extern PyTypeObject *pc_ticket_type, *pc_waker_type;

PyObject *pc_ticket_new(PyObject *core, struct pc_event *event, u32 seq, const struct pc_wait *wait, PyObject *reason);
void pc_ticket_waiter(PyObject *self, PyObject **wakes, PyObject **loop);
PyObject *pc_ticket_yield(PyObject *ticket);
int pc_ticket_outcome(PyObject *ticket);
void pc_return_value(PyObject *value);

struct async_handle {
	PyObject_HEAD PyObject *file; /* the CachedFile */
};
enum verb { PREAD, PREAD_INTO, PWRITE, APPEND };

PyObject *pc_awaitable_new(PyObject *owner, int verb, PyObject *target, u64 len, u64 pos);

#endif
