"""A backend with faults: scripted, to force one order of events, or seeded, to find unforeseen ones.

    plan = FaultPlan([Rule("write", nth=2, error=errno.ENOSPC), Rule("commit", gate=gate)])
    backend = FaultyBackend(MemoryBackend(), plan)

`faults` documents rules and plans. The log has every call, including failing ones. Ordering events needs no sleeps: a
`Gate` holds calls until a test releases them.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partialmethod
from typing import Any

from ..backends.passing import PassingFile, SlowBackend
from ..backends.plain import PlainBackend
from ..backends.protocol import Backend, BackendFile, ObjectStat
from ..errors import Key
from .course import Faults
from .faults import Call, FaultPlan, Rule

Buffers = Sequence[memoryview]


class _FaultyFile(PassingFile):
    """A file of a faulty backend."""

    def __init__(self, inner: Any, faults: Faults, key: Key) -> None:
        super().__init__(inner)
        self._faults = faults
        self._key = key
        self.life = faults.life
        self.name: Key | None = key  # None: it has lost the name, and foreign changes of that are of another object
        faults.follow(self)

    def renamed(self, name: Key | None) -> None:
        self.name = name

    def _call(self, op: str, method: str, *args: Any) -> Any:
        carry_out = getattr(self.inner, method)
        return self._faults.run(Call(op, self._key, *args), lambda _: carry_out(*args), (), self)

    def _transfer(self, op: str, method: Callable[..., Any], offset: int, buffers: Buffers) -> Any:
        logged = Call(op, self._key, offset, sum(map(len, buffers)), len(buffers))
        return self._faults.run(logged, lambda given: method(offset, given), buffers, self)

    def stat(self) -> Any:
        def carry_out(_: Buffers) -> ObjectStat:
            return self._faults.stat(self.name, self.inner.stat())

        return self._faults.run(Call("stat", self._key), carry_out, (), self)

    def read_into(self, offset: int, buffers: Buffers) -> Any:
        return self._transfer("read", self.inner.read_into, offset, buffers)

    def write_from(self, offset: int, buffers: Buffers) -> Any:
        return self._transfer("write", self.inner.write_from, offset, buffers)

    def truncate(self, size: int) -> Any:
        return self._call("truncate", "truncate", size)

    def commit(self) -> Any:
        def carry_out(_: Buffers) -> str | None:
            return self._faults.version(self.name, self.inner.commit())

        return self._faults.run(Call("commit", self._key), carry_out, (), self)

    _punch_hole = partialmethod(_call, "punch", "punch_hole")
    _next_data = partialmethod(_call, "next_data", "next_data")
    _rollback = partialmethod(_call, "rollback", "rollback")
    _close = partialmethod(_call, "close", "close")


class FaultyBackend(SlowBackend):
    """A backend with faults around `inner`. Thread-safe.

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
        self.faults = Faults(FaultPlan(plan.rules, seed) if seed else plan, self.inner)

    @property
    def calls(self) -> list[Call]:
        """Return every call so far, in the order of arrival."""
        return self.faults.calls

    @property
    def kept_buffers(self) -> list[memoryview]:
        """Return the buffers that rules with `keep` kept."""
        return self.faults.kept_buffers

    @property
    def dead(self) -> bool:
        """Return whether every call is refused, since a rule with `dies` fired."""
        return self.faults.died.is_set()

    def wait_dead(self, timeout: float | None = None) -> bool:
        """Wait until the backend is dead, at most `timeout` seconds; return whether it is."""
        return self.faults.died.wait(timeout)

    def revive(self) -> None:
        """Accept calls again: for `Volume.reconnect` with this backend."""
        self.faults.revive()

    def fence(self, timeout: float = 10.0) -> None:
        """Wait until no call so far can change the store, nor any call of a file opened so far. Such calls raise
        ENOTCONN instead, also if they are held by a gate or delayed. After `Volume.abort` and this call,
        `Volume.reconnect(..., fenced=True)` is true; a running volume may make calls in between.

        Raises:
            TimeoutError: a call in the inner backend does not return.
        """
        self.faults.fence(timeout)

    def change(self, key: Key) -> None:
        """Give the object another version from now on, as if a foreign writer had stored the current bytes again."""
        self.faults.change(key)

    def use(self, plan: FaultPlan | Iterable[Rule]) -> None:
        """Replace the faults; counting starts anew. `use([])` repairs everything but death.

        A running call ends as its rule decided, but the rule no longer makes the backend die.
        """
        self.faults.use(plan)

    def calls_of(self, *operations: str) -> builtins.list[Call]:
        """Return the logged calls of these operations."""
        return [call for call in self.faults.calls.copy() if call.op in operations]

    def clear_calls(self) -> None:
        """Clear the log; rules keep their counts."""
        self.faults.calls.clear()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        def carry_out(_: Buffers) -> BackendFile:
            return _FaultyFile(self.inner.open(key, create=create, exclusive=exclusive), self.faults, key)

        opened: BackendFile = self.faults.run(Call("open", key), carry_out)
        return opened

    def stat(self, key: Key) -> Any:
        """Return the status of an object, with the version of foreign changes."""
        return self.faults.run(Call("stat", key), lambda _: self.faults.stat(key, self.inner.stat(key)))

    def remove(self, key: Key) -> None:
        def carry_out(_: Buffers) -> None:
            self.inner.remove(key)
            self.faults.renamed(key, None)

        self.faults.run(Call("remove", key), carry_out)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        def carry_out(_: Buffers) -> None:
            self.inner.rename(src, dst, replace=replace)
            self.faults.renamed(src, dst)

        self.faults.run(Call("rename", src), carry_out)

    def sync(self) -> None:
        self.faults.run(Call("sync"), lambda _: self.inner.sync())

    def close(self) -> None:
        self.faults.run(Call("close"), lambda _: self.inner.close())

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        found: builtins.list[ObjectStat] = self.faults.run(
            Call("list", prefix), lambda _: builtins.list(self.inner.list(prefix))
        )
        return [self.faults.stat(stat.key, stat) for stat in found]
