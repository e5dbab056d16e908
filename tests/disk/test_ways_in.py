"""The disk tier from the command line, from a mount and from fsspec."""

from __future__ import annotations

import enum
import errno
import importlib.metadata
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock
from urllib.parse import urlencode

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import DiskTier, PageCache, Volume, loglines
from pagecache.backends import FsspecBackend
from pagecache.backends.directory import DirectoryBackend
from pagecache.backends.memory import MemoryBackend
from pagecache.backends.passing import PassingBackend
from pagecache.backends.protocol import Backend, BackendFile, ObjectStat
from pagecache.backends.url import GROUP, backend_from_url, store_of
from pagecache.cli import main
from pagecache.disk import records
from pagecache.disk.catalogue import Catalogue
from pagecache.disk.tier import Tier, leave, occupy
from pagecache.engine.commit.journaled import VolumeJournal
from pagecache.fuse import Server, mount
from pagecache.fuse.mountpoint import CannotMount
from pagecache.fuse.options import MountOptions
from pagecache.testing import Gate
from pagecache.volume import laying, recovered
from tests.commands import call
from tests.disk.copying import copy_tier
from tests.disk.test_durability import World
from tests.disk.test_tier import MIB, content, on_tier, read, read_once
from tests.file.rig import Task, eventually, raises, raising
from tests.fuse.mounts import Mounted, needs_mounts
from tests.stores import WAIT_LIMIT_S, ObjectBackend

pytestmark = pytest.mark.contract("D4", "D8")


