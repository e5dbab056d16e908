"""Names: open, stat, list, remove, rename, aliases, many files, and changes by other clients."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import CommitError, FileStat, ObjectStat, PageCache, ShutdownError, Volume, WritebackError
from pagecache.engine.io.barrier import FileSync
from pagecache.engine.volume import EngineVolume

from ..stores import ObjectBackend, RecordingBackend
from .rig import (
    KEY,
    ONCE,
    PAGE,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    beside,
    eventually,
    held,
    pattern,
    raises,
    run_program,
    stored,
)

DATA = pattern(3 * PAGE)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Volume]:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "a").write_bytes(DATA)
    (tmp_path / "root" / "sub" / "b").write_bytes(b"b")
    (tmp_path / "outside").write_bytes(b"secret")
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600) as cache:
        yield cache.attach(f"dir:{tmp_path / 'root'}", read_ahead=0)


def test_a_missing_object(make: Make) -> None:
    """FileNotFoundError with the key; nothing is created. [2.20]"""
    rig = make()
    volume: Any = rig.volume
    calls = [(volume.open,), (volume.open, "r+b"), (volume.stat,), (volume.remove,), (volume.rename, "x")]
    for call, *arguments in [*calls, (volume.truncate, 5)]:
        assert "none" in str(raises(FileNotFoundError, call, "none", *arguments))
    assert not rig.volume.exists("none")
    assert rig.backend.objects == {}


def test_the_status_of_an_object_has_all_that_the_store_reports(tree: Volume) -> None:
    """With and without cached, dirty or written-back bytes of it. [2.20]"""

    def check(dirty: int, cached: int, size: int = len(DATA)) -> None:
        stored = {name: getattr(tree.backend.stat("a"), name) for name in ObjectStat.__slots__}
        found = tree.stat("a")
        allocated = max(stored["allocated"], -(-size // PAGE) * PAGE) if dirty else stored["allocated"]
        assert found == FileStat(**{**stored, "size": size, "allocated": allocated}, dirty=dirty, cached=cached)
        assert pickle.loads(pickle.dumps(found)) == found
        assert hash(found) == hash(tree.stat("a"))

    check(0, 0)
    with tree.open("a", "r+b") as file:
        check(0, 0)
        file.pread(100, PAGE)
        check(0, PAGE)
        file.pwrite(b"x" * 100, 3 * PAGE)
        check(PAGE, 2 * PAGE, 3 * PAGE + 100)
        file.fsync()
        check(0, 2 * PAGE, 3 * PAGE + 100)
    check(0, 2 * PAGE, 3 * PAGE + 100)
    with tree.open("a", "r+b") as file:
        file.truncate(100)
        file.fsync()
        check(0, 0, 100)
        file.pread(100, 0)
        check(0, 100, 100)


@pytest.mark.parametrize("after", [False, True], ids=["before the answer", "after the answer"])
@pytest.mark.parametrize("change", ["a write", "a save", "a rename over it", "a new handle"])
def test_a_status_beside_a_change_of_the_object(tree: Volume, monkeypatch: Patch, change: str, after: bool) -> None:
    """Size, dirty bytes and identity are of one moment, whether the store was asked before or after it. [2.20]"""
    larger = DATA + b"more"
    tree.backend.stat("a")
    with tree.open("a", "r+b") as file, tree.open("other", "xb") as other:
        file.pread(PAGE, 0)
        other.pwrite(b"other", 0)
        other.fsync()
        gate = held(monkeypatch, tree.backend, "stat", after=after)
        gate, looking = at_gate(gate, tree.stat, "a")
        if change == "a rename over it":
            tree.rename("other", "a")
            expected = 5, 0
        elif change == "a new handle":
            tree.open("a", "rb").close()
            expected = len(DATA), 0
        else:
            file.pwrite(larger, 0)
            expected = len(larger), len(larger)
            if change == "a save":
                file.fsync()
                expected = len(larger), 0
        found = looking.result(opening=gate)
        assert (found.size, found.dirty) == expected


def test_keys_may_be_any_hashable(make: Make) -> None:
    """Numbers, tuples, paths of bytes; they come back in stat and errors. [2.20]"""
    rig = make({7: b"seven", ("bucket", "key"): b"pair"})
    assert rig.open("rb", key=7).pread(10, 0) == b"seven"
    file = rig.open("r+b", key=("bucket", "key"))
    assert file.key == ("bucket", "key")
    file.append(b"!")
    assert rig.saved(file, ("bucket", "key")) == b"pair!"
    raises(TypeError, rig.volume.open, ["no", "key"])


def test_a_slow_open_delays_only_its_own_key(make: Make) -> None:
    """Other names are served at the same time. [T-78, 2.20]"""
    rig = make({"slow": DATA, "fast": DATA})
    gate, slow = at_gate(rig.backend.gate("open", "slow"), rig.volume.open, "slow", "rb")
    with Task(rig.volume.open, "fast", "rb").result() as fast:
        assert fast.pread(10, 0) == DATA[:10]
    assert slow.waits(0.02)
    slow.result(opening=gate).close()


@pytest.mark.parametrize(
    ("change", "keep", "is_read"),
    [("none", False, False), ("own", False, False), ("remote", False, True), ("remote", True, False)],
)
def test_an_open_keeps_the_pages_of_an_unchanged_version(make: Make, change: str, keep: bool, is_read: bool) -> None:
    """Another program's earlier bytes are seen, unless `keep_cache`; own writes are no change. [T-30, 2.19, 2.20]"""
    rig, newer = make({KEY: DATA}), pattern(2 * PAGE, seed=8)
    with rig.open("r+b") as file:
        file.pread(3 * PAGE, 0)
        if change == "own":
            file.pwrite(b"own", 0)
            file.fsync()
    if change == "remote":
        rig.backend.change_remotely(KEY, newer)
    rig.backend.forget_calls()
    expected = newer if is_read else b"own" + DATA[3:] if change == "own" else DATA
    assert rig.open("rb", keep_cache=keep).pread(3 * PAGE, 0) == expected
    assert bool(rig.backend.seen("read_into")) == is_read


