"""Objects larger than the cache: what leaves memory before a commit is private, readable, and safe."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, DataLossError, PageCache, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.testing.proxy import FaultyProxy, ProxyRule

from .requests import counted, is_for
from .servers import Bucket, Server, new_bucket

PART = 64 << 10
SIZE = 4 << 20
CAPACITY = "1MiB"
AGAIN = RetryPolicy(attempts=60, first_delay=0.05, max_delay=0.2)


@pytest.fixture
def server(ministack: Server) -> Server:
    """The one that takes small parts."""
    return ministack


def small(bucket: Bucket, endpoint: str) -> S3Backend:
    return S3Backend(bucket.name, endpoint_url=endpoint, part_size=PART, least_part=1)


@pytest.fixture
def volume(bucket: Bucket, proxy: FaultyProxy) -> Iterator[Volume]:
    with PageCache(CAPACITY, retry=AGAIN) as cache:
        yield cache.attach(small(bucket, proxy.endpoint))


def stored(bucket: Bucket, key: str) -> bytes:
    body: bytes = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    return body


def rewritten(file: CachedFile, content: bytearray, seed: int, count: int = 60) -> None:
    """Overwrite pieces of all sizes anywhere, and keep `content` like it; reads in between see what was written."""
    choose = random.Random(seed)
    for _ in range(count):
        offset, length = choose.randrange(len(content)), choose.choice([1, 100, 5000, 100_000])
        data = choose.randbytes(min(length, len(content) - offset))
        file.pwrite(data, offset)
        content[offset : offset + len(data)] = data
        look = choose.randrange(len(content))
        assert file.pread(5000, look) == content[look : look + 5000]


def test_objects_larger_than_the_cache_are_written_rewritten_and_committed(bucket: Bucket, volume: Volume) -> None:
    content = bytearray(random.Random(1).randbytes(SIZE))
    with volume.open("k", "w+") as file:
        file.write(content)
        rewritten(file, content, 2)
        assert bucket.keys(".pagecache/")
        assert bucket.keys("k") == []
        assert list(volume.list()) == []
        file.fsync()
        assert stored(bucket, "k") == content
        rewritten(file, content, 3)
    assert stored(bucket, "k") == content
    assert bucket.left_behind() == []


def test_what_is_abandoned_leaves_nothing(bucket: Bucket, volume: Volume) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="k", Body=b"old" * SIZE)
    file = volume.open("k", "r+")
    content = bytearray(b"old" * SIZE)
    rewritten(file, content, 4, count=100)
    assert bucket.left_behind()
    file.abandon()
    volume.sync()
    with volume.open("k") as again:
        assert again.read(9) == b"old" * 3
    assert bucket.left_behind() == []
    assert stored(bucket, "k") == b"old" * SIZE


def test_private_objects_that_were_written_over_are_deleted_before_the_commit(bucket: Bucket, volume: Volume) -> None:
    content = bytearray(SIZE)
    with volume.open("k", "w+") as file:
        file.write(content)
        for seed in range(4):
            file.seek(0)
            content[:] = random.Random(seed).randbytes(SIZE)
            file.write(content)
        assert len(bucket.keys(".pagecache/")) <= 3 * SIZE // PART
        file.fsync()
    assert stored(bucket, "k") == content


@pytest.mark.parametrize("policy", ["fail", "rebase", "take_remote"])
def test_conflicts_while_bytes_are_staged(bucket: Bucket, proxy: FaultyProxy, policy: Any) -> None:
    """Ours are there after each, but where they are given up on purpose, which is told."""
    theirs = random.Random(5).randbytes(SIZE)
    with PageCache(CAPACITY, retry=AGAIN) as cache:
        volume = cache.attach(small(bucket, proxy.endpoint), on_conflict=policy)
        bucket.client.put_object(Bucket=bucket.name, Key="k", Body=bytes(SIZE))
        file = volume.open("k", "r+")
        pieces = [(offset, bytes([1 + offset // PART % 250]) * PART) for offset in range(0, 24 * PART, 2 * PART)]
        for offset, data in pieces:
            file.pwrite(data, offset)
        bucket.client.put_object(Bucket=bucket.name, Key="k", Body=theirs)
        ours = bytearray(theirs)
        for offset, data in pieces:
            ours[offset : offset + PART] = data
        if policy == "fail":
            with pytest.raises(ConflictError):
                file.fsync()
            assert all(file.pread(PART, offset) == data for offset, data in pieces)
            volume.resolve("k", "rebase")
            file.fsync()
        elif policy == "rebase":
            file.fsync()
        else:
            with pytest.raises(DataLossError):
                file.fsync()
        with suppress(DataLossError):
            file.close()
        assert stored(bucket, "k") == (theirs if policy == "take_remote" else ours)


def test_a_server_that_is_restarted_in_mid_upload_loses_nothing(new_server: Callable[[str], Server]) -> None:
    """It forgets uploads that are open: what was sent to them is sent again, what was staged is there."""
    server = new_server("ministack")
    with new_bucket(server) as bucket, PageCache(CAPACITY, retry=AGAIN) as cache:
        volume = cache.attach(small(bucket, server.endpoint))
        content = bytearray(random.Random(6).randbytes(SIZE))
        with volume.open("k", "w+") as file:
            for begin, end in pairwise(range(0, SIZE + 1, SIZE // 4)):
                file.write(content[begin:end])
                server.kill()
                server.start()
            rewritten(file, content, 7, count=20)
            file.fsync()
            server.kill()
            server.start()
            assert file.pread(SIZE, 0) == content
        assert stored(bucket, "k") == content


def test_staged_bytes_that_somebody_deletes_are_a_loss_that_is_told(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume
) -> None:
    file = volume.open("k", "w+")
    file.write(random.Random(8).randbytes(SIZE))
    for key in bucket.keys(".pagecache/"):
        if not key.endswith(".upload"):
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
    with pytest.raises(DataLossError):
        file.fsync()
    file.close()


def test_staged_units_travel_once(bucket: Bucket, proxy: FaultyProxy, volume: Volume) -> None:
    """Up when they are staged; the commit has the server copy them."""
    with volume.open("k", "w") as file:
        file.write(random.Random(9).randbytes(SIZE))
    calls = proxy.taken()
    parts = [call for call in calls if call.method == "PUT" and call.up > 100]
    assert sum(call.up for call in parts) <= SIZE + 4 * PART
    assert counted(calls)["UploadPartCopy"] >= SIZE // PART // 2
    assert sum(call.down for call in calls if is_for("GetObject")(call)) == 0


def test_a_commit_that_fails_leaves_what_is_staged(bucket: Bucket, proxy: FaultyProxy, volume: Volume) -> None:
    content = random.Random(10).randbytes(SIZE)
    with volume.open("k", "w") as file:
        file.write(content)
        rule = ProxyRule("status", is_for("CompleteMultipartUpload"), status=500, times=2)
        proxy.rules = [rule]
        file.fsync()
        assert rule.seen > 2
    assert stored(bucket, "k") == content
    sent = sum(call.up for call in proxy.taken())
    assert sent < 1.6 * SIZE
