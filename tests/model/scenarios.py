"""The scenarios: small programs side by side, chosen so that each rule has one in which it matters.

A program lists the operations of an actor: `writer: write AB, flush A`. A and B are the two blocks.
"""

from __future__ import annotations

from typing import Any

from .rules import Operation, Scenario

__all__ = ["LARGE", "PLAYED", "SCENARIOS"]

BLOCKS = {"": 0, "A": 1, "B": 2, "AB": 3}


def scenarios(table: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Scenario]:
    """Parse the programs: name → programs, and other fields of the scenario."""

    def operation(text: str) -> Operation:
        verb, _, blocks = text.strip().partition(" ")
        return verb, BLOCKS[blocks]

    found = {}
    for name, (text, more) in table.items():
        actors = (actor.partition(":") for actor in text.split(";"))
        programs = {actor.strip(): tuple(map(operation, each.split(","))) for actor, _, each in actors}
        found[name] = Scenario(name, programs, **more)
    return found


SCENARIOS = scenarios(
    {
        "range flush of a part, two fsyncs": (
            "writer: write AB, write A; ranger: flush A; first: fsync; second: fsync",
            {"partial": True},
        ),
        "failing write-back, one call per block": (
            "writer: write AB, write B; first: fsync; second: fsync",
            {"faults": {"fail": 1, "parked": 1}, "split": True},
        ),
        "short answers": (
            "writer: write AB, write A; ranger: flush AB; first: fsync",
            {"faults": {"short": 1, "fail": 1}},
        ),
        "failing commits": (
            "writer: write A, write B; ranger: flush AB, commit; first: fsync; second: fsync",
            {"faults": {"commit": 1, "kept": 1}},
        ),
        "reclaim beside failing commits": (
            "writer: write AB, write A; ranger: flush A, evict; reader: fill B; first: fsync",
            {"faults": {"commit": 1, "fail": 1}},
        ),
        "sync beside a writer": (
            "writer: write A, write B, truncate; first: sync; second: sync",
            {"faults": {"commit": 1}},
        ),
        "truncate, failing commits": (
            "writer: write AB, truncate, write B; ranger: flush AB; first: fsync",
            {"faults": {"commit": 1, "fail": 1}},
        ),
        "punch, two fsyncs": (
            "writer: write AB; hole: punch A, fsync; first: fsync",
            {"faults": {"commit": 1, "kept": 1}, "asks_later": True},
        ),
        "direct write over acknowledged bytes": (
            "writer: write A, flush A; direct: direct A; first: fsync, fsync",
            {"faults": {"commit": 1, "direct": 1}},
        ),
        "fill beside a direct write": (
            "direct: direct A; reader: fill A, evict, fill A; first: fsync",
            {"faults": {"commit": 2, "direct": 1}, "valid": 1},
        ),
        "direct write returns while a commit runs": (
            "writer: write B, fsync; direct: direct A, fsync",
            {"faults": {"commit": 1, "kept": 1}},
        ),
        "abort and reconnect, late answers": (
            "writer: write AB, write A; ranger: background; first: fsync; volume: abort, reconnect; second: fsync",
            {"faults": {"fail": 1}},
        ),
        "abort and fenced reconnect, late answers": (
            "writer: write A, write AB; first: fsync; volume: abort, fenced, fsync",
            {"split": True},
        ),
        "abort, truncate, reconnect": (
            "writer: write B, flush B, truncate, write B; volume: abort, reconnect, fsync; first: fsync",
            {},
        ),
        "abort, direct write, hole, reconnect": (
            "direct: direct A, punch B; volume: abort, fenced, fsync; reader: fill A",
            {},
        ),
        "truncate, direct write, fsync and sync": (
            "writer: write AB, truncate, write B; direct: direct A; first: fsync; second: sync",
            {"faults": {"fail": 1, "commit": 1, "direct": 1}},
        ),
        "abort and reconnect twice": (
            "writer: write AB, write A; first: fsync; second: fsync; volume: abort, reconnect, abort, fenced, fsync",
            {"faults": {"commit": 1}},
        ),
        "commits that fail between a look and a commit": (
            "writer: truncate, write B; first: fsync; second: fsync",
            {"faults": {"commit": 1}, "asks_later": True},
        ),
        "discard of acknowledged bytes, failing commits": (
            "writer: write A, flush A, discard A; reader: fill A, evict, fill A; first: fsync",
            {"faults": {"commit": 1, "kept": 1}},
        ),
        "discard of acknowledged bytes, abort and reconnect": (
            "writer: write A, flush A, discard A; reader: fill A; volume: abort, reconnect, fsync",
            {},
        ),
        "staged bytes": (
            "writer: write AB, write A; reclaim: evict, evict; reader: fill B; first: fsync",
            {"faults": {"commit": 1, "fail": 1}, "staging": True},
        ),
        "staged and unstable bytes": (
            "writer: write A, write B, write A; ranger: flush AB; reclaim: evict; first: fsync",
            {"faults": {"commit": 1, "kept": 1}, "staging": True, "either": True},
        ),
        "staged bytes, truncate": (
            "writer: write B, flush AB, truncate, write AB; reclaim: evict; reader: fill B; first: fsync",
            {"faults": {"commit": 1}, "staging": True},
        ),
        "discard of staged bytes, rollback": (
            "writer: truncate, write AB, flush AB, discard A; reclaim: evict; reader: fill A; first: fsync",
            {"staging": True, "either": True, "rollback": True},
        ),
        "staged bytes, abort and reconnect": (
            "writer: write A, flush A, write B, flush B; reclaim: evict; reader: fill B; "
            "volume: abort, reconnect, fsync",
            {"staging": True, "either": True},
        ),
        "staged bytes, abort and fenced reconnect": (
            "writer: write A, flush A, write A, flush A; reclaim: evict; reader: fill A; volume: abort, fenced, fsync",
            {"staging": True},
        ),
        "view": (
            "writer: write A, view A, store A, release A; ranger: flush A; first: fsync; second: fsync",
            {"faults": {"fail": 1}},
        ),
        "endless writer": (
            "writer: write A, write B; first: fsync; second: sync",
            {"faults": {"fail": 1, "commit": 1}, "loops": frozenset({"writer"})},
        ),
        "endless view": (
            "writer: write A, view A, store A, write B; first: fsync; ranger: flush AB",
            {"loops": frozenset({"writer"})},
        ),
    }
)

LARGE = scenarios(
    {
        "everything that hands over, and failing commits": (
            "writer: write AB, write A; ranger: flush A, flush B; first: fsync; second: sync",
            {"faults": {"fail": 1, "commit": 1}, "partial": True, "split": True},
        ),
        "view, two fsyncs, reclaim": (
            "writer: write A, view A, store A, release A; other: write B; ranger: flush AB, evict; "
            "first: fsync; second: fsync",
            {"faults": {"commit": 1}},
        ),
    }
)

PLAYED = scenarios(
    {
        "writers, fsyncs, failures": (
            "writer: write AB, write A, write B; ranger: flush A, commit; first: fsync; second: fsync",
            {"faults": {"fail": 1, "commit": 1, "kept": 1}, "valid": 3},
        ),
        "one call per block": (
            "writer: write AB, write B, write AB; first: fsync; second: sync",
            {"faults": {"fail": 2, "commit": 1}, "split": True, "valid": 3},
        ),
        "truncate": (
            "writer: write AB, write B; cutter: truncate, write B; first: fsync; second: fsync",
            {"faults": {"fail": 1, "commit": 1}, "valid": 3},
        ),
    }
)
