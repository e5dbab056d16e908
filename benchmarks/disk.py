"""The disk tier beside plain files, other caches on disk and clients: `python benchmarks/disk.py [--quick] [--only …]`.

    P40  fsync of 4 KiB                        P44  a second process reads the objects of the first one
    P41  4 KiB random reads from disk          P46  recovery of unsaved data
    P42  a file of four times the memory       P47  memory for each GiB on disk
    P43  1 GiB into a bucket                   D9   a start with 1 TiB on disk

P45 is these jobs on fsspec's filecache, diskcache and `rclone mount --vfs-cache-mode full`. As root the files are on an
ext4 on a loop device. The kernel forgets the files before each slice, and the cache its memory.
The bucket is that of `far.py`, 50 ms a request.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import diskcache
import fsspec

import sides
from pagecache import CachedFile, DiskTier, PageCache
from pagecache.bench import Bench, Comparison, Run, Settings, Way, each
from sides import BLOCK, BUCKET, MIB, PAGE, Far
from tests.disk.standin import PER_CHUNK, stand_in

DATA, THREADS = BLOCK[:PAGE], 16
UNCACHED = {"sqlite_mmap_size": 0, "sqlite_cache_size": 64}
"""diskcache reads from the disk as the others do."""
Row = tuple[str, str, str, str, str, bool | None]
"""Goal, job, beside, bound, measured, reached."""


@dataclass(slots=True)
class Disk(Bench):
    """The surroundings of a run, in a folder on the disk. `environments`: see `Far`."""

    environments: Path | None = None


@contextmanager
def ext4(folder: Path, size: int) -> Iterator[Path]:
    """Context of an ext4 on a loop device. Its blocks are written before: a sync changes nothing of the outer files."""
    image, top = folder / "image", folder / "ext4"
    top.mkdir()
    with open(image, "wb") as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
        os.fsync(file.fileno())

    def run(*command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image)
    device = run("losetup", "--direct-io=on", "--show", "-f", image)
    try:
        run("mount", device, top)
        try:
            yield top
        finally:
            run("umount", "-l", top)
    finally:
        run("losetup", "-d", device)


def forget(*paths: Path) -> None:
    """Have the kernel forget files, also those below folders."""
    for path in paths:
        for file in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
            fd = os.open(file, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def times(found: Comparison, name: str, beside: str, goal: float) -> tuple[str, str, bool]:
    value, _, spread = found.times(name, beside)
    return f"≤ {goal:g} × time", f"{value:.2f} ±{100 * spread:.0f} %", value <= goal


def speed(found: Comparison, name: str, beside: str, goal: float) -> tuple[str, str, bool]:
    value, _, spread = found.speed(name, beside)
    return f"≥ {goal:g} × speed", f"{value:.2f} ±{100 * spread:.0f} %", value >= goal


# ---------------------------------------------------------------- local jobs


def synced(fd: int, offsets: Sequence[int]) -> None:
    for offset in offsets:
        os.pwrite(fd, DATA, offset)
        os.fdatasync(fd)


def fsyncs(bench: Disk) -> Iterator[Row]:
    """P40: on the disk and on tmpfs; blocks that are there, and a file that grows."""
    tmpfs = bench.stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
    for name, folder in (("ext4", bench.folder / "fsync"), ("tmpfs", Path(tmpfs))):
        folder.mkdir(exist_ok=True)
        descriptors = [os.open(folder / text, os.O_RDWR | os.O_CREAT) for text in ("rewritten", "appended")]
        for offset in range(0, 16 * MIB, MIB):
            os.pwrite(descriptors[0], BLOCK, offset)
        os.fsync(descriptors[0])
        with PageCache("64MiB", disk=DiskTier(folder / "tier", size="512MiB")) as cache, ExitStack() as stack:
            volume = cache.attach("memory:", durability="disk")
            files = [stack.enter_context(volume.open(f"{number}", "w+b")) for number in range(THREADS)]
            pool = stack.enter_context(ThreadPoolExecutor(THREADS))

            def ours(file: CachedFile, offsets: Sequence[int]) -> None:
                for offset in offsets:
                    file.pwrite(DATA, offset)
                    file.fsync()

            def together(offsets: Sequence[int], files: Sequence[CachedFile], pool: ThreadPoolExecutor) -> None:
                list(pool.map(ours, files, [offsets[number::THREADS] for number in range(THREADS)]))

            pages = [PAGE * number for number in bench.rng.sample(range(16 * MIB // PAGE), 2048)]
            kept = stack.enter_context(diskcache.Cache(str(folder / "diskcache"), sqlite_synchronous=2))
            ways: dict[str, Run] = {
                "ours": partial(ours, files[0]),
                "threads": partial(together, files=files, pool=pool),
                "rewritten": partial(synced, descriptors[0]),
                "appended": partial(synced, descriptors[1]),
                "diskcache": each(partial(kept.set, value=DATA)),
            }
            items = {"appended": range(0, 1 << 30, PAGE)}
            some = [Way(name=way, run=run, items=items.get(way, pages), most=256) for way, run in ways.items()]
            found = bench.compare(*some, clock=time.perf_counter, seconds=60)
            job = f"fsync of 4 KiB, {name}"
            yield "P40", job, "pwrite + fdatasync of blocks that are there", *times(found, "ours", "rewritten", 1.5)
            yield "P40", job, "the same of a file that grows", *times(found, "ours", "appended", 1.5)
            yield "P40", f"16 threads, {name}", "one", *speed(found, "threads", "ours", 4)
            if name == "ext4":
                yield "P45", job, "diskcache, synchronous", *speed(found, "ours", "diskcache", 2)
        for fd in descriptors:
            os.close(fd)


def filled(bench: Disk, **options: Any) -> tuple[CachedFile, Callable[[object], None]]:
    """Return a file of four times the memory that is on disk, and a function that makes the memory forget it."""
    size, tier = bench.settings.size, bench.folder / "tier"
    store = bench.plain("data").parent
    disk = DiskTier(tier, size=4 * size, segment=min(64 * MIB, size))
    cache = bench.stack.enter_context(PageCache(size // 4, disk=disk))
    volume = cache.attach(f"dir:{store}", **options)
    file = bench.stack.enter_context(volume.open("data", "rb"))

    def cold(_: object) -> None:
        volume.drop_clean()
        forget(tier)

    for _ in range(20):
        cold(None)
        before, offsets = volume.stats(), range(0, size, MIB)
        for offset in offsets:
            file.pread(MIB, offset)
        after = volume.stats()
        if after.read_requests - before.read_requests == after.disk_hits - before.disk_hits:
            return file, cold
        time.sleep(0.5)
    raise RuntimeError("the tier does not take all")


def reads(bench: Disk) -> Iterator[Row]:
    """P41, P42, and both on other caches."""
    size, plain = bench.settings.size, bench.plain("data")
    fd, stack = bench.descriptor("data"), bench.stack
    small, all_of, offsets = {}, {}, bench.offsets()

    def whole(read: Callable[[int, int], object]) -> Callable[[object], None]:
        def run(_: object) -> None:
            for offset in range(0, size, MIB):
                read(MIB, offset)

        return run

    def add(name: str, read: Callable[[int, int], object], cold: Callable[[object], None], far: Any = None) -> None:
        cold(None)
        small[name] = Way(name=name, run=lambda some: [read(PAGE, at) for at in some], items=offsets, after=cold)
        all_of[name] = Way(name=name, run=whole(far or read), items=[0], after=cold, most=1)

    add("plain", partial(os.pread, fd), lambda _: forget(plain))
    random_file, cold = filled(bench, read_ahead=0)
    add("ours", random_file.pread, cold)
    sequential, cold = filled(bench)
    all_of["ours"] = replace(all_of["ours"], run=whole(sequential.pread), after=cold)

    cached = fsspec.filesystem("filecache", target_protocol="file", cache_storage=str(bench.folder / "filecache"))
    copy = stack.enter_context(cached.open(str(plain), "rb"))
    add(
        "filecache", lambda length, at: (copy.seek(at), copy.read(length)), lambda _: forget(bench.folder / "filecache")
    )
    kept = stack.enter_context(diskcache.Cache(str(bench.folder / "diskcache"), size_limit=8 * size, **UNCACHED))
    with kept.transact():
        for offset in range(0, size, PAGE):
            kept.set(offset, DATA)
        for offset in range(0, size, MIB):
            kept.set(offset + 1, BLOCK)
    dropped = partial(forget, bench.folder / "diskcache")
    add("diskcache", lambda _, at: kept.get(at), lambda _: dropped(), lambda _, at: kept.get(at + 1))
    far = bucket(bench)
    far.put(["data"], size)
    if (mount := far.side("rclone-full")) is not None:
        mounted = os.open(mount.top / "data", os.O_RDONLY)
        stack.callback(os.close, mounted)
        whole(partial(os.pread, mounted))(None)
        add("rclone", partial(os.pread, mounted), lambda _: forget(mount.top / "data", far.folder))
    found = bench.compare(*small.values(), clock=time.perf_counter, seconds=0.01)
    yield "P41", "4 KiB random reads from disk", "os.pread of a plain file", *times(found, "ours", "plain", 1.5)
    for name in list(small)[2:]:
        yield "P45", "the same", name, *speed(found, "ours", name, 2)
    found = bench.compare(*all_of.values(), clock=time.perf_counter, seconds=0.01)
    job = f"{size // MIB} MiB in order through {size // MIB // 4}"
    yield "P42", job, "reading a plain file", *speed(found, "ours", "plain", 0.9)
    for name in list(small)[2:]:
        yield "P45", "the same", name, *speed(found, "ours", name, 2)


TIER = """
import os, sys, time
from pagecache import DiskTier, PageCache
path, size = sys.argv[1], int(sys.argv[2])
begin = time.perf_counter()
disk = DiskTier(path, size=4 * size, journal_limit=3 * size)
cache = PageCache(3 * size, disk=disk, dirty_expire=3600, dirty_background=0.6, dirty_limit=0.7)
volume = cache.attach("memory:", volume_id="benchmark", durability="disk", on_recovery="hold")
"""
UNSAVED = (
    TIER
    + """
