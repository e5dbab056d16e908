"""Syncs requested over the socket: `Volume.begin_sync` on volumes side by side, under one number.

Of a sync that is over only its document is kept, so that it keeps neither volumes nor files alive. Context: one thread
at a time.
"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import TYPE_CHECKING, Any

from ..errors import FailedRange, ShutdownError
from .documents import SCHEMA, Refused, ranges, recovered

if TYPE_CHECKING:
    from ..volume.ticket import SyncTicket
    from ..volume.volume import Volume

RUNNING_MOST = 64
KEPT_MOST = 1000
"""Number of syncs that are over and known, the last ones."""
FIRST_MOST = 2**31


class _Sync:
    """One sync."""

    def __init__(self, number: int, volumes: list[Volume]) -> None:
        self._number = number
        self._began = time.monotonic()
        self._tickets: list[tuple[Volume, SyncTicket]] = []
        self._refused: list[dict[str, Any]] = []
        self._over: dict[str, Any] | None = None
        for volume in volumes:
            try:
                self._tickets.append((volume, volume.begin_sync(durability="backend")))
            except ShutdownError as error:
                self._refused.append(_error(volume.name, error))

    def document(self) -> dict[str, Any]:
        if self._over is not None:
            return self._over
        tickets = [ticket for _, ticket in self._tickets]
        done = all(ticket.done() for ticket in tickets)  # first: the errors of a ticket are complete then
        expected = [ticket.expected for ticket in tickets if not ticket.done()]
        errors = [_error(volume.name, error) for volume, ticket in self._tickets for error in ticket.errors]
        found = {
            "schema": SCHEMA,
            "ticket": self._number,
            "total": sum(ticket.total for ticket in tickets),
            "remaining": sum(ticket.remaining for ticket in tickets),
            "rate": sum(ticket.rate for ticket in tickets),
            "expected": None if errors or None in expected else max(filter(None, expected), default=0.0),
            "recovered": recovered([volume for volume, _ in self._tickets]),
            "done": done,
            "seconds": time.monotonic() - self._began,
            "errors": self._refused + errors,
        }
        if done:
            self._over, self._tickets = found, []
        return found


class Syncs:
    """All syncs of one server."""

    def __init__(self) -> None:
        # A later request at this path may reach another process, in which the number must mean nothing.
        self._numbers = itertools.count(1 + secrets.randbelow(FIRST_MOST))
        self._known: dict[int, _Sync] = {}

    def begin(self, volumes: list[Volume]) -> dict[str, Any]:
        """Begin to save everything written so far.

        Raises:
            Refused: Too many syncs are running.
        """
        over = [number for number, sync in self._known.items() if sync.document()["done"]]
        if len(self._known) - len(over) >= RUNNING_MOST:
            raise Refused(503, f"{RUNNING_MOST} syncs are under way: ask for one of these, or wait until one is over")
        if len(over) >= KEPT_MOST:
            del self._known[over[0]]
        number = next(self._numbers)
        self._known[number] = _Sync(number, volumes)
        return self.document(number)

    def document(self, number: int) -> dict[str, Any]:
        """Return the progress of a sync.

        Raises:
            Refused: No such number, or many syncs were begun since.
        """
        if number not in self._known:
            raise Refused(404, f"sync {number} is not known: it was never begun, or {KEPT_MOST} others since")
        return self._known[number].document()


def _error(volume: str, error: OSError) -> dict[str, Any]:
    found = [each for each in getattr(error, "ranges", []) if isinstance(each, FailedRange)]
    return {"volume": volume, "message": str(error), "ranges": ranges(found)}
