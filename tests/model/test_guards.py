"""Every order of a few calls that change names, save, read and open objects keeps the promises, and so does every order
of writes, fsyncs, saves and power cuts of a journal; each rule is needed.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from . import identity, redo
from .identity import LATE, late_requests


@pytest.mark.parametrize("model", [identity, redo])
def test_all_rules_together_keep_every_promise(model: ModuleType) -> None:
    """Of names: no bytes of another object are read, no acknowledged or unsaved byte is lost without a report, no
    removed object comes back, no foreign version is overwritten or deleted unseen, and every call can end. Of a
    journal: no promised byte is lost, no content is a mixture, nothing older is saved over newer bytes. [I-22, I-23,
    I-24]
    """
    for name, run in model.runs(frozenset(model.GUARDS)):
        found = run()
        assert not found.broken, f"{name}: {found}"


@pytest.mark.parametrize(("model", "guard"), [(model, guard) for model in (identity, redo) for guard in model.GUARDS])
def test_each_rule_is_needed(model: ModuleType, guard: str) -> None:
    """Without it some order breaks a promise."""
    assert any(run().broken for _, run in model.runs(frozenset(model.GUARDS) - {guard}))


@pytest.mark.parametrize("name", LATE)
def test_a_request_that_was_given_up_may_land_later(name: str) -> None:
    """Conditions refuse it, except for the first put of a new object and an unconditional delete."""
    result, expected = late_requests(name)
    assert result.broken == expected, str(result)
