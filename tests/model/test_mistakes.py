"""A checker that finds nothing proves nothing: each rule of the model is taken out once, and that has to be found.

A mistake is found by a promise that breaks, or by an invariant of the contract; the entry says which, and in which
scenario. The other invariants are left out, so that the finding shows the purpose of the rule and not a symptom on the
way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from .checker import PROPERTIES, explore
from .rules import RIGHT, Rules
from .scenarios import SCENARIOS

# rule: (the promise that breaks without it, the scenario)
MISTAKES = {
    "partial_hand_over_keeps_d": ("I-18", "range flush of a part, two fsyncs"),
    "hand_over_gives_d_to_w": ("I-18", "failing write-back, one call per block"),
    "pinned_snapshot_stays_stamped": ("I-18", "view"),
    "pinned_snapshot_is_stamped_anew": ("endless", "endless view"),
    "first_answer_leaves_w": ("I-18", "failing write-back, one call per block"),
    "ack_gives_w_to_u": ("I-18", "failing commits"),
    "failed_write_keeps_stamp": ("I-18", "short answers"),
    "failed_commit_keeps_stamp": ("I-18", "failing commits"),
    "sync_advances_epoch": ("endless", "endless writer"),
    "ack_leaves_redirtied": ("I-22", "range flush of a part, two fsyncs"),
    "failed_write_stays_dirty": ("I-22", "failing write-back, one call per block"),
    "short_answer_acknowledges_prefix_only": ("I-22", "short answers"),
    "only_the_return_ends_w": ("I-20", "short answers"),
    "failed_commit_dirties_u": ("I-22", "failing commits"),
    "failed_commit_leaves_staged": ("I-22", "staged bytes"),
    "commit_takes_token": ("I-22", "failing commits"),
    "issuing_a_commit_takes_m": ("I-22", "direct write returns while a commit runs"),
    "failed_commit_restores_m": ("I-22", "truncate, failing commits"),
    "running_commit_counts": ("I-18", "punch, two fsyncs"),
    "fsync_checks_everything_again": ("I-18", "failing commits"),
    "fsync_checks_w": ("I-18", "range flush of a part, two fsyncs"),
    "fsync_checks_m": ("I-18", "punch, two fsyncs"),
    "fsync_checks_staged": ("I-18", "staged bytes"),
    "failed_bytes_fail_fsync": ("I-18", "failing write-back, one call per block"),
    "sync_takes_epoch_first": ("I-19", "sync beside a writer"),
    "dirty_list_counts_m": ("I-19", "sync beside a writer"),
    "truncate_takes_token": ("I-20", "truncate, failing commits"),
    "truncate_stamps_m": ("I-22", "truncate, failing commits"),
    "truncate_covers_what_it_removes": ("I-19", "sync beside a writer"),
    "direct_write_flushes_first": ("I-20", "direct write over acknowledged bytes"),
    "direct_write_commits_unstable_first": ("I-20", "direct write over acknowledged bytes"),
    "direct_write_stamps_m": ("I-22", "direct write over acknowledged bytes"),
    "direct_write_invalidates_again": ("T-75a", "fill beside a direct write"),
    "fill_checks_inval_seq": ("T-75a", "fill beside a direct write"),
    "abort_leaves_calls_alone": ("I-20", "abort and reconnect, late answers"),
    "late_answer_is_dirty": ("I-22", "abort and reconnect, late answers"),
    "late_commit_is_a_failure": ("I-22", "abort and reconnect, late answers"),
    "reconnect_dirties_u": ("I-22", "abort and reconnect, late answers"),
    "reconnect_repeats_truncate": ("I-22", "abort, truncate, reconnect"),
    "loss_is_recorded": ("I-22", "direct write returns while a commit runs"),
    "loss_invalidates": ("T-75a", "fill beside a direct write"),
    "eviction_spares_u": ("I-22", "reclaim beside failing commits"),
    "commit_follows_its_bytes": ("2.15", "commits that fail between a look and a commit"),
    "discarded_bytes_are_dropped": ("T-75a", "discard of acknowledged bytes, failing commits"),
    "reconnect_makes_unsent": ("I-22", "staged bytes, abort and reconnect"),
    "late_write_misses_the_spool": ("I-1", "staged bytes, abort and fenced reconnect"),
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


def test_every_rule_has_a_mistake() -> None:
    assert {rule.name for rule in fields(Rules)} == set(MISTAKES)


@pytest.mark.parametrize("rule", MISTAKES)
def test_a_planted_mistake_is_found(rule: str, record_property: Callable[[str, object], None]) -> None:
    """One rule is inverted, all others hold. [1.3, 2.15, 2.17]"""
    breaks, scenario = MISTAKES[rule]
    result = explore(
        SCENARIOS[scenario], replace(RIGHT, **{rule: False}), frozenset({*PROPERTIES, "I-11", "T-61"} - {breaks})
    )
    assert result.violation.startswith(breaks), f"not found without {rule}: {result}"
    record_property("size", f"without {rule}: {breaks} after {len(result.trace) - 1} steps")
