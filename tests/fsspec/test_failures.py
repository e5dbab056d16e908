"""Failures: exceptions in a `with`, bad input, targets that fail; no partial file is published, and none is lost."""

from __future__ import annotations

import errno
import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pagecache
from pagecache.fsspec import PageCacheFile, PageCacheFileSystem
from pagecache.volume import lifetimes

from ..file.rig import Crowd, Task, at_gate, eventually, held, raises, run_program
from .conftest import Make
from .targets import OwnMemory

OLD = b"the old object, whole"
Open = Callable[..., Any]


class BodyError(Exception):
    pass


def by_fs(fs: PageCacheFileSystem, path: str, mode: str, **how: Any) -> Any:
    return fs.open(path, mode, **how)


def by_fsspec(fs: PageCacheFileSystem, path: str, mode: str, **how: Any) -> Any:
    return fsspec.open(fs.unstrip_protocol(path), mode, pagecache={"capacity": "4MiB"}, **how)


def raise_after(opened: Any, *, text: bool) -> None:
    with opened as file:
        file.write("half" if text else b"half")
        raise BodyError


@pytest.mark.parametrize("open_by", [by_fs, by_fsspec])
@pytest.mark.parametrize(
    ("mode", "compression"), [("wb", None), ("wt", None), ("wb", "gzip"), ("wt", "gzip"), ("r+b", None), ("ab", None)]
)
def test_an_exception_in_the_body_publishes_no_half_object(
    make: Make, open_by: Open, mode: str, compression: str | None
) -> None:
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.pipe_file("/file", OLD)
    for path in ["/file"] if mode == "r+b" else ["/file", "/new"]:
        raises(BodyError, raise_after, open_by(fs, path, mode, compression=compression), text=mode == "wt")
    fs.sync()
    assert below.cat_file("/file") == fs.cat_file("/file") == OLD
    assert not below.exists("/new")
    assert not fs.exists("/new")


@pytest.mark.parametrize("open_by", [by_fs, by_fsspec])
@pytest.mark.parametrize(
    ("mode", "left"), [("r+b", b"half" + OLD[4:]), ("wb", b"half"), ("wt", b"half"), ("ab", OLD + b"half")]
)
def test_an_exception_while_a_file_is_changed_in_place_keeps_what_was_written(
    make: Make, tmp_path: Path, open_by: Open, mode: str, left: bytes
) -> None:
    """This is the behaviour of `open()`."""
    fs = make("file")
    (tmp_path / "file").write_bytes(OLD)
    raises(BodyError, raise_after, open_by(fs, f"{tmp_path}/file", mode), text=mode == "wt")
    assert (tmp_path / "file").read_bytes() == left


def test_a_file_written_in_an_except_clause_is_published(make: Make) -> None:
    """The exception that is handled there did not leave the body of this `with`."""
    fs, below = make("memory"), fsspec.filesystem("memory")
    try:
        raise BodyError
    except BodyError:
        for number, open_by in enumerate((by_fs, by_fsspec)):
            with open_by(fs, f"/file{number}", "wb") as file:
                file.write(b"whole")
        fs.open("/file2", "wb").close()
    assert [below.cat_file(f"/file{number}") for number in range(3)] == [b"whole", b"whole", b""]


def test_only_the_file_whose_body_raised_is_given_up(make: Make) -> None:
    """Another one that is closed on the way out is published."""
    fs, below = make("memory"), fsspec.filesystem("memory")

    class Closer(io.RawIOBase):
        def close(self) -> None:
            other.close()
            super().close()

    other = fs.open("/other", "wb")
    other.write(b"whole")
    opened = by_fsspec(fs, "/file", "wb")
    with pytest.raises(BodyError), opened as file:
        opened.fobjects.append(Closer())
        file.write(b"half")
        raise BodyError
    assert below.cat_file("/other") == b"whole"
    assert not below.exists("/file")


def test_an_exception_publishes_none_of_many_files(make: Make) -> None:
    fs, below = make("memory"), fsspec.filesystem("memory")
    urls = ["pagecache::memory:///one", "pagecache::memory:///two"]
    with pytest.raises(BodyError), fsspec.open_files(urls, "wb", capacity="4MiB") as files:
        for file in files:
            file.write(b"half")
        raise BodyError
    assert fs.find("/") == below.find("/") == []


