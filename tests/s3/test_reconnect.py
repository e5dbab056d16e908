"""A volume over S3 that is aborted and reconnected to its backend at each request of a commit: no byte is lost, or told
as lost.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

import pytest

from pagecache import PageCache, RetryPolicy, ShutdownError
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
