"""Objects that another client also stores: no change is lost, and no read mixes two versions."""

from __future__ import annotations

import contextlib
import errno
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, DataLossError, PageCache
from pagecache.backends.fsspec.calls import Calls, Reader
from pagecache.backends.fsspec.objects import STAGE
from pagecache.engine import volume as engine_volume
from tests.file.rig import Patch, attached, content_of, raises
from tests.fsspec_below.place import LARGE, OLD, Place, get, put, storing
from tests.fsspec_below.stores import Elsewhere, Whole
from tests.rebased import Written


@pytest.fixture
def place(any_place: Place) -> Place:
    return any_place


# ------------------------------------------------------------------------------------------ other clients


def test_commit_over_a_version_of_another_client_is_refused(place: Place) -> None:
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    place.put("key", b"theirs")
    assert raises(OSError, file.commit).errno == errno.ESTALE
    assert place.content("key") == b"theirs"
    assert place.names() == [name for name in place.names() if STAGE not in name]
    file.rollback()
    assert raises(OSError, get, file, LARGE - 10, 10).errno == errno.ESTALE
    file = place.backend.open("key")
    put(file, 0, b"T")
    file.commit()
    assert place.content("key") == b"Theirs"


def test_rollback_takes_no_version_of_another_client(place: Place) -> None:
    """Bytes that are written later lie over the version that was opened, or over none. [2.19]"""
    with attached(place.backend) as volume:
        file = volume.open("key", "r+b", read_ahead=0)
        file.pwrite(b"W" * (1 << 20), 1 << 20)
        file.flush()
        file.pwrite(b"K" * 4096, 4096)
        place.put("key", bytes(LARGE))
        volume.discard("key", 1 << 20, 1 << 20)
        raises(ConflictError, file.pread, 4, LARGE - 4)
        raises(ConflictError, file.fsync)
        file.abandon()
    assert place.content("key") == bytes(LARGE)


def test_a_truncate_after_a_rollback_adds_zeros(place: Place) -> None:
    """Forgotten bytes never come back. [2.19]"""
    file = place.backend.open("key")
    put(file, LARGE, b"forgotten")
    file.rollback()
    file.truncate(LARGE + 9)
    file.commit()
    assert place.content("key") == OLD + bytes(9)


def test_version_that_appears_during_the_upload_is_not_replaced(file_system: Place) -> None:
    file = file_system.backend.open("key")
    put(file, 0, b"NEW")
    method = storing(file_system, LARGE)

    def somebody(path: str) -> None:
        file_system.fs.hooks.before.pop(method)
        file_system.put("key", b"theirs")

    file_system.fs.hooks.before[method] = somebody
    assert raises(OSError, file.commit).errno == errno.ESTALE
    assert file_system.content("key") == b"theirs"
    assert [name for name in file_system.names() if STAGE in name] == []


def test_object_that_another_client_made_first_is_not_replaced(place: Place) -> None:
    made = place.backend.open("made", create=True, exclusive=True)
    put(made, 0, b"ours")
    place.put("made", b"theirs")
    assert raises(OSError, made.commit).errno == errno.ESTALE
    assert place.content("made") == b"theirs"


CHANGES: dict[str, Callable[[CachedFile], object]] = {
    "pwrite": lambda file: file.pwrite(b"mine", 0),
    "truncate": lambda file: file.truncate(5),
    "punch_hole": lambda file: file.punch_hole(0, 4),
}


@pytest.mark.parametrize("change", CHANGES)
def test_open_finds_the_version_of_another_client_below_an_uncommitted_change(place: Place, change: str) -> None:
    """No change of an object makes another version of it before the commit. [2.19]"""
    with attached(place.backend) as volume, contextlib.ExitStack() as stack:
        file = volume.open("key", "r+b", read_ahead=0)
        stack.callback(file.abandon)
        CHANGES[change](file)
        volume.open("key", "rb").close()
        place.put("key", OLD[::-1])
        raises(ConflictError, volume.open, "key", "rb")


