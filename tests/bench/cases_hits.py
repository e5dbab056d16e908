"""Hits and overwrites of one file that is wholly in memory: P2–P4, P6, P8; appends; P27, views.

Every variant walks the whole working set in its own random order. Sequential rows walk it upwards. Overwrites make
the whole file dirty; nothing is written back during a slice, and everything before the next row.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pagecache import CachedFile
from pagecache.bench.cases import pread_hits, pwrite_hits
from pagecache.bench.harness import Variant
from pagecache.bench.plain import BLOCK, MIB, Run
from pagecache.bench.subject import KIB, PAGE, Subject, cache_for_hits
from tests.bench.peers import Copied, Mapping, Peer, PythonFile, SystemCalls
from tests.bench.rows import Bench, Row, case, comparison_row, timed

SMALL, MIDDLE, LARGE = 4 * KIB, 64 * KIB, MIB
NAMES = {SMALL: "4 KiB", MIDDLE: "64 KiB", LARGE: "1 MiB"}


def pread_into_hits(file: CachedFile, size: int) -> Run:
    """Read `size` bytes at each offset into one buffer."""
    target = bytearray(size)

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            file.pread_into(target, offset)

    return run


def system_calls(bench: Bench) -> SystemCalls:
    """Return os.pread and os.pwrite on the file of the bench."""
    calls = SystemCalls(bench.tmpfs_file())
    bench.stack.callback(calls.close)
    return calls


def peer_variant(bench: Bench, name: str, peer: Peer, size: int, *, write: bool = False) -> Variant:
    """A variant of a peer, with `size` bytes at random offsets."""
    run = peer.writes(size) if write else peer.reads(size)
    return Variant(name=name, run=run, items=peer.items(bench.random_offsets(size)))


def read_variant(bench: Bench, name: str, subject: Subject, size: int) -> Variant:
    """A variant of a cache that reads `size` bytes at random offsets."""
    return Variant(name=name, run=pread_hits(subject.file, size), items=bench.random_offsets(size))


def write_variant(bench: Bench, name: str, subject: Subject, size: int) -> Variant:
    """A variant of a cache that overwrites `size` bytes at random offsets."""
    return Variant(name=name, run=pwrite_hits(subject.file, size), items=bench.random_offsets(size))


READ_GOALS = ("P2/64K", "P2/4K", "P4/64K", "P4/1M", "P4/64K-memcpy", "P4/1M-memcpy")


@case("large-reads", "4 KiB random hits against mmap; 64 KiB and 1 MiB against os.pread, mmap, memcpy", READ_GOALS)
def mapped_and_large_reads(bench: Bench) -> Iterator[Row]:
    """P2, P4: one comparison per size, everything in it side by side."""
    large, small, system = bench.subject(MIDDLE), bench.subject(PAGE), system_calls(bench)
    mapping, copied = Mapping(bench.tmpfs_file()), Copied(bench.settings.size)
    try:
        for size in (SMALL, MIDDLE, LARGE):
            variants = [
                read_variant(bench, "64K", large, size),
                read_variant(bench, "4K", small, size),
                peer_variant(bench, "pread", system, size),
                peer_variant(bench, "mmap", mapping, size),
            ]
            if size != SMALL:
                into = Variant(name="into", run=pread_into_hits(large.file, size), items=bench.random_offsets(size))
                variants += [into, peer_variant(bench, "memcpy", copied, size)]
            result = bench.compare(variants)
            if size == SMALL:
                yield timed("large-reads", "P2/64K", result, "64K", "mmap")
                yield timed("large-reads", "P2/4K", result, "4K", "mmap")
                continue
            key = "P4/64K" if size == MIDDLE else "P4/1M"
            yield timed("large-reads", key, result, "64K", "pread", "64K folios")
            yield timed("large-reads", f"{key}-memcpy", result, "into", "memcpy", "64K folios")
            metric = f"{NAMES[size]} random hit"
            yield comparison_row("large-reads", f"{metric}, 64K folios", "mmap slice", result, "64K", "mmap")
            yield comparison_row("large-reads", f"{metric}, 4K folios", "os.pread", result, "4K", "pread")
    finally:
        mapping.close()
        copied.close()


@case("sequential", "sequential hits of 4 KiB, 64 KiB and 1 MiB against os.pread and mmap", ("P3/pread", "P3/mmap"))
def sequential_reads(bench: Bench) -> Iterator[Row]:
    """P3, and the larger sizes without a goal."""
    large, small, system = bench.subject(MIDDLE), bench.subject(PAGE), system_calls(bench)
    mapping = Mapping(bench.tmpfs_file())
    try:
        for size in (SMALL, MIDDLE, LARGE):
            offsets = list(range(0, bench.settings.size, size))
            result = bench.compare(
                [
                    Variant(name="64K", run=pread_hits(large.file, size), items=offsets),
                    Variant(name="4K", run=pread_hits(small.file, size), items=offsets),
                    Variant(name="pread", run=system.reads(size), items=offsets),
                    Variant(name="mmap", run=mapping.reads(size), items=offsets),
                ]
            )
            metric = f"{NAMES[size]} sequential hit"
            if size == SMALL:
                yield timed("sequential", "P3/pread", result, "64K", "pread")
                yield timed("sequential", "P3/mmap", result, "64K", "mmap")
            else:
                yield comparison_row("sequential", f"{metric}, 64K folios", "os.pread", result, "64K", "pread")
                yield comparison_row("sequential", f"{metric}, 64K folios", "mmap slice", result, "64K", "mmap")
            yield comparison_row("sequential", f"{metric}, 4K folios", "os.pread", result, "4K", "pread")
    finally:
        mapping.close()


@case("large-overwrites", "overwrites of 64 KiB and 1 MiB against os.pwrite, 4 KiB against mmap", ("P6/64K", "P6/1M"))
def large_overwrites(bench: Bench) -> Iterator[Row]:
    """P6: random overwrites with dirty marking."""
    large, small, system = bench.subject(MIDDLE), bench.subject(PAGE), system_calls(bench)
    mapping = Mapping(bench.tmpfs_file())
    try:
        for size in (SMALL, MIDDLE, LARGE):
            result = bench.compare(
                [
                    write_variant(bench, "64K", large, size),
                    write_variant(bench, "4K", small, size),
                    peer_variant(bench, "pwrite", system, size, write=True),
                    peer_variant(bench, "mmap", mapping, size, write=True),
                ]
            )
            metric = f"{NAMES[size]} random overwrite"
            if size != SMALL:
                yield timed(
                    "large-overwrites", "P6/64K" if size == MIDDLE else "P6/1M", result, "64K", "pwrite", "64K folios"
                )
                yield comparison_row("large-overwrites", f"{metric}, 4K folios", "os.pwrite", result, "4K", "pwrite")
            yield comparison_row("large-overwrites", f"{metric}, 64K folios", "mmap slice", result, "64K", "mmap")
        offsets = list(range(0, bench.settings.size, SMALL))
        result = bench.compare(
            [
                Variant(name="64K", run=pwrite_hits(large.file, SMALL), items=offsets),
                Variant(name="pwrite", run=system.writes(SMALL), items=offsets),
            ]
        )
        yield comparison_row(
            "large-overwrites", "4 KiB sequential overwrite, 64K folios", "os.pwrite", result, "64K", "pwrite"
        )
    finally:
        mapping.close()
        large.file.fsync()
        small.file.fsync()


def view_hits(file: CachedFile, size: int, *, writable: bool = False) -> Run:
    """Open a view of `size` bytes at each offset, touch every page of it (store to it), release it."""
    zeros = bytes(size // PAGE)

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            with file.view(offset, size, writable=writable) as view:
                for segment in view.segments:
                    if writable:
                        segment[::PAGE] = zeros[: len(segment) // PAGE]
                    else:
                        segment[::PAGE].tobytes()

    return run


@case("views", "views of 1 MiB and 64 KiB against pread", ("P27",))
def views(bench: Bench) -> Iterator[Row]:
    """P27: memory of the cache itself, against a copy of it."""
    whole, large = bench.subject(MIB), bench.subject(MIDDLE)
    try:
        for size in (LARGE, MIDDLE):
            subject = whole if size == LARGE else large
            offsets = bench.random_offsets(size)
            variants = [
                Variant(name="view", run=view_hits(subject.file, size), items=offsets),
                read_variant(bench, "pread", subject, size),
                Variant(name="write", run=view_hits(subject.file, size, writable=True), items=offsets),
                write_variant(bench, "pwrite", subject, size),
            ]
            if size == LARGE:
                variants.append(Variant(name="64K", run=view_hits(large.file, size), items=offsets))
            result = bench.compare(variants)
            metric = f"{NAMES[size]} view"
            if size == LARGE:
                yield timed("views", "P27", result, "view", "pread", whole.note() or "one folio")
                yield comparison_row("views", f"{metric} over 64K folios", "pread of it", result, "64K", "pread")
            else:
                yield comparison_row("views", metric, "pread of it", result, "view", "pread")
            yield comparison_row("views", f"writable {metric}", "pwrite of it", result, "write", "pwrite")
    finally:
        whole.file.fsync()
        large.file.fsync()


@case("stream", "512 B sequential reads through the handle against os.pread and a buffered file", ("P8",))
def small_stream(bench: Bench) -> Iterator[Row]:
    """P8: `read(512)` at the handle's position, from the start of the file to its end."""
    subject, system = bench.subject(MIDDLE), system_calls(bench)
    buffered = PythonFile(bench.tmpfs_file(), buffered=True)
    size = 512
    offsets = range(0, min(bench.settings.size, 64 * MIB), size)

    def through(file: Any) -> Run:
        def run(some: Sequence[int]) -> None:
            file.seek(some[0])
            for _ in some:
                file.read(size)

        return run

    try:
        # A slice longer than the walk would reach the end of the file.
        most = len(offsets)
        result = bench.compare(
            [
                Variant(name="handle", run=through(subject.file), items=offsets, most=most),
                Variant(name="pread", run=system.reads(size), items=list(offsets), most=most),
                Variant(name="buffered", run=through(buffered.file), items=offsets, most=most),
            ]
        )
    finally:
        buffered.close()
    yield timed("stream", "P8", result, "handle", "pread")
    yield comparison_row("stream", "512 B sequential read()", "buffered Python file", result, "handle", "buffered")


