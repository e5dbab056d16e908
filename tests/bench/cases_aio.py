"""The effect of the cache on an event loop: P28, P29.

P28 awaits hits on one loop, beside a coroutine that does nothing: the difference is the cost of the cache's await. P29
watches a loop with a thousand tasks while a thread copies 2 MiB pieces, through the cache or from one buffer into
another, in turn; the result is the longest time between two steps of the loop.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

from pagecache.aio import AsyncCachedFile
from pagecache.bench.harness import Comparison, Variant, shuffled
from pagecache.bench.plain import MIB
from pagecache.bench.subject import PAGE
from tests.bench.rows import Bench, Row, case, exact, timed

TASKS = 1000
PIECE = 2 * MIB


async def _constant(_size: int, _offset: int) -> bytes:
    return b""


@case("await", "awaiting a 4 KiB hit, against a coroutine that returns a constant", ("P28",))
def awaited_hits(bench: Bench) -> Iterator[Row]:
    """P28: one task, random order; a row in microseconds, because a ratio to nothing says nothing."""
    subject = bench.subject(64 * 1024)
    file = AsyncCachedFile(subject.file)
    loop = asyncio.new_event_loop()

    async def hits(offsets: Sequence[int]) -> None:
        for offset in offsets:
            await file.pread(PAGE, offset)

    async def constants(offsets: Sequence[int]) -> None:
        for offset in offsets:
            await _constant(PAGE, offset)

    offsets = bench.random_offsets(PAGE)
    try:
        result = bench.compare(
            [
                Variant(name="hit", run=lambda some: loop.run_until_complete(hits(some)), items=offsets),
                Variant(
                    name="constant",
                    run=lambda some: loop.run_until_complete(constants(some)),
                    items=shuffled(offsets, bench.rng),
                ),
            ]
        )
    finally:
        loop.close()
    more = [hit - constant for hit, constant in zip(result.rounds["hit"], result.rounds["constant"], strict=True)]
    nanoseconds = result.seconds("hit") * 1e9
    yield replace(exact("await", "P28", median(more) * 1e6), low=min(more) * 1e6, nanoseconds=nanoseconds)


def _longest_gap(seconds: float, copy: Callable[[], None]) -> float:
    """Seconds between two steps of a loop of a thousand tasks, while a thread copies; the longest."""
    over = threading.Event()

    def copying() -> None:
        while not over.is_set():
            copy()

    async def watched() -> float:
        last, longest = time.perf_counter(), 0.0
        end = last + seconds

        async def stepping() -> None:
            nonlocal last, longest
            while last < end:
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
                await asyncio.sleep(0)

        await asyncio.gather(*(stepping() for _ in range(TASKS)))
        return longest

    thread = threading.Thread(target=copying, daemon=True)
    thread.start()
    try:
        return asyncio.run(watched())
    finally:
        over.set()
        thread.join()


@case("loop-block", "a loop with 1,000 tasks beside a thread that copies 2 MiB pieces", ("P29",))
def blocked_loop(bench: Bench) -> Iterator[Row]:
    """P29: cells of a quarter of a second, in turn."""
    subject = bench.subject(64 * 1024)
    buffer, source = bytearray(PIECE), memoryview(bytes(PIECE))
    at = 0

    def through_the_cache() -> None:
        nonlocal at
        subject.file.pread_into(buffer, at)
        at = (at + PIECE) % (bench.settings.size - PIECE + 1)

    def by_memcpy() -> None:
        buffer[:] = source

    copies = {"cache": through_the_cache, "memcpy": by_memcpy}
    rounds: dict[str, list[float]] = {name: [] for name in copies}
    for _ in range(max(3, bench.settings.rounds // 3)):
        for name in bench.rng.sample([*copies], len(copies)):
            rounds[name].append(_longest_gap(bench.settings.cell_seconds, copies[name]))
    yield timed("loop-block", "P29", Comparison(rounds), "cache", "memcpy")
