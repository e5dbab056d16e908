"""The reads of a commit of a partly written object: few, side by side, and none of their bytes comes later."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.file.rig import attached, raises
from tests.fsspec_below.place import OLD, Place, put
from tests.fsspec_below.stores import Elsewhere

PAGE = 4096
MIB = 1 << 20
Hook = Callable[[int], None]


class Far(Elsewhere):
    """A store whose ranges are read side by side; `reading` is called with the start of each, `have_read` after it."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int]] = []
        self.reading: Hook = lambda start: None
        self.have_read: Hook = lambda start: None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        begin = start or 0
        self.ranges.append((begin, end or 0))
        self.reading(begin)
        with open(path, "rb") as file:
            found = os.pread(file.fileno(), (end or 0) - begin, begin)
        self.have_read(begin)
        return found


def opened(folder: Path, max_inflight: int = 8) -> tuple[Place, Any]:
    """An object `key` of three reads, and a file that is open on it."""
    place = Place(Far(), str(folder), max_read=MIB, max_inflight=max_inflight)
    place.put("key", OLD)
    file = place.backend.open("key")
    place.fs.ranges.clear()
    return place, file


def scattered(count: int) -> list[int]:
    return random.Random(2).sample(range(0, len(OLD), PAGE), count)


def overwritten(offsets: list[int], data: bytes) -> bytes:
    content = bytearray(OLD)
    for offset in offsets:
        content[offset : offset + len(data)] = data
    return bytes(content)


def test_scattered_writes_are_completed_by_as_many_reads_as_the_object_has_steps(tmp_path: Path) -> None:
    """They are not completed by one read for each of the ranges between them."""
    place, file = opened(tmp_path)
    offsets = scattered(300)
    for offset in offsets:
        put(file, offset, b"new" * 1000)
    file.commit()
    assert len(place.fs.ranges) == len(OLD) // MIB
    assert place.content("key") == overwritten(offsets, b"new" * 1000)


def test_distant_ranges_are_read_separately(tmp_path: Path) -> None:
    place, file = opened(tmp_path)
    put(file, PAGE, bytes(MIB))
    put(file, 2 * MIB + PAGE, bytes(MIB - PAGE))
    file.commit()
    assert sorted(place.fs.ranges) == [(0, PAGE), (MIB + PAGE, 2 * MIB + PAGE)]
    assert place.content("key") == OLD[:PAGE] + bytes(MIB) + OLD[MIB + PAGE : 2 * MIB + PAGE] + bytes(MIB - PAGE)


@pytest.mark.parametrize("most", [1, 3])
def test_reads_of_a_commit_are_side_by_side(tmp_path: Path, most: int) -> None:
    """As many as calls at a time are allowed: none returns before so many have begun, and no more run."""
    place, file = opened(tmp_path, most)
    put(file, 5, b"new")
    meeting, running, found = threading.Barrier(most), list[int](), list[int]()

    def reading(start: int) -> None:
        running.append(start)
        found.append(len(running))
        meeting.wait(60)

    place.fs.reading, place.fs.have_read = reading, running.remove
    file.commit()
    assert (max(found), len(found)) == (most, 3)
    assert place.content("key") == overwritten([5], b"new")


def test_bytes_written_after_a_read_that_failed_stay(tmp_path: Path) -> None:
    """No late read puts old bytes into the spool."""
    place, file = opened(tmp_path, 1)
    put(file, 5, b"new")

    def broken(start: int) -> None:
        if start:
            raise OSError(errno.EIO, "broken")

    place.fs.reading = broken
    raises(OSError, file.commit, match="broken")
    assert place.content("key") == OLD
    put(file, MIB, b"later")
    place.fs.reading = lambda start: None
    file.commit()
    assert place.content("key") == OLD[:5] + b"new" + OLD[8:MIB] + b"later" + OLD[MIB + 5 :]


def test_an_object_that_became_shorter_is_a_conflict_and_stays(tmp_path: Path) -> None:
    place, file = opened(tmp_path)
    put(file, 5, b"new")

    def cut(_start: int) -> None:
        Path(place.root, "key").write_bytes(b"short")

    place.fs.reading = cut
    assert raises(OSError, file.commit).errno == errno.ESTALE
    assert place.content("key") == b"short"


def test_through_the_cache_scattered_writes_cost_few_calls(tmp_path: Path) -> None:
    """The calls are an open, a test read, three reads, and a store: whatever the number of writes."""
    place, _ = opened(tmp_path)
    offsets = scattered(300)
    with attached(place.backend) as volume, volume.open("key", "r+b") as file:
        for offset in offsets:
            file.pwrite(b"x" * PAGE, offset)
        file.fsync()
    assert place.content("key") == overwritten(offsets, b"x" * PAGE)
    assert len(place.fs.ranges) <= 1 + 3
    assert [method for method, _ in place.fs.hooks.calls] == ["put_file", "mv"]
