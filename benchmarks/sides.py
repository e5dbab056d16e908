"""What the benchmarks of stores share: an S3 server that delays and counts, ways to its objects, and rounds.

The server is ministack with its objects in memory, in whose process each request is delayed and counted. Each side runs
in a process by itself, in an environment that is made below `environments`; mounts are servers. What cannot be had is
said and left out.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP))  # `tests` is no installed package
BUCKET, PAGE, MIB, THREADS = "far", 4096, 1 << 20, 16
BLOCK = random.Random(40).randbytes(MIB)
SMALL = BLOCK[: 16 << 10]
T = TypeVar("T")


def interleaved(sides: dict[str, Callable[[], T]], rounds: int, job: str) -> dict[str, list[T]]:
    """Run all sides in each round, another one first. A side that fails is said and left out."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(found)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            try:
                found[name].append(sides[name]())
            except (RuntimeError, OSError) as error:
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
        options = {"cache_type": "blockcache"} if self.words == ("blockcache",) and mode == "rb" else {}
        return self.fs.open(f"{BUCKET}/{key}", mode, **options)


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


class Smart(Boto3):
    """smart_open."""

    read, create, stream, upload = Way.read, Way.create, Way.stream, Way.upload

    def open(self, key: str, mode: str) -> Any:
        import smart_open  # type: ignore[import-not-found]

        return smart_open.open(f"s3://{BUCKET}/{key}", mode, transport_params={"client": self.client})


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


# ---------------------------------------------------------------- processes

ENGINES = ["pyarrow", "pandas", "polars", "duckdb==1.5.5"]
ENVIRONMENTS = {
    "ours": ["s3fs>=2026", "boto3", "cffi", "click", "prometheus_client", "rich", "sortedcontainers", *ENGINES],
    "peers": ["boto3", "obstore", "smart_open[s3]", *ENGINES, "duckdb-extension-httpfs==1.5.5"],
    "disk": ["s3fs>=2026", "boto3", "cffi", "click", "diskcache", "sortedcontainers"],
}
PLAIN = {
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "PYTHONPATH": str(TOP),
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
Sides = dict[str, tuple[str, type[Way], tuple[str, ...]]]
"""By name: the environment, the kind and its words."""


class Remote:
    """A side in a process of its environment, which takes jobs."""

    def __init__(self, name: str, python: Path, far: Far) -> None:
        command = [str(python), sys.argv[0], "--side", name, far.endpoint, *far.known[name][2]]
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
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.communicate(timeout=60)


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


def side(known: Sides) -> None:
    """Be a side, if this process was started as one: do what comes in, line by line."""
    if sys.argv[1:2] != ["--side"]:
        return
    way = known[sys.argv[2]][1](*sys.argv[3:])
    for line in sys.stdin:
        act, positional, named = json.loads(line)
        try:
            found = getattr(way, act)(*positional, **named)
        except Exception as error:
            found = {"error": repr(error)[:300]}
        print(json.dumps(found), flush=True)
    os._exit(0)  # sessions of some clients are not closed


class Far:
    """The server, and the sides that were used so far. `environments`: a folder for them; None: use this one."""

    def __init__(self, known: Sides, environments: Path | None, stack: ExitStack) -> None:
        from tests.s3.servers import ENVIRONMENT, Server

        self.known, self.environments, self.stack = known, environments, stack
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
        python, environment = Path(sys.executable), self.known[name][0]
        if self.environments is not None:
            home = self.environments / environment
            python = home / "bin" / "python"
            if not (home / "whole").exists():
                print(f"making {home}", file=sys.stderr)
                subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
                packages = ENVIRONMENTS[environment]
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
