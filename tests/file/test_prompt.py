"""Prompt backends: callers make their calls themselves, and an interrupt in the middle of one loses nothing. The main
thread changes names itself, and no signal strikes before the effect is published.

Real directories for interrupts at every place; a store with gates for calls that cross.
"""

from __future__ import annotations

import _thread
import faulthandler
import gc
import operator
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pagecache
from pagecache import BackendLimits, PageCache, UnsavedDataError, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.engine import volume as engine_volume
from pagecache.engine.park import Signal
from pagecache.engine.runner import Job
from pagecache.native import uninterrupted
from pagecache.testing import FaultyBackend, LatencyBackend
from pagecache.volume import reconnect
from pagecache.volume.namespace import NameChange

from ..aio.over import Over
from ..stores import RecordingBackend
from .rig import KEY, ONCE, PAGE, SAVES, Make, Patch, Rig, Task, at_gate, attached, eventually, pattern, raises
from .test_interrupts import PACKAGE, below, ctrl_c, interrupted_at


def threads_of(rig: Rig, op: str) -> set[int]:
    return {call.thread for call in rig.backend.seen(op)}


@pytest.mark.parametrize(("limit", "option"), [(True, None), (False, None), (True, False), (False, True)])
def test_callers_make_the_calls_of_a_prompt_backend(make: Make, limit: bool, option: bool | None) -> None:
    """Threads of the volume make those of any other; attach overrules the limits."""
    rig, file = make({"other": b""}, limits={"prompt": limit}, options={"prompt": option}).opened("x+b", "new")
    file.pwrite(b"a", 0)
    file.flush()
    file.pwrite(b"b", 1)
    file.fsync()
    file.pwrite(b"c", 2)
    file.close()
    assert rig.volume.stat("new").size == 3
    rig.volume.stat("other")
    assert [stat.key for stat in rig.volume.list()] == ["new", "other"]
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


def test_memory_and_directories_are_prompt_and_the_backends_of_tests_are_not(tmp_path: Path) -> None:
    """Other limits are those of the store, also if they change."""
    store = MemoryBackend()
    assert store.limits.prompt
    assert DirectoryBackend(tmp_path).limits.prompt
    for wrapped in (FaultyBackend(store), LatencyBackend(store)):
        assert (wrapped.limits.prompt, wrapped.limits.parallel_direct_writes) == (False, True)
        assert wrapped.limits is wrapped.limits  # a file compares it by identity before each pass
        store.limits = BackendLimits(prompt=True, parallel_direct_writes=True, max_write="64KiB")
        assert (wrapped.limits.prompt, wrapped.limits.max_write) == (False, 64 << 10)


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


def made_here(frame: FrameType) -> bool:
    """Code of a call that the thread of a caller makes, and what the engine does for it."""
    return PACKAGE in Path(frame.f_code.co_filename).parents and below(frame, "call_here", "advance")


@pytest.mark.long
@pytest.mark.parametrize("whole", [False, True], ids=["in place", "replaced as a whole"])
@pytest.mark.parametrize("name", ["flush", "fsync", "sync_range", "close"])
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
    others = [found for found in gc.get_objects() if type(found) is Job]  # of calls of other tests that still hang
    gc.disable()
    try:
        rig.open("rb").close()
        eventually(lambda: not [found for found in gc.get_objects() if type(found) is Job and found not in others])
    finally:
        gc.enable()


DATA = pattern(2 * PAGE)


def a_store(**options: Any) -> RecordingBackend:
    objects: dict[Hashable, bytes] = {KEY: DATA, "other": DATA[:PAGE]}
    return RecordingBackend(objects, **{"identities": True, "prompt": True, **options})


def test_a_change_that_may_wait_for_more_than_the_backend_leaves_the_main_thread(make: Make, tmp_path: Path) -> None:
    """For commits of a file that is found by its name, for the disk of the journal, or with many files to publish."""
    rig, _ = make(backend=a_store(identities=False)).opened()
    rig.volume.rename(KEY, "new")
    assert threading.get_ident() not in threads_of(rig, "rename")
    with PageCache("1MiB", disk=tmp_path) as cache:
        journaled = a_store()
        journaled.name = "store"  # type: ignore[attr-defined]
        volume = cache.attach(journaled, durability="disk")
        volume.open(KEY).close()
        volume.rename(KEY, "new")
        assert threading.get_ident() not in {call.thread for call in journaled.seen("rename")}
    rig, _ = make(backend=RecordingBackend({"d/a": b"", "d": b""}, identities=True, prompt=True)).opened(key="d/a")
    rig.volume.rename("d", "e")
    assert threading.get_ident() not in threads_of(rig, "rename")
    rig, file = make(backend=a_store()).opened()
    change = NameChange(rig.volume, "other", "other", ("other",))
    assert not change.may_wait()
    with pytest.MonkeyPatch.context() as patch:  # an open of a reconnect has not ended
        patch.setattr(rig.volume, "late", {file._inode: object()})
        assert change.may_wait()
    change.tried = True  # its result is to be found out, at the store
    assert change.may_wait()


