"""Looks at the version that reads share, and the calls of a read."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.fsspec.calls import Calls
from pagecache.backends.fsspec.looks import Looks
from pagecache.backends.protocol import ObjectStat
from pagecache.testing import Gate
from tests.file.rig import eventually, raises
from tests.fsspec_below.place import LARGE, OLD, Place, get
from tests.fsspec_below.stores import Parts, Whole

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


@pytest.fixture
def place() -> Place:
    place = Place(Parts(), "bucket")
    place.put("key", OLD)
    return place


def test_reads_that_end_while_a_look_runs_share_the_next_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine reads cost two looks."""
    file, joined = place.backend.open("key"), 0

    def wait(self: Future[Any], timeout: float | None = None) -> Any:
        nonlocal joined
        with lock:
            joined += 1
        return result(self, timeout)

    lock, result = threading.Lock(), Future.result
    monkeypatch.setattr(Future, "result", wait)
    with Gate() as gate, ThreadPoolExecutor(9) as pool:
        looks = held_looks(file, gate)
        first = pool.submit(get, file, 0, 4096)
        gate.wait_entered()
        others = [pool.submit(get, file, number * 4096, 4096) for number in range(1, 9)]
        eventually(lambda: joined == 8)  # one for the running look, seven for the next one
        gate.release()
        assert first.result() == OLD[:4096]
        assert [other.result() for other in others] == [OLD[n * 4096 : (n + 1) * 4096] for n in range(1, 9)]
    assert len(looks) == 2


@pytest.mark.parametrize("begins_before", [True, False])
def test_a_look_covers_no_read_that_ends_after_its_begin(place: Place, begins_before: bool) -> None:
    """Another client stores a version before or after the look of the first read; the second read finds it. [2.19]"""
    file = place.backend.open("key")
    with Gate() as gate, ThreadPoolExecutor(2) as pool:
        if begins_before:
            held_looks(file, gate)
            first = pool.submit(get, file, 0, 4096)
            gate.wait_entered()
            place.put("key", NEW)
            second = pool.submit(get, file, 4096, 4096)
            eventually(lambda: file._looks._next is not None or second.done())
            gate.release()
            assert first.result() == OLD[:4096]
        else:
            place.put("key", NEW)
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
    looks = Looks(calls, "key")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(looks.look)
        eventually(lambda: calls.begun == 1)
        others = [pool.submit(looks.look)]
        eventually(lambda: looks._next is not None)
        others.append(pool.submit(looks.look))
        held.set_result(ObjectStat(size=1))
        assert first.result() == ObjectStat(size=1)
        errors = [other.exception() for other in others]
    assert sorted(map(repr, errors)) == [repr(KeyboardInterrupt()), repr(None)]
    found = [other.result() for other, error in zip(others, errors, strict=True) if error is None]
    assert found == [ObjectStat(size=3)]


def test_a_failed_look_fails_the_reads_that_share_it_and_no_later_one() -> None:
    held: Future[Any] = Future()
    refused = OSError(errno.ETIMEDOUT, "no answer")
    calls = Scripted(held, refused, ObjectStat(size=3))
    looks = Looks(calls, "key")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(looks.look)
        eventually(lambda: calls.begun == 1)
        second = pool.submit(looks.look)
        eventually(lambda: looks._next is not None)
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
