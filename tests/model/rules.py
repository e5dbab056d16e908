"""The inputs of a model run: the rules of the contract, each of which can be taken away, and a scenario."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

__all__ = ["RIGHT", "RULES", "Operation", "Rules", "Scenario"]


# rule of the contract: (the promise that breaks without it, a scenario that shows it)
RULES = {
    # stamps of folios (1.3)
    "partial_hand_over_keeps_d": ("I-18", "range flush of a part, two fsyncs"),
    "hand_over_gives_d_to_w": ("I-18", "failing write-back, one call per block"),
    "pinned_snapshot_stays_stamped": ("I-18", "view"),
    "pinned_snapshot_is_stamped_anew": ("endless", "endless view"),
    "first_answer_leaves_w": ("I-18", "failing write-back, one call per block"),
    "ack_gives_w_to_u": ("I-18", "failing commits"),
    "failed_write_keeps_stamp": ("I-18", "short answers"),
    "failed_commit_keeps_stamp": ("I-18", "failing commits"),
    "sync_advances_epoch": ("endless", "endless writer"),
    # bytes (M5, K1, K7)
    "ack_leaves_redirtied": ("I-22", "range flush of a part, two fsyncs"),
    "failed_write_stays_dirty": ("I-22", "failing write-back, one call per block"),
    "short_answer_acknowledges_prefix_only": ("I-22", "short answers"),
    "only_the_return_ends_w": ("I-20", "short answers"),
    "failed_commit_dirties_u": ("I-22", "failing commits"),
    "failed_commit_leaves_staged": ("I-22", "staged bytes"),
    # commits (2.15, 2.17)
    "commit_takes_token": ("I-22", "failing commits"),
    "issuing_a_commit_takes_m": ("I-22", "direct write returns while a commit runs"),
    "failed_commit_restores_m": ("I-22", "truncate, failing commits"),
    "running_commit_counts": ("I-18", "punch, two fsyncs"),
    "commit_follows_its_bytes": ("2.15", "commits that fail between a look and a commit"),
    "discarded_bytes_are_dropped": ("T-75a", "discard of acknowledged bytes, failing commits"),
    "neighbours_may_be_stored": ("T-75a", "discard beside acknowledged bytes of a unit, failing commits"),
    # fsync, sync (2.15)
    "fsync_checks_everything_again": ("I-18", "failing commits"),
    "fsync_checks_w": ("I-18", "range flush of a part, two fsyncs"),
    "fsync_checks_m": ("I-18", "punch, two fsyncs"),
    "fsync_checks_staged": ("I-18", "staged bytes"),
    "failed_bytes_fail_fsync": ("I-18", "failing write-back, one call per block"),
    "sync_takes_epoch_first": ("I-19", "sync beside a writer"),
    "dirty_list_counts_m": ("I-19", "sync beside a writer"),
    # truncate, punch, direct I/O (2.10, 2.17)
    "truncate_takes_token": ("I-20", "truncate, failing commits"),
    "truncate_stamps_m": ("I-22", "truncate, failing commits"),
    "truncate_covers_what_it_removes": ("I-19", "sync beside a writer"),
    "direct_write_flushes_first": ("I-20", "direct write over acknowledged bytes"),
    "direct_write_commits_unstable_first": ("I-20", "direct write over acknowledged bytes"),
    "direct_write_stamps_m": ("I-22", "direct write over acknowledged bytes"),
    "direct_write_invalidates_again": ("T-75a", "fill beside a direct write"),
    "fill_checks_inval_seq": ("T-75a", "fill beside a direct write"),
    # abort, reconnect (2.22)
    "late_answer_is_dirty": ("I-22", "abort and reconnect, late answers"),
    "late_commit_is_a_failure": ("I-22", "abort and reconnect, late answers"),
    "abort_leaves_calls_alone": ("I-20", "abort and reconnect, late answers"),
    "reconnect_dirties_u": ("I-22", "abort and reconnect, late answers"),
    "reconnect_repeats_truncate": ("I-22", "abort, truncate, reconnect"),
    "reconnect_makes_unsent": ("I-22", "staged bytes, abort and reconnect"),
    "late_write_misses_the_spool": ("I-1", "staged bytes, abort and fenced reconnect"),
    # loss, eviction, staging (2.16, 2.23)
    "loss_is_recorded": ("I-22", "direct write returns while a commit runs"),
    "loss_invalidates": ("T-75a", "fill beside a direct write"),
    "eviction_spares_u": ("I-22", "reclaim beside failing commits"),
    "staging_is_remembered": ("I-22", "staged bytes"),
    "staging_keeps_stamp": ("I-18", "staged bytes"),
    "truncate_cuts_staged": ("I-1", "staged bytes, truncate"),
    "truncate_covers_staged": ("I-18", "staged bytes, truncate"),
    "failed_commit_makes_unsent": ("I-22", "staged bytes"),
    "unsent_bytes_are_sent_again": ("I-22", "staged bytes"),
    "rollback_dirties_u": ("I-22", "discard of staged bytes, rollback"),
    "rollback_makes_unsent": ("I-22", "discard of staged bytes, rollback"),
    "spool_reads_ask_again": ("T-75a", "staged bytes"),
}


class Rules:
    """The rules that hold: an attribute each, False for the one that is taken away as a planted mistake."""

    def __init__(self, without: str = "") -> None:
        for rule in RULES:
            setattr(self, rule, rule != without)

    if TYPE_CHECKING:

        def __getattr__(self, rule: str) -> bool: ...


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
        unit: the blocks are one write unit: a write-back of one sends the other along.
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
    unit: bool = False
    staging: bool = False
    either: bool = False
    asks_later: bool = False
    rollback: bool = False
    loops: frozenset[str] = frozenset()
    valid: int = 0

    @property
    def versions(self) -> bool:
        return not self.loops
