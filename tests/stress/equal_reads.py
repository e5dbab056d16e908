"""One simulated thread reads some bytes twice, another one writes them: may the bytes change between the two reads?

    reads      for each seed and each policy: differing reads, as JSON
    for-ever   the first one reads again and again, and never releases the interpreter lock: the scheduler's report

Both threads play on one cached page. Between the two reads the first one runs no Python code that could release the
interpreter lock; calls of the cache release it from `gil_release` bytes on. It runs in a separate process, which
imports the debug extension: only there the core has points.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from typing import Any

from pagecache import PageCache
from pagecache.backends import MemoryBackend
from pagecache.native.simulated import passed
from pagecache.stress.deterministic import substitution, threads
from pagecache.stress.deterministic.policies import Pct, Walk
from pagecache.stress.deterministic.scheduler import Scheduler, Stuck

PAGE = 4096
ROUNDS = 20


def reads_that_differ(scheduler: Scheduler, gil_release: int | str) -> int:
    """Count the reads of one thread that differ from the next, while another one writes whole pages."""
    differ = 0
    with (
        PageCache("1MiB", gil_release=gil_release, dirty_expire=3600.0, flush_interval=3600.0) as cache,
        cache.attach(MemoryBackend()).open("k", "w+") as file,
    ):
        file.pwrite(bytes(PAGE), 0)

        def read() -> None:
            nonlocal differ
            for _ in range(ROUNDS):
                one, other = file.pread(8, 0), file.pread(8, 0)
                differ += one != other
                passed("read")

        def write() -> None:
            for number in range(ROUNDS):
                file.pwrite(bytes([number + 1]) * PAGE, 0)
                passed("written")

        both = [threads.Thread(scheduler, call, call.__name__) for call in (read, write)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    return differ


def played(policy: type[Any], seed: int, gil_release: int | str) -> int:
    """Run reads_that_differ in a new system thread."""
    found: list[int] = []

    def play() -> None:
        rng = random.Random(seed)
        scheduler = Scheduler(policy(rng), rng)
        scheduler.run(lambda: found.append(reads_that_differ(scheduler, gil_release)))

    with substitution.substituted():
        thread = threading.Thread(target=play)
        thread.start()
        thread.join()
    return found[0]


def read_forever(scheduler: Scheduler) -> None:
    """Read forever while another thread could run but never does."""
    with PageCache("1MiB") as cache, cache.attach(MemoryBackend()).open("k", "w+") as file:
        file.pwrite(bytes(PAGE), 0)
        threads.Thread(scheduler, lambda: passed("a word"), "other").start()
        while True:
            file.pread(8, 0)


def report_of_stuck() -> str:
    """The scheduler's report in the end."""
    said: list[str] = []

    def play() -> None:
        scheduler = Scheduler(Pct(random.Random(1)), random.Random(1))
        try:
            scheduler.run(lambda: read_forever(scheduler))
        except Stuck as stuck:
            said.append(str(stuck))
        over.set()
        threading.Event().wait()  # greenlets that never end are left on the stack of this thread

    over = threading.Event()
    with substitution.substituted():
        threading.Thread(target=play, daemon=True).start()
        over.wait()
    return said[0]


def main(what: str, gil_release: str = "", seeds: str = "0") -> None:
    if what == "for-ever":
        print(report_of_stuck(), flush=True)
        os._exit(0)  # its cache belongs to threads that do not go on
    found = [played(policy, seed, gil_release) for policy in (Walk, Pct) for seed in range(int(seeds))]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
