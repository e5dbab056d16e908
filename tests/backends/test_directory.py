"""Files below a directory: no way out of it, one name per object, and names that are durable when they must be."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends import DirectoryBackend, directory
from pagecache.backends.beneath import Place, Unsynced
from pagecache.backends.directory import DirectoryFile
from pagecache.backends.protocol import CheckedKey
from pagecache.native import names

from ..file.rig import Patch, beside, raises, raising
from ..file.test_interrupts import interrupted_at


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture
def backend(root: Path) -> Iterator[DirectoryBackend]:
    backend = DirectoryBackend(root)
    yield backend
    backend.close()


@pytest.fixture
def synced(monkeypatch: Patch) -> list[str]:
    """The syncs from here on: "file", "dir" or "all", in order."""
    done: list[str] = []
    fsync = os.fsync

    def logged(fd: int) -> None:
        done.append("dir" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", logged)
    monkeypatch.setattr(os, "sync", lambda: done.append("all"))
    monkeypatch.setattr(names, "sync_file_system", lambda fd: done.append("all"))
    return done


@pytest.fixture
def paths(root: Path, monkeypatch: Patch) -> list[str]:
    """The paths below the root that are synced from here on, in order."""
    done: list[str] = []
    fsync = os.fsync

    def logged(fd: int) -> None:
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), root))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", logged)
    return done


def put(backend: DirectoryBackend, key: str, data: bytes = b"data") -> DirectoryFile:
    file = backend.open(key, create=True)
    if data:
        file.write_from(0, [memoryview(data)])
    return file


def content(backend: DirectoryBackend, key: str) -> bytes:
    file, buffer = backend.open(key), bytearray(100)
    done = file.read_into(0, [memoryview(buffer)])
    file.close()
    return bytes(buffer[:done])


def test_the_next_commit_of_a_file_whose_creation_was_interrupted_syncs_its_directory(
    backend: DirectoryBackend, synced: list[str]
) -> None:
    for nth in itertools.count(1):
        make = partial(backend.open, f"{nth}", create=True)
        place = interrupted_at(nth, make, lambda frame: frame.f_code.co_filename == directory.__file__)
        synced.clear()
        put(backend, f"{nth}").commit()
        assert "dir" in synced, place
        if not place:
            assert nth > 5
            return


# ------------------------------------------------------------------------------------------------ no way out


@pytest.mark.parametrize("key", ["/etc/passwd", "..", "../secret", "sub/../../secret", "sub/..", "a\0b", 7, b"a", None])
def test_impossible_key_is_a_value_error_that_names_it(backend: DirectoryBackend, key: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: backend.open(key, create=True),
        lambda: backend.stat(key),
        lambda: backend.remove(key),
        lambda: backend.rename(key, "x"),
        lambda: backend.rename("sub", key),
        lambda: backend.canonical(key),
        lambda: backend.mkdir(key),
        lambda: backend.symlink("x", key),
        lambda: backend.link("sub", key),
    ]
    for call in calls:
        assert repr(key) in str(raises(ValueError, call, match="not a key"))


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "sub/../../secret", "../secret", "/", "../root/../secret"])
def test_link_out_of_the_root_is_refused(backend: DirectoryBackend, root: Path, target: str) -> None:
    (root / "way").symlink_to(target)
    (root / "second").symlink_to("way")
    for key in ("way", "second", "way/passwd", "way/x/y"):
        for call in (backend.stat, backend.open, backend.readdir):
            assert raises(PermissionError, call, key, match="out of the root").filename == key
    raises(PermissionError, backend.open, "way/new", create=True)


def test_link_within_the_root_is_followed(backend: DirectoryBackend, root: Path) -> None:
    put(backend, "sub/file", b"inside").close()
    (root / "relative").symlink_to("sub/../sub/./file")
    (root / "sub" / "up").symlink_to("../sub")
    (root / "absolute").symlink_to(root / "sub")
    for key in ("relative", "sub/up/file", "sub/up/up/file", "absolute/file"):
        assert content(backend, key) == b"inside"
        assert backend.stat(key).identity == backend.stat("sub/file").identity


def test_a_link_that_is_replaced_by_a_file_during_the_walk_is_looked_up_again(
    backend: DirectoryBackend, root: Path, monkeypatch: Patch
) -> None:
    put(backend, "file", b"file").close()
    (root / "name").symlink_to("elsewhere")
    beside(monkeypatch, os, "readlink", lambda: os.rename(root / "file", root / "name"))
    assert content(backend, "name") == b"file"


@pytest.mark.parametrize("made", ["link", "file", "nothing"])
def test_a_name_that_is_exchanged_before_the_open_is_looked_up_again(
    backend: DirectoryBackend, root: Path, monkeypatch: Patch, made: str
) -> None:
    """The walk finds a file or nothing, and the open something else: a link, which it does not follow, or nothing."""
    put(backend, "target", b"content").close()
    if made != "file":
        (root / "name").write_bytes(b"old")

    def exchange() -> None:
        (root / "name").unlink(missing_ok=True)
        if made != "nothing":
            (root / "name").symlink_to("target")

    beside(monkeypatch, directory, "DirectoryFile", exchange)
    with contextlib.closing(backend.open("name", create=made != "link")) as file:
        assert file.stat().size == (0 if made == "nothing" else len(b"content"))


@pytest.mark.parametrize("target", ["real", "sub/../real", "..", "nowhere"])
def test_walks_beside_a_directory_that_is_exchanged_with_a_link(
    backend: DirectoryBackend, root: Path, target: str
) -> None:
    """Each finds the file behind one of them, or nothing, and never one outside of the root."""
    (root.parent / "file").write_bytes(b"outside")
    for name, data in (("real", b"behind the link"), ("name", b"in the directory")):
        backend.mkdir(name)
        put(backend, f"{name}/file", data).close()
    (root / "link").symlink_to(target)
    ended = threading.Event()

    def exchange() -> None:
        while not ended.is_set():
            for pair in (("name", "away"), ("link", "name"), ("name", "link"), ("away", "name")):
                os.rename(root / pair[0], root / pair[1])

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                assert content(backend, "name/file") in (b"behind the link", b"in the directory")
    finally:
        ended.set()
        thread.join()


def test_links_in_a_circle_are_an_error(backend: DirectoryBackend, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    raised = raises(OSError, backend.stat, "a", match="symbolic links")
    assert (raised.errno, raised.filename) == (errno.ELOOP, "a")


def test_dangling_link_creates_its_target(backend: DirectoryBackend, root: Path) -> None:
    (root / "link").symlink_to("sub/made")
    raises(FileNotFoundError, backend.open, "link")
    raises(FileExistsError, backend.open, "link", create=True, exclusive=True)
    put(backend, "link", b"x").close()
    assert (root / "sub" / "made").read_bytes() == b"x"


def test_a_link_out_of_the_root_that_replaces_a_file_before_the_open_is_not_followed(
    backend: DirectoryBackend, root: Path, monkeypatch: Patch
) -> None:
    put(backend, "sub/secret", b"inside").close()

    def exchange() -> None:
        (root / "sub" / "secret").rename(root / "away")
        (root / "sub" / "secret").symlink_to("../../secret")

    beside(monkeypatch, directory, "DirectoryFile", exchange)
    raises(PermissionError, backend.open, "sub/secret", match="out of the root")


# ------------------------------------------------------------------------------------------------ one name per object


def test_every_spelling_of_a_name_is_one_key(backend: DirectoryBackend) -> None:
    """The store is not asked: the names need not exist, and links are not resolved."""
    for keys in (["sub/a", "./sub/a", "sub//a", "sub/./a", "sub/a/", PurePosixPath("sub/a")], ["none/b", "none//b/."]):
        assert {backend.canonical(key) for key in keys} == {str(keys[0])}
    backend.symlink("sub/a", "soft")
    assert backend.canonical("soft") == "soft"


def test_renaming_one_of_two_links_over_the_other_leaves_one(backend: DirectoryBackend) -> None:
    put(backend, "a", b"both").close()
    backend.link("a", "b")
    backend.rename("a", "b")
    assert [found.key for found in backend.list()] == ["b"]
    assert content(backend, "b") == b"both"


def test_a_file_that_is_collected_is_closed(backend: DirectoryBackend) -> None:
    file = put(backend, "file")
    fd = file.fd
    del file
    raises(OSError, os.fstat, fd, match="Bad file descriptor")


# ------------------------------------------------------------------------------------------------ durability


def test_directories_on_the_way_to_a_new_name_are_durable_too(backend: DirectoryBackend, synced: list[str]) -> None:
    backend.mkdir("x")
    backend.mkdir("x/y")
    backend.mkdir("other")
    backend.mkdir("other/deep")
    file = put(backend, "x/y/a")
    file.commit()
    file.commit()
    assert synced == ["file", "dir", "dir", "dir", "file"]
    file.close()
    backend.sync()
    assert synced[5:] == ["dir"], "what is left: other/deep"


def test_a_commit_after_a_rename_makes_the_new_name_durable(backend: DirectoryBackend, paths: list[str]) -> None:
    """This covers the file's own rename, and that of a directory above it."""
    for name in ("x", "x/y", "other"):
        backend.mkdir(name)
    file = put(backend, "x/y/a")
    backend.sync()
    paths.clear()
    backend.rename("x/y/a", "other/b")
    file.commit()
    assert paths == ["other/b", "other"]
    paths.clear()
    backend.rename("other", "x/z")
    file.commit()
    assert set(paths) == {"x/z/b", "x", "."}


