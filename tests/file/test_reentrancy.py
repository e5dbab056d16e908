"""Calls from inside backend calls, and waits that must not form a cycle."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pagecache import CachedFile, DeadlockError, Volume

from ..stores import Gate, RecordingBackend
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, pattern

DATA = pattern(4 * PAGE)

# Calls that lead to the backend call, on a file with a cached first page and a dirty second one.
CALLS: dict[str, Callable[[CachedFile, Volume], object]] = {
    "read_into": lambda file, volume: file.pread(10, 3 * PAGE),
    "write_from": lambda file, volume: file.flush(),
    "commit": lambda file, volume: file.fsync(),
    "truncate": lambda file, volume: file.truncate(3 * PAGE),
    "open": lambda file, volume: volume.open("other").close(),
    "stat": lambda file, volume: volume.stat("other"),
    "file_stat": lambda file, volume: volume.stat(KEY),
    "remove": lambda file, volume: volume.remove("other"),
    "rename": lambda file, volume: volume.rename("other", "moved"),
    "list": lambda file, volume: list(volume.list()),
    "sync": lambda file, volume: volume.sync(20),
}

REFUSED: dict[str, Callable[[CachedFile, Volume], object]] = {
    "fill": lambda file, volume: file.pread(10, 2 * PAGE),
    "view": lambda file, volume: file.view(2 * PAGE, 10),
    "writable view": lambda file, volume: file.view(2 * PAGE, 10, writable=True),
    "write": lambda file, volume: file.pwrite(b"x", 0),
    "append": lambda file, volume: file.append(b"x"),
    "fsync": lambda file, volume: file.fsync(),
    "truncate": lambda file, volume: file.truncate(0),
    "discard": lambda file, volume: volume.discard(KEY),
    "sync": lambda file, volume: volume.sync(),
    "ticket": lambda file, volume: volume.begin_sync(),
    "cache sync": lambda file, volume: volume.cache.sync(),
    "detach": lambda file, volume: volume.detach(),
    "close": lambda file, volume: volume.cache.close(),
    "open": lambda file, volume: volume.open(KEY, keep_cache=True),
    "create": lambda file, volume: volume.open("new", "xb"),
    "stat": lambda file, volume: volume.stat(KEY),
    "exists": lambda file, volume: volume.exists("none"),
    "list": lambda file, volume: list(volume.list()),
    "remove": lambda file, volume: volume.remove("other"),
    "rename": lambda file, volume: volume.rename("other", "x"),
    "truncate by key": lambda file, volume: volume.truncate(KEY, 0),
}


def run_inside(make: Make, op: str, action: Callable[[Rig, CachedFile], object]) -> tuple[Rig, list[Any]]:
    """Return the result or the exception of `action` inside a backend call of the volume."""
    backend = RecordingBackend({KEY: DATA, "other": DATA})
    rig, file = make(backend=backend).opened()
    file.pread(10, 0)
    file.pwrite(b"dirty", PAGE)
    seen: list[Any] = []

    def attempt() -> None:
        try:
            seen.append(action(rig, file))
        except BaseException as error:
            seen.append(error)

    backend.fault(f"{op} answer", attempt)
    Task(CALLS[op], file, rig.volume).result()
    assert len(seen) == 1
    return rig, seen


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("verb", REFUSED)
def test_calls_that_could_wait_for_themselves_are_refused(make: Make, op: str, verb: str) -> None:
    """From inside any call of the same volume: DeadlockError, nothing changed, and everything goes on. [T-49, 2.25]"""
    rig, seen = run_inside(make, op, lambda rig, file: REFUSED[verb](file, rig.volume))
    assert isinstance(seen[0], DeadlockError)
    assert seen[0].errno == errno.EDEADLK
    rig.volume.sync(20)
    assert (
        rig.backend.committed(KEY)
        == (DATA[:PAGE] + b"dirty" + DATA[PAGE + 5 :])[: 3 * PAGE if op == "truncate" else 4 * PAGE]
    )


@pytest.mark.parametrize("op", CALLS)
def test_calls_that_never_wait_are_allowed(make: Make, op: str) -> None:
    """Reads of valid bytes, tries, announcements of remote changes, statistics. [T-49, 2.25]"""

    def use(rig: Rig, file: CachedFile) -> list[object]:
        view = file.view(0, 10)
        found: list[object] = [file.pread(10, 0), file.pread(5, PAGE), file.try_pread(10, 3 * PAGE), view.tobytes()]
        view.release()
        assert file.try_pwrite(b"d", PAGE) in (1, None)
        rig.volume.invalidate_remote("other")
        rig.volume.drop_clean("other")
        found += [rig.volume.stats().capacity, rig.cache.stats().capacity, rig.volume.dirty_ranges(KEY) != []]
        return found

    _rig, seen = run_inside(make, op, use)
    assert seen[0][:2] == [DATA[:10], b"dirty"]
    assert seen[0][3:6] == [DATA[:10], 8 << 20, 8 << 20]


def use_other(other: Volume) -> bytes:
    """Use the volume below as a stacked backend does."""
    with other.open(KEY, "r+b") as file:
        file.pwrite(b"w", 0)
        data: bytes = file.pread(10, 2 * PAGE)
        file.fsync()
        file.sync_range(0, 10)
    other.stat(KEY)
    other.sync()
    other.begin_sync().wait()
    other.invalidate()
    return data


@pytest.mark.parametrize("op", CALLS)
def test_a_volume_attached_earlier_can_be_used_and_synced(make: Make, op: str) -> None:
    """Volumes are stacked in the order of attaching, so there is no cycle. [T-49, 2.25]"""
    below = make({KEY: DATA})
    backend = RecordingBackend({KEY: DATA, "other": DATA})
    upper = below.cache.attach(backend, name="upper", read_ahead=0)
    file = upper.open(KEY, "r+b")
    file.pread(10, 0)
    file.pwrite(b"dirty", PAGE)
    seen: list[bytes] = []
    backend.fault(f"{op} answer", lambda: seen.append(use_other(below.volume)))
    Task(CALLS[op], file, upper).result()
    assert seen == [DATA[2 * PAGE : 2 * PAGE + 10]]
    assert below.backend.committed(KEY) == b"w" + DATA[1:]
    file.close()


@pytest.mark.parametrize("verb", ["fsync", "flush", "sync_range", "sync", "ticket", "write-through"])
def test_a_volume_attached_later_can_be_read_and_written_but_not_synced(make: Make, verb: str) -> None:
    """Its write-back may need the volume that would wait for it. [T-49, 2.25]"""
    backend = RecordingBackend({KEY: DATA})
    rig, file = make(backend=backend).opened()
    later = rig.cache.attach(RecordingBackend({KEY: DATA}), name="later", read_ahead=0)
    other = later.open(KEY, "r+b", write_through=verb == "write-through")
    seen: list[Any] = []

    def attempt() -> None:
        try:
            seen.append(other.pread(10, 0))
            seen.append(other.pwrite(b"w", 0))
            waits: dict[str, Callable[[], object]] = {
                "fsync": other.fsync,
                "flush": other.flush,
                "sync_range": lambda: other.sync_range(0, 10),
                "sync": later.sync,
                "ticket": lambda: later.begin_sync().wait(),
            }
            waits[verb]()
        except BaseException as error:
            seen.append(error)

    backend.fault("read_into answer", attempt)
    assert Task(file.pread, 10, 0).result() == DATA[:10]
    assert seen[:-1] == [DATA[:10], 1][: 1 if verb == "write-through" else 2]
    assert isinstance(seen[-1], DeadlockError)
    assert other.pread(1, 0) == b"w"
    other.close()


def test_writes_from_inside_a_backend_call_are_not_throttled(make: Make) -> None:
    """A call that waits for a write-back it belongs to would wait forever. [T-49, 2.24, 2.25]"""
    below = make({KEY: b""}, "1MiB", dirty_background=0.2, dirty_limit=0.3)
    backend = RecordingBackend({KEY: b""})
    upper = below.cache.attach(backend, name="upper", read_ahead=0)
    file = upper.open(KEY, "r+b")
    lower = below.open()
    lower.pwrite(pattern(150 * 1024), 0)
    hung = below.backend.gate("write_from", times=100)  # nothing makes room
    backend.fault("write_from answer", lambda: lower.pwrite(pattern(200 * 1024), 0))
    file.pwrite(pattern(100 * 1024), 0)
    Task(file.flush).result()
    hung.open()
    lower.fsync()
    assert below.backend.committed(KEY) == pattern(200 * 1024)
    file.close()


@pytest.mark.parametrize("first", ["widening", "truncate"])
def test_truncate_against_a_pass_that_widens_units_with_slow_fills(make: Make, first: str) -> None:
    """Neither waits for the other while holding something that it needs, in either order. [T-71]"""
    rig, file = make({KEY: pattern(64 * PAGE)}, limits={"write_unit": 8 * PAGE, "max_write": 16 * PAGE}).opened()
    for unit in range(8):
        file.pwrite(b"x" * 100, unit * 8 * PAGE + 50)
    reads = rig.backend.gate("read_into", times=2)
    cuts = rig.backend.gate("truncate")
    both: list[tuple[Gate, Callable[[], object]]] = [(reads, file.flush), (cuts, partial(file.truncate, 20 * PAGE))]
    (held, one), (other, two) = both if first == "widening" else both[::-1]
    _, running = at_gate(held, one)
    waiting, reading = Task(two), Task(file.pread, 100, 9 * PAGE)
    assert waiting.waits()
    other.open()
    held.open()
    for task in (running, waiting):
        task.result()
    assert reading.result() == pattern(64 * PAGE)[9 * PAGE : 9 * PAGE + 100]
    file.fsync()
    expected = bytearray(pattern(64 * PAGE)[: 20 * PAGE])
    for unit in range(3):
        expected[unit * 8 * PAGE + 50 : unit * 8 * PAGE + 150] = b"x" * 100
    assert rig.backend.committed(KEY) == bytes(expected)
