"""The state of one round: the target, models of its files, running operations, observations and failures."""

from __future__ import annotations

import asyncio
import errno
import io
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pagecache.errors import DataLossError
from pagecache.stress.content import made
from pagecache.stress.durable import Durable
from pagecache.stress.history import Broken, Clock, Model, Write
from pagecache.stress.objects import insisting
from pagecache.stress.oracle import Doubt, Observation, at_rest, settle, verdict, worker_name
from pagecache.stress.plan import Plan
from pagecache.stress.profiles import CROSSING, KINDS, PLACELESS, PROFILES, Operation
from pagecache.stress.shared import Shared
from pagecache.stress.targets import Target
from pagecache.target import place

T = TypeVar("T")
PINNING = {"view", "store", "copy", "replace"}  # kinds that hold views: memory that the cache cannot free
REPLACED = {errno.ESTALE, errno.EPROTO}  # another version, or an earlier end than the known one
# No fault of a backend explains them.
NEVER = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.EDEADLK, errno.EOWNERDEAD}


SYNCS = {"sync", "ticket"}
"""Kinds that concern all files."""
CRASH = "crash"
"""A crash, as an entry among the operations."""
REMEMBERED = 4096  # ended operations of a round


class Halted(Exception):
    """The world is stopping: this operation cannot be completed."""


@dataclass(slots=True)
class Activity:
    """A running or ended operation of a worker.

    Attributes:
        file: number of the model, or of the shared object; None: a name.
        since: seconds, of the machine's clock.
        moved: when the last of its calls returned; 0: none has. On a slow store one operation is many calls.
        start, end: the range, as far as it was known when it began.
        begun, ended: on the clock of the round; `ended` is None while it runs.
        writes: its changes, each with its actual place.
        errors: names of the errors that its calls raised.
    """

    worker: int
    operation: Operation
    file: int | None
    since: float
    start: int
    end: int
    begun: int
    ended: int | None = None
    writes: list[Write] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    moved: float = 0.0


def where(activity: Activity | None) -> str:
    """Describe the range of an operation."""
    if activity is None or activity.file is None:
        return ""
    way = f" ({activity.operation.way})" if activity.operation.way else ""
    return f", file {activity.file} [{activity.start}, {activity.end}){way},"


def described(error: BaseException) -> str:
    """Return an error: one line with its place if code of the backend raised it, otherwise the stack of the tester."""
    if raised_at := place(error):
        return f"{type(error).__name__}: {error}{raised_at}"
    return "".join(traceback.format_exception(error)).strip()


