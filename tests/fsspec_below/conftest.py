"""An object in a store of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fsspec_below.place import FILE_SYSTEMS, Place, place_of
from tests.s3.conftest import ordinary_chain, started

__all__ = ["ordinary_chain", "started"]


@pytest.fixture(params=FILE_SYSTEMS)
def file_system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A file system with an object `key`."""
    yield from place_of(request, tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the tests of `place` in the kinds of stores that `PLACES` of their module names, by default file systems."""
    if "place" in metafunc.fixturenames:
        metafunc.parametrize("place", getattr(metafunc.module, "PLACES", FILE_SYSTEMS), indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A store with an object `key`."""
    yield from place_of(request, tmp_path)
