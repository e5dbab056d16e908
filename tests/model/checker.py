"""All reachable states of a scenario, and the properties that hold in each of them.

The search is breadth first, so the trace to the first violation is a shortest one. There are three kinds of properties:

    of a state     sets, stamps, token, sizes; every byte is committed, or recorded as uncommitted
    of a step      found by the system itself: success of an fsync or sync, the order of landings
    of the graph   if nothing can happen, no actor waits; and no fair run cycles forever while an actor waits.
                   Fair: an actor that can always go on does so eventually. The environment (`!`) and loops need not.

It does not cover bytes within a block, sizes within a block, several folios, or time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .environment import Step
from .rules import Rules, Scenario
from .state import BITS, FREE, INF, PASS, State, first_state
from .system import System

__all__ = ["PROPERTIES", "Bad", "Found", "Graph", "explore"]

T = TypeVar("T")


class Bad(Exception):
    """A promise is broken."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: the number of states, and the first broken promise with a shortest trace to it."""

    states: int
    broken: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join([f"{self.broken} ({self.states} states)", *self.trace])


class Graph(Generic[T]):
    """All states of a model, breadth first, or those up to the first broken promise. They are numbered in the order of
    their discovery.
    """

    def __init__(self, start: T, steps: Callable[[T], Iterable[tuple[str, T]]], most: int = 4_000_000) -> None:
        self.states = [start]
        self.before = [(0, "")]
        self.edges: list[list[tuple[int, str]]] = []
        number = {start: 0}
        at = 0
        try:
            for at, state in enumerate(self.states):  # grows
                edges = []
                for label, after in steps(state):
                    known = number.get(after)
                    if known is None:
                        known = number[after] = len(self.states)
                        self.states.append(after)
                        self.before.append((at, label))
                    edges.append((known, label))
                self.edges.append(edges)
                assert len(self.states) < most, f"more than {most} states: make the scenario smaller"
        except Bad as bad:
            self.found = self.broken(str(bad), at)
        else:
            self.found = Found(len(self.states))

    def broken(self, promise: str, at: int) -> Found:
        """Return that a state breaks a promise, with the steps to it."""
        trace = [repr(self.states[at])]
        while at:
            at, label = self.before[at]
            trace.insert(0, label)
        return Found(len(self.states), promise, tuple(trace))

    def back(self) -> list[list[int]]:
        """Return the states before each one."""
        back: list[list[int]] = [[] for _ in self.edges]
        for node, steps in enumerate(self.edges):
            for after, _ in steps:
                back[after].append(node)
        return back


def sets_are_right(s: State) -> str:
    """M1, M5: L within V, X within D; a block in flight is in one call."""
    if (s.D | s.W | s.U) & ~s.V or s.X & ~s.D:
        return "M1: a set is larger than what it is a part of"
    if s.pinned & ~s.D:
        return "M1: a write-pinned block is not dirty"
    return ""


def calls_are_right(s: State) -> str:
    in_flight = 0
    for call in s.calls:
        in_flight |= call.blocks if call.kind != "direct" else 0
    return "I-11: W is not what calls carry" if in_flight != s.W else ""


def stamps_are_right(s: State) -> str:
    for bits, stamp in ((s.D, s.d), (s.W, s.w), (s.U, s.u), (s.S, s.staged_stamp)):
        if bool(bits) != (stamp != INF) or (stamp != INF and stamp > s.epoch):
            return "I-3: a stamp without bytes, bytes without a stamp, or one of the future"
    return ""


def token_is_right(s: State) -> str:
    if s.token != PASS and any(call.kind != "direct" for call in s.calls):
        return "I-12: requests in flight, and no pass holds the token"
    return ""


def marks_are_right(s: State) -> str:
    return "I-14: TOWRITE without a pass" if s.towrite and s.token != PASS and PASS not in s.queue else ""


def tail_is_right(s: State) -> str:
    if s.size > s.remote_size and not (s.D | s.W) & BITS[s.size - 1]:
        return "I-10: the size lies beyond remote_size, and its last byte is not on its way"
    return ""


def nothing_is_forgotten(s: State) -> str:
    """Every block is committed, or in L or S, or covered by m: otherwise no later fsync commits it."""
    covered = s.D | s.W | s.U | s.S
    if min(s.m, s.m_moved) < INF:
        covered |= s.direct | s.direct_moved | s.holes | (2 if s.truncated else 0)
    for b in (0, 1):
        if s.committed[b] < s.latest[b] and not covered & BITS[b]:
            return (
                f"I-22: block {b} is clean in version {s.latest[b]}, a crash would leave {s.committed[b]}, "
                "and it was not reported"
            )
    return ""


def clean_is_stored(s: State) -> str:
    """A clean byte equals storage's answer; one that is not clean is the latest."""
    busy = 0
    for call in s.calls:
        busy |= call.blocks if call.kind == "direct" else 0
    for b in (0, 1):
        bit = BITS[b]
        if not s.V & bit or busy & bit or s.aborted:
            continue
        if (s.D | s.W | s.U) & bit:
            if s.memory[b] != s.latest[b]:
                return f"I-17: block {b} is local in version {s.memory[b]}, not {s.latest[b]}"
        elif s.memory[b] != (s.spool[b] if s.S & bit else s.written[b]):
            return f"T-75a: block {b} is clean in version {s.memory[b]}, storage has {s.written[b]}"
    return ""


