"""docs/how-to/object-store.md: the requests of each call, counted by a proxy. [2.19, 2.20]"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.proxy import FaultyProxy, ProxyCall
from pagecache import PageCache, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.conditions import Of

from ..file.rig import raises
from .requests import counted
from .servers import Bucket, Server, new_bucket

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "object-store.md"
SMALL, LARGE = random.Random(1).randbytes(16 << 10), random.Random(2).randbytes(20 << 20)
OTHER = SMALL[::-1]
MIDDLE = 10 << 20

Act = Callable[[Volume, Bucket], object]


def read(key: str, **how: float) -> Act:
    def act(volume: Volume, _bucket: Bucket) -> None:
        with volume.open(key, **how) as file:  # type: ignore[arg-type]
            assert file.read() in (LARGE, SMALL, OTHER)

    return act


def write(key: str, mode: str, data: bytes) -> Act:
    def act(volume: Volume, _bucket: Bucket) -> None:
        with volume.open(key, mode) as file:  # type: ignore[arg-type]
            file.write(data)

    return act


def change(key: str, at: int) -> Act:
    def act(volume: Volume, _bucket: Bucket) -> None:
        with volume.open(key, "r+b") as file:
            file.pwrite(b"!", at)

    return act


def middle(volume: Volume, _bucket: Bucket) -> None:
    with volume.open("large", read_ahead=0) as file:
        assert file.pread(4096, MIDDLE) == LARGE[MIDDLE : MIDDLE + 4096]


def missing(volume: Volume, _bucket: Bucket) -> None:
    raises(FileNotFoundError, volume.open, "missing")


def replace(_volume: Volume, bucket: Bucket) -> None:
    bucket.put("small", OTHER)


def looks(volume: Volume, _bucket: Bucket) -> None:
    assert volume.exists("small")


CALLS: dict[str, tuple[list[Act], Act]] = {
    "open and read a small object": ([], read("small")),
    "open and read it again": ([read("small")], read("small")),
    "the same, `revalidate=60`": ([read("small")], read("small", revalidate=60)),
    "open and read a small object that another program has replaced": ([read("small"), replace], read("small")),
    "open and read a large object": ([], read("large")),
    "read 4 KiB in the middle of a large object": ([], middle),
    "open an object that is not there": ([], missing),
    "create a small object, mode `x`": ([], write("new", "xb", SMALL)),
    "create a small object, mode `w`": ([], write("new", "wb", SMALL)),
    "replace a small object, mode `w`": ([], write("small", "wb", SMALL)),
    "change a byte of a small object": ([], change("small", 100)),
    "create a large object, mode `x`": ([], write("new", "xb", LARGE)),
    "change a byte in the middle of a large object": ([], change("large", MIDDLE)),
    "`Volume.exists`, `Volume.stat`": ([], looks),
    "`Volume.list`, for each thousand names": ([], lambda volume, _: list(volume.list())),
    "`Volume.remove`": ([], lambda volume, _: volume.remove("small")),
    "`Volume.rename` of a small object": ([], lambda volume, _: volume.rename("small", "new")),
    "`Volume.rename` of a small object that was read before": (
        [read("small")],
        lambda volume, _: volume.rename("small", "new"),
    ),
}


def rows() -> dict[str, str]:
    """The rows of the page's table."""
    table = PAGE.read_text().split("### The requests of each call")[1].split("Requests that are made once")[0]
    return dict(re.findall(r"^\| (?!Call|-)(.+?) \| (.+?) \|$", table, re.MULTILINE))


def text(calls: list[ProxyCall]) -> str:
    """Requests as the page writes them."""
    found = Counter(counted(calls))
    return ", ".join(name if n == 1 else f"{name} × {n}" for name, n in sorted(found.items())) or "none"


def fits(found: str, row: str) -> bool:
    """Return whether the requests are those of a row; "× 4 to 8": a number of these, as readahead follows the line."""
    if (bounds := re.search(r"× (\d+) to (\d+)$", row)) is None:
        return found == row
    number = re.fullmatch(re.escape(row[: bounds.start()]) + r"× (\d+)", found)
    return number is not None and int(bounds[1]) <= int(number[1]) <= int(bounds[2])


@pytest.mark.parametrize("call", CALLS)
def test_each_call_makes_the_requests_of_the_page(ministack: Server, call: str) -> None:
    before, act = CALLS[call]
    with new_bucket(ministack) as bucket, FaultyProxy(ministack.endpoint) as proxy, PageCache("128MiB") as cache:
        for key, body in {"small": SMALL, "large": LARGE}.items():
            bucket.put(key, body)
        backend = S3Backend(bucket.name, endpoint_url=proxy.endpoint)
        backend.honours(of="put")
        backend.honours(of="upload")
        volume = cache.attach(backend)
        assert not volume.exists("nothing")
        for one in before:
            one(volume, bucket)
        proxy.taken()
        act(volume, bucket)
        assert fits(text(proxy.taken()), rows()[call])
        cache.close()
        bucket.clear()


def test_the_page_has_a_test_for_each_row() -> None:
    assert rows().keys() == CALLS.keys()


@pytest.mark.parametrize("of", ["put", "upload"])
def test_a_trial_makes_the_requests_of_the_page(ministack: Server, of: Of) -> None:
    [told] = re.findall(rf"^\| .*\(`{of}`\) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    with new_bucket(ministack) as bucket, FaultyProxy(ministack.endpoint) as proxy:
        backend = S3Backend(bucket.name, endpoint_url=proxy.endpoint)
        backend.honours(of=of)
        assert text(proxy.taken()) == told
        backend.close()
