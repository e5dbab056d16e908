"""The command `pagecache stress`: options, help and exit status. The tester is `pagecache.stress`."""

from pathlib import Path
from typing import Any

import click

from pagecache.cli.usage import WrongUsage, leave, print_json


@click.command(short_help="Test random operations of many workers byte by byte")
@click.argument("target", required=False)
@click.option("--seed", type=int, help="Number that decides every operation.  [default: random]")
@click.option("--duration", metavar="TIME", help="Time to run: 60s, 10m, 1h.  [default: 10s]")
@click.option("--threads", type=int, help="Number of workers that are threads.  [default: 8]")
@click.option("--tasks", type=int, help="Number of workers that are tasks of one event loop.  [default: 20]")
@click.option("--files", type=int, help="Number of files that all workers share.  [default: 4]")
@click.option("--size", metavar="SIZE", help="Largest size of a file.  [default: 1MiB]")
@click.option("--capacity", metavar="SIZE", help="Memory of the cache.  [default: 1MiB]")
@click.option(
    "--mix",
    metavar="WAY,...",
    help="Ways into a file to use: buffered, direct, parallel, through, views, append, truncate, punch, try, "
    "names, hints, sources, foreign, losses, rivals, shared, links, others.  [default: all but rivals and others]",
)
@click.option(
    "--profile",
    metavar="NAME",
    help="Kind of load: fsx, database, generic-095, metadata, saving, crowd, losses, ends, "
    "names, versions.  [default: fsx]",
)
@click.option("--faults", metavar="NAME", help="Make backend calls fail: none, mild, nasty, hell.  [default: none]")
@click.option(
    "--crashes",
    metavar="KIND,...",
    help="End each stir of a round by one: killed (the process), forgetting (the store).  [default: none]",
)
@click.option("--disk", is_flag=True, default=None, help="Give the cache a disk tier, which outlives it.")
@click.option(
    "--durability",
    metavar="backend|disk",
    help="Where fsync puts bytes: in the backend, or in the --disk tier.  [default: backend]",
)
@click.option("--patience", metavar="TIME", help="Time after which a call counts as hanging.  [default: 60s]")
@click.option(
    "--replay",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run the round that failed again; other options but --duration are the file's.",
)
@click.option("--shrink", is_flag=True, help="Reduce a finding to the fewest operations, as a replay.")
@click.option("--shrink-time", metavar="TIME", default="60s", show_default=True, help="Time limit of --shrink.")
@click.option("-v", "--verbose", is_flag=True, help="Print the exercised operations also if nothing was found.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def stress(
    target: str | None,
    replay: Path | None,
    shrink: bool,
    shrink_time: str,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run random operations of many workers on TARGET, and check each byte against its possible values.

    TARGET: none (a cache over a backend in memory), a backend URL (dir:PATH, ...), python:module:factory (the result
    of the factory; the module may be in this directory), or path:DIR: any mounted file system, without the cache. Exit
    status: 0 nothing was found, 1 a fault was found; a file that repeats it is written.
    """
    from pagecache.stress import Report, UnusableTarget, command
    from pagecache.stress.plan import Plan, seconds

    report: Report | None = None
    small: Report | None = None

    def show(report: Report) -> None:
        more = {} if small is None else {"shrunk": small.to_dict()}
        print_json(report.to_dict() | more) if as_json else click.echo(command.text(report, small, verbose=verbose))

    given = {name: value for name, value in options.items() if value is not None}
    with command.Ending() as ending:
        try:
            time_to_shrink = seconds(shrink_time, "--shrink-time")
            if replay is not None:
                plan, named = command.read_replay(replay, **given)
                if target is not None and named is not None and target != named:
                    click.echo(f"on {target}, in the place of the replay's {named}", err=True)
                target = target if target is not None else named
            else:
                plan = Plan(**given)
            report = command.execute(plan, target)
            if not report.ok:
                command.save(report)
                small = command.shrunk(report, target, time_to_shrink) if shrink else None
        except (UnusableTarget, ValueError) as error:
            raise WrongUsage(str(error)) from None
        except OSError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt as error:
            if report is not None:  # interrupted while it was shrunk or written
                show(report)
            left = "objects that begin with 'pagecache-stress-' may be left in the target"
            click.echo(f"interrupted: {left if report is not None else str(error) or left}", err=True)
            leave(ending.status, hung=True)
    show(report)
    leave(0 if report.ok else 1, hung=not report.ok)
