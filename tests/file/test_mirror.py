"""The second stream: a best-effort copy of everything that is written back. No caller waits for it, it does no harm,
and a wrong copy is never left behind.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import pagecache
from pagecache import PageCache, RetryPolicy
from pagecache.backends import MemoryBackend

from .backends import WAIT_LIMIT_S, RecordingBackend
from .clock import HandClock
from .rig import FAST, KEY, PAGE, QUIET, Task, eventually, pattern

MIB = 1 << 20


class Pair:
    """A cache with one volume: a backend and its mirror, both recorded."""

    def __init__(
        self,
        objects: dict[Any, bytes] | None = None,
        *,
        capacity: str | int = "8MiB",
        backend: dict[str, Any] | None = None,
        mirror: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.backend = RecordingBackend(objects, capture=True, **(backend or {}))
        self.mirror = RecordingBackend(capture=True, **(mirror or {}))
        self.cache = PageCache(capacity, **{**QUIET, "retry": FAST, **config})
        self.volume = self.cache.attach(self.backend, name="volume", mirror=self.mirror, read_ahead=0)

    def caught_up(self) -> None:
        copies = self.volume.engine.mirror
        assert copies is not None
        eventually(copies.drained)

    def finish(self) -> None:
        self.mirror.open_all_gates()
        self.mirror.clear_faults()
        self.backend.open_all_gates()
        self.cache.check()
        self.cache.close(timeout=WAIT_LIMIT_S)
        assert self.backend.violations == []
        assert self.mirror.violations == []


@pytest.fixture
def pairs() -> Iterator[Any]:
    made: list[Pair] = []

    def make(*args: Any, **kwargs: Any) -> Pair:
        made.append(Pair(*args, **kwargs))
        return made[-1]

    yield make
    for pair in made:
        pair.finish()


def test_every_byte_reaches_both_under_limits_of_their_own(pairs: Any) -> None:
    """Requests of the mirror are cut by its own limits and boundaries, not by those of the backend. [T-31]"""
    pair = pairs(
        {KEY: bytes(MIB)},
        backend={"max_write": "64KiB", "boundary": "48KiB"},
        mirror={"max_write": "96KiB", "boundary": "80KiB", "max_vectors": 7},
    )
    data = bytearray(MIB)
    with pair.volume.open(KEY, "r+b") as file:
        for start, length in ((0, 300_000), (310_000, 5), (400_000, 123_457), (900_000, 100_000)):
            piece = pattern(length, start)
            file.pwrite(piece, start)
            data[start : start + length] = piece
        file.fsync()
        pair.caught_up()
    assert pair.backend.committed(KEY) == data
    copy = pair.mirror.written(KEY)
    for start, length in ((0, 300_000), (310_000, 5), (400_000, 123_457), (900_000, 100_000)):
        assert copy[start : start + length] == data[start : start + length]
    for call in pair.mirror.seen("write_from"):
        assert call.length <= 96 << 10
        assert call.nr_buffers <= 7
        assert call.offset // (80 << 10) == (call.offset + call.length - 1) // (80 << 10)
    gaps = {call.offset for call in pair.mirror.seen("write_from")} & {305_000, 320_000, 600_000}
    assert not gaps


def test_requests_that_follow_one_another_join_in_the_mirror(pairs: Any) -> None:
    """Small requests of the backend become large ones of the mirror. [T-31]"""
    pair = pairs(backend={"max_write": "16KiB", "max_inflight": 1}, mirror={"max_write": "1MiB", "max_inflight": 1})
    data = pattern(256 << 10)
    gate = pair.mirror.gate("write_from")
    with pair.volume.open(KEY, "w+b") as file:
        file.write(data)
        file.flush()
        gate.wait_entered()
        gate.open()
        pair.caught_up()
        assert len(pair.backend.seen("write_from")) == 16
        assert len(pair.mirror.seen("write_from")) < 8
        assert pair.mirror.written(KEY) == data


def test_the_mirror_gets_the_memory_of_the_cache(pairs: Any) -> None:
    """No temporary copies: the same addresses go to both. [T-10, T-31]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(pattern(64 << 10))
        file.fsync()
        pair.caught_up()
        first = {a for call in pair.backend.seen("write_from") for a in call.addresses}
        second = {a for call in pair.mirror.seen("write_from") for a in call.addresses}
        assert first == second
        stats = file.stats()
    assert stats.cow_copies == 0
    assert stats.to_dict()["mirror_bytes"] == 64 << 10


