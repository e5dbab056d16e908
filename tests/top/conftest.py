"""A folder for sockets, and an owner of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .serving import Owner, folder


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
