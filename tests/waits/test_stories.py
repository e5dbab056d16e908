"""Complex waits: deadlocks with locks of the program, cycles, calls that were left behind."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

import pagecache
from pagecache import BackendLimits, ObjectStat, PageCache, ShutdownError
from pagecache.backends import MemoryBackend

from ..file.backends import WAIT_LIMIT_S
from ..file.rig import KEY, PAGE, QUIET, Rig, Task, eventually, pattern
from ..file.test_interrupts import ctrl_c
from .seen import no_wait_left, start, wait_of

Make = Callable[..., Rig]
DATA = pattern(16 * PAGE)


class LockingFile:
    """A file whose reads take a lock that belongs to the program."""

    def __init__(self, backend: Locking) -> None:
        self._backend = backend

    def stat(self) -> ObjectStat:
        return ObjectStat(size=len(DATA), version="1")

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._backend.reached.set()
        with self._backend.lock:
            done = 0
            for buffer in buffers:
                buffer[:] = DATA[offset + done : offset + done + len(buffer)]
                done += len(buffer)
            return done

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        raise NotImplementedError

    def truncate(self, size: int) -> None:
        raise NotImplementedError

    def commit(self) -> str | None:
        return None


class Locking(pagecache.Backend):
    """See LockingFile."""

    def __init__(self, lock: Any) -> None:
        self.limits = BackendLimits()
        self.lock = lock
        self.reached = threading.Event()

    def open(self, key: object, *, create: bool = False, exclusive: bool = False) -> Any:
        return LockingFile(self)

    def stat(self, key: object) -> ObjectStat:
        return ObjectStat(size=len(DATA), version="1")

    def remove(self, key: object) -> None:
        raise NotImplementedError

    def rename(self, src: object, dst: object, *, replace: bool = True) -> None:
        raise NotImplementedError

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        return iter(())


def test_a_deadlock_with_a_lock_of_the_program_is_reported_step_by_step() -> None:
    """The program holds a lock across a call of the cache, and the backend takes it. Both threads are in the report:
    one in its wait, the other at the line of the backend where it waits for the lock. [T-81, 2.25]
    """
    lock = threading.Lock()
    backend = Locking(lock)
    with PageCache("1MiB", **QUIET) as cache, cache.attach(backend, name="store", read_ahead=0).open("k") as file:
        held = threading.Event()

        def program() -> bytes:
            with lock:  # the broken rule: never hold a lock across a call of the cache that a backend takes
                held.set()
                assert backend.reached.wait(WAIT_LIMIT_S)
                return file.pread(10, 0)

        victim = start("program", program)
        assert held.wait(WAIT_LIMIT_S)
        reader = start("reader", file.pread, 10, 0)
        story = wait_of(cache, "program").chain
        assert story[0] == "program waits for a fill of [0, 4096) of 'k'"
        reads = (
            r"pagecache-store-\d+ is in read_into of 'k' \[0, 4096\) for [\d.]+ s, at .*stories\.py:(\d+) in read_into"
        )
        found = re.fullmatch(reads, story[1])
        assert found is not None
        assert len(story) == 2
        with open(__file__, encoding="utf-8") as source:
            assert "with self._backend.lock" in source.readlines()[int(found[1]) - 1]
        wait_of(cache, "reader")
        assert sorted(wait.name for wait in cache.waits()) == ["program", "reader"]
        file.volume.abort()  # the way out
        for task in (victim, reader):
            with pytest.raises(ShutdownError):
                task.result()
        eventually(lambda: not cache.waits())
        cache.close(on_failed="discard")


class OtherWay(MemoryBackend):
    """A file whose reads read the other volume first."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Any = None
        self.both = threading.Barrier(1)

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file: Any = super().open(key, create=create, exclusive=exclusive)
        plain = file.read_into

        def read_into(offset: int, buffers: Sequence[memoryview]) -> int:
            if self.other is not None:
                self.both.wait(WAIT_LIMIT_S)
                self.other.pread(10, 0)
            answer: int = plain(offset, buffers)
            return answer

        file.read_into = read_into
        return file


@contextmanager
def two_volumes() -> Iterator[tuple[PageCache, Any, Any]]:
    """Two volumes whose reads read each other."""
    one, two = OtherWay(), OtherWay()
    for backend in (one, two):
        backend.open("k", create=True).truncate(4 * PAGE)
    cache = PageCache("1MiB", **QUIET)
    a = cache.attach(one, name="one", read_ahead=0).open("k")
    b = cache.attach(two, name="two", read_ahead=0).open("k")
    one.both = two.both = threading.Barrier(2)
    one.other, two.other = b, a
    yield cache, a, b
    cache.close(on_failed="discard")


