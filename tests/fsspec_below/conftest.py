"""An object in a file system of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fsspec_below.place import OLD, Place
from tests.fsspec_below.stores import Elsewhere, Parts, Whole


@pytest.fixture(params=["whole", "parts", "elsewhere"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place with an object `key`."""
    made = {"whole": Whole, "parts": Parts, "elsewhere": Elsewhere}[request.param]()
    place = Place(made, str(tmp_path) if request.param == "elsewhere" else "bucket")
    place.put("key", OLD)
    yield place
    place.backend.close()
