"""The main screen: caches, volumes, files, and a panel for the volume under the cursor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Input, Static

from pagecache.cli.top.columns import BAR_WIDTH, NAME_WIDTH, VOLUME_COLUMNS, file_columns
from pagecache.cli.top.model import FileList
from pagecache.cli.top.panels import cache_bar, cache_line, single, trouble_lines, volume_lines, wait_lines
from pagecache.cli.top.rows import FileRow, VolumeRow
from pagecache.cli.top.table import RowTable
from pagecache.cli.top.text import clip_end
from pagecache.quantities import duration_text, printable

if TYPE_CHECKING:
    from pagecache.cli.top.app import TopApp

# With fewer lines than this, each cache has one line, and the panel shows only on request, in place of the files.
SHORT = 20
NAME_MAX = 60
# Seconds without a key after which the servers are asked for the filter.
FILTER_PAUSE = 0.25


class MainScreen(Screen[None]):
    """The screen with all tables."""

    app: "TopApp"

    CSS = """
    MainScreen { layers: base; }
    #head, #files-head { height: 1; background: $panel; text-wrap: nowrap; text-overflow: ellipsis; }
    #caches { height: auto; max-height: 30%; scrollbar-size-vertical: 1; }
    #caches Static { height: auto; text-wrap: nowrap; text-overflow: ellipsis; }
    #panel Static { height: auto; }
    #volumes { height: auto; max-height: 30%; }
    #files { height: 1fr; min-height: 2; }
    #panel { height: auto; max-height: 40%; border-top: solid $panel; scrollbar-size-vertical: 1; }
    #filter { height: 1; border: none; padding: 0 1; }
    MainScreen.short #caches { max-height: 2; scrollbar-size-vertical: 0; }
    MainScreen.short #volumes { max-height: 3; scrollbar-size-vertical: 0; }
    MainScreen.short #files { scrollbar-size-vertical: 0; }
    MainScreen.short #files-head { display: none; }
    MainScreen.short #panel { max-height: 100%; height: 1fr; border-top: none; }
    MainScreen.short.with-panel #files { display: none; }
    MainScreen.without-panel #panel { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort(1)", "Sort"),
        Binding("S", "sort(-1)", "Sort back", show=False),
        # With priority it is done before the next key is handled: that key belongs to the filter already.
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("v", "panel('volume')", "Volume"),
        Binding("e", "panel('errors')", "Errors"),
        Binding("w", "panel('waits')", "Waits"),
        Binding("escape", "back", "Back", show=False),
        Binding("tab", "app.focus_next", "Volumes or files", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.panel: str | None = None  # depends on the room, until the user chooses
        self.panel_chosen = False
        # Kept here and not queried: samples also arrive while the screen is being removed.
        self.head = Static(id="head")
        self.cache_lines = Static()
        self.volumes: RowTable[VolumeRow] = RowTable(id="volumes", empty="no volumes")
        self.files_head = Static(id="files-head")
        self.files: RowTable[FileRow] = RowTable(id="files", empty="no files")
        self.panel_lines = Static()
        self.filter = Input(id="filter", placeholder="part of a key; Enter keeps it, Esc drops it")
        self.filter.display = False
        self.filter_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """Yield the widgets from top to bottom."""
        yield self.head
        with VerticalScroll(id="caches", can_focus=False):
            yield self.cache_lines
        yield self.volumes
        yield self.files_head
        yield self.files
        with VerticalScroll(id="panel", can_focus=False):
            yield self.panel_lines
        yield self.filter
        yield Footer()

    def on_mount(self) -> None:
        """Focus the files."""
        self.files.focus()
        self.fit_layout()

    def on_resize(self, event: events.Resize) -> None:
        """Find a layout for the size, and ask for as many files as it has room for."""
        self.fit_layout()
        self.call_after_refresh(self.want_files)
        self.update_all()

    def fit_layout(self) -> None:
        """Choose the layout that fits."""
        short = self.app.size.height < SHORT
        if not self.panel_chosen:
            self.panel = None if short else "volume"
        self.set_class(short, "short")
        self.set_class(self.panel is not None, "with-panel")
        self.set_class(self.panel is None, "without-panel")

    def want_files(self) -> None:
        """Ask for the files on the screen, and one screen more."""
        table = self.files
        if self.app.model.want(table.cursor + 2 * table.lines):
            self.app.sample_now()

    def update_all(self) -> None:
        """Show the model."""
        if not self.is_running:
            return
        model = self.app.model
        volumes = model.volumes()
        self.head.update(self.head_line(volumes))
        self.cache_lines.update(self.caches_text())
        self.volumes.show(VOLUME_COLUMNS, volumes)
        found = model.files()
        self.files_head.update(self.files_line(found))
        self.files.show(file_columns(self.name_width(found.rows)), found.rows, sort=model.sort)
        self.update_panel()

    def name_width(self, rows: Sequence[FileRow]) -> int:
        """Return the width of the names: that of the longest, as far as the important columns leave room.

        It changes in steps, so that one name that comes and goes does not move the columns.
        """
        longest = max((cell_len(printable(row.file.key)) for row in rows), default=0)
        room = min(NAME_MAX, self.app.size.width - BAR_WIDTH - 8 * 7)
        return max(NAME_WIDTH, min(-(-longest // 8) * 8, room))

    def head_line(self, volumes: Sequence[VolumeRow]) -> Text:
        """Return the title: the state of the view."""
        model = self.app.model
        line = Text().append(" pagecache top", style="bold")
        line.append(f"  every {duration_text(model.interval)}")
        if model.paused:
            line.append("  PAUSED", style="bold reverse")
        errors = sum(len(single(row.volume.errors)) for row in volumes)
        waits = sum(len(waits.waits) for waits in model.waits())
        line.append(f"  {errors} errors", style="bold red" if errors else "dim")
        line.append(f"  {waits} waits", style="bold yellow" if waits else "dim")
        line.append(f"  by {model.sort}")
        if model.filter:
            line.append(f"  only “{clip_end(printable(model.filter), 20)}”", style="reverse")
        return line

    def caches_text(self) -> Text:
        """Return a line for each cache, and its bar if there is room."""
        rows = self.app.model.caches()
        lines: list[Text] = []
        for row in rows:
            lines.append(cache_line(row))
            if self.app.size.height >= SHORT and row.cache is not None:
                lines.append(cache_bar(row, max(10, min(60, self.app.size.width // 3))))
        return Text("\n").join(lines) if lines else Text("no socket: see pagecache top --help")

    def files_line(self, found: FileList) -> Text:
        """Return the heading of the files: their choice, number and order."""
        model = self.app.model
        line = Text().append(" FILES", style="bold")
        if model.volume is not None:
            line.append(f" of {printable(model.volume[1])}")
        count = "so far" if found.total is None else f"of {found.total:,}"
        return line.append(f"  {len(found.rows):,} {count}, by {model.sort}")

    def update_panel(self) -> None:
        """Show the panel."""
        volumes = self.app.model.volumes()
        lines: list[Text] = []
        match self.panel:
            case "volume":
                row = self.volumes.current
                lines = [Text("no volume")]
                if row is not None:
                    title = f"{printable(row.volume.name)}, {printable(row.volume.backend or '')}"
                    lines = [Text(f"VOLUME {title}", style="bold"), *volume_lines(row)]
            case "errors":
                lines = [Text("ERRORS", style="bold"), *(trouble_lines(volumes) or [Text("none")])]
            case "waits":
                lines = [Text("WAITS", style="bold"), *(wait_lines(self.app.model.waits()) or [Text("no waits")])]
        self.panel_lines.update(Text("\n").join(lines))

    @on(RowTable.Moved)
    def follow_cursor(self, event: RowTable.Moved) -> None:
        """Show the volume under the cursor in the panel; ask for more files near the end of the list."""
        if event.table is self.volumes:
            self.update_panel()
        else:
            self.want_files()

    @on(RowTable.HeadingClicked)
    def sort_by_heading(self, event: RowTable.HeadingClicked) -> None:
        """Sort by the column that was clicked."""
        self.app.model.sort = event.sort
        self.sorted_differently()

    @on(RowTable.Chosen)
    def choose(self, event: RowTable.Chosen) -> None:
        """Show the map of a file; for a volume, show only its files, or all of them again."""
        row: Any = event.row
        if isinstance(row, FileRow):
            self.app.show_map(row)
            return
        model = self.app.model
        model.volume = None if model.volume == row.identity else row.identity
        self.update_all()
        self.app.sample_now()

    def action_sort(self, step: int) -> None:
        """Sort by the next column, or the one before."""
        self.app.model.next_sort(step)
        self.sorted_differently()

    def sorted_differently(self) -> None:
        """Show the known files in the new order, and ask for the first ones."""
        self.files.action_to_end(-1)
        self.update_all()
        self.app.sample_now()

    def action_panel(self, panel: str) -> None:
        """Show a panel, or hide it."""
        self.panel = None if self.panel == panel else panel
        self.panel_chosen = True
        self.fit_layout()
        self.update_panel()
        self.call_after_refresh(self.want_files)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the key in the filter, where a slash is a letter."""
        return action != "filter" or not self.filter.display

    def action_filter(self) -> None:
        """Ask for a text."""
        self.filter.value = self.app.model.filter
        self.filter.display = True
        # Not by `focus`, which takes effect later.
        self.set_focus(self.filter)

    @on(Input.Changed, "#filter")
    def filter_changed(self, event: Input.Changed) -> None:
        """Show matching files while the filter is typed."""
        if not self.filter.display:
            return
        if event.value == self.app.model.filter:
            return
        self.app.model.filter = event.value
        self.update_all()
        self.typing(self.set_timer(FILTER_PAUSE, self.app.sample_now))

    def typing(self, timer: Timer | None) -> None:
        """Ask the servers, which see all files, when `timer` is over, not for each letter."""
        if self.filter_timer is not None:
            self.filter_timer.stop()
        self.filter_timer = timer

    @on(Input.Submitted, "#filter")
    def filter_kept(self) -> None:
        """Return to the files."""
        self.typing(None)
        self.app.sample_now()
        self.filter.display = False
        self.set_focus(self.files)

    def action_back(self) -> None:
        """Drop the filter, then the choice of a volume, then the requested panel."""
        model = self.app.model
        self.typing(None)
        if self.filter.display or model.filter:
            self.filter.display = False
            model.filter = ""
            self.set_focus(self.files)
        elif model.volume is not None:
            model.volume = None
        elif self.panel_chosen:
            self.panel_chosen = False
        self.fit_layout()
        self.update_all()
        self.app.sample_now()
