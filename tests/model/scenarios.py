"""The scenarios: small programs side by side, chosen so that each rule has one in which it matters.

The first line of a scenario is its name, with the number of faults of each kind, and other fields, in brackets. The
second lists the operations of each actor: `writer: write AB, flush A`. A and B are the two blocks.
"""

from __future__ import annotations

import re
from typing import Any

from .rules import Operation, Scenario

__all__ = ["LARGE", "PLAYED", "SCENARIOS"]

BLOCKS = {"": 0, "A": 1, "B": 2, "AB": 3}
FLAGS = {"partial", "split", "unit", "staging", "either", "asks_later", "rollback"}


def scenarios(table: str) -> dict[str, Scenario]:
    """Parse scenarios of two lines each."""

    def operation(text: str) -> Operation:
        verb, _, blocks = text.strip().partition(" ")
        return verb, BLOCKS[blocks]

    found = {}
    for name, words, text in re.findall(r"^(\S.*?)(?: \[(.*)\])?\n    (.*)$", table, re.MULTILINE):
        actors = (actor.partition(":") for actor in text.split(";"))
        programs = {actor.strip(): tuple(map(operation, each.split(","))) for actor, _, each in actors}
        fields: dict[str, Any] = {"faults": {}}
        for field, _, value in (word.partition(" ") for word in words.split(", ") if word):
            if field in FLAGS:
                fields[field] = True
            elif field == "loops":
                fields[field] = frozenset({value})
            elif field == "valid":
                fields[field] = int(value)
            else:
                fields["faults"][field] = int(value)
        found[name] = Scenario(name, programs, **fields)
    return found


SCENARIOS = scenarios("""
range flush of a part, two fsyncs [partial]
    writer: write AB, write A; ranger: flush A; first: fsync; second: fsync
failing write-back, one call per block [fail 1, parked 1, split]
    writer: write AB, write B; first: fsync; second: fsync
short answers [short 1, fail 1]
    writer: write AB, write A; ranger: flush AB; first: fsync
failing commits [commit 1, kept 1]
    writer: write A, write B; ranger: flush AB, commit; first: fsync; second: fsync
reclaim beside failing commits [commit 1, fail 1]
    writer: write AB, write A; ranger: flush A, evict; reader: fill B; first: fsync
sync beside a writer [commit 1]
    writer: write A, write B, truncate; first: sync; second: sync
truncate, failing commits [commit 1, fail 1]
    writer: write AB, truncate, write B; ranger: flush AB; first: fsync
punch, two fsyncs [commit 1, kept 1, asks_later]
    writer: write AB; hole: punch A, fsync; first: fsync
direct write over acknowledged bytes [commit 1, direct 1]
    writer: write A, flush A; direct: direct A; first: fsync, fsync
fill beside a direct write [commit 2, direct 1, valid 1]
    direct: direct A; reader: fill A, evict, fill A; first: fsync
direct write returns while a commit runs [commit 1, kept 1]
    writer: write B, fsync; direct: direct A, fsync
abort and reconnect, late answers [fail 1]
    writer: write AB, write A; ranger: background; first: fsync; volume: abort, reconnect; second: fsync
abort and fenced reconnect, late answers [split]
    writer: write A, write AB; first: fsync; volume: abort, fenced, fsync
abort, truncate, reconnect
    writer: write B, flush B, truncate, write B; volume: abort, reconnect, fsync; first: fsync
abort, direct write, hole, reconnect
    direct: direct A, punch B; volume: abort, fenced, fsync; reader: fill A
truncate, direct write, fsync and sync [fail 1, commit 1, direct 1]
    writer: write AB, truncate, write B; direct: direct A; first: fsync; second: sync
abort and reconnect twice [commit 1]
    writer: write AB, write A; first: fsync; second: fsync; volume: abort, reconnect, abort, fenced, fsync
commits that fail between a look and a commit [commit 1, asks_later]
    writer: truncate, write B; first: fsync; second: fsync
discard of acknowledged bytes, failing commits [commit 1, kept 1]
    writer: write A, flush A, discard A; reader: fill A, evict, fill A; first: fsync
discard beside acknowledged bytes of a unit, failing commits [commit 1, kept 1, partial, unit]
    writer: write AB, flush A, discard B; reader: fill B, evict, fill B; first: fsync
discard of acknowledged bytes, abort and reconnect
    writer: write A, flush A, discard A; reader: fill A; volume: abort, reconnect, fsync
staged bytes [commit 1, fail 1, staging]
    writer: write AB, write A; reclaim: evict, evict; reader: fill B; first: fsync
staged and unstable bytes [commit 1, kept 1, staging, either]
    writer: write A, write B, write A; ranger: flush AB; reclaim: evict; first: fsync
staged bytes, truncate [commit 1, staging]
    writer: write B, flush AB, truncate, write AB; reclaim: evict; reader: fill B; first: fsync
discard of staged bytes, rollback [staging, either, rollback]
    writer: truncate, write AB, flush AB, discard A; reclaim: evict; reader: fill A; first: fsync
staged bytes, abort and reconnect [staging, either]
    writer: write A, flush A, write B, flush B; reclaim: evict; reader: fill B; volume: abort, reconnect, fsync
staged bytes, abort and fenced reconnect [staging]
    writer: write A, flush A, write A, flush A; reclaim: evict; reader: fill A; volume: abort, fenced, fsync
view [fail 1]
    writer: write A, view A, store A, release A; ranger: flush A; first: fsync; second: fsync
endless writer [fail 1, commit 1, loops writer]
    writer: write A, write B; first: fsync; second: sync
endless view [loops writer]
    writer: write A, view A, store A, write B; first: fsync; ranger: flush AB
""")

LARGE = scenarios("""
everything that hands over, and failing commits [fail 1, commit 1, partial, split]
    writer: write AB, write A; ranger: flush A, flush B; first: fsync; second: sync
view, two fsyncs, reclaim [commit 1]
    writer: write A, view A, store A, release A; other: write B; ranger: flush AB, evict; first: fsync; second: fsync
""")

PLAYED = scenarios("""
writers, fsyncs, failures [fail 1, commit 1, kept 1, valid 3]
    writer: write AB, write A, write B; ranger: flush A, commit; first: fsync; second: fsync
one call per block [fail 2, commit 1, split, valid 3]
    writer: write AB, write B, write AB; first: fsync; second: sync
truncate [fail 1, commit 1, valid 3]
    writer: write AB, write B; cutter: truncate, write B; first: fsync; second: fsync
""")