@pytest.mark.parametrize("made", ["other link", "nothing", "no proc"])
def test_a_commit_of_a_file_whose_path_is_unknown_makes_all_names_durable(
    backend: DirectoryBackend, root: Path, synced: list[str], monkeypatch: Patch, made: str
) -> None:
    """Its remaining name may be in any directory."""
    backend.mkdir("x")
    file = put(backend, "sub/a")
    backend.link("sub/a", "x/b")
    if made == "no proc":
        monkeypatch.setattr(os, "readlink", lambda path: os.open("/none", os.O_RDONLY))
    elif made == "other link":
        backend.rename("sub/a", "x/b")
    else:
        backend.remove("sub/a")
    file.commit()
    assert synced == ["file", "dir", "dir", "dir"]


def test_a_commit_makes_names_durable_though_the_root_lies_below_its_old_path(
    backend: DirectoryBackend, root: Path, synced: list[str]
) -> None:
    """The path of the file begins with that of the root, and does not lead from it."""
    file = put(backend, "sub/a")
    root.rename(root.parent / "moved")
    root.mkdir()
    (root.parent / "moved").rename(root / "old")
    file.commit()
    assert synced == ["file", "dir"]


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.rename("none", "x"),
        lambda backend: backend.rename("a", "none/x"),
        lambda backend: backend.rename("a", "b", replace=False),
        lambda backend: backend.link("a", "none/x"),
        lambda backend: backend.link("none", "x"),
        lambda backend: backend.stat(CheckedKey("a", object=(0, 0, 0))),
        lambda backend: backend.stat(CheckedKey("a", directory=(0, 0, 0))),
        lambda backend: backend.getxattr(CheckedKey("a", object=(0, 0, 0)), "user.x"),
    ],
)
def test_an_error_that_is_kept_keeps_no_descriptor(
    backend: DirectoryBackend, call: Callable[[DirectoryBackend], object]
) -> None:
    for key in ("a", "b"):
        put(backend, key).close()
    gc.collect()
    before = os.listdir("/proc/self/fd")
    assert os.listdir("/proc/self/fd") == before, raises(OSError, call, backend)


