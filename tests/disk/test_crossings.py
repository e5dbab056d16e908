"""What runs beside the disk tier or is done to its directory: no wrong byte, and no error of a call."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from pagecache import Advice, ConflictError, DataLossError, DiskTier, PageCache, RetryPolicy
from pagecache.backends import DirectoryBackend, TransformBackend
from pagecache.disk.backend import TieredFile
from pagecache.disk.catalogue import Catalogue
from pagecache.disk.copies import CHUNK, Chunk, Copy
from pagecache.disk.tier import Tier
from tests.backends.transforms import XorStream
from tests.file.rig import at_gate, beside, eventually, raises, raising
from tests.stores import ObjectBackend, RecordingBackend, StoredObject

from . import test_orders as orders
from .test_orders import bound
from .test_tier import MIB, content, kept, on_tier, read, read_once, reads

pytestmark = pytest.mark.contract("D4", "D5", "D8")


@pytest.fixture
def running(tier: DiskTier) -> Iterator[Tier]:
    found = Tier.open(tier, "test")
    yield found
    found.close("test")


def written(cache: PageCache) -> None:
    """Wait until the writer has written everything."""
    assert cache.tier is not None
    orders.written(cache.tier)


# -- versions


def test_a_commit_of_another_file_just_before_a_read_looks_into_the_copy(
    running: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has not noticed the second version."""
    rig, unaware = orders.Rig(running, whole=True), orders.Rig(running, whole=True)
    ours, theirs = rig.open(), rig.open()
    ours.follow(unaware)
    orders.read(ours, 2)
    orders.read(theirs, 0)
    orders.written(running)

    def then_a_commit() -> None:
        orders.commit(theirs)
        orders.written(running)

    beside(monkeypatch, TieredFile, "_current", then_a_commit, after=True)
    before = rig.store.reads
    orders.read(ours, 2)
    assert rig.store.reads == before + 1  # the store knows the version that this file has opened


@pytest.mark.parametrize("before", [False, True])
def test_an_announced_change_is_read_from_the_store(tier: DiskTier, *, before: bool) -> None:
    """Also if nothing was read before: the copy is of an earlier process."""
    store = RecordingBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    with on_tier(tier, store) as volume, volume.open("a") as file:
        if before:
            assert file.read() == content(MIB)
        store.change_remotely("a", content(MIB, seed=2))
        volume.invalidate_remote("a")
        assert file.pread(MIB, 0) == content(MIB, seed=2)
    store.objects["a"].version = 1  # what was read after the announcement is no part of the version before it
    store.objects["a"].written[:] = content(MIB)
    assert read_once(tier, store, "a") == content(MIB)


@pytest.mark.parametrize("known", ["an open file", "a closed file", "no file"])
def test_no_later_file_reads_bytes_that_an_announced_change_has_replaced(tier: DiskTier, known: str) -> None:
    """The version is that of our commit: another program had written before it was asked for."""
    store = RecordingBackend({"a": bytes(MIB)})
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file:
        file.pwrite(content(8192), 0)
        file.fsync()
    with on_tier(tier, store) as volume:
        file = volume.open("b" if known == "no file" else "a", "a+")
        if known == "a closed file":
            file.close()
        store.objects["a"].written[:8192] = content(8192, seed=2)
        volume.invalidate_remote("a", 0, 8192)
        assert read(volume, "a")[:8192] == content(8192, seed=2)
    assert read_once(tier, store, "a")[:8192] == content(8192, seed=2)


