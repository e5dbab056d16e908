"""The course of a demo: one job over two stores, each through the cache and without it.

    store          through the cache            beside
    directory      CachedSide                   PlainSide: plain files
    object store   CachedSide                   DirectSide: each read and write is a request

The cache of the directory is smaller than the tree. That of the object store holds all its files and their copies.

Each job is copy, edit and read back some rounds, sync, close, compare. PlainSide does each job too and is the judge:
the other side takes turns with it batch by batch, with a changing first side, and every byte is compared. So the sides
of the object store do not run beside each other: the cache would write back while the clock of the other side runs.

The clock runs only inside the calls of a side. An early difference does not stop the run: the report says when it was
seen first.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from pagecache import PageCache
from pagecache.backends import Backend, DirectoryBackend
from pagecache.cli.demo import plan
from pagecache.cli.demo.sides import CachedSide, DirectSide, PlainSide, Side
from pagecache.cli.demo.tree import Tree, WrongInput, make_folders, scan, workplace
from pagecache.cli.demo.verify import Difference, compare_pieces, compare_trees
from pagecache.cli.progress import Progress, progress_on_stderr
from pagecache.config import parse_size
from pagecache.interrupts import uninterrupted
from pagecache.quantities import printable
from pagecache.testing import LatencyBackend

PAGE = 4096
SMALLEST_CAPACITY = 16 * PAGE
BATCH = 48  # files that are open together
PHASES = ("copy", "edit", "read back", "sync")
GIVE_UP_SECONDS = 5.0  # for closing the cache after an interrupt

REQUEST_SECONDS = 0.01
BANDWIDTH = 100e6  # bytes per second
MOST_CALLS = 800  # reads and writes of the job in the object store; without the cache, one waits for the other

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a run; sizes as a person writes them."""

    tree: Path | None = None
    capacity: str | None = None
    seed: int = 1
    limit: str = "24MiB"
    rounds: int = 2
    keep: Path | None = None


