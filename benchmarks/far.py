"""S3 beside boto3, through a proxy that delays each request and counts: `python benchmarks/far.py`.

The server is ministack, with its objects in memory; the proxy is a process between it and both sides, so that the time
of a processor which is counted for a side is that of this process alone. Each job runs in rounds, one side after the
other, with another first in each round. The table has the median of the rounds, and of their ratios; requests and MiB
are those of the last round. Requests are exact. A ratio of times proves little where the server or the proxy limits
both sides, as with large objects on two cores.

A side that is ours opens, reads, writes and closes files of a volume; nothing is cached at the start of a round, except
for the jobs named "again". boto3 transfers objects, and edits a copy that it downloads and uploads.

A second table has the jobs of the other ways in, without a peer, each once: over a file system of fsspec in memory,
whose calls are delayed and counted, and in a mount of the bucket. Their goals are numbers of requests.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is no installed package

from pagecache import PageCache, Volume
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.s3 import S3Backend
from pagecache.bench import BLOCK, MIB, make_file
from pagecache.options import OpenMode
from pagecache.testing.proxy import FaultyProxy
from tests.fuse.mounts import Mounted, why_no_mounts
from tests.s3.servers import ENVIRONMENT, Server

BUCKET, PAGE, PART = "far", 4096, 8 * MIB
SMALL = BLOCK[: 16 << 10]
THREADS = 16
EDITS = 200


@dataclass(frozen=True)
class Sizes:
    """What the jobs work on: number of small objects one after another and by threads, bytes, bytes of memory."""

    single: int = 100
    many: int = 1000
    large: int = 256 * MIB
    huge: int = 1024 * MIB
    region: int = 16 * MIB
    memory: int = 128 * MIB
    capacity: int = 512 * MIB
    rounds: int = 3


QUICK = Sizes(4, 32, 32 * MIB, 48 * MIB, 8 * MIB, 32 * MIB, 128 * MIB, 1)


@dataclass
class Cost:
    """Requests and bytes of the last round; seconds and seconds of processor of all."""

    requests: int = 0
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """A bound of one measure of a job."""

    text: str
    reached: Callable[[Cost, Cost, int], bool]


def requests(each: int) -> Goal:
    return Goal(f"{each} request{'s' * (each > 1)} each", lambda own, peer, count: own.requests == each * count)


def beyond(most: int) -> Goal:
    return Goal(f"requests ≤ boto3 + {most}", lambda own, peer, count: own.requests <= peer.requests + most)


def speed(least: float) -> Goal:
    return Goal(f"≥ {least:g} × speed", lambda own, peer, count: ratio(own, peer) >= least)


def cpu(most: float) -> Goal:
    return Goal(f"≤ {most:g} ms of CPU", lambda own, peer, count: median(own.cpu) / count * 1000 <= most)


def ratio(own: Cost, peer: Cost) -> float:
    return median([b / a for a, b in zip(own.seconds, peer.seconds, strict=True)])


# ---------------------------------------------------------------- the proxy and the server


def serve(target: str, pipe: Connection) -> None:
    """Run the proxy: a number sets its delay, anything else takes requests and bytes since the last time."""
    with _Counting(target) as proxy:
        pipe.send(proxy.endpoint)
        while (order := pipe.recv()) != "end":
            calls = proxy.taken()
            if isinstance(order, float):
                proxy.latency = order
            most, proxy.most = proxy.most, 0
            pipe.send((len(calls), sum(call.up + call.down for call in calls), most))


class _Counting(FaultyProxy):
    """A proxy that also counts requests which are in flight together."""

    most = 0

    def began(self, method: str, target: str, headers: dict[str, str]) -> Any:
        answer = super().began(method, target, headers)
        self.most = max(self.most, self._running)
        return answer


class Far:
    """The server behind the proxy, and both sides.

    Args:
        delay: seconds of each request.
        sizes: of the jobs.
        stack: ends all of it.
    """

    def __init__(self, delay: float, sizes: Sizes, stack: ExitStack) -> None:
        self.sizes, self.random = sizes, random.Random(40)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.update(ENVIRONMENT)
        server = Server("ministack_memory", self.folder / "server")
        stack.callback(server.close)
        self._pipe, end = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=serve, args=(server.endpoint, end), daemon=True)
        process.start()
        stack.callback(process.join)
        stack.callback(self._pipe.send, "end")
        self.endpoint = self._pipe.recv()
        self.direct = server.client()  # prepares, neither delayed nor counted
        self.client = server.client(self.endpoint)
        self.direct.create_bucket(Bucket=BUCKET)
        self.pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        self.stack = stack
        self.volumes: dict[int, Volume] = {}
        self.file = make_file(self.folder / "large", sizes.huge)
        for size in (sizes.capacity, sizes.memory):
            self.volumes[size] = self.warmed(size)
        self.order(delay)

    def warmed(self, capacity: int) -> Volume:
        """A volume whose backend has tried what the server honours."""
        cache = self.stack.enter_context(PageCache(capacity))
        volume = cache.attach(S3Backend(BUCKET, endpoint_url=self.endpoint))
        for key, size in (("warm-up/small", len(SMALL)), ("warm-up/large", 2 * PART)):
            with volume.open(key, "wb") as file:
                file.write(bytes(size))
        return volume

    def order(self, order: float | str) -> tuple[int, int, int]:
        """Return requests, bytes, and most requests in flight since the last time."""
        self._pipe.send(order)
        counts: tuple[int, int, int] = self._pipe.recv()
        return counts

    @property
    def volume(self) -> Volume:
        return self.volumes[self.sizes.capacity]

    def put(self, key: str, size: int) -> None:
        if size <= len(BLOCK):
            self.direct.put_object(Bucket=BUCKET, Key=key, Body=BLOCK[:size])
            return
        with open(self.file, "rb") as source:
            self.direct.upload_fileobj(_Head(source, size), BUCKET, key)

    def empty(self, prefix: str) -> None:
        for page in self.direct.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for entry in page.get("Contents", ()):
                self.direct.delete_object(Bucket=BUCKET, Key=entry["Key"])


class _Head:
    """The first bytes of a file, for boto3 to upload."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        self._left -= size
        data: bytes = self._file.read(size)
        return data


