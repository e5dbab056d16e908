"""The interface of a tested system, as verbs: a cache over a backend, or a directory of the operating system.

A target has numbered files. Workers that are threads call its verbs; tasks call the verbs of `tasks`, which are
coroutines. An impossible verb raises io.UnsupportedOperation: it is skipped from then on, and the report lists it.

Verbs return and raise what the calls behind them do: errors are OSError, with `characters_written` after a partial
write.
"""

from __future__ import annotations

import errno
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pagecache.errors import DataLossError
from pagecache.options import OpenMode
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

    def leave(self) -> None:
        """Leave the memory to the garbage collector, in a reference cycle; release it if the target cannot do that."""
        ...


class Target(Protocol):
    """The tested system of a round: made anew for each. Verbs that a directory cannot have raise UnsupportedOperation
    here.

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

    def read(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes: ...
    def readv(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes: ...
    def try_read(self, file: int, offset: int, length: int, way: str = "buffered") -> bytes | None:
        raise io.UnsupportedOperation(errno.ENOTSUP, "no call that refuses to wait")

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None: ...
    def writev(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None: ...
    def try_write(self, file: int, offset: int, data: bytes) -> bool:
        raise io.UnsupportedOperation(errno.ENOTSUP, "no call that refuses to wait")

    def append(self, file: int, way: str, data: bytes) -> int: ...
    def view(self, file: int, offset: int, length: int, writable: bool) -> Held: ...
    def copy(self, file: int, way: str, held: Held, offset: int) -> None: ...
    def fill(self, file: int, held: Held, offset: int) -> int:
        """Read from `offset` into a range that is held for writing; return the number of bytes."""
        raise io.UnsupportedOperation(errno.ENOTSUP, "a read into a mapping of its own file")

    # `way`: the handle to call
    def truncate(self, file: int, size: int, way: str = "buffered") -> None: ...
    def punch(self, file: int, offset: int, length: int, way: str = "buffered") -> None: ...
    def zero(self, file: int, offset: int, length: int, way: str = "buffered") -> None: ...
    def flush(self, file: int, way: str = "buffered") -> None: ...
    def sync_range(self, file: int, offset: int, length: int, way: str = "buffered") -> None: ...
    def fsync(self, file: int, way: str = "buffered") -> None: ...
    def sync(self) -> None: ...
    def ticket(self) -> None: ...
    def drop(self, file: int, offset: int, length: int) -> None: ...
    def drop_all(self) -> None: ...
    def invalidate(self, file: int | str, offset: int, length: int) -> None: ...
    def prefetch(self, file: int, offset: int, length: int, wait: bool, way: str = "buffered") -> None: ...
    def advise(self, file: int, offset: int, length: int, extra: int, way: str = "buffered") -> None: ...
    def reopen(self, file: int, offset: int, length: int, direct: bool) -> bytes: ...

    def tear(self, file: int, offset: int, data: bytes) -> None:
        """Write from memory whose last part is unmapped, which raises EFAULT."""
        raise io.UnsupportedOperation(errno.ENOTSUP, "system calls are not asked for it")

    def change(self, file: int, offset: int, data: bytes, extra: int) -> None:
        """Change the store as a foreign writer; on return the tested system is aware of the change."""
        raise io.UnsupportedOperation(errno.ENOTSUP, "there is no other way into a directory")

    def lose(self, file: int, offset: int, length: int | None) -> list[tuple[int, int]]:
        """Discard local data of a range; None: to the end. Return the lost ranges, as (offset, length)."""
        raise io.UnsupportedOperation(errno.ENOTSUP, "a file system gives nothing up")

    def reported_losses(self, file: int) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return the losses, as (offset, length), that unused handles report since the last call, each with the
        handle's name.
        """
        return []

    def replace(self, file: int, data: bytes) -> None:
        """Replace the stored object as a foreign writer, while some local data exists; on return the conflict is
        settled.
        """
        raise io.UnsupportedOperation(errno.ENOTSUP, "a file system has no foreign writers")

    def publish(self, name: str, data: bytes, extra: int) -> None:
        """Replace an object by a new one, or make it."""
        ...

    def rename(self, old: str, new: str, hold: bool = False) -> bytes | None:
        """Rename an object. `hold`: return the content that a handle, opened before, shows afterwards."""
        ...

    def remove(self, name: str, hold: bool = False) -> bytes | None:
        """Remove an object; `hold` as for `rename`."""
        ...

    def look(self, name: str) -> bytes | None:
        """Return the content of an object by name; None: there is none."""
        ...

    def enter(self, name: str, way: str, mode: OpenMode) -> Any:
        """Open a shared name, and return a handle: `pread`, `pwrite`, `append`, `truncate`, `fsync`, `close`."""
        ...

    def has_compared(self, handle: Any) -> bool:
        """Return whether the open has compared the stored version: no change by the tested system ran beside it."""
        return True

    def elsewhere(self, change: str, name: str, *arguments: Any) -> None:
        """Change a shared name in the store as another program: "put" (content, name of a draft), "rename" (new name),
        or "remove".
        """
        raise io.UnsupportedOperation(errno.ENOTSUP, "a file system has no foreign writers")

    def settle(self, name: str) -> None:
        """Give up unsaved bytes of the object of a name, if another program has stored another version."""
        raise io.UnsupportedOperation(errno.ENOTSUP, "a file system has no foreign writers")

    def link(self, old: str, new: str) -> None:
        """Give an object, or a symbolic link, another name."""
        ...

    def symlink(self, leads: str, name: str) -> None:
        """Make a symbolic link to a shared name."""
        ...

    def link_of(self, name: str) -> str | None:
        """Return the shared name that a symbolic link leads to; None: the name has no link."""
        ...

    def act(self, handle: Any, call: str, *arguments: Any) -> Any:
        """Call a method of such a handle."""
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
