"""The door to C: constants, the C types that pass through as they are, and plain functions."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, TypeVar, cast

try:
    from .._native import _core
except ImportError as error:
    if find_spec("pagecache._native._core") is not None:
        raise  # it is there, and does not load
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    raise ImportError(
        f"pagecache is imported from the checkout {folder}, whose C extension is not built: run pip install -e . "
        "there, or start Python in another directory to use an installed pagecache",
        name=error.name,
    ) from None

T = TypeVar("T")
ABI = 1
FOREVER = 2**63 - 1
"""The end of the largest file, and of the longest sleep in nanoseconds."""
END = 2**64 - 1
STAMP_MAX = 2**48 - 2

LOCK, TOKEN, INVALIDATE, SHARED = 1, 2, 4, 8
"""Logical locks of an inode that `NativeInode.run` can hold; SHARED: the inode lock, with others."""

KEPT, PARKED = 1, 2
"""What a failed commit left: everything where it was, or nothing that is worth another try."""

DIRTY, WRITEBACK, BACKOFF, FAILED, UNSTABLE = 1, 2, 4, 8, 16
"""What `NativeInode.flush_pending` and `NativeInode.range_local` find."""

COMMIT, NAMES, FILL, DIRECT = 0, 1, 2, 3
"""Classes of a volume's work; from FILL on it carries bytes. The engine itself submits jobs of the other three; direct
writes take turns with what an fsync waits for.
"""

WORK = ("commit", "names", "fill", "integrity", "background", "readahead")
"""All of them, most urgent first."""

READ_CALL, WRITE_CALL, COMMIT_CALL = 0, 1, 2
"""Kinds of backend calls whose durations `NativeVolume.count_call` counts."""

LATENCY_BOUNDS = tuple(2**k / 1e6 for k in range(28))
"""Seconds: a call is counted at the first of these that it did not exceed."""

WAITS = {
    name.removeprefix("PC_WAIT_").lower(): int(getattr(_core.lib, name))
    for name in dir(_core.lib)
    if name.startswith("PC_WAIT_")
}
"""Kinds of waits."""

STATES = ("failed", "writeback", "dirty", "staged", "unstable", "filling", "pinned", "clean")
"""Of a page, most urgent first."""

extension = _core  # for this package alone; what others may use is said in __init__.py
ffi, lib = extension.ffi, extension.lib
if lib.pc_install_types() or lib.pc_abi() != ABI:
    raise ImportError("the C extension of pagecache does not fit this version: build it by pip install again")
os.register_at_fork(after_in_child=lib.pc_forked)

Handle = extension.Handle
"""First base of CachedFile, before io.RawIOBase: the hot verbs in C."""

AsyncHandle = extension.AsyncHandle
"""Base of AsyncCachedFile: the hot verbs as awaitables in C."""


class Op(Protocol):
    """An operation: see `_native/types/op.c`. Whoever gets one calls begin and complete; C settles it afterwards."""

    offset: int
    length: int
    extent: tuple[int, int]
    settled: bool
    left: bool
    stopped: bool
    ahead: bool
    staged: bool
    stage: bool
    answer: object

    def begin(self) -> tuple[int, tuple[memoryview, ...]] | None:
        """Offset and buffers of the next backend call; None when nothing is left to do."""

    def complete(self, n: object, /) -> int:
        """Report the answer: 1 all done, 0 go on, negative errno: impossible, or no progress."""

    def ended(self) -> None:
        """The call has raised: it is over, whatever else is done before the next one."""

    def anew(self) -> bool:
        """Whether what the last call of a fill asked for was invalidated since: then the next `begin` looks again."""

    def mirror(self, last: Op | None, /) -> Op | None:
        """The operation of the second stream that has this write request's bytes now: `last`, where they could join
        it, or a new one; None without memory.
        """

    def finish(self, ok: bool, flag: int, /) -> None:
        """End a write request (flag: parked) or a commit (flag, of a failure: 0, KEPT or PARKED)."""

    def acquire(self, holds: int, /) -> None:
        """Take logical locks of the file, given back with the operation."""

    def release_lock(self) -> None:
        """Give the file's lock back before the end."""

    def direct_begin(self) -> None:
        """Counted as a direct write from here on; the file's lock is held."""

    def direct_end(self) -> bool:
        """Whether the direct write is over; False: a commit failed meanwhile, all of it has to be sent again."""

    def carry(self, function: Callable[[], T], /) -> T:
        """A part of a direct write, on another thread: the operation lasts until it has returned."""

    def send(self, write_from: object, offset: int, buffer: memoryview, /) -> int:
        """One backend call of a direct write, within `carry`: bytes taken; -1: it answered what is no such number."""

    def read(self, read_into: object, offset: int, buffer: memoryview, /) -> int:
        """One backend call of a direct read, in this thread: bytes stored; -1: it answered what is no such number."""

    def settle(self) -> None:
        """Of a task on the event loop: it is over."""

    def fail(self, error: BaseException, /) -> None:
        """Why a fill on the event loop failed: for the task that asked for it."""

    def call(self, function: Callable[[], object], /) -> object:
        """A backend call under the token that it holds, on another thread; the token is the call's until it returns."""


class Ticket(Protocol):
    """One wait of one task: see `_native/types/ticket.c`. Awaited on the loop that it was made on."""

    def __await__(self) -> Generator[Any, None, Any]: ...
    def finish(self, value: object, error: BaseException | None, /) -> None:
        """End it, from any thread; the first time counts."""

    def wake(self) -> None:
        """On the loop: the task goes on whatever has happened."""


