"""The columns of the tables of volumes and files: heading, width, and the function that makes a cell.

The first columns are about unsaved bytes: a narrow terminal shows these. A cell is a rich Text, never a string, so
markup in a name has no effect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.text import Text

from pagecache.cli.top.rows import FileRow, VolumeRow
from pagecache.cli.top.states import ABSENT, BY_NAME, State, bar
from pagecache.cli.top.text import clip_end, clip_start
from pagecache.quantities import clean_in_text, count_text, duration_text, percent_text, printable, short_size

Row = TypeVar("Row")

BAR_WIDTH = 12
NAME_WIDTH = 16  # at least


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column.

    Attributes:
        name: Its identifier.
        sort: The order of files that a click on it selects.
    """

    name: str
    heading: str
    width: int
    cell: Callable[[Row], Text]
    sort: str | None = None
    left: bool = False


def right(text: str, width: int, style: str = "") -> Text:
    """Return a text aligned to the right."""
    return Text(text.rjust(width), style=style, no_wrap=True)


def bar_text(amounts: dict[str, float], total: float, width: int) -> Text:
    """Return a bar: the letter of a state in its first column, its colour in all of its columns."""
    found = Text(no_wrap=True)
    for state, columns in bar(amounts, total, width):
        found.append(segment(state, columns), style=state.style)
    return found


def segment(state: State, columns: int) -> str:
    """Return the text of a state's columns in a bar."""
    return state.letter * columns if state is ABSENT else state.letter.ljust(columns, "-")


def volume_name(row: VolumeRow) -> Text:
    """Return the name of the volume, marked if its state is not "attached"."""
    state = row.volume.state
    if state == "attached":
        return Text(clip_end(printable(row.volume.name), NAME_WIDTH), no_wrap=True)
    name = clip_end(printable(row.volume.name), NAME_WIDTH - 2)
    return Text(f"! {name}", style="bold red", no_wrap=True)


def waiting_text(row: VolumeRow) -> str:
    """Return the numbers of running calls and of waiting pieces of work."""
    queue = row.volume.queue
    return f"{count_text(queue.running)}+{count_text(sum(queue.waiting.values()))}"


def number(
    name: str,
    heading: str,
    text: Callable[[Row], str],
    *,
    style: Callable[[Row], str] = lambda row: "",
    sort: str | None = None,
) -> Column[Row]:
    """Return a column of numbers, as wide as its heading, at least six."""
    width = max(len(heading), 6)
    return Column(name, heading, width, lambda row: right(text(row), width, style(row)), sort=sort)


def size(
    name: str, heading: str, amount: Callable[[Row], float | None], style: str = "", *, sort: str | None = None
) -> Column[Row]:
    """Return a column of bytes. Zero is dim, so that other amounts stand out."""
    return number(
        name, heading, lambda row: short_size(amount(row)), style=lambda row: style if amount(row) else "dim", sort=sort
    )


def counter(name: str, heading: str, state: str, *, sort: str | None = None) -> Column[Any]:
    """Return a column of the bytes in a state, in its colour."""
    return size(name, heading, lambda row: in_file(row, state), BY_NAME[state].colour, sort=sort)


def in_file(row: Any, name: str) -> float | None:
    """Return the bytes of a counter. Memory is counted in pages, so the size of a file bounds its bytes."""
    amount: float | None = row.traffic.counters.get(name)
    return min(amount, row.file.size) if isinstance(row, FileRow) and amount is not None else amount


def words(name: str, heading: str, width: int, text: Callable[[Row], str]) -> Column[Row]:
    """Return a column of words."""
    return Column(
        name, heading, width, lambda row: Text(clip_end(printable(text(row)), width), no_wrap=True), left=True
    )


UNSAVED: tuple[Column[Any], ...] = (
    counter("dirty", "DIRTY", "dirty", sort="dirty"),
    counter("flight", "FLIGHT", "writeback"),
    counter("unstable", "UNSTAB", "unstable", sort="unstable"),
    counter("failed", "FAILED", "failed", sort="failed"),
)
USE: tuple[Column[Any], ...] = (
    number("hit", "HIT%", lambda row: percent_text(row.traffic.hit_rate)),
    number("hits", "ALL%", lambda row: percent_text(row.traffic.total_hit_rate), sort="hits"),
    number("accesses", "USES/S", lambda row: count_text(row.traffic.accesses)),
    number("reads", "READ/S", lambda row: count_text(row.traffic.reads)),
    number("writes", "WRITE/S", lambda row: count_text(row.traffic.writes)),
    number("commits", "COMMIT/S", lambda row: count_text(row.traffic.commits)),
)
KEPT: tuple[Column[Any], ...] = (
    counter("staged", "STAGED", "staged"),
    counter("pinned", "PINNED", "pinned"),
    counter("clean", "CLEAN", "clean"),
)

VOLUME_COLUMNS: tuple[Column[VolumeRow], ...] = (
    Column("volume", "VOLUME", NAME_WIDTH, volume_name, left=True),
    Column("bar", "MEMORY", BAR_WIDTH, lambda row: bar_text(row.traffic.parts, row.capacity, BAR_WIDTH), left=True),
    *UNSAVED,
    number("oldest", "OLDEST", lambda row: duration_text(row.volume.oldest.dirty)),
    number("clean_in", "CLEAN IN", lambda row: clean_in_text(row.volume.clean_in, local=row.traffic.local)),
    number(
        "throttled",
        "THROT",
        lambda row: count_text(row.volume.throttle.waiting),
        style=lambda row: "bold yellow" if row.volume.throttle.waiting else "dim",
    ),
    number("queue", "QUEUE", waiting_text),
    size("rate", "SAVED/S", lambda row: row.volume.rate),
    *USE,
    *KEPT,
    number("files", "FILES", lambda row: count_text(row.volume.files)),
    number("handles", "OPEN", lambda row: count_text(row.volume.handles)),
    words("state", "STATE", 9, lambda row: row.volume.state),
    words("backend", "BACKEND", 16, lambda row: row.volume.backend or ""),
)


def file_columns(name_width: int = NAME_WIDTH) -> tuple[Column[FileRow], ...]:
    """Return the columns of files, with a name column of that width."""
    return (
        Column(
            "file",
            "FILE",
            name_width,
            lambda row: Text(clip_start(printable(row.file.key), name_width), no_wrap=True),
            sort="key",
            left=True,
        ),
        Column(
            "bar", "MEMORY", BAR_WIDTH, lambda row: bar_text(row.traffic.parts, row.file.size, BAR_WIDTH), left=True
        ),
        *UNSAVED,
        number("age", "OLDEST", lambda row: duration_text(row.file.oldest_dirty), sort="age"),
        size("cached", "CACHED", lambda row: in_file(row, "cached"), sort="cached"),
        size("size", "SIZE", lambda row: row.file.size),
        size("stored", "STORED", lambda row: row.file.stored),
        *USE,
        *KEPT,
        number("handles", "OPEN", lambda row: count_text(row.file.handles)),
        words("state", "STATE", 8, lambda row: row.file.state),
        words("volume", "VOLUME", 16, lambda row: row.file.volume),
    )
