"""Times are a part of the version of many stores: setting the times of a name changes the version of its object, and
the cache does not mistake that for a remote change. [2.19, 2.20]
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends import DirectoryBackend
from pagecache.backends.protocol import ObjectStat

from .rig import Task, attached, content_of
from .test_interrupts import ctrl_c

SECOND = 10**9


class Gated(DirectoryBackend):
    """A backend in which one call of one kind announces that it has begun, and waits."""

    at = ""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def _wait(self, what: str) -> None:
        if what == self.at:
            self.at = ""
            self.begun.set()
            assert self.goes_on.wait(60)

    def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        self._wait("rename")
        super().rename(src, dst, replace=replace)

    def setattr(self, key: Any, **changes: Any) -> ObjectStat:
        self._wait("setattr")
        return super().setattr(key, **changes)


@pytest.mark.parametrize("first", ["rename", "setattr"])
@pytest.mark.parametrize("known", ["both", "neither"])
def test_times_that_are_set_beside_a_rename_are_no_remote_change(tmp_path: Path, first: str, known: str) -> None:
    """A file with unsaved bytes is renamed over another while the times of that name are set."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 10)
    backend = Gated(tmp_path)
    with attached(backend, "1MiB", flush_interval=3600, dirty_expire=3600) as volume:
        if known == "both":
            volume.open("a", "r+").close()
            with volume.open("b", "r+") as file:
                file.pwrite(b"unsaved", 0)
                file._leave()
        calls: dict[str, Callable[[], Any]] = {
            "rename": lambda: volume.rename("b", "a"),
            "setattr": lambda: volume.setattr("a", mtime_ns=5 * SECOND, atime_ns=5 * SECOND),
        }
        backend.at = first
        one = Task(calls.pop(first))
        assert backend.begun.wait(60)
        other = Task(*calls.values())
        assert other.waits()
        backend.goes_on.set()
        one.result()
        other.result()
        changed = os.stat(tmp_path / "a").st_mtime_ns == 5 * SECOND
        assert changed == (first == "rename")
        with volume.open("a", "r+") as file:
            assert file.pread(20, 0) == (b"unsavedbbb" if known == "both" else b"b" * 10)
            file.fsync()
            volume.cache.check()
    assert (tmp_path / "a").read_bytes() == (b"unsavedbbb" if known == "both" else b"b" * 10)


def test_times_that_were_left_behind_are_set_before_a_rename(tmp_path: Path) -> None:
    """Ctrl-C ends the wait, not the call: it applies to the object that had the name."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 10)
    backend = Gated(tmp_path)
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600) as cache:
        volume = cache.attach(backend)
        with volume.open("a", "r+") as old, volume.open("b", "r+") as new:
            new.pwrite(b"unsaved", 0)
            backend.at = "setattr"
            with ctrl_c(backend.begun), pytest.raises(KeyboardInterrupt):
                volume.setattr("a", mtime_ns=5 * SECOND, atime_ns=5 * SECOND)
            renaming = Task(volume.rename, "b", "a")
            assert renaming.waits()
            backend.goes_on.set()
            renaming.result()
            assert os.stat(tmp_path / "a").st_mtime_ns != 5 * SECOND
            assert content_of(volume, "a")[:20] == b"unsavedbbb"
            new.fsync()
            assert old.pread(20, 0) == b"a" * 10
            cache.check()
    assert (tmp_path / "a").read_bytes() == b"unsavedbbb"
