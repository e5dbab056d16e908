"""What backends of buckets share: limits, keys behind a prefix, and calls by name."""

from __future__ import annotations

import errno
import io
from dataclasses import replace
from typing import Generic

from ...config import BY_TIME, with_overrides
from ...errors import Key, os_error
from ...options import LimitsOverrides
from ..protocol import Backend, BackendLimits, ObjectStat
from .names import Names
from .store import Store, V
from .words import key_of


class BucketBackend(Backend, Generic[V]):
    """The objects of a bucket whose names begin with a prefix, by the remaining name.

    Args:
        prefix: common beginning of all names, a folder.
        where: URL of the bucket, for messages.
        limits: of one call; with `overrides`.

    Attributes:
        requests, names: set by the constructor of the backend.

    Raises:
        ValueError: the limits are none of such a store.
    """

    requests: Store[V]
    names: Names[V]
    why_read_only = ""

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

    def _allow(self, key: Key) -> None:
        if self.limits.read_only:
            why = self.why_read_only or f"{self.where} was given as read_only"
            with self.requests.about(key):
                raise io.UnsupportedOperation(errno.ENOTSUP, why)

    def stat(self, key: Key) -> ObjectStat:
        name = self._name(key)
        with self.requests.about(key):
            stored = self.names.look(name)
        if stored is None:
            raise os_error(errno.ENOENT, key)
        return self.requests.status(stored)

    def remove(self, key: Key) -> None:
        name = self._name(key)
        self._allow(key)
        self.names.remove(key, name)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        """Rename by a copy and a removal: not atomic. A process that dies in between leaves both."""
        old, new = self._name(src), self._name(dst)
        self._allow(src)
        self.names.rename(src, old, dst, new, replace=replace)

    def close(self) -> None:
        for file in self.names.files():
            file.close()