def saved(volume: Volume, path: Path, name: str, content: bytes) -> None:
    """Check that the cache knows the object by the name that it has in the store, and that this name is free."""
    other = "new" if name == "a" else "a"
    with volume.open(name, "r+b", timeout=5) as file:
        assert file.pread(3 * PAGE, 0) == content
    raises(FileNotFoundError, volume.open, other, timeout=5)
    volume.sync(20)
    assert (path / name).read_bytes() == content
    volume.rename(name, "last", timeout=5)
    volume.rename("last", other, timeout=5)
    assert volume.stat(other, timeout=5).size == len(content)


EVERY = pytest.param(1, marks=pytest.mark.long, id="every")


@pytest.mark.parametrize("step", [pytest.param(5, id="some"), EVERY])
@pytest.mark.parametrize("what", ["rename", "rename over an open file", "remove a closed file", "remove an open file"])
def test_an_interrupt_anywhere_in_a_change_of_names_leaves_it_undone_or_done(
    tmp_path: Path, what: str, step: int
) -> None:
    """For the store and the cache alike; an open file is saved under the name that it has. [T-51, 2.20, K9]"""
    nth, place, done, over = 1, "none yet", {False: 0, True: 0}, "over" in what
    while place:
        path = tmp_path / str(nth)
        path.mkdir()
        for name in ("a", *["new"] * over):
            (path / name).write_bytes(DATA)
        with attached(DirectoryBackend(path), "1MiB", flush_interval=600.0) as volume, ExitStack() as handles:
            file = handles.enter_context(volume.open("a", "r+b"))
            replaced = handles.enter_context(volume.open("new", "r+b")) if over else None
            file.pwrite(b"dirty", 0)
            if "closed" in what:
                file.close()
            names = ("a", "new") if "rename" in what else ("a",)
            ended: list[object] = []
            place = interrupted_at(
                nth,
                lambda: ended.append(getattr(volume, what.split()[0])(*names)),  # noqa: B023
                lambda frame: PACKAGE in Path(frame.f_code.co_filename).parents,
                partial(signal.raise_signal, signal.SIGINT),
            )
            assert bool(ended) is not bool(place), place
            gone = not (path / "a").exists()
            done[gone] += 1
            if replaced is not None:
                Task(replaced.close).result()
            if "remove an open" in what:
                assert file.pread(5, 0) == b"dirty"
                Task(file.close).result()
            if "remove" in what and gone:
                raises(FileNotFoundError, Task(volume.open, "a", timeout=5).result)
                assert not volume.orphans
                Task(lambda: volume.open("a", "xb", timeout=5).close()).result()
            else:
                if over and not gone:
                    Task(volume.rename, "a", "new", timeout=5).result()
                Task(saved, volume, path, "new" if over or gone else "a", b"dirty" + DATA[5:]).result()
            volume.cache.check()
        nth += step
    assert done[False] > 20 // step
    assert done[True] > 100 // step


def opened(rig: Rig, key: str) -> bytes:
    with rig.volume.open(key, timeout=20) as file:
        return file.pread(5, 0)


WAITERS: dict[str, tuple[Callable[[Rig, Any], Any], Any]] = {
    "an open of the old name": (lambda rig, file: opened(rig, KEY), FileNotFoundError),
    "an open of the new name": (lambda rig, file: opened(rig, "new"), b"dirty"),
    "the same rename": (lambda rig, file: rig.volume.rename(KEY, "new"), FileNotFoundError),
    "a rename to the old name": (lambda rig, file: rig.volume.rename("other", KEY), None),
    "a rename of the new name": (lambda rig, file: rig.volume.rename("new", "third"), None),
    "a remove of the new name": (lambda rig, file: rig.volume.remove("new"), None),
    "an fsync of the file": (lambda rig, file: file.fsync(), None),
    "a truncate of the file": (lambda rig, file: file.truncate(PAGE), PAGE),
}


