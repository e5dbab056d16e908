"""append(), and write() of a handle opened with "a": at the end, in one piece, whatever other handles do."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from .rig import KEY, PAGE, Make, Task, at_gate, pattern, raises


@pytest.mark.parametrize("second", ["append", "write", "extend", "truncate"])
def test_one_that_waits_in_the_middle_is_not_come_between(make: Make, second: str) -> None:
    """A long append whose first pieces are dirty waits for room; later appends wait for its end. [2.7]"""
    rig = make({KEY: pattern(10)}, capacity=64 * PAGE, dirty_background=0.1, dirty_limit=0.25)
    file, other = rig.open("r+b"), rig.open("ab" if second == "write" else "r+b")
    data = pattern(40 * PAGE, seed=1)
    with rig.backend.gate("write_from", times=100) as gate:
        _, long = at_gate(gate, file.append, data)
        begun = file.size
        assert 10 < begun < 10 + len(data)
        calls: dict[str, Callable[[], object]] = {
            "append": lambda: other.append(b"second"),
            "write": lambda: other.write(b"second"),
            "extend": lambda: other.pwrite(b"second", begun),
            "truncate": lambda: other.truncate(5),
        }
        task = Task(calls[second])
        assert task.waits()
    assert long.result() == 10
    answer = task.result()
    whole = pattern(10) + data
    expected = {
        "append": whole + b"second",
        "write": whole + b"second",
        "extend": whole[:begun] + b"second" + whole[begun + 6 :],
        "truncate": whole[:5],
    }[second]
    assert answer == {"append": len(whole), "write": 6, "extend": 6, "truncate": 5}[second]
    assert file.pread(len(expected) + 1, 0) == expected


def test_after_an_extension_in_either_order(make: Make) -> None:
    """An append begins where the other one ends, whether it came before or after. [2.7]"""
    _rig, one, two = make({KEY: b""}).both()
    assert one.append(b"abc") == 0
    two.pwrite(b"x", 10)
    assert one.append(b"def") == 11
    two.truncate(5)
    assert one.append(b"ghi") == 5
    two.punch_hole(0, 100)
    assert one.append(b"jkl") == 8
    assert two.pread(100, 0) == bytes(5) + bytes(3) + b"jkl"


def test_the_position_of_the_handle(make: Make) -> None:
    """append() leaves it, write() of an "a" handle moves it; pwrite goes to its given offset. [2.7]"""
    rig, plain, appending = make({KEY: b"0123456789"}).both("a+b")
    plain.seek(3)
    assert plain.append(b"ab") == 10
    assert (plain.tell(), plain.read(2)) == (3, b"34")
    appending.seek(1)
    assert appending.write(b"cd") == 2
    assert appending.tell() == 14
    appending.pwrite(b"X", 0)
    assert plain.pread(100, 0) == b"X123456789abcd"
    with io.BufferedWriter(rig.volume.open(KEY, "ab")) as buffered:
        buffered.write(b"ef")
        plain.append(b"-")
    assert plain.pread(100, 10) == b"abcd-ef"


def test_one_that_cannot_go_on_says_what_it_has_appended(make: Make) -> None:
    """The bytes of its beginning stay, and the next append goes behind them. [2.7, K13]"""
    rig = make({KEY: b"begin"}, capacity=64 * PAGE, dirty_background=0.1, dirty_limit=0.25, throttle_timeout=0.2)
    file = rig.open("r+b")
    rig.backend.gate("write_from", times=1000)
    caught = raises(BlockingIOError, file.append, pattern(60 * PAGE))
    accepted = caught.characters_written
    assert 0 < accepted < 60 * PAGE
    assert file.size == 5 + accepted
    rig.backend.open_all_gates()
    file.fsync()
    assert file.append(b"next") == 5 + accepted
    assert file.pread(accepted, 5) == pattern(60 * PAGE)[:accepted]
