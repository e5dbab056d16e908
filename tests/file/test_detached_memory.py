"""A detached volume gives its memory, objects and place in the cache back; what outlives it keeps what it needs."""

from __future__ import annotations

import errno
import gc
from typing import Any

import pytest

from pagecache import PageCache, ShutdownError, Volume
from pagecache.backends import MemoryBackend
from pagecache.native import NativeVolume
from pagecache.testing import FaultyBackend, Gate, Rule

from ..stores import RecordingBackend
from .rig import at_gate, raises, stored


def objects(cache: PageCache) -> int:
    """The objects for which CORE has a place, after a collection."""
    gc.collect()
    return int(cache.stats().details["inodes"])


def filled(cache: PageCache, count: int = 10) -> Volume:
    volume = cache.attach("memory:")
    for number in range(count):
        stored(volume, f"f{number}", b"x" * 5000)
    return volume


def test_a_cache_takes_more_volumes_in_its_life_than_at_one_time() -> None:
    """Ended volumes that were not collected yet make room; only those in use count, and the error names the limit."""
    with PageCache("1MiB") as cache:
        gc.disable()
        try:
            for _ in range(5000):
                native: Any = NativeVolume(cache.native, 1)
                native.end()
                circle = [native]
                circle.append(circle)
        finally:
            gc.enable()
        del native, circle
        held = []
        with pytest.raises(OSError, match="at most 4096 volumes at one time") as caught:
            while True:
                held.append(NativeVolume(cache.native, 1))
        assert (caught.value.errno, len(held)) == (errno.ENFILE, 4096)
        for each in held:
            each.end()
        del each, held
        cache.check()


def test_a_handle_that_outlives_the_detach_keeps_its_object_and_no_other() -> None:
    """It never sees an object of a later volume, which has the places of all others. [I-24, 2.22]"""
    with PageCache("1MiB") as cache:
        volume = filled(cache)
        handle, closed = volume.open("f3", "r+b"), volume.open("f1", "rb")
        closed.close()
        assert objects(cache) == 10
        volume.detach()
        del closed
        assert objects(cache) == 1
        assert volume.stats().dirty == 0
        del volume
        other = filled(cache, 20)
        assert objects(cache) == 21
        calls: dict[str, tuple[Any, ...]] = {"pread": (10, 0), "pwrite": (b"y", 0), "fsync": ()}
        for name, arguments in calls.items():
            with pytest.raises(ShutdownError):
                getattr(handle, name)(*arguments)
        handle.close()
        del handle
        assert objects(cache) == 20
        with other.open("f3", "rb") as file:
            assert file.read() == b"x" * 5000
        cache.check()


def test_views_that_outlive_the_detach_keep_their_memory() -> None:
    """Even the last slice, when the volume, the file and the view are collected. [2.21]"""
    with PageCache("1MiB") as cache:
        volume = filled(cache)
        handle = volume.open("f3", "r+b")
        views = [handle.view(0, 100), handle.view(200, 100, writable=True)]
        volume.detach()
        del volume, handle
        assert objects(cache) == 1
        slices = [view.segments[0][:50] for view in views]
        del views
        assert objects(cache) == 0
        filled(cache, 250).detach()  # more than the cache holds
        assert [bytes(each) for each in slices] == [b"x" * 50] * 2
        cache.check()
        del slices
        gc.collect()
        assert cache.stats().details["frames_allocated"] == cache.stats().details["frames_freed"]


@pytest.mark.parametrize("closed", [False, True])
def test_memory_that_a_backend_keeps_outlives_the_volume(closed: bool) -> None:
    """Whether the objects are collected before the cache is closed, or after. [K7]"""
    backend, kept = RecordingBackend(), list[memoryview]()
    backend.keep_buffers = kept
    with PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        handle = volume.open("f", "wb")
        handle.write(b"x" * 5000)
        handle.fsync()
        volume.detach()
        if closed:
            cache.close()
        del volume, handle
        assert objects(cache) == int(closed)
        if not closed:
            filled(cache, 250).detach()
            cache.check()
        assert b"".join(kept) == b"x" * 5000
        kept.clear()
        gc.collect()


def test_bytes_that_are_given_up_with_an_aborted_volume_take_no_memory() -> None:
    """They would fill the cache: what no volume has cannot be written back. [2.22]"""
    with PageCache("1MiB", flush_interval=3600) as cache:
        for _ in range(5):
            volume = cache.attach("memory:")
            handle = volume.open("f", "wb")
            handle.write(b"x" * 300_000)
            volume.abort()
            assert sum(lost.length for lost in volume.detach(on_failed="discard")) == 300_000
            del volume, handle
            assert objects(cache) == 0
            assert cache.stats().details["frames_allocated"] == cache.stats().details["frames_freed"]
        cache.check()


def test_a_call_that_hangs_in_the_backend_keeps_what_it_uses() -> None:
    """The volume is detached without it. Its memory is not reused, before and after the call returns. [K7]"""
    with PageCache("1MiB", flush_interval=3600) as cache, Gate() as gate:
        backend = FaultyBackend(MemoryBackend())
        volume = cache.attach(backend)
        handle = volume.open("f", "wb")
        handle.write(b"x" * 5000)
        backend.use([Rule("write", gate=gate)])
        _, syncing = at_gate(gate, handle.fsync)
        volume.detach(timeout=0.1, on_failed="discard")
        raises(OSError, syncing.result)
        del volume, handle, syncing
        assert objects(cache) == 1
        filled(cache, 100).detach()
        cache.check()
        gate.release()
        filled(cache, 100).detach()
        cache.check()
