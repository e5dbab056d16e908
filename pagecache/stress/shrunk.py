"""The result of a shrink: the smallest failing candidate, or a sentence that explains why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pagecache.stress.report import Report

__all__ = ["NotFailing", "Shrunk"]


class NotFailing(Exception):
    """There is no failure to shrink, or it did not repeat; the text is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The result of a shrink.

    Attributes:
        report: of the smallest failing round; `report.replay` has its script.
        story: its operations, in order, and the failure; for people.
        test: a file for pytest that runs it; "" if the target has no name that a file could use.
        operations, workers: how many are left; `before`: how many there were.
        rate: measured failure rate of the smallest candidate; `tries`: number of all runs.
        seconds: duration.
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
        """Return all of it in JSON form."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"report": self.report.to_dict(), "before": list(self.before)}
