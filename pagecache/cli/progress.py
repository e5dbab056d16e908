"""Progress on stderr: bars on a terminal until the work is done, otherwise one line per phase."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress(Protocol):
    """A receiver of progress."""

    def phase(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Enter a phase of `total` steps; the result is called with the number of steps done."""
        ...


class BarProgress:
    """One live bar per phase."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        task = self._bars.add_task(name, total=total)
        yield lambda steps: self._bars.advance(task, steps)


class LineProgress:
    """One line when a phase is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        start = time.monotonic()
        yield lambda steps: None
        self._console.print(f"{name}: {total} in {time.monotonic() - start:.1f} s", highlight=False)


@contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Show progress in a form that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield LineProgress(console)
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        yield BarProgress(bars)
