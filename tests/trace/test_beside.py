"""A trace beside everything at once, and its cost."""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import threading
from pathlib import Path

import pytest

import pagecache
from pagecache import PageCache, RetryPolicy, Volume
from pagecache.backends import MemoryBackend
from pagecache.native.recording import Recorder
from pagecache.testing import FaultyBackend

from .reading import TraceFile

THREADS, TASKS, EACH = 8, 4, 60
QUICK = RetryPolicy(attempts=50, first_delay=0.001, max_delay=0.005, deadline=None)


def write_and_sync(volume: Volume, seed: int) -> None:
    """Overlapping writes to two shared files, and syncs of them."""
    rng = random.Random(seed)
    with volume.open(f"file {seed % 2}", "r+") as file:
        for k in range(EACH):
            file.pwrite(bytes([seed]) * rng.randrange(1, 9000), rng.randrange(60_000))
            file.pread(100, rng.randrange(60_000))
            if k % 20 == 19:
                file.fsync(timeout=60)


async def write_as_tasks(volume: Volume) -> None:
    async def one(seed: int) -> None:
        rng = random.Random(seed)
        async with pagecache.aio.open(volume, f"file {seed % 2}", "r+") as file:
            for _ in range(EACH):
                await file.pwrite(bytes([seed]) * rng.randrange(1, 9000), rng.randrange(60_000))
                await file.pread(100, rng.randrange(60_000))
            await file.fsync(timeout=60)

    await asyncio.gather(*(one(100 + k) for k in range(TASKS)))


@pytest.mark.timeout(180)
def test_threads_tasks_and_faults_are_traced_without_a_wrong_arrow(tmp_path: Path) -> None:
    """8 threads, tasks of a loop, a backend that fails and answers short, a cache that is too small. Every arrow is the
    path of a byte: within one file, forward in time, through a request whose range meets the write's.
    """
    path = tmp_path / "trace.json"
    backend = FaultyBackend(MemoryBackend(), "flaky", seed=7)
    with PageCache("256KiB", max_folio="16KiB", retry=QUICK) as cache:
        volume = cache.attach(backend)
        for k in range(2):
            with volume.open(f"file {k}", "w+") as file:
                file.pwrite(b"0" * 70_000, 0)
        with cache.trace(path, records=1 << 17) as trace:
            threads = [threading.Thread(target=write_and_sync, args=(volume, k)) for k in range(THREADS)]
            threads.append(threading.Thread(target=lambda: asyncio.run(write_as_tasks(volume))))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            assert not any(thread.is_alive() for thread in threads)
            volume.sync(60)
        cache.check()
        backend.use([])
    found = TraceFile(path)
    assert found.faults == []
    assert trace.dropped == 0
    writes = found.named("pwrite")
    assert len(writes) == (THREADS + TASKS) * EACH
    carried = 0
    for write in writes:
        for way in write.following:
            assert all(one.args["file"] == write.args["file"] for one in way)
            assert [one.end for one in way[1:]] == sorted(one.end for one in way[1:])
            for call in way[1:]:
                if call.name == "write_from":
                    request = found.requests[call.args["request"]]
                    assert request["offset"] < write.args["offset"] + write.args["length"]
                    assert write.args["offset"] < request["offset"] + request["length"]
            if way[-1].name == "commit":
                carried += 1
                assert not way[-1].args.get("failed")
    assert carried > len(writes) / 4  # the others were overwritten before they were written back, or committed


def blocks_of(count: int, call: object) -> int:
    """The number of memory blocks that Python has gained after that many calls."""
    assert callable(call)
    call()
    before = sys.getallocatedblocks()
    for _ in range(count):
        call()
    return sys.getallocatedblocks() - before


def test_a_traced_hit_allocates_nothing_and_waits_for_no_lock(tmp_path: Path) -> None:
    """The test counts blocks of Python's memory, and the lock waits of the cache."""
    with PageCache("1MiB") as cache, cache.attach("memory:").open("key", "w+") as file:
        file.pwrite(b"x" * 4096, 0)
        buffer = bytearray(4096)
        with cache.trace(tmp_path / "trace.json"):
            waits = cache.stats().lock_waits
            assert blocks_of(5000, lambda: file.pread_into(buffer, 0)) < 50
            assert cache.stats().lock_waits == waits


def test_no_record_is_made_and_no_memory_taken_while_no_trace_runs(tmp_path: Path) -> None:
    """The counts are exact: record numbers go on where the trace before has ended; and its memory is freed."""
    with PageCache("1MiB") as cache, cache.attach("memory:").open("key", "w+") as file:
        recorder: Recorder = cache.native.recorder

        def traced() -> tuple[int, int]:
            assert recorder.start(1 << 18)
            for _ in range(200_000):
                file.pread(1, 0)
            _, first, end, _ = recorder.stop()
            recorder.free()
            return first, end

        file.pwrite(b"x", 0)
        _, end = traced()
        small = resident()
        file.pread(1, 0)
        file.fsync()
        first, _ = traced()
        assert first == end
        assert resident() - small < 4 << 20  # of 14 MiB that were recorded


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
