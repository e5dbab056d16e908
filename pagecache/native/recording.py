"""The records of a trace: `_native/state/record.c` seen from Python.

During a trace the cache has a ring of records. C makes most of them, including waits; the engine makes others through
`Span`. Records are read as tuples in chronological order, in pieces, so that they are not in memory twice.

One `Recorder` belongs to each cache. During a trace it stores the names behind numbers in its records: keys of files,
names of jobs; names of threads belong to the process.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from .extension import END, extension, ffi, lib

__all__ = [
    "CALLS",
    "ENGINE_FLUSHER",
    "ENGINE_JOB",
    "ENGINE_PAUSE",
    "MAIN_THREAD",
    "Fate",
    "Flag",
    "Kind",
    "Record",
    "Recorder",
    "Span",
    "Taken",
    "clock",
    "names_of",
    "text_of",
    "traced",
]

P = ParamSpec("P")
T = TypeVar("T")

Record = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""number, ns at its end, ns at its beginning or 0, file, offset, length, id, value, thread, what, kind, flags"""

PIECE = 4096
LAYOUT = struct.Struct("=8QIHBB")
TEXTS_MAX = 1 << 16
MAIN_THREAD = 1

CALLS: dict[str, int] = {"fsync": lib.PC_CALL_FSYNC, "flush": lib.PC_CALL_FLUSH, "commit": lib.PC_CALL_COMMIT}
ENGINE_FLUSHER: int = lib.PC_ENGINE_FLUSHER
ENGINE_JOB: int = lib.PC_ENGINE_JOB
ENGINE_PAUSE: int = lib.PC_ENGINE_PAUSE


def clock() -> int:
    """Return the time in ns, as in records."""
    return int(lib.pc_clock_ns())


def text_of(key: object) -> str:
    """Return a key as text that every JSON reader accepts: a string or a path unchanged, with the code of invalid
    characters; any other key as its repr.
    """
    text = os.fsdecode(key) if isinstance(key, str | os.PathLike) else repr(key)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def names_of(prefix: str) -> dict[int, str]:
    """Return the names of an enumeration of C by number, in lower case: "PC_WAIT_" gives {1: "folio", ...}."""
    return {int(getattr(lib, name)): name.removeprefix(prefix).lower() for name in dir(lib) if name.startswith(prefix)}


class Kind:
    """Kinds of records."""

    CALL: Final[int] = lib.PC_R_CALL
    WAIT: Final[int] = lib.PC_R_WAIT
    IO: Final[int] = lib.PC_R_IO
    COMMIT: Final[int] = lib.PC_R_COMMIT
    ENGINE: Final[int] = lib.PC_R_ENGINE
    WROTE: Final[int] = lib.PC_R_WROTE
    REQUEST: Final[int] = lib.PC_R_REQUEST
    ISSUED: Final[int] = lib.PC_R_ISSUED
    ACKED: Final[int] = lib.PC_R_ACKED
    AGAIN: Final[int] = lib.PC_R_AGAIN
    BACK: Final[int] = lib.PC_R_BACK
    GONE: Final[int] = lib.PC_R_GONE
    DONE: Final[int] = lib.PC_R_DONE
    STATE: Final[int] = lib.PC_R_STATE


class Flag:
    """Flags of a record. BEGINS: it goes on, and has another record when it ends. ELSEWHERE: it ended in another
    thread. KEPT: a commit failed that lost nothing.
    """

    BEGINS: Final[int] = lib.PC_R_BEGINS
    ELSEWHERE: Final[int] = lib.PC_R_ELSEWHERE
    FAILED: Final[int] = lib.PC_R_FAILED
    AWAITED: Final[int] = lib.PC_R_AWAITED
    KEPT: Final[int] = lib.PC_R_KEPT


class Fate:
    """Results of write-back: `what` of ACKED and AGAIN."""

    DURABLE: Final = 0
    FAILED: Final = 4


class Taken:
    """Transitions, `what` of STATE."""

    PASS: Final[int] = lib.PC_T_PASS
    PASS_END: Final[int] = lib.PC_T_PASS_END


