"""The command `pagecache bench`: options, the table, JSON and exit status. The measuring is in `pagecache.bench`."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json
from pagecache.distribution import VERSION
from pagecache.interrupts import leave_on_sigterm

if TYPE_CHECKING:
    from rich.table import Table


def chosen(group: str | None, only: str | None) -> list[str]:
    """Return the cases of a group (None: of all) that a word of `only` names, by name or by the id of their rows."""
    from pagecache.bench import CASES

    words = {word.strip() for word in (only or "").split(",")} - {""}
    for word in words - {word for name, (_, key, _) in CASES.items() for word in (name, key)}:
        cases = ", ".join(f"{name} ({key})" for name, (_, key, _) in CASES.items())
        raise WrongUsage(f"--only {word}: no such case; cases are {cases}; a checkout has more in benchmarks/")
    wanted = {name for name, (_, key, _) in CASES.items() if not words or {name, key} & words}
    return [name for name in CASES if name in wanted and group in (None, CASES[name][0])]


@click.command(short_help="Measure hits, misses, write-back and small files beside plain files")
@click.argument("group", required=False, type=click.Choice(["hits", "writeback", "files"]))
@click.option("--only", metavar="P1,P5", help="Cases to run, by name or id.  [default: all]")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and the ids of their rows, and run nothing.")
@click.option("--quick", is_flag=True, help="Measure 11 rounds on a quarter of the working set.")
@click.option("--seed", default=1, show_default=True, help="Number that decides the order of offsets and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print machine, settings and rows as JSON.")
def bench(group: str | None, only: str | None, list_cases: bool, quick: bool, seed: int, as_json: bool) -> None:
    """Measure the cache beside plain files in one run: each result is a ratio of two things that ran in turn.

    Hits: random 4 KiB reads and overwrites of cached bytes, against os.pread and os.pwrite. Misses: 4 KiB reads that
    the cache does not hold, against calling the backend directly. Write-back: overwrites of a whole file, then fsync,
    against os.pwrite and os.fsync. Files: create, open, edit, stat, rename and remove files of 8 KiB, against system
    calls.

    GROUP: hits (hits and misses), writeback or files. Without it: all. A checkout also measures other caches, streams,
    mounts and S3: benchmarks/.
    """
    from rich.console import Console

    from pagecache.bench import CASES, QUICK, Settings, run

    leave_on_sigterm()
    names = chosen(group, only)
    console = Console()
    console = console if console.is_terminal else Console(width=200)  # a table off a terminal is not squeezed
    if list_cases:
        cases = [{"name": name, "group": CASES[name][0], "id": CASES[name][1]} for name in names]
        print_json({"cases": cases}) if as_json else console.print(table(cases))
        return
    load = os.getloadavg()[0]
    machine: dict[str, object] = {
        "package": VERSION,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": load,
    }
    settings = replace(QUICK if quick else Settings(), seed=seed)
    try:
        rows, spread = run(names, settings)
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    if as_json:
        result = {"machine": machine, "settings": asdict(settings), "spread": spread}
        print_json(result | {"rows": [row._asdict() for row in rows]})
        return
    console.print(table([row.cells() for row in rows]))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    words = f"{settings.rounds} rounds, working set {settings.size >> 20} MiB; "
    console.print(f"{words}differences below {100 * spread:.1f} % mean nothing (A/A)", highlight=False)
    if load > 1.0:
        console.print("other work ran when this started: repeat it on a quiet machine", highlight=False)


def table(lines: list[dict[str, str]]) -> Table:
    """Return a table of dictionaries with the same keys."""
    from rich import box
    from rich.table import Table

    result = Table(*lines[0], box=box.SIMPLE_HEAD, pad_edge=False)
    for line in lines:
        result.add_row(*line.values())
    return result
