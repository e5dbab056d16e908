"""Writers that dirty faster than a backend takes: pauses, the queue at the limit, shares of volumes, stalls. A thread
that writes without pause does not keep the engine from writing back.

Passes of the background: which bytes are written back without a request, in which order, and which calls wait for
which.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable
from resource import RUSAGE_THREAD, getrusage

import pytest

import pagecache
from pagecache import PageCache, RetryPolicy, Volume
from pagecache.engine import flusher, throttle
from pagecache.engine.throttle import PAUSE_MAX, PAUSE_MIN, Pace
from pagecache.native import Pressure

from ..stores import WAIT_LIMIT_S, RecordingBackend, RecordingFile
from .clock import HandClock, after_flusher_turn
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, accepted_before, at_gate, eventually, pattern, raises

KIB, MIB = 1 << 10, 1 << 20


def throttled(volume: Volume) -> int:
    return volume.engine.native.pressure().throttled


def after_a_turn(rig: Rig) -> Rig:
    """The rig, once the flusher has examined everything again."""
    after_flusher_turn(rig.cache)
    return rig


def local(cache: PageCache) -> int:
    return cache.native.usage()["local"]


def pressed(position: int, throttled: int = 1, acked: int = 0) -> Pressure:
    return Pressure(
        local=0, limit=0, acked=acked, answers=0, position=position, over_background=1, throttled=throttled, running=1
    )


def test_pauses_make_writers_as_fast_as_completions() -> None:
    """At the limit exactly as fast, half way twice as fast; 10 to 200 ms each. [2.24]"""
    pace = Pace()
    assert pace.pause(MIB, pressed(500)) == (PAUSE_MIN, MIB)  # no rate is known yet
    pace.sample(pressed(0), 100.0)
    for tenth in range(1, 41):
        pace.sample(pressed(0, acked=tenth * MIB), 100.0 + tenth / 10)  # 10 MiB a second
    assert pace.rate == pytest.approx(10 * MIB)
    for length, pressure, seconds in [
        (MIB, pressed(1000), 0.1),
        (MIB, pressed(500), 0.05),
        (MIB // 2, pressed(1000, throttled=3), 0.15),
        (100 * MIB, pressed(1000), PAUSE_MAX),
    ]:
        paused, granted = pace.pause(length, pressure)
        assert granted == length
        assert paused == pytest.approx(seconds)
    paused, granted = pace.pause(PAGE, pressed(1000))  # a small write also pauses for later ones
    assert paused == PAUSE_MIN
    assert granted == pytest.approx(0.1 * MIB, rel=0.01)


def test_a_rate_is_measured_only_while_something_runs() -> None:
    """Idle time and long gaps between turns do not count; a backend that stands still is slow. [2.24]"""
    pace = Pace()
    idle = Pressure(local=0, limit=0, acked=0, answers=0, position=0, over_background=0, throttled=0, running=0)
    pace.sample(idle, 0.0)
    pace.sample(idle, 5.0)
    assert pace.rate is None
    pace.sample(pressed(0, acked=MIB), 5.1)
    assert pace.rate == pytest.approx(10 * MIB)
    pace.sample(pressed(0, acked=2 * MIB), 15.0)
    assert pace.rate == pytest.approx(10 * MIB)
    for tenth in range(50):
        pace.sample(pressed(0, acked=2 * MIB), 15.1 + tenth / 10)
    assert (pace.rate or 0) < MIB


@pytest.mark.parametrize("end", ["the clock", "room"])
def test_below_the_midpoint_no_writer_waits_and_above_it_writers_pause(make: Make, clock: HandClock, end: str) -> None:
    """The backend may be stuck. A pause ends by the clock long before the limit, or when there is room. [2.24]"""
    limits = {"durable_writes": end == "room"}
    rig = make({KEY: b""}, capacity="1MiB", dirty_background="128KiB", dirty_limit="256KiB", limits=limits)
    with rig.backend.gate("write_from", times=1000):
        file = rig.open()
        for page in range(48):  # 192 KiB: the midpoint
            Task(file.pwrite, bytes(PAGE), page * PAGE).result()
        assert rig.cache.stats().throttled_seconds == 0.0
        writer = Task(file.pwrite, bytes(PAGE), 48 * PAGE)
        assert writer.waits()
        assert local(rig.cache) == 192 * KIB
        Task(file.pread, PAGE, 0).result()
        if end == "the clock":
            clock.advance(PAUSE_MAX)
            assert writer.result() == PAGE
            assert rig.cache.stats().throttled_seconds == pytest.approx(PAUSE_MAX)
    assert writer.result() == PAGE


def full(make: Make, **config: object) -> Rig:
    """A volume whose limit is 64 KiB, 60 of them in four calls that hang, each with its own gate."""
    rig = make(
        dict.fromkeys(("full", "a", "b", "c", "d"), b""),
        capacity="1MiB",
        max_folio="4KiB",
        dirty_background="60KiB",
        dirty_limit="64KiB",
        limits={"durable_writes": True, "max_write": 16 * KIB},
        **config,
    )
    gates = [rig.backend.gate("write_from") for _ in range(16)]
    file = rig.dirtied(bytes(60 * KIB), 0, key="full")
    Task(file.flush)
    eventually(lambda: sum(gate.nr_entered for gate in gates) == 4)
    assert local(rig.cache) == 60 * KIB
    return rig


def in_line(rig: Rig, *names: str) -> dict[str, Task[int]]:
    """Writers of one piece each, queued in this order; that of "d" is a byte."""
    tasks = {}
    for count, name in enumerate(names, throttled(rig.volume) + 1):
        tasks[name] = Task(rig.open(key=name).pwrite, name.encode() * (1 if name == "d" else 16 * KIB), 0)
        eventually(lambda count=count: throttled(rig.volume) == count)  # type: ignore[misc]
        assert tasks[name].waits(0.15)  # past its first check: in line
    return tasks


def test_writers_at_the_limit_go_on_in_the_order_in_which_they_came(make: Make) -> None:
    """Each completion lets one go on, the first. A small write waits, though it would fit. [2.24]"""
    rig = full(make)
    tasks = in_line(rig, "c", "a", "b", "d")
    for name, behind in (("c", "abd"), ("a", "bd"), ("b", ""), ("d", "")):  # behind "b" the byte is the first, and fits
        next(gate for gate in rig.backend.gates if gate.nr_entered and not gate.release.is_set()).open()
        assert tasks[name].result() == (1 if name == "d" else 16 * KIB)
        assert not any(tasks[other].finished.is_set() for other in behind)
        assert local(rig.cache) <= 64 * KIB


def test_a_discard_and_a_new_limit_let_writers_go_on(make: Make) -> None:
    """Each of them makes room and wakes the queue. [2.24]"""
    rig = full(make)
    first = in_line(rig, "a")["a"]
    rig.cache.configure(dirty_background="64KiB", dirty_limit="128KiB")
    first.result()
    rig = make(
        {KEY: b"", "other": b""}, capacity="1MiB", dirty_background="16KiB", dirty_limit="64KiB", failed_limit=1.0,
        retry=pagecache.RetryPolicy(attempts=1, failed_retry=None),
    )  # fmt: skip
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key=KEY, times=float("inf"))
    rig.open().pwrite(bytes(40 * KIB), 0)
    eventually(lambda: sum(r.length for r in rig.volume.failed()) == 40 * KIB)
    gate, writer = at_gate(rig.backend.gate("write_from", "other"), rig.open(key="other").pwrite, bytes(28 * KIB), 0)
    assert writer.waits()
    rig.volume.discard(KEY)
    assert writer.result() == 28 * KIB
    gate.open()


@pytest.mark.parametrize(
    ("folio", "piece"), [("4KiB", 1000), ("64KiB", 10_000), ("64KiB", 3 * PAGE), ("2MiB", 3 * MIB)]
)
def test_the_limit_is_kept_to_the_page(make: Make, folio: str, piece: int) -> None:
    """Eight writers, folios of any size: local bytes are counted in pages, and never pass the limit. [T-35, 2.24]"""
    limit = 512 * KIB if piece < MIB else 4 * MIB
    rig = make(capacity="32MiB", max_folio=folio, dirty_background=limit // 2, dirty_limit=limit)
    peaks = [0]
    total = 8 * 2 * limit

    def look(file: RecordingFile, offset: int, buffers: list[memoryview]) -> int:
        peaks[0] = max(peaks[0], local(rig.cache))
        return file.store(offset, buffers)

    rig.backend.fault("write_from", look, times=float("inf"))

    def writer(name: int) -> None:
        with rig.volume.open(f"f{name}", "w+b") as file:
            for offset in range(0, total // 8, piece):
                file.pwrite(bytes([name]) * min(piece, total // 8 - offset), offset)
                peaks[0] = max(peaks[0], local(rig.cache))

    for task in [Task(writer, name) for name in range(8)]:
        task.result(100)
    assert limit // 4 <= peaks[0] <= limit
    rig.volume.sync(60)
    for name in range(8):
        assert rig.backend.committed(f"f{name}") == bytes([name]) * (total // 8)
    assert rig.cache.native.usage()["local"] == 0


def test_a_dead_volume_does_not_slow_another(make: Make) -> None:
    """It holds the whole dirty budget; writes and fsync of another volume go on. [T-35, T-62, 2.24]"""
    rig = make(
        {KEY: b""}, capacity="4MiB", dirty_background="256KiB", dirty_limit="512KiB", options={"dirty_share": 1.0}
    )
    gate = rig.backend.gate("write_from", times=1000)
    dead = Task(rig.open().pwrite, bytes(2 * MIB), 0)
    eventually(lambda: local(rig.cache) == 512 * KIB)
    assert dead.waits()
    healthy = RecordingBackend({"free": b""})
    data = pattern(MIB)
    with rig.cache.attach(healthy, name="healthy").open("free", "r+b") as file:

        def work() -> None:
            for offset in range(0, len(data), 3 * PAGE):
                file.pwrite(data[offset : offset + 3 * PAGE], offset)
            file.fsync()

        Task(work).result()
    assert healthy.committed("free") == data
    assert not dead.finished.is_set()
    dead.result(opening=gate)


def test_shares_follow_what_volumes_complete(make: Make) -> None:
    """A volume that completes gets most, the others keep a floor, `dirty_share` bounds all. [2.24]"""
    rig = make({KEY: b""}, capacity="8MiB", dirty_background="512KiB", dirty_limit="1MiB")
    other = rig.cache.attach(RecordingBackend({KEY: b""}), name="other")
    third = rig.cache.attach(RecordingBackend({KEY: b""}), name="third", dirty_share=0.125)

    def shares() -> list[int]:
        return [volume.engine.native.pressure().limit for volume in (rig.volume, other, third)]

    assert MIB - 16 * PAGE <= sum(shares()[:2]) + MIB // 3 <= MIB
    assert shares()[2] == MIB // 8
    file = rig.open()
    for _ in range(32):
        file.pwrite(bytes(512 * KIB), 0)
        file.fsync()
        eventually(lambda: after_a_turn(rig).volume.engine.pace.done > 0)
    eventually(lambda: after_a_turn(rig) and shares()[0] > 900 * KIB)
    assert shares()[1] >= MIB // 24 - PAGE
    with other.open(KEY, "r+b") as busy:
        for _ in range(8):  # fewer than the first one ever completed, but recently
            busy.pwrite(bytes(512 * KIB), 0)
            busy.fsync()
            after_flusher_turn(rig.cache)
    eventually(lambda: after_a_turn(rig) and shares()[1] > shares()[0])
    assert sum(shares()[:2]) <= MIB


def test_a_volume_above_its_own_background_is_written_back(make: Make) -> None:
    """The cache as a whole is far below it. [2.24]"""
    rig = make({KEY: b""}, capacity="8MiB", dirty_background="2MiB", dirty_limit="4MiB", options={"dirty_share": 0.125})
    file = rig.dirtied(bytes(256 * KIB), 0)
    after_flusher_turn(rig.cache)
    assert rig.backend.seen("write_from") == []
    file.pwrite(bytes(PAGE), 256 * KIB)
    eventually(lambda: rig.backend.seen("write_from"))


def test_the_largest_holders_are_committed_above_half_the_limit(make: Make) -> None:
    """It goes on until half the limit is left; small ones stay as they are. [2.24]"""
    rig = make({"big": b"", "small": b""}, capacity="8MiB", dirty_background="1800KiB", dirty_limit="2MiB")
    big, small = rig.open(key="big"), rig.open(key="small")
    small.pwrite(bytes(100 * KIB), 0)
    small.flush()
    big.pwrite(bytes(900 * KIB), 0)
    big.flush()
    after_flusher_turn(rig.cache)
    assert rig.backend.seen("commit") == []
    big.pwrite(bytes(200 * KIB), MIB)
    big.flush()
    rig.cache.flusher.wake()
    eventually(lambda: rig.cache.stats().unstable == 100 * KIB)
    assert [call.key for call in rig.backend.seen("commit")] == ["big"]


FULL = OSError(errno.ENOSPC, "no space left on device")
RETRIED = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=0.001)
SMALL = {"capacity": "1MiB", "dirty_background": "64KiB", "dirty_limit": "128KiB", "failed_limit": 1.0}


def filled(make: Make, names: list[str], retry: RetryPolicy = ONCE) -> Rig:
    """A cache that is full of bytes of closed files, whose write-back has failed for good, and one more file."""
    rig = make(dict.fromkeys([*names, KEY], b""), retry=retry, **SMALL)
    files = [rig.open(key=name) for name in names]
    for name in names:
        rig.backend.fault("write_from", FULL, key=name, times=math.inf)
    for file in files:
        file.pwrite(bytes(128 * KIB // len(names) // PAGE * PAGE), 0)
        raises(pagecache.WritebackError, file.close)
    return rig


def test_a_writer_beside_retries_that_always_fail_gets_an_error(make: Make, monkeypatch: Patch) -> None:
    """However short `failed_retry` is: at each check a retry runs, and none of them makes room. [2.23, 2.14]"""
    rig = filled(make, ["full"], RETRIED)
    began, answer = threading.Semaphore(0), threading.Semaphore(0)

    def fails(*_ignored: object) -> int:
        began.release()
        assert answer.acquire(timeout=WAIT_LIMIT_S)
        raise FULL

    rig.backend.clear_faults()
    rig.backend.fault("write_from", fails, key="full", times=math.inf)
    checks, make_room = [], throttle._Wait.make_room

    def beside_a_retry(wait: throttle._Wait, length: int) -> bool:
        assert began.acquire(timeout=WAIT_LIMIT_S)
        checks.append(wait)
        assert len(checks) < 3 * throttle.HOPELESS_CHECKS_MAX, "the writer waits on"
        try:
            return make_room(wait, length)
        finally:
            answer.release()

    monkeypatch.setattr(throttle._Wait, "make_room", beside_a_retry)
    try:
        with pytest.raises(pagecache.PageCacheError, match="could not be written back") as caught:
            Task(rig.open().pwrite, bytes(MIB), 0).result()
    finally:
        rig.backend.clear_faults()
        answer.release(1000)
    assert caught.value.errno == errno.ENOBUFS


def test_a_writer_that_does_not_fit_beside_bytes_that_are_kept_does_not_wait_for_others(make: Make) -> None:
    """Write-back of other bytes goes on, and makes too little room. [2.23]"""
    rig = make({"full": b"", "other": b"", KEY: b""}, retry=ONCE, **SMALL)
    full, other = rig.open(key="full"), rig.open(key="other")
    rig.backend.fault("write_from", FULL, key="full", times=math.inf)
    full.pwrite(bytes(104 * KIB), 0)
    raises(pagecache.WritebackError, full.flush)
    with rig.backend.gate("write_from", "other") as gate:
        other.pwrite(bytes(8 * KIB), 0)
        _, saving = at_gate(gate, other.flush)
        writing = Task(rig.open().pwrite, bytes(64 * KIB), 0)
        assert writing.waits()
        rig.volume.retry_failed()
        error = raises(pagecache.PageCacheError, writing.result, match="could not be written back")
        assert error.errno == errno.ENOBUFS
    saving.result()
    assert rig.open().pwrite(bytes(16 * KIB), 0) == 16 * KIB


@pytest.mark.parametrize("what", ["a retry", "a commit", "a commit that fails"])
def test_a_writer_waits_for_a_call_that_may_make_room(make: Make, monkeypatch: Patch, what: str) -> None:
    """A retry that has not failed, or the commit of an object that nothing else saves. [2.23]"""
    saving: list[Task[None]] = []
    if what == "a retry":
        rig = filled(make, ["full"])
        rig.backend.clear_faults()
        gate = rig.backend.gate("write_from", "full")
        rig.volume.retry_failed()
    else:
        whole = {"limits": {"commit_on_close": True}, "options": {"spool": None}}
        rig, file = make({"full": b"", KEY: b""}, retry=ONCE, **SMALL, **whole).written(bytes(96 * KIB), 0, key="full")
        file.flush()
        if what == "a commit that fails":
            rig.backend.fault("commit", OSError(errno.ENOSPC, "no space left on device"))
        gate = rig.backend.gate("commit", "full")
        saving.append(Task(file.fsync))
    checked, count = threading.Semaphore(0), throttle.Checks.count

    def counted(checks: throttle.Checks, *, hopeless: bool) -> None:
        count(checks, hopeless=hopeless)
        checked.release()

    monkeypatch.setattr(throttle.Checks, "count", counted)
    monkeypatch.setattr(throttle, "HOPELESS_CHECKS_MAX", 3)
    with gate:
        gate.wait_entered()
        writing = Task(rig.open().pwrite, bytes(96 * KIB), 0)
        for _ in range(4):
            assert checked.acquire(timeout=WAIT_LIMIT_S)
    if what == "a commit that fails":
        raises(pagecache.WritebackError, saving[0].result)
        assert raises(pagecache.PageCacheError, writing.result).errno == errno.ENOBUFS
    else:
        assert [task.result() for task in saving] == [None] * len(saving)
        assert writing.result() == 96 * KIB


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_writer_beside_commits_that_always_fail_gets_an_error(make: Make, code: int) -> None:
    """The bytes are acknowledged again and again. [2.23, 2.16]"""
    rig = make({"full": b"", KEY: b""}, retry=RETRIED, **SMALL)
    rig.backend.fault("commit", OSError(code, "not now"), key="full", times=math.inf)
    with pytest.raises(pagecache.WritebackError), rig.open(key="full") as file:
        file.pwrite(bytes(128 * KIB), 0)
        file.fsync()
    caught = raises(pagecache.PageCacheError, lambda: Task(rig.open().pwrite, bytes(MIB), 0).result())
    assert caught.errno == errno.ENOBUFS


def test_a_cache_full_of_many_failed_files_is_an_error(make: Make, monkeypatch: Patch) -> None:
    """Also if no check visits all of them. [2.23]"""
    rig = filled(make, [f"full {k}" for k in range(7)], RETRIED)
    monkeypatch.setattr(throttle, "VISITS_MAX", 1)
    caught = raises(pagecache.PageCacheError, lambda: Task(rig.open().pwrite, bytes(MIB), 0).result())
    assert caught.errno == errno.ENOBUFS


@pytest.mark.parametrize("change", ["append", "zero_range", "punch_hole"])
def test_no_writer_waits_for_a_file_with_budget_that_its_holder_needs(make: Make, change: str) -> None:
    """Writers in line for the lock have none of it reserved. [2.24]"""
    rig = make(
        {KEY: bytes(64 * PAGE)},
        capacity="256KiB",
        dirty_background="16KiB",
        dirty_limit="32KiB",
        limits={"parallel_direct_writes": True},
    )
    buffered, direct = rig.open(), rig.open(direct=True, parallel_direct_writes=True)
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: buffered.append(bytes(16 * PAGE)),
        "zero_range": lambda: buffered.zero_range(0, 16 * PAGE),
        "punch_hole": lambda: buffered.punch_hole(1, 16 * PAGE),
    }
    with rig.backend.gate("write_from") as gate:
        sent = Task(direct.pwrite, bytes(PAGE), 0)  # with the file's lock
        gate.wait_entered()
        held = rig.cache.stats().lock_waits
        first = Task(calls[change])
        eventually(lambda: rig.cache.stats().lock_waits >= held + 1)
        others = [Task(buffered.pwrite, pattern(2 * PAGE), k * 2 * PAGE) for k in range(16, 24)]
        eventually(lambda: rig.cache.stats().lock_waits >= held + 5 or throttled(rig.volume) >= 4)
    sent.result()
    first.result()
    for other in others:
        assert other.result() == 2 * PAGE
    assert rig.cache.stats().dirty <= 32 * KIB


NAPS = 200
"""Far more voluntary context switches than a thread has that only writes."""


def test_a_writer_without_pause_steps_aside_while_a_backend_call_runs(make: Make) -> None:
    """The engine's threads get the interpreter lock while it sleeps, without waiting for a switch interval. [P22]"""
    rig, file, other = make({KEY: b"", "other": b""}).both(key="other")
    other.pwrite(bytes(PAGE), 0)
    with rig.backend.gate("write_from") as gate:
        _, flushing = at_gate(gate, other.flush)

        def write() -> None:
            before, end = getrusage(RUSAGE_THREAD).ru_nvcsw, time.monotonic() + WAIT_LIMIT_S
            while getrusage(RUSAGE_THREAD).ru_nvcsw < before + NAPS:
                file.pwrite(b"y" * 100, 0)
                assert time.monotonic() < end, "it keeps the interpreter lock"

        Task(write).result(2 * WAIT_LIMIT_S)
    flushing.result()


