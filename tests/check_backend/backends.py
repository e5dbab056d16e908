"""Factories for `pagecache check-backend`: backends with one planted mistake each; good, odd and invalid ones."""

from __future__ import annotations

import errno
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from pagecache import Backend, BackendLimits, ObjectStat
from pagecache.backends import BackendFile, DirectoryBackend, MemoryBackend, TransformBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key
from pagecache.testing import FaultyBackend, LatencyBackend

from ..aio.over import Over
from ..backends.transforms import Sealed
from ..plain import AsyncBlobs, Blobs, Wrong

Buffers = Sequence[memoryview]


class Mistaken(PassingBackend):
    """A memory backend whose files are of another class; `methods` replaces methods of the backend."""

    def __init__(self, kind: type[PassingFile], inner: Backend, **methods: Any) -> None:
        super().__init__(inner)
        self._kind = kind
        for name, method in methods.items():
            setattr(self, name, method)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = self._kind(self.inner.open(key, create=create, exclusive=exclusive))
        file.find = lambda: self.inner.open(key)  # type: ignore[attr-defined]
        return file


def files(limits: dict[str, Any] | None = None, **methods: Any) -> Callable[[], Backend]:
    """Return a factory of backends whose files have other methods."""
    return lambda: Mistaken(type("Planted", (PassingFile,), methods), MemoryBackend(**limits or {}))


def backends(**methods: Callable[..., Any]) -> Callable[[], Backend]:
    """Return a factory of backends with other methods, which get the inner backend first."""

    def make() -> Backend:
        inner = MemoryBackend()
        return Mistaken(PassingFile, inner, **{name: partial(method, inner) for name, method in methods.items()})

    return make


def length(buffers: Buffers) -> int:
    return sum(map(len, buffers))


def whole(file: BackendFile) -> memoryview:
    data = memoryview(bytearray(file.stat().size))
    file.read_into(0, [data])
    return data


def refuse(code: int) -> NoReturn:
    raise OSError(code, "refused")


def lost_tail(file: Any, offset: int, buffers: Buffers) -> int:
    if kept := length(buffers) // 512 * 512:
        file.inner.write_from(offset, [memoryview(b"".join(buffers))[:kept]])
    return length(buffers)


def appends(file: Any, offset: int, buffers: Buffers) -> int:
    """A write at or behind the end is put at the end, even if it is repeated."""
    size = file.inner.stat().size
    return int(file.inner.write_from(size if 0 < size <= offset + len(buffers[0]) else offset, buffers))


def garbage_in_gaps(file: Any, offset: int, buffers: Buffers) -> int:
    if (size := file.inner.stat().size) < offset:
        file.inner.write_from(size, [memoryview(b"?" * (offset - size))])
    return int(file.inner.write_from(offset, buffers))


def first_buffer_only(file: Any, offset: int, buffers: Buffers) -> int:
    file.inner.write_from(offset, buffers[:1])
    return length(buffers)


kept: list[memoryview] = []


def keeps_buffers(file: Any, offset: int, buffers: Buffers) -> int:
    kept.extend(buffers)
    return int(file.inner.write_from(offset, buffers))


def aligned(file: Any, offset: int, buffers: Buffers) -> int:
    """As with O_DIRECT, offsets must be multiples of 512, but the limits do not say so."""
    return refuse(errno.EINVAL) if offset % 512 else int(file.inner.write_from(offset, buffers))


def short_calls(file: Any, offset: int, buffers: Buffers) -> int:
    return refuse(errno.EMSGSIZE) if length(buffers) > 65536 else int(file.inner.write_from(offset, buffers))


def not_safe(file: Any, offset: int, buffers: Buffers) -> int:
    """Reads all, changes a part, writes all: two concurrent writers lose bytes."""
    data = bytearray(max(file.inner.stat().size, offset + length(buffers)))
    file.inner.read_into(0, [memoryview(data)])
    time.sleep(0.001)
    data[offset : offset + length(buffers)] = b"".join(buffers)
    return min(length(buffers), int(file.inner.write_from(0, [memoryview(data)])))


def pads_the_end(file: Any, offset: int, buffers: Buffers) -> int:
    file.inner.read_into(offset, buffers)
    return length(buffers)


def reads_once(file: Any, offset: int, buffers: Buffers) -> int:
    """Keeps the bytes that it has read, and never reads again."""
    seen = vars(file).setdefault("seen", {})
    if (offset, length(buffers)) not in seen:
        data = memoryview(bytearray(length(buffers)))
        seen[offset, length(buffers)] = data[: file.inner.read_into(offset, [data])]
    data = seen[offset, length(buffers)]
    for buffer in buffers:
        buffer[: len(data)], data = data[: len(buffer)], data[len(buffer) :]
    return len(seen[offset, length(buffers)])


