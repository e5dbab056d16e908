"""A rename in a store of whole objects, files or a bucket: the objects that it may remove, and open files. [2.20]"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pagecache import CachedFile, ConflictError, DataLossError, PageCache, RetryPolicy, Volume, WritebackError
from pagecache.testing import FaultyBackend, Rule
from pagecache.volume import opening
from tests.file.rig import attached, beside, content_of, raises, stored
from tests.fsspec_below.place import EVERYWHERE, OLD, Place, get, put
from tests.fsspec_below.stores import Elsewhere, Parts, Whole

PLACES = EVERYWHERE
PRECIOUS = b"precious"
OTHER = OLD[::-1]
ONCE = RetryPolicy(attempts=1, failed_retry=None)
OFTEN = RetryPolicy(attempts=5, first_delay=0.001, max_delay=0.005)
Use = Callable[[CachedFile], None]
Faulty = tuple[Volume, FaultyBackend, contextlib.ExitStack]


def uploaded(file: CachedFile) -> None:
    file.pwrite(b"W" * (1 << 20), 0)
    file.flush()


def written(file: CachedFile) -> None:
    file.pwrite(b"W" * (1 << 20), 0)


def read(file: CachedFile) -> None:
    file.pread(4, 0)


def content_after(use: Use) -> bytes:
    return OLD if use is read else b"W" * (1 << 20) + OLD[1 << 20 :]


def test_object_that_is_not_committed_yet_is_renamed_after_a_discard(place: Place) -> None:
    """The rollback forgets the uncommitted bytes, and keeps the creation. [2.18, 2.20]"""
    with attached(place.backend) as volume:
        file = volume.open("draft", "x+b")
        file.pwrite(b"a" * 4096 + b"b" * 4096, 0)
        file.sync_range(0, 8192)
        assert [(lost.offset, lost.length) for lost in volume.discard("draft", 0, 4096)] == [(0, 4096)]
        volume.rename("draft", "name")
        raises(DataLossError, file.fsync)
        file.fsync()
        file.close()
    assert place.content("name") == bytes(4096) + b"b" * 4096
    assert place.content("draft") is None


@pytest.mark.parametrize("use", [None, read, uploaded], ids=["closed", "read", "uploaded"])
def test_rename_of_an_object_that_another_client_removed_leaves_the_destination(place: Place, use: Use | None) -> None:
    """No open file stands for an object that was stored once. [2.20, I-24]"""
    place.put("precious", PRECIOUS)
    with attached(place.backend) as volume, contextlib.ExitStack() as stack:
        file = volume.open("key", "r+b", read_ahead=0)
        file.pread(4, 0)
        if use is None:
            file.close()
        else:
            stack.callback(file.abandon)
            use(file)
        place.take_away("key")
        raises(FileNotFoundError, volume.rename, "key", "precious")
        assert place.content("precious") == PRECIOUS
        if use is not None:
            raises(OSError, file.pread, 4, len(OLD) - 4)


@pytest.mark.parametrize("end", ["closed", "given up"])
def test_object_that_is_not_committed_yet_replaces_another_by_its_commit(place: Place, end: str) -> None:
    """Nothing is removed for an object that is not stored: given up, it leaves the destination. [2.20]"""
    with attached(place.backend) as volume:
        file = volume.open("made", "wb")
        file.write(b"new")
        volume.rename("made", "key")
        assert (volume.stat("key").size, content_of(volume, "key"), place.content("key")) == (3, b"new", OLD)
        file.close() if end == "closed" else file.abandon()
        assert content_of(volume, "key") == place.content("key") == (b"new" if end == "closed" else OLD)


@pytest.mark.parametrize("size", [3, (1 << 20) + 3], ids=["one request", "an upload in parts"])
def test_uncommitted_object_replaces_no_version_that_was_stored_after_its_rename(place: Place, size: int) -> None:
    """Its commit replaces the object that its new name had then. [2.19, 2.20]"""
    with attached(place.backend) as volume:
        file = volume.open("made", "wb")
        file.write(bytes(size))
        volume.rename("made", "key")
        place.put("key", OTHER)
        with contextlib.suppress(OSError):  # a unit that was uploaded for the old name has to be sent again
            file.fsync()
        raises(ConflictError, file.fsync)
        file.abandon()
    assert place.content("key") == OTHER


@pytest.mark.parametrize("use", [uploaded, read])
def test_version_of_another_client_is_renamed_and_mixed_with_nothing(place: Place, use: Use) -> None:
    """An open file keeps its own version, which is gone: its bytes that are not in memory cannot be read, nor forced.
    [2.19, 2.20]
    """
    with attached(place.backend) as volume:
        file = volume.open("key", "r+b", read_ahead=0)
        use(file)
        place.put("key", OTHER)
        volume.rename("key", "other")
        raises(ConflictError, file.pread, 4, len(OLD) - 4)
        if use is uploaded:
            raises(ConflictError, file.fsync)
            raises(ConflictError, volume.resolve, "other", "force")
        file.abandon()
    assert (place.content("key"), place.content("other")) == (None, OTHER)


@pytest.mark.parametrize(("retry", "times"), [(OFTEN, 1), (ONCE, 1), (ONCE, 2)], ids=["again", "once", "twice"])
@pytest.mark.parametrize("use", [uploaded, written, read])
def test_status_that_fails_behind_a_rename_is_asked_for_again_or_by_the_next_call(
    place: Place, use: Use, retry: RetryPolicy, times: int
) -> None:
    """Until then only the file that was open before tells the version of the copy from that of another client; if it
    does not answer before the rename returns, that raises. [2.14, 2.19, 2.20]
    """
    backend = FaultyBackend(place.backend)
    with attached(backend, retry=retry, flush_interval=3600) as volume, volume.open("key", "r+b", read_ahead=0) as file:
        use(file)
        backend.use([Rule("stat", error=errno.ECONNRESET, times=times)])
        with pytest.raises(ConnectionResetError) if times == 2 else contextlib.nullcontext():
            volume.rename("key", "other")
        backend.use([])
        expected = content_after(use)
        assert content_of(volume, "other") == expected
        assert file.pread(len(OLD), 0) == expected[: len(OLD)]
        file.pwrite(b"M", 0)
        place.save(file)
    assert (place.content("key"), place.content("other")) == (None, b"M" + expected[1:])


@pytest.mark.parametrize("ours", [True, False], ids=["its copy", "another version"])
@pytest.mark.parametrize("use", [uploaded, written, read])
def test_version_that_is_announced_before_a_renamed_file_is_opened_anew(place: Place, use: Use, ours: bool) -> None:
    """Its own copy is no change by another client, and any other version is one. [2.19, 2.20]"""
    backend = FaultyBackend(place.backend)
    with attached(backend, retry=ONCE, flush_interval=3600) as volume:
        file = volume.open("key", "r+b", read_ahead=0)
        use(file)
        backend.use([Rule("stat", error=errno.ECONNRESET, times=2)])
        raises(ConnectionResetError, volume.rename, "key", "other")
        backend.use([])
        if not ours:
            place.put("other", OTHER)
        volume.invalidate_remote("other", version=place.backend.stat("other").version)
        if ours:
            expected = content_after(use)
            assert file.pread(len(OLD), 0) == expected
            if place.fs is None and use is not read:
                with contextlib.suppress(
                    WritebackError
                ):  # what a renamed upload had is sent again: by a retry, if there were any
                    file.fsync()
            file.close()
            assert place.content("other") == expected
        else:
            raises(ConflictError, file.pread, 4, len(OLD) - 4)
            if use is not read:
                raises(ConflictError, file.fsync)
            file.abandon()
            assert place.content("other") == OTHER


@pytest.mark.parametrize("use", [uploaded, written, read])
def test_copy_that_is_announced_before_its_rename_returns_is_no_change_by_another_client(
    place: Place, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[2.19, 2.20]"""
    with attached(place.backend, flush_interval=3600) as volume:

        def announce() -> None:
            volume.invalidate_remote("other", version=place.backend.stat("other").version)

        beside(monkeypatch, opening, "follow", announce)
        with volume.open("key", "r+b", read_ahead=0) as file:
            use(file)
            volume.rename("key", "other")
            expected = content_after(use)
            assert file.pread(len(OLD), 0) == expected
        assert place.content("other") == expected


