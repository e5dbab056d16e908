"""The course of one call under faults, and the state of one faulty backend.

All state is here, under one lock, which is held briefly and never across a wait: the log, matched rules, whether the
backend is dead, versions of foreign changes, and held calls.

A dead backend refuses all calls, and passes closes of files on. `fence` goes further: when it has returned, no earlier
call is in the inner object, and no held call will reach it.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from ..backends.plain import given
from ..errors import BackendError, Key
from ..objects import ObjectStat
from .faults import Answer, Call, FaultPlan, Rule, draw
from .gate import Gate

CarryOut = Callable[[Sequence[memoryview]], Any]


class Faults:
    """The state of one faulty backend around `inner`. Thread-safe."""

    def __init__(self, plan: FaultPlan, inner: Any) -> None:
        self._inner = given(inner)
        self.calls: list[Call] = []
        self.kept_buffers: list[memoryview] = []
        self.died = threading.Event()
        self.refused: set[int] = set()  # errnos that the inner backend itself marks as worth a retry
        self._changed = threading.Condition()
        self._death: Callable[[Key | None], BaseException] | None = None
        self._lives = 0  # calls and files of an earlier life, before a fence, reach nothing
        self._inside: Counter[int] = Counter()  # life -> running calls
        self._versions: Counter[Key] = Counter()
        self._files: WeakSet[Any] = WeakSet()
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

    def run(
        self,
        call: Call,
        carry_out: CarryOut,
        buffers: Sequence[memoryview] = (),
        file: Any = None,
    ) -> Any:
        """Make a call under the rules, and return its result.

        Args:
            call: for the log.
            carry_out: calls the inner object, with the buffers that the rule leaves.
            buffers: of the call.
            file: that is called.

        Raises:
            OSError: the backend is dead.
        """
        try:
            life, rule, random = self._decide(call)
        except OSError:
            if call.op == "close" and file is not None:  # with the connection the store's side of the file ends
                carry_out(buffers)
            raise
        life = life if file is None else file.life

        def carried(buffers: Sequence[memoryview]) -> Any:
            with self._changed:
                if life != self._lives and call.op != "close":  # a close changes nothing, and frees memory
                    raise OSError(errno.ENOTCONN, "the backend was fenced off", call.key)
                self._inside[life] += 1
            try:
                return carry_out(buffers)
            except BackendError as error:
                if error.retry and error.errno is not None:
                    self.refused.add(error.errno)
                raise
            finally:
                with self._changed:
                    self._inside[life] -= 1
                    self._changed.notify_all()

        try:
            return carried(buffers) if rule is None else self._ruled(rule, random, call, file, carried, buffers)
        finally:
            self._answered()

    def _ruled(
        self, rule: Rule, random: float, call: Call, file: Any, carried: CarryOut, buffers: Sequence[memoryview]
    ) -> Any:
        if rule.delay:
            time.sleep(rule.seconds(random))
        if rule.gate is not None:
            rule.gate.enter()
        name = call.key if file is None else file.name
        if rule.change and name is not None:
            self._change(rule, name)
        if rule.keep:
            self.kept_buffers.extend(buffers)
        if rule.fails and not rule.done:
            raise self._failure(rule, call)
        if rule.short is not None and buffers:
            buffers = _first(buffers, rule.length(call.length or 0))
        # With no bytes to carry there is no call: the result is the 0 that the rule wants.
        nothing = rule.short is not None and call.length and not buffers
        result = 0 if nothing else carried(buffers)
        if rule.twice and not nothing:
            result = carried(buffers)
        if rule.fails:
            raise self._failure(rule, call)
        if rule.behind:
            self._held_behind(rule)
        return rule.answer.of(call, result) if isinstance(rule.answer, Answer) else rule.answer

    def _failure(self, rule: Rule, call: Call) -> BaseException:
        with self._changed:
            # Otherwise the fault was removed while the call ran.
            if rule.dies and any(rule is one for one in self._plan.rules):
                self.die(rule.exception)
        return rule.exception(call.key)

    # -- answers out of order

    def _held_behind(self, rule: Rule) -> None:
        held = (Gate(), [rule.behind])
        with self._changed:
            self._behind.append(held)
        try:
            held[0].enter(rule.within)
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

    def _change(self, rule: Rule, key: Key) -> None:
        if callable(rule.change):
            rule.change(self._inner, key)
        else:
            self.change(key)

    def change(self, key: Key) -> None:
        """Give the object another version from now on."""
        with self._changed:
            self._versions[key] += 1

    def version(self, key: Key | None, version: str | None) -> str | None:
        """Return the version of an object, including foreign changes."""
        with self._changed:
            changes = self._versions.get(key, 0)
        return f"{version}+{changes}" if changes and version is not None else version

    def stat(self, key: Key | None, stat: ObjectStat) -> ObjectStat:
        """Return `stat` with the version of foreign changes."""
        version = self.version(key, stat.version)
        return stat if version == stat.version else replace(stat, version=version)

    def follow(self, file: Any) -> None:
        """Have an open file follow renames of its object."""
        with self._changed:
            self._files.add(file)

    def renamed(self, src: Key, dst: Key | None) -> None:
        """Move the version, and the open files, with a renamed object; None: it was removed."""
        with self._changed:
            for file in list(self._files):
                if file.name in (src, dst) and src != dst:
                    file.renamed(dst if file.name == src else None)
            if src in self._versions or dst in self._versions:
                moved = self._versions.pop(src, 0)
                if dst is not None:
                    self._versions[dst] = moved

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
