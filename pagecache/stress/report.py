"""The result of a run, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "counted", "exercised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a run.

    Attributes:
        ok: no failure was found.
        story: a few lines for a person: the failure, or what was exercised.
        replay: input of `Plan.from_replay` and `pagecache stress --replay`.
        counters: event -> count.
        kinds: kind of operation -> count.
        skipped: feature that the target lacks -> reason.
        kind: of the failure: "data", "error", "hang", "check" or "crash"; "" without one.
        hung: threads that wait for something were left behind.
        steps: events that concern the wrong bytes, in order, a sentence each.
        hang: all waits: see hang.py.
    """

    ok: bool
    story: str
    replay: dict[str, Any]
    counters: dict[str, int]
    kinds: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    hung: bool = False
    steps: tuple[str, ...] = ()
    hang: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON form."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"steps": list(self.steps)}


def counted(number: int, what: str) -> str:
    """Return a count with its noun, in words."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def exercised(counters: Counter[str], kinds: Counter[str], target: str, skipped: dict[str, str]) -> str:
    """Return some lines about a run without a finding. `kinds`: counts of operations."""
    done = ", ".join(counted(counters[what + "s"], what) for what in ("operation", "round", "rest"))
    lines = [
        f"nothing wrong: {done}, on {target}",
        *(f"{kind:<16}{count:>9}" for kind, count in kinds.most_common() if count > 0),
    ]
    for what, why in sorted(skipped.items()):
        lines.append(f"{'tried in part' if kinds[what] > 0 else 'not tried'}: {what}: {why}")
    return "\n".join(lines)
