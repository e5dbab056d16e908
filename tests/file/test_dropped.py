"""Caches that were never closed and are unreachable: their threads end, their data does not vanish."""

from __future__ import annotations

import errno
import gc
import logging
import threading
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, RetryPolicy
from pagecache.backends import Backend, DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.engine import flusher
from pagecache.testing import FaultyBackend, Gate, Rule

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .rig import FAST, KEY, ONCE, QUIET, Log, Patch, eventually, pattern

DATA = pattern(10_000)
FULL = OSError(errno.ENOSPC, "no room")


@pytest.fixture(autouse=True)
def warned(monkeypatch: Patch) -> Iterator[list[str]]:
    """The texts of the warnings. The warnings themselves would keep the objects they name alive."""
    gc.collect()  # garbage of earlier tests
    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        monkeypatch.setattr(warnings, "showwarning", lambda message, *args, **kwargs: messages.append(str(message)))
        yield messages
        gc.collect()


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("pagecache"))


def ended(before: list[str]) -> bool:
    """Collect until the objects are gone: the flusher may still use a handle that was collected."""
    gc.collect()
    return threads() == before


def drop(backend: Backend, data: bytes, *, close: bool = False, **config: Any) -> None:
    """Make a cache, write to it, and drop every reference to it."""
    volume = PageCache("1MiB", **{**QUIET, "retry": FAST, **config}).attach(backend)
    file = volume.open(KEY, "r+b")
    file.pwrite(data, 0)
    if close:
        file.close()


def collect(warned: list[str], backend: Backend, data: bytes, **how: Any) -> None:
    """Drop a cache with unsaved data, and collect until the warning that names it."""
    drop(backend, data, **how)
    eventually(lambda: gc.collect() >= 0 and any("unclosed <pagecache.PageCache" in message for message in warned))
    assert [message for message in warned if "PageCache" in message and "unsaved" in message]


def test_threads_of_dropped_caches_end(warned: list[str]) -> None:
    """Fifty caches, nothing unsaved: the process is as before. Without a volume no collection is needed. [2.21]"""
    before = threads()
    cache = PageCache("1MiB")
    assert len(threads()) == len(before) + 1
    del cache
    eventually(lambda: threads() == before)
    for _ in range(50):
        PageCache("1MiB", **QUIET).attach(RecordingBackend({KEY: DATA}, max_inflight=2)).stat(KEY)
    eventually(lambda: ended(before))
    assert warned == []


@pytest.mark.parametrize(("call", "close"), [("write", False), ("commit", True)], ids=["open", "closed"])
def test_a_dropped_cache_keeps_files_open_until_saved(
    warned: list[str], tmp_path: Path, call: str, close: bool
) -> None:
    """The collection closes no descriptor of the backend; the bytes are written back and committed. [2.21, 2.22]"""
    before = threads()
    (tmp_path / KEY).touch()
    with Gate() as gate:
        backend = FaultyBackend(DirectoryBackend(tmp_path))
        backend.use([Rule(call, gate=gate)])
        collect(warned, backend, DATA, close=close)
        gate.wait_entered()
    eventually(lambda: ended(before))
    assert (tmp_path / KEY).read_bytes() == DATA


class ClosedOnce(PassingBackend):
    """A backend whose files list their ends, and have a weak reference to it."""

    def __init__(self, store: MemoryBackend) -> None:
        super().__init__(store)
        self.ends: list[str] = []

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file = ClosedOnceFile(self.inner.open(key))
        file.backend, file.ends = weakref.ref(self), self.ends
        return file


class ClosedOnceFile(PassingFile):
    backend: weakref.ref[ClosedOnce]
    ends: list[str]

    def close(self) -> None:
        self.ends.append("closed" if self.backend() else "too late")

    def __del__(self) -> None:
        self.ends.append("finalised")


def test_files_of_a_dropped_cache_are_closed_before_their_finalisers_run(warned: list[str]) -> None:
    """Weak references inside the backend hold until everything is saved, too. [2.21]"""
    before, store = threads(), MemoryBackend()
    store.open(KEY, create=True)
    backend = ClosedOnce(store)
    ends = backend.ends
    collect(warned, backend, DATA)
    del backend
    eventually(lambda: ended(before))
    assert store.snapshot(KEY) == DATA
    eventually(lambda: gc.collect() >= 0 and ends == ["closed", "finalised"])


def test_a_mirror_of_a_dropped_cache_catches_up(warned: list[str], tmp_path: Path) -> None:
    """Its threads slept while the cache was collected. [2.13, 2.21]"""
    before = threads()
    (tmp_path / KEY).touch()
    store = MemoryBackend()
    store.open(KEY, create=True)

    def abandon() -> None:
        volume = PageCache("1MiB", **QUIET).attach(store, mirror=DirectoryBackend(tmp_path))
        file = volume.open(KEY, "r+b")
        file.pwrite(DATA[:5000], 0)
        file.fsync()
        mirror = volume.engine.mirror
        assert mirror is not None
        eventually(lambda: not mirror.busy())
        file.pwrite(DATA, 0)

    abandon()
    eventually(lambda: ended(before))
    assert store.snapshot(KEY) == (tmp_path / KEY).read_bytes() == DATA


