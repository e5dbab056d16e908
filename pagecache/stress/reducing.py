"""What makes a script smaller: parts left out by ddmin, workers put together, calls put in the place of others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pagecache.stress.profiles import KINDS, Operation
from pagecache.stress.script import Script, Stir, Worker

__all__ = [
    "CALMER",
    "FILELESS",
    "buffered",
    "chained",
    "chained_back",
    "ddmin",
    "in_turns",
    "plainer",
    "renumbered",
    "stripped",
    "swapped",
]

T = TypeVar("T")

CALMER: dict[str, tuple[Any, ...]] = {"faults": ("none", "mild", "nasty"), "crashes": ((),), "processes": (1,)}
"""Less of what makes calls fail, from nothing on."""
FILELESS = {"names", "foreign", "losses", "rivals"}
"""Ways that have objects of their own."""
PLAINER = {"readv": "read", "writev": "write", "ticket": "sync", "sync": "fsync"}


def renumbered(operation: Operation, files: list[int]) -> Operation:
    """The same where these files alone are left, in their order."""
    if KINDS[operation.kind] == "names":
        return operation
    return replace(operation, file=files.index(operation.file) if operation.file in files else 0)


def buffered(operation: Operation) -> Operation:
    """The same through memory."""
    return replace(operation, way="buffered") if operation.way else operation


def plainer(operation: Operation) -> Operation:
    """The same by a simpler call."""
    return replace(operation, kind=PLAINER.get(operation.kind, operation.kind))


def swapped(one: Operation, other: Operation) -> Callable[[Operation], Operation]:
    """Puts `other` in the place of `one`."""
    return lambda operation: other if operation == one else operation


def chained(stirs: Sequence[Stir]) -> Stir:
    """One worker's operations after those of another."""
    return tuple(itertools.chain.from_iterable(stirs))


def chained_back(stirs: Sequence[Stir]) -> Stir:
    """The same, the last worker first."""
    return chained(stirs[::-1])


def in_turns(stirs: Sequence[Stir]) -> Stir:
    """The first of each, then the second of each."""
    return tuple(one for turn in itertools.zip_longest(*stirs) for one in turn if one is not None)


def stripped(script: Script, threads: Iterable[Worker], tasks: Iterable[Worker]) -> Script | None:
    """With these workers, but for those that do nothing; None: nothing is left."""
    busy = [tuple(worker for worker in workers if any(worker)) for workers in (threads, tasks)]
    return replace(script, threads=busy[0], tasks=busy[1]) if any(busy) else None


def ddmin(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of the items that fails, of which no single one can be left out; all of them where none does.

    `fails` may forget: what it has refused once is asked again only at another size.
    """
    left, parts = list(items), 2
    while len(left) > 1:
        size = -(-len(left) // min(parts, len(left)))
        chunks = [left[at : at + size] for at in range(0, len(left), size)]
        alone = next((chunk for chunk in chunks if fails(chunk)), None)
        if alone is not None:
            left, parts = alone, 2
            continue
        before, number = len(chunks), 0
        while number < len(chunks) and len(chunks) > 2:
            rest = [one for at, chunk in enumerate(chunks) if at != number for one in chunk]
            if fails(rest):
                del chunks[number]
            else:
                number += 1
        left = [one for chunk in chunks for one in chunk]
        if len(chunks) == before and size == 1:
            break
        parts = max(2, len(chunks)) if len(chunks) < before else 2 * parts
    return left
