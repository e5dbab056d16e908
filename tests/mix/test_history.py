"""The model of the mix sees what it is there to see."""

from __future__ import annotations

import pytest

from .history import Content
from .ranges import END, Claim, Ranges


def content(data: bytes) -> Content:
    made = Content(1000)
    made.finish(made.begin("write", 0, data))
    return made


def test_a_look_sees_what_was_there_or_came_meanwhile() -> None:
    """Old bytes, new bytes, any mixture of them, and nothing else. [I-17]"""
    file = content(b"aaaa")
    before = file.look(0, 4)
    change = file.begin("write", 1, b"bb")
    beside = file.look(0, 4)
    file.finish(change)
    after = file.look(0, 4)
    for window in (before, beside):
        for seen in (b"aaaa", b"abaa", b"aaba", b"abba"):
            window.verify(seen, "read")
        with pytest.raises(AssertionError, match="1 bytes are wrong, from 3"):
            window.verify(b"abbb", "read")
    after.verify(b"abba", "read")
    with pytest.raises(AssertionError, match="from 1 to 2"):
        after.verify(b"aaaa", "read")


def test_a_look_knows_the_sizes_that_the_file_had() -> None:
    """A read is short at an end that was there, and nowhere else. [I-17]"""
    file = content(b"aaaa")
    window = file.look(0, 10)
    file.finish(file.begin("truncate", 2, b"\0\0", 2))
    window.verify(b"aaaa", "read")
    window.verify(b"aa", "read")
    window.verify(b"aa\0", "read")
    for seen in (b"a", b"aaaaa"):
        with pytest.raises(AssertionError, match="not 2 to 4"):
            window.verify(seen, "read")


def test_appends_leave_no_gap_and_do_not_overlap() -> None:
    """They go one behind another, in any order. [2.7]"""
    file = content(b"aaaa")
    first, second = file.begin_append(b"11"), file.begin_append(b"222")
    file.finish_append(second, 4)
    file.finish_append(first, 7)
    assert file.rest() == b"aaaa22211"
    first, second = file.begin_append(b"11"), file.begin_append(b"222")
    file.finish_append(second, 9)
    with pytest.raises(AssertionError, match="where"):
        file.finish_append(first, 11)
    other = content(b"aaaa")
    with pytest.raises(AssertionError, match="gap"):
        other.finish_append(other.begin_append(b"1"), 5)


def test_a_change_in_part_leaves_old_or_new() -> None:
    """Nothing third. [2.7]"""
    file = content(b"aaaa")
    file.settle(file.begin("write", 0, b"bbbb"), b"baab", 4)
    assert file.rest() == b"baab"
    with pytest.raises(AssertionError, match="neither old nor new at 2"):
        file.settle(file.begin("write", 0, b"cccc"), b"bcbb", 4)


def test_ranges_have_one_owner_and_appends_share_the_end() -> None:
    """And what overlaps nothing is free."""
    ranges = Ranges()
    held = ranges.attempt(lambda: Claim([(0, 10), (20, 30)]))
    assert held is not None
    assert ranges.attempt(lambda: Claim([(9, 12)])) is None
    assert ranges.attempt(lambda: Claim([(10, 20)])) is not None
    assert ranges.attempt(lambda: Claim([(40, END)], appends=True)) is not None
    assert ranges.attempt(lambda: Claim([(40, END)], appends=True)) is not None
    assert ranges.attempt(lambda: Claim([(50, END)])) is None
    with pytest.raises(AssertionError, match="owned"):
        ranges.obtain(lambda: Claim([(0, 1)]), 0.01)
    ranges.release(held)
    assert ranges.obtain(lambda: Claim([(0, 1)]), 0.01) is not None
