"""Streams through a cache that is a quarter of the file, beside plain files: `python benchmarks/streams.py [--quick]`.

Over `dir:` on the disk of the temporary folder. Reads find the file in the kernel's page cache, in both ways; each
write makes a new file, and the old one is removed untimed. A first round, which pays for memory that a virtual machine
gets from its host, is not counted. Ratios of wall time within a round; processor time is of the whole process.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pagecache import PageCache, Volume
from pagecache.bench import BLOCK, MIB, make_file

Job = Callable[[], object]


def plain_write(path: Path, size: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC)
    for _ in range(size // MIB):
        os.write(fd, BLOCK)
    os.fsync(fd)
    os.close(fd)


def plain_read(path: Path, piece: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    while os.read(fd, piece):
        pass
    os.close(fd)


def cached_write(volume: Volume, size: int) -> None:
    with volume.open("cached", "xb") as file:
        for _ in range(size // MIB):
            file.write(BLOCK)
        file.fsync()


def cached_read(volume: Volume, key: str, piece: int, direct: bool) -> None:
    with volume.open(key, "rb", direct=direct) as file:
        while file.read(piece):
            pass


def timed(job: Job) -> tuple[float, float]:
    """Seconds by the wall and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    capacity, rounds = (16 * MIB, 1) if "--quick" in sys.argv[1:] else (256 * MIB, 7)
    size, rng = 4 * capacity, random.Random(1)
    with TemporaryDirectory() as folder, PageCache(capacity) as cache:
        top = Path(folder)
        volume = cache.attach(f"dir:{top}")
        for key in ("file", "other"):  # direct reads have a file of their own
            make_file(top / key, size)

        def removed() -> None:
            with suppress(FileNotFoundError):
                (top / "plain").unlink()
            with suppress(FileNotFoundError):
                volume.remove("cached")

        jobs: dict[str, tuple[Job, Job]] = {
            "write by 1 MiB, fsync": (lambda: cached_write(volume, size), lambda: plain_write(top / "plain", size)),
        }
        for name, key, piece, direct in (
            ("read by 1 MiB", "file", MIB, False),
            ("read by 64 KiB", "file", MIB // 16, False),
            ("direct read by 1 MiB", "other", MIB, True),
        ):
            jobs[name] = (
                lambda key=key, piece=piece, direct=direct: cached_read(volume, key, piece, direct),  # type: ignore[misc]
                lambda key=key, piece=piece: plain_read(top / key, piece),  # type: ignore[misc]
            )
        print(f"{size // MIB} MiB through {capacity // MIB} MiB, load {os.getloadavg()[0]:.1f}\n")
        print("| job | × speed of plain files | × their processor time |\n|---|---|---|")
        for name, sides in jobs.items():
            speeds, loads = [], []
            for turn in range(rounds + 1):
                found = {}
                for side in rng.sample((0, 1), 2):
                    found[side] = timed(sides[side])
                removed()
                if turn:
                    speeds.append(found[1][0] / found[0][0])
                    loads.append(found[0][1] / found[1][1])
            print(f"| {name} | {median(speeds):.2f} | {median(loads):.2f} |", flush=True)


if __name__ == "__main__":
    main()
