"""Several processes on one directory: no alarm if it is consistent, a finding if it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagecache.stress import Plan, UnusableTarget, run
from pagecache.stress import processes as several
from pagecache.stress.child import Task
from pagecache.stress.journal import Journal
from pagecache.stress.mounted import MountedTarget

FIELDS = {"threads": 4, "tasks": 0, "files": 2, "size": "128KiB", "operations": 40, "processes": 2}
MIX = ("buffered", "append", "truncate", "names")


def plan(**fields: object) -> Plan:
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1, "mix": MIX} | FIELDS | fields))  # type: ignore[arg-type]


class SeesItsOwn(MountedTarget):
    """A client that keeps the bytes it has read of a file, and updates them by its own writes only."""

    def __init__(self, plan: Plan, number: int, folder: str) -> None:
        super().__init__(plan, number, folder)
        self._pages: dict[tuple[int, int, int], bytes] = {}

    def read(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes:
        if (file, offset, length) not in self._pages:
            self._pages[file, offset, length] = super().read(file, way, offset, length, extra)
        return self._pages[file, offset, length]

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        super().write(file, way, offset, data, extra)
        self._forget(offset, offset + len(data))

    def writev(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        super().writev(file, way, offset, data, extra)
        self._forget(offset, offset + len(data))

    def _forget(self, start: int, end: int) -> None:
        for file, offset, length in list(self._pages):
            if offset < end and start < offset + length:
                self._pages.pop((file, offset, length), None)


def plays_alone(task: Task, journal: Journal) -> None:
    vars(several)["MountedTarget"] = SeesItsOwn
    several.play(task, journal)


@pytest.mark.long
@pytest.mark.parametrize("crashes", [pytest.param((), marks=pytest.mark.slow), ("killed",)])
def test_processes_on_a_real_file_system_are_clean(tmp_path: Path, crashes: tuple[str, ...]) -> None:
    """They have one history, by one clock; a killed client loses only the call in progress. [I-17, I-18]"""
    mix = (*MIX, "views", "punch", "through", "hints")
    report = run(plan(crashes=crashes, mix=mix), f"path:{tmp_path}")
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 50
    assert report.counters.get("crashes: killed", 0) == (3 if crashes else 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_client_that_does_not_see_what_others_write_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are right while it is alone. [I-17]"""
    mix = ("buffered",)
    monkeypatch.setattr(several, "play", plays_alone)
    fields: dict[str, object] = {"mix": mix, "profile": "database", "files": 1, "size": "64KiB", "operations": 150}
    report = run(plan(duration=100, rounds=0, **fields), f"path:{tmp_path}")
    assert (report.ok, report.kind) == (False, "data"), report.story
    assert "writer" in report.story


def test_more_processes_than_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="processes: 5 is more than there are threads"):
        plan(processes=5)


def test_processes_are_for_directories(tmp_path: Path) -> None:
    with pytest.raises(UnusableTarget, match=r"processes: .* path:DIR has that"):
        run(plan(), f"dir:{tmp_path}")


def test_a_way_that_was_named_and_the_target_has_not_is_refused(tmp_path: Path) -> None:
    """Nothing is left behind."""
    with pytest.raises(UnusableTarget, match="mix: foreign cannot be on path:"):
        run(plan(mix=("buffered", "foreign")), f"path:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_changes_of_the_store_behind_a_cache_are_refused_with_crashes() -> None:
    with pytest.raises(UnusableTarget, match="mix: foreign cannot be in rounds with crashes"):
        run(plan(mix=("buffered", "foreign"), crashes=("forgetting",), processes=1))
