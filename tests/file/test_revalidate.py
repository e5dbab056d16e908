"""Opens that take a version of a short time ago. [2.19, 2.20]"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pagecache import ConflictError, Key, ObjectStat
from pagecache.backends import DirectoryBackend
from pagecache.engine import volume as engine_volume

from ..stores import ObjectBackend, ObjectFile, RecordingBackend, StoredObject
from .clock import HandClock
from .rig import KEY, PAGE, Make, Patch, Rig, attached, content_of, pattern, raises, stored

DATA, OTHER = pattern(2 * PAGE), pattern(2 * PAGE, 7)


def asked(store: RecordingBackend) -> int:
    return len(store.seen("stat"))


@pytest.fixture
def store() -> ObjectBackend:
    return ObjectBackend({KEY: DATA})


@pytest.fixture
def rig(make: Make, clock: HandClock, store: ObjectBackend) -> Rig:
    return make(backend=store, options={"revalidate": 10.0})


def read(rig: Rig, key: str = KEY, revalidate: float | None = None) -> bytes:
    with rig.volume.open(key, "rb", revalidate=revalidate) as file:
        return bytes(file.pread(len(DATA), 0))


def test_a_version_that_was_just_seen_is_not_asked_for_again(rig: Rig, clock: HandClock, store: ObjectBackend) -> None:
    assert read(rig) == DATA
    store.put(KEY, OTHER)
    clock.advance(9.9)
    assert read(rig) == DATA
    assert asked(store) == 0
    clock.advance(0.2)
    assert read(rig) == OTHER
    assert asked(store) == 1
    assert read(rig) == OTHER
    assert asked(store) == 1


def test_the_option_of_an_open_overrules_that_of_the_volume(rig: Rig, store: ObjectBackend) -> None:
    assert read(rig) == DATA
    store.put(KEY, OTHER)
    assert read(rig, revalidate=None) == DATA
    assert read(rig, revalidate=0) == OTHER


def test_a_commit_of_this_cache_has_seen_its_version(rig: Rig, clock: HandClock, store: ObjectBackend) -> None:
    assert read(rig) == DATA
    clock.advance(9)
    stored(rig.volume, KEY, OTHER, "r+b")
    clock.advance(9)
    assert read(rig) == OTHER
    assert asked(store) == 0


@pytest.mark.parametrize("announced", [True, False])
def test_another_version_that_is_announced_or_met_is_looked_at(rig: Rig, store: ObjectBackend, announced: bool) -> None:
    """Met by a read that is not cached: the next open takes it."""
    with rig.volume.open(KEY, "rb") as file:
        version = store.put(KEY, OTHER)
        if announced:
            rig.volume.invalidate_remote(KEY, version=version)
        else:
            raises(OSError, file.pread, PAGE, 0)
    assert read(rig) == OTHER


def test_another_name_of_an_object_is_looked_at(tmp_path: Path) -> None:
    """A look concerns one name: another one may lead to another object by now. [2.20]"""
    path, linked, other = tmp_path / KEY, tmp_path / "linked", tmp_path / "other"
    path.write_bytes(DATA)
    linked.hardlink_to(path)
    other.write_bytes(OTHER)
    with attached(DirectoryBackend(tmp_path), "4MiB", options={"revalidate": 10.0}) as volume:
        volume.open("linked", "rb").close()
        volume.open(KEY, "rb").close()
        other.rename(linked)
        assert content_of(volume, "linked")[: len(OTHER)] == OTHER


def looks(make: Make, names: bool) -> tuple[Rig, RecordingBackend]:
    """A volume on whole objects, or on objects in place, of a store that has names only."""
    backend = RecordingBackend({KEY: DATA}, by_name=True, max_write=PAGE) if names else ObjectBackend({KEY: DATA})
    return make(backend=backend), backend


NAMES = pytest.mark.parametrize("names", [True, False], ids=["in place", "whole"])


@NAMES
def test_a_look_by_name_finds_what_another_program_has_done_with_a_clean_open_object(make: Make, names: bool) -> None:
    """What the handle shows does not change. [2.19, 2.20]"""
    rig, backend = looks(make, names)
    with rig.volume.open(KEY, "rb", read_ahead=0) as file:
        assert file.pread(len(DATA), 0) == DATA
        assert rig.volume.exists(KEY)
        backend.remove(KEY)
        assert not rig.volume.exists(KEY)
        raises(FileNotFoundError, rig.volume.stat, KEY)
        backend.objects[KEY] = StoredObject(OTHER + OTHER)
        assert rig.volume.stat(KEY).size == 2 * len(OTHER)
        assert file.pread(len(DATA), 0) == DATA


@NAMES
@pytest.mark.parametrize("first", ["write", "remove"])
def test_unsaved_bytes_are_shown_by_a_name_another_program_has_removed(make: Make, names: bool, first: str) -> None:
    """Until they are given up; nothing has looked at the name. [2.19, 2.20]"""
    rig, backend = looks(make, names)
    with rig.volume.open(KEY, "r+b", read_ahead=0) as file:
        if first == "write":
            file.pwrite(OTHER + OTHER, 0)
        backend.remove(KEY)
        if first == "remove":
            file.pwrite(OTHER + OTHER, 0)
        assert rig.volume.exists(KEY)
        assert rig.volume.stat(KEY).size == 2 * len(OTHER)
        file.abandon()
    assert not rig.volume.exists(KEY)


def test_a_look_by_name_believes_a_version_that_was_just_seen(rig: Rig, clock: HandClock, store: ObjectBackend) -> None:
    with rig.volume.open(KEY, "rb") as file:
        clock.advance(9.9)
        assert rig.volume.exists(KEY)
        assert asked(store) == 0
        clock.advance(0.2)
        assert rig.volume.stat(KEY).size == len(DATA)
        assert asked(store) == 1
        clock.advance(9.9)
        assert read(rig) == DATA  # an open takes the version of the look
        assert asked(store) == 1
        store.remove(KEY)
        assert rig.volume.exists(KEY)
        clock.advance(0.2)
        assert not rig.volume.exists(KEY)
        assert file.pread(len(DATA), 0) == DATA


MANY: dict[Any, bytes] = {f"object {k}": pattern(PAGE, k) for k in range(32)}


class SeenFile(ObjectFile):
    """It stays with the version that it was opened with."""

    @property
    def seen(self) -> tuple[str | None, bytes]:
        return self.version, self.base

    def stat(self) -> ObjectStat:
        return ObjectStat(size=len(self.base), version=self.version)


class SeenStore(ObjectBackend):
    """Its `open` needs no look for a version that a closed file has seen. Other opens look."""

    def open(
        self, key: Key, *, create: bool = False, exclusive: bool = False, seen: tuple[str, bytes] | None = None
    ) -> ObjectFile:
        if seen is None:
            self.stat(key)
        found = SeenFile(self, key, super().open(key, create=create, exclusive=exclusive).stored)
        if seen is not None:
            found.version, found.base = seen
        return found


@pytest.fixture
def seen(make: Make, clock: HandClock, monkeypatch: Patch) -> tuple[Rig, SeenStore]:
    """All objects are cached; the files of most of them are closed."""
    monkeypatch.setattr(engine_volume, "IDLE_FILES_MAX", 8)
    backend = SeenStore(dict(MANY))
    rig = make(backend=backend, options={"revalidate": 10.0}, capacity=4 * len(MANY) * PAGE)
    for key, content in MANY.items():
        assert read(rig, key) == content
    assert asked(backend) == len(MANY)
    backend.forget_calls()
    return rig, backend


def test_a_version_is_believed_as_long_as_its_bytes_are_cached(seen: tuple[Rig, SeenStore], clock: HandClock) -> None:
    """Also after the backend file was closed, because too many are open; an open without a look is none. [2.19]"""
    rig, backend = seen
    clock.advance(9.9)
    for key, content in MANY.items():
        assert rig.volume.stat(key).size == PAGE
        assert read(rig, key) == content
    assert asked(backend) == 0
    clock.advance(0.2)
    for key, content in MANY.items():
        assert read(rig, key) == content
    assert asked(backend) == len(MANY)
    assert len(rig.volume.engine.idle_files()) <= 8


@pytest.mark.parametrize("how", ["announced", "announced beside", "later", "exclusive", "renamed", "reconnected"])
def test_a_closed_object_is_looked_at(seen: tuple[Rig, SeenStore], clock: HandClock, how: str) -> None:
    """If the version was announced to be another, or nothing was seen under this name of this backend. [2.19, 2.22]"""
    rig, backend = seen
    key = next(iter(MANY))
    version = backend.put(key, OTHER)
    if how == "announced":
        rig.volume.invalidate_remote(key, version=version)
    elif how == "announced beside":
        checked = backend.open

        def announcing(name: Key, *, seen: Any = None, **options: bool) -> ObjectFile:
            backend.open = checked  # type: ignore[method-assign]
            rig.volume.invalidate_remote(key, version=version)
            return checked(name, seen=seen, **options)

        backend.open = announcing  # type: ignore[assignment, method-assign]
        with contextlib.suppress(ConflictError):  # the open is the earlier one
            read(rig, key)
    elif how == "later":
        clock.advance(10.1)
    elif how == "exclusive":
        raises(FileExistsError, rig.volume.open, key, "xb")
        assert asked(backend) == 1
        return
    elif how == "renamed":
        rig.volume.rename(key, "new")
        key = "new"
    else:
        rig.volume.reconnect(rig.volume.backend)
    assert read(rig, key) == OTHER
    assert asked(backend)


def test_a_write_over_a_version_that_was_only_believed_is_a_conflict(seen: tuple[Rig, SeenStore]) -> None:
    """It replaces the version that was seen, and no other. [2.19]"""
    rig, backend = seen
    key = next(iter(MANY))
    backend.put(key, OTHER)
    file = rig.volume.open(key, "r+b")
    file.pwrite(b"ours", 0)
    raises(ConflictError, file.fsync)
    file.abandon()
    assert bytes(backend.content(key)) == OTHER