def test_a_version_that_is_found_beside_an_announcement_keeps_no_bytes_that_it_has_replaced(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours were sent before, by a write-back that did not ask for the version."""
    store = RecordingBackend({"a": bytes(MIB)})
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file:
        backend_file = file._inode.backend_file
        assert isinstance(backend_file, TieredFile)
        backend_file.write_from(0, [memoryview(content(8192))])
        store.objects["a"].written[:8192] = content(8192, seed=2)
        beside(monkeypatch, TieredFile, "forget", backend_file.stat)
        volume.invalidate_remote("a", 0, 8192)
    assert read_once(tier, store, "a")[:8192] == content(8192, seed=2)


def test_a_version_that_bytes_sent_have_not_changed_yet_keeps_none_of_them(tier: DiskTier) -> None:
    """Within one tick of the store's clock; the commit moves it on, but others may have the version."""
    store = RecordingBackend({"a": content(8192)})
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file:
        file.read()
        backend_file = file._inode.backend_file
        assert isinstance(backend_file, TieredFile)
        backend_file.write_from(0, [memoryview(content(8192, seed=2))])
        store.objects["a"].version = 1
        assert backend_file.stat().version == "1"
    store.objects["a"].written[:] = content(8192)
    assert read_once(tier, store, "a") == content(8192)


@pytest.mark.parametrize("name", ["a", "b", None])
def test_an_announced_change_of_an_object_with_two_names_leaves_no_copy_under_either(
    tier: DiskTier, name: str | None
) -> None:
    store = RecordingBackend({"a": content(MIB)}, identities=True)
    store.objects["b"] = store.objects["a"]
    for key in ("a", "b"):
        read_once(tier, store, key)
    store.objects["a"].written[:] = content(MIB, seed=2)  # the version stays
    with on_tier(tier, store) as volume, volume.open("a"), volume.open("b"):
        volume.invalidate_remote(name)
        assert read(volume, "a") == content(MIB, seed=2)
    for key in ("a", "b"):
        assert read_once(tier, store, key) == content(MIB, seed=2)


@pytest.mark.parametrize("name", ["a", "b"], ids=["by the old name", "by the new one"])
def test_a_change_that_is_announced_beside_a_rename_leaves_no_copy_to_the_new_name(tier: DiskTier, name: str) -> None:
    """The rename is carried out, and its answer is late."""
    store = RecordingBackend({"a": bytes(MIB)})
    with on_tier(tier, store) as volume, volume.open("a", "r+") as file:
        file.pwrite(content(8192), 0)
        file.fsync()
    with on_tier(tier, store) as volume:
        gate, renaming = at_gate(store.gate("rename answer"), volume.rename, "a", "b")
        store.objects["b"].written[:8192] = content(8192, seed=2)
        volume.invalidate_remote(name, 0, 8192)
        renaming.result(opening=gate)
        assert read(volume, "b")[:8192] == content(8192, seed=2)
    assert read_once(tier, store, "b")[:8192] == content(8192, seed=2)


@pytest.mark.parametrize("refused", ["write_from", "read_into"])
@pytest.mark.parametrize("policy", ["fail", "take_remote"])
def test_bytes_that_another_program_has_overwritten_are_none_of_its_version(
    tier: DiskTier, policy: Literal["fail", "take_remote"], refused: str
) -> None:
    """In place; they were sent, and a call that finds the other version is refused before theirs was asked for."""
    store = RecordingBackend({"a": bytes(16384)})
    with on_tier(tier, store, read_ahead=0, on_conflict=policy) as volume:
        file = volume.open("a", "r+")
        file.pwrite(b"x" * 4096, 0)
        file.advise(Advice.DONTNEED)  # it is written back
        eventually(lambda: store.spans("write_from", "a") == [(0, 4096)] and not file._inode.usage()["writeback"])
        store.change_remotely("a", b"y" * 16384)
        fault = store.fault(refused, OSError(errno.ESTALE, "another version is stored"))
        if refused == "read_into":
            raises(ConflictError, file.pread, 4096, 8192)
        else:
            file.pwrite(b"z" * 4096, 4096)
            raises(OSError, file.flush)
        fault.clear()
        if policy == "fail":
            volume.resolve("a", "discard")
        eventually(lambda: not file._inode.local_ranges(), 10)
        assert file.pread(16384, 0) == b"y" * 16384
        with suppress(DataLossError):  # unless the flush has raised it
            file.close()
    assert read_once(tier, store, "a") == b"y" * 16384


def test_an_announcement_of_any_length_takes_no_time(tier: DiskTier) -> None:
    store = RecordingBackend({"a": content(MIB)})
    with on_tier(tier, store) as volume, volume.open("a") as file:
        file.read()
        volume.invalidate_remote("a", 0, 1 << 62)
        assert file.pread(MIB, 0) == content(MIB)


@pytest.mark.parametrize("log_first", [False, True], ids=["the database is copied first", "the log is copied first"])
def test_a_tier_that_was_copied_in_use_mixes_no_two_states_of_a_copy(tmp_path: Path, *, log_first: bool) -> None:
    """A commit has made new bytes of a whole object, whose copy keeps its number."""
    place, target = tmp_path / "tier", tmp_path / "copy"
    place.mkdir()
    target.mkdir()
    catalogue = Catalogue(str(place))
    copies = [Copy(number, "v", key, None, lambda *_: Chunk()) for number, key in ((1, b"sa"), (2, b"sb"))]

    def commit(copy: Copy, version: str, segment: int) -> None:
        copy.version = version
        copy.put(0, 4096, segment << 32)
        catalogue.save([copy], 0)

    def checkpoint() -> None:
        catalogue._saver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    for copy in copies:
        commit(copy, "1", 1)
    checkpoint()
    names = ["catalogue.db", "catalogue.db-wal"]
    if log_first:
        names.reverse()
        commit(copies[1], "2", 2)  # a log that is older than the database
    shutil.copy2(place / names[0], target)
    commit(copies[0], "2", 2)
    checkpoint()
    catalogue.drop("v", b"sb")  # a page of the copies, none of the chunks
    shutil.copy2(place / names[1], target)
    catalogue.close()
    for _ in range(2):  # a look at it leaves it to the next start
        found = Catalogue(str(target))
        assert found.damaged
        found.close()
    found.begin_anew()
    assert found.find("v", b"sa") is None
    found.close()


def test_bytes_behind_a_cut_do_not_come_back_while_it_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(str(tmp_path))
    copy = Copy(1, "v", b"sa", "1", lambda number, chunk: catalogue.chunk(number, chunk, lambda _: True))
    copy.put(0, 10, 1)
    copy.put(CHUNK, 10, 2)
    copy.put(2 * CHUNK, 10, 3)
    catalogue.save([copy], 0)
    copy.release()
    copy.cut(100, None)

    def look() -> None:
        copy.lock.release()
        with copy.lock:
            assert copy.find(CHUNK) is None
        copy.lock.acquire()

    beside(monkeypatch, copy, "changes", look, after=True)
    catalogue.save([copy], 0)
    assert [copy.find(chunk * CHUNK) is not None for chunk in range(3)] == [True, False, False]
    catalogue.close()


# -- kills

KILLED = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from pagecache import DiskTier, PageCache
from pagecache.disk.segments import Segments
from tests.stores import ObjectBackend

folder = sys.argv[1]
if sys.argv[2] == "slow disk":
    Segments.write_next = lambda segments: False
cache = PageCache("4MiB", disk=DiskTier(folder, size="64MiB", segment="4MiB"))
file = cache.attach(ObjectBackend({{"a": bytes(8192)}}), volume_id="store", read_ahead=0).open("a", "r+")
file.pread(1, 0)
if sys.argv[2] == "change":
    file.pwrite(b"X" * 8192, 0)
    file.flush()
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def killed(folder: Path, what: str) -> Iterator[None]:
    """Context beside another process that has the tier, and is killed at the end."""
    command = [sys.executable, "-c", KILLED, str(folder), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield
        process.send_signal(signal.SIGKILL)
        process.communicate()


def chunks(folder: Path) -> int:
    """The number of chunks that the catalogue has."""
    with closing(sqlite3.connect(folder / "catalogue.db")) as catalogue:
        return int(catalogue.execute("SELECT count(*) FROM chunks").fetchone()[0])


def test_an_address_that_the_catalogue_knows_is_never_given_to_other_bytes(tier: DiskTier, folder: Path) -> None:
    """The first process is killed before its first segment is made, the second one before it commits."""
    with killed(folder, "slow disk"):
        eventually(lambda: chunks(folder))
    with killed(folder, "change"):
        eventually(lambda: any(place.read_bytes().count(b"X" * 4096) for place in folder.glob("*.clean")))
    assert read_once(tier, ObjectBackend({"a": bytes(8192)}), "a") == bytes(8192)


@pytest.mark.parametrize("moved", [False, True], ids=["a new tier", "one that was moved"])
def test_a_kill_leaves_the_copies(tier: DiskTier, folder: Path, tmp_path: Path, *, moved: bool) -> None:
    """Those of before the move, too: no process used the tier then."""
    other, store = ObjectBackend({"b": content(MIB)}), ObjectBackend({"a": bytes(8192)})
    if moved:
        read_once(tier, other, "b", volume_id="other")
        shutil.copytree(folder, tmp_path / "moved")
        shutil.rmtree(folder)
        (tmp_path / "moved").rename(folder)
    with killed(folder, "read"):
        eventually(lambda: chunks(folder) == 1 + moved)
    for of, key, volume_id in ((store, "a", "store"), (other, "b", "other"))[: 1 + moved]:
        with on_tier(tier, of, volume_id=volume_id) as volume:
            assert read(volume, key) == of.content(key)
            assert volume.stats().disk_hits


# -- the directory


def test_a_damaged_version_in_the_catalogue_is_a_miss(tier: DiskTier, folder: Path) -> None:
    store = ObjectBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    version = store.version("a")
    assert version is not None
    now = store.put("a", content(MIB, seed=2))
    with closing(sqlite3.connect(folder / "catalogue.db")) as catalogue:
        ((saved,),) = catalogue.execute("SELECT version FROM copies").fetchall()
        with catalogue:
            catalogue.execute("UPDATE copies SET version = ?", (saved.replace(version.encode(), now.encode()),))
    assert read_once(tier, store, "a") == content(MIB, seed=2)


def test_a_catalogue_whose_error_messages_are_no_text_begins_anew(tier: DiskTier, folder: Path) -> None:
    store = ObjectBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    with closing(sqlite3.connect(folder / "catalogue.db")) as catalogue:
        catalogue.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    place = folder / "catalogue.db"
    place.write_bytes(place.read_bytes().replace(b"CREATE TABLE copies", b"CREATE TABLE\xeb\xffopies"))
    assert read_once(tier, store, "a") == content(MIB)
    kept(tier, store, "a")


def test_a_catalogue_that_cannot_begin_anew_fails_no_call(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectBackend({"a": content(MIB), "b": content(MIB, seed=2)})

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with on_tier(tier, store) as volume:
        assert read(volume, "a") == content(MIB)
        found = volume.cache.tier
        assert found is not None
        with monkeypatch.context() as refusing:
            refusing.setattr(sqlite3, "connect", refuse)
            found._catalogue.damaged = True
            found._wake()
            eventually(lambda: found.errors > 0)
            assert read(volume, "b") == content(MIB, seed=2)
            volume.remove("a")


# -- sizes


def test_bytes_whose_segment_is_gone_are_kept_again_while_the_file_is_open(folder: Path) -> None:
    """With segments of the least size, which one answer of the store would fill."""
    store = ObjectBackend({"a": content(MIB), "b": content(20 * MIB, seed=2)})
    tier = DiskTier(folder, size="8MiB", segment="1MiB")
    with on_tier(tier, store, "2MiB") as volume, volume.open("a") as file:
        file.read()
        written(volume.cache)
        read(volume, "b")
        written(volume.cache)
        for again in (False, True):
            store.forget_calls()
            volume.drop_clean()
            assert file.pread(MIB, 0) == content(MIB)
            assert (reads(store, "a") == 0) == again
            written(volume.cache)


def test_many_tiny_objects_fit_into_a_tier(folder: Path) -> None:
    """What the catalogue has of them is a part of its size."""

    def size() -> int:
        return sum(place.stat().st_size for place in folder.iterdir())

    store = ObjectBackend({f"object-with-a-long-name-{k}": b"x" * 10 for k in range(12_000)})
    with on_tier(DiskTier(folder, size="4MiB", segment="1MiB"), store) as volume:
        for number, key in enumerate(store.objects):
            assert read(volume, str(key)) == b"x" * 10
            assert number % 1000 or size() <= 5 * MIB
        assert volume.stats().disk_errors == 0
    assert size() <= 5 * MIB


# -- names: here the versions of all objects are alike


@pytest.mark.parametrize("how", ["rename", "remove"])
def test_an_object_without_a_name_leaves_nothing_for_the_next_one_that_has_it(tier: DiskTier, how: str) -> None:
    """Its handle reads on, and the store has it still."""
    store = RecordingBackend({"a": content(MIB, seed=3), "b": content(MIB)}, identities=True)
    with on_tier(tier, store, read_ahead=0) as volume, volume.open("b") as file:
        file.pread(4096, 0)
        if how == "remove":
            volume.remove("b")
        else:
            volume.rename("a", "b")
        assert file.pread(100_000, 8192) == content(MIB)[8192:108_192]
    for _ in range(2):  # again from what the first read has left on disk
        assert read_once(tier, RecordingBackend({"b": content(MIB, seed=2)}), "b") == content(MIB, seed=2)


@pytest.mark.parametrize("name", ["a", "b"], ids=["the name", "another link"])
@pytest.mark.parametrize("how", ["killed", "killed in the call", "read before", "open in another cache"])
def test_a_time_that_is_set_back_brings_back_no_bytes_of_the_version_that_had_it(
    tier: DiskTier, tmp_path: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place; as `cp -p` does. The catalogue has the former bytes until a save, under another link for good."""
    monkeypatch.setattr("pagecache.disk.tier.SAVE_EVERY", 3600.0)
    former, now, root, saved = content(MIB), content(MIB, seed=2), tmp_path / "store", list[object]()
    root.mkdir()
    (root / "a").write_bytes(former)
    os.link(root / "a", root / "b")
    then = os.stat(root / "a").st_mtime_ns
    assert read_once(tier, DirectoryBackend(root), name) == former
    with on_tier(tier, DirectoryBackend(root)) as theirs, on_tier(tier, DirectoryBackend(root)) as ours:
        running = ours.cache.tier
        assert running is not None

        def look() -> None:
            saved.append(running._catalogue.find("store", b"s" + name.encode()))

        with theirs.open(name) if how == "open in another cache" else nullcontext():
            with ours.open("a", "r+") as file:
                file.pwrite(now, 0)
                file.fsync()
            if how == "killed in the call":
                beside(monkeypatch, DirectoryBackend, "setattr", look, after=True)
            ours.setattr("a", mtime_ns=then)
            if how == "open in another cache":
                assert read_once(tier, DirectoryBackend(root), name) == now
            if how == "read before":
                assert read(ours, name) == now
            look()
        assert not any(saved)
    assert read_once(tier, DirectoryBackend(root), name) == now


@pytest.mark.parametrize("call", ["remove", "rename"])
def test_a_process_that_is_killed_in_a_call_for_a_name_has_no_copy_under_it(
    tier: DiskTier, folder: Path, call: str
) -> None:
    store = RecordingBackend({"a": content(MIB), "b": content(MIB, seed=2)})
    read_once(tier, store, "a")
    read_once(tier, store, "b")
    found = []

    def look() -> None:
        with closing(sqlite3.connect(folder / "catalogue.db")) as catalogue:
            found.append({key for (key,) in catalogue.execute("SELECT key FROM copies")})

    with on_tier(tier, store) as volume:
        store.fault(f"{call} answer", look)
        if call == "remove":
            volume.remove("b")
        else:
            volume.rename("a", "b")
    assert found == [{b"sa"} if call == "remove" else set()]
    assert call == "remove" or read_once(tier, store, "b") == content(MIB)


@pytest.mark.parametrize("tree", [False, True])
def test_a_name_that_the_catalogue_could_not_drop_is_dropped_though_nothing_more_is_kept(
    running: Tier, monkeypatch: pytest.MonkeyPatch, *, tree: bool
) -> None:
    """After a kill it would lead to the bytes of the former object. `tree`: and the catalogue is made anew for it."""
    monkeypatch.setattr("pagecache.disk.tier.PAUSE", 0.01)
    monkeypatch.setattr("pagecache.disk.tier.SAVE_EVERY", 0.01)
    copy = bound(running, b"sa")
    address = running.append(copy, 0, [memoryview(b"a")], 1)
    assert address is not None
    copy.put(0, 1, address)
    running.changed(copy)
    eventually(lambda: running._catalogue.find("store", b"sa"), 20)
    with monkeypatch.context() as full:
        for call in ("drop", "begin_anew"):
            full.setattr(Catalogue, call, raising(OSError(28, "database or disk is full")))
        running.drop("store", b"sa", tree=tree)
        errors = running.errors
        eventually(lambda: running.errors > errors, 20)  # the next save fails too
    eventually(lambda: not running._catalogue.damaged, 20)
    assert running._catalogue.find("store", b"sa") is None


@pytest.mark.parametrize("how", ["remove", "rename"])
@pytest.mark.parametrize("tree", [False, True], ids=["an object", "with others below"])
def test_a_name_that_another_cache_gives_away_beside_a_rename_has_no_copy(tier: DiskTier, how: str, tree: bool) -> None:
    """The rename is carried out, and its answer is late."""
    store = RecordingBackend({"a": content(MIB), "a/below": b"below", "c": content(MIB, seed=2)})
    other = store.successor(lose=False)
    with on_tier(tier, store) as ours, on_tier(tier, other) as theirs:
        read(ours, "a")
        if tree:
            read(ours, "a/below")
        gate, renaming = at_gate(store.gate("rename answer"), ours.rename, "a", "b")
        if how == "remove":
            theirs.remove("b")
            store.objects["b"] = StoredObject(content(MIB, seed=2))
        else:
            theirs.rename("c", "b")
        renaming.result(opening=gate)
        assert read(theirs, "b") == content(MIB, seed=2)
    assert read_once(tier, other, "b") == content(MIB, seed=2)


@pytest.mark.parametrize("how", ["remove", "rename", "rename of the directory", "rename to a third name"])
def test_a_source_that_another_cache_gives_away_before_a_rename_is_carried_out_lends_it_no_copy(
    tier: DiskTier, how: str
) -> None:
    """The rename moves the next object of that name."""
    moved = content(MIB, seed=2)
    store = RecordingBackend({"d/a": content(MIB), "c": moved})
    other = store.successor(lose=False)
    with on_tier(tier, store) as ours, on_tier(tier, other) as theirs:
        read(ours, "d/a")
        gate, renaming = at_gate(store.gate("rename"), ours.rename, "d/a", "b")
        if how == "remove":
            theirs.remove("d/a")
            store.objects["d/a"] = StoredObject(moved)
        elif how == "rename":
            theirs.rename("c", "d/a")
        elif how == "rename of the directory":
            running = theirs.cache.tier
            assert running is not None
            running.drop("store", b"sd", tree=True)
            store.objects["d/a"] = StoredObject(moved)
        else:
            answer, other_renaming = at_gate(other.gate("rename answer"), theirs.rename, "d/a", "f")
            store.objects["d/a"] = StoredObject(moved)
        renaming.result(opening=gate)
        if how == "rename to a third name":
            other_renaming.result(opening=answer)
        assert read(theirs, "b") == moved
    assert read_once(tier, other, "b") == moved


@pytest.mark.parametrize("name", ["a", "b"], ids=["the old name", "the new one"])
@pytest.mark.parametrize("copied", [False, True], ids=["it has no copy", "it has one"])
def test_what_another_cache_reads_under_a_name_of_a_rename_before_it_is_carried_out_is_not_found_there(
    tier: DiskTier, name: str, *, copied: bool
) -> None:
    former, moved = content(MIB), content(MIB, seed=2)
    store = RecordingBackend({"a": moved, "b": former})
    other = store.successor(lose=False)
    with on_tier(tier, store) as ours, on_tier(tier, other) as theirs:
        if copied:
            read(ours, "a")
        gate, renaming = at_gate(store.gate("rename"), ours.rename, "a", "b")
        assert read(theirs, name) == (moved if name == "a" else former)
        running = ours.cache.tier
        assert running is not None
        orders.written(running)
        running._save()
        renaming.result(opening=gate)
        store.objects["a"] = StoredObject(former)
        found = {key: running._catalogue.find("store", key) for key in (b"sa", b"sb")}  # after a kill
        for key, saved in found.items():
            assert saved is None or saved[0] == running._copies["store", key].number
        assert (read(ours, "a"), read(ours, "b")) == (former, moved)
    assert (read_once(tier, other, "a"), read_once(tier, other, "b")) == (former, moved)


def test_a_copy_that_is_found_beside_a_remove_is_not_that_of_the_name(
    running: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = bound(running, b"sa")
    copy.put(0, 10, 1)
    running.changed(copy)
    running._save()
    number = copy.number
    del copy
    names = running.names
    beside(monkeypatch, running, "_saved", lambda: running.drop("store", b"sa"), after=True)
    assert running.bind("store", b"sa", "1", names) is None
    made = bound(running, b"sa")
    assert made.number != number


def test_no_two_copies_have_one_number(running: Tier) -> None:
    """A commit of one would change what the other loads later."""
    first = bound(running, b"sa")
    first.put(0, 10, 1)
    running.changed(first)
    running._save()
    second = bound(running, b"sa", "2")
    del second
    again = bound(running, b"sa")
    assert again is first or again.number != first.number


def test_another_transform_of_a_store_is_another_store(tier: DiskTier, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    stored = content(8192)
    (tmp_path / "data" / "a").write_bytes(stored)
    one, other = XorStream(4096), XorStream(8192)
    decoded = one.decode(0, stored[:4096]) + one.decode(1, stored[4096:]), other.decode(0, stored)
    for transform, expected in zip((one, other), decoded, strict=True):
        with PageCache("4MiB", disk=tier) as cache:
            volume = cache.attach(TransformBackend(DirectoryBackend(tmp_path / "data"), transform))
            assert read(volume, "a") == expected


ONCE: dict[str, Any] = {"read_ahead": 0, "retry": RetryPolicy(attempts=1)}


def lost() -> OSError:
    return OSError(errno.ECONNRESET, "the answer is lost")


def test_a_displaced_object_that_is_read_before_its_rename_is_settled_leaves_nothing_under_the_name(
    tier: DiskTier,
) -> None:
    """The rename was carried out, its answer was lost; the open of the name settles it."""
    old, new = content(MIB), content(MIB, seed=2)
    store = RecordingBackend({"a": new, "b": old}, identities=True)
    with on_tier(tier, store, **ONCE) as volume, volume.open("b") as displaced:
        displaced.pread(4096, 0)
        store.fault("rename answer", lost())
        raises(OSError, volume.rename, "a", "b", match="lost")
        assert displaced.pread(100_000, 8192) == old[8192:108_192]  # its handle reads on; kept under "b"
        written(volume.cache)
        assert read(volume, "b") == new  # fails: bytes of the displaced object
    assert read_once(tier, store, "b") == new  # fails, too: each later process has them


def test_a_removed_object_that_is_read_before_its_remove_is_settled_leaves_nothing_under_the_name(
    tier: DiskTier,
) -> None:
    old, new = content(MIB), content(MIB, seed=2)
    store = RecordingBackend({"b": old}, identities=True)
    with on_tier(tier, store, **ONCE) as volume, volume.open("b") as removed:
        store.fault("remove answer", lost())
        raises(OSError, volume.remove, "b", match="lost")
        assert removed.pread(100_000, 8192) == old[8192:108_192]
        written(volume.cache)
        raises(FileNotFoundError, volume.open, "b")  # settles the name
        store.objects["b"] = StoredObject(new)  # the next object of the name
        assert read(volume, "b") == new
    assert read_once(tier, store, "b") == new
