"""A server that accepts connections and never answers, and one that does not accept: when a call ends, and how often it
is made.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import PageCache, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend, backend_from_s3_url

from ..file.rig import raises

TWICE = RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.005)


class Silent:
    """A server that accepts connections, reads requests, and answers none."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.requests = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            while request := connection.recv(1 << 16):
                self.requests += b" HTTP/1.1\r\n" in request
        except OSError:
            pass

    def close(self) -> None:
        self.socket.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.close()


CALLS: dict[str, Callable[[Volume], object]] = {
    "open": lambda volume: volume.open("large.bin", "rb"),
    "stat": lambda volume: volume.stat("large.bin"),
    "list": lambda volume: list(volume.list("large")),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_request_without_an_answer_ends_after_the_read_timeout(silent: Silent, call: str) -> None:
    """It is made as often as the retry policy says: the backend adds no retries."""
    with PageCache("128MiB", retry=TWICE) as cache:
        backend = S3Backend("bucket", endpoint_url=silent.endpoint, region_name="us-east-1", read_timeout=0.1)
        assert raises(OSError, CALLS[call], cache.attach(backend), match="Read timeout").errno == errno.ETIMEDOUT
        assert silent.requests == TWICE.attempts


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
