"""Calls of one object behind a disk tier, side by side and in every order, without the cache that keeps some apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import pytest

from pagecache import BackendLimits, DiskTier, ObjectStat
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.disk import tier as module
from pagecache.disk.backend import TieredBackend, TieredFile
from pagecache.disk.catalogue import Catalogue
from pagecache.disk.copies import Copy
from pagecache.disk.tier import Tier
from tests.file.rig import Task, beside, eventually, raises, raising

pytestmark = pytest.mark.contract("D8")

PAGE = 4096


class Store(Backend):
    """One object of whole pages, each of one letter; what the cache knows of it is in `version`."""

    def __init__(self, *, whole: bool) -> None:
        self.limits = BackendLimits(commit_on_close=whole)
        self.committed, self.written = list("abcdefgh"), list("abcdefgh")
        self.version: str | None = "1"
        self.reads = 0
        self.meanwhile: Callable[[], object] = lambda: None
        """Called once, after a read has taken its bytes."""
        self.broken = False

    def open(self, key: object, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return File(self)

    def stat(self, key: object) -> ObjectStat:
        return ObjectStat(size=8 * PAGE, version=self.version)


class File(BackendFile):
    def __init__(self, store: Store) -> None:
        self.store = store
        self.changed = not store.limits.commit_on_close  # else others see changes after a commit

    def stat(self) -> ObjectStat:
        return self.store.stat("k")

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        store = self.store
        store.reads += 1
        pages = store.written if self.changed else store.committed
        buffers[0][:] = (pages[offset // PAGE] * PAGE).encode("ascii")
        meanwhile, store.meanwhile = store.meanwhile, lambda: None
        meanwhile()
        return PAGE

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self.changed = True
        self.store.written[offset // PAGE] = chr(buffers[0][0])
        return PAGE

    def truncate(self, size: int) -> None:
        self.changed = True
        self.store.written[size // PAGE :] = ["0"] * (8 - size // PAGE)

    def commit(self) -> str:
        if self.store.broken:
            self.store.written = self.store.committed.copy()
            raise OSError(5, "no")
        self.store.committed = self.store.written.copy()
        assert self.store.version is not None
        self.store.version = str(int(self.store.version) + 1)
        return self.store.version

    def rollback(self) -> None:
        self.store.written = self.store.committed.copy()


class Rig:
    """Files of the object as the cache has them."""

    key = "k"
    identity: Hashable | None = None

    def __init__(self, tier: Tier, *, whole: bool) -> None:
        self.store = Store(whole=whole)
        self.backend = TieredBackend(self.store, tier, "store")
        self.stale = False

    def settled_version(self, backend_file: BackendFile) -> str | None:
        return None if self.stale else self.store.version

    def labelled(self, version: str) -> str:
        return version

    def about_to_commit(self) -> None:
        pass

    def has_committed(self, version: str | None, backend_file: BackendFile) -> None:
        pass

    def is_named(self) -> bool:
        return True

    def open(self) -> TieredFile:
        file = self.backend.open(self.key)
        assert isinstance(file, TieredFile)
        file.follow(self)
        return file


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Tier]:
    tier = Tier.open(DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB"), "test")
    yield tier
    tier.close("test")


@pytest.fixture
def rig(tier: Tier) -> Rig:
    return Rig(tier, whole=True)


def bound(tier: Tier, key: bytes, version: str = "1", volume: str = "store") -> Copy:
    copy = tier.bind(volume, key, version, tier.names)
    assert copy is not None
    return copy


def written(tier: Tier) -> None:
    """Wait until the writer has written everything."""
    while tier._segments._queue:
        pass


def read(file: TieredFile, page: int) -> str:
    room = bytearray(PAGE)
    assert file.read_into(page * PAGE, [memoryview(room)]) == PAGE
    assert len(set(room)) == 1
    return chr(room[0])


def write(file: TieredFile, page: int, letter: str) -> None:
    assert file.write_from(page * PAGE, [memoryview((letter * PAGE).encode("ascii"))]) == PAGE


def all_of(rig: Rig, tier: Tier) -> str:
    """Return what a file opened anew reads, from disk where that has it."""
    written(tier)
    file = rig.open()
    return "".join(read(file, page) for page in range(8))


def change(file: TieredFile) -> None:
    write(file, 2, "X")


def commit(file: TieredFile) -> None:
    write(file, 2, "X")
    file.commit()


def commit_twice(file: TieredFile) -> None:
    commit(file)
    write(file, 2, "Y")
    file.commit()


def cut(file: TieredFile) -> None:
    """Commit a change of which no byte is kept."""
    file.truncate(2 * PAGE)
    file.commit()


@pytest.mark.parametrize("beside", [change, commit, commit_twice, cut])
@pytest.mark.parametrize("other", [False, True], ids=["the same file", "another file"])
def test_a_read_keeps_nothing_that_was_changed_beside_it(
    rig: Rig, tier: Tier, beside: Callable[[TieredFile], None], other: bool
) -> None:
    file = rig.open()
    changing = rig.open() if other else file
    read(changing, 0)
    rig.store.meanwhile = lambda: beside(changing)
    assert read(file, 2) == "c"
    assert all_of(rig, tier) == "".join(rig.store.committed)
    changing.commit()
    assert all_of(rig, tier) == "".join(rig.store.committed)


def test_a_write_beside_a_commit_is_not_kept_as_committed(
    rig: Rig, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rig.open()
    write(file, 2, "X")
    beside(monkeypatch, file.inner, "commit", lambda: write(file, 3, "Y"), after=True)
    file.commit()
    assert all_of(rig, tier) == "abXdefgh" == "".join(rig.store.committed)
    file.commit()
    assert all_of(rig, tier) == "abXYefgh"


def test_what_is_not_committed_is_not_kept_for_others(rig: Rig, tier: Tier) -> None:
    file = rig.open()
    read(file, 0)
    write(file, 2, "X")
    assert read(file, 2) == "X"
    assert all_of(rig, tier) == "abcdefgh"


def test_what_is_not_committed_is_read_from_the_store(rig: Rig, tier: Tier) -> None:
    assert all_of(rig, tier) == "abcdefgh"
    written(tier)
    file = rig.open()
    write(file, 2, "X")
    file.truncate(5 * PAGE)
    before = rig.store.reads
    assert "".join(read(file, page) for page in range(8)) == "abXde000"
    assert rig.store.reads == before + 4
    file.commit()
    before = rig.store.reads
    assert all_of(rig, tier) == "abXde000"
    assert rig.store.reads == before + 3  # the zeros; the rest is that of the version before, and what was sent


@pytest.mark.parametrize("how", ["a failed commit", "a rollback", "both"])
def test_what_the_store_has_forgotten_is_not_kept(rig: Rig, tier: Tier, how: str) -> None:
    file = rig.open()
    read(file, 0)
    write(file, 2, "X")
    if how != "a rollback":
        rig.store.broken = True
        raises(OSError, file.commit, match="no")
        rig.store.broken = False
    if how != "a failed commit":
        file.rollback()
    write(file, 3, "Y")
    file.commit()
    assert all_of(rig, tier) == "abcYefgh" == "".join(rig.store.committed)


def test_bytes_that_are_sent_again_and_not_kept_are_not_the_first_ones(
    rig: Rig, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rig.open()
    write(file, 2, "X")
    with monkeypatch.context() as slow:
        slow.setattr(tier, "append", lambda *_: None)
        write(file, 2, "Y")
    file.commit()
    assert all_of(rig, tier) == "abYdefgh"


def test_an_announced_change_is_read_from_the_store(rig: Rig, tier: Tier) -> None:
    file = rig.open()
    assert [read(file, page) for page in (2, 3)] == ["c", "d"]
    written(tier)
    rig.store.committed[2] = "X"
    file.forget(2 * PAGE, 3 * PAGE)
    before = rig.store.reads
    assert [read(file, page) for page in (2, 3)] == ["X", "d"]
    assert rig.store.reads == before + 1


def test_a_read_beside_an_announcement_is_not_kept(rig: Rig, tier: Tier) -> None:
    file = rig.open()
    read(file, 0)

    def announce() -> None:
        rig.store.committed[2] = "X"
        file.forget(0, 8 * PAGE)

    rig.store.meanwhile = announce
    assert read(file, 2) == "c"
    written(tier)
    assert read(file, 2) == "X"


def test_while_the_version_is_not_known_nothing_is_read_from_disk_or_kept(rig: Rig, tier: Tier) -> None:
    assert all_of(rig, tier) == "abcdefgh"
    written(tier)
    rig.stale = True
    rig.store.committed[2] = "X"
    before = rig.store.reads
    assert all_of(rig, tier) == "abXdefgh"
    assert rig.store.reads == before + 8
    rig.stale, rig.store.version = False, "other"
    before = rig.store.reads
    assert all_of(rig, tier) == "abXdefgh"
    assert rig.store.reads == before + 8


def test_an_interrupted_commit_leaves_no_new_byte_under_the_old_version(
    rig: Rig, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of some stores are hashes of the content: the old one may come back."""
    assert all_of(rig, tier) == "abcdefgh"
    file = rig.open()
    read(file, 0)
    write(file, 2, "X")
    beside(monkeypatch, Copy, "lay", raising(KeyboardInterrupt()), after=True)
    raises(KeyboardInterrupt, file.commit)
    rig.store.version, rig.store.committed = "1", list("abcdefgh")
    assert all_of(rig, tier) == "abcdefgh"


