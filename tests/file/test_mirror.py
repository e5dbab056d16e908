"""The second stream: one log in the order of the store, applied by one thread. No caller waits for it, and a copy that
may be wrong is removed and listed.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecache
from pagecache import PageCache, RetryPolicy, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.engine.file import EngineFile
from pagecache.testing import FaultyBackend, Rule
from pagecache.testing.gate import Gate

from ..stores import WAIT_LIMIT_S, RecordingBackend, RecordingFile
from .clock import HandClock
from .rig import FAST, KEY, PAGE, QUIET, Patch, Task, eventually, pattern, raises

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
        caught_up(self.volume)

    def finish(self) -> None:
        self.mirror.open_all_gates()
        self.mirror.clear_faults()
        self.backend.open_all_gates()
        self.cache.check()
        self.cache.close(timeout=WAIT_LIMIT_S)
        assert self.backend.violations == []
        assert self.mirror.violations == []


def caught_up(volume: Volume) -> None:
    mirror = volume.engine.mirror
    assert mirror is not None
    eventually(lambda: not mirror.busy())


def write(volume: Volume, key: str, data: bytes) -> None:
    with volume.open(key, "wb") as file:
        file.write(data)
        file.fsync()


def contents(store: MemoryBackend) -> dict[Any, bytes]:
    return {stat.key: bytes(store.snapshot(stat.key)) for stat in store.list()}


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def pairs() -> Iterator[Any]:
    made: list[Pair] = []

    def make(*args: Any, **kwargs: Any) -> Pair:
        made.append(Pair(*args, **kwargs))
        return made[-1]

    yield make
    for pair in made:
        pair.finish()


# -- bytes


def test_every_byte_reaches_both_under_limits_of_their_own(pairs: Any) -> None:
    """Requests of the mirror are cut by its own limits and boundaries, and joined up to them. [T-31]"""
    pair = pairs(
        backend={"max_write": "16KiB", "boundary": "48KiB", "max_inflight": 1},
        mirror={"max_write": "96KiB", "boundary": "80KiB", "max_vectors": 7},
    )
    data, gate = pattern(300_000), pair.mirror.gate("write_from")
    with pair.volume.open(KEY, "w+b") as file:
        file.pwrite(data, 0)
        file.fsync()
        gate.wait_entered()
        gate.open()
        pair.caught_up()
    calls = pair.mirror.seen("write_from")
    assert pair.backend.committed(KEY) == pair.mirror.written(KEY) == data
    assert len(calls) < len(pair.backend.seen("write_from")) // 2
    for call in calls:
        assert call.length <= 96 << 10
        assert call.nr_buffers <= 7
        assert call.offset // (80 << 10) == (call.offset + call.length - 1) // (80 << 10)


def test_the_mirror_gets_the_memory_of_the_cache(pairs: Any) -> None:
    """No temporary copies: the same addresses go to both. [T-10, T-31]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(pattern(64 << 10))
        file.fsync()
        pair.caught_up()
        first, second = (
            {a for call in store.seen("write_from") for a in call.addresses} for store in (pair.backend, pair.mirror)
        )
        assert first == second
        assert (file.stats().cow_copies, file.stats().to_dict()["mirror_bytes"]) == (0, 64 << 10)


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
    assert [call.data for call in pair.mirror.seen("write_from")] == [b"a" * PAGE, b"b" * PAGE]


def test_truncate_punch_and_zero_reach_the_copy_in_order() -> None:
    """Afterwards the mirror has the content of the file. [T-31]"""
    store, copy = MemoryBackend(), MemoryBackend()
    with PageCache("8MiB", **QUIET) as cache, cache.attach(store, mirror=copy).open(KEY, "w+b") as file:
        file.write(pattern(20 * PAGE))
        file.fsync()
        file.punch_hole(3 * PAGE + 7, 5 * PAGE)
        file.pwrite(b"after the hole", 4 * PAGE)
        file.truncate(15 * PAGE + 11)
        file.truncate(18 * PAGE)
        file.zero_range(PAGE, 100)
        file.fsync()
        expected = file.pread(18 * PAGE, 0)
    assert store.snapshot(KEY) == copy.snapshot(KEY) == expected


# -- names


