"""Ctrl-C: in every blocking wait, and at every bytecode of the engine. Nothing is lost, nothing stays locked."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pagecache
from pagecache import DataLossError, DeadlockError, PageCache, ShutdownError, Volume, WritebackError, closing, loglines
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.engine import runner, throttle
from pagecache.engine.attempts import Attempts
from pagecache.engine.file import EngineFile
from pagecache.engine.io import collector
from pagecache.native import NativeVolume
from pagecache.volume import detach, lifetimes
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S, RecordingBackend
from .rig import (
    KEY,
    ONCE,
    PAGE,
    Log,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    beside,
    eventually,
    held,
    make_rig,
    pattern,
    raises,
    raising,
)

DATA = pattern(8 * PAGE)
PACKAGE = Path(pagecache.__file__).parent

strike = partial(signal.raise_signal, signal.SIGINT)


@contextmanager
def ctrl_c(ready: threading.Event) -> Iterator[None]:
    """Send SIGINT to the main thread once `ready`, until its body has ended; the first one that gets through raises."""
    armed, over = [True], threading.Event()

    def handler(_number: int, _frame: FrameType | None) -> None:
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    def sender() -> None:
        ready.wait(WAIT_LIMIT_S)
        while not over.wait(0.03):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=sender, daemon=True)
    thread.start()
    try:
        yield
    finally:
        armed[0] = False
        over.set()
        thread.join(WAIT_LIMIT_S)
        signal.signal(signal.SIGINT, before)


# For each wait, the backend operation that it waits for.
WAITS: dict[str, tuple[str, Callable[[Rig, Any], object]]] = {
    "a fill of its own": ("read_into", lambda rig, file: file.pread(PAGE, 4 * PAGE)),
    "a fill into a buffer": ("read_into", lambda rig, file: file.pread_into(bytearray(4 * PAGE), 4 * PAGE)),
    "a view": ("read_into", lambda rig, file: file.view(4 * PAGE, PAGE)),
    "a prefetch": ("read_into", lambda rig, file: file.prefetch(4 * PAGE, PAGE, wait=True)),
    "flush": ("write_from", lambda rig, file: file.flush()),
    "fsync in write-back": ("write_from", lambda rig, file: file.fsync()),
    "fsync in commit": ("commit", lambda rig, file: file.fsync()),
    "fsync in a write of its own": ("write_from", lambda rig, file: file.fsync()),
    "fsync in a commit of its own": ("commit", lambda rig, file: file.fsync()),
    "sync_range": ("write_from", lambda rig, file: file.sync_range(0, PAGE)),
    "Volume.sync": ("commit", lambda rig, file: rig.volume.sync()),
    "Volume.sync of names": ("sync", lambda rig, file: rig.volume.sync()),
    "PageCache.sync": ("write_from", lambda rig, file: rig.cache.sync()),
    "a ticket": ("write_from", lambda rig, file: rig.volume.begin_sync().wait()),
    "truncate": ("truncate", lambda rig, file: file.truncate(10 * PAGE)),
    "punch_hole": ("punch_hole", lambda rig, file: file.punch_hole(4 * PAGE, PAGE)),
    "open": ("open", lambda rig, file: rig.volume.open("other", "rb")),
    "create": ("open", lambda rig, file: rig.volume.open("new", "xb")),
    "stat": ("stat", lambda rig, file: rig.volume.stat("other")),
    "remove": ("remove", lambda rig, file: rig.volume.remove("other")),
    "rename": ("rename", lambda rig, file: rig.volume.rename("other", "another")),
    "invalidate": ("commit", lambda rig, file: rig.volume.invalidate()),
    "close of the handle": ("write_from", lambda rig, file: file.close()),
    "detach": ("commit", lambda rig, file: rig.volume.detach()),
    "close of the cache": ("write_from", lambda rig, file: rig.cache.close()),
    "resize": ("write_from", lambda rig, file: much_dirty(rig).resize("64KiB")),
}


def much_dirty(rig: Rig) -> PageCache:
    """More local bytes than the smallest cache has room for."""
    rig.open("r+b", key="other").pwrite(bytes(40 * PAGE), 0)
    return rig.cache


@pytest.mark.parametrize("wait", WAITS)
def test_every_wait_for_the_backend_can_be_interrupted(make: Make, wait: str) -> None:
    """KeyboardInterrupt while the call still hangs; afterwards everything goes on and every byte arrives. [T-51, K9]"""
    op, call = WAITS[wait]
    limits = {"punch": True, "prompt": wait.endswith("of its own") and wait.startswith("fsync")}
    rig, file = make({KEY: DATA, "other": DATA}, limits=limits).written(b"dirty" * 100, 0)
    gate = rig.backend.gate(op)
    with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        call(rig, file)
    gate.open()
    assert rig.volume.failed() == []
    expected = b"dirty" * 100 + DATA[500:]
    if wait in ("detach", "close of the cache"):
        assert Task(call, rig, file).result() == []
        assert rig.backend.committed(KEY) == expected
        return
    again = rig.volume.open(KEY, "r+b")
    Task(again.fsync).result()
    content = Task(again.pread, 8 * PAGE, 0).result()
    assert content in (expected, expected[: 4 * PAGE] + bytes(PAGE) + expected[5 * PAGE :])
    assert Task(again.pwrite, b"end", 7 * PAGE).result() == 3
    Task(again.close).result()
    rig.volume.sync(20)
    rig.cache.check()
    committed = rig.backend.committed(KEY) or b""
    assert committed[: 8 * PAGE] == content[: 7 * PAGE] + b"end" + content[7 * PAGE + 3 :]


def test_no_wait_asks_python_whether_a_thread_of_the_cache_is_alive(make: Make, monkeypatch: Patch) -> None:
    """An interrupt in `Thread.is_alive` makes CPython 3.11 take the thread for ended: later waits would fail. [K9]"""
    asked: list[str] = []
    is_alive = threading.Thread.is_alive

    def recorded(thread: threading.Thread) -> bool:
        asked.append(thread.name)
        return is_alive(thread)

    rig, file = make({KEY: DATA}).written(b"dirty", 0)
    gate, sync = at_gate(rig.backend.gate("write_from"), file.fsync)
    monkeypatch.setattr(threading.Thread, "is_alive", recorded)
    assert sync.waits(0.3)
    sync.result(opening=gate)
    rig.volume.stat("file")
    assert [name for name in asked if name.startswith("pagecache")] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_does_not_wait_for_threads_that_have_all_ended(make: Make, monkeypatch: Patch) -> None:
    """A log handler of the program ended each of them. [K9]"""
    rig, file = make({KEY: DATA}).written(b"dirty", 0)
    ends = raising(SystemExit())
    with monkeypatch.context() as broken:
        broken.setattr(NativeVolume, "work", ends)
        broken.setattr(runner, "fault", ends)
        sync = Task(file.fsync)  # it wakes them
        raises(ShutdownError, sync.result, match="have ended")
    rig.volume.abort()
    rig.volume.reconnect(rig.backend)  # with other threads
    Task(file.fsync).result()
    assert (rig.backend.committed(KEY) or b"")[:5] == b"dirty"


def test_an_interrupted_rename_keeps_both_files_until_it_has_returned(make: Make) -> None:
    """No byte of them is written back beside the call, to either name. [2.20]"""
    rig, file, target = make({KEY: DATA, "other": DATA}).both(key="other")
    file.pwrite(b"dirty", 0)
    target.pwrite(b"dirty", 0)
    gate = rig.backend.gate("rename")
    with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        rig.volume.rename(KEY, "other")
    natives = [rig.volume.inodes[key] for key in (KEY, "other")]
    assert [native.in_old_hands() for native in natives] == [True, True]
    gate.open()
    Task(file.fsync).result()
    assert [native.in_old_hands() for native in natives] == [False, False]
    assert rig.backend.committed("other") == b"dirty" + DATA[5:]
    assert KEY not in rig.backend.objects


AT = ["the store's call", "the engine's call", "its result", "its result, while the program handles another one"]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("at", AT)
def test_bytes_of_a_commit_whose_error_an_interrupt_has_replaced_are_sent_again(
    tmp_path: Path, monkeypatch: Patch, *, at: str, direct: bool
) -> None:
    """Direct writes are reported as lost. [1.3, 2.9, T-51]"""
    path, fsync, failing = tmp_path / KEY, os.fsync, [True]
    path.write_bytes(DATA)

    def fail(fd: int) -> None:
        if failing and os.fstat(fd).st_ino == path.stat().st_ino:
            failing.clear()
            os.pwrite(fd, DATA, 0)  # Linux: pages whose write-back has failed are read again from the disk
            try:
                raise OSError(errno.EIO, "a bad disk")
            finally:
                if at == "the store's call":
                    raise KeyboardInterrupt
        fsync(fd)

    with PageCache("8MiB") as cache, cache.attach(DirectoryBackend(tmp_path)).open(KEY, "r+b", direct=direct) as file:
        file.pwrite(DATA[PAGE : 2 * PAGE], 0)
        monkeypatch.setattr(os, "fsync", fail)
        with monkeypatch.context() as patch:
            if at == "the engine's call":  # before its first bytecode
                beside(monkeypatch, EngineFile, "commit_met", raising(KeyboardInterrupt()))
            elif at != "the store's call":
                patch.setattr(collector, "commit_failed", raising(KeyboardInterrupt()))
            try:
                raise (KeyboardInterrupt if "handles" in at else ValueError)
            except (KeyboardInterrupt, ValueError):
                raises(KeyboardInterrupt, file.fsync)
        if direct:
            raises(DataLossError, file.fsync)
        file.fsync()
        assert path.read_bytes()[:PAGE] == DATA[PAGE * (not direct) :][:PAGE]


@pytest.mark.parametrize(
    ("loss", "at"), [("direct", "invalidate_range"), ("direct", "report_loss"), ("taken", "report_loss")]
)
def test_an_interrupt_between_a_loss_and_its_report_comes_after_both(
    tmp_path: Path, monkeypatch: Patch, loss: str, at: str
) -> None:
    """Of direct writes that a commit has lost, or of local bytes in favour of another version. [2.16, T-51]"""
    path, fsync, failing = tmp_path / KEY, os.fsync, [True]
    path.write_bytes(DATA)
    direct = loss == "direct"

    def fail(fd: int) -> None:
        if failing and os.fstat(fd).st_ino == path.stat().st_ino:
            failing.clear()
            os.pwrite(fd, DATA, 0)
            beside(monkeypatch, Inode, at, strike)
            raise OSError(errno.EIO if direct else errno.ESTALE, "a bad disk, or another version")
        fsync(fd)

    with PageCache("8MiB") as cache:
        volume = cache.attach(DirectoryBackend(tmp_path), on_conflict="take_remote")
        with volume.open(KEY, "r+b", direct=direct) as file:
            file.pwrite(DATA[PAGE : 2 * PAGE], 0)
            monkeypatch.setattr(os, "fsync", fail)
            raises(KeyboardInterrupt, file.fsync)
            raises(DataLossError, file.fsync)
            file.fsync()
            assert file.pread(PAGE, 0) == DATA[:PAGE]


def test_an_interrupt_between_a_discard_and_its_report_comes_after_both(make: Make, monkeypatch: Patch) -> None:
    """The caller has no list, so the handles report it. [2.16, 2.18, T-51]"""
    rig, file = make({KEY: DATA}).written(b"x" * PAGE, 0)
    beside(monkeypatch, Inode, "report_to_handles", strike)
    raises(KeyboardInterrupt, rig.volume.discard, KEY)
    assert file.pread(PAGE, 0) == DATA[:PAGE]
    raises(DataLossError, file.fsync)
    file.fsync()


def test_an_interrupted_discard_is_reported_to_handles(make: Make) -> None:
    """It waits for the cut of the tail: the bytes are gone. [2.16, T-51]"""
    rig, file = make({KEY: b""}).written(DATA, 0)
    gate = rig.backend.gate("truncate")
    with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        rig.volume.discard(KEY)
    gate.open()
    assert file.size == 0
    raises(DataLossError, Task(file.fsync).result)


def test_an_interrupted_discarding_end_returns_its_losses(make: Make, monkeypatch: Patch, caplog: Log) -> None:
    """All is given up, and the backend's calls end. The next end has the list. [2.22, T-51]"""
    rig = make({KEY: b"", "other": b""}, retry=ONCE)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=math.inf)
    for key in (KEY, "other"):
        raises(OSError, rig.dirtied(DATA, 0, key=key).close)
    with caplog.at_level(logging.INFO, "pagecache"):
        with monkeypatch.context() as patch:
            patch.setattr(detach, "_quiet", raising(KeyboardInterrupt()))
            raises(KeyboardInterrupt, rig.cache.close, on_failed="discard")
        lost = rig.cache.close()
        loglines.outlast(WAIT_LIMIT_S)
    assert {entry.key for entry in lost} == {KEY, "other"}
    assert "2 files were not saved and are given up" in caplog.text
    assert "everything is saved" not in caplog.text