@pytest.mark.parametrize("on_conflict", ["fail", "take_remote"])
@pytest.mark.parametrize("created", [True, False], ids=["never stored", "stored"])
def test_unsaved_bytes_that_are_given_up_leave_no_object_that_another_client_has_removed(
    place: Place, on_conflict: Any, created: bool
) -> None:
    """What its open handle writes later makes a new object. [2.19, 2.20]"""
    with attached(place.backend, options={"on_conflict": on_conflict}) as volume:
        file = volume.open("draft", "xb") if created else volume.open("key", "r+b")
        file.pwrite(b"mine", 0)
        if created:
            volume.rename("draft", "key")
        place.take_away("key")
        raises(ConflictError if on_conflict == "fail" else DataLossError, file.fsync)
        volume.resolve("key", "discard")
        assert (volume.exists("key"), volume.unsaved()) == (False, [])
        with contextlib.suppress(DataLossError):
            file.fsync()
        assert place.content("key") is None
        file.pwrite(b"new", 0)
        file.close()
        assert (volume.exists("key"), place.content("key")) == (True, b"new")


@pytest.mark.parametrize("seed", range(6))
def test_exactly_what_was_written_is_laid_over_the_other_version(place: Place, seed: int) -> None:
    """In memory and in the spool, which has the bytes around as well. [T-30, 2.19]"""
    base, theirs = random.Random(2).randbytes(30_000), random.Random(3).randbytes((100, 20_000, 60_000)[seed % 3])
    place.put("key", base)
    limits: Any = {"dirty_background": 0.02, "dirty_limit": 0.1} if seed % 2 else {}
    with PageCache("256KiB", **limits) as cache:
        volume = cache.attach(place.backend, read_ahead=0)
        with volume.open("key", "r+b") as file:
            model = Written(file, base, seed, holes=True)
            model.change(30)
            model.put(10, 3)
            place.put("key", theirs)
            raises(ConflictError, file.fsync)
            volume.resolve("key", "rebase")
            cache.check()
            assert file.pread(100_000, 0) == model.over(theirs)
            file.fsync()
    assert place.content("key") == model.over(theirs)


@pytest.mark.parametrize("theirs", [100, LARGE, LARGE + 5000], ids=["shorter", "equal", "longer"])
def test_conflict_is_settled_where_more_is_staged_than_memory_holds(place: Place, theirs: int) -> None:
    """Staged bytes stay in the spool: pages at their ends cannot be read from the replaced version. [2.19]"""
    ours, piece = random.Random(2).randbytes(LARGE), 40_000
    expected = bytearray(random.Random(3).randbytes(theirs))
    other = bytes(expected)
    with attached(place.backend, "256KiB", options={"read_ahead": 0}) as volume, volume.open("key", "r+b") as file:
        for begin in range(1001, LARGE - piece, 2 * piece):
            file.pwrite(ours[begin : begin + piece], begin)
            expected[len(expected) :] = bytes(max(0, begin + piece - len(expected)))
            expected[begin : begin + piece] = ours[begin : begin + piece]
        assert sum(length for _, length in volume.dirty_ranges("key")) > 1 << 20
        place.put("key", other)
        raises(ConflictError, file.fsync)
        volume.resolve("key", "rebase")
        assert file.pread(piece, 1001) == ours[1001 : 1001 + piece]
        file.fsync()
        assert file.size == len(expected)
    assert place.content("key") == bytes(expected)


def test_read_stays_with_the_version_that_was_opened(place: Place) -> None:
    file = place.backend.open("key")
    assert get(file, LARGE - 10, 10) == OLD[-10:]
    place.put("key", OLD[::-1])
    assert raises(OSError, get, file, LARGE - 10, 10).errno == errno.ESTALE
    assert get(place.backend.open("key"), 0, 6) == OLD[:-7:-1]


def test_read_behind_the_end_of_a_smaller_version_finds_that_one(place: Place) -> None:
    file = place.backend.open("key")
    place.put("key", OLD[:10])
    assert raises(OSError, get, file, LARGE - 10, 10).errno == errno.ESTALE
    place.put("key", OLD)


def test_file_that_was_opened_on_another_version_serves_no_later_read(tmp_path: Path) -> None:
    """The opened version is stored again after the refused read."""
    place = Place(Elsewhere(), str(tmp_path))
    place.put("key", OLD)
    file = place.backend.open("key")
    (tmp_path / "key").rename(tmp_path / "aside")
    place.put("key", OLD[::-1])
    assert raises(OSError, get, file, 0, 6).errno == errno.ESTALE
    (tmp_path / "aside").rename(tmp_path / "key")
    assert get(file, 0, 6) == OLD[:6]


