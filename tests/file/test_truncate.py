"""Truncate, holes and zeroed ranges: sizes, zeros, and no byte that comes back."""

from __future__ import annotations

import errno

import pytest

from pagecache import CachedFile

from .rig import KEY, ONCE, PAGE, Make, Rig, Task, accepted_before, at_gate, pattern, raises

CONTENT = pattern(8 * PAGE)


@pytest.fixture(params=[False, True], ids=["no punch_hole", "punch_hole"])
def stored(make: Make, request: pytest.FixtureRequest) -> Rig:
    """One file of 8 pages, on a backend without and with `punch_hole`."""
    return make({KEY: CONTENT}, limits={"punch": request.param})


def zeroed(content: bytes, offset: int, length: int) -> bytes:
    end = min(offset + length, len(content))
    return content[:offset] + bytes(max(end - offset, 0)) + content[max(end, offset) :]


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 123])
@pytest.mark.parametrize("cached", [False, True])
def test_truncate_down_then_up_shows_zeros(stored: Rig, file: CachedFile, size: int, cached: bool) -> None:
    """Cut bytes do not come back, in the cache or on the backend. [T-44, 2.17]"""
    if cached:
        file.pread(8 * PAGE, 0)
    assert file.truncate(size) == size
    assert file.size == size
    assert file.pread(9 * PAGE, 0) == CONTENT[:size]
    assert file.truncate(9 * PAGE) == 9 * PAGE
    assert file.pread(9 * PAGE, 0) == CONTENT[:size] + bytes(9 * PAGE - size)
    file.fsync()
    assert stored.backend.committed(KEY) == CONTENT[:size] + bytes(9 * PAGE - size)
    stored.volume.invalidate(KEY)
    assert file.pread(9 * PAGE, 0) == CONTENT[:size] + bytes(9 * PAGE - size)


def test_a_view_of_the_tail_page_sees_zeros_after_the_file_grew(file: CachedFile) -> None:
    """A view is held across a truncate down and one up again. [T-44, M8]"""
    old = file.view(0, PAGE)
    file.truncate(1000)
    file.truncate(PAGE)
    with file.view(0, PAGE) as new:
        assert new.tobytes() == CONTENT[:1000] + bytes(PAGE - 1000)
    old.release()
    assert file.pread(PAGE, 0) == CONTENT[:1000] + bytes(PAGE - 1000)


def test_truncate_waits_for_what_is_in_flight(stored: Rig, file: CachedFile) -> None:
    """No write lands after it; the recorder notes overlaps. [T-15, T-29, 2.17]"""
    file.pwrite(b"d" * 8 * PAGE, 0)
    gate, flush = at_gate(stored.backend.gate("write_from"), file.flush)
    cut = Task(file.truncate, 10)
    assert cut.waits()
    flush.result(opening=gate)
    cut.result()
    file.fsync()
    assert stored.backend.committed(KEY) == b"d" * 10


@pytest.mark.parametrize("method", ["punch_hole", "zero_range"])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, PAGE),
        (100, 50),
        (100, PAGE),
        (PAGE, 2 * PAGE),
        (PAGE - 1, 2 * PAGE + 2),
        (7 * PAGE + 9, 5 * PAGE),
        (9 * PAGE, 10),
        (5, 0),
    ],
)
@pytest.mark.parametrize("state", ["uncached", "cached", "dirty"])
def test_zeroed_ranges_read_as_zeros_and_keep_the_size(
    stored: Rig, file: CachedFile, method: str, offset: int, length: int, state: str
) -> None:
    """They do whatever was cached or dirty there; on the backend too. [T-45, 2.17]"""
    content = CONTENT
    if state != "uncached":
        file.pread(8 * PAGE, 0)
    if state == "dirty":
        content = pattern(8 * PAGE, seed=3)
        file.pwrite(content, 0)
    getattr(file, method)(offset, length)
    assert file.size == 8 * PAGE
    assert file.pread(9 * PAGE, 0) == zeroed(content, offset, length)
    file.fsync()
    assert stored.backend.committed(KEY) == zeroed(content, offset, length)
    stored.volume.invalidate(KEY)
    assert file.pread(9 * PAGE, 0) == zeroed(content, offset, length)


