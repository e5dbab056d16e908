"""The measurements of `pagecache bench`: hits and overwrites, Python files, misses, write-back.

Every variant walks the whole working set in its own random order. Overwrites make the whole file dirty; nothing is
written back during a slice, and everything before the next case.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from pagecache import BackendFile, CachedFile, PageCache
from pagecache.backends import DirectoryBackend
from pagecache.bench import files, plain
from pagecache.bench.harness import Variant, calibrate, shuffled
from pagecache.bench.plain import BLOCK, MIB, Run, make_file
from pagecache.bench.subject import KIB, PAGE, PatternBackend, cache_for_hits, made, read_nothing, read_pattern
from pagecache.bench.suite import Bench, Case, Row, case, measured

FOLIO = 64 * KIB
Job = Callable[[Any, int], Run]


def pread_hits(file: CachedFile, size: int) -> Run:
    """Return a job that reads `size` bytes at each offset."""

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            file.pread(size, offset)

    return run


def pwrite_hits(file: CachedFile, size: int) -> Run:
    """Return a job that overwrites `size` bytes at each offset."""
    data = BLOCK[:size]

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            file.pwrite(data, offset)

    return run


def random_order(bench: Bench, name: str, run: Run, size: int = PAGE) -> Variant:
    """Return a variant that does a job at random offsets."""
    return Variant(name=name, run=run, items=bench.random_offsets(size))


@case("reads", "4 KiB random hits against os.pread", ("P1/64K", "P1/4K"))
def random_reads(bench: Bench) -> Iterator[Row]:
    """P1."""
    yield from beside_calls(bench, "reads", "P1", "hit", pread_hits, plain.call_reads)


@case("overwrites", "4 KiB random overwrites against os.pwrite", ("P5/64K", "P5/4K"))
def overwrites(bench: Bench) -> Iterator[Row]:
    """P5: random overwrites with dirty marking."""
    yield from beside_calls(bench, "overwrites", "P5", "overwrite", pwrite_hits, plain.call_writes)


def beside_calls(bench: Bench, case: str, goal: str, verb: str, own: Job, call: Job) -> Iterator[Row]:
    """Yield rows for large and small folios beside a system call."""
    subjects = {"64K": bench.subject(FOLIO), "4K": bench.subject(PAGE)}
    variants = [random_order(bench, name, own(subject.file, PAGE)) for name, subject in subjects.items()]
    result = bench.compare([*variants, random_order(bench, "call", call(bench.descriptor(), PAGE))])
    against = "os.pread" if verb == "hit" else "os.pwrite"
    for name, subject in subjects.items():
        fields = {"case": case, "metric": f"4 KiB random {verb}, {name} folios", "note": subject.note()}
        yield measured(result, name, "call", against=against, key=f"{goal}/{name}", **fields)
        subject.file.fsync()


@case("files", "4 KiB random hits and overwrites against Python files, buffered and unbuffered")
def python_files(bench: Bench) -> Iterator[Row]:
    """The cache in the place of `open()`: one positional call against seek and read."""
    subject, path = bench.subject(FOLIO), bench.tmpfs_file()
    with open(path, "r+b", buffering=0) as unbuffered, open(path, "r+b") as buffered:
        for verb, own, job in (
            ("hit", pread_hits, plain.file_reads),
            ("overwrite", pwrite_hits, plain.file_writes),
        ):
            result = bench.compare(
                [
                    random_order(bench, "cache", own(subject.file, PAGE)),
                    random_order(bench, "unbuffered", job(unbuffered, PAGE)),
                    random_order(bench, "buffered", job(buffered, PAGE)),
                ]
            )
            for name in ("unbuffered", "buffered"):
                metric, against = f"4 KiB random {verb}, 64K folios", f"{name} Python file"
                yield measured(result, "cache", name, case="files", metric=metric, against=against)
    subject.file.fsync()


@case("miss", "4 KiB random misses against calling the backend directly", ("P14/noop", "P14/copy"))
def miss(bench: Bench) -> Iterator[Row]:
    """P14: no readahead, a file sixteen times the cache, each page once per cycle.

    The opponent calls the same backend from Python with a buffer of its own, as a program without a cache does.
    """
    size = bench.settings.size
    for key, read, verb in (("P14/noop", read_nothing, "does nothing"), ("P14/copy", read_pattern, "copies")):
        backend = PatternBackend(size, read=read)
        direct = backend.open("direct")

        def call(offsets: Sequence[int], direct: BackendFile = direct) -> None:
            read_into = direct.read_into
            for offset in offsets:
                read_into(offset, (memoryview(bytearray(PAGE)),))

        with made(PageCache(size // 16, max_folio=PAGE)) as cache:
            file = cache.attach(backend, read_ahead=0).open("file", "rb")
            pread_hits(file, PAGE)(bench.random_offsets(PAGE)[: size // 16 // PAGE * 2])
            before = cache.stats()
            variants = [random_order(bench, "miss", pread_hits(file, PAGE)), random_order(bench, "direct", call)]
            result = bench.compare(variants)
            after = cache.stats()
            file.close()
        hits, misses = after.hits - before.hits, after.misses - before.misses
        note = "" if hits * 50 < misses else f"{hits} of {hits + misses} lookups were hits"
        fields = {"case": "miss", "against": "the backend called directly", "unit": "× time", "note": note}
        yield measured(result, "miss", "direct", key=key, metric=f"4 KiB random miss, backend that {verb}", **fields)


@case("write-path", "4 KiB random overwrites of a whole file, then fsync, over dir: on tmpfs", ("P17",), "writeback")
def write_path(bench: Bench) -> Iterator[Row]:
    """P17: every page of the working set four times, in random order: 1 GiB of writes in a full run."""
    size, folder = bench.settings.size, bench.folder / "path"
    folder.mkdir(exist_ok=True)
    offsets = shuffled([*range(0, size, PAGE)] * 4, bench.rng)
    with ExitStack() as stack:
        make_file(folder / "cached", size)
        cache = stack.enter_context(cache_for_hits(2 * size, PAGE))
        file = stack.enter_context(cache.attach(DirectoryBackend(folder), read_ahead=0).open("cached", "r+b"))
        fd = os.open(make_file(folder / "plain", size), os.O_RDWR)
        stack.callback(os.close, fd)

        def saved(write: Run, fsync: Callable[[], object]) -> Run:
            def run(some: Sequence[int]) -> None:
                write(some)
                fsync()

            return run

        jobs = {
            "cache": saved(pwrite_hits(file, PAGE), file.fsync),
            "plain": saved(plain.call_writes(fd, PAGE), lambda: os.fsync(fd)),
        }
        jobs["cache"](offsets)
        variants = [Variant(name=name, run=run, items=offsets) for name, run in jobs.items()]
        counts = {name: len(offsets) for name in jobs}
        result = bench.compare(variants, wall=True, rounds=min(bench.settings.rounds, 11), counts=counts)
    metric, against = "4 KiB random overwrites of all pages, then fsync", "os.pwrite + fsync"
    note = f"{4 * size // MIB} MiB of writes a round, each page four times"
    yield measured(result, "cache", "plain", case="write-path", key="P17", metric=metric, against=against, note=note)


@case("small-files", "jobs on files of 8 KiB, dir: on tmpfs", [f"F1/{job}" for job in files.JOBS], "files")
def small_files(bench: Bench) -> Iterator[Row]:
    """F1: what a file costs, beside its bytes."""
    for name in ("plain", "cached"):
        (bench.folder / name).mkdir()
    with made(PageCache("64MiB")) as cache:
        volume = cache.attach(DirectoryBackend(bench.folder / "cached"))
        ways = {"plain": files.by_system_calls(), "cached": files.through(volume)}
        keys = {"plain": [f"{bench.folder}/plain/{n}" for n in range(256)], "cached": [str(n) for n in range(256)]}
        for name, jobs in ways.items():
            for key in keys[name]:
                jobs["create"](key)
        for job, metric in files.JOBS.items():
            volume.sync()
            variants = [files.file_variant(name, jobs, job, keys[name]) for name, jobs in ways.items()]
            # Processor time: on a busy machine a slice by the clock on the wall would be a few files.
            counts = {each.name: calibrate(each, 4 * bench.settings.seconds, time.process_time) for each in variants}
            result = bench.compare(variants, wall=True, counts=counts)
            fields = {"case": "small-files", "key": f"F1/{job}", "metric": f"{metric}, dir:", "unit": "× time"}
            yield measured(result, "cached", "plain", against="plain file", **fields)


CASES: tuple[Case, ...] = (random_reads, overwrites, python_files, miss, write_path, small_files)
