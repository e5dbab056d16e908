"""Every order of writes, fsyncs, saves and power cuts keeps the promises of a journal; each rule is needed."""

from __future__ import annotations

import pytest

from .redo import GUARDS, State, search

ALL = frozenset(GUARDS)
START = State(writes=2, saves=1, cuts=2, failures=1)


def test_all_rules_together_keep_every_promise() -> None:
    """No promised byte is lost, no content is a mixture, nothing older is saved over newer bytes."""
    found = search(ALL, START)
    assert not found.broken, " | ".join(found.trace)


@pytest.mark.parametrize("rule", GUARDS)
def test_each_rule_is_needed(rule: str) -> None:
    """Without it some order breaks a promise."""
    assert search(ALL - {rule}, START).broken
