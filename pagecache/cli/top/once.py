"""`pagecache top --once`: one sample of every socket, as tables for a person or as one JSON document."""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pagecache.cli.top.columns import VOLUME_COLUMNS, Column, Row, file_columns
from pagecache.cli.top.panels import cache_bar, cache_line, legend, trouble_lines, wait_lines
from pagecache.cli.top.rows import Traffic, Watch, cache_row, file_rows, merge_files, volume_rows, waits_of
from pagecache.cli.top.sampling import TIMEOUT, Question, take_sample
from pagecache.observe.client import Client
from pagecache.quantities import printable

# Width of tables off a terminal, unless $COLUMNS has another; and of tables with all columns.
PIPE_WIDTH = 100
WIDE = 400
FILE_WIDTH = 40


def show_once(
    sockets: Sequence[Path], question: Question, *, interval: float | None, as_json: bool, wide: bool = False
) -> int:
    """Sample, print, and report unreadable sockets on stderr; return the exit status."""
    watches = observe(sockets, question, interval)
    if as_json:
        # Names in pure ASCII: a document printed on a terminal is as harmless as a table.
        print(json.dumps(as_dict(watches, question), indent=2))
    else:
        print_tables(watches, question, Console(width=WIDE) if wide else None)
    errors = [watch.last.error for watch in watches if watch.last is not None and watch.last.error is not None]
    for error in errors:
        print(f"pagecache top: {printable(str(error))}", file=sys.stderr)
    return 1 if errors else 0


