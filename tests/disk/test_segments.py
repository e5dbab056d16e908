"""Segments of a tier, and what an address that leads to other bytes delivers: nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pagecache import DiskTier, PageCache
from pagecache.disk import segments as module
from pagecache.disk.contents import contents
from pagecache.disk.segments import Segments
from pagecache.disk.tier import Tier
from pagecache.native import checked
from tests.file.rig import beside
from tests.stores import ObjectBackend

from .test_orders import bound
from .test_tier import content, on_tier, read

pytestmark = pytest.mark.contract("D4", "D6", "D7")

SIZE = 5000


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    made = Segments(str(tmp_path), 4 << 20, 1 << 20, aligned=False, others=lambda: 0, report=lambda _: None)
    yield made
    made.end()


def taken(segments: Segments, copy: int = 1) -> int | None:
    return segments.append(copy, 0, [memoryview(content(SIZE, copy))], SIZE, 0)


def test_a_size_that_the_journal_takes_is_no_failure_of_the_disk(tmp_path: Path) -> None:
    taken_by_others, told = [4 << 20], list[OSError | None]()
    made = Segments(
        str(tmp_path), 4 << 20, 1 << 20, aligned=False, others=lambda: taken_by_others[0], report=told.append
    )
    assert taken(made) is not None
    assert made.write_next()
    assert taken(made) is None  # for a while
    made._paused_until, taken_by_others[0] = 0.0, 0
    assert taken(made) is not None
    assert made.write_next()
    assert told == []
    made.end()


def test_an_extent_of_another_copy_is_not_delivered(segments: Segments) -> None:
    address = taken(segments, 1)
    assert address is not None
    assert segments.write_next()
    room = memoryview(bytearray(SIZE))
    with pytest.raises(OSError, match="not those that were written"):
        segments.read(address, SIZE, 2, 0, 0, [room])
    assert segments.read(address, SIZE, 1, 0, 0, [room]) == SIZE


def test_extents_of_an_object_that_changed_places_are_not_delivered(tier: DiskTier) -> None:
    store = ObjectBackend({"a": content(3 * 4096)})
    with on_tier(tier, store, "1MiB", read_ahead=0) as volume, volume.open("a") as file:
        for offset in (0, 8192):
            file.pread(4096, offset)
    (segment,) = Path(tier.path).glob("*.clean")
    bytes_of_both = segment.read_bytes()[: 2 * 4100]
    with segment.open("r+b") as opened:
        opened.write(bytes_of_both[4100:] + bytes_of_both[:4100])
    with on_tier(tier, store, "1MiB") as volume:
        assert read(volume, "a") == content(3 * 4096)
        assert volume.stats().disk_errors > 0


def test_a_segment_that_goes_beside_a_read_stays_open_for_it(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor would be that of the next file which is opened."""
    address = taken(segments)
    assert address is not None
    assert segments.write_next()
    (tmp_path / "other").write_bytes(bytes(2 * SIZE))
    others: list[int] = []

    def remove() -> None:
        segments.remove(address >> 32)
        others.append(os.open(tmp_path / "other", os.O_RDONLY))

    room = memoryview(bytearray(SIZE))
    beside(monkeypatch, checked, "read", remove)
    assert segments.read(address, SIZE, 1, 0, 0, [room]) == SIZE
    os.close(others[0])
    assert room == content(SIZE, 1)
    assert segments.read(address, SIZE, 1, 0, 0, [room]) is None


def test_a_segment_that_goes_beside_its_opening_does_not_stay_open(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its space would stay taken."""
    address = taken(segments) or 0
    assert segments.write_next()
    beside(monkeypatch, module, "_Open", partial(segments.remove, address >> 32), after=True)
    assert segments.read(address, SIZE, 1, 0, 0, [memoryview(bytearray(SIZE))]) == SIZE
    assert not segments._files


def test_two_threads_that_need_space_remove_two_segments_but_not_the_one_that_is_written(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space of one that another thread is just removing may not be free yet."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=100, f_frsize=1 << 20, f_bavail=50))
    for _ in range(3):
        assert taken(segments) is not None
        segments._used = segments.segment
        assert segments.write_next()
    beside(monkeypatch, Segments, "remove", segments.drop_oldest)
    assert segments.drop_oldest()
    assert list(segments._live) == [3]
    assert not segments.drop_oldest()


def test_what_waits_for_a_slow_disk_is_bounded(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUED_MAX", 10 * SIZE)
    addresses = [taken(segments, copy) for copy in range(100)]
    assert sum(address is not None for address in addresses) == 9  # each has checksums
    assert segments.write_next()
    assert taken(segments) is not None
    assert taken(segments) is None


def test_what_waits_is_neither_read_nor_written_again(segments: Segments) -> None:
    addresses = [taken(segments, copy) or 0 for copy in (1, 2)]
    assert segments.write_next()
    room = memoryview(bytearray(SIZE))
    assert segments.read(addresses[0], SIZE, 1, 0, 0, [room]) == SIZE
    assert segments.read(addresses[1], SIZE, 2, 0, 0, [room]) is None
    assert segments.append_again(addresses[1], SIZE, 0) is None
    assert segments.append_again(addresses[0], SIZE, 0) is not None


def test_what_is_written_again_waits_in_bounded_memory(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others fill takes many segments at once."""
    addresses = [taken(segments, copy) or 0 for copy in range(20)]
    while segments.write_next():
        pass
    monkeypatch.setattr(module, "QUEUED_MAX", 10 * SIZE)
    monkeypatch.setattr(module, "RESCUED_MAX", 5 * SIZE)
    while taken(segments):
        pass
    again = [segments.append_again(address, SIZE, 0) for address in addresses]
    assert sum(address is not None for address in again) == 5


def test_few_segments_are_open_at_a_time(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_MAX", 1)
    size = segments.segment // 2
    addresses = [segments.append(1, 0, [memoryview(bytes(size))], size, 0) or 0 for _ in range(3)]
    while segments.write_next():
        pass
    for address in addresses:
        assert segments.read(address, size, 1, 0, 0, [memoryview(bytearray(size))]) == size
        assert len(segments._files) == 1


@pytest.mark.parametrize(("segment", "length", "most"), [(4 << 20, 300_000, 3), (1 << 32, 1 << 20, 15)])
def test_at_most_a_part_of_a_segment_is_written_again(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, segment: int, length: int, most: int
) -> None:
    """Else a cache whose data is all read again would only be copied. Of a large one it is little memory."""
    running, again = Tier.open(tier, "test"), []
    monkeypatch.setattr(Segments, "append_again", lambda _segments, _address, length, _least: again.append(length))
    copy = bound(running, b"sk")
    running.described.segment = segment
    running._hits[1] = {1 << 32 | place: (copy, 0, length) for place in range(segment // length)}
    running._rescue(1)
    running.close("test")
    assert again == [length] * most


def test_the_directory_of_a_running_tier_is_busy(tier: DiskTier) -> None:
    with PageCache("1MiB", disk=tier), pytest.raises(OSError, match="another process uses the tier"):
        contents(tier.path)
    assert contents(tier.path).volumes == {}
