"""Through fsspec to a store whose every call takes 20 ms: P33, random reads, and changes in place.

The caches of fsspec and this one stand above equal stores, and do equal work in each round. Each ratio is shown with
the calls and bytes that reached the store. The store has no limit on bytes per second, which favours caches of whole
objects; the counts show the cost of that.

fsspec's caches cannot change an object. The peer of a change is therefore the work of a program without such a cache:
download, edit, upload.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pagecache.bench.harness import Variant, shuffled
from pagecache.bench.plain import BLOCK, MIB, make_file
from pagecache.bench.subject import KIB, PAGE
from tests.bench.peers import (
    Unavailable,
    required,
)
from tests.bench.rows import Bench, Row, case, comparison_row, skipped, timed

if TYPE_CHECKING:
    from tests.bench.fsspec_ways import Way

OWN = "pagecache"
ROUNDS = 5
Job = Callable[["Way", Sequence[int]], object]


def the_ways(bench: Bench, stack: ExitStack, size: int) -> list["Way"]:
    """All ways, closed with the stack.

    Raises:
        Unavailable: fsspec is not installed.
    """
    required("fsspec")
    from tests.bench.fsspec_ways import ways

    found = ways(bench.folder / "ways", size)
    for way in found:
        stack.callback(way.close)
    return found


def side_by_side(
    bench: Bench, case: str, metric: str, ways: Sequence["Way"], job: Job, items: Sequence[int], *, cold: bool
) -> Iterator[Row]:
    """A row for each peer; `cold`: each peer begins empty in each round, else with the state that the last one left.

    The last row is that of P33 if the case belongs to it: beside the peer with the least ratio.
    """
    for way in ways:
        if not cold:
            way.fresh()
            job(way, items)
    result = bench.compare(
        [
            Variant(
                name=way.name,
                run=partial(job, way),
                items=shuffled(items, bench.rng),
                before=way.fresh if cold else way.begin,
                after=way.end,
            )
            for way in ways
        ],
        wall=True,
        rounds=min(bench.settings.rounds, ROUNDS),
        counts={way.name: len(items) for way in ways},
    )
    own, *peers = ways
    for peer in peers:
        yield comparison_row(case, metric, peer.name, result, own.name, peer.name, counted(own, peer))
    if case == "fsspec-parquet" and not cold:
        best = min(
            [way for way in peers if OWN not in way.name], key=lambda peer: result.speed(own.name, peer.name).median
        )
        yield timed(case, "P33", result, own.name, best.name, f"the best was {best.name}; {counted(own, best)}")


def counted(own: "Way", peer: "Way") -> str:
    """The requests of the last round to the stores, the cache's and the peer's.

    Example: `calls 1 / 52, MiB 0.0 / 256.0`.
    """
    ours, theirs = own.traffic, peer.traffic
    return f"calls {ours.calls} / {theirs.calls}, MiB {ours.bytes_moved / MIB:.1f} / {theirs.bytes_moved / MIB:.1f}"


# ---------------------------------------------------------------- P33


def parquet_file(path: Path, size: int) -> Path:
    """Make a parquet file of about `size` bytes: row groups of 32 MiB, eight columns of numbers, not compressed."""
    parquet, arrow, numpy = required("pyarrow.parquet"), required("pyarrow"), required("numpy")
    rng = numpy.random.default_rng(1)
    columns = {f"column{n}": rng.random(size // 64) for n in range(8)}
    parquet.write_table(arrow.table(columns), path, row_group_size=512 * KIB, compression="none", use_dictionary=False)
    return path


@case("fsspec-parquet", "a parquet file read through fsspec, 20 ms a call, against fsspec's own caches", ("P33",))
def parquet(bench: Bench) -> Iterator[Row]:
    """P33: the file is opened and read as a table, the first time and again in the same process."""
    size = bench.settings.size
    with ExitStack() as stack:
        try:
            ways = the_ways(bench, stack, size)
            path = str(parquet_file(bench.folder / "table.parquet", size))
            read_table = required("pyarrow.parquet").read_table
        except Unavailable as reason:
            yield skipped("fsspec-parquet", "P33", str(reason))
            return

        def read(way: "Way", items: Sequence[int]) -> None:
            for _ in items:
                with way.open(path) as file:
                    read_table(file)

        what = f"read of a parquet file of {size // MIB} MiB"
        yield from side_by_side(bench, "fsspec-parquet", f"first {what}", ways, read, [0], cold=True)
        yield from side_by_side(bench, "fsspec-parquet", f"second {what}", ways, read, [0], cold=False)


# ---------------------------------------------------------------- random reads


@case("fsspec-random", "4 KiB random reads of a large object through fsspec, 20 ms a call, against fsspec's own caches")
def random_reads(bench: Bench) -> Iterator[Row]:
    """They go one after another through a file, and all together by `cat_ranges`; nothing is cached before."""
    size = bench.settings.size
    offsets = shuffled(range(0, size, PAGE), bench.rng)[: size // MIB]
    path = str(make_file(bench.folder / "object", size))

    def one_by_one(way: "Way", some: Sequence[int]) -> None:
        with way.open(path) as file:
            for offset in some:
                file.seek(offset)
                file.read(PAGE)

    def together(way: "Way", some: Sequence[int]) -> None:
        way.fs.cat_ranges([path] * len(some), [*some], [offset + PAGE for offset in some], on_error="raise")

    with ExitStack() as stack:
        try:
            ways = the_ways(bench, stack, size)
        except Unavailable as reason:
            yield absent("fsspec-random", "4 KiB random reads", str(reason))
            return
        what = f"4 KiB random reads of {size // MIB} MiB"
        first = f"{len(offsets)} {what}"
        yield from side_by_side(bench, "fsspec-random", first, ways, one_by_one, offsets, cold=True)
        yield from side_by_side(bench, "fsspec-random", f"{first}, by cat_ranges", ways, together, offsets, cold=True)


# ---------------------------------------------------------------- changes


@case("fsspec-writes", "10,000 4 KiB random writes into an object and sync, against download, edit, upload")
def writes(bench: Bench) -> Iterator[Row]:
    """Nothing is cached before; at the end the whole object is stored."""
    size = bench.settings.size
    offsets = shuffled(range(0, size, PAGE), bench.rng)[: min(10_000, size // (4 * PAGE))]
    page = BLOCK[:PAGE]

    def in_place(way: "Way", some: Sequence[int]) -> None:
        with way.fs.open(path(way), "r+b") as file:
            for offset in some:
                file.seek(offset)
                file.write(page)
            file.sync()

    def by_hand(way: "Way", some: Sequence[int]) -> None:
        copy = str(bench.folder / "copy")
        way.store.get_file(path(way), copy)
        with open(copy, "r+b") as file:
            for offset in some:
                os.pwrite(file.fileno(), page, offset)
        way.store.put_file(copy, path(way))

    def path(way: "Way") -> str:
        return str(bench.folder / f"object-{way.name}")

    def change(way: "Way", some: Sequence[int]) -> None:
        (in_place if way.name == OWN else by_hand)(way, some)

    with ExitStack() as stack:
        try:
            own, peer, *_ = the_ways(bench, stack, size)
        except Unavailable as reason:
            yield absent("fsspec-writes", "4 KiB random writes", str(reason))
            return
        peer.name = "download, edit, upload"
        for way in (own, peer):
            make_file(Path(path(way)), size)
        what = f"{len(offsets):,} random 4 KiB writes into {size // MIB} MiB, and sync"
        yield from side_by_side(bench, "fsspec-writes", what, [own, peer], change, offsets, cold=True)


def absent(case: str, metric: str, reason: str) -> Row:
    """The rows that could not be measured here."""
    return Row(case=case, metric=metric, against="fsspec", value=None, unit="× speed", skipped=reason)
