"""Every state of every scenario: under the rules of the contract nothing is lost, promised wrongly, or waited for
forever.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .checker import explore
from .rules import RIGHT, Scenario
from .scenarios import LARGE, SCENARIOS


def check_scenario(scenario: Scenario, record_property: Callable[[str, object], None], most: int = 400_000) -> None:
    result = explore(scenario, RIGHT, most=most)
    assert not result.violation, str(result)
    record_property("size", f"{scenario.name}: {result}")


# More than 50,000 states each.
WIDE = ["truncate, direct write, fsync and sync", "failing commits", "abort and reconnect twice"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in WIDE)) for name in SCENARIOS])
def test_no_interleaving_breaks_a_promise(name: str, record_property: Callable[[str, object], None]) -> None:
    """Two blocks and a few actors run in every order of their steps and of the backend's answers and failures. [I-3,
    I-10, I-12, I-18, I-19, I-20, I-22, M1, M5]
    """
    check_scenario(SCENARIOS[name], record_property)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LARGE)
def test_no_interleaving_of_many_actors_breaks_a_promise(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    """Run the test above with more actors and more failures side by side. [I-18, I-19, I-20, I-22]"""
    check_scenario(LARGE[name], record_property, most=4_000_000)
