"""The command `pagecache drain`: options, help and exit status."""

import dataclasses
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json
from pagecache.interrupts import leave_on_sigterm
from pagecache.quantities import printable

if TYPE_CHECKING:
    from pagecache.cli.drain.following import Outcome


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
    from pagecache.cli.drain.display import lines, on_stderr
    from pagecache.cli.drain.following import Unusable
    from pagecache.cli.drain.following import drain as drain_caches

    leave_on_sigterm()
    try:
        with nullcontext(lambda outcomes: None) if quiet else on_stderr() as show:
            outcomes = drain_caches(sockets, volume, deadline, show)
    except Unusable as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        interrupted("what was begun goes on")
    saved = all(outcome.saved for outcome in outcomes)
    if as_json:
        print_json({"saved": saved, "caches": [_as_dict(outcome) for outcome in outcomes]})
    elif not (quiet and saved):
        click.echo("\n".join(lines(outcomes)))
    sys.exit(0 if saved else 1)


def _as_dict(outcome: "Outcome") -> dict[str, Any]:
    known = dataclasses.asdict(outcome)
    del known["errors"], known["silent_since"]
    known |= {"socket": printable(outcome.socket), "saved": outcome.saved, "unknown": outcome.unknown or None}
    return known
