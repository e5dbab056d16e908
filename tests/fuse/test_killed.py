"""A server that is killed: before each request of a program, and before and after each call of its store.

The program replaces a file as editors do: a new one, fsync, rename over the old one, fsync of the directory. Whenever
the server dies, the name has one of its contents as a whole, synced bytes are there, and a new mount goes on with it.
`make test` tries some of these moments, `make slow` all of them.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .below import Switch
from .mounts import KINDS, Mounted, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.timeout(1800)]

DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
VERSIONS = (1, 2)
EVERY = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])


def content(version: int) -> bytes:
    return b"%03d|" % version * 75_000


def replace(top: Path, version: int, before: Callable[[], None]) -> None:
    """Replace the file, with a call of `before` ahead of each system call but close(2)."""
    data, new = content(version), top / "file.new"
    half = len(data) // 2
    before()
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        for begin in (0, half):
            before()
            assert os.pwrite(fd, data[begin : begin + half], begin) == half
        before()
        os.fsync(fd)
    finally:
        os.close(fd)
    before()
    new.rename(top / "file")
    before()
    run("sync", top)


def work(mounted: Mounted, before: Callable[[], None]) -> tuple[int, bool]:
    """The safe version, and whether the server has lived to the end."""
    safe = 0
    try:
        for version in VERSIONS:
            replace(mounted.path, version, before)
            safe = version
    except OSError as error:
        if error.errno not in DEAD:
            raise
        return safe, False
    except AssertionError:
        assert mounted.process is not None
        assert mounted.process.wait(30) != 0  # sync(1) got an error
        return safe, False
    return safe, True


def whole(path: Path, safe: int) -> None:
    """Check that the file has a whole content, none older than the safe one."""
    found = path.read_bytes() if path.exists() else b""
    assert found in ([b""] if not safe else []) + [content(version) for version in VERSIONS if version >= safe]


def goes_on(mounted: Mounted, store: Path, safe: int) -> None:
    """Check that a new server finds the remains and can replace the file."""
    mounted.stop()
    whole(store / "file", safe)
    with mounted:
        whole(mounted.path / "file", safe)
        replace(mounted.path, 3, lambda: None)
        assert mounted.unmount() == 0, mounted.said()
    assert (store / "file").read_bytes() == content(3)


def made(tmp_path: Path, mode: str, moment: int) -> tuple[Mounted, Path]:
    folder = tmp_path / str(moment)
    (folder / "store").mkdir(parents=True)
    options = ["--option", f"folder={folder}", "--capacity", "1MiB", mode]
    return Mounted(folder, "python:tests.fuse.below:switched", *options), folder


@EVERY
@pytest.mark.parametrize("when", ["before a request", "before a call of the store", "after a call of the store"])
@pytest.mark.parametrize("mode", KINDS)
def test_a_server_that_is_killed_leaves_what_was_synced(tmp_path: Path, mode: str, when: str, step: int) -> None:
    for moment in itertools.count(1, step):
        mounted, folder = made(tmp_path, mode, moment)
        switch, requests = Switch(folder), iter(range(moment - 1, -1, -1) if when == "before a request" else ())

        def kill(mounted: Mounted = mounted, requests: Iterator[int] = requests) -> None:
            if next(requests, None) == 0:
                mounted.kill()

        with mounted:
            if when != "before a request":
                switch.die(moment if when.startswith("before") else -moment)
            safe, lived = work(mounted, kill)
            switch.live()
            goes_on(mounted, folder / "store", safe)
        if lived:
            assert moment > step
            return
