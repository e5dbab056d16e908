"""A table of rows that change all the time: the heading and the first column stay, the rest scrolls.

Only the lines on the screen are made into text: textual's DataTable makes a text of every cell, and takes 170 ms of CPU
for a sample of 100 rows, against 30. The cursor stays with its row when the order changes, so that Enter chooses the
row that the user saw; on the first line it stays on the first line, for users who watch the top.
"""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pagecache.cli.top.columns import Column

MORE = "→"
"""Ends the heading if the right arrow key shows more columns."""


class Identified(Protocol):
    """A row that can be found again in the next sample."""

    @property
    def identity(self) -> Hashable:
        """Return a value that is equal in every sample."""


Row = TypeVar("Row", bound=Identified)


class RowTable(ScrollView, Generic[Row], can_focus=True):
    """A table with a cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--heading", "table--sorted", "table--cursor", "table--focused"}
    DEFAULT_CSS = """
    RowTable {
        height: 1fr; overflow-x: auto; overflow-y: auto; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
        .table--heading { text-style: bold; color: $text-muted; background: $panel; }
        .table--sorted { text-style: bold reverse; }
        .table--cursor { background: $surface-lighten-2; }
        .table--focused { background: $primary-darken-2; text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "to_end(-1)", "First", show=False),
        Binding("end", "to_end(1)", "Last", show=False),
        Binding("left", "aside(-1)", "Columns to the left", show=False),
        Binding("right", "aside(1)", "Columns to the right", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]

    class Chosen(Message):
        """Enter was pressed on a row, or the row under the cursor was clicked."""

        def __init__(self, row: Any) -> None:
            super().__init__()
            self.row = row

    class Moved(Message):
        """The cursor moved to another row."""

        def __init__(self, table: "RowTable[Any]") -> None:
            super().__init__()
            self.table = table

    class HeadingClicked(Message):
        """The heading of a sortable column was clicked."""

        def __init__(self, sort: str) -> None:
            super().__init__()
            self.sort = sort

    def __init__(self, *, id: str, empty: str) -> None:
        super().__init__(id=id)
        self.columns: Sequence[Column[Row]] = ()
        self.rows: Sequence[Row] = ()
        self.sort = ""
        self.cursor = 0
        self._empty = empty

    @property
    def current(self) -> Row | None:
        """Return the row under the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def show(self, columns: Sequence[Column[Row]], rows: Sequence[Row], *, sort: str = "") -> None:
        """Show other rows. The cursor stays with its row if the row is still there."""
        before = self.current
        self.columns, self.rows, self.sort = columns, rows, sort
        if self.cursor and before is not None:
            identities = [row.identity for row in rows]
            if before.identity in identities:
                self.cursor = identities.index(before.identity)
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self.virtual_size = Size(sum(column.width + 1 for column in columns), max(1, len(rows)) + 1)
        self._keep_in_sight()
        self.refresh()

    @property
    def lines(self) -> int:
        """Return the number of rows on the screen."""
        return max(1, self.size.height - 1)

    def _keep_in_sight(self) -> None:
        top = self.scroll_offset.y
        wanted = min(max(top, self.cursor - self.lines + 1), self.cursor)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, immediate=True)

    def _move_to(self, row: int) -> None:
        self.cursor = max(0, min(row, len(self.rows) - 1))
        self._keep_in_sight()
        self.refresh()
        self.post_message(self.Moved(self))

    def action_move(self, step: int) -> None:
        """Move to the next row, or the one before."""
        self._move_to(self.cursor + step)

    def action_page(self, step: int) -> None:
        """Move by a screen."""
        self._move_to(self.cursor + step * self.lines)

    def action_to_end(self, step: int) -> None:
        """Move to the first row, or the last."""
        self._move_to(0 if step < 0 else len(self.rows) - 1)

    def action_aside(self, step: int) -> None:
        """Scroll by some columns."""
        self.scroll_to(x=self.scroll_offset.x + step * 8, animate=False, immediate=True)

    def action_choose(self) -> None:
        """Choose the row under the cursor."""
        if self.current is not None:
            self.post_message(self.Chosen(self.current))

    def on_click(self, event: events.Click) -> None:
        """Sort by a heading, move to a row, or choose the row under the cursor."""
        row = event.y - 1 + self.scroll_offset.y
        if event.y == 0:
            sort = self._heading_at(event.x)
            if sort:
                self.post_message(self.HeadingClicked(sort))
        elif row == self.cursor:
            self.action_choose()
        elif row < len(self.rows):
            self._move_to(row)

    def _heading_at(self, x: int) -> str | None:
        """Return the order that a click at this column of the screen selects."""
        fixed = self.columns[0].width + 1 if self.columns else 0
        x = x if x < fixed else x + self.scroll_offset.x
        for column in self.columns:
            if x < column.width:
                return column.sort
            x -= column.width + 1
        return None

    def render_line(self, y: int) -> Strip:
        """Render one line of the screen."""
        width, base = self.size.width, self.rich_style
        if y == 0:
            heading = self.get_component_rich_style("table--heading")
            line = self._line([self._heading(column, heading) for column in self.columns], heading, width)
            if self.virtual_size.width - self.scroll_offset.x > width > 1:  # the columns to the right are cut
                line = Strip([*line.crop(0, width - 1), Segment(MORE, heading)])
            return line
        number = y - 1 + self.scroll_offset.y
        if number >= len(self.rows):
            text = self._empty if y == 1 and not self.rows else ""
            return Strip([Segment(text, base)]).adjust_cell_length(width, base)
        if number == self.cursor:
            base = self.get_component_rich_style("table--focused" if self.has_focus else "table--cursor")
        row = self.rows[number]
        return self._line([column.cell(row) for column in self.columns], base, width)

    def _heading(self, column: Column[Row], style: Style) -> Text:
        sorted_by = bool(column.sort) and column.sort == self.sort
        text = column.heading.ljust(column.width) if column.left else column.heading.rjust(column.width)
        return Text(text, style=style + self.get_component_rich_style("table--sorted") if sorted_by else style)

    def _line(self, cells: Sequence[Text], base: Style, width: int) -> Strip:
        """Return cells side by side, each as wide as its column; the first does not scroll."""
        console, strips = self.app.console, []
        for cell, column in zip(cells, self.columns, strict=True):
            # Rich renders a text without spans without its own style.
            own = base + console.get_style(cell.style)
            segments = [
                Segment(one.text, own + one.style if one.style else own) for one in cell.render(console, end="")
            ]
            strips.append(Strip([*Strip(segments).adjust_cell_length(column.width, own), Segment(" ", base)]))
        if not strips:
            return Strip.blank(width, base)
        first, left = strips[0], self.scroll_offset.x
        rest = Strip.join(strips[1:])
        return Strip.join([first, rest.crop(left, rest.cell_length)]).adjust_cell_length(width, base)

    def on_resize(self, event: events.Resize) -> None:
        """Keep the cursor on the screen."""
        self._keep_in_sight()
