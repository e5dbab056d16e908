"""`python -m tests.fuse.measure`: a mount beside a plain passthrough on the same binding, and beside tmpfs, in one run.

Each round asks every file system once, in another order; what counts is the median over rounds of the ratio within a
round (goal P35: at least 1.0 of the passthrough, with direct I/O). Everything is cached in every one of them.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .mounts import Mounted

SIZE = 32 << 20
ROUNDS = 11
SLICE = 0.25

PASSTHROUGH = """
import errno, os, stat, sys
import pyfuse3, trio
DATA = bytearray(32 << 20)
VIEW = memoryview(DATA)
NAMES = {}
class Plain(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = (stat.S_IFDIR | 0o755) if inode == 1 else (stat.S_IFREG | 0o644)
        entry.st_size = len(DATA) if inode == 2 else 0
        entry.entry_timeout = entry.attr_timeout = 1
        return entry
    async def setattr(self, inode, attr, fields, fh, ctx):
        return await self.getattr(inode)
    async def lookup(self, parent, name, ctx=None):
        if name == b"data": return await self.getattr(2)
        if name in NAMES: return await self.getattr(NAMES[name])
        raise pyfuse3.FUSEError(errno.ENOENT)
    async def create(self, parent, name, mode, flags, ctx):
        NAMES[name] = len(NAMES) + 3
        return pyfuse3.FileInfo(fh=9), await self.getattr(NAMES[name])
    async def unlink(self, parent, name, ctx):
        del NAMES[name]
    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, direct_io=True)
    async def read(self, fh, off, size):
        return bytes(VIEW[off:off + size])
    async def write(self, fh, off, buf):
        VIEW[off:off + len(buf)] = buf
        return len(buf)
    async def flush(self, fh): pass
    async def release(self, fh): pass
pyfuse3.init(Plain(), sys.argv[1], {"fsname=plain", "default_permissions"})
print("ready", flush=True)
trio.run(pyfuse3.main)
"""


def for_a_while(work: Callable[[], int]) -> float:
    """Units of work a second."""
    begin, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < SLICE:
        done += work()
    return done / passed


class Subject:
    """A file system with a file that is cached in it, and the process that serves it."""

    def __init__(self, top: Path, pid: int | None) -> None:
        self.top, self.pid = top, pid
        self.fd = os.open(top / "data", os.O_RDWR)
        self.buffer = mmap.mmap(-1, 1 << 20)
        self.small = memoryview(self.buffer)[:4096]
        self.random = random.Random(1)

    def cpu(self) -> float:
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def at(self) -> int:
        return self.random.randrange(SIZE // 4096) * 4096

    def read_4k(self) -> int:
        for _ in range(50):
            os.preadv(self.fd, [self.small], self.at())
        return 50

    def write_4k(self) -> int:
        for _ in range(50):
            os.pwrite(self.fd, self.small, self.at())
        return 50

    def read_1m(self) -> int:
        for at in range(0, 8 << 20, 1 << 20):
            os.preadv(self.fd, [self.buffer], at)
        return 8

    def write_1m(self) -> int:
        for at in range(0, 8 << 20, 1 << 20):
            os.pwrite(self.fd, self.buffer, at)
        return 8

    def names(self) -> int:
        path = self.top / "name"
        for _ in range(5):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)
        return 10


WORKS = ("read_4k", "write_4k", "read_1m", "write_1m", "names")


def measure(subjects: dict[str, Subject]) -> dict[str, dict[str, object]]:
    """For each kind of work: operations a second, their ratio to the passthrough, and CPU of the server for each."""
    rates: dict[tuple[str, str], list[float]] = {}
    cpu: dict[tuple[str, str], list[float]] = {}
    for round_ in range(ROUNDS + 1):
        for work in WORKS:
            order = list(subjects)
            random.Random(round_).shuffle(order)
            for name in order:
                subject = subjects[name]
                before, began = subject.cpu(), time.perf_counter()
                rate = for_a_while(getattr(subject, work))
                done = rate * (time.perf_counter() - began)
                if round_:  # the first one warms everything up
                    rates.setdefault((work, name), []).append(rate)
                    cpu.setdefault((work, name), []).append((subject.cpu() - before) / done * 1e6)
    report: dict[str, dict[str, object]] = {}
    for work in WORKS:
        for name in subjects:
            ratios = [ours / plain for ours, plain in zip(rates[work, name], rates[work, "plain"], strict=True)]
            report.setdefault(work, {})[name] = {
                "per second": round(statistics.median(rates[work, name])),
                "of plain": round(statistics.median(ratios), 2),
                "server µs": round(statistics.mean(cpu[work, name]), 1),
            }
    return report


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        root, plain = Path(folder), Path(folder) / "plain"
        plain.mkdir()
        (root / "store").mkdir()
        for top in (root / "store", Path(memory)):
            (top / "data").write_bytes(bytes(SIZE))
        options = ("--direct-io", "--capacity", "256MiB")
        command = [sys.executable, "-c", PASSTHROUGH, str(plain)]
        with (
            Mounted(root, f"dir:{root / 'store'}", *options, longest=900) as ours,
            subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        ):
            try:
                assert process.stdout is not None
                process.stdout.readline()
                (ours.path / "data").read_bytes()
                assert ours.process is not None
                subjects = {"plain": Subject(plain, process.pid), "ours": Subject(ours.path, ours.process.pid)}
                subjects["tmpfs"] = Subject(Path(memory), None)
                print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
                print(json.dumps(measure(subjects), indent=2, ensure_ascii=False))
                for subject in subjects.values():
                    os.close(subject.fd)
            finally:
                subprocess.run(["fusermount3", "-u", "-z", str(plain)], check=False)
                process.kill()


if __name__ == "__main__":
    main()
