"""The only module that touches the extension: typed calls, buffer lifetimes, addresses.

CORE speaks in structs, negative errno values and `need`s. What the engine calls is wrapped here in three small classes
(`NativeCache`, `NativeVolume`, `NativeInode`), one method a C function, so that nothing above this module sees a
pointer. Objects that are hot or own something are C types of the extension itself and pass through as they are:
`Handle` (the hot verbs), `Op` (owner of what an operation holds), `Core` (owner of the memory).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ._native import _core

if TYPE_CHECKING:
    from .config import CacheLimits

__all__ = [
    "BACKOFF",
    "COMMIT",
    "DIRECT",
    "DIRTY",
    "FAILED",
    "FOREVER",
    "INVALIDATE",
    "KEPT",
    "LOCK",
    "NAMES",
    "PARKED",
    "SHARED",
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

COMMIT, NAMES, DIRECT = 0, 1, 3
"""Classes of a volume's work that the engine itself submits; direct writes take turns with what an fsync waits for."""

_ffi, _lib = _core.ffi, _core.lib
if _lib.pc_install_types() or _lib.pc_abi() != ABI:
    raise ImportError("pagecache: the extension does not fit this version; build it again")
os.register_at_fork(after_in_child=_lib.pc_forked)

Handle = _core.Handle
"""Base of CachedFile: io.RawIOBase with the hot verbs in C."""

AsyncHandle: Any = _core.AsyncHandle
"""Base of AsyncCachedFile: the hot verbs as awaitables in C."""


class Op(Protocol):
    """An operation: see `_native/op.c`. Whoever gets one calls begin and complete; C settles it afterwards."""

    offset: int
    length: int
    extent: tuple[int, int]
    settled: bool
    stopped: bool
    ahead: bool
    staged: bool
    stage: bool

    def begin(self) -> tuple[int, tuple[memoryview, ...]] | None:
        """Offset and buffers of the next backend call; None when nothing is left to do."""

    def complete(self, n: object, /) -> int:
        """Report the answer: 1 all done, 0 go on, negative errno: impossible, or no progress."""

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


@dataclass(frozen=True, slots=True)
class Pressure:
    """How a volume is doing: bytes, but for answers (calls that ended) and running (calls that have not)."""

    local: int
    limit: int
    acked: int
    answers: int
    position: int
    """Of its writers: 0 up to the midpoint, 1000 at the limit."""
    over_background: int
    asking: int
    """Writers that are slowed down."""
    running: int


class Ticket(Protocol):
    """One wait of one task: see `_native/ticket.c`. Awaited on the loop that it was made on."""

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
    return cast(Waker, _core.Waker())


def use_loops(
    running: Callable[[], tuple[Any, Waker]], inside: Callable[[], list[int]] | None, cancelled: type[BaseException]
) -> None:
    """How C finds the running loop, and the calls that the running coroutine is in; None: nobody can be in one."""
    _core.use_loops(running, inside, cancelled)


def enter_loop() -> None:
    """This thread is that of a cache's event loop: nothing that the loop has to do may be waited for on it."""
    _core.enter_loop()


def ticket(core: object, kind: str, address: int, seq: int) -> Ticket:
    """Over when an event ("inode", "volume", "cache") advances beyond `seq`."""
    return cast(Ticket, _core.ticket(core, kind, address, seq))


def open_ticket() -> Ticket:
    """Over when somebody finishes it."""
    return cast(Ticket, _core.ticket(None, "", 0, 0))


def is_debug() -> bool:
    """Whether the extension was built with its debug checks and sync points."""
    return bool(_lib.pc_is_debug())


def wait(kind: str, address: int, seq: int, timeout: float) -> None:
    """Sleep while an event ("inode", "volume", "cache", "flusher") stands at `seq`, a slice of at most 0.1 s.

    Signals are handled; whatever a handler raises comes out here.
    """
    _core.wait(kind, address, seq, int(min(timeout, 1.0) * 1e9))


def inside() -> list[int]:
    """Addresses of the volumes whose backend calls this thread is in, innermost first."""
    return cast("list[int]", _core.inside())


def _fields(struct: Any) -> dict[str, int]:
    return {name: int(getattr(struct, name)) for name, _ in _ffi.typeof(struct).fields}


