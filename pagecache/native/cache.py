"""One cache and one volume of CORE."""

from __future__ import annotations

import errno
import gc
import math
import os
import threading
import time
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from . import extension
from .extension import LATENCY_BOUNDS, WORK, WaitRecord, _core, ffi, lib, read_counters, read_usage, waits

if TYPE_CHECKING:
    from ..config import CacheLimits


def _number(which: int) -> Callable[[NativeVolume], int]:
    """Return a method that reads one of the numbers of a volume."""
    return lambda self: int(lib.pc_volume_number(self._v, which))


class Pressure(NamedTuple):
    """The write-back state of a volume: bytes, except answers (calls that ended) and running (calls that have not)."""

    local: int
    limit: int
    acked: int
    answers: int
    position: int
    """Position of its writers: 0 up to the midpoint, 1000 at the limit."""
    over_background: int
    throttled: int
    """Writers that are slowed down."""
    running: int


Event = tuple[bool, int | str, Any, int, int, int, int, int, int, bool]
"""Of a trace: whether it is a wait; its kind, or the method of the backend; its Reason, or the key; thread; ns at its
beginning and end; file; the range; whether it failed.
"""


class WaitingTask(Protocol):
    """A task that waits for a call on another thread: see `engine/aside.py`."""

    def record(self) -> WaitRecord | None:
        """Return the wait; None: the task is gone."""


class NativeCache:
    """One `struct pc_cache`. `error` makes the exceptions that C entries raise."""

    __slots__ = ("_c", "address", "core", "tasks", "tracing")

    def __init__(self, limits: CacheLimits, error: Callable[[str, Any, str], BaseException]) -> None:
        arguments = (limits.capacity, limits.page_size, limits.max_folio, error)
        try:
            self.core = _core.Core(*arguments)
        except MemoryError:
            gc.collect()  # closed, unreferenced caches hold address space until they are collected
            self.core = _core.Core(*arguments)
        self.address: int = self.core.address
        self._c = ffi.cast("struct pc_cache *", self.address)
        self.tracing = False
        self.tasks: dict[int, Callable[[], WaitingTask | None]] = {}  # weak references, by the number of the wait

    def waits(self) -> list[WaitRecord]:
        """Return the current waits of threads and tasks, in no order."""
        calls = [call() for call in self.tasks.copy().values()]  # a copy is atomic
        records = [call.record() for call in calls if call is not None]
        return [*waits(self.core), *(record for record in records if record is not None)]

    def waiting_since(self) -> float:
        """Return the start of the oldest wait, or of the oldest backend call in a caller's thread, in seconds of the
        monotonic clock; 0.0: there is none.
        """
        starts = [record.since_ns for record in self.waits()]
        starts += [op.since_ns for op in extension.operations(self.core) if op.in_call and not op.helper]
        return min(starts, default=0) / 1e9

    forked = property(attrgetter("core.forked"))

    def trace_into(self, append: Callable[[Event], None] | None) -> int:
        """Pass the events of a trace to a function, which must be one of C: none of Python may run where it is called.
        None: no more. Return the number of events since the last call.
        """
        self.tracing = append is not None
        return int(_core.trace_into(self.core, append))

    def trace_call(self, what: str, key: Any, file: int, began: float, failed: bool) -> None:
        """Add a call of the backend that the engine made in this thread, and that has ended, if a trace runs."""
        if self.tracing:
            thread, now = threading.get_ident(), time.monotonic_ns()
            event: Event = (False, what, key, thread, int(began * 1e9), now, file, 0, 0, failed)
            _core.trace_event(self.core, event)

    def configure(self, limits: CacheLimits, poison: bool) -> None:
        lib.pc_cache_configure(self._c, limits.dirty_background, limits.dirty_limit, limits.cow_limit, poison)

    def resize(self, capacity: int) -> int:
        return int(lib.pc_cache_resize(self._c, capacity))

    def close(self) -> None:
        """Free the memory and address space without exporters; the last exporter frees the remainder."""
        self.core.close()

    def usage(self) -> dict[str, int]:
        out = ffi.new("struct pc_cache_usage *")
        lib.pc_cache_usage_get(self._c, out)
        return extension.read_memory(out)

    def tick(self, seconds: float) -> None:
        lib.pc_tick(self._c, int(seconds * 1e9))

    def held(self) -> int:
        """Return the bytes of frames that calls or exporters hold by number, inside a folio or outside."""
        return int(lib.pc_cache_held(self._c))

    def hollow(self) -> int:
        """Return the number of inodes without handles, pages and unsaved data."""
        return int(lib.pc_cache_hollow(self._c))

    def event_seq(self) -> int:
        return int(lib.pc_cache_event_seq(self._c))

    def flusher_seq(self) -> int:
        return int(lib.pc_flusher_seq(self._c))

    def wake_flusher(self) -> None:
        lib.pc_flusher_wake(self._c)

    def wake_all(self) -> None:
        lib.pc_cache_wake_all(self._c)

    def check(self) -> tuple[str, str] | None:
        """Return the first violated invariant with the finding, or None."""
        out = ffi.new("struct pc_violation *")
        if not lib.pc_check(self._c, out):
            return None
        return ffi.string(out.invariant).decode(), ffi.string(out.text).decode()

    def trace(self) -> str:
        """Return the last transitions, oldest first, one per line."""
        out = ffi.new("char[]", 128 << 10)
        lib.pc_trace_text(self._c, out, len(out))
        return cast(str, ffi.string(out).decode())


