"""A checker that finds nothing proves nothing: each rule of the model is taken out once, and that has to be found.

A mistake is found by a promise that breaks, or by an invariant of the contract; the entry says which, and in which
scenario. The other invariants are left out, so that the finding shows the purpose of the rule and not a symptom on the
way.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .checker import PROPERTIES, explore
from .rules import RULES, Rules
from .scenarios import SCENARIOS


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_mistake_is_found(rule: str, record_property: Callable[[str, object], None]) -> None:
    """One rule is inverted, all others hold. [1.3, 2.15, 2.17]"""
    breaks, scenario = RULES[rule]
    result = explore(SCENARIOS[scenario], Rules(rule), frozenset({*PROPERTIES, "I-11", "T-61"} - {breaks}))
    assert result.violation.startswith(breaks), f"not found without {rule}: {result}"
    record_property("size", f"without {rule}: {breaks} after {len(result.trace) - 1} steps")
