"""Few requests when each is slow: neighbours in one, ranges side by side."""

from __future__ import annotations

import random
import socket
import threading

import pytest
from urllib3.connection import HTTPConnection

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import Volume

from ..file.rig import Patch, stored
from .requests import counted, is_for
from .servers import Bucket

SERVERS = ("ministack",)
BACKEND: dict[str, object] = {}
MiB = 1 << 20
CONTENT = random.Random(1).randbytes(24 * MiB)


@pytest.fixture
def bucket(bucket: Bucket) -> Bucket:
    bucket.put("k", CONTENT)
    return bucket


def test_ranges_are_fetched_side_by_side(proxy: FaultyProxy, volume: Volume) -> None:
    """Each request waits until there are four of them: one after another they would never be answered."""
    meeting = threading.Barrier(4, timeout=60)
    ranges = [((2 + n * 5) * MiB, 10_000) for n in range(4)]
    with volume.open("k") as file:
        proxy.rules = [ProxyRule("call", is_for("GetObject"), times=4, action=meeting.wait)]
        file.prefetch_ranges(ranges, wait=True)
        assert not meeting.broken
        proxy.taken()
        for offset, length in ranges:
            assert file.pread(length, offset) == CONTENT[offset : offset + length]
    assert counted(proxy.taken())["GetObject"] == 0


def test_neighbours_of_scattered_edits_are_one_request_for_each_part(proxy: FaultyProxy, volume: Volume) -> None:
    with volume.open("k", "r+") as file:
        for n in range(60):
            file.pwrite(b"x" * 100, 8 * MiB + n * 100_000)
    calls = proxy.taken()
    assert counted(calls)["GetObject"] <= 2
    assert sum(call.up for call in calls) <= 8 * MiB + 4096


def test_the_body_of_a_request_does_not_wait_until_its_headers_arrive(volume: Volume, monkeypatch: Patch) -> None:
    """Without TCP_NODELAY it waits for the server's delayed acknowledgement: 40 ms for each small object on Linux."""
    made: list[int] = []
    connect = HTTPConnection._new_conn

    def connected(self: HTTPConnection) -> socket.socket:
        sock = connect(self)
        made.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return sock

    monkeypatch.setattr(HTTPConnection, "_new_conn", connected)
    stored(volume, "new", b"bytes", "xb")
    assert made
    assert all(made)
