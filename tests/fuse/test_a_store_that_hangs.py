"""A directory whose file system hangs in a call that C makes: the call may use its memory until it returns."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecache import PageCache, ShutdownError, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend

from ..file.rig import Task, eventually, raises
from .mounts import Mounted, needs_mounts

pytestmark = needs_mounts
SIZE = 128 << 10
PATTERN = b"pattern\n" * (SIZE // 8)
CAPACITY = 8 * SIZE


@contextlib.contextmanager
def stopped(mounted: Mounted) -> Iterator[None]:
    assert mounted.process is not None
    tasks = Path(f"/proc/{mounted.process.pid}/task")
    mounted.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: all("State:\tT" in (task / "status").read_text() for task in tasks.iterdir()))
        yield
    finally:
        mounted.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def cached(folder: Path, store: Path) -> Iterator[tuple[Mounted, PageCache, Volume]]:
    """A mount of a directory with a file, and a cache over the mount."""
    (store / "a").write_bytes(b"o" * SIZE)
    with (
        Mounted(folder, f"dir:{store}", "--direct-io") as mounted,
        contextlib.closing(DirectoryBackend(mounted.path)) as backend,
        PageCache(CAPACITY) as cache,
    ):
        yield mounted, cache, cache.attach(backend, prompt=False)


def calls_of(mounted: Mounted) -> set[tuple[int, str]]:
    """System calls of descriptors in a mount that run on threads of a volume: thread and number."""
    found = set()
    for thread in threading.enumerate():
        if thread.name.startswith("pagecache-DirectoryBackend"):
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or is in another call
                call = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().split()
                if os.readlink(f"/proc/self/fd/{int(call[1], 16)}").startswith(str(mounted.path)):
                    found.add((thread.native_id or 0, call[0]))
    return found


@pytest.mark.parametrize("call", ["a read", "a write"])
@pytest.mark.parametrize("end", ["an abort", "a reconnect", "a fenced reconnect"])
def test_a_call_that_outlives_its_operation_keeps_its_memory(tmp_path: Path, store: Path, call: str, end: str) -> None:
    """A fence is of the program: here it is wrong, and still no memory is shared. [I-13]"""
    with cached(tmp_path, store) as (mounted, cache, volume):
        file = volume.open("a", "r+", read_ahead=0)
        if call == "a write":
            file.pwrite(b"n" * SIZE, 0)
        with stopped(mounted):
            task = Task(file.fsync) if call == "a write" else Task(file.pread, SIZE, 0)
            eventually(lambda: calls_of(mounted) and cache.waits())
            calls = calls_of(mounted)
            volume.abort()
            if end != "an abort":
                volume.reconnect(DirectoryBackend(store), fenced=end == "a fenced reconnect")
            raises(ShutdownError, task.result)
            other = cache.attach(MemoryBackend()).open("other", "x+")
            for at in range(0, 2 * CAPACITY, SIZE):  # all memory that is free
                other.pwrite(PATTERN, at)
                other.fsync()
            assert calls <= calls_of(mounted)
        eventually(lambda: not calls & calls_of(mounted))
        for at in reversed(range(0, 2 * CAPACITY, SIZE)):  # the last ones are cached
            assert other.pread(SIZE, at) == PATTERN
        assert (store / "a").read_bytes() in (b"o" * SIZE, b"n" * SIZE)
        file.abandon()
        volume.detach(on_failed="discard")


def test_a_reconnect_waits_for_no_close_of_a_file_system_that_hangs(tmp_path: Path, store: Path) -> None:
    """The last reference to a local file closes it. [2.22]"""
    with cached(tmp_path, store) as (mounted, _, volume), volume.open("a", "r+") as file, stopped(mounted):
        volume.abort()
        Task(volume.reconnect, DirectoryBackend(store)).result()
        assert file.pread(SIZE, 0) == b"o" * SIZE
