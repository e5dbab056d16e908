"""A mount that the loop in C serves until it is gone: unmounted, its connection cut, or ended by a signal.

A signal first removes the mount from the file tree. Programs that have files open are served until everything they
wrote is saved.
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
from typing import Any

from .loop import Loop, why_no_loop
from .options import MountOptions
from .server import Server

__all__ = ["GRACE", "SIGNALS", "Ending", "Serving", "keep_signals", "why_cannot_serve"]

GRACE = 1.0
"""Seconds that running calls get after the kernel's connection was cut: their replies have no receiver."""
ADVICE = (
    "install libfuse 3.10 or newer and pkg-config (Debian: apt install fuse3 libfuse3-dev pkg-config), then install "
    "pagecache again: pip install . in a checkout of libpagecache"
)
"""How to get a build that can serve mounts."""
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


def why_cannot_serve() -> str:
    """Return the reason why no mount can be served on this machine, or ""."""
    why = why_no_loop()
    return f"{why}; {ADVICE}" if why else ""


class Serving:
    """One mount of this process. The main thread only waits for signals and for the end."""

    def __init__(self, options: MountOptions, server: Server, words: set[str]) -> None:
        self._options, self._server, self._words = options, server, words
        self.loop: Loop | None = None

    def mount(self) -> None:
        """Mount and begin to serve.

        Raises:
            OSError: It could not be mounted; libfuse has printed the reason on stderr.
        """
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
            acls=options.allow_other,
        )

    def serve(self, mounted: Callable[[], object], ending: Ending) -> None:
        """Serve until the mount is gone; in the main thread."""
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
        """Drop the kernel's pages and attributes of a node. From any thread except those that serve."""
        assert self.loop is not None
        self.loop.invalidate(number)

    def notify(self, message: bytes) -> None:
        """Write a message to the kernel. From any thread except those that serve.

        Raises:
            OSError: EINVAL, the kernel has no such message.
        """
        assert self.loop is not None
        self.loop.notify(message)

    def close(self, *, unmount: bool) -> None:
        """Stop serving."""
        if self.loop is not None:
            self.loop.stop(unmount=unmount)


@contextlib.contextmanager
def keep_signals() -> Iterator[list[int]]:
    """Keep signals from ending the process before and after it serves; yield the list of those that arrived."""
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
    """Yield a descriptor that is readable after a signal, and the list of signals that arrived."""
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
