"""Direct reads and writes: which bytes, from where, in which calls, and with which errors."""

from __future__ import annotations

import ctypes
import errno
import io
import mmap
from typing import Any

import numpy
import pytest

from pagecache import BackendError, BackendProtocolError, DeadlockError, PageCache, RetryPolicy
from pagecache.backends import MemoryBackend

from ..stores import WAIT_LIMIT_S, address, short
from .rig import KEY, ONCE, PAGE, Make, Task, accepted_before, at_gate, dirty_bytes, overlay, pattern, raises

DATA = pattern(8 * PAGE)


def test_a_direct_read_sees_a_buffered_write_without_fsync(make: Make) -> None:
    """Local bytes come from memory, the others from the backend, and the read caches nothing. [T-27, 2.9]"""
    rig, file, direct = make({KEY: DATA}).both("rb", direct=True)
    file.pwrite(b"new", PAGE + 100)
    used = rig.cache.stats().used
    assert direct.pread(8 * PAGE, 0) == DATA[: PAGE + 100] + b"new" + DATA[PAGE + 103 :]
    assert rig.cache.stats().used == used
    assert rig.backend.seen("write_from") == []
    read = {at for call in rig.backend.seen("read_into") for at in range(call.offset, call.offset + call.length)}
    assert read == set(range(8 * PAGE)) - set(range(PAGE + 100, PAGE + 103))


def test_a_direct_read_stores_into_the_callers_own_buffer(make: Make) -> None:
    """A prompt backend gets it, not a copy; only the end of the file returns fewer bytes. [2.9]"""
    rig, direct = make({KEY: DATA}, limits={"prompt": True}).opened("rb", direct=True)
    space = bytearray(b"?" * 3 * PAGE)
    seen: list[tuple[int, int]] = []

    def read(stored: Any, offset: int, buffers: Any) -> int:
        seen.extend(address(buffer) for buffer in buffers)
        return int(stored.fill(offset, buffers))

    rig.backend.fault("read_into", read)
    assert direct.pread_into(space, 6 * PAGE) == 2 * PAGE
    assert space == DATA[6 * PAGE :] + b"?" * PAGE
    assert seen == [(address(memoryview(space))[0], 2 * PAGE)]
    assert direct.pread(100, 8 * PAGE) == b""
    assert direct.pread(100, 20 * PAGE) == b""


def test_a_direct_read_is_tried_again_and_then_raises(make: Make) -> None:
    """Short answers are continued, transient errors retried, others raised, nonsense refused. [2.9, 2.14]"""
    rig, direct = make({KEY: DATA}).opened("rb", direct=True)
    rig.backend.fault("read_into", lambda f, offset, buffers: f.fill(offset, buffers, 100), times=5)
    assert direct.pread(2 * PAGE, 10) == DATA[10 : 10 + 2 * PAGE]
    rig.backend.fault("read_into", BlockingIOError(errno.EAGAIN, "again"), times=2)
    assert direct.pread(10, 10) == DATA[10:20]
    rig.backend.fault("read_into", PermissionError(errno.EACCES, "no"))
    raises(PermissionError, direct.pread, 10, 10)
    rig.backend.fault("read_into", lambda f, offset, buffers: 11)
    raises(BackendProtocolError, direct.pread, 10, 10)
    rig.backend.fault("read_into", lambda f, offset, buffers: 0, times=2)
    raises(BackendProtocolError, direct.pread, 10, 10)
    rig.backend.fault("read_into", ZeroDivisionError("odd"))
    raises(OSError, direct.pread, 10, 10, match="odd")


@pytest.mark.parametrize("direct", [False, True])
def test_a_read_goes_on_after_answers_shorter_than_its_place_in_the_unit(make: Make, direct: bool) -> None:
    """The read begins inside a read unit, and two answers end before that. Endless ones are an error. [2.9, 2.14]"""
    rig, file = make({KEY: DATA}, limits={"read_unit": 512}).opened("rb", direct=direct)
    rig.backend.fault("read_into", short(100), times=2)
    assert file.pread(100, 300) == DATA[300:400]
    rig.volume.drop_clean()
    endless = rig.backend.fault("read_into", short(100), times=1000)
    raises(BackendProtocolError, file.pread, 100, 300)
    assert endless.nr_hit >= 32


