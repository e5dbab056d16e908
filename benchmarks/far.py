"""Ways into a far S3 bucket beside their peers: `python benchmarks/far.py [--delay 50ms] [--only NAME,…]`.

The server is ministack with its objects in memory, in whose process each request is delayed and counted. Each side runs
in a process by itself, in an environment that this program makes below `--environments`; mounts are servers. What
cannot be had is said and left out. A job runs in rounds, all sides in each, another one first. Requests, bytes and
requests in flight are exact, those of the last round; times are medians. *Speed* is the median over rounds of the time
of the peer with the least median, divided by ours.

Nothing is cached when a job begins, but for those named "again". A job on a mount that creates ends when all is stored.
Engines read a data set of eight parquet files with their own client, and through `pagecache::`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import log2
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP))  # `tests` is no installed package
BUCKET, PAGE, MIB, THREADS, EDITS, FILES = "far", 4096, 1 << 20, 16, 200, 8
BLOCK = random.Random(40).randbytes(MIB)
SMALL = BLOCK[: 16 << 10]
PLAIN = {
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "PYTHONPATH": str(TOP),
    "RCLONE_S3_PROVIDER": "Other",
    "RCLONE_S3_ENV_AUTH": "true",
    "RCLONE_CONFIG": os.devnull,
}
ENGINES = ["pyarrow", "pandas", "polars", "duckdb==1.5.5"]
ENVIRONMENTS = {
    "ours": ["s3fs>=2026", "boto3", "cffi", "click", "prometheus_client", "rich", "sortedcontainers", *ENGINES],
    "peers": ["boto3", "obstore", "smart_open[s3]", *ENGINES, "duckdb-extension-httpfs==1.5.5"],
}


# ---------------------------------------------------------------- sides


class Way:
    """A way to objects, by files that it opens. `fresh` forgets all that is cached."""

    def __init__(self, endpoint: str, words: str = "") -> None:
        self.endpoint, self.words, self.revalidate = endpoint, words, 0.0
        self.pool = concurrent.futures.ThreadPoolExecutor(THREADS)

    def fresh(self) -> None:
        pass

    def open(self, key: str, mode: str) -> Any:
        raise NotImplementedError

    def read(self, key: str) -> None:
        with self.open(key, "rb") as file:
            assert len(file.read()) == len(SMALL)

    def create(self, key: str) -> None:
        with self.open(key, "xb" if type(self) is Ours else "wb") as file:
            file.write(SMALL)

    def stream(self, key: str) -> None:
        with self.open(key, "rb") as file:
            while file.read(MIB):
                pass

    def upload(self, key: str, size: int) -> None:
        with self.open(key, "wb") as file:
            for _ in range(size // MIB):
                file.write(BLOCK)

    def pick(self, key: str, offsets: Sequence[int]) -> None:
        with self.open(key, "rb") as file:
            for offset in offsets:
                file.seek(offset)
                file.read(PAGE)

    def edit(self, key: str, offsets: Sequence[int]) -> None:
        with self.open(key, "r+b") as file:
            for offset in offsets:
                file.seek(offset)
                file.write(BLOCK[:PAGE])

    def edit_copy(self, key: str, offsets: Sequence[int]) -> None:
        """Edit a copy that is downloaded and uploaded."""
        with tempfile.TemporaryFile() as file:
            self.load(key, file)
            for offset in offsets:
                os.pwrite(file.fileno(), BLOCK[:PAGE], offset)
            file.seek(0)
            self.store(key, file)

    def load(self, key: str, target: Any) -> None: ...

    def store(self, key: str, source: Any) -> None: ...

    def arrow(self) -> Any:
        """Return a file system of pyarrow."""

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

    def do(self, act: str, keys: Sequence[str], threads: int = 1, **words: Any) -> tuple[float, float]:
        """Run a job; return its seconds and seconds of processor."""
        self.revalidate = words.pop("revalidate", 0.0)
        call = partial(getattr(self, act), **words)
        began, used = time.monotonic(), time.process_time()
        for _ in map(call, keys) if threads == 1 else self.pool.map(call, keys):
            pass
        return time.monotonic() - began, time.process_time() - used


class Ours(Way):
    """Handles of a volume over S3Backend."""

    def __init__(self, endpoint: str, words: str = "") -> None:
        from pagecache import PageCache
        from pagecache.backends.s3 import S3Backend

        super().__init__(endpoint, words)
        self.cache = PageCache(words or "512MiB")
        self.volume = self.cache.attach(S3Backend(BUCKET, endpoint_url=endpoint))
        for size in (len(SMALL), 16 * MIB):  # the backend tries what the server honours
            with self.volume.open(f"warm-up/{os.getpid()}", "wb") as file:
                file.write(bytes(size))

    def fresh(self) -> None:
        self.volume.invalidate()

    def open(self, key: str, mode: Any) -> Any:
        return self.volume.open(key, mode, revalidate=self.revalidate)


class Fsspec(Way):
    """A file system of fsspec: `pagecache` over s3fs, or s3fs with one of its caches."""

    def __init__(self, endpoint: str, words: str = "") -> None:
        super().__init__(endpoint, words)
        self.fs: Any = None
        self.fresh()

    def fresh(self) -> None:
        import fsspec

        own, options = self.words.startswith("pagecache"), {"endpoint_url": self.endpoint, "skip_instance_cache": True}
        if own and self.fs is not None:
            self.fs.volume.invalidate()
            return
        self.fs = fsspec.filesystem("s3", **options)
        if own:
            fsspec.register_implementation("pagecache", "pagecache.fsspec.PageCacheFileSystem")
            del options["skip_instance_cache"]
            age = float(self.words.removeprefix("pagecache") or 0)
            words: dict[str, Any] = {"target_options": options, "capacity": "512MiB", "revalidate": age}
            self.fs = fsspec.filesystem("pagecache", target_protocol="s3", **words)
        elif self.words == "filecache":
            folder = tempfile.mkdtemp(dir=os.environ["TMPDIR"])
            self.fs = fsspec.filesystem("filecache", fs=self.fs, cache_storage=folder, check_files=False)

    def open(self, key: str, mode: str) -> Any:
        options = {"cache_type": "blockcache"} if self.words == "blockcache" and mode == "rb" else {}
        return self.fs.open(f"{BUCKET}/{key}", mode, **options)

    def arrow(self) -> Any:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self.fs))


class Smart(Way):
    """smart_open."""

    def __init__(self, endpoint: str, words: str = "") -> None:
        import boto3

        super().__init__(endpoint, words)
        self.client = boto3.client("s3", endpoint_url=endpoint)

    def open(self, key: str, mode: str) -> Any:
        import smart_open  # type: ignore[import-not-found]

        return smart_open.open(f"s3://{BUCKET}/{key}", mode, transport_params={"client": self.client})


class Boto3(Way):
    """boto3: transfers of whole objects."""

    def __init__(self, endpoint: str, words: str = "") -> None:
        import boto3
        from botocore.config import Config

        super().__init__(endpoint, words)
        self.client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=32))

    def read(self, key: str) -> None:
        self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def create(self, key: str) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=SMALL)

    def stream(self, key: str) -> None:
        self.client.download_file(BUCKET, key, os.devnull)

    def load(self, key: str, target: Any) -> None:
        self.client.download_fileobj(BUCKET, key, target)

    def store(self, key: str, source: Any) -> None:
        self.client.upload_fileobj(source, BUCKET, key)

    def upload(self, key: str, size: int) -> None:
        self.store(key, io.BufferedReader(Repeated(size), MIB))

    edit = Way.edit_copy

    def pick(self, key: str, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={offset}-{offset + PAGE - 1}")["Body"].read()


class Obstore(Way):
    """obstore: the client of Rust programs. It sends parts of 8 MiB, eight at once."""

    def __init__(self, endpoint: str, words: str = "") -> None:
        import obstore
        from obstore.store import S3Store

        super().__init__(endpoint, words)
        options: Any = {"endpoint": endpoint, "client_options": {"allow_http": True}}
        self.calls: Any = obstore
        self.bucket = S3Store(BUCKET, virtual_hosted_style_request=False, **options)

    def read(self, key: str) -> None:
        self.calls.get(self.bucket, key).bytes()

    def create(self, key: str) -> None:
        self.calls.put(self.bucket, key, SMALL)

    def stream(self, key: str) -> None:
        with open(os.devnull, "wb") as target:
            self.load(key, target)

    def load(self, key: str, target: Any) -> None:
        for piece in self.calls.get(self.bucket, key).stream(min_chunk_size=MIB):
            target.write(piece)

    def store(self, key: str, source: Any) -> None:
        self.calls.put(self.bucket, key, source, chunk_size=8 * MIB, max_concurrency=8)

    def upload(self, key: str, size: int) -> None:
        self.store(key, io.BufferedReader(Repeated(size), MIB))

    edit = Way.edit_copy

    def pick(self, key: str, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.calls.get_range(self.bucket, key, start=offset, length=PAGE)


class Arrow(Way):
    """pyarrow's S3FileSystem, and the own clients of engines."""

    def arrow(self) -> Any:
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(endpoint_override=self.endpoint.removeprefix("http://"), scheme="http", region="us-east-1")