def test_waiters_of_an_interrupted_fill_start_again(make: Make) -> None:
    """A cancelled fill is no error; one of its waiters reads instead. [T-51, 2.1]"""
    rig, file = make({KEY: DATA}).opened("rb")
    gate = rig.backend.gate("read_into")
    waiters: list[Task[bytes]] = []

    def join() -> None:
        gate.wait_entered()
        waiters.extend(Task(file.pread, 100, 10 * i) for i in range(3))
        assert all(waiter.waits(0.02) for waiter in waiters)
        ready.set()

    ready = threading.Event()
    helper = Task(join)
    with ctrl_c(ready), pytest.raises(KeyboardInterrupt):
        file.pread(PAGE, 0)
    helper.result()
    assert [waiter.result(opening=gate) for waiter in waiters] == [DATA[10 * i : 10 * i + 100] for i in range(3)]


def engine_code(frame: FrameType) -> bool:
    """Code of the package below the public interface, backends and test helpers aside."""
    path = Path(frame.f_code.co_filename)
    return PACKAGE in path.parents and path.relative_to(PACKAGE).parts[0] not in ("backends", "testing")


def below(frame: FrameType | None, *names: str) -> bool:
    """Whether a function of one of these names runs, or what it calls."""
    while frame is not None and frame.f_code.co_name not in names:
        frame = frame.f_back
    return frame is not None


