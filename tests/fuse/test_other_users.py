"""Mounts of a directory by root for all users: another user gets what the directory itself would give."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .mounts import KINDS, Mounted, folder_for_everybody, needs_mounts

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="calls as another user need root")

pytestmark = [needs_mounts, needs_root]

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
NO_ID = 2**32 - 1
ACL = "system.posix_acl_access"


def for_all(*options: str) -> Iterator[tuple[Mounted, Path]]:
    with (
        folder_for_everybody() as folder,
        Mounted(folder, f"dir:{folder / 'store'}", "--allow-other", *options) as mounted,
    ):
        yield mounted, folder / "store"


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Mounted, Path]]:
    """A mount for all users, and its store."""
    yield from for_all(request.param)


def _result(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return "result", call()
    except OSError as error:
        return "errno", error.errno
    except BaseException:
        return "failure", traceback.format_exc()


def as_nobody(call: Callable[[], Any]) -> Any:
    """Return the result of a call by a user without privileges; the errno of its OSError as a negative number."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            with open(theirs, "wb") as file:
                pickle.dump(_result(call), file)
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as file:
        kind, value = pickle.load(file)
    os.waitpid(child, 0)
    assert kind != "failure", value
    return -value if kind == "errno" else value


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


@pytest.fixture(scope="module", params=KINDS)
def trusting(request: pytest.FixtureRequest) -> Iterator[tuple[Mounted, Path]]:
    """A mount for all users whose kernel relies on looked-up names, and its store."""
    yield from for_all(request.param, "-o", "attr_timeout=1000,entry_timeout=1000")


SECRET = b"secret of root"


def keep_secrets(store: Path, name: str) -> tuple[Path, list[Path]]:
    """Make a folder of another user. Return it and the secrets of root in it and beside it."""
    own = store / name
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    secrets = [store / f"{name}-secret", own / "file", own / "folder" / "file"]
    (own / "folder").mkdir(mode=0o700)
    for path in secrets:
        path.write_bytes(SECRET)
        path.chmod(0o600)
    (own / "folder" / "file").chmod(0o666)  # the folder protects it
    return own, secrets


def state(path: Path) -> tuple[object, ...]:
    found = path.stat()
    return path.read_bytes(), found.st_uid, found.st_mode, os.listxattr(path)


CALLS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: path.read_bytes(),
    "write": lambda path: path.write_bytes(b"mine"),
    "append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
    "chmod": lambda path: path.chmod(0o666),
    "chown": lambda path: os.chown(path, NOBODY, -1),
    "truncate": lambda path: os.truncate(path, 3),
    "setxattr": lambda path: os.setxattr(path, "user.mine", b"1"),
    "listxattr": lambda path: os.getxattr(path, "user.mine"),
    "link": lambda path: os.link(path, path.with_name("another")),
}


@pytest.mark.parametrize("target", ["link", "file"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_acts_on_the_object_that_the_kernel_has_checked(
    trusting: tuple[Mounted, Path], call: str, target: str
) -> None:
    """Another user puts a file of root under a name that leads to a file of that user in the kernel's cache."""
    mounted, store = trusting
    own, secrets = keep_secrets(store, f"{call}-{target}")
    there = mounted.path / own.name

    def swap() -> object:
        (own / "x").write_bytes(b"mine")  # not through the mount: a call may use a file whose release still runs
        os.stat(there / "x")
        if target == "link":
            os.symlink(f"../{secrets[0].name}", own / "new")
            os.rename(own / "new", own / "x")
        else:
            os.rename(own / "file", own / "x")
        return CALLS[call](there / "x")

    before = [state(path) for path in secrets]
    found = as_nobody(swap)
    moved = [secrets[0], own / "x" if target == "file" else own / "file", secrets[2]]
    assert [state(path) for path in moved] == before
    if (call, target) == ("link", "link"):
        assert found is None  # of the symbolic link itself
    else:
        assert found in (-errno.EACCES, -errno.EPERM)
    assert secrets[0].stat().st_nlink == moved[1].stat().st_nlink == 1


IN_DIRECTORY: dict[str, Callable[[Path], object]] = {
    "read": lambda path: (path / "file").read_bytes(),
    "list": lambda path: os.listdir(path),
    "create": lambda path: (path / "new").write_bytes(b"mine"),
    "unlink": lambda path: os.unlink(path / "file"),
    "rename": lambda path: os.rename(path / "file", path.with_name("taken")),
    "mkdir": lambda path: os.mkdir(path / "new"),
}


@pytest.mark.parametrize("target", ["link", "folder"])
@pytest.mark.parametrize("call", IN_DIRECTORY)
def test_a_name_is_looked_up_in_the_directory_that_the_kernel_has_checked(
    trusting: tuple[Mounted, Path], call: str, target: str
) -> None:
    mounted, store = trusting
    own, secrets = keep_secrets(store, f"directory-{call}-{target}")
    there = mounted.path / own.name

    def swap() -> object:
        os.mkdir(there / "d")
        os.stat(there / "d")
        os.rename(own / "d", own / "d2")
        if target == "link":
            os.symlink("folder", own / "d")
        else:
            os.rename(own / "folder", own / "d")
        return IN_DIRECTORY[call](there / "d")

    before = state(secrets[2])
    assert as_nobody(swap) in (-errno.EACCES, -errno.ESTALE)
    folder = own / ("folder" if target == "link" else "d")
    assert os.listdir(folder) == ["file"]
    assert state(folder / "file") == before
