"""A volume has threads for its work: one at attach, one for each job, all with its first file."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from pagecache import PageCache, ShutdownError, Volume, aio
from pagecache.backends import MemoryBackend
from pagecache.engine import runner
from pagecache.testing import FaultyBackend, Gate, Rule

from ..aio.over import Over
from .rig import Patch, Task, attached, eventually, raises

OF_A_CACHE = 1
"""The flusher."""


class Refusals:
    """Threads that Python refuses to start while `on`: those whose names begin with `of`."""

    def __init__(self, monkeypatch: Patch) -> None:
        self.on = False
        self.of = "pagecache"
        self.start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self._start(thread))

    def _start(self, thread: threading.Thread) -> None:
        if self.on and thread.name.startswith(self.of):
            raise RuntimeError("can't start new thread")
        self.start(thread)


@pytest.fixture
def refusals(monkeypatch: Patch) -> Refusals:
    return Refusals(monkeypatch)


def threads(start: str = "pagecache-") -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(start)]


def test_two_hundred_volumes_have_one_thread_each_before_they_have_work() -> None:
    before = set(threads())
    with PageCache("16MiB") as cache:
        volumes = [cache.attach(MemoryBackend(), name=f"v{k}", prompt=False) for k in range(200)]
        assert len(set(threads()) - before) <= OF_A_CACHE + 200
        assert not volumes[7].exists("missing")
        assert threads("pagecache-v7-") == ["pagecache-v7-0"]
        with volumes[8].open("key", "w+b") as file:
            assert len(threads("pagecache-v8-")) == volumes[8].backend.limits.max_inflight + 1
            file.pwrite(b"bytes", 0)
            file.fsync()
        assert len(set(threads()) - before) <= OF_A_CACHE + 200 + volumes[8].backend.limits.max_inflight
    assert set(threads()) <= before


def test_a_job_that_comes_while_another_one_begins_gets_a_thread() -> None:
    """The first job has left the queue, and does not count as running yet."""
    backend = FaultyBackend(MemoryBackend())
    with attached(backend, "1MiB", options={"name": "busy"}) as volume, Gate() as gate, Gate() as begins:
        backend.use([Rule("stat", gate=gate)])
        runner, clock = volume.engine.runner, volume.engine.clock

        class Pausing:
            def now(self) -> float:
                if threading.current_thread().name == "pagecache-busy-0":
                    begins.enter()
                return clock.now()

        runner._clock = cast(Any, Pausing())
        callers = [Task(volume.exists, "first")]
        begins.wait_entered()
        callers.append(Task(volume.exists, "second"))
        eventually(lambda: any(runner._jobs.values()))
        begins.release()
        gate.wait_entered(calls=2)
        gate.release()
        for caller in callers:
            assert not caller.result()


def test_a_job_is_done_if_starting_another_thread_for_the_next_one_raises(monkeypatch: Patch) -> None:
    plain = runner.ThreadRunner._match

    def match(self: runner.ThreadRunner) -> None:
        if self.is_worker():
            raise MemoryError
        plain(self)

    monkeypatch.setattr(runner.ThreadRunner, "_match", match)
    with PageCache("1MiB") as cache:
        assert not Task(cache.attach(MemoryBackend(), prompt=False).exists, "missing").result()


def test_a_log_handler_may_use_the_volume_that_has_too_few_threads(refusals: Refusals) -> None:
    """The handler waits for a thread that submits a job to the volume. No thread of the log can be started either."""
    with attached(MemoryBackend(), "1MiB", options={"prompt": False}) as volume:
        ended: list[bool] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                refusals.on = False
                other = Task(volume.exists, "other")
                ended.append(other.finished.wait(10))

        handler = Handler()
        logging.getLogger("pagecache.volume").addHandler(handler)
        try:
            refusals.on = True
            volume.open("key", "w+b").close()
            eventually(lambda: ended)
        finally:
            logging.getLogger("pagecache.volume").removeHandler(handler)
        assert ended == [True]


def test_a_volume_that_cannot_start_more_threads_works_on_the_one_that_it_has(refusals: Refusals) -> None:
    """Nothing is lost, and threads come back later."""
    backend, other = MemoryBackend(), MemoryBackend()
    with PageCache("1MiB") as cache:
        volume, second = (
            cache.attach(backend, name="poor", prompt=False),
            cache.attach(other, name="too", prompt=False),
        )
        refusals.on = True
        with volume.open("key", "w+b") as file, second.open("key", "w+b") as file2:
            file.pwrite(b"bytes" * 1000, 0)
            file2.pwrite(b"others" * 1000, 0)
            file.fsync()
            assert threads("pagecache-poor-") == ["pagecache-poor-0"]
            refusals.on = False
            volume.engine.runner._refused -= runner.AGAIN
            with volume.open("other", "w+b"):
                assert len(threads("pagecache-poor-")) > 1
            refusals.on = True
    refusals.on = False
    assert (backend.snapshot("key"), other.snapshot("key")) == (b"bytes" * 1000, b"others" * 1000)


def test_calls_that_need_another_thread_say_so(refusals: Refusals) -> None:
    """A cache, a volume, a subscriber, an asynchronous backend, a call of a task: EAGAIN; all of them work later."""

    async def size(volume: Volume) -> int:
        async with aio.open(volume, "key", "w+b") as file:
            return file.size

    backend = MemoryBackend()
    with PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        refusals.on = True
        of_a_volume = "a thread of the volume 'poor' cannot be started: can't start new"
        raises(BlockingIOError, cache.attach, MemoryBackend(), name="poor", match=of_a_volume)
        raises(BlockingIOError, PageCache, "1MiB", match="a thread of the cache cannot be started")
        raises(BlockingIOError, cache.subscribe, lambda event: None, match="a thread of the cache cannot be started")
        raises(BlockingIOError, cache.attach, Over(MemoryBackend()), match="a thread of the cache cannot be started")
        raises(BlockingIOError, lambda: asyncio.run(size(volume)), match="a thread for a call of a task")
        refusals.on = False
        assert cache.volumes() == (volume,)
        cache.subscribe(lambda event: None)()
        assert asyncio.run(size(volume)) == 0
        cache.attach(Over(MemoryBackend()))


EXIT = """
import atexit, sys, threading, pagecache
from pagecache.backends import DirectoryBackend