def by_ctrl_c() -> None:
    raise KeyboardInterrupt


def interrupted_at(
    nth: int,
    call: Callable[[], object],
    within: Callable[[FrameType], bool] = engine_code,
    handler: Callable[[], object] = by_ctrl_c,
) -> str:
    """Run `call`, with a signal handler at the nth place of some code at which CPython checks for signals. Return the
    place, or "" if there are fewer.

    These places are the entry of a function and the return of a call into C (in the frame that called, at the call).
    There is none between the lock of a `with` and its block, or its block and the release.
    """
    count, place = 0, ""

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count, place
        if event not in ("call", "c_return") or not within(frame) or below(frame, "__del__"):
            return  # CPython drops what a finaliser raises
        count += 1
        if count == nth:
            sys.setprofile(None)
            code = frame.f_code
            place = f"place {nth}: {code.co_filename}:{frame.f_lineno} in {code.co_qualname}, {event}"
            handler()

    sys.setprofile(profile)
    try:
        call()
    except (KeyboardInterrupt, ShutdownError):
        pass
    finally:
        sys.setprofile(None)
    return place


def a_miss_that_is_tried_again(rig: Rig) -> None:
    rig.backend.fault("read_into", BlockingIOError(errno.EAGAIN, "again"))
    rig.handles[0].pread(2 * PAGE, 3 * PAGE + 5)


