"""Backends with one planted mistake each: factories for `pagecache check-backend`."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pagecache import Backend, ObjectStat
from pagecache.backends import BackendFile, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key

from ..plain import fill

Buffers = Sequence[memoryview]


class Mistaken(PassingBackend):
    """A memory backend whose files are of another class; other methods are replaced by name."""

    def __init__(self, kind: type[PassingFile] = PassingFile, inner: Backend | None = None, **methods: Any) -> None:
        super().__init__(inner or MemoryBackend())
        self._kind = kind
        for name, method in methods.items():
            setattr(self, name, method)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = self._kind(self.inner.open(key, create=create, exclusive=exclusive))
        file.key = key  # type: ignore[attr-defined]
        file.backend = self  # type: ignore[attr-defined]
        return file


def joined(buffers: Buffers) -> bytes:
    return b"".join(buffers)


class ZeroInTheMiddle(PassingFile):
    def read_into(self, offset: int, buffers: Buffers) -> int:
        return 0 if offset >= 8192 else self.inner.read_into(offset, [buffers[0][: 8192 - offset]])


class HalfFilled(PassingFile):
    def read_into(self, offset: int, buffers: Buffers) -> int:
        answer = self.inner.read_into(offset, buffers)
        if answer > 4096:
            buffers[0][min(answer, len(buffers[0])) // 2 :] = bytes(len(buffers[0]) - min(answer, len(buffers[0])) // 2)
        return answer


class LostTail(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = joined(buffers)
        kept = len(data) - len(data) % 512
        if kept:
            self.inner.write_from(offset, [memoryview(data[:kept])])
        return len(data)


class StaleVersion(PassingFile):
    version = "1"

    def commit(self) -> str | None:
        self.inner.commit()
        return self.version

    def stat(self) -> ObjectStat:
        return ObjectStat(size=self.inner.stat().size, version=self.version)


class VersionOfSize(StaleVersion):
    @property
    def version(self) -> str:  # type: ignore[override]
        return str(self.inner.stat().size)


def stale_version(kind: type[PassingFile]) -> Backend:
    made: Mistaken

    def stat(key: Key) -> ObjectStat:
        file = kind(made.inner.open(key))
        return file.stat()

    made = Mistaken(kind, stat=stat)
    return made


class Appends(PassingFile):
    """A write at or behind the end is put at the end, even if it is repeated."""

    def write_from(self, offset: int, buffers: Buffers) -> int:
        size = self.inner.stat().size
        return self.inner.write_from(size if 0 < size <= offset + len(buffers[0]) else offset, buffers)


class IgnoresCommit(PassingFile):
    """Written bytes stay in this file object: no other file object ever sees them."""

    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self._own = MemoryBackend()
        self._copy = self._own.open("own", create=True)
        if size := inner.stat().size:
            data = memoryview(bytearray(size))
            inner.read_into(0, [data])
            self._copy.write_from(0, [data])

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def stat(self) -> ObjectStat:
        return self._copy.stat()

    def read_into(self, offset: int, buffers: Buffers) -> int:
        return self._copy.read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Buffers) -> int:
        return self._copy.write_from(offset, buffers)

    def truncate(self, size: int) -> None:
        self._copy.truncate(size)


class StaleTail(PassingFile):
    """Cut bytes come back."""

    def truncate(self, size: int) -> None:
        old = self.inner.stat().size
        tail = memoryview(bytearray(max(0, old - size)))
        if len(tail):
            self.inner.read_into(size, [tail])
            self.backend.tails[self.key] = (size, bytes(tail))
        self.inner.truncate(size)
        begin, kept = self.backend.tails.get(self.key, (0, b""))
        if size > begin and kept and old <= begin:
            self.inner.write_from(begin, [memoryview(kept)[: size - begin]])


class KeepsBuffers(PassingFile):
    kept: ClassVar[list[memoryview]] = []

    def write_from(self, offset: int, buffers: Buffers) -> int:
        self.kept.extend(buffers)
        return self.inner.write_from(offset, buffers)


class GarbageInGaps(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        size = self.inner.stat().size
        if offset > size:
            self.inner.write_from(size, [memoryview(b"?" * (offset - size))])
        return self.inner.write_from(offset, buffers)


class FirstBufferOnly(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        self.inner.write_from(offset, buffers[:1])
        return sum(map(len, buffers))


class NoCount(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        self.inner.write_from(offset, buffers)
        return None  # type: ignore[return-value]


class TooMany(PassingFile):
    def read_into(self, offset: int, buffers: Buffers) -> int:
        return self.inner.read_into(offset, buffers) + 1


class PadsTheEnd(PassingFile):
    def read_into(self, offset: int, buffers: Buffers) -> int:
        self.inner.read_into(offset, buffers)
        return sum(map(len, buffers))


class Aligned(PassingFile):
    """As with O_DIRECT, calls must be multiples of 512, but the limits do not say so."""

    def _check(self, offset: int, buffers: Buffers) -> None:
        if offset % 512 or sum(map(len, buffers)) % 512:
            raise OSError(errno.EINVAL, "not aligned")


class AlignedWrites(Aligned):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        if offset % 512:
            raise OSError(errno.EINVAL, "not aligned")
        return self.inner.write_from(offset, buffers)


class AlignedReads(Aligned):
    def read_into(self, offset: int, buffers: Buffers) -> int:
        if offset % 512:
            raise OSError(errno.EINVAL, "not aligned")
        return self.inner.read_into(offset, buffers)


class ShortCalls(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        if sum(map(len, buffers)) > 65536:
            raise OSError(errno.EMSGSIZE, "too long")
        return self.inner.write_from(offset, buffers)


class NotSafe(PassingFile):
    """Reads all, changes a part, writes all: two concurrent writers lose bytes."""

    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = joined(buffers)
        size = max(self.inner.stat().size, offset + len(data))
        whole = bytearray(size)
        self.inner.read_into(0, [memoryview(whole)])
        time.sleep(0.001)
        whole[offset : offset + len(data)] = data
        return min(len(data), self.inner.write_from(0, [memoryview(whole)]))


class ReadsOnce(PassingFile):
    """Keeps the bytes it has read, and never reads again."""

    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self._seen: dict[tuple[int, int], bytes] = {}

    def read_into(self, offset: int, buffers: Buffers) -> int:
        length = sum(map(len, buffers))
        if (offset, length) not in self._seen:
            buffer = memoryview(bytearray(length))
            self._seen[offset, length] = bytes(buffer[: self.inner.read_into(offset, [buffer])])
        return fill(buffers, self._seen[offset, length])


class CommitOnce(PassingFile):
    done = False

    def commit(self) -> str | None:
        if self.done:
            raise OSError(errno.EBADF, "committed already")
        self.done = True
        return self.inner.commit()


class WrongVersion(PassingFile):
    def commit(self) -> str | None:
        self.inner.commit()
        return "new"


class TruncateOfOneself(PassingFile):
    """Only the file object that made a cut sees it."""

    size: int | None = None

    def truncate(self, size: int) -> None:
        if size > self.inner.stat().size:
            self.inner.truncate(size)
            self.size = None
        else:
            self.size = size

    def read_into(self, offset: int, buffers: Buffers) -> int:
        answer = self.inner.read_into(offset, buffers)
        return answer if self.size is None else max(0, min(answer, self.size - offset))


class HoleCutsTheEnd(PassingFile):
    def _punch_hole(self, offset: int, length: int) -> None:
        size = self.inner.stat().size
        self.inner.punch_hole(offset, length)  # type: ignore[attr-defined]
        if offset + length > size:
            self.inner.truncate(max(size, offset + length))


class HangsInCommit(PassingFile):
    def commit(self) -> str | None:
        if self.inner.stat().size == 3:
            print("in commit", file=sys.stderr, flush=True)
            time.sleep(3600)
        return self.inner.commit()


class Publishes(PassingFile):
    """commit_on_close is declared, but not true; rollback does nothing."""

    def rollback(self) -> None:
        pass


class RecognisesEverything(PassingFile):
    unanswered = None

    def recognises(self, unanswered: object) -> bool:
        return True


def wrong_list(wrong: Callable[[list[ObjectStat]], list[ObjectStat]]) -> Backend:
    made = Mistaken()
    made.list = lambda prefix="": wrong(list(made.inner.list(prefix)))  # type: ignore[method-assign]
    return made


def list_of_one_page() -> Backend:
    return wrong_list(lambda found: found[:4])


def list_without_prefix() -> Backend:
    made = Mistaken()
    made.list = lambda prefix="": made.inner.list("")  # type: ignore[method-assign]
    return made


def list_of_old() -> Backend:
    """Names are kept in a separate list, from which nothing is removed."""
    made, known = Mistaken(), {}

    def listed(prefix: str = "") -> Iterable[ObjectStat]:
        known.update({stat.key: stat for stat in made.inner.list(prefix)})
        return list(known.values())

    made.list = listed  # type: ignore[method-assign]
    return made


class ByName(PassingFile):
    """Each call finds the object by the file's name again."""

    def _now(self) -> BackendFile:
        found: BackendFile = self.backend.inner.open(self.key)
        return found

    def stat(self) -> ObjectStat:
        return self._now().stat()

    def read_into(self, offset: int, buffers: Buffers) -> int:
        return self._now().read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Buffers) -> int:
        return self._now().write_from(offset, buffers)


