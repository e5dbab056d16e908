"""Direct reads and writes: which bytes, from where, in which calls, and with which errors; what runs beside calls of C,
and what backends keep.
"""

from __future__ import annotations

import errno
import io
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy
import pytest

from pagecache import BackendError, BackendProtocolError, DeadlockError, PageCache, RetryPolicy, ShutdownError, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.engine.file import EngineFile

from ..stores import WAIT_LIMIT_S, RecordingBackend, address, short
from .rig import FAST, KEY, ONCE, PAGE, Make, Patch, Task, accepted_before, at_gate, held, pattern, raises
from .test_reads import entered
from .test_served_memory import ServedMemory

DATA = pattern(8 * PAGE)


def test_a_direct_read_is_tried_again_and_then_raises(make: Make) -> None:
    """Short answers are continued, transient errors retried, others raised, nonsense refused. [2.9, 2.14]"""
    rig, direct = make({KEY: DATA}).opened("rb", direct=True)
    rig.backend.fault("read_into", lambda f, offset, buffers: f.fill(offset, buffers, 100), times=5)
    assert direct.pread(2 * PAGE, 10) == DATA[10 : 10 + 2 * PAGE]
    rig.backend.fault("read_into", BlockingIOError(errno.EAGAIN, "again"), times=2)
    assert direct.pread(10, 10) == DATA[10:20]
    rig.fails("read_into", PermissionError(errno.EACCES, "no"), PermissionError, direct.pread, 10, 10)
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
    assert rig.volume.dirty_ranges(KEY) == []


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
    assert rig.saved(file) == b"first" + DATA[5:PAGE] + b"d" * (PAGE - 3) + b"end" + DATA[2 * PAGE :]


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
    direct = rig.dirtied(b"x" * PAGE, PAGE, direct=True, parallel_direct_writes=True)
    assert rig.volume.dirty_ranges(KEY)
    assert direct.pread(3 * PAGE, 0) == DATA[:PAGE] + b"x" * PAGE + DATA[2 * PAGE : 3 * PAGE]
    assert rig.saved(direct) == DATA[:PAGE] + b"x" * PAGE + DATA[2 * PAGE :]


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


@pytest.mark.parametrize("verb", ["pwrite", "pwritev"])
def test_a_view_moves_as_one_by_a_direct_write_that_is_sent_again(make: Make, verb: str) -> None:
    """An answer is lost, and a read has filled the view's memory anew with bytes that have moved already: its folio has
    stayed for local bytes. [2.7, 2.10]
    """
    rig, file, direct = make({KEY: DATA}, max_folio="64KiB").both(direct=True)
    with file.view(0, 8 * PAGE) as view:
        (segment,) = view.segments
        segment = segment[: 4 * PAGE]
        file.pwrite(b"L", 7 * PAGE)
        rig.backend.fault("write_from answer", BlockingIOError(errno.EAGAIN, "the answer is lost"))
        stored = rig.backend.gate("write_from answer")
        if verb == "pwrite":
            _, writer = at_gate(stored, direct.pwrite, segment, PAGE)
        else:
            _, writer = at_gate(stored, direct.pwritev, [segment, b"next"], PAGE)
        assert file.pread(4 * PAGE, PAGE) == DATA[: 4 * PAGE]
        writer.result(opening=stored)
    assert rig.backend.written(KEY)[PAGE : 5 * PAGE] == DATA[: 4 * PAGE]


