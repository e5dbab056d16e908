"""The expected state of a file, its store and its handles when one backend call of a pass goes wrong.

The file is written whole; the limits make NR_REQUESTS requests of it:

    request     0        1        2        3        4
    old      |oooooooo|oooooooo|oooooooo|oo       :        :     content of the store before
    new      |nnnnnnnn|nnnnnnnn|nnnnnnnn|nnnnnnnn|nnnnnn         content written to the cache

so that requests lie inside the stored object, across its end, and beyond it. A `Fault` describes the backend's answer
to one request (or to the commit) and its effect: no error is reported, or this error number after that many calls.
`Model` is the same file without a cache: three contents and the set of failed requests. It has no folios, stamps,
passes or threads. `Table` puts a cache with three handles beside it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pagecache import BackendError, CachedFile, RetryPolicy

from .backends import RecordingFile
from .rig import KEY, PAGE, Rig, make_rig, pattern

NR_REQUESTS = 5
REQUEST = 2 * PAGE
OLD = pattern(3 * REQUEST + 500, seed=1)
NEW = pattern(NR_REQUESTS * REQUEST - 1000, seed=2)
ATTEMPTS = 3  # of the table's retry policy

Range = tuple[int, int]
Answer = Callable[[RecordingFile, int, Sequence[memoryview]], Any]


def span(request: int) -> Range:
    """Offset and length of a request."""
    offset = request * REQUEST
    return offset, min(offset + REQUEST, len(NEW)) - offset


# -------------------------------------------------------------------- what a backend does to a request


def raising(error: BaseException, *, stored: bool = False) -> Answer:
    """Fail, before or after taking the bytes."""

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if stored:
            file.store(offset, buffers)
        raise error.with_traceback(None)

    return answer


def taking(length: int) -> Answer:
    """Take the first bytes only."""
    return lambda file, offset, buffers: file.store(offset, buffers, length)


def answering(value: object) -> Answer:
    """Take nothing and answer `value`."""
    return lambda _file, _offset, _buffers: value


@dataclass(frozen=True)
class Fault:
    """The backend's answer to one request, each time or `times` times, and its effect."""

    answer: Answer
    times: float = float("inf")
    error: int | None = None  # the reported error number; None: no error is reported
    attempts: int | None = None  # calls until then; None: the contract names no number
    stored: bool = False  # the bytes are in the store although the call failed
    sent: tuple[Range, ...] | None = (
        None  # the bytes sent for the request, relative to it; None: the contract leaves it open
    )


WHOLE = (0, REQUEST)
PART = PAGE + 100

FAULTS: dict[str, Fault] = {
    "transient": Fault(raising(OSError(errno.EIO, "passing")), times=ATTEMPTS - 1, sent=(WHOLE,) * ATTEMPTS),
    "transient forever": Fault(
        raising(OSError(errno.EIO, "always")), error=errno.EIO, attempts=ATTEMPTS, sent=(WHOLE,) * ATTEMPTS
    ),
    "permanent": Fault(raising(OSError(errno.ENOSPC, "full")), error=errno.ENOSPC, attempts=1, sent=(WHOLE,)),
    "its word against its errno": Fault(
        raising(BackendError(errno.EIO, "never", retry=False)), error=errno.EIO, attempts=1, sent=(WHOLE,)
    ),
    "short": Fault(taking(PART), times=1, sent=(WHOLE, (PART, REQUEST - PART))),
    "one byte": Fault(taking(1), times=1, sent=(WHOLE, (1, REQUEST - 1))),
    "no progress": Fault(answering(0), times=2, sent=(WHOLE,) * 3),
    "no progress forever": Fault(answering(0), error=errno.EIO),
    "nonsense": Fault(answering("12"), error=errno.EPROTO, attempts=1, sent=(WHOLE,)),
    "odd exception": Fault(raising(KeyError("odd")), error=errno.EIO, attempts=1, sent=(WHOLE,)),
    "lost answer": Fault(
        raising(OSError(errno.ETIMEDOUT, "no answer"), stored=True), times=ATTEMPTS - 1, sent=(WHOLE,) * ATTEMPTS
    ),
    "lost answers forever": Fault(
        raising(OSError(errno.ETIMEDOUT, "no answer"), stored=True),
        error=errno.ETIMEDOUT,
        attempts=ATTEMPTS,
        stored=True,
        sent=(WHOLE,) * ATTEMPTS,
    ),
    # The other requests that were not made yet are also smaller.
    "smaller": Fault(raising(BackendError(errno.EFBIG, "smaller", retry=True, max_write=PAGE)), times=1),
}