def rotated(volume: Volume) -> None:
    volume.rename("log.1", "log.2")
    volume.rename("log", "log.1")
    write(volume, "log", b"new")


def replaced(volume: Volume) -> None:
    volume.rename("log", "log.1")
    with volume.open("log.1", "r+b") as file:
        file.pwrite(b"L", 0)
        file.fsync()


def removed(volume: Volume) -> None:
    with volume.open("log", "r+b") as file:
        volume.remove("log")
        file.pwrite(b"of no name", 0)
        file.fsync()
    volume.rename("log.1", "log")


@pytest.mark.parametrize("slow", ["log", "log.1", None])
@pytest.mark.parametrize("change", [rotated, replaced, removed])
def test_names_do_not_overtake_each_other(pairs: Any, change: Callable[[Volume], None], slow: str | None) -> None:
    """The mirror is still busy with an object when names change, or it was before. [T-31]"""
    pair = pairs()
    gate = pair.mirror.gate("write_from", key=slow) if slow is not None else None
    write(pair.volume, "log.1", b"older")
    write(pair.volume, "log", b"old")
    if gate is None:
        pair.caught_up()
    else:
        gate.wait_entered()
    change(pair.volume)
    if gate is not None:
        gate.open()
    pair.caught_up()
    names = set(pair.backend.objects)
    assert {key: pair.mirror.written(key) for key in pair.mirror.objects} == {
        key: pair.backend.written(key) for key in names
    }
    assert pair.volume.not_mirrored() == {}


@pytest.mark.parametrize("directories", [True, False])
def test_objects_follow_their_directory(tmp_path: Path, directories: bool) -> None:
    """The directories that the mirror lacks are made there; a mirror may have none at all. [T-31]"""
    store, copy = tmp_path / "store", tmp_path / "copy"
    (store / "d" / "deep").mkdir(parents=True)
    copy.mkdir()
    memory = MemoryBackend()
    with PageCache("4MiB", **QUIET) as cache:
        volume = cache.attach(f"dir:{store}", mirror=DirectoryBackend(copy) if directories else memory)
        for name in ("d/x", "d/deep/y", "dz"):
            write(volume, name, name.encode())
        with volume.open("d/x", "r+b") as file:
            volume.rename("d", "e")
            file.pwrite(b"moved", 1)
            file.fsync()
        caught_up(volume)
        assert volume.not_mirrored() == {}
    mirrored = tree(copy) if directories else contents(memory)
    assert tree(store) == mirrored == {"e/x": b"dmoved", "e/deep/y": b"d/deep/y", "dz": b"dz"}


def test_an_object_that_keeps_another_name_is_listed(tmp_path: Path) -> None:
    """The mirror knows one name of it, which goes; later bytes do not bring it back. [T-34]"""
    copy = MemoryBackend()
    with PageCache("4MiB", **QUIET) as cache:
        volume = cache.attach(f"dir:{tmp_path}", mirror=copy)
        write(volume, "x", b"one")
        (tmp_path / "y").hardlink_to(tmp_path / "x")
        with volume.open("x", "r+b") as file:
            volume.remove("x")
            file.pwrite(b"TWO", 0)
            file.fsync()
            caught_up(volume)
        assert "has others" in volume.not_mirrored()["x"]
    assert (tree(tmp_path), contents(copy)) == ({"y": b"TWO"}, {})


def test_a_rename_that_fails_in_the_mirror_leaves_neither_name(pairs: Any) -> None:
    pair = pairs()
    write(pair.volume, "old", b"bytes")
    write(pair.volume, "new", b"others")
    pair.mirror.fault("rename", OSError(5, "broken"))
    pair.volume.rename("old", "new")
    pair.caught_up()
    assert (list(pair.mirror.objects), list(pair.volume.not_mirrored())) == ([], ["new"])