def test_another_writer_of_the_object_publishes_the_bytes_of_both(make: Make) -> None:
    """That writer may also give it up."""
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.pipe_file("/file", OLD)
    for end, expected in (("discard", OLD), ("close", b"half" + OLD[4:-4] + b"more")):
        other = fs.open("/file", "r+b")
        other.seek(-4, 2)
        other.write(b"more")
        raises(BodyError, raise_after, fs.open("/file", "r+b"), text=False)
        assert below.cat_file("/file") == OLD
        getattr(other, end)()
        assert below.cat_file("/file") == fs.cat_file("/file") == expected


def test_errors_of_write_back_surface_at_close_and_at_sync(make: Make) -> None:
    below = OwnMemory()
    fs = make(fs=below)
    file = fs.open("/file", "wb")
    file.write(b"kept")
    below.full = True
    assert raises(pagecache.WritebackError, file.sync).errno == errno.ENOSPC
    raises(pagecache.WritebackError, file.close)
    assert file.closed
    assert fs.cat_file("/file") == b"kept", "nothing is lost"
    raises(pagecache.WritebackError, fs.sync)
    raises(pagecache.UnsavedDataError, fs.close)
    below.full = False
    fs.sync()
    assert below.cat_file("/file") == b"kept"


def test_a_target_that_fails_in_mid_read_is_an_error_and_no_short_answer(make: Make) -> None:
    below = OwnMemory()
    fs = make(fs=below, read_ahead=0, retry=pagecache.RetryPolicy(attempts=1))
    content = bytes(range(256)) * 1024
    below.pipe_file("/file", content)
    with fs.open("/file") as file:
        assert file.read(4096) == content[:4096]
        below.fail_reads_after = len(below.reads)
        raises(OSError, file.read, 8192, match="the target broke")
        raises(OSError, file.read, match="the target broke")
        assert isinstance(fs.cat_ranges(["/file"], [200_000], [200_010])[0], OSError)
        raises(OSError, fs.cat_ranges, ["/file"], [200_000], [200_010], on_error="raise", match="the target broke")
        below.fail_reads_after = None
        assert file.read() == content[4096:], "the position is where the last good read left it"


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "mode", ["", "b", "t", "rb+x", "rw", "r++", "rbt", "rbb", "U", "+", "z", "wab", "read", "R", "rt+x"]
)
def test_a_bad_mode_is_named_with_the_rule(fs: PageCacheFileSystem, root: str, mode: str) -> None:
    assert repr(mode) in str(
        raises(ValueError, fs.open, f"{root}/file", mode, match=r"is not one of r, r.*, w, .* with 'b'")
    )
    assert not fs.exists(f"{root}/file")


@pytest.mark.parametrize("mode", ["q", "qb", "qt"])
def test_a_bad_mode_is_named_without_the_letter_that_fsspec_adds(fs: PageCacheFileSystem, root: str, mode: str) -> None:
    raises(
        ValueError,
        fsspec.open(fs.unstrip_protocol(f"{root}/file"), mode, pagecache={"capacity": "4MiB"}).open,
        match=r"^mode 'q' .* is not one of r, r\+",
    )


def test_bad_arguments_are_named_with_the_rule(fs: Any, root: str) -> None:
    path = f"{root}/file"
    fs.pipe_file(path, b"content")
    raises(TypeError, fs.open, path, 3, match="mode must be a str, not int")
    raises(
        TypeError, fs.open, path, writethrough=True, match="open: has no option 'writethrough'; it has write_through"
    )
    raises(ValueError, fs.open, path, compression="squeeze", match="Compression type squeeze not supported")
    raises(LookupError, fs.open, path, "r+", encoding="klingon", match="unknown encoding: klingon")
    raises(ValueError, fs.open, path, read_ahead=-5, match="read_ahead: -5")
    with fs.open(path, "r+b") as file:
        for offset, whence in ((-1, 0), (-8, 2), (-1, 1)):
            raises(ValueError, file.seek, offset, whence, match=r"negative|-1|less than")
        raises(ValueError, file.seek, 0, 9, match="whence")
        raises(TypeError, file.write, "text")
        assert file.tell() == 0
    with fs.transaction, fs.open(path, "r+b") as file, pytest.raises(ValueError, match="offset -1 is negative"):
        file.seek(-1)
    raises(TypeError, fs.cat_ranges, path, 0, 1, match="paths must be a list, not str")
    raises(ValueError, fs.cat_ranges, [path], [0, 1], [1], match="1 paths, 2 starts, 1 ends: not as many of each")
    raises(ValueError, fs.cat_ranges, [path], 0, 1, on_error="omit", match="on_error 'omit' is not one of")
    for bad in (root, f"{root}/"):
        raises((IsADirectoryError, FileNotFoundError), fs.open, bad)


