"""A backend around a backend that passes every call on. Decorators override only the calls that they change.

An optional method exists exactly if the inner object has it: callers check with `hasattr` and `getattr`. A decorator
that overrides one defines it with a leading underscore (`_punch_hole`); it is found if the inner object has the plain
one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import Key
from .plain import PlainBackend, completed
from .protocol import OPTIONAL_MEMBERS, Backend, BackendFile, BackendLimits, ObjectStat


class PassingFile(BackendFile):
    """An object of the inner backend, unchanged."""

    def __init__(self, inner: BackendFile) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name not in OPTIONAL_MEMBERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        plain = getattr(self.inner, name)
        return getattr(self, f"_{name}") if hasattr(type(self), f"_{name}") else plain

    def stat(self) -> ObjectStat:
        return self.inner.stat()

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.inner.read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.inner.write_from(offset, buffers)

    def truncate(self, size: int) -> None:
        self.inner.truncate(size)

    def commit(self) -> str | None:
        return self.inner.commit()


class PassingBackend(Backend):
    """The inner backend, unchanged; methods outside of the protocol (`snapshot`, `mkdir`, ...) are available as
    well. The method `_NAME` of a subclass takes the place of such a NAME that the inner backend has.
    """

    def __init__(self, inner: Backend | PlainBackend) -> None:
        self.inner: Backend = completed(inner, "inner:")

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        """Return the current limits of the inner backend."""
        return self.inner.limits

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not set yet: unpickling, or a failed constructor
            raise AttributeError(name)
        plain = getattr(self.inner, name)
        return getattr(self, f"_{name}") if hasattr(type(self), f"_{name}") else plain

    @functools.cached_property  # which a subclass may assign to
    def name(self) -> str:
        """Name of the store in a disk tier: its bytes may be others than those of the inner backend."""
        own = getattr(self.inner, "name", None)
        return f"{type(self).__name__} of {own if isinstance(own, str) else type(self.inner).__name__}"

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return PassingFile(self.inner.open(key, create=create, exclusive=exclusive))

    def stat(self, key: Key) -> ObjectStat:
        return self.inner.stat(key)

    def remove(self, key: Key) -> None:
        self.inner.remove(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self.inner.rename(src, dst, replace=replace)

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        return self.inner.list(prefix)

    def canonical(self, key: Key) -> Key:
        return self.inner.canonical(key)

    def sync(self) -> None:
        self.inner.sync()

    def close(self) -> None:
        self.inner.close()


class SlowBackend(PassingBackend):
    """The inner backend, unchanged but for its limits: calls may take long, so none is made on a caller's thread."""

    def __init__(self, inner: Backend | PlainBackend) -> None:
        super().__init__(inner)
        self._seen = self.inner.limits
        self._slow = replace(self._seen, prompt=False)

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        """Return the current limits of the inner backend, which is not prompt. The same object until they change."""
        if (limits := self.inner.limits) is not self._seen:
            self._slow = replace(limits, prompt=False)  # first: another thread may see a new `_seen`
            self._seen = limits
        return self._slow
