"""What is tested, seen as verbs: a cache over a backend, or a directory of the operating system.

A target has numbered files. Workers that are threads call its verbs, tasks call the same verbs of `tasks` as
coroutines. What cannot be done raises io.UnsupportedOperation: it is skipped from then on, and the report says so.

Verbs answer as the things they stand for do: errors are OSError, with `characters_written` where a part was done.
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
"""A verb and its arguments, as a step asks for them."""


FULL = {errno.ENOSPC: "the target is full: take fewer --files or a smaller --size"}
"""What to say to an error of any target."""


class UnusableTarget(Exception):
    """There is nothing that could be tested: a sentence that says why."""


class Held(Protocol):
    """A range of a file as memory: a view, a mapping."""

    @property
    def detached(self) -> bool:
        """It was cut off: what is stored to it is lost."""
        ...

    def tobytes(self) -> bytes:
        """What is there now."""
        ...

    def store(self, at: int, data: bytes) -> None:
        """Put bytes into it, `at` counted from its own beginning."""
        ...

    def segments(self) -> Sequence[memoryview]:
        """The memory itself."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Target(Protocol):
    """What a round runs on: made anew for each.

    Attributes:
        name: for people.
        ways: of `profiles.WAYS`, that it has.
        edges: where its code may do something else.
        skipped: what it cannot do -> why.
        direct_unit: offsets and lengths of direct operations are multiples of it.
        moves: a copy within a file moves its bytes as if all were read before the first is stored.
        detaches: a truncate cuts off views that reach behind the new end; others wait for them.
        exact: a failed buffered write did exactly what it said.
        store_unit: what is changed in the store, past what is tested, is changed in whole units of so many bytes.
        shows: the store shows what was written through, or closed, and not committed yet.
        tasks: its verbs as coroutines; None: there are no tasks.
        explained: errnos that its faults, and what lies beneath, explain.
        refused: those that what lies beneath itself calls worth another try: also at rest.
        loses_direct: what was written past a cache may be lost while it is not committed.
        loses_staged: what the store was given to keep until a commit may be lost; known when it has started.
        withholds: memory that was written is freed by a commit alone, and nothing commits but who asks for it.
        losses: what handles told at the end.
        repairs: what was repaired because of faults, and how often.
        remarks: sentences that help to understand what is found.
        hints: the same, for errors that nothing explains, by errno.
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
    loses_staged: bool
    withholds: bool
    losses: list[DataLossError]
    repairs: Counter[str]
    remarks: list[str]
    hints: dict[int, str]

    @property
    def explained(self) -> frozenset[int]: ...
    @property
    def refused(self) -> frozenset[int]: ...

    def key(self, what: int | str) -> Any:
        """What a file, or an object by name, is called in the store."""
        ...

    def start(self, contents: Sequence[bytes]) -> None:
        """Make the files, each with a content, without what is tested."""
        ...

    def read(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes: ...
    def readv(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes: ...
    def try_read(self, file: int, offset: int, length: int) -> bytes | None: ...
    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None: ...
    def writev(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None: ...
    def try_write(self, file: int, offset: int, data: bytes) -> bool: ...
    def append(self, file: int, way: str, data: bytes) -> int: ...
    def view(self, file: int, offset: int, length: int, writable: bool) -> Held: ...
    def copy(self, file: int, way: str, held: Held, offset: int) -> None: ...
    def truncate(self, file: int, size: int) -> None: ...
    def punch(self, file: int, offset: int, length: int) -> None: ...
    def zero(self, file: int, offset: int, length: int) -> None: ...
    def flush(self, file: int) -> None: ...
    def sync_range(self, file: int, offset: int, length: int) -> None: ...
    def fsync(self, file: int) -> None: ...
    def sync(self) -> None: ...
    def ticket(self) -> None: ...
    def drop(self, file: int, offset: int, length: int) -> None: ...
    def invalidate(self, file: int, offset: int, length: int) -> None: ...
    def prefetch(self, file: int, offset: int, length: int, wait: bool) -> None: ...
    def advise(self, file: int, offset: int, length: int, extra: int) -> None: ...
    def reopen(self, file: int, offset: int, length: int, direct: bool) -> bytes: ...

    def tear(self, file: int, offset: int, data: bytes) -> None:
        """Write from memory whose last part is not there, which raises EFAULT."""
        ...

    def change(self, file: int, offset: int, data: bytes, extra: int) -> None:
        """Be somebody else who changes the store; when it returns, what is tested knows."""
        ...

    def lose(self, file: int, offset: int, length: int | None) -> list[tuple[int, int]]:
        """Give up what is local of a range; None: to the end. Returns what was lost, as (offset, length)."""
        ...

    def heard(self, file: int) -> list[tuple[str, list[tuple[int, int]]]]:
        """What handles that no worker asks say of losses since the last time: each by name, with (offset, length)."""
        ...

    def replace(self, file: int, data: bytes) -> None:
        """Be somebody else who replaces the stored object while something of it is local; when it returns, that is
        settled.
        """
        ...

    def touch(self, file: int) -> None:
        """Be somebody else who stores the same once more, as another version; when it returns, that is settled."""
        ...

    def publish(self, name: str, data: bytes, extra: int) -> None:
        """Replace an object by a new one, or make it."""
        ...

    def rename(self, old: str, new: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def look(self, name: str) -> bytes | None:
        """The content of an object by name; None: there is none."""
        ...

    def store(self, file: int | str) -> bytes | None:
        """What is stored beneath, read past what is tested; None: no such object."""
        ...

    def state(self, file: int, offset: int) -> str | None:
        """What the page there is in the cache: of `coverage.CACHED`; None: nobody can say."""
        ...

    def everywhere(self, file: int) -> Sequence[tuple[str, Callable[[], bytes]]]:
        """All ways to read the whole of a file, each with what to call it."""
        ...

    def calm(self) -> None:
        """Nothing runs: let no more calls fail, and what failed be done again."""
        ...

    def stir(self) -> None:
        """Let calls fail again."""
        ...

    def check(self) -> None:
        """Its own invariants."""
        ...

    def close(self) -> None:
        """Save everything, and end."""
        ...

    def give_up(self) -> None:
        """End after a failure, saving nothing; what was made stays to be looked at."""
        ...

    def discard(self) -> None:
        """Remove what was made."""
        ...
