"""The command `pagecache demo`: one job over two stores, with the cache and without it.

    store          through the cache     beside
    directory      Cached                Plain: plain files
    object store   Cached                Direct: each read and write is a request

The cache of the directory is smaller than the tree. That of the object store holds all its files and their copies.

The job is: copy, edit and read back some rounds, sync, close, compare. Plain does each job too and is the judge: every
byte that the other side reads is compared, and at the end every byte of its files. The clock runs only inside the calls
of a side. What is done to a file follows from seed, key and size alone (`pieces_of`, `edits_of`).
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json
from pagecache.config import parse_size
from pagecache.interrupts import leave_on_sigterm, uninterrupted
from pagecache.quantities import printable, size_text

KIB, MIB, PAGE = 1024, 1 << 20, 4096
PIECES = (509, 4095, 4096, 4097, 16 * KIB, 64 * KIB + 3, 256 * KIB, MIB)
LONGEST_EDIT, LONGEST_HOLE, MOST_EDITS = 48 * KIB, 24 * KIB, 64
BATCH = 48  # files that are open together
SMALLEST_CAPACITY = 16 * PAGE
PHASES = ("copy", "edit", "read back", "sync")
REQUEST_SECONDS = 0.01
BANDWIDTH = 100e6  # bytes per second
MOST_CALLS = 800  # reads and writes of the job in the object store; without the cache, one waits for the other
GIVE_UP_SECONDS = 5.0  # for closing the cache after an interrupt
LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__"})
ALIKE = 1.05  # a smaller ratio of two times is neither gain nor loss

Piece = tuple[int, int]  # offset, length
Edit = tuple[int, bytes | None]  # offset and bytes; new size and None

# ---------------------------------------------------------------- what is done to a file


def random_for(seed: int, what: str, key: str) -> Random:
    """Return a generator of its own for each file and use: the other files of a tree do not change its numbers."""
    return Random(os.fsencode(f"{seed}:{what}:{key}"))  # a name need not be text


def pieces_of(seed: int, key: str, size: int) -> list[Piece]:
    """Return consecutive pieces of mixed sizes that cover the file, of a byte less and more than a page among them."""
    rng, pieces, offset = random_for(seed, "copy", key), list[Piece](), 0
    while offset < size:
        pieces.append((offset, min(rng.choice(PIECES), size - offset)))
        offset += pieces[-1][1]
    return pieces


def edits_of(seed: int, key: str, size: int) -> tuple[list[Edit], int]:
    """Return the edits of a file in order, and its size after them: most overwrite bytes inside of it; others grow it,
    with a hole or without, or set its size.
    """
    rng, edits = random_for(seed, "edit", key), list[Edit]()
    for _ in range(min(MOST_EDITS, 2 + size // (32 * KIB))):
        kind = rng.choices(("overwrite", "grow", "append", "truncate"), (80, 6, 8, 6))[0]
        length = max(1, int(LONGEST_EDIT ** rng.random()))
        if kind == "truncate":
            size = max(0, size + rng.randrange(-LONGEST_HOLE, LONGEST_HOLE // 4))
            edits.append((size, None))
            continue
        offset = size if kind == "append" else size + rng.randrange(LONGEST_HOLE)
        if kind == "overwrite" and size:
            offset = rng.randrange(size)
            length = min(length, size - offset)
        edits.append((offset, rng.randbytes(length)))
        size = max(size, offset + length)
    return edits, size


def calls_of(seed: int, key: str, size: int, rounds: int) -> int:
    """Return the number of reads and writes of a file in a whole run."""
    calls = 2 * len(pieces_of(seed, key, size))
    for turn in range(rounds):
        edits, size = edits_of(seed + turn, key, size)
        calls += sum(data is not None for _, data in edits) + len(pieces_of(seed + turn + 1, key, size))
    return calls


# ---------------------------------------------------------------- the tree


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of a run: path below the root, size and time of each, in random order."""

    root: Path
    files: dict[str, Piece]
    left_over: int

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files.values())

    def largest(self, cost: Callable[[str, int], int], limit: int) -> Tree:
        """Return the largest files whose costs add up to at most `limit`, or the smallest file if none is so cheap."""
        chosen, room = list[str](), limit
        by_size = sorted(self.files, key=lambda key: -self.files[key][0])
        for key in by_size:
            if room < limit // 10:  # no need to compute the costs of thousands of files
                break
            if (price := cost(key, self.files[key][0])) <= room:
                chosen.append(key)
                room -= price
        files = {key: self.files[key] for key in chosen or by_size[-1:]}
        return Tree(self.root, files, len(self.files) - len(files))

    def make_folders(self, root: Path) -> Path:
        """Make the directories of a copy below `root`, and return `root`."""
        for folder in {os.path.dirname(key) for key in self.files}:
            os.makedirs(root / folder, exist_ok=True)
        return root

    def changed(self, key: str) -> bool:
        """Return whether a file has changed since the scan."""
        with suppress(OSError):
            return key in self.files and seen(os.stat(self.root / key)) != self.files[key]
        return True


