"""Times and room of the store, refusals of what it does not keep, and changes behind the mount.

test_calls.py and test_differential.py compare calls about names, modes, links and attributes with those of tmpfs.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from .calls_about_names import rename
from .mounts import Mounted, code, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

PAGE = 4096
YEAR_2020 = 1_577_836_800_123_456_789


def test_what_no_store_can_keep_is_refused(place: Path) -> None:
    """Names are not exchanged, and no file gets capabilities."""
    for name in "ab":
        (place / name).write_text(name)
    assert code(rename, place / "a", place / "b", 2) == errno.EINVAL
    assert code(os.setxattr, place / "a", "security.capability", b"\1\0\0\2" + bytes(16)) == errno.EOPNOTSUPP
    assert [(place / name).read_text() for name in "ab"] == ["a", "b"]


def test_room_is_that_of_the_store(place: Path, stored: Path) -> None:
    shown, real = os.statvfs(place), os.statvfs(stored)
    assert (shown.f_blocks * shown.f_frsize, shown.f_namemax) == (real.f_blocks * real.f_frsize, real.f_namemax)


def test_attributes_that_a_store_of_objects_cannot_keep_are_refused(flat: Path) -> None:
    """A call without an effect is no error."""
    path = flat / "a"
    path.write_bytes(b"a")
    (flat / "d").mkdir()
    (flat / "d" / "b").write_bytes(b"b")
    os.utime(path)
    path.chmod(stat.S_IMODE(path.stat().st_mode))
    os.chown(path, path.stat().st_uid, -1)

    assert code(os.link, path, flat / "b") == errno.EOPNOTSUPP
    assert code(os.symlink, "a", flat / "l") == errno.EOPNOTSUPP
    assert code(path.chmod, 0o600) == errno.EOPNOTSUPP
    assert code(os.chown, path, 12, 34) == errno.EOPNOTSUPP
    assert code(partial(os.utime, path, ns=(YEAR_2020, YEAR_2020))) == errno.EOPNOTSUPP
    assert code(os.setxattr, path, "user.x", b"x") == errno.EOPNOTSUPP
    assert code(os.getxattr, path, "user.x") == errno.EOPNOTSUPP
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, *((stat.S_IFCHR, stat.S_IFBLK) if os.geteuid() == 0 else ())):
        assert code(os.mknod, flat / "special", kind | 0o600, os.makedev(1, 5)) == errno.EOPNOTSUPP
    assert sorted(os.listdir(flat)) == ["a", "d"]
    assert code(os.rename, flat / "d", flat / "e") == errno.EXDEV
    assert code(os.mkdir, flat / "d") == errno.EEXIST
    assert code(os.rename, path, flat / "d") in (errno.EISDIR, errno.ENOTEMPTY)
    shutil.move(flat / "d", flat / "e")
    assert (flat / "e" / "b").read_bytes() == b"b"
    assert os.statvfs(flat).f_bavail > 0


def test_another_version_is_seen_at_the_next_open(place: Path, stored: Path) -> None:
    """The file is cached in the mount, and in the kernel."""
    path = place / "a"
    path.write_bytes(b"ours" * PAGE)
    assert path.read_bytes() == b"ours" * PAGE
    (stored / "a").write_bytes(b"them" * PAGE)
    assert path.read_bytes() == b"them" * PAGE


def test_a_name_that_another_program_took_leads_every_call_to_the_new_file(place: Path, stored: Path) -> None:
    """The kernel keeps the name for a second, and the first file is open. [2.20]"""

    def taken(name: str) -> Path:
        (place / name).write_bytes(b"old")
        files.append((place / name).open("r+b", buffering=0))
        (stored / "next").write_bytes(b"new")
        os.rename(stored / "next", stored / name)
        return place / name

    files: list[io.FileIO] = []
    with ThreadPoolExecutor(4) as threads:
        for number in range(25):
            assert list(threads.map(Path.read_bytes, [taken(f"many{number}")] * 4)) == [b"new"] * 4
    path = taken("by a descriptor")
    for _ in range(2):
        assert Path(f"/proc/self/fd/{files[-1].fileno()}").read_bytes() == b"old"
        assert path.read_bytes() == b"new"
    path.write_bytes(b"ours")
    assert (stored / path.name).read_bytes() == b"ours"
    path = place / "by another name"
    path.write_bytes(b"old")
    path.with_name("second").hardlink_to(path)
    (stored / "next").write_bytes(b"new")
    os.rename(stored / "next", stored / path.name)
    for _ in range(2):
        assert path.with_name("second").read_bytes() == b"old"
        assert path.read_bytes() == b"new"
    path = taken("after a failed change")
    code(os.fchmod, files[-1].fileno(), 0o600)  # by a descriptor, so the kernel does not make it again
    assert path.read_bytes() == b"new"
    path = taken("cut")
    os.truncate(path, 1)
    assert path.read_bytes() == (stored / "cut").read_bytes() == b"n"
    os.truncate(f"/proc/self/fd/{files[-1].fileno()}", 2)
    assert files[-1].read() == b"ol"
    for file in files:
        file.close()


def test_unchanged_files_are_not_read_again(place: Path, mounted: Mounted) -> None:
    """With --kernel-cache they are not even read from the mount's cache; without it they are."""
    path = place / "a"
    path.write_bytes(b"x" * 100 * PAGE)
    path.read_bytes()
    path.read_bytes()
    hits, requests = mounted.number("hits"), mounted.number("read_requests")
    assert path.read_bytes() == b"x" * 100 * PAGE
    assert mounted.number("read_requests") == requests
    assert (mounted.number("hits") > hits) == ("--direct-io" in mounted.options)


def test_a_program_that_reads_large_pieces_is_answered_in_large_pieces(place: Path, mounted: Mounted) -> None:
    """1 MiB of a direct read comes as one request, and is one hit, or a few."""
    path = place / "a"
    path.write_bytes(b"x" * (4 << 20))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        run("dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct")
        hits = mounted.number("hits")
        run("dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct")
        assert mounted.number("hits") - hits <= 3 * 4
    finally:
        os.close(fd)


def test_times_that_are_set_are_no_remote_change(place: Path, mounted: Mounted) -> None:
    """Cached pages stay, although the version of the store includes the time."""
    path = place / "a"
    path.write_bytes(b"x" * 100 * PAGE)
    assert path.read_bytes() == b"x" * 100 * PAGE
    requests = mounted.number("read_requests")
    os.utime(path, ns=(YEAR_2020, YEAR_2020))
    assert path.read_bytes() == b"x" * 100 * PAGE
    assert mounted.number("read_requests") == requests