@dataclass(slots=True, kw_only=True)
class Course:
    """The findings of one job. Bytes, seconds, counts."""

    edits: dict[str, int] = field(default_factory=dict)
    calls: int = 0  # reads, writes and truncates of the program
    moved: dict[str, int] = field(default_factory=dict)  # phase -> bytes that the program moved
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # side -> phase -> seconds
    peak_used: int = 0
    counters: dict[str, int | float] = field(default_factory=dict)  # of the cache, just before it was closed
    difference: Difference | None = None
    compared_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The findings on one store: the job through the cache, and beside it."""

    tree: Tree
    capacity: int
    cached: Course
    beside: str  # name of the other side
    beside_seconds: dict[str, float]  # phase -> seconds
    requests: dict[str, int]  # side -> requests to the store; empty: they have no delay, and only the cache counts them
    difference: Difference | None
    compared_bytes: int

    @property
    def seconds(self) -> dict[str, dict[str, float]]:
        """Return the time by side and phase."""
        return {CachedSide.name: self.cached.seconds[CachedSide.name], self.beside: self.beside_seconds}

    def total_seconds(self, side: str) -> float:
        """Return the time of one side over all phases."""
        return sum(self.seconds[side].values())

    def speed_ratio(self) -> float:
        """Return the speed of the cache as a multiple of the other side."""
        return self.total_seconds(self.beside) / max(self.total_seconds(CachedSide.name), 1e-9)

    def hit_rate(self) -> float:
        """Return the fraction of lookups that were hits."""
        hits, misses = self.cached.counters["hits"], self.cached.counters["misses"]
        return hits / (hits + misses) if hits + misses else 0.0

    def backend_calls(self) -> int:
        """Return the number of read and write calls of the cache that reached the store."""
        return int(self.cached.counters["read_requests"] + self.cached.counters["write_requests"])

    def page_calls(self) -> int:
        """Return the number of calls with one call per page (a lower bound: no page is counted twice)."""
        return sum(-(-int(self.cached.counters[name]) // PAGE) for name in ("read_bytes", "write_bytes"))


@dataclass(slots=True, kw_only=True)
class Report:
    """The findings of a run."""

    seed: int
    rounds: int
    directory: Part
    object_store: Part
    elapsed: float
    kept: Path | None

    @property
    def difference(self) -> Difference | None:
        """Return the first difference, or None."""
        return self.directory.difference or self.object_store.difference

    @property
    def verified(self) -> bool:
        """Return whether every byte came out right."""
        return self.difference is None


def run(settings: Settings, progress: Callable[[], Any] = progress_on_stderr) -> Report:
    """Run the demo.

    Raises:
        WrongInput: The tree, the capacity, the limit or the directory to keep is not usable; or the tree changed during
            the run.
        OSError: The disk failed, or the cache could not save something.
    Blocks: for the whole run; Ctrl-C ends it and leaves nothing behind.
    """
    start = time.monotonic()
    if settings.rounds < 1:
        raise WrongInput(f"--rounds {settings.rounds}: at least 1")
    tree = scan(settings.tree, checked_size(settings.limit, "--limit"), settings.seed)
    capacity_for(settings.capacity, tree, 1)  # raises the error of an invalid option
    with workplace(tree, settings.keep) as root, progress() as bar:
        directory = over_directory(tree, root, bar, settings)
        object_store = over_object_store(few_files(tree, settings), root / "object-store", bar, settings)
        report = Report(
            seed=settings.seed,
            rounds=settings.rounds,
            directory=directory,
            object_store=object_store,
            elapsed=0.0,
            kept=settings.keep,
        )
        if report.difference and tree_changed(tree, report.difference.key):
            raise WrongInput(f"{printable(report.difference.key)}: changed while the demo read it")
    report.elapsed = time.monotonic() - start
    return report


def over_directory(tree: Tree, root: Path, progress: Progress, settings: Settings) -> Part:
    """Run the job over a directory, beside plain files."""
    source, target = DirectoryBackend(tree.root), DirectoryBackend(make_folders(tree, root / "cached"))
    capacity = capacity_for(settings.capacity, tree, 0.25)
    with cache_of(capacity) as cache:
        job = Job(tree, CachedSide(cache, source, target), root / "cached", root / "plain", progress, settings, "")
        course = job.do()
    return Part(
        tree=tree,
        capacity=capacity,
        cached=course,
        beside=PlainSide.name,
        beside_seconds=course.seconds[PlainSide.name],
        requests={},
        difference=course.difference,
        compared_bytes=course.compared_bytes,
    )


def over_object_store(tree: Tree, root: Path, progress: Progress, settings: Settings) -> Part:
    """Run the job over a directory with the latency of an object store, through the cache and without it."""
    capacity = capacity_for(settings.capacity, tree, 2.5)
    requests: dict[str, int] = {}

    def course_of(make_side: Callable[[Backend, Backend], Side], name: str) -> Course:
        copy = make_folders(tree, root / name)
        source, target = as_object_store(tree.root), as_object_store(copy)
        side = make_side(source, target)
        course = Job(tree, side, copy, root / f"plain for {name}", progress, settings, f"object store, {name}: ").do()
        requests[side.name] = source.delayed + target.delayed
        return course

    with cache_of(capacity) as cache:
        cached = course_of(lambda source, target: CachedSide(cache, source, target), "cached")
    direct = course_of(DirectSide, "direct")
    return Part(
        tree=tree,
        capacity=capacity,
        cached=cached,
        beside=DirectSide.name,
        beside_seconds=direct.seconds[DirectSide.name],
        requests=requests,
        difference=cached.difference or direct.difference,
        compared_bytes=cached.compared_bytes + direct.compared_bytes,
    )


def as_object_store(root: Path) -> LatencyBackend:
    """Return a directory with the latency and the bandwidth of an object store."""
    delay = REQUEST_SECONDS
    return LatencyBackend(
        DirectoryBackend(root), read=delay, write=delay, commit=delay, look_up=delay, bandwidth=BANDWIDTH
    )


def few_files(tree: Tree, settings: Settings) -> Tree:
    """Return the files of the object store: the largest whose reads and writes are at most MOST_CALLS."""
    return tree.largest(lambda file: plan.calls_of(settings.seed, file.key, file.size, settings.rounds), MOST_CALLS)


@contextmanager
def cache_of(capacity: int) -> Iterator[PageCache]:
    """Yield a cache that the body closes; an error closes it without saving its data."""
    cache = PageCache(capacity)
    try:
        yield cache
    except BaseException:
        with uninterrupted():
            give_up(cache)
        raise


def tree_changed(tree: Tree, key: str) -> bool:
    """Return whether a foreign write to the source explains a difference."""
    return any(file.key == key for file in tree.files) and tree.changed(key)


def checked_size(text: str, what: str) -> int:
    """Return the bytes of an option.

    Raises:
        WrongInput: Not a size.
    """
    try:
        return parse_size(text, what)
    except ValueError as error:
        raise WrongInput(str(error)) from None


def capacity_for(capacity_option: str | None, tree: Tree, share: float) -> int:
    """Return the capacity in bytes: as requested, or a multiple of the tree.

    Raises:
        WrongInput: Not a size, or too small for a cache.
    """
    if capacity_option is None:
        return max(SMALLEST_CAPACITY, int(tree.size * share) // PAGE * PAGE)
    capacity = checked_size(capacity_option, "--capacity")
    if capacity < SMALLEST_CAPACITY:
        raise WrongInput(f"--capacity {capacity_option}: at least {SMALLEST_CAPACITY // 1024}KiB")
    return capacity


def batches(files: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Cut the files into batches."""
    for start in range(0, len(files), BATCH):
        yield files[start : start + BATCH]


