"""The report of waits: each kind is forced by a gate in the backend, seen from another thread, and gone afterwards."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, PageCache, RetryPolicy, Wait, aio, loglines
from pagecache.engine.report import notices, waits

from ..file.rig import KEY, PAGE, SAVES, Log, Make, Patch, Rig, Task, eventually, pattern, raises, run_program
from ..file.test_interrupts import ctrl_c

Act = Callable[[Rig, Any], object]
DATA = pattern(64 * PAGE)
SLOW = RetryPolicy(attempts=3, first_delay=3600.0, max_delay=3600.0, deadline=7200.0, failed_retry=None)
CROWDED: dict[str, Any] = {"dirty_background": 0.03, "dirty_limit": 0.04, "capacity": "1MiB"}
READ, COMMIT = "a read of the backend", "a commit of the backend"
OWNERS = {"read_into": READ, "write_from": "a write of the backend", "commit": COMMIT}


def start(name: str, call: Callable[..., Any], *args: Any) -> Task[Any]:
    """Call something on a thread of this name."""

    def named() -> Any:
        threading.current_thread().name = name
        return call(*args)

    return Task(named)


def wait_of(cache: PageCache, name: str = "waiter") -> Wait:
    """The one wait of this thread or task, once it is there."""
    found: list[Wait] = []

    def there() -> bool:
        found[:] = [wait for wait in cache.waits() if wait.name == name]
        return bool(found)

    eventually(there)
    assert len(found) == 1, found
    return found[0]


def no_wait_left(cache: PageCache) -> None:
    """Check that the report is empty, now or in a moment: threads of the volume may be about to end."""
    eventually(lambda: not cache.waits())
    cache.check()


def dirty(rig: Rig, file: CachedFile) -> None:
    file.pwrite(b"d" * PAGE, 0)


def viewed(rig: Rig, file: CachedFile) -> None:
    dirty(rig, file)
    file.__dict__["held"] = file.view(0, PAGE)


def take_memory(rig: Rig, file: CachedFile) -> None:
    """Take all memory: most pages are in a view, the others in flight."""
    file.__dict__["held"] = file.view(0, 10 * PAGE)
    file.pwrite(bytes(4 * PAGE), 30 * PAGE)
    rig.volume.begin_sync()
    rig.backend.gates[-1].wait_entered()


def fill_up(rig: Rig, file: CachedFile) -> None:
    """Dirty bytes up to the limit, while the gate keeps them there."""
    for page in range(63, 53, -1):
        if file.try_pwrite(b"f" * PAGE, page * PAGE) is None:
            return


def read(rig: Rig, file: CachedFile) -> object:
    return file.pread(PAGE, 4 * PAGE)


def write(rig: Rig, file: CachedFile) -> object:
    return file.pwrite(b"w", 0)


def cut(rig: Rig, file: CachedFile) -> object:
    return file.truncate(PAGE)


def open_other(rig: Rig, file: CachedFile) -> object:
    return rig.open(key="other")


@dataclass
class Kind:
    """A way to wait: what the report says (a pattern), after `before`, while `first` runs on another thread.

    `owner`: the call that it waits for, if it is not the usual one of the gate; "": none.
    """

    gate: str
    what: str
    call: Act
    before: Act = lambda rig, file: None
    first: Act | None = None
    owner: str | None = None
    key: str | None = KEY
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    fails: bool = False


flush, fsync, sync = (SAVES[name] for name in ("flush", "fsync", "sync"))
PROMPT: dict[str, Any] = {"prompt": True}
SLOWLY: dict[str, Any] = {"config": {"retry": SLOW}, "owner": "", "fails": True}  # a call without an answer
FILL = r"a fill of \[16384, 20480\)"
DIRECT = r"a direct read of \[16384, 20480\)"
CREDIT = r"a call more than the volume may have at once \(max_inflight\)"
ASIDE = r"a write of \[0, 4096\) to end"
ENDS = "the end of the backend's calls|the end of the volume's threads"
KINDS: dict[str, Kind] = {
    "a fill": Kind("read_into", FILL, read),
    "a fill of its own": Kind("read_into", FILL, read, options=PROMPT),
    "a fill of another thread": Kind("read_into", FILL, lambda rig, file: file.pread(10, 4 * PAGE + 5), first=read),
    "a direct read of its own": Kind(
        "read_into", DIRECT, lambda rig, file: rig.open(direct=True).pread(PAGE, 4 * PAGE), options=PROMPT
    ),
    "a credit": Kind(
        "read_into",
        CREDIT,
        lambda rig, file: file.pread(1, 20 * PAGE),
        first=read,
        options=PROMPT | {"max_inflight": 1},
    ),
    "bytes in flight that may not be copied aside": Kind("write_from", ASIDE, write, viewed, flush),
    "the lock": Kind("truncate", "the file's lock", write, first=cut),
    "the lock, behind an append that waits for room": Kind(
        "write_from", "the file's lock", cut, fill_up, lambda rig, file: file.append(DATA[: 16 * PAGE]), config=CROWDED
    ),
    "the lock, behind a direct write": Kind(
        "write_from",
        "the file's lock",
        write,
        first=lambda rig, file: rig.open(direct=True).pwrite(DATA[:PAGE], 0),
        owner="write_from of the backend",
    ),
    "the token, behind write-back": Kind("write_from", "the file's token", cut, dirty, flush),
    "the token, behind a commit": Kind("commit", "the file's token", cut, dirty, fsync),
    "the end of a truncate": Kind(
        "truncate", "the end of a truncate or hole", lambda rig, file: file.pread(1, 0), first=cut
    ),
    "flush": Kind("write_from", "flush", flush, dirty),
    "fsync in commit": Kind("commit", "fsync", fsync, dirty),
    "fsync in a write of its own": Kind("write_from", "fsync", fsync, dirty, options=PROMPT),
    "fsync in a commit of its own": Kind("commit", "fsync", fsync, dirty, options=PROMPT),
    "a round of another fsync": Kind("commit", "fsync", fsync, dirty, fsync),
    "fsync that is tried again later": Kind("write_from", "fsync", fsync, dirty, **SLOWLY),
    "a read that is tried again later": Kind(
        "read_into", "the next try of a call that failed", read, options=PROMPT, **SLOWLY
    ),
    "a sync": Kind("commit", "sync", sync, dirty, key=None),
    "a sync of names": Kind("sync", "sync", sync, lambda rig, file: rig.volume.remove("other"), key=None),
    "room": Kind(
        "write_from",
        r"room for \d+ bytes",
        lambda rig, file: file.pwrite(DATA[: 4 * PAGE], 20 * PAGE),
        fill_up,
        config=CROWDED,
    ),
    "memory": Kind(
        "write_from",
        "memory",
        lambda rig, file: file.pwrite(DATA[: 4 * PAGE], 40 * PAGE),
        take_memory,
        config={"capacity": "64KiB"},
    ),
    "an open": Kind("open", "the backend's open", open_other, key="other"),
    "a stat of its own": Kind(
        "stat", "the backend's stat", lambda rig, file: rig.volume.stat("other"), key="other", options=PROMPT
    ),
    "a list": Kind("list", "the backend's list", lambda rig, file: [*rig.volume.list()], key=None),
    "a truncate": Kind("truncate", "the backend's truncate", cut),
    "the name": Kind("open", "the name", open_other, first=open_other, key="other"),
    "a read beside a remove": Kind(
        "remove", "the call that changes the name of the object", read, first=lambda rig, file: rig.volume.remove(KEY)
    ),
    "a detach": Kind("commit", "sync", lambda rig, file: rig.volume.detach(), dirty, key=None),
    "the end of what runs, at a detach": Kind(
        "read_into", ENDS, lambda rig, file: rig.volume.detach(), lambda rig, file: file.prefetch(0, PAGE), key=None
    ),
}


class Stage:
    """A kind of wait up to the moment before its caller waits."""

    def __init__(self, make: Make, name: str) -> None:
        self.kind = kind = KINDS[name]
        config = dict(kind.config)
        capacity = config.pop("capacity", "8MiB")
        self.rig = make({KEY: DATA, "other": DATA}, capacity, limits=kind.options, **config)
        self.file = self.rig.open()
        self.gate = None if kind.fails else self.rig.backend.gate(kind.gate, times=64)
        if kind.fails:
            self.rig.backend.fault(kind.gate, TimeoutError(110, "no answer"))
        kind.before(self.rig, self.file)
        self.tasks: list[Task[Any]] = []
        if kind.first is not None:
            assert self.gate is not None
            self.tasks.append(start("first", kind.first, self.rig, self.file))
            self.gate.wait_entered()
            wait_of(self.rig.cache, "first")

    def call(self) -> object:
        return self.kind.call(self.rig, self.file)

    def seen(self, name: str) -> Wait:
        """The wait, once the report is as expected."""

        kind = self.kind
        owner = OWNERS.get(kind.gate, f"{kind.gate} of the backend") if kind.owner is None else kind.owner

        def expected() -> bool:
            wait = wait_of(self.rig.cache, name)
            call = "" if wait.owner is None else wait.owner.what
            return bool(re.fullmatch(kind.what, wait.what)) and call == owner

        eventually(expected)
        return wait_of(self.rig.cache, name)

    def finish(self) -> None:
        """Release the wait; then check that the report is empty."""
        if self.kind.fails:
            self.rig.volume.abort()
        if self.gate is not None:
            self.gate.open()
        for task in self.tasks:
            assert task.finished.wait(20)
        if held := self.file.__dict__.pop("held", None):
            held.release()
        if not self.rig.cache.closed:
            no_wait_left(self.rig.cache)


@pytest.mark.parametrize("name", KINDS)
def test_a_report_has_the_waiter_and_the_call_that_it_waits_for(make: Make, name: str) -> None:
    """It has the thing, the object, the start, the running call, and the line that this has reached. [T-80, T-81]"""
    stage = Stage(make, name)
    stage.tasks.append(start("waiter", stage.call))
    eventually(lambda: (owner := stage.seen("waiter").owner) is None or owner.place)  # it is about to reach a line
    wait = stage.seen("waiter")
    assert (wait.volume, wait.key, wait.task) == ("volume", stage.kind.key, False)
    if wait.owner is not None:
        assert re.search(r"stores\.py:\d+ in \w+", wait.owner.place or "")
        assert re.fullmatch(r"pagecache-volume-\d+|first|waiter", wait.owner.name or "")
    assert pickle.loads(pickle.dumps(wait)) == wait
    stage.finish()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", KINDS)
def test_an_interrupt_leaves_no_record(make: Make, name: str) -> None:
    """Ctrl-C comes in each of them: the caller is no longer in the report, whatever goes on. [T-80, T-51]"""
    stage = Stage(make, name)
    ready = threading.Event()

    def watch() -> None:
        try:
            stage.seen("MainThread")
        finally:
            ready.set()

    watcher = Task(watch)
    with ctrl_c(ready), pytest.raises(KeyboardInterrupt):
        stage.call()
    watcher.result()
    assert [wait for wait in stage.rig.cache.waits() if wait.name == "MainThread"] == []
    stage.finish()


# -- tasks


@pytest.mark.parametrize("cancelled", [False, True], ids=["goes on", "cancelled"])
@pytest.mark.parametrize(
    ("gate", "what", "owner", "call"),
    [
        ("read_into", "a read or view", READ, lambda file: file.pread(10, 4 * PAGE)),
        ("commit", "an fsync or flush", COMMIT, lambda file: file.fsync()),
        ("truncate", "a truncate or hole", "truncate of the backend", lambda file: file.truncate(PAGE)),
    ],
)
def test_a_task_is_reported_by_its_name(
    make: Make, gate: str, what: str, owner: str, call: Callable[[Any], Any], cancelled: bool
) -> None:
    """It has the call that a thread makes for it, and is gone afterwards, also after a cancellation. [T-80]"""
    rig = make({KEY: DATA})
    plain = rig.open()
    dirty(rig, plain)
    held = rig.backend.gate(gate)

    async def main() -> None:
        task = asyncio.create_task(call(aio.AsyncCachedFile(plain)), name="the task")
        await asyncio.to_thread(held.wait_entered)
        wait = await asyncio.to_thread(wait_of, rig.cache, "the task")
        assert (wait.task, wait.owner and wait.owner.what) == (True, owner)
        assert re.fullmatch(what, wait.what)
        if cancelled:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not [wait for wait in rig.cache.waits() if wait.task]
        held.open()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 60))
    no_wait_left(rig.cache)


# -- the report


def test_a_report_may_be_asked_for_anywhere(make: Make) -> None:
    """In a signal handler in the middle of a wait; a cache at rest has none; an entry is that of `/v1/waits`. [T-80]"""
    rig = make({KEY: DATA})
    assert rig.cache.waits() == []
    found: list[Wait] = []
    gate = rig.backend.gate("read_into")

    def handler(*_: object) -> None:
        found.extend(rig.cache.waits())
        gate.open()

    def send() -> None:
        gate.wait_entered()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = Task(send)
        rig.open().pread(10, 4 * PAGE)
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [wait.name for wait in found] == ["MainThread"]
    assert list(found[0].to_dict()) == [part.name for part in fields(Wait)]
    no_wait_left(rig.cache)


def test_check_finds_a_record_of_a_thread_that_has_ended(make: Make, monkeypatch: Patch) -> None:
    """Such a record would be left if an exit path forgot it. [I-16]"""
    rig = make({KEY: DATA})
    with rig.backend.gate("read_into") as gate:
        task = start("waiter", rig.open().pread, 10, 0)
        gate.wait_entered()
        wait_of(rig.cache)
        monkeypatch.setattr(waits, "current_frames", dict)
        raises(AssertionError, rig.cache.check, match="the waiter is gone")
        monkeypatch.undo()
    task.result()
    no_wait_left(rig.cache)


LOOKS = """
import gc, os, threading
from pagecache.engine.report.waits import current_frames

