"""Many cached objects: F4. Cost, hits and memory from 1,000 to 1,000,000 objects of 200 bytes.

The objects are sparse files on tmpfs, of about 1 KiB of kernel memory each; the cache holds a page of each. The cost of
one size predicts the next: sizes that would need half of the free memory, or a quarter of an hour, are skipped.
"""

import ctypes
import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pagecache import PageCache
from pagecache.bench.harness import Variant, shuffled
from pagecache.bench.subject import PAGE, made
from tests.bench.cases_files import side_by_side
from tests.bench.rows import Bench, Row, case, comparison_row, exact, timed

BYTES = 200
PER_FOLDER = 1000
LONGEST = 900.0
"""Seconds that one size may take to fill."""


def make_objects(folder: Path, first: int, last: int) -> None:
    """Make the sparse files [first, last)."""
    for number in range(first, last):
        if number % PER_FOLDER == 0 or number == first:
            (folder / str(number // PER_FOLDER)).mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / name_of(number), os.O_CREAT | os.O_WRONLY, 0o666)
        os.ftruncate(fd, BYTES)
        os.close(fd)


def name_of(number: int) -> str:
    return f"{number // PER_FOLDER}/{number}"


def resident() -> int:
    """Return the resident memory of this process, after free memory was returned."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        pass
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Return bytes that programs may take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024


class Filled:
    """A cache that holds `count` objects, each opened, read and closed once; and a second walk over them."""

    def __init__(self, folder: Path, count: int, stack: ExitStack) -> None:
        self.count = count
        self.keys = [name_of(number) for number in range(count)]
        self._cache = stack.enter_context(made(PageCache(count * PAGE * 5 // 4 + (64 << 20))))
        self._volume = self._cache.attach(f"dir:{folder}")
        before, start = resident(), time.perf_counter()
        self.walk(self.keys)
        self.seconds = (time.perf_counter() - start) / count
        self.resident = (resident() - before) / count
        stats = self._cache.stats()
        self.bytes = self.resident - stats.used / count
        self.counted = stats.to_dict()["metadata_bytes"] / count
        misses = stats.misses
        self.walk(self.keys)
        self.misses = self._cache.stats().misses - misses

    def walk(self, keys: Sequence[Any]) -> None:
        """Open, read and close objects."""
        volume = self._volume
        for key in keys:
            with volume.open(key, "rb") as file:
                file.pread(BYTES, 0)


def too_much(last: Filled, count: int) -> str:
    """Return the reason to skip a size, or ""."""
    memory, free = last.resident * count, free_memory() // 2
    if memory > free:
        return f"{count:,} objects need {memory / 2**30:.1f} GiB, and half of the free memory is {free / 2**30:.1f} GiB"
    seconds = 2 * last.seconds * count
    return f"{count:,} objects take {seconds:.0f} s" if seconds > LONGEST else ""


@case("many-objects", "open, read, close among 1,000 to 1,000,000 objects", ("F4/growth", "F4/misses", "F4/bytes"))
def many_objects(bench: Bench) -> Iterator[Row]:
    """F4."""
    most, folder = bench.settings.most_pages, bench.folder / "many"
    sizes = (most // 100, most // 10) if bench.settings.quick else (1_000, 100_000, 1_000_000)
    filled: list[Filled] = []
    skipped = ""
    with ExitStack() as stack:
        for count in sizes:
            skipped = too_much(filled[-1], count) if filled else ""
            if skipped:
                break
            make_objects(folder, filled[-1].count if filled else 0, count)
            filled.append(Filled(folder, count, stack))
        variants = [
            Variant(name=f"{each.count:,}", run=each.walk, items=[each.keys[n] for n in order])
            for each in filled
            for order in [shuffled(range(each.count), bench.rng)]
        ]
        seconds, rounds = 4 * bench.settings.seconds, bench.settings.rounds
        wall, cpu = side_by_side(bench, variants, seconds=seconds, rounds=rounds)
    names = [variant.name for variant in variants]
    last = filled[-1]
    until = f"{names[0]} → {names[-1]} objects" + (f"; {skipped}" if skipped else "")
    note = f"{until}; {cpu.times(names[-1], names[0]).median:.3g}× CPU"
    yield timed("many-objects", "F4/growth", wall, names[-1], names[0], note)
    for name in names[1:-1]:
        yield comparison_row("many-objects", f"open, read, close among {name} objects", names[0], wall, name, names[0])
    yield exact("many-objects", "F4/misses", last.misses, f"{last.count:,} objects")
    yield exact("many-objects", "F4/bytes", last.bytes, f"{last.count:,} objects; metadata_bytes {last.counted:.0f}")