def disk(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["disk", *words])
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tier with an object of 3 MiB and another one."""
    store = ObjectBackend({"a": content(3 * MIB), "b": content(5000)})
    with PageCache("4MiB", disk=DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")) as cache:
        volume = cache.attach(store, volume_id="my store")
        read(volume, "a")
        read(volume, "b")
    return tmp_path / "tier"


def test_the_command_lists_stores_and_verifies_their_bytes(folder: Path) -> None:
    status, text = disk(str(folder))
    assert status == 0
    assert "my store: 2 objects, 3.0 MiB" in text
    assert "unsaved: 0 bytes" in text
    status, text = disk(str(folder), "--check")
    assert (status, "all verified" in text) == (0, True)


@pytest.mark.parametrize("killed", [False, True])
def test_the_command_lists_clean_data_without_a_change(folder: Path, tmp_path: Path, *, killed: bool) -> None:
    """So it does on a disk that is read-only after an error."""
    if killed:
        with on_tier(DiskTier(folder, size="64MiB", segment="4MiB"), ObjectBackend()):
            copy_tier(folder, tmp_path / "copy")
        folder = tmp_path / "copy"
    assert (folder / "catalogue.db-wal").exists() == killed

    def files() -> dict[str, tuple[int, bytes]]:
        return {
            each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in folder.iterdir() if each.name != "tier"
        }

    before = files()
    assert "my store: 2 objects, 3.0 MiB, all verified" in disk(str(folder), "--check")[1]
    assert files() == before


def test_the_command_finds_each_damaged_block(folder: Path) -> None:
    with next(folder.glob("*.clean")).open("r+b") as segment:
        segment.seek(100_000)
        segment.write(b"damage" * 1000)  # in two blocks or three
    status, text = disk(str(folder), "--check", "--json")
    found = json.loads(text)
    assert status == 1
    assert found["volumes"]["my store"]["damaged"] == found["damaged"]
    assert found["damaged"] in (8192, 12288)
    assert disk(str(folder))[0] == 0  # it reads no data


def test_the_command_reports_a_damaged_catalogue_and_leaves_it_to_the_next_start(folder: Path) -> None:
    place = folder / "catalogue.db"
    damaged = b"damaged!" * 16 + place.read_bytes()[128:]
    place.write_bytes(damaged)
    for _ in range(2):
        status, text = disk(str(folder))
        assert status == 1
        assert "the catalogue is of no use" in text
        assert place.read_bytes() == damaged
    tier = Tier.open(DiskTier(folder, size="64MiB", segment="4MiB"), "test")
    assert tier.errors == 1
    tier.close("test")
    assert disk(str(folder))[0] == 0


def test_the_command_lists_stores_up_to_a_damaged_row(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "catalogue.db")) as catalogue, catalogue:
        catalogue.execute("UPDATE copies SET volume = 'text' WHERE number = (SELECT max(number) FROM copies)")
    status, text = disk(str(folder))
    assert status == 1
    assert "my store: 1 objects" in text
    assert "the catalogue is of no use" in text


@pytest.mark.parametrize("change", ["chunks SET ranges = zeroblob(length(ranges))", "copies SET version = x'00'"])
def test_damaged_rows_are_found_by_the_command_and_counted_by_a_program(tmp_path: Path, change: str) -> None:
    tier = DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")
    store = ObjectBackend({"a": content(MIB)})
    read_once(tier, store, "a")
    with closing(sqlite3.connect(tmp_path / "tier/catalogue.db")) as catalogue, catalogue:
        catalogue.execute(f"UPDATE {change}")
    status, text = disk(tier.path)
    assert (status, "1 rows of the catalogue are damaged" in text) == (1, True)
    with on_tier(tier, store) as volume:
        assert read(volume, "a") == content(MIB)
        assert volume.stats().disk_errors > 0


def read_only(path: Any, flags: int, *more: Any, real: Callable[..., int] = os.open, **options: Any) -> int:
    """As os.open, on a file system that is read-only, but for the folder `saved`."""
    if flags & os.O_ACCMODE != os.O_RDONLY and "/saved/" not in str(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    return real(path, flags, *more, **options)


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskTier:
    """A tier with a file that no store has."""
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    tier = DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")
    with PageCache("16MiB", disk=tier) as cache:
        volume = cache.attach(ObjectBackend(), durability="disk", volume_id="store")
        with volume.open("k", "xb") as file:
            file.write(b"confirmed")
    return tier


@pytest.mark.contract("D5")
@pytest.mark.parametrize("disk_is", ["full", "read-only", "damaged"])
def test_the_command_lists_unsaved_files_though_the_catalogue_cannot_be_read(
    left: DiskTier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk_is: str
) -> None:
    """There is no room for a file that SQLite makes, or the file system is read-only after an error of the disk."""
    if disk_is == "damaged":
        monkeypatch.setattr(Catalogue, "all", raising(OSError(errno.EIO, "disk I/O error")))
    else:
        monkeypatch.setattr(Catalogue, "_open_to_read", raising(sqlite3.OperationalError("database or disk is full")))
    if disk_is == "read-only":
        monkeypatch.setattr(os, "open", read_only)
    status, text = disk(left.path, "--export", str(tmp_path / "saved"))
    assert status == 1
    assert "k: 9 bytes unsaved of 9" in text
    assert "the catalogue is of no use (" in text
    assert (tmp_path / "saved" / "k").read_bytes() == b"confirmed"


def test_the_command_says_how_unsaved_files_are_saved_or_copied(left: DiskTier, tmp_path: Path) -> None:
    """A store whose URL has changed has another `volume_id`, and no attach finds them."""
    hint = "attach(url, volume_id=name) saves the files of that name"
    assert hint in disk(left.path)[1]
    assert hint not in disk(left.path, "--export", str(tmp_path / "saved"))[1]
    store = ObjectBackend()
    with PageCache("16MiB", disk=left) as cache:
        cache.attach(store, volume_id="store").sync(durability="backend")
    assert store.content("k") == b"confirmed"
    assert hint not in disk(left.path)[1]


def test_a_damaged_mark_beside_unsaved_files_names_the_way_to_them(left: DiskTier, tmp_path: Path) -> None:
    mark = Path(left.path) / "tier"
    content = bytearray(mark.read_bytes())
    content[3] ^= 1
    mark.write_bytes(content)
    what = "is damaged; remove this file: then the journal beside it can be read"
    raises(ValueError, PageCache, "16MiB", disk=left, match=what)
    assert what in " ".join(disk(left.path, "--export", str(tmp_path / "saved"))[1].split())
    mark.unlink()
    disk(left.path, "--export", str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "k").read_bytes() == b"confirmed"


@pytest.mark.contract("D12")
def test_the_command_finds_unsaved_files_without_the_mark_and_exports_them_for_their_owner(
    left: DiskTier, tmp_path: Path
) -> None:
    os.unlink(f"{left.path}/tier")
    status, text = disk(left.path, "--export", str(tmp_path / "saved"))
    assert (status, "k: 9 bytes unsaved of 9" in text) == (1, True)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "saved", tmp_path / "saved" / "k")] == [0o700, 0o600]


def test_the_command_writes_nothing_into_a_directory_with_journals_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "system.journal").write_text("mine")
    tmp_path.chmod(0o700)
    assert disk(str(tmp_path))[0] == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["journal", "system.journal"]


def test_the_command_says_of_a_copy_that_it_is_one(tmp_path: Path) -> None:
    with PageCache("1MiB", disk=DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")):
        shutil.copytree(tmp_path / "tier", tmp_path / "copy")
    status, text = disk(str(tmp_path / "copy"))
    assert (status, "(it was copied while a process used it)" in text) == (1, True)


@pytest.mark.contract("D7")
def test_a_command_that_can_only_read_the_disk_has_the_directory(
    left: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        mark = occupy(left.path, make=False)
    with pytest.raises(OSError, match="another process uses the tier"):
        PageCache("16MiB", disk=left)
    leave(mark)
    PageCache("16MiB", disk=left).close()


def test_the_command_says_why_it_cannot_look(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    reasons = {"missing": "no such directory", "empty": "it is not the directory of a tier", "file": "not a directory"}
    for name, why in reasons.items():
        status, text = disk(str(tmp_path / name))
        assert status == 2
        assert why in text
        assert "disk: disk:" not in text
    with PageCache("1MiB", disk=folder):
        status, text = disk(str(folder))
    assert status == 2
    assert "] disk:" not in text
    assert f"another process uses the tier (process {os.getpid()})" in text


@needs_mounts
def test_a_second_mount_reads_from_the_tier_of_the_first(tmp_path: Path) -> None:
    store = tmp_path / "data"
    store.mkdir()
    (store / "a").write_bytes(content(3 * MIB))
    for round in range(2):
        words = ("--disk", str(tmp_path / "tier"), "-o", "disk_size=1GiB", "--direct-io")
        with Mounted(tmp_path, f"dir:{store}", *words) as mounted:
            assert (mounted.path / "a").read_bytes() == content(3 * MIB)
            assert bool(mounted.number("disk_hits")) == (round == 1)


def test_close_of_a_mounted_file_in_place_writes_back_before_its_times_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    (tmp_path / "data").mkdir()
    with PageCache("16MiB", disk=DiskTier(tmp_path / "tier", size="512MiB")) as cache:
        server = Server(cache.attach(f"dir:{tmp_path}/data", durability="disk"))
        fh, made = server.create(1, "a", 0o600, os.O_RDWR)
        server.files.write(fh, 0, b"new")
        server.flush(fh)
        server.release(fh)
        server.setattr(made.number, {"mtime_ns": 10**18})
        server.volume.sync(durability="backend")
        assert (tmp_path / "data" / "a").stat().st_mtime_ns == 10**18


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes servers with a file "a" that is old, in place or as a whole object; the store gets nothing by itself."""
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"old")
    os.utime(tmp_path / "data" / "a", ns=(10**18, 10**18))
    with PageCache("16MiB", disk=DiskTier(tmp_path / "tier", size="512MiB")) as cache:

        def make(whole: bool) -> Server:
            store: Any = ObjectBackend({"a": b"old"}) if whole else f"dir:{tmp_path}/data"
            return Server(cache.attach(store, durability="disk", volume_id="store"))

        yield make


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_mount_that_ends_says_how_many_files_only_the_disk_tier_has(
    old: Any, tmp_path: Path, *, whole: bool, saved: bool
) -> None:
    server, tier, said = old(whole), str(tmp_path / "tier"), list[str]()
    volume = server.volume
    with volume.open("a", "r+b") as file:
        file.write(b"new")
        file.fsync()
    if saved:
        volume.sync(durability="backend")
    ended = mount.Mount(MountOptions(url="memory:", mountpoint=str(tmp_path), disk=tier), print, said.append)
    ended.cache, ended.volume, ended.loop = volume.cache, volume, Mock()
    assert ended._save() == 0
    assert len(said) == (not saved)
    assert all(text.startswith("1 files have bytes that only") and f"`pagecache disk {tier}`" in text for text in said)


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
def test_the_time_of_a_change_stays_at_a_file_that_only_the_disk_tier_has(old: Any, whole: bool) -> None:
    server = old(whole)
    number = server.lookup(1, "a").number
    before = server.getattr(number).mtime_ns
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"new")
    written = server.getattr(number).mtime_ns
    assert written > before
    server.fsync(fh)
    assert server.getattr(number).mtime_ns == written
    server.flush(fh)
    if not whole:  # it is written back, and the store's clock counts
        assert server.getattr(number).mtime_ns > before
        server.release(fh)
        return
    assert server.getattr(number).mtime_ns == written
    server.release(fh)
    assert server.getattr(number).mtime_ns == written
    reader, _ = server.open(number, os.O_RDONLY)
    assert server.getattr(number).mtime_ns == written
    server.release(reader)
    assert [each.mtime_ns for each in listed(server)] == [written]
    server.rename(1, "a", 1, "b")
    assert server.getattr(number).mtime_ns == written
    server.forget(number, server.nodes.get(number).lookups)
    number = server.lookup(1, "b").number
    assert server.getattr(number).mtime_ns == written


