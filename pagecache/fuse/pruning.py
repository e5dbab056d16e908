"""Memory of names: ask the kernel to forget unused nodes.

A node lives until the kernel forgets it, and the kernel forgets only when its own memory is short. So beyond
`NAMES_MAX` nodes it is asked to forget idle ones (FUSE_NOTIFY_PRUNE, Linux 6.18). That request takes no directory lock,
so no other request can block it. An older kernel refuses; it alone then decides the number of nodes.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
from collections.abc import Callable, Sequence

from .nodes import Nodes

log = logging.getLogger("pagecache.fuse")

NOTIFY_PRUNE = 9
BATCH = 512
"""Nodes in one message."""
REFUSED = {errno.EINVAL, errno.ENOSYS}


class Pruning:
    """A thread that keeps the table of nodes small, from `__init__` to `stop`.

    Args:
        nodes: the table.
        notify: sends a message to the kernel; raises OSError: EINVAL: the kernel does not support it.
    """

    def __init__(self, nodes: Nodes, notify: Callable[[bytes], object]) -> None:
        self._nodes, self._notify = nodes, notify
        self._stopped = False
        self._refused = False
        self._thread = threading.Thread(target=self._run, name="pagecache-fuse-names", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more. Idempotent."""
        self._stopped = True
        self._nodes.keeper.set()
        self._thread.join()

    def _run(self) -> None:
        while self._nodes.keeper.wait() and not self._stopped and not self._refused:
            self._nodes.keeper.clear()
            self._prune(self._nodes.idle())

    def _prune(self, numbers: Sequence[int]) -> None:
        for begin in range(0, len(numbers), BATCH):
            if self._stopped:
                return
            nodes = numbers[begin : begin + BATCH]
            body = struct.pack(f"<IIQ{len(nodes)}Q", len(nodes), 0, 0, *nodes)
            try:
                self._notify(struct.pack("<IiQ", 16 + len(body), NOTIFY_PRUNE, 0) + body)
            except OSError as error:
                self._refused = error.errno in REFUSED
                log.debug("the kernel did not forget names: %s", os.strerror(error.errno or 0))
                return