class Waker(Protocol):
    """What wakes the tasks of one event loop: `dispatch` is to be called while `fileno` is readable."""

    def fileno(self) -> int: ...
    def dispatch(self) -> None: ...


def make_waker() -> Waker:
    return cast(Waker, extension.Waker())


def use_loops(
    running: Callable[[], tuple[Any, Waker]], inside: Callable[[], list[int]] | None, cancelled: type[BaseException]
) -> None:
    """How C finds the running loop, and the calls that the running coroutine is in; None: nobody can be in one."""
    extension.use_loops(running, inside, cancelled)


def enter_loop() -> None:
    """This thread is that of a cache's event loop: nothing that the loop has to do may be waited for on it."""
    extension.enter_loop()


def ticket(
    core: object, kind: str, address: int, seq: int, volume: int, inode: int, reason: object, since_ns: int
) -> Ticket:
    """Over when an event ("inode", "volume", "cache") advances beyond `seq`. `reason`: what the task that awaits it
    waits for, of which volume (address) and inode (number), since when; None: it is nobody's business.
    """
    return cast(Ticket, extension.ticket(core, kind, address, seq, volume, inode, reason, since_ns))


def open_ticket(core: object = None, volume: int = 0, reason: object = None) -> Ticket:
    """Over when somebody finishes it."""
    return cast(Ticket, extension.ticket(core, "", 0, 0, volume, 0, reason, time.monotonic_ns()))


def waiting(
    core: object,
    volume: int,
    inode: int,
    kind: int,
    pos: int,
    end: int,
    text: int,
    reason: object,
    call: Callable[[], T],
) -> T:
    """Call something that waits; meanwhile the wait is on record, and then in a trace, where `text` is its name."""
    return cast(T, extension.waiting(core, volume, inode, kind, pos, end, text, reason, call))


def waiting_since(core: object) -> float:
    """When the oldest wait began, or the oldest backend call that a caller makes himself, in seconds of the monotonic
    clock; 0.0: nobody waits.
    """
    return float(extension.waiting_since(core)) / 1e9


class WaitRecord(NamedTuple):
    """A wait on record: see `_native/base/waits.h`. `wakes`, `loop`: of a task, what wakes it and where it runs."""

    number: int
    kind: int
    thread: int
    since_ns: int
    volume: int
    inode: int
    pos: int
    end: int
    request: int
    reason: Any
    wakes: Any
    loop: Any


class Operation(NamedTuple):
    """An operation that runs or holds something: see `_native/types/waiting.c`. [pos, end) is the range of its call,
    [start, stop) all of it; `helper`: its thread is one of the volume's.
    """

    kind: int
    thread: int
    since_ns: int
    volume: int
    inode: int
    pos: int
    end: int
    start: int
    stop: int
    request: int
    holds: int
    in_call: int
    on_loop: int
    left: int
    helper: int
    staged: int
    what: str | None


def waits(core: object) -> list[WaitRecord]:
    """Those who wait now, in no order."""
    return [WaitRecord(*fields) for fields in extension.waits(core)]


def operations(core: object) -> list[Operation]:
    """Those that run or hold something, oldest first."""
    return [Operation(*fields) for fields in extension.calls(core)]


def is_debug() -> bool:
    """Whether the extension was built with its debug checks and sync points."""
    return bool(lib.pc_is_debug())


def sync_noise(seed: int, one_in: int, most: int) -> None:
    """Of the passages of sync points, one in so many pauses for up to `most` microseconds; 0: none. In debug builds."""
    lib.pc_sync_noise(seed, one_in, most)


def wait(kind: str, address: int, seq: int, timeout: float) -> None:
    """Sleep while an event ("inode", "volume", "cache", "flusher") stands at `seq`, a slice of at most 0.1 s.

    Signals are handled; whatever a handler raises comes out here.
    """
    # Up: who waits for what is left of a time would come back at once, again and again, for a part of a nanosecond.
    extension.wait(kind, address, seq, math.ceil(min(timeout, 1.0) * 1e9))


def inside() -> list[int]:
    """Addresses of the volumes whose backend calls this thread is in, innermost first."""
    return cast("list[int]", extension.inside())


def counters(kind: str) -> Callable[[Any], dict[str, int]]:
    """Makes a dict of a pointer to a struct that has nothing but 64-bit counters, all at once."""
    names = tuple(name for name, _ in ffi.typeof(kind).fields)
    assert ffi.sizeof(kind) == 8 * len(names)

    def read(pointer: Any) -> dict[str, int]:
        return dict(zip(names, ffi.unpack(ffi.cast("uint64_t *", pointer), len(names)), strict=True))

    return read


read_memory, read_usage, read_counters = map(
    counters, ("struct pc_cache_usage", "struct pc_usage", "struct pc_counters")
)


def fields(struct: Any) -> dict[str, int]:
    return {name: int(getattr(struct, name)) for name, _ in ffi.typeof(struct).fields}


def ranges(call: Callable[..., int], *args: Any, more: tuple[Any, ...] = ()) -> list[tuple[int, int]]:
    """(offset, length) pairs from a function that fills an array and says how many there are."""
    room = 64
    while True:
        pairs = ffi.new("uint64_t[]", room * 2)
        found = call(*args, pairs, room, *more)
        if found <= room:
            return [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(found)]
        room = found + 16