def test_a_commit_syncs_its_directory_though_that_is_renamed_in_between(
    backend: DirectoryBackend, paths: list[str], monkeypatch: Patch
) -> None:
    """The path of the file was found before, and leads nowhere now."""
    backend.mkdir("a")
    backend.sync()
    file = put(backend, "a/f")
    beside(monkeypatch, Unsynced, "_sync", lambda: backend.rename("a", "b"))
    file.commit()
    assert "b" in paths


@pytest.mark.parametrize("place", ["x", "x/y"])
@pytest.mark.parametrize("target", [None, "", "/", "x", "elsewhere"])
def test_a_commit_of_a_file_whose_directory_another_program_has_renamed(
    backend: DirectoryBackend, root: Path, paths: list[str], place: str, target: str | None
) -> None:
    """No name of the file is behind the old one, which may be free, a new directory, or any link."""
    backend.mkdir("x")
    backend.mkdir("x/y")
    backend.sync()
    file = put(backend, "x/y/a", b"moved")
    (root / place).rename(root / "moved")
    if target:
        (root / place).symlink_to(target)
    elif target is not None:
        (root / place / "y").mkdir(parents=True)
    paths.clear()
    file.commit()
    backend.sync()
    path = next(root.rglob("a")).relative_to(root)
    assert sorted(paths) == sorted([str(path), *map(str, path.parents)])


