"""One file's folios as a map."""

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from pagecache.cli.top.folio_map import MARGIN, amounts, map_lines, piece_size
from pagecache.cli.top.model import Model
from pagecache.cli.top.panels import swatches
from pagecache.cli.top.rows import FileRow
from pagecache.cli.top.sampling import TIMEOUT, Sampler
from pagecache.cli.top.text import clip_start
from pagecache.observe.answers import Folios
from pagecache.observe.client import Client, LiveError, Refused
from pagecache.quantities import count_text, printable, short_size

ZOOM = 4


@dataclass(frozen=True, slots=True)
class View:
    """The visible part of the file; `length` None: all from `offset` on."""

    offset: int = 0
    length: int | None = None


class Answered(Message):
    """An answer of the socket."""

    def __init__(self, view: View, answer: Folios | LiveError) -> None:
        super().__init__()
        self.view = view
        self.answer = answer


class FolioMap(Widget):
    """The widget of letters, as many as there is room for."""

    folios: reactive[Folios | None] = reactive(None)

    class Scaled(Message):
        """The number of letters has changed."""

    def render(self) -> Text:
        """Render the map."""
        width, height = self.size
        return Text("\n").join(map_lines(self.folios, width, height) if self.folios else ())

    def on_resize(self, event: events.Resize) -> None:
        """Report the new size; another widget shows the scale."""
        self.post_message(self.Scaled())

    def scale(self, folios: Folios) -> int:
        """Return the bytes of a letter."""
        width, height = self.size
        return piece_size(folios.length, folios.page_size, max(1, width - MARGIN) * max(1, height))


class MapScreen(Screen[None]):
    """The screen of one file's states."""

    CSS = """
    #map-head { height: 2; background: $panel; text-wrap: nowrap; text-overflow: ellipsis; }
    #map { height: 1fr; overflow: hidden; text-wrap: nowrap; }
    #map-legend { height: auto; max-height: 40%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,b", "app.pop_screen", "Back", key_display="Esc"),
        Binding("z", "zoom(1)", "Closer"),
        Binding("Z,x", "zoom(-1)", "Farther", key_display="x"),
        Binding("left", "move(-1)", "Left", show=False),
        Binding("right", "move(1)", "Right", show=False),
        Binding("home", "move(0)", "Whole file", show=False),
    ]

    def __init__(self, row: FileRow, model: Model) -> None:
        super().__init__()
        self.row = row
        self.view = View()
        self.problem = ""
        self.head = Static(id="map-head")
        self.map = FolioMap(id="map")
        self.legend = Static(id="map-legend")
        self._model = model
        # A separate client: that of the socket's sampler belongs to its thread.
        client = Client(row.socket, timeout=TIMEOUT)
        self._sampler: Sampler[Answered] = Sampler(
            lambda: self._read(client), self._deliver, model.pause_or_interval, client
        )

    @property
    def folios(self) -> Folios | None:
        """Return the part of the file on the map."""
        return self.map.folios

    def compose(self) -> ComposeResult:
        """Yield the widgets from top to bottom."""
        yield self.head
        yield self.map
        yield self.legend
        yield Footer()

    def on_mount(self) -> None:
        """Start to ask."""
        self._sampler.start()
        self.update_all()

    def on_unmount(self) -> None:
        """Stop asking."""
        self._sampler.stop()

    def on_resize(self, event: events.Resize) -> None:
        """Fit the legend to the new size."""
        self.update_all()

    def on_folio_map_scaled(self) -> None:
        """Show the scale."""
        self.update_all()

    def sample_now(self) -> None:
        """Ask without waiting for the interval."""
        self._sampler.wake()

    def _read(self, client: Client) -> Answered:
        view = self.view
        try:
            return Answered(view, client.all_folios(self.row.file.id, offset=view.offset, length=view.length))
        except LiveError as error:
            return Answered(view, error)

    def _deliver(self, answer: Answered) -> None:
        try:
            self.post_message(answer)
        except RuntimeError:
            pass  # the program is ending: its loop is closed

    def on_answered(self, event: Answered) -> None:
        """Show the answer, unless the view was changed after the request."""
        if event.view != self.view:
            return
        answer = event.answer
        if isinstance(answer, Folios) and answer.length <= 0 and self.view != View():
            self.view = View()  # the file became shorter than the visible part
            self.sample_now()
        elif isinstance(answer, Folios):
            pid = self._model.pid(self.row.socket)
            restarted = pid is not None and pid != self.row.pid
            self.map.folios = None if restarted else answer
            self.problem = "the cache was started again, and its files are others" if restarted else ""
        elif isinstance(answer, Refused) and answer.status == 404:
            self.map.folios, self.problem = None, "no longer in memory"
        else:
            self.problem = f"{answer.brief}: what is shown is old" if self.folios else answer.brief
        self.update_all()

    def update_all(self) -> None:
        """Show the last answer."""
        if not self.is_running:
            return
        self.head.update(self.head_text())
        self.legend.update(self.legend_text())

    def head_text(self) -> Text:
        """Return the file and the scale of the map."""
        name = clip_start(printable(self.row.file.key), max(10, self.size.width - 2))
        text = Text().append(f" {name}", style="bold")
        text.append(f"\n {printable(self.row.file.volume)}", style="dim")
        if self.folios is not None:
            folios = self.folios
            text.append(f"  {short_size(self.map.scale(folios))} a letter")
            text.append(f", {short_size(folios.size)} in {count_text(folios.folios)} folios")
            if folios.length < folios.size:
                begin, end = short_size(folios.offset), short_size(folios.offset + folios.length)
                text.append(f", from {begin} to {end}")
        if self._model.paused:
            text.append("  PAUSED", style="bold reverse")
        if self.problem:
            text.append(f"  {printable(self.problem)}", style="bold red")
        return text

    def legend_text(self) -> Text:
        """Return the letters on the map, with the amount of each."""
        found = amounts(self.folios) if self.folios else {}
        text = swatches(found.items(), self.size.width - 1)
        text.append("  small letters: in part" if found else "", style="dim")
        return text

    def action_zoom(self, step: int) -> None:
        """Zoom in or out around the middle of the visible part."""
        if self.folios is None or self.folios.length <= 0:
            return
        page, size = max(1, self.folios.page_size), self.folios.size
        length = self.folios.length // ZOOM if step > 0 else self.folios.length * ZOOM
        length = max(page, -(-length // page) * page)
        middle = self.folios.offset + self.folios.length // 2
        self.show_range(middle - length // 2, length, size)

    def action_move(self, step: int) -> None:
        """Move by half of the visible part to the left or right; 0: back to the whole file."""
        if self.folios is None:
            return
        folios = self.folios
        if step == 0:
            self.show_range(0, folios.size, folios.size)
        else:
            self.show_range(folios.offset + step * folios.length // 2, folios.length, folios.size)

    def show_range(self, offset: int, length: int, size: int) -> None:
        """Show so many bytes from the beginning of a page, as far as the file has them."""
        page = max(1, self.folios.page_size) if self.folios else 1
        offset = max(0, min(offset, size - length)) // page * page
        self.view = View() if length >= size else View(offset, min(length, size - offset))
        self.sample_now()