asked, asks = os.pipe()
answered, answers = os.pipe()
main, looking = threading.get_ident(), False

def begin_threads():
    while os.read(asked, 1) == b"t":
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        os.write(answers, b"t")

def callback(phase, info):  # in the middle of a look another thread begins one, and the look goes on when it has
    if looking and threading.get_ident() == main:
        os.write(asks, b"t")
        os.read(answered, 1)

threading.Thread(target=begin_threads, daemon=True).start()
gc.callbacks.append(callback)
gc.set_threshold(1)
for _ in range(100):
    looking = True
    frames = current_frames()
    looking = False
    assert main in frames
assert gc.isenabled()
print("through")
"""


def test_threads_that_begin_and_a_collector_with_callbacks_stop_no_look(tmp_path: Path) -> None:
    """python/cpython#106883 [T-80]"""
    done = run_program(tmp_path, LOOKS)
    assert done.stdout == "through\n", done.stderr


FORKS = """
import gc, os, signal, sys, threading
from pagecache.engine.report import waits

looks, go_on, frames = threading.Event(), threading.Event(), sys._current_frames

def late():
    looks.set()
    go_on.wait()
    return frames()

sys._current_frames = late
threading.Thread(target=waits.current_frames).start()
looks.wait()
threading.Timer(0.2, go_on.set).start()
child = os.fork()
go_on.set()
if not child:
    signal.alarm(5)
    waits.current_frames()
    os._exit(not gc.isenabled())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_is_forked_beside_a_look_can_look_and_collects(tmp_path: Path) -> None:
    """[T-50, T-80]"""
    done = run_program(tmp_path, FORKS)
    assert done.stdout == "0\n", done.stderr


# -- the log


def test_a_backend_that_hangs_is_in_the_log_once_with_its_line(make: Make, caplog: Log) -> None:
    """The line has volume, thread, thing, object, and the position in the backend's code; the next wait has its own.
    [T-81, T-82]
    """
    rig, file = make({KEY: DATA}, limits=PROMPT, flush_interval=0.02).opened()
    with caplog.at_level(logging.WARNING, "pagecache"):
        for times in (1, 2):
            dirty(rig, file)
            gate, saver = rig.backend.gate("commit"), start("saver", file.fsync)
            gate.wait_entered()
            rig.cache.configure(stall_warn=0.05)
            eventually(lambda times=times: said(caplog) == times)  # type: ignore[misc]
            wait = wait_of(rig.cache, "saver")
            eventually(lambda wait=wait: wait_of(rig.cache, "saver").seconds > wait.seconds + 0.2)  # type: ignore[misc]
            assert said(caplog) == times
            saver.result(opening=gate)
            rig.cache.configure(stall_warn=10.0)
    line = next(r.getMessage() for r in caplog.records if "has waited" in r.getMessage())
    call = r"saver is in a commit of the backend for \d\.\d s, at .*stores\.py:\d+ in \w+"
    assert re.fullmatch(rf"volume: saver has waited \d\.\d s for fsync of 'file': {call}; Volume\.abort or .*", line)


def said(caplog: Log, words: str = "has waited") -> int:
    loglines.outlast(20.0)
    return sum(words in record.getMessage() for record in caplog.records)


def test_a_call_that_the_flusher_names_is_not_logged_twice(make: Make, caplog: Log) -> None:
    """A hanging stat is one line, that of the call; its waiter is in the report. [T-82]"""
    rig = make({KEY: DATA}, stall_warn=0.05, flush_interval=0.02)
    with caplog.at_level(logging.WARNING, "pagecache"), rig.backend.gate("stat") as gate:
        task = start("waiter", rig.volume.stat, KEY)
        gate.wait_entered()
        eventually(lambda: said(caplog, "stat of 'file' has run"))
        wait = wait_of(rig.cache)
        eventually(lambda: wait_of(rig.cache).seconds > wait.seconds + 0.1)
    assert said(caplog) == 0
    task.result()


def test_many_long_waits_are_logged_in_a_few_lines(make: Make, caplog: Log, monkeypatch: Patch) -> None:
    """There are at most LINES lines in WINDOW; one line has the number of the others. [T-82]"""
    monkeypatch.setattr(notices, "LINES", 3)
    monkeypatch.setattr(notices, "WINDOW", 1.0)
    rig, file = make({KEY: DATA}, stall_warn=0.1, flush_interval=0.02).opened()
    dirty(rig, file)
    gate = rig.backend.gate("commit")
    with caplog.at_level(logging.WARNING, "pagecache"):
        tasks = [start(f"waiter-{number}", file.fsync) for number in range(9)]
        more = re.compile(
            r"volume: (\d+) more lines about waits, which PageCache\.waits\(\) lists, were left out in .* s"
        )
        eventually(lambda: sum(int(m[1]) for r in caplog.records if (m := more.fullmatch(r.getMessage()))) == 6)
    assert said(caplog) == 3
    gate.open()
    for task in tasks:
        task.result()
    no_wait_left(rig.cache)
