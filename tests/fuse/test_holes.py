"""Holes of a mounted directory, as those of a plain one of the same file system; stores through shared mappings."""

from __future__ import annotations

import errno
import mmap
import os
import random
import tarfile
from pathlib import Path

import pytest

from .below import Switch
from .mounts import Mounted, code, maps_shared, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

KIB, MIB = 1024, 1 << 20
PIECES = ((64 * KIB, 8 * KIB), (1 * MIB + 5, 100), (3 * MIB, 300 * KIB))
SIZE = 6 * MIB


def sparse(path: Path, *, sync: bool = False) -> Path:
    """A file with holes, made as programs do."""
    with path.open("wb", buffering=0) as file:
        for offset, length in PIECES:
            file.seek(offset)
            file.write(random.Random(offset).randbytes(length))
        file.truncate(SIZE)
        if sync:
            os.fsync(file.fileno())
    return path


def answer(fd: int, offset: int, whence: int) -> int | str:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def extents(path: Path) -> list[tuple[int, int]]:
    found, at = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while (begin := answer(fd, at, os.SEEK_DATA)) != "ENXIO":
            assert isinstance(begin, int)
            end = answer(fd, begin, os.SEEK_HOLE)
            assert isinstance(end, int)
            assert end > begin
            found.append((begin, end))
            at = end
    finally:
        os.close(fd)
    return found


def blocks(path: Path) -> int:
    return path.stat().st_blocks


def test_lseek_finds_the_holes_of_the_store(place: Path, plain: Path) -> None:
    """The test seeks at offsets inside and between, at the end and behind it."""
    here, there = sparse(place / "a", sync=True), sparse(plain / "a", sync=True)
    assert extents(here) == extents(there)
    with here.open("rb") as one, there.open("rb") as other:
        for offset in (-1, 0, 1, 64 * KIB, 70 * KIB, 72 * KIB, MIB, 3 * MIB + 1, SIZE - 1, SIZE, SIZE + 1):
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                assert answer(one.fileno(), offset, whence) == answer(other.fileno(), offset, whence)


def test_blocks_are_those_of_the_store(place: Path, stored: Path, plain: Path) -> None:
    """They are equal after an fsync; before it they are at least as many as there will be."""
    before = blocks(sparse(place / "a"))
    with (place / "a").open("rb") as file:
        os.fsync(file.fileno())
    assert blocks(stored / "a") <= before < SIZE // 512
    sparse(place / "b", sync=True)
    assert blocks(place / "b") == blocks(stored / "b") == blocks(sparse(plain / "b", sync=True))


@pytest.mark.parametrize("command", ["cp", "cp --sparse=always", "cp --sparse=never", "cp -r"])
def test_copies_have_the_holes_that_they_have_elsewhere(place: Path, stored: Path, plain: Path, command: str) -> None:
    """The copy goes from the mount to itself, as in a plain directory."""
    for top in (place, plain):
        (top / "from").mkdir()
        sparse(top / "from" / "a", sync=True)
        source = ("from", "to") if command == "cp -r" else ("from/a", "copy")
        run(*command.split(), *source, cwd=top)
    name = "to/a" if command == "cp -r" else "copy"
    run("sync", place / name)
    run("sync", plain / name)
    assert (place / name).read_bytes() == (plain / name).read_bytes()
    assert extents(stored / name) == extents(plain / name)
    assert blocks(place / name) == blocks(stored / name) == blocks(plain / name)


