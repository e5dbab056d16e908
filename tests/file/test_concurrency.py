"""Many threads: bytes of the right file at the right place, whatever is concurrently evicted, copied and reused."""

from __future__ import annotations

import random
import struct
import threading
import time

import pytest

from pagecache import PageCache

from ..stores import RecordingBackend
from .rig import KEY, PAGE, Make, Task, pattern, side_by_side

WORD = struct.Struct("<HHIQ")  # file, page, version, check


def tagged(file: int, page: int, version: int) -> bytes:
    """A page that names itself in every word."""
    return WORD.pack(file, page, version, (file * 1_000_003 + page * 7919 + version) & 0xFFFF_FFFF) * (
        PAGE // WORD.size
    )


def check_tags(data: bytes, file: int, offset: int) -> None:
    """Each word of `data`, read at a word boundary, belongs to its place."""
    for at in range(0, len(data) - WORD.size + 1, WORD.size):
        name, page, version, check = WORD.unpack_from(data, at)
        assert (name, page) == (file, (offset + at) // PAGE)
        assert check == (file * 1_000_003 + page * 7919 + version) & 0xFFFF_FFFF


@pytest.mark.timeout(120)
def test_a_reader_never_sees_bytes_of_another_page() -> None:
    """Copy on conflict, eviction and reuse by another volume under readers, for a few seconds. [T-64, T-07, I-24]"""
    pages = 60
    backends = [
        RecordingBackend({f"f{n}": b"".join(tagged(n, p, 0) for p in range(pages)) for n in (2 * v, 2 * v + 1)})
        for v in range(2)
    ]
    over = threading.Event()
    with PageCache(24 * PAGE, dirty_background=0.1, dirty_limit=0.4, flush_interval=0.01) as cache:
        volumes = [cache.attach(backend, name=f"v{i}", read_ahead="16KiB") for i, backend in enumerate(backends)]

        reads = [0, 0, 0]

        def reader(number: int) -> None:
            rng = random.Random(1 + number)
            handles = {n: volumes[n // 2].open(f"f{n}", "rb") for n in range(4)}
            while not over.is_set():
                file, offset = rng.randrange(4), rng.randrange(pages * PAGE // WORD.size) * WORD.size
                length = rng.choice([WORD.size, PAGE, 3 * PAGE])
                if rng.random() < 0.1 and offset + WORD.size * 4 <= pages * PAGE:
                    with handles[file].view(offset, WORD.size * 4) as view:
                        check_tags(view.tobytes(), file, offset)
                else:
                    check_tags(handles[file].pread(length, offset), file, offset)
                reads[number] += 1
            for handle in handles.values():
                handle.close()

        def writer(file: int) -> dict[int, int]:
            rng, versions = random.Random(31 + file), dict.fromkeys(range(pages), 0)
            with volumes[file // 2].open(f"f{file}", "r+b") as handle:
                while not over.is_set():
                    page = rng.randrange(pages)
                    versions[page] += 1
                    handle.pwrite(tagged(file, page, versions[page]), page * PAGE)
                    if rng.random() < 0.02:
                        handle.fsync()
                    if rng.random() < 0.02:
                        volumes[file // 2].drop_clean(f"f{file}")
            return versions

        readers = [Task(reader, number) for number in range(len(reads))]
        writers = [Task(writer, file) for file in range(4)]
        end = time.monotonic() + 3.0
        at_work = [task.finished for task in readers] + [task.finished for task in writers]
        while (time.monotonic() < end or not all(reads)) and not any(finished.wait(0.2) for finished in at_work):
            cache.check()
        over.set()
        for task in readers:
            task.result()
        versions = [task.result() for task in writers]
        cache.check()
        cache.sync(30)
        for file, pages_of_file in enumerate(versions):
            expected = b"".join(tagged(file, page, version) for page, version in pages_of_file.items())
            assert backends[file // 2].committed(f"f{file}") == expected
    assert [backend.violations for backend in backends] == [[], []]


def test_hits_and_misses_are_exact(make: Make) -> None:
    """Every read counts once, whatever runs beside it. [2.27]"""
    rig, file = make({KEY: pattern(64 * PAGE)}, capacity="1MiB", gil_release=PAGE).opened("rb")
    before = rig.volume.stats()

    def read(first: int) -> None:
        for number in range(2000):
            file.pread(PAGE * (1 + number % 2), (first * 7 + number) % 62 * PAGE)

    side_by_side(read)
    after = rig.volume.stats()
    assert after.hits + after.misses - before.hits - before.misses == 8 * 2000
    assert after.misses <= 64 * 8
