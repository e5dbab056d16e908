"""docs/how-to/top.md names every key, column, letter and option, and shows the pictures."""

from __future__ import annotations

import re
from pathlib import Path

import click
from textual.binding import Binding, BindingType

from pagecache.cli.top.app import TopApp
from pagecache.cli.top.columns import VOLUME_COLUMNS, file_columns
from pagecache.cli.top.command import top
from pagecache.cli.top.help_screen import KEYS, HelpScreen
from pagecache.cli.top.main_screen import MainScreen
from pagecache.cli.top.map_screen import MapScreen
from pagecache.cli.top.rows import SORTS
from pagecache.cli.top.states import ABSENT, STATES
from pagecache.cli.top.table import RowTable

from .pictures import DRAWN, ROOT

PAGE = (ROOT / "docs" / "how-to" / "top.md").read_text(encoding="utf-8")
MARKED = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))

# Keys as they are written for people.
WRITTEN = {
    "up": "↑", "down": "↓", "left": "←", "right": "→", "pageup": "PgUp", "pagedown": "PgDn", "home": "Home",
    "end": "End", "enter": "Enter", "tab": "Tab", "escape": "Esc", "backspace": "Backspace", "slash": "/",
    "question_mark": "?", "plus": "+", "minus": "-",
}  # fmt: skip
# Mentioned in a sentence (Ctrl-C), or equal to another key.
UNSAID = {"ctrl+c", "Z", "space"}


def keys(bindings: list[BindingType]) -> set[str]:
    found: set[str] = set()
    for binding in bindings:
        assert isinstance(binding, Binding)
        found |= set(binding.key.split(","))
    return found


def test_every_key_is_named() -> None:
    bound = set().union(*(keys(one.BINDINGS) for one in (TopApp, MainScreen, MapScreen, HelpScreen, RowTable)))
    assert {WRITTEN.get(key, key) for key in bound - UNSAID} - MARKED == set()
    assert "Ctrl-C" in PAGE


def test_every_key_of_the_help_is_bound_and_on_the_page() -> None:
    said = {key for keys, _ in KEYS for key in keys.split()}
    assert said - MARKED == set()


def test_every_column_letter_order_and_option_is_named() -> None:
    headings = {column.heading for column in VOLUME_COLUMNS} | {column.heading for column in file_columns()}
    assert headings - MARKED == set()
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for state in (*STATES, ABSENT):
        assert any(line.startswith(f"| `{state.letter}` | {state.label} |") for line in rows), state.label
    assert set(SORTS) <= MARKED
    options = {one.opts[0] for one in top.params if isinstance(one, click.Option)}
    assert options - {name.split()[0] for name in MARKED} == set()


def test_pictures_are_shown() -> None:
    shown = set(re.findall(r"!\[[^\]]+\]\(\.\./pictures/([^)]+)\)", PAGE))
    assert shown == set(DRAWN.values())
    for name in shown:
        assert Path(ROOT / "docs" / "pictures" / name).exists()
