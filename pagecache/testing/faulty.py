"""A backend with faults: scripted, to force one order of events, or seeded, to find unforeseen ones.

    plan = FaultPlan([Rule("write", nth=2, error=errno.ENOSPC), Rule("commit", gate=gate)])
    backend = FaultyBackend(MemoryBackend(), plan)

`faults` documents rules and plans. The log has every call, including failing ones. Ordering events needs no sleeps: a
`Gate` holds calls until a test releases them.
"""

from __future__ import annotations

import builtins
import errno
import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial, partialmethod
from typing import Any
from weakref import WeakSet

from ..backends.passing import PassingFile, SlowBackend
from ..backends.plain import PlainBackend, given
from ..backends.protocol import Backend, BackendFile, NamespaceBackend, ObjectStat
from ..errors import BackendError, Key
from .faults import Answer, Call, FaultPlan, Rule, draw

NAMES = frozenset(name for name in vars(NamespaceBackend) if name[0] != "_") - {"readdir", "setattr"} | {"mknod"}
"""Calls that no rule concerns."""
Buffers = Sequence[memoryview]
CarryOut = Callable[[Buffers], Any]


class _FaultyFile(PassingFile):
    """A file of a faulty backend."""

    def __init__(self, inner: Any, backend: FaultyBackend, key: Key) -> None:
        super().__init__(inner)
        self._backend = backend
        self._key = key
        self.life = backend.life
        self.name: Key | None = key  # None: it has lost the name, and foreign changes of that are of another object
        with backend._changed:
            backend._files.add(self)

    def _call(self, op: str, method: str, *args: Any) -> Any:
        carry_out = getattr(self.inner, method)
        return self._backend.run(Call(op, self._key, *args), lambda _: carry_out(*args), (), self)

    def _transfer(self, op: str, method: Callable[..., Any], offset: int, buffers: Buffers) -> Any:
        logged = Call(op, self._key, offset, sum(map(len, buffers)), len(buffers))
        return self._backend.run(logged, lambda given: method(offset, given), buffers, self)

    def stat(self) -> Any:
        def carry_out(_: Buffers) -> ObjectStat:
            return self._backend.stated(self.name, self.inner.stat())

        return self._backend.run(Call("stat", self._key), carry_out, (), self)

    def read_into(self, offset: int, buffers: Buffers) -> Any:
        return self._transfer("read", self.inner.read_into, offset, buffers)

    def write_from(self, offset: int, buffers: Buffers) -> Any:
        return self._transfer("write", self.inner.write_from, offset, buffers)

    def truncate(self, size: int) -> Any:
        return self._call("truncate", "truncate", size)

    def commit(self) -> Any:
        def carry_out(_: Buffers) -> str | None:
            return self._backend.version(self.name, self.inner.commit(), lambda: self.inner.stat().identity)

        return self._backend.run(Call("commit", self._key), carry_out, (), self)

    _punch_hole = partialmethod(_call, "punch", "punch_hole")
    _next_data = partialmethod(_call, "next_data", "next_data")
    _rollback = partialmethod(_call, "rollback", "rollback")
    _close = partialmethod(_call, "close", "close")


