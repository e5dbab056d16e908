"""One file's bytes as a map: a letter for each piece of the file, that of its most urgent state.

    0     CCCCCCCCccDDDDWW··········
    1.0M  ····CCCC···

The pieces are so large that the file fits the map. A capital letter: the whole piece is in that state. A small letter:
some of it is, and the rest is in less urgent states or not cached.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from rich.text import Text

from pagecache.cli.top.states import ABSENT, BY_NAME, OTHER, STATES, State
from pagecache.observe.answers import Folios
from pagecache.quantities import short_size

URGENCY = {state: number for number, state in enumerate((*STATES, OTHER, ABSENT))}

# Of the offset before each line, and two spaces.
MARGIN = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of the file."""

    state: State
    whole: bool

    @property
    def letter(self) -> str:
        """Return the letter of the piece."""
        return self.state.letter if self.whole else self.state.letter.lower()


def piece_size(length: int, page_size: int, cells: int) -> int:
    """Return the bytes of a piece: whole pages, so many that `length` bytes fit `cells`."""
    page = max(1, page_size)
    pages = -(-max(length, 1) // page)
    return max(1, -(-pages // max(1, cells))) * page


def pieces(folios: Folios, cells: int) -> list[Cell]:
    """Return the map of the range that the document covers, `cells` pieces at most."""
    size = piece_size(folios.length, folios.page_size, cells)
    count = max(0, -(-folios.length // size))
    # For each piece: its most urgent state so far, and the bytes in that state.
    states = [ABSENT] * count
    bytes_in = [0] * count
    end = folios.offset + folios.length
    for offset, length, name in folios.runs:
        state = BY_NAME.get(name, OTHER)
        first, last = max(offset, folios.offset), min(offset + length, end)
        for number in range((first - folios.offset) // size, -(-(last - folios.offset) // size) if last > first else 0):
            begin = folios.offset + number * size
            covered = min(last, begin + size) - max(first, begin)
            if state is states[number]:
                bytes_in[number] += covered
            elif URGENCY[state] < URGENCY[states[number]]:
                states[number], bytes_in[number] = state, covered
    lengths = (min(size, folios.length - number * size) for number in range(count))
    return [
        Cell(state, state is ABSENT or covered >= length)
        for state, covered, length in zip(states, bytes_in, lengths, strict=True)
    ]


def amounts(folios: Folios) -> Mapping[State, int]:
    """Return the bytes of each state in the range, most urgent first."""
    found: dict[State, int] = {}
    for offset, length, name in folios.runs:
        state = BY_NAME.get(name, OTHER)
        # Runs are whole pages, the range need not be.
        inside = min(offset + length, folios.offset + folios.length) - max(offset, folios.offset)
        found[state] = found.get(state, 0) + max(0, inside)
    absent = folios.length - sum(found.values())
    if absent > 0:
        found[ABSENT] = absent
    return dict(sorted(found.items(), key=lambda item: URGENCY[item[0]]))


def map_lines(folios: Folios, width: int, height: int) -> Iterator[Text]:
    """Return the map in at most `height` lines of `width` columns, each after its offset."""
    columns = max(1, width - MARGIN)
    cells = pieces(folios, columns * max(1, height))
    size = piece_size(folios.length, folios.page_size, columns * max(1, height))
    for first in range(0, len(cells), columns):
        line = Text(f"{short_size(folios.offset + first * size):>{MARGIN - 2}}  ", style="dim", no_wrap=True)
        for state, run in groupby(cells[first : first + columns], key=lambda cell: cell.state):
            line.append("".join(cell.letter for cell in run), style=state.style)
        yield line
