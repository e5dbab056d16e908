"""Access to C: constants, the C types that pass through unchanged, and plain functions."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, TypeVar

try:
    from .._native import _core
except ImportError as error:
    if find_spec("pagecache._native._core") is not None:
        raise  # it exists, and fails to load
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    raise ImportError(
        f"pagecache is imported from the checkout {folder}, whose C extension is not built: run pip install -e . "
        "there, or start Python in another directory to use an installed pagecache",
        name=error.name,
    ) from None

T = TypeVar("T")
FOREVER = 2**63 - 1
"""The end of the largest file, and of the longest sleep in nanoseconds."""
END = 2**64 - 1
STAMP_MAX = 2**48 - 2


def values(prefix: str, *names: str) -> tuple[int, ...]:
    """Return values of an enum of `pagecache.h`."""
    return tuple(int(getattr(_core.lib, prefix + name)) for name in names)


def named(prefix: str) -> dict[str, int]:
    """Return the values of an enum of `pagecache.h` by their names in lower case."""
    return {
        name.removeprefix(prefix).lower(): int(getattr(_core.lib, name))
        for name in dir(_core.lib)
        if name.startswith(prefix)
    }


LOCK, TOKEN, INVALIDATE, SHARED, DIRECTLY = values("PC_HOLD_", "LOCK_X", "TOKEN", "INVALIDATE", "LOCK_S", "DIRECT")
"""Logical locks of an inode that `NativeInode.run` can hold; SHARED: the inode lock, with others. DIRECTLY counts a
direct write.
"""

KEPT, PARKED = values("PC_COMMIT_", "KEPT", "PARKED")
"""State after a failed commit: everything kept, or a retry is useless."""

DIRTY, WRITEBACK, BACKOFF, FAILED, UNSTABLE = values(
    "PC_PENDING_", "DIRTY", "WRITEBACK", "BACKOFF", "FAILED", "UNSTABLE"
)
"""Results of `NativeInode.flush_pending` and `NativeInode.range_local`."""

SYNC_DONE, SYNC_SEND, SYNC_COMMIT, SYNC_COMMIT_FAILED, SYNC_FAILED = values(
    "PC_SYNC_", "DONE", "SEND", "COMMIT", "COMMIT_FAILED", "FAILED"
)
"""What a sync has to do next: see `NativeInode.advance`."""

COMMIT, NAMES, FILL, DIRECT = values("PC_WORK_", "COMMIT", "NAMES", "FILL", "INTEGRITY")
"""Classes of a volume's work; from FILL on it carries bytes. The engine itself submits jobs of the other three; direct
writes have the priority of data that an fsync waits for.
"""

WORK = ("commit", "names", "fill", "integrity", "background", "readahead")
"""All classes, most urgent first."""

READ_CALL, WRITE_CALL, COMMIT_CALL = values("PC_TIMED_", "READ", "WRITE", "COMMIT")
"""Kinds of backend calls whose durations are counted."""

LATENCY_BOUNDS = tuple(2**k / 1e6 for k in range(28))
"""Upper bounds in seconds: a call is counted at the first one that it did not exceed."""

WAITS = named("PC_WAIT_")
"""Kinds of waits."""

OPERATIONS = named("PC_OP_")
"""Kinds of operations."""

CALLS = named("PC_IO_")
"""Kinds of calls in a trace."""

NUMBERS = named("PC_BY_")
"""Numbers of an inode: see `pagecache.h`."""

ffi, lib = _core.ffi, _core.lib
if lib.pc_install_types():
    raise ImportError("the C extension of pagecache does not fit this version: build it by pip install again")
os.register_at_fork(after_in_child=lib.pc_forked)

LOOP_PIECE = int(lib.PC_LOOP_PIECE)
"""Most bytes that are copied between two turns of an event loop."""
Handle = _core.Handle
"""First base of CachedFile, before io.RawIOBase: the hot verbs in C."""


class Op(Protocol):
    """An operation: see `_native/types/op.c`. The receiver calls begin and complete; C settles it afterwards."""

    offset: int
    length: int
    extent: tuple[int, int]
    settled: bool
    commit_failed: bool
    """The backend's commit has raised an error, even if an interrupt has taken its place."""
    left: bool
    stopped: bool
    late: bool
    """Whether a success of the commit does not count."""
    ahead: bool
    staged: bool
    stage: bool
    answer: object

    def begin(self) -> tuple[int, tuple[memoryview, ...]] | None:
        """Return offset and buffers of the next backend call; None when nothing is left to do."""

    def complete(self, n: object, /) -> int:
        """Report the result: 1 all done, 0 continue, negative errno: impossible, or no progress."""

    def ended(self) -> None:
        """Report that the backend call raised. For Python callers that clean up before settling."""

    def anew(self) -> bool:
        """Return whether the range of a fill's last call was invalidated since: then the next `begin` checks again."""

    def give_back(self) -> None:
        """End a read without its bytes, which the engine settles: its caller waits for the name, and checks again."""

    def finish(self, ok: bool, flag: int, /) -> bool:
        """End a write request (flag: parked) or a commit (flag, of a failure: 0, KEPT or PARKED). Return whether a
        success counts: that of a commit does not after an abort.
        """

    def send_commit(self, commit: Callable[[], str | None], /) -> str | None:
        """Make the backend's commit call, and return the version that it has made."""

    def acquire(self, holds: int, /) -> None:
        """Take logical locks of the file, released with the operation."""

    def release_lock(self) -> None:
        """Release the file's lock before the end."""

    def direct_share(self, pos: int, end: int, /) -> bool:
        """Return whether a direct write of this range may go on with the shared lock, which it holds: no other one that
        does overlaps it.
        """

    def direct_begin(self) -> bool:
        """Return whether it counts as a direct write from now on; False: the gate is closed. The lock is held."""

    def direct_end(self) -> bool:
        """End the direct write. False: a commit failed during it, and all of it must be sent again."""

    def carry(self, function: Callable[[], T], /) -> T:
        """Run a part of a direct write on another thread: the operation lasts until it has returned."""

    def send(self, write_from: object, offset: int, buffer: memoryview, /) -> int:
        """Make one backend call of a direct write, within `carry`; return the bytes taken; -1: the result is no valid
        number.
        """

    def read(self, read_into: object, offset: int, buffer: memoryview, aside: bool = False, /) -> int:
        """Make one backend call of a direct read, in this thread; return the bytes stored; -1: the result is no valid
        number. `aside`: in a job of class DIRECT.
        """

    def call(self, function: Callable[[], object], /) -> object:
        """Make a backend call under the held token, on another thread; the token is the call's until it returns."""


