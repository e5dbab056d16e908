"""The inputs of a model run: the rules of the contract, each of which can be taken away, and a scenario."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RIGHT", "Operation", "Rules", "Scenario"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the contract. Each False is one planted mistake."""

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
    commit_follows_its_bytes: bool = True
    discarded_bytes_are_dropped: bool = True
    # fsync, sync (2.15)
    fsync_checks_everything_again: bool = True
    fsync_checks_w: bool = True
    fsync_checks_m: bool = True
    fsync_checks_staged: bool = True
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
    fill_checks_inval_seq: bool = True
    # abort, reconnect (2.22)
    late_answer_is_dirty: bool = True
    late_commit_is_a_failure: bool = True
    abort_leaves_calls_alone: bool = True
    reconnect_dirties_u: bool = True
    reconnect_repeats_truncate: bool = True
    reconnect_makes_unsent: bool = True
    late_write_misses_the_spool: bool = True
    # loss, eviction, staging (2.16, 2.23)
    loss_is_recorded: bool = True
    loss_invalidates: bool = True
    eviction_spares_u: bool = True
    staging_is_remembered: bool = True
    staging_keeps_stamp: bool = True
    truncate_cuts_staged: bool = True
    truncate_covers_staged: bool = True
    failed_commit_makes_unsent: bool = True
    unsent_bytes_are_sent_again: bool = True
    rollback_dirties_u: bool = True
    rollback_makes_unsent: bool = True
    spool_reads_ask_again: bool = True


RIGHT = Rules()

Operation = tuple[str, int]
"""Name and argument: a mask of blocks, or 0."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The operations of each actor, and the maximum number of faults.

    Attributes:
        programs: actor → operations, one after another.
        faults: kind → how often: fail, parked, short (write-back); commit, kept (commits); direct (direct writes).
        partial: range flushes write back their blocks only, not all of the folio.
        split: a write-back makes one call per block.
        staging: write-backs stage their bytes; `either`: or do not, if they meet nothing staged.
        asks_later: an fsync checks, and starts its commit in a separate step.
        rollback: a discard makes the backend forget its acknowledged bytes.
        loops: actors that restart forever; the others still have to end.
        valid: blocks cached at the beginning.
        versions: off if an actor loops: content would never repeat, so only stamps and waits are checked.
    """

    name: str
    programs: dict[str, tuple[Operation, ...]]
    faults: dict[str, int] = field(default_factory=dict)
    partial: bool = False
    split: bool = False
    staging: bool = False
    either: bool = False
    asks_later: bool = False
    rollback: bool = False
    loops: frozenset[str] = frozenset()
    valid: int = 0

    @property
    def versions(self) -> bool:
        return not self.loops
