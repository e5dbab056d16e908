"""A backend with faults: scripted, to force one order of events, or seeded, to find unforeseen ones.

    plan = FaultPlan([Rule("write", nth=2, error=errno.ENOSPC), Rule("commit", gate=gate)])
    backend = FaultyBackend(MemoryBackend(), plan)

`faults` documents rules and plans. The log has every call, including failing ones. Ordering events needs no sleeps: a
`Gate` holds calls until a test releases them.

`AsyncFaultyBackend` is the counterpart for asynchronous backends: one plan makes equal decisions for equal calls.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from ..backends.passing import PassingFile, SlowBackend
from ..backends.plain import PlainBackend, completed, given
from ..backends.protocol import (
    OPTIONAL_MEMBERS,
    AsyncBackend,
    AsyncBackendFile,
    Backend,
    BackendFile,
    BackendLimits,
    ObjectStat,
)
from ..errors import Key
from .course import Carry, Change, Enter, Faults, Pause, Step
from .faults import Call, FaultPlan, Rule

__all__ = ["AsyncFaultyBackend", "FaultyBackend"]

Buffers = Sequence[memoryview]


class _Controls:
    """The common interface of both kinds of faulty backend.

    Attributes:
        faults: decides.
    """

    faults: Faults

    def _begin(self, plan: FaultPlan | str, seed: int) -> None:
        if isinstance(plan, str):
            plan = FaultPlan.profile(plan, seed)
        self.faults = Faults(FaultPlan(plan.rules, seed) if seed else plan)

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


class FaultyBackend(_Controls, SlowBackend):
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
            raise TypeError(f"inner: {inner!r} is asynchronous: that is for AsyncFaultyBackend")
        self._begin(plan, seed)

    def _run(
        self, call: Call, carry_out: Callable[[Buffers], Any], buffers: Buffers = (), opened: int | None = None
    ) -> Any:
        """Run one call under the rules; `opened`: of a file, the life of the faults at its open."""
        course = self.faults.course(call, buffers, opened)
        try:
            step = next(course)
            while True:
                try:
                    result = self._take(step, carry_out)
                except BaseException as error:
                    step = course.throw(error)
                else:
                    step = course.send(result)
        except StopIteration as end:
            return end.value

    def _take(self, step: Step, carry_out: Callable[[Buffers], Any]) -> Any:
        match step:
            case Carry(buffers):
                return carry_out(buffers)
            case Pause(seconds):
                return time.sleep(seconds)
            case Enter(gate, timeout):
                return gate.enter(timeout)
            case Change(change, key):
                return change(given(self.inner), key)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        def carry_out(_: object) -> BackendFile:
            return _FaultyFile(self.inner.open(key, create=create, exclusive=exclusive), self, key)

        opened: BackendFile = self._run(Call("open", key), carry_out)
        return opened

    def stat(self, key: Key) -> ObjectStat:
        return self.faults.stat(key, self._run(Call("stat", key), lambda _: self.inner.stat(key)))

    def remove(self, key: Key) -> None:
        self._run(Call("remove", key), lambda _: self.inner.remove(key))

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self._run(Call("rename", src), lambda _: self.inner.rename(src, dst, replace=replace))
        self.faults.renamed(src, dst)

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        found: Iterable[ObjectStat] = self._run(Call("list", prefix), lambda _: self.inner.list(prefix))
        return (self.faults.stat(stat.key, stat) for stat in found)

    def sync(self) -> None:
        self._run(Call("sync"), lambda _: self.inner.sync())

    def close(self) -> None:
        self._run(Call("close"), lambda _: self.inner.close())


class _FaultyFile(PassingFile):
    def __init__(self, inner: BackendFile, backend: FaultyBackend, key: Key) -> None:
        super().__init__(inner)
        self._backend = backend
        self._key = key
        self._life = backend.faults.life

    def _call(self, op: str, method: Callable[..., Any], *args: Any) -> Any:
        return self._backend._run(Call(op, self._key, *args), lambda _: method(*args), (), self._life)

    def _transfer(self, op: str, method: Callable[..., int], offset: int, buffers: Buffers) -> int:
        logged = Call(op, self._key, offset, sum(map(len, buffers)), len(buffers))
        count: int = self._backend._run(logged, lambda given: method(offset, given), buffers, self._life)
        return count

    def stat(self) -> ObjectStat:
        return self._backend.faults.stat(self._key, self._call("stat", self.inner.stat))

    def read_into(self, offset: int, buffers: Buffers) -> int:
        return self._transfer("read", self.inner.read_into, offset, buffers)

    def write_from(self, offset: int, buffers: Buffers) -> int:
        return self._transfer("write", self.inner.write_from, offset, buffers)

    def truncate(self, size: int) -> None:
        self._call("truncate", self.inner.truncate, size)

    def commit(self) -> str | None:
        return self._backend.faults.version(self._key, self._call("commit", self.inner.commit))

    def _punch_hole(self, offset: int, length: int) -> None:
        self._call("punch", self._inner("punch_hole"), offset, length)

    def _next_data(self, offset: int) -> tuple[int, int] | None:
        found: tuple[int, int] | None = self._call("next_data", self._inner("next_data"), offset)
        return found

    def _rollback(self) -> None:
        self._call("rollback", self._inner("rollback"))

    def _close(self) -> None:
        self._call("close", self._inner("close"))

    def _inner(self, method: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.inner, method)
        return found


class AsyncFaultyBackend(_Controls, AsyncBackend):
    """An asynchronous backend with faults around `inner`: the counterpart of `FaultyBackend`.

    Args:
        inner: does the work.
        plan: the faults, or the name of a profile.
        seed: of a profile; of a plan, if it is not 0.

    Raises:
        TypeError: `inner` is no asynchronous backend.
        ValueError: unknown profile; lists the known ones.
    """

    def __init__(self, inner: AsyncBackend | PlainBackend, plan: FaultPlan | str = "none", seed: int = 0) -> None:
        self.inner: AsyncBackend = completed(inner, "inner:")
        if not inspect.iscoroutinefunction(inner.open):
            raise TypeError(f"inner: {inner!r} is not an asynchronous backend")
        self._begin(plan, seed)

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        """Return the current limits of the inner backend."""
        return self.inner.limits

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "faults"):  # not set yet: unpickling, or a failed constructor
            raise AttributeError(name)
        return getattr(self.inner, name)

    async def _run(
        self,
        call: Call,
        carry_out: Callable[[Buffers], Awaitable[Any]],
        buffers: Buffers = (),
        opened: int | None = None,
    ) -> Any:
        """Run one call under the rules; `opened`: of a file, the life of the faults at its open."""
        course = self.faults.course(call, buffers, opened)
        try:
            step = next(course)
            while True:
                try:
                    result = await self._take(step, carry_out)
                except BaseException as error:
                    step = course.throw(error)
                else:
                    step = course.send(result)
        except StopIteration as end:
            return end.value

    async def _take(self, step: Step, carry_out: Callable[[Buffers], Awaitable[Any]]) -> Any:
        match step:
            case Carry(buffers):
                return await carry_out(buffers)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Enter(gate, timeout):
                return await gate.entering(timeout)
            case Change(change, key):
                changed: Any = change(given(self.inner), key)
                return await changed if inspect.isawaitable(changed) else changed

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        async def carry_out(_: object) -> AsyncBackendFile:
            return _AsyncFaultyFile(await self.inner.open(key, create=create, exclusive=exclusive), self, key)

        opened: AsyncBackendFile = await self._run(Call("open", key), carry_out)
        return opened

    async def stat(self, key: Key) -> ObjectStat:
        return self.faults.stat(key, await self._run(Call("stat", key), lambda _: self.inner.stat(key)))

    async def remove(self, key: Key) -> None:
        await self._run(Call("remove", key), lambda _: self.inner.remove(key))

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        await self._run(Call("rename", src), lambda _: self.inner.rename(src, dst, replace=replace))
        self.faults.renamed(src, dst)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        async def carry_out(_: object) -> builtins.list[ObjectStat]:
            return [stat async for stat in self.inner.list(prefix)]

        for stat in await self._run(Call("list", prefix), carry_out):
            yield self.faults.stat(stat.key, stat)

    def canonical(self, key: Key) -> Key:
        return self.inner.canonical(key)

    async def sync(self) -> None:
        await self._run(Call("sync"), lambda _: self.inner.sync())

    async def close(self) -> None:
        await self._run(Call("close"), lambda _: self.inner.close())


class _AsyncFaultyFile(AsyncBackendFile):
    def __init__(self, inner: AsyncBackendFile, backend: AsyncFaultyBackend, key: Key) -> None:
        self.inner = inner
        self._backend = backend
        self._key = key
        self._life = backend.faults.life

    def __getattr__(self, name: str) -> Any:
        if name not in OPTIONAL_MEMBERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        plain = getattr(self.inner, name)
        return getattr(self, f"_{name}") if hasattr(type(self), f"_{name}") else plain

    async def _call(self, op: str, method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await self._backend._run(Call(op, self._key, *args), lambda _: method(*args), (), self._life)

    async def _transfer(self, op: str, method: Callable[..., Awaitable[int]], offset: int, buffers: Buffers) -> int:
        logged = Call(op, self._key, offset, sum(map(len, buffers)), len(buffers))
        count: int = await self._backend._run(logged, lambda given: method(offset, given), buffers, self._life)
        return count

    async def stat(self) -> ObjectStat:
        return self._backend.faults.stat(self._key, await self._call("stat", self.inner.stat))

    async def read_into(self, offset: int, buffers: Buffers) -> int:
        return await self._transfer("read", self.inner.read_into, offset, buffers)

    async def write_from(self, offset: int, buffers: Buffers) -> int:
        return await self._transfer("write", self.inner.write_from, offset, buffers)

    async def truncate(self, size: int) -> None:
        await self._call("truncate", self.inner.truncate, size)

    async def commit(self) -> str | None:
        return self._backend.faults.version(self._key, await self._call("commit", self.inner.commit))

    async def _punch_hole(self, offset: int, length: int) -> None:
        await self._call("punch", self._inner("punch_hole"), offset, length)

    async def _next_data(self, offset: int) -> tuple[int, int] | None:
        found: tuple[int, int] | None = await self._call("next_data", self._inner("next_data"), offset)
        return found

    async def _rollback(self) -> None:
        await self._call("rollback", self._inner("rollback"))

    async def _close(self) -> None:
        await self._call("close", self._inner("close"))

    def _inner(self, method: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.inner, method)
        return found