def unsaved(tier: Tier) -> Copy:
    """Return a copy of version 1 that the catalogue does not have yet."""
    copy = bound(tier, b"sk")
    copy.put(0, PAGE, 1 << 32)
    tier.changed(copy)
    return copy


@pytest.mark.parametrize("before", [True, False], ids=["before the save", "beside it"])
@pytest.mark.parametrize("replaced", [False, True], ids=["of the present version", "of one that was replaced"])
def test_a_copy_does_not_come_back_under_a_removed_name(
    tier: Tier, monkeypatch: pytest.MonkeyPatch, before: bool, replaced: bool
) -> None:
    copy = unsaved(tier)

    def replace_and_remove() -> None:
        if replaced:
            bound(tier, b"sk", "2")
        tier.drop("store", b"sk")

    if before:
        replace_and_remove()
    else:
        beside(monkeypatch, Catalogue, "save", replace_and_remove)
    tier._save()
    assert not tier.find("store", copy.key)


@pytest.mark.contract("K8")
@pytest.mark.parametrize("saved", [False, True], ids=["a lock of its thread", "a save of the catalogue"])
def test_an_announcement_by_a_signal_handler_waits_for_nothing(tier: Tier, saved: bool) -> None:
    copy = unsaved(tier)
    if saved:
        tier._save()
    with tier._catalogue._saving if saved else tier._lock:
        Task(tier.forget, "store", b"sk").result()
    assert not tier.find("store", b"sk")
    tier._save()
    assert (copy.replaced, tier._catalogue.find("store", b"sk")) == (True, None)


