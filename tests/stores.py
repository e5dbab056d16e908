"""The stores of tests: backends in memory that record every call and misbehave on request.

`RecordingBackend` keeps two contents per object: `written` (acknowledged, the answer of `read_into`) and `committed`
(survives a crash). A test may put three things in the way of any operation:

    gate   the call announces itself (`entered`) and goes on only after `release`
    fault  the call raises, or a function of the test runs: in place of a transfer, a commit or an open, and returns
           its answer; before the work of any other operation
    limits the BackendLimits the cache has to keep

Gates and faults of "OP answer" come after the work of an operation OP: the answer is late, or lost, or a function of
the test runs before it.

The backend also checks the duties of its caller: limits kept, no forbidden overlap, read-only buffers. It lists every
breach in `violations`; every rig asserts at its end that the list is empty.

`ObjectBackend` is an object store: nothing is visible before commit, content is replaced as a whole, and a commit
checks the version. Its files are pinned to the version that they were opened with. Reading another version is ESTALE,
and so is a commit over one, unless the stored object is the result of this file's own commit whose answer got lost.

`PublishingBackend` is an object store whose files show acknowledged bytes before a commit, can punch holes, and follow
their object through renames, also if it was never committed. It passes the conformance suite.

Operations: open stat remove rename list sync close (backend); read_into write_from truncate commit punch_hole file_stat
file_close (object).
"""

from __future__ import annotations

import copy
import errno
import itertools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import pagecache
from pagecache import BackendLimits, ObjectStat

from .plain import fill

Key = Hashable
ANSWERED = ("open", "read_into", "write_from", "commit")  # a function of the test does their work
WAIT_LIMIT_S = 60.0  # seconds: longer than any wait of a healthy run