@dataclass(frozen=True)
class CommitFault:
    """The backend's answer to a commit."""

    error: OSError
    times: float = float("inf")
    reported: int | None = None  # the error number that an fsync reports
    forgets: bool = False  # the acknowledged bytes are gone
    kept: bool = False  # the error says that the acknowledged bytes are still there
    stored: bool = False  # the commit was done, its answer was lost

    def answer(self, file: RecordingFile) -> str:
        if self.stored:
            file.make_durable()
        if self.forgets:
            file.forget()
        raise self.error.with_traceback(None)


COMMIT_FAULTS: dict[str, CommitFault] = {
    "transient, forgetting": CommitFault(OSError(errno.EIO, "passing"), times=ATTEMPTS - 1, forgets=True),
    "transient, kept": CommitFault(
        BackendError(errno.EIO, "passing", retry=True, kept=True), times=ATTEMPTS - 1, kept=True
    ),
    "permanent, forgetting": CommitFault(OSError(errno.ENOSPC, "full"), reported=errno.ENOSPC, forgets=True),
    "permanent, kept": CommitFault(
        BackendError(errno.ENOSPC, "full", retry=False, kept=True), reported=errno.ENOSPC, kept=True
    ),
    "lost answer": CommitFault(OSError(errno.ETIMEDOUT, "no answer"), times=ATTEMPTS - 1, stored=True),
    "lost answers forever": CommitFault(OSError(errno.ETIMEDOUT, "no answer"), reported=errno.ETIMEDOUT, stored=True),
}


