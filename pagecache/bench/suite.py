"""Cases, their surroundings, the rows of the result, and the run of all cases.

A run makes everything anew, because the place of memory and of tmpfs pages changes the numbers by more than a slice's
noise. A case that fails gives rows that name the error, and does not stop the others.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pagecache.bench.harness import Comparison, Variant, compare, real_difference, shuffled
from pagecache.bench.plain import MIB, call_reads, make_file
from pagecache.bench.subject import PAGE, Subject
from pagecache.interrupts import uninterrupted

TMPFS = Path("/dev/shm")
Group = Literal["hits", "writeback", "files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The amount of measuring."""

    rounds: int = 31  # of a comparison
    seconds: float = 0.003  # least length of a slice
    cell_seconds: float = 0.25  # length of a slice beside another thread
    size: int = 256 * MIB  # bytes of the working set; at least eight times the processor's last cache
    most_pages: int = 1_000_000  # of rows that measure growth
    seed: int = 1  # of every order
    native: Path | None = None  # a C program whose instructions are counted
    quick: bool = False


def settings_for(*, quick: bool, seed: int, native: Path | None = None) -> Settings:
    """Return the settings of a full or a quick run, on this machine's memory."""
    settings = Settings(seed=seed, native=native)
    if quick:
        return replace(settings, quick=True, rounds=11, size=64 * MIB, most_pages=100_000)
    # Two caches, a file, a mapping and one peer of this size are in memory together.
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return replace(settings, size=64 * MIB) if available < 8 * settings.size else settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result."""

    case: str
    metric: str
    against: str = ""
    value: float | None = None  # the median; None when skipped
    unit: str = "× speed"
    key: str = ""  # of the goal that this row measures
    low: float | None = None  # the smallest round
    spread: float = 0.0  # relative half width of the 95 % interval of the median
    nanoseconds: float | None = None  # absolute time per item: for information
    note: str = ""
    skipped: str = ""  # the reason why there is no value
    counts: dict[str, float] = field(default_factory=dict)  # of one item: calls, threads, processor time


def measured(comparison: Comparison, name: str, base: str, *, unit: str = "× speed", **fields: Any) -> Row:
    """Return a row with the speed, or with unit `× time` the time, of `name` relative to `base`."""
    ratio = comparison.times(name, base) if unit == "× time" else comparison.speed(name, base)
    nanoseconds = comparison.seconds(name) * 1e9
    return Row(value=ratio.median, low=ratio.low, spread=ratio.spread, unit=unit, nanoseconds=nanoseconds, **fields)


@dataclass(slots=True)
class Bench:
    """The surroundings of one run: settings, a folder on tmpfs, and parts that several cases share.

    Shared parts are made on first use and closed in the end.
    """

    settings: Settings
    folder: Path
    rng: random.Random
    stack: ExitStack
    subjects: dict[int, Subject] = field(default_factory=dict)
    file: Path | None = None

    def subject(self, folio: int) -> Subject:
        """Return the cache with folios of `folio` bytes."""
        if folio not in self.subjects:
            self.subjects[folio] = Subject(self.settings.size, folio, self.rng)
            self.stack.callback(self.subjects[folio].close)
        return self.subjects[folio]

    def tmpfs_file(self) -> Path:
        """Return the path of a file of the size of the working set."""
        self.file = self.file or make_file(self.folder / "file", self.settings.size)
        return self.file

    def descriptor(self) -> int:
        """Return a new descriptor of that file."""
        fd = os.open(self.tmpfs_file(), os.O_RDWR)
        self.stack.callback(os.close, fd)
        return fd

    def random_offsets(self, size: int) -> list[int]:
        """Return all offsets that are multiples of `size`, in a new random order."""
        return shuffled(range(0, self.settings.size - size + 1, size), self.rng)

    def compare(self, variants: Sequence[Variant], *, wall: bool = False, **options: Any) -> Comparison:
        """Measure side by side; `wall`: by the wall clock, for threads and sleeping backends."""
        usual = {"rounds": self.settings.rounds, "seconds": self.settings.seconds}
        clock = time.perf_counter if wall else time.thread_time
        return compare(variants, clock=clock, rng=self.rng, **usual | options)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement that can be chosen on the command line."""

    name: str  # for --only, beside the ids of its goals
    title: str  # one line for --list
    goals: tuple[str, ...]  # keys of its rows
    run: Callable[[Bench], Iterator[Row]]
    group: Group = "hits"

    def answers_to(self, word: str) -> bool:
        """Return whether `word` names this case, one of its goals, or the id of one (`P1` of `P1/64K`)."""
        return word == self.name or any(word in (key, key.partition("/")[0]) for key in self.goals)


