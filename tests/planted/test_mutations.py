"""The stress tester finds planted bugs with named settings, schedules of the core find some more, and nothing is found
without a bug. All of it: `make mutations`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from . import mutations
from .mutations import CLEAN, SCHEDULES, fault, hunted, page, scheduled
from .planted import PLANTED_EXTENSION
from .settings import SCHEDULED, SEARCHED, SETTINGS, WAITS, WORLDS, settings_of
from .table import BUGS

NAMES = [bug.name for bug in BUGS]
SECONDS = 60.0
QUICK = [
    "failed_bytes_are_dirty_again",
    "short_answer_is_short",
    "flight_is_not_changed",
    "rest_of_a_new_page_is_zeroed",
    "cut_pages_leave_the_cache",
    "direct_write_invalidates",
    "remove_leaves_the_cache",
    "write_through_returns_early",
    "close_writes_nothing_back",
    "faulting_source_is_copied_in_place",
]
"""Bugs that are found in less than three seconds, more often than not."""


@pytest.fixture(autouse=True)
def _planted() -> None:
    if not any(PLANTED_EXTENSION.glob("_core.*so")) or not SCHEDULES.exists():
        pytest.fail("there are no builds with planted bugs: make planted")


def outcome(bug: str, settings: str, seed: int) -> str:
    """The kind of finding; "" for none."""
    found: dict[str, Any] = hunted(bug, settings, seed, SECONDS)
    return f"{found['found']}\n{found['story']}".strip()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", QUICK)
def test_the_tester_finds_a_bug(bug: str) -> None:
    """It takes one seed, and less than a minute."""
    assert outcome(bug, settings_of(bug), 1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", SCHEDULED)
def test_schedules_of_the_core_find_a_bug(bug: str) -> None:
    """It takes one seed, and less than a minute; the report names the schedule, so that it can be played again."""
    found = scheduled(bug, SCHEDULED[bug], 1, SECONDS)
    assert found["found"] == "schedule"
    assert f"--replay {SCHEDULED[bug]}:" in found["story"]


def test_schedules_of_the_core_find_nothing_where_nothing_is_planted() -> None:
    """For a moment."""
    found = scheduled(CLEAN, WORLDS[0], 1, 1.0)
    assert (found["found"], found["story"]) == ("", "")
    assert found["operations"] > 0


def test_every_bug_has_settings() -> None:
    """A bug that the tester does not find at each seed has a reason, and schedules of the core that find it."""
    assert set(SEARCHED) | set(SCHEDULED) <= set(NAMES)
    assert {settings_of(name) for name in NAMES} <= set(SETTINGS)
    assert set(SCHEDULED.values()) <= set(WORLDS)
    assert set(WAITS) <= set(SCHEDULED)
    assert set(QUICK) <= set(NAMES) - set(WAITS)


def test_the_page_lists_measured_bugs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is made from results that may be missing or incomplete."""
    monkeypatch.setattr(mutations, "MEASURED", tmp_path / "mutations.json")
    assert f"0 of {len(BUGS)} are found at every seed" in page()
    run = {"found": "data", "seconds": 1.0, "operations": 9, "story": "", "seed": 1}
    entry = {"settings": "slow", "seconds": 60.0, "cpus": 2, "load": 1.0, "runs": [run]}
    mutations.MEASURED.write_text(json.dumps({"bugs": {NAMES[0]: entry}}))
    assert f"1 of {len(BUGS)} are found at every seed" in page()
    assert f"| `{NAMES[0]}` |" in page()


def test_a_seed_that_finds_nothing_is_reported() -> None:
    """The worst time is then the time limit that was not enough."""
    run = {"found": "data", "seconds": 1.0, "operations": 9, "story": ""}
    entry = {"settings": "slow", "seconds": 60.0, "runs": [run, run | {"found": "hang"}, run | {"found": ""}]}
    bug = BUGS[0]
    assert mutations._row(bug, entry) == (
        f"| `{bug.name}` | {bug.rule} | slow | 2 of 3 | 1.0 s | over 60 s | data, hang |"
    )


def test_a_missed_bug_and_a_finding_without_a_bug_are_faults() -> None:
    hit, miss = {"found": "data", "seed": 1}, {"found": "", "seed": 2}
    assert fault(NAMES[0], "bugs", [hit]) == ""
    assert fault(NAMES[0], "bugs", [hit, miss]) == "missed at seeds 2"
    for bug in WAITS:  # schedules find it, not the tester
        assert fault(bug, "bugs", [hit, miss]) == ""
        assert fault(bug, "scheduled", [hit, miss]) == "missed at seeds 2"
    for part in ("clean", "worlds"):
        assert fault("small", part, [miss]) == ""
        assert fault("small", part, [hit, miss]) == "found without a bug: data"


def test_a_process_that_stands_still_or_dies_has_found_something() -> None:
    """The test covers the last line it printed, and whether it has ended; with nothing planted, nothing is found."""
    found = hunted("faulting_source_is_copied_in_place", "small", 1, SECONDS)
    assert (found["found"], found["story"].split()[0]) == ("death", "SIGBUS")
    clean = hunted(CLEAN, "small", 1, 1.0)
    assert (clean["found"], clean["story"]) == ("", "")
    assert clean["operations"] > 0
