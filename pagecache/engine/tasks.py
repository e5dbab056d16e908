"""Waits of tasks, without an import of asyncio.

A task awaits a plain future of its loop. The ticket of the wait (`_native/types/ticket.c`) connects the future with an
event of CORE, or with a call on another thread.
"""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..native import Ticket

__all__ = ["ended", "turn"]


async def ended(ticket: Ticket) -> None:
    """Wait until the ticket is woken. A task that is cancelled leaves nothing behind."""
    try:
        await ticket.begin()
    finally:
        ticket.end()


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the loop run its other tasks once."""
    yield
