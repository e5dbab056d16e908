"""The command `pagecache drain`: options, help and exit status."""

import sys
from functools import partial

import click

from pagecache.cli.usage import interrupted, print_json
from pagecache.interrupts import leave_on_sigterm


@click.command(short_help="Have running caches save everything, and wait for it")
@click.argument("sockets", metavar="SOCKET...", nargs=-1, required=True)
@click.option("--volume", metavar="NAME", help="Only this volume.  [default: all]")
@click.option("--deadline", metavar="SECONDS", type=click.FloatRange(min=0), help="Seconds to wait at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress, and nothing at all if everything is saved.")
def drain(sockets: tuple[str, ...], volume: str | None, deadline: float | None, as_json: bool, quiet: bool) -> None:
    """Have running caches save everything written so far, and wait until it is committed.

    SOCKET is the path that a program gave to PageCache.serve_stats. Exit status: 0 everything is committed, 1 some
    bytes are not (they are listed), or the program ended before it could answer.
    """
    from pagecache.cli.drain import following

    leave_on_sigterm()
    try:
        show = (lambda line: None) if quiet else partial(click.echo, err=True)
        outcomes = following.drain(sockets, volume, deadline, show)
    except KeyboardInterrupt:
        interrupted("what was begun goes on")
    saved = all(outcome.saved for outcome in outcomes)
    if as_json:
        print_json({"saved": saved, "caches": [outcome.as_dict() for outcome in outcomes]})
    elif not (quiet and saved):
        click.echo("\n".join(following.lines(outcomes)))
    sys.exit(0 if saved else 1)
