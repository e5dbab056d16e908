"""Reads: which requests reach the backend, which calls wait for it and which do not, and which clean pages stay when
more is read than fits.

try_pread and try_pwrite answer at once from memory. They return None, and do nothing, if they would wait or call the
backend.
"""

from __future__ import annotations

import errno
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import FrameType, FunctionType
from typing import Any

import pytest

import pagecache
from pagecache import Advice, CachedFile, PageCache, Volume
from pagecache.config import Policy

from ..stores import short
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, eventually, no_memory, pattern, raises

CONTENT = pattern(16 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT})


def entered(*calls: Callable[[], object]) -> list[str]:
    """Make the calls, and return the files of the Python functions that they enter, the given ones aside."""
    codes = {call.__code__ for call in calls if isinstance(call, FunctionType)}
    files: list[str] = []

    def profiler(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code not in codes:
            files.append(frame.f_code.co_filename)

    sys.setprofile(profiler)
    try:
        for call in calls:
            call()
    finally:
        sys.setprofile(None)
    return files


def test_a_hit_runs_no_python_code(file: CachedFile) -> None:
    """One C call: the profiler sees no frame but that of the loop itself. [2.2]"""
    buffer = bytearray(100)
    file.pread(PAGE, 0)
    assert not entered(
        lambda: file.pread(100, 10),
        lambda: file.pread_into(buffer, 10),
        lambda: file.try_pread(100, 10),
        lambda: file.pwrite(b"written", 10),
        lambda: file.try_pwrite(b"written", 10),
        lambda: file.read(100),
        lambda: file.readinto(buffer),
        lambda: file.write(b"written"),
    )


def test_a_plain_miss_runs_no_python_code_but_the_backends(stored: Rig) -> None:
    """C calls read_into itself; the engine is entered only for failures. [2.3]"""
    file = stored.open("rb")
    files = entered(lambda: file.pread(PAGE, 2 * PAGE))
    assert len(stored.backend.seen("read_into")) == 1
    assert not [name for name in files if "/pagecache/engine/" in name]


def test_a_read_of_nothing_makes_no_call(stored: Rig) -> None:
    """Zero-length operations succeed and touch nothing. [2.1]"""
    file = stored.open("rb")
    stored.backend.forget_calls()
    assert file.pread(0, 0) == b""
    assert file.pread_into(bytearray(), 0) == 0
    assert file.preadv([], 0) == 0
    assert file.preadv([bytearray(), bytearray()], 5) == 0
    assert stored.backend.calls == []


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("max_vectors", [1, 2])
@pytest.mark.parametrize("read_unit", [500, 1000, 10_000])
@pytest.mark.parametrize("limits", [{}, {"write_unit": 6000, "max_write": 600_000}], ids=str)
def test_parts_of_read_units_keep_the_number_of_buffers(
    make: Make, limits: dict[str, int], read_unit: int, max_vectors: int, keeps: bool
) -> None:
    """The surplus of a read unit has no buffer of its own; a backend may keep the buffers. [M2, 2.1.3, 2.3, 2.26]"""
    content = bytearray(pattern(40 * PAGE + 1234))
    units = {"read_unit": read_unit, "max_read": 60_000, "max_vectors": max_vectors}
    rig, file = make({KEY: bytes(content)}, limits=limits | units | ({"max_inflight": 1} if keeps else {})).opened()
    kept: list[memoryview] = []

    def scribbled(call: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        answer = call.fill(offset, buffers)
        for buffer in kept:
            buffer[:] = bytes([0xEE]) * len(buffer)
        kept.extend(buffer[:] for buffer in buffers)
        return int(answer)

    if keeps:
        rig.backend.fault("read_into", scribbled, times=math.inf)
    for _ in range(2):
        for offset in range(1000, len(content) - 700, 3 * PAGE + 500):
            content[offset : offset + 700] = b"x" * 700
            file.pwrite(b"x" * 700, offset)
            start = max(offset - 5000, 0)
            assert file.pread(9000, start) == content[start : start + 9000]
        assert file.pread(len(content), 0) == content
        file.pwrite(b"unread", 20 * PAGE + 77)
        content[20 * PAGE + 77 : 20 * PAGE + 83] = b"unread"
        assert rig.saved(file) == bytes(content)
        rig.volume.drop_clean()
    kept.clear()


@pytest.mark.parametrize("limits", [{}, {"read_unit": 512}, {"prompt": True}], ids=str)
def test_reads_past_the_cache_keep_the_boundary(make: Make, limits: dict[str, Any]) -> None:
    """Views pin all memory: a read goes past the cache, on a thread of the volume or its own. [2.2, 2.26, T-14]"""
    content = pattern(64 * PAGE)
    rig = make({KEY: content}, limits={"boundary": "8KiB", **limits}, capacity=16 * PAGE)
    with no_memory(rig, key=KEY):
        assert rig.open("rb").pread(50_000, 100_000) == content[100_000:150_000]
        assert rig.cache.stats().pinned == 16 * PAGE


@pytest.mark.parametrize("step", [lambda n: 1 + n // 3, lambda n: max(n - 1, 1), lambda n: min(n, 777)])
def test_short_answers_are_asked_again_for_the_rest(make: Make, step: Callable[[int], int]) -> None:
    """Random offsets with a backend whose every read is short. [T-54, 2.3]"""
    content = pattern(20 * PAGE + 77)
    rig = make({KEY: content}, options={"read_ahead": "32KiB"}, capacity="64KiB")
    rig.backend.fault("read_into", short(step), times=float("inf"))
    file = rig.open("rb")
    rng = random.Random(2)
    for _ in range(150):
        offset, length = rng.randrange(len(content)), rng.randrange(3 * PAGE)
        assert file.pread(length, offset) == content[offset : offset + length]


@pytest.mark.parametrize("fails", [False, True])
def test_readers_of_one_missing_page_share_one_fill(stored: Rig, fails: bool) -> None:
    """A reader waits for the page in flight. A permanent error is raised at once to one: the next reads. [2.3, 2.14]"""
    file = stored.open("rb")
    if fails:
        stored.backend.fault("read_into", PermissionError(errno.EACCES, "not for you"))
    gate, first = at_gate(stored.backend.gate("read_into"), file.pread, PAGE, 0)
    others = [Task(file.pread, 100, 10 * i) for i in range(4)]
    assert all(other.waits(0.02) for other in others)
    gate.open()
    if fails:
        assert raises(OSError, first.result, match="not for you").errno == errno.EACCES
    else:
        assert first.result() == CONTENT[:PAGE]
    assert [other.result() for other in others] == [CONTENT[10 * i : 10 * i + 100] for i in range(4)]
    assert len(stored.backend.spans("read_into")) == 1 + fails


@pytest.mark.parametrize("op", ["read_into", "write_from", "commit", "truncate"])
def test_a_reader_of_a_valid_page_never_waits(stored: Rig, file: CachedFile, op: str) -> None:
    """Other pages may be filled or cut off, its own be in any state. [T-06, 2.2, 2.17]"""
    file.pwrite(b"one" * 1000, 100)
    file.pread(PAGE, 0)
    calls: dict[str, Callable[[], object]] = {
        "read_into": lambda: file.pread(PAGE, 8 * PAGE),
        "truncate": lambda: file.truncate(12 * PAGE),
    }
    gate, other = at_gate(stored.backend.gate(op), calls.get(op, file.fsync))
    expected = bytearray(CONTENT)
    expected[100:3100] = b"one" * 1000
    assert Task(file.pread, PAGE, 0).result() == expected[:PAGE]
    if op != "truncate":
        file.pwrite(b"two", 200)
        expected[200:203] = b"two"
    assert Task(stored.open("rb").pread, PAGE, 0).result() == expected[:PAGE]
    assert other.waits(0.02)
    other.result(opening=gate)
    assert stored.saved(file) == bytes(expected)[: file.size]


@pytest.mark.parametrize("block", [PAGE, 20_000, 65_536, 3 << 18], ids=str)
def test_a_file_larger_than_the_cache_is_read_in_order_once(make: Make, block: int) -> None:
    """An unread readahead folio stays until its reader arrives, however long the reads. [2.6, 2.23]"""
    content = pattern(32 << 20)
    rig = make({KEY: content}, capacity="8MiB", limits={"max_read": "512KiB"}, options={"read_ahead": "8MiB"})
    file = rig.open("rb")
    for _ in range(3):
        rig.backend.forget_calls()
        for offset in range(0, len(content), block):
            assert file.pread(block, offset) == content[offset : offset + block]
        again = sum(length for _offset, length in rig.backend.spans("read_into")) - len(content)
        assert again <= len(content) // 100
        file.advise(Advice.DONTNEED)


@pytest.mark.parametrize(("before", "after"), [(512, 1), (1, 512)])
def test_a_read_past_the_cache_is_of_the_limits_that_it_began_with(make: Make, before: int, after: int) -> None:
    """Another read unit is set while it runs. Without the fix, bytes of another place came out. [2.2, 2.26, I-17]"""
    content = pattern(3 * PAGE)
    rig, file = make({KEY: content, "other": bytes(16 * PAGE)}, capacity="64KiB", limits={"read_unit": before}).opened()
    with no_memory(rig):
        gate, reading = at_gate(rig.backend.gate("read_into", KEY), file.pread, 1000, 700)
        rig.backend.limits = replace(rig.backend.limits, read_unit=after)
        file.fsync()  # checks them
        assert reading.result(opening=gate) == content[700:1700]
        rig.backend.violations.clear()  # earlier requests are no multiples of today's unit


def test_a_read_past_the_cache_does_not_miss_bytes_that_are_stored_and_dropped_beside_it(make: Make) -> None:
    """They were dirty when the backend read, dropped when it answered. [2.2, 2.5, I-17]"""
    rig, file = make({KEY: b"o" * 3 * PAGE, "other": bytes(16 * PAGE)}, capacity="64KiB").written(b"n" * PAGE, 2 * PAGE)
    with no_memory(rig, 15):
        gate, task = at_gate(rig.backend.gate("read_into answer", KEY), file.pread, 2 * PAGE, PAGE)
        file.fsync()
        assert rig.volume.drop_clean(KEY) == PAGE
        assert task.result(opening=gate) == b"o" * PAGE + b"n" * PAGE


@pytest.mark.parametrize("times", [1, 99])
def test_a_read_past_the_cache_survives_a_failing_call(make: Make, times: int) -> None:
    """The call is made again, or its error raised; a buffer that the backend keeps is revoked. [2.2, 2.14, 2.1]"""
    rig, file = make({KEY: pattern(3 * PAGE), "other": bytes(16 * PAGE)}, capacity="64KiB").opened("rb")
    with no_memory(rig):
        fault = rig.backend.fault("read_into", OSError(errno.EIO, "a moment"), key=KEY, times=times)
        rig.backend.keep_buffers = []
        if times == 1:
            assert file.pread(PAGE, PAGE) == pattern(3 * PAGE)[PAGE : 2 * PAGE]
        else:
            raises(OSError, file.pread, PAGE, PAGE, match="a moment")
        assert fault.nr_hit == min(times, 3)
        assert rig.cache.stats().pinned == 16 * PAGE
        rig.backend.keep_buffers = None


MIB = 1 << 20


def refused(rig: Rig, file: CachedFile, data: bytes, offset: int) -> bool:
    """Return whether try_pwrite answered None without dirtying or extending anything and without a backend call."""
    rig.backend.forget_calls()
    before = rig.volume.dirty_ranges(KEY), file.size
    answer = file.try_pwrite(data, offset)
    assert answer in (None, len(data))
    if answer is None:
        assert (rig.volume.dirty_ranges(KEY), file.size) == before
        assert rig.backend.calls == []
    return answer is None


def test_all_or_nothing_where_a_page_is_being_filled(stored: Rig, file: CachedFile) -> None:
    """Pages before the one that a fill has locked are not touched; that one cannot be read yet. [2.5, 2.7]"""
    with stored.backend.gate("read_into") as gate:
        _, reader = at_gate(gate, file.pread, 10, 2 * PAGE)
        assert refused(stored, file, b"x" * 3 * PAGE, 0)
        assert refused(stored, file, b"x" * PAGE, 2 * PAGE)
        assert file.try_pread(10, 2 * PAGE) is None
        assert file.try_pwrite(b"y" * 2 * PAGE, 3 * PAGE) == 2 * PAGE  # beside it there is no obstacle
    assert reader.result() == CONTENT[2 * PAGE : 2 * PAGE + 10]
    assert file.pread(3 * PAGE, 0) == CONTENT[: 3 * PAGE]
    assert file.try_pwrite(b"x" * 3 * PAGE, 0) == 3 * PAGE


def test_a_refused_write_keeps_no_pass_away(make: Make) -> None:
    """No later write waits after a None: dirty bytes beside those in flight are written back in time. [2.7, 2.11]"""
    rig, file = make({KEY: CONTENT}, cow_limit=0).opened("r+b")
    file.prefetch(0, 8 * PAGE, wait=True)  # one folio
    file.pwrite(b"first", 0)
    with rig.backend.gate("write_from") as gate:
        _, flushed = at_gate(gate, file.flush)
        file.pwrite(b"beside", PAGE)
        assert refused(rig, file, b"x", 0)
    rig.cache.configure(dirty_background=0, flush_interval=0.01)
    eventually(lambda: rig.backend.written(KEY)[PAGE : PAGE + 6] == b"beside")
    flushed.result()


@pytest.mark.parametrize("free", [0, 2])
def test_where_too_little_memory_is_free(make: Make, free: int) -> None:
    """The rest is pinned: nothing could be evicted without waiting. Pages taken for a part are free again. [2.7]"""
    rig, file = make({KEY: CONTENT, "other": pattern(16 * PAGE)}, capacity=16 * PAGE).opened()
    with no_memory(rig, 16 - free):
        for offset in (0, 5):
            assert refused(rig, file, b"x" * (free + 1) * PAGE, offset)
        if free:
            assert file.try_pwrite(b"x" * free * PAGE, 0) == free * PAGE
    assert file.try_pwrite(b"x" * 3 * PAGE, 0) == 3 * PAGE


def test_where_a_writer_is_slowed_down(make: Make) -> None:
    """Above the midpoint of the dirty budget every writer pauses. [2.7, 2.24]"""
    rig = make({KEY: CONTENT}, capacity=64 * PAGE, dirty_background=8 * PAGE, dirty_limit=16 * PAGE)
    rig.backend.gate("write_from", times=100)
    file = rig.open("r+b")
    taken = 0
    while taken < 64 and file.try_pwrite(b"x" * PAGE, taken * PAGE) == PAGE:
        taken += 1
    assert 0 < taken <= 16
    assert file.try_pwrite(b"x" * PAGE, taken * PAGE) is None
    rig.backend.open_all_gates()
    file.fsync()
    assert file.try_pwrite(b"x" * PAGE, taken * PAGE) == PAGE


def test_a_long_write_and_one_through_the_cache_are_more_than_it_tries(make: Make) -> None:
    """4 MiB is the largest piece that no other write can split; a write-through waits for the backend. [2.7, 2.8]"""
    rig, file = make(capacity="32MiB").opened("w+b")
    assert refused(rig, file, bytes(4 * MIB + 1), 0)
    assert file.try_pwrite(bytes(4 * MIB), 3) == 4 * MIB
    through = rig.open("r+b", write_through=True)
    file.fsync()
    assert refused(rig, through, b"x", 0)
    assert through.try_pwrite(b"", 0) == 0


def test_a_file_with_failed_data(make: Make) -> None:
    """A write might raise its error, or send it again. [2.16]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), times=float("inf"))
    file.pwrite(b"x", 0)
    raises(pagecache.WritebackError, file.flush)
    assert refused(rig, file, b"y", PAGE)
    rig.backend.clear_faults()
    rig.volume.retry_failed()
    file.flush()
    assert file.try_pwrite(b"y", PAGE) == 1


def test_growing_beyond_a_short_unit(make: Make) -> None:
    """The unit of the old end has to be sent again, and its last byte is not cached: it would be read. [2.12]"""
    rig, file = make({KEY: CONTENT[: 5 * PAGE + 100]}, limits={"write_unit": 4 * PAGE}).opened("r+b")
    assert refused(rig, file, b"x" * 2 * PAGE, 9 * PAGE)
    file.pread(1, 5 * PAGE + 99)
    assert file.try_pwrite(b"x" * 2 * PAGE, 9 * PAGE) == 2 * PAGE
    file.fsync()
    assert rig.backend.written(KEY) == CONTENT[: 5 * PAGE + 100].ljust(9 * PAGE, b"\0") + b"x" * 2 * PAGE


def test_a_write_that_never_succeeds_is_an_error(stored: Rig, file: CachedFile) -> None:
    """None would send the caller to a pwrite that raises, so it raises itself. [2.1, 2.7]"""
    caught = raises(OSError, file.try_pwrite, b"xx", 2**63 - 2, match="beyond 2")
    assert (caught.errno, caught.filename) == (errno.EFBIG, KEY)
    stored.volume.abort(OSError("gone"))
    raises(pagecache.ShutdownError, file.try_pwrite, b"x", 0, match="gone")


def test_a_read_that_is_valid_in_part(file: CachedFile) -> None:
    """All requested bytes, up to the end of the file, or nothing. [2.5]"""
    file.pwrite(b"local", 100)
    assert file.try_pread(5, 100) == b"local"
    assert file.try_pread(6, 100) is None
    file.pread(PAGE, 15 * PAGE)
    assert file.try_pread(10 * PAGE, 15 * PAGE) == CONTENT[15 * PAGE :]
    assert file.try_pread(0, 0) == b""
    assert file.try_pread(2**40, 2**50) == b""


def test_reading_ahead_goes_on_with_try_pread(make: Make) -> None:
    """A caller that tries first, and then reads the missing bytes, reads as far ahead as one that only reads. [2.6]"""
    content = pattern(256 * PAGE)
    rig, file = make({KEY: content}, options={"read_ahead": "128KiB"}).opened("rb")

    def backend_reads(read: Callable[[int, int], bytes]) -> list[tuple[int, int]]:
        rig.volume.drop_clean()
        rig.backend.forget_calls()
        for offset in range(0, len(content), PAGE):
            assert read(PAGE, offset) == content[offset : offset + PAGE]
            eventually(lambda: rig.cache.stats().to_dict()["requests"] == 0)  # the readahead has arrived
        return rig.backend.spans("read_into")

    misses = 0

    def tried(length: int, offset: int) -> bytes:
        nonlocal misses
        data = file.try_pread(length, offset)
        misses += data is None
        return file.pread(length, offset) if data is None else data

    assert backend_reads(tried) == backend_reads(file.pread)
    assert misses == 1  # the first; all others were readahead hits


PAGES, FIT = 2000, 1000


@pytest.fixture(params=["adaptive", "sticky"])
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    policy: Policy = request.param
    with PageCache(FIT * PAGE, max_folio=PAGE) as cache:
        volume = cache.attach("memory:", read_ahead=0, policy=policy)
        for key, size in (("data", PAGES), ("other", 2 * FIT)):
            with volume.open(key, "w") as file:
                file.write(bytes(size * PAGE))
                file.fsync()
        volume.drop_clean()
        yield volume
        cache.check()


def misses(file: CachedFile, pages: list[int], parts: int = 1) -> int:
    """Read these pages, each by so many reads; return how many of them were not cached."""
    before, size = file.volume.stats().misses, PAGE // parts
    for page in pages:
        for part in range(parts):
            file.pread(size, page * PAGE + part * size)
    return file.volume.stats().misses - before


@pytest.mark.parametrize("parts", [1, 4], ids=["by whole pages", "by parts of pages"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_epochs_over_more_than_fits_hit_what_fits(volume: Volume, shuffled: bool, parts: int) -> None:
    pages, rng = list(range(PAGES)), random.Random(1)
    with volume.open("data") as file:
        for _ in range(4):
            missed = misses(file, rng.sample(pages, PAGES) if shuffled else pages, parts)
    assert PAGES - missed >= 0.95 * FIT


def test_a_part_of_a_page_that_is_read_again_and_again_stays_beside_a_scan(volume: Volume) -> None:
    """Read by one handle, and by nothing else in between: it is no sequential read."""
    if volume.options.policy == "sticky":
        return  # its pages stay once they are there
    with volume.open("data") as file, volume.open("other") as other:
        misses(other, list(range(FIT)))
        for page in range(10):
            for _ in range(4):
                file.pread(100, page * PAGE + 512)
        misses(other, list(range(FIT, 2 * FIT)))
        before = volume.stats().misses
        for page in range(10):
            file.pread(100, page * PAGE + 512)
        assert volume.stats().misses == before


@pytest.mark.parametrize("volume", ["sticky"], indirect=True)
def test_a_sticky_volume_keeps_its_pages_beside_bursts_of_other_reads(volume: Volume) -> None:
    """An adaptive one gives up those that are read once an epoch for those that are read several times at once."""
    with volume.open("data") as file, volume.open("other") as other:
        for _ in range(4):
            misses(file, list(range(PAGES)))
        for first in range(0, FIT, 5):
            for _ in range(5):
                misses(other, list(range(first, first + 5)))
        assert PAGES - misses(file, list(range(PAGES))) >= 0.95 * FIT


def test_volumes_of_both_policies_share_a_cache(volume: Volume) -> None:
    other: Policy = "sticky" if volume.options.policy == "adaptive" else "adaptive"
    beside = volume.cache.attach("memory:", read_ahead=0, policy=other)
    with beside.open("k", "w") as file:
        file.write(bytes(FIT // 2 * PAGE))
        file.fsync()
    with volume.open("data") as file, beside.open("k") as second:
        for _ in range(4):
            misses(file, list(range(PAGES)))
        found = [misses(second, list(range(FIT // 4))) for _ in range(20)]
        assert found[-1] <= FIT // 40
        assert PAGES - misses(file, list(range(PAGES))) >= FIT // 2
