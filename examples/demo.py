"""One job over two stores, with the cache and without it: write files, edit them at random places, read them back.

    store          files     cache      without the cache
    directory      24 MiB     6 MiB     each read and write is a call of the backend
    object store    4 MiB    16 MiB     each read and write is a request of 10 ms

Each byte that either side reads is compared with a copy in memory, and so is each byte of its files in the end. The
clock runs only inside the calls of a side. Argument: MiB of the files of the first store.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from pagecache import PageCache
from pagecache.backends import Backend, DirectoryBackend
from pagecache.testing import LatencyBackend

KIB, MIB = 1024, 1 << 20
PIECES = (509, 4095, 4096, 4097, 16 * KIB, 64 * KIB + 3, 256 * KIB, MIB)
FILES = (int(sys.argv[1]) if __name__ == "__main__" and len(sys.argv) > 1 else 2) * MIB


class Direct:
    """The calls of a volume and of its open files, made by the backend itself."""

    def __init__(self, backend: Backend, file: Any = None) -> None:
        self.backend, self.file = backend, file
        self.written: dict[str, None] = {}

    def open(self, key: str, mode: str) -> "Direct":
        file = self.backend.open(key, create=mode == "wb")
        self.written[key] = None
        return Direct(self.backend, file)

    def pread(self, length: int, offset: int) -> bytes:
        data = bytearray(length)
        return bytes(data[: self.file.read_into(offset, [memoryview(data)])])

    def pwrite(self, data: bytes, offset: int) -> None:
        self.file.write_from(offset, [memoryview(data)])

    def truncate(self, size: int) -> None:
        self.file.truncate(size)

    def sync(self) -> None:
        for key in self.written:
            with closing(self.open(key, "r+b")) as opened:
                opened.file.commit()

    def close(self) -> None:
        self.file.close()


def pieces_of(size: int, rng: Random) -> list[tuple[int, int]]:
    """Return consecutive (offset, length) of random lengths that cover `size` bytes."""
    pieces, offset = list[tuple[int, int]](), 0
    while offset < size:
        pieces.append((offset, min(rng.choice(PIECES), size - offset)))
        offset += pieces[-1][1]
    return pieces


def edits_of(content: bytearray, rng: Random) -> list[tuple[int, bytes | None]]:
    """Make edits of a file in its copy, and return them: an offset and bytes; or a new size and None."""
    edits = list[tuple[int, bytes | None]]()
    for _ in range(2 + len(content) // (32 * KIB)):
        if rng.random() < 0.06:
            edits.append((max(1, len(content) - rng.randrange(24 * KIB)), None))
            del content[edits[-1][0] :]
        else:
            offset, data = rng.randrange(len(content) + 1), rng.randbytes(int((48 * KIB) ** rng.random()))
            content[offset : offset + len(data)] = data
            edits.append((offset, data))
    return edits


def do(side: Any, total: int) -> tuple[dict[str, float], dict[str, bytearray]]:
    """Do the job; return the seconds of each phase, and the contents of the files."""
    rng, seconds, contents = Random(1), defaultdict[str, float](float), dict[str, bytearray]()

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[phase] += time.perf_counter() - began

    while (left := total - sum(map(len, contents.values()))) > 0:
        key, data = f"file-{len(contents)}", rng.randbytes(min(left, int(2 ** rng.uniform(12, 20))))
        contents[key], pieces = bytearray(data), pieces_of(len(data), rng)
        with timed("write"), closing(side.open(key, "wb")) as file:
            for offset, length in pieces:
                file.pwrite(data[offset : offset + length], offset)
    for _ in range(2):
        for key, content in contents.items():
            edits = edits_of(content, rng)
            with timed("edit"), closing(side.open(key, "r+b")) as file:
                for offset, change in edits:
                    file.truncate(offset) if change is None else file.pwrite(change, offset)
        for key, content in contents.items():
            pieces = rng.sample(found := pieces_of(len(content), rng), len(found))
            with timed("read back"), closing(side.open(key, "rb")) as file:
                read = [file.pread(length, offset) for offset, length in pieces]
            for (offset, length), piece in zip(pieces, read, strict=True):
                assert piece == content[offset : offset + length], f"{key} at {offset}: other bytes were read"
    with timed("sync"):
        side.sync()
    return seconds, contents


def compare(name: str, total: int, capacity: int, delay: float, folder: str) -> None:
    """Do the job on one store with the cache, and without it; `delay`: of each request, in seconds."""
    print(f"{name}: files of {total // KIB} KiB, cache of {capacity // KIB} KiB")
    phases = {}
    for side in ("cache", "direct calls"):
        place = Path(folder, name, side)
        place.mkdir(parents=True)
        store: Backend = DirectoryBackend(place)
        if delay:
            store = LatencyBackend(store, read=delay, write=delay, commit=delay, look_up=delay)
        with PageCache(capacity) as cache:
            phases[side], contents = do(cache.attach(store) if side == "cache" else Direct(store), total)
            stats = cache.stats()
        for key, content in contents.items():
            assert (place / key).read_bytes() == content, f"{key}: other bytes are stored"
        if side == "cache":
            print(f"  {stats.hits / (stats.hits + stats.misses):.1%} of the reads were hits")
    for phase, seconds in phases["cache"].items():
        direct = phases["direct calls"][phase]
        print(f"  {phase:<10}{seconds:7.2f} s, by direct calls {direct:7.2f} s: {direct / seconds:5.2f} times as fast")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        compare("directory", FILES, FILES // 4, 0.0, folder)
        compare("object store", FILES // 6, FILES * 2 // 3, 0.01, folder)
    print("every byte is right")


if __name__ == "__main__":
    main()
