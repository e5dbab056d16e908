"""Progress on stderr: bars on a terminal until the work is done, otherwise one line per phase."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Phase = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Enter a phase with a name and a number of steps; the result is called with the number of steps done."""


@contextmanager
def progress_on_stderr() -> Iterator[Phase]:
    """Show progress in a form that fits stderr."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        @contextmanager
        def phase(name: str, total: int) -> Iterator[Callable[[int], None]]:
            task, start = bars.add_task(name, total=total), time.monotonic()
            yield lambda steps: bars.advance(task, steps)
            if bars.disable:
                console.print(f"{name}: {total} in {time.monotonic() - start:.1f} s", highlight=False)

        yield phase