def test_names_in_a_directory_that_another_program_has_renamed_or_removed_are_durable_after_a_sync(
    backend: DirectoryBackend, root: Path, synced: list[str]
) -> None:
    """Its path is unknown, so that everything is synced."""
    for name in ("x", "y"):
        backend.mkdir(name)
        put(backend, f"{name}/a").close()
    (root / "x").rename(root / "moved")
    backend.sync()
    backend.sync()
    assert sorted(synced) == ["all", "dir", "dir"]


def test_names_are_durable_though_no_descriptor_is_left(
    backend: DirectoryBackend, synced: list[str], monkeypatch: Patch
) -> None:
    file = put(backend, "sub/a")
    monkeypatch.setattr(names, "Descriptor", raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
    file.commit()
    file.commit()
    assert synced == ["file", "all", "file"]


def test_directories_above_a_bound_are_forgotten_and_synced_all_the_same(
    backend: DirectoryBackend, synced: list[str], monkeypatch: Patch
) -> None:
    monkeypatch.setattr("pagecache.backends.beneath.CHANGED_MAX", 2)
    for name in ("x", "x/y", "x/y/z"):
        backend.mkdir(name)
    file = backend.open("x/y/a", create=True)
    file.commit()
    assert synced == ["file", "dir", "dir", "dir"]
    backend.sync()
    backend.sync()
    assert synced[4:] == ["all"]


def test_sync_makes_names_durable_once(backend: DirectoryBackend, synced: list[str]) -> None:
    put(backend, "sub/a").close()
    backend.rename("sub/a", "b")
    backend.sync()
    assert synced == ["dir", "dir"]
    backend.remove("b")
    backend.sync()
    backend.sync()
    assert synced == ["dir"] * 3


def test_names_of_a_removed_or_moved_directory(backend: DirectoryBackend, synced: list[str]) -> None:
    backend.mkdir("gone")
    put(backend, "gone/a").close()
    backend.remove("gone/a")
    backend.rmdir("gone")
    put(backend, "sub/a").close()
    backend.rename("sub", "dir")
    backend.sync()
    assert synced == ["dir", "dir"], "the root and dir"


def test_failed_sync_of_a_directory_is_repeated(
    backend: DirectoryBackend, synced: list[str], monkeypatch: Patch
) -> None:
    put(backend, "a").close()
    beside(monkeypatch, os, "fsync", raising(OSError(errno.EIO, "made up")))
    raises(OSError, backend.sync, match="made up")
    backend.sync()
    assert synced == ["dir"]


def test_version_differs_even_within_one_tick_of_the_clock(backend: DirectoryBackend, root: Path) -> None:
    file = put(backend, "a", b"1111")
    versions = [file.commit()]
    tick = file.stat().mtime_ns
    assert tick is not None
    for data in (b"2222", b"3333"):
        file.write_from(0, [memoryview(data)])
        os.utime(root / "a", ns=(tick, tick))  # as a coarse clock would
        tick = int(str(versions[-1]).partition(":")[0])
        os.utime(root / "a", ns=(tick, tick))
        versions.append(file.commit())
    assert len(set(versions)) == 3
    assert file.commit() == versions[-1], "nothing changed"


def test_a_commit_within_one_tick_of_a_version_that_was_told_makes_another_one(
    backend: DirectoryBackend, root: Path
) -> None:
    """A flush asks for it, and others keep the bytes of that time under it."""
    file = put(backend, "a", b"1111")
    file.commit()
    file.write_from(0, [memoryview(b"2222")])
    told = file.stat()
    assert told.mtime_ns is not None
    file.write_from(0, [memoryview(b"3333")])
    os.utime(root / "a", ns=(told.mtime_ns, told.mtime_ns))  # as a coarse clock would
    committed = file.commit()
    assert committed != told.version
    assert file.stat().version == file.commit() == committed, "nothing changed"


def test_a_time_that_was_set_after_the_last_write_stays_though_its_version_was_told(backend: DirectoryBackend) -> None:
    file = put(backend, "a", b"1111")
    backend.setattr("a", mtime_ns=10**18)
    told = file.stat()
    assert told.mtime_ns == 10**18
    assert file.commit() == told.version


def test_a_version_that_was_told_before_a_write_of_the_same_tick_is_not_committed(
    backend: DirectoryBackend, root: Path, monkeypatch: Patch
) -> None:
    """Nor if it is told again after the write, or if the status fails in between."""
    file = put(backend, "a", b"1111")
    before, tick = file.commit(), file.stat().mtime_ns
    assert tick is not None
    file.write_from(0, [memoryview(b"2222")])
    os.utime(root / "a", ns=(tick, tick))
    with monkeypatch.context() as failing:
        failing.setattr(names, "status", raising(OSError(errno.EIO, "made up")))
        raises(OSError, file.stat, match="made up")
    assert file.stat().version == before
    assert file.commit() != before


# ------------------------------------------------------------------------------------------------ other calls


def test_errors_name_the_key(backend: DirectoryBackend) -> None:
    put(backend, "sub/a").close()
    cases: list[tuple[Callable[[], Any], type[OSError], str]] = [
        (lambda: backend.open("sub/none"), FileNotFoundError, "sub/none"),
        (lambda: backend.open("none/deep/er", create=True), FileNotFoundError, "none/deep/er"),
        (lambda: backend.open("sub"), IsADirectoryError, "sub"),
        (lambda: backend.open(""), IsADirectoryError, ""),
        (lambda: backend.stat("sub/a/b"), NotADirectoryError, "sub/a/b"),
        (lambda: backend.rename("none", "x"), FileNotFoundError, "none"),
        (lambda: backend.rename("sub/a", "no/where"), FileNotFoundError, "no/where"),
        (lambda: backend.rename("sub/a", "sub", replace=False), FileExistsError, "sub"),
        (lambda: backend.rmdir("sub"), OSError, "sub"),
        (lambda: backend.readlink("sub"), OSError, "sub"),
    ]
    for call, error, key in cases:
        assert raises(error, call).filename == key


@pytest.mark.parametrize("replace", [True, False])
def test_a_directory_is_not_renamed_into_itself(backend: DirectoryBackend, replace: bool) -> None:
    put(backend, "sub/a").close()
    raised = raises(OSError, backend.rename, "sub", "sub/b", replace=replace)
    assert (raised.errno, raised.filename) == (errno.EINVAL, "sub/b")


def test_a_key_that_no_file_name_can_have_is_refused_with_the_rule(backend: DirectoryBackend) -> None:
    for call in (backend.canonical, backend.stat, backend.remove):
        raises(ValueError, call, "a\ud800", match=r"'a\\ud800' is not a key of a directory: surrogates not allowed")
    assert backend.canonical("a\udc80") == "a\udc80"  # of a file whose name is no UTF-8


@pytest.mark.parametrize(
    ("kind", "type"),
    [("fifo", stat.S_IFIFO), ("socket", stat.S_IFSOCK), ("char", stat.S_IFCHR), ("block", stat.S_IFBLK)],
)
def test_special_files_have_kinds_of_their_own(backend: DirectoryBackend, root: Path, kind: str, type: int) -> None:
    number = os.makedev(1, 5) if kind in ("char", "block") else 0
    if number and os.geteuid():
        return
    backend.mknod("special", type | 0o600, number)
    found = backend.stat("special")
    assert (found.kind, found.mode, found.rdev) == (kind, 0o600, number or None)
    assert stat.S_IFMT((root / "special").lstat().st_mode) == type
    assert [entry.kind for entry in backend.readdir("") if entry.key == "special"] == [kind]
    assert "special" not in [entry.key for entry in backend.list()]


@pytest.mark.parametrize("mode", [0o600, stat.S_IFREG | 0o600, stat.S_IFDIR | 0o700])
def test_mknod_makes_special_files_only(backend: DirectoryBackend, root: Path, mode: int) -> None:
    before = os.listdir(root)
    raises(ValueError, backend.mknod, "special", mode, match="not that of a FIFO")
    assert os.listdir(root) == before


def test_special_files_are_not_opened(backend: DirectoryBackend, root: Path) -> None:
    os.mkfifo(root / "fifo")
    raises(OSError, backend.open, "fifo", match="not a regular file")
    assert [found.key for found in backend.list()] == []


def test_read_only_backend_changes_nothing(root: Path) -> None:
    (root / "a").write_bytes(b"data")
    backend = DirectoryBackend(root, read_only=True)
    file = backend.open("a", create=True)
    raises(PermissionError, file.write_from, 0, [memoryview(b"x")])
    raises(PermissionError, file.truncate, 0)
    calls: list[Callable[[], Any]] = [
        lambda: backend.open("new", create=True),
        lambda: backend.remove("a"),
        lambda: backend.rename("a", "b"),
        lambda: backend.mkdir("dir"),
        lambda: backend.setattr("a", mode=0o600),
    ]
    for call in calls:
        raises(OSError, call, match="Read-only")
    assert content(backend, "a") == b"data"
    file.close()
    backend.close()


def test_namespace(backend: DirectoryBackend, root: Path) -> None:
    put(backend, "sub/a").close()
    backend.symlink("../outside", "sub/l")
    assert [(found.key, found.kind) for found in backend.readdir("sub")] == [("sub/a", "file"), ("sub/l", "symlink")]
    assert backend.readlink("sub/l") == "../outside"
    assert backend.stat("sub/l", follow=False).kind == "symlink"
    assert backend.setattr("sub/a", mode=0o600, atime_ns=5).atime_ns == 5
    backend.setxattr("sub/a", "user.k", b"value")
    assert (backend.getxattr("sub/a", "user.k"), list(backend.listxattr("sub/a"))) == (b"value", ["user.k"])
    backend.removexattr("sub/a", "user.k")
    raised = raises(OSError, backend.getxattr, "sub/a", "user.k")
    assert (raised.errno, raised.filename) == (errno.ENODATA, "sub/a")
    assert backend.statfs().f_bsize > 0


def test_list_walks_what_the_prefix_needs(backend: DirectoryBackend) -> None:
    for key in ("sub/a", "sub/ab", "subway", "x"):
        put(backend, key).close()
    backend.mkdir("sub/deep")
    put(backend, "sub/deep/a").close()
    for prefix, keys in [
        ("", ["sub/a", "sub/ab", "sub/deep/a", "subway", "x"]),
        ("sub", ["sub/a", "sub/ab", "sub/deep/a", "subway"]),
        ("sub/", ["sub/a", "sub/ab", "sub/deep/a"]),
        ("sub/a", ["sub/a", "sub/ab"]),
        ("sub/deep/", ["sub/deep/a"]),
        ("none/", []),
        ("../", []),
        ("/", []),
    ]:
        assert sorted(str(found.key) for found in backend.list(prefix)) == keys


def test_root_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    raises(FileNotFoundError, DirectoryBackend, tmp_path / "none")
    raises(NotADirectoryError, DirectoryBackend, tmp_path / "file")


def test_close_leaves_open_files_alone(root: Path) -> None:
    backend = DirectoryBackend(root)
    file = put(backend, "a")
    backend.close()
    backend.close()
    buffer = bytearray(4)
    assert file.read_into(0, [memoryview(buffer)]) == 4
    file.close()
    file.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.open("link/a"),
        lambda backend: backend.open(f"b{len(os.listdir(backend.root))}", create=True, exclusive=True),
        lambda backend: backend.stat("link/a"),
        lambda backend: list(backend.readdir("link")),
        lambda backend: backend.setattr("link/a", mode=0o600),
        lambda backend: backend.rename("sub/a", "sub/a"),
        lambda backend: (backend.mkdir(f"c{len(os.listdir(backend.root))}"), backend.sync()),
        lambda backend: DirectoryBackend(backend.root),
    ],
)
def test_a_call_that_is_interrupted_leaves_no_descriptor_open(
    backend: DirectoryBackend, root: Path, call: Callable[[DirectoryBackend], object]
) -> None:
    """A signal handler may raise where a function begins or has returned. [2.1, 2.26]"""
    put(backend, "sub/a").close()
    (root / "link").symlink_to("sub")
    before = os.listdir("/proc/self/fd")
    for nth in itertools.count(1):
        place = interrupted_at(nth, lambda: call(backend), within=lambda frame: True)
        assert os.listdir("/proc/self/fd") == before, place
        if not place:
            break
    assert nth > 5


