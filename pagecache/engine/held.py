"""Global references to backends and their open files, for caches that the program drops with unsaved bytes.

A cache, its volumes and its files refer to each other. When the program has dropped them all, the garbage collector
finds them together and runs every finaliser among them, before the threads of the cache can save anything. A file of a
backend that closes its descriptor in its finaliser would be closed by then, and weak references inside a backend would
be cleared. So the objects of a backend are not among them:

    While a handle of a volume is open, or anything of the volume is local or uncommitted, `_held` refers to its backend
    and to each file that this backend has open for it; the same for a mirror.

A handle takes the reference when it is counted. The flusher drops it when the volume has neither handles nor unsaved
bytes: no write has anything to do for it. The end of the volume drops it too.
"""

from __future__ import annotations

import os

from ..backends.protocol import Backend, BackendFile
from .blocking import original, original_file

_held: set[Held] = set()

# A child has no threads that save anything: caches that it drops are freed with their files.
os.register_at_fork(after_in_child=_held.clear)


class Held:
    """The objects of a volume that belong to its backend and its mirror.

    It refers to the objects that the program has made, or its backend: the adapters of asynchronous backends refer to
    the cache.
    """

    def __init__(self) -> None:
        self._backends: dict[str, object] = {}
        self._files: dict[int, tuple[object, ...]] = {}

    def use(self, role: str, backend: Backend) -> None:
        """Hold a backend in place of the previous one with this role."""
        self._backends[role] = original(backend)

    def set_files(self, owner: object, *files: BackendFile | None) -> None:
        """Hold the open files of one object in place of its previous ones."""
        opened = tuple(original_file(file) for file in files if file is not None)
        if opened:
            self._files[id(owner)] = opened
        else:
            self._files.pop(id(owner), None)

    def keep(self) -> None:
        """Refer to all of it from a global."""
        _held.add(self)

    def let_go(self) -> None:
        _held.discard(self)

    def end(self) -> None:
        _held.discard(self)
        self._backends.clear()
        self._files.clear()
