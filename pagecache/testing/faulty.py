"""A backend that fails as told: scripted, to force one order of events, or seeded, to find those nobody thought of.

    plan = FaultPlan([Rule("write", nth=2, error=errno.ENOSPC), Rule("commit", gate=gate)])
    backend = FaultyBackend(MemoryBackend(), plan)

For each call the rules are asked in order; the first that fires decides. A rule counts the calls it matches, whether it
fires or not, so `nth=2` is the second matching call, whatever other rules did to it.

A rule with a `chance` fires by a hash of seed, rule, operation, key, offset and how often just this was called
before: not by a common stream of random numbers. So the same calls meet the same faults however threads interleave,
and a call that is repeated after a fault meets a new decision.

Every call is in the log, the failing ones too. No sleeping is needed to order events: a `Gate` holds calls until a test
lets them go.
"""

from __future__ import annotations

import builtins
import copy
import errno as codes
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeVar, get_args

from ..backends.passing import PassingBackend, PassingFile
from ..backends.protocol import Backend, BackendFile, ObjectStat
from ..errors import BackendError, Key

__all__ = ["OPERATIONS", "TOO_MANY", "Call", "FaultPlan", "FaultyBackend", "Gate", "Operation", "Rule"]

Operation = Literal[
    "open",
    "stat",
    "read",
    "write",
    "commit",
    "truncate",
    "punch",
    "rollback",
    "remove",
    "rename",
    "list",
    "sync",
    "close",
]
OPERATIONS: Final[tuple[str, ...]] = get_args(Operation)
"""What rules match. "stat" and "close" are those of the backend and of its files; "write" and "read" include
staging."""

Result = TypeVar("Result")


