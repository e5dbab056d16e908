"""A mount and its peers, in one run: `python benchmarks/mounts.py [--files N]`.

    c            a mount of this project
    ll           libfuse's own passthrough_ll over tmpfs, if its source and a compiler are installed
    tmpfs        no FUSE at all

The result is the median over rounds of the ratio within a round, with direct I/O. Everything is cached in all of them.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import sides  # noqa: F401
from pagecache.bench import MIB, PAGE, Bench, Settings, Way
from tests.fuse.mounts import Mounted

SIZE = 32 << 20
PASSTHROUGH_LL = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
GOALS = {"names": 0.6, "stats": 0.8}
"""Least speed of c beside ll."""
PEERS = ("ll", "tmpfs")


class Subject:
    """A file system with a file that is cached in it, and the process that serves it."""

    def __init__(self, top: Path, pid: int | None) -> None:
        self.top, self.pid = top, pid
        self.fd = os.open(top / "data", os.O_RDWR)
        self.room = memoryview(mmap.mmap(-1, MIB))
        self.done, self.used = 0, 0.0

    def cpu(self) -> float:
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def way(self, name: str, call: Callable[[Subject, int], object], items: Sequence[int]) -> Way:
        self.done, self.used = 0, -self.cpu()

        def work(some: Sequence[int]) -> None:
            self.done += len(some)
            for item in some:
                call(self, item)

        return Way(name=name, run=work, items=items)

    def read(self, at: int, size: int) -> None:
        os.preadv(self.fd, [self.room[:size]], at)

    def write(self, at: int, size: int) -> None:
        os.pwrite(self.fd, self.room[:size], at)

    def name(self, _: int) -> None:
        os.close(os.open(self.top / "name", os.O_CREAT | os.O_WRONLY))
        os.unlink(self.top / "name")

    def stat(self, number: int) -> None:
        os.stat(self.top / f"file{number}")


def works(bench: Bench, subjects: dict[str, Subject], files: int, without_stats: set[str]) -> None:
    """Print the table of requests. `without_stats`: subjects that cannot have so many files."""
    pages, large = bench.offsets(), range(0, 8 * MIB, MIB)
    jobs: dict[str, tuple[Callable[[Subject, int], object], Sequence[int]]] = {
        "read_4k": (partial(Subject.read, size=PAGE), pages),
        "write_4k": (partial(Subject.write, size=PAGE), pages),
        "read_1m": (partial(Subject.read, size=MIB), large),
        "write_1m": (partial(Subject.write, size=MIB), large),
        "names": (Subject.name, [0]),
        "stats": (Subject.stat, range(files)),  # each so rarely that the kernel has forgotten it
    }
    for job, (call, items) in jobs.items():
        taking = {name: on for name, on in subjects.items() if job != "stats" or name not in without_stats}
        ways = [on.way(name, call, items) for name, on in taking.items()]
        found, own = bench.compare(*ways, clock=time.perf_counter), subjects["c"]
        cpu = (own.used + own.cpu()) / own.done * 1e6
        cells = [f"{found.speed('c', name)[0]:.2f}" if name in found else "–" for name in PEERS]
        print(f"| {job} | {GOALS.get(job, '')} | {cpu:.1f} µs | {' | '.join(cells)} |", flush=True)


def make_files(top: Path, files: int) -> None:
    (top / "data").write_bytes(bytes(SIZE))
    for number in range(files):
        (top / f"file{number}").touch()


@contextmanager
def served(command: Sequence[str], path: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A server of another project, whose mount is gone at the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not ready() and process.poll() is None:
                os.sched_yield()
            yield process
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(path)], check=False)
            process.kill()


def built_ll(folder: Path) -> Path | None:
    """Libfuse's example; None: its source, its headers or a compiler are missing."""
    program, flags = folder / "passthrough_ll", ["pkg-config", "--cflags", "--libs", "fuse3"]
    if not (PASSTHROUGH_LL.exists() and shutil.which("cc") and shutil.which("pkg-config")):
        return None
    words = subprocess.run(flags, capture_output=True, text=True, check=True).stdout.split()
    command = ["cc", "-O2", "-w", "-D_GNU_SOURCE", str(PASSTHROUGH_LL), "-o", str(program), *words]
    return None if subprocess.run(command, check=False).returncode else program


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=8_000)
    files = parser.parse_args().files
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, room))
    without_stats = {"ll"} if files + 1000 > room else set()  # it has a descriptor for each file
    options = ("--capacity", "256MiB", "--direct-io")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        make_files(memory, files)
        subjects = {"tmpfs": Subject(memory, None)}
        (root / "c" / "store").mkdir(parents=True)
        make_files(root / "c" / "store", files)
        mounted = stack.enter_context(Mounted(root / "c", f"dir:{root / 'c' / 'store'}", *options, longest=3600))
        (mounted.path / "data").read_bytes()
        assert mounted.process is not None
        subjects["c"] = Subject(mounted.path, mounted.process.pid)
        if program := built_ll(root):
            top = root / "ll"
            top.mkdir()
            command = [str(program), str(top), "-f", "-o", f"source={memory},cache=never"]
            process = stack.enter_context(served(command, top, (top / "data").exists))
            subjects["ll"] = Subject(top, process.pid)
        for subject in subjects.values():
            stack.callback(os.close, subject.fd)
        print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, {options}")
        print(f"| work | goal beside ll | CPU | {' | '.join(PEERS)} |\n|---|---|---|---|---|")
        bench = Bench(Settings(rounds=11, seconds=0.02, size=SIZE), root, random.Random(1), stack)
        works(bench, subjects, files, without_stats)


if __name__ == "__main__":
    main()