class Applied:
    """A fault at one request: counts down its times, lets the other requests pass, and can be healed."""

    def __init__(self, request: int, fault: Fault) -> None:
        self.offset, self.length = span(request)
        self.answer, self.left, self.lock = fault.answer, fault.times, threading.Lock()

    def __call__(self, file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> Any:
        with self.lock:
            hit = self.offset <= offset < self.offset + self.length and self.left > 0
            self.left -= hit
        return self.answer(file, offset, buffers) if hit else file.store(offset, buffers)


# -------------------------------------------------------------------- the model


@dataclass
class Model:
    """The file without a cache."""

    content: bytearray = field(default_factory=lambda: bytearray(NEW))  # content seen by readers
    written: bytearray = field(default_factory=lambda: bytearray(OLD))  # content that the backend would return
    committed: bytearray = field(default_factory=lambda: bytearray(OLD))  # content left by a crash
    failed: set[int] = field(default_factory=set)
    dirty: set[int] = field(default_factory=lambda: set(range(NR_REQUESTS)))
    unstable: set[int] = field(default_factory=set)
    overdue: bool = False  # the last commit has failed for good

    def local(self) -> set[int]:
        return self.dirty | self.unstable

    def hand_over(self, faulty: int | None = None, fault: Fault | None = None) -> int | None:
        """Run a pass over all dirty requests, with a fault at one request. Return the error that it ends with."""
        reported = None
        for request in sorted(self.dirty):
            offset, length = span(request)
            error = fault.error if fault is not None and request == faulty else None
            if error is None or (fault is not None and fault.stored):
                self.written.extend(bytes(max(0, offset + length - len(self.written))))
                self.written[offset : offset + length] = self.content[offset : offset + length]
            if error is not None:
                self.failed.add(request)
                reported = error
            else:
                self.failed.discard(request)
                self.unstable.add(request)
        self.dirty = set(self.failed)
        return reported

    def commit(self) -> None:
        self.committed = bytearray(self.written)
        self.unstable.clear()
        self.overdue = False

    def fail_commit(self, fault: CommitFault) -> None:
        """Apply a commit that failed for good: the bytes it forgot are dirty, and so are those it may have
        forgotten. All that is not saved counts as failed [2.16].
        """
        self.overdue = True
        if fault.stored:
            self.committed = bytearray(self.written)
        if fault.forgets:
            forgotten = bytearray(OLD)  # no commit ever succeeded; an extension of the object is not forgotten
            forgotten.extend(bytes(len(self.written) - len(forgotten)))
            self.written = forgotten
        if not fault.kept:
            if fault.error.errno == errno.ENOSPC:  # a retry is useless
                self.failed |= self.unstable
            self.dirty |= self.unstable
            self.unstable.clear()

    def discard(self, request: int) -> list[Range]:
        """Give a request up and return the lost ranges."""
        if request not in self.local():
            return []
        offset, length = span(request)
        for state in (self.dirty, self.unstable, self.failed):
            state.discard(request)
        if request == NR_REQUESTS - 1:  # beyond the size that the store is known to have
            for content in (self.content, self.written):
                del content[offset:]
        else:
            self.content[offset : offset + length] = self.written[offset : offset + length]
        return [(offset, length)]

    def dirty_ranges(self) -> list[Range]:
        return merged(span(request) for request in sorted(self.local()))

    def failed_ranges(self) -> list[Range]:
        return merged(span(request) for request in sorted(self.local() if self.overdue else self.failed))


def merged(ranges: Any) -> list[Range]:
    """Ascending ranges, with touching ones joined."""
    found: list[Range] = []
    for offset, length in ranges:
        if found and sum(found[-1]) == offset:
            offset, length = found[-1][0], found.pop()[1] + length
        found.append((offset, length))
    return found


# -------------------------------------------------------------------- a cache beside it

POLICY = RetryPolicy(attempts=ATTEMPTS, first_delay=0.0005, max_delay=0.002, deadline=20.0, failed_retry=None)
HANDLES = ["writer", "other writer", "reader"]
CALLS = ["fsync", "flush", "close"]


class Table:
    """One cell: a written file with three handles, and its model."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.rig.finish()

    def __init__(self, ordered: bool) -> None:
        self.rig: Rig = make_rig(
            {KEY: OLD}, limits={"max_write": REQUEST, "ordered_writes": ordered}, retry=POLICY, capacity="1MiB"
        )
        self.open = {
            "writer": self.rig.open("r+b"),
            "other writer": self.rig.open("r+b"),
            "reader": self.rig.open("rb"),
        }
        self.open["writer"].pwrite(NEW, 0)
        self.rig.backend.forget_calls()
        self.model = Model()

    def hands_over(self, handle: str, call: str) -> bool:
        """Return whether a call has to send anything. Flushing a reader, or closing beside another writer, sends
        nothing.
        """
        return {"fsync": True, "flush": handle != "reader", "close": handle == "writer"}[call]

    def call(self, handle: str, call: str) -> None:
        """Make a call with a handle. A writer is closed as the last one, a reader and the other writer are not."""
        if (handle, call) == ("writer", "close"):
            self.open.pop("other writer").close()
        file = self.open.pop(handle) if call == "close" else self.open[handle]
        getattr(file, call)()

    def compare(self) -> None:
        """Compare store, lists and content with the model."""
        model, volume, backend = self.model, self.rig.volume, self.rig.backend
        assert backend.written(KEY) == model.written
        assert backend.committed(KEY) == bytes(model.committed)
        assert merged((item.offset, item.length) for item in volume.failed()) == model.failed_ranges()
        assert volume.dirty_ranges(KEY) == model.dirty_ranges()
        self.compare_content()

    def compare_content(self) -> None:
        assert self.rig.volume.stat(KEY).size == len(self.model.content)
        for file in self.open.values():
            assert file.pread(2 * len(NEW), 0) == self.model.content

    def compare_repaired(self) -> None:
        """Check that everything is in its place and no handle reports anything."""
        for file in self.files():
            file.fsync()
            file.flush()
        assert self.rig.backend.committed(KEY) == bytes(self.model.content)
        assert self.rig.volume.failed() == []
        assert self.rig.volume.dirty_ranges(KEY) == []
        self.compare_content()
        for file in self.files():
            file.close()
            file.close()
        stats = self.rig.cache.stats()
        assert (stats.dirty, stats.writeback, stats.unstable, stats.failed, stats.pinned) == (0, 0, 0, 0, 0)
        self.rig.cache.check()

    def files(self) -> list[CachedFile]:
        """The open handles, or a new one if none is open."""
        if not self.open:
            self.open["late"] = self.rig.open("r+b")
        return list(self.open.values())