class _Answer:
    """An answer that depends on the call."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


TOO_MANY: Final = _Answer("TOO_MANY")
"""As `Rule.answer`: one byte more than was asked for."""
_TRUTH: Final = _Answer("the truth")


class Gate:
    """Holds calls until it is opened. A context manager: leaving it releases, so that no failing test hangs.

    with Gate() as gate:
        backend.use([Rule("commit", gate=gate)])
        thread.start()                           # calls file.fsync()
        gate.wait_entered()
        ...                                      # the commit is running now
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entered = 0
        self._waiting = 0
        self._open = False

    @property
    def entered(self) -> int:
        """Calls that came so far, those that went on included."""
        return self._entered

    @property
    def waiting(self) -> int:
        """Calls that are held now."""
        return self._waiting

    def wait_entered(self, timeout: float = 10.0, *, calls: int = 1) -> None:
        """Return once so many calls came.

        Raises:
            TimeoutError: they did not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._entered >= calls, timeout):
                raise TimeoutError(f"{self._entered} of {calls} calls came to the gate within {timeout} s")

    def release(self) -> None:
        """Let those that wait, and all that come later, go on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def hold(self) -> None:
        """Hold calls again."""
        with self._changed:
            self._open = False

    def enter(self) -> None:
        """Called by the backend: come, and wait for the release."""
        with self._changed:
            self._entered += 1
            self._waiting += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._open)
            finally:
                self._waiting -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the backend, as it came."""

    op: str
    key: Key | None = None
    offset: int | None = None  # truncate: the new size
    length: int | None = None
    nr_buffers: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which calls, and what happens to them. Several actions in one rule happen in the order of the fields.

    Attributes:
        operation: one of OPERATIONS, several of them, or "*".
        key: only calls on this key.
        nth: only the nth matching call, counted from 1; or one of several.
        times: fire at most so often.
        span: only calls that touch [begin, end).
        chance: fire with this probability.
        delay: seconds to wait first.
        gate: wait there until released.
        keep: keep the buffers after the call (`FaultyBackend.kept_buffers`), which no backend may.
        done: raise `error` after the call was carried out: an answer that got lost.
        error: an errno, an exception, or something to call for one.
        short: carry out so many bytes only; 0 answers 0.
        answer: carry out the call, and answer this; TOO_MANY: one byte more than asked.
    """

    operation: str | Collection[str] = "*"
    key: Key | None = None
    nth: int | Collection[int] | None = None
    times: int | None = None
    span: tuple[int, int] | None = None
    chance: float = 1.0
    delay: float = 0.0
    gate: Gate | None = None
    keep: bool = False
    done: bool = False
    error: int | BaseException | Callable[[], BaseException] | None = None
    short: int | Literal["half", "all but one"] | None = None
    answer: object = _TRUTH

    def __post_init__(self) -> None:
        for operation in self.operations():
            if operation not in OPERATIONS:
                raise ValueError(f"operation: {operation!r} is not one of {', '.join(OPERATIONS)}, '*'")
        if not 0 <= self.chance <= 1:
            raise ValueError(f"chance: {self.chance!r} is not a probability from 0 to 1")

    def operations(self) -> Collection[str]:
        """The operations that this rule is about."""
        if self.operation == "*":
            return OPERATIONS
        return (self.operation,) if isinstance(self.operation, str) else self.operation

    def matches(self, call: Call) -> bool:
        """Whether a call is one that this rule counts."""
        if call.op not in self.operations() or (self.key is not None and self.key != call.key):
            return False
        if self.span is None:
            return True
        if call.offset is None:
            return False
        return call.offset < self.span[1] and call.offset + max(1, call.length or 0) > self.span[0]

    def exception(self, key: Key | None) -> BaseException:
        """A fresh exception: one that is raised twice would collect tracebacks."""
        if isinstance(self.error, int):
            return OSError(self.error, os.strerror(self.error), key)
        if isinstance(self.error, BaseException):
            return copy.copy(self.error)
        assert self.error is not None
        return self.error()

    def length(self, asked: int) -> int:
        """Bytes to carry out of those that were asked for."""
        if self.short is None:
            return asked
        if self.short == "half":
            return max(1, asked // 2)
        if self.short == "all but one":
            return max(1, asked - 1)
        return min(asked, self.short)


def _retryable() -> BaseException:
    return BackendError(codes.EIO, "made up, goes away", retry=True, retry_after=0.0)


PROFILES: Final[dict[str, tuple[Rule, ...]]] = {
    "none": (),
    "short": (Rule(("read", "write"), short="half", chance=0.5), Rule(("read", "write"), short=1, chance=0.1)),
    "slow": (Rule(("read", "write", "commit"), delay=0.002, chance=0.3),),
    "flaky": (Rule(("read", "write", "commit"), error=_retryable, chance=0.01),),
    "nasty": (
        Rule(("read", "write", "commit"), error=_retryable, chance=0.05),
        Rule(("write", "commit"), error=_retryable, done=True, chance=0.05),
        Rule(("read", "write"), error=codes.EAGAIN, chance=0.03),
        Rule("write", error=lambda: BackendError(codes.EIO, "too long", retry=True, max_write=8192), chance=0.01),
        Rule(("read", "write"), short="half", chance=0.1),
        Rule(("read", "write"), short="all but one", chance=0.05),
        Rule(("read", "write"), short=1, chance=0.02),
        Rule(("read", "write", "commit"), delay=0.002, chance=0.05),
    ),
    "hostile": (
        Rule(("read", "write"), answer=None, chance=0.02),
        Rule(("read", "write"), answer=TOO_MANY, chance=0.02),
        Rule(("read", "write"), answer=-1, chance=0.02),
        Rule(("read", "write"), answer="17", chance=0.02),
        Rule(("read", "write"), short=0, chance=0.02),
        Rule(("read", "write", "commit", "stat"), error=lambda: KeyError("made up"), chance=0.02),
    ),
}


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Rules in the order in which they are asked, and the seed of those with a chance. Immutable; counts nothing."""

    rules: Sequence[Rule] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))

    @classmethod
    def profile(cls, name: str, seed: int = 0) -> FaultPlan:
        """A ready-made plan.

        Everything sent often enough arrives under "none", "short" (answers), "slow", "flaky" (1 % of the calls fail)
        and "nasty" (all of this, more often, and answers that get lost). "hostile" breaks the protocol: wrong answers.

        Raises:
            ValueError: no such profile; names those there are.
        """
        if name not in PROFILES:
            raise ValueError(f"{name!r} is not one of the fault profiles {', '.join(PROFILES)}")
        return cls(PROFILES[name], seed)


class FaultyBackend(PassingBackend):
    """`inner`, with faults. Thread-safe.

    Args:
        inner: the backend that does the work.
        plan: the faults, or the name of a profile.
        seed: of a profile; of a plan, where it is not 0.

    Attributes:
        calls: every call so far, in the order in which they came.
        kept_buffers: what rules with `keep` kept.
    """

    def __init__(self, inner: Backend, plan: FaultPlan | str = "none", seed: int = 0) -> None:
        super().__init__(inner)
        if isinstance(plan, str):
            plan = FaultPlan.profile(plan, seed)
        self.calls: list[Call] = []
        self.kept_buffers: list[memoryview] = []
        self._lock = threading.Lock()
        self.use(FaultPlan(plan.rules, seed) if seed else plan)

    def use(self, plan: FaultPlan | Iterable[Rule]) -> None:
        """Other faults from here on; counting starts anew. `use([])` is a repair."""
        with self._lock:
            self._plan = plan if isinstance(plan, FaultPlan) else FaultPlan(tuple(plan))
            self._matched: Counter[int] = Counter()  # by number of the rule
            self._fired: Counter[int] = Counter()
            self._seen: Counter[Call] = Counter()

    def calls_of(self, *operations: str) -> builtins.list[Call]:
        """The log, cut down to these operations."""
        with self._lock:
            return [call for call in self.calls if call.op in operations]

    def clear_calls(self) -> None:
        """Forget the log; counting of rules goes on."""
        with self._lock:
            self.calls.clear()

    # ---------------------------------------------------------------------------------------- deciding

    def _decide(self, call: Call) -> Rule | None:
        """Log the call and find the rule that fires."""
        with self._lock:
            self.calls.append(call)
            self._seen[call] += 1
            firing = None
            for number, rule in enumerate(self._plan.rules):
                if rule.matches(call):
                    self._matched[number] += 1
                    if firing is None and self._fires(number, rule, call):
                        self._fired[number] += 1
                        firing = rule
            return firing

    def _fires(self, number: int, rule: Rule, call: Call) -> bool:
        if rule.nth is not None:
            wanted = (rule.nth,) if isinstance(rule.nth, int) else rule.nth
            if self._matched[number] not in wanted:
                return False
        if rule.times is not None and self._fired[number] >= rule.times:
            return False
        if rule.chance >= 1.0:
            return True
        what = (self._plan.seed, number, call, self._seen[call])
        digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < rule.chance * 2.0**64

    def _run(
        self, call: Call, carry_out: Callable[[Sequence[memoryview]], Result], buffers: Sequence[memoryview] = ()
    ) -> Result:
        """Let the rules have their way with one call."""
        rule = self._decide(call)
        if rule is None:
            return carry_out(buffers)
        if rule.delay:
            time.sleep(rule.delay)
        if rule.gate is not None:
            rule.gate.enter()
        if rule.keep:
            self.kept_buffers.extend(buffers)
        if rule.error is not None and not rule.done:
            raise rule.exception(call.key)
        if rule.short is not None and buffers:
            buffers = _first(buffers, rule.length(call.length or 0))
        # Without bytes to carry there is nothing to ask for: the answer is the 0 that was wanted.
        result: Any = 0 if rule.short is not None and call.length and not buffers else carry_out(buffers)
        if rule.error is not None:
            raise rule.exception(call.key)
        if rule.answer is _TRUTH:
            return result  # type: ignore[no-any-return]
        return (call.length or 0) + 1 if rule.answer is TOO_MANY else rule.answer  # type: ignore[return-value]

    # ---------------------------------------------------------------------------------------- the protocol

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        def carry_out(_: object) -> BackendFile:
            return _FaultyFile(self.inner.open(key, create=create, exclusive=exclusive), self, key)

        return self._run(Call("open", key), carry_out)

    def stat(self, key: Key) -> ObjectStat:
        return self._run(Call("stat", key), lambda _: self.inner.stat(key))

    def remove(self, key: Key) -> None:
        self._run(Call("remove", key), lambda _: self.inner.remove(key))

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self._run(Call("rename", src), lambda _: self.inner.rename(src, dst, replace=replace))

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        return self._run(Call("list", prefix), lambda _: self.inner.list(prefix))

    def sync(self) -> None:
        self._run(Call("sync"), lambda _: self.inner.sync())

    def close(self) -> None:
        self._run(Call("close"), lambda _: self.inner.close())


class _FaultyFile(PassingFile):
    def __init__(self, inner: BackendFile, backend: FaultyBackend, key: Key) -> None:
        super().__init__(inner)
        self._backend = backend
        self._key = key

    def _transfer(self, op: str, call: Callable[..., int], offset: int, buffers: Sequence[memoryview]) -> int:
        logged = Call(op, self._key, offset, sum(map(len, buffers)), len(buffers))
        return self._backend._run(logged, lambda given: call(offset, given), buffers)

    def stat(self) -> ObjectStat:
        return self._backend._run(Call("stat", self._key), lambda _: self.inner.stat())

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._transfer("read", self.inner.read_into, offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._transfer("write", self.inner.write_from, offset, buffers)

    def truncate(self, size: int) -> None:
        self._backend._run(Call("truncate", self._key, size), lambda _: self.inner.truncate(size))

    def commit(self) -> str | None:
        return self._backend._run(Call("commit", self._key), lambda _: self.inner.commit())

    def _stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._transfer("write", self._inner("stage"), offset, buffers)

    def _read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._transfer("read", self._inner("read_staged"), offset, buffers)

    def _punch_hole(self, offset: int, length: int) -> None:
        call = Call("punch", self._key, offset, length)
        self._backend._run(call, lambda _: self._inner("punch_hole")(offset, length))

    def _rollback(self) -> None:
        self._backend._run(Call("rollback", self._key), lambda _: self._inner("rollback")())

    def _close(self) -> None:
        self._backend._run(Call("close", self._key), lambda _: self._inner("close")())

    def _inner(self, method: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.inner, method)
        return found


def _first(buffers: Sequence[memoryview], length: int) -> list[memoryview]:
    """The first bytes of a list of buffers."""
    cut = []
    for buffer in buffers:
        if length <= 0:
            break
        cut.append(buffer[:length])
        length -= len(buffer)
    return cut
