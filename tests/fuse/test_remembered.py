"""Listings that answer lookups, beside everything that changes names; by calls of a server without a mount."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.protocol import ObjectStat
from pagecache.fuse import remembered
from pagecache.fuse.nodes import ROOT
from pagecache.fuse.server import Server
from pagecache.testing import Gate
from pagecache.volume import lifetimes
from tests.file.rig import eventually, raises
from tests.fsspec_below.stores import Parts

from .mounts import code

FILES = 5


class Pages(FsspecBackend):
    """Objects that a commit makes visible, listed page by page; counts calls. `gate` holds a listing that was taken."""

    def __init__(self) -> None:
        self._fs = Parts()
        super().__init__(self._fs, "bucket")
        self.calls: list[str] = []
        self.gate: Gate | None = None
        self.refuses = False
        stat, listed = self.stat, self.list

        def counted(key: Any) -> Any:
            self.calls.append(f"stat {key}")
            return stat(key)

        def pages(prefix: str = "") -> Iterator[Any]:
            self.calls.append(f"list {prefix}")
            if self.refuses:
                raise PermissionError(errno.EACCES, "listing is not allowed")
            found = list(listed(prefix))
            if self.gate is not None:
                self.gate.enter(20.0)
            yield from found

        vars(self).update(stat=counted, list=pages)

    def put(self, key: str, content: bytes) -> None:
        """Store, as another mount does."""
        self._fs.put(f"bucket/{key}", content)

    def take_away(self, key: str) -> None:
        del self._fs.objects[f"bucket/{key}"]

    def taken(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def store() -> Pages:
    store = Pages()
    for number in range(FILES):
        store.put(f"a/{number}", b"%d" % number)
    return store


@pytest.fixture
def served(store: Pages) -> Iterator[Server]:
    with PageCache("8MiB") as cache:
        server = Server(cache.attach(store, revalidate=60.0))
        server.names.remember(60.0)
        store.taken()
        yield server
        server.close()


def forget(server: Server) -> None:
    """Forget what is cached of all files: the cache does that when it needs room."""
    server.volume.invalidate()

    def forgotten() -> bool:
        lifetimes.prune(server.volume, 1000)  # but an inode that the flusher uses at this moment
        return all(server.volume._inode_at(f"a/{name}") is None for name in ("0", "1", "new", "moved"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifetimes, "hollow_max", lambda capacity: 0)
        eventually(forgotten)


def found(server: Server, path: str) -> int | None:
    """The size of a file, or -1 of a directory; None: there is nothing."""
    number = ROOT
    try:
        for name in path.split("/"):
            made = server.lookup(number, name)
            number = made.number
    except FileNotFoundError:
        return None
    return -1 if made.mode & 0o040000 else made.size


def folder(server: Server, path: str = "a") -> int:
    return server.lookup(ROOT, path).number


def write(server: Server, name: str, content: bytes, *, parent: str = "a") -> None:
    fh, _ = server.create(folder(server, parent), name, 0o644, os.O_WRONLY | os.O_EXCL)
    server.files.write(fh, 0, content)
    server.flush(fh)
    server.release(fh)


def test_one_listing_answers_lookups_of_all_names_and_of_none(served: Server, store: Pages) -> None:
    assert [found(served, f"a/{number}") for number in range(FILES)] == [1] * FILES
    assert found(served, "a/none") is None
    assert found(served, "none") is None
    assert store.taken() == ["list ", "list a/"]


def test_files_that_are_made_need_no_listing_each(served: Server, store: Pages) -> None:
    for number in range(20):
        assert found(served, f"a/new{number}") is None
        write(served, f"new{number}", b"ours")
    assert len([call for call in store.taken() if call.startswith("list")]) == 2
    assert [found(served, f"a/new{number}") for number in range(20)] == [4] * 20


@pytest.mark.parametrize("renamed", [False, True])
def test_a_directory_whose_last_name_is_gone_is_removed_or_renamed(served: Server, store: Pages, renamed: bool) -> None:
    assert found(served, "a/0") == 1
    for number in range(FILES):
        served.unlink(folder(served), str(number))
    assert found(served, "a") == -1
    if renamed:
        served.rename(ROOT, "a", ROOT, "b")
    else:
        served.rmdir(ROOT, "a")
    assert (found(served, "a"), found(served, "b")) == (None, -1 if renamed else None)


def edit(server: Server) -> None:
    fh, _ = server.open(server.lookup(folder(server), "0").number, os.O_RDWR)
    server.files.write(fh, 0, b"nine byte")
    server.flush(fh)
    server.release(fh)


def make_directory(server: Server) -> None:
    server.mkdir(ROOT, "b", 0o755)
    write(server, "c", b"c", parent="b")


def remove_directory(server: Server) -> None:
    make_directory(server)
    server.unlink(folder(server, "b"), "c")
    server.rmdir(ROOT, "b")


CHANGES: dict[str, tuple[Callable[[Server], object], str, int | None]] = {
    "create": (lambda server: write(server, "new", b"ours"), "a/new", 4),
    "edit": (edit, "a/0", 9),
    "remove": (lambda server: server.unlink(folder(server), "0"), "a/0", None),
    "rename": (lambda server: server.rename(folder(server), "0", folder(server), "new"), "a/new", 1),
    "rename away": (lambda server: server.rename(folder(server), "0", folder(server), "new"), "a/0", None),
    "mkdir": (make_directory, "b/c", 1),
    "rmdir": (remove_directory, "b", None),
    "truncate": (lambda server: server.setattr(server.lookup(folder(server), "0").number, {"size": 9}), "a/0", 9),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("answered", [True, False])
def test_a_change_behind_or_beside_a_listing_is_seen(served: Server, store: Pages, change: str, answered: bool) -> None:
    """The listing is remembered, or the store has taken it before the change, and its answer comes last. [2.20]"""
    act, path, size = CHANGES[change]
    served.lookup(ROOT, "a")
    served.lookup(folder(served), "0")
    if answered:
        act(served)
        assert found(served, path) == size
    else:
        served.names._remembered.clear()  # type: ignore[attr-defined]
        served.lookup(ROOT, "a")
        with Gate() as gate, ThreadPoolExecutor(1) as pool:
            store.gate = gate
            listing = pool.submit(served.names.status, "a/1")
            gate.wait_entered()
            store.gate = None
            act(served)
            gate.release()
            listing.result()
    forget(served)
    assert found(served, path) == size
    assert found(served, "a/1") == 1


@pytest.mark.parametrize("later", [True, False])
def test_another_mount_is_seen_after_the_lifetime(
    served: Server, store: Pages, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mounts change the same names. [2.19]"""
    assert found(served, "a/0") == 1
    store.take_away("a/1")
    store.put("a/2", b"larger")
    store.put("a/new", b"new")
    if later:
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 61.0)
    expected = [None, 6, 3] if later else [1, 1, None]
    assert [found(served, f"a/{name}") for name in ("1", "2", "new")] == expected


