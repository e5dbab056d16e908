"""Prompt backends: callers make their calls themselves, and an interrupt in the middle of one loses nothing."""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pagecache
from pagecache import BackendLimits, PageCache
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.engine import volume as engine_volume
from pagecache.engine.file import EngineFile
from pagecache.engine.park import Signal
from pagecache.engine.runner import Job
from pagecache.testing import FaultyBackend, LatencyBackend

from ..aio.over import Over
from ..stores import RecordingBackend
from .rig import KEY, PAGE, Make, Patch, Rig, Task, at_gate, eventually, pattern, raises
from .test_interrupts import PACKAGE, interrupted_at


def threads_of(rig: Rig, op: str) -> set[int]:
    return {call.thread for call in rig.backend.seen(op)}


def do_all(rig: Rig) -> None:
    """Make every kind of call that carries no bytes, and save bytes in every way."""
    file = rig.open("x+b", "new")
    file.pwrite(b"a", 0)
    file.flush()
    file.pwrite(b"b", 1)
    file.fsync()
    file.pwrite(b"c", 2)
    file.close()
    assert rig.volume.stat("new").size == 3
    rig.volume.stat("other")
    assert [stat.key for stat in rig.volume.list()] == ["new", "other"]


# -- the threads


@pytest.mark.parametrize(("limit", "option"), [(True, None), (False, None), (True, False), (False, True)])
def test_callers_make_the_calls_of_a_prompt_backend(make: Make, limit: bool, option: bool | None) -> None:
    """Threads of the volume make those of any other; attach overrules the limits."""
    rig = make({"other": b""}, limits={"prompt": limit}, options={"prompt": option})
    do_all(rig)
    for op in ("open", "stat", "list", "write_from", "commit"):
        if limit if option is None else option:
            assert threads_of(rig, op) == {threading.get_ident()}, op
        else:
            assert threading.get_ident() not in threads_of(rig, op), op


def test_a_large_write_back_of_a_prompt_backend_has_help(make: Make) -> None:
    """Threads of the volume join in if there is more than one request."""
    rig, file = make({KEY: b""}, limits={"prompt": True, "max_write": 16 * PAGE}).opened()
    content = pattern(256 * PAGE)
    file.pwrite(content, 0)
    with rig.backend.gate("write_from", times=4) as gate:
        sync = Task(file.fsync)
        eventually(lambda: gate.nr_entered == 4)
    sync.result()
    assert rig.backend.committed(KEY) == content


def test_without_a_credit_a_thread_of_the_volume_does_the_work(make: Make) -> None:
    """The caller waits, and continues as soon as the bytes are saved."""
    rig = make({KEY: pattern(16 * PAGE), "other": pattern(PAGE)}, limits={"prompt": True, "max_inflight": 1})
    file, other = rig.open(), rig.open("rb", "other")
    file.pwrite(b"new", 0)
    with rig.backend.gate("read_into") as gate:
        reader = Task(other.pread, PAGE, 0)  # it has the only credit
        gate.wait_entered()
        sync = Task(file.fsync)
        assert sync.waits()
    assert reader.result() == pattern(PAGE)
    sync.result()
    assert (rig.backend.committed(KEY) or b"")[:3] == b"new"


def test_memory_and_directories_are_prompt_and_the_backends_of_tests_are_not(tmp_path: Path) -> None:
    assert MemoryBackend().limits.prompt
    assert DirectoryBackend(tmp_path).limits.prompt
    for wrapped in (FaultyBackend(MemoryBackend()), LatencyBackend(MemoryBackend())):
        assert not wrapped.limits.prompt
        assert wrapped.limits.parallel_direct_writes
        assert wrapped.limits is wrapped.limits  # a file compares it by identity before each pass


def test_limits_that_change_are_seen_through_a_backend_of_tests() -> None:
    inner = MemoryBackend()
    faulty = FaultyBackend(inner)
    inner.limits = BackendLimits(prompt=True, max_write="64KiB")
    assert (faulty.limits.prompt, faulty.limits.max_write) == (False, 64 << 10)