def test_c_moves_the_bytes_of_a_file(root: Path, backend: DirectoryBackend) -> None:
    """A miss enters no frame of Python. [2.26]"""
    put(backend, "a", b"0123456789").close()
    frames: list[str] = []
    with PageCache("1MiB") as cache:
        file = cache.attach(backend).open("a", "r+", read_ahead=0)
        sys.setprofile(lambda frame, event, _: frames.append(frame.f_code.co_qualname) if event == "call" else None)
        try:
            assert file.pread(4, 3) == b"3456"
        finally:
            sys.setprofile(None)
        assert frames == []
        file.pwrite(b"x", 3)
        file.flush()
        assert (root / "a").read_bytes() == b"012x456789"
        file.close()


def test_methods_of_a_subclass_move_the_bytes_instead(
    root: Path, backend: DirectoryBackend, monkeypatch: Patch
) -> None:
    class Loud(DirectoryFile):
        def read_into(self, offset: int, buffers: Any) -> int:
            done = super().read_into(offset, buffers)
            for buffer in buffers:
                buffer[:] = bytes(buffer).upper()
            return done

        def write_from(self, offset: int, buffers: Any) -> int:
            return super().write_from(offset, [memoryview(bytes(buffer).lower()) for buffer in buffers])

    put(backend, "a", b"abc").close()
    monkeypatch.setattr("pagecache.backends.directory.DirectoryFile", Loud)
    with PageCache("1MiB") as cache:
        file = cache.attach(backend).open("a", "r+")
        assert file.pread(3, 0) == b"ABC"
        file.pwrite(b"XYZ", 3)
        file.fsync()
        assert (root / "a").read_bytes() == b"abcxyz"
        file.close()


