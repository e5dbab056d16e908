"""Another program: it changes names in the store, past the cache.

    stored in place    its new object is a draft that is renamed over the name; it renames and removes objects. Not if
                       the backend may die: a reconnect does not find an object by a name that it does not know, a
                       call without an answer may land after the program's next change, and a conflict has no key [2.22]
    whole objects      its put is another version of the object that has the name; it removes objects

It renames and removes objects of the cache, whose handles keep them. The program has a backend of its own, if the
factory makes a second one over the store: the cache's backend has records of its own drafts and names. A store without
conditions compares a version and replaces it by two requests, and another program may come in between; no cache can
help that. So whole objects get a layer below the cache, in which a change of the other program is one step.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import Key
from pagecache.stress.mounted import Mappings
from pagecache.stress.objects import TRIES, Objects, insisting


class Others:
    """The other program of a round.

    Args:
        objects: the tester's access to the store; its files exist.
        factory: makes backends.
        whole: objects are replaced as a whole.
        dies: the backend may die.
    """

    def __init__(self, objects: Objects, factory: Callable[[], Backend], *, whole: bool, dies: bool = False) -> None:
        self._objects, self._whole, self._dies = objects, whole, dies
        self._calls = Mappings()  # of the cache, or changes of this program
        self._one = threading.Lock()  # its changes are one at a time
        self._backend = factory()
        try:
            self._backend.stat(objects.key(0))
        except FileNotFoundError:  # a store of its own
            self._backend.close()
            self._backend = objects.backend

    def why_not(self) -> str:
        """Return why there can be no other program; "": there can."""
        if self._whole and self._backend is self._objects.backend:
            return "the factory makes no second backend over the store, and another program needs one"
        if not self._whole and self._backend.stat(self._objects.key(0)).nlink is None:
            return "its objects have no number of names: a remove would not miss a rename beside it"
        if not self._whole and self._dies:
            return "the backend may die, and a reconnect would not find an object that another program has renamed"
        return ""

    def between(self, backend: Backend) -> Backend:
        """Return a layer below the cache, whose calls are not beside changes of this program."""
        return _Alternating(backend, self._calls)

    def close(self) -> None:
        if self._backend is not self._objects.backend:
            self._backend.close()

    def change(self, change: str, name: str, *arguments: Any) -> None:
        """Change a name; see `targets.Target.elsewhere`."""
        key = self._objects.key(name)
        if self._whole:
            with self._one, self._calls.cutting():
                self._replace(key, arguments[0]) if change == "put" else self._backend.remove(key)
        elif change == "put":
            content, draft = arguments
            self._objects.put(draft, 0, content)
            self._backend.rename(self._objects.key(draft), key)
        elif change == "rename":
            self._backend.rename(key, self._objects.key(arguments[0]))
        else:
            self._backend.remove(key)

    def _replace(self, key: Key, data: bytes) -> None:
        """Store another version of an object."""
        put = partial(self._objects.put_once, key, 0, data, True, self._backend)
        for left in reversed(range(TRIES)):
            try:
                insisting(put)
                break
            except OSError as error:
                if error.errno != errno.ESTALE or not left:  # the cache has stored a version since
                    raise


class _Alternating(PassingBackend):
    """The inner backend, each of whose calls is counted while it runs."""

    def __init__(self, inner: Backend, calls: Mappings) -> None:
        super().__init__(inner)
        self._calls = calls
        _count(self, inner, ("stat", "remove", "rename"), calls)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        with self._calls.mapped():
            inner = self.inner.open(key, create=create, exclusive=exclusive)
        file = PassingFile(inner)
        _count(file, inner, ("stat", "read_into", "write_from", "truncate", "commit", "rollback"), self._calls)
        return file


def _count(made: object, inner: object, methods: tuple[str, ...], calls: Mappings) -> None:
    for method in methods:
        if hasattr(inner, method):
            setattr(made, method, calls.mapped()(getattr(inner, method)))
