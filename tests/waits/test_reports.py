"""The report itself: its values, and that any thread may request it at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import pagecache
from pagecache import ForkedError, PageCache, Wait, WaitOwner, aio, native
from pagecache.engine.report.wait_snapshot import WaitSnapshot

from ..file.backends import WAIT_LIMIT_S
from ..file.rig import FAST, KEY, PAGE, QUIET, Rig, Task, eventually, pattern
from .seen import no_wait_left, start, wait_of

Make = Callable[..., Rig]
DOCS = Path(pagecache.__file__).parent.parent / "docs"
DATA = pattern(64 * PAGE)

OWNER = WaitOwner(what="a read of the backend", thread=140002, name="pagecache-V-1", seconds=1.5)
WAIT = Wait(
    thread=140001,
    name="MainThread",
    seconds=1.5,
    what="a fill of [0, 4096)",
    volume="V",
    key="a/b",
    file=7,
    offset=0,
    length=4096,
    owner=OWNER,
    chain=("one", "two"),
    next="later",
)


# ---------------------------------------------------------------- values


def test_values_are_plain(make: Make) -> None:
    """They pickle, compare, and do not change. [T-66, T-80]"""
    assert pickle.loads(pickle.dumps(WAIT)) == WAIT
    assert pickle.loads(pickle.dumps(OWNER)) == OWNER
    with pytest.raises(AttributeError):
        WAIT.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Wait(140001, "MainThread")  # type: ignore[call-arg]
    rig = make({KEY: DATA})
    file = rig.open()
    with rig.backend.gate("read_into") as gate:
        task = start("waiter", file.pread, 10, 0)
        gate.wait_entered()
        found = wait_of(rig.cache)
        assert pickle.loads(pickle.dumps(found)) == found
        assert found.file == file._inode.native.id
    task.result()


def test_an_entry_is_that_of_the_live_documents() -> None:
    """Its names, in the document's order, and nothing else. [T-80]"""
    document = (DOCS / "live.md").read_text(encoding="utf-8")
    example = re.search(r'{"schema": 1, "waits": \[.*?\n\]}', document, re.S)
    assert example is not None
    (entry,) = json.loads(example[0])["waits"]
    assert list(WAIT.to_dict()) == list(entry)
    assert list(OWNER.to_dict()) == list(entry["owner"])
    assert json.loads(json.dumps(WAIT.to_dict())) == WAIT.to_dict()
    assert Wait(thread=1, name="x", seconds=0.0, what="y").to_dict()["owner"] is None


@pytest.mark.parametrize(
    ("key", "text"),
    [("a/b", "a/b"), (PurePosixPath("a/b"), "a/b"), (7, "7"), (("bucket", "k"), "('bucket', 'k')"), (None, None)],
)
def test_keys_of_entries(key: Any, text: str | None) -> None:
    """A string or a path appears unchanged, any other key as its repr. [T-80]"""
    assert Wait(thread=1, name="x", seconds=0.0, what="y", key=key).to_dict()["key"] == text


# ---------------------------------------------------------------- any moment


def test_no_wait_is_reported_in_a_cache_at_rest(make: Make) -> None:
    rig = make({KEY: DATA})
    assert rig.cache.waits() == []
    file = rig.open()
    file.pread(PAGE, 0)
    file.pwrite(b"x", 0)
    file.fsync()
    assert rig.cache.waits() == []
    rig.cache.close()
    assert rig.cache.waits() == []


