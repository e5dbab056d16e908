"""`ObjectStat.identity` tells objects apart in every status of a backend, whatever their names are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import Backend, DirectoryBackend, MemoryBackend, TransformBackend, linux
from pagecache.backends.passing import PassingBackend, SlowBackend
from pagecache.testing import FaultyBackend, LatencyBackend

from .transforms import Sealed

AROUND: dict[str, Callable[[Backend], Backend]] = {
    "plain": lambda inner: inner,
    "passing": PassingBackend,
    "slow": SlowBackend,
    "faulty": FaultyBackend,
    "latency": lambda inner: LatencyBackend(inner, read=0, write=0, commit=0),
    "transform": lambda inner: TransformBackend(inner, Sealed()),
}


@pytest.fixture(params=["memory", "directory"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend() if request.param == "memory" else DirectoryBackend(tmp_path)


@pytest.mark.parametrize("around", AROUND)
def test_each_status_has_the_identity(inner: Backend, around: str) -> None:
    backend = AROUND[around](inner)
    file = backend.open("a", create=True)
    backend.open("b", create=True)
    found, other = backend.stat("a").identity, backend.stat("b").identity
    assert found is not None
    assert found != other
    assert file.stat().identity == found
    assert {str(entry.key): entry.identity for entry in backend.list()} == {"a": found, "b": other}
    backend.rename("a", "b")
    assert backend.stat("b").identity == file.stat().identity == found


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


@pytest.mark.parametrize("statx", [True, False])
def test_a_status_is_that_of_os_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statx: bool) -> None:
    """Without statx there is no birth time."""
    if not statx:
        monkeypatch.setattr(linux, "_library", lambda: object())
    (tmp_path / "file").write_bytes(b"some bytes")
    os.symlink("file", tmp_path / "link")

    def compare(found: linux.Status, expected: Any) -> None:
        names = [name for name in linux.Status._fields if name.startswith("st_")] + ["st_mtime"]
        assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]
        assert statx or not found.birth_ns

    for name in ("file", "link", "."):
        path = str(tmp_path / name)
        compare(linux.status(path), os.lstat(path))
        compare(linux.status(path, follow=True), os.stat(path))
    compare(linux.status("/dev/null"), os.stat("/dev/null"))
    with open(tmp_path / "file", "rb") as file:
        compare(linux.status_of(file.fileno()), os.fstat(file.fileno()))
    directory = os.open(tmp_path, os.O_PATH)
    try:
        compare(linux.status("link", directory), os.lstat(tmp_path / "link"))
        with pytest.raises(FileNotFoundError):
            linux.status("missing", directory)
    finally:
        os.close(directory)
