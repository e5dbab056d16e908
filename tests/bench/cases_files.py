"""Small files over four stores beside plain files on tmpfs: F1, F2 and F3; misses of `dir:`: P14/dir.

The value of a row is a ratio of times on the wall, since threads of a volume take part; `cpu` of its counts is the
ratio of the processor time of the whole process. Separate processes make exact counts (file_counts.py).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from pagecache import PageCache
from pagecache.backends import DirectoryBackend
from pagecache.bench import plain
from pagecache.bench.cases import pread_hits, random_order
from pagecache.bench.files import JOBS, file_variant
from pagecache.bench.harness import Comparison, Variant, calibrate
from pagecache.bench.plain import Run
from pagecache.bench.subject import PAGE, made
from tests.bench import file_counts
from tests.bench.file_stores import DIR, MEMORY, OTHER, PLAIN, PROMPT, STORES, Way, ways
from tests.bench.rows import Bench, Row, case, comparison_row, exact, timed

THREADS = 8
KEYS = {f"{JOBS[job]}, {DIR}": f"F1/{job}" for job in JOBS} | {
    f"{JOBS['create']}, {MEMORY}": "F2/memory",
    f"{JOBS['create']}, {PROMPT}": "F2/prompt",
}
NAMED = ("system calls", "futex", "hops", "wake-ups", "frames", "store calls", "switches")


class Meter:
    """A variant whose processor time is noted for each slice, of all threads."""

    def __init__(self, variant: Variant) -> None:
        self.slices: list[float] = []
        self._run = variant.run
        self.variant = replace(variant, run=self.run)

    def run(self, items: Sequence[Any]) -> None:
        start = time.process_time()
        self._run(items)
        self.slices.append((time.process_time() - start) / len(items))


def side_by_side(
    bench: Bench, variants: Sequence[Variant], *, seconds: float, rounds: int, counts: dict[str, int] | None = None
) -> tuple[Comparison, Comparison]:
    """Compare variants by the clock on the wall and by processor time, after a round that warms up."""
    meters = [Meter(variant) for variant in variants]
    metered = [meter.variant for meter in meters]
    # Processor time: on a busy machine a slice by the clock on the wall would be a few files.
    counts = counts or {each.name: calibrate(each, seconds, time.process_time) for each in metered}
    bench.compare(metered, wall=True, rounds=1, counts=counts)
    for meter in meters:
        meter.slices.clear()
    wall = bench.compare(metered, wall=True, rounds=rounds, counts=counts)
    return wall, Comparison({meter.variant.name: meter.slices for meter in meters})


def files(bench: Bench) -> int:
    """Return the number of files of each way: threads divide it, and it is more than a volume keeps open."""
    return 128 if bench.settings.quick else 512


def spread(run: Run, pool: ThreadPoolExecutor) -> Run:
    """Return a job that threads share; each has its own keys."""

    def shared(keys: Sequence[Any]) -> None:
        list(pool.map(run, [keys[number::THREADS] for number in range(THREADS)]))

    return shared


def described(counts: dict[str, float], base: dict[str, float]) -> str:
    """Return the counts as a remark, those of a plain file in parentheses."""
    words = [f"{counts['cpu']:.3g}× CPU"]
    for name in NAMED:
        if counts.get(name):
            usual = f" ({base[name]:g})" if name == "system calls" else ""
            words.append(f"{counts[name]:g} {name}{usual}")
    return ", ".join(words)


def file_row(job: str, store: str, wall: Comparison, cpu: Comparison, found: dict[str, Any], suffix: str = "") -> Row:
    """Return the row of one job on one store."""
    metric = f"{JOBS[job]}, {store}{suffix}"
    counted = {name: found[store][job][name] for name in NAMED if name in found.get(store, {}).get(job, {})}
    counts = {"cpu": cpu.times(store, PLAIN).median, "cpu_us": 1e6 * cpu.seconds(store), **counted}
    note = described(counts, found.get(PLAIN, {}).get(job, {}))
    key = KEYS.get(metric, "")
    if key:
        row = timed("small-files", key, wall, store, PLAIN, note)
    else:
        row = replace(
            comparison_row("small-files", metric, f"{PLAIN}{suffix}", wall, store, PLAIN, note), unit="× time"
        )
        ratio = wall.times(store, PLAIN)
        row = replace(row, value=ratio.median, low=ratio.low)
    return replace(row, counts=counts)


def compared(found: dict[str, Way], job: str, run: Callable[[Run], Run] = lambda run: run) -> list[Variant]:
    """Return a variant of a job for each way, after all files were saved."""
    for way in found.values():
        way.settle()
    variants = [file_variant(name, way.jobs, job, way.keys) for name, way in found.items()]
    return [replace(variant, run=run(variant.run)) for variant in variants]


@case(
    "small-files",
    "jobs on files of 8 KiB, four stores, with exact counts",
    (*KEYS.values(), "F2/dict", "F2/calls"),
)
def small_files(bench: Bench) -> Iterator[Row]:
    """F1, F2."""
    settings = bench.settings
    counts, missing = file_counts.counted(bench.folder / "counts", 8 if settings.quick else 32)
    if missing:
        yield Row(case="small-files", metric="system calls of a file", skipped=missing)
    created = counts[PROMPT]["create"]["top"]["store calls"]
    calls = sum(created.get(f"{name}", 0.0) for name in ("open", "write_from", "close"))
    yield exact("small-files", "F2/calls", calls, ", ".join(f"{count:g} {name}" for name, count in created.items()))
    with ExitStack() as stack:
        found = ways(bench.folder / "files", files(bench), stack)
        for job in JOBS:
            wall, cpu = side_by_side(bench, compared(found, job), seconds=4 * settings.seconds, rounds=settings.rounds)
            for store in STORES:
                yield file_row(job, store, wall, cpu, counts)
            if job == "create":
                yield timed("small-files", "F2/dict", cpu, OTHER, PLAIN, f"{1e6 * cpu.seconds(OTHER):.0f} µs")


@case("small-files-threads", "the same by 8 threads", ("F3",))
def by_threads(bench: Bench) -> Iterator[Row]:
    """F3: jobs of 8 threads beside 8 threads on plain files; opening and reading beside one thread too.

    Cells are long, since the interpreter passes its lock on every 5 ms; jobs that change names end with their files.
    """
    settings = bench.settings
    rounds, seconds = (3, settings.cell_seconds / 4) if settings.quick else (7, settings.cell_seconds)
    suffix = f", {THREADS} threads"
    with ExitStack() as stack:
        found = ways(bench.folder / "threads", files(bench), stack)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        for job in JOBS:
            variants = compared(found, job, lambda run: spread(run, pool))
            one = f"{DIR} one thread"
            if job == "read":
                variants.append(file_variant(one, found[DIR].jobs, job, found[DIR].keys))
            wall, cpu = side_by_side(bench, variants, seconds=seconds, rounds=rounds)
            for store in STORES:
                yield replace(file_row(job, store, wall, cpu, {}, suffix), case="small-files-threads")
            if job == "read":
                yield timed("small-files-threads", "F3", wall, DIR, one)


@case("miss-dir", "4 KiB random misses of dir: against os.pread", ("P14/dir",))
def miss_dir(bench: Bench) -> Iterator[Row]:
    """P14/dir: no readahead, a file sixteen times the cache, each page once per cycle."""
    size = bench.settings.size
    path = bench.tmpfs_file()
    with made(PageCache(max(size // 16, 1 << 20), max_folio=PAGE)) as cache:
        file = cache.attach(DirectoryBackend(path.parent), read_ahead=0).open(path.name, "rb")
        pread_hits(file, PAGE)(bench.random_offsets(PAGE)[: size // 16 // PAGE * 2])
        variants = [
            random_order(bench, "miss", pread_hits(file, PAGE)),
            random_order(bench, "call", plain.call_reads(bench.descriptor(), PAGE)),
        ]
        wall, cpu = side_by_side(bench, variants, seconds=bench.settings.seconds, rounds=bench.settings.rounds)
        file.close()
    yield timed("miss-dir", "P14/dir", wall, "miss", "call", f"{cpu.times('miss', 'call').median:.3g}× CPU")