def _ranges(call: Callable[..., int], *args: Any, more: tuple[Any, ...] = ()) -> list[tuple[int, int]]:
    """(offset, length) pairs from a function that fills an array and says how many there are."""
    room = 64
    while True:
        pairs = _ffi.new("uint64_t[]", room * 2)
        found = call(*args, pairs, room, *more)
        if found <= room:
            return [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(found)]
        room = found + 16


class NativeCache:
    """One `struct pc_cache`. `error` makes the exceptions that C entries raise."""

    __slots__ = ("_c", "address", "core")

    def __init__(self, limits: CacheLimits, error: Callable[[str, Any, str], BaseException]) -> None:
        arguments = (limits.capacity, limits.page_size, limits.max_folio, error)
        try:
            self.core = _core.Core(*arguments)
        except MemoryError:
            gc.collect()  # closed caches that nobody refers to hold address space until they are collected
            self.core = _core.Core(*arguments)
        self.address: int = self.core.address
        self._c = _ffi.cast("struct pc_cache *", self.address)

    @property
    def forked(self) -> bool:
        return bool(self.core.forked)

    def configure(self, limits: CacheLimits, poison: bool) -> None:
        _lib.pc_cache_configure(self._c, limits.dirty_background, limits.dirty_limit, limits.cow_limit, poison)

    def resize(self, capacity: int) -> int:
        return int(_lib.pc_cache_resize(self._c, capacity))

    def close(self) -> None:
        """Give back the memory and address space that nobody looks at any more; the rest follows with its last user."""
        self.core.close()

    def usage(self) -> dict[str, int]:
        out = _ffi.new("struct pc_cache_usage *")
        _lib.pc_cache_usage_get(self._c, out)
        return _fields(out[0])

    def tick(self, seconds: float) -> None:
        _lib.pc_tick(self._c, int(seconds * 1e9))

    def held(self) -> int:
        """Bytes of frames that calls, exporters or mirrors hold by number, in a folio or out of it."""
        return int(_lib.pc_cache_held(self._c))

    def event_seq(self) -> int:
        return int(_lib.pc_cache_event_seq(self._c))

    def flusher_seq(self) -> int:
        return int(_lib.pc_flusher_seq(self._c))

    def wake_flusher(self) -> None:
        _lib.pc_flusher_wake(self._c)

    def wake_all(self) -> None:
        _lib.pc_cache_wake_all(self._c)

    def check(self) -> tuple[str, str] | None:
        """The first broken invariant and what was found, or None."""
        out = _ffi.new("struct pc_violation *")
        if not _lib.pc_check(self._c, out):
            return None
        return _ffi.string(out.invariant).decode(), _ffi.string(out.text).decode()

    def trace(self) -> str:
        """The last transitions, oldest first, one a line."""
        out = _ffi.new("char[]", 128 << 10)
        _lib.pc_trace_text(self._c, out, len(out))
        return cast(str, _ffi.string(out).decode())


