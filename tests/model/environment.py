"""Steps that no actor takes: the pass, the answers of the backend, commits, and faults.

A write lands when it answers, in the spool too if it stages. A commit covers the content stored when it was issued
(later content may or may not be covered: the worst is assumed); what is unsent is sent again when it begins.
"""

from __future__ import annotations

from collections.abc import Iterator

from .rules import Rules, Scenario
from .state import ALL, BITS, COMMIT, PASS, Call, Draft, State, blocks_of, put

__all__ = ["ENDED", "Environment", "Step"]

Step = tuple[str, State]
ENDED = -1
"""The generation of a call whose W a planted mistake has ended: it still runs."""


class Environment:
    """The steps of one scenario, under one set of rules, that no actor takes."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        self.faults = list(scenario.faults)

    def edit(self, state: State) -> Draft:
        return Draft(state, self.scenario, self.rules)

    def own_steps(self, s: State) -> Iterator[Step]:
        yield from self.hand_over(s)
        for call in s.calls:
            if call.kind != "direct":
                yield from self.answer(s, call)
        yield from self.commit_steps(s)
        if not self.rules.only_the_return_ends_w and s.W and not any(call.generation == ENDED for call in s.calls):
            n = self.edit(s)
            n.end_writeback(ALL, ok=False)
            n.calls = self.ended(s)
            n.towrite = 0
            n.token_release()
            yield "deadline! ends W", n.freeze()

    # ------------------------------------------------------------------------------ the pass and its answers

    def hand_over(self, s: State) -> Iterator[Step]:
        if s.token != PASS or not s.towrite or s.aborted or s.W:
            return
        for kind in self.kinds(s):
            yield from self.hand_over_by(s, kind)

    def kinds(self, s: State) -> tuple[str, ...]:
        """Staged if the write meets staged bytes."""
        if not self.scenario.staging:
            return ("write",)
        return ("write", "stage") if self.scenario.either and not s.S & s.D else ("stage",)

    def hand_over_by(self, s: State, kind: str) -> Iterator[Step]:
        n = self.edit(s)
        take = 0
        if s.X:
            n.towrite = 0  # parked: it is left out
        else:
            take = n.begin_writeback()
        if take:
            content = tuple((b, s.memory[b]) for b in blocks_of(take))
            requests = [(part,) for part in content] if self.scenario.split else [content]
            beside = tuple((b, s.memory[b]) for b in blocks_of(n.D & ~take)) if self.scenario.unit else ()
            for request in requests:
                n.calls += (Call(kind, request, s.generation, beside=beside),)
                if any(call.blocks & take for call in s.calls):
                    n.broken = "I-11: two calls carry the same block"
        n.pass_turn()
        yield f"pass: hands over {take}{' to be staged' if kind == 'stage' else ''}", n.freeze()

    def answer(self, s: State, call: Call) -> Iterator[Step]:
        late = call.generation != s.generation
        gone = ENDED < call.generation < s.fence
        last = call.content[-1:]
        outcomes: list[tuple[str, str, tuple[tuple[int, int], ...]]] = []  # note, fault, content that lands
        if not late or not gone:
            outcomes.append(("", "", call.content))
        if late:
            outcomes.append(("! nothing landed", "", ()))
        else:
            for fault in ("fail", "parked"):
                if self.may(s, fault):
                    outcomes.append((f"! {fault}", fault, ()))
            if self.may(s, "short") and len(call.content) > 1:
                outcomes.append(("! short", "short", call.content[:1]))
        for note, fault, landing in outcomes:
            n = self.edit(s)
            n.calls = tuple(other for other in s.calls if other is not call)
            self.land(n, call, landing + call.beside if landing == call.content else landing)
            if call.kind == "stage" and not fault and (not late or not self.rules.late_write_misses_the_spool):
                self.spool(n, call)
            if fault:
                self.spend(n, fault)
            if call.generation == ENDED:
                pass  # no actor waits for it
            elif late:
                n.end_writeback(call.blocks, ok=not self.rules.late_answer_is_dirty)
            elif fault == "short":
                ok = call.blocks & ~sum(BITS[b] for b, _ in last)
                if not self.rules.short_answer_acknowledges_prefix_only:
                    ok = call.blocks
                n.end_writeback(call.blocks & ~ok, ok=False)
                n.end_writeback(ok, ok=True, staged=call.kind == "stage")
            else:
                n.end_writeback(call.blocks, ok=not fault, parked=fault == "parked", staged=call.kind == "stage")
            n.pass_turn()
            yield f"answer{' (late)' if late else ''}: {call.kind} {call.blocks}{note}", n.freeze()

    def land(self, n: Draft, call: Call, content: tuple[tuple[int, int], ...]) -> None:
        for b, version in content:
            if version < n.written[b]:
                n.broken = f"I-20: version {version} of block {b} overwrites {n.written[b]}"
            n.written = put(n.written, b, version)

    def spool(self, n: Draft, call: Call) -> None:
        for b, version in call.content:
            n.spool = put(n.spool, b, version)
            n.unsent &= ~BITS[b]

    def ended(self, s: State) -> tuple[Call, ...]:
        return tuple(call if call.kind == "direct" else call._replace(generation=ENDED) for call in s.calls)

    # ------------------------------------------------------------------------------ commits

    def commit_steps(self, s: State) -> Iterator[Step]:
        granted = s.token == COMMIT if self.rules.commit_takes_token else s.commit_queued
        if granted and not s.commit_running and not s.aborted:
            n = self.edit(s)
            n.commit_begin()
            yield "commit: begins", n.freeze()
        if not s.commit_running:
            return
        if s.commit_generation != s.generation:
            yield from self.late_commit(s)
            return
        n = self.edit(s)
        self.make_durable(n)
        n.commit_end(ok=True)
        yield "commit: succeeds", n.freeze()
        if self.may(s, "kept"):
            n = self.edit(s)
            self.spend(n, "kept")
            n.commit_end(ok=False, kept=True)
            yield "commit: fails!, kept", n.freeze()
        if self.may(s, "commit"):
            at_risk = sum(BITS[b] for b in (0, 1) if s.written[b] != s.safe[b])
            for forgotten in range(4):
                if forgotten & ~at_risk:
                    continue
                n = self.edit(s)
                self.spend(n, "commit")
                for b in blocks_of(forgotten):
                    n.written = put(n.written, b, s.safe[b])
                n.commit_end(ok=False)
                yield f"commit: fails!, forgets {forgotten}", n.freeze()

    def make_durable(self, n: Draft) -> None:
        for b in (0, 1):
            n.committed = put(n.committed, b, n.commit_takes[b])
        n.safe = n.committed

    def late_commit(self, s: State) -> Iterator[Step]:
        """A late success may come from a server that had forgotten: it made its remaining content durable."""
        for ok in (False, True):
            n = self.edit(s)
            if ok and s.commit_generation >= s.fence:
                n.committed = n.safe = n.written
            n.commit_end(ok=ok and not self.rules.late_commit_is_a_failure)
            yield f"commit: {'succeeds' if ok else 'fails'}, late!", n.freeze()

    # ------------------------------------------------------------------------------ faults

    def may(self, s: State, fault: str) -> bool:
        return fault in self.scenario.faults and s.faults[self.faults.index(fault)] > 0

    def spend(self, n: Draft, fault: str) -> None:
        at = self.faults.index(fault)
        n.faults = (*n.faults[:at], n.faults[at] - 1, *n.faults[at + 1 :])
