"""Each patch takes one fix out of the present sources, and the tester finds bugs with named settings, quickly. All of
them, and the settings without a bug: `make mutations`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from . import engine, names, sources
from .core import CORE, UNPLANTED
from .mutations import CLEAN, SCHEDULES, hunted, scheduled
from .planted import PLANTED_EXTENSION
from .settings import SCHEDULED, SEARCHED, SETTINGS, WORLDS, settings_of
from .table import BUGS

ROOT = Path(__file__).parents[2]
NAMES = [bug.name for bug in BUGS]
SECONDS = 60.0
QUICK = [
    "late_answer_only_ends_the_flight",
    "view_of_the_range_is_copied_first",
    "returned_bytes_are_rolled_back",
    "write_through_returns_early",
    "rename_holds_one_name",
    "close_writes_nothing_back",
    "faulting_source_is_copied_in_place",
    "store_loses_tails_of_long_writes",
    "store_acknowledges_and_forgets",
    "cache_forgets_truncates",
]
"""Bugs that are found in less than three seconds, more often than not."""


def built() -> None:
    if not any(PLANTED_EXTENSION.glob("_core.*so")) or not SCHEDULES.exists():
        pytest.fail("there are no builds with planted bugs: make planted")


def fixes_of(text: str) -> set[str]:
    return set(re.findall(r'PC_FIX\("(\w+)"\)', text))


def test_every_bug_has_a_name_of_its_own_a_sentence_and_settings() -> None:
    """The tester searches for it, or schedules of the core do."""
    assert len(set(NAMES)) == len(NAMES)
    assert [bug.name for bug in BUGS if ":" not in bug.sentence or not bug.rule] == []  # the mistake: the user's loss
    assert set(SEARCHED) | set(SCHEDULED) <= set(NAMES)
    assert not set(SEARCHED) & set(SCHEDULED)
    assert {settings_of(name) for name in NAMES} <= set(SETTINGS)
    assert set(QUICK) <= set(NAMES) - set(SCHEDULED)


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


def test_a_patch_of_the_engine_takes_the_arguments_of_the_call_that_it_replaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search would find the TypeError, and not the bug."""
    changes: list[tuple[object, str, Callable[..., Any]]] = []

    def recorded(*some: tuple[object, str, Callable[..., Any]]) -> contextlib.AbstractContextManager[None]:
        changes.extend(some)
        return contextlib.nullcontext()

    for module in (engine, names):
        monkeypatch.setattr(module, "patched", recorded)
    for bug in [*engine.ENGINE, *names.NAMES]:
        with bug.on():
            pass
    for owner, name, new in changes:
        if callable(old := getattr(owner, name)):
            parameters = inspect.signature(old).parameters.values()
            fixed = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
            inspect.signature(new).bind(*fixed, **{one.name: one for one in parameters if one.kind == one.KEYWORD_ONLY})
    assert changes


def test_the_installed_extension_keeps_its_fixes() -> None:
    """An attempt to take one out gets an error with the necessary steps."""
    with pytest.raises(RuntimeError, match="make planted"), BUGS[0].on():
        pass


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", QUICK)
def test_the_tester_finds_a_bug(bug: str) -> None:
    """It takes one seed, and less than a minute."""
    built()
    assert hunted(bug, settings_of(bug), 1, SECONDS)["found"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", SCHEDULED)
def test_schedules_of_the_core_find_a_bug(bug: str) -> None:
    """It takes one seed, and less than a minute; the report names the schedule, so that it can be played again."""
    built()
    found = scheduled(bug, SCHEDULED[bug], 1, SECONDS)
    assert found["found"] == "schedule"
    assert f"--replay {SCHEDULED[bug]}:" in found["story"]


def test_nothing_is_found_where_nothing_is_planted() -> None:
    """For a moment; and a process that dies has found something."""
    built()
    assert scheduled(CLEAN, WORLDS[0], 1, 1.0)["story"] == ""
    clean = hunted(CLEAN, "small", 1, 1.0)
    assert (clean["found"], clean["story"]) == ("", "")
    found = hunted("faulting_source_is_copied_in_place", "small", 1, SECONDS)
    assert (found["found"], found["story"].split()[0]) == ("death", "SIGBUS")
