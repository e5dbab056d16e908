"""Clean data on disk: a byte is read from the store once, and no other byte is ever delivered in its place."""

from __future__ import annotations

import errno
import itertools
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

import pagecache
from pagecache import DiskTier, Event, PageCache, Volume, loglines
from pagecache.backends import DirectoryBackend
from pagecache.disk import records
from pagecache.disk import tier as module
from pagecache.disk.backend import TieredFile
from pagecache.disk.catalogue import Catalogue
from pagecache.disk.copies import CHUNK, Copy
from pagecache.disk.device import OS
from pagecache.disk.segments import Segments
from pagecache.disk.tier import Tier
from pagecache.engine.commit.journaled import VolumeJournal
from pagecache.testing import Gate as Gates
from tests.disk.copying import copy_tier
from tests.disk.standin import stand_in
from tests.disk.test_orders import bound
from tests.file.rig import Task, at_gate, attached, beside, eventually, held, raises, raising, run_program
from tests.file.test_interrupts import interrupted_at
from tests.file.test_lost_names import StoreOfPaths
from tests.plain import fill
from tests.stores import ObjectBackend, ObjectFile, RecordingBackend, StoredObject

pytestmark = pytest.mark.contract("D4", "D5", "D6", "D7", "D8", "D11", "D12")

MIB = 1 << 20


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tier"


@pytest.fixture
def tier(folder: Path) -> DiskTier:
    return DiskTier(folder, size="64MiB", segment="4MiB")


def read(volume: Volume, key: str) -> bytes:
    with volume.open(key) as file:
        return file.read()


def reads(store: RecordingBackend, key: str | None = None) -> int:
    return sum(length for _, length in store.spans("read_into", key))


def on_tier(
    tier: DiskTier, store: Any, size: str = "4MiB", volume_id: str | None = "store", **options: Any
) -> AbstractContextManager[Volume]:
    """A volume on a new cache with this tier."""
    return attached(store, size, {"volume_id": volume_id, **options}, disk=tier)


def read_once(tier: DiskTier, store: Any, key: str, **options: Any) -> bytes:
    """Read an object with a new cache."""
    with on_tier(tier, store, **options) as volume:
        return read(volume, key)


def kept(tier: DiskTier, store: RecordingBackend, key: str, but: int = 0) -> None:
    """Check that a new cache reads an object from disk, `but` at most that many bytes."""
    store.forget_calls()
    content = store.content(key) if isinstance(store, ObjectBackend) else store.written(key)
    assert read_once(tier, store, key) == content
    assert reads(store) <= but


# -- one read of the store


def test_bytes_that_memory_had_to_evict_are_read_from_disk(tier: DiskTier) -> None:
    data = content(8 * MIB)
    store = ObjectBackend({"a": data})
    with on_tier(tier, store, "1MiB") as volume:
        assert read(volume, "a") == data

        def from_disk() -> bool:
            store.forget_calls()
            assert read(volume, "a") == data
            return reads(store) < len(data) // 4

        eventually(from_disk)  # bytes that wait to be written are read from the store


def test_bytes_of_writes_that_run_side_by_side_are_all_kept(tier: DiskTier) -> None:
    """The next process reads them from disk."""
    store = ObjectBackend()
    with on_tier(tier, store, "8MiB") as volume, volume.open("a", "w") as file:
        both = threading.Barrier(2)
        store.fault("write_from answer", lambda *_: both.wait(60), times=2)
        file.write(content(4 * MIB))
        file.flush()
    assert store.content("a") == content(4 * MIB)
    kept(tier, store, "a")


def test_an_edit_keeps_the_rest_on_disk(tier: DiskTier) -> None:
    data = bytearray(content(2 * MIB))
    store = ObjectBackend({"a": bytes(data)})
    read_once(tier, store, "a")
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file:
        file.pwrite(b"new" * 1000, 70_001)
        file.truncate(MIB + 11)
        file.pwrite(b"end", MIB + 4000)
    data[70_001:73_001] = b"new" * 1000
    data[MIB + 11 :] = bytes(4000 - 11) + b"end"
    assert store.content("a") == bytes(data)
    kept(tier, store, "a", but=20_000)


@pytest.mark.parametrize("root", ["data", "\udcff"], ids=["text", "no Unicode"])
def test_an_object_in_place_is_read_once_and_read_again_after_a_change(
    tier: DiskTier, tmp_path: Path, root: str
) -> None:
    place, data = tmp_path / root / "a", content(MIB)
    place.parent.mkdir()
    place.write_bytes(data)
    for round in range(3):
        with on_tier(tier, f"dir:{place.parent}", volume_id=None) as volume:
            assert read(volume, "a") == data
            assert bool(volume.stats().disk_hits) == (round > 0)
    place.write_bytes(content(MIB, seed=2))
    assert read_once(tier, f"dir:{place.parent}", "a", volume_id=None) == content(MIB, seed=2)


