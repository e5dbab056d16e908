"""The use of each kind of file system, and the errors for unusable ones."""

from __future__ import annotations

import errno
import io
import os
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from pagecache import BackendError, PageCache
from pagecache.backends import DirectoryBackend, backend_from_url
from pagecache.backends.fsspec import FsspecBackend, LocalObjects
from pagecache.backends.fsspec.calls import about, stat_of, tagged
from tests.file.rig import attached, raises, run_program
from tests.fsspec_below.place import get
from tests.fsspec_below.stores import Streams, Whole


def open_url(url: str, **options: Any) -> Any:
    return backend_from_url(url, **options)


# ---------------------------------------------------------------------------------------- forms


def test_local_files_are_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(1 << 20))
    before = (tmp_path / "key").stat().st_ino
    backend: Any = FsspecBackend(fsspec.filesystem("file"), str(tmp_path))
    assert isinstance(backend.inner, DirectoryBackend)
    assert not backend.limits.commit_on_close
    with PageCache("1MiB") as cache, cache.attach(backend).open("key", "r+b") as file:
        file.pwrite(b"NEW", 70000)
    assert (tmp_path / "key").stat().st_ino == before
    assert (tmp_path / "key").read_bytes() == bytes(70000) + b"NEW" + bytes((1 << 20) - 70003)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("form", ["plain", "url", "dir", "wrapped", "everything"])
def test_local_files_are_found_whatever_is_around_them(tmp_path: Path, form: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "key").write_bytes(b"content")
    local = fsspec.filesystem("file")
    backend: Any
    forms: dict[str, Callable[[], Any]] = {
        "plain": lambda: (FsspecBackend(local, f"file://{tmp_path}/folder"), "key"),
        "url": lambda: (open_url(f"fsspec:file://{tmp_path}/folder"), "key"),
        "dir": lambda: (FsspecBackend(fsspec.filesystem("dir", path=str(tmp_path), fs=local), "folder"), "key"),
        "wrapped": lambda: (
            FsspecBackend(AsyncFileSystemWrapper(local, asynchronous=True), str(tmp_path)),
            "folder/key",
        ),
        "everything": lambda: (FsspecBackend(local), f"{tmp_path}/folder/key".lstrip("/")),
    }
    backend, key = forms[form]()
    assert isinstance(backend.inner, LocalObjects)
    assert get(backend.open(key), 0, 100) == b"content"
    backend.close()


def test_directories_are_made_in_the_root_alone_and_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside, fsync = tmp_path / "root", tmp_path / "outside", os.fsync
    outside.mkdir()
    backend: Any = FsspecBackend(LocalFileSystem(auto_mkdir=True), str(root))
    (root / "out").symlink_to(outside)
    raises(PermissionError, backend.open, "out/b/key", create=True, match="'out/b/key'")
    assert list(outside.iterdir()) == []
    raises(FileNotFoundError, backend.open, "b/key")
    synced = []

    def logged(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", logged)
    (root / "in").symlink_to("d")
    (root / "d").mkdir()
    file = backend.open("in/b//c/key", create=True)
    file.commit()
    assert synced == [f"{root}/d/b/c/key", f"{root}/d", f"{root}/d/b", f"{root}/d/b/c"]
    file.close()
    backend.close()


def test_instances_of_asynchronous_classes_run_on_the_loop_of_fsspec() -> None:
    for asynchronous in (True, False):
        fs = Whole(asynchronous=asynchronous)
        fs.put("bucket/key", b"old content")
        backend = FsspecBackend(fs, "bucket")
        with attached(backend, "1MiB") as volume:
            with volume.open("key", "r+b") as file:
                assert file.read(3) == b"old"
                file.pwrite(b"NEW", 0)
            assert [stat.key for stat in volume.list()] == ["key"]
            volume.rename("key", "other")
            volume.remove("other")
        assert fs.hooks.threads == {"fsspecIO"}
        assert fs.objects == {}


# ---------------------------------------------------------------------------------------- unsupported operations


class OnlyInfos(AsyncFileSystem):
    protocol = "lacking"
    cachable = False

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": 1, "type": "file"}


class Stores(OnlyInfos):
    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        raise AssertionError("no call may write")


class Removes(Stores):
    async def _rm_file(self, path: str, **options: Any) -> None:
        raise AssertionError("no call may remove")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OnlyInfos, "no way to store an object"),
        (Stores, "no way to remove an object"),
        (Removes, "no way to put a new object in the place of an old one"),
    ],
)
def test_missing_methods_of_a_class_are_reported_before_anything_is_written(kind: Any, words: str) -> None:
    backend: Any = FsspecBackend(kind())
    assert backend.limits.read_only
    with pytest.raises(io.UnsupportedOperation, match=f"lacking: objects can only be read: it has {words}"):
        backend.open("new", create=True)
    assert FsspecBackend(kind(), publish="put").limits.read_only is (kind is OnlyInfos)


