"""A mounted directory, used by system calls: bytes and names, each with and without pages of the kernel."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

import pytest

from .mounts import Mounted, maps_shared, names, needs_mounts

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

DATA = bytes(n * 7 % 251 for n in range(300_000))


def test_written_bytes_are_read_and_stored(place: Path, stored: Path) -> None:
    """The next open reads it, and so does the store after a close: that writes everything back."""
    (place / "a").write_bytes(DATA)
    assert (place / "a").read_bytes() == DATA
    assert (stored / "a").read_bytes() == DATA


def test_bytes_in_the_middle_are_replaced(place: Path, stored: Path) -> None:
    (place / "a").write_bytes(DATA)
    with (place / "a").open("r+b") as file:
        file.seek(100_001)
        file.write(b"x" * 10_000)
        file.seek(0)
        expected = DATA[:100_001] + b"x" * 10_000 + DATA[110_001:]
        assert file.read() == expected
    assert (stored / "a").read_bytes() == expected


def test_a_write_past_the_end_leaves_zeros(place: Path) -> None:
    fd = os.open(place / "a", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"end", 100_000)
        assert os.fstat(fd).st_size == 100_003
        assert os.pread(fd, 200_000, 0) == bytes(100_000) + b"end"
    finally:
        os.close(fd)


def test_a_file_is_cut_and_extended(place: Path, stored: Path) -> None:
    """The test does it by descriptor, by name, and by an open that empties."""
    path = place / "a"
    path.write_bytes(DATA)
    os.truncate(path, 1000)
    assert path.read_bytes() == DATA[:1000]
    with path.open("r+b") as file:
        file.truncate(5000)
        assert file.read() == DATA[:1000] + bytes(4000)
    assert path.stat().st_size == 5000
    path.open("wb").close()
    assert path.read_bytes() == b""
    assert (stored / "a").stat().st_size == 0


def test_bytes_are_appended_at_the_end(place: Path) -> None:
    with (place / "a").open("ab", buffering=0) as one, (place / "a").open("ab", buffering=0) as other:
        for number in range(20):
            (one, other)[number % 2].write(b"%02d" % number)
    assert (place / "a").read_bytes() == b"".join(b"%02d" % number for number in range(20))


def test_fsync_makes_it_durable(place: Path, stored: Path, mounted: Mounted) -> None:
    """None of its bytes is unstable afterwards."""
    fd = os.open(place / "a", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, DATA)
        before = mounted.number("commits")
        os.fsync(fd)
        assert mounted.number("commits") > before
        assert (stored / "a").read_bytes() == DATA
        os.fdatasync(fd)
    finally:
        os.close(fd)


def test_exclusive_creation_and_missing_names(place: Path) -> None:
    (place / "a").touch()
    with pytest.raises(FileExistsError):
        os.open(place / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    for call in (os.stat, os.unlink, os.rmdir, os.listdir):
        with pytest.raises(FileNotFoundError):
            call(place / "none")


def test_directories_are_made_listed_and_removed(place: Path, stored: Path) -> None:
    (place / "d" / "e").mkdir(parents=True)
    (place / "d" / "f").write_bytes(b"f")
    assert names(place / "d") == ["e", "f"]
    assert stat.S_ISDIR((place / "d").stat().st_mode)
    with pytest.raises(OSError) as caught:
        os.rmdir(place / "d")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(NotADirectoryError):
        os.rmdir(place / "d" / "f")
    with pytest.raises(FileExistsError):
        os.mkdir(place / "d")
    os.rmdir(place / "d" / "e")
    os.unlink(place / "d" / "f")
    os.rmdir(place / "d")
    assert names(place) == names(stored) == []


def test_a_file_gets_another_name(place: Path) -> None:
    """An open descriptor goes on with it."""
    (place / "d").mkdir()
    with (place / "a").open("w+b", buffering=0) as file:
        file.write(b"before ")
        os.rename(place / "a", place / "d" / "b")
        file.write(b"after")
        assert names(place) == ["d"]
        assert (place / "d" / "b").read_bytes() == b"before after"
    assert (place / "d" / "b").stat().st_size == 12


def test_a_rename_replaces_an_open_file(place: Path) -> None:
    """Its open descriptors keep the old file, which no longer has a name."""
    (place / "old").write_bytes(b"old")
    (place / "new").write_bytes(b"new")
    with (place / "old").open("r+b", buffering=0) as file:
        os.rename(place / "new", place / "old")
        assert (place / "old").read_bytes() == b"new"
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"!")
        assert os.pread(file.fileno(), 10, 0) == b"!ld"
    assert (place / "old").read_bytes() == b"new"
    assert names(place) == ["old"]


def test_a_renamed_directory_takes_its_files_along(place: Path, stored: Path) -> None:
    """This covers open ones, written ones, and those in directories below."""
    (place / "d" / "sub").mkdir(parents=True)
    (place / "d" / "closed").write_bytes(b"closed")
    with (place / "d" / "sub" / "open").open("w+b", buffering=0) as file:
        file.write(b"one ")
        os.rename(place / "d", place / "e")
        file.write(b"two")
        assert (place / "e" / "sub" / "open").read_bytes() == b"one two"
        assert (place / "e" / "closed").read_bytes() == b"closed"
        assert not (place / "d").exists()
        (place / "d").mkdir()
        (place / "d" / "closed").write_bytes(b"another")
        assert (place / "e" / "closed").read_bytes() == b"closed"
    assert (stored / "e" / "sub" / "open").read_bytes() == b"one two"


def test_an_open_file_lives_on_without_a_name(place: Path, stored: Path) -> None:
    """Another file can take its name at the same time."""
    with (place / "a").open("w+b", buffering=0) as file:
        file.write(b"first")
        os.unlink(place / "a")
        assert not (place / "a").exists()
        (place / "a").write_bytes(b"second")
        file.write(b" and more")
        assert os.pread(file.fileno(), 100, 0) == b"first and more"
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink) == (14, 0)
        os.ftruncate(file.fileno(), 2)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 100, 0) == b"fi"
    assert (stored / "a").read_bytes() == b"second"


def test_no_name_is_replaced_where_that_was_not_wanted(place: Path) -> None:
    """renameat2 with RENAME_NOREPLACE, and RENAME_EXCHANGE, which is not supported."""
    import ctypes

    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    libc = ctypes.CDLL(None, use_errno=True)

    def rename(flags: int) -> int:
        old, new = os.fsencode(place / "a"), os.fsencode(place / "b")
        return ctypes.get_errno() if libc.renameat2(-100, old, -100, new, flags) else 0

    assert rename(1) == errno.EEXIST
    assert rename(2) == errno.EINVAL
    assert [(place / name).read_bytes() for name in "ab"] == [b"a", b"b"]


def test_names_of_any_bytes(place: Path, stored: Path) -> None:
    odd = ["with space", "ü € 😀", os.fsdecode(b"\xff\xfe not utf-8"), "a" * 255, "new\nline", "-", ".hidden"]
    for name in odd:
        (place / name).write_bytes(os.fsencode(name))
    assert names(place) == names(stored) == sorted(odd)
    assert all((place / name).read_bytes() == os.fsencode(name) for name in odd)
    with pytest.raises(OSError) as caught:
        (place / ("a" * 256)).touch()
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_mapping_is_read_and_written(place: Path, mounted: Mounted) -> None:
    """Shared mappings with direct I/O need the loop in C and Linux 6.6; private ones do not."""
    path = place / "a"
    path.write_bytes(DATA)
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as memory:
            assert memory[:] == DATA
        if not maps_shared(mounted.options):
            with pytest.raises(OSError) as caught:
                mmap.mmap(file.fileno(), 0)
            assert caught.value.errno == errno.ENODEV
            return
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[1000:1010] = b"mapped....."[:10]
            memory.flush()
    assert path.read_bytes() == DATA[:1000] + b"mapped...." + DATA[1010:]


def test_o_direct_reads_and_writes(place: Path) -> None:
    path = place / "a"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 20) as memory:
            memory[:] = os.urandom(1 << 20)
            assert os.pwrite(fd, memory, 4096) == 1 << 20
            with mmap.mmap(-1, 1 << 20) as other:
                assert os.preadv(fd, [other], 4096) == 1 << 20
                assert other[:] == memory[:]
    finally:
        os.close(fd)
    assert path.stat().st_size == (1 << 20) + 4096


def test_space_cannot_be_promised(place: Path) -> None:
    """posix_fallocate then writes zeros, as the C library does; fallocate itself is refused."""
    fd = os.open(place / "a", os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, 10_000)
        assert os.fstat(fd).st_size == 10_000
    finally:
        os.close(fd)


def test_mknod_makes_a_regular_file(place: Path) -> None:
    os.mknod(place / "plain", 0o600 | stat.S_IFREG)
    assert (place / "plain").stat().st_size == 0


def test_hits_come_from_our_cache(place: Path, mounted: Mounted) -> None:
    """With direct I/O each read reaches the cache; a second one requests nothing from the store."""
    path = place / "a"
    path.write_bytes(DATA)
    path.read_bytes()
    requests, hits = mounted.number("read_requests"), mounted.number("hits")
    assert path.read_bytes() == DATA
    assert mounted.number("read_requests") == requests
    if "--direct-io" in mounted.options:
        assert mounted.number("hits") > hits
