"""Planted mistakes: the power cuts and the damage of the other tests find each of them."""

from __future__ import annotations

import inspect
import random
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from pagecache.disk import journal, records, recovery
from pagecache.disk.journal import Journal
from pagecache.disk.recovery import Recovered, Unsaved

from .test_journal import damaged_world
from .test_journal import test_damage_of_any_sector_is_a_loss_of_exactly_its_bytes as check_damage
from .test_power_cuts import WORKLOAD, counterexample, cuts, played
from .world import recovered

MISTAKES: dict[str, tuple[Callable[..., Any] | None, str, str, str]] = {
    # The mistake: function, text, other text, search that finds it.
    "no fdatasync": (Journal._sync_all, "record(calls)", "attempt.done.extend(None for _ in attempt.segments)", "cuts"),
    "only the current segment is synced": (
        Journal._sync_all,
        "list(self._unsynced)",
        "list(self._unsynced)[-1:]",
        "chance",
    ),
    "confirmed before the sync": (
        Journal._sync_all,
        "attempt = _Attempt(self._counts",
        "self._confirmed = self._counts; attempt = _Attempt(self._counts",
        "failures",
    ),
    "only heads have a checksum": (records.bad_blocks, "return bad", "return []", "damage"),
    "older bytes win at recovery": (Unsaved.finish, "reversed(self.content)", "self.content", "cuts"),
    "holes come last": (
        Unsaved.finish,
        "reversed(self.content)",
        "sorted(self.content, key=lambda c: (c.head.kind == Kind.HOLE, c.head.lsn), reverse=True)",
        "cuts",
    ),
    "a cut is forgotten when the file grows again": (
        Unsaved.finish,
        "elif head.kind == Kind.SIZE:",
        "elif head.kind == Kind.SIZE and head.offset < 0:",
        "cuts",
    ),
    "a segment is removed with unsaved records": (Journal._pins, "return file is not None", "return False", "cuts"),
    "a segment is removed before SAVED is confirmed": (
        Journal._removable,
        " or file.stated > self._confirmed or number in self._restates",
        "",
        "failures",
    ),
    "the state of a file is not restated": (
        Journal._write,
        "file.segment != segment.number and record.kind != Kind.FILE",
        "False",
        "cuts",
    ),
    "a restated creation outlives its save": (
        Unsaved.settle,
        " and (head.kind != Kind.FILE or self.state.created)",
        "",
        "cuts",
    ),
    "records of a failed sync count": (
        Journal._sync_all,
        "self._poison(attempt.failure)",
        "self._confirmed = attempt.last",
        "failures",
    ),
    "a failed sync begins no segment": (Journal._poison, "self._current = None", "pass", "failures"),
    "a torn tail is a loss": (Recovered._ends_before, "if expected <= evidence", "if True", "cuts"),
    "a torn record counts": (Recovered._counted, "found.bad and lsn > evidence", "False", "cuts"),
    "a gap does not end the log": (Recovered._ends_before, "return lsn - 1 > evidence", "return False", "chance"),
    "damage is skipped in silence": (Recovered._lose, "self.lost.append(Lost(first, last, segment))", "pass", "damage"),
    "damaged bytes are not there": (recovery.split, "yield Piece(a, b, head, True)", "pass", "damage"),
    "no echo is read": (Recovered._scan, "echo.position >= at", "False", "echo"),
    "SAVED before the save": (None, "", "", "world"),
    "fsync does not wait": (None, "", "", "world"),
}


def plant(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], old: str, new: str) -> None:
    """Replace a function by one with another text."""
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source, f"{function} has no {old!r}"
    module = inspect.getmodule(function)
    assert module is not None
    made: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source.replace(old, new, 1), module.__dict__, made)
    owner: Any = module
    for name in function.__qualname__.split(".")[:-1]:
        owner = getattr(owner, name)
    monkeypatch.setattr(owner, function.__name__, made[function.__name__])
    for importer in (journal, recovery):
        if getattr(importer, function.__name__, None) is function:
            monkeypatch.setattr(importer, function.__name__, made[function.__name__])


def found_by_cuts(mistake: str = "") -> str:
    world = played(WORKLOAD, mistake)
    for at, disk in cuts(world, 100, 1):
        if reason := world.check(recovered(disk), at):
            return reason
    return ""


def found_by_damage() -> str:
    try:
        check_damage()
    except (AssertionError, OSError) as error:
        return str(error) or "an assertion"
    return ""


def lost_heads() -> str:
    """Return a text if a damaged head of a large record costs its bytes."""
    disk, _, _ = damaged_world()
    content = disk.content("j/00000001.journal")
    at = content.find(records.MAGIC, content.find(bytes([1]) * 100) + 4000)
    content[at : at + 64] = random.Random(1).randbytes(64)
    return "a record is lost" if recovery.recover("j", disk).lost else ""


SEARCHES: dict[str, Callable[[], str]] = {
    "cuts": found_by_cuts,
    "chance": lambda: next((r for seed in range(20) if (r := counterexample(seed, most=20))), ""),
    # Few workloads find a segment that goes too early: 16 is one, and short.
    "failures": lambda: next((r for seed in (16, *range(30)) if (r := counterexample(seed, most=12, fails=True))), ""),
    "damage": found_by_damage,
    "echo": lost_heads,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_search_finds_the_mistake(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, old, new, search = MISTAKES[name]
    if search == "world":
        assert found_by_cuts({"SAVED before the save": "saved before the save"}.get(name, "no sync"))
        return
    assert function is not None
    plant(monkeypatch, function, old, new)
    try:
        reason = SEARCHES[search]()
    except Exception as error:  # a wrong journal may fail at once
        reason = repr(error)
    print(name, "→", reason[:150])
    assert reason


def test_without_a_mistake_the_searches_find_nothing() -> None:
    assert found_by_cuts() == found_by_damage() == lost_heads() == ""
