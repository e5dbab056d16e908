"""Looks at the version that reads share, and the sizes of reads."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.fsspec.calls import Calls
from pagecache.backends.fsspec.looks import Looks
from pagecache.backends.fsspec.pace import Pace
from pagecache.backends.objects.store import run
from pagecache.backends.protocol import ObjectStat
from pagecache.testing import Gate
from tests.file.rig import raises
from tests.fsspec_below.place import LARGE, OLD, Place, get
from tests.fsspec_below.stores import Parts, Whole

NEW = bytes(LARGE)


def held_looks(file: Any, gate: Gate) -> list[str]:
    """Hold the answer of the first look of a file from now on. Return the names that are looked at."""
    calls, looks, lock = file.inner._calls, [], threading.Lock()
    found = calls.found

    async def look(path: str) -> Any:
        answer = await found(path)
        with lock:
            looks.append(path)
            first = len(looks) == 1
        if first:
            gate.enter(20.0)
        return answer

    calls.found = look
    return looks


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def place() -> Place:
    place = Place(Parts(), "bucket")
    place.put("key", OLD)
    return place


def test_reads_that_end_while_a_look_runs_share_the_next_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine reads cost two looks."""
    file, joined = place.backend.open("key"), 0

    async def wait(self: Calls, end: Future[Any]) -> Any:
        nonlocal joined
        with lock:
            joined += 1
        return end.result()

    lock = threading.Lock()
    monkeypatch.setattr(Calls, "wait", wait)
    with Gate() as gate, ThreadPoolExecutor(9) as pool:
        looks = held_looks(file, gate)
        first = pool.submit(get, file, 0, 4096)
        gate.wait_entered()
        others = [pool.submit(get, file, number * 4096, 4096) for number in range(1, 9)]
        wait_until(lambda: joined == 8)  # one for the running look, seven for the next one
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
            wait_until(lambda: file.inner._looks._next is not None or second.done())
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

    async def found(self, path: str) -> ObjectStat | None:
        self.begun += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Future):
            answer = await self.wait(answer)
        if isinstance(answer, BaseException):
            raise answer
        found: ObjectStat | None = answer
        return found


def looked(looks: Looks) -> ObjectStat | None:
    return run(looks.look())


def test_an_interrupt_of_a_look_is_no_answer_for_the_others() -> None:
    """The thread that makes it gets Ctrl-C; those that wait make another one."""
    held: Future[Any] = Future()
    calls = Scripted(held, KeyboardInterrupt(), ObjectStat(size=3))
    looks = Looks(calls, "key")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(looked, looks)
        wait_until(lambda: calls.begun == 1)
        others = [pool.submit(looked, looks)]
        wait_until(lambda: looks._next is not None)
        others.append(pool.submit(looked, looks))
        held.set_result(ObjectStat(size=1))
        assert first.result() == ObjectStat(size=1)
        errors = [other.exception() for other in others]
    assert sorted(map(repr, errors)) in (
        [repr(KeyboardInterrupt()), repr(None)],
        [repr(KeyboardInterrupt()), repr(None)],
    )
    assert [other.result() for other, error in zip(others, errors, strict=True) if error is None] == [
        ObjectStat(size=3)
    ]


def test_a_failed_look_fails_the_reads_that_share_it_and_no_later_one() -> None:
    held: Future[Any] = Future()
    refused = OSError(errno.ETIMEDOUT, "no answer")
    calls = Scripted(held, refused, ObjectStat(size=3))
    looks = Looks(calls, "key")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(looked, looks)
        wait_until(lambda: calls.begun == 1)
        second = pool.submit(looked, looks)
        wait_until(lambda: looks._next is not None)
        held.set_result(None)
        assert first.result() is None
        assert second.exception() is refused
    assert looked(looks) == ObjectStat(size=3)


@pytest.mark.parametrize("begun", [True, False])
def test_a_cancelled_look_of_a_task_is_made_by_another_one(begun: bool) -> None:
    """It is cancelled while it runs, or while it waits for the running one."""

    class Awaited(Scripted):
        async def wait(self, end: Future[Any]) -> Any:
            return await asyncio.wrap_future(end)

    async def main() -> None:
        held: Future[Any] = Future()
        held.set_running_or_notify_cancel()
        calls = Awaited(held, ObjectStat(size=2), ObjectStat(size=2))
        looks = Looks(calls, "key")
        tasks = []
        for _ in range(3):
            tasks.append(asyncio.create_task(looks.look()))
            await asyncio.sleep(0)
        tasks[0 if begun else 1].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        held.set_result(ObjectStat(size=1))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers.pop(0 if begun else 1), asyncio.CancelledError)
        assert answers == ([ObjectStat(size=2)] * 2 if begun else [ObjectStat(size=1), ObjectStat(size=2)])

    asyncio.run(main())


