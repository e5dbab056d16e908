"""Each kind of wait, and its expected report.

A kind has the holder of the wait (`first`, on a separate thread, "first"), the waiter (`call`, on "waiter"), and the
expected report: the wait's object, its bytes, its owner, and the rest of the chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pagecache import CachedFile, RetryPolicy

from ..file.rig import KEY, PAGE, Rig, pattern

Act = Callable[[Rig, Any], object]
DATA = pattern(64 * PAGE)
SLOW = RetryPolicy(attempts=3, first_delay=3600.0, max_delay=3600.0, deadline=7200.0, failed_retry=None)
WORKER = r"pagecache-volume-\d+"


@dataclass
class Kind:
    """A way to wait, and its expected report (patterns; `chain` of the sentences behind the first)."""

    gate: str | None
    call: Act
    what: str
    owner: str | None
    chain: list[str]
    before: Act = lambda rig, file: None
    first: Act | None = None
    span: tuple[int, int] | None = None
    within: tuple[int, int] | None = None  # the place of the span, if it is a piece whose size pages and limits decide
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
    """Take all memory: most pages are in a view, the others in flight."""
    file.__dict__["held"] = file.view(0, 10 * PAGE)
    file.pwrite(bytes(4 * PAGE), 30 * PAGE)
    rig.volume.begin_sync()
    rig.backend.gates[-1].wait_entered()


def prefetched(rig: Rig, file: CachedFile) -> None:
    """Queue a fill, with no credit left to run it."""
    file.prefetch(8 * PAGE, PAGE)


def direct(rig: Rig) -> CachedFile:
    return rig.open(direct=True)


READ = r"{} is in read_into of 'file' \[{}\) for [\d.]+ s, at .*backends.py:\d+ in \w+.*"
WORKER_READS = READ.format(WORKER, "16384, 20480")
WRITES = rf"{WORKER} is in write_from of 'file' \[0, 4096\) for [\d.]+ s, at .*"
COMMITS = rf"{WORKER} is in commit of 'file' for [\d.]+ s, at .*"
TRUNCATES = rf"{WORKER} is in truncate of 'file' for [\d.]+ s, at .*"


def read(rig: Rig, file: CachedFile) -> object:
    return file.pread(PAGE, 4 * PAGE)


KINDS: dict[str, Kind] = {
    "a fill": Kind(
        "read_into",
        read,
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [WORKER_READS],
        span=(4 * PAGE, PAGE),
    ),
    "a fill of its own": Kind(
        "read_into",
        read,
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [READ.format("waiter", "16384, 20480")],
        span=(4 * PAGE, PAGE),
        thread="waiter",
        options={"prompt": True},
    ),
    "a read past the cache": Kind(
        "read_into",
        lambda rig, file: direct(rig).pread(PAGE, 4 * PAGE),
        "the backend's read_into",
        "read_into of the backend",
        [rf"{WORKER} is in read_into of 'file' for [\d.]+ s, at .*"],
    ),
    "a read of its own past the cache": Kind(
        "read_into",
        lambda rig, file: direct(rig).pread(PAGE, 4 * PAGE),
        r"a direct read of \[16384, 20480\)",
        "a read of the backend",
        [READ.format("waiter", "16384, 20480")],
        span=(4 * PAGE, PAGE),
        thread="waiter",
        options={"prompt": True},
    ),
    "a fill of another thread": Kind(
        "read_into",
        lambda rig, file: file.pread(10, 4 * PAGE + 5),
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [WORKER_READS],
        first=read,
        span=(4 * PAGE, PAGE),
    ),
    "a fill that no thread has begun": Kind(
        "read_into",
        lambda rig, file: file.pwrite(b"w", 8 * PAGE + 5),
        r"a fill of \[32768, 36864\)",
        "no thread has begun that read",
        ["no thread has begun that read", WORKER_READS],
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
        [READ.format("first", "16384, 20480")],
        first=read,
        thread="first",
        options={"max_inflight": 1, "prompt": True},
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
        options={"prompt": True},
        fault=("read_into", TimeoutError(110, "no answer")),
    ),
    "a fill that is tried again later": Kind(
        None,
        read,
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [
            rf"{WORKER} is in read_into of 'file' \[16384, 20480\) for [\d.]+ s",
            rf"{WORKER} waits for the next try of a call that failed of 'file'",
            r"time: [\d.]+ s are left",
        ],
        span=(4 * PAGE, PAGE),
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
    "a remove, behind a commit": Kind(
        "commit",
        lambda rig, file: rig.volume.remove(KEY),
        "the file's token",
        "a commit of the backend",
        [COMMITS],
        before=dirty,
        first=lambda rig, file: file.fsync(),
        options={"commit_on_close": True},
    ),
    "a read beside a remove": Kind(
        "remove",
        read,
        "the call that changes the name of the object",
        "remove of the backend",
        [rf"{WORKER} is in remove of 'file' for [\d.]+ s, at .*"],
        first=lambda rig, file: rig.volume.remove(KEY),
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
