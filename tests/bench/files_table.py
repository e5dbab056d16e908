"""The tables of `make bench-files` in Markdown, from the JSON of a run."""

from typing import Any

from tests.bench.file_stores import STORES

CASES = ("small-files", "small-files-threads", "miss-dir", "many-objects", "streams")
SUFFIX = ", 8 threads"
COUNTS = ("system calls", "futex", "hops", "wake-ups", "frames")

Rows = dict[str, dict[str, dict[str, Any]]]  # job -> store -> row


def by_job(rows: list[dict[str, Any]], case: str) -> Rows:
    """Return the rows of a case by job and store; those of no store are left out."""
    found: Rows = {}
    for row in rows:
        job, _, store = row["metric"].removesuffix(SUFFIX).rpartition(", ")
        if row["case"] == case and store in STORES and row["value"] is not None and row["counts"]:
            found.setdefault(job, {})[store] = row
    return found


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *lines])


def times(value: float) -> str:
    return f"{value:.3g}×" if value < 1000 else f"{value:.0f}×"


def ratios(found: Rows, head: str) -> str:
    """Return a table of ratios of time, with those of processor time in parentheses, and the goal of `dir:`."""
    lines = []
    for job, rows in found.items():
        cells = [f"{times(rows[store]['value'])} ({times(rows[store]['counts']['cpu'])})" for store in STORES]
        goal = rows["dir:"].get("goal")
        lines.append([job, *cells, f"≤ {goal['bound']:g}×" if goal else ""])
    return markdown([head, *STORES, "goal for `dir:`"], lines)


def counts(found: Rows) -> str:
    """Return a table of exact counts."""
    lines = []
    for job, rows in found.items():
        cells = [" / ".join(f"{rows[store]['counts'].get(name, 0):g}" for name in COUNTS) for store in STORES]
        lines.append([job, *cells])
    return markdown([", ".join(COUNTS), *STORES], lines)


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the tables of small files; without their rows an empty string."""
    one, many = by_job(rows, "small-files"), by_job(rows, "small-files-threads")
    parts = []
    if one:
        parts += [ratios(one, "one thread: time (processor time)"), counts(one)]
    if many:
        parts.append(ratios(many, "8 threads: time (processor time)"))
    return "\n\n".join(parts)
