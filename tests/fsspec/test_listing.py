"""Names, sizes, listings and ranges: as a reader of the cache finds them, also before they are stored."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecache.fsspec import PageCacheFileSystem
from pagecache.fsspec.ranges import span_of
from pagecache.volume.volume import Volume

from ..file.rig import beside, raises, raising
from .conftest import Make
from .targets import Listed, OwnMemory, Store


def sizes(fs: Any, path: str) -> dict[str, int]:
    return {entry["name"]: entry["size"] for entry in fs.ls(path) if entry["type"] == "file"}


def test_unsaved_bytes_count_in_the_size(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    path = f"{root}/file"
    below.pipe_file(path, b"four")
    with fs.open(path, "r+b") as file:
        file.seek(100)
        file.write(b"x")
        assert below.info(path)["size"] == 4
        assert fs.info(path)["size"] == file.info()["size"] == file.size == 101
        assert sizes(fs, root) == {path: 101}
        assert fs.find(root, detail=True)[path]["size"] == 101
        assert fs.du(root) == 101
        assert fs.size(path) == 101
        file.truncate(2)
        assert fs.info(path)["size"] == 2
    assert fs.info(path)["size"] == below.info(path)["size"] == 2


def test_the_size_of_an_open_object_is_that_of_its_handle_and_takes_no_request(make: Make) -> None:
    """A program that opens, asks for the size and reads gets one version, also if another one is stored meanwhile."""
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.pipe_file("/root/file", b"four")
    with fs.open("/root/file") as file:
        below.pipe_file("/root/file", b"newer")
        assert fs.size("/root/file") == file.size == 4
        assert fs.info("/root/file")["size"] == 5
        fs.mv("/root/file", "/root/moved")
        raises(FileNotFoundError, fs.size, "/root/file")
    assert fs.size("/root/moved") == 5
    below.rm("/root/moved")
    raises(FileNotFoundError, fs.size, "/root/moved")


@pytest.mark.parametrize(("age", "asked"), [(0.0, 8), (3600.0, 0)])
def test_one_look_answers_for_a_file_and_its_open(
    make: Make, monkeypatch: pytest.MonkeyPatch, age: float, asked: int
) -> None:
    """pyarrow asks whether a path is a file, and opens it. Within `revalidate` neither asks the target."""
    fs, below, looks = make("memory", revalidate=age), fsspec.filesystem("memory"), list[str]()
    below.pipe_file("/root/file", b"four")
    assert fs.cat("/root/file") == b"four"
    info = below.info

    def look(path: str, **options: Any) -> Any:
        looks.append(path)
        return info(path, **options)

    monkeypatch.setattr(below, "info", look)
    for _ in range(4):
        assert fs.isfile("/root/file")
        with fs.open("/root/file") as file:
            assert file.read() == b"four"
    assert len(looks) == asked
    below.rm("/root/file")
    assert fs.isfile("/root/file") == (age > 0)
    assert not fs.isfile("/root/none")


def test_the_size_of_an_open_local_file_is_asked_for(make: Make, tmp_path: Path) -> None:
    fs, path = make("file"), tmp_path / "file"
    path.write_bytes(b"four")
    with fs.open(str(path)):
        path.write_bytes(b"newer")
        assert fs.size(str(path)) == 5


def test_an_object_that_was_never_stored_is_there_for_this_file_system(make: Make) -> None:
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.makedirs("/root", exist_ok=True)
    with fs.open("/root/a/b/new", "wb") as file:
        file.write(b"12345")
        assert not below.exists("/root/a/b/new")
        assert fs.exists("/root/a/b/new")
        assert fs.isfile("/root/a/b/new")
        assert fs.isdir("/root/a/b")
        assert fs.isdir("/root/a")
        assert fs.ls("/root/a/b", detail=False) == ["/root/a/b/new"]
        assert fs.ls("/root/a") == [{"name": "/root/a/b", "size": 0, "type": "directory"}]
        assert fs.find("/root") == fs.glob("/root/**/new") == ["/root/a/b/new"]
        assert list(fs.walk("/root")) == [("/root", ["a"], []), ("/root/a", ["b"], []), ("/root/a/b", [], ["new"])]
        assert fs.find("/") == fs.find("") == ["/root/a/b/new"]
        assert fs.ls("/", detail=False) == fs.ls("", detail=False) == ["/root"]
        raises(OSError, fs.rmdir, "/root/a", match="'/root/a/b' is not stored yet")
        assert fs.cat_file("/root/a/b/new") == b"12345"
        raises(FileNotFoundError, fs.info, "/root/other")
        raises(FileNotFoundError, fs.ls, "/root/other")
        file.discard()
    assert not fs.exists("/root/a")


def test_a_directory_reached_by_a_link_shows_sizes_too(make: Make, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    fs = make("file")
    with fs.open(f"{tmp_path}/link/file", "wb") as file:
        file.write(b"12345")
        assert sizes(fs, f"{tmp_path}/link") == {f"{tmp_path}/link/file": 5}
        assert sizes(fs, f"{tmp_path}/real") == {f"{tmp_path}/real/file": 5}
        assert fs.info(f"{tmp_path}/real/file")["size"] == fs.info(f"{tmp_path}/link/file")["size"] == 5


def test_names_change_at_once(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    fs.mkdir(f"{root}/folder")
    fs.touch(f"{root}/folder/empty")
    fs.pipe({f"{root}/folder/a": b"aa", f"{root}/folder/b": b"b"})
    assert sizes(fs, f"{root}/folder") == {f"{root}/folder/{n}": s for n, s in (("empty", 0), ("a", 2), ("b", 1))}
    fs.mv(f"{root}/folder/a", f"{root}/folder/c")
    fs.mv(f"{root}/folder/b", f"{root}/")
    fs.cp_file(f"{root}/folder/c", f"{root}/copy")
    fs.cp(f"{root}/folder", f"{root}/other", recursive=True)
    expected = ["b", "copy", "folder/c", "folder/empty", "other/c", "other/empty"]
    assert fs.find(root) == below.find(root) == [f"{root}/{name}" for name in expected]
    assert fs.cat([f"{root}/copy", f"{root}/other/c"]) == {f"{root}/copy": b"aa", f"{root}/other/c": b"aa"}
    fs.mv(f"{root}/other", f"{root}/moved", recursive=True)
    fs.rm(f"{root}/copy")
    fs.rm(f"{root}/folder", recursive=True)
    assert not fs.exists(f"{root}/folder")
    assert fs.find(root) == [f"{root}/b", f"{root}/moved/c", f"{root}/moved/empty"]
    fs.rm([f"{root}/b", f"{root}/moved"], recursive=True)
    assert fs.ls(root) == []
    raises(FileNotFoundError, fs.rm, f"{root}/b")
    raises(FileNotFoundError, fs.mv, f"{root}/b", f"{root}/c")


def test_a_copy_of_a_file_to_itself_leaves_its_bytes(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    """This includes bytes that are not stored yet."""
    path = f"{root}/file"
    below.pipe_file(path, b"precious")
    fs.cp_file(path, path)
    with fs.open(path, "r+b") as file:
        file.write(b"P")
        fs.cp_file(path, path)
        assert fs.cat_file(path) == b"Precious"
    assert fs.cat_file(path) == below.cat_file(path) == b"Precious"
    raises(FileNotFoundError, fs.cp_file, f"{root}/none", f"{root}/none")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_copy_of_a_file_to_another_name_of_it_leaves_its_bytes(
    make: Make, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    link(tmp_path / "file", tmp_path / "link")
    fs = make("file")
    with fs.open(f"{tmp_path}/file", "r+b") as file:
        file.write(b"P")
        fs.cp_file(f"{tmp_path}/file", f"{tmp_path}/link")
        fs.cp_file(f"{tmp_path}/link", f"{tmp_path}/file")
    assert (tmp_path / "file").read_bytes() == b"Precious"


def test_an_object_that_was_never_stored_can_be_removed_and_renamed(make: Make) -> None:
    fs, below = make("memory"), fsspec.filesystem("memory")
    with fs.open("/one", "wb") as one, fs.open("/two", "wb") as two:
        one.write(b"1")
        two.write(b"2")
        fs.rm("/one")
        fs.mv("/two", "/three")
        assert fs.find("/") == ["/three"]
        raises(FileNotFoundError, fs.rm, "/one")
        two.write(b"3")
    assert fs.find("/") == below.find("/") == ["/three"]
    assert below.cat_file("/three") == b"23"


def test_times_and_keys_of_versions(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    path, before = f"{root}/file", datetime.now(UTC)
    fs.pipe_file(path, b"one")
    assert fs.ukey(path) == fs.ukey(path) == below.ukey(path)
    assert fs.checksum(path) == fs.checksum(path)
    assert fs.created(path) == below.created(path)
    stored = fs.ukey(path)
    with fs.open(path, "r+b") as file:
        file.write(b"two")
        assert len({stored, fs.ukey(path), fs.ukey(path)}) == 3, "while its next content is unknown"
        assert fs.modified(path) >= before - timedelta(seconds=5)
        file.sync()
        assert fs.modified(path) == below.modified(path)
    with fs.open(f"{root}/new", "wb") as file:
        file.write(b"x")
        assert fs.created(f"{root}/new") >= before - timedelta(seconds=5)
        file.discard()
    for ask in (fs.ukey, fs.created, fs.modified):
        raises(FileNotFoundError, ask, f"{root}/nothing")


def test_touch_empties_or_leaves_the_bytes(fs: PageCacheFileSystem, root: str, protocol: str) -> None:
    path = f"{root}/file"
    fs.pipe_file(path, b"one")
    if protocol == "file":
        os.utime(path, (1, 1))
        fs.touch(path, truncate=False)
        assert os.stat(path).st_mtime > 1
    else:
        raises(NotImplementedError, fs.touch, path, truncate=False)
    assert fs.cat_file(path) == b"one"
    fs.touch(path)
    assert fs.cat_file(path) == b""
    fs.touch(f"{root}/new", truncate=False)
    assert fs.cat_file(f"{root}/new") == b""


def test_the_bytes_of_another_client_are_seen_at_the_next_open(make: Make) -> None:
    """They are, even if the target caches listings."""
    below = Listed()
    fs = make(fs=below)
    below.pipe_file("/root/file", b"one")
    assert sizes(fs, "/root") == {"/root/file": 3}
    assert fs.cat_file("/root/file") == b"one"
    assert sizes(fs, "/root") == {"/root/file": 3}
    OwnMemory.pipe_file(below, "/root/file", b"longer than one")  # its listings stay unchanged
    assert below.info("/root/file")["size"] == 3
    assert fs.cat_file("/root/file") == b"longer than one"
    with fs.open("/root/new", "wb") as file:
        file.write(b"new")
    assert sizes(fs, "/root")["/root/new"] == 3


def test_invalidate_cache_is_passed_on_and_forgets_bytes(make: Make) -> None:
    below = Listed()
    fs = make(fs=below)
    below.pipe_file("/root/file", b"one")
    fs.ls("/root")
    with fs.open("/root/file") as file:
        assert file.read() == b"one"
        reads = len(below.reads)
        file.seek(0)
        assert file.read() == b"one"
        assert len(below.reads) == reads, "from memory"
        fs.ls("/root")
        assert list(below.dircache)
        fs.invalidate_cache("/root/file")
        assert not list(below.dircache)
        file.seek(0)
        assert file.read() == b"one"
        assert len(below.reads) > reads
    fs.invalidate_cache()


def test_paths_may_have_the_protocol(fs: PageCacheFileSystem, below: Any, root: str, protocol: str) -> None:
    fs.pipe_file(f"{root}/file", b"one")
    for path in (f"{root}/file", f"{protocol}://{root}/file", f"pagecache::{protocol}://{root}/file"):
        assert fs.cat_file(path) == b"one"
        assert fs.info(path)["name"] == f"{root}/file"
        assert fs.exists(path)
    url = fs.unstrip_protocol(f"{root}/file")
    assert url == f"pagecache::{below.unstrip_protocol(f'{root}/file')}"
    with fsspec.open(url) as file:
        assert file.read() == b"one"
        assert file.full_name == url
    with fs.open(f"{root}/file") as file:
        assert file.fs is fs
        assert (file.path, file.details["size"]) == (f"{root}/file", 3)


def test_private_objects_of_the_cache_are_not_listed(make: Make, tmp_path: Path) -> None:
    """They are temporary objects about to be renamed, left by any program; they go with their directory."""
    below = Store()
    fs, folder = make(fs=below), f"{tmp_path}/folder"
    below.makedirs(f"{folder}/.pagecache-stage")
    left = [f"{folder}/.pagecache-stage/{int(time.time())}-dead-1", f"{folder}/file.0123456789ab.pagecache-deferred"]
    below.pipe(dict.fromkeys(left, b"left by a process that died"))
    fs.pipe_file(f"{folder}/file", b"x")
    assert set(left) < set(below.find(folder))
    assert fs.ls(folder, detail=False) == fs.find(folder) == fs.glob(f"{folder}/*") == [f"{folder}/file"]
    assert fs.find(folder, detail=True).keys() == {f"{folder}/file"}
    assert fs.du(folder) == 1
    below.rm(left[1])
    raises(OSError, fs.rm, [f"{folder}/file", folder], match="not empty")
    fs.rm(folder, recursive=True)
    assert not below.exists(folder)


def test_a_directory_can_be_removed_after_objects_were_written_into_it(make: Make, tmp_path: Path) -> None:
    """Others can be written into one of that name."""
    fs, folder = make(fs=Store()), f"{tmp_path}/folder"
    for _ in range(2):
        fs.mkdir(folder)
        fs.pipe_file(f"{folder}/file", b"x")
        fs.rm(f"{folder}/file")
        fs.rmdir(folder)
        assert not fs.exists(folder)


CONTENT = bytes(range(256)) * 4096  # 1 MiB
ENDS = st.none() | st.integers(-30, 30)


@given(st.binary(max_size=20), ENDS, ENDS)
def test_a_range_is_a_slice(content: bytes, start: int | None, end: int | None) -> None:
    at, length = span_of(start, end, len(content))
    assert content[at : at + length] == content[start:end]


def test_ranges_come_in_the_order_of_the_question(fs: PageCacheFileSystem, root: str) -> None:
    """Each has its own error."""
    one, other, none = (f"{root}/{name}" for name in ("one", "other", "none"))
    fs.pipe({one: b"0123456789", other: b"abcdefghij"})
    found = fs.cat_ranges([one, none, other, one, other], [5, 0, 0, 0, 9], [7, 1, 3, 2, None])
    assert isinstance(found[1], FileNotFoundError)
    assert [found[0], *found[2:]] == [b"56", b"abc", b"01", b"j"]
    raises(FileNotFoundError, fs.cat_ranges, [one, none], 0, 1, on_error="raise")
    assert fs.cat_ranges([one, other], 1, 3, max_gap=10) == [b"12", b"bc"]
    assert fs.cat_ranges([one], None, None) == [b"0123456789"]
    assert fs.cat_ranges([], 0, 1) == []


def test_near_ranges_are_one_read(make: Make) -> None:
    below = OwnMemory()
    fs = make(fs=below, read_ahead=0)
    below.pipe_file("/file", CONTENT)
    fs.cat_file("/file", 900_000, 900_001)  # whatever is checked first
    before = len(below.reads)
    starts = list(range(1000, 41_000, 2000))
    found = fs.cat_ranges(["/file"] * len(starts), list(starts), [start + 100 for start in starts])
    assert found == [CONTENT[start : start + 100] for start in starts]
    assert len(below.reads) == before + 1
    assert fs.cat_ranges(["/file"], [1000], [1100]) == [CONTENT[1000:1100]]
    assert len(below.reads) == before + 1, "from memory"


def test_ranges_of_all_files_are_read_side_by_side(make: Make) -> None:
    """None waits for the one before it: each read waits here until all of them have begun."""
    below = Together()
    fs = make(fs=below, read_ahead=0)
    paths = [f"/{name}" for name in "abc"]
    below.pipe(dict.fromkeys(paths, CONTENT))
    fs.cat_file("/a", 900_000, 900_001)
    below.meeting = threading.Barrier(4)
    found = fs.cat_ranges([*paths, "/a"], [0, 0, 0, 500_000], [10, 10, 10, 500_010])
    assert found == [CONTENT[:10]] * 3 + [CONTENT[500_000:500_010]]


class Together(OwnMemory):
    """Reads of which none returns before all have come."""

    meeting: threading.Barrier | None = None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if self.meeting is not None:
            self.meeting.wait(60)
        return super().cat_file(path, start, end, **options)


class Slow(OwnMemory):
    """`after` is called once, when the answer to a listing is on its way."""

    after: Callable[[], object] | None = None

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        found = super().ls(path, detail=detail, **options)
        after, self.after = self.after, None
        if after is not None:
            after()
        return found


@pytest.mark.parametrize("new", [True, False])
def test_a_listing_has_a_file_that_is_saved_beside_it(make: Make, new: bool) -> None:
    """A reader of the cache sees the file, and its size, before, during and after the call."""
    below = Slow()
    below.pipe({"/d/other": b"-", **({} if new else {"/d/file": b"old"})})
    fs = make(fs=below)
    file = fs.open("/d/file", "wb")
    file.write(b"longer than old")
    assert {entry["name"]: entry["size"] for entry in fs.ls("/d")}["/d/file"] == 15
    below.after = file.close
    assert {entry["name"]: entry["size"] for entry in fs.ls("/d")}.get("/d/file") == 15
    assert {entry["name"]: entry["size"] for entry in fs.ls("/d")}["/d/file"] == 15


@pytest.mark.parametrize("recursive", [False, True])
def test_a_link_is_removed_and_not_what_it_leads_to(make: Make, tmp_path: Path, *, recursive: bool) -> None:
    fs = make("file")
    (tmp_path / "v42").mkdir()
    (tmp_path / "v42" / "data").write_bytes(b"kept")
    for name, to in (("current", "v42"), ("hanging", "none"), ("file", "v42/data")):
        (tmp_path / name).symlink_to(to)
    for name in ("current", "hanging", "fil*"):
        fs.rm(f"{tmp_path}/{name}", recursive=recursive)
    assert sorted(os.listdir(tmp_path)) == ["v42"]
    assert (tmp_path / "v42" / "data").read_bytes() == b"kept"


@pytest.mark.parametrize("how", ["rm", "mv", "mv into a tree", "mv of a pattern"])
def test_a_tree_with_links_can_be_removed_and_moved(make: Make, tmp_path: Path, how: str) -> None:
    fs, tree = make("file"), tmp_path / "tree"
    for folder in (tmp_path / "other", tree):
        folder.mkdir()
        (folder / "a").write_bytes(b"a")
    (tree / "link").symlink_to(tmp_path / "other")
    if how == "rm":
        fs.rm(f"{tree}", recursive=True)
    elif how == "mv":
        fs.mv(f"{tree}", f"{tmp_path}/moved", recursive=True)
    elif how == "mv into a tree":
        (tmp_path / "moved").mkdir()
        (tmp_path / "moved" / "b").write_bytes(b"b")
        fs.mv(f"{tree}/", f"{tmp_path}/moved", recursive=True)
    else:
        (tmp_path / "moved").mkdir()
        fs.mv(f"{tree}/*", f"{tmp_path}/moved")
        tree.rmdir()
    assert sorted(os.listdir(tmp_path)) == (["other"] if how == "rm" else ["moved", "other"])
    assert (tmp_path / "other" / "a").read_bytes() == b"a"
    if how != "rm":
        assert (tmp_path / "moved" / "link").is_symlink()
        assert (tmp_path / "moved" / "a").read_bytes() == b"a"


ONTO: dict[str, Any] = {
    "itself": ("{0}/dir", "{0}"),
    "below": ("{0}/dir", "{0}/dir/sub"),
    "pattern": ("{0}/dir/*.csv", "{0}/dir"),
    "list": (["{0}/dir/x.csv", "{0}/dir/y.csv"], "{0}/dir"),
    "chain": (["{0}/dir/x.csv", "{0}/dir/y.csv"], ["{0}/dir/y.csv", "{0}/dir/z.csv"]),
    "one name": (["{0}/dir/x.csv", "{0}/other/x.csv"], "{0}"),
    "more names": (["{0}/dir/x.csv", "{0}/dir/y.csv"], ["{0}/new.csv"]),
    "one level": ("{0}/dir", "{0}/new"),
}


@pytest.mark.parametrize("how", ONTO)
def test_a_move_loses_no_bytes(fs: PageCacheFileSystem, below: Any, root: str, how: str) -> None:
    """It moves them, or refuses to."""
    contents = {"dir/x.csv": b"x", "dir/y.csv": b"y", "dir/deep/z": b"z", "other/x.csv": b"other"}
    for folder in ("dir/deep", "other"):
        below.makedirs(f"{root}/{folder}", exist_ok=True)
    below.pipe({f"{root}/{name}": content for name, content in contents.items()})
    source, target = ([one.format(root) for one in it] if isinstance(it, list) else it.format(root) for it in ONTO[how])
    with contextlib.suppress(OSError, ValueError):
        fs.mv(
            source,
            target,
            recursive=how in ("itself", "below", "one level"),
            maxdepth=1 if how == "one level" else None,
        )
    assert sorted(below.cat_file(path) for path in below.find(root)) == sorted(contents.values())


class Gaps(OwnMemory):
    """Memory of which one listing fails."""

    fails = ""

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if self.fails and path.rstrip("/") == self.fails:
            self.fails = ""
            raise OSError(110, "timed out", path)
        return super().ls(path, detail, **options)


def test_a_listing_that_fails_loses_no_file_of_a_moved_tree(make: Make) -> None:
    below = Gaps()
    fs = make(fs=below)
    below.makedirs("/a/sub", exist_ok=True)
    below.pipe({"/a/x": b"x", "/a/sub/y": b"y"})
    below.fails = "/a/sub"
    raises(OSError, fs.mv, "/a", "/b", recursive=True, match="timed out")
    assert below.find("/") == ["/a/sub/y", "/a/x"]
    fs.mv("/a", "/b", recursive=True)
    assert below.find("/") == ["/b/sub/y", "/b/x"]


def test_a_file_that_is_made_beside_the_move_of_its_directory_stays(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.makedirs("/a", exist_ok=True)
    below.pipe_file("/a/x", b"x")
    beside(monkeypatch, Volume, "rename", lambda: below.pipe_file("/a/new", b"new"))
    raises(OSError, fs.mv, "/a", "/b", recursive=True)
    assert {path: below.cat_file(path) for path in below.find("/")} == {"/a/new": b"new", "/b/x": b"x"}


@pytest.mark.parametrize("how", ["tree", "files"])
def test_moved_local_files_are_renamed(make: Make, tmp_path: Path, how: str) -> None:
    """A copy would have to be on the disk before its source is removed."""
    fs = make("file")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x" * 10_000)
    before = (tmp_path / "a" / "x").stat().st_ino
    if how == "tree":
        fs.mv(f"{tmp_path}/a", f"{tmp_path}/new/b", recursive=True)
        (tmp_path / "new" / "b").rename(tmp_path / "b")
    else:
        (tmp_path / "b").mkdir()
        fs.mv(f"{tmp_path}/a/*", f"{tmp_path}/b")
    assert (tmp_path / "b" / "x").stat().st_ino == before


@pytest.mark.parametrize("transaction", [False, True])
def test_a_move_to_another_disk_is_durable_before_its_source_goes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, transaction: bool
) -> None:
    fs, synced, plain = make("file"), set[int](), os.fsync
    (tmp_path / "x").write_bytes(b"x" * 10_000)

    def fsync(fd: int) -> None:
        plain(fd)
        synced.add(os.fstat(fd).st_ino)

    def elsewhere(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Volume, "rename", elsewhere)
    with contextlib.suppress(KeyError), fs.transaction if transaction else contextlib.nullcontext():
        fs.mv(f"{tmp_path}/x", f"{tmp_path}/y")
        assert os.listdir(tmp_path) == ["y"]
        assert (tmp_path / "y").stat().st_ino in synced
        raise KeyError
    assert (tmp_path / "y").read_bytes() == b"x" * 10_000


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_is_not_copied_to_another_path_of_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[[Path, Path], None]
) -> None:
    """Two mounts of a directory are two disks for a rename. The copy would empty the file before it is read."""
    fs = make("file")
    (tmp_path / "y").write_bytes(b"x" * 10_000)
    link(tmp_path / "y", tmp_path / "x")
    monkeypatch.setattr(Volume, "rename", raising(OSError(errno.EXDEV, "Invalid cross-device link")))
    assert raises(OSError, fs.mv, f"{tmp_path}/x", f"{tmp_path}/y").errno == errno.EXDEV
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == b"x" * 10_000


def test_an_object_of_another_name_is_neither_read_nor_removed(make: Make) -> None:
    """In a store without directories a name may have an empty part."""
    fs = make(fs=OwnMemory())
    ours, theirs = "/names/x", "/names//x"
    for path in (ours, theirs):
        fs.fs.pipe_file(path, path.encode())
    for call in (fs.cat_file, fs.rm, fs.touch, partial(fs.mv, path2="/names/y")):
        raises(ValueError, call, theirs, match="empty part")
    raises(ValueError, fs.mv, ours, theirs, match="empty part")
    assert {path: fs.fs.cat_file(path) for path in fs.fs.find("/names")} == {
        path: path.encode() for path in (ours, theirs)
    }


class Unanswered(OwnMemory):
    """Memory whose copies, and touches, are made, and their answers lost."""

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        super().cp_file(path1, path2, **options)
        raise OSError(110, "timed out", path2)

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        self.pipe_file(path, b"new")
        raise OSError(110, "timed out", path)


@pytest.mark.parametrize("how", ["cp_file", "touch"])
def test_a_change_whose_answer_is_lost_leaves_no_old_bytes(make: Make, how: str) -> None:
    below = Unanswered()
    fs = make(fs=below, revalidate=60.0)
    below.pipe({"/a": b"new", "/b": b"old"})
    assert fs.cat_file("/b") == b"old"
    if how == "cp_file":
        raises(OSError, fs.cp_file, "/a", "/b")
    else:
        raises(OSError, fs.touch, "/b", truncate=False)
    assert fs.cat_file("/b") == below.cat_file("/b") == b"new"
