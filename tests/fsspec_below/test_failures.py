"""Commits that fail half way, or die: the old object or the new one is there, and nothing else."""

from __future__ import annotations

import errno
import gc
import io
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pagecache.backends.fsspec.objects import STAGE
from pagecache.backends.spool import Spool
from tests.file.rig import Patch, raises, run_program
from tests.fsspec_below.place import LARGE, OLD, Place, put, storing
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, once


@pytest.mark.parametrize("fails", ["the upload of 100 bytes", "the upload", "the move"])
def test_commit_that_fails_half_way_leaves_the_old_object_and_nothing_else(place: Place, fails: str) -> None:
    """The next one sends nothing again."""
    size = 100 if "100" in fails else LARGE
    if fails == "the move" and isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    file = place.backend.open("key")
    file.truncate(size)
    put(file, 0, b"NEW")
    move = "mv" if isinstance(place.fs, Elsewhere) else "cp_file"
    method = move if fails == "the move" else storing(place, size)
    place.fs.hooks.before[method] = once(OSError(errno.ENOSPC, "full"))
    raised = raises(OSError, file.commit)
    gc.collect()
    assert raised.errno == errno.ENOSPC
    assert place.content("key") == OLD
    assert [name for name in place.names() if STAGE in name] == []
    file.commit()
    assert place.content("key") == b"NEW" + OLD[3:size]


def test_version_that_appears_during_the_upload_is_not_replaced(place: Place) -> None:
    file = place.written(b"NEW")
    method = storing(place, LARGE)

    def somebody(path: str) -> None:
        place.fs.hooks.before.pop(method)
        place.put("key", b"theirs")

    place.fs.hooks.before[method] = somebody
    assert raises(OSError, file.commit).errno == errno.ESTALE
    assert place.content("key") == b"theirs"
    assert [name for name in place.names() if STAGE in name] == []


def test_upload_that_fails_is_published_neither_by_close_nor_by_the_garbage_collector() -> None:
    """If one call stores a whole object, an abandoned open file would store its partial content."""
    place = Place(Parts(), "bucket", publish="put", key=OLD)
    file = place.written(b"NEW")
    calls = []

    def fails(path: str) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.EIO, "planted")

    place.fs.hooks.before["upload"] = fails
    raises(OSError, file.commit)
    gc.collect()
    assert place.content("key") == OLD
    file.commit()
    assert place.content("key") == b"NEW" + OLD[3:]
    assert place.names() == ["bucket/key"]


def test_move_that_does_not_replace_is_an_error_and_no_lost_update(tmp_path: Path) -> None:
    """Some file systems answer a rename onto a taken name with a flag that callers ignore."""
    place = Place(Elsewhere(moves="not"), str(tmp_path), key=OLD)
    file = place.written(b"NEW")
    raises(io.UnsupportedOperation, file.commit, match="mv does not replace")
    assert place.content("key") == OLD
    assert place.names() == ["key"]
    made = place.written(b"made", "other", create=True)
    made.commit()
    assert place.content("other") == b"made"


def test_what_is_written_waits_on_this_machine_and_its_disk_may_be_full(tmp_path: Path, monkeypatch: Patch) -> None:
    place, write = Place(Whole(), "bucket", spool=tmp_path), Spool.write

    def until_full(spool: Spool, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "full")
        return write(spool, offset, [buffers[0][:1000]])

    file = place.backend.open("key", create=True)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "write", until_full)
        assert raises(OSError, put, file, 0, OLD).errno == errno.ENOSPC
    file.truncate(0)
    put(file, 0, b"small")
    file.commit()
    assert place.content("key") == b"small"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("punches", [True, False], ids=["", "a disk without holes"])
def test_a_hole_that_a_full_disk_cannot_take_fails_the_commit_and_is_made_by_the_next_one(
    monkeypatch: Patch, punches: bool
) -> None:
    """Were the hole refused, its bytes would count as unchanged, though some of them are zeros by then."""
    place, zero, chunk = Place(Whole(), "bucket"), Spool.zero, 1 << 16

    def until_full(spool: Spool, begin: int, end: int) -> None:
        zero(spool, begin, min(end, chunk))
        raise OSError(errno.ENOSPC, "full")

    if not punches:
        monkeypatch.setattr("pagecache.backends.spool.punch_hole", lambda *_: False)
    place.put("key", OLD)
    file = place.written(b"X" * (2 * chunk))
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "zero", until_full)
        file.punch_hole(0, LARGE - 1)
        assert raises(OSError, file.commit).errno == errno.ENOSPC
    assert place.content("key") == OLD
    file.commit()
    assert place.content("key") == bytes(LARGE - 1) + OLD[-1:]


# ----------------------------------------------------------------------------------------- crashes

CRASH = """
    import os, signal, sys
    from pagecache import PageCache
    from pagecache.backends.fsspec import FsspecBackend
    from tests.fsspec_below.stores import Elsewhere

    fs = Elsewhere()
    fs.hooks.before["mv"] = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    with PageCache("8MiB") as cache, cache.attach(FsspecBackend(fs, sys.argv[1])).open("key", "r+b") as file:
        file.pwrite(b"NEW", 0)
        file.fsync()
"""


def test_crash_before_publishing_leaves_the_old_object_and_a_temporary_one_that_is_found(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    place = Place(Elsewhere(), str(root), key=OLD)
    assert run_program(tmp_path, CRASH, str(root)).returncode == -signal.SIGKILL
    assert place.content("key") == OLD
    left = [name for name in place.names() if STAGE in name]
    assert len(left) == 1
    assert (root / left[0]).stat().st_size == LARGE
    assert [stat.key for stat in place.backend.list()] == ["key"]
    assert place.backend.remove_leftovers() == 0  # it may belong to a running program
    assert place.backend.remove_leftovers(older_than=0.0) == 1
    assert place.names() == ["key"]


def test_first_commit_in_a_directory_removes_what_was_left_there_a_day_ago(place: Place) -> None:
    yesterday, now = int(time.time()) - 90000, int(time.time()) - 60
    if isinstance(place.fs, Elsewhere):
        (Path(place.root) / STAGE).mkdir()
    for name in (f"{yesterday}-dead-1", f"{now}-busy-1", "something else"):
        place.put(f"{STAGE}/{name}", b"left")
    file = place.written(b"NEW")
    file.commit()
    left = sorted(name.rpartition("/")[2] for name in place.names() if STAGE in name)
    assert left == sorted([f"{now}-busy-1", "something else"])
