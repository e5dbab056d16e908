"""Calls about attributes: modes, owners, times, extended attributes, and permissions of other users."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .calls import Recorder, check, libc

LONG_AGO = 1_000_000_000_123_456_789
CLOCK_REALTIME_COARSE = 5


def differences(one: os.stat_result, other: os.stat_result) -> str:
    """The times that differ."""
    fields = ("st_mtime_ns", "st_ctime_ns")
    return " ".join(field[3:8] for field in fields if getattr(one, field) != getattr(other, field))


def written(path: Path, mode: str, data: bytes = b"") -> None:
    with path.open(mode, buffering=0) as file:
        file.write(data)


@check
def times(top: Path, record: Recorder) -> None:
    """The times that each call moves: of the object, and of its directory."""

    def moved(what: str, call: Callable[[], object], of: str = "a") -> None:
        subject = top / "d" / of
        for path in (subject, top / "d"):
            os.utime(path, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
        before = [path.lstat() for path in (subject, top / "d")]
        # The clock of file systems moves in steps: calls within one step cannot be distinguished.
        while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= max(found.st_ctime_ns for found in before):
            pass
        record(what, lambda: call() and None)
        for name, one, path in zip(("object", "directory"), before, (subject, top / "d"), strict=True):
            if path.exists():
                record(f"{what}: {name}", lambda: differences(one, path.lstat()))

    (top / "d").mkdir()
    path = top / "d" / "a"
    path.write_bytes(b"x" * 5000)
    moved("write", lambda: written(path, "r+b", b"y"))
    moved("nothing written", lambda: written(path, "r+b", b""))
    moved("append", lambda: written(path, "ab", b"y"))
    moved("cut", lambda: os.truncate(path, 100))
    moved("extended", lambda: os.truncate(path, 10_000))
    moved("the same size", lambda: os.truncate(path, 10_000))
    moved("opened with O_TRUNC", lambda: written(path, "wb"))
    moved("opened with O_TRUNC, empty", lambda: written(path, "wb"))
    moved("chmod", lambda: path.chmod(0o600))
    moved("the same mode", lambda: path.chmod(0o600))
    moved("chown", lambda: os.chown(path, os.getuid(), os.getgid()))
    moved("link", lambda: os.link(path, top / "d" / "b"))
    moved("unlink of the other", lambda: os.unlink(top / "d" / "b"))
    moved("rename", lambda: (os.rename(path, top / "d" / "c"), os.rename(top / "d" / "c", path)))
    moved("a new name", lambda: (top / "d" / "n").touch())
    moved("mkdir", lambda: (top / "d" / "m").mkdir())
    moved("rmdir", lambda: (top / "d" / "m").rmdir())
    moved("symlink", lambda: (top / "d" / "l").symlink_to("a"))
    moved("a read", lambda: path.read_bytes())
    moved("a listing", lambda: os.listdir(top / "d"))
    moved("an xattr", lambda: os.setxattr(path, "user.a", b"b"))
    moved("a mapping", lambda: store(path))
    moved("a rename over", lambda: os.rename(top / "d" / "n", path))
    for ns in ((0, 0), (1, 999_999_999), (-1_000_000_000, -1), (4_102_444_800_000_000_001, 7_258_118_400_000_000_000)):
        record(f"utime {ns}", lambda: os.utime(path, ns=ns))
        record("found", lambda: (path.stat().st_atime_ns, path.stat().st_mtime_ns))
    record("of a link", lambda: os.utime(top / "d" / "l", ns=(5, 6), follow_symlinks=False))
    record("of a link: found", lambda: (top / "d" / "l").lstat().st_mtime_ns)


def store(path: Path) -> None:
    """Store one byte through a mapping."""
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 100) as mapping:
        mapping[0] = 65
        mapping.flush()


@check
def modes(top: Path, record: Recorder) -> None:
    for bits in (0o000, 0o644, 0o7777, 0o4755, 0o2755, 0o1777):
        path = top / f"{bits:o}"
        record.nothing(f"create {bits:o}", lambda: os.open(path, os.O_CREAT | os.O_RDWR, bits))
        record("created", lambda: oct(path.stat().st_mode))
        record(f"chmod {bits:o}", lambda: os.chmod(path, bits))
        record("changed", lambda: oct(path.stat().st_mode))
        record(f"mkdir {bits:o}", lambda: os.mkdir(f"{path}d", bits))
        record("made", lambda: oct(os.stat(f"{path}d").st_mode))
    path = top / "suid"
    path.write_bytes(b"x")
    path.chmod(0o6755)
    if os.geteuid() == 0:
        record("chown", lambda: os.chown(path, 12, 34))
        record("chown: bits", lambda: oct(path.stat().st_mode))
        record("only the group", lambda: (os.chown(path, -1, 35), path.stat().st_uid, path.stat().st_gid))
        (top / "links").symlink_to("nowhere")
        record("lchown", lambda: os.lchown(top / "links", 12, 34))
        record("lchown: owner", lambda: (os.lstat(top / "links").st_uid, os.lstat(top / "links").st_gid))
        (top / "group").mkdir()
        os.chown(top / "group", 0, 34)
        os.chmod(top / "group", 0o2775)
        (top / "group" / "f").touch()
        (top / "group" / "d").mkdir()
        record(
            "a file in a setgid directory", lambda: (os.stat(top / "group" / "f").st_gid, *bits_of(top / "group" / "f"))
        )
        record("a directory there", lambda: (os.stat(top / "group" / "d").st_gid, *bits_of(top / "group" / "d")))


def bits_of(path: Path) -> tuple[str]:
    return (oct(path.stat().st_mode),)


@check
def extended_attributes(top: Path, record: Recorder) -> None:
    path = top / "a"
    path.touch()
    os.setxattr(path, "user.b", bytes(range(256)))
    record("replace", lambda: os.setxattr(path, "user.b", bytes(range(255)), os.XATTR_REPLACE))
    record("found", lambda: os.getxattr(path, "user.b"))
    record("empty", lambda: os.setxattr(path, "user.empty", b""))
    record("empty: found", lambda: os.getxattr(path, "user.empty"))
    record("a long name", lambda: os.setxattr(path, "user." + "x" * 250, b"1"))
    record("a longer name", lambda: os.setxattr(path, "user." + "x" * 251, b"1"))
    record("a short buffer", lambda: libc("getxattr", os.fsencode(path), b"user.b", ctypes.create_string_buffer(5), 5))
    record("the size", lambda: libc("getxattr", os.fsencode(path), b"user.b", None, 0))
    (top / "d").mkdir()
    record("of a directory", lambda: (os.setxattr(top / "d", "user.d", b"d"), os.getxattr(top / "d", "user.d"))[1])


ELSE = """import errno, os, stat, sys
os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(34)
os.setuid(12)
os.umask(0o022)
def tell(what, call):
    try: answer = call()
    except OSError as error: answer = errno.errorcode[error.errno]
    print(what, "=", answer)
