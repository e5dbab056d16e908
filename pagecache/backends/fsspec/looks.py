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


class _Look:
    """One look, and its answer. The thread that makes it holds `turn`; the other threads wait for that."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.answer: tuple[ObjectStat | None, Exception | None] | None = None


class Looks:
    """The looks at one name. An interrupt frees the turn, and the next thread that gets it looks."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self.name = name
        self._turn = threading.Lock()  # held over a look
        self._next = _Look()  # it has not begun
        self._lookers: set[int] = set()  # threads that look, or wait for `_turn`

    def look(self) -> ObjectStat | None:
        """Return the version that was stored at some time after the begin of this call; None: there was no object."""
        me = threading.get_ident()
        if me in self._lookers:  # a signal handler, which has interrupted a look of this thread
            return self._calls.found(self.name)
        look = self._next
        with look.turn:
            if look.answer is None:
                look.answer = self._made(me)
            found, failure = look.answer
        try:
            if failure is not None:
                raise failure
            return found
        finally:
            del look, failure  # error → traceback → this frame → error

    def _made(self, me: int) -> tuple[ObjectStat | None, Exception | None]:
        try:
            self._lookers.add(me)
            with self._turn:
                self._next = _Look()
                try:
                    return self._calls.found(self.name), None
                except Exception as error:
                    return None, error
        finally:
            self._lookers.discard(me)