def test_the_close_of_a_surplus_file_is_among_the_waits(make: Make, monkeypatch: Patch) -> None:
    """The caller whose close makes it a surplus one closes it in the backend, which may take long. [K9, 2.27]"""
    monkeypatch.setattr(engine_volume, "IDLE_FILES_MAX", 4)
    names = [f"file{number}" for number in range(6)]
    rig = make(dict.fromkeys(names, b"x"), limits={"prompt": True})

    def use() -> None:
        for name in names:
            rig.volume.open(name).close()

    with rig.backend.gate("file_close") as gate:
        _, task = at_gate(gate, use)
        [wait] = [wait for wait in rig.cache.waits() if "close" in wait.what]
        assert (wait.what, wait.key) == ("the backend's close", names[0])
    task.result()


@pytest.mark.parametrize("value", ["yes", 1, 0.0])
def test_a_value_that_is_no_bool_is_refused(value: Any) -> None:
    raises(ValueError, BackendLimits, prompt=value, match=f"prompt: {value!r} is not True or False")
    with PageCache("1MiB") as cache, pytest.raises(TypeError, match="prompt must be True, False or None"):
        cache.attach(MemoryBackend(), prompt=value)


def test_an_asynchronous_backend_is_never_prompt() -> None:
    with PageCache("1MiB") as cache:
        raises(ValueError, lambda: cache.attach(Over(MemoryBackend()), prompt=True), match="asynchronous")
        volume = cache.attach(Over(MemoryBackend(BackendLimits(prompt=True))))
        assert not volume.engine.prompt


def test_a_call_of_a_prompt_backend_is_retried_and_has_a_deadline(make: Make) -> None:
    """One that has passed keeps the call from being made."""
    rig = make({KEY: b""}, limits={"prompt": True})
    raises(TimeoutError, rig.volume.stat, KEY, timeout=0, match="stat: the deadline passed")
    assert not rig.backend.seen("stat")
    rig.backend.fault("stat", pagecache.BackendError(5, "once", retry=True), times=2)
    assert rig.volume.stat(KEY).size == 0
    assert len(rig.backend.seen("stat")) == 3


def test_a_call_of_a_prompt_backend_is_in_the_report_of_waits(make: Make) -> None:
    rig = make({KEY: b""}, limits={"prompt": True})
    with rig.backend.gate("stat") as gate:
        _, asker = at_gate(gate, rig.volume.stat, KEY)
        found = [wait for wait in rig.cache.waits() if wait.thread == asker.thread.ident]
        assert [wait.what for wait in found] == ["the backend's stat"]
    asker.result()


@pytest.mark.parametrize(("op", "call"), [("write_from", "a write"), ("commit", "a commit")])
def test_an_fsync_that_hangs_in_a_call_is_in_the_report_of_waits(make: Make, op: str, call: str) -> None:
    """With the call that it is in: the flusher warns about it."""
    rig, file = make({KEY: b""}, limits={"prompt": True}).opened()
    file.pwrite(b"new", 100)
    with rig.backend.gate(op) as gate:
        _, saving = at_gate(gate, file.fsync)
        (found,) = [wait for wait in rig.cache.waits() if wait.thread == saving.thread.ident]
        assert (found.what, found.key) == ("fsync", KEY)
        assert found.owner is not None
        assert (found.owner.what, found.owner.thread) == (f"{call} of the backend", saving.thread.ident)
    saving.result()


# -- interrupts on the main thread


