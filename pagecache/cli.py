"""The command line: what each command is called, takes and returns; the work is done in the package of the command.

    pagecache demo [TREE]       the main job on real files, compared byte by byte with plain file operations
    pagecache bench             paired measurements against other ways to do the same

Exit status: 0 fine, 1 a failure found or data not saved, 2 wrong usage, 130 interrupted. `--json` prints one JSON
document on stdout wherever a table is printed for a person; progress and complaints go to stderr. Nothing heavy is
imported before it is known which command runs: `pagecache --help` needs click alone.
"""

import sys
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from pagecache.interrupts import INTERRUPTED, leave_on_sigterm


class WrongUsage(click.ClickException):
    """A mistake in the arguments that click cannot see: one line on stderr, exit status 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # Click leaves the context before it shows the exception.
        self.command = click.get_current_context().command_path

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{self.command}: {self.format_message()}", file=file, err=file is None)


def interrupted(what_is_left: str) -> NoReturn:
    """End after Ctrl-C: one line on stderr, exit status 130."""
    click.echo(f"interrupted: {what_is_left}", err=True)
    sys.exit(INTERRUPTED)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pagecache")
def main() -> None:
    """A write-back page cache for files, objects and anything with bytes."""


@main.command()
@click.argument("tree", required=False, type=click.Path(path_type=Path))
@click.option("--capacity", metavar="SIZE", help="Memory of the cache.  [default: a quarter of the tree]")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same edits.")
@click.option("--limit", metavar="SIZE", default="512MiB", show_default=True, help="Use no more of TREE than this.")
@click.option("--rounds", default=3, show_default=True, help="How often everything is edited and read back.")
@click.option("--keep", metavar="DIR", type=click.Path(path_type=Path), help="Work in DIR, new or empty, and leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(
    tree: Path | None, capacity: str | None, seed: int, limit: str, rounds: int, keep: Path | None, as_json: bool
) -> None:
    """Copy TREE through a cache smaller than it, edit the copy, and prove every byte.

    The same edits are done by plain Python file operations on a second copy; in the end both copies are compared byte
    by byte, read without the cache. TREE is only read. Without TREE: the standard library of the running Python.
    """
    from pagecache.demo import Settings, WrongInput, run
    from pagecache.demo.report import as_dict, print_report

    leave_on_sigterm()
    try:
        report = run(Settings(tree=tree, capacity=capacity, seed=seed, limit=limit, rounds=rounds, keep=keep))
    except WrongInput as error:
        raise WrongUsage(str(error)) from None
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted(f"what was done is in {keep}" if keep else "temporary files are removed")
    if as_json:
        print_json(as_dict(report))
    else:
        print_report(report)
    sys.exit(0 if report.verified else 1)


@main.command()
@click.argument("group", required=False, type=click.Choice(["hits", "writeback"]))
@click.option("--only", metavar="P1,P5", help="Run only these goals or cases.")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and their goals, run nothing.")
@click.option("--quick", is_flag=True, help="A look: 11 rounds on a quarter of the working set.")
@click.option("--repeat", default=1, show_default=True, help="Repeat everything; the median of the repetitions counts.")
@click.option("--gate", is_flag=True, help="Exit with 1 when a goal is missed by more than the spread.")
@click.option("--plot", metavar="FILE.svg", type=click.Path(path_type=Path), help="Draw the ratios.")
@click.option(
    "--native",
    metavar="PROGRAM",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The built tests/native/hit_instructions.c, for P7 (needs valgrind).",
)
@click.option("--seed", default=1, show_default=True, help="Order of offsets and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print machine, goals and rows as JSON.")
def bench(
    group: str | None,
    only: str | None,
    list_cases: bool,
    quick: bool,
    repeat: int,
    gate: bool,
    plot: Path | None,
    native: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure against os.pread, mmap, Python files, dictionaries and other caches, side by side in one run.

    GROUP: hits (reads, writes, misses, memory), or writeback (the way from dirty to durable). Without it: both.
    """
    from pagecache.bench import UnknownCase, run, settings_for
    from pagecache.bench.report import as_dict, list_as_dict, print_list, print_report
    from pagecache.bench.suite import select

    leave_on_sigterm()
    if repeat < 1:
        raise WrongUsage(f"--repeat {repeat}: at least 1")
    if plot is not None:
        check_plot(plot)
    try:
        cases = select(only.split(",") if only else [], group)
    except UnknownCase as error:
        raise WrongUsage(str(error)) from None
    if list_cases:
        print_json(list_as_dict(cases)) if as_json else print_list(cases)
        return
    try:
        outcome = run(cases, settings_for(quick=quick, seed=seed, native=native), repeat=repeat)
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    if as_json:
        print_json(as_dict(outcome))
    else:
        print_report(outcome)
    if plot is not None:
        from pagecache.bench.plot import draw

        draw(outcome, plot)
    sys.exit(1 if gate and outcome.missed() else 0)


def check_plot(plot: Path) -> None:
    """Refuse a picture that could not be written before minutes are spent on measuring.

    Raises:
        WrongUsage: matplotlib is not installed, or the folder of `plot` does not exist.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise WrongUsage("--plot needs matplotlib: pip install 'pagecache[bench]'")
    if not plot.absolute().parent.is_dir():
        raise WrongUsage(f"--plot {plot}: no such directory")


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    import json

    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
