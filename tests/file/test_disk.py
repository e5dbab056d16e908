"""Real files that run out of space."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecache import PageCache, RetryPolicy, WritebackError

from .rig import QUIET, pattern, raises

SIZE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; needs the right to mount."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_and_then_room(small_disk: Path) -> None:
    """fsync fails with ENOSPC, everything stays readable; once there is room, the next fsync succeeds. [T-20]"""
    (small_disk / "ballast").write_bytes(bytes(SIZE // 2))
    data = pattern(SIZE * 3 // 4)
    with PageCache("8MiB", retry=RetryPolicy(attempts=2, first_delay=0.001, failed_retry=None), **QUIET) as cache:
        volume = cache.attach(f"dir:{small_disk}")
        file = volume.open("big", "w+b")
        file.pwrite(data, 0)
        assert raises(WritebackError, file.fsync).errno == errno.ENOSPC
        assert file.pread(len(data), 0) == data
        failed = volume.failed()
        assert {f.errno for f in failed} == {errno.ENOSPC}
        assert 0 < sum(f.length for f in failed) <= len(data)
        (small_disk / "ballast").unlink()
        file.fsync()
        assert volume.failed() == []
        assert volume.dirty_ranges("big") == []
        assert (small_disk / "big").read_bytes() == data
        file.close()
