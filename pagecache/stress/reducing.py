"""Operations that make a script smaller: leave out parts by ddmin, merge workers, replace calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pagecache.stress.profiles import CROSSING, KINDS, Operation
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
"""Milder values of the settings that make calls fail, starting with none."""
FILELESS = {"names", "foreign", "losses", "rivals", *CROSSING}
"""Ways with separate objects."""
PLAINER = {"readv": "read", "writev": "write", "ticket": "sync", "sync": "fsync"}


def renumbered(operation: Operation, files: list[int]) -> Operation:
    """Return the operation after the removal of all files but these, renumbered in their order."""
    if KINDS[operation.kind] in ("names", *CROSSING):
        return operation
    return replace(operation, file=files.index(operation.file) if operation.file in files else 0)


def buffered(operation: Operation) -> Operation:
    """Return the operation through memory."""
    return replace(operation, way="buffered") if operation.way else operation


def plainer(operation: Operation) -> Operation:
    """Return the operation with a simpler call."""
    return replace(operation, kind=PLAINER.get(operation.kind, operation.kind))


def swapped(one: Operation, other: Operation) -> Callable[[Operation], Operation]:
    """Return a function that replaces `one` by `other`."""
    return lambda operation: other if operation == one else operation


def chained(stirs: Sequence[Stir]) -> Stir:
    """Return the operations of several workers, one worker after the other."""
    return tuple(itertools.chain.from_iterable(stirs))


def chained_back(stirs: Sequence[Stir]) -> Stir:
    """Return the operations of several workers, the last worker first."""
    return chained(stirs[::-1])


def in_turns(stirs: Sequence[Stir]) -> Stir:
    """Return the first operations of all workers, then the second ones, and so on."""
    return tuple(one for turn in itertools.zip_longest(*stirs) for one in turn if one is not None)


def stripped(script: Script, threads: Iterable[Worker], tasks: Iterable[Worker]) -> Script | None:
    """Return the script with these workers, without idle ones; None: no operation is left."""
    busy = [tuple(worker for worker in workers if any(worker)) for workers in (threads, tasks)]
    return replace(script, threads=busy[0], tasks=busy[1]) if any(busy) else None


def ddmin(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return a failing part of the items from which no single item can be removed; all items if no part fails.

    `fails` need not cache its results: a rejected part is tried again only at another size.
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
