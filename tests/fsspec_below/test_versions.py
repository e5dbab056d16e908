"""Objects that another client also stores: no change is lost, and no read mixes two versions."""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, ConflictError, DataLossError
from pagecache.backends.fsspec.calls import Calls
from pagecache.backends.fsspec.object import FsspecObject
from pagecache.backends.fsspec.objects import STAGE
from pagecache.backends.objects.draft import Draft
from tests.file.rig import Patch, at_gate, attached, beside, held, raises, raising
from tests.fsspec_below.place import EVERYWHERE, FILE_SYSTEMS, LARGE, OLD, Place, S3Place, get, put
from tests.fsspec_below.stores import Elsewhere, Whole, once
from tests.stores import WAIT_LIMIT_S

PLACES = EVERYWHERE
LOOKS_TWICE = pytest.mark.parametrize("place", FILE_SYSTEMS, indirect=True)
"""For the version, and for the mark of a commit; on S3 one look has both."""
# ------------------------------------------------------------------------------------------ other clients


def test_commit_over_a_version_of_another_client_is_refused(place: Place) -> None:
    file = place.written(b"NEW")
    place.put("key", b"theirs")
    assert raises(OSError, file.commit).errno == errno.ESTALE
    assert place.content("key") == b"theirs"
    assert place.names() == [name for name in place.names() if STAGE not in name]
    file.rollback()
    assert raises(OSError, get, file, LARGE - 10, 10).errno == errno.ESTALE
    file = place.written(b"T")
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


def test_object_that_another_client_made_first_is_not_replaced(place: Place) -> None:
    made = place.written(b"ours", "made", create=True, exclusive=True)
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


@pytest.mark.parametrize("theirs", [OLD[::-1], OLD[:10]], ids=["as long", "shorter"])
def test_read_stays_with_the_version_that_was_opened(place: Place, theirs: bytes) -> None:
    file = place.backend.open("key")
    assert get(file, LARGE - 10, 10) == OLD[-10:]
    place.put("key", theirs)
    assert raises(OSError, get, file, LARGE - 10, 10).errno == errno.ESTALE
    assert get(place.backend.open("key"), 0, 6) == theirs[:6]


def test_file_that_was_opened_on_another_version_serves_no_later_read(tmp_path: Path) -> None:
    """The opened version is stored again after the refused read."""
    place = Place(Elsewhere(), str(tmp_path), key=OLD)
    file = place.backend.open("key")
    (tmp_path / "key").rename(tmp_path / "aside")
    place.put("key", OLD[::-1])
    assert raises(OSError, get, file, 0, 6).errno == errno.ESTALE
    (tmp_path / "aside").rename(tmp_path / "key")
    assert get(file, 0, 6) == OLD[:6]


def test_reads_are_not_checked_where_that_is_not_wanted() -> None:
    place = Place(Whole(), "bucket", check_reads=False, key=OLD)
    file = place.backend.open("key")
    place.fs.hooks.calls.clear()
    assert get(file, 0, 4096) == OLD[:4096]
    assert place.fs.hooks.calls == [("cat_file", "bucket/key")]
    place.put("key", b"short")
    with pytest.raises(OSError) as raised:  # an object that is too short cannot be mistaken for it
        get(file, 0, 4096)
    assert raised.value.errno == errno.ESTALE


# ----------------------------------------------------------------------- distinguishing versions


def test_clock_of_whole_seconds_is_waited_for_where_a_version_would_be_the_same(monkeypatch: Patch) -> None:
    place = Place(Whole(tells="mtime"), "bucket", key=b"old")
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


def waiting(monkeypatch: Patch, publish: str, wait: Callable[[Place], object]) -> tuple[Place, Any]:
    """A place whose clock stands, and an object that was changed within its present second. The commit, which waits for
    the next one, calls `wait`.
    """
    place = Place(Whole(tells="mtime"), "bucket", publish=publish, key=b"old")
    file = place.written(b"new")
    monkeypatch.setattr("pagecache.backends.fsspec.object.sleep", lambda _: wait(place))
    return place, file


