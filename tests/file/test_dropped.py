"""Caches that were never closed: dropped ones end their threads, and their data does not vanish. The end of the
interpreter is bounded, lists the losses, and leaves the status unchanged, whatever hangs. Forked children share
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import subprocess
import textwrap
import threading
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from multiprocessing import process, util
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, RetryPolicy, closing, loglines
from pagecache.backends import Backend, DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.engine import flusher
from pagecache.testing import FaultyBackend, Gate, Rule
from pagecache.volume import lifetimes

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .rig import FAST, KEY, ONCE, QUIET, Crowd, Log, Patch, Task, at_gate, eventually, held, pattern, run_program

DATA = pattern(10_000)
FULL = OSError(errno.ENOSPC, "no room")


@pytest.fixture(autouse=True)
def warned(monkeypatch: Patch) -> Iterator[list[str]]:
    """The texts of the warnings. The warnings themselves would keep the objects they name alive."""
    gc.collect()  # garbage of earlier tests
    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        monkeypatch.setattr(warnings, "showwarning", lambda message, *args, **kwargs: messages.append(str(message)))
        yield messages
        gc.collect()


Threads = set[threading.Thread]


def threads() -> Threads:
    loglines.outlast(WAIT_LIMIT_S)  # its thread lives while there are lines, of an earlier test, too
    return {thread for thread in threading.enumerate() if thread.name.startswith("pagecache")}


def ended(before: Threads) -> bool:
    """Collect until the objects are gone: the flusher may still use a handle that was collected. Threads of earlier
    tests may end beside this one.
    """
    gc.collect()
    return threads() <= before


def drop(backend: Backend, data: bytes, *, close: bool = False, **config: Any) -> None:
    """Make a cache, write to it, and drop every reference to it."""
    volume = PageCache("1MiB", **{**QUIET, "retry": FAST, **config}).attach(backend)
    file = volume.open(KEY, "r+b")
    file.pwrite(data, 0)
    if close:
        file.close()


def collect(warned: list[str], backend: Backend, data: bytes, **how: Any) -> None:
    """Drop a cache with unsaved data, and collect until the warning that names it."""
    drop(backend, data, **how)
    eventually(lambda: gc.collect() >= 0 and any("unclosed <pagecache.PageCache" in message for message in warned))
    assert [message for message in warned if "PageCache" in message and "unsaved" in message]


def test_threads_of_dropped_caches_end(warned: list[str]) -> None:
    """Fifty caches, nothing unsaved: the process is as before. Without a volume no collection is needed. [2.21]"""
    before = threads()
    cache = PageCache("1MiB")
    assert len(threads() - before) == 1
    del cache
    eventually(lambda: threads() <= before)
    for _ in range(50):
        PageCache("1MiB", **QUIET).attach(RecordingBackend({KEY: DATA}, max_inflight=2)).stat(KEY)
    eventually(lambda: ended(before))
    assert warned == []


@pytest.mark.parametrize(("call", "close"), [("write", False), ("commit", True)], ids=["open", "closed"])
def test_a_dropped_cache_keeps_files_until_saved(warned: list[str], tmp_path: Path, call: str, close: bool) -> None:
    """The collection closes no descriptor of the backend; the bytes are written back and committed. [2.21, 2.22]"""
    before = threads()
    (tmp_path / KEY).touch()
    with Gate() as gate:
        backend = FaultyBackend(DirectoryBackend(tmp_path))
        backend.use([Rule(call, gate=gate)])
        collect(warned, backend, DATA, close=close)
        gate.wait_entered()
    eventually(lambda: ended(before))
    assert (tmp_path / KEY).read_bytes() == DATA


class ClosedOnce(PassingBackend):
    """A backend whose files list their ends, and have a weak reference to it."""

    def __init__(self, store: MemoryBackend) -> None:
        super().__init__(store)
        self.ends: list[str] = []

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file = ClosedOnceFile(self.inner.open(key))
        file.backend, file.ends = weakref.ref(self), self.ends
        return file


class ClosedOnceFile(PassingFile):
    backend: weakref.ref[ClosedOnce]
    ends: list[str]

    def close(self) -> None:
        self.ends.append("closed" if self.backend() else "too late")

    def __del__(self) -> None:
        self.ends.append("finalised")


def test_files_of_a_dropped_cache_are_closed_before_their_finalisers_run(warned: list[str]) -> None:
    """Weak references inside the backend hold until everything is saved, too. [2.21]"""
    before, store = threads(), MemoryBackend()
    store.open(KEY, create=True)
    backend = ClosedOnce(store)
    ends = backend.ends
    collect(warned, backend, DATA)
    del backend
    eventually(lambda: ended(before))
    assert store.snapshot(KEY) == DATA
    eventually(lambda: gc.collect() >= 0 and ends == ["closed", "finalised"])


def test_a_mirror_of_a_dropped_cache_catches_up(warned: list[str], tmp_path: Path) -> None:
    """Its threads slept while the cache was collected. [2.13, 2.21]"""
    before = threads()
    (tmp_path / KEY).touch()
    store = MemoryBackend()
    store.open(KEY, create=True)

    def abandon() -> None:
        volume = PageCache("1MiB", **QUIET).attach(store, mirror=DirectoryBackend(tmp_path))
        file = volume.open(KEY, "r+b")
        file.pwrite(DATA[:5000], 0)
        file.fsync()
        mirror = volume.engine.mirror
        assert mirror is not None
        eventually(lambda: not mirror.busy())
        file.pwrite(DATA, 0)

    abandon()
    eventually(lambda: ended(before))
    assert store.snapshot(KEY) == (tmp_path / KEY).read_bytes() == DATA


def test_a_clean_cache_is_freed_though_its_backend_refers_to_it(warned: list[str]) -> None:
    """Its data was committed and its handle closed before it was dropped. [2.21]"""
    before, backend = threads(), RecordingBackend({KEY: b""})

    def abandon(backend: RecordingBackend) -> None:
        volume = PageCache("1MiB", **{**QUIET, "flush_interval": 0.01}).attach(backend)
        backend.fault("stat", partial(volume.invalidate_remote, KEY), times=0)  # refers to the volume
        with volume.open(KEY, "r+b") as file:
            file.pwrite(DATA, 0)
            file.fsync()

    abandon(backend)
    assert backend.committed(KEY) == DATA
    freed = weakref.ref(backend)
    del backend
    eventually(lambda: ended(before))
    eventually(lambda: gc.collect() >= 0 and freed() is None)


def test_data_that_cannot_be_saved_is_saved_later(warned: list[str], caplog: Log) -> None:
    """It is logged with its ranges and retried by the policy; the threads end. [K1, 2.16, 2.21]"""
    before, backend = threads(), RecordingBackend({KEY: b""})
    fault = backend.fault("write_from", FULL, times=float("inf"))
    policy = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=0.02)
    with caplog.at_level(logging.ERROR, "pagecache"):
        collect(warned, backend, DATA, retry=policy, flush_interval=0.05)
        eventually(lambda: "not saved yet" in caplog.text and KEY in caplog.text)
    hits = fault.nr_hit
    eventually(lambda: fault.nr_hit > hits)
    gc.collect()
    assert threads() - before
    fault.clear()
    eventually(lambda: ended(before))
    assert backend.committed(KEY) == DATA


def test_unpublished_objects_are_listed_not_published(warned: list[str], caplog: Log) -> None:
    """commit_on_close: the writer is gone, so the object keeps its content; the loss is in the log. [T-77, 2.22]"""
    before, backend = threads(), ObjectBackend({KEY: b"as it was"})
    with caplog.at_level(logging.ERROR, "pagecache"):
        collect(warned, backend, DATA)
        eventually(lambda: ended(before))
    assert backend.committed(KEY) == b"as it was"
    assert backend.seen("commit") == []
    assert len(backend.seen("rollback")) == 1
    loglines.outlast(20.0)
    assert "gone" in caplog.text
    assert KEY in caplog.text


@pytest.mark.parametrize("how", ["fails", "hangs"])
@pytest.mark.parametrize("sent", [False, True])
def test_the_losses_of_a_dropped_cache_are_logged_though_a_rollback(
    warned: list[str], caplog: Log, how: str, *, sent: bool
) -> None:
    """`sent`: of an object whose bytes are uploaded in part. There is another one after it."""
    before, backend = threads(), ObjectBackend({KEY: b"as it was", "z": b"as it was"})

    def abandon() -> None:
        volume = PageCache("1MiB", **{**QUIET, "retry": ONCE}).attach(backend)
        for key in (KEY, "z"):
            file = volume.open(key, "r+b")
            file.pwrite(DATA, 0)
            if sent:
                file.flush()

    def listed(key: str) -> bool:
        gc.collect()
        loglines.outlast(20.0)
        return any(f"'{key}'" in line and "was never published; it is gone" in line for line in caplog.messages)

    if how == "fails":
        backend.fault("rollback", FULL, times=float("inf"))
    with caplog.at_level(logging.ERROR, "pagecache"):
        with backend.gate("rollback") if how == "hangs" else contextlib.nullcontext():
            abandon()
            eventually(lambda: listed(KEY) and listed("z"))
        eventually(lambda: ended(before))
        loglines.outlast(20.0)
        assert "not saved yet" not in caplog.text
    assert len([line for line in caplog.messages if "was never published" in line]) == 2
    assert (backend.committed(KEY), backend.committed("z")) == (b"as it was", b"as it was")


def test_an_object_of_a_dropped_cache_that_cannot_be_dropped_keeps_no_other_one(
    warned: list[str], caplog: Log, monkeypatch: Patch
) -> None:
    before, backend = threads(), ObjectBackend({KEY: b"as it was", "z": b"as it was"})
    forsake, order = lifetimes.forsake, list[Any]()
    policy = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=0.02)

    def fails_once(volume: Any, inode: Any, report: Any) -> None:
        order.append(inode.key)
        if len(order) == 1:
            raise OSError(errno.ENOMEM, "no memory for a view")
        forsake(volume, inode, report)

    def abandon() -> None:
        volume = PageCache("1MiB", **{**QUIET, "retry": policy}).attach(backend)
        for key in (KEY, "z"):
            volume.open(key, "r+b").pwrite(DATA, 0)

    monkeypatch.setattr(lifetimes, "forsake", fails_once)
    with caplog.at_level(logging.ERROR, "pagecache"):
        abandon()
        eventually(lambda: ended(before))
    first = order[0]
    assert order == [first, *({KEY, "z"} - {first}), first]
    assert len([line for line in caplog.messages if "was never published; it is gone" in line]) == 2


def test_an_object_that_a_dropped_cache_has_given_up_is_not_given_up_again(warned: list[str], caplog: Log) -> None:
    """Its bytes were uploaded; another object cannot be saved for a while, so the end of the cache is repeated."""
    before, backend = threads(), ObjectBackend({KEY: b"as it was", "z": b"as it was"})
    fault = backend.fault("commit", FULL, times=float("inf"))
    policy = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=0.02)

    def abandon() -> None:
        volume = PageCache("1MiB", **{**QUIET, "retry": policy}).attach(backend)
        closed = volume.open("z", "r+b")
        closed.pwrite(DATA, 0)
        with contextlib.suppress(OSError):
            closed.close()  # the commit fails
        file = volume.open(KEY, "r+b")
        file.pwrite(DATA, 0)
        file.flush()

    with caplog.at_level(logging.ERROR, "pagecache"):
        abandon()
        eventually(lambda: gc.collect() >= 0 and caplog.text.count("not saved yet: ") > 6)
        fault.clear()
        eventually(lambda: ended(before))
        loglines.outlast(20.0)
    assert len([line for line in caplog.messages if "was never published" in line]) == 1
    assert (backend.committed(KEY), backend.committed("z")) == (b"as it was", DATA)


def test_a_rollback_of_a_dropped_cache_that_hangs_keeps_no_other_volume_from_being_saved(warned: list[str]) -> None:
    before, backend, other = threads(), ObjectBackend({KEY: b"as it was"}), RecordingBackend({KEY: b""})
    gate = backend.gate("rollback")

    def both() -> None:
        cache = PageCache("1MiB", **QUIET)
        for store in (backend, other):
            cache.attach(store).open(KEY, "r+b").pwrite(DATA, 0)

    both()
    eventually(lambda: gc.collect() >= 0 and any("unclosed <pagecache.PageCache" in message for message in warned))
    gate.wait_entered()
    eventually(lambda: other.committed(KEY) == DATA)
    gate.open()
    eventually(lambda: ended(before))


def test_the_exception_of_a_with_block_stays_the_primary_one_if_bytes_cannot_be_saved(caplog: Log) -> None:
    """The writer may still decide. [T-77, 2.22]"""
    backend = RecordingBackend({KEY: b"as it was"})
    backend.fault("write_from", FULL, times=float("inf"))
    cache = PageCache("1MiB", retry=ONCE, **QUIET)
    with caplog.at_level(logging.ERROR, "pagecache"), pytest.raises(ZeroDivisionError), cache:
        file = cache.attach(backend).open(KEY, "r+b")
        file.pwrite(DATA, 0)
        raise ZeroDivisionError
    assert backend.committed(KEY) == b"as it was"
    assert "not saved" in caplog.text
    backend.clear_faults()
    file.close()
    assert backend.written(KEY) == DATA
    cache.close()


def test_a_view_keeps_a_dropped_cache() -> None:
    """Every view, handle and volume holds the cache. [2.21]"""
    before = threads()
    view = PageCache("1MiB", **QUIET).attach(RecordingBackend({KEY: DATA})).open(KEY).view(0, 100)
    gc.collect()
    assert threads() - before
    assert view.tobytes() == DATA[:100]
    del view
    gc.collect()
    eventually(lambda: ended(before))


def test_a_dropped_cache_is_saved_when_a_thread_can_start(warned: list[str], monkeypatch: Patch, caplog: Log) -> None:
    """Python refuses the thread that ends the cache; the flusher starts it later, though nothing else wakes it."""
    backend, before = RecordingBackend({KEY: bytes(len(DATA))}), threads()
    start, refused = threading.Thread.start, threading.Event()
    allowed = threading.Event()

    def maybe(thread: threading.Thread) -> None:
        if thread.name == "pagecache-end" and not allowed.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(flusher, "PAUSE", 0.01)
    monkeypatch.setattr(threading.Thread, "start", maybe)
    collect(warned, backend, DATA)
    assert refused.wait(WAIT_LIMIT_S)
    allowed.set()
    eventually(lambda: ended(before))
    assert backend.written(KEY) == DATA
    loglines.outlast(20.0)
    assert [record for record in caplog.records if record.name == "pagecache.internal"] == []


PRELUDE = """
    import errno, gc, os, sys, threading, time
    from pagecache import PageCache
    from pagecache.backends import DirectoryBackend, MemoryBackend
    from pagecache.testing import FaultyBackend, Gate, Rule

    never = Gate()

    def attach(*hung, name="volume", exit_timeout=0.5):
        '''Attach a store whose calls of one kind do not come back.'''
        global cache
        cache = PageCache("1MiB", exit_timeout=exit_timeout, flush_interval=3600, dirty_expire=3600)
        store = DirectoryBackend(os.path.dirname(__file__))
        return cache.attach(FaultyBackend(store, [hangs(each) for each in hung]), name=name)

    def hangs(op):
        return Rule("close", nth=2, gate=never) if op == "close of the backend" else Rule(op, gate=never)

    def an_hour_a_second_after(event):
        # The time that caches live in: nothing comes too late before the event, and every deadline is short after it.
        import pagecache.cache
        since = []
        def now(self):
            real = time.monotonic()
            if not since and event():
                since.append(real)
            return real + 3600 * (real - since[0]) if since else real
        pagecache.cache.Clock.now = now