def test_a_clean_cache_is_freed_though_its_backend_refers_to_it(warned: list[str]) -> None:
    """Its data was committed and its handle closed before it was dropped. [2.21]"""
    before, backend = threads(), RecordingBackend({KEY: b""})

    def abandon(backend: RecordingBackend) -> None:
        volume = PageCache("1MiB", **{**QUIET, "flush_interval": 0.01}).attach(backend)
        backend.fault("stat", partial(volume.invalidate_remote, KEY), times=0)  # refers to the volume
        with volume.open(KEY, "r+b") as file:
            file.pwrite(DATA, 0)
            file.fsync()

    abandon(backend)
    assert backend.committed(KEY) == DATA
    freed = weakref.ref(backend)
    del backend
    eventually(lambda: ended(before))
    eventually(lambda: gc.collect() >= 0 and freed() is None)


def test_the_backend_of_a_closed_cache_is_freed_with_it() -> None:
    """No global refers to the backend after the end of its volume. [2.21]"""
    backend = RecordingBackend({KEY: b""})
    freed = weakref.ref(backend)
    with PageCache("1MiB", **QUIET) as cache:
        file = cache.attach(backend).open(KEY, "r+b")
        file.pwrite(DATA, 0)
    del backend, cache, file
    eventually(lambda: gc.collect() >= 0 and freed() is None)


def test_data_that_cannot_be_saved_is_saved_later(warned: list[str], caplog: Log) -> None:
    """It is logged with its ranges and retried by the policy; the threads end. [K1, 2.16, 2.21]"""
    before, backend = threads(), RecordingBackend({KEY: b""})
    fault = backend.fault("write_from", FULL, times=float("inf"))
    policy = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=0.02)
    with caplog.at_level(logging.ERROR, "pagecache"):
        collect(warned, backend, DATA, retry=policy, flush_interval=0.05)
        eventually(lambda: "not saved yet" in caplog.text and KEY in caplog.text)
    hits = fault.nr_hit
    eventually(lambda: fault.nr_hit > hits)
    gc.collect()
    assert threads() != before
    fault.clear()
    eventually(lambda: ended(before))
    assert backend.committed(KEY) == DATA


def test_unpublished_objects_are_listed_not_published(warned: list[str], caplog: Log) -> None:
    """commit_on_close: the writer is gone, so the object keeps its content; the loss is in the log. [T-77, 2.22]"""
    before, backend = threads(), ObjectBackend({KEY: b"as it was"})
    with caplog.at_level(logging.ERROR, "pagecache"):
        collect(warned, backend, DATA)
        eventually(lambda: ended(before))
    assert backend.committed(KEY) == b"as it was"
    assert backend.seen("commit") == []
    assert len(backend.seen("rollback")) == 1
    assert "gone" in caplog.text
    assert KEY in caplog.text


@pytest.mark.parametrize("whole", [True, False])
def test_a_with_block_that_fails_publishes_nothing(caplog: Log, whole: bool) -> None:
    """The writer may still decide. Its exception stays the primary one if bytes cannot be saved. [T-77, 2.22]"""
    backend = ObjectBackend({KEY: b"as it was"}) if whole else RecordingBackend({KEY: b"as it was"})
    if not whole:
        backend.fault("write_from", FULL, times=float("inf"))
    cache = PageCache("1MiB", retry=ONCE, **QUIET)
    with caplog.at_level(logging.ERROR, "pagecache"), pytest.raises(ZeroDivisionError), cache:
        file = cache.attach(backend).open(KEY, "r+b")
        file.pwrite(DATA, 0)
        raise ZeroDivisionError
    assert backend.committed(KEY) == b"as it was"
    assert "not saved" in caplog.text
    backend.clear_faults()
    file.close()
    assert backend.written(KEY) == DATA
    cache.close()


def test_a_view_keeps_a_dropped_cache() -> None:
    """Every view, handle and volume holds the cache. [2.21]"""
    before = threads()
    view = PageCache("1MiB", **QUIET).attach(RecordingBackend({KEY: DATA})).open(KEY).view(0, 100)
    gc.collect()
    assert len(threads()) > len(before)
    assert view.tobytes() == DATA[:100]
    del view
    gc.collect()
    eventually(lambda: ended(before))


def test_a_dropped_cache_is_saved_when_a_thread_can_start(warned: list[str], monkeypatch: Patch, caplog: Log) -> None:
    """Python refuses the thread that ends the cache; the flusher starts it later, though nothing else wakes it."""
    backend, before = RecordingBackend({KEY: bytes(len(DATA))}), threads()
    start, refused = threading.Thread.start, threading.Event()
    allowed = threading.Event()

    def maybe(thread: threading.Thread) -> None:
        if thread.name == "pagecache-end" and not allowed.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(flusher, "PAUSE", 0.01)
    monkeypatch.setattr(threading.Thread, "start", maybe)
    collect(warned, backend, DATA)
    assert refused.wait(WAIT_LIMIT_S)
    allowed.set()
    eventually(lambda: ended(before), timeout=5)
    assert backend.written(KEY) == DATA
    assert [record for record in caplog.records if record.name == "pagecache.internal"] == []