def test_bad_calls_for_bytes_are_refused(backend: DirectoryBackend, root: Path) -> None:
    file = put(backend, "a")
    calls: Any = file
    raises(TypeError, calls.read_into, 0, 5)
    raises((TypeError, BufferError), calls.read_into, 0, [b"read-only"])
    raises(TypeError, calls.write_from, "0", [b"x"])
    raises(OSError, calls.read_into, -1, [bytearray(1)], match="Invalid argument")
    for offset in (1 << 63, 1 << 64):
        raises(OverflowError, calls.read_into, offset, [bytearray(1)])
    file.close()
    raises(OSError, calls.read_into, 0, [bytearray(1)], match="Bad file descriptor")
    os.chmod(root / "a", 0o444)
    with backend.open("a") as file:
        assert file.writable == (os.geteuid() == 0)


def test_a_signal_interrupts_no_transfer(backend: DirectoryBackend) -> None:
    """Its handler may raise; otherwise the call is made again."""
    file = put(backend, "a", b"x" * 100)
    handled: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: handled.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(2000):
            assert file.write_from(0, [memoryview(b"x" * 100)]) == 100
            assert file.read_into(0, [memoryview(bytearray(100))]) == 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled


# ------------------------------------------------------------------------------------------------ what a kernel lacks