class _Threads:
    """Names of the threads that any trace of this process contains, by the numbers from C."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.names: dict[int, str] = {}
        self.traces = 0

    def begin(self) -> None:
        with self.lock:
            if not self.traces:
                self.names.clear()
            self.traces += 1
            self.names[MAIN_THREAD] = threading.main_thread().name
        extension.name_threads(self.seen)

    def end(self) -> None:
        with self.lock:
            self.traces -= 1

    def seen(self, number: int) -> None:
        """Register the current thread. `current_thread` would make an object for a foreign thread."""
        own = threading.get_ident()
        self.names[number] = next((t.name for t in threading.enumerate() if t.ident == own), f"thread {number}")


threads = _Threads()


class Recorder:
    """The records of one cache. `on`: a trace runs."""

    __slots__ = ("_c", "_core", "files", "on", "texts")

    def __init__(self, core: object, address: int) -> None:
        self._core = core  # keeps the memory alive
        self._c = ffi.cast("struct pc_cache *", address)
        self.on = False
        self.files: dict[int, tuple[str, object]] = {}
        self.texts: dict[str, int] = {}

    def start(self, records: int) -> bool:
        """Begin a trace. False: one runs, or is being written."""
        error = lib.pc_record_start(self._c, records)
        if error:
            if error == -errno.EBUSY:
                return False
            raise OSError(-error, os.strerror(-error))
        threads.begin()
        self.on = True
        return True

    def stop(self) -> tuple[int, int, int, int]:
        """Stop recording; return how many records were made, the numbers [first, end) of the kept ones, and how many of
        these were lost.
        """
        out = ffi.new("uint64_t[3]")
        self.on = False
        made = int(lib.pc_record_stop(self._c, out, out + 1, out + 2))
        return made, int(out[0]), int(out[1]), int(out[2])

    def read(self, first: int, end: int) -> Iterator[Record]:
        """Yield the records with these numbers, in order; after `stop`."""
        at, out = ffi.new("uint64_t *", first), ffi.new("struct pc_record[]", PIECE)
        memory = ffi.buffer(out)
        while count := lib.pc_record_read(self._c, at, end, out, PIECE):
            yield from LAYOUT.iter_unpack(bytes(memory[: count * LAYOUT.size]))

    def free(self) -> None:
        """Free the records."""
        lib.pc_record_free(self._c)
        self.files.clear()
        self.texts.clear()
        threads.end()

    def met(self, file: int, volume: str, key: object) -> None:
        """Record the volume and key of a file's number."""
        if self.on:
            self.files[file] = (volume, key)

    def text(self, text: str, key: object = None) -> int:
        """Return a number for a text in a record."""
        if key is not None:
            text = f"{text} {text_of(key)}"
        if len(self.texts) >= TEXTS_MAX:
            text = "..."
        return self.texts.setdefault(text, len(self.texts))

    def add(
        self, kind: int, what: int, flags: int, began: int, file: int, pos: int, length: int, id: int, value: int
    ) -> None:
        number = int(lib.pc_record_thread())
        if number not in threads.names:
            threads.seen(number)
        record = (0, 0, began, file, pos, length, id, value & END, number, what, kind, flags)
        lib.pc_record_span(self._c, ffi.from_buffer("struct pc_record *", LAYOUT.pack(*record)))


class Span:
    """A timed activity of the engine: a context manager, without effect while no trace runs.

    Args:
        kind, what: of the record. id: of the call that it belongs to; None: it is a call, and gets one.
        slow: it may take long: announced when it begins. awaited: by a task, so that others run in between.
    """

    __slots__ = ("_awaited", "_began", "_outer", "_recorder", "_slow", "extent", "file", "id", "kind", "value", "what")

    def __init__(
        self,
        recorder: Recorder,
        kind: int,
        what: int,
        *,
        file: int = 0,
        extent: tuple[int, int] = (0, 0),
        id: int | None = 0,
        value: int = 0,
        slow: bool = False,
        awaited: bool = False,
    ) -> None:
        self._recorder = recorder
        self.kind, self.what, self.file, self.extent, self.id, self.value = kind, what, file, extent, id, value
        self._slow, self._awaited = slow, awaited
        self._began = 0
        self._outer: int | None = None

    def __enter__(self) -> Self:
        if self._recorder.on:
            if self.id is None:
                self.id = int(lib.pc_record_call())
                if not self._awaited:
                    self._outer = int(lib.pc_record_enter(self.id))
            self._began = clock()
            if self._slow:
                self._add(Flag.BEGINS)
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._outer is not None:
            lib.pc_record_enter(self._outer)
            self._outer = None
        if self._began:
            self._add(Flag.FAILED if e is not None else 0)
            self._began = 0

    def _add(self, flags: int) -> None:
        flags |= Flag.AWAITED if self._awaited else 0
        pos, length = self.extent
        self._recorder.add(self.kind, self.what, flags, self._began, self.file, pos, length, self.id or 0, self.value)


def traced(method: Callable[P, T]) -> Callable[P, T]:
    """Make a method of a handle a call in traces; the handle has its inode as `_native`."""
    name = method.__name__

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        native: Any = args[0]._native  # type: ignore[attr-defined]
        recorder = native.volume.cache.recorder
        if not recorder.on:
            return method(*args, **kwargs)
        with Span(
            recorder, Kind.CALL, lib.PC_CALL_CHANGE, file=native.id, id=None, value=recorder.text(name), slow=True
        ):
            return method(*args, **kwargs)

    return call
