"""A store that forgets uncommitted bytes: which of them it keeps, and the findings of crash rounds with it."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.errors import DataLossError, Key
from pagecache.stress import Plan, directed
from pagecache.stress.cached import CachedTarget
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.job import Run
from pagecache.stress.objects import write_whole

from ..file.rig import Patch, Task, at_gate, held, raises
from ..stores import RecordingBackend
from . import clean
from .planted import FlushesOnly

SMALL: dict[str, Any] = {"threads": 3, "tasks": 2, "files": 2, "size": "128KiB", "capacity": "256KiB", "operations": 60}


class Nothing(random.Random):
    """A chooser that keeps none of the forgettable blocks."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: object) -> object:  # type: ignore[override]
        return 0.0


class Half(random.Random):
    """A chooser that keeps about every other block."""

    def choice(self, seq: object) -> object:  # type: ignore[override]
        return 0.5


def written(backend: ForgettingBackend, key: str, content: bytes) -> None:
    assert backend.open(key, create=True).write_from(0, [memoryview(content)]) == len(content)


def test_only_committed_bytes_survive() -> None:
    """Bytes, sizes, holes and creations since the last commit are gone; before the crash they were there."""
    inner = MemoryBackend()
    inner.put("f", b"old" * 100)
    store = ForgettingBackend(inner)
    file = store.open("f")
    file.write_from(0, [memoryview(b"new")])
    file.commit()
    file.write_from(3, [memoryview(b"new")])
    file.truncate(50)
    written(store, "g", b"made")
    room = bytearray(60)
    assert file.read_into(0, [memoryview(room)]) == 50
    assert bytes(room[:9]) == b"newnewold"
    assert (store.stat("f").size, store.stat("g").size) == (50, 4)
    store.crash(Nothing())
    assert inner.snapshot("f") == b"new" + b"old" * 99
    assert [stat.key for stat in inner.list()] == ["f"]
    raises(OSError, file.stat, match="the store is gone")


def test_names_are_kept_by_sync_and_those_of_an_object_by_its_commit() -> None:
    inner = MemoryBackend()
    for key in ("a", "b", "c"):
        inner.put(key, key.encode())
    store = ForgettingBackend(inner)
    store.rename("a", "x")
    store.open("x").commit()
    store.remove("b")
    assert sorted(str(stat.key) for stat in inner.list()) == ["b", "c", "x"]
    store.sync()
    store.rename("c", "d")
    store.crash(Nothing())
    assert sorted(str(stat.key) for stat in inner.list()) == ["c", "x"]


def test_an_open_file_has_no_name_once_it_is_removed_or_replaced(tmp_path: Path) -> None:
    """The inner backend has the name still: the removal waits for a `sync`."""
    store = ForgettingBackend(DirectoryBackend(tmp_path))
    files = {key: store.open(key, create=True) for key in "abc"}
    store.sync()
    store.remove("a")
    store.rename("b", "c")
    for carried_over in (False, True):
        assert {key: file.stat().nlink for key, file in files.items()} == {"a": 0, "b": 1, "c": 0}, carried_over
        store.sync()


def test_a_name_that_is_carried_over_is_never_seen_halfway(monkeypatch: Patch) -> None:
    """The volume renamed it long before: for its opens the old name has no object. Halfway, it leads to the new one."""
    inner = MemoryBackend()
    inner.put("x", b"x")
    store = ForgettingBackend(inner)
    store.rename("x", "y")
    gate = held(monkeypatch, inner, "rename", after=True)

    def canonical(key: Key) -> Key:
        return "y" if key == "x" and not gate.release.is_set() else key

    _, syncing = at_gate(gate, store.sync)
    monkeypatch.setattr(inner, "canonical", canonical)
    asking = Task(store.canonical, "x")
    asking.waits()
    syncing.result(opening=gate)
    assert asking.result() == "x"


def test_a_crash_leaves_any_blocks_of_what_was_not_committed() -> None:
    """Each block is chosen alone: some have the new write, the rest their old content."""
    inner = MemoryBackend()
    inner.put("f", b"o" * 64 * 512)
    store = ForgettingBackend(inner)
    written(store, "f", b"n" * 64 * 512)
    store.crash(Half(1))
    blocks = {inner.snapshot("f")[at : at + 512] for at in range(0, 64 * 512, 512)}
    assert blocks == {b"o" * 512, b"n" * 512}


