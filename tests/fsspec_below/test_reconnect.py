"""Another client stores a version while the backend of a volume is lost: nothing is mixed, and a commit of this cache
is no foreign version. [2.19, 2.22]
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import pytest

from pagecache import CachedFile, CommitError, ConflictError, PageCache, RetryPolicy, ShutdownError, Volume
from pagecache.backends.fsspec.calls import Calls
from pagecache.backends.fsspec.object import FsspecObject
from pagecache.testing import FaultyBackend, Gate, Rule
from tests.file.rig import Task, attached, beside, eventually, raises
from tests.fsspec_below.place import EVERYWHERE, OLD, Place, S3Place
from tests.fsspec_below.stores import Parts, Whole

PLACES = EVERYWHERE
Change = Callable[[CachedFile], None]
Opened = Callable[..., tuple[Volume, CachedFile]]
ONCE = RetryPolicy(attempts=1, failed_retry=None)


def acknowledged(file: CachedFile) -> None:
    dirty(file)
    file.sync_range(0, 4)


def dirty(file: CachedFile) -> None:
    file.pwrite(b"mine", 0)


def cut(file: CachedFile) -> None:
    file.truncate(len(OLD) - 1)


@pytest.fixture
def opened(place: Place) -> Iterator[Opened]:
    """Attach a volume, and open the object."""
    with PageCache("16MiB", flush_interval=1000, retry=ONCE) as cache, contextlib.ExitStack() as handles:

        def opened(*rules: Rule, **options: Any) -> tuple[Volume, CachedFile]:
            volume = cache.attach(backend(place, *rules), **options)
            file = volume.open("key", "r+b", read_ahead=0)
            handles.callback(file.abandon)
            return volume, file

        yield opened


def backend(place: Place, *rules: Rule) -> FaultyBackend:
    """Return another backend of the place, which may lose its answers."""
    made = FaultyBackend(place.another())
    made.use(rules)
    return made


@pytest.mark.parametrize("moment", ["before the abort", "before the reconnect", "after the open"])
@pytest.mark.parametrize("change", [acknowledged, dirty, cut])
def test_changes_are_not_laid_over_a_version_that_another_client_has_stored(
    place: Place, opened: Opened, change: Change, moment: str
) -> None:
    volume, file = opened()
    change(file)
    if moment == "before the abort":
        place.put("key", b"theirs!")
    volume.abort()
    if moment == "before the reconnect":
        place.put("key", b"theirs!")
    volume.reconnect(backend(place))
    if moment == "after the open":
        place.put("key", b"theirs!")
    raises(ConflictError, file.fsync)
    assert place.content("key") == b"theirs!"
    raises(ConflictError, file.pread, 1, len(OLD) - 2)
    with pytest.raises(ConflictError):
        volume.resolve("key", "force")  # not all bytes of the base are cached, and the store has none of them
    replaced = [(entry.offset, entry.length) for entry in volume.resolve("key", "rebase")]
    assert replaced == ([] if change is cut else [(0, 4)])
    file.fsync()
    assert place.content("key") == (b"theirs!" if change is cut else b"miners!")


@pytest.mark.parametrize("landed", [True, False], ids=["carried out", "not carried out"])
@pytest.mark.parametrize("answer", ["lost", "late"])
def test_a_commit_of_unknown_result_makes_no_foreign_version(
    place: Place, opened: Opened, answer: Literal["lost", "late"], landed: bool
) -> None:
    """A stored base shows that the commit was not carried out: a version that comes later is a foreign one."""
    with Gate() as gate:
        rule = Rule("commit", error=errno.ECONNRESET, done=landed, gate=gate if answer == "late" else None, times=1)
        volume, file = opened(rule)
        file.pwrite(b"mine", 0)
        saving = Task(file.fsync)
        if answer == "late":
            gate.wait_entered()
            volume.abort()
            gate.release()
            eventually(lambda: not file._inode.publications)
        raises((CommitError, ShutdownError), saving.result)
        volume.reconnect(backend(place))
        if not landed:
            place.put("key", b"theirs!")
            volume.reconnect(backend(place))
            raises(ConflictError, file.fsync)
            assert place.content("key") == b"theirs!"
            return
        file.pwrite(b"more", 4)
        file.fsync()
        assert place.content("key") == b"minemore" + OLD[8:]


@pytest.mark.parametrize("replaced", [False, True], ids=["", "replaced by another client"])
@pytest.mark.parametrize("lost", ["above the backend", "below it", "in flight"])
@pytest.mark.parametrize("to", ["the same backend", "another backend"])
def test_a_new_file_tells_a_commit_without_an_answer_from_the_version_of_another_client(
    place: Place, opened: Opened, monkeypatch: pytest.MonkeyPatch, to: str, lost: str, replaced: bool
) -> None:
    """The other client's version is a conflict, and not taken for the commit that it has replaced."""
    volume, file = opened(*[Rule("commit", error=errno.ECONNRESET, done=True, times=1)] * (lost == "above the backend"))
    file.pwrite(b"mine", 0)
    with Gate() as gate:
        if isinstance(place, S3Place) and lost == "in flight":
            pytest.skip("tests/s3/test_commit_faults.py has that")
        if isinstance(place, S3Place) and lost == "below it":
            place.lose_commit(landed=True)
        elif lost != "above the backend":
            lose_the_answer(monkeypatch, gate if lost == "in flight" else None)
        saving = Task(file.fsync)
        if lost == "in flight":
            gate.wait_entered()
            volume.abort()
        raises((CommitError, ShutdownError), saving.result)
        place.repair()
        if replaced:
            place.put("key", b"theirs!")
        volume.reconnect(volume.backend if to == "the same backend" else backend(place))
    file.pwrite(b"more", 4)
    if replaced:
        raises(ConflictError, file.fsync)
        assert place.content("key") == b"theirs!"
        volume.resolve("key", "rebase")
    file.fsync()
    assert place.content("key") == (b"minemore" if replaced else b"minemore" + OLD[8:])