def listed(server: Server) -> list[Any]:
    content = server.opendir(1)
    numbers = range(len(content.entries))
    found = [server.entry(content, number) or server.entry_now(content, number) for number in numbers]
    return [entry for entry in found if entry is not None]


def test_the_time_of_a_closed_file_is_that_of_the_store_once_it_is_saved(old: Any) -> None:
    server = old(True)
    number = server.lookup(1, "a").number
    stored = server.getattr(number).mtime_ns  # the store keeps no times: that of the server
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"new")
    server.flush(fh)
    server.release(fh)
    assert server.getattr(number).mtime_ns > stored
    content = server.opendir(1)
    server.volume.sync(durability="backend")
    assert server.getattr(number).mtime_ns > stored  # its status of the store may be older than the save
    assert server.entry(content, 0) is None
    assert server.getattr(number).mtime_ns == stored
    assert server.entry_now(content, 0).mtime_ns == stored


@pytest.mark.parametrize("how", ["create", "truncating open", "truncate"])
def test_an_object_that_was_made_or_cut_in_the_disk_tier_alone_has_the_time_of_that(old: Any, how: str) -> None:
    server = old(True)
    number = server.lookup(1, "a").number
    before = server.getattr(number).mtime_ns
    if how == "truncate":
        server.setattr(number, {"size": 1})
    else:
        if how == "create":
            fh, made = server.create(1, "new", 0o600, os.O_RDWR)
            number = made.number
        else:
            fh, _ = server.open(number, os.O_WRONLY | os.O_TRUNC)
        assert server.getattr(number).mtime_ns > before
        server.flush(fh)
        server.release(fh)
    assert server.getattr(number).mtime_ns > before


def test_times_that_are_set_hide_an_earlier_change_that_is_not_stored(old: Any) -> None:
    server = old(False)
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"new")
    server.fsync(fh)
    server.release(fh)  # without a flush: a mapping was written back after it
    assert server.getattr(number).mtime_ns > 10**18
    assert server.setattr(number, {"mtime_ns": 10**18 + 5}).mtime_ns == 10**18 + 5


def parent(path: str) -> str:
    return str(Path(path).parent)


def copied_to(files: Any, path: str) -> None:
    files.pipe_file(f"{path}2", b"other")
    files.cp_file(f"{path}2", path)


def copied_from(files: Any, path: str) -> None:
    files.cp_file(path, f"{path}2")
    files.mv(f"{path}2", path)