def tick(place: Place) -> None:
    place.fs.clock += 2


def their_version(place: Place) -> None:
    tick(place)
    place.put("key", b"it!")


def their_removal(place: Place) -> None:
    tick(place)
    place.take_away("key")


PUBLISH = pytest.mark.parametrize("publish", ["put", "move"])


@PUBLISH
@pytest.mark.parametrize(("change", "left"), [(their_version, b"it!"), (their_removal, None)])
def test_a_change_of_another_client_while_the_clock_is_waited_for_stays(
    monkeypatch: Patch, publish: str, change: Callable[[Place], object], left: bytes | None
) -> None:
    place, file = waiting(monkeypatch, publish, change)
    for _ in range(2):
        assert raises(OSError, file.commit).errno == errno.ESTALE
        assert place.content("key") == left


@PUBLISH
def test_a_version_that_is_shown_late_is_that_of_the_commit(monkeypatch: Patch, publish: str) -> None:
    def show(place: Place) -> None:
        content, serial, time = place.fs.objects["bucket/key"]
        place.fs.objects["bucket/key"] = content, serial, time + 1

    place, file = waiting(monkeypatch, publish, show)
    before = file.stat().version
    assert file.commit() == place.backend.stat("key").version != before
    assert place.content("key") == b"new"
    file.truncate(1)
    file.commit()
    assert place.content("key") == b"n"


@PUBLISH
@pytest.mark.parametrize("late", [1, 2], ids=["one look", "two looks"])
def test_a_look_that_shows_the_replaced_version_is_no_conflict(monkeypatch: Patch, publish: str, late: int) -> None:
    """It has the same size, and its own tag."""
    fs = Whole("ETag", asynchronous=False)
    fs.put("bucket/key", b"old")
    file, left = Place(fs, "bucket", publish=publish).backend.open("key"), [late]
    calls = file._calls
    earlier, found = calls.found("bucket/key"), calls.found

    def shown(path: str) -> Any:
        if fs.content("bucket/key") != b"new" or not left[0]:
            return found(path)
        left[0] -= 1
        return earlier

    monkeypatch.setattr(calls, "found", shown)
    put(file, 0, b"new")
    if late > 1:  # the bytes are looked at between two looks
        error = raises(BackendError, file.commit, match="the replaced version")
        assert (error.errno, error.retry, error.kept) == (errno.EIO, True, True)
    assert file.commit() == found("bucket/key").version
    put(file, 0, b"N")
    file.commit()
    assert (fs.content("bucket/key"), left[0]) == (b"New", 0)


@PUBLISH
def test_equal_bytes_may_have_an_equal_tag(monkeypatch: Patch, publish: str) -> None:
    fs = Whole("ETag", asynchronous=False)
    monkeypatch.setattr(fs, "_entry", lambda path: {"name": path, "type": "file", "size": 3, "ETag": fs.content(path)})
    fs.put("bucket/key", b"old")
    file = Place(fs, "bucket", publish=publish).backend.open("key")
    for content in b"old", b"old", b"new":
        put(file, 0, content)
        file.commit()
        assert fs.content("bucket/key") == content


@PUBLISH
@pytest.mark.parametrize("lost", ["the answer", "the look"])
def test_a_commit_that_is_repeated_waits_for_the_clock_too(monkeypatch: Patch, publish: str, lost: str) -> None:
    def away(place: Place) -> None:
        place.fs.hooks.before["info"] = fail

    def fail(path: str) -> None:
        place.fs.hooks.before.pop("info", None)
        monkeypatch.setattr("pagecache.backends.fsspec.object.sleep", lambda _: tick(place))
        raise TimeoutError("no answer")

    place, file = waiting(monkeypatch, publish, away)
    before = file.stat().version
    if lost == "the answer":
        place.lose_commit(landed=True) if publish == "move" else place.fs.hooks.after.update(
            pipe_file=once(TimeoutError())
        )
        monkeypatch.setattr("pagecache.backends.fsspec.object.sleep", lambda _: tick(place))
    raises(OSError, file.commit)
    assert place.content("key") == b"new"
    assert file.commit() == place.backend.stat("key").version != before
    assert place.content("key") == b"new"


