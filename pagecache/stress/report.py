"""What came of a run, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "counted", "exercised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a run.

    Attributes:
        ok: nothing was found.
        story: a few lines for a person: what went wrong, or what was exercised.
        replay: feeds `Plan.from_replay` and `pagecache stress --replay`.
        counters: how often what was done.
        coverage: "operation | beside another | state", "operation | after another | state", "operation | alone | state"
            -> how often: see coverage.py; `kinds`: which operations could have met each other.
        skipped: what the target cannot do -> why.
        kind: of what was found: "data", "error", "hang", "check" or "crash"; "" where nothing was.
        hung: threads were left behind that wait for something.
        schedule: of the deterministic scheduler: how many points and switches, and a digest of all of them.
        steps: what was done to the bytes that are wrong, in order, a sentence each.
        timeline: the same for a picture: see timeline.py.
        hang: who waited for what: see hang.py.
    """

    ok: bool
    story: str
    replay: dict[str, Any]
    counters: dict[str, int]
    coverage: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    hung: bool = False
    schedule: dict[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    timeline: dict[str, Any] = field(default_factory=dict)
    hang: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "ok": self.ok,
            "kind": self.kind,
            "story": self.story,
            "replay": self.replay,
            "counters": self.counters,
            "coverage": self.coverage,
            "kinds": list(self.kinds),
            "skipped": self.skipped,
            "hung": self.hung,
            "schedule": self.schedule,
            "steps": list(self.steps),
            "timeline": self.timeline,
            "hang": self.hang,
        }


def counted(number: int, what: str) -> str:
    """Some of them, in words."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def exercised(
    counters: Counter[str], table: list[str], target: str, skipped: dict[str, str], kinds: Collection[str] = ()
) -> str:
    """What a run without a finding did, in a few lines. `kinds`: of operations that were done at least once."""
    done = ", ".join(counted(counters[what + "s"], what) for what in ("operation", "round", "rest"))
    lines = [
        f"nothing wrong: {done}, on {target}",
        *table,
    ]
    for what, why in sorted(skipped.items()):
        lines.append(f"{'tried in part' if what in kinds else 'not tried'}: {what}: {why}")
    return "\n".join(lines)