def test_an_announced_name_that_cannot_be_dropped_goes_with_all_others(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in use are saved again."""
    copy, used = unsaved(tier), bound(tier, b"sused")
    used.put(0, PAGE, 1 << 40)
    tier._save()
    for where, name in ((module, "SAVE_EVERY"), (tier, "_save_every")):  # the writer saves nothing beside
        monkeypatch.setattr(where, name, 600.0)
    with monkeypatch.context() as failing:
        failing.setattr(Catalogue, "drop_all", raising(OSError(5, "no")))
        tier.forget("store", copy.key)
        tier._save()
    assert tier._catalogue.damaged
    tier._save()
    assert not tier._catalogue.damaged
    assert tier._catalogue.find("store", copy.key) is None
    assert tier._catalogue.find("store", used.key) is not None


@pytest.mark.parametrize("how", ["published", "changed"])
def test_a_copy_is_saved_soon_also_without_bytes_to_write(
    tier: Tier, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    copy = bound(tier, b"sk")
    copy.put(0, PAGE, 1 << 32)
    monkeypatch.setattr("pagecache.disk.tier.SAVE_EVERY", 0.0)
    if how == "published":
        tier.publish(copy, tier.names)
    else:
        tier.changed(copy)
    eventually(lambda: tier._catalogue.find("store", b"sk") is not None)


@pytest.mark.parametrize("damaged", [False, True], ids=["the disk", "the catalogue"])
def test_what_a_failed_save_or_a_damaged_catalogue_lacks_is_saved_again(
    tier: Tier, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    copy = unsaved(tier)
    with monkeypatch.context() as failing:
        if damaged:
            tier._save()
            tier._catalogue.damaged = True
        else:
            failing.setattr("pagecache.disk.catalogue.SAVE_CHUNK", "INSERT INTO missing VALUES (?, ?, ?, ?)")
            tier._save()
            assert not len(tier._catalogue.chunk(copy.number, 0, lambda _: True))
    tier._save()
    assert len(tier._catalogue.chunk(copy.number, 0, lambda _: True)) == 1


def test_chunks_that_are_saved_leave_memory_beyond_a_number_of_ranges(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagecache.disk.tier.RANGES_MAX", 0)
    copy = unsaved(tier)
    tier._save()
    assert copy.size() == 0
    assert copy.find(0) is not None  # loaded again


def test_copies_that_cannot_be_saved_stay_up_to_a_number_of_ranges(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagecache.disk.catalogue.SAVE_CHUNK", "INSERT INTO missing VALUES (?, ?, ?, ?)")
    unsaved(tier)
    for most in (1, 0):
        monkeypatch.setattr("pagecache.disk.tier.RANGES_MAX", most)
        tier._save()
        assert (len(tier._unsaved), len(tier._copies)) == (most, most)


def test_bytes_sent_before_a_rename_are_kept_under_the_new_name(rig: Rig, tier: Tier) -> None:
    """The next object of the old name may have their version."""
    rig.stale = True  # a new object has no version
    file = rig.open()
    write(file, 2, "X")
    tier.drop("store", b"sk")
    rig.key, rig.stale = "n", False
    file.commit()
    assert (tier.find("store", b"sk"), tier.find("store", b"sn")) == (False, True)


def test_names_of_a_rename_that_failed_have_no_copy(rig: Rig, tier: Tier) -> None:
    """It may have been carried out."""
    for key in (b"sk", b"sn"):
        tier.publish(bound(tier, key), tier.names)

    def rename(src: str, dst: str, *, replace: bool) -> None:
        raise OSError(5, "no answer")

    rig.store.rename = rename  # type: ignore[method-assign, assignment]
    raises(OSError, rig.backend.rename, "k", "n", match="no answer")
    assert not tier.find("store", b"sk")
    assert not tier.find("store", b"sn")


@pytest.mark.parametrize("saved", [False, True], ids=["not saved", "saved"])
@pytest.mark.parametrize("name", ["sd/a", "sn/a"], ids=["its own", "the new one"])
def test_names_below_a_renamed_directory_have_no_copy(rig: Rig, tier: Tier, name: str, saved: bool) -> None:
    """Other objects get them by a rename of a directory, or are made anew."""
    copies = []
    for key in (name, "sd0", "sm/a", "sn"):
        copies.append(bound(tier, key.encode()))
        copies[-1].put(0, PAGE, 1 << 32)
        tier.publish(copies[-1], tier.names)
    if saved:
        tier._save()
        copies.clear()
    rig.store.rename = lambda *_, **__: None  # type: ignore[method-assign]
    rig.backend.rename("d", "n")
    tier._save()
    assert not tier.find("store", name.encode())
    assert tier._catalogue.find("store", name.encode()) is None
    assert [tier.find("store", key) for key in (b"sd0", b"sm/a", b"sn")] == [True, True, False]


def test_a_renamed_directory_drops_the_copies_of_each_name_once_before_the_call_and_once_after(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, drop = list[bytes | None](), Catalogue.drop

    def dropping(self: Catalogue, volume: str, key: bytes, tree: bool = False) -> None:
        calls.append(key)
        drop(self, volume, key, tree)

    monkeypatch.setattr(Catalogue, "drop", dropping)
    monkeypatch.setattr(rig.store, "rename", lambda *_, **__: calls.append(None))
    rig.backend.rename("d", "n")
    assert calls == [b"sd", b"sn", None, b"sd", b"sn"]


def test_a_version_that_is_seen_beside_a_write_is_not_that_of_its_bytes(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write may end within the same tick of a clock, and leave the version as it is."""
    rig = Rig(tier, whole=False)
    file = rig.open()
    read(file, 0)

    def look() -> None:
        rig.store.version = "2"
        assert read(file, 2) == "c"

    beside(monkeypatch, file.inner, "write_from", look)
    write(file, 2, "X")
    assert all_of(rig, tier) == "abXdefgh"


@pytest.mark.parametrize("saved", [False, True], ids=["of an open file", "saved"])
def test_a_version_of_two_files_has_the_bytes_of_neither(tier: Tier, saved: bool) -> None:
    """Files of two caches: the one that asks for the version last may have written first."""
    rig = Rig(tier, whole=False)
    last, first = rig.open(), rig.open()
    write(last, 2, "X")
    write(first, 2, "Y")
    rig.store.version = "2"
    first.stat()
    written(tier)
    if saved:
        tier._save()
        del first
    last.stat()
    assert all_of(rig, tier) == "abYdefgh"
    assert all_of(rig, tier) == "abYdefgh"
    assert rig.store.reads == 8  # by the first of them


@pytest.mark.parametrize(
    "change", [lambda file: write(file, 2, "Y"), lambda file: file.truncate(2 * PAGE)], ids=["a write", "a cut"]
)
@pytest.mark.parametrize(("files", "asking"), [(2, 1), (3, 3)], ids=["two files, one asks", "three files, all ask"])
def test_a_version_of_several_files_has_the_bytes_of_none_before_all_of_them_have_asked_for_it(
    tier: Tier, change: Callable[[TieredFile], object], files: int, asking: int
) -> None:
    """In place, write-back in the background does not ask."""
    rig = Rig(tier, whole=False)
    opened = [rig.open() for _ in range(files)]
    for file in opened[2:]:
        write(file, 2, "Z")
    write(opened[0], 2, "X")
    change(opened[1])
    rig.store.version = "2"
    for file in opened[:asking]:
        file.stat()
    assert all_of(rig, tier) == all_of(rig, tier) == "".join(rig.store.written)


def test_a_version_of_files_with_two_names_of_one_object_has_the_bytes_of_neither(tier: Tier) -> None:
    """Files of two caches, which have opened it by two links. The second one has not asked for the version."""
    rig, other = Rig(tier, whole=False), Rig(tier, whole=False)
    other.backend, other.key = TieredBackend(rig.store, tier, "store"), "link"
    rig.identity = other.identity = 1
    first, second = rig.open(), other.open()
    write(first, 2, "X")
    write(second, 2, "Y")
    rig.store.version = "2"
    first.stat()
    assert all_of(rig, tier) == "abYdefgh" == "".join(rig.store.written)


@pytest.mark.parametrize("seen_by", ["stat", "read", "commit"])
def test_in_place_a_change_keeps_nothing_of_what_was_sent_or_was_there_before(tier: Tier, seen_by: str) -> None:
    rig = Rig(tier, whole=False)
    file = rig.open()
    assert "".join(read(file, page) for page in range(8)) == "abcdefgh"
    rig.stale = True
    write(file, 2, "X")
    rig.store.written[5] = "Z"  # by another program, unseen
    if seen_by == "commit":
        file.commit()
    else:
        rig.store.version = "2"
    rig.stale = False
    if seen_by == "stat":
        file.stat()
    read(file, 0)
    before = rig.store.reads
    assert all_of(rig, tier) == "abXdeZgh"
    assert rig.store.reads == before + 7  # not the page that was just read


def test_a_status_from_before_a_change_is_not_the_version_after_it(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tier, whole=False)
    file = rig.open()
    read(file, 0)
    write(file, 0, "X")
    rig.store.version = "that of X"
    beside(monkeypatch, file.inner, "stat", lambda: write(file, 1, "Y"), after=True)
    file.stat()
    assert file._changed is not None
    file.stat()
    assert file._changed is None


def test_a_file_whose_name_changes_just_before_it_takes_a_copy_does_not_take_that_of_the_next_object(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both objects have the version "1"; each file has its store."""
    ours, next_one = Rig(tier, whole=False), Rig(tier, whole=False)
    next_one.store.written = next_one.store.committed = list("ABCDEFGH")
    file = ours.open()

    def renamed_and_another_object_has_the_name() -> None:
        ours.key = "moved"
        tier.drop("store", b"sk")  # as `TieredBackend.rename` does, before and after
        tier.drop("store", b"sk")
        other = next_one.open()
        assert read(other, 0) == "A"
        written(tier)
        kept.append(other)  # alive

    kept: list[object] = []
    # between `reader.is_named()` and the look of `bind` into `_copies`
    beside(monkeypatch, Tier, "bind", renamed_and_another_object_has_the_name)
    assert read(file, 0) == "a"  # fails: "A", and so does each later read of this file
    assert read(file, 1) == "b"
    assert read(next_one.open(), 1) == "B"  # fails: what `file` has kept


def test_names_that_one_save_drops_are_dropped_by_one_sync(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [("store", b"k%d" % number) for number in range(100)]
    for _, key in names:
        tier.changed(bound(tier, key))
    tier._save()
    said: list[str] = []
    tier._catalogue._saver.set_trace_callback(said.append)
    tier._announced.update(names)
    tier._save()
    assert len([each for each in said if each.startswith("DELETE FROM copies WHERE volume")]) == 100
    assert said.count("COMMIT") <= 2
    assert not any(tier.find(*name) for name in names)


def test_a_drop_by_a_call_that_has_outlasted_its_tier_reaches_the_next_one(tmp_path: Path) -> None:
    described, users = DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB"), [object(), object()]
    former = Tier.open(described, users[0])
    former.close(users[0])
    now = Tier.open(described, users[1])
    try:
        copy = bound(now, b"sk")
        former.drop("store", b"sk")
        assert not now.find("store", b"sk")
        assert copy.version is None
    finally:
        now.close(users[1])