@pytest.mark.parametrize("by", ["another version", "a remove", "another version that is copied"])
def test_object_that_another_client_changes_while_it_is_copied_has_its_new_name(by: str) -> None:
    """Another version stays, and the rename has succeeded. The copied version is unknown: the open file keeps
    its own, and nothing is mixed. [2.19, 2.20]
    """
    place = Place(Whole(), "bucket", key=OLD)
    file = place.backend.open("key")
    assert get(file, 0, 4) == OLD[:4]
    stored, hooks = by != "a remove", place.fs.hooks
    when = hooks.before if by == "another version that is copied" else hooks.after
    when["cp_file"] = lambda path: place.put("key", OTHER) if stored else place.take_away("key")
    place.backend.rename("key", "other")
    copied = OLD if when is hooks.after else OTHER
    assert (place.content("key"), place.content("other")) == (OTHER if stored else None, copied)
    assert raises(OSError, get, file, len(OLD) - 4, 4).errno == errno.ESTALE


def test_rename_that_did_nothing_is_an_error_though_another_client_has_replaced_the_source(tmp_path: Path) -> None:
    """Its file stays with its name, where it is in conflict. [2.19, 2.20]"""
    place = Place(Elsewhere(moves="not"), str(tmp_path), key=OLD)
    place.put("other", OTHER)
    file = place.backend.open("key")
    place.fs.hooks.after["mv"] = lambda path: place.put("key", PRECIOUS)
    raises(io.UnsupportedOperation, place.backend.rename, "key", "other", match="mv does not replace")
    assert file.stat().key == "key"
    assert (raises(OSError, get, file, 0, 4).errno, place.content("other")) == (errno.ESTALE, OTHER)


