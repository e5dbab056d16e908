"""The end of a volume or a cache beside its users: writers in hung calls, and other threads that end it too."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ShutdownError, UnsavedDataError
from pagecache.volume import detach

from ..stores import WAIT_LIMIT_S, RecordingBackend
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Rig, Task, dirty_bytes, eventually, overlay, pattern

Make = Callable[..., Rig]
DATA = pattern(4 * PAGE)
NEW = pattern(PAGE, seed=3)
FULL = OSError(errno.ENOSPC, "no room")


# -------------------------------------------------------------------- beside a writer whose call hangs

WRITERS: dict[str, tuple[str, Callable[[Rig], Callable[[], Any]], bytes]] = {
    # the call that hangs, a function that makes it while holding the file's lock, and the stored content once it has
    # returned
    "a direct write": (
        "write_from",
        lambda rig: lambda: rig.open("r+b", direct=True).pwrite(NEW, PAGE),
        overlay(DATA, PAGE, NEW),
    ),
    "a truncate": ("truncate", lambda rig: lambda: rig.open("r+b").truncate(PAGE), DATA[:PAGE]),
    "a hole": (
        "punch_hole",
        lambda rig: lambda: rig.open("r+b").punch_hole(PAGE, PAGE),
        overlay(DATA, PAGE, bytes(PAGE)),
    ),
}
ENDS: dict[str, Callable[..., Any]] = {
    "close": lambda rig, **how: rig.cache.close(**how),
    "detach": lambda rig, **how: rig.volume.detach(**how),
}


def hung_writer(make: Make, writer: str) -> tuple[Rig, Any, Task[Any]]:
    op, verb, _stored = WRITERS[writer]
    rig = make(backend=RecordingBackend({KEY: DATA}, punch=True), retry=ONCE)
    gate = rig.backend.gate(op)
    task = Task(verb(rig))
    gate.wait_entered()
    return rig, gate, task


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("writer", WRITERS)
def test_an_end_beside_a_hung_writer_raises_at_its_deadline(make: Make, writer: str, end: str) -> None:
    """The writer holds the file's lock. The volume is open again, and goes on once the call has returned. [2.16, 2.22,
    K9]
    """
    rig, gate, task = hung_writer(make, writer)
    with pytest.raises(UnsavedDataError) as caught:
        Task(ENDS[end], rig, timeout=0.05, on_failed="raise").result()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert not rig.volume.engine.seals
    assert rig.volume in rig.cache.volumes()
    gate.open()
    task.result()
    stored = WRITERS[writer][2]
    rig.handles[0].pwrite(b"after", 0)
    assert ENDS[end](rig) == []
    assert rig.backend.committed(KEY) == overlay(stored, 0, b"after")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_discarding_end_beside_a_hung_writer_ends(make: Make, writer: str, end: str) -> None:
    """The volume is aborted at the deadline; the writer gets an error, the call keeps its thread. [2.22, K7,
    K9, I-23]
    """
    rig, gate, task = hung_writer(make, writer)
    Task(ENDS[end], rig, timeout=0.05, on_failed="discard").result()
    with pytest.raises(ShutdownError):
        task.result()
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
    clock.until(lambda: not dirty_bytes(rig.volume) and not dirty_bytes(file.volume, "b"))
    clock.advance(3600.0)
    lost = closing.result()
    assert {entry.volume for entry in lost} == {"hung"}
    assert other.committed("b") == overlay(DATA, 0, NEW)
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
    gate.open()


# -------------------------------------------------------------------- several threads end it

PAIRS = [("close", "close"), ("close", "detach"), ("detach", "detach"), ("detach", "close")]


@pytest.mark.parametrize("how", ["raise", "discard"])
@pytest.mark.parametrize("pair", PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_the_second_end_waits_for_the_first(make: Make, pair: tuple[str, str], how: str) -> None:
    """Both return without an error, whichever did the work, and everything is stored. [2.16, 2.22]"""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(NEW, 0)
    gate = rig.backend.gate("commit")
    first = Task(ENDS[pair[0]], rig)
    gate.wait_entered()
    second = Task(ENDS[pair[1]], rig, on_failed=how)
    assert second.waits(0.05)
    gate.open()
    assert (first.result(), second.result()) == ([], [])
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
    assert len(rig.backend.seen("close")) == 1
    assert rig.cache.close() == []


def test_many_closes_at_once_all_return(make: Make) -> None:
    """In a race of eight no call reports unsaved data, and the backend is closed once. [2.22]"""
    for _ in range(20):
        rig = make({KEY: DATA})
        rig.cache.attach(RecordingBackend(), name="second")
        rig.open("r+b").pwrite(NEW, 0)
        start = threading.Barrier(8)

        def end(k: int, rig: Rig = rig, start: threading.Barrier = start) -> list[Any]:
            start.wait(WAIT_LIMIT_S)
            return ENDS["close" if k % 4 else "detach"](rig)  # type: ignore[no-any-return]

        tasks = [Task(end, k) for k in range(8)]
        assert [task.result() for task in tasks] == [[]] * 8
        assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
        assert len(rig.backend.seen("close")) == 1


def collected(rig: Rig) -> int:
    """The number of running syncs that have collected their files."""
    tickets: list[Any] = [*rig.volume.engine._tickets]
    return sum(ticket._taken_up for ticket in tickets)


def test_where_the_first_fails_the_second_tries_for_itself(make: Make) -> None:
    """The obstacle of the first may be gone; here it is, and nothing is left for a third. [2.16, 2.22]"""
    rig = make({KEY: DATA}, retry=ONCE)
    rig.open("r+b").pwrite(NEW, 0)
    rig.backend.fault("write_from", FULL)
    gate = rig.backend.gate("write_from")
    first = Task(rig.cache.close)
    gate.wait_entered()
    # Two syncs of the first wait, and one of the second: one that collected the file later would try the data again.
    eventually(lambda: collected(rig) == 2)
    second = Task(rig.cache.close)
    eventually(lambda: collected(rig) == 3)
    gate.open()
    with pytest.raises(UnsavedDataError):
        first.result()
    assert second.result() == []
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)


def test_a_second_with_a_deadline_does_not_wait_longer(make: Make) -> None:
    """UnsavedDataError lists the unsaved bytes; the first goes on, and the volume stays sealed for it. [2.22, K9]"""
    rig = make({KEY: DATA})
    file = rig.open("r+b")
    file.pwrite(NEW, 0)
    gate = rig.backend.gate("write_from")
    first = Task(rig.cache.close)
    gate.wait_entered()
    eventually(lambda: rig.volume.engine.seals)  # it is the first: a sync had begun before
    with pytest.raises(UnsavedDataError) as caught:
        Task(rig.cache.close, timeout=0.05).result()
    assert [(r.key, r.offset, r.length) for r in caught.value.ranges] == [(KEY, 0, PAGE)]
    with pytest.raises(ShutdownError):
        file.pwrite(b"x", 0)
    gate.open()
    assert first.result() == []
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)


def test_an_end_that_may_discard_ends_one_that_waits_forever(make: Make) -> None:
    """The first has no deadline and the backend hangs: it reports the unsaved bytes, the other returns the list of
    those given up. [2.22, K9]
    """
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(NEW, 0)
    gate = rig.backend.gate("write_from")
    first = Task(rig.cache.close)
    gate.wait_entered()
    eventually(lambda: rig.volume.engine.seals)
    lost = Task(rig.cache.close, timeout=0.05, on_failed="discard").result()
    assert [(entry.key, entry.offset, entry.length) for entry in lost] == [(KEY, 0, PAGE)]
    with pytest.raises(UnsavedDataError) as caught:
        first.result()
    assert [(r.key, r.offset, r.length) for r in caught.value.ranges] == [(KEY, 0, PAGE)]
    gate.open()


def test_an_end_from_a_signal_handler_within_an_end_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that closes the cache runs while its thread is closing it: the thread does not wait for itself. [2.22,
    K9]
    """
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(NEW, 0)
    original = detach._unsaved
    inner: list[Any] = []

    def handler(*args: Any) -> Any:
        monkeypatch.setattr(detach, "_unsaved", original)
        inner.append(rig.cache.close())
        return original(*args)

    monkeypatch.setattr(detach, "_unsaved", handler)
    assert Task(rig.cache.close).result() == []
    assert inner == [[]]
    assert rig.backend.committed(KEY) == overlay(DATA, 0, NEW)
    assert len(rig.backend.seen("close")) == 1


