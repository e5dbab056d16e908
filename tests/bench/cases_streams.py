"""Streams through a cache that is a quarter of the file: F5, over `dir:` on the disk of the temporary folder.

A first round, which pays for memory that a virtual machine gets from its host, is not counted. Reads find the file in
the kernel's page cache, in both ways. Each write makes a new file; the old one is removed before, untimed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pagecache import PageCache, Volume
from pagecache.bench.harness import Variant
from pagecache.bench.plain import BLOCK, MIB, Run, make_file
from pagecache.bench.subject import KIB, made
from tests.bench.cases_files import side_by_side
from tests.bench.rows import Bench, Row, case, timed

ROUNDS = 7
READS = {"read-1M": (MIB, False), "read-64K": (64 * KIB, False), "direct": (MIB, True)}  # the last of another file
KEYS = [f"F5/{name}{part}" for name in ("write", *READS) for part in ("", "-cpu")]


def filesystem(path: Path) -> str:
    """Return the type of the file system of `path`."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if path.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def repeated(work: Callable[[], object]) -> Run:
    """Return a job that ignores its items."""

    def run(items: Sequence[Any]) -> None:
        for _ in items:
            work()

    return run


def plain_write(path: Path, size: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC)
    try:
        for _ in range(size // MIB):
            os.write(fd, BLOCK)
        os.fsync(fd)
    finally:
        os.close(fd)


def plain_read(path: Path, piece: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.read(fd, piece):
            pass
    finally:
        os.close(fd)


def cached_write(volume: Volume, key: str, size: int) -> None:
    with volume.open(key, "xb") as file:
        for _ in range(size // MIB):
            file.write(BLOCK)
        file.fsync()


def cached_read(volume: Volume, key: str, piece: int, direct: bool) -> None:
    with volume.open(key, "rb", direct=direct) as file:
        while file.read(piece):
            pass


@case("streams", "1 GiB through 256 MiB over dir:, written and read", KEYS)
def streams(bench: Bench) -> Iterator[Row]:
    """F5."""
    capacity = bench.settings.size
    size, rounds = 4 * capacity, min(bench.settings.rounds, 3 if bench.settings.quick else ROUNDS)
    with TemporaryDirectory(prefix="pagecache-bench-") as disk, made(PageCache(capacity)) as cache:
        folder = Path(disk)
        volume = cache.attach(f"dir:{folder}")
        for key in ("file", "other"):
            make_file(folder / key, size)

        def removed(call: Callable[[Any], object], key: Any) -> Callable[[], None]:
            def before() -> None:
                with contextlib.suppress(FileNotFoundError):
                    call(key)

            return before

        plain_path = folder / "plain"
        jobs = {
            "write": [
                Variant(
                    name="plain",
                    run=repeated(partial(plain_write, plain_path, size)),
                    items=[0],
                    before=removed(os.unlink, plain_path),
                ),
                Variant(
                    name="cached",
                    run=repeated(partial(cached_write, volume, "cached", size)),
                    items=[0],
                    before=removed(volume.remove, "cached"),
                ),
            ]
        }
        for name, (piece, direct) in READS.items():
            key = "other" if direct else "file"
            jobs[name] = [
                Variant(name="plain", run=repeated(partial(plain_read, folder / key, piece)), items=[0]),
                Variant(name="cached", run=repeated(partial(cached_read, volume, key, piece, direct)), items=[0]),
            ]
        note = f"{size // MIB} MiB through {capacity // MIB} MiB, {filesystem(folder)}"
        for name, variants in jobs.items():
            counts = {variant.name: 1 for variant in variants}
            wall, cpu = side_by_side(bench, variants, seconds=0.0, rounds=rounds, counts=counts)
            yield timed("streams", f"F5/{name}", wall, "cached", "plain", note)
            yield timed("streams", f"F5/{name}-cpu", cpu, "cached", "plain", note)
            for variant in variants:
                variant.before()
