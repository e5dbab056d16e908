"""Every state of every scenario: under the rules of the contract nothing is lost, promised wrongly, or waited for
forever; and without any of them something is.

A checker that finds nothing proves nothing: each rule of the model is taken out once, and that has to be found.
"""

from __future__ import annotations

import pytest

from .checker import PROPERTIES, explore
from .rules import RIGHT, RULES, Rules
from .scenarios import LARGE, SCENARIOS

# More than 50,000 states each.
WIDE = ["truncate, direct write, fsync and sync", "failing commits", "abort and reconnect twice"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in WIDE)) for name in SCENARIOS])
def test_no_interleaving_breaks_a_promise(name: str) -> None:
    """Two blocks and a few actors run in every order of their steps and of the backend's answers and failures. [I-3,
    I-10, I-12, I-18, I-19, I-20, I-22, M1, M5]
    """
    result = explore(SCENARIOS[name], RIGHT)
    assert not result.broken, str(result)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LARGE)
def test_no_interleaving_of_many_actors_breaks_a_promise(name: str) -> None:
    """Run the test above with more actors and more failures side by side. [I-18, I-19, I-20, I-22]"""
    result = explore(LARGE[name], RIGHT, most=4_000_000)
    assert not result.broken, str(result)


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_mistake_is_found(rule: str) -> None:
    """One rule is inverted, all others hold. Its entry names the broken promise or invariant, and the scenario. Other
    invariants are left out, so that the finding shows the purpose of the rule and not a symptom on the way. [1.3, 2.15,
    2.17]
    """
    breaks, scenario = RULES[rule]
    result = explore(SCENARIOS[scenario], Rules(rule), frozenset(PROPERTIES) - {breaks})
    assert result.broken.startswith(breaks), f"not found without {rule}: {result}"