def test_a_commit_is_of_what_came_before_it(monkeypatch: Patch) -> None:
    """Bytes acknowledged while it lingers belong to the next one. [2.17, T-75a]"""
    inner = MemoryBackend()
    store = ForgettingBackend(inner)
    file = store.open("f", create=True)
    file.write_from(0, [memoryview(b"before")])
    gate, committing = at_gate(held(monkeypatch, store, "linger"), file.commit)
    file.write_from(6, [memoryview(b" beside")])
    committing.result(opening=gate)
    assert inner.snapshot("f") == b"before"
    file.commit()
    assert inner.snapshot("f") == b"before beside"


def test_an_object_that_takes_the_name_of_another_one_before_its_commit_has_nothing_of_it() -> None:
    """If objects become visible by commit, the previous one is there until then, and whole."""
    inner = MemoryBackend()
    inner.put("f", b"old" * 100)
    store = ForgettingBackend(inner, replace(inner.limits, commit_on_close=True))
    file = store.open("new", create=True)
    file.write_from(0, [memoryview(b"new")])
    store.rename("new", "f")
    assert inner.snapshot("f") == b"old" * 100
    file.commit()
    assert inner.snapshot("f") == b"new"
    assert (store.stat("f").size, file.stat().size) == (3, 3)
    file.write_from(0, [memoryview(b"given up")])
    file.rollback()  # type: ignore[attr-defined]
    assert file.stat().size == 3


def test_a_whole_object_has_the_version_of_its_last_commit(monkeypatch: Patch) -> None:
    """And a draft has none: a crash would leave another version than the cache has seen."""
    inner = MemoryBackend()
    store = ForgettingBackend(inner, replace(inner.limits, commit_on_close=True))
    file = store.open("draft", create=True)
    assert file.stat().version is None
    gate, committing = at_gate(held(monkeypatch, store, "linger"), file.commit)
    file.write_from(0, [memoryview(b"beside the commit")])
    assert committing.result(opening=gate) == file.stat().version == inner.stat("draft").version


def test_a_store_with_durable_writes_may_not_forget() -> None:
    raises(ValueError, ForgettingBackend, MemoryBackend(durable_writes=True), match="durable_writes")


@pytest.mark.long
def test_runs_with_a_store_that_forgets_are_clean(tmp_path: Path) -> None:
    """The cache goes on with the store, or a new one takes over. [I-18, I-19, I-21, I-22]"""
    for seed, target in ((1, None), (2, None), (3, f"dir:{tmp_path}")):
        plan = Plan(seed=seed, duration=240, rounds=2, crashes=("forgetting",), **SMALL)
        report = clean(plan, target)
        assert report.counters["crashes: forgetting"] == 6
    assert list(tmp_path.iterdir()) == []


class KeepsQuiet(CachedTarget):
    """A loss with the store is never reported."""

    def reconnect(self, *, fenced: bool) -> None:
        super().reconnect(fenced=fenced)
        for ways in self.files:
            for handles in ways.values():
                for handle in handles:
                    with contextlib.suppress(DataLossError):
                        handle.flush()


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "story"), [(KeepsQuiet, "read again after the store came back"), (FlushesOnly, "the store after fsync")]
)
def test_mistakes_that_only_a_crash_shows_are_found(
    kind: type[CachedTarget], story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that does not report its losses, and an fsync that writes back and does not commit: each is clean while
    the store lives. [I-18, I-19, I-22]
    """
    monkeypatch.setattr(directed, "HELD", 1.0)  # a wait within a reconnect, for a call held until after it, is short
    plan = Plan(seed=1, duration=240, profile="database", crashes=("forgetting",), **SMALL)
    found = Run(plan, make=lambda plan, number: kind(plan, number, None, kind.__name__)).run()
    assert (found.ok, found.kind in ("crash", "data")) == (False, True), found.story
    assert story in found.story
    plan = Plan(seed=1, duration=1, rounds=1, profile="database", **SMALL)
    clean(plan, make=lambda plan, number: kind(plan, number, None, kind.__name__))


def test_no_call_for_an_object_crosses_a_boundary_of_its_backend() -> None:
    store = RecordingBackend(boundary=4096)
    write_whole(store.open("k", create=True), 100, bytes(9000), 3000, int(store.limits.boundary))
    calls = [(call.offset, call.offset + call.length) for call in store.seen("write_from")]
    assert calls == [(100, 3100), (3100, 4096), (4096, 7096), (7096, 8192), (8192, 9100)]
