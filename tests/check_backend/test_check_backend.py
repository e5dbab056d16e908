"""`pagecache check-backend`: good backends pass, each planted mistake is named, and with any wrong argument it ends and
says so.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pagecache import BackendLimits
from pagecache.backends import MemoryBackend
from pagecache.backends.passing import PassingFile
from pagecache.cli import main
from pagecache.cli.check_backend.bounded import Hung, within
from pagecache.cli.check_backend.checking import Kept, Objects, check_all, checks
from pagecache.cli.check_backend.limits import Finding, text_of, to_write_down
from pagecache.cli.check_backend.measuring import Budget, Measures, Rates, measure, saturated
from pagecache.cli.check_backend.promises import CAPABILITIES, PROMISES
from pagecache.target import BadTarget, Target, options_of

from . import broken, given

MODULE = "tests.check_backend.broken"
GIVEN = "tests.check_backend.given"
QUICK = ["--budget", "0.2", "--bytes", "32MiB"]


def call(*arguments: str) -> Result:
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(main, ["check-backend", *arguments])
    finally:
        signal.signal(signal.SIGTERM, before)


def checked(name: str, timeout: float = 30.0) -> list[Kept]:
    target = Target(f"{MODULE}:{name}", {})
    objects = Objects(target, timeout, keep=False)
    found = list(check_all(target, objects, timeout))
    objects.finish()
    return found


# ------------------------------------------------------------------------------------------------ promises


def test_each_check_of_the_suite_has_its_sentence_and_nothing_else_has_one() -> None:
    assert {check.name for check in checks()} == PROMISES.keys()
    assert {promise.capability for promise in PROMISES.values()} == set(CAPABILITIES)
    assert len(CAPABILITIES) == len(set(CAPABILITIES))


def test_rules_that_are_named_exist() -> None:
    """The numbers are those of the list in the guide, the sections those of the contract."""
    guide, contract = (Path(f"docs/{name}.md").read_text(encoding="utf-8") for name in ("how-to/backend", "contract"))
    numbers = ["buffers are borrowed", "count honestly", "repeating is harmless", "past the end", "reads reflect"]
    numbers += ["commit makes durable", "versions", "one object"]
    for rule in {promise.rule for promise in PROMISES.values()}:
        for number, words in enumerate(numbers, start=1):
            if f"rule {number} " in rule:
                assert words in rule
                assert f"\n{number}. **{words}" in guide.lower()
        for section in ("2.20", "2.23"):
            assert section not in rule or f"### {section} " in contract


@pytest.mark.parametrize("mistake", broken.MISTAKES)
def test_a_planted_mistake_is_named(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has the capability and the promise that it breaks, and the wrong result."""
    make, capability, words = broken.MISTAKES[mistake]
    monkeypatch.setattr(broken, "planted", make, raising=False)
    failed = [kept for kept in checked("planted") if kept.status in ("broken", "hangs")]
    named = [kept for kept in failed if kept.promise.capability == capability and words in kept.promise.sentence]
    assert named, [(kept.check, kept.found) for kept in failed]
    assert all(kept.found and kept.where for kept in named)


# ------------------------------------------------------------------------------------------------ good ones


@pytest.mark.parametrize(
    "target",
    [
        ["memory:"],
        [f"{GIVEN}:latency", "--option", "seconds=0.0001"],
        [f"{GIVEN}:faulty", "--option", "profile=short"],
        [f"python:{GIVEN}:faulty"],
        [f"{GIVEN}:asynchronous"],
        [f"{GIVEN}:sealed"],
        [f"{GIVEN}:shared"],
        [f"{GIVEN}:plain"],
        [f"{GIVEN}:plain_asynchronous"],
        ["pagecache.backends:MemoryBackend", "--option", "commit_on_close=False", "--option", "max_write=8KiB"],
    ],
    ids=str,
)
def test_a_good_backend_keeps_all_promises(target: list[str]) -> None:
    result = call(*target, *QUICK)
    assert result.exit_code == 0, result.output
    assert "KEPT: " in result.stdout
    assert "limits = BackendLimits(" in result.stdout
    assert "left behind" not in result.stdout


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("forgets_return_of_write", "write_from(0, 5 bytes): it returned None; a `return` is missing?"),
        ("forgets_return_of_read", "read_into(0, 5 bytes): it returned None; a `return` is missing?"),
        ("answers_too_much", "write_from(0, 5 bytes): it returned 1000000000"),
        ("commits_a_number", "commit(): it returned 7"),
    ],
)
def test_a_wrong_answer_is_the_one_cause_that_is_reported(name: str, cause: str) -> None:
    result = call(f"{GIVEN}:{name}", *QUICK)
    assert result.exit_code == 1, result.output
    assert result.stdout.count("BROKEN ") == 1
    found = result.stdout.index(f"found: {cause}")
    assert found < result.stdout.index(f"stopped: {len(checks())} checks and the measuring need a right answer here")
    assert len(result.stdout.splitlines()) < 20


