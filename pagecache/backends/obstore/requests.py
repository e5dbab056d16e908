"""Each request to a container, by two clients of obstore: uploads take as long as they need, reads do not."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..objects.store import Store
from ..protocol import ObjectStat
from ..spool import Spool, dealt
from .errors import RequestError, translated

ID = "pagecacheid"
"""Name of the id of a commit in the metadata: letters only, as Azure wants it."""
PAGE = 1000
PART = 8 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of an object.

    Attributes:
        size: bytes.
        etag: without quotes; None: unknown.
        generation: Google's number of the version; None: the service has none.
        mtime: seconds since 1970; None: unknown.
        id: of the commit that made it; "" if it was made by another program.
        carried: its other properties, as attributes of the next version.
    """

    size: int
    etag: str | None
    generation: str | None = None
    mtime: float | None = None
    id: str = ""
    carried: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def version(self) -> str | None:
        return self.generation or self.etag

    def mode(self) -> dict[str, str]:
        """Return the condition that this version is to be replaced."""
        names = {"e_tag": f'"{self.etag}"' if self.etag else None, "version": self.generation}
        return {name: value for name, value in names.items() if value}


def _stored(meta: Mapping[str, Any], attributes: Mapping[str, str] | None = None) -> Stored:
    carried = dict(attributes or {})
    id = carried.pop(ID, "")
    etag = (meta["e_tag"] or "").strip('"') or None
    return Stored(meta["size"], etag, meta["version"], meta["last_modified"].timestamp(), id, carried)


def _before(name: str) -> str | None:
    """Return a text that sorts before a name, and after nearly all that do; None: there is none."""
    last = ord(name[-1]) - 1
    if last < 0:
        return None
    return name[:-1] + chr(0xD7FF if 0xD800 <= last <= 0xDFFF else last) + "\U0010ffff"


class Requests(Store[Stored]):
    """The requests to one container.

    Args:
        reads, writes: stores of obstore.
        where: the URL of the container, for messages.
        generations: versions are generations, which listings of this service do not have.
    """

    def __init__(self, reads: Any, writes: Any, where: str, *, generations: bool) -> None:
        self._reads, self._writes, self.where, self._generations = reads, writes, where, generations

    @contextmanager
    def _asking(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except RequestError:
            raise
        except Exception as error:
            raise translated(error, f"{verb} of {self.where}/{name}") from error

    # ---------------------------------------------------------------- reading

    def head(self, name: str) -> Stored | None:
        try:
            with self._asking("HEAD", name):
                found = self._reads.get(name, options={"head": True})
                return _stored(found.meta, found.attributes)
        except RequestError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def check_place(self) -> None:
        """A refusal to list the container is no answer."""
        try:
            with self._asking("LIST", ""):
                next(iter(self._reads.list(None, chunk_size=1)), None)
        except RequestError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                raise RequestError(errno.ENXIO, str(error.strerror), retry=False) from error
            if error.retry or not error.refused:
                raise

    def get(self, name: str, offset: int, buffers: Sequence[memoryview], base: Stored) -> int:
        """Fill buffers with bytes of this version; ESTALE, ENOENT: it is gone."""
        end = min(offset + sum(map(len, buffers)), base.size)
        if offset >= end:
            return 0
        options: dict[str, Any] = {"range": (offset, end)}
        if base.generation:
            options["version"] = base.generation
        elif base.etag:
            options["if_match"] = f'"{base.etag}"'
        with self._asking("GET", name):
            found = self._reads.get(name, options=options)
            if not self.same(_stored(found.meta), base):  # for a service that ignores the condition
                raise _stale(f"GET of {self.where}/{name}: another version is stored")
            return dealt(memoryview(found.bytes()), buffers)

    def names(self, start: str) -> Iterator[tuple[str, ObjectStat]]:
        """Yield the objects whose name begins with `start`, a page of them in memory. A request lists a folder: it
        begins right before `start`, where the service can do so, and no page is fetched for names that come after.
        """
        folder, _, first = start.rpartition("/")
        with self._asking("LIST", start):
            for page in self._reads.list(folder or None, offset=_before(start) if first else None, chunk_size=PAGE):
                for meta in page:
                    name: str = meta["path"]
                    if not name.startswith(start):
                        below = name[len(start) - len(first) :]
                        # A service may sort by the parts of a path.
                        if min(below, below.replace("/", "\0")) > first:
                            return
                        continue
                    stored = _stored(meta)
                    version = None if self._generations and not stored.generation else stored.version
                    yield name, ObjectStat(size=stored.size, version=version, mtime=stored.mtime)

    # ---------------------------------------------------------------- writing

    def put(self, name: str, data: Any, id: str, carried: Mapping[str, str], mode: Any) -> Stored | None:
        """Store an object in one request; None: the answer does not have its version."""
        with self._asking("PUT", name):
            attributes = {**carried, ID: id}
            answer = self._writes.put(name, data, attributes=attributes, mode=mode, use_multipart=False)
        etag, generation = (answer["e_tag"] or "").strip('"'), answer["version"]
        if not etag or (self._generations and not generation):
            return None
        return Stored(len(data), etag, generation, None, id, dict(carried))

    def put_parts(self, name: str, spool: Spool, id: str, carried: Mapping[str, str]) -> None:
        """Store an object in parts. No service of obstore checks a condition here."""
        with self._asking("PUT", name), open(spool.path, "rb") as file:
            attributes = {**carried, ID: id}
            self._writes.put(name, file, attributes=attributes, use_multipart=True, chunk_size=PART, max_concurrency=4)

    def copy(self, old: str, new: str, version: Stored, there: Stored | None) -> Stored | None:
        """Copy in the service. It checks no version, so the source is compared afterwards."""
        with self._asking("COPY", old):
            self._writes.copy(old, new)
        if not self.same(self.head(old), version):
            raise _stale(f"COPY of {self.where}/{old}: another version was stored at that time")
        return None

    def delete(self, name: str) -> None:
        try:
            with self._asking("DELETE", name):
                self._writes.delete(name)
        except RequestError as error:
            if error.errno != errno.ENOENT:
                raise

    # ---------------------------------------------------------------- comparing

    def is_copy(self, found: Stored, version: Stored) -> bool:
        return found.size == version.size and found.id == version.id != ""

    def is_marked(self, version: Stored) -> bool:
        return version.id != ""

    def is_refusal(self, error: BaseException) -> bool:
        return isinstance(error, RequestError) and error.refused


def _stale(what: str) -> RequestError:
    return RequestError(errno.ESTALE, what, retry=False)
