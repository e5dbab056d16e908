"""The syncs of several caches under one deadline: begun and asked for in one loop, with a line now and then.

A cache that does not answer delays the questions to the others, and not their syncs.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pagecache.cli.usage import WrongUsage
from pagecache.observe.client import LiveError, ask, live_error
from pagecache.quantities import duration_text, printable, range_text, size_text

ANSWER_TIMEOUT_S = 5.0
"""The time for one answer: the cache makes it from memory."""
LAST_TIMEOUT_S = 1.0
"""The time for an answer after the deadline."""
INTERVAL_S = 0.2
"""The time between two questions."""
LINE_INTERVAL_S = 5.0

Document = dict[str, Any]
UNKNOWN: Document = {"total": 0, "remaining": 0, "rate": 0.0, "expected": None, "seconds": 0.0, "done": False}
RECOVERED: Document = {"files": 0, "bytes": 0}

UNSAVED = ("volume", "key", "offset", "length", "errno", "message")


@dataclass(slots=True)
class Outcome:
    """The state of one cache.

    Attributes:
        socket: As the user gave it.
        sync: The last answer of `/v1/sync`.
        unknown: The reason, as a sentence, why the state can no longer be known; "" while it can.
        unsaved: The failed ranges, when the sync is over or given up: volume, key, offset, length, errno, message, and
            the next automatic step. The key None: it concerns the volume as a whole.
    """

    socket: str
    name: str = ""
    pid: int | None = None
    sync: Document = field(default_factory=lambda: {**UNKNOWN, "recovered": RECOVERED, "errors": []})
    unknown: str = ""
    unsaved: list[Document] = field(default_factory=list)

    @property
    def saved(self) -> bool:
        """Return whether everything written before the sync is committed."""
        return self.sync["done"] and not (self.sync["errors"] or self.unknown or self.sync["recovered"]["files"])

    def as_dict(self) -> Document:
        """Return the entry of `--json`."""
        known = {"socket": printable(self.socket), "name": self.name, "pid": self.pid, "unsaved": self.unsaved}
        progress = {name: self.sync[name] for name in (*UNKNOWN, "recovered")}
        return known | progress | {"saved": self.saved, "unknown": self.unknown or None}


def drain(
    sockets: Sequence[str], volume: str | None, deadline: float | None, show: Callable[[str], object]
) -> list[Outcome]:
    """Have everything saved that was written so far; return the outcomes in the order of the sockets.

    Args:
        sockets: Paths of `PageCache.serve_stats`.
        volume: Only this one; None: all.
        deadline: Seconds after which the waiting ends; the syncs go on.
        show: Is called with a line of progress for each running sync, now and then.

    Raises:
        WrongUsage: A socket is unusable; then no sync was begun anywhere.
    """
    outcomes = [Outcome(socket) for socket in sockets]
    begun = running = [outcome for outcome in outcomes if _answers(outcome, volume)]
    until = float("inf") if deadline is None else time.monotonic() + deadline
    line_at = time.monotonic() + LINE_INTERVAL_S
    while True:
        for outcome in running:
            left = until - time.monotonic()
            _update(outcome, volume, min(ANSWER_TIMEOUT_S, max(LAST_TIMEOUT_S, left)))
        running = [outcome for outcome in running if not (outcome.sync["done"] or outcome.unknown)]
        now = time.monotonic()
        if not running or now >= until:
            break
        if now >= line_at:
            line_at = now + LINE_INTERVAL_S
            for outcome in running:
                if outcome.sync["total"]:  # 0: not known yet
                    show(f"{_name(outcome)}: {_progress(outcome.sync)}")
        time.sleep(min(INTERVAL_S, until - now))
    for outcome in begun:
        if not outcome.unknown:
            _note_unsaved(outcome, volume)
    return outcomes


def _answers(outcome: Outcome, volume: str | None) -> bool:
    """Check the cache and the volume before any sync begins; return whether it answers."""
    try:
        stats = ask(outcome.socket, "/v1/stats", timeout=ANSWER_TIMEOUT_S)
        outcome.name, outcome.pid = stats["cache"]["name"], stats["pid"]
        names = [one["name"] for one in stats["volumes"]]
    except LiveError as error:
        if error.kind != "TooSlow":
            raise WrongUsage(printable(str(error))) from None
        outcome.unknown = f"{printable(str(error))}; nothing was begun there"
        return False
    except (KeyError, TypeError) as error:
        raise WrongUsage(printable(str(live_error(outcome.socket, error)))) from None
    if volume is not None and volume not in names:
        there = ", ".join(map(repr, names)) or "none"
        raise WrongUsage(f"--volume {volume!r}: {printable(outcome.socket)} has no such volume (there: {there})")
    return True


def _update(outcome: Outcome, volume: str | None, timeout: float) -> None:
    """Begin the sync, or take the next answer about it. A stopped process may go on: it is asked again, and to begin a
    sync again does no harm.
    """
    try:
        if (number := outcome.sync.get("ticket")) is None:
            sync = ask(outcome.socket, "/v1/sync", method="POST", timeout=timeout, volume=volume)
        else:
            sync = ask(outcome.socket, f"/v1/sync/{number}", timeout=timeout)
        if missing := {*UNKNOWN, "ticket", "errors"} - sync.keys():
            raise live_error(outcome.socket, KeyError(*missing))
        outcome.sync = {"recovered": RECOVERED} | sync  # of an earlier version, which does not count them
    except LiveError as error:
        if error.kind != "TooSlow":
            outcome.unknown = f"{printable(str(error))}; it is not known what was saved"


def _note_unsaved(outcome: Outcome, volume: str | None) -> None:
    """Note each unsaved range with its next step."""
    found: list[Document] = []
    for error in outcome.sync["errors"]:
        whole = {"key": None, "offset": 0, "length": 0, "errno": 0, "message": error["message"]}
        found += [{**one, "volume": error["volume"]} for one in error["ranges"] or [whole]]
    if not outcome.sync["done"]:
        # Ranges that are still retried are not yet errors of the sync; they are the reason why it lasts.
        with suppress(LiveError):
            found += ask(outcome.socket, "/v1/failed", timeout=LAST_TIMEOUT_S, volume=volume)["failed"]
    each = {(one["volume"], one["key"] or number, one["offset"]): one for number, one in enumerate(found)}
    outcome.unsaved = [{name: one[name] for name in UNSAVED} | {"next": _next(one)} for one in each.values()]


def _next(entry: Document) -> str:
    if "next_retry" not in entry:
        return "" if entry["key"] is None else "kept, and written back as usual"
    seconds = entry["next_retry"]
    return "kept, and tried again when asked" if seconds is None else f"tried again in {duration_text(seconds)}"


# -- outcomes as text


def _name(outcome: Outcome) -> str:
    """Return the name of a cache and its process."""
    name = printable(outcome.name or outcome.socket)
    return name if outcome.pid is None else f"{name} (process {outcome.pid})"


def _progress(sync: Document) -> str:
    parts = [f"{size_text(sync['remaining'])} of {size_text(sync['total'])} left"]
    if sync["rate"]:
        parts.append(f"{size_text(sync['rate'])}/s")
    if sync["expected"] is not None:
        parts.append(f"about {duration_text(sync['expected'])}")
    if sync["errors"]:
        parts.append(f"{len(sync['errors'])} failed")
    return ", ".join(parts)


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the result: a line for each cache and each unsaved range."""
    for outcome in outcomes:
        yield f"{_name(outcome)}: {_verdict(outcome)}"
        for unsaved in outcome.unsaved:
            yield f"  {_unsaved(unsaved)}"


