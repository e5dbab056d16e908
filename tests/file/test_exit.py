"""The end of the interpreter: bounded, listed, status unchanged, whatever hangs. Forked children share nothing."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from .rig import run_program

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
        calls = []
        class Noting(MemoryBackend):
            def open(self, key, **options):
                inner = super().open(key, **options)
                class File:
                    def __getattr__(self, name):
                        calls.append((os.getpid(), name))
                        return getattr(inner, name)
                return File()
            def sync(self):
                calls.append((os.getpid(), "sync"))
        cache = PageCache("1MiB", flush_interval=3600, dirty_expire=3600)
        volume = cache.attach(Noting(), name="volume")
        file = volume.open("thefile", "w+b")
        file.pwrite(b"x" * 5000, 0)
        view, ticket = file.view(0, 100), volume.begin_sync()
        ticket.wait()
        file.pwrite(b"y" * 5000, 0)
        child = os.fork()
        if child == 0:
            from pagecache import ForkedError
            before = len(calls)
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
            if [pid for pid, _ in calls if pid == os.getpid()] or len(calls) != before:
                os._exit(8)
            sys.exit(5)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 5, status
        file.fsync()
        assert volume.backend.snapshot("thefile") == b"y" * 5000
        cache.close()
    """
    done = run(body, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
