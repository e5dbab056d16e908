/*
 * async.h - shared by the types for event loops: tickets (ticket.c), reads and writes of tasks (handle_begin.c,
 * steps.c).
 */
#ifndef PC_ASYNC_H
#define PC_ASYNC_H

#include "types/types.h"

extern PyTypeObject *pc_ticket_type, *pc_waker_type;

PyObject *pc_ticket_new(PyObject *core, struct pc_event *event, u32 seq, const struct pc_wait *wait, PyObject *reason);
void pc_ticket_waiter(PyObject *self, PyObject **task, PyObject **loop);

/* steps.c */
enum { PC_LOOP_PIECE = 256 << 10 }; /* longest copy between two turns of the loop */
enum verb { PREAD, PREAD_INTO, PWRITE, APPEND };

PyObject *pc_steps_new(PyObject *file, int verb, PyObject *target, PyObject *bytes, u64 len, u64 pos, u64 done);

#endif
