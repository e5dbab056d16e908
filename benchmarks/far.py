"""Ways into a far S3 bucket beside their peers: `python benchmarks/far.py [--delay 50ms] [--only NAME,…]`.

A job runs in rounds, all sides in each, another one first. Requests, bytes and requests in flight are exact, those of
the last round; times are medians. *Speed* is the median over rounds of the time of the peer with the least median,
divided by ours. `sides.py` has the server and the sides.

Nothing is cached when a job begins, but for those named "again". A job on a mount that creates ends when all is stored.
Engines read a data set of eight parquet files with their own client, and through `pagecache::`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import sides
from sides import BUCKET, MIB, PAGE, SMALL, Boto3, Far, Fsspec, Way

EDITS, FILES, ROWS = 200, 8, 250_000
COLUMNS = [f"c{number}" for number in range(8)]
SUM = f"SELECT {' + '.join(f'sum({column})' for column in COLUMNS)} FROM '{{}}/*.parquet'"


# ---------------------------------------------------------------- engines


class Engines(Way):
    """Programs that read the data set, by a file system of pyarrow."""

    def arrow(self) -> Any:
        raise NotImplementedError

    def dataset(self) -> None:
        """Store the parquet files, 16 MB each."""
        import numpy
        import pyarrow
        import pyarrow.parquet

        chance = numpy.random.default_rng(1)
        for number in range(FILES):
            table = pyarrow.table({name: chance.random(ROWS) for name in COLUMNS})
            with self.arrow().open_output_stream(f"{BUCKET}/data/{number}.parquet") as target:
                pyarrow.parquet.write_table(table, target, row_group_size=ROWS // 4, use_dictionary=False)

    def engine(self, name: str) -> None:
        """Sum all columns."""
        found = float(getattr(self, name)(f"{BUCKET}/data"))
        assert abs(found - 8 * FILES * ROWS / 2) < FILES * ROWS / 10

    def pyarrow(self, folder: str) -> Any:
        import pyarrow.dataset

        table = pyarrow.dataset.dataset(folder, filesystem=self.arrow(), format="parquet").to_table()
        return sum(table[column].to_numpy().sum() for column in COLUMNS)

    def pandas(self, folder: str) -> Any:
        import pandas

        return pandas.read_parquet(folder, filesystem=getattr(self, "fs", None) or self.arrow()).sum().sum()

    def tables(self, key: str) -> None:
        """Read the data set by two spawned processes, in four epochs."""
        spawn, keys = get_context("spawn"), [f"data/{number}.parquet" for number in range(FILES)]
        words = type(self), self.endpoint, self.words
        every = [spawn.Process(target=worker, args=(*words, keys[number::2], 4)) for number in (0, 1)]
        for process in every:
            process.start()
        for process in every:
            process.join()
            assert process.exitcode == 0


class Layers(Engines, Fsspec):
    """A file system of fsspec."""

    def arrow(self) -> Any:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self.fs))

    def polars(self, folder: str) -> Any:
        import polars
        import pyarrow.dataset

        found = pyarrow.dataset.dataset(folder, filesystem=self.arrow(), format="parquet")
        return polars.scan_pyarrow_dataset(found).sum().collect().sum_horizontal()[0]

    def duckdb(self, folder: str) -> Any:
        import duckdb

        with duckdb.connect() as connection:
            connection.register_filesystem(self.fs)
            return connection.sql(SUM.format(f"pagecache::s3://{folder}")).fetchall()[0][0]


class Arrow(Engines):
    """pyarrow's S3FileSystem, and the own clients of engines."""

    def __init__(self, endpoint: str, *words: str) -> None:
        super().__init__(endpoint, *words)
        self.host = endpoint.removeprefix("http://")

    def arrow(self) -> Any:
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(endpoint_override=self.host, scheme="http", region="us-east-1")

    def polars(self, folder: str) -> Any:
        import polars

        options = {"aws_endpoint_url": self.endpoint, "aws_virtual_hosted_style_request": "false"}
        lazy = polars.scan_parquet(f"s3://{folder}/*.parquet", storage_options=options)
        return lazy.sum().collect().sum_horizontal()[0]

    def duckdb(self, folder: str) -> Any:
        import duckdb
        import duckdb_extension_httpfs  # type: ignore[import-not-found]

        program = next(Path(duckdb_extension_httpfs.__path__[0]).rglob("*.duckdb_extension"))
        identity, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        keys = [f"KEY_ID '{identity}'", f"SECRET '{secret}'", f"ENDPOINT '{self.host}'"]
        keys += ["URL_STYLE 'path'", "USE_SSL false", "REGION 'us-east-1'"]
        with duckdb.connect() as connection:
            connection.execute(f"LOAD '{program}'")
            connection.execute(f"CREATE SECRET (TYPE s3, {', '.join(keys)})")
            return connection.sql(SUM.format(f"s3://{folder}")).fetchall()[0][0]


