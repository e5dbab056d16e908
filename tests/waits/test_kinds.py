"""Each kind of wait: forced by a gate in the backend, seen in the report from another thread, and gone when it is over.

A kind says what holds the waiter up (`first`, on a thread of its own, "first"), what waits (`call`, on "waiter"), and
what the report has to say: what is waited for, of which bytes, who owns it, and how the chain goes on.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pagecache import CachedFile, RetryPolicy, Wait

from ..file.rig import KEY, PAGE, Rig, Task, eventually, pattern
from ..file.test_interrupts import ctrl_c
from .seen import nobody_waits, start, wait_of

Make = Callable[..., Rig]
Act = Callable[[Rig, Any], object]
DATA = pattern(64 * PAGE)
SLOW = RetryPolicy(attempts=3, first_delay=3600.0, max_delay=3600.0, deadline=7200.0, failed_retry=None)
WORKER = r"pagecache-volume-\d+"


@dataclass
class Kind:
    """A way to wait, and what a report says of it (patterns; `chain` of the sentences behind the first)."""

    gate: str | None
    call: Act
    what: str
    owner: str | None
    chain: list[str]
    before: Act = lambda rig, file: None
    first: Act | None = None
    span: tuple[int, int] | None = None
    within: tuple[int, int] | None = None  # where the span is a piece, of a size that pages and limits decide
    key: str | None = KEY
    thread: str | None = WORKER
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    fault: tuple[str, BaseException] | None = None
    after: Act = lambda rig, file: None


def dirty(rig: Rig, file: CachedFile) -> None:
    file.pwrite(b"d" * PAGE, 0)


def dirty_and_viewed(rig: Rig, file: CachedFile) -> None:
    dirty(rig, file)
    file.__dict__["held"] = file.view(0, PAGE)


def in_flight_and_viewed(rig: Rig, file: CachedFile) -> None:
    dirty_and_viewed(rig, file)
    rig.volume.begin_sync()
    rig.backend.gates[-1].wait_entered()


def release(rig: Rig, file: CachedFile) -> None:
    file.__dict__.pop("held").release()


def take_memory(rig: Rig, file: CachedFile) -> None:
    """Most pages are in a view, the others in flight."""
    file.__dict__["held"] = file.view(0, 10 * PAGE)
    file.pwrite(bytes(4 * PAGE), 30 * PAGE)
    rig.volume.begin_sync()
    rig.backend.gates[-1].wait_entered()


def prefetched(rig: Rig, file: CachedFile) -> None:
    """A fill that is queued, and no credit left to run it."""
    file.prefetch(8 * PAGE, PAGE)


def direct(rig: Rig) -> CachedFile:
    return rig.open(direct=True)


READ = r"{} is in read_into of 'file' \[{}\) for [\d.]+ s, at .*backends.py:\d+ in \w+.*"
FIRST_READS = READ.format("first", "16384, 20480")
WRITES = rf"{WORKER} is in write_from of 'file' \[0, 4096\) for [\d.]+ s, at .*"
COMMITS = rf"{WORKER} is in commit of 'file' for [\d.]+ s, at .*"
TRUNCATES = rf"{WORKER} is in truncate of 'file' for [\d.]+ s, at .*"


def read(rig: Rig, file: CachedFile) -> object:
    return file.pread(PAGE, 4 * PAGE)


KINDS: dict[str, Kind] = {
    "a fill of its own": Kind(
        "read_into",
        read,
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [READ.format("waiter", "16384, 20480")],
        span=(4 * PAGE, PAGE),
        thread="waiter",
    ),
    "a read past the cache": Kind(
        "read_into",
        lambda rig, file: direct(rig).pread(PAGE, 4 * PAGE),
        r"a direct read of \[16384, 20480\)",
        "a read of the backend",
        [READ.format("waiter", "16384, 20480")],
        span=(4 * PAGE, PAGE),
        thread="waiter",
    ),
    "a fill of another thread": Kind(
        "read_into",
        lambda rig, file: file.pread(10, 4 * PAGE + 5),
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [FIRST_READS],
        first=read,
        span=(4 * PAGE, PAGE),
        thread="first",
    ),
    "a fill that no thread has begun": Kind(
        "read_into",
        lambda rig, file: file.pwrite(b"w", 8 * PAGE + 5),
        r"a fill of \[32768, 36864\)",
        "no thread has begun that read",
        ["no thread has begun that read", FIRST_READS],
        first=read,
        before=lambda rig, file: None,
        span=(8 * PAGE, PAGE),
        thread=None,
        options={"max_inflight": 1},
    ),
    "a credit": Kind(
        "read_into",
        lambda rig, file: file.pread(PAGE, 20 * PAGE),
        r"a call more than the volume may have at once \(max_inflight\)",
        "a read of the backend",
        [FIRST_READS],
        first=read,
        thread="first",
        options={"max_inflight": 1},
    ),
    "bytes in flight that may not be copied aside": Kind(
        "write_from",
        lambda rig, file: file.pwrite(b"again", 0),
        r"a write of \[0, 4096\) to end",
        "a write of the backend",
        [WRITES],
        before=dirty_and_viewed,
        first=lambda rig, file: file.flush(),
        span=(0, PAGE),
        after=release,
    ),
    "the file's lock, behind a truncate": Kind(
        "truncate",
        lambda rig, file: file.pwrite(b"w", 0),
        "the file's lock",
        "a truncate",
        [
            "first has 'file' locked for a truncate for .* s",
            "first waits for the backend's truncate of 'file'",
            TRUNCATES,
        ],
        first=lambda rig, file: file.truncate(PAGE),
        thread="first",
    ),
    "the file's lock, behind an append that waits for room": Kind(
        "write_from",
        lambda rig, file: file.truncate(PAGE),
        "the file's lock",
        r"an append of \[262144, 327680\)",
        [
            r"first has 'file' locked for an append of \[262144, 327680\) for .* s",
            r"first waits for room for \d+ bytes of 'file'",
            rf"{WORKER} is in write_from of 'file' .*",
        ],
        first=lambda rig, file: file.append(DATA[: 16 * PAGE]),
        before=lambda rig, file: fill_up(rig, file),
        thread="first",
        config={"dirty_background": 0.03, "dirty_limit": 0.04, "capacity": "1MiB"},
    ),
    "the file's lock, behind a direct write": Kind(
        "write_from",
        lambda rig, file: file.pwrite(b"w", 0),
        "the file's lock",
        r"a direct write.*",
        [
            "first has 'file' locked for a direct write.* for .* s",
            "first waits for the backend's write_from of 'file'",
            rf"{WORKER} is in write_from of 'file' for .* s, at .*",
        ],
        first=lambda rig, file: direct(rig).pwrite(DATA[:PAGE], 0),
        thread="first",
    ),
    "the file's lock, behind a writable view": Kind(
        "write_from",
        lambda rig, file: file.pwrite(b"w", 5 * PAGE),
        "the file's lock",
        r"a writable view of \[0, 4096\)",
        [
            r"first has 'file' locked for a writable view of \[0, 4096\) for .* s",
            r"first waits for a write of \[0, 4096\) to end of 'file'",
            WRITES,
        ],
        before=lambda rig, file: in_flight_and_viewed(rig, file),
        first=lambda rig, file: file.view(0, PAGE, writable=True).release(),
        thread="first",
        after=release,
    ),
    "memory": Kind(
        "write_from",
        lambda rig, file: file.pwrite(DATA[: 4 * PAGE], 40 * PAGE),
        "memory",
        "a write of the backend",
        [rf"{WORKER} is in write_from of 'file' .*"],
        before=lambda rig, file: take_memory(rig, file),
        config={"capacity": "64KiB"},
        after=release,
    ),
    "the end of what runs, at a detach": Kind(
        "read_into",
        lambda rig, file: rig.volume.detach(),
        "the end of the backend's calls|the end of the volume's threads",
        "a read of the backend",
        [rf"{WORKER} is in read_into of 'file' .*"],
        before=lambda rig, file: file.prefetch(0, PAGE),
        key=None,
    ),
    "the token, behind write-back": Kind(
        "write_from",
        lambda rig, file: file.truncate(PAGE),
        "the file's token",
        "a write of the backend",
        [WRITES],
        before=dirty,
        first=lambda rig, file: file.flush(),
    ),
    "the token, behind a commit": Kind(
        "commit",
        lambda rig, file: file.truncate(PAGE),
        "the file's token",
        "a commit of the backend",
        [COMMITS],
        before=dirty,
        first=lambda rig, file: file.fsync(),
    ),
    "the end of a truncate": Kind(
        "truncate",
        lambda rig, file: file.pread(PAGE, 0),
        "the end of a truncate or hole",
        "a truncate",
        [
            "first has 'file' locked for a truncate for .* s",
            "first waits for the backend's truncate of 'file'",
            TRUNCATES,
        ],
        first=lambda rig, file: file.truncate(PAGE),
        thread="first",
    ),
    "flush": Kind(
        "write_from", lambda rig, file: file.flush(), "flush", "a write of the backend", [WRITES], before=dirty
    ),
    "sync_range": Kind(
        "write_from",
        lambda rig, file: file.sync_range(0, PAGE),
        "flush",
        "a write of the backend",
        [WRITES],
        before=dirty,
        span=(0, PAGE),
    ),
    "write-through": Kind(
        "write_from",
        lambda rig, file: rig.open(write_through=True).pwrite(b"t" * PAGE, 0),
        "flush",
        "a write of the backend",
        [WRITES],
        span=(0, PAGE),
    ),
    "fsync in write-back": Kind(
        "write_from", lambda rig, file: file.fsync(), "fsync", "a write of the backend", [WRITES], before=dirty
    ),
    "fsync in commit": Kind(
        "commit", lambda rig, file: file.fsync(), "fsync", "a commit of the backend", [COMMITS], before=dirty
    ),
    "a round of another fsync": Kind(
        "commit",
        lambda rig, file: file.fsync(),
        "fsync",
        "a commit of the backend",
        [COMMITS],
        before=dirty,
        first=lambda rig, file: file.fsync(),
    ),
    "fsync that is tried again later": Kind(
        None,
        lambda rig, file: file.fsync(),
        "fsync",
        r"time: it is tried again in [\d.]+ s after .*no answer.*",
        [r"time: it is tried again in [\d.]+ s after .*no answer.*"],
        before=dirty,
        thread=None,
        config={"retry": SLOW},
        fault=("write_from", TimeoutError(110, "no answer")),
    ),
    "a read that is tried again later": Kind(
        None,
        read,
        "the next try of a call that failed",
        r"time: [\d.]+ s are left",
        [r"time: [\d.]+ s are left"],
        thread=None,
        config={"retry": SLOW},
        fault=("read_into", TimeoutError(110, "no answer")),
    ),
    "a sync": Kind(
        "commit",
        lambda rig, file: rig.volume.sync(),
        "sync",
        "a commit of the backend",
        [COMMITS],
        before=dirty,
        key=None,
    ),
    "a ticket": Kind(
        "write_from",
        lambda rig, file: rig.volume.begin_sync().wait(),
        "sync",
        "a write of the backend",
        [WRITES],
        before=dirty,
        key=None,
    ),
    "a sync of names": Kind(
        "sync",
        lambda rig, file: rig.volume.sync(),
        "sync",
        "sync of the backend",
        [rf"{WORKER} is in sync for .* s, at .*"],
        before=lambda rig, file: rig.volume.remove("other"),
        key=None,
    ),
    "a sync of the cache": Kind(
        "write_from",
        lambda rig, file: rig.cache.sync(),
        "sync",
        "a write of the backend",
        [WRITES],
        before=dirty,
        key=None,
    ),
    "room for dirty data": Kind(
        "write_from",
        lambda rig, file: file.pwrite(DATA[: 4 * PAGE], 20 * PAGE),
        r"room for \d+ bytes",
        "a write of the backend",
        [rf"{WORKER} is in write_from of 'file' .*"],
        before=lambda rig, file: fill_up(rig, file),
        config={"dirty_background": 0.03, "dirty_limit": 0.04, "capacity": "1MiB"},
        within=(20 * PAGE, 24 * PAGE),
    ),
    "an open": Kind(
        "open",
        lambda rig, file: rig.open(key="other"),
        "the backend's open",
        "open of the backend",
        [rf"{WORKER} is in open of 'other' for .* s, at .*"],
        key="other",
    ),
    "a stat": Kind(
        "stat",
        lambda rig, file: rig.volume.stat("other"),
        "the backend's stat",
        "stat of the backend",
        [rf"{WORKER} is in stat of 'other' for .* s, at .*"],
        key="other",
    ),
    "a list": Kind(
        "list",
        lambda rig, file: [*rig.volume.list()],
        "the backend's list",
        "list of the backend",
        [rf"{WORKER} is in list for .* s, at .*"],
        key=None,
    ),
    "a remove": Kind(
        "remove",
        lambda rig, file: rig.volume.remove("other"),
        "the backend's remove",
        "remove of the backend",
        [rf"{WORKER} is in remove of 'other' for .* s, at .*"],
        key="other",
    ),
    "a truncate": Kind(
        "truncate",
        lambda rig, file: file.truncate(PAGE),
        "the backend's truncate",
        "truncate of the backend",
        [TRUNCATES],
    ),
    "a direct write": Kind(
        "write_from",
        lambda rig, file: direct(rig).pwrite(DATA[:PAGE], 0),
        "the backend's write_from",
        "write_from of the backend",
        [rf"{WORKER} is in write_from of 'file' for .* s, at .*"],
    ),
    "the name, behind an open": Kind(
        "open",
        lambda rig, file: rig.open(key="other"),
        "the name",
        "an open",
        [
            "first has the name for an open for .* s",
            "first waits for the backend's open of 'other'",
            rf"{WORKER} is in open of 'other' for .* s, at .*",
        ],
        first=lambda rig, file: rig.open(key="other"),
        key="other",
        thread="first",
    ),
    "the name, behind a rename": Kind(
        "rename",
        lambda rig, file: rig.volume.remove("another"),
        "the name",
        "rename",
        [
            "first has the name for rename for .* s",
            "first waits for the backend's rename of 'other'",
            rf"{WORKER} is in rename of 'other' for .* s, at .*",
        ],
        first=lambda rig, file: rig.volume.rename("other", "another"),
        key="another",
        thread="first",
    ),
    "a close": Kind(
        "write_from", lambda rig, file: file.close(), "flush", "a write of the backend", [WRITES], before=dirty
    ),
    "a detach": Kind(
        "commit",
        lambda rig, file: rig.volume.detach(),
        "sync",
        "a commit of the backend",
        [COMMITS],
        before=dirty,
        key=None,
    ),
    "a detach behind a change": Kind(
        "truncate",
        lambda rig, file: rig.volume.detach(),
        "the file's lock",
        "a truncate",
        [
            "first has 'file' locked for a truncate for .* s",
            "first waits for the backend's truncate of 'file'",
            TRUNCATES,
        ],
        first=lambda rig, file: file.truncate(PAGE),
        thread="first",
    ),
}


def fill_up(rig: Rig, file: CachedFile) -> None:
    """Dirty bytes up to the limit, while the gate keeps them there."""
    for page in range(63, 53, -1):
        if file.try_pwrite(b"f" * PAGE, page * PAGE) is None:
            return


class Stage:
    """A kind of wait up to the moment before its caller waits."""

    def __init__(self, make: Make, name: str) -> None:
        self.kind = KINDS[name]
        config = dict(self.kind.config)
        capacity = config.pop("capacity", "8MiB")
        self.rig = make({KEY: DATA, "other": DATA}, capacity, limits=self.kind.options, **config)
        self.file = self.rig.open()
        self.gate = None if self.kind.gate is None else self.rig.backend.gate(self.kind.gate, times=64)
        if self.kind.fault is not None:
            self.rig.backend.fault(*self.kind.fault)
        self.kind.before(self.rig, self.file)
        self.tasks: list[Task[Any]] = []
        if self.kind.first is not None:
            assert self.gate is not None
            self.tasks.append(start("first", self.kind.first, self.rig, self.file))
            self.gate.wait_entered()
            wait_of(self.rig.cache, "first")
        if name == "a fill that no thread has begun":
            prefetched(self.rig, self.file)

    def call(self) -> object:
        return self.kind.call(self.rig, self.file)

    def seen(self, name: str) -> Wait:
        """The wait, once it is as it has to be."""
        eventually(lambda: matches(self.kind, wait_of(self.rig.cache, name), name))
        return wait_of(self.rig.cache, name)

    def finish(self) -> None:
        """Let go; then nobody waits."""
        if self.kind.fault is not None:
            self.rig.volume.abort()
        if self.gate is not None:
            self.gate.open()
        for task in self.tasks:
            assert task.finished.wait(20)
        self.kind.after(self.rig, self.file)
        if not self.rig.cache.closed:
            nobody_waits(self.rig.cache)


def matches(kind: Kind, wait: Wait, name: str) -> bool:
    """Whether the report says what it has to."""
    found = re.fullmatch(kind.what, wait.what) and len(wait.chain) == 1 + len(kind.chain)
    sentences = [sentence.replace(name, "waiter") for sentence in wait.chain[1:]]
    return bool(found) and all(re.fullmatch(p, s) for p, s in zip(kind.chain, sentences, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_report_says_who_waits_for_whom(make: Make, name: str) -> None:
    """What, which bytes, of whom, since when, and the chain down to the call that runs; then nothing. [T-80]"""
    stage = Stage(make, name)
    stage.tasks.append(start("waiter", stage.call))
    kind, wait = stage.kind, stage.seen("waiter")
    assert (wait.volume, wait.key, wait.task) == ("volume", kind.key, False)
    if kind.within is None:
        assert (wait.offset, wait.length) == (kind.span or (None, None))
    else:
        assert wait.offset is not None
        assert wait.length is not None
        assert kind.within[0] <= wait.offset < wait.offset + wait.length <= kind.within[1]
    assert wait.chain[0].startswith(f"waiter waits for {wait.what}")
    assert wait.seconds >= 0
    assert wait.next
    owner = wait.owner
    assert owner is not None
    assert kind.owner is not None
    assert re.fullmatch(kind.owner, owner.what)
    assert (owner.name is None) == (kind.thread is None) == (owner.thread is None)
    assert kind.thread is None or re.fullmatch(kind.thread, owner.name or "")
    stage.finish()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", KINDS)
def test_an_interrupt_leaves_no_record(make: Make, name: str) -> None:
    """Ctrl-C in each of them: the caller is not in the report any more, whatever goes on. [T-80, T-51]"""
    stage = Stage(make, name)
    ready = threading.Event()

    def watch() -> None:
        try:
            stage.seen("MainThread")
        finally:
            ready.set()

    watcher = Task(watch)
    with ctrl_c(ready), pytest.raises(KeyboardInterrupt):
        stage.call()
    watcher.result()
    assert [wait for wait in stage.rig.cache.waits() if wait.name == "MainThread"] == []
    stage.finish()
