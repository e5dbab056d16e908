"""Shared by directed scenarios: their register, their content, and the time limits of calls."""

from __future__ import annotations

from collections.abc import Callable

from ..file.rig import PAGE, Rig, pattern

__all__ = ["MOMENT", "NEW", "OLD", "SCENARIOS", "SOON", "Make", "shows"]

Make = Callable[..., Rig]
OLD = pattern(8 * PAGE)
NEW = pattern(8 * PAGE, seed=5)
SOON = 60.0
"""Seconds for a call that should return, however busy the machine; with a bug a child has fewer."""
MOMENT = 1.0
"""Seconds in which a call that should wait may show that it does not."""
SCENARIOS: dict[str, Callable[[Make], None]] = {}


def shows(*names: str) -> Callable[[Callable[[Make], None]], Callable[[Make], None]]:
    """Register the scenario of these bugs."""

    def register(scenario: Callable[[Make], None]) -> Callable[[Make], None]:
        SCENARIOS.update(dict.fromkeys(names, scenario))
        return scenario

    return register
