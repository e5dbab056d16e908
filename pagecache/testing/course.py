"""The course of one call under faults: a plan's decisions as steps that blocking and asynchronous backends take alike.

    course = faults.course(call, buffers)      a generator: `Pause`, `Enter`, `Change`, `Carry`, as the rule requires
    the backend takes each step its own way    sleeps or awaits, calls or awaits the inner object
    its return value or exception              the result of the call

All state is here, under one lock, which is held briefly and never across a step: the log, matched rules, whether the
backend is dead, versions of foreign changes, and held calls.

A dead backend refuses all calls. `fence` goes further: when it has returned, no earlier call is in the inner object,
and no held call will reach it.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BackendError, Key
from ..objects import ObjectStat
from .faults import TOO_MANY, TRUTH, Call, FaultPlan, Rule, draw
from .gate import Gate

__all__ = ["Carry", "Change", "Course", "Enter", "Faults", "Pause", "Step"]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for a number of seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Enter:
    """Wait at a gate, at most `timeout` seconds."""

    gate: Gate
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Change the object as a foreign writer."""

    change: Callable[[Any, Key], object]
    key: Key


@dataclass(frozen=True, slots=True)
class Carry:
    """Carry the call out, with these buffers."""

    buffers: Sequence[memoryview]


Step = Pause | Enter | Change | Carry
Course = Generator[Step, Any, Any]


