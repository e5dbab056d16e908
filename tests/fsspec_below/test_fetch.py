"""The reads of a commit of a partly written object: few, side by side, and none of their bytes comes later."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from tests.file.rig import Patch, raises
from tests.fsspec_below.stores import Elsewhere

PAGE = 4096
MIB = 1 << 20
OLD = random.Random(1).randbytes(3 * MIB)
STEP = MIB
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


class Place:
    """An object `key` of three reads, and a file that is open on it."""

    def __init__(self, folder: Path, max_inflight: int = 8) -> None:
        self.fs, self.path = Far(), folder / "key"
        self.path.write_bytes(OLD)
        backend = FsspecBackend(self.fs, str(folder), max_read=STEP, max_inflight=max_inflight)
        self.file: Any = backend.open("key")
        self.fs.ranges.clear()

    def write(self, offset: int, data: bytes) -> None:
        assert self.file.write_from(offset, [memoryview(data)]) == len(data)


def scattered(count: int) -> list[int]:
    return random.Random(2).sample(range(0, len(OLD), PAGE), count)


def overwritten(offsets: list[int], data: bytes) -> bytes:
    content = bytearray(OLD)
    for offset in offsets:
        content[offset : offset + len(data)] = data
    return bytes(content)


def test_scattered_writes_are_completed_by_as_many_reads_as_the_object_has_steps(tmp_path: Path) -> None:
    """They are not completed by one read for each of the ranges between them."""
    place = Place(tmp_path)
    offsets = scattered(300)
    for offset in offsets:
        place.write(offset, b"new" * 1000)
    place.file.commit()
    assert len(place.fs.ranges) == len(OLD) // STEP
    assert place.path.read_bytes() == overwritten(offsets, b"new" * 1000)


def test_distant_ranges_are_read_separately(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(PAGE, bytes(MIB))
    place.write(2 * MIB + PAGE, bytes(MIB - PAGE))
    place.file.commit()
    assert sorted(place.fs.ranges) == [(0, PAGE), (MIB + PAGE, 2 * MIB + PAGE)]
    assert place.path.read_bytes() == OLD[:PAGE] + bytes(MIB) + OLD[MIB + PAGE : 2 * MIB + PAGE] + bytes(MIB - PAGE)


def test_reads_of_a_commit_are_side_by_side(tmp_path: Path) -> None:
    """None returns before all have begun."""
    place = Place(tmp_path)
    place.write(5, b"new")
    meeting = threading.Barrier(3)
    place.fs.reading = lambda start: void(meeting.wait(60))
    place.file.commit()
    assert place.path.read_bytes() == overwritten([5], b"new")


def test_no_more_are_on_their_way_than_calls_at_a_time_are_allowed(tmp_path: Path) -> None:
    place = Place(tmp_path, max_inflight=1)
    place.write(5, b"new")
    on_their_way: list[int] = []
    most: list[int] = []

    def reading(start: int) -> None:
        on_their_way.append(start)
        most.append(len(on_their_way))

    place.fs.reading, place.fs.have_read = reading, on_their_way.remove
    place.file.commit()
    assert (max(most), len(most)) == (1, 3)


def test_a_read_that_fails_is_reported_when_the_others_have_ended_and_no_other_is_begun(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Bytes written after the failure stay: no late read puts old bytes into the spool."""
    place = Place(tmp_path, max_inflight=2)
    place.write(5, b"new")
    begun, waited_for = threading.Event(), threading.Event()
    ended: list[int] = []
    caller, join = threading.current_thread(), threading.Thread.join

    def reading(start: int) -> None:
        if threading.current_thread() is caller:
            assert begun.wait(60)
            raise OSError(errno.EIO, "broken")
        begun.set()
        assert waited_for.wait(60)

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        waited_for.set()
        join(thread, timeout)

    place.fs.reading, place.fs.have_read = reading, ended.append
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", joined)
        raises(OSError, place.file.commit, match="broken")
    found = len(place.fs.ranges), len(ended)
    waited_for.set()
    assert found == (2, 1)
    assert place.path.read_bytes() == OLD
    place.write(MIB, b"later")
    place.fs.reading = lambda start: None
    place.file.commit()
    assert place.path.read_bytes() == OLD[:5] + b"new" + OLD[8:MIB] + b"later" + OLD[MIB + 5 :]


def test_where_no_thread_can_be_started_a_commit_does_without(tmp_path: Path, monkeypatch: Patch) -> None:
    place = Place(tmp_path)
    place.write(5, b"new")

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        place.file.commit()
    assert place.path.read_bytes() == overwritten([5], b"new")


def test_an_object_that_became_shorter_is_a_conflict_and_stays(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(5, b"new")
    place.fs.reading = lambda start: void(place.path.write_bytes(b"short"))
    assert raises(OSError, place.file.commit).errno == errno.ESTALE
    assert place.path.read_bytes() == b"short"


def test_through_the_cache_scattered_writes_cost_few_calls(tmp_path: Path) -> None:
    """The calls are an open, a test read, three reads, and a store: whatever the number of writes."""
    fs, path = Far(), tmp_path / "key"
    path.write_bytes(OLD)
    offsets = scattered(300)
    with PageCache("16MiB") as cache:
        volume = cache.attach(FsspecBackend(fs, str(tmp_path), max_read=STEP))
        with volume.open("key", "r+b") as file:
            for offset in offsets:
                file.pwrite(b"x" * PAGE, offset)
            file.fsync()
    assert path.read_bytes() == overwritten(offsets, b"x" * PAGE)
    assert len(fs.ranges) <= 1 + 3
    assert [method for method, _ in fs.hooks.calls] == ["put_file", "mv"]


def void(_: object) -> None:
    """Call a function and return nothing."""
