"""The command `pagecache top`: options, help and exit status."""

import sys
from pathlib import Path

import click

from pagecache.cli.usage import WrongUsage, interrupted
from pagecache.interrupts import INTERRUPTED, leave_on_sigterm


@click.command(short_help="Watch caches that are served on local sockets")
@click.argument("sockets", nargs=-1, metavar="[SOCKET]...", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print tables once, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, and end.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600.0),
    help="Time between samples; with --once or --json: take two samples, for rates.  [default: 1; once: one sample]",
)
@click.option(
    "--sort",
    type=click.Choice(["dirty", "cached", "failed", "unstable", "age", "hits", "key"]),
    default="dirty",
    show_default=True,
    help="Order of the files.",
)
@click.option("--files", metavar="N", type=click.IntRange(0, 1000), help="Largest number of files to show.")
@click.option("--wide", is_flag=True, help="Print all columns, and each error on one line (with --once).")
def top(
    sockets: tuple[Path, ...],
    once: bool,
    as_json: bool,
    interval: float | None,
    sort: str,
    files: int | None,
    wide: bool,
) -> None:
    """Watch caches that are served on local sockets.

    Live in a terminal (needs textual: run pip install '.[tui]' in a checkout), once everywhere else. SOCKET is a path
    given to PageCache.serve_stats. Without SOCKET: the paths in $PAGECACHE_SOCKET, separated by ':', and then
    $XDG_RUNTIME_DIR/pagecache/*.sock.

    Exit status: 1 if a socket could not be read (with --once), 2 if there is none.
    """
    from pagecache.cli.top.start import WrongInput, start

    leave_on_sigterm()
    try:
        status = start(sockets, once=once, as_json=as_json, interval=interval, sort=sort, files=files, wide=wide)
    except WrongInput as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        interrupted("nothing was changed")
    sys.exit(status)
