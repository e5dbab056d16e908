"""docs/how-to/object-store.md: the requests of each call, counted by a proxy; opens of objects. [2.19, 2.20]"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.proxy import FaultyProxy, ProxyCall
from pagecache import ConflictError, DataLossError, PageCache, Volume
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.beginnings import KEPT, LEAST, LENGTH, Beginnings
from pagecache.backends.s3.conditions import Of
from pagecache.engine import volume as engine_volume

from ..file.rig import content_of, raises
from .requests import counted
from .servers import Bucket, Server, new_bucket

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "object-store.md"
SMALL, LARGE = random.Random(1).randbytes(16 << 10), random.Random(2).randbytes(20 << 20)
OTHER = SMALL[::-1]
MIDDLE = 10 << 20
BACKEND: dict[str, object] = {}

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


MEDIUM = random.Random(2).randbytes(3 << 20)


@pytest.fixture
def volume(bucket: Bucket, proxy: FaultyProxy, backend: S3Backend, volume: Volume) -> Volume:
    """A volume that knows what its server honours, and has made no request."""
    for key, body in {"small": SMALL, "large": MEDIUM, "empty": b""}.items():
        bucket.put(key, body, Metadata={"colour": "blue"})
    backend.honours(of="put")
    assert not volume.exists("nothing")
    proxy.taken()
    return volume


def requests(proxy: FaultyProxy) -> dict[str, int]:
    return dict(counted(proxy.taken()))


def test_more_cached_objects_than_open_files_are_not_asked_for_within_revalidate(
    proxy: FaultyProxy, volume: Volume, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are opened as they were seen, to be read and to be written. [2.19]"""
    monkeypatch.setattr(engine_volume, "IDLE_FILES_MAX", 8)
    keys = [f"many/{k}" for k in range(16)]
    for key in keys:
        bucket.put(key, key.encode())
        assert content_of(volume, key) == key.encode()
    requests(proxy)
    for key in keys:
        with volume.open(key, revalidate=3600) as file:
            assert file.read() == key.encode()
    assert requests(proxy) == {}
    with volume.open(keys[0], "r+b", revalidate=3600) as file:
        file.pwrite(b"M", 0)
    assert requests(proxy) == {"PutObject": 1}
    bucket.put(keys[1], b"another program's")
    with volume.open(keys[1], "r+b", revalidate=3600) as file:
        file.pwrite(b"M", 0)
        raises(ConflictError, file.fsync)
        volume.discard(keys[1])
        raises(DataLossError, file.fsync)
    for key in keys:
        bucket.remove(key)


def test_bytes_that_came_with_an_open_are_of_its_version(proxy: FaultyProxy, volume: Volume, bucket: Bucket) -> None:
    """A replacement after the open is found by the first read of other bytes, and nothing is mixed. [2.19]"""
    with volume.open("large", read_ahead=0) as file:
        bucket.put("large", bytes(len(MEDIUM)))
        assert file.pread(4096, 0) == MEDIUM[:4096]
        raises(ConflictError, file.pread, 4096, 2 << 20)


def test_an_empty_object_is_opened(proxy: FaultyProxy, volume: Volume) -> None:
    assert content_of(volume, "empty") == b""
    assert requests(proxy) == {"GetObject": 1, "HeadObject": 1}


def test_first_bytes_that_nobody_reads_are_dropped_at_the_limit() -> None:
    beginnings = Beginnings()
    kept = [beginnings.keep(bytes(LENGTH)) for _ in range(KEPT // LENGTH + 2)]
    assert [len(one.data) for one in kept] == [0, 0] + [LENGTH] * (KEPT // LENGTH)
    room = memoryview(bytearray(10))
    assert kept[0].fill(0, [room]) == 0
    assert kept[-1].fill(LENGTH - 4, [room]) == 4
    assert kept[-1].data == b""


def test_first_bytes_of_small_objects_are_limited_in_number_too() -> None:
    """Also those that were read, or whose file is gone: their entries take memory."""
    beginnings = Beginnings()
    kept = [beginnings.keep(b"x") for _ in range(KEPT // LEAST + 2)]
    assert [len(one.data) for one in kept] == [0, 0] + [1] * (KEPT // LEAST)
    for _ in range(2 * KEPT // LEAST):
        beginnings.keep(b"x")
    assert len(beginnings._kept) <= KEPT // LEAST