def test_hole_where_the_file_system_cannot_punch(backend: DirectoryBackend, monkeypatch: Patch) -> None:
    monkeypatch.setattr(names, "punch_hole", lambda fd, offset, length: False)
    monkeypatch.setattr(directory, "ZEROS", bytes(3))
    file = put(backend, "a", b"0123456789")
    file.punch_hole(2, 5)
    file.punch_hole(8, 100)
    assert content(backend, "a") == b"01\0\0\0\0\x0007\0\0"[:2] + bytes(5) + b"7" + bytes(2)


def test_hole_that_would_need_space_is_refused_before_a_byte_is_zero(
    backend: DirectoryBackend, monkeypatch: Patch
) -> None:
    """A refusal changes nothing, so the cache takes its bytes for those that are stored. [2.17]"""
    monkeypatch.setattr(names, "punch_hole", lambda fd, offset, length: False)
    monkeypatch.setattr(os, "posix_fallocate", raising(OSError(errno.ENOSPC, "full")))
    file = put(backend, "a", b"0123456789")
    assert raises(OSError, file.punch_hole, 2, 5).errno == errno.ENOSPC
    assert content(backend, "a") == b"0123456789"


MOUNTED_TWICE = """
import os, subprocess, sys
from pagecache import PageCache
root = sys.argv[1]
if subprocess.run(["mount", "--bind", f"{root}/d", f"{root}/m"]).returncode:
    sys.exit(77)
with PageCache("4MiB") as cache:
    volume = cache.attach(f"dir:{root}")
    with volume.open("d/x", "w+") as file:
        file.write(b"content")
        file.fsync()
        for target in ("m/x", "m/X"):
            try:
                volume.rename("d/x", target)
            except OSError as error:
                assert target == "m/X", error
        file.pwrite(b"CONTENT", 0)
        file.fsync()
"""


