"""A volume accepts nothing new while it ends, so that no accepted byte falls between the last save and the end."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ShutdownError, UnsavedDataError
from pagecache.volume import detach

from .rig import KEY, ONCE, PAGE, Rig, Task, accepted_before, ended_or_behind, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)


def before(monkeypatch: pytest.MonkeyPatch, step: str, call: Callable[[], object]) -> None:
    """Make a call when the end of a volume comes to a step."""
    original = getattr(detach, step)

    def changed(*arguments: Any) -> Any:
        call()
        return original(*arguments)

    monkeypatch.setattr(detach, step, changed)


@pytest.mark.parametrize("step", ["_drain", "_unsaved", "_give_up", "_finish"])
def test_a_write_that_meets_the_end_is_refused_whole(make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Without the refusal it was accepted and lost, or made the end fail. [2.22, I-22]"""
    rig = make({KEY: DATA})
    file = rig.open("r+b")
    refused: list[ShutdownError] = []
    calls: list[Callable[[], object]] = [
        lambda: file.pwrite(b"x", 5),
        lambda: file.pwrite(bytes(3 << 20), 0),
        lambda: file.append(b"x"),
        lambda: file.truncate(7),
        lambda: file.punch_hole(0, PAGE),
        lambda: file.zero_range(0, PAGE),
    ]

    def write() -> None:
        assert file.try_pwrite(b"x", 5) is None
        for call in calls:
            with pytest.raises(ShutdownError, match="detached") as caught:
                call()
            refused.append(caught.value)

    before(monkeypatch, step, write)
    assert rig.cache.close() == []
    assert len(refused) == len(calls)
    assert [getattr(error, "characters_written", 0) for error in refused] == [0] * len(calls)
    assert rig.backend.committed(KEY) == DATA


def test_names_are_refused_while_a_volume_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens, renames and removes are refused too. [2.22]"""
    rig = make({KEY: DATA})
    volume = rig.volume

    def names() -> None:
        for call in (
            lambda: volume.open(KEY),
            lambda: volume.open("new", "w"),
            lambda: volume.rename(KEY, "other"),
            lambda: volume.remove(KEY),
            lambda: volume.truncate(KEY, 3),
        ):
            with pytest.raises(ShutdownError, match="detached"):
                call()

    before(monkeypatch, "_unsaved", names)
    volume.detach()
    assert rig.backend.committed(KEY) == DATA
    assert rig.backend.committed("new") is None


def test_a_volume_goes_on_as_before_after_a_failed_end(make: Make) -> None:
    """The volume is open again, and takes writes. [2.22]"""
    rig = make({KEY: DATA}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(b"a", 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=float("inf"))
    with pytest.raises(UnsavedDataError):
        rig.cache.close()
    rig.backend.clear_faults()
    file.pwrite(b"b", 1)
    file.append(b"c")
    file.truncate(PAGE)
    rig.volume.open(KEY).close()
    assert rig.cache.close() == []
    assert rig.backend.committed(KEY) == b"ab" + DATA[2:PAGE]


def test_an_interrupted_end_leaves_the_volume_open(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """[2.22, T-51]"""
    rig = make({KEY: DATA})
    file = rig.open("r+b")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before(patch, "_unsaved", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rig.cache.close()
    assert file.pwrite(b"a", 0) == 1
    assert rig.cache.close() == []
    assert rig.backend.committed(KEY) == b"a" + DATA[1:]


def test_a_change_in_progress_is_waited_for(make: Make) -> None:
    """The caller has the file's lock, and had not noticed that the volume ends. [2.22, I-22]"""
    rig = make({KEY: DATA})
    gate = rig.backend.gate("truncate")
    file = rig.open("r+b")
    cutting = Task(file.truncate, PAGE)
    gate.wait_entered()
    closing = Task(rig.cache.close)
    ended_or_behind(rig.cache, closing, cutting.thread)
    assert not closing.finished.is_set()
    gate.open()
    assert cutting.result() == PAGE
    assert closing.result() == []
    assert rig.backend.committed(KEY) == DATA[:PAGE]


def waits_at_the_limit(rig: Rig) -> bool:
    pressure = rig.volume.engine.native.pressure()
    return pressure.throttled > 0 and pressure.position >= 1000


def test_a_writer_that_waits_for_room_ends(make: Make) -> None:
    """This includes waits with the file's lock, as in appends. [2.22, 2.24]"""
    rig = make({KEY: b""}, capacity="128KiB", dirty_background=0.1, dirty_limit=0.25)
    gate = rig.backend.gate("write_from", times=1000)
    file = rig.open("r+b")
    task = Task(file.append, pattern(256 << 10))
    gate.wait_entered()
    eventually(lambda: waits_at_the_limit(rig))
    closing = Task(rig.cache.close)
    with pytest.raises(ShutdownError) as caught:
        task.result()
    gate.open()
    closing.result()
    accepted = accepted_before(caught.value)
    assert rig.backend.committed(KEY) == pattern(256 << 10)[:accepted]
