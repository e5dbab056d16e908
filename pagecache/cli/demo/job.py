"""The course of a demo: scan, copy, edit and read back some rounds, sync, close, compare; with counters of each phase.

The two sides take turns batch by batch, with a changing first side. The clock runs only inside the calls of a side. An
early difference does not stop the run: the report says when it was seen first.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from pagecache import PageCache
from pagecache.cli.demo import plan
from pagecache.cli.demo.sides import CachedSide, PlainSide, Side
from pagecache.cli.demo.tree import Tree, Workplace, WrongInput, scan, workplace
from pagecache.cli.demo.verify import Difference, compare_pieces, compare_trees
from pagecache.cli.progress import Progress, progress_on_stderr
from pagecache.config import parse_size
from pagecache.interrupts import uninterrupted
from pagecache.quantities import printable

PAGE = 4096
SMALLEST_CAPACITY = 16 * PAGE
BATCH = 48  # files that are open together
PHASES = ("copy", "edit", "read back", "sync")
GIVE_UP_SECONDS = 5.0  # for closing the cache after an interrupt

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a run; sizes as a person writes them."""

    tree: Path | None = None
    capacity: str | None = None
    seed: int = 1
    limit: str = "512MiB"
    rounds: int = 3
    keep: Path | None = None


@dataclass(slots=True, kw_only=True)
class Report:
    """The findings of a run. Bytes, seconds, counts."""

    root: Path
    seed: int
    files: int
    left_over: int
    tree_bytes: int
    capacity: int
    page: int = PAGE
    edits: dict[str, int] = field(default_factory=dict)
    calls: int = 0  # reads, writes and truncates of the program
    moved: dict[str, int] = field(default_factory=dict)  # phase -> bytes that the program moved
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # side -> phase -> seconds
    peak_used: int = 0
    counters: dict[str, int | float] = field(default_factory=dict)  # of the cache, just before it was closed
    difference: Difference | None = None
    compared_bytes: int = 0
    elapsed: float = 0.0
    kept: Path | None = None

    @property
    def verified(self) -> bool:
        """Return whether every byte came out right."""
        return self.difference is None

    def total_seconds(self, side: str) -> float:
        """Return the time of one side over all phases."""
        return sum(self.seconds[side].values())

    def speed_ratio(self) -> float:
        """Return the speed of the cache as a multiple of plain files."""
        return self.total_seconds(PlainSide.name) / max(self.total_seconds(CachedSide.name), 1e-9)

    def hit_rate(self) -> float:
        """Return the fraction of lookups that were hits."""
        hits, misses = self.counters["hits"], self.counters["misses"]
        return hits / (hits + misses) if hits + misses else 0.0

    def backend_calls(self) -> int:
        """Return the number of read and write calls that reached the two directories."""
        return int(self.counters["read_requests"] + self.counters["write_requests"])

    def page_calls(self) -> int:
        """Return the number of calls with one call per page (a lower bound: no page is counted twice)."""
        return sum(-(-int(self.counters[name]) // self.page) for name in ("read_bytes", "write_bytes"))


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
    capacity = capacity_for(settings.capacity, tree)
    with workplace(tree, settings.keep) as place, progress() as bar:
        report = Report(
            root=tree.root,
            seed=settings.seed,
            files=len(tree.files),
            left_over=tree.left_over,
            tree_bytes=tree.size,
            capacity=capacity,
            kept=settings.keep,
        )
        Job(tree, place, report, bar, settings).do()
        if report.difference and tree_changed(tree, report.difference.key):
            raise WrongInput(f"{printable(report.difference.key)}: changed while the demo read it")
    report.elapsed = time.monotonic() - start
    return report


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


def capacity_for(capacity_option: str | None, tree: Tree) -> int:
    """Return the capacity in bytes: as requested, or a quarter of the tree.

    Raises:
        WrongInput: Not a size, or too small for a cache.
    """
    if capacity_option is None:
        return max(SMALLEST_CAPACITY, tree.size // 4 // PAGE * PAGE)
    capacity = checked_size(capacity_option, "--capacity")
    if capacity < SMALLEST_CAPACITY:
        raise WrongInput(f"--capacity {capacity_option}: at least {SMALLEST_CAPACITY // 1024}KiB")
    return capacity


def batches(files: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Cut the files into batches."""
    for start in range(0, len(files), BATCH):
        yield files[start : start + BATCH]


class Job:
    """One run over one tree: owns the cache and the clock of both sides."""

    def __init__(self, tree: Tree, place: Workplace, report: Report, progress: Progress, settings: Settings) -> None:
        self.tree = tree
        self.place = place
        self.report = report
        self.progress = progress
        self.seed = settings.seed
        self.rounds = settings.rounds
        self.rng = Random(f"{settings.seed}:turns")
        self.sizes = {file.key: file.size for file in tree.files}

    def do(self) -> None:
        """Run all phases; the report is complete afterwards."""
        cache = PageCache(self.report.capacity)
        try:
            cached = CachedSide(cache, self.tree.root, self.place.cached)
            plain = PlainSide(self.tree.root, self.place.plain)
            self.report.seconds = {side.name: dict.fromkeys(PHASES, 0.0) for side in (cached, plain)}
            self.copy(cached, plain)
            for turn in range(self.rounds):
                self.edit(turn, cached, plain)
                self.read_back(turn, cached, plain)
            self.sync(cached, plain)
        except BaseException:
            with uninterrupted():
                give_up(cache)
            raise
        self.compare()

    def in_turn(self, *sides: Side) -> Sequence[Side]:
        """Return both sides, in an order that changes."""
        return self.rng.sample(sides, len(sides))

    @contextmanager
    def timed(self, side: Side, phase: str) -> Iterator[None]:
        """Add the time of the body to a phase of a side."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.report.seconds[side.name][phase] += time.perf_counter() - start

    def moved(self, phase: str, amount: int, calls: int) -> None:
        """Count bytes and calls of the program."""
        self.report.moved[phase] = self.report.moved.get(phase, 0) + amount
        self.report.calls += calls

    def record_memory(self, cached: CachedSide) -> None:
        """Record the current memory use of the cache."""
        self.report.peak_used = max(self.report.peak_used, cached.cache.stats().used)

    def copy(self, cached: CachedSide, plain: PlainSide) -> None:
        """Copy the tree in mixed sizes."""
        with self.progress.phase("copy", len(self.tree.files)) as advance:
            for files in batches(self.tree.files):
                batch = [(file.key, plan.copy_pieces(self.seed, file.key, file.size)) for file in files]
                for side in self.in_turn(cached, plain):
                    with self.timed(side, "copy"):
                        side.copy(batch)
                self.moved("copy", 2 * sum(f.size for f in files), 2 * sum(len(pieces) for _, pieces in batch))
                self.record_memory(cached)
                advance(len(files))

    def edit(self, turn: int, cached: CachedSide, plain: PlainSide) -> None:
        """Edit the copies in place, the files of a batch in turn."""
        every = list(self.sizes)
        self.rng.shuffle(every)
        with self.progress.phase(f"edit {turn + 1}", len(every)) as advance:
            for keys in batches(every):
                planned = [plan.edits_of(self.seed + turn, key, self.sizes[key]) for key in keys]
                edits = plan.interleaved(self.rng, [own for own, _ in planned])
                for side in self.in_turn(cached, plain):
                    with self.timed(side, "edit"):
                        side.edit(keys, edits)
                for key, (_, size) in zip(keys, planned, strict=True):
                    self.sizes[key] = size
                for _, edit in edits:
                    self.report.edits[edit.kind] = self.report.edits.get(edit.kind, 0) + 1
                self.moved("edit", sum(len(edit.data) for _, edit in edits), len(edits))
                self.record_memory(cached)
                advance(len(keys))

    def read_back(self, turn: int, cached: CachedSide, plain: PlainSide) -> None:
        """Read every copy in random order and compare what both sides read."""
        keys = list(self.sizes)
        self.rng.shuffle(keys)
        with self.progress.phase(f"read back {turn + 1}", len(keys)) as advance:
            for key in keys:
                found = self.read_one(turn, key, self.in_turn(cached, plain))
                self.report.difference = self.report.difference or found
                self.record_memory(cached)
                advance(1)

    def read_one(self, turn: int, key: str, sides: Sequence[Side]) -> Difference | None:
        """Read one file on both sides."""
        pieces = plan.read_pieces(self.seed + turn, key, self.sizes[key])
        self.moved("read back", self.sizes[key], len(pieces))
        open_files: dict[str, Any] = {}
        first = None
        try:
            for side in sides:
                with self.timed(side, "read back"):
                    open_files[side.name] = side.open(key)
            for group in plan.grouped(pieces):
                read: dict[str, list[bytes]] = {}
                for side in sides:
                    with self.timed(side, "read back"):
                        read[side.name] = side.read(open_files[side.name], group)
                first = first or compare_pieces(
                    key, group, read[PlainSide.name], read[CachedSide.name], "read through the cache"
                )
        finally:
            for file in open_files.values():
                file.close()
        return first

    def sync(self, cached: CachedSide, plain: PlainSide) -> None:
        """Bring both copies to the disk and close the cache."""
        with self.progress.phase("sync", 2) as advance:
            for side in self.in_turn(cached, plain):
                with self.timed(side, "sync"):
                    side.sync()
                if side is cached:
                    self.report.counters = cached.cache.stats().to_dict()
                    with self.timed(side, "sync"):
                        cached.cache.close()
                advance(1)

    def compare(self) -> None:
        """Compare the two copies, read without the cache."""
        with self.progress.phase("compare", len(self.sizes)) as advance:
            found = compare_trees(
                self.place.plain, self.place.cached, self.sizes, "in the files after close", lambda: advance(1)
            )
        self.report.difference = self.report.difference or found
        self.report.compared_bytes = sum(self.sizes.values())


def give_up(cache: PageCache) -> None:
    """Close a cache without saving its data."""
    try:
        cache.close(timeout=GIVE_UP_SECONDS, on_failed="discard")
    except OSError:
        pass  # the original error is the one to report
