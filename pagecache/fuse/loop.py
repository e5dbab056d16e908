"""A FUSE loop that answers what is cached without Python, and asks a file system of yours for the rest.

    kernel ──> workers in C: bytes that are cached, room for what is written, names and attributes that are known
                   └──> threads of Python's: your file system

The same for any file system: `Server` (`pagecache mount`), or one of your own with a few methods (`FileSystem`,
docs/how-to/fuse-server.md). It is there where the extension was built with libfuse 3; `why_no_loop()` says why not.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from types import TracebackType
from typing import Self

from ..native.loop import LOOP_MISSING, Asked, NativeLoop
from .answers import Answers, FileSystem, has_xattrs
from .loopfile import LoopFile

__all__ = ["Loop", "why_no_loop"]

log = logging.getLogger("pagecache.fuse")

THREADS = 64
"""Calls that may wait for a backend at once."""
PATIENCE, SILENCE = 1.0, 5.0
"""Seconds that a file system has to say what is known; and for which it is not asked again when it says nothing."""


def why_no_loop() -> str:
    """Why there is no loop in C here; empty: there is one."""
    return LOOP_MISSING


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else min(int(seconds * 1e9), 2**62)


class Loop:
    """A mount of a file system, served until it is unmounted or stopped.

    Args:
        system: answers what is not cached; its open files are those of `system.files`.
        mountpoint: a directory.
        words: for the kernel and libfuse, as behind mount(8)'s -o.
        direct_io: the kernel keeps no pages.
        keep_pages: it keeps them from one open to the next, where `open` says that they are right.
        entry_timeout: seconds for which names are believed, by the kernel and by this loop.
        attr_timeout: the same of attributes.
        timeout: seconds after which a program gets EIO in the place of an answer; None: it waits.
        workers: threads in C; None: as many as there are processors, at least 2 and at most 8.
        parallel_writes: direct writes of one file come side by side, where libfuse and the kernel can.

    Raises:
        OSError: ENOSYS, there is no loop here (`why_no_loop`); EINVAL: not mounted, libfuse has said on stderr why.
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
        workers: int | None = None,
        parallel_writes: bool = True,
    ) -> None:
        if LOOP_MISSING:
            raise OSError(errno.ENOSYS, LOOP_MISSING)
        options = {
            "xattrs": has_xattrs(system),
            "entry_ns": _ns(entry_timeout),
            "attr_ns": _ns(attr_timeout),
            "timeout_ns": _ns(timeout),
            "patience_ns": _ns(PATIENCE),
            "silence_ns": _ns(SILENCE),
            "workers": min(max(os.cpu_count() or 1, 2), 8) if workers is None else workers,
            "direct_io": direct_io,
            "keep_pages": keep_pages,
            "parallel_writes": parallel_writes,
        }
        self._system = system
        self._native = NativeLoop(options, words)
        system.files.kind = LoopFile
        self._answers = Answers(self._native, system, timeout)
        self._lock = threading.Lock()  # guards the number of threads
        self._threads = 0
        self._stopped = False
        try:
            self._native.mount(os.fspath(mountpoint))
            self._native.start()
        except BaseException:
            self.stop()
            raise
        self._more_threads()

    # -- threads

    def _more_threads(self) -> None:
        with self._lock:
            if self._threads == THREADS:
                return
            self._threads += 1
            name = f"pagecache-fuse-{self._threads}"
        threading.Thread(target=self._answer, name=name, daemon=True).start()

    def _answer(self) -> None:
        native, asked = self._native, Asked()
        if not native.enter():
            return
        try:
            while native.next(asked):
                if not asked.idle:  # who comes next need not wait for what this call waits for
                    self._more_threads()
                self._answers.answer(asked)
        finally:
            native.leave(asked)

    # -- the kernel's caches

    def invalidate(self, number: int, offset: int = 0, length: int = 0) -> None:
        """Somebody else has changed a file: the kernel forgets its attributes, and the pages of the range (length 0: to
        the end). Not from within a call of the file system.
        """
        self._notified(self._native.notify_inode(number, offset, length))

    def invalidate_entry(self, parent: int, name: str, number: int | None = None) -> None:
        """A name means something else now, or nothing. `number`: what it meant, and what is gone now."""
        if number is None:
            self._notified(self._native.notify_entry(parent, name))
        else:
            self._notified(self._native.notify_delete(parent, number, name))

    def store(self, number: int, offset: int, data: bytes) -> None:
        """Put bytes into the kernel's pages of a file, before anybody asks for them."""
        self._notified(self._native.notify_store(number, offset, data))

    def notify(self, message: bytes) -> None:
        """Write a message to the kernel that libfuse has no call for.

        Raises:
            OSError: EINVAL, the kernel does not know it.
        """
        self._notified(self._native.notify(message))

    @staticmethod
    def _notified(code: int) -> None:
        if code not in (0, -errno.ENOENT, -errno.ENOTCONN):  # it does not know it, or knows nothing any more
            raise OSError(-code, os.strerror(-code))

    # -- its end

    def ended_fd(self) -> int:
        """Readable once `wait` would return: for polls."""
        return self._native.ended_fd()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the kernel sends nothing any more: it was unmounted, or the connection was cut. False: not yet."""
        poll = select.poll()
        poll.register(self._native.ended_fd(), select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def drain(self, timeout: float) -> bool:
        """Wait until every call of the file system is over, as after an unmount; False: not within this time."""
        return self._native.drain(timeout)

    def stop(self, *, unmount: bool = True) -> None:
        """Serve no more: whatever waits gets EIO. Files that programs had open stay in `system.files`. Idempotent."""
        with self._lock:
            stopped, self._stopped = self._stopped, True
        if stopped:
            return
        self._native.stop(unmount)
        for opened in list(self._system.files.by_number.values()):
            if isinstance(opened, LoopFile):
                opened.native.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        """Stop, and release every file that programs had open."""
        self.stop()
        self._system.files.close()

    # -- what it does

    def counts(self) -> dict[str, int]:
        """Requests so far: reads, writes, getattrs and lookups that were answered without Python; `asked` of Python;
        answers that came late, were refused, were given by the deadline, or to the interrupted; and the size of the
        table of names.
        """
        return self._native.counts()

    def features(self) -> dict[str, int]:
        """What libfuse and the kernel have: see `pagecache mount --features`."""
        return self._native.features()