def test_a_direct_read_beside_a_truncate_that_storage_has_already(make: Make) -> None:
    """The size says so only later: the read ends where the file does. [T-27, 2.9]"""
    rig = make({KEY: DATA})
    direct, gate = rig.open("r+b", direct=True), rig.backend.gate("truncate answer")
    _, cutter = at_gate(gate, direct.truncate, PAGE + 5)
    try:
        reader = Task(direct.pread, 2 * PAGE, PAGE)
        assert reader.waits()
    finally:
        gate.open()
    assert cutter.result() == PAGE + 5
    assert reader.result() == DATA[PAGE : PAGE + 5]


@pytest.mark.parametrize("writable", [False, True])
def test_reading_into_a_view_of_the_same_bytes_is_refused(make: Make, writable: bool) -> None:
    """The backend would write into the page that is read. Another range is fine. [2.9, 2.25]"""
    rig, file, direct = make({KEY: DATA}).both("rb", direct=True)
    with file.view(PAGE, PAGE, writable=writable) as view:
        where, length = address(view.segments[0])
        space = (ctypes.c_char * length).from_address(where)
        raises(DeadlockError, direct.pread_into, space, PAGE + 10)
        assert direct.pread_into(bytearray(PAGE), PAGE) == PAGE
        if writable:
            assert direct.pread_into(view.segments[0], 3 * PAGE) == PAGE
    file.fsync()
    assert not writable or rig.backend.committed(KEY) == overlay(DATA, PAGE, DATA[3 * PAGE : 4 * PAGE])


