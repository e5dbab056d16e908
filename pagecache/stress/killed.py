"""Kill the process of the cache: each stir of a round runs in a child, over a store that outlives it.

    rest        the parent's cache saves everything, and is closed
    stir        a child makes a cache over the parent's store, plays the workers, and dies at a record of its journal
    recover     replay the journal into the parent's models; call the factory again; the stored state must be one that
                a crash may leave (durable.py); then make a new cache in the parent
    rest        read everything by every way

The journal is a file in memory that outlives the child, with a record before each call and another after it:

    child                                                        parent
    Steps ── begin, finish, ... ──▶ JournaledModel ── journal ──▶ Replay ── begin, finish, ... ──▶ Model
    verbs ── fsync, publish, ... ─▶ JournaledKeeper               Replay ── saving, named, ... ──▶ Durable

So the parent's models have a true history: a call that has no second record was running when the child died. The moment
is a count of records, not a time, so a replay dies at one fixed place in its stream of calls.

If the child does not find the parent's files, the store ends with its process: the run is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

from pagecache.stress.cached import CachedTarget
from pagecache.stress.durable import Durable, after_crash
from pagecache.stress.hang import Hang
from pagecache.stress.history import Broken, Clock, Model, Write
from pagecache.stress.naming import maker
from pagecache.stress.narrative import narrative
from pagecache.stress.plan import Plan
from pagecache.stress.player import Players
from pagecache.stress.profiles import Operation
from pagecache.stress.recorded import Recorded
from pagecache.stress.targets import UnusableTarget
from pagecache.stress.watchdog import Watchdog
from pagecache.stress.world import Activity, Failure, Found, World

__all__ = ["Child", "Killed", "Task", "main", "records", "unpicklable"]

RECORDS = (20, 200, 800)
"""Upper bounds for the number of journal records before the child dies."""
START = 60.0  # seconds that a loaded machine may take to start a process, and to end one
CHECK_S = 0.2  # seconds between checks of whether to stop
STDERR_MAX = 8000  # characters of stderr in an error
PR_SET_PDEATHSIG = 1
PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import pagecache.stress.killed as k; k.main({})"
)


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one child.

    Attributes:
        play: plays the workers; called with this task and the journal.
        plan, number: of the run, of the round.
        life: index of the stir in the round.
        target: source of the target.
        contents: of the files, as stored.
        names: of the workers' own objects -> content.
        count: operations of each worker.
        records: the journal record after which the child dies; 0: none.
    """

    play: Callable[[Task, Journal], None]
    plan: Plan
    number: int
    life: int
    target: Any
    contents: list[bytes]
    names: dict[str, bytes]
    count: int
    records: int = 0


def unpicklable(what: object) -> str:
    """Return why a factory cannot be sent to another process, as a sentence; "" if it can."""
    try:
        pickle.dumps(what)
    except Exception as error:
        return f"{what!r} cannot be brought to another process: {error}"
    if getattr(what, "__module__", "") == "__main__":
        return f"{what!r} is of the main program: put it into a module"
    return ""


# ---------------------------------------------------------------------------------------------- the parent


class Killed:
    """Crashes by SIGKILL, see `crash.Crashing`; also the player of the stirs.

    Args:
        target: of the round.
        made_from: source of the target, by name or as a factory.
    """

    def __init__(self, target: CachedTarget, made_from: Any) -> None:
        self._target, self._made_from = target, made_from
        self._refused = ""  # why no other process could play
        self._life = 0
        self._names: dict[str, bytes] = {}
        self._durable: Durable

    def begin(self, world: World) -> None:
        self._world = world

    def players(self, world: World) -> Killed:
        """Return this object, which is its own player."""
        return self

    def arm(self) -> None:
        """Do nothing: the child dies by itself."""

    check = rested = end = arm

    def stir(self, count: int) -> list[threading.Thread]:
        """Start a stir, see `player.Players`; return the thread that waits for the child."""
        self._life += 1
        world = self._world

        def guarded() -> None:
            try:
                self._stir(count)
            except UnusableTarget as error:
                self._refused = str(error)
            except Found as found:
                world.fail(found.failure)
            except Broken as error:
                world.fail(Failure.of(error))
            except Exception as error:
                world.fail(Failure("error", f"the process of the cache: {type(error).__name__}: {error}"))

        thread = threading.Thread(target=world.run, args=(guarded,), name="stress-process", daemon=True)
        thread.start()
        return [thread]

    def _stir(self, count: int) -> None:
        world, target, plan = self._world, self._target, self._world.plan
        target.close()
        contents = [target.store(model.number) or b"" for model in world.models]
        rng = plan.rng("killed", world.number, self._life)
        dies = rng.randrange(1, rng.choice(RECORDS))
        task = Task(play, plan, world.number, self._life, self._made_from, contents, self._names, count, dies)
        self._durable = Durable(world.models, self._names)
        if world.stopped.is_set():
            return
        with Child(task) as child:
            status = child.end(3 * plan.patience + START, world.stopped)
            replay = Replay(world, self._durable)
            for what, *rest in records(child.journal):
                if what == "unusable":
                    raise UnusableTarget(rest[0])
                if what == "failure":
                    failure = rest[0]
                    raise Found(replace(failure, story=f"in the process of the cache: {failure.story}"))
                replay.apply(what, rest)
            world.cut_off()
            if status != -signal.SIGKILL:
                raise Broken(f"the process of the cache ended with status {status}\n{child.errors()}", "error")

    def recover(self, players: Any) -> None:
        """Check the state after the child's death.

        Raises:
            Broken: bytes are missing that must be there.
            UnusableTarget: there can be no such crash.
        """
        world, target, durable = self._world, self._target, self._durable
        if self._refused:
            raise UnusableTarget(f"crashes: killed cannot be on {target.name}: {self._refused}")
        world.counters["crashes: killed"] += 1
        target.resume()
        target.remember(durable.names())
        for number, model in enumerate(world.models):
            got = target.store(number)
            durable.judge(number, got)
            world.models[number] = after_crash(number, world.tag, got or b"", model)
        for name in durable.names():
            durable.judge_name(name, target.store(name))
        self._names = {name: found for name in durable.names() if (found := target.store(name)) is not None}
        world.doubts.clear()