def test_a_name_that_another_mount_has_taken_is_looked_up_again(served: Server, store: Pages) -> None:
    """An open finds nothing: the kernel's second lookup asks the store, and the program gets ENOENT."""
    node = served.lookup(folder(served), "1").number
    store.take_away("a/1")
    assert code(served.open, node, os.O_RDONLY) == errno.ESTALE
    assert found(served, "a/1") is None


def test_a_version_that_another_mount_stores_between_lookup_and_open_is_read(served: Server, store: Pages) -> None:
    node = served.lookup(folder(served), "1").number
    store.put("a/1", b"another one")
    fh, _ = served.open(node, os.O_RDONLY)
    assert served.files.read(fh, 0, 100) == b"another one"
    assert served.getattr(node).size == 11
    served.release(fh)


@pytest.mark.parametrize("fetching", [True, False])
def test_a_reconnect_forgets_what_the_earlier_backend_listed(served: Server, store: Pages, fetching: bool) -> None:
    """While it is fetched, or after that. [2.22]"""
    other = Pages()
    other.put("a/other", b"other")
    served.lookup(ROOT, "a")
    volume = served.volume
    with Gate() as gate, ThreadPoolExecutor(1) as pool:
        if fetching:
            store.gate = gate
            listing = pool.submit(served.names.status, "a/1")
            gate.wait_entered()
        else:
            assert found(served, "a/1") == 1
        volume.abort()
        raises(OSError, served.names.status, "a/1")
        volume.reconnect(other, fenced=True)
        served.names.status("a")
        gate.release()
        if fetching:
            listing.exception()
    assert (found(served, "a/1"), found(served, "a/other")) == (None, 5)


def test_a_store_that_refuses_listings_is_asked_for_each_name(served: Server, store: Pages) -> None:
    store.refuses = True
    assert served.names.status("a/1").size == 1
    assert served.names.status("a/2").size == 1
    assert store.taken() == ["list a/", "stat a/1", "stat a/2"]