@pytest.mark.parametrize("behind", [True, False])
def test_random_work_leaves_two_equal_stores(behind: bool) -> None:
    """What differs is listed. `behind`: the mirror is at the first object until all is done. [T-31, T-34]"""
    for seed in range(20):
        rng, store, copy = random.Random(seed), MemoryBackend(), MemoryBackend()
        late = FaultyBackend(copy)
        with PageCache("512KiB", dirty_expire=0.01, flush_interval=0.005) as cache, Gate() as gate:
            volume = cache.attach(store, mirror=late)
            if behind:
                late.use([Rule("write", nth=1, gate=gate)])
            for _ in range(60):
                key, other = rng.sample(["a", "b", "c"], 2)
                try:
                    match rng.randrange(8):
                        case 0:
                            volume.rename(key, other)
                        case 1:
                            volume.remove(key)
                        case 2:
                            write(volume, key, pattern(rng.randrange(1, 50_000), seed))
                        case n:
                            with volume.open(key, "r+b") as file:
                                place, length = rng.randrange(60_000), rng.randrange(1, 20_000)
                                if n == 3:
                                    file.truncate(place if rng.random() < 0.8 else 0)
                                elif n == 4:
                                    file.punch_hole(place, length)
                                else:
                                    file.pwrite(pattern(length, n), place)
                except FileNotFoundError:
                    write(volume, key, b"")
            cache.sync()
            gate.release()
            caught_up(volume)
            lost = volume.not_mirrored()
        assert contents(copy) == {key: data for key, data in contents(store).items() if key not in lost}


# -- copies that are given up


@pytest.mark.parametrize("error", [OSError(5, "broken"), RuntimeError("odd"), lambda *_: -1, lambda *_: None])
def test_a_mirror_that_fails_does_not_harm_the_upload(pairs: Any, error: Any) -> None:
    """The upload stands; the copy is removed, listed, and stays away until the file starts anew. [T-34]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        pair.mirror.fault("write_from", error)
        file.write(b"one" * PAGE)
        for data in (b"two", b"three"):
            file.pwrite(data, PAGE)
            file.fsync()
            pair.caught_up()
            assert KEY not in pair.mirror.objects
            assert list(pair.volume.not_mirrored()) == [KEY]
        assert pair.volume.failed() == []
        file.truncate(0)
        file.pwrite(b"four", 0)
        file.fsync()
        pair.caught_up()
        assert pair.mirror.written(KEY) == pair.backend.committed(KEY) == b"four"
        assert pair.volume.not_mirrored() == {}


@pytest.mark.parametrize("error", [io.UnsupportedOperation("remove"), PermissionError(13, "no")])
def test_a_copy_that_cannot_be_removed_is_emptied_or_named(
    pairs: Any, error: OSError, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its own file does at the end. [T-34]"""
    pair = pairs()

    def broken(_file: RecordingFile) -> None:
        raise RuntimeError("not now")

    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"content")
        file.fsync()
        pair.caught_up()
        pair.mirror.fault("remove", error, times=float("inf"))
        pair.mirror.fault("write_from", OSError(5, "broken"))
        file.pwrite(b"more", 3)
        with monkeypatch.context() as patched:
            patched.setattr(RecordingFile, "rollback", broken, raising=False)
            patched.setattr(RecordingFile, "close", broken)
            file.fsync()
            pair.caught_up()
        named = "cannot be removed" in caplog.text
        assert (pair.mirror.written(KEY) == b"") is not named
        assert named is isinstance(error, PermissionError)


def test_a_mirror_has_not_caught_up_before_a_wrong_copy_is_removed(pairs: Any) -> None:
    """The end of the volume waits for it: nothing else would say that the copy is wrong. [T-34]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"content")
        file.fsync()
        pair.caught_up()
        gate = pair.mirror.gate("remove")
        pair.mirror.fault("write_from", OSError(5, "broken"))
        file.pwrite(b"more", 3)
        file.fsync()
        gate.wait_entered()
        assert pair.volume.engine.mirror.busy()
        gate.open()
        pair.caught_up()
        assert KEY not in pair.mirror.objects


def test_an_invalid_copy_is_removed_wherever_its_object_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is local, the copy is closed, and another client changes the object. [T-34]"""
    monkeypatch.setattr("pagecache.engine.mirror.OPEN_MAX", 0)
    for announced in (True, False):
        store, copy = MemoryBackend(), MemoryBackend()
        with PageCache("8MiB", **QUIET) as cache:
            volume = cache.attach(store, mirror=copy)
            write(volume, KEY, b"x" * PAGE)
            caught_up(volume)
            assert copy.stat(KEY).size == PAGE
            other = store.open(KEY)
            other.write_from(0, [memoryview(b"other")])
            other.commit()
            if announced:
                volume.invalidate_remote(KEY)
            else:
                volume.open(KEY).close()
            caught_up(volume)
            assert contents(copy) == {}


