"""A sync waits for earlier writes, and for no later ones [I-19]: writers that never stop, and a count of requests.

    writers   overwrite a few pages of one file, until the sync has returned
    sync      fsync, sync or a ticket, in turn from round to round, or as a script says; all else has ended

No call of the backend ends before more was written (pressure.py), so the file is never clean. The pages may be written
back repeatedly while the sync waits: how often depends on the machine. But a sync that waits for later writes never
returns. So the check counts requests, not seconds: a sync needs each page of its start once, and perhaps once more if a
pass was running; `MOST` is a hundred times that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pagecache.stress.cached import CachedTarget
from pagecache.stress.player import played
from pagecache.stress.profiles import Operation
from pagecache.stress.steps import Step, Steps
from pagecache.stress.watchdog import hangs
from pagecache.stress.world import Found, World

__all__ = ["MOST", "PAGE", "PAGES", "WRITERS", "play", "pressed"]

PAGE = 4096
PAGES = 4
WRITERS = 2
MOST = 500
"""Maximum requests of the volume while one sync runs."""
CHECK_S = 0.005


def pressed(world: World, target: CachedTarget, kind: str) -> None:
    """Run the check while nothing else runs; also ends when the world stops.

    Raises:
        Found: the sync does not return.
    """
    first = 1 + world.plan.threads + world.plan.tasks
    over, errors = threading.Event(), list[BaseException]()

    def writer(number: int) -> None:
        steps = Steps(world, first + number)
        turn = number
        while not over.is_set():
            turn += 1
            play(target, steps.conduct(Operation("write", 0, "buffered", turn % PAGES * PAGE, PAGE)), errors)
            target.pressure.wrote()

    def syncer() -> None:
        try:
            play(target, Steps(world, first + WRITERS).conduct(Operation(kind, 0)), errors, returned.set)
        finally:
            returned.set()

    returned = threading.Event()
    threads = [threading.Thread(target=writer, args=(number,), daemon=True) for number in range(WRITERS)]
    threads.append(threading.Thread(target=syncer, name="stress-sync", daemon=True))
    before = target.volume.stats().write_requests
    target.pressure.press(True)
    try:
        for thread in threads:
            thread.start()
        while not returned.wait(CHECK_S) and not world.stopped.is_set():
            requests = target.volume.stats().write_requests - before
            if requests > MOST:
                sentence = (
                    f"{kind} beside {WRITERS} writers of {PAGES} pages has not returned after {requests} requests: "
                    "it waits for what was written later"
                )
                raise Found(hangs(world, [sentence]))
    finally:
        target.pressure.press(False)
        over.set()
        for thread in threads:
            thread.join(world.plan.patience)
    world.counters["syncs beside writers"] += 1
    if errors:
        raise errors[0]


def play(target: Any, step: Step, errors: list[BaseException], returned: Callable[[], None] = lambda: None) -> None:
    """Make the calls of one operation; append an exception to `errors`."""
    try:
        played(target, step, returned)
    except BaseException as error:
        errors.append(error)
