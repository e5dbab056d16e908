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


# ---------------------------------------------------------------- engines


class Engines(Way):
    """Programs that read the data set."""

    def arrow(self) -> Any:
        """Return a file system of pyarrow."""
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
        assert abs(scan(name, self, f"{BUCKET}/data") - 8 * FILES * ROWS / 2) < FILES * ROWS / 10

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


class Arrow(Engines):
    """pyarrow's S3FileSystem, and the own clients of engines."""

    def arrow(self) -> Any:
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(endpoint_override=self.endpoint.removeprefix("http://"), scheme="http", region="us-east-1")


def scan(name: str, way: Any, folder: str) -> float:
    """The sum of all columns, by an engine."""
    own = isinstance(way, Arrow)
    if name == "pandas":
        import pandas

        frame = pandas.read_parquet(folder, filesystem=way.arrow() if own else way.fs)
        return float(frame.sum().sum())
    if name == "duckdb":
        import duckdb

        with duckdb.connect() as connection:
            if own:
                import duckdb_extension_httpfs  # type: ignore[import-not-found]

                program = next(Path(duckdb_extension_httpfs.__path__[0]).rglob("*.duckdb_extension"))
                connection.execute(f"LOAD '{program}'")
                host = way.endpoint.removeprefix("http://")
                words = "TYPE s3, URL_STYLE 'path', USE_SSL false, REGION 'us-east-1'"
                identity, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
                keys = f"KEY_ID '{identity}', SECRET '{secret}'"
                connection.execute(f"CREATE SECRET ({words}, {keys}, ENDPOINT '{host}')")
            else:
                connection.register_filesystem(way.fs)
            url = f"{'' if own else 'pagecache::'}s3://{folder}/*.parquet"
            sums = " + ".join(f"sum({column})" for column in COLUMNS)
            return float(connection.sql(f"SELECT {sums} FROM '{url}'").fetchall()[0][0])
    import polars
    import pyarrow.dataset

    if name == "polars" and own:
        options = {"aws_endpoint_url": way.endpoint, "aws_virtual_hosted_style_request": "false"}
        lazy = polars.scan_parquet(f"s3://{folder}/*.parquet", storage_options=options)
        return float(lazy.sum().collect().sum_horizontal()[0])
    found = pyarrow.dataset.dataset(folder, filesystem=way.arrow(), format="parquet")
    if name == "polars":
        return float(polars.scan_pyarrow_dataset(found).sum().collect().sum_horizontal()[0])
    table = found.to_table()
    return float(sum(table[column].to_numpy().sum() for column in COLUMNS))


def worker(kind: type[Engines], endpoint: str, words: Sequence[str], keys: Sequence[str], epochs: int) -> None:
    import pyarrow.parquet

    way = kind(endpoint, *words)
    for _ in range(epochs):
        for key in keys:
            with way.arrow().open_input_file(f"{BUCKET}/{key}") as file:
                assert pyarrow.parquet.read_table(file).num_rows == ROWS


SIDES: sides.Sides = {
    "ours": ("ours", sides.Ours, ("512MiB",)),
    "ours-128": ("ours", sides.Ours, ("128MiB",)),
    "fsspec": ("ours", Layers, ("pagecache", "0")),
    "fsspec-kept": ("ours", Layers, ("pagecache", "3600")),
    "boto3": ("peers", Boto3, ()),
    "obstore": ("peers", sides.Obstore, ()),
    "smart_open": ("peers", sides.Smart, ()),
    "s3fs": ("ours", Layers, ()),
    "s3fs-block": ("ours", Layers, ("blockcache",)),
    "s3fs-file": ("ours", Layers, ("filecache",)),
    "own client": ("peers", Arrow, ()),
}

# ---------------------------------------------------------------- jobs

