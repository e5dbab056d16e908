"""Servers that run for the whole session, started when the first test asks, and a bucket for each test.

server       those that `SERVERS` of the module names, by default moto and ministack
ministack    that one
bucket       an empty one on `server`; fails its test if it leaves an open upload or a private object behind
proxy        in front of `server`: slow and unreliable on request, and counting
backend      through the proxy, with the options `BACKEND` of the module; without these it has parts of 64 KiB
volume       over it, with the options `VOLUME` of the module, of a cache with its options `CACHE`
own_server   for this test alone, to be stopped and started again
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.proxy import FaultyProxy
from pagecache import PageCache, Volume
from pagecache.backends.s3 import S3Backend

from .servers import BOTH, ENVIRONMENT, Bucket, Server, missing, new_bucket


@pytest.fixture(autouse=True)
def ordinary_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put credentials where clients look for them, and hide the machine's own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """A factory that starts a server of a kind the first time."""
    servers: dict[str, Server] = {}

    def get(kind: str) -> Server:
        if kind not in servers:
            if missing(kind):
                pytest.skip(f"{kind} is not installed (`make` does it)")
            servers[kind] = Server(kind, tmp_path_factory.mktemp(kind))
        return servers[kind]

    yield get
    for server in servers.values():
        server.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the tests of `server` on each kind that `SERVERS` of their module names; by default on both."""
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "server" in metafunc.fixturenames and not any("server" in names for names in given):
        metafunc.parametrize("server", getattr(metafunc.module, "SERVERS", BOTH), indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest, started: Callable[[str], Server]) -> Server:
    return started(request.param)


@pytest.fixture
def ministack(started: Callable[[str], Server]) -> Server:
    return started("ministack")


@pytest.fixture
def bucket(server: Server) -> Iterator[Bucket]:
    with new_bucket(server) as made:
        yield made


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    if missing("ministack"):
        pytest.skip("ministack is not installed (`make` does it)")
    made = Server("ministack", tmp_path / "server")
    yield made
    made.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    """A proxy in front of `server`."""
    with FaultyProxy(server.endpoint) as made:
        yield made


@pytest.fixture
def backend(request: pytest.FixtureRequest, bucket: Bucket, proxy: FaultyProxy) -> Iterator[S3Backend]:
    options = getattr(request.module, "BACKEND", None)
    if options is None:
        made = bucket.backend(proxy.endpoint)
    else:
        made = S3Backend(bucket.name, endpoint_url=proxy.endpoint, **options)
    yield made
    proxy.rules.clear()
    made.close()


@pytest.fixture
def volume(request: pytest.FixtureRequest, backend: S3Backend, proxy: FaultyProxy) -> Iterator[Volume]:
    with PageCache(**{"capacity": "64MiB", **getattr(request.module, "CACHE", {})}) as cache:
        yield cache.attach(backend, **getattr(request.module, "VOLUME", {}))
        proxy.rules.clear()
