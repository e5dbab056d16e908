"""Modes: a file of the cache acts as one of `open()`, above every target; and the table of the page is true."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pagecache.fsspec import PageCacheFileSystem

from .conftest import Make

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "fsspec.md"
MODES = ["r", "r+", "w", "w+", "x", "x+", "a", "a+"]
OLD = b"what was there before"


def outcome(open_it: Callable[[], Any]) -> list[Any]:
    """The results of a file's calls, as values and names of exceptions."""
    found: list[Any] = []

    def attempt(call: Callable[[], Any]) -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(type(error))

    try:
        file = open_it()
    except OSError as error:
        return [type(error)]
    with file:
        found += [file.readable(), file.writable(), file.seekable(), file.tell()]
        attempt(lambda: file.read(4))
        attempt(lambda: file.write(b"NEW"))
        attempt(file.tell)
        attempt(lambda: file.seek(2))
        attempt(lambda: file.write(b"++"))
        attempt(lambda: file.seek(-1, 2))
        attempt(lambda: file.truncate(12))
        attempt(lambda: file.seek(0))
        attempt(lambda: file.read())
        space = bytearray(5)
        file.seek(1)
        attempt(lambda: (file.readinto(space), bytes(space)))
    file.close()
    attempt(lambda: file.read())
    return found


@pytest.mark.parametrize("deferred", [False, True], ids=["", "in a transaction"])
@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
@pytest.mark.parametrize("mode", MODES)
def test_a_file_does_what_open_does(
    fs: Any, below: Any, root: str, tmp_path_factory: pytest.TempPathFactory, mode: str, there: bool, deferred: bool
) -> None:
    example, path = tmp_path_factory.mktemp("example") / "file", f"{root}/file"
    if there:
        example.write_bytes(OLD)
        below.pipe_file(path, OLD)
    expected = outcome(lambda: example.open(mode + "b", buffering=0))
    with fs.transaction if deferred else nullcontext():
        assert outcome(lambda: fs.open(path, mode + "b")) == expected
    assert below.exists(path) == example.exists()
    if example.exists():
        assert below.cat_file(path) == fs.cat_file(path) == example.read_bytes()


@pytest.mark.parametrize("mode", ["rt", "r", "r+", "wt", "w+", "x", "at", "a+"])
def test_text_is_what_open_makes_of_it(fs: PageCacheFileSystem, root: str, tmp_path: Path, mode: str) -> None:
    example, path = tmp_path / "example", f"{root}/file"
    if mode[0] != "x":
        example.write_text("ä\nzwei\n", encoding="utf-8")
        with fs.open(path, "w", encoding="utf-8") as file:
            file.write("ä\nzwei\n")

    def lines(file: Any) -> list[str]:
        with file:
            if mode[0] == "r":
                return [*file, str(file.seek(0)), file.readline()]
            file.write("drei\n")
            return [file.encoding]

    assert lines(fs.open(path, mode, encoding="utf-8")) == lines(example.open(mode, encoding="utf-8"))
    assert fs.cat_file(path) == example.read_bytes()


def test_text_through_fsspec_open(root: str, protocol: str, make: Any) -> None:
    fs = make(protocol)
    with fsspec.open(f"pagecache::{protocol}://{root}/file", "wt", pagecache={"capacity": "4MiB"}) as file:
        file.write("one\r\ntwo\n")
    with fsspec.open(f"pagecache::{protocol}://{root}/file", "rt", newline="", pagecache={"capacity": "4MiB"}) as file:
        assert list(file) == ["one\r\n", "two\n"]
    assert fs.cat_file(f"{root}/file") == b"one\r\ntwo\n"


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz"])
def test_compressed_files_are_whole_when_they_are_closed(
    fs: PageCacheFileSystem, below: Any, root: str, compression: str
) -> None:
    """fsspec's compressing files leave the file below open."""
    path = f"{root}/file"
    with fs.open(path, "wb", compression=compression) as file:
        file.write(b"a" * 100_000)
    with fs.open(path, "w", compression=compression) as text:
        text.write("ä" * 10)
    with below.open(path, "rb", compression=compression) as file:
        assert file.read().decode() == "ä" * 10
    with fs.open(path, compression=compression) as file:
        assert file.read(2) == "ä".encode()
        file.seek(0)
        assert file.read1(4) == "ää".encode()
    assert file.closed


def test_files_are_handles_of_the_cache(fs: PageCacheFileSystem, root: str) -> None:
    """Views are memory of the cache; nothing is between its user and the cache."""
    fs.pipe_file(f"{root}/file", b"hello")
    with fs.open(f"{root}/file", "r+b") as file:
        with file.view(0, 5, writable=True) as view:
            view.segments[0][:1] = b"J"
        file.pwrite(b"y", 4)
        assert file.pread(5, 0) == b"Jelly"
        file.sync()
        assert fs.cat_file(f"{root}/file") == b"Jelly"


# ---------------------------------------------------------------------------------------------- the table


def seen(fs: Any, below: Any, path: str, mode: str, end: Callable[[], None] = lambda: None) -> str:
    """When readers past the cache see the written bytes."""
    try:
        file = fs.open(path, mode)
    except (PermissionError, io.UnsupportedOperation) as error:
        return type(error).__name__
    with file:
        if mode == "rb":
            return "yes" if file.read(3) == OLD[:3] else "no"
        file.write(b"NEW")
        file.flush()
        moments = [("in place", lambda: None), ("at close", file.close), ("at the end", end)]
        for moment, happens in moments:
            happens()
            if below.exists(path) and b"NEW" in below.cat_file(path):
                return moment
    return "never"


def table() -> dict[str, list[str]]:
    text = PAGE.read_text(encoding="utf-8").partition("<!-- modes -->")[2].partition("<!-- /modes -->")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return {mode: row[1:] for row in rows if not re.fullmatch(r"[-: ]+", row[0]) for mode in row[0].split("`, `")}


@pytest.mark.smoke("fsspec")
def test_the_table_of_modes_is_true(make: Make, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("file", OLD)
    page = table()
    assert page.pop("mode") == ["local files", "objects", "read-only", "in a transaction"]
    assert sorted(page) == sorted(f"{mode[0]}{mode[1:]}b" for mode in MODES)
    local, objects = fsspec.filesystem("file"), fsspec.filesystem("memory")
    sealed = make("zip", {"fo": str(tmp_path / "archive.zip")})
    for mode, cells in page.items():
        name = "new" if mode[0] == "x" else "file"
        paths = [f"{tmp_path}/{mode}", f"/one-{mode}", f"/two-{mode}"]
        if mode[0] != "x":
            for below, path in zip((local, objects, objects), paths, strict=True):
                below.pipe_file(path, OLD)
        fs = make("memory")
        found = [seen(make("file"), local, paths[0], mode), seen(fs, objects, paths[1], mode)]
        found.append(seen(sealed, None, name, mode))
        fs.start_transaction()
        found.append(seen(fs, objects, paths[2], mode, fs.end_transaction))
        if mode == "rb":
            fs.end_transaction()
        assert found == cells, mode