def seen(status: os.stat_result) -> Piece:
    return status.st_size, status.st_mtime_ns


def scan(root: Path | None, limit: int, seed: int) -> Tree:
    """Choose regular files in random order while they fit into `limit` bytes. Each is read once: an unreadable one is
    found before anything starts, and both sides then read a tree that the kernel has cached.
    """
    given = root or Path(sysconfig.get_path("stdlib"))
    name = printable(str(given))
    if not given.is_dir():
        raise WrongUsage(f"{name}: {'not a directory' if given.exists() else 'no such directory'}")
    base = given.resolve()
    found: dict[str, Piece] = {}
    try:
        for folder, folders, names in os.walk(base, onerror=refuse):
            folders[:] = [each for each in folders if root or each not in LEFT_OUT]
            for path in (os.path.join(folder, each) for each in names):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    found[os.path.relpath(path, base)] = seen(status)
        order = sorted(found)
        Random(f"{seed}:order").shuffle(order)
        files, room = dict[str, Piece](), limit
        for key in order:
            if found[key][0] <= room:
                files[key] = found[key]
                room -= found[key][0]
        if not any(size for size, _ in files.values()):
            why = (
                f"no file fits into --limit {limit}"
                if any(size for size, _ in found.values())
                else "every file is empty"
            )
            raise WrongUsage(f"{name}: {why if found else 'no regular file in it'}")
        for key in files:
            with open(base / key, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass
    except OSError as error:
        raise WrongUsage(f"{printable(str(error.filename))}: cannot be read: {error.strerror}") from None
    return Tree(base, files, len(found) - len(files))


def refuse(error: OSError) -> None:
    raise error


@contextmanager
def workplace(tree: Tree, keep: Path | None) -> Iterator[Path]:
    """Make the directory of a run; without `keep` it is always removed."""
    root = Path(tempfile.mkdtemp(prefix="pagecache-demo-")) if keep is None else keep
    try:
        if keep is not None:
            try:
                keep.mkdir(parents=True, exist_ok=True)
                root = keep.resolve()
                used = any(root.iterdir())
            except OSError as error:
                raise WrongUsage(f"--keep {keep}: {error.strerror}") from None
            if used or root.is_relative_to(tree.root):
                raise WrongUsage(f"--keep {keep}: {'not empty' if used else 'lies in the tree that is copied'}")
        need, free = int(2.5 * tree.size) + 64 * MIB, shutil.disk_usage(root).free
        if free < need:
            raise WrongUsage(f"{root}: {free // MIB} MiB free, {need // MIB} MiB needed; TMPDIR chooses another disk")
        yield root
    finally:
        if keep is None:
            with uninterrupted():
                shutil.rmtree(root, ignore_errors=True)


# ---------------------------------------------------------------- the sides


class Cached:
    """Through two volumes of one cache: the tree and its copy."""

    name = "cache"

    def __init__(self, cache: Any, source: Any, target: Any) -> None:
        self.cache = cache
        self.volumes = cache.attach(source, name="source", read_only=True), cache.attach(target, name="copy")

    def source(self, key: str) -> Any:
        return self.volumes[0].open(key, "rb")

    def target(self, key: str, mode: str) -> Any:
        return self.volumes[1].open(key, mode)

    def sync(self) -> None:
        self.volumes[1].sync()

    def close(self) -> None:
        self.cache.close()


class DirectFile:
    """An object whose every read and write is a call of the backend."""

    def __init__(self, file: Any) -> None:
        self.file, self.truncate, self.commit, self.close = file, file.truncate, file.commit, file.close

    def pread(self, length: int, offset: int) -> bytes:
        data = bytearray(length)
        return bytes(data[: self.file.read_into(offset, [memoryview(data)])])

    def pwrite(self, data: bytes, offset: int) -> None:
        self.file.write_from(offset, [memoryview(data)])


class Direct:
    """Straight on the backends."""

    name = "direct calls"

    def __init__(self, source: Any, target: Any) -> None:
        self.backends = source, target
        self.written: list[str] = []

    def source(self, key: str) -> DirectFile:
        self.backends[0].stat(key)  # as `open()` does: it looks it up
        return DirectFile(self.backends[0].open(key))

    def target(self, key: str, mode: str) -> DirectFile:
        if mode == "wb":
            self.written.append(key)
        else:
            self.backends[1].stat(key)
        return DirectFile(self.backends[1].open(key, create=mode == "wb"))

    def sync(self) -> None:
        for key in self.written:
            with closing(self.target(key, "r+b")) as opened:
                opened.commit()

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


class PlainFile:
    """A file of `open()` with its default buffer."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = open(path, mode)  # noqa: SIM115 - `close` is ours
        self.truncate, self.close = self.file.truncate, self.file.close

    def pread(self, length: int, offset: int) -> bytes:
        self.file.seek(offset)
        found: bytes = self.file.read(length)
        return found

    def pwrite(self, data: bytes, offset: int) -> None:
        self.file.seek(offset)
        self.file.write(data)


class Plain:
    """By plain file operations."""

    name = "plain files"

    def __init__(self, source: Path, target: Path) -> None:
        self.roots = source, target
        self.written: list[str] = []

    def source(self, key: str) -> PlainFile:
        return PlainFile(self.roots[0] / key, "rb")

    def target(self, key: str, mode: str) -> PlainFile:
        if mode == "wb":
            self.written.append(key)
        return PlainFile(self.roots[1] / key, mode)

    def sync(self) -> None:
        """Sync each file and each directory once, as the cache does."""
        for path in {self.roots[1] / key for key in self.written} | {
            (self.roots[1] / key).parent for key in self.written
        }:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        pass


Side = Cached | Direct | Plain

# ---------------------------------------------------------------- the job


class Difference(NamedTuple):
    """The first difference: bytes of both sides from there on; empty: the end of the file."""

    key: str
    offset: int
    expected: bytes
    found: bytes
    stage: str


def difference(key: str, base: int, expected: bytes, found: bytes, stage: str) -> Difference | None:
    """Compare bytes that begin at offset `base` of a file."""
    if expected == found:
        return None
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((index for index, (one, other) in pairs if one != other), min(len(expected), len(found)))
    return Difference(key, base + at, expected[at : at + 16], found[at : at + 16], stage)


def read_pieces(opened: dict[str, Any], pieces: list[Piece], side: Side) -> list[bytes]:
    return [opened[side.name].pread(length, offset) for offset, length in pieces]


@dataclass
class Course:
    """What one job found."""

    seconds: dict[str, dict[str, float]]
    moved: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    calls: int = 0
    peak_used: int = 0
    counters: dict[str, int | float] = field(default_factory=dict)
    difference: Difference | None = None


class Job:
    """One job of a side and of plain files over one tree. `copy`, `plain`: their copies; `prefix`: of its phases."""

    def __init__(self, tree: Tree, side: Side, copy: Path, plain: Path, run: Run, prefix: str) -> None:
        self.tree, self.side, self.copies, self.prefix = tree, side, (plain, copy), prefix
        self.plain = Plain(tree.root, tree.make_folders(plain))
        self.seed, self.rounds, self.bar = run.seed, run.rounds, run.bar
        self.rng = Random(f"{run.seed}:turns")
        self.sizes = {key: size for key, (size, _) in tree.files.items()}
        self.course = Course({each.name: dict.fromkeys(PHASES, 0.0) for each in (side, self.plain)})

    def do(self) -> Course:
        with self.bar.phase(f"{self.prefix}copy", len(self.sizes)) as advance:
            for keys in self.batches():
                self.on_both("copy", partial(self.copy, keys))
                advance(len(keys))
        for turn in range(self.rounds):
            with self.bar.phase(f"{self.prefix}edit {turn + 1}", len(self.sizes)) as advance:
                for keys in self.batches():
                    self.edit(turn, keys)
                    advance(len(keys))
            with self.bar.phase(f"{self.prefix}read back {turn + 1}", len(self.sizes)) as advance:
                for key in self.shuffled():
                    self.read_back(turn, key)
                    advance(1)
        self.on_both("sync", lambda side: side.sync())
        if isinstance(self.side, Cached):
            self.course.counters = self.side.cache.stats().to_dict()
        self.on_both("sync", lambda side: side.close())
        with self.bar.phase(f"{self.prefix}compare", len(self.sizes)) as advance:
            self.compare(advance)
        return self.course

    def shuffled(self) -> list[str]:
        return self.rng.sample(list(self.sizes), len(self.sizes))

    def batches(self) -> Iterator[list[str]]:
        keys = self.shuffled()
        for start in range(0, len(keys), BATCH):
            yield keys[start : start + BATCH]

    def in_turn(self) -> Sequence[Side]:
        """Return both sides, in an order that changes."""
        return self.rng.sample((self.side, self.plain), 2)

    def on_both(self, phase: str, work: Callable[[Side], Any]) -> dict[str, Any]:
        """Do the same on both sides, and add the time of each to its phase."""
        results = {}
        for side in self.in_turn():
            began = time.perf_counter()
            results[side.name] = work(side)
            self.course.seconds[side.name][phase] += time.perf_counter() - began
        if isinstance(self.side, Cached) and not self.side.cache.closed:
            self.course.peak_used = max(self.course.peak_used, self.side.cache.stats().used)
        return results

    def moved(self, phase: str, size: int, calls: int) -> None:
        self.course.moved[phase] += size
        self.course.calls += calls

    def copy(self, keys: list[str], side: Side) -> None:
        for key in keys:
            pieces = pieces_of(self.seed, key, self.sizes[key])
            with closing(side.source(key)) as source, closing(side.target(key, "wb")) as target:
                for offset, length in pieces:
                    target.pwrite(source.pread(length, offset), offset)
            if side is self.side:
                self.moved("copy", 2 * self.sizes[key], 2 * len(pieces))

    def edit(self, turn: int, keys: list[str]) -> None:
        """Edit files that are open together, in turn."""
        planned = {key: edits_of(self.seed + turn, key, self.sizes[key]) for key in keys}
        order = [key for key, (edits, _) in planned.items() for _ in edits]
        self.rng.shuffle(order)
        ahead = {key: iter(edits) for key, (edits, _) in planned.items()}
        mixed = [(key, *next(ahead[key])) for key in order]

        def apply(side: Side) -> None:
            with ExitStack() as stack:
                files = {key: stack.enter_context(closing(side.target(key, "r+b"))) for key in keys}
                for key, offset, data in mixed:
                    if data is None:
                        files[key].truncate(offset)
                    else:
                        files[key].pwrite(data, offset)

        self.on_both("edit", apply)
        self.sizes |= {key: size for key, (_, size) in planned.items()}
        self.moved("edit", sum(len(data or b"") for _, _, data in mixed), len(mixed))

    def read_back(self, turn: int, key: str) -> None:
        """Read a file in random order, and compare what both sides read."""
        pieces = pieces_of(self.seed + turn + 1, key, self.sizes[key])
        random_for(self.seed + turn, "read", key).shuffle(pieces)
        stage = self.prefix + ("read through the cache" if isinstance(self.side, Cached) else "read back")
        with ExitStack() as stack:
            opened = self.on_both("read back", lambda side: stack.enter_context(closing(side.target(key, "rb"))))
            for start in range(0, len(pieces), 16):
                part = pieces[start : start + 16]
                read = self.on_both("read back", partial(read_pieces, opened, part))
                for (at, _), expected, found in zip(part, read[Plain.name], read[self.side.name], strict=True):
                    self.course.difference = self.course.difference or difference(key, at, expected, found, stage)
        self.moved("read back", self.sizes[key], len(pieces))

    def compare(self, advance: Callable[[int], None]) -> None:
        """Compare the two copies, read without the cache: their names, and every byte."""
        stage = f"{self.prefix}in the files after close"
        plain, copy = (
            {path.relative_to(root) for path in root.rglob("*") if not path.is_dir()} for root in self.copies
        )
        for path in sorted(plain ^ copy):
            texts = (b"", b"(a file)") if path in copy else (b"(a file)", b"(no file)")
            self.course.difference = self.course.difference or Difference(str(path), 0, *texts, stage)
        for key in [] if self.course.difference else self.sizes:
            with open(self.copies[0] / key, "rb") as expected, open(self.copies[1] / key, "rb") as found:
                for at in range(0, self.sizes[key] + 1, MIB):
                    piece = difference(key, at, expected.read(MIB), found.read(MIB), stage)
                    self.course.difference = self.course.difference or piece
            advance(1)


@dataclass(frozen=True)
class Part:
    """What was found on one store. `requests`: to the store, by side; empty: they have no delay."""

    tree: Tree
    capacity: int
    course: Course
    beside: str
    beside_seconds: dict[str, float]
    requests: dict[str, int]
    difference: Difference | None

    def total(self, side: str) -> float:
        return sum(self.seconds[side].values())

    @property
    def seconds(self) -> dict[str, dict[str, float]]:
        return {Cached.name: self.course.seconds[Cached.name], self.beside: self.beside_seconds}

    @property
    def speed_ratio(self) -> float:
        return self.total(self.beside) / max(self.total(Cached.name), 1e-9)

    @property
    def hit_rate(self) -> float:
        hits, misses = self.course.counters["hits"], self.course.counters["misses"]
        return hits / (hits + misses) if hits + misses else 0.0

    def figures(self) -> dict[str, Any]:
        """Return the figures of one store; `page_by_page_calls`: calls with one for each page, at least."""
        counters = self.course.counters
        return {
            "files": len(self.tree.files),
            "left_over": self.tree.left_over,
            "bytes": self.tree.size,
            "program_calls": self.course.calls,
            "moved_bytes": self.course.moved,
            "hit_rate": self.hit_rate,
            "backend_calls": int(counters["read_requests"] + counters["write_requests"]),
            "page_by_page_calls": sum(-(-int(counters[name]) // PAGE) for name in ("read_bytes", "write_bytes")),
            "capacity": self.capacity,
            "peak_used": self.course.peak_used,
            "seconds": self.seconds,
            "speed_ratio": self.speed_ratio,
            "counters": counters,
        }


@dataclass(frozen=True)
class Run:
    """A run of the demo: its options, and what shows its progress."""

    seed: int
    rounds: int
    capacity: int | None
    bar: Any

    def over_directory(self, tree: Tree, root: Path) -> Part:
        from pagecache.backends import DirectoryBackend

        source, target = DirectoryBackend(tree.root), DirectoryBackend(tree.make_folders(root / "cached"))
        capacity = self.capacity_for(tree, 0.25)
        with cache_of(capacity) as cache:
            job = Job(tree, Cached(cache, source, target), root / "cached", root / "plain", self, "")
            course = job.do()
        return Part(tree, capacity, course, Plain.name, course.seconds[Plain.name], {}, course.difference)

    def over_object_store(self, tree: Tree, root: Path) -> Part:
        """Run the job twice over directories with the latency of an object store: through the cache, and directly.

        Beside each other, the cache would write back while the clock of the other side runs.
        """
        from pagecache.backends import DirectoryBackend
        from pagecache.testing import LatencyBackend

        requests: dict[str, int] = {}

        def course_of(make: Callable[[Any, Any], Side], name: str) -> Course:
            copy, delay = tree.make_folders(root / name), REQUEST_SECONDS
            stores = [
                LatencyBackend(
                    DirectoryBackend(at), read=delay, write=delay, commit=delay, look_up=delay, bandwidth=BANDWIDTH
                )
                for at in (tree.root, copy)
            ]
            side = make(*stores)
            course = Job(tree, side, copy, root / f"plain for {name}", self, f"object store, {name}: ").do()
            requests[side.name] = sum(store.delayed for store in stores)
            return course

        capacity = self.capacity_for(tree, 2.5)
        with cache_of(capacity) as cache:
            cached = course_of(lambda source, target: Cached(cache, source, target), "cached")
        direct = course_of(Direct, "direct")
        found = cached.difference or direct.difference
        return Part(tree, capacity, cached, Direct.name, direct.seconds[Direct.name], requests, found)

    def capacity_for(self, tree: Tree, share: float) -> int:
        return self.capacity or max(SMALLEST_CAPACITY, int(tree.size * share) // PAGE * PAGE)


@contextmanager
def cache_of(capacity: int) -> Iterator[Any]:
    """Yield a cache that the body closes; an error closes it without saving its data."""
    from pagecache import PageCache

    cache = PageCache(capacity)
    try:
        yield cache
    except BaseException:
        with uninterrupted(), suppress(OSError):  # the original error is the one to report
            cache.close(timeout=GIVE_UP_SECONDS, on_failed="discard")
        raise


# ---------------------------------------------------------------- the report


def rate(moved: int, seconds: float) -> str:
    """Format throughput with its time; the time alone if the program moves no bytes."""
    return f"{moved / MIB / seconds:,.0f} MiB/s  {seconds:.2f} s" if moved and seconds else f"{seconds:.2f} s"


def conclusion(part: Part) -> str:
    """Say in one sentence what the cache gained or cost on a store."""
    ratio = part.speed_ratio
    speed = f"Gained: {ratio:.1f} times as fast as" if ratio >= ALIKE else f"Paid: {1 / ratio:.1f} times the time of"
    if 1 / ALIKE < ratio < ALIKE:
        speed = "Even: as fast as"
    if not part.requests:
        return f"{speed} plain files, which the kernel caches already."
    own, other = part.requests[Cached.name], part.requests[part.beside]
    return f"{speed} direct calls; {own:,} requests instead of {other:,}."


def print_report(parts: dict[str, Part], rounds: int, keep: Path | None, elapsed: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)

    first = next(iter(parts.values()))
    times = {1: "once", 2: "twice"}.get(rounds, f"{rounds} times")
    line(f"Copy files of {printable(str(first.tree.root))}, edit and read back all of them {times}")
    for name, part in parts.items():
        amount = f"{len(part.tree.files):,} files ({size_text(part.tree.size)})"
        line(f"\n{name}: {amount}, cache of {size_text(part.capacity)}", "bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("phase")
        for heading in (Cached.name, part.beside, "speed"):
            table.add_column(heading, justify="right")
        for phase in PHASES:
            own, other = (part.seconds[side][phase] for side in (Cached.name, part.beside))
            moved = part.course.moved[phase]
            table.add_row(phase, rate(moved, own), rate(moved, other), f"{other / own:.2f}×" if own else "")
        own, other, moved = part.total(Cached.name), part.total(part.beside), sum(part.course.moved.values())
        table.add_row("all", rate(moved, own), rate(moved, other), f"{part.speed_ratio:.2f}×")
        table.add_row("hit rate", f"{100 * part.hit_rate:.1f} %")
        console.print(table)
        line(conclusion(part))
    if keep:
        line(f"the copies are in {printable(str(keep))}")
    different = next((part.difference for part in parts.values() if part.difference), None)
    line(f"{verdict(first, different)} ({elapsed:.1f} s)", "bold red" if different else "bold green")


def verdict(part: Part, different: Difference | None) -> str:
    """Return the last line: the first difference, if any."""
    if different is None:
        return f"VERIFIED: {len(part.tree.files):,} files, every byte is as plain files have it"
    texts = [data.hex(" ") if data else "the end of the file" for data in (different.expected, different.found)]
    place = f"{printable(different.key)} at offset {different.offset}"
    return f"DIFFERENT: {place}: expected {texts[0]}, found {texts[1]} ({different.stage})"


def size_option(text: str, what: str) -> int:
    try:
        return parse_size(text, what)
    except ValueError as error:
        raise WrongUsage(str(error)) from None


@click.command(short_help="Copy and edit files over two stores, with the cache and without it")
@click.argument("tree", required=False, type=click.Path(path_type=Path))
@click.option("--capacity", metavar="SIZE", help="Capacity of both caches.  [default: see above]")
@click.option("--seed", default=1, show_default=True, help="Number that decides the edits.")
@click.option("--limit", metavar="SIZE", default="24MiB", show_default=True, help="Largest amount of TREE to use.")
@click.option("--rounds", default=2, show_default=True, help="Number of times to edit and read back everything.")
@click.option(
    "--keep", metavar="DIR", type=click.Path(path_type=Path), help="Directory to work in and keep, new or empty."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(
    tree: Path | None, capacity: str | None, seed: int, limit: str, rounds: int, keep: Path | None, as_json: bool
) -> None:
    """Copy TREE, edit the copy and read it back over two stores, with the cache and without it.

    The first store is a directory, beside plain Python file operations; the cache is a quarter of TREE. The second is
    a simulated object store, with 10 ms for each request, beside a request for each read and write; it has the largest
    files of TREE, and the cache holds them all. In the end every copy is read without the cache and compared byte by
    byte with plain files. TREE is only read. Without TREE: the standard library of the running Python.
    """
    from pagecache.cli.progress import progress_on_stderr

    leave_on_sigterm()
    began = time.monotonic()
    try:
        if rounds < 1:
            raise WrongUsage(f"--rounds {rounds}: at least 1")
        size = None if capacity is None else size_option(capacity, "--capacity")
        if size is not None and size < SMALLEST_CAPACITY:
            raise WrongUsage(f"--capacity {capacity}: at least {SMALLEST_CAPACITY // KIB}KiB")
        files = scan(tree, size_option(limit, "--limit"), seed)
        few = files.largest(lambda key, length: calls_of(seed, key, length, rounds), MOST_CALLS)
        with workplace(files, keep) as root, progress_on_stderr() as bar:
            run = Run(seed, rounds, size, bar)
            directory = run.over_directory(files, root)
            store = run.over_object_store(few, root / "object-store")
            different = directory.difference or store.difference
            if different and files.changed(different.key):
                raise WrongUsage(f"{printable(different.key)}: changed while the demo read it")
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted(f"what was done is in {keep}" if keep else "temporary files are removed")
    elapsed = time.monotonic() - began
    if as_json:
        shown = None
        if different:
            texts = {"expected": different.expected.hex(), "found": different.found.hex(), "stage": different.stage}
            shown = {"file": printable(different.key), "offset": different.offset, **texts}
        document: dict[str, Any] = {
            "verified": different is None,
            "difference": shown,
            "tree": printable(str(files.root)),
            "seed": seed,
        }
        document |= {"elapsed": elapsed, **directory.figures()}
        print_json(document | {"object_store": store.figures() | {"requests": store.requests}})
    else:
        simulated = f"Simulated object store ({1000 * REQUEST_SECONDS:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s)"
        print_report({"Directory": directory, simulated: store}, rounds, keep, elapsed)
    sys.exit(1 if different else 0)
