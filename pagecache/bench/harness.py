"""The comparison of two ways to do a job: interleaved slices, ratios within a round, medians over rounds.

    round 1   B  A  C        every variant runs one slice of some milliseconds, in an order shuffled per round
    round 2   A  C  B        time per item of each slice
    ...                      ratio of a round = time per item of one variant / time per item of another, same round
    result                   median of the ratios, the best and worst round, and the spread of the median

The clock, the speed of the processor and the memory change from second to second; two slices of one round see much
the same machine, so only ratios within a round are valid. Numbers of two runs are never compared. A variant walks its
items (offsets, keys) in its own order, each once per cycle, so that no variant warms the processor's cache for another.

The *spread* of a median is half the width of the distribution-free 95 % interval (order statistics of the rounds),
relative to the median. An A/A comparison, one job under two names, shows which difference is noise on this machine.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Clock = Callable[[], float]  # seconds, from any origin

MOST_ITEMS = 4_000_000  # of one slice, whatever the calibration finds


def nothing() -> None:
    """Do nothing: the default of `before` and `after`."""


@dataclass(slots=True, kw_only=True)
class Variant:
    """One way to do the job."""

    name: str  # in tables; unique within a comparison
    run: Callable[[Sequence[Any]], object]  # does the job once for each item; only this is timed
    items: Sequence[Any]  # offsets or keys, walked in order and from the start again
    before: Callable[[], object] = nothing  # runs untimed before each slice
    after: Callable[[], object] = nothing  # runs untimed after each slice, also when the slice failed
    most: int | None = None  # most items of one slice; None: no bound
    position: int = 0

    def take(self, count: int) -> list[Any]:
        """Return the next `count` items: contiguous, or from the start again if the remaining cycle is too short. A
        longer slice repeats the cycle. So a handle that reads sequentially never wraps in mid-slice.
        """
        total = len(self.items)
        if count > total:
            whole, self.position = divmod(count, total)
            return list(self.items) * whole + list(self.items[: self.position])
        start = 0 if self.position + count > total else self.position
        self.position = start + count
        return list(self.items[start : start + count])


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two variants over all rounds."""

    median: float
    low: float  # the smallest round
    high: float
    spread: float  # relative half width of the 95 % interval of the median


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds per item of each variant, one number per round."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def times(self, name: str, against: str) -> Ratio:
        """Return how many times as long `name` takes as `against`: below 1 is faster."""
        pairs = zip(self.rounds[name], self.rounds[against], strict=True)
        return ratio_of([own / other for own, other in pairs])

    def speed(self, name: str, against: str) -> Ratio:
        """Return how many times as fast `name` is as `against`: above 1 is faster."""
        return self.times(against, name)

    def seconds(self, name: str) -> float:
        """Return the median seconds per item: for information, not for comparison."""
        return median(self.rounds[name])


def ratio_of(values: Sequence[float]) -> Ratio:
    """Summarise the ratios of all rounds."""
    ordered = sorted(values)
    middle, n = median(ordered), len(ordered)
    # Ranks of the 95 % interval of a median (binomial, normal approximation); of few rounds, the first and the last.
    low_rank = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    width = (ordered[n - 1 - low_rank] - ordered[low_rank]) / 2
    return Ratio(middle, ordered[0], ordered[-1], width / middle if middle else 0.0)


def slice_of(variant: Variant, count: int, clock: Clock) -> float:
    """Run one slice and return its seconds."""
    items = variant.take(count)
    variant.before()
    try:
        start = clock()
        variant.run(items)
        return clock() - start
    finally:
        variant.after()


def calibrate(variant: Variant, seconds: float, clock: Clock) -> int:
    """Return the number of items that make a slice of at least `seconds`."""
    most = min(variant.most or MOST_ITEMS, MOST_ITEMS)
    count = 1
    while (took := slice_of(variant, count, clock)) < seconds and count < most:
        # Eightfold at most per step: a first slice on a cold path does not predict the next.
        step = 8.0 if took <= 0 else min(8.0, max(1.3, 1.1 * seconds / took))
        count = min(most, math.ceil(count * step))
    return count


def compare(
    variants: Sequence[Variant],
    *,
    rounds: int,
    seconds: float,  # least length of a slice
    clock: Clock,  # time of the thread for work of one thread; wall time with threads or sleeping backends
    rng: random.Random,  # shuffles the order of each round
    counts: dict[str, int] | None = None,  # items per slice by name; None: calibrated
) -> Comparison:
    """Measure warm variants with different names side by side."""
    names = [variant.name for variant in variants]
    if len(set(names)) != len(names):
        raise ValueError(f"two variants share a name: {names}")
    counts = counts or {variant.name: calibrate(variant, seconds, clock) for variant in variants}
    result = Comparison({name: [] for name in names})
    order = list(variants)
    for _ in range(rounds):
        rng.shuffle(order)
        for variant in order:
            took = slice_of(variant, counts[variant.name], clock)
            # A clock that did not move would make the ratio infinite: count a nanosecond at least.
            result.rounds[variant.name].append(max(took, 1e-9) / counts[variant.name])
    return result


def real_difference(same: Ratio) -> float:
    """Return the smallest relative difference that is more than noise, from an A/A comparison."""
    return max(abs(same.median - 1), same.spread)


def shuffled(values: Sequence[int], rng: random.Random) -> list[int]:
    """Return a random order of `values` whose integer objects lie in memory in that order.

    Adding and subtracting makes new objects one after another: walking a list that was only shuffled costs a variant
    one miss of the processor's cache per integer.
    """
    order = list(values)
    rng.shuffle(order)
    return [value + 1 - 1 for value in order]
