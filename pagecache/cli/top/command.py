"""The command `pagecache top`: options, help and exit status."""

import sys
from pathlib import Path

import click

from pagecache.cli.usage import WrongUsage, interrupted
from pagecache.interrupts import leave_on_sigterm

INTERVAL_S = 1.0


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
@click.option("--files", metavar="N", type=click.IntRange(0, 1000), default=20, show_default=True, help="Most files.")
@click.option("--wide", is_flag=True, help="Print all columns, and each error on one line (with --once).")
def top(
    sockets: tuple[Path, ...], once: bool, as_json: bool, interval: float | None, sort: str, files: int, wide: bool
) -> None:
    """Watch caches that are served on local sockets.

    Again and again in a terminal, until Ctrl-C; once everywhere else. SOCKET is a path given to
    PageCache.serve_stats. Without SOCKET: the paths in $PAGECACHE_SOCKET, separated by ':', and then
    $XDG_RUNTIME_DIR/pagecache/*.sock.

    Exit status: 1 if a socket could not be read (with --once), 2 if there is none.
    """
    from pagecache.cli.top.figures import Question
    from pagecache.cli.top.screen import show_live, show_once
    from pagecache.observe.client import find_sockets

    leave_on_sigterm()
    named = list(dict.fromkeys(sockets))
    found = named or find_sockets()
    if not found:
        raise WrongUsage(
            "no socket found: serve one by cache.serve_stats(path), and name it here, in $PAGECACHE_SOCKET, or as "
            "$XDG_RUNTIME_DIR/pagecache/NAME.sock"
        )
    question = Question(sort, files)
    try:
        if not once and not as_json:
            if sys.stdin.isatty() and sys.stdout.isatty():
                show_live(lambda: named or find_sockets(), question, interval or INTERVAL_S)
            click.echo("pagecache top: not a terminal: shown once", err=True)
        sys.exit(show_once(found, question, interval, as_json=as_json, wide=wide))
    except KeyboardInterrupt:
        interrupted("nothing was changed")