@dataclass(slots=True)
class World:
    """The state of a round, shared by all workers."""

    plan: Plan
    target: Target
    number: int
    clock: Clock = field(default_factory=Clock)
    models: list[Model] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # operations that were begun, by kind
    unsupported: dict[str, str] = field(default_factory=dict)
    active: dict[int, Activity] = field(default_factory=dict)
    past: deque[Activity] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    contents: list[int] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)  # way -> number of its special file
    given_up: list[tuple[int, int]] = field(default_factory=list)  # (offset, length), since the last rest
    loop: asyncio.AbstractEventLoop | None = None
    failures: list[Broken] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)
    operations: int = 0
    durable: Durable | None = None  # while a crash may come
    crashing: bool = False  # the store is gone, or about to go: calls may fail
    running: set[object] = field(default_factory=set)  # one entry for each call of `run`
    interrupted: bool = False  # `run` makes no further calls
    shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self.shared = Shared(self)

    @property
    def tag(self) -> int:
        """Return the tag of this round's bytes."""
        return (self.plan.seed * 31 + self.number) & 0xFFFF

    @property
    def reach(self) -> int:
        """Return the range of operations in bytes."""
        return self.plan.size_bytes + self.plan.size_bytes // 8

    def _set_apart(self) -> None:
        """Choose the special files. Losses may happen in the first of the regular files. Two more files follow the
        regular ones: one that is only read while a foreign writer changes it, and one that a foreign writer
        replaces.
        """
        weights, behind = PROFILES[self.plan.profile].weights, self.plan.files
        for way, kind in (("losses", "lose"), ("foreign", None), ("rivals", "replace")):
            if way in self.target.ways and (not self.plan.mix or way in self.plan.mix) and kind in (None, *weights):
                self.special[way] = 0 if way == "losses" else behind
                behind += way != "losses"

    # -- beginning and end

    def begin(self) -> None:
        """Make the files: most with a content, of a length that is no round number."""
        rng, size, script = self.plan.rng("files", self.number), self.plan.size_bytes, self.plan.script
        lengths = [] if script is None else list(script.contents)
        self._set_apart()
        while len(lengths) <= max([self.plan.files - 1, *self.special.values()]):
            lengths.append(rng.choice([0, 1, size // 2 + 1, rng.randrange(size)]))
        if "rivals" in self.special:
            lengths[self.special["rivals"]] += 1
        self.contents = lengths[: self.plan.files]
        contents = []
        for number, length in enumerate(lengths):
            contents.append(made(self.tag, number, 0, 0, 0, length))
            first = Write("content", "", 0, 0, number, self.tag, 0, length)
            self.models.append(Model(number, first, self.clock))
            self.models[-1].loses_past = self.target.loses_direct
            self.models[-1].loose = number in (self.special.get("losses"), self.special.get("rivals"))
        self.target.start(contents)

    def fail(self, failure: Broken) -> None:
        """Record a failure; all workers end soon."""
        with self.lock:
            self.failures.append(failure)
        self.stopped.set()

    def run(self, call: Callable[[], None]) -> None:
        """Make the call of a thread of the round, unless the round has been interrupted.

        A thread may begin after the interrupt that came during its start. So it enters `running` before it checks
        `interrupted`, and the interrupted round sets `interrupted` before it waits for `running`.
        """
        entry = object()
        self.running.add(entry)
        try:
            if not self.interrupted:
                call()
        finally:
            self.running.discard(entry)

    # -- while workers run

    def enter(self, worker: int, operation: Operation, start: int, end: int, shared: int | None = None) -> None:
        """Begin an operation of a worker on a range; `shared`: of a shared object."""
        file = self._file(operation) if shared is None else shared
        if operation.kind in PLACELESS:
            start, end = 0, self.reach
        self.active[worker] = Activity(worker, operation, file, time.monotonic(), start, end, self.clock.tick())
        with self.lock:
            self.operations += 1
            self.kinds[operation.kind] += 1

    def leave(self, worker: int) -> None:
        """End the operation of a worker."""
        activity = self.active.pop(worker, None)
        if activity is not None:
            activity.ended = self.clock.tick()
            self.past.append(activity)

    def move(self, worker: int) -> None:
        """Record that a call of the worker has returned."""
        activity = self.active.get(worker)
        if activity is not None:
            activity.moved = time.monotonic()

    def recorded(self, verb: str, arguments: Sequence[Any]) -> AbstractContextManager[None]:
        """Record a call of a worker, if a crash may come."""
        return nullcontext() if self.durable is None else self.durable.recording(verb, arguments)

    def crashed(self, begun: int) -> None:
        """Record a crash that began at `begun` and is over."""
        now = time.monotonic()
        self.past.append(Activity(0, Operation(CRASH, 0), None, now, 0, self.reach, begun, self.clock.tick()))

    def _file(self, operation: Operation) -> int | None:
        """Return the number of the operation's model; None: a name."""
        way = KINDS[operation.kind]
        if way == "names" or way in CROSSING:
            return None
        return self.special.get(way, operation.file)

    def count(self, what: str, times: int = 1) -> None:
        """Count an event."""
        with self.lock:
            self.counters[what] += times

    def excuse(self, error: OSError, kind: str, worker: int) -> None:
        """Handle an error of a call: a valid result, or a failure; Broken: nothing explains it."""
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        activity = self.active.get(worker)
        if activity is not None:
            activity.errors.append(name)
        if isinstance(error, io.UnsupportedOperation):
            with self.lock:
                self.unsupported.setdefault(kind, str(error.args[-1] if error.args else error))
            self.idle(worker, kind)
            return
        busy = isinstance(error, BlockingIOError) and (kind == "invalidate" or self.target.explained)
        full = error.errno == errno.ENOMEM or (error.errno == errno.ENOBUFS and self._fills())
        # bytes that are sent again and again do not become clean
        named = activity is not None and self.shared.explains(error, activity)
        other = error.errno in REPLACED and activity is not None and self._contested(activity)
        if full or busy or named or other or (self.crashing and error.errno not in NEVER):
            self.count(f"{kind}: {name}")
            return
        if isinstance(error, DataLossError):
            self._lost(error, kind, worker)
        elif error.errno not in self.target.explained - NEVER:
            what = f"{kind} of {worker_name(worker)}{where(activity)}"
            raised = f"{type(error).__name__}: {error}{place(error)}"
            raise Broken(f"{what} raised {raised}{self.shared.story_of(error)}", "error") from error
        self.count(f"{kind}: {name}")

    def _fills(self) -> bool:
        """Return whether a small cache may be full of bytes that no backend call frees, so that a write must raise
        [2.23]: pinned by views, waiting for a requested commit, or kept because calls fail, or because of a conflict.
        """
        plan, target = self.plan, self.target
        nameless = target.by_name and self.shared.used  # nothing stores bytes of an object that has lost its name
        if target.explained or target.withholds or nameless or plan.crash_of(self.number) != "none":
            return True
        if plan.script is not None:
            return any(one.kind in PINNING for worker in plan.script.workers for stir in worker for one in stir)
        ways = plan.mix or target.ways
        return any(KINDS[kind] in ways for kind in PINNING & PROFILES[plan.profile].weights.keys())

    def idle(self, worker: int, kind: str) -> None:
        """Take the worker's operation out of the counts: it came to no call."""
        activity = self.active.get(worker)
        if activity is not None and activity.operation.kind == kind:
            with self.lock:
                self.kinds[kind] -= 1

    def _contested(self, activity: Activity) -> bool:
        """Return whether an operation may concern a file that gets another version, or an earlier end, at any time."""
        loose = {self.special[way] for way in ("losses", "rivals") if way in self.special}
        return activity.file in loose or (bool(loose) and activity.operation.kind in SYNCS)

    def _lost(self, error: DataLossError, kind: str, worker: int) -> None:
        """Check a loss that no worker requested: only direct writes and holes may be lost."""
        models = {self.target.key(model.number): model for model in self.models}
        for lost in error.ranges:
            model = models.get(lost.key)
            if (model is not None and model.loose) or (self.target.explained and self.shared.lost(lost)):
                continue
            past = model is not None and model.went_past(lost.offset, lost.offset + lost.length)
            if not (self.target.explained and past):
                what = f"{kind} of {worker_name(worker)} reports an unexplained loss: {error}"
                raise Broken(what, "error") from error

    def judge(self, observation: Observation, got: bytes, *, short: bool = False, store: bool = False) -> None:
        """Judge the bytes of an observation; if the state is not yet known, keep a doubt for later."""
        doubt = verdict(observation, got, short=short, store=store)
        if doubt is not None:
            with self.lock:
                self.doubts.append(doubt)

    def recheck(self) -> None:
        """Check the doubts again, with newer knowledge."""
        with self.lock:
            open_doubts, self.doubts = self.doubts, []
        left = [one for doubt in open_doubts if (one := doubt.recheck()) is not None]
        with self.lock:
            self.doubts += left

    # -- at rest

    def rest(self, *, cold: bool) -> None:
        """Check that every way to read shows the content of the model, and the store too after a sync. Nothing runs."""
        self.target.calm()
        self.shared.settle()
        self.target.check()
        self.recheck()
        assert not self.doubts, self.doubts
        self._hear()
        for model in self.models:
            self._agree(model, "at rest")
        if self.shared.used:
            self.shared.agree("at rest")
        try:
            self.insisting(self.target.sync)
        except OSError as error:
            if not self.shared.leaves_unsaved(error):
                raise
        for model in self.models:
            self._stored(model, "the store after sync")
        if self.shared.used:
            self.shared.stored("the store after sync")
            self.shared.forget()
        if cold:
            for model in self.models:
                try:
                    self.target.invalidate(model.number, 0, self.reach)
                except OSError as error:
                    if isinstance(error, BlockingIOError) and not self.target.explained:
                        raise Broken(f"file {model.number}: in use at rest, {error}", "error") from error
                    self.excuse(error, "invalidate", 0)
            for model in self.models:
                self._agree(model, "read again")
            if self.shared.used:
                self.shared.drop()
                self.shared.agree("read again")
        self.target.check()
        self.target.stir()

    def _hear(self) -> None:
        """Check that each unused handle reports exactly the discarded ranges, once [I-22]."""
        given, self.given_up = self.given_up, []
        number = self.special.get("losses")
        if number is None or self.target.explained or self.plan.crash_of(self.number) != "none":
            return  # a store that fails or forgets loses more
        self.check_reported(number, given)

    def check_reported(self, number: int, given: list[tuple[int, int]]) -> None:
        """Check that each unused handle of a file reports exactly these ranges."""
        for name, reported in self.target.reported_losses(number):
            if sorted(reported) != sorted(given):
                was, says = (str(sorted(one)) if one else "nothing" for one in (given, reported))
                raise Broken(f"file {number}: {was} was given up, as (offset, length); {name} says {says}", "error")

    def insisting(self, call: Callable[[], T]) -> T:
        """Return the result of a call; retry while the store below refuses it by itself, whatever the faults are."""
        return insisting(call, lambda error: error.errno in self.target.refused)

    def _agree(self, model: Model, when: str) -> None:
        for name, read in self.target.everywhere(model.number):
            settle(model, f"{name}, {when},", self.insisting(read))

    def _stored(self, model: Model, what: str) -> None:
        got = self.target.store(model.number)
        if got is None:
            raise Broken(f"file {model.number}: {what} has no such object")
        verdict(at_rest(model, what), got)

    def end(self) -> None:
        """Close the target, which stores all accepted bytes; Broken: bytes are missing."""
        self.target.calm()
        self.shared.end()
        self.insisting(self.target.close)
        for loss in self.target.losses:
            self.excuse(loss, "close", 0)
        for model in self.models:
            self._stored(model, "the store after close")
        if self.shared.used:
            self.shared.stored("the store after close")
