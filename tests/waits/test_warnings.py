"""The log reports once that a wait has lasted `stall_warn` seconds: the waiter, the object, the holder, and the next
event.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from pagecache.engine.report import waits

from ..file.rig import KEY, PAGE, Rig, Task, eventually, pattern
from .seen import no_wait_left, start, wait_of

Make = Callable[..., Rig]
DATA = pattern(64 * PAGE)


def lines(caplog: pytest.LogCaptureFixture, words: str = "has waited") -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def wait_turns(rig: Rig, times: int = 3) -> None:
    """Wait until the flusher has had that many turns."""
    for _ in range(times):
        seq = rig.cache.native.flusher_seq()
        done: list[int] = []
        rig.cache.flusher.defer(lambda: done.append(seq))  # noqa: B023
        eventually(lambda: done)  # noqa: B023


def test_a_long_wait_is_logged_once_with_its_owner(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The line has volume, key, bytes, object, duration, the chain, and the outcome without intervention. [T-82]"""
    rig = make({KEY: DATA}, stall_warn=0.05, flush_interval=0.02)
    file = rig.open()
    gate = rig.backend.gate("read_into")
    with caplog.at_level(logging.WARNING, "pagecache"):
        first = start("first", file.pread, 10, 0)
        gate.wait_entered()
        second = start("second", file.pread, 10, 5)
        eventually(lambda: len(lines(caplog)) == 2)
        wait = wait_of(rig.cache, "second")
        eventually(lambda: wait_of(rig.cache, "second").seconds > wait.seconds + 0.2)
        wait_turns(rig)
    warned = {re.sub(r"^volume: (\w+) .*", r"\1", line): line for line in lines(caplog)}
    assert sorted(warned) == ["first", "second"]
    at = r"at .*backends\.py:\d+ in call, from .* in \w+"
    owner = rf"pagecache-volume-\d+ is in read_into of 'file' \[0, 4096\) for [\d.]+ s, {at}"
    fill = r"has waited 0\.\d s for a fill of \[0, 4096\) of 'file': "
    for name, line in warned.items():
        assert re.fullmatch(rf"volume: {name} {fill}{owner}; it goes on when that is over; .*abort.*", line)
    gate.open()
    first.result()
    second.result()
    no_wait_left(rig.cache)


def test_the_next_wait_is_logged_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The report belongs to the wait, not to the thread. [T-82]"""
    rig = make({KEY: DATA}, stall_warn=0.05, flush_interval=0.02)
    file = rig.open()
    with caplog.at_level(logging.WARNING, "pagecache"):
        for times in (1, 2):
            gate = rig.backend.gate("write_from")
            file.pwrite(b"x", 0)
            task = start("waiter", file.fsync)
            gate.wait_entered()
            eventually(lambda times=times: len(lines(caplog)) == times)  # type: ignore[misc]
            gate.open()
            task.result()
    assert all("waiter has waited" in line and "for fsync of 'file'" in line for line in lines(caplog))


def test_short_waits_are_not_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    rig = make({KEY: DATA}, stall_warn=30.0, flush_interval=0.01)
    file = rig.open()
    with caplog.at_level(logging.WARNING, "pagecache"):
        for page in range(3):
            with rig.backend.gate("read_into") as gate:
                task = start("waiter", file.pread, 10, page * PAGE)
                gate.wait_entered()
                wait_of(rig.cache)
                wait_turns(rig)
            task.result()
    assert lines(caplog) == []


def test_a_call_that_the_flusher_names_is_not_logged_twice(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A hanging stat is one line, that of the call; its waiter is in the report. [T-82]"""
    rig = make({KEY: DATA}, stall_warn=0.05, flush_interval=0.02)
    with caplog.at_level(logging.WARNING, "pagecache"), rig.backend.gate("stat") as gate:
        task = start("waiter", rig.volume.stat, KEY)
        gate.wait_entered()
        eventually(lambda: lines(caplog, "stat of 'file' has run"))
        wait = wait_of(rig.cache)
        eventually(lambda: wait_of(rig.cache).seconds > wait.seconds + 0.1)
        wait_turns(rig)
    assert lines(caplog) == []
    task.result()


def test_many_long_waits_are_logged_in_a_few_lines(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are at most WARNINGS lines in PERIOD; one line has the number of the others. [T-82]"""
    monkeypatch.setattr(waits, "WARNINGS", 3)
    monkeypatch.setattr(waits, "PERIOD", 1.0)
    rig = make({KEY: DATA}, stall_warn=0.1, flush_interval=0.02)
    file = rig.open()
    file.pwrite(b"x", 0)
    gate = rig.backend.gate("commit")
    tasks: list[Task[None]] = []
    with caplog.at_level(logging.WARNING, "pagecache"):
        for number in range(9):
            tasks.append(start(f"waiter-{number}", file.fsync))
        gate.wait_entered()
        eventually(lambda: sum(int(line.partition(" ")[0]) for line in lines(caplog, "more waits")) == 6)
        wait_turns(rig)
    assert len(lines(caplog)) == 3
    for line in lines(caplog, "more waits"):
        assert re.fullmatch(r"\d more waits have lasted 0\.1 seconds; PageCache\.waits\(\) lists them", line)
    gate.open()
    for task in tasks:
        task.result()
    no_wait_left(rig.cache)
