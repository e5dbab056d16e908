"""A folder for sockets, and an owner of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecache.cli.top import map_screen, once, sampling

from .serving import LONG, Owner, folder


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for answers: an owner on a busy machine is slow. Tests of timeouts set their own."""
    for module in (sampling, map_screen, once):
        monkeypatch.setattr(module, "TIMEOUT", LONG)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name."""
    with folder() as path:
        yield path


@pytest.fixture
def owner(place: Path) -> Iterator[Owner]:
    """An owner that serves the busy cache."""
    owner = Owner(place / "cache.sock").start()
    try:
        yield owner
    finally:
        owner.open_gate.set()
        owner.close()
