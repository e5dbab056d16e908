"""All cases, in the order in which they run, repetitions of a run, and the goals it reaches.

With several repetitions the row with the median value counts.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pagecache import PageCache
from pagecache.bench import suite
from pagecache.bench.cases import miss, overwrites, python_files, random_reads, write_path
from pagecache.bench.report import machine
from pagecache.bench.subject import on_cache
from pagecache.bench.suite import Case, Result, Row, Settings
from tests.bench import (
    cases_aio,
    cases_files,
    cases_flow,
    cases_fsspec,
    cases_hits,
    cases_live,
    cases_many,
    cases_marks,
    cases_memory,
    cases_miss,
    cases_native,
    cases_peers,
    cases_s3,
    cases_s3_peers,
    cases_shared,
    cases_streams,
    cases_threads,
    cases_writeback,
)
from tests.bench.goals import BY_KEY, Goal

# Cases that share memory first; threads after the cases that they would disturb.
CASES: tuple[Case, ...] = (
    random_reads,
    cases_hits.mapped_and_large_reads,
    cases_hits.sequential_reads,
    overwrites,
    cases_hits.large_overwrites,
    cases_hits.small_stream,
    python_files,
    cases_hits.appends,
    cases_hits.views,
    cases_peers.peers,
    cases_threads.beside_a_thread,
    cases_live.watched,
    cases_aio.awaited_hits,
    cases_aio.blocked_loop,
    miss,
    cases_miss.streaming,
    cases_miss.eviction,
    cases_miss.index_growth,
    cases_memory.metadata,
    cases_writeback.counts,
    cases_writeback.scattered,
    write_path,
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
    cases_s3_peers.s3_peers,
    cases_marks.marks,
    cases_native.hit_instructions,
    cases_files.small_files,
    cases_files.by_threads,
    cases_files.miss_dir,
    cases_many.many_objects,
    cases_streams.streams,
)


def goal_of(row: Row) -> Goal | None:
    """Return the goal that a row measures."""
    return BY_KEY[row.key] if row.key else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of all repetitions."""

    machine: dict[str, Any]
    settings: Settings
    repeat: int
    result: Result

    def missed(self) -> list[Row]:
        """Return the rows that miss their goal by more than the spread."""
        return [row for row in self.result.rows if verdict(row, self.result.spread) == "no"]


def verdict(row: Row, spread: float) -> str | None:
    """Return "yes" if a row reaches its goal, "near" or "no"; None without goal or value."""
    goal = goal_of(row)
    if goal is None or row.value is None:
        return None
    if goal.reached(row.value):
        return "yes"
    return "near" if goal.reached(row.value, spread) else "no"


def run(cases: Sequence[Case], settings: Settings, *, repeat: int = 1, trace: Path | None = None) -> Outcome:
    """Measure `cases` `repeat` times.

    Args:
        cases: The cases, in order.
        settings: The amount of measuring.
        repeat: Number of repetitions.
        trace: Trace each cache, to this file and others numbered beside it; the numbers are those of traced caches.
    """
    where = machine()
    if where["load"] > 1.0:
        suite.announce(f"the load average is {where['load']:.2f}: other work runs on this machine")
    results, numbers = [], count(1)
    for turn in range(repeat):
        if repeat > 1:
            suite.announce(f"repetition {turn + 1} of {repeat}")
        with ExitStack() as stack:
            if trace is not None:
                trace_caches(trace, numbers, stack)
            results.append(suite.run(cases, settings, turn=turn))
    rows = tuple(middle_rows([result.rows for result in results]))
    result = Result(rows, max(each.spread for each in results), sum(each.seconds for each in results))
    return Outcome(where, settings, repeat, result)


def trace_caches(path: Path, numbers: "count[int]", stack: ExitStack) -> None:
    """Trace each new cache until the stack is closed: to trace.json, trace-2.json, trace-3.json, ..."""

    def begin(cache: PageCache) -> None:
        number = next(numbers)
        stack.enter_context(cache.trace(path if number == 1 else path.with_stem(f"{path.stem}-{number}")))

    on_cache.append(begin)
    stack.callback(on_cache.remove, begin)


def middle_rows(repetitions: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield, for each row of the first repetition, the one whose value is the median over all repetitions."""
    for first in repetitions[0]:
        identity = (first.case, first.metric, first.against, first.key)
        same = [
            row
            for rows in repetitions
            for row in rows
            if (row.case, row.metric, row.against, row.key) == identity and row.value is not None
        ]
        same.sort(key=lambda row: row.value or 0.0)
        yield same[len(same) // 2] if same else first