@pytest.mark.parametrize("alias", ["./a", "sub/../a", "link", "hard", ".//a"])
def test_two_names_of_one_object_are_one_file(tree: Volume, tmp_path: Path, alias: str) -> None:
    """Spellings, symbolic and hard links reach the same cached object, or the name is refused. [T-67, 2.20]"""
    (tmp_path / "root" / "link").symlink_to("a")
    (tmp_path / "root" / "hard").hardlink_to(tmp_path / "root" / "a")
    with tree.open("a", "r+b") as one:
        one.pwrite(b"not written back", 0)
        try:
            two = tree.open(alias, "r+b")
        except (ValueError, PermissionError):
            assert ".." in alias, "only a name with .. may be refused"
            return
        with two:
            assert two.pread(16, 0) == b"not written back"
            two.pwrite(b"NOT", 0)
            assert one.pread(16, 0) == b"NOT written back"
    tree.sync(20)
    assert (tmp_path / "root" / "a").read_bytes() == b"NOT written back" + DATA[16:]


@pytest.mark.parametrize(
    "key", ["../outside", "sub/../../outside", "way-out", "out-dir/outside", "absolute", "", "a\0b"]
)
def test_keys_cannot_leave_the_root(tree: Volume, tmp_path: Path, key: str) -> None:
    """`..`, absolute paths and symbolic links out of it are refused, for every verb. [T-59]"""
    key = str(tmp_path / "outside") if key == "absolute" else key
    (tmp_path / "root" / "way-out").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "out-dir").symlink_to(tmp_path)
    for mode in ("rb", "r+b", "wb"):
        raises((OSError, ValueError), tree.open, key, mode)
    raises((OSError, ValueError), tree.truncate, key, 0)
    if key != "way-out":
        raises((OSError, ValueError), tree.rename, "a", key)
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert (tmp_path / "root" / "a").read_bytes() == DATA


