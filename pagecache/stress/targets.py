"""The interface of a tested system, as verbs: a cache over a backend, or a directory of the operating system.

A target has numbered files. The steps of workers request its verbs by name (steps.py, below.py, own_objects.py,
crossing.py): those of threads as methods, those of tasks as coroutines of `tasks`. An impossible verb raises
io.UnsupportedOperation: it is skipped from then on, and the report lists it. Verbs return and raise what the calls
behind them do: errors are OSError, with `characters_written` after a partial write.

    read, readv, write, writev, append      of a file, by a way
    try_read, try_write                     None, False: they would have to wait
    view, copy                              memory of a file (`Held`), and a write out of it
    tear                                    a write from memory whose last part is unmapped, which raises EFAULT
    truncate, punch, zero, flush, sync_range, fsync, prefetch, advise       by the handle of a way
    sync, ticket, drop, drop_all, invalidate, reopen
    change      change the store as a foreign writer; on return the tested system is aware of it
    replace     replace the stored object so, while some local data exists; on return the conflict is settled
    lose        discard local data of a range, or of all from an offset on; returns the lost (offset, length)
    publish, rename, remove, look           a worker's own objects; with `hold` the content of a handle opened before
    enter, act, link, put, settle           shared names; `act` calls a method of a handle, `put` is another program's
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pagecache.errors import DataLossError
from pagecache.stress.profiles import Edges

__all__ = ["FULL", "Held", "Target", "UnusableTarget", "Verb"]

Verb = tuple[Any, ...]
"""A verb and its arguments, as a step requests them."""


FULL = {errno.ENOSPC: "the target is full: take fewer --files or a smaller --size"}
"""Advice for an error of any target."""


class UnusableTarget(Exception):
    """There is nothing that could be tested; the text is a sentence with the reason."""


class Held(Protocol):
    """A range of a file as memory: a view, a mapping."""

    @property
    def detached(self) -> bool:
        """Return whether the memory was cut off: stores to it are lost."""
        ...

    def tobytes(self) -> bytes:
        """Return the current bytes."""
        ...

    def store(self, at: int, data: bytes) -> None:
        """Store bytes, `at` counted from the beginning of the range."""
        ...

    def segments(self) -> Sequence[memoryview]:
        """Return the memory itself."""
        ...

    def release(self) -> None:
        """Release the memory."""
        ...


class Target(Protocol):
    """The tested system of a round: made anew for each. Of its verbs, those that the tester itself calls are here.

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
        remarks: sentences that help to understand a finding.
        hints: errno -> such a sentence, for unexplained errors.
        by_name: it finds an object by its name at each call, so that a removed object cannot be read any more.
        creates_unasked: an exclusive open may succeed though the store has an object; then its commit is refused.
    """

    name: str
    ways: frozenset[str]
    edges: Edges
    skipped: dict[str, str]
    direct_unit: int
    moves: bool
    detaches: bool
    exact: bool
    shows: bool
    store_unit: int
    tasks: Any
    loses_direct: bool
    withholds: bool
    losses: list[DataLossError]
    repairs: Counter[str]
    remarks: list[str]
    hints: dict[int, str]
    by_name: bool
    creates_unasked: bool

    @property
    def explained(self) -> frozenset[int]: ...
    @property
    def refused(self) -> frozenset[int]: ...

    def key(self, what: int | str) -> Any:
        """Return the key, in the store, of a file or of an object by name."""
        ...

    def start(self, contents: Sequence[bytes]) -> None:
        """Make the files, each with a content, past the tested system."""
        ...

    def sync(self) -> None: ...
    def invalidate(self, file: int | str, offset: int, length: int) -> None: ...
    def look(self, name: str) -> bytes | None: ...
    def settle(self, name: str) -> None:
        """Give up unsaved bytes of the object of a name, if another program has stored another version."""
        ...

    def act(self, handle: Any, call: str, *arguments: Any) -> Any: ...
    def link_of(self, name: str) -> str | None:
        """Return the shared name that a symbolic link leads to; None: the name has no link."""
        ...

    def has_compared(self, handle: Any) -> bool:
        """Return whether the open has compared the stored version: no change by the tested system ran beside it."""
        ...

    def reported_losses(self, file: int) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return the losses, as (offset, length), that unused handles report since the last call, each with the
        handle's name.
        """
        ...

    def store(self, file: int | str) -> bytes | None:
        """Return the content of the store, read past the tested system; None: no such object."""
        ...

    def everywhere(self, file: int) -> Sequence[tuple[str, Callable[[], bytes]]]:
        """Return all ways to read the whole of a file, as pairs of name and function."""
        ...

    def calm(self) -> None:
        """Stop faults and retry failed work, while nothing runs."""
        ...

    def stir(self) -> None:
        """Let calls fail again."""
        ...

    def check(self) -> None:
        """Check internal invariants."""
        ...

    def close(self) -> None:
        """Save everything, and end."""
        ...

    def give_up(self) -> None:
        """End after a failure without saving; the files stay for examination."""
        ...

    def discard(self) -> None:
        """Remove the files."""
        ...
