"""Tools to test a backend, or a program on top of the cache: faults, delays, and a suite that checks a backend's
promises.

`BackendConformance` is for pytest, and uses it if it is installed: it is imported on first access by name.
"""

from typing import TYPE_CHECKING, Any

from .faults import OPERATIONS, TOO_MANY, Call, FaultPlan, Rule
from .faulty import FaultyBackend
from .gate import Gate
from .latency import LatencyBackend

if TYPE_CHECKING:
    from .conformance import BackendConformance as BackendConformance

__all__ = ["OPERATIONS", "TOO_MANY", "Call", "FaultPlan", "FaultyBackend", "Gate", "LatencyBackend", "Rule"]


def __getattr__(name: str) -> Any:
    if name == "BackendConformance":
        from .conformance import BackendConformance

        return BackendConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