class Job:
    """One job of a side and the plain side over one tree: owns the clock of both.

    Args:
        side: The side under test; its copy is below `copy`.
        plain: Directory for the copy by plain file operations.
        prefix: For the names of the phases, in the display of progress and in a difference.
    """

    def __init__(
        self, tree: Tree, side: Side, copy: Path, plain: Path, progress: Progress, settings: Settings, prefix: str
    ) -> None:
        self.tree = tree
        self.side = side
        self.plain = PlainSide(tree.root, make_folders(tree, plain))
        self.roots = plain, copy
        self.progress = progress
        self.prefix = prefix
        self.seed = settings.seed
        self.rounds = settings.rounds
        self.rng = Random(f"{settings.seed}:turns")
        self.sizes = {file.key: file.size for file in tree.files}
        self.course = Course(seconds={each.name: dict.fromkeys(PHASES, 0.0) for each in (side, self.plain)})

    def do(self) -> Course:
        """Run all phases."""
        self.copy()
        for turn in range(self.rounds):
            self.edit(turn)
            self.read_back(turn)
        self.sync()
        self.compare()
        return self.course

    def in_turn(self, *sides: Side) -> Sequence[Side]:
        """Return both sides, in an order that changes."""
        return self.rng.sample(sides, len(sides))

    def phase(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Enter a phase in the display of progress."""
        return self.progress.phase(f"{self.prefix}{name}", total)

    @contextmanager
    def timed(self, side: Side, phase: str) -> Iterator[None]:
        """Add the time of the body to a phase of a side."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.course.seconds[side.name][phase] += time.perf_counter() - start

    def moved(self, phase: str, amount: int, calls: int) -> None:
        """Count bytes and calls of the program."""
        self.course.moved[phase] = self.course.moved.get(phase, 0) + amount
        self.course.calls += calls

    def record_memory(self) -> None:
        """Record the current memory use of the cache."""
        if isinstance(self.side, CachedSide):
            self.course.peak_used = max(self.course.peak_used, self.side.cache.stats().used)

    def copy(self) -> None:
        """Copy the tree in mixed sizes."""
        with self.phase("copy", len(self.tree.files)) as advance:
            for files in batches(self.tree.files):
                batch = [(file.key, plan.copy_pieces(self.seed, file.key, file.size)) for file in files]
                for side in self.in_turn(self.side, self.plain):
                    with self.timed(side, "copy"):
                        side.copy(batch)
                self.moved("copy", 2 * sum(f.size for f in files), 2 * sum(len(pieces) for _, pieces in batch))
                self.record_memory()
                advance(len(files))

    def edit(self, turn: int) -> None:
        """Edit the copies in place, the files of a batch in turn."""
        every = list(self.sizes)
        self.rng.shuffle(every)
        with self.phase(f"edit {turn + 1}", len(every)) as advance:
            for keys in batches(every):
                planned = [plan.edits_of(self.seed + turn, key, self.sizes[key]) for key in keys]
                edits = plan.interleaved(self.rng, [own for own, _ in planned])
                for side in self.in_turn(self.side, self.plain):
                    with self.timed(side, "edit"):
                        side.edit(keys, edits)
                for key, (_, size) in zip(keys, planned, strict=True):
                    self.sizes[key] = size
                for _, edit in edits:
                    self.course.edits[edit.kind] = self.course.edits.get(edit.kind, 0) + 1
                self.moved("edit", sum(len(edit.data) for _, edit in edits), len(edits))
                self.record_memory()
                advance(len(keys))

    def read_back(self, turn: int) -> None:
        """Read every copy in random order and compare what both sides read."""
        keys = list(self.sizes)
        self.rng.shuffle(keys)
        with self.phase(f"read back {turn + 1}", len(keys)) as advance:
            for key in keys:
                found = self.read_one(turn, key, self.in_turn(self.side, self.plain))
                self.course.difference = self.course.difference or found
                self.record_memory()
                advance(1)

    def read_one(self, turn: int, key: str, sides: Sequence[Side]) -> Difference | None:
        """Read one file on both sides."""
        pieces = plan.read_pieces(self.seed + turn, key, self.sizes[key])
        self.moved("read back", self.sizes[key], len(pieces))
        open_files: dict[str, Any] = {}
        first = None
        stage = self.prefix + ("read through the cache" if isinstance(self.side, CachedSide) else "read back")
        try:
            for side in sides:
                with self.timed(side, "read back"):
                    open_files[side.name] = side.open(key)
            for group in plan.grouped(pieces):
                read: dict[str, list[bytes]] = {}
                for side in sides:
                    with self.timed(side, "read back"):
                        read[side.name] = side.read(open_files[side.name], group)
                first = first or compare_pieces(key, group, read[PlainSide.name], read[self.side.name], stage)
        finally:
            for file in open_files.values():
                file.close()
        return first

    def sync(self) -> None:
        """Bring both copies to the disk and close both sides."""
        with self.phase("sync", 2) as advance:
            for side in self.in_turn(self.side, self.plain):
                with self.timed(side, "sync"):
                    side.sync()
                if isinstance(side, CachedSide):
                    self.course.counters = side.cache.stats().to_dict()
                with self.timed(side, "sync"):
                    side.close()
                advance(1)

    def compare(self) -> None:
        """Compare the two copies, read without the cache."""
        with self.phase("compare", len(self.sizes)) as advance:
            found = compare_trees(*self.roots, self.sizes, f"{self.prefix}in the files after close", lambda: advance(1))
        self.course.difference = self.course.difference or found
        self.course.compared_bytes = sum(self.sizes.values())


def give_up(cache: PageCache) -> None:
    """Close a cache without saving its data."""
    try:
        cache.close(timeout=GIVE_UP_SECONDS, on_failed="discard")
    except OSError:
        pass  # the original error is the one to report