class Files(Way):
    """Files of a mount."""

    def open(self, key: str, mode: str) -> Any:
        return open(Path(self.words, key), mode, buffering=0)

    def create(self, key: str) -> None:
        Path(self.words, key).write_bytes(SMALL)

    def listing(self, key: str, count: int) -> None:
        with os.scandir(Path(self.words, key)) as entries:
            assert sum(entry.stat().st_size == len(SMALL) for entry in entries) == count


class Repeated(io.RawIOBase):
    """A file of one block again and again, for uploads."""

    def __init__(self, size: int) -> None:
        self.size, self.at = size, 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.size - self.at, MIB - self.at % MIB)
        buffer[:size] = BLOCK[self.at % MIB : self.at % MIB + size]
        self.at += size
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at


# ---------------------------------------------------------------- engines

ROWS = 250_000
COLUMNS = [f"c{number}" for number in range(8)]


def scan(name: str, way: Way, folder: str) -> float:
    """The sum of all columns, by an engine."""
    own = isinstance(way, Arrow)
    if name == "pandas":
        import pandas

        frame = pandas.read_parquet(folder, filesystem=way.arrow() if own else way.fs)  # type: ignore[attr-defined]
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
                connection.register_filesystem(way.fs)  # type: ignore[attr-defined]
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


