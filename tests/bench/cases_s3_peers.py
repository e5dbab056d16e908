"""An S3 server whose every request takes 50 ms, beside s3fs with each of its caches, and smart_open.

Current versions of boto3 and s3fs exclude each other, so each library has a separate environment and process: `make
bench-s3-peers` installs both, and a row is skipped if its environment is missing. Neither can change a part of an
object. The jobs are reading it from its start to its end, reading 4 KiB at random places twice, and writing it. Without
latency the server bounds all of them.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pagecache.bench.harness import Variant
from pagecache.bench.plain import MIB, make_file
from pagecache.bench.subject import PAGE
from tests.bench.cases_s3 import BUCKET, KEY, LATENCY, ROUNDS, Store, moved
from tests.bench.peers import (
    Unavailable,
)
from tests.bench.rows import Bench, Row, case, comparison_row

ENVIRONMENTS = {"s3fs": ".venv-s3fs", "smart_open": ".venv-smart-open"}
CACHES = {
    "s3fs": ("readahead", "bytes", "blockcache", "background", "first", "mmap", "none"),
    "smart_open": ("",),
}
READS = 100
JOB = Path(__file__).with_name("s3_peer_job.py")


def python_of(library: str) -> Path | None:
    """The interpreter of the library's environment, below the current directory."""
    python = Path(ENVIRONMENTS[library]) / "bin" / "python"
    return python if python.exists() else None


class PeerProcess:
    """One of these libraries, in a separate process.

    Raises:
        Unavailable: its environment is missing, or it did not start.
    """

    def __init__(self, library: str, endpoint: str, stack: ExitStack) -> None:
        python = python_of(library)
        if python is None:
            raise Unavailable(f"no {ENVIRONMENTS[library]} here (`make bench-s3-peers`)")
        self.library = library
        command = [str(python), str(JOB), library, endpoint, BUCKET]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)
        if self._answer() != "ready":
            raise Unavailable(f"{library} does not start in {ENVIRONMENTS[library]}")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, what: str, key: str, **job: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "key": key, **job}) + "\n")
        self._process.stdin.flush()
        if (answer := self._answer()) != "done":
            raise Unavailable(f"{self.library}: {answer or 'it ended'}")


@case("s3-peers", "reading and writing S3 objects against s3fs with each of its caches, and smart_open")
def s3_peers(bench: Bench) -> Iterator[Row]:
    if not any(map(python_of, ENVIRONMENTS)):
        yield skipped_comparison_row(
            "S3 objects", "s3fs, smart_open", Unavailable("not installed (`make bench-s3-peers`)")
        )
        return
    with ExitStack() as stack:
        try:
            store = Store(bench.folder / "s3-peers", stack)
        except Unavailable as reason:
            yield skipped_comparison_row("S3 objects", "s3fs, smart_open", reason)
            return
        size = bench.settings.size
        store.client.upload_file(str(make_file(bench.folder / "s3-peers-object", size)), BUCKET, KEY)
        for library in ENVIRONMENTS:
            try:
                peer = PeerProcess(library, store.proxy.endpoint, stack)
            except Unavailable as reason:
                yield skipped_comparison_row("S3 objects", library, reason)
                continue
            for latency in (LATENCY, 0.0):
                store.proxy.latency = latency
                yield from beside(bench, store, peer, size, latency)


def beside(bench: Bench, store: Store, peer: PeerProcess, size: int, latency: float) -> Iterator[Row]:
    block, at = memoryview(bytearray(MIB)), f", {latency * 1000:.0f} ms"
    offsets = [bench.rng.randrange(0, size - PAGE) for _ in range(READS)] * 2

    def read(items: Sequence[int]) -> None:
        with store.volume.open(KEY, "rb") as file:
            while file.readinto(block):
                pass

    def here_and_there(items: Sequence[int]) -> None:
        with store.volume.open(KEY, "rb") as file:
            for offset in offsets:
                file.pread(PAGE, offset)

    def write(items: Sequence[int]) -> None:
        with store.volume.open("written", "wb") as file:
            for _ in range(size // MIB):
                file.write(block)

    for cache in CACHES[peer.library]:
        title = f"{peer.library} {cache}".strip()
        for what, own, job in (
            ("sequential read", read, partial(peer.do, "read", KEY, cache=cache)),
            (f"{READS} random reads of 4 KiB, twice", here_and_there,
             partial(peer.do, "random", KEY, cache=cache, offsets=offsets)),
        ):  # fmt: skip
            yield row(bench, store, what + at, title, own, job)
    yield row(
        bench, store, "sequential write" + at, peer.library, write, partial(peer.do, "write", "theirs", size=size)
    )


def row(bench: Bench, store: Store, what: str, title: str, own: Any, job: Any) -> Row:
    notes: dict[str, str] = {}

    def begin() -> None:
        store.volume.invalidate()
        store.calls()

    def end(name: str) -> None:
        notes[name] = moved(store.calls())

    variants = [
        Variant(name="pagecache", run=own, items=[0], before=begin, after=partial(end, "pagecache")),
        Variant(name=title, run=lambda items: job(), items=[0], before=begin, after=partial(end, title)),
    ]
    counts = {variant.name: 1 for variant in variants}
    try:
        result = bench.compare(variants, wall=True, rounds=min(bench.settings.rounds, ROUNDS), counts=counts)
    except Unavailable as reason:
        return skipped_comparison_row(what, title, reason)
    note = f"{notes['pagecache']}; {title} {notes[title]}"
    return comparison_row("s3-peers", what, title, result, "pagecache", title, note)


def skipped_comparison_row(what: str, against: str, reason: Unavailable) -> Row:
    return Row(case="s3-peers", metric=what, against=against, value=None, unit="× speed", skipped=str(reason))
