"""Settings of the stress tester, each shared by many bugs: fields of `pagecache.stress.Plan`, and the store, if it is
not the backend in memory.

Files and cache are small: workers meet on shared pages, and pages come and go. Workers are few: with fewer overlapping
calls, the oracle is more exact about the possible content. Over a store that forgets uncommitted bytes: few operations
between two crashes, and commits that often fail.

A function of a store makes one, and returns a factory of backends over it, to be called again after a crash. The folder
for temporary files goes with the process.
"""

from __future__ import annotations

import errno
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from pagecache.backends import Backend, BackendFile, DirectoryBackend, MemoryBackend, ObjectStat
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import BackendError, Key
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..stores import ObjectBackend, PublishingBackend

Factory = Callable[[], Backend]


class ByName(PassingFile):
    """An object that is looked up by its name at each call, and has no identity."""

    def __init__(self, store: Backend, key: Key) -> None:
        self._store, self._key = store, key

    @property
    def inner(self) -> BackendFile:  # type: ignore[override]
        return self._store.open(self._key)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # no optional methods: those would be of one object

    def stat(self) -> ObjectStat:
        return replace(self.inner.stat(), identity=None)


class Names(PassingBackend):
    """A store that knows names only."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        self.inner.open(key, create=create, exclusive=exclusive)
        return ByName(self.inner, key)

    def stat(self, key: Key) -> ObjectStat:
        return replace(self.inner.stat(key), identity=None)


def store_by_name() -> Factory:
    """A store that looks objects up by their names."""
    inner = MemoryBackend()
    return lambda: Names(inner)


def always(store: Backend) -> Factory:
    return lambda: store


def object_store() -> Factory:
    """A store whose objects are replaced as a whole, in units, only over the version last seen."""
    return always(ObjectBackend(write_unit=1 << 14, max_write=1 << 14))


def whole_objects() -> Factory:
    """Objects of fsspec, which are replaced as a whole, often slowly, and known by their names."""
    fs, root = MemoryFileSystem(skip_instance_cache=True), f"planted-{random.random()}"
    store = fs.pipe_file

    def store_slowly(*content: Any, **options: Any) -> None:
        time.sleep(random.choice([0.0, 0.0, 0.01]))
        store(*content, **options)

    fs.pipe_file = store_slowly
    return lambda: FsspecBackend(fs, root)


def without_answers() -> Factory:
    """The store of `whole_objects`; half of the renames have no answer."""
    make = whole_objects()
    lost = Rule("rename", chance=0.5, done=True, error=BackendError(errno.EIO, "the answer is lost", retry=True))
    return lambda: FaultyBackend(make(), FaultPlan([lost], seed=1))


SMALL: dict[str, Any] = {"threads": 4, "tasks": 4, "files": 2, "size": "128KiB", "capacity": "128KiB", "operations": 60}
SMALL |= {"patience": 10.0}
SLOW = SMALL | {"profile": "generic-095", "faults": "slow"}
CROWD = SMALL | {"profile": "crowd", "tasks": 0, "files": 1, "capacity": "64KiB"}
CROSSING = SMALL | {"profile": "names", "mix": "shared", "files": 1}
REPLACED = SMALL | {"profile": "ends", "files": 1, "mix": "rivals,losses", "tasks": 0, "operations": 20}
REPLACED |= {"size": "64KiB", "capacity": "64KiB"}
FORGETTING = SMALL | {"crashes": "forgetting", "operations": 30}
COMMITS = FORGETTING | {"faults": "commits"}
DISK = FORGETTING | {"profile": "saving", "mix": "buffered,append,truncate", "disk": True, "durability": "disk"}
FEW = COMMITS | {"threads": 2, "tasks": 0, "operations": 12}

SETTINGS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "slow": SLOW,
    "flaky": SMALL | {"faults": "flaky"},
    "short": SMALL | {"faults": "short"},
    "past": SLOW | {"files": 1, "mix": "buffered,direct,parallel"},
    "late": SMALL | {"profile": "losses", "files": 1, "faults": "late"},
    "crowd": CROWD | {"threads": 12, "operations": 12, "faults": "slow"},
    "names": SMALL | {"profile": "metadata", "files": 4},
    "crossing": CROSSING,
    "crossing-faults": CROSSING | {"faults": "names"},
    "crossing-links": CROSSING | {"mix": "shared,links"},
    "crossing-wholes": CROSSING,
    "crossing-others": CROSSING | {"profile": "versions", "mix": "shared,others"},
    "crossing-by-name": CROSSING,
    "crossing-wholes-faults": CROSSING | {"faults": "names"},
    "crossing-wholes-deaths": CROSSING | {"faults": "deaths", "capacity": "64KiB"},
    "crossing-copies-deaths": CROSSING | {"faults": "deaths"},
    "replaced": REPLACED,
    "replaced-wholes": REPLACED,
    "withdrawn": SMALL | {"profile": "saving", "files": 1, "mix": "buffered,append", "tasks": 0, "operations": 10},
    "forgetting": COMMITS,
    "forgetting-names": FORGETTING | {"profile": "metadata"},
    "holes": FEW | {"mix": "buffered,punch"},
    "cuts": FEW | {"mix": "buffered,truncate"},
    "disk": DISK,
    "disk-holes": DISK | {"profile": "fsx", "mix": "buffered,punch,truncate", "files": 1},
    "disk-names": DISK | {"profile": "metadata", "mix": "buffered,truncate,names"},
    "saving": COMMITS | {"profile": "saving", "files": 1},
}
STORES: dict[str, Callable[[], Factory]] = {
    "crossing-links": lambda: partial(DirectoryBackend, tempfile.mkdtemp()),  # it has links
    "crossing-wholes": whole_objects,
    "crossing-others": whole_objects,
    "crossing-by-name": store_by_name,
    "crossing-wholes-faults": without_answers,
    "crossing-wholes-deaths": lambda: always(PublishingBackend()),  # a rename keeps the versions
    "crossing-copies-deaths": whole_objects,
    "replaced-wholes": object_store,
    "withdrawn": object_store,
}
