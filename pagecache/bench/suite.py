"""Which cases run, in which order, how often, and what comes of it.

A repetition makes everything anew (where memory and tmpfs pages lie moves the numbers by more than a slice's noise);
with several repetitions the row with the median value counts. A case that fails gives a row that says so and does not
stop the others.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pagecache.bench import machine
from pagecache.bench.goals import BY_KEY
from pagecache.bench.harness import Variant, real_difference
from pagecache.bench.rows import Bench, Case, Row, Settings, skipped
from pagecache.bench.subject import MIB, PAGE
from pagecache.bench.traces import Traces
from pagecache.interrupts import uninterrupted

TMPFS = Path("/dev/shm")


class UnknownCase(ValueError):
    """A word of `--only` that names neither a case nor a goal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything a run found out."""

    machine: machine.Machine
    settings: Settings
    repeat: int
    spread: float  # the smallest difference that may be called real, from the A/A comparisons
    seconds: float
    huge_bytes: int  # of this process in huge pages, at the end of the cases
    rows: tuple[Row, ...]

    def missed(self) -> list[Row]:
        """Gated rows that miss their goal by more than the spread."""
        return [
            row
            for row in self.rows
            if row.goal is not None and row.value is not None and not row.goal.reached(row.value, self.spread)
        ]


def all_cases() -> tuple[Case, ...]:
    """Every case, in the order in which they run: what shares memory first, threads after what they would disturb."""
    from pagecache.bench import (
        cases_aio,
        cases_flow,
        cases_fsspec,
        cases_hits,
        cases_live,
        cases_marks,
        cases_memory,
        cases_miss,
        cases_native,
        cases_peers,
        cases_s3,
        cases_s3_peers,
        cases_shared,
        cases_threads,
        cases_writeback,
    )

    return (
        cases_hits.random_reads,
        cases_hits.sequential_reads,
        cases_hits.overwrites,
        cases_hits.small_stream,
        cases_hits.python_files,
        cases_hits.appends,
        cases_hits.views,
        cases_peers.peers,
        cases_threads.beside_a_thread,
        cases_live.watched,
        cases_aio.awaited_hits,
        cases_aio.blocked_loop,
        cases_miss.miss,
        cases_miss.streaming,
        cases_miss.eviction,
        cases_miss.index_growth,
        cases_memory.metadata,
        cases_writeback.counts,
        cases_writeback.scattered,
        cases_flow.write_path,
        cases_flow.in_flight,
        cases_flow.copies,
        cases_flow.write_through,
        cases_flow.sync_beside_a_writer,
        cases_flow.resent,
        cases_flow.full,
        cases_shared.direct,
        cases_shared.locked_reads,
        cases_fsspec.parquet,
        cases_fsspec.random_reads,
        cases_fsspec.writes,
        cases_s3.edit,
        cases_s3.writes,
        cases_s3.sequential,
        cases_s3_peers.s3_peers,
        cases_marks.marks,
        cases_native.hit_instructions,
    )


def select(words: Iterable[str], group: str | None = None) -> list[Case]:
    """Return the cases of the group (None: of all) that any of `words` names; all of them without a word.

    Raises:
        UnknownCase: A word names nothing; the text lists what there is.
    """
    cases = all_cases()
    if group is not None:
        cases = tuple(case for case in cases if case.group == group)
    wanted = [word.strip() for word in words if word.strip()]
    if not wanted:
        return list(cases)
    for word in wanted:
        if not any(case.answers_to(word) for case in cases):
            names = ", ".join(case.name for case in cases)
            raise UnknownCase(
                f"--only {word}: no such goal or case; goals are P1 to P29, P31 to P34 and P37, cases {names}"
            )
    return [case for case in cases if any(case.answers_to(word) for word in wanted)]


def settings_for(*, quick: bool, seed: int, native: Path | None) -> Settings:
    """Settings of a full or a quick run, on this machine's memory."""
    settings = Settings(seed=seed, native=native)
    if quick:
        return replace(settings, quick=True, rounds=11, size=64 * MIB, most_pages=100_000)
    # Two caches, a file, a mapping and one peer of this size at a time.
    if machine.available_memory() < 8 * settings.size:
        return replace(settings, size=64 * MIB)
    return settings


