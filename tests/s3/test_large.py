"""Large objects: requests and bytes of a change, parts of one that does not fit into the cache, and memory.

The servers copy parts in Python, and moto copies the whole object for each requested range of it. Tests with many
copies use 64 MiB in `make test`, and 256 MiB in `make slow`.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from examples.proxy import FaultyProxy, ProxyCall
from pagecache import PageCache, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.conditions import Conditions

from .requests import counted, name_of
from .servers import Bucket

MiB = 1 << 20
PART = 8 * MiB
LARGE = 256 * MiB  # four times the cache
UNIT = random.Random(1).randbytes(PART)
# moto copies the object for each part of it that is copied, in Python, without a byte in between.
BACKEND = {"read_timeout": 600}


SIZES = pytest.mark.parametrize("size", [64 * MiB, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["64M", "256M"])


@pytest.fixture
def large(bucket: Bucket, size: int) -> str:
    """Store one part, again and again: the server copies it."""
    client, where = bucket.client, {"Bucket": bucket.name, "Key": "large"}
    upload = client.create_multipart_upload(**where)["UploadId"]
    first = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=UNIT)
    client.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": first["ETag"]}]}
    )
    upload = client.create_multipart_upload(**where)["UploadId"]
    source = {"Bucket": bucket.name, "Key": "large"}
    parts = []
    for number in range(1, size // PART + 1):
        copied = client.upload_part_copy(**where, UploadId=upload, PartNumber=number, CopySource=source)
        parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    return "large"


def piece(bucket: Bucket, offset: int, length: int) -> bytes:
    return bucket.get("large", Range=f"bytes={offset}-{offset + length - 1}")


def moved(calls: list[ProxyCall]) -> tuple[int, int]:
    """Bytes up and down."""
    return sum(call.up for call in calls), sum(call.down for call in calls)


@SIZES
@pytest.mark.timeout(3600)
def test_changes_of_a_large_object_move_what_was_changed(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, large: str, size: int
) -> None:
    with volume.open("warm up", "w") as file:
        file.write(bytes(PART))  # the server's conditions are detected
    proxy.taken()
    with volume.open(large, "r+") as file:
        file.pwrite(b"X", size // 2 + 5)
    calls = proxy.taken()
    up, down = moved(calls)
    assert up <= PART + 4096
    assert down <= PART + MiB + 4096  # the first bytes come with the open
    assert counted(calls)["UploadPart"] == 1
    copies = counted(calls)["UploadPartCopy"]
    assert copies == 2
    extra = [name_of(call) for call in calls if name_of(call) not in ("UploadPart", "UploadPartCopy", "GetObject")]
    assert len(extra) <= 5 + 2 * (bucket.server.kind == "moto"), extra  # if conditions are compared, not sent
    assert piece(bucket, size // 2, 10) == UNIT[:5] + b"X" + UNIT[6:10]

    choose, begin = random.Random(2), size // 4 + 3
    places = choose.sample(range(begin, begin + min(64 * MiB, size // 2), 4096), 100)
    written = {at: choose.randbytes(4096) for at in places}
    with volume.open(large, "r+") as file:
        for offset, data in written.items():
            file.pwrite(data, offset)
        file.fsync()
        for offset, data in written.items():
            assert file.pread(4096, offset) == data
            assert piece(bucket, offset, 4096) == data
    calls = [call for call in proxy.taken() if name_of(call) != "GetObject"]
    touched = {at // PART for offset in written for at in (offset, offset + 4095)}
    assert moved(calls)[0] <= len(touched) * 1.3 * PART
    assert bucket.client.head_object(Bucket=bucket.name, Key=large)["ContentLength"] == size

    with volume.open(large, "r+") as file:
        file.truncate(size - 3 * MiB)
        file.append(b"tail")
    up, down = moved(proxy.taken())
    assert (up, down) <= (PART + 4096, PART + 4096)
    assert piece(bucket, size - 3 * MiB - 2, 10) == UNIT[5 * MiB - 2 : 5 * MiB] + b"tail"


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_sequential_write_is_an_upload_of_its_parts(bucket: Bucket, proxy: FaultyProxy) -> None:
    """64 MiB through 24 MiB: one request begins, eight send, one completes; there is no other object. [2.23]"""
    content = random.Random(1).randbytes(64 * MiB)
    with PageCache(24 * MiB) as cache:
        volume = cache.attach(S3Backend(bucket.name, endpoint_url=proxy.endpoint, conditions=Conditions()))
        assert not volume.exists("k")  # the bucket is asked for once
        proxy.taken()
        with volume.open("k", "x") as file:
            for at in range(0, len(content), MiB):
                file.write(content[at : at + MiB])
                assert bucket.keys() == []
        calls = proxy.taken()
    assert dict(counted(calls)) == {"CreateMultipartUpload": 1, "UploadPart": 8, "CompleteMultipartUpload": 1}
    assert bucket.get("k") == content
    assert bucket.keys() == ["k"]
    assert bucket.left_behind() == []


CAPACITY, UNITS = 40 * MiB, 3 * 5 * MiB
"""Capacity of a cache, and the units of the requests that are in flight."""
ROOM = 12 * MiB
"""Allowance for stacks, connections, and memory held back by an allocator."""

WORK = """
import re, sys
from pathlib import Path
from pagecache import PageCache
from pagecache.backends.s3 import S3Backend

bucket, endpoint, what, size, capacity, inflight = sys.argv[1:4] + [int(word) for word in sys.argv[4:]]
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
with PageCache(capacity) as cache:
    volume = cache.attach(S3Backend(bucket, endpoint_url=endpoint, max_inflight=inflight, part_size="5MiB"))
    block = memoryview(bytearray(1 << 20))
    with volume.open("warm up", "w") as file:
        file.write(b"x" * 100)
    volume.backend.honours()
    before = peak()
    if what == "write":
        with volume.open("large", "w") as file:
            for _ in range(size >> 20):
                file.write(block)
    elif what == "read":
        with volume.open("large", "r") as file:
            while file.readinto(block):
                pass
    else:
        with volume.open("large", "r+") as file:
            for offset in range(1, size, 1 << 20):
                file.pwrite(b"changed", offset)
print(peak() - before)
"""


@pytest.mark.parametrize("server", ["ministack"], indirect=True)
@pytest.mark.parametrize("size", [96 * MiB, pytest.param(256 * MiB, marks=pytest.mark.slow)], ids=["96M", "256M"])
@pytest.mark.timeout(3600)
def test_memory_is_the_capacity_and_a_unit_for_each_request(bucket: Bucket, size: int) -> None:
    for what in ("write", "read", "change"):
        numbers = [str(number) for number in (size, CAPACITY, UNITS // (5 * MiB))]
        command = [sys.executable, "-c", WORK, bucket.name, bucket.server.endpoint, what, *numbers]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert int(done.stdout) <= CAPACITY + UNITS + ROOM, what
        if what == "read":  # straight to its destination
            assert int(done.stdout) <= CAPACITY + ROOM // 2
