"""The process of the cache is killed: its journal, and the state found afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.protocol import Backend
from pagecache.stress import Plan, UnusableTarget, run
from pagecache.stress.journal import Full, Journal, read

SMALL = {"threads": 2, "tasks": 2, "files": 2, "size": "64KiB", "capacity": "128KiB", "operations": 60}


def plan(**fields: object) -> Plan:
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1, "crashes": ("killed",)} | SMALL | fields))  # type: ignore[arg-type]


def in_memory() -> Backend:
    return MemoryBackend()


def test_a_journal_has_what_was_put_before_the_end() -> None:
    """Records are in their order, with ascending times; an unfinished one is absent."""
    fd = Journal.make()
    try:
        journal = Journal(fd)
        for number in range(100):
            journal.put("record", number, b"x" * number)
        found = list(read(fd))
        assert [record for _when, record in found] == [("record", number, b"x" * number) for number in range(100)]
        times = [when for when, _record in found]
        assert times == sorted(times)
        journal._map[journal._end : journal._end + 100] = b"\xff" * 100  # a body whose length was not advanced yet
        assert len(list(read(fd))) == 100
    finally:
        os.close(fd)


def test_a_journal_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagecache.stress.journal.ROOM", 4096)
    fd = Journal.make()
    try:
        journal = Journal(fd)
        with pytest.raises(Full):
            for _ in range(100):
                journal.put(b"x" * 100)
        assert 0 < len(list(read(fd))) < 100
    finally:
        os.close(fd)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_whose_process_is_killed_are_clean(tmp_path: Path, seed: int) -> None:
    """The kill comes at a record or at a store call; nothing that was synced is gone or different. [I-18, I-21]"""
    report = run(plan(seed=seed), f"dir:{tmp_path}")
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["crashes: killed"] == 3
    assert list(tmp_path.iterdir()) == []


def test_where_there_can_be_no_killed_process_that_is_refused(tmp_path: Path) -> None:
    """The option was given explicitly: a run without it would pass, and prove nothing. Nothing is left behind."""
    for target in (None, in_memory):
        with pytest.raises(UnusableTarget, match=r"crashes: killed cannot be on .* ends with its process"):
            run(plan(), target)
    with pytest.raises(UnusableTarget, match=r"crashes: killed cannot be on .* cannot be brought to another process"):
        run(plan(), lambda: DirectoryBackend(tmp_path))
    assert list(tmp_path.iterdir()) == []
