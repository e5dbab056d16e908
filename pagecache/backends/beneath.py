"""Names below a directory, resolved so that no path leads outside of it.

`Tree.locate` walks a key component by component through open directories, as openat2(RESOLVE_BENEATH) would, and
follows symbolic links itself. A name that is exchanged during the walk is looked up again. The result is a place below
the root or an error, never a place outside: every step starts from a directory that is held open, and none follows an
unchecked link.

    key "a//./link/x"  ->  Place(directory=<fd of a/b>, name="x", path="a/b/x", found=<stat or None>)

`Unsynced` keeps the directories whose names changed since they were last made durable, and the current names of open
files.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import Key, os_error
from . import linux
from .protocol import CheckedKey

__all__ = ["LINKS_MAX", "Place", "Tree", "Unsynced", "check_object", "parts_of"]

LINKS_MAX = 40  # the kernel's limit
RESERVE = 8
"""Descriptors that a tree keeps for syncs of directories: a program that has used up its descriptors can still commit,
so that idle files can be closed.
"""
WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """The place of a key: a name in an open directory.

    Attributes:
        directory: descriptor, open as long as the place is in use.
        name: in it; "." for the root itself.
        path: from the root, without links; "" for the root itself.
        found: its status, links not followed; None: nothing is there.
    """

    directory: int
    name: str
    path: str
    found: linux.Status | None

    @property
    def parent(self) -> str:
        """Return the path of the directory that has the name."""
        return self.path.rpartition("/")[0]


def check_object(key: Key, found: linux.Status) -> None:
    """Check that a found object is the one of a `CheckedKey`.

    Raises:
        OSError: ESTALE: it is another one.
    """
    if isinstance(key, CheckedKey) and key.object not in (None, found.identity):
        raise os_error(errno.ESTALE, key)


def parts_of(key: Key) -> list[str]:
    """Return the components of a key.

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
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{key!r} is not a key of a directory: it has a '..'")
    return parts


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

    @contextmanager
    def locate(self, key: Key, *, follow: bool = True, other: Key | None = None) -> Iterator[Place]:
        """Context with the place of a key; intermediate links are always followed, the last one if `follow`. Those of a
        `CheckedKey` never are. Errors name the key, or `other` if they do already.

        Raises:
            ValueError: not a key.
            FileNotFoundError, NotADirectoryError: of an intermediate component.
            PermissionError: a link leads out of the root.
            OSError: ELOOP: too many links; ESTALE: a `CheckedKey` leads elsewhere.
        """
        todo = parts_of(key)[::-1]
        held: list[tuple[int, str]] = [(os.dup(self.fd), "")]
        try:
            place = self._walk(key, todo, held, follow and not isinstance(key, CheckedKey))
            if isinstance(key, CheckedKey):
                self._check(key, place)
            yield place
        except OSError as error:
            if isinstance(error, io.UnsupportedOperation) or (other is not None and error.filename == other):
                raise
            raise OSError(error.errno, error.strerror, key) from None  # not the component at which the walk ended
        finally:
            for fd, _ in held:
                os.close(fd)

    def _check(self, key: CheckedKey, place: Place) -> None:
        if key.directory is not None and key.directory != linux.status_of(place.directory).identity:
            raise os_error(errno.ESTALE, key)
        if place.found is not None:
            check_object(key, place.found)

    def _walk(self, key: Key, todo: list[str], held: list[tuple[int, str]], follow: bool) -> Place:
        """Resolve the components in `todo`, the next one last; `held` is the chain of directories from the root."""
        links = 0  # that were followed, and names that were exchanged in the meantime
        while todo:
            if links > LINKS_MAX:
                raise os_error(errno.ELOOP, key)
            part, here = todo.pop(), held[-1][0]
            if part == "..":  # from a link: in a key it is refused
                if len(held) == 1:
                    raise self._outside(key)
                os.close(held.pop()[0])
                continue
            try:
                found = linux.status(part, here)
            except FileNotFoundError:
                if todo:
                    raise
                found = None
            link = found is not None and stat.S_ISLNK(found.st_mode)
            if link and (todo or follow):
                if isinstance(key, CheckedKey):
                    raise os_error(errno.ESTALE, key)
                links += 1
            elif not todo:
                return Place(here, part, "/".join([*(name for _, name in held[1:]), part]), found)
            try:
                if link:
                    todo += self._target(key, os.readlink(part, dir_fd=here), held)
                else:
                    held.append((os.open(part, WALK, dir_fd=here), part))
            except OSError as error:
                directory = found is not None and stat.S_ISDIR(found.st_mode)
                if not (link and error.errno == errno.EINVAL) and not (directory and error.errno == errno.ENOTDIR):
                    raise
                links += not link
                todo.append(part)  # something else has the name since: look again
        here = held[-1][0]
        return Place(here, ".", "/".join(name for _, name in held[1:]), linux.status_of(here))

    def _target(self, key: Key, target: str, held: list[tuple[int, str]]) -> list[str]:
        """Return the components of a link's target, the next one last. An absolute target starts again from the
        root.
        """
        if target.startswith("/"):
            if target != self.root and not target.startswith(self.root.rstrip("/") + "/"):
                raise self._outside(key)
            target = target[len(self.root) :]
            while len(held) > 1:
                os.close(held.pop()[0])
        return [part for part in target.split("/") if part not in ("", ".")][::-1]

    def _outside(self, key: Key) -> PermissionError:
        return PermissionError(errno.EACCES, f"a symbolic link leads out of the root {self.root!r}", key)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Followed:
    """The current path of a name, through renames."""

    path: str


class Unsynced:
    """Directories that must be synced before their names are durable. Thread-safe."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()  # guards the set; held briefly
        # Held during the syncs: a caller that finds nothing to sync has waited for them.
        self._syncing = threading.Lock()
        self._paths: set[str] = set()
        self._followed: weakref.WeakSet[Followed] = weakref.WeakSet()

    def follow(self, path: str) -> Followed:
        """Follow the name of an open file."""
        followed = Followed(path)
        with self._lock:
            self._followed.add(followed)
        return followed

    def add(self, *paths: str) -> None:
        with self._lock:
            self._paths.update(paths)

    def moved(self, src: str, dst: str) -> None:
        """Record that a name, and everything below it, was renamed."""

        def now(path: str) -> str:
            return dst + path[len(src) :] if path == src or path.startswith(src + "/") else path

        with self._lock:
            self._paths = {now(path) for path in self._paths}
            for followed in self._followed:
                followed.path = now(followed.path)

    def sync(self, above: Followed | None = None) -> None:
        """Make all names durable, or only those that lead to `above`."""
        with self._syncing:
            with self._lock:
                end = None if above is None else above.path
                paths = [path for path in self._paths if end is None or not path or end.startswith(path + "/")]
            for path in paths:
                with self._lock:  # before the sync: later changes of names need the next one
                    self._paths.discard(path)
                try:
                    self._sync_reserved(path)
                except BaseException:
                    self.add(path)
                    raise

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
