"""The backend keeps the promises of the protocol over Azurite, an imitation of Google, and memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from pagecache.backends import Backend, backend_from_url
from pagecache.backends.obstore import ObstoreBackend
from pagecache.backends.obstore.errors import RequestError
from pagecache.testing import BackendConformance

from .services import ACCOUNT, KEY, Google, new_container

numbers = itertools.count()


class Objects(BackendConformance):
    url = ""

    def make_backend(self, tmp_path: Path) -> Any:
        return backend_from_url(self.url)

    def fail_commit(self, backend: Any) -> None:
        requests = backend.requests
        put = requests.put

        def fail(*_: Any) -> Any:
            requests.put = put
            raise RequestError(5, "planted", retry=True)

        backend.honours("create")
        requests.put = fail


class TestMemory(Objects):
    def make_backend(self, tmp_path: Path) -> Backend:
        return ObstoreBackend(MemoryStore(), "some/folder")


class TestAzurite(Objects):
    @pytest.fixture(autouse=True)
    def _container(self, azurite: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        name = f"container{next(numbers)}"
        new_container(azurite, name)
        self.url = f"az://{name}/some/folder?account={ACCOUNT}&endpoint={azurite}"


class TestGoogle(Objects):
    @pytest.fixture(autouse=True)
    def _bucket(self, google: tuple[Google, str]) -> None:
        self.url = f"gs://bucket/some/folder?{google[1]}"