# ---------------------------------------------------------------- the jobs

Keys = Sequence[str]
Run = Callable[[Keys], object]


@dataclass(frozen=True)
class Job:
    """Both sides of a job, each called with its keys.

    Attributes:
        count: number of objects.
        makes: the job makes the objects; otherwise they are there.
        size: of objects that are there.
        ready: prepares a round of our side, uncounted.
    """

    name: str
    text: str
    count: int
    own: Run
    peer: Run
    goals: Sequence[Goal]
    makes: bool = False
    size: int = len(SMALL)
    ready: Run = lambda keys: None


def jobs(far: Far) -> Iterator[Job]:
    sizes, volume, client = far.sizes, far.volume, far.client
    page = BLOCK[:PAGE]

    def read(key: str, revalidate: float = 0.0) -> None:
        with volume.open(key, "rb", revalidate=revalidate) as file:
            file.read()

    def get(key: str) -> None:
        client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def create(mode: OpenMode, key: str) -> None:
        with volume.open(key, mode) as file:
            file.write(SMALL)

    def put(key: str) -> None:
        client.put_object(Bucket=BUCKET, Key=key, Body=SMALL)

    def one_by_one(act: Callable[[str], None], keys: Keys) -> None:
        for key in keys:
            act(key)

    def by_threads(act: Callable[[str], None], keys: Keys) -> None:
        for _ in far.pool.map(act, keys):
            pass

    def write(size: int, keys: Keys) -> None:
        with open(far.file, "rb", buffering=0) as source, far.volumes[sizes.memory].open(keys[0], "wb") as file:
            block = memoryview(bytearray(MIB))
            for _ in range(size // MIB):
                file.write(block[: source.readinto(block)])

    def upload(size: int, keys: Keys) -> None:
        with open(far.file, "rb") as source:
            client.upload_fileobj(_Head(source, size), BUCKET, keys[0])

    def read_all(keys: Keys) -> None:
        block = memoryview(bytearray(MIB))
        with volume.open(keys[0], "rb") as file:
            while file.readinto(block):
                pass

    def download(keys: Keys) -> None:
        client.download_file(BUCKET, keys[0], os.devnull)

    def edit(offsets: Sequence[int], keys: Keys) -> None:
        with volume.open(keys[0], "r+b") as file:
            for offset in offsets:
                file.pwrite(page, offset)

    def edit_by_hand(offsets: Sequence[int], keys: Keys) -> None:
        copy = str(far.folder / "copy")
        client.download_file(BUCKET, keys[0], copy)
        with open(copy, "r+b") as file:
            for offset in offsets:
                os.pwrite(file.fileno(), page, offset)
        client.upload_file(copy, BUCKET, keys[0])

    def offsets(begin: int, end: int) -> list[int]:
        return [far.random.randrange(begin, end - PAGE) for _ in range(EDITS)]

    one, many = sizes.single, sizes.many
    again = partial(one_by_one, read)
    single = partial(one_by_one, get)
    threads = partial(by_threads, get)
    both = partial(by_threads, read)
    yield Job("read", "16 KiB, one after another", one, again, single, [requests(1), cpu(1.0)])
    yield Job("again", "the same again, `revalidate` 0", one, again, single, [requests(1)], ready=again)
    modes: list[tuple[OpenMode, list[Goal]]] = [("x", [requests(1), cpu(1.5)]), ("w", [requests(2)])]
    for mode, goals in modes:
        create_all = partial(one_by_one, partial(create, mode))
        puts = partial(one_by_one, put)
        yield Job(f"create-{mode}", f"16 KiB, mode `{mode}`", one, create_all, puts, goals, makes=True)
    for name, size in (("write", sizes.large), ("write-huge", sizes.huge)):
        text = f"{size // MIB} MiB through {sizes.memory // MIB} MiB of memory"
        goals = [beyond(4), speed(1.0)]
        yield Job(name, text, 1, partial(write, size), partial(upload, size), goals, makes=True)
    text = f"{sizes.large // MIB} MiB from the start to the end"
    yield Job("read-large", text, 1, read_all, download, [speed(1.0)], size=sizes.large)
    yield Job("reads-16", "16 KiB, 16 threads", many, both, threads, [requests(1), speed(1.0)])
    yield Job("again-16", "the same again, `revalidate` 0", many, both, threads, [speed(3.0)], ready=both)
    fresh = partial(by_threads, partial(read, revalidate=3600))
    yield Job("again-16-fresh", "the same again, `revalidate` 1 h", many, fresh, threads, [], ready=fresh)
    create_all = partial(by_threads, partial(create, "xb"))
    puts = partial(by_threads, put)
    yield Job("creates-16", "16 KiB, mode `x`, 16 threads", many, create_all, puts, [speed(0.9)], makes=True)
    middle = sizes.large // 2
    for name, begin, end, least in (
        ("edits-near", middle, middle + sizes.region, 4.0),
        ("edits-all", 0, sizes.large, 1.0),
    ):
        text = f"{EDITS} × 4 KiB within {(end - begin) // MIB} of {sizes.large // MIB} MiB"
        at = offsets(begin, end)
        sides = partial(edit, at), partial(edit_by_hand, at)
        yield Job(name, text, 1, *sides, [speed(least)], size=sizes.large)


def measure(far: Far, job: Job) -> tuple[Cost, Cost]:
    """Run the rounds of a job; returns the cost of our side and of boto3's."""
    costs = {"own": Cost(), "boto3": Cost()}
    sides = [("own", job.own), ("boto3", job.peer)]
    for turn in range(far.sizes.rounds):
        for side, run in sides if turn % 2 == 0 else sides[::-1]:
            keys = [f"{job.name}/{side}-{turn}/{number}" for number in range(job.count)]
            if not job.makes:
                list(far.pool.map(partial(far.put, size=job.size), keys))
            if side == "own":
                job.ready(keys)
            far.order("take")
            cost, began, used = costs[side], time.monotonic(), time.process_time()
            run(keys)
            cost.seconds.append(time.monotonic() - began)
            cost.cpu.append(time.process_time() - used)
            cost.requests, cost.bytes, _ = far.order("take")
            for volume in far.volumes.values():
                volume.invalidate()
            far.empty(job.name)
    return costs["own"], costs["boto3"]


# ---------------------------------------------------------------- other ways in


class Delayed(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's file system in memory, each call of which takes a while and counts."""

    protocol = "delayed"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    delay = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def _take(self, name: str) -> None:
        self.calls.append(name)
        time.sleep(self.delay)

    def info(self, path: str, **options: Any) -> Any:
        self._take("info")
        return super().info(path, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        self._take("cat_file")
        return super().cat_file(path, start, end, **options)


@dataclass(frozen=True)
class Way:
    """A job of another way in. `counted` returns requests, MiB and most requests in flight since its last call."""

    name: str
    text: str
    run: Callable[[], object]
    counted: Callable[[], tuple[int, int, int]]
    most: int | None = None
    in_flight: int = 0
    ready: Callable[[], object] = lambda: None


def below(far: Far, delay: float) -> Iterator[Way]:
    """Jobs over a file system of fsspec."""
    sizes, fs = far.sizes, Delayed()
    large = (BLOCK * (sizes.large // len(BLOCK) + 1))[: sizes.large]
    fs.pipe_file("/far/random", large)
    fs.pipe_file("/far/stream", large)
    far.stack.callback(fs.store.clear)
    fs.delay = delay
    volume = far.stack.enter_context(PageCache(sizes.capacity)).attach(FsspecBackend(fs, "/far"))
    count = 256 if sizes is not QUICK else 16

    def counted() -> tuple[int, int, int]:
        calls, fs.calls = fs.calls, []
        return len(calls), 0, 0

    def read_at_random() -> None:
        with volume.open("random", "rb", read_ahead=0) as file:
            for _ in range(count):
                file.pread(PAGE, far.random.randrange(sizes.large // PAGE) * PAGE)

    def read_as_parquet() -> None:
        """The end, then column chunks in order."""
        with volume.open("stream", "rb") as file:
            file.pread(8, sizes.large - 8)
            file.pread(64 << 10, sizes.large - (64 << 10))
            for offset in range(0, sizes.large - (64 << 10), MIB):
                file.pread(MIB, offset)

    text = f"fsspec: {count} random reads of 4 KiB"
    yield Way("below-random", text, read_at_random, counted, count + 4)
    text = f"fsspec: {sizes.large // MIB} MiB as parquet is read"
    yield Way("below-parquet", text, read_as_parquet, counted, 20)
    yield Way("below-again", "fsspec: the same again", read_as_parquet, counted, 1)


def mounted(far: Far) -> Iterator[Way]:
    """Jobs in a mount of the bucket; nothing if there are no mounts here."""
    if why := why_no_mounts():
        print(f"no mounts: {why}", file=sys.stderr)
        return
    count = 100 if far.sizes is not QUICK else 16
    stream = min(far.sizes.large, 64 * MIB)
    for number in range(count):
        far.put(f"mount/small/{number}", len(SMALL))
    far.put("mount/made/first", len(SMALL))
    far.put("mount/stream", stream)
    url = f"s3://{BUCKET}/mount?endpoint={far.endpoint}"
    paths: list[Path] = []
    for name, words in (("mount", ()), ("patient", ("-o", "attr_timeout=60,entry_timeout=60"))):
        options = ("--capacity", "512MiB", *words)
        paths.append(far.stack.enter_context(Mounted(far.folder / name, url, *options, longest=3600)).path)
        (paths[-1] / f"warm-up-{name}").write_bytes(SMALL)
    usual, patient = paths

    def counted() -> tuple[int, int, int]:
        return far.order("take")

    def read_all(path: Path) -> None:
        for number in range(count):
            (path / "small" / str(number)).read_bytes()

    def show(path: Path) -> None:
        assert len(os.listdir(path / "small")) == count

    def list_and_read(path: Path) -> None:
        show(path)
        read_all(path)

    def create(number: int) -> None:
        (usual / "made" / str(number)).write_bytes(SMALL)

    def create_all() -> None:
        for _ in far.pool.map(create, range(count)):
            pass

    def read_stream() -> None:
        with open(usual / "stream", "rb", buffering=0) as file:
            block = memoryview(bytearray(MIB))
            while file.readinto(block):
                pass

    def stream_by_handle() -> None:
        with far.volume.open("mount/stream", "rb") as file:
            block = memoryview(bytearray(MIB))
            while file.readinto(block):
                pass

    text, ready = f"mount: read {count} of 16 KiB after a listing", partial(show, usual)
    yield Way("mount-read", text, partial(read_all, usual), counted, count + 2, ready=ready)
    text, ready = "mount: the same again, `attr_timeout` 60", partial(list_and_read, patient)
    yield Way("mount-again", text, partial(read_all, patient), counted, 0, ready=ready)
    text = f"mount: create {count} of 16 KiB, {THREADS} threads"
    yield Way("mount-create", text, create_all, counted, 2 * count + 2, 8)
    text = f"mount: {stream // MIB} MiB from the start to the end"
    yield Way("mount-stream", text, read_stream, counted, stream // PART + 3)
    yield Way("handle-stream", "a handle: the same", stream_by_handle, counted)


def row_of(way: Way) -> str:
    """Run a job of another way in; return its row."""
    way.ready()
    way.counted()
    began = time.monotonic()
    way.run()
    took = time.monotonic() - began
    calls, moved, together = way.counted()
    goals = [] if way.most is None else [f"≤ {way.most}"]
    goals += [f"≥ {way.in_flight} in flight"] if way.in_flight else []
    reached = (way.most is None or calls <= way.most) and together >= way.in_flight
    cells = [f"{way.name}: {way.text}", f"{calls:,}", f"{moved / MIB:.1f}", str(together or "–"), f"{took:.2f}"]
    return " | ".join([*cells, "; ".join(goals) or "–", "–" if not goals else "yes" if reached else "no"])


WAYS = "job | requests | MiB | most in flight | s | goal | reached"
NAMES_OF_WAYS = ("below-random", "below-parquet", "below-again", "mount-read", "mount-again", "mount-create",
                 "mount-stream", "handle-stream")  # fmt: skip


# ---------------------------------------------------------------- the table

COST = "requests | MiB | s | CPU ms each"
HEAD = f"job | objects | ours: {COST} | boto3: {COST} | speed | goal | reached"


def row(job: Job, own: Cost, peer: Cost) -> str:
    def cells(cost: Cost) -> list[str]:
        each = 1000 * median(cost.cpu) / job.count
        return [f"{cost.requests:,}", f"{cost.bytes / MIB:.1f}", f"{median(cost.seconds):.2f}", f"{each:.2f}"]

    goals = "; ".join(goal.text for goal in job.goals)
    reached = "; ".join("yes" if goal.reached(own, peer, job.count) else "no" for goal in job.goals)
    title = f"{job.name}: {job.text}"
    cells_of_both = [*cells(own), *cells(peer), f"{ratio(own, peer):.2f}"]
    return " | ".join([title, f"{job.count:,}", *cells_of_both, goals or "–", reached or "–"])


def seconds(text: str) -> float:
    """Return the seconds of a text such as `20ms`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    value = float(found[1]) * {"ms": 0.001, "s": 1.0}[found[2]] if found else -1.0
    if not 0 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration of 0 to 60 s, such as 20ms")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--delay", type=seconds, default=0.02, help="of each request (20ms)")
    parser.add_argument("--only", metavar="NAME,…", help="jobs, by their names in the table")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: requests count, times do not")
    options = parser.parse_args()
    only = set(options.only.split(",")) if options.only else set()
    with ExitStack() as stack:
        far = Far(options.delay, QUICK if options.quick else Sizes(), stack)
        found = {job.name: job for job in jobs(far)}
        known = [*found, *NAMES_OF_WAYS]
        if unknown := only - set(known):
            parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
        delay, load = options.delay * 1000, os.getloadavg()[0]
        print(f"delay {delay:g} ms, {far.sizes.rounds} rounds, load {load:.1f} at the start\n")
        if not only or only & set(found):
            print(f"| {HEAD} |\n|{'---|' * (HEAD.count('|') + 1)}")
        for name, job in found.items():
            if not only or name in only:
                print(f"| {row(job, *measure(far, job))} |", flush=True)
        if not only or only & set(NAMES_OF_WAYS):
            print(f"\n| {WAYS} |\n|{'---|' * (WAYS.count('|') + 1)}")
        for group, ways in (("below", partial(below, far, options.delay)), ("mount", partial(mounted, far))):
            if not only or any(name in only for name in NAMES_OF_WAYS if (name[:5] == "below") == (group == "below")):
                for way in ways():
                    if not only or way.name in only:
                        print(f"| {row_of(way)} |", flush=True)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
