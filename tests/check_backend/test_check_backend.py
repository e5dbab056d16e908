"""`pagecache check-backend`: good backends pass, planted mistakes are named, wrong arguments are reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import MemoryBackend
from pagecache.backends.passing import PassingFile
from pagecache.cli.check_backend import checking
from pagecache.cli.check_backend.checking import CHECKS, Measures, Objects, check_all, measure
from pagecache.target import BadTarget, Target, options_of
from pagecache.testing import FaultyBackend

from ..commands import call as run
from ..file.rig import Patch, raises
from . import backends

call = partial(run, "check-backend")
MODULE = "tests.check_backend.backends"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pagecache", "check-backend", *arguments]


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("--json", *arguments).stdout)
    return found


# ------------------------------------------------------------------------------------------------ promises


def test_each_check_has_its_promise_and_a_rule_that_exists() -> None:
    """The numbers are those of the list in the guide, the sections those of the contract."""
    guide, contract = (Path(f"docs/{name}.md").read_text(encoding="utf-8") for name in ("how-to/backend", "contract"))
    for check in CHECKS:
        assert check.capability, check.name
        assert check.sentence.endswith("."), check.name
        if found := re.search(r"rule (\d) \((.*)\)", check.rule):
            assert f"\n{found[1]}. **{found[2]}" in guide.lower()
        elif found := re.search(r"contract.md (.*)", check.rule):
            assert f"### {found[1]} " in contract
        else:
            assert check.rule.startswith(("docs/how-to/backend.md, ", "pagecache.backends.protocol, ")), check.name


@pytest.mark.parametrize(("check", "make"), backends.MISTAKES)
def test_a_planted_mistake_is_named(check: str, make: Any, monkeypatch: Patch) -> None:
    """The check of the promise finds it, with the wrong result and the line."""
    monkeypatch.setattr(backends, "planted", make, raising=False)
    monkeypatch.setattr(checking, "CHECKS", [each for each in CHECKS if each.name == f"test_{check}"])
    results = list(check_all(Target(f"{MODULE}:planted", {}), Objects(keep=False), 30.0))
    assert any(result.status == "broken" and result.found and result.where for result in results), results


# ------------------------------------------------------------------------------------------------ good ones


@pytest.mark.parametrize(
    "target",
    [
        ["memory:"],
        [f"{MODULE}:latency", "--option", "seconds=0.0001"],
        [f"{MODULE}:faulty", "--option", "profile=short"],
        [f"python:{MODULE}:faulty"],
        [f"{MODULE}:asynchronous"],
        [f"{MODULE}:sealed"],
        [f"{MODULE}:shared"],
        [f"{MODULE}:plain"],
        [f"{MODULE}:plain_asynchronous"],
        ["pagecache.backends:MemoryBackend", "--option", "commit_on_close=False", "--option", "max_write=8KiB"],
    ],
    ids=str,
)
def test_a_good_backend_keeps_all_promises(target: list[str]) -> None:
    """The last line names what was not tried."""
    result = call(*target)
    assert result.exit_code == 0, result.output
    assert "KEPT: " in result.stdout
    assert "left behind" not in result.stdout
    assert "one call of 4.0 KiB, median" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("not tried: calls of many threads")
    assert f"`pagecache stress {target[0]}` tries that" in last


def test_a_directory_is_left_as_it_was_and_no_pytest_is_needed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    code = "import sys; sys.modules['pytest'] = None; from pagecache.cli import main; main()"
    arguments = [sys.executable, "-c", code, "check-backend", f"dir:{tmp_path}"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT: 5" in done.stdout
    assert "not commit_on_close" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_objects_are_removed_durably() -> None:
    """The store undoes removals that nothing has made durable."""
    assert call(f"{MODULE}:UndoesRemovals").exit_code == 0
    assert list(backends.UndoesRemovals.store.list()) == []


def test_objects_are_kept_when_asked_for_and_otherwise_reported(tmp_path: Path) -> None:
    report = document(f"dir:{tmp_path}", "--keep")
    names = {path.name for path in tmp_path.iterdir()}
    assert names
    assert all(name.startswith(report["prefix"]) for name in names)
    assert names <= set(report["left"])
    assert "left behind: " in call(f"{MODULE}:unremovable", "--option", f"path={tmp_path}").stdout


def test_json_has_what_is_offered_measured_and_not_tried() -> None:
    """A read-only backend cannot be checked."""
    report = document(f"{MODULE}:queried")
    assert report["capabilities"]["read and write"] == "yes"
    assert report["capabilities"]["rollback"] == report["capabilities"]["directories"] == "no"
    assert report["server"] == {"put": True, "copies": False}
    assert (report["ok"], report["stopped"], report["left"]) == (True, [], [])
    assert report["not_tried"]
    assert set(report["measures"]["latency"]) == {"read", "write", "commit"}
    assert set(report["measures"]["rates"]) == {"4096", "262144", "1048576"}
    read_only = document(f"{MODULE}:read_only")
    assert (read_only["ok"], read_only["checks"]) == (True, [])
    assert "read_only=True: there is no way to put something in" in read_only["stopped"][0]


@pytest.mark.parametrize(
    ("limits", "writes"),
    [({}, {4096, 65536}), ({"max_write": "16MiB"}, {4096, 256 << 10, 8 << 20}), ({"write_unit": 8192}, {8192, 65536})],
)
def test_measured_calls_keep_the_limits(limits: dict[str, Any], writes: set[int], monkeypatch: Any) -> None:
    inner = FaultyBackend(MemoryBackend(**{"max_read": "64KiB", "max_write": "64KiB", **limits}), "none")
    monkeypatch.setattr(backends, "planted", inner, raising=False)
    measures = Measures()
    measure(Target(f"{MODULE}:planted", {}), Objects(keep=False), measures)
    assert {size for size, rates in measures.rates.items() if rates.get("write")} == writes
    assert {size for size, rates in measures.rates.items() if rates.get("read")} == {4096, 65536}
    assert {call.length for call in inner.calls_of("read")} == {4096, 65536}
    assert list(inner.list()) == []


# ------------------------------------------------------------------------------------------------ bad ones


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("forgets_return_of_write", "write_from: it returned None; a `return` is missing?"),
        ("forgets_return_of_read", "read_into: it returned None; a `return` is missing?"),
        ("answers_too_much", "write_from: it returned 1000000000, not a count of the bytes that it was given"),
        ("commits_a_number", "commit answered 7, which is no version"),
        ("stats_a_tuple", "AttributeError: 'tuple' object has no attribute 'size'"),
    ],
)
def test_a_wrong_answer_is_a_cause_that_is_reported(name: str, cause: str) -> None:
    result = call(f"{MODULE}:{name}")
    assert result.exit_code == 1, result.output
    assert f"found: {cause}" in result.stdout


def test_checks_that_find_the_same_are_counted(monkeypatch: Patch) -> None:
    class Refuses(PassingFile):
        def truncate(self, size: int) -> None:
            raise KeyError("no\x1bpe")

    monkeypatch.setattr(backends, "planted", lambda: backends.Mistaken(Refuses, MemoryBackend()), raising=False)
    result = call(f"{MODULE}:planted")
    assert result.exit_code == 1
    assert result.stdout.count(r"found: KeyError: 'no\x1bpe'") == 1
    assert re.search(r"same:  found by \d+ more checks: \w+", result.stdout)


def test_a_broken_promise_is_reported_with_rule_and_place(monkeypatch: Patch) -> None:
    monkeypatch.setattr(backends, "planted", backends.versioned(lambda size: "1"), raising=False)
    result = call(f"{MODULE}:planted")
    assert result.exit_code == 1
    assert "BROKEN versions: The version changes whenever the content may have changed." in result.stdout
    assert "    rule:  docs/how-to/backend.md, rule 7 (versions)" in result.stdout
    assert "the versions of different contents were ['1', '1', " in result.stdout
    assert "version_changes_with_the_content[write] (conformance.py:" in result.stdout
    assert "BROKEN: 4 checks failed" in result.stdout


def test_a_call_that_hangs_is_named_and_the_rest_goes_on() -> None:
    """The process still ends."""
    arguments = command(f"{MODULE}:hangs_in_commit", "--json", "--timeout", "1")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    hung = [check for check in report["checks"] if check["status"] == "hangs"]
    assert len(hung) == 3
    assert re.match(
        r"no return within 1 s; it is at backends.py:\d+ hang < backends.py:\d+ hang_in_commit", hung[0]["found"]
    )
    assert any("too many checks hang: " in sentence for sentence in report["stopped"])


@pytest.mark.parametrize("name", ["hang", "hangs_in_open"])
def test_a_backend_that_hangs_from_the_start_is_wrong_usage(name: str) -> None:
    arguments = command(f"{MODULE}:{name}", "--timeout", "3")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"{name} hangs: no return within 3 s; it is at backends.py:" in done.stderr


def test_ctrl_c_says_what_may_be_left() -> None:
    arguments = command(f"{MODULE}:hangs_in_commit", "--timeout", "100")
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "in commit\n" in iter(process.stderr.readline, "")
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "objects that begin with 'pagecache-check-' may be left" in err


# ------------------------------------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("s4:bucket", "no module 's4'"),
        ("python:mine", "which factory of mine? Write python:mine:factory"),
        ("mine.py:make", "the name of a module is without .py: mine:make"),
        ("nothing", "is neither a URL (az:, dir:, fsspec:, gs:, memory:, s3: ...) nor module:factory"),
        ("a b:c", "is neither a URL"),
        ("/no/such", "nor module:factory; did you mean 'dir:/no/such'?"),
        ("file:///no/such", "did you mean 'dir:/no/such'?"),
        ("no.such.module:f", "no module 'no.such.module'"),
        (f"{MODULE}:nothing", f"{MODULE} has no 'nothing'"),
        ("s3:bucket", "it is not of the form s3://BUCKET/PREFIX?endpoint=URL"),
        ("dir:/no/such/directory", "no backend could be made"),
        ("memory:x", "nothing may follow 'memory:'"),
        (f"{MODULE}:raises", "no backend could be made: RuntimeError: no password"),
        (f"{MODULE}:NoBackend", "it has no open and no stat: a Backend has both; subclass pagecache.Backend (or Async"),
        (f"{MODULE}:number", "it has no open and no stat"),
        (f"{MODULE}:OddLimits", "it has the limits None, which is not a BackendLimits: write `limits = BackendLimits("),
        (f"{MODULE}:numbered", "canonical('pagecache-check-"),
        (f"{MODULE}:numbered", "raises ValueError: invalid literal"),
        (f"{MODULE}:Halfway", "which has no stat, no read_into, no write_from, no truncate, no commit"),
        ("builtins:exit", "no backend could be made: SystemExit"),
    ],
)
def test_an_argument_without_a_backend_is_wrong_usage(target: str, words: str) -> None:
    result = call(target)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: Patch) -> None:
    """It is imported from the working directory, as a script there would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("needs_more.py").write_text("import no_such_package\n")
    Path("is_wrong.py").write_text("1 / 0\n")
    assert "cannot be imported: No module named 'no_such_package'" in call("needs_more:f").stderr
    assert "is_wrong cannot be imported: ZeroDivisionError" in call("is_wrong:f").stderr
    Path("is_script.py").write_text("import sys\nsys.exit()\n")
    for name in ("is_script:f", "python:is_script:f"):
        result = call(name)
        assert result.exit_code == 2, "nothing was checked"
        assert "is_script cannot be imported: SystemExit" in result.stderr


def test_options_are_read_as_python_where_they_can_be_and_unknown_ones_are_named() -> None:
    texts = ["a=1", "b=True", "c=None", "d=8KiB", "e=1.5", "f='7'", "g=", "h=x=y"]
    expected = {"a": 1, "b": True, "c": None, "d": "8KiB", "e": 1.5, "f": "7", "g": "", "h": "x=y"}
    assert options_of(texts) == expected
    raises(BadTarget, options_of, ["=1"], match="name=value")
    assert "colour" in call("memory:", "--option", "colour=red").stderr
    for options in (["--option", "x"], ["--option", "a b=1"], ["--timeout", "-1"]):
        assert call("memory:", *options).exit_code == 2
