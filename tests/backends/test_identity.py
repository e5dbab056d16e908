"""`ObjectStat.identity` tells objects apart in every status of a backend, whatever their names are."""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path

import pytest

from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.beneath import Tree
from pagecache.native import names
from pagecache.objects import ObjectStat

from ..file.rig import raises


def test_all_names_of_a_file_have_its_identity(tmp_path: Path) -> None:
    backend = DirectoryBackend(tmp_path)
    backend.mkdir("d")
    found = backend.open("d/a", create=True).stat().identity
    backend.link("d/a", "hard")
    backend.symlink("d/a", "soft")
    backend.rename("d", "e")
    backend.remove("soft")
    backend.symlink("e/a", "soft")
    assert [backend.stat(key).identity for key in ("e/a", "hard", "soft")] == [found] * 3
    assert backend.setattr("hard", mode=0o600).identity == found
    assert [entry.identity for entry in backend.readdir("e")] == [found]
    assert backend.lstat("soft").identity not in (found, None)


def test_a_directory_has_an_identity_that_its_rename_keeps(tmp_path: Path) -> None:
    backend = DirectoryBackend(tmp_path)
    backend.mkdir("d")
    found = backend.stat("d").identity
    backend.rename("d", "e")
    backend.mkdir("d")
    assert backend.stat("e").identity == found != backend.stat("d").identity


def test_objects_of_two_memory_backends_have_different_identities() -> None:
    found = [MemoryBackend().open("a", create=True).stat().identity for _ in range(2)]
    assert len(set(found)) == 2


def test_a_status_is_that_of_os_stat(tmp_path: Path) -> None:
    """Dates may be far in the past or the future."""
    (tmp_path / "file").write_bytes(b"some bytes")
    os.symlink("file", tmp_path / "link")

    def compare(found: ObjectStat, expected: os.stat_result, key: str | None = None) -> None:
        kinds = {stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "dir", stat.S_IFCHR: "char"}
        made = ObjectStat(
            size=expected.st_size,
            version=f"{expected.st_mtime_ns}:{expected.st_size}:{expected.st_ino}",
            mtime=expected.st_mtime,
            key=key,
            kind=kinds[stat.S_IFMT(expected.st_mode)],  # type: ignore[arg-type]
            mode=stat.S_IMODE(expected.st_mode),
            uid=expected.st_uid,
            gid=expected.st_gid,
            nlink=expected.st_nlink,
            atime_ns=expected.st_atime_ns,
            mtime_ns=expected.st_mtime_ns,
            ctime_ns=expected.st_ctime_ns,
            rdev=expected.st_rdev if stat.S_ISCHR(expected.st_mode) else None,
            allocated=expected.st_blocks * 512,
            identity=found.identity,
        )
        assert found == made
        assert isinstance(found.identity, tuple)
        assert found.identity[:2] == (expected.st_dev, expected.st_ino)
        assert pickle.loads(pickle.dumps(found)) == found

    directory = os.open(tmp_path, os.O_PATH)
    try:
        for name in ("file", "link", "."):
            compare(names.status(directory, name, "key"), os.lstat(tmp_path / name), "key")
        for seconds in (-(10**10), -1, 10**10):
            os.utime(tmp_path / "file", ns=(seconds * 10**9 + 1, seconds * 10**9 + 7))
            compare(names.status(directory, "file"), os.stat(tmp_path / "file"))
        compare(names.status(directory), os.fstat(directory))
        compare(names.status(directory, "/dev/null"), os.stat("/dev/null"))
        raises(FileNotFoundError, names.status, directory, "missing")
    finally:
        os.close(directory)


def test_two_places_are_the_same_if_they_are_names_of_one_object(tmp_path: Path) -> None:
    """Not if one is free, and a path that leads elsewhere is no place."""
    (tmp_path / "a").touch()
    (tmp_path / "other").touch()
    os.link(tmp_path / "a", tmp_path / "link")
    tree = Tree(str(tmp_path))
    place = tree.locate("a")
    same = {name: place.is_same(tree.locate(name)) for name in ("a", "link", "other", "free")}
    assert same == {"a": True, "link": True, "other": False, "free": False}
    assert not tree.locate("free").is_same(tree.locate("free"))
    with pytest.raises(TypeError, match="'a' is not a Place"):
        place.is_same("a")  # type: ignore[arg-type]
    tree.close()
