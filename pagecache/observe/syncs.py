"""Syncs requested over the socket: `Volume.begin_sync` on volumes side by side, under one number.

A sync that is over is kept as numbers and texts, so that it keeps neither volumes nor files alive. Context: one
thread at a time.
"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import TYPE_CHECKING, Any

from ..errors import FailedRange, ShutdownError
from .documents import SCHEMA, NotThere, said_ranges

if TYPE_CHECKING:
    from ..volume.ticket import SyncTicket
    from ..volume.volume import Volume

__all__ = ["Busy", "Syncs"]

RUNNING_MOST = 64
KEPT_MOST = 1000
"""Number of syncs that are known, the last ones."""
FIRST_MOST = 2**31


class Busy(RuntimeError):
    """Too many syncs run."""


class _Sync:
    """One sync under its number."""

    def __init__(self, number: int, volumes: list[Volume]) -> None:
        self.number = number
        self.over = False
        self._began = time.monotonic()
        self._tickets: list[tuple[str, SyncTicket]] = []
        self._gone: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        for volume in volumes:
            try:
                self._tickets.append((volume.name, volume.begin_sync()))
            except ShutdownError as error:
                self._gone.append(_said(volume.name, error))
        self._total = sum(ticket.total for _, ticket in self._tickets)

    def update(self) -> None:
        """Find whether the sync is over; then only its document is kept."""
        if not self.over and all(ticket.done() for _, ticket in self._tickets):
            self._last, self.over = self._document(done=True), True
            self._tickets = []

    def document(self) -> dict[str, Any]:
        self.update()
        return self._last if self.over else self._document(done=False)

    def _document(self, *, done: bool) -> dict[str, Any]:
        tickets = [ticket for _, ticket in self._tickets]
        expected = [ticket.expected for ticket in tickets if not ticket.done()]
        errors = [_said(name, error) for name, ticket in self._tickets for error in ticket.errors]
        return {
            "schema": SCHEMA,
            "ticket": self.number,
            "total": self._total,
            "remaining": sum(ticket.remaining for ticket in tickets),
            "rate": sum(ticket.rate for ticket in tickets),
            "expected": None if errors or None in expected else max(filter(None, expected), default=0.0),
            "done": done,
            "seconds": time.monotonic() - self._began,
            "errors": self._gone + errors,
        }


class Syncs:
    """All syncs of one server."""

    def __init__(self) -> None:
        # A later request at this path may reach another process, in which the number must mean nothing.
        self._numbers = itertools.count(1 + secrets.randbelow(FIRST_MOST))
        self._syncs: dict[int, _Sync] = {}

    def begin(self, volumes: list[Volume]) -> dict[str, Any]:
        """Begin to save everything written so far.

        Raises:
            Busy: Too many syncs are running.
        """
        if self.running() >= RUNNING_MOST:
            raise Busy(f"{RUNNING_MOST} syncs are under way: ask for one of these, or wait until one is over")
        sync = _Sync(next(self._numbers), volumes)
        self._syncs[sync.number] = sync
        while len(self._syncs) > KEPT_MOST:
            del self._syncs[next(number for number, one in self._syncs.items() if one.over)]
        return sync.document()

    def document(self, number: int) -> dict[str, Any]:
        """Return the progress of a sync.

        Raises:
            NotThere: No such number, or many syncs were begun since.
        """
        if number not in self._syncs:
            raise NotThere(f"sync {number} is not known: it was never begun, or {KEPT_MOST} others since")
        return self._syncs[number].document()

    def running(self) -> int:
        """Return the number of running syncs. Those that are over let go of their volumes."""
        for sync in self._syncs.values():
            sync.update()
        return sum(not sync.over for sync in self._syncs.values())


def _said(volume: str, error: OSError) -> dict[str, Any]:
    ranges = [each for each in getattr(error, "ranges", []) if isinstance(each, FailedRange)]
    return {"volume": volume, "message": str(error), "ranges": said_ranges(ranges)}