"""


def run(body: str, tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run_program(tmp_path, textwrap.dedent(PRELUDE) + textwrap.dedent(body), *args)


UNSAVED = {
    "a hung write": ("file = attach('write').open('lost', 'wb'); file.pwrite(bytes(5000), 0)", " [0, 5000)"),
    "an object that was only created": ("file = attach('commit').open('lost', 'wb')", ""),
    "an aborted volume": (
        "v = attach(); file = v.open('lost', 'wb'); file.pwrite(bytes(5000), 0); v.abort(ConnectionError('cable'))",
        " [0, 5000)",
    ),
}


@pytest.mark.parametrize("what", UNSAVED)
@pytest.mark.parametrize(("ending", "status"), [("sys.exit(3)", 3), ("pass", 0), ("1 / 0", 1)])
def test_exit_says_what_was_lost(tmp_path: Path, ending: str, status: int, what: str) -> None:
    """It ends within the deadline; the list is on stderr; the exit status is the program's. [T-52, 2.17, 2.22]"""
    work, ranges = UNSAVED[what]
    done = run(f"{work}\n{ending}", tmp_path)
    assert done.returncode == status
    assert f"not saved: volume: 'lost'{ranges}" in done.stderr


def test_ctrl_c_at_exit_lists_what_is_lost_in_every_cache(tmp_path: Path) -> None:
    """It ends the wait for one cache; the others are saved or listed, too. [2.22]"""
    body = """
        import signal
        kept = []
        for name in ("one", "two", "three"):
            kept += [attach("write", name=name, exit_timeout=3).open("lost", "wb"), cache]
            kept[-2].pwrite(bytes(5000), 0)

        def press():
            never.wait_entered(30)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()
        sys.exit(6)
    """
    done = run(body, tmp_path)
    assert done.returncode == 6
    assert done.stderr.count("KeyboardInterrupt") == 1
    for name in ("one", "two", "three"):
        assert f"not saved: {name}: 'lost' [0, 5000)" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("hung", ["write", "commit", "sync", "close", "close of the backend"])
