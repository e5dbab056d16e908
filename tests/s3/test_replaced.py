"""Another client replaces or removes the object at each request of a read, and of a staging, in turn.

No read ever has bytes of two versions. No other client's version is replaced unnoticed. No local byte is lost, and no
part is left behind. The requests of a commit: `test_commit_faults.py`.
"""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial

import pytest

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache import ConflictError, RetryPolicy, Volume, WritebackError

from ..file.rig import content_of, raises
from .requests import is_for, name_of
from .servers import PART, SMALL_PARTS, Bucket

SERVERS = tuple(SMALL_PARTS)
OLD = random.Random(1).randbytes(7 * PART + 100)
THEIRS = random.Random(2).randbytes(9 * PART)
SIZE = 5 << 18
CACHE = {"capacity": "512KiB", "retry": RetryPolicy(attempts=8, first_delay=0.001, max_delay=0.01)}
VOLUME = {"read_ahead": 0}
WAYS = pytest.mark.parametrize("way", ["replaced", "removed", "replaced for a while"])


def act(bucket: Bucket, way: str, key: str, old: bytes) -> None:
    """Act as another client. If its version is replaced again, equal bytes then belong to another version."""
    if way == "removed":
        bucket.remove(key)
        return
    bucket.put(key, THEIRS)
    if way != "replaced":
        bucket.put(key, old)


def is_no_head(call: ProxyCall) -> bool:
    return call.method != "HEAD"


@WAYS
def test_a_read_beside_a_change_is_of_one_version(bucket: Bucket, proxy: FaultyProxy, volume: Volume, way: str) -> None:
    nth, changed = 0, True
    while changed:
        nth += 1
        key, done, refused = f"k{nth}", b"", False
        bucket.put(key, OLD)
        with volume.open(key) as file:
            rule = ProxyRule("call", is_for("GetObject"), nth, action=partial(act, bucket, way, key, OLD))
            proxy.rules = [rule]
            with suppress(ConflictError):
                refused = True
                while piece := file.read(PART):
                    done += piece
                refused = False
        changed = rule.seen >= nth
        proxy.rules = []
        assert OLD.startswith(done)
        assert refused or done == OLD
        assert refused == (changed and way != "replaced for a while"), "the same bytes under the same ETag are the same"
        if not changed:
            break
        if way == "removed":
            raises(FileNotFoundError, volume.open, key)
            continue
        assert content_of(volume, key) == (THEIRS if way == "replaced" else OLD)
    assert nth > 4


@WAYS
def test_another_client_changes_the_object_at_each_request_while_local_bytes_are_staged(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, way: str
) -> None:
    """Up to the publishing request, which `test_commit_faults.py` covers. Staged bytes survive and are stored."""
    if way == "replaced for a while" and bucket.server.kind != "ministack":
        pytest.skip("a copy takes what is there at its moment: this server ignores the condition of copies")
    ours = random.Random(3).randbytes(SIZE)
    pieces = [(at, ours[at : at + PART]) for at in range(0, SIZE, 2 * PART)]
    old = bytes(SIZE)
    bucket.put("clean", old)
    proxy.taken()
    with volume.open("clean", "r+") as file:
        for offset, data in pieces:
            file.pwrite(data, offset)
    names = [name_of(call) for call in proxy.taken() if call.method != "HEAD"]
    assert names.count("UploadPart") > 4
    last = names.index("CompleteMultipartUpload") - 1
    for nth in range(2, last, -(-last // 6)):  # the first one is that of the open
        key = f"k{nth}."
        bucket.put(key, old)
        rule = ProxyRule("call", is_no_head, nth, action=partial(act, bucket, way, key, old))
        proxy.rules = [rule]
        refused = False
        with volume.open(key, "r+") as file:
            for offset, data in pieces:
                file.pwrite(data, offset)
            try:
                file.fsync()
            except (ConflictError, WritebackError):
                refused = True
                proxy.rules = []
                assert all(file.pread(PART, offset) == data for offset, data in pieces)
                assert bucket.keys(key) == ([] if way == "removed" else [key])
                volume.resolve(key, "rebase")
        assert rule.seen >= nth
        assert refused or way == "replaced for a while", nth  # a copy beside it may have met it
        expected = bytearray({"replaced": THEIRS, "removed": b""}.get(way, old).ljust(pieces[-1][0] + PART, b"\0"))
        for offset, data in pieces:
            expected[offset : offset + PART] = data
        assert bucket.get(key) == expected
        assert [left for left in bucket.left_behind() if key in left or "object" in left] == []