def a_write_that_fills_and_tries_again(rig: Rig) -> None:
    rig.backend.fault("read_into", BlockingIOError(errno.EAGAIN, "again"))
    file = rig.handles[0]
    for i in range(12):
        file.pwrite(b"x" * 10, 100 * i + PAGE)


def a_removal_and_the_last_close(rig: Rig) -> None:
    file = rig.volume.open("other", "r+b")
    file.pwrite(b"unsaved", 0)
    rig.volume.remove("other")
    file.close()


def a_removal(rig: Rig) -> None:
    rig.volume.open("other").close()
    rig.volume.remove("other")


def a_close_that_forgets_other_objects(rig: Rig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifetimes, "HOLLOW_MIN", 0)
        for _ in range(2):
            rig.volume.open("other").close()


# With each call, whether the main thread makes its reads of the backend itself.
CALLS: dict[str, tuple[Callable[[Rig], object], bool]] = {
    "a miss that is tried again": (a_miss_that_is_tried_again, True),
    "a write that fills and tries again": (a_write_that_fills_and_tries_again, True),
    "fsync": (lambda rig: rig.handles[0].fsync(timeout=20), False),
    "sync": (lambda rig: rig.volume.sync(20), False),
    "truncate": (lambda rig: rig.handles[0].truncate(5 * PAGE + 5), False),
    "open and close": (lambda rig: rig.volume.open("other", "r+b").close(), False),
    "invalidate": (lambda rig: rig.volume.invalidate(KEY), False),
    "remove and close": (a_removal_and_the_last_close, True),
    "remove": (a_removal, True),
    "a close that forgets other objects": (a_close_that_forgets_other_objects, True),
    "view": (lambda rig: rig.handles[0].view(3 * PAGE, PAGE).release(), False),
}
EVERY = pytest.param(range(1, 100_000), marks=[pytest.mark.slow, pytest.mark.timeout(1800)], id="every")