# ----------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("latency", "rate", "step", "most"),
    [
        (0.001, 1e9, 1 << 23, 1 << 25),  # a line beside the machine
        (0.02, 1e9, 1 << 25, 1 << 25),
        (0.2, 1e9, 1 << 25, 1 << 25),
        (0.02, 1e7, 1_250_000, 5_000_000),
        (0.2, 1e6, 1 << 20, 1 << 20),  # a byte waits for a second at most
    ],
)
def test_reads_are_sized_by_latency_and_throughput(latency: float, rate: float, step: int, most: int) -> None:
    pace = Pace()
    for size in (1, 4096, 8 << 20, 8 << 20):
        pace.measured(size, latency + size / rate)
    found = pace.sizes(1 << 25)
    assert found[0] == pytest.approx(step, rel=0.1)
    assert found[1] == pytest.approx(most, rel=0.1)


def test_sizes_follow_a_line_that_changes() -> None:
    """From 1 to 200 ms and from 1 GB/s to 1 MB/s and back; twelve reads of each are enough."""
    pace = Pace()
    for latency, rate, least, most in (
        (0.001, 1e9, 7 << 20, 9 << 20),
        (0.2, 1e6, 1, 2 << 20),
        (0.02, 1e9, 16 << 20, 1 << 25),
    ):
        for _ in range(12):
            pace.measured(4096, latency)
            step = pace.sizes(1 << 25)[0]
            pace.measured(step, latency + step / rate)
        assert least <= pace.sizes(1 << 25)[0] <= most


def test_reads_that_share_a_line_do_not_shrink() -> None:
    """Each of four gets a quarter of the throughput. One that failed says nothing."""
    pace = Pace()
    pace.measured(4096, 0.02)
    for _ in range(20):
        beside = [pace.begin() for _ in range(4)]
        for running in beside:
            pace.end(8 << 20, 0.02 + 4 * (8 << 20) / 1e9, running)
        pace.end(0, 60.0, pace.begin())
    assert pace.sizes(1 << 25)[0] == 1 << 25


def test_a_long_read_beside_enough_others_is_one_call() -> None:
    """Calls that have ended count no longer. The parts of a read are of equal size."""
    pace = Pace()
    beside = []
    for calls in (4, 4, 4, 4, 4, 3, 2, 1, 1):
        size = pace.sizes(32 << 20)[0]
        assert size == -(-(32 << 20) // calls)
        beside.append(pace.begin())
    for running in beside:
        pace.end(0, 1.0, running)
    assert pace.sizes(32 << 20)[0] == 8 << 20
    assert pace.sizes((8 << 20) + 4096) == ((4 << 20) + 2048, (8 << 20) + 4096)
    assert pace.sizes(5 << 20) == (5 << 20, 5 << 20)


def test_a_long_read_is_several_ranges_side_by_side() -> None:
    """Each has its place, whatever the order in which they end; a range that is cut short ends the answer there."""
    content = bytes(range(256)) * (16 << 12)
    fs = Whole()
    backend: Any = FsspecBackend(fs, "bucket")
    fs.put("bucket/key", content)
    file = backend.open("key")
    fs.hooks.calls.clear()
    assert get(file, 100, 10 << 20) == content[100 : 100 + (10 << 20)]
    assert len([call for call in fs.hooks.calls if call[0] == "cat_file"]) == 2
    assert get(file, (16 << 20) - 5, 6 << 20) == content[-5:]


def test_a_file_is_read_in_few_calls_and_each_byte_once() -> None:
    """[2.6]"""
    content = bytes(range(256)) * (64 << 12)
    fs = Whole()
    fs.put("bucket/key", content)
    with PageCache("512MiB") as cache, cache.attach(FsspecBackend(fs, "bucket")).open("key", "rb") as file:
        for offset in range(0, len(content), 1 << 20):
            assert file.pread(1 << 20, offset) == content[offset : offset + (1 << 20)]
        assert file.stats().read_bytes == len(content)


@pytest.mark.parametrize("looked", [True, False])
def test_reads_of_a_program_without_small_reads_are_sized_too(looked: bool) -> None:
    """The looks of opens and of reads give the latency; a footer of 68 KiB says nothing of the line."""
    pace = Pace()
    if looked:
        pace.measured(0, 0.02)
    pace.measured(69_452, 0.024)
    assert pace.sizes(1 << 25) == (8 << 20, 1 << 25)
    pace.measured(4 << 20, 0.02 + (4 << 20) / 2e8)
    assert pace.sizes(1 << 25)[0] == pytest.approx(1 << (24 if looked else 23), rel=0.2)


def test_a_look_measures_the_latency(place: Place) -> None:
    calls = Calls(place.fs)
    assert run(calls.stat("bucket/key")).size == len(OLD)
    calls.pace.measured(8 << 20, 3600.0)  # a line of no bytes a second
    assert calls.pace.sizes(1 << 25)[0] == 1 << 20