@pytest.mark.parametrize("at", ["rename", "rename answer"])
@pytest.mark.parametrize("crossing", WAITERS)
def test_a_call_beside_a_rename_of_the_main_thread_comes_after_it(make: Make, at: str, crossing: str) -> None:
    """Before the store has renamed, and between that and the publication. [2.20]"""
    call, expected = WAITERS[crossing]
    rig, file = make(backend=a_store()).written(b"dirty", 0)
    gate, tasks = rig.backend.gate(at), []

    def cross() -> None:
        gate.wait_entered()
        tasks.append(Task(call, rig, file))
        assert tasks[0].waits()
        gate.open()

    helper = Task(cross)
    rig.volume.rename(KEY, "new")
    helper.result()
    if isinstance(expected, type):
        raises(expected, tasks[0].result)
    else:
        assert tasks[0].result() == expected
    file.fsync()
    gone = "remove" in crossing
    name = "third" if "of the new name" in crossing and "rename" in crossing else "new"
    assert (rig.backend.committed(name) is None) is gone
    assert gone or (rig.backend.committed(name) or b"")[:5] == b"dirty"


HOLDERS: dict[str, tuple[str, Callable[[Rig, Any], Any]]] = {
    "an open of the name": ("open", lambda rig, file: rig.volume.open("new", "a+b", timeout=20).close()),
    "a commit of the file": ("commit", lambda rig, file: file.fsync()),
    "a pass of the file": ("write_from", lambda rig, file: file.flush()),
    "a remove of the name": ("remove", lambda rig, file: rig.volume.remove(KEY)),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_rename_of_the_main_thread_waits_for_running_calls_and_can_be_interrupted(make: Make, holder: str) -> None:
    """Ctrl-C ends the wait, the rename has not begun, and another one comes after them. [K9, 2.20]"""
    op, call = HOLDERS[holder]
    rig, file = make(backend=a_store()).written(b"dirty", 0)
    gate, task = at_gate(rig.backend.gate(op), call, rig, file)
    with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        rig.volume.rename(KEY, "new")
    assert rig.backend.seen("rename") == []
    opener = threading.Timer(0.1, gate.open)
    opener.start()
    if "remove" in holder:
        raises(FileNotFoundError, rig.volume.rename, KEY, "new")
    else:
        rig.volume.rename(KEY, "new")
        assert threads_of(rig, "rename") == {threading.get_ident()}
    task.result()
    opener.join()
    file.fsync()
    assert (rig.backend.committed("new") or b"dirty")[:5] == b"dirty"


@pytest.mark.parametrize("at", ["rename", "rename answer"])
@pytest.mark.parametrize("then", ["abort", "reconnect", "fenced", "detach"])
def test_a_volume_ends_beside_a_rename_of_the_main_thread(make: Make, monkeypatch: Patch, at: str, then: str) -> None:
    """The rename ends when the backend returns, and the file has its new name in the next backend. [2.22, I-23]"""
    monkeypatch.setattr(reconnect, "CALLERS", 0.2)  # a reconnect waits for callers that are in the old backend
    if (at, then) == ("rename", "fenced"):
        pytest.skip("a fenced call can change nothing more")
    rig, file = make(backend=a_store()).written(b"dirty", 0)
    gate = rig.backend.gate(at)

    def cross() -> None:
        with gate:
            gate.wait_entered()
            if then == "detach":
                raises(UnsavedDataError, rig.volume.detach, timeout=0.1)
            else:
                rig.volume.abort()
            if then in ("reconnect", "fenced"):
                rig.volume.reconnect(rig.backend, fenced=then == "fenced")

    helper = Task(cross)
    rig.volume.rename(KEY, "new")
    helper.result()
    if then == "abort":
        rig.volume.reconnect(rig.backend)
    assert file.pread(5, 0) == b"dirty"
    assert not rig.volume.unsettled
    file.fsync()
    assert (rig.backend.committed("new") or b"")[:5] == b"dirty"
    assert rig.backend.committed(KEY) is None


def test_a_lost_answer_of_the_main_threads_rename_is_settled_by_the_next_call(make: Make) -> None:
    """An attempt whose result is unknown stays open, as on a thread of the volume. [2.20]"""
    rig, file = make(backend=a_store(), retry=ONCE).written(b"dirty", 0)
    rig.fails("rename answer", OSError(5, "lost"), OSError, rig.volume.rename, KEY, "new")
    assert rig.volume.unsettled
    file.fsync()
    rig.volume.rename(KEY, "new")  # it was carried out
    assert not rig.volume.unsettled
    assert (rig.backend.committed("new") or b"")[:5] == b"dirty"


@pytest.mark.parametrize("busy", [False, True], ids=["at rest", "beside a fill"])
def test_a_removed_file_without_handles_is_freed_when_nothing_uses_it(make: Make, busy: bool) -> None:
    """At once, or after the call that does. [2.20]"""
    rig, file = make(backend=a_store(prompt=not busy)).opened("rb")
    inode = rig.volume.inodes[KEY]
    with rig.backend.gate("read_into") as gate:
        if busy:
            file.prefetch(0, PAGE)
            gate.wait_entered()
        file.close()
        rig.volume.remove(KEY)
        assert inode.freed is not busy
        assert list(rig.volume.orphans) == [inode] * busy
    eventually(lambda: inode.freed and not rig.volume.orphans)
    assert rig.volume.engine.files() == []


@contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def raising(log: list[str], error: type[BaseException]) -> Callable[..., None]:
    def handler(_number: int, _frame: FrameType | None) -> None:
        log.append(error.__name__)
        raise error

    return handler


def test_handlers_run_once_after_an_uninterrupted_call() -> None:
    """Each; the exception of one has that of the call as its context."""
    log: list[str] = []

    def body() -> None:
        uninterrupted(partial(signal.raise_signal, signal.SIGUSR1))  # such calls nest
        for _ in range(2):
            signal.raise_signal(signal.SIGUSR2)
        log.append("body")
        raise OSError(5, "of the call")

    with handled(signal.SIGUSR1, raising(log, KeyboardInterrupt)), handled(signal.SIGUSR2, lambda *_: log.append("2")):
        found = raises(KeyboardInterrupt, uninterrupted, body)
        assert isinstance(found.__context__, OSError)
        assert log == ["body", "KeyboardInterrupt", "2"]
        assert uninterrupted(lambda: 5) == 5
        raises(ZeroDivisionError, uninterrupted, lambda: 1 // 0)
        raises(KeyboardInterrupt, signal.raise_signal, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("when", "error"),
    [("before", ZeroDivisionError), ("at the end", ZeroDivisionError), ("before", ValueError), ("before", KeyError)],
)
def test_a_signal_at_the_edge_of_an_uninterrupted_call_is_handled_once(when: str, error: type[Exception]) -> None:
    """Before the call begins, it does not; at its end, handlers are back and the exception comes out."""
    log: list[str] = []
    sends = partial(_thread.interrupt_main, signal.SIGUSR1)  # handled at the next bytecode, or check in C
    calls = [sends, partial(uninterrupted, partial(log.append, "body"))]
    if when == "at the end":
        calls = [partial(uninterrupted, sends)]
    before = signal.getsignal(signal.SIGINT)
    handler = raising(log, error)
    with handled(signal.SIGUSR1, handler):
        with pytest.raises(error):
            list(map(operator.call, calls))
        assert signal.getsignal(signal.SIGUSR1) is handler
        assert signal.getsignal(signal.SIGINT) is before
    assert log == [error.__name__]


def test_a_handler_that_an_uninterrupted_call_sets_stays() -> None:
    """And one that it has found, and puts back later, passes signals on."""
    log: list[str] = []
    found: list[Any] = []
    with handled(signal.SIGUSR1, lambda *_: log.append("old")):
        uninterrupted(lambda: found.append(signal.signal(signal.SIGUSR1, lambda *_: log.append("new"))))
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, found[0])
        signal.raise_signal(signal.SIGUSR1)
    assert log == ["new", "old"]


def test_the_kernels_action_for_a_signal_outlasts_an_uninterrupted_call(tmp_path: Path) -> None:
    """That of faulthandler, during the call and after it."""
    with handled(signal.SIGUSR1, lambda *_: None), open(tmp_path / "dump", "w+") as file:
        faulthandler.register(signal.SIGUSR1, file, all_threads=False)
        try:
            uninterrupted(partial(os.kill, os.getpid(), signal.SIGUSR1))
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        assert (tmp_path / "dump").read_text().count("most recent call first") == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_another_thread_forks_beside_an_uninterrupted_call_has_its_handlers() -> None:
    """And so has one that the call forks itself, when the call is over."""

    def struck() -> bool:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            return True
        return False

    def forked() -> int:
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(0 if struck() else 1)

    assert uninterrupted(Task(forked).result) == 0
    child = uninterrupted(os.fork)
    if not child:
        os._exit(0 if struck() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_calls_of_another_thread_are_never_interrupted() -> None:
    """Nor are those of one that `threading` takes for the main thread, as in a program that embeds Python."""
    before = signal.getsignal(signal.SIGINT)
    assert Task(uninterrupted, threading.get_ident).result() != threading.get_ident()
    assert signal.getsignal(signal.SIGINT) is before