def a_rig(*, prompt: bool = False) -> Rig:
    rig = make_rig({KEY: DATA, "other": DATA}, capacity="128KiB", limits={"prompt": prompt})
    rig.open("r+b").pwrite(b"dirty" * 100, 7)
    return rig


def interrupted_each(
    call: Callable[[Rig], object],
    points: Iterable[int],
    make: Callable[[], Rig],
    verify: Callable[[Rig], None],
    handler: Callable[[Rig], object] = lambda _rig: by_ctrl_c(),
) -> int:
    """Interrupt a call at each of the points, on a fresh cache, and check that all works afterwards."""
    nr_hit, problems = 0, []
    for nth in points:
        rig = make()
        place = interrupted_at(nth, partial(call, rig), handler=partial(handler, rig))
        for afterwards in (lambda: verify(rig), rig.finish):  # noqa: B023
            try:
                Task(afterwards).result()
            except (AssertionError, OSError) as error:
                problems.append(f"{place}: {error!r}"[:400])
        if not place or len(problems) > 4:
            break
        nr_hit += 1
    assert not problems, "\n".join(problems)
    return nr_hit


def verify(rig: Rig) -> None:
    """Check that nothing is locked, pinned or lost."""
    file = rig.volume.open(KEY, "r+b")
    expected = DATA[:7] + b"dirty" * 100 + DATA[507:]
    content = file.pread(9 * PAGE, 0)
    assert content[:PAGE] == expected[:PAGE]
    assert content[3 * PAGE : 5 * PAGE] == expected[3 * PAGE : 5 * PAGE]
    file.pwrite(b"after", 3 * PAGE)
    file.truncate(6 * PAGE)
    file.fsync(timeout=20)
    rig.volume.sync(20)
    assert (rig.backend.committed(KEY) or b"")[:PAGE] == expected[:PAGE]
    assert rig.volume.dirty_ranges(KEY) == []
    assert rig.cache.stats().pinned == 0
    assert [wait for wait in rig.cache.waits() if wait.name == "MainThread"] == []
    rig.cache.check()
    file.close()


def reconnected(rig: Rig) -> None:
    rig.volume.abort()  # again, if the call was over before
    rig.backend = rig.backend.successor()
    rig.volume.reconnect(rig.backend)
    verify(rig)


