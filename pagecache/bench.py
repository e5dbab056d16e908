"""`pagecache bench`: the cost of hits, misses, write-back and small files, beside plain files in one run.

    round 1   B  A  C        every way runs one slice of some milliseconds, in an order shuffled per round
    round 2   A  C  B        time per item of each slice
    ...                      ratio of a round = time per item of one way / time per item of another, same round
    result                   median of the ratios, the worst round, and the spread of the median

The clock, the speed of the processor and the memory change from second to second; two slices of one round see much the
same machine, so only ratios within a round are valid. A way walks its items (offsets, keys) in its own order, each once
per cycle, so that no way warms the processor's cache for another.

The *spread* of a median is half the width of the distribution-free 95 % interval (order statistics of the rounds),
relative to the median. An A/A comparison, one job under two names, shows which difference is noise on this machine.
"""

import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice, repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pagecache import CachedFile, PageCache, Volume
from pagecache.backends import DirectoryBackend

MIB, PAGE, FOLIO = 1 << 20, 4096, 64 << 10
BLOCK = bytes(range(256)) * 4096  # 1 MiB, the content of every object
SMALL, EDIT = BLOCK[:8192], BLOCK[:50]  # a small file, and what an edit lays over it

Run = Callable[[Sequence[Any]], object]


# -- rounds