def announce(text: str) -> None:
    """Say on stderr what is measured now."""
    print(text, file=sys.stderr, flush=True)


def run(
    cases: Sequence[Case],
    settings: Settings,
    *,
    repeat: int = 1,
    say: Callable[[str], None] = announce,
    trace: Path | None = None,
) -> Outcome:
    """Measure `cases`, `repeat` times, and return what was found. `trace`: of each cache, to this file and others
    numbered beside it; the numbers are those of traced caches then.

    Blocks: for minutes in full, for half a minute in a quick run.
    """
    where = machine.describe()
    if where.busy:
        say(f"the load average is {where.load:.2f}: other work runs here, the numbers are worth little")
    start = time.monotonic()
    spreads, collected, huge = [], [], 0
    traces: Traces | None = None
    for turn in range(repeat):
        with ExitStack() as stack:
            bench = surroundings(settings, turn, stack)
            if trace is not None:
                traces = stack.enter_context(Traces(trace, traces.next if traces else 1))
            spreads.append(same_against_same(bench))
            rows: list[Row] = []
            for number, case in enumerate(cases, 1):
                part = f" (repetition {turn + 1} of {repeat})" if repeat > 1 else ""
                say(f"{number}/{len(cases)}{part} {case.name}: {case.title}")
                rows.extend(rows_of(case, bench))
            huge = max(huge, machine.huge_bytes())
            collected.append(rows)
    return Outcome(
        machine=where,
        settings=settings,
        repeat=repeat,
        spread=max(spreads),
        seconds=time.monotonic() - start,
        huge_bytes=huge,
        rows=tuple(middle_rows(collected)),
    )


def surroundings(settings: Settings, turn: int, stack: ExitStack) -> Bench:
    """Make the folder of one repetition, on tmpfs where there is one."""
    parent = TMPFS if TMPFS.is_dir() and os.access(TMPFS, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="pagecache-bench-", dir=parent))
    stack.callback(remove, folder)
    return Bench(settings, folder, random.Random(f"{settings.seed}:{turn}"), stack)


def remove(folder: Path) -> None:
    """Remove what a repetition left: it lies in memory."""
    with uninterrupted():
        shutil.rmtree(folder, ignore_errors=True)


def same_against_same(bench: Bench) -> float:
    """The A/A comparison: os.pread against itself, each in an order of its own."""
    read = bench.system_calls().reads(PAGE)
    one, other = (Variant(name=name, run=read, items=bench.random_offsets(PAGE)) for name in ("one", "other"))
    return real_difference(bench.compare([one, other]).times("one", "other"))


def rows_of(case: Case, bench: Bench) -> Iterator[Row]:
    """Run one case; a failure becomes rows that say what went wrong, for every goal that got no row."""
    seen = set()
    try:
        for row in case.run(bench):
            if row.goal is not None:
                seen.add(row.goal.key)
            yield row
    except (OSError, ValueError, TypeError, AttributeError, MemoryError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        announce(f"  {case.name} failed: {reason}")
        if not case.goals:
            yield Row(case=case.name, metric=case.title, against="", value=None, unit="× speed", skipped=reason)
        for key in case.goals:
            if key not in seen:
                yield skipped(case.name, key, reason)


def middle_rows(repetitions: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield, for each row of the first repetition, the one whose value is the median over all repetitions."""
    for first in repetitions[0]:
        identity = (first.case, first.metric, first.against, first.goal)
        same = [
            row
            for rows in repetitions
            for row in rows
            if (row.case, row.metric, row.against, row.goal) == identity and row.value is not None
        ]
        if not same:
            yield first
            continue
        same.sort(key=lambda row: row.value or 0.0)
        yield same[len(same) // 2]


def unmeasured(outcome: Outcome) -> list[str]:
    """Keys of the goals that no row speaks of: they were not selected."""
    seen = {row.goal.key for row in outcome.rows if row.goal is not None}
    return [key for key in BY_KEY if key not in seen]