def test_a_child_of_a_fork_gets_no_report(make: Make) -> None:
    """ForkedError, as from every call; the parent's report is its own. [T-50, T-80]"""
    rig = make({KEY: DATA})
    file = rig.open()
    with rig.backend.gate("read_into") as gate:
        task = start("waiter", file.pread, 10, 0)
        gate.wait_entered()
        wait_of(rig.cache)
        pid = os.fork()
        if pid == 0:
            try:
                rig.cache.waits()
            except ForkedError:
                os._exit(0 if not native.waits(rig.cache.native.core) else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(rig.cache.waits()) == 1
    task.result()
    no_wait_left(rig.cache)


def test_check_finds_a_record_of_a_thread_that_has_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a record would be left if an exit path forgot it. [I-16]"""
    rig = make({KEY: DATA})
    file = rig.open()
    with rig.backend.gate("truncate") as gate:
        task = start("waiter", file.truncate, PAGE)
        gate.wait_entered()
        wait_of(rig.cache)
        rig.cache.check()
        with monkeypatch.context() as patch:
            patch.setattr(WaitSnapshot, "ended", lambda self, thread: thread == task.thread.ident)
            with pytest.raises(AssertionError, match=r"I-16: wait for .*: its thread has ended"):
                rig.cache.check()
    task.result()
    no_wait_left(rig.cache)


def test_a_job_that_a_thread_has_taken_and_not_begun(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may be starting another one. The job then waits for other running calls, never for itself. [T-80]"""
    rig = make({KEY: DATA})
    rig.open()
    runner = rig.volume.engine.runner
    match = runner._match
    taken, begin = threading.Event(), threading.Event()

    def slow() -> None:
        if runner.is_worker():
            taken.set()
            assert begin.wait(WAIT_LIMIT_S)
        match()

    monkeypatch.setattr(runner, "_match", slow)
    task = start("waiter", rig.volume.exists, "other")
    assert taken.wait(WAIT_LIMIT_S)
    wait = wait_of(rig.cache)
    assert wait.owner is not None
    assert wait.owner.thread is None
    assert "no thread has begun" in "".join(wait.chain)
    begin.set()
    task.result()
    no_wait_left(rig.cache)


class Slow(pagecache.backends.MemoryBackend):
    """A backend whose calls take a moment, so that all threads wait for each other."""

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file: Any = super().open(key, create=create, exclusive=exclusive)
        for name in ("read_into", "write_from", "commit", "truncate"):
            setattr(file, name, self._slow(getattr(file, name)))
        return file

    def _slow(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any) -> Any:
            time.sleep(random.random() / 1000)
            return call(*args)

        return slow


class Ends(dict[int, Any]):
    """Files of a sync, the last of which ends as a report asks for them."""

    def values(self) -> Any:
        self.clear()
        return super().values()


@pytest.mark.parametrize("ends", [False, True])
def test_a_report_of_a_sync_whose_last_file_ends(make: Make, ends: bool) -> None:
    rig = make({KEY: b""})
    rig.open().pwrite(b"x", 0)
    with rig.backend.gate("write_from") as gate:
        ticket = rig.volume.begin_sync()
        gate.wait_entered()
        pending: Any = ticket._pending
        ticket._pending = Ends(pending) if ends else pending
        snapshot = WaitSnapshot(rig.cache)
        owner = ticket._owner(snapshot)
        ticket._pending = pending
    assert owner is not None
    assert (owner.does == "the syncs before it are not over") == ends
    ticket.wait(WAIT_LIMIT_S)


def busy(files: list[Any], number: int, until: float) -> None:
    """Make one call of each kind that waits, on shared files."""
    draw = random.Random(number)
    while time.monotonic() < until:
        file, page = draw.choice(files), draw.randrange(48)
        match draw.randrange(7):
            case 0 | 1:
                file.pread(2 * PAGE, page * PAGE)
            case 2:
                file.pwrite(bytes(PAGE), page * PAGE)
            case 3:
                file.fsync()
            case 4:
                file.truncate(48 * PAGE)
            case 5:
                file.append(b"more")
            case _:
                file.volume.invalidate(file.key)


async def busy_tasks(cache_files: list[Any], until: float) -> None:
    files = [aio.AsyncCachedFile(file) for file in cache_files]

    async def one(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < until:
            file = draw.choice(files)
            try:
                async with asyncio.timeout(draw.random() / 100):
                    if draw.randrange(2):
                        await file.pread(PAGE, draw.randrange(48) * PAGE)
                    else:
                        await file.fsync()
            except TimeoutError:
                pass  # cancelled in its wait

    await asyncio.gather(*(one(number) for number in range(8)))


@pytest.mark.long
def test_reports_beside_waits_that_begin_and_end_all_the_time() -> None:
    """Eight threads run at once, most of them short-lived, with tasks that are cancelled and caches that close: each
    report is whole, and no thread is left in it. [T-80, I-16]
    """
    began = time.monotonic()
    until = began + 3.0
    over = threading.Event()
    caches: list[PageCache] = []
    seen: set[str] = set()

    def report() -> None:
        while not over.is_set():
            for cache in list(caches):
                for wait in cache.waits():
                    assert wait.chain[0].startswith(f"{wait.name} waits for {wait.what}")
                    assert 0 <= wait.seconds <= time.monotonic() - began + 0.1  # a coarse clock measures them
                    assert json.dumps(wait.to_dict())
                    seen.add(re.sub(r"[\d\[\], )]+", " ", wait.what))

    reporter = Task(report)
    try:
        while time.monotonic() < until or (len(seen) < 4 and time.monotonic() < began + WAIT_LIMIT_S):
            backend = Slow()
            for key in ("one", "two"):
                backend.open(key, create=True).truncate(48 * PAGE)
            with PageCache("256KiB", **{**QUIET, "retry": FAST, "dirty_background": 0.1, "dirty_limit": 0.2}) as cache:
                volume = cache.attach(backend, name="volume", read_ahead=0)
                files = [volume.open(key, "r+") for key in ("one", "two")]
                caches[:] = [cache]
                for wave in range(3):
                    end = time.monotonic() + 0.25
                    tasks: list[Any] = [Task(busy, files, 8 * wave + number, end) for number in range(7)]
                    tasks.append(Task(lambda end=end, files=files: asyncio.run(busy_tasks(files, end))))
                    for task in tasks:
                        try:
                            task.result(60)
                        except BlockingIOError:
                            pass  # invalidate beside writers
                eventually(lambda cache=cache: not cache.waits())  # type: ignore[misc]
                cache.check()
                for file in files:
                    file.close()
            assert cache.waits() == []
            assert native.waits(cache.native.core) == []
    finally:
        over.set()
    reporter.result()
    assert len(seen) >= 4, seen
