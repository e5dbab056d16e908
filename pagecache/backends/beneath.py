"""Names below a directory, resolved so that no path leads outside of it.

`Tree.locate` walks a key component by component through open directories, as openat2(RESOLVE_BENEATH) would. The walk
itself is in C, and follows no symbolic link: it stops there. `locate` puts the link's target into the path and walks
again from the root; a ".." of the target shortens that path. A name that is exchanged during the walk is looked up
again. The result is a place below the root or an error, never a place outside: every step starts from a directory that
is held open, and none follows a link or "..".

    key "a//./link/x"  ->  Place(directory=<fd of a/b>, name="x", path="a/b/x", found=<status or None>)

`Unsynced` keeps the directories whose names changed since they were last made durable, by identity, as other programs
may rename them.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, TypeAlias

from ..errors import Key, os_error
from ..native import names
from .protocol import CheckedKey, ObjectStat

LINKS_MAX = 40  # the kernel's limit
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
CHANGED_MAX = 10_000  # directories that `Unsynced` keeps
Identity: TypeAlias = Any  # device, inode number and birth time; None: of objects that are not known


class Place(names.Place):
    """The place of a key: a name in an open directory. As a context it closes the directory at the end, and errors name
    the key.

    Attributes:
        directory: descriptor.
        name: in it; "." for the root itself.
        path: from the root, without links; "" for the root itself.
        parent: path of the directory.
        found: status of the name, links not followed, made anew each time; None: nothing is there.
        kind: of it.
        rest: text behind a link or ".." at which the walk has stopped; None: it has reached the end.
    """

    __slots__ = ()

    def __exit__(self, _type: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        self.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.key) from None  # not the component in the directory


def check_object(key: Key, found: ObjectStat | None) -> None:
    """Check that a found object, if there is one, is the one of a `CheckedKey`.

    Raises:
        OSError: ESTALE: it is another one.
    """
    if isinstance(key, CheckedKey) and found is not None and key.object not in (None, found.identity):
        raise os_error(errno.ESTALE, key)


def path_of(key: Key) -> str:
    """Return the path of a key, as it is spelled.

    Raises:
        ValueError: no object below a root can have this key; names it and the rule.
    """
    if type(key) is str and key.isascii() and "\0" not in key and ".." not in key and not key.startswith("/"):
        return key
    path = os.fspath(key) if isinstance(key, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ValueError(f"{key!r} is not a key of a directory: it must be a str or an os.PathLike of str")
    if "\0" in path:
        raise ValueError(f"{key!r} is not a key of a directory: it has a NUL character")
    if path.startswith("/"):
        raise ValueError(f"{key!r} is not a key of a directory: it is absolute")
    if not path.isascii():
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise ValueError(f"{key!r} is not a key of a directory: {error.reason}") from None
    if ".." in path and ".." in path.split("/"):
        raise ValueError(f"{key!r} is not a key of a directory: it has a '..'")
    return path


def directories_above(path: str) -> Iterator[str]:
    """Yield the paths of the directories above a path, from the top, without the root."""
    return (path[: slash.start()] for slash in re.finditer("/", path))


class Tree:
    """All names below one directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.top = names.Descriptor(-1, self.root, DIRECTORY)
        self.identity: Identity = names.status(self.top.fd).identity

    def close(self) -> None:
        self.top.close()

    def locate(self, key: Key, *, follow: bool = True) -> Place:
        """Return the place of a key; intermediate links are always followed, the last one if `follow`. Those of a
        `CheckedKey` never are. Errors name the key.

        Raises:
            ValueError: not a key.
            FileNotFoundError, NotADirectoryError: of an intermediate component.
            PermissionError: a link leads out of the root.
            OSError: ELOOP: too many links; ESTALE: a `CheckedKey` leads elsewhere.
        """
        path = path_of(key)  # first: once `fd` is read nothing may run that closes the tree
        if not isinstance(key, CheckedKey):
            place = Place(self.top.fd, path, follow, key)
            return place if place.rest is None else self._follow(place, follow)
        place = Place(self.top.fd, path, False, key)
        try:
            other = key.directory is not None and key.directory != names.status(place.directory).identity
            if other or place.rest is not None:
                raise os_error(errno.ESTALE, key)
            check_object(key, place.found)
        except BaseException:
            place.close()  # the error may live long
            raise
        return place

    def find(self, key: Key, *, follow: bool = True) -> ObjectStat | None:
        """Return the status of what a key leads to; None: nothing. As `locate`, without a place."""
        if not isinstance(key, CheckedKey):
            path = path_of(key)
            found: ObjectStat | Literal[False] | None = names.found(self.top.fd, path, follow, key)
            if found is not False:
                return found
        with self.locate(key, follow=follow) as place:
            return place.found

    def path_to(self, fd: int) -> str | None:
        """Return the path by which an open file was found, through renames; None: it is unknown or gone."""
        try:
            root, path = (os.readlink(f"/proc/self/fd/{n}") for n in (self.top.fd, fd))
        except OSError:
            return None
        root = root.rstrip("/") + "/"
        return path[len(root) :] if path.startswith(root) and not path.endswith(" (deleted)") else None

    def _follow(self, place: Place, follow: bool) -> Place:
        """Go on from a place at which a walk has stopped."""
        links = 0  # that were followed, and names that were exchanged in the meantime
        while place.rest is not None:
            with place:
                base, target = place.parent, ""
                if place.name == "..":
                    if not base:
                        raise self._outside()
                    base = base.rpartition("/")[0]
                else:
                    links += 1
                    if links > LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    base, target = self._target(place)
            place = Place(self.top.fd, f"{base}/{target}/{place.rest}", follow, place.key)
        return place

    def _target(self, place: Place) -> tuple[str, str]:
        """Return the target of a link, and the path from which it leads. An absolute one leads from the root."""
        try:
            target = os.readlink(place.name, dir_fd=place.directory)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            target = place.name  # something else has the name since: look again
        if not target.startswith("/"):
            return place.parent, target
        if target != self.root and not target.startswith(self.root.rstrip("/") + "/"):
            raise self._outside()
        return "", target[len(self.root) :]

    def _outside(self) -> PermissionError:
        return PermissionError(errno.EACCES, f"a symbolic link leads out of the root {self.root!r}")


