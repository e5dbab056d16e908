"""Objects as a whole: nobody sees a part of one, nobody's change is lost, and nothing is left behind."""

from __future__ import annotations

import errno
import gc
import io
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import BackendError, ConflictError, PageCache, WritebackError
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.fsspec_calls import Calls, Reader
from pagecache.backends.fsspec_objects import STAGE
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, always, once

ROOT = Path(__file__).parent.parent.parent
LARGE = 3 << 20
OLD = random.Random(1).randbytes(LARGE)


def put(file: Any, offset: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += file.write_from(offset + done, [memoryview(data)[done : done + (1 << 20)]])


def get(file: Any, offset: int, length: int) -> bytes:
    room = bytearray(length)
    return bytes(room[: file.read_into(offset, [memoryview(room)])])


class Place:
    """A file system, and what is in it."""

    def __init__(self, fs: Any, root: str, **options: Any) -> None:
        self.fs, self.root = fs, root
        self.backend: Any = FsspecBackend(fs, root, **options)

    def names(self) -> list[str]:
        """Of everything that is there, past the backend."""
        if isinstance(self.fs, Elsewhere):
            return sorted(str(path.relative_to(self.root)) for path in Path(self.root).rglob("*") if path.is_file())
        return sorted(self.fs.objects)

    def put(self, name: str, content: bytes) -> None:
        if isinstance(self.fs, Elsewhere):
            fresh = Path(self.root, f"{name}.new")
            fresh.write_bytes(content)
            fresh.rename(Path(self.root, name))
        else:
            self.fs.put(f"{self.root}/{name}", content)

    def content(self, name: str) -> bytes | None:
        if isinstance(self.fs, Elsewhere):
            path = Path(self.root, name)
            return path.read_bytes() if path.exists() else None
        found: bytes | None = self.fs.content(f"{self.root}/{name}")
        return found


@pytest.fixture(params=["whole", "parts", "elsewhere"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """With an object `key`."""
    made = {"whole": Whole, "parts": Parts, "elsewhere": Elsewhere}[request.param]()
    place = Place(made, str(tmp_path) if request.param == "elsewhere" else "bucket")
    place.put("key", OLD)
    yield place
    place.backend.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes file systems of a few bytes, where that is allowed."""
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


def storing(place: Place, size: int) -> str:
    """The method that stores an object of this size."""
    if isinstance(place.fs, Parts):
        return "upload"
    return "pipe_file" if size <= 1 << 20 else "put_file"


# ---------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("size", [100, LARGE])
def test_upload_that_fails_half_way_leaves_the_old_object_and_nothing_else(place: Place, size: int) -> None:
    file = place.backend.open("key")
    file.truncate(size)
    put(file, 0, b"NEW")
    place.fs.hooks.before[storing(place, size)] = once(OSError(errno.ENOSPC, "full"))
    with pytest.raises(OSError) as raised:
        file.commit()
    gc.collect()
    assert raised.value.errno == errno.ENOSPC
    assert place.content("key") == OLD
    assert [name for name in place.names() if STAGE in name] == []
    file.commit()  # nothing has to be sent again
    assert place.content("key") == b"NEW" + OLD[3:size]


def test_upload_that_fails_is_published_neither_by_close_nor_by_the_garbage_collector() -> None:
    """Where one call stores a whole object, an open file that is left alone would store what it has."""
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
    with pytest.raises(OSError):
        file.commit()
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
    with pytest.raises(PermissionError):
        file.commit()
    assert place.content("key") == OLD
    assert [name for name in place.names() if STAGE in name] == []


def test_move_that_does_not_replace_is_an_error_and_no_lost_update(tmp_path: Path) -> None:
    """Some file systems answer a rename onto a name that is taken with a flag that nobody looks at."""
    place = Place(Elsewhere(moves="not"), str(tmp_path))
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    with pytest.raises(io.UnsupportedOperation, match="mv does not replace"):
        file.commit()
    assert place.content("key") == OLD
    assert place.names() == ["key"]
    made = place.backend.open("other", create=True)
    put(made, 0, b"made")
    made.commit()
    assert place.content("other") == b"made"


def test_failed_commit_through_the_cache_loses_nothing(place: Place) -> None:
    with PageCache("2MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("key", "r+b") as file:
            file.pwrite(b"NEW", 1 << 20)
            place.fs.hooks.before[storing(place, LARGE)] = always(OSError(errno.ENOSPC, "full"))
            with pytest.raises(WritebackError) as raised:
                file.fsync()
            assert raised.value.errno == errno.ENOSPC
            assert file.pread(3, 1 << 20) == b"NEW"
            assert place.content("key") == OLD
            place.fs.hooks.before.clear()
            volume.retry_failed()
            file.fsync()
    assert place.content("key") == OLD[: 1 << 20] + b"NEW" + OLD[(1 << 20) + 3 :]


def test_read_that_fails_half_way_is_tried_again_and_mixes_nothing(place: Place) -> None:
    method = {"Whole": "cat_file", "Parts": "fetch"}.get(type(place.fs).__name__)
    if method is None:
        pytest.skip("reads of local files")
    with PageCache("16MiB") as cache, cache.attach(place.backend).open("key") as file:
        place.fs.hooks.before[method] = once(ConnectionResetError("gone"))
        assert file.pread(LARGE, 0) == OLD
        place.fs.hooks.before[method] = always(PermissionError("no longer"))
        file.volume.drop_clean("key")
        with pytest.raises(PermissionError):
            file.pread(4096, 0)
        place.fs.hooks.before.clear()


def test_what_is_written_waits_on_this_machine_and_its_disk_may_be_full(small: Callable[[str], Path]) -> None:
    folder = small("256k")
    place = Place(Whole(), "bucket", spool=folder)
    file = place.backend.open("key", create=True)
    with pytest.raises(OSError) as raised:
        put(file, 0, OLD)
    assert raised.value.errno == errno.ENOSPC
    file.truncate(0)
    put(file, 0, b"small")
    file.commit()
    assert place.content("key") == b"small"
    assert list(folder.iterdir()) == []


def test_full_disk_below_leaves_the_old_object(small: Callable[[str], Path]) -> None:
    place = Place(Elsewhere(), str(small("5m")))
    place.put("key", OLD)
    with PageCache("8MiB") as cache, cache.attach(place.backend).open("key", "r+b") as file:
        file.pwrite(b"NEW", 0)
        with pytest.raises(WritebackError) as raised:
            file.fsync()
        assert raised.value.errno == errno.ENOSPC
        assert place.content("key") == OLD
        assert place.names() == ["key"]
        file.truncate(1 << 20)
    assert place.content("key") == b"NEW" + OLD[3 : 1 << 20]


# ---------------------------------------------------------------------------------------- others


def test_commit_over_a_version_of_somebody_else_is_refused(place: Place) -> None:
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    place.put("key", b"theirs")
    with pytest.raises(OSError) as raised:
        file.commit()
    assert raised.value.errno == errno.ESTALE
    assert place.content("key") == b"theirs"
    assert place.names() == [name for name in place.names() if STAGE not in name]
    file.rollback()
    assert get(file, 0, 10) == b"theirs"
    put(file, 0, b"T")
    file.commit()
    assert place.content("key") == b"Theirs"


def test_version_that_appears_during_the_upload_is_not_replaced(place: Place) -> None:
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    method = storing(place, LARGE)

    def somebody(path: str) -> None:
        place.fs.hooks.before.pop(method)
        place.put("key", b"theirs")

    place.fs.hooks.before[method] = somebody
    with pytest.raises(OSError) as raised:
        file.commit()
    assert raised.value.errno == errno.ESTALE
    assert place.content("key") == b"theirs"
    assert [name for name in place.names() if STAGE in name] == []


def test_object_that_somebody_else_made_first_is_not_replaced(place: Place) -> None:
    made = place.backend.open("made", create=True, exclusive=True)
    put(made, 0, b"ours")
    place.put("made", b"theirs")
    with pytest.raises(OSError) as raised:
        made.commit()
    assert raised.value.errno == errno.ESTALE
    assert place.content("made") == b"theirs"


def test_conflict_through_the_cache_is_told_and_settled(place: Place) -> None:
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("key", "r+b") as file:
            file.pwrite(b"NEW", 0)
            place.put("key", b"x" * 5000)
            with pytest.raises(ConflictError):
                file.fsync()
            assert place.content("key") == b"x" * 5000
            volume.resolve("key", "rebase")
            file.fsync()
    assert place.content("key") == b"NEW" + b"x" * 4997


def test_read_stays_with_the_version_that_was_opened(place: Place) -> None:
    file = place.backend.open("key")
    assert get(file, 0, 10) == OLD[:10]
    place.put("key", b"theirs, and long enough")
    with pytest.raises(OSError) as raised:
        get(file, 0, 10)
    assert raised.value.errno == errno.ESTALE
    assert get(place.backend.open("key"), 0, 6) == b"theirs"


def test_reads_are_not_checked_where_that_is_not_wanted() -> None:
    place = Place(Whole(), "bucket", check_reads=False)
    place.put("key", OLD)
    file = place.backend.open("key")
    place.fs.hooks.calls.clear()
    assert get(file, 0, 4096) == OLD[:4096]
    assert place.fs.hooks.calls == [("cat_file", "bucket/key")]
    place.put("key", b"short")
    with pytest.raises(OSError) as raised:  # what is too short cannot be taken for it
        get(file, 0, 4096)
    assert raised.value.errno == errno.ESTALE


def test_read_beside_a_commit_waits_for_it_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds another version, which is the file's own; the commit does not know yet that it is stored."""
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    seen: list[object] = []
    has_read, goes_on, looked = (threading.Event() for _ in range(3))

    def reads() -> None:
        try:
            seen.append(get(file, 1 << 20, 4096))
        except OSError as error:
            seen.append(error)

    thread = threading.Thread(target=reads)
    move, read = Calls.move, Reader.read

    async def read_slowly(self: Reader, offset: int, buffers: Any) -> int:
        done = await read(self, offset, buffers)
        if threading.current_thread() is thread:
            has_read.set()
            assert goes_on.wait(60.0)
        return done

    async def moved(self: Calls, src: str, dst: str) -> None:
        await move(self, src, dst)
        place.fs.hooks.before["info"] = lambda path: looked.set()
        goes_on.set()
        assert looked.wait(60.0)
        for _ in range(100):  # of its turns, in which it could find what it must not say
            time.sleep(0)

    monkeypatch.setattr(Reader, "read", read_slowly)
    monkeypatch.setattr(Calls, "move", moved)
    thread.start()
    assert has_read.wait(60.0)
    file.commit()
    thread.join(60.0)
    assert seen == [OLD[1 << 20 : (1 << 20) + 4096]]


def test_staged_bytes_that_a_commit_has_taken_are_read_from_the_object(place: Place) -> None:
    """Who reads them may have asked just before."""
    file = place.backend.open("key")
    room = bytearray(4096)
    file.stage(4096, [memoryview(OLD)[:4096]])
    file.commit()
    assert file.read_staged(4096, [memoryview(room)]) == 4096
    assert room == OLD[:4096]


def test_staged_bytes_that_were_rolled_back_are_no_loss(place: Place) -> None:
    """Who asked for them before has to ask again: the object may have been opened anew, and staged anew there. Where
    nothing was ever staged, they are lost.
    """
    file = place.backend.open("key")
    room = bytearray(4096)
    with pytest.raises(FileNotFoundError):
        file.read_staged(4096, [memoryview(room)])
    file.stage(4096, [memoryview(OLD)[:4096]])
    file.rollback()
    assert file.read_staged(4096, [memoryview(room)]) == 0


def test_lost_answer_of_a_commit_is_no_conflict(place: Place) -> None:
    if isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    place.fs.hooks.after["mv" if isinstance(place.fs, Elsewhere) else "cp_file"] = once(TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        file.commit()
    assert place.content("key") == b"NEW" + OLD[3:]
    assert file.commit() == place.backend.stat("key").version
    put(file, 1, b"-")
    file.commit()
    assert place.content("key") == b"N-W" + OLD[3:]


def test_what_was_written_after_a_lost_answer_goes_over_what_was_stored() -> None:
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    place.fs.hooks.after["cp_file"] = once(TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        file.commit()
    put(file, 1, b"-")
    file.truncate(1 << 20)
    assert get(file, 0, 4) == b"N-W" + OLD[3:4]
    file.commit()
    assert place.content("key") == b"N-W" + OLD[3 : 1 << 20]


def test_version_of_somebody_else_after_a_lost_answer_is_a_conflict() -> None:
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    place.fs.hooks.after["cp_file"] = once(TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        file.commit()
    place.put("key", OLD)  # as long as ours
    with pytest.raises(OSError) as raised:
        file.commit()
    assert raised.value.errno == errno.ESTALE
    assert place.content("key") == OLD


# ---------------------------------------------------------------------------------------- versions


def test_clock_of_whole_seconds_is_waited_for_where_a_version_would_be_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(Whole(tells="mtime"), "bucket")
    place.put("key", b"old")
    slept = []

    async def sleep(self: Calls, seconds: float) -> None:
        slept.append(seconds)
        place.fs.clock += 1

    monkeypatch.setattr("pagecache.backends.fsspec_calls.BlockingCalls.sleep", sleep)
    file = place.backend.open("key")
    before = place.backend.stat("key").version
    put(file, 0, b"new")
    assert file.commit() != before
    assert slept != []
    assert place.content("key") == b"new"
    slept.clear()
    put(file, 3, b"er")  # another size is another version
    file.commit()
    assert slept == []


def test_without_versions_another_size_is_a_conflict_and_the_same_size_is_not_seen() -> None:
    place = Place(Whole(tells="nothing"), "bucket")
    place.put("key", b"old")
    assert place.backend.stat("key").version is None
    file = place.backend.open("key")
    put(file, 0, b"new")
    place.put("key", b"longer")
    with pytest.raises(OSError) as raised:
        file.commit()
    assert raised.value.errno == errno.ESTALE
    place.put("key", b"yet")
    file.commit()
    assert place.content("key") == b"new"


def test_listings_that_a_file_system_remembers_are_not_believed() -> None:
    place = Place(Whole(), "bucket")
    place.put("key", b"old")
    list(place.backend.list())
    assert place.fs.listed  # it does remember
    place.put("key", b"newer")
    assert place.backend.stat("key").size == 5
    assert place.backend.open("key").stat().size == 5
    assert [stat.size for stat in place.backend.list()] == [5]


# ---------------------------------------------------------------------------------------- crashes

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
    assert place.backend.remove_leftovers() == 0  # it may be somebody's who is at work
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


# ---------------------------------------------------------------------------------------- names


def test_temporary_objects_are_nobody_elses(place: Place) -> None:
    place.put("other", b"x")
    if isinstance(place.fs, Elsewhere):
        (Path(place.root) / STAGE).mkdir()
    place.put(f"{STAGE}/1-a-1", b"left")
    assert [stat.key for stat in place.backend.list()] == ["key", "other"]
    for key in (f"{STAGE}/1-a-1", f"a/{STAGE}/b"):
        with pytest.raises(ValueError, match=r"is the backend's own"):
            place.backend.open(key, create=True)


@pytest.mark.parametrize("key", ["a[1]", "*", "what?", "a b", "ü", "x{1,2}", "100%"])
def test_names_that_look_like_patterns_mean_themselves(place: Place, key: str) -> None:
    for name in ("a1", "what!", "x1", "*other"):
        place.put(name, b"let alone")
    for content in (b"first", b"the second"):
        file = place.backend.open(key, create=True)
        put(file, 0, content)
        file.commit()
    place.backend.rename(key, "renamed")
    place.backend.rename("renamed", key)
    assert place.content(key) == b"the second"
    assert place.backend.stat(key).size == 10
    assert key in [stat.key for stat in place.backend.list()]
    place.backend.remove(key)
    assert {place.content(name) for name in ("a1", "what!", "x1", "*other")} == {b"let alone"}


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("/a", "absolute"),
        ("a/../b", "'..'"),
        ("a\0", "NUL"),
        ("", "names no object"),
        (3, "must be a str"),
        (b"a", "str"),
    ],
)
def test_keys_that_no_object_has_are_refused(key: Any, rule: str) -> None:
    backend = FsspecBackend(Whole(), "bucket")
    for call in (backend.canonical, backend.open, backend.stat, backend.remove):
        with pytest.raises(ValueError, match=rule) as raised:
            call(key)
        assert repr(key) in str(raised.value)


def test_names_of_one_object_have_one_key() -> None:
    backend = FsspecBackend(Whole(), "bucket")
    assert {backend.canonical(key) for key in ("a/b", "a//b", "./a/./b", Path("a/b"), "a/b/")} == {"a/b"}


def test_without_a_root_keys_are_whole_paths() -> None:
    fs = Whole()
    fs.put("bucket/folder/key", b"content")
    backend = FsspecBackend(fs)
    assert get(backend.open("bucket/folder/key"), 0, 10) == b"content"
    file = backend.open("bucket/folder/key")
    put(file, 0, b"C")
    file.commit()
    assert fs.content("bucket/folder/key") == b"Content"
    assert [stat.key for stat in backend.list("bucket/f")] == ["bucket/folder/key"]
    assert backend.canonical("https://host/a//b") == "https://host/a//b"


def test_object_that_is_written_follows_a_rename_and_not_a_removal(place: Place) -> None:
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    made = place.backend.open("made", create=True)
    put(made, 0, b"made")
    place.backend.rename("key", "elsewhere")
    place.backend.rename("made", "made there")
    file.commit()
    made.commit()
    assert place.content("elsewhere") == b"NEW" + OLD[3:]
    assert (place.content("made"), place.content("made there")) == (None, b"made")
    put(file, 0, b"more")
    place.backend.remove("elsewhere")
    file.commit()
    assert place.content("elsewhere") is None


def test_object_that_is_not_committed_yet_can_be_renamed_and_removed(place: Place) -> None:
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("made", "xb") as file:
            file.write(b"content")
            volume.rename("made", "other")
            assert (volume.exists("made"), volume.exists("other")) == (False, True)
            volume.remove("other")
            assert not volume.exists("other")
            with pytest.raises(FileNotFoundError):
                volume.remove("other")
    assert [name.rpartition("/")[2] for name in place.names()] == ["key"]


def test_rename_is_no_change_by_somebody_else(place: Place) -> None:
    """A copy has a version of its own, and the content is the same."""
    before = place.backend.stat("key").version
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("key", "r+b") as file:
            file.pwrite(b"NEW", 0)
            volume.rename("key", "other")
            with volume.open("other") as again:
                assert again.pread(6, 0) == b"NEW" + OLD[3:6]
            assert (place.content("other"), place.backend.stat("other").version) == (OLD, before)
            assert [stat.version for stat in place.backend.list()] == [before]
    assert place.content("other") == b"NEW" + OLD[3:]
    assert place.backend.stat("other").version != before


def test_version_of_somebody_else_is_found_behind_a_rename(place: Place) -> None:
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("key", "r+b") as file:
            file.pwrite(b"NEW", 0)
            volume.rename("key", "other")
            place.put("other", bytes(LARGE))
            with pytest.raises(ConflictError):
                file.fsync()
            assert place.content("other") == bytes(LARGE)
            volume.resolve("other", "rebase")
    assert place.content("other") == b"NEW" + bytes(LARGE - 3)


def test_directories_are_no_objects(place: Place) -> None:
    if isinstance(place.fs, Elsewhere):
        (Path(place.root) / "folder").mkdir()
    place.put("folder/key", b"x")
    calls: list[Callable[[], object]] = [
        lambda: place.backend.open("folder"),
        lambda: place.backend.remove("folder"),
        lambda: place.backend.rename("folder", "other"),
        lambda: place.backend.rename("key", "folder"),
    ]
    for call in calls:
        with pytest.raises(IsADirectoryError):
            call()
    assert place.backend.stat("folder").kind == "dir"


def test_new_object_brings_the_directories_that_it_needs(tmp_path: Path) -> None:
    place = Place(Elsewhere(), str(tmp_path))
    file = place.backend.open("a/b/key", create=True)
    put(file, 0, b"content")
    file.commit()
    place.backend.close()
    assert place.content("a/b/key") == b"content"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "key"]  # nothing of ours is left


# ---------------------------------------------------------------------------------------- the cache over it


def test_object_larger_than_the_cache_is_written_read_and_rewritten(place: Place) -> None:
    """What does not fit into memory waits in the spool, and commits publish all of it."""
    data = bytearray(random.Random(2).randbytes(6 << 20))
    with PageCache("1MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("large", "w+b") as file:
            for at in range(0, len(data), 1 << 18):
                file.pwrite(data[at : at + (1 << 18)], at)
            assert place.content("large") is None
            assert file.pread(5000, 100) == data[100:5100]
            data[1 << 20 : (1 << 20) + 5] = b"again"
            file.pwrite(b"again", 1 << 20)
        assert place.content("large") == bytes(data)
        with volume.open("large", "r+b") as file:
            data[77:80] = b"NEW"
            file.pwrite(b"NEW", 77)
        assert place.content("large") == bytes(data)
        with pytest.raises(RuntimeError), volume.open("large", "r+b") as file:
            file.write(b"half of it")
            raise RuntimeError
        assert place.content("large") == bytes(data)


def test_open_files_of_the_file_system_are_closed() -> None:
    """There are as many as calls at a time, and none once nobody reads."""
    place = Place(Parts(), "bucket")
    place.put("key", OLD)
    with PageCache("16MiB") as cache:
        volume = cache.attach(place.backend)
        with volume.open("key") as file:
            assert file.pread(LARGE, 0) == OLD
            assert 1 <= place.fs.open_files <= volume.backend.limits.max_inflight + 1
    gc.collect()
    assert place.fs.open_files == 0


def test_reads_of_open_files_fetch_what_was_asked_for() -> None:
    """And no megabytes beside it, as the read-ahead of an open file would."""
    place = Place(Parts(), "bucket")
    place.put("key", OLD)
    fetched: list[str] = []
    file = place.backend.open("key")
    place.fs.hooks.before["fetch"] = fetched.append
    assert get(file, 8192, 4096) == OLD[8192:12288]
    assert fetched == ["bucket/key:8192-12288"]


def test_errors_of_a_backend_that_knows_better_pass() -> None:
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    file = place.backend.open("key")
    place.fs.hooks.before["cat_file"] = always(BackendError(errno.EBUSY, "slow down", retry=True, retry_after=2.0))
    with pytest.raises(BackendError) as raised:
        get(file, 0, 10)
    assert raised.value.retry_after == 2.0
