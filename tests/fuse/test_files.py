"""Bytes of a mounted directory in its store, with and without pages of the kernel."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from .mounts import Mounted, needs_mounts

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

DATA = bytes(n * 7 % 251 for n in range(300_000))


def test_written_bytes_are_read_and_stored(place: Path, stored: Path) -> None:
    """The next open reads it, and so does the store after a close: that writes everything back."""
    (place / "a").write_bytes(DATA)
    assert (place / "a").read_bytes() == DATA
    assert (stored / "a").read_bytes() == DATA


def test_fsync_makes_it_durable(place: Path, stored: Path, mounted: Mounted) -> None:
    """None of its bytes is unstable afterwards."""
    fd = os.open(place / "a", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, DATA)
        before = mounted.number("commits")
        os.fsync(fd)
        assert mounted.number("commits") > before
        assert (stored / "a").read_bytes() == DATA
        os.fdatasync(fd)
    finally:
        os.close(fd)


def test_o_direct_reads_and_writes(place: Path) -> None:
    path = place / "a"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 20) as memory:
            memory[:] = os.urandom(1 << 20)
            assert os.pwrite(fd, memory, 4096) == 1 << 20
            with mmap.mmap(-1, 1 << 20) as other:
                assert os.preadv(fd, [other], 4096) == 1 << 20
                assert other[:] == memory[:]
    finally:
        os.close(fd)
    assert path.stat().st_size == (1 << 20) + 4096
