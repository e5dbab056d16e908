"""The only package that touches the extension: typed calls, buffer lifetimes, addresses.

CORE speaks in structs, negative errno values and `need`s. What the engine calls is wrapped here in three small classes
(`NativeCache`, `NativeVolume`, `NativeInode`), one method a C function, so that nothing above this module sees a
pointer. Objects that are hot or own something are C types of the extension itself and pass through as they are:
`Handle` (the hot verbs), `Op` (owner of what an operation holds), `Core` (owner of the memory).
"""

from __future__ import annotations

from .cache import NativeCache, NativeVolume, Pressure
from .extension import (
    BACKOFF,
    COMMIT,
    DIRECT,
    DIRTY,
    END,
    FAILED,
    FOREVER,
    INVALIDATE,
    KEPT,
    LOCK,
    NAMES,
    PARKED,
    SHARED,
    STAMP_MAX,
    TOKEN,
    UNSTABLE,
    WRITEBACK,
    AsyncHandle,
    Handle,
    Op,
    Ticket,
    Waker,
    enter_loop,
    inside,
    is_debug,
    make_waker,
    open_ticket,
    ticket,
    use_loops,
    wait,
)
from .inode import NativeInode

__all__ = [
    "BACKOFF",
    "COMMIT",
    "DIRECT",
    "DIRTY",
    "END",
    "FAILED",
    "FOREVER",
    "INVALIDATE",
    "KEPT",
    "LOCK",
    "NAMES",
    "PARKED",
    "SHARED",
    "STAMP_MAX",
    "TOKEN",
    "UNSTABLE",
    "WRITEBACK",
    "AsyncHandle",
    "Handle",
    "NativeCache",
    "NativeInode",
    "NativeVolume",
    "Op",
    "Pressure",
    "Ticket",
    "Waker",
    "enter_loop",
    "inside",
    "is_debug",
    "make_waker",
    "open_ticket",
    "ticket",
    "use_loops",
    "wait",
]
