"""`pagecache stress` finds nothing wrong with S3 objects, nor with faults on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache.stress import Plan, run

from .requests import name_of, refusal
from .servers import Bucket

SERVERS = ("ministack",)
SHORT: dict[str, Any] = {
    "threads": 4, "tasks": 6, "files": 2, "size": "512KiB", "capacity": "512KiB", "operations": 30, "rounds": 1,
    "duration": 1,
}  # fmt: skip
SOAK = float(os.environ.get("PAGECACHE_SOAK_SECONDS", 600))


def carries(call: ProxyCall) -> bool:
    """Requests that the cache repeats. Opens and listings report to their caller."""
    return name_of(call) not in ("HeadObject", "HeadBucket", "ListObjectsV2")


def unreliable() -> list[ProxyRule]:
    """A proxy in which requests fail in every possible way, now and then."""
    always: dict[str, Any] = {"matches": carries, "times": float("inf")}
    return [
        ProxyRule("reset", chance=0.01, **always),
        ProxyRule("lost", chance=0.01, **always),
        ProxyRule("midway", chance=0.01, **always),
        ProxyRule("status", chance=0.01, body=refusal("SlowDown"), headers={"Retry-After": "0"}, **always),
        ProxyRule("cut", bytes=100, chance=0.01, **always),
    ]


def small(bucket: Bucket, endpoint: str) -> str:
    return bucket.url("stressed", endpoint, part_size="64KiB", least_part="1")


RUNS: dict[str, dict[str, Any]] = {
    "no faults": {},
    "flaky": {"faults": "flaky"},
    "losses of others": {"profile": "losses", "seed": 5},
    "saving": {"profile": "saving", "seed": 5},
}
SLOW = ("no faults", "saving")


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.slow] * (how in SLOW)) for how in RUNS])
def test_a_short_run_of_the_stress_tester_is_clean(bucket: Bucket, how: str) -> None:
    """Also with commits, discards and versions of another client beside reads of evicted bytes."""
    report = run(Plan(**{"seed": 1, **SHORT, **RUNS[how]}), small(bucket, bucket.server.endpoint))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 100


def test_a_short_run_through_an_unreliable_proxy_is_clean(bucket: Bucket, proxy: FaultyProxy) -> None:
    proxy.rules = unreliable()
    report = run(Plan(seed=2, **SHORT), small(bucket, proxy.endpoint))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert sum(bool(call.fault) for call in proxy.taken()) > 5


Rules = Callable[[], list[ProxyRule]]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("faults", "rules", "share"),
    [("none", list, 0.1), ("nasty", list, 0.2), ("none", unreliable, 1.0)],
    ids=["none", "nasty", "unreliable"],
)
def test_the_stress_tester_finds_nothing_for_minutes(
    bucket: Bucket, proxy: FaultyProxy, faults: str, rules: Rules, share: float
) -> None:
    """The tester's own faults, which it expects and has fewer tries for, take turns with faults of the connection."""
    proxy.rules = rules()
    plan = Plan(faults=faults, duration=SOAK * share, patience=300.0)  # the server takes one request at a time
    report = run(plan, small(bucket, proxy.endpoint))
    assert report.ok, f"{report.story}\n{report.replay}"
