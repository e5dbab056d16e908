"""The result as a table, the result as JSON, and the machine it was measured on."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from pagecache.bench.suite import Case, Result, Row, Settings
from pagecache.distribution import VERSION


def value_of(path: str, key: str) -> str:
    """Return the value of a `key : value` line in a file of the kernel; "" if it is missing."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def machine() -> dict[str, Any]:
    """Return the facts that change the numbers, as of now."""
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    free_threaded = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else " free-threaded"
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": value_of("/proc/cpuinfo", "model name") or platform.machine(),
        "load": os.getloadavg()[0],
        "memory": os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}{free_threaded}",
        "huge_pages": huge.read_text().partition("[")[2].partition("]")[0] if huge.exists() else "unknown",
        "package": VERSION,
    }


def number(value: float | None) -> str:
    """Format three figures, or nothing."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def percent(value: float) -> str:
    """Format a spread as `±3 %`."""
    return f"±{100 * value:.0f} %" if value else ""


def duration(nanoseconds: float | None) -> str:
    """Format a time per item with a fitting unit."""
    if nanoseconds is None:
        return ""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def remark(row: Row) -> str:
    """Return the note, or the reason why the row has no value."""
    return f"skipped: {row.skipped}" if row.skipped else row.note


def row_table(rows: Sequence[Row]) -> Table:
    """Return a table of rows."""
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("median", "lowest", "spread", "time")]
    table = Table("goal", "metric", "against", *numbers, "remark", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        value = f"{number(row.value)} {row.unit}" if row.value is not None else ""
        spread, time = percent(row.spread), duration(row.nanoseconds)
        table.add_row(row.key, row.metric, row.against, value, number(row.low), spread, time, remark(row))
    return table


def case_table(cases: Sequence[Case]) -> Table:
    """Return a table of cases."""
    table = Table("case", "measures", "goals", box=box.SIMPLE_HEAD, pad_edge=False)
    for case in cases:
        table.add_row(case.name, case.title, "\n".join(case.goals))
    return table


def cases_as_dict(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the cases for JSON."""
    keys = {case.name: [{"key": key} for key in case.goals] for case in cases}
    return {"cases": [{"name": case.name, "title": case.title, "goals": keys[case.name]} for case in cases]}


def conditions(where: dict[str, Any], settings: Settings, result: Result) -> list[str]:
    """Return the machine and the way of measuring, as lines."""
    lines = [
        f"pagecache {where['package']}, {where['python']}, {where['cpus']} CPUs ({where['model']}), "
        f"kernel {where['kernel']}, load average at the start {where['load']:.2f}, huge pages {where['huge_pages']}",
        f"{settings.rounds} rounds of {1e3 * settings.seconds:g} ms, working set {settings.size >> 20} MiB, "
        f"{result.seconds:.0f} s; A/A: differences below {100 * result.spread:.1f} % mean nothing",
    ]
    if where["load"] > 1.0:
        lines.append("other work ran when this started: repeat it on a quiet machine")
    return lines


def as_dict(where: dict[str, Any], settings: Settings, result: Result) -> dict[str, Any]:
    """Return the whole result for JSON: rows of goals in `goals`, other rows in `rows`."""
    rows = [asdict(row) | {"id": row.key.partition("/")[0], "skipped": row.skipped or None} for row in result.rows]
    return {
        "machine": where,
        "settings": asdict(settings) | {"native": settings.native and str(settings.native)},
        "spread": result.spread,
        "seconds": result.seconds,
        "goals": [row for row in rows if row["key"]],
        "rows": [row for row in rows if not row["key"]],
    }


def console() -> Console:
    """Return a console on stdout that does not squeeze a table into 80 columns off a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=200)
