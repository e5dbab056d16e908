"""Sequential reads over a line of known latency and bandwidth: `python benchmarks/line.py --help`.

The store makes its bytes up. A read waits for the latency; then its bytes share the line with those of the other reads,
and each read has a limit of its own too, as a connection to S3 has. The table has the share of the line that was busy
in all, and after the first second, the largest number of reads and of bytes in flight, and bytes read over bytes used.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is no installed package

from pagecache import PageCache, Volume
from pagecache.backends import BackendLimits, ObjectStat

MIB = 1 << 20
BLOCK = bytes(range(256)) * (4 * MIB // 256)
PIECE = 256 << 10
SLACK = 2e-3


class Line:
    """Latency and bandwidth, which may change at any time, and what passed."""

    def __init__(self, latency: float, bandwidth: float, each: float = 1e12) -> None:
        self.latency, self.bandwidth, self.each = latency, bandwidth, each
        self.lock = threading.Lock()  # guards the next
        self.free_at = 0.0
        self.reads = self.flying = self.flying_bytes = self.most = self.most_bytes = self.fetched = self.passed = 0
        self.log: list[tuple[float, int]] = []  # time, bytes that have passed then

    def begin(self, size: int) -> None:
        with self.lock:
            self.reads += 1
            self.flying += 1
            self.flying_bytes += size
            self.most, self.most_bytes = max(self.most, self.flying), max(self.most_bytes, self.flying_bytes)

    def end(self, size: int) -> None:
        with self.lock:
            self.flying -= 1
            self.flying_bytes -= size
            self.fetched += size

    def carry(self, size: int) -> None:
        time.sleep(self.latency)
        own = time.perf_counter()
        while size:
            piece = min(size, PIECE)
            with self.lock:
                begin = max(self.free_at, own)
                self.free_at = begin + piece / self.bandwidth
                self.passed += piece
                self.log.append((self.free_at, self.passed))
                own = max(self.free_at, begin + piece / self.each)
            size -= piece
            left = own - time.perf_counter()
            if left > (SLACK if size else 0):
                time.sleep(left)
            own = max(own, time.perf_counter() - SLACK)


class LineFile:
    def __init__(self, store: LineStore, size: int) -> None:
        self.store, self.size = store, size

    def stat(self) -> ObjectStat:
        return ObjectStat(size=self.size, version="1")

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        line, done = self.store.line, 0
        size = min(sum(map(len, buffers)), max(self.size - offset, 0))
        line.begin(size)
        try:
            line.carry(size)
            for buffer in buffers:
                at = 0
                while at < len(buffer) and done < size:
                    begin = (offset + done) % len(BLOCK)
                    n = min(len(buffer) - at, len(BLOCK) - begin, size - done)
                    buffer[at : at + n] = memoryview(BLOCK)[begin : begin + n]
                    at += n
                    done += n
            return done
        finally:
            line.end(size)

    def write_from(self, *_: Any) -> int:
        raise OSError(errno.EROFS, "the store is read-only")

    truncate = commit = write_from

    def close(self) -> None:
        """Nothing is held."""


class LineStore:
    """Objects of any name; each has the same size."""

    def __init__(self, line: Line, size: int, **limits: Any) -> None:
        self.line, self.size = line, size
        self.limits = BackendLimits(read_only=True, commit_on_close=True, **limits)

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        return LineFile(self, self.size)

    def stat(self, key: Any) -> ObjectStat:
        return ObjectStat(size=self.size, version="1")


Way = Callable[[Volume, int, int], int]


def by_handle(volume: Volume, size: int, piece: int) -> int:
    with volume.open("f", "rb") as file:
        buffer = bytearray(min(piece, size))
        for at in range(0, size, piece):
            file.pread_into(buffer, at)
    return size


def by_task(volume: Volume, size: int, piece: int) -> int:
    async def main() -> None:
        from pagecache import aio

        async with await aio.open(volume, "f", "rb") as file:
            buffer = bytearray(min(piece, size))
            for at in range(0, size, piece):
                await file.pread_into(buffer, at)

    asyncio.run(main())
    return size


def share(line: Line, began: float, ended: float) -> tuple[float, float]:
    """Return the share of the line's bandwidth that was used: in all, and after the first second."""
    total = line.fetched / (ended - began) / line.bandwidth
    first = [entry for entry in line.log if entry[0] > began + 1]
    if len(first) < 2 or ended - began < 1.3:
        return total, float("nan")
    at, before = first[0]
    return total, (line.log[-1][1] - before) / (line.log[-1][0] - at) / line.bandwidth


def run(way: Way, line: Line, size: int, piece: int, limits: dict[str, Any], capacity: str) -> None:
    with PageCache(capacity) as cache:
        volume = cache.attach(LineStore(line, size, **limits))
        cpu, began = time.process_time(), time.perf_counter()
        used = way(volume, size, piece)
        ended = time.perf_counter()
        cpu = time.process_time() - cpu
        while line.flying:
            time.sleep(0.01)
    total, later = share(line, began, ended)
    speed = used / MIB / (ended - began)
    print(
        f"| {line.latency * 1e3:.0f} ms, {line.bandwidth / 1e6:.0f} MB/s, {piece >> 10} KiB | {speed:.0f}"
        f" | {total:.0%}; {later:.0%} | {line.most}; {line.most_bytes / MIB:.0f} | {line.reads}"
        f" | {line.fetched / used:.2f} | {cpu:.2f} |",
        flush=True,
    )


LIMITS: dict[str, dict[str, Any]] = {
    "s3": {"max_read": "8MiB", "max_inflight": 16},
    "fsspec": {"max_read": "32MiB"},
    "plain": {},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limits", default="s3", choices=LIMITS, help="Limits of the store")
    parser.add_argument("--way", default="handle", choices=("handle", "task"))
    parser.add_argument("--latency", type=float, nargs="*", default=[20, 50, 200], help="Milliseconds")
    parser.add_argument("--bandwidth", type=float, nargs="*", default=[100, 1000], help="MB/s")
    parser.add_argument("--each", type=float, default=1e6, help="MB/s of one read")
    parser.add_argument("--size", type=int, default=256, help="MiB of the file")
    parser.add_argument("--piece", type=int, nargs="*", default=[64, 1024, 1 << 20], help="KiB of a read")
    parser.add_argument("--capacity", default="1GiB", help="Size of the cache")
    args = parser.parse_args()
    print("| line, read | MiB/s | line in use; after a second | most in flight; MiB | reads | fetched/used | CPU |")
    print("|---|---|---|---|---|---|---|")
    way = {"handle": by_handle, "task": by_task}[args.way]
    for latency in args.latency:
        for bandwidth in args.bandwidth:
            for piece in args.piece:
                line, size = Line(latency / 1e3, bandwidth * 1e6, args.each * 1e6), args.size * MIB
                run(way, line, size, min(piece << 10, size), LIMITS[args.limits], args.capacity)


if __name__ == "__main__":
    main()
