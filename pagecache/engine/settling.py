"""Work of the engine that needs a file's token and has no waiter: taking another version, giving data up, cutting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .report.notices import fault

if TYPE_CHECKING:
    from .file import EngineFile


class Settling:
    """The queue of one file. Made with the first job.

    Lock: none; the queue takes jobs from any thread, and the holder of the token runs them.
    """

    __slots__ = ("_jobs",)

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()

    def __bool__(self) -> bool:
        """Return whether a job waits for the token."""
        return bool(self._jobs)

    def add(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)

    def run(self, file: EngineFile) -> bool:
        """Run the queued jobs, with the token held; False: there were none."""
        if not self._jobs:
            return False
        while self._jobs:
            try:
                self._jobs.popleft()()
            except Exception:
                fault("%s: %r: work under the file's token failed", file.volume.name, file.key)
        return True


NO_WORK = Settling()
"""The queue of every file without a job so far."""
