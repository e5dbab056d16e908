"""What the benchmarks of stores share: an S3 server that delays and counts, ways to its objects, and rounds.

The server is ministack with its objects in memory, in whose process each request is delayed and counted. Each side runs
in a process by itself, with the packages of `environment`; mounts are servers. What cannot be had is said and left out.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import execnet

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP))  # `tests` is no installed package
BUCKET, PAGE, MIB, THREADS = "far", 4096, 1 << 20, 16
BLOCK = random.Random(40).randbytes(MIB)
SMALL = BLOCK[: 16 << 10]
T = TypeVar("T")


def parser(text: str | None, jobs: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of the options that programs with sides have in common."""

    def some(text: str) -> list[str]:
        if unknown := sorted({*text.split(",")} - {*jobs}):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(jobs)}")
        return text.split(",")

    found = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    found.add_argument("--only", metavar="NAME,…", type=some, default=jobs, help="jobs, by their names in the table")
    found.add_argument("--quick", action="store_true", help="tiny sizes, one round: requests count, times do not")
    found.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "pagecache-far")
    found.add_argument("--here", dest="environment", action="store_const", const=None, help="use the present packages")
    return found


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int, job: str) -> dict[str, list[T]]:
    """Run all sides in each round, another one first. A side that fails is said and left out."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(found)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            try:
                found[name].append(sides[name]())
            except (RuntimeError, OSError, EOFError, execnet.RemoteError) as error:
                print(f"{name} is left out of {job}: {error}", file=sys.stderr)
                del found[name]
    return found


# ---------------------------------------------------------------- ways


class Way:
    """A way to objects, by files that it opens. `fresh` forgets all that is cached. Words: of its kind."""

    def __init__(self, endpoint: str, *words: str) -> None:
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

    def do(self, act: str, keys: Sequence[str], threads: int = 1, **words: Any) -> tuple[float, float]:
        """Run a job; return its seconds and seconds of processor."""
        self.revalidate = words.pop("revalidate", 0.0)
        call = partial(getattr(self, act), **words)
        began, used = time.monotonic(), time.process_time()
        for _ in map(call, keys) if threads == 1 else self.pool.map(call, keys):
            pass
        return time.monotonic() - began, time.process_time() - used


class Ours(Way):
    """Handles of a volume over S3Backend. Words: the size of the cache, and the folder of a disk tier."""

    def __init__(self, endpoint: str, *words: str) -> None:
        from pagecache import DiskTier, PageCache
        from pagecache.backends.s3 import S3Backend

        super().__init__(endpoint, *words)
        self.cache = PageCache(words[0], disk=DiskTier(words[1], size="3GiB") if words[1:] else None)
        self.volume = self.cache.attach(S3Backend(BUCKET, endpoint_url=endpoint), volume_id="benchmark")
        for size in (len(SMALL), 16 * MIB):  # the backend tries what the server honours
            with self.volume.open(f"warm-up/{os.getpid()}", "wb") as file:
                file.write(bytes(size))

    def fresh(self) -> None:
        self.volume.invalidate()

    def open(self, key: str, mode: Any) -> Any:
        return self.volume.open(key, mode, revalidate=self.revalidate)

    def end(self) -> None:
        self.cache.close()


class Fsspec(Way):
    """A file system of fsspec. Words: `pagecache` and an age, over s3fs, or a cache of s3fs and its folder."""

    fs: Any = None

    def fresh(self) -> None:
        import fsspec

        kind, *more = self.words or ("",)
        options = {"endpoint_url": self.endpoint, "skip_instance_cache": True}
        if kind == "pagecache" and self.fs is not None:
            self.fs.volume.invalidate()
            return
        self.fs = fsspec.filesystem("s3", **options)
        if kind == "pagecache":
            fsspec.register_implementation("pagecache", "pagecache.fsspec.PageCacheFileSystem")
            words: dict[str, Any] = {"target_options": {"endpoint_url": self.endpoint}, "capacity": "512MiB"}
            self.fs = fsspec.filesystem("pagecache", target_protocol="s3", revalidate=float(more[0]), **words)
        elif kind == "filecache":
            folder = more[0] if more else tempfile.mkdtemp(dir=os.environ["TMPDIR"])
            self.fs = fsspec.filesystem("filecache", fs=self.fs, cache_storage=folder, check_files=bool(more))

    def open(self, key: str, mode: str) -> Any:
        if self.fs is None:
            self.fresh()
        return self.fs.open(f"{BUCKET}/{key}", mode)


class Client(Way):
    """Transfers of whole objects, `load` and `store`: an edit downloads a copy and uploads it."""

    def load(self, key: str, target: Any) -> None: ...

    def store(self, key: str, source: Any) -> None: ...

    def upload(self, key: str, size: int) -> None:
        self.store(key, io.BufferedReader(Repeated(size), MIB))

    def stream(self, key: str) -> None:
        with open(os.devnull, "wb") as target:
            self.load(key, target)

    def edit(self, key: str, offsets: Sequence[int]) -> None:
        with tempfile.TemporaryFile() as file:
            self.load(key, file)
            for offset in offsets:
                os.pwrite(file.fileno(), BLOCK[:PAGE], offset)
            file.seek(0)
            self.store(key, file)


class Boto3(Client):
    def __init__(self, endpoint: str, *words: str) -> None:
        import boto3
        from botocore.config import Config

        super().__init__(endpoint, *words)
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

    def pick(self, key: str, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={offset}-{offset + PAGE - 1}")["Body"].read()


class Diskcache(Boto3):
    """boto3, with pieces of 1 MiB in diskcache by their version. Words: its folder."""

    def stream(self, key: str) -> None:
        import diskcache

        kept = diskcache.Cache(self.words[0], size_limit=1 << 40)
        head = self.client.head_object(Bucket=BUCKET, Key=key)
        for begin in range(0, head["ContentLength"], MIB):
            name = key, head["ETag"], begin
            if kept.get(name) is None:
                part = self.client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={begin}-{begin + MIB - 1}")
                kept.set(name, part["Body"].read())
        kept.close()


class Obstore(Client):
    """obstore: the client of Rust programs. It sends parts of 8 MiB, eight at once."""

    def __init__(self, endpoint: str, *words: str) -> None:
        import obstore
        from obstore.store import S3Store

        super().__init__(endpoint, *words)
        options: Any = {"endpoint": endpoint, "client_options": {"allow_http": True}}
        self.calls: Any = obstore
        self.bucket = S3Store(BUCKET, virtual_hosted_style_request=False, **options)

    def read(self, key: str) -> None:
        self.calls.get(self.bucket, key).bytes()

    def create(self, key: str) -> None:
        self.calls.put(self.bucket, key, SMALL)

    def upload(self, key: str, size: int) -> None:
        self.store(key, itertools.repeat(BLOCK, size // MIB))

    def load(self, key: str, target: Any) -> None:
        for piece in self.calls.get(self.bucket, key).stream(min_chunk_size=MIB):
            target.write(piece)

    def store(self, key: str, source: Any) -> None:
        self.calls.put(self.bucket, key, source, chunk_size=8 * MIB, max_concurrency=8)

    def pick(self, key: str, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.calls.get_range(self.bucket, key, start=offset, length=PAGE)


class Repeated(io.RawIOBase):
    """A file of one block again and again, for uploads."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.left, MIB)
        buffer[:size] = BLOCK[:size]
        self.left -= size
        return size