class NativeVolume:
    """One `struct pc_volume`."""

    __slots__ = ("_v", "address", "cache")

    def __init__(self, cache: NativeCache, max_inflight: int) -> None:
        out = _ffi.new("struct pc_volume **")
        if err := _lib.pc_volume_create(cache._c, max_inflight, out):
            raise OSError(-err, os.strerror(-err))
        self.cache = cache
        self._v = out[0]
        self.address = int(_ffi.cast("uintptr_t", out[0]))

    def destroy(self) -> None:
        _lib.pc_volume_destroy(self._v)

    def work(self, job: Callable[[int], None], timeout: float) -> bool | None:
        """Do the next piece of work; False: there was none in time; None: the volume has stopped."""
        return cast("bool | None", _core.work(self.cache.core, self.address, job, int(timeout * 1e9)))

    def start_work(self) -> bool | str | None:
        """On the event loop that carries the volume's bytes: start the next piece of work. False: there is none;
        "later": look again in a moment; None: the volume has stopped.
        """
        return cast("bool | str | None", _core.start_work(self.cache.core, self.address))

    def set_on_loop(self, on: bool) -> None:
        """What carries bytes is started by an event loop, not taken by threads."""
        _lib.pc_volume_set_on_loop(self._v, on)

    def push_job(self, cls: int) -> None:
        _lib.pc_job_push(self._v, cls)

    def stop(self) -> None:
        _lib.pc_volume_stop(self._v)

    def abort(self) -> None:
        _lib.pc_volume_abort(self._v)

    def seal(self, sealed: bool) -> None:
        """Writes are refused, or accepted again."""
        _lib.pc_volume_seal(self._v, sealed)

    def resume(self) -> None:
        _lib.pc_volume_resume(self._v)

    def revoke(self, fenced: bool) -> None:
        """After an abort: end the fills that still run; `fenced`: writes and commits too."""
        _core.revoke(self.address, fenced)

    def take_epoch(self) -> int:
        return int(_lib.pc_epoch_take(self._v))

    def set_mirror(self, limits: dict[str, int]) -> None:
        """What the second stream accepts; before anything is handed over."""
        _lib.pc_volume_set_mirror(self._v, _ffi.new("struct pc_limits *", limits))

    def set_dirty_limit(self, size: int, floor: int) -> None:
        """The share of the dirty limit, and what the volume may have whatever others hold."""
        _lib.pc_volume_set_dirty_limit(self._v, size, floor)

    def pressure(self) -> Pressure:
        out = _ffi.new("struct pc_pressure *")
        _lib.pc_volume_pressure(self._v, out)
        return Pressure(**_fields(out[0]))

    def grant(self, size: int) -> None:
        """So many bytes may be dirtied above the midpoint before a writer has to pause again."""
        _lib.pc_room_grant(self._v, size)

    def event_seq(self) -> int:
        return int(_lib.pc_volume_event_seq(self._v))

    def local(self) -> int:
        return int(_lib.pc_volume_local(self._v))

    def inflight(self) -> int:
        return int(_lib.pc_volume_inflight(self._v))

    def set_inflight(self, n: int) -> None:
        _lib.pc_volume_set_inflight(self._v, n)

    def dirty_inodes(self) -> list[int]:
        """Ids of the inodes with anything local or uncommitted."""
        room = 256
        while True:
            ids = _ffi.new("uint64_t[]", room)
            found = _lib.pc_volume_dirty_inodes(self._v, ids, room)
            if found <= room:
                return [int(ids[k]) for k in range(found)]
            room = int(found) + 64

    def usage(self) -> dict[str, int]:
        counters, usage = _ffi.new("struct pc_counters *"), _ffi.new("struct pc_usage *")
        _lib.pc_volume_counters(self._v, counters, usage)
        return _fields(usage[0]) | _fields(counters[0])


