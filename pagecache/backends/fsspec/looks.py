"""Looks at the version of an object, shared by the reads that they cover.

A look proves the bytes of each read that ended before it began. So one look runs at a time, and the reads that end
meanwhile share the next one:

    read 1   -----|look 1------|
    read 2      -----|         |look 2------|
    read 3         -----|      |look 2------|
"""

from __future__ import annotations

import threading

from ..protocol import ObjectStat
from .calls import Calls

Answer = tuple["ObjectStat | None", "Exception | None"]


class Looks:
    """The looks at one name."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self.name = name
        self._turn = threading.RLock()  # of the thread that looks; an interrupt in `look` leaves nothing but that free
        self._next: list[Answer] = []  # of the next look, which has not begun

    def look(self) -> ObjectStat | None:
        """Return the version that was stored at some time after the begin of this call; None: there was no object."""
        answer = self._next
        with self._turn:
            if not answer:  # who begins to look waits for it, or was interrupted
                self._next = []
                try:
                    answer.append((self._calls.found(self.name), None))
                except Exception as error:
                    answer.append((None, error))
            found, failure = answer[0]
        try:
            if failure is not None:
                raise failure
            return found
        finally:
            del answer, failure  # error → traceback → this frame → error
