"""Time that only a test moves, and a way to know that the flusher has looked at it."""

from __future__ import annotations

from collections.abc import Callable

from pagecache import PageCache

from .rig import eventually


class HandClock:
    """Stands still until it is moved; put in the place of the engine's clock."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def until(self, condition: Callable[[], object]) -> None:
        """Time goes on, ten seconds in each real one at the most, until something has happened: what is done by turns
        of the flusher needs it.
        """

        def happened() -> object:
            self.advance(0.02)
            return condition()

        eventually(happened)


def after_a_look(cache: PageCache) -> None:
    """Return when the flusher has looked at everything once more, from beginning to end.

    A look that has begun already does not count: its method was found before.
    """
    flusher, seen, plain = cache.flusher, [0], cache.flusher.turn

    def turn() -> float:
        delay = plain()
        seen[0] += 1
        return delay

    flusher.turn = turn  # type: ignore[method-assign]
    try:
        flusher.wake()
        eventually(lambda: seen[0] >= 1)
    finally:
        del flusher.turn
