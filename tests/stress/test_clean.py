"""No false alarm: each profile on the cache over memory and a directory, and on real file systems."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pagecache import CommitError
from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.content import made
from pagecache.stress.history import Model, Write
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.profiles import PROFILES
from pagecache.stress.world import World
from pagecache.testing import Rule

from ..check_backend.backends import UndoesRemovals

SHORT: dict[str, Any] = {
    "threads": 4, "tasks": 6, "files": 2, "size": "256KiB", "capacity": "256KiB", "operations": 40, "rounds": 1,
    "duration": 1,
}  # fmt: skip


def clean(plan: Plan, target: str | None = None) -> None:
    report = run(plan, target)
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 100


@pytest.mark.long
@pytest.mark.parametrize("profile", PROFILES)
def test_a_short_run_of_each_profile_is_clean(profile: str) -> None:
    """The test uses the cache over memory. [I-17, I-18, I-19, I-20, I-22]"""
    clean(Plan(seed=1, profile=profile, **SHORT))


@pytest.mark.parametrize("size", [4096, 5000, 9000, 16383])
def test_files_of_a_page_are_clean(size: int) -> None:
    """Operations after the last rest of a round also stay within them."""
    plan = Plan(**SHORT | {"seed": 1, "threads": 1, "tasks": 0, "files": 1, "size": size, "rounds": 4, "duration": 60})
    report = run(plan)
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["backends outlived"] > 0


def test_a_file_that_is_longer_than_operations_go_is_read_to_its_end(tmp_path: Path) -> None:
    """Appends that run side by side each see room that is too small for all of them together."""
    plan = Plan(**SHORT | {"seed": 1, "threads": 1, "tasks": 0, "files": 1, "size": 4096})
    target = MountedTarget(plan, 0, str(tmp_path))
    world = World(plan, target, 0)
    length = 3 * world.reach
    world.models.append(Model(0, Write("content", "", 0, 0, 0, world.tag, 0, length), world.clock))
    target.start([made(world.tag, 0, 0, 0, 0, length)])
    world.rest(cold=True)
    world.end()


@pytest.mark.smoke("stress")
def test_a_short_run_on_a_directory_is_clean(tmp_path: Path) -> None:
    """The store is read without the cache, and empty afterwards. [I-18, I-22]"""
    clean(Plan(seed=1, **SHORT), f"dir:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_a_close_reports_is_no_alarm_if_calls_fail() -> None:
    """A commit that fails may have taken direct writes with it; idle handles report that last, when they are closed."""
    target = CachedTarget(Plan(seed=2, faults="flaky", **SHORT), 0, None, "memory:")
    target.start([bytes(64 << 10)])
    target.faults.use([Rule("commit", error=errno.EACCES)])
    target.handle(0, "direct").pwrite(bytes(8 << 10), 0)
    with pytest.raises(CommitError):
        target.handle(0, "buffered").fsync()
    target.calm()
    target.close()


@pytest.mark.parametrize("folder", ["/dev/shm", ""])
def test_system_calls_on_a_real_file_system_are_clean(tmp_path: Path, folder: str) -> None:
    """The test uses tmpfs, and the file system of temporary files."""
    if folder and not os.path.isdir(folder):
        pytest.skip(f"no {folder} here")
    clean(Plan(seed=1, **SHORT), f"path:{folder or tmp_path}")


@pytest.mark.parametrize("scheme", ["dir:", "path:"])
def test_remains_of_a_run_with_a_finding_are_no_alarm_of_the_next(tmp_path: Path, scheme: str) -> None:
    """It left longer files, and names that the next run has not made yet."""
    short: dict[str, Any] = dict(SHORT) | {"seed": 11, "profile": "metadata"}
    plan = Plan(**short)
    folder = tmp_path if scheme == "dir:" else tmp_path / "pagecache-stress-11-0"
    folder.mkdir(exist_ok=True)
    prefix = "pagecache-stress-11-0-" if scheme == "dir:" else ""
    for name in ("file0", "file1", *(f"own{worker}-{number}" for worker in range(1, 11) for number in range(3))):
        (folder / f"{prefix}{name}").write_bytes(b"left" * 100_000)
    clean(plan, f"{scheme}{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_a_run_are_removed_durably() -> None:
    """The store undoes removals that nothing has made durable."""
    clean(Plan(seed=1, **SHORT), "python:tests.check_backend.backends:UndoesRemovals")
    assert list(UndoesRemovals.store.list()) == []