@pytest.mark.parametrize("target", ["../outside", "/nowhere", "link", "a"])
def test_a_link_that_cannot_be_followed_is_renamed_and_removed(tree: Volume, tmp_path: Path, target: str) -> None:
    """The link is a name like any other: only a walk through it leaves the root. [2.20]"""
    root = tmp_path / "root"
    (root / "link").symlink_to(target)
    with tree.open("a", "r+b") as file:
        tree.rename("link", "moved")
        assert os.readlink(root / "moved") == target
        tree.rename("a", "other")
        tree.rename("other", "moved")
        assert not (root / "moved").is_symlink()
        file.pwrite(b"x", 0)
        file.fsync()
    assert (root / "moved").read_bytes() == b"x" + DATA[1:]
    (root / "link").symlink_to(target)
    tree.remove("link")
    assert sorted(os.listdir(root)) == ["moved", "sub"]
    assert (tmp_path / "outside").read_bytes() == b"secret"


def test_a_file_deleted_behind_the_cache(tree: Volume, tmp_path: Path) -> None:
    """Handles go on as in POSIX; a new open reports that it is gone. [2.20]"""
    with tree.open("a", "r+b") as file:
        assert file.pread(10, 0) == DATA[:10]
        (tmp_path / "root" / "a").unlink()
        assert file.pread(len(DATA), 0) == DATA
        file.pwrite(b"x", 0)
        file.fsync()
    raises(FileNotFoundError, tree.open, "a", "rb")
    stored(tree, "a", b"new", "xb")
    tree.sync(20)
    assert (tmp_path / "root" / "a").read_bytes() == b"new"


@pytest.mark.parametrize("kind", [RecordingBackend, ObjectBackend], ids=["in place", "whole objects"])
def test_an_object_created_again_behind_the_cache_is_committed(make: Make, kind: type[RecordingBackend]) -> None:
    """The cache knows an earlier object of this name, whose backend file is closed. [2.20, T-74]"""
    backend = kind({KEY: DATA})
    rig = make(backend=backend)
    with rig.volume.open(KEY) as file:
        file.pread(10, 0)
    for closed in rig.volume.engine.take_idle(0):
        rig.volume.engine.close_later(closed, KEY)
    with backend.lock:
        del backend.objects[KEY]
    rig.open("ab").fsync()
    assert backend.seen("commit", KEY)
    assert backend.committed(KEY) == b""


