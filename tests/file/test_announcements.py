"""An announced version of an object that is stored in place comes with its size at the next open. [2.19]"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pagecache import ConflictError

from .rig import KEY, PAGE, Rig, overlay, pattern, quiet

Make = Callable[..., Rig]
DATA = pattern(4 * PAGE)
MINE = b"mine" * (PAGE // 4)


def announced(rig: Rig, content: bytes) -> None:
    """Another program replaces the content, and announces the version and the range that differs."""
    rig.backend.change_remotely(KEY, content)
    start = min(2 * PAGE, len(content))
    rig.volume.invalidate_remote(KEY, start, None, version=rig.backend.stat(KEY).version)


@pytest.mark.parametrize("policy", ["fail", "take_remote"])
@pytest.mark.parametrize("size", [100, 3 * PAGE, 6 * PAGE + 10])
def test_an_open_takes_the_size_of_an_announced_version(make: Make, size: int, policy: str) -> None:
    """Appends go to its end, and no byte of the other program is overwritten. [2.19]"""
    rig = make({KEY: DATA}, options={"on_conflict": policy})
    reader = rig.open("rb")
    assert reader.pread(len(DATA), 0) == DATA
    other = pattern(size, seed=9)
    announced(rig, other)
    with rig.volume.open(KEY, "ab+") as file:
        assert (file.size, file.pread(8 * PAGE, 0)) == (size, other)
        assert file.append(MINE) == size
    assert reader.pread(8 * PAGE, 0) == other + MINE
    assert rig.backend.written(KEY) == other + MINE


@pytest.mark.parametrize("policy", ["fail", "take_remote"])
@pytest.mark.parametrize("size", [3 * PAGE, 6 * PAGE + 10])
def test_an_open_takes_the_size_of_an_announced_version_under_local_bytes_elsewhere(
    make: Make, size: int, policy: str
) -> None:
    """They are no conflict, and stay. [2.19]"""
    rig = make({KEY: DATA}, options={"on_conflict": policy})
    file = rig.open()
    assert file.pread(len(DATA), 0) == DATA
    file.pwrite(MINE, PAGE)
    other = DATA[: 2 * PAGE] + pattern(size - 2 * PAGE, seed=9)
    announced(rig, other)
    late = rig.open("rb")
    assert (late.size, late.pread(8 * PAGE, 0)) == (size, overlay(other, PAGE, MINE))
    file.fsync()
    assert rig.backend.written(KEY) == overlay(other, PAGE, MINE)


@pytest.mark.parametrize("size", [3 * PAGE, 6 * PAGE + 10])
def test_a_write_after_an_announcement_does_not_hide_the_size(make: Make, size: int) -> None:
    """The write makes a version of its own, with the size of the announced one below it. [2.19]"""
    rig = make({KEY: DATA})
    file = rig.open()
    assert file.pread(len(DATA), 0) == DATA
    other = pattern(size, seed=9)
    announced(rig, other)
    file.pwrite(MINE, PAGE)
    file.fsync()
    quiet(rig.volume)
    late = rig.open("rb")
    assert late.size == size
    assert late.pread(8 * PAGE, 2 * PAGE) == other[2 * PAGE :]
    assert late.pread(PAGE, PAGE) == MINE


def test_a_version_after_the_announced_one_is_a_conflict(make: Make) -> None:
    """It may have changed the local bytes, too. [2.19]"""
    rig = make({KEY: DATA})
    file = rig.open()
    assert file.pread(len(DATA), 0) == DATA
    file.pwrite(MINE, PAGE)
    announced(rig, DATA[: 2 * PAGE] + MINE)
    rig.backend.change_remotely(KEY, MINE)
    with pytest.raises(ConflictError):
        rig.volume.open(KEY)
    rig.volume.resolve(KEY, "rebase")
    file.fsync()
    assert rig.backend.written(KEY) == MINE + MINE
