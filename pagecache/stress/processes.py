"""Several processes on one directory: `path:DIR` by real clients that share files and nothing else.

    worker of process 1 ── pwrite ─┐                  journal 1 ──┐
    worker of process 2 ── pread ──┼──▶ the files     journal 2 ──┼──▶ by time ──▶ models of the parent: the oracle
    worker of process 3 ── mmap ───┘                  journal 3 ──┘

All clocks are one (CLOCK_MONOTONIC), so the records of all journals have one order: a call that returned before another
began in any process did so for the models, too. What somebody saw is judged here, when all have ended: the processes
themselves know of nobody's writes but their own.

A process that is killed in between (`crashes` with "killed") is a crash of that client alone: what it had called may
have taken place or not, all that returned to it has, and nobody else notices.

Mappings and truncates keep out of each other's way (mounted.py says why), by a lock on a file beside those that are
tested; the kernel takes it from who dies.
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
from pagecache.stress.killed import stir, within
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.oracle import Look
from pagecache.stress.recorded import Recorded
from pagecache.stress.telling import Retold, TellingKeeper, TellingModel, TellingWorld
from pagecache.stress.world import Activity, Found, World

__all__ = ["Processes"]

RECORDS = (10, 100, 600)
"""A client that is to be killed dies at one of so many records."""
FIRST = frozenset({"enter", "begin", "look", "saving", "naming"})
"""What is put down before a call."""


class Processes:
    """See `crash.Crashing`, and who plays.

    Args:
        target: of the round.
        kill: one of the processes is killed in each stir.
    """

    def __init__(self, target: MountedTarget, *, kill: bool) -> None:
        self._target, self._kill = target, kill
        self._life = 0
        self._names: dict[str, bytes] = {}

    def begin(self, world: World) -> None:
        self._world = world

    def players(self, world: World) -> Processes:
        """It plays itself."""
        return self

    def arm(self) -> None:
        """Who dies decides when."""

    look = rested = end = arm

    def recover(self, players: Any) -> None:
        """All have ended, and were judged."""

    # -- a stir

    def stir(self, count: int) -> list[threading.Thread]:
        """See `player.Players`: the thread that waits for all of them."""
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
        """The history of all, in one order."""
        world, models = self._world, self._world.models
        durable = Durable([], self._names)
        tellers = [Retold(world, durable) for _ in children]
        looks: dict[tuple[int, int], Look] = {}
        for _when, _rank, number, _at, (what, *rest) in heapq.merge(
            *(_ranked(number, child) for number, child in enumerate(children))
        ):
            if what == "look":
                look, file, start, end, worker, name, store = rest
                looks[number, look] = Look(models[file], start, end, worker, name, store=store)
            elif what == "looked":
                looks[number, rest[0]].returned()
            elif what == "seen":
                look, got, short, store = rest
                world.judge(looks.pop((number, look)), got, short=short, store=store)
            elif what == "failure":
                raise Found(within(f"process {number}", rest[0]))
            elif what == "skipped":
                world.unsupported |= rest[0]
            else:
                tellers[number].tell((what, *rest))
        self._after_death(durable, looks)

    def _after_death(self, durable: Durable, looks: dict[tuple[int, int], Look]) -> None:
        """What the dead have begun may be there or not, and nobody sees more of it than that."""
        self._world.cut_off()
        for look in looks.values():
            look.returned()
        for model in self._world.models:
            model.strand()
            for write in list(model.running):
                model.finish(write, certain=False)
        self._world.ask_again()
        durable.seen()
        for name in durable.names():
            durable.judge_name(name, self._target.store(name))
        self._names = {name: got for name in durable.names() if (got := self._target.store(name)) is not None}


def _ranked(number: int, child: Child) -> Iterator[tuple[int, int, int, int, tuple[Any, ...]]]:
    """Records with what orders them: what began at the same time as something ended was beside it."""
    for at, (when, record) in enumerate(read(child.fd)):
        yield when, 0 if record[0] in FIRST else 1, number, at, record


# ---------------------------------------------------------------------------------------------- in a process


def play(task: Task, journal: Journal) -> None:
    """Some of the workers, on files that all share.

    Raises:
        Broken: something was wrong.
    """
    folder, locks = task.target
    target = MountedTarget(task.plan, task.number, folder)
    target.adopt([FileLocks(f"{locks}/{number}") for number in range(task.plan.files)])
    world = ClientWorld(task.plan, target, task.number)
    world.journal = journal
    world.unsupported["copy"] = "of several processes nobody knows what a mapping has while it is written from"
    for number, content in enumerate(task.contents):
        first = first_write(number, world.tag, content)
        world.models.append(ClientModel(number, first, world.clock, journal, partial(target.size, number)))
    keeper = TellingKeeper(journal)
    recorded: Any = Recorded(target, lambda: keeper)
    world.target = recorded
    stir(task, world)
    journal.put("skipped", world.unsupported)
    if task.records:  # it was to die, and had too little to tell
        die()


class ClientWorld(TellingWorld):
    """Judges nothing: the journal has what was seen."""

    __slots__ = ()

    def state(self, now: Activity) -> str:
        """Only all of them know."""
        return ""

    def look(self, model: Model, start: int, end: int, worker: int, what: str, *, store: bool = False) -> Look:
        return TellingLook(self.journal, model, start, end, worker, what, store=store)

    def judge(self, look: Look, got: bytes, *, short: bool = False, store: bool = False) -> None:
        assert isinstance(look, TellingLook)
        self.journal.put("seen", look.number, got, short, store)

    def ask_again(self) -> None:
        """Later."""


class TellingLook(Look):
    """A look that is made again where all is known."""

    _numbers = itertools.count()

    def __init__(
        self, journal: Journal, model: Model, start: int, end: int, worker: int, what: str, *, store: bool = False
    ) -> None:
        self.number = next(self._numbers)
        self._journal = journal
        journal.put("look", self.number, model.number, start, end, worker, what, store)
        super().__init__(model, start, end, worker, what, store=store)
        self._told = False

    def returned(self) -> None:
        if not self._told:
            self._told = True
            self._journal.put("looked", self.number)
        super().returned()

    def sizes_meanwhile(self) -> tuple[int, int]:
        """Others may have done anything."""
        return 0, 1 << 62


class ClientModel(TellingModel):
    """What this process did. The size is what the file has, whoever made it so."""

    def __init__(self, number: int, first: Write, clock: Clock, journal: Journal, size: Callable[[], int]) -> None:
        super().__init__(number, first, clock, journal)
        self._size = size

    def largest(self) -> int:
        return self._size()

    def _placed(self, write: Write, offset: int, done: int | None) -> Write | None:
        """Where the end is, only all of them know."""
        with self.lock:
            write.start = write.origin = offset
            write.end = offset + write.length
            return None if done is None else self._split(write, done)


class FileLocks:
    """See `mounted.Mappings`: for all processes, by flock on a descriptor of each holder's own."""

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
