"""A volume over S3 that is aborted and reconnected to its backend at each request of a commit: no byte is lost, or told
as lost.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

import pytest

from pagecache import ConflictError, PageCache, RetryPolicy, ShutdownError
from pagecache.backends.s3 import Conditions, S3Backend
from pagecache.testing.proxy import FaultyProxy, ProxyCall, ProxyRule

from .requests import name_of
from .servers import Bucket, Server

PART = 64 << 10
OLD = random.Random(1).randbytes(4 * PART)
NEW = random.Random(2).randbytes(20 * PART)
PAGES, HOLE = 3 * 4096, 5 * PART  # where the hole begins, and its length
AGAIN = RetryPolicy(attempts=8, first_delay=0.001, max_delay=0.01)


@pytest.fixture(params=["ministack"])
def server(request: pytest.FixtureRequest, started: Callable[[str], Server]) -> Server:
    return started(request.param)


@pytest.mark.parametrize("punched", [False, True], ids=["bytes", "holes"])
def test_an_abort_and_a_reconnect_at_each_request_of_a_commit_lose_nothing(
    bucket: Bucket, proxy: FaultyProxy, punched: bool
) -> None:
    """More than memory holds is staged; the answer of the commit that goes on meanwhile counts for nothing. [2.22]"""
    backend = S3Backend(bucket.name, endpoint_url=proxy.endpoint, part_size=PART, least_part=1, conditions=Conditions())
    expected = NEW[:PAGES] + bytes(HOLE) + NEW[PAGES + HOLE :] if punched else NEW
    with PageCache("512KiB", retry=AGAIN) as cache:
        volume = cache.attach(backend)

        met: list[str] = []
        for nth in range(1, 1000):
            key = f"k{nth}"
            bucket.client.put_object(Bucket=bucket.name, Key=key, Body=OLD)
            seen: list[ProxyCall] = []
            begun, over = threading.Event(), threading.Event()

            def act(begun: threading.Event = begun, over: threading.Event = over) -> None:
                begun.set()
                volume.abort()
                volume.reconnect(volume.backend)
                over.set()

            def noted(call: ProxyCall, seen: list[ProxyCall] = seen) -> bool:
                seen.append(call)
                return True

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
                found = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
                assert found == expected, seen[nth - 1 : nth]
            if not begun.is_set():
                break
            met.append(name_of(seen[nth - 1]))
    assert {"CompleteMultipartUpload", "UploadPartCopy", "DeleteObjects"} <= set(met)


@pytest.mark.parametrize(("to", "fenced"), [("the same", True), ("another", True), ("another", False)])
def test_a_commit_that_lands_behind_a_reconnect_which_does_not_know_of_it_is_a_conflict(
    bucket: Bucket, proxy: FaultyProxy, to: str, fenced: bool
) -> None:
    """The publishing request of the old commit is on its way when the file is opened anew: nobody knows then whose
    version it makes. Nothing is lost. [2.22]
    """
    known = Conditions()
    backends = [
        S3Backend(bucket.name, endpoint_url=proxy.endpoint, part_size=PART, least_part=1, conditions=known)
        for _ in range(2)
    ]
    bucket.client.put_object(Bucket=bucket.name, Key="k", Body=OLD)
    reconnected, landed = threading.Event(), threading.Event()

    def act() -> None:
        volume.abort()
        volume.reconnect(backends[0 if to == "the same" else 1], fenced=fenced)
        reconnected.set()

    def published(call: ProxyCall) -> bool:
        if (
            name_of(call) == "DeleteObject" and reconnected.is_set()
        ):  # the note of the upload: the first request behind the publishing one
            landed.set()
        return name_of(call) == "CompleteMultipartUpload"

    with PageCache("512KiB", retry=AGAIN) as cache:
        volume = cache.attach(backends[0])
        with volume.open("k", "r+") as file:
            file.pwrite(NEW[:PAGES], PART)
            proxy.rules = [ProxyRule("call", published, action=act)]
            with contextlib.suppress(ShutdownError):
                file.fsync()
            assert landed.wait(60)
            with pytest.raises(ConflictError):
                file.fsync()
            assert file.pread(PAGES, PART) == NEW[:PAGES]
            volume.resolve("k", "rebase")
        found = bucket.client.get_object(Bucket=bucket.name, Key="k")["Body"].read()
        assert found == OLD[:PART] + NEW[:PAGES] + OLD[PART + PAGES :]
    for backend in backends:
        backend.close()
