"""Processes that start quickly: each is forked from one process that has imported everything.

    this process ── socket ──▶ zygote: one thread, all modules imported, nothing else
         │                        └── fork ──▶ main(...) of a module ── ends, or is killed
         └──────── one socket per process: its arguments, and its exit status ──┘

A fork copies one thread alone, and every lock in its state, so a process with more threads must not fork. The zygote
ends when its parent's socket closes, and its children with it (PR_SET_PDEATHSIG). It is in a separate process group, so
that Ctrl-C reaches the parent alone, which decides. It lives while any `prepared` context is open.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn, Self

__all__ = ["START", "Forked", "main", "prepared"]

START = 60.0  # seconds that a loaded machine may take to start a process, and to end one
STDERR_MAX = 8000  # characters of stderr in an error
DUMPED = 2.0  # seconds to write stacks in
FDS = 16
PR_SET_PDEATHSIG = 1
PROGRAM = "import sys; sys.path[:] = {path!r}; from pagecache.stress.zygote import main; main({fd})"

_lock = threading.Lock()  # protects start and end of the zygote
_users = 0
_zygote: tuple[subprocess.Popen[bytes], socket.socket] | None = None


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Keep the zygote that the first `Forked` starts, while this context is open."""
    global _users, _zygote
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            ended, _zygote = (_zygote, None) if not _users else (None, _zygote)
        if ended is not None:
            process, control = ended
            control.close()
            process.wait()


def _control() -> socket.socket:
    """Return the control socket of a running zygote."""
    global _zygote
    with _lock:
        if _zygote is None or _zygote[0].poll() is not None:
            mine, other = socket.socketpair()
            with other:
                process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM.format(path=sys.path, fd=other.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[other.fileno()],
                    process_group=0,
                )
            _zygote = process, mine
        return _zygote[1]


class Forked:
    """A process; a context manager that leaves none behind.

    Args:
        module: its `main` is called there, with descriptors that are `fds` here, and then with the arguments.
        arguments: they are pickled, and unpickled with the modules, environment and directory of this process.
    """

    def __init__(self, module: str, fds: Sequence[int], *arguments: Any) -> None:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(prepared())
        self._status: int | None = None
        self._errors = self._stack.enter_context(os.fdopen(os.memfd_create("pagecache-stress-errors"), "w+b"))
        self._socket, other = socket.socketpair()
        self._stack.enter_context(self._socket)
        with other:
            socket.send_fds(_control(), [b"."], [other.fileno(), self._errors.fileno(), *fds])
        here = pickle.dumps((sys.path, dict(os.environ), os.getcwd(), module))
        with contextlib.suppress(BrokenPipeError):  # it has failed, and reports how
            for data in (here, pickle.dumps(arguments)):
                self._socket.sendall(len(data).to_bytes(8, "little") + data)
        _data, received, _flags, _address = socket.recv_fds(self._socket, 1, 1)
        if not received:
            self._stack.close()
            raise OSError("a process could not be started")
        self._pidfd = received[0]
        self._stack.callback(os.close, self._pidfd)

    def wait(self, seconds: float) -> int | None:
        """Wait and return the exit status: 0, or minus a signal; None: it runs."""
        if self._status is None and select.select([self._socket], [], [], seconds)[0]:
            data = self._socket.recv(8)
            self._status = int.from_bytes(data, "little", signed=True) if len(data) == 8 else -signal.SIGKILL
        return self._status

    def errors(self) -> str:
        """Return the end of its stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-STDERR_MAX:].strip()

    def stacks(self) -> str:
        """Return the stacks of its threads, which it writes itself."""
        if self.wait(0) is None:
            before = os.fstat(self._errors.fileno()).st_size
            signal.pidfd_send_signal(self._pidfd, signal.SIGUSR1)
            end = time.monotonic() + DUMPED
            while os.fstat(self._errors.fileno()).st_size == before and time.monotonic() < end:
                time.sleep(0.01)
            self.wait(0.1)  # the remainder
        return self.errors()

    def kill(self) -> None:
        """Kill the process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.wait(START)  # a system call that does not return delays its death
        self._stack.close()


# ---------------------------------------------------------------------------------------------- in the zygote


def main(control: int) -> None:
    """Fork processes and report their exit statuses, until the parent is gone."""
    for name in ("killed", "processes"):
        import_module(f"pagecache.stress.{name}")
    requests = socket.socket(fileno=control)
    born: dict[int, tuple[int, socket.socket]] = {}  # descriptor of a process -> its number, its socket
    while True:
        for fd in select.select([control, *born], [], [])[0]:
            if fd != control:
                _ended(fd, *born.pop(fd))
                continue
            data, fds, _flags, _address = socket.recv_fds(requests, 1, FDS)
            if not data:
                os._exit(0)
            parent, pid = os.getpid(), os.fork()
            if not pid:
                for other, (_pid, reports) in born.items():
                    os.close(other)
                    reports.close()
                requests.close()
                _live(fds, parent)
            reports = socket.socket(fileno=fds[0])
            for one in fds[1:]:
                os.close(one)
            pidfd = os.pidfd_open(pid)
            with contextlib.suppress(OSError):  # the parent no longer listens
                socket.send_fds(reports, [b"."], [pidfd])
            born[pidfd] = pid, reports


def _ended(pidfd: int, pid: int, reports: socket.socket) -> None:
    _pid, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with reports, contextlib.suppress(OSError):
        reports.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))


def _live(fds: list[int], parent: int) -> NoReturn:
    """Run the new process."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent has ended since the fork
            os._exit(status)
        os.dup2(fds[1], 2)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        with socket.socket(fileno=fds[0]) as requests, requests.makefile("rb") as stream:
            sys.path[:], environment, folder, module = pickle.loads(_next(stream))
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            call, arguments = import_module(module).main, pickle.loads(_next(stream))
        call(*fds[2:], *arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(status)


def _next(stream: Any) -> bytes:
    length = int.from_bytes(stream.read(8), "little")
    data: bytes = stream.read(length)
    return data
