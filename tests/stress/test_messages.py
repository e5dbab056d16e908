"""Messages to a new author of a backend: one sentence with the value, the rule and the place, and no internals. Reports
have the operations around a failure as sentences, and of a hang its waits, stacks and the last transitions.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pagecache import Backend, ObjectStat, PageCache
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.errors import Key
from pagecache.stress import Plan, Script, UnusableTarget, command, hang, run, shrinker
from pagecache.stress.command import read_replay
from pagecache.stress.hang import overdue, stacks, state
from pagecache.stress.plan import seconds
from pagecache.stress.profiles import KINDS, MOVES, Operation
from pagecache.stress.report import sentence
from pagecache.stress.world import Activity, World

from ..check_backend.backends import Buffers, files, length, refuse
from ..file.rig import raises
from . import clean
from .planted import MakesTwo

SMALL: dict[str, Any] = {"threads": 2, "tasks": 0, "files": 2, "size": "64KiB", "capacity": "128KiB", "operations": 40}


def plan(**fields: Any) -> Plan:
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1} | SMALL | fields))


def test_output_replaces_a_link_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user who may write in the directory can make one: its target stays as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_text("precious")
    (tmp_path / "name").symlink_to("other")
    assert command.write("name", "text") == tmp_path / "name"
    assert (tmp_path / "other").read_text() == "precious"
    assert (tmp_path / "name").read_text() == "text"
    assert not (tmp_path / "name").is_symlink()


LATER = {"writes": itertools.count(), "reads": itertools.count()}


def loses_later(file: Any, offset: int, buffers: Buffers) -> int:
    return length(buffers) if next(LATER["writes"]) >= 20 else int(file.inner.write_from(offset, buffers))


def read_fails(file: Any, offset: int, buffers: Buffers) -> int:
    """The first reads, those of the tester itself, are right."""
    if next(LATER["reads"]) >= 12:
        raise TypeError("'NoneType' object is not subscriptable")
    return int(file.inner.read_into(offset, buffers))


class LocksTwice(MemoryBackend):
    """A backend that waits for itself when an existing object is opened: a lock that is not reentrant."""

    def __init__(self) -> None:
        super().__init__()
        self._mine = threading.Lock()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        with self._mine:
            if not create:
                self.stat(key)
            return super().open(key, create=create, exclusive=exclusive)

    def stat(self, key: Key) -> ObjectStat:
        with self._mine:
            return MemoryBackend.open(self, key).stat()


class TakesNoKey(MemoryBackend):
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        raise RuntimeError("not today")


STORIES: list[tuple[Any, dict[str, Any], str, str]] = [
    # A lost write at the end of a file is an error of the read that ends too early.
    (files(write_from=loses_later), {"operations": 150}, "data or error", ": "),
    (
        files(read_into=read_fails),
        {},
        "error",
        r"^(?!.*Traceback).*not subscriptable.* \(in read_fails at .*test_messages.py:\d+\)",
    ),
    (files(truncate=lambda *_: refuse(errno.EACCES)), {"mix": "truncate", "duration": 240}, "error", "file .*refused"),
    (LocksTwice, {"patience": 1.0}, "hang", "making the files does not end.*with self._mine"),
    (lambda: MakesTwo(RuntimeError("a mistake")), {}, "error", "making the files: .*a mistake"),
    (lambda: MakesTwo(OSError(errno.ENOSPC, "full")), {}, "error", "making the files: .*full"),
]


@pytest.mark.parametrize(("make", "fields", "kind", "story"), STORIES)
def test_a_mistake_of_the_backend_is_reported_with_its_place(
    make: Callable[[], Backend], fields: dict[str, Any], kind: str, story: str
) -> None:
    report = run(plan(**fields), make)
    assert not report.ok
    assert report.kind in kind.split(" or "), report.story
    assert re.search(f"(?s){story}", report.story), report.story


def refuses() -> MemoryBackend:
    raise RuntimeError("no such host")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: None, "gave None, which is no Backend: it has no open and no stat"),
        (MemoryBackend(), "cannot be called: a factory gives a backend"),
        (refuses, r"refuses: no backend .*: RuntimeError: no such host \(in refuses at .*test_messages.py:\d+\)"),
        (lambda: MemoryBackend(read_only=True), "read-only"),
        (TakesNoKey, "no object can be made.*not today"),
        (files(write_from=lambda *_: None), "write_from returned None, not the number of bytes that it took"),
        (files(write_from=lambda *_: 0), "write_from returned 0: it was given 5 bytes, and has to take 1 at least"),
    ],
)
def test_a_target_that_cannot_be_tested_is_refused_in_one_sentence(target: Any, message: str) -> None:
    with pytest.raises(UnusableTarget, match=message) as raised:
        run(plan(), target)
    assert "\n" not in str(raised.value)
    assert len(re.findall(message, str(raised.value))) == 1


class Keeps(MemoryBackend):
    remove = Backend.remove


def test_failed_operations_are_not_counted() -> None:
    report = clean(plan(profile="metadata", operations=100), Keeps)
    assert "cannot remove" in report.skipped["remove"]
    assert "remove" not in report.kinds
    assert "not tried: remove: " in report.story


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "r.json: not a replay of pagecache stress: Expecting value"),
        ('{"version": 2}', "r.json: not a replay of pagecache stress: no version 1"),
        ('{"version": 1, "plan": {}, "target": 3}', "r.json: target: 3 is not text"),
        (
            '{"version": 1, "plan": {"script": {"contents": [0], "threads": [[[{"kind": "jump", "file": 0}]]]}}}',
            r"r.json: script: jump\.kind: 'jump' is not one of read, readv",
        ),
    ],
)
def test_an_invalid_replay_is_named_with_its_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content, encoding="utf-8")
    raises(ValueError, read_replay, tmp_path / "r.json", match=message)


def test_options_beside_a_replay_are_refused_but_for_the_duration(tmp_path: Path) -> None:
    replay = tmp_path / "r.json"
    replay.write_text(json.dumps({"version": 1, "plan": plan().to_dict()}), encoding="utf-8")
    asked, _target = read_replay(replay, duration="7s")
    assert (asked.duration, asked.threads) == (7.0, 2)
    raises(ValueError, read_replay, replay, threads=5, match="--threads: with --replay it is the file's")


def test_times_have_units_everywhere_and_are_above_0() -> None:
    assert (plan(patience="2m").patience, plan(duration="1.5h").duration) == (120.0, 5400.0)
    assert [seconds(text, "duration") for text in ("90", "60s", "10m", "2min")] == [90, 60, 600, 120]
    raises(ValueError, seconds, "-3s", "--shrink-time", match="--shrink-time: '-3s' is not above 0")


@pytest.mark.parametrize(("time", "left"), [(1e-9, 2), (600, 1)])
def test_a_shrink_that_ran_out_of_time_says_so(time: float, left: int) -> None:
    """One of two writes is enough."""

    def zeros(file: Any, offset: int, buffers: Buffers) -> int:
        return int(file.inner.write_from(offset, [memoryview(bytes(length(buffers)))]))

    writes = tuple(Operation("write", file, "buffered", 0, 4096) for file in (0, 1))
    failed = run(plan(script=Script((0, 0), ((writes,),))), files(write_from=zeros))
    found = shrinker.shrink(failed, files(write_from=zeros), seconds=time)
    assert ("stopped after 1e-09 s; more --shrink-time may make it smaller" in found.story) == (left == 2)
    assert f"enough: {left} operation" in found.story


# -- the story


def test_each_kind_can_be_shown() -> None:
    for kind in KINDS:
        way = "buffered" if kind in MOVES else ""
        file = None if KINDS[kind] == "names" else 0
        text = sentence(Activity(1, Operation(kind, 0, way, 0, 10), file, 0.0, 0, 10, 1))
        assert text.endswith(", still running"), text


PATIENT: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "rounds": 1, "patience": 1}


@pytest.mark.long
def test_a_hang_has_its_waits_with_their_owners_all_stacks_and_the_last_transitions() -> None:
    """Of a write and an fsync, whose commit does not return. [I-23]"""
    free = threading.Event()

    def commit(file: Any) -> str | None:
        if threading.current_thread().name != "stress-rest":  # the thread that made the files
            free.wait(100)
        return str(file.inner.commit())

    script = Script((0,), (((Operation("write", 0, "buffered", 0, 4096), Operation("fsync", 0)),),))
    try:
        hung = run(Plan(seed=1, script=script, **PATIENT), files(commit=commit))
    finally:
        free.set()
    assert (hung.ok, hung.kind, hung.hung) == (False, "hang", True), hung.story
    assert re.search(r"^writer 1: fsync of file 0, still running after \d+ s$", hung.story, re.MULTILINE)
    place = rf"at {re.escape(__file__)}:\d+ in commit$"
    assert re.search(rf"^  stress-1 waits for fsync.*is in a commit of the backend for .* s, {place}", hung.story, re.M)
    assert not re.search("MainThread|stress-watchdog", hung.story)
    assert re.search(r"^thread stress-1 .*:\n    File", hung.story, re.MULTILINE)
    assert "in commit\n" in hung.story
    assert re.search(r"^last transitions:\n  \S", hung.story, re.MULTILINE)


@pytest.mark.parametrize(
    ("moved", "now", "told"),
    [
        (0.0, 150.0, ""),
        (0.0, 170.0, "70 s"),
        (165.0, 220.0, ""),
        (165.0, 230.0, "65 s"),
        (330.0, 340.0, ""),
        (330.0, 341.0, "241 s, though its calls return"),
    ],
)
def test_a_call_without_an_end_is_a_hang_and_so_are_calls_without_end(moved: float, now: float, told: str) -> None:
    """A sync, with the tester's checks after it, makes short calls for minutes on a slow store: that is none."""
    activity = Activity(1, Operation("fsync", 0), 0, since=100.0, start=0, end=4096, begun=1, moved=moved)
    found = [f"writer 1: fsync of file 0, still running after {told}"] if told else []
    assert overdue({1: activity}, now, 60.0) == found