@pytest.mark.parametrize("protocol", ["file", "memory"])
@pytest.mark.parametrize(
    ("asked", "expected", "after"),
    [
        (lambda files, path: files.info(path)["size"], 5, b"newer"),
        (lambda files, path: files.size(path), 5, b"newer"),
        (lambda files, path: files.exists(path), True, b"newer"),
        (lambda files, path: [each["size"] for each in files.ls(parent(path)) if each["name"] == path], [5], b"newer"),
        (lambda files, path: path in files.find(parent(path)), True, b"newer"),
        (lambda files, path: files.ukey(path) != files.ukey(path), True, b"newer"),
        (copied_from, None, b"newer"),
        (copied_to, None, b"other"),
        (lambda files, path: files.touch(path, truncate=False), None, b"newer"),
    ],
    ids=["info", "size", "exists", "ls", "find", "ukey", "cp from", "cp to", "touch"],
)  # fmt: skip
def test_the_first_call_of_fsspec_after_a_restart_sees_what_the_journal_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, asked: Any, expected: object, after: bytes
) -> None:
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    below, root = fsspec.filesystem(protocol), tmp_path / "data"
    paths = [str(root / "stored"), str(root / "made" / "new")]
    for path in paths:
        below.makedirs(parent(path))
    below.pipe_file(paths[0], b"old")
    options = {"target_protocol": protocol, "disk": str(tmp_path / "tier"), "disk_size": "512MiB"}
    for first in (True, False):
        files = fsspec.filesystem("pagecache", skip_instance_cache=True, durability="disk", **options)
        for path in paths:
            if first:
                files.pipe_file(path, b"newer")
            else:
                assert asked(files, path) == expected
                assert files.cat_file(path) == after
        if not first:
            files.volume.sync(durability="backend")
            assert [below.cat_file(path) for path in paths] == [after, after]
        files.close()
    below.rm(str(root), recursive=True)


def test_a_listing_of_fsspec_waits_for_one_try_to_recover_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try may take as long as a call is repeated, and `find` lists many directories."""
    path, options = str(tmp_path / "data" / "new"), {"target_protocol": "file", "disk": str(tmp_path / "tier")}
    os.mkdir(parent(path))
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    for first in (True, False):
        files = fsspec.filesystem("pagecache", skip_instance_cache=True, durability="disk", **options)
        if first:
            files.pipe_file(path, b"newer")
            files.close()
    tries = []

    def fail(*_arguments: object) -> None:
        tries.append(path)
        if len(tries) > 1:
            gate.enter(WAIT_LIMIT_S)
        raise OSError(errno.EIO, "the store fails")

    with Gate() as gate, monkeypatch.context() as patch:
        patch.setattr(laying, "_lay", fail)
        for _ in range(2):
            assert [each["size"] for each in Task(files.ls, parent(path)).result(5)] == [0]
        gate.wait_entered()
    (left,) = files.volume.recovery._left
    eventually(left.laying.finished)
    assert files.cat_file(path) == b"newer"
    files.close()


def test_stores_of_pagecache_have_a_name_of_their_own(tmp_path: Path) -> None:
    """A store of memory is another one each time; a layer that changes bytes is another one than the store below."""
    assert DirectoryBackend(tmp_path).name == f"dir:{tmp_path}"
    assert MemoryBackend().name != MemoryBackend().name
    store = MemoryBackend()
    assert store.name == store.name
    assert PassingBackend(store).name == f"PassingBackend of {store.name}"


KEYS = json.dumps(
    {
        "gcs_base_url": "http://127.0.0.1:4/",
        "disable_oauth": True,
        "private_key": "",
        "private_key_id": "",
        "client_email": "",
    }
)
NAMES: list[tuple[str, dict[str, str], str]] = [
    ("s3://data/f?region=us-east-1", {}, "s3://data/f/"),
    ("s3://data?region=eu-central-1", {}, "s3://data/"),
    ("s3://data?endpoint=https://s3.eu-central-1.amazonaws.com", {}, "s3://data/"),
    ("s3://data?region=us-gov-west-1", {}, "s3://data/?endpoint=https://s3.us-gov-west-1.amazonaws.com"),
    ("s3://data?region=cn-north-1", {}, "s3://data/?endpoint=https://s3.cn-north-1.amazonaws.com.cn"),
    ("s3://data?endpoint=http://me:secret@h:1/", {}, "s3://data/?endpoint=http://h:1"),
    ("s3://data?region=us-east-1", {"AWS_ENDPOINT_URL": "http://h:1"}, "s3://data/?endpoint=http://h:1"),
    ("s3://data?region=us-east-1", {"AWS_ENDPOINT_URL_S3": "http://h:2"}, "s3://data/?endpoint=http://h:2"),
    ("s3://data?profile=other", {"AWS_CONFIG_FILE": "profiles"}, "s3://data/?endpoint=http://h:3"),
]
APART: list[list[tuple[str, dict[str, str]]]] = [  # each row is one store, and another one than each other row
    [
        ("az://data?account=one", {}),
        ("az://data", {"AZURE_STORAGE_ACCOUNT_NAME": "one", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
        ("az://data?account=one", {"AZURE_STORAGE_ACCOUNT_NAME": "two", "AZURE_STORAGE_SAS_TOKEN": "sig=a"}),
    ],
    [("az://data/f?account=one", {})],
    [("az://data?account=two", {"AZURE_STORAGE_ACCOUNT_NAME": "one"})],
    [
        ("az://data?account=one&endpoint=http://me:secret@h:1", {}),
        ("az://data?account=one&endpoint=http://me:b@h:1", {}),
    ],
    [
        ("az://data?account=one", {"AZURE_ENDPOINT": "https://h"}),
        ("az://data?account=one", {"AZURE_STORAGE_ENDPOINT": "https://h"}),
    ],
    [("az://data?account=one", {"AZURE_STORAGE_USE_EMULATOR": "true"})],
    [
        (
            "az://data?account=one",
            {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": "http://h:1"},
        )
    ],
    [("az://data?account=one", {"AZURE_USE_FABRIC_ENDPOINT": "true"})],
    [("gs://data", {}), ("gs://data", {"GOOGLE_SERVICE_ACCOUNT": "other.json"})],
    [("gs://data/f", {})],
    [
        ("gs://data?endpoint=http://h:1", {"GOOGLE_BASE_URL": "http://h:2"}),
        ("gs://data", {"GOOGLE_BASE_URL": "http://h:1"}),
    ],
    [("gs://data", {"GOOGLE_BASE_URL": "http://h:2"})],
    [
        ("gs://data", {"GOOGLE_SERVICE_ACCOUNT_KEY": KEYS}),
        ("gs://data?service_account=keys.json", {}),
        ("gs://data", {"GOOGLE_SERVICE_ACCOUNT": "keys.json"}),
        ("gs://data", {"GOOGLE_SERVICE_ACCOUNT_PATH": "keys.json"}),
    ],
]  # fmt: skip


@pytest.mark.parametrize(("url", "environment", "name"), NAMES)
def test_the_name_of_a_bucket_has_its_service_and_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], name: str
) -> None:
    """As the client has found them: confirmed bytes of one account are never saved in another."""
    pytest.importorskip("boto3")
    monkeypatch.chdir(tmp_path)
    Path("profiles").write_text("[profile other]\nendpoint_url = http://h:3\nregion = us-east-1\n")
    for variable in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    backend: Any = backend_from_url(url)
    assert backend.name == name
    backend.close()


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The classes of obstore, in an environment without their settings."""
    for variable in [each for each in os.environ if each.startswith(("AWS_", "AZURE", "GOOGLE_"))]:
        monkeypatch.delenv(variable)
    return pytest.importorskip("obstore.store")