def observe(sockets: Sequence[Path], question: Question, interval: float | None) -> list[Watch]:
    """Sample every socket once, or twice with `interval` seconds between. Sockets are sampled side by side, so one that
    hangs delays the others only by its timeout.
    """
    watches = [Watch(path) for path in sockets]
    # Daemon threads: an interrupt does not wait for a socket whose owner hangs.
    threads = [threading.Thread(target=observe_one, args=(watch, question, interval), daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return watches


def observe_one(watch: Watch, question: Question, interval: float | None) -> None:
    """Sample one socket, once or twice."""
    with Client(watch.socket, timeout=TIMEOUT) as client:
        watch.take(take_sample(client, question), time.monotonic())
        if interval is not None:
            time.sleep(interval)
            watch.take(take_sample(client, question), time.monotonic())


def print_tables(watches: Sequence[Watch], question: Question, console: Console | None = None) -> None:
    """Print caches, volumes, files, errors and waits on stdout."""
    if console is None:
        wide = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
        console = Console(width=None if wide else PIPE_WIDTH)
    width = console.width
    volumes = [row for watch in watches for row in volume_rows(watch)]
    for watch in watches:
        row = cache_row(watch, watch.since)
        if watch.present is None:
            continue
        show(console, cache_line(row))
        show(console, cache_bar(row, 40))
    if volumes:
        print_table(console, VOLUME_COLUMNS, volumes)
    files = merge_files((row for watch in watches for row in file_rows(watch)), question.sort)[: question.limit]
    if files:
        total = sum(watch.present.files.total for watch in watches if watch.present and watch.present.files)
        print_table(console, file_columns(FILE_WIDTH), files)
        show(console, Text(f"{len(files):,} of {total:,} files, by {question.sort}", style="dim"))
    section(console, "Errors", trouble_lines(volumes))
    section(console, "Waits", wait_lines(waits for watch in watches if (waits := waits_of(watch)) is not None))
    if volumes:
        show(console, legend(width))


def print_table(console: Console, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
    """Print the columns that fit, and the names of the others."""
    shown = fitting(columns, console.width)
    console.print(table(shown, rows))
    left = [column.heading for column in columns[len(shown) :]]
    if left:
        show(console, Text(f"not shown (--wide shows all): {' '.join(left)}", style="dim"))


def fitting(columns: Sequence[Column[Row]], width: int) -> Sequence[Column[Row]]:
    """Return the first columns that have room side by side; the important columns come first."""
    found: list[Column[Row]] = []
    for column in columns:
        width -= column.width + 2
        if width < 0 and found:
            break
        found.append(column)
    return found


def show(console: Console, line: Text) -> None:
    """Print a line, folded if it is longer than the width."""
    console.print(line, no_wrap=False, overflow="fold", highlight=False)


def section(console: Console, title: str, lines: Sequence[Text]) -> None:
    """Print lines under a title; nothing if there are none."""
    if lines:
        show(console, Text(f"\n{title}", style="bold"))
        for line in lines:
            show(console, line)


def table(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Table:
    """Return a plain table."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        found.add_column(column.heading, justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        found.add_row(*(column.cell(row) for column in columns))
    return found


def as_dict(watches: Sequence[Watch], question: Question) -> dict[str, Any]:
    """Return one document for programs: names and numbers as the caches report them; rates need two samples."""
    files = merge_files((row for watch in watches for row in file_rows(watch)), question.sort)
    return {
        "caches": [cache_dict(watch) for watch in watches],
        "volumes": [
            {
                "socket": str(row.socket),
                "cache": row.cache,
                "name": row.volume.name,
                "backend": row.volume.backend,
                "state": row.volume.state,
                "reason": row.volume.reason,
                "oldest_dirty": row.volume.oldest.dirty,
                "oldest_failed": row.volume.oldest.failed,
                "clean_in": row.volume.clean_in,
                "rate": row.volume.rate,
                "throttled": row.volume.throttle.waiting,
                "queue": {"running": row.volume.queue.running, "waiting": dict(row.volume.queue.waiting)},
                "errors": [
                    {"age": one.age, "kind": one.kind, "key": one.key, "offset": one.offset, "length": one.length,
                     "errno": one.errno, "name": one.name, "message": one.message, "next": one.next}
                    for one in row.volume.errors
                ],
                **traffic_dict(row.traffic),
            }
            for watch in watches
            for row in volume_rows(watch)
        ],
        "files": [
            {
                "socket": str(row.socket),
                "cache": row.cache,
                "volume": row.file.volume,
                "id": row.file.id,
                "key": row.file.key,
                "size": row.file.size,
                "stored": row.file.stored,
                "state": row.file.state,
                "oldest_dirty": row.file.oldest_dirty,
                **traffic_dict(row.traffic),
            }
            for row in files
        ],
        "waits": [
            {"socket": str(watch.socket), "seconds": wait.seconds, "name": wait.name, "what": wait.what,
             "volume": wait.volume, "key": wait.key, "chain": list(wait.chain)}
            for watch in watches
            if (waits := waits_of(watch)) is not None
            for wait in waits.waits
        ],
    }  # fmt: skip


def cache_dict(watch: Watch) -> dict[str, Any]:
    """Return one socket: its cache, or the error."""
    row = cache_row(watch, watch.since)
    error = watch.last.error if watch.last else None
    document: dict[str, Any] = {
        "socket": str(watch.socket),
        "error": None if error is None else {"kind": type(error).__name__, "message": error.message},
        "name": row.name,
        "pid": row.pid,
        "command": row.command,
        "uptime": row.uptime,
    }
    if row.cache is not None and row.traffic is not None:
        document |= {
            "capacity": row.cache.capacity,
            "oldest_dirty": row.oldest,
            "clean_in": row.clean_in,
            "waiting": row.cache.waiting,
            **traffic_dict(row.traffic),
        }
    return document


def traffic_dict(traffic: Traffic) -> dict[str, Any]:
    """Return counters and rates."""
    return {
        "local": traffic.local,
        "hit_rate": traffic.hit_rate,
        "total_hit_rate": traffic.total_hit_rate,
        "per_second": {
            "accesses": traffic.accesses,
            "reads": traffic.reads,
            "writes": traffic.writes,
            "commits": traffic.commits,
        },
        "counters": dict(traffic.counters),
    }