def test_a_slow_mirror_keeps_the_bytes_of_its_time(pairs: Any) -> None:
    """A writer does not wait: the page gets fresh memory, both versions arrive in order. [T-11, T-31]"""
    pair = pairs()
    gate = pair.mirror.gate("write_from")
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"a" * PAGE)
        file.fsync()
        gate.wait_entered()
        Task(file.pwrite, b"b" * PAGE, 0).result()
        assert file.pread(PAGE, 0) == b"b" * PAGE
        assert file.stats().cow_copies == 1
        file.fsync()
        gate.open()
        pair.caught_up()
    contents = [call.data for call in pair.mirror.seen("write_from")]
    assert contents == [b"a" * PAGE, b"b" * PAGE]


def test_the_mirrors_requests_run_side_by_side_unless_they_overlap(pairs: Any) -> None:
    pair = pairs({KEY: bytes(MIB)}, mirror={"max_inflight": 4, "max_write": PAGE})
    with pair.volume.open(KEY, "r+b") as file:
        pair.mirror.gate("write_from", times=0).open()
        file.pwrite(b"0" * PAGE, 100 * PAGE)
        file.fsync()
        pair.caught_up()  # the copy is open now
        gate = pair.mirror.gate("write_from", times=3)
        for page in (0, 2, 4):
            file.pwrite(b"1" * PAGE, page * PAGE)
        file.fsync()
        eventually(lambda: gate.nr_entered == 3)
        file.pwrite(b"2" * PAGE, 2 * PAGE)
        file.fsync()
        gate.open()
        pair.caught_up()
        assert pair.mirror.written(KEY)[2 * PAGE : 3 * PAGE] == b"2" * PAGE


@pytest.mark.parametrize("error", [OSError(5, "broken"), RuntimeError("odd"), lambda *_: -1, lambda *_: None])
def test_a_mirror_that_fails_does_not_harm_the_upload(pairs: Any, error: Any) -> None:
    """The upload stands; the copy is removed and stays away until the file starts anew. [T-34]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"one" * PAGE)
        file.fsync()
        pair.caught_up()
        assert pair.mirror.written(KEY) == b"one" * PAGE
        pair.mirror.fault("write_from", error)
        file.pwrite(b"two", 0)
        file.fsync()
        eventually(lambda: KEY not in pair.mirror.objects)
        file.pwrite(b"three", PAGE)
        file.fsync()
        pair.caught_up()
        assert KEY not in pair.mirror.objects
        assert pair.volume.failed() == []
        file.truncate(0)
        file.pwrite(b"four", 0)
        file.fsync()
        pair.caught_up()
        assert pair.mirror.written(KEY) == b"four"
    assert pair.backend.committed(KEY) == b"four"


def test_a_copy_that_cannot_be_removed_is_emptied(pairs: Any) -> None:
    """A mirror without remove: a copy that cannot be right is empty, not wrong. [T-34]"""
    pair = pairs()
    pair.mirror.fault("remove", io.UnsupportedOperation("remove"), times=float("inf"))
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"content")
        file.fsync()
        pair.caught_up()
        pair.mirror.fault("write_from", OSError(5, "broken"))
        file.pwrite(b"more", 3)
        file.fsync()
        pair.caught_up()
        assert pair.mirror.written(KEY) == b""


@pytest.mark.parametrize("how", ["announced", "found at an open"])
def test_a_copy_that_rests_is_given_up_with_its_object(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is local, the copy is closed, and another client changes the object: the remaining copy would be wrong.
    [T-34]
    """
    monkeypatch.setattr("pagecache.engine.mirror.OPEN_MAX", 0)
    store, copy = MemoryBackend(), MemoryBackend()
    with PageCache("8MiB", **QUIET) as cache:
        volume = cache.attach(store, mirror=copy)
        with volume.open(KEY, "w+b") as file:
            file.write(b"x" * PAGE)
        volume.sync()
        mirror = volume.engine.mirror
        assert mirror is not None
        eventually(lambda: KEY not in mirror._files)
        assert copy.stat(KEY).size == PAGE
        other = store.open(KEY)
        other.write_from(0, [memoryview(b"other")])
        other.commit()
        if how == "announced":
            volume.invalidate_remote(KEY)
        else:
            volume.open(KEY).close()
        eventually(lambda: list(copy.list()) == [])


