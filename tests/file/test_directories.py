"""Names of directories and aliases: the cache's state of the files behind them stays with these files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, Volume
from pagecache.backends import DirectoryBackend
from pagecache.testing import FaultyBackend
from pagecache.volume import lifetimes

from .rig import Patch, Task, at_gate, content_of, gated, held, raises


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "old" / "sub").mkdir(parents=True)
    (tmp_path / "old" / "a").write_bytes(b"a stored")
    (tmp_path / "old" / "sub" / "b").write_bytes(b"b stored")
    (tmp_path / "target").write_bytes(b"stored")
    return tmp_path


@pytest.fixture
def backend(root: Path) -> FaultyBackend:
    return FaultyBackend(DirectoryBackend(root))


@pytest.fixture
def volume(backend: FaultyBackend) -> Iterator[Volume]:
    """A volume that writes nothing back unless a test asks for it."""
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600) as cache:
        yield cache.attach(backend, read_ahead=0)


def test_files_of_a_renamed_directory_keep_what_is_not_written_back(volume: Volume, root: Path) -> None:
    """Open or not: an open by the new name finds it, and the old name leads to another directory. [2.20]"""
    held = volume.open("old/a", "r+")
    held.pwrite(b"A", 0)
    with volume.open("old/sub/b", "r+") as closed:
        closed.pwrite(b"B", 0)
    volume.rename("old", "new")
    assert not volume.exists("old/a")
    (root / "old").mkdir()
    with volume.open("old/a", "x+") as other:
        other.pwrite(b"other", 0)
    with volume.open("new/a", "r+") as again:
        assert again.pread(100, 0) == b"A stored"
        again.pwrite(b"!", 1)
    assert held.pread(100, 0) == b"A!stored"
    held.close()
    assert content_of(volume, "new/sub/b") == b"B stored"
    volume.sync(20)
    assert (root / "old" / "a").read_bytes() == b"other"
    assert (root / "new" / "a").read_bytes() == b"A!stored"
    assert (root / "new" / "sub" / "b").read_bytes() == b"B stored"


@pytest.mark.parametrize("first", ["rename", "open"])
def test_an_open_and_a_rename_above_it_wait_for_each_other(volume: Volume, backend: FaultyBackend, first: str) -> None:
    """The open finds the name gone, or the rename takes the opened file along: never a second object. [2.20]"""
    calls: list[Callable[[], Any]] = [lambda: volume.rename("old", "new"), lambda: volume.open("old/a", "r+")]
    order = (0, 1) if first == "rename" else (1, 0)
    gate, one = at_gate(gated(backend, first), calls[order[0]])
    other = Task(calls[order[1]])
    assert other.waits(0.02)
    gate.release()
    one.result()
    if first == "rename":
        raises(FileNotFoundError, other.result)
        return
    other.result()
    with one.result() as file:
        file.pwrite(b"A", 0)
        assert content_of(volume, "new/a") == b"A stored"


def test_an_abandon_beside_the_rename_of_its_directory(volume: Volume, root: Path, monkeypatch: Patch) -> None:
    """The store has made the rename, and the cache does not know: the others follow the directory. [2.20]"""
    abandoned, held_file = volume.open("old/a", "r+"), volume.open("old/sub/b", "r+")
    abandoned.pwrite(b"A", 0)
    held_file.pwrite(b"B", 0)
    gate, renaming = at_gate(held(monkeypatch, DirectoryBackend, "rename", after=True), volume.rename, "old", "new")
    abandoned.abandon()
    renaming.result(opening=gate)
    assert content_of(volume, "new/a") == b"a stored"
    assert content_of(volume, "new/sub/b") == b"B stored"
    held_file.close()
    assert (root / "new" / "sub" / "b").read_bytes() == b"B stored"


def test_no_file_is_freed_beside_a_rename_above_it(volume: Volume, monkeypatch: Patch) -> None:
    """A close of another file frees objects that nothing needs, and leaves those with busy names. [2.20]"""
    for key in ("old/a", "old/sub/b"):
        volume.open(key).close()
    gate, renaming = at_gate(held(monkeypatch, DirectoryBackend, "rename", after=True), volume.rename, "old", "new")
    monkeypatch.setattr(lifetimes, "hollow_max", lambda capacity: 0)
    volume.open("target").close()
    renaming.result(opening=gate)
    assert content_of(volume, "new/a") == b"a stored"
    assert content_of(volume, "new/sub/b") == b"b stored"


@pytest.mark.parametrize("first", [False, True], ids=["another name", "the name that it was opened by"])
@pytest.mark.parametrize("change", ["remove", "rename over"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_loss_of_one_name_takes_nothing_from_the_object(
    volume: Volume, root: Path, link: Callable[[Path, Path], None], change: str, first: bool
) -> None:
    """The object keeps its other name; one that is renamed over the first has that. [2.20]"""
    if first and link is os.symlink:
        pytest.skip("the link leads to that name")
    link(root / "target", root / "alias")
    lost, kept = ("target", "alias") if first else ("alias", "target")
    file = volume.open("target", "r+")
    file.pwrite(b"S", 0)
    if change == "remove":
        volume.remove(lost)
        assert not volume.exists(lost)
    else:
        volume.rename("old/a", lost)
        assert content_of(volume, lost) == b"a stored"
    assert content_of(volume, kept) == b"Stored"
    file.close()
    assert (root / kept).read_bytes() == b"Stored"


@pytest.mark.parametrize("target", ["old/a", "old"])
def test_a_renamed_link_that_leads_elsewhere_takes_no_file_along(volume: Volume, root: Path, target: str) -> None:
    """Nothing is where it leads to then, and a file made there is another one. [2.20]"""
    made = os.path.join("deep", target, "" if target == "old/a" else "a").rstrip("/")
    (root / "alias").symlink_to(target)
    (root / "deep" / "old").mkdir(parents=True)
    file = volume.open("old/a", "r+")
    file.pwrite(b"A", 0)
    volume.rename("alias", "deep/alias")
    assert os.readlink(root / "deep" / "alias") == target
    assert not volume.exists(made)
    with volume.open(made, "x+") as other:
        other.pwrite(b"other", 0)
    assert content_of(volume, "old/a") == file.pread(100, 0) == b"A stored"
    file.close()
    assert (root / "old" / "a").read_bytes() == b"A stored"
    assert (root / made).read_bytes() == b"other"


def test_a_link_with_the_first_name_of_an_open_file_is_renamed_alone(volume: Volume, root: Path) -> None:
    """The file was opened by that name and lives on by another one; so do files of a directory of that name. [2.20]"""
    files = [volume.open(key, "r+") for key in ("target", "old/a")]
    for file in files:
        file.pwrite(b"!", 0)
    (root / "new").mkdir()
    (root / "new" / "a").write_bytes(b"another")
    os.rename(root / "target", root / "kept-target")
    os.rename(root / "old", root / "kept-old")
    (root / "target").symlink_to("new/a")
    (root / "old").symlink_to("new")
    another = volume.open("new/a", "r+")
    another.pwrite(b"A", 0)
    for link in ("target", "old"):
        volume.rename(link, f"moved-{link}")
    assert another.pread(100, 0) == content_of(volume, "new/a") == content_of(volume, "moved-old/a") == b"Another"
    assert [file.pread(100, 0) for file in files] == [b"!tored", b"! stored"]
    assert content_of(volume, "kept-target") == b"!tored"
    assert content_of(volume, "kept-old/a") == b"! stored"
    for file in (*files, another):
        file.close()
    assert (root / "new" / "a").read_bytes() == b"Another"
    assert (root / "kept-target").read_bytes() == b"!tored"
    assert (root / "kept-old" / "a").read_bytes() == b"! stored"


def test_a_link_that_is_renamed_over_its_file_replaces_it(volume: Volume, root: Path) -> None:
    """The file has lost its last name: it is found by none, and a handle keeps it. [2.20]"""
    (root / "alias").symlink_to("target")
    file = volume.open("alias", "r+")
    volume.rename("alias", "target")
    assert os.readlink(root / "target") == "target"
    volume.remove("target")
    assert not volume.exists("target")
    with volume.open("target", "x+") as other:
        other.pwrite(b"other", 0)
    assert file.pread(100, 0) == b"stored"
    file.close()
    assert (root / "target").read_bytes() == b"other"


def test_a_change_of_a_link_does_not_wait_for_its_file(volume: Volume, backend: FaultyBackend, root: Path) -> None:
    """The file is being opened by a slow call. [2.20]"""
    for name in ("one", "two"):
        (root / name).symlink_to("target")
    gate, opening = at_gate(gated(backend, "open"), volume.open, "target", "r+")
    volume.rename("one", "three", timeout=20)
    volume.remove("two", timeout=20)
    gate.release()
    with opening.result():
        assert sorted(path.name for path in root.iterdir() if path.is_symlink()) == ["three"]
