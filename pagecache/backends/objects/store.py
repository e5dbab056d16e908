"""The requests of a store of whole objects that names and commits are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

from ...errors import Key
from ..protocol import ObjectStat


class Version(Protocol):
    """A stored version of an object."""

    @property
    def size(self) -> int: ...

    @property
    def version(self) -> str | None: ...

    @property
    def mtime(self) -> float | None: ...


V = TypeVar("V", bound=Version)


class Store(ABC, Generic[V]):
    """The requests. Names are those of the store."""

    renames = False  # the store can `rename`

    @abstractmethod
    def head(self, name: str) -> V | None:
        """Return the stored version; None: there is no object; EISDIR: the name is that of a directory."""

    def check_place(self) -> None:
        """Check that the bucket or container is there; ENXIO: it is missing, so a missing object is no proof of a
        removal.
        """

    @abstractmethod
    def copy(self, old: str, new: str, version: V, there: V | None) -> V | None:
        """Copy this version to another name, with its properties; refused, if possible, if another one is stored, or
        under the new name another than `there`. Return what the answer says of the copy; None: nothing. The `same`
        version proves that all of it was copied.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object."""

    def rename(self, old: str, new: str) -> None:
        """Rename an object in one request. It may end without an error and do nothing if the new name is taken."""
        raise NotImplementedError

    def replaces_nothing(self) -> OSError:
        """Return the error of a `rename` that did nothing."""
        raise NotImplementedError

    def status(self, version: V) -> ObjectStat:
        """Return what is known of a version."""
        return ObjectStat(size=version.size, version=version.version, mtime=version.mtime)

    def same(self, one: V | None, other: V | None) -> bool:
        """Return whether both are one version, as far as they can be compared; None: no object."""
        if one is None or other is None:
            return one is other
        if one.version is None or other.version is None:
            return one.size == other.size
        return one.version == other.version

    @abstractmethod
    def is_copy(self, found: V, version: V) -> bool:
        """Return whether an object of another name is certainly a copy of the version."""

    def is_marked(self, version: V) -> bool:
        """Return whether every copy of the version is known by `is_copy`."""
        return False

    @abstractmethod
    def is_refusal(self, error: BaseException) -> bool:
        """Return whether a request that failed with this error was certainly not carried out."""

    def about(self, key: Key) -> AbstractContextManager[None]:
        """Return a context that makes errors name the key: a request has the name of the object only."""
        return _about(key)


@contextmanager
def _about(key: Key) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None and key is not None:
            error.filename = key
        raise
