"""A newly created object has no version before it is committed."""

from __future__ import annotations

import os

import pytest

from pagecache import DataLossError
from pagecache.engine.file import EngineFile
from pagecache.native import NativeInode

from ..file.rig import PAGE, Patch, Task, eventually, raises
from ..stores import RecordingBackend
from .conftest import Attach
from .stores import Store


@pytest.mark.parametrize("written", [b"", b"bytes"])
def test_a_created_object_may_be_opened_again_though_its_file_names_a_version(attach: Attach, written: bytes) -> None:
    """An object that was created and not committed is there for open, stat and exists, and is one inode. [2.20]"""
    store = Store(commit_on_close=True)  # answers version 0 for an uncommitted object
    volume = attach(store)
    with volume.open("f", "w+") as one:
        one.pwrite(written, 0)
        assert volume.exists("f")
        assert volume.stat("f").size == len(written)
        with volume.open("f", flags=os.O_RDWR) as two:
            two.pwrite(b"!", len(written))
            assert one.pread(10, 0) == written + b"!"
    assert store.content("f") == written + b"!"


def test_a_store_that_shows_what_is_created_at_once_is_no_conflict(attach: Attach) -> None:
    """It is harmless: the version is the one that the file named. [2.19, 2.20]"""
    volume = attach(RecordingBackend({}, staged=True))
    with volume.open("f", "x+b") as one:
        with volume.open("f", "r+b") as two:
            two.pwrite(b"bytes", 0)
        one.fsync()
        volume.open("f").close()
        assert one.pread(10, 0) == b"bytes"


def test_a_created_object_that_was_rolled_back_is_still_created(attach: Attach) -> None:
    """The backend may forget its bytes, but it was still created here; closing publishes it. [2.19, 2.20]"""
    store = Store(commit_on_close=True)
    volume = attach(store)
    with volume.open("f", "x+") as one:
        one.pwrite(b"x" * 3 * PAGE, 0)
        one.flush()
        eventually(lambda: volume.stats().unstable == 3 * PAGE)
        assert sum(lost.length for lost in volume.discard("f", 0, PAGE)) == PAGE
        assert "rollback" in store.calls
        volume.open("f").close()
        raises(DataLossError, one.flush)
    assert store.content("f") == bytes(PAGE) + b"x" * 2 * PAGE


def test_a_direct_write_that_begins_with_a_commit_is_no_remote_change(attach: Attach, monkeypatch: Patch) -> None:
    """The version that a commit answers is not that of a direct write that began at the same time. [2.19]"""
    monkeypatch.setattr(EngineFile, "_checks_writes", lambda file: True)  # C counts and calls in one step
    backend = RecordingBackend({"f": bytes(4 * PAGE)}, durable_writes=False, parallel_direct_writes=True)
    volume = attach(backend)
    one = volume.open("f", "r+")
    direct = volume.open("f", "r+", direct=True)
    begun: list[Task[int]] = []
    gates = []
    count = NativeInode.direct_count

    def meanwhile(native: NativeInode) -> int:
        found = count(native)
        if not begun and native.commit_running():
            gates.append(backend.gate("write_from"))
            begun.append(Task(direct.pwrite, b"d" * PAGE, 2 * PAGE))
            gates[0].wait_entered()
        return found

    one.pwrite(b"b" * PAGE, 0)
    one.flush()
    monkeypatch.setattr(NativeInode, "direct_count", meanwhile)
    one.fsync()
    assert begun
    gates[0].open()
    assert begun[0].result() == PAGE
    one.pwrite(b"b", 0)
    volume.open("f").close()
    one.fsync()
    direct.close()
    one.close()