def test_checks_that_find_the_same_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(PassingFile):
        def truncate(self, size: int) -> None:
            raise KeyError("nope")

    monkeypatch.setattr(broken, "planted", lambda: broken.Mistaken(Refuses), raising=False)
    result = call(f"{MODULE}:planted", *QUICK)
    assert result.exit_code == 1
    assert result.stdout.count("found: KeyError: 'nope'") == 1
    assert re.search(r"same:  found by \d+ more checks: \w+", result.stdout)


def test_the_last_line_names_untried_promises_and_the_command_for_them() -> None:
    result = call("memory:", *QUICK)
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last.startswith("not tried: calls of many threads")
    assert "`pagecache stress memory:` tries that" in last
    assert "not_tried" in json.loads(call("memory:", "--json", *QUICK).stdout)


def test_a_directory_is_left_as_it_was(tmp_path: Path) -> None:
    """Its files are not touched, and new ones are removed."""
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "object-1").write_bytes(b"mine too")
    result = call(f"dir:{tmp_path}", *QUICK)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "object-1"]
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_objects_are_removed_durably() -> None:
    """The store undoes removals that nothing has made durable."""
    assert call(f"{GIVEN}:UndoesRemovals", *QUICK).exit_code == 0
    assert list(given.UndoesRemovals.store.list()) == []


def test_objects_are_kept_when_asked_for(tmp_path: Path) -> None:
    result = call(f"dir:{tmp_path}", "--keep", "--json", *QUICK)
    report = json.loads(result.stdout)
    names = {path.name for path in tmp_path.iterdir()}
    assert names
    assert all(name.startswith(report["prefix"]) for name in names)
    assert names <= set(report["left"])


def test_files_that_cannot_be_removed_are_reported(tmp_path: Path) -> None:
    result = call(f"{GIVEN}:unremovable", "--option", f"path={tmp_path}", *QUICK)
    assert "left behind: " in result.stdout
    assert "pagecache-check-" in result.stdout


def test_a_missing_operation_is_no_failure() -> None:
    capabilities = json.loads(call("memory:", "--json", *QUICK).stdout)["capabilities"]
    assert capabilities["read and write"] == "yes"
    assert capabilities["rollback"] == capabilities["directories"] == "no"


def test_a_read_only_backend_cannot_be_checked() -> None:
    result = call(f"{GIVEN}:read_only")
    assert result.exit_code == 0
    assert "read_only=True: there is no way to put something in" in result.stdout


def test_limits_only_makes_no_checks() -> None:
    report = json.loads(call("memory:", "--limits-only", "--json", *QUICK).stdout)
    assert report["checks"] == []
    assert report["measures"]["sizes"]


