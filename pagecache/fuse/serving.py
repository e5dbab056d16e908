"""What carries the requests of a mount: the loop in C, or pyfuse3's on trio. Both ask the same `Server`.

    c        reads, writes, names and attributes that are known are answered without Python (loop.py)
    pyfuse3  one loop of Python's, and threads for what waits (trioloop.py): where the loop in C was not built

Both serve until the mount is gone: unmounted, its connection cut, or ended by a signal. Then it is first taken out of
sight, and who has files open is served until what they wrote is saved.
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
"""Seconds that running calls have after the kernel's connection was cut: nobody waits for their answers."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Ending:
    """What a mount does when a signal ends it.

    Attributes:
        hide: take it out of sight; returns soon.
        save: what its programs have written so far; may take long.
    """

    hide: Callable[[signal.Signals], object]
    save: Callable[[], object]


class Serving(Protocol):
    """One mount of this process."""

    def mount(self) -> None:
        """Raises:
        OSError, RuntimeError, UnicodeError: it could not be mounted; libfuse has said why on stderr.
        """
        ...

    def serve(self, mounted: Callable[[], object], ending: Ending) -> None:
        """Until it is over; in the main thread."""
        ...

    def invalidate(self, number: int) -> None:
        """The kernel's pages and attributes of a node are wrong. From any thread but those that serve."""
        ...

    def notify(self, message: bytes) -> None:
        """Write a message to the kernel. From any thread but those that serve.

        Raises:
            OSError: EINVAL, the kernel does not know it.
        """
        ...

    def close(self, *, unmount: bool) -> None: ...


def why_cannot_serve(loop: str) -> str:
    """Why a mount cannot be served by this loop, or by any ("auto"); empty: it can."""
    missing = "" if find_spec("pyfuse3") else needs("there is no pyfuse3 (its build needs libfuse3)", "fuse")
    if loop == "c":
        return why_no_loop()
    return missing if loop == "pyfuse3" or why_no_loop() else ""


def serving_of(options: MountOptions, server: Server, words: set[str]) -> Serving:
    """By the loop that is asked for; by that in C, where it was built."""
    if options.loop == "c" or (options.loop == "auto" and not why_no_loop()):
        return CLoop(options, server, words)
    from .trioloop import TrioLoop

    return TrioLoop(options, server, words)


class CLoop:
    """By the loop in C. The main thread has nothing to do but to hear of signals and of the end."""

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
        """Until everything is saved, or nobody is there any more whose data could be."""
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
    """No signal ends the process before or after it serves; the list has those that came: saving goes on to its end."""
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
    """A descriptor that is readable once a signal has come, and those that came."""
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
