"""Ready-made faults repeat exactly, and contain all that they promise."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache.engine.retryer import is_transient
from pagecache.testing import FaultPlan
from pagecache.testing.fault_profiles import PROFILES

from .stores import DATA, Store


def outcomes(profile: str, seed: int) -> list[object]:
    """The results of 600 calls, one after another, on a backend that is revived whenever it has died."""
    found: list[object] = []
    store = Store()
    store.faulty.use(FaultPlan.profile(profile, seed))
    for number in range(600):
        if store.faulty.dead:
            found.append("dead")
            store.faulty.revive()
        offset, room = 1000 * (number % 7), bytearray(100)
        calls: tuple[Callable[[], object], ...] = (
            lambda at=offset: store.file.write_from(at, [DATA]),  # type: ignore[misc]
            lambda at=offset, into=room: store.file.read_into(at, [memoryview(into)]),  # type: ignore[misc]
            store.file.commit,
            lambda: store.file.truncate(8000),
            lambda: store.file.stat().size,
        )
        try:
            answer = calls[number % len(calls)]()
        except (OSError, KeyError) as error:
            answer = repr(error)
        found.append(answer)
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_the_same_each_time(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seed decides; another seed gives others."""
    pauses: list[float] = []

    monkeypatch.setattr("pagecache.testing.faulty.time.sleep", pauses.append)
    runs = []
    for seed in (3, 3, 4):
        pauses.clear()
        runs.append((outcomes(profile, seed), tuple(pauses)))
    assert runs[0] == runs[1]
    assert (runs[0] == runs[2]) is (profile == "none")


@pytest.mark.parametrize("profile", ["mild", "nasty", "short", "slow", "flaky", "commits"])
def test_everything_sent_often_enough_arrives_under_what_goes_away(profile: str) -> None:
    """Each failure says that a retry is worthwhile, and the remainder is sent again."""
    store = Store()
    store.faulty.use(FaultPlan.profile(profile, 5))
    refused: list[OSError] = []
    for offset in range(0, 100_000, 1000):
        sent = 0
        for _ in range(60):
            try:
                sent += store.file.write_from(offset + sent, [DATA[sent:]])
            except OSError as error:
                refused.append(error)
            if sent == len(DATA):
                break
        assert store.content()[offset:] == DATA
    assert all(map(is_transient, refused))
    assert not store.faulty.dead


def test_hell_has_all_kinds() -> None:
    """It has death, no space, commits that fail, other versions, and all kinds of nasty."""
    rules = PROFILES["hell"]
    for kind in ("dies", "change", "twice", "longest", "short"):
        assert any(getattr(rule, kind) for rule in rules), kind
    assert any(rule.delay and rule.done for rule in rules)
    found = [str(one) for seed in range(8) for one in outcomes("hell", seed)]
    for word in ("dead", f"({errno.ENOSPC},", f"({errno.ESTALE},", "goes away", "does not go away", "+1"):
        assert any(word in one for one in found), word
