"""Calls about names: the answer of each for each kind of thing, renames of all over all, odd names, listings."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from .calls import LIBC, Recorder, check, libc, opened

AT_FDCWD = -100


def rename(one: Path, other: Path, flags: int) -> None:
    libc("renameat2", AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), flags)


KINDS = ("none", "file", "other link", "link", "dangling", "empty", "full")
RENAMED = (*KINDS, "fifo")


def make(path: Path, kind: str, name: str) -> None:
    if kind == "file":
        path.write_text(name)
    elif kind == "other link":
        path.with_name(f"{name}-one").write_text(name)
        os.link(path.with_name(f"{name}-one"), path)
    elif kind == "link":
        path.with_name(f"{name}-end").write_text(name)
        path.symlink_to(f"{name}-end")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("empty", "full"):
        path.mkdir()
        if kind == "full":
            (path / name).write_text(name)


def look(path: Path) -> object:
    """The entry, and everything below it."""
    try:
        found = path.lstat()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    if stat.S_ISDIR(found.st_mode):
        return {name: look(path / name) for name in sorted(os.listdir(path))}
    if stat.S_ISLNK(found.st_mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISFIFO(found.st_mode):
        return oct(found.st_mode), found.st_nlink
    return (path.read_bytes(), found.st_nlink)


def each_pair(top: Path, record: Recorder, call: Callable[[Path, Path], None]) -> None:
    """Rename every kind of thing over every other."""
    for one in RENAMED:
        for other in RENAMED:
            folder = top / f"{one}-{other}"
            folder.mkdir()
            make(folder / "a", one, "one")
            make(folder / "b", other, "other")
            record(f"{one}, {other}", lambda: call(folder / "a", folder / "b"))
            record(f"{one}, {other}: then", lambda: look(folder))


@check
def renames(top: Path, record: Recorder) -> None:
    each_pair(top, record, os.rename)


@check
def renames_that_replace_nothing(top: Path, record: Recorder) -> None:
    each_pair(top, record, lambda one, other: rename(one, other, 1))


@check
def hard_links(top: Path, record: Recorder) -> None:
    each_pair(top, record, os.link)


@check
def odd_renames(top: Path, record: Recorder) -> None:
    """Rename to itself, into itself, of one object by two names, into a non-directory."""
    (top / "d" / "e").mkdir(parents=True)
    (top / "a").write_text("a")
    os.link(top / "a", top / "b")
    record("to itself", lambda: os.rename(top / "a", top / "a"))
    record("two names of one", lambda: os.rename(top / "a", top / "b"))
    record("into itself", lambda: os.rename(top / "d", top / "d" / "e" / "f"))
    record("over one above", lambda: os.rename(top / "d" / "e", top / "d"))
    record("below a file", lambda: os.rename(top / "b", top / "a" / "c"))
    record("no such directory", lambda: os.rename(top / "b", top / "no" / "c"))
    record("with a slash, of a file", lambda: os.rename(f"{top}/a/", top / "c"))
    record("with a slash, to a name for a file", lambda: os.rename(top / "a", f"{top}/c/"))
    record("with a slash, of a directory", lambda: os.rename(f"{top}/d/", f"{top}/g/"))
    record("of .", lambda: os.rename(f"{top}/g/.", top / "h"))
    record("two flags", lambda: rename(top / "a", top / "b", 3))
    record("then", lambda: look(top))


@check
def names_that_are_there(top: Path, record: Recorder) -> None:
    """Make each call on each kind of thing."""
    for kind in KINDS:
        folder = top / kind
        folder.mkdir()
        calls: dict[str, Callable[[Path], object]] = {
            "mkdir": os.mkdir,
            "exclusive": lambda path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR),
            "create": lambda path: os.open(path, os.O_CREAT | os.O_RDWR),
            "read": lambda path: os.open(path, os.O_RDONLY),
            "write": lambda path: os.open(path, os.O_WRONLY),
            "cut": lambda path: os.open(path, os.O_WRONLY | os.O_TRUNC),
            "directory": lambda path: os.open(path, os.O_RDONLY | os.O_DIRECTORY),
            "no follow": lambda path: os.open(path, os.O_RDONLY | os.O_NOFOLLOW),
            "create, no follow": lambda path: os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW),
            "directory to create": lambda path: os.open(path, os.O_CREAT | os.O_DIRECTORY),
            "symlink": lambda path: os.symlink("x", path),
            "mknod": lambda path: os.mknod(path, 0o600 | stat.S_IFREG),
            "truncate": lambda path: os.truncate(path, 3),
            "readlink": os.readlink,
            "listdir": lambda path: os.listdir(path) and None,
            "rmdir": os.rmdir,
            "unlink": os.unlink,
            "with a slash": lambda path: os.lstat(f"{path}/") and None,
            "below it": lambda path: os.lstat(path / "below") and None,
        }
        for name, call in calls.items():
            path = folder / name.replace(" ", "-")
            make(path, kind, f"{path.name}-of")
            record.nothing(f"{kind}: {name}", lambda: call(path))
        record(f"{kind}: then", lambda: look(folder))


@check
def lengths_and_bytes_of_names(top: Path, record: Recorder) -> None:
    before = os.getcwd()
    os.chdir(top)
    try:
        for name in (b"x" * 255, b"x" * 256, "ü".encode() * 127, "ü".encode() * 128):
            record.nothing(f"create {len(name)}", lambda: os.open(name, os.O_CREAT | os.O_RDWR))
            record(f"mkdir {len(name)}", lambda: os.mkdir(name + b""))
            record(f"stat {len(name)}", lambda: os.lstat(name) and None)
            record(f"rename {len(name)}", lambda: os.rename(name, name[:-1] + b"y"))
            record(f"link {len(name)}", lambda: os.link(name[:-1] + b"y", name))
            record(f"unlink {len(name)}", lambda: os.unlink(name))
            record(f"symlink {len(name)}", lambda: os.symlink("a", name))
        for odd in (b"\xff\xfe", b" ", b"\n", b"a\\b", b"*?", b"\x01", b"-", b"...", b".x", b"a:b", b"%41", b"#x"):
            record.nothing(f"create {odd!r}", lambda: os.open(odd, os.O_CREAT | os.O_RDWR))
        record("empty", lambda: os.mkdir(""))
        record("listed", lambda: sorted(name for name in os.listdir(b".")))
        record("a long target", lambda: os.symlink("t" * 4095, "long"))
        record("a longer target", lambda: os.symlink("t" * 4096, "longer"))
        record("its length", lambda: len(os.readlink("long")))
        record("size of a link", lambda: os.lstat("long").st_size)
        os.symlink("loop2", "loop1")
        os.symlink("loop1", "loop2")
        record.nothing("loop", lambda: os.open("loop1", os.O_RDONLY))
        record("stat of a loop", lambda: os.stat("loop1") and None)
        record("unlink of a loop", lambda: os.unlink("loop1"))
        os.mkdir("d")
        for path in ("d/.", "d/..", ".", ".."):
            record(f"rmdir {path}", lambda: os.rmdir(path))
            record(f"unlink {path}", lambda: os.unlink(path))
            record(f"mkdir {path}", lambda: os.mkdir(path))
    finally:
        os.chdir(before)


@check
def numbers_of_links(top: Path, record: Recorder) -> None:
    def links(name: str) -> int:
        return (top / name).lstat().st_nlink

    (top / "d").mkdir()
    record("empty", lambda: links("d"))
    (top / "d" / "e").mkdir()
    (top / "d" / "f").mkdir()
    record("two below", lambda: links("d"))
    (top / "d" / "a").touch()
    record("a file too", lambda: links("d"))
    os.rename(top / "d" / "f", top / "f")
    record("one away", lambda: links("d"))
    record("above it", lambda: links("."))
    os.rmdir(top / "d" / "e")
    record("none", lambda: links("d"))
    with opened(top / "a") as fd:
        record("one name", lambda: os.fstat(fd).st_nlink)
        os.link(top / "a", top / "b")
        record("two", lambda: (os.fstat(fd).st_nlink, links("b")))
        os.unlink(top / "a")
        record("one", lambda: (os.fstat(fd).st_nlink, links("b")))
        os.unlink(top / "b")
        record("no name", lambda: os.fstat(fd).st_nlink)
        record("cut without a name", lambda: (os.ftruncate(fd, 10), os.fstat(fd).st_size))
        record("mode without a name", lambda: (os.fchmod(fd, 0o600), oct(os.fstat(fd).st_mode)))
        record("link of what has no name", lambda: os.link(f"/proc/self/fd/{fd}", top / "c", follow_symlinks=True))
    with opened(top / "x") as fd, opened(top / "y") as other:
        os.rename(top / "x", top / "y")
        record("replaced", lambda: (os.fstat(fd).st_nlink, os.fstat(other).st_nlink))


@check
def listings(top: Path, record: Recorder) -> None:
    """Each name is listed once, with its kind, even if names come and go during the listing."""
    for number in range(60):
        (top / f"f{number}").touch()
    (top / "d").mkdir()
    (top / "l").symlink_to("d")
    record("all", lambda: len(os.listdir(top)))
    with os.scandir(top) as entries:
        kinds = {entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries}
    record("kinds", lambda: (kinds["d"], kinds["l"], kinds["f7"]))
    with os.scandir(top) as entries:
        numbers = {entry.name: entry.inode() for entry in entries}
    record("numbers", lambda: all((top / name).lstat().st_ino == number for name, number in numbers.items()))
    with os.scandir(top) as entries:
        seen = [next(entries).name]
        for number in range(0, 60, 2):
            if f"f{number}" not in seen:
                os.unlink(top / f"f{number}")
        (top / "new").touch()
        seen += [entry.name for entry in entries]
    record("none twice", lambda: len(seen) == len(set(seen)))
    record("those that stayed", lambda: {f"f{number}" for number in range(1, 60, 2)} <= set(seen))
    record("afterwards", lambda: len(os.listdir(top)) == 30 + 3 + (seen[0] in {f"f{n}" for n in range(0, 60, 2)}))
    with opened(top, os.O_RDONLY | os.O_DIRECTORY) as fd:
        record("by descriptor", lambda: len(os.listdir(fd)) == len(os.listdir(fd)))
        (top / "newer").touch()
        record("rewound", lambda: "newer" in os.listdir(fd))
    for name in os.listdir(top):
        (top / name).rmdir() if name == "d" else (top / name).unlink()
    record("empty", lambda: os.listdir(top))


@check
def places_in_listings(top: Path, record: Recorder) -> None:
    """telldir and seekdir."""
    for number in range(80):
        (top / f"f{number}").touch()
    for name in ("opendir", "readdir"):
        getattr(LIBC, name).restype = ctypes.c_void_p
    LIBC.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(LIBC.opendir(os.fsencode(top)))

    def read() -> bytes | None:
        entry = LIBC.readdir(stream)
        return None if entry is None else ctypes.string_at(entry + 19)

    places, names = [], []
    while True:
        place = LIBC.telldir(stream)
        found = read()
        if found is None:
            break
        places.append(place)
        names.append(found)
    record("all", lambda: len(names))
    record("places differ", lambda: len(set(places)) == len(places))
    for at in (70, 3, 37):
        LIBC.seekdir(stream, ctypes.c_long(places[at]))
        record(f"back at {at}", lambda: read() == names[at])
    LIBC.rewinddir(stream)
    record("rewound", lambda: read() == names[0])
    LIBC.closedir(stream)


@check
def removed_directories(top: Path, record: Recorder) -> None:
    """A removed directory that is still open."""
    (top / "d").mkdir()
    with opened(top / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(top / "d")
        record("listed", lambda: os.listdir(fd))
        record("links", lambda: os.fstat(fd).st_nlink)
        record.nothing("create in it", lambda: os.open("a", os.O_CREAT | os.O_RDWR, dir_fd=fd))
        record("mkdir in it", lambda: os.mkdir("b", dir_fd=fd))
        record("rename into it", lambda: ((top / "x").touch(), os.rename(top / "x", "x", dst_dir_fd=fd)))
        record("above it", lambda: os.stat("..", dir_fd=fd).st_ino == top.stat().st_ino)
