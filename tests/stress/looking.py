"""One simulated thread looks at some bytes twice, another one writes them: may the bytes change between the two looks?

    for each seed and each policy: looks that differ, as JSON

Both threads play on one page that is cached. Between the two looks the first one runs no code of Python that could let
the interpreter lock go; calls of the cache let it go from `gil_release` bytes on. Run in a process of its own, which
imports the debug extension: only there the core has points.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from typing import Any

from pagecache import PageCache
from pagecache.backends import MemoryBackend
from pagecache.native.simulated import passed
from pagecache.stress.deterministic import substitution, threads
from pagecache.stress.deterministic.policies import Pct, Walk
from pagecache.stress.deterministic.scheduler import Scheduler

PAGE = 4096
ROUNDS = 20


def looks_that_differ(scheduler: Scheduler, gil_release: int | str) -> int:
    """How many of the looks of one thread differ from the next, while another one writes whole pages."""
    differ = 0
    with (
        PageCache("1MiB", gil_release=gil_release, dirty_expire=3600.0, flush_interval=3600.0) as cache,
        cache.attach(MemoryBackend()).open("k", "w+") as file,
    ):
        file.pwrite(bytes(PAGE), 0)

        def look() -> None:
            nonlocal differ
            for _ in range(ROUNDS):
                one, other = file.pread(8, 0), file.pread(8, 0)
                differ += one != other
                passed("looked")

        def write() -> None:
            for number in range(ROUNDS):
                file.pwrite(bytes([number + 1]) * PAGE, 0)
                passed("written")

        both = [threads.Thread(scheduler, call, call.__name__) for call in (look, write)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    return differ


def played(policy: type[Any], seed: int, gil_release: int | str) -> int:
    """The same, in a thread of the system of its own."""
    found: list[int] = []

    def play() -> None:
        rng = random.Random(seed)
        scheduler = Scheduler(policy(rng), rng)
        scheduler.run(lambda: found.append(looks_that_differ(scheduler, gil_release)))

    with substitution.substituted():
        thread = threading.Thread(target=play)
        thread.start()
        thread.join()
    return found[0]


def main(gil_release: str, seeds: int) -> None:
    found = [played(policy, seed, gil_release) for policy in (Walk, Pct) for seed in range(seeds)]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