def stale_tail(file: Any, size: int) -> None:
    """Cut bytes come back when the same file object extends the object."""
    data = bytes(whole(file.inner))
    begin, tail = vars(file).get("tail", (0, b""))
    file.tail = (size, data[size:])
    file.inner.truncate(size)
    if size > begin == len(data) and tail:
        file.inner.write_from(begin, [memoryview(tail)[: size - begin]])


def read_by_name(file: Any, offset: int, buffers: Buffers) -> int:
    return int(file.find().read_into(offset, buffers))


def commit_once(file: Any) -> str | None:
    if vars(file).setdefault("done", False):
        refuse(errno.EBADF)
    file.done = True
    return str(file.inner.commit())


def hole_cuts_the_end(file: Any, offset: int, size: int) -> None:
    end = max(file.inner.stat().size, offset + size)
    file.inner.punch_hole(offset, size)
    file.inner.truncate(end)


class KeepsToItself(PassingFile):
    """Written bytes stay in this file object: no other file object ever sees them."""

    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        copy = MemoryBackend().open("own", create=True)
        copy.write_from(0, [whole(inner)])
        for name in ("stat", "read_into", "write_from", "truncate"):
            setattr(self, name, getattr(copy, name))


def versioned(version: Callable[[int], str]) -> Callable[[], Backend]:
    """Return a factory of backends whose versions follow from the size alone."""

    def of(found: ObjectStat) -> ObjectStat:
        return replace(found, version=version(found.size))

    def make() -> Backend:
        commit: Any = lambda file: (file.inner.commit(), file.stat().version)[1]  # noqa: E731
        made = files(stat=lambda file: of(file.inner.stat()), commit=commit)()
        made.stat = lambda key: of(made.inner.stat(key))  # type: ignore[attr-defined, method-assign]
        return made

    return make


def missing_is_a_key_error(inner: Backend, key: Key) -> ObjectStat:
    try:
        return inner.stat(key)
    except FileNotFoundError:
        raise KeyError(key) from None


