"""A size reported by storage is outdated after a later change by the cache, and is not adopted."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache import ConflictError, PageCache, Volume
from pagecache.backends import MemoryBackend
from pagecache.config import OnConflict
from pagecache.native import NativeInode
from pagecache.volume import reconnect
from pagecache.volume.inode import Inode

from .rig import KEY, PAGE, quiet

DATA = b"data" * PAGE  # four pages


def test_a_reconnect_does_not_take_a_size_that_a_truncate_has_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object was checked before the volume was live again. [2.22, T-75b]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    look = reconnect._check_version
    with PageCache("1MiB") as cache:
        volume = cache.attach(store)
        with volume.open(KEY, "r+") as file:

            def late(volume: Volume, inode: Inode, opened: Any) -> None:
                file.truncate(100)
                file.fsync()
                look(volume, inode, opened)

            file.pread(10, 0)
            volume.abort()
            monkeypatch.setattr(reconnect, "_check_version", late)
            volume.reconnect(store)
            assert (file.size, file.pread(2 * PAGE, 0)) == (100, DATA[:100])
            file.pwrite(b"end", 200)
            assert file.size == 203
            file.fsync()
            cache.check()
    assert store.snapshot(KEY) == DATA[:100] + bytes(100) + b"end"


def test_a_reconnect_keeps_no_page_where_a_commit_of_ours_hides_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another client changed the object while the volume was down; by the time its versions are compared, the cache has
    stored over that change. [2.19, 2.22]
    """
    store = MemoryBackend()
    store.put(KEY, DATA)
    other = b"else" * PAGE
    look = reconnect._check_version
    with PageCache("1MiB") as cache:
        volume = cache.attach(store)
        with volume.open(KEY, "r+") as file:

            def late(volume: Volume, inode: Inode, opened: Any) -> None:
                file.pwrite(b"mine", 0)
                file.fsync()
                quiet(volume)
                look(volume, inode, opened)

            assert file.pread(len(DATA), 0) == DATA
            volume.abort()
            store.put(KEY, other)
            monkeypatch.setattr(reconnect, "_check_version", late)
            volume.reconnect(store)
            assert file.pread(PAGE, PAGE) == other[PAGE : 2 * PAGE]
            assert file.pread(4, 0) == b"mine"
    assert store.snapshot(KEY)[:4] == b"mine"
    assert store.snapshot(KEY)[PAGE:] == other[PAGE:]


@pytest.mark.parametrize("policy", ["fail", "rebase"])
def test_an_open_does_not_take_the_size_of_another_version_over_a_concurrent_write(
    monkeypatch: pytest.MonkeyPatch, policy: OnConflict
) -> None:
    """The write comes between the check for local bytes and the new sizes: it is a change under local data. [2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache:
        volume = cache.attach(store, on_conflict=policy)
        with volume.open(KEY, "r+") as file:
            local = NativeInode.has_local
            written: list[int] = []

            def late(native: NativeInode) -> bool:
                found = local(native)
                if not written:
                    written.append(0)
                    assert not found
                    file.pwrite(b"mine", len(DATA))
                return found

            store.put(KEY, b"other")
            monkeypatch.setattr(NativeInode, "has_local", late)
            if policy == "fail":
                with pytest.raises(ConflictError):
                    volume.open(KEY)
                volume.resolve(KEY, "rebase")
            else:
                volume.open(KEY).close()
            assert (file.size, file.pread(4, len(DATA))) == (len(DATA) + 4, b"mine")
            file.fsync()
            cache.check()
    assert store.snapshot(KEY) == b"other".ljust(len(DATA), b"\0") + b"mine"