def worker(kind: type[Way], endpoint: str, words: str, keys: Sequence[str], epochs: int) -> None:
    import pyarrow.parquet

    way = kind(endpoint, words)
    for _ in range(epochs):
        for key in keys:
            with way.arrow().open_input_file(f"{BUCKET}/{key}") as file:
                assert pyarrow.parquet.read_table(file).num_rows == ROWS


# ---------------------------------------------------------------- where sides run

SIDES: dict[str, tuple[str, type[Way], str]] = {
    "ours": ("ours", Ours, ""),
    "ours-128": ("ours", Ours, "128MiB"),
    "fsspec": ("ours", Fsspec, "pagecache"),
    "fsspec-kept": ("ours", Fsspec, "pagecache3600"),
    "boto3": ("peers", Boto3, ""),
    "obstore": ("peers", Obstore, ""),
    "smart_open": ("peers", Smart, ""),
    "s3fs": ("ours", Fsspec, ""),
    "s3fs-block": ("ours", Fsspec, "blockcache"),
    "s3fs-file": ("ours", Fsspec, "filecache"),
    "own client": ("peers", Arrow, ""),
}
MOUNTS = {
    "mount": "{python} -m pagecache mount s3://far?endpoint={endpoint} {at} -f --capacity 512MiB "
    "-o attr_timeout=60,entry_timeout=60",
    "rclone-writes": "rclone mount :s3:far {at} --vfs-cache-mode writes --vfs-write-back 0s --cache-dir {cache} "
    "--use-server-modtime --s3-endpoint {endpoint}",
    "rclone-full": "rclone mount :s3:far {at} --vfs-cache-mode full --vfs-write-back 0s --cache-dir {cache} "
    "--use-server-modtime --s3-endpoint {endpoint}",
    "s3fs-fuse": "s3fs far {at} -f -o url={endpoint},use_path_request_style,use_cache={cache}",
}


class Remote:
    """A side in a process of its environment, which takes jobs."""

    def __init__(self, name: str, python: Path, far: Far) -> None:
        command = [str(python), __file__, "--side", name, far.endpoint]
        far.stack.callback(self.close)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, act: str, *words: Any, **named: Any) -> Any:
        orders, answers = self.process.stdin, self.process.stdout
        assert orders is not None
        assert answers is not None
        orders.write(json.dumps([act, words, named]) + "\n")
        orders.flush()
        if not (answer := answers.readline()):
            raise RuntimeError("its process ended")
        found = json.loads(answer)
        if isinstance(found, dict):
            raise RuntimeError(found["error"])
        return found

    def close(self) -> None:
        self.process.communicate(timeout=60)


class Mount(Files):
    """A mount of the bucket; a new one, of no memory, with each `fresh`."""

    def __init__(self, name: str, far: Far) -> None:
        super().__init__(far.endpoint, str(far.folder / name))
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        far.stack.callback(self.close)
        self.fresh()

    def fresh(self) -> None:
        self.close()
        at, cache = Path(self.words), tempfile.mkdtemp()
        at.mkdir(exist_ok=True)
        words = {"at": at, "cache": cache, "endpoint": self.endpoint, "python": sys.executable}
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen(MOUNTS[self.name].format(**words).split(), stdout=log, stderr=log)
            while not os.path.ismount(at):
                if self.process.poll() is not None:
                    log.seek(0)
                    raise OSError(log.read()[-300:].decode())
                time.sleep(0.05)
        (at / f"warm-up-{time.time_ns()}").write_bytes(SMALL)

    def close(self) -> None:
        if self.process is not None:
            subprocess.run(["fusermount3", "-u", "-z", self.words], check=False)
            self.process.wait()
            self.process = None

    def __call__(self, act: str, *given: Any, **named: Any) -> Any:
        return getattr(self, act)(*given, **named)


