"""Listings of mounts: when a directory is looked at, and which of its names programs are shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends import DirectoryBackend
from pagecache.backends.protocol import ObjectStat
from pagecache.fuse import Loop, Server, why_no_loop

from .mounts import Mounted, needs_mounts

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]
needs_loop = pytest.mark.skipif(bool(why_no_loop()), reason=why_no_loop() or "built")
LONG = 60.0


@pytest.fixture
def opened(place: Path) -> Iterator[int]:
    """A descriptor of a directory that nobody has read yet."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


class Counted(DirectoryBackend):
    """Counts how often a directory is looked at."""

    looks = 0

    def readdir(self, key: Any) -> Iterator[ObjectStat]:
        self.looks += 1
        return super().readdir(key)


def test_what_is_made_after_the_open_is_there_at_the_first_read(place: Path, stored: Path, opened: int) -> None:
    """Past the mount, and through it; and what was removed is not."""
    (stored / "by another").touch()
    (place / "by us").touch()
    assert sorted(os.listdir(opened)) == ["by another", "by us"]


def test_what_is_removed_after_the_open_is_not_there_at_the_first_read(place: Path, stored: Path) -> None:
    (place / "a").touch()
    (place / "b").touch()
    with os.scandir(place) as found:  # opens it, and reads at the first name
        (stored / "a").unlink()
        assert [entry.name for entry in found] == ["b"]


def test_a_rewound_directory_is_looked_at_anew(stored: Path, opened: int) -> None:
    assert os.listdir(opened) == []
    (stored / "by another").touch()
    assert os.listdir(opened) == ["by another"]
    (stored / "by another").unlink()
    assert os.listdir(opened) == []


def test_objects_that_are_made_after_the_open_are_listed(flat: Path, objects: Mounted) -> None:
    fd = os.open(flat, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (flat / "a").write_bytes(b"a")
        assert os.listdir(fd) == ["a"]
        (flat / "b").write_bytes(b"b")
        assert sorted(os.listdir(fd)) == ["a", "b"]
    finally:
        os.close(fd)


def test_a_directory_that_others_remove_before_it_is_read_is_empty(stored: Path, opened: int) -> None:
    """As of local file systems, where getdents says ENOENT, and the C library takes that for the end."""
    stored.rmdir()
    assert os.listdir(opened) == []


@needs_loop
def test_a_listing_asks_the_store_once(tmp_path: Path) -> None:
    """Not at the open, and not for each piece that the kernel reads."""
    store, mnt = tmp_path / "store", tmp_path / "mnt"
    store.mkdir()
    mnt.mkdir()
    names = [f"{number:03}{'x' * 200}" for number in range(300)]
    for name in names:
        (store / name).touch()
    backend = Counted(store)
    with PageCache("4MiB") as cache, Loop(Server(cache.attach(backend)), mnt, timeout=LONG):
        fd = os.open(mnt, os.O_RDONLY | os.O_DIRECTORY)
        assert backend.looks == 0
        assert sorted(os.listdir(fd)) == names
        assert backend.looks == 1
        os.listdir(fd)
        assert backend.looks == 2
        os.close(fd)