def identity_of_the_name() -> Backend:
    """The identity does not survive a rename."""
    made = Mistaken()
    made.stat = lambda key: replace(made.inner.stat(key), identity=key)  # type: ignore[method-assign]
    return made


def stale_tail() -> Backend:
    made = Mistaken(StaleTail)
    made.tails = {}  # type: ignore[attr-defined]
    return made


def not_exclusive() -> Backend:
    made = Mistaken()
    made.open = lambda key, *, create=False, exclusive=False: made.inner.open(key, create=create)  # type: ignore[method-assign]
    return made


def missing_is_a_key_error() -> Backend:
    made = Mistaken()

    def stat(key: Key) -> ObjectStat:
        try:
            return made.inner.stat(key)
        except FileNotFoundError:
            raise KeyError(key) from None

    made.stat = stat  # type: ignore[method-assign]
    return made


def rename_that_copies() -> Backend:
    made = Mistaken()

    def rename(src: Key, dst: Key, *, replace: bool = True) -> None:
        old = made.inner.open(src)
        data = memoryview(bytearray(old.stat().size))
        old.read_into(0, [data])
        new = made.inner.open(dst, create=True, exclusive=not replace)
        new.truncate(0)
        new.write_from(0, [data])
        new.commit()

    made.rename = rename  # type: ignore[method-assign]
    return made


