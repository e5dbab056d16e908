"""The interface of a tested system, as verbs: a cache over a backend, or a directory of the operating system.

A target has numbered files. Threads call its verbs as methods, tasks as coroutines of `tasks`. An impossible one raises
io.UnsupportedOperation: it is skipped from then on, and the report lists it. Verbs return and raise what the calls
behind them do: errors are OSError, with `characters_written` after a partial write.

    view, copy                              memory of a file (`Held`), and a write out of it
    tear                                    a write from memory whose last part is unmapped, which raises EFAULT
    change      change the store as a foreign writer; on return the tested system is aware of it
    replace     replace the stored object so, while some local data exists; on return the conflict is settled
    lose        discard local data of a range, or of all from an offset on; returns the lost (offset, length)
    publish, rename, remove, look           a worker's own objects; with `hold` the content of a handle opened before
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

from pagecache.config import Durability
from pagecache.errors import DataLossError
from pagecache.options import OpenMode
from pagecache.stress.profiles import Edges, saved_first

READ_ALL = 1 << 31  # no file is longer

Verb = tuple[Any, ...]
"""A verb and its arguments, as a step requests them."""


class UnusableTarget(Exception):
    """There is nothing that could be tested; the text is a sentence with the reason."""


Held = Any
"""Memory of a file, a view or a mapping, with `detached` (stores to it are lost), `tobytes()`, `store(at, data)`,
`segments` and `release()`.
"""


def _call_of(method: str) -> Callable[..., Any]:
    """Return a verb that calls a method of a handle, with the same arguments."""

    def call(verbs: FileVerbs, file: int, way: str = "buffered", *arguments: object) -> Any:
        return getattr(verbs.handle(file, way), method)(*arguments)

    return call


class FileVerbs:
    """Verbs that are calls of handles, which have the methods of `CachedFile`. Those of a task's handle return
    awaitables, and so do the verbs.
    """

    call_timeout = 0.0
    handle: Callable[..., Any]  # file, way, extra -> a handle for the way; `extra` chooses among several

    def then(self, result: Any, use: Callable[[Any], Any]) -> Any:
        """Return what `use` makes of the result of a call."""
        return use(result)

    def read(self, file: int, way: str, offset: int, length: int, extra: int) -> Any:
        handle = self.handle(file, way, extra)
        if extra & 2:
            return handle.pread(length, offset)
        room = bytearray(b"\xa5" * length)
        return self.then(handle.pread_into(room, offset), lambda done: bytes(room[:done]))

    def readv(self, file: int, way: str, offset: int, length: int, extra: int) -> Any:
        cut = extra % (length + 1)
        rooms = [bytearray(cut), bytearray(length - cut)]
        done = self.handle(file, way, extra).preadv(rooms, offset)
        return self.then(done, lambda done: b"".join(rooms)[:done])

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> Any:
        return self.handle(file, way, extra).pwrite(data, offset)

    def writev(self, file: int, way: str, offset: int, data: bytes, extra: int) -> Any:
        cut = extra % (len(data) + 1)
        return self.handle(file, way, extra).pwritev([data[:cut], data[cut:]], offset)

    def copy(self, file: int, way: str, held: Held, offset: int) -> Any:
        handle, segments = self.handle(file, way), held.segments
        return handle.pwrite(segments[0], offset) if len(segments) == 1 else handle.pwritev(segments, offset)

    def fsync(self, file: int, way: str = "buffered", level: Durability = "backend") -> Any:
        return self.save(self.handle(file, way), level)

    def save(self, handle: Any, level: Durability = "backend") -> Any:
        return handle.fsync(timeout=self.call_timeout, durability=level)

    def prefetch(self, file: int, way: str, offset: int, length: int, wait: bool) -> Any:
        return self.handle(file, way).prefetch(offset, length, wait=wait)

    try_read, try_write = _call_of("try_pread"), _call_of("try_pwrite")
    append, truncate, advise = _call_of("append"), _call_of("truncate"), _call_of("advise")
    punch, zero = _call_of("punch_hole"), _call_of("zero_range")
    flush, sync_range = _call_of("flush"), _call_of("sync_range")


class Target(FileVerbs):
    """The tested system of a round: made anew for each.

    Attributes:
        name: in reports.
        ways: its ways, of `profiles.WAYS`.
        edges: lengths at which its code branches.
        skipped: missing feature -> reason.
        direct_unit: offsets and lengths of direct operations are multiples of it.
        moves: a copy within a file moves its bytes as if all were read before the first is stored.
        detaches: a truncate cuts off views that reach past the new end; others wait for them.
        exact: a failed buffered write did exactly the reported part.
        store_unit: unit in bytes of foreign changes in the store.
        shows: the store shows bytes that were written through, or closed, and are not committed yet.
        tasks: its verbs as coroutines; None: there are no tasks.
        explained: errnos that its faults, and the store below, explain.
        refused: errnos that the store itself marks as worth a retry: also at rest.
        loses_direct: bytes written past a cache may be lost until a commit.
        withholds: only a commit frees written memory, and commits run on request only.
        losses: errors that handles reported at the end.
        repairs: repairs after faults, with their counts.
        by_name: it finds an object by its name at each call, so that a removed object cannot be read any more.
        creates_unasked: an exclusive open may succeed though the store has an object; then its commit is refused.
        unreachable: errors of a handle whose object has another name now, or none.
    """

    ways: frozenset[str] = frozenset()
    edges: Edges = (4096,)
    direct_unit = store_unit = 1
    moves = detaches = exact = shows = loses_direct = withholds = by_name = creates_unasked = False
    tasks: Any = None
    unreachable: tuple[type[OSError], ...] = ()

    # Each kind of target has these methods of its own.
    key: Callable[[int | str], Any]  # in the store, of a file or of an object by name
    start: Callable[[Sequence[bytes]], None]  # makes the files, each with a content, past the tested system
    store: Callable[[int | str], bytes | None]  # content, read past the tested system; None: no such object
    everywhere: Callable[[int], Sequence[tuple[str, Callable[[], bytes]]]]  # name and call of each way to read a file
    close: Callable[[], None]  # saves everything, and ends
    discard: Callable[[], None]  # removes the files
    sync: Callable[[], None]
    invalidate: Callable[[int | str, int, int], None]
    opened: Callable[[str, OpenMode], AbstractContextManager[Any]]  # a worker's own object
    renamed: Callable[[str, str], None]
    removed: Callable[[str], None]
    look: Callable[[int | str], bytes | None]
    link_of: Callable[[str], str | None]  # the shared name that a symbolic link leads to; None: the name has no link

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped: dict[str, str] = {}
        self.losses: list[DataLossError] = []
        self.repairs: Counter[str] = Counter()

    @property
    def explained(self) -> frozenset[int]:
        return frozenset()

    @property
    def refused(self) -> frozenset[int]:
        return frozenset()

    def may_conflict(self) -> None:
        """Record that an object was made under a name under which the store may have another one: a commit of it may be
        refused.
        """

    def reported_losses(self, file: int, *, all_of_them: bool = False) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return the losses, as (offset, length), that unused handles, or all handles, report since the last call, each
        with the handle's name.
        """
        return []

    # -- course of a round

    def calm(self) -> None:
        """Stop faults and retry failed work, while nothing runs."""

    def stir(self) -> None:
        """Let calls fail again."""

    def check(self) -> None:
        """Check internal invariants."""

    def check_place(self) -> None:
        """Check that the target is still the one in which the round began.

        Raises:
            UnusableTarget: it is another one, which explains any finding.
        """

    def give_up(self) -> None:
        """End after a failure without saving; the files stay for examination."""
        self.close()

    def remember(self, names: Iterable[str]) -> None:
        """Register names that were made elsewhere, for removal at the end."""

    # -- names

    def publish(self, name: str, data: bytes, extra: int) -> None:
        beside = name if extra % 2 else f"{name}-new"
        with self.opened(beside, "wb") as file:
            file.pwrite(data, 0)
            if saved_first(extra):
                self.save(file, *self.level(extra))
            if extra & 8 and beside != name:  # it stays open, possibly with unsaved bytes
                self.renamed(beside, name)
        if not extra & 8 and beside != name:
            self.renamed(beside, name)

    def rename(self, old: str, new: str, hold: bool = False) -> bytes | None:
        return self._holding(old, hold, partial(self.renamed, old, new))

    def remove(self, name: str, hold: bool = False) -> bytes | None:
        return self._holding(name, hold, partial(self.removed, name))

    def _holding(self, name: str, hold: bool, call: Callable[[], None]) -> bytes | None:
        """Make a call; with `hold`, read afterwards from a handle that was opened before. None: it was unreachable."""
        if not hold:
            call()
            return None
        with self.opened(name, "rb") as held:
            call()
            with suppress(*self.unreachable):
                found: bytes = held.pread(READ_ALL, 0)
                return found
        return None

    def level(self, extra: int) -> tuple[Durability, ...]:
        """Return the level of an operation's sync, as its last argument: (); a level if there are several."""
        return ()

    def settle(self, name: str) -> None:
        """Give up unsaved bytes of the object of a name, if another program has stored another version."""

    def act(self, handle: Any, call: str, *arguments: Any) -> Any:
        return getattr(handle, call)(*arguments)

    def has_compared(self, handle: Any) -> bool:
        """Return whether the open has compared the stored version: no change by the tested system ran beside it."""
        return True
