"""Log lines and event texts of a volume, with a rate limit.

A line names the volume, the key, the range, the errno and the next step. Levels: ERROR if a person has to act or data
was lost, WARNING for failures that heal by themselves or whose data is kept, INFO for a change of the volume's state,
DEBUG for single requests. At most LINES lines of a topic go out within WINDOW seconds, so that a backend that fails ten
thousand times writes a few; the others go to DEBUG, and a line at the end of the window has their number.

`_lock` guards the counts; it is held briefly, and a signal handler may come in between.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from ... import loglines
from ..foreign import errno_of, text_of

internal = logging.getLogger("pagecache.internal")

LINES = 5
WINDOW = 10.0

TOPICS = {
    "failed write-back": "writeback",
    "failed commits": "writeback",
    "data that is kept after a failure": "writeback",
    "data that was saved after all": "writeback",
    "commits": "writeback",
    "calls that are owed": "writeback",
    "conflicts": "remote",
    "changes of stored objects": "remote",
    "data that was given up": "loss",
    "calls that hang": "volume",
    "the store": "volume",
    "the volume": "volume",
    "the mirror": "mirror",
    "names that stay in the mirror": "mirror",
    "the journal": "volume",
    "the spool": "volume",
    "recovered bytes": "volume",
    "failed reads": "reading",
    "calls that are made again": "volume",
    "waits, which PageCache.waits() lists,": "volume",
}
"""Topics of lines, with their loggers below `pagecache`."""

_loggers = {name: logging.getLogger(f"pagecache.{name}") for name in {*TOPICS.values()}}


def cause(error: BaseException | None) -> str:
    """Format an error as its errno, by name, and its text."""
    if error is None:
        return "unknown"
    code = errno_of(error)
    return f"{errno.errorcode.get(code, code)} ({text_of(error)})"


def fault(message: str, *args: object) -> None:
    """Log the internal error that is being handled. Never raises."""
    try:
        loglines.say(internal, logging.ERROR, message, *args, caught=True)
    except Exception:
        with contextlib.suppress(Exception):
            traceback.print_exc()


def spans(ranges: Sequence[tuple[int, int]]) -> str:
    """Format (offset, length) pairs, abbreviated if there are many."""
    shown = ", ".join(f"[{pos}, {pos + length})" for pos, length in ranges[:3])
    if len(ranges) <= 3:
        return shown or "nothing that is bytes"
    return f"{shown} and {len(ranges) - 3} more ranges, {sum(n for _, n in ranges)} bytes in all"


@dataclass(slots=True)
class _Topic:
    began: float
    level: int
    lines: int = 0
    left_out: int = 0


class Notices:
    """The lines of one volume."""

    def __init__(self, volume: str) -> None:
        self._volume = volume
        self._lock = threading.RLock()
        self._topics: dict[str, _Topic] = {}

    def say(self, level: int, topic: str, line: str, now: float) -> None:
        logger = _loggers[TOPICS[topic]]
        if level > logging.DEBUG and self._leave_out(level, topic, now):
            level = logging.DEBUG
        loglines.say(logger, level, "%s: %s", self._volume, line)

    def _leave_out(self, level: int, topic: str, now: float) -> bool:
        self.check(now)
        with self._lock:
            known = self._topics.setdefault(topic, _Topic(now, level))
            known.level = max(known.level, level)
            known.lines += 1
            known.left_out += known.lines > LINES
            return known.lines > LINES

    def check(self, now: float) -> float:
        """Log the number of suppressed lines of ended windows; return the seconds until the next check."""
        with self._lock:
            over = [(topic, known) for topic, known in self._topics.items() if known.began + WINDOW <= now]
            for topic, _ in over:
                del self._topics[topic]
            left = min((known.began + WINDOW - now for known in self._topics.values()), default=WINDOW)
        for topic, known in over:
            if known.left_out:
                what = "%s: %d more lines about %s were left out in %.3g s"
                logger = _loggers[TOPICS[topic]]
                loglines.say(logger, known.level, what, self._volume, known.left_out, topic, now - known.began)
        return left