def staging_is_right(s: State) -> str:
    """Bytes in S are in the spool, and in the store unless they are unsent."""
    for b in (0, 1):
        if s.S & BITS[b] and not s.spool[b]:
            return f"I-1: block {b} is in S, and not in the spool"
        if s.S & BITS[b] & ~s.unsent and not s.aborted and s.written[b] != s.spool[b]:
            return f"I-1: block {b} is in S and not unsent, and the store has version {s.written[b]}"
    return ""


PROPERTIES: dict[str, Callable[[State], str]] = {
    "M1": sets_are_right,
    "I-1": staging_is_right,
    "I-11": calls_are_right,
    "I-3": stamps_are_right,
    "I-12": token_is_right,
    "I-14": marks_are_right,
    "I-10": tail_is_right,
    "I-22": nothing_is_forgotten,
    "T-75a": clean_is_stored,
}


class Search:
    """The graph of a scenario, and what holds of it as a whole."""

    def __init__(self, scenario: Scenario, rules: Rules, without: frozenset[str], most: int) -> None:
        self.scenario = scenario
        self.without = without
        self.checks = [check for name, check in PROPERTIES.items() if name not in without]
        self.system = System(scenario, rules)
        self.graph = Graph(first_state(scenario), self.steps, most)

    def steps(self, state: State) -> Iterator[Step]:
        if state.broken and state.broken.partition(":")[0] not in self.without:
            raise Bad(state.broken)
        for check in self.checks:
            if found := check(state):
                raise Bad(found)
        return self.system.steps(state)

    def found(self) -> Found:
        if self.graph.found.broken:
            return self.graph.found
        for number, edges in enumerate(self.graph.edges):
            if not edges and (found := self.waits(self.graph.states[number])):
                return self.graph.broken(f"deadlock: {found}", number)
        return self.fair_cycles()

    def waiting(self, state: State) -> set[str]:
        """Actors that have not finished; those that loop have nothing to wait for."""
        return {
            name
            for (name, program), actor in zip(self.scenario.programs.items(), state.actors, strict=True)
            if actor.at < len(program) and name not in self.scenario.loops
        }

    def waits(self, state: State) -> str:
        if waiting := self.waiting(state):
            return f"{', '.join(sorted(waiting))} waits, and nothing can happen"
        if state.token != FREE or state.queue or state.calls or state.towrite or state.lock != FREE:
            return "at rest, with a token, a lock, a call or a mark left"
        return ""

    # ------------------------------------------------------------------------------ cycles

    def fair_cycles(self) -> Found:
        """Find a strongly connected part in which an actor waits in every state, and which a fair run need never
        leave.
        """
        states, edges = self.graph.states, self.graph.edges
        for part in components(edges, self.graph.back()):
            inside = set(part)
            if len(part) == 1 and all(after not in inside for after, _ in edges[part[0]]):
                continue
            waiting = set.intersection(*(self.waiting(states[n]) for n in part))
            if waiting and self.is_fair(part, inside):
                names = ", ".join(sorted(waiting))
                return self.graph.broken(
                    f"endless: {names} may wait forever, in a cycle of {len(part)} states", part[0]
                )
        return self.graph.found

    def is_fair(self, part: list[int], inside: set[int]) -> bool:
        """Each process that could always step does step within."""
        steps: set[str] = set()
        always: set[str] | None = None
        for number in part:
            able = set()
            for after, label in self.graph.edges[number]:
                name = label.partition(":")[0]
                if "!" in label or name in self.scenario.loops:
                    continue
                able.add(name)
                if after in inside:
                    steps.add(name)
            always = able if always is None else always & able
        return (always or set()) <= steps


def components(edges: list[list[tuple[int, str]]], back: list[list[int]]) -> list[list[int]]:
    """Strongly connected components: of reversed edges, from the state that a walk leaves last (Kosaraju)."""
    left, seen = [], bytearray(len(edges))  # in the order of leaving
    for root in range(len(edges)):
        work = [root]
        while work:
            node = work.pop()
            if node < 0:
                left.append(~node)
            elif not seen[node]:
                seen[node] = 1
                work += [~node, *(after for after, _ in edges[node] if not seen[after])]
    found = []
    for root in reversed(left):
        part = [root] if seen[root] == 1 else []
        seen[root] = 2
        for node in part:  # grows
            for before in back[node]:
                if seen[before] == 1:
                    seen[before] = 2
                    part.append(before)
        if part:
            found.append(part)
    return found


def explore(scenario: Scenario, rules: Rules, without: frozenset[str] = frozenset(), most: int = 400_000) -> Found:
    """Visit every state of a scenario, or those up to the first violation."""
    collects = gc.isenabled()
    gc.disable()  # nothing here has a cycle, and searching for them takes a third of the time
    try:
        return Search(scenario, rules, without, most).found()
    finally:
        if collects:
            gc.enable()