# What a signal handler does, and how all goes on afterwards.
HANDLERS: dict[str, tuple[Callable[[Rig], object], Callable[[Rig], None]]] = {
    "raises": (lambda _rig: by_ctrl_c(), verify),
    "aborts the volume": (lambda rig: rig.volume.abort(), reconnected),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("points", [pytest.param(range(1, 1000, 7), id="some"), EVERY])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_signal_between_two_bytecodes_leaves_nothing_behind(handler: str, call: str, points: Iterable[int]) -> None:
    """Of the places in the engine at which CPython checks for signals: some of them, or all. [T-51, 2.22]"""
    made, prompt = CALLS[call]
    acts, goes_on = HANDLERS[handler]
    assert interrupted_each(made, points, partial(a_rig, prompt=prompt), goes_on, acts) > 0


def counting_code(frame: FrameType) -> bool:
    """Code that counts handles, makes names busy, or announces a commit."""
    path = Path(frame.f_code.co_filename).relative_to(PACKAGE) if engine_code(frame) else Path()
    return path.parts[:1] in (("volume",), ("file",)) or frame.f_code.co_name == "publishing"


def interrupted_rigs(
    make: Callable[[], Rig], call: Callable[[Rig], object], within: Callable[[FrameType], bool], least: int
) -> Iterator[tuple[Rig, str]]:
    """Interrupt a call at each place of some code, at least so many. Yield a rig for each, and the place.

    What exists before is left out of the collections: with the objects of a long test run each one takes a second.
    """
    gc.collect()
    gc.freeze()
    try:
        for nth in itertools.count(1):
            rig = make()
            place = interrupted_at(nth, partial(call, rig), within)
            gc.collect()
            yield rig, place
            if not place:
                assert nth > least
                return
    finally:
        gc.unfreeze()


def sealing_code(frame: FrameType) -> bool:
    return engine_code(frame) and frame.f_code.co_name in ("seal", "over")


def test_an_interrupted_end_leaves_the_volume_open() -> None:
    """Also between the seal and its record. [2.22, T-51]"""
    rigs = interrupted_rigs(lambda: make_rig({KEY: DATA}), lambda rig: rig.cache.close(), sealing_code, 3)
    for rig, place in rigs:
        if not rig.volume.detached:
            assert rig.dirtied(b"again", 0).pread(5, 0) == b"again", place
        rig.finish()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("key", "mode", "limits"),
    [
        (KEY, "r+b", {"prompt": True}),
        ("other", "r+b", {}),
        ("new", "x+b", {"prompt": True}),
        (KEY, "w+b", {"commit_on_close": True}),
    ],
    ids=["a known object", "another object", "a new object", "an object that is emptied"],
)
def test_an_interrupted_open_or_close_leaves_nothing(make: Make, key: str, mode: Any, limits: dict[str, Any]) -> None:
    """No name is busy, no handle is left; the next close saves the object, its removal frees it. [T-51, 2.1, 2.20]"""

    def used() -> Rig:
        rig = make({KEY: DATA, "other": DATA}, limits=limits)
        rig.volume.open(KEY).close()
        return rig

    for rig, place in interrupted_rigs(used, lambda rig: rig.volume.open(key, mode).close(), counting_code, 50):
        volume = rig.volume
        eventually(lambda: not volume.handles)  # noqa: B023  # the flusher releases a handle that was collected
        with Task(volume.open, key, "a+b", timeout=5).result() as file:
            file.write(b"more")
        if not limits.get("commit_on_close"):
            volume.sync(20)
        assert (rig.backend.committed(key) or b"").endswith(b"more"), place
        volume.remove(key, timeout=5)
        eventually(lambda: not volume.handles and not volume.orphans)  # noqa: B023
        rig.cache.check()
        rig.finish()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(("code", "least"), [("engine/(file|held).py", 5), ("volume/opening.py bind$", 2)])
