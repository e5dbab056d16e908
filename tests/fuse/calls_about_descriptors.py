"""Calls by /proc/self/fd: of open files that have lost their name, or whose name another file has."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .calls import Recorder, check, opened

DATA = b"0123456789" * 1000


def again(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}")


LOSSES: dict[str, Callable[[Path], object]] = {
    "named": lambda path: None,
    "unlinked": lambda path: path.unlink(),
    "replaced": lambda path: (path.with_name("new").write_bytes(b"new"), path.with_name("new").rename(path)),
    "renamed": lambda path: path.rename(path.with_name("other")),
    "in a directory that is gone": lambda path: (path.unlink(), path.parent.rmdir()),
    "unlinked, and made anew": lambda path: (path.unlink(), path.write_bytes(b"anew")),
    "renamed over another": lambda path: (
        path.with_name("other").write_bytes(b""),
        path.rename(path.with_name("other")),
    ),
}


def read_all(path: Path) -> object:
    found = path.read_bytes()
    return len(found), found[:10], found[-10:]


def noted(record: Recorder, what: str, part: str, call: Callable[[], object]) -> None:
    record(f"{what}: {part}", call)


@check
def opens_of_open_files(top: Path, record: Recorder) -> None:
    for loss, lose in LOSSES.items():
        for way in (os.O_RDWR, os.O_RDONLY):
            what = f"{loss}, {'written' if way == os.O_RDWR else 'read'}"
            note = partial(noted, record, what)
            folder = top / what.replace(" ", "-")
            folder.mkdir()
            (folder / "a").write_bytes(DATA)
            with opened(folder / "a", way) as fd:
                if way == os.O_RDWR:
                    os.pwrite(fd, b"dirty", 100)
                note("lost", lambda: lose(folder / "a") and None)
                note("read", lambda: read_all(again(fd)))
                record.nothing(f"{what}: for reading", lambda: os.open(again(fd), os.O_RDONLY))
                with opened(again(fd), os.O_RDWR) as other:
                    note("the same", lambda: os.path.sameopenfile(fd, other))
                    note("one written", lambda: (os.pwrite(other, b"other", 0), os.pread(fd, 10, 0))[1])
                    note("size", lambda: (os.fstat(fd).st_size, os.fstat(other).st_size, os.fstat(fd).st_nlink))
                    note("fsync", lambda: os.fsync(other))
                note("after a close", lambda: os.pread(fd, 10, 0))
                with again(fd).open("ab") as appended:
                    note("appended", lambda: (appended.write(b"end"), appended.flush(), os.fstat(fd).st_size)[2])
                with again(fd).open("r+b") as file, mmap.mmap(file.fileno(), 100, mmap.MAP_PRIVATE) as mapping:
                    note("mapped", lambda: bytes(mapping[:10]))
                note("cut by its path", lambda: (os.truncate(again(fd), 50), os.fstat(fd).st_size)[1])
                note("extended by its path", lambda: (os.truncate(again(fd), 70), os.pread(fd, 30, 40))[1])
                note("chmod by its path", lambda: (os.chmod(again(fd), 0o640), oct(os.fstat(fd).st_mode))[1])
                note("utime by its path", lambda: (os.utime(again(fd), (5, 6)), os.fstat(fd).st_mtime)[1])
                note("stat by its path", lambda: again(fd).stat().st_size)
                note("exclusive", lambda: os.open(again(fd), os.O_CREAT | os.O_EXCL | os.O_RDWR))
                with opened(again(fd), os.O_RDWR | os.O_TRUNC) as other:
                    note("truncated", lambda: (os.fstat(fd).st_size, os.write(other, b"x"), os.pread(fd, 5, 0)))
            names = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.exists() else {}
            note("names then", lambda: names)


@check
def descriptors_of_directories(top: Path, record: Recorder) -> None:
    (top / "d").mkdir()
    with opened(top / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(top / "d")
        with opened(again(fd), os.O_RDONLY | os.O_DIRECTORY) as other:
            record("listed", lambda: os.listdir(other))
            record("links", lambda: os.fstat(other).st_nlink)
    with opened(top / "p", os.O_WRONLY | os.O_CREAT) as fd, opened(again(fd), os.O_PATH) as other:
        os.unlink(top / "p")
        record("a path's", lambda: os.fstat(other).st_nlink)
