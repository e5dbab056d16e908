"""Log lines, which a thread without any lock passes to the handlers of the program.

Handlers may use the cache, and take their time, and lines arise with locks held. So `say` queues a record, and never
waits. The thread starts with the first record, and ends when none is left. If it cannot be started, flushers do its
work.

`_lock` guards the queue; it is held briefly, and a signal handler may come in between.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections import deque

WAITING_MAX = 1000
"""Lines that wait, twice as many from WARNING on; further ones are left out, and a line says how many."""

_lock = threading.RLock()
_queue: deque[tuple[logging.Logger, logging.LogRecord]] = deque()
_left_out = 0
_thread: threading.Thread | None = None


def say(logger: logging.Logger, level: int, message: str, *args: object, caught: bool = False) -> None:
    """Log a line; any locks may be held. `caught`: with the exception that is being handled."""
    global _thread, _left_out
    if not logger.isEnabledFor(level):
        return
    place, error = logger.findCaller(stacklevel=2)[:3], sys.exc_info() if caught else None
    record = logger.makeRecord(logger.name, level, place[0], place[1], message, args, error, place[2])
    with _lock:
        if len(_queue) >= WAITING_MAX * (2 if level >= logging.WARNING else 1):
            _left_out += 1
            return
        _queue.append((logger, record))
        if _thread is not None:
            return
        thread, started = threading.Thread(target=_pass_on, name="pagecache-log", daemon=True), False
        try:
            _thread = thread
            thread.start()
            started = True
        except RuntimeError:  # Python or the system refuses: see `say_left`
            pass
        finally:
            if not started:
                _thread = None


def say_left() -> None:
    """Pass lines on that no thread could be started for; the caller holds no lock."""
    if _queue and _thread is None:
        _pass_on()


def outlast(timeout: float) -> None:
    """Wait until lines so far were passed on; the caller holds no lock."""
    say_left()
    with _lock:
        thread = _thread
    if thread is not None and thread is not threading.current_thread():
        with contextlib.suppress(RuntimeError):  # a signal handler in the thread that is about to start it
            thread.join(timeout)


def _pass_on() -> None:
    global _thread, _left_out
    while True:
        with _lock:
            if not _queue:
                if _thread is threading.current_thread():
                    _thread = None
                return
            logger, record = _queue.popleft()
            left_out, _left_out = _left_out, 0
        try:
            logger.handle(record)
            if left_out:
                logger.warning("%d lines were left out: log handlers are slow", left_out)
        except BaseException:  # SystemExit too: the thread serves all lines
            with _lock:
                _left_out += left_out
            with contextlib.suppress(Exception):
                traceback.print_exc()


def _after_fork() -> None:
    global _lock, _thread, _left_out
    _lock, _thread, _left_out = threading.RLock(), None, 0
    _queue.clear()


os.register_at_fork(after_in_child=_after_fork)