ANY_USE = pytest.mark.parametrize("use", [read, written, uploaded])


@contextlib.contextmanager
def renamed(
    folder: Path, use: Use, act: Callable[[Place], None], *, replaced: bool = True
) -> Iterator[tuple[Place, Volume, CachedFile]]:
    """A file whose object was renamed, over another one. Another client acts right after the rename in the store."""
    place = Place(Elsewhere(), str(folder), key=OLD)
    if replaced:
        place.put("other", PRECIOUS)

    def moved(_path: str) -> None:
        place.fs.hooks.after.clear()
        act(place)

    place.fs.hooks.after["mv"] = moved
    with attached(place.backend) as volume:
        file = volume.open("key", "r+b", read_ahead=0)
        use(file)
        volume.rename("key", "other")
        yield place, volume, file


@ANY_USE
def test_object_whose_new_name_another_client_removes_at_once_comes_back_by_no_commit(tmp_path: Path, use: Use) -> None:
    """The rename is done; the removal is a conflict below unsaved bytes, otherwise there is no object. [2.19, 2.20]"""
    with renamed(tmp_path, use, lambda place: place.take_away("other")) as (place, _, file):
        if use is read:
            raises(FileNotFoundError, file.pread, 4, len(OLD) - 4)
            file.pwrite(b"W", 0)
            file.fsync()
        else:
            raises(ConflictError, file.fsync)
        file.abandon()
    assert place.names() == []


@pytest.mark.parametrize("replaced", [True, False], ids=["replaces", "replaces nothing"])
@ANY_USE
def test_rename_succeeds_if_another_client_takes_the_old_name_at_once(tmp_path: Path, use: Use, replaced: bool) -> None:
    """What has the old name then is no sign that the store does not replace. [2.20]"""
    made = renamed(tmp_path, use, lambda place: place.put("key", PRECIOUS), replaced=replaced)
    with made as (place, volume, file):
        assert file.pread(4, len(OLD) - 4) == OLD[-4:]
        assert content_of(volume, "key") == PRECIOUS
        file.close()
    assert (place.content("key"), place.content("other")) == (PRECIOUS, content_after(use))


@ANY_USE
def test_version_that_another_client_stores_under_the_new_name_at_once_is_mixed_with_nothing(
    tmp_path: Path, use: Use
) -> None:
    """[2.19, 2.20]"""
    longer = OTHER + b"!"
    with renamed(tmp_path, use, lambda place: place.put("other", longer)) as (place, _, file):
        raises(ConflictError, file.pread, 4, len(OLD) - 4)
        if use is not read:
            raises(ConflictError, file.fsync)
        file.abandon()
    assert (place.content("key"), place.content("other")) == (None, longer)


# ---------------------------------------------------------------------------------------------------- lost answers

LOOKS = pytest.mark.parametrize("failed_looks", [0, 2])


@pytest.fixture
def losing(place: Place) -> Place:
    if isinstance(place.fs, Parts):
        pytest.skip("the same as for others that copy")
    return place


@pytest.fixture
def silent(losing: Place) -> Place:
    """A place that loses look-ups, too."""
    if isinstance(losing.fs, Elsewhere):
        pytest.skip("local files are always found")
    return losing


