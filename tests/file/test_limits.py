"""Memory: throttled writers, full caches, resizing, and the cost of a cache."""

from __future__ import annotations

import errno
import gc
import os
from typing import Any

import pytest

from pagecache import ObjectStat, PageCache, VolumeOptions
from pagecache.backends import MemoryBackend

from ..stores import RecordingBackend
from .rig import KEY, PAGE, QUIET, Make, Task, accepted_before, eventually, pattern, raises

KIB, MIB = 1 << 10, 1 << 20


def rss() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_failure_wakes_throttled_writers(make: Make) -> None:
    """They get the error of the failed data instead of waiting forever. [2.24, 2.16]"""
    rig = make({KEY: b""}, capacity="256KiB", dirty_background="32KiB", dirty_limit="64KiB", failed_limit=0.3)
    file = rig.open("r+b")
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=float("inf"))
    caught = raises(OSError, lambda: Task(file.pwrite, bytes(512 * KIB), 0).result())
    assert caught.errno == errno.ENOSPC
    accepted = accepted_before(caught)
    assert file.size == accepted
    rig.backend.clear_faults()
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(accepted)


@pytest.mark.parametrize("pages", [16, 48])
def test_a_cache_of_less_than_a_write_unit_completes_and_sends_units(make: Make, pages: int) -> None:
    """A unit is completed in memory of the request: nothing waits for memory that it takes itself. [2.12]"""
    content = bytearray(pattern(200 * PAGE))
    limits = {"write_unit": 32 * PAGE, "max_read": 32 * PAGE, "max_write": 32 * PAGE}
    rig = make({KEY: bytes(content)}, capacity=pages * PAGE, limits=limits, dirty_background=0.1, dirty_limit=0.5)
    file = rig.open("r+b")
    for n in range(60):
        at, data = (n * 7919 * 613) % (200 * PAGE - 9000), bytes([n]) * (1 + n * 31 % 9000)
        Task(file.pwrite, data, at).result()
        content[at : at + len(data)] = data
    assert file.pread(len(content), 0) == content
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(content)


def test_a_backend_with_latency_says_how_far_to_read_ahead_unless_it_was_asked_for(make: Make) -> None:
    cache = make({KEY: b""}).cache
    windows: list[tuple[dict[str, Any], int]] = [
        ({}, 8 * MIB),
        ({"read_ahead": "2MiB"}, 2 * MIB),
        ({"read_ahead": 0}, 0),
        ({"options": VolumeOptions()}, MIB),
    ]
    for wanted, expected in windows:
        assert cache.attach(MemoryBackend(read_ahead="8MiB"), **wanted).options.read_ahead == expected
    assert cache.attach(MemoryBackend()).options.read_ahead == MIB


def test_shrinking_loses_nothing_and_growing_makes_room(make: Make) -> None:
    """Dirty data is written back and committed first. `capacity` follows, and more stays cached. [T-57]"""
    rig, file = make({KEY: b""}, capacity="16MiB").opened("r+b")
    data = pattern(8 * MIB)
    file.pwrite(data, 0)
    rig.cache.resize("1MiB", timeout=30)
    assert rig.cache.capacity == MIB
    assert rig.cache.stats().used <= MIB
    assert rig.backend.committed(KEY) == data
    assert file.pread(MIB, 5 * MIB - 5) == data[5 * MIB - 5 : 6 * MIB - 5]
    rig.cache.resize("2MiB")
    assert rig.cache.capacity == 2 * MIB
    file.pread(200 * PAGE, 0)
    rig.backend.forget_calls()
    assert file.pread(200 * PAGE, 0) == data[: 200 * PAGE]
    assert rig.backend.seen("read_into") == []


def test_shrinking_gives_memory_back_at_once() -> None:
    """The process shrinks by clean and by dirty pages. [T-57]"""
    with PageCache("96MiB", **QUIET) as cache:
        file = cache.attach(ZerosBackend(durable_writes=True), read_ahead=0).open("endless", "r+b")
        file.pwrite(bytes(32 * MIB), 0)
        file.fsync()
        file.pwrite(bytes(32 * MIB), 40 * MIB)
        gc.collect()
        before = rss()
        cache.resize("1MiB", timeout=30)
        assert before - rss() >= 48 * MIB
        assert cache.stats().used <= MIB
        file.close()


