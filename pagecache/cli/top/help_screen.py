"""The keys, the letters and the words of the tables."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from pagecache.cli.top.panels import legend

# Keys and their effects, as on the screen and in docs/how-to/top.md.
KEYS = (
    ("↑ ↓ ← →", "move, and see more columns; PgUp PgDn Home End too"),
    ("Tab", "volumes or files"),
    ("Enter", "a file: its map; a volume: only its files, or all again"),
    ("s S", "sort files by the next column, the one before"),
    ("/", "only files with a text in their key; Esc drops it"),
    ("v e w", "volume, errors, waits; the same key hides the panel"),
    ("p", "pause, go on"),
    ("+ -", "look more seldom, more often"),
    ("r", "look now"),
    ("z x", "in a map: closer, farther; ← → move, Home shows all"),
    ("Esc", "back"),
    ("?", "this page"),
    ("q", "quit"),
)


WIDTH = 68


class HelpScreen(ModalScreen[None]):
    """A screen of help, over the screen below it."""

    CSS = f"""
    HelpScreen {{ align: center middle; }}
    #help {{ width: {WIDTH}; max-width: 100%; height: auto; max-height: 100%; background: $panel; padding: 0 1; }}
    #help Static {{ height: auto; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,enter,space", "app.pop_screen", "Back", key_display="Esc"),
        # A modal screen does not pass keys on to the program.
        Binding("q", "app.quit", "Quit"),
    ]

    def compose(self) -> ComposeResult:
        """One text."""
        with VerticalScroll(id="help"):
            yield Static(self.text())
        yield Footer()

    def text(self) -> Text:
        """Keys, then letters."""
        text = Text().append("pagecache top\n", style="bold")
        for keys, what in KEYS:
            text.append(f"{keys:<9}", style="bold cyan")
            text.append(f"{what}\n")
        text.append("\nMemory, from safe to unsafe\n")
        text.append_text(legend(min(WIDTH - 2, self.app.size.width - 2)))
        return text