def test_an_interrupted_first_open_leaves_nothing(make: Make, code: str, least: int) -> None:
    """The reference that outlives a dropped cache goes with the file that was not made, as the handle does. [T-51]"""

    def within(frame: FrameType) -> bool:
        return bool(re.search(code, f"{frame.f_code.co_filename} {frame.f_code.co_name}"))

    prompt = partial(make, {KEY: DATA}, limits={"prompt": True})
    for rig, place in interrupted_rigs(prompt, lambda rig: rig.volume.open(KEY).close(), within, least):
        eventually(lambda: not rig.volume.handles)  # noqa: B023  # a use that no handle has is released by the flusher
        assert set(rig.volume.engine.held._files) <= {id(file) for file in rig.volume.engine.files()}, place
        rig.finish()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a collection runs a finaliser there
@pytest.mark.parametrize(("call", "arguments"), [("remove", (KEY,)), ("rename", (KEY, "new"))])
@pytest.mark.parametrize("tries", [1, 2])
def test_an_interrupted_change_of_names_leaves_them_free(
    make: Make, tries: int, call: str, arguments: tuple[str, ...]
) -> None:
    """Also where a second interrupt comes while names are freed because of the first one; with two tries, at every
    place. [T-51, 2.20]
    """

    def change(rig: Rig) -> None:
        with pytest.MonkeyPatch.context() as patched:
            if tries == 1:
                patched.setattr(Attempts, "repeated", lambda *_arguments, **_options: by_ctrl_c())
            else:
                rig.backend.fault(call, OSError(errno.EIO, "no"))
            getattr(rig.volume, call)(*arguments)

    within = engine_code if tries == 2 else lambda frame: below(frame, "leave")  # which frees them
    for rig, _place in interrupted_rigs(partial(make, {KEY: DATA}), change, within, 5):
        for key in (KEY, "new"):
            with Task(rig.volume.open, key, "a+b", timeout=5).result() as file:
                file.write(b"more")
        rig.volume.sync(20)
        rig.finish()


def test_tests_see_ctrl_c_in_a_background_job_of_a_script() -> None:
    """A shell that is not interactive starts it with SIGINT ignored."""
    program = "import signal, tests.conftest; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", program]
    subprocess.run(command, cwd=PACKAGE.parent, timeout=60, check=True)


def in_kept(frame: FrameType) -> bool:
    return frame.f_code.co_filename == throttle.__file__ and frame.f_code.co_qualname.startswith("Kept.")


def test_a_signal_handler_writes_to_a_full_cache_beside_a_failure_of_its_thread(make: Make) -> None:
    """The thread records the failure of its write-back; the handler writes to another volume. [2.22, 2.23]"""
    places: list[str] = []
    while "" not in places:
        rig, file = make({KEY: DATA}, capacity="256KiB", retry=ONCE, limits={"prompt": True}).written(b"new", 0)
        rig.backend.fault("write_from", OSError(errno.ENOSPC, "no space left on device"), times=math.inf)
        other = rig.cache.attach(MemoryBackend(), name="other").open("other", "xb")
        fills = partial(raises, pagecache.PageCacheError, other.pwrite, bytes(512 << 10), 0, match="full")
        saves = partial(raises, WritebackError, file.fsync)
        places.append(Task(interrupted_at, len(places) + 1, saves, in_kept, fills).result())
        other.close()
        rig.backend.clear_faults()
        rig.cache.check()
    assert len(places) > 3


def in_direct_write(frame: FrameType) -> bool:
    return frame.f_code.co_qualname == "_Sender._wait"  # the write is counted


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("call", ["fsync", "sync"])
def test_a_sync_of_a_signal_handler_does_not_wait_for_the_direct_write_of_its_thread(
    make: Make, call: str, parallel: bool
) -> None:
    """A backend that takes no direct write beside a commit commits at the end of the write. [2.25]"""
    rig = make({KEY: DATA}, limits={"parallel_direct_writes": parallel})
    file = rig.open(direct=True)
    file.pwrite(b"1" * PAGE, 0)  # uncommitted
    syncs = file.fsync if call == "fsync" else rig.volume.sync
    handler = syncs if parallel else partial(raises, DeadlockError, syncs)
    writes = partial(file.pwrite, b"2" * PAGE, PAGE)
    assert Task(interrupted_at, 1, writes, in_direct_write, handler).result()
    assert rig.saved(file) == b"1" * PAGE + b"2" * PAGE + DATA[2 * PAGE :]