def test_bytes_that_had_to_change_in_place_spoil_the_copy(pairs: Any) -> None:
    """Memory that a view pins cannot be replaced: the writer does not wait, the copy is dropped. [T-34]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"a" * PAGE)
        file.fsync()
        pair.caught_up()
        gate = pair.mirror.gate("write_from")
        file.pwrite(b"b" * PAGE, 0)
        file.fsync()
        gate.wait_entered()
        with file.view(0, PAGE) as view:
            Task(file.pwrite, b"c" * PAGE, 0).result()
            assert view.tobytes() == b"c" * PAGE
            gate.open()
            eventually(lambda: KEY not in pair.mirror.objects)
        file.fsync()
    assert pair.backend.committed(KEY) == b"c" * PAGE


def test_more_than_its_share_of_memory_gives_a_copy_up(pairs: Any) -> None:
    """A mirror that hangs holds no more than its share, and writers go on. [T-34]"""
    pair = pairs(capacity="1MiB", max_folio=PAGE)
    gate = pair.mirror.gate("write_from", times=100)
    with pair.volume.open(KEY, "w+b") as file:

        def write() -> None:
            for i in range(8):
                file.pwrite(pattern(128 << 10, i), i * (128 << 10))
                file.fsync()

        Task(write).result()
        copies = pair.volume.engine.mirror
        assert copies is not None
        assert pair.cache.native.held() <= (1 << 20) // 8 + (128 << 10)
        gate.open()
        eventually(lambda: KEY not in pair.mirror.objects)
        assert copies.lost == 1
        pair.caught_up()
        assert pair.cache.native.held() == 0
        assert file.pread(MIB, 0) == b"".join(pattern(128 << 10, i) for i in range(8))


def test_a_call_past_its_deadline_gives_the_copy_up_and_its_memory_is_kept_until_it_returns(pairs: Any) -> None:
    """Only the return of a call ends its hold on memory. [T-34]"""
    pair = pairs(retry=RetryPolicy(deadline=0.05), flush_interval=0.02)
    gate = pair.mirror.gate("write_from")
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"a" * PAGE)
        file.fsync()
        gate.wait_entered()
        copies = pair.volume.engine.mirror
        assert copies is not None
        eventually(lambda: copies.lost == 1)
        assert pair.cache.native.held() == PAGE
        file.pwrite(b"b" * PAGE, 0)
        file.fsync()
        gate.open()
        pair.caught_up()
        assert pair.cache.native.held() == 0
        assert KEY not in pair.mirror.objects
    assert [call.data for call in pair.mirror.seen("write_from")] == [b"a" * PAGE]


def test_truncate_punch_and_zero_reach_the_copy_in_order() -> None:
    """Afterwards the mirror has the content of the file. [T-31]"""
    store, copy = MemoryBackend(), MemoryBackend()
    with PageCache("8MiB", **QUIET) as cache:
        volume = cache.attach(store, mirror=copy)
        with volume.open(KEY, "w+b") as file:
            file.write(pattern(20 * PAGE))
            file.fsync()
            file.punch_hole(3 * PAGE + 7, 5 * PAGE)
            file.pwrite(b"after the hole", 4 * PAGE)
            file.truncate(15 * PAGE + 11)
            file.truncate(18 * PAGE)
            file.zero_range(PAGE, 100)
            file.fsync()
            expected = file.pread(18 * PAGE, 0)
    assert store.snapshot(KEY) == expected
    assert copy.snapshot(KEY) == expected


def test_names_follow() -> None:
    """Rename and remove, also of a destination that had its own copy. [T-31]"""
    store, copy = MemoryBackend(), MemoryBackend()
    with PageCache("8MiB", **QUIET) as cache:
        volume = cache.attach(store, mirror=copy)
        for key in ("a", "b", "c"):
            with volume.open(key, "w+b") as file:
                file.write(key.encode() * 1000)
        with volume.open("a", "r+b") as file:
            volume.rename("a", "b")
            file.pwrite(b"moved", 10)
            file.fsync()
        volume.remove("c")
    assert copy.snapshot("b") == store.snapshot("b")
    assert {stat.key for stat in copy.list()} == {"b"}


def test_a_file_that_is_removed_while_open_leaves_no_copy() -> None:
    store, copy = MemoryBackend(), MemoryBackend()
    with PageCache("8MiB", **QUIET) as cache:
        volume = cache.attach(store, mirror=copy)
        with volume.open("a", "w+b") as file:
            file.write(b"x" * PAGE)
            file.flush()
            volume.remove("a")
            file.pwrite(b"y" * PAGE, PAGE)
            file.fsync()
            assert volume.engine.mirror is not None
            eventually(volume.engine.mirror.drained)
            assert list(copy.list()) == []
    assert list(copy.list()) == []


def test_a_remote_change_and_given_up_data_take_the_copy_away(pairs: Any) -> None:
    """The copy would no longer equal the object. [T-34]"""
    pair = pairs()
    for lose in (pair.volume.invalidate_remote, pair.volume.discard):
        with pair.volume.open(KEY, "w+b") as file:
            file.write(b"content")
            file.fsync()
            pair.caught_up()
            assert pair.mirror.written(KEY) == b"content"
            file.pwrite(b"local", 2)
            lose(KEY)
            eventually(lambda: KEY not in pair.mirror.objects)
            try:
                file.fsync()
            except pagecache.DataLossError:
                pass
            except pagecache.ConflictError:
                pair.volume.resolve(KEY, "rebase")


def test_close_does_not_wait_longer_than_asked_for_a_mirror_that_hangs(clock: HandClock) -> None:
    """Memory that it may still touch stays. [T-34]"""
    store, copy = RecordingBackend(), RecordingBackend(max_inflight=1)
    gate = copy.gate("write_from")
    cache = PageCache("1MiB", **QUIET)
    with cache.attach(store, mirror=copy).open(KEY, "w+b") as file:
        file.write(b"a" * PAGE)
    gate.wait_entered()
    closing = Task(cache.close, timeout=60.0)
    eventually(lambda: store.committed(KEY) == b"a" * PAGE)
    assert closing.waits()
    clock.advance(60.0)  # the time also passes the deadlines of all retries
    closing.result()
    assert store.committed(KEY) == b"a" * PAGE
    gate.open()
    eventually(lambda: not [t for t in threading.enumerate() if "-mirror-" in t.name])
    assert copy.written(KEY) == b"a" * PAGE


def test_buffers_that_a_mirror_keeps_are_never_used_again(pairs: Any) -> None:
    """Memory that a slice still references belongs to the slice."""
    pair = pairs(capacity="512KiB", max_folio=PAGE)
    kept: list[memoryview] = []

    def keep(file: Any, offset: int, buffers: Any) -> int:
        kept.extend(buffer[:] for buffer in buffers)
        return int(file.store(offset, buffers))

    with pair.volume.open(KEY, "w+b") as file:
        pair.mirror.fault("write_from", keep)
        file.write(b"kept" * (PAGE // 4))
        file.fsync()
        pair.caught_up()
        for i in range(1, 300):
            file.pwrite(bytes([i % 256]) * PAGE, i * PAGE)
            file.pwrite(b"over" * (PAGE // 4), 0)
            if i % 20 == 0:
                file.fsync()
        assert bytes(kept[0]) == b"kept" * (PAGE // 4)
        pair.cache.check()
        kept.clear()
        file.fsync()


@pytest.mark.parametrize(
    ("mirror", "error", "rule"),
    [
        (RecordingBackend(write_unit=4096), ValueError, "write_unit 4096"),
        (RecordingBackend(read_only=True), ValueError, "read-only"),
        (object(), TypeError, "mirror <object"),
        ("nonsense:", ValueError, "nonsense"),
    ],
)
def test_an_invalid_mirror_is_refused(mirror: Any, error: type[Exception], rule: str) -> None:
    with PageCache("1MiB") as cache:
        with pytest.raises(error, match=rule):
            cache.attach(MemoryBackend(), mirror=mirror)
        same = MemoryBackend()
        with pytest.raises(ValueError, match="second place"):
            cache.attach(same, mirror=same)
        assert cache.volumes() == ()


@pytest.mark.parametrize("unit", [1, 16 << 10])
def test_random_work_over_a_mirror_leaves_two_equal_stores(unit: int) -> None:
    """Writers, truncates, holes and evictions on a small cache; the copy follows or is gone. [T-31, T-34]"""
    for seed in range(4):
        rng = random.Random(seed)
        store, copy = MemoryBackend(), MemoryBackend()
        limits = store.limits
        store.limits = type(limits)(**{**{n: getattr(limits, n) for n in limits.__slots__}, "write_unit": unit})
        keys = ["a", "b", "c"]
        with PageCache("512KiB", dirty_expire=0.01, flush_interval=0.005) as cache:
            volume = cache.attach(store, mirror=copy)
            model = {key: bytearray() for key in keys}
            files = {key: volume.open(key, "w+b") for key in keys}
            for step in range(300):
                key = rng.choice(keys)
                match rng.randrange(12):
                    case 0:
                        size = rng.randrange(200_000)
                        files[key].truncate(size)
                        model[key] = model[key][:size] + bytes(max(0, size - len(model[key])))
                    case 1:
                        files[key].fsync()
                    case 2:
                        start, length = rng.randrange(150_000), rng.randrange(1, 30_000)
                        files[key].punch_hole(start, length)
                        end = min(len(model[key]), start + length)
                        model[key][start:end] = bytes(max(0, end - start))
                    case _:
                        start, piece = rng.randrange(150_000), pattern(rng.randrange(1, 50_000), step)
                        files[key].pwrite(piece, start)
                        if len(model[key]) < start + len(piece):
                            model[key] += bytes(start + len(piece) - len(model[key]))
                        model[key][start : start + len(piece)] = piece
                if step % 50 == 0:
                    cache.check()
            for file in files.values():
                file.close()
            mirrored = volume.engine.mirror
            assert mirrored is not None
        for key in keys:
            assert store.snapshot(key) == model[key]
            if any(stat.key == key for stat in copy.list()):
                assert copy.snapshot(key) == model[key]
            else:
                assert mirrored.lost
