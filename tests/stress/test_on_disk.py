"""Runs whose fsync ends in the journal of a disk tier: crashes of the process, of the store, and power cuts."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import MemoryBackend
from pagecache.stress import Plan, UnusableTarget, run
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.power import Power

from ..file.rig import raises
from ..planted.settings import DISK, whole_objects
from . import clean

RUNS: dict[str, tuple[dict[str, Any], Any]] = {
    "a store in place, which loses its power as well": ({"seed": 1, "rounds": 3}, None),
    "names": ({"seed": 2, "rounds": 3, "profile": "metadata", "mix": "buffered,truncate,names"}, None),
    "whole objects": ({"seed": 3, "rounds": 5}, whole_objects),
    "a killed process, and killed recoveries": ({"seed": 1, "rounds": 4, "crashes": "killed"}, "dir:"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_power_cuts_and_kills_leave_what_was_saved_on_disk(name: str, tmp_path: Path) -> None:
    """[D1, D2, D3, D5, D8, D10]"""
    fields, target = RUNS[name]
    report = clean(
        Plan(**DISK | {"duration": 240} | fields), target() if callable(target) else target and f"dir:{tmp_path}"
    )
    assert report.counters["fsync at disk"]
    assert report.counters["files recovered"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", ["at a call", "now"])
def test_after_a_power_cut_neither_disk_nor_store_takes_a_call(cut: str) -> None:
    power = Power(random.Random(1))
    power.store = ForgettingBackend(MemoryBackend())
    disk = power.disk
    power.arm(3 if cut == "at a call" else 0)
    fd = disk.open("j/1", os.O_CREAT | os.O_RDWR)
    disk.pwritev(fd, [b"before" * 100], 0)
    if cut == "now":
        power.cut()
    for call in (lambda: disk.fdatasync(fd), lambda: disk.pwritev(fd, [b"after"], 0), lambda: power.store.stat("k")):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno in (errno.EIO, errno.ENXIO)
    power.restore()
    assert all(call[3] == b"before" * 100 for call in disk.calls[: power._count] if call[0] == "write")
    assert not any(b"after" in bytes(call[3]) for call in power.disk.calls if call[0] == "holds")
    assert power.disk.open("j/2", os.O_CREAT | os.O_RDWR)  # goes on


def test_a_level_without_a_tier_is_refused(tmp_path: Path) -> None:
    raises(ValueError, Plan, durability="disk", match="durability: 'disk' needs disk")
    raises(ValueError, Plan, disk=True, durability="tape", match="durability: 'tape' is not one of backend, disk")
    with pytest.raises(UnusableTarget, match=r"disk: path:.* has no cache that could have one: mount it with --disk"):
        run(Plan(disk=True), f"path:{tmp_path}")