@LOOKS
@pytest.mark.parametrize("use", [read, written, uploaded])
def test_rename_whose_answer_is_lost_takes_open_files_along(losing: Place, use: Use, failed_looks: int) -> None:
    """Whether the backend's own look-up or that of the next try finds it done. [2.14, 2.20]"""
    expected = content_after(use)
    with attached(losing.backend, retry=OFTEN) as volume, volume.open("key", "r+b", read_ahead=0) as file:
        use(file)
        losing.lose(failed_looks)
        volume.rename("key", "other")
        assert file.pread(4, len(OLD) - 4) == OLD[-4:]
        file.fsync()
        assert content_of(volume, "other") == expected
    assert (losing.content("key"), losing.content("other")) == (None, expected)


@LOOKS
@pytest.mark.parametrize("call", ["remove", "rename over it"])
def test_call_whose_answer_is_lost_takes_the_name_from_open_files(losing: Place, call: str, failed_looks: int) -> None:
    """They do not follow another object that has the name later. [2.14, I-24]"""
    losing.put("source", OTHER)
    with attached(losing.backend, retry=OFTEN) as volume, volume.open("key", "rb", read_ahead=0) as file:
        read(file)
        losing.lose(failed_looks)
        if call == "remove":
            volume.remove("key")
            stored(volume, "key", OTHER)
        else:
            volume.rename("source", "key")
        volume.rename("key", "other")
        raises(FileNotFoundError, file.pread, 4, len(OLD) - 4)
    assert (losing.content("key"), losing.content("other")) == (None, OTHER)


@pytest.mark.parametrize("verb", ["remove", "rename"])
def test_call_that_is_repeated_after_a_lost_answer_succeeds(silent: Place, verb: str) -> None:
    """The first one raises: its result is unknown. [2.14]"""
    with attached(silent.backend, retry=ONCE) as volume:

        def call() -> None:
            volume.remove("key") if verb == "remove" else volume.rename("key", "other")

        with volume.open("key", "rb", read_ahead=0) as file:
            read(file)
            silent.lose(1000)
            raises(OSError, call)
            silent.repair()
            call()
            raises(FileNotFoundError, call)
            if verb == "rename":
                assert file.pread(4, len(OLD) - 4) == OLD[-4:]
    assert (silent.content("key"), silent.content("other")) == (None, OLD if verb == "rename" else None)


@pytest.mark.parametrize("landed", [True, False], ids=["carried out", "not carried out"])
def test_new_object_whose_commit_was_not_answered_can_be_renamed(losing: Place, landed: bool) -> None:
    """It is stored, and its file does not know it yet; or its next commit replaces the object of the new name, and
    nothing is removed for that. [2.15, 2.20]
    """
    file = losing.written(b"content", "made", create=True)
    losing.lose_commit(landed=landed)
    raises(OSError, file.commit)
    losing.repair()
    losing.backend.rename("made", "key")
    assert losing.content("key") == (b"content" if landed else OLD)
    put(file, 0, b"C")
    file.commit()
    assert (losing.content("made"), losing.content("key")) == (None, b"Content")


@pytest.mark.parametrize("name", ["key", "other", None])
def test_bytes_written_after_a_rename_of_unknown_result_are_stored_or_reported(silent: Place, name: str | None) -> None:
    """Whichever name is looked up first, or none. [2.14, 2.20]"""
    silent.put("other", PRECIOUS)
    with attached(silent.backend, retry=ONCE) as volume, volume.open("key", "r+b", read_ahead=0) as file:
        read(file)
        silent.lose(1000)
        raises(OSError, volume.rename, "key", "other")
        silent.repair()
        if name is not None:
            assert volume.exists(name) is (name == "other")
        file.pwrite(b"W" * (1 << 20), 0)
        silent.save(file)
        assert silent.content("key") is None
        assert silent.content("other") == b"W" * (1 << 20) + OLD[1 << 20 :]


def test_a_remove_of_unknown_result_leaves_bytes_over_another_version_in_conflict(silent: Place) -> None:
    """Nothing shows that it was carried out, so the file keeps its name. [2.14, 2.19, K3]"""
    with attached(silent.backend, retry=ONCE) as volume, volume.open("key", "r+b", read_ahead=0) as file:
        read(file)
        silent.lose(1000)
        raises(OSError, volume.remove, "key")
        silent.repair()
        silent.put("key", OTHER)
        file.pwrite(b"mine", 0)
        raises(ConflictError, file.fsync)
        file.abandon()
    assert silent.content("key") == OTHER


@pytest.fixture
def faulty(place: Place) -> Iterator[Faulty]:
    """A volume without retries, and the handles to close before its end."""
    backend = FaultyBackend(place.backend)
    with PageCache("16MiB", retry=ONCE) as cache, contextlib.ExitStack() as handles:
        yield cache.attach(backend), backend, handles