use_inside: Callable[[Callable[[], list[int]]], None] = _core.use_inside
"""Set the function that returns the volumes (addresses) whose calls the running coroutine is in."""

uninterrupted: Callable[[Callable[[], Any]], Any] = _core.uninterrupted
"""uninterrupted(call): make a call on the main thread; signal handlers of Python run after it. See
`_native/types/signals.c`.
"""

wake: Callable[[Any], None] = _core.wake
"""End a future that has not ended, on the thread of its loop. No interrupt strikes inside."""

enter_loop: Callable[[], None] = _core.enter_loop
"""Mark this thread as that of a cache's event loop: it must not wait for work of the loop."""

waiting: Callable[..., Any] = _core.waiting
"""waiting(core, volume, inode, kind, pos, end, reason, call, inside=False): make a call that waits, and return its
result. The wait is on record during the call, and in a trace at its end. `inside`: it is a call of the volume's
backend.
"""


class WaitRecord(NamedTuple):
    """A wait on record: see `_native/state/waits.h`. `task`, `loop`: the waiting task and its loop (`engine/aside.py`);
    None: a thread waits.
    """

    number: int
    kind: int
    thread: int
    since_ns: int
    volume: int
    inode: int
    pos: int
    end: int
    reason: Any
    task: Any = None
    loop: Any = None


class Operation(NamedTuple):
    """An operation that runs or holds something: see `_native/types/waiting.c`. [pos, end) is the range of its call;
    `helper`: its thread is one of the volume's.
    """

    kind: int
    thread: int
    since_ns: int
    volume: int
    inode: int
    pos: int
    end: int
    in_call: int
    helper: int
    staged: int


def waits(core: object) -> list[WaitRecord]:
    """Return the current waits of threads, in no order."""
    return [WaitRecord(*fields) for fields in _core.waits(core)]


def operations(core: object) -> list[Operation]:
    """Return the operations that run or hold something, oldest first."""
    return [Operation(*fields) for fields in _core.calls(core)]


def is_debug() -> bool:
    """Return whether the extension was built with its debug checks and sync points."""
    return bool(lib.pc_is_debug())


def wait(kind: str, address: int, seq: int, timeout: float) -> None:
    """Sleep while an event ("inode", "volume", "cache", "flusher") stands at `seq`, a slice of at most 0.1 s.

    Handles signals; exceptions of their handlers propagate.
    """
    # Rounded up: a waiter for the remainder of a time would return at once, repeatedly, for a part of a nanosecond.
    _core.wait(kind, address, seq, math.ceil(min(timeout, 1.0) * 1e9))


inside: Callable[[], list[int]] = _core.inside
"""Return the addresses of the volumes whose backend calls this thread is in, innermost first."""


def counters(kind: str) -> Callable[[Any], dict[str, int]]:
    """Return a function that makes a dict from a pointer to a struct of 64-bit counters, all at once."""
    names = tuple(name for name, _ in ffi.typeof(kind).fields)
    assert ffi.sizeof(kind) == 8 * len(names)

    def read(pointer: Any) -> dict[str, int]:
        return dict(zip(names, ffi.unpack(ffi.cast("uint64_t *", pointer), len(names)), strict=True))

    return read


read_memory, read_usage, read_counters = map(
    counters, ("struct pc_cache_usage", "struct pc_usage", "struct pc_counters")
)


COUNTERS = {name: place for place, (name, _) in enumerate(ffi.typeof("struct pc_counters").fields)}
"""Places of the counters of an inode."""


def fields(struct: Any) -> dict[str, int]:
    return {name: int(getattr(struct, name)) for name, _ in ffi.typeof(struct).fields}


def ranges(call: Callable[..., int], *args: Any, more: tuple[Any, ...] = ()) -> list[tuple[int, int]]:
    """Return (offset, length) pairs from a function that fills an array and returns their number."""
    room = 64
    while True:
        pairs = ffi.new("uint64_t[]", room * 2)
        found = call(*args, pairs, room, *more)
        if found <= room:
            return [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(found)]
        room = found + 16