def test_a_target_is_named_once_and_right(make: Make) -> None:
    memory = fsspec.filesystem("memory")
    raises(ValueError, make, match=r"no target: give fs=..., or target_protocol=.*pagecache::s3://bucket/key")
    raises(ValueError, fsspec.open, "pagecache://bucket/key", match="no target")
    raises(ValueError, make, "nope", match="target_protocol: 'nope' is not a protocol that fsspec knows")
    raises(
        ValueError, make, "file", fs=memory, match="given beside target_protocol 'file'; only one can name the target"
    )
    raises(TypeError, make, fs="memory", match="fs: 'memory' is not an fsspec file system")
    raises(TypeError, make, "memory", dirty_limits=1, match="has no option 'dirty_limits'; did you mean 'dirty_limit'")
    raises(
        TypeError,
        make,
        "memory",
        foo=1,
        match=r"has no option 'foo'; did you mean one of .*capacity, .*target_protocol",
    )
    raises(
        ValueError,
        make,
        "memory",
        capacity="8MiB",
        dirty_limit="1GiB",
        match="dirty_limit: 1073741824 is more than the capacity",
    )
    raises(ValueError, make, "memory", capacity="1KiB", match="capacity: '1KiB' is less than 16 pages")
    raises(ValueError, make, "memory", on_conflict="sometimes", match="on_conflict: 'sometimes' is not one of")