PEERS = {
    "L": ("boto3", "obstore", "smart_open", "s3fs"),
    "C": ("boto3", "obstore", "smart_open", "s3fs", "s3fs-block", "s3fs-file"),
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
    small, parts, engine, none = len(SMALL), large // (8 * MIB), f"{FILES} files", None
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
        found.append(Job(name, f"{name}: {engine}", "engine", "fsspec", peers, 1, 0, 1, "", none, 1))
        found.append(Job(f"{name}-again", "the same again", "engine", "fsspec", peers, 1, 0, 1, "again", none, 3))
        words = name + "-kept", "within `revalidate`", "engine", "fsspec-kept"
        found.append(Job(*words, peers, 1, 0, 1, "again", none, 3))
    found.append(Job("workers", "2 workers, 4 epochs", "tables", "fsspec", "E", 1, 0, 1, "", none, 1))
    # fmt: on
    return {job.name: job for job in found}


def once(far: Far, job: Job, name: str, delay: float) -> tuple[float, float, dict[str, int]]:
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


def measure(far: Far, job: Job, delay: float, rounds: int) -> dict[str, dict[str, Any]]:
    """Run the rounds of a job, all sides in each. Counts are those of the last round."""
    names = [name for name in (job.side, *PEERS[job.peers]) if far.side(name) is not None]
    found = sides.interleaved({name: partial(once, far, job, name, delay) for name in names}, rounds, job.name)
    return {
        name: {**turns[-1][2], "seconds": [turn[0] for turn in turns], "cpu": [turn[1] for turn in turns]}
        for name, turns in found.items()
    }


# ---------------------------------------------------------------- tables

HEAD = "job | {} | best peer | {} | speed | goal | reached".replace("{}", "requests; MiB; in flight; s; CPU s")


def row(job: Job, found: dict[str, dict[str, Any]]) -> str:
    """Return the row of a job beside the peer with the least median."""
    best = min({*found} - {job.side}, key=lambda name: median(found[name]["seconds"]), default=job.side)
    pairs = zip(found[job.side]["seconds"], found[best]["seconds"], strict=True)
    speed, goals = median([theirs / ours for ours, theirs in pairs]), []
    if job.most is not None:
        goals.append((f"≤ {job.most:,} requests", found[job.side]["requests"] <= job.most))
    if job.least is not None:
        goals.append((f"≥ {job.least:g} × speed", speed >= job.least))

    def cells(cost: dict[str, Any]) -> str:
        times = f"{median(cost['seconds']):.2f}; {median(cost['cpu']):.2f}"
        return f"{cost['requests']:,}; {cost['bytes'] / MIB:.1f}; {cost['most']}; {times}"

    goal, reached = "; ".join(text for text, _ in goals), "; ".join("yes" if one else "no" for _, one in goals)
    every = [f"{job.name}: {job.text}", cells(found[job.side]), best, cells(found[best]), f"{speed:.2f}", goal, reached]
    return f"| {' | '.join(every)} |"


def seconds(text: str) -> float:
    """Return the seconds of a text such as `20ms`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    value = float(found[1]) * {"ms": 0.001, "s": 1.0}[found[2]] if found else -1.0
    if not 0 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration of 0 to 60 s, such as 20ms")
    return value


def main() -> None:
    sides.side(SIDES)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--delay", type=seconds, default=0.02, help="of each request (20ms)")
    parser.add_argument("--only", metavar="NAME,…", help="jobs, by their names in the table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: requests count, times do not")
    parser.add_argument("--here", action="store_true", help="with the packages of this environment")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "pagecache-far")
    options = parser.parse_args()
    known = jobs(options.quick)
    only = options.only.split(",") if options.only else list(known)
    if unknown := set(only) - set(known):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    with ExitStack() as stack:
        far = Far(SIDES, None if options.here else options.environments, stack)
        print(f"delay {options.delay * 1000:g} ms, load {os.getloadavg()[0]:.1f} at the start\n")
        print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
        if any(known[name].act in ("engine", "tables") for name in only):
            far.side("own client")("dataset")
        for name in only:
            found = measure(far, job := known[name], options.delay, 1 if options.quick else options.rounds)
            if job.side in found:
                print(row(job, found), flush=True)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
