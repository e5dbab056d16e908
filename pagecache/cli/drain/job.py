"""Several caches side by side: none waits for another, and one deadline holds for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pagecache.cli.drain.display import Display
from pagecache.cli.drain.following import Follower, Outcome, Unusable
from pagecache.observe.client import TooSlow
from pagecache.quantities import printable

__all__ = ["drain"]

MOMENT = 0.1
"""Seconds between two updates of the display."""


def drain(sockets: Sequence[str], volume: str | None, deadline: float | None, display: Display) -> list[Outcome]:
    """Have everything saved that was written so far; return the outcomes in the order of the sockets.

    Args:
        sockets: Paths of `PageCache.serve_stats`.
        volume: Only this one; None: all.
        deadline: Seconds after which the waiting ends; the syncs go on.
        display: Shows the progress.

    Raises:
        Unusable: A socket is unusable; then no sync was begun anywhere.
    """
    followers = [Follower(socket, volume) for socket in sockets]
    begun = _answering(followers)
    for follower in begun:
        follower.start()
    until = None if deadline is None else time.monotonic() + deadline
    left = begun
    while left and (until is None or time.monotonic() < until):
        display.show([follower.outcome for follower in followers])
        left[0].ended.wait(MOMENT if until is None else max(0.0, min(MOMENT, until - time.monotonic())))
        left = [follower for follower in begun if not follower.ended.is_set()]
    for follower in left:
        follower.give_up()
    return [follower.outcome for follower in followers]


def _answering(followers: Sequence[Follower]) -> list[Follower]:
    """Return the followers whose caches answer.

    Raises:
        Unusable: One of the sockets is unusable.
    """
    found = []
    try:
        for follower in followers:
            try:
                follower.check()
            except TooSlow as error:
                follower.outcome.unknown = f"{printable(str(error))}; nothing was begun there"
            else:
                found.append(follower)
    except Unusable:
        for follower in followers:
            follower.close()
        raise
    return found
