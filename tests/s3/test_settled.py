"""The effect of `resolve` on an object of a bucket, and on a version that is stored after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import CachedFile, ConflictError, PageCache, RetryPolicy, Volume
from pagecache.backends.s3.conditions import Conditions

from ..file.rig import raises
from .requests import is_for
from .servers import PART, Bucket

SERVERS = ("ministack",)
OLD = random.Random(1).randbytes(4 * PART)
THEIRS, LATER = b"theirs" * PART, b"later" * PART
MINE = b"mine" * 1000
NOT_HONOURED = Conditions(create=False, put=False, complete=False, copy=False)
AGAIN = RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.01)
How = Literal["force", "rebase"]


@pytest.fixture
def attach(proxy: FaultyProxy, bucket: Bucket) -> Iterator[Callable[[Conditions], Volume]]:
    with PageCache("1MiB", retry=AGAIN) as cache:

        def attached(conditions: Conditions) -> Volume:
            return cache.attach(bucket.backend(proxy.endpoint, conditions=conditions))

        yield attached
        proxy.rules.clear()


def laid_over(content: bytes) -> bytes:
    return content[:5] + MINE + content[5 + len(MINE) :]


def in_conflict(bucket: Bucket, volume: Volume) -> CachedFile:
    """A file in conflict, with its whole version in memory, so that it can be forced."""
    bucket.put("k", OLD)
    file = volume.open("k", "r+")
    file.read()
    file.pwrite(MINE, 5)
    bucket.put("k", THEIRS)
    raises(ConflictError, file.fsync)
    return file


@pytest.mark.parametrize("how", ["force", "rebase"])
@pytest.mark.parametrize("conditions", [Conditions(), NOT_HONOURED], ids=["honoured", "compared"])
def test_a_version_that_is_stored_while_a_settled_one_is_published(
    bucket: Bucket, proxy: FaultyProxy, attach: Callable[[Conditions], Volume], conditions: Conditions, how: How
) -> None:
    """A server that checks the condition refuses; if versions are compared it is replaced unnoticed."""
    volume = attach(conditions)
    with in_conflict(bucket, volume) as file:
        volume.resolve("k", how)
        proxy.rules = [ProxyRule("call", is_for("CompleteMultipartUpload"), action=partial(bucket.put, "k", LATER))]
        if not conditions.complete:
            file.fsync()
        else:
            raises(ConflictError, file.fsync)
            assert bucket.get("k") == LATER
            volume.resolve("k", how)
            file.fsync()
        found = bucket.get("k")
    if how == "force":
        assert found == laid_over(OLD)
    else:
        assert found[5 : 5 + len(MINE)] == MINE
        assert found[4096:] == (LATER if conditions.complete else THEIRS)[4096:]
