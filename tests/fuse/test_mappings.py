"""Shared mappings of a mounted file, with and without direct I/O, act as they do in a plain directory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .mounts import Mounted, maps_shared, needs_mounts

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

PAGE = 4096
SIZE = 64 * PAGE


@pytest.fixture
def place(place: Path, mounted: Mounted) -> Path:
    """A folder of a mount that has shared mappings."""
    if not maps_shared(mounted.options):
        pytest.skip("there are no shared mappings here")
    return place


def both(place: Path, plain: Path, steps: Callable[[Path], object]) -> object:
    """The result of the steps in a mount, equal to that in a plain directory."""
    found = steps(place)
    assert found == steps(plain)
    return found


def test_two_mappings_are_one_memory(place: Path, plain: Path) -> None:
    """They belong to two descriptors, and to another process."""

    def steps(top: Path) -> object:
        path = top / "a"
        path.write_bytes(b"." * SIZE)
        with (
            path.open("r+b") as one,
            path.open("r+b") as other,
            mmap.mmap(one.fileno(), SIZE) as first,
            mmap.mmap(other.fileno(), SIZE) as second,
        ):
            first[100:105] = b"first"
            seen = second[99:106]
            program = "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); m[200:205]=b'child'"
            subprocess.run([sys.executable, "-c", program, str(path)], check=True)
            return seen, first[199:206], second[199:206]

    assert both(place, plain, steps) == (b".first.", b".child.", b".child.")


@pytest.mark.parametrize("how", ["msync", "fsync", "munmap", "close"])
def test_stores_are_kept(place: Path, stored: Path, mounted: Mounted, how: str) -> None:
    """msync and fsync make them durable; the end of a mapping and a close write them back."""
    path = place / "a"
    path.write_bytes(b"." * SIZE)
    file = path.open("r+b", buffering=0)
    mapped = mmap.mmap(file.fileno(), SIZE)
    mapped[3 * PAGE : 3 * PAGE + 4] = b"kept"
    commits = mounted.number("commits")
    if how == "msync":
        mapped.flush()
    elif how == "fsync":
        os.fsync(file.fileno())
    if how in ("msync", "fsync"):
        assert mounted.number("commits") > commits
        assert (stored / "a").read_bytes()[3 * PAGE : 3 * PAGE + 5] == b"kept."
    if how == "close":  # the mapping goes on
        file.close()
        assert path.read_bytes()[3 * PAGE : 3 * PAGE + 5] == b"kept."
        mapped[4 * PAGE] = 65
    mapped.close()
    file.close()
    assert path.read_bytes()[3 * PAGE : 3 * PAGE + 5] == b"kept."
    with path.open("r+b") as again:
        os.fsync(again.fileno())
    assert (stored / "a").read_bytes() == path.read_bytes()


def test_a_mapping_of_a_file_that_is_cut_and_extended(place: Path, plain: Path) -> None:
    """Cut bytes do not come back: the pages of the kernel are zeros there."""

    def steps(top: Path) -> object:
        path = top / "a"
        path.write_bytes(b"x" * 3 * PAGE)
        with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 3 * PAGE) as mapped:
            mapped[2 * PAGE : 2 * PAGE + 4] = b"gone"
            os.ftruncate(file.fileno(), PAGE + 10)
            os.ftruncate(file.fileno(), 3 * PAGE)
            return mapped[PAGE : 3 * PAGE], path.read_bytes()

    both(place, plain, steps)