def seen(path):
    found = os.lstat(path)
    return oct(found.st_mode), found.st_uid, found.st_gid
"""
"""The beginning of a program of another user, which tells the answers of its calls."""


def recorded_by(program: str, top: Path, record: Recorder) -> None:
    """The answers of calls of a program, which prints "CALL = ANSWER"."""
    done = subprocess.run([sys.executable, "-c", program, str(top)], capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        what, _, answer = line.rpartition(" = ")
        record(what, lambda: answer)


@check
def other_users(top: Path, record: Recorder) -> None:
    """Only root may do more than the modes allow."""
    if os.geteuid():
        return
    places = {"open": 0o2777, "sticky": 0o1777, "closed": 0o700, "listed": 0o744, "passed": 0o711}
    for name, bits in places.items():
        (top / name).mkdir()
        (top / name).chmod(bits)
        (top / name / "a").write_bytes(b"a")
        (top / name / "theirs").write_bytes(b"t")
        os.chown(top / name / "theirs", 12, 34)
        (top / name / "d").mkdir()
    program = (
        ELSE
        + """
def opened(path, *how):
    os.close(os.open(path, *how))
for place in ("open", "sticky", "closed", "listed", "passed"):
    for name in ("a", "theirs"):
        path = f"{place}/{name}"
        tell(f"stat {path}", lambda: os.stat(path).st_size)
        tell(f"read {path}", lambda: opened(path, os.O_RDONLY))
        tell(f"write {path}", lambda: opened(path, os.O_WRONLY))
        tell(f"cut {path}", lambda: os.truncate(path, 0))
        tell(f"access {path}", lambda: [os.access(path, how) for how in (4, 2, 1)])
        tell(f"chmod {path}", lambda: os.chmod(path, 0o644))
        tell(f"chown {path}", lambda: os.chown(path, 12, 34))
        tell(f"give away {path}", lambda: os.chown(path, 0, 0))
        tell(f"group {path}", lambda: os.chown(path, -1, 35))
        tell(f"utime now {path}", lambda: os.utime(path))
        tell(f"utime {path}", lambda: os.utime(path, (1, 2)))
        tell(f"xattr {path}", lambda: os.setxattr(path, "user.a", b"1"))
        tell(f"link {path}", lambda: os.link(path, f"{place}/l-{name}"))
        tell(f"setgid {path}", lambda: os.chmod(path, 0o2777))
        tell(f"bits {path}", lambda: oct(os.stat(path).st_mode))
        tell(f"rename {path}", lambda: os.rename(path, f"{place}/r-{name}"))
        tell(f"unlink {path}", lambda: os.unlink(f"{place}/r-{name}"))
    tell(f"list {place}", lambda: len(os.listdir(place)))
    tell(f"create {place}", lambda: opened(f"{place}/new", os.O_CREAT | os.O_RDWR, 0o200))
    tell(f"read what may not be read {place}", lambda: opened(f"{place}/new", os.O_RDONLY))
    tell(f"create for writing, read-only {place}", lambda: opened(f"{place}/ro", os.O_CREAT | os.O_RDWR, 0o400))
    tell(f"mkdir {place}", lambda: os.mkdir(f"{place}/newd"))
    tell(f"symlink {place}", lambda: os.symlink("x", f"{place}/newl"))
    for name in ("new", "newd", "newl"):
        tell(f"owner {place} {name}", lambda: seen(f"{place}/{name}"))
    tell(f"rmdir {place}", lambda: os.rmdir(f"{place}/d"))
    tell(f"chmod {place}", lambda: os.chmod(place, 0o777))
