"""A mount and its peers, in one run: `python benchmarks/mounts.py [--buffered] [--trees] [--files N]`.

    c            a mount of this project
    plain        a passthrough on pyfuse3 that does nothing but answer
    ll           libfuse's own passthrough_ll over tmpfs, if its source and a compiler are installed
    tmpfs        no FUSE at all

Each round measures every file system once, in another order. The result is the median over rounds of the ratio within a
round (goal P36: c at least 2.0 of plain at 4 KiB, with direct I/O). Everything is cached in every one of them.
`--buffered`: with the kernel's pages.
`--trees`: programs on trees of N files instead (tar, git, cp, find, stat, rm). The passthrough on pyfuse3 has no
directories and stays out. The table has the goals of c beside ll.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import mmap
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is no installed package

from tests.fuse.mounts import Mounted, run

SIZE = 32 << 20
ROUNDS = 11
SLICE = 0.25
PASSTHROUGH_LL = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")

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
        return pyfuse3.FileInfo(fh=inode, direct_io=sys.argv[2] == "direct")
    async def read(self, fh, off, size):
        return bytes(VIEW[off:off + size])
    async def write(self, fh, off, buf):
        VIEW[off:off + len(buf)] = buf
        return len(buf)
    async def flush(self, fh): pass
    async def release(self, fh): pass
pyfuse3.init(Plain(), sys.argv[1], {"fsname=plain", "default_permissions"})
trio.run(pyfuse3.main)
"""


def for_a_while(work: Callable[[], int]) -> tuple[int, float]:
    """Units of work, and seconds."""
    begin, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < SLICE:
        done += work()
    return done, passed


class Subject:
    """A file system with a file that is cached in it, and the process that serves it."""

    def __init__(self, top: Path, pid: int | None, files: int) -> None:
        self.top, self.pid, self.files = top, pid, files
        self.fd = os.open(top / "data", os.O_RDWR)
        self.buffer = mmap.mmap(-1, 1 << 20)
        self.small = memoryview(self.buffer)[:4096]
        self.random = random.Random(1)
        self.next = 0

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

    def stats(self) -> int:
        """Stat of many files, each so rarely that the kernel has forgotten it."""
        for _ in range(50):
            os.stat(self.top / f"file{self.next}")
            self.next = (self.next + 1) % self.files
        return 50


WORKS = ("read_4k", "write_4k", "read_1m", "write_1m", "names", "stats")
TREE_ROUNDS = 3
TREE_FILES = 10_000
GOALS = {
    "tar x": 0.7,
    "find | xargs stat": 0.8,
    "cp -r": 0.7,
    "rm -r": 0.7,
    "git clone": 0.7,
    "names": 0.6,
    "stats": 0.8,
}
"""Least speed of c beside ll."""
SIDES = ("c", "plain", "ll", "tmpfs")


class Table:
    """The results: for each kind of work, operations a second and CPU of the server for each."""

    def __init__(self) -> None:
        self._rates: dict[str, dict[str, list[float]]] = {}
        self._cpu: dict[str, dict[str, list[float]]] = {}

    def time(
        self, work: str, name: str, subject: Subject, call: Callable[[], tuple[int, float]], *, counts: bool
    ) -> None:
        before = subject.cpu()
        done, seconds = call()
        if counts:
            self._rates.setdefault(work, {}).setdefault(name, []).append(done / seconds)
            self._cpu.setdefault(work, {}).setdefault(name, []).append((subject.cpu() - before) / done * 1e6)

    def show(self) -> None:
        print("| work | goal beside ll | " + " | ".join(SIDES) + " |\n|---|---|---|---|---|---|")
        for work, rates in self._rates.items():
            cells = [self._cell(work, name) if name in rates else "–" for name in SIDES]
            print(f"| {work} | {GOALS.get(work, '')} | {' | '.join(cells)} |")

    def _cell(self, work: str, name: str) -> str:
        """The speed of c beside a peer, as the median of the rounds; of c, the operations a second and its CPU."""
        own, other = self._rates[work]["c"], self._rates[work][name]
        if name == "c":
            return f"{statistics.median(own):.0f}/s, {statistics.mean(self._cpu[work]['c']):.1f} µs"
        return f"{statistics.median(ours / theirs for ours, theirs in zip(own, other, strict=True)):.2f}"


def shuffled(subjects: dict[str, Subject], round_: int) -> list[tuple[str, Subject]]:
    order = list(subjects.items())
    random.Random(round_).shuffle(order)
    return order


def measure(subjects: dict[str, Subject], without_stats: set[str]) -> Table:
    table = Table()
    for round_ in range(ROUNDS + 1):  # the first one warms everything up
        for work in WORKS:
            for name, subject in shuffled(subjects, round_):
                if work != "stats" or name not in without_stats:
                    call = partial(for_a_while, getattr(subject, work))
                    table.time(work, name, subject, call, counts=round_ > 0)
    return table


