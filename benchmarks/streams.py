"""Streams through a cache that is a quarter of the file, beside plain files: `python benchmarks/streams.py [--quick]`.

Over `dir:` on the disk of the temporary folder. Reads find the file in the kernel's page cache, in both ways; each
write makes a new file, and the old one is removed untimed. Ratios of wall time within a round.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pagecache import PageCache
from pagecache.bench import BLOCK, MIB, Bench, Settings, Way


def main() -> None:
    capacity, rounds = (16 * MIB, 1) if "--quick" in sys.argv[1:] else (256 * MIB, 7)
    size = 4 * capacity
    with TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(Settings(rounds=rounds, size=size), Path(folder), random.Random(1), stack)
        volume = stack.enter_context(PageCache(capacity)).attach(f"dir:{folder}")

        def compare(name: str, cached: Any, plain: Any, *items: Any, after: Any = lambda _: None) -> None:
            ways = [Way(name="cached", run=cached, items=items, after=after, most=1)]
            ways.append(Way(name="plain", run=plain, items=items, after=after, most=1))
            found = bench.compare(*ways, clock=time.perf_counter)
            print(f"| {name} | {found.speed('cached', 'plain')[0]:.2f} |", flush=True)

        def cached_write(_: object) -> None:
            with volume.open("cached", "wb") as file:
                for _ in range(size // MIB):
                    file.write(BLOCK)
                file.fsync()

        def plain_write(_: object) -> None:
            with open(bench.folder / "plain", "wb", buffering=0) as file:
                for _ in range(size // MIB):
                    file.write(BLOCK)
                os.fsync(file)

        def removed(_: object) -> None:
            (bench.folder / "plain").unlink(missing_ok=True)
            if volume.exists("cached"):
                volume.remove("cached")

        print(f"{size // MIB} MiB through {capacity // MIB} MiB, load {os.getloadavg()[0]:.1f}\n")
        print("| job | × speed of plain files |\n|---|---|")
        compare("write by 1 MiB, fsync", cached_write, plain_write, 0, after=removed)
        for name, key, piece, direct in (
            ("read by 1 MiB", "file", MIB, False),
            ("read by 64 KiB", "file", MIB // 16, False),
            ("direct read by 1 MiB", "other", MIB, True),  # of a file of its own
        ):

            def cached_read(_: object, key: str = key, piece: int = piece, direct: bool = direct) -> None:
                with volume.open(key, "rb", direct=direct) as file:
                    while file.read(piece):
                        pass

            def plain_read(_: object, key: str = key, piece: int = piece) -> None:
                with open(bench.folder / key, "rb", buffering=0) as file:
                    while file.read(piece):
                        pass

            bench.plain(key)
            compare(name, cached_read, plain_read, 0)


if __name__ == "__main__":
    main()
