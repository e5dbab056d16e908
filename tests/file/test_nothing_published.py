"""On a commit_on_close volume nothing is published without a request of its writer."""

from __future__ import annotations

import gc
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, UnsavedDataError
from pagecache.volume import lifetimes

from ..stores import ObjectBackend
from .rig import FAST, KEY, PAGE, Make, Rig, Task, eventually, pattern, raises, run_program

OLD = pattern(PAGE)
NEW = pattern(3 * PAGE, seed=1)


@pytest.fixture
def objects(make: Make) -> Rig:
    return make({KEY: OLD}, limits={"commit_on_close": True}, retry=FAST)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_handle_that_is_collected_publishes_nothing(objects: Rig) -> None:
    """Later events do not publish it: an exception, resize, the flusher. An explicit sync does. [T-77, 2.21]"""
    handles = [objects.volume.open(KEY, "r+b")]
    handles[0].pwrite(NEW, 0)
    held = handles[0]._inode
    handles.clear()
    gc.collect()
    eventually(lambda: held.handles == 0)
    objects.cache.resize("4MiB")
    objects.cache.configure(dirty_expire=0.001, flush_interval=0.01, dirty_background=PAGE)
    objects.cache.flusher.wake()
    for inode in lifetimes.withhold(objects.volume):
        assert inode is held
    caught = raises(UnsavedDataError, objects.cache.close, timeout=20)
    held.set_aside(withheld=False)
    assert [(r.key, r.offset, r.length) for r in caught.ranges] == [(KEY, 0, len(NEW))]
    assert objects.backend.seen("commit") == []
    assert objects.backend.committed(KEY) == OLD
    objects.volume.sync(20)
    assert objects.backend.committed(KEY) == NEW


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_object_whose_writer_was_collected_is_not_dropped_by_invalidate(objects: Rig) -> None:
    """It would have to be committed first. [2.18, 2.22]"""
    handles = [objects.volume.open(KEY, "r+b")]
    handles[0].pwrite(NEW, 0)
    inode = handles[0]._inode
    handles.clear()
    gc.collect()
    eventually(lambda: inode.handles == 0)
    raises(BlockingIOError, objects.volume.invalidate, KEY)
    assert objects.backend.seen("commit") == []


def test_resize_leaves_objects_uncommitted(make: Make) -> None:
    """This holds even if uncommitted data does not fit: BlockingIOError. [T-77, 2.22]"""
    options = {"spool": None}
    rig, file = make({KEY: b""}, capacity=256 * PAGE, limits={"commit_on_close": True}, options=options).opened("r+b")
    file.pwrite(bytes(100 * PAGE), 0)
    raises(BlockingIOError, lambda: Task(rig.cache.resize, 32 * PAGE).result())
    assert rig.backend.seen("commit") == []
    file.close()
    assert rig.backend.committed(KEY) == bytes(100 * PAGE)
    rig.cache.resize(32 * PAGE)


def test_memory_pressure_and_age_publish_nothing(make: Make) -> None:
    """At most, the flusher writes back. [2.11, 2.24]"""
    rig = make({KEY: b""}, capacity=128 * PAGE, limits={"commit_on_close": True}, dirty_background=PAGE)
    rig.cache.configure(dirty_expire=0.001, flush_interval=0.01)
    file = rig.open("r+b")
    file.pwrite(bytes(40 * PAGE), 0)
    eventually(lambda: rig.backend.seen("write_from"))
    file.flush()
    assert rig.backend.seen("commit") == []
    file.close()
    assert rig.backend.committed(KEY) == bytes(40 * PAGE)


ASKING: dict[str, Callable[[Rig, CachedFile], Any]] = {
    "fsync": lambda rig, file: file.fsync(),
    "close": lambda rig, file: file.close(),
    "sync": lambda rig, file: rig.volume.sync(20),
    "ticket": lambda rig, file: rig.volume.begin_sync().wait(20),
    "cache.sync": lambda rig, file: rig.cache.sync(20),
    "detach": lambda rig, file: rig.volume.detach(),
    "cache.close": lambda rig, file: rig.cache.close(),
    "with cache": lambda rig, file: rig.cache.__exit__(None, None, None),
}


@pytest.mark.parametrize("asking", ASKING)
def test_each_request_of_the_writer_publishes(objects: Rig, asking: str) -> None:
    """fsync, close, sync and tickets, close of the volume or the cache. [T-77, 2.22]"""
    file = objects.open("r+b")
    file.pwrite(NEW, 0)
    ASKING[asking](objects, file)
    assert objects.backend.committed(KEY) == NEW


def test_giving_up_an_object_rolls_its_upload_back(make: Make) -> None:
    """`on_failed="discard"` leaves nothing of it in the store. [2.22, 2.26]"""
    rig, file = make(backend=ObjectBackend({KEY: OLD}), retry=FAST).opened("r+b")
    file.pwrite(NEW, 0)
    file.sync_range(0, len(NEW))
    rig.backend.fault("commit", PermissionError(13, "no"), times=9)
    lost = rig.volume.detach(on_failed="discard")
    assert [(entry.offset, entry.length) for entry in lost] == [(0, len(NEW))]
    assert len(rig.backend.seen("rollback")) == 1


STORE = """
    import gc, os, sys, threading, time
    from pagecache import PageCache
    from pagecache.backends import MemoryBackend

    class Store(MemoryBackend):
        def open(self, key, **options):
            file = super().open(key, **options)
            class File:
                stat, read_into, truncate, write_from = file.stat, file.read_into, file.truncate, file.write_from
                def commit(self):
                    os.write(1, f"published {key}\\n".encode())
                    return file.commit()
            return File()
    cache = PageCache("1MiB", exit_timeout=5, flush_interval=3600, dirty_expire=3600)
    volume = cache.attach(Store(commit_on_close=True), name="store")
    closed = volume.open("closed", "wb")
    closed.pwrite(b"x" * 5000, 0)
    closed.close()
    file = volume.open("halfway", "wb")
    file.pwrite(b"x" * 5000, 0)
    """


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("sys.exit(4)", 4),
        ("1 / 0", 1),
        ("del file; gc.collect()\nwhile volume.inodes['halfway'].handles: time.sleep(0.001)", 0),
        ("with cache:\n    1 / 0", 1),
    ],
)
def test_exit_publishes_nothing(tmp_path: Path, ending: str, status: int) -> None:
    """The object is listed on stderr; the exit status is the program's. [T-77, T-52, 2.22]"""
    done = run_program(tmp_path, textwrap.dedent(STORE) + ending + "\n")
    assert done.returncode == status
    assert done.stdout == "published closed\n"
    assert "not saved: store: 'halfway' [0, 5000)" in done.stderr
