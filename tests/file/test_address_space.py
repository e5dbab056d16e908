"""Memory and address space of a closed cache: which parts it keeps, and until when."""

from __future__ import annotations

import gc
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .rig import KEY, PAGE, Make, Patch, pattern, raises, run_program

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
    rig, file = make({KEY: DATA}).opened("r+b")
    file.pwrite(b"x", 0)
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
