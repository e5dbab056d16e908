"""Ctrl-C and SIGTERM end a run whose backend does not come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagecache import Key
from pagecache.backends.directory import DirectoryBackend
from pagecache.backends.passing import PassingBackend
from pagecache.backends.protocol import BackendFile
from pagecache.stress import Plan, job

from ..file.rig import eventually, raises

BOUND = 50.0  # seconds after which a test gives up: shorter than a hang that would count as the finding
WAITS = "interrupted: waiting up to 5 s for calls of the backend; Ctrl-C again ends at once"
HANGS = """
import pathlib, threading
from pagecache.backends.directory import DirectoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile

class File(PassingFile):
    lock = threading.Lock()
    written = 0

    def write_from(self, offset, buffers):
        File.written += 1
        if File.written > 8:
            with self.lock:
                pathlib.Path("hangs").touch()
                with self.lock:
                    pass
        return self.inner.write_from(offset, buffers)

class Backend(PassingBackend):
    def open(self, key, *, create=False, exclusive=False):
        return File(self.inner.open(key, create=create, exclusive=exclusive))

def make():
    return Backend(DirectoryBackend("store"))
"""


@contextmanager
def hanging(folder: Path, before: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """A run that hangs in a call of its backend."""
    (folder / "store").mkdir()
    (folder / "mine.py").write_text(HANGS, encoding="utf-8")
    program = f"from pagecache.stress import job; {before}; from pagecache.cli import main; main()"
    options = ["--seed", "1", "--duration", "1000s", "--threads", "3", "--tasks", "2", "--size", "64KiB"]
    command = [sys.executable, "-c", program, "stress", "python:mine:make", *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            eventually((folder / "hangs").exists, BOUND)
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_whose_backend_hangs(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """The run says at once that it waits, and for how long; and at the end that something may be left."""
    with hanging(tmp_path) as running:
        running.send_signal(number)
        _out, err = running.communicate(timeout=BOUND)
    assert running.returncode == status, err
    assert err.splitlines()[-2] == WAITS, err
    assert err.splitlines()[-1].startswith("interrupted: objects that begin with 'pagecache-stress-' may be left")


def test_a_second_signal_ends_it_without_waiting(tmp_path: Path) -> None:
    with hanging(tmp_path, "job.CALLS = 1000") as running:
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        while (line := running.stderr.readline()) and not line.startswith("interrupted: waiting"):
            pass
        assert line.startswith("interrupted: waiting up to 1000 s")
        running.send_signal(signal.SIGINT)
        assert running.wait(BOUND) == 130


class Making(PassingBackend):
    """A store whose first object is made slowly; `begun` is set before, and `removed` by a removal. `beside`: objects
    were removed while it was made. The stores of a test share all of this.
    """

    def __init__(self, folder: Path, first: Making | None = None) -> None:
        super().__init__(DirectoryBackend(folder))
        self.first = first or self
        if first is None:
            self.begun, self.removed, self.beside = threading.Event(), threading.Event(), False

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        first = self.first
        if create and not first.begun.is_set():
            first.removed.clear()
            first.begun.set()
            first.beside = first.removed.wait(0.5)
        return self.inner.open(key, create=create, exclusive=exclusive)

    def remove(self, key: Key) -> None:
        self.first.removed.set()
        self.inner.remove(key)


@pytest.mark.parametrize("order", ["before its call", "within its call"])
def test_an_interrupt_during_the_start_of_a_thread_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """`Thread.start` raises; the thread begins after the files have been removed, or it is making them."""
    store, ended, start = Making(tmp_path), threading.Event(), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        run = thread.run

        def late() -> None:
            if order == "before its call":
                assert store.removed.wait(BOUND)
            run()
            ended.set()

        if played.world is None or thread.name != "stress-rest" or started:
            start(thread)
            return
        started.append(thread)
        monkeypatch.setattr(thread, "run", late)
        start(thread)
        assert order == "before its call" or store.begun.wait(BOUND)
        raise KeyboardInterrupt

    started: list[threading.Thread] = []
    plan = Plan(seed=1, size="64KiB", capacity="256KiB", rounds=1, threads=2, tasks=0, files=1)
    played = job.Run(plan, lambda: Making(tmp_path, store))
    monkeypatch.setattr(job, "CALLS", BOUND)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    raises(KeyboardInterrupt, played.run, match="nothing is left in the target")
    assert ended.wait(BOUND)
    assert not store.beside
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_between_the_starts_of_workers_ends_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker waits for the others, which never start."""
    start = threading.Thread.start
    monkeypatch.setattr(job, "CALLS", BOUND)

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "stress-2":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    plan = Plan(seed=1, size="64KiB", capacity="256KiB", rounds=1, threads=2, tasks=0, files=1)
    with pytest.raises(KeyboardInterrupt, match="nothing is left in the target"):
        job.Run(plan, f"dir:{tmp_path}").run()
    assert not [thread for thread in threading.enumerate() if thread.name == "stress-1"]
    assert list(tmp_path.iterdir()) == []