block, files = os.urandom(1 << 20), [volume.open(str(number), "wb") for number in range(8)]
for file in files:
    for _ in range(size >> 23):
        file.write(block)
    file.fsync()
os._exit(0)
"""
)
RECOVER = (
    TIER
    + """
found = volume.recovered()
print(time.perf_counter() - begin, sum(length for each in found for _, length in each.ranges))
os._exit(0)
"""
)


def recovery(bench: Disk) -> Iterator[Row]:
    """P46."""
    folder, size = bench.folder / "unsaved", 8 * bench.settings.size
    words = [sys.executable, "-c", UNSAVED, str(folder), str(size)]
    subprocess.run(words, check=True, timeout=600)

    def recover() -> float:
        forget(folder)
        done = subprocess.run(
            [*words[:2], RECOVER, *words[3:]], check=True, timeout=600, capture_output=True, text=True
        )
        seconds, found = done.stdout.split()
        assert int(found) == size, (found, size)
        return float(seconds)

    def plain() -> float:
        forget(folder)
        begin = time.perf_counter()
        for path in (folder / "journal").iterdir():
            with open(path, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass
        return time.perf_counter() - begin

    found = Comparison(sides.interleaved({"ours": recover, "plain": plain}, min(3, bench.settings.rounds), "P46"))
    yield "P46", f"recovery of {size // MIB} MiB of unsaved data", "reading it", *speed(found, "ours", "plain", 0.5)
    for path in folder.rglob("*.journal"):
        path.unlink()


def stand_ins(bench: Disk) -> Iterator[Row]:
    """P47, D9: a tier with sparse segments."""
    from pagecache.disk.catalogue import Catalogue
    from pagecache.disk.copies import Copy

    chunks = bench.settings.size >> 14  # 64 MiB each: 1 TiB
    stand_in(bench.folder / "stand-in", chunks)
    catalogue = Catalogue(str(bench.folder / "stand-in"))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    copies = [
        Copy(number, "", b"", "", lambda one, chunk: catalogue.chunk(one, chunk, lambda _: True))
        for number in range(1, 17)
    ]
    for copy in copies:
        copy.known = True
        assert copy.find(0)
    used = (tracemalloc.get_traced_memory()[0] - before) / 1024
    tracemalloc.stop()
    catalogue.close()
    assert sum(copy.size() for copy in copies) == 16 * PER_CHUNK
    yield "P47", "memory for each GiB on disk, extents of 64 KiB", "exact", "≤ 512 KiB", f"{used:.0f} KiB", used <= 512
    seconds = []
    for _ in range(5):
        forget(bench.folder / "stand-in")
        begin = time.perf_counter()
        with PageCache("16MiB", disk=DiskTier(bench.folder / "stand-in", size="2TiB")):
            seconds.append(time.perf_counter() - begin)
    shutil.rmtree(bench.folder / "stand-in")
    text = f"a start with {chunks // 16:,} GiB on disk"
    yield "D9", text, "sparse segments", "≤ 1 s", f"{median(seconds):.2f} s", median(seconds) <= 1


# ---------------------------------------------------------------- the bucket

DELAY = 0.05
KINDS: dict[str, type[sides.Way]] = {
    "tier": sides.Ours,
    "filecache": sides.Fsspec,
    "diskcache": sides.Diskcache,
    "boto3": sides.Boto3,
}


def bucket(bench: Disk) -> Far:
    """Return the server, without a delay; its sides have their files on the disk."""
    words: dict[str, tuple[str, ...]] = {
        "tier": ("128MiB", f"{bench.folder}/s3-tier"),
        "filecache": ("filecache", f"{bench.folder}/s3-filecache"),
        "diskcache": (f"{bench.folder}/s3-diskcache",),
    }
    tempfile.tempdir = str(bench.folder)
    known: sides.Sides = {name: ("disk", kind, words.get(name, ())) for name, kind in KINDS.items()}
    return Far(known, bench.environments, bench.stack)


def second(bench: Disk) -> Iterator[Row]:
    """P44: the objects were read by another process before."""
    far, size, count = bucket(bench), bench.settings.size // 16, 16
    keys, counts = [f"set/{number}" for number in range(count)], {}
    far.put(keys, size)

    def again(name: str) -> float:
        run = far.side(name)
        run("do", "stream", [])  # it has started
        if name == "rclone-full":
            run.begin(str(far.folder / "rclone-cache"))
            forget(far.folder / "rclone-cache")
        forget(bench.folder)
        far.order(delay=DELAY, take=1)
        seconds: float = run("do", "stream", keys)[0]
        far.quiet()
        counts[name] = far.order(take=1, delay=0.0)
        if name != "rclone-full":
            if name == "tier":
                run("end")
            far.sides.pop(name).close()
        return seconds

    ways = {name: partial(again, name) for name in ("tier", "filecache", "diskcache", "rclone-full")}
    first = sides.interleaved({name: way for name, way in ways.items() if far.side(name) is not None}, 1, "P44")
    time.sleep(1)
    found = Comparison(sides.interleaved({name: ways[name] for name in first}, min(5, bench.settings.rounds), "P44"))
    mine = counts["tier"]
    text = f"{mine['requests']} requests, {mine['bytes']} bytes"
    yield (
        "P44",
        f"{count} objects by a second process",
        "requests",
        "one each, no byte",
        text,
        text == f"{count} requests, 0 bytes",
    )
    for name in list(found)[1:]:
        yield "P45", f"the same; {counts[name]['requests']} requests there", name, *speed(found, "tier", name, 2)


def upload(bench: Disk) -> Iterator[Row]:
    """P43."""
    far, size, counts = bucket(bench), 4 * bench.settings.size, {}

    def once(name: str) -> float:
        run = far.side(name)
        key = f"up-{time.time_ns()}"
        run("fresh")
        far.order(delay=DELAY, take=1)
        begin = time.monotonic()
        run("do", "upload", [key], size=size)
        while name == "rclone-full" and far.client.client.list_objects_v2(Bucket=BUCKET, Prefix=key)["KeyCount"] < 1:
            time.sleep(0.1)
        seconds = time.monotonic() - begin
        far.quiet()
        counts[name] = far.order(take=1, delay=0.0)
        far.client.client.delete_object(Bucket=BUCKET, Key=key)
        return seconds

    names = [name for name in ("tier", "boto3", "filecache", "rclone-full") if far.side(name) is not None]
    found = Comparison(
        sides.interleaved({name: partial(once, name) for name in names}, min(3, bench.settings.rounds), "P43")
    )
    sent = counts["tier"]["bytes"] / size
    job = f"{size // MIB} MiB into the bucket, 128 MiB of memory; {counts['tier']['requests']} requests"
    yield "P43", job, "bytes sent", "once", f"{sent:.3f}", sent < 1.01
    for name in [name for name in found if "tier" in found and name != "tier"]:
        goal = 1 if name == "boto3" else 2
        yield "P43" if goal == 1 else "P45", "the same", name, *speed(found, "tier", name, goal)


JOBS = {"fsync": fsyncs, "reads": reads, "recovery": recovery, "start": stand_ins, "second": second, "upload": upload}


def main() -> None:
    sides.side({name: ("", kind, ()) for name, kind in KINDS.items()})
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--only", metavar="NAME,…", default=",".join(JOBS), help=f"of {', '.join(JOBS)}")
    parser.add_argument("--folder", type=Path, help="use this one, and no loop device")
    parser.add_argument("--here", action="store_true", help="with the packages of this environment")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "pagecache-far")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(JOBS):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(JOBS)}")
    settings = Settings(rounds=1, size=32 * MIB) if options.quick else Settings(rounds=7, size=256 * MIB)
    loop = os.geteuid() == 0 and options.folder is None
    with tempfile.TemporaryDirectory(dir=options.folder or "/var/tmp") as folder, ExitStack() as stack:
        top = stack.enter_context(ext4(Path(folder), max(2 << 30, 40 * settings.size))) if loop else Path(folder)
        bench = Disk(settings, top, random.Random(settings.seed), stack)
        bench.environments = None if options.here else options.environments
        print(f"load {os.getloadavg()[0]:.1f}, {'ext4 on a loop device' if loop else folder}\n")
        print("| goal | job | beside | bound | measured | reached |\n|---|---|---|---|---|---|")
        for name in options.only.split(","):
            with ExitStack() as bench.stack:
                for *cells, reached in JOBS[name](bench):
                    print(f"| {' | '.join(cells)} | {'yes' if reached else 'no'} |", flush=True)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
