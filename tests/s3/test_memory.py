"""Writing, reading and changing a large object takes the cache's capacity, and one unit for each request in flight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .servers import Bucket

SERVERS = ("ministack",)
MiB = 1 << 20
CAPACITY, PART, IN_FLIGHT = 40 * MiB, 5 * MiB, 3
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


@pytest.mark.parametrize("size", [96 * MiB, pytest.param(1024 * MiB, marks=pytest.mark.slow)], ids=["96M", "1G"])
def test_memory_is_the_capacity_and_a_unit_for_each_request(bucket: Bucket, size: int) -> None:
    for what in ("write", "read", "change"):
        numbers = [str(number) for number in (size, CAPACITY, IN_FLIGHT)]
        command = [sys.executable, "-c", WORK, bucket.name, bucket.server.endpoint, what, *numbers]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert int(done.stdout) <= CAPACITY + IN_FLIGHT * PART + ROOM, what
        if what == "read":  # straight to its destination
            assert int(done.stdout) <= CAPACITY + ROOM // 2
