"""Looks at the version of an object, shared by the reads that they cover.

A look proves the bytes of each read that ended before it began. So one look runs at a time, and the reads that end
meanwhile share the next one:

    read 1   -----|look 1------|
    read 2      -----|         |look 2------|
    read 3         -----|      |look 2------|
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future

from ..protocol import ObjectStat
from .calls import Calls

Look = Future["ObjectStat | None"]


class _LeftError(Exception):
    """Who made the look was interrupted: the others make another one."""


class Looks:
    """The looks at one name."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self.name = name
        self._lock = threading.Lock()  # guards the next two; held briefly
        self._running: Look | None = None
        self._next: Look | None = None  # it has not begun

    def look(self) -> ObjectStat | None:
        """Return the version that was stored at some time after the begin of this call; None: there was no object."""
        while True:
            with self._lock:
                running, shared = self._running, self._next
                if shared is None:
                    own: Look = Future()
                    own.set_running_or_notify_cancel()  # a waiter that gives up does not cancel it
                    self._next = own
            if shared is None:
                return self._make(own, running)
            with contextlib.suppress(_LeftError):
                return shared.result()

    def _make(self, look: Look, running: Look | None) -> ObjectStat | None:
        """Make a look after the running one, for all that wait for it."""
        try:
            if running is not None:
                with contextlib.suppress(Exception):
                    running.result()
            with self._lock:
                self._running, self._next = look, None
            found = self._calls.found(self.name)
        except BaseException as error:
            self._end(look)
            look.set_exception(error if isinstance(error, Exception) else _LeftError())
            raise
        self._end(look)
        look.set_result(found)
        return found

    def _end(self, look: Look) -> None:
        with self._lock:
            if self._running is look:
                self._running = None
            if self._next is look:  # it was interrupted before it began
                self._next = None