def test_without_versions_another_size_is_a_conflict_and_the_same_size_is_not_seen() -> None:
    place = Place(Whole(tells="nothing"), "bucket", key=b"old")
    assert place.backend.stat("key").version is None
    file = place.written(b"new")
    place.put("key", b"longer")
    assert raises(OSError, file.commit).errno == errno.ESTALE
    place.put("key", b"yet")
    file.commit()
    assert place.content("key") == b"new"


def test_listings_that_a_file_system_remembers_are_not_believed() -> None:
    place = Place(Whole(), "bucket", key=b"old")
    list(place.backend.list())
    assert place.fs.listed  # it does cache listings
    place.put("key", b"newer")
    assert place.backend.stat("key").size == 5
    assert place.backend.open("key").stat().size == 5
    assert [stat.size for stat in place.backend.list()] == [5]


# ------------------------------------------------------------------------------ commits that are carried out late


def sent_late(place: Place, file: Any, monkeypatch: Patch) -> Callable[[], object]:
    """Commit; the request is not answered, and is carried out when the result is called."""
    content = get(file, 0, file.stat().size)
    if not isinstance(place, S3Place):
        with monkeypatch.context() as patch:
            patch.setattr(Calls, "move" if file._objects.publish == "move" else "store", raising(TimeoutError()))
            raises(OSError, file.commit)
        return partial(place.put, "key", content)
    request: list[Any] = []
    bucket, genuine = file._bucket, file._bucket.put

    def lose(name: str, buffers: Any, headers: Any) -> Any:
        if name != file.name:
            return genuine(name, buffers, headers)  # of the trial of the server
        request[:] = name, [memoryview(bytearray(content))], headers
        raise OSError(errno.ETIMEDOUT, "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put", lose)
        raises(OSError, file.commit)
    return partial(genuine, *request)


@pytest.mark.parametrize("at", ["_publish", "_check_over", "_put"])
def test_a_commit_that_lands_beside_the_next_one_is_no_conflict(place: Place, monkeypatch: Patch, at: str) -> None:
    """After the next one has asked for it. [2.19]"""
    if isinstance(place, S3Place) and at != "_publish":
        pytest.skip("its requests have conditions")
    place.put("key", b"old content")
    file = place.written(b"one")
    lands = sent_late(place, file, monkeypatch)
    put(file, 8, b"two")
    beside(monkeypatch, type(file), at, lands, after=at != "_publish")
    error = raises(BackendError, file.commit, match="earlier commit")
    assert error.retry
    assert get(file, 0, 20) == b"one conttwo"
    assert file.commit() == place.backend.stat("key").version
    assert place.content("key") == get(file, 0, 20) == b"one conttwo"


def two_late(place: Place, monkeypatch: Patch) -> tuple[Any, Any]:
    """A file whose first commit has landed late, and one that was opened before. The second commit lands while the next
    look is at the first.
    """
    place.put("key", b"old content")
    file = place.written(b"one")
    first = sent_late(place, file, monkeypatch)
    put(file, 0, b"two")
    second = sent_late(place, file, monkeypatch)
    reader = place.backend.open("key")
    reader.recognises(file.unanswered)
    first()
    beside(monkeypatch, FsspecObject, "_mark_of", second)
    return file, reader


