"""All benchmarks of a checkout: `python -m tests.bench`, or `make bench`, which installs the peers first.

It has the cases of `pagecache bench` and all others, and compares their rows with the goals of docs/performance.md.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from pagecache.bench.report import console
from pagecache.bench.suite import UnknownCase, select, settings_for
from pagecache.interrupts import INTERRUPTED, leave_on_sigterm
from tests.bench import report, suite


@click.command()
@click.argument("group", required=False, type=click.Choice(["hits", "writeback", "files"]))
@click.option("--only", metavar="P1,P5", help="Goals or cases to run.  [default: all]")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and their goals, and run nothing.")
@click.option("--quick", is_flag=True, help="Measure 11 rounds on a quarter of the working set.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Number of repetitions.")
@click.option("--gate", is_flag=True, help="Exit with 1 if a goal is missed by more than the spread.")
@click.option("--plot", metavar="FILE.svg", type=click.Path(path_type=Path), help="File for a picture of the ratios.")
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path), help="File for a trace of the caches.")
@click.option(
    "--native",
    metavar="PROGRAM",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The built tests/native/hit_instructions.c, for P7 (needs valgrind).",
)
@click.option("--seed", default=1, show_default=True, help="Number that decides the order of offsets and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print machine, goals and rows as JSON.")
def main(
    group: str | None,
    only: str | None,
    list_cases: bool,
    quick: bool,
    repeat: int,
    gate: bool,
    plot: Path | None,
    trace: Path | None,
    native: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure the cache and its peers side by side, and compare the results with the goals of docs/performance.md.

    GROUP: hits (reads, writes, misses, memory), writeback (the way from dirty to durable), or files (small files, many
    objects, streams). Without it: all.
    """
    leave_on_sigterm()
    if plot is not None and find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: make bench installs it")
    for option, path in (("--plot", plot), ("--trace", trace)):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"{option} {path}: no such directory")
    try:
        cases = select(suite.CASES, only.split(",") if only else [], group)
    except UnknownCase as error:
        raise click.UsageError(str(error)) from None
    if list_cases:
        if as_json:
            click.echo(json.dumps(report.cases_as_dict(cases), indent=2, ensure_ascii=False))
        else:
            console().print(report.case_table(cases))
        return
    try:
        outcome = suite.run(cases, settings_for(quick=quick, seed=seed, native=native), repeat=repeat, trace=trace)
    except KeyboardInterrupt:
        click.echo("interrupted: temporary files are removed", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(report.as_dict(outcome), indent=2, ensure_ascii=False))
    else:
        report.print_report(outcome)
    if plot is not None:
        from tests.bench.plot import draw

        draw(outcome, plot)
    sys.exit(1 if gate and outcome.missed() else 0)


if __name__ == "__main__":
    main()
