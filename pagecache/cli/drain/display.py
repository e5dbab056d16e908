"""Outcomes as text: on stderr live bars in a terminal, otherwise a line every few seconds; in the end the result."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pagecache.cli.drain.following import Document, Outcome
from pagecache.quantities import duration_text, printable, range_text, size_text

__all__ = ["lines", "on_stderr", "state_of"]

LINE_INTERVAL_S = 5.0
SILENT_S = 2.0
"""Time without an answer after which the progress mentions it."""


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
    if (silent := time.monotonic() - outcome.silent_since) > SILENT_S:
        parts.append(f"no answer for {duration_text(silent)}")
    return ", ".join(parts)


@contextmanager
def on_stderr() -> Iterator[Callable[[Sequence[Outcome]], None]]:
    """Show progress in the form that suits stderr."""
    console = Console(stderr=True)
    then = time.monotonic() + LINE_INTERVAL_S

    def show_lines(outcomes: Sequence[Outcome]) -> None:
        nonlocal then
        if time.monotonic() < then:
            return
        then = time.monotonic() + LINE_INTERVAL_S
        for outcome in outcomes:
            if outcome.total and not outcome.done and not outcome.unknown:  # 0: the total is not known yet
                line = f"{name_of(outcome)}: {state_of(outcome)}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield show_lines
        return
    name, state = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[state]}"))
    with Progress(name, BarColumn(), state, console=console, transient=True) as bars:

        def show_bars(outcomes: Sequence[Outcome]) -> None:
            while len(bars.tasks) < len(outcomes):
                bars.add_task(name_of(outcomes[len(bars.tasks)]), state="")
            for task, outcome in zip(bars.tasks, outcomes, strict=True):
                total = max(outcome.total, 1)
                done = total if outcome.saved else outcome.total - outcome.remaining
                bars.update(task.id, total=total, completed=done, state=state_of(outcome))

        yield show_bars


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the result: a line for each cache and each unsaved range."""
    for outcome in outcomes:
        yield f"{name_of(outcome)}: {_verdict(outcome)}"
        for unsaved in outcome.unsaved:
            yield f"  {_unsaved(unsaved)}"


def _verdict(outcome: Outcome) -> str:
    if outcome.saved:
        return f"saved: all that was written before, {size_text(outcome.total)} in {duration_text(outcome.seconds)}"
    left = f"{size_text(outcome.remaining)} of {size_text(outcome.total)}"
    if outcome.unknown:
        seen = f"; the last that was seen is {left} left" if outcome.total else ""
        return f"NOT KNOWN: {outcome.unknown}{seen}"
    if outcome.done:
        return f"NOT SAVED: {left}, kept in memory by its process"
    return f"NOT SAVED YET: {left} left at the deadline; what was begun goes on"


def _unsaved(entry: Document) -> str:
    volume, message = printable(entry["volume"]), printable(entry["message"])
    if entry["key"] is None:
        return f"{volume}: {message}"
    code = errno.errorcode.get(entry["errno"], str(entry["errno"]))
    where = f"{entry['key']!r} {range_text(entry['offset'], entry['length'])}"
    return f"{volume}: {where}: {code}: {message}; {entry['next']}"
