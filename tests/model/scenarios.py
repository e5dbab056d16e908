"""The scenarios: small programs side by side, chosen so that each rule has one in which it matters."""

from __future__ import annotations

from .rules import Operation, Scenario

__all__ = ["LARGE", "PLAYED", "SCENARIOS"]

A, B, AB = 1, 2, 3
FSYNC: Operation = ("fsync", 0)
SYNC: Operation = ("sync", 0)


def w(blocks: int) -> Operation:
    return ("write", blocks)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "range flush of a part, two fsyncs",
            {"writer": (w(AB), w(A)), "ranger": (("flush", A),), "first": (FSYNC,), "second": (FSYNC,)},
            partial=True,
        ),
        Scenario(
            "failing write-back, one call per block",
            {"writer": (w(AB), w(B)), "first": (FSYNC,), "second": (FSYNC,)},
            faults={"fail": 1, "parked": 1},
            split=True,
        ),
        Scenario(
            "short answers",
            {"writer": (w(AB), w(A)), "ranger": (("flush", AB),), "first": (FSYNC,)},
            faults={"short": 1, "fail": 1},
        ),
        Scenario(
            "failing commits",
            {"writer": (w(A), w(B)), "ranger": (("flush", AB), ("commit", 0)), "first": (FSYNC,), "second": (FSYNC,)},
            faults={"commit": 1, "kept": 1},
        ),
        Scenario(
            "reclaim beside failing commits",
            {
                "writer": (w(AB), w(A)),
                "ranger": (("flush", A), ("evict", 0)),
                "reader": (("fill", B),),
                "first": (FSYNC,),
            },
            faults={"commit": 1, "fail": 1},
        ),
        Scenario(
            "sync beside a writer",
            {"writer": (w(A), w(B), ("truncate", 0)), "first": (SYNC,), "second": (SYNC,)},
            faults={"commit": 1},
        ),
        Scenario(
            "truncate, failing commits",
            {"writer": (w(AB), ("truncate", 0), w(B)), "ranger": (("flush", AB),), "first": (FSYNC,)},
            faults={"commit": 1, "fail": 1},
        ),
        Scenario(
            "punch, two fsyncs",
            {"writer": (w(AB),), "hole": (("punch", A), FSYNC), "first": (FSYNC,)},
            faults={"commit": 1, "kept": 1},
            asks_later=True,
        ),
        Scenario(
            "direct write over acknowledged bytes",
            {"writer": (w(A), ("flush", A)), "direct": (("direct", A),), "first": (FSYNC, FSYNC)},
            faults={"commit": 1, "direct": 1},
        ),
        Scenario(
            "fill beside a direct write",
            {"direct": (("direct", A),), "reader": (("fill", A), ("evict", 0), ("fill", A)), "first": (FSYNC,)},
            faults={"commit": 2, "direct": 1},
            valid=A,
        ),
        Scenario(
            "direct write returns while a commit runs",
            {"writer": (w(B), FSYNC), "direct": (("direct", A), FSYNC)},
            faults={"commit": 1, "kept": 1},
        ),
        Scenario(
            "abort and reconnect, late answers",
            {
                "writer": (w(AB), w(A)),
                "ranger": (("background", 0),),
                "first": (FSYNC,),
                "volume": (("abort", 0), ("reconnect", 0)),
                "second": (FSYNC,),
            },
            faults={"fail": 1},
        ),
        Scenario(
            "abort and fenced reconnect, late answers",
            {"writer": (w(A), w(AB)), "first": (FSYNC,), "volume": (("abort", 0), ("fenced", 0), FSYNC)},
            split=True,
        ),
        Scenario(
            "abort, truncate, reconnect",
            {
                "writer": (w(B), ("flush", B), ("truncate", 0), w(B)),
                "volume": (("abort", 0), ("reconnect", 0), FSYNC),
                "first": (FSYNC,),
            },
        ),
        Scenario(
            "abort, direct write, hole, reconnect",
            {
                "direct": (("direct", A), ("punch", B)),
                "volume": (("abort", 0), ("fenced", 0), FSYNC),
                "reader": (("fill", A),),
            },
        ),
        Scenario(
            "truncate, direct write, fsync and sync",
            {
                "writer": (w(AB), ("truncate", 0), w(B)),
                "direct": (("direct", A),),
                "first": (FSYNC,),
                "second": (SYNC,),
            },
            faults={"fail": 1, "commit": 1, "direct": 1},
        ),
        Scenario(
            "abort and reconnect twice",
            {
                "writer": (w(AB), w(A)),
                "first": (FSYNC,),
                "second": (FSYNC,),
                "volume": (("abort", 0), ("reconnect", 0), ("abort", 0), ("fenced", 0), FSYNC),
            },
            faults={"commit": 1},
        ),
        Scenario(
            "commits that fail between a look and a commit",
            {"writer": (("truncate", 0), w(B)), "first": (FSYNC,), "second": (FSYNC,)},
            faults={"commit": 1},
            asks_later=True,
        ),
        Scenario(
            "discard of acknowledged bytes, failing commits",
            {
                "writer": (w(A), ("flush", A), ("discard", A)),
                "reader": (("fill", A), ("evict", 0), ("fill", A)),
                "first": (FSYNC,),
            },
            faults={"commit": 1, "kept": 1},
        ),
        Scenario(
            "discard of acknowledged bytes, abort and reconnect",
            {
                "writer": (w(A), ("flush", A), ("discard", A)),
                "reader": (("fill", A),),
                "volume": (("abort", 0), ("reconnect", 0), FSYNC),
            },
        ),
        Scenario(
            "staged bytes",
            {
                "writer": (w(AB), w(A)),
                "reclaim": (("evict", 0), ("evict", 0)),
                "reader": (("fill", B),),
                "first": (FSYNC,),
            },
            faults={"commit": 1, "fail": 1},
            staging=True,
        ),
        Scenario(
            "staged and unstable bytes",
            {
                "writer": (w(A), w(B), w(A)),
                "ranger": (("flush", AB),),
                "reclaim": (("evict", 0),),
                "first": (FSYNC,),
            },
            faults={"commit": 1, "kept": 1},
            staging=True,
            either=True,
        ),
        Scenario(
            "staged bytes, truncate",
            {
                "writer": (w(B), ("flush", AB), ("truncate", 0), w(AB)),
                "reclaim": (("evict", 0),),
                "reader": (("fill", B),),
                "first": (FSYNC,),
            },
            faults={"commit": 1},
            staging=True,
        ),
        Scenario(
            "discard of staged bytes, rollback",
            {
                "writer": (("truncate", 0), w(AB), ("flush", AB), ("discard", A)),
                "reclaim": (("evict", 0),),
                "reader": (("fill", A),),
                "first": (FSYNC,),
            },
            staging=True,
            either=True,
            rollback=True,
        ),
        Scenario(
            "staged bytes, abort and reconnect",
            {
                "writer": (w(A), ("flush", A), w(B), ("flush", B)),
                "reclaim": (("evict", 0),),
                "reader": (("fill", B),),
                "volume": (("abort", 0), ("reconnect", 0), FSYNC),
            },
            staging=True,
            either=True,
        ),
        Scenario(
            "staged bytes, abort and fenced reconnect",
            {
                "writer": (w(A), ("flush", A), w(A), ("flush", A)),
                "reclaim": (("evict", 0),),
                "reader": (("fill", A),),
                "volume": (("abort", 0), ("fenced", 0), FSYNC),
            },
            staging=True,
        ),
        Scenario(
            "view",
            {
                "writer": (w(A), ("view", A), ("store", A), ("release", A)),
                "ranger": (("flush", A),),
                "first": (FSYNC,),
                "second": (FSYNC,),
            },
            faults={"fail": 1},
        ),
        Scenario(
            "endless writer",
            {"writer": (w(A), w(B)), "first": (FSYNC,), "second": (SYNC,)},
            faults={"fail": 1, "commit": 1},
            loops=frozenset({"writer"}),
        ),
        Scenario(
            "endless view",
            {"writer": (w(A), ("view", A), ("store", A), w(B)), "first": (FSYNC,), "ranger": (("flush", AB),)},
            loops=frozenset({"writer"}),
        ),
    )
}

