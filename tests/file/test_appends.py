"""append(), and write() of a handle opened with "a": at the end, in one piece, whatever other handles do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pagecache import CachedFile

from .rig import KEY, PAGE, Make, Task, at_gate, overlay, pattern

# A call beside an append. The file had `begun` bytes before it.
SECOND: dict[str, Callable[[CachedFile, int], object]] = {
    "append": lambda file, _begun: file.append(b"second"),
    "write": lambda file, _begun: file.write(b"second"),
    "extend": lambda file, begun: file.pwrite(b"second", begun),
    "truncate": lambda file, _begun: file.truncate(5),
}


@pytest.mark.parametrize("second", SECOND)
def test_one_that_waits_in_the_middle_is_not_come_between(make: Make, second: str) -> None:
    """A long append whose first pieces are dirty waits for room; later appends wait for its end. [2.7]"""
    rig = make({KEY: pattern(10)}, capacity=64 * PAGE, dirty_background=0.1, dirty_limit=0.25)
    file, other = rig.open("r+b"), rig.open("ab" if second == "write" else "r+b")
    data = pattern(40 * PAGE, seed=1)
    with rig.backend.gate("write_from", times=100) as gate:
        _, long = at_gate(gate, file.append, data)
        begun = file.size
        assert 10 < begun < 10 + len(data)
        task = Task(SECOND[second], other, begun)
        assert task.waits()
    assert long.result() == 10
    whole = pattern(10) + data
    answer, expected = {
        "append": (len(whole), whole + b"second"),
        "write": (6, whole + b"second"),
        "extend": (6, overlay(whole, begun, b"second")),
        "truncate": (5, whole[:5]),
    }[second]
    assert task.result() == answer
    assert file.pread(len(expected) + 1, 0) == expected
