"""Commits that fail half way, die or lose their answer: the old object or the new one is there, and nothing else."""

from __future__ import annotations

import errno
import gc
import io
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecache import PageCache
from pagecache.backends.fsspec.objects import STAGE
from tests.file.rig import raises
from tests.fsspec_below.place import LARGE, OLD, Place, put, storing
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, always, once

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A factory of file systems of a few bytes, if that is permitted."""
    made = []

    def mount(size: str) -> Path:
        folder = tmp_path / "small"
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]).returncode:
            pytest.skip("no file system can be mounted here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:  # lazily: an exception that pytest keeps may have a file
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)


# --------------------------------------------------------------------------------- calls that fail


@pytest.mark.parametrize("size", [100, LARGE])
def test_upload_that_fails_half_way_leaves_the_old_object_and_nothing_else(place: Place, size: int) -> None:
    file = place.backend.open("key")
    file.truncate(size)
    put(file, 0, b"NEW")
    place.fs.hooks.before[storing(place, size)] = once(OSError(errno.ENOSPC, "full"))
    raised = raises(OSError, file.commit)
    gc.collect()
    assert raised.errno == errno.ENOSPC
    assert place.content("key") == OLD
    assert [name for name in place.names() if STAGE in name] == []
    file.commit()  # nothing has to be sent again
    assert place.content("key") == b"NEW" + OLD[3:size]


def test_upload_that_fails_is_published_neither_by_close_nor_by_the_garbage_collector() -> None:
    """If one call stores a whole object, an abandoned open file would store its partial content."""
    place = Place(Parts(), "bucket", publish="put")
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
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


def test_move_that_fails_leaves_the_old_object_and_nothing_else(place: Place) -> None:
    if isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    file = place.backend.open("key")
    put(file, 5, b"NEW")
    place.fs.hooks.before["mv" if isinstance(place.fs, Elsewhere) else "cp_file"] = once(PermissionError("no"))
    raises(PermissionError, file.commit)
    assert place.content("key") == OLD
    assert [name for name in place.names() if STAGE in name] == []


def test_move_that_does_not_replace_is_an_error_and_no_lost_update(tmp_path: Path) -> None:
    """Some file systems answer a rename onto a taken name with a flag that callers ignore."""
    place = Place(Elsewhere(moves="not"), str(tmp_path))
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    raises(io.UnsupportedOperation, file.commit, match="mv does not replace")
    assert place.content("key") == OLD
    assert place.names() == ["key"]
    made = place.backend.open("other", create=True)
    put(made, 0, b"made")
    made.commit()
    assert place.content("other") == b"made"


def test_read_that_fails_half_way_is_tried_again_and_mixes_nothing(place: Place) -> None:
    method = {"Whole": "cat_file", "Parts": "fetch"}.get(type(place.fs).__name__)
    if method is None:
        pytest.skip("reads of local files")
    with PageCache("16MiB") as cache, cache.attach(place.backend).open("key") as file:
        place.fs.hooks.before[method] = once(ConnectionResetError("gone"))
        assert file.pread(LARGE, 0) == OLD
        place.fs.hooks.before[method] = always(PermissionError("no longer"))
        file.volume.drop_clean("key")
        raises(PermissionError, file.pread, 4096, 0)
        place.fs.hooks.before.clear()


def test_what_is_written_waits_on_this_machine_and_its_disk_may_be_full(small: Callable[[str], Path]) -> None:
    folder = small("256k")
    place = Place(Whole(), "bucket", spool=folder)
    file = place.backend.open("key", create=True)
    assert raises(OSError, put, file, 0, OLD).errno == errno.ENOSPC
    file.truncate(0)
    put(file, 0, b"small")
    file.commit()
    assert place.content("key") == b"small"
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------------------ lost answers


def test_lost_answer_of_a_commit_is_no_conflict(place: Place) -> None:
    if isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    place.fs.hooks.after["mv" if isinstance(place.fs, Elsewhere) else "cp_file"] = once(TimeoutError("no answer"))
    raises(TimeoutError, file.commit)
    assert place.content("key") == b"NEW" + OLD[3:]
    assert file.commit() == place.backend.stat("key").version
    put(file, 1, b"-")
    file.commit()
    assert place.content("key") == b"N-W" + OLD[3:]


# ----------------------------------------------------------------------------------------- crashes

CRASH = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from pagecache import PageCache
    from pagecache.backends.fsspec import FsspecBackend
    from tests.fsspec_below.stores import Elsewhere

    fs = Elsewhere()
    fs.hooks.before["mv"] = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    with PageCache("8MiB") as cache, cache.attach(FsspecBackend(fs, {folder!r})).open("key", "r+b") as file:
        file.pwrite(b"NEW", 0)
        file.fsync()
"""


def test_crash_before_publishing_leaves_the_old_object_and_a_temporary_one_that_is_found(tmp_path: Path) -> None:
    place = Place(Elsewhere(), str(tmp_path))
    place.put("key", OLD)
    code = textwrap.dedent(CRASH.format(root=str(ROOT), folder=str(tmp_path)))
    died = subprocess.run([sys.executable, "-c", code], timeout=120, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL
    assert place.content("key") == OLD
    left = [name for name in place.names() if STAGE in name]
    assert len(left) == 1
    assert (tmp_path / left[0]).stat().st_size == LARGE
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
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    file.commit()
    left = sorted(name.rpartition("/")[2] for name in place.names() if STAGE in name)
    assert left == sorted([f"{now}-busy-1", "something else"])
