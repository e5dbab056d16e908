"""The stress tester finds planted bugs with named settings, schedules of the core find some more, and nothing is found
where there is none. All of it: `make soak`.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from . import mutations
from .mutations import CLEAN, PAGE, SCHEDULES, hunted, measured, page, scheduled
from .planted import DEBUG_EXTENSION
from .settings import LOOKED, SCHEDULED, SETTINGS, WAITS, WORLDS, settings_of
from .table import BUGS

NAMES = [bug.name for bug in BUGS]
SECONDS = 60.0
SEEDS = range(1, 6)
QUICK = [
    "what_failed_is_dirty_again",
    "short_answer_is_short",
    "flight_is_not_changed",
    "rest_of_a_new_page_is_zeroed",
    "what_is_cut_leaves_the_cache",
    "direct_write_invalidates",
    "remove_leaves_the_cache",
    "write_through_returns_early",
    "close_hands_nothing_over",
    "faulting_source_is_copied_in_place",
]
"""Each is found in less than three seconds, more often than not."""


@pytest.fixture(autouse=True)
def _debug() -> None:
    if not any(DEBUG_EXTENSION.glob("_core.*so")):
        pytest.fail("there is no debug extension: make debug-extension")
    if not SCHEDULES.exists():
        pytest.fail("there are no schedules: make run-schedules")


def outcome(bug: str, settings: str, seed: int) -> str:
    """The kind of finding; "" for none."""
    found: dict[str, Any] = hunted(bug, settings, seed, SECONDS)
    return f"{found['found']}\n{found['story']}".strip()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", QUICK)
def test_the_tester_finds_a_bug(bug: str) -> None:
    """At one seed, within a minute."""
    assert outcome(bug, settings_of(bug), 1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", SCHEDULED)
def test_schedules_of_the_core_find_a_bug(bug: str) -> None:
    """At one seed, within a minute; the schedule is named, so that it can be played again."""
    found = scheduled(bug, SCHEDULED[bug], 1, SECONDS)
    assert found["found"] == "schedule"
    assert f"--replay {SCHEDULED[bug]}:" in found["story"]


def test_schedules_of_the_core_find_nothing_where_nothing_is_planted() -> None:
    """For a moment."""
    found = scheduled(CLEAN, WORLDS[0], 1, 1.0)
    assert (found["found"], found["story"]) == ("", "")
    assert found["operations"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bug", SCHEDULED)
def test_schedules_of_the_core_find_every_bug_of_theirs(bug: str, seed: int) -> None:
    """At every seed, within a minute."""
    assert scheduled(bug, SCHEDULED[bug], seed, SECONDS)["found"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bug", NAMES)
def test_the_tester_finds_every_bug(bug: str, seed: int) -> None:
    """At every seed, within a minute."""
    if bug in WAITS:
        pytest.skip(WAITS[bug])
    assert outcome(bug, settings_of(bug), seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_find_nothing_where_nothing_is_planted(settings: str, seed: int) -> None:
    """For as long as a bug may take."""
    assert outcome(CLEAN, settings, seed) == ""


def test_every_bug_is_looked_for() -> None:
    """Measured with the settings that it has now, at five seeds; or said to be open, and why."""
    known, deeper = measured()["bugs"], measured()["scheduled"]
    again = "measure it again: python -m tests.planted.mutations"
    assert sorted(known) == sorted(NAMES)
    assert sorted(deeper) == sorted(SCHEDULED)
    assert set(LOOKED) | set(SCHEDULED) <= set(NAMES)
    assert {settings_of(name) for name in NAMES} <= set(SETTINGS)
    for name, entry in known.items():
        assert entry["settings"] == settings_of(name), f"{again} {name}"
        assert [run["seed"] for run in entry["runs"]] == list(SEEDS), f"{again} {name}"
    for name, entry in deeper.items():
        assert entry["world"] == SCHEDULED[name], f"{again} {name}"
        assert [run["seed"] for run in entry["runs"]] == list(SEEDS), f"{again} {name}"


def test_every_bug_is_found_at_every_seed() -> None:
    """By the tester; or it is said why not, and schedules of the core find it."""
    known = measured()
    missed = {name for name, entry in known["bugs"].items() if not all(run["found"] for run in entry["runs"])}
    assert missed <= set(WAITS)
    assert missed <= set(SCHEDULED)
    assert all(run["found"] for entry in known["scheduled"].values() for run in entry["runs"])


def test_what_is_quick_was_quick() -> None:
    for name in QUICK:
        runs = measured()["bugs"][name]["runs"]
        assert all(run["found"] for run in runs), name
        assert statistics.median(run["seconds"] for run in runs) < 3, name


def test_what_was_measured_without_a_bug_was_clean() -> None:
    """With the settings as they are now."""
    for name, plan in SETTINGS.items():
        entry = measured()["clean"][name]
        assert entry["plan"] == plan, f"measure it again: python -m tests.planted.mutations {name}"
        assert [run["found"] for run in entry["runs"]] == [""], name
    for world in WORLDS:
        assert [run["found"] for run in measured()["worlds"][world]["runs"]] == [""], world


def test_the_page_is_up_to_date() -> None:
    """`python -m tests.planted.mutations --page` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/mutations.md is old"


def test_a_seed_that_finds_nothing_is_told() -> None:
    """The worst time is what was not enough then."""
    run = {"found": "data", "seconds": 1.0, "operations": 9, "story": ""}
    entry = {"settings": "slow", "seconds": 60.0, "runs": [run, run | {"found": "hang"}, run | {"found": ""}]}
    bug = BUGS[0]
    assert mutations._row(bug, entry) == (
        f"| `{bug.name}` | {bug.rule} | slow | 2 of 3 | 1.0 s | over 60 s | data, hang |"
    )


def test_a_process_that_stands_still_or_dies_has_found_something() -> None:
    """The last line it said, and whether it has ended; nothing planted, nothing found."""
    found = hunted("faulting_source_is_copied_in_place", "small", 1, SECONDS)
    assert (found["found"], found["story"].split()[0]) == ("death", "SIGBUS")
    clean = hunted(CLEAN, "small", 1, 1.0)
    assert (clean["found"], clean["story"]) == ("", "")
    assert clean["operations"] > 0
