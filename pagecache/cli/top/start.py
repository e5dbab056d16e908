"""The start of `pagecache top`: its arguments, and the choice of its form."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pagecache.cli.top.sampling import Question
from pagecache.distribution import needs
from pagecache.observe.client import find_sockets

FILES_ONCE = 20
INTERVAL = 1.0


class WrongInput(Exception):
    """Nothing can be shown; the message is one sentence with the remedy."""


def start(
    sockets: Sequence[Path],
    *,
    once: bool,
    as_json: bool,
    interval: float | None,
    sort: str,
    files: int | None,
    wide: bool = False,
) -> int:
    """Show the caches behind some sockets.

    Args:
        sockets: If empty, those that `find_sockets` finds.
        once: Print tables once.
        as_json: Print a document once.
        interval: Seconds between samples; with `once`, between the two samples that rates are made of, and None
            means one sample.
        sort: The order of files.
        files: Number of files to show; None: as many as there is room for.
        wide: Tables have all columns, whatever the width.

    Returns:
        The exit status.

    Raises:
        WrongInput: No socket, or the live view is not available.
    """
    chosen = list(dict.fromkeys(sockets)) or find_sockets()
    if not chosen:
        raise WrongInput(
            "no socket found: serve one by cache.serve_stats(path), and name it here, in $PAGECACHE_SOCKET, or as "
            "$XDG_RUNTIME_DIR/pagecache/NAME.sock"
        )
    if not once and not as_json:
        reason = why_not_live()
        if reason is None:
            return live(chosen, found=not sockets, interval=interval or INTERVAL, sort=sort, files=files)
        print(f"pagecache top: {reason}: shown once", file=sys.stderr)
    from pagecache.cli.top.once import show_once

    question = Question(sort=sort, limit=FILES_ONCE if files is None else files)
    return show_once(chosen, question, interval=interval, as_json=as_json, wide=wide)


def why_not_live() -> str | None:
    """Return the reason why the live view cannot run on this terminal; None: it can."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "not a terminal"
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return f"the terminal (TERM={os.environ.get('TERM', '')}) cannot move its cursor"
    return None


def live(sockets: Sequence[Path], *, found: bool, interval: float, sort: str, files: int | None) -> int:
    """Run the live view.

    Raises:
        WrongInput: textual is not installed.
    """
    if find_spec("textual") is None:
        raise WrongInput(f"{needs('the live view needs textual', 'tui')}; or see everything once by --once")
    from pagecache.cli.top.app import run

    return run(sockets, find=find_sockets if found else None, interval=interval, sort=sort, files=files)
