"""Another client's version that is longer than the cache's: forced away, or below a truncate with an unknown
outcome.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Literal

import pytest

from pagecache import BackendError, ConflictError, DataLossError, PageCache
from pagecache.backends import MemoryBackend
from pagecache.engine.commit import remote
from pagecache.testing import FaultyBackend, Gate, Rule

from ..stores import ObjectBackend
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(2 * PAGE)
LONGER = pattern(3 * PAGE + 100, seed=9)
MINE = b"mine" * (PAGE // 4)


@pytest.mark.parametrize("durable", [False, True])
def test_a_longer_version_in_place_is_cut_to_the_length_of_ours(durable: bool) -> None:
    """The bytes behind the local end are gone afterwards. [2.19]"""
    store = MemoryBackend(durable_writes=durable)
    store.put(KEY, DATA)
    with PageCache("1MiB") as cache:
        volume = cache.attach(store)
        with volume.open(KEY, "r+") as file:
            file.pwrite(MINE, PAGE)
            store.put(KEY, LONGER)
            with pytest.raises(ConflictError):
                volume.open(KEY)
            assert volume.resolve(KEY, "force") == []
            assert (file.size, file.pread(3 * PAGE, 0)) == (2 * PAGE, LONGER[:PAGE] + MINE)
            file.fsync()
            cache.check()
    assert store.snapshot(KEY) == LONGER[:PAGE] + MINE


@pytest.mark.parametrize(
    "error",
    [errno.ETIMEDOUT, lambda: BackendError(errno.EIO, "no", retry=False)],
    ids=["worth another try", "refused"],
)
def test_a_cut_that_fails_is_owed(error: Any) -> None:
    """It is made before anything else is called. [2.17, 2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    backend = FaultyBackend(store)
    with PageCache("1MiB", retry=ONCE) as cache:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+") as file:
            file.pwrite(MINE, PAGE)
            store.put(KEY, LONGER)
            with pytest.raises(ConflictError):
                volume.open(KEY)
            backend.use([Rule("truncate", error=error)])
            volume.resolve(KEY, "force")
            with pytest.raises(OSError):
                file.fsync()
            assert len(store.snapshot(KEY)) == len(LONGER)
            backend.use([])
            assert file.pread(len(LONGER), 0) == LONGER[:PAGE] + MINE
            file.fsync()
    assert store.snapshot(KEY) == LONGER[:PAGE] + MINE


def test_a_longer_object_is_replaced_by_ours(make: Make) -> None:
    """It is replaced as a whole, byte for byte. [2.19]"""
    backend = ObjectBackend({KEY: DATA}, max_write=PAGE)
    rig = make(backend=backend, options={"on_conflict": "fail"}, retry=ONCE)
    file = rig.open()
    file.pread(len(DATA), 0)
    file.pwrite(MINE, PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == PAGE)
    backend.put(KEY, LONGER)
    with pytest.raises(ConflictError):
        file.fsync()
    rig.volume.resolve(KEY, "force")
    file.fsync()
    assert backend.committed(KEY) == DATA[:PAGE] + MINE


@pytest.mark.parametrize("how", ["force", "rebase"])
def test_a_truncate_that_is_owed_is_paid_before_another_version_is_taken(how: Literal["force", "rebase"]) -> None:
    """The bytes it cut off do not come back. [2.17, 2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    backend = FaultyBackend(store)
    with PageCache("1MiB", retry=ONCE) as cache:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+") as file:
            file.pwrite(MINE, 0)
            store.put(KEY, LONGER)
            with pytest.raises(ConflictError):
                volume.open(KEY)
            backend.use([Rule("truncate", error=errno.ETIMEDOUT)])
            with pytest.raises(TimeoutError):
                file.truncate(PAGE + 10)
            with pytest.raises(TimeoutError):
                volume.resolve(KEY, how)
            with pytest.raises(ConflictError):
                volume.open(KEY)
            backend.use([])
            volume.resolve(KEY, how)
            assert (file.size, file.pread(3 * PAGE, 0)) == (PAGE + 10, MINE + LONGER[PAGE : PAGE + 10])
            file.fsync()
            cache.check()
    assert store.snapshot(KEY) == MINE + LONGER[PAGE : PAGE + 10]


def test_a_direct_write_that_ends_while_another_version_is_taken_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored size at the time of the check is not final. [2.10, 2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    backend = FaultyBackend(store)
    far = pattern(PAGE, seed=4)
    with PageCache("1MiB") as cache, Gate() as gate:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+") as file, volume.open(KEY, "r+", direct=True) as direct:
            file.pwrite(MINE, PAGE)
            backend.use([Rule("write", gate=gate)])
            writing = Task(direct.pwrite, far, 6 * PAGE)
            gate.wait_entered()
            store.put(KEY, LONGER)
            volume.invalidate_remote(KEY, version="another")
            backend.use([])
            taken = remote.take_base

            def after_it(*args: Any) -> None:
                taken(*args)
                gate.release()
                writing.result()

            monkeypatch.setattr(remote, "take_base", after_it)
            volume.resolve(KEY, "rebase")
            assert file.size == 7 * PAGE
            assert file.pread(PAGE, 6 * PAGE) == far
            file.fsync()
            cache.check()
    assert store.snapshot(KEY)[6 * PAGE :] == far


def test_a_forced_version_waits_for_direct_writes_and_cuts_nothing_of_them_off() -> None:
    """A running direct write may store behind the local end: its bytes are part of the forced version. [2.10, 2.19]"""
    store = MemoryBackend()
    store.put(KEY, DATA)
    backend = FaultyBackend(store)
    far = pattern(PAGE, seed=4)
    with PageCache("1MiB") as cache, Gate() as gate:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+") as file, volume.open(KEY, "r+", direct=True) as direct:
            file.pwrite(MINE, PAGE)
            backend.use([Rule("write", gate=gate)])
            writing = Task(direct.pwrite, far, 6 * PAGE)
            gate.wait_entered()
            store.put(KEY, LONGER)
            volume.invalidate_remote(KEY, version="another")
            backend.use([])
            forcing = Task(volume.resolve, KEY, "force")
            assert forcing.waits()
            gate.release()
            writing.result()
            assert forcing.result() == []
            assert file.size == 7 * PAGE
            assert file.pread(PAGE, 6 * PAGE) == far
            file.fsync()
            assert (file.pread(PAGE, PAGE), file.pread(PAGE, 6 * PAGE)) == (MINE, far)
            cache.check()
    assert store.snapshot(KEY)[6 * PAGE :] == far


@pytest.mark.parametrize("first", ["discard", "write"])
def test_a_discard_that_cuts_a_tail_off_takes_nothing_of_a_direct_write(first: str) -> None:
    """The later call waits; bytes acknowledged by the backend stay. [2.10, 2.18]"""
    store = MemoryBackend()
    store.put(KEY, DATA[:PAGE])
    backend = FaultyBackend(store)
    far = pattern(2 * PAGE, seed=4)
    with PageCache("1MiB") as cache, Gate() as gate:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+") as file, volume.open(KEY, "r+", direct=True) as direct:
            file.pwrite(MINE, 4 * PAGE)
            backend.use([Rule("truncate" if first == "discard" else "write", gate=gate)])
            calls: dict[str, Callable[[], object]] = {
                "discard": lambda: volume.discard(KEY, 4 * PAGE),
                "write": lambda: direct.pwrite(far, PAGE),
            }
            one = Task(calls.pop(first))
            gate.wait_entered()
            backend.use([])
            other = Task(*calls.values())
            assert other.waits()
            gate.release()
            one.result()
            other.result()
            with pytest.raises(DataLossError):
                file.fsync()
            file.fsync()
            assert (file.size, file.pread(4 * PAGE, 0)) == (3 * PAGE, DATA[:PAGE] + far)
            assert direct.pread(4 * PAGE, 0) == DATA[:PAGE] + far
            cache.check()
            with pytest.raises(DataLossError):
                direct.fsync()
    assert store.snapshot(KEY) == DATA[:PAGE] + far
