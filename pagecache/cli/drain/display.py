"""Progress for a person, on stderr: live bars in a terminal, a line every few seconds otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from pagecache.cli.drain.following import Outcome
from pagecache.quantities import duration_text, printable, size_text

__all__ = ["Display", "name_of", "on_stderr", "silent", "state_of"]

LINE_INTERVAL = 5.0
SILENT = 2.0
"""Seconds without an answer after which the progress mentions it."""


class Display(Protocol):
    """A display for the progress of a drain."""

    def show(self, outcomes: Sequence[Outcome]) -> None: ...


def name_of(outcome: Outcome) -> str:
    """Return the name of a cache and its process."""
    name = printable(outcome.name or outcome.socket)
    return name if outcome.pid is None else f"{name} (process {outcome.pid})"


def state_of(outcome: Outcome) -> str:
    """Return the progress of one cache."""
    if outcome.unknown:
        return "lost"
    if outcome.done:
        return "saved" if outcome.saved else f"{size_text(outcome.remaining)} not saved"
    parts = [f"{size_text(outcome.remaining)} of {size_text(outcome.total)} left"]
    if outcome.rate:
        parts.append(f"{size_text(outcome.rate)}/s")
    if outcome.expected is not None:
        parts.append(f"about {duration_text(outcome.expected)}")
    if outcome.errors:
        parts.append(f"{len(outcome.errors)} failed")
    if outcome.silent > SILENT:
        parts.append(f"no answer for {duration_text(outcome.silent)}")
    return ", ".join(parts)


class _Silent:
    def show(self, outcomes: Sequence[Outcome]) -> None:
        pass


silent: Display = _Silent()


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: list[TaskID] = []

    def show(self, outcomes: Sequence[Outcome]) -> None:
        if not self._tasks:
            self._tasks = [self._bars.add_task(name_of(outcome), state="") for outcome in outcomes]
        for task, outcome in zip(self._tasks, outcomes, strict=True):
            total = max(outcome.total, 1)
            done = total if outcome.saved else outcome.total - outcome.remaining
            self._bars.update(task, total=total, completed=done, state=state_of(outcome))


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = time.monotonic() + LINE_INTERVAL

    def show(self, outcomes: Sequence[Outcome]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LINE_INTERVAL
        for outcome in outcomes:
            if not outcome.over and outcome.total:  # 0: the total is not known yet
                line = f"{name_of(outcome)}: {state_of(outcome)}"
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def on_stderr() -> Iterator[Display]:
    """Show progress in the form that suits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)
