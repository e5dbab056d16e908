"""A hypothesis state machine: random faults under random operations on several files, and a repair at the end.

I-22: every accepted byte is finally on the store, or listed by `failed()`, or reported as lost to each handle that was
open, once. After every step `check()` holds, no handle reports a loss that it did not have or reports one twice, a
success of fsync or sync is compared with the committed store, and a handle reads exactly the written bytes. In the end
the faults are removed, one sync succeeds, the store equals the model, and the sums of I-25 to I-27 come out.

The model of a file is its content. Only a discard gives bytes up: there the model takes the store's bytes. Those may be
uncommitted, so no commit of that file may forget until one has succeeded.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pagecache import BackendError, CachedFile, DataLossError, LostRange, RetryPolicy, WritebackError

from .answers import answering, failing_commit, short
from .backends import RecordingBackend, RecordingFile
from .rig import PAGE, Rig, Task, eventually, make_rig, pattern

KEYS = ["a", "b", "c"]
LIMIT = 20 * PAGE
POLICY = RetryPolicy(attempts=3, first_delay=0.0005, max_delay=0.002, deadline=20.0, failed_retry=None)

keys = st.sampled_from(KEYS)
offsets = st.one_of(st.integers(0, LIMIT), st.sampled_from([0, 1, PAGE - 1, PAGE, 4 * PAGE, 8 * PAGE, LIMIT]))
lengths = st.one_of(st.integers(1, 6 * PAGE), st.sampled_from([1, PAGE, 4 * PAGE]))
picks = st.integers(0, 63)


@dataclass(eq=False, slots=True)
class Handle:
    """An open file, and the losses that it has not reported."""

    real: CachedFile
    key: str
    writes: bool
    unreported: list[LostRange] = field(default_factory=list)


def stored_but_lost(file: RecordingFile, offset: int, buffers: Any) -> int:
    """Take the bytes and lose the answer."""
    file.store(offset, buffers)
    raise OSError(errno.ETIMEDOUT, "no answer")


WRITE_FAULTS: dict[str, Any] = {
    "transient": OSError(errno.EIO, "passing"),
    "no space": OSError(errno.ENOSPC, "full"),
    "odd": KeyError("odd"),
    "smaller": BackendError(errno.EFBIG, "smaller", retry=True, max_write=PAGE),
    "one byte": short(1),
    "half": short(lambda wanted: (wanted + 1) // 2),
    "no progress": answering(0),
    "nonsense": answering("12"),
    "too much": answering(lambda wanted: wanted + 1),
    "lost answer": stored_but_lost,
}
COMMIT_FAULTS: dict[str, Any] = {
    "forgetting": failing_commit(OSError(errno.EIO, "passing")),
    "full": failing_commit(OSError(errno.ENOSPC, "full")),
    "kept": BackendError(errno.EIO, "again", retry=True, kept=True),
    "kept for good": BackendError(errno.EIO, "again", retry=False, kept=True),
}


class FaultMachine(RuleBasedStateMachine):
    """See the top of this file."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[str, bytearray] = {}
        self.handles: list[Handle] = []
        self.given_up: set[str] = set()  # files with bytes taken from the store that no commit covers yet
        self.seed = 0

    @initialize(
        pages=st.sampled_from([16, 24, 40]),
        punch=st.booleans(),
        limits=st.sampled_from(
            [
                {},
                {"max_write": 2 * PAGE},
                {"max_vectors": 2},
                {"max_write": PAGE, "max_inflight": 2},
                {"ordered_writes": True, "max_write": 2 * PAGE},
                {"boundary": 4 * PAGE},
                {"write_unit": 512},
                {"write_unit": 2 * PAGE},
                {"durable_writes": True},
            ]
        ),
        stored=st.lists(st.integers(0, 10 * PAGE), min_size=3, max_size=3),
    )
    def start(self, pages: int, punch: bool, limits: dict[str, Any], stored: list[int]) -> None:
        objects: dict[Any, bytes] = {key: pattern(size, 99) for key, size in zip(KEYS, stored, strict=True)}
        self.content = {key: bytearray(content) for key, content in objects.items()}
        self.rig = make_rig(
            capacity=pages * PAGE,
            backend=RecordingBackend(objects, punch=punch, **limits),
            dirty_background=0.3,
            dirty_limit=0.6,
            failed_limit=1.0,
            flush_interval=0.02,
            throttle_timeout=0.3,
            retry=POLICY,
        )
        for key in KEYS:
            self.handles.append(Handle(self.rig.volume.open(key, "r+b"), key, True))

    def pick(self, number: int, *, writes: bool = False) -> Handle | None:
        fitting = [handle for handle in self.handles if handle.writes or not writes]
        return fitting[number % len(fitting)] if fitting else None

    # ---------------------------------------------------------------- open, close

    @precondition(lambda self: len(self.handles) < 7)
    @rule(key=keys, writes=st.booleans())
    def open(self, key: str, writes: bool) -> None:
        self.handles.append(Handle(self.rig.volume.open(key, "r+b" if writes else "rb"), key, writes))

    @precondition(lambda self: self.handles)
    @rule(number=picks)
    def close(self, number: int) -> None:
        handle = self.pick(number)
        assert handle is not None
        self.handles.remove(handle)
        self.settle(handle, handle.real.close)
        assert handle.real.closed

    # ---------------------------------------------------------------- change

    def data(self, length: int) -> bytes:
        self.seed += 1
        return pattern(length, self.seed)

    def write(self, key: str, offset: int, data: bytes, call: Any) -> None:
        """Check that the bytes taken by a write are in the file: all of them, or as many as its error says."""
        try:
            call()
        except OSError as error:
            if isinstance(error, DataLossError):
                raise
            data = data[: getattr(error, "characters_written", 0)]
        if data:
            content = self.content[key]
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data

    @rule(number=picks, offset=offsets, length=lengths)
    def pwrite(self, number: int, offset: int, length: int) -> None:
        if (handle := self.pick(number, writes=True)) is not None:
            data = self.data(length)
            self.write(handle.key, offset, data, lambda: handle.real.pwrite(data, offset))

    @rule(number=picks, length=lengths)
    def append(self, number: int, length: int) -> None:
        handle = self.pick(number, writes=True)
        if handle is not None and len(self.content[handle.key]) <= LIMIT:
            data = self.data(length)
            self.write(handle.key, len(self.content[handle.key]), data, lambda: handle.real.append(data))

    @rule(number=picks, size=offsets)
    def truncate(self, number: int, size: int) -> None:
        if (handle := self.pick(number, writes=True)) is not None:
            assert handle.real.truncate(size) == size
            content = self.content[handle.key]
            content.extend(bytes(max(0, size - len(content))))
            del content[size:]

    @rule(number=picks, offset=offsets, length=lengths, how=st.sampled_from(["punch_hole", "zero_range"]))
    def zero(self, number: int, offset: int, length: int, how: str) -> None:
        if (handle := self.pick(number, writes=True)) is None:
            return
        content = self.content[handle.key]
        end = min(offset + length, len(content))
        zeros = bytes(max(0, end - offset))
        try:
            getattr(handle.real, how)(offset, length)
        except OSError:  # no room for zeros, refused, or a hole whose commit failed: some may be there
            zeros = handle.real.pread(len(zeros), offset)
            assert all(byte in (0, before) for byte, before in zip(zeros, content[offset:end], strict=True))
        content[offset:end] = zeros

    # ---------------------------------------------------------------- read: evicts any evictable folio

    @rule(number=picks, offset=offsets, length=lengths)
    def read(self, number: int, offset: int, length: int) -> None:
        if (handle := self.pick(number)) is not None:
            assert handle.real.pread(length, offset) == bytes(self.content[handle.key][offset : offset + length])

    @rule(number=picks)
    def read_everything(self, number: int) -> None:
        if (handle := self.pick(number)) is not None:
            assert handle.real.pread(2 * LIMIT, 0) == bytes(self.content[handle.key])

    # ---------------------------------------------------------------- durability

    def settle(self, handle: Handle, call: Any) -> bool:
        """Make a call that reports losses: it has one to report if and only if the handle did not report it yet."""
        try:
            Task(call).result()
        except WritebackError:
            return False  # before a loss; if there is no later call, the loss is reported then
        except DataLossError as error:
            reported = {(item.offset, item.length) for item in error.ranges if item.key == handle.key}
            assert {(item.offset, item.length) for item in handle.unreported} == reported
            handle.unreported = []
            return False
        assert handle.unreported == [], "a loss was not reported"
        return True

    @rule(number=picks, how=st.sampled_from(["flush", "fsync", "fsync", "sync_range"]), offset=offsets, length=lengths)
    def make_durable(self, number: int, how: str, offset: int, length: int) -> None:
        if (handle := self.pick(number)) is None:
            return
        if how == "sync_range":
            try:
                Task(handle.real.sync_range, offset, length).result()
            except WritebackError:
                pass
        elif self.settle(handle, getattr(handle.real, how)) and how == "fsync":
            self.compare(handle.key)

    @rule()
    def sync(self) -> None:
        try:
            Task(self.rig.volume.sync, 20).result()
        except WritebackError:
            return
        for key in KEYS:
            self.compare(key)

    def compare(self, key: str) -> None:
        """Check that the store has the accepted bytes, also after a crash."""
        durable = self.rig.backend.limits.durable_writes
        stored = self.rig.backend.written(key) if durable else self.rig.backend.committed(key)
        assert stored == bytes(self.content[key])
        self.given_up.discard(key)

    @rule(key=st.one_of(st.none(), keys))
    def retry_failed(self, key: str | None) -> None:
        self.rig.volume.retry_failed(key)

    @rule(key=keys, offset=offsets, length=lengths)
    def discard(self, key: str, offset: int, length: int) -> None:
        """Check that the returned ranges, and nothing else, were given up: the requested range by whole pages."""
        self.rig.backend.clear_faults("commit")
        lost = Task(self.rig.volume.discard, key, offset, length).result()
        if lost:
            self.given_up.add(key)
        with self.rig.volume.open(key, "rb") as file:
            found = file.pread(2 * LIMIT, 0)
        content = self.content[key]
        gone: set[int] = set()
        for item in lost:
            assert (item.key, item.volume) == (key, "volume")
            assert item.offset // PAGE >= offset // PAGE
            assert item.offset + item.length <= -(-(offset + length) // PAGE) * PAGE
            gone.update(range(item.offset, item.offset + item.length))
        for i in range(max(len(found), len(content))):
            if i not in gone:  # behind a discarded tail were zeros of a hole
                assert (found[i] if i < len(found) else 0) == (content[i] if i < len(content) else 0)
        assert len(found) <= len(content)
        content[:] = found
        for handle in self.handles:
            if handle.key == key:
                handle.unreported += lost

    # ---------------------------------------------------------------- faults

    def nr_armed(self, op: str) -> float:
        return sum(fault.left for fault in self.rig.backend.faults if fault.op == op)

    @rule(how=st.sampled_from(sorted(WRITE_FAULTS)), key=keys, times=st.integers(1, 4), skip=st.integers(0, 2))
    def fail_writes(self, how: str, key: str, times: int, skip: int) -> None:
        if self.nr_armed("write_from") < 8:
            self.rig.backend.fault("write_from", WRITE_FAULTS[how], key=key, times=times, skip=skip)

    @rule(how=st.sampled_from(sorted(COMMIT_FAULTS)), key=keys, times=st.integers(1, 3))
    def fail_commits(self, how: str, key: str, times: int) -> None:
        if self.nr_armed("commit") < 4 and key not in self.given_up:
            self.rig.backend.fault("commit", COMMIT_FAULTS[how], key=key, times=times)

    @rule(key=keys)
    def be_full(self, key: str) -> None:
        """Fail until another step repairs it."""
        self.rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key=key, times=float("inf"))

    @rule()
    def heal(self) -> None:
        self.rig.backend.clear_faults()

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "rig"):
            self.rig.cache.check()
            for handle in self.handles:
                assert handle.real.size == len(self.content[handle.key])
            for item in self.rig.volume.failed():
                assert item.offset + item.length <= len(self.content[str(item.key)])

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        try:
            self.rig.backend.clear_faults()
            self.rig.volume.retry_failed()
            Task(self.rig.volume.sync, 20).result()
            assert self.rig.volume.failed() == []
            for key in KEYS:
                self.compare(key)
                assert self.rig.volume.dirty_ranges(key) == []
            for handle in self.handles:
                assert handle.real.pread(2 * LIMIT, 0) == bytes(self.content[handle.key])
                self.settle(handle, handle.real.fsync)
                assert self.settle(handle, handle.real.close)
            self.sums_come_out()
            assert Task(self.rig.cache.close, timeout=20).result() == []
        finally:
            self.rig.finish()

    def sums_come_out(self) -> None:
        """Check the sums while nothing runs. [I-25, I-26, I-27]"""
        eventually(lambda: self.rig.cache.stats().writeback == 0)
        for stats in (self.rig.cache.stats(), self.rig.volume.stats()):
            n = stats.to_dict()
            assert n["handed_over"] == n["acknowledged"] + n["returned"]
            assert n["fill_requested"] == sum(n[f"fill_{end}"] for end in ("validated", "reread", "dropped", "zeroed"))
            assert (n["dirty"], n["writeback"], n["unstable"], n["failed"], n["pinned"]) == (0, 0, 0, 0, 0)
        n = self.rig.cache.stats().to_dict()
        assert (n["frames_allocated"] - n["frames_freed"]) * PAGE == n["used"]


class LongFaultMachine(FaultMachine):
    """A FaultMachine with other settings."""


TestRandomFaults = pytest.mark.timeout(300)(FaultMachine.TestCase)
TestRandomFaults.settings = settings(max_examples=100, stateful_step_count=40)

TestManyRandomFaults = pytest.mark.slow(pytest.mark.timeout(3600)(LongFaultMachine.TestCase))
TestManyRandomFaults.settings = settings(max_examples=1500, stateful_step_count=80)
