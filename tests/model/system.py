"""Every next step from a state: of actors, of the pass, of commits, of the backend.

A step is one section of the core under the leaf lock, or one call of the backend at the moment in which it matters: a
write lands when it answers, a commit covers what was stored when it was issued (what comes later may or may not be
covered: the worst is taken). Waiting is no step: an actor that waits has none, so a state without steps in which
somebody waits is a deadlock.

    fsync    0 take the epoch → 1 flush: mark, wait → 2 commit: start, wait → done, if nothing up to it is left
    sync     the same, after a look at the dirty list
    flush    0 take the epoch → 1 mark, wait for the range
    direct   0 lock → 1 flush, commit, invalidate, send → 2 answer: invalidate, stamp m, unlock
    fill     0 start → 1 read → 2 validate, or again

Labels begin with who steps; a `!` marks what the environment may do and need not: faults, late answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from .state import ALL, BITS, COMMIT, FREE, INF, PASS, Actor, Call, Draft, Rules, Scenario, State, blocks_of, put

__all__ = ["System"]

Step = tuple[str, State]
ENDED = -1
"""Generation of a call whose W a planted mistake has ended: it still runs."""


class System:
    """One scenario under one set of rules."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        self.names = list(scenario.programs)
        self.programs = list(scenario.programs.values())
        self.faults = list(scenario.faults)
        self.operations = {
            "write": self.write, "background": self.background, "flush": self.flush, "fsync": self.fsync,
            "sync": self.fsync, "commit": self.commit, "truncate": self.cut, "punch": self.cut, "direct": self.direct,
            "fill": self.fill, "view": self.view, "store": self.store, "release": self.release, "evict": self.evict,
            "abort": self.abort, "reconnect": self.reconnect, "fenced": self.reconnect,
        }  # fmt: skip

    def edit(self, state: State) -> Draft:
        return Draft(state, self.scenario, self.rules)

    def steps(self, s: State) -> Iterator[Step]:
        for number, actor in enumerate(s.actors):
            if actor.at < len(self.programs[number]):
                what, blocks = self.programs[number][actor.at]
                for note, draft in self.operations[what](s, number, actor, blocks):
                    yield f"{self.names[number]}: {what}{blocks or ''}{note}", draft.freeze()
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

    # ------------------------------------------------------------------------------ actors

    def go(self, n: Draft, number: int, **fields: object) -> Draft:
        actors = list(n.actors)
        actors[number] = actors[number]._replace(**fields)  # type: ignore[arg-type]
        n.actors = tuple(actors)
        return n

    def done(self, n: Draft, number: int) -> Draft:
        at = n.actors[number].at + 1
        if self.names[number] in self.scenario.loops:
            at %= len(self.programs[number])
        actors = list(n.actors)
        actors[number] = Actor(at)
        n.actors = tuple(actors)
        return n

    def write(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        if s.lock == FREE and not self.filling(s):
            n = self.edit(s)
            n.changed(blocks)
            for b in blocks_of(blocks):
                n.memory = put(n.memory, b, n.clock[b])
            n.dirty(blocks)
            n.size = max(n.size, 2 if blocks & 2 else 1)
            yield "", self.done(n, number)

    def filling(self, s: State) -> bool:
        """A fill owns the folio lock: writers, reclaim, truncate and punch wait for it or pass by."""
        return any(
            actor.stage and self.programs[number][actor.at][0] == "fill" for number, actor in enumerate(s.actors)
        )

    def background(self, s: State, number: int, actor: Actor, _: int) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        if s.token == FREE and not s.aborted:
            n.flush_start(INF - 1, ALL)
        yield "", self.done(n, number)

    def commit(self, s: State, number: int, actor: Actor, _: int) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        n.commit_start()
        yield "", self.done(n, number)

    def take_epoch(self, n: Draft, number: int, actor: Actor, stage: int) -> Draft:
        n.X = 0  # a sync resumes what is parked
        n = self.go(n, number, stage=stage, stamp=n.epoch, wanted=n.latest)
        n.epoch += self.rules.sync_advances_epoch
        return n

    def flush(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        if s.aborted:
            return
        n = self.edit(s)
        blocks = blocks if self.scenario.partial else ALL
        if actor.stage == 0:
            yield " begins", self.take_epoch(n, number, actor, 1)
        elif not (s.D & blocks and s.d <= actor.stamp) and not (s.W & blocks and s.w <= actor.stamp):
            yield " done", self.done(n, number)
        elif s.D & blocks and s.d <= actor.stamp:
            yield from self.mark(s, number, actor, blocks)

    def mark(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        if s.X & s.D and not s.W:
            if not self.rules.failed_bytes_fail_fsync:
                yield " looks away", self.go(n, number, stage=2)
            else:
                yield " raises WritebackError", self.done(n, number)
        else:
            n.flush_start(actor.stamp, blocks)
            if (n.towrite, n.token, n.queue) != (s.towrite, s.token, s.queue):
                yield " marks", n

    def listed(self, s: State) -> bool:
        """Is the file on its volume's dirty list? [I-13]"""
        return bool(s.D | s.W | s.U | s.S) or (self.rules.dirty_list_counts_m and min(s.m, s.m_moved) < INF)

    def commit_needed(self, s: State, stamp: int) -> bool:
        return (
            s.u <= stamp
            or (self.rules.fsync_looks_at_staged and s.staged_stamp <= stamp)
            or (self.rules.fsync_looks_at_m and s.m <= stamp)
        )

    def fsync(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        if s.aborted:
            return
        n = self.edit(s)
        stamp = actor.stamp
        pending = s.d <= stamp or (self.rules.fsync_looks_at_w and s.w <= stamp)
        if actor.stage == 0:
            yield from self.sync_begins(s, number, actor)
        elif actor.stage == 3:  # the file was not on the dirty list
            yield from self.synced(s, number, actor)
        elif actor.stage == 1 and not pending:
            yield " flushed", self.go(n, number, stage=2)
        elif actor.stage == 1:
            if s.d <= stamp:
                yield from self.mark(s, number, actor, ALL)
        elif pending and self.rules.fsync_looks_at_everything_again and not s.X:
            yield " flushes again", self.go(n, number, stage=1)
        elif self.commit_needed(s, stamp):
            n.commit_start()
            if n.commit_queued != s.commit_queued:
                yield " starts a commit", n
        elif not (s.commit_running and self.rules.running_commit_counts):
            yield from self.synced(s, number, actor)

    def sync_begins(self, s: State, number: int, actor: Actor) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        if self.programs[number][actor.at][0] == "fsync":
            yield " begins", self.take_epoch(n, number, actor, 1)
        elif self.rules.sync_takes_epoch_first:
            yield " begins", self.take_epoch(n, number, actor, 1 if self.listed(s) else 3)
        elif not actor.value:
            yield " collects", self.go(n, number, value=2 if self.listed(s) else 1)
        elif actor.value == 2:
            yield " begins", self.go(self.take_epoch(n, number, actor, 1), number, value=0)
        else:
            yield " begins", self.go(self.take_epoch(n, number, actor, 3), number, value=0)

    def synced(self, s: State, number: int, actor: Actor) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        for b in (0, 1):
            if s.committed[b] < actor.wanted[b]:
                rule = "I-19" if self.programs[number][actor.at][0] == "sync" else "I-18"
                n.broken = (
                    f"{rule}: success, but block {b} was promised in version {actor.wanted[b]} "
                    f"and a crash would leave {s.committed[b]}"
                )
        yield " succeeds", self.done(n, number)

    def cut(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        """Truncate of block 1, punch of the block given."""
        me = self.names[number]
        if s.aborted or self.filling(s):
            return
        n = self.edit(s)
        truncate = self.programs[number][actor.at][0] == "truncate"
        if actor.stage == 0 and s.lock == FREE:
            n.lock = me
            if self.rules.truncate_takes_token:
                n.token_take(me)
            yield " locks", self.go(n, number, stage=1)
        elif actor.stage == 1 and (s.token == me or not self.rules.truncate_takes_token):
            blocks = 2 if truncate else blocks
            n.cut(blocks)
            if truncate:
                n.size = n.remote_size = 1
                n.truncated = n.clock[1]
            else:
                n.holes |= blocks
            n.lock = FREE
            if self.rules.truncate_takes_token:
                n.token_release()
            yield " done", self.done(n, number)

    def direct(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        if actor.stage == 0:
            if s.lock == FREE and not s.aborted:
                n.lock = self.names[number]
                yield " locks", self.go(n, number, stage=1)
        elif actor.stage == 1 and not s.aborted:
            if (s.D | s.W) & blocks and self.rules.direct_write_flushes_first:
                n.flush_start(INF - 1, blocks)
                if (n.towrite, n.token, n.queue) != (s.towrite, s.token, s.queue):
                    yield " flushes", n
            elif (s.U | s.S) & blocks and self.rules.direct_write_commits_unstable_first:
                n.commit_start()
                if n.commit_queued != s.commit_queued:
                    yield " starts a commit", n
            else:
                n.invalidate(blocks)
                content = tuple((b, s.clock[b] + 1) for b in blocks_of(blocks))
                for b, version in content:
                    n.clock = put(n.clock, b, version)
                n.calls += (Call("direct", content, s.generation, number),)
                yield " sends", self.go(n, number, stage=2)
        elif actor.stage == 2:
            yield from self.direct_returns(s, number, blocks)

    def direct_returns(self, s: State, number: int, blocks: int) -> Iterator[tuple[str, Draft]]:
        call = next(call for call in s.calls if call.actor == number)
        late, gone = call.generation != s.generation, call.generation < s.fence
        for landed in (True, False):
            if (landed and gone) or (not landed and not late and not self.may(s, "direct")):
                continue
            n = self.edit(s)
            if not landed and not late:
                self.spend(n, "direct")
            n.calls = tuple(other for other in s.calls if other is not call)
            if landed:
                for b, version in call.content:
                    n.written = put(n.written, b, version)
                    if not late:
                        n.latest = put(n.latest, b, version)
            if self.rules.direct_write_stamps_m:
                n.m = min(n.m, s.epoch)
            n.direct |= blocks
            if self.rules.direct_write_invalidates_again:
                n.invalidate(blocks)
            n.lock = FREE
            note = " returns" if landed and not late else "! returns late" if late else "! fails"
            yield note + ("" if landed else ", nothing stored"), self.done(n, number)

    def fill(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        block = blocks >> 1
        if actor.stage == 0 and s.V & blocks:
            yield " hits", self.done(n, number)
        elif actor.stage == 0 and not s.aborted:
            yield " starts", self.go(n, number, stage=1, spoiled=False)
        elif actor.stage == 1 and actor.spoiled and s.aborted:
            yield " ends", self.go(n, number, stage=0, spoiled=False)
        elif actor.stage == 1:
            value = s.staged[block] if s.S & blocks else s.written[block]
            yield " reads", self.go(n, number, stage=2, value=value)
        elif actor.stage == 2:
            if s.V & blocks:
                yield " came second", self.done(n, number)
            elif actor.spoiled and self.rules.fill_looks_at_inval_seq:
                yield " reads again", self.go(n, number, stage=0, value=0, spoiled=False)
            else:
                n.V |= blocks
                n.memory = put(n.memory, block, actor.value)
                yield " validates", self.done(n, number)

    def view(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        if s.lock == FREE and not s.W & blocks and not self.filling(s):
            n = self.edit(s)
            for b in blocks_of(blocks & ~s.V):  # filled first
                n.memory = put(n.memory, b, s.written[b])
            n.pinned |= blocks
            n.dirty(blocks)
            yield "", self.done(n, number)

    def store(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        """Through the memory of a view: nobody is told."""
        n = self.edit(s)
        n.changed(blocks)
        for b in blocks_of(blocks & s.pinned):
            n.memory = put(n.memory, b, n.clock[b])
        yield "", self.done(n, number)

    def release(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        n = self.edit(s)
        if s.pinned & blocks:
            n.pinned &= ~blocks
            n.dirty(blocks)
        yield "", self.done(n, number)

    def evict(self, s: State, number: int, actor: Actor, _: int) -> Iterator[tuple[str, Draft]]:
        """[E9, E13] Clean bytes go; acknowledged ones that the backend keeps become S."""
        n = self.edit(s)
        if self.filling(s):
            yield " passes by", self.done(n, number)
            return
        spared = n.local() if self.rules.eviction_spares_u else n.D | n.W
        leaving = s.T & ~(s.D | s.W)
        if leaving:
            n.S |= leaving
            if self.rules.eviction_keeps_stamp:
                n.staged_stamp = min(n.staged_stamp, s.u)
            n.U &= ~leaving
            n.T &= ~leaving
        n.V &= (spared & ~leaving) | s.pinned
        n.U &= n.V
        n.empty_stamps()
        yield "", self.done(n, number)

    # ------------------------------------------------------------------------------ abort, reconnect

    def abort(self, s: State, number: int, actor: Actor, _: int) -> Iterator[tuple[str, Draft]]:
        """Waits end, calls do not. The server may have forgotten what it had not committed."""
        at_risk = sum(BITS[b] for b in (0, 1) if s.written[b] != s.committed[b])
        for crashed in range(4):
            if crashed & ~at_risk:
                continue
            n = self.edit(s)
            n.aborted, n.generation = True, s.generation + 1
            self.crash(n, crashed)
            n.commit_queued = False
            n.queue = ()
            n.inval_seq(ALL)  # what a fill brings now is not believed
            if not self.rules.abort_leaves_calls_alone:
                n.end_writeback(ALL, ok=False)
                n.calls = self.ended(s)
            self.done(n, number)
            self.end_waits(n)
            if n.token == COMMIT and not n.commit_running:
                n.token_release()
            n.pass_turn()
            if n.token != PASS:
                n.towrite = 0
            yield f", the server forgets {crashed}" if crashed else "", n

    def crash(self, n: Draft, blocks: int) -> None:
        for b in blocks_of(blocks):
            n.written = put(n.written, b, n.committed[b])
            n.safe = put(n.safe, b, n.committed[b])

    def end_waits(self, n: Draft) -> None:
        """[I-23]"""
        for number, actor in enumerate(n.actors):
            if actor.stage == 0:
                continue
            what = self.programs[number][actor.at][0]
            if what == "fill" or (what == "direct" and actor.stage == 2):
                continue
            if n.lock == self.names[number]:
                n.lock = FREE
            if n.token == self.names[number]:
                n.token_release()
            self.done(n, number)

    def reconnect(self, s: State, number: int, actor: Actor, _: int) -> Iterator[tuple[str, Draft]]:
        fenced = self.programs[number][actor.at][0] == "fenced"
        owed_waits = s.truncated and not fenced and (s.calls or s.commit_running)
        if not s.aborted or owed_waits:
            return
        for staging_gone in (False, True) if s.T | s.S else (False,):
            n = self.edit(s)
            n.aborted = False
            if fenced:
                n.fence = s.generation
            if staging_gone:
                n.staged = (0, 0)
                n.T = 0
                lost, n.S = s.S, 0
                n.empty_stamps()
                n.record_loss(lost)
            if self.rules.reconnect_dirties_u:
                n.uncommitted()
            if s.truncated:
                if self.rules.reconnect_repeats_truncate:
                    n.written = put(n.written, 1, s.truncated)
                    n.safe = put(n.safe, 1, s.truncated)
                n.m = min(n.m, s.epoch)
            n.record_loss(s.direct | s.direct_moved | s.holes)
            n.direct = n.direct_moved = n.holes = 0
            yield ", its staging is gone" if staging_gone else "", self.done(n, number)

    # ------------------------------------------------------------------------------ the pass and its answers

    def hand_over(self, s: State) -> Iterator[Step]:
        if s.token != PASS or not s.towrite or s.aborted or s.W:
            return
        n = self.edit(s)
        take = 0
        if s.X:
            n.towrite = 0  # parked: it is left out
        else:
            take = n.begin_writeback()
        if take:
            content = tuple((b, s.memory[b]) for b in blocks_of(take))
            kind = "stage" if self.scenario.staging else "write"
            requests = [(part,) for part in content] if self.scenario.split else [content]
            for request in requests:
                n.calls += (Call(kind, request, s.generation),)
                if any(call.blocks & take for call in s.calls):
                    n.broken = "I-11: two calls carry the same block"
        n.pass_turn()
        yield f"pass: hands over {take}", n.freeze()

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
            self.land(n, call, landing)
            if fault:
                self.spend(n, fault)
            if call.generation == ENDED:
                pass  # nobody waits for it any more
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
            if call.kind == "stage":
                n.staged = put(n.staged, b, version)
                continue
            if version < n.written[b]:
                n.broken = f"I-20: version {version} of block {b} overwrites {n.written[b]}"
            n.written = put(n.written, b, version)

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
        for b in (0, 1):
            n.committed = put(n.committed, b, s.commit_takes[b])
            if s.staged[b] and s.staged[b] == s.commit_takes[b]:
                n.written, n.staged = put(n.written, b, s.staged[b]), put(n.staged, b, 0)
        n.safe = n.committed
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

    def late_commit(self, s: State) -> Iterator[Step]:
        """A success may be that of a server which had forgotten: it made durable what it still had."""
        for ok in (False, True):
            n = self.edit(s)
            if ok and s.commit_generation >= s.fence:
                n.committed = n.safe = s.written
            n.commit_end(ok=ok and not self.rules.late_commit_is_a_failure)
            yield f"commit: {'succeeds' if ok else 'fails'}, late!", n.freeze()

    # ------------------------------------------------------------------------------ faults

    def may(self, s: State, fault: str) -> bool:
        return fault in self.scenario.faults and s.faults[self.faults.index(fault)] > 0

    def spend(self, n: Draft, fault: str) -> None:
        at = self.faults.index(fault)
        n.faults = (*n.faults[:at], n.faults[at] - 1, *n.faults[at + 1 :])
