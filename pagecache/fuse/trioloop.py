"""A mount that pyfuse3 serves on trio: requests of the kernel on one loop, its end by an unmount or a signal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pyfuse3
import trio

from .binding import KernelCaching, Operations
from .options import MountOptions
from .server import Server
from .serving import GRACE, SIGNALS, Ending
from .tasks import Aside

__all__ = ["TrioLoop"]

TASKS = 2000
"""Concurrent requests. A hanging request is one of them, and cached data must be served beside them."""


class TrioLoop:
    """The one mount of this process, by pyfuse3."""

    def __init__(self, options: MountOptions, server: Server, words: set[str]) -> None:
        caching = KernelCaching(
            direct_io=options.direct_io,
            keep_pages=options.kernel_cache,
            entry_timeout=options.entry_timeout,
            attr_timeout=options.attr_timeout,
        )
        self._mountpoint, self._words = options.mountpoint, words
        self._operations = Operations(server, Aside(options.timeout), caching)
        self._mounted = False

    def mount(self) -> None:
        before = _fuse_descriptors()
        pyfuse3.init(self._operations, self._mountpoint, self._words)
        self._mounted = True
        self._connection = next(iter(_fuse_descriptors() - before))

    def serve(self, mounted: Callable[[], object], ending: Ending) -> None:
        trio.run(self._serve, mounted, ending)

    async def _serve(self, mounted: Callable[[], object], ending: Ending) -> None:
        cut = trio.Event()
        token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._watch, args=(partial(token.run_sync_soon, cut.set),), daemon=True).start()
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(*SIGNALS) as signals:
                nursery.start_soon(self._end_when_cut, cut, nursery.cancel_scope)
                nursery.start_soon(self._end_on_signal, signals, ending, nursery.cancel_scope)
                mounted()
                await pyfuse3.main(min_tasks=4, max_tasks=TASKS)
                nursery.cancel_scope.cancel()

    def _watch(self, cut: Callable[[], object]) -> None:
        """Wait until the kernel has cut the connection: an unmount, umount -f."""
        poll = select.poll()
        poll.register(self._connection, 0)
        try:
            while not poll.poll():
                pass
            cut()
        except (OSError, trio.RunFinishedError):
            pass  # the session is over

    async def _end_when_cut(self, cut: trio.Event, scope: trio.CancelScope) -> None:
        await cut.wait()
        await trio.sleep(GRACE)
        scope.cancel()

    async def _end_on_signal(self, signals: Any, ending: Ending, scope: trio.CancelScope) -> None:
        async for number in signals:
            await trio.to_thread.run_sync(ending.hide, signal.Signals(number))
            await trio.to_thread.run_sync(ending.save, abandon_on_cancel=True)
            scope.cancel()
            return

    def invalidate(self, number: int) -> None:
        with contextlib.suppress(OSError):  # the kernel has dropped it already
            pyfuse3.invalidate_inode(number)

    def notify(self, message: bytes) -> None:
        os.write(self._connection, message)

    def close(self, *, unmount: bool) -> None:
        if self._mounted:
            with contextlib.suppress(Exception):
                pyfuse3.close(unmount=unmount)


def _fuse_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
    return found
