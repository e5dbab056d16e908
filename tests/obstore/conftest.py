"""Running services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import services
from .services import Google

pytest.importorskip("obstore")


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not services.HAS_AZURITE:
        pytest.skip("needs Azurite: npm install --prefix build/azurite azurite")
    with services.azurite(tmp_path_factory.mktemp("azurite")) as endpoint:
        yield endpoint


@pytest.fixture
def google(tmp_path: Path) -> Iterator[tuple[Google, str]]:
    (tmp_path / "service").mkdir()
    with services.google(tmp_path / "service") as running:
        yield running
