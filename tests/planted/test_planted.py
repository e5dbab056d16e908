"""Each planted bug is real: its scenario fails with it and passes without. Nasty and legal stores lose nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import repeat
from pathlib import Path

import pytest

from pagecache.backends import MemoryBackend

from .core import CORE, UNPLANTED
from .directed import SCENARIOS
from .planted import DEBUG_EXTENSION, Legal, Planted, debug_environment
from .shown_stores import LIVES, life
from .table import BUGS, LEGAL

pytestmark = pytest.mark.timeout(600)  # a child for each bug, and all of them before the first test
ROOT = Path(__file__).parents[2]
SWITCHED = [bug for bug in BUGS if bug.kind in ("core", "engine")]
STORES = [bug for bug in BUGS if bug.kind in ("backend", "cache")]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[str]]:
    """The outcomes of all directed scenarios, in one process with the debug extension and a child each."""
    if not any(DEBUG_EXTENSION.glob("_core.*so")):
        pytest.fail("there is no debug extension: make debug-extension")
    command = [sys.executable, "-m", "tests.planted.directed"]
    run = subprocess.run(
        command, cwd=ROOT, env=debug_environment(), capture_output=True, text=True, timeout=500, check=True
    )
    found: dict[str, list[str]] = json.loads(run.stdout)
    return found


def test_the_table_is_whole() -> None:
    """There are at least 36 bugs, each with a unique name, a sentence, a rule; and a demonstration."""
    assert len(BUGS) >= 36
    assert len({bug.name for bug in BUGS} | {legal.name for legal in LEGAL}) == len(BUGS) + len(LEGAL)
    assert sorted(SCENARIOS) == sorted(bug.name for bug in SWITCHED)
    for bug in BUGS:
        assert ":" in bug.sentence, bug.name  # the mistake, and the user's loss
        assert bug.rule, bug.name
        assert (bug.target is not None) == (bug.kind in ("backend", "cache") or bug.name == "rebase_keeps_uploads")


def test_each_fix_that_a_debug_build_can_go_without_is_planted_or_said_to_be_of_no_use() -> None:
    """The list has exactly the fixes named in the sources of the core."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "pagecache" / "_native").glob("*/*.c"))
    fixes = {name for source in sources for name in re.findall(r'PC_FIX\("(\w+)"\)', source)}
    assert fixes == {bug.name for bug in CORE} | set(UNPLANTED)
    assert not {bug.name for bug in CORE} & set(UNPLANTED)


@pytest.mark.long
@pytest.mark.parametrize("bug", SWITCHED, ids=lambda bug: bug.name)
def test_the_switch_makes_a_bug(bug: Planted, outcomes: dict[str, list[str]]) -> None:
    """Without it the scenario passes, and the cache is sound; with it, it does not.

    [T-04, T-07, T-14, T-18, T-26, T-63, T-73, T-75a]
    """
    without, planted = outcomes[bug.name]
    assert without == "ok"
    assert planted != "ok"


@pytest.mark.parametrize("bug", STORES, ids=lambda bug: bug.name)
def test_the_store_loses_bytes(bug: Planted) -> None:
    """Some short life of an object shows it."""
    assert bug.target is not None
    for seed in range(LIVES):
        try:
            life(bug.target(), seed)
        except AssertionError:
            return
    pytest.fail("nothing was lost")


@pytest.mark.parametrize("store", LEGAL, ids=lambda store: store.name)
def test_a_legal_store_loses_nothing(store: Legal) -> None:
    """This holds however nasty it is."""
    for seed in range(LIVES):
        life(store.target(), seed)


def test_a_plain_store_loses_nothing() -> None:
    """The check that finds the broken stores accepts a correct one."""
    for seed in range(LIVES):
        life(repeat(MemoryBackend()).__next__, seed)


def test_a_module_runs_with_a_bug_and_the_table_is_printed() -> None:
    """`python -m tests.planted`, and with a bug: here one that a check for the patch detects."""
    command = [sys.executable, "-m", "tests.planted"]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert all(bug.sentence in table for bug in BUGS)
    words = [
        *command,
        "loss_is_told_to_nobody",
        "timeit",
        "-n1",
        "-r1",
        "-s",
        "from pagecache.volume.inode import Inode",
    ]
    words += ["assert Inode.record_loss.__name__ == '<lambda>'"]
    assert "1 loop" in subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_installed_extension_keeps_its_fixes() -> None:
    """An attempt to take one out gets an error with the necessary steps."""
    with pytest.raises(RuntimeError, match="make debug-extension"), BUGS[0].on():
        pass