@pytest.mark.usefixtures("stores")
def test_the_name_of_a_container_has_its_service_and_account_and_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.json").write_text(KEYS)
    Path("other.json").write_text(json.dumps({**json.loads(KEYS), "gcs_base_url": None}))
    found: list[str] = []
    for row in APART:
        names = set()
        for url, environment in row:
            with monkeypatch.context() as patch:
                for variable, value in environment.items():
                    patch.setenv(variable, value)
                backend: Any = backend_from_url(url)
            names.add(backend.name)
            place = url.partition("?")[0].partition("://")[2]
            assert backend.name.partition(":")[2].partition(":")[2].startswith(f"{place}/")
            backend.close()
        assert len(names) == 1
        found += names
    assert len(set(found)) == len(APART)
    assert not any("secret" in name for name in found)


OBJECTS: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("S3Store", ("one",), {"secret_access_key": "a", "access_key_id": "b"}, "one/f/"),
    ("S3Store", ("one",), {"aws_region": "cn-north-1", "prefix": "/p/"}, "one/p/f/"),
    ("S3Store", ("one",), {"endpoint": "http://me:secret@h:1/"}, "one/f/"),
    ("S3Store", ("one",), {"aws_endpoint_url_s3": "http://h:2"}, "one/f/"),
    ("AzureStore", ("data",), {"account_name": "one", "account_key": "a2V5"}, "data/f/"),
    ("AzureStore", ("data",), {"account_name": "two", "sas_key": "a=b"}, "data/f/"),
    ("GCSStore", ("data",), {"skip_signature": True, "prefix": "p"}, "data/p/f/"),
    ("GCSStore", ("data",), {"skip_signature": True, "base_url": "http://h:1"}, "data/f/"),
    ("LocalStore", ("/",), {}, "//f/"),
    ("LocalStore", ("/proc",), {}, "/proc/f/"),
    ("HTTPStore", ("http://h/a?sig=secret",), {}, "http://h/a/f/"),
]


def test_a_store_of_obstore_given_as_an_object_is_named_by_what_it_is(stores: Any) -> None:
    from pagecache.backends.obstore import ObstoreBackend

    found = set()
    for kind, arguments, options, place in OBJECTS:
        one, other = (getattr(stores, kind)(*arguments, **options) for _ in range(2))
        name = ObstoreBackend(one, "f").name
        assert name.partition("#")[0] == f"obstore:{kind}:{place}"
        assert ObstoreBackend(other, "f", where="for messages").name == name
        found.add(name)

        class Layer(getattr(stores, kind)):  # type: ignore[misc]
            pass

        with pytest.raises(ValueError, match=r"reads: Layer is an object, .*; pass volume_id="):
            assert ObstoreBackend(Layer(*arguments, **options), "f").name
    assert len(found) == len(OBJECTS)
    with pytest.raises(ValueError, match=r"reads: MemoryStore is an object, .*; pass volume_id="):
        assert ObstoreBackend(stores.MemoryStore(), "f").name


