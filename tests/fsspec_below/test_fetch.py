"""The reads of a commit of a partly written object: few, side by side, and none of their bytes comes later. Reads of
files share looks at the version.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.fsspec import looks as looks_module
from pagecache.backends.fsspec.calls import Calls
from pagecache.backends.fsspec.looks import Looks
from pagecache.backends.protocol import ObjectStat
from pagecache.testing import Gate
from tests.file.rig import Patch, Task, attached, eventually, raises
from tests.file.test_interrupts import interrupted_at
from tests.fsspec_below.place import LARGE, OLD, Place, get, put
from tests.fsspec_below.stores import Elsewhere, Parts, Whole

PAGE = 4096
MIB = 1 << 20
Hook = Callable[[int], None]


class Far(Elsewhere):
    """A store whose ranges are read side by side; `reading` is called with the start of each, `have_read` after it."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int]] = []
        self.reading: Hook = lambda start: None
        self.have_read: Hook = lambda start: None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        begin = start or 0
        self.ranges.append((begin, end or 0))
        self.reading(begin)
        with open(path, "rb") as file:
            found = os.pread(file.fileno(), (end or 0) - begin, begin)
        self.have_read(begin)
        return found


def opened(folder: Path, max_inflight: int = 8) -> tuple[Place, Any]:
    """An object `key` of three reads, and a file that is open on it."""
    place = Place(Far(), str(folder), max_read=MIB, max_inflight=max_inflight, key=OLD)
    file = place.backend.open("key")
    place.fs.ranges.clear()
    return place, file


def scattered(count: int) -> list[int]:
    return random.Random(2).sample(range(0, len(OLD), PAGE), count)


def overwritten(offsets: list[int], data: bytes) -> bytes:
    content = bytearray(OLD)
    for offset in offsets:
        content[offset : offset + len(data)] = data
    return bytes(content)


def test_scattered_writes_are_completed_by_as_many_reads_as_the_object_has_steps(tmp_path: Path) -> None:
    """They are not completed by one read for each of the ranges between them."""
    place, file = opened(tmp_path)
    offsets = scattered(300)
    for offset in offsets:
        put(file, offset, b"new" * 1000)
    file.commit()
    assert len(place.fs.ranges) == len(OLD) // MIB
    assert place.content("key") == overwritten(offsets, b"new" * 1000)


def test_distant_ranges_are_read_separately(tmp_path: Path) -> None:
    place, file = opened(tmp_path)
    put(file, PAGE, bytes(MIB))
    put(file, 2 * MIB + PAGE, bytes(MIB - PAGE))
    file.commit()
    assert sorted(place.fs.ranges) == [(0, PAGE), (MIB + PAGE, 2 * MIB + PAGE)]
    assert place.content("key") == OLD[:PAGE] + bytes(MIB) + OLD[MIB + PAGE : 2 * MIB + PAGE] + bytes(MIB - PAGE)


@pytest.mark.parametrize("most", [1, 3])
def test_reads_of_a_commit_are_side_by_side(tmp_path: Path, most: int) -> None:
    """As many as calls at a time are allowed: none returns before so many have begun, and no more run."""
    place, file = opened(tmp_path, most)
    put(file, 5, b"new")
    meeting, running, found = threading.Barrier(most), list[int](), list[int]()

    def reading(start: int) -> None:
        running.append(start)
        found.append(len(running))
        meeting.wait(60)

    place.fs.reading, place.fs.have_read = reading, running.remove
    file.commit()
    assert (max(found), len(found)) == (most, 3)
    assert place.content("key") == overwritten([5], b"new")


def test_bytes_written_after_a_read_that_failed_stay(tmp_path: Path) -> None:
    """No late read puts old bytes into the spool."""
    place, file = opened(tmp_path, 1)
    put(file, 5, b"new")

    def broken(start: int) -> None:
        if start:
            raise OSError(errno.EIO, "broken")

    place.fs.reading = broken
    raises(OSError, file.commit, match="broken")
    assert place.content("key") == OLD
    put(file, MIB, b"later")
    place.fs.reading = lambda start: None
    file.commit()
    assert place.content("key") == OLD[:5] + b"new" + OLD[8:MIB] + b"later" + OLD[MIB + 5 :]


def test_an_object_that_became_shorter_is_a_conflict_and_stays(tmp_path: Path) -> None:
    place, file = opened(tmp_path)
    put(file, 5, b"new")

    def cut(_start: int) -> None:
        Path(place.root, "key").write_bytes(b"short")

    place.fs.reading = cut
    assert raises(OSError, file.commit).errno == errno.ESTALE
    assert place.content("key") == b"short"