def test_stores_through_a_mapping_are_data_before_they_are_synced(place: Path, mounted: Mounted) -> None:
    """Only the kernel has them, and writes them back before a hole is reported; the file never has zero blocks."""
    if not maps_shared(mounted.options):
        pytest.skip("there are no shared mappings here")
    fd = os.open(place / "a", os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, SIZE)
        with mmap.mmap(fd, SIZE) as mapped:
            mapped[MIB : MIB + 4] = b"data"
            run("tar", "-cSf", place / "archive", "-C", place, "a")
            with tarfile.open(place / "archive") as archive:
                member = archive.extractfile("a")
                assert member is not None
                assert member.read()[MIB : MIB + 4] == b"data"
            mapped[3 * MIB : 3 * MIB + 4] = b"more"
            run("cp", place / "a", place / "copy")
            assert (place / "copy").read_bytes()[3 * MIB : 3 * MIB + 4] == b"more"
            assert answer(fd, 2 * MIB, os.SEEK_DATA) in (2 * MIB, 3 * MIB)
    finally:
        os.close(fd)


@pytest.mark.parametrize("how", ["msync", "fsync", "munmap", "close"])
def test_stores_through_a_mapping_are_kept(place: Path, stored: Path, mounted: Mounted, how: str) -> None:
    """msync and fsync make them durable; the end of a mapping and a close write them back."""
    if not maps_shared(mounted.options):
        pytest.skip("there are no shared mappings here")
    path = place / "a"
    path.write_bytes(b"." * 616 * KIB)
    file = path.open("r+b", buffering=0)
    mapped = mmap.mmap(file.fileno(), 616 * KIB)
    mapped[12 * KIB : 12 * KIB + 4] = b"kept"
    commits = mounted.number("commits")
    if how == "msync":
        mapped.flush()
    elif how == "fsync":
        os.fsync(file.fileno())
    if how in ("msync", "fsync"):
        assert mounted.number("commits") > commits
        assert (stored / "a").read_bytes()[12 * KIB : 12 * KIB + 5] == b"kept."
    if how == "close":  # the mapping goes on
        file.close()
        assert path.read_bytes()[12 * KIB : 12 * KIB + 5] == b"kept."
        mapped[16 * KIB] = 65
    mapped.close()
    file.close()
    assert path.read_bytes()[12 * KIB : 12 * KIB + 5] == b"kept."
    with path.open("r+b") as again:
        os.fsync(again.fileno())
    assert (stored / "a").read_bytes() == path.read_bytes()


def test_stores_through_a_mapping_are_kept_while_the_store_refuses_data(tmp_path: Path, store: Path) -> None:
    """The kernel sends a page once: a later msync saves it, and the file may have failed before."""
    switch = Switch(tmp_path)
    with Mounted(tmp_path, "tests.fuse.below:switched", "--option", f"folder={tmp_path}") as mounted:
        fd = os.open(mounted.path / "a", os.O_RDWR | os.O_CREAT)
        os.write(fd, bytes(8 * KIB))
        os.fsync(fd)
        with mmap.mmap(fd, 8 * KIB) as mapped:
            switch.fail("write", errno.ENOSPC)
            for offset, content in ((0, b"one"), (4 * KIB, b"two")):
                mapped[offset : offset + 3] = content
                assert code(mapped.flush) == errno.ENOSPC
            switch.succeed()
            mapped.flush()
        os.close(fd)
        assert (store / "a").read_bytes() == b"one".ljust(4 * KIB, b"\0") + b"two".ljust(4 * KIB, b"\0")


def test_objects_are_all_data(flat: Path) -> None:
    """Blocks follow the size, and nothing is a hole."""
    path = flat / "a"
    with path.open("wb", buffering=0) as file:
        file.seek(100_000)
        file.write(b"end")
    assert extents(path) == [(0, 100_003)]
    assert blocks(path) == -(-100_003 // 512)


def test_only_holes_without_pending_writes_are_without_blocks(place: Path, plain: Path) -> None:
    for top in (place, plain):
        run("truncate", "-s", "8M", top / "a")
    assert extents(plain / "a") == []
    with (place / "a").open("rb") as file:
        assert file.read() == bytes(8 * MIB)
    assert blocks(place / "a") in (0, 1)
    run("cp", place / "a", place / "b")
    assert (place / "b").read_bytes() == bytes(8 * MIB)