Action = BaseException | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the backend saw."""

    op: str
    key: Key
    offset: int = 0
    length: int = 0
    nr_buffers: int = 0
    thread: int = 0
    data: bytes = b""
    addresses: tuple[tuple[int, int], ...] = ()  # (address, length) of each buffer, if the backend captures them


@dataclass(slots=True)
class Gate:
    """Holds calls of one operation: each announces itself and waits."""

    op: str
    key: Key | None
    left: int
    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    nr_entered: int = 0

    def wait_entered(self) -> None:
        assert self.entered.wait(WAIT_LIMIT_S), f"no {self.op} reached the gate"

    def open(self) -> None:
        self.release.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.open()


@dataclass(slots=True)
class Fault:
    """The behaviour of the next matching calls."""

    op: str
    key: Key | None
    action: Action
    left: float
    skip: int = 0
    nr_hit: int = 0

    def clear(self) -> None:
        self.left = 0


class StoredObject:
    """Content and version of one object."""

    def __init__(self, content: bytes = b"", *, committed: bool = True) -> None:
        self.written = bytearray(content)
        # the content a failed commit may fall back to: no new bytes, but truncates and extensions
        self.safe = bytearray(content)
        self.committed: bytes | None = content if committed else None
        self.version = 1
        self.next_version = 1  # that the next commit of an object that is replaced as a whole makes
        self.writers = 0
        self.exclusive = ""
        self.in_flight: list[tuple[int, int]] = []


class RecordingFile:
    """One open object of a RecordingBackend."""

    def __init__(self, backend: RecordingBackend, key: Key, stored: StoredObject) -> None:
        self.backend, self.key, self.stored = backend, key, stored

    def stat(self) -> ObjectStat:
        with self.backend.call("file_stat", self.key):
            return self.backend.object_stat(self.stored)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum(len(buffer) for buffer in buffers)
        with self.backend.call("read_into", self.key, offset, length, buffers) as action:
            self.backend.check_transfer("read", offset, buffers)
            if callable(action):
                return action(self, offset, buffers)  # type: ignore[no-any-return]
            return self.fill(offset, buffers)

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        """Answer a read with at most `limit` bytes."""
        with self.backend.lock:
            end = len(self.stored.written) if limit is None else min(len(self.stored.written), offset + limit)
            data = memoryview(bytes(self.stored.written[offset:end]))
        return fill(buffers, data)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum(len(buffer) for buffer in buffers)
        with (
            self.backend.writing(self.stored, offset, length),
            self.backend.call("write_from", self.key, offset, length, buffers) as action,
        ):
            self.backend.check_transfer("write", offset, buffers)
            if callable(action):
                return action(self, offset, buffers)  # type: ignore[no-any-return]
            return self.store(offset, buffers)

    def store(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        """Take a write of at most `limit` bytes."""
        data = b"".join(buffers)[:limit]
        with self.backend.lock:
            for content in (self.stored.written, self.stored.safe):
                gap = offset + len(data) - len(content)
                content.extend(bytes(max(gap, 0)))
            self.stored.written[offset : offset + len(data)] = data
            self.backend.change(self.stored)
        return len(data)

    def truncate(self, size: int) -> None:
        with (
            self.backend.exclusive(self.stored, "truncate"),
            self.backend.call("truncate", self.key, size),
            self.backend.lock,
        ):
            for content in (self.stored.written, self.stored.safe):
                content.extend(bytes(max(size - len(content), 0)))
                del content[size:]
            self.backend.change(self.stored)

    def commit(self) -> str | None:
        with self.backend.exclusive(self.stored, "commit"), self.backend.call("commit", self.key) as action:
            if callable(action):
                return action(self)  # type: ignore[no-any-return]
            return self.make_durable()

    def make_durable(self) -> str:
        with self.backend.lock:
            self.stored.safe = bytearray(self.stored.written)
            self.stored.committed = bytes(self.stored.written)
            self.stored.version = max(self.stored.version, self.stored.next_version)
            return str(self.stored.version)

    def forget(self) -> None:
        """Lose acknowledged bytes, as a failed commit may."""
        with self.backend.lock:
            self.stored.written = bytearray(self.stored.safe)
            self.backend.change(self.stored)

    def close(self) -> None:
        with self.backend.call("file_close", self.key):
            pass


class FileByName(RecordingFile):
    """A RecordingFile that looks its object up at each call."""

    def __init__(self, backend: RecordingBackend, key: Key) -> None:
        self.backend, self.key = backend, key

    @property
    def stored(self) -> StoredObject:  # type: ignore[override]
        found = self.backend.objects.get(self.key)
        if found is None:
            raise FileNotFoundError(2, "no such object", str(self.key))
        return found


class PunchingFile(RecordingFile):
    """A RecordingFile that can punch holes."""

    def punch_hole(self, offset: int, length: int) -> None:
        with (
            self.backend.exclusive(self.stored, "punch_hole"),
            self.backend.call("punch_hole", self.key, offset, length),
            self.backend.lock,
        ):
            end = min(offset + length, len(self.stored.written))
            for content in (self.stored.written, self.stored.safe):
                content[offset:end] = bytes(max(end - offset, 0))
            self.backend.change(self.stored)


class StagingFile(PunchingFile):
    """A PunchingFile whose written bytes show only after a commit: bytes read from the wrong place are wrong."""

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        if self.backend.limits.durable_writes:
            return super().fill(offset, buffers, limit)
        with self.backend.lock:
            written, self.stored.written = self.stored.written, self.stored.safe
            try:
                return super().fill(offset, buffers, limit)
            finally:
                self.stored.written = written

    def rollback(self) -> None:
        with self.backend.exclusive(self.stored, "rollback"), self.backend.call("rollback", self.key):
            self.backend.forget_uncommitted(self.stored)


class RecordingBackend(pagecache.Backend):
    """See the top of this file.

    Args:
        objects: the content of each.
        punch: files have `punch_hole`.
        capture: `calls` have the bytes of writes, and where they lay.
        staged: written bytes show by a commit only; a failed one and a rollback forget them. Files can punch holes.
        by_name: files find their object by its name, at each call.
        identities: objects have identities.
        limits: fields of BackendLimits.
    """

    def __init__(
        self,
        objects: dict[Key, bytes] | None = None,
        *,
        punch: bool = False,
        capture: bool = False,
        staged: bool = False,
        by_name: bool = False,
        identities: bool = False,
        **limits: Any,
    ) -> None:
        self.limits = BackendLimits(**{"commit_on_close": staged, **limits})
        self.staged, self.by_name, self.identities = staged, by_name, identities
        self.objects: dict[Key, StoredObject] = {key: StoredObject(data) for key, data in (objects or {}).items()}
        self.punch, self.capture = punch, capture
        self.lock = threading.RLock()
        self.calls: list[Call] = []
        self.gates: list[Gate] = []
        self.faults: list[Fault] = []
        self.violations: list[str] = []
        self.nr_transfers = self.nr_transfers_max = 0
        self.nr_running = self.nr_ended = 0
        self.closed = False
        self.keep_buffers: list[memoryview] | None = None

    # ---------------------------------------------------------------- what tests use

    def gate(self, op: str, key: Key | None = None, *, times: int = 1) -> Gate:
        gate = Gate(op, key, times)
        with self.lock:
            self.gates.append(gate)
        return gate

    def fault(self, op: str, action: Action, *, key: Key | None = None, times: float = 1, skip: int = 0) -> Fault:
        fault = Fault(op, key, action, times, skip)
        with self.lock:
            self.faults.append(fault)
        return fault

    def open_all_gates(self) -> None:
        with self.lock:
            for gate in self.gates:
                gate.left = 0
                gate.open()

    def clear_faults(self, op: str | None = None) -> None:
        with self.lock:
            self.faults = [fault for fault in self.faults if op not in (None, fault.op)]

    def seen(self, op: str, key: Key | None = None) -> list[Call]:
        with self.lock:
            return [call for call in self.calls if call.op == op and key in (None, call.key)]

    def spans(self, op: str, key: Key | None = None) -> list[tuple[int, int]]:
        """Offset and length of each call that was seen."""
        return [(call.offset, call.length) for call in self.seen(op, key)]

    def forget_calls(self) -> None:
        with self.lock:
            self.calls.clear()

    def written(self, key: Key) -> bytes:
        with self.lock:
            return bytes(self.objects[key].written)

    def committed(self, key: Key) -> bytes | None:
        with self.lock:
            return self.objects[key].committed if key in self.objects else None

    def forget_uncommitted(self, stored: StoredObject) -> None:
        with self.lock:
            stored.written = bytearray(stored.committed or b"")
            stored.safe = bytearray(stored.committed or b"")

    def change_remotely(self, key: Key, content: bytes) -> None:
        """Replace the content, as another client of the store does."""
        with self.lock:
            stored = self.objects[key]
            stored.written = bytearray(content)
            stored.safe = bytearray(content)
            stored.committed = content
            stored.version += 1

    def successor(self, *, lose: bool = True, shared: bool = True) -> RecordingBackend:
        """Return the same store after a crash. `lose`: only committed bytes are left. `shared`: calls still running
        here also land in it.
        """
        with self.lock:
            fresh = RecordingBackend(punch=self.punch, capture=self.capture)
            fresh.limits = self.limits
            found = list(self.objects.items())
            if shared:
                fresh.lock, fresh.objects = self.lock, self.objects
            for key, stored in found:
                if lose and stored.committed is None:
                    fresh.objects.pop(key, None)
                    continue
                kept = stored
                if not shared:
                    kept = StoredObject(bytes(stored.written), committed=False)
                    kept.committed, kept.version = stored.committed, stored.version
                if lose:
                    assert stored.committed is not None
                    kept.version += kept.written != stored.committed
                    kept.written, kept.safe = bytearray(stored.committed), bytearray(stored.committed)
                fresh.objects[key] = kept
            return fresh

    # ---------------------------------------------------------------- the protocol

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> RecordingFile:
        with self.call("open", key) as action:
            if callable(action):
                return action(self, key)  # type: ignore[no-any-return]
            with self.lock:
                if key not in self.objects:
                    if not create:
                        raise FileNotFoundError(2, "no such object", str(key))
                    self.objects[key] = StoredObject(committed=False)
                elif exclusive:
                    raise FileExistsError(17, "object exists", str(key))
                if self.by_name:
                    return FileByName(self, key)
                kind = StagingFile if self.staged else PunchingFile if self.punch else RecordingFile
                return kind(self, key, self.objects[key])

    def stat(self, key: Key) -> ObjectStat:
        with self.call("stat", key), self.lock:
            if key not in self.objects:
                raise FileNotFoundError(2, "no such object", str(key))
            return self.object_stat(self.objects[key])

    def change(self, stored: StoredObject) -> None:
        """Count a change: of an object in place it makes a version, of a whole object the next commit does."""
        if self.limits.commit_on_close:
            stored.next_version = stored.version + 1
        else:
            stored.version += 1

    def object_stat(self, stored: StoredObject) -> ObjectStat:
        with self.lock:
            identity = id(stored) if self.identities else None
            return ObjectStat(size=len(stored.written), version=str(stored.version), identity=identity)

    def remove(self, key: Key) -> None:
        with self.call("remove", key), self.lock:
            if key not in self.objects:
                raise FileNotFoundError(2, "no such object", str(key))
            del self.objects[key]

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        with self.call("rename", src), self.lock:
            if src not in self.objects:
                raise FileNotFoundError(2, "no such object", str(src))
            if dst in self.objects and not replace:
                raise FileExistsError(17, "object exists", str(dst))
            self.objects[dst] = self.objects.pop(src)

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        with self.call("list", prefix), self.lock:
            keys = sorted(str(key) for key in self.objects if str(key).startswith(prefix))
            return iter(
                [
                    ObjectStat(size=len(self.objects[key].written), version=str(self.objects[key].version), key=key)
                    for key in keys
                ]
            )

    def sync(self) -> None:
        with self.call("sync", None):
            pass

    def close(self) -> None:
        with self.call("close", None):
            pass

    # ---------------------------------------------------------------- record, hold, fail, check

    @contextmanager
    def call(
        self, op: str, key: Key, offset: int = 0, length: int = 0, buffers: Sequence[memoryview] = ()
    ) -> Iterator[Action | None]:
        """Record a call, wait at its gate, and raise its fault. If the fault is a function, the caller uses it."""
        keep = self.capture and op == "write_from"
        transfer = op in ("read_into", "write_from")
        with self.lock:
            data, addresses = (b"".join(buffers), tuple(map(address, buffers))) if keep else (b"", ())
            thread = threading.get_ident()
            self.calls.append(Call(op, key, offset, length, len(buffers), thread, data, addresses))
            if op == "close" and self.nr_running:
                self.violations.append(f"closed beside {self.nr_running} calls")
            if self.closed and op != "file_close":
                self.violations.append(f"{op} of {key!r} after the close")
            self.closed |= op == "close"
            gate = self._gate_of(op, key)
            self.nr_transfers += transfer
            self.nr_running += 1
            if self.keep_buffers is not None:
                self.keep_buffers.extend(buffer[:] for buffer in buffers)
            self.nr_transfers_max = max(self.nr_transfers_max, self.nr_transfers)
        try:
            action = self._pass(op, key, gate)
            if callable(action) and op not in ANSWERED:
                action()
            yield action
            answer = f"{op} answer"
            action = self._pass(answer, key, self._gate_of(answer, key))
            if callable(action):
                action()
        finally:
            with self.lock:
                self.nr_transfers -= transfer
                self.nr_running -= 1
                self.nr_ended += 1

    def _gate_of(self, op: str, key: Key) -> Gate | None:
        """The gate that this call has to pass."""
        with self.lock:
            gate = next((g for g in self.gates if g.op == op and g.left > 0 and g.key in (None, key)), None)
            if gate is not None:
                gate.left -= 1
                gate.nr_entered += 1
        return gate

    def _pass(self, op: str, key: Key, gate: Gate | None) -> Action | None:
        """Wait at the gate, and raise the fault. If that is a function, return it."""
        if gate is not None:
            gate.entered.set()
            if not gate.release.wait(WAIT_LIMIT_S):
                raise OSError(5, "the test has not opened its gate")
        with self.lock:
            fault = next((f for f in self.faults if f.op == op and f.left > 0 and f.key in (None, key)), None)
            if fault is None or fault.skip > 0:
                if fault is not None:
                    fault.skip -= 1
                return None
            fault.left -= 1
            fault.nr_hit += 1
        if isinstance(fault.action, BaseException):
            raise copy.copy(fault.action)  # a kept traceback would keep the buffers
        return fault.action

    def check_transfer(self, kind: str, offset: int, buffers: Sequence[memoryview]) -> None:
        try:
            length = sum(len(buffer) for buffer in buffers)
        except ValueError:
            return  # the gate was released as cancelled while it held the call: the rest of the call is not wanted
        limits = self.limits
        unit = int(limits.read_unit if kind == "read" else limits.write_unit)
        with self.lock:
            say = self.violations.append
            if length == 0 or any(len(buffer) == 0 for buffer in buffers):
                say(f"{kind} at {offset}: an empty buffer")
            if length > as_bytes(limits.max_read if kind == "read" else limits.max_write):
                say(f"{kind} at {offset}: {length} bytes in one call")
            if len(buffers) > limits.max_vectors:
                say(f"{kind} at {offset}: {len(buffers)} buffers in one call")
            boundary = as_bytes(limits.boundary)
            if boundary and offset // boundary != (offset + length - 1) // boundary:
                say(f"{kind} at {offset}: {length} bytes cross a multiple of {boundary}")
            if offset % unit or (kind == "read" and length % unit):  # only a write may end with the file
                say(f"{kind} of {length} bytes at {offset}: not in multiples of {unit}")
            if any(buffer.readonly != (kind == "write") for buffer in buffers):
                say(f"{kind} at {offset}: a buffer with the wrong access")
            if self.nr_transfers > limits.max_inflight:
                say(f"{kind} at {offset}: {self.nr_transfers} calls at once")

    def _takes_both(self) -> bool:
        """Return whether direct writes may run beside a commit."""
        return self.limits.parallel_direct_writes and not self.limits.ordered_writes

    @contextmanager
    def writing(self, stored: StoredObject, offset: int, length: int) -> Iterator[None]:
        """Check that no writes overlap, and that none overlaps a commit, truncate or punch."""
        span = (offset, offset + length)
        with self.lock:
            if stored.exclusive and not (stored.exclusive == "commit" and self._takes_both()):
                self.violations.append(f"write at {offset} beside {stored.exclusive}")
            if any(span[0] < end and begin < span[1] for begin, end in stored.in_flight):
                self.violations.append(f"write at {offset}: overlaps another one in flight")
            if self.limits.ordered_writes and stored.in_flight:
                self.violations.append(f"write at {offset}: ordered writes run side by side")
            stored.in_flight.append(span)
        try:
            yield
        finally:
            with self.lock:
                stored.in_flight.remove(span)

    @contextmanager
    def exclusive(self, stored: StoredObject, op: str) -> Iterator[None]:
        with self.lock:
            if stored.in_flight and not (op == "commit" and self._takes_both()):
                self.violations.append(f"{op} beside writes at {stored.in_flight}")
            if stored.exclusive:
                self.violations.append(f"{op} beside {stored.exclusive}")
            stored.exclusive = op
        try:
            yield
        finally:
            with self.lock:
                stored.exclusive = ""


def stale() -> OSError:
    return OSError(errno.ESTALE, "another version is stored")


class ObjectFile(RecordingFile):
    """One object as it was at open, and the parts uploaded since."""

    def __init__(self, backend: ObjectBackend, key: Key, stored: StoredObject) -> None:
        super().__init__(backend, key, stored)
        self.objects = backend
        self.base = backend.content(key)
        self.version = backend.version(key)
        self.parts: list[tuple[int, bytes]] = []
        self.cuts: list[int] = []
        self.attempts: set[int] = set()

    def stat(self) -> ObjectStat:
        with self.backend.call("file_stat", self.key), self.backend.lock:
            return ObjectStat(size=len(self.objects.content(self.key)), version=self.objects.version(self.key))

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        with self.backend.lock:
            if self.objects.pinned and self.objects.version(self.key) not in (self.version, None):
                raise stale()
            content = bytearray(self.objects.content(self.key) if not self.objects.pinned else self.base)
            for size in self.cuts:
                content.extend(bytes(max(0, size - len(content))))
                del content[size:]
            # The gaps between uploaded bytes keep the old content; the last part sets the length of the file.
            end = max((offset + len(data) for offset, data in self.parts), default=0)
            content.extend(bytes(max(0, end - len(content))))
        data = memoryview(bytes(content[offset:]))[:limit]
        return fill(buffers, data)

    def store(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        data = b"".join(buffers)[:limit]
        with self.backend.lock:
            self.parts.append((offset, data))
        return len(data)

    def truncate(self, size: int) -> None:
        with self.backend.exclusive(self.stored, "truncate"), self.backend.call("truncate", self.key, size):
            self.parts = [(offset, data[: size - offset]) for offset, data in self.parts if offset < size]
            self.cuts.append(size)

    def make_durable(self) -> str:
        """Lay every part over the opened version."""
        with self.backend.lock:
            found = self.objects.committed_object(self.key)
            if found is not None and str(found.version) != self.version:
                if self.objects.made_by.get(self.key) not in self.attempts:
                    raise stale()
                self.base = bytes(found.committed or b"")
            content = bytearray(self.base)
            for size in self.cuts:
                content.extend(bytes(max(0, size - len(content))))
                del content[size:]
            for offset, data in self.parts:
                content.extend(bytes(max(0, offset + len(data) - len(content))))
                content[offset : offset + len(data)] = data
            self.version = self.objects.put(self.key, bytes(content))
            self.base = bytes(content)
            self.parts, self.cuts = [], []
            self.objects.made_by[self.key] = attempt = next(self.objects.attempts)
            self.attempts.add(attempt)
            return self.version

    def rollback(self) -> None:
        with self.backend.exclusive(self.stored, "rollback"), self.backend.call("rollback", self.key):
            self.parts, self.cuts = [], []


class ObjectBackend(RecordingBackend):
    """See the top of this file."""

    kind: ClassVar[type[ObjectFile]] = ObjectFile

    def __init__(self, objects: dict[Key, bytes] | None = None, *, pinned: bool = True, **limits: Any) -> None:
        super().__init__(objects)
        self.limits = BackendLimits(**{"commit_on_close": True, **limits})
        self.pinned = pinned
        self.attempts = itertools.count(1)
        self.made_by: dict[Key, int] = {}
        self.versions: Iterator[int] = itertools.count(100)
        self.files: weakref.WeakSet[ObjectFile] = weakref.WeakSet()

    def committed_object(self, key: Key) -> StoredObject | None:
        found = self.objects.get(key)
        return found if found is not None and found.committed is not None else None

    def content(self, key: Key) -> bytes:
        found = self.committed_object(key)
        return b"" if found is None else bytes(found.committed or b"")

    def version(self, key: Key) -> str | None:
        found = self.committed_object(key)
        return None if found is None else str(found.version)

    def put(self, key: Key, content: bytes) -> str:
        """Give the object this content, as any client of the store could."""
        with self.lock:
            stored = self.objects.setdefault(key, StoredObject(committed=False))
            stored.written, stored.safe, stored.committed = bytearray(content), bytearray(content), content
            stored.version = next(self.versions)
            self.made_by.pop(key, None)
            return str(stored.version)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> ObjectFile:
        with self.call("open", key), self.lock:
            if self.committed_object(key) is None and not create:
                raise FileNotFoundError(2, "no such object", str(key))
            if self.committed_object(key) is not None and exclusive:
                raise FileExistsError(17, "object exists", str(key))
            stored = self.committed_object(key) or StoredObject(committed=False)
            file = self.kind(self, key, stored)
            self.files.add(file)
            return file

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        """Rename an object. The open files of its version follow, with the bytes that they have taken."""
        version = self.version(src)
        super().rename(src, dst, replace=replace)
        with self.lock:
            for file in self.files:
                if file.key == src and file.version == version:
                    file.key = dst

    def stat(self, key: Key) -> ObjectStat:
        with self.call("stat", key), self.lock:
            if self.committed_object(key) is None:
                raise FileNotFoundError(2, "no such object", str(key))
            return ObjectStat(size=len(self.content(key)), version=self.version(key))


class PublishingFile(ObjectFile):
    """A session: the content with the bytes, cuts and holes since the version that it was opened with.

    `safe` is what a failed commit leaves of it: the truncates, holes and sizes, and no new bytes.
    """

    def __init__(self, backend: PublishingBackend, key: Key, stored: StoredObject) -> None:
        super().__init__(backend, key, StoredObject(committed=False))  # a session for itself: no writer of others
        self.read_back = backend.read_back
        self.is_detached = self.is_closed = False
        self.begin()

    def begin(self) -> None:
        """Begin with the stored version."""
        self.version = self.objects.version(self.key)
        self.work, self.safe = (bytearray(self.objects.content(self.key)) for _ in range(2))
        self.is_changed = self.version is None

    def stat(self) -> ObjectStat:
        with self.backend.call("file_stat", self.key), self.alive():
            return ObjectStat(size=len(self.work), version=self.version)

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        with self.alive():
            content = self.work if self.read_back else self.safe
            content.extend(bytes(len(self.work) - len(content)))
            data = bytes(content[offset : offset + sum(len(buffer) for buffer in buffers)])
        return fill(buffers, data[:limit])

    def store(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        data = b"".join(buffers)[:limit]
        end, unit = offset + len(data), int(self.backend.limits.write_unit)
        with self.alive():
            if end % unit and end < len(self.work):
                self.backend.violations.append(f"write at {offset}: {len(data)} bytes are no whole units of {unit}")
            self.work.extend(bytes(max(0, offset - len(self.work))))
            self.work[offset:end] = data
            self.is_changed = True
        return len(data)

    def truncate(self, size: int) -> None:
        with self.changing("truncate", size):
            for content in (self.work, self.safe):
                del content[size:]
                content.extend(bytes(size - len(content)))

    def punch_hole(self, offset: int, length: int) -> None:
        with self.changing("punch_hole", offset, length):
            for content in (self.work, self.safe):
                end = min(offset + length, len(content))
                content[offset:end] = bytes(max(0, end - offset))

    @contextmanager
    def changing(self, op: str, offset: int, length: int = 0) -> Iterator[None]:
        backend = self.backend
        with backend.exclusive(self.stored, op), backend.call(op, self.key, offset, length), self.alive():
            self.is_changed = True
            yield

    @contextmanager
    def alive(self) -> Iterator[None]:
        with self.backend.lock:
            if self.is_closed:
                raise OSError(errno.ECONNRESET, "the session is gone", str(self.key))
            yield

    def make_durable(self) -> str:
        """Publish the content under the name, if the name still belongs to this object."""
        with self.alive():
            if self.is_changed and not self.is_detached:
                if self.objects.version(self.key) != self.version:
                    raise stale()
                self.version = self.objects.put(self.key, bytes(self.work))
                self.safe, self.is_changed = bytearray(self.work), False
            return self.version  # type: ignore[return-value]

    def forget(self) -> None:
        with self.backend.lock:
            self.safe.extend(bytes(len(self.work) - len(self.safe)))
            self.work = bytearray(self.safe)

    def rollback(self) -> None:
        with self.changing("rollback", 0):
            self.begin()

    def close(self) -> None:
        super().close()
        self.is_closed = True


class PublishingBackend(ObjectBackend):
    """See the top of this file.

    Args:
        shares: a backend over this store, in place of a new one: what it renames are other sessions.
        read_back: reads show acknowledged bytes; False: the committed ones, with cuts and holes.
        write_unit, limits: fields of BackendLimits.
    """

    kind = PublishingFile

    def __init__(
        self,
        shares: PublishingBackend | None = None,
        *,
        read_back: bool = True,
        write_unit: int | str = 1,
        **limits: Any,
    ) -> None:
        unit = as_bytes(write_unit)
        super().__init__(**{"write_unit": unit, "max_write": max((1 << 20) // unit, 1) * unit, **limits})
        self.read_back = read_back
        if shares is not None:
            self.lock, self.objects, self.versions = shares.lock, shares.objects, shares.versions

    def sessions(self, key: Key) -> list[PublishingFile]:
        """The open files of the object that has a name, or is about to get it."""
        files = [file for file in self.files if isinstance(file, PublishingFile) and file.key == key]
        return [file for file in files if not file.is_closed and not file.is_detached]

    def remove(self, key: Key) -> None:
        with self.call("remove", key), self.lock:
            sessions = self.sessions(key)
            if self.objects.pop(key, None) is None and not sessions:
                raise FileNotFoundError(2, "no such object", str(key))
            for file in sessions:
                file.is_detached = True

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        with self.call("rename", src), self.lock:
            sessions, replaced = self.sessions(src), self.version(dst)
            if src not in self.objects and not sessions:
                raise FileNotFoundError(2, "no such object", str(src))
            if replaced is not None and not replace:
                raise FileExistsError(17, "object exists", str(dst))
            for file in self.sessions(dst):
                file.is_detached = True
            if src in self.objects:
                self.objects[dst] = self.objects.pop(src)
                replaced = None
            for file in sessions:
                file.key = dst
                file.version = replaced or file.version  # a draft's commit replaces it


# -------------------------------------------------------------------- answers for Fault.action


def short(nr_bytes: int | Callable[[int], int]) -> Callable[..., int]:
    """Do only the first bytes of a transfer: a number, or a function of the requested number."""

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        wanted = sum(len(buffer) for buffer in buffers)
        limit = nr_bytes(wanted) if callable(nr_bytes) else nr_bytes
        if all(buffer.readonly for buffer in buffers):
            return file.store(offset, buffers, limit)
        return file.fill(offset, buffers, limit)

    return answer


def answering(value: object) -> Callable[..., object]:
    """Touch nothing and answer `value`; if it is a function, call it with the requested number of bytes."""

    def answer(_file: RecordingFile, *args: Any) -> object:
        if callable(value):
            return value(sum(len(buffer) for buffer in args[1]))
        return value

    return answer


def failing_commit(error: BaseException, *, forget: bool = True) -> Callable[[RecordingFile], str]:
    """Return an answer for a commit that fails and loses all bytes acknowledged since the last successful one."""

    def answer(file: RecordingFile) -> str:
        if forget:
            file.forget()
        raise error

    return answer


def as_bytes(size: int | str) -> int:
    """A size in the form that BackendLimits takes."""
    if isinstance(size, int):
        return size
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)):
        if size.endswith(unit):
            return int(float(size.removesuffix(unit)) * factor)
    return int(size)


def address(buffer: memoryview) -> tuple[int, int]:
    """The memory address of a buffer."""
    import numpy

    array = numpy.frombuffer(buffer, dtype=numpy.uint8)
    return int(array.__array_interface__["data"][0]), len(array)
