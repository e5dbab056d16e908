"""The operations of a round as a list, in place of those derived from the seed, so that single operations can be
removed.

    Script
      contents   initial length of each file
      threads    for each worker that is a thread: its stirs; a stir is the operations between two rests
      tasks      the stirs of each worker that is a task
      repeat     how often each stir is played before its rest

In a replay it is JSON that a person can read and change: an operation has the fields of `profiles.Operation`, without
those that have their usual value. Written bytes, faults and settings of the cache still depend on seed and round.

    {"contents": [0], "repeat": 1, "tasks": [],
     "threads": [[[{"kind": "write", "file": 0, "way": "buffered", "offset": 8192, "length": 4096}]],
                 [[{"kind": "fsync", "file": 0}]]]}
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pagecache.stress.profiles import CROSSING, IO, KINDS, MOVES, Operation, places

REPEAT_MAX = 1 << 20
BYTES_MAX = 1 << 40
EXTRA_MAX = (1 << 16) - 1  # the range drawn by `profiles.operations`

Stir = tuple[Operation, ...]
Worker = tuple[Stir, ...]

USUAL = {field.name: field.default for field in dataclasses.fields(Operation)}


@dataclass(frozen=True, slots=True)
class Script:
    """A script; see the top of the file. Immutable; ValueError names the value and the rule that it breaks."""

    contents: tuple[int, ...]
    threads: tuple[Worker, ...]
    tasks: tuple[Worker, ...] = ()
    repeat: int = 1

    def __post_init__(self) -> None:
        for number, length in enumerate(self.contents):
            whole(length, f"script.contents[{number}]", 0, BYTES_MAX)
        whole(self.repeat, "script.repeat", 1, REPEAT_MAX)
        if not self.stirs:
            raise ValueError("script.threads: no worker has a stir: there is nothing to do")
        for operation in itertools.chain(*itertools.chain(*self.workers)):
            check(operation, f"script: {operation.kind}", len(self.contents))

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Return threads, then tasks: worker n of a round is number n - 1."""
        return self.threads + self.tasks

    @property
    def stirs(self) -> int:
        """Return the number of stirs; a worker with fewer ones is idle in the others."""
        return max(map(len, self.workers), default=0)

    def __len__(self) -> int:
        """Return the number of operations, without repetitions."""
        return sum(len(stir) for worker in self.workers for stir in worker)

    def turn(self, number: int, stir: int) -> Iterator[Operation]:
        """Yield the operations of worker `number` (from 0) in a stir."""
        worker = self.workers[number]
        for _ in range(self.repeat if stir < len(worker) else 0):
            yield from worker[stir]

    # -- as JSON

    def to_dict(self) -> dict[str, Any]:
        """Return the script in JSON form."""

        def each(workers: tuple[Worker, ...]) -> list[Any]:
            return [[[plain(operation) for operation in stir] for stir in worker] for worker in workers]

        return {
            "contents": list(self.contents),
            "repeat": self.repeat,
            "threads": each(self.threads),
            "tasks": each(self.tasks),
        }

    @classmethod
    def from_dict(cls, document: object) -> Script:
        """Return a script from the result of `to_dict`, or from JSON that a person wrote.

        Raises:
            ValueError: it is no script.
        """
        try:
            fields = dict(document)  # type: ignore[call-overload]
            for name in ("threads", "tasks"):
                workers = fields.get(name, ())
                fields[name] = tuple(
                    tuple(tuple(Operation(**one) for one in stir) for stir in worker) for worker in workers
                )
            return cls(**fields | {"contents": tuple(fields.get("contents", ()))})
        except TypeError as error:
            raise ValueError(f"script: {error}") from None


def plain(operation: Operation) -> dict[str, Any]:
    """Return an operation without the fields that have their default."""
    return {name: getattr(operation, name) for name, usual in USUAL.items() if getattr(operation, name) != usual}


def check(operation: Operation, where: str, files: int) -> None:
    """Check that an operation can be played; ValueError: it cannot; names the reason."""
    kind = operation.kind
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{where}.kind: {kind!r} is not one of {', '.join(KINDS)}")
    allowed = ("", *IO) if KINDS[kind] in CROSSING else IO if kind in MOVES else ("",)
    if operation.way not in allowed:
        rule = f"not one of {', '.join(IO)}" if kind in MOVES else f"none of {kind}, which moves no bytes"
        raise ValueError(f"{where}.way: {operation.way!r} is {rule}")
    whole(operation.file, f"{where}.file", 0, places(kind, files) - 1)
    whole(operation.offset, f"{where}.offset", -BYTES_MAX, BYTES_MAX)
    whole(operation.length, f"{where}.length", 0, BYTES_MAX)
    whole(operation.extra, f"{where}.extra", 0, EXTRA_MAX)
    if not isinstance(operation.end, bool):
        raise ValueError(f"{where}.end: {operation.end!r} is not true or false")


def whole(value: object, where: str, least: int, most: int) -> None:
    """Check that a value is a whole number in a range; ValueError: it is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where}: {value!r} is not an int")
    if not least <= value <= most:
        raise ValueError(f"{where}: {value!r} is not at least {least} and at most {most}")