@pytest.mark.parametrize("to", [0, 4 * PAGE])
def test_a_direct_write_of_a_detached_view_writes_what_it_showed(make: Make, to: int) -> None:
    """Discarded bytes, to their place and to another; a read beside the write fills that memory. [2.7, 2.10, 2.21]"""
    rig, file, direct = make({KEY: DATA}, max_folio="64KiB").both(direct=True)
    mine = b"m" * PAGE
    with file.view(0, 8 * PAGE) as view:
        (segment,) = view.segments
        file.pwrite(mine, 0)
        file.pwrite(b"L", 7 * PAGE)  # its folio stays for this byte
        rig.volume.discard(KEY, 0, PAGE)
        assert view.detached
        sending, writer = at_gate(rig.backend.gate("write_from"), direct.pwrite, segment[:PAGE], to)
        assert file.pread(PAGE, 0) == DATA[:PAGE]
        assert writer.result(opening=sending) == PAGE
    assert rig.backend.written(KEY)[to : to + PAGE] == file.pread(PAGE, to) == mine


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
    with io.BufferedReader(rig.open("rb", direct=True)) as reader:
        assert reader.read(20) == DATA[:10] + b"abc" + DATA[13:20]
    appending = rig.open("ab", direct=True)
    assert appending.write(b"tail") == 4
    assert appending.tell() == direct.size
    assert direct.try_pwrite(b"x", 0) is None


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


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A volume of a directory with a file, whose calls have a page."""
    (tmp_path / KEY).write_bytes(DATA)
    with PageCache("1MiB", retry=FAST) as cache:
        yield cache.attach(DirectoryBackend(tmp_path, max_read=PAGE), source_may_fault="never")


@pytest.fixture
def served() -> Iterator[ServedMemory]:
    memory = ServedMemory(3 * PAGE)
    yield memory
    os.close(memory.fd)


def test_a_direct_read_of_a_directory_enters_no_python_frame(volume: Volume) -> None:
    """Short reads at the end, and the calls of the backend, included. [2.9]"""
    space = bytearray(2 * PAGE)
    with volume.open(KEY, "rb", direct=True) as direct:
        found: list[Any] = []
        assert not entered(
            lambda: found.append(direct.pread(3 * PAGE, 100)),
            lambda: found.extend([direct.read(PAGE), direct.readall(), direct.pread(9, 99 * PAGE)]),
            lambda: found.extend([direct.pread_into(space, 7 * PAGE), direct.preadv([space], PAGE)]),
        )
    assert found == [DATA[100 : 100 + 3 * PAGE], DATA[:PAGE], DATA[PAGE:], b"", PAGE, 2 * PAGE]
    assert space == DATA[PAGE : 3 * PAGE]


def test_local_bytes_and_a_local_end_are_read_beside_calls_of_c(volume: Volume) -> None:
    """[T-27, 2.9]"""
    with volume.open(KEY, "r+b") as file, volume.open(KEY, "rb", direct=True) as direct:
        file.pwrite(b"new", 3 * PAGE + 5)
        file.pwrite(b"end", 20 * PAGE)
        expected = DATA[: 3 * PAGE + 5] + b"new" + DATA[3 * PAGE + 8 :] + bytes(12 * PAGE) + b"end"
        space = bytearray(30 * PAGE)
        assert direct.pread(30 * PAGE, 0) == expected
        assert direct.pread_into(space, 0) == len(expected)
        assert space == expected + bytes(len(space) - len(expected))


@pytest.mark.parametrize(("path", "code", "tries"), [("/", errno.EISDIR, 1), ("/proc/self/mem", errno.EIO, 3)])
def test_a_failed_call_of_c_is_a_try(volume: Volume, served: ServedMemory, path: str, code: int, tries: int) -> None:
    """The first of two calls succeeds; the buffer may have changed, and the next read is whole. [2.9, 2.14]"""
    with volume.open(KEY, "rb", direct=True) as direct:
        reader = Task(direct.pread_into, served.memory, 0)
        offset = served.wait_touched()
        opened: Any = volume.inodes[KEY].backend_file
        kept, other = os.dup(opened.fd), os.open(path, os.O_RDONLY)
        os.dup2(other, opened.fd)  # the open file of the backend reads another one
        served.serve(offset, bytes(PAGE))
        caught = raises(OSError, reader.result)
        os.dup2(kept, opened.fd)
        os.close(kept)
        os.close(other)
        assert (caught.errno, caught.filename) == (code, KEY)
        assert direct.stats().read_requests == 1 + tries
        assert direct.pread(9 * PAGE, 0) == DATA


def test_a_file_that_another_program_has_cut_is_an_error(volume: Volume, tmp_path: Path) -> None:
    """The calls of C answer a part, then 0. [2.9, 2.14]"""
    with volume.open(KEY, "rb", direct=True) as direct:
        os.truncate(tmp_path / KEY, PAGE + 100)
        raises(BackendProtocolError, direct.pread, 8 * PAGE, 0, match="answered 0|for the end")
        assert direct.pread(PAGE, 0) == DATA[:PAGE]


def test_a_file_that_is_cut_before_each_call_and_grows_after_it_is_no_error(make: Make, monkeypatch: Patch) -> None:
    """The answers of 0 bytes are right, and each time the file is longer again when the read looks. [2.9, 2.14]"""
    rig, file, direct = make({KEY: DATA[: 2 * PAGE]}, limits={"prompt": True}).both("rb", direct=True)
    genuine, cuts, empty = EngineFile.storage_seen, 3, False

    def seen(self: EngineFile) -> int:
        nonlocal cuts, empty
        if cuts and not empty:
            cuts -= 1
            Task(file.truncate, PAGE).result()
        empty = False
        return genuine(self)

    def read(stored: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        nonlocal empty
        got = int(stored.fill(offset, buffers))
        empty = got == 0
        if empty:
            Task(file.pwrite, DATA[PAGE : 2 * PAGE], PAGE).result()
            Task(file.fsync).result()
        return got

    monkeypatch.setattr(EngineFile, "storage_seen", seen)
    rig.backend.fault("read_into", read, times=math.inf)
    assert direct.pread(2 * PAGE, 0) == DATA[: 2 * PAGE]
    assert not cuts


# A change beside the first of three calls, and the bytes that the read gets.
BESIDE: dict[str, tuple[Callable[[Volume], object], int]] = {
    "truncate": (lambda volume: volume.truncate(KEY, PAGE // 2), PAGE // 2),
    "rename": (lambda volume: volume.rename(KEY, "moved"), 3 * PAGE),
    "remove": (lambda volume: volume.remove(KEY), 3 * PAGE),
    "rename over it": (lambda volume: volume.rename("other", KEY), 3 * PAGE),
}


@pytest.mark.parametrize("change", BESIDE)
def test_a_change_beside_a_call_of_c(volume: Volume, served: ServedMemory, tmp_path: Path, change: str) -> None:
    """The open object is read, whatever its name; the read ends where the object does by then. [T-27, 2.9, 2.20]"""
    (tmp_path / "other").write_bytes(bytes(8 * PAGE))
    run, length = BESIDE[change]
    with volume.open(KEY, "rb", direct=True) as direct:
        reader = Task(direct.pread_into, served.memory, 0)
        for page in range(max(length // PAGE, 1)):
            assert served.wait_touched() == page * PAGE
            if page == 0:
                Task(run, volume).result()
            served.serve(page * PAGE, bytes(PAGE))
        assert reader.result() == length
        assert served.memory[:length] == DATA[:length]
        assert direct.pread(8 * PAGE, 0) == DATA[: length if change == "truncate" else 8 * PAGE]


@pytest.mark.parametrize("again", [False, True], ids=["abort", "reconnect"])
def test_an_aborted_call_of_c_has_no_answer(volume: Volume, served: ServedMemory, tmp_path: Path, again: bool) -> None:
    """Its bytes are of the earlier backend. [K9, 2.22]"""
    with volume.open(KEY, "rb", direct=True) as direct:
        reader = Task(direct.pread_into, served.memory, 0)
        offset = served.wait_touched()
        volume.abort()
        if again:
            volume.reconnect(DirectoryBackend(tmp_path))
        served.serve(offset, bytes(PAGE))
        raises(ShutdownError, reader.result)
        if not again:
            volume.reconnect(DirectoryBackend(tmp_path))
        assert direct.stats().read_requests == 1
        assert direct.pread(9 * PAGE, 0) == DATA


def test_a_signal_handler_that_raises_ends_a_read_between_two_calls_of_c(volume: Volume, served: ServedMemory) -> None:
    """Nothing stays held. [T-51, K9]"""

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def interrupt() -> None:
        offset = served.wait_touched()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        served.serve(offset, bytes(PAGE))

    before = signal.signal(signal.SIGINT, handler)
    try:
        with volume.open(KEY, "r+b", direct=True) as direct:
            other = Task(interrupt)
            with pytest.raises(KeyboardInterrupt):
                direct.pread_into(served.memory, 0)
            other.result()
            assert direct.stats().read_requests == 1
            assert Task(direct.pwrite, b"x", 0).result(WAIT_LIMIT_S) == 1
            assert direct.pread(2, 0) == b"x" + DATA[1:2]
    finally:
        signal.signal(signal.SIGINT, before)
    volume.cache.check()


@pytest.mark.parametrize(
    "keep",
    [lambda buffer: buffer[:], lambda buffer: buffer.cast("B")[1:], lambda buffer: numpy.frombuffer(buffer, "u1")],
    ids=["slice", "cast", "array"],
)
@pytest.mark.parametrize(
    "limits", [{"prompt": True}, {"prompt": True, "read_unit": 1000, "max_read": 1000}, {}], ids=str
)
def test_a_kept_view_changes_no_result(make: Make, keep: Callable[[memoryview], Any], limits: dict[str, Any]) -> None:
    """It writes into kept views in later calls for the rest of a short answer, and after the end. [I-24, 2.1.3, 2.9]"""
    rig, direct = make({KEY: DATA}, limits={"max_read": PAGE, **limits}).opened("rb", direct=True)
    kept: list[Any] = []

    def scribble() -> None:
        for view in kept:
            view[:] = bytes([0xEE]) * len(view) if isinstance(view, memoryview) else 0xEE

    def scribbled(stored: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        answer = int(stored.fill(offset, buffers, 1500))
        scribble()
        kept.extend(keep(buffer) for buffer in buffers)
        return answer

    rig.backend.fault("read_into", scribbled, times=math.inf)
    results = [direct.pread(3 * PAGE, 10), direct.pread(PAGE, 0), direct.read(), direct.pread(9, 7 * PAGE)]
    scribble()
    rig.backend.clear_faults()
    direct.seek(0)
    results += [direct.pread(3 * PAGE, PAGE), direct.read(100)]
    assert all(set(bytes(view)) == {0xEE} for view in kept)
    starts = [(10, 3 * PAGE), (0, PAGE), (0, 8 * PAGE), (7 * PAGE, 9), (PAGE, 3 * PAGE), (0, 100)]
    assert results == [DATA[start : start + length] for start, length in starts]


@pytest.mark.parametrize("own", [False, True])
def test_a_prompt_backend_stores_into_the_memory_of_the_caller_or_of_the_result(make: Make, own: bool) -> None:
    """Without a copy, if all parts of it are read, whatever their lengths. Nothing is stored behind the end. [2.9]"""
    rig, direct = make({KEY: DATA}, limits={"prompt": True}).opened("rb", direct=True)
    places: list[int] = []
    space = bytearray(b"?" * 9 * PAGE)

    def read(stored: Any, offset: int, buffers: Any) -> int:
        places.append(numpy.frombuffer(buffers[0], "u1").ctypes.data - offset)
        return int(stored.fill(offset, buffers, 100 + offset))

    rig.backend.fault("read_into", read, times=math.inf)
    found = memoryview(space)[: direct.pread_into(space, 0)] if own else direct.pread(9 * PAGE, 0)
    assert found == DATA
    assert set(places) == {numpy.frombuffer(found, "u1").ctypes.data}
    assert space[8 * PAGE :] == b"?" * PAGE
    assert direct.pread(100, 8 * PAGE) == direct.pread(100, 20 * PAGE) == b""


def test_a_direct_read_that_a_change_of_the_name_refused_is_made_again(make: Make, monkeypatch: Patch) -> None:
    """The change is over when the refused call looks for it: another version is not the reason. [T-56]"""
    data = pattern(3 * PAGE)
    rig = make(backend=RecordingBackend({KEY: data}, by_name=True))
    file = rig.open("rb", direct=True)
    gate, renaming = at_gate(rig.backend.gate("rename"), rig.volume.rename, KEY, "new")
    over = held(monkeypatch, EngineFile, "_bind_beside_names")
    gate.open()
    over.wait_entered()
    reading = Task(file.pread, 10, PAGE)
    assert reading.waits()
    renaming.result(opening=over)
    assert reading.result() == data[PAGE : PAGE + 10]
