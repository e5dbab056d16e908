"""Direct reads by calls of C, and into the memory of the result: what runs beside them, and what backends keep."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy
import pytest

from pagecache import BackendProtocolError, PageCache, ShutdownError, Volume
from pagecache.backends import DirectoryBackend
from pagecache.engine.file import EngineFile

from ..stores import WAIT_LIMIT_S, short
from .rig import FAST, KEY, PAGE, Make, Patch, Task, pattern, raises
from .test_served_memory import ServedMemory

DATA = pattern(8 * PAGE)


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
        frames: list[str] = []
        sys.setprofile(lambda frame, event, _: frames.append(frame.f_code.co_name) if event == "call" else None)
        try:
            found = [direct.pread(3 * PAGE, 100), direct.read(PAGE), direct.readall(), direct.pread(9, 99 * PAGE)]
            counts = [direct.pread_into(space, 7 * PAGE), direct.preadv([space], PAGE)]
        finally:
            sys.setprofile(None)
    assert frames == []
    assert found == [DATA[100 : 100 + 3 * PAGE], DATA[:PAGE], DATA[PAGE:], b""]
    assert counts == [PAGE, 2 * PAGE]
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


def swap(volume: Volume, path: str) -> Callable[[], None]:
    """Have the backend's open file read another one; the result undoes that."""
    held: Any = volume.inodes[KEY].backend_file
    kept, other = os.dup(held.fd), os.open(path, os.O_RDONLY)
    os.dup2(other, held.fd)
    os.close(other)

    def undo() -> None:
        os.dup2(kept, held.fd)
        os.close(kept)

    return undo


@pytest.mark.parametrize(("path", "code", "tries"), [("/", errno.EISDIR, 1), ("/proc/self/mem", errno.EIO, 3)])
def test_a_failed_call_of_c_is_a_try(volume: Volume, served: ServedMemory, path: str, code: int, tries: int) -> None:
    """The first of two calls succeeds; the buffer may have changed, and the next read is whole. [2.9, 2.14]"""
    with volume.open(KEY, "rb", direct=True) as direct:
        reader = Task(direct.pread_into, served.memory, 0)
        offset = served.wait_touched()
        undo = swap(volume, path)
        served.serve(offset, bytes(PAGE))
        caught = raises(OSError, reader.result)
        undo()
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


def test_a_truncate_beside_a_call_of_c_ends_the_read(volume: Volume, served: ServedMemory) -> None:
    """Both orders: the size is the smaller one before and after the call. [T-27, 2.9]"""
    with volume.open(KEY, "r+b") as file, volume.open(KEY, "rb", direct=True) as direct:
        reader = Task(direct.pread_into, served.memory, 0)
        offset = served.wait_touched()
        file.truncate(PAGE // 2)
        served.serve(offset, bytes(PAGE))
        assert reader.result() == PAGE // 2
        assert direct.pread(3 * PAGE, 0) == DATA[: PAGE // 2]


@pytest.mark.parametrize("change", ["rename", "remove", "rename over it"])
def test_a_name_changes_beside_a_call_of_c(volume: Volume, served: ServedMemory, tmp_path: Path, change: str) -> None:
    """The open object is read, whatever its name. [2.9, 2.20]"""
    (tmp_path / "other").write_bytes(bytes(8 * PAGE))
    with volume.open(KEY, "rb", direct=True) as direct:
        reader = Task(direct.pread_into, served.memory, 0)
        offset = served.wait_touched()
        if change == "rename":
            Task(volume.rename, KEY, "moved").result()
        elif change == "remove":
            Task(volume.remove, KEY).result()
        else:
            Task(volume.rename, "other", KEY).result()
        served.serve(offset, bytes(PAGE))
        for page in (1, 2):
            assert served.wait_touched() == page * PAGE
            served.serve(page * PAGE, bytes(PAGE))
        assert reader.result() == 3 * PAGE
        assert served.memory[:] == DATA[: 3 * PAGE]
        assert direct.pread(8 * PAGE, 0) == DATA


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
    """It writes into kept views in later calls of the read, and after its end. [I-24, 2.1.3, 2.9]"""
    rig, direct = make({KEY: DATA}, limits={"max_read": PAGE, **limits}).opened("rb", direct=True)
    kept: list[Any] = []

    def scribble() -> None:
        for view in kept:
            view[:] = bytes([0xEE]) * len(view) if isinstance(view, memoryview) else 0xEE

    def scribbled(stored: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        answer = int(stored.fill(offset, buffers))
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


def test_a_prompt_backend_stores_into_the_memory_of_the_result(make: Make) -> None:
    """Without a copy, if all parts of it are read, whatever their lengths. [2.9]"""
    rig, direct = make({KEY: DATA}, limits={"prompt": True}).opened("rb", direct=True)
    places: list[int] = []

    def read(stored: Any, offset: int, buffers: Any) -> int:
        places.append(numpy.frombuffer(buffers[0], "u1").ctypes.data - offset)
        return int(stored.fill(offset, buffers, 100 + offset))

    rig.backend.fault("read_into", read, times=math.inf)
    found = direct.pread(9 * PAGE, 0)
    assert found == DATA
    assert set(places) == {numpy.frombuffer(found, "u1").ctypes.data}


def test_a_short_answer_with_a_kept_view_is_continued_elsewhere(make: Make) -> None:
    rig, direct = make({KEY: DATA}, limits={"prompt": True}).opened("rb", direct=True)
    kept: list[memoryview] = []
    shortened = short(100)

    def read(stored: Any, offset: int, buffers: Any) -> int:
        kept.append(buffers[0][:])
        return shortened(stored, offset, buffers)

    rig.backend.fault("read_into", read)
    rig.backend.fault("read_into", OSError(errno.EAGAIN, "again"))
    found = direct.pread(9 * PAGE, 0)
    kept[0][:] = bytes(8 * PAGE)
    assert found == DATA
