"""The page about the stress tester: each command runs, and common mistakes get the messages shown."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pagecache import Backend
from pagecache.stress import Plan, run
from pagecache.stress.profiles import PROFILES, WAYS, Operation
from pagecache.stress.script import Script

from ..test_docs import DOCS, blocks
from . import clean
from .test_together import FEW, SEVERAL

PAGE = DOCS / "how-to" / "stress.md"
SMALL = ("--tasks", "1", "--files", "1", "--size", "16KiB", "--capacity", "64KiB", "--duration", "0.1s")


def lines() -> list[str]:
    """The lines of the page's commands."""
    texts = [block.text for block in blocks(PAGE) if block.language == "sh"]
    return [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]


COMMANDS = [line.partition("  #")[0].strip() for line in lines()]


def shown() -> str:
    """`mybackend.py`."""
    return next(block.text for block in blocks(PAGE) if "def make()" in block.text)


def backend(folder: Path, old: str = "", new: str = "") -> Backend:
    """The backend of the page, with a part of its text replaced."""
    text = shown()
    assert old in text
    names: dict[str, Any] = {"__name__": "mybackend"}
    exec(compile(text.replace(old, new), str(PAGE), "exec"), names)
    made: Backend = names["MyBackend"](folder)
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command: str, tmp_path: Path) -> None:
    """The command runs in a folder with the files that it names, and shorter. Nothing is found, and nothing is left."""
    program, *arguments = shlex.split(command)
    assert program == "pagecache"
    for folder in ("srv/data", "mnt/share", "mydata"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mybackend.py").write_text(shown(), encoding="utf-8")
    replay = {"version": 1, "plan": Plan(seed=7, rounds=1, threads=1, size="16KiB").to_dict(), "target": None}
    (tmp_path / "pagecache-stress-7-0.json").write_text(json.dumps(replay), encoding="utf-8")
    arguments = [argument.replace(":/", f":{tmp_path}/") for argument in arguments]
    if arguments[0] != "check-backend":
        # Linux's error for O_DIRECT beside a mapping is no finding of this test.
        arguments += ["--mix", "buffered,append,truncate"] if "path:" in command else []
        if "--replay" not in arguments:  # a replay stays unchanged
            arguments += ["--threads", "2", *SMALL]
    if "--shrink" in arguments:
        arguments += ["--shrink-time", "1s"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pagecache", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing wrong" in ran.stdout or arguments[0] == "check-backend"
    assert not [path for path in tmp_path.rglob("pagecache-*") if path.name != "pagecache-stress-7-0.json"]


def test_help_names_all_profiles_and_ways() -> None:
    """The command lists everything that the page lists."""
    command = [sys.executable, "-m", "pagecache", "stress", "--help"]
    text = " ".join(subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout.split())
    for name in (*PROFILES, *WAYS):
        assert re.search(rf"[ :]{name}[,.]", text), name


MISTAKES: dict[str, tuple[str, str, str]] = {
    "stores less than it answers": (
        "return os.pwritev(file.fileno(), buffers, offset)",
        "os.pwrite(file.fileno(), b''.join(buffers)[:8192], offset); return sum(map(len, buffers))",
        "bytes, where the file had|: data\n",
    ),
    "remembers a size": (
        "return self.open(key).stat()",
        "self.seen = getattr(self, 'seen', {}); return self.seen.setdefault(key, self.open(key).stat())",
        "bytes, where the file had|ConflictError|: data\n",
    ),
    "does not cut": (
        "os.truncate(self.path, size)",
        "os.truncate(self.path, max(size, self.path.stat().st_size))",
        "should be of: .*truncate|bytes, where the file had|: data\n",
    ),
    "raises what is no OSError": ("os.truncate(self.path, size)", "raise KeyError('a planted mistake')", ": error\n"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_common_mistake_is_reported_as_the_page_says(name: str, tmp_path: Path) -> None:
    old, new, message = MISTAKES[name]
    fields: dict[str, Any] = {"threads": 2, "tasks": 0, "files": 2, "size": "64KiB", "capacity": "128KiB"}
    report = run(Plan(seed=3, duration=100, operations=60, **fields), lambda: backend(tmp_path, old, new))
    assert not report.ok
    assert re.search(message, report.story), report.story


def test_a_store_that_finds_objects_by_name_at_each_call_may_lose_a_removed_one(tmp_path: Path) -> None:
    """A handle that was open before the remove cannot read bytes there that are not cached; that is no finding."""
    publish, drop = Operation("publish", 0, "", 0, 9000, extra=1), Operation("drop", 0, "", 0, 10, extra=SEVERAL)
    steps = (publish, Operation("sync", 0), drop, Operation("remove", 0, extra=SEVERAL))
    plan = Plan(seed=1, script=Script((60_000,), ((steps,),), ()), **FEW)
    report = clean(plan, lambda: backend(tmp_path))
    assert "reads by a handle after a remove" not in report.counters
