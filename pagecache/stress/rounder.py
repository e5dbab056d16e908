"""Round the numbers of a shrunk failure: an offset of 8192 explains more than one of 8177.

A number is rounder than another if it is 0, or a multiple of a page, or of a sector, and the other is not; between
equals the smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pagecache.stress.profiles import PLACELESS, Operation
from pagecache.stress.script import Script

__all__ = ["rounder", "rounder_numbers"]

PAGE = 4096
SECTOR = 512


def rank(number: int) -> tuple[int, int]:
    """Return the sort key: less is rounder."""
    if number == 0:
        return 0, 0
    for order, unit in enumerate((PAGE, SECTOR, 100, 10), 1):
        if number % unit == 0:
            return order, abs(number)
    return 5, abs(number)


def rounder_numbers(number: int) -> list[int]:
    """Return nearby numbers, and the roundest ones, the best first."""
    near = {number - number % unit + more for unit in (PAGE, SECTOR, 100, 10) for more in (0, unit)}
    return sorted((one for one in {0, 1, PAGE, *near} if rank(one) < rank(number)), key=rank)


def rounder(current: Callable[[], Script]) -> Iterator[Script]:
    """Yield candidates, each a change of the `current()` script: an accepted candidate is current before the next
    step.
    """
    for number in range(len(current().contents)):
        yield from contents(current, number)
    script = current()
    for i, worker in enumerate(script.workers):
        for j, stir in enumerate(worker):
            for k in range(len(stir)):
                yield from one_operation(current, (i, j, k))


def contents(current: Callable[[], Script], number: int) -> Iterator[Script]:
    """Yield candidates for the initial length of a file."""
    for length in rounder_numbers(current().contents[number]):
        before = current()
        yield replace(before, contents=(*before.contents[:number], length, *before.contents[number + 1 :]))
        if current() is not before:
            return


def one_operation(current: Callable[[], Script], place: tuple[int, int, int]) -> Iterator[Script]:
    """Yield candidates for the numbers of one operation, while it is part of the script."""

    def candidate(**fields: Any) -> Script | None:
        before = current()
        operation = at(before, place)
        return None if operation is None else put(before, place, replace(operation, **fields))

    operation = at(current(), place)
    if operation is None:
        return
    tries: list[tuple[str, list[int]]] = [
        ("extra", [0] if operation.extra else []),
        ("offset", rounder_numbers(operation.offset)),
        ("length", [length for length in rounder_numbers(operation.length) if length]),
    ]
    if (
        operation.kind in PLACELESS - {"publish"}
        and replace(operation, offset=0, length=0, end=False, extra=0) != operation
    ):
        tries = []
        if (found := candidate(offset=0, length=0, end=False, extra=0)) is not None:
            yield found
    elif operation.end and (found := candidate(offset=0, end=False)) is not None:
        yield found
    for name, values in tries:
        for value in values:
            before, found = current(), candidate(**{name: value})
            if found is None or found == before:
                continue
            yield found
            if current() is not before:
                break


def at(script: Script, place: tuple[int, int, int]) -> Operation | None:
    i, j, k = place
    if i < len(script.workers) and j < len(script.workers[i]) and k < len(script.workers[i][j]):
        return script.workers[i][j][k]
    return None


def put(script: Script, place: tuple[int, int, int], operation: Operation) -> Script:
    i, j, k = place
    workers = list(script.workers)
    worker = list(workers[i])
    worker[j] = (*worker[j][:k], operation, *worker[j][k + 1 :])
    workers[i] = tuple(worker)
    threads = len(script.threads)
    return replace(script, threads=tuple(workers[:threads]), tasks=tuple(workers[threads:]))