@dataclass(slots=True, kw_only=True)
class Way:
    """One way to do the job."""

    name: str  # unique within a comparison
    run: Run  # does the job once for each item; only this is timed
    items: Sequence[Any]  # offsets or keys, walked in order and from the start again
    after: Run = lambda items: None  # runs untimed after each slice, also when the slice failed
    most: int = 4_000_000  # items of one slice
    walk: Iterator[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.walk = cycle(self.items)

    def slice(self, count: int, clock: Callable[[], float]) -> float:
        """Run one slice and return its seconds."""
        items = list(islice(self.walk, count))
        try:
            start = clock()
            self.run(items)
            return clock() - start
        finally:
            self.after(items)

    def calibrated(self, seconds: float, clock: Callable[[], float]) -> int:
        """Return the number of items that make a slice of at least `seconds`."""
        count = 1
        while (took := self.slice(count, clock)) < seconds and count < self.most:
            # Eightfold at most per step: a first slice on a cold path does not predict the next.
            count = min(self.most, math.ceil(count * (8.0 if took <= 0 else min(8.0, max(1.3, 1.1 * seconds / took)))))
        return count


class Comparison(dict[str, list[float]]):
    """Seconds per item of each way, one number per round."""

    def times(self, name: str, against: str) -> tuple[float, float, float]:
        """Return how many times as long `name` takes as `against`: median, largest round, relative spread."""
        return summary([own / other for own, other in zip(self[name], self[against], strict=True)], max)

    def speed(self, name: str, against: str) -> tuple[float, float, float]:
        """Return how many times as fast `name` is as `against`: median, smallest round, relative spread."""
        return summary([other / own for own, other in zip(self[name], self[against], strict=True)], min)


def summary(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> tuple[float, float, float]:
    """Return the median of all rounds, the worst, and the relative half width of the median's 95 % interval."""
    ordered = sorted(values)
    middle, n = median(ordered), len(ordered)
    # Ranks of the 95 % interval of a median (binomial, normal approximation); of few rounds, the first and the last.
    low = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return middle, worst(values), (ordered[n - 1 - low] - ordered[low]) / 2 / middle if middle else 0.0


# -- the results and the surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The amount of measuring."""

    rounds: int = 31
    seconds: float = 0.003  # least length of a slice
    size: int = 256 * MIB  # bytes of the working set; at least eight times the processor's last cache
    seed: int = 1  # of every order


QUICK = Settings(rounds=11, size=64 * MIB)


class Row(NamedTuple):
    """One line of the result: the median of a ratio, its worst round and its relative spread."""

    key: str  # `P1/64K`
    metric: str
    against: str
    value: float
    unit: str
    worst: float
    spread: float
    nanoseconds: float  # of an item: for information

    def cells(self) -> dict[str, str]:
        """Return the row as the cells of a table, by column."""
        cells = {"id": self.key, "metric": self.metric, "against": self.against}
        cells |= {"median": f"{self.value:.3g} {self.unit}", "worst": f"{self.worst:.3g}"}
        return cells | {"spread": f"±{100 * self.spread:.0f} %", "time": f"{self.nanoseconds / 1000:.3g} µs"}


def row(found: Comparison, name: str, base: str, key: str, metric: str, against: str, unit: str = "× speed") -> Row:
    """Return a row with the speed, or with unit `× time` the time, of `name` relative to `base`."""
    value, worst, spread = found.times(name, base) if unit == "× time" else found.speed(name, base)
    return Row(key, metric, against, value, unit, worst, spread, median(found[name]) * 1e9)


@dataclass(slots=True)
class Bench:
    """The surroundings of one run: settings, a folder on tmpfs, and caches that several cases share."""

    settings: Settings
    folder: Path
    rng: random.Random
    stack: ExitStack
    cached: dict[int, CachedFile] = field(default_factory=dict)

    def file(self, folio: int) -> CachedFile:
        """Return a file that is wholly in a cache of folios of `folio` bytes.

        It is touched in random order, one folio at a time, so that frames that follow each other in memory belong to
        offsets far apart, as in a cache that was in use for a while: an unaged arena flatters small folios up to 2.3×.
        The capacity is twice the file: overwrites make all of it dirty, and nothing is evicted.
        """
        if folio not in self.cached:
            volume = self.cache(2 * self.settings.size, folio).attach(DirectoryBackend(self.folder), read_ahead=0)
            file = self.cached[folio] = self.stack.enter_context(volume.open(self.plain(f"cached-{folio}").name, "r+b"))
            for offset in self.offsets(folio):
                file.pread(folio, offset)
            for offset in range(0, self.settings.size, MIB):
                file.pread(MIB, offset)
        return self.cached[folio]

    def cache(self, capacity: int, folio: int) -> PageCache:
        """Return a cache that writes nothing back by itself."""
        limits: dict[str, Any] = {"dirty_background": 0.90, "dirty_limit": 0.95}
        limits |= {"dirty_expire": 3600.0, "flush_interval": 600.0}
        cache = PageCache(capacity, max_folio=folio, **limits)
        self.stack.callback(cache.close, on_failed="discard")
        return cache

    def plain(self, name: str = "file") -> Path:
        """Return the path of a plain file of the size of the working set, on tmpfs."""
        path = self.folder / name
        if not path.exists():
            with open(path, "wb") as file:
                for offset in range(0, self.settings.size, MIB):
                    file.write(BLOCK[: min(MIB, self.settings.size - offset)])
        return path

    def descriptor(self, name: str = "file") -> int:
        """Return a new descriptor of such a file."""
        fd = os.open(self.plain(name), os.O_RDWR)
        self.stack.callback(os.close, fd)
        return fd

    def offsets(self, size: int = PAGE, times: int = 1) -> list[int]:
        """Return all offsets that are multiples of `size`, in a new random order.

        Adding and subtracting makes new integers, one after another in memory: in a list that was only shuffled each
        costs a miss of the processor's cache.
        """
        order = [*range(0, self.settings.size - size + 1, size)] * times
        self.rng.shuffle(order)
        return [offset + 1 - 1 for offset in order]

    def way(self, name: str, run: Run) -> Way:
        """Return a way that does a job at random offsets of pages."""
        return Way(name=name, run=run, items=self.offsets())

    def compare(
        self,
        *ways: Way,
        rounds: int | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.thread_time,  # of the wall with threads or sleeping backends
    ) -> Comparison:
        """Measure warm ways with different names side by side."""
        result = Comparison({way.name: [] for way in ways})
        # Processor time: on a busy machine a slice by the clock on the wall would be a few items.
        calibrating = time.process_time if clock is time.perf_counter else clock
        counts = {way.name: way.calibrated(seconds or self.settings.seconds, calibrating) for way in ways}
        order = list(ways)
        for _ in range(rounds or self.settings.rounds):
            self.rng.shuffle(order)
            for way in order:
                # A clock that did not move would make the ratio infinite: count a nanosecond at least.
                result[way.name].append(max(way.slice(counts[way.name], clock), 1e-9) / counts[way.name])
        return result


# -- cases


def each(call: Callable[..., object], *before: Any) -> Run:
    """Return a job that calls with these arguments and each item, `os.pread(fd, size, offset)`, by a loop in C."""
    fixed = [repeat(argument) for argument in before]
    return lambda items: deque(map(call, *fixed, items), maxlen=0)


def hits(bench: Bench, key: str, job: str, verb: str, first: Any) -> Iterator[Row]:
    """P1, P5: random hits and overwrites of 4 KiB, with large and small folios; nothing is written back in a slice."""
    files = {"64K": bench.file(FOLIO), "4K": bench.file(PAGE)}
    ways = [bench.way(name, each(getattr(file, verb), first)) for name, file in files.items()]
    found = bench.compare(*ways, bench.way("call", each(getattr(os, verb), bench.descriptor(), first)))
    for name, file in files.items():
        yield row(found, name, "call", f"{key}/{name}", f"4 KiB random {job}, {name} folios", f"os.{verb}")
        file.fsync()


def misses(bench: Bench) -> Iterator[Row]:
    """P14: no readahead, a file sixteen times the cache, each page once per cycle.

    The opponent calls the same backend from Python with a buffer of its own, as a program without a cache does.
    """
    backend, key = DirectoryBackend(bench.folder), bench.plain().name
    with closing(backend.open(key)) as direct, PageCache(bench.settings.size // 16, max_folio=PAGE) as cache:

        def call(offsets: Sequence[int]) -> None:
            read_into = direct.read_into
            for offset in offsets:
                read_into(offset, (memoryview(bytearray(PAGE)),))

        miss = each(cache.attach(backend, read_ahead=0).open(key, "rb").pread, PAGE)
        miss(bench.offsets()[: bench.settings.size // 8 // PAGE])
        found = bench.compare(bench.way("miss", miss), bench.way("direct", call))
    metric, against = "4 KiB random miss, dir: on tmpfs", "the backend called directly"
    yield row(found, "miss", "direct", "P14/dir", metric, against, "× time")


def write_back(bench: Bench) -> Iterator[Row]:
    """P17: every page of the working set four times, in random order, then fsync."""
    volume = bench.cache(2 * bench.settings.size, PAGE).attach(DirectoryBackend(bench.folder), read_ahead=0)
    file = bench.stack.enter_context(volume.open(bench.plain("saved").name, "r+b"))
    fd, data, offsets = bench.descriptor("plain"), BLOCK[:PAGE], bench.offsets(times=4)

    def way(name: str, write: Run, fsync: Callable[[], object]) -> Way:
        return Way(name=name, run=lambda _: (write(offsets), fsync()), items=[0], most=1)

    cached = way("cache", each(file.pwrite, data), file.fsync)
    cached.run(())
    plain = way("plain", each(os.pwrite, fd, data), partial(os.fsync, fd))
    found = bench.compare(cached, plain, clock=time.perf_counter, rounds=min(bench.settings.rounds, 11))
    metric = "4 KiB random overwrites of all pages, four times, then fsync"
    yield row(found, "cache", "plain", "P17", metric, "os.pwrite + fsync")


JOBS = {
    "create": "create, write, close",
    "read": "open, read, close; cached, version checked",
    "keep": "open, read, close; cached, keep_cache",
    "edit": "open r+, pwrite of 50 bytes, close",
    "stat": "stat",
    "rename": "rename",
    "remove": "remove",
}
UNDO = {"create": "remove", "remove": "create", "rename": "restore"}
Job = Callable[[str], object]


def plain_jobs() -> dict[str, Job]:
    """Return the jobs on plain files; keys are paths."""

    def job(flags: int, call: Callable[[int], object]) -> Job:
        def run(path: str) -> None:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
            call(fd)
            os.close(fd)

        return run

    read = job(os.O_RDONLY, lambda fd: os.pread(fd, len(SMALL), 0))
    return {
        "create": job(os.O_CREAT | os.O_EXCL | os.O_WRONLY, lambda fd: os.write(fd, SMALL)),
        "read": read,
        "keep": read,
        "edit": job(os.O_RDWR, lambda fd: os.pwrite(fd, EDIT, 100)),
        "stat": os.stat,
        "rename": lambda path: os.rename(path, path + "~"),
        "restore": lambda path: os.rename(path + "~", path),
        "remove": os.unlink,
    }


def volume_jobs(volume: Volume) -> dict[str, Job]:
    """Return the jobs on objects of a volume."""

    def job(mode: Any, call: Callable[[CachedFile], object], keep: bool = False) -> Job:
        def run(key: str) -> None:
            with volume.open(key, mode, keep_cache=keep) as file:
                call(file)

        return run

    return {
        "create": job("xb", lambda file: file.pwrite(SMALL, 0)),
        "read": job("rb", lambda file: file.pread(len(SMALL), 0)),
        "keep": job("rb", lambda file: file.pread(len(SMALL), 0), keep=True),
        "edit": job("r+b", lambda file: file.pwrite(EDIT, 100)),
        "stat": volume.stat,
        "rename": lambda key: volume.rename(key, key + "~"),
        "restore": lambda key: volume.rename(key + "~", key),
        "remove": volume.remove,
    }


def file_way(name: str, jobs: dict[str, Job], job: str, keys: Sequence[str]) -> Way:
    """Return a way that does one job on files, all of which exist, and restores them after each slice."""
    way = Way(name=name, run=each(jobs[job]), items=[key + "+" for key in keys] if job == "create" else keys)
    if job in UNDO:
        way.after = each(jobs[UNDO[job]])
        way.most = len(keys)  # a slice cannot create a file twice
    return way


def small_files(bench: Bench) -> Iterator[Row]:
    """F1: what a file costs beside its bytes, over `dir:` on tmpfs."""
    for name in ("plain", "cached"):
        (bench.folder / f"{name}-files").mkdir()
    with PageCache("64MiB") as cache:
        volume = cache.attach(DirectoryBackend(bench.folder / "cached-files"))
        numbers = [str(n) for n in range(256)]
        plain = (plain_jobs(), [f"{bench.folder}/plain-files/{n}" for n in numbers])
        sides = {"plain": plain, "cached": (volume_jobs(volume), numbers)}
        for jobs, keys in sides.values():
            for key in keys:
                jobs["create"](key)
        for job, metric in JOBS.items():
            volume.sync()
            ways = [file_way(name, jobs, job, keys) for name, (jobs, keys) in sides.items()]
            found = bench.compare(*ways, clock=time.perf_counter, seconds=4 * bench.settings.seconds)
            yield row(found, "cached", "plain", f"F1/{job}", f"{metric}, dir:", "plain file", "× time")


CASES: dict[str, tuple[str, Callable[[Bench], Iterator[Row]]]] = {
    "P1": ("hits", lambda bench: hits(bench, "P1", "hit", "pread", PAGE)),
    "P5": ("hits", lambda bench: hits(bench, "P5", "overwrite", "pwrite", BLOCK[:PAGE])),
    "P14": ("hits", misses),
    "P17": ("writeback", write_back),
    "F1": ("files", small_files),
}
"""Id of the rows of each case: its group, and the function that measures."""


def run(cases: Sequence[str], settings: Settings) -> tuple[list[Row], float]:
    """Measure; return the rows, and the smallest relative difference that is more than noise (A/A).

    A run makes everything anew, because the place of memory changes the numbers by more than a slice's noise. Blocks
    for minutes.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(prefix="pagecache-bench-", dir=memory) as folder, ExitStack() as stack:
        bench = Bench(settings, Path(folder), random.Random(settings.seed), stack)
        call = each(os.pread, bench.descriptor(), PAGE)
        same, _, spread = bench.compare(bench.way("one", call), bench.way("other", call)).times("one", "other")
        return [row for name in cases for row in CASES[name][1](bench)], max(abs(same - 1), spread)
