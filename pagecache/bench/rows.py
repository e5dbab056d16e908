"""What a case gets and what it gives: the surroundings of a measurement, and rows of the table."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pagecache.bench.goals import BY_KEY, Goal, Unit
from pagecache.bench.harness import Comparison, Ratio, Variant, compare, shuffled
from pagecache.bench.peers import SystemCalls, make_file
from pagecache.bench.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured.

    Args:
        rounds: Of a comparison.
        seconds: Least length of a slice.
        cell_seconds: Length of a slice beside another thread.
        size: Bytes of the working set; at least eight times the processor's last cache to mean anything.
        most_pages: Of the growth rows.
        seed: Of every order.
        native: The C program that P7 counts instructions of.
    """

    rounds: int = 31
    seconds: float = 0.003
    cell_seconds: float = 0.25
    size: int = 256 * 1024 * 1024
    most_pages: int = 1_000_000
    seed: int = 1
    native: Path | None = None
    quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result.

    Args:
        case: Which case measured it.
        metric: What was done.
        against: What the value is relative to.
        value: The median; None when skipped.
        unit: Of the value.
        low: The smallest round.
        spread: Relative half width of the 95 % interval of the median.
        goal: The bound it has to reach, if any.
        nanoseconds: Absolute time per item: for the log.
        note: What has to be known to read it.
        skipped: Why there is no value.
    """

    case: str
    metric: str
    against: str
    value: float | None
    unit: Unit
    low: float | None = None
    spread: float = 0.0
    goal: Goal | None = None
    nanoseconds: float | None = None
    note: str = ""
    skipped: str = ""


def exact(case: str, key: str, value: float, note: str = "") -> Row:
    """A row that was counted."""
    goal = BY_KEY[key]
    return Row(
        case=case,
        metric=goal.metric,
        against=goal.against,
        value=value,
        unit=goal.unit,
        low=value,
        goal=goal,
        note=note,
    )


def skipped(case: str, key: str, reason: str) -> Row:
    """A goal that could not be measured here."""
    goal = BY_KEY[key]
    return Row(
        case=case, metric=goal.metric, against=goal.against, value=None, unit=goal.unit, goal=goal, skipped=reason
    )


def timed(case: str, key: str, comparison: Comparison, name: str, against: str, note: str = "") -> Row:
    """A row of a goal: `name` relative to `against`, in the direction of the goal."""
    goal = BY_KEY[key]
    faster = goal.unit == "× speed"
    ratio = comparison.speed(name, against) if faster else comparison.times(name, against)
    return row_of(case, goal.metric, goal.against, ratio, goal.unit, comparison.seconds(name), goal, note)


def look(case: str, metric: str, against: str, comparison: Comparison, name: str, base: str, note: str = "") -> Row:
    """A row without a goal: the speed of `name` relative to `base`."""
    return row_of(case, metric, against, comparison.speed(name, base), "× speed", comparison.seconds(name), None, note)


def row_of(
    case: str, metric: str, against: str, ratio: Ratio, unit: Unit, seconds: float, goal: Goal | None, note: str
) -> Row:
    """A row from a ratio."""
    return Row(
        case=case,
        metric=metric,
        against=against,
        value=ratio.median,
        unit=unit,
        low=ratio.low,
        spread=ratio.spread,
        goal=goal,
        nanoseconds=seconds * 1e9,
        note=note,
    )


@dataclass(slots=True)
class Bench:
    """The surroundings of one repetition: settings, a folder on tmpfs, and what several cases share.

    Shared parts are made when first asked for and closed in the end; a repetition makes them anew, because where
    their memory lies moves the numbers.
    """

    settings: Settings
    folder: Path
    rng: random.Random
    stack: ExitStack
    subjects: dict[int, Subject] = field(default_factory=dict)
    file: Path | None = None
    system: SystemCalls | None = None

    def subject(self, folio: int) -> Subject:
        """The cache with folios of `folio` bytes."""
        if folio not in self.subjects:
            self.subjects[folio] = self.stack.enter_context(Subject(self.settings.size, folio, self.rng))
        return self.subjects[folio]

    def tmpfs_file(self) -> Path:
        """A file of the size of the working set."""
        if self.file is None:
            self.file = make_file(self.folder / "file", self.settings.size)
        return self.file

    def system_calls(self) -> SystemCalls:
        """os.pread and os.pwrite on that file."""
        if self.system is None:
            self.system = SystemCalls(self.tmpfs_file())
            self.stack.callback(self.system.close)
        return self.system

    def random_offsets(self, size: int) -> list[int]:
        """All offsets that are multiples of `size`, in a new random order."""
        return shuffled(range(0, self.settings.size - size + 1, size), self.rng)

    def compare(
        self,
        variants: Sequence[Variant],
        *,
        wall: bool = False,
        rounds: int | None = None,
        seconds: float | None = None,
        counts: dict[str, int] | None = None,
    ) -> Comparison:
        """Measure side by side; `wall` where threads or sleeping backends take part."""
        return compare(
            variants,
            rounds=rounds or self.settings.rounds,
            seconds=seconds or self.settings.seconds,
            clock=time.perf_counter if wall else time.thread_time,
            rng=self.rng,
            counts=counts,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that can be chosen on the command line.

    Args:
        name: What `--only` calls it besides the ids of its goals.
        title: One line for `--list`.
        goals: Keys of the goals it measures.
        run: Yields its rows.
        group: "hits", or "writeback": what `pagecache bench writeback` runs.
    """

    name: str
    title: str
    goals: tuple[str, ...]
    run: Callable[[Bench], Iterator[Row]]
    group: str = "hits"

    def answers_to(self, word: str) -> bool:
        """Whether `word` names this case or one of its goals."""
        return word == self.name or any(word in (key, BY_KEY[key].id) for key in self.goals)


def case(
    name: str, title: str, goals: Iterable[str] = (), group: str | None = None
) -> Callable[[Callable[[Bench], Iterator[Row]]], Case]:
    """Make a case of a function that yields rows; the group is that of its goals."""

    def make(run: Callable[[Bench], Iterator[Row]]) -> Case:
        keys = tuple(goals)
        return Case(name, title, keys, run, group or (BY_KEY[keys[0]].group if keys else "hits"))

    return make
