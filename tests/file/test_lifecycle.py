"""The ends of handles, volumes and caches, also beside their users. A volume that ends accepts nothing new."""

from __future__ import annotations

import contextlib
import errno
import gc
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import LostRange, ShutdownError, UnsavedDataError, Volume
from pagecache.engine.io import barrier
from pagecache.engine.park import Signal
from pagecache.engine.runner import ThreadRunner
from pagecache.native import NativeVolume
from pagecache.volume import detach, lifetimes

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .clock import HandClock
from .rig import (
    KEY,
    ONCE,
    PAGE,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    beside,
    eventually,
    held,
    overlay,
    pattern,
    raises,
    raising,
    run_program,
)

DATA = pattern(4 * PAGE)
FULL = OSError(errno.ENOSPC, "no room")


@pytest.mark.parametrize("what", ["cache", "volume"])
def test_unsaved_data_keeps_it_open(dirty: Rig, what: str) -> None:
    """UnsavedDataError lists it, nothing is lost, the next try succeeds; a close may be repeated. [2.16, 2.22]"""
    end = dirty.cache.close if what == "cache" else dirty.volume.detach
    fault = dirty.backend.fault("write_from", FULL, times=float("inf"))
    caught = raises(UnsavedDataError, end)
    assert [(r.key, r.offset, r.length, r.errno) for r in caught.ranges] == [(KEY, 0, len(DATA), errno.ENOSPC)]
    assert dirty.handles[0].pread(len(DATA), 0) == DATA
    fault.clear()
    dirty.handles[0].pwrite(b"still open", 0)
    dirty.handles[0].append(b"more")
    dirty.handles[0].truncate(len(DATA) + 2)
    dirty.volume.open(KEY).close()
    assert end() == dirty.cache.close() == dirty.cache.close(on_failed="discard") == []
    assert dirty.backend.committed(KEY) == b"still open" + DATA[10:] + b"mo"
    assert len(dirty.backend.seen("close")) == 1


def test_a_volume_name_is_unique_and_free_after_detach(make: Make) -> None:
    """The second of the same name is a ValueError that names it."""
    rig = make()
    raises(ValueError, rig.cache.attach, "memory:", name="volume", match="volume")
    rig.volume.detach()
    rig.cache.attach("memory:", name="volume").detach()


CALLS: dict[str, Callable[[Volume], object]] = {
    "open": lambda volume: volume.open("other").close(),
    "stat": lambda volume: volume.stat("other"),
    "list": lambda volume: list(volume.list()),
    "remove": lambda volume: volume.remove("other"),
    "rename": lambda volume: volume.rename("other", "new"),
}


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("call", [*CALLS, "hangs"])
def test_a_backend_is_not_closed_beside_its_calls(make: Make, call: str, prompt: bool) -> None:
    """A call could reach another file by a reused descriptor. A detach waits a second for one that hangs. [2.22]"""
    rig = make({KEY: b"", "other": DATA}, limits={"prompt": prompt})
    hangs, call = call == "hangs", "stat" if call == "hangs" else call
    gate, calling = at_gate(rig.backend.gate(call), CALLS[call], rig.volume)
    detaching = Task(rig.volume.detach)
    assert hangs or detaching.waits()
    assert detaching.result(opening=None if hangs else gate) == []
    gate.open()
    with contextlib.suppress(ShutdownError):
        calling.result()
    assert bool(rig.backend.seen("close")) != hangs
    assert len(rig.backend.seen("file_close")) == len(rig.backend.seen("open"))


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_late_call_does_not_reach_a_closed_backend(make: Make, monkeypatch: Patch, call: str, prompt: bool) -> None:
    """It has found the volume alive before the detach, and goes on after it. [2.22]"""
    rig = make({KEY: b"", "other": DATA}, limits={"prompt": prompt})
    gate, calling = at_gate(held(monkeypatch, Volume, "_attempts", after=True), CALLS[call], rig.volume)
    assert rig.volume.detach() == []
    rig.backend.forget_calls()
    gate.open()
    raises(ShutdownError, calling.result, match="detached")
    assert rig.backend.calls == []


