"""A store that forgets uncommitted changes at a crash: around any backend whose commit makes durable.

    cache ──▶ ForgettingBackend ── committed changes ──▶ inner backend
                    │
                    └─ in memory: changes of objects since their last commit, in order;
                       creations, renames and removals since the last `sync`, in order

`commit` carries over the changes of an object, with those of its name and all earlier ones, and commits them there;
`sync` carries over all changes of names. So the inner backend shows the result of a crash at any moment. A crash drops
the changes in memory, or keeps a part that a seed chooses: of the names a prefix, like the journal of a file system; of
the objects any change, and of a write any of its blocks.

A commit covers the writes that were acknowledged when it was requested, and no more. It waits for `lingers` seconds
before it is carried out, and before its reply, so that other calls overlap it. After a crash every call fails, until a
new store is put over the inner backend.
One lock covers everything but the calls that carry bytes over.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pagecache.backends.memory import MemoryBackend
from pagecache.backends.protocol import Backend, BackendFile, BackendLimits, ObjectStat, close_backend_file
from pagecache.errors import Key
from pagecache.stress.objects import read_whole, write_whole

BLOCK = 512
KEEP = (0.0, 0.5, 0.9)
"""Fractions of the changes in memory that a crash may leave in the store."""


@dataclass(slots=True)
class Change:
    """One change of an object by one call: bytes at an offset, a size, or a hole."""

    kind: Literal["write", "truncate", "punch"]
    offset: int
    data: bytes = b""
    length: int = 0

    def to(self, file: Any) -> None:
        """Apply the change to an object of a backend."""
        if self.kind == "truncate":
            file.truncate(self.offset)
        elif self.kind == "punch":
            file.punch_hole(self.offset, self.length)
        else:
            write_whole(file, self.offset, self.data, len(self.data))


VERSIONS = itertools.count(1)


@dataclass(slots=True, eq=False)
class Uncommitted:
    """One object: its current content, in `memory`, and the `changes` that the inner backend does not have yet."""

    inner: Any = None  # the object in the inner backend; None: created only here
    version: str | None = None  # changes with the content only, not when pending changes are carried over
    memory: Any = field(default_factory=lambda: MemoryBackend().open("object", create=True))
    changes: list[Change] = field(default_factory=list)
    visible: bool = True

    def changed(self) -> None:
        """Give the object a new version, after a change of its content."""
        self.version = f"apart {next(VERSIONS)}"

    def fill(self, content: bytes | bytearray) -> None:
        """Replace the content in memory."""
        self.memory.truncate(0)
        self.memory.write_from(0, [memoryview(content)])


class ForgettingBackend(Backend):
    """A store that forgets; see the top of this file.

    Args:
        inner: the backend for committed changes. `close` does not close it.
        limits: in place of the inner backend's.
        cannot: "rename", "remove" -> the inner backend's error for it. It is raised at the call, not when a name is
            carried over.

    Raises:
        ValueError: acknowledged means durable in `inner`: it may not forget.
    """

    lingers = 0.0

    def __init__(
        self, inner: Backend, limits: BackendLimits | None = None, *, cannot: Mapping[str, str] | None = None
    ) -> None:
        self.inner = inner
        self._cannot = dict(cannot or {})
        self.limits = replace(inner.limits if limits is None else limits)
        if self.limits.durable_writes:
            raise ValueError("limits: durable_writes promises that acknowledged bytes survive a crash")
        self._over = False
        self.lock = threading.RLock()  # protects everything below, and the order of carried changes
        self._objects: dict[Key, Uncommitted | None] = {}  # by current name; None: no such object
        self._all: list[Uncommitted] = []  # including those without a name
        # ("create", key, object), ("rename", src, object, dst, replaced one), ("remove", key, None, object)
        self._names: list[tuple[Any, ...]] = []

    # -- the crash

    def crash(self, rng: random.Random, *, names: bool = False) -> None:
        """Leave in the inner backend the state after a crash: the committed changes, and those others that `rng`
        chooses.

        Args:
            rng: decides.
            names: keep all creations, renames and removals.
        """
        with self.lock:
            keep = rng.choice(KEEP)
            count = len(self._names) if names else round(len(self._names) * rng.choice([0.0, 1.0, rng.random()]))
            if not self.limits.commit_on_close:
                self._carry_names(count)
                moving = [name[2] for name in self._names if len(name) > 2]
                for stored in self._all:
                    if not any(stored is one for one in moving):
                        self._leave(stored, rng, keep)
            self.inner.sync()
            self.release()

    def cut(self) -> None:
        """Carry out no call any longer; `crash` leaves the state of this moment."""
        with self.lock:
            self._over = True

    def release(self) -> None:
        """Close the objects of the inner backend; the store is not used afterwards."""
        with self.lock:
            self._over = True
            for stored in self._all:
                close_backend_file(stored.inner)
                stored.inner = None

    def _leave(self, stored: Uncommitted, rng: random.Random, keep: float) -> None:
        if stored.inner is None or not stored.changes:
            return
        for change in stored.changes:
            if change.kind != "write":
                if rng.random() < keep:
                    change.to(stored.inner)
                continue
            block = max(BLOCK, int(self.limits.write_unit))
            for at in range(0, len(change.data), block):
                if rng.random() < keep:
                    Change("write", change.offset + at, change.data[at : at + block]).to(stored.inner)
        stored.changes.clear()
        stored.inner.commit()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the lock, before a crash. Raises: OSError: there was one."""
        with self.lock:
            if self._over:
                raise OSError(errno.ENXIO, "the store is gone")
            yield

    def linger(self) -> None:
        """Delay a commit. The lock is not held."""
        if self.lingers:
            time.sleep(self.lingers)

    # -- names

    def _find(self, key: Key) -> Uncommitted | None:
        """Return the object of a name, visible or not; the lock is held."""
        name = self.inner.canonical(key)
        if name not in self._objects:
            try:
                inner = self.inner.open(key)
            except FileNotFoundError:
                return None
            stored = self._objects[name] = Uncommitted(inner, inner.stat().version)
            stored.fill(read_whole(inner, self.inner.limits))
            self._all.append(stored)
        return self._objects[name]

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        with self.alive():
            found = self._find(key)
            there = found is not None and found.visible
            if not there and not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
            if there and create and exclusive:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
            if found is None:
                found = Uncommitted(visible=not self.limits.commit_on_close)
                if found.visible:
                    found.changed()
                self._objects[self.inner.canonical(key)] = found
                self._all.append(found)
                self._name("create", key, found)
            return (ObjectFile if self.limits.commit_on_close else ForgettingFile)(self, found)

    def stat(self, key: Key) -> ObjectStat:
        with self.alive():
            found = self._find(key)
            if found is None or not found.visible:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
            if self.limits.commit_on_close:
                stat: ObjectStat = found.inner.stat()
                return replace(stat, version=found.version)
            return self.stat_of(found)

    def stat_of(self, stored: Uncommitted) -> ObjectStat:
        """Return the status of an object, including changes in memory; the lock is held."""
        stat = ObjectStat(size=0) if stored.inner is None else stored.inner.stat()
        lost = sum(name[0] != "create" and name[-1] is stored for name in self._names)  # the inner backend has these
        nlink = stat.nlink and stat.nlink - lost
        return replace(stat, size=stored.memory.stat().size, version=stored.version, nlink=nlink)

    def _can(self, what: str) -> None:
        if what in self._cannot:
            raise io.UnsupportedOperation(errno.EOPNOTSUPP, self._cannot[what])

    def remove(self, key: Key) -> None:
        self._can("remove")
        with self.alive():
            found = self._find(key)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
            self._objects[self.inner.canonical(key)] = None
            if found.inner is None and self.limits.commit_on_close:
                self._remove_replaced(key)
            else:
                self._name("remove", key, None, found)

    def _remove_replaced(self, key: Key) -> None:
        """Remove the object that the commit of one that was never committed would have replaced."""
        with suppress(FileNotFoundError):
            self.inner.remove(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self._can("rename")
        with self.alive():
            found, there = self._find(src), self._find(dst)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), src)
            if there is not None and there.visible and not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst)
            if found is there:
                return
            self._objects[self.inner.canonical(dst)] = found
            self._objects[self.inner.canonical(src)] = None
            if not self.limits.commit_on_close:
                self._name("rename", src, found, dst, there)
            elif found.inner is None:  # its commit replaces the object that has the new name, and no longer the old one
                self._remove_replaced(src)
                found.version = None if there is None else there.version
            else:
                self.inner.rename(src, dst)
                found.version = found.inner.stat().version  # the copy may be another one

    def canonical(self, key: Key) -> Key:
        with self.lock:  # a name that is carried over in this moment may lead to the object's other name
            return self.inner.canonical(key)

    def sync(self) -> None:
        with self.alive():
            self._carry_names(len(self._names))
            self.inner.sync()

    def close(self) -> None:
        """Do nothing: the inner backend goes on."""

    def _name(self, *what: Any) -> None:
        """Record a change of names; the lock is held. Objects that a commit makes visible keep no pending names."""
        if not self.limits.commit_on_close:
            self._names.append(what)
        elif what[0] == "remove":
            self.inner.remove(what[1])

    def _carry_names(self, count: int) -> None:
        """Carry over the first `count` changes of names, in order; each leaves the list when it is done."""
        for _ in range(count):
            what, key, *rest = self._names[0]
            if what == "create":
                if rest[0].inner is None:
                    rest[0].inner = self.inner.open(key, create=True)
            elif what == "rename":
                self.inner.rename(key, rest[1])
            else:
                self.inner.remove(key)
            del self._names[0]

    def carry(self, stored: Uncommitted, count: int) -> str | None:
        """Commit the first `count` changes of an object; the lock is held. Failures are repeatable: changes stay until
        the commit has succeeded.
        """
        # Under the current name: readers do not use earlier ones.
        given = [number for number, name in enumerate(self._names, 1) if len(name) > 2 and name[2] is stored]
        self._carry_names(max(given, default=0))
        if stored.inner is None:
            named = [name for name, found in self._objects.items() if found is stored]
            if named:
                stored.inner = self.inner.open(named[0], create=True)
                stored.inner.truncate(0)  # drop the content of the object that the rename replaced
            else:  # it lost its name before it was stored
                return None
        changes = stored.changes[:count]
        for change in changes:
            change.to(stored.inner)
        version: str | None = stored.inner.commit()
        del stored.changes[: len(changes)]
        stored.visible = True
        if self.limits.commit_on_close or not stored.changes:  # a whole object has the version of its last commit
            stored.version = version
        return stored.version


