"""The command `pagecache demo`: options, help and exit status."""

import sys
from pathlib import Path

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json
from pagecache.interrupts import leave_on_sigterm


@click.command(short_help="Copy and edit files over two stores, with the cache and without it")
@click.argument("tree", required=False, type=click.Path(path_type=Path))
@click.option("--capacity", metavar="SIZE", help="Capacity of both caches.  [default: see above]")
@click.option("--seed", default=1, show_default=True, help="Number that decides the edits.")
@click.option("--limit", metavar="SIZE", default="24MiB", show_default=True, help="Largest amount of TREE to use.")
@click.option("--rounds", default=2, show_default=True, help="Number of times to edit and read back everything.")
@click.option(
    "--keep", metavar="DIR", type=click.Path(path_type=Path), help="Directory to work in and keep, new or empty."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(
    tree: Path | None, capacity: str | None, seed: int, limit: str, rounds: int, keep: Path | None, as_json: bool
) -> None:
    """Copy TREE, edit the copy and read it back over two stores, with the cache and without it.

    The first store is a directory, beside plain Python file operations; the cache is a quarter of TREE. The second is
    a simulated object store, with 10 ms for each request, beside a request for each read and write; it has the largest
    files of TREE, and the cache holds them all. In the end every copy is read without the cache and compared byte by
    byte with plain files. TREE is only read. Without TREE: the standard library of the running Python.
    """
    from pagecache.cli.demo.job import Settings, run
    from pagecache.cli.demo.report import as_dict, print_report
    from pagecache.cli.demo.tree import WrongInput

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
