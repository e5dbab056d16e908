"""Miss ratios of the cache, of other policies and of the best order: `python benchmarks/missratio.py [--quick]`.

Traces of reads of 4 KiB, by kind of program; the cache holds a tenth of the pages. *Best* evicts the page that is read
last of all (Belady, "A study of replacement algorithms for a virtual-storage computer", 1966): no cache can do better.
The numbers are exact and independent of the machine. The peers are written from their papers: 2Q (T. Johnson and
D. Shasha, VLDB 1994), LIRS (S. Jiang and X. Zhang, SIGMETRICS 2002), ARC (N. Megiddo and D. Modha, FAST 2003),
W-TinyLFU (G. Einziger et al., ACM TOS 2017), S3-FIFO (J. Yang et al., SOSP 2023), SIEVE (Y. Zhang et al., NSDI 2024).
The last column is the cache's share divided by that of the best of them.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

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


# Policies yield at each miss.


def lru(trace: Sequence[int], room: int) -> Iterator[None]:
    held: OrderedDict[int, None] = OrderedDict()
    for page in trace:
        if page not in held:
            yield
        held[page] = None
        held.move_to_end(page)
        if len(held) > room:
            held.popitem(last=False)


def lirs(trace: Sequence[int], room: int) -> Iterator[None]:
    """LIRS, with a hundredth for pages on trial, and three times the cache remembered."""
    wanted = room - max(1, room // 100)
    stack, trial, gone = [OrderedDict[int, None]() for _ in range(3)]  # the stack by recency; its first is always kept
    kept: set[int] = set()

    def prune() -> None:
        while stack and next(iter(stack)) not in kept:
            gone.pop(stack.popitem(last=False)[0], None)

    for page in trace:
        known = page in stack
        if page not in kept and page not in trial:
            yield
            if len(kept) + len(trial) >= room:
                least, _ = trial.popitem(last=False)
                if least in stack:
                    gone[least] = None
                if len(gone) > 3 * room:
                    stack.pop(gone.popitem(last=False)[0], None)
        stack[page] = None
        stack.move_to_end(page)
        gone.pop(page, None)
        if page in kept:
            prune()
        elif known or len(kept) < wanted:
            trial.pop(page, None)
            kept.add(page)
            if len(kept) > wanted:
                least, _ = stack.popitem(last=False)
                kept.discard(least)
                trial[least] = None
            prune()
        else:
            trial[page] = None
            trial.move_to_end(page)


def tinylfu(trace: Sequence[int], room: int) -> Iterator[None]:
    """W-TinyLFU, with exact counts, halved after ten times the cache."""
    window, probation, protected = [OrderedDict[int, None]() for _ in range(3)]
    counts: dict[int, int] = {}
    seen = 0
    for page in trace:
        counts[page] = min(15, counts.get(page, 0) + 1)
        seen += 1
        if seen == 10 * room:
            counts = {one: count // 2 for one, count in counts.items() if count > 1}
            seen //= 2
        if page in window:
            window.move_to_end(page)
        elif page in protected:
            protected.move_to_end(page)
        elif page in probation:
            del probation[page]
            protected[page] = None
            if len(protected) > room * 4 // 5:
                probation[protected.popitem(last=False)[0]] = None
        else:
            yield
            window[page] = None
            if len(window) > max(1, room // 100):
                new, _ = window.popitem(last=False)
                full = len(window) + len(probation) + len(protected) + 1 > room
                least = next(iter(probation or protected)) if full else new
                if counts.get(new, 0) > counts.get(least, 0):
                    (probation or protected).pop(least)
                if not full or counts.get(new, 0) > counts.get(least, 0):
                    probation[new] = None


def sieve(trace: Sequence[int], room: int) -> Iterator[None]:
    held: dict[int, bool] = {}  # page: whether it was read since the hand passed
    order: list[int] = []  # the oldest first; the hand is a place in it
    hand = 0
    for page in trace:
        if page in held:
            held[page] = True
            continue
        yield
        if len(held) == room:
            while held[order[hand := hand % room]]:
                held[order[hand]] = False
                hand += 1
            del held[order.pop(hand)]
            hand %= len(order) or 1  # behind the newest comes the oldest
        held[page] = False
        order.append(page)


def arc(trace: Sequence[int], room: int) -> Iterator[None]:
    once, often, once_gone, often_gone = [OrderedDict[int, None]() for _ in range(4)]
    target = 0

    def replace(page: int) -> None:
        from_once = once and (len(once) > target or (page in often_gone and len(once) == target))
        queue, gone = (once, once_gone) if from_once else (often, often_gone)
        gone[queue.popitem(last=False)[0]] = None

    for page in trace:
        if page in once or page in often:
            (once if page in once else often).pop(page)
            often[page] = None
            continue
        yield
        total = len(once) + len(once_gone)
        if page in once_gone or page in often_gone:
            gone, other, sign = (once_gone, often_gone, 1) if page in once_gone else (often_gone, once_gone, -1)
            target = min(room, max(0, target + sign * max(1, len(other) // len(gone))))
            replace(page)
            del gone[page]
            often[page] = None
            continue
        if total == room and len(once) == room:
            once.popitem(last=False)
        elif total + len(often) + len(often_gone) >= room:
            if total == room:
                once_gone.popitem(last=False)
            elif total + len(often) + len(often_gone) == 2 * room:
                often_gone.popitem(last=False)
            replace(page)
        once[page] = None


def twoq(trace: Sequence[int], room: int) -> Iterator[None]:
    """2Q, with a quarter of the cache for new pages, and half of it remembered."""
    new, gone, main = [OrderedDict[int, None]() for _ in range(3)]
    for page in trace:
        if page in main:
            main.move_to_end(page)
        if page in main or page in new:
            continue
        yield
        if len(new) + len(main) >= room:
            if len(new) > room // 4 or not main:
                gone[new.popitem(last=False)[0]] = None
                if len(gone) > room // 2:
                    gone.popitem(last=False)
            else:
                main.popitem(last=False)
        (main if page in gone else new)[page] = None
        gone.pop(page, None)


def s3fifo(trace: Sequence[int], room: int) -> Iterator[None]:
    """S3-FIFO, with a tenth of the cache for new pages."""
    small, main = deque[int](), deque[int]()
    gone, counts = OrderedDict[int, None](), dict[int, int]()
    for page in trace:
        if page in counts:
            counts[page] = min(3, counts[page] + 1)
            continue
        yield
        while len(counts) >= room:
            queue = small if len(small) >= max(1, room // 10) or not main else main
            old = queue.popleft()
            if counts[old] > (queue is small):
                counts[old] = 0 if queue is small else counts[old] - 1
                main.append(old)
                continue
            del counts[old]
            if queue is small:
                gone[old] = None
                if len(gone) > room:
                    gone.popitem(last=False)
        (main if page in gone else small).append(page)
        gone.pop(page, None)
        counts[page] = 0


def best(trace: Sequence[int], room: int) -> Iterator[None]:
    """The order that knows the future."""
    after = [0] * len(trace)
    last: dict[int, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        after[at] = last.get(trace[at], len(trace))
        last[trace[at]] = at
    held: dict[int, int] = {}  # page: when it is read next
    order: list[tuple[int, int]] = []
    for at, page in enumerate(trace):
        if page not in held:
            yield
            while len(held) >= room:
                when, other = heapq.heappop(order)
                if held.get(other) == -when:
                    del held[other]
        held[page] = after[at]
        heapq.heappush(order, (-after[at], page))


def main() -> None:
    pages, length = (2_000, 20_000) if "--quick" in sys.argv[1:] else (20_000, 400_000)
    room = pages // 10
    sides = {"LRU": lru, "2Q": twoq, "LIRS": lirs, "ARC": arc, "W-TinyLFU": tinylfu, "S3-FIFO": s3fifo, "SIEVE": sieve}
    every = [*sides.values(), best]
    print(f"| trace | cache | {' | '.join(sides)} | best order | × best policy |\n|---|{'---|' * (3 + len(sides))}")
    for name, trace in traces(pages, length, random.Random(1)).items():
        own, *peers = cached(trace, pages, room), *(sum(1 for _ in side(trace, room)) / len(trace) for side in every)
        shares = " | ".join(f"{100 * share:.1f} %" for share in (own, *peers))
        print(f"| {name} | {shares} | {own / min(peers[:-1]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
