"""The backend of a volume is lost: a commit of this cache is no foreign version, and no other one is mixed with it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import (
    CachedFile,
    CommitError,
    ConflictError,
    PageCache,
    RetryPolicy,
    ShutdownError,
    Volume,
)
from pagecache.backends.fsspec.calls import Calls
from pagecache.testing import FaultyBackend, Gate, Rule
from tests.file.rig import Patch, Task, attached, raises
from tests.fsspec_below.place import OLD, Place, S3Place

Change = Callable[[CachedFile], None]
Opened = Callable[..., tuple[Volume, CachedFile]]
ONCE = RetryPolicy(attempts=1, failed_retry=None)


def acknowledged(file: CachedFile) -> None:
    dirty(file)
    file.sync_range(0, 4)


def dirty(file: CachedFile) -> None:
    file.pwrite(b"mine", 0)


@pytest.fixture
def place(any_place: Place) -> Place:
    return any_place


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


@pytest.mark.parametrize("replaced", [False, True], ids=["", "replaced by another client"])
@pytest.mark.parametrize("lost", ["above the backend", "below it", "in flight"])
@pytest.mark.parametrize("to", ["the same backend", "another backend"])
def test_a_new_file_tells_a_commit_without_an_answer_from_the_version_of_another_client(
    place: Place, opened: Opened, monkeypatch: Patch, to: str, lost: str, replaced: bool
) -> None:
    """The other client's version is a conflict, and not taken for the commit that it has replaced."""
    volume, file = opened(*[Rule("commit", error=errno.ECONNRESET, done=True, times=1)] * (lost == "above the backend"))
    file.pwrite(b"mine", 0)
    with Gate() as gate:
        if isinstance(place, S3Place) and lost == "in flight":
            pytest.skip("tests/s3/test_reconnect.py has that")
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


def lose_the_answer(monkeypatch: Patch, gate: Gate | None) -> None:
    """Lose the answer of the next request that publishes an object, or hold it back."""
    move = Calls.move

    async def moved(self: Calls, src: str, dst: str) -> None:
        await move(self, src, dst)
        monkeypatch.undo()
        if gate is not None:
            gate.enter()
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(Calls, "move", moved)


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
