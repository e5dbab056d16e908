"""A size reported by storage is outdated after a later change by the cache, and is not adopted."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pagecache import ConflictError, PageCache, Volume
from pagecache.backends import MemoryBackend
from pagecache.native import NativeInode
from pagecache.volume import reconnect
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S
from .rig import KEY, PAGE, Task, eventually, overlay, pattern, quiet

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


def test_an_open_does_not_take_the_size_of_another_version_over_a_concurrent_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write comes between the check for local bytes and the new sizes: it is a change under local data. [2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache:
        volume = cache.attach(store)
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
            with pytest.raises(ConflictError):
                volume.open(KEY)
            volume.resolve(KEY, "rebase")
            assert (file.size, file.pread(4, len(DATA))) == (len(DATA) + 4, b"mine")
            file.fsync()
            cache.check()
    assert store.snapshot(KEY) == b"other".ljust(len(DATA), b"\0") + b"mine"


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pages", [2, 6])
def test_an_open_takes_no_other_version_beside_a_direct_write(
    monkeypatch: pytest.MonkeyPatch, *, pages: int, shared: bool, durable: bool
) -> None:
    """The write needs no token. It begins once the new sizes are taken, with a lock and an offset chosen for them.
    [2.10, 2.19, T-22]
    """
    store, other, mine = MemoryBackend(durable_writes=durable), pattern(pages * PAGE, seed=9), b"m" * PAGE
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache:
        volume = cache.attach(store)
        with volume.open(KEY, "r+", direct=True, parallel_direct_writes=shared) as file:
            writing: list[Task[int]] = []
            set_sizes = NativeInode.set_sizes

            def waits() -> bool:
                ident = writing[0].thread.ident
                return any(wait.thread == ident and "the gate" in wait.what for wait in cache.waits())

            def late(native: NativeInode, size: int, remote_size: int) -> bool:
                writing.append(Task(file.pwrite, mine, 3 * PAGE) if shared else Task(file.append, mine))
                eventually(lambda: writing[0].finished.is_set() or waits())
                return set_sizes(native, size, remote_size)

            store.put(KEY, other)
            monkeypatch.setattr(NativeInode, "set_sizes", late)
            volume.open(KEY).close()
            at = writing[0].result()
            at = 3 * PAGE if shared else at
            assert shared or at == len(other)
            file.fsync()
            expected = overlay(other.ljust(at, b"\0"), at, mine)
            assert (file.size, file.pread(8 * PAGE, 0)) == (len(expected), expected)
            cache.check()
    assert store.snapshot(KEY) == expected


@pytest.mark.parametrize("durable", [False, True])
def test_an_open_beside_a_running_direct_write_takes_no_sizes(
    monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    """It waits for nothing and leaves no cached page; a later open compares again. [2.10, 2.19]"""
    store, other, mine = MemoryBackend(durable_writes=durable), pattern(2 * PAGE, seed=9), b"m" * PAGE
    store.put(KEY, DATA)
    with PageCache("1MiB", flush_interval=60) as cache:
        volume = cache.attach(store)
        with volume.open(KEY, "r+", direct=True) as file, volume.open(KEY) as reader:
            assert reader.pread(len(DATA), 0) == DATA
            counted, go_on = threading.Event(), threading.Event()
            invalidate_remote, set_sizes = NativeInode.invalidate_remote, NativeInode.set_sizes

            def held(native: NativeInode, start: int, end: int) -> None:
                if (start, end) == (len(DATA), len(DATA) + PAGE):
                    counted.set()
                    assert go_on.wait(WAIT_LIMIT_S)
                invalidate_remote(native, start, end)

            def late(native: NativeInode, size: int, remote_size: int) -> bool:
                go_on.set()
                writing.result()
                return set_sizes(native, size, remote_size)

            store.put(KEY, other)
            monkeypatch.setattr(NativeInode, "invalidate_remote", held)
            monkeypatch.setattr(NativeInode, "set_sizes", late)
            writing = Task(file.append, mine)
            assert counted.wait(WAIT_LIMIT_S)
            volume.open(KEY).close()
            go_on.set()
            assert writing.result() == len(DATA)
            file.fsync()
            expected = other.ljust(len(DATA), b"\0") + mine
            assert (file.size, reader.pread(8 * PAGE, 0)) == (len(expected), expected)
            cache.check()
    assert store.snapshot(KEY) == expected
