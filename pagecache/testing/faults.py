"""Descriptions of faults: rules for single calls, and plans of rules.

For each call the rules of a plan are tried in order; the first that fires decides. A rule counts the calls it matches,
fired or not, so `nth=2` is the second matching call, independent of other rules.

A rule with a `chance` fires by a hash of seed, rule, operation, key, offset and the number of earlier equal calls, not
by a common stream of random numbers. So equal calls meet equal faults however threads interleave, and a call that is
repeated after a fault gets a new decision. `spells` are counted: the seed decides their begin and length, and the order
of calls decides which calls fall into them.
"""

from __future__ import annotations

import copy
import errno as codes
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..errors import Key
from .gate import Gate

OPERATIONS: Final[tuple[str, ...]] = (
    *("open", "stat", "read", "write", "commit", "truncate", "punch", "next_data", "rollback"),
    *("remove", "rename", "list", "sync", "close"),
)
"""Operations that rules match. "stat" and "close" are those of the backend and of its files; `lstat` is a "stat" too,
`readdir` a "list".
"""
REPEATABLE: Final = ("read", "write", "commit", "truncate", "punch")
"""Operations that may be done twice without harm."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the backend."""

    op: str
    key: Key | None = None
    offset: int | None = None  # truncate: the new size
    length: int | None = None
    nr_buffers: int | None = None


class Answer:
    """A result that depends on the call, and on the actual result."""

    def __init__(self, name: str, of: Callable[[Call, Any], Any]) -> None:
        self._name, self.of = name, of

    def __repr__(self) -> str:
        return self._name


