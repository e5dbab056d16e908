"""A commit whose result is unknown: which stored version is that commit, and which one is another. [2.15, 2.19]"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from botocore.exceptions import ClientError

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import RetryPolicy
from pagecache.backends.s3 import S3Backend
from pagecache.testing import Gate

from ..file.rig import Task, raises
from .requests import is_for
from .servers import PART, Bucket

SERVERS = ("moto_small",)  # it ignores the condition of a completion, so that a late one lands
OLD = b"".join(bytes([i]) * PART for i in range(1, 5))
ONCE = RetryPolicy(attempts=1, failed_retry=None)


@pytest.fixture(autouse=True)
def stored(bucket: Bucket) -> None:
    bucket.put("k", OLD)


def lose(proxy: FaultyProxy, fault: Any) -> None:
    """Fail a completion, and every later request."""
    failed = ProxyRule(fault, is_for("CompleteMultipartUpload"))
    proxy.rules = [ProxyRule("reset", lambda call: failed.seen > 0, times=1000), failed]


def test_a_commit_that_lands_after_a_truncate_is_not_taken_for_the_truncated_one(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """The id in the metadata belongs to one image: bytes, size and cuts."""
    client, upload = bucket.client, {"Bucket": bucket.name, "Key": "k"}
    file = backend.open("k")
    file.write_from(3 * PART, [memoryview(b"W" * PART)])
    lose(proxy, "reset")
    raises(OSError, file.commit)
    proxy.rules.clear()
    [(_, id)] = bucket.uploads()
    parts = client.list_parts(**upload, UploadId=id)["Parts"]
    listed = [{name: part[name] for name in ("PartNumber", "ETag")} for part in parts]

    def land() -> None:
        with contextlib.suppress(ClientError):
            client.complete_multipart_upload(**upload, UploadId=id, MultipartUpload={"Parts": listed})

    file.truncate(3 * PART)
    proxy.rules = [ProxyRule("call", is_for("CompleteMultipartUpload"), action=land)]
    try:
        file.commit()
    except OSError:  # the upload was given up
        file.commit()
    assert bucket.get("k") == OLD[: 3 * PART]


def test_a_read_that_finds_a_commit_of_unknown_result_goes_on_while_the_next_commit_finds_it(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """Only the commit records it."""
    file, room = backend.open("k"), bytearray(4)
    file.write_from(0, [memoryview(b"W" * PART)])
    lose(proxy, "lost")
    raises(OSError, file.commit)
    with Gate() as gate:
        proxy.rules = [ProxyRule("call", is_for("HeadObject"), action=gate.enter)]
        reading = Task(file.read_into, 3 * PART, [memoryview(room)])
        gate.wait_entered()
        file.commit()
        gate.release()
        assert (reading.result(), bytes(room)) == (4, OLD[-4:])
    assert bucket.get("k") == b"W" * PART + OLD[PART:]


def test_a_read_sees_later_bytes_over_an_unknown_commit(bucket: Bucket, proxy: FaultyProxy, backend: S3Backend) -> None:
    file, room = backend.open("k"), bytearray(2 * PART)
    file.write_from(0, [memoryview(b"W" * PART)])
    lose(proxy, "lost")
    raises(OSError, file.commit)
    proxy.rules.clear()
    file.truncate(PART + 10)
    assert file.read_into(0, [memoryview(room)]) == PART + 10
    assert bytes(room[: PART + 10]) == b"W" * PART + OLD[PART : PART + 10]
