"""Stores that break the protocol, each around a MemoryBackend: the cache above is right, and the stored bytes
are not. Some are small write-back caches over a remote store, as people write them in an afternoon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from pagecache.backends import BackendFile, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key

from .planted import Factory, Planted

__all__ = ["BACKENDS"]

PAGE = 4096
Buffers = Sequence[memoryview]


class Store(PassingBackend):
    """A memory backend with files of another class."""

    def __init__(self, kind: type[PassingFile], inner: MemoryBackend, stable: MemoryBackend | None = None) -> None:
        super().__init__(inner)
        self.kind = kind
        self.stable = stable  # the content after a crash, if that is less

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file: Any = self.kind(self.inner.open(key, create=create, exclusive=exclusive))
        if self.stable is not None:
            file.stable = self.stable.open(key, create=True)
        return file  # type: ignore[no-any-return]


def around(kind: type[PassingFile]) -> Callable[[], Factory]:
    """Wrap a store; a crash loses only the bytes that the mistake loses."""

    def target() -> Factory:
        inner = MemoryBackend()
        return lambda: Store(kind, inner)

    return target


def crashing(kind: type[PassingFile]) -> Callable[[], Factory]:
    """Wrap a store; after a crash it has the content of the file's `stable`."""

    def target() -> Factory:
        stable = MemoryBackend()

        def restarted() -> Store:
            inner = MemoryBackend()
            for stat in stable.list():
                inner.put(stat.key, stable.snapshot(stat.key))
            return Store(kind, inner, stable)

        return restarted

    return target


class Forgetful(PassingFile):
    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self.turn = count(1)

    def write_from(self, offset: int, buffers: Buffers) -> int:
        if next(self.turn) % 5:
            return self.inner.write_from(offset, buffers)
        end = offset + sum(map(len, buffers))
        if end > self.inner.stat().size:
            self.inner.truncate(end)
        return end - offset


class LosesTails(PassingFile):
    MOST = 2 * PAGE

    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = b"".join(buffers)
        end = offset + len(data)
        self.inner.write_from(offset, [memoryview(data)[: self.MOST]])
        if end > self.inner.stat().size:
            self.inner.truncate(end)
        return len(data)


class Reordering(PassingFile):
    before = (0, b"")

    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = b"".join(buffers)
        taken = self.inner.write_from(offset, buffers)
        at, older = self.before
        if at < offset + len(data) and offset < at + len(older):
            self.inner.write_from(at, [memoryview(older)])
        self.before = (offset, data)
        return taken

    def truncate(self, size: int) -> None:
        self.before = (0, b"")
        self.inner.truncate(size)


class CommitsTheFirstWrite(PassingFile):
    stable: Any
    first: tuple[int, bytes] | None = None

    def write_from(self, offset: int, buffers: Buffers) -> int:
        self.first = self.first or (offset, b"".join(buffers))
        return self.inner.write_from(offset, buffers)

    def truncate(self, size: int) -> None:
        self.inner.truncate(size)
        self.stable.truncate(size)

    def commit(self) -> str | None:
        if self.first is not None:
            self.stable.write_from(self.first[0], [memoryview(self.first[1])])
        self.first = None
        return self.inner.commit()


class GoesBackAfterACommit(PassingFile):
    old, now = b"", b""
    reads = 0

    def commit(self) -> str | None:
        content = bytearray(self.inner.stat().size)
        self.inner.read_into(0, [memoryview(content)])
        self.old, self.now, self.reads = self.now, bytes(content), 4
        return self.inner.commit()

    def read_into(self, offset: int, buffers: Buffers) -> int:
        done = self.inner.read_into(offset, buffers)
        self.reads -= 1
        old, data = memoryview(self.old)[offset : offset + done], 0
        for buffer in buffers if self.reads >= 0 else ():
            part = old[data : data + len(buffer)]
            buffer[: len(part)] = part
            data += len(buffer)
        return done


