"""Reads: which requests reach the backend, which calls wait for it and which do not."""

from __future__ import annotations

import array
import errno
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType, FunctionType
from typing import Any

import numpy
import pytest

from pagecache import Advice, CachedFile

from ..stores import short
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, no_memory, pattern, raises

CONTENT = pattern(16 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT})


def test_a_page_is_read_from_the_backend_once(stored: Rig) -> None:
    """The second read of the same bytes is a hit, by any handle of the file. [2.2, 2.20]"""
    file = stored.open("rb")
    assert file.pread(100, 50) == CONTENT[50:150]
    other = stored.open("rb")
    stored.backend.forget_calls()
    for handle in (file, other):
        assert handle.pread(PAGE, 0) == CONTENT[:PAGE]
        assert handle.pread(1, PAGE - 1) == CONTENT[PAGE - 1 : PAGE]
    assert stored.backend.calls == []


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


def test_without_read_ahead_only_the_wanted_pages_are_read(stored: Rig) -> None:
    """`read_ahead=0` reads only the requested pages. [2.6]"""
    stored.open("rb").pread(3, 5 * PAGE - 1)
    assert all(
        offset >= 4 * PAGE and offset + length <= 6 * PAGE for offset, length in stored.backend.spans("read_into")
    )


def test_a_read_of_nothing_makes_no_call(stored: Rig) -> None:
    """Zero-length operations succeed and touch nothing. [2.1]"""
    file = stored.open("rb")
    stored.backend.forget_calls()
    assert file.pread(0, 0) == b""
    assert file.pread_into(bytearray(), 0) == 0
    assert file.preadv([], 0) == 0
    assert file.preadv([bytearray(), bytearray()], 5) == 0
    assert stored.backend.calls == []


@pytest.mark.parametrize("offset", [0, 1, PAGE - 3, 15 * PAGE + 5, 16 * PAGE - 1, 16 * PAGE])
def test_pread_into_fills_any_buffer_and_leaves_the_rest_alone(stored: Rig, offset: int) -> None:
    """Buffer bytes beyond the end of the file keep their content. [2.5]"""
    file = stored.open("rb")
    wanted = CONTENT[offset : offset + 8000]
    buffers: list[Any] = [
        bytearray(b"\xaa" * 8000),
        array.array("q", [-1] * 1000),
        numpy.full((10, 100), 0xAA, dtype="u8"),
    ]
    for buffer in buffers:
        before = bytes(memoryview(buffer).cast("B"))
        assert file.pread_into(buffer, offset) == len(wanted)
        assert bytes(memoryview(buffer).cast("B")) == wanted + before[len(wanted) :]


def test_sequential_reading_asks_for_windows_not_pages(make: Make) -> None:
    """1 MiB in pieces of one page takes a small number of backend calls, none beyond the end of the file. [2.6]"""
    content = pattern(256 * PAGE - 100)
    rig, file = make({KEY: content}, options={"read_ahead": "256KiB"}).opened("rb")
    pieces = [file.pread(PAGE, offset) for offset in range(0, len(content), PAGE)]
    assert b"".join(pieces) == content
    assert len(rig.backend.spans("read_into")) <= 24
    assert all(offset + length <= len(content) for offset, length in rig.backend.spans("read_into"))
    assert sum(length for _offset, length in rig.backend.spans("read_into")) == len(content)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_read": "4KiB"},
        {"max_read": "64KiB"},
        {"max_read": 10_000},
        {"max_vectors": 1},
        {"max_vectors": 3},
        {"boundary": "16KiB"},
        {"boundary": "16KiB", "max_read": 12_288},
        {"read_unit": 512},
        {"read_unit": 65_536},
        {"max_inflight": 1},
    ],
    ids=str,
)
def test_reads_keep_the_limits_of_the_backend(make: Make, limits: dict[str, int]) -> None:
    """Fills and readahead are cut to the backend's limits; the recorder notes every breach. [2.3, 2.26]"""
    content = pattern(100 * PAGE + 1234)
    rig, file = make({KEY: content}, limits=limits, options={"read_ahead": "64KiB"}).opened("rb")
    assert file.pread(1 << 20, 0) == content
    rig.volume.drop_clean()
    rng = random.Random(1)
    for _ in range(50):
        offset, length = rng.randrange(len(content)), rng.randrange(40_000)
        assert file.pread(length, offset) == content[offset : offset + length]
    assert rig.backend.violations == []


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("max_vectors", [1, 2])
@pytest.mark.parametrize("read_unit", [500, 1000, 10_000])
@pytest.mark.parametrize("limits", [{}, {"write_unit": 6000, "max_write": 600_000}], ids=str)
def test_parts_of_read_units_keep_the_number_of_buffers(
    make: Make, limits: dict[str, int], read_unit: int, max_vectors: int, keeps: bool
) -> None:
    """The surplus of a read unit has no buffer of its own; written bytes have missing neighbours. A backend with one
    buffer for each call may store into the buffers of reads that have ended. [M2, 2.1.3, 2.3, 2.26]
    """
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
        file.fsync()
        assert rig.backend.committed(KEY) == bytes(content)
        rig.volume.drop_clean()
    assert rig.backend.violations == []
    rig.backend.faults.clear()
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