def test_shrinking_below_what_is_pinned_is_refused(make: Make) -> None:
    """BlockingIOError; the capacity and the pinned bytes stay. [T-57]"""
    rig, file = make({KEY: pattern(64 * PAGE)}, capacity="1MiB").opened("rb")
    with file.view(0, 40 * PAGE) as view:
        raises(BlockingIOError, rig.cache.resize, "64KiB", timeout=5)
        assert view.tobytes() == pattern(40 * PAGE)
        assert file.pread(64 * PAGE, 0) == pattern(64 * PAGE)
    rig.cache.resize("64KiB", timeout=5)
    assert rig.cache.capacity == 64 * KIB


def test_shrinking_with_unsavable_data_loses_nothing(make: Make) -> None:
    """An OSError, and everything is still there. [T-57]"""
    rig, file = make({KEY: b""}, capacity="1MiB").opened("r+b")
    file.pwrite(pattern(64 * PAGE), 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=float("inf"))
    raises(OSError, rig.cache.resize, "64KiB", timeout=5)
    assert file.pread(64 * PAGE, 0) == pattern(64 * PAGE)
    rig.backend.clear_faults()
    file.fsync()
    assert rig.backend.committed(KEY) == pattern(64 * PAGE)


@pytest.mark.parametrize("capacity", ["10KiB", "63KiB", "much", -5])
def test_a_nonsense_new_capacity_is_refused(make: Make, capacity: str | int) -> None:
    """ValueError, the old one stays. [T-59]"""
    rig = make(capacity="1MiB")
    raises(ValueError, rig.cache.resize, capacity)
    assert rig.cache.capacity == MIB


def test_nothing_stays_behind_after_many_caches() -> None:
    """Closed caches return their memory and threads. [I-27]"""

    def one() -> None:
        with PageCache("16MiB") as cache, cache.attach("memory:").open("f", "w+b") as file:
            file.pwrite(bytes(8 * MIB), 0)

    one()
    gc.collect()
    before, threads = rss(), len(os.listdir("/proc/self/task"))
    for _ in range(20):
        one()
    gc.collect()
    assert rss() - before < 32 * MIB
    eventually(lambda: len(os.listdir("/proc/self/task")) <= threads)


class Zeros:
    """An endless object that costs nothing."""

    def stat(self) -> ObjectStat:
        return ObjectStat(size=1 << 40, version="1")

    def read_into(self, offset: int, buffers: list[memoryview]) -> int:
        return sum(len(buffer) for buffer in buffers)

    def write_from(self, offset: int, buffers: list[memoryview]) -> int:
        return sum(len(buffer) for buffer in buffers)

    def truncate(self, size: int) -> None:
        pass

    def commit(self) -> str | None:
        return "1"


class ZerosBackend(RecordingBackend):
    """A backend of endless objects."""

    def open(self, key: object, *, create: bool = False, exclusive: bool = False) -> Zeros:  # type: ignore[override]
        return Zeros()

    def stat(self, key: object) -> ObjectStat:
        return ObjectStat(size=1 << 40, version="1")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pages", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_pages_cost_what_is_documented(pages: int) -> None:
    """The whole process: capacity, 2.3 % for the index and descriptors, and a fixed 64 MiB. [T-58]"""
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < pages * PAGE * 3 // 2:
        pytest.skip(f"no memory for {pages} pages")
    gc.collect()
    before = rss()
    with PageCache(pages * PAGE, max_folio=PAGE, **QUIET) as cache:
        volume = cache.attach(ZerosBackend(durable_writes=True), read_ahead=0)
        with volume.open("endless", "r+b") as file:
            page = bytes(PAGE)
            for index in range(pages):
                file.pwrite(page, index * 3 * PAGE) if index % 2 else file.pread(PAGE, index * 3 * PAGE)
            assert cache.stats().folios >= pages * 0.99
            assert rss() - before <= pages * PAGE * 1.023 + 64 * MIB
            cache.check()
            file.fsync()