def in_discard(frame: FrameType) -> bool:
    return frame.f_code is EngineFile.drop_local.__code__  # the token is held


def test_a_close_of_a_signal_handler_does_not_wait_for_one_that_waits_for_its_thread(make: Make) -> None:
    """Another thread closes the handle; its write-back waits for the discard below the signal handler. [2.25]"""
    rig, file = make({KEY: DATA}).written(b"2" * 2 * PAGE, 0)
    closes: list[Task[None]] = []

    def handler() -> None:
        closes.append(Task(file.close))
        eventually(lambda: any(wait.what == "flush" for wait in rig.cache.waits()))
        raises(DeadlockError, file.close)

    discard = partial(rig.volume.discard, KEY, 0, PAGE)
    assert Task(interrupted_at, 1, discard, in_discard, handler).result()
    raises(DataLossError, closes[0].result)
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == DATA[:PAGE] + b"2" * PAGE + DATA[2 * PAGE :]


def in_line(frame: FrameType) -> bool:
    return frame.f_code.co_qualname == "_Wait.sleep"  # of the throttle: the writer is the first in line


@pytest.mark.parametrize("verb", ["pwrite", "append"])
@pytest.mark.parametrize("key", ["log", KEY])
def test_a_signal_handler_that_writes_does_not_wait_behind_its_own_thread(make: Make, key: str, verb: str) -> None:
    """It gets the room that its thread stands in line for, unless that holds the file. [2.24, 2.25]"""
    rig, file = make({KEY: b"", "log": b""}, capacity="256KiB").opened()
    other, locked = rig.open(key=key), key == KEY and verb == "append"
    rig.backend.gate("write_from", times=10_000)

    def handler() -> None:
        rig.backend.open_all_gates()
        if locked:
            raises(DeadlockError, other.pwrite, b"a line", 0)
        else:
            other.pwrite(b"a line", 0)

    arguments = (bytes(512 << 10),) if verb == "append" else (bytes(512 << 10), 0)
    assert Task(interrupted_at, 1, partial(getattr(file, verb), *arguments), in_line, handler).result()
    assert locked or other.pread(6, 0) == b"a line"


@pytest.mark.parametrize("where", ["the end of the cache", "another volume"])
def test_a_close_after_an_interrupted_one_returns_all_losses(make: Make, monkeypatch: Patch, where: str) -> None:
    rig = make({KEY: b""}, retry=ONCE)
    first = RecordingBackend({KEY: b""})  # attached last, so it is detached first
    volume = rig.cache.attach(first, name="last")
    first.fault("write_from", OSError(errno.ENOSPC, "no room"), times=math.inf)
    file = volume.open(KEY, "r+b")
    file.pwrite(pattern(8 * 4096), 0)
    raises(OSError, file.close)
    with monkeypatch.context() as patch:
        if where == "the end of the cache":
            patch.setattr(closing, "_finish", raising(KeyboardInterrupt()))
        else:
            end: Any = Volume.detach

            def interrupted(self: Volume, **how: object) -> object:
                if self is not volume:
                    raise KeyboardInterrupt
                return end(self, **how)

            patch.setattr(Volume, "detach", interrupted)
        raises(KeyboardInterrupt, rig.cache.close, on_failed="discard")
    lost = rig.cache.close(on_failed="discard")
    assert {entry.volume for entry in lost} == {"last"}


def test_each_close_returns_what_it_has_given_up(make: Make, monkeypatch: Patch) -> None:
    """A second one returns []. [2.22]"""
    rig = make({KEY: b""}, retry=ONCE)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=math.inf)
    file = rig.volume.open(KEY, "r+b")
    file.pwrite(DATA, 0)
    raises(OSError, file.close)
    gate, first = at_gate(
        held(monkeypatch, Volume, "detach", after=True), partial(rig.cache.close, on_failed="discard")
    )
    second = Task(rig.cache.close).result()
    assert sum(entry.length for entry in first.result(opening=gate)) == len(DATA)
    assert second == []