def test_a_store_of_obstore_is_named_by_the_bucket_of_the_environment(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pagecache.backends.obstore import ObstoreBackend

    monkeypatch.setenv("AWS_BUCKET", "one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:1")
    one = ObstoreBackend(stores.S3Store())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:2")
    two = ObstoreBackend(stores.S3Store())
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert one.name.startswith("obstore:S3Store:one/#")
    assert two.name.startswith("obstore:S3Store:one/#")
    assert one.name != two.name
    assert ObstoreBackend(stores.S3Store("one", endpoint="http://h:1")).name == one.name


class Nameless(Backend):
    """A backend without a name, and with options."""

    def __init__(self, address: str = "", *, room: int = 0, cookie: object = None) -> None:
        self.store = MemoryBackend()

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return self.store.open(key, create=create, exclusive=exclusive)

    def stat(self, key: Any) -> ObjectStat:
        return self.store.stat(key)


SHARED = Nameless()
SHARED_TOO = Nameless()


def test_the_options_and_the_user_of_a_registered_scheme_choose_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("mine", "tests.disk.test_ways_in:Nameless", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: EntryPoints([point]))
    found = []
    with PageCache("1MiB", disk=tmp_path / "tier") as cache:
        for url in ("mine://host/f", "mine://me:secret@host/f", "mine://me:changed@host/f", "mine://you@host/f"):
            for options in ({}, {"room": 1}, {"room": 2}, {"room": 2, "cookie": object()}):
                volume = cache.attach(url, backend_options=options)
                found.append(cast(Any, volume.engine.backend).volume_id)
                volume.detach()
    assert found[0] == "mine://host/f"
    assert all(name.startswith("mine://host/f") and "secret" not in name for name in found)
    rows = [found[at : at + 4] for at in range(0, 16, 4)]
    assert rows[1] == rows[2]  # a password is no store
    assert all(row[2] == row[3] for row in rows)  # nor is an object that is another one in the next process
    assert len({*rows[0], *rows[1], *rows[3]}) == 9


def test_an_option_that_does_not_choose_the_store_is_not_in_its_name() -> None:
    """A renewed token, another timeout or size of requests leads to the same bytes; so does a text that the command
    makes a number.
    """

    def name(**options: Any) -> str:
        return store_of("mine://host/f", options)

    def asked(**words: object) -> str:
        return store_of(f"mine://host/f?{urlencode(words)}", {})

    one = name(account="a")
    assert asked(account="a") == one
    for option in (
        "token",
        "password",
        "secret_key",
        "key_filename",
        "client_id",
        "connect_timeout",
        "timeout",
        "max_inflight",
        "default_block_size",
        "use_listings_cache",
        "listings_expiry_time",
        "max_pool_connections",
        "retries",
    ):
        assert name(account="a", **{option: "1"}) == name(account="a", **{option: 2}) == one
        assert name(account="b", **{option: "1"}) != one
        assert asked(account="a", **{option: 1}) == one != asked(account="b", **{option: 1})
    assert name(token="a") == "mine://host/f"
    chosen = ("key_prefix", "auth_url", "author", "partition_key", "assessment", "bypass", "block", "cache", "path")
    assert len({name(**{word: value}) for word in chosen for value in "ab"}) == 18
    assert len({store_of(f"mine://host/f?shard={shard}&shard=c", {}) for shard in "ab"}) == 2
    assert name(port=9000) == name(port="9000") != name(port=9001)


def test_a_mount_knows_stores_without_a_name_by_url_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountpoint").mkdir()
    found = []

    def stop(cache: PageCache, backend: Any, *, volume_id: str | None, **_: object) -> None:
        found.append(volume_id if volume_id is not None else backend.name)
        raise CannotMount("seen")

    monkeypatch.setattr(PageCache, "attach", stop)
    monkeypatch.setattr(mount, "why_cannot_serve", lambda: "")
    module = "python:tests.disk.test_ways_in"
    for name, options in (("Nameless", {}), ("Nameless", {"room": 1}), ("SHARED", {}), ("SHARED_TOO", {})):
        url, mountpoint = f"{module}:{name}", str(tmp_path / "mountpoint")
        given = MountOptions(
            url=url, mountpoint=mountpoint, backend_options=options, disk=str(tmp_path / "tier"), disk_size="512MiB"
        )
        raises(CannotMount, mount.Mount(given, print, print).run, lambda: None, match="seen")
    assert found[0] == f"{module}:Nameless"
    assert found[1].startswith(f"{module}:Nameless#")
    assert found[2:] == [f"{module}:SHARED", f"{module}:SHARED_TOO"]


def test_a_directory_of_an_fsspec_file_system_has_one_name_and_no_other_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Below(DirFileSystem):  # type: ignore[misc]
        pass

    def name(fs: Any, root: str = "") -> str:
        return FsspecBackend(fs, root).name

    for path in ("a/one", "b"):
        (tmp_path / path).mkdir(parents=True)
    local, memory = fsspec.filesystem("file"), fsspec.filesystem("memory")
    for fs, start in ((local, str(tmp_path)), (memory, "/names")):
        one = name(fs, f"{start}/a/one")
        assert {name(DirFileSystem(f"{start}/a/one", fs)), name(DirFileSystem(f"{start}/a", fs), "one")} == {one}
        assert {name(DirFileSystem("one", DirFileSystem(f"{start}/a", fs))), name(Below(f"{start}/a/one", fs))} == {one}
        assert len({one, name(fs), name(DirFileSystem(f"{start}/a", fs)), name(DirFileSystem(f"{start}/b", fs))}) == 4
        assert name(fs, fs.unstrip_protocol(f"{start}/a/one")) == one
    assert name(local, str(tmp_path)) == DirectoryBackend(tmp_path).name
    (tmp_path / "b" / "one").mkdir()
    for directory in ("a", "b"):
        monkeypatch.chdir(tmp_path / directory)
        assert name(local, "one") == DirectoryBackend(tmp_path / directory / "one").name


class Cloud(MemoryFileSystem):  # type: ignore[misc]
    protocol = "cloud"
    cachable = False

    def __init__(self, host: Any = None, token: Any = None, **options: Any) -> None:
        super().__init__()


class Credential:
    """Its text is an address: another one in each process."""


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


AZURE = "DefaultEndpointsProtocol=https;AccountName={};AccountKey={}==;EndpointSuffix=core.windows.net"
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a renewed session": ({"key": "a", "secret": "b", "token": "c"}, {"key": "d", "secret": "e", "token": "f"}),
    "objects": ({"credential": Credential()}, {"credential": Credential()}),
    "no credential": ({"host": "a", "password": "b"}, {"host": "a"}),
    "order": ({"host": "a", "port": 1, "at": {"x": 1, "y": 2}}, {"at": {"y": 2, "x": 1}, "port": 1, "host": "a"}),
    "a key of a client": (
        {"client_kwargs": {"endpoint_url": "http://a", "aws_access_key_id": "b", "aws_session_token": "c"}},
        {"client_kwargs": {"aws_access_key_id": "d", "endpoint_url": "http://a"}},
    ),
    "an object of a client": (
        {"client_kwargs": {"timeout": Credential()}},
        {"client_kwargs": {"timeout": Credential()}},
    ),
    "a header": ({"headers": {"Authorization": "Bearer a"}}, {"headers": {"Authorization": "Bearer b"}}),
    "a rotated key": ({"account_key": "a", "sas_token": "b"}, {"account_key": "c"}),
    "a key in a text": (
        {"connection_string": AZURE.format("one", "a")},
        {"connection_string": ";".join(reversed(AZURE.format("one", "b").split(";")))},
    ),
    "a password in a URL": ({"base_url": "https://me:a@host/dav"}, {"base_url": "https://me:b@host/dav"}),
    "a way to log in": ({"client_keys": ["a"], "passphrase": "b", "pkey": Credential()}, {}),
    "listings": ({"use_listings_cache": False, "asynchronous": True, "loop": Credential()}, {}),
    "paths": ({"folder": Path("/a")}, {"folder": "/a"}),
    "a renewed timeout": ({"timeout": 5, "client_kwargs": {"read_timeout": timedelta(1)}}, {"client_kwargs": {}}),
    "a choice": ({"mode": Mode.FAST}, {"mode": Mode.FAST}),
    "plain values": ({"delay": {"seconds": [5, None, Mode.FAST]}}, {"delay": {"seconds": [5, None, Mode.FAST]}}),
}
OTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hosts": ({"host": "a"}, {"host": "b"}),
    "ports": ({"host": "a", "port": 1}, {"host": "a", "port": 2}),
    "users": ({"host": "a", "username": "b"}, {"host": "a", "username": "c"}),
    "accounts": ({"account_name": "one"}, {"account_name": "two"}),
    "accounts in a text": (
        {"connection_string": AZURE.format("one", "a")},
        {"connection_string": AZURE.format("two", "a")},
    ),
    "endpoints": ({"client_kwargs": {"endpoint_url": "http://a"}}, {"client_kwargs": {"endpoint_url": "http://b"}}),
    "users in a URL": ({"base_url": "https://me:a@host/dav"}, {"base_url": "https://you:a@host/dav"}),
    "choices": ({"client_kwargs": {"mode": Mode.FAST}}, {"client_kwargs": {"mode": Mode.SLOW}}),
}


