"""Into the background, before there is anything that a fork would break: no cache, no thread, no loop.

The parent waits for one message of the child, that it has mounted or why not, and ends with the status that it says.
systemd is told the same things where it asked for them (sd_notify(3)).
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["Started", "detach", "notify", "wait_for_child"]

SYSLOG = "/dev/log"


def notify(*lines: str) -> None:
    """Tell systemd, where this is a service of its that tells."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return
    address = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.sendto("\n".join(lines).encode(), address)
    except OSError:
        pass  # nobody listens: a mount does not fail for that


class Started:
    """What the child tells its parent, once."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def mounted(self) -> None:
        """From here on the child is alone: no terminal, no directory that it keeps busy, errors to the system's log."""
        self._send(0, "")
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        sys.stdout.flush()
        sys.stderr.flush()
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        if os.path.exists(SYSLOG):
            handler = logging.handlers.SysLogHandler(SYSLOG)
            handler.setFormatter(logging.Formatter("pagecache[%(process)d]: %(message)s"))
            logging.getLogger("pagecache").addHandler(handler)

    def failed(self, status: int, why: str) -> None:
        self._send(status, why)

    def _send(self, status: int, text: str) -> None:
        if self._pipe >= 0:
            os.write(self._pipe, pickle.dumps((status, text)))
            os.close(self._pipe)
            self._pipe = -1


def detach() -> Started | None:
    """Fork. Returns in the child with what it has to tell; in the parent None, after which `wait_for_child`."""
    global _answers
    _answers, pipe = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(pipe)
        return None
    os.close(_answers)
    os.setsid()
    return Started(pipe)


_answers = -1


def wait_for_child(complain: Callable[[str], object]) -> NoReturn:
    """End as the child says; it has mounted, or could not."""
    with os.fdopen(_answers, "rb") as answers:
        message = answers.read()
    status, text = pickle.loads(message) if message else (1, "the server ended before it had mounted")
    if text:
        complain(text)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