def test_a_target_that_cannot_be_written_says_so_at_open(make: Make, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("folder/file", OLD)
    fs, path = make("zip", {"fo": str(tmp_path / "archive.zip")}), "folder/file"
    for mode in ("wb", "w", "r+b", "ab", "xb", "w+"):
        raises(PermissionError, fs.open, path, mode, match=r"read-only.*zip")
    with fs.transaction, pytest.raises(PermissionError, match=r"read-only.*zip"):
        fs.open(path, "wb")
    for change in (
        lambda: fs.pipe_file("new", b"x"),
        lambda: fs.rm(path),
        lambda: fs.mv(path, "other"),
        lambda: fs.cp_file(path, "other"),
        lambda: fs.touch(path),
    ):
        raises(PermissionError, change, match=r"read-only.*zip")
    assert fs.cat_file(path) == OLD
    assert fs.find("") == [path]
    mine = make("memory", read_only=True)
    raises(PermissionError, mine.open, "/file", "wb", match="read-only")


def test_an_asynchronous_target_is_refused(make: Make) -> None:
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    wrapped = AsyncFileSystemWrapper(fsspec.filesystem("memory"), asynchronous=True)
    raises(ValueError, make, fs=wrapped, match="was made with asynchronous=True")


def test_without_fsspec_the_import_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys, pagecache; assert 'fsspec' not in sys.modules; sys.modules['fsspec'] = None\n"
        "try:\n    import pagecache.fsspec\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done, needs = run_program(tmp_path, code), "pagecache.fsspec needs fsspec 2025.10 or newer: "
    assert done.stdout.strip() == f"{needs}run pip install '.[fsspec]' in a checkout of libpagecache", done.stderr


def test_errors_name_a_file_by_the_path_that_was_given(fs: PageCacheFileSystem, root: str) -> None:
    """They do not use the volume's name for it, which has no slash in front."""
    fs.pipe_file(f"{root}/there", b"1")
    calls: list[tuple[type[OSError], str, Callable[[str], object]]] = [
        (FileNotFoundError, "none", fs.open),
        (FileNotFoundError, "none", fs.cat_file),
        (FileNotFoundError, "none", fs.rm_file),
        (FileExistsError, "there", lambda path: fs.open(path, "xb")),
    ]
    for kind, name, call in calls:
        assert raises(kind, call, f"{root}/{name}").filename == f"{root}/{name}"
    with fs.open(f"{root}/there") as file:
        assert file.name == f"{root}/there"
        assert repr(f"{root}/there") in repr(file)


class Blind(OwnMemory):
    """Memory of which the next looks fail."""

    fails = 0

    def info(self, path: str, **options: Any) -> Any:
        if self.fails:
            self.fails -= 1
            raise OSError(errno.ETIMEDOUT, "timed out", path)
        return super().info(path, **options)


@pytest.mark.parametrize("fails", [0, 1])
@pytest.mark.parametrize("how", ["touch", "pipe", "put"])
def test_an_object_that_must_be_new_replaces_none(make: Make, tmp_path: Path, how: str, fails: int) -> None:
    """This holds also after a look that failed: it has found nothing missing."""
    below = Blind()
    fs = make(fs=below)
    below.pipe_file("/file", OLD)
    (tmp_path / "new").write_bytes(b"new")
    below.fails = fails
    if how == "touch":
        raises((OSError, NotImplementedError), fs.touch, "/file", truncate=False)
        fs.touch("/new", truncate=False)
    elif how == "pipe":
        raises(OSError, fs.pipe_file, "/file", b"new", mode="create")
        fs.pipe_file("/new", b"new", mode="create")
    else:
        raises(OSError, fs.put_file, f"{tmp_path}/new", "/file", mode="create")
        fs.put_file(f"{tmp_path}/new", "/new", mode="create")
        raises(FileExistsError, fs.put_file, f"{tmp_path}", "/", mode="create")
    assert below.cat_file("/file") == OLD
    assert below.cat_file("/new") == (b"" if how == "touch" else b"new")


def test_a_text_file_that_is_dropped_behind_a_failed_open_is_stored_whole(fs: PageCacheFileSystem, root: str) -> None:
    """The error keeps the frame no longer than the program does: a collection would close the lower file first."""

    def save() -> None:
        with pytest.raises(FileNotFoundError):
            fs.open(f"{root}/absent", "rb")
        text = fs.open(f"{root}/new", "w")
        text.write("whole")

    save()
    assert fs.cat_file(f"{root}/new") == b"whole"


@pytest.mark.parametrize(("mode", "compression"), [("wb", None), ("wt", None), ("wb", "gzip")])
def test_the_second_close_of_a_file_waits_for_the_first(
    make: Make, monkeypatch: pytest.MonkeyPatch, mode: str, compression: str | None
) -> None:
    """Two threads close it: for both it is stored then."""
    fs, below = make("memory"), fsspec.filesystem("memory")
    file = fs.open("/file", mode, compression=compression)
    file.write("text" if mode == "wt" else b"bytes")
    gate, first = at_gate(held(monkeypatch, lifetimes, "close_handle"), file.close)
    second = Task(file.close)
    waits = fs.volume.cache.waits
    eventually(lambda: second.finished.is_set() or any(wait.what == "a close" for wait in waits()))
    assert not second.finished.is_set()
    first.result(opening=gate)
    second.result()
    assert below.size("/file")


@pytest.mark.parametrize(("mode", "compression"), [("wt", None), ("wb", "gzip"), ("wt", "gzip"), ("wb", "xz")])
def test_a_close_beside_one_that_writes_the_end_publishes_no_part(
    make: Make, monkeypatch: pytest.MonkeyPatch, mode: str, compression: str | None
) -> None:
    """The first may wait for room with the last bytes of a text or a compressor."""
    fs, text = make("memory"), mode == "wt"
    file = fs.open("/file", mode, compression=compression)
    crowd = Crowd(threading.RLock())
    monkeypatch.setattr(file, "_lock", crowd, raising=False)
    file.write("text" if text else b"text")
    gate, first = at_gate(held(monkeypatch, PageCacheFile, "write"), file.close)
    second = Task(file.close)
    eventually(lambda: second.finished.is_set() or crowd.came._value == 2)
    assert not second.finished.is_set()
    first.result(opening=gate)
    second.result()
    with fsspec.filesystem("memory").open("/file", "rb", compression=compression) as stored:
        assert stored.read() == b"text"


@pytest.mark.parametrize("error", [BlockingIOError, KeyboardInterrupt])
@pytest.mark.parametrize("compression", [None, "gzip", "xz"])
def test_a_close_that_cannot_write_the_end_publishes_no_part(
    make: Make, monkeypatch: pytest.MonkeyPatch, compression: str | None, error: type[BaseException]
) -> None:
    """A text or a compressor has bytes that are written by the close; there may be no room, or a Ctrl-C."""
    fs, below = make("memory"), fsspec.filesystem("memory")
    below.pipe_file("/file", OLD)

    def refused(*_: Any) -> int:
        raise error

    with pytest.raises(error), fs.open("/file", "wt", compression=compression) as file:
        file.write("x" * 100_000)
        monkeypatch.setattr(PageCacheFile, "write", refused)
        file.write("tail")
    monkeypatch.undo()
    fs.sync()
    assert below.cat_file("/file") == OLD
