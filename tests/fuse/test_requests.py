"""Requests of a mounted bucket, counted by a proxy in front of a real S3 server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from tests.s3.requests import name_of
from tests.s3.servers import Bucket, Server, new_bucket

from .mounts import Mounted, needs_mounts

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

Mounting = Callable[..., AbstractContextManager[Path]]
FILES = 20


@pytest.fixture
def bucket(service: Server) -> Iterator[Bucket]:
    with new_bucket(service) as bucket:
        yield bucket


@pytest.fixture
def proxy(service: Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(service.endpoint) as proxy:
        yield proxy


@pytest.fixture
def mounting(bucket: Bucket, proxy: FaultyProxy, tmp_path: Path) -> Mounting:
    """Mounts the bucket; afterwards everything is saved."""

    @contextlib.contextmanager
    def mounting(seconds: float = 60, *options: str) -> Iterator[Path]:
        url = f"s3://{bucket.name}?endpoint={proxy.endpoint}"
        words = ("-o", f"attr_timeout={seconds},entry_timeout={seconds}")
        with Mounted(tmp_path / "mount", url, "--capacity", "256MiB", *words, *options) as mounted:
            yield mounted.path
            assert mounted.unmount() == 0, mounted.said()

    return mounting


def taken(proxy: FaultyProxy) -> list[str]:
    """The requests since the last call, by their names, without those that try the server."""
    return [name_of(call) for call in proxy.taken() if "/.pagecache/" not in call.path]


def counted(proxy: FaultyProxy) -> list[int]:
    """The numbers of requests in flight, one for each request that begins from now on."""
    found = [0]
    proxy.rules.append(ProxyRule("call", times=float("inf"), action=lambda: found.append(proxy._running)))
    return found


def put_files(bucket: Bucket, folder: str, count: int = FILES) -> None:
    for number in range(count):
        bucket.put(f"{folder}/{number}", b"%d" % number * 1000)


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_foreign_version_is_seen_by_the_next_open_after_attr_timeout(
    seconds: float, mounting: Mounting, bucket: Bucket
) -> None:
    """Before that an open asks nothing. [2.19]"""
    bucket.put("a", b"first")
    with mounting(seconds) as path:
        assert (path / "a").read_bytes() == b"first"
        bucket.put("a", b"theirs")
        assert (path / "a").read_bytes() == (b"first" if seconds else b"theirs")


def test_a_sequential_read_has_as_many_requests_in_flight_as_the_backend_asks_for(
    mounting: Mounting, bucket: Bucket, proxy: FaultyProxy
) -> None:
    """The mount's own window is smaller than two parts."""
    content = os.urandom(48 << 20)
    bucket.put("a", content)
    proxy.latency = 0.02
    with mounting() as path:
        running = counted(proxy)
        assert (path / "a").read_bytes() == content
        assert max(running) >= 4
    with mounting(60, "-o", "read_ahead=1MiB") as path:
        running = counted(proxy)
        assert (path / "a").read_bytes() == content
        assert max(running) <= 5  # a window is four requests, and the kernel reads behind it


def test_small_files_after_a_listing_cost_one_request_each(
    mounting: Mounting, bucket: Bucket, proxy: FaultyProxy
) -> None:
    put_files(bucket, "a")
    with mounting() as path:
        os.listdir(path / "a")
        taken(proxy)
        for number in range(FILES):
            assert (path / "a" / str(number)).read_bytes() == b"%d" % number * 1000
        assert sorted(taken(proxy)) == ["GetObject"] * FILES


def test_files_that_are_made_cost_one_request_each_and_are_stored_at_close(
    mounting: Mounting, bucket: Bucket, proxy: FaultyProxy
) -> None:
    """No close returns before its object is stored, so only several programs have several uploads in flight."""
    put_files(bucket, "a", 1)
    with mounting() as path, ThreadPoolExecutor(FILES) as pool:
        (path / "a" / "first").write_bytes(b"first")
        taken(proxy)
        proxy.latency, running = 0.2, counted(proxy)

        def create(number: int) -> bytes:
            (path / "a" / f"new{number}").write_bytes(b"%d" % number)
            return bucket.get(f"a/new{number}")

        assert list(pool.map(create, range(FILES))) == [b"%d" % number for number in range(FILES)]
        assert max(running) >= 8
        made = taken(proxy)
        assert made.count("PutObject") == FILES
        assert len(made) <= FILES + 2
