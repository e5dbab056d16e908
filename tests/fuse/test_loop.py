"""The loop in C below simple file systems: which calls reach Python, and the outcome for programs when it is silent.

Whatever a test breaks, a request that Python does not answer ends by its deadline in C: no test waits forever.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, Volume
from pagecache.backends import DirectoryBackend
from pagecache.fuse import Attributes, Files, Loop, Server, serving
from pagecache.fuse import loop as loops
from pagecache.fuse.mount import Mount
from pagecache.fuse.options import MountOptions
from pagecache.native.loop import FuseRequest
from pagecache.testing import FaultyBackend, Gate, Rule
from tests.stores import ObjectBackend

from ..file.rig import Patch, Task, beside, eventually, raises
from .mounts import code, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]
PAGE = 4096
LONG = 60.0


class Plain:
    """A file "a", and calls that a test may replace."""

    def __init__(self, volume: Volume) -> None:
        self.files = Files(volume)
        self.before: Callable[[str], object] = lambda name: None
        self.forgotten: list[tuple[int, int]] = []
        self.hangs, self.go_on = threading.Semaphore(0), threading.Event()

    def hang_in(self, *names: str) -> None:
        """Let these calls hang until `go_on`; `hangs` is released by each."""

        def hang(name: str) -> None:
            if name in names:
                self.hangs.release()
                assert self.go_on.wait(LONG)

        self.before = hang

    def getattr(self, number: int) -> Attributes:
        self.before("getattr")
        mode = stat.S_IFDIR | 0o755 if number == 1 else stat.S_IFREG | 0o644
        size = 0 if number == 1 else self.files.size("a")
        return Attributes(number, mode, 1, os.getuid(), os.getgid(), size, 0, 0, 0)

    def lookup(self, parent: int, name: str) -> Attributes:
        self.before("lookup")
        if name != "a":
            raise FileNotFoundError(errno.ENOENT, name)
        return self.getattr(2)

    def open(self, number: int, flags: int) -> tuple[int, bool]:
        self.before("open")
        return self.files.open("a", flags), True

    def forget(self, number: int, times: int) -> None:
        self.forgotten.append((number, times))


@pytest.mark.parametrize("direct_io", [True, False])
def test_requests_for_cached_bytes_never_enter_python(volume: Volume, mnt: Path, store: Path, direct_io: bool) -> None:
    """Reads, writes, and attributes after them."""
    with Loop(Server(volume), mnt, direct_io=direct_io, attr_timeout=3600, entry_timeout=3600, timeout=LONG) as loop:
        fd = os.open(mnt / "a", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"x" * 2 * PAGE)
        assert loop.drain(LONG)  # changes of a call may be reported after its answer
        os.fstat(fd)
        assert loop.drain(LONG)
        asked = loop.counts()["asked"]
        for number in range(50):
            assert os.pwrite(fd, b"%02d" % number, number) == 2
            assert os.pread(fd, 2, number) == b"%02d" % number
            assert os.fstat(fd).st_size == 2 * PAGE
        os.pwrite(fd, b"end", 2 * PAGE)
        found = os.fstat(fd)
        assert found.st_size == 2 * PAGE + 3
        counts = loop.counts()
        assert counts["nodes"] == 1
        assert counts["asked"] == asked
        assert counts["writes"] >= 51
        assert counts["getattrs"] > 0
        os.close(fd)
        assert (store / "a").stat().st_size == 2 * PAGE + 3
        assert os.stat(mnt / "a").st_mtime_ns >= found.st_mtime_ns - 10**9


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_call_that_raises_is_an_error_at_once_and_nothing_else(
    volume: Volume, mnt: Path, store: Path, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """The error does not wait for the deadline, which a loop need not have; the thread and the loop go on."""
    (store / "a").write_bytes(b"a")
    system = Plain(volume)

    def fail(name: str) -> None:
        raise error

    with Loop(system, mnt, attr_timeout=0, entry_timeout=0, timeout=20) as loop:
        system.before = fail
        assert code((mnt / "a").stat) == errno.EIO
        assert loop.counts()["expired"] == 0
        system.before = lambda name: None
        assert (mnt / "a").read_bytes() == b"a"
        assert code((mnt / "b").mkdir) == errno.ENOSYS  # it has no such method
    assert "failed with an unexpected error" in caplog.text


def test_a_call_that_hangs_is_eio_in_time_and_its_late_answer_is_taken_back(
    volume: Volume, mnt: Path, store: Path
) -> None:
    (store / "a").write_bytes(b"a")
    system = Plain(volume)
    with Loop(system, mnt, attr_timeout=0, entry_timeout=0, timeout=0.2) as loop:
        fd = os.open(mnt / "a", os.O_RDONLY)
        os.pread(fd, 1, 0)
        system.hang_in("lookup")
        assert code((mnt / "a").stat) == errno.EIO
        assert os.pread(fd, 1, 0) == b"a"  # cached bytes are read at the same time
        system.go_on.set()
        assert loop.drain(LONG)
        assert (2, 1) in system.forgotten
        system.before = lambda name: None
        os.close(fd)
        assert loop.drain(LONG)
        system.go_on.clear()
        system.hang_in("open")
        assert code(lambda: os.open(mnt / "a", os.O_RDONLY)) == errno.EIO
        system.go_on.set()
        assert loop.drain(LONG)
        assert system.files.by_number == {}  # a late answer was released
        assert loop.counts()["late"] >= 2


@pytest.mark.parametrize("timeout", [None, 0, 0.0])
def test_a_mount_without_a_deadline_waits(volume: Volume, mnt: Path, store: Path, timeout: float | None) -> None:
    (store / "a").touch()
    with Loop(Plain(volume), mnt, timeout=timeout):
        fd = os.open(mnt / "a", os.O_RDWR)
        os.write(fd, b"new")
        os.fsync(fd)
        os.close(fd)
    assert (store / "a").read_bytes() == b"new"


class Lister(Plain):
    """The same, with a listing."""

    def entries(self, number: int) -> list[tuple[str, Attributes]]:
        return [("a", self.getattr(2))]


@pytest.mark.parametrize("direct_io", [True, False])
def test_a_directory_is_read_while_a_lookup_in_it_waits_for_the_store(
    volume: Volume, mnt: Path, store: Path, direct_io: bool
) -> None:
    """Otherwise the kernel itself holds the other calls, and no signal ends them."""
    if subprocess.run(["pkg-config", "--atleast-version=3.13", "fuse3"], check=False).returncode:
        pytest.skip("replies of an older libfuse cannot allow this")
    (store / "a").write_bytes(b"a")
    system = Lister(volume)
    system.hang_in("lookup")
    with Loop(system, mnt, direct_io=direct_io, timeout=2 * LONG):
        waiting = Task((mnt / "b").exists)
        try:
            assert system.hangs.acquire(timeout=LONG)
            system.before = lambda name: None  # for later calls
            assert Task((mnt / "a").read_bytes).result() == b"a"
            assert Task(os.listdir, mnt).result() == ["a"]
        finally:
            system.go_on.set()
        assert waiting.result() is False


def test_a_program_that_is_killed_does_not_wait(volume: Volume, mnt: Path, store: Path) -> None:
    """A signal that does not kill is ignored by the loop."""
    (store / "a").write_bytes(b"a")
    system = Plain(volume)
    system.hang_in("lookup")
    program = "import os, signal, sys; signal.signal(signal.SIGUSR1, lambda *_: None); os.stat(sys.argv[1])"
    with Loop(system, mnt, timeout=None) as loop:
        command = [sys.executable, "-c", program, str(mnt / "a")]
        with subprocess.Popen(command) as killed:
            assert system.hangs.acquire(timeout=LONG)
            killed.kill()
            assert killed.wait(LONG) == -signal.SIGKILL
        assert loop.counts()["interrupted"] == 1
        with subprocess.Popen(command) as goes_on:
            assert system.hangs.acquire(timeout=LONG)
            goes_on.send_signal(signal.SIGUSR1)
            system.go_on.set()
            assert goes_on.wait(LONG) == 0
        assert loop.counts()["interrupted"] == 1


def test_a_program_that_is_killed_after_another_signal_does_not_wait(volume: Volume, mnt: Path, store: Path) -> None:
    """The kernel reports the first signal only."""
    (store / "a").write_bytes(b"a")
    system = Plain(volume)
    program = "import os, signal, sys; signal.signal(signal.SIGUSR1, lambda *_: None); os.open(sys.argv[1], 0)"
    command = [sys.executable, "-c", program]
    with Loop(system, mnt, attr_timeout=3600, entry_timeout=3600, timeout=None) as loop:
        (mnt / "a").stat()
        system.hang_in("lookup", "open")
        with subprocess.Popen([*command, str(mnt / "b")]) as signalled:
            try:
                assert system.hangs.acquire(timeout=LONG)
                signalled.send_signal(signal.SIGUSR1)
                status = Path(f"/proc/{signalled.pid}/status")
                eventually(lambda: "State:\tD" in status.read_text())  # reported
                with subprocess.Popen([*command, str(mnt / "a")]) as behind:
                    assert system.hangs.acquire(timeout=LONG)
                    behind.kill()
                    assert behind.wait(LONG) == -signal.SIGKILL  # the loop has looked at both
                assert loop.counts()["interrupted"] == 1
                signalled.kill()
                assert signalled.wait(LONG) == -signal.SIGKILL
                assert loop.counts()["interrupted"] == 2
            finally:
                system.go_on.set()


def test_the_loop_keeps_its_file_system(volume: Volume, mnt: Path, store: Path) -> None:
    """It lives as long as it gets calls, even if every other reference is gone; and it goes with the loop."""
    (store / "a").write_bytes(b"a")
    system = Plain(volume)
    gone, files = weakref.ref(system), system.files
    loop = Loop(system, mnt, timeout=LONG)
    del system
    gc.collect()
    assert (mnt / "a").read_bytes() == b"a"
    loop.stop()
    del loop
    eventually(lambda: not any(one.name.startswith("pagecache-fuse-") for one in threading.enumerate()))
    files.close()
    del files
    gc.collect()
    assert gone() is None


def test_the_kernel_is_notified_of_changes_by_others(volume: Volume, mnt: Path, store: Path) -> None:
    """The kernel drops pages of a range, and unknown ones."""
    (store / "a").write_bytes(b"a" * 2 * PAGE)
    with Loop(Plain(volume), mnt, keep_pages=True, attr_timeout=3600, entry_timeout=3600, timeout=LONG) as loop:
        with (mnt / "a").open("rb", buffering=0) as file:
            assert file.read() == b"a" * 2 * PAGE
            reads = loop.counts()["reads"] + loop.counts()["asked"]
            os.pread(file.fileno(), PAGE, 0)
            assert loop.counts()["reads"] + loop.counts()["asked"] == reads  # by the kernel
            loop.invalidate(2, 0, PAGE)
            assert os.pread(file.fileno(), 2, PAGE - 1) == b"aa"
            assert loop.counts()["reads"] + loop.counts()["asked"] > reads
        loop.invalidate(77)
        loop.invalidate_entry(1, "unknown")
    loop.invalidate(2)  # the node no longer exists


@pytest.mark.parametrize("first", [True, False])
def test_a_mount_serves_with_the_threads_that_could_be_started(
    volume: Volume, mnt: Path, store: Path, monkeypatch: Patch, first: bool
) -> None:
    """Later requests try again; a mount without any thread is refused, and gone."""
    genuine, refused = threading.Thread.start, threading.Semaphore(0)
    refuses = f"pagecache-fuse-{1 if first else 2}"

    def start(thread: threading.Thread) -> None:
        if thread.name == refuses and not refused.acquire(blocking=False):
            refused.release()
            raise RuntimeError("can't start new thread")
        genuine(thread)

    (store / "a").write_bytes(b"a")
    monkeypatch.setattr(threading.Thread, "start", start)
    if first:
        assert raises(OSError, Loop, Server(volume), mnt).errno == errno.EAGAIN
        assert not os.path.ismount(mnt)
        return
    with Loop(Server(volume), mnt, timeout=LONG) as loop:
        for _ in range(2):
            assert run("cat", mnt / "a") == "a"
    assert not loop._answers.short
    assert not refused.acquire(blocking=False)  # it was started at last


@pytest.mark.parametrize("direct_io", [True, False])
@pytest.mark.parametrize("how", ["open", "sh", "descriptor", "beside"])
def test_an_append_is_behind_the_appends_of_other_programs(
    volume: Volume, mnt: Path, store: Path, monkeypatch: Patch, how: str, direct_io: bool
) -> None:
    """Also by /proc/self/fd/N, without a lookup, and beside an open file; appends of the mount cost no second open."""
    path, expected = mnt / "log", b"0"
    (store / "log").write_bytes(expected)
    server = Server(volume)
    with Loop(server, mnt, direct_io=direct_io, attr_timeout=3600, entry_timeout=3600, timeout=LONG) as loop:
        assert path.stat().st_size == 1
        beside = os.open(path, os.O_PATH if how in ("open", "sh", "descriptor") else os.O_RDONLY)
        opened = mnt / "log" if how != "descriptor" else Path(f"/proc/self/fd/{beside}")
        opens: list[int] = []
        genuine = server.open

        def counted(*arguments: Any) -> tuple[int, bool]:
            opens.append(1)
            return genuine(*arguments)

        monkeypatch.setattr(server, "open", counted)
        for number in range(1, 6):
            if number % 2:
                with (store / "log").open("ab") as other:
                    other.write(b"other")
            if how == "sh":
                run("sh", "-c", f"printf {number} >> {path}")
            else:
                fd = os.open(opened, os.O_WRONLY | os.O_APPEND)
                os.write(fd, b"%d" % number)
                os.close(fd)
            expected += b"other%d" % number if number % 2 else b"%d" % number
            assert (store / "log").read_bytes() == expected
            assert loop.drain(LONG)
        os.close(beside)
        assert len(opens) == 5 + 3


@pytest.mark.parametrize("readers", [12, loops.THREADS])
def test_cached_bytes_are_read_while_many_programs_wait_for_the_store(
    mnt: Path, store: Path, monkeypatch: Patch, readers: int
) -> None:
    """The kernel reads pages in the background, and sends 12 such requests at a time unless a server allows more. Those
    that it allows leave threads to other calls.
    """
    names, reads = [f"slow{number}" for number in range(readers)], threading.Semaphore(0)
    for name in ("cached", *names):
        (store / name).write_bytes(b"a" * 16 * PAGE)

    def read(name: str) -> bytes:  # of one page, so that its readahead cannot be left out
        with (mnt / name).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), PAGE, 0)

    faulty = FaultyBackend(DirectoryBackend(store))
    with PageCache("8MiB") as cache, Gate() as gate:
        server = Server(cache.attach(faulty))
        with server.volume.open("cached") as file:
            file.pread(16 * PAGE, 0)
        faulty.use([Rule("read", key=name, gate=gate) for name in names])
        with Loop(server, mnt, timeout=2 * LONG) as loop:
            genuine = loop._answers._read

            def counted(request: FuseRequest) -> bytes:
                reads.release()
                return genuine(request)

            monkeypatch.setattr(loop._answers, "_read", counted)
            slow = [Task(read, name) for name in names]
            try:
                assert all(reads.acquire(timeout=LONG) for _ in range(min(readers, 48)))
                if readers == 12:
                    assert Task(read, "cached").result() == b"a" * PAGE
                else:
                    assert not reads.acquire(timeout=0.5)
            finally:
                gate.release()
            assert [task.result() for task in slow] == [b"a" * PAGE] * len(names)


def test_an_unmount_under_load(volume: Volume, mnt: Path, store: Path) -> None:
    """Programs get errors, and none waits."""
    (store / "a").write_bytes(b"a" * 4 * PAGE)
    script = (
        "import os, sys\nfd = os.open(sys.argv[1], os.O_RDWR)\nprint(flush=True)\n"
        "while True: os.pwrite(fd, os.pread(fd, 9000, 0), 0)"
    )
    system = Plain(volume)
    with Loop(system, mnt, direct_io=True, timeout=LONG) as loop:
        programs = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(mnt / "a")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for _ in range(2)
        ]
        for program in programs:
            assert program.stdout is not None
            program.stdout.readline()
        run("umount", "-f", "-l", mnt)
        assert loop.wait(LONG)
        for program in programs:
            assert program.wait(LONG) == 1
            assert program.stdout is not None
            program.stdout.close()
    system.files.close()


def test_files_whose_releases_wait_for_a_thread_at_an_unmount_are_saved(mnt: Path, monkeypatch: Patch) -> None:
    """Their programs have closed them without an error. The kernel has sent them all."""
    monkeypatch.setattr(loops, "THREADS", 1)
    store, names = ObjectBackend({}), [f"n{number}" for number in range(20)]
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        loop = Loop(server, mnt, timeout=2 * LONG)
        fds = [os.open(mnt / name, os.O_CREAT | os.O_WRONLY) for name in names]  # not written: a flush commits nothing
        commit, go_on, genuine = store.gate("commit"), threading.Event(), server.flush

        def flush(fh: int) -> None:
            assert go_on.wait(LONG)
            genuine(fh)

        server.flush = flush  # type: ignore[method-assign]
        before = loop.counts()["asked"]
        programs = [Task(os.close, fd) for fd in fds]
        eventually(lambda: loop.counts()["asked"] >= before + len(names))
        go_on.set()
        for program in programs:
            program.result()
        commit.wait_entered()  # in the release of one file; those of the others are queued
        eventually(lambda: loop.counts()["asked"] >= before + 2 * len(names))
        run("fusermount3", "-u", mnt)
        assert loop.wait(LONG)
        loop.stop(unmount=False)
        complaints: list[str] = []
        mount = Mount(MountOptions(url="memory:", mountpoint=str(mnt)), print, complaints.append)
        mount.cache, mount.volume, mount.server, mount.loop = cache, server.volume, server, loop
        beside(monkeypatch, loop, "drain", commit.open)
        assert (mount._save(), complaints) == (0, [])
        assert [store.committed(name) for name in names] == [b""] * len(names)


def test_without_the_extension_nothing_can_be_mounted(
    volume: Volume, mnt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serving.why_cannot_serve() == ""
    monkeypatch.setattr(serving, "why_no_loop", lambda: "it is not there")
    assert serving.why_cannot_serve().startswith("it is not there; install libfuse")
    assert "apt install fuse3 libfuse3-dev pkg-config" in serving.why_cannot_serve()
    assert serving.why_cannot_serve().endswith("pip install . in a checkout of libpagecache")
    monkeypatch.setattr(loops, "LOOP_MISSING", "it is not there")
    assert raises(OSError, Loop, Server(volume), mnt, match="it is not there").errno == errno.ENOSYS


class Known(Plain):
    """It knows the last attributes of a file while the store is silent."""

    def known(self, number: int) -> Attributes | None:
        return Plain.getattr(self, number) if number == 2 else None


def test_a_file_that_was_just_opened_has_its_last_known_attributes_if_the_store_is_silent(
    volume: Volume, mnt: Path, store: Path
) -> None:
    """No handler has returned them since the open. [2.25]"""
    (store / "a").write_bytes(b"x" * PAGE)
    system, goes_on = Known(volume), threading.Event()
    with Loop(system, mnt, attr_timeout=0, entry_timeout=0, timeout=LONG):
        fd = os.open(mnt / "a", os.O_RDONLY)
        system.before = lambda name: name == "getattr" and not goes_on.wait(LONG)
        try:
            asking = Task(os.fstat, fd)
            assert asking.result().st_size == PAGE
            assert not goes_on.is_set()
        finally:
            goes_on.set()
            os.close(fd)


@pytest.mark.parametrize("new", [False, True])
def test_an_open_that_is_answered_too_late_publishes_nothing(mnt: Path, new: bool) -> None:
    store = ObjectBackend({})
    if not new:
        store.put("a", b"confirmed")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        with Loop(server, mnt, timeout=1.0) as loop:
            gate = store.gate("open")
            flags = os.O_WRONLY | os.O_TRUNC | (os.O_CREAT if new else 0)
            task = Task(os.open, mnt / "a", flags)
            gate.wait_entered()
            with pytest.raises(OSError) as caught:
                task.result()  # at the deadline of the loop
            assert caught.value.errno == errno.EIO
            gate.open()
            assert loop.drain(20)
            eventually(lambda: not server.files.by_number)
            cache.sync(20)
            assert store.committed("a") == (None if new else b"confirmed")


def test_an_open_that_is_answered_too_late_keeps_no_pages_of_the_version_before(
    volume: Volume, mnt: Path, store: Path
) -> None:
    (store / "a").write_bytes(b"old")
    server, ended, go_on = Server(volume), threading.Event(), threading.Event()
    genuine = server.open

    def held(*arguments: Any) -> tuple[int, bool]:
        found = genuine(*arguments)
        ended.set()
        assert go_on.wait(LONG)
        return found

    with Loop(server, mnt, keep_pages=True, attr_timeout=3600, entry_timeout=3600, timeout=1.0) as loop:

        def read() -> bytes:  # without fstat: by another time the kernel knows that its pages are old
            fd = os.open(mnt / "a", os.O_RDONLY)
            found = os.pread(fd, 3, 0)
            os.close(fd)
            assert loop.drain(LONG)
            return found

        assert read() == b"old"
        (store / "a").write_bytes(b"new")
        os.utime(store / "a", ns=(0, 0))
        server.open = held  # type: ignore[method-assign, assignment]
        task = Task(os.open, mnt / "a", os.O_RDONLY)
        assert ended.wait(LONG)
        assert code(task.result) == errno.EIO
        go_on.set()
        assert loop.drain(LONG)
        assert read() == b"new"
        before = loop.counts()
        assert read() == b"new"  # from the kernel's pages
        assert loop.counts()["reads"] == before["reads"]
        assert loop.counts()["asked"] > before["asked"]