@pytest.mark.parametrize("landed", ["never", "after the open"])
def test_unchanged_bytes_stay_whatever_becomes_of_a_commit_of_the_file_before(
    place: Place, opened: Opened, monkeypatch: pytest.MonkeyPatch, landed: str
) -> None:
    """The new file recognises that commit like its own; its spool lacks the bytes that it has not changed. [2.22]"""
    if isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    volume, file = opened()
    file.pwrite(b"mine", 0)
    place.lose_commit(landed=False)
    raises(CommitError, file.fsync)
    place.repair()
    if landed != "never":
        if isinstance(place, S3Place):
            pytest.skip("no other client can store an object with the mark of that commit")
        beside(monkeypatch, FsspecObject, "recognises", lambda: place.put("key", b"mine" + OLD[4:]), after=True)
    volume.reconnect(backend(place))
    file.pwrite(b"more", 4)
    file.fsync()
    assert place.content("key") == b"minemore" + OLD[8:]


def lose_the_answer(monkeypatch: pytest.MonkeyPatch, gate: Gate | None) -> None:
    """Lose the answer of the next request that publishes an object, or hold it back."""

    def lost() -> None:
        if gate is not None:
            gate.enter()
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    beside(monkeypatch, Calls, "move", lost, after=True)


def created(file: CachedFile) -> None:
    """The object is not stored yet."""


