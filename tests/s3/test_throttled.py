"""A server that asks for a pause: the accepted values, and what waits for how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pagecache import BackendError, PageCache, RetryPolicy, Volume, WritebackError
from pagecache.backends.s3 import S3Backend
from pagecache.testing.proxy import FaultyProxy, ProxyRule

from ..file.rig import raises
from .requests import is_for
from .servers import Bucket

SERVERS = ("ministack",)
HUGE = "1732400000"  # a time, which some proxies send
ONCE = RetryPolicy(attempts=1, failed_retry=None)


@pytest.fixture
def backend(bucket: Bucket, proxy: FaultyProxy) -> S3Backend:
    return S3Backend(bucket.name, endpoint_url=proxy.endpoint)


@pytest.fixture
def volume(backend: S3Backend) -> Iterator[Volume]:
    with PageCache("64MiB", retry=ONCE) as cache:
        yield cache.attach(backend)


def throttled(request: str, after: str, times: int = 1) -> ProxyRule:
    return ProxyRule("status", is_for(request), status=503, headers={"Retry-After": after}, times=times)


@pytest.mark.parametrize(
    ("after", "seconds"),
    [("0", 0.0), ("7", 7.0), ("61", 60.0), (HUGE, 60.0), ("1e9", 60.0)]
    + [(odd, 1.0) for odd in ("nan", "inf", "1e999", "-inf", "-1", "soon", "")],
)
def test_a_pause_is_at_most_a_minute_and_no_other_value_counts(
    proxy: FaultyProxy, backend: S3Backend, after: str, seconds: float
) -> None:
    proxy.rules = [throttled("HeadObject", after)]
    raised = raises(BackendError, backend.stat, "k")
    assert (raised.retry, raised.retry_after) == (True, seconds)
    backend.close()


def test_a_long_pause_that_a_request_of_a_commit_is_asked_for_is_left_to_the_retry_policy(
    proxy: FaultyProxy, bucket: Bucket, volume: Volume
) -> None:
    """No thread sleeps so long: another fsync commits."""
    bucket.put("k", b"old")
    with volume.open("k", "r+") as file:
        file.pwrite(b"n", 0)
        file.fsync()
        file.pwrite(b"e", 1)
        put = throttled("PutObject", HUGE)
        head = ProxyRule("status", lambda call: put.seen > 0, status=503, headers={"Retry-After": HUGE}, times=2)
        proxy.rules = [head, put]
        raises(WritebackError, file.fsync, timeout=30, match="503")
        assert [call.status for call in proxy.taken() if call.status == 503] == [503, 503]
        proxy.rules.clear()
        file.fsync(timeout=30)
    assert bucket.get("k") == b"ned"


@pytest.mark.parametrize("after", [HUGE, "nan", "-1"])
def test_a_close_ends_though_uploads_cannot_be_aborted(proxy: FaultyProxy, backend: S3Backend, after: str) -> None:
    file = backend.open("k", create=True)
    file.write_from(0, [memoryview(bytes(backend.sizes.part))])
    proxy.rules = [throttled("AbortMultipartUpload", after, times=1000)]
    file.close()
    backend.close()
    proxy.rules.clear()
    backend.close()