class TearsAtPages(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = memoryview(b"".join(buffers))
        end = offset + len(data)
        if end > self.inner.stat().size:
            self.inner.truncate(end)
        at, pages = offset, 0
        while at < end:
            stop = min(end, (at // PAGE + 1) * PAGE)
            if pages % 2 == 0:
                self.inner.write_from(at, [data[at - offset : stop - offset]])
            at, pages = stop, pages + 1
        return len(data)


class OffByOne(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = bytearray(b"".join(buffers))
        if offset + len(data) > self.inner.stat().size:
            data[-1] = 0
        return self.inner.write_from(offset, [memoryview(data)])


class RubbishInGaps(PassingFile):
    def write_from(self, offset: int, buffers: Buffers) -> int:
        self.fill(offset)
        return self.inner.write_from(offset, buffers)

    def truncate(self, size: int) -> None:
        self.fill(size)
        self.inner.truncate(size)

    def fill(self, end: int) -> None:
        size = self.inner.stat().size
        if end > size:
            self.inner.write_from(size, [memoryview(b"\xaa" * (end - size))])


class Cached(PassingFile):
    """An object of a small cache, in memory; `stable` is that of its remote store."""

    stable: Any

    def upload(self) -> None:
        content = bytearray(self.inner.stat().size)
        self.inner.read_into(0, [memoryview(content)])
        self.stable.truncate(0)
        self.stable.write_from(0, [memoryview(content)])

    def commit(self) -> str | None:
        """Do nothing."""
        return None


class UploadsOnClose(Cached):
    closes = count(1)

    def close(self) -> None:
        if next(self.closes) % 3:
            self.upload()


class CleanBeforeUpload(Cached):
    queued = False

    def commit(self) -> str | None:
        if self.queued:
            self.upload()
        self.queued = True
        return None


class ForgetsTruncate(Cached):
    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self.written: list[tuple[int, bytes]] = []

    def write_from(self, offset: int, buffers: Buffers) -> int:
        self.written.append((offset, b"".join(buffers)))
        return self.inner.write_from(offset, buffers)

    def commit(self) -> str | None:
        for offset, data in self.written:
            self.stable.write_from(offset, [memoryview(data)])
        self.written.clear()
        return None


def backend(name: str, rule: str, sentence: str, target: Callable[[], Factory]) -> Planted:
    return Planted(name, sentence, rule, "backend", target=target)


BACKENDS = [
    backend(
        "store_acknowledges_and_forgets",
        "2.26, I-18",
        "Every fifth write is acknowledged and not stored: the old bytes are back once memory has evicted it.",
        around(Forgetful),
    ),
    backend(
        "store_loses_tails_of_long_writes",
        "2.26, 2.14",
        "Of a long write the first 8 KiB are stored, and all of it is acknowledged: the rest is lost.",
        around(LosesTails),
    ),
    backend(
        "store_reorders_overlapping_writes",
        "I-20",
        "Of two writes of the same bytes the older one lands last: storage goes back in time.",
        around(Reordering),
    ),
    backend(
        "store_commits_the_first_write_only",
        "I-18, 2.26",
        "A commit makes the first write since the last one durable, and no other: a crash takes them.",
        crashing(CommitsTheFirstWrite),
    ),
    backend(
        "store_goes_back_after_a_commit",
        "2.26, I-17",
        "The first reads after a commit answer with the version before it: old bytes are cached as new ones.",
        around(GoesBackAfterACommit),
    ),
    backend(
        "store_tears_at_pages",
        "2.26, I-21",
        "Of a write of several pages every second one is stored: new and old pages stand side by side.",
        around(TearsAtPages),
    ),
    backend(
        "store_is_off_by_one_at_the_end",
        "2.26",
        "The last byte of a write that extends the object is not stored: it reads as zero.",
        around(OffByOne),
    ),
    backend(
        "store_shows_rubbish_in_gaps",
        "2.26, M8",
        "The gap between the old end and a new one does not read as zeros: it has bytes that were never written.",
        around(RubbishInGaps),
    ),
    backend(
        "cache_uploads_on_close_and_loses_errors",
        "I-18, 2.15",
        "fsync does nothing, close uploads the file and swallows errors: a crash, or a bad upload, loses all of it.",
        crashing(UploadsOnClose),
    ),
    backend(
        "cache_is_clean_before_the_upload",
        "I-18, K2",
        "Bytes count as saved when their upload is queued: a crash after fsync loses them.",
        crashing(CleanBeforeUpload),
    ),
    backend(
        "cache_forgets_truncates",
        "2.17, T-75b",
        "A truncate is never uploaded: the bytes that it cut are back after a restart.",
        crashing(ForgetsTruncate),
    ),
    backend(
        "cache_saves_its_own_handle_only",
        "2.15, I-18",
        "fsync uploads what its own handle wrote, and each call has another one: a crash loses all bytes.",
        crashing(Cached),
    ),
]