@LOOKS_TWICE
@pytest.mark.parametrize("look", ["read", "commit", "rollback", "recognises"])
def test_a_commit_that_lands_while_another_one_is_looked_at_is_recognised(
    place: Place, monkeypatch: Patch, look: str
) -> None:
    """It is no version of another client, and its bytes are not mixed with those of the first. [2.19]"""
    file, reader = two_late(place, monkeypatch)
    if look == "commit":
        put(file, 4, b"more")
        file.commit()
        assert place.content("key") == b"two moreent"
        return
    if look == "read":
        file = reader
    elif look == "rollback":
        file.rollback()
    elif look == "recognises":
        other = place.backend.open("key")
        assert other.recognises(file.unanswered)
        assert other.draft.version() == place.backend.stat("key").version
        file = other
    assert get(file, 0, 20) == b"two content"
    put(file, 4, b"more")
    file.commit()
    assert place.content("key") == get(file, 0, 20) == b"two moreent"


@LOOKS_TWICE
@pytest.mark.parametrize("look", ["commit", "rollback", "recognises"])
def test_an_object_that_is_removed_while_it_is_looked_at_is_no_commit(
    place: Place, monkeypatch: Patch, look: str
) -> None:
    """Between the look at its version and that at its bytes. [2.19]"""
    place.put("key", b"old content")
    file = place.written(b"one")
    sent_late(place, file, monkeypatch)()
    other = place.backend.open("key")
    beside(monkeypatch, FsspecObject, "_mark_of", partial(place.take_away, "key"))
    if look == "commit":
        assert raises(OSError, file.commit).errno == errno.ESTALE
    elif look == "rollback":
        file.rollback()
    else:
        assert not other.recognises(file.unanswered)
    assert place.content("key") is None


@LOOKS_TWICE
def test_a_commit_of_unknown_result_beside_a_client_that_always_writes_is_a_conflict(
    place: Place, monkeypatch: Patch
) -> None:
    """As long as the mark of a version cannot be read, the look at the next one is repeated, but not for ever."""
    place.put("key", b"old content")
    file = place.written(b"one")
    sent_late(place, file, monkeypatch)
    genuine, looks = FsspecObject._stored, []

    def stored(self: FsspecObject) -> Any:
        looks.append(self)
        assert len(looks) < 10
        place.put("key", b"another client's %d" % len(looks))
        return genuine(self)

    monkeypatch.setattr(FsspecObject, "_stored", stored)
    monkeypatch.setattr(FsspecObject, "_mark_of", lambda *_: None)
    assert raises(OSError, file.commit).errno == errno.ESTALE


@pytest.mark.parametrize("answer", ["late", "lost"])
def test_a_read_beside_a_commit_over_one_that_has_landed_sees_either(monkeypatch: Patch, answer: str) -> None:
    """Without a condition, the second one replaces the first, whose version the read has found. [2.19]"""
    place = Place(Whole(), "bucket", key=b"old content", publish="put")
    earlier = place.written(b"one")
    lands = sent_late(place, earlier, monkeypatch)
    file = place.written(b"two")
    file.recognises(earlier.unanswered)
    publishes = held(monkeypatch, Draft, "publish")
    stored = held(monkeypatch, Calls, "store", after=True)
    checks, read = at_gate(held(monkeypatch, FsspecObject, "_check_read"), get, file, 0, 20)
    commit = at_gate(publishes, file.commit)[1]
    lands()
    genuine = FsspecObject._landed

    def landed(self: FsspecObject) -> Any:
        monkeypatch.setattr(FsspecObject, "_landed", genuine)
        publishes.open()
        stored.wait_entered()
        found = genuine(self)
        if answer == "lost":
            place.fs.hooks.before["info"] = once(TimeoutError("no answer"))
            stored.open()
            assert commit.finished.wait(WAIT_LIMIT_S)
        return found

    monkeypatch.setattr(FsspecObject, "_landed", landed)
    try:
        assert read.result(opening=checks) == b"two content"
    finally:
        stored.open()
    if answer == "late":
        commit.result()
    else:
        raises(TimeoutError, commit.result)
    assert file.commit() == place.backend.stat("key").version
    assert place.content("key") == b"two content"
