"""Small files over several stores, by one thread and by eight: `python benchmarks/files.py [--quick]`.

The jobs are those of `pagecache bench files`, which is `dir:` alone. Each row is the time of a volume over that store,
as a multiple of the time of plain files on tmpfs in the same rounds. The last table opens, reads and closes cached
objects of a volume that has more and more of them: the cost of one has to stay.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from pagecache.bench import JOBS, QUICK, SMALL, Bench, Run, Settings, file_way, plain_jobs, volume_jobs

THREADS = 8
PLAIN = "plain"


def beside_plain(bench: Bench, pool: ThreadPoolExecutor | None) -> None:
    """Print the jobs on every store; with a pool, its threads share each slice."""
    import fsspec

    def shared(run: Run) -> Run:
        def share(keys: Sequence[Any]) -> None:
            assert pool is not None
            list(pool.map(run, [keys[number::THREADS] for number in range(THREADS)]))

        return share if pool else run

    folder = bench.folder / ("threads" if pool else "one")
    for name in ("plain", "store"):
        (folder / name).mkdir(parents=True)
    stores: dict[str, Any] = {
        "dir:": f"dir:{folder / 'store'}",
        "memory:": "memory:",
        "fsspec memory": FsspecBackend(fsspec.filesystem("memory"), root=f"/files-{folder.name}"),
    }
    numbers = [str(n) for n in range(256)]
    sides = {"plain": (plain_jobs(), [f"{folder}/plain/{n}" for n in numbers])}
    volumes = {name: bench.stack.enter_context(PageCache("64MiB")).attach(store) for name, store in stores.items()}
    sides |= {name: (volume_jobs(volume), numbers) for name, volume in volumes.items()}
    for jobs, keys in sides.values():
        for key in keys:
            jobs["create"](key)
    print(f"\n| job{', 8 threads' if pool else ''} | {' | '.join(stores)} |\n|---{'|---' * len(stores)}|")
    for job, text in JOBS.items():
        for volume in volumes.values():
            volume.sync()
        ways = [file_way(name, jobs, job, keys) for name, (jobs, keys) in sides.items()]
        for way in ways:
            way.run = shared(way.run)
        found = bench.compare(*ways, clock=time.perf_counter, seconds=4 * bench.settings.seconds)
        print(f"| {text} | {' | '.join(f'{found.times(name, PLAIN)[0]:.1f}' for name in stores)} |", flush=True)


def many(bench: Bench, counts: Sequence[int]) -> None:
    """Print the time of an open, a read and a close beside that with the fewest objects."""
    print("\n| cached objects | open, read, close |\n|---|---|")
    ways = []
    for count in counts:
        volume = bench.stack.enter_context(PageCache("2GiB")).attach("memory:")
        for number in range(count):
            with volume.open(f"{number:x}", "xb") as file:
                file.pwrite(SMALL[:100], 0)
        volume.sync()
        keys = [f"{number:x}" for number in bench.rng.sample(range(count), 200)]
        ways.append(file_way(str(count), volume_jobs(volume), "keep", keys))
        ways[-1].run(keys)  # of more objects than files of the store stay open, the first open opens it again
    found = bench.compare(*ways, rounds=11)
    for count in counts:
        print(f"| {count:,} | {found.times(str(count), str(counts[0]))[0]:.2f} |", flush=True)


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    settings = replace(QUICK, rounds=3) if quick else Settings()
    with TemporaryDirectory(dir="/dev/shm") as folder, ExitStack() as stack:
        bench = Bench(settings, Path(folder), random.Random(settings.seed), stack)
        beside_plain(bench, None)
        beside_plain(bench, stack.enter_context(ThreadPoolExecutor(THREADS)))
        many(bench, [1_000, 3_000] if quick else [1_000, 10_000, 100_000])


if __name__ == "__main__":
    main()
