"""The state of the model, and the core's operations on it: sets, stamps and token of one inode, and the store below it.

    cache   one folio of two blocks: sets V D W U X S, stamps d w u, staged_stamp (S), m and the part of it in a commit;
            gone: bytes that were discarded and may be stored
    locks   inode lock X (its holder), token (its holder, its queue)
    calls   in flight in the backend: they carry the content that they were made with
    store   written   the answer of a read            safe       the fallback of a failed commit
            committed the content after a crash
    spool   spool     the content of S                unsent     blocks that the store has forgotten

Content is a version per block: 0 at first, each change of a block (write, truncate, punch, direct write) takes the next
number. So "at least as new" is a comparison. `latest` is the content that an application may rely on: it is the oracle.

A `Draft` is a state that is being changed; its methods carry the names of the transitions in the core. If a method
checks `rules`, a planted mistake can take that rule away. Sets are bit masks of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import NamedTuple

from .rules import Rules, Scenario

BLOCKS = (0, 1)
BITS = (1, 2)
ALL = 3
INF = 99  # the stamp of an empty set
FREE = ""  # token and lock
PASS, COMMIT = "pass", "commit"

Pair = tuple[int, int]


class Call(NamedTuple):
    """One call that the backend has not returned from."""

    kind: str  # write, stage, direct
    content: tuple[tuple[int, int], ...]  # (block, version)
    generation: int
    actor: int = -1  # of a direct write
    beside: tuple[tuple[int, int], ...] = ()  # the dirty neighbours in the unit, which stay dirty

    @property
    def blocks(self) -> int:
        return sum(BITS[block] for block, _ in self.content)


class Actor(NamedTuple):
    """An actor's place in its program, and the values of its current operation."""

    at: int = 0
    stage: int = 0
    stamp: int = 0
    wanted: Pair = (0, 0)  # the promise of an fsync
    value: int = 0  # the result of a fill's read
    spoiled: bool = False  # inval_seq moved under a fill


NONE: Pair = (0, 0)


@dataclass(slots=True, unsafe_hash=True)
class State:
    """One state of everything; the defaults are those of the first one."""

    V: int
    D: int = 0
    W: int = 0
    U: int = 0
    X: int = 0
    S: int = 0
    d: int = INF
    w: int = INF
    u: int = INF
    staged_stamp: int = INF
    m: int = INF
    m_moved: int = INF
    gone: int = 0
    memory: Pair = NONE
    pinned: int = 0
    size: int = 2
    remote_size: int = 2
    epoch: int = 0
    token: str = FREE
    queue: tuple[str, ...] = ()
    lock: str = FREE
    towrite: int = 0
    calls: tuple[Call, ...] = ()
    commit_queued: bool = False
    commit_running: bool = False
    commit_generation: int = 0
    commit_takes: Pair = NONE
    commit_wanted: bool = False
    wanted_stamp: int = -1  # of callers that had seen their bytes acknowledged; -1: none
    aborted: bool = False
    generation: int = 0
    fence: int = 0
    truncated: int = 0  # version of an uncommitted truncate, 0: none
    holes: int = 0  # uncommitted ones
    direct: int = 0  # uncommitted direct writes
    direct_moved: int = 0  # the part taken by a running commit
    written: Pair = NONE
    safe: Pair = NONE
    spool: Pair = NONE
    unsent: int = 0
    committed: Pair = NONE
    latest: Pair = NONE
    clock: Pair = NONE
    actors: tuple[Actor, ...] = ()
    faults: tuple[int, ...] = ()
    broken: str = ""  # a rule of history that was broken on the way here


values = attrgetter(*(field.name for field in fields(State)))


def first_state(scenario: Scenario) -> State:
    actors = tuple(Actor() for _ in scenario.programs)
    return State(V=scenario.valid, actors=actors, faults=tuple(scenario.faults.values()))


def put(pair: Pair, block: int, value: int) -> Pair:
    return (value, pair[1]) if block == 0 else (pair[0], value)


def blocks_of(mask: int) -> tuple[int, ...]:
    return ((), (0,), (1,), (0, 1))[mask]