@pytest.mark.parametrize(("op", "at_once"), [("stat", 2), ("read_into", 1)])
def test_a_call_in_line_does_not_reach_a_closed_backend(make: Make, monkeypatch: Patch, op: str, at_once: int) -> None:
    """It waits for a thread of the volume, or for its turn, when the detach begins to close the backend. [2.22]"""
    monkeypatch.setattr(detach, "_save", lambda *_: [])  # it would wait for a thread too
    limits = {"prompt": op == "read_into", "max_inflight": 1}
    rig, file = make({KEY: DATA, "other": DATA}, limits=limits).opened("rb", read_ahead=0)
    call = partial(rig.volume.stat, "other") if op == "stat" else partial(file.pread, PAGE, 0)
    gate = rig.backend.gate(op, times=at_once)
    running = [Task(call) for _ in range(at_once)]
    eventually(lambda: gate.nr_entered == at_once)
    late = Task(call if op == "stat" else partial(file.pread, PAGE, 3 * PAGE))
    assert late.waits()
    detaching = Task(rig.volume.detach)
    eventually(rig.volume.engine.native.closing)
    gate.open()
    for task in running:
        with contextlib.suppress(ShutdownError, ValueError):
            task.result()
    assert detaching.result() == []
    raises(ShutdownError, late.result, match="detached")
    assert len(rig.backend.seen(op)) == at_once


@pytest.mark.parametrize(("key", "owner", "step"), [(KEY, NativeVolume, "close"), ("new", detach, "_unsaved")])
def test_a_file_opened_at_the_end_is_closed(make: Make, monkeypatch: Patch, key: str, owner: Any, step: str) -> None:
    """The detach has looked for open files by then, or made its first sync; a new object is committed. [2.22]"""
    rig = make({KEY: DATA})
    gate, opening = at_gate(rig.backend.gate("open"), rig.volume.open, key, "r+b" if key == KEY else "xb")
    refused: list[ShutdownError] = []
    late = partial(raises, ShutdownError, opening.result, opening=gate, match="being detached")
    beside(monkeypatch, owner, step, lambda: refused.append(late()))
    assert rig.volume.detach() == []
    assert refused
    assert len(rig.backend.seen("file_close")) == 1
    assert key == KEY or rig.backend.committed("new") == b""


@pytest.mark.parametrize("op", ["stat", "read_into"])
def test_a_call_that_hangs_in_an_earlier_backend_does_not_keep_the_next_one_open(make: Make, op: str) -> None:
    """It was left behind by an abort. [2.22]"""
    rig, file = make({KEY: DATA}).opened("rb")
    gate = rig.backend.gate(op)
    hanging = Task(rig.volume.stat, "other") if op == "stat" else Task(file.pread, PAGE, 0)
    gate.wait_entered()
    rig.volume.abort()
    raises(ShutdownError, hanging.result)
    backend = RecordingBackend({KEY: DATA})
    rig.volume.reconnect(backend)
    assert rig.volume.detach() == []
    assert backend.seen("close")
    assert backend.violations == []


def test_an_unclosed_handle_warns_and_saves(make: Make) -> None:
    """ResourceWarning from the collector; its bytes are written by the cache. [2.21]"""
    rig = make({KEY: b""})
    handles = [rig.volume.open(KEY, "r+b")]
    handles[0].pwrite(DATA, 0)
    with pytest.warns(ResourceWarning) as seen:
        forget(handles, seen)
    assert rig.synced() == DATA


def forget(things: list[Any], seen: pytest.WarningsRecorder) -> None:
    """Drop the last references, and collect until the warning comes."""
    things.clear()
    eventually(lambda: gc.collect() >= 0 and any(issubclass(found.category, ResourceWarning) for found in seen.list))


NEW = pattern(PAGE, seed=3)


# The call that hangs, its caller, and the stored content afterwards. All but a write-back hold the file's lock.
WRITERS: dict[str, tuple[str, Callable[[Rig], Any], bytes]] = {
    "a direct write": (
        "write_from",
        lambda rig: rig.open("r+b", direct=True).pwrite(NEW, PAGE),
        overlay(DATA, PAGE, NEW),
    ),
    "a truncate": ("truncate", lambda rig: rig.open("r+b").truncate(PAGE), DATA[:PAGE]),
    "a hole": ("punch_hole", lambda rig: rig.open("r+b").punch_hole(PAGE, PAGE), overlay(DATA, PAGE, bytes(PAGE))),
    "a write-back": ("write_from", lambda rig: rig.dirtied(NEW, PAGE).flush(), overlay(DATA, PAGE, NEW)),
}
ENDS: dict[str, Callable[..., Any]] = {
    "close": lambda rig, **how: rig.cache.close(**how),
    "detach": lambda rig, **how: rig.volume.detach(**how),
}


