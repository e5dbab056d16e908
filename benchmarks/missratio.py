"""Miss ratios of the cache, of other policies and of the best order: `python benchmarks/missratio.py [--quick]`.

Traces of reads of 4 KiB, by kind of program; the cache holds a tenth of the pages. *Best* evicts the page that is read
last of all (Belady, "A study of replacement algorithms for a virtual-storage computer", 1966): no cache can do better.
The numbers are exact and independent of the machine. The peers are those of libCacheSim, from their papers: 2Q (T.
Johnson and D. Shasha, VLDB 1994), LIRS (S. Jiang and X. Zhang, SIGMETRICS 2002), ARC (N. Megiddo and D. Modha, FAST
2003), W-TinyLFU (G. Einziger et al., ACM TOS 2017), S3-FIFO (J. Yang et al., SOSP 2023), SIEVE (Y. Zhang et al., NSDI
2024). The last column is the cache's share divided by that of the best of them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import libcachesim

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
    moving = [page // 40 + rng.randrange(pages // 12) for page in range(length)]  # fits, and moves on
    flat = rng.choices(range(pages), [1 / (rank + 1) ** 0.7 for rank in range(pages)], k=length)
    steps = [  # a hot set that moves on by a fortieth of the pages, twenty times, and one read in ten anywhere
        (page // (length // 20) * (pages // 40) + rng.randrange(pages * 6 // 100)) % pages
        if rng.random() < 0.9
        else rng.randrange(pages)
        for page in range(length)
    ]
    near: list[int] = []  # half of the pages are read again a few reads later
    for page in hot:
        near += [page] + ([near[-7]] if len(near) > 7 and rng.random() < 0.5 else [])
    return {
        "popular pages (Zipf 1.0)": hot,
        "popular pages and scans": scans,
        "a loop over 1.25 times the cache": loop,
        "epochs over twice the cache": [page % (pages // 5) for page in range(length)],
        "shuffled epochs over twice the cache": [
            page for _ in range(length // (pages // 5)) for page in rng.sample(range(pages // 5), pages // 5)
        ],
        "a working set that moves": [page % pages for page in moving],
        "popular pages, read twice at once": near[:length],
        "flatly popular pages (Zipf 0.7)": flat,
        "a hot set that moves in steps": steps,
        "popular pages beside a loop": [
            page if at % 2 else pages // 2 + at // 2 % (pages // 5) for at, page in enumerate(hot)
        ],
        "shuffled epochs over 1.25 times the cache": [
            page for _ in range(length // (pages // 8)) for page in rng.sample(range(pages // 8), pages // 8)
        ],
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


def missed(policy: str, trace: Sequence[int], room: int) -> float:
    """The share of misses of a policy of libCacheSim."""
    after, last = [0] * len(trace), dict[int, int]()  # when each page is read next, which Belady asks for
    for at in range(len(trace) - 1, -1, -1):
        after[at] = last.get(trace[at], sys.maxsize)
        last[trace[at]] = at
    cache, request, misses = getattr(libcachesim, policy)(cache_size=room), libcachesim.Request(), 0
    request.obj_size = 1
    for request.clock_time, request.obj_id in enumerate(trace):
        request.next_access_vtime = after[request.clock_time]
        misses += not cache.get(request)
    return misses / len(trace)


def main() -> None:
    pages, length = (2_000, 20_000) if "--quick" in sys.argv[1:] else (20_000, 400_000)
    room = pages // 10
    sides = {"LRU": "LRU", "2Q": "TwoQ", "LIRS": "LIRS", "ARC": "ARC"}
    sides |= {"W-TinyLFU": "WTinyLFU", "S3-FIFO": "S3FIFO", "SIEVE": "Sieve"}
    every = [*sides.values(), "Belady"]
    print(f"| trace | cache | {' | '.join(sides)} | best order | × best policy |\n|---|{'---|' * (3 + len(sides))}")
    for name, trace in traces(pages, length, random.Random(1)).items():
        own, *peers = cached(trace, pages, room), *(missed(policy, trace, room) for policy in every)
        shares = " | ".join(f"{100 * share:.1f} %" for share in (own, *peers))
        print(f"| {name} | {shares} | {own / min(peers[:-1]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