UNIT = 64 * KIB
AGE = {"dirty_expire": 30.0, "flush_interval": 5.0}


def sent(rig: Rig) -> list[tuple[object, int, int]]:
    return [(call.key, call.offset, call.length) for call in rig.backend.seen("write_from")]


def turns(rig: Rig, clock: HandClock, count: int, seconds: float) -> None:
    """Let time pass, with a turn of the flusher after each step."""
    for _ in range(count):
        clock.advance(seconds)
        after_flusher_turn(rig.cache)


def test_old_data_is_written_back_whatever_the_thresholds_say(make: Make, clock: HandClock) -> None:
    """It goes at `dirty_expire`, neither before nor later, however much other data is written. [2.11]"""
    rig, file = make({KEY: bytes(100 * PAGE)}, **AGE).written(b"old", 0)
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
    turns(rig, clock, 5, 3600.0)
    assert rig.backend.seen("commit") == []  # time alone never commits
    assert rig.volume.stats().unstable


def test_an_age_below_the_interval_of_looks_is_kept(make: Make, clock: HandClock) -> None:
    """The flusher checks as often as the age needs. [2.11]"""
    rig, _ = make({KEY: b""}, dirty_expire=0.5, flush_interval=3600.0).written(b"x", 0)
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
    rig, file = make({KEY: b""}, **AGE).written(b"one", 0)
    gate, sync = at_gate(rig.backend.gate("commit"), file.fsync)
    file.pwrite(b"two", PAGE)
    clock.advance(30.0)
    after_flusher_turn(rig.cache)
    assert len(sent(rig)) == 1
    sync.result(opening=gate)
    eventually(lambda: (KEY, PAGE, 3) in sent(rig))


