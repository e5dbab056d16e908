"""Each patch takes one fix out of the present sources, and bugs are found with named settings, quickly. All of them,
and the settings without a bug: `make mutations`.
"""

from __future__ import annotations

import pytest

from .mutations import BUGS, CLEAN, PLANTED, WORLDS, hunted, scheduled
from .patches import outdated, planted
from .settings import SETTINGS

SECONDS = 60.0
TESTED = [name for name, bug in BUGS.items() if bug.searcher == "test"]
SCHEDULED = [name for name, bug in BUGS.items() if bug.searcher == "schedules"]
QUICK = {
    "returned_bytes_are_rolled_back": "data",
    "late_answer_only_ends_the_flight": "data",
    "close_writes_nothing_back": "data",
    "store_acknowledges_and_forgets": "data",
    "faulting_source_is_copied_in_place": "death",
}
"""Bugs that are found in less than three seconds, more often than not, and their findings: of C, of C and Python, of
Python, of a store; and one that ends the process.
"""


@pytest.fixture
def built() -> None:
    if outdated(PLANTED) or not any(PLANTED.glob("pagecache/_native/_core.*so")):
        pytest.fail("the builds with planted bugs are missing or old: make planted")


@pytest.mark.parametrize("name", BUGS)
def test_a_patch_takes_out_the_fix_of_its_name_alone(name: str) -> None:
    """It also fits without the others, and is searched for; the sources of the package have no switch."""
    bug = BUGS[name]
    assert bug.place in SETTINGS if bug.searcher == "tester" else bug.searcher in ("schedules", "test", "C test")
    for path, text in planted({name: bug.patch}).items():
        assert text.count("PC_FIX") == text.count(f'PC_FIX("{name}")') > 0
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.usefixtures("built")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", QUICK)
def test_the_tester_finds_a_bug(bug: str) -> None:
    """It takes one seed, and less than a minute."""
    assert hunted(bug, BUGS[bug].place, 1, SECONDS)["found"] == QUICK[bug]


@pytest.mark.usefixtures("built")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", SCHEDULED)
def test_schedules_of_the_core_find_a_bug(bug: str) -> None:
    """It takes one seed, and less than a minute; the report names the schedule, so that it can be played again."""
    found = scheduled(bug, BUGS[bug].place, 1, SECONDS)
    assert found["found"] == "schedule"
    assert f"--replay {BUGS[bug].place}:" in found["story"]


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("bug", TESTED)
def test_a_named_test_finds_a_bug(bug: str) -> None:
    assert hunted(bug, BUGS[bug].place, 1, SECONDS)["found"] == "test"


@pytest.mark.usefixtures("built")
def test_nothing_is_found_where_nothing_is_planted() -> None:
    tests = " ".join({BUGS[name].place for name in TESTED})
    for outcome in (scheduled(CLEAN, WORLDS[0], 1, 1.0), *(hunted(CLEAN, place, 1, 1.0) for place in ("small", tests))):
        assert not outcome["found"], outcome["story"]
