"""An object in a store of each kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.proxy import FaultyProxy
from tests.fsspec_below.place import FILE_SYSTEMS, OLD, SERVERS, Place, S3Place
from tests.s3.conftest import ordinary_chain, started
from tests.s3.servers import new_bucket

__all__ = ["ordinary_chain", "started"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the tests of `place` in the kinds of stores that they name, or `PLACES` of their module does, by default
    file systems.
    """
    named = any(mark.args[0] == "place" for mark in metafunc.definition.iter_markers("parametrize"))
    if "place" in metafunc.fixturenames and not named:
        metafunc.parametrize("place", getattr(metafunc.module, "PLACES", FILE_SYSTEMS), indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A store of the kind that the parameter names, with an object `key`."""
    with contextlib.ExitStack() as stack:
        place: Place
        if request.param in SERVERS:
            server = request.getfixturevalue("started")(request.param)
            bucket = stack.enter_context(new_bucket(server))
            place = S3Place(bucket, stack.enter_context(FaultyProxy(server.endpoint)))
        else:
            place = Place(FILE_SYSTEMS[request.param](), str(tmp_path) if request.param == "elsewhere" else "bucket")
        place.put("key", OLD)
        yield place
        place.repair()
        place.close()