def test_calls_that_return_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of threads and of tasks are noted; those that raise too."""
    moved: list[int] = []
    monkeypatch.setattr(World, "move", lambda self, worker: moved.append(worker))
    clean(Plan(seed=1, **PATIENT | {"patience": 60}, threads=2, tasks=2, operations=20), "memory:")
    assert set(moved) == {1, 2, 3, 4}


def test_a_hang_says_which_invariant_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the first lines; nothing is there if all hold, or if a check hangs as well."""
    target = SimpleNamespace()
    with PageCache("1MiB") as target.cache:
        assert "is broken" not in state(["late"], target, None)

        def finds(cache: PageCache) -> None:
            raise AssertionError("I-3: a page has two marks\nand what was done last")

        monkeypatch.setattr(PageCache, "check", finds)
        assert state(["late"], target, None).startswith("late\nthe cache is broken: I-3: a page has two marks\n")
        free = threading.Event()
        monkeypatch.setattr(hang, "CHECK", 0.01)
        monkeypatch.setattr(PageCache, "check", lambda cache: free.wait(100))
        try:
            assert "is broken" not in state(["late"], target, None)
        finally:
            free.set()


def test_the_stacks_of_tasks_are_reported_too() -> None:
    async def sleeping() -> None:
        await asyncio.Event().wait()

    async def looked() -> dict[str, list[str]]:
        task = asyncio.create_task(sleeping(), name="a task that waits")
        await asyncio.sleep(0)
        try:
            return stacks(asyncio.get_running_loop())
        finally:
            task.cancel()

    found = asyncio.run(looked())
    assert any("sleeping" in line for line in found["task a task that waits"])
