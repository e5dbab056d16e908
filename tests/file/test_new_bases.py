"""Another version of an object, found while this cache goes on: an open adopts it between two write-backs.

A look at the store counts only if this cache has changed nothing while it ran: a size reported by storage is outdated
after a later change by the cache. While one of the cache's own calls may still change the file, an answer is
inconclusive; an unknown version then hides another client's change from the next open. So the version that storage
gives a file after the cache's own writes is known when a flush, fsync or close returns:

    worker 1   write_from ... acknowledged, wakes the waiters
    closer                                  nothing is left .......... asks for the version
    worker 2                                   finds that the pass is over         file.stat()

An announced version of an object that is stored in place comes with its size at the next open. [2.19]
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, PageCache, Volume
from pagecache.backends import MemoryBackend
from pagecache.engine.io import collector
from pagecache.native import NativeInode
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S, ObjectBackend
from .rig import KEY, PAGE, Make, Patch, Rig, Task, beside, ended_or_behind, eventually, held, overlay, pattern, raises

DATA = pattern(4 * PAGE)
OTHER = pattern(4 * PAGE, seed=9)
MINE = b"mine" * (PAGE // 4)


def test_an_open_does_not_take_a_size_that_a_commit_of_ours_has_changed_since(monkeypatch: Patch) -> None:
    """Nothing is local before and after; no page of the old version is left. [2.19, I-17]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache, cache.attach(store).open(KEY, "r+") as file:
        file.pread(len(DATA), 0)
        store.put(KEY, OTHER[: 2 * PAGE])
        beside(monkeypatch, NativeInode, "has_local", lambda: saved(file, MINE, 3 * PAGE), after=True)
        file.volume.open(KEY).close()
        expected = OTHER[: 2 * PAGE] + bytes(PAGE) + MINE
        assert (file.size, file.pread(5 * PAGE, 0)) == (4 * PAGE, expected)
        cache.check()
    assert store.snapshot(KEY) == expected


def test_work_under_the_token_hides_no_version_from_an_open_beside_it(make: Make) -> None:
    """The work may last longer than the call that waited for it: by itself it changes no stored byte. [2.19]"""
    rig, file = make({KEY: DATA}).opened("rb")
    assert file.pread(len(DATA), 0) == DATA
    entered, over, at_work = threading.Event(), threading.Event(), list[threading.Thread]()

    def work() -> None:
        at_work.append(threading.current_thread())
        entered.set()
        over.wait(60)

    rig.volume.inodes[KEY].settle(work)
    assert entered.wait(60)
    rig.backend.change_remotely(KEY, OTHER)
    opening = Task(rig.open, "rb")
    ended_or_behind(rig.cache, opening, at_work[0])
    over.set()
    assert opening.result().pread(len(DATA), 0) == OTHER
    assert file.pread(len(DATA), 0) == OTHER


