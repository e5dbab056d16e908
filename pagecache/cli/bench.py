"""The command `pagecache bench`: options, the table, JSON and exit status. The measuring is in `pagecache.bench`."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, replace

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json
from pagecache.distribution import VERSION
from pagecache.interrupts import leave_on_sigterm


@click.command(short_help="Measure hits, misses, write-back and small files beside plain files")
@click.argument("cases", metavar="[CASE]...", nargs=-1)
@click.option("--quick", is_flag=True, help="Measure 11 rounds on a quarter of the working set.")
@click.option("--seed", default=1, show_default=True, help="Number that decides the order of offsets and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print machine, settings and rows as JSON.")
def bench(cases: tuple[str, ...], quick: bool, seed: int, as_json: bool) -> None:
    """Measure the cache beside plain files in one run: each result is a ratio of two things that ran in turn.

    CASE: hits, random 4 KiB reads (P1) and overwrites (P5) of cached bytes, against os.pread and os.pwrite, and reads
    that the cache does not hold (P14), against calling the backend directly; writeback, overwrites of a whole file,
    then fsync (P17), against os.pwrite and os.fsync; files, create, open, edit, stat, rename and remove files of
    8 KiB (F1), against system calls. Or the id of one of these. Without it: all. A checkout also measures other
    caches, streams, mounts and S3: benchmarks/.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pagecache.bench import CASES, QUICK, Settings, run

    leave_on_sigterm()
    known = dict.fromkeys(word for key, (group, _) in CASES.items() for word in (key, group))
    for word in cases:
        if word not in known:
            raise WrongUsage(f"{word}: no such case; cases are {', '.join(known)}; a checkout has more in benchmarks/")
    chosen = [key for key, (group, _) in CASES.items() if not cases or key in cases or group in cases]
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
        rows, spread = run(chosen, settings)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    if as_json:
        result = {"machine": machine, "settings": asdict(settings), "spread": spread}
        print_json(result | {"rows": [row._asdict() for row in rows]})
        return
    console = Console()
    console = console if console.is_terminal else Console(width=200)  # a table off a terminal is not squeezed
    table = Table(*rows[0].cells(), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row.cells().values())
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    words = f"{settings.rounds} rounds, working set {settings.size >> 20} MiB; "
    console.print(f"{words}differences below {100 * spread:.1f} % mean nothing (A/A)", highlight=False)
    if load > 1.0:
        console.print("other work ran when this started: repeat it on a quiet machine", highlight=False)