def test_through_the_cache_scattered_writes_cost_few_calls(tmp_path: Path) -> None:
    """The calls are an open, a test read, three reads, and a store: whatever the number of writes."""
    place, _ = opened(tmp_path)
    offsets = scattered(300)
    with attached(place.backend) as volume, volume.open("key", "r+b") as file:
        for offset in offsets:
            file.pwrite(b"x" * PAGE, offset)
        file.fsync()
    assert place.content("key") == overwritten(offsets, b"x" * PAGE)
    assert len(place.fs.ranges) <= 1 + 3
    assert [method for method, _ in place.fs.hooks.calls] == ["put_file", "mv"]


NEW = bytes(LARGE)


def held_looks(file: Any, gate: Gate) -> list[str]:
    """Hold the answer of the first look of a file from now on. Return the names that are looked at."""
    calls, looks, lock = file._calls, [], threading.Lock()
    found = calls.found

    def look(path: str) -> Any:
        answer = found(path)
        with lock:
            looks.append(path)
            first = len(looks) == 1
        if first:
            gate.enter(20.0)
        return answer

    calls.found = look
    return looks


class Turn:
    """The turn of a look, which counts the threads that wait for it."""

    waiting = 0  # for any look

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            Turn.waiting += 1
            self._lock.acquire()
            Turn.waiting -= 1

    def __exit__(self, *error: object) -> None:
        self._lock.release()


@pytest.fixture(autouse=True)
def counted(monkeypatch: Patch) -> None:
    """Looks that count who waits."""

    class Counted(looks_module._Look):
        def __init__(self) -> None:
            super().__init__()
            self.turn = Turn()  # type: ignore[assignment]

    monkeypatch.setattr(looks_module, "_Look", Counted)
    monkeypatch.setattr(Turn, "waiting", 0)


def waiting(looks: Any) -> int:
    """Return how many threads wait, while one looks."""
    return Turn.waiting + len(looks._lookers) - 1


@pytest.fixture
def parts() -> Place:
    return Place(Parts(), "bucket", key=OLD)


def test_reads_that_end_while_a_look_runs_share_the_next_one(parts: Place) -> None:
    """Nine reads cost two looks."""
    file = parts.backend.open("key")
    with Gate() as gate, ThreadPoolExecutor(9) as pool:
        looks = held_looks(file, gate)
        first = pool.submit(get, file, 0, 4096)
        gate.wait_entered()
        others = [pool.submit(get, file, number * 4096, 4096) for number in range(1, 9)]
        eventually(lambda: waiting(file._looks) == 8)
        gate.release()
        assert first.result() == OLD[:4096]
        assert [other.result() for other in others] == [OLD[n * 4096 : (n + 1) * 4096] for n in range(1, 9)]
    assert len(looks) == 2


@pytest.mark.parametrize("begins_before", [True, False])
def test_a_look_covers_no_read_that_ends_after_its_begin(parts: Place, begins_before: bool) -> None:
    """Another client stores a version before or after the look of the first read; the second read finds it. [2.19]"""
    file = parts.backend.open("key")
    with Gate() as gate, ThreadPoolExecutor(2) as pool:
        if begins_before:
            held_looks(file, gate)
            first = pool.submit(get, file, 0, 4096)
            gate.wait_entered()
            parts.put("key", NEW)
            second = pool.submit(get, file, 4096, 4096)
            eventually(lambda: waiting(file._looks) == 1 or second.done())
            gate.release()
            assert first.result() == OLD[:4096]
        else:
            parts.put("key", NEW)
            second = pool.submit(get, file, 4096, 4096)
            first = pool.submit(get, file, 0, 4096)
            assert raises(OSError, first.result).errno == errno.ESTALE
        assert raises(OSError, second.result).errno == errno.ESTALE