# ---------------------------------------------------------------- processes

PACKAGES = ["s3fs[boto3]>=2026", "cffi", "click", "diskcache", "execnet", "obstore", "pandas", "polars", "pyarrow"]
PACKAGES += ["prometheus_client", "rich", "sortedcontainers", "duckdb==1.5.5", "duckdb-extension-httpfs==1.5.5"]
PLAIN = {
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "PYTHONPATH": f"{TOP}{os.pathsep}{TOP / 'benchmarks'}",
    "RCLONE_S3_PROVIDER": "Other",
    "RCLONE_S3_ENV_AUTH": "true",
    "RCLONE_CONFIG": os.devnull,
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
Sides = dict[str, tuple[type[Way], tuple[str, ...]]]
"""By name: the kind and its words."""


def serve(channel: Any) -> None:
    """Do the jobs that come in, by a side of a program."""
    program, name, words = channel.receive()
    way = importlib.import_module(program).SIDES[name][0](*words)
    for act, given, named in channel:
        try:
            channel.send((getattr(way, act)(*given, **named), None))
        except Exception as error:
            channel.send((None, repr(error)[:300]))
    os._exit(0)  # sessions of some clients are not closed


class Remote:
    """A side in a process of another interpreter."""

    def __init__(self, name: str, python: Path, far: Far) -> None:
        self.group = execnet.Group()
        far.stack.callback(self.close)
        gateway = self.group.makegateway(f"popen//python={python}")
        self.jobs = gateway.remote_exec("import sides; sides.serve(channel)")
        self.jobs.send((Path(sys.argv[0]).stem, name, [far.endpoint, *far.known[name][1]]))

    def __call__(self, act: str, *given: Any, **named: Any) -> Any:
        self.jobs.send((act, given, named))
        found, error = self.jobs.receive()
        if error is not None:
            raise RuntimeError(error)
        return found

    def close(self) -> None:
        self.group.terminate(timeout=60)


class Mount(Way):
    """A mount of the bucket; a new one, of no memory, with each `fresh`."""

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, name: str, far: Far) -> None:
        super().__init__(far.endpoint)
        self.name, self.top = name, far.folder / name
        far.stack.callback(self.close)
        self.fresh()

    def fresh(self) -> None:
        self.begin(tempfile.mkdtemp())

    def begin(self, cache: str) -> None:
        """Mount with a folder for its cache."""
        self.close()
        self.top.mkdir(exist_ok=True)
        words = {"at": self.top, "cache": cache, "endpoint": self.endpoint, "python": sys.executable}
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen(MOUNTS[self.name].format(**words).split(), stdout=log, stderr=log)
            while not os.path.ismount(self.top):
                if self.process.poll() is not None:
                    log.seek(0)
                    raise OSError(log.read()[-300:].decode())
                time.sleep(0.05)
        (self.top / f"warm-up-{time.time_ns()}").write_bytes(SMALL)

    def close(self) -> None:
        if self.process is not None:
            subprocess.run(["fusermount3", "-u", "-z", str(self.top)], check=False)
            self.process.wait()
            self.process = None

    def open(self, key: str, mode: str) -> Any:
        return open(self.top / key, mode, buffering=0)

    def create(self, key: str) -> None:
        (self.top / key).write_bytes(SMALL)

    def listing(self, key: str, count: int) -> None:
        with os.scandir(self.top / key) as entries:
            assert sum(entry.stat().st_size == len(SMALL) for entry in entries) == count

    def __call__(self, act: str, *given: Any, **named: Any) -> Any:
        return getattr(self, act)(*given, **named)


class Far:
    """The server, and the sides that were used so far. `environment`: its folder; None: the one that runs this."""

    def __init__(self, known: Sides, environment: Path | None, stack: ExitStack) -> None:
        from tests.s3.servers import ENVIRONMENT, Server

        self.known, self.environment, self.stack = known, environment, stack
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
        if (home := self.environment) is None:
            return Remote(name, Path(sys.executable), self)
        if not (home / "whole").exists():
            print(f"making {home}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", *PACKAGES], check=True, timeout=900)
            (home / "whole").touch()
        return Remote(name, home / "bin" / "python", self)

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
