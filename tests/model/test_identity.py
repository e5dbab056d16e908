"""Every order of a few calls that change names, save, read and open objects keeps the promises; each rule is needed."""

from __future__ import annotations

import pytest

from .checker import Found
from .identity import ALL, GUARDS, LATE, late_requests, runs


def counterexample(without: str) -> Found | None:
    """Return a broken promise of the rules without one of them."""
    found = (run() for _, run in runs(ALL - {without}))
    return next((result for result in found if result.broken), None)


def test_all_rules_together_keep_every_promise() -> None:
    """No bytes of another object are read, no acknowledged or unsaved byte is lost without a report, no removed object
    comes back, no foreign version is overwritten or deleted unseen, and every call can end. [I-22, I-23, I-24]
    """
    for name, run in runs(ALL):
        result = run()
        assert not result.broken, f"{name}: {' | '.join(result.trace)}"


@pytest.mark.parametrize("guard", GUARDS)
def test_each_rule_is_needed(guard: str) -> None:
    """Without it some order breaks a promise."""
    assert counterexample(guard) is not None


@pytest.mark.parametrize("name", LATE)
def test_a_request_that_was_given_up_may_land_later(name: str) -> None:
    """Conditions refuse it, except for the first put of a new object and an unconditional delete."""
    result, expected = late_requests(name)
    assert result.broken == expected, result.trace