class Child:
    """A process that plays a task; a context manager that leaves none behind. `journal`: its file.

    Raises:
        UnusableTarget: the source of the target cannot be pickled.
    """

    def __init__(self, task: Task) -> None:
        if why := unpicklable(task.target):
            raise UnusableTarget(why)
        self.journal = os.memfd_create("pagecache-stress")
        self._errors = os.fdopen(os.memfd_create("pagecache-stress-errors"), "w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(self.journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[self.journal],
            process_group=0,  # Ctrl-C reaches the parent alone, which decides
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:  # it has failed, and reports how
            for what in (sys.path, (os.getpid(), task)):
                pickle.dump(what, stream)

    def end(self, timeout: float, stopped: threading.Event) -> int:
        """Wait for the end and return the exit status: 0, or minus a signal. If `stopped` is set, kill the child.

        Raises:
            Found: the child does not end.
        """
        end = time.monotonic() + timeout
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(CHECK_S)
            if stopped.is_set():
                self._process.kill()
            elif time.monotonic() > end:
                self._process.send_signal(signal.SIGABRT)  # it writes its stacks
                self._process.wait(START)
                hang = Hang(("a process of workers does not end",), (), {"its threads": self.errors().splitlines()})
                raise Found(Failure("hang", hang.describe(), hang=hang))

    def errors(self) -> str:
        """Return the end of its stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-STDERR_MAX:].strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait(START)  # a system call that does not return delays its death
        self._errors.close()
        os.close(self.journal)


class Replay:
    """The records of a journal, applied to models in their order."""

    def __init__(self, world: World, durable: Durable) -> None:
        self._world, self._durable = world, durable
        self._writes: dict[tuple[int, int], Write] = {}
        self._marks: dict[int, Any] = {}

    def apply(self, what: str, record: list[Any]) -> None:
        """Apply one record."""
        getattr(self, f"_{what}")(*record)

    def _enter(self, worker: int, operation: Operation, file: int | None, start: int, end: int) -> None:
        now = Activity(worker, operation, file, time.monotonic(), start, end, self._world.clock.tick())
        self._world.entered(now)

    def _leave(self, worker: int, errors: list[str]) -> None:
        if (activity := self._world.active.get(worker)) is not None:
            activity.errors += errors
        self._world.leave(worker)

    def _begin(self, file: int, number: int, write: Write) -> None:
        self._writes[file, number] = write
        self._world.models[file].begin(write)
        if (activity := self._world.active.get(write.worker)) is not None:
            activity.writes.append(write)

    def _change(
        self, call: str, file: int, number: int, content: tuple[Any, bool], arguments: Any, options: Any, rest: int
    ) -> None:
        write = self._writes[file, number]
        write.literal, write.wild = content
        left = getattr(self._world.models[file], call)(write, *arguments, **options)
        if left is not None:
            self._writes[file, rest] = left

    def _keep(self, call: str, number: int, arguments: Any) -> None:
        """Tell the durable state: of a call that begins, which returns a mark, or of one that has returned."""
        keep = getattr(self._durable, call)
        if arguments is not None:
            self._marks[number] = keep(*arguments)
        else:
            keep(self._marks.pop(number))


def records(journal: int) -> Iterator[tuple[Any, ...]]:
    """Yield the records of a journal; the last one may be cut off, and is left out then."""
    with open(os.dup(journal), "rb") as file:
        file.seek(0)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                yield pickle.load(file)


# ---------------------------------------------------------------------------------------------- the child


class Journal:
    """The records of this process, which dies after `dies` of them; 0: not by itself."""

    def __init__(self, fd: int, dies: int = 0) -> None:
        self._fd = fd
        self._left = dies
        self._lock = threading.Lock()  # protects the order of the records, and their count

    def put(self, *record: Any) -> None:
        """Record an event that has happened, or is about to."""
        with self._lock:
            os.write(self._fd, pickle.dumps(record, pickle.HIGHEST_PROTOCOL))
            self._left -= 1
            if not self._left:
                die()


class JournaledModel(Model):
    """A model that records the changes of its workers."""

    def __init__(self, number: int, first: Write, clock: Clock, journal: Journal) -> None:
        super().__init__(number, first, clock)
        self._journal = journal
        self._numbers = itertools.count()
        self._known: dict[int, int] = {}  # id of a running write -> its number in the journal

    def begin(self, write: Write) -> None:
        number = self._known[id(write)] = next(self._numbers)
        self._journal.put("begin", self.number, number, write)
        super().begin(write)

    def _journaled(self, call: str, write: Write, *arguments: Any, **options: Any) -> Any:
        rest = next(self._numbers)
        content = (write.literal, write.wild)
        self._journal.put("change", call, self.number, self._known[id(write)], content, arguments, options, rest)
        left = getattr(super(), call)(write, *arguments, **options)
        if left is not None:
            self._known[id(left)] = rest
        return left


for _call in ("finish", "cancel", "place", "lose", "resolve", "split"):
    setattr(
        JournaledModel,
        _call,
        lambda self, write, *arguments, _call=_call, **options: self._journaled(_call, write, *arguments, **options),
    )


class JournaledWorld(World):
    """A world that records the begin and end of operations."""

    __slots__ = ("journal",)
    journal: Journal

    def entered(self, now: Activity) -> None:
        self.journal.put("enter", now.worker, now.operation, now.file, now.start, now.end)
        super().entered(now)

    def leave(self, worker: int) -> None:
        activity = self.active.get(worker)
        super().leave(worker)
        if activity is not None:
            self.journal.put("leave", worker, activity.errors)


class JournaledKeeper:
    """A keeper that records; see `recorded.Keeper`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._numbers = itertools.count()

    def _begins(self, call: str, *arguments: Any) -> int:
        number = next(self._numbers)
        self._journal.put("keep", call, number, arguments)
        return number

    def saving(self, file: int | None) -> int:
        return self._begins("saving", file)

    def naming(self, verb: str, arguments: tuple[Any, ...]) -> int:
        return self._begins("naming", verb, arguments)

    def saved(self, mark: int) -> None:
        self._journal.put("keep", "saved", mark, None)

    def failed(self, mark: int) -> None:
        self._journal.put("keep", "failed", mark, None)

    def named(self, mark: int) -> None:
        self._journal.put("keep", "named", mark, None)


def die() -> NoReturn:
    """Kill this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(START)  # no thread may run on before the signal arrives
    raise AssertionError


def main(fd: int) -> None:
    """Run a task, which stdin has; the entry point of the child, which ends with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    parent, task = pickle.load(sys.stdin.buffer)
    if os.getppid() != parent:  # it has ended since the start
        die()
    journal = Journal(fd, task.records)
    try:
        task.play(task, journal)
    except UnusableTarget as error:
        journal.put("unusable", str(error))
    except Found as found:
        journal.put("failure", found.failure)
    except Broken as error:
        journal.put("failure", Failure(error.kind, str(error)))
    except BaseException as error:
        journal.put("failure", Failure("error", "".join(traceback.format_exception(error)).strip()))
    os._exit(0)


def play(task: Task, journal: Journal) -> None:
    """Play the workers over a cache of the child, and die.

    Raises:
        UnusableTarget: the files are not there.
        Found: something was wrong before the end.
    """
    target = maker(task.target)(task.plan, task.number)
    assert isinstance(target, CachedTarget)
    target.ways -= {"foreign", "rivals", "losses"}
    if not target.adopt():
        raise UnusableTarget("the store ends with its process: another one does not find the files")
    world = JournaledWorld(task.plan, target, task.number)
    world.journal = journal
    for number, content in enumerate(task.contents):
        first = Write("content", "", 0, 0, number, world.tag, 0, len(content))
        first.literal = [(0, (content,))] if content else []
        world.models.append(JournaledModel(number, first, world.clock, journal))
    keeper = JournaledKeeper(journal)
    recorded: Any = Recorded(target, lambda: keeper)
    world.target = recorded
    players = Players(world, task.life)
    players.recall(task.names.get)
    with Watchdog(world):
        threads = players.stir(task.count)
        for thread in threads:
            while thread.is_alive() and not world.failures:
                thread.join(0.05)
    if world.failures:
        failure = world.failures[0]
        raise Found(replace(failure, finding=None, happened=narrative(world, failure)))
    die()