def _verdict(outcome: Outcome) -> str:
    remaining, total = size_text(outcome.sync["remaining"]), size_text(outcome.sync["total"])
    if outcome.saved:
        total = f"{total} " if outcome.sync["total"] else ""  # nothing, or recovered bytes, which it has not
        return f"saved: all that was written before, {total}in {duration_text(outcome.sync['seconds'])}"
    if outcome.unknown:
        seen = f"; the last that was seen is {remaining} of {total} left" if outcome.sync["total"] else ""
        return f"NOT KNOWN: {outcome.unknown}{seen}"
    files, size = outcome.sync["recovered"]["files"], size_text(outcome.sync["recovered"]["bytes"])
    left = f"{files} files, {size}, that an earlier process left, only in the disk tier" if files else ""
    if outcome.sync["done"]:
        kept = f"{remaining} of {total}, kept in memory by its process" if outcome.sync["remaining"] else ""
        return f"NOT SAVED: {' and '.join(filter(None, (kept, left))) or 'not everything is committed'}"
    left = left and f", and {left}"
    return f"NOT SAVED YET: {remaining} of {total} left at the deadline{left}; what was begun goes on"


def _unsaved(entry: Document) -> str:
    volume, message = printable(entry["volume"]), printable(entry["message"])
    if entry["key"] is None:
        return f"{volume}: {message}"
    code = errno.errorcode.get(entry["errno"], str(entry["errno"]))
    where = f"{entry['key']!r} {range_text(entry['offset'], entry['length'])}"
    return f"{volume}: {where}: {code}: {message}; {entry['next']}"