THROTTLED = {"dirty_background": "32KiB", "dirty_limit": "64KiB", "throttle_timeout": 0.05}


def test_zeroing_that_ends_half_way_says_how_far_it_came(make: Make) -> None:
    """No room for dirty zeros: some of the range reads as zeros, the rest as before. [K13, 2.7, 2.17]"""
    content = pattern(64 * PAGE)
    rig = make({KEY: content}, "256KiB", **THROTTLED)
    rig.backend.gate("write_from", times=99)
    file = rig.open("r+b")
    caught = raises(BlockingIOError, file.zero_range, 100, 60 * PAGE)
    assert 0 < caught.characters_written < 60 * PAGE
    assert file.pread(64 * PAGE, 0) == zeroed(content, 100, caught.characters_written)


def test_a_hole_whose_zeros_end_half_way_says_how_far_it_came(make: Make) -> None:
    """The backend made its part, and there was no room for the zeros behind its end. [K13, 2.17]"""
    rig = make({KEY: CONTENT}, "256KiB", limits={"punch": True}, **THROTTLED)
    rig.backend.gate("write_from", times=99)
    file = rig.open("r+b")
    file.pwrite(b"tail", 60 * PAGE)
    caught = raises(BlockingIOError, file.punch_hole, 4 * PAGE, 60 * PAGE)
    done = caught.characters_written
    assert 4 * PAGE < done < 56 * PAGE
    assert rig.backend.written(KEY) == zeroed(CONTENT, 4 * PAGE, 4 * PAGE)
    assert file.pread(64 * PAGE, 0) == CONTENT[: 4 * PAGE] + bytes(56 * PAGE) + b"tail"


@pytest.mark.parametrize(
    ("what", "error", "done"),
    [("refused", errno.EACCES, 0), ("answer lost", errno.ECONNRESET, 2 * PAGE), ("commit", errno.EACCES, 2 * PAGE)],
)
def test_a_hole_that_raises_says_whether_it_is_there(make: Make, what: str, error: int, done: int) -> None:
    """None after a refusal; all of it after an unknown outcome or a failed commit. [K13]"""
    rig, file = make({KEY: CONTENT}, limits={"punch": True}, retry=ONCE).opened("r+b")
    op = {"refused": "punch_hole", "answer lost": "punch_hole answer", "commit": "commit"}[what]
    rig.backend.fault(op, OSError(error, "no"))
    caught = raises(OSError, file.punch_hole, PAGE, 2 * PAGE)
    assert caught.errno == error
    assert accepted_before(caught) == done
    assert file.pread(8 * PAGE, 0) == zeroed(CONTENT, PAGE, done)


def test_a_read_past_the_cache_beside_a_truncate_that_storage_has_already(make: Make) -> None:
    """No fill delays the truncate, and the bytes are already gone. [2.2, 2.17]"""
    content = pattern(64 * PAGE)
    rig = make({KEY: content}, capacity="64KiB")
    file, gate = rig.open("r+b"), rig.backend.gate("truncate answer")
    with file.view(0, 16 * PAGE):  # takes all the memory
        rig.backend.forget_calls()
        assert file.pread(PAGE, 39 * PAGE) == content[39 * PAGE : 40 * PAGE]
        assert file.pread(PAGE, 39 * PAGE) == content[39 * PAGE : 40 * PAGE]
        assert len(rig.backend.seen("read_into")) == 2  # past the cache
        _, cutter = at_gate(gate, file.truncate, 40 * PAGE + 5)
        try:
            readers = [Task(file.pread, 2 * PAGE, page * PAGE) for page in (40, 50)]
            assert all(reader.waits() for reader in readers)
        finally:
            gate.open()
        cutter.result()
        assert [reader.result() for reader in readers] == [content[40 * PAGE :][:5], b""]