ALL: Final = Answer("ALL", lambda call, _: call.length)
"""Value of `Rule.answer`: the requested number of bytes; with `short`, the other ones are lost."""
TOO_MANY: Final = Answer("TOO_MANY", lambda call, _: (call.length or 0) + 1)
"""Value of `Rule.answer`: one byte more than requested."""
TRUTH: Final = Answer("the truth", lambda _, result: result)
"""Value of `Rule.answer`: the actual result."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which calls fail, and how. Several actions in one rule happen in the order of the fields.

    Attributes:
        operation: one of OPERATIONS, several of them, or "*".
        key: only calls on this key.
        nth: only the nth matching call, counted from 1; or one of several.
        times: fire at most so often.
        span: only calls that touch [begin, end).
        longer: only calls with more bytes than this.
        spells: (every, length): of each `every` matching calls, `length` in a row; the seed decides which.
        chance: fire with this probability.
        delay: seconds to wait, before the call or with `done` after it.
        longest: if larger than `delay`: waits are longer than `delay`, up to this limit: half of them are less than
            twice `delay`, one in n is more than n times `delay` (a Pareto distribution, cut off).
        gate: wait there until released.
        change: a foreign writer changes the object before the call. True: the object gets another version with its
            current bytes. A function: it makes the change, called with the inner backend and the key.
        keep: keep the buffers after the call (`FaultyBackend.kept_buffers`), which no backend may.
        done: the delay, `error` or the death comes after the call was carried out: a late reply, or a lost one.
        error: an errno, an exception, or a function that returns one.
        dies: the backend is gone from now on: this call and all later ones raise `error`, ENOTCONN if it is None, until
            `FaultyBackend.revive`.
        short: carry out only so many bytes; 0 returns 0.
        twice: carry it out twice: for REPEATABLE calls.
        answer: carry out the call, and return this; TOO_MANY: one byte more than requested.
    """

    operation: str | Collection[str] = "*"
    key: Key | None = None
    nth: int | Collection[int] | None = None
    times: int | None = None
    span: tuple[int, int] | None = None
    longer: int | None = None
    spells: tuple[int, int] | None = None
    chance: float = 1.0
    delay: float = 0.0
    longest: float = 0.0
    gate: Gate | None = None
    change: bool | Callable[[Any, Key], object] = False
    keep: bool = False
    done: bool = False
    error: int | BaseException | Callable[[], BaseException] | None = None
    dies: bool = False
    short: int | Literal["half", "all but one"] | None = None
    twice: bool = False
    answer: object = TRUTH

    def __post_init__(self) -> None:
        for operation in self.operations():
            if operation not in OPERATIONS:
                raise ValueError(f"operation: {operation!r} is not one of {', '.join(OPERATIONS)}, '*'")
        if not 0 <= self.chance <= 1:
            raise ValueError(f"chance: {self.chance!r} is not a probability from 0 to 1")
        if self.spells is not None and not 0 < self.spells[1] <= self.spells[0]:
            raise ValueError(f"spells: {self.spells!r} is not (every, length) with 0 < length <= every")
        if self.longest and not 0 < self.delay <= self.longest:
            raise ValueError(f"longest: {self.longest!r} is less than delay ({self.delay!r}), or that is 0")
        if self.twice and (odd := [one for one in self.operations() if one not in REPEATABLE]):
            raise ValueError(f"twice: {odd[0]!r} is not one of {', '.join(REPEATABLE)}")

    def operations(self) -> Collection[str]:
        """Return the operations of this rule."""
        if self.operation == "*":
            return OPERATIONS
        return (self.operation,) if isinstance(self.operation, str) else self.operation

    def matches(self, call: Call) -> bool:
        """Return whether this rule counts a call."""
        if call.op not in self.operations() or (self.key is not None and self.key != call.key):
            return False
        if self.longer is not None and (call.length or 0) <= self.longer:
            return False
        if self.span is None:
            return True
        if call.offset is None:
            return False
        return call.offset < self.span[1] and call.offset + max(1, call.length or 0) > self.span[0]

    def exception(self, key: Key | None) -> BaseException:
        """Return a fresh exception: one that is raised twice would collect tracebacks."""
        if self.error is None:
            return OSError(codes.ENOTCONN, "the backend is gone", key)
        if isinstance(self.error, int):
            return OSError(self.error, os.strerror(self.error), key)
        if isinstance(self.error, BaseException):
            return copy.copy(self.error)
        return self.error()

    @property
    def fails(self) -> bool:
        """Return whether the call raises."""
        return self.error is not None or self.dies

    def length(self, requested: int) -> int:
        """Return how many of the requested bytes to carry out."""
        if self.short is None:
            return requested
        if self.short == "half":
            return max(1, requested // 2)
        if self.short == "all but one":
            return max(1, requested - 1)
        return min(requested, self.short)

    def seconds(self, random: float) -> float:
        """Return how long to wait first; `random` is from [0, 1)."""
        return self.delay if self.longest <= self.delay else min(self.longest, self.delay / (1.0 - random))


def draw(*what: object) -> float:
    """Return a number from [0, 1) that depends on the arguments alone."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Rules in the order in which they are tried, and the seed of those with a chance. Immutable; counts nothing."""

    rules: Sequence[Rule] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))

    @classmethod
    def profile(cls, name: str, seed: int = 0) -> FaultPlan:
        """Return a plan by name.

        "none" has no faults. "mild": errors that go away, short results, latency with long tails. "nasty": everything
        legal and unpleasant: mild faults at a higher rate, lost replies, calls that are done twice, replies out of
        order, oversized requests, slow spells. "hell": all of it, often, and also errors that do not go away, no space
        for a while, commits that fail, foreign versions, and death: the backend is gone until `FaultyBackend.revive`.

        "short" (results), "slow", "late" (reads return late although the bytes are there), "flaky" (1 % of the calls
        fail), "commits" (a third of them fail), "names" (opens, renames and removes fail, some after they were carried
        out) and "deaths" (the backend is gone again and again) have one kind each. "hostile" breaks the protocol:
        wrong results. Under all but "hell", "deaths" and "hostile", bytes arrive if they are sent often enough.

        Raises:
            ValueError: unknown profile; lists the known ones.
        """
        from .fault_profiles import PROFILES

        if name not in PROFILES:
            raise ValueError(f"{name!r} is not one of the fault profiles {', '.join(PROFILES)}")
        return cls(PROFILES[name], seed)
