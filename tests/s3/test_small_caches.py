"""A cache of one to three parts writes and edits an object: a part that is whole is sent once, as its final part."""

from __future__ import annotations

import random

import pytest

from pagecache import PageCache, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.conditions import Conditions
from pagecache.testing.proxy import FaultyProxy

from ..file.rig import stored
from .requests import counted
from .servers import Bucket

SERVERS = ("moto",)
MiB = 1 << 20
SIZE = 64 * MiB
KNOWN = Conditions()


def attach(cache: PageCache, bucket: Bucket, proxy: FaultyProxy) -> Volume:
    return cache.attach(S3Backend(bucket.name, endpoint_url=proxy.endpoint, conditions=KNOWN))


def test_a_sequential_write_is_an_upload_of_its_parts(bucket: Bucket, proxy: FaultyProxy) -> None:
    """64 MiB through 24 MiB: one request begins, eight send, one completes; there is no other object. [2.23]"""
    content = random.Random(1).randbytes(SIZE)
    with PageCache(24 * MiB) as cache:
        volume = attach(cache, bucket, proxy)
        assert not volume.exists("k")  # the bucket is asked for once
        proxy.taken()
        with volume.open("k", "x") as file:
            for at in range(0, SIZE, MiB):
                file.write(content[at : at + MiB])
                assert bucket.keys() == []
        calls = proxy.taken()
    assert dict(counted(calls)) == {"CreateMultipartUpload": 1, "UploadPart": 8, "CompleteMultipartUpload": 1}
    assert bucket.get("k") == content
    assert bucket.keys() == ["k"]
    assert bucket.left_behind() == []


@pytest.mark.parametrize("capacity", [16 * MiB, 8 * MiB])
def test_a_cache_of_one_or_two_units_edits_an_object(bucket: Bucket, proxy: FaultyProxy, capacity: int) -> None:
    """Units are completed in memory of the requests, so none has to fit beside others. [2.12, 2.23]"""
    content, choose = bytearray(random.Random(2).randbytes(SIZE)), random.Random(3)
    with PageCache(capacity) as cache:
        volume = attach(cache, bucket, proxy)
        stored(volume, "k", content, "x")
        assert bucket.get("k") == content
        with volume.open("k", "r+") as file:
            for _ in range(60):
                at = choose.randrange(SIZE - 70_000)
                data = choose.randbytes(choose.choice([100, 4096, 70_000]))
                file.pwrite(data, at)
                content[at : at + len(data)] = data
                start = choose.randrange(SIZE - 5000)
                assert file.pread(5000, start) == content[start : start + 5000]
        cache.check()
    assert bucket.get("k") == content
    assert bucket.left_behind() == []
