"""Listings of mounts: when a directory is read, and which of its names programs see."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.protocol import ObjectStat
from pagecache.fuse import Attributes, Files, Loop, Server
from pagecache.fuse.entries import SAID, Listed

from ..file.rig import raises
from .mounts import names, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]
LONG = 60.0


class Counted(DirectoryBackend):
    """A store that counts the listings of a directory."""

    looks = 0

    def readdir(self, key: Any) -> Iterator[ObjectStat]:
        self.looks += 1
        return super().readdir(key)


def test_a_directory_that_others_remove_before_it_is_read_is_empty(place: Path, stored: Path) -> None:
    """Local file systems behave alike: getdents says ENOENT, which the C library treats as the end."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    stored.rmdir()
    assert os.listdir(fd) == []
    os.close(fd)


def test_a_listing_asks_the_store_once(store: Path, mnt: Path) -> None:
    """It asks neither at the open, nor for each piece that the kernel reads, and anew once it is rewound."""
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


class Broken(Counted):
    """A store whose first listing fails, before any name or behind the first."""

    behind = 0

    def readdir(self, key: Any) -> Iterator[ObjectStat]:
        found = super().readdir(key)
        if self.looks == 1:
            yield from itertools.islice(found, self.behind)
            raise OSError(errno.EACCES, "made up")
        yield from found


@pytest.mark.parametrize("behind", [0, 1])
def test_a_listing_that_fails_says_so_and_is_whole_the_next_time(store: Path, mnt: Path, behind: int) -> None:
    """A partial listing never comes without an error: a program that copies the directory would rely on it."""
    for name in ("a", "b", "c"):
        (store / name).touch()
    backend = Broken(store)
    backend.behind = behind
    with PageCache("4MiB") as cache, Loop(Server(cache.attach(backend)), mnt, timeout=LONG):
        fd = os.open(mnt, os.O_RDONLY | os.O_DIRECTORY)
        assert raises(OSError, os.listdir, fd).errno == errno.EACCES
        assert sorted(os.listdir(fd)) == ["a", "b", "c"]
        os.close(fd)
        assert sorted(os.listdir(mnt)) == ["a", "b", "c"]


# -- names that no directory can have

MISNAMED = ("", "with/slash", "with\0nul", "x" * 1025, "\ud800")


def left_out(log: str) -> list[str]:
    return [line for line in log.splitlines() if "is left out of the listing" in line]


class Misnamed(DirectoryBackend):
    """A store with some names that no directory can have."""

    def readdir(self, key: Any) -> Iterator[ObjectStat]:
        start = f"{key}/" if key else ""
        yield from (ObjectStat(size=0, key=start + name) for name in MISNAMED)
        yield from super().readdir(key)


@pytest.mark.parametrize("kind", ["directories", "objects"])
def test_a_name_that_no_directory_can_have_costs_its_listing_that_name_alone(
    store: Path, mnt: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The log names it once, with its directory and the rule, however often it is listed."""
    (store / "d").mkdir()
    (store / "d" / "good").touch()
    backend: Any = Misnamed(store) if kind == "directories" else MemoryBackend()
    for name in (*MISNAMED[2:], "good") if kind == "objects" else ():
        backend.put(f"d/{name}", b"")
    with PageCache("4MiB") as cache, Loop(Server(cache.attach(backend)), mnt, timeout=LONG):
        for _ in range(2):
            assert names(mnt / "d") == ["good"]
    log = left_out(caplog.text)
    assert len(log) == len(set(log)) == (5 if kind == "directories" else 3)
    assert all("directory /d: the name '" in line for line in log)
    for name, rule in (("with\\x00nul", "has no NUL"), ("xxx", "at most 1024 bytes, and this one 1025")):
        assert [rule in line for line in log if name in line] == [True]
    if kind == "directories":
        assert [line for line in log if "'with/slash'" in line and "has no slash" in line]
        assert [line for line in log if "''" in line and "is not empty" in line]


class Named:
    """A simple file system, whose root lists the names that a test sets."""

    def __init__(self, volume: Volume, entries: list[Any]) -> None:
        self.files = Files(volume)
        self.listed = entries

    def getattr(self, number: int) -> Attributes:
        mode = stat.S_IFDIR | 0o755 if number == 1 else stat.S_IFREG | 0o644
        return Attributes(number, mode, 1, os.getuid(), os.getgid(), 0, 0, 0, 0)

    def lookup(self, parent: int, name: str) -> Attributes:
        return self.getattr(2)

    def open(self, number: int, flags: int) -> tuple[int, bool]:
        raise PermissionError(number)

    def entries(self, number: int) -> list[tuple[Any, Attributes]]:
        return [(name, self.getattr(2)) for name in self.listed]


def test_names_of_a_file_system_of_ones_own_are_looked_at_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its own dots are not shown twice, and not logged; the longest possible name is shown."""
    longest = "y" * 1024
    with PageCache("4MiB") as cache:
        system = Named(cache.attach(MemoryBackend()), [".", "..", *MISNAMED, 7, "good", b"bytes", longest])
        with Loop(system, tmp_path, timeout=LONG):
            for _ in range(2):
                assert names(tmp_path) == ["bytes", "good", longest]
            assert run("ls", "-a", tmp_path).split() == [".", "..", "bytes", "good", longest]
    log = left_out(caplog.text)
    assert len(log) == len(MISNAMED) + 1
    assert all("directory 1: the name " in line for line in log)
    assert [line for line in log if "the name 7 " in line and "is a str, not int" in line]


def test_the_log_is_not_filled_with_names(caplog: pytest.LogCaptureFixture) -> None:
    listed = Listed()
    for _ in range(2):
        assert listed.of("directory /d", [(f"{number}/", number) for number in range(2000)]) == []
    assert len(left_out(caplog.text)) == SAID
    assert caplog.text.count("gets no more of them") == 1


def test_a_listing_after_its_deadline_is_not_used_by_later_readers(tmp_path: Path) -> None:
    """It began before theirs: names would be listed twice, or not at all."""
    go_on, hangs = threading.Event(), threading.Event()

    class Slow(Named):
        def entries(self, number: int) -> list[tuple[Any, Attributes]]:
            if hangs.is_set():
                return [(f"new{number:03}{'x' * 200}", self.getattr(2)) for number in range(300)]
            hangs.set()
            assert go_on.wait(LONG)
            return [(f"old{number:03}{'x' * 200}", self.getattr(2)) for number in range(300)]

    with PageCache("4MiB") as cache:
        system = Slow(cache.attach(MemoryBackend()), [])
        with Loop(system, tmp_path, timeout=2) as loop:
            fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                assert raises(OSError, os.listdir, fd).errno == errno.EIO
                assert hangs.is_set()
                with os.scandir(fd) as found:
                    seen = [next(found).name]
                    go_on.set()
                    assert loop.drain(LONG)
                    seen += [entry.name for entry in found]
            finally:
                go_on.set()
                os.close(fd)
    assert sorted(seen) == [f"new{number:03}{'x' * 200}" for number in range(300)]
