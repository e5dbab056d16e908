"""`PageCache.trace`: the waits and the backend calls of a cache for a while, as a file for Perfetto or chrome://tracing.

    spans.c        waits of threads, calls that carry bytes ─┐
    engine         commits, calls by name                   ─┴► a deque of events ──► the file, when the trace ends

The file is Chrome's trace event format: a slice ("X") for each event, on a track for each thread, and the tracks' names
("M"). What runs when the trace ends is in the file too, from the register of waits: so a call that hangs is there.
The file is made at entry, under another name in its folder, so that every problem with it shows before the body runs.
At exit it is written and renamed: its name has a whole trace or the earlier file.

docs/how-to/trace.md explains how to read the file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import operator
import os
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..distribution import VERSION
from ..engine.report.reason import Reason
from ..errors import PageCacheError
from ..native import CALLS, WAITS, Event
from ..stats import Wait, key_text

if TYPE_CHECKING:
    from ..cache import PageCache

log = logging.getLogger("pagecache")

RECORDS = 1 << 18
RECORDS_MAX = 1 << 24

METHODS: dict[int | str, str] = {
    **{number: name for name, number in CALLS.items()},
    CALLS["fill"]: "read_into",
    CALLS["uncached"]: "read_into past the cache",
    CALLS["write"]: "write_from",
    CALLS["direct"]: "direct",
}
KINDS = {number: name.replace("_", " ") for name, number in WAITS.items()}


def text_of(key: Any) -> str | None:
    """Return a key as text that every JSON reader accepts, with the code of invalid characters; None: there is none."""
    text = key_text(key)
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def document(cache: PageCache, events: Iterable[Event], start: int = 0, **other: Any) -> dict[str, Any]:
    """Return the content of the file: the events, and the waits that have not ended. `start`: ns of the clock that
    become time 0.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    files = {file.id: (volume.name, file.key) for volume in cache._engine_volumes() for file in volume.files()}
    slices = [_slice(event, start, files) for event in events]
    slices += [_unfinished(wait, (time.monotonic_ns() - start) / 1e3) for wait in cache.waits()]
    tracks = {slice["tid"]: names.get(slice["tid"], f"thread {slice['tid']}") for slice in slices}
    made = [{"ph": "M", "name": "process_name", "tid": 0, "args": {"name": f"pagecache {cache.capacity} bytes"}}]
    made += [{"ph": "M", "name": "thread_name", "tid": tid, "args": {"name": name}} for tid, name in tracks.items()]
    made = [event | {"pid": os.getpid()} for event in (*made, *slices)]
    return {"displayTimeUnit": "ms", "otherData": other, "traceEvents": made}


def _slice(event: Event, start: int, files: dict[int, tuple[str, object]]) -> dict[str, Any]:
    waits, kind, detail, thread, began, ended, file, pos, end, failed = event
    reason = detail if isinstance(detail, Reason) else None
    volume, key = files.get(file, (None, reason.key if reason is not None else None if waits else detail))
    category, name = "backend", METHODS.get(kind, kind)
    if waits:
        category, name = "wait", f"wait: {(detail or KINDS[int(kind)]) if reason is None else reason.what}"
    if reason is not None and reason.own is not None:  # a call by name that the caller made itself
        category, name = "backend", reason.own
    args: dict[str, Any] = {"volume": volume, "file": text_of(key)}
    if pos < end:
        args |= {"offset": pos, "length": end - pos}
    if failed:
        args["failed"] = True
    return _made(category, name, thread, (began - start) / 1e3, max(0, ended - began) / 1e3, args)


def _unfinished(wait: Wait, now: float) -> dict[str, Any]:
    """Return the slice of a wait that has not ended, with the call that it waits for."""
    args: dict[str, Any] = {"volume": wait.volume, "file": text_of(wait.key)}
    args |= {"offset": wait.offset, "length": wait.length}
    if wait.owner is not None:
        args |= {"call": wait.owner.what, "place": wait.owner.place}
    lasts = wait.seconds * 1e6
    return _made("unfinished", f"wait: {wait.what}", wait.thread, now - lasts, lasts, args)


def _made(category: str, name: object, thread: int, at: float, lasts: float, args: dict[str, Any]) -> dict[str, Any]:
    known = {what: value for what, value in args.items() if value is not None}
    return {"ph": "X", "cat": category, "name": name, "tid": thread, "ts": at, "dur": lasts, "args": known}


class Trace:
    """Record waits and backend calls of a cache while the body runs, and write them to `path` when it ends; made by
    `PageCache.trace`. A context manager that can be entered once.

    Attributes:
        path: the file, absolute.
        records: events that are kept, rounded up to a power of two.
        dropped: after the end, how many events were not kept: the oldest ones.
    """

    path: str
    records: int
    dropped: int

    def __init__(self, cache: PageCache, path: str | os.PathLike[str], records: int = RECORDS) -> None:
        try:
            wanted = operator.index(records)
        except TypeError:
            raise TypeError(f"records must be an int, not {type(records).__name__}") from None
        if not 2 <= wanted <= RECORDS_MAX:
            raise ValueError(f"records: {records!r} is not in the range 2 to {RECORDS_MAX}")
        self.path = os.path.realpath(os.fsdecode(path))
        self.records = 1 << (wanted - 1).bit_length()
        self.dropped = 0
        self._cache = cache
        self._used = False
        self._out: io.TextIOWrapper | None = None
        self._other = ""
        self._events: deque[Event] = deque(maxlen=self.records)
        self._start = 0
        self._began = 0.0

    def __enter__(self) -> Self:
        self._cache._check_open()
        if self._used:
            raise RuntimeError("a trace is used once; make another one with PageCache.trace")
        if self._cache.native.tracing:
            raise PageCacheError("a trace of this cache runs already", self.path, errno=errno.EBUSY)
        self._open()
        self._used = True
        self._began, self._start = time.time(), time.monotonic_ns()
        self._cache.native.trace_into(self._events.append)
        return self

    def _open(self) -> None:
        """Make the file beside its final name.

        Raises:
            OSError: It could not be made there.
        """
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            code = errno.EISDIR if os.path.isdir(self.path) else errno.EINVAL
            raise OSError(code, "not a regular file", self.path)
        folder, name = os.path.split(self.path)
        self._other = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}")
        try:
            fd = os.open(self._other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise type(error)(error.errno, os.strerror(error.errno or 0), self.path) from None
        self._out = open(fd, "w", encoding="utf-8", newline="\n")  # noqa: SIM115

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        assert self._out is not None
        if self._cache.native.forked:
            self._out.close()  # the parent writes it
            return
        self.dropped = self._cache.native.trace_into(None) - len(self._events)
        try:
            self._write(self._out)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._out.close()  # its buffer is not wanted
            with contextlib.suppress(OSError):
                os.unlink(self._other)
            if e is None or not isinstance(error, OSError):
                raise
            log.error("the trace %s was not written: %s", self.path, error)
        if self.dropped:
            log.warning("%s: the %d oldest events were dropped; a larger records= keeps them", self.path, self.dropped)

    def _write(self, out: io.TextIOWrapper) -> None:
        other = {"pagecache": VERSION, "python": sys.version.split()[0], "capacity": self._cache.capacity}
        other |= {"kept": len(self._events), "dropped": self.dropped, "began": self._began}
        json.dump(document(self._cache, self._events, self._start, **other), out)
        out.close()
        os.replace(self._other, self.path)