def test_a_large_directory_is_listed_by_one_page(served: Server, store: Pages) -> None:
    """Its names answer; the others are asked for, without another page."""
    for number in range(remembered.PAGE + 5):
        store.put(f"b/{number:05}", b"b")
    store.taken()
    assert found(served, "b/00001") == 1
    assert found(served, "b/00002") == 1
    assert store.taken() == ["list ", "list b/"]
    last = f"{remembered.PAGE + 1:05}"
    assert (found(served, f"b/{last}"), served.names.status(f"b/{last}").size) == (1, 1)
    assert found(served, "b/none") is None
    assert [call for call in store.taken() if call in ("list b/", "list ")] == []


def test_a_file_with_unsaved_bytes_is_no_matter_of_a_listing(served: Server, store: Pages) -> None:
    """It is stored after the listing was taken, and nothing is cached of it any longer. [2.20]"""
    served.lookup(ROOT, "a")
    fh, _ = served.create(folder(served), "new", 0o644, os.O_WRONLY)
    served.files.write(fh, 0, b"ours")
    assert served.names.status("a/1").size == 1
    served.volume.sync()
    served.files.release(fh)  # past the server: no mark
    forget(served)
    assert found(served, "a/new") == 4


def test_entries_and_marks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "ENTRIES_MAX", 10)
    monkeypatch.setattr(remembered, "MARKS_MAX", 3)
    kept = remembered.Remembered()
    kept.lifetime_s = 60.0
    for folder in range(5):
        names = [(f"{folder}/{number}", ObjectStat(size=1)) for number in range(4)]
        kept.end(str(folder), kept.begin(str(folder), 0.0), names, complete=True)
    assert [kept.find(f"{folder}/0") is not None for folder in range(5)] == [False] * 3 + [True] * 2
    drawn = iter([(f"5/{number}", ObjectStat(size=1)) for number in range(1000)])
    kept.end("5", kept.begin("5", 0.0), drawn, complete=True)
    assert (kept.find("5/0"), len(list(drawn))) == (None, 989)
    kept.mark(*(f"4/new{number}" for number in range(4)))
    assert kept.find("4/0") is None


# ---------------------------------------------------------------- stores that list a directory, or all below


@pytest.fixture
def tree() -> Iterator[tuple[Server, Parts, list[str]]]:
    """A mount of 20 directories of five files each, and the listings that its store gets."""
    fs: Any = Parts()
    listings: list[str] = []
    for directory in range(20):
        for number in range(FILES):
            fs.put(f"bucket/a/d{directory}/{number}", b"1")
    fs.put("bucket/a/file", b"123")
    fs.put("bucket/ab/other", b"123")
    ls = fs.ls

    def counted(path: str, *args: Any, **options: Any) -> Any:
        listings.append(path)
        return ls(path, *args, **options)

    fs.ls = counted
    with PageCache("8MiB") as cache:
        server = Server(cache.attach(FsspecBackend(fs, "bucket")), None)
        server.names.remember(60.0)
        yield server, fs, listings
        server.close()


Tree = tuple[Server, Parts, list[str]]


def test_a_directory_is_listed_without_what_is_below_its_directories(tree: Tree) -> None:
    """One listing shows it and answers its lookups; files that are not stored are there, and temporary ones are not."""
    server, fs, listings = tree
    fs.put("bucket/a/.pagecache-stage/1-x-1", b"temporary")
    file = server.volume.open("a/new/unsaved", "w")
    file.write(b"ours")
    listings.clear()
    entries = dict(server.names.entries("a"))
    assert entries.keys() == {"file", "new", *(f"d{number}" for number in range(20))}
    assert [entries[name].kind for name in ("file", "new", "d7")] == ["file", "dir", "dir"]
    assert entries["file"].size == 3
    assert listings == ["bucket/a"]
    assert [found(server, f"a/{name}") for name in ("d3", "file", "none", "new/unsaved")] == [-1, 3, None, 4]
    assert listings == ["bucket/a"]
    assert dict(server.names.entries("")).keys() == {"a", "ab"}
    assert dict(server.names.entries("a/new")).keys() == {"unsaved"}
    file.close()


def test_a_lookup_of_no_name_lists_nothing_below_others(tree: Tree) -> None:
    """It asks for the object, and for a directory of that name."""
    server, _, listings = tree
    for name in ("none", "a/none", "a/d", "a/file/none"):
        listings.clear()
        assert found(server, name) is None
        assert listings in ([f"bucket/{name}"], ["bucket/a/file"])


def test_a_directory_with_a_directory_in_it_is_not_empty(tree: Tree) -> None:
    server, fs, _ = tree
    for number in range(FILES):
        fs._rm(f"bucket/a/d1/{number}")
    fs.put("bucket/a/d1/deep/file", b"1")
    assert code(server.rmdir, folder(server), "d1") == errno.ENOTEMPTY
