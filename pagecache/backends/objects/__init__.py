"""Stores of whole objects: objects become visible by a commit, which replaces one version by another.

    names.py      open files by name; removes and renames
    draft.py      the versions of one open object
    store.py      the requests that both need, implemented by each kind of store

Everything that makes requests is a coroutine, for blocking and asynchronous stores. Those of a blocking store never
suspend, so `run` carries them out on the calling thread.
"""

from __future__ import annotations

from .draft import Draft
from .names import Names, OpenObject
from .store import Store, run

__all__ = ["Draft", "Names", "OpenObject", "Store", "run"]