class FaultyBackend(SlowBackend):
    """A backend with faults around `inner`. Thread-safe.

    All state is here, under one lock, which is held briefly and never across a wait. A dead backend refuses all calls,
    and passes closes of files on.

    Args:
        inner: does the work.
        plan: the faults, or the name of a profile.
        seed: of a profile; of a plan, if it is not 0.

    Raises:
        TypeError: `inner` is no backend, or an asynchronous one.
        ValueError: unknown profile; lists the known ones.
    """

    inner: Backend

    def __init__(self, inner: Backend | PlainBackend, plan: FaultPlan | str = "none", seed: int = 0) -> None:
        super().__init__(inner)
        if inspect.iscoroutinefunction(inner.open):
            raise TypeError(f"inner: {inner!r} is asynchronous")
        if isinstance(plan, str):
            plan = FaultPlan.profile(plan, seed)
        self.calls: builtins.list[Call] = []  # in the order of arrival
        self.kept_buffers: builtins.list[memoryview] = []  # by rules with `keep`
        self.refused: set[int] = set()  # errnos that the inner backend itself marks as worth a retry
        self._changed = threading.Condition()
        self._death: Callable[[Key | None], BaseException] | None = None
        self.life = 0  # number of fences: calls and files of an earlier life reach nothing
        self._inside: Counter[int] = Counter()  # life -> running calls
        self._versions: Counter[Hashable] = Counter()  # identity of an object, or its name if it has none -> changes
        self._files: WeakSet[_FaultyFile] = WeakSet()  # each follows renames of its object
        self.use(FaultPlan(plan.rules, seed) if seed else plan)

    def use(self, plan: FaultPlan | Iterable[Rule]) -> None:
        """Replace the faults; counting starts anew. `use([])` repairs everything but death.

        A running call ends as its rule decided, but the rule no longer makes the backend die.
        """
        with self._changed:
            self._plan = plan if isinstance(plan, FaultPlan) else FaultPlan(tuple(plan))
            self._matched: Counter[int] = Counter()  # number of a rule -> matching calls
            self._fired: Counter[int] = Counter()
            self._made: Counter[Call] = Counter()

    @property
    def dead(self) -> bool:
        """Return whether every call is refused, since a rule with `dies` fired."""
        return self._death is not None

    def calls_of(self, *operations: str) -> builtins.list[Call]:
        """Return the logged calls of these operations."""
        return [call for call in self.calls.copy() if call.op in operations]

    # -- calls of the protocol

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        def carry_out(_: Buffers) -> BackendFile:
            return _FaultyFile(self.inner.open(key, create=create, exclusive=exclusive), self, key)

        opened: BackendFile = self.run(Call("open", key), carry_out)
        return opened

    def stat(self, key: Key) -> Any:
        """Return the status of an object, with the version of foreign changes."""
        return self.run(Call("stat", key), lambda _: self.stated(key, self.inner.stat(key)))

    def remove(self, key: Key) -> None:
        def carry_out(_: Buffers) -> None:
            self.inner.remove(key)
            self.renamed(key, None)

        self.run(Call("remove", key), carry_out)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        def carry_out(_: Buffers) -> None:
            self.inner.rename(src, dst, replace=replace)
            self.renamed(src, dst)

        self.run(Call("rename", src), carry_out)

    def sync(self) -> None:
        self.run(Call("sync"), lambda _: self.inner.sync())

    def close(self) -> None:
        self.run(Call("close"), lambda _: self.inner.close())

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        return self._listed(prefix, self.inner.list)

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return partial(self._named, found) if name in NAMES else found

    def _lstat(self, key: Key) -> Any:
        inner: Any = self.inner
        return self.run(Call("stat", key), lambda _: self.stated(key, inner.lstat(key)))

    def _readdir(self, key: Key) -> Iterable[ObjectStat]:
        inner: Any = self.inner
        return self._listed(key, inner.readdir)

    def _entries(self, directory: str) -> Iterable[ObjectStat]:
        inner: Any = self.inner
        return self._listed(directory, inner.entries)

    def _setattr(self, key: Key, **attributes: Any) -> ObjectStat:
        inner: Any = self.inner
        return self.stated(key, self._named(inner.setattr, key, **attributes))

    def _listed(self, where: Any, method: Callable[[Any], Iterable[ObjectStat]]) -> Iterable[ObjectStat]:
        found = self.run(Call("list", where), lambda _: builtins.list(method(where)))
        return [self.stated(stat.key, stat) for stat in found]

    def _named(self, method: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Make a call that no rule concerns, and that is not in the log."""
        with self._changed:
            if self._death is not None:
                raise self._death(arguments[0] if arguments else None)
            life = self.life
        with self._entered(life, arguments[0] if arguments else None):
            return method(*arguments, **more)

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
            self._made[call] += 1
            firing, random = None, 0.0
            for number, rule in enumerate(self._plan.rules):
                if rule.matches(call):
                    self._matched[number] += 1
                    if firing is None and self._fires(number, rule, call):
                        self._fired[number] += 1
                        firing, random = rule, draw(self._plan.seed, number, call, self._made[call], "how much")
            return self.life, firing, random

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
        return rule.chance >= 1.0 or draw(self._plan.seed, number, call, self._made[call]) < rule.chance

    # -- one call

    def run(self, call: Call, carry_out: CarryOut, buffers: Buffers = (), file: _FaultyFile | None = None) -> Any:
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

        def carried(buffers: Buffers) -> Any:
            with self._entered(life, call.key, always=call.op == "close"):  # a close changes nothing, and frees memory
                try:
                    return carry_out(buffers)
                except BackendError as error:
                    if error.retry and error.errno is not None:
                        self.refused.add(error.errno)
                    raise

        return carried(buffers) if rule is None else self._ruled(rule, random, call, file, carried, buffers)

    @contextmanager
    def _entered(self, life: int, key: Key | None, *, always: bool = False) -> Iterator[None]:
        """Count a call that is in the inner backend; refuse one of an earlier life."""
        with self._changed:
            if life != self.life and not always:
                raise OSError(errno.ENOTCONN, "the backend was fenced off", key)
            self._inside[life] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[life] -= 1
                self._changed.notify_all()

    def _ruled(self, rule: Rule, random: float, call: Call, file: Any, carried: CarryOut, buffers: Buffers) -> Any:
        if rule.delay and not rule.done:
            time.sleep(rule.seconds(random))
        if rule.gate is not None:
            rule.gate.enter()
        name = call.key if file is None else file.name
        if callable(rule.change) and name is not None:
            rule.change(given(self.inner), name)
        elif rule.change and name is not None:
            self.change(name)
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
        if rule.delay and rule.done:
            time.sleep(rule.seconds(random))
        if rule.fails:
            raise self._failure(rule, call)
        return rule.answer.of(call, result) if isinstance(rule.answer, Answer) else rule.answer

    def _failure(self, rule: Rule, call: Call) -> BaseException:
        with self._changed:
            # Otherwise the fault was removed while the call ran.
            if rule.dies and any(rule is one for one in self._plan.rules):
                self.die(rule.exception)
        return rule.exception(call.key)

    # -- foreign changes

    def change(self, key: Key) -> None:
        """Give the object another version from now on, as if a foreign writer had stored the current bytes again."""
        identity = None
        with suppress(OSError):
            identity = self.inner.stat(key).identity
        with self._changed:
            self._versions[key if identity is None else identity] += 1

    def version(self, key: Key | None, version: str | None, identity: Callable[[], object]) -> str | None:
        """Return the version of an object, including foreign changes: a hard link has those of its object."""
        if version is None or not self._versions:
            return version
        found = identity()
        with self._changed:
            changes = self._versions[key if found is None else found]
        return f"{version}+{changes}" if changes else version

    def stated(self, key: Key | None, stat: ObjectStat) -> ObjectStat:
        """Return `stat` with the version of foreign changes."""
        version = self.version(key, stat.version, lambda: stat.identity)
        return stat if version == stat.version else replace(stat, version=version)

    def renamed(self, src: Key, dst: Key | None) -> None:
        """Move the version of a name, and the open files, with a renamed object; None: it was removed."""
        with self._changed:
            for file in builtins.list(self._files):
                if file.name in (src, dst) and src != dst:
                    file.name = dst if file.name == src else None
            moved = self._versions.pop(src, 0)
            if dst is not None:
                self._versions[dst] = moved

    # -- death

    def die(self, error: Callable[[Key | None], BaseException]) -> None:
        """Refuse all calls from now on."""
        with self._changed:
            if self._death is None:
                self._death = error

    def fence(self, timeout: float = 10.0) -> None:
        """Wait until no call so far can change the store, nor any call of a file opened so far. Such calls raise
        ENOTCONN instead, also if they are held by a gate or delayed. After `Volume.abort` and this call,
        `Volume.reconnect(..., fenced=True)` is true; a running volume may make calls in between.

        Raises:
            TimeoutError: a call in the inner backend does not return.
        """
        with self._changed:
            life, self.life = self.life, self.life + 1
            if not self._changed.wait_for(lambda: self._inside[life] == 0, timeout):
                raise TimeoutError(f"{self._inside[life]} calls do not return from the inner backend")

    def revive(self) -> None:
        """Accept calls again: for `Volume.reconnect` with this backend."""
        with self._changed:
            self._death = None


def _first(buffers: Buffers, length: int) -> list[memoryview]:
    """Return the first `length` bytes of a list of buffers."""
    cut = []
    for buffer in buffers:
        if length <= 0:
            break
        cut.append(buffer[:length])
        length -= len(buffer)
    return cut
