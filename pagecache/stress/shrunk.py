"""What comes of a shrink: the smallest that fails, or a sentence that says why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pagecache.stress.report import Report

__all__ = ["NotFailing", "Shrunk"]


class NotFailing(Exception):
    """There is nothing to shrink, or it did not fail again: a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What came of it.

    Attributes:
        report: of the smallest round that failed; `report.replay` has its script.
        story: what it does, in order, and what is wrong; for people.
        test: a file for pytest that runs it; "" where the target has no name that a file could have.
        operations, workers: how many are left; `before`: how many there were.
        rate: how often the smallest failed when it was measured; `tries`: how many runs there were in all.
        seconds: how long it took.
    """

    report: Report
    story: str
    test: str
    operations: int
    workers: int
    before: tuple[int, int]
    rate: float
    tries: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"report": self.report.to_dict(), "before": list(self.before)}
