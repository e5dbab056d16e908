/*
 * async.h - what the types for event loops share: tickets (ticket.c), awaitables (awaitable.c), a volume's work (loopwork.c).
 */
#ifndef PC_ASYNC_H
#define PC_ASYNC_H

#include "types.h"

extern PyTypeObject *pc_ticket_type, *pc_waker_type;

PyObject *pc_ticket_new(PyObject *core, struct pc_event *event, u32 seq);
PyObject *pc_ticket_yield(PyObject *ticket);
int pc_ticket_outcome(PyObject *ticket);
void pc_return_value(PyObject *value);

#endif