@pytest.mark.parametrize("to", ["the same backend", "another backend"])
@pytest.mark.parametrize("first", ["the answer", "the reconnect"])
@pytest.mark.parametrize("change", [None, dirty, acknowledged, created])
@pytest.mark.parametrize("stored", ["nothing", "another version"])
def test_a_rename_that_ends_beside_a_reconnect_makes_no_foreign_version(
    change: Change | None, first: str, to: str, stored: str
) -> None:
    """The version under the new name is that of the file, though another file of the backend has it now; any other
    version is another client's. [2.19, 2.22]
    """
    place, gate = Place(Whole(), "bucket"), Gate()
    place.put("other", b"replaced")
    if change is not created:
        place.put("key", OLD)
    rename = place.backend.rename

    def ends_late(src: str, dst: str, **options: bool) -> None:
        rename(src, dst, **options)
        if stored != "nothing":
            place.put("other", OLD[::-1])
        gate.enter()

    with attached(place.backend, flush_interval=1000, retry=ONCE) as volume, contextlib.ExitStack() as handles:
        place.backend.rename = ends_late
        file = volume.open("key", "w+b" if change is created else "r+b", read_ahead=0)
        handles.callback(file.abandon)
        if change is created:
            file.pwrite(OLD, 0)
        else:
            file.pread(4, 0)
        if change is not None:
            change(file)
        renaming = Task(volume.rename, "key", "other")
        gate.wait_entered()
        volume.abort()
        raises(ShutdownError, renaming.result)

        def answer() -> None:
            gate.release()
            eventually(lambda: not any(job.what == "rename" for job in volume.engine.runner.running()))

        if first == "the answer":
            answer()
        volume.reconnect(place.backend if to == "the same backend" else place.another())
        if first != "the answer":
            answer()
        if stored != "nothing":
            with pytest.raises(ConflictError):
                file.pread(4, len(OLD) - 4)
                file.fsync()
            assert place.content("other") == OLD[::-1]
            return
        assert file.pread(4, len(OLD) - 4) == OLD[-4:]
        file.fsync()
        assert place.content("other") == (OLD if change in (None, created) else b"mine" + OLD[4:])


@pytest.mark.parametrize("fenced", [False, True], ids=["", "fenced"])
@pytest.mark.parametrize("abort", ["before the answer", "after it"])
@pytest.mark.parametrize("change", [None, dirty, acknowledged])
@pytest.mark.parametrize("stored", ["nothing", "another version"])
def test_a_new_file_tells_the_copy_of_a_rename_from_the_version_of_another_client(
    place: Place, change: Change | None, abort: str, stored: str, fenced: bool
) -> None:
    """The backend dies as soon as it has renamed the object: its file cannot be asked for the version. [2.19, 2.22]"""
    rename = place.backend.rename

    def renames_last(src: str, dst: str, **options: bool) -> None:
        rename(src, dst, **options)
        faulty.use([Rule("stat", error=errno.ENOTCONN)])
        if abort == "before the answer":
            volume.abort()

    faulty = FaultyBackend(place.backend)
    with attached(faulty, flush_interval=1000, retry=ONCE) as volume, contextlib.ExitStack() as handles:
        place.backend.rename = renames_last
        file = volume.open("key", "r+b", read_ahead=0)
        handles.callback(file.abandon)
        file.pread(4, 0)
        if change is not None:
            change(file)
        with contextlib.suppress(OSError):
            volume.rename("key", "other")
        volume.abort()
        faulty.use([])
        if stored != "nothing":
            place.put("other", OLD[::-1])
        if fenced:
            faulty.fence()
        volume.reconnect(faulty, fenced=fenced)
        if stored != "nothing":
            raises(ConflictError, file.pread, 4, len(OLD) - 4)
            return
        assert file.pread(4, len(OLD) - 4) == OLD[-4:]
        file.fsync()
        assert place.content("other") == (OLD if change is None else b"mine" + OLD[4:])


@pytest.mark.parametrize("change", [Volume.remove, partial(Volume.rename, dst="other")], ids=["remove", "rename"])
def test_an_object_of_before_a_reconnect_that_was_never_stored_has_no_name(
    opened: Opened, change: Callable[[Volume, str], None]
) -> None:
    """The backend knows its file as long as a call that hangs has it. [2.20, 2.22]"""
    volume, _ = opened()
    file = volume.open("draft", "x+b")
    file.pwrite(b"mine", 0)
    hung = file._inode.backend_file
    volume.abort()
    volume.reconnect(volume.backend)
    file.abandon()
    raises(FileNotFoundError, change, volume, "draft")
    assert not volume.exists("other")
    del hung