def test_readers_of_one_missing_page_share_one_fill(stored: Rig) -> None:
    """A reader that finds the page in flight waits for it instead of reading it again. [2.3]"""
    file = stored.open("rb")
    gate, first = at_gate(stored.backend.gate("read_into"), file.pread, PAGE, 0)
    others = [Task(file.pread, 100, 10 * i) for i in range(4)]
    assert all(other.waits(0.02) for other in others)
    assert first.result(opening=gate) == CONTENT[:PAGE]
    assert [other.result() for other in others] == [CONTENT[10 * i : 10 * i + 100] for i in range(4)]
    assert len(stored.backend.spans("read_into")) == 1


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
    file.fsync()
    assert stored.backend.committed(KEY) == bytes(expected)[: file.size]


def test_a_transient_error_is_tried_again_within_the_read(stored: Rig) -> None:
    """EIO twice, then data: the reader sees the data. [2.3, 2.14]"""
    stored.backend.fault("read_into", OSError(errno.EIO, "flaky"), times=2)
    assert stored.open("rb").pread(PAGE, 0) == CONTENT[:PAGE]
    assert stored.cache.stats().retries >= 2


def test_a_permanent_error_reaches_the_reader_at_once_and_no_other(stored: Rig) -> None:
    """One call, with the backend's errno; a reader that has waited for it tries for itself. [2.3, 2.14]"""
    file = stored.open("rb")
    stored.backend.fault("read_into", PermissionError(errno.EACCES, "not for you"))
    gate, first = at_gate(stored.backend.gate("read_into"), file.pread, PAGE, 0)
    second = Task(file.pread, PAGE, 0)
    assert second.waits(0.02)
    gate.open()
    assert raises(OSError, first.result, match="not for you").errno == errno.EACCES
    assert second.result() == CONTENT[:PAGE]
    assert len(stored.backend.spans("read_into")) == 2


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


def test_reads_go_on_when_all_memory_is_dirty(make: Make) -> None:
    """Nothing free: readers read past the cache, with local bytes laid over. [2.2, T-14]"""
    content = pattern(64 * PAGE)
    rig = make({KEY: content}, capacity="64KiB", dirty_background=0.98, dirty_limit=0.99, throttle_timeout=0.05)
    file = rig.open("r+b")
    expected = bytearray(content)
    with rig.backend.gate("write_from", times=1000):
        for page in range(16):
            try:
                file.pwrite(b"dirty" * 100, page * PAGE)
            except BlockingIOError as error:
                expected[page * PAGE : page * PAGE + error.characters_written] = (b"dirty" * 100)[
                    : error.characters_written
                ]
                break
            expected[page * PAGE : page * PAGE + 500] = b"dirty" * 100
        assert Task(file.pread, len(content), 0).result() == expected


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
    rig, file = make({KEY: b"o" * 3 * PAGE, "other": bytes(16 * PAGE)}, capacity="64KiB").opened()
    file.pwrite(b"n" * PAGE, 2 * PAGE)
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