def test_read_only_as_it_was_given() -> None:
    fs = Whole()
    fs.put("bucket/key", b"content")
    backend = FsspecBackend(fs, "bucket", read_only=True)
    for call in (
        lambda: backend.open("new", create=True),
        lambda: backend.remove("key"),
        lambda: backend.rename("key", "other"),
    ):
        raises(io.UnsupportedOperation, call, match="whole: was given as read_only")
    assert list(fs.objects) == ["bucket/key"]


def test_file_systems_that_cannot_read_ranges_say_so_at_open() -> None:
    raises(io.UnsupportedOperation, FsspecBackend(Streams(), "x").open, "key", match="streams: cannot read ranges")
    fs = Whole()
    fs.put("bucket/key", b"content")
    fs.ranges = False
    with PageCache("1MiB") as cache:
        volume = cache.attach(FsspecBackend(fs, "bucket"))
        with pytest.raises(io.UnsupportedOperation, match=r"\] whole: cannot read ranges: it gave 7 bytes where 1"):
            volume.open("key")
    fs.ranges, fs.sizes = True, False
    with pytest.raises(io.UnsupportedOperation, match="objects of unknown size cannot be cached"):
        FsspecBackend(fs, "bucket").open("key")


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"fs": "memory://x"}, TypeError, "'memory://x' is not an fsspec file system; for a URL"),
        ({"fs": Whole}, TypeError, "is not an fsspec file system"),
        ({"root": Path("x")}, TypeError, "root must be a str, not PosixPath"),
        ({"publish": "copy"}, ValueError, "'copy' is not one of 'move', 'put' or None"),
        ({"spool": "/no/such"}, ValueError, "'/no/such' is not a directory"),
        ({"check_reads": 1}, ValueError, "check_reads: 1 is not True or False"),
        ({"commit_on_close": False}, ValueError, "become visible by commit"),
        ({"max_raed": 1}, TypeError, "max_read"),
    ],
)
def test_an_impossible_argument_is_named(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    raises(kind, FsspecBackend, **{"fs": Whole()} | given, match=words)


def test_caches_of_fsspec_are_refused() -> None:
    below = fsspec.filesystem("simplecache", fs=fsspec.filesystem("memory"))
    with pytest.raises(ValueError, match="a SimpleCacheFileSystem keeps copies, which go stale; give the file"):
        FsspecBackend(below)


# ---------------------------------------------------------------------------------------- URLs


@pytest.fixture
def installed() -> Iterator[None]:
    """Make fsspec list a file system that needs a missing package."""
    fsspec.register_implementation("needs", "not_there_at_all.FS", errtxt="Install not_there_at_all", clobber=True)
    yield
    known_implementations.pop("needs")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("fsspec:", "a URL of fsspec must follow 'fsspec:'"),
        ("fsspec:folder", "a URL of fsspec must follow 'fsspec:'"),
        ("fsspec:foo://x", "fsspec knows no protocol 'foo'; install the package that brings it, such as foofs"),
        ("fsspec:needs://x", "that fsspec needs for this is not installed: Install not_there_at_all"),
        ("fsspec:zip://a::foo://x", "fsspec knows no protocol 'foo'"),
        ("fsspec:simplecache::memory://x", "keeps copies, which go stale"),
    ],
)
def test_urls_that_lead_nowhere_say_why(url: str, words: str) -> None:
    raised = raises(ValueError, open_url, url, match=words)
    if "simplecache" not in url:
        assert repr(url) in str(raised)