class NativeInode:
    """One `struct pc_inode`. `user` is the object whose methods C calls: fill, write, commit, room, ..."""

    __slots__ = ("_i", "address", "core", "id", "volume")

    def __init__(self, volume: NativeVolume, size: int, limits: dict[str, int]) -> None:
        out = _ffi.new("struct pc_inode **")
        if err := _lib.pc_inode_create(volume._v, size, _ffi.new("struct pc_limits *", limits), True, out):
            raise OSError(-err, os.strerror(-err))
        self._i = out[0]
        self.volume = volume
        self.core = volume.cache.core
        self.address = int(_ffi.cast("uintptr_t", out[0]))
        self.id = int(_lib.pc_inode_id(out[0]))

    def set_user(self, user: object) -> None:
        """The object is borrowed: it must live until `destroy`."""
        _lib.pc_inode_set_user(self._i, id(user))

    def destroy(self) -> bool:
        """Free it, with what is clean; False while anything is local or somebody is at work."""
        return int(_lib.pc_inode_destroy(self._i)) == 0

    # sizes, limits, numbers
    @property
    def size(self) -> int:
        return int(_lib.pc_inode_size(self._i))

    @property
    def remote_size(self) -> int:
        return int(_lib.pc_inode_remote_size(self._i))

    def set_sizes(self, size: int, remote_size: int) -> None:
        _lib.pc_inode_set_sizes(self._i, size, remote_size)

    def set_limits(self, limits: dict[str, int]) -> None:
        _lib.pc_inode_set_limits(self._i, _ffi.new("struct pc_limits *", limits))

    def usage(self) -> dict[str, int]:
        counters, usage = _ffi.new("struct pc_counters *"), _ffi.new("struct pc_usage *")
        _lib.pc_inode_usage(self._i, usage, counters)
        return _fields(usage[0]) | _fields(counters[0])

    def event_seq(self) -> int:
        return int(_lib.pc_inode_event_seq(self._i))

    def wake(self) -> None:
        _lib.pc_inode_wake(self._i)

    def fail_seq(self) -> int:
        return int(_lib.pc_inode_fail_seq(self._i))

    def commit_seq(self) -> int:
        return int(_lib.pc_inode_commit_seq(self._i))

    def dirtied(self) -> float:
        """When the oldest dirty byte was written, on the cache's clock; 0.0 when nothing is dirty."""
        return int(_lib.pc_inode_dirtied_ns(self._i)) / 1e9

    def set_dirtied(self, seconds: float) -> None:
        _lib.pc_inode_set_dirtied_ns(self._i, int(seconds * 1e9))

    def set_uncommitted(self, created: bool = False, lowest: int = END) -> None:
        """Something that is no folio waits for a commit; `lowest`: a size that storage was or will be cut to."""
        _lib.pc_inode_set_uncommitted(self._i, created, lowest)

    def undone(self) -> dict[str, int]:
        """What is uncommitted and is no folio: lowest (END: none), hole_pos, hole_end, gone_end,
        created, resized.
        """
        out = _ffi.new("struct pc_undone_report *")
        _lib.pc_inode_undone(self._i, out)
        return _fields(out[0])

    def forget_holes(self) -> None:
        _lib.pc_inode_forget_holes(self._i)

    def in_old_hands(self) -> bool:
        """Whether a call that an abort, an interrupt or a deadline left behind still runs on the file."""
        return bool(_lib.pc_inode_in_old_hands(self._i))

    def fence(self) -> None:
        """Calls left behind can no longer land: they hold up nobody."""
        _lib.pc_inode_fence(self._i)

    def has_local(self) -> bool:
        return bool(_lib.pc_inode_has_local(self._i))

    def unsaved(self) -> int:
        """Bytes that are local or staged, an upper bound by page."""
        usage = self.usage()
        return usage["local"] + usage["staged"]

    def count_throttled(self, seconds: float) -> None:
        _lib.pc_count_throttled(self._i, int(seconds * 1e9))

    def count_retry(self) -> None:
        _lib.pc_count_retry(self._i)

    # dirty budget, for the writer who owns the place (an address of C)
    def room_take(self, place: int, paused: bool = False) -> bool:
        """Whether what the place asks for is reserved now; `paused`: its writer needs no grant."""
        return bool(_lib.pc_room_take(self._i, _ffi.cast("struct pc_place *", place), paused))

    def room_fits(self, place: int) -> bool:
        """Whether only a grant is missing: there is room below the limits and nobody stands in line."""
        return bool(_lib.pc_room_fits(self._i, _ffi.cast("struct pc_place *", place)))

    def line_first(self, place: int) -> bool:
        """Stand in line; whether nobody is before this writer."""
        return bool(_lib.pc_line_first(self._i, _ffi.cast("struct pc_place *", place)))

    # write-back
    def flush_start(self, stamp: int, pos: int = 0, end: int = END) -> int:
        return int(_lib.pc_flush_start(self._i, stamp, pos, end))

    def flush_pending(self, stamp: int, pos: int = 0, end: int = END, cursor: Any = None) -> int:
        return int(_lib.pc_flush_pending(self._i, stamp, pos, end, _ffi.NULL if cursor is None else cursor))

    @staticmethod
    def cursor() -> Any:
        """Where a walk of `flush_pending` goes on."""
        return _ffi.new("uint64_t[2]")

    def pass_background(self, budget: int) -> bool:
        return bool(_lib.pc_pass_background(self._i, budget))

    def pass_partial(self, budget: int) -> bool:
        """The same, and write units that are not wholly dirty too, where a commit is what makes bytes visible."""
        return bool(_lib.pc_pass_partial(self._i, budget))

    def pass_idle(self) -> bool:
        return bool(_lib.pc_pass_idle(self._i))

    def commit_needed(self, stamp: int) -> bool:
        return bool(_lib.pc_commit_needed(self._i, stamp))

    def commit_running(self) -> bool:
        return bool(_lib.pc_commit_running(self._i))

    def sync_done(self, stamp: int) -> bool:
        """Whether nothing up to the stamp is dirty, in flight or uncommitted, seen at one moment."""
        return bool(_lib.pc_sync_done(self._i, stamp))

    def start_commit(self, stamp: int = 0) -> None:
        """Have what is acknowledged committed, unless anything dirtied up to the stamp is dirty again by then."""
        _lib.pc_commit_start(self._i, stamp)

    def commit_due(self) -> bool:
        """Whether `user.commit` was entered for a commit, and not only for work under the token."""
        return bool(_lib.pc_commit_due(self._i))

    def settle_start(self) -> None:
        """Have `user.commit` entered under the token, though there may be nothing to commit."""
        _lib.pc_settle_start(self._i)

    def uncommit(self) -> None:
        _lib.pc_uncommit(self._i)

    def is_staged(self, pos: int) -> bool:
        return bool(_lib.pc_staged_has(self._i, pos))

    def staged_recall(self, skip: int, skip_end: int) -> list[tuple[int, int]]:
        """What is staged is dirty where it is in memory; what is not has to be read first: (offset, length) pairs."""
        return _ranges(_lib.pc_staged_recall, self._i, skip, skip_end)

    def acknowledged(self, pos: int, end: int) -> bool:
        """Whether the backend may have something of the range that is local or staged, and not committed."""
        return bool(_lib.pc_acknowledged(self._i, pos, end))

    def staged_from(self, pos: int) -> tuple[int, int] | None:
        """The first staged bytes at `pos` or behind it, [start, end)."""
        found = _ffi.new("uint64_t[2]")
        return (int(found[0]), int(found[1])) if _lib.pc_staged_find(self._i, pos, found, found + 1) else None

    def staged_lost(self, stored: int, committing: bool) -> list[tuple[int, int]] | None:
        """What was staged is gone: the ranges that memory has not. None: a commit runs that is not the caller's."""
        room = 1 << 16
        pairs = _ffi.new("uint64_t[]", room * 2)
        found = int(_lib.pc_staged_lost(self._i, stored, committing, pairs, room))
        return None if found < 0 else [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(min(room, found))]

    def retry(self, pos: int = 0, end: int = END, failed_too: bool = False) -> int:
        return int(_lib.pc_retry(self._i, pos, end, failed_too))

    def mirror_spoiled(self) -> bool:
        """Whether bytes changed in place under a request of the mirror since this was last asked."""
        return bool(_lib.pc_mirror_spoiled(self._i))

    def aborted(self) -> None:
        _lib.pc_inode_aborted(self._i)

    def local_ranges(self) -> list[tuple[int, int]]:
        return _ranges(_lib.pc_ranges_local, self._i)

    def local_end(self) -> int:
        """The end of the last local or staged byte; 0 when there is none."""
        return max((pos + length for pos, length in self.local_ranges()), default=0)

    def failed_ranges(self) -> list[tuple[int, int]]:
        return _ranges(_lib.pc_ranges_failed, self._i)

    # direct I/O
    def staged(self) -> int:
        """Bytes that the backend keeps until a commit."""
        return int(_lib.pc_inode_staged(self._i))

    def direct_may_share(self, pos: int, end: int) -> bool:
        """Whether [pos, end) extends nothing and nothing of the file is local."""
        return bool(_lib.pc_direct_may_share(self._i, pos, end))

    def range_local(self, pos: int, end: int) -> int:
        """Which of DIRTY, WRITEBACK and UNSTABLE there is in the pages of a range."""
        return int(_lib.pc_range_local(self._i, pos, end))

    def direct_split(self, pos: int, end: int) -> tuple[int, int]:
        """What a direct read does first: up to the first number bytes are local, up to the second the backend's."""
        out = _ffi.new("uint64_t[2]")
        _lib.pc_direct_split(self._i, pos, end, out, out + 1)
        return int(out[0]), int(out[1])

    def read(self, pos: int, buffer: memoryview) -> int:
        """Copy what is valid from `pos` on; without the interpreter lock."""
        need = _ffi.new("struct pc_need *")
        return int(_lib.pc_read(self._i, pos, _ffi.from_buffer(buffer), len(buffer), need))

    def holds_memory(self, buffer: memoryview, pos: int) -> bool:
        """Whether a buffer lies in the memory that caches as many bytes from `pos` on."""
        address = int(_ffi.cast("uintptr_t", _ffi.from_buffer(buffer)))
        return bool(_lib.pc_memory_of_range(self._i, address, buffer.nbytes, pos, pos + buffer.nbytes))

    def direct_count(self) -> int:
        """Direct writes that run."""
        return int(_lib.pc_direct_count(self._i))

    def direct_ranges(self, everything: bool = True) -> list[tuple[int, int]]:
        """Direct writes that no commit covers, (offset, length); not `everything`: those whose loss was not told."""
        return _ranges(_lib.pc_direct_ranges, self._i, more=(everything,))

    def direct_told(self, forget: bool = False) -> None:
        """Their loss was told; `forget`: what had stored them is gone."""
        _lib.pc_direct_told(self._i, forget)

    # what holds logical locks
    def run(self, holds: int, method: str, argument: object, deadline: float | None = None) -> None:
        """`user.<method>(op, argument)` with the locks `holds`, taken in order and released whatever happens."""
        until = -1 if deadline is None else int(deadline * 1e9)
        _core.run(self.core, self.address, holds, until, method, argument)

    def run_owning(self, method: str, argument: object) -> None:
        """`user.<method>(op, argument)`; what it takes is given back whatever happens."""
        _core.run_owning(self.core, self.address, method, argument)

    def run_both(self, other: NativeInode, method: str, argument: object) -> None:
        """`user.<method>(op, argument)` with the tokens of both inodes, taken in their order."""
        _core.run_both(self.core, self.address, other.address, method, argument)

    def settle_fills(self, pos: int, end: int = END) -> None:
        """Wait until no fill owns a folio of the range; under the invalidate lock none starts meanwhile."""
        _core.settle_fills(self.core, self.address, pos, end)

    def truncate(self, size: int, uncommitted: bool) -> None:
        _lib.pc_truncate(self._i, size, uncommitted)

    def punch(self, pos: int, end: int, uncommitted: bool) -> None:
        _lib.pc_punch(self._i, pos, end, uncommitted)

    def discard(self, pos: int = 0, end: int = END, cut_size: bool = True) -> list[tuple[int, int]]:
        usage = self.usage()
        room = 64 + 9 * usage["folios"] + usage["local"] // 4096  # a folio has eight extents besides its blocks
        pairs = _ffi.new("uint64_t[]", room * 2)
        found = min(room, int(_lib.pc_discard(self._i, pos, end, pairs, room, cut_size)))
        return [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(found)]

    def rebase(self, remote_size: int, forgotten: bool) -> None:
        """What is local lies over another version from here on; under the token."""
        _lib.pc_rebase(self._i, remote_size, forgotten)

    def dirty_all(self) -> bool:
        """Every byte is to be handed over; False: not all of them are cached. Under the token."""
        return bool(_lib.pc_dirty_all(self._i))

    def drop_clean(self, pos: int = 0, end: int = END) -> int:
        return int(_lib.pc_drop_clean(self._i, pos, end))

    def invalidate_range(self, pos: int, end: int) -> bool:
        """Drop what is clean; False: local bytes are left."""
        return int(_lib.pc_invalidate_range(self._i, pos, end)) == 0

    def invalidate_remote(self, pos: int, end: int) -> None:
        _lib.pc_invalidate_remote(self._i, pos, end)

    def prefetch(self, pos: int, end: int) -> None:
        """Queue fills for the range, as far as memory goes."""
        _core.prefetch(self.core, self.address, pos, end, False)

    def fill(self, pos: int, length: int) -> None:
        """Fill what is missing of the range, here and now."""
        _core.prefetch(self.core, self.address, pos, pos + length, True)

    def pin(self, pos: int, length: int, writable: bool) -> list[Any]:
        """Exporters of the pinned memory, ascending; fills what is missing. `writable`: under the inode lock."""
        return cast("list[Any]", _core.pin(self.core, self.address, pos, length, writable))

    def cut_views(self, pos: int = 0, end: int = END, *, parts: bool = False) -> None:
        """Writable views of the range lose the file, which goes on in a copy; `parts`: only where a part of a folio
        stays local while the rest is given up. Under the token.

        Raises:
            OSError: ENOMEM, there is no memory for a copy. Some may be cut.
        """
        while err := _lib.pc_views_cut(self._i, pos, end, parts):
            if err != -errno.EBUSY:
                raise OSError(-err, "no memory for a copy of what writable views hold")
            self.settle_fills(pos, end)

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """The file may be cut to `size` in here without asking for memory. Under the inode lock and the token.

        Raises:
            OSError: ENOMEM, nothing has changed.
        """
        if err := _lib.pc_views_reserve(self._i, size):
            raise OSError(-err, "no memory for a copy of what writable views hold")
        try:
            yield
        finally:
            _lib.pc_views_unreserve(self._i)