@case("appends", "appends of 512 B and 4 KiB against os.write and a buffered file")
def appends(bench: Bench) -> Iterator[Row]:
    """Appends to a file that is emptied, untimed, before each slice."""
    path: Path = bench.folder / "appended"
    most_bytes = 32 * MIB
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    with cache_for_hits(4 * most_bytes, 2 * MIB) as cache, open(path, "r+b") as buffered:
        file = cache.attach("memory:").open("appended", "w+b")

        def empty_buffered() -> None:
            buffered.seek(0)
            buffered.truncate(0)

        try:
            for size in (512, SMALL):
                data = BLOCK[:size]

                def append(some: Sequence[int], data: bytes = data) -> None:
                    for _ in some:
                        file.append(data)

                def write(some: Sequence[int], data: bytes = data) -> None:
                    put = os.write
                    for _ in some:
                        put(fd, data)

                def buffer(some: Sequence[int], data: bytes = data) -> None:
                    for _ in some:
                        buffered.write(data)
                    buffered.flush()

                items, most = range(1024), most_bytes // size
                empty_file, empty_path = lambda: file.truncate(0), lambda: os.ftruncate(fd, 0)
                result = bench.compare(
                    [
                        Variant(name="cache", run=append, items=items, before=empty_file, most=most),
                        Variant(name="write", run=write, items=items, before=empty_path, most=most),
                        Variant(name="buffered", run=buffer, items=items, before=empty_buffered, most=most),
                    ]
                )
                metric = f"append of {size} B" if size < KIB else f"append of {size // KIB} KiB"
                yield comparison_row("appends", metric, "os.write, O_APPEND", result, "cache", "write")
                yield comparison_row("appends", metric, "buffered Python file", result, "cache", "buffered")
        finally:
            os.close(fd)
            file.truncate(0)
            file.close()