def test_url_gives_options_to_whom_they_belong(tmp_path: Path) -> None:
    backend = open_url(f"fsspec:file://{tmp_path}/made", auto_mkdir=True, max_write="8KiB")
    assert (tmp_path / "made").is_dir()
    assert int(backend.limits.max_write) == 8192
    backend.close()
    backend = open_url("fsspec:memory://a", spool=str(tmp_path), check_reads=False, publish="put")
    assert (backend.spool, backend.publish) == (str(tmp_path), "put")
    assert backend.root == "/a"


def test_file_systems_of_urls_remember_no_listings() -> None:
    """They are made anew, so that no shared instance caches listings either."""
    backend, other = open_url("fsspec:memory://a"), open_url("fsspec:memory://a")
    assert backend.fs is not other.fs
    assert backend.fs.dircache.use_listings_cache is False


def test_without_fsspec_the_error_says_what_to_install(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["fsspec"] = None
import pagecache, pagecache.backends
from pagecache.backends import *
try:
    pagecache.backend_from_url("fsspec:memory://x")
except ValueError as error:
    print(error)
try:
    pagecache.backends.FsspecBackend
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_program(tmp_path, code).stdout.count("pip install '.[fsspec]'") == 2


# ---------------------------------------------------------------------------------------- errors and infos


class Status(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"answer {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "number", "again"),
    [
        (FileNotFoundError("bucket/key"), errno.ENOENT, None),
        (FileExistsError("bucket/key"), errno.EEXIST, None),
        (IsADirectoryError("x"), errno.EISDIR, None),
        (NotADirectoryError("x"), errno.ENOTDIR, None),
        (PermissionError("Access Denied"), errno.EACCES, None),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC, None),
        (OSError("nobody knows"), errno.EIO, None),
        (TimeoutError(), errno.ETIMEDOUT, None),
        (FSTimeoutError(), errno.ETIMEDOUT, None),
        (ConnectionResetError("gone"), errno.ECONNRESET, None),
        (ConnectionError("gone"), errno.ECONNRESET, None),
        (ConnectionRefusedError("no"), errno.ECONNREFUSED, None),
        (ssl.SSLError(1, "bad handshake"), errno.EIO, None),
        (NotImplementedError("never"), errno.ENOTSUP, None),
        (Status(403), errno.EACCES, None),
        (Status(404), errno.ENOENT, None),
        (Status(412), errno.ESTALE, None),
        (Status(503), errno.EIO, True),
        (Status(429), errno.EIO, True),
    ],
    ids=repr,
)
def test_errors_have_an_errno(error: Exception, number: int, again: bool | None) -> None:
    with pytest.raises(OSError) as raised, about("key", "proto:"):
        raise error
    assert raised.value.errno == number
    assert raised.value.__cause__ is error
    assert again is None or (isinstance(raised.value, BackendError) and raised.value.retry is again)
    if isinstance(error, NotImplementedError):
        assert isinstance(raised.value, io.UnsupportedOperation)
        assert "proto:" in str(raised.value)


def test_unknown_errors_pass_unchanged() -> None:
    for error in (Status(400), RuntimeError("what"), BackendError(errno.EBUSY, "later", retry=True)):
        with pytest.raises(type(error)) as raised, about("key", "proto:"):
            raise error
        assert raised.value is error


@pytest.mark.contract("2.19")
def test_version_is_what_belongs_to_the_content_or_a_time_with_the_size() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    found = stat_of({"size": 5, "ETag": '"abc"', "LastModified": moment, "type": "file"})
    assert (found.version, found.mtime, tagged(found)) == ('ETag="abc"', moment.timestamp(), True)
    dated = [stat_of({"size": 5, "type": "file", name: moment}) for name in ("mtime", "created", "LastModified")]
    assert {(one.version, one.mtime) for one in dated} == {(f"{moment.timestamp()!r}:5:", moment.timestamp())}
    assert not tagged(dated[0])
    assert dated[0].version != stat_of({"size": 6, "type": "file", "mtime": moment}).version
    assert stat_of({"size": 5, "mtime": 1.5, "ino": 7}).version != stat_of({"size": 5, "mtime": 1.5, "ino": 8}).version
    assert stat_of({"size": 5, "modified": "2026-01-02"}).version == "2026-01-02:5:"
    assert stat_of({"size": 5, "type": "file"}).version is None
    for size in (None, -1, "5", True):
        raises(io.UnsupportedOperation, stat_of, {"size": size, "type": "file"}, match="unknown size")
