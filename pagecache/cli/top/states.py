"""The states of cached bytes: their letters and colours, and how a number of bytes of each becomes a bar.

A colour never stands alone: bars and maps carry the letter too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pagecache.observe.answers import Counters


@dataclass(frozen=True, slots=True)
class State:
    """One state.

    Attributes:
        name: as the documents have it.
        label: as the columns have it.
        colour: what it is drawn in, "" for that of the screen. Exact ones: palettes of terminals have some twice.
    """

    name: str
    letter: str
    label: str
    colour: str
    ink: str = "black"

    @property
    def style(self) -> str:
        """Of its letters in bars and maps."""
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

# The order of a bar, from left to right: what is safe, what is on its way, what is not.
BAR_ORDER = ("clean", "pinned", "staged", "unstable", "writeback", "dirty", "failed")
# What exists nowhere else for certain.
LOCAL = ("dirty", "writeback", "unstable")


def local_bytes(counters: Counters) -> float:
    """Bytes that are not known to be saved; failed ones are a part of the dirty ones."""
    return sum(counters.get(name, 0) for name in LOCAL)


def parts(counters: Counters) -> dict[str, float]:
    """Bytes of each state, as disjoint as the counters allow.

    Failed bytes are taken out of the dirty ones. Pinned ones may be in any state: as far as possible they are taken
    out of the clean ones, as a map of folios shows them.
    """
    found = {name: max(0, counters.get(name, 0)) for name in BAR_ORDER}
    found["dirty"] = max(0, found["dirty"] - found["failed"])
    found["pinned"] = min(found["pinned"], found["clean"])
    found["clean"] -= found["pinned"]
    return found


def bar(amounts: Mapping[str, float], total: float, width: int) -> list[tuple[State, int]]:
    """Columns of each state in a bar of `width`, `total` bytes being all of it; the rest is ABSENT.

    What is there at all gets a column where there is one, however little it is: one failed page of a terabyte is what
    somebody looks for. Urgent states take it from the others.
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
        # Rounding: nothing is absent, so nothing may look so.
        state, count = max(found, key=lambda one: one[1])
        found[[one[0] for one in found].index(state)] = (state, count + rest)
        rest = 0
    return [*found, (ABSENT, rest)] if rest else found
