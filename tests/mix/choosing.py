"""What threads and tasks of the mix choose at random: ranges, and ranges that they own while they change them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .ranges import Claim
from .world import PAGE, File, World

__all__ = ["Chooser", "Owned"]

Owned = tuple[int, int, int]  # [start, end), and another place of the same length or the same one


class Chooser:
    """`claim` says whether it waits for a range that somebody owns, or does without."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.rng = random.Random(seed)

    def claim(self, file: File, wanted: Callable[[], Claim | None]) -> Claim | None:
        raise NotImplementedError

    def length(self) -> int:
        rng = self.rng
        return rng.choice(
            [1, 7, 512, rng.randrange(1, 600), PAGE, rng.randrange(1, 3 * PAGE), rng.randrange(1, 16 * PAGE)]
        )

    def place(self, most: int) -> int:
        at = self.rng.randrange(most)
        return at - at % PAGE if self.rng.random() < 0.4 else at

    def range(self, most: int | None = None) -> tuple[int, int]:
        """Of a file of `most` bytes; None: as long as files may be."""
        most = self.world.variant.most if most is None else most
        start = self.place(most)
        return start, min(most, start + self.length())

    @contextmanager
    def owning(self, file: File, wanted: Callable[[], Claim | None]) -> Iterator[Claim | None]:
        with file.ranges.owning(self.claim(file, wanted)) as claim:
            yield claim

    @contextmanager
    def owning_inside(self, file: File, beside: Callable[[int, int], int] | None = None) -> Iterator[Owned | None]:
        """A range that the file has, and with `beside` (start, length) another place. None: it has none, or somebody
        owns it.
        """
        size = file.content.size
        if not size:
            yield None
            return
        start, end = self.range(size)
        to = start if beside is None else beside(start, end - start)
        with self.owning(file, file.inside((start, end), (to, to + end - start))) as claim:
            yield (start, end, to) if claim is not None and end <= file.content.size else None
