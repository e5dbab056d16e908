"""An S3 server whose every request takes 50 ms: P31 and P32, beside boto3. Other goals: `benchmarks/far.py`.

The server is ministack, a process on 127.0.0.1, and a proxy makes the latency and counts requests and bytes. The server
copies and stores in Python, some hundred MB a second at best, which bounds both sides; bytes and requests would be
those of any service. boto3 cannot change a part of an object. The peer of a change is therefore the work of a program
without the cache: download, edit, upload.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pagecache import PageCache
from pagecache.bench.harness import Variant
from pagecache.bench.plain import BLOCK, MIB, make_file
from pagecache.bench.subject import PAGE
from pagecache.testing.proxy import FaultyProxy, ProxyCall
from tests.bench.peers import (
    Unavailable,
    required,
)
from tests.bench.rows import Bench, Row, case, exact, skipped, timed

LATENCY = 0.05
ROUNDS = 3
PART = 8 * MIB
CAPACITY = "256MiB"
BUCKET, KEY, WARM = "bench", "object", "warm-up"
Job = Callable[[Sequence[int]], object]


class Store:
    """A server with one bucket, the cache over it, and boto3 beside it; both through the proxy.

    Args:
        folder: where the server writes its log.
        stack: ends all of it.

    Raises:
        Unavailable: a package is not installed, or the server did not start.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        for package in ("boto3", "ministack"):
            required(package)
        from pagecache.backends.s3 import S3Backend
        from tests.s3.servers import ENVIRONMENT, Server

        os.environ.update(ENVIRONMENT)
        server = Server("ministack_memory", folder)
        stack.callback(server.close)
        self.proxy = stack.enter_context(FaultyProxy(server.endpoint))
        self.client = server.client(self.proxy.endpoint)
        self.client.create_bucket(Bucket=BUCKET)
        cache = stack.enter_context(PageCache(CAPACITY))
        self.volume = cache.attach(S3Backend(BUCKET, endpoint_url=self.proxy.endpoint))
        with self.volume.open(WARM, "w") as file:
            file.write(bytes(PART))  # the server's conditions are detected
        self.proxy.latency = LATENCY

    def calls(self) -> list[ProxyCall]:
        return self.proxy.taken()


def moved(calls: Sequence[ProxyCall]) -> str:
    """The traffic as text, for example `37 requests, MiB 16.0 up, 8.0 down`."""
    up, down = sum(call.up for call in calls), sum(call.down for call in calls)
    return f"{len(calls)} requests, MiB {up / MIB:.1f} up, {down / MIB:.1f} down"


def beside(bench: Bench, store: Store, own: Job, peer: Job, items: Sequence[int]) -> tuple[Any, str]:
    """Both variants in turn, each begun with nothing cached; and the traffic of the last round of each."""
    notes: dict[str, str] = {}

    def begin() -> None:
        store.volume.invalidate()
        store.calls()

    def end(name: str) -> None:
        notes[name] = moved(store.calls())

    variants = [
        Variant(name=name, run=job, items=items, before=begin, after=partial(end, name))
        for name, job in (("pagecache", own), ("boto3", peer))
    ]
    counts = {variant.name: len(items) for variant in variants}
    result = bench.compare(variants, wall=True, rounds=min(bench.settings.rounds, ROUNDS), counts=counts)
    return result, f"{notes['pagecache']}; boto3 {notes['boto3']}"


# ---------------------------------------------------------------- the cases


@case("s3-edit", "one byte of a large S3 object, by parts and requests", ("P31/parts", "P31/requests"))
def edit(bench: Bench) -> Iterator[Row]:
    """P31: counted, and so exact. The requests are those beside reads, copies and parts."""
    size = bench.settings.size * 4
    with ExitStack() as stack:
        try:
            store = Store(bench.folder / "s3-edit", stack)
        except Unavailable as reason:
            for key in ("P31/parts", "P31/requests"):
                yield skipped("s3-edit", key, str(reason))
            return
        store.client.upload_file(str(make_file(bench.folder / "s3-object", size)), BUCKET, KEY)
        store.calls()
        with store.volume.open(KEY, "r+b") as file:
            file.pwrite(b"x", size // 2 + 1)
        calls = store.calls()
    parts = [call for call in calls if call.query.get("partNumber")]
    up = [call for call in parts if "x-amz-copy-source" not in call.headers]
    others = [call for call in calls if call not in parts and call.method not in ("GET", "HEAD")]
    note = f"an object of {size // MIB} MiB: {moved(calls)}"
    yield exact("s3-edit", "P31/parts", sum(call.up for call in up) / PART, note)
    yield exact("s3-edit", "P31/requests", len(others), f"and {len(parts) - len(up)} copies by the server")


@case("s3-writes", "4 KiB random writes into an S3 object, against download, edit, upload", ("P32/64M", "P32/all"))
def writes(bench: Bench) -> Iterator[Row]:
    """P32: 1,000 within a sixteenth of the object, 10,000 all over it, then fsync."""
    size = bench.settings.size * 4
    with ExitStack() as stack:
        try:
            store = Store(bench.folder / "s3-writes", stack)
        except Unavailable as reason:
            for key in ("P32/64M", "P32/all"):
                yield skipped("s3-writes", key, str(reason))
            return
        store.client.upload_file(str(make_file(bench.folder / "s3-object", size)), BUCKET, KEY)
        page, copy = BLOCK[:PAGE], str(bench.folder / "s3-copy")

        def in_place(offsets: Sequence[int]) -> None:
            with store.volume.open(KEY, "r+b") as file:
                for offset in offsets:
                    file.pwrite(page, offset)
                file.fsync()

        def by_hand(offsets: Sequence[int]) -> None:
            store.client.download_file(BUCKET, KEY, copy)
            with open(copy, "r+b") as file:
                for offset in offsets:
                    os.pwrite(file.fileno(), page, offset)
            store.client.upload_file(copy, BUCKET, KEY)

        for key, count, begin, end in (
            ("P32/64M", 1_000, size // 2, size // 2 + size // 16),
            ("P32/all", 10_000, 0, size),
        ):
            offsets = [bench.rng.randrange(begin, end - PAGE) for _ in range(count)]
            result, note = beside(bench, store, in_place, by_hand, offsets)
            yield timed("s3-writes", key, result, "pagecache", "boto3", note)
