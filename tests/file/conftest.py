"""Fixtures: rigs that are always closed, and contract ids from docstrings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .clock import HandClock
from .rig import Rig, make_rig

HERE = Path(__file__).parent
CONTRACT_IDS = re.compile(r"\[((?:[A-Z]-?\d+[a-z]?|\d+\.\d+)(?:, (?:[A-Z]-?\d+[a-z]?|\d+\.\d+))*)\]\s*$")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turn the ids in brackets at the end of a test's docstring into its `contract` marker."""
    for item in items:
        if HERE in item.path.parents:
            found = CONTRACT_IDS.search(getattr(getattr(item, "obj", None), "__doc__", None) or "")
            if found is not None:
                item.add_marker(pytest.mark.contract(*found.group(1).split(", ")))


@pytest.fixture
def make() -> Iterator[Callable[..., Rig]]:
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
def rig(make: Callable[..., Rig]) -> Rig:
    """An empty volume on a quiet cache."""
    return make()
