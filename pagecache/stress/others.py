"""Another program: it changes names in the store, past the cache.

Its new object is a draft that is renamed over the name. It renames and removes objects of the cache, whose handles keep
them. The program has a backend of its own, if the factory makes a second one over the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pagecache.backends.protocol import Backend
from pagecache.stress.objects import Objects

__all__ = ["Others"]


class Others:
    """The other program of a round.

    Args:
        objects: the tester's access to the store; its files exist.
        factory: makes backends.
    """

    def __init__(self, objects: Objects, factory: Callable[[], Backend]) -> None:
        self._objects = objects
        self._backend = factory()
        try:
            self._backend.stat(objects.key(0))
        except FileNotFoundError:  # a store of its own
            self._backend.close()
            self._backend = objects.backend

    def why_not(self) -> str:
        """Return why there can be no other program; "": there can."""
        if self._backend.limits.commit_on_close:
            return "another program stores other versions of whole objects: for that there is --mix rivals"
        if self._backend.stat(self._objects.key(0)).nlink is None:
            return "its objects have no number of names: a remove would not miss a rename beside it"
        return ""

    def close(self) -> None:
        if self._backend is not self._objects.backend:
            self._backend.close()

    def change(self, change: str, name: str, *arguments: Any) -> None:
        """Change a name; see `targets.Target.elsewhere`."""
        key = self._objects.key(name)
        if change == "put":
            content, draft = arguments
            self._objects.put(draft, 0, content)
            self._backend.rename(self._objects.key(draft), key)
        elif change == "rename":
            self._backend.rename(key, self._objects.key(arguments[0]))
        else:
            self._backend.remove(key)