@pytest.mark.parametrize("what", [*SAME, *OTHER])
def test_an_fsspec_store_is_named_by_what_it_is_not_by_who_asks(what: str) -> None:
    one, other = (FsspecBackend(Cloud(**options), "/data").name for options in (SAME | OTHER)[what])
    assert (one == other) == (what in SAME)


OBJECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "client": {"client": Credential()},
    "fs": {"fs": Cloud("a")},
    "delay": {"client_kwargs": {"delay": timedelta(seconds=5)}},
    "hosts": {"hosts": ["a", Credential()]},
}


@pytest.mark.parametrize("argument", OBJECT_ARGUMENTS)
def test_a_store_that_was_given_an_object_has_no_name_in_a_tier(tmp_path: Path, argument: str) -> None:
    """It may be the store itself, and nothing else tells it from another one. Without a tier it needs no name."""
    backend = FsspecBackend(Cloud(**OBJECT_ARGUMENTS[argument]), "/data")
    with PageCache("1MiB", disk=tmp_path / "tier") as cache:
        for given in (backend, PassingBackend(backend)):
            with pytest.raises(ValueError, match=f"{argument}: .* is an object, .*; pass volume_id="):
                cache.attach(given)
        assert cast(Any, cache.attach(backend, volume_id="mine").engine.backend).volume_id == "mine"
    with PageCache("1MiB") as cache:
        cache.attach(FsspecBackend(Cloud(**OBJECT_ARGUMENTS[argument]), "/data"))


def test_arguments_by_position_are_those_by_name() -> None:
    assert FsspecBackend(Cloud("a", "b")).name == FsspecBackend(Cloud(token="c", host="a")).name
    assert FsspecBackend(Cloud("a", "b")).name != FsspecBackend(Cloud("b", "b")).name


