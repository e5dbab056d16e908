"""Traces of the model, played on the real core.

An *event* is a step that a test can order: an actor begins its next operation, a backend call is answered. Between two
events the model goes on by itself as far as it can, as threads do; so does the core. Then both have to show equal
values: sizes of D, W and U, the blocks of L, the content of calls in flight, the finished actors, the written content,
the committed content.

Only such events are played after which the model comes to rest in one way, whatever the order of its own steps.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pagecache import BackendError, CachedFile
from pagecache.native import BACKOFF, STAMP_MAX
from tests.file.rig import KEY, PAGE, Rig, Task, eventually, make_rig
from tests.stores import WAIT_LIMIT_S, RecordingFile

from .rules import RIGHT, Scenario
from .state import ALL, BITS, INF, Draft, State, blocks_of, first_state
from .system import System

__all__ = ["Player", "Seen", "traces"]

ANSWERS = ("answer", "commit: succeeds", "commit: fails")


class Seen(NamedTuple):
    """The values that both sides show."""

    dirty: int
    writeback: int
    unstable: int
    local: tuple[bool, bool]
    calls: tuple[tuple[tuple[int, int], ...], ...]
    commit_running: bool
    through: tuple[bool, ...]
    written: tuple[int, int]
    committed: tuple[int, int]


def seen_in(s: State) -> Seen:
    local = s.D | s.W | s.U
    return Seen(
        s.D.bit_count(),
        s.W.bit_count(),
        s.U.bit_count(),
        (bool(local & 1), bool(local & 2)),
        tuple(sorted(call.content for call in s.calls)),
        s.commit_running,
        tuple(actor.stage == 0 for actor in s.actors),
        s.written,
        s.committed,
    )


def is_event(label: str, s: State, number: dict[str, int]) -> bool:
    actor = label.partition(":")[0]
    if label.startswith(ANSWERS):
        return True
    return actor in number and not s.actors[number[actor]].stage


class Model:
    """The states in which the model may be: one, or several that show equal values."""

    def __init__(self, scenario: Scenario) -> None:
        self.system = System(scenario, RIGHT)
        self.number = {name: k for k, name in enumerate(scenario.programs)}
        self.states = {first_state(scenario)}

    def at_rest(self, states: set[State]) -> set[State]:
        """The states that it reaches by itself, in any order."""
        found, todo, known = set(), list(states), set(states)
        while todo:
            state = todo.pop()
            onwards = [n for label, n in self.system.steps(state) if not is_event(label, state, self.number)]
            if not onwards:
                found.add(state)
            todo += [n for n in onwards if n not in known]
            known.update(onwards)
        return found

    def events(self) -> dict[str, set[State]]:
        """Label → the states it leads to, for events with a single visible outcome."""
        found: dict[str, set[State]] = {}
        for state in self.states:
            for label, after in self.system.steps(state):
                if is_event(label, state, self.number):
                    found.setdefault(label, set()).add(self.sent_again(label, after))
        rest = {label: self.at_rest(states) for label, states in found.items()}
        return {label: states for label, states in rest.items() if len({seen_in(s) for s in states}) == 1}

    def sent_again(self, label: str, state: State) -> State:
        """Make the test resend failed blocks at once."""
        if not label.endswith("! fail"):
            return state
        n = Draft(state, self.system.scenario, RIGHT)
        n.flush_start(INF - 1, ALL)
        return n.freeze()


def traces(scenario: Scenario, count: int, seed: int) -> Iterator[list[tuple[str, State]]]:
    """Random traces to the end, (event, a state of the model after it); rare events first."""
    rng = random.Random(seed)
    taken: dict[str, int] = {}
    for _ in range(count):
        model = Model(scenario)
        trace = []
        while events := model.events():
            label = min(sorted(events), key=lambda name: (taken.get(name, 0) * rng.random(), rng.random()))
            taken[label] = taken.get(label, 0) + 1
            model.states = events[label]
            trace.append((label, min(model.states, key=repr)))
        yield trace


@dataclass(slots=True)
class Pending:
    """A backend call that waits for the test to choose its outcome."""

    file: RecordingFile
    content: tuple[tuple[int, int], ...]  # (block, version); empty: a commit
    offset: int = 0
    buffers: Any = ()
    decided: threading.Event = field(default_factory=threading.Event)
    fault: str = ""
    forget: int = 0


class Player:
    """A cache with one file of two pages in one folio; every call of its backend waits for a decision."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        limits = {"max_write": PAGE} if scenario.split else {}
        self.rig: Rig = make_rig({KEY: bytes(2 * PAGE)}, "1MiB", limits=limits)
        self.file: CachedFile = self.rig.open("r+b")
        self.file.pwrite(bytes(2 * PAGE), 0)
        self.file.fsync()  # a clean folio of two pages
        # The flusher retries failed blocks and commits at its own time; here the test does, when it checks.
        engine = self.rig.volume.engine
        setattr(engine, "retry_by", lambda file, at: None)  # noqa: B010
        self.parked: set[int] = set()
        wait = engine.park.wait

        def park(kind: str, address: int, seq: int, timeout: float) -> None:
            self.parked.add(threading.get_ident())
            wait(kind, address, seq, timeout)

        setattr(engine.park, "wait", park)  # noqa: B010
        self.names = list(scenario.programs)
        self.at = dict.fromkeys(self.names, 0)
        self.tasks: dict[str, Task[Any]] = {}
        self.versions = [0, 0]
        self.zeros: set[tuple[int, int]] = {(0, 0), (1, 0)}  # versions that are a truncate
        self.pending: list[Pending] = []
        self.lock = threading.Lock()
        self.rig.backend.fault("write_from", self.written, times=float("inf"))
        self.rig.backend.fault("commit", self.committed, times=float("inf"))

    # -- in the backend

    def version(self, block: int, data: bytes) -> int:
        """The version that the content carries; zeros are the latest truncate before it."""
        value = data[0] if data else 0
        assert data in (b"", bytes([value]) * PAGE), "a torn block"
        return value

    def wait(self, call: Pending) -> Pending:
        with self.lock:
            self.pending.append(call)
        assert call.decided.wait(WAIT_LIMIT_S), "the test has not decided"
        return call

    def written(self, file: RecordingFile, offset: int, buffers: Any) -> int:
        data = b"".join(buffers)
        first = offset // PAGE
        content = tuple(
            (first + k, self.version(first + k, data[k * PAGE : (k + 1) * PAGE])) for k in range(len(data) // PAGE)
        )
        call = self.wait(Pending(file, content, offset, buffers))
        if call.fault:
            raise BackendError(errno.EIO, "made up", retry=True, retry_after=3600.0)
        return file.store(offset, buffers)

    def committed(self, file: RecordingFile) -> str:
        call = self.wait(Pending(file, ()))
        if not call.fault:
            return file.make_durable()
        with self.rig.backend.lock:
            for b in blocks_of(call.forget):
                span = slice(b * PAGE, (b + 1) * PAGE)
                file.stored.written[span] = file.stored.safe[span]
        raise BackendError(errno.EIO, "made up", retry=True, retry_after=0.0, kept=call.fault == "kept")

    # -- the test's side

    def play(self, label: str) -> None:
        actor, _, what = label.partition(": ")
        if actor in self.at:
            self.begin(actor)
            return
        commit = actor == "commit"
        with self.lock:
            if commit:
                call = next(call for call in self.pending if not call.content)
            else:
                mask = int(what.split()[1].rstrip("!"))
                call = next(c for c in self.pending if sum(BITS[b] for b, _ in c.content) == mask)
            self.pending.remove(call)
        if "!" in label:
            call.fault = "kept" if what.endswith("kept") else "fail"
            call.forget = int(what.split()[-1]) if "forgets" in what else 0
        call.decided.set()
        if call.fault and not commit:
            native = self.file._inode
            eventually(lambda: native.flush_pending(STAMP_MAX) & BACKOFF)
            eventually(lambda: self.pending or native.pass_idle())  # a pass that is about to end would take the marks
            native.retry()
            native.flush_start(STAMP_MAX)

    def begin(self, actor: str) -> None:
        operation, blocks = self.scenario.programs[actor][self.at[actor]]
        self.at[actor] += 1
        if operation == "write":
            self.write(blocks)
        elif operation == "commit":
            self.file._inode.start_commit()
        else:
            call = {
                "flush": lambda: self.file.sync_range(blocks_of(blocks)[0] * PAGE, blocks.bit_count() * PAGE),
                "fsync": self.file.fsync,
                "sync": self.rig.volume.sync,
                "truncate": self.truncate,
            }[operation]  # fmt: skip
            self.parked.clear()
            task = self.tasks[actor] = Task(call)
            if operation == "truncate":  # its waits are in C
                eventually(lambda: task.finished.is_set() or self.waits(task))
            else:  # until it has taken its epoch and waits, or has finished
                eventually(lambda: task.finished.is_set() or task.thread.ident in self.parked)

    def waits(self, task: Task[Any]) -> bool:
        return any(wait.thread == task.thread.ident for wait in self.rig.cache.waits())

    def write(self, blocks: int) -> None:
        for b in blocks_of(blocks):
            self.versions[b] += 1
        first = blocks_of(blocks)[0]
        self.file.pwrite(b"".join(bytes([self.versions[b]]) * PAGE for b in blocks_of(blocks)), first * PAGE)

    def truncate(self) -> None:
        self.file.truncate(PAGE)
        self.versions[1] += 1

    def stored(self, content: bytes, model: tuple[int, int]) -> tuple[int, int]:
        """The versions that storage shows; for zeros the model's version, if that is a truncate or the beginning."""
        found = []
        for b in (0, 1):
            data = content[b * PAGE : (b + 1) * PAGE].ljust(PAGE, b"\0")
            version = self.version(b, data)
            found.append(model[b] if version == 0 and (b, model[b]) in self.zeros else version)
        return found[0], found[1]

    def seen(self, model: Seen) -> Seen:
        stats = self.file.stats()
        ranges = self.rig.volume.dirty_ranges(KEY)
        for actor, task in list(self.tasks.items()):
            if task.finished.is_set():
                task.result()
                del self.tasks[actor]
        with self.lock:
            calls = tuple(sorted(call.content for call in self.pending if call.content))
            commit = any(not call.content for call in self.pending)
        backend = self.rig.backend
        return Seen(
            stats.dirty // PAGE,
            stats.writeback // PAGE,
            stats.unstable // PAGE,
            tuple(any(pos <= b * PAGE < pos + n for pos, n in ranges) for b in (0, 1)),  # type: ignore[arg-type]
            calls,
            commit,
            tuple(name not in self.tasks for name in self.names),
            self.stored(backend.written(KEY), model.written),
            self.stored(backend.committed(KEY) or b"", model.committed),
        )

    def expect(self, model: Seen, story: list[str]) -> None:
        """Wait until both show equal values."""
        try:
            eventually(lambda: self.seen(model) == model, 5.0)
        except AssertionError:
            got = self.seen(model)
            names = [name for name in Seen._fields if getattr(got, name) != getattr(model, name)]
            found = [f"{name}: core {getattr(got, name)}, model {getattr(model, name)}" for name in names]
            raise AssertionError("\n  ".join([*found, "after", *story])) from None

    def finish(self) -> None:
        with self.lock:
            self.rig.backend.clear_faults()
            for call in self.pending:
                call.decided.set()
        for task in self.tasks.values():
            task.result()
        self.rig.finish()
