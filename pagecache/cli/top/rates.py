"""Rates from two documents of one cache. Pure functions.

Counters only grow, and a file's belong to one object in memory. If a count shrank, the process is another one, or a
clock went back, the documents do not fit together, and every rate is None, which is not 0.
"""

from pagecache.observe.answers import Counters, Histogram, Stats

BLOCKS = "▁▂▃▄▅▆▇█"


def seconds_between(before: Stats | None, now: Stats) -> float | None:
    """Return the seconds from one document to the next; None if they are not of one cache, or no time has passed."""
    if before is None or (before.pid, before.cache.name) != (now.pid, now.cache.name):
        return None
    seconds = now.uptime - before.uptime
    return seconds if seconds > 0 else None


def growth(before: Counters | None, now: Counters, *names: str) -> float | None:
    """Return the growth of the sum of some counters."""
    if before is None:
        return None
    grown = sum(now.get(name, 0) for name in names) - sum(before.get(name, 0) for name in names)
    return grown if grown >= 0 else None


def per_second(before: Counters | None, now: Counters, seconds: float | None, *names: str) -> float | None:
    """Return the growth of some counters per second."""
    grown = growth(before, now, *names)
    return None if grown is None or seconds is None else grown / seconds


def hit_rate(now: Counters, before: Counters | None = None) -> float | None:
    """Return the share of hits in all accesses since `before`, or since the beginning; None: no accesses."""
    hits, misses = growth(before or {}, now, "hits"), growth(before or {}, now, "misses")
    if hits is None or misses is None or not hits + misses:
        return None
    return hits / (hits + misses)


def since(before: Histogram | None, now: Histogram) -> Histogram:
    """Return the calls that ended after `before`; all of them if the two do not fit."""
    if before is None or before.bounds != now.bounds or len(before.counts) != len(now.counts):
        return now
    counts = tuple(new - old for old, new in zip(before.counts, now.counts, strict=True))
    if any(count < 0 for count in counts):
        return now
    return Histogram(now.bounds, counts, sum(counts), max(0.0, now.sum - before.sum))


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return the longest time of `share` of the calls, interpolated between bounds; None without calls.

    For calls beyond the last bound, that bound is returned.
    """
    total = sum(histogram.counts)
    if not total or not histogram.bounds:
        return None
    wanted, passed = share * total, 0
    for number, count in enumerate(histogram.counts[: len(histogram.bounds)]):
        if count and passed + count >= wanted:
            low = histogram.bounds[number - 1] if number else 0.0
            return low + (histogram.bounds[number] - low) * max(0.0, wanted - passed) / count
        passed += count
    return histogram.bounds[-1]


def sparkline(histogram: Histogram, width: int) -> str:
    """Return the counts as `width` bars over all bounds, shortest times to the left: two sparklines can be compared."""
    counts = histogram.counts
    if not sum(counts):
        return "·" * width
    sums = [0] * width
    for number, count in enumerate(counts):
        sums[number * width // len(counts)] += count
    most = max(sums)
    return "".join(BLOCKS[-(-count * len(BLOCKS) // most) - 1] if count else "·" for count in sums)