@pytest.mark.parametrize("tokens", [("of 9:00", "of 10:00"), (Credential(), Credential())], ids=["texts", "objects"])
def test_a_process_with_other_credentials_finds_what_the_last_one_has_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: tuple[Any, Any]
) -> None:
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)  # as if the process was killed before
    for token in tokens:
        backend = FsspecBackend(Cloud(token=token), str(tmp_path))
        with PageCache("16MiB", disk=DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")) as cache:
            volume = cache.attach(backend, durability="disk", on_recovery="hold")
            if token is tokens[0]:
                with volume.open("new", "xb") as file:
                    file.write(b"confirmed")
            else:
                assert [found.key for found in volume.recovered()] == ["new"]
                volume.discard("new")


def test_a_file_system_of_fsspec_gives_its_store_the_name_that_it_is_told(tmp_path: Path) -> None:
    """A store that was given an object needs one."""
    store, disk = Cloud(), str(tmp_path / "tier")
    store.pipe_file(f"{tmp_path}/a", content(MIB))
    for hits in (False, True):
        below = Cloud(Credential())
        options = {"disk": disk, "disk_size": "512MiB", "volume_id": "mine"}
        files = fsspec.filesystem("pagecache", fs=below, skip_instance_cache=True, **options)
        assert files.cat_file(f"{tmp_path}/a") == content(MIB)
        assert bool(files.volume.stats().disk_hits) == hits
        assert files.volume.engine.backend.volume_id == "mine"
        files.close()
    for _ in range(2):  # the first one leaves no cache that has the tier
        files = fsspec.filesystem("pagecache", fs=Cloud(Credential()), skip_instance_cache=True, disk=disk)
        with pytest.raises(ValueError, match=r"host: Credential is an object, .*; pass volume_id="):
            files.cat_file(f"{tmp_path}/a")
    store.rm_file(f"{tmp_path}/a")
    with pytest.raises(ValueError, match="volume_id: '' is not a text of at least one character"):
        fsspec.filesystem("pagecache", fs=store, disk=disk, volume_id="")
    with pytest.raises(ValueError, match="size: '1MiB' is less than 4 segments"):
        fsspec.filesystem("pagecache", fs=store, disk=disk, disk_size="1MiB")
    with pytest.raises(ValueError, match=r"disk_size: '1GiB' without the option disk"):
        fsspec.filesystem("pagecache", fs=store, disk_size="1GiB")


@pytest.mark.parametrize("base", [PassingBackend, DirectoryBackend, MemoryBackend])
def test_a_subclass_may_have_a_name_that_it_chooses(tmp_path: Path, base: Any) -> None:
    class Named(base):  # type: ignore[misc]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            self.name = "mine"

    arguments: dict[Any, tuple[Any, ...]] = {PassingBackend: (MemoryBackend(),), DirectoryBackend: (tmp_path,)}
    with PageCache("1MiB", disk=tmp_path / "tier") as cache:
        backend: Any = cache.attach(Named(*arguments.get(base, ()))).engine.backend
        assert backend.volume_id == "mine"


# -- calls that need the bytes in the store, at a volume whose `durability` is "disk"


@pytest.fixture
def saving(tmp_path: Path) -> Iterator[tuple[Volume, MemoryBackend]]:
    """A volume with a file that only the journal has, and its store."""
    tier, store = DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB"), MemoryBackend()
    with PageCache("16MiB", disk=tier, dirty_expire=3600.0, dirty_background=0.4, dirty_limit=0.8) as cache:
        volume = cache.attach(store, name="V", durability="disk")
        with volume.open("a", "w+b") as file:
            file.write(b"x" * 3 * MIB)
            file.fsync()
            yield volume, store


@pytest.mark.contract("D2")
@pytest.mark.usefixtures("saving")
def test_lost_records_of_unknown_files_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the command, and by the next start."""
    copy_tier(tmp_path / "tier", tmp_path / "copy")
    (segment,) = (tmp_path / "copy").rglob("*.journal")
    with segment.open("r+b") as file:
        file.write(bytes(records.FIRST))  # without its start, nothing of it can be read
    status, text = disk(str(tmp_path / "copy"))
    assert status == 1
    assert "unsaved: 0 bytes" in text
    assert "records of the journal are lost" in text
    tier = Tier.open(DiskTier(tmp_path / "copy", size="64MiB", segment="4MiB"), "test")
    tier.close("test")
    loglines.outlast(60)
    assert (tier.errors, "records of the journal are lost" in caplog.text) == (1, True)


def test_drain_saves_in_the_store_what_only_the_journal_has(
    saving: tuple[Volume, MemoryBackend], tmp_path: Path
) -> None:
    volume, store = saving
    volume.cache.serve_stats(str(tmp_path / "s"))
    assert call("drain", str(tmp_path / "s")).exit_code == 0
    assert store.snapshot("a") == b"x" * 3 * MIB


def test_a_smaller_capacity_finds_its_memory_by_saving_in_the_store(saving: tuple[Volume, MemoryBackend]) -> None:
    volume, _store = saving
    volume.cache.resize(MIB, timeout=20)
    assert read(volume, "a") == b"x" * 3 * MIB


@pytest.fixture
def of_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Server]:
    """The server of the next process; its thread has laid nothing yet."""

    def make() -> Server:
        store = ObjectBackend()
        store.put("k", b"old")
        world = World(tmp_path, store)
        world.hang()
        world.synced(b"longer than old")
        world.synced(b"new", key="d/new", mode="xb")  # fsync at "disk" has confirmed it
        monkeypatch.setattr(recovered.Recovery, "start", lambda self: None)
        server = Server(world.crash().volume)
        server.names.remember(1.0)
        return server

    return make


def names_of(server: Server, number: int = 1) -> dict[str, int]:
    content = server.opendir(number)
    found = [server.entry(content, at) or server.entry_now(content, at) for at in range(len(content.entries))]
    return {name: one.size for (name, _), one in zip(content.entries, found, strict=True) if one is not None}


def test_a_directory_whose_only_file_was_confirmed_is_there(of_next_process: Callable[[], Server]) -> None:
    server = of_next_process()
    directory = server.lookup(1, "d")  # ENOENT
    assert server.lookup(directory.number, "new").size == 3


def test_a_listing_shows_what_was_confirmed(of_next_process: Callable[[], Server]) -> None:
    server = of_next_process()
    shown = names_of(server)
    assert set(shown) == {"k", "d"}
    assert shown["k"] == len(b"longer than old")


def test_a_lookup_after_a_listing_finds_what_was_confirmed(of_next_process: Callable[[], Server]) -> None:
    server = of_next_process()
    names_of(server)
    assert server.lookup(1, "k").size == len(b"longer than old")
