"""Requests of a mounted bucket, counted by a proxy in front of a real S3 server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pagecache.testing.proxy import FaultyProxy
from tests.s3.requests import name_of
from tests.s3.servers import ENVIRONMENT, Bucket, Server, missing, new_bucket

from .mounts import Mounted, needs_mounts

pytestmark = [
    needs_mounts,
    pytest.mark.xdist_group("mounts"),
    pytest.mark.skipif(missing("ministack"), reason="ministack is not installed (`make` does it)"),
]

Mounting = Callable[..., AbstractContextManager[Path]]
FILES = 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        server = Server("ministack_memory", tmp_path_factory.mktemp("ministack"))
        yield server
        server.close()


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


def put_files(bucket: Bucket, folder: str, count: int = FILES) -> None:
    for number in range(count):
        bucket.put(f"{folder}/{number}", b"%d" % number * 1000)


def test_files_that_are_read_again_within_attr_timeout_cost_nothing(
    mounting: Mounting, bucket: Bucket, proxy: FaultyProxy
) -> None:
    put_files(bucket, "a")
    with mounting() as path:
        for name in os.listdir(path / "a"):
            (path / "a" / name).read_bytes()
        proxy.taken()
        for number in range(FILES):
            assert (path / "a" / str(number)).read_bytes() == b"%d" % number * 1000
        assert taken(proxy) == []


@pytest.mark.parametrize(("seconds", "seen"), [(0, b"theirs"), (60, b"first")])
def test_a_foreign_version_is_seen_by_the_next_open_after_attr_timeout(
    seconds: float, seen: bytes, mounting: Mounting, bucket: Bucket
) -> None:
    """[2.19]"""
    bucket.put("a", b"first")
    with mounting(seconds) as path:
        assert (path / "a").read_bytes() == b"first"
        bucket.put("a", b"theirs")
        assert (path / "a").read_bytes() == seen


def test_a_foreign_version_between_lookup_and_open_for_writing_is_a_conflict_at_close(
    mounting: Mounting, bucket: Bucket
) -> None:
    """It stays stored, although the open asked nothing. [2.19]"""
    bucket.put("a", b"first")
    with mounting() as path:
        assert (path / "a").read_bytes() == b"first"
        bucket.put("a", b"theirs")
        fd = os.open(path / "a", os.O_RDWR)
        os.pwrite(fd, b"ours", 0)
        with pytest.raises(OSError, match="Stale"):
            os.close(fd)
        assert bucket.get("a") == b"theirs"
        (path / "a").unlink()


def test_a_sequential_read_has_as_many_requests_in_flight_as_the_backend_asks_for(
    mounting: Mounting, bucket: Bucket, proxy: FaultyProxy
) -> None:
    """The mount's own window is smaller than two parts."""
    content = os.urandom(48 << 20)
    bucket.put("a", content)
    most = running = 0
    began, ended = proxy.began, proxy.ended

    def begin(*arguments: object) -> object:
        nonlocal most, running
        running += 1
        most = max(most, running)
        return began(*arguments)  # type: ignore[arg-type]

    def end(*arguments: object) -> None:
        nonlocal running
        running -= 1
        ended(*arguments)  # type: ignore[arg-type]

    proxy.latency = 0.02
    proxy.began, proxy.ended = begin, end  # type: ignore[method-assign,assignment]
    with mounting() as path:
        proxy.taken()
        assert (path / "a").read_bytes() == content
        assert most >= 4
    with mounting(60, "-o", "read_ahead=1MiB") as path:
        most = 0
        assert (path / "a").read_bytes() == content
        assert most <= 3
