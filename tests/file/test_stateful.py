"""A hypothesis state machine: several handles on several files of a cache of few pages, against bytearrays.

Every step is done by the cache and by the model. Failing and short backend calls may make a call raise, as the contract
allows; they never make a byte differ. The invariants are checked after every step, the store at every successful fsync
and sync, and everything at the end.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pagecache import CachedFile, RetryPolicy, View, WritebackError
from pagecache.options import OpenMode

from ..stores import RecordingBackend, failing_commit, short
from .rig import PAGE, Rig, Task, content_of, make_rig, pattern, raises

KEYS = ["a", "b", "dir/c"]
MODES = ["rb", "r+b", "wb", "w+b", "xb", "x+b", "ab", "a+b"]
LIMIT = 24 * PAGE

keys = st.sampled_from(KEYS)
offsets = st.one_of(st.integers(0, LIMIT), st.sampled_from([0, 1, PAGE - 1, PAGE, PAGE + 1, 8 * PAGE, LIMIT]))
lengths = st.one_of(st.integers(0, 4 * PAGE), st.sampled_from([0, 1, PAGE, 2 * PAGE]), st.integers(0, 40))
picks = st.integers(0, 63)


@dataclass(eq=False, slots=True)
class File:
    """The expected content of an object."""

    content: bytearray = field(default_factory=bytearray)
    changes: int = 0

    def write(self, data: bytes, offset: int) -> None:
        if data:
            self.content.extend(bytes(max(0, offset + len(data) - len(self.content))))
            self.content[offset : offset + len(data)] = data
            self.changes += 1

    def truncate(self, size: int) -> None:
        self.content.extend(bytes(max(0, size - len(self.content))))
        del self.content[size:]
        self.changes += 1

    def zero(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.content))
        self.content[offset:end] = bytes(max(0, end - offset))
        self.changes += 1


@dataclass(eq=False, slots=True)
class Handle:
    real: CachedFile
    file: File
    mode: str
    position: int = 0

    @property
    def reads(self) -> bool:
        return "r" in self.mode or "+" in self.mode

    @property
    def writes(self) -> bool:
        return self.mode != "rb"


class CacheMachine(RuleBasedStateMachine):
    rig: Rig
    dirty_limit = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, File] = {}
        self.handles: list[Handle] = []
        self.views: list[tuple[View, bytes, File, int]] = []
        self.seed = 0

    @initialize(
        pages=st.sampled_from([16, 20, 32, 64]),
        punch=st.booleans(),
        read_ahead=st.sampled_from([0, "16KiB", "64KiB"]),
        limits=st.sampled_from(
            [
                *({}, {"max_write": 2 * PAGE}, {"max_vectors": 2}, {"max_inflight": 1}, {"durable_writes": True}),
                *({"boundary": 4 * PAGE}, {"boundary": 4 * PAGE, "max_read": 3 * PAGE}, {"max_read": PAGE}),
                *({"write_unit": PAGE}, {"write_unit": 2 * PAGE}, {"write_unit": 512}, {"read_unit": 512}),
            ]
        ),
        stored=st.lists(st.integers(0, 10 * PAGE), max_size=3),
        background=st.sampled_from([0.05, 0.25]),
    )
    def start(
        self, pages: int, punch: bool, read_ahead: Any, limits: dict[str, Any], stored: list[int], background: float
    ) -> None:
        objects: dict[Any, bytes] = {key: pattern(size, 99) for key, size in zip(KEYS, stored, strict=False)}
        self.names = {key: File(bytearray(content)) for key, content in objects.items()}
        self.rig = make_rig(
            capacity=pages * PAGE,
            backend=self.make_backend(objects, punch, limits),
            options={"read_ahead": read_ahead},
            dirty_background=background,
            dirty_limit=self.dirty_limit,
            flush_interval=0.02,
            throttle_timeout=0.5,
            retry=RetryPolicy(attempts=6, first_delay=0.0005, max_delay=0.002, deadline=20.0, failed_retry=None),
        )
        for key in KEYS[: 1 + pages % 3]:  # something to work on from the first step
            self.open(key, "r+b" if key in self.names else "w+b", False)

    def make_backend(self, objects: dict[Any, bytes], punch: bool, limits: dict[str, Any]) -> RecordingBackend:
        return RecordingBackend(objects, punch=punch, **limits)

    def data(self, length: int) -> bytes:
        self.seed += 1
        return pattern(length, self.seed)

    def handle(self, pick: int, *, reads: bool = False, writes: bool = False) -> Handle | None:
        fitting = [h for h in self.handles if (not reads or h.reads) and (not writes or h.writes)]
        return fitting[pick % len(fitting)] if fitting else None

    def name_of(self, file: File) -> str | None:
        return next((key for key, named in self.names.items() if named is file), None)

    # ---------------------------------------------------------------- names

    @precondition(lambda self: len(self.handles) < 6)
    @rule(key=keys, mode=st.sampled_from(MODES), keep=st.booleans())
    def open(self, key: str, mode: OpenMode, keep: bool) -> None:
        if mode[0] == "r" and key not in self.names:
            raises(FileNotFoundError, self.rig.volume.open, key, mode)
            return
        if mode[0] == "x" and key in self.names:
            raises(FileExistsError, self.rig.volume.open, key, mode)
            return
        real = self.rig.volume.open(key, mode, keep_cache=keep)
        file = self.names.setdefault(key, File())
        if mode[0] == "w":
            file.truncate(0)
        position = len(file.content) if mode[0] == "a" else 0
        self.handles.append(Handle(real, file, mode, position))
        assert real.tell() == position

    @rule(pick=picks)
    def close(self, pick: int) -> None:
        if (handle := self.handle(pick)) is not None:
            self.handles.remove(handle)
            try:
                handle.real.close()
            except WritebackError:
                pass  # the data stays in the cache
            assert handle.real.closed

    @rule(key=keys)
    def remove(self, key: str) -> None:
        if key in self.names:
            self.rig.volume.remove(key)
            del self.names[key]
        else:
            raises(FileNotFoundError, self.rig.volume.remove, key)

    @rule(src=keys, dst=keys)
    def rename(self, src: str, dst: str) -> None:
        if src in self.names and src != dst:
            self.rig.volume.rename(src, dst)
            self.names[dst] = self.names.pop(src)

    @rule(key=keys)
    def stat(self, key: str) -> None:
        assert self.rig.volume.exists(key) == (key in self.names)
        if key in self.names:
            assert self.rig.volume.stat(key).size == len(self.names[key].content)

    # ---------------------------------------------------------------- reads

    @contextmanager
    def reading(self, handle: Any) -> Iterator[None]:
        """Context of a read: bytes of a removed object that are not cached are gone. [2.20]"""
        try:
            yield
        except FileNotFoundError:
            assert self.name_of(handle.file) is None

    @rule(pick=picks, offset=offsets, length=lengths, how=st.sampled_from(["pread", "pread_into", "preadv", "view"]))
    def read_at(self, pick: int, offset: int, length: int, how: str) -> None:
        if (handle := self.handle(pick, reads=True)) is None:
            return
        expected = bytes(handle.file.content[offset : offset + length])
        with self.reading(handle):
            if how == "pread":
                assert handle.real.pread(length, offset) == expected
            elif how == "pread_into":
                buffer = bytearray(b"\xa5" * length)
                assert handle.real.pread_into(buffer, offset) == len(expected)
                assert buffer == expected + b"\xa5" * (length - len(expected))
            elif how == "preadv":
                buffers = [bytearray(length // 3), bytearray(), bytearray(length - length // 3)]
                assert handle.real.preadv(buffers, offset) == len(expected)
                assert b"".join(buffers)[: len(expected)] == expected
            elif offset + length <= len(handle.file.content):
                with handle.real.view(offset, min(length, 2 * PAGE)) as view:
                    assert view.tobytes() == expected[: 2 * PAGE]

    @rule(pick=picks, length=st.one_of(lengths, st.just(-1)))
    def read(self, pick: int, length: int) -> None:
        if (handle := self.handle(pick, reads=True)) is not None:
            content = handle.file.content
            expected = bytes(
                content[handle.position :] if length < 0 else content[handle.position : handle.position + length]
            )
            with self.reading(handle):
                assert handle.real.read(length) == expected
                handle.position += len(expected)

    @rule(pick=picks)
    def read_everything(self, pick: int) -> None:
        if (handle := self.handle(pick, reads=True)) is not None:
            with self.reading(handle):
                assert handle.real.pread(2 * LIMIT, 0) == handle.file.content

    @precondition(lambda self: len(self.views) < 2)
    @rule(pick=picks, offset=offsets, length=st.integers(1, PAGE))
    def take_view(self, pick: int, offset: int, length: int) -> None:
        handle = self.handle(pick, reads=True)
        if handle is None or self.name_of(handle.file) is None:  # which rules may follow depends on no cached byte
            return
        if offset + length <= len(handle.file.content):
            view = handle.real.view(offset, length)
            self.views.append(
                (view, bytes(handle.file.content[offset : offset + length]), handle.file, handle.file.changes)
            )

    @precondition(lambda self: self.views)
    @rule(pick=picks)
    def release_view(self, pick: int) -> None:
        view, expected, file, changes = self.views.pop(pick % len(self.views))
        if file.changes == changes:
            assert view.tobytes() == expected
        view.release()

    # ---------------------------------------------------------------- writes

    def accepted(self, data: bytes, call: Any) -> bytes:
        """The part of `data` that a write took: all of it, or as much as its error says."""
        try:
            call()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOSPC, errno.ENOBUFS):
                raise
            return data[: getattr(error, "characters_written", 0)]
        return data

    @rule(pick=picks, offset=offsets, length=lengths, vectors=st.booleans())
    def write_at(self, pick: int, offset: int, length: int, vectors: bool) -> None:
        handle = self.handle(pick, writes=True)
        if handle is None or "a" in handle.mode:
            return
        data = self.data(length)
        if vectors:
            parts = [data[: length // 2], b"", data[length // 2 :]]
            taken = self.accepted(data, lambda: handle.real.pwritev(parts, offset))
        else:
            taken = self.accepted(data, lambda: handle.real.pwrite(data, offset))
        handle.file.write(taken, offset)

    @rule(pick=picks, length=lengths)
    def write(self, pick: int, length: int) -> None:
        handle = self.handle(pick, writes=True)
        if handle is None or max(len(handle.file.content), handle.position) > LIMIT:
            return
        data = self.data(length)
        taken = self.accepted(data, lambda: handle.real.write(data))
        offset = len(handle.file.content) if "a" in handle.mode else handle.position
        handle.file.write(taken, offset)
        if len(taken) == len(data):
            if data:
                handle.position = offset + len(data)
            handle.position = handle.real.tell() if not data else handle.position
            assert handle.real.tell() == handle.position
        else:
            handle.position = handle.real.seek(0)

    @rule(pick=picks, length=lengths)
    def append(self, pick: int, length: int) -> None:
        handle = self.handle(pick, writes=True)
        if handle is not None and len(handle.file.content) <= LIMIT:
            data, end, at = self.data(length), len(handle.file.content), list[int]()
            handle.file.write(self.accepted(data, lambda: at.append(handle.real.append(data))), end)
            assert at in ([], [end])

    @rule(pick=picks, offset=offsets)
    def seek(self, pick: int, offset: int) -> None:
        if (handle := self.handle(pick)) is not None:
            handle.position = handle.real.seek(offset)
            assert handle.position == offset

    @rule(pick=picks, size=offsets)
    def truncate(self, pick: int, size: int) -> None:
        if (handle := self.handle(pick, writes=True)) is not None:
            assert handle.real.truncate(size) == size
            handle.file.truncate(size)

    @rule(key=keys, size=offsets)
    def truncate_by_name(self, key: str, size: int) -> None:
        if key in self.names:
            try:
                self.rig.volume.truncate(key, size)
            except WritebackError:
                pass  # cut; if closing commits, that failed
            self.names[key].truncate(size)

    @rule(pick=picks, offset=offsets, length=lengths, how=st.sampled_from(["punch_hole", "zero_range"]))
    def zero(self, pick: int, offset: int, length: int, how: str) -> None:
        handle = self.handle(pick, writes=True)
        reader = next((h for h in self.handles if handle is not None and h.file is handle.file and h.reads), None)
        if handle is None or reader is None:
            return
        content = handle.file.content
        before = bytes(content[offset : offset + length])
        try:
            getattr(handle.real, how)(offset, length)
        except OSError as error:  # no room, refused, or a hole whose commit failed: some may be there
            if not isinstance(error, BlockingIOError | WritebackError) and error.errno != errno.ENOBUFS:
                raise
            try:
                now = reader.real.pread(len(before), offset)
            except FileNotFoundError:  # what is there cannot be known
                assert self.name_of(handle.file) is None
                for gone in [each for each in self.handles if each.file is handle.file]:
                    gone.real.abandon()
                    self.handles.remove(gone)
                return
            assert all(byte in (0, was) for byte, was in zip(now, before, strict=True))
            handle.file.write(now, offset)
        else:
            handle.file.zero(offset, length)

    # ---------------------------------------------------------------- durability

    @rule(pick=picks, how=st.sampled_from(["flush", "fsync", "fsync", "sync_range"]), offset=offsets, length=lengths)
    def make_durable(self, pick: int, how: str, offset: int, length: int) -> None:
        if (handle := self.handle(pick)) is None:
            return
        try:
            getattr(handle.real, how)(*((offset, length) if how == "sync_range" else ()))
        except WritebackError:
            return
        name = self.name_of(handle.file)
        if how == "fsync" and name is not None:
            self.stored(name)

    @rule()
    def sync(self) -> None:
        try:
            self.rig.volume.sync(20)
        except WritebackError:
            return
        for name in self.names:
            self.stored(name)

    def stored(self, name: str) -> None:
        durable = self.rig.backend.limits.durable_writes
        content = self.rig.backend.written(name) if durable else self.rig.backend.committed(name)
        assert content == bytes(self.names[name].content)

    @rule(key=st.one_of(st.none(), keys))
    def drop_clean(self, key: str | None) -> None:
        if key is None or key in self.names:
            assert self.rig.volume.drop_clean(key) >= 0

    @rule(key=st.one_of(st.none(), keys))
    def invalidate(self, key: str | None) -> None:
        if key is None or key in self.names:
            try:
                self.rig.volume.invalidate(key)
            except (WritebackError, BlockingIOError):
                pass

    # ---------------------------------------------------------------- faults

    @rule(op=st.sampled_from(["read_into", "write_from", "commit"]), times=st.integers(1, 2))
    def transient_fault(self, op: str, times: int) -> None:
        if not any(
            fault.op == op and fault.left > 0 for fault in self.rig.backend.faults
        ):  # never so many that it gives up
            self.rig.backend.fault(op, OSError(errno.EIO, "passing"), times=times)

    @rule(op=st.sampled_from(["write_from", "commit"]), skip=st.integers(0, 2))
    def permanent_fault(self, op: str, skip: int) -> None:
        error = OSError(errno.ENOSPC, "no room")
        self.rig.backend.fault(op, failing_commit(error) if op == "commit" else error, skip=skip)

    @rule(
        op=st.sampled_from(["read_into", "write_from"]), part=st.sampled_from([1, 100, PAGE]), times=st.integers(1, 3)
    )
    def short_answers(self, op: str, part: int, times: int) -> None:
        least = int(self.rig.backend.limits.read_unit) if op == "read_into" else 1
        self.rig.backend.fault(op, short(lambda wanted: min(max(part, least), wanted)), times=times)

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "rig"):
            self.rig.cache.check()
            assert self.rig.cache.stats().used <= self.rig.cache.capacity
            for handle in self.handles:
                assert handle.real.size == len(handle.file.content)

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        try:
            self.rig.backend.clear_faults()
            for view, *_rest in self.views:
                view.release()
            with suppress(WritebackError):  # a call that has taken a fault before may run still
                Task(self.rig.volume.sync, 20).result()
            for handle in self.handles:
                if handle.reads:
                    with self.reading(handle):
                        assert handle.real.pread(2 * LIMIT, 0) == handle.file.content
                handle.real.close()
            Task(self.rig.volume.sync, 20).result()
            for name in self.names:
                self.stored(name)
                assert content_of(self.rig.volume, name)[: 2 * LIMIT] == self.names[name].content
            assert Task(self.rig.cache.close, timeout=20).result() == []
        finally:
            self.rig.finish()


class SpoolingCacheMachine(CacheMachine):
    """A machine over a backend that publishes by commit, and forgets bytes when a commit fails: most are spooled."""

    dirty_limit = 0.1

    def make_backend(self, objects: dict[Any, bytes], punch: bool, limits: dict[str, Any]) -> RecordingBackend:
        forgets = {**limits, "durable_writes": False}  # what it forgets was not durable
        return RecordingBackend(objects, staged=True, punch=punch, **forgets)


class LongCacheMachine(CacheMachine):
    """A CacheMachine with other settings."""


TestCacheMachine = pytest.mark.timeout(300)(CacheMachine.TestCase)
TestCacheMachine.settings = settings(max_examples=80, stateful_step_count=50)

TestSpoolingCacheMachine = pytest.mark.timeout(300)(SpoolingCacheMachine.TestCase)
TestSpoolingCacheMachine.settings = settings(max_examples=60, stateful_step_count=50)

TestLongCacheMachine = pytest.mark.slow(pytest.mark.timeout(3600)(LongCacheMachine.TestCase))
TestLongCacheMachine.settings = settings(max_examples=300, stateful_step_count=80)
