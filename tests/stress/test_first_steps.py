"""First steps of a backend author: mistakes that show before anything runs, and stores with few operations."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pagecache import Backend, BackendFile, BackendLimits, ObjectStat
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key
from pagecache.stress import Plan, UnusableTarget, run
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.job import Run
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.objects import Objects
from pagecache.target import Target

from .planted import MakesTwo, Planted

FIELDS: dict[str, Any] = {"threads": 2, "tasks": 0, "files": 2, "size": "64KiB", "capacity": "128KiB", "operations": 40}


def plan(**fields: Any) -> Plan:
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1} | FIELDS | fields))


class TakesAPage(PassingFile):
    """A file that stores a page of each call, and acknowledges all of it."""

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        self.inner.write_from(offset, [memoryview(data[:4096])])
        return len(data)


def test_a_file_that_is_wrong_without_any_cache_is_remarked() -> None:
    """This clears the cache of suspicion, and the report names the place of the backend's mistake."""
    report = run(plan(seed=3), lambda: Planted(TakesAPage))
    assert (report.ok, report.kind) == (False, "data")
    remarks = [text for text in report.story.splitlines() if text.startswith("remark: ")]
    assert remarks
    assert "was wrong before anything ran, by the backend alone" in remarks[0]
    assert "4096 bytes, where" in remarks[0]


def test_a_mistake_that_shows_only_later_is_not_called_one_of_the_backend_alone() -> None:
    class LosesLater(PassingFile):
        writes = 0

        def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
            LosesLater.writes += 1
            if LosesLater.writes > 20:
                return sum(map(len, buffers))
            return self.inner.write_from(offset, buffers)

    report = run(plan(operations=150), lambda: Planted(LosesLater))
    assert not report.ok
    assert "before anything ran" not in report.story


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


def test_a_backend_that_waits_for_itself_while_files_are_made_is_a_hang() -> None:
    """The run does not wait forever, and the stacks name the place."""
    report = run(plan(patience=1.0), LocksTwice)
    assert (report.ok, report.kind) == (False, "hang")
    assert "making the files does not end" in report.story
    assert any("LocksTwice" in line or "with self._mine" in line for line in report.story.splitlines())


def test_a_backend_that_raises_while_files_are_made_is_reported_with_its_traceback() -> None:
    report = run(plan(), lambda: MakesTwo(RuntimeError("a planted mistake")))
    assert (report.ok, report.kind) == (False, "error")
    assert "making the files" in report.story
    assert "a planted mistake" in report.story


def test_a_backend_that_takes_no_key_is_unusable() -> None:
    class Nothing(MemoryBackend):
        def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
            raise RuntimeError("not today")

    with pytest.raises(UnusableTarget, match=r"no object can be made.*not today"):
        run(plan(), Nothing)


def test_an_unexplained_error_is_reported_with_its_place() -> None:
    class NoRoom(PassingFile):
        def truncate(self, size: int) -> None:
            raise PermissionError(errno.EACCES, "no cutting here")

    report = run(plan(mix=("buffered", "truncate"), duration=240, rounds=0), lambda: Planted(NoRoom))
    assert (report.ok, report.kind) == (False, "error")
    assert "no cutting here" in report.story
    assert ", file " in report.story.splitlines()[1]


# -- stores with few operations


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
    reasons: dict[str, str | None] = {}
    for crashes in ("none", "forgetting"):
        fields: dict[str, Any] = {"crashes": (crashes,), "profile": "metadata", "operations": 60}
        report = run(plan(**fields), lambda: kind(DirectoryBackend(tmp_path)))
        assert report.ok, report.story
        reasons[crashes] = report.skipped.get("publish")
    expected = f"{kind.__name__} cannot rename objects"
    assert reasons["none"] == expected
    assert reasons["forgetting"] in (expected, None)  # None: a crash ended each publish before its rename


def test_a_store_that_forgets_refuses_the_names_that_the_store_below_refuses(tmp_path: Path) -> None:
    """The error is the sentence of that store, before any bytes are touched. [I-21]"""
    bare = Bare(DirectoryBackend(tmp_path))
    objects = Objects(plan(), 1, bare, "bare")
    objects.choose_keys()
    store = ForgettingBackend(bare, cannot=objects.cannot)
    with pytest.raises(io.UnsupportedOperation, match=r"Bare cannot rename objects$"):
        store.rename("a", "b")
    with pytest.raises(io.UnsupportedOperation, match=r"Bare cannot remove objects$"):
        store.remove("a")


def test_the_same_seed_again_is_clean_on_a_store_where_nothing_can_be_removed(tmp_path: Path) -> None:
    """Objects of earlier runs stay untouched."""
    for runs in (1, 2, 3):
        report = run(plan(), lambda: Bare(DirectoryBackend(tmp_path)))
        assert report.ok, report.story
        assert len({path.name.rpartition("-file")[0] for path in tmp_path.glob("*-file0")}) == runs
        assert report.skipped["removal of the files"] == "Bare cannot remove objects"


class ReadsItsIndexOnce(PassingBackend):
    """A backend that lists its objects once, when it is made, and adds those that it makes."""

    def __init__(self, inner: DirectoryBackend) -> None:
        super().__init__(inner)
        self._known = {str(stat.key) for stat in inner.list()}

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        if not create and str(key) not in self._known:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        self._known.add(str(key))
        return super().open(key, create=create, exclusive=exclusive)

    def stat(self, key: Key) -> ObjectStat:
        if str(key) not in self._known:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return super().stat(key)

    def close(self) -> None:
        super().close()
        CLOSED.append(self)


CLOSED: list[ReadsItsIndexOnce] = []


def of_the_environment() -> Backend:
    made = ReadsItsIndexOnce(DirectoryBackend(os.environ["PAGECACHE_FIRST_STEPS"]))
    ALIVE.append(made)
    return made


ALIVE: list[ReadsItsIndexOnce] = []


def test_a_second_backend_that_the_factory_gave_is_closed_and_never_used_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of objects is outdated at the end."""
    monkeypatch.setenv("PAGECACHE_FIRST_STEPS", str(tmp_path))
    ALIVE.clear()
    CLOSED.clear()
    target = Target("python:tests.stress.test_first_steps:of_the_environment", {})
    first = target.make()
    assert first is ALIVE[0]
    assert ALIVE[1:] == CLOSED
    assert target.make() is ALIVE[-1]
    assert len(ALIVE) == 3


def test_a_factory_that_gives_one_at_a_time_is_no_failure() -> None:
    """Its users lock the store."""
    ONE.clear()
    target = Target("python:tests.stress.test_first_steps:only_one", {})
    assert isinstance(target.make(), MemoryBackend)


ONE: list[MemoryBackend] = []


def only_one() -> MemoryBackend:
    if ONE:
        raise BlockingIOError(errno.EAGAIN, "the store is locked")
    ONE.append(MemoryBackend())
    return ONE[0]


def test_the_error_of_linux_for_direct_io_beside_a_mapping_has_a_hint(tmp_path: Path) -> None:
    """It is a finding, and nothing that a file system could mend. [I-18]"""

    class Says(MountedTarget):
        def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    asked = plan(mix=("buffered",))
    report = Run(asked, make=lambda asked, number: Says(asked, number, str(tmp_path))).run()
    assert (report.ok, report.kind) == (False, "error")
    assert "raised OSError: [Errno 5]" in report.story
    assert "O_DIRECT beside a mapping" in report.story
