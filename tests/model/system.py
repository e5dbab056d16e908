"""Every next step from a state: of actors, and by environment.py of the pass, of commits, of the backend.

A step is one section of the core under the leaf lock, or one call of the backend at its decisive moment. Waiting is no
step: a waiting actor has none, so a state without steps in which an actor waits is a deadlock.

    fsync    0 take the epoch → 1 flush: mark, wait → 2 check (→ 4) commit: start, wait → done, or again
    sync     as fsync, after a check of the dirty list
    flush    0 take the epoch → 1 mark, wait for the range
    direct   0 lock → 1 flush, commit, invalidate, send → 2 answer: invalidate, stamp m, unlock
    fill     0 start → 1 read, or 4 read the spool → 2 validate, or again
    discard  0 queue for the token → 1 discard, roll back

Labels begin with the stepping actor; a `!` marks optional steps of the environment: faults, late answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from .environment import Environment, Step
from .rules import Rules, Scenario
from .state import ALL, BITS, COMMIT, FREE, INF, PASS, Actor, Call, Draft, State, blocks_of, put

__all__ = ["System"]


class System(Environment):
    """One scenario under one set of rules."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        super().__init__(scenario, rules)
        self.names = list(scenario.programs)
        self.programs = list(scenario.programs.values())
        self.operations = {
            "write": self.write, "background": self.background, "flush": self.flush, "fsync": self.fsync,
            "sync": self.fsync, "commit": self.commit, "truncate": self.cut, "punch": self.cut, "direct": self.direct,
            "fill": self.fill, "view": self.view, "store": self.store, "release": self.release, "evict": self.evict,
            "discard": self.discard, "abort": self.abort, "reconnect": self.reconnect, "fenced": self.reconnect,
        }  # fmt: skip

    def steps(self, s: State) -> Iterator[Step]:
        for number, actor in enumerate(s.actors):
            if actor.at < len(self.programs[number]):
                what, blocks = self.programs[number][actor.at]
                for note, draft in self.operations[what](s, number, actor, blocks):
                    yield f"{self.names[number]}: {what}{blocks or ''}{note}", draft.freeze()
        yield from self.own_steps(s)

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
        """Return whether a fill owns the folio lock: writers, reclaim, truncate and punch wait for it or skip the
        folio.
        """
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
        n.X = 0  # a sync resumes parked blocks
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
        """Return whether the file is on its volume's dirty list. [I-13]"""
        return bool(s.D | s.W | s.U | s.S) or (self.rules.dirty_list_counts_m and min(s.m, s.m_moved) < INF)

    def commit_needed(self, s: State, stamp: int) -> bool:
        return (
            s.u <= stamp
            or (self.rules.fsync_checks_staged and s.staged_stamp <= stamp)
            or (self.rules.fsync_checks_m and s.m <= stamp)
        )

    def fsync(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        if s.aborted:
            return
        n = self.edit(s)
        stamp = actor.stamp
        pending = s.d <= stamp or (self.rules.fsync_checks_w and s.w <= stamp)
        if actor.stage == 0:
            yield from self.sync_begins(s, number, actor)
        elif actor.stage == 3:  # the file was not on the dirty list
            yield from self.synced(s, number, actor)
        elif actor.stage == 1 and not pending:
            yield " flushed", self.go(n, number, stage=2)
        elif actor.stage == 1:
            if s.d <= stamp:
                yield from self.mark(s, number, actor, ALL)
        elif actor.stage == 4:
            n.commit_start(stamp)
            yield " starts a commit", self.go(n, number, stage=2)
        elif pending and self.rules.fsync_checks_everything_again and not s.X:
            yield " flushes again", self.go(n, number, stage=1)
        elif self.commit_needed(s, stamp):
            if s.commit_running or (s.commit_wanted and s.wanted_stamp >= stamp):
                return
            if self.scenario.asks_later:
                yield " wants a commit", self.go(n, number, stage=4)
            else:
                n.commit_start(stamp)
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
        """Truncate block 1, or punch the given block."""
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
        elif actor.stage == 1 and s.S & blocks:
            yield " asks for staged bytes", self.go(n, number, stage=4)
        elif actor.stage == 1:
            yield " reads", self.go(n, number, stage=2, value=s.written[block])
        elif actor.stage == 4:
            yield from self.read_staged(s, number, blocks)
        elif actor.stage == 2:
            if s.V & blocks:
                yield " came second", self.done(n, number)
            elif actor.spoiled and self.rules.fill_checks_inval_seq:
                yield " reads again", self.go(n, number, stage=0, value=0, spoiled=False)
            else:
                n.V |= blocks
                n.memory = put(n.memory, block, actor.value)
                yield " validates", self.done(n, number)

    def read_staged(self, s: State, number: int, blocks: int) -> Iterator[tuple[str, Draft]]:
        """Read staged blocks. One that is staged no longer is in the object, or was cut."""
        n = self.edit(s)
        if s.aborted:
            yield " ends", self.done(n, number)
        elif s.S & blocks or not self.rules.spool_reads_ask_again:
            yield " reads", self.go(n, number, stage=2, value=s.spool[blocks >> 1])
        else:
            yield " asks again", self.go(n, number, stage=1)

    def view(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        if s.lock == FREE and not s.W & blocks and not self.filling(s):
            n = self.edit(s)
            for b in blocks_of(blocks & ~s.V):  # filled first
                n.memory = put(n.memory, b, s.written[b])
            n.pinned |= blocks
            n.dirty(blocks)
            yield "", self.done(n, number)

    def store(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        """Store through the memory of a view: no other part of the model notices."""
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
        """[E9] Evict clean bytes, including staged ones."""
        n = self.edit(s)
        if self.filling(s):
            yield " passes by", self.done(n, number)
            return
        spared = n.local() if self.rules.eviction_spares_u else n.D | n.W
        n.V &= spared | s.pinned
        n.U &= n.V
        n.empty_stamps()
        yield "", self.done(n, number)

    def discard(self, s: State, number: int, actor: Actor, blocks: int) -> Iterator[tuple[str, Draft]]:
        me = self.names[number]
        n = self.edit(s)
        if s.aborted:
            return
        if actor.stage == 0:
            n.token_take(me)
            yield " waits for the token", self.go(n, number, stage=1)
        elif s.token == me:
            n.discard(blocks)
            n.token_release()
            yield "", self.done(n, number)

    # ------------------------------------------------------------------------------ abort, reconnect

    def abort(self, s: State, number: int, actor: Actor, _: int) -> Iterator[tuple[str, Draft]]:
        """End all waits, but not the calls. The server may have forgotten its uncommitted bytes."""
        at_risk = sum(BITS[b] for b in (0, 1) if s.written[b] != s.committed[b])
        for crashed in range(4):
            if crashed & ~at_risk:
                continue
            n = self.edit(s)
            n.aborted, n.generation = True, s.generation + 1
            self.crash(n, crashed)
            n.commit_queued = n.commit_wanted = False
            n.wanted_stamp = -1
            n.queue = ()
            n.inval_seq(ALL)  # the result of a running fill is invalid
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
        n = self.edit(s)
        n.aborted = False
        if fenced:
            n.fence = s.generation
        self.start_anew(n)
        yield "", self.done(n, number)

    def start_anew(self, n: Draft) -> None:
        """Connect to the new backend. It has the committed bytes, and perhaps more: uncommitted ones never count."""
        if self.rules.reconnect_dirties_u:
            n.uncommitted()
        if self.rules.reconnect_makes_unsent:
            n.unsent = n.S
        n.invalidate(n.gone)
        if n.truncated:
            if self.rules.reconnect_repeats_truncate:
                n.written = put(n.written, 1, n.truncated)
                n.safe = put(n.safe, 1, n.truncated)
            n.m = min(n.m, n.epoch)
        n.record_loss(n.direct | n.direct_moved | n.holes)
        n.direct = n.direct_moved = n.holes = 0
