"""The state of the model, and what the core does to it: sets, stamps and token of one inode, and the store below it.

    cache   one folio of two blocks: sets V D W U X T S, stamps d w u, staged_stamp (S), m and what a commit took of it
    locks   inode lock X (by whom), token (by whom, who queues)
    calls   in the hands of the backend: they carry the content that they were made with
    store   written   what a read answers             safe       what a failed commit may fall back to
            staged    the backend's private copies    committed  what survives a crash

Content is a version per block: 0 at first, each change of a block (write, truncate, punch, direct write) takes the next
number. So "at least as new" is a comparison. `latest` is what an application may rely on: it is the oracle.

A `Draft` is a state that is being changed; its methods carry the names of the transitions in the core. Where a method
asks `rules`, a planted mistake can take that rule away. Sets are bit masks of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

BLOCKS = (0, 1)
BITS = (1, 2)
ALL = 3
INF = 99  # the stamp of an empty set
FREE = ""  # token and lock
PASS, COMMIT = "pass", "commit"

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the contract says. Each False is one planted mistake."""

    # stamps of folios (1.3)
    partial_hand_over_keeps_d: bool = True
    hand_over_gives_d_to_w: bool = True
    pinned_snapshot_stays_stamped: bool = True
    pinned_snapshot_is_stamped_anew: bool = True
    first_answer_leaves_w: bool = True
    ack_gives_w_to_u: bool = True
    failed_write_keeps_stamp: bool = True
    failed_commit_keeps_stamp: bool = True
    sync_advances_epoch: bool = True
    # bytes (M5, K1, K7)
    ack_leaves_redirtied: bool = True
    failed_write_stays_dirty: bool = True
    short_answer_acknowledges_prefix_only: bool = True
    only_the_return_ends_w: bool = True
    failed_commit_dirties_u: bool = True
    failed_commit_leaves_staged: bool = True
    # commits (2.15, 2.17)
    commit_takes_token: bool = True
    issuing_a_commit_takes_m: bool = True
    failed_commit_restores_m: bool = True
    running_commit_counts: bool = True
    # fsync, sync (2.15)
    fsync_looks_at_everything_again: bool = True
    fsync_looks_at_w: bool = True
    fsync_looks_at_m: bool = True
    fsync_looks_at_staged: bool = True
    failed_bytes_fail_fsync: bool = True
    sync_takes_epoch_first: bool = True
    dirty_list_counts_m: bool = True
    # truncate, punch, direct I/O (2.10, 2.17)
    truncate_takes_token: bool = True
    truncate_stamps_m: bool = True
    truncate_covers_what_it_removes: bool = True
    direct_write_flushes_first: bool = True
    direct_write_commits_unstable_first: bool = True
    direct_write_stamps_m: bool = True
    direct_write_invalidates_again: bool = True
    fill_looks_at_inval_seq: bool = True
    # abort, reconnect (2.22)
    late_answer_is_dirty: bool = True
    late_commit_is_a_failure: bool = True
    abort_leaves_calls_alone: bool = True
    reconnect_dirties_u: bool = True
    reconnect_repeats_truncate: bool = True
    # loss, eviction (2.16, 2.23)
    loss_is_recorded: bool = True
    loss_invalidates: bool = True
    eviction_spares_u: bool = True
    eviction_keeps_stamp: bool = True


RIGHT = Rules()

Operation = tuple[str, int]
"""Name and argument: a mask of blocks, or 0."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who does what, and what may go wrong how often.

    Attributes:
        programs: actor → operations, one after another.
        faults: kind → how often: fail, parked, short (write-back); commit, kept (commits); direct (direct writes).
        partial: range flushes hand over their blocks only, not all of the folio.
        split: a hand-over makes one call per block.
        staging: hand-overs call `stage`.
        loops: actors that begin again for ever; the others have to end all the same.
        valid: blocks cached at the beginning.
        versions: off where an actor loops: content would never repeat, so only stamps and waits are looked at.
    """

    name: str
    programs: dict[str, tuple[Operation, ...]]
    faults: dict[str, int] = field(default_factory=dict)
    partial: bool = False
    split: bool = False
    staging: bool = False
    loops: frozenset[str] = frozenset()
    valid: int = 0

    @property
    def versions(self) -> bool:
        return not self.loops


