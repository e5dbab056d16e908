"""The document of `figures.py` as tables and lines, printed once or again each second by `rich.live`.

The first columns are about unsaved bytes: a narrow terminal shows these. All foreign text is `printable`, and a cell is
a rich Text, never a string, so markup in a name has no effect.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pagecache.cli.top.figures import Document, Question, Watch, figures, read_all
from pagecache.quantities import clean_in_text, count_text, duration_text, percent_text, printable, range_text
from pagecache.quantities import short_size as size

PIPE_WIDTH = 100
"""Width of tables off a terminal, unless $COLUMNS has another."""
WIDE = 400
NAME_WIDTH = 40
STATES = ("clean", "pinned", "staged", "unstable", "writeback", "dirty", "failed")

Column = tuple[str, Callable[[Document], str]]


def _tail(text: str) -> str:
    """Return a name in at most NAME_WIDTH columns: the end of a path is more specific than its beginning."""
    text = printable(text)
    if cell_len(text) <= NAME_WIDTH:
        return text
    while cell_len(text) >= NAME_WIDTH:
        text = text[1:]
    return "…" + text


def _bytes(heading: str, name: str) -> Column:
    """Return a column of a counter. Memory is counted in pages, so the size of a file bounds its bytes."""
    return heading, lambda row: size(min(row["counters"][name], row.get("size", math.inf)))


def _rate(heading: str, name: str) -> Column:
    return heading, lambda row: count_text(row["per_second"][name])


UNSAVED = (
    _bytes("DIRTY", "dirty"),
    _bytes("FLIGHT", "writeback"),
    _bytes("UNSTAB", "unstable"),
    _bytes("FAILED", "failed"),
    ("OLDEST", lambda row: duration_text(row["oldest_dirty"])),
)
USE = (
    ("HIT%", lambda row: percent_text(row["hit_rate"])),
    ("ALL%", lambda row: percent_text(row["total_hit_rate"])),
    _rate("USES/S", "accesses"),
    _rate("READ/S", "reads"),
    _rate("WRITE/S", "writes"),
    _rate("COMMIT/S", "commits"),
    _bytes("STAGED", "staged"),
    _bytes("PINNED", "pinned"),
    _bytes("CLEAN", "clean"),
)
VOLUMES: Sequence[Column] = (
    ("VOLUME", lambda row: ("" if row["state"] == "attached" else "! ") + _tail(row["name"])),
    *UNSAVED,
    ("CLEAN IN", lambda row: clean_in_text(row["clean_in"], local=row["local"])),
    ("THROT", lambda row: count_text(row["throttled"])),
    ("QUEUE", lambda row: f"{row['queue']['running']}+{sum(row['queue']['waiting'].values())}"),
    ("SAVED/S", lambda row: size(row["rate"])),
    *USE,
    ("FILES", lambda row: count_text(row["files"])),
    ("OPEN", lambda row: count_text(row["handles"])),
    ("STATE", lambda row: printable(row["state"])),
    ("BACKEND", lambda row: printable(row["backend"])),
)
FILES: Sequence[Column] = (
    ("FILE", lambda row: _tail(row["key"])),
    *UNSAVED,
    _bytes("CACHED", "cached"),
    ("SIZE", lambda row: size(row["size"])),
    ("STORED", lambda row: size(row["stored"])),
    *USE,
    ("OPEN", lambda row: count_text(row["handles"])),
    ("STATE", lambda row: printable(row["state"])),
    ("VOLUME", lambda row: _tail(row["volume"])),
)


def show_once(sockets: Sequence[Path], question: Question, interval: float | None, *, as_json: bool, wide: bool) -> int:
    """Print one sample of each socket, or the second of two with rates; return the exit status.

    Unreadable sockets are reported on stderr.
    """
    watches = [Watch(path, question) for path in sockets]
    read_all(watches)
    if interval is not None:
        time.sleep(interval)
        read_all(watches)
    if as_json:
        # Names in pure ASCII: a document printed on a terminal is as harmless as a table.
        print(json.dumps(figures(watches, question), indent=2))
    else:
        fits = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
        console = Console(width=WIDE if wide else None if fits else PIPE_WIDTH, highlight=False)
        for part in _parts(figures(watches, question), question, console.width):
            console.print(part, overflow="fold")
    errors = [watch.error for watch in watches if watch.error is not None]
    for error in errors:
        print(f"pagecache top: {printable(str(error))}", file=sys.stderr)
    return 1 if errors else 0


def show_live(find: Callable[[], Sequence[Path]], question: Question, interval: float) -> NoReturn:
    """Show the sockets that `find` returns again and again, until Ctrl-C."""
    watches: dict[Path, Watch] = {}
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            there = [watches.setdefault(path, Watch(path, question)) for path in find()]
            read_all(there)
            document = figures(there, question)
            live.update(Group(*_parts(document, question, live.console.width)), refresh=True)
            time.sleep(interval)


# -- the parts of the screen


def _parts(document: Document, question: Question, width: int) -> Iterator[RenderableType]:
    """Yield lines and tables, in the order of the screen."""
    for cache in document["caches"]:
        yield _cache_line(cache)
        if "capacity" in cache:
            states = (f"  {name} {size(cache['counters'][name])}" for name in STATES if cache["counters"][name])
            yield Text(f"  memory {size(cache['capacity'])}{''.join(states)}")
            if disk := _disk_line(cache):
                yield disk
    yield from _table(VOLUMES, document["volumes"], width)
    errors = [(error["age"], volume["name"], error) for volume in document["volumes"] for error in volume["errors"]]
    yield from _section("Errors", [_error_line(*one) for one in sorted(errors, key=lambda one: one[0])])
    waits = sorted(document["waits"], key=lambda wait: -wait["seconds"])
    yield from _section("Waits", [line for wait in waits for line in _wait_lines(wait)])
    files = document["files"][: question.limit]
    yield from _table(FILES, files, width)
    if files:
        total = sum(cache.get("total_files", 0) for cache in document["caches"])
        yield Text(f"{len(files):,} of {total:,} files, by {question.sort}", style="dim")


def _cache_line(cache: Document) -> Text:
    line = Text.assemble((printable(cache["name"]), "bold"))
    if "capacity" not in cache:
        state = "gone" if cache["pid"] else "not reached"
        return line.append(f"  {state}", style="bold red").append(f"  {printable(cache['error']['message'])}")
    if cache["local"]:
        line.append(f"  {size(cache['local'])} not saved", style="bold yellow")
        clean_in = clean_in_text(cache["clean_in"], local=cache["local"])
        line.append(f", oldest {duration_text(cache['oldest_dirty'])}, clean in {clean_in}")
    elif cache["clean_in"] is None and not cache["recovered"]:
        line.append("  uncommitted changes", style="bold yellow")
    elif not cache["recovered"]:
        line.append("  all saved", style="bold green")
    if cache["recovered"]:
        line.append(f"  {count_text(cache['recovered'])} recovered files not saved", style="bold yellow")
    if cache["counters"].get("failed"):
        line.append(f"  {size(cache['counters']['failed'])} FAILED", style="bold red")
    if cache["hit_rate"] is not None:
        line.append(f"  hit {percent_text(cache['hit_rate'])}% of {count_text(cache['per_second']['accesses'])}/s")
    if cache["total_hit_rate"] is not None:
        line.append(f"  hit {percent_text(cache['total_hit_rate'])}% in all")
    if cache["waiting"]:
        line.append(f"  {count_text(cache['waiting'])} threads wait", style="bold yellow")
    up = duration_text(cache["uptime"])
    return line.append(f"  {printable(cache['command'])} ({cache['pid']}) up {up}", style="dim")


def _disk_line(cache: Document) -> Text | None:
    """Return the state of the disk tier; None: it has nothing."""
    kept, journal, errors = (cache["counters"].get(name, 0) for name in ("disk_bytes", "journal_bytes", "disk_errors"))
    if not (kept or errors):
        return None
    line = Text(f"  disk {size(kept)}  served {count_text(cache['counters']['disk_hits'])} reads")
    if journal:
        line.append(f"  journal {size(journal)}", style="bold yellow")
    if errors:
        line.append(f"  {count_text(errors)} disk ERRORS", style="bold red")
    return line


def _error_line(age: float, volume: str, error: dict[str, Any]) -> Text:
    line = Text(f"{duration_text(age):>6} ago ").append(printable(error["kind"]), style="bold red")
    line.append(f" {printable(volume)}")
    if error["key"] is not None:
        line.append(f" {printable(error['key'])} {range_text(error['offset'], error['length'])}")
    line.append(": " + " ".join(printable(error[part]) for part in ("name", "message") if error[part]))
    return line.append(f" → {printable(error['next'])}" if error["next"] else "", style="bold")


def _wait_lines(wait: Document) -> Iterator[Text]:
    line = Text(f"{duration_text(wait['seconds']):>6} ").append(printable(wait["name"]), style="bold")
    line.append(f" waits for {printable(wait['what'])}")
    if wait["key"] is not None:
        line.append(f" of {printable(wait['volume'] or '')} {printable(wait['key'])}")
    yield line
    if (call := wait["owner"]) is not None:
        at = "" if call["place"] is None else f", at {call['place']}"
        where = f"{call['name']} is in {call['what']} for {duration_text(call['seconds'])}{at}"
        yield Text(f"       ↳ {printable(where)}", style="dim")


def _section(title: str, lines: Sequence[Text]) -> Iterator[Text]:
    if lines:
        yield Text(f"\n{title}", style="bold")
        yield from lines


def _table(columns: Sequence[Column], rows: Sequence[Document], width: int) -> Iterator[RenderableType]:
    """Yield a table of the columns that fit, and the names of the others."""
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    cells: list[list[str]] = []
    for heading, cell in columns:
        texts = [cell(row) for row in rows]
        width -= max(map(cell_len, [heading, *texts])) + 2
        if width < 0 and cells:
            break
        table.add_column(heading, justify="right" if cells else "left", no_wrap=True)
        cells.append(texts)
    for row in zip(*cells, strict=True):
        table.add_row(*map(Text, row))
    yield table
    if len(cells) < len(columns):
        left = " ".join(heading for heading, _ in columns[len(cells) :])
        yield Text(f"not shown (--wide shows all): {left}", style="dim")
