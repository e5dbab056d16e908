"""Each planted bug is real: its scenario fails with it and passes without. Nasty and legal stores lose nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest

from pagecache.backends import MemoryBackend

from . import sources
from .core import CORE, UNPLANTED
from .directed import SCENARIOS
from .planted import PLANTED_EXTENSION, Legal, Planted, planted_environment
from .shown_stores import LIVES, life
from .table import BUGS, LEGAL

pytestmark = pytest.mark.timeout(600)  # a child for each bug, and all of them before the first test
ROOT = Path(__file__).parents[2]
SWITCHED = [bug for bug in BUGS if bug.kind in ("core", "engine")]
STORES = [bug for bug in BUGS if bug.kind in ("backend", "cache")]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[str]]:
    """The outcomes of all directed scenarios, in one process with the planted extension and a child each."""
    if not any(PLANTED_EXTENSION.glob("_core.*so")):
        pytest.fail("there is no planted extension: make planted")
    command = [sys.executable, "-m", "tests.planted.directed"]
    run = subprocess.run(
        command, cwd=ROOT, env=planted_environment(), capture_output=True, text=True, timeout=500, check=True
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


def fixes_of(text: str) -> set[str]:
    return set(re.findall(r'PC_FIX\("(\w+)"\)', text))


def test_each_patch_is_planted_or_has_a_reason_why_not() -> None:
    """Each patch takes out the fix of its name and no other; the sources of the package have no switch."""
    assert set(sources.patches()) == {bug.name for bug in CORE} | set(UNPLANTED)
    assert not {bug.name for bug in CORE} & set(UNPLANTED)
    for name, path in sources.patches().items():
        assert fixes_of(path.read_text(encoding="utf-8")) == {name}
    assert not any("PC_FIX" in path.read_text(encoding="utf-8") for path in (ROOT / sources.NATIVE).rglob("*.[ch]"))


@pytest.mark.parametrize("name", sources.patches())
def test_a_patch_applies_to_the_present_sources(name: str) -> None:
    """Each hunk fits exactly one place, also without the other patches. If not: correct the patch by hand."""
    for path, text in sources.planted([name]).items():
        assert fixes_of(text) == {name}
        assert text != (ROOT / path).read_text(encoding="utf-8")


def test_the_sources_with_all_patches_compile(tmp_path: Path) -> None:
    """Only the patched files are compiled, and no code is made."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    header = str(ROOT / "tests" / "planted" / "planted.h")
    options = ["-std=c11", "-D_GNU_SOURCE", "-DPC_DEBUG=1", "-fsyntax-only", "-include", header]
    options += [f"-I{folder}" for folder in (ROOT / sources.NATIVE, sysconfig.get_path("include"))]

    def errors(item: tuple[str, str]) -> str:
        path, text = item
        (source := tmp_path / path.replace("/", "_")).write_text(text, encoding="utf-8")
        command = [*compiler, *options, str(source)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert not "".join(pool.map(errors, sources.planted().items()))


def test_a_patch_that_fits_no_place_or_several_is_an_error(tmp_path: Path) -> None:
    """The message has the file and the lines; comments are not compared, and line numbers are not used."""
    (tmp_path / "a.c").write_text("one;\ntwo; /* now */\nthree;\none;\n", encoding="utf-8")
    head = "--- a/a.c\n+++ b/a.c\n@@ -70 +70 @@\n"
    [edit] = sources.edits("x", f"{head} two; /* then */\n-three;\n+four;\n", tmp_path)["a.c"]
    assert edit == sources.Edit(2, 3, ("four;\n",), "x")
    with pytest.raises(ValueError, match=r"x\.patch fits 0 places of a\.c, expected 1, by the lines\nfive;"):
        sources.edits("x", f"{head} five;\n+four;\n", tmp_path)
    with pytest.raises(ValueError, match=r"x\.patch fits 2 places of a\.c, expected 1, by the lines\none;"):
        sources.edits("x", f"{head} one;\n+four;\n", tmp_path)


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
        "loss_is_not_reported",
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
    with pytest.raises(RuntimeError, match="make planted"), BUGS[0].on():
        pass