class Scripted(Calls):
    """Looks that are answered, or interrupted, by the test."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(Parts())
        self.answers, self.begun = list(answers), 0

    def found(self, path: str) -> ObjectStat | None:
        self.begun += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Future):
            answer = answer.result()
        if isinstance(answer, BaseException):
            raise answer
        found: ObjectStat | None = answer
        return found


def test_an_interrupt_of_a_look_is_no_answer_for_the_others() -> None:
    """The thread that makes it gets Ctrl-C; those that wait make another one."""
    held: Future[Any] = Future()
    calls = Scripted(held, KeyboardInterrupt(), ObjectStat(size=3))
    looks: Any = Looks(calls, "key")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(looks.look)
        eventually(lambda: calls.begun == 1)
        others = [pool.submit(looks.look) for _ in range(2)]
        eventually(lambda: waiting(looks) == 2)
        held.set_result(ObjectStat(size=1))
        assert first.result() == ObjectStat(size=1)
        errors = [other.exception() for other in others]
    assert sorted(map(repr, errors)) == [repr(KeyboardInterrupt()), repr(None)]
    found = [other.result() for other, error in zip(others, errors, strict=True) if error is None]
    assert found == [ObjectStat(size=3)]


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_between_two_bytecodes_of_a_look_leaves_nobody_waiting(*, fails: bool) -> None:
    """Ctrl-C strikes at each place of a look that another thread waits for; that and a later one have their answers."""

    def within(frame: FrameType) -> bool:
        return frame.f_code.co_filename == looks_module.__file__

    class Crossed(Calls):
        """The first look has a waiter."""

        def found(self, _path: str) -> ObjectStat:
            if threading.current_thread() is not threading.main_thread():
                return ObjectStat(size=3)
            waiters.append(Task(looks.look))
            eventually(lambda: waiting(looks) == 1)
            if fails:
                raise OSError(errno.ETIMEDOUT, "no answer")
            return ObjectStat(size=1)

    def look() -> None:
        with contextlib.suppress(TimeoutError):
            looks.look()

    for nth in itertools.count(1):
        looks: Any = Looks(Crossed(Parts()), "key")
        waiters: list[Task[Any]] = []
        place = interrupted_at(nth, look, within)
        for other in (*waiters, Task(looks.look)):
            assert other.result(5) == ObjectStat(size=3), place
        if not place:
            break
    assert nth > 2


def test_an_answer_does_not_wait_for_the_next_look() -> None:
    """Who has made one look makes the next one at once, and that hangs."""
    held: list[Future[Any]] = [Future(), Future(), Future()]
    calls, found = Scripted(*held, ObjectStat(size=4)), []
    looks: Any = Looks(calls, "key")

    def twice() -> None:
        found.append(looks.look())
        looks.look()

    first = Task(looks.look)
    eventually(lambda: calls.begun == 1)
    others = [Task(twice) for _ in range(4)]
    eventually(lambda: waiting(looks) == 4)
    held[0].set_result(None)
    first.result()
    eventually(lambda: calls.begun == 2)
    held[1].set_result(ObjectStat(size=2))
    eventually(lambda: len(found) == 4 and calls.begun == 3)
    held[2].set_result(ObjectStat(size=3))
    for other in others:
        other.result()


def test_a_failed_look_fails_the_reads_that_share_it_and_no_later_one() -> None:
    held: Future[Any] = Future()
    refused = OSError(errno.ETIMEDOUT, "no answer")
    calls = Scripted(held, refused, ObjectStat(size=3))
    looks: Any = Looks(calls, "key")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(looks.look)
        eventually(lambda: calls.begun == 1)
        second = pool.submit(looks.look)
        eventually(lambda: waiting(looks) == 1)
        held.set_result(None)
        assert first.result() is None
        assert second.exception() is refused
    assert looks.look() == ObjectStat(size=3)


# ----------------------------------------------------------------------------------------------- sizes


def test_a_long_read_is_cut_by_the_cache_alone() -> None:
    """Each call is one range, and a read of the cache several calls of equal size. [2.6]"""
    content = bytes(range(256)) * (16 << 12)
    fs = Whole()
    backend: Any = FsspecBackend(fs, "bucket")
    fs.put("bucket/key", content)
    file = backend.open("key")
    fs.hooks.calls.clear()
    assert get(file, 100, 10 << 20) == content[100 : 100 + (10 << 20)]
    assert len([call for call in fs.hooks.calls if call[0] == "cat_file"]) == 1
    assert get(file, (16 << 20) - 5, 6 << 20) == content[-5:]
    with PageCache("512MiB") as cache, cache.attach(backend).open("key", "rb", read_ahead=0) as handle:
        assert handle.pread(64 << 10, 0) == content[: 64 << 10]  # now the line is known
        fs.hooks.calls.clear()
        assert handle.pread(10 << 20, 4 << 20) == content[4 << 20 : 14 << 20]
        assert len([call for call in fs.hooks.calls if call[0] == "cat_file"]) in (1, 2)
        assert handle.stats().read_bytes == (10 << 20) + (64 << 10)