def test_reads_are_not_checked_where_that_is_not_wanted() -> None:
    place = Place(Whole(), "bucket", check_reads=False)
    place.put("key", OLD)
    file = place.backend.open("key")
    place.fs.hooks.calls.clear()
    assert get(file, 0, 4096) == OLD[:4096]
    assert place.fs.hooks.calls == [("cat_file", "bucket/key")]
    place.put("key", b"short")
    with pytest.raises(OSError) as raised:  # an object that is too short cannot be mistaken for it
        get(file, 0, 4096)
    assert raised.value.errno == errno.ESTALE


def test_read_beside_a_commit_waits_for_it_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds another version, which is the file's own; the commit has not noticed yet that it is stored."""
    place = Place(Whole(), "bucket")
    place.put("key", OLD)
    file = place.backend.open("key")
    put(file, 0, b"NEW")
    seen: list[object] = []
    has_read, goes_on, has_judged = (threading.Event() for _ in range(3))

    def reads() -> None:
        try:
            seen.append(get(file, 1 << 20, 4096))
        except OSError as error:
            seen.append(error)
        has_judged.set()

    thread = threading.Thread(target=reads)
    move, read, wait = Calls.move, Reader.read, Future.result

    def read_slowly(self: Reader, offset: int, buffers: Any) -> int:
        done = read(self, offset, buffers)
        if threading.current_thread() is thread:
            has_read.set()
            assert goes_on.wait(60.0)
        return done

    def moved(self: Calls, src: str, dst: str) -> None:
        move(self, src, dst)
        goes_on.set()
        assert has_judged.wait(60.0)

    def waits(self: Future[Any], timeout: float | None = None) -> Any:
        if threading.current_thread() is thread:
            has_judged.set()  # the commit judges the version that it found
        return wait(self, timeout)

    monkeypatch.setattr(Reader, "read", read_slowly)
    monkeypatch.setattr(Calls, "move", moved)
    monkeypatch.setattr(Future, "result", waits)
    thread.start()
    assert has_read.wait(60.0)
    file.commit()
    thread.join(60.0)
    assert seen == [OLD[1 << 20 : (1 << 20) + 4096]]


# ----------------------------------------------------------------------- distinguishing versions


def test_clock_of_whole_seconds_is_waited_for_where_a_version_would_be_the_same(monkeypatch: Patch) -> None:
    place = Place(Whole(tells="mtime"), "bucket")
    place.put("key", b"old")
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        place.fs.clock += 1

    monkeypatch.setattr("pagecache.backends.fsspec.object.sleep", sleep)
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
    assert raises(OSError, file.commit).errno == errno.ESTALE
    place.put("key", b"yet")
    file.commit()
    assert place.content("key") == b"new"


def test_listings_that_a_file_system_remembers_are_not_believed() -> None:
    place = Place(Whole(), "bucket")
    place.put("key", b"old")
    list(place.backend.list())
    assert place.fs.listed  # it does cache listings
    place.put("key", b"newer")
    assert place.backend.stat("key").size == 5
    assert place.backend.open("key").stat().size == 5
    assert [stat.size for stat in place.backend.list()] == [5]


def test_more_cached_objects_than_open_files_need_no_call_in_revalidate(file_system: Place, monkeypatch: Patch) -> None:
    """They are opened as they were seen; a commit over another version is refused nevertheless. [2.19]"""
    monkeypatch.setattr(engine_volume, "IDLE_FILES_MAX", 8)
    keys = [f"many{k}" for k in range(16)]
    for key in keys:
        file_system.put(key, key.encode())
    with attached(file_system.backend, options={"revalidate": 3600}) as volume:
        for key in keys:
            assert content_of(volume, key) == key.encode()
        monkeypatch.setattr(Calls, "found", None)  # no object is asked for
        for key in keys:
            assert volume.stat(key).size == len(key)
            assert content_of(volume, key) == key.encode()
        monkeypatch.undo()
        file_system.put(keys[0], b"theirs")
        with volume.open(keys[0], "r+b") as file:
            file.pwrite(b"ours", 0)
            raises(ConflictError, file.fsync)
            volume.discard(keys[0])
            raises(DataLossError, file.fsync)
    assert file_system.content(keys[0]) == b"theirs"