def test_a_renamed_or_removed_object_leaves_its_bytes_to_no_name(tier: DiskTier, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(content(MIB))
    read_once(tier, f"dir:{tmp_path / 'data'}", "a", volume_id=None)
    with on_tier(tier, f"dir:{tmp_path / 'data'}", volume_id=None) as volume:
        volume.rename("a", "b")
        assert (read(volume, "b"), volume.stats().disk_hits) == (content(MIB), 0)
    with on_tier(tier, f"dir:{tmp_path / 'data'}", volume_id=None) as volume:
        assert read(volume, "b") == content(MIB)
        assert volume.stats().disk_hits > 0
        volume.remove("b")
        with volume.open("b", "w") as file:
            file.write(b"other")
        assert read(volume, "b") == b"other"


# -- D8: the right bytes


def test_another_version_gets_no_byte_of_the_former(tier: DiskTier) -> None:
    store = ObjectBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    store.put("a", content(MIB, seed=2))
    assert read_once(tier, store, "a") == content(MIB, seed=2)


class Spelled(RecordingBackend):
    """Keys are paths, in any spelling. Each object counts its own versions."""

    def canonical(self, key: Any) -> str:
        return "/".join(part for part in os.fspath(key).split("/") if part)

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        return super().open(self.canonical(key), create=create, exclusive=exclusive)

    def remove(self, key: Any) -> None:
        super().remove(self.canonical(key))

    def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        super().rename(self.canonical(src), self.canonical(dst), replace=replace)


@pytest.mark.parametrize("copy", ["not saved", "saved", "named by a path", "named by two slashes", "on a full disk"])
@pytest.mark.parametrize("how", ["remove", "rename away", "rename over"])
def test_another_object_under_the_name_gets_no_byte_of_the_former(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, how: str, copy: str
) -> None:
    """Also if it has the same version: in this store each object counts its own. The disk is full until the end."""
    store = Spelled({"a": content(MIB), "c": content(MIB, seed=2), "d/b": content(MIB)})
    key: Any = {"named by a path": Path("d/b"), "named by two slashes": "d//b"}.get(copy, "d/b")
    if copy != "not saved":
        read_once(tier, store, "d/b")
    with monkeypatch.context() as full, on_tier(tier, store) as volume:
        read(volume, "d/b" if copy in ("not saved", "saved") else "a")
        for call in ("drop", "save") if copy == "on a full disk" else ():
            full.setattr(Catalogue, call, raising(OSError(28, "database or disk is full")))
        if how == "remove":
            volume.remove(key)
        elif how == "rename away":
            volume.rename(key, Path("e"))
        if how == "rename over":
            volume.rename("c", key)
        else:
            store.rename("c", "d/b")  # by another program
        assert read(volume, "d/b") == content(MIB, seed=2)
    assert read_once(tier, store, "d/b") == content(MIB, seed=2)


@pytest.mark.parametrize("open_still", [False, True], ids=["closed", "open"])
def test_another_directory_under_the_name_gets_no_byte_of_the_former(tier: DiskTier, open_still: bool) -> None:
    """Each object counts its own versions."""
    store = StoreOfPaths({"d/a": content(MIB), "e/a": content(MIB, seed=2)})
    read_once(tier, store, "d/a")
    with on_tier(tier, store) as volume, ExitStack() as files:
        read(volume, "d/a")
        if open_still:
            files.enter_context(volume.open("d/a"))
        volume.rename("d", "x")
        volume.rename("e", "d")
        assert read(volume, "d/a") == content(MIB, seed=2)
        assert read(volume, "x/a") == content(MIB)
    assert read_once(tier, store, "d/a") == content(MIB, seed=2)


def test_a_key_below_that_of_a_renamed_object_keeps_its_copy(tier: DiskTier) -> None:
    store = ObjectBackend({"a": content(MIB), "a/b": content(MIB, seed=2)})
    with on_tier(tier, store) as volume:
        for key in ("a", "a/b"):
            read(volume, key)
        volume.rename("a", "c")
    kept(tier, store, "a/b")


class Lasting(RecordingBackend):
    """Objects have identities that a later process finds again. Each counts its own versions."""

    def lasting_identity(self, identity: int) -> str:
        return str(identity)


def test_another_object_with_name_and_version_of_the_former_gets_none_of_its_bytes(tier: DiskTier) -> None:
    """Below `dir:` an inode number may come back, with size and time that unzip or tar have set."""
    store = Lasting({"a": content(MIB)}, identities=True)
    read_once(tier, store, "a")
    kept(tier, store, "a")
    former = store.objects["a"]
    store.objects["a"] = StoredObject(content(MIB, seed=3))  # by another program
    store.objects["a"].version = former.version
    assert read_once(tier, store, "a") == content(MIB, seed=3)


def test_another_store_under_the_same_name_is_another_one(tier: DiskTier) -> None:
    stores = {"one": ObjectBackend({"a": content(MIB)}), "two": ObjectBackend({"a": content(MIB, seed=2)})}
    with PageCache("4MiB", disk=tier) as cache:
        for name, store in stores.items():
            assert read(cache.attach(store, volume_id=name), "a") == store.content("a")
    for name, store in stores.items():
        assert read_once(tier, store, "a", volume_id=name) == store.content("a")


@pytest.mark.parametrize("put_back", [False, True])
def test_a_read_just_behind_a_commit_is_not_kept_under_the_former_version(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, put_back: bool
) -> None:
    """Versions of some stores are hashes of the content: the former one may come back."""
    store = ObjectBackend({"a": (former := content(MIB))})
    version = store.objects["a"].version
    with on_tier(tier, store, read_ahead=0) as volume, volume.open("a", "r+") as file:
        file.pread(4096, 0)
        file.truncate(4096)
        file.truncate(MIB)

        def read_behind() -> None:
            assert Task(file.pread, 4096, MIB // 2).result() == bytes(4096)

        beside(monkeypatch, TieredFile, "commit", read_behind, after=True)
        file.fsync()
    if put_back:
        store.put("a", former)
        store.objects["a"].version = version
        with on_tier(tier, store, read_ahead=0) as volume, volume.open("a") as file:
            assert file.pread(4096, MIB // 2) == former[MIB // 2 :][:4096]
    else:
        kept(tier, store, "a", but=MIB - 4096)


def test_a_late_read_of_a_file_that_was_replaced_is_not_kept_under_the_version_of_its_successor(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of some stores still have their version when it is replaced."""
    store = ObjectBackend({"a": content(MIB)})
    read_into, late = TieredFile.read_into, Gates()

    def read_late(file: TieredFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset == 65536:
            late.enter()
        return read_into(file, offset, buffers)

    def fill_from_own(file: ObjectFile, offset: int, buffers: Sequence[memoryview]) -> int:
        return fill(buffers, memoryview(file.base)[offset:])

    monkeypatch.setattr(TieredFile, "read_into", read_late)
    monkeypatch.setattr(ObjectFile, "fill", fill_from_own)
    with on_tier(tier, store, read_ahead=0) as volume, volume.open("a", "r+") as file:
        file.pwrite(b"x" * 4096, 0)
        with late:
            reading = Task(file.pread, 4096, 65536)
            late.wait_entered()
            new = store.put("a", content(MIB, seed=2))
            raises(pagecache.ConflictError, volume.open, "a")
            settling = Task(volume.resolve, "a", "rebase")
            eventually(lambda: file._inode.versions.base == new)
        with suppress(pagecache.ConflictError):
            reading.result()
        settling.result()
        assert file.pread(4096, 65536) == content(MIB, seed=2)[65536:][:4096]


def test_reads_of_whole_units_get_whole_units(tier: DiskTier) -> None:
    store = ObjectBackend({"a": content(3 * MIB)}, read_unit=10_000, max_read=2_000_000)
    for _ in range(2):
        assert read_once(tier, store, "a") == content(3 * MIB)


def test_a_direct_read_asks_the_store(tier: DiskTier) -> None:
    store = RecordingBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    store.forget_calls()
    with on_tier(tier, store) as volume, volume.open("a", direct=True) as file:
        assert file.pread(4096, 8192) == content(MIB)[8192:12288]
    assert store.spans("read_into", "a") == [(8192, 4096)]


def test_chunks_behind_a_cut_are_gone_from_the_catalogue(tmp_path: Path) -> None:
    catalogue = Catalogue(str(tmp_path))

    def made(*, known: bool) -> Copy:
        copy = Copy(1, "v", b"sa", "1", lambda number, chunk: catalogue.chunk(number, chunk, lambda _: True))
        if known:
            copy.known = True
        return copy

    copy = made(known=False)
    for chunk in range(4):
        copy.put(chunk * CHUNK + 5, 10, chunk + 1)
    catalogue.save([copy], 0)
    copy.cut(CHUNK + 8, None)
    copy.put(3 * CHUNK, 7, 9)
    catalogue.save([copy], 0)
    again = made(known=True)
    assert [again.find(chunk * CHUNK + 6) is not None for chunk in range(4)] == [True, True, False, True]
    assert list(again.gaps(CHUNK, 2 * CHUNK)) == [(CHUNK, CHUNK + 5), (CHUNK + 8, 2 * CHUNK)]
    again = made(known=True)
    again.cut(CHUNK, None)
    assert again.find(3 * CHUNK) is None  # the catalogue has it until the next save
    catalogue.close()


def test_what_could_not_be_loaded_to_be_cut_is_not_kept_under_the_next_version(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read of the catalogue fails, and then it is saved again."""
    store = ObjectBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file, monkeypatch.context() as failing:
        failing.setattr("pagecache.disk.catalogue.FIND_CHUNK", "SELECT ranges FROM missing WHERE copy = ?")
        file.truncate(4096)
        file.fsync()
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file:
        file.pwrite(b"end", MIB - 3)
    assert read_once(tier, store, "a") == store.content("a") == content(MIB)[:4096] + bytes(MIB - 4099) + b"end"


# -- D4: damage


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.clean"))


@pytest.mark.parametrize("aligned", [False, True], ids=["buffered", "direct"])
def test_damaged_bytes_are_read_from_the_store_and_counted(folder: Path, aligned: bool) -> None:
    tier = DiskTier(folder, size="64MiB", segment="4MiB", direct_io=aligned)
    data = content(2 * MIB)
    store = ObjectBackend({"a": data})
    read_once(tier, store, "a")
    with segments(folder)[0].open("r+b") as file:
        for place in range(1000, 2 * MIB, 300_000):
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))
    for damaged in (True, False):  # then they are kept again
        seen: list[Event] = []
        with on_tier(tier, store) as volume:
            volume.cache.subscribe(seen.append)
            assert read(volume, "a") == data
            assert (volume.stats().disk_errors > 0) is damaged
        assert ("disk" in [event.kind for event in seen]) is damaged


def test_any_damage_to_any_file_of_the_tier_delivers_no_wrong_byte(folder: Path, tier: DiskTier) -> None:
    chance = random.Random(7)
    store = ObjectBackend({f"o{k}": content(200_000 + 1000 * k, seed=k) for k in range(10)})
    objects = {f"o{k}": store.content(f"o{k}") for k in range(10)}
    for round in range(30):
        with on_tier(tier, store, "1MiB") as volume:
            for key in objects:
                assert read(volume, key) == objects[key], (round, key)
            changed = chance.choice(list(objects))
            with volume.open(changed, "r+") as file:
                file.pwrite(b"%d" % round * 3000, chance.randrange(100_000))
            objects[changed] = store.content(changed)
        for place in folder.iterdir():
            size = place.stat().st_size
            if place.name != "tier" and size and chance.random() < 0.5:
                with place.open("r+b") as damaged:
                    for _ in range(chance.choice([1, 20])):
                        damaged.seek(chance.randrange(size))
                        damaged.write(chance.randbytes(chance.choice([1, 512])))
                    if chance.random() < 0.2:
                        damaged.truncate(chance.randrange(size))
            elif chance.random() < 0.05 and place.name != "tier":
                place.unlink()


# -- D5: a failing disk


@pytest.mark.parametrize(
    ("call", "error"),
    [("posix_fallocate", OSError(28, "No space left on device")), ("pwrite", OSError(5, "Input/output error"))],
    ids=["full", "failing"],
)
def test_a_disk_that_takes_nothing_is_a_miss_an_event_and_a_counter_and_is_tried_again(
    folder: Path, tier: DiskTier, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    store = ObjectBackend({"a": content(MIB), "b": content(MIB, seed=2)})
    events: list[pagecache.Event] = []
    monkeypatch.setattr("pagecache.disk.segments.PAUSE", 0.0)
    with on_tier(tier, store) as volume:
        volume.cache.subscribe(events.append)
        with monkeypatch.context() as failing:
            failing.setattr(os, call, raising(error))
            assert read(volume, "a") == store.content("a")
            eventually(lambda: len(events) == 1)
            assert segments(folder) == []
        assert volume.stats().disk_errors == 1
        assert read(volume, "b") == store.content("b")
        eventually(lambda: len(events) == 2)
    assert [(event.kind, event.error is None) for event in events] == [("disk", False), ("disk", True)]
    kept(tier, store, "b")


def test_a_start_on_a_full_disk_has_no_copies_until_the_catalogue_can_be_opened(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes in the journal are saved beside it."""
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    store = ObjectBackend({"a": content(MIB)})
    with on_tier(tier, store, durability="disk") as volume:
        read(volume, "a")
        with volume.open("k", "xb") as file:
            file.write(b"confirmed")
    with monkeypatch.context() as full:
        full.setattr(Catalogue, "_open", raising(sqlite3.OperationalError("database or disk is full")))
        with on_tier(tier, store, durability="disk") as volume:
            events: list[pagecache.Event] = []
            volume.cache.subscribe(events.append)
            volume.sync(durability="backend")
            assert store.content("k") == b"confirmed"
            assert read(volume, "a") == content(MIB)
            assert volume.stats().disk_hits == 0
            eventually(lambda: "disk" in [event.kind for event in events])
    with on_tier(tier, store) as volume:
        assert read(volume, "a") == content(MIB)
        assert volume.stats().disk_hits == 0
    kept(tier, store, "a")


def test_a_start_on_a_full_disk_makes_room(tier: DiskTier, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clean data goes, and the catalogue begins anew at once."""
    store, opened = ObjectBackend({"a": content(MIB)}), Catalogue._open
    read_once(tier, store, "a")

    def open_if_there_is_room(catalogue: Catalogue) -> None:
        if segments(folder):
            raise sqlite3.OperationalError("database or disk is full")
        opened(catalogue)

    with monkeypatch.context() as full:
        full.setattr(Catalogue, "_open", open_if_there_is_room)
        assert read_once(tier, store, "a") == content(MIB)
    kept(tier, store, "a")


def test_a_name_is_dropped_on_a_full_disk_after_the_oldest_segment_has_made_room(
    tier: DiskTier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other names keep their copies."""
    store, drop, at_first = ObjectBackend({name: content(5 * MIB, seed) for seed, name in enumerate("abc")}), None, 0
    for name in "abc":
        read_once(tier, store, name)
    drop, at_first = Catalogue.drop, len(segments(folder))

    def drop_if_there_is_room(catalogue: Catalogue, *arguments: Any) -> None:
        if len(segments(folder)) == at_first:
            raise OSError(28, "database or disk is full")
        drop(catalogue, *arguments)

    with on_tier(tier, store) as volume, monkeypatch.context() as full:
        full.setattr(Catalogue, "drop", drop_if_there_is_room)
        volume.remove("b")
    kept(tier, store, "c")


@pytest.mark.parametrize("name_is", ["removed", "announced before a save fails", "announced afterwards"])
def test_a_kill_while_the_disk_is_full_keeps_no_copy_of_a_name_that_has_changed(
    tier: DiskTier, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name_is: str
) -> None:
    """Each object of this store counts its own versions."""
    monkeypatch.setattr(module, "PAUSE", 600.0)
    store = RecordingBackend({name: content(MIB, seed) for seed, name in enumerate("abc")})
    read_once(tier, store, "b")
    with on_tier(tier, store) as volume, monkeypatch.context() as full:
        running = volume.cache.tier
        assert running is not None
        for call in ("drop", "drop_all", "save"):
            full.setattr(Catalogue, call, raising(OSError(28, "database or disk is full")))
        if name_is == "announced afterwards":
            read(volume, "a")
            eventually(lambda: running._save_every == 600.0)
        if name_is == "removed":
            volume.remove("b")
        store.rename("c", "b")  # by another program
        if name_is != "removed":
            volume.invalidate_remote("b")
        eventually(lambda: running._catalogue.damaged)
        copy_tier(folder, tmp_path / "killed")
    killed = DiskTier(tmp_path / "killed", size="64MiB", segment="4MiB")
    assert read_once(killed, store, "b") == content(MIB, seed=2)


def test_what_waits_for_the_first_segment_stays_in_the_catalogue(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that comes before the writer takes it for bytes that are still to come, not for bytes that are gone."""
    store = ObjectBackend({"a": content(MIB)})
    write_next, save, saved = Segments.write_next, Catalogue.save, threading.Event()

    def save_first(catalogue: Catalogue, copies: Sequence[Copy], oldest: int) -> None:
        save(catalogue, copies, oldest)
        saved.set()

    monkeypatch.setattr(Segments, "write_next", lambda segments: saved.is_set() and write_next(segments))
    monkeypatch.setattr(Catalogue, "save", save_first)
    with on_tier(tier, store) as volume:
        read(volume, "a")
        assert saved.wait(60)
    kept(tier, store, "a")


def test_reads_go_on_while_the_disk_hangs(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(40 * MIB)
    store = ObjectBackend({"a": data})
    with on_tier(tier, store) as volume, held(monkeypatch, os, "pwrite"):
        assert read(volume, "a") == data
        assert volume.stats().disk_hits == 0


# -- D6, D7, D11, D12


def test_the_directory_stays_below_its_size(folder: Path) -> None:
    tier = DiskTier(folder, size="16MiB", segment="2MiB")
    store = ObjectBackend({f"o{k}": content(3 * MIB, seed=k) for k in range(10)})
    with on_tier(tier, store) as volume:
        for key in (f"o{k}" for k in range(10)):
            assert read(volume, key) == store.content(key)
            assert len(segments(folder)) <= 8
            assert volume.stats().disk_bytes <= 18 * MIB
        eventually(lambda: len(segments(folder)) >= 6)
    kept(tier, store, "o9")
    assert read_once(tier, store, "o0") == store.content("o0")
    assert reads(store) == 3 * MIB


def test_a_directory_that_gets_a_smaller_size_shrinks_though_nothing_is_written(folder: Path) -> None:
    store = ObjectBackend({"a": content(14 * MIB), "last": content(MIB)})
    for key in store.objects:
        read_once(DiskTier(folder, size="16MiB", segment="2MiB"), store, str(key))
    assert len(segments(folder)) > 4
    store.forget_calls()
    with on_tier(DiskTier(folder, size="8MiB", segment="2MiB"), store) as volume:
        eventually(lambda: len(segments(folder)) <= 4)
        assert read(volume, "last") == store.content("last")
    assert not reads(store)


def test_what_is_read_again_outlives_what_is_read_once(folder: Path) -> None:
    """The oldest segment goes first, and its extents that were read are written again."""
    tier = DiskTier(folder, size="16MiB", segment="2MiB")
    store = ObjectBackend({"hot": content(MIB // 4), **{f"o{k}": content(MIB, seed=k) for k in range(60)}})
    for k in range(60):
        with on_tier(tier, store, "1MiB") as volume:
            assert read(volume, "hot") == store.content("hot")
            read(volume, f"o{k}")
    assert len(store.spans("read_into", "hot")) == 1
    assert len(segments(folder)) <= 8


def test_files_have_mode_0600_and_no_name_of_an_object(folder: Path, tier: DiskTier) -> None:
    store = ObjectBackend({"secret": content(MIB)})
    read_once(tier, store, "secret")
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
        assert "secret" not in file.name


def test_files_of_others_in_the_directory_are_left_alone(folder: Path, tier: DiskTier) -> None:
    folder.mkdir(mode=0o700)
    for name in ("notes.clean", "ffffffffffffffff.clean"):  # an impossible number
        (folder / name).write_text("mine")
    (folder / "x").mkdir()
    store = ObjectBackend({**{f"o{k}": content(9 * MIB, seed=k) for k in range(9)}, "last": content(MIB)})
    for key in store.objects:
        read_once(tier, store, str(key))
    kept(tier, store, "last")
    assert (folder / "notes.clean").read_text() == (folder / "ffffffffffffffff.clean").read_text() == "mine"
    assert (folder / "x").is_dir()


def test_a_second_process_is_refused_with_the_first_one_s_number(folder: Path, tier: DiskTier) -> None:
    with PageCache("1MiB", disk=tier):
        program = f"import pagecache; pagecache.PageCache('1MiB', disk={str(folder)!r})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert "another process uses the tier" in done.stderr
        assert f"process {os.getpid()}" in done.stderr
        with PageCache("1MiB", disk=tier), pytest.raises(ValueError, match="with size 67108864, not 1073741824, jour"):
            PageCache("1MiB", disk=DiskTier(folder, size="1GiB"))
    PageCache("1MiB", disk=folder).close()


def test_a_newer_format_is_refused_with_a_sentence(folder: Path, tier: DiskTier) -> None:
    PageCache("1MiB", disk=tier).close()
    (folder / "tier").write_text("pagecache disk tier, format 9\n")
    raises(ValueError, PageCache, "1MiB", disk=tier, match=r"has format 9, and this version reads formats up to 1")
    (folder / "tier").write_text("something else")
    raises(ValueError, PageCache, "1MiB", disk=tier, match="not of a tier")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": "100MiB"},
            r"size: '100MiB' is less than 4 segments of 64.0 MiB, so 256.0 MiB is the minimum; .*\(segment=\)",
        ),
        ({"segment": "4KiB"}, r"segment: '4KiB' is not from 1 MiB to 4 GiB"),
        ({"size": "1GiB", "journal_limit": "2GiB"}, r"journal_limit: '2GiB' is more than the size of the tier"),
        ({"journal_limit": "0"}, r"journal_limit: '0' is less than 256 KiB"),
        ({"journal_limit": "255KiB"}, r"journal_limit: '255KiB' is less than 256 KiB"),
    ],
)
def test_impossible_sizes_are_refused(folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiskTier(folder, **options)  # type: ignore[arg-type]


def test_a_path_that_cannot_be_a_tier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    raises(OSError, PageCache, "1MiB", disk=tmp_path / "file", match="not a directory")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open" / "file").write_text("")
    raises(PermissionError, PageCache, "1MiB", disk=tmp_path / "open", match="chmod 700")
    raises(ValueError, DiskTier, "a\0b", match="contains a null character")
    raises(TypeError, DiskTier, "a", siz="1GiB", match="DiskTier has no option 'siz'; did you mean 'size'")
    with pytest.raises(TypeError, match="disk must be"):
        PageCache("1MiB", disk=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_disk_that_is_full_at_the_first_use_is_named(
    folder: Path, tier: DiskTier, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with PageCache("1MiB", disk=folder.with_name("other")) as cache, monkeypatch.context() as patch:
        patch.setattr(os, call, raising(OSError(errno.ENOSPC, "No space left on device")))
        raises(OSError, PageCache, "1MiB", disk=tier, match=f"No space left on device: '{folder}'")
        if call == "fsync":
            raises(OSError, cache.attach, "memory:", durability="disk", volume_id="m", match="on device: '.*/other'")
    PageCache("1MiB", disk=tier).close()


def test_a_volume_may_leave_the_tier_alone(tier: DiskTier) -> None:
    store = ObjectBackend({"a": content(MIB)})
    with on_tier(tier, store, disk=False) as volume:
        assert read(volume, "a") == store.content("a")
        assert volume.backend is store
    store.forget_calls()
    with on_tier(tier, store) as volume:
        assert volume.backend is store
        assert read(volume, "a") == store.content("a")
    assert reads(store) == MIB


def test_a_part_of_the_file_system_is_left_to_others(
    folder: Path, tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth of it: segments go until that much is free."""
    store = ObjectBackend({f"o{k}": content(3 * MIB, seed=k) for k in range(4)})
    for key in ("o0", "o1", "o2"):
        read_once(tier, store, key)
    assert len(segments(folder)) == 3

    def tight(path: object) -> SimpleNamespace:
        return SimpleNamespace(f_blocks=100, f_frsize=MIB, f_bavail=5 + 4 * (3 - len(segments(folder))))

    monkeypatch.setattr(os, "statvfs", tight)
    read_once(tier, store, "o3")
    assert len(segments(folder)) == 3  # one went: beside two old ones the new one leaves 5 of 100
    kept(tier, store, "o3")


@pytest.mark.parametrize("left", [2, 0])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_start_on_a_full_disk_drops_what_it_needs_and_opens_no_database_before(
    folder: Path, tier: DiskTier, monkeypatch: pytest.MonkeyPatch, left: int, error: int
) -> None:
    """SQLite would map an index for which there is no block: SIGBUS. `left`: segments that leave room for it. What
    `statvfs` says does not count: for root there may be more, and less below a quota.
    """
    store, connect, opened = ObjectBackend({f"o{k}": content(3 * MIB, seed=k) for k in range(3)}), sqlite3.connect, []
    for key in ("o0", "o1", "o2"):
        read_once(tier, store, key)

    def full(*_arguments: object) -> None:
        if not 0 < len(segments(folder)) <= left:
            raise OSError(error, "full")

    def counted(*arguments: Any, **options: Any) -> Any:
        opened.append(len(segments(folder)))
        return connect(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=100, f_frsize=MIB, f_bavail=0))
        patch.setattr(os, "posix_fallocate", full)
        patch.setattr(sqlite3, "connect", counted)
        with on_tier(tier, store) as volume:
            assert len(segments(folder)) == left
            assert volume.stats().disk_errors == (0 if left else 1)
            assert read(volume, "o2") == content(3 * MIB, seed=2)
            assert (volume.stats().disk_hits > 0) == (left > 0)
    assert set(opened) == ({left} if left else set())
    assert read_once(tier, store, "o2") == content(3 * MIB, seed=2)
    kept(tier, store, "o2")


def test_a_catalogue_that_fails_is_left_alone_for_a_while(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each second has a line in the log."""
    monkeypatch.setattr("pagecache.disk.tier.SAVE_EVERY", 0.0)
    store, save, tries = ObjectBackend({"a": content(MIB)}), Catalogue.save, list[object]()
    shrink, turns = Segments.shrink, list[object]()

    def turn(segments: Segments) -> None:
        turns.append(None)
        shrink(segments)

    def fail(*arguments: object) -> None:
        tries.append(arguments)
        raise OSError(28, "No space left on device")

    with on_tier(tier, store) as volume:
        monkeypatch.setattr(Catalogue, "save", fail)
        read(volume, "a")
        eventually(lambda: tries)
        monkeypatch.setattr(Segments, "shrink", turn)
        running = volume.cache.tier
        assert running is not None
        for number in range(1, 6):  # each begins when the last one is over
            running._wake()
            eventually(lambda number=number: len(turns) >= number)  # type: ignore[misc]
        assert len(tries) == 1
        monkeypatch.setattr(Catalogue, "save", save)
    kept(tier, store, "a")


def test_keys_that_are_no_text_are_not_kept_and_odd_ones_are(tier: DiskTier) -> None:
    keys = ["\udcff", b"a", "a", 7, ("a", 1)]
    store = ObjectBackend({key: content(5000, seed=k) for k, key in enumerate(keys)})
    for again in (False, True):
        with on_tier(tier, store) as volume:
            for key in keys:
                with volume.open(key) as file:
                    assert file.read() == store.content(key)
                assert bool(store.spans("read_into", key)) == (not again or not isinstance(key, str | bytes)), key
        store.forget_calls()


def test_another_backend_after_a_reconnect_has_the_tier_too(tier: DiskTier) -> None:
    store, other = ObjectBackend({"a": content(MIB)}), ObjectBackend({"a": content(MIB), "b": content(MIB, seed=2)})
    with on_tier(tier, store) as volume:
        read(volume, "a")
        volume.reconnect(other)
        assert volume.backend is other
        assert read(volume, "b") == content(MIB, seed=2)
    kept(tier, other, "b")


def test_a_remote_file_system_is_refused(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagecache.disk.tier._file_system", lambda _: "nfs4")
    with pytest.raises(ValueError, match="is on a file system of type nfs4; a tier needs a local disk"):
        PageCache("1MiB", disk=tier)


def test_a_tier_that_cannot_start_gives_its_lock_back(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr("pagecache.disk.tier.threading.Thread.start", raising(OSError(11, "no thread")))
        raises(OSError, PageCache, "1MiB", disk=tier, match="no thread")
    PageCache("1MiB", disk=tier).close()


def test_a_process_with_too_many_open_files_is_refused_the_tier_and_empties_none(tmp_path: Path) -> None:
    program = """
        import errno, os, resource, sys
        from pagecache import DiskTier, PageCache
        stored, folder = sys.argv[1:]
        os.mkdir(stored)
        with open(f"{stored}/a", "wb") as file:
            file.write(bytes(4 << 20))
        tier = DiskTier(folder, size="256MiB", segment="1MiB")
        def read():
            with PageCache("16MiB", disk=tier) as cache, cache.attach(f"dir:{stored}").open("a") as file:
                assert file.read() == bytes(4 << 20)
        read()
        segments = sorted(name for name in os.listdir(folder) if name.endswith(".clean"))
        assert segments
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        last = os.dup(0)
        os.close(last)
        refused = 0
        for more in range(40):
            resource.setrlimit(resource.RLIMIT_NOFILE, (last + more, most))
            try:
                read()
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                refused += 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            now = sorted(name for name in os.listdir(folder) if name.endswith(".clean"))
            assert set(segments) <= set(now), (more, now, segments)
        print(refused)
        """
    done = run_program(tmp_path, program, str(tmp_path / "stored"), str(tmp_path / "tier"))
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < int(done.stdout) < 20  # one that is refused keeps no descriptor


@pytest.mark.parametrize("step", ["the thread", "the catalogue", "the mark"])
def test_a_tier_whose_end_was_interrupted_is_started_anew(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """By the next cache; the first one repeats its end, or does not."""
    first = PageCache("1MiB", disk=tier)
    owner, name = {
        "the thread": (threading.Thread, "join"),
        "the catalogue": (Catalogue, "close"),
        "the mark": (module, "leave"),
    }[step]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(owner, name, raising(KeyboardInterrupt()))
        raises(KeyboardInterrupt, Tier.close, first.tier, first.tier_use)
    store = ObjectBackend({"a": content(MIB)})
    with on_tier(tier, store) as volume:
        first.close()
        read(volume, "a")
        eventually(lambda: segments(Path(tier.path)))
    kept(tier, store, "a")


def test_an_end_that_was_interrupted_when_it_was_done_gives_up_no_other_directory(
    tier: DiskTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tier may have its descriptor since."""
    first = PageCache("1MiB", disk=tier)
    beside(monkeypatch, module, "leave", raising(KeyboardInterrupt()), after=True)
    raises(KeyboardInterrupt, Tier.close, first.tier, first.tier_use)
    with PageCache("1MiB", disk=tmp_path / "other"):
        PageCache("1MiB", disk=tier).close()
        raises(OSError, module.occupy, str(tmp_path / "other"), match="another process uses the tier")
    first.close()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_interrupt_anywhere_in_the_start_of_a_tier_leaves_none(tier: DiskTier) -> None:
    def within(frame: FrameType) -> bool:
        return frame.f_code.co_filename == module.__file__ or frame.f_code is threading.Thread.start.__code__

    def writers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "pagecache-disk" and thread.is_alive()]

    others = len(writers())
    for nth in itertools.count(1):
        place = interrupted_at(nth, lambda: Tier.open(tier, "user"), within)
        if not place:
            break
        assert module._running == {}, place
        eventually(lambda: len(writers()) == others, 10)
        Tier.open(tier, "next").close("next")
    module._running[os.path.realpath(tier.path)].close("user")


def test_a_forked_child_does_not_keep_the_directory(folder: Path) -> None:
    program = (
        "import os, pagecache, sys\n"
        f"cache = pagecache.PageCache('1MiB', disk={str(folder)!r})\n"
        "if os.fork() == 0:\n"
        "    os.close(1)\n"
        "    sys.stdin.read()\n"  # until the test is over
        "    os._exit(0)\n"
        "print('open', flush=True)\n"
        "os._exit(0)\n"  # without closing
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == "open\n"
        PageCache("1MiB", disk=folder).close()
        parent.communicate(timeout=60)


def test_a_child_that_is_forked_while_a_tier_starts_opens_tiers(tmp_path: Path) -> None:
    """The child has a copy of each lock that another thread of its parent holds, and no thread that releases it."""
    done = run_program(
        tmp_path,
        """
        import os, signal, sys, threading, pagecache
        from pagecache.disk import tier

        genuine, entered, release = tier.occupy, threading.Event(), threading.Event()

        def late(path):
            entered.set()
            release.wait()
            return genuine(path)

        def use():
            pagecache.PageCache("1MiB", disk=sys.argv[1]).close()

        tier.occupy = late
        thread = threading.Thread(target=use)
        thread.start()
        entered.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            tier.occupy = genuine
            use()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        release.set()
        thread.join()
        """,
        str(tmp_path / "tier"),
    )
    assert done.returncode == 0, done.stderr


def test_a_tier_that_waits_for_its_disk_at_its_end_holds_up_no_other(
    tier: DiskTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PageCache("1MiB", disk=tier)
    gate, end = at_gate(held(monkeypatch, Catalogue, "close"), cache.close)
    Task(PageCache("1MiB", disk=tmp_path / "other").close).result()
    again = Task(PageCache, "1MiB", disk=tier)  # waits for the end, and starts it anew
    assert not end.finished.is_set()
    end.result(opening=gate)
    again.result().close()


def test_a_file_object_that_outlives_its_cache_keeps_no_segment_open(folder: Path, tier: DiskTier) -> None:
    """The next owner of the directory may remove it."""
    data = content(MIB)
    store = ObjectBackend({"a": data})
    read_once(tier, store, "a")
    with on_tier(tier, store) as volume:
        file = volume.open("a")
        assert file.read() == data
        assert volume.stats().disk_hits > 0
    places = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not any(place.startswith(str(folder)) for place in places)
    raises(pagecache.ShutdownError, file.pread, 1, 0)


def test_a_forked_child_keeps_no_segment_open(tmp_path: Path) -> None:
    """The space of those that its parent removes would stay taken."""
    done = run_program(
        tmp_path,
        """
        import os, sys, pagecache

        def kinds():
            places = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
            return {place.rpartition(".")[2] for place in places} & {"clean", "journal"}

        cache = pagecache.PageCache("1MiB", disk=sys.argv[1])
        volume = cache.attach(f"dir:{sys.argv[2]}", durability="disk")
        with volume.open("a", "w+b") as file:
            file.write(bytes(4 << 20))
            file.fsync(durability="backend")
            while not volume.stats().disk_hits:
                file.pread(4 << 20, 0)
            file.write(b"unsaved")
            file.fsync()
            assert kinds() == {"clean", "journal"}
            child = os.fork()
            if child == 0:
                os._exit(len(kinds()))
            assert os.waitpid(child, 0)[1] == 0
            assert kinds() == {"clean", "journal"}
        cache.close()
        """,
        str(tmp_path / "tier"),
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


def test_a_volume_that_is_attached_while_the_writer_asks_all_of_them_fails_nothing(tier: DiskTier) -> None:
    """It asks for the bytes of their spools; so does a caller that lacks room."""
    with PageCache("4MiB", disk=tier) as cache:
        cache.attach("memory:", name="first")
        tasks: list[Task[Any]] = []

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename.endswith("disk/tier.py") and "each" in frame.f_locals and not tasks:
                tasks.append(Task(cache.attach, "memory:", name="second"))
                tasks[0].waits()
            return trace

        assert cache.tier is not None
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            cache.tier.size_now()
        finally:
            sys.settrace(before)
        tasks[0].result()


def test_an_error_names_the_store_and_not_the_tier(tier: DiskTier) -> None:
    with PageCache("1MiB", disk=tier) as cache:
        volume = cache.attach("memory:")
        volume.open("a", "x").close()
        raises(OSError, volume.setattr, "a", mode=0o600, match="MemoryBackend cannot change attributes")


# -- a start


def work_of(call: Callable[[], object]) -> tuple[int, int]:
    """Return the calls that read, and the bytes that they return, of a call in this thread."""

    def read_so_far() -> tuple[int, int]:
        text = Path("/proc/thread-self/io").read_text()
        found = dict(line.split(": ") for line in text.splitlines())
        return int(found["syscr"]), int(found["rchar"])

    before = read_so_far()
    call()
    after = read_so_far()
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.contract("D9")
def test_a_start_and_an_open_read_as_much_of_a_large_tier_as_of_a_small_one(tmp_path: Path) -> None:
    """64 GiB are listed by a catalogue of 25 MiB; one page of it more may lead to a row."""
    found = []
    for chunks in (16, 1024):
        stand_in(tmp_path / str(chunks), chunks)
        described = DiskTier(tmp_path / str(chunks), size="1TiB")
        tiers: list[Tier] = []
        start = work_of(lambda described=described, tiers=tiers: tiers.append(Tier.open(described, 1)))  # type: ignore[misc]
        assert tiers[0].find("memory:", b"s7")
        copy = bound(tiers[0], b"s7", volume="memory:")
        one = work_of(lambda copy=copy: copy.find(1 << 20))  # type: ignore[misc]
        assert copy.find(1 << 20) is not None
        tiers[0].close(1)
        found.append((*start, *one))
    for small, large, more in zip(*found, (8, 8 * 4096, 4, 4 * 4096), strict=True):
        assert large <= small + more
    assert found[1][1] < 256 << 10


@pytest.mark.contract("D9")
def test_a_start_after_a_crash_reads_the_journal_once(tier: DiskTier, tmp_path: Path) -> None:
    """The start knows what the journal has until a record is appended: so does the first attach of a store."""
    with PageCache("16MiB", disk=tier) as cache, ExitStack() as files:
        for name in ("one", "other"):
            volume = cache.attach("memory:", volume_id=name, durability="disk")
            file = files.enter_context(volume.open("key", "w"))  # the store gets the bytes after the close
            file.pwrite(content(1 * MIB), 0)
            file.fsync()
        copy_tier(tier.path, tmp_path / "crashed")
    size = sum(path.stat().st_size for path in (tmp_path / "crashed").rglob("*.journal"))
    described = DiskTier(tmp_path / "crashed", size="64MiB", segment="4MiB")
    caches: list[PageCache] = []
    assert size <= work_of(lambda: caches.append(PageCache("16MiB", disk=described)))[1] < 1.2 * size
    with caches[0] as cache:
        found: list[Volume] = []
        for name in ("one", "other"):
            attach = partial(cache.attach, "memory:", volume_id=name, durability="disk", on_recovery="hold")
            assert work_of(lambda attach=attach: found.append(attach()))[1] < 0.2 * size  # type: ignore[misc]
        assert [each.ranges for volume in found for each in volume.recovered()] == [((0, MIB),)] * 2
        for volume in found:
            volume.resume()
            volume.sync(durability="backend")
        assert [read(volume, "key") for volume in found] == [content(1 * MIB)] * 2


def test_a_journal_that_is_being_opened_keeps_the_directory(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records would come between those of the next owner. [D7]"""
    before = Tier.open(tier, "before")
    before.close("before")
    raises(OSError, before.journal, match="is closed")
    first = Tier.open(tier, "first")
    gate, opening = at_gate(held(monkeypatch, OS, "sync_folder"), first.journal)
    closing = Task(first.close, "first")
    assert closing.waits()
    opening.result(opening=gate)
    closing.result()
    raises(OSError, opening.value.append, records.removed(1), match="is closed")


@pytest.mark.parametrize("how", ["remove", "rename", "setattr"])
def test_a_copy_is_forgotten_on_the_device_before_the_call_ends(tier: DiskTier, tmp_path: Path, how: str) -> None:
    """A power cut brings it back no more than a kill does. SQLite syncs a commit if `synchronous` is FULL."""
    for name in "ab":
        (tmp_path / name).write_bytes(content(MIB))
        read_once(tier, DirectoryBackend(tmp_path), name)
    said: list[str] = []
    with on_tier(tier, DirectoryBackend(tmp_path)) as volume:
        assert volume.cache.tier is not None
        volume.cache.tier._catalogue._saver.set_trace_callback(said.append)
        calls = {"remove": ("b",), "rename": ("a", "b"), "setattr": ("b",)}
        getattr(volume, how)(*calls[how], **({"mtime_ns": 10**18} if how == "setattr" else {}))
        done = [each for each in said if each.startswith(("PRAGMA", "DELETE"))]
    before = [last for last, each in itertools.pairwise(done) if each.startswith("DELETE")]
    assert before
    assert set(before) == {"PRAGMA synchronous = FULL"}


@pytest.mark.parametrize("used", [False, True], ids=["nobody has the directory", "the next tier has it"])
def test_a_late_remove_of_an_ended_volume_leaves_the_catalogue_of_the_next_tier(
    tier: DiskTier, folder: Path, monkeypatch: pytest.MonkeyPatch, *, used: bool
) -> None:
    """The tier ends with its last cache, beside a call that hangs; another process may have the directory then."""
    store = RecordingBackend({"a": content(MIB), "k": b"k"})
    read_once(tier, store, "a")
    with store.gate("remove") as gate:
        with PageCache("4MiB", disk=tier) as cache:
            volume = cache.attach(store, volume_id="store")
            raises(TimeoutError, volume.remove, "k", timeout=0.2)
            volume.detach(timeout=0.5, on_failed="discard")
        dropped = threading.Event()
        beside(monkeypatch, Tier, "_drop_saved", dropped.set, after=True)
        if used:
            with on_tier(tier, RecordingBackend({"a": content(MIB)})) as next_one:
                read(next_one, "a")
                gate.open()
                assert dropped.wait(60)
                assert (folder / "catalogue.db").exists()  # fails: unlinked below a running SQLite database
        else:
            gate.open()
            assert dropped.wait(60)
    kept(tier, RecordingBackend({"a": content(MIB)}), "a")  # fails: the next start removes all segments


def test_a_tier_in_memory_is_warned_of(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_file_system", lambda _path: "tmpfs")
    PageCache("1MiB", disk=tier).close()
    loglines.outlast(10)
    said = [record.levelname for record in caplog.records if "does not survive a restart" in record.message]
    assert said == ["WARNING"]