@pytest.mark.parametrize("link", [None, "d/other", "e/other"])
def test_the_only_name_of_an_object_is_kept_by_a_rename_to_it(root: Path, link: str | None) -> None:
    """A directory that is mounted twice has two paths of one entry, as a file system without case has. [2.26]"""
    for name in ("d", "e", "m"):
        (root / name).mkdir()
    (root / "d" / "x").touch()
    if link is not None:
        os.link(root / "d" / "x", root / link)
    words = ["unshare", "-Urm", sys.executable, "-c", MOUNTED_TWICE, str(root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert (root / "d" / "x").read_bytes() == b"CONTENT"


def test_a_rename_to_another_case_of_a_name_removes_nothing(
    backend: DirectoryBackend, root: Path, monkeypatch: Patch
) -> None:
    """In a file system without case only one of both names is stored, however many links the object has."""
    put(backend, "report").close()
    os.link(root / "report", root / "Report")
    monkeypatch.setattr(os, "listdir", lambda fd: ["report", "other"])
    backend.rename("report", "Report")
    assert content(backend, "report") == content(backend, "Report") == b"data"


@pytest.mark.parametrize("other", ["b", "sub/b"])
@pytest.mark.parametrize("removed", [False, True])
def test_one_of_two_links_is_left_by_a_rename_to_the_other(
    backend: DirectoryBackend, root: Path, monkeypatch: Patch, other: str, *, removed: bool
) -> None:
    """`removed`: another program removes the other name meanwhile; the old one was the last then."""
    put(backend, "a").close()
    os.link(root / "a", root / other)
    if removed:
        beside(monkeypatch, Place, "is_same", (root / other).unlink, after=True)
    backend.rename("a", other)
    assert [str(found.key) for found in backend.list()] == [other]
    assert content(backend, other) == b"data"


def test_exclusive_rename_where_the_kernel_has_none(backend: DirectoryBackend, monkeypatch: Patch) -> None:
    monkeypatch.setattr(names, "rename_noreplace", lambda *places: False)
    put(backend, "a", b"a").close()
    backend.rename("a", "b", replace=False)
    assert content(backend, "b") == b"a"
    put(backend, "a", b"a").close()
    assert raises(FileExistsError, backend.rename, "a", "b", replace=False).filename == "b"
    assert sorted(str(found.key) for found in backend.list()) == ["a", "b"]


IOV_MAX = os.sysconf("SC_IOV_MAX")


def test_more_buffers_than_the_kernel_takes(backend: DirectoryBackend) -> None:
    file = put(backend, "a", b"")
    buffers = [memoryview(b"x")] * (IOV_MAX + 5)
    assert file.write_from(0, buffers) == IOV_MAX
    into = [memoryview(bytearray(1)) for _ in buffers]
    assert file.read_into(0, into) == IOV_MAX