def never_exclusive(inner: Backend, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
    return inner.open(key, create=create)


def rename_that_copies(inner: Backend, src: Key, dst: Key, *, replace: bool = True) -> None:
    new = inner.open(dst, create=True, exclusive=not replace)
    new.truncate(0)
    new.write_from(0, [whole(inner.open(src))])
    new.commit()


known: dict[Key, ObjectStat] = {}
numbers = itertools.count()


def list_of_old(inner: Backend, prefix: str = "") -> list[ObjectStat]:
    """Names are kept in a separate list, from which nothing is removed."""
    known.update({stat.key: stat for stat in inner.list(prefix)})
    return [stat for key, stat in known.items() if str(key).startswith(prefix)]


PUBLISHING = {"commit_on_close": True, "durable_writes": False}  # declared, but not true

MISTAKES: list[tuple[str, Callable[[], Backend]]] = [
    ("bytes_come_back", files(write_from=lost_tail)),
    ("bytes_come_back", files(write_from=lambda file, *a: file.inner.write_from(*a) and None)),
    ("bytes_come_back", files(read_into=lambda file, *a: file.inner.read_into(*a) + 1)),
    ("read_ends_at_the_end", files(read_into=pads_the_end)),
    ("repeating_a_write_is_harmless", files(write_from=appends)),
    ("write_past_the_end_leaves_zeros", files(write_from=garbage_in_gaps)),
    ("buffers_are_taken_in_order", files(write_from=first_buffer_only)),
    ("buffers_are_not_changed_and_not_kept", files(write_from=keeps_buffers)),
    ("any_place_that_the_units_allow", files(write_from=aligned)),
    ("longest_call", files(write_from=short_calls)),
    ("writes_of_disjoint_ranges_side_by_side", files(write_from=not_safe)),
    ("reads_follow_commits", files(read_into=reads_once)),
    ("reads_follow_commits", lambda: Mistaken(KeepsToItself, MemoryBackend())),
    ("commit_can_be_repeated", files(commit=commit_once)),
    ("commit_returns_the_version_that_stat_gives", files(commit=lambda file: "new")),
    ("version_changes_with_the_content", versioned(lambda size: "1")),
    ("version_changes_with_the_content", versioned(str)),
    ("truncate_cuts", files(truncate=lambda file, size: size > file.inner.stat().size and file.inner.truncate(size))),
    ("cut_bytes_do_not_come_back", files(truncate=stale_tail)),
    ("punched_hole_reads_as_zeros", files(_punch_hole=hole_cuts_the_end)),
    ("nothing_is_visible_before_commit", files(PUBLISHING)),
    ("rollback_forgets", files(PUBLISHING, rollback=lambda file: None)),
    ("own_commit_is_recognised", files(unanswered=None, recognises=lambda file, unanswered: True)),
    ("list_has_every_object_with_key_and_size", backends(list=lambda inner, prefix="": list(inner.list(prefix))[:4])),
    ("list_obeys_the_prefix", backends(list=lambda inner, prefix="": inner.list())),
    ("list_follows_what_changes", backends(list=list_of_old)),
    ("exclusive_create_refuses_an_existing_object", backends(open=never_exclusive)),
    ("missing_object_is_not_found", backends(stat=missing_is_a_key_error)),
    ("removed_object_is_not_found", backends(remove=lambda inner, key: None)),
    ("rename_moves", backends(rename=rename_that_copies)),
    ("canonical_is_stable_and_keeps_objects_apart", backends(canonical=lambda inner, key: f"{key}-{next(numbers)}")),
    ("open_file_never_reaches_another_object_of_its_name", files(read_into=read_by_name)),
    ("identity_belongs_to_the_object", backends(stat=lambda inner, key: replace(inner.stat(key), identity=key))),
]
"""The check that has to find a mistake, and a factory of backends with it."""


def hang(*args: object, **options: object) -> NoReturn:
    time.sleep(3600)
    raise AssertionError


def hang_in_commit(file: Any) -> str | None:
    if file.inner.stat().size == 3:
        print("in commit", file=sys.stderr, flush=True)
        hang()
    return str(file.inner.commit())


hangs_in_commit = files(commit=hang_in_commit)
hangs_in_open = backends(open=hang)


# -- good ones, odd ones, and invalid ones


def latency(seconds: float = 20e-6) -> Backend:
    return LatencyBackend(MemoryBackend(), read=seconds, write=seconds, commit=seconds)


def faulty(profile: str = "none") -> Backend:
    return FaultyBackend(MemoryBackend(), profile, seed=3)


def asynchronous() -> Any:
    return Over(MemoryBackend())


def sealed(path: str = "") -> Backend:
    return TransformBackend(DirectoryBackend(path) if path else MemoryBackend(), Sealed())


class UndoesRemovals(PassingBackend):
    """A removal that `sync` has not made durable is undone by `close`."""

    store = MemoryBackend()

    def __init__(self) -> None:
        super().__init__(self.store)
        self._removed: dict[Key, bytes] = {}

    def remove(self, key: Key) -> None:
        content = self.store.snapshot(key) if any(each.key == key for each in self.store.list()) else b""
        self.store.remove(key)
        self._removed[key] = content

    def sync(self) -> None:
        self._removed.clear()

    def close(self) -> None:
        for key, content in self._removed.items():
            self.store.put(key, content)
        self._removed.clear()


shared = MemoryBackend()
plain = Blobs
plain_asynchronous = AsyncBlobs


def read_only() -> Backend:
    return MemoryBackend(read_only=True)


def unremovable(path: str) -> Backend:
    return Mistaken(PassingFile, DirectoryBackend(path), remove=lambda key: refuse(errno.EPERM))


def queried() -> Backend:
    properties = [("put", True, "checks conditions", "a HEAD"), ("copies", False, "copies parts", "parts are sent")]
    return Mistaken(PassingFile, MemoryBackend(), server_properties=lambda: properties)


def numbered() -> Backend:
    return Mistaken(PassingFile, MemoryBackend(), canonical=int)


class OddLimits(Blobs):
    limits = None


forgets_return_of_write = partial(Wrong, write_from=None)
forgets_return_of_read = partial(Wrong, read_into=None)
answers_too_much = partial(Wrong, write_from=10**9)
commits_a_number = partial(Wrong, commit=7)
stats_a_tuple = partial(Wrong, stat=(5, "v"))


class NoBackend:
    limits = BackendLimits()


def raises() -> Backend:
    raise RuntimeError("no password")


number = 17


class Halfway(Backend):
    """A backend whose files do not follow the protocol."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> Any:
        return object()

    def stat(self, key: Key) -> ObjectStat:
        raise FileNotFoundError(2, "no", key)
