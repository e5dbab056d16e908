"""The socket's name: its creation under any umask, the files it replaces and never replaces, and its removal."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import ForkedError, PageCache, ShutdownError
from pagecache.observe import address
from tests.file.rig import Patch, beside, raises

from .conftest import Served
from .wire import TIMEOUT, Connection, connect, get


@pytest.fixture
def cache() -> Iterator[PageCache]:
    with PageCache("1MiB") as made:
        yield made


def test_the_socket_is_the_owners_alone_and_listens_before_it_has_its_name(
    cache: PageCache, tmp_path: Path, monkeypatch: Patch
) -> None:
    take = address._take_name

    def taken(secret: str, path: str) -> None:
        assert not Path(path).exists()
        assert stat.S_IMODE(Path(secret).lstat().st_mode) == 0o600
        connect(secret).close()
        take(secret, path)

    monkeypatch.setattr(address, "_take_name", taken)
    before = os.umask(0)
    try:
        cache.serve_stats(tmp_path / "s")
    finally:
        os.umask(before)
    found = (tmp_path / "s").lstat()
    assert (oct(found.st_mode), found.st_uid) == ("0o140600", os.geteuid())
    assert os.listdir(tmp_path) == ["s"]


def nothing(path: Path) -> None:
    """Make nothing there."""


@pytest.mark.parametrize(
    ("path", "make"),
    [
        *(("s", make) for make in (Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("other"))),
        *((path, nothing) for path in ("none/s", "file/s", "/proc/s", "s" * 256)),
    ],
    ids=["a file", "a directory", "a pipe", "a link", "no folder", "below a file", "no place", "too long"],
)
def test_a_path_that_is_taken_or_cannot_be_made_is_named_and_left_alone(
    cache: PageCache, tmp_path: Path, path: str, make: Callable[[Path], Any]
) -> None:
    (tmp_path / "file").touch()
    make(tmp_path / path)
    before = {there: there.lstat() for there in tmp_path.iterdir()}
    kind = OSError if make is nothing else FileExistsError
    assert raises(kind, cache.serve_stats, tmp_path / path).filename == str(tmp_path / path)
    assert {there: there.lstat() for there in tmp_path.iterdir()} == before


def test_a_path_that_is_served_is_refused_and_a_second_one_is_served_too(served: Served) -> None:
    with PageCache("1MiB") as other:
        for cache in (served.cache, other):
            caught = raises(OSError, cache.serve_stats, served.path, match="already")
            assert (caught.errno, caught.filename) == (errno.EADDRINUSE, served.path)
    served.cache.serve_stats(served.folder / "t")
    for name in ("s", "t"):
        assert get(str(served.folder / name), "/v1/stats")["cache"]["name"] == served.cache.name
    served.cache.close()
    assert os.listdir(served.folder) == []


OWNER = """
import sys
from pagecache import PageCache
cache = PageCache("1MiB")
cache.serve_stats(sys.argv[1])
print("serves", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_the_name_goes_with_its_owner_or_is_taken_over(cache: PageCache, tmp_path: Path, killed: bool) -> None:
    path = str(tmp_path / "s")
    with subprocess.Popen([sys.executable, "-c", OWNER, path], stdout=-1, stdin=-1, cwd=Path.cwd()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"serves\n"
        raises(OSError, cache.serve_stats, path, match="already")
        assert get(path, "/v1/stats")["pid"] == child.pid
        if killed:
            child.send_signal(signal.SIGKILL)
        child.communicate(b"\n", TIMEOUT)
    assert os.listdir(tmp_path) == (["s"] if killed else [])
    cache.serve_stats(path)
    assert get(path, "/v1/stats")["pid"] == os.getpid()
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("what", ["a file", "a server"])
def test_what_takes_the_name_of_a_stale_socket_is_not_lost(
    cache: PageCache, tmp_path: Path, monkeypatch: Patch, what: str
) -> None:
    """Another program replaces the socket right after it was found dead."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale, socket.socket(socket.AF_UNIX) as server:
        stale.bind(str(path))
        stale.close()

        def replace() -> None:
            path.unlink()
            if what == "a file":
                path.write_text("mine")
            else:
                server.bind(str(path))
                server.listen()

        beside(monkeypatch, address, "_check_dead", replace, after=True)
        raises(OSError, cache.serve_stats, path, match=r"not a socket|already")
        if what == "a file":
            assert path.read_text() == "mine"
        else:
            connect(str(path)).close()
    assert os.listdir(tmp_path) == ["s"]


def test_a_name_that_was_taken_over_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with PageCache("1MiB") as cache:
        cache.serve_stats(path)
        path.unlink()
        with PageCache("1MiB") as other:
            other.serve_stats(path)
            cache.close()
            assert get(str(path), "/v1/stats")["cache"]["name"] == other.name
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [100, 200, 255])
def test_a_path_may_be_longer_than_an_address(cache: PageCache, tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = str(folder / ("s" * length))
    cache.serve_stats(path)
    assert get(path, "/v1/stats")["schema"] == 1
    raises(OSError, cache.serve_stats, path, match="already")


@pytest.mark.parametrize("path", ["", "\0abstract", "a\0b", "folder/", b"s"])
def test_an_invalid_path_of_a_socket_is_refused(cache: PageCache, path: str) -> None:
    raises((TypeError, ValueError), cache.serve_stats, path, match="path")


def test_a_relative_path_is_the_same_after_a_change_of_folder(
    cache: PageCache, tmp_path: Path, monkeypatch: Patch
) -> None:
    """A closed cache is not served again."""
    monkeypatch.chdir(tmp_path)
    cache.serve_stats("s")
    monkeypatch.chdir("/")
    cache.close()
    raises(ShutdownError, cache.serve_stats, tmp_path / "s")
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_neither_serves_nor_takes_the_name(served: Served) -> None:
    """It closes inherited sockets: when its parent is gone, no client can wait for a server."""
    client = Connection(served.path)
    client.ask("/v1/waits")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sockets = [n for n in os.listdir("/proc/self/fd") if is_socket_of(n)]
            raises(ForkedError, served.cache.serve_stats, served.folder / "t")
            raises(ForkedError, served.cache.close)
            served.cache.__del__()
            served.cache._at_exit()
            os.write(writing, repr(sockets).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"[]"
    assert os.waitpid(child, 0)[1] == 0
    assert get(served.path, "/v1/stats")["pid"] == os.getpid()
    assert client.ask("/v1/waits")[0] == 200
    client.close()


def is_socket_of(number: str) -> bool:
    """Return whether a descriptor listens, or is the server's end of a connection."""
    try:
        with socket.socket(fileno=os.dup(int(number))) as found:
            listens = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            return found.family == socket.AF_UNIX and (listens or "pagecache" in str(found.getsockname()))
    except OSError:
        return False
