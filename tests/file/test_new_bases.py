"""An open finds another version while the cache's writes go on: the new version is adopted between two write-backs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pagecache import PageCache
from pagecache.backends import BackendFile, MemoryBackend
from pagecache.engine.file import EngineFile
from pagecache.native import NativeInode

from .rig import KEY, PAGE, Rig, Task, ended_or_behind, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)
OTHER = pattern(3 * PAGE, seed=1)
MINE = b"mine" * (PAGE // 4)


def test_an_open_does_not_take_a_size_that_a_commit_of_ours_has_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is local before and after: the size is the cache's own, and no page of the old version is left. [2.19,
    I-17]
    """
    store = MemoryBackend()
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache:
        volume = cache.attach(store)
        with volume.open(KEY, "r+") as file:
            file.pread(len(DATA), 0)
            store.put(KEY, OTHER[: 2 * PAGE])
            local, written = NativeInode.has_local, list[int]()

            def late(native: NativeInode) -> bool:
                found = local(native)
                if not written:
                    written.append(0)
                    assert not found
                    file.pwrite(MINE, 3 * PAGE)
                    file.fsync()
                return found

            monkeypatch.setattr(NativeInode, "has_local", late)
            volume.open(KEY).close()
            assert written
            expected = OTHER[: 2 * PAGE] + bytes(PAGE) + MINE
            assert (file.size, file.pread(5 * PAGE, 0)) == (4 * PAGE, expected)
            cache.check()
    assert store.snapshot(KEY) == expected


def test_work_under_the_token_hides_no_version_from_an_open_beside_it(make: Make) -> None:
    """The work may last longer than the call that waited for it: by itself it changes no stored byte. [2.19]"""
    rig = make({KEY: DATA})
    file = rig.open("rb")
    assert file.pread(len(DATA), 0) == DATA
    entered, over, at_work = threading.Event(), threading.Event(), list[threading.Thread]()

    def work() -> None:
        at_work.append(threading.current_thread())
        entered.set()
        over.wait(60)

    rig.volume.inodes[KEY].engine.settle(work)
    assert entered.wait(60)
    rig.backend.change_remotely(KEY, OTHER)
    opening = Task(rig.open, "rb")
    ended_or_behind(rig.cache, opening, at_work[0])
    over.set()
    assert opening.result().pread(len(DATA), 0) == OTHER
    assert file.pread(len(DATA), 0) == OTHER


def test_two_replacements_at_a_time_keep_every_old_file(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reconnect, an operation in old hands may replace the backend's file beside a new one: each file that was
    in use is closed with the object, none is forgotten. [K8]
    """
    rig = make({KEY: DATA})
    rig.open()
    engine = rig.volume.inodes[KEY].engine
    first, *fresh = engine.backend_file, rig.backend.open(KEY), rig.backend.open(KEY)
    entered, go_on = threading.Event(), threading.Event()

    class Slow:
        """The attribute `retired`; its first reader pauses before it goes on with the value."""

        def __get__(self, file: EngineFile, owner: object) -> tuple[BackendFile, ...]:
            found: tuple[BackendFile, ...] = file.__dict__.get("retired", ())
            if not entered.is_set():
                entered.set()
                go_on.wait(0.5)
            return found

        def __set__(self, file: EngineFile, files: tuple[BackendFile, ...]) -> None:
            file.__dict__["retired"] = files

    with monkeypatch.context() as patch:
        patch.setattr(EngineFile, "retired", Slow())
        one: Task[None] = Task(engine.replace_by, fresh[0])
        assert entered.wait(20)
        other: Task[None] = Task(engine.replace_by, fresh[1])
        other.finished.wait(0.2)  # it waits for the first one, or overtakes it
        go_on.set()
        one.result()
        other.result()
    assert engine.backend_file in fresh
    assert {first, *fresh} == {*engine.retired, engine.backend_file}
    assert engine.read_into == engine.opened().read_into