def case(
    name: str, title: str, goals: Iterable[str] = (), group: Group = "hits"
) -> Callable[[Callable[[Bench], Iterator[Row]]], Case]:
    """Make a case of a function that yields rows."""
    return lambda run: Case(name, title, tuple(goals), run, group)


class UnknownCase(ValueError):
    """A word of `--only` that names neither a case nor a goal."""


def select(cases: Sequence[Case], words: Iterable[str], group: str | None = None) -> list[Case]:
    """Return the cases of the group (None: of all) that any of `words` names; all of them without a word.

    Raises:
        UnknownCase: A word names nothing; the text lists the cases.
    """
    cases = [case for case in cases if group in (None, case.group)]
    wanted = [word.strip() for word in words if word.strip()]
    for word in wanted:
        if not any(case.answers_to(word) for case in cases):
            names = ", ".join(case.name for case in cases)
            raise UnknownCase(f"--only {word}: no such goal or case; cases are {names}")
    return [case for case in cases if not wanted or any(case.answers_to(word) for word in wanted)]


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of one run."""

    rows: tuple[Row, ...]
    spread: float  # the smallest difference that is more than noise, from the A/A comparison
    seconds: float


def announce(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(cases: Sequence[Case], settings: Settings, *, turn: int = 0) -> Result:
    """Measure `cases` once; `turn` varies the orders. Blocks: for minutes in full, for seconds in a quick run."""
    start = time.monotonic()
    parent = TMPFS if TMPFS.is_dir() and os.access(TMPFS, os.W_OK) else None
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pagecache-bench-", dir=parent))
        stack.callback(remove, folder)
        bench = Bench(settings, folder, random.Random(f"{settings.seed}:{turn}"), stack)
        spread = same_against_same(bench)
        rows: list[Row] = []
        for number, case in enumerate(cases, 1):
            announce(f"{number}/{len(cases)} {case.name}: {case.title}")
            rows += rows_of(case, bench)
    return Result(tuple(rows), spread, time.monotonic() - start)


def remove(folder: Path) -> None:
    """Remove the folder of a run, which occupies memory, even if interrupted again."""
    with uninterrupted():
        shutil.rmtree(folder, ignore_errors=True)


def same_against_same(bench: Bench) -> float:
    """Compare os.pread with itself, each in an order of its own, and return the noise."""
    read = call_reads(bench.descriptor(), PAGE)
    variants = [Variant(name=name, run=read, items=bench.random_offsets(PAGE)) for name in ("one", "other")]
    return real_difference(bench.compare(variants).times("one", "other"))


def rows_of(case: Case, bench: Bench) -> Iterator[Row]:
    """Run one case; a failure becomes a row for every goal that has none."""
    keys = set(case.goals or ("",))
    try:
        for row in case.run(bench):
            keys.discard(row.key)
            yield row
    except (OSError, ValueError, TypeError, AttributeError, MemoryError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        announce(f"  {case.name} failed: {reason}")
        for key in sorted(keys):
            yield Row(case=case.name, metric=case.title, key=key, skipped=reason)
