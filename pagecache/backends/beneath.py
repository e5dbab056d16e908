"""Names below a directory, resolved so that no path leads outside of it, and one name per object.

`Tree.locate` walks a key component by component through open directories, as openat2(RESOLVE_BENEATH) would, and
follows symbolic links itself. If a name is exchanged during the walk, the result is an error or another place below the
root, never a place outside: every step starts from a directory that is held open, and none follows an unchecked link.

    key "a//./link/x"  ->  Place(directory=<fd of a/b>, name="x", path="a/b/x", found=<stat or None>)

`Identities` maps all names of one object to one path, the *token*. The path without links suffices while an object has
one name. For objects with several names, and for open ones, (st_dev, st_ino) is stored with the path under which the
object was first seen, which is the token of all its names. This is safe because:

* An open object cannot lose its inode number to another one, so its token stays valid, whatever its names are
  (*pinned*).
* An unpinned token is used only after a check that its path still leads to the object; if the inode number was reused,
  it does not, or the object is the one that has the path now.
* A path that is the pinned token of an object which no longer has that name is not given to the next one: that one gets
  "./path", which leads to the place by another token.
* The call that removes the last name of an object also removes its entry.

`Unsynced` keeps the directories whose names changed since they were last made durable, and the current names of open
files.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

from ..errors import Key
from . import linux
from .protocol import CheckedKey

__all__ = ["Identities", "Object", "Place", "Tree", "Unsynced", "check_object", "parts_of"]

LINKS_MAX = 40  # the kernel's limit
RESERVE = 8
"""Descriptors that a tree keeps for syncs of directories: a program that has used up its descriptors can still commit,
so that idle files can be closed.
"""
WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
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
        raise _elsewhere(key)


def _elsewhere(key: Key) -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), key)


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
    def locate(self, key: Key, *, follow: bool = True) -> Iterator[Place]:
        """Context with the place of a key; intermediate links are always followed, the last one if `follow`. Those of a
        `CheckedKey` never are.

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
        finally:
            for fd, _ in held:
                os.close(fd)

    def _check(self, key: CheckedKey, place: Place) -> None:
        if key.directory is not None and key.directory != linux.status_of(place.directory).identity:
            raise _elsewhere(key)
        if place.found is not None:
            check_object(key, place.found)

    def _walk(self, key: Key, todo: list[str], held: list[tuple[int, str]], follow: bool) -> Place:
        """Resolve the components in `todo`, the next one last; `held` is the chain of directories from the root."""
        links = 0
        while todo:
            part, here = todo.pop(), held[-1][0]
            if part == "..":  # from a link: in a key it is refused
                if len(held) == 1:
                    raise self._outside(key)
                os.close(held.pop()[0])
                continue
            found = self._lstat(part, here, may_miss=not todo)
            if found is not None and stat.S_ISLNK(found.st_mode) and (todo or follow):
                if isinstance(key, CheckedKey):
                    raise _elsewhere(key)
                links += 1
                if links > LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), key)
                todo += self._target(key, os.readlink(part, dir_fd=here), held)
            elif not todo:
                return Place(here, part, "/".join([*(name for _, name in held[1:]), part]), found)
            else:
                held.append((os.open(part, WALK, dir_fd=here), part))
        here = held[-1][0]
        return Place(here, ".", "/".join(name for _, name in held[1:]), linux.status_of(here))

    def _lstat(self, name: str, directory: int, may_miss: bool) -> linux.Status | None:
        try:
            return linux.status(name, directory)
        except FileNotFoundError:
            if may_miss:
                return None
            raise

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


@dataclass(slots=True, eq=False)
class Object:
    """The identity, token and pins of one object."""

    identity: tuple[int, int]  # st_dev, st_ino
    token: str
    pins: int = 0  # open files: while there are any, the inode number cannot be reused


class Identities:
    """The tokens of objects that are open or have several names. Thread-safe."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.RLock()  # re-entrant: a file that is garbage-collected under the lock unpins its object
        self._objects: dict[tuple[int, int], Object] = {}
        self._tokens: dict[str, Object] = {}

    def token(self, place: Place) -> str:
        """Return the token of the object or symbolic link at a place, or of an object that would be created there."""
        found = place.found
        with self._lock:
            if found is None or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
                return self._free_token(place.path)
            known = self._known(found, place.path)
            if known is None and found.st_nlink > 1:
                known = self._add(found, place.path)
            return self._free_token(place.path) if known is None else known.token

    def pin(self, found: linux.Status, path: str) -> Object:
        """Pin an opened object; `found` is the stat result of its descriptor."""
        with self._lock:
            known = self._known(found, path) or self._add(found, path)
            known.pins += 1
            return known

    def unpin(self, known: Object, links: int) -> None:
        """Unpin an object before its close; `links`: the number of its remaining names."""
        with self._lock:
            known.pins -= 1
            if known.pins == 0 and links <= 1:
                self._drop(known)

    def linked(self, found: linux.Status, path: str) -> None:
        """Record a second name of an object; the first one, which may be in use, becomes the token."""
        with self._lock:
            if self._known(found, path) is None:
                self._add(found, path)

    def gone(self, found: linux.Status) -> None:
        """Forget an object that lost its last name."""
        with self._lock:
            known = self._objects.get((found.st_dev, found.st_ino))
            if known is not None:
                self._drop(known)

    def changing(self) -> AbstractContextManager[object]:
        """Context in which a name moves from one object to another, reported by `moved`. No tokens are given out during
        it: a lookup of the object by its new name would return the token of the old one, and open the object a second
        time.
        """
        return self._lock

    def moved(self, src: str, dst: str) -> None:
        """Record that a name, and everything below it, was renamed."""
        with self._lock:
            for known in list(self._objects.values()):
                if known.token == src or known.token.startswith(src + "/"):
                    del self._tokens[known.token]
                    known.token = self._free_token(dst + known.token[len(src) :])
                    self._tokens[known.token] = known

    def _known(self, found: linux.Status, path: str) -> Object | None:
        known = self._objects.get((found.st_dev, found.st_ino))
        if known is None or known.pins or known.token == path or self._lives_at(known):
            return known
        self._drop(known)
        return None

    def _add(self, found: linux.Status, path: str) -> Object:
        known = Object((found.st_dev, found.st_ino), self._free_token(path))
        self._objects[known.identity] = self._tokens[known.token] = known
        return known

    def _drop(self, known: Object) -> None:
        if self._objects.get(known.identity) is known:
            del self._objects[known.identity]
            del self._tokens[known.token]

    def _free_token(self, path: str) -> str:
        """Return the path, in the first spelling that is not the token of another object."""
        token = path
        while (owner := self._tokens.get(token)) is not None:
            if not owner.pins and not self._lives_at(owner):
                self._drop(owner)
                break
            token = "./" + token
        return token

    def _lives_at(self, known: Object) -> bool:
        try:
            with self._tree.locate(known.token, follow=False) as place:
                found = place.found
        except OSError:
            return False
        return found is not None and (found.st_dev, found.st_ino) == known.identity


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
        try:
            with self._tree.locate(path, follow=False) as place:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(place.name, flags, dir_fd=place.directory)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            pass  # removed, together with its names
