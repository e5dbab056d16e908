"""An object in a store of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fsspec_below.place import FILE_SYSTEMS, SERVERS, Place, place_of
from tests.s3.conftest import ordinary_chain, started

__all__ = ["ordinary_chain", "started"]


@pytest.fixture(params=FILE_SYSTEMS)
def file_system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A file system with an object `key`."""
    yield from place_of(request, tmp_path)


@pytest.fixture
def place(file_system: Place) -> Place:
    """What most tests of a folder of file systems are about."""
    return file_system


@pytest.fixture(params=[*FILE_SYSTEMS, *SERVERS])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A file system or a bucket, with an object `key`."""
    yield from place_of(request, tmp_path)
