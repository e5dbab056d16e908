"""Opens of objects: what tests of the page of requests (test_requests.py) do not show. [2.19, 2.20]"""

from __future__ import annotations

import random

import pytest

from examples.proxy import FaultyProxy
from pagecache import ConflictError, DataLossError, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.beginnings import KEPT, LENGTH, Beginnings
from pagecache.engine import volume as engine_volume

from ..file.rig import content_of, raises
from .requests import counted
from .servers import Bucket

BACKEND: dict[str, object] = {}
SMALL, LARGE = random.Random(1).randbytes(16 << 10), random.Random(2).randbytes(3 << 20)


@pytest.fixture
def volume(bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, volume: Volume) -> Volume:
    """A volume that knows what its server honours, and has made no request."""
    for key, body in {"small": SMALL, "large": LARGE, "empty": b""}.items():
        bucket.put(key, body, Metadata={"colour": "blue"})
    backend.honours(of="put")
    assert not volume.exists("nothing")
    proxy.taken()
    return volume


def requests(proxy: FaultyProxy) -> dict[str, int]:
    return dict(counted(proxy.taken()))


def test_more_cached_objects_than_open_files_are_not_asked_for_within_revalidate(
    proxy: FaultyProxy, volume: Volume, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are opened as they were seen, to be read and to be written. [2.19]"""
    monkeypatch.setattr(engine_volume, "IDLE_FILES_MAX", 8)
    keys = [f"many/{k}" for k in range(16)]
    for key in keys:
        bucket.put(key, key.encode())
        assert content_of(volume, key) == key.encode()
    requests(proxy)
    for key in keys:
        with volume.open(key, revalidate=3600) as file:
            assert file.read() == key.encode()
    assert requests(proxy) == {}
    with volume.open(keys[0], "r+b", revalidate=3600) as file:
        file.pwrite(b"M", 0)
    assert requests(proxy) == {"PutObject": 1}
    bucket.put(keys[1], b"another program's")
    with volume.open(keys[1], "r+b", revalidate=3600) as file:
        file.pwrite(b"M", 0)
        raises(ConflictError, file.fsync)
        volume.discard(keys[1])
        raises(DataLossError, file.fsync)
    for key in keys:
        bucket.remove(key)


def test_bytes_that_came_with_an_open_are_of_its_version(proxy: FaultyProxy, volume: Volume, bucket: Bucket) -> None:
    """A replacement after the open is found by the first read of other bytes, and nothing is mixed. [2.19]"""
    with volume.open("large", read_ahead=0) as file:
        bucket.put("large", bytes(len(LARGE)))
        assert file.pread(4096, 0) == LARGE[:4096]
        raises(ConflictError, file.pread, 4096, 2 << 20)


def test_an_empty_object_is_opened(proxy: FaultyProxy, volume: Volume) -> None:
    assert content_of(volume, "empty") == b""
    assert requests(proxy) == {"GetObject": 1, "HeadObject": 1}


def test_first_bytes_that_nobody_reads_are_dropped_at_the_limit() -> None:
    beginnings = Beginnings()
    kept = [beginnings.keep(bytes(LENGTH)) for _ in range(KEPT // LENGTH + 2)]
    assert [len(one.data) for one in kept] == [0, 0] + [LENGTH] * (KEPT // LENGTH)
    room = memoryview(bytearray(10))
    assert kept[0].fill(0, [room]) == 0
    assert kept[-1].fill(LENGTH - 4, [room]) == 4
    assert kept[-1].data == b""