LARGE = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "everything that hands over, and failing commits",
            {
                "writer": (w(AB), w(A)),
                "ranger": (("flush", A), ("flush", B)),
                "first": (FSYNC,),
                "second": (SYNC,),
            },
            faults={"fail": 1, "commit": 1},
            partial=True,
            split=True,
        ),
        Scenario(
            "view, two fsyncs, reclaim",
            {
                "writer": (w(A), ("view", A), ("store", A), ("release", A)),
                "other": (w(B),),
                "ranger": (("flush", AB), ("evict", 0)),
                "first": (FSYNC,),
                "second": (FSYNC,),
            },
            faults={"commit": 1},
        ),
    )
}

PLAYED = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "writers, fsyncs, failures",
            {
                "writer": (w(AB), w(A), w(B)),
                "ranger": (("flush", A), ("commit", 0)),
                "first": (FSYNC,),
                "second": (FSYNC,),
            },
            faults={"fail": 1, "commit": 1, "kept": 1},
            valid=AB,
        ),
        Scenario(
            "one call per block",
            {"writer": (w(AB), w(B), w(AB)), "first": (FSYNC,), "second": (SYNC,)},
            faults={"fail": 2, "commit": 1},
            split=True,
            valid=AB,
        ),
        Scenario(
            "truncate",
            {"writer": (w(AB), w(B)), "cutter": (("truncate", 0), ("write", B)), "first": (FSYNC,), "second": (FSYNC,)},
            faults={"fail": 1, "commit": 1},
            valid=AB,
        ),
    )
}
