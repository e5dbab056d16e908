"""The states of cached bytes: their letters and colours, and bars of them.

A colour never stands alone: bars and maps have the letter too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pagecache.observe.answers import Counters


@dataclass(frozen=True, slots=True)
class State:
    """One state.

    Attributes:
        name: Its name in documents.
        label: Its name in columns.
        colour: Its colour, "" for that of the screen. Exact values: palettes of terminals have some colours twice.
    """

    name: str
    letter: str
    label: str
    colour: str
    ink: str = "black"

    @property
    def style(self) -> str:
        """Return the style of its letters in bars and maps."""
        return f"{self.ink} on {self.colour}" if self.colour else self.ink


# Most urgent first, as /v1/folios orders them.
STATES = (
    State("failed", "F", "failed", "#ff5f57", "bold black"),
    State("writeback", "W", "in flight", "#5b9bf5"),
    State("dirty", "D", "dirty", "#f2b01e"),
    State("staged", "S", "staged", "#c583e8"),
    State("unstable", "U", "unstable", "#35c7c7"),
    State("filling", "R", "being read", "#c4c4c4"),
    State("pinned", "P", "pinned", "#b9e08a"),
    State("clean", "C", "clean", "#4caf50"),
)
BY_NAME = {state.name: state for state in STATES}
ABSENT = State("", "·", "not cached", "", "dim")
OTHER = State("?", "?", "other", "", "reverse")

# The order of a bar, from left to right: safe bytes, bytes in flight, unsaved bytes.
BAR_ORDER = ("clean", "pinned", "staged", "unstable", "writeback", "dirty", "failed")
# States of bytes that may exist only in this cache.
LOCAL = ("dirty", "writeback", "unstable")


def local_bytes(counters: Counters) -> float:
    """Return the bytes that are not known to be saved; failed ones are a part of them."""
    return sum(counters.get(name, 0) for name in LOCAL)


def parts(counters: Counters) -> dict[str, float]:
    """Return the bytes of each state, as disjoint as the counters allow.

    Failed bytes are subtracted from the unsaved ones, from dirty ones first. Pinned bytes may be in any state: as far
    as possible they are subtracted from the clean ones, as in a map of folios.
    """
    found = {name: max(0, counters.get(name, 0)) for name in BAR_ORDER}
    left = found["failed"]
    for name in ("dirty", "writeback", "unstable", "staged"):
        part = min(left, found[name])
        found[name] -= part
        left -= part
    found["pinned"] = min(found["pinned"], found["clean"])
    found["clean"] -= found["pinned"]
    return found


def bar(amounts: Mapping[str, float], total: float, width: int) -> list[tuple[State, int]]:
    """Return the columns of each state in a bar of `width` columns for `total` bytes; the rest is ABSENT.

    Every state with any bytes gets a column if possible, because one failed page of a terabyte must be visible. Urgent
    states take the column from the others.
    """
    whole = max(total, sum(amounts.values()), 1)
    present = [name for name in BAR_ORDER if amounts.get(name, 0) > 0]
    columns = {name: max(1, int(amounts[name] * width / whole)) for name in present}
    while sum(columns.values()) > width:
        largest = max(columns, key=columns.__getitem__)
        if columns[largest] > 1:
            columns[largest] -= 1
        else:
            del columns[next(iter(columns))]  # the least urgent
    found = [(BY_NAME[name], count) for name, count in columns.items()]
    rest = width - sum(columns.values())
    if whole == sum(amounts.values()) and found and rest:
        # Rounding left a column, but no byte is absent: it must not look so.
        state, count = max(found, key=lambda one: one[1])
        found[[one[0] for one in found].index(state)] = (state, count + rest)
        rest = 0
    return [*found, (ABSENT, rest)] if rest else found
