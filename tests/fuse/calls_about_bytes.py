"""Calls about bytes: sizes, holes, appends, copies, syncs, mappings, locks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
from pathlib import Path

from .calls import Recorder, check, libc, long, opened

KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32


@check
def sizes(top: Path, record: Recorder) -> None:
    path = top / "a"
    with opened(path) as fd:
        record("behind the end", lambda: os.pwrite(fd, b"x", 10_000))
        record("zeros", lambda: os.pread(fd, 20_000, 0) == b"\0" * 10_000 + b"x")
        record("cut", lambda: (os.ftruncate(fd, 5000), os.fstat(fd).st_size))
        record("extended", lambda: (os.ftruncate(fd, 12_000), os.pread(fd, 12_000, 0) == bytes(12_000)))
        record("negative", lambda: libc("ftruncate", fd, long(-1)))
        record("read behind the end", lambda: os.pread(fd, 10, 50_000))
        record("read at the end", lambda: os.pread(fd, 10, 11_995))
        record("negative offset", lambda: libc("pread", fd, ctypes.create_string_buffer(1), 1, long(-1)))
        record("nothing", lambda: os.pwrite(fd, b"", 90_000))
        record("size", lambda: os.fstat(fd).st_size)
        record("end", lambda: os.lseek(fd, 0, os.SEEK_END))
        record("before the beginning", lambda: os.lseek(fd, -1, os.SEEK_SET))
        record("a directory", lambda: os.truncate(top, 0))
    with opened(top / "large") as fd:
        record("too large", lambda: os.ftruncate(fd, 1 << 62))
        record("too far", lambda: os.pwrite(fd, b"x", (1 << 63) - 1))
    with opened(path, os.O_RDONLY) as fd:
        record("write to a reader", lambda: os.write(fd, b"x"))
        record("cut of a reader", lambda: os.ftruncate(fd, 0))
    with opened(path, os.O_WRONLY) as fd:
        record("read of a writer", lambda: os.read(fd, 1))
    with opened(path, os.O_RDONLY | os.O_TRUNC) as fd:
        record("O_TRUNC of a reader", lambda: os.fstat(fd).st_size)
    with opened(path, os.O_RDONLY | 0o10000000) as fd:  # O_PATH
        record("read of O_PATH", lambda: os.read(fd, 1))
        record("stat of O_PATH", lambda: os.fstat(fd).st_size)


@check
def appends(top: Path, record: Recorder) -> None:
    path = top / "a"
    path.write_bytes(b"0123456789")
    with opened(path, os.O_RDWR | os.O_APPEND) as one, opened(path, os.O_RDWR | os.O_APPEND) as other:
        os.write(one, b"a")
        os.write(other, b"b")
        record("pwrite appends", lambda: os.pwrite(one, b"c", 0))
        record("where it is then", lambda: os.lseek(other, 0, os.SEEK_CUR))
        record("seek and write", lambda: (os.lseek(other, 3, os.SEEK_SET), os.write(other, b"d")))
        os.ftruncate(one, 2)
        record("after a cut", lambda: os.write(other, b"e"))
        fcntl.fcntl(one, fcntl.F_SETFL, os.O_RDWR)
        record("no longer", lambda: os.pwrite(one, b"f", 0))
        fcntl.fcntl(one, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        record("again", lambda: os.write(one, b"g"))
    record("then", path.read_bytes)


@check
def space(top: Path, record: Recorder) -> None:
    """fallocate(2) in each mode, with its effect on size and bytes."""
    for mode in (0, KEEP_SIZE, PUNCH | KEEP_SIZE, PUNCH, ZERO, ZERO | KEEP_SIZE, COLLAPSE, INSERT):
        path = top / f"{mode}"
        path.write_bytes(b"x" * 20_000)
        with opened(path) as fd:
            record(f"mode {mode}", lambda: libc("fallocate", fd, mode, long(4096), long(8192)))
            record(f"mode {mode}: size", lambda: os.fstat(fd).st_size)
            record(f"mode {mode}: zeros", lambda: path.read_bytes().count(0))
            record(f"mode {mode}: behind", lambda: libc("fallocate", fd, mode, long(16384), long(8192)))
            record(f"mode {mode}: size then", lambda: os.fstat(fd).st_size)
            record(f"mode {mode}: nothing", lambda: libc("fallocate", fd, mode, long(0), long(0)))
    with opened(top / "posix") as fd:
        record("posix_fallocate", lambda: os.posix_fallocate(fd, 0, 10_000))
        record("posix_fallocate: size", lambda: os.fstat(fd).st_size)


@check
def copies(top: Path, record: Recorder) -> None:
    (top / "a").write_bytes(bytes(range(256)) * 100)
    with opened(top / "a") as one, opened(top / "b") as other:
        record("copy_file_range", lambda: os.copy_file_range(one, other, 20_000, 100, 5))
        record("behind the end", lambda: os.copy_file_range(one, other, 20_000, 25_600, 0))
        record("overlapping", lambda: os.copy_file_range(one, one, 200, 0, 100))
        record("within", lambda: os.copy_file_range(one, one, 200, 0, 1000))
        record("sendfile", lambda: os.sendfile(other, one, 0, 1000))
        record("then", lambda: (top / "b").read_bytes() == expected_copy())
    with opened(top / "a", os.O_RDONLY) as one, opened(top / "b", os.O_RDONLY) as other:
        record("to a reader", lambda: os.copy_file_range(one, other, 10))
    with opened(top / "a", os.O_RDONLY) as one, opened(top / "b", os.O_RDWR | os.O_APPEND) as other:
        record("to one that appends", lambda: os.copy_file_range(one, other, 10, 0, 0))


def expected_copy() -> bytes:
    source = bytearray(bytes(range(256)) * 100)
    copy = bytearray(bytes(5) + source[100:20_100])
    source[1000:1200] = source[:200]
    copy[:1000] = source[:1000]
    return bytes(copy)


@check
def syncs(top: Path, record: Recorder) -> None:
    with opened(top / "a") as fd:
        os.write(fd, b"x" * 10_000)
        record("fsync", lambda: os.fsync(fd))
        record("fdatasync", lambda: os.fdatasync(fd))
        record("sync_file_range", lambda: libc("sync_file_range", fd, long(0), long(0), 7))
        record("syncfs", lambda: libc("syncfs", fd))
        for advice in range(6):
            record(f"fadvise {advice}", lambda: os.posix_fadvise(fd, 0, 0, advice))
        record("readahead", lambda: libc("readahead", fd, long(0), 4096))
    with opened(top, os.O_RDONLY) as fd:
        record("fsync of a directory", lambda: os.fsync(fd))
        record("fdatasync of a directory", lambda: os.fdatasync(fd))
        record("read of a directory", lambda: os.read(fd, 10))
    with opened(top / "a", os.O_RDONLY) as fd:
        record("fsync of a reader", lambda: os.fsync(fd))
    for flags in (os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_NONBLOCK, os.O_LARGEFILE, os.O_NOCTTY):
        record.nothing(f"open with {flags:o}", lambda: os.open(top / "a", os.O_RDWR | flags))


@check
def temporary_files(top: Path, record: Recorder) -> None:
    record.nothing("O_TMPFILE", lambda: os.open(top, os.O_TMPFILE | os.O_RDWR))


@check
def locks(top: Path, record: Recorder) -> None:
    """Locks among processes: of whole files, and of ranges."""
    (top / "a").write_bytes(b"x" * 100)
    program = """import os, sys
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock, lockf
fd = os.open(sys.argv[1], os.O_RDWR)
for call, *how in ((flock, LOCK_EX), (flock, LOCK_SH), (lockf, LOCK_EX, 10, 0), (lockf, LOCK_EX, 10, 50)):
    try:
        call(fd, how[0] | LOCK_NB, *how[1:])
        print("got", end=" ")
    except OSError as error:
        print(error.errno, end=" ")
"""

    def others() -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, str(top / "a")], capture_output=True, text=True, check=True
        )
        return done.stdout

    record("free", others)
    with opened(top / "a") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        record("flock", others)
        fcntl.flock(fd, fcntl.LOCK_SH)
        record("shared", others)
        fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.lockf(fd, fcntl.LOCK_EX, 20, 0)
        record("range", others)
        os.close(os.open(top / "a", os.O_RDONLY))
        record("gone with any close", others)