class Faults:
    """The state of one faulty backend. Thread-safe."""

    def __init__(self, plan: FaultPlan) -> None:
        self.calls: list[Call] = []
        self.kept_buffers: list[memoryview] = []
        self.died = threading.Event()
        self.refused: set[int] = set()  # errnos that the inner backend itself marks as worth a retry
        self._changed = threading.Condition()
        self._death: Callable[[Key | None], BaseException] | None = None
        self._lives = 0  # calls and files of an earlier life, before a fence, reach nothing
        self._inside: Counter[int] = Counter()  # life -> running calls
        self._versions: Counter[Key] = Counter()
        self._behind: list[tuple[Gate, list[int]]] = []  # gates of held calls, with the number of results they wait for
        self.use(plan)

    def use(self, plan: FaultPlan | Iterable[Rule]) -> None:
        """Replace the faults; counting starts anew."""
        with self._changed:
            self._plan = plan if isinstance(plan, FaultPlan) else FaultPlan(tuple(plan))
            self._matched: Counter[int] = Counter()  # number of a rule -> matching calls
            self._fired: Counter[int] = Counter()
            self._seen: Counter[Call] = Counter()

    # -- deciding

    def _decide(self, call: Call) -> tuple[int, Rule | None, float]:
        """Log the call and find the rule that fires; return the current life, the rule, and a random number for its
        choices.

        Raises:
            OSError: the backend is dead.
        """
        with self._changed:
            self.calls.append(call)
            if self._death is not None:
                raise self._death(call.key)
            self._seen[call] += 1
            firing, random = None, 0.0
            for number, rule in enumerate(self._plan.rules):
                if rule.matches(call):
                    self._matched[number] += 1
                    if firing is None and self._fires(number, rule, call):
                        self._fired[number] += 1
                        firing, random = rule, draw(self._plan.seed, number, call, self._seen[call], "how much")
            return self._lives, firing, random

    def _fires(self, number: int, rule: Rule, call: Call) -> bool:
        if rule.nth is not None:
            wanted = (rule.nth,) if isinstance(rule.nth, int) else rule.nth
            if self._matched[number] not in wanted:
                return False
        if rule.times is not None and self._fired[number] >= rule.times:
            return False
        if rule.spells is not None:
            every, length = rule.spells
            begin = int(draw(self._plan.seed, number, "spell") * every)
            if (self._matched[number] - 1 - begin) % every >= length:
                return False
        return rule.chance >= 1.0 or draw(self._plan.seed, number, call, self._seen[call]) < rule.chance

    # -- one call

    @property
    def life(self) -> int:
        """Return the number of fences so far."""
        return self._lives

    def course(self, call: Call, buffers: Sequence[memoryview] = (), opened: int | None = None) -> Course:
        """Yield the steps of a call; `opened`: of a file, the life in which it was opened.

        Raises:
            OSError: the backend is dead.
        """
        life, rule, random = self._decide(call)
        life = life if opened is None else opened
        try:
            if rule is None:
                return (yield from self._carried(life, call, buffers))
            return (yield from self._ruled(life, rule, random, call, buffers))
        finally:
            self._answered()

    def _ruled(self, life: int, rule: Rule, random: float, call: Call, buffers: Sequence[memoryview]) -> Course:
        if rule.delay:
            yield Pause(rule.seconds(random))
        if rule.gate is not None:
            yield Enter(rule.gate)
        if rule.change and call.key is not None:
            yield from self._change(rule, call.key)
        if rule.keep:
            self.kept_buffers.extend(buffers)
        if rule.fails and not rule.done:
            raise self._failure(rule, call)
        if rule.short is not None and buffers:
            buffers = _first(buffers, rule.length(call.length or 0))
        # With no bytes to carry there is no call: the result is the 0 that the rule wants.
        nothing = rule.short is not None and call.length and not buffers
        result = 0 if nothing else (yield from self._carried(life, call, buffers))
        if rule.twice and not nothing:
            result = yield from self._carried(life, call, buffers)
        if rule.fails:
            raise self._failure(rule, call)
        if rule.behind:
            yield from self._held_behind(rule)
        if rule.answer is TRUTH:
            return result
        return (call.length or 0) + 1 if rule.answer is TOO_MANY else rule.answer

    def _carried(self, life: int, call: Call, buffers: Sequence[memoryview]) -> Course:
        with self._changed:
            if life != self._lives and call.op != "close":  # a close changes nothing, and frees memory
                raise OSError(errno.ENOTCONN, "the backend was fenced off", call.key)
            self._inside[life] += 1
        try:
            return (yield Carry(buffers))
        except BackendError as error:
            if error.retry and error.errno is not None:
                self.refused.add(error.errno)
            raise
        finally:
            with self._changed:
                self._inside[life] -= 1
                self._changed.notify_all()

    def _failure(self, rule: Rule, call: Call) -> BaseException:
        with self._changed:
            # Otherwise the fault was removed while the call ran.
            if rule.dies and any(rule is one for one in self._plan.rules):
                self.die(rule.exception)
        return rule.exception(call.key)

    # -- answers out of order

    def _held_behind(self, rule: Rule) -> Course:
        held = (Gate(), [rule.behind])
        with self._changed:
            self._behind.append(held)
        try:
            yield Enter(held[0], rule.within)
        finally:
            with self._changed:
                if held in self._behind:
                    self._behind.remove(held)

    def held(self) -> int:
        """Return the number of completed calls that wait for later ones."""
        with self._changed:
            return len(self._behind)

    def _answered(self) -> None:
        """Count a result for the calls that wait for later ones."""
        with self._changed:
            for gate, left in self._behind:
                left[0] -= 1
                if left[0] <= 0:
                    gate.release()

    # -- foreign changes

    def _change(self, rule: Rule, key: Key) -> Course:
        if rule.change is True:
            self.change(key)
        else:
            assert callable(rule.change)
            yield Change(rule.change, key)

    def change(self, key: Key) -> None:
        """Give the object another version from now on."""
        with self._changed:
            self._versions[key] += 1

    def version(self, key: Key, version: str | None) -> str | None:
        """Return the version of an object, including foreign changes."""
        with self._changed:
            changes = self._versions.get(key, 0)
        return f"{version}+{changes}" if changes and version is not None else version

    def stat(self, key: Key, stat: ObjectStat) -> ObjectStat:
        """Return `stat` with the version of foreign changes."""
        version = self.version(key, stat.version)
        return stat if version == stat.version else replace(stat, version=version)

    def renamed(self, src: Key, dst: Key) -> None:
        """Move the version with a renamed object."""
        with self._changed:
            if src in self._versions or dst in self._versions:
                self._versions[dst] = self._versions.pop(src, 0)

    # -- death

    def die(self, error: Callable[[Key | None], BaseException]) -> None:
        """Refuse all calls from now on."""
        with self._changed:
            if self._death is None:
                self._death = error
        self.died.set()

    def fence(self, timeout: float) -> None:
        """Wait until no call so far, and no file opened so far, can reach the inner object.

        Raises:
            TimeoutError: a call in the inner object does not return.
        """
        with self._changed:
            life, self._lives = self._lives, self._lives + 1
            if not self._changed.wait_for(lambda: self._inside[life] == 0, timeout):
                raise TimeoutError(f"{self._inside[life]} calls do not return from the inner backend")

    def revive(self) -> None:
        """Accept calls again."""
        with self._changed:
            self._death = None
        self.died.clear()


def _first(buffers: Sequence[memoryview], length: int) -> list[memoryview]:
    """Return the first `length` bytes of a list of buffers."""
    cut = []
    for buffer in buffers:
        if length <= 0:
            break
        cut.append(buffer[:length])
        length -= len(buffer)
    return cut
