"""A volume over S3 is aborted and reconnected at each request of a commit: no byte is lost, or reported as lost.

tests/fsspec_below/test_reconnect.py has what every store of whole objects keeps.
"""

from __future__ import annotations

import contextlib
import random
import threading

import pytest

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache import RetryPolicy, ShutdownError, Volume

from ..file.rig import eventually
from .requests import is_for, name_of
from .servers import PART, Bucket

SERVERS = ("ministack",)
OLD = random.Random(1).randbytes(4 * PART)
NEW = random.Random(2).randbytes(20 * PART)
PAGES, HOLE = 3 * 4096, 5 * PART  # start of the hole, and its length
CACHE = {"capacity": "512KiB", "retry": RetryPolicy(attempts=8, first_delay=0.001, max_delay=0.01)}


@pytest.mark.parametrize("punched", [False, True], ids=["bytes", "holes"])
def test_an_abort_and_a_reconnect_at_each_request_of_a_commit_lose_nothing(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, punched: bool
) -> None:
    """More than memory holds is staged; the answer of the commit in flight is ignored. [2.22]"""
    met = set()
    for nth in range(1, 1000):
        if (name := interrupted(bucket, proxy, volume, f"k{nth}", punched, nth)) is None:
            break
        met.add(name)
    # The number of requests differs each time: the last ones may have been skipped.
    if (last := "CompleteMultipartUpload") not in met:
        assert interrupted(bucket, proxy, volume, last, punched, 1, last) is not None


def interrupted(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, key: str, punched: bool, nth: int, kind: str = ""
) -> str | None:
    """Abort and reconnect at the nth request whose name has this prefix. Return its name, if it came."""
    bucket.put(key, OLD)
    met: list[str] = []
    begun, over = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        volume.abort()
        volume.reconnect(volume.backend)
        over.set()

    def noted(call: ProxyCall) -> bool:
        if counts := name_of(call).startswith(kind):
            met.append(name_of(call))
        return counts

    with volume.open(key, "r+") as file:
        file.pwrite(NEW, 0)
        if punched:
            file.punch_hole(PAGES, HOLE)
        proxy.rules = [ProxyRule("call", noted, nth=nth, action=act)]
        with contextlib.suppress(ShutdownError):
            file.fsync()
        if begun.is_set():
            assert over.wait(60)
        proxy.rules = []
        file.fsync()
        found = bucket.get(key)
        assert found == (NEW[:PAGES] + bytes(HOLE) + NEW[PAGES + HOLE :] if punched else NEW), met[nth - 1 : nth]
    return met[nth - 1] if begun.is_set() else None


@pytest.mark.parametrize(("to", "fenced"), [("the same", True), ("another", True), ("another", False)])
def test_a_commit_that_lands_after_a_reconnect_is_recognised(
    bucket: Bucket, proxy: FaultyProxy, volume: Volume, to: str, fenced: bool
) -> None:
    """Its request is in flight when the file is opened anew, even if a fence has promised the contrary. [2.22]"""
    backend = volume.backend if to == "the same" else bucket.backend(proxy.endpoint)
    bucket.put("k", OLD)

    def act() -> None:
        volume.abort()
        volume.reconnect(backend, fenced=fenced)

    with volume.open("k", "r+") as file:
        file.pwrite(NEW[:PAGES], PART)
        proxy.rules = [ProxyRule("call", is_for("CompleteMultipartUpload"), action=act)]
        with contextlib.suppress(ShutdownError):
            file.fsync()
        eventually(lambda: bucket.get("k") != OLD)
        file.pwrite(NEW[PAGES : 2 * PAGES], 0)
        file.fsync()
    assert bucket.get("k") == NEW[PAGES : 2 * PAGES] + OLD[PAGES:PART] + NEW[:PAGES] + OLD[PART + PAGES :]
