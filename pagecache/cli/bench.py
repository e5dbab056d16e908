"""The command `pagecache bench`: options, help and exit status. The measuring is in `pagecache.bench`."""

from collections.abc import Callable
from typing import Any

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json
from pagecache.interrupts import leave_on_sigterm

Command = Callable[..., Any]


def _refuse_moved(context: click.Context, option: click.Parameter, value: object) -> None:
    if value:
        name = option.opts[0]
        raise WrongUsage(f"{name} is an option of a checkout's benchmarks: make bench OPTIONS='{name} ...'")


def _moved(name: str, *, is_flag: bool = False) -> Callable[[Command], Command]:
    """Return an option that is refused with a sentence that names its place."""
    return click.option(name, is_flag=is_flag, hidden=True, expose_value=False, callback=_refuse_moved)


@click.command(short_help="Measure hits, misses, write-back and small files beside plain files")
@click.argument("group", required=False, type=click.Choice(["hits", "writeback", "files"]))
@click.option("--only", metavar="P1,P5", help="Goals or cases to run.  [default: all]")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and the ids of their goals, and run nothing.")
@click.option("--quick", is_flag=True, help="Measure 11 rounds on a quarter of the working set.")
@click.option("--seed", default=1, show_default=True, help="Number that decides the order of offsets and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print machine, settings and rows as JSON.")
@_moved("--gate", is_flag=True)
@_moved("--repeat")
@_moved("--plot")
@_moved("--trace")
@_moved("--native")
def bench(group: str | None, only: str | None, list_cases: bool, quick: bool, seed: int, as_json: bool) -> None:
    """Measure the cache beside plain files in one run: each result is a ratio of two things that ran in turn.

    Hits: random 4 KiB reads and overwrites of cached bytes, against os.pread, os.pwrite and Python files. Misses:
    4 KiB reads that the cache does not hold, against calling the backend directly. Write-back: overwrites of a whole
    file, then fsync, against os.pwrite and os.fsync. Files: create, open, edit, stat, rename and remove files of 8 KiB,
    against system calls.

    GROUP: hits (hits and misses), writeback or files. Without it: all. A checkout also has the goals, and measures
    other caches, threads, memory, fsspec and S3: make bench.
    """
    from pagecache.bench import report
    from pagecache.bench.cases import CASES
    from pagecache.bench.suite import UnknownCase, run, select, settings_for

    leave_on_sigterm()
    try:
        cases = select(CASES, only.split(",") if only else [], group)
    except UnknownCase as error:
        raise WrongUsage(f"{error}; a checkout has more: make bench ONLY={only}") from None
    if list_cases:
        print_json(report.cases_as_dict(cases)) if as_json else report.console().print(report.case_table(cases))
        return
    settings, where = settings_for(quick=quick, seed=seed), report.machine()
    try:
        result = run(cases, settings)
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    if as_json:
        print_json(report.as_dict(where, settings, result))
        return
    console = report.console()
    console.print(report.row_table(result.rows))
    for line in report.conditions(where, settings, result):
        console.print(line, highlight=False)