def test_bytes_written_beside_an_aged_pass_have_their_own_age(make: Make, clock: HandClock) -> None:
    """The file is dirty all the time; young data is sent at its time and not before. [2.11]"""
    rig, file = make({KEY: b""}, limits={"max_write": PAGE, "max_inflight": 1}, **AGE).written(bytes(3 * PAGE), 0)
    with rig.backend.gate("write_from") as gate:
        clock.advance(30.0)
        gate.wait_entered()
        file.pwrite(b"young", 8 * PAGE)
    eventually(lambda: len(sent(rig)) == 3)
    turns(rig, clock, 4, 5.0)
    assert len(sent(rig)) == 3
    clock.advance(10.0)
    eventually(lambda: sent(rig)[-1] == (KEY, 8 * PAGE, 5))


def test_age_does_not_count_where_only_commits_make_bytes_visible(make: Make, clock: HandClock) -> None:
    """A write-back would protect nothing. [2.11]"""
    rig, file = make({KEY: b""}, limits={"commit_on_close": True, "write_unit": UNIT}, **AGE).written(b"x" * 1000, 0)
    turns(rig, clock, 10, 30.0)
    assert sent(rig) == []
    file.fsync()
    assert sent(rig) == [(KEY, 0, 1000)]


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
    eventually(lambda: rig.volume.stat(KEY).dirty <= UNIT + PAGE)
    assert sent(rig) == [(KEY, 0, UNIT)]


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
    caught = rig.fails("write_from", OSError(errno.ENOSPC, "full"), pagecache.WritebackError, calls[verb])
    accepted = accepted_before(caught)
    assert accepted > 0
    assert file.pread(10, 0) == b"abcdef"[:accepted]
    if verb == "write":
        assert file.tell() == 6
    file.pwrite(b"abcdef"[accepted:], accepted)
    assert rig.saved(file) == b"abcdef"
