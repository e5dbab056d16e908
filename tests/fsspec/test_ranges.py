"""Ranges: equal to a slice of the bytes, requested together, and read from memory the second time."""

from __future__ import annotations

import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pagecache.fsspec import PageCacheFileSystem
from pagecache.fsspec.ranges import span_of

from ..file.rig import raises
from .conftest import Make
from .targets import OwnMemory

CONTENT = bytes(range(256)) * 4096  # 1 MiB
ENDS = st.none() | st.integers(-30, 30)


@given(st.binary(max_size=20), ENDS, ENDS)
def test_a_range_is_a_slice(content: bytes, start: int | None, end: int | None) -> None:
    at, length = span_of(start, end, len(content))
    assert content[at : at + length] == content[start:end]


def test_ranges_come_in_the_order_of_the_question(fs: PageCacheFileSystem, root: str) -> None:
    """Each has its own error."""
    one, other, none = (f"{root}/{name}" for name in ("one", "other", "none"))
    fs.pipe({one: b"0123456789", other: b"abcdefghij"})
    found = fs.cat_ranges([one, none, other, one, other], [5, 0, 0, 0, 9], [7, 1, 3, 2, None])
    assert isinstance(found[1], FileNotFoundError)
    assert [found[0], *found[2:]] == [b"56", b"abc", b"01", b"j"]
    raises(FileNotFoundError, fs.cat_ranges, [one, none], 0, 1, on_error="raise")
    assert fs.cat_ranges([one, other], 1, 3, max_gap=10) == [b"12", b"bc"]
    assert fs.cat_ranges([one], None, None) == [b"0123456789"]
    assert fs.cat_ranges([], 0, 1) == []


def test_near_ranges_are_one_read(make: Make) -> None:
    below = OwnMemory()
    fs = make(fs=below, read_ahead=0)
    below.pipe_file("/file", CONTENT)
    fs.cat_file("/file", 900_000, 900_001)  # whatever is checked first
    before = len(below.reads)
    starts = list(range(1000, 41_000, 2000))
    found = fs.cat_ranges(["/file"] * len(starts), list(starts), [start + 100 for start in starts])
    assert found == [CONTENT[start : start + 100] for start in starts]
    assert len(below.reads) == before + 1
    assert fs.cat_ranges(["/file"], [1000], [1100]) == [CONTENT[1000:1100]]
    assert len(below.reads) == before + 1, "from memory"


def test_ranges_of_all_files_are_read_side_by_side(make: Make) -> None:
    """None waits for the one before it: each read waits here until all of them have begun."""
    below = Together()
    fs = make(fs=below, read_ahead=0)
    paths = [f"/{name}" for name in "abc"]
    below.pipe(dict.fromkeys(paths, CONTENT))
    fs.cat_file("/a", 900_000, 900_001)
    below.meeting = threading.Barrier(4)
    found = fs.cat_ranges([*paths, "/a"], [0, 0, 0, 500_000], [10, 10, 10, 500_010])
    assert found == [CONTENT[:10]] * 3 + [CONTENT[500_000:500_010]]


class Together(OwnMemory):
    """Reads of which none returns before all have come."""

    meeting: threading.Barrier | None = None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if self.meeting is not None:
            self.meeting.wait(60)
        return super().cat_file(path, start, end, **options)
