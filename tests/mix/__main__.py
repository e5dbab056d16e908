"""`python -m tests.mix --seed 7 --seconds 60`: rounds of the mix, each on another variant.

A round is 8 threads and 200 tasks with so many calls each, and then a rest at which everything is compared. The seed
decides the variants and every choice of every worker; threads and the machine decide the order. Exit status 0: all of
it was right. 1: something was not, and stderr says what; or it did not go on, and stderr has the stacks.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial

from .tasks import run_tasks
from .threads import Worker
from .world import Variant, World

HANG = 100.0  # seconds that a round may take at most


class Round:
    """One variant, several times run and brought to rest."""

    def __init__(self, seed: str, threads: int, tasks: int, calls: int) -> None:
        self.seed = seed
        self.nr_threads, self.nr_tasks, self.calls = threads, tasks, calls
        self.variant = Variant.of(random.Random(seed))
        self.failures: list[BaseException] = []

    def stopped(self) -> bool:
        return bool(self.failures)

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            self.failures.append(error)

    def run(self) -> Counter[str]:
        world = World(self.variant)
        for rest in range(2):
            self._stir(world, f"{self.seed} {rest}")
            if self.failures:
                raise self.failures[0]
            world.rest()
        world.close()
        return world.counts

    def _stir(self, world: World, seed: str) -> None:
        calls: list[Callable[[], object]] = [
            partial(Worker(world, f"{seed} thread {number}").run, self.calls, self.stopped)
            for number in range(self.nr_threads)
        ]
        if self.nr_tasks:
            tasks = run_tasks(world, self.nr_tasks, max(1, self.calls // 10), seed, self.stopped, self.failures.append)
            calls.append(lambda: asyncio.run(tasks))
        threads = [threading.Thread(target=self._guarded, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not self.failures:
                thread.join(0.05)
        for thread in threads:
            thread.join(5.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mix", description=__doc__)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--round", type=int, default=0, help="the first round")
    parser.add_argument("--rounds", type=int, default=1 << 30)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--calls", type=int, default=60, help="of each thread; a task makes a tenth")
    args = parser.parse_args()
    sys.setswitchinterval(0.0005)
    end, number, counts = time.monotonic() + args.seconds, args.round, Counter[str]()
    while number == args.round or (time.monotonic() < end and number < args.round + args.rounds):
        faulthandler.dump_traceback_later(HANG, exit=True)
        one = Round(f"{args.seed} {number}", args.threads, args.tasks, args.calls)
        print(f"seed {args.seed}, round {number}: {one.variant}", file=sys.stderr, flush=True)
        try:
            counts += one.run()
        except BaseException:
            for error in reversed(one.failures[1:4]):
                traceback.print_exception(error)
            traceback.print_exc()
            print(
                f"again: python -m tests.mix --seed {args.seed} --round {number} --rounds 1 --threads {args.threads} "
                f"--tasks {args.tasks} --calls {args.calls}",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # what still runs may wait for ever
        number += 1
    faulthandler.cancel_dump_traceback_later()
    print(f"seed {args.seed}: {number - args.round} rounds, {sum(counts.values())} calls")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
