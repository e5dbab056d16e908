"""Several processes on one directory: `path:DIR` by independent clients that share only the files.

    worker of process 1 ── pwrite ─┐                  journal 1 ──┐
    worker of process 2 ── pread ──┼──▶ the files     journal 2 ──┼──▶ by time ──▶ models of the parent: the oracle
    worker of process 3 ── mmap ───┘                  journal 3 ──┘

All processes read one clock (CLOCK_MONOTONIC), so the records of all journals have one order: a call that returned
before another began in any process did so for the models, too. The parent judges the observations when all processes
have ended: a process itself has no record of the writes of others.

A process that is killed (`crashes` with "killed") is a crash of that client alone: its last call may have taken effect
or not, all returned calls have, and the other processes are not affected.

A lock on a file beside the tested ones separates mappings and truncates (mounted.py has the reason); the kernel
releases the lock of a killed process.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from pagecache.stress.child import START, Child, Task, die, first_write, spawn, waiting
from pagecache.stress.durable import Durable
from pagecache.stress.history import Broken, Clock, Model, Write
from pagecache.stress.journal import Journal, read
from pagecache.stress.journaled import JournaledKeeper, JournaledModel, JournaledWorld, JournalReplay
from pagecache.stress.killed import stir, within
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.oracle import Observation
from pagecache.stress.recorded import Recorded
from pagecache.stress.world import Found, World

__all__ = ["Processes"]

RECORDS = (10, 100, 600)
"""Upper bounds for the number of records before a client is killed."""
FIRST = frozenset({"enter", "begin", "observe", "saving", "naming"})
"""Records that are written before a call."""


class Processes:
    """Crashes of single clients, see `crash.Crashing`; also the player.

    Args:
        target: of the round.
        kill: kill one of the processes in each stir.
    """

    def __init__(self, target: MountedTarget, *, kill: bool) -> None:
        self._target, self._kill = target, kill
        self._life = 0
        self._names: dict[str, bytes] = {}

    def begin(self, world: World) -> None:
        self._world = world

    def players(self, world: World) -> Processes:
        """Return this object, which is its own player."""
        return self

    def arm(self) -> None:
        """Do nothing: the child chooses the moment."""

    check = rested = end = arm

    def recover(self, players: Any) -> None:
        """Do nothing: all processes have ended, and were judged."""

    # -- a stir

    def stir(self, count: int) -> list[threading.Thread]:
        """Start a stir, see `player.Players`; return the thread that waits for all processes."""
        self._life += 1
        return waiting(self._world, "the processes", partial(self._stir, count))

    def _stir(self, count: int) -> None:
        plan, world = self._world.plan, self._world
        rng = plan.rng("processes", world.number, self._life)
        dying = rng.randrange(plan.processes) if self._kill else -1
        contents = [self._target.store(number) or b"" for number in range(plan.files)]
        with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="pagecache-stress-") as locks:
            children = []
            for number in range(plan.processes):
                workers = range(1 + number, 1 + plan.threads, plan.processes)
                where = self._target.root, locks
                task = Task(play, plan, world.number, self._life, where, contents, self._names, workers, count)
                if number == dying:
                    task = replace(task, records=rng.randrange(1, rng.choice(RECORDS)))
                children.append(stack.enter_context(spawn(task)))
            statuses = [child.end(3 * plan.patience + START, world.stopped) for child in children]
            if world.stopped.is_set():
                return
            for number, (child, status) in enumerate(zip(children, statuses, strict=True)):
                if status and not (number == dying and status == -9):
                    raise Broken(f"process {number} ended with status {status}\n{child.errors()}", "error")
            killed = statuses[dying] == -9 if self._kill else False
            world.counters["crashes: killed"] += killed
            self._judge(children)

    def _judge(self, children: list[Child]) -> None:
        """Replay the records of all processes in one order."""
        world, models = self._world, self._world.models
        durable = Durable([], self._names)
        replays = [JournalReplay(world, durable) for _ in children]
        observations: dict[tuple[int, int], Observation] = {}
        for _when, _rank, number, _at, (what, *rest) in heapq.merge(
            *(_ranked(number, child) for number, child in enumerate(children))
        ):
            if what == "observe":
                observation, file, start, end, worker, name, store = rest
                observations[number, observation] = Observation(models[file], start, end, worker, name, store=store)
            elif what == "observed":
                observations[number, rest[0]].returned()
            elif what == "seen":
                observation, got, short, store = rest
                world.judge(observations.pop((number, observation)), got, short=short, store=store)
            elif what == "failure":
                raise Found(within(f"process {number}", rest[0]))
            elif what == "skipped":
                world.unsupported |= rest[0]
            else:
                replays[number].apply((what, *rest))
        self._after_death(durable, observations)

    def _after_death(self, durable: Durable, observations: dict[tuple[int, int], Observation]) -> None:
        """End the calls of killed processes: they may have taken effect or not."""
        self._world.cut_off()
        for observation in observations.values():
            observation.returned()
        for model in self._world.models:
            model.strand()
            for write in list(model.running):
                model.finish(write, certain=False)
        self._world.recheck()
        durable.seen()
        for name in durable.names():
            durable.judge_name(name, self._target.store(name))
        self._names = {name: got for name in durable.names() if (got := self._target.store(name)) is not None}


def _ranked(number: int, child: Child) -> Iterator[tuple[int, int, int, int, tuple[Any, ...]]]:
    """Yield records with their sort key: a call that begins when another ends counts as concurrent."""
    for at, (when, record) in enumerate(read(child.fd)):
        yield when, 0 if record[0] in FIRST else 1, number, at, record


# ---------------------------------------------------------------------------------------------- in a process


def play(task: Task, journal: Journal) -> None:
    """Play some of the workers, on files that all processes share.

    Raises:
        Broken: something was wrong.
    """
    folder, locks = task.target
    target = MountedTarget(task.plan, task.number, folder)
    target.adopt([FileLocks(f"{locks}/{number}") for number in range(task.plan.files)])
    world = ClientWorld(task.plan, target, task.number)
    world.journal = journal
    world.unsupported["copy"] = "with several processes the content of a mapping is unknown while it is written from"
    for number, content in enumerate(task.contents):
        first = first_write(number, world.tag, content)
        world.models.append(ClientModel(number, first, world.clock, journal, partial(target.size, number)))
    keeper = JournaledKeeper(journal)
    recorded: Any = Recorded(target, lambda: keeper)
    world.target = recorded
    stir(task, world)
    journal.put("skipped", world.unsupported)
    if task.records:  # it was to be killed, and had too few records
        die()


class ClientWorld(JournaledWorld):
    """A world that judges nothing: the journal has the observations."""

    __slots__ = ()

    def observe(
        self, model: Model, start: int, end: int, worker: int, what: str, *, store: bool = False
    ) -> Observation:
        return JournaledObservation(self.journal, model, start, end, worker, what, store=store)

    def judge(self, observation: Observation, got: bytes, *, short: bool = False, store: bool = False) -> None:
        assert isinstance(observation, JournaledObservation)
        self.journal.put("seen", observation.number, got, short, store)

    def recheck(self) -> None:
        """Do nothing: the parent judges."""


class JournaledObservation(Observation):
    """An observation that the parent repeats with the records of all processes."""

    _numbers = itertools.count()

    def __init__(
        self, journal: Journal, model: Model, start: int, end: int, worker: int, what: str, *, store: bool = False
    ) -> None:
        self.number = next(self._numbers)
        self._journal = journal
        journal.put("observe", self.number, model.number, start, end, worker, what, store)
        super().__init__(model, start, end, worker, what, store=store)
        self._journaled = False

    def returned(self) -> None:
        if not self._journaled:
            self._journaled = True
            self._journal.put("observed", self.number)
        super().returned()

    def sizes_meanwhile(self) -> tuple[int, int]:
        """Return all possible sizes: other processes may change the file."""
        return 0, 1 << 62


class ClientModel(JournaledModel):
    """A model of this process's writes. The size is that of the real file."""

    def __init__(self, number: int, first: Write, clock: Clock, journal: Journal, size: Callable[[], int]) -> None:
        super().__init__(number, first, clock, journal)
        self._size = size

    def largest(self) -> int:
        return self._size()

    def _placed(self, write: Write, offset: int, done: int | None) -> Write | None:
        """Leave the place of an append to the parent: other processes move the end."""
        with self.lock:
            write.start = write.origin = offset
            write.end = offset + write.length
            return None if done is None else self._split(write, done)


class FileLocks:
    """A lock like `mounted.Mappings`, for all processes: flock on a separate descriptor of each holder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: list[int] = []
        self._lock = threading.Lock()

    def _take(self, how: int) -> int:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, how)
        return fd

    def enter(self) -> None:
        fd = self._take(fcntl.LOCK_SH)
        with self._lock:
            self._held.append(fd)

    def leave(self) -> None:
        with self._lock:
            fd = self._held.pop()
        os.close(fd)

    @contextmanager
    def cutting(self) -> Iterator[None]:
        fd = self._take(fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(fd)
