"""What came of a run, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a run.

    Attributes:
        ok: nothing was found.
        story: a few lines for a person: what went wrong, or what was exercised.
        replay: feeds `Plan.from_replay` and `pagecache stress --replay`.
        counters: how often what was done.
        coverage: "operation | operation beside it | state of the first byte" -> how often.
        skipped: what the target cannot do -> why.
        kind: of what was found: "data", "error", "hang", "check" or "crash"; "" where nothing was.
        hung: threads were left behind that wait for something.
        schedule: of the deterministic scheduler: how many points and switches, and a digest of all of them.
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

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "ok": self.ok,
            "kind": self.kind,
            "story": self.story,
            "replay": self.replay,
            "counters": self.counters,
            "coverage": self.coverage,
            "skipped": self.skipped,
            "hung": self.hung,
            "schedule": self.schedule,
        }


def exercised(
    counters: Counter[str], coverage: Counter[tuple[str, str, str]], target: str, skipped: dict[str, str]
) -> str:
    """What a run without a finding did, in a few lines."""
    pairs = {(one, other) for one, other, _state in coverage if other}
    states = Counter[str]()
    for (_one, _other, state), count in coverage.items():
        states[state] += count
    lines = [
        f"{target}: {counters['operations']} operations in {counters['rounds']} rounds, {counters['rests']} rests, "
        "nothing wrong",
        f"{len(pairs)} pairs of operations met on the same bytes; first bytes were "
        + ", ".join(f"{state} {count}" for state, count in states.most_common()),
    ]
    lines += [f"not tried: {what}: {why}" for what, why in sorted(skipped.items())]
    return "\n".join(lines)
