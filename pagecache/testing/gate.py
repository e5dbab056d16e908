"""A gate: holds calls of a backend until a test releases them."""

from __future__ import annotations

import threading
from typing import Self


class Gate:
    """A gate that holds calls until it is opened. A context manager: leaving it releases, so that no failing test
    hangs.

    with Gate() as gate:
        backend.use([Rule("commit", gate=gate)])
        thread.start()                           # calls file.fsync()
        gate.wait_entered()
        ...                                      # the commit is running now
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entered = 0
        self._waiting = 0
        self._open = False
        self._releases = 0

    @property
    def entered(self) -> int:
        """Return the number of calls that arrived so far, including released ones."""
        return self._entered

    @property
    def waiting(self) -> int:
        """Return the number of held calls."""
        return self._waiting

    def wait_entered(self, timeout: float = 10.0, *, calls: int = 1) -> None:
        """Wait until so many calls have arrived.

        Raises:
            TimeoutError: they did not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._entered >= calls, timeout):
                raise TimeoutError(f"{self._entered} of {calls} calls came to the gate within {timeout} s")

    def release(self) -> None:
        """Release held calls, and all later ones."""
        with self._changed:
            self._open = True
            self._releases += 1
            self._changed.notify_all()

    def hold(self) -> None:
        """Hold calls again."""
        with self._changed:
            self._open = False

    def enter(self, timeout: float | None = None) -> None:
        """Enter from a backend: wait for the release, at most `timeout` seconds."""
        with self._changed:
            self._entered += 1
            self._waiting += 1
            self._changed.notify_all()
            seen = self._releases
            try:
                self._changed.wait_for(lambda: self._open or self._releases != seen, timeout)
            finally:
                self._waiting -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
