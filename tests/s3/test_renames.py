"""What tests/fsspec_below/test_renames.py cannot show of a rename of an object: tags, and requests of S3. [2.20]"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache import PageCache, RetryPolicy
from pagecache.backends.s3 import S3Backend

from ..file.rig import attached
from .requests import name_of
from .servers import PART, SMALL_PARTS, Bucket

SERVERS = tuple(SMALL_PARTS)
SOURCE = b"1" * (2 * PART + 100)
ONCE = RetryPolicy(attempts=1, failed_retry=None)
OFTEN = RetryPolicy(attempts=5, first_delay=0.001, max_delay=0.005)


def of_object(name: str, *requests: str) -> Callable[[ProxyCall], bool]:
    """A test whether a request is one of these, for this object."""
    return lambda call: name_of(call) in requests and call.path.endswith(f"/{name}")


@pytest.mark.parametrize("large", [False, True], ids=["one copy", "in parts"])
def test_a_renamed_object_keeps_its_tags_and_its_commits_do_too(
    bucket: Bucket, backend: S3Backend, large: bool
) -> None:
    """Also while another object has the old name. [2.20]"""
    client, tags = bucket.client, [{"Key": "of", "Value": "a"}]
    client.put_object(Bucket=bucket.name, Key="a", Body=SOURCE, Tagging="of=a")
    if large and bucket.server.kind == "ministack":
        pytest.skip("it ignores the tags of an upload")
    if large:  # as an object above the largest size of one copy
        backend.sizes = backend.requests.sizes = replace(backend.sizes, part_most=2 * PART, copied=PART)

    def stored_tags() -> object:
        return client.get_object_tagging(Bucket=bucket.name, Key="b")["TagSet"]

    with attached(backend, "4MiB", retry=ONCE) as volume, volume.open("a", "r+b") as file:
        file.pwrite(b"W" * PART, 0)
        file.flush()
        volume.rename("a", "b")
        assert stored_tags() == tags
        client.put_object(Bucket=bucket.name, Key="a", Body=b"another", Tagging="of=another")
        with contextlib.suppress(OSError):  # what was uploaded for the old name has to be sent again
            file.fsync()
        volume.retry_failed()
    assert (stored_tags(), bucket.get("b")) == (tags, b"W" * PART + SOURCE[PART:])


def test_a_rename_without_replacing_goes_on_after_the_lost_reply_of_its_copy(
    bucket: Bucket, proxy: FaultyProxy, backend: S3Backend
) -> None:
    """The copy is not taken for an object of another program. [2.14]"""
    bucket.put("a", SOURCE)
    proxy.rules = [ProxyRule("lost", of_object("b", "CopyObject"))]
    with PageCache("4MiB", retry=OFTEN) as cache:
        cache.attach(backend).rename("a", "b", replace=False)
    assert (bucket.keys(), bucket.get("b")) == (["b"], SOURCE)