def lose_answer(backend: FaultyBackend, change: Callable[[], None], *, landed: bool) -> None:
    """Make a remove or rename whose last try gets no answer. `landed`: it was carried out."""
    backend.use([Rule(("remove", "rename"), error=errno.ECONNRESET, done=landed)])
    raises(ConnectionResetError, change)
    backend.use([])


def fail_to_commit(place: Place, backend: FaultyBackend, file: CachedFile, how: str) -> None:
    """Make a commit without an answer; `how`: whether it was carried out, and whether the backend's file knows that."""
    if how == "unknown to its file":
        if isinstance(place.fs, Parts):
            pytest.skip("the same as for others that copy")
        place.lose_commit(landed=True)
    else:
        backend.use([Rule("commit", error=errno.ECONNRESET, done=how == "carried out", times=1)])
    raises(OSError, file.fsync)
    backend.use([])
    place.repair()


@pytest.mark.parametrize("how", ["not carried out", "carried out", "unknown to its file"])
@pytest.mark.parametrize(
    ("first", "theirs"), [("commit", ""), ("rename", ""), ("commit", "key"), ("commit", "other")], ids=str
)
def test_a_commit_without_an_answer_beside_a_rename_is_told_from_a_version_of_another_client(
    place: Place, faulty: Faulty, first: str, theirs: str, how: str
) -> None:
    """The backend's file finds its commit in the copy, too: nothing is in conflict, and all is saved. A version that
    another client stores before the rename or after it is a conflict: neither name hides it. [2.19, 2.20]
    """
    volume, backend, handles = faulty
    file = volume.open("key", "r+b", read_ahead=0)
    handles.callback(file.abandon if theirs else file.close)
    file.pwrite(b"W", 0)
    if first == "rename":
        volume.rename("key", "other")
    fail_to_commit(place, backend, file, how)
    if theirs == "key":
        place.put("key", OTHER)
    if first == "commit":
        volume.rename("key", "other")
    if theirs == "other":
        place.put("other", OTHER)
    if theirs:
        raises(ConflictError, file.fsync)
        assert (place.content("key"), place.content("other")) == (None, OTHER)
        return
    file.pwrite(b"M", 1)
    assert file.pread(4, len(OLD) - 4) == OLD[-4:]
    if place.fs is None and (first, how) == ("rename", "unknown to its file"):
        with pytest.raises(WritebackError, match="is sent again"):  # by a retry, if there were any
            file.fsync()
    file.fsync()
    assert (place.content("key"), place.content("other")) == (None, b"WM" + OLD[2:])


@pytest.mark.parametrize("landed", [True, False], ids=["carried out", "not carried out"])
@pytest.mark.parametrize("other", ["nothing", "stored", "never stored"])
def test_a_rename_of_an_object_that_was_never_stored_is_settled_by_its_open_file(
    place: Place, faulty: Faulty, other: str, landed: bool
) -> None:
    """Bytes that are saved after the lost answer are stored under the name that leads to them. [2.14, 2.20]"""
    volume, backend, handles = faulty
    draft = handles.enter_context(volume.open("draft", "xb"))
    draft.write(b"mine")
    new = {"nothing": "moved", "stored": "key", "never stored": "other"}[other]
    replaced = None if other == "nothing" else handles.enter_context(volume.open(new, "ab"))
    lose_answer(backend, partial(volume.rename, "draft", new), landed=landed)
    assert volume.exists("draft") is not landed
    name = new if landed else "draft"
    with volume.open(name, "ab") as again:
        again.write(b", saved")
        again.fsync()
    assert place.content(name) == b"mine, saved"
    if replaced is not None:
        replaced.write(b"other")
        replaced.fsync()
        assert place.content(new) == (b"mine, saved" if landed else (OLD if other == "stored" else b"") + b"other")


@pytest.mark.parametrize("landed", [True, False], ids=["carried out", "not carried out"])
def test_a_remove_of_an_unstored_object_is_settled_by_its_open_file(place: Place, faulty: Faulty, landed: bool) -> None:
    volume, backend, handles = faulty
    draft = handles.enter_context(volume.open("draft", "xb"))
    draft.write(b"mine")
    lose_answer(backend, partial(volume.remove, "draft"), landed=landed)
    with volume.open("draft", "ab") as again:
        again.write(b", saved")
        again.fsync()
    assert place.content("draft") == (b", saved" if landed else b"mine, saved")
