"""A backend around a backend that stores content in another form: encrypted, with checksums.

The limits make the cache read and write whole units of the transform (`read_unit`, `write_unit`); it adds missing
bytes. The cache's buffers do not change during a call, so a unit is encoded once, from stable bytes, and encoded again
whenever it is sent again. The cache has no other support for transforms.

`units.py` has the layout of units, `file.py` handles one object. Names are not transformed.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ...errors import Key
from ..passing import PassingBackend
from ..plain import PlainBackend
from ..protocol import Backend, BackendLimits, ObjectStat
from .file import TransformFile
from .units import Transform, Units

# Members that the cache asks a backend for, available if the inner backend has them.
MEMBERS = frozenset({"mkdir", "rmdir", "symlink", "readlink", "link", "mknod", "statfs"})
MEMBERS |= {"getxattr", "setxattr", "listxattr", "removexattr"}
MEMBERS |= {"lasting_identity", "make_above", "warnings", "why_read_only"}
MEMBERS |= {"lstat", "readdir", "entries", "setattr"}  # with sizes


class TransformBackend(PassingBackend):
    """A backend around `inner`, with the content of its objects transformed unit by unit.

    Sizes are those of the content; names, versions and times are those of `inner`. A unit is stored in place: if a
    crash can tear a write of the backend below, a unit can be half old and half new afterwards, and a transform with
    checksums reports it. A backend that publishes objects as a whole (`commit_on_close`) has no such moment. There must
    be no other writer of an object while it is open for writing here.

    Args:
        inner: stores the encoded bytes.
        transform: encodes them.

    Raises:
        TypeError, ValueError: an argument is invalid.

    >>> class Reversed:
    ...     unit, overhead = 4096, 0
    ...     def encode(self, index, data):
    ...         return data[::-1]
    ...     decode = encode
    >>> from pagecache.backends import MemoryBackend
    >>> store = MemoryBackend()
    >>> file = TransformBackend(store, Reversed()).open("key", create=True)
    >>> file.write_from(0, [memoryview(b"abc")])
    3
    >>> store.snapshot("key")
    b'cba'
    """

    def __init__(self, inner: Backend | PlainBackend, transform: Transform) -> None:
        super().__init__(inner)
        if inspect.iscoroutinefunction(inner.open):
            raise TypeError(f"inner: {inner!r} is asynchronous")
        self._units = Units(transform)
        self._derived: tuple[BackendLimits, BackendLimits] | None = None

    @functools.cached_property
    def name(self) -> str:
        """Name of the store in a disk tier: without an attribute `name` of the transform no other object has the same,
        for another key gives other content.
        """
        own = getattr(self.transform, "name", None)
        return f"{own if isinstance(own, str) else os.urandom(16).hex()} of {super().name}"

    @property
    def transform(self) -> Transform:
        """Return the transform."""
        return self._units.transform

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        """Return the current limits of the inner backend, in units of content."""
        inner, derived = self.inner.limits, self._derived
        if derived is None or derived[0] is not inner:
            derived = self._derived = inner, self._units.limits(inner)
        return derived[1]

    def __getattr__(self, name: str) -> Any:
        if name in MEMBERS:
            return super().__getattr__(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> TransformFile:
        return TransformFile(self.inner.open(key, create=create, exclusive=exclusive), self.inner, self._units, key)

    def stat(self, key: Key) -> ObjectStat:
        return self._outside(self.inner.stat(key))

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        return map(self._outside, self.inner.list(prefix))

    def _lstat(self, key: Key) -> ObjectStat:
        inner: Any = self.inner
        return self._outside(inner.lstat(key))

    def _readdir(self, key: Key) -> Iterable[ObjectStat]:
        inner: Any = self.inner
        return map(self._outside, inner.readdir(key))

    def _entries(self, directory: str) -> Iterable[ObjectStat]:
        inner: Any = self.inner
        return map(self._outside, inner.entries(directory))

    def _setattr(self, key: Key, **attributes: Any) -> ObjectStat:
        inner: Any = self.inner
        return self._outside(inner.setattr(key, **attributes))

    def _outside(self, stat: ObjectStat) -> ObjectStat:
        return replace(stat, size=self._units.content_size(stat.size)) if stat.kind == "file" else stat
