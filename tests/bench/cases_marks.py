"""Queries of the index's marks beside a red-black tree and a SortedDict: P19, P20.

A C program, `tests/native/mark_times.c` of the source tree, queries the index and glibc's tree. It is built beside the
one of P7 and given by `--native`: metadata of a million pages, random order, medians of interleaved rounds. Equal
queries go to `sortedcontainers.SortedDict` here, in the same run.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from sortedcontainers import SortedDict

from pagecache.bench.harness import Comparison
from tests.bench.rows import Bench, Row, case, skipped, timed

KEYS = (
    "P19/tree-dense",
    "P19/tree-sparse",
    "P19/dict-dense",
    "P19/dict-sparse",
    "P19/growth",
    "P20/dense",
    "P20/sparse",
)
SPARSE = 64  # one page in that many
MIB_PAGES = 256
QUESTIONS = 2_000


class ProgramFailed(Exception):
    """The C program failed or printed an unexpected result; the text has the details."""


def times_of(program: Path, pages: int, stride: int) -> dict[str, float]:
    """Nanoseconds per query and per page walked.

    Raises:
        ProgramFailed: It failed, or took more than two minutes.
    """
    try:
        done = subprocess.run(
            [str(program), str(pages), str(stride)], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{program.name} {pages} {stride}: no end after 120 s") from None
    except OSError as error:
        raise ProgramFailed(f"{program}: {error.strerror}") from None
    if done.returncode != 0:
        raise ProgramFailed(f"{program.name} {pages} {stride}: exit status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def ask_dict(bench: Bench, pages: int, stride: int) -> float:
    """Nanoseconds of "is anything in this MiB?" for a SortedDict of page numbers."""
    keys: SortedDict[int, int] = SortedDict((index * stride, index) for index in range(pages))
    span = pages * stride
    places = [bench.rng.randrange(span) // MIB_PAGES * MIB_PAGES for _ in range(QUESTIONS)]
    rounds = []
    for _ in range(5):
        start = time.thread_time_ns()
        for place in places:
            next(keys.irange(place, place + MIB_PAGES - 1), None)
        rounds.append((time.thread_time_ns() - start) / QUESTIONS)
    return median(rounds)


def ratio(key: str, own: float, other: float, note: str = "") -> Row:
    """A row of `own` nanoseconds beside `other`."""
    return timed("marks", key, Comparison({"own": [own / 1e9], "other": [other / 1e9]}), "own", "other", note)


@case("marks", "is anything in flight in this MiB; walking all that is dirty", KEYS)
def marks(bench: Bench) -> Iterator[Row]:
    """P19, P20."""
    native = bench.settings.native
    program = None if native is None else native.with_name("mark_times")
    if program is None or not program.exists():
        for key in KEYS:
            yield skipped("marks", key, "needs --native PROGRAM with mark_times beside it: make native")
        return
    pages = bench.settings.most_pages
    try:
        dense, sparse = times_of(program, pages, 1), times_of(program, pages, SPARSE)
        small = times_of(program, 1_000, 1)
    except ProgramFailed as error:
        for key in KEYS:
            yield skipped("marks", key, str(error))
        return
    note = f"{pages:,} pages, one in {SPARSE}"
    yield ratio("P19/tree-dense", dense["ask_index"], dense["ask_tree"])
    yield ratio("P19/tree-sparse", sparse["ask_index"], sparse["ask_tree"], note)
    yield ratio("P19/dict-dense", dense["ask_index"], ask_dict(bench, pages, 1))
    yield ratio("P19/dict-sparse", sparse["ask_index"], ask_dict(bench, pages, SPARSE), note)
    yield ratio("P19/growth", sparse["ask_index"], small["ask_index"], f"1,000 → {pages:,} pages")
    yield ratio("P20/dense", dense["walk_index"], dense["walk_tree"])
    yield ratio("P20/sparse", sparse["walk_index"], sparse["walk_tree"], note)