def test_data_that_is_given_up_takes_the_copy_away(pairs: Any) -> None:
    """The copy would no longer equal the object. [T-34]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"content")
        file.fsync()
        file.pwrite(b"local", 2)
        pair.volume.discard(KEY)
        pair.caught_up()
        assert KEY not in pair.mirror.objects
        raises(pagecache.DataLossError, file.fsync)


def test_bytes_that_had_to_change_in_place_spoil_the_copy(pairs: Any) -> None:
    """Memory that a view pins cannot be replaced: the writer does not wait, the copy is dropped. [T-34]"""
    pair = pairs()
    gate = pair.mirror.gate("write_from")
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"b" * PAGE)
        file.fsync()
        gate.wait_entered()
        with file.view(0, PAGE) as view:
            Task(file.pwrite, b"c" * PAGE, 0).result()
            assert view.tobytes() == b"c" * PAGE
            gate.open()
            pair.caught_up()
            assert KEY not in pair.mirror.objects
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
        assert pair.cache.native.held() <= (1 << 20) // 8 + (128 << 10)
        assert "share of memory" in pair.volume.not_mirrored()[KEY]
        gate.open()
        pair.caught_up()
        assert KEY not in pair.mirror.objects
        assert pair.cache.native.held() == 0
        assert file.pread(MIB, 0) == b"".join(pattern(128 << 10, i) for i in range(8))


def test_a_request_that_finds_no_memory_for_the_mirror_is_written_all_the_same(pairs: Any, monkeypatch: Patch) -> None:
    """The copy is given up, not the upload. [T-34]"""
    pair, send = pairs(), EngineFile.write

    class Poor:
        """An operation that cannot be mirrored."""

        def __init__(self, op: Any) -> None:
            self.op = op

        def __getattr__(self, name: str) -> Any:
            return getattr(self.op, name)

        def mirror(self, _last: object) -> None:
            raise MemoryError

    with pair.volume.open(KEY, "w+b") as file:
        monkeypatch.setattr(EngineFile, "write", lambda self, op: send(self, Poor(op)))
        file.write(b"x" * PAGE)
        file.fsync()
        assert pair.backend.committed(KEY) == b"x" * PAGE
        pair.caught_up()
        assert KEY not in pair.mirror.objects


def test_a_call_past_its_deadline_gives_the_copy_up_and_its_memory_is_kept_until_it_returns(pairs: Any) -> None:
    """Only the return of a call ends its hold on memory. [T-34]"""
    pair = pairs(retry=RetryPolicy(deadline=0.05), flush_interval=0.02)
    gate = pair.mirror.gate("write_from")
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"a" * PAGE)
        file.fsync()
        gate.wait_entered()
        eventually(lambda: "longer than" in pair.volume.not_mirrored().get(KEY, ""))
        assert pair.cache.native.held() == PAGE
        gate.open()
        pair.caught_up()
        assert pair.cache.native.held() == 0
        assert KEY not in pair.mirror.objects


# -- the end


def test_close_does_not_wait_longer_than_asked_for_a_mirror_that_hangs(clock: HandClock) -> None:
    """Memory that it may still touch stays; what waits behind the call is listed. [T-34]"""
    store, copy = RecordingBackend(), RecordingBackend()
    gate = copy.gate("write_from")
    cache = PageCache("1MiB", **QUIET)
    volume = cache.attach(store, mirror=copy)
    write(volume, KEY, b"a" * PAGE)
    gate.wait_entered()
    write(volume, "behind", b"b")
    closing = Task(cache.close, timeout=60.0)
    assert closing.waits()
    clock.advance(60.0)  # the time also passes the deadlines of all retries
    eventually(lambda: "behind" in volume.not_mirrored())
    clock.advance(60.0)
    closing.result()
    gate.open()
    eventually(lambda: not [t for t in threading.enumerate() if "-mirror-" in t.name])
    assert "behind" not in copy.objects


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
        raises(error, lambda: cache.attach(MemoryBackend(), mirror=mirror), match=rule)
        same = MemoryBackend()
        raises(ValueError, cache.attach, same, mirror=same, match="second place")
        assert cache.volumes() == ()