class Unsynced:
    """Directories that must be synced before their names are durable. Thread-safe."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()  # guards the directories; held briefly
        # Held during the syncs: a caller that finds nothing to sync has waited for them.
        self._syncing = threading.Lock()
        self._directories: dict[Identity, tuple[str, object]] = {}  # each with its path and a mark of its last change

    def add(self, *places: Place) -> dict[Identity, str]:
        """Record a change of names in the directories of places, and return these with their paths."""
        top = self._tree.identity
        changed = {names.status(each.directory).identity if each.parent else top: each.parent for each in places}
        self._mark(changed)
        return changed

    def _mark(self, changed: dict[Identity, str]) -> None:
        mark = object()
        with self._lock:
            for identity, path in changed.items():
                self._directories[identity] = path, mark
            if len(self._directories) > CHANGED_MAX:
                self._directories = {None: ("", object())}

    def renamed(self, old: Place, new: Place, changed: dict[Identity, str]) -> None:
        """Record that a name has changed in the directories that `add` has returned, and the paths of all directories
        below it.
        """
        self._mark(changed)
        if old.kind == "dir":
            with self._lock:
                for identity, (path, _) in self._directories.items():
                    if f"{path}/".startswith(f"{old.path}/"):
                        self._directories[identity] = (new.path + path[len(old.path) :], object())

    def removed(self, place: Place) -> None:
        """Record that a directory was removed: it has no names."""
        self.add(place)
        if place.found is not None:
            with self._lock:
                self._directories.pop(place.found.identity, None)

    def sync(self, above: int | None = None) -> None:
        """Make all names durable, or only those that lead to the open file `above`."""
        with self._syncing:
            end: str | None = None
            while self._directories:
                before, end = end, None if above is None else self._tree.path_to(above)
                if end is not None and end == before:
                    return  # it had this path until the syncs were over: none of them has met a rename
                if end is None or not self._sync_above(end):
                    self._sync_all()
                    return

    def _sync_above(self, end: str) -> bool:
        """Sync the changed directories on the way to a path. Return False if one is not found."""
        way: dict[str, Identity] = {"": self._tree.identity}
        try:
            for path in directories_above(end):
                way[path] = names.status(self._tree.top.fd, path).identity
        except OSError:
            return False
        on_way = set(way.values())
        with self._lock:
            changed = {i: mark for i, mark in self._directories.items() if i in on_way or mark[0] in way}
        # If another program has renamed a directory, a name may have changed in any of them.
        renamed = any(way.get(path) != identity for identity, (path, _) in changed.items())
        if not all(self._sync(path, i) for path, i in way.items() if renamed or i in changed):
            return False
        self._forget({i: mark for i, mark in changed.items() if i in on_way})
        return True

    def _sync_all(self) -> None:
        """Sync all changed directories, and the whole file system of one that is not found."""
        with self._lock:
            changed = self._directories.copy()
        lost = {i and i[0] for i, (path, _) in changed.items() if not self._sync(path, i)}
        if lost == {self._tree.identity[0]}:
            names.sync_file_system(self._tree.top.fd)
        elif lost:
            os.sync()
        self._forget(changed)

    def _forget(self, synced: dict[Identity, tuple[str, object]]) -> None:
        with self._lock:
            for identity, mark in synced.items():
                if self._directories.get(identity) is mark:  # later changes of names need the next sync
                    del self._directories[identity]

    def _sync(self, path: str, identity: Identity) -> bool:
        """Sync a directory. Return False if it is not found: another program has renamed or removed it, or the process
        has no descriptor left. Links on the way may lead anywhere, as the identity decides.
        """
        try:
            directory = names.Descriptor(self._tree.top.fd, path or ".", DIRECTORY)
        except OSError:
            return False
        with directory:
            found = bool(names.status(directory.fd).identity == identity)
            if found:
                os.fsync(directory.fd)
        return found