class NativeVolume:
    """One `struct pc_volume`."""

    __slots__ = ("_v", "address", "cache", "ended")

    def __init__(self, cache: NativeCache, max_inflight: int, *, sticky: bool = False) -> None:
        self.cache = cache
        self.ended = False
        out = ffi.new("struct pc_volume **")
        err = lib.pc_volume_create(cache._c, max_inflight, sticky, out)
        if err == -errno.ENFILE:
            gc.collect()  # ended, unreferenced volumes hold their places until they are collected
            err = lib.pc_volume_create(cache._c, max_inflight, sticky, out)
        if err == -errno.ENFILE:
            raise OSError(errno.ENFILE, f"a cache has at most {lib.PC_VOLUMES_MAX} volumes at one time; detach one")
        if err:
            raise OSError(-err, os.strerror(-err))
        self._v = out[0]
        self.address = int(ffi.cast("uintptr_t", out[0]))

    def end(self) -> None:
        """Let it be freed with its last reference, and each of its inodes with that inode's. No thread of it runs."""
        self.ended = True

    def __del__(self) -> None:
        if self.ended and not self.cache.forked:
            lib.pc_volume_destroy(self._v)

    def work(self, job: Callable[[int], None], timeout: float) -> bool | None:
        """Do the next piece of work; False: there was none in time; None: the volume has stopped."""
        worked: bool | None = _core.work(self.cache.core, self.address, job, math.ceil(timeout * 1e9))
        return worked

    def set_calls(self, *, reads_here: bool, on_loop: bool) -> None:
        """Set how calls are made. `reads_here`: a caller makes the read that it waits for itself; `on_loop`: calls are
        coroutines on the cache's event loop.
        """
        lib.pc_volume_set_calls(self._v, reads_here, on_loop)

    def set_logged(self) -> None:
        """Keep, for each file, the ranges that were written since they were appended to the journal."""
        lib.pc_volume_set_logged(self._v)

    def wake_worker(self) -> None:
        """Wake one thread that waits for work."""
        lib.pc_work_wake(self._v)

    def push_job(self, cls: int) -> None:
        lib.pc_job_push(self._v, cls)

    def close(self) -> None:
        """Begin no call of the backend from now on; `inflight` and `calling` count the last ones."""
        lib.pc_volume_close(self._v)

    def closing(self) -> bool:
        return bool(lib.pc_volume_number(self._v, lib.PC_VOLUME_CLOSING))

    def stop(self) -> None:
        lib.pc_volume_stop(self._v)

    def abort(self, left: bool) -> None:
        lib.pc_volume_abort(self._v, left)

    def seal(self, sealed: bool) -> None:
        """Refuse writes, or accept them again."""
        lib.pc_volume_seal(self._v, sealed)

    def resume(self) -> None:
        lib.pc_volume_resume(self._v)

    def revoke(self, fenced: bool) -> None:
        """After an abort, end running fills; `fenced`: writes and commits too."""
        _core.revoke(self.address, fenced)

    def stragglers(self) -> int:
        """Return the number of callers in an operation from before an abort, who have yet to notice it; they need no
        backend for that.
        """
        return cast(int, _core.stragglers(self.address))

    def take_epoch(self) -> int:
        return int(lib.pc_epoch_take(self._v))

    def set_dirty_limit(self, size: int, floor: int) -> None:
        """Set the share of the dirty limit, and the minimum that other volumes cannot take."""
        lib.pc_volume_set_dirty_limit(self._v, size, floor)

    def pressure(self) -> Pressure:
        out = ffi.new("struct pc_pressure *")
        lib.pc_volume_pressure(self._v, out)
        return Pressure(**extension.fields(out[0]))

    def grant(self, size: int) -> None:
        """Set how many bytes may be dirtied above the midpoint before a writer has to pause again."""
        lib.pc_room_grant(self._v, size)

    event_seq = _number(lib.PC_VOLUME_EVENT)

    local = _number(lib.PC_VOLUME_LOCAL)

    inflight = _number(lib.PC_VOLUME_INFLIGHT)

    calling = _number(lib.PC_VOLUME_CALLING)
    """Return the number of running calls that carry no bytes, and of the engine's jobs."""

    def set_inflight(self, n: int) -> None:
        lib.pc_volume_set_inflight(self._v, n)

    def dirty_inodes(self, most: int | None = None) -> list[int]:
        """Return ids of the inodes with local or uncommitted changes; only the first `most` of them."""
        room = 256 if most is None else most
        while True:
            ids = ffi.new("uint64_t[]", room)
            found = lib.pc_volume_dirty_inodes(self._v, ids, room)
            if found <= room or most is not None:
                return [int(ids[k]) for k in range(min(found, room))]
            room = int(found) + 64

    def _some(self, which: int, most: int) -> list[int]:
        ids = ffi.new("uint64_t[]", most)
        return ffi.unpack(ids, lib.pc_volume_some(self._v, which, ids, most)) if most else []

    def some_dirty(self, most: int) -> list[int]:
        """Return ids from the dirty list: at most `most`, each call the next ones in turn."""
        return self._some(lib.PC_LIST_DIRTY, most)

    def some_aged(self, most: int) -> list[int]:
        """Return ids of inodes with dirty bytes, oldest first: at most `most`, each call the next ones in turn."""
        return self._some(lib.PC_LIST_AGED, most)

    def some_hollow(self, most: int) -> list[int]:
        """Return ids of hollow inodes, oldest first: at most `most`, each call the next ones in turn."""
        return self._some(lib.PC_LIST_HOLLOW, most)

    def aged(self, now: float, expire: float, most: int) -> tuple[list[int], float | None]:
        """Return ids of inodes that have been dirty for `expire` seconds, oldest first, at most `most`, and the seconds
        until the next inode has been (None: no other inode is dirty).
        """
        before, ids, next_ns = int(now * 1e9) - int(expire * 1e9), ffi.new("uint64_t[]", most), ffi.new("uint64_t *")
        found = lib.pc_volume_aged(self._v, max(0, before), ids, most if before >= 0 else 0, next_ns)
        left = (int(next_ns[0]) - before) / 1e9 if next_ns[0] else None
        return ffi.unpack(ids, found) if found else [], left

    unsaved = _number(lib.PC_VOLUME_UNSAVED)
    """Return the bytes that a sync would save now: an upper bound by page."""

    def latency(self, call: int) -> tuple[list[int], float]:
        """Return how many calls took how long, by LATENCY_BOUNDS and longer; and the sum of their seconds."""
        counts = ffi.new("uint64_t[]", len(LATENCY_BOUNDS) + 1)
        total = int(lib.pc_latency_get(self._v, call, counts))
        return ffi.unpack(counts, len(counts)), total / 1e9

    def waiting(self) -> dict[str, int]:
        """Return the number of queued pieces of work, by class, most urgent first."""
        waiting = ffi.new("uint32_t[]", len(WORK))
        lib.pc_show_queue(self._v, waiting)
        return {name: int(n) for name, n in zip(WORK, waiting, strict=True)}

    def usage(self) -> dict[str, int]:
        counters, usage = ffi.new("struct pc_counters *"), ffi.new("struct pc_usage *")
        lib.pc_volume_counters(self._v, counters, usage)
        return read_usage(usage) | read_counters(counters)

    @staticmethod
    def no_usage() -> dict[str, int]:
        """Return `usage` with all zeros."""
        return read_usage(ffi.new("struct pc_usage *")) | read_counters(ffi.new("struct pc_counters *"))

    def counters(self) -> dict[str, int]:
        """Return the monotonic counters, without current byte counts."""
        counters, usage = ffi.new("struct pc_counters *"), ffi.new("struct pc_usage *")
        lib.pc_volume_counters(self._v, counters, usage)
        return read_counters(counters)