def canonical_of_the_moment() -> Backend:
    numbers = iter(range(10**9))
    return Mistaken(canonical=lambda key: f"{key}-{next(numbers)}")


def remove_that_does_nothing() -> Backend:
    return Mistaken(remove=lambda key: None)


def limits_of_my_own() -> Backend:
    return Mistaken(inner=MemoryBackend(max_vectors=4))


def publishes_at_once() -> Backend:
    return Mistaken(Publishes, MemoryBackend(commit_on_close=True, durable_writes=False))


MISTAKES: dict[str, tuple[Callable[[], Backend], str, str]] = {
    "zero_in_the_middle": (lambda: Mistaken(ZeroInTheMiddle), "read and write", "a read is short only at the end"),
    "half_filled": (lambda: Mistaken(HalfFilled), "read and write", "byte by byte"),
    "lost_tail": (lambda: Mistaken(LostTail), "read and write", "byte by byte"),
    "stale_version": (lambda: stale_version(StaleVersion), "versions", "another one whenever the content may be"),
    "version_of_size": (lambda: stale_version(VersionOfSize), "versions", "another one whenever the content may be"),
    "appends": (lambda: Mistaken(Appends), "read and write", "may be made again"),
    "ignores_commit": (lambda: Mistaken(IgnoresCommit), "commit", "seen by everybody"),
    "stale_tail": (stale_tail, "truncate", "cut off read as zeros"),
    "keeps_buffers": (lambda: Mistaken(KeepsBuffers), "buffers", "not kept after a call"),
    "garbage_in_gaps": (lambda: Mistaken(GarbageInGaps), "read and write", "the gap reads as zeros"),
    "first_buffer_only": (lambda: Mistaken(FirstBufferOnly), "buffers", "in their order"),
    "no_count": (lambda: Mistaken(NoCount), "read and write", "byte by byte"),
    "too_many": (lambda: Mistaken(TooMany), "read and write", "short only at the end"),
    "pads_the_end": (lambda: Mistaken(PadsTheEnd), "read and write", "answers 0 at and past the end"),
    "aligned_writes": (lambda: Mistaken(AlignedWrites), "units and places", "Every offset and length"),
    "aligned_reads": (lambda: Mistaken(AlignedReads), "units and places", "Every offset and length"),
    "short_calls": (lambda: Mistaken(ShortCalls), "units and places", "max_write bytes are taken"),
    "not_safe": (lambda: Mistaken(NotSafe), "several at once", "disjoint ranges"),
    "reads_once": (lambda: Mistaken(ReadsOnce), "read and write", "to who has read the old content"),
    "commit_once": (lambda: Mistaken(CommitOnce), "commit", "may be called again"),
    "wrong_version": (lambda: Mistaken(WrongVersion), "versions", "the version that stat gives"),
    "truncate_of_oneself": (lambda: Mistaken(TruncateOfOneself), "truncate", "for every reader"),
    "hole_cuts_the_end": (lambda: Mistaken(HoleCutsTheEnd), "punch_hole", "never changes the size"),
    "publishes_at_once": (publishes_at_once, "publish by commit", "nobody else sees"),
    "recognises_everything": (lambda: Mistaken(RecognisesEverything), "recognises", "from other versions"),
    "rollback_that_does_nothing": (publishes_at_once, "rollback", "forgets what was acknowledged"),
    "list_of_one_page": (list_of_one_page, "list", "every object once"),
    "list_without_prefix": (list_without_prefix, "list", "and no others"),
    "list_of_old": (list_of_old, "list", "no object that was removed"),
    "not_exclusive": (not_exclusive, "open and stat", "raises FileExistsError"),
    "missing_is_a_key_error": (missing_is_a_key_error, "open and stat", "raise FileNotFoundError"),
    "rename_that_copies": (rename_that_copies, "rename", "rename moves"),
    "canonical_of_the_moment": (canonical_of_the_moment, "canonical", "one and the same key"),
    "by_name": (lambda: Mistaken(ByName), "identity", "an open file never reads or changes another object"),
    "identity_of_the_name": (identity_of_the_name, "identity", "under any name"),
    "remove_that_does_nothing": (remove_that_does_nothing, "remove", "is not found"),
}
"""A backend, with the capability and the promise that the report has to name."""


def hangs_in_commit() -> Backend:
    return Mistaken(HangsInCommit)


def hangs_in_open() -> Backend:
    def hang(*args: object, **options: object) -> Any:
        time.sleep(3600)

    return Mistaken(open=hang)


def hangs() -> Backend:
    time.sleep(3600)
    raise AssertionError