def test_a_circle_is_cut_and_named() -> None:
    """Two threads are in backends of two volumes that read each other: the chain returns to its start and says so.
    [T-81]
    """
    with two_volumes() as (cache, a, b):
        left, right = start("left", a.pread, 10, 0), start("right", b.pread, 10, 0)
        eventually(lambda: len([w for w in cache.waits() if len(w.chain) == 5]) == 2)
        chain = wait_of(cache, "left").chain
        assert chain[0] == "left waits for a fill of [0, 4096) of 'k'"
        assert re.fullmatch(r"right is in read_into of 'k' \[0, 4096\) for .*test_stories\.py.*", chain[1])
        assert chain[2] == "right waits for a fill of [0, 4096) of 'k'"
        assert re.fullmatch(r"left is in read_into of 'k' \[0, 4096\) for .*test_stories\.py.*", chain[3])
        assert chain[4] == "left waits for a fill of [0, 4096) of 'k': a cycle of waits, which no thread can end"
        assert wait_of(cache, "left").volume == "two"
        assert wait_of(cache, "right").volume == "one"
        # a thread that retries alone goes on alone
        a.volume.backend.both = b.volume.backend.both = threading.Barrier(1)
        a.volume.abort()
        b.volume.abort()
        for task in (left, right):
            # the first to go on meets its own call
            with pytest.raises(OSError, match=r"abort|from inside a backend call"):
                task.result()
        eventually(lambda: not cache.waits())


def test_a_waiter_for_a_call_that_was_left_behind_sees_that_call(make: Make) -> None:
    """A truncate whose caller was interrupted keeps the token; an interrupted direct write keeps the lock. [T-81]"""
    rig = make({KEY: DATA})
    file = rig.open()
    leaving: dict[str, Callable[[], object]] = {
        "truncate": lambda: file.truncate(PAGE),
        "write_from": lambda: rig.open(direct=True).pwrite(DATA[:PAGE], 0),
    }
    for op, leave in leaving.items():
        gate = rig.backend.gate(op)
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            leave()
        waiter = start("waiter", file.truncate, 2 * PAGE)
        eventually(lambda op=op: f"is in {op} of" in wait_of(rig.cache).chain[-1])  # type: ignore[misc]
        chain = wait_of(rig.cache).chain
        assert "left" in chain[1]
        if op == "truncate":  # it is owed now, before anything is read
            reader = start("reader", file.pread, 10, 0)
            eventually(lambda: "a call that was left behind" in " ".join(wait_of(rig.cache, "reader").chain))
        assert re.fullmatch(rf"pagecache-volume-\d+ is in {op} of 'file' for .*", chain[2])
        gate.open()
        waiter.result()
        if op == "truncate":
            assert reader.result() == DATA[:10]
        no_wait_left(rig.cache)


def test_a_caller_deep_in_another_volume_is_reported_where_it_sleeps(make: Make) -> None:
    """The backend of a read waits for another volume of the cache: one wait, that of the inner call. [T-81]"""
    rig = make({KEY: DATA})
    inner = rig.open()
    backend = OtherWay()
    backend.open("k", create=True).truncate(4 * PAGE)
    outer = rig.cache.attach(backend, name="outer", read_ahead=0).open("k")
    backend.other = inner
    gate = rig.backend.gate("read_into")
    task = start("waiter", outer.pread, 10, 0)
    gate.wait_entered()
    wait = wait_of(rig.cache)
    assert wait.volume == "volume"
    assert wait.key == KEY
    second = start("second", outer.pread, 10, 0)
    assert [re.sub(r" for \d.*|-\d(?= is)", "", line) for line in wait_of(rig.cache, "second").chain] == [
        "second waits for a fill of [0, 4096) of 'k'",
        "waiter is in read_into of 'k' [0, 4096)",
        "waiter waits for a fill of [0, 4096) of 'file'",
        "pagecache-volume is in read_into of 'file' [0, 4096)",
    ]
    gate.open()
    task.result()
    second.result()
    outer.close()
    no_wait_left(rig.cache)


def test_a_report_from_a_signal_handler(make: Make) -> None:
    """The interpreter runs it in the middle of a wait, which is in the report, and goes on. [T-80]"""
    rig = make({KEY: DATA})
    file = rig.open()
    file.pwrite(b"x", 0)
    gate = rig.backend.gate("write_from")
    seen: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(rig.cache.waits()))
    try:

        def send() -> None:
            gate.wait_entered()
            wait_of(rig.cache, "MainThread")
            while not seen:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                threading.Event().wait(0.02)
            gate.open()

        sender = Task(send)
        file.fsync()
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [(wait.name, wait.what) for wait in seen[0]] == [("MainThread", "fsync")]
    no_wait_left(rig.cache)


def test_a_call_on_the_thread_of_its_caller_is_reported_too(make: Make) -> None:
    """`canonical` does not use a thread of the volume: the opener waits in it. [T-81]"""
    asked, answer = threading.Event(), threading.Event()

    class Asking(MemoryBackend):
        def canonical(self, key: Any) -> Any:
            asked.set()
            assert answer.wait(WAIT_LIMIT_S)
            return key

    rig = make({KEY: DATA})
    volume = rig.cache.attach(Asking(), name="asking")
    task = start("waiter", volume.exists, "k")
    assert asked.wait(WAIT_LIMIT_S)
    wait = wait_of(rig.cache)
    assert (wait.what, wait.volume, wait.key) == ("the backend's canonical", "asking", "k")
    assert re.fullmatch(r"waiter is in canonical of 'k' for .*test_stories\.py.* in canonical", wait.chain[1])
    answer.set()
    assert task.result() is False
    no_wait_left(rig.cache)
