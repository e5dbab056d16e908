"""What backends of whole objects share, their calls by name; and those of buckets: limits, and keys behind a prefix."""

from __future__ import annotations

import errno
import io
from abc import abstractmethod
from dataclasses import replace
from typing import Generic

from ...config import BY_TIME, with_overrides
from ...errors import Key, os_error
from ...options import LimitsOverrides
from ..protocol import Backend, BackendLimits, ObjectStat
from .names import Names
from .store import Store, V
from .words import key_of


class ObjectsBackend(Backend, Generic[V]):
    """Objects that a commit replaces as a whole.

    Attributes:
        requests, names: set by the constructor of the backend.
        where: name of the store, for messages.
        why_read_only: why nothing can be changed; "": it was given so.
    """

    requests: Store[V]
    names: Names[V]
    where: str
    why_read_only = ""

    @abstractmethod
    def _name(self, key: Key) -> str:
        """Return the name of an object in the store."""

    def _allow(self, key: Key) -> None:
        if self.limits.read_only:
            why = self.why_read_only or f"{self.where} was given as read_only"
            with self.requests.about(key):
                raise io.UnsupportedOperation(errno.ENOTSUP, why)

    def _base(self, key: Key, create: bool, exclusive: bool, seen: V | None) -> V | None:
        """Return the version that an open finds: `seen`, unless a change of its name is not settled. None: there is no
        object yet.
        """
        name = self._name(key)
        if create:
            self._allow(key)
        with self.requests.about(key):
            believed = seen is not None and not self.names.is_unsettled(name)
            base = seen if believed else self.names.look(name)
            if base is None and not create:
                raise os_error(errno.ENOENT, key)
            if base is not None and create and exclusive:
                raise os_error(errno.EEXIST, key)
        return base

    def remove(self, key: Key) -> None:
        name = self._name(key)
        self._allow(key)
        self.names.remove(key, name)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        """Rename by a copy and a removal: not atomic. A process that dies in between leaves both."""
        old, new = self._name(src), self._name(dst)
        self._allow(src)
        self.names.rename(src, old, dst, new, replace=replace)


class BucketBackend(ObjectsBackend[V]):
    """The objects of a bucket whose names begin with a prefix, by the remaining name.

    Args:
        prefix: common beginning of all names, a folder.
        where: URL of the bucket, for messages.
        limits: of one call; with `overrides`.

    Raises:
        ValueError: the limits are none of such a store.
    """

    def __init__(self, prefix: str, where: str, limits: BackendLimits, overrides: LimitsOverrides) -> None:
        given = with_overrides(limits, overrides)
        self.limits = replace(given, retry=given.retry or BY_TIME)
        if not self.limits.commit_on_close or self.limits.durable_writes:
            raise ValueError("limits: objects become visible by a commit, and are not durable before")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.where = where

    def canonical(self, key: Key) -> Key:
        return key_of(key, self.prefix)

    def _name(self, key: Key) -> str:
        return self.prefix + str(self.canonical(key))

    def stat(self, key: Key) -> ObjectStat:
        name = self._name(key)
        with self.requests.about(key):
            stored = self.names.look(name)
        if stored is None:
            raise os_error(errno.ENOENT, key)
        return self.requests.status(stored)

    def close(self) -> None:
        for file in self.names.files():
            file.close()