def side(name: str, endpoint: str) -> None:
    """Do what comes in, line by line."""
    _, kind, words = SIDES[name]
    way = kind(endpoint, words)
    for line in sys.stdin:
        act, positional, named = json.loads(line)
        try:
            found = getattr(way, act)(*positional, **named)
        except Exception as error:
            found = {"error": repr(error)[:300]}
        print(json.dumps(found), flush=True)
    os._exit(0)  # sessions of some clients are not closed


class Far:
    """The server, and the sides that were used so far."""

    def __init__(self, environments: Path | None, stack: ExitStack) -> None:
        from tests.s3.servers import ENVIRONMENT, Server

        self.stack, self.environments = stack, environments
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in [name for name in os.environ if name.startswith(("AWS_", "RCLONE_"))]:
            del os.environ[name]
        os.environ.update(ENVIRONMENT | PLAIN | {"TMPDIR": str(self.folder)})
        tempfile.tempdir = None
        server = Server("counted", self.folder / "server")
        stack.callback(server.close)
        self.endpoint = server.endpoint
        self.client = Boto3(self.endpoint)
        self.client.client.create_bucket(Bucket=BUCKET)
        self.sides: dict[str, Any] = {}
        self.masters: set[int] = set()

    def order(self, **words: Any) -> dict[str, int]:
        """Return the counts; `take` begins new ones, `delay` is of each request from now on."""
        query = "&".join(f"{name}={value}" for name, value in words.items())
        with urllib.request.urlopen(f"{self.endpoint}/-/?{query}") as answer:
            found: dict[str, int] = json.load(answer)
            return found

    def quiet(self) -> None:
        while self.order()["running"]:
            time.sleep(0.005)

    def side(self, name: str) -> Any:
        """Start a side; None if it cannot be had here."""
        if name not in self.sides:
            try:
                self.sides[name] = self.mounted(name) if name in MOUNTS else self.remote(name)
            except (OSError, subprocess.SubprocessError, RuntimeError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                self.sides[name] = None
        return self.sides[name]

    def remote(self, name: str) -> Remote:
        if self.environments is None:
            return Remote(name, Path(sys.executable), self)
        home = self.environments / SIDES[name][0]
        python = home / "bin" / "python"
        if not (home / "whole").exists():
            print(f"making {home}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            packages = ENVIRONMENTS[SIDES[name][0]]
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True, timeout=900)
            (home / "whole").touch()
        return Remote(name, python, self)

    def mounted(self, name: str) -> Mount:
        if name != "mount" and not shutil.which(MOUNTS[name].split()[0]):
            raise OSError("it is not installed")
        return Mount(name, self)

    def put(self, keys: Sequence[str], size: int) -> None:
        """Store objects, uncounted and at once."""
        master, client = f"master/{size}", self.client.client
        if size not in self.masters:
            client.upload_fileobj(io.BufferedReader(Repeated(size), MIB), BUCKET, master)
            self.masters.add(size)
        source = {"Bucket": BUCKET, "Key": master}
        list(self.client.pool.map(lambda key: client.copy_object(Bucket=BUCKET, Key=key, CopySource=source), keys))


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
    if name in MOUNTS and "made" in job.how:
        os.listdir(Path(run.words, top))
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
    found: dict[str, dict[str, Any]] = {}
    names = [name for name in (job.side, *PEERS[job.peers]) if far.side(name) is not None]
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            try:
                seconds, cpu, counts = once(far, job, name, delay)
            except (RuntimeError, OSError) as error:
                print(f"{name} is left out of {job.name}: {error}", file=sys.stderr)
                names.remove(name)
                found.pop(name, None)
                continue
            cost = found.setdefault(name, {"seconds": [], "cpu": []})
            cost |= counts | {"seconds": [*cost["seconds"], seconds], "cpu": [*cost["cpu"], cpu]}
    return found


# ---------------------------------------------------------------- tables and picture

HEAD = "job | {} | best peer | {} | speed | goal | reached".replace("{}", "requests; MiB; in flight; s; CPU s")


def result(job: Job, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is known of a job, for the table and for the file."""
    best = min({*sides} - {job.side}, key=lambda name: median(sides[name]["seconds"]), default=job.side)
    pairs = zip(sides[job.side]["seconds"], sides[best]["seconds"], strict=True)
    speed, goals = median([theirs / ours for ours, theirs in pairs]), []
    if job.most is not None:
        goals.append((f"≤ {job.most:,} requests", sides[job.side]["requests"] <= job.most))
    if job.least is not None:
        goals.append((f"≥ {job.least:g} × speed", speed >= job.least))
    goal, reached = "; ".join(text for text, _ in goals), "; ".join("yes" if one else "no" for _, one in goals)
    return {"text": job.text, "best": best, "speed": speed, "goal": goal, "reached": reached, "sides": sides}


def row(job: Job, found: dict[str, Any]) -> str:
    def cells(name: str) -> str:
        cost = found["sides"][name]
        times = f"{median(cost['seconds']):.2f}; {median(cost['cpu']):.2f}"
        return f"{cost['requests']:,}; {cost['bytes'] / MIB:.1f}; {cost['most']}; {times}"

    both = [cells(job.side), found["best"], cells(found["best"]), f"{found['speed']:.2f}"]
    return "| " + " | ".join([f"{job.name}: {job.text}", *both, found["goal"], found["reached"]]) + " |"


def picture(results: dict[str, dict[str, Any]]) -> str:
    """An SVG of the speed beside the best peer, a bar for each delay, on a logarithmic scale."""
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    colours, step, left = ("#4878a8", "#d08a3c", "#6a9a5b"), 8 * len(results) + 6, 330
    lines = [
        f'<text x="{left + 40 * at}" y="12" text-anchor="middle">{2.0**at:g} ×</text>'
        f'<path d="M{left + 40 * at} 16V{20 + step * len(names)}" stroke="{"#444" if at == 0 else "#ddd"}"/>'
        for at in range(-2, 7)
    ]
    for place, name in enumerate(names):
        top = 22 + step * place
        text = next(found[name]["text"] for found in results.values() if name in found)
        lines.append(f'<text x="4" y="{top + step / 2}">{name}: {text.replace("`", "")}</text>')
        for number, (delay, found) in enumerate(results.items()):
            if name in found:
                end = 40 * max(-2.0, min(6.0, log2(found[name]["speed"])))
                begin, width = left + min(0.0, end), max(1.0, abs(end))
                place_of = f'x="{begin:.0f}" y="{top + 8 * number}" width="{width:.0f}" height="7"'
                lines.append(f'<rect {place_of} fill="{colours[number % 3]}"><title>{delay}</title></rect>')
    for number, delay in enumerate(results):
        lines.append(f'<text x="{left + 330}" y="{30 + 14 * number}" fill="{colours[number % 3]}">{delay}</text>')
    size = f'width="{left + 380}" height="{30 + step * len(names)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *lines, "</svg>", ""])


def seconds(text: str) -> float:
    """Return the seconds of a text such as `20ms`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    value = float(found[1]) * {"ms": 0.001, "s": 1.0}[found[2]] if found else -1.0
    if not 0 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration of 0 to 60 s, such as 20ms")
    return value


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--delay", type=seconds, default=0.02, help="of each request (20ms)")
    parser.add_argument("--only", metavar="NAME,…", help="jobs, by their names in the table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: requests count, times do not")
    parser.add_argument("--here", action="store_true", help="with the packages of this environment")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "pagecache-far")
    parser.add_argument("--results", type=Path, help="add the results to this file")
    parser.add_argument("--picture", type=Path, help="draw all results")
    options = parser.parse_args()
    known = jobs(options.quick)
    only = options.only.split(",") if options.only else list(known)
    if unknown := set(only) - set(known):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    results = json.loads(options.results.read_text()) if options.results and options.results.exists() else {}
    mine = results.setdefault(f"{options.delay * 1000:g} ms", {})
    with ExitStack() as stack:
        far = Far(None if options.here else options.environments, stack)
        print(f"delay {options.delay * 1000:g} ms, load {os.getloadavg()[0]:.1f} at the start\n")
        print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
        if any(known[name].act in ("engine", "tables") for name in only):
            far.side("own client")("dataset")
        for name in only:
            found = measure(far, job := known[name], options.delay, 1 if options.quick else options.rounds)
            if job.side in found:
                mine[name] = result(job, found)
                print(row(job, mine[name]), flush=True)
                if options.results:
                    options.results.write_text(json.dumps(results, indent=1))
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    if options.picture:
        options.picture.write_text(picture(results))


if __name__ == "__main__":
    main()
