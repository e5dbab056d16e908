"""Real mounts: a server process of the command `pagecache mount`, and an end that always comes.

A program that waits for a file system waits forever when its server hangs, and cannot be killed. So the server of each
mount is killed after some time, which ends all waits with an error. At the end the mount is removed, by a lazy unmount
if necessary, before the next test begins.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from pagecache import PageCache
from pagecache.fuse import Loop, Server
from pagecache.fuse.errnos import errno_of
from pagecache.fuse.serving import why_cannot_serve
from pagecache.observe.client import ask

__all__ = [*("KINDS", "Mounted", "code", "folder_for_everybody", "maps_shared", "needs_mounts", "run"), "why_no_mounts"]

KINDS = ["--direct-io", "--kernel-cache"]
"""Options of all kinds of mounts."""
LONGEST = 120.0
"""Seconds after which a server is killed."""
START = 60.0
END = 30.0


def why_no_mounts() -> str:
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse here"
    if shutil.which("fusermount3") is None:
        return "there is no fusermount3 here: apt install fuse3"
    if why := why_cannot_serve():
        return why
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be used by this user"
    return ""


@functools.cache
def _maps_shared_with_direct_io() -> bool:
    with (
        tempfile.TemporaryDirectory() as folder,
        PageCache("1MiB") as cache,
        Loop(Server(cache.attach("memory:")), folder, timeout=10.0, direct_io=True),
        open(os.path.join(folder, "file"), "w+b", buffering=0) as file,
    ):
        file.truncate(mmap.PAGESIZE)
        try:
            mmap.mmap(file.fileno(), mmap.PAGESIZE).close()
        except OSError:
            return False
    return True


def maps_shared(options: Sequence[str]) -> bool:
    """Return whether programs can map files of a mount with these options shared."""
    return "--direct-io" not in options or _maps_shared_with_direct_io()


needs_mounts = pytest.mark.skipif(bool(why_no_mounts()), reason=why_no_mounts() or "mounts work")


def run(*command: str | Path, cwd: Path | None = None, timeout: float = 60.0, status: int = 0) -> str:
    """Run a program and return its output, standard error included."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"},
        check=False,
    )
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


class Mounted:
    """A mount of `pagecache mount URL DIR -f`, from `start` to `stop`.

    Args:
        folder: for the mountpoint, the log and the sockets.
        url: of the backend.
        options: of the command.
        longest: seconds after which the server is killed.
    """

    def __init__(self, folder: Path, url: str, *options: str, longest: float = LONGEST) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "mnt"
        self.path.mkdir(exist_ok=True)
        self.log = folder / "log"
        self.stats = folder / "stats"
        self.url = url
        self.options = list(options)
        self._folder = folder
        self._longest = longest
        self._timer: threading.Timer | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the server and return when the mount can be used."""
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        where = str(self._folder / "notify")
        with notified, self.log.open("ab") as log:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(where)
            notified.bind(where)
            notified.settimeout(0.5)
            # Whatever happens to the tests: a server whose parent is gone saves, unmounts and ends.
            command = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
            command += [sys.executable, "-m", "pagecache", "mount", self.url, str(self.path), "-f"]
            command += ["--stats", str(self.stats), *self.options]
            environment = {**os.environ, "NOTIFY_SOCKET": where}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            self._timer = threading.Timer(self._longest, self.process.kill)
            self._timer.daemon = True
            self._timer.start()
            for _ in range(int(START / 0.5)):
                try:
                    if b"READY=1" in notified.recv(4096):
                        return self
                except TimeoutError:
                    if self.process.poll() is not None:
                        break
        self.stop()
        raise AssertionError(f"it did not mount: {self.said()}")

    def said(self) -> str:
        """The server's output."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """Kill the server with kill -9: the mount stays, and answers nothing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(END)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END)

    def unmount(self) -> int:
        """Unmount as users do; return the exit status of the server."""
        run("fusermount3", "-u", self.path, timeout=END)
        return self.wait()

    def wait(self) -> int:
        """Wait for the server, which is about to end; return its exit status."""
        assert self.process is not None
        return self.process.wait(END)

    def stop(self) -> int | None:
        """End it in any state: not mounted, no process. Return its exit status."""
        if self._timer is not None:
            self._timer.cancel()
        self._take_away()
        process = self.process
        if process is None:
            return None
        try:
            return process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            self._take_away("-z")

    def _take_away(self, *how: str) -> None:
        if str(self.path).replace(" ", r"\040") not in Path("/proc/self/mounts").read_text():
            return
        done = subprocess.run(
            ["fusermount3", "-u", *how, str(self.path)], timeout=END, capture_output=True, check=False
        )
        if done.returncode and not how:
            self._take_away("-z")

    def number(self, name: str) -> int:
        """A counter of the cache below."""
        return int(ask(str(self.stats), "/v1/stats", timeout=30)["cache"]["counters"][name])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def folder_for_everybody() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        (folder / "store").mkdir()
        for path in (folder, folder / "store"):
            path.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def code(call: Callable[..., object], *arguments: object) -> int | None:
    """Make a call; return the errno of its error, or None."""
    try:
        call(*arguments)
    except OSError as error:
        return errno_of(error)
    return None


def names(path: Path) -> Sequence[str]:
    return sorted(os.listdir(path))
