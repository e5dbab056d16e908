"""Stores with few operations, or whose backends cannot be made twice."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from pagecache import Backend, BackendFile, BackendLimits, ObjectStat
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend
from pagecache.errors import Key
from pagecache.stress import Plan, run
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.objects import Objects
from pagecache.target import Target

from ..file.rig import raises

HERE = "python:tests.stress.test_few_operations"
WHERE = "PAGECACHE_FEW_OPERATIONS"


def plan(**fields: Any) -> Plan:
    few: dict[str, Any] = {"threads": 2, "tasks": 0, "files": 2, "size": "64KiB", "capacity": "128KiB"}
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1, "operations": 40} | few | fields))


class Bare(Backend):
    """A store with reads and writes only, over a directory; its only names are those that it makes."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.limits = BackendLimits()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return self.inner.open(key, create=create, exclusive=exclusive)

    def stat(self, key: Key) -> ObjectStat:
        return self.inner.stat(key)


class Removing(Bare):
    """A Bare store that can remove objects, and not rename them."""

    def remove(self, key: Key) -> None:
        self.inner.remove(key)


@pytest.mark.long
@pytest.mark.parametrize("kind", [Bare, Removing])
def test_a_store_that_forgets_and_has_no_renames_is_clean(tmp_path: Path, kind: type[Bare]) -> None:
    """The report lists the operations that the store lacks, with crashes and without. [I-21]"""
    expected = f"{kind.__name__} cannot rename objects"
    for crashes in ("none", "forgetting"):
        asked = plan(crashes=(crashes,), profile="metadata", operations=60)
        report = run(asked, lambda: kind(DirectoryBackend(tmp_path)))
        assert report.ok, report.story
        # None: a crash ended each publish before its rename
        assert report.skipped.get("publish") in (expected, *((None,) if crashes == "forgetting" else ()))


def test_a_store_that_forgets_refuses_the_names_that_the_store_below_refuses(tmp_path: Path) -> None:
    """The error is the sentence of that store, before any bytes change. [I-21]"""
    bare = Bare(DirectoryBackend(tmp_path))
    objects = Objects(plan(), 1, bare, "bare")
    objects.choose_keys()
    store = ForgettingBackend(bare, cannot=objects.cannot)
    raises(io.UnsupportedOperation, store.rename, "a", "b", match=r"Bare cannot rename objects$")
    raises(io.UnsupportedOperation, store.remove, "a", match=r"Bare cannot remove objects$")


def test_the_same_seed_again_is_clean_on_a_store_where_nothing_can_be_removed(tmp_path: Path) -> None:
    """Objects of earlier runs stay as they are."""
    for runs in (1, 2, 3):
        report = run(plan(), lambda: Bare(DirectoryBackend(tmp_path)))
        assert report.ok, report.story
        assert len({path.name.rpartition("-file")[0] for path in tmp_path.glob("*-file0")}) == runs
        assert report.skipped["removal of the files"] == "Bare cannot remove objects"


MADE: list[Any] = []
CLOSED: list[Any] = []


class Counted(PassingBackend):
    def close(self) -> None:
        CLOSED.append(self)


def counted() -> Backend:
    MADE.append(Counted(DirectoryBackend(os.environ[WHERE])))
    return MADE[-1]  # type: ignore[no-any-return]


def only_one() -> Backend:
    if MADE:
        raise BlockingIOError(errno.EAGAIN, "the store is locked")
    MADE.append(MemoryBackend())
    return MADE[0]  # type: ignore[no-any-return]


def test_a_second_backend_that_the_factory_gave_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never used later: what it has read may be outdated then. One that cannot be made is no failure: its users
    lock the store.
    """
    monkeypatch.setenv(WHERE, str(tmp_path))
    MADE.clear()
    CLOSED.clear()
    target = Target(f"{HERE}:counted", {})
    assert target.make() is MADE[0]
    assert MADE[1:] == CLOSED
    assert target.make() is MADE[-1]
    assert len(MADE) == 3
    MADE.clear()
    assert isinstance(Target(f"{HERE}:only_one", {}).make(), MemoryBackend)
