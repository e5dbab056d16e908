"""Transactions: their changes are invisible before their end."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import stat
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import fsspec
import pytest

import pagecache
from pagecache.engine.commit.journaled import VolumeJournal
from pagecache.fsspec import PageCacheFileSystem, transaction
from pagecache.fsspec.transaction import DeferredFile

from ..file.rig import Patch, Task, at_gate, beside, held, raises, raising
from ..file.test_interrupts import interrupted_at
from ..stores import WAIT_LIMIT_S
from .conftest import Make
from .targets import OwnMemory


def contents(fs: Any, root: str) -> dict[str, bytes]:
    return {path: fs.cat_file(path) for path in fs.find(root)}


def test_nothing_is_seen_before_the_end(fs: PageCacheFileSystem, below: Any, root: str, protocol: str) -> None:
    """They are invisible through the cache and past it."""
    below.pipe({f"{root}/old": b"old", f"{root}/log": b"first,"})
    other = PageCacheFileSystem(protocol, capacity="4MiB")
    with fs.transaction:
        fs.pipe_file(f"{root}/new", b"new")
        with fs.open(f"{root}/old", "wb") as file:
            file.write(b"newer")
        with fs.open(f"{root}/log", "a") as text:
            text.write("second")
        with fs.open(f"{root}/old2", "xb", compression="gzip") as file:
            file.write(b"packed")
        fs.cp_file(f"{root}/log", f"{root}/copy")
        for view in (fs, other, below):
            assert contents(view, root) == {f"{root}/log": b"first,", f"{root}/old": b"old"}
            assert not view.exists(f"{root}/new")
    names = ["copy", "log", "new", "old", "old2"]
    for view in (fs, other, below):
        assert view.find(root) == [f"{root}/{name}" for name in names]
        assert view.cat_file(f"{root}/new") == b"new"
        assert view.cat_file(f"{root}/old") == b"newer"
        assert view.cat_file(f"{root}/log") == b"first,second"
        assert view.cat_file(f"{root}/copy") == b"first,"
        with view.open(f"{root}/old2", "rb", compression="gzip") as file:
            assert file.read() == b"packed"


def test_a_file_whose_body_raised_is_not_published_by_a_transaction_that_goes_on(
    fs: PageCacheFileSystem, below: Any, root: str
) -> None:
    with fs.transaction:
        with pytest.raises(KeyError), fs.open(f"{root}/half", "wb") as file:
            file.write(b"half")
            raise KeyError
        with pytest.raises(KeyError), fs.open(f"{root}/half.txt", "w") as file:
            file.write("half")
            raise KeyError
        fs.pipe_file(f"{root}/whole", b"whole")
    assert fs.find(root) == below.find(root) == [f"{root}/whole"]


def test_a_file_can_be_committed_or_discarded_by_itself(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    kept = fs.open(f"{root}/kept", "wb", autocommit=False)
    lost = fs.open(f"{root}/lost", "wb", autocommit=False)
    for file in (kept, lost):
        file.write(b"x")
        file.close()
    assert not below.exists(f"{root}/kept")
    kept.commit()
    lost.discard()
    assert below.find(root) == [f"{root}/kept"]


@pytest.mark.parametrize("mode", ["r+b", "ab", "a+b", "xb"])
def test_changes_of_another_client_are_not_overwritten(
    fs: PageCacheFileSystem, below: Any, root: str, mode: str
) -> None:
    """An exclusive file overwrites no object that has appeared."""
    path = f"{root}/file"
    if mode != "xb":
        below.pipe_file(path, b"old")
    fs.start_transaction()
    with fs.open(path, mode) as file:
        file.write(b"mine")
    below.pipe_file(path, b"somebody else's")
    if mode == "xb":
        raises(FileExistsError, fs.end_transaction)
    else:
        raises(pagecache.ConflictError, fs.end_transaction, match="changed since it was opened")
    assert below.cat_file(path) == b"somebody else's"
    assert below.find(root) == [path]


@pytest.mark.parametrize("mode", ["r+b", "ab", "a+b"])
def test_unsaved_changes_of_another_handle_are_not_overwritten(
    fs: PageCacheFileSystem, below: Any, root: str, mode: str
) -> None:
    """The copy of the transaction has the unsaved bytes of its beginning, and no later ones."""
    for name, later in (("first", b""), ("second", b"NEWER")):
        path = f"{root}/{name}"
        below.pipe_file(path, b"0123456789")
        with fs.open(path, "r+b") as handle:
            handle.write(b"new")
            fs.start_transaction()
            with fs.open(path, mode) as file:
                file.seek(0, os.SEEK_END)
                file.write(b"TAIL")
            if later:
                handle.pwrite(later, 0)
                raises(pagecache.ConflictError, fs.end_transaction, match="changed since it was opened")
            else:
                fs.end_transaction()
        assert fs.cat_file(path) == below.cat_file(path) == (b"NEWER56789" if later else b"new3456789TAIL")


@pytest.mark.parametrize("mode", ["ab", "r+b"])
@pytest.mark.parametrize("saved", [False, True])
def test_an_object_that_the_disk_tier_alone_has_can_be_changed(
    make: Make, protocol: str, root: str, tmp_path: Path, monkeypatch: Patch, mode: str, *, saved: bool
) -> None:
    """It was closed, and its own save in the background is no other writer. [2.28]"""
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    fs = make(protocol, disk=str(tmp_path / "tier"), disk_size="512MiB", durability="disk")
    fs.pipe_file(f"{root}/k", b"one")
    with fs.transaction, fs.open(f"{root}/k", mode) as file:
        file.seek(0, os.SEEK_END)
        file.write(b"two")
        if saved:
            fs.volume.sync(durability="backend")
    assert fs.cat_file(f"{root}/k") == b"onetwo"


def test_another_writer_that_gives_up_takes_nothing_of_a_transaction_along(
    fs: PageCacheFileSystem, below: Any, root: str
) -> None:
    path = f"{root}/file"
    below.pipe_file(path, b"old")
    other = fs.open(path, "r+b")
    fs.start_transaction()
    fs.pipe_file(path, b"new")
    fs.end_transaction()
    with pytest.raises(KeyError), other:
        raise KeyError
    assert fs.cat_file(path) == b"new"
    fs.volume.sync(20)
    assert below.cat_file(path) == b"new"


def test_a_version_that_is_stored_during_the_end_is_not_overwritten(make: Make, monkeypatch: Patch) -> None:
    """Another client stores it after the check of the stored version."""
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.pipe_file("/file", b"old")
    theirs = b"another client's"
    beside(monkeypatch, DeferredFile, "_check_base", lambda: below.pipe_file("/file", theirs), after=True)
    fs.start_transaction()
    with fs.open("/file", "ab") as file:
        file.write(b"mine")
    raises(pagecache.ConflictError, fs.end_transaction, match="changed since it was opened")
    assert fs.cat_file("/file") == below.cat_file("/file") == theirs


def test_an_end_that_fails_says_so_and_leaves_the_rest_as_it_was(make: Make) -> None:
    below = OwnMemory()
    fs = make(fs=below, retry=pagecache.RetryPolicy(attempts=1))
    below.pipe({"/a": b"old a", "/b": b"old b"})
    fs.start_transaction()
    fs.pipe({"/a": b"new a", "/b": b"new b", "/c": b"new c"})
    below.full = True
    raises(pagecache.WritebackError, fs.end_transaction)
    below.full = False
    assert [below.cat_file(path) for path in ("/a", "/b")] == [b"old a", b"old b"]
    assert not below.exists("/c")
    fs.pipe_file("/c", b"at once")
    assert below.cat_file("/c") == b"at once"


def test_a_reader_of_a_local_file_sees_the_old_or_the_new_one(make: Make, tmp_path: Path) -> None:
    """A rename puts the new file in its place."""
    fs, path = make("file"), tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        before = os.stat(path).st_ino
        with fs.transaction:
            fs.pipe_file(str(path), b"new, and longer")
        assert reader.read() == b"old"
        assert os.stat(path).st_ino != before
    assert os.listdir(tmp_path) == ["file"]


def test_other_users_cannot_read_a_file_before_it_is_published(make: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    fs, path = make("file"), tmp_path / "file"
    modes: list[int] = []

    def look() -> None:
        (above,) = [name for name in os.listdir(tmp_path) if name != "file"]
        modes.append(stat.S_IMODE((tmp_path / above).stat().st_mode))

    beside(monkeypatch, DeferredFile, "_copy_to", look, after=True)
    with fs.transaction:
        fs.pipe_file(str(path), b"bytes")
    assert modes == [0o700]
    assert path.read_bytes() == b"bytes"
    assert os.listdir(tmp_path) == ["file"]


def test_a_transaction_holds_more_than_the_cache(make: Make) -> None:
    fs, below = make("memory", capacity="1MiB"), fsspec.filesystem("memory")
    block = bytes(range(256)) * 4096
    with fs.transaction, fs.open("/large", "w+b") as file:
        for _ in range(4):
            assert file.write(block) == len(block)
        file.seek(len(block) - 3)
        assert file.read(6) == block[-3:] + block[:3]
        assert file.size == 4 * len(block)
    assert below.cat_file("/large") == block * 4


@pytest.mark.parametrize("how", ["tree", "lists"])
def test_a_move_in_a_transaction_that_is_given_up_loses_no_bytes(
    fs: PageCacheFileSystem, below: Any, root: str, how: str
) -> None:
    below.makedirs(f"{root}/a", exist_ok=True)
    below.pipe({f"{root}/a/x": b"x", f"{root}/a/y": b"y"})
    with pytest.raises(KeyError), fs.transaction:
        if how == "tree":
            fs.mv(f"{root}/a", f"{root}/b", recursive=True)
        else:
            below.makedirs(f"{root}/b", exist_ok=True)
            fs.mv([f"{root}/a/x", f"{root}/a/y"], [f"{root}/b/x", f"{root}/b/y"])
        raise KeyError
    assert sorted(below.cat_file(path) for path in below.find(root)) == [b"x", b"y"]


def test_a_moved_tree_has_its_new_names_at_once(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    """A kill before the end of the transaction loses nothing."""
    below.makedirs(f"{root}/a", exist_ok=True)
    below.pipe_file(f"{root}/a/x", b"x")
    fs.start_transaction()
    fs.mv(f"{root}/a", f"{root}/b", recursive=True)
    assert [below.cat_file(path) for path in below.find(root)] == [b"x"]
    fs.end_transaction()


def test_nothing_of_a_file_that_could_not_be_stored_is_seen_or_stored_later(make: Make) -> None:
    """DeferredFile.commit: "it could not be stored; nothing of it is visible"."""
    below = OwnMemory()
    fs = make(fs=below, retry=pagecache.RetryPolicy(attempts=1))
    below.pipe({"/a": b"old a", "/b": b"old b"})
    fs.start_transaction()
    fs.pipe({"/a": b"new a", "/b": b"new b"})
    below.full = True
    raises(pagecache.WritebackError, fs.end_transaction)
    below.full = False
    assert fs.cat_file("/a") == b"old a"
    fs.sync(20)  # or failed_retry seconds later, or the exit of the process
    assert below.cat_file("/a") == b"old a"


def test_a_new_file_that_could_not_be_stored_can_be_made_again(make: Make) -> None:
    below = OwnMemory()
    fs = make(fs=below, retry=pagecache.RetryPolicy(attempts=1))
    below.pipe_file("/other", b"-")
    for full in (True, False):
        fs.start_transaction()
        with fs.open("/new", "xb") as file:  # the second time: FileExistsError
            file.write(b"new")
        below.full = full
        if full:
            raises(OSError, fs.end_transaction)
        else:
            fs.end_transaction()
    assert below.cat_file("/new") == b"new"


@pytest.mark.parametrize("how", ["with", "start and end"])
def test_a_transaction_inside_another_is_a_part_of_it(fs: PageCacheFileSystem, below: Any, root: str, how: str) -> None:
    """Only the end of the outer one publishes; one whose body raised takes its own files along."""
    with fs.transaction:
        fs.pipe_file(f"{root}/outer", b"1")
        if how == "with":
            with fs.transaction:
                fs.pipe_file(f"{root}/inner", b"2")
        else:
            fs.start_transaction()
            fs.pipe_file(f"{root}/inner", b"2")
            fs.end_transaction()
        with pytest.raises(KeyError), fs.transaction:
            fs.pipe_file(f"{root}/raised", b"3")
            raise KeyError
        fs.pipe_file(f"{root}/last", b"4")
        assert below.find(root) == []
    assert below.find(root) == [f"{root}/{name}" for name in ("inner", "last", "outer")]
    fs.pipe_file(f"{root}/at once", b"5")
    assert below.exists(f"{root}/at once")


def test_a_file_of_another_thread_during_the_end_is_stored_at_once(
    fs: PageCacheFileSystem, below: Any, root: str, monkeypatch: Patch
) -> None:
    def other() -> None:
        thread = threading.Thread(target=fs.pipe_file, args=(f"{root}/beside", b"2"))
        thread.start()
        thread.join(60)

    beside(monkeypatch, DeferredFile, "commit", other)
    with fs.transaction:
        fs.pipe_file(f"{root}/inside", b"1")
    fs.sync()
    assert below.find(root) == [f"{root}/beside", f"{root}/inside"]


def test_a_file_whose_transaction_ends_beside_its_open_is_stored_at_once(
    fs: PageCacheFileSystem, below: Any, root: str, monkeypatch: Patch
) -> None:
    fs.start_transaction()
    beside(monkeypatch, DeferredFile, "__init__", fs.end_transaction)
    fs.pipe_file(f"{root}/file", b"whole")
    assert below.cat_file(f"{root}/file") == b"whole"


@pytest.mark.parametrize(("mode", "compression"), [("wb", None), ("wt", None), ("wb", "gzip"), ("ab", None)])
def test_a_file_of_fsspec_open_whose_body_raised_is_not_published_either(
    make: Make, mode: str, compression: str | None
) -> None:
    below = fsspec.filesystem("memory")
    below.pipe_file("/file", b"old")
    options = {"capacity": "4MiB"}
    opened = fsspec.open("pagecache::memory://file", mode, pagecache=options, compression=compression)
    make("memory")  # it closes the shared cache
    with opened.fs.transaction, pytest.raises(KeyError), opened as file:
        file.write("half" if mode == "wt" else b"half")
        raise KeyError
    assert below.cat_file("/file") == b"old"


def test_a_transaction_makes_the_directories_that_open_makes(make: Make, tmp_path: Path) -> None:
    fs = make("file", {"auto_mkdir": True})
    with fs.transaction:
        fs.pipe_file(f"{tmp_path}/new/x", b"1")
        fs.pipe_file(f"{tmp_path}/y", b"2")
    assert (tmp_path / "new" / "x").read_bytes() == b"1"
    assert (tmp_path / "y").read_bytes() == b"2"


def test_a_missing_directory_is_an_error_of_the_open(make: Make, tmp_path: Path) -> None:
    """DeferredFile: "Raises, when it is opened: FileNotFoundError, ...: as without a transaction"."""
    fs = make("file")
    with fs.transaction:
        fs.pipe_file(f"{tmp_path}/y", b"2")
        error = raises(FileNotFoundError, fs.open, f"{tmp_path}/new/x", "wb")
        assert error.filename == f"{tmp_path}/new/x"
    assert (tmp_path / "y").read_bytes() == b"2"


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_changed_local_file_keeps_its_mode_and_its_links(make: Make, tmp_path: Path, mode: str) -> None:
    fs = make("file")
    real, link, hanging = (tmp_path / name for name in ("real", "link", "hanging"))
    real.write_bytes(b"secret")
    real.chmod(0o600)
    link.symlink_to("real")
    hanging.symlink_to("none")
    with fs.transaction:
        for path in (link, hanging):
            with fs.open(f"{path}", mode) as file:
                file.write(b", more")
    assert link.is_symlink()
    assert real.read_bytes() == (b"secret, more" if mode == "ab" else b", more")
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert hanging.is_symlink()
    assert (tmp_path / "none").read_bytes() == b", more"


UNCLOSED = [("wb", None), ("wt", None), ("wb", "gzip"), ("wt", "gzip")]


@pytest.mark.parametrize(("mode", "compression"), UNCLOSED)
@pytest.mark.parametrize("inner", [False, True])
def test_the_end_of_a_transaction_publishes_all_bytes_of_an_open_file(
    fs: PageCacheFileSystem, below: Any, root: str, mode: str, compression: str | None, *, inner: bool
) -> None:
    """Also those that the text or compressed file still has. The end of one inside it leaves the file open."""
    path = f"{root}/file"
    below.pipe_file(path, b"old")
    fs.start_transaction()
    if inner:
        fs.start_transaction()
    file = fs.open(path, mode, compression=compression)
    for part in ("first,", "second"):
        file.write(part if mode == "wt" else part.encode())
        if inner:
            fs.end_transaction()
            inner = False
    fs.end_transaction()
    assert file.closed
    with below.open(path, "rb", compression=compression) as stored:
        assert stored.read() == b"first,second"
    file.close()
    assert below.find(root) == [path]


def test_an_end_raises_the_error_of_last_bytes_and_leaves_the_object(
    fs: PageCacheFileSystem, below: Any, root: str, monkeypatch: Patch
) -> None:
    below.pipe_file(f"{root}/file", b"old")
    fs.start_transaction()
    fs.pipe_file(f"{root}/first", b"1")
    file = fs.open(f"{root}/file", "w")
    file.write("new")
    monkeypatch.setattr(DeferredFile, "write", raising(OSError(errno.ENOSPC, "No space left on device")))
    raises(OSError, fs.end_transaction, match="No space")
    assert file.closed
    assert contents(below, root) == {f"{root}/file": b"old", f"{root}/first": b"1"}


@pytest.mark.parametrize(("mode", "compression"), UNCLOSED)
@pytest.mark.parametrize("end", ["commits", "discards"])
def test_a_file_that_another_thread_is_writing_at_the_end_is_published_whole_or_not_at_all(
    fs: PageCacheFileSystem, below: Any, root: str, mode: str, compression: str | None, end: str
) -> None:
    """If the transaction is given up, it takes the file along."""
    path, opened, ended = f"{root}/file", threading.Event(), threading.Event()
    below.pipe_file(path, b"old")

    def write() -> None:
        with fs.open(path, mode, compression=compression) as file:
            opened.set()
            assert ended.wait(WAIT_LIMIT_S)
            file.write("whole" if mode == "wt" else b"whole")

    fs.start_transaction()
    writer = Task(write)
    assert opened.wait(WAIT_LIMIT_S)
    fs.pipe_file(f"{root}/other", b"other")
    fs.transaction.complete(commit=end == "commits")
    assert below.cat_file(path) == b"old"
    ended.set()
    if end == "commits":
        writer.result()
        with below.open(path, "rb", compression=compression) as stored:
            assert stored.read() == b"whole"
        assert below.cat_file(f"{root}/other") == b"other"
    else:
        raises(ValueError, writer.result, match="closed")
        assert contents(below, root) == {path: b"old"}


@pytest.fixture
def published(monkeypatch: Patch) -> list[DeferredFile]:
    """The files that were put in place."""
    found: list[DeferredFile] = []
    genuine = DeferredFile._copy_to

    def recorded(file: DeferredFile, *arguments: str) -> None:
        found.append(file)
        genuine(file, *arguments)

    monkeypatch.setattr(DeferredFile, "_copy_to", recorded)
    return found


@pytest.mark.parametrize("mode", ["wb", "wt"])
def test_a_close_of_another_thread_beside_the_end_leaves_the_file_to_that(
    fs: PageCacheFileSystem, below: Any, root: str, monkeypatch: Patch, published: list[DeferredFile], mode: str
) -> None:
    fs.start_transaction()
    file = fs.open(f"{root}/file", mode)
    file.write("whole" if mode == "wt" else b"whole")
    beside(monkeypatch, DeferredFile, "commit", lambda: Task(file.close).result())
    fs.end_transaction()
    assert len(published) == 1
    assert below.cat_file(f"{root}/file") == b"whole"


def test_two_closes_after_the_end_of_another_thread_publish_a_file_once(
    fs: PageCacheFileSystem, below: Any, root: str, monkeypatch: Patch, published: list[DeferredFile]
) -> None:
    fs.start_transaction()
    file = fs.open(f"{root}/file", "wb")
    file.write(b"whole")
    Task(fs.end_transaction).result()
    assert not file.closed
    gate, close = at_gate(held(monkeypatch, DeferredFile, "_copy_to"), file.close)
    other = Task(file.close)  # waits
    close.result(opening=gate)
    other.result()
    assert published == [file]
    assert below.cat_file(f"{root}/file") == b"whole"


def test_a_close_after_the_end_raises_its_conflict(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    path = f"{root}/file"
    below.pipe_file(path, b"old")
    fs.start_transaction()
    file = fs.open(path, "ab")
    file.write(b"mine")
    Task(fs.end_transaction).result()
    below.pipe_file(path, b"somebody else's")
    raises(pagecache.ConflictError, file.close, match="changed since it was opened")
    file.close()
    assert below.cat_file(path) == b"somebody else's"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("commit", [True, False])
def test_a_file_that_is_dropped_in_a_transaction_is_stored_at_its_end(
    fs: PageCacheFileSystem, below: Any, root: str, *, commit: bool
) -> None:
    """Not before it, and not if it is given up; also a file that is closed by a finaliser, or whose text file is
    detached. The last one that was opened wins, whatever is closed again.
    """

    class Holder:
        file: Any
        itself: Any

        def __del__(self) -> None:
            self.file.close()

    fs.start_transaction()
    holder = Holder()
    holder.itself, holder.file = holder, fs.open(f"{root}/held", "wb")
    holder.file.write(b"whole")
    fs.open(f"{root}/file", "wb").write(b"whole")
    fs.open(f"{root}/text", "w").write("whole")
    fs.open(f"{root}/detached", "w").detach().write(b"whole")
    first = fs.open(f"{root}/two", "w")
    first.write("first")
    first.close()
    fs.open(f"{root}/two", "w").write("whole")
    first.close()
    del holder
    gc.collect()
    assert below.find(root) == []
    fs.transaction.complete(commit)
    names = ("detached", "file", "held", "text", "two")
    assert contents(below, root) == {f"{root}/{name}": b"whole" for name in names if commit}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("commit", [True, False])
def test_an_interrupted_end_of_a_transaction_publishes_no_part_of_a_file(
    fs: PageCacheFileSystem, below: Any, root: str, *, commit: bool
) -> None:
    """Ctrl-C at each place of it, and then the files are closed. An end that discards publishes nothing. It ends, so
    that a later file is stored, unless Ctrl-C strikes before the first line of it.
    """
    path, later = f"{root}/file", f"{root}/later"

    def within(frame: FrameType) -> bool:
        return frame.f_code.co_filename == transaction.__file__

    def end() -> None:
        with contextlib.nullcontext() if commit else pytest.raises(OverflowError), fs.transaction:
            file.append(fs.open(path, "w"))
            file[0].write("whole")
            if not commit:
                raise OverflowError

    for nth in itertools.count(1):
        below.pipe_file(path, b"old")
        file: list[Any] = []
        place = interrupted_at(nth, end, within)
        with contextlib.suppress(ValueError):
            for one in file:
                one.close()
        assert below.cat_file(path) in ((b"old", b"whole") if commit else (b"old",)), place
        if place.endswith("in Deferral.__exit__, call"):
            fs.transaction.complete(commit=False)
        assert not fs._intrans, place
        fs.pipe_file(later, b"%d" % nth)
        assert below.cat_file(later) == b"%d" % nth, place
        if not place:
            break
    assert nth > 5
    assert below.cat_file(path) == (b"whole" if commit else b"old")


@pytest.mark.parametrize("held", [True, False])
def test_all_bytes_of_many_files_that_are_dropped_in_a_transaction_are_stored(
    fs: PageCacheFileSystem, below: Any, root: str, *, held: bool
) -> None:
    """Also those of files that are in a cycle with the frame that has opened them."""

    def save(path: str) -> None:
        file = fs.open(path, "wt", compression="gzip")
        file.write("whole")
        cycle: list[Any] = [file]
        if held:
            cycle.append(cycle)

    paths = [f"{root}/{number}" for number in range(20)]
    with fs.transaction:
        for path in paths:
            save(path)
        gc.collect()
    for path in paths:
        with below.open(path, "rb", compression="gzip") as stored:
            assert stored.read() == b"whole"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_published_of_a_file_that_was_collected_unclosed_after_the_end(
    fs: PageCacheFileSystem, below: Any, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    fs.start_transaction()
    file = fs.open(f"{root}/file", "wb")
    file.write(b"half")
    Task(fs.end_transaction).result()
    del file
    gc.collect()
    assert below.find(root) == []
    assert "dropped unclosed after the end of its transaction" in caplog.text


def test_a_file_of_its_own_end_joins_no_later_transaction(fs: PageCacheFileSystem, below: Any, root: str) -> None:
    file = fs.open(f"{root}/file", "wb", autocommit=False)
    file.write(b"whole")
    with fs.transaction:
        file.close()
    assert below.find(root) == []
    file.commit()
    assert below.cat_file(f"{root}/file") == b"whole"
