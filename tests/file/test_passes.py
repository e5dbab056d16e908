"""Passes of the background: which bytes are written back without a request, in which order, and which calls wait for
which.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

import pagecache
from pagecache.engine import flusher

from ..stores import WAIT_LIMIT_S, RecordingFile
from .clock import HandClock, after_flusher_turn
from .rig import KEY, PAGE, Make, Patch, Rig, Task, accepted_before, at_gate, dirty_bytes, eventually, pattern, raises

KIB, MIB = 1 << 10, 1 << 20
UNIT = 64 * KIB
AGE = {"dirty_expire": 30.0, "flush_interval": 5.0}


def sent(rig: Rig) -> list[tuple[object, int, int]]:
    return [(call.key, call.offset, call.length) for call in rig.backend.seen("write_from")]


def turns(rig: Rig, clock: HandClock, count: int, seconds: float) -> None:
    """Let time pass, with a turn of the flusher after each step."""
    for _ in range(count):
        clock.advance(seconds)
        after_flusher_turn(rig.cache)


# ---------------------------------------------------------------------------------------------- dirty age


def test_old_data_is_written_back_whatever_the_thresholds_say(make: Make, clock: HandClock) -> None:
    """It goes at `dirty_expire`, neither before nor later, however much other data is written. [2.11]"""
    rig, file = make({KEY: bytes(100 * PAGE)}, **AGE).opened()
    file.pwrite(b"old", 0)
    for _ in range(5):
        clock.advance(5.0)
        after_flusher_turn(rig.cache)
        file.pwrite(b"young", 50 * PAGE)  # keeps the file dirty all the time
    assert sent(rig) == []
    clock.advance(5.0)
    # data that is due takes all of its file along
    eventually(lambda: {(KEY, 0, 3), (KEY, 50 * PAGE, 5)} <= set(sent(rig)))
    rig.backend.forget_calls()
    file.pwrite(b"newer", 10 * PAGE)
    turns(rig, clock, 5, 5.0)
    assert sent(rig) == []
    clock.advance(5.0)
    eventually(lambda: (KEY, 10 * PAGE, 5) in sent(rig))


def test_old_data_is_written_back_and_not_committed(make: Make, clock: HandClock) -> None:
    """As the tutorial says: after `dirty_expire` the bytes are unstable, and time alone never commits them. [2.11]"""
    rig, file = make({KEY: b""}, **AGE).opened()
    file.pwrite(b"five!", 0)
    clock.advance(30.0)
    eventually(lambda: rig.volume.stats().unstable == PAGE)
    turns(rig, clock, 5, 3600.0)
    stats = rig.volume.stats()
    assert (stats.write_requests, stats.commits, stats.dirty, stats.unstable) == (1, 0, 0, PAGE)
    assert rig.backend.seen("commit") == []
    file.fsync()
    assert (rig.volume.stats().commits, rig.volume.stats().unstable) == (1, 0)


def test_an_age_below_the_interval_of_looks_is_kept(make: Make, clock: HandClock) -> None:
    """The flusher checks as often as the age needs. [2.11]"""
    rig = make({KEY: b""}, dirty_expire=0.5, flush_interval=3600.0)
    rig.open().pwrite(b"x", 0)
    clock.advance(0.5)
    eventually(lambda: sent(rig) == [(KEY, 0, 1)])


def test_a_turn_of_the_flusher_that_takes_some_files_is_followed_by_another(
    make: Make, clock: HandClock, monkeypatch: Patch
) -> None:
    """At once: the clock stands still. [2.11]"""
    monkeypatch.setattr(flusher, "TURN", 2)
    rig = make(dict.fromkeys("abcde", b""), **AGE)
    for name in "abcde":
        rig.open(key=name).pwrite(b"x", 0)
    clock.advance(30.0)
    eventually(lambda: len(sent(rig)) == 5)


def test_the_oldest_goes_first_and_files_take_turns(make: Make, clock: HandClock) -> None:
    """Files are sent in the order in which they became dirty, one request each in turn. [2.11, T-29]"""
    rig = make({name: bytes(16 * PAGE) for name in "abc"}, limits={"max_inflight": 1, "max_write": PAGE}, **AGE)
    for name in "bca":
        file = rig.open(key=name)
        for page in range(3):
            file.pwrite(name.encode() * PAGE, page * PAGE)
        clock.advance(1.0)
        after_flusher_turn(rig.cache)
    assert sent(rig) == []
    with rig.backend.gate("write_from") as gate:
        clock.advance(30.0)
        gate.wait_entered()
        after_flusher_turn(rig.cache)  # all three are due, and wait behind the first call
    eventually(lambda: len(sent(rig)) == 9)
    order = "".join(str(key) for key, _, _ in sent(rig))
    assert sorted("abc", key=order.index) == ["b", "c", "a"]
    for end in range(1, 9):
        counts = [order[:end].count(name) for name in "abc"]
        assert max(counts) - min(counts) <= 2, order


def test_an_old_file_has_its_turn_beside_a_long_fsync(make: Make, clock: HandClock) -> None:
    """With one call at a time it waits for one request, not for the rest of the fsync. [2.11]"""
    rig = make({"big": b"", "old": b""}, limits={"max_inflight": 1, "max_write": PAGE}, **AGE)
    old, big = rig.open(key="old"), rig.open(key="big")
    old.pwrite(b"old", 0)
    big.pwrite(bytes(40 * PAGE), 0)
    gate, sync = at_gate(rig.backend.gate("write_from", "big"), big.fsync)
    clock.advance(30.0)
    after_flusher_turn(rig.cache)
    sync.result(opening=gate)
    assert [key for key, _, _ in sent(rig)].index("old") <= 2


def test_age_waits_behind_a_commit_and_is_not_forgotten(make: Make, clock: HandClock) -> None:
    """The token is taken at that moment: the data goes when it is free, without another check of the clock. [2.11]"""
    rig, file = make({KEY: b""}, **AGE).opened()
    file.pwrite(b"one", 0)
    gate, sync = at_gate(rig.backend.gate("commit"), file.fsync)
    file.pwrite(b"two", PAGE)
    clock.advance(30.0)
    after_flusher_turn(rig.cache)
    assert len(sent(rig)) == 1
    sync.result(opening=gate)
    eventually(lambda: (KEY, PAGE, 3) in sent(rig))


def test_age_that_gave_way_goes_on(make: Make, clock: HandClock) -> None:
    """A truncate comes in the middle of a long pass: all old data arrives without another check of the clock. [2.11]"""
    rig, file = make({KEY: b""}, limits={"max_write": PAGE, "max_inflight": 2}, **AGE).opened()
    file.pwrite(bytes(200 * PAGE), 0)
    gate = rig.backend.gate("write_from")
    clock.advance(30.0)
    gate.wait_entered()
    cut = Task(file.truncate, 300 * PAGE)
    eventually(lambda: not file._inode.pass_idle() and cut.waits(0.01))
    cut.result(opening=gate)
    eventually(lambda: len({offset for _, offset, _ in sent(rig)}) == 200)


def test_bytes_written_beside_an_aged_pass_have_their_own_age(make: Make, clock: HandClock) -> None:
    """The file is dirty all the time; young data is sent at its time and not before. [2.11]"""
    rig, file = make({KEY: b""}, limits={"max_write": PAGE, "max_inflight": 1}, **AGE).opened()
    file.pwrite(bytes(3 * PAGE), 0)
    with rig.backend.gate("write_from") as gate:
        clock.advance(30.0)
        gate.wait_entered()
        file.pwrite(b"young", 8 * PAGE)
    eventually(lambda: len(sent(rig)) == 3)
    turns(rig, clock, 4, 5.0)
    assert len(sent(rig)) == 3
    clock.advance(10.0)
    eventually(lambda: sent(rig)[-1] == (KEY, 8 * PAGE, 5))


def test_failed_data_is_not_hurried_by_its_age(make: Make, clock: HandClock) -> None:
    """Data that waits after a failure keeps its own time; its age starts no call. [2.11, 2.14]"""
    rig = make(
        {KEY: b""},
        retry=pagecache.RetryPolicy(attempts=1, first_delay=1.0, max_delay=1.0, deadline=None, failed_retry=1000.0),
        **AGE,
    )
    fault = rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), times=float("inf"))
    file = rig.open()
    file.pwrite(b"x", 0)
    raises(pagecache.WritebackError, file.flush)
    turns(rig, clock, 10, 30.0)
    assert fault.nr_hit == 1


def test_age_does_not_count_where_only_commits_make_bytes_visible(make: Make, clock: HandClock) -> None:
    """A write-back would protect nothing. [2.11]"""
    rig, file = make({KEY: b""}, limits={"commit_on_close": True, "write_unit": UNIT}, **AGE).opened()
    file.pwrite(b"x" * 1000, 0)
    turns(rig, clock, 10, 30.0)
    assert sent(rig) == []
    file.fsync()
    assert sent(rig) == [(KEY, 0, 1000)]


# ---------------------------------------------------------------------------------------------- growing objects


def test_flush_of_a_growing_object_starts_whole_units_and_does_not_wait(make: Make) -> None:
    """The call returns while the backend still has them; incomplete units stay. [2.15, 2.12]"""
    rig, file = make({KEY: bytes(4 * UNIT)}, limits={"commit_on_close": True, "write_unit": UNIT}).opened()
    file.pwrite(bytes(UNIT - 1), 0)
    Task(file.flush).result()
    with rig.backend.gate("write_from") as gate:
        file.pwrite(b"x", UNIT - 1)
        file.pwrite(b"x", 2 * UNIT)
        Task(file.flush).result()
        gate.wait_entered()
    eventually(lambda: dirty_bytes(rig.volume) <= UNIT + PAGE)
    assert sent(rig) == [(KEY, 0, UNIT)]


def test_a_growing_object_is_sent_by_as_many_calls_as_its_file_may_have(make: Make, monkeypatch: Patch) -> None:
    """However large its units are: one pass may take one for each call of the volume. [2.11]"""
    monkeypatch.setattr(flusher, "PASS_BUDGET", UNIT)
    limits = {"commit_on_close": True, "write_unit": UNIT, "max_write": UNIT, "max_inflight": 9}
    rig, file = make({KEY: b""}, limits=limits).opened()
    with rig.backend.gate("write_from") as first, rig.backend.gate("write_from", times=8) as others:
        file.pwrite(bytes(UNIT), 0)
        first.wait_entered()
        for at in range(UNIT, 9 * UNIT, PAGE):  # small folios: a large one is taken as a whole
            file.pwrite(bytes(PAGE), at)
        first.open()
        eventually(lambda: others.nr_entered == 8)
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(9 * UNIT)


def test_partly_dirty_units_go_only_when_nothing_else_makes_room(make: Make) -> None:
    """A writer at the limit sends them, and gets an error if that does not help. [2.11, 2.23]"""
    rig, file = make(
        {KEY: bytes(4 * MIB)},
        capacity="1MiB",
        dirty_background="64KiB",
        dirty_limit="128KiB",
        limits={"commit_on_close": True, "write_unit": UNIT},
        options={"spool": None},
    ).opened()
    for unit in range(20):  # 80 KiB: above dirty_background, below the midpoint
        file.pwrite(b"x", unit * UNIT)
    after_flusher_turn(rig.cache)
    after_flusher_turn(rig.cache)
    assert sent(rig) == []
    with pytest.raises(pagecache.PageCacheError) as caught:
        for unit in range(20, 60):
            Task(file.pwrite, b"x", unit * UNIT).result()
    assert caught.value.errno == errno.ENOBUFS
    assert all(length % UNIT == 0 for _, _, length in sent(rig))
    assert sum(length for _, _, length in sent(rig)) >= 20 * UNIT


def test_write_through_of_many_threads_goes_side_by_side(make: Make) -> None:
    """Eight threads on one file: as many requests as one file may have are in the backend together. [T-79, 2.11]"""
    rig = make({KEY: bytes(64 * PAGE)}, options={"write_through": True})
    together = threading.Barrier(7)

    def meet(file: RecordingFile, offset: int, buffers: list[memoryview]) -> int:
        together.wait(WAIT_LIMIT_S)
        return file.store(offset, buffers)

    rig.backend.fault("write_from", meet, times=7)
    file = rig.open()
    tasks = [Task(file.pwrite, bytes([n]) * PAGE, 2 * n * PAGE) for n in range(8)]
    assert [task.result() for task in tasks] == [PAGE] * 8
    assert rig.backend.nr_transfers_max == 7


def test_a_write_through_of_several_pages_is_one_request(make: Make) -> None:
    """There are as few calls as the limits allow, whatever the folios. [T-36, 2.8]"""
    rig, file = make({KEY: b""}, limits={"max_write": 128 * KIB}).opened(write_through=True)
    data = pattern(300 * KIB)
    file.pwrite(data, 0)
    assert sorted(sent(rig)) == [(KEY, 0, 128 * KIB), (KEY, 128 * KIB, 128 * KIB), (KEY, 256 * KIB, 44 * KIB)]
    rig.backend.forget_calls()
    file.pwrite(data[:5000], 1000)
    assert sum(length for _, _, length in sent(rig)) <= 2 * PAGE
    assert len(sent(rig)) == 1
    assert rig.backend.written(KEY) == data[:1000] + data[:5000] + data[6000:]
    rig.backend.forget_calls()
    assert file.pwritev([b"x" * 100] * 50, 0) == 5000
    assert len(sent(rig)) == 1


@pytest.mark.parametrize("direct", [False, True], ids=["write_through", "direct through the cache"])
@pytest.mark.parametrize("verb", ["append", "pwrite", "pwritev", "write"])
def test_a_failed_write_through_says_that_its_bytes_were_accepted(make: Make, verb: str, direct: bool) -> None:
    """A program that goes on after `characters_written` writes none twice. [2.7, 2.8, 2.9]"""
    rig = make({KEY: b""}, limits={"write_unit": 512} if direct else {})
    file = rig.open(direct=True) if direct else rig.open(write_through=True)
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: file.append(b"abcdef"),
        "pwrite": lambda: file.pwrite(b"abcdef", 0),
        "pwritev": lambda: file.pwritev([b"abc", b"def"], 0),
        "write": lambda: file.write(b"abcdef"),
    }
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"))
    caught = raises(pagecache.WritebackError, calls[verb])
    accepted = accepted_before(caught)
    assert accepted > 0
    assert file.pread(10, 0) == b"abcdef"[:accepted]
    if verb == "write":
        assert file.tell() == 6
    file.pwrite(b"abcdef"[accepted:], accepted)
    file.fsync()
    assert rig.backend.committed(KEY) == b"abcdef"


@pytest.mark.parametrize(("cow_limit", "waits"), [("2MiB", False), ("64KiB", False), ("32KiB", True), (0, True)])
def test_a_write_to_a_folio_in_flight_copies_up_to_cow_limit(make: Make, cow_limit: str | int, waits: bool) -> None:
    """Above it the writer waits for the call; both versions arrive in order. [T-11, 2.7]"""
    rig, file = make({KEY: b""}, cow_limit=cow_limit, max_folio="64KiB").opened()
    old = pattern(64 * KIB)
    file.pwrite(old, 0)
    gate, sync = at_gate(rig.backend.gate("write_from"), file.fsync)
    writer = Task(file.pwrite, b"new", 100)
    if waits:
        assert writer.waits()
        assert file.pread(3, 100) == old[100:103]
    else:
        assert writer.result() == 3
    sync.result(opening=gate)
    writer.result()
    assert rig.cache.stats().cow_copies == (0 if waits else 1)
    file.fsync()
    assert rig.backend.committed(KEY) == old[:100] + b"new" + old[103:]
