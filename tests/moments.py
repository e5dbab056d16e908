"""A change at a moment inside of a call: `at_next_call(patch, server.names, "status", rename)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["at_next_call"]


def at_next_call(
    patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object], *, after: bool = False
) -> None:
    """Make the next call of a function meet what `act` does: right before its work, or right after it."""
    call = getattr(owner, name)

    def met(*arguments: Any, **options: Any) -> Any:
        patch.setattr(owner, name, call)
        if not after:
            act()
            return call(*arguments, **options)
        found = call(*arguments, **options)
        act()
        return found

    patch.setattr(owner, name, met)
