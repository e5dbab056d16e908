"""Names below a directory, resolved so that no path leads outside of it.

`Tree.locate` walks a key component by component through open directories, as openat2(RESOLVE_BENEATH) would. The walk
itself is in C, and follows no symbolic link: it stops there. `locate` puts the link's target into the path and walks
again from the root; a ".." of the target shortens that path. A name that is exchanged during the walk is looked up
again. The result is a place below the root or an error, never a place outside: every step starts from a directory that
is held open, and none follows a link or "..".

    key "a//./link/x"  ->  Place(directory=<fd of a/b>, name="x", path="a/b/x", found=<status or None>)

`Unsynced` keeps the directories whose names changed since they were last made durable.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from ..errors import Key, os_error
from ..native import names
from .protocol import CheckedKey, ObjectStat

__all__ = ["LINKS_MAX", "Place", "Tree", "Unsynced", "check_object", "path_of"]

LINKS_MAX = 40  # the kernel's limit
RESERVE = 8
"""Descriptors that a tree keeps for syncs of directories: a program that has used up its descriptors can still commit,
so that idle files can be closed.
"""


class Place(names.Place):
    """The place of a key: a name in an open directory. As a context it closes the directory at the end, and errors name
    the key.

    Attributes:
        directory: descriptor.
        name: in it; "." for the root itself.
        path: from the root, without links; "" for the root itself.
        parent: path of the directory.
        found: status of the name, links not followed; None: nothing is there.
        rest: text behind a link or ".." at which the walk has stopped; None: it has reached the end.
    """

    __slots__ = ()

    def __exit__(self, _type: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        self.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.key) from None  # not the component in the directory


def check_object(key: Key, found: ObjectStat) -> None:
    """Check that a found object is the one of a `CheckedKey`.

    Raises:
        OSError: ESTALE: it is another one.
    """
    if isinstance(key, CheckedKey) and key.object not in (None, found.identity):
        raise os_error(errno.ESTALE, key)


def path_of(key: Key) -> str:
    """Return the path of a key, as it is spelled.

    Raises:
        ValueError: no object below a root can have this key; names it and the rule.
    """
    path = os.fspath(key) if isinstance(key, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ValueError(f"{key!r} is not a key of a directory: it must be a str or an os.PathLike of str")
    if "\0" in path:
        raise ValueError(f"{key!r} is not a key of a directory: it has a NUL character")
    if path.startswith("/"):
        raise ValueError(f"{key!r} is not a key of a directory: it is absolute")
    if ".." in path and ".." in path.split("/"):
        raise ValueError(f"{key!r} is not a key of a directory: it has a '..'")
    return path


class Tree:
    """All names below one directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._reserve: list[int] = []  # changed by close, and under `Unsynced._syncing`
        self._fill_reserve()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self._close_reserve()

    @contextmanager
    def without_reserve(self) -> Iterator[None]:
        """Context in which the reserved descriptors are free for use."""
        self._close_reserve()
        try:
            yield
        finally:
            self._fill_reserve()

    def _close_reserve(self) -> None:
        while self._reserve:
            os.close(self._reserve.pop())

    def _fill_reserve(self) -> None:
        with suppress(OSError):  # the next one fills it
            while len(self._reserve) < RESERVE and self.fd >= 0:
                self._reserve.append(os.dup(self.fd))

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
            place = Place(self.fd, path, follow, key)
            return place if place.rest is None else self._follow(place, follow)
        place = Place(self.fd, path, False, key)
        try:
            other = key.directory is not None and key.directory != names.status(place.directory).identity
            if other or place.rest is not None:
                raise os_error(errno.ESTALE, key)
            if place.found is not None:
                check_object(key, place.found)
        except BaseException:
            place.close()  # the error may live long
            raise
        return place

    def path_to(self, fd: int) -> str | None:
        """Return the path by which an open file was found, through renames; None: it is unknown or gone."""
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
            if not os.path.samestat(os.stat(self.root), os.fstat(self.fd)):
                return None  # the root has another path now
        except OSError:
            return None
        root = self.root.rstrip("/") + "/"
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
            place = Place(self.fd, f"{base}/{target}/{place.rest}", follow, place.key)
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
        self._lock = threading.Lock()  # guards the paths; held briefly
        # Held during the syncs: a caller that finds nothing to sync has waited for them.
        self._syncing = threading.Lock()
        self._paths: dict[str, object] = {}  # each with a mark of its last change

    def add(self, *paths: str) -> None:
        with self._lock:
            self._paths.update(dict.fromkeys(paths, object()))

    def renamed(self, old: Place, new: Place) -> None:
        """Record that a name is about to change, and again that it has: a concurrent commit finds its file by either
        path.
        """
        assert old.found is not None
        with self._lock:
            if old.found.kind == "dir":
                below = [path for path in self._paths if path == old.path or path.startswith(old.path + "/")]
                self._paths.update((new.path + path[len(old.path) :], object()) for path in below)
            self._paths.update(dict.fromkeys((old.parent, new.parent), object()))

    def sync(self, above: int | None = None) -> None:
        """Make all names durable, or only those that lead to the open file `above`."""
        with self._syncing:
            end: str | None = None
            while self._paths:
                before, end = end, None if above is None else self._tree.path_to(above)
                if end is not None and end == before:
                    return  # it had this path until the syncs were over: none of them has met a rename
                self._sync_above(end)
                if end is None:
                    return

    def _sync_above(self, end: str | None) -> None:
        """Sync the directories on the way to a path, or all."""
        with self._lock:
            changed = {
                path: mark
                for path, mark in self._paths.items()
                if end is None or not path or end.startswith(f"{path}/")
            }
        for path, mark in changed.items():
            self._sync_reserved(path)
            with self._lock:
                if self._paths.get(path) is mark:  # later changes of names need the next sync
                    del self._paths[path]

    def _sync_reserved(self, path: str) -> None:
        try:
            self._sync(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            with self._tree.without_reserve():
                self._sync(path)

    def _sync(self, path: str) -> None:
        """Sync a directory, unless it was removed or moved, together with its names, or a link has its place, or that
        of a directory above it.
        """
        try:
            with self._tree.locate(CheckedKey(path)) as place:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(place.name, flags, dir_fd=place.directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