@pytest.mark.parametrize("step", ["_quiet", "_close_backend"])
def test_an_end_that_was_interrupted_at_its_last_step_is_finished_by_the_next(
    make: Make, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Everything is saved by then; threads and the backend are not left behind. [2.22, T-51]"""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(NEW, 0)

    def interrupt(*_args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(detach, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            rig.cache.close()
    assert rig.cache.close() == []
    assert len(rig.backend.seen("close")) == 1
    assert not rig.volume.engine.runner.alive()
    assert not rig.cache.flusher.alive()


def test_a_volume_attached_while_a_cache_closes_is_closed_too(make: Make) -> None:
    """The attach may also be refused: the volume is never left behind with its threads. [2.22]"""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(NEW, 0)
    gate = rig.backend.gate("commit")
    closing = Task(rig.cache.close)
    gate.wait_entered()
    late = RecordingBackend({"late": b""})
    volume = rig.cache.attach(late, name="late")
    file = volume.open("late", "r+b")
    file.pwrite(NEW, 0)
    gate.open()
    assert closing.result() == []
    assert late.committed("late") == NEW
    assert volume.detached
    file.close()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "on fire"), ValueError("a bug")], ids=["OSError", "ValueError"])
def test_a_backend_whose_close_raises_is_released_anyway(
    make: Make, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Everything was committed before: the exception is logged, and no caller gets it. [2.22]"""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(NEW, 0)
    rig.backend.fault("close", error)
    assert rig.cache.close() == []
    assert rig.cache.closed
    assert not rig.volume.engine.runner.alive()
    assert [record.getMessage() for record in caplog.records if str(error.args[-1]) in record.getMessage()]
