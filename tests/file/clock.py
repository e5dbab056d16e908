"""A clock that only a test moves, and a way to wait until the flusher has read it."""

from __future__ import annotations

from collections.abc import Callable

from pagecache import PageCache

from .rig import eventually


class HandClock:
    """A clock that stands still until a test moves it; replaces the engine's clock."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def until(self, condition: Callable[[], object]) -> None:
        """Advance the time until something has happened, at most ten seconds in each real one. Work done in turns of
        the flusher needs it.
        """

        def happened() -> object:
            self.advance(0.02)
            return condition()

        eventually(happened)


def after_flusher_turn(cache: PageCache) -> None:
    """Return when the flusher has examined everything once more, from beginning to end.

    A turn that has already begun does not count: it found its method before.
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
