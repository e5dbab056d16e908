"""Names and objects that all workers share: the model of the names, and mistakes that only they show."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache.backends import Backend, MemoryBackend
from pagecache.stress import Plan, run
from pagecache.stress.bindings import Binding, Names, Sight
from pagecache.stress.history import Clock
from pagecache.stress.profiles import KINDS, PROFILES
from pagecache.stress.shrinker import shrink

SHARED: dict[str, Any] = {"profile": "names", "mix": ("shared",), "size": "64KiB", "files": 1, "rounds": 1}


def binding(name: str, *values: int | None, source: str = "") -> Binding:
    return Binding(name, "call", 1, frozenset(values), source)


@pytest.fixture
def names() -> Names:
    return Names(("a", "b", "c"), Clock())


def bound(names: Names, *bindings: Binding) -> None:
    """Bind names by a call that has returned."""
    names.begin(bindings)
    names.finish(bindings)


def found(names: Names, name: str) -> frozenset[int | None]:
    return Sight(names).of(name)


def test_a_name_has_the_value_of_the_last_call_that_returned(names: Names) -> None:
    assert found(names, "a") == {None}
    bound(names, binding("a", 1))
    bound(names, binding("a", 2))
    assert found(names, "a") == {2}


def test_a_running_call_leaves_both_values(names: Names) -> None:
    bound(names, binding("a", 1))
    names.begin([binding("a", 2)])
    assert found(names, "a") == {1, 2}


def test_a_failed_call_leaves_both_values_for_good(names: Names) -> None:
    bound(names, binding("a", 1))
    failed = [binding("a", 2)]
    names.begin(failed)
    names.finish(failed, certain=False)
    assert found(names, "a") == {1, 2}
    names.settle("a", frozenset({2}))
    assert found(names, "a") == {2}


def test_a_call_finds_each_value_that_a_name_had_while_it_ran(names: Names) -> None:
    bound(names, binding("a", 1))
    sight = Sight(names)
    for number in range(2, 200):
        bound(names, binding("a", number))
    assert sight.of("a") == set(range(1, 200))
    sight.end()


def test_a_rename_moves_each_value_that_its_source_had_while_it_ran(names: Names) -> None:
    bound(names, binding("a", 1))
    rename = [binding("a", None), binding("b", source="a")]
    names.begin(rename)
    bound(names, binding("a", 2))
    assert found(names, "b") == {None, 1, 2}
    names.finish(rename)
    assert found(names, "b") == {1, 2}
    assert found(names, "a") == {None, 2}


def test_renames_in_a_circle_move_what_each_of_the_names_had(names: Names) -> None:
    bound(names, binding("a", 1))
    bound(names, binding("b", 2))
    there, back = ([binding(one, None), binding(other, source=one)] for one, other in ("ab", "ba"))
    names.begin(there)
    names.begin(back)
    names.finish(there)
    names.finish(back)
    assert found(names, "a") == found(names, "b") == {None, 1, 2}


def test_workers_share_names_and_nothing_is_found() -> None:
    """Each operation of the way runs, by threads and tasks."""
    report = run(Plan(seed=1, threads=4, tasks=4, operations=100, **SHARED))
    assert report.ok, report.story
    done = {key.split(" | ")[0] for key in report.coverage}
    assert {kind for kind in PROFILES["names"].weights if KINDS[kind] == "shared"} <= done


class Keeps(MemoryBackend):
    """A rename leaves the source."""

    def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        content = bytearray(self.stat(src).size)
        self.open(src).read_into(0, [memoryview(content)])
        if self._there(dst):
            self.remove(dst)
        self.open(dst, create=True).write_from(0, [memoryview(bytes(content))])

    def _there(self, key: Any) -> bool:
        try:
            self.stat(key)
        except FileNotFoundError:
            return False
        return True


class Forgets(MemoryBackend):
    """Every third remove does nothing."""

    count = 0

    def remove(self, key: Any) -> None:
        self.stat(key)
        self.count += 1
        if self.count % 3:
            super().remove(key)


class Refuses(MemoryBackend):
    """A rename over an object finds no source."""

    def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        try:
            self.stat(dst)
        except FileNotFoundError:
            super().rename(src, dst, replace=replace)
        else:
            raise FileNotFoundError(errno.ENOENT, "no such object", src)


@pytest.mark.parametrize("make", [Keeps, Forgets, Refuses])
def test_a_store_that_confuses_names_is_found(make: Callable[[], Backend]) -> None:
    """The story has the name and the calls that bound it."""
    report = run(Plan(seed=1, threads=4, tasks=0, operations=100, scheduler="deterministic", **SHARED), make)
    assert not report.ok
    assert "shared" in report.story
    assert "before: " in report.story


def test_a_failure_is_reduced_to_a_few_operations_on_shared_names() -> None:
    plan = Plan(seed=1, threads=4, tasks=0, operations=100, scheduler="deterministic", **SHARED)
    found = shrink(plan, Refuses, seconds=20)
    assert found.operations < 10, found.story
    assert not run(Plan.from_replay(found.report.replay), Refuses).ok