@pytest.mark.parametrize("op", ["write_from", "commit"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_in_a_call_of_a_sync_loses_nothing(make: Make, op: str, when: str) -> None:
    """The sync raises it; the bytes are neither lost nor reported as failed, and the next sync saves them. [K9]"""
    rig, file = make({KEY: pattern(4 * PAGE)}, limits={"prompt": True}).opened()
    file.pwrite(b"new", 100)
    inner = rig.volume.inodes[KEY].backend_file
    assert inner is not None
    real = getattr(inner, op)

    def interrupted(*args: Any) -> Any:
        setattr(inner, op, real)
        rig.volume.inodes[KEY].bind_calls()
        if when == "after":
            real(*args)
        _thread.interrupt_main()
        return real(*args)

    setattr(inner, op, interrupted)
    rig.volume.inodes[KEY].bind_calls()
    raises(KeyboardInterrupt, file.fsync)
    assert rig.volume.failed() == []
    rig.cache.check()
    assert file.pread(3, 100) == b"new"
    assert rig.volume.dirty_ranges(KEY)
    file.fsync()
    assert (rig.backend.committed(KEY) or b"")[100:103] == b"new"
    with rig.volume.open(KEY) as again:
        assert again.pread(3, 100) == b"new"


def made_here(frame: FrameType | None) -> bool:
    """Code of a call that the thread of a caller makes, and what the engine does for it."""
    if frame is None or not frame.f_code.co_filename.startswith(str(PACKAGE)):
        return False
    while frame is not None and frame.f_code.co_name not in ("call_here", "advance"):
        frame = frame.f_back
    return frame is not None


SAVES: dict[str, Callable[[Rig, Any], object]] = {
    "flush": lambda rig, file: file.flush(),
    "fsync": lambda rig, file: file.fsync(),
    "sync_range": lambda rig, file: file.sync_range(0, PAGE),
    "close": lambda rig, file: file.close(),
}


@pytest.mark.long
@pytest.mark.parametrize("whole", [False, True], ids=["in place", "replaced as a whole"])
@pytest.mark.parametrize("name", SAVES)
def test_an_interrupt_at_any_point_of_a_save_loses_nothing(make: Make, name: str, whole: bool) -> None:
    """[K9, I-17]"""
    nth, place = 0, "none yet"
    while place:
        nth += 1
        rig, file = make(backend=RecordingBackend({KEY: pattern(4 * PAGE)}, staged=whole, prompt=True)).opened()
        file.pwrite(b"new", 100)
        place = interrupted_at(nth, lambda: SAVES[name](rig, file), made_here)  # noqa: B023
        with rig.volume.open(KEY, "r+b") as again:
            assert again.pread(3, 100) == b"new", place
            again.fsync()
        assert (rig.backend.committed(KEY) or b"")[100:103] == b"new", place
        rig.cache.check()
        rig.finish()
    assert nth > (0 if whole and name == "flush" else 3)  # an object that is replaced as a whole is not flushed


def test_an_fsync_whose_commit_is_called_off_heeds_its_deadline(make: Make, monkeypatch: Patch) -> None:
    """As one is beside a remove: the thread that makes the calls looks around between two of them. [2.15, 2.20]"""
    rig, file = make({KEY: pattern(PAGE)}, limits={"prompt": True}).opened()
    monkeypatch.setattr(EngineFile, "commit_here", lambda engine, op: op.finish(False, True))
    rig.volume.inodes[KEY].bound_commit = None  # as in a file that has met trouble
    file.pwrite(b"new", 100)
    raises(TimeoutError, file.fsync, timeout=0.2)
    monkeypatch.undo()
    file.fsync()
    assert (rig.backend.committed(KEY) or b"")[100:103] == b"new"


def test_a_signal_stays_set_after_an_interrupt_of_a_waiter() -> None:
    """It struck between taking and releasing the lock."""
    signal = Signal()
    signal.set()
    signal._lock.acquire()
    assert signal.is_set()
    assert signal.wait(0.01)


def test_a_call_on_a_thread_is_no_garbage(make: Make) -> None:
    """Its job would keep the opened file of the backend until a collection."""
    rig = make({KEY: b"x"}, limits={"prompt": False})
    gc.collect()
    gc.disable()
    try:
        rig.open("rb").close()
        eventually(lambda: not [found for found in gc.get_objects() if type(found) is Job])
    finally:
        gc.enable()
