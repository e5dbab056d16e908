"""Memory: throttled writers, full caches, resizing, the cost of a cache; what a closed cache keeps, and until when."""

from __future__ import annotations

import errno
import gc
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, VolumeOptions
from pagecache.backends import DirectoryBackend, MemoryBackend

from .rig import KEY, PAGE, QUIET, Make, Patch, Task, accepted_before, pattern, raises, run_program

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
    assert rig.saved(file) == bytes(accepted)


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
    assert rig.saved(file) == bytes(content)


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


def test_shrinking_gives_memory_back_at_once(tmp_path: Path) -> None:
    """The process shrinks by clean and by dirty pages. [T-57]"""
    with PageCache("96MiB", **QUIET) as cache:
        file = cache.attach(DirectoryBackend(tmp_path), read_ahead=0).open(KEY, "w+b")
        file.pwrite(bytes(32 * MIB), 0)
        file.fsync()
        file.pwrite(bytes(32 * MIB), 40 * MIB)
        gc.collect()
        before = rss()
        cache.resize("1MiB", timeout=30)
        assert before - rss() >= 48 * MIB
        assert cache.stats().used <= MIB
        file.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pages", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_pages_cost_what_is_documented(tmp_path: Path, pages: int) -> None:
    """The whole process: capacity, 2.3 % for the index and descriptors, and a fixed 64 MiB. [T-58]"""
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < pages * PAGE * 3 // 2:
        pytest.skip(f"no memory for {pages} pages")
    gc.collect()
    before = rss()
    with PageCache(pages * PAGE, max_folio=PAGE, **QUIET) as cache:
        file = cache.attach(DirectoryBackend(tmp_path), read_ahead=0).open(KEY, "w+b")
        file.truncate(pages * 3 * PAGE)  # a hole
        page = bytes(PAGE)
        for index in range(pages):
            file.pwrite(page, index * 3 * PAGE) if index % 2 else file.pread(PAGE, index * 3 * PAGE)
        assert cache.stats().folios >= pages * 0.99
        assert rss() - before <= pages * PAGE * 1.023 + 64 * MIB
        cache.check()
        file.abandon()


DATA = pattern(20 * PAGE)
CAPACITY = 8 << 30
SMALL = CAPACITY // 4  # allowance for stacks, and for the allocator, of threads that begin or end beside a test


def address_space() -> int:
    """Bytes that are mapped in this process, with or without memory behind them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE


def limited(folder: Path, monkeypatch: Patch, code: str) -> None:
    """Run a program with a GiB of address space."""
    head = """
        import gc, resource, threading
        from pagecache import PageCache
        from pagecache.backends import MemoryBackend
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        """
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # not 64 MiB for each thread
    done = run_program(folder, textwrap.dedent(head) + textwrap.dedent(code))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_cache_fits_into_little_address_space(tmp_path: Path, monkeypatch: Patch) -> None:
    """The reserve shrinks as a whole, tables included; growth beyond it is refused, and no data is lost. [1.4]"""
    program = """
        with PageCache("256MiB") as cache, cache.attach(MemoryBackend()).open("file", "w+") as file:
            file.write(b"x" * (100 << 20))
            assert file.pread(5, 99 << 20) == b"xxxxx"
            try:
                cache.resize("8GiB")
            except OSError as error:
                assert "capacity" in str(error)
            else:
                raise AssertionError("there is no such room")
        """
    limited(tmp_path, monkeypatch, program)


def test_unreachable_caches_are_collected_before_one_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    """Closed, unreachable and uncollected: a full address space is a reason to collect. [1.4]"""
    program = """
        gc.disable()
        threading.stack_size(256 << 10)
        for number in range(20):
            cache = PageCache("128MiB")
            file = cache.attach(MemoryBackend()).open("file", "w+")
            file.write(b"x" * 4096)
            cache.pinned = file.view(0, 1)  # a cycle that keeps the memory
            cache.close()
        """
    limited(tmp_path, monkeypatch, program)


def test_a_view_keeps_the_memory_of_a_closed_cache_until_it_is_released(make: Make) -> None:
    """The reserve goes at once, the frames with the last slice. [T-47, 1.4, 2.21]"""
    before = address_space()
    rig = make({KEY: DATA}, capacity=CAPACITY)
    view = rig.open("rb").view(0, 10 * PAGE)
    kept = view.segments[0][5:500]
    rig.cache.close()
    assert CAPACITY - SMALL <= address_space() - before < CAPACITY + SMALL
    view.release()
    assert kept == DATA[5:500]
    assert address_space() - before >= CAPACITY - SMALL
    kept.release()
    del kept, view
    gc.collect()
    assert address_space() - before < SMALL


def test_answers_of_a_closed_cache(make: Make) -> None:
    """Objects outlive their cache and say so; none of them reads unmapped memory. [2.1]"""
    rig, file = make({KEY: DATA}).written(b"x", 0)
    ticket = rig.volume.begin_sync()
    rig.cache.close()
    assert rig.cache.stats().used == rig.volume.stats().used == 0
    rig.cache.check()
    assert rig.volume.failed() == []
    assert rig.volume.dirty_ranges(KEY) == []
    assert ticket.remaining == 0
    refused: list[Callable[[], Any]] = [
        lambda: file.pread(1, 0),
        lambda: file.pwrite(b"x", 0),
        lambda: file.view(0, 1),
        lambda: file.prefetch(wait=True),
        lambda: rig.volume.drop_clean(),
        lambda: rig.volume.invalidate(),
        lambda: rig.cache.resize("1GiB"),
    ]
    for call in refused:
        raises((OSError, ValueError), call)
    file.close()