"""
    )
    recorded_by(program, top, record)


@check
def bits_after_writes(top: Path, record: Recorder) -> None:
    """A non-root user that writes, or gives away, clears the bits that would let others act as the owner."""
    if os.geteuid():
        return
    for name in ("written", "cut", "owned", "mapped"):
        (top / name).write_bytes(b"x" * 100)
        os.chown(top / name, 12, 34)
        (top / name).chmod(0o6777)
    program = (
        ELSE
        + """
fd = os.open("written", os.O_WRONLY); os.write(fd, b"y"); print("written =", oct(os.fstat(fd).st_mode))
os.truncate("cut", 5); print("cut =", oct(os.stat("cut").st_mode))
os.chown("owned", 12, 34); print("owned =", oct(os.stat("owned").st_mode))
"""
    )
    recorded_by(program, top, record)


def listed(path: Path) -> list[str]:
    """The names without those that a security module adds."""
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.endswith((".a", ".b")))


@check
def attributes_of_links(top: Path, record: Recorder) -> None:
    """And, for comparison, those of a file."""
    spaces = ("trusted.", "security.", "user.", "system.", "nothing.") if os.geteuid() == 0 else ("user.", "nothing.")
    (top / "file").touch()
    for target in ("file", "nowhere", "loop", "/outside", "no link"):
        link = top / f"to-{target.strip('/')}"
        link.touch() if target == "no link" else link.symlink_to(f"to-{target}" if target == "loop" else target)
        for space in spaces:
            what = f"{target}, {space}"

            def get(name: str) -> bytes:
                return os.getxattr(link, name, follow_symlinks=False)

            def set(name: str, value: bytes, flags: int = 0) -> None:
                os.setxattr(link, name, value, flags, follow_symlinks=False)

            record(f"{what}: none", lambda: get(f"{space}a"))
            record(f"{what}: replace what is not there", lambda: set(f"{space}a", b"1", os.XATTR_REPLACE))
            record(f"{what}: create", lambda: set(f"{space}a", b"1", os.XATTR_CREATE))
            record(f"{what}: create again", lambda: set(f"{space}a", b"2", os.XATTR_CREATE))
            record(f"{what}: set", lambda: set(f"{space}b", bytes(range(256))))
            record(f"{what}: found", lambda: (get(f"{space}a"), get(f"{space}b")))
            record(f"{what}: listed", lambda: listed(link))
            record(f"{what}: removed", lambda: os.removexattr(link, f"{space}b", follow_symlinks=False))
            record(f"{what}: removed again", lambda: os.removexattr(link, f"{space}b", follow_symlinks=False))
        record(f"{target}: listed", lambda: listed(link))
        record(f"{target}: renamed", lambda: (link.rename(top / "other"), listed(top / "other"))[1])
        record(f"{target}: of what it leads to", lambda: listed(top / "file"))
        record(f"{target}: unlinked", lambda: (top / "other").unlink())
    if os.geteuid() == 0:
        (top / "link").symlink_to("file")
        program = (
            ELSE
            + """
for space in ("user", "trusted", "security"):
    for call in (os.getxattr, lambda *link, **how: os.setxattr(*link, b"1", **how), os.removexattr):
        tell(f"others, {space}", lambda: call("link", f"{space}.a", follow_symlinks=False))
"""
        )
        recorded_by(program, top, record)
