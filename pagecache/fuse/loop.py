"""A FUSE loop that serves cached data without Python, and calls a file system for the rest.

    kernel ──> workers in C: cached bytes, writes with free memory, attributes of open files
                   └──> Python threads: the file system

It works with any file system: `Server` (`pagecache mount`), or another one with a few methods (`FileSystem`,
docs/how-to/fuse-server.md). It exists if the extension was built with libfuse 3; `why_no_loop()` gives the reason if
not.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from types import TracebackType
from typing import Self

from ..native.loop import LOOP_MISSING, FuseRequest, NativeLoop
from .answers import Answers, FileSystem, has_xattrs
from .loopfile import LoopFile
from .server import Server

log = logging.getLogger("pagecache.fuse")

THREADS = 64
"""Calls that may wait for a backend at the same time."""
ON_THE_WAY_S = 1.0
"""Seconds that an open takes from the kernel's names to this loop."""
KNOWN_TIMEOUT_S, SILENCE_S = 1.0, 5.0
"""Seconds that a file system gets to confirm known values; seconds without further calls after it missed that limit."""


def why_no_loop() -> str:
    """Return why this build has no loop in C; "": it has one."""
    return LOOP_MISSING


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else min(int(seconds * 1e9), 2**62)


class Loop:
    """A mount of a file system, served until it is unmounted or stopped.

    Args:
        system: serves uncached requests; its open files are those of `system.files`.
        mountpoint: a directory.
        words: for the kernel and libfuse, like those after mount(8)'s -o.
        direct_io: the kernel keeps no pages.
        keep_pages: the kernel keeps pages from one open to the next, if `open` reports that they are valid.
        entry_timeout: seconds for which names are valid, in the kernel and in this loop.
        attr_timeout: seconds for which attributes are valid, in the kernel and in this loop.
        timeout: seconds after which a program gets EIO in place of a reply; None or 0: it waits.
        acls: the kernel enforces the POSIX ACLs that the file system has as extended attributes.

    Raises:
        OSError: ENOSYS: there is no loop (`why_no_loop`); EINVAL: not mounted, libfuse has printed the reason on
            stderr; EAGAIN: no thread can be started.
    """

    def __init__(
        self,
        system: FileSystem,
        mountpoint: str | os.PathLike[str],
        *,
        words: str = "default_permissions",
        direct_io: bool = False,
        keep_pages: bool = False,
        entry_timeout: float = 1.0,
        attr_timeout: float = 1.0,
        timeout: float | None = None,
        acls: bool = False,
    ) -> None:
        if LOOP_MISSING:
            raise OSError(errno.ENOSYS, LOOP_MISSING)
        options = {
            "xattrs": has_xattrs(system),
            "entry_ns": _ns(entry_timeout),
            "attr_ns": _ns(attr_timeout),
            "timeout_ns": _ns(timeout),
            "known_timeout_ns": _ns(KNOWN_TIMEOUT_S),
            "silence_ns": _ns(SILENCE_S),
            "workers": min(max(os.cpu_count() or 1, 2), 8),
            "direct_io": direct_io,
            "keep_pages": keep_pages,
            "acls": acls and has_xattrs(system),
        }
        self._system = system
        self._native = NativeLoop(options, words)
        system.files.kind = LoopFile
        if isinstance(system, Server):
            system.nodes.kept_s = entry_timeout + ON_THE_WAY_S
        self._answers = Answers(self._native, system, timeout or None, direct_io=direct_io, acls=acls)
        self._lock = threading.Lock()  # guards the number of threads
        self._threads = 0
        self._stopped = False
        try:
            self._native.mount(os.fspath(mountpoint))
            self._native.start()
            self._more_threads()
        except BaseException:
            self.stop()
            raise

    # -- threads

    def _more_threads(self) -> None:
        with self._lock:
            if self._threads == THREADS:
                return
            self._threads += 1
            name = f"pagecache-fuse-{self._threads}"
        try:
            threading.Thread(target=self._answer, name=name, daemon=True).start()
            self._answers.short = False
        except RuntimeError as error:  # the system's limit: requests wait for the others, and the next one tries again
            self._answers.short = True
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    raise OSError(errno.EAGAIN, str(error)) from None

    def _answer(self) -> None:
        native, request = self._native, FuseRequest()
        nodes = self._system.nodes if isinstance(self._system, Server) else None
        if not native.enter():
            return
        try:
            while native.next(request):
                if not request.idle:  # the next request need not wait for the wait of this call
                    self._more_threads()
                self._answers.answer(request)
                if nodes is not None and nodes.is_crowded():
                    nodes.prune(self.notify)
        finally:
            native.leave(request)

    # -- the kernel's caches

    def invalidate(self, number: int, offset: int = 0, length: int = 0) -> None:
        """Drop the kernel's attributes of a file, and its pages of the range (length 0: to the end), after a foreign
        change. Not from within a call of the file system.
        """
        self._notify("inode", number, offset, length)

    def invalidate_entry(self, parent: int, name: str) -> None:
        """Drop a name that leads elsewhere now, or nowhere."""
        self._notify("entry", parent, os.fsencode(name))

    def notify(self, message: bytes) -> None:
        """Write a message to the kernel that libfuse has no call for.

        Raises:
            OSError: EINVAL: the kernel does not support it.
        """
        self._notify("message", message, len(message))

    def _notify(self, what: str, *arguments: int | bytes) -> None:
        code = self._native.notify(what, *arguments)
        if code not in (0, -errno.ENOENT, -errno.ENOTCONN):  # ENOENT, ENOTCONN: nothing to drop
            raise OSError(-code, os.strerror(-code))

    # -- its end

    def ended_fd(self) -> int:
        """Return a descriptor that is readable once `wait` would return: for polls."""
        return self._native.ended_fd()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the kernel sends no more requests, after an unmount or a lost connection. False: timed out."""
        poll = select.poll()
        poll.register(self._native.ended_fd(), select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def drain(self, timeout: float | None, *, only_saving: bool = False) -> bool:
        """Wait until every call of the file system is over, as after an unmount; False: timed out. `only_saving`: only
        flush, fsync and release, which also run after `stop`.
        """
        return self._native.drain(2**62 if timeout is None else _ns(timeout), only_saving)

    def stop(self, *, unmount: bool = True) -> None:
        """Stop serving: pending requests get EIO, and releases are still made. Files that programs had open stay in
        `system.files`. Idempotent.
        """
        with self._lock:
            stopped, self._stopped = self._stopped, True
        if stopped:
            return
        self._native.stop(unmount)
        for opened in list(self._system.files.by_number.values()):
            if isinstance(opened, LoopFile):
                opened.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        """Stop, and release every file that programs had open."""
        self.stop()
        self._system.files.close()

    # -- counters

    def counts(self) -> dict[str, int]:
        """Return numbers of requests so far: reads, writes and getattrs served without Python; `asked`: calls of
        Python; replies that were late, refused, sent by the deadline, or sent to interrupted calls; `nodes`: open files
        and files that are being changed, now.
        """
        return self._native.counts()