def worker(kind: type[Engines], endpoint: str, words: Sequence[str], keys: Sequence[str], epochs: int) -> None:
    import pyarrow.parquet

    way = kind(endpoint, *words)
    way.fresh()
    for key in [*keys] * epochs:
        with way.arrow().open_input_file(f"{BUCKET}/{key}") as file:
            assert pyarrow.parquet.read_table(file).num_rows == ROWS


SIDES: sides.Sides = {
    "ours": (sides.Ours, ("512MiB",)),
    "ours-128": (sides.Ours, ("128MiB",)),
    "fsspec": (Layers, ("pagecache", "0")),
    "fsspec-kept": (Layers, ("pagecache", "3600")),
    "boto3": (Boto3, ()),
    "obstore": (sides.Obstore, ()),
    "s3fs": (Layers, ()),
    "s3fs-file": (Layers, ("filecache",)),
    "own client": (Arrow, ()),
}

# ---------------------------------------------------------------- jobs

PEERS = {
    "L": ("boto3", "obstore", "s3fs"),
    "C": ("boto3", "obstore", "s3fs", "s3fs-file"),
    "O": ("boto3", "obstore"),
    "M": ("rclone-writes", "rclone-full", "s3fs-fuse"),
    "E": ("own client", "s3fs"),
    "P": ("own client",),
}


@dataclass(frozen=True)
class Job:
    """A job of a side and its peers (a key of PEERS).

    Attributes:
        count, size: of the objects.
        how: `again`: it runs before it is measured; `made`: it makes the objects; `stored`: it ends with these.
        most: requests of our side; `least`: its speed.
        words: more arguments; `own`: those of our side alone.
    """

    name: str
    text: str
    act: str
    side: str
    peers: str
    count: int
    size: int
    threads: int
    how: str
    most: int | None
    least: float | None
    words: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)