def test_a_direct_write_is_in_storage_when_it_returns(make: Make) -> None:
    """The calls stay within the limits and use the caller's own memory; nothing becomes cached or dirty. [2.10]"""
    rig = make({KEY: DATA}, limits={"max_write": 2 * PAGE, "boundary": 4 * PAGE, "capture": True})
    direct = rig.open("r+b", direct=True)
    data = pattern(5 * PAGE, 2)
    assert direct.pwrite(data, PAGE) == 5 * PAGE
    assert rig.backend.written(KEY) == DATA[:PAGE] + data + DATA[6 * PAGE :]
    calls = rig.backend.seen("write_from")
    assert sorted((call.offset // PAGE, call.length // PAGE) for call in calls) == [(1, 2), (3, 1), (4, 2)]
    where, _ = address(memoryview(data))
    assert {call.addresses[0][0] - call.offset for call in calls} == {where - PAGE}
    assert rig.cache.stats().used == 0
    assert dirty_bytes(rig.volume) == 0


def test_a_direct_write_extends_the_file(make: Make) -> None:
    """It extends piece after piece; the gap is zeros, cached pages at the old end included. [2.10]"""
    rig = make({KEY: DATA[: PAGE + 10]}, limits={"max_write": PAGE})
    file, direct = rig.open("r+b"), rig.open("r+b", direct=True, parallel_direct_writes=True)
    assert file.pread(PAGE, PAGE) == DATA[PAGE : PAGE + 10]
    data = pattern(3 * PAGE, 2)
    direct.pwrite(data, PAGE + 50)
    assert file.size == 4 * PAGE + 50
    assert file.pread(8 * PAGE, 0) == DATA[: PAGE + 10] + bytes(40) + data
    assert [call.offset for call in rig.backend.seen("write_from")] == [k * PAGE + 50 for k in (1, 2, 3)]
    file.close()
    direct.close()
    assert rig.volume.stat(KEY).size == 4 * PAGE + 50


def test_an_append_beyond_the_largest_offset_is_refused() -> None:
    """The end of an append is known when it has the lock. It stores nothing, and the file stays usable. [2.1]"""
    with PageCache("1MiB") as cache:
        volume = cache.attach(MemoryBackend())
        with volume.open(KEY, "w+b") as file, volume.open(KEY, "r+b", direct=True) as direct:
            file.truncate(2**63 - 3)
            for handle in (file, direct):
                caught = raises(OSError, handle.append, b"12345", match="beyond")
                assert caught.errno == errno.EFBIG
                assert accepted_before(caught) == 0
                assert file.size == 2**63 - 3
            file.truncate(0)
            assert direct.append(b"12345") == 0


def test_dirty_and_clean_pages_under_a_direct_write(make: Make) -> None:
    """Dirty pages are committed before, cached ones dropped afterwards. [T-26, 2.10]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    file.pread(8 * PAGE, 0)
    file.pwrite(b"dirty" * 1000, PAGE + 7)
    direct.pwrite(b"direct" * 100, PAGE + 300)
    expected = bytearray(DATA)
    expected[PAGE + 7 : PAGE + 5007] = b"dirty" * 1000
    expected[PAGE + 300 : PAGE + 900] = b"direct" * 100
    assert file.pread(8 * PAGE, 0) == direct.pread(8 * PAGE, 0) == bytes(expected) == rig.backend.written(KEY)
    ops = [call.op for call in rig.backend.calls if call.op in ("write_from", "commit")]
    assert ops == ["write_from", "commit", "write_from"]


@pytest.mark.parametrize("local", [False, True], ids=["others clean", "others local"])
@pytest.mark.parametrize("change", ["direct write", "invalidate_remote"])
def test_a_view_whose_bytes_were_dropped_is_detached_beside_local_bytes(make: Make, change: str, local: bool) -> None:
    """Its memory stays as it was until a read; a later view is attached. [2.9, 2.10, 2.19, 2.21]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    file.pread(8 * PAGE, 0)
    if local:
        file.pwrite(b"L", 7 * PAGE)
    with file.view(0, 10) as view:
        assert not view.detached
        if change == "direct write":
            direct.pwrite(b"N" * 10, 0)
        else:
            rig.backend.objects[KEY].written[:10] = b"N" * 10
            rig.volume.invalidate_remote(KEY, 0, PAGE)
        assert (view.detached, view.tobytes()) == (True, DATA[:10])
        assert file.pread(10, 0) == b"N" * 10
        assert view.detached
        with file.view(0, 10) as later:
            assert not later.detached
            assert later.tobytes() == b"N" * 10


@pytest.mark.parametrize("parallel", [False, True])
def test_a_direct_write_beside_a_writable_view_goes_through_the_memory_it_shows(make: Make, parallel: bool) -> None:
    """It is written back when it returns. Earlier and later stores of the view are not lost. [2.10]"""
    rig, file = make({KEY: DATA}, limits={"parallel_direct_writes": True}).opened("r+b")
    direct = rig.open("r+b", direct=True, parallel_direct_writes=parallel)
    with file.view(0, 2 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"first"
        assert direct.pwrite(b"d" * PAGE, PAGE) == PAGE
        assert not view.detached
        assert view.tobytes()[PAGE:] == rig.backend.written(KEY)[PAGE : 2 * PAGE] == b"d" * PAGE
        assert direct.pread(5, 0) == b"first"
        view.segments[-1][-3:] = b"end"
    file.fsync()
    assert rig.backend.committed(KEY) == b"first" + DATA[5:PAGE] + b"d" * (PAGE - 3) + b"end" + DATA[2 * PAGE :]


def test_a_view_of_the_file_is_a_source_like_any_other(make: Make) -> None:
    """The view may show the very bytes that are written. [2.10]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    with file.view(0, 2 * PAGE) as view:
        direct.pwrite(view.tobytes()[PAGE:], 0)
        assert direct.pwritev(list(view.segments), PAGE) == 2 * PAGE
    assert rig.backend.written(KEY)[: 3 * PAGE] == DATA[PAGE : 2 * PAGE] + DATA[: 2 * PAGE]


def test_unaligned_calls_work_through_the_cache(make: Make) -> None:
    """Offset or length is no multiple of `direct_unit`: no error, and acknowledged on return. [T-21, 2.10]"""
    rig = make({KEY: DATA}, limits={"direct_unit": 512, "write_unit": 1})
    direct = rig.open("r+b", direct=True, parallel_direct_writes=True)
    expected = bytearray(DATA)
    for at, length in ((1, 512), (512, 511), (PAGE, 512), (8 * PAGE - 5, 9)):
        data = pattern(length, at)
        assert direct.pwrite(data, at) == length
        expected[at : at + length] = data
        assert rig.backend.written(KEY) == bytes(expected)
    assert direct.append(b"odd") == len(expected)
    assert direct.append(bytes(512)) == len(expected) + 3
    assert direct.pread(len(expected) + 600, 0) == rig.backend.written(KEY) == bytes(expected) + b"odd" + bytes(512)


@pytest.mark.parametrize("limits", [{"write_unit": 2 * PAGE}, {"commit_on_close": True}], ids=str)
def test_backends_of_units_and_of_commits_are_written_through_the_cache(make: Make, limits: dict[str, Any]) -> None:
    """Their bytes are complete or visible only together with cached bytes: buffered, with a write-back. [2.10]"""
    rig = make({KEY: DATA}, limits={**limits, "parallel_direct_writes": True})
    direct = rig.open("r+b", direct=True, parallel_direct_writes=True)
    direct.pwrite(b"x" * PAGE, PAGE)
    assert dirty_bytes(rig.volume) > 0
    assert direct.pread(3 * PAGE, 0) == DATA[:PAGE] + b"x" * PAGE + DATA[2 * PAGE : 3 * PAGE]
    direct.fsync()
    assert rig.backend.committed(KEY) == DATA[:PAGE] + b"x" * PAGE + DATA[2 * PAGE :]


def test_a_direct_write_goes_on_after_short_answers_and_transient_errors(make: Make) -> None:
    """Unacknowledged bytes are sent again, in smaller pieces if the backend asks. Answers of 0 end it. [2.10, 2.14]"""
    rig, direct = make({KEY: DATA}, limits={"max_write": 2 * PAGE}).opened("r+b", direct=True)
    rig.backend.fault("write_from", short(100), times=3)
    direct.pwrite(b"x" * PAGE, 0)
    assert rig.backend.written(KEY)[: PAGE + 1] == b"x" * PAGE + DATA[PAGE : PAGE + 1]
    rig.backend.fault("write_from", BlockingIOError(errno.EAGAIN, "again"), times=2)
    direct.pwrite(b"x" * 4 * PAGE, 0)
    rig.backend.forget_calls()
    rig.backend.fault("write_from", BackendError(errno.EMSGSIZE, "too large", retry=True, max_write=PAGE))
    direct.pwrite(b"y" * 2 * PAGE, 0)
    assert [call.length for call in rig.backend.seen("write_from")] == [2 * PAGE, PAGE, PAGE]
    assert rig.backend.written(KEY)[: 4 * PAGE] == b"y" * 2 * PAGE + b"x" * 2 * PAGE
    rig.backend.fault("write_from", lambda f, offset, buffers: 0, times=9)
    raises(OSError, direct.pwrite, b"y" * PAGE, 0, match="no progress")
    rig.backend.fault("write_from", lambda f, offset, buffers: PAGE + 1)
    raises(BackendProtocolError, direct.pwrite, b"y" * PAGE, 0)


def test_an_error_of_a_direct_write_says_what_was_taken(make: Make) -> None:
    """The acknowledged prefix counts; the cached pages of the range are read again. [2.10]"""
    rig, file, direct = make({KEY: DATA}, limits={"max_write": PAGE}, retry=ONCE).both(direct=True)
    file.pread(8 * PAGE, 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), skip=2, times=100)
    raised = raises(OSError, direct.pwrite, b"x" * 4 * PAGE, 6 * PAGE, match="full")
    assert raised.errno == errno.ENOSPC
    assert accepted_before(raised) == 2 * PAGE
    assert raised.filename == KEY
    rig.backend.clear_faults()
    assert file.size == 8 * PAGE
    assert file.pread(9 * PAGE, 0) == DATA[: 6 * PAGE] + b"x" * 2 * PAGE


def test_a_direct_handle_is_a_complete_raw_file(make: Make) -> None:
    """Position, modes, wrappers, buffers. [2.9, 2.10]"""
    rig, direct = make({KEY: DATA}).opened("r+b", direct=True)
    assert direct.read(10) == DATA[:10]
    assert direct.write(b"abc") == 3
    assert direct.tell() == 13
    space = bytearray(4)
    assert direct.readinto(space) == 4
    assert bytes(space) == DATA[13:17]
    assert direct.read() == DATA[17:] == direct.pread(8 * PAGE, 17)
    assert direct.readall() == b""
    numbers: Any = numpy.arange(4, dtype=complex)
    assert direct.write(numbers) == 64
    array: Any = numpy.zeros(4, dtype=complex)
    assert direct.pread_into(array, 8 * PAGE) == 64
    assert list(array) == [0, 1, 2, 3]
    with io.BufferedReader(rig.open("rb", direct=True)) as reader:
        assert reader.read(20) == DATA[:10] + b"abc" + DATA[13:20]
    appending = rig.open("ab", direct=True)
    assert appending.write(b"tail") == 4
    assert appending.tell() == direct.size
    assert direct.try_pwrite(b"x", 0) is None


def test_memory_that_may_fault_is_copied_aside(make: Make) -> None:
    """Maps as source and destination are touched with no lock held. [K11]"""
    rig, direct = make({KEY: DATA}).opened("r+b", direct=True)
    with mmap.mmap(-1, 2 * PAGE) as memory:
        assert direct.pread_into(memory, PAGE) == 2 * PAGE
        assert memory[:] == DATA[PAGE : 3 * PAGE]
        memory[:5] = b"moved"
        assert direct.pwrite(memory, 5 * PAGE) == 2 * PAGE
    assert rig.backend.written(KEY)[5 * PAGE : 7 * PAGE] == b"moved" + DATA[PAGE + 5 : 3 * PAGE]


def test_direct_io_from_inside_a_backend_call_is_a_deadlock(make: Make) -> None:
    """[2.25, T-49]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    met: list[BaseException] = []

    def inside(stored: Any, offset: int, buffers: Any) -> int:
        met.append(raises(DeadlockError, direct.pread, 10, 4 * PAGE))
        met.append(raises(DeadlockError, direct.pwrite, b"x", 4 * PAGE))
        return int(stored.fill(offset, buffers))

    for reader in (file, direct):
        rig.backend.fault("read_into", inside)
        assert Task(reader.pread, 10, 0).result(WAIT_LIMIT_S) == DATA[:10]
    assert len(met) == 4


def test_another_version_in_storage_ends_a_direct_write(make: Make) -> None:
    """[2.10, 2.19]"""
    rig, direct = make({KEY: DATA}, retry=RetryPolicy(attempts=2, first_delay=0.001)).opened("r+b", direct=True)
    rig.backend.fault("write_from", OSError(errno.ESTALE, "another version"), times=5)
    raises(OSError, direct.pwrite, b"x", 0, match="version")


def test_storage_changed_by_direct_writes_is_no_remote_change(make: Make) -> None:
    """Cached pages stay when the file is opened again, and a change by another client is still noticed. [2.19, 2.20]"""
    rig = make({KEY: DATA}, limits={"durable_writes": True})
    with rig.volume.open(KEY, "r+b", direct=True) as direct:
        direct.pwrite(b"x" * PAGE, 0)
        direct.prefetch(4 * PAGE, PAGE, wait=True)
    rig.backend.forget_calls()
    with rig.volume.open(KEY, "rb") as file:
        assert file.pread(PAGE, 4 * PAGE) == DATA[4 * PAGE : 5 * PAGE]
        assert rig.backend.seen("read_into") == []
    rig.backend.change_remotely(KEY, b"z" * 8 * PAGE)
    with rig.volume.open(KEY, "rb") as file:
        assert file.pread(PAGE, 4 * PAGE) == b"z" * PAGE
