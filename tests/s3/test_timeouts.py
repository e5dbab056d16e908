"""Servers that do not answer, accept no connection, ask for a pause, or are away: when a call ends, and how often it is
made.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import BackendError, Event, PageCache, RetryPolicy, Volume, WritebackError
from pagecache.backends.s3 import S3Backend, backend_from_s3_url

from ..file.rig import Task, content_of, eventually, raises, stored
from .requests import is_for
from .servers import Bucket, Server, new_bucket

SERVERS = ("ministack",)
TWICE = RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.005)
OLD, NEW = os.urandom(100_000), os.urandom(100_000)
CALLS: dict[str, Callable[[Volume], object]] = {
    "open": lambda volume: volume.open("old", "rb").close(),
    "stat": lambda volume: volume.stat("old"),
    "list": lambda volume: list(volume.list()),
    "read": lambda volume: content_of(volume, "old"),
    "write": lambda volume: stored(volume, "new", NEW),
    "remove": lambda volume: volume.remove("useless"),
    "rename": lambda volume: volume.rename("moved", "there"),
}


@pytest.mark.parametrize("call", ["open", "stat", "list"])
def test_a_request_without_an_answer_ends_after_the_read_timeout(bucket: Bucket, proxy: FaultyProxy, call: str) -> None:
    """It is made as often as the retry policy says: the backend adds no retries."""
    over = threading.Event()
    silence = ProxyRule("call", times=math.inf, action=lambda: over.wait(60))
    with PageCache("128MiB", retry=TWICE) as cache:
        proxy.rules = [silence]
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=proxy.endpoint, read_timeout=0.1))
        assert raises(OSError, CALLS[call], volume, match="Read timeout").errno == errno.ETIMEDOUT
        over.set()
        assert silence.seen == TWICE.attempts


def test_a_server_that_accepts_no_connection_is_given_up_after_the_connect_timeout() -> None:
    """Its queue is full: no connection is refused, and none is made."""
    full = socket.socket()
    waiting: list[socket.socket] = []
    try:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):  # more than the queue takes
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        endpoint = f"http://127.0.0.1:{full.getsockname()[1]}"
        with PageCache("128MiB", retry=TWICE) as cache:
            backend = S3Backend("bucket", endpoint_url=endpoint, region_name="us-east-1", connect_timeout=0.1)
            assert raises(OSError, cache.attach(backend).stat, "k", match="Connect timeout").errno == errno.ETIMEDOUT
    finally:
        for each in (full, *waiting):
            each.close()


def test_the_timeouts_are_those_of_the_client() -> None:
    """The defaults are 5 s for a connection and 20 s for an answer; copies and completions have ten minutes."""
    plain = S3Backend("bucket", region_name="us-east-1").bucket.http
    assert (plain.connect_timeout, plain.read_timeouts) == (5.0, (20.0, 600.0))
    by_url = backend_from_s3_url("s3://bucket?region=us-east-1&connect_timeout=2&read_timeout=700.5").bucket.http
    assert (by_url.connect_timeout, by_url.read_timeouts) == (2.0, (700.5, 700.5))


@pytest.mark.parametrize("value", [0, -1, "soon", None, float("inf"), float("nan"), True])
@pytest.mark.parametrize("option", ["connect_timeout", "read_timeout"])
def test_a_timeout_that_is_none_is_refused(option: str, value: Any) -> None:
    """[T-59]"""
    with pytest.raises(ValueError, match=f"{option}: .* is not a number of seconds above 0"):
        S3Backend("bucket", region_name="us-east-1", **{option: value})


HUGE = "1732400000"  # a time, which some proxies send
BACKEND: dict[str, object] = {}
CACHE = {"retry": RetryPolicy(attempts=1, failed_retry=None)}


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


@pytest.mark.parametrize("outage", ["short", pytest.param("long", marks=pytest.mark.slow)])
def test_a_server_that_restarts_raises_nothing(own_server: Server, outage: str) -> None:
    """A short outage ends when every call has failed, a long one when it is reported. [2.14, 2.27]"""
    with new_bucket(own_server) as bucket, PageCache("64MiB") as cache:
        for key in ("old", "useless", "moved"):
            bucket.put(key, OLD)
        reported: list[Event] = []
        cache.subscribe(lambda event: reported.append(event) if event.kind == "stalled" else None)
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=own_server.endpoint))
        own_server.kill()
        tasks = {call: Task(run, volume) for call, run in CALLS.items()}
        if outage == "short":
            one_after_another = {"open", "read"}  # they are for one name
            trying = len(tasks) - len(one_after_another) + 1
            eventually(lambda: sum("next try" in wait.what for wait in cache.waits()) == trying)
        else:
            eventually(lambda: reported)
        early = [call for call, task in tasks.items() if task.finished.is_set()]
        own_server.start()
        results = {call: task.result(90.0) for call, task in tasks.items()}
        assert early == []
        assert results["read"] == OLD
        assert bucket.keys() == ["new", "old", "there"]
        assert bucket.get("new") == NEW
