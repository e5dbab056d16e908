"""Run in the background: fork before there is any cache, thread or loop that a fork would break.

The parent waits for one message of the child, mounted or the reason why not, and exits with the status in it. systemd
gets these messages too if it asked for them (sd_notify(3)).
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import socket
import sys
from collections.abc import Callable

SYSLOG = "/dev/log"


def notify(*lines: str) -> None:
    """Notify systemd, if this process is a service of type notify."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return
    address = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.sendto("\n".join(lines).encode(), address)
    except OSError:
        pass  # no listener: that must not fail the mount


class Started:
    """The one message of the child to its parent."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def mounted(self) -> None:
        """Report the mount, and detach the child: no terminal, no busy directory, errors to the system's log."""
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


def detach(complain: Callable[[str], object]) -> Started:
    """Fork. Return the messenger in the child; the parent exits with its status, once it has mounted or failed."""
    answers, pipe = os.pipe2(os.O_CLOEXEC)
    if not os.fork():
        os.close(answers)
        os.setsid()
        return Started(pipe)
    os.close(pipe)
    with os.fdopen(answers, "rb") as file:
        message = file.read()
    status, text = pickle.loads(message) if message else (1, "the server ended before it had mounted")
    if text:
        complain(text)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