def test_exit_ends_whatever_hangs(tmp_path: Path, hung: str) -> None:
    """Unsaved objects are listed, saved ones are not; the exit status is the program's. [T-52, 2.22]"""
    body = f"""
        an_hour_a_second_after(lambda: never.entered)
        file = attach("{hung}", exit_timeout=3600).open("thefile", "wb")
        file.pwrite(b"x" * 5000, 0)
        sys.exit(6)
    """
    done = run(body, tmp_path)
    assert done.returncode == 6
    assert ("not saved: volume: 'thefile' [0, 5000)" in done.stderr) == (hung in ("write", "commit"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("hung", "call"),
    [
        ("read", "file.pread(10, 0)"),
        ("write", "file.fsync()"),
        ("commit", "file.fsync()"),
        ("truncate", "file.truncate(3)"),
        ("sync", "(volume.open('made', 'wb').close(), cache.sync())"),  # without a new name it makes no call
        ("stat", "volume.stat('thefile')"),
    ],
)
def test_exit_while_a_call_hangs_in_a_thread(tmp_path: Path, hung: str, call: str) -> None:
    """A thread of the program is inside the cache at that time. [T-52]"""
    body = f"""
        volume = attach()
        with volume.open("thefile", "wb") as first:
            first.pwrite(b"y" * 9000, 0)
        cache.sync()
        volume.invalidate("thefile")
        volume.backend.use([hangs("{hung}")])
        file = volume.open("thefile", "r+b", keep_cache=True)
        file.pwrite(b"x" * 5000, 4096)
        threading.Thread(target=lambda: {call}, daemon=True).start()
        never.wait_entered(30)
        sys.exit(6)
    """
    done = run(body, tmp_path)
    assert done.returncode == 6, done.stderr
    if hung in ("write", "commit", "truncate"):
        assert "not saved: volume: 'thefile'" in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_collects_closes_and_exits_without_a_call(tmp_path: Path) -> None:
    """Handles, views, tickets and the cache itself, collected, closed or left to the exit hook. [T-50, 2.22]"""
    body = """
        store = MemoryBackend()
        backend = FaultyBackend(store)
        cache = PageCache("1MiB", flush_interval=3600, dirty_expire=3600)
        volume = cache.attach(backend, name="volume")
        file = volume.open("thefile", "w+b")
        file.pwrite(b"x" * 5000, 0)
        view, ticket = file.view(0, 100), volume.begin_sync()
        ticket.wait()
        file.pwrite(b"y" * 5000, 0)
        child = os.fork()
        if child == 0:
            from pagecache import ForkedError
            before = len(backend.calls)
            for call in (ticket.wait, ticket.done, lambda: file.view(0, 1), lambda: file.truncate(0),
                         lambda: file.pread(1, 0), lambda: file.pwrite(b"child", 0), file.fsync, volume.sync,
                         lambda: volume.reconnect(MemoryBackend()), volume.abort, volume.detach,
                         lambda: volume.discard("thefile"), cache.close):
                try:
                    call()
                except ForkedError as error:
                    assert error.errno == errno.EOWNERDEAD
                else:
                    if call != ticket.done and call != ticket.wait:
                        os._exit(9)
            view.release()
            del view, ticket, file, volume, cache
            gc.collect()
            if len(backend.calls) != before:
                os._exit(8)
            sys.exit(5)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 5, status
        file.fsync()
        assert store.snapshot("thefile") == b"y" * 5000
        cache.close()
    """
    done = run(body, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_that_is_forked_beside_reads_that_wait_has_reads_of_its_own(tmp_path: Path) -> None:
    """Threads of its cache get the stacks on which the threads of its parent waited. [T-50]"""
    done = run_program(
        tmp_path,
        """
        import os, random, signal, time
        from threading import Thread
        from pagecache import PageCache
        from pagecache.backends import MemoryBackend
        from pagecache.testing import LatencyBackend

        def opened(seconds):
            store, cache = MemoryBackend(), PageCache("4MiB")
            store.open("file", create=True).truncate(4096 * 4096)
            return cache, cache.attach(LatencyBackend(store, read=seconds)).open("file")

        def work(file, seed, rounds):
            choose = random.Random(seed)
            for _ in range(rounds):
                file.pread(4096, choose.randrange(4096) * 4096)

        def start(file, rounds):
            threads = [Thread(target=work, args=(file, k, rounds), daemon=True) for k in range(12)]
            for thread in threads:
                thread.start()
            return threads

        cache, slow = opened(60.0)
        start(slow, 1)
        while len(cache.waits()) < 12:
            time.sleep(0.01)
        child = os.fork()
        if not child:
            signal.alarm(60)
            _, own = opened(0.0005)
            for thread in start(own, 100):
                thread.join()
            os._exit(0)
        os._exit(os.waitpid(child, 0)[1] != 0)
        """,
    )
    assert done.returncode == 0, done.stderr


WRITERS = ["the call", "a thread after the call", "a cache of an import"]


@pytest.mark.parametrize(
    ("method", "writer"),
    [*itertools.product(["fork", "forkserver", "spawn"], WRITERS), ("spawn", "a handler of atexit")],
)
def test_a_worker_process_saves_at_its_end(tmp_path: Path, method: str, writer: str) -> None:
    """It may end by os._exit. A cache that was made before a fork is none of it. [2.22]"""
    (tmp_path / "imported.py").write_text(
        textwrap.dedent("""
        import atexit, sys, threading
        from multiprocessing import util
        from pagecache import PageCache

        def made():
            return PageCache("1MiB", flush_interval=3600, dirty_expire=3600)

        cache = made()

        def work(root, writer):
            file = (cache if writer == "a cache of an import" else made()).attach("dir:" + root).open("saved", "wb")
            ending = threading.Event()
            util.Finalize(None, ending.set, exitpriority=-100)
            if writer == "a thread after the call":
                threading.Thread(target=lambda: (ending.wait(), file.write(b"bytes"))).start()
            elif writer == "a handler of atexit":
                atexit.register(file.write, b"bytes")
            else:
                file.write(b"bytes")
        """)
    )
    done = run_program(
        tmp_path,
        """
        import multiprocessing, sys

        if __name__ == "__main__":
            root, method, writer = sys.argv[1:]
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload([])
            import imported
            process = context.Process(target=imported.work, args=(root, writer))
            process.start()
            process.join()
            sys.exit(process.exitcode)
        """,
        str(tmp_path),
        method,
        writer,
    )
    if (method, writer) == ("fork", "a cache of an import"):
        assert "ForkedError" in done.stderr
    else:
        assert (done.returncode, done.stderr, (tmp_path / "saved").read_bytes()) == (0, "", b"bytes")


def test_two_threads_that_make_the_first_caches_of_a_worker_process_register_one_end_of_it(monkeypatch: Patch) -> None:
    """The threads of two ends would wait for each other, for ever. [2.22]"""
    crowd = Crowd(threading.RLock())
    monkeypatch.setattr(closing, "_registry", crowd)
    monkeypatch.setattr(closing, "_finalizer", None)
    monkeypatch.setattr(process, "parent_process", object)
    made: list[int] = []

    def registered(*_args: object, **_more: object) -> list[int]:
        made.append(1)
        return made

    monkeypatch.setattr(util, "Finalize", registered)
    caches = [PageCache("1MiB") for _ in range(2)]
    monkeypatch.setattr(closing, "_finalizer", None)
    made.clear()
    gate, first = at_gate(held(monkeypatch, util, "Finalize"), closing.opened, caches[0])
    before = crowd.came._value
    second = Task(closing.opened, caches[1])
    eventually(lambda: second.finished.is_set() or crowd.came._value > before)
    first.result(opening=gate)
    second.result()
    assert made == [1]
    for cache in caches:
        cache.close()