@pytest.mark.parametrize("how", ["raise", "discard"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("writer", WRITERS)
def test_an_end_beside_a_hung_writer_ends_at_its_deadline(make: Make, writer: str, end: str, how: str) -> None:
    """The volume is open again, and goes on once the call has returned; or it is aborted. [2.16, 2.22, K7, K9, I-23]"""
    op, verb, stored = WRITERS[writer]
    rig = make(backend=RecordingBackend({KEY: DATA}, punch=True), retry=ONCE)
    gate, task = at_gate(rig.backend.gate(op), verb, rig)
    ending = Task(ENDS[end], rig, timeout=0.05, on_failed=how)
    if how == "raise":
        assert isinstance(raises(UnsavedDataError, ending.result).__cause__, TimeoutError)
        assert not rig.volume.engine.seals
        assert rig.volume in rig.cache.volumes()
        task.result(opening=gate)
        rig.handles[0].pwrite(b"after", 0)
        assert ENDS[end](rig) == []
        assert rig.backend.committed(KEY) == overlay(stored, 0, b"after")
    else:
        ending.result()
        raises(ShutdownError, task.result)
        assert rig.cache.volumes() == () or rig.cache.closed
        gate.open()
        eventually(lambda: rig.backend.nr_running == 0)
        assert rig.cache.close() == []


def test_a_healthy_volume_is_saved_beside_one_that_hangs(make: Make, clock: HandClock) -> None:
    """Its data is saved, although the other volume used the deadline up. [2.15, 2.22]"""
    rig = make({KEY: DATA}, retry=ONCE)
    other = RecordingBackend({"b": DATA})
    file = rig.cache.attach(other, name="healthy", read_ahead=0).open("b", "r+b")
    file.pwrite(NEW, 0)
    rig.open("r+b").pwrite(NEW, 0)
    hung = rig.cache.attach(backend := RecordingBackend({"h": DATA}), name="hung", read_ahead=0).open("h", "r+b")
    hung.pwrite(NEW, 0)
    gate = backend.gate("write_from")
    closing = Task(rig.cache.close, timeout=3600.0, on_failed="discard")
    clock.until(lambda: not rig.volume.dirty_ranges(KEY) and not file.volume.dirty_ranges("b"))
    clock.advance(3600.0)
    lost = closing.result()
    assert {entry.volume for entry in lost} == {"hung"}
    assert other.committed("b") == overlay(DATA, 0, NEW)
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
    gate.open()


def test_an_error_of_a_volume_keeps_no_other_one_from_its_end(make: Make, monkeypatch: Patch) -> None:
    rig, _ = make({KEY: DATA}).written(NEW, 0)
    other = rig.cache.attach(RecordingBackend(), name="other")  # it ends first
    beside(monkeypatch, detach, "_end", raising(OSError(errno.EIO, "of one")))
    raises(OSError, rig.cache.close, match="of one")
    assert rig.cache.volumes() == (other,)
    assert rig.cache.close() == []
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)


PAIRS = [("close", "close"), ("close", "detach"), ("detach", "detach"), ("detach", "close")]


@pytest.mark.parametrize("how", ["raise", "discard"])
@pytest.mark.parametrize("pair", PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_the_second_end_waits_for_the_first(make: Make, pair: tuple[str, str], how: str) -> None:
    """Both return without an error, whichever did the work, and everything is stored. [2.16, 2.22]"""
    rig, _ = make({KEY: DATA}).written(NEW, 0)
    gate, first = at_gate(rig.backend.gate("commit"), ENDS[pair[0]], rig)
    second = Task(ENDS[pair[1]], rig, on_failed=how)
    assert second.waits(0.05)
    gate.open()
    assert (first.result(), second.result()) == ([], [])
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
    assert len(rig.backend.seen("close")) == 1
    assert rig.cache.close() == []


def behind_a_close(rig: Rig, task: Task[Any]) -> bool:
    """Wait until the task has ended, or waits for the close of another thread; return whether it waits."""
    eventually(lambda: task.finished.is_set() or any(wait.what == "a close" for wait in rig.cache.waits()))
    return not task.finished.is_set()


@pytest.mark.parametrize("error", [None, OSError(errno.EACCES, "no")], ids=["published", "refused"])
def test_the_second_close_of_a_handle_has_the_result_of_the_first(make: Make, error: OSError | None) -> None:
    """[2.16, 2.20]"""
    rig, file = make({KEY: DATA}, retry=ONCE, limits={"commit_on_close": True}).written(NEW, 0)
    if error is not None:
        rig.backend.fault("commit", error)
    gate, first = at_gate(rig.backend.gate("commit"), file.close)
    closes = [Task(file.close) for _ in range(2)]
    assert all(behind_a_close(rig, task) for task in closes)
    gate.open()
    for task in (first, *closes):
        if error is None:
            task.result()
        else:
            raises(OSError, task.result, match="no")
    file.close()
    assert rig.backend.committed(KEY) == (overlay(DATA, 0, NEW) if error is None else DATA)


def test_a_flush_beside_the_close_of_another_thread_writes_back(make: Make) -> None:
    rig, file = make({KEY: DATA}).written(NEW, 0)
    gate, first = at_gate(rig.backend.gate("write_from"), file.close)
    second = Task(file.flush)
    eventually(lambda: second.finished.is_set() or any(wait.what == "flush" for wait in rig.cache.waits()))
    assert not second.finished.is_set()
    first.result(opening=gate)
    second.result()


def test_a_close_beside_an_interrupted_one_does_not_succeed(make: Make, monkeypatch: Patch) -> None:
    rig, file = make({KEY: DATA}).written(NEW, 0)
    gate = rig.backend.gate("write_from")
    with monkeypatch.context() as patch:
        ended = held(patch, lifetimes, "release")
        patch.setattr(barrier, "flush", raising(KeyboardInterrupt()))
        _, first = at_gate(ended, file.close)
        second = Task(file.close)
        assert behind_a_close(rig, second)
        raises(KeyboardInterrupt, first.result, opening=ended)
        raises(InterruptedError, second.result)
    gate.open()
    assert file.closed


@pytest.mark.parametrize("how", ["abort", "deadline"])
def test_a_close_behind_another_one_ends_as_other_waits_do(make: Make, how: str) -> None:
    rig, file = make({KEY: DATA}).written(NEW, 0)
    gate, first = at_gate(rig.backend.gate("write_from"), file.close)
    if how == "deadline":
        raises(TimeoutError, file._close, 0.0)
        first.result(opening=gate)
        return
    second = Task(file.close)
    assert behind_a_close(rig, second)
    rig.volume.abort()
    raises(ShutdownError, second.result)
    raises(ShutdownError, first.result)
    gate.open()


def collected(rig: Rig) -> int:
    """The number of running syncs that have collected their files."""
    tickets: list[Any] = [*rig.volume.engine._tickets]
    return sum(ticket._taken_up for ticket in tickets)


def test_where_the_first_fails_the_second_tries_for_itself(make: Make) -> None:
    """The obstacle of the first may be gone; here it is, and nothing is left for a third. [2.16, 2.22]"""
    rig, _ = make({KEY: DATA}, retry=ONCE).written(NEW, 0)
    rig.backend.fault("write_from", FULL)
    gate, first = at_gate(rig.backend.gate("write_from"), rig.cache.close)
    # Two syncs of the first wait, and one of the second: one that collected the file later would try the data again.
    eventually(lambda: collected(rig) == 2)
    second = Task(rig.cache.close)
    eventually(lambda: collected(rig) == 3)
    gate.open()
    raises(UnsavedDataError, first.result)
    assert second.result() == []
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)


@pytest.mark.parametrize("discards", [False, True])
def test_a_second_with_a_deadline_does_not_wait_longer(make: Make, discards: bool) -> None:
    """UnsavedDataError lists the unsaved bytes. The first goes on, or ends if the second may discard. [2.22, K9]"""
    rig, file = make({KEY: DATA}).written(NEW, 0)
    gate, first = at_gate(rig.backend.gate("write_from"), rig.cache.close)
    eventually(lambda: rig.volume.engine.seals)  # it is the first: a sync had begun before
    if discards:
        lost = Task(rig.cache.close, timeout=0.05, on_failed="discard").result()
        assert [(entry.key, entry.offset, entry.length) for entry in lost] == [(KEY, 0, PAGE)]
        caught = raises(UnsavedDataError, first.result)
        gate.open()
    else:
        caught = raises(UnsavedDataError, lambda: Task(rig.cache.close, timeout=0.05).result())
        raises(ShutdownError, file.pwrite, b"x", 0)
        assert first.result(opening=gate) == []
        assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
    assert [(r.key, r.offset, r.length) for r in caught.ranges] == [(KEY, 0, PAGE)]


def test_an_end_that_fails_within_an_end_leaves_the_turn_to_that(dirty: Rig, monkeypatch: Patch) -> None:
    """By a signal handler: otherwise another thread ends the volume beside it."""
    volume, end = dirty.volume, dirty.volume.detach
    fault = dirty.backend.fault("write_from", FULL, times=float("inf"))
    others: list[Task[list[LostRange]]] = []

    def handler() -> None:
        raises(UnsavedDataError, end)
        fault.clear()
        others.append(Task(end))
        assert volume.turn is not None
        assert volume.turn[0] == threading.get_ident()

    beside(monkeypatch, detach, "_save", handler)
    assert end() == others[0].result() == []
    assert len(dirty.backend.seen("close")) == 1


def test_an_interrupt_of_the_end_of_a_turn_lets_others_end_the_volume(dirty: Rig, monkeypatch: Patch) -> None:
    """The traceback keeps the turn, which sets its signal when it is collected."""
    fault = dirty.backend.fault("write_from", FULL, times=float("inf"))
    others: list[Task[list[LostRange]]] = []
    ends: list[Signal] = []
    me, set_ = threading.get_ident(), Signal.set

    def stand_by() -> None:
        others.append(Task(dirty.volume.detach))
        eventually(lambda: "another thread that ends the volume" in repr(dirty.cache.waits()))

    def interrupted(signal: Signal) -> None:
        if threading.get_ident() == me and others and not ends and dirty.volume.turn is None:
            fault.clear()
            ends.append(signal)
            raise KeyboardInterrupt
        set_(signal)

    beside(monkeypatch, detach, "_save", stand_by)
    monkeypatch.setattr(Signal, "set", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        dirty.volume.detach()
    assert others[0].result() == []
    assert not ends[0].is_set()
    del caught
    gc.collect()
    assert ends[0].is_set()
    assert dirty.backend.committed(KEY) == DATA


@pytest.mark.parametrize("step", ["_unsaved", "_quiet", "_close_backend"])
def test_an_interrupted_end_is_finished_by_the_next(make: Make, monkeypatch: Patch, step: str) -> None:
    """The volume stays open, or everything is saved by then; no thread and no backend is left behind. [2.22, T-51]"""
    rig, file = make({KEY: DATA}).written(NEW, 0)

    def interrupt(*_args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(detach, step, interrupt)
        raises(KeyboardInterrupt, rig.cache.close)
    if step == "_unsaved":
        assert file.pwrite(b"a", PAGE) == 1
    assert rig.cache.close() == []
    later = b"a" if step == "_unsaved" else b""
    assert rig.backend.committed(KEY) == overlay(overlay(DATA, 0, NEW), PAGE, later)
    assert len(rig.backend.seen("close")) == 1
    assert not rig.volume.engine.runner.alive()
    assert rig.cache.flusher.over


def test_an_end_that_was_interrupted_after_that_of_the_threads_is_finished_by_the_next(
    make: Make, monkeypatch: Patch
) -> None:
    rig = make({KEY: DATA})
    reading, reader = at_gate(rig.backend.gate("read_into"), rig.open("rb").pread, PAGE, 0)
    join = ThreadRunner.join

    def interrupted(runner: ThreadRunner, timeout: float) -> bool:
        reading.open()  # the backend was not closed beside this call
        assert join(runner, WAIT_LIMIT_S)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ThreadRunner, "join", interrupted)
        raises(KeyboardInterrupt, rig.cache.close)
    with contextlib.suppress(ShutdownError):
        reader.result()
    assert Task(rig.cache.close).result() == []
    assert len(rig.backend.seen("close")) == 1


def test_a_volume_attached_while_a_cache_closes_is_closed_too(make: Make) -> None:
    """The attach may also be refused: the volume is never left behind with its threads. [2.22]"""
    rig, _ = make({KEY: DATA}).written(NEW, 0)
    gate, closing = at_gate(rig.backend.gate("commit"), rig.cache.close)
    late = RecordingBackend({"late": b""})
    volume = rig.cache.attach(late, name="late")
    file = volume.open("late", "r+b")
    file.pwrite(NEW, 0)
    assert closing.result(opening=gate) == []
    assert late.committed("late") == NEW
    assert volume.detached
    file.close()


@pytest.mark.parametrize("step", ["_drain", "_unsaved", "_give_up", "_finish"])
def test_a_write_that_meets_the_end_is_refused_whole(make: Make, monkeypatch: Patch, step: str) -> None:
    """Without the refusal it was accepted and lost, or made the end fail. Names are refused, too. [2.22, I-22]"""
    rig, file, direct = make({KEY: DATA}, limits={"parallel_direct_writes": True}).both(direct=True)
    volume = rig.volume
    refused: list[ShutdownError] = []
    calls: list[Callable[[], object]] = [
        lambda: direct.pwrite(NEW, 0),
        lambda: direct.append(b"x"),
        lambda: file.pwrite(b"x", 5),
        lambda: file.pwrite(bytes(3 << 20), 0),
        lambda: file.append(b"x"),
        lambda: file.truncate(7),
        lambda: file.punch_hole(0, PAGE),
        lambda: file.zero_range(0, PAGE),
        lambda: volume.open(KEY),
        lambda: volume.open("new", "w"),
        lambda: volume.rename(KEY, "other"),
        lambda: volume.remove(KEY),
        lambda: volume.truncate(KEY, 3),
    ]

    def write() -> None:
        assert file.try_pwrite(b"x", 5) is None
        for call in calls:
            refused.append(raises(ShutdownError, call, match="detached"))

    beside(monkeypatch, detach, step, write)
    assert rig.cache.close() == []
    assert len(refused) == len(calls)
    assert [getattr(error, "characters_written", 0) for error in refused] == [0] * len(calls)
    assert (rig.backend.committed(KEY), rig.backend.committed("new")) == (DATA, None)


@pytest.mark.parametrize("timeout", [None, 0.5])
def test_a_discarding_end_rolls_nothing_back_beside_a_commit(
    make: Make, monkeypatch: Patch, timeout: float | None
) -> None:
    """It waits for the end of the commit, or for its deadline. [2.16, 2.26]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).written(NEW, 0)
    rig.backend.fault("commit", FULL)

    def commit() -> None:
        gate = rig.backend.gate("commit")
        Task(file.fsync)
        gate.wait_entered()

    beside(monkeypatch, detach, "_give_up", commit)
    ending = Task(rig.volume.detach, timeout=timeout, on_failed="discard")
    if timeout is None:
        assert ending.waits(0.3)
    else:
        assert [each.key for each in ending.result()] == [KEY]
    assert rig.backend.seen("rollback") == []
    rig.backend.open_all_gates()
    if timeout is None:
        assert ending.result() == []
    eventually(lambda: rig.backend.committed(KEY) == overlay(DATA, 0, NEW))


def test_a_program_ends_though_a_writer_has_not_closed_what_cannot_be_saved(tmp_path: Path) -> None:
    """Its failure is older at each look of the end. [2.22]"""
    program = """
        import errno
        from pagecache import PageCache, RetryPolicy
        from pagecache.backends import MemoryBackend
        from pagecache.testing import FaultyBackend, Rule

        store = FaultyBackend(MemoryBackend(commit_on_close=True))
        cache = PageCache("1MiB", retry=RetryPolicy(attempts=1, failed_retry=None))
        file = cache.attach(store).open("k", "w+b")
        file.pwrite(b"new", 0)
        store.use([Rule("commit", error=errno.EACCES)])
        try:
            file.fsync()
        except OSError:
            pass
    """
    done = run_program(tmp_path, program)
    assert "not saved" in done.stderr


def test_a_writer_that_waits_for_room_ends(make: Make) -> None:
    """This includes waits with the file's lock, as in appends. [2.22, 2.24]"""
    rig, file = make({KEY: b""}, capacity="128KiB", dirty_background=0.1, dirty_limit=0.25).opened("r+b")
    gate, task = at_gate(rig.backend.gate("write_from", times=1000), file.append, pattern(256 << 10))
    pressure = rig.volume.engine.native.pressure
    eventually(lambda: pressure().throttled > 0 and pressure().position >= 1000)
    closing = Task(rig.cache.close)
    caught = raises(ShutdownError, task.result)
    closing.result(opening=gate)
    accepted = getattr(caught, "characters_written", 0)
    assert rig.backend.committed(KEY) == pattern(256 << 10)[:accepted]
