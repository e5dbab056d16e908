"""Names of objects, and a written object whose name changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.fsspec.objects import STAGE
from tests.file.rig import attached, raises, stored
from tests.fsspec.targets import Store
from tests.fsspec_below.place import OLD, Place, put
from tests.fsspec_below.stores import Elsewhere, Moves, Whole


def test_temporary_objects_are_private(place: Place) -> None:
    place.put("other", b"x")
    if isinstance(place.fs, Elsewhere):
        (Path(place.root) / STAGE).mkdir()
    place.put(f"{STAGE}/1-a-1", b"left")
    assert [stat.key for stat in place.backend.list()] == ["key", "other"]
    for key in (f"{STAGE}/1-a-1", f"a/{STAGE}/b"):
        raises(ValueError, place.backend.open, key, create=True, match=r"is the backend's own")


@pytest.mark.parametrize("key", ["a[1]", "*", "what?", "a b", "ü", "x{1,2}", "100%"])
def test_names_that_look_like_patterns_mean_themselves(place: Place, key: str) -> None:
    for name in ("a1", "what!", "x1", "*other"):
        place.put(name, b"let alone")
    for content in (b"first", b"the second"):
        file = place.written(content, key, create=True)
        file.commit()
    place.backend.rename(key, "renamed")
    place.backend.rename("renamed", key)
    assert place.content(key) == b"the second"
    assert place.backend.stat(key).size == 10
    assert key in [stat.key for stat in place.backend.list()]
    place.backend.remove(key)
    assert {place.content(name) for name in ("a1", "what!", "x1", "*other")} == {b"let alone"}


@pytest.mark.parametrize("folder", [False, True], ids=["itself", "in a folder of another"])
@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
@pytest.mark.parametrize("key", ["a[1]", "a[1]/*"])
def test_a_rename_of_one_request_takes_its_names_literally(key: str, awaited: bool, folder: bool) -> None:
    fs: Any = Moves(asynchronous=awaited)
    for name in ("a1", "a1/b"):
        fs.put(f"bucket/{name}", b"let alone")
    backend = (
        FsspecBackend(DirFileSystem("bucket", fs, asynchronous=awaited), "") if folder else FsspecBackend(fs, "bucket")
    )
    with attached(backend) as volume:
        stored(volume, key, b"mine")  # moved into place
        volume.rename(key, "renamed[1]")
        volume.rename("renamed[1]", "a?")
    assert {name: fs.content(name) for name in fs.objects} == {
        **dict.fromkeys(("bucket/a1", "bucket/a1/b"), b"let alone"),
        "bucket/a?": b"mine",
    }
    assert not {"cp_file", "rm_file"} & {method for method, _ in fs.hooks.calls}


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("/a", "absolute"),
        ("a/../b", "'..'"),
        ("a\0", "NUL"),
        ("", "names no object"),
        (3, "must be a str"),
        (b"a", "str"),
    ],
)
def test_keys_that_no_object_has_are_refused(key: Any, rule: str) -> None:
    backend = FsspecBackend(Whole(), "bucket")
    for call in (backend.canonical, backend.open, backend.stat, backend.remove):
        assert repr(key) in str(raises(ValueError, call, key, match=rule))


def test_names_of_one_object_have_one_key() -> None:
    backend = FsspecBackend(Whole(), "bucket")
    assert {backend.canonical(key) for key in ("a/b", "a//b", "./a/./b", Path("a/b"), "a/b/")} == {"a/b"}
    assert FsspecBackend(Whole()).canonical("https://host/a//b") == "https://host/a//b"


def test_each_listed_key_leads_to_its_object() -> None:
    """Other programs may store objects whose names have empty parts: joined, these are names of other objects."""
    place = Place(Whole(), "bucket")
    for name in ("a/b", "a//b", "a/./c", "a/d/", "d/", "./e", "/f", "g/../h", "i"):
        place.put(name, name.encode())
    found = list(place.backend.list())
    assert [stat.key for stat in found] == ["a/b", "i"]
    assert [place.backend.stat(stat.key).size for stat in found] == [stat.size for stat in found]
    assert [(stat.key, stat.kind) for stat in place.backend.entries("a")] == [("a/b", "file"), ("a/d", "dir")]
    assert [stat.key for stat in place.backend.entries("")] == ["a", "d", "g", "i"]


@pytest.mark.parametrize("key", ["a//b", "./a", "a/./b", "a/b/"])
def test_no_key_leads_to_an_object_of_another_name(key: str) -> None:
    backend = FsspecBackend(fsspec.filesystem("memory", skip_instance_cache=True), "/names")
    for call in (backend.canonical, backend.open, backend.stat, backend.remove):
        assert repr(key) in str(raises(ValueError, call, key, match="empty part"))


def test_object_that_is_written_follows_a_rename_and_not_a_removal(place: Place) -> None:
    file = place.written(b"NEW")
    made = place.written(b"made", "made", create=True)
    place.backend.rename("key", "elsewhere")
    place.backend.rename("made", "made there")
    file.commit()
    made.commit()
    assert place.content("elsewhere") == b"NEW" + OLD[3:]
    assert (place.content("made"), place.content("made there")) == (None, b"made")
    put(file, 0, b"more")
    place.backend.remove("elsewhere")
    file.commit()
    assert place.content("elsewhere") is None


def test_directories_are_no_objects(place: Place) -> None:
    if isinstance(place.fs, Elsewhere):
        (Path(place.root) / "folder").mkdir()
    place.put("folder/key", b"x")
    calls: list[Callable[[], object]] = [
        lambda: place.backend.open("folder"),
        lambda: place.backend.remove("folder"),
        lambda: place.backend.rename("folder", "other"),
        lambda: place.backend.rename("key", "folder"),
    ]
    for call in calls:
        raises(IsADirectoryError, call)
    assert place.backend.stat("folder").kind == "dir"


def test_new_object_brings_the_directories_that_it_needs(tmp_path: Path) -> None:
    place = Place(Elsewhere(), str(tmp_path))
    file = place.written(b"content", "a/b/key", create=True)
    file.commit()
    place.backend.close()
    assert place.content("a/b/key") == b"content"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "key"]  # no temporary file is left


def test_keys_of_a_whole_file_system_begin_at_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path begins elsewhere: in the working directory, or in a login directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = str(tmp_path / "a").removeprefix("/")
    with attached(FsspecBackend(Store(auto_mkdir=True)), "4MiB") as volume:
        with volume.open(f"{folder}/b", "wb") as file:
            file.write(b"here")
            file.fsync()
        assert (tmp_path / "a/b").read_bytes() == b"here"
        assert [stat.key for stat in volume.list(f"{folder}/")] == [f"{folder}/b"]
        volume.rename(f"{folder}/b", f"{folder}/c")
        volume.remove(f"{folder}/c")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_directory_is_listed_by_itself(place: Place) -> None:
    """Its objects and directories; nothing for an object, or for no name."""
    for name in ("d/a", "d/deep/b", "d/.pagecache-stage/1-x-1", "e"):
        if isinstance(place.fs, Elsewhere):
            Path(place.root, name).parent.mkdir(parents=True, exist_ok=True)
        place.put(name, b"123")
    entries = place.backend.entries("d")
    assert [(stat.key, stat.kind) for stat in entries] == [("d/a", "file"), ("d/deep", "dir")]
    assert entries[0].size == 3
    assert entries[0].version == place.backend.stat("d/a").version
    assert {"d", "e"} <= {stat.key for stat in place.backend.entries("")}
    assert place.backend.entries("e") == place.backend.entries("none") == []
    whole = FsspecBackend(place.fs, "")
    assert [stat.key for stat in whole.entries(f"{place.root}/d".lstrip("/"))] == [
        f"{place.root}/d/{name}".lstrip("/") for name in ("a", "deep")
    ]
