"""Messages to a new author of a backend: one sentence with the value, the rule and the place, and no internals. Reports
have the operations around a failure as sentences, and the bytes that a lost update leaves.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pagecache import Backend, ObjectStat
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.backends.passing import PassingFile
from pagecache.errors import Key
from pagecache.stress import Plan, UnusableTarget, command, run, shrinker
from pagecache.stress.cached import CachedTarget
from pagecache.stress.command import read_replay
from pagecache.stress.crash import Forgetting
from pagecache.stress.history import Broken
from pagecache.stress.job import Run
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.oracle import values
from pagecache.stress.plan import seconds
from pagecache.stress.profiles import KINDS, MOVES, Operation
from pagecache.stress.report import exercised, narrative, sentence
from pagecache.stress.script import Script
from pagecache.stress.world import Activity, World

from ..check_backend.backends import Buffers, Mistaken, files, length, not_safe, refuse
from ..file.rig import raises
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


def takes_a_page(file: Any, offset: int, buffers: Buffers) -> int:
    """A page of each call is stored, and all of it is acknowledged."""
    file.inner.write_from(offset, [memoryview(b"".join(buffers)[:4096])])
    return length(buffers)


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


class Says(MountedTarget):
    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


ALONE = "was wrong before anything ran, by the backend alone"
STORIES: list[tuple[Any, dict[str, Any], str, str]] = [
    (files(write_from=takes_a_page), {"seed": 3}, "data", f"remark: .*{ALONE}.*4096 bytes, where"),
    # A lost write at the end of a file is an error of the read that ends too early.
    (files(write_from=loses_later), {"operations": 150}, "data or error", f"^(?!.*{ALONE})"),
    (
        files(read_into=read_fails),
        {},
        "error",
        r"^(?!.*Traceback).*not subscriptable.* \(in read_fails at .*test_messages.py:\d+\)",
    ),
    (files(truncate=lambda *_: refuse(errno.EACCES)), {"mix": "truncate", "duration": 240}, "error", "file .*refused"),
    (LocksTwice, {"patience": 1.0}, "hang", "making the files does not end.*with self._mine"),
    (lambda: MakesTwo(RuntimeError("a mistake")), {}, "error", "making the files: .*a mistake"),
    (lambda: MakesTwo(OSError(errno.ENOSPC, "full")), {}, "error", "take fewer --files or a smaller --size"),
]


@pytest.mark.parametrize(("make", "fields", "kind", "story"), STORIES)
def test_a_mistake_of_the_backend_is_reported_with_its_place(
    make: Callable[[], Backend], fields: dict[str, Any], kind: str, story: str
) -> None:
    """If a file is wrong without the cache, a remark clears it of suspicion."""
    report = run(plan(**fields), make)
    assert not report.ok
    assert report.kind in kind.split(" or "), report.story
    assert re.search(f"(?s){story}", report.story), report.story


def test_the_error_of_linux_for_direct_io_beside_a_mapping_has_a_hint(tmp_path: Path) -> None:
    """It is a finding, and nothing that a file system could mend. [I-18]"""
    report = Run(plan(mix="buffered"), make=lambda asked, number: Says(asked, number, str(tmp_path))).run()
    assert re.search(r"(?s)raised OSError: \[Errno 5\].*O_DIRECT beside a mapping", report.story), report.story


def test_an_error_of_the_backend_in_a_crash_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester's own stack says nothing about it."""

    def read_into(self: Forgetting, players: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such row")

    monkeypatch.setattr(Forgetting, "recover", read_into)
    report = run(plan(crashes="forgetting"), MemoryBackend)
    assert not report.ok
    assert "Traceback" not in report.story
    line = re.escape(f"(in read_into at {__file__}:") + r"\d+\)"
    assert re.search(rf"a crash: FileNotFoundError: \[Errno 2\] no such row {line}", report.story), report.story


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
    """It is not repeated for each form of keys that was tried, if each says the same."""
    with pytest.raises(UnusableTarget, match=message) as raised:
        run(plan(), target)
    assert "\n" not in str(raised.value)
    assert len(re.findall(message, str(raised.value))) == 1


def test_a_hang_names_the_calls_of_the_backend() -> None:
    """It omits the tester's own threads; threads at the same place are listed once."""
    free = threading.Event()

    class Hangs(PassingFile):
        def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
            self.wait()
            return self.inner.write_from(offset, buffers)

        def wait(self) -> None:
            if threading.current_thread().name.startswith("stress-rest"):
                return
            free.wait(100)

    try:
        report = run(
            plan(patience=1.0, threads=4, mix="through", operations=200), lambda: Mistaken(Hangs, MemoryBackend())
        )
    finally:
        free.set()
    assert (report.ok, report.kind) == (False, "hang"), report.story
    assert re.search(rf"is in a write of the backend for .* s, at {re.escape(__file__)}:\d+ in wait", report.story)
    assert "MainThread" not in report.story
    assert "stress-watchdog" not in report.story


class Keeps(MemoryBackend):
    remove = Backend.remove


def test_failed_operations_are_not_counted() -> None:
    report = run(plan(profile="metadata", operations=100), Keeps)
    assert report.ok, report.story
    assert "cannot remove" in report.skipped["remove"]
    assert "remove" not in report.kinds
    assert "not tried: remove: " in report.story


def test_occasional_operations_are_not_reported_as_untried() -> None:
    story = exercised(counters(), Counter(publish=1), "memory:", {"publish": "no renames", "zero": "none"})
    assert story.splitlines()[2:] == ["tried in part: publish: no renames", "not tried: zero: none"]


def counters() -> Counter[str]:
    return Counter(operations=1, rounds=1, rests=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "r.json: not a replay of pagecache stress: Expecting value"),
        ('{"version": 2}', "r.json: not a replay of pagecache stress: no version 1"),
        ('{"version": 1, "plan": {}, "target": 3}', "r.json: target: 3 is not text"),
        (
            '{"version": 1, "plan": {"script": {"contents": [0], "threads": [[[{"kind": "jump", "file": 0}]]]}}}',
            r"r.json: script\.threads\[0\]\[0\]\[0\]\.kind: 'jump' is not one of read, readv",
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
    found = shrinker.shrink(plan(script=Script((0, 0), ((writes,),))), files(write_from=zeros), seconds=time)
    assert ("stopped after 1e-09 s; more --shrink-time may make it smaller" in found.story) == (left == 2)
    assert found.operations == left


# -- the story


def test_each_kind_can_be_shown() -> None:
    for kind in KINDS:
        way = "buffered" if kind in MOVES else ""
        file = None if KINDS[kind] == "names" else 0
        text = sentence(Activity(1, Operation(kind, 0, way, 0, 10), file, 0.0, 0, 10, 1))
        assert text.endswith(", still running"), text


def test_a_crash_is_among_the_operations_of_all_workers() -> None:
    """It concerns all bytes, and belongs to no worker."""
    world = World(plan(), CachedTarget(plan(), 0, None, "memory:"), 0)
    world.crashed(world.clock.tick())
    (line,) = narrative(world, Broken("lost", "crash"))
    assert line.endswith("the tester crashed the tested system, and checked the remains")


def test_a_lost_update_is_reported_with_both_values() -> None:
    asked = Plan(seed=3, threads=6, tasks=0, files=1, size="64KiB", duration=20, operations=60)
    report = run(asked, files(write_from=not_safe))
    assert (report.ok, report.kind) == (False, "data")
    assert "seen: " not in report.story
    if "bytes" in report.story.splitlines()[1] and "wrong" in report.story.splitlines()[1]:
        assert re.search(r"\n  expected (zero|hex|0x|one of).*, found (zero|hex|0x)", report.story)


def test_values_say_in_which_base_they_are() -> None:
    assert values(bytes(1)) == "zero"
    assert values(bytes(8)) == "zeros"
    assert values(b"\x74") == "0x74 (116)"
    assert values(b"\x74\x00\xff") == "hex 74 00 ff"