class Call(NamedTuple):
    """One call that the backend has not returned from."""

    kind: str  # write, stage, direct
    content: tuple[tuple[int, int], ...]  # (block, version)
    generation: int
    actor: int = -1  # of a direct write

    @property
    def blocks(self) -> int:
        return sum(BITS[block] for block, _ in self.content)


class Actor(NamedTuple):
    """Where an actor is in its program, and what its operation remembers."""

    at: int = 0
    stage: int = 0
    stamp: int = 0
    wanted: Pair = (0, 0)  # what an fsync has promised
    value: int = 0  # what a fill has read
    spoiled: bool = False  # inval_seq moved under a fill


class State(NamedTuple):
    """One state of everything."""

    V: int
    D: int
    W: int
    U: int
    X: int
    T: int
    S: int
    d: int
    w: int
    u: int
    staged_stamp: int
    m: int
    m_moved: int
    memory: Pair
    pinned: int
    size: int
    remote_size: int
    epoch: int
    token: str
    queue: tuple[str, ...]
    lock: str
    towrite: int
    calls: tuple[Call, ...]
    commit_queued: bool
    commit_running: bool
    commit_generation: int
    commit_takes: Pair
    aborted: bool
    generation: int
    fence: int
    truncated: int  # version of an uncommitted truncate, 0: none
    holes: int  # uncommitted ones
    direct: int  # uncommitted direct writes
    direct_moved: int  # what a running commit took of them
    written: Pair
    safe: Pair
    staged: Pair
    committed: Pair
    latest: Pair
    clock: Pair
    actors: tuple[Actor, ...]
    faults: tuple[int, ...]
    broken: str  # a rule of history that was broken on the way here


def first_state(scenario: Scenario) -> State:
    actors = tuple(Actor() for _ in scenario.programs)
    none = (0, 0)
    return State(
        V=scenario.valid, D=0, W=0, U=0, X=0, T=0, S=0,
        d=INF, w=INF, u=INF, staged_stamp=INF, m=INF, m_moved=INF,
        memory=none, pinned=0, size=2, remote_size=2, epoch=0,
        token=FREE, queue=(), lock=FREE, towrite=0, calls=(),
        commit_queued=False, commit_running=False, commit_generation=0, commit_takes=none,
        aborted=False, generation=0, fence=0, truncated=0, holes=0, direct=0, direct_moved=0,
        written=none, safe=none, staged=none, committed=none, latest=none, clock=none,
        actors=actors, faults=tuple(scenario.faults.values()), broken="",
    )  # fmt: skip


def put(pair: Pair, block: int, value: int) -> Pair:
    return (value, pair[1]) if block == 0 else (pair[0], value)


def blocks_of(mask: int) -> tuple[int, ...]:
    return ((), (0,), (1,), (0, 1))[mask]


