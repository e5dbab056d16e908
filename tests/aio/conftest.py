"""Fixtures: the rigs of tests/file over asynchronous backends, and caches over stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import PageCache, Volume

from ..file.clock import HandClock
from ..file.rig import FAST, QUIET, Rig, make_rig
from .over import Over
from .stores import Store

Attach = Callable[..., Volume]


@pytest.fixture
def make() -> Iterator[Callable[..., Rig]]:
    """Makes rigs whose backend is asynchronous."""
    rigs: list[Rig] = []

    def maker(*args: object, **options: object) -> Rig:
        rigs.append(make_rig(*args, attached=Over, **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield maker
    for rig in rigs:
        rig.backend.open_all_gates()
    for rig in reversed(rigs):
        rig.finish()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """Caches that the test makes live in this time."""
    clock = HandClock()
    monkeypatch.setattr("pagecache.cache.Clock", lambda: clock)
    return clock


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    return make()


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Attaches a backend to a quiet cache of its own; it is closed, and its invariants hold."""
    volumes: list[Volume] = []

    def attacher(backend: Any, *, capacity: str = "8MiB", **options: Any) -> Volume:
        config = {name: options.pop(name) for name in list(options) if name in CONFIG}
        cache = PageCache(capacity, **{**QUIET, "retry": FAST, **config})
        volumes.append(cache.attach(backend, **{"read_ahead": 0, **options}))
        return volumes[-1]

    yield attacher
    for volume in reversed(volumes):
        if isinstance(volume.backend, Store):
            volume.backend.open_all()
        if not volume.cache.closed:
            volume.cache.check()
            volume.cache.close(timeout=20, on_failed="discard")


CONFIG = {"max_folio", "dirty_background", "dirty_limit", "retry", "dirty_expire", "throttle_timeout", "gil_release"}
