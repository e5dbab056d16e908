"""The second stream: one log in the order of the store, applied by one thread. No caller waits for it, and a copy that
may be wrong is removed and listed.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import pagecache
from pagecache import CachedFile, PageCache, RetryPolicy, Volume, loglines
from pagecache.backends import MemoryBackend
from pagecache.engine import mirror
from pagecache.engine.park import NEVER
from pagecache.testing import FaultyBackend, Rule
from pagecache.testing.gate import Gate

from ..stores import RecordingBackend
from .clock import HandClock
from .rig import KEY, PAGE, QUIET, Log, Make, Patch, Task, eventually, pattern, raises

MIB = 1 << 20
SHARE = MIB // 8
BROKEN = OSError(5, "broken")


class Pair:
    """A cache with one volume: a backend and its mirror, both recorded."""

    def __init__(self, make: Make, *, backend: Any = None, mirror: Any = None, **config: Any) -> None:
        self.backend = RecordingBackend(capture=True, **(backend or {}))
        self.mirror = RecordingBackend(capture=True, **(mirror or {}))
        self.mirror.violations = self.backend.violations  # which the rig looks at
        options = {"mirror": self.mirror}
        rig = make(backend=self.backend, capacity=MIB, options=options, max_folio=PAGE, **config)
        self.cache = rig.cache
        self.volume: Any = rig.volume

    def caught_up(self) -> None:
        caught_up(self.volume)


def caught_up(volume: Volume) -> None:
    mirror = volume.engine.mirror
    assert mirror is not None
    eventually(lambda: not mirror.busy())


def write(volume: Volume, key: str, data: bytes) -> None:
    with volume.open(key, "wb") as file:
        file.write(data)
        file.fsync()


def overwrite(file: CachedFile, data: bytes) -> None:
    file.pwrite(data, 0)
    file.fsync()


def contents(store: MemoryBackend | Path) -> dict[Any, bytes]:
    if isinstance(store, Path):
        return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {stat.key: bytes(store.snapshot(stat.key)) for stat in store.list()}


def test_every_byte_reaches_both_under_limits_of_their_own(make: Make) -> None:
    """Requests of the mirror are cut by its own limits and boundaries, and joined up to them. [T-31]"""
    pair = Pair(
        make,
        backend={"max_write": "16KiB", "boundary": "48KiB", "max_inflight": 1},
        mirror={"max_write": "96KiB", "boundary": "80KiB", "max_vectors": 7},
    )
    data, gate = pattern(SHARE), pair.mirror.gate("truncate")
    with pair.volume.open(KEY, "w+b") as file:
        gate.wait_entered()
        overwrite(file, data)
        gate.open()
        pair.caught_up()
        assert (file.stats().cow_copies, file.stats().to_dict()["mirror_bytes"]) == (0, len(data))
    first, second = pair.backend.seen("write_from"), pair.mirror.seen("write_from")
    assert pair.backend.committed(KEY) == pair.mirror.written(KEY) == data
    assert len(second) < len(first)
    for call in second:
        assert call.length <= 96 << 10
        assert call.nr_buffers <= 7
        assert call.offset // (80 << 10) == (call.offset + call.length - 1) // (80 << 10)


@pytest.mark.parametrize("directories", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_objects_follow_their_directory(tmp_path: Path, directories: bool, again: bool) -> None:
    """The mirror may have no directories at all. `again`: another cache has mirrored the objects. [T-31]"""
    store, copy = tmp_path / "store", tmp_path / "copy" if directories else MemoryBackend()
    (store / "d" / "deep").mkdir(parents=True)
    (tmp_path / "copy").mkdir()

    def fill(volume: Volume) -> None:
        for name in ("d/x", "d/deep/y", "dz"):
            write(volume, name, name.encode())

    def move(volume: Volume) -> None:
        with volume.open("d/x", "r+b") as file:
            volume.rename("d", "e")
            overwrite(file, b"moved")

    for changes in [[fill], [move]] if again else [[fill, move]]:
        with PageCache("4MiB", **QUIET) as cache:
            volume = cache.attach(f"dir:{store}", mirror=f"dir:{copy}" if directories else cast(Any, copy))
            for change in changes:
                change(volume)
            caught_up(volume)
            assert volume.not_mirrored() == {}
    assert contents(store) == contents(copy) == {"e/x": b"moved", "e/deep/y": b"d/deep/y", "dz": b"dz"}


def linked(volume: Volume, root: Path, *, emptied: bool = False) -> None:
    """Remove the known name of an object that has two."""
    (root / "y").hardlink_to(root / "d" / "x")
    with volume.open("d/x", "r+b") as file:
        volume.remove("d/x")
        if emptied:
            file.truncate(0)
        overwrite(file, b"TWO")


def named_anew(volume: Volume, root: Path) -> None:
    linked(volume, root)
    write(volume, "y", b"three")


def removed_by_a_link(volume: Volume, root: Path) -> None:
    (root / "l").symlink_to("d")
    volume.remove("l/x")


def replaced_in_the_store(volume: Volume, root: Path) -> None:
    (root / "y").write_bytes(b"another")
    (root / "y").replace(root / "d" / "x")
    with volume.open("d/x", "r+b") as file:
        overwrite(file, b"A")


@pytest.mark.parametrize(
    ("change", "mirrored"),
    [
        (linked, {}),
        (partial(linked, emptied=True), {}),
        (named_anew, {"y": b"three"}),
        (removed_by_a_link, {}),
        (replaced_in_the_store, {}),
    ],
)
def test_an_object_whose_name_is_lost_in_another_way_is_listed(
    tmp_path: Path, change: Callable[[Volume, Path], None], mirrored: dict[str, bytes]
) -> None:
    """The mirror has one name of an object, which goes; later bytes do not bring it back. [T-34]"""
    (tmp_path / "d").mkdir()
    copy = MemoryBackend()
    with PageCache("4MiB", **QUIET) as cache:
        volume = cache.attach(f"dir:{tmp_path}", mirror=copy)
        write(volume, "d/x", b"one")
        change(volume, tmp_path)
        caught_up(volume)
        assert (contents(copy), list(volume.not_mirrored())) == (mirrored, ["d/x"])


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("broken", [True, False])
def test_random_work_leaves_two_equal_stores(behind: bool, broken: bool) -> None:
    """What differs is listed. `behind`: the mirror is at the first object until all is done. [T-31, T-34]"""
    for seed in range(10):
        rng, store, copy = random.Random(seed), MemoryBackend(), MemoryBackend()
        late = FaultyBackend(copy)
        calls = ["open", "write", "truncate", "commit", "rename"] if broken else []
        faults = [Rule(cast(Any, call), nth=rng.randrange(1, 40), error=OSError(5, "broken")) for call in calls]
        with PageCache("512KiB", dirty_expire=0.01, flush_interval=0.005) as cache, Gate() as gate:
            volume = cache.attach(store, mirror=late)
            late.use([*faults, Rule("write", nth=1, gate=gate)] if behind else faults)
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
            mirror = volume.engine.mirror
        assert mirror is not None
        lost = mirror.not_mirrored()
        assert contents(copy) == {key: data for key, data in contents(store).items() if key not in lost}


Event = Callable[[Pair, CachedFile], object]


def failing(op: str, error: Any = BROKEN) -> Event:
    return lambda pair, _file: pair.mirror.fault(op, error)


def closed(pair: Pair, file: CachedFile) -> None:
    """Let the mirror close an object that it has not used for long, after a commit."""
    pair.mirror.fault("commit", BROKEN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pagecache.engine.mirror.OPEN_MAX", 0)
        file.pwrite(b"x", 0)
        file.flush()
        pair.caught_up()


def discarded(pair: Pair, file: CachedFile) -> None:
    file.pwrite(b"local", 2)
    pair.volume.discard(KEY)
    raises(pagecache.DataLossError, file.fsync)


def direct(pair: Pair, _file: CachedFile) -> None:
    with pair.volume.open(KEY, "r+b", direct=True) as other:
        other.pwrite(b"direct", 0)


def replaced(pair: Pair) -> Pair:
    """Have another program store a version, and return the pair."""
    pair.backend.change_remotely(KEY, b"other" * PAGE)
    return pair


def poor(_pair: Pair, file: CachedFile) -> None:
    """Let one request find no memory for the mirror."""

    def refused() -> bytearray:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mirror, "bytearray", refused, raising=False)
        overwrite(file, b"poor")


def in_log(pair: Pair) -> int:
    """Return the bytes that the mirror has still to send."""
    mirror = pair.volume.engine.mirror
    assert mirror is not None
    return int(mirror._logs.add(0))


def crowded(pair: Pair, file: CachedFile) -> None:
    """Let a mirror hang that holds its share of memory. Writers go on."""
    gate = pair.mirror.gate("write_from", times=100)
    for i in range(4):
        Task(overwrite, file, pattern(SHARE, i)).result()
    assert in_log(pair) <= 2 * SHARE
    gate.open()
    pair.caught_up()
    assert in_log(pair) == 0


def crowded_with_sizes(pair: Pair, file: CachedFile) -> None:
    """Let a mirror hang while sizes change, which hold no memory of the cache."""
    gate = pair.mirror.gate("truncate")
    for turn in range(8):
        file.truncate(PAGE * (turn % 2 + 1))
        gate.wait_entered()  # from now on it hangs
    gate.open()
    pair.caught_up()


def late(pair: Pair, file: CachedFile) -> None:
    """Let a call pass its deadline: only its return frees its memory."""
    gate = pair.mirror.gate("write_from")
    overwrite(file, b"l" * PAGE)
    gate.wait_entered()
    pair.cache.configure(retry=RetryPolicy(deadline=0.05))  # wakes the flusher, which waits for the deadline
    eventually(lambda: KEY in pair.volume.not_mirrored())
    assert in_log(pair) == PAGE
    gate.open()
    pair.caught_up()
    assert in_log(pair) == 0


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (failing("write_from"), "broken"),
        (failing("write_from", RuntimeError("odd")), "odd"),
        (failing("write_from", lambda *_: -1), "write_from answered -1 for"),
        (failing("write_from", lambda *_: None), "write_from answered None for"),
        (failing("commit"), "broken"),
        (lambda pair, file: (pair.mirror.fault("truncate", BROKEN), file.truncate(5 * PAGE)), "broken"),
        (closed, "broken"),
        (discarded, "local data was given up"),
        (direct, "a direct write"),
        (lambda pair, _: replaced(pair).volume.invalidate_remote(KEY), "another writer"),
        (lambda pair, _: replaced(pair).volume.open(KEY).close(), "another writer"),
        (poor, "no memory"),
        (crowded, "share of memory"),
        (crowded_with_sizes, "more than 5 steps"),
        (late, "longer than"),
    ],
)
def test_a_copy_that_is_given_up_is_removed_and_listed_until_its_object_begins_anew(
    make: Make, event: Event, why: str, monkeypatch: Patch
) -> None:
    """The store has every byte; later writes do not bring the copy back. [2.10, T-34]"""
    pair = Pair(make)
    monkeypatch.setattr(mirror, "STEPS_MAX", 5)
    with pair.volume.open(KEY, "w+b") as file:
        overwrite(file, b"content" * PAGE)
        pair.caught_up()
        assert KEY in pair.mirror.objects
        event(pair, file)
        for data in (b"two", b"three"):
            file.pwrite(data, PAGE)
            file.fsync()
            pair.caught_up()
            assert KEY not in pair.mirror.objects
            assert why in pair.volume.not_mirrored()[KEY]
        assert pair.volume.failed() == []
        assert (pair.backend.committed(KEY) or b"")[PAGE : PAGE + 5] == b"three"
        file.truncate(0)
        overwrite(file, b"anew")
        pair.caught_up()
        assert pair.mirror.written(KEY) == pair.backend.committed(KEY) == b"anew"
        assert pair.volume.not_mirrored() == {}


def test_the_mirrors_of_a_cache_share_one_part_of_its_memory() -> None:
    """The log that takes more gives its copy up, and the other one stays. [2.13]"""
    mirrors = RecordingBackend(), RecordingBackend()
    with PageCache(MIB) as cache:
        volumes = [cache.attach(RecordingBackend(), mirror=mirror) for mirror in mirrors]
        for mirror in mirrors:
            mirror.gate("write_from", times=100)
        for volume in volumes:
            write(volume, KEY, pattern(SHARE * 3 // 4))
        assert volumes[0].not_mirrored() == {}
        assert "share of memory" in volumes[1].not_mirrored()[KEY]
        for mirror in mirrors:
            mirror.open_all_gates()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_rename_that_fails_in_the_mirror_leaves_neither_name(make: Make, hangs: bool) -> None:
    """One that passes its deadline counts as failed, though it is carried out. [T-34]"""
    pair = Pair(make, retry=RetryPolicy(deadline=0.05))
    write(pair.volume, "old", b"bytes")
    write(pair.volume, "new", b"others")
    pair.caught_up()
    if hangs:
        pair.mirror.gate("rename")
    else:
        pair.mirror.fault("rename", BROKEN)
    pair.volume.rename("old", "new")
    eventually(lambda: list(pair.volume.not_mirrored()) == ["new"])
    pair.mirror.open_all_gates()
    pair.caught_up()
    assert (list(pair.mirror.objects), list(pair.volume.not_mirrored())) == ([], ["new"])


@pytest.mark.parametrize("error", [io.UnsupportedOperation("remove"), PermissionError(13, "no")])
def test_a_copy_that_cannot_be_removed_is_emptied_or_named(make: Make, error: OSError, caplog: Log) -> None:
    """Whatever its own file does at the end; a new object of that name is mirrored all the same. [T-34]"""
    pair = Pair(make)
    write(pair.volume, KEY, b"content")
    pair.caught_up()
    gate = pair.mirror.gate("remove")
    pair.mirror.fault("remove", error)
    pair.mirror.fault("file_close", RuntimeError("not now"))
    pair.mirror.fault("write_from", BROKEN)
    with pair.volume.open(KEY, "r+b") as file:
        overwrite(file, b"more")
    gate.wait_entered()
    assert pair.volume.engine.mirror.busy()
    gate.open()
    pair.caught_up()
    loglines.outlast(20.0)
    named = "cannot be removed" in caplog.text
    assert (pair.mirror.written(KEY) == b"") is not named
    assert named is isinstance(error, PermissionError)
    write(pair.volume, KEY, b"new")
    pair.caught_up()
    assert (pair.mirror.written(KEY), pair.volume.not_mirrored()) == (b"new", {})


def held(**config: Any) -> tuple[PageCache, Volume, RecordingBackend, Any]:
    """Return a cache and a volume, whose mirror has two objects to write, and hangs in the first."""
    copy = RecordingBackend()
    gate = copy.gate("write_from")
    cache = PageCache("1MiB", **QUIET, **config)
    volume = cache.attach(RecordingBackend(), mirror=copy)
    write(volume, KEY, b"a" * PAGE)
    gate.wait_entered()
    write(volume, "behind", b"b")
    return cache, volume, copy, gate


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_close_lets_a_slow_mirror_catch_up_until_its_timeout(clock: HandClock, timeout: float | None) -> None:
    cache, volume, copy, gate = held()
    closing = Task(cache.close, timeout=timeout)
    assert closing.waits()
    clock.advance(5.0)
    assert closing.waits()
    assert closing.result(opening=gate) == []
    assert (volume.not_mirrored(), [*copy.objects], copy.closed) == ({}, [KEY, "behind"], True)


def test_what_a_slow_mirror_has_too_much_is_removed_before_the_end_of_close(
    clock: HandClock, monkeypatch: Patch
) -> None:
    """Its calls return after the timeout. [T-34]"""
    monkeypatch.setattr(mirror, "MOMENT", 60.0)
    cache, volume, copy, gate = held()
    closing = Task(cache.close, timeout=60.0)
    assert closing.waits()
    clock.advance(60.0)
    eventually(lambda: {*volume.not_mirrored()} == {KEY, "behind"})
    assert closing.waits(0.5)
    closing.result(opening=gate)
    assert ([*copy.objects], copy.closed) == ([], True)


@pytest.mark.parametrize("deadline", [0.05, None])
def test_a_close_without_a_timeout_ends_though_a_mirror_hangs(deadline: float | None, monkeypatch: Patch) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", 0.05)
    cache, volume, _, gate = held(retry=RetryPolicy(deadline=deadline))
    assert Task(cache.close).result() == []
    assert {*volume.not_mirrored()} == {KEY, "behind"}
    gate.open()


def test_names_that_a_mirror_has_no_time_to_remove_are_logged(
    clock: HandClock, monkeypatch: Patch, caplog: Log
) -> None:
    """Its call ends in time, but the next would not; then its backend is closed. [T-34]"""
    cache, volume, copy, gate = held()
    volume.rename("behind", "elsewhere")
    monkeypatch.setattr(mirror, "MOMENT", 0.0)
    outlast = mirror.Mirror._outlast

    def opening(self: Any, deadline: Any) -> None:
        if not self._log and self.busy():  # of the call that runs
            gate.open()
            deadline = NEVER
        outlast(self, deadline)

    monkeypatch.setattr(mirror.Mirror, "_outlast", opening)
    closing = Task(cache.close, timeout=60.0)
    assert closing.waits()
    clock.advance(60.0)
    closing.result()
    loglines.outlast(20.0)
    assert f"the volume ended before 3 names were removed there: 'behind', 'elsewhere', {KEY!r}; " in caplog.text
    eventually(lambda: copy.closed)


def test_close_does_not_wait_longer_than_asked_for_a_mirror_that_hangs(clock: HandClock, caplog: Log) -> None:
    """Memory that it may still touch stays; what waits behind the call is listed. [T-34]"""
    cache, volume, copy, gate = held()
    closing = Task(cache.close, timeout=60.0)
    assert closing.waits()
    clock.advance(60.0)  # the time also passes the deadlines of all retries
    eventually(lambda: {*volume.not_mirrored()} == {KEY, "behind"})
    closing.result()
    loglines.outlast(20.0)
    assert f"before 2 names were removed there: 'behind', {KEY!r}; they have to be removed by hand" in caplog.text
    gate.open()
    eventually(lambda: not [thread for thread in threading.enumerate() if "-mirror" in thread.name])
    assert (list(copy.objects), copy.closed) == ([], True)
