"""The peers: other ways to read and write pages of a file or of a store, each in the form that suits it best.

Bytes are read as a `bytes` object and written from one, as the cache does; zero-copy forms would be another job. A peer
gets its keys in its preferred form (`items`), its functions already looked up, its data filled in sequentially (the
kernel's best case), and everything else on tmpfs. None of them writes back, checks versions, or bounds its memory as
the cache does.

`Unavailable` says in one line why a peer cannot take part: a package that is not installed.
"""

import mmap
import os
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pagecache.bench.plain import BLOCK, MIB, Run, call_reads, call_writes, file_reads, file_writes


class Unavailable(Exception):
    """This peer cannot take part; the text says why."""


def required(module: str) -> Any:
    """Import a package of the extra `bench`.

    Raises:
        Unavailable: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise Unavailable(f"{module.partition('.')[0]} is not installed (extra `bench`)") from None


class Peer(Protocol):
    """One opponent, warm: every byte of its data was touched."""

    def items(self, offsets: Sequence[int]) -> Sequence[Any]:
        """Return the arguments of `reads` and `writes` for these offsets."""
        ...

    def reads(self, size: int) -> Run:
        """Return a function that reads `size` bytes for each item."""
        ...

    def writes(self, size: int) -> Run:
        """Return a function that overwrites `size` bytes for each item."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class SystemCalls:
    """os.pread and os.pwrite."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR)

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        return call_reads(self.fd, size)

    def writes(self, size: int) -> Run:
        return call_writes(self.fd, size)

    def close(self) -> None:
        os.close(self.fd)


class Mapping:
    """Slices of a shared mapping."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        for offset in range(0, len(self.map), mmap.PAGESIZE):
            self.map[offset] = self.map[offset]  # map each page for writing

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        mapping = self.map

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                mapping[offset : offset + size]

        return run

    def writes(self, size: int) -> Run:
        mapping, data = self.map, BLOCK[:size]

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                mapping[offset : offset + size] = data

        return run

    def close(self) -> None:
        self.map.close()


class PythonFile:
    """`open()`: a seek and a read, with a buffer or without."""

    def __init__(self, path: Path, *, buffered: bool) -> None:
        self.file: Any = open(path, "r+b", buffering=-1 if buffered else 0)  # noqa: SIM115 - closed by close()

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        return file_reads(self.file, size)

    def writes(self, size: int) -> Run:
        return file_writes(self.file, size)

    def close(self) -> None:
        self.file.close()


class Copied:
    """memcpy into a buffer, from anonymous memory with the same huge pages as the cache's arena. Reads only."""

    def __init__(self, size: int) -> None:
        self.map = mmap.mmap(-1, size)
        self.map.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size, MIB):
            self.map[offset : offset + MIB] = BLOCK[: min(MIB, size - offset)]
        self.view = memoryview(self.map)

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        view, target = self.view, memoryview(bytearray(size))

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                target[:] = view[offset : offset + size]

        return run

    def writes(self, size: int) -> Run:
        raise Unavailable("only reads")

    def close(self) -> None:
        self.view.release()
        self.map.close()


class PageDict:
    """A dictionary of 4 KiB bytearrays: what a program builds first. No lock, no bound, no dirty marks."""

    def __init__(self, size: int, page: int) -> None:
        self.pages = {offset: bytearray(BLOCK[:page]) for offset in range(0, size, page)}

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        pages = self.pages

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                bytes(pages[offset])

        return run

    def writes(self, size: int) -> Run:
        pages, data = self.pages, BLOCK[:size]

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                pages[offset][:] = data

        return run

    def close(self) -> None:
        self.pages.clear()


class CachetoolsPages:
    """cachetools.LRUCache of bytearrays with a lock and a set of dirty pages: what a program builds next."""

    def __init__(self, size: int, page: int) -> None:
        cachetools = required("cachetools")
        self.pages: Any = cachetools.LRUCache(size // page)
        for offset in range(0, size, page):
            self.pages[offset] = bytearray(BLOCK[:page])
        self.lock = threading.Lock()
        self.dirty: set[int] = set()

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        pages, lock = self.pages, self.lock

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                with lock:
                    bytes(pages[offset])

        return run

    def writes(self, size: int) -> Run:
        pages, lock, dirty, data = self.pages, self.lock, self.dirty, BLOCK[:size]

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                with lock:
                    pages[offset][:] = data
                    dirty.add(offset)

        return run

    def close(self) -> None:
        self.pages.clear()


class DiskcachePages:
    """diskcache.Cache on tmpfs: SQLite below, one transaction per write."""

    def __init__(self, folder: Path, size: int, page: int) -> None:
        diskcache = required("diskcache")
        self.cache: Any = diskcache.Cache(str(folder), size_limit=8 * size, eviction_policy="none", cull_limit=0)
        with self.cache.transact():
            for offset in range(0, size, page):
                self.cache.set(offset, BLOCK[:page])

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        get = self.cache.get

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                get(offset)

        return run

    def writes(self, size: int) -> Run:
        put, data = self.cache.set, BLOCK[:size]

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                put(offset, data)

        return run

    def close(self) -> None:
        self.cache.close()


class LmdbPages:
    """py-lmdb on tmpfs without sync: reads in one transaction per slice (its fastest form), each write in its own.

    Args:
        folder: Where its files go.
        size: Bytes of all pages.
        page: Bytes of one.
        writemap: Write through the mapping: four times as fast, and a stray pointer of the program can break the store.
    """

    def __init__(self, folder: Path, size: int, page: int, *, writemap: bool = False) -> None:
        lmdb = required("lmdb")
        self.env: Any = lmdb.open(str(folder), map_size=8 * size + 64 * MIB, sync=False, writemap=writemap)
        with self.env.begin(write=True) as transaction:
            for offset in range(0, size, page):
                transaction.put(offset.to_bytes(8, "big"), BLOCK[:page])

    def items(self, offsets: Sequence[int]) -> Sequence[bytes]:
        return [offset.to_bytes(8, "big") for offset in offsets]

    def reads(self, size: int) -> Run:
        env = self.env

        def run(keys: Sequence[bytes]) -> None:
            with env.begin() as transaction:
                get = transaction.get
                for key in keys:
                    get(key)

        return run

    def writes(self, size: int) -> Run:
        env, data = self.env, BLOCK[:size]

        def run(keys: Sequence[bytes]) -> None:
            for key in keys:
                with env.begin(write=True) as transaction:
                    transaction.put(key, data)

        return run

    def close(self) -> None:
        self.env.close()


class FsspecBlocks:
    """fsspec's block cache, which its remote files read through: blocks of 64 KiB, all in memory. Reads only."""

    BLOCK_SIZE = 64 * 1024

    def __init__(self, size: int) -> None:
        caching = required("fsspec.caching")

        def fetch(start: int, end: int) -> bytes:
            return BLOCK[: end - start]

        self.cache: Any = caching.BlockCache(self.BLOCK_SIZE, fetch, size, maxblocks=size // self.BLOCK_SIZE)
        for offset in range(0, size, self.BLOCK_SIZE):
            # `fetch` slices, hence copies: every block has separate memory.
            self.cache._fetch(offset, offset + self.BLOCK_SIZE)

    def items(self, offsets: Sequence[int]) -> Sequence[int]:
        return offsets

    def reads(self, size: int) -> Run:
        fetch = self.cache._fetch

        def run(offsets: Sequence[int]) -> None:
            for offset in offsets:
                fetch(offset, offset + size)

        return run

    def writes(self, size: int) -> Run:
        raise Unavailable("only reads")

    def close(self) -> None:
        self.cache._fetch_block_cached.cache_clear()
