"""Miss ratios of the cache beside LRU and the best possible order: `python benchmarks/missratio.py [--quick]`.

Traces of reads of 4 KiB, by kind of program; the cache holds a tenth of the pages. *Best* evicts the page that is read
last of all (Belady, "A study of replacement algorithms for a virtual-storage computer", 1966): no cache can do better.
The numbers are exact and independent of the machine.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import OrderedDict
from collections.abc import Sequence

from pagecache import PageCache
from pagecache.bench import PAGE


def traces(pages: int, length: int, rng: random.Random) -> dict[str, list[int]]:
    """Return the page numbers of each trace."""
    zipf = rng.choices(range(pages), [1 / (rank + 1) for rank in range(pages)], k=length)
    order = [*range(pages)]
    rng.shuffle(order)
    hot = [order[page] for page in zipf]  # popular pages all over the file
    scans = list(hot)
    for start in range(length // 10, length, length // 5):  # a program reads a part of the file once, beside the others
        scans[start : start + pages // 2] = [page % pages for page in range(start, start + pages // 2)]
    loop = [page % (pages // 8) for page in range(length)]  # slightly more than the cache holds
    return {
        "popular pages (Zipf 1.0)": hot,
        "popular pages and scans": scans,
        "a loop over 1.25 times the cache": loop,
        "each page as likely": rng.choices(range(pages), k=length),
    }


def cached(trace: Sequence[int], pages: int, room: int) -> float:
    """The share of misses of the cache."""
    with PageCache(room * PAGE, max_folio=PAGE) as cache:
        volume = cache.attach("memory:", read_ahead=0)
        with volume.open("file", "w+b") as file:
            for offset in range(0, pages * PAGE, PAGE):
                file.pwrite(b"x", offset)
            file.fsync()
        volume.drop_clean()
        before = cache.stats().misses
        with volume.open("file", "rb") as file:
            for page in trace:
                file.pread(PAGE, page * PAGE)
        return (cache.stats().misses - before) / len(trace)


def lru(trace: Sequence[int], room: int) -> float:
    """The share of misses of a list of the pages used last."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for page in trace:
        if page in held:
            held.move_to_end(page)
            continue
        misses += 1
        held[page] = None
        if len(held) > room:
            held.popitem(last=False)
    return misses / len(trace)


def best(trace: Sequence[int], room: int) -> float:
    """The share of misses of the order that knows the future."""
    after = [0] * len(trace)
    last: dict[int, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        after[at] = last.get(trace[at], len(trace))
        last[trace[at]] = at
    held: dict[int, int] = {}  # page: when it is read next
    order: list[tuple[int, int]] = []
    misses = 0
    for at, page in enumerate(trace):
        if page not in held:
            misses += 1
            while len(held) >= room:
                when, other = heapq.heappop(order)
                if held.get(other) == -when:
                    del held[other]
        held[page] = after[at]
        heapq.heappush(order, (-after[at], page))
    return misses / len(trace)


def main() -> None:
    pages, length = (2_000, 20_000) if "--quick" in sys.argv[1:] else (20_000, 400_000)
    room = pages // 10
    print("| trace | cache | LRU | best |\n|---|---|---|---|")
    for name, trace in traces(pages, length, random.Random(1)).items():
        found = (cached(trace, pages, room), lru(trace, room), best(trace, room))
        print(f"| {name} | {' | '.join(f'{100 * share:.1f} %' for share in found)} |", flush=True)


if __name__ == "__main__":
    main()
