"""Mounts of a directory by root for all users: another user gets what the directory itself would give."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .mounts import KINDS, Mounted, folder_for_everybody, needs_mounts
from .users import NOBODY, as_nobody, needs_root

pytestmark = [needs_mounts, needs_root]

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
NO_ID = 2**32 - 1
ACL = "system.posix_acl_access"


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Mounted, Path]]:
    """A mount for all users, and its store."""
    with folder_for_everybody() as folder:
        (folder / "mnt").mkdir()
        with Mounted(folder, f"dir:{folder / 'store'}", "--allow-other", request.param) as mounted:
            yield mounted, folder / "store"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of the extended attribute of an ACL: tag, rights and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


DENIES_NOBODY = acl((USER_OBJ, 7, NO_ID), (USER, 0, NOBODY), (GROUP_OBJ, 5, NO_ID), (MASK, 5, NO_ID), (OTHER, 5, NO_ID))


def set_acl(path: Path, value: bytes) -> None:
    try:
        os.setxattr(path, ACL, value)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("the file system of /tmp keeps no ACLs")
        raise


def both(shared: tuple[Mounted, Path], call: Callable[[Path], Any]) -> tuple[Any, Any]:
    """The results of a call by another user, below the store and below the mount."""
    mounted, store = shared
    return as_nobody(lambda: call(store)), as_nobody(lambda: call(mounted.path))


def test_an_acl_that_denies_a_user_is_enforced(shared: tuple[Mounted, Path]) -> None:
    _, store = shared
    (store / "denied").write_bytes(b"private")
    (store / "folder").mkdir()
    (store / "folder" / "inner").write_bytes(b"private")
    set_acl(store / "denied", DENIES_NOBODY)
    set_acl(store / "folder", DENIES_NOBODY)
    calls: list[Callable[[Path], object]] = [
        lambda top: (top / "denied").read_bytes(),
        lambda top: (top / "folder" / "inner").read_bytes(),
        lambda top: os.listdir(top / "folder"),
    ]
    for call in calls:
        assert both(shared, call) == (-errno.EACCES, -errno.EACCES)


def test_the_rights_of_the_owning_group_are_those_of_its_entry_not_of_the_mask(shared: tuple[Mounted, Path]) -> None:
    _, store = shared
    path = store / "masked"
    path.write_bytes(b"private")
    os.chown(path, 0, NOBODY)
    set_acl(path, acl((USER_OBJ, 6, NO_ID), (USER, 6, 1), (GROUP_OBJ, 0, NO_ID), (MASK, 6, NO_ID), (OTHER, 0, NO_ID)))
    assert both(shared, lambda top: (top / "masked").read_bytes()) == (-errno.EACCES, -errno.EACCES)
    assert both(shared, lambda top: (top / "masked").write_bytes(b"mine")) == (-errno.EACCES, -errno.EACCES)


def test_an_owner_sets_an_acl_and_the_mode_follows(shared: tuple[Mounted, Path]) -> None:
    mounted, store = shared
    (store / "own").write_bytes(b"own")
    os.chown(store / "own", NOBODY, NOBODY)
    set_acl(store / "own", DENIES_NOBODY)
    os.stat(mounted.path / "own")
    wider = acl((USER_OBJ, 6, NO_ID), (USER, 6, 1), (GROUP_OBJ, 4, NO_ID), (MASK, 6, NO_ID), (OTHER, 0, NO_ID))
    assert as_nobody(lambda: os.setxattr(mounted.path / "own", ACL, wider)) is None
    assert stat.S_IMODE(os.stat(mounted.path / "own").st_mode) == stat.S_IMODE(os.stat(store / "own").st_mode) == 0o660


def test_attributes_of_the_superuser_are_not_listed_to_others(shared: tuple[Mounted, Path]) -> None:
    mounted, store = shared
    (store / "trusted").write_bytes(b"x")
    try:
        os.setxattr(store / "trusted", "trusted.secret", b"value")
    except OSError:
        pytest.skip("the file system of /tmp keeps no such attributes")
    assert both(shared, lambda top: os.listxattr(top / "trusted")) == ([], [])
    assert os.listxattr(mounted.path / "trusted") == ["trusted.secret"]


@pytest.mark.parametrize("mode", [0o6777, 0o2777])
def test_set_id_bits_go_when_another_user_writes(shared: tuple[Mounted, Path], mode: int) -> None:
    mounted, store = shared
    name = f"set-id-{mode:o}"

    def write(top: Path) -> None:
        with open(top / name, "r+b") as file:
            file.write(b"#")

    def mode_after_write(top: Path) -> int:
        (store / name).write_bytes(b"#!")
        (store / name).chmod(mode)
        assert as_nobody(lambda: write(top)) is None
        return stat.S_IMODE(os.stat(store / name).st_mode)

    by_mount = mode_after_write(mounted.path)
    assert by_mount == mode_after_write(store)