def test_an_open_does_not_take_the_size_of_another_version_over_a_concurrent_write(monkeypatch: Patch) -> None:
    """The write comes between the check for local bytes and the new sizes: it is a change under local data. [2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache, cache.attach(store).open(KEY, "r+") as file:
        store.put(KEY, b"other")
        beside(monkeypatch, NativeInode, "has_local", lambda: file.pwrite(b"mine", len(DATA)), after=True)
        raises(ConflictError, file.volume.open, KEY)
        file.volume.resolve(KEY, "rebase")
        assert (file.size, file.pread(4, len(DATA))) == (len(DATA) + 4, b"mine")
        file.fsync()
        cache.check()
    assert store.snapshot(KEY) == b"other".ljust(len(DATA), b"\0") + b"mine"


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pages", [2, 6])
def test_an_open_beside_a_direct_write_stays(
    make: Make, monkeypatch: Patch, *, pages: int, shared: bool, durable: bool
) -> None:
    """It begins once the new sizes are taken, with a lock chosen for them. [2.10, 2.19, T-22]"""
    other, mine = pattern(pages * PAGE, seed=9), b"m" * PAGE
    rig = make({KEY: DATA}, limits={"durable_writes": durable, "parallel_direct_writes": True, "prompt": True})
    file = rig.open(direct=True, parallel_direct_writes=shared)
    writing: list[Task[int]] = []

    def waits() -> bool:
        ident = writing[0].thread.ident
        return any(wait.thread == ident and "the gate" in wait.what for wait in rig.cache.waits())

    def begins() -> None:
        writing.append(Task(file.pwrite, mine, 3 * PAGE) if shared else Task(file.append, mine))
        eventually(lambda: writing[0].finished.is_set() or waits())

    rig.backend.change_remotely(KEY, other)
    beside(monkeypatch, NativeInode, "set_sizes", begins)
    rig.volume.open(KEY).close()
    at = writing[0].result()
    at = 3 * PAGE if shared else at
    assert shared or at == len(other)
    file.fsync()
    expected = overlay(other.ljust(at, b"\0"), at, mine)
    assert (file.size, file.pread(8 * PAGE, 0)) == (len(expected), expected)
    assert rig.backend.written(KEY) == expected


@pytest.mark.parametrize("durable", [False, True])
def test_an_open_beside_a_running_direct_write_takes_no_sizes(make: Make, monkeypatch: Patch, *, durable: bool) -> None:
    """It waits for nothing and leaves no cached page; a later open compares again. [2.10, 2.19]"""
    other, mine = pattern(2 * PAGE, seed=9), b"m" * PAGE
    rig = make({KEY: DATA}, limits={"durable_writes": durable, "parallel_direct_writes": True, "prompt": True})
    reader, file = rig.open("rb"), rig.open(direct=True)
    assert reader.pread(len(DATA), 0) == DATA
    counted, go_on = threading.Event(), threading.Event()
    invalidate_range = NativeInode.invalidate_range

    def held(native: NativeInode, start: int, end: int) -> bool:
        if (start, end) == (len(DATA), len(DATA) + PAGE):
            counted.set()
            assert go_on.wait(WAIT_LIMIT_S)
        return invalidate_range(native, start, end)

    def late() -> None:
        go_on.set()
        writing.result()

    rig.backend.change_remotely(KEY, other)
    monkeypatch.setattr(NativeInode, "invalidate_range", held)
    beside(monkeypatch, NativeInode, "set_sizes", late)
    writing = Task(file.append, mine)
    assert counted.wait(WAIT_LIMIT_S)
    rig.volume.open(KEY).close()
    go_on.set()
    assert writing.result() == len(DATA)
    file.fsync()
    expected = other.ljust(len(DATA), b"\0") + mine
    assert (file.size, reader.pread(8 * PAGE, 0)) == (len(expected), expected)
    assert rig.backend.written(KEY) == expected


@pytest.fixture
def late() -> ObjectBackend:
    return ObjectBackend()


@pytest.fixture
def volume(late: ObjectBackend) -> Iterator[Volume]:
    with PageCache("1MiB") as cache:
        yield cache.attach(late)
        cache.check()


def saved(file: CachedFile, data: bytes, offset: int = 0) -> None:
    file.pwrite(data, offset)
    file.fsync()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_an_open_beside_a_commit_finds_the_object(volume: Volume, late: ObjectBackend, looks: int) -> None:
    """Beside commits without end it takes the object as it is after the second look. [2.19, 2.20]"""
    with volume.open(KEY, "x+b") as creator:
        creator.pwrite(b"first", 0)

        def look() -> None:
            """Find no object, and answer after the next commit."""
            Task(saved, creator, b"again").result()
            raise FileNotFoundError(2, "no such object", KEY)

        fault = late.fault("stat", look, times=looks)
        with volume.open(KEY, "r+b") as other:
            assert fault.left == max(0, looks - 2)
            fault.clear()
            saved(creator, b"later")
            assert other.pread(5, 0) == b"later"
        with volume.open(KEY) as again:
            assert again.pread(5, 0) == b"later"
    assert late.content(KEY) == b"later"


@pytest.mark.parametrize("call", ["close", "flush"])
def test_the_version_is_queried_though_the_thread_of_the_last_request_does_nothing_more(
    make: Make, monkeypatch: Patch, call: str
) -> None:
    """The call waits until some thread finds that nothing is left of the pass. [T-30, 2.19]"""
    rig = make({KEY: DATA}, limits={"durable_writes": True})
    returned = held(monkeypatch, collector, "acknowledged", after=True)
    file = rig.dirtied(DATA[:PAGE], PAGE)
    rig.backend.forget_calls()
    try:
        Task(getattr(file, call)).result()
        assert len(rig.backend.seen("file_stat")) == 1
        file.close()
    finally:
        returned.open()
    rig.backend.change_remotely(KEY, OTHER)
    assert rig.content() == OTHER


def announced(rig: Rig, content: bytes) -> None:
    """Another program replaces the content, and announces the version and the range that differs."""
    rig.backend.change_remotely(KEY, content)
    start = min(2 * PAGE, len(content))
    rig.volume.invalidate_remote(KEY, start, None, version=rig.backend.stat(KEY).version)


@pytest.mark.parametrize("policy", ["fail", "take_remote"])
@pytest.mark.parametrize(
    ("written", "size"),
    [("never", 100), *((when, size) for when in ("never", "before", "after") for size in (3 * PAGE, 6 * PAGE + 10))],
)
def test_an_open_takes_the_size_of_an_announced_version(make: Make, size: int, policy: str, written: str) -> None:
    """Appends go to its end. Local bytes are no conflict, and stay; a later write makes its own version. [2.19]"""
    rig, file = make({KEY: DATA}, options={"on_conflict": policy}).opened("r+b")
    assert file.pread(len(DATA), 0) == DATA
    other = pattern(size, seed=9) if written == "never" else DATA[: 2 * PAGE] + pattern(size - 2 * PAGE, seed=9)
    expected = other if written == "never" else overlay(other, PAGE, MINE)
    if written == "before":
        file.pwrite(MINE, PAGE)
    announced(rig, other)
    if written == "after":
        file.pwrite(MINE, PAGE)
        file.fsync()
        eventually(lambda: rig.volume.inodes[KEY].versions.quiet() is not None)
    with rig.volume.open(KEY, "ab+") as late:
        assert (late.size, late.pread(8 * PAGE, 0)) == (size, expected)
        assert late.append(MINE) == size
    assert file.pread(8 * PAGE, 0) == expected + MINE
    file.fsync()
    assert rig.backend.written(KEY) == expected + MINE


def test_a_version_after_the_announced_one_is_a_conflict(make: Make) -> None:
    """It may have changed the local bytes, too. [2.19]"""
    rig, file = make({KEY: DATA}).opened()
    assert file.pread(len(DATA), 0) == DATA
    file.pwrite(MINE, PAGE)
    announced(rig, DATA[: 2 * PAGE] + MINE)
    rig.backend.change_remotely(KEY, MINE)
    raises(ConflictError, rig.volume.open, KEY)
    rig.volume.resolve(KEY, "rebase")
    file.fsync()
    assert rig.backend.written(KEY) == MINE + MINE


OLD, NEWER = pattern(3 * PAGE), pattern(PAGE + 77, 9)


@pytest.fixture
def rig(make: Make) -> Rig:
    return make(backend=ObjectBackend({KEY: OLD}))


def test_a_read_that_runs_returns_the_old_version_or_none(rig: Rig) -> None:
    file = rig.open()
    gate = rig.backend.gate("read_into")
    reading = Task(file.pread, 10, 0)
    gate.wait_entered()
    rig.backend.change_remotely(KEY, NEWER)
    fresh = rig.open("rb")
    gate.open()
    raises(ConflictError, reading.result)
    assert fresh.pread(10 * PAGE, 0) == NEWER
    raises(ConflictError, file.pread, 10, 0)


CHANGES: dict[str, Callable[[CachedFile], Any]] = {
    "pwrite": lambda file: file.pwrite(b"mine", 10),
    "a long pwrite": lambda file: file.pwrite(b"mine" * 3 * PAGE, 10),
    "append": lambda file: file.append(b"mine"),
    "truncate": lambda file: file.truncate(5),
    "punch_hole": lambda file: file.punch_hole(0, PAGE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_waits_meanwhile_is_refused(rig: Rig, monkeypatch: Patch, change: str) -> None:
    """It has passed every check of its handle but the last one, under the lock of the file."""
    file = rig.open()
    changing: list[Task[Any]] = []

    def begin() -> None:
        changing.append(Task(CHANGES[change], file))
        assert changing[0].waits()

    beside(monkeypatch, Inode, "replaced", begin)  # its handle is marked after that
    rig.backend.change_remotely(KEY, NEWER)
    fresh = rig.open("rb")
    raises(ConflictError, changing[0].result)
    assert fresh.pread(10 * PAGE, 0) == NEWER
    fresh.close()
    assert rig.synced() == NEWER


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_over_makes_the_replacement_a_conflict(rig: Rig, monkeypatch: Patch, change: str) -> None:
    """The open has found the new version, and nothing was local then. Nothing is lost."""
    file = rig.open()
    genuine = type(file._inode).run

    def run(native: Any, holds: int, method: str, argument: object, deadline: float | None = None) -> None:
        if method == "holding":
            monkeypatch.setattr(type(native), "run", genuine)
            CHANGES[change](file)
        genuine(native, holds, method, argument, deadline)

    monkeypatch.setattr(type(file._inode), "run", run)
    rig.backend.change_remotely(KEY, NEWER)
    raises(ConflictError, rig.open, "rb")
    assert rig.backend.committed(KEY) == NEWER
    raises(ConflictError, file.fsync)