class Draft(State):
    """A state that is being changed."""

    __slots__ = ("rules", "scenario")

    def __init__(self, state: State, scenario: Scenario, rules: Rules) -> None:
        super().__init__(*values(state))
        self.scenario, self.rules = scenario, rules

    def freeze(self) -> State:
        return State(*values(self))

    # ------------------------------------------------------------------ token and pass (lock.c, writeback.c)

    def token_take(self, actor: str) -> None:
        if self.token == FREE and not self.queue:
            self.token = actor
        else:
            self.queue += (actor,)

    def token_release(self) -> None:
        self.token = FREE
        if self.queue:
            self.token, self.queue = self.queue[0], self.queue[1:]
        self.pass_turn()

    def pass_turn(self) -> None:
        """End a pass that has nothing left to do."""
        if self.token == PASS and not any(call.kind != "direct" for call in self.calls):
            if self.aborted:
                self.towrite = 0
            if not self.towrite:
                self.token_release()

    def flush_start(self, stamp: int, blocks: int) -> None:
        """Mark blocks dirtied up to the stamp, and start their write-back."""
        if self.D & blocks and self.d <= stamp and not self.X:
            self.towrite |= blocks & self.D if self.scenario.partial else ALL
            if self.token != PASS and PASS not in self.queue:
                self.token_take(PASS)

    # ------------------------------------------------------------------ sets and stamps (folio.c)

    def changed(self, blocks: int) -> None:
        """Make the next version of these blocks, on which an application may rely from here on."""
        if self.scenario.versions:
            for b in blocks_of(blocks):
                self.clock = put(self.clock, b, self.clock[b] + 1)
                self.latest = put(self.latest, b, self.clock[b])

    def dirty(self, blocks: int) -> None:
        """[E3]"""
        self.V |= blocks
        self.D |= blocks
        self.d = min(self.d, self.epoch)

    def begin_writeback(self) -> int:
        """[E4] Move D to W, in one section. Return: the blocks written back."""
        whole = not self.scenario.partial or self.D & self.pinned
        take = self.D if whole else self.D & self.towrite
        self.towrite = 0 if whole else self.towrite & ~take & self.D
        if not take:
            return 0
        held = self.D & self.pinned & take
        self.W |= take
        self.D = self.D & ~take | held
        self.w = min(self.w, self.d if self.rules.hand_over_gives_d_to_w else self.epoch)
        if not self.D or (held and not self.rules.pinned_snapshot_stays_stamped):
            self.d = INF
        elif held and self.rules.pinned_snapshot_is_stamped_anew:
            self.d = self.epoch
        elif not held and not self.rules.partial_hand_over_keeps_d:
            self.d = INF
        return take

    def end_writeback(self, blocks: int, *, ok: bool, parked: bool = False, staged: bool = False) -> None:
        """[E5, E6]"""
        blocks &= self.W
        if not blocks:
            return
        if ok:
            if not staged:
                self.U |= blocks
                self.u = min(self.u, self.w if self.rules.ack_gives_w_to_u else self.epoch)
            elif self.rules.staging_is_remembered:
                self.S |= blocks
                self.staged_stamp = min(self.staged_stamp, self.w if self.rules.staging_keeps_stamp else self.epoch)
            self.remote_size = max(self.remote_size, 2 if blocks & 2 else 1)
            if not self.rules.ack_leaves_redirtied:
                self.D &= ~blocks
                self.d = self.d if self.D else INF
        elif self.rules.failed_write_stays_dirty:
            self.D |= blocks
            self.X |= blocks if parked else 0
            self.d = min(self.d, self.w if self.rules.failed_write_keeps_stamp else self.epoch)
        self.W &= ~blocks
        if not self.W or not self.rules.first_answer_leaves_w:
            self.w = INF

    def forget_local(self, blocks: int) -> None:
        """[E8] Bytes leave L without I/O."""
        for name in ("D", "U", "X"):
            setattr(self, name, getattr(self, name) & ~blocks)
        self.V &= ~blocks
        self.pinned &= ~blocks
        self.empty_stamps()

    def empty_stamps(self) -> None:
        """Clear stamps without bytes [I-3]."""
        self.d = self.d if self.D else INF
        self.u = self.u if self.U else INF
        self.staged_stamp = self.staged_stamp if self.S else INF

    def uncommitted(self) -> None:
        """[E7] Make U dirty again, with its old stamp."""
        if self.U:
            self.D |= self.U
            self.U = 0
            self.d = min(self.d, self.u if self.rules.failed_commit_keeps_stamp else self.epoch)
        self.empty_stamps()

    def invalidate(self, blocks: int) -> None:
        """Shrink V to L in these blocks, and invalidate running fills."""
        self.V &= ~blocks | self.local()
        self.inval_seq(blocks)

    def inval_seq(self, blocks: int) -> None:
        actors = []
        for number, actor in enumerate(self.actors):
            operations = list(self.scenario.programs.values())[number]
            if actor.stage and actor.at < len(operations) and operations[actor.at][0] == "fill":
                actor = actor._replace(spoiled=actor.spoiled or bool(operations[actor.at][1] & blocks))
            actors.append(actor)
        self.actors = tuple(actors)

    def local(self) -> int:
        return self.D | self.W | self.U

    # ------------------------------------------------------------------ commits (commit.c)

    def commit_start(self, stamp: int = -1) -> None:
        if not self.commit_running and not self.aborted:
            self.commit_wanted = True
            self.wanted_stamp = max(self.wanted_stamp, stamp)
            if self.rules.commit_takes_token and not self.commit_queued:
                self.token_take(COMMIT)
            self.commit_queued = True

    def commit_begin(self) -> None:
        """Begin a commit, if it is requested and there is something to commit."""
        self.commit_queued = False
        early = min(self.d, self.w) <= self.wanted_stamp
        commit_wanted, self.commit_wanted, self.wanted_stamp = self.commit_wanted, False, -1
        if early and self.rules.commit_follows_its_bytes:
            commit_wanted = False
        if not commit_wanted or (not self.U | self.S and self.m == INF):
            self.commit_over()
            return
        if early:
            self.broken = "2.15: a commit begins before the bytes of its requester"
        self.commit_running = True
        self.commit_generation = self.generation
        self.m_moved, self.direct_moved, self.direct = self.m, self.direct, 0
        if self.rules.issuing_a_commit_takes_m:
            self.m = INF
        for b in blocks_of(self.S & self.unsent if self.rules.unsent_bytes_are_sent_again else 0):
            self.written = put(self.written, b, self.spool[b])
        self.unsent = 0
        self.commit_takes = self.written

    def commit_end(self, ok: bool, kept: bool = False) -> None:
        """[E7] Update sets, stamps and m; the caller updates the store."""
        if self.gone and not kept and self.rules.discarded_bytes_are_dropped:
            self.invalidate(self.gone)
        if ok:
            self.U = self.S = self.gone = 0
            self.empty_stamps()
            self.truncated = self.holes = 0
            self.spool = (0, 0)
            if not self.rules.issuing_a_commit_takes_m:
                self.m = INF
        else:
            if self.rules.failed_commit_restores_m:
                self.m = min(self.m, self.m_moved)
            self.direct |= self.direct_moved  # until a commit succeeds: the next failure may forget them as well
            if not kept:
                self.record_loss(self.direct)
            if not kept and self.rules.failed_commit_dirties_u:
                self.uncommitted()
            if not kept and self.rules.failed_commit_makes_unsent:
                self.unsent = self.S
            if not kept and not self.rules.failed_commit_leaves_staged:
                self.S = 0
                self.empty_stamps()
        self.m_moved, self.direct_moved = INF, 0
        self.commit_running = False
        self.commit_takes = (0, 0)
        self.commit_generation = 0
        self.commit_over()

    def commit_over(self) -> None:
        if self.rules.commit_takes_token:
            self.token_release()

    # ------------------------------------------------------------------ truncate, loss (truncate.c, detach.py)

    def cut(self, blocks: int) -> None:
        """Truncate and punch, in the store and in the cache: the blocks are zeros."""
        if self.rules.truncate_stamps_m:
            self.m = min(self.m, self.epoch)
            if self.rules.truncate_covers_what_it_removes:
                self.m = min(
                    self.m,
                    self.d if self.D & blocks else INF,
                    self.u if self.U & blocks else INF,
                    self.staged_stamp if self.S & blocks and self.rules.truncate_covers_staged else INF,
                )
        self.changed(blocks)
        for b in blocks_of(blocks):
            self.written = put(self.written, b, self.clock[b])
            self.safe = put(self.safe, b, self.clock[b])
            self.spool = put(self.spool, b, 0)
        if self.rules.truncate_cuts_staged:
            self.S &= ~blocks
        self.forget_local(blocks)
        self.inval_seq(blocks)

    def discard(self, blocks: int) -> None:
        """[E12] Discard blocks. Their acknowledged bytes may be stored, or not, once the next commit has ended."""
        sent = self.U | self.S
        if sent and self.scenario.unit and self.rules.neighbours_may_be_stored:
            sent |= self.D
        if sent & blocks:
            self.gone |= sent & blocks
            self.m = min(self.m, self.epoch, self.d, self.u, self.staged_stamp)
        self.S &= ~blocks
        self.forget_local(blocks)
        self.inval_seq(blocks)
        self.record_loss(blocks)
        if self.scenario.rollback and self.gone & blocks:
            self.roll_back()

    # ------------------------------------------------------------------ rollback (staging.py, file.py)

    def roll_back(self) -> None:
        """Roll the backend back to the committed content, and repeat truncates. The token is held."""
        if self.rules.rollback_dirties_u:
            self.uncommitted()
        if self.rules.rollback_makes_unsent:
            self.unsent = self.S
        self.written = self.safe = self.committed
        if self.truncated:
            self.written = put(self.written, 1, self.truncated)
            self.safe = self.written
        else:
            self.m = INF
            self.gone = 0
        self.invalidate(ALL)

    def record_loss(self, blocks: int) -> None:
        """Allow these blocks to fall back to the committed content: each handle reports the loss."""
        if not self.rules.loss_is_recorded:
            return
        for b in blocks_of(blocks):
            newest, safe = self.latest[b], self.committed[b]
            local = bool(self.local() & BITS[b])  # written again since: that is not lost
            self.actors = tuple(
                actor._replace(wanted=put(actor.wanted, b, min(actor.wanted[b], safe)))
                if actor.wanted[b] < newest or not local
                else actor
                for actor in self.actors
            )
            self.latest = put(self.latest, b, newest if local else safe)
        if self.rules.loss_invalidates:
            self.invalidate(blocks)
