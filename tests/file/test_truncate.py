"""Truncate, holes and zeroed ranges: sizes, zeros, and no byte that comes back."""

from __future__ import annotations

import errno

import pytest

from pagecache import CachedFile

from .rig import KEY, ONCE, PAGE, Make, Rig, Task, accepted_before, at_gate, pattern, raises

CONTENT = pattern(8 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT})


def zeroed(content: bytes, offset: int, length: int) -> bytes:
    end = min(offset + length, len(content))
    return content[:offset] + bytes(max(end - offset, 0)) + content[max(end, offset) :]


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
    assert stored.saved(file) == b"d" * 10


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
    file = rig.dirtied(b"tail", 60 * PAGE)
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
    caught = rig.fails(op, OSError(error, "no"), OSError, file.punch_hole, PAGE, 2 * PAGE)
    assert caught.errno == error
    assert accepted_before(caught) == done
    assert file.pread(8 * PAGE, 0) == zeroed(CONTENT, PAGE, done)


def test_a_read_past_the_cache_beside_a_truncate_that_storage_has_already(make: Make) -> None:
    """No fill delays the truncate, and the bytes are already gone; also of a direct read. [T-27, 2.2, 2.9, 2.17]"""
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
            direct = rig.open("rb", direct=True)
            readers = [Task(handle.pread, 2 * PAGE, page * PAGE) for handle in (file, direct) for page in (40, 50)]
            assert all(reader.waits() for reader in readers)
        finally:
            gate.open()
        cutter.result()
        assert [reader.result() for reader in readers] == [content[40 * PAGE :][:5], b""] * 2