def jobs(quick: bool) -> dict[str, Job]:
    few, many, listed, hundred = (4, 16, 50, 8) if quick else (250, 1000, 5000, 100)
    large, huge = (32 * MIB, 48 * MIB) if quick else (256 * MIB, 1024 * MIB)
    small, parts, none = len(SMALL), large // (8 * MIB), None
    chance = random.Random(40)

    def at(begin: int, end: int, count: int = EDITS) -> dict[str, Any]:
        return {"offsets": [chance.randrange(begin, end - PAGE) for _ in range(count)]}

    near, over, some = at(large // 2, large // 2 + large // 16), at(0, large), at(0, large, 2 * few)
    hour = {"revalidate": 3600.0}
    # fmt: off
    found = [
        Job("read-1", f"{few} reads of 16 KiB", "read", "ours", "L", few, small, 1, "", few, 1),
        Job("again-1", "the same again", "read", "ours", "L", few, small, 1, "again", few, none),
        Job("kept-1", "again, within `revalidate`", "read", "ours", "C", few, small, 1, "again", 0, 3, {}, hour),
        Job("read-16", f"{few} reads, 16 threads", "read", "ours", "L", few, small, 16, "", few, 1),
        Job("again-16", "the same again", "read", "ours", "L", few, small, 16, "again", few, 3),
        Job("kept-16", "again, within `revalidate`", "read", "ours", "L", few, small, 16, "again", 0, 3, {}, hour),
        Job("create", f"{hundred} creates, 16 threads", "create", "ours", "L", hundred, small, 16, "made", hundred, .9),
        Job("creates", f"{many:,} creates, 16 threads", "create", "ours", "L", many, small, 16, "made", many, 0.9),
        Job("stream", f"{large // MIB} MiB in order, a handle", "stream", "ours", "L", 1, large, 1, "", parts + 3, 1),
        Job("stream-again", "the same again", "stream", "ours", "C", 1, large, 1, "again", 1, 3),
        Job("fsspec", "the same over fsspec", "stream", "fsspec", "C", 1, large, 1, "", parts + 3, 1),
        Job("fsspec-again", "the same again", "stream", "fsspec", "C", 1, large, 1, "again", 1, 3),
        Job("mount", "the same in a mount", "stream", "mount", "M", 1, large, 1, "", parts + 3, 1),
        Job("mount-again", "the same again", "stream", "mount", "M", 1, large, 1, "again", 1, 1),
        Job("write", f"{large // MIB} MiB written", "upload", "ours", "L", 1, 0, 1, "made", parts + 4, 1,
            {"size": large}),
        Job("writes", f"{huge // MIB} MiB, 128 MiB of memory", "upload", "ours-128", "L", 1, 0, 1, "made",
            huge // (8 * MIB) + 4, 1, {"size": huge}),
        Job("random", f"{2 * few} random reads of 4 KiB", "pick", "ours", "O", 1, large, 1, "", 2 * few + 1, 1, some),
        Job("edits-near", "200 edits in a sixteenth", "edit", "ours", "O", 1, large, 1, "", none, 4, near),
        Job("edits-all", "200 edits all over", "edit", "ours", "O", 1, large, 1, "", none, 1, over),
        Job("mount-read", f"mount: {hundred} reads", "read", "mount", "M", hundred, small, 1, "", hundred + 2, 1),
        Job("mount-reads", "the same again", "read", "mount", "M", hundred, small, 1, "again", 0, 1),
        Job("mount-create", f"mount: {hundred} creates, 16 threads", "create", "mount", "M", hundred, small, 16,
            "made stored", 2 * hundred + 2, 1),
        Job("mount-list", f"mount: {listed:,} names, stat", "listing", "mount", "M", listed, small, 1, "", none, 1,
            {"count": listed}),
    ]
    for name, peers in (("pyarrow", "E"), ("pandas", "E"), ("polars", "P"), ("duckdb", "P")):
        for more, text, side, how, least in (
            ("", f"{name}: {FILES} files", "fsspec", "", 1),
            ("-again", "the same again", "fsspec", "again", 3),
            ("-kept", "within `revalidate`", "fsspec-kept", "again", 3),
        ):
            found.append(Job(name + more, text, "engine", side, peers, 1, 0, 1, how, none, least))
    found.append(Job("workers", "2 workers, 4 epochs", "tables", "fsspec", "E", 1, 0, 1, "", none, 1))
    # fmt: on
    return {job.name: job for job in found}


Turn = tuple[float, float, dict[str, int]]


def once(far: Far, job: Job, name: str, delay: float) -> Turn:
    """Run a job of one side; return its seconds, those of its processor, and the counts."""
    run, top, engines = far.side(name), f"{job.name}/{time.time_ns()}", job.act in ("engine", "tables")
    keys = [job.name.partition("-")[0]] if engines else [f"{top}/{number}" for number in range(job.count)]
    if not engines:
        far.put(*(([f"{top}/first"], len(SMALL)) if "made" in job.how else (keys, job.size)))
    run("fresh")
    if name in sides.MOUNTS and "made" in job.how:
        os.listdir(run.top / top)
    far.order(delay=delay)
    words = job.words | (job.own if name == job.side else {})
    objects = [top] if job.act == "listing" else keys
    if "again" in job.how:
        run("do", job.act, objects, job.threads, **words)
    far.quiet()
    far.order(take=1)
    began = time.monotonic()
    seconds, cpu = run("do", job.act, objects, job.threads, **words)
    while "stored" in job.how and far.order()["puts"] < job.count:
        time.sleep(0.005)
    seconds = time.monotonic() - began if "stored" in job.how else seconds
    far.quiet()  # what was read ahead counts
    counts = far.order(take=1, delay=0.0)
    if not engines:
        list(far.client.pool.map(lambda key: far.client.client.delete_object(Bucket=BUCKET, Key=key), keys))
    return seconds, cpu, counts


# ---------------------------------------------------------------- tables

HEAD = "job | {} | best peer | {} | speed | goal | reached".replace("{}", "requests; MiB; in flight; s; CPU s")


def row(job: Job, found: dict[str, list[Turn]]) -> str:
    """Return the row of a job beside the peer with the least median."""
    times = {name: [turn[0] for turn in turns] for name, turns in found.items()}
    best = min({*found} - {job.side}, key=lambda name: median(times[name]), default=job.side)
    speed = median([theirs / ours for ours, theirs in zip(times[job.side], times[best], strict=True)])
    goals = {}
    if job.most is not None:
        goals[f"≤ {job.most:,} requests"] = found[job.side][-1][2]["requests"] <= job.most
    if job.least is not None:
        goals[f"≥ {job.least:g} × speed"] = speed >= job.least

    def cells(name: str) -> str:
        _, cpu, counts = zip(*found[name], strict=True)
        costs = f"{counts[-1]['requests']:,}; {counts[-1]['bytes'] / MIB:.1f}; {counts[-1]['most']}"
        return f"{costs}; {median(times[name]):.2f}; {median(cpu):.2f}"

    reached = "; ".join("yes" if one else "no" for one in goals.values())
    every = [f"{job.name}: {job.text}", cells(job.side), best, cells(best), f"{speed:.2f}", "; ".join(goals), reached]
    return f"| {' | '.join(every)} |"


def seconds(text: str) -> float:
    """Return the seconds of a text such as `20ms`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    value = float(found[1]) * {"ms": 0.001, "s": 1.0}[found[2]] if found else -1.0
    if not 0 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration of 0 to 60 s, such as 20ms")
    return value


def main() -> None:
    parser = sides.parser(__doc__, [*jobs(quick=False)])
    parser.add_argument("--delay", type=seconds, default=0.02, help="of each request (20ms)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    known = jobs(options.quick)
    with ExitStack() as stack:
        far = Far(SIDES, options.environment, stack)
        print(f"delay {options.delay * 1000:g} ms, load {os.getloadavg()[0]:.1f} at the start\n")
        print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
        if any(known[name].act in ("engine", "tables") for name in options.only):
            far.side("own client")("dataset")
        for job in [known[name] for name in options.only]:
            names = [name for name in (job.side, *PEERS[job.peers]) if far.side(name) is not None]
            turns = {name: partial(once, far, job, name, options.delay) for name in names}
            found = sides.interleaved(turns, 1 if options.quick else options.rounds, job.name)
            if job.side in found:
                print(row(job, found), flush=True)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