def test_it_needs_no_pytest(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pytest'] = None; from pagecache.cli import main; main()"
    command = [sys.executable, "-c", code, "check-backend", f"dir:{tmp_path}", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KEPT: 5" in done.stdout
    assert "not commit_on_close" in done.stdout


# ------------------------------------------------------------------------------------------------ bad ones


def test_a_broken_promise_is_reported_with_rule_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    make, _, _ = broken.MISTAKES["stale_version"]
    monkeypatch.setattr(broken, "planted", make, raising=False)
    result = call(f"{MODULE}:planted", *QUICK)
    assert result.exit_code == 1
    assert "BROKEN versions: The version is another one whenever the content may be another." in result.stdout
    assert "    rule:  docs/how-to/backend.md, rule 7 (versions)" in result.stdout
    assert "the versions of different contents were ['1', '1', " in result.stdout
    assert "version_changes_with_the_content[write] (conformance.py:" in result.stdout
    assert "BROKEN: 4 checks failed" in result.stdout


def test_a_call_that_hangs_is_named_and_the_rest_goes_on() -> None:
    """The process still ends."""
    command = [sys.executable, "-m", "pagecache", "check-backend", f"{MODULE}:hangs_in_commit", "--json"]
    command += [*QUICK, "--timeout", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    hung = [check for check in report["checks"] if check["status"] == "hangs"]
    assert len(hung) == 3
    assert "no return within 1 s; it is at broken.py:" in hung[0]["found"]
    assert hung[0]["found"].endswith("commit") or " commit" in hung[0]["found"]
    assert any("too many checks hang: " in sentence for sentence in report["stopped"])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("s4:bucket", "no module 's4'"),
        ("nothing", "is neither a URL (dir:, fsspec:, memory:, s3: ...) nor module:factory"),
        ("a b:c", "is neither a URL"),
        ("no.such.module:f", "no module 'no.such.module'"),
        (f"{GIVEN}:nothing", f"{GIVEN} has no 'nothing'"),
        ("s3:bucket", "it is not of the form s3://BUCKET/PREFIX?endpoint=URL"),
        ("dir:/no/such/directory", "no backend could be made"),
        ("memory:x", "nothing may follow 'memory:'"),
        (f"{GIVEN}:raises", "no backend could be made: RuntimeError: no password"),
        (f"{GIVEN}:NoBackend", "it has no open and no stat: a Backend has both; subclass pagecache.Backend (or Async"),
        (f"{GIVEN}:OddLimits", "it has the limits None, which is not a BackendLimits: write `limits = BackendLimits("),
        (
            "/no/such",
            "is neither a URL (dir:, fsspec:, memory:, s3: ...) nor module:factory; did you mean 'dir:/no/such'?",
        ),
        ("file:///no/such", "did you mean 'dir:/no/such'?"),
        (f"{GIVEN}:number", "it has no open and no stat"),
        (f"{GIVEN}:stats_a_tuple", "stat of a new object gave no ObjectStat: it returned (5, 'v')"),
        (f"{GIVEN}:Halfway", "no BackendFile without stat, read_into, write_from, truncate, commit"),
        ("builtins:exit", "no backend could be made: SystemExit"),
    ],
)
def test_an_argument_without_a_backend_is_wrong_usage(target: str, words: str) -> None:
    result = call(target)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stdout == ""


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported from the working directory, as a script there would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("needs_more.py").write_text("import no_such_package\n")
    Path("is_wrong.py").write_text("1 / 0\n")
    assert "cannot be imported: No module named 'no_such_package'" in call("needs_more:f").stderr
    assert "is_wrong cannot be imported: ZeroDivisionError" in call("is_wrong:f").stderr


@pytest.mark.parametrize("name", ["hangs", "hangs_in_open"])
def test_a_backend_that_hangs_from_the_start_is_wrong_usage(name: str) -> None:
    command = [sys.executable, "-m", "pagecache", "check-backend", f"{MODULE}:{name}", "--timeout", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "hang" in done.stderr
    assert "broken.py:" in done.stderr


@pytest.mark.parametrize(
    "options",
    [["--option", "x"], ["--option", "a b=1"], ["--bytes", "much"], ["--budget", "0"], ["--timeout", "-1"]],
    ids=str,
)
def test_wrong_options_are_wrong_usage(options: list[str]) -> None:
    assert call("memory:", *options).exit_code == 2


def test_unknown_options_of_the_factory_are_named() -> None:
    result = call("memory:", "--option", "colour=red")
    assert result.exit_code == 2
    assert "colour" in result.stderr


def test_options_are_read_as_python_where_they_can_be() -> None:
    texts = ["a=1", "b=True", "c=None", "d=8KiB", "e=1.5", "f='7'", "g=", "h=x=y"]
    expected = {"a": 1, "b": True, "c": None, "d": "8KiB", "e": 1.5, "f": "7", "g": "", "h": "x=y"}
    assert options_of(texts) == expected
    with pytest.raises(BadTarget, match="name=value"):
        options_of(["=1"])


# ------------------------------------------------------------------------------------------------ limits


def findings(*arguments: str) -> dict[str, Any]:
    report = json.loads(call(*arguments, "--limits-only", "--json", *QUICK).stdout)
    return {"exit": report["ok"], **{finding["limit"]: finding for finding in report["limits"]["findings"]}, **report}


@pytest.mark.parametrize(("mistake", "limit"), [("aligned_writes", "write_unit"), ("aligned_reads", "read_unit")])
def test_an_unsaid_unit_is_found(mistake: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, "planted", broken.MISTAKES[mistake][0], raising=False)
    found = findings(f"{MODULE}:planted")
    assert (found["ok"], found[limit]["status"], found[limit]["better"]) == (False, "wrong", 512)
    assert "not aligned; 512 is taken" in found[limit]["found"]
    assert found["limits"]["suggested"] is None or found["limits"]["suggested"][limit] == 512


def test_a_call_that_is_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken, "planted", broken.MISTAKES["short_calls"][0], raising=False)
    found = findings(f"{MODULE}:planted")
    assert (found["max_write"]["status"], found["max_write"]["better"]) == ("wrong", 65536)
    assert found["max_read"]["status"] == "true"


def test_bytes_that_are_durable_only_by_commit_are_found(tmp_path: Path) -> None:
    """A second backend shows it, if it sees the objects of the first."""
    found = findings(f"{GIVEN}:durable_lie", "--option", f"path={tmp_path}")
    assert found["durable_writes"]["status"] == "wrong"
    assert found["limits"]["suggested"]["durable_writes"] is False
    honest = findings(f"dir:{tmp_path}")
    assert (honest["ok"], honest["durable_writes"]["status"]) == (True, "true")
    assert findings("memory:")["durable_writes"]["status"] == "unknown"


def test_limits_to_write_down_are_python() -> None:
    declared = BackendLimits(max_read="4MiB", max_write="4MiB", commit_on_close=True, boundary="8MiB")
    sizes = [Rates(4096, 10.0, 10.0), Rates(8192, 95.0, 50.0), Rates(16384, 100.0, 100.0)]
    measures = Measures(sizes=sizes, parallel=[Rates(1, 10.0, 10.0), Rates(2, 10.5, 19.0), Rates(4, 10.0, 20.0)])
    suggested = to_write_down(declared, measures, [Finding("max_write", 0, "wrong", "", 12288)])
    assert (suggested.max_read, suggested.max_write, suggested.max_inflight) == (8192, 12288, 2)
    assert suggested.commit_on_close
    text = text_of(suggested)
    sizes_text = 'max_read="8KiB", max_write="12KiB", boundary="8MiB"'
    assert text == f"BackendLimits({sizes_text}, max_inflight=2, commit_on_close=True)"
    assert eval(text) == suggested


def test_saturation_is_the_first_that_is_about_the_best() -> None:
    assert saturated([Rates(1, 1.0, None), Rates(2, 9.0, None), Rates(4, 10.0, None)], "read") == 2
    assert saturated([Rates(1, 1.0, None)], "write") is None
    assert saturated([], "read") is None


@pytest.mark.parametrize("limits", [{}, {"ordered_writes": True}, {"write_unit": 8192, "read_unit": 512}])
def test_measuring_keeps_its_budget_of_bytes(limits: dict[str, Any]) -> None:
    """Every call keeps the limits."""
    target = Target(f"{GIVEN}:counted", {})
    inner = MemoryBackend(max_read="64KiB", max_write="64KiB", max_inflight=4, **limits)
    given.counting.inner = inner
    given.counting.clear_calls()
    objects, size, measures = Objects(target, 30, keep=False), 8 << 20, Measures()
    measure(target.make(), objects, Budget(30.0, size), measures)
    moved = given.counting.calls_of("read", "write")
    assert 1 << 20 < sum(call.length or 0 for call in moved) <= size * 1.25
    assert max(call.length or 0 for call in moved) == 65536
    assert [entry.at for entry in measures.parallel] == [1, 2, 4, 8, 16]
    assert all(entry.read and entry.write for entry in measures.sizes)
    assert list(inner.list()) == []


def test_a_call_that_hangs_is_left_behind() -> None:
    assert within(30, lambda: 17) == 17
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 / 0)
    with pytest.raises(Hung, match=r"no return within 2 s; it is at broken.py:\d+ hangs"):
        within(2, broken.hangs)


def test_ctrl_c_says_what_may_be_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pagecache", "check-backend", f"{MODULE}:hangs_in_commit", "--timeout", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "in commit\n" in iter(process.stderr.readline, "")
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "objects that begin with 'pagecache-check-' may be left" in err


def test_keys_that_a_backend_cannot_take_are_said() -> None:
    result = call(f"{GIVEN}:numbered")
    assert result.exit_code == 2
    assert "canonical('pagecache-check-" in result.stderr
    assert "raises ValueError: keys are numbers" in result.stderr
