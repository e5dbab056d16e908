"""Special files, open files without a name, attributes of links: each kind of mount answers as tmpfs does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from . import calls_about_descriptors, calls_about_links, calls_about_special_files
from .mounts import KINDS, needs_mounts
from .test_calls import MODEL, about, compare, shared

pytestmark = [
    needs_mounts,
    pytest.mark.xdist_group("mounts"),
    pytest.mark.skipif(not os.path.ismount(MODEL), reason=f"no tmpfs at {MODEL} to compare with"),
]


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Sequence[str]]]:
    with shared(request.param, "-o", "dev") as where:
        yield where


NAMES = about(calls_about_special_files) + about(calls_about_descriptors) + about(calls_about_links)


@pytest.mark.parametrize("name", NAMES)
def test_calls_about_special_files_open_files_and_links_are_answered_as_on_tmpfs(
    place: tuple[Path, Sequence[str]], name: str
) -> None:
    compare(place, name)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_a_store_of_objects_refuses_special_files(flat: Path, kind: int) -> None:
    """It cannot store them; nothing is made."""
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and os.geteuid():
        return
    with pytest.raises(OSError, match="not supported") as caught:
        os.mknod(flat / "a", kind | 0o600, os.makedev(1, 5))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert os.listdir(flat) == []


def test_a_fifo_is_one_past_the_mount_too(place: tuple[Path, Sequence[str]]) -> None:
    """Special files are those of the store: other programs of this machine use them."""
    path, _ = place
    store = path.parent / "store"
    os.mkfifo(path / "here", 0o400)  # no usual umask removes these bits
    os.mkfifo(store / "there", 0o200)
    assert oct((store / "here").lstat().st_mode) == oct(stat.S_IFIFO | 0o400)
    assert oct((path / "there").lstat().st_mode) == oct(stat.S_IFIFO | 0o200)
    (path / "there").unlink()
    (store / "here").unlink()
    assert os.listdir(store) == []