class ForgettingFile(BackendFile):
    """A handle on an object of the store."""

    def __init__(self, store: ForgettingBackend, stored: Uncommitted) -> None:
        self._store = store
        self._object = stored

    def stat(self) -> ObjectStat:
        with self._store.alive():
            return self._store.stat_of(self._object)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self._store.alive():
            done: int = self._object.memory.read_into(offset, buffers)
            return done

    def _change(self, change: Change) -> None:
        with self._store.alive():
            change.to(self._object.memory)
            self._object.changes.append(change)
            if not self._store.limits.commit_on_close:
                self._object.changed()

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        self._change(Change("write", offset, data))
        return len(data)

    def truncate(self, size: int) -> None:
        self._change(Change("truncate", size))

    def commit(self) -> str | None:
        store, stored = self._store, self._object
        with store.alive():
            count = len(stored.changes)
        store.linger()
        with store.alive():
            version = store.carry(stored, count)
        store.linger()
        return version

    def close(self) -> None:
        """Close the handle; changes in memory stay, and the object of the inner backend stays open until the crash."""

    def __getattr__(self, name: str) -> Any:
        """Return the methods for holes, if the inner object has them."""
        if name != "punch_hole" or self._object.inner is None or not hasattr(self._object.inner, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return lambda offset, length: self._change(Change("punch", offset, length=length))


class ObjectFile(ForgettingFile):
    """A handle on an object that is visible by commit."""

    def rollback(self) -> None:
        """Forget acknowledged, uncommitted changes."""
        with self._store.alive():
            stored = self._object
            stored.changes.clear()
            if stored.inner is None:
                stored.fill(b"")
            else:
                rollback = getattr(stored.inner, "rollback", None)
                if rollback is not None:
                    rollback()
                stored.fill(read_whole(stored.inner, self._store.inner.limits))
