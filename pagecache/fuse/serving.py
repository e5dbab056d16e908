"""The loops of a mount: the loop in C, or pyfuse3's on trio. Both call one `Server`.

    c        serves reads, writes, names and attributes in the cache without Python (loop.py)
    pyfuse3  one Python loop, and threads for waiting calls (trioloop.py): if the loop in C was not built

Both serve until the mount is gone: unmounted, its connection cut, or ended by a signal. In the last case it is first
taken out of sight, and programs with open files are served until their writes are saved.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from ..distribution import needs
from .loop import Loop, why_no_loop
from .options import MountOptions
from .server import Server

__all__ = ["GRACE", "SIGNALS", "CLoop", "Ending", "Serving", "keep_signals", "serving_of", "why_cannot_serve"]

GRACE = 1.0
"""Seconds that running calls get after the kernel's connection was cut: their replies have no receiver."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Ending:
    """The actions of a mount at an ending signal.

    Attributes:
        hide: takes it out of sight; returns soon.
        save: saves all writes so far; may take long.
    """

    hide: Callable[[signal.Signals], object]
    save: Callable[[], object]


class Serving(Protocol):
    """One mount of this process."""

    def mount(self) -> None:
        """Raises:
        OSError, RuntimeError, UnicodeError: it could not be mounted; libfuse has printed the reason on stderr.
        """
        ...

    def serve(self, mounted: Callable[[], object], ending: Ending) -> None:
        """Serve until the end; in the main thread."""
        ...

    def invalidate(self, number: int) -> None:
        """Drop the kernel's pages and attributes of a node. From any thread but those that serve."""
        ...

    def notify(self, message: bytes) -> None:
        """Write a message to the kernel. From any thread but those that serve.

        Raises:
            OSError: EINVAL: the kernel does not support it.
        """
        ...

    def close(self, *, unmount: bool) -> None: ...


def why_cannot_serve(loop: str) -> str:
    """Return why a mount cannot be served by this loop, or by any ("auto"); "": it can."""
    missing = "" if find_spec("pyfuse3") else needs("there is no pyfuse3 (its build needs libfuse3)", "fuse")
    if loop == "c":
        return why_no_loop()
    return missing if loop == "pyfuse3" or why_no_loop() else ""


def serving_of(options: MountOptions, server: Server, words: set[str]) -> Serving:
    """Return the requested loop; for "auto" that in C, if it was built."""
    if options.loop == "c" or (options.loop == "auto" and not why_no_loop()):
        return CLoop(options, server, words)
    from .trioloop import TrioLoop

    return TrioLoop(options, server, words)


class CLoop:
    """The loop in C. The main thread only waits for signals and for the end."""

    def __init__(self, options: MountOptions, server: Server, words: set[str]) -> None:
        self._options, self._server, self._words = options, server, words
        self.loop: Loop | None = None

    def mount(self) -> None:
        options = self._options
        self.loop = Loop(
            self._server,
            options.mountpoint,
            words=",".join(sorted(self._words)),
            direct_io=options.direct_io,
            keep_pages=options.kernel_cache,
            entry_timeout=options.entry_timeout,
            attr_timeout=options.attr_timeout,
            timeout=options.timeout,
        )

    def serve(self, mounted: Callable[[], object], ending: Ending) -> None:
        assert self.loop is not None
        with _signals() as (woken, caught):
            mounted()
            poll = select.poll()
            poll.register(self.loop.ended_fd(), select.POLLIN)
            poll.register(woken, select.POLLIN)
            while not self.loop.wait(0) and not caught:
                poll.poll()
            if caught and not self.loop.wait(0):
                ending.hide(caught[0])
                self._outlast(ending.save)
        self.loop.drain(GRACE)

    def _outlast(self, save: Callable[[], object]) -> None:
        """Serve until everything is saved, or no process is left whose data could be."""
        assert self.loop is not None
        ours, theirs = socket.socketpair()
        with ours:

            def run() -> None:
                with theirs:
                    save()

            threading.Thread(target=run, daemon=True).start()
            poll = select.poll()
            poll.register(self.loop.ended_fd(), select.POLLIN)
            poll.register(ours, select.POLLIN)
            poll.poll()
            if self.loop.wait(0):
                poll.unregister(self.loop.ended_fd())
                poll.poll(GRACE * 1000)

    def invalidate(self, number: int) -> None:
        assert self.loop is not None
        self.loop.invalidate(number)

    def notify(self, message: bytes) -> None:
        assert self.loop is not None
        self.loop.notify(message)

    def close(self, *, unmount: bool) -> None:
        if self.loop is not None:
            self.loop.stop(unmount=unmount)


@contextlib.contextmanager
def keep_signals() -> Iterator[list[int]]:
    """Keep signals from ending the process before or after it serves; the list collects those that arrive: saving is
    completed.
    """
    came: list[int] = []
    before: dict[signal.Signals, Any] = {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, lambda got, _: came.append(got))
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[int, list[signal.Signals]]]:
    """Yield a descriptor that is readable once a signal has arrived, and the list of signals."""
    caught: list[signal.Signals] = []
    woken, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before: dict[signal.Signals, Any] = {}
    old = signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, lambda got, _: caught.append(signal.Signals(got)))
        yield woken, caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old)
        os.close(woken)
        os.close(wakes)
