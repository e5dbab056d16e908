"""Fixtures: rigs that are always closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pagecache import CachedFile

from .clock import HandClock
from .rig import KEY, ONCE, Make, Rig, make_rig


@pytest.fixture
def make() -> Iterator[Make]:
    """A factory of rigs."""
    rigs: list[Rig] = []

    def maker(*args: object, **options: object) -> Rig:
        rigs.append(make_rig(*args, **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield maker
    for rig in rigs:
        rig.backend.open_all_gates()
    for rig in reversed(rigs):
        rig.finish()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """A hand-moved clock for the caches that the test makes."""
    clock = HandClock()
    monkeypatch.setattr("pagecache.cache.Clock", lambda: clock)
    return clock


@pytest.fixture
def far_from_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the flusher's check for suppressed log lines every few seconds."""
    monkeypatch.setattr("pagecache.engine.report.notices.WINDOW", 3600.0)


@pytest.fixture
def rig(make: Make) -> Rig:
    """An empty volume on a quiet cache."""
    return make()


@pytest.fixture
def dirty(make: Make, request: pytest.FixtureRequest) -> Rig:
    """A new file with the module's DATA, all of it dirty; one try for each call."""
    rig = make({KEY: b""}, retry=ONCE)
    rig.open("r+b").pwrite(request.module.DATA, 0)
    return rig


@pytest.fixture
def file(stored: Rig) -> CachedFile:
    """A handle on the file of the module's `stored`, which reads and writes."""
    return stored.open("r+b")