class Draft:
    """A state that is being changed."""

    __slots__ = (*State._fields, "rules", "scenario")

    def __init__(self, state: State, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        (
            self.V, self.D, self.W, self.U, self.X, self.T, self.S,
            self.d, self.w, self.u, self.staged_stamp, self.m, self.m_moved,
            self.memory, self.pinned, self.size, self.remote_size, self.epoch,
            self.token, self.queue, self.lock, self.towrite, self.calls,
            self.commit_queued, self.commit_running, self.commit_generation, self.commit_takes,
            self.aborted, self.generation, self.fence, self.truncated, self.holes,
            self.direct, self.direct_moved,
            self.written, self.safe, self.staged, self.committed, self.latest, self.clock,
            self.actors, self.faults, self.broken,
        ) = state  # fmt: skip

    def freeze(self) -> State:
        return State(
            self.V, self.D, self.W, self.U, self.X, self.T, self.S,
            self.d, self.w, self.u, self.staged_stamp, self.m, self.m_moved,
            self.memory, self.pinned, self.size, self.remote_size, self.epoch,
            self.token, self.queue, self.lock, self.towrite, self.calls,
            self.commit_queued, self.commit_running, self.commit_generation, self.commit_takes,
            self.aborted, self.generation, self.fence, self.truncated, self.holes,
            self.direct, self.direct_moved,
            self.written, self.safe, self.staged, self.committed, self.latest, self.clock,
            self.actors, self.faults, self.broken,
        )  # fmt: skip

    # ------------------------------------------------------------------ token and pass (lock.c, writeback.c)

    def token_take(self, who: str) -> None:
        if self.token == FREE and not self.queue:
            self.token = who
        else:
            self.queue += (who,)

    def token_release(self) -> None:
        self.token = FREE
        if self.queue:
            self.token, self.queue = self.queue[0], self.queue[1:]
        self.pass_turn()

    def pass_turn(self) -> None:
        """A pass that has nothing to do any more ends."""
        if self.token == PASS and not any(call.kind != "direct" for call in self.calls):
            if self.aborted:
                self.towrite = 0
            if not self.towrite:
                self.token_release()

    def flush_start(self, stamp: int, blocks: int) -> None:
        """Mark what was dirtied up to the stamp, and get it written."""
        if self.D & blocks and self.d <= stamp and not self.X:
            self.towrite |= blocks & self.D if self.scenario.partial else ALL
            if self.token != PASS and PASS not in self.queue:
                self.token_take(PASS)

    # ------------------------------------------------------------------ sets and stamps (folio.c)

    def changed(self, blocks: int) -> None:
        """The next version of these blocks, and what an application may rely on from here on."""
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
        """[E4] D to W, in one section. Return: the blocks handed over."""
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
            self.U |= blocks
            self.T = self.T | blocks if staged else self.T & ~blocks
            self.u = min(self.u, self.w if self.rules.ack_gives_w_to_u else self.epoch)
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
        for name in ("D", "U", "X", "T", "S"):
            setattr(self, name, getattr(self, name) & ~blocks)
        self.V &= ~blocks
        self.pinned &= ~blocks
        self.empty_stamps()

    def empty_stamps(self) -> None:
        """A stamp without bytes is none [I-3]."""
        self.d = self.d if self.D else INF
        self.u = self.u if self.U else INF
        self.staged_stamp = self.staged_stamp if self.S else INF

    def uncommitted(self) -> None:
        """[E7] U∖T is dirty again, with its old stamp."""
        back = self.U & ~self.T
        if back:
            self.D |= back
            self.U &= ~back
            self.d = min(self.d, self.u if self.rules.failed_commit_keeps_stamp else self.epoch)
        self.empty_stamps()

    def invalidate(self, blocks: int) -> None:
        """V shrinks to L in these blocks, and fills that run are not believed."""
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

    # ------------------------------------------------------------------ commits (collect.c)

    def commit_start(self) -> None:
        if not self.commit_queued and not self.commit_running and not self.aborted:
            self.commit_queued = True
            if self.rules.commit_takes_token:
                self.token_take(COMMIT)

    def commit_begin(self) -> None:
        self.commit_queued = False
        if not self.U | self.S and self.m == INF:
            self.commit_over()
            return
        self.commit_running = True
        self.commit_generation = self.generation
        self.m_moved, self.direct_moved, self.direct = self.m, self.direct, 0
        if self.rules.issuing_a_commit_takes_m:
            self.m = INF
        self.commit_takes = self.stored()

    def stored(self) -> Pair:
        """What a commit makes durable now."""
        return self.staged[0] or self.written[0], self.staged[1] or self.written[1]

    def commit_end(self, ok: bool, kept: bool = False) -> None:
        """[E7] Sets, stamps and m; what became of the store is the caller's affair."""
        if ok:
            self.U = self.T = self.S = 0
            self.empty_stamps()
            self.truncated = self.holes = 0
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

    # ------------------------------------------------------------------ truncate, loss (truncate.c, ending.py)

    def cut(self, blocks: int) -> None:
        """Truncate and punch, in the store and here: the blocks are zeros."""
        if self.rules.truncate_stamps_m:
            self.m = min(self.m, self.epoch)
            if self.rules.truncate_covers_what_it_removes:
                self.m = min(
                    self.m,
                    self.d if self.D & blocks else INF,
                    self.u if self.U & blocks else INF,
                    self.staged_stamp if self.S & blocks else INF,
                )
        self.changed(blocks)
        for b in blocks_of(blocks):
            self.written = put(self.written, b, self.clock[b])
            self.safe = put(self.safe, b, self.clock[b])
            self.staged = put(self.staged, b, 0)
        self.forget_local(blocks)
        self.inval_seq(blocks)

    def record_loss(self, blocks: int) -> None:
        """Nobody may rely on these blocks any more, beyond what is committed: each handle is told."""
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