def save():
    with late.open("key", "w+b") as file:
        file.pwrite(b"bytes" * 1000, 0)

def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

cache = pagecache.PageCache("1MiB")
unused = [cache.attach("memory:") for _ in range(3)]
used, late = (cache.attach(DirectoryBackend(folder)) for folder in sys.argv[1:])
file = used.open("key", "w+b")
file.pwrite(b"bytes" * 1000, 0)
atexit.register(save)  # runs before the cache's own
atexit.register(lambda: setattr(threading.Thread, "start", refuse))  # runs first: as newer Pythons do
print("over", flush=True)
"""


def test_the_end_of_the_interpreter_saves_what_is_dirty(tmp_path: Path) -> None:
    """Also of a file that is opened at exit, when no thread can be started."""
    folders = [tmp_path / "used", tmp_path / "late"]
    for folder in folders:
        folder.mkdir()
    began = time.monotonic()
    command: list[str | Path] = [sys.executable, "-W", "error", "-c", EXIT, *folders]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("over\n", "", 0)
    assert time.monotonic() - began < 30
    for folder in folders:
        assert (folder / "key").read_bytes() == b"bytes" * 1000
        assert os.listdir(folder) == ["key"]


def test_a_reconnect_without_a_thread_is_refused(refusals: Refusals) -> None:
    """The earlier threads go on, and a later reconnect finds everything. [2.22]"""
    backend = MemoryBackend()
    with PageCache("1MiB") as cache, cache.attach(backend, name="poor").open("key", "w+b") as file:
        file.pwrite(b"bytes", 0)
        refusals.on = True
        raises(BlockingIOError, file.volume.reconnect, backend, match="a thread of the volume 'poor' cannot be started")
        refusals.on = False
        raises(ShutdownError, file.fsync)
        file.volume.reconnect(backend)
        file.fsync()
    assert backend.snapshot("key") == b"bytes"


@pytest.mark.parametrize("of", ["pagecache", "pagecache-poor-mirror"])
def test_a_mirror_whose_thread_cannot_be_started_is_refused(refusals: Refusals, of: str) -> None:
    """Nothing of the volume is left."""
    with PageCache("1MiB") as cache:
        refusals.on, refusals.of = True, of
        for _ in range(5000 if of == "pagecache" else 50):  # a cache has at most 4096 volumes
            raises(BlockingIOError, cache.attach, MemoryBackend(), name="poor", mirror=MemoryBackend())
        refusals.on = False
        assert cache.volumes() == ()
        eventually(lambda: threads("pagecache-poor-") == [])