class Trees:
    """Programs that make, read and remove a tree of small files in a file system."""

    def __init__(self, folder: Path, files: int) -> None:
        self.files = files
        self._archive, self._repository = folder / "tree.tar", folder / "repository"
        chance = random.Random(1)
        with tarfile.open(self._archive, "w") as archive:
            for number in range(files):
                entry = tarfile.TarInfo(f"tree/{number // 100}/file{number}")
                entry.size, entry.mode = chance.randrange(200, 8000), 0o644
                archive.addfile(entry, io.BytesIO(chance.randbytes(entry.size)))
        self._repository.mkdir()
        self._run("git", "init", "-q", "-b", "main", self._repository)
        self._run("tar", "xf", self._archive, "-C", self._repository)
        git = ("git", "-C", self._repository, "-c", "user.name=bench", "-c", "user.email=bench@localhost")
        self._run(*git, "add", ".")
        self._run(*git, "commit", "-q", "-m", "files")

    def jobs(self) -> dict[str, Callable[[Subject], int]]:
        """Return the jobs, in the order in which they follow each other; each returns the number of files."""
        return {
            "tar x": lambda on: self._run("tar", "xf", self._archive, "-C", on.top),
            "find | xargs stat": lambda on: self._run(
                "sh", "-c", 'find "$0" -type f -print0 | xargs -0 stat -c %s > /dev/null', on.top / "tree"
            ),
            "cp -r": lambda on: self._run("cp", "-r", on.top / "tree", on.top / "copy"),
            "rm -r": lambda on: 2 * self._run("rm", "-r", on.top / "tree", on.top / "copy"),
            "git clone": lambda on: self._run("git", "clone", "-q", self._repository, on.top / "clone"),
        }

    def clear(self, on: Subject) -> None:
        """Remove the result of the last job."""
        self._run("rm", "-rf", on.top / "clone")

    def _run(self, *command: str | Path) -> int:
        run(*command, timeout=1800)
        return self.files


def measure_trees(subjects: dict[str, Subject], trees: Trees) -> Table:
    table = Table()
    for round_ in range(TREE_ROUNDS + 1):  # the first one warms everything up
        for work, job in trees.jobs().items():
            for name, subject in shuffled(subjects, round_):
                table.time(work, name, subject, partial(timed, job, subject), counts=round_ > 0)
        for subject in subjects.values():
            trees.clear(subject)
    return table


def timed(job: Callable[[Subject], int], subject: Subject) -> tuple[int, float]:
    """Units of work, and seconds."""
    begin = time.perf_counter()
    return job(subject), time.perf_counter() - begin


def make_files(top: Path, files: int) -> None:
    (top / "data").write_bytes(bytes(SIZE))
    for number in range(files):
        (top / f"file{number}").touch()


@contextlib.contextmanager
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
    parser.add_argument("--buffered", action="store_true")
    parser.add_argument("--trees", action="store_true")
    parser.add_argument("--files", type=int)
    arguments = parser.parse_args()
    if arguments.files is not None and arguments.files < 1:
        parser.error(f"--files: {arguments.files} is less than 1")
    missing = [program for program in ("tar", "git", "cp", "find", "xargs", "stat", "rm") if not shutil.which(program)]
    if arguments.trees and missing:
        parser.error(f"--trees needs {', '.join(missing)}")
    direct = not arguments.buffered
    wanted = arguments.files or (TREE_FILES if arguments.trees else 8_000)
    files = 1 if arguments.trees else wanted  # of those that are there before
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, room))
    without_stats = {"plain"} | ({"ll"} if files + 1000 > room else set())  # it has a descriptor for each file
    options = ("--capacity", "256MiB", *(("--direct-io",) if direct else ()))
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        make_files(memory, files)
        subjects = {"tmpfs": Subject(memory, None, files)}
        (root / "c" / "store").mkdir(parents=True)
        make_files(root / "c" / "store", files)
        mounted = stack.enter_context(Mounted(root / "c", f"dir:{root / 'c' / 'store'}", *options, longest=3600))
        (mounted.path / "data").read_bytes()
        assert mounted.process is not None
        subjects["c"] = Subject(mounted.path, mounted.process.pid, files)
        others = {}
        if not arguments.trees:
            words = [str(root / "plain"), "direct" if direct else "pages"]
            others["plain"] = [sys.executable, "-c", PASSTHROUGH, *words]
        if ll := built_ll(root):
            cache = "never" if direct else "auto"
            source = memory
            if arguments.trees:  # names of both are in use at the same time
                source = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
                make_files(source, files)
            others["ll"] = [str(ll), str(root / "ll"), "-f", "-o", f"source={source},cache={cache}"]
        for name, command in others.items():
            (root / name).mkdir()
            data = root / name / "data"
            process = stack.enter_context(served(command, root / name, data.exists))
            subjects[name] = Subject(root / name, process.pid, files)
        for subject in subjects.values():
            stack.callback(os.close, subject.fd)
        print(f"load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, {options}")
        if arguments.trees:
            table = measure_trees(subjects, Trees(Path(stack.enter_context(tempfile.TemporaryDirectory())), wanted))
        else:
            table = measure(subjects, without_stats)
        table.show()


if __name__ == "__main__":
    main()