def test_many_files_under_a_small_limit_of_descriptors(tmp_path: Path) -> None:
    """Files that use them up can still be saved, and closed files are many more. [T-68, 2.20]"""
    program = """
        import errno, resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
        from pagecache import PageCache
        with PageCache("16MiB") as cache:
            volume = cache.attach("dir:" + sys.argv[1])
            files = []
            try:
                for i in range(100):
                    files.append(volume.open(f"f{i}", "w+b"))
                    files[-1].pwrite(b"%d" % i * 100, 0)
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            assert 8 < len(files) < 64
            for file in files:
                file.fsync()
                file.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
            for i in range(len(files), 1500):
                with volume.open(f"f{i}", "w+b") as file:
                    file.pwrite(b"%d" % i * 100, 0)
            volume.sync()
            for i in range(0, 1500, 7):
                with volume.open(f"f{i}", "rb") as file:
                    assert file.pread(1000, 0) == b"%d" % i * 100
        """
    done = run_program(tmp_path.parent, program, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert all((tmp_path / f"f{i}").read_bytes() == b"%d" % i * 100 for i in range(1500))


def left_open(rig: Rig, key: str, data: bytes = b"") -> None:
    """Leave a file open in the backend that no handle uses; what is written is not committed."""
    with rig.volume.open(key, "r+b") as file:
        file.pwrite(data, 0)


@pytest.mark.parametrize("failure", ["fails", "hangs"])
@pytest.mark.parametrize("other", ["clean", "unsaved"])
@pytest.mark.parametrize("prompt", [False, True])
def test_an_open_without_a_descriptor_is_not_kept_by_other_files(
    make: Make, failure: str, other: str, prompt: bool
) -> None:
    """It is made again once one is closed; a file that cannot be saved stays open, and unsaved. [2.20, 2.16]"""
    rig = make(dict.fromkeys(("bad", "good", KEY), DATA), retry=ONCE, limits={"prompt": prompt})
    left_open(rig, "bad", b"bad")
    left_open(rig, "good", b"good" if other == "unsaved" else b"")
    if failure == "fails":
        rig.backend.fault("commit", OSError(errno.ENOSPC, "no room"), key="bad", times=float("inf"))
    else:
        gate = rig.backend.gate("commit", "bad")
    full = rig.backend.fault("open", OSError(errno.EMFILE, "too many open files"), key=KEY)
    rig.open("rb", timeout=10).close()
    assert full.nr_hit == 1
    assert [call.key for call in rig.backend.seen("file_close")] == ["good"]
    assert [stat.key for stat in rig.volume.unsaved()] == ["bad"]
    if failure == "fails":
        assert "no room" in str(raises((CommitError, WritebackError), rig.volume.sync, 20))
        rig.backend.clear_faults()
    else:
        gate.open()
    assert rig.synced("bad") == b"bad" + DATA[3:]


def test_an_open_without_a_descriptor_raises_that_if_no_file_can_be_closed(make: Make) -> None:
    """[2.20]"""
    rig = make({KEY: DATA, "bad": DATA}, retry=ONCE)
    left_open(rig, "bad", b"bad")
    rig.backend.fault("commit", OSError(errno.ENOSPC, "no room"), key="bad", times=float("inf"))
    rig.backend.fault("open", OSError(errno.EMFILE, "too many open files"), key=KEY, times=float("inf"))
    assert raises(OSError, rig.open, "rb").errno == errno.EMFILE


def test_an_open_without_a_descriptor_makes_nothing_in_a_store_that_a_reconnect_has_left(
    make: Make, monkeypatch: Patch
) -> None:
    """While it waits for a file that can be closed. [2.20, 2.22]"""
    rig = make({KEY: DATA, "other": DATA})
    left_open(rig, "other", b"more")
    rig.backend.fault("open", OSError(errno.EMFILE, "too many open files"), key="new")
    earlier, later = rig.backend, rig.backend.successor()

    def reconnect() -> None:
        rig.volume.abort()
        rig.volume.reconnect(later, fenced=True)

    with earlier.gate("commit", "other"):
        beside(monkeypatch, FileSync, "wait", reconnect)
        raises(ShutdownError, rig.volume.open, "new", "xb")
    assert len(earlier.seen("open", "new")) == 1
    rig.backend = later


def test_an_exclusive_open_raises_its_first_error_also_after_one_without_a_descriptor(make: Make) -> None:
    """Its own creation had no answer; FileExistsError would say that another program has made the object. [2.14]"""
    rig = make({KEY: DATA, "other": DATA})
    left_open(rig, "other")
    rig.backend.fault("open answer", OSError(errno.ETIMEDOUT, "no answer"), key="new")
    rig.backend.fault("open", OSError(errno.EMFILE, "too many open files"), key="new").skip = 1
    assert raises(OSError, rig.open, "x+b", key="new").errno == errno.ETIMEDOUT
    assert rig.backend.seen("file_close", "other")


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("how", ["an abort", "an interrupt"])
def test_idle_files_that_an_open_takes_are_closed_though_it_ends(
    make: Make, monkeypatch: Patch, how: str, prompt: bool
) -> None:
    """It is short of a descriptor. [2.20, 2.22, T-51]"""
    rig = make({KEY: DATA, "other": DATA}, limits={"prompt": prompt})
    left_open(rig, "other")
    rig.backend.fault("open", OSError(errno.EMFILE, "too many open files"), key=KEY)
    ends = rig.volume.abort if how == "an abort" else partial(signal.pthread_kill, threading.get_ident(), signal.SIGINT)
    beside(monkeypatch, EngineVolume, "take_idle", ends, after=True)
    raises((ShutdownError, KeyboardInterrupt), rig.open, "rb")
    eventually(lambda: rig.backend.seen("file_close", "other"))


def test_truncate_by_key_does_not_write_back_failed_bytes(make: Make) -> None:
    """The truncate happened; the old failure is reported to the next caller that saves the data. [2.17, 2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE).written(bytes(5000), 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=2)
    raises(WritebackError, file.close)
    rig.volume.truncate(KEY, 170)
    assert rig.volume.stat(KEY).size == 170
    assert len(rig.backend.seen("write_from")) == 1
