"""Checks at the end of a round, while nothing else runs: each makes a state that random operations hardly meet.

    pressed     a sync beside writers that never stop waits for earlier writes, and for no later ones [I-19]
    outlived    a write is held in the backend; the volume is aborted and reconnected, not fenced. Then
                lands late: newer bytes are written and saved, and the old call goes on: its bytes must not be found
                afterwards, as the cache must not have sent newer ones before the old call returned [T-63, K7]
                or is lost: the old call reports success from a store that is gone, and its bytes must be stored all the
                same: a late reply only ends the flight [2.22, T-75b]
    withdrawn   a page is sent, with visibility by commit, and its reply is lost; it is discarded while it waits for a
                retry. The commit of another page publishes nothing of it, and each handle reports it once [2.18, I-22]

Rules of the failing backend (`CachedTarget.faults`) hold calls, and change their ends.

For `pressed` no call of the backend ends before more was written, so the file is never clean. The check counts
requests, not seconds: a sync needs each page of its start once, and once more if a pass was running; `MOST` is a
hundred times that.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pagecache.errors import BackendError, Key
from pagecache.stress.hang import hangs
from pagecache.stress.player import played
from pagecache.stress.profiles import Operation
from pagecache.stress.steps import Steps
from pagecache.stress.world import World
from pagecache.testing import FaultPlan, Rule
from pagecache.testing.faults import ALL

if TYPE_CHECKING:
    from pagecache.stress.cached import CachedTarget

PRESSED = ("fsync", "sync", "ticket")
PAGE = 4096
PAGES = 4
WRITERS = 2
MOST = 500  # requests of the volume while one sync runs
CHECK_S = 0.005
MOMENT = 0.02  # seconds that a call waits for writers
ENOUGH = 3  # writes that end meanwhile: of two writers, one began after the call
AT_ONCE = 0.1  # seconds in which a write that does not wait for the old call reaches the backend
ENTER = 5.0  # seconds in which a requested write-back reaches the backend
HELD = 30.0  # seconds after which the release of a held call cannot come


def worker(world: World, number: int) -> Steps:
    """Return a worker of these checks, which no other check uses."""
    return Steps(world, 1 + world.plan.threads + world.plan.tasks + number)


def write(page: int) -> Operation:
    return Operation("write", 0, "buffered", page * PAGE, PAGE)


def started(call: Callable[[int], None]) -> threading.Thread:
    """Start a call on the first file that may fail in a thread; later checks examine its effect."""

    def run() -> None:
        with contextlib.suppress(OSError):
            call(0)

    thread = threading.Thread(target=run, name="stress-directed", daemon=True)
    thread.start()
    return thread


def pressed(world: World, target: CachedTarget, kind: str) -> None:
    """Run fsync, sync or a ticket beside writers; also ends when the world stops; Broken: the sync does not return."""
    returned, over, changed, errors = threading.Event(), threading.Event(), threading.Condition(), list[BaseException]()
    writes = 0

    def hold(_inner: object, _key: Key) -> None:
        with changed:
            enough = writes + ENOUGH
            changed.wait_for(lambda: over.is_set() or writes >= enough, MOMENT)

    def writing(number: int) -> None:
        nonlocal writes
        steps, pages = worker(world, number), itertools.count(number + 1)
        while not over.is_set():
            play(steps, write(next(pages) % PAGES))
            with changed:
                writes += 1
                changed.notify_all()

    def play(steps: Steps, operation: Operation) -> None:
        try:
            played(target, steps.conduct(operation))
        except BaseException as error:
            errors.append(error)

    def syncing() -> None:
        try:
            play(worker(world, WRITERS), Operation(kind, 0))
        finally:
            returned.set()

    threads = [threading.Thread(target=writing, args=(number,), daemon=True) for number in range(WRITERS)]
    threads.append(threading.Thread(target=syncing, name="stress-sync", daemon=True))
    before = target.volume.stats().write_requests
    faults, slow = target.faulting.plan, Rule(("write", "commit"), change=hold)
    target.faults.use(FaultPlan((slow, *faults.rules), faults.seed))
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
                raise hangs(world, [sentence])
    finally:
        over.set()
        target.faults.use(faults)
        for thread in threads:
            thread.join(world.plan.patience)
    world.counters["syncs beside writers"] += 1
    if errors:
        raise errors[0]


def outlived(world: World, target: CachedTarget) -> None:
    """Run the check while everything is saved.

    Raises:
        Broken: bytes of the held call are found where they must not be, or are missing.
    """
    if target.withholds or target.faulting.plan.rules:
        return
    rng, steps = world.plan.rng("outlived", world.number), worker(world, WRITERS + 1)
    for lands in (True, False):
        _outlive(world, target, steps, write(rng.randrange(PAGES)), lands=lands)
        world.rest(cold=True)


def _outlive(world: World, target: CachedTarget, steps: Steps, operation: Operation, *, lands: bool) -> None:
    """Hold a write until the volume is connected again. If it `lands`, its bytes reach the store before it ends,
    however the cache's memory has changed.
    """
    entered, go_on, over = threading.Event(), threading.Event(), threading.Event()
    start, sent = operation.offset - operation.offset % target.store_unit, b""

    def hold(_inner: object, _key: Key) -> None:
        entered.set()
        go_on.wait(HELD)
        if lands:
            target.objects.put(0, start, sent)
        over.set()

    target.faults.use([Rule("write", nth=1, change=hold, short=0, answer=ALL)])
    try:
        played(target, steps.conduct(operation))
        sent = target.read(0, "buffered", start, max(PAGE, target.store_unit), 2)
        saving = started(target.flush)
        if entered.wait(ENTER):
            target.volume.abort()
            saving.join()
            target.reconnect(fenced=False)
            if lands:
                played(target, steps.conduct(operation))
                saving = started(target.fsync)
                saving.join(AT_ONCE)
                if target.faults.calls_of("write"):  # newer bytes are sent already
                    saving.join(ENTER)
            go_on.set()
            over.wait(ENTER)
            saving.join()
            world.counters["backends outlived"] += 1
    finally:
        go_on.set()


def withdrawn(world: World, target: CachedTarget) -> None:
    """Run the check on the first file; Broken: the discarded bytes are found, or a handle reports another loss."""
    if not target.publishes or target.faulting.plan.rules:
        return
    world.rest(cold=False)  # other unsaved bytes would be discarded, too
    first, second = world.plan.rng("withdrawn", world.number).sample(range(PAGES), 2)
    steps, model, sent = worker(world, WRITERS + 2), world.models[0], threading.Event()

    def unanswered() -> BackendError:
        sent.set()
        return BackendError(errno.EIO, "made up: done without a reply", retry=True)

    target.reported_losses(0)
    operation = write(first)
    world.enter(steps.worker, operation, operation.offset, operation.offset + PAGE)
    target.faults.use([Rule("write", done=True, error=unanswered)])
    try:
        change = steps.new(model, "write", "buffered", operation.offset, PAGE)
        model.begin(change)
        target.write(0, "buffered", change.start, change.data(change.start, change.end), 0)
        fsync = started(target.fsync)
        sent.wait(ENTER)
        lost = target.lose(0, change.start, PAGE)
        model.cancel(change)
    finally:
        target.faults.use([])
        world.leave(steps.worker)
    fsync.join()
    with contextlib.suppress(OSError):
        target.flush(0)  # through a handle that is not checked below
    world.check_reported(0, lost)
    for operation in (write(second), Operation("fsync", 0)):
        played(target, steps.conduct(operation))
    world.counters["uploads given up"] += 1
    world.rest(cold=True)
