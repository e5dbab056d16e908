"""A mount that the loop in C serves until it is gone: unmounted, its connection cut, or ended by a signal.

A signal first removes the mount from the file tree. Programs that have files open are served until everything they
wrote is saved.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .loop import Loop, why_no_loop

GRACE = 1.0
"""Seconds that running calls get after the kernel's connection was cut: their replies have no receiver."""
STEP = 0.1
"""Seconds between two looks at whether everything is saved."""
ADVICE = (
    "install libfuse 3.10 or newer and pkg-config (Debian: apt install fuse3 libfuse3-dev pkg-config), then install "
    "pagecache again: pip install . in a checkout of libpagecache"
)
"""How to get a build that can serve mounts."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def why_cannot_serve() -> str:
    """Return the reason why no mount can be served on this machine, or ""."""
    why = why_no_loop()
    return f"{why}; {ADVICE}" if why else ""


def serve(
    loop: Loop,
    signals: tuple[int, list[signal.Signals]],
    hide: Callable[[signal.Signals], object],
    save: Callable[[], object],
) -> None:
    """Serve a mount until it is gone, in the main thread, which only waits for signals and for the end.

    Args:
        loop: of the mount.
        signals: of `caught_signals`.
        hide: takes the mount out of sight at an ending signal; returns soon.
        save: then saves all writes so far; may take long.
    """
    woken, caught = signals
    poll = select.poll()
    poll.register(loop.ended_fd(), select.POLLIN)
    poll.register(woken, select.POLLIN)
    while not loop.wait(0) and not caught:
        poll.poll()
    if caught and not loop.wait(0):
        hide(caught[0])
        _outlast(loop, save)
    loop.drain(GRACE)


def _outlast(loop: Loop, save: Callable[[], object]) -> None:
    """Serve until everything is saved, or no process is left whose data could be."""
    saving = threading.Thread(target=save, daemon=True)
    try:
        saving.start()
    except RuntimeError:  # the system's limit
        save()
    while saving.is_alive() and not loop.wait(STEP):
        pass
    if saving.ident is not None:
        saving.join(GRACE)


@contextlib.contextmanager
def caught_signals() -> Iterator[tuple[int, list[signal.Signals]]]:
    """Keep signals from ending the process; yield a descriptor that is readable after one, and the list of those that
    arrived.
    """
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
